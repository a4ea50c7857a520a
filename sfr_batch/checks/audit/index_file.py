"""One row group of an index file: read and checked against the parts of it that a snapshot names, as a value.

Its entries become records; whether they point to rows of their own ids is checked in `ids`.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import pairwise

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
from numpy.typing import NDArray

from sfr_batch.checks.audit.contents import damage, difference
from sfr_batch.checks.audit.data_file import is_chunked
from sfr_batch.checks.audit.files import DataFiles
from sfr_batch.checks.audit.id_records import (
    NOWHERE,
    IdRecords,
    IntArray,
    Mask,
    RecordKind,
    contents_of,
    make_records,
)
from sfr_batch.checks.audit.promises import Problem, sample
from sfr_batch.checks.audit.rejects import reject_records
from sfr_batch.errors import ObjectNotFound, TableError, counted
from sfr_batch.format import names
from sfr_batch.format.indexes import Entries, entries_of, rehashed
from sfr_batch.format.records import KEPT, IndexPart
from sfr_batch.storage.store import Store

_NO_PART = -1
_NEEDED = (names.ID_HASH, names.ROW_HASH, names.ROW, names.VECTORS)
"""Columns that are not null in an entry, beside that of its file."""


@dataclass(frozen=True)
class NumberedPart:
    """A part of an index file. number: that of its first row among the candidates."""

    part: IndexPart
    number: int

    @property
    def end(self) -> int:
        return self.part.start + self.part.rows


@dataclass(frozen=True)
class IndexRowGroup:
    """A row group of the index file ``key``.

    number: which one. start: its first row in the file. parts: those that have rows in it, in order.
    """

    key: str
    number: int
    start: int
    rows: int
    parts: Sequence[NumberedPart]


@dataclass(frozen=True)
class ExaminedRowGroup:
    """The result for one row group.

    rejected: number of rows without a vector, by shard. damaged: whether it could not be read, or not in full.
    """

    problems: Sequence[Problem]
    records: Sequence[IdRecords] = ()
    rejected: Mapping[str, int] = field(default_factory=dict)
    damaged: bool = False


@dataclass(frozen=True)
class _Selected:
    """Some rows of a row group. part_of: [n] which of the group's parts each is of. row: [n] its number in the file."""

    group: IndexRowGroup
    table: pa.Table
    part_of: IntArray
    row: IntArray

    def take(self, mask: Mask) -> "_Selected":
        at = np.flatnonzero(mask)
        return _Selected(self.group, self.table.take(pa.array(at)), self.part_of[at], self.row[at])

    def place(self, at: int) -> str:
        return place_in(self.group.parts[self.part_of[at]].part, int(self.row[at]))

    @property
    def orders(self) -> IntArray:
        """[n] the number of each among the candidates."""
        first = np.array([numbered.number - numbered.part.start for numbered in self.group.parts], np.int64)
        return np.asarray(first[self.part_of] + self.row)

    @property
    def rest(self) -> str:
        return f"more rows of {self.group.key}"


def shard_of(part: IndexPart) -> str:
    return part.shard if part.shard != KEPT else "the kept documents"


def place_in(part: IndexPart, row: int) -> str:
    """row: its number in the file."""
    return f"row {row} of {part.key} (of {shard_of(part)})"


def read_sizes(store: Store, key: str) -> list[int] | str:
    """The number of rows of each row group of an index file, or what is wrong with it. Runs in a thread."""
    try:
        with store.open(key) as data:
            file = pq.ParquetFile(data, pre_buffer=False)
            groups = [file.metadata.row_group(number) for number in range(file.num_row_groups)]
            if not file.schema_arrow.equals(names.INDEX_SCHEMA):
                return f"{key} has {difference(file.schema_arrow, names.INDEX_SCHEMA)}"
            return [group.num_rows for group in groups]
    except ObjectNotFound:
        return f"{key} is missing"
    except (OSError, ValueError, pa.ArrowException) as error:
        return damage(key, error)


def overlaps(key: str, parts: Sequence[NumberedPart]) -> list[Problem]:
    """Rows that two of the parts, which are in order, have in common."""
    return [
        Problem(f"row {other.part.start} of {key} belongs to both {shard_of(one.part)} and {shard_of(other.part)}")
        for one, other in pairwise(parts)
        if one.end > other.part.start
    ]


