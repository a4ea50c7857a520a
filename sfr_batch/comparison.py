"""The corpus of tonight against the table of last night: which rows have a vector already, and which need one.

Three rounds of tasks. Scan: read the changed and new shards, keep ids and hashes. Read what the table has of the
changed and vanished shards: ids, hashes, and where the vectors are. Join: a partition of the ids at a time. Where tasks
run is the executor's: in this process, or on Ray (`pipeline`), where ids and hashes stay in the object store and only
the fates of rows come to the driver. When the vectors are there, a last round writes the indexes.
"""

import itertools
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from sfr_batch import schema as names
from sfr_batch.columns import Columns
from sfr_batch.config import CorpusSettings, StorageSettings
from sfr_batch.errors import ObjectNotFound, TableError
from sfr_batch.identity import halves, hash_ids, whole
from sfr_batch.incremental import (
    FATE,
    Joined,
    Kind,
    Records,
    Was,
    join,
    make_records,
    new_dtype,
    old_dtype,
    partition_of,
    total,
)
from sfr_batch.indexes import (
    Located,
    index_table,
    read_entries,
    read_owned,
    write_index,
)
from sfr_batch.manifest import Changes, IndexPart, Receipt, ShardRecord, rows_in
from sfr_batch.rows import read_unit
from sfr_batch.selection import RowFilter
from sfr_batch.splits import Chosen, ReadUnit
from sfr_batch.storage import open_store

ROWS_A_PARTITION = 2**20
ROWS_A_TASK = 2**18
BYTES_A_TASK = 128 * 2**20
UNIT_ROWS, UNIT_BYTES = 2**16, 32 * 2**20
"""Rows and bytes of text of the corpus that are in memory at a time, in a task."""


class Executor(Protocol):
    """Runs functions somewhere. Handles stand for results, and may be arguments of other calls."""

    def share(self, value: Any) -> Any:
        """A handle for a value that many calls take."""
        ...

    def submit(self, function: Callable[..., Any], *args: Any, returns: int = 1) -> list[Any]:
        """Run it, with handles resolved; the handles of its ``returns`` results, a tuple if they are several."""
        ...

    def get(self, handles: Sequence[Any]) -> Iterator[Any]:
        """The results, in order, one at a time."""
        ...


class InProcess:
    """Runs everything at once, in the calling thread; a handle is the result."""

    def share(self, value: Any) -> Any:
        return value

    def submit(self, function: Callable[..., Any], *args: Any, returns: int = 1) -> list[Any]:
        result = function(*args)
        return list(result) if returns > 1 else [result]

    def get(self, handles: Sequence[Any]) -> Iterator[Any]:
        return iter(handles)


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


@dataclass(frozen=True)
class OldShard:
    """A shard as the last snapshot has it: by its data files, or by parts of indexes."""

    record: ShardRecord
    sources: tuple[Receipt | IndexPart, ...]


@dataclass
class Comparison:
    """What was found. Rows are numbered over all units, in order: unit u has rows starts[u] to starts[u + 1].

    fates: [rows] `Kind`, and where the vector is: a number in ``files``, its first row there, and how many.
    """

    source: Source
    executor: Executor
    units: list[ReadUnit]
    files: list[str]
    """Split ids of data files that vectors may be in; those that come to be are appended."""
    changes: Changes
    starts: NDArray[np.int64]
    rejects: NDArray[np.int64]
    """[units] rows that cannot be embedded."""
    fates: Records
    left: Records
    """Documents of the table whose ids are not in the corpus any more."""
    tasks: list[tuple[int, int, Any]]
    """(first unit, end, handle of what was scanned of them)."""
    failed: dict[int, tuple[str | None, str, str]] = field(default_factory=dict)
    """Rows that got no vector although they were to be encoded: id, reason, message, by number."""

    @property
    def shards(self) -> list[str]:
        """[units] the shard of each."""
        return [unit.shard.uri for unit in self.units]

    def rows_of(self, units: Iterable[int]) -> NDArray[np.int64]:
        """Numbers of all rows of some units."""
        ranges = [np.arange(self.starts[unit], self.starts[unit + 1]) for unit in units]
        return np.concatenate(ranges) if ranges else np.empty(0, np.int64)

    def choose(self, rows: NDArray[np.int64]) -> tuple[Chosen, ...]:
        """Rows, ascending, as parts of a packed split."""
        unit = np.searchsorted(self.starts, rows, side="right") - 1
        bounds = np.flatnonzero(np.diff(unit, prepend=-1))
        return tuple(
            Chosen(self.units[u], tuple((part - self.starts[u]).tolist()))
            for u, part in zip(unit[bounds].tolist(), np.split(rows, bounds[1:]), strict=True)
        )

    def places(self, rows: NDArray[np.int64]) -> dict[tuple[str, int], int]:
        """Rows by shard and position; what was scanned of their units is fetched."""
        found: dict[tuple[str, int], int] = {}
        unit = np.searchsorted(self.starts, rows, side="right") - 1
        for first, end, handle in self.tasks:
            some = rows[(unit >= first) & (unit < end)]
            if not len(some):
                continue
            for scanned in next(iter(self.executor.get([handle]))):
                start, stop = self.starts[scanned.unit : scanned.unit + 2].tolist()
                its = some[(some >= start) & (some < stop)]
                positions = scanned.hashes.column("position").take(pa.array(its - start)).to_pylist()
                found |= {(scanned.shard, at): row for at, row in zip(positions, its.tolist(), strict=True)}
        return found


