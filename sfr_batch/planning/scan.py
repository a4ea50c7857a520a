"""Tasks of a comparison: scan shards, read what the table has of them, join one partition of ids."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from sfr_batch.config.settings import CorpusSettings, StorageSettings
from sfr_batch.corpus.columns import Columns
from sfr_batch.corpus.reader import read_unit
from sfr_batch.corpus.splits import ReadUnit
from sfr_batch.errors import ObjectNotFound, TableError
from sfr_batch.format.hashes import halves, hash_ids
from sfr_batch.format.indexes import (
    read_entries,
    read_owned,
)
from sfr_batch.format.records import IndexPart, Receipt
from sfr_batch.planning.join import (
    Joined,
    Records,
    Was,
    join,
    make_records,
    new_dtype,
    old_dtype,
    partition_of,
)
from sfr_batch.planning.selection import RowFilter
from sfr_batch.storage.stores import open_store


@dataclass(frozen=True)
class Source:
    """What tasks need to know of corpus and table. Secrets in it are references."""

    corpus: CorpusSettings
    columns: Columns
    table: str
    table_storage: StorageSettings
    schema: pa.Schema
    fingerprint: str
    rows: RowFilter | None = None
    """Which rows of the corpus are meant; None: all."""

    @property
    def carry(self) -> bool:
        return bool(self.columns.carry)


@dataclass(frozen=True)
class Scanned:
    """What a task keeps of a unit: rows that can be embedded, in order, and rejects.

    hashes: id_hash, row_hash, position, and content_hash if columns are carried; rejects: `schema.REJECTS_SCHEMA`.
    """

    unit: int
    shard: str
    hashes: pa.Table
    rejects: pa.Table


OldRows = tuple[int, Receipt | IndexPart, Was]


def scan(units: Sequence[ReadUnit], first: int, source: Source, partitions: int) -> tuple[Any, ...]:
    """Read units: ([units, 2] counts of good rows and rejects, list of `Scanned`, new records by partition ...)."""
    dtype = new_dtype(carry=source.carry)
    scanned, counts = [], np.zeros((len(units), 2), np.int64)
    parts: list[list[Records]] = [[] for _ in range(partitions)]
    for number, unit in enumerate(units):
        tables, rejects, good = [], [], 0
        for _, rows in read_unit(unit, source.corpus, source.columns):
            id_hash = hash_ids(rows.ids.to_pylist())
            ids = halves(id_hash)
            records = make_records(dtype, ids, halves(rows.row_hash), halves(rows.content_hash))
            records["unit"], records["at"] = first + number, np.arange(good, good + len(records))
            records["size"] = np.fromiter(map(len, rows.texts), np.uint32, len(rows.texts))
            if source.rows is None:
                _deal(records, ids, parts)
                rejects.append(rows.rejects)
            else:
                chosen = source.rows.mask(unit.shard.uri, rows)
                _deal(records[chosen], ids[chosen], parts)
                rejects.append(rows.rejects.slice(0, 0))
            kept = {"id_hash": id_hash, "row_hash": rows.row_hash, "position": rows.positions}
            tables.append(pa.table(kept | ({"content_hash": rows.content_hash} if source.carry else {})))
            good += len(records)
        hashes = pa.concat_tables(tables).combine_chunks()
        scanned.append(Scanned(first + number, unit.shard.uri, hashes, pa.concat_tables(rejects).combine_chunks()))
        counts[number] = good, scanned[-1].rejects.num_rows
    return counts, scanned, *(_joined(part, dtype) for part in parts)


def read_old(
    sources: Sequence[OldRows], numbers: Mapping[str, tuple[int, bool]], source: Source, partitions: int
) -> tuple[Any, ...]:
    """What the table has of some shards: (None, old records by partition ...)."""
    store = open_store(source.table, source.table_storage)
    dtype = old_dtype(carry=source.carry)
    parts: list[list[Records]] = [[] for _ in range(partitions)]
    for shard, where, was in sources:
        if isinstance(where, IndexPart):
            entries = read_entries(store, where)
        else:
            try:
                entries = read_owned(store, where, source.schema, source.fingerprint)
            except (TableError, ObjectNotFound):
                if was == Was.UNPUBLISHED:
                    continue  # damaged, or swept meanwhile: nobody needs it
                raise
        records = make_records(dtype, entries.ids, entries.rows, entries.contents)
        of_file = [numbers[split_id] for split_id in entries.split_ids]
        records["shard"] = shard
        records["file"] = np.array([number for number, _ in of_file], np.int32)[entries.files]
        records["first"], records["vectors"] = entries.row, entries.vectors
        records["was"] = np.array([Was.OTHER_GENERATION if barred else was for _, barred in of_file], np.uint8)[
            entries.files
        ]
        _deal(records, entries.ids, parts)
    return None, *(_joined(part, dtype) for part in parts)


def _deal(records: Records, ids: NDArray[np.uint64], parts: list[list[Records]]) -> None:
    if len(parts) == 1:
        parts[0].append(records)
        return
    partition = partition_of(ids, len(parts))
    order = np.argsort(partition, kind="stable")
    bounds = np.cumsum(np.bincount(partition, minlength=len(parts)))[:-1]
    for part, some in zip(parts, np.split(records[order], bounds), strict=True):
        part.append(some)


def _joined(records: list[Records], dtype: np.dtype[np.void]) -> Records:
    return np.concatenate(records) if records else np.empty(0, dtype)


def join_partition(new: int, source: Source, *parts: Records) -> Joined:
    """The first ``new`` parts are of the corpus, the others of the table."""
    return join(
        _joined(list(parts[:new]), new_dtype(carry=source.carry)),
        _joined(list(parts[new:]), old_dtype(carry=source.carry)),
    )
