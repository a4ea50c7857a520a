"""The corpus that a table is held against: its shards as they are today, and every row of it."""

from collections.abc import Iterator

import numpy as np

from sfr_batch.checks.audit.contents import Contents
from sfr_batch.checks.audit.id_records import IdRecords, RecordKind, contents_of, locate, make_records, places_of
from sfr_batch.checks.audit.report import EMBED, SHARDS, Finding, PromiseCheck
from sfr_batch.corpus.reader import read_unit
from sfr_batch.corpus.rows import Rows
from sfr_batch.corpus.shards import list_shards
from sfr_batch.corpus.splits import ReadUnit, cut
from sfr_batch.corpus.survey import survey_shards
from sfr_batch.errors import counted
from sfr_batch.format.fingerprint import digest
from sfr_batch.format.hashes import halves, hash_ids
from sfr_batch.format.records import KEPT
from sfr_batch.planning.make import carry_over
from sfr_batch.planning.plan import EmbedPlan

_ROWS, _BYTES = 8192, 32 * 2**20
"""Rows and bytes of text that are in memory at a time, about."""


class Corpus:
    """The corpus of a plan, read once and, for examples, a unit of it once more. rows: how many were read."""

    def __init__(self, plan: EmbedPlan) -> None:
        self._plan, self._settings = plan, plan.config.corpus
        self._shards = list_shards(self._settings)
        self._units: list[ReadUnit] = []
        self._starts = [0]
        self.rows = 0

    def check_shards(self, contents: Contents, fingerprint: str) -> Finding:
        """Whether the snapshot covers the corpus as it is today. fingerprint: of the table's vectors."""
        promise = PromiseCheck(SHARDS, EMBED)
        if self._plan.card.fingerprint != fingerprint:
            promise.wrong(f"the config makes vectors of fingerprint {self._plan.card.fingerprint[:12]}")
        recipe, generation = digest(self._plan.row_recipe), self._plan.config.table.generation
        covered = {record.uri: record for record in contents.shards}
        for shard in carry_over(contents.snapshot, self._shards, recipe, generation)[1]:
            record = covered.get(shard.uri)
            if record is None:
                promise.wrong(f"{shard.uri} is new")
            elif record.version != shard.version:
                promise.wrong(f"{shard.uri} has changed")
            elif record.recipe != recipe:
                promise.wrong(f"{shard.uri} was read with other settings of corpus")
            else:
                promise.wrong(f"{shard.uri} is of generation {record.generation!r}, the config of {generation!r}")
        for uri in sorted(covered.keys() - {KEPT} - {shard.uri for shard in self._shards}):
            promise.wrong(f"{uri} is no longer in the corpus")
        return promise.finding(counted(len(self._shards), "shard"), "covered as they are")

    def records(self) -> Iterator[IdRecords]:
        """Every row of it. Raises CorpusError if it cannot be read."""
        for shard in self._shards:
            survey = survey_shards([shard], self._settings)[0]
            for unit in cut(survey, _ROWS, _BYTES, ("audit",), frozenset()):
                self._units.append(unit)
                for rows in self._read(unit):
                    good = len(rows.texts)
                    numbers = np.arange(self.rows, self.rows + rows.read)
                    ids = halves(hash_ids(rows.ids.to_pylist()))
                    found = make_records(ids, RecordKind.IN_CORPUS, numbers[:good])
                    found["content"] = contents_of(halves(rows.content_hash), halves(rows.row_hash))
                    yield found
                    places = halves(hash_ids(places_of(rows.rejects)))
                    yield make_records(places, RecordKind.BAD_IN_CORPUS, numbers[good:])
                    self.rows += rows.read
                self._starts.append(self.rows)

    def _read(self, unit: ReadUnit) -> Iterator[Rows]:
        return (rows for _, rows in read_unit(unit, self._settings, self._plan.columns))

    def place(self, row: int) -> tuple[str, bytes | None]:
        """Where row ``row`` of what was read is, and its content hash if it is a good one; its unit is read again."""
        number, row = locate(self._starts, row)
        unit = self._units[number]
        for rows in self._read(unit):
            if row < rows.read:
                return _place(unit, rows, row), rows.content_hash[row].as_py() if row < len(rows.texts) else None
            row -= rows.read
        return f"a row of {unit.shard.uri}", None  # it changes while we look


def _place(unit: ReadUnit, rows: Rows, row: int) -> str:
    good = len(rows.texts)
    if row < good:
        return f"position {rows.positions[row]} of {unit.shard.uri}, id {rows.ids[row].as_py()!r},"
    return f"position {rows.rejects.column('position')[row - good]} of {unit.shard.uri}"
