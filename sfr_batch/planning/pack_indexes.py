"""Indexes of the shards of packs: their data files say in the footer how many documents each shard has in them.

Reads ids and hashes of these files, and their rejects; writes index files that have the rows of thousands of shards.
"""

from collections.abc import Iterator, Sequence
from typing import NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from sfr_batch.corpus.splits import ReadUnit
from sfr_batch.errors import CountsDoNotClose
from sfr_batch.format import names
from sfr_batch.format.indexes import index_of_entries, read_ahead, read_pack, write_index_rows
from sfr_batch.format.parquet import read_rejects
from sfr_batch.format.records import IndexPart, Receipt
from sfr_batch.format.split_ids import stream_of
from sfr_batch.planning.index_writing import WrittenIndexes
from sfr_batch.planning.plan import EmbedPlan
from sfr_batch.storage.executor import ROWS_A_TASK


class _Piece(NamedTuple):
    """The rows of a shard in a data file: so many, in the order of the index of the file."""

    shard: str
    rows: int
    rejected: int


class _OfFile(NamedTuple):
    """What the index of a data file of a pack is: ``rows`` in the form of an index, and whose they are, in order."""

    rows: pa.Table
    pieces: list[_Piece]


def write_pack_indexes(plan: EmbedPlan, done: Sequence[Receipt], snapshot: int, run_id: str) -> WrittenIndexes:
    """Write the indexes of the shards of all packs of a plan, as files of a run that will publish ``snapshot``.

    done: receipts of all splits of the plan. Raises TableError, StorageError.
    """
    written, waiting = WrittenIndexes(), list[_OfFile]()
    number = 0

    def write() -> None:
        key, start = names.index_key(snapshot, run_id, number), 0
        rows = pa.concat_tables([of_file.rows for of_file in waiting])
        write_index_rows(plan.store, key, rows)
        for piece in (piece for of_file in waiting for piece in of_file.pieces):
            written.add(IndexPart(piece.shard, key, start, piece.rows, plan.layout.covers), piece.rejected, 0)
            start += piece.rows

    files = list(_files(plan, done))
    sizes = [receipt.read for _, receipt in files]
    for found in read_ahead(lambda file: _index_of_file(plan, *file), files, sizes):
        waiting.append(found)
        if sum(of_file.rows.num_rows for of_file in waiting) >= ROWS_A_TASK:
            write()
            number += 1
            waiting.clear()
    if any(of_file.rows.num_rows for of_file in waiting):
        write()
    return written


def _files(plan: EmbedPlan, done: Sequence[Receipt]) -> Iterator[tuple[ReadUnit, Receipt]]:
    """The packs of the plan, each with the receipts of its data files, in order."""
    packs = {unit.stream.prefix: unit for unit in plan.units if unit.whole and unit.stream}
    found: dict[str, list[Receipt]] = {prefix: [] for prefix in packs}
    for receipt in done:
        prefix = stream_of(receipt.split_id)[0]
        if prefix in found:
            found[prefix].append(receipt)
    for prefix, unit in packs.items():
        yield from ((unit, receipt) for receipt in sorted(found[prefix], key=lambda r: r.start))


def _index_of_file(plan: EmbedPlan, unit: ReadUnit, receipt: Receipt) -> _OfFile:
    """The index of a data file: of each shard its documents, in order, then its rejects."""
    entries, counts = read_pack(plan.store, receipt, plan.layout, plan.card.fingerprint)
    places = {shard.uri: place for place, shard in enumerate(unit.whole)}
    rejects = _rejects(plan, receipt)
    of_reject = np.array([places.get(uri, -1) for uri in rejects.column(names.SHARD).to_pylist()], np.int64)
    if len(counts) > len(places) or (of_reject < 0).any():
        key = names.data_key(receipt.split_id)
        raise CountsDoNotClose(f"{plan.store.root}/{key} has rows of other shards than the pack that it is of.")
    rows = index_of_entries(entries, rejects, contents=names.ROW_HASH in plan.layout.schema.names)
    counts = np.concatenate([counts, np.zeros(len(places) - len(counts), np.int64)])
    if len(of_reject):
        of_row = np.concatenate([np.repeat(np.arange(len(counts)), counts), of_reject])
        rows = rows.take(pa.array(np.argsort(of_row, kind="stable")))
    rejected = np.bincount(of_reject, minlength=len(counts))
    pieces = [
        _Piece(shard.uri, documents + bad, bad)
        for shard, documents, bad in zip(unit.whole, counts.tolist(), rejected.tolist(), strict=True)
        if documents + bad
    ]
    return _OfFile(rows.combine_chunks(), pieces)


def _rejects(plan: EmbedPlan, receipt: Receipt) -> pa.Table:
    """The rejects of a data file, by position in their shards."""
    rejects = read_rejects(plan.store, receipt, published=False)
    return rejects.take(pc.sort_indices(rejects, sort_keys=[(names.POSITION, "ascending")]))
