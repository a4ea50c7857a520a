"""Index files: that they are there, say of their shards what the snapshot says, and point to rows that there are.

Their entries are handed on as records; whether the rows are those of their ids is seen when these are grouped.
"""

from bisect import bisect_right
from collections import defaultdict
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from itertools import pairwise

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from sfr_batch.checks.audit.contents import AHEAD, Contents, difference
from sfr_batch.checks.audit.files import DataFiles, is_chunked
from sfr_batch.checks.audit.id_records import NOWHERE, IdRecords, IntArray, Mask, RecordKind, contents_of, make_records
from sfr_batch.checks.audit.rejects import reject_records
from sfr_batch.checks.audit.report import EXAMPLES, INDEXES, REPORT, Finding, PromiseCheck
from sfr_batch.checks.audit.snapshots import expired_since
from sfr_batch.errors import ObjectNotFound, SfrBatchError, counted
from sfr_batch.format import names
from sfr_batch.format.indexes import Entries, entries_of
from sfr_batch.format.records import KEPT, IndexPart
from sfr_batch.storage.parallel import in_parallel
from sfr_batch.storage.spill import Spill
from sfr_batch.table.table import Snapshot, Table

_NO_PART = -1
_NEEDED = ("id_hash", "row_hash", "row", "vectors")
"""Columns that an entry has beside its file."""


@dataclass(frozen=True)
class _Numbered:
    """A part, and the number of its first row among the candidates."""

    part: IndexPart
    number: int

    @property
    def end(self) -> int:
        return self.part.start + self.part.rows


@dataclass(frozen=True)
class _Group:
    """A row group of an index file: its number, its first row, and the parts that have rows in it."""

    key: str
    number: int
    start: int
    rows: int
    parts: list[_Numbered]


@dataclass
class _Found:
    """What a row group has. rejected: rows without a vector, by shard."""

    problems: list[tuple[str, int]] = field(default_factory=list)
    records: list[IdRecords] = field(default_factory=list)
    rejected: dict[str, int] = field(default_factory=dict)
    damaged: bool = False

    def tell(self, rows: IntArray, example: Callable[[int], str], key: str) -> None:
        """Note a problem for each of ``rows``, of which a few are told."""
        self.problems += [(example(at), 1) for at in rows[:EXAMPLES].tolist()]
        if len(rows) > EXAMPLES:
            self.problems.append((f"more rows of {key}", len(rows) - EXAMPLES))


