"""The tasks of a comparison: scan shards, read what the table has of them, join one partition of the ids."""

from collections.abc import Container, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, NamedTuple, TypeVar

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from sfr_batch.config.settings import CorpusSettings, StorageSettings
from sfr_batch.corpus.columns import Columns
from sfr_batch.corpus.file_formats import PARQUET
from sfr_batch.corpus.reader import read_for_filter, read_positions, read_unit
from sfr_batch.corpus.rows import Rows
from sfr_batch.corpus.splits import ReadUnit
from sfr_batch.errors import ObjectNotFound, TableError
from sfr_batch.format import names
from sfr_batch.format.hashes import Hashes, halves, hash_ids
from sfr_batch.format.indexes import Entries, PartReader, columns_of_entries, entries_of, read_owned, rehashed
from sfr_batch.format.layout import Layout
from sfr_batch.format.records import ChangeCounts, DuplicateRule, IndexPart, Receipt, ShardRecord
from sfr_batch.planning.join import (
    CorpusRows,
    Documents,
    Origin,
    among_sorted,
    corpus_dtype,
    document_dtype,
    join,
    make_records,
    partition_of,
    split_by,
)
from sfr_batch.planning.losing_rows import LosingRows
from sfr_batch.planning.row_filter import RowFilter
from sfr_batch.storage.store import Store
from sfr_batch.storage.stores import open_store
from sfr_batch.table.commit.reject_limits import comes_last

S = TypeVar("S")


@dataclass(frozen=True)
class TaskContext:
    """What every task needs to know of corpus and table. Secrets in it are references, not values."""

    corpus: CorpusSettings
    columns: Columns
    table: str
    table_storage: StorageSettings
    layout: Layout
    """That of the next snapshot."""
    fingerprint: str
    row_filter: RowFilter | None = None
    """The filter for the rows to compare; None: all rows."""
    duplicate_rule: DuplicateRule | None = None
    wants_rejects: bool = False
    """Whether the driver needs to know which rows cannot be embedded even if the filter does not select them."""

    @property
    def carry(self) -> bool:
        return bool(self.columns.carry)


@dataclass(frozen=True)
class OldShard:
    """A shard in the base snapshot: its record, and the data files or parts of indexes that list its documents."""

    record: ShardRecord
    sources: tuple[Receipt | IndexPart, ...]


def by_shard(receipts: Iterable[Receipt]) -> dict[str, list[Receipt]]:
    """The receipts by the URI of their shard, in the order of their rows."""
    grouped: dict[str, list[Receipt]] = {}
    for receipt in sorted(receipts, key=lambda r: (r.shard, r.start)):
        grouped.setdefault(receipt.shard, []).append(receipt)
    return grouped


class OldSource(NamedTuple):
    """Documents of the table to compare with; shard: the number of their `OldShard`, -1 if they are unpublished."""

    shard: int
    documents: Receipt | IndexPart
    origin: Origin


class FileNumber(NamedTuple):
    """The number of a data file in this comparison, and whether its vectors are of another generation than wanted."""

    number: int
    other_generation: bool


@dataclass(frozen=True)
class UnitCounts:
    """What the driver gets of scanned units."""

    good: NDArray[np.int64]
    """[units] rows that can be embedded, those that do not count included; with a filter, the selected rows alone."""
    rejected: list[tuple[str, NDArray[np.int64]]] = field(default_factory=list)
    """Shards and positions of rows that cannot be embedded; with a filter, only if `TaskContext.wants_rejects`."""
    rejected_ids: list[Hashes] = field(default_factory=list)
    """Of documents that cannot be embedded, see `names.OF_NO_DOCUMENT`: [k, 2] of each piece of a unit."""
    selected_ids: list[Hashes] = field(default_factory=list)
    """With a filter, of the selected rows: [k, 2] of each piece of a unit."""
    positions: list[NDArray[np.int64]] = field(default_factory=list)
    """With a filter, those of the selected rows: [k] of each piece of a unit."""


