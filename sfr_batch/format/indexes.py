"""Index files: which rows a shard consists of, and where their vectors are. Reads data files as if they were indexes.

If the rows of a shard are exactly those of its own data files, it has no index. Every other shard has parts of index
files, in order. Knows stores, receipts and hashes; `planning` compares snapshots.
"""

import dataclasses
import threading
from collections.abc import Callable, Container, Iterator, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import TypeVar

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
from numpy.typing import NDArray

from sfr_batch.errors import TableError
from sfr_batch.format import names
from sfr_batch.format.hashes import Hashes, halves, hash_ids, whole
from sfr_batch.format.layout import Layout
from sfr_batch.format.parquet import (
    damage_explained,
    encode_parquet,
    gather_columns,
    open_parquet,
    read_data_file,
    read_file_of_pack,
)
from sfr_batch.format.records import IndexPart, Receipt
from sfr_batch.storage.parallel import in_parallel
from sfr_batch.storage.store import Store

T = TypeVar("T")
R = TypeVar("R")

PARALLEL_READS = 32
"""Files that are read at a time, if they have few documents."""
ROWS_AHEAD = 2**19
"""Limit of documents that are read ahead, about 200 bytes each. A single file may have more."""
ROWS_A_GROUP = 2**16
"""Rows of a row group of an index file: reading a part reads little else."""
_KEPT, _ROWS_KEPT = 8, 2 * ROWS_A_GROUP
"""How many row groups are kept for the next part, and their rows at most."""
_WHERE = [names.ID_HASH, names.SPLIT_ID, names.ROW, names.VECTORS]
"""Columns that locate the vectors of a document."""


@dataclass(frozen=True)
class Entries:
    """Documents that have vectors, in the order of their shard.

    ids, rows, contents: [n, 2] hashes, see `hashes`; files: [n] index into ``split_ids`` of the data file with the
    vectors; row, vectors: [n] first row in that file, and number of rows.
    """

    split_ids: list[str]
    ids: Hashes
    rows: Hashes
    contents: Hashes
    files: NDArray[np.int32]
    row: NDArray[np.int64]
    vectors: NDArray[np.int32]
    at: NDArray[np.int64]
    """[n] number of each in its source: among the rows of an index, or among the documents of a data file."""

    def __len__(self) -> int:
        return len(self.ids)

    def take(self, at: NDArray[np.intp]) -> "Entries":
        """Those with these numbers."""
        fields = ("ids", "rows", "contents", "files", "row", "vectors", "at")
        return Entries(self.split_ids, **{name: getattr(self, name)[at] for name in fields})

    def by_file(self) -> Iterator[tuple[str, NDArray[np.intp]]]:
        """The data files that have vectors of some, and [k] the numbers of these."""
        order = np.argsort(self.files, kind="stable")
        bounds = np.searchsorted(self.files[order], np.arange(len(self.split_ids) + 1)).tolist()
        for split_id, (start, end) in zip(self.split_ids, pairwise(bounds), strict=True):
            if end > start:
                yield split_id, order[start:end]

    def within(self, files: Container[str]) -> "Entries":
        """Those whose vectors are in one of these data files, by split id."""
        there = np.array([split_id in files for split_id in self.split_ids], bool)
        if there.all():
            return self
        number, mask = np.cumsum(there) - 1, there[self.files]
        return Entries(
            split_ids=[split_id for split_id in self.split_ids if split_id in files],
            ids=self.ids[mask],
            rows=self.rows[mask],
            contents=self.contents[mask],
            files=number[self.files[mask]].astype(np.int32),
            row=self.row[mask],
            vectors=self.vectors[mask],
            at=self.at[mask],
        )


def read_owned(store: Store, receipt: Receipt, layout: Layout, fingerprint: str, *, hashes: bool = True) -> Entries:
    """All documents of a data file, in order. ``hashes``: whether the hashes of rows and texts are needed.

    layout: of which the row hashes are.

    Raises TableError, CountsDoNotClose, as `read_data_file`.
    """
    table = read_data_file(store, receipt, _columns_of_file(layout, hashes=hashes), fingerprint, layout)
    return _entries_of_file(table, receipt.split_id, layout, hashes=hashes)