def compare(
    executor: Executor,
    source: Source,
    units: Sequence[ReadUnit],
    estimate: Sequence[tuple[int, int]],
    old: Sequence[OldShard],
    receipts: Sequence[Receipt],
    unpublished: Sequence[Receipt],
    generation: str,
) -> Comparison:
    """Read and join.

    units: of the changed and new shards, in order, with an ``estimate`` of rows and bytes each; old: the changed and
    vanished shards; receipts: of the data files that ``old`` points into; unpublished: of others whose vectors may be
    used. generation: the label that a vector must have been made under to be used, "" for any.
    """
    unpublished = [receipt for receipt in unpublished if generation in ("", receipt.generation)]
    known = sum(rows_in(where) for shard in old for where in shard.sources)
    rows = sum(count for count, _ in estimate) + known + sum(receipt.vectors for receipt in unpublished)
    partitions = max(1, -(-rows // ROWS_A_PARTITION))
    shared = executor.share(source)

    tasks, new_parts = [], []
    for first, end in _batches(estimate):
        handles = executor.submit(scan, list(units[first:end]), first, shared, partitions, returns=2 + partitions)
        tasks.append((first, end, handles[0], handles[1]))
        new_parts.append(handles[2:])

    files = [receipt.split_id for receipt in [*receipts, *unpublished]]
    numbers = executor.share(
        {
            receipt.split_id: (number, generation not in ("", receipt.generation))
            for number, receipt in enumerate([*receipts, *unpublished])
        }
    )
    old_parts = [
        executor.submit(read_old, batch, numbers, shared, partitions, returns=1 + partitions)[1:]
        for batch in _old_batches(old, unpublished)
    ]
    joined = [
        executor.submit(
            _join, len(new_parts), shared, *(h[number] for h in new_parts), *(h[number] for h in old_parts)
        )[0]
        for number in range(partitions)
    ]
    del new_parts, old_parts

    counts = np.zeros((len(units), 2), np.int64)
    for (first, end, _, _), found in zip(tasks, executor.get([task[2] for task in tasks]), strict=True):
        counts[first:end] = found
    starts = np.concatenate([[0], np.cumsum(counts[:, 0])])
    fates = np.zeros(starts[-1], FATE)
    fates["kind"] = Kind.SKIP
    changes, left = [], []
    for part in executor.get(joined):
        fates[starts[part.fates["unit"]] + part.fates["at"]] = part.fates
        changes.append(part.changes)
        left.append(part.left)
    return Comparison(
        source=source,
        executor=executor,
        units=list(units),
        files=files,
        changes=total(changes),
        starts=starts,
        rejects=counts[:, 1],
        fates=fates,
        left=np.concatenate(left),
        tasks=[(first, end, handle) for first, end, _, handle in tasks],
    )


def _batches(estimate: Sequence[tuple[int, int]]) -> Iterator[tuple[int, int]]:
    """Ranges of units that make up a task each."""
    first = rows = size = 0
    for number, (more_rows, more_bytes) in enumerate(estimate):
        if number > first and (rows + more_rows > ROWS_A_TASK or size + more_bytes > BYTES_A_TASK):
            yield first, number
            first, rows, size = number, 0, 0
        rows, size = rows + more_rows, size + more_bytes
    if len(estimate) > first:
        yield first, len(estimate)


_Old = tuple[int, Receipt | IndexPart, Was]


def _old_batches(old: Sequence[OldShard], unpublished: Sequence[Receipt]) -> Iterator[list[_Old]]:
    sources: Iterable[_Old] = itertools.chain(
        ((number, source, Was.THERE) for number, shard in enumerate(old) for source in shard.sources),
        ((-1, receipt, Was.UNPUBLISHED) for receipt in unpublished),
    )
    batch: list[_Old] = []
    rows = 0
    for source in sources:
        batch.append(source)
        rows += rows_in(source[1])
        if rows >= ROWS_A_TASK:
            yield batch
            batch, rows = [], 0
    if batch:
        yield batch


# --- tasks


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
    sources: Sequence[_Old], numbers: Mapping[str, tuple[int, bool]], source: Source, partitions: int
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
        records["was"] = np.array([Was.BARRED if barred else was for _, barred in of_file], np.uint8)[entries.files]
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


def _join(new: int, source: Source, *parts: Records) -> Joined:
    """The first ``new`` parts are of the corpus, the others of the table."""
    return join(
        _joined(list(parts[:new]), new_dtype(carry=source.carry)),
        _joined(list(parts[new:]), old_dtype(carry=source.carry)),
    )


# --- indexes


def write_indexes(
    found: Comparison, shards: frozenset[str], snapshot: int, run_id: str
) -> tuple[dict[str, list[IndexPart]], dict[str, tuple[int, int]]]:
    """Write the indexes of some of the shards, once every row of theirs has a vector or is among ``found.failed``.

    Returns the parts of each shard, and how many rows and rejects it has.
    """
    executor, shared = found.executor, found.executor.share((found.source, found.files))
    handles = []
    for number, (first, end, scanned) in enumerate(found.tasks):
        wanted = [unit for unit in range(first, end) if found.units[unit].shard.uri in shards]
        if not wanted:
            continue
        a, b = int(found.starts[first]), int(found.starts[end])
        failed = {row - a: why for row, why in found.failed.items() if a <= row < b}
        key = names.index_key(snapshot, run_id, number)
        handles += executor.submit(_write_index, scanned, wanted, found.fates[a:b], failed, key, shared)
    parts: dict[str, list[IndexPart]] = {}
    counts: dict[str, tuple[int, int]] = {}
    for written in executor.get(handles):
        for part, rejected in written:
            parts.setdefault(part.shard, []).append(part)
            rows, rejects = counts.get(part.shard, (0, 0))
            counts[part.shard] = rows + part.rows, rejects + rejected
    return parts, counts


def _write_index(
    scanned: Sequence[Scanned],
    wanted: Sequence[int],
    fates: Records,
    failed: Mapping[int, tuple[str | None, str, str]],
    key: str,
    shared: tuple[Source, list[str]],
) -> list[tuple[IndexPart, int]]:
    source, files = shared
    located, start = [], 0
    chosen = frozenset(wanted)
    for unit in scanned:
        end = start + unit.hashes.num_rows
        if unit.unit in chosen:
            lost = {row - start: why for row, why in failed.items() if start <= row < end}
            located.append(_locate(unit, fates[start:end], files, lost))
        start = end
    parts = write_index(open_store(source.table, source.table_storage), key, located)
    return [(part, piece.rejected) for part, piece in zip(parts, located, strict=True)]


def _locate(
    unit: Scanned, fates: Records, files: Sequence[str], lost: Mapping[int, tuple[str | None, str, str]]
) -> Located:
    rejects, good = unit.rejects, fates["kind"] != Kind.SKIP
    if lost:
        good[list(lost)] = False
        rows = sorted(lost)
        more = {
            names.ID: [lost[row][0] for row in rows],
            "shard": [unit.shard] * len(rows),
            "position": unit.hashes.column("position").take(pa.array(rows)),
            "reason": [lost[row][1] for row in rows],
            "message": [lost[row][2] for row in rows],
        }
        rejects = pa.concat_tables([rejects, pa.table(more, schema=names.REJECTS_SCHEMA)])
        rejects = rejects.sort_by("position")
    hashes = unit.hashes if good.all() else unit.hashes.filter(pa.array(good))
    index = index_table(hashes, split_ids_of(fates[good], files), fates["first"][good], fates["vectors"][good], rejects)
    return Located(unit.shard, index)


def split_ids_of(records: Records, files: Sequence[str]) -> pa.Array:
    """[n] the split id of the file of each."""
    used, which = np.unique(records["file"], return_inverse=True)
    chosen = pa.array([files[number] for number in used.tolist()], pa.string())
    return pa.DictionaryArray.from_arrays(pa.array(which.astype(np.int32)), chosen).dictionary_decode()


def index_of_left(left: Records, files: Sequence[str]) -> pa.Table:
    """Documents of the table as rows of an index; where they were in their shard is not known any more."""
    hashes = {
        "id_hash": whole(np.stack([left["hash"], left["more"]], axis=1)),
        "row_hash": whole(left["row"]),
        "position": pa.array(np.zeros(len(left), np.int64)),
    }
    hashes |= {"content_hash": whole(left["content"])} if "content" in (left.dtype.names or ()) else {}
    return index_table(
        pa.table(hashes), split_ids_of(left, files), left["first"], left["vectors"], names.REJECTS_SCHEMA.empty_table()
    )
