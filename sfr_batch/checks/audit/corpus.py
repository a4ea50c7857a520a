"""The corpus that a table is compared with: its current shards and every row of them."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow as pa

from sfr_batch.checks.audit.contents import Contents
from sfr_batch.checks.audit.id_records import (
    IdRecords,
    IntArray,
    RecordKind,
    contents_of,
    locate,
    make_records,
    places_of,
)
from sfr_batch.checks.audit.promises import PromiseCheck
from sfr_batch.checks.audit.report import SHARDS, Finding
from sfr_batch.checks.audit.work import Work
from sfr_batch.corpus.reader import read_unit
from sfr_batch.corpus.rows import Rows
from sfr_batch.corpus.shards import Shard
from sfr_batch.corpus.splits import ReadUnit, cut
from sfr_batch.corpus.survey import survey_shards
from sfr_batch.errors import counted
from sfr_batch.format import names
from sfr_batch.format.fingerprint import mismatches
from sfr_batch.format.hashes import halves, hash_ids
from sfr_batch.format.order_values import comparable_values
from sfr_batch.format.records import KEPT, ShardRecord
from sfr_batch.planning.plan import EmbedPlan
from sfr_batch.planning.shard_diff import carry_over

_ROWS, _BYTES = 8192, 32 * 2**20
"""Approximate number of rows and of bytes of text in memory at a time."""


@dataclass(frozen=True)
class CorpusRows:
    """The rows of a corpus, all read once. starts: [units + 1] number of the first row of each of ``units``.

    order: [rows] the values of the column to order by, null for rejected rows; None if there is none.
    """

    plan: EmbedPlan
    units: Sequence[ReadUnit]
    starts: IntArray
    order: pa.ChunkedArray | None = None

    @property
    def rows(self) -> int:
        return int(self.starts[-1])

    def values(self, rows: IntArray) -> pa.ChunkedArray:
        """[n] the values to order by, of rows by their numbers."""
        assert self.order is not None
        return self.order.take(pa.array(rows))

    def place(self, number: int) -> tuple[str, bytes | None]:
        """The shard and position of a row by its number, and its content hash unless it is rejected; reads its unit
        again."""
        at, row = locate(self.starts, number)
        unit = self.units[at]
        for rows in _read(unit, self.plan):
            if row < rows.read:
                return _place(unit, rows, row), rows.content_hash[row].as_py() if row < len(rows.texts) else None
            row -= rows.read
        return f"a row of {unit.shard.uri}", None  # the shard changes during the audit


def check_shards(plan: EmbedPlan, shards: Sequence[Shard], contents: Contents, inputs: Mapping[str, Any]) -> Finding:
    """Whether the snapshot covers the shards as they are now. inputs: of the fingerprint, that the table knows."""
    promise = PromiseCheck(SHARDS)
    for line in mismatches(inputs, plan.inputs):
        promise.wrong(line)
    recipes, generation = plan.recipes, plan.config.table.generation
    rules = contents.snapshot.manifest.duplicate_rule, plan.duplicate_rule
    if rules[0] != rules[1]:
        has, wanted = (str(rule or "first") for rule in rules)
        promise.wrong(f"the table keeps the {has} row of an id, the config asks for the {wanted}")
    covered = {record.uri: record for record in contents.shards}
    for shard in carry_over(contents.snapshot, shards, recipes.of, generation, by_ctime=False)[1]:
        record = covered.get(shard.uri)
        if record is None:
            promise.wrong(f"{shard.uri} is new")
        elif record.version != shard.version:
            promise.wrong(f"{shard.uri} has changed")
        elif (since := _read_otherwise(plan, shard, record)) is not None:
            if since:
                promise.wrong(f"{shard.uri} was read by an older release; since then {'; '.join(since)}")
        elif record.recipe != recipes.of(shard):
            promise.wrong(f"{shard.uri} was read with other corpus settings")
        else:
            promise.wrong(f"{shard.uri} has the generation {record.generation!r}, the config {generation!r}")
    for uri in sorted(covered.keys() - {KEPT} - {shard.uri for shard in shards}):
        promise.wrong(f"{uri} is no longer in the corpus")
    return promise.finding(counted(len(shards), "shard"), "the table covers their current versions")


def _read_otherwise(plan: EmbedPlan, shard: Shard, record: ShardRecord) -> list[str] | None:
    """See `ShardRecipes.changes_since`; opens the shard if its columns may show that nothing is."""
    if not plan.recipes.changes_since(shard, record.recipe):
        return None
    return plan.recipes.changes_since(shard, record.recipe, survey_shards([shard], plan.config.corpus)[0].schema)


def read_corpus(plan: EmbedPlan, shards: Sequence[Shard], work: Work) -> CorpusRows:
    """Read every row of the shards; a record of each is added to ``work``. Raises CorpusError."""
    units: list[ReadUnit] = []
    starts = [0]
    order: list[pa.Array] = []
    column = plan.duplicate_rule.order_by if plan.duplicate_rule else None
    for unit in _units(plan, shards):
        start = starts[-1]
        for rows in _read(unit, plan):
            for records in _records(rows, start):
                work.add(records)
            start += rows.read
            if column:
                own = comparable_values(rows.carry.column(column), plan.columns.carry[column].type)
                order += [own, pa.nulls(rows.read - len(own), own.type)]
        units.append(unit)
        starts.append(start)
    return CorpusRows(plan, units, np.array(starts, np.int64), pa.chunked_array(order) if order else None)


def _units(plan: EmbedPlan, shards: Sequence[Shard]) -> Iterator[ReadUnit]:
    for shard in shards:
        survey = survey_shards([shard], plan.config.corpus)[0]
        yield from cut(survey, _ROWS, _BYTES, ("audit",), frozenset())


def _read(unit: ReadUnit, plan: EmbedPlan) -> Iterator[Rows]:
    return (rows for _, rows in read_unit(unit, plan.config.corpus, plan.columns))


def _records(rows: Rows, start: int) -> Iterator[IdRecords]:
    """Records of the good rows, and of those that are rejected. start: number of the first of them."""
    good, numbers = len(rows.texts), np.arange(start, start + rows.read)
    found = make_records(halves(hash_ids(rows.ids.to_pylist())), RecordKind.IN_CORPUS, numbers[:good])
    found["content"] = contents_of(halves(rows.content_hash), halves(rows.row_hash))
    yield found
    places = halves(hash_ids(places_of(rows.rejects)))
    yield make_records(places, RecordKind.BAD_IN_CORPUS, numbers[good:])


def _place(unit: ReadUnit, rows: Rows, row: int) -> str:
    good = len(rows.texts)
    if row < good:
        return f"position {rows.positions[row]} of {unit.shard.uri} (id {rows.ids[row].as_py()!r})"
    return f"position {rows.rejects.column(names.POSITION)[row - good]} of {unit.shard.uri}"