def read_pack(store: Store, receipt: Receipt, layout: Layout, fingerprint: str) -> tuple[Entries, NDArray[np.int64]]:
    """All documents of a data file of a pack, in order; and how many of them each shard of the pack has, up to the
    last one that has some.

    Raises TableError, CountsDoNotClose, as `read_data_file`.
    """
    columns = _columns_of_file(layout, hashes=True)
    table, pieces = read_file_of_pack(store, receipt, columns, fingerprint, layout)
    return _entries_of_file(table, receipt.split_id, layout, hashes=True), np.array(pieces, np.int64)


def _columns_of_file(layout: Layout, *, hashes: bool) -> list[str]:
    columns = [names.ID, *([names.CHUNK] if names.CHUNK in layout.schema.names else [])]
    return [*columns, *(dict.fromkeys([names.CONTENT_HASH, layout.row_hash_column]) if hashes else ())]


def _entries_of_file(table: pa.Table, split_id: str, layout: Layout, *, hashes: bool) -> Entries:
    row_hash = layout.row_hash_column
    first, vectors = first_rows(table)
    table = table.take(pa.array(first)) if len(first) < table.num_rows else table
    ids = halves(hash_ids(table.column(names.ID).to_pylist()))
    return Entries(
        split_ids=[split_id],
        ids=ids,
        rows=halves(table.column(row_hash)) if hashes else ids,
        contents=halves(table.column(names.CONTENT_HASH)) if hashes else ids,
        files=np.zeros(len(first), np.int32),
        row=first,
        vectors=vectors,
        at=np.arange(len(first)),
    )


def first_rows(table: pa.Table) -> tuple[NDArray[np.int64], NDArray[np.int32]]:
    """The first row of each document of a data file, and how many rows it has."""
    if names.CHUNK not in table.column_names:
        return np.arange(table.num_rows), np.ones(table.num_rows, np.int32)
    first = np.flatnonzero(table.column(names.CHUNK).to_numpy() == 0)
    return first, np.diff(np.append(first, table.num_rows)).astype(np.int32)


def read_part(store: Store, part: IndexPart, columns: Sequence[str] | None = None) -> pa.Table:
    """The rows of a part of an index, ``columns`` of `names.INDEX_SCHEMA`, default all.

    Raises ObjectNotFound, or TableError.
    """
    first, table = _row_groups_of(store, part, columns)
    return table.slice(part.start - first, part.rows)


def _row_groups_of(store: Store, part: IndexPart, columns: Sequence[str] | None) -> tuple[int, pa.Table]:
    """The row groups that have rows of a part, and the number of their first row in the file."""
    with damage_explained(store, part.key), store.open(part.key, part.size) as file:
        reader = pq.ParquetFile(file, pre_buffer=False, page_checksum_verification=True)
        groups, skipped, row = [], 0, 0
        for number in range(reader.num_row_groups):
            end = row + reader.metadata.row_group(number).num_rows
            if end <= part.start:
                skipped = end
            elif row < part.start + part.rows:
                groups.append(number)
            row = end
        if row < part.start + part.rows:
            raise OSError(f"it has {row:,} rows, rows up to {part.start + part.rows:,} are needed")
        schema = names.INDEX_SCHEMA if columns is None else pa.schema([names.INDEX_SCHEMA.field(c) for c in columns])
        for number in groups:
            gather_columns(file, reader, schema.names, number)
        table = reader.read_row_groups(groups, columns, use_threads=False) if groups else schema.empty_table()
    return skipped, table


class PartReader:
    """Reads parts of index files, of which one file may have ten thousand: the row groups of a part are kept for the
    next one, which mostly is in them, too. Several threads may read.
    """

    def __init__(self, store: Store, columns: Sequence[str] | None = None) -> None:
        """columns: of `names.INDEX_SCHEMA`, default all."""
        self.store, self._columns = store, columns
        self._lock = threading.Lock()
        self._locks: dict[str, threading.Lock] = {}
        self._kept: dict[tuple[str, int], pa.Table] = {}
        """Row groups by file and number of their first row."""

    def read(self, part: IndexPart) -> pa.Table:
        """As `read_part`."""
        with self._lock:
            of_file = self._locks.setdefault(part.key, threading.Lock())
        with of_file:
            first, table = self._find(part) or _row_groups_of(self.store, part, self._columns)
            self._keep(part.key, first, table)
        return table.slice(part.start - first, part.rows)

    def _find(self, part: IndexPart) -> tuple[int, pa.Table] | None:
        with self._lock:
            kept = [(first, table) for (key, first), table in self._kept.items() if key == part.key]
        end = part.start + part.rows
        return next((its for its in kept if its[0] <= part.start and end <= its[0] + its[1].num_rows), None)

    def _keep(self, key: str, first: int, table: pa.Table) -> None:
        with self._lock:
            if table.num_rows <= _ROWS_KEPT:
                self._kept[key, first] = table
            while len(self._kept) > _KEPT:
                del self._kept[next(iter(self._kept))]


