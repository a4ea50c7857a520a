"""Planning a repair: the shards that lost rows are read as they are today, and nothing else of the corpus matters.

A row that has no vector any more is encoded, all others keep theirs. Nothing is deleted: a document that is no longer
in its shard stays if it has its vector, and the shard is then recorded without a version, so that the next night reads
it. Knows no store; `table.commit.remains` knows what is left.
"""

import dataclasses
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Literal

import numpy as np

from sfr_batch.corpus.shards import Shard
from sfr_batch.errors import counted
from sfr_batch.format.hashes import Hashes, halves
from sfr_batch.format.names import ID_HASH
from sfr_batch.format.records import KEPT, ChangeCounts, ShardRecord
from sfr_batch.planning.decided_rows import Bounds, DecidedRows, UnitTotals, totals_of
from sfr_batch.planning.join import Decision, among
from sfr_batch.planning.row_comparison import RowComparison
from sfr_batch.planning.scan import ScannedUnit
from sfr_batch.planning.selection import Coverage, WholeShards
from sfr_batch.table.commit.remains import Remains


@dataclass(frozen=True)
class Repairing(WholeShards):
    """All rows of the shards that lost some."""

    remains: Remains

    @property
    def operation(self) -> Literal["embed", "backfill", "repair"]:
        return "repair"

    @property
    def generation(self) -> str:
        return ""  # a vector of another label is as good as it was before

    @property
    def keeps_kept(self) -> bool:
        return True

    @property
    def condemned(self) -> frozenset[str]:
        return self.remains.read_condemned()

    def keeps_own_splits(self, shard: Shard) -> bool:
        known = self.remains.inventory.records.get(shard.uri)
        return known is None or known.version == shard.version  # else it may keep documents that are no longer in it

    def changes(self, found: ChangeCounts) -> ChangeCounts:
        return found.model_copy(update={"deleted": 0})

    def narrowed(self, found: RowComparison) -> RowComparison:
        """Where an index says which documents were lost, other rows without a vector are not encoded: they belong to
        the next night, or were never selected."""
        ids = self.remains.inventory.ids
        return _narrowed(found, ids) if ids else found

    def record(self, shard: Shard, recipe: str, covered: Coverage, before: ShardRecord | None) -> ShardRecord:
        """The shard as it was, with what is covered of it; without a version if it has changed since."""
        new = super().record(shard, recipe, covered, before)
        known = self.remains.inventory.records.get(shard.uri)
        if known is None:
            return new
        if known.version != shard.version:  # the next night reads it again, and sorts out what has left it
            new = dataclasses.replace(known, version="")
        return covered.put_into(dataclasses.replace(new, generation=known.generation, retried=known.retried))

    def remaining(self, vanished: Sequence[ShardRecord], coverage: Mapping[str, Coverage]) -> list[ShardRecord]:
        records = self.remains.inventory.records
        return [coverage[record.uri].put_into(records[record.uri]) for record in vanished if record.uri in coverage]

    def owner_of_left(self, record: ShardRecord) -> str | None:
        """The same shard: what has left it is sorted out by the next night, which reads it again."""
        return record.uri


def affected_shards(
    remains: Remains, shards: Sequence[Shard], again: frozenset[str]
) -> tuple[list[ShardRecord], list[Shard], list[ShardRecord]]:
    """The records of the shards that stay as they are, the shards to read, and the records of affected shards that are
    no longer in the corpus. shards: of the corpus today; again: URIs of others that have to be read, too."""
    left = remains.inventory
    if left.everything:
        return [], list(shards), []
    there, affected = {shard.uri for shard in shards}, left.affected | again
    records = [record for record in remains.read_shards() if record.uri != KEPT]
    return (
        [record for record in records if record.uri not in affected],
        [shard for shard in shards if shard.uri in affected],
        [record for record in records if record.uri in affected and record.uri not in there],
    )


def _narrowed(found: RowComparison, wanted: Mapping[str, Hashes]) -> RowComparison:
    """The same, but rows of these shards that have no vector are passed over unless their ids are ``wanted``."""
    arguments = {}
    for number, task in enumerate(found.scans):
        shards = {unit.shard.uri for unit in found.units[task.first : task.end]}
        if its := {uri: wanted[uri] for uri in shards if uri in wanted}:
            arguments[number] = task.scanned, its
    return found.decided_anew(_pass_over, arguments)


def _pass_over(
    decided: DecidedRows, bounds: Bounds, scanned: Sequence[ScannedUnit], wanted: Mapping[str, Hashes]
) -> tuple[UnitTotals, DecidedRows]:
    """A task: of one scan. bounds: of all its units."""
    decided = decided.copy()
    for unit, (start, stop) in zip(scanned, pairwise(bounds.tolist()), strict=True):
        if unit.shard in wanted:
            known = among(halves(unit.hashes.column(ID_HASH)), wanted[unit.shard])
            part = decided[start:stop]
            part["kind"][(part["kind"] == Decision.ENCODE) & ~known & ~part["known"]] = Decision.SKIP
    return totals_of(decided, bounds), decided


@dataclass(frozen=True)
class Gone:
    """Documents that cannot be had any more."""

    uri: str
    documents: int
    why: str

    def __str__(self) -> str:
        return f"{counted(self.documents, 'document')} {self.why}"


def find_gone(
    remains: Remains, shards: Mapping[str, str], found: RowComparison | None, in_files: Hashes | None = None
) -> list[Gone]:
    """The documents that were lost and are no longer in the corpus, by shard.

    shards: of the corpus today, URI to version; found: the comparison with those that lost rows. If nobody knows which
    documents a shard lost, and the shard has changed since, each of its rows without a vector counts as one of them.
    in_files: [n] hashes of the ids in data files, if these may have been kept and nobody knows which ones were.
    """
    left = remains.inventory
    gone = []
    for uri, documents in left.documents.items():
        if uri == KEPT:
            why = "that had left the corpus, kept until now (table.delete)"
        elif uri not in shards:
            why = f"of {uri}, which is no longer in the corpus"
        elif left.everything or shards[uri] == left.records[uri].version:
            continue
        else:
            documents -= _encoded(found, uri) if found else 0
            why = f"of {uri}, which has changed since and does not have them any more"
        if documents > 0:
            gone.append(Gone(uri, documents, why))
    if in_files is not None:
        nowhere = np.unique(in_files[~among(in_files, _ids_of(found))] if found else in_files, axis=0)
        if len(nowhere):
            why = "in data files, which have left the corpus and may have been kept (table.delete): nobody knows which"
            gone.append(Gone(KEPT, len(nowhere), why))
    elif left.everything and not left.records and (kept := remains.manifest.counts.kept):
        gone.append(Gone(KEPT, kept, "that had left the corpus, kept until now (table.delete)"))
    return gone


def _ids_of(found: RowComparison) -> Hashes:
    """[n] hashes of all ids in the shards that were read, those of rejects included."""
    scanned = [unit for task in found.scans for units in found.executor.get([task.scanned]) for unit in units]
    return np.concatenate([found.rejected_ids, *(halves(unit.hashes.column(ID_HASH)) for unit in scanned)])


def _encoded(found: RowComparison, uri: str) -> int:
    """How many rows of a shard have no vector in this table, and an id that what is left of it does not have."""
    units = found.shards.get(uri)
    return int(found.totals["without"][units].sum()) if units else 0