def row_groups(key: str, parts: Sequence[NumberedPart], sizes: Sequence[int]) -> Iterator[IndexRowGroup]:
    """The row groups that have rows of the parts, which are in order. sizes: number of rows of each row group."""
    start = first = 0
    for number, rows in enumerate(sizes):
        while first < len(parts) and parts[first].end <= start:
            first += 1
        end = first
        while end < len(parts) and parts[end].part.start < start + rows:
            end += 1
        if end > first:
            yield IndexRowGroup(key, number, start, rows, parts[first:end])
        start += rows


def examine_row_group(
    group: IndexRowGroup, files: DataFiles, snapshot: int, *, superseded: bool = False
) -> ExaminedRowGroup:
    """Read a row group and check that each row is an entry, which points to a document, or a reject. Runs in a thread.

    files: those that entries point to. snapshot: its number. superseded: whether rows without a vector may be rejected
    as duplicates of an id.
    """
    found = _read(files.table.store, group)
    if isinstance(found, str):
        return ExaminedRowGroup([Problem(found)], damaged=True)
    rows = _with_parts(group, found)
    is_entry = pc.is_valid(found.column(names.SPLIT_ID)).to_numpy()
    is_reject = pc.is_valid(found.column(names.REASON)).to_numpy()
    whole = np.logical_and.reduce([pc.is_valid(found.column(name)).to_numpy() for name in _NEEDED])
    ours = rows.part_of != _NO_PART
    neither = ours & ((is_entry == is_reject) | (is_entry & ~whole))
    broken = sample(
        np.flatnonzero(neither), lambda at: f"{rows.place(at)} is neither a document nor a reject", rows.rest
    )
    entries, rejects = (rows.take(ours & ~neither & mask) for mask in (is_entry, is_reject))
    entry_problems, entry_records = _check_entries(entries, files, snapshot)
    return ExaminedRowGroup(
        [*broken, *entry_problems, *([] if superseded else _check_rejects(rejects))],
        [entry_records, *_reject_records(rejects)],
        _rejected_by_shard(rejects),
        damaged=bool(neither.any()),
    )


def _read(store: Store, group: IndexRowGroup) -> pa.Table | str:
    """The rows, or what is wrong with them."""
    try:
        with store.open(group.key) as data:
            file = pq.ParquetFile(data, pre_buffer=False, page_checksum_verification=True)
            table = file.read_row_group(group.number, use_threads=False)
        table.validate(full=True)
        return table
    except ObjectNotFound:
        return f"{group.key} is missing"
    except (OSError, ValueError, pa.ArrowException) as error:
        return damage(group.key, error)


def _with_parts(group: IndexRowGroup, table: pa.Table) -> _Selected:
    """All rows of the group; ``part_of`` is `_NO_PART` where the snapshot does not need them."""
    part_of = np.full(group.rows, _NO_PART)
    for number, numbered in enumerate(group.parts):
        part_of[max(0, numbered.part.start - group.start) : max(0, numbered.end - group.start)] = number
    return _Selected(group, table, part_of, np.arange(group.start, group.start + group.rows))


def _check_entries(rows: _Selected, files: DataFiles, snapshot: int) -> tuple[list[Problem], IdRecords]:
    """What is wrong with where the entries point, and a record of each."""
    entries = entries_of(rows.table)
    file_of_split = np.array([files.numbers.get(split_id, NOWHERE) for split_id in entries.split_ids], np.int64)
    file = file_of_split[entries.files]
    known = file != NOWHERE
    room = np.where(known, files.vectors[file] if len(files.vectors) else 0, 0)
    inside = (entries.row >= 0) & (entries.vectors > 0) & (entries.row + entries.vectors <= room)
    whole = _are_documents(entries, files, file, known & inside)

    def points_to(at: int) -> str:
        return f"{rows.place(at)} points to "

    def key(at: int) -> str:
        return names.data_key(entries.split_ids[entries.files[at]])

    problems = [
        *sample(
            np.flatnonzero(~known),
            lambda at: f"{points_to(at)}{key(at)}, which is not part of snapshot {snapshot}",
            rows.rest,
        ),
        *sample(
            np.flatnonzero(known & ~inside),
            lambda at: (
                f"{points_to(at)}{_rows_of(entries, at)} of {key(at)}, which has {counted(int(room[at]), 'row')}"
            ),
            rows.rest,
        ),
        *sample(
            np.flatnonzero(known & inside & ~whole),
            lambda at: f"{points_to(at)}{_rows_of(entries, at)} of {key(at)}, which are not the rows of one document",
            rows.rest,
        ),
    ]
    good = known & inside & whole
    records = make_records(entries.ids, RecordKind.ENTRY, np.full(len(entries), NOWHERE))
    records["row"][good] = files.number_of_row(file[good], entries.row[good])
    records["content"] = _contents(rows, entries, files, good)
    records["order"] = rows.orders
    is_kept = np.array([numbered.part.shard == KEPT for numbered in rows.group.parts], bool)
    records["kind"][is_kept[rows.part_of]] = RecordKind.KEPT
    return problems, records