@dataclass(frozen=True)
class ScannedUnit:
    """What a scan keeps of a read unit."""

    unit: int
    shard: str
    hashes: pa.Table
    """[n] id_hash, row_hash and position of the rows that `UnitCounts.good` counts, in order; content_hash if columns
    are carried."""
    rejects: pa.Table
    """Without a filter, rows that cannot be embedded, and those that do not count: columns of
    `names.REJECTS_SCHEMA`."""


@dataclass(frozen=True)
class Joined:
    """What the driver gets of a joined partition."""

    changes: ChangeCounts
    left: int
    """Number of the documents whose ids were not found in the corpus."""
    left_files: NDArray[np.int32]
    """[k] numbers of the data files that have their vectors, ascending."""


def scan(
    units: Sequence[ReadUnit], first: int, context: TaskContext, losing: Mapping[str, LosingRows], partitions: int
) -> tuple[Any, ...]:
    """Read units, of which ``first`` is the number of the first one. losing: by the URI of their shard.

    Returns `UnitCounts`, a list of `ScannedUnit`, then `CorpusRows` for each partition.
    """
    dtype = corpus_dtype(carry=context.carry)
    scanned, counts = [], UnitCounts(np.zeros(len(units), np.int64))
    parts: list[list[CorpusRows]] = [[] for _ in range(partitions)]
    for number, unit in enumerate(units):
        tables, rejects, good = [], [], 0
        for rows in _read(unit, context):
            lost = _losers(losing.get(unit.shard.uri), rows)
            if context.row_filter is None or context.wants_rejects:
                counts.rejected.append((unit.shard.uri, rows.rejects.column(names.POSITION).to_numpy()))
                counts.rejected_ids.append(rejected_ids(rows.rejects))
            if context.row_filter is None:
                rejects += [rows.rejects, _losing_rejects(losing.get(unit.shard.uri), rows, lost, context)]
            else:
                selected = np.flatnonzero(context.row_filter.mask(unit.shard.uri, _columns_of(rows)) & (lost < 0))
                rows, lost = rows.take(pa.array(selected)), lost[selected]
            id_hash = hash_ids(rows.ids.to_pylist())
            ids = halves(id_hash)
            if context.row_filter is not None:
                counts.selected_ids.append(ids)
                counts.positions.append(rows.positions.to_numpy())
            records = make_records(dtype, ids, halves(rows.row_hash), halves(rows.content_hash))
            records["unit"], records["at"] = first + number, np.arange(good, good + len(records))
            records["size"] = np.fromiter(map(len, rows.texts), np.uint32, len(rows.texts))
            records["loses"] = lost >= 0
            _deal(records, ids, parts)
            kept = {names.ID_HASH: id_hash, names.ROW_HASH: rows.row_hash, names.POSITION: rows.positions}
            tables.append(pa.table(kept | ({names.CONTENT_HASH: rows.content_hash} if context.carry else {})))
            good += len(records)
        counts.good[number] = good
        if context.row_filter is None or good:
            hashes = pa.concat_tables(tables).combine_chunks()
            of_unit = pa.concat_tables([names.REJECTS_SCHEMA.empty_table(), *rejects]).combine_chunks()
            scanned.append(ScannedUnit(first + number, unit.shard.uri, hashes, of_unit.sort_by(names.POSITION)))
    return counts, scanned, *(_concatenated(part, dtype) for part in parts)


def _read(unit: ReadUnit, context: TaskContext) -> Iterator[Rows]:
    """The rows of a unit, piece by piece. With a filter, of Parquet those that it may select: it needs no text, and
    texts are then read of these rows alone, or not at all."""
    row_filter, columns = context.row_filter, context.columns
    if row_filter is None or context.wants_rejects or unit.shard.format != PARQUET:
        yield from (rows for _, rows in read_unit(unit, context.corpus, columns))
        return
    needed = row_filter.columns
    some = replace(columns, carry={name: column for name, column in columns.carry.items() if name in needed})
    found = read_for_filter(unit, context.corpus, some, ids=names.ID in needed)
    selected = [piece.positions.filter(pa.array(row_filter.mask(unit.shard.uri, piece.columns))) for piece in found]
    positions = np.concatenate([piece.to_numpy() for piece in selected])
    if len(positions):
        yield from read_positions(unit, positions, context.corpus, columns)


