"""The last round of a comparison: writes index files once the place of every vector is known."""

import dataclasses
import itertools
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import numpy as np
import pyarrow as pa

from sfr_batch.format import names
from sfr_batch.format.hashes import Hashes, whole
from sfr_batch.format.indexes import (
    Located,
    index_of_entries,
    index_table,
    write_index,
)
from sfr_batch.format.records import IndexPart, Receipt, rows_in
from sfr_batch.planning.decided_rows import DecidedRows, DecidedUnit, check_same, with_places
from sfr_batch.planning.join import Decision, Documents
from sfr_batch.planning.left_documents import by_owner
from sfr_batch.planning.located import LateReject, MadeRows, locate, made_rows
from sfr_batch.planning.packed_rows import PackedSplits
from sfr_batch.planning.row_comparison import RowComparison
from sfr_batch.planning.scan import OldShard, ScannedUnit, TaskContext, read_others
from sfr_batch.planning.selection import Coverage
from sfr_batch.storage.executor import ROWS_A_TASK, grouped, in_order
from sfr_batch.storage.stores import open_store


@dataclass
class WrittenIndexes:
    """What was written, by the URI of the shard."""

    parts: dict[str, list[IndexPart]] = field(default_factory=dict)
    coverage: dict[str, Coverage] = field(default_factory=dict)

    def add(self, part: IndexPart, rejected: int, superseded: int) -> None:
        """Append a part, of whose rows ``rejected`` are rejects, and ``superseded`` of these as duplicates of an id."""
        self.parts.setdefault(part.shard, []).append(part)
        before = self.coverage.get(part.shard, Coverage(0, 0, 0))
        self.coverage[part.shard] = Coverage(
            before.read + part.rows, before.rejected + rejected, 0, before.superseded + superseded
        )


@dataclass(frozen=True)
class StayingDocuments:
    """Documents of the base snapshot that stay, although the comparison has found no row for them."""

    others: Sequence[OldShard]
    """Shards whose documents stay, but for those with ids of selected rows: a filter has kept them out."""
    own_ids: Mapping[str, Hashes]
    """For those of them that are as they were, ids of their own selected rows, of `sorted_ids`, by URI: they may have
    further rows with ids of other shards."""
    owners: Sequence[str | None]
    """[old] of each compared shard, who owns from now on what has left the corpus, see `left_documents.by_owner`."""
    turned: Hashes
    """[k, 2] as there."""


def write_indexes(
    found: RowComparison,
    splits: Sequence[PackedSplits],
    receipts: Mapping[str, Receipt],
    shards: frozenset[str],
    staying: StayingDocuments,
    rejects: Mapping[str, pa.Table],
    snapshot: int,
    run_id: str,
) -> WrittenIndexes:
    """Write the indexes of some shards as files of a run that will publish ``snapshot``.

    splits: those of the run, all committed; receipts: of at least these, by split id. shards: URIs of shards that were
    compared; their rows are taken from the comparison. rejects: of the base snapshot that stay, columns of
    `names.REJECTS_SCHEMA`, by the URI of the shard. Raises StorageError, TableError.
    """
    executor = found.executor
    shared = executor.share(_Compared(found.context, found.files, found.own_files))

    def calls() -> Iterator[tuple[Any, ...]]:
        for number, task in enumerate(found.scans):
            units = [unit for unit in range(task.first, task.end) if found.units[unit].shard.uri in shards]
            if units:
                made = [its for packed in splits for its in made_rows(packed, receipts, number)]
                wanted, key = found.decided_units(task, units), names.index_key(snapshot, run_id, number)
                yield task.scanned, task.decided, wanted, made, key, shared

    handles = []
    more = (names.index_key(snapshot, run_id, number) for number in itertools.count(len(found.scans)))
    if found.selected and staying.others:
        context, ids = executor.share(found.context), executor.share(found.selected.distinct)
        sources = [(shard.record.uri, source) for shard in staying.others for source in shard.sources]
        for its in grouped(sources, [rows_in(documents) for _, documents in sources], ROWS_A_TASK):
            own = {uri: staying.own_ids[uri] for uri, _ in its if uri in staying.own_ids}
            handles += executor.submit(_write_staying, its, ids, own, next(more), context)
    if found.left.parts:
        owners, turned = executor.share(staying.owners), executor.share(staying.turned)
        for part in found.left.parts:
            handles += executor.submit(_write_left, part, owners, turned, next(more), shared)
    written = WrittenIndexes()
    for parts in itertools.chain(in_order(executor, _write_scanned, calls()), executor.get(handles)):
        for part, *rejected in parts:
            written.add(part, *rejected)
    pieces = [Located(uri, index_of_rejects(its)) for uri, its in rejects.items() if its.num_rows]
    for part, *rejected in _write(found.context, next(more), pieces):
        written.add(part, *rejected)
    return written


class _Compared(NamedTuple):
    """What tasks know of the comparison. files: split ids of the data files, by number; own_files: as of `marked`."""

    context: TaskContext
    files: Sequence[str]
    own_files: int | None


def _write(context: TaskContext, key: str, located: Sequence[Located]) -> list[tuple[IndexPart, int, int]]:
    """Write one index file: each part of it, and how many rows of it are rejects, and of these duplicates of an id."""
    located = [dataclasses.replace(piece, covers=context.layout.covers) for piece in located]
    if not located:
        return []
    parts = write_index(open_store(context.table, context.table_storage), key, located)
    return [(part, piece.rejected, piece.superseded) for part, piece in zip(parts, located, strict=True)]


