"""Which live rows of two snapshots differ, by the keys, hashes and vectors in their data files.

A row that is live in both snapshots in the same place is the same row, and nothing of it is read. Its place is its row
of a data file, or of the file that it was copied from by a compaction (`format.lineage`). This holds as long as both
snapshots show the same columns of the file; otherwise its vector is the same, but its hash has to be read.

Of all other rows keys and hashes are read, and the vectors of those that have an equal hash in both. They are joined
by hash in partitions, on disk here or in tasks of an executor, and remembered as a few bits each. Hashes have 128 bits:
equal hashes are taken for equal values. Knows no consumer of changes.
"""

import dataclasses
import hashlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any, NamedTuple

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from sfr_batch.errors import TableError
from sfr_batch.format import names
from sfr_batch.format.dead_rows import Positions
from sfr_batch.format.hashes import halves, hash_ids
from sfr_batch.format.lineage import Lineage, Origin
from sfr_batch.storage.executor import ROWS_A_TASK, Executor, grouped, partitioned
from sfr_batch.storage.local_files import temporary_folder
from sfr_batch.storage.parallel import in_parallel
from sfr_batch.storage.spill import Spill, dealt
from sfr_batch.table.scan import LiveFile, Scan, key_columns
from sfr_batch.table.search import vectors_of
from sfr_batch.table.table import Snapshot

PARTITION_ROWS = 2**22
"""Number of rows that are joined in memory at a time, at about 150 bytes each."""
_FOOTERS = 32
"""Files whose origin is looked up at a time."""
_ROW = np.dtype(
    [
        *(("hash", np.uint64), ("hash_2", np.uint64), ("chunk", np.int32)),
        *(("is_to", np.bool_), ("row", np.int64), ("content", np.uint64), ("content_2", np.uint64)),
    ]
)
"""A row of one snapshot: the hash of its id, its chunk, its number in that snapshot, and a hash of what is compared."""
HashedRows = NDArray[np.void]
"""[n] of _ROW."""


@dataclass(frozen=True)
class RowChanges:
    """What turns the rows of one snapshot into those of another: counts, and scans of the rows.

    files_read: data files of both in which at least the keys of some rows were read.
    """

    new: int
    changed: int
    deleted: int
    files_read: int
    upserts: Scan
    """New and changed rows of the second snapshot."""
    deletes: Scan
    """Keys of the rows of the first one that are gone."""


def compare(
    start: Snapshot, to: Snapshot, partition_rows: int = PARTITION_ROWS, executor: Executor | None = None
) -> RowChanges:
    """Compare two snapshots of a table, in either direction of time.

    executor: runs the tasks that read and join; None: this process does, with ``partition_rows`` at a time in memory.
    Raises TableError if a snapshot has two live rows with the same key.
    """
    before, after = _sides(start, to)
    join = partial(_join_on, executor) if executor else partial(_join_here, partition_rows)
    new, changed, deleted = _mark(before, after, partial(join, before, after))
    files = len(before.scan.files) + len(after.scan.files)
    return RowChanges(new, changed, deleted, files, after.chosen(after.marked), before.chosen(before.marked))


# --- rows in the same place


