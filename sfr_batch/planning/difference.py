"""What a comparison means for a run: what is encoded as which splits, what is copied, and where everything is then.

A shard without a row in common with the table keeps its own splits. The rows of the others that need a vector are
packed into splits, in the order of the corpus, so that each shard is read about once; those whose carried columns alone
have changed are packed apart, for no model is needed. Knows no Ray and no config; what is published is `planning`'s.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from sfr_batch.corpus.splits import ReadUnit, pack, rows_per_split
from sfr_batch.errors import TooManyDeletes
from sfr_batch.format import names
from sfr_batch.format.indexes import Located, first_rows, write_index
from sfr_batch.format.parquet import read_data_file, read_parquet
from sfr_batch.format.records import IndexPart, Receipt
from sfr_batch.planning.comparison import Comparison
from sfr_batch.planning.index_writing import index_of_left, write_indexes
from sfr_batch.planning.join import Decision
from sfr_batch.storage.store import Store
from sfr_batch.storage.stores import open_store
from sfr_batch.table.table import Positions

FEW_DELETES = 100
"""So many deleted documents are no reason to stop a run, whatever share of a small table they are."""


@dataclass(frozen=True)
class Limits:
    """What a split holds at most, see `config.RunSettings`."""

    rows: int
    bytes: int
    min_splits: int


@dataclass(frozen=True)
class Copy:
    """Rows whose vectors are copied, as one split. sources: [rows] split_id, row, vectors of each."""

    unit: ReadUnit
    sources: pa.Table

    @property
    def split_id(self) -> str:
        return self.unit.splits[0].split_id


@dataclass(frozen=True)
class Difference:
    """What there is to do, and for whom."""

    found: Comparison
    fresh: frozenset[str]
    """Shards that keep their own splits."""
    indexed: frozenset[str]
    """All others that were read and have a row that is meant."""
    packed: tuple[ReadUnit, ...]
    copies: tuple[Copy, ...]
    rows: Mapping[str, Positions]
    """By split id, the rows of packed splits and of copies, in order."""

    @property
    def used(self) -> frozenset[str]:
        """Split ids of the data files that rows of the indexed shards have their vectors in, or are copied from."""
        found = self.found
        has_one = np.isin(found.decisions["kind"], (Decision.REUSE, Decision.COPY))
        numbers = np.union1d(found.decisions["file"][has_one], found.left["file"])
        return frozenset(found.files[number] for number in numbers.tolist() if number >= 0)

    def chosen_places(self) -> frozenset[tuple[str, int]]:
        """Shard and position of all rows that are meant."""
        return frozenset(self.found.places(np.flatnonzero(self.found.decisions["kind"] != Decision.SKIP)))

    def locate(self, store: Store, schema: pa.Schema, fingerprint: str, receipts: Mapping[str, Receipt]) -> None:
        """Note where the vectors of packed and copied rows are now. ``receipts``: of all these splits, by split id."""
        found = self.found
        for split_id, rows in self.rows.items():
            receipt = receipts[split_id]
            survived = rows
            if receipt.rejected:
                survived = rows[~np.isin(rows, self._note_failed(store, receipt, rows))]
            first, vectors = np.arange(len(survived)), np.ones(len(survived), np.int32)
            if names.CHUNK in schema.names:
                first, vectors = first_rows(read_data_file(store, receipt, [names.CHUNK], fingerprint))
            found.decisions["kind"][survived] = Decision.REUSE
            found.decisions["file"][survived] = len(found.files)
            found.decisions["first"][survived], found.decisions["vectors"][survived] = first, vectors
            found.files.append(split_id)

    def _note_failed(self, store: Store, receipt: Receipt, rows: Positions) -> list[int]:
        rejects = read_parquet(store.read(names.rejects_key(receipt.split_id, receipt.attempt))).to_pylist()
        places = self.found.places(rows)
        failed = {places[row["shard"], row["position"]]: row for row in rejects}
        self.found.failed.update({at: (row[names.ID], row["reason"], row["message"]) for at, row in failed.items()})
        return list(failed)

    def write_indexes(
        self, snapshot: int, run_id: str, stays: Mapping[str, NDArray[np.bool_]], rejects: Mapping[str, pa.Table]
    ) -> tuple[dict[str, list[IndexPart]], dict[str, tuple[int, int]]]:
        """Write the indexes of all shards that need one.

        stays: which of ``found.left`` stay in the table, by the shard that has them from now on, in addition to the
        rows that were read of it; rejects: of these shards, rejects that stay as well, as index rows. Returns the
        parts of each shard, and its rows and rejects.
        """
        found = self.found
        parts, counts = write_indexes(found, self.indexed, snapshot, run_id)
        located = [Located(uri, index_of_left(found.left[mask], found.files)) for uri, mask in stays.items()]
        located += [Located(uri, index) for uri, index in rejects.items()]
        located = [piece for piece in located if piece.index.num_rows]
        if located:
            store = open_store(found.source.table, found.source.table_storage)
            key = names.index_key(snapshot, run_id, len(found.tasks))
            for part, piece in zip(write_index(store, key, located), located, strict=True):
                parts.setdefault(piece.shard, []).append(part)
                rows, bad = counts.get(piece.shard, (0, 0))
                counts[piece.shard] = rows + part.rows, bad + piece.rejected
        return parts, counts


def assign_work(
    found: Comparison, limits: Limits, identity: Sequence[str], condemned: frozenset[str], *, whole_shards: bool
) -> Difference:
    """Decide who is read and encoded how.

    identity: what names a packed split beside its rows; whole_shards: whether all rows of the shards were compared, so
    that a shard may keep its own splits.
    """
    decisions = found.decisions
    encode = decisions["kind"] == Decision.ENCODE
    max_rows = rows_per_split(int(encode.sum()), limits.rows, limits.min_splits)
    of_shard: dict[str, list[int]] = {}
    for number, uri in enumerate(found.shards):
        of_shard.setdefault(uri, []).append(number)
    fresh = set()
    for uri, units in of_shard.items():
        start, end = found.starts[units[0]], found.starts[units[-1] + 1]
        if whole_shards and encode[start:end].all() and (end - start >= max_rows or end == start):
            fresh.add(uri)
    chosen_of = {uri: decisions["kind"][found.starts[u[0]] : found.starts[u[-1] + 1]] for uri, u in of_shard.items()}
    touched = {uri for uri, kinds in chosen_of.items() if whole_shards or (kinds != Decision.SKIP).any()}
    indexed = frozenset(touched - fresh)
    mixed = np.zeros(len(decisions), bool)
    for uri in indexed:
        units = of_shard[uri]
        mixed[found.starts[units[0]] : found.starts[units[-1] + 1]] = True

    rows: dict[str, Positions] = {}
    packed = []
    for chosen in _cut(np.flatnonzero(mixed & encode), decisions["size"], max_rows, limits.bytes):
        unit = pack(found.choose(chosen), int(decisions["size"][chosen].sum()), identity, condemned)
        rows[unit.splits[0].split_id] = chosen
        packed.append(unit)
    copies = []
    copied = np.flatnonzero(mixed & (decisions["kind"] == Decision.COPY))
    for chosen in _cut(copied, decisions["size"], rows_per_split(len(copied), limits.rows, 1), limits.bytes):
        sources = _sources(found, chosen)
        unit = pack(found.choose(chosen), int(decisions["size"][chosen].sum()), ("copy", *identity), condemned)
        rows[unit.splits[0].split_id] = chosen
        copies.append(Copy(unit, sources))
    return Difference(found, frozenset(fresh), indexed, tuple(packed), tuple(copies), rows)


def _sources(found: Comparison, rows: Positions) -> pa.Table:
    decisions = found.decisions[rows]
    return pa.table(
        {
            "split_id": [found.files[number] for number in decisions["file"].tolist()],
            "row": decisions["first"].astype(np.int64),
            "vectors": decisions["vectors"],
        }
    )


def _cut(rows: Positions, sizes: NDArray[np.uint32], max_rows: int, max_bytes: int) -> list[Positions]:
    """Runs of ``rows`` of at most so many, and of so many bytes but for a single larger one."""
    pieces, start = [], 0
    ends = np.cumsum(sizes[rows], dtype=np.int64)
    while start < len(rows):
        before = ends[start - 1] if start else 0
        fit = int(np.searchsorted(ends, before + max_bytes, side="right"))
        end = min(start + max_rows, max(fit, start + 1))
        pieces.append(rows[start:end])
        start = end
    return pieces


def check_deletes(deleted: int, documents: int, policy: str, share: float, table: str) -> None:
    """Raises TooManyDeletes if a run would drop more than it may of the ``documents`` that are in the table."""
    if policy != "refuse-above-share" or deleted <= max(FEW_DELETES, share * documents):
        return
    raise TooManyDeletes(
        f"{deleted:,} of the {documents:,} documents of {table} ({deleted / documents:.1%}) are not in the corpus any "
        f"more, and table.max_delete_share allows {share:.0%}. An export that was cut short looks like this, so "
        "nothing was embedded or published. Correct the corpus; or if they are meant to go: table.delete=mirror drops "
        "them this once, table.delete=keep keeps them."
    )