def columns_of_entries(*, hashes: bool = True) -> list[str]:
    """The columns of an index that `entries_of` needs."""
    return [*_WHERE, *([names.ROW_HASH, names.CONTENT_HASH] if hashes else [])]


def entries_of(index: pa.Table) -> Entries:
    """The documents with vectors among the rows of an index. If it has no ``row_hash``, ``rows`` equals ``ids``."""
    at = np.arange(index.num_rows)
    if index.column(names.SPLIT_ID).null_count:
        valid = pc.is_valid(index.column(names.SPLIT_ID))
        index, at = index.filter(valid), at[valid.to_numpy()]
    files = index.column(names.SPLIT_ID).dictionary_encode().combine_chunks()
    ids = halves(index.column(names.ID_HASH))
    with_hashes = names.ROW_HASH in index.column_names
    rows = halves(index.column(names.ROW_HASH)) if with_hashes else ids
    contents = rows
    if with_hashes and (none := index.column(names.CONTENT_HASH).null_count) < index.num_rows:
        # Parts that were written before any column was carried have none.
        texts = index.column(names.CONTENT_HASH)
        contents = halves(pc.coalesce(texts, index.column(names.ROW_HASH)) if none else texts)
    return Entries(
        split_ids=files.dictionary.to_pylist(),
        ids=ids,
        rows=rows,
        contents=contents,
        files=files.indices.to_numpy().astype(np.int32),
        row=index.column(names.ROW).to_numpy(),
        vectors=index.column(names.VECTORS).to_numpy(),
        at=at,
    )


def rehashed(store: Store, several: Sequence[Entries], layout: Layout) -> list[Entries]:
    """The entries of several indexes with row hashes of this layout, computed from the carried columns of the data
    files. Each file is read once, whichever entries point into it: those of a thousand small shards may share one.

    For indexes whose row hashes cover other columns. Raises ObjectNotFound, or TableError.
    """
    if layout.row_hash_column == names.CONTENT_HASH:
        return [dataclasses.replace(entries, rows=entries.contents) for entries in several]
    rows = [np.empty_like(entries.rows) for entries in several]
    in_file: dict[str, list[tuple[int, NDArray[np.intp]]]] = {}
    for number, entries in enumerate(several):
        for split_id, its in entries.by_file():
            in_file.setdefault(split_id, []).append((number, its))
    for split_id, users in in_file.items():
        key = names.data_key(split_id)
        with damage_explained(store, key), store.open(key) as file:
            found = halves(layout.read(open_parquet(file), [names.ROW_HASH]).column(0))
        for number, its in users:
            rows[number][its] = found[several[number].row[its]]
    return [dataclasses.replace(entries, rows=its) for entries, its in zip(several, rows, strict=True)]


def rejects_of(index: pa.Table, shard: str) -> pa.Table:
    """The rejects among the rows of an index, columns of `names.REJECTS_SCHEMA`."""
    index = index.filter(pc.is_valid(index.column(names.REASON)))
    columns = {names.SHARD: pa.repeat(pa.scalar(shard), index.num_rows)}
    columns |= {name: index.column(name) for name in (names.ID, names.POSITION, names.REASON, names.MESSAGE)}
    return pa.table([columns[field.name] for field in names.REJECTS_SCHEMA], schema=names.REJECTS_SCHEMA)


def read_ahead(read: Callable[[T], R], sources: Sequence[T], rows: Sequence[int]) -> Iterator[R]:
    """``read(source)`` of each source, in order, in bounded memory. rows: [sources] approximate number of documents."""
    return in_parallel(read, sources, PARALLEL_READS, rows, ROWS_AHEAD)