class Indexes:
    """All index files of a snapshot. ``unread``: those that could not be read, or not in full."""

    def __init__(self, table: Table, contents: Contents, files: DataFiles) -> None:
        self.promise = PromiseCheck(INDEXES, REPORT)
        self._table, self._contents, self._files = table, contents, files
        self._numbered = [_Numbered(c, n) for n, c in contents.candidates() if isinstance(c, IndexPart) and c.rows]
        self._numbers = {receipt.split_id: number for number, receipt in enumerate(contents.receipts)}
        self._vectors = np.array([receipt.vectors for receipt in contents.receipts], np.int64)
        self._unread: set[str] = set()

    @property
    def unread(self) -> int:
        return len(self._unread)

    def read(self, snapshots: Mapping[int, Snapshot], spill: Spill) -> None:
        """Read them, and see whether those of the other snapshots are there; what they say of ids goes into ``spill``.

        The data files have been read before.
        """
        self._check_there(snapshots)
        by_file: defaultdict[str, list[_Numbered]] = defaultdict(list)
        for numbered in self._numbered:
            by_file[numbered.part.key].append(numbered)
        keys = [key for key in by_file if key not in self._unread]
        groups: list[_Group] = []
        for key, sizes in zip(keys, in_parallel(self._sizes, keys, AHEAD), strict=True):
            if isinstance(sizes, str):
                self._damaged(key, sizes)
            else:
                groups += self._groups(key, sorted(by_file[key], key=lambda n: n.part.start), sizes)
        rejected: defaultdict[str, int] = defaultdict(int)
        for group, found in zip(groups, in_parallel(self._examine, groups, AHEAD), strict=True):
            if found.damaged:
                self._unread.add(group.key)
            for problem in found.problems:
                self.promise.wrong(*problem)
            for records in found.records:
                spill.add(records)
            for uri, number in found.rejected.items():
                rejected[uri] += number
        self._check_shards(rejected)

    def finding(self) -> Finding:
        """What `read` has found, with the numbers of rows and files; call it afterwards."""
        parts = self._contents.parts
        rows, files = sum(part.rows for part in parts), len({part.key for part in parts})
        what = f"{counted(rows, 'row')} in {counted(files, 'index file')}"
        return self.promise.finding(what, "as many as their shards have, each document with its own row")

    def place(self, number: int) -> str:
        """Where the entry is that has this number among the candidates."""
        at = bisect_right(self._numbered, number, key=lambda n: n.number) - 1
        found = self._numbered[at]
        return _place(found.part, found.part.start + number - found.number)

    def _damaged(self, key: str, why: str) -> None:
        self._unread.add(key)
        self.promise.wrong(why)

    def _check_there(self, snapshots: Mapping[int, Snapshot]) -> None:
        present = {info.key for info in self._table.store.list(names.INDEX)} if self._contents.indexes else set()
        for key in dict.fromkeys(part.key for part in self._contents.parts):
            if key not in present:
                self._damaged(key, f"{key} is missing")
        seen = {part.key for part in self._contents.parts}
        for number, snapshot in snapshots.items():
            if snapshot is self._contents.snapshot:
                continue
            try:
                keys = {part.key for parts in snapshot.indexes.values() for part in parts} - seen
            except (SfrBatchError, pa.ArrowException):  # told as a side file
                continue
            if keys and not present:
                present = {info.key for info in self._table.store.list(names.INDEX)}
            absent = sorted(keys - present)
            if absent and expired_since(self._table, number):
                continue
            for key in absent:
                self.promise.wrong(f"{key} is missing; snapshot {number} needs it")
            seen |= keys

    def _sizes(self, key: str) -> list[int] | str:
        """Rows of the row groups of a file, or what is wrong with it. Runs in a thread."""
        try:
            with self._table.store.open(key) as data:
                file = pq.ParquetFile(data, pre_buffer=False)
                groups = [file.metadata.row_group(number) for number in range(file.num_row_groups)]
                if not file.schema_arrow.equals(names.INDEX_SCHEMA):
                    return f"{key} has {difference(file.schema_arrow, names.INDEX_SCHEMA)}"
                return [group.num_rows for group in groups]
        except ObjectNotFound:
            return f"{key} is missing"
        except (OSError, ValueError, pa.ArrowException) as error:
            return f"{key} is damaged: {' '.join(str(error).split())}"

    def _groups(self, key: str, parts: list[_Numbered], sizes: list[int]) -> Iterator[_Group]:
        """The row groups that have rows of the parts, which are in order."""
        if parts[-1].end > sum(sizes):
            self._damaged(
                key, f"{key} has {sum(sizes):,} rows, {_of(parts[-1].part)} is of rows up to {parts[-1].end:,}"
            )
        for one, other in pairwise(parts):
            if one.end > other.part.start:
                self.promise.wrong(
                    f"row {other.part.start} of {key} is both of {_of(one.part)} and of {_of(other.part)}"
                )
        start = first = 0
        for number, rows in enumerate(sizes):
            while first < len(parts) and parts[first].end <= start:
                first += 1
            end = first
            while end < len(parts) and parts[end].part.start < start + rows:
                end += 1
            if end > first:
                yield _Group(key, number, start, rows, parts[first:end])
            start += rows

    def _examine(self, group: _Group) -> _Found:
        """Runs in a thread."""
        found = _Found()
        try:
            with self._table.store.open(group.key) as data:
                file = pq.ParquetFile(data, pre_buffer=False, page_checksum_verification=True)
                table = file.read_row_group(group.number, use_threads=False)
            table.validate(full=True)
        except ObjectNotFound:
            found.problems.append((f"{group.key} is missing", 1))
            found.damaged = True
            return found
        except (OSError, ValueError, pa.ArrowException) as error:
            found.problems.append((f"{group.key} is damaged: {' '.join(str(error).split())}", 1))
            found.damaged = True
            return found
        part_of = np.full(group.rows, _NO_PART)
        for number, numbered in enumerate(group.parts):
            part_of[max(0, numbered.part.start - group.start) : max(0, numbered.end - group.start)] = number
        is_entry = pc.is_valid(table.column("split_id")).to_numpy()
        is_reject = pc.is_valid(table.column("reason")).to_numpy()
        whole = np.logical_and.reduce([pc.is_valid(table.column(name)).to_numpy() for name in _NEEDED])
        ours = part_of != _NO_PART
        neither = ours & ((is_entry == is_reject) | (is_entry & ~whole))
        row = np.arange(group.start, group.start + group.rows)
        found.tell(
            np.flatnonzero(neither),
            lambda at: f"{_place(group.parts[part_of[at]].part, row[at])} is neither a document nor a reject",
            group.key,
        )
        found.damaged = bool(neither.any())
        entries, rejects = (np.flatnonzero(ours & ~neither & mask) for mask in (is_entry, is_reject))
        self._take_entries(group, table.take(pa.array(entries)), part_of[entries], row[entries], found)
        _take_rejects(group, table.take(pa.array(rejects)), part_of[rejects], row[rejects], found)
        return found

    def _take_entries(self, group: _Group, table: pa.Table, part_of: IntArray, row: IntArray, found: _Found) -> None:
        """part_of, row: [n] the part of each of these rows, and its number in the file."""
        entries = entries_of(table)
        number = np.array([self._numbers.get(split_id, NOWHERE) for split_id in entries.split_ids], np.int64)
        number = number[entries.files]
        known = number != NOWHERE

        def place(at: int) -> str:
            return f"{_place(group.parts[part_of[at]].part, row[at])} points to "

        def key(at: int) -> str:
            return names.data_key(entries.split_ids[entries.files[at]])

        snapshot = self._contents.snapshot.number
        found.tell(
            np.flatnonzero(~known),
            lambda at: f"{place(at)}{key(at)}, which snapshot {snapshot} does not have",
            group.key,
        )
        room = np.where(known, self._vectors[number] if len(self._vectors) else 0, 0)
        inside = (entries.row >= 0) & (entries.vectors > 0) & (entries.row + entries.vectors <= room)
        found.tell(
            np.flatnonzero(known & ~inside),
            lambda at: f"{place(at)}{_rows(entries, at)} of {key(at)}, which has {room[at]:,} rows",
            group.key,
        )
        one = self._are_documents(entries, number, known & inside)
        found.tell(
            np.flatnonzero(known & inside & ~one),
            lambda at: f"{place(at)}{_rows(entries, at)} of {key(at)}, which are not those of a document",
            group.key,
        )
        good = known & inside & one
        records = make_records(entries.ids, RecordKind.ENTRY, np.full(len(entries), NOWHERE))
        records["row"][good] = self._files.number_of_row(number[good], entries.row[good])
        records["content"] = contents_of(entries.contents, entries.rows)
        records["order"] = _orders(group, part_of, row)
        is_kept = np.array([numbered.part.shard == KEPT for numbered in group.parts], bool)
        records["kind"][is_kept[part_of]] = RecordKind.KEPT
        found.records.append(records)

    def _are_documents(self, entries: Entries, number: IntArray, mask: Mask) -> Mask:
        """[n] whether the vectors of each are all that a document has; of files that were not read it is not known."""
        if not is_chunked(self._table):
            return np.asarray(entries.vectors == 1)
        result = np.ones(len(entries), bool)
        inside = np.flatnonzero(mask)
        inside = inside[np.argsort(number[inside], kind="stable")]
        for its in np.split(inside, np.flatnonzero(np.diff(number[inside])) + 1) if len(inside) else ():
            file = int(number[its[0]])
            documents = self._files.documents[file]
            if documents is None:
                continue
            bounds = np.append(documents, self._vectors[file]).astype(np.int64)
            at = np.searchsorted(documents, entries.row[its])
            end = bounds[np.minimum(at + 1, len(bounds) - 1)]
            result[its] = (bounds[at] == entries.row[its]) & (end == entries.row[its] + entries.vectors[its])
        return result

    def _check_shards(self, rejected: Mapping[str, int]) -> None:
        """Whether the index of each shard has its rows and its rejects."""
        records = {record.uri: record for record in self._contents.shards}
        for uri, parts in self._contents.indexes.items():
            record = records.get(uri)
            if record is None:
                self.promise.wrong(f"{_of(parts[0])} has an index, and is not among the shards")
                continue
            rows = sum(part.rows for part in parts)
            if rows != record.read:
                self.promise.wrong(f"{_of(parts[0])} has {record.read:,} rows, its index has {rows:,}")
            if self._unread.isdisjoint(part.key for part in parts) and rejected.get(uri, 0) != record.rejected:
                self.promise.wrong(
                    f"{_of(parts[0])} has {record.rejected:,} rejects, its index has {rejected.get(uri, 0):,}"
                )


