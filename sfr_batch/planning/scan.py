"""The tasks of a comparison: scan shards, read what the table has of them, join one partition of the ids."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from sfr_batch.config.settings import CorpusSettings, StorageSettings
from sfr_batch.corpus.columns import Columns
from sfr_batch.corpus.reader import read_unit
from sfr_batch.corpus.splits import ReadUnit
from sfr_batch.errors import ObjectNotFound, TableError
from sfr_batch.format import names
from sfr_batch.format.hashes import Hashes, halves, hash_ids
from sfr_batch.format.indexes import Entries, read_entries, read_owned
from sfr_batch.format.records import IndexPart, Receipt, ShardRecord
from sfr_batch.planning.join import (
    CorpusRows,
    Documents,
    JoinResult,
    Origin,
    corpus_dtype,
    document_dtype,
    join,
    make_records,
    partition_of,
)
from sfr_batch.planning.row_filter import RowFilter
from sfr_batch.storage.store import Store
from sfr_batch.storage.stores import open_store


@dataclass(frozen=True)
class TaskContext:
    """What every task needs to know of corpus and table. Secrets in it are references, not values."""

    corpus: CorpusSettings
    columns: Columns
    table: str
    table_storage: StorageSettings
    schema: pa.Schema
    fingerprint: str
    row_filter: RowFilter | None = None
    """The filter for the rows to compare; None: all rows."""

    @property
    def carry(self) -> bool:
        return bool(self.columns.carry)


@dataclass(frozen=True)
class OldShard:
    """A shard in the base snapshot: its record, and the data files or parts of indexes that list its documents."""

    record: ShardRecord
    sources: tuple[Receipt | IndexPart, ...]


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
class ScannedUnit:
    """What a scan keeps of a read unit."""

    unit: int
    shard: str
    hashes: pa.Table
    """[n] id_hash, row_hash and position of the good rows, in order; content_hash if columns are carried."""
    rejects: pa.Table
    """Rows that cannot be embedded: columns of `names.REJECTS_SCHEMA`."""


def scan(units: Sequence[ReadUnit], first: int, context: TaskContext, partitions: int) -> tuple[Any, ...]:
    """Read units, of which ``first`` is the number of the first one.

    Returns [units] counts of the good rows, a list of `ScannedUnit`, then `CorpusRows` for each partition.
    """
    dtype = corpus_dtype(carry=context.carry)
    scanned, counts = [], np.zeros(len(units), np.int64)
    parts: list[list[CorpusRows]] = [[] for _ in range(partitions)]
    for number, unit in enumerate(units):
        tables, rejects, good = [], [], 0
        for _, rows in read_unit(unit, context.corpus, context.columns):
            id_hash = hash_ids(rows.ids.to_pylist())
            ids = halves(id_hash)
            records = make_records(dtype, ids, halves(rows.row_hash), halves(rows.content_hash))
            records["unit"], records["at"] = first + number, np.arange(good, good + len(records))
            records["size"] = np.fromiter(map(len, rows.texts), np.uint32, len(rows.texts))
            if context.row_filter is None:
                _deal(records, ids, parts)
                rejects.append(rows.rejects)
            else:
                chosen = context.row_filter.mask(unit.shard.uri, rows)
                _deal(records[chosen], ids[chosen], parts)
                rejects.append(rows.rejects.slice(0, 0))
            kept = {names.ID_HASH: id_hash, names.ROW_HASH: rows.row_hash, names.POSITION: rows.positions}
            tables.append(pa.table(kept | ({names.CONTENT_HASH: rows.content_hash} if context.carry else {})))
            good += len(records)
        hashes = pa.concat_tables(tables).combine_chunks()
        scanned.append(ScannedUnit(first + number, unit.shard.uri, hashes, pa.concat_tables(rejects).combine_chunks()))
        counts[number] = good
    return counts, scanned, *(_concatenated(part, dtype) for part in parts)


def read_old(
    sources: Sequence[OldSource], files: Mapping[str, FileNumber], context: TaskContext, partitions: int
) -> tuple[Any, ...]:
    """Read documents of the table. files: by split id.

    Returns None, then `Documents` for each partition. Raises TableError, ObjectNotFound.
    """
    store = open_store(context.table, context.table_storage)
    dtype = document_dtype(carry=context.carry)
    parts: list[list[Documents]] = [[] for _ in range(partitions)]
    for source in sources:
        entries = _read_entries(store, source, context)
        if entries is None:
            continue
        of_file = [files[split_id] for split_id in entries.split_ids]
        origins = [Origin.OTHER_GENERATION if file.other_generation else source.origin for file in of_file]
        records = make_records(dtype, entries.ids, entries.rows, entries.contents)
        records["shard"] = source.shard
        records["file"] = np.array([file.number for file in of_file], np.int32)[entries.files]
        records["first"], records["vectors"] = entries.row, entries.vectors
        records["origin"] = np.array(origins, np.uint8)[entries.files]
        _deal(records, entries.ids, parts)
    return None, *(_concatenated(part, dtype) for part in parts)


def _read_entries(store: Store, source: OldSource, context: TaskContext) -> Entries | None:
    """None if an unpublished data file is damaged or was swept meanwhile: its vectors are then not reused."""
    if isinstance(source.documents, IndexPart):
        return read_entries(store, source.documents)
    try:
        return read_owned(store, source.documents, context.schema, context.fingerprint)
    except (TableError, ObjectNotFound):
        if source.origin == Origin.UNPUBLISHED:
            return None
        raise


def join_partition(new: int, context: TaskContext, *parts: NDArray[np.void]) -> JoinResult:
    """Join one partition: the first ``new`` parts are rows of the corpus, the others documents of the table."""
    return join(
        _concatenated(parts[:new], corpus_dtype(carry=context.carry)),
        _concatenated(parts[new:], document_dtype(carry=context.carry)),
    )


def _deal(records: NDArray[np.void], ids: Hashes, parts: list[list[NDArray[np.void]]]) -> None:
    """Append to each partition those of the records [n] whose ids [n, 2] belong to it."""
    if len(parts) == 1:
        parts[0].append(records)
        return
    partition = partition_of(ids, len(parts))
    order = np.argsort(partition, kind="stable")
    bounds = np.cumsum(np.bincount(partition, minlength=len(parts)))[:-1]
    for part, some in zip(parts, np.split(records[order], bounds), strict=True):
        part.append(some)


def _concatenated(records: Sequence[NDArray[np.void]], dtype: np.dtype[np.void]) -> NDArray[np.void]:
    return np.concatenate(records) if records else np.empty(0, dtype)
