"""Indexes of the shards of packs: their data files say in the footer how many documents each shard has in them.

Reads ids and hashes of these files, and their rejects; writes index files that have the rows of thousands of shards.
"""

from collections.abc import Iterator, Sequence
from typing import NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from sfr_batch.errors import CountsDoNotClose
from sfr_batch.format import names
from sfr_batch.format.indexes import index_of_entries, read_ahead, read_pack, write_index_rows
from sfr_batch.format.layout import Layout
from sfr_batch.format.parquet import read_rejects
from sfr_batch.format.records import IndexPart, Receipt
from sfr_batch.format.split_ids import stream_of
from sfr_batch.planning.index_writing import WrittenIndexes
from sfr_batch.planning.plan import EmbedPlan
from sfr_batch.storage.executor import ROWS_A_TASK, Executor, InProcess, grouped, in_order
from sfr_batch.storage.store import Store


class _File(NamedTuple):
    """A data file of a pack: its receipt, and the URIs of all shards of the pack, in order."""

    receipt: Receipt
    shards: Sequence[str]


class _Piece(NamedTuple):
    """The rows of a shard in a data file: so many, in the order of the index of the file."""

    shard: str
    rows: int
    rejected: int


class _Reading(NamedTuple):
    """What tasks need to read the data files and to write indexes."""

    store: Store
    layout: Layout
    fingerprint: str


def write_pack_indexes(
    plan: EmbedPlan, done: Sequence[Receipt], snapshot: int, run_id: str, executor: Executor | None = None
) -> WrittenIndexes:
    """Write the indexes of the shards of all packs of a plan, as files of a run that will publish ``snapshot``.

    done: receipts of all splits of the plan. executor: runs a task for each file that is written; default: this
    process. Raises TableError, StorageError.
    """
    executor = executor or InProcess()
    files = list(_files(plan, done))
    shared = executor.share(_Reading(plan.store, plan.layout, plan.card.fingerprint))
    groups = grouped(files, [file.receipt.read for file in files], ROWS_A_TASK)
    calls = ((some, names.index_key(snapshot, run_id, number), shared) for number, some in enumerate(groups))
    written = WrittenIndexes()
    for parts in in_order(executor, _write, calls):
        for part, rejected in parts:
            written.add(part, rejected, 0)
    return written


def _write(files: Sequence[_File], key: str, reading: _Reading) -> list[tuple[IndexPart, int]]:
    """A task: write the index file ``key`` of some data files. Returns the part of each shard, and its rejects."""
    tables, parts, start = list[pa.Table](), list[tuple[IndexPart, int]](), 0
    for rows, pieces in read_ahead(lambda file: _index_of_file(file, reading), files, [f.receipt.read for f in files]):
        tables.append(rows)
        for piece in pieces:
            part = IndexPart(piece.shard, key, start, piece.rows, reading.layout.covers)
            parts.append((part, piece.rejected))
            start += piece.rows
    if parts:
        write_index_rows(reading.store, key, pa.concat_tables(tables))
    return parts


def _files(plan: EmbedPlan, done: Sequence[Receipt]) -> Iterator[_File]:
    """The data files of the packs of the plan, in order."""
    packs = {unit.stream.prefix: unit for unit in plan.units if unit.whole and unit.stream}
    found: dict[str, list[Receipt]] = {prefix: [] for prefix in packs}
    for receipt in done:
        prefix = stream_of(receipt.split_id)[0]
        if prefix in found:
            found[prefix].append(receipt)
    for prefix, unit in packs.items():
        shards = [shard.uri for shard in unit.whole]
        yield from (_File(receipt, shards) for receipt in sorted(found[prefix], key=lambda r: r.start))


def _index_of_file(file: _File, reading: _Reading) -> tuple[pa.Table, list[_Piece]]:
    """What the index of a data file is: of each shard its documents, in order, then its rejects; and whose they are."""
    receipt, shards = file
    entries, counts = read_pack(reading.store, receipt, reading.layout, reading.fingerprint)
    places = {uri: place for place, uri in enumerate(shards)}
    rejects = _rejects(reading.store, receipt)
    of_reject = np.array([places.get(uri, -1) for uri in rejects.column(names.SHARD).to_pylist()], np.int64)
    if len(counts) > len(places) or (of_reject < 0).any():
        key = names.data_key(receipt.split_id)
        raise CountsDoNotClose(f"{reading.store.root}/{key} has rows of other shards than the pack that it is of.")
    rows = index_of_entries(entries, rejects, contents=names.ROW_HASH in reading.layout.schema.names)
    counts = np.concatenate([counts, np.zeros(len(places) - len(counts), np.int64)])
    if len(of_reject):
        of_row = np.concatenate([np.repeat(np.arange(len(counts)), counts), of_reject])
        rows = rows.take(pa.array(np.argsort(of_row, kind="stable")))
    rejected = np.bincount(of_reject, minlength=len(counts))
    pieces = [
        _Piece(uri, documents + bad, bad)
        for uri, documents, bad in zip(shards, counts.tolist(), rejected.tolist(), strict=True)
        if documents + bad
    ]
    return rows.combine_chunks(), pieces


def _rejects(store: Store, receipt: Receipt) -> pa.Table:
    """The rejects of a data file, by position in their shards."""
    rejects = read_rejects(store, receipt, published=False)
    return rejects.take(pc.sort_indices(rejects, sort_keys=[(names.POSITION, "ascending")]))