def _take_rejects(group: _Group, table: pa.Table, part_of: IntArray, row: IntArray, found: _Found) -> None:
    shards = np.array([numbered.part.shard for numbered in group.parts], object)[part_of]
    columns = {"shard": pa.array(shards, pa.string())}
    columns |= {name: table.column(name) for name in (names.ID, "position", "reason", "message")}
    rejects = pa.table([columns[field.name] for field in names.REJECTS_SCHEMA], schema=names.REJECTS_SCHEMA)
    duplicates = pc.equal(table.column("reason"), "duplicate_id").to_numpy()
    found.tell(
        np.flatnonzero(duplicates),
        lambda at: f"{_place(group.parts[part_of[at]].part, row[at])} is rejected as duplicate_id",
        group.key,
    )
    found.records += reject_records(rejects, _orders(group, part_of, row))
    for number, times in enumerate(np.bincount(part_of, minlength=len(group.parts)).tolist()):
        uri = group.parts[number].part.shard
        found.rejected[uri] = found.rejected.get(uri, 0) + times


def _orders(group: _Group, part_of: IntArray, row: IntArray) -> IntArray:
    """[n] the numbers of rows of the file among the candidates."""
    return np.array([n.number - n.part.start for n in group.parts], np.int64)[part_of] + row


def _of(part: IndexPart) -> str:
    return part.shard if part.shard != KEPT else "what is kept"


def _place(part: IndexPart, row: int) -> str:
    return f"row {row} of {part.key}, of {_of(part)},"


def _rows(entries: Entries, at: int) -> str:
    first, vectors = int(entries.row[at]), int(entries.vectors[at])
    return f"row {first}" if vectors == 1 else f"rows {first} to {first + vectors - 1}"
