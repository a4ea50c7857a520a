"""The corpus that a table is compared with: its current shards and every row of them."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
import pyarrow as pa

from sfr_batch.checks.audit.contents import Contents
from sfr_batch.checks.audit.id_records import (
    ROWS_A_FILE,
    IdRecords,
    IntArray,
    RecordKind,
    contents_of,
    make_records,
    places_of,
)
from sfr_batch.checks.audit.promises import PromiseCheck
from sfr_batch.checks.audit.report import SHARDS, Finding
from sfr_batch.checks.audit.work import Work
from sfr_batch.config.settings import CorpusSettings
from sfr_batch.corpus.columns import Columns
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
"""Approximate number of rows and of bytes of text that are read at a time."""
_AHEAD = 2
"""Units in memory at a time, in this process."""
_ROWS_AT_ONCE = 2**20
"""Expected rows of a unit whose records are handed on together. A stream may have more, and is read in this process."""


class CorpusColumns(NamedTuple):
    """How the rows of the corpus are read. order_by: the column to order rows of one id by; None if there is none."""

    corpus: CorpusSettings
    columns: Columns
    order_by: str | None


@dataclass(frozen=True)
class CorpusRows:
    """The rows of a corpus, all read once. A row has the number unit x `ROWS_A_FILE` + its number in its unit.

    starts: [units + 1] how many rows are before each of the ``units``. order: [rows] the values of the column to order
    by, null for rejected rows; None if there is none.
    """

    read: CorpusColumns
    units: Sequence[ReadUnit]
    starts: IntArray
    order: pa.ChunkedArray | None = None

    @property
    def rows(self) -> int:
        return int(self.starts[-1])

    def values(self, rows: IntArray) -> pa.ChunkedArray:
        """[n] the values to order by, of rows by their numbers."""
        assert self.order is not None
        return self.order.take(pa.array(self.starts[rows // ROWS_A_FILE] + rows % ROWS_A_FILE))

    def place(self, number: int) -> tuple[str, bytes | None]:
        """The shard and position of a row by its number, and its content hash unless it is rejected; reads its unit
        again."""
        at, row = divmod(number, ROWS_A_FILE)
        unit = self.units[at]
        for rows in _read(unit, self.read):
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
    """Read every row of the shards; a record of each goes to the partitions of ``work``. Raises CorpusError."""
    rule = plan.duplicate_rule
    read = CorpusColumns(plan.config.corpus, plan.columns, rule.order_by if rule else None)
    surveys = survey_shards(shards, plan.config.corpus)
    units = [unit for survey in surveys for unit in cut(survey, _ROWS, _BYTES, ("audit",), frozenset())]
    expected = [unit.stream.rows if unit.stream else sum(split.rows for split in unit.splits) for unit in units]
    numbered, found = list(enumerate(units)), {}
    small = [unit for unit, rows in zip(numbered, expected, strict=True) if rows <= _ROWS_AT_ONCE]
    some = [rows for rows in expected if rows <= _ROWS_AT_ONCE]
    for (number, _), seen in zip(small, work.each(_look_at, read, small, some, _AHEAD), strict=True):
        found[number] = seen
    for number, unit in numbered:
        if number not in found:
            found[number] = _look_through(read, number, unit, work.add)
    of_units = [found[number] for number, _ in numbered]
    starts = np.cumsum([0, *(seen.rows for seen in of_units)], dtype=np.int64)
    order = [values for seen in of_units for values in seen.order]
    return CorpusRows(read, units, starts, pa.chunked_array(order) if order else None)


class _Seen(NamedTuple):
    """The number of rows of a unit, and their values to order by."""

    rows: int
    order: list[pa.Array]


def _look_at(read: CorpusColumns, unit: tuple[int, ReadUnit]) -> tuple[_Seen, list[IdRecords]]:
    """What a unit, given with its number, has, and the records of its rows."""
    records: list[IdRecords] = []
    return _look_through(read, *unit, records.append), records


def _look_through(read: CorpusColumns, number: int, unit: ReadUnit, add: Callable[[IdRecords], None]) -> _Seen:
    """What a unit has. add: is called with records of its rows, piece by piece."""
    first = start = number * ROWS_A_FILE
    order: list[pa.Array] = []
    for rows in _read(unit, read):
        for records in _records(rows, start):
            add(records)
        start += rows.read
        if column := read.order_by:
            own = comparable_values(rows.carry.column(column), read.columns.carry[column].type)
            order += [own, pa.nulls(rows.read - len(own), own.type)]
    return _Seen(start - first, order)


def _read(unit: ReadUnit, read: CorpusColumns) -> Iterator[Rows]:
    return (rows for _, rows in read_unit(unit, read.corpus, read.columns))


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