@dataclass(frozen=True)
class Located:
    """The rows of a shard, or of a piece of it, in the form of an index.

    index: columns of `names.INDEX_SCHEMA`, those with vectors first, in order.
    """

    shard: str
    index: pa.Table
    covers: str = ""
    """What its row hashes cover, as in a receipt."""

    @property
    def rejected(self) -> int:
        return int(self.index.num_rows - pc.count(self.index.column(names.SPLIT_ID)).as_py())

    @property
    def superseded(self) -> int:
        """Number of the rejected rows that were not embedded because another row has their id."""
        return int(pc.sum(pc.equal(self.index.column(names.REASON), names.DUPLICATE_ID)).as_py() or 0)


def index_of_entries(entries: Entries, rejects: pa.Table, *, contents: bool) -> pa.Table:
    """Documents [n] and rejects as index rows. contents: whether it needs the hashes of their texts. The positions of
    the documents are 0: nobody asks for them."""
    hashes = {
        names.ID_HASH: whole(entries.ids),
        names.ROW_HASH: whole(entries.rows),
        names.POSITION: pa.array(np.zeros(len(entries), np.int64)),
    }
    hashes |= {names.CONTENT_HASH: whole(entries.contents)} if contents else {}
    split_ids = pa.DictionaryArray.from_arrays(pa.array(entries.files), pa.array(entries.split_ids, pa.string()))
    return index_table(pa.table(hashes), split_ids.dictionary_decode(), entries.row, entries.vectors, rejects)


def index_table(
    hashes: pa.Table, split_ids: pa.Array, row: NDArray[np.int64], vectors: NDArray[np.int32], rejects: pa.Table
) -> pa.Table:
    """Rows of an index.

    hashes: [n] id_hash, row_hash, content_hash and position of rows with vectors; split_ids, row, vectors: [n] their
    place; rejects: columns of `names.REJECTS_SCHEMA` of rows without.
    """
    empty = {field.name: pa.nulls(hashes.num_rows, field.type) for field in names.INDEX_SCHEMA}
    given = {name: hashes.column(name) for name in hashes.column_names}
    given |= {
        names.SPLIT_ID: split_ids,
        names.ROW: pa.array(row, pa.int64()),
        names.VECTORS: pa.array(vectors, pa.int32()),
    }
    good = pa.table({name: (empty | given)[name] for name in names.INDEX_SCHEMA.names}).cast(names.INDEX_SCHEMA)
    if not rejects.num_rows:
        return good
    empty = {field.name: pa.nulls(rejects.num_rows, field.type) for field in names.INDEX_SCHEMA}
    given = {name: rejects.column(name) for name in (names.ID, names.POSITION, names.REASON, names.MESSAGE)}
    bad = pa.table({name: (empty | given)[name] for name in names.INDEX_SCHEMA.names}).cast(names.INDEX_SCHEMA)
    return pa.concat_tables([good, bad])


def write_index(store: Store, key: str, located: Sequence[Located]) -> list[IndexPart]:
    """Write rows of shards as one index file, under a name that no other writer uses. Returns their parts."""
    parts, start = [], 0
    for piece in located:
        parts.append(IndexPart(piece.shard, key, start, piece.index.num_rows, piece.covers))
        start += piece.index.num_rows
    write_index_rows(store, key, pa.concat_tables([piece.index for piece in located]))
    return parts


def write_index_rows(store: Store, key: str, rows: pa.Table) -> None:
    """Write an index file, under a name that no other writer uses. rows: columns of `names.INDEX_SCHEMA`."""
    create_own(store, key, encode_parquet(rows, row_group_size=ROWS_A_GROUP))


def create_own(store: Store, key: str, data: bytes) -> None:
    """Create a file under a name that no other writer uses. Raises TableError if it exists with other content."""
    if not store.create(key, data) and store.read(key) != data:
        raise TableError(
            f"{store.root}/{key} exists with other content, although no other run uses this name. This is a bug: "
            "please report it."
        )


def joined(parts: Sequence[IndexPart]) -> Iterator[IndexPart]:
    """Parts, with those merged that follow each other in a file, belong to one shard and cover the same."""
    last: IndexPart | None = None
    for part in parts:
        if last and part == dataclasses.replace(last, start=last.start + last.rows, rows=part.rows):
            last = dataclasses.replace(last, rows=last.rows + part.rows)
            continue
        if last:
            yield last
        last = part
    if last:
        yield last
