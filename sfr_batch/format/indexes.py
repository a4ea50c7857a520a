"""Which rows a shard version consists of, and where their vectors are: read from data files and indexes, and written.

A shard whose rows are just those of its own data files has no index: they are it. Any other has parts of index files,
in order. Knows stores, receipts and hashes; what two snapshots have in common is `incremental`'s.
"""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import TypeVar

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
from numpy.typing import NDArray

from sfr_batch.errors import TableError
from sfr_batch.format import names
from sfr_batch.format.hashes import Hashes, halves, hash_ids
from sfr_batch.format.parquet import damage_explained, encode_parquet, read_data_file
from sfr_batch.format.records import IndexPart, Receipt
from sfr_batch.storage.parallel import in_parallel
from sfr_batch.storage.store import Store

T = TypeVar("T")
R = TypeVar("R")

PARALLEL_READS = 32
"""Files whose documents are read at a time, as long as these are few."""
ROWS_AHEAD = 2**19
"""Documents that are read ahead, at about 200 bytes each, unless one file has more."""
ROWS_A_TASK = 2**18
_ROWS_A_GROUP = 2**16
"""Rows of a row group of an index file: a part is read without much of what is beside it."""
_WHERE = [names.ID_HASH, names.SPLIT_ID, names.ROW, names.VECTORS]
"""Columns that say whose vectors are where."""


@dataclass(frozen=True)
class Entries:
    """Documents that have vectors, in the order of their shard.

    ids, rows, contents: [n, 2] hashes, see `identity`; files: [n] which of ``split_ids`` has the vectors; row, vectors:
    [n] the first row of each there, and how many it has.
    """

    split_ids: list[str]
    ids: Hashes
    rows: Hashes
    contents: Hashes
    files: NDArray[np.int32]
    row: NDArray[np.int64]
    vectors: NDArray[np.int32]

    def __len__(self) -> int:
        return len(self.ids)


def read_owned(store: Store, receipt: Receipt, schema: pa.Schema, fingerprint: str, *, hashes: bool = True) -> Entries:
    """All documents of a data file, in order. ``hashes``: whether those of rows and texts are needed.

    Raises TableError, CountsDoNotClose, as `read_data_file`.
    """
    row_hash = names.ROW_HASH if names.ROW_HASH in schema.names else names.CONTENT_HASH
    columns = [names.ID, *([names.CHUNK] if names.CHUNK in schema.names else [])]
    columns += dict.fromkeys([names.CONTENT_HASH, row_hash]) if hashes else []
    table = read_data_file(store, receipt, columns, fingerprint)
    first, vectors = first_rows(table)
    table = table.take(pa.array(first)) if len(first) < table.num_rows else table
    ids = halves(hash_ids(table.column(names.ID).to_pylist()))
    return Entries(
        split_ids=[receipt.split_id],
        ids=ids,
        rows=halves(table.column(row_hash)) if hashes else ids,
        contents=halves(table.column(names.CONTENT_HASH)) if hashes else ids,
        files=np.zeros(len(first), np.int32),
        row=first,
        vectors=vectors,
    )


def first_rows(table: pa.Table) -> tuple[NDArray[np.int64], NDArray[np.int32]]:
    """The first row of each document of a data file, and how many rows it has."""
    if names.CHUNK not in table.column_names:
        return np.arange(table.num_rows), np.ones(table.num_rows, np.int32)
    first = np.flatnonzero(table.column(names.CHUNK).to_numpy() == 0)
    return first, np.diff(np.append(first, table.num_rows)).astype(np.int32)


def read_part(store: Store, part: IndexPart, columns: Sequence[str] | None = None) -> pa.Table:
    """The rows of a part of an index, ``columns`` of `schema.INDEX_SCHEMA`, default all.

    Raises ObjectNotFound, or TableError.
    """
    with damage_explained(store, part.key), store.open(part.key) as file:
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
        table = reader.read_row_groups(groups, columns, use_threads=False) if groups else schema.empty_table()
    return table.slice(part.start - skipped, part.rows)