def _columns_of(rows: Rows) -> pa.Table:
    """[n] what a filter may ask for."""
    return pa.table({names.ID: rows.ids, **{name: rows.carry.column(name) for name in rows.carry.column_names}})


def rejected_ids(rejects: pa.Table) -> Hashes:
    """[k, 2] hashes of the ids of documents that cannot be embedded. rejects: columns id and reason of rejects."""
    of_document = pc.invert(pc.is_in(rejects.column(names.REASON), pa.array(names.OF_NO_DOCUMENT)))
    ids = rejects.column(names.ID).filter(of_document).drop_null()
    return halves(hash_ids(ids.to_pylist()))


def _losers(losing: LosingRows | None, rows: Rows) -> NDArray[np.int64]:
    """[n] for each of the rows its number in ``losing``, -1 if it counts."""
    return np.full(len(rows.positions), -1) if losing is None else losing.find(rows.positions.to_numpy())


def _losing_rejects(losing: LosingRows | None, rows: Rows, lost: NDArray[np.int64], context: TaskContext) -> pa.Table:
    """The rejects of the rows that do not count. lost: [n] of `_losers`."""
    at = np.flatnonzero(lost >= 0)
    if losing is None or context.duplicate_rule is None or not len(at):
        return names.REJECTS_SCHEMA.empty_table()
    why, chosen = comes_last(context.duplicate_rule), pa.array(at)
    return pa.table(
        {
            names.ID: [str(id_) for id_ in rows.ids.take(chosen).to_pylist()],
            names.SHARD: rows.shards.take(chosen).cast(pa.string()),
            names.POSITION: rows.positions.take(chosen),
            names.REASON: [names.DUPLICATE_ID] * len(at),
            names.MESSAGE: [losing.message(row, why) for row in lost[at].tolist()],
        },
        schema=names.REJECTS_SCHEMA,
    )


def read_old(
    sources: Sequence[OldSource],
    files: Mapping[str, FileNumber],
    context: TaskContext,
    wanted: Hashes | None,
    partitions: int,
) -> tuple[Any, ...]:
    """Read documents of the table. files: by split id; wanted: ids of the documents that matter, of `sorted_ids`; None:
    all.

    Returns the numbers of the shards that have ``wanted`` documents, then `Documents` for each partition. Raises
    TableError, ObjectNotFound.
    """
    holding: set[int] = set()
    store = open_store(context.table, context.table_storage)
    indexes = PartReader(store, columns_of_entries())
    dtype = document_dtype(carry=context.carry)
    parts: list[list[Documents]] = [[] for _ in range(partitions)]

    def read() -> Iterator[tuple[OldSource, Receipt | IndexPart, Entries]]:
        for source in sources:
            entries = _read_entries(store, indexes, source, files, context)
            if entries is not None and wanted is not None:
                entries = entries.take(np.flatnonzero(among_sorted(entries.ids, wanted)))
            if entries is not None:
                yield source, source.documents, entries

    for source, entries in _in_layout(store, read(), context.layout):
        holding |= {source.shard} if wanted is not None and len(entries) else set()
        of_file = [files[split_id] for split_id in entries.split_ids]
        origins = [Origin.OTHER_GENERATION if file.other_generation else source.origin for file in of_file]
        records = make_records(dtype, entries.ids, entries.rows, entries.contents)
        records["shard"] = source.shard
        records["file"] = np.array([file.number for file in of_file], np.int32)[entries.files]
        records["first"], records["vectors"] = entries.row, entries.vectors
        records["origin"] = np.array(origins, np.uint8)[entries.files]
        _deal(records, entries.ids, parts)
    return sorted(holding), *(_concatenated(part, dtype) for part in parts)