def _contents(rows: _Selected, entries: Entries, files: DataFiles, good: Mask) -> NDArray[np.uint64]:
    """[n] the contents of the entries; of those whose row hashes cover other columns, in the layout of the snapshot.

    good: [n] which of them point to a document. 0, which is not known, where data files cannot be read: that is
    reported of them.
    """
    content = contents_of(entries.contents, entries.rows)
    other = np.array([numbered.part.covers != files.layout.covers for numbered in rows.group.parts], bool)
    at = np.flatnonzero(other[rows.part_of] & good)
    try:
        [some] = rehashed(files.table.store, [entries.take(at)], files.layout)
        content[at] = contents_of(some.contents, some.rows)
    except (TableError, ObjectNotFound):
        content[at] = 0
    return content


def _rows_of(entries: Entries, at: int) -> str:
    first, vectors = int(entries.row[at]), int(entries.vectors[at])
    return f"row {first}" if vectors == 1 else f"rows {first} to {first + vectors - 1}"


def _are_documents(entries: Entries, files: DataFiles, file: IntArray, mask: Mask) -> Mask:
    """[n] whether the rows of each entry are exactly those of one document; True where that is not known.

    file: [n] the number of the file that each points to. mask: [n] those whose rows are in the file.
    """
    if not is_chunked(files.table):
        return np.asarray(entries.vectors == 1)
    result = np.ones(len(entries), bool)
    inside = np.flatnonzero(mask)
    inside = inside[np.argsort(file[inside], kind="stable")]
    for its in np.split(inside, np.flatnonzero(np.diff(file[inside])) + 1) if len(inside) else ():
        number = int(file[its[0]])
        documents = files.files[number].documents
        if documents is None:
            continue
        bounds = np.append(documents, files.vectors[number]).astype(np.int64)
        at = np.searchsorted(documents, entries.row[its])
        end = bounds[np.minimum(at + 1, len(bounds) - 1)]
        result[its] = (bounds[at] == entries.row[its]) & (end == entries.row[its] + entries.vectors[its])
    return result


def _check_rejects(rows: _Selected) -> list[Problem]:
    duplicates = pc.equal(rows.table.column(names.REASON), names.DUPLICATE_ID).to_numpy()
    return sample(np.flatnonzero(duplicates), lambda at: f"{rows.place(at)} is rejected as duplicate_id", rows.rest)


def _reject_records(rows: _Selected) -> Iterator[IdRecords]:
    shards = np.array([numbered.part.shard for numbered in rows.group.parts], object)[rows.part_of]
    columns = {names.SHARD: pa.array(shards, pa.string())}
    columns |= {name: rows.table.column(name) for name in (names.ID, names.POSITION, names.REASON, names.MESSAGE)}
    rejects = pa.table([columns[column.name] for column in names.REJECTS_SCHEMA], schema=names.REJECTS_SCHEMA)
    return reject_records(rejects, rows.orders, RecordKind.SUPERSEDED)


def _rejected_by_shard(rows: _Selected) -> dict[str, int]:
    rejected: dict[str, int] = {}
    for number, times in enumerate(np.bincount(rows.part_of, minlength=len(rows.group.parts)).tolist()):
        uri = rows.group.parts[number].part.shard
        rejected[uri] = rejected.get(uri, 0) + times
    return rejected