def read_entries(store: Store, part: IndexPart, *, hashes: bool = True) -> Entries:
    """The documents with vectors of a part of an index. ``hashes``: whether those of rows and texts are needed.

    Raises ObjectNotFound, or TableError.
    """
    columns = [*_WHERE, *([names.ROW_HASH, names.CONTENT_HASH] if hashes else [])]
    return entries_of(read_part(store, part, columns))


def entries_of(index: pa.Table) -> Entries:
    """The documents with vectors among the rows of an index; hashes that are not among its columns are those of ids."""
    if index.column(names.SPLIT_ID).null_count:
        index = index.filter(pc.is_valid(index.column(names.SPLIT_ID)))
    files = index.column(names.SPLIT_ID).dictionary_encode().combine_chunks()
    ids = halves(index.column(names.ID_HASH))
    with_hashes = names.ROW_HASH in index.column_names
    rows = halves(index.column(names.ROW_HASH)) if with_hashes else ids
    carry = with_hashes and not index.column(names.CONTENT_HASH).null_count
    return Entries(
        split_ids=files.dictionary.to_pylist(),
        ids=ids,
        rows=rows,
        contents=halves(index.column(names.CONTENT_HASH)) if carry else rows,
        files=files.indices.to_numpy().astype(np.int32),
        row=index.column(names.ROW).to_numpy(),
        vectors=index.column(names.VECTORS).to_numpy(),
    )


def rejects_of(index: pa.Table, shard: str) -> pa.Table:
    """The rejects among the rows of an index, columns of `schema.REJECTS_SCHEMA`."""
    index = index.filter(pc.is_valid(index.column(names.REASON)))
    columns = {names.SHARD: pa.repeat(pa.scalar(shard), index.num_rows)}
    columns |= {name: index.column(name) for name in (names.ID, names.POSITION, names.REASON, names.MESSAGE)}
    return pa.table([columns[field.name] for field in names.REJECTS_SCHEMA], schema=names.REJECTS_SCHEMA)


def read_ahead(read: Callable[[T], R], sources: Sequence[T], rows: Sequence[int]) -> Iterator[R]:
    """``read`` of each of some sources, in their order, in bounded memory. rows: [sources] documents of each, about."""
    return in_parallel(read, sources, PARALLEL_READS, rows, ROWS_AHEAD)


@dataclass(frozen=True)
class Located:
    """The rows of a shard, or of a piece of it, as an index will have them.

    index: columns of `schema.INDEX_SCHEMA`, those with vectors first, in order.
    """

    shard: str
    index: pa.Table

    @property
    def rejected(self) -> int:
        return int(self.index.num_rows - pc.count(self.index.column(names.SPLIT_ID)).as_py())


def index_table(
    hashes: pa.Table, split_ids: pa.Array, row: NDArray[np.int64], vectors: NDArray[np.int32], rejects: pa.Table
) -> pa.Table:
    """Rows of an index.

    hashes: [n] id_hash, row_hash, content_hash and position of rows with vectors; split_ids, row, vectors: [n] where;
    rejects: columns of `schema.REJECTS_SCHEMA` of rows without.
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
    """Write rows of shards as one index file, under a name that is nobody else's. Returns where they are in it."""
    parts, start = [], 0
    for piece in located:
        parts.append(IndexPart(piece.shard, key, start, piece.index.num_rows))
        start += piece.index.num_rows
    data = encode_parquet(pa.concat_tables([piece.index for piece in located]), row_group_size=_ROWS_A_GROUP)
    create_own(store, key, data)
    return parts


def create_own(store: Store, key: str, data: bytes) -> None:
    """Create a file under a name that nobody else can have; finding it there means a lost reply, or a bug."""
    if not store.create(key, data) and store.read(key) != data:
        raise TableError(f"{store.root}/{key} exists with other content; its name should be this run's alone.")


def joined(parts: Sequence[IndexPart]) -> Iterator[IndexPart]:
    """Parts of one shard, those that follow each other in a file as one."""
    last: IndexPart | None = None
    for part in parts:
        if last and (last.key, last.shard, last.start + last.rows) == (part.key, part.shard, part.start):
            last = IndexPart(last.shard, last.key, last.start, last.rows + part.rows)
            continue
        if last:
            yield last
        last = part
    if last:
        yield last