def _write_scanned(
    scanned: Sequence[ScannedUnit],
    decided: DecidedRows,
    wanted: Sequence[DecidedUnit],
    made: Sequence[MadeRows],
    key: str,
    compared: _Compared,
) -> list[tuple[IndexPart, int, int]]:
    """A task: the indexes of the ``wanted`` units of a scan.

    decided: of all units of the scan; made: their rows whose vectors the run has made; key: of the file. Raises
    TableError, StorageError.
    """
    context, files, own_files = compared
    check_same(decided, wanted)
    found = locate(made, scanned, decided, wanted, own_files, len(files), context)
    decisions = with_places(decided, np.concatenate(found.rows), np.concatenate(found.places), Decision.REUSE)
    files = [*files, *(its.receipt.split_id for its in made)]
    units, located = {unit.unit: unit for unit in scanned}, []
    for unit in wanted:
        if unit.number in units:  # with a filter, some have no selected row
            lost = {row - unit.start: reject for row, reject in found.failed.items() if unit.start <= row < unit.stop}
            located.append(_index_of_unit(units[unit.number], decisions[unit.start : unit.stop], files, lost))
    return _write(context, key, located)


def _write_staying(
    sources: Sequence[tuple[str, Receipt | IndexPart]],
    ids: Hashes,
    own: Mapping[str, Hashes],
    key: str,
    context: TaskContext,
) -> list[tuple[IndexPart, int, int]]:
    """A task: documents of the base snapshot, with the URIs of their shards, but for those whose id is one of ``ids``,
    of `sorted_ids`; or of ``own`` for shards that are there. key: of the file."""
    store = open_store(context.table, context.table_storage)
    by_shard: dict[str, list[pa.Table]] = {}
    wanted = [(documents, own.get(uri, ids)) for uri, documents in sources]
    for (uri, _), entries in zip(sources, read_others(store, wanted, context), strict=True):
        if len(entries):
            index = index_of_entries(entries, names.REJECTS_SCHEMA.empty_table(), contents=context.carry)
            by_shard.setdefault(uri, []).append(index)
    return _write(context, key, [Located(uri, pa.concat_tables(tables)) for uri, tables in by_shard.items()])


def _write_left(
    left: Documents,
    owners: Sequence[str | None],
    turned: Hashes,
    key: str,
    compared: _Compared,
) -> list[tuple[IndexPart, int, int]]:
    """A task: documents of one partition that have left the corpus and stay in the table, see `by_owner`. key: of the
    file."""
    staying = by_owner(left, owners, turned)
    located = [Located(uri, _index_of_documents(its, compared.files)) for uri, its in staying.items()]
    return _write(compared.context, key, located)


def _index_of_unit(
    unit: ScannedUnit, decisions: DecidedRows, files: Sequence[str], failed: Mapping[int, LateReject]
) -> Located:
    rejects, good = unit.rejects, decisions["kind"] != Decision.SKIP
    if failed:
        good[list(failed)] = False
        rows = sorted(failed)
        more = {
            names.ID: [failed[row].id for row in rows],
            names.SHARD: [unit.shard] * len(rows),
            names.POSITION: unit.hashes.column(names.POSITION).take(pa.array(rows)),
            names.REASON: [failed[row].reason for row in rows],
            names.MESSAGE: [failed[row].message for row in rows],
        }
        rejects = pa.concat_tables([rejects, pa.table(more, schema=names.REJECTS_SCHEMA)])
        rejects = rejects.sort_by(names.POSITION)
    hashes = unit.hashes if good.all() else unit.hashes.filter(pa.array(good))
    taken = decisions[good]
    index = index_table(hashes, _split_ids(taken, files), taken["first"], taken["vectors"], rejects)
    return Located(unit.shard, index)


def _index_of_documents(documents: Documents, files: Sequence[str]) -> pa.Table:
    """Documents [n] as index rows; files: split ids, by number. Their positions in the shard are lost, and 0."""
    hashes = {
        names.ID_HASH: whole(documents["id"]),
        names.ROW_HASH: whole(documents["row"]),
        names.POSITION: pa.array(np.zeros(len(documents), np.int64)),
    }
    hashes |= {names.CONTENT_HASH: whole(documents["content"])} if "content" in (documents.dtype.names or ()) else {}
    return index_table(
        pa.table(hashes),
        _split_ids(documents, files),
        documents["first"],
        documents["vectors"],
        names.REJECTS_SCHEMA.empty_table(),
    )


def index_of_rejects(rejects: pa.Table) -> pa.Table:
    """Rejects, columns of `names.REJECTS_SCHEMA`, as index rows."""
    none = np.empty(0, np.int64)
    return index_table(
        names.INDEX_SCHEMA.empty_table(), pa.array([], pa.string()), none, none.astype(np.int32), rejects
    )


def _split_ids(records: DecidedRows | Documents, files: Sequence[str]) -> pa.Array:
    """[n] the split id of the data file of each record."""
    used, which = np.unique(records["file"], return_inverse=True)
    chosen = pa.array([files[number] for number in used.tolist()], pa.string())
    return pa.DictionaryArray.from_arrays(pa.array(which.astype(np.int32)), chosen).dictionary_decode()