class _Side:
    """Rows of one snapshot, numbered through all of its files. Each file begins at a whole byte of the bits."""

    def __init__(self, whole: Scan, files: Mapping[str, LiveFile], copied: Mapping[str, NDArray[np.uint8]]) -> None:
        """files: those whose rows have to be compared, in order; copied: for some, a bit for each row: whether the
        row has the vector of a row of the other snapshot with the same key."""
        self.key = key_columns(whole.table_schema)
        self.scan = dataclasses.replace(whole.select(self.key), files=[file for file in files.values() if file.live])
        sizes = np.array([-(-file.rows // 8) for file in self.scan.files], dtype=np.int64)
        self._starts = np.concatenate([[0], np.cumsum(sizes)])
        self._firsts = {file.split_id: 8 * int(at) for file, at in zip(self.scan.files, self._starts, strict=False)}
        self.marked = self._bits()
        self.compared = self._bits()
        self.copied = self._bits()
        for number, file in enumerate(self.scan.files):
            if file.split_id in copied:
                self.copied[self._starts[number] : self._starts[number + 1]] = copied[file.split_id]

    def _bits(self) -> NDArray[np.uint8]:
        return np.zeros(int(self._starts[-1]), dtype=np.uint8)

    @staticmethod
    def mark(bits: NDArray[np.uint8], rows: Positions) -> None:
        """Set the bits of the rows with these numbers."""
        np.bitwise_or.at(bits, rows >> 3, (128 >> (rows & 7)).astype(np.uint8))

    @staticmethod
    def are_set(bits: NDArray[np.uint8], rows: Positions) -> NDArray[np.bool_]:
        """[n] whether the bits of the rows [n] with these numbers are set."""
        found: NDArray[np.bool_] = (bits[rows >> 3] & (128 >> (rows & 7)).astype(np.uint8)) != 0
        return found

    def chosen(self, bits: NDArray[np.uint8]) -> Scan:
        """A scan of the rows whose bits are set in ``bits``."""
        files = []
        for number, file in enumerate(self.scan.files):
            only = bits[self._starts[number] : self._starts[number + 1]]
            if only.any():
                files.append(dataclasses.replace(file, only=only))
        return dataclasses.replace(self.scan, files=files)

    def firsts(self, files: Sequence[LiveFile]) -> list[int]:
        """Number of the first row of each of these files."""
        return [self._firsts[file.split_id] for file in files]


def _sides(start: Snapshot, to: Snapshot) -> tuple[_Side, _Side]:
    """The rows of both snapshots, in the columns of the second, without those that are live in both in one place."""
    after = to.scan()
    # What only the first has is no difference.
    before = dataclasses.replace(start.scan(), layout=after.layout.of_values_in(start.layout))
    written = {file.covers for file in [*before.files, *after.files]}
    alike = {covers: after.layout.shows_the_same(start.layout, covers) for covers in written}
    left = _alone(before, after, alike), _alone(after, before, alike)
    lists = before.lists(), after.lists()
    copied: tuple[dict[str, NDArray[np.uint8]], ...] = {}, {}
    old, new = (0, 1) if start.number <= to.number else (1, 0)
    for split_id, origin in _origins(left[old], left[new], (start, to)[old], (start, to)[new]):
        if origin.split_id not in left[old] or split_id not in left[new]:
            continue
        source, copy = left[old][origin.split_id], left[new][split_id]
        there, here = source.mask(lists[old]), copy.mask(lists[new])
        both = there[origin.rows] & here[origin.at]
        rows, at = origin.rows[both], origin.at[both]
        if origin.same and alike[copy.covers]:
            there[rows] = here[at] = False
            left[old][source.split_id] = dataclasses.replace(source, only=np.packbits(there))
            left[new][split_id] = dataclasses.replace(copy, only=np.packbits(here))
        else:
            known = np.zeros(copy.rows, bool)
            known[at] = True
            copied[new][split_id] = copied[new].get(split_id, np.uint8(0)) | np.packbits(known)
    return _Side(before, left[0], copied[0]), _Side(after, left[1], copied[1])


def _alone(whole: Scan, other: Scan, alike: Mapping[str, bool]) -> dict[str, LiveFile]:
    """The files of a snapshot by split id, in order, with their live rows that are not live in ``other`` in the same
    file; those without such a row are left out.

    alike: whether both snapshots show the same of a file, by its `covers`; if not, all of its live rows are taken.
    """
    theirs, lists, their_lists = {f.split_id: f for f in other.files}, whole.lists(), other.lists()
    found = {}
    for file in whole.files:
        same = theirs.get(file.split_id) if alike[file.covers] else None
        if same is None:
            found[file.split_id] = file
        elif same.dead is not None:  # else all of its rows are live there, too
            only = file.mask(lists) & ~same.mask(their_lists)
            if only.any():
                found[file.split_id] = dataclasses.replace(file, only=np.packbits(only))
    return found


def _origins(
    old: Mapping[str, LiveFile], new: Mapping[str, LiveFile], earlier: Snapshot, later: Snapshot
) -> Iterator[tuple[str, Origin]]:
    """For files of the later snapshot, by split id: which of their rows are copies of rows of the earlier one."""
    for split_id, file in new.items():
        if split_id in old:
            every = np.arange(file.rows)
            yield split_id, Origin(split_id, every, every, True)
    receipts = later.receipt_columns([names.SPLIT_ID, "copied"])
    copies = set(receipts.filter(receipts.column("copied")).column(0).to_pylist())
    files = [split_id for split_id in new if split_id in copies and split_id not in old]
    if not files:
        return
    known = earlier.receipt_columns([names.SPLIT_ID, "vectors", "covers"]).to_pydict()
    where = dict(zip(known[names.SPLIT_ID], zip(known["vectors"], known["covers"], strict=True), strict=True))
    lineage = Lineage(later.store, later.manifest.fingerprint, where)
    for split_id, found in zip(files, in_parallel(lineage.origins, files, _FOOTERS), strict=True):
        for origin in found:
            yield split_id, origin


# --- rows in different places


_Join = Callable[[Scan, Scan, str], Iterator["_Found"]]
"""What is found in each partition of the rows of both sides, by the column that is compared."""


def _mark(before: _Side, after: _Side, join: _Join) -> tuple[int, int, int]:
    """Mark upserts and deletes. Returns the numbers (new, changed, deleted)."""
    schema = after.scan.table_schema
    row_hash = names.ROW_HASH if names.ROW_HASH in schema.names else names.CONTENT_HASH
    new = changed = deleted = moved = 0
    for found in join(before.scan, after.scan, row_hash):
        if found.twice is not None:
            broken = (after if found.twice else before).scan
            raise TableError(
                f"Snapshot {broken.snapshot} of {broken.store.root} has two live rows with the same id. `sfr-batch "
                f"audit {broken.store.root} --snapshot {broken.snapshot}` shows which."
            )
        deleted += len(found.gone)
        new += len(found.new)
        changed += len(found.changed)
        before.mark(before.marked, found.gone)
        after.mark(after.marked, found.new)
        after.mark(after.marked, found.changed)
        was, now = found.same
        unknown = ~(before.are_set(before.copied, was) | after.are_set(after.copied, now))
        moved += int(unknown.sum())
        before.mark(before.compared, was[unknown])
        after.mark(after.compared, now[unknown])
    if moved:
        for found in join(before.chosen(before.compared), after.chosen(after.compared), names.EMBEDDING):
            changed += len(found.changed)
            after.mark(after.marked, found.changed)
    return new, changed, deleted


def _join_here(
    partition_rows: int, before: _Side, after: _Side, old: Scan, fresh: Scan, column: str
) -> Iterator["_Found"]:
    with temporary_folder("sfr-changes-") as folder:
        spill = Spill(folder, _ROW, old.live + fresh.live, partition_rows)
        for side, scan in ((before, old), (after, fresh)):
            for records in _records(scan, side.firsts(scan.files), column, is_to=side is after):
                spill.add(records)
        yield from map(_find, spill.partitions())


def _join_on(
    executor: Executor, before: _Side, after: _Side, old: Scan, fresh: Scan, column: str
) -> Iterator["_Found"]:
    partitions, least = partitioned(old.live + fresh.live)
    parts: list[list[Any]] = []
    for side, scan in ((before, old), (after, fresh)):
        shared = executor.share(dataclasses.replace(scan, files=[]))
        for files in grouped(scan.files, [file.live for file in scan.files], max(ROWS_A_TASK, least)):
            work = files, side.firsts(files), column, side is after, partitions
            parts.append(executor.submit(_deal, shared, *work, returns=partitions))
    return executor.get([executor.submit(_find_in, *(its[n] for its in parts))[0] for n in range(partitions)])


def _deal(
    scan: Scan, files: Sequence[LiveFile], firsts: Sequence[int], column: str, is_to: bool, partitions: int
) -> Any:
    """The rows of files of each partition, as a tuple if there are several partitions."""
    its = _records(dataclasses.replace(scan, files=files), firsts, column, is_to=is_to)
    found = dealt(np.concatenate([np.empty(0, _ROW), *its]), partitions)
    return tuple(found) if partitions > 1 else found[0]


def _find_in(*parts: HashedRows) -> "_Found":
    return _find(np.concatenate([np.empty(0, _ROW), *parts]))


def _records(scan: Scan, firsts: Sequence[int], column: str, *, is_to: bool) -> Iterator[HashedRows]:
    """The rows of a scan, by file. firsts: [files] number of the first row of each; column: the one to compare."""
    lists, key = scan.lists(), key_columns(scan.table_schema)
    for first, (file, rows) in zip(firsts, scan.select([*key, column]).by_file(), strict=True):
        records = np.empty(rows.num_rows, dtype=_ROW)
        id_hash, content = halves(hash_ids(rows.column(names.ID).to_pylist())), _hashes(rows.column(column))
        records["hash"], records["hash_2"] = id_hash.T
        records["content"], records["content_2"] = content.T
        records["chunk"] = rows.column(names.CHUNK).to_numpy() if names.CHUNK in key else 0
        records["is_to"] = is_to
        records["row"] = first + np.flatnonzero(file.mask(lists))
        yield records


class _Found(NamedTuple):
    """Numbers of rows in their snapshot."""

    gone: Positions
    """Rows of the first snapshot whose key the second one does not have."""
    new: Positions
    """Rows of the second one whose key the first one does not have."""
    changed: Positions
    """Rows of the second one whose key the first one has with another content."""
    same: tuple[Positions, Positions]
    """Rows of both with the same key and content, in pairs."""
    twice: bool | None
    """None; or two rows of one snapshot have the same key: whether of the second one."""


def _find(rows: HashedRows) -> _Found:
    """Compare the rows of a partition."""
    key = ("hash", "hash_2", "chunk")
    ordered = rows[np.lexsort([rows["is_to"], *(rows[name] for name in reversed(key))])]
    follows = np.ones(max(0, len(ordered) - 1), dtype=bool)
    for name in key:
        follows &= ordered[name][1:] == ordered[name][:-1]
    twice = follows & (ordered["is_to"][1:] == ordered["is_to"][:-1])
    first = np.flatnonzero(follows)
    alone = np.ones(len(ordered), dtype=bool)
    alone[first] = alone[first + 1] = False
    rest, was, now = ordered[alone], ordered[first], ordered[first + 1]
    same = (was["content"] == now["content"]) & (was["content_2"] == now["content_2"])
    return _Found(
        gone=rest["row"][~rest["is_to"]],
        new=rest["row"][rest["is_to"]],
        changed=now["row"][~same],
        same=(was["row"][same], now["row"][same]),
        twice=bool(ordered["is_to"][1:][twice][0]) if twice.any() else None,
    )


def _hashes(column: pa.ChunkedArray) -> NDArray[np.uint64]:
    """[n, 2] 128 bits of each value: a hash as it is, a vector by a hash of its bytes."""
    if not pa.types.is_fixed_size_list(column.type):
        return halves(column)
    vectors = np.ascontiguousarray(vectors_of(column.combine_chunks()))
    digests = [hashlib.blake2b(vector, digest_size=16).digest() for vector in vectors]
    return np.frombuffer(b"".join(digests), dtype=np.uint64).reshape(-1, 2)