def read_others(
    store: Store, several: Sequence[tuple[Receipt | IndexPart, Hashes]], context: TaskContext
) -> list[Entries]:
    """Documents of the base snapshot, each time those whose ids are none of [k, 2] ids, of `sorted_ids`. Raises as
    `read_old`."""
    indexes = PartReader(store, columns_of_entries())

    def read(number: int) -> Entries:
        documents, ids = several[number]
        entries = _entries_in(store, indexes, documents, context)
        return entries.take(np.flatnonzero(~among_sorted(entries.ids, ids)))

    found = ((number, several[number][0], read(number)) for number in range(len(several)))
    by_number = dict(_in_layout(store, found, context.layout))
    return [by_number[number] for number in range(len(several))]


def _read_entries(
    store: Store, indexes: PartReader, source: OldSource, files: Mapping[str, FileNumber], context: TaskContext
) -> Entries | None:
    """None if an unpublished data file is damaged or was swept meanwhile: its vectors are then not reused."""
    try:
        return _entries_in(store, indexes, source.documents, context, files)
    except (TableError, ObjectNotFound):
        if source.origin == Origin.UNPUBLISHED:
            return None
        raise


def _entries_in(
    store: Store,
    indexes: PartReader,
    documents: Receipt | IndexPart,
    context: TaskContext,
    files: Container[str] | None = None,
) -> Entries:
    """As they are listed, see `_in_layout`. files: split ids of those that are there, None: all. In a repair, some
    entries point into lost files."""
    if isinstance(documents, IndexPart):
        entries = entries_of(indexes.read(documents))
        return entries if files is None else entries.within(files)
    return read_owned(store, documents, context.layout, context.fingerprint)


def _in_layout(
    store: Store, found: Iterable[tuple[S, Receipt | IndexPart, Entries]], layout: Layout
) -> Iterator[tuple[S, Entries]]:
    """The entries with row hashes of the layout; those of indexes whose row hashes cover other columns come last."""
    waiting: list[tuple[S, Entries]] = []
    for source, documents, entries in found:
        if isinstance(documents, IndexPart) and documents.covers != layout.covers:
            waiting.append((source, entries))
        else:
            yield source, entries
    new = rehashed(store, [entries for _, entries in waiting], layout)
    yield from zip((source for source, _ in waiting), new, strict=True)


def join_partition(new: int, firsts: Sequence[int], context: TaskContext, *parts: NDArray[np.void]) -> tuple[Any, ...]:
    """Join one partition: the first ``new`` parts are rows of the corpus, the others documents of the table.

    firsts: number of the first unit of each scan task. Returns `Joined`, the documents whose ids were not found, then
    `Decisions` for each scan task; of no rows, once, if there is no such task.
    """
    found = join(
        _concatenated(parts[:new], corpus_dtype(carry=context.carry)),
        _concatenated(parts[new:], document_dtype(carry=context.carry)),
    )
    of_tasks = np.searchsorted(np.asarray(firsts, np.int64), found.decisions["unit"], side="right") - 1
    summary = Joined(found.changes, len(found.left), np.unique(found.left["file"]))
    return summary, found.left, *split_by(of_tasks, found.decisions, max(1, len(firsts)))


def _deal(records: NDArray[np.void], ids: Hashes, parts: list[list[NDArray[np.void]]]) -> None:
    """Append to each partition those of the records [n] whose ids [n, 2] belong to it."""
    for part, some in zip(parts, split_by(partition_of(ids, len(parts)), records, len(parts)), strict=True):
        part.append(some)


def _concatenated(records: Sequence[NDArray[np.void]], dtype: np.dtype[np.void]) -> NDArray[np.void]:
    return np.concatenate(records) if records else np.empty(0, dtype)
