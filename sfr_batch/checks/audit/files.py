"""The data files of a snapshot: each examined once, in order, and the results folded into one value."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from sfr_batch.checks.audit.contents import AHEAD, Contents
from sfr_batch.checks.audit.data_file import (
    PROMISES,
    TOLERANCE,
    DataFile,
    Examined,
    examine,
    is_chunked,
)
from sfr_batch.checks.audit.id_records import NO_CANDIDATE, ROWS_A_FILE, IdRecords, IntArray
from sfr_batch.checks.audit.promises import Problem, Problems, PromiseCheck
from sfr_batch.checks.audit.report import CHUNKS, FILES, FOOTERS, PAGES, SCHEMA, VECTORS, Finding
from sfr_batch.checks.audit.snapshots import expired_since, tell_older
from sfr_batch.checks.audit.work import Work
from sfr_batch.errors import SfrBatchError, counted
from sfr_batch.format import names
from sfr_batch.format.dead_rows import Dead, DeadLists
from sfr_batch.format.file_values import gather_values
from sfr_batch.format.layout import Layout
from sfr_batch.format.records import Receipt
from sfr_batch.storage.store import ObjectInfo
from sfr_batch.table.commit.damage import find_lost, listed_wrong
from sfr_batch.table.table import Snapshot, Table

_IN_FLIGHT = 2**28
"""Approximate number of bytes of data files in memory at a time."""


@dataclass(frozen=True)
class Place:
    """A row of a data file."""

    where: str
    id: Any
    content_hash: bytes

    def __str__(self) -> str:
        return f"{self.where} (id {self.id!r})"


@dataclass(frozen=True)
class DataFiles:
    """The data files of a snapshot, all examined, and the numbering of their rows: that of the file, then of the row.

    layout: of the snapshot. problems: by promise, of `PROMISES`. repaired: numbers of older snapshots that need lost
    files whose names a repair has condemned; they stay damaged.
    """

    table: Table
    layout: Layout
    files: Sequence[DataFile]
    problems: Mapping[str, Problems]
    repaired: Sequence[int] = ()

    @property
    def unread(self) -> int:
        """Number of files that could not be read, or not in full."""
        return max(problems.unchecked for problems in self.problems.values())

    @cached_property
    def rows(self) -> int:
        """Number of rows that were read."""
        return sum(file.rows for file in self.files)

    @cached_property
    def bytes(self) -> int:
        """Size of all files according to their receipts."""
        return sum(file.receipt.size for file in self.files)

    @cached_property
    def vectors(self) -> IntArray:
        """[files] number of rows of each file according to its receipt."""
        return np.array([file.receipt.vectors for file in self.files], np.int64)

    @cached_property
    def numbers(self) -> Mapping[str, int]:
        """The number of each file by its split id."""
        return {file.receipt.split_id: number for number, file in enumerate(self.files)}

    def number_of_row(self, file: IntArray, row: IntArray) -> IntArray:
        """[n] numbers of rows among those of all files. file, row: [n] number of the file, and of the row in it."""
        return np.asarray(file * ROWS_A_FILE + row)

    def values(self, column: str, rows: IntArray) -> pa.Array:
        """[n] the values of a column in ``rows``, by their numbers, to order them by. Only their files are read."""
        place = np.divmod(rows, ROWS_A_FILE)
        kind = self.layout.schema.field(column).type
        return gather_values(lambda number: self._column(column, number), *place, kind, self.vectors.tolist())

    def _column(self, name: str, file: int) -> pa.ChunkedArray:
        with self.table.store.open(names.data_key(self.files[file].receipt.split_id)) as data:
            return self.layout.read(pq.ParquetFile(data, pre_buffer=False), [name]).column(name)

    def place(self, number: int) -> Place:
        """The file and position of a row by its number among those of all files; its id and hash are read again."""
        file, row = divmod(number, ROWS_A_FILE)
        key = names.data_key(self.files[file].receipt.split_id)
        with self.table.store.open(key) as data:
            columns = pq.ParquetFile(data, pre_buffer=False).read([names.ID, names.CONTENT_HASH], use_threads=False)
        return Place(f"row {row} of {key}", **columns.slice(row, 1).to_pylist()[0])


@dataclass(frozen=True)
class _Listed:
    """A data file. order: number of its first row among the candidates; None if it has none. wrong: see `examine`."""

    number: int
    receipt: Receipt
    order: int | None
    wrong: str | None
    dead: Dead | None


_Context = tuple[Table, Layout, DeadLists]


def read_data_files(table: Table, contents: Contents, snapshots: Mapping[int, Snapshot], work: Work) -> DataFiles:
    """Examine the data files of a snapshot, and whether those of the other ``snapshots`` exist.

    The records of their ids are added to ``work``.
    """
    committed = table.committed()
    checks = {name: PromiseCheck(name) for name in PROMISES}
    elsewhere, repaired = _missing_elsewhere(table, contents, snapshots, committed)
    checks[FILES].add(elsewhere)
    orders = {c.split_id: number for number, c in contents.candidates() if isinstance(c, Receipt)}
    listed = [
        _Listed(
            number,
            receipt,
            orders.get(receipt.split_id),
            listed_wrong(receipt.split_id, receipt.size, committed),
            contents.deletes.parts.get(receipt.split_id),
        )
        for number, receipt in enumerate(contents.receipts)
    ]
    layout, rows = contents.snapshot.layout, [receipt.vectors for receipt in contents.receipts]
    context = table, layout, DeadLists(table.store, contents.snapshot.number)
    largest = max((receipt.size for receipt in contents.receipts), default=1)
    at_once = int(np.clip(_IN_FLIGHT // (3 * max(1, largest)), 2, AHEAD))  # as many as memory allows
    row_bytes = sum(receipt.size for receipt in contents.receipts) / max(1, sum(rows))
    files: list[DataFile] = []
    for found in work.each(_look, context, listed, rows, at_once, row_bytes):
        for name, problems in found.problems.items():
            checks[name].add(problems)
        for name in found.unchecked:
            checks[name].unchecked += 1
        files.append(found.file)
    by_promise = {name: check.problems for name, check in checks.items()}
    return DataFiles(table, layout, files, by_promise, repaired)


def _look(context: _Context, file: _Listed) -> tuple[Examined, Sequence[IdRecords]]:
    """A data file, examined, without the records of its ids, and these: numbered among the rows of all files."""
    table, layout, lists = context
    dead = np.empty(0, np.int64) if file.dead is None else lists.positions(file.dead)
    found = examine(table, layout, file.receipt, file.wrong, dead)
    ids = found.ids
    ids["order"] = NO_CANDIDATE if file.order is None else ids["row"] + file.order
    ids["row"] += file.number * ROWS_A_FILE
    return replace(found, ids=ids[:0]), [ids]


def _missing_elsewhere(
    table: Table, contents: Contents, snapshots: Mapping[int, Snapshot], committed: Mapping[str, ObjectInfo]
) -> tuple[list[Problem], list[int]]:
    """Data files that only other snapshots name, and that are missing; and the numbers of snapshots older than a repair
    that need files which it has found lost: nobody promises these any more."""
    seen = {receipt.split_id for receipt in contents.receipts}
    condemned = snapshots[max(snapshots)].read_condemned() if snapshots else frozenset()
    problems: list[Problem] = []
    repaired = []
    for number, snapshot in snapshots.items():
        if snapshot is contents.snapshot:
            continue
        try:
            lost = find_lost(snapshot, committed)
        except (SfrBatchError, pa.ArrowException):  # reported as a side file
            continue
        absent = {split_id: wrong for split_id, wrong in lost.items() if split_id not in seen}
        if absent and expired_since(table, number):
            continue
        if condemned & lost.keys():
            repaired.append(number)
        still = [wrong for split_id, wrong in absent.items() if split_id not in condemned]
        problems += [Problem(f"{wrong}; snapshot {number} needs it") for wrong in still]
        seen.update(snapshot.split_ids())
    return problems, repaired


def file_findings(found: DataFiles) -> Iterator[Finding]:
    """The findings about files as such."""
    table, files = found.table, counted(len(found.files), "data file")
    held = {
        FILES: (files, f"all present, {found.bytes:,} bytes{tell_older(found.repaired)}"),
        PAGES: (f"pages of {counted(found.rows, 'row')}", "checksums match"),
        FOOTERS: (
            files,
            f"fingerprint {table.card.fingerprint[:12]}, receipts as in the manifest, bounds of columns hold",
        ),
        SCHEMA: (files, _told_columns(found)),
    }
    for name, told in held.items():
        yield PromiseCheck(name, found.problems[name]).finding(*told)


def _told_columns(found: DataFiles) -> str:
    others = sum(file.receipt.covers != found.layout.covers for file in found.files)
    if others:
        return f"the columns that their receipts say; {counted(others, 'file')} written before carried columns changed"
    return f"the same {counted(len(found.layout.schema), 'column')} as the table"


def row_findings(found: DataFiles) -> Iterator[Finding]:
    """The findings about rows, each by itself."""
    tolerance = TOLERANCE[found.table.card.vector_dtype]
    worst = max((file.worst_length for file in found.files), default=0.0)
    holds = f"finite, lengths differ from 1 by at most {worst:.1e} (limit {tolerance:g})"
    yield PromiseCheck(VECTORS, found.problems[VECTORS]).finding(counted(found.rows, "vector"), holds)
    if is_chunked(found.table):
        holds = "numbered from 0 without gaps in each document, all live or all deleted"
        yield PromiseCheck(CHUNKS, found.problems[CHUNKS]).finding(counted(found.rows, "chunk"), holds)
