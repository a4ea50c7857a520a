"""Finds the live documents of a draft: of those with one id the first in the order of the shards, or as the draft's
rule says (`repeats`). All others are dead.

Documents become records, partitioned by the hashes of their ids: in this process they spill to disk and one partition
is sorted at a time; on an executor, tasks read groups of files, and others take a partition each. What stays in memory
here is one bit a vector, and the documents that share an id. Both ways find the same, in the same order. Knows no
manifests; `publish` writes them.
"""

import functools
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from sfr_batch.format import names
from sfr_batch.format.dead_rows import Positions
from sfr_batch.format.file_values import gather_values
from sfr_batch.format.layout import Layout
from sfr_batch.format.parquet import read_data_file
from sfr_batch.format.records import KEPT, Receipt
from sfr_batch.storage.executor import Executor
from sfr_batch.storage.local_files import temporary_folder
from sfr_batch.storage.spill import Spill
from sfr_batch.storage.store import Store
from sfr_batch.table.commit.documents import (
    Reading,
    Records,
    Seen,
    Source,
    counts_of,
    deal,
    of_each_file,
    read_documents,
    rows_of_documents,
    sources_of,
)
from sfr_batch.table.commit.draft import Draft
from sfr_batch.table.commit.live_rows import FileNumbers, LiveRows, Marks, Numbers, dead_in
from sfr_batch.table.commit.repeats import RECORD, repeated, winners
from sfr_batch.table.table import Table

PARTITION_ROWS = 2**20


@dataclass(frozen=True, slots=True)
class DuplicateRow:
    """A document whose id another document has too, which is live instead.

    row: its first row in the data file of ``split_id``; winner: the shard, split id and first row of the live one.
    """

    shard: str
    split_id: str
    row: int
    id: str | int
    winner: tuple[str, str, int]


@dataclass
class Liveness:
    """Which rows are live."""

    duplicates: list[DuplicateRow]
    """In order. Documents that are kept although they left the corpus are not among them: these are just dropped."""
    embedded: int
    """Live documents in new data files."""
    reused: int
    """Live documents in other data files."""
    kept: int
    """Live documents that are no longer in the corpus."""
    vectors: int
    needed: frozenset[str]
    """Split ids of the data files that have the vectors of some document, live or not."""

    live: LiveRows = field(repr=False)
    """The vectors of all data files of the draft."""
    dead: Mapping[str, Receipt] = field(repr=False)
    """The needed files with dead rows, by split id, in order."""
    numbers: Mapping[str, int] = field(repr=False)
    """Of all data files, by split id: those in ``live``."""

    def bits(self, split_id: str) -> NDArray[np.uint8]:
        """One bit for each row of a file, whether it is live, as `np.packbits` makes them."""
        return self.live.of(self.numbers[split_id])

    def dead_rows(self, split_id: str) -> Positions:
        """Dead rows of a file, ascending. They are found anew each time, so that only those of a file are in memory."""
        return dead_in(self.bits(split_id), self.dead[split_id].vectors)


def find_live(table: Table, draft: Draft, layout: Layout, executor: Executor | None = None) -> Liveness:
    """Find out which rows of the draft's data files are live. layout: of the snapshot.

    executor: runs the tasks that read and compare; None: this process does all. Raises TableError if a file is damaged
    or an index points to rows that do not exist.
    """
    files, sources = FileNumbers.of(draft.receipts, draft.new), sources_of(draft)
    reading = Reading(table.store, table.layout, table.card.fingerprint, files)
    live, used = LiveRows(files), np.zeros(len(draft.receipts), bool)
    counts = Counter({"embedded": 0, "reused": 0, "kept": 0})

    def note(seen: Seen) -> None:
        counts.update(seen.counts)
        used[seen.whole] = True
        used[seen.used] = True
        live.add(seen.marks)
        for number in seen.whole:
            live.add_file(number)

    what = sources, reading, note
    repeats = _repeats_on(executor, *what) if executor else _repeats_here(*what)
    rule = draft.duplicate_rule
    firsts = np.array([source.first for source in sources], np.int64)
    kept_from = next((source.first for source in sources if source.shard == KEPT), np.iinfo(np.int64).max)
    values = _read_values(table, layout, draft, files, repeats["at"], rule.order_by) if rule and rule.order_by else None
    winner = winners(repeats, kept_from, last=rule is not None, values=values)
    loses = winner != np.arange(len(repeats))
    elsewhere = repeats[loses & (repeats["at"] != repeats["at"][winner])]  # two rows with one vector: it stays
    live.remove(Marks.of(rows_of_documents(elsewhere["at"], elsewhere["vectors"])))

    def place(record: int) -> _Place:
        shard = sources[int(np.searchsorted(firsts, repeats["order"][record], side="right")) - 1].shard
        file, row = files.locate(int(repeats["at"][record]))
        return shard, draft.receipts[file].split_id, row

    duplicates = []
    lost = np.flatnonzero(loses)
    for record in lost[np.argsort(repeats["order"][lost])].tolist():
        shard, split_id, _ = found = place(record)
        counts.subtract(counts_of(shard, int(split_id in draft.new), 1))
        if shard != KEPT:
            duplicates.append((found, place(winner[record])))
    needed = [(number, draft.receipts[number]) for number in np.flatnonzero(used).tolist()]
    return Liveness(
        duplicates=_with_ids(table, draft, files, duplicates, executor),
        vectors=live.total,
        live=live,
        dead={receipt.split_id: receipt for number, receipt in needed if live.count(number) < receipt.vectors},
        numbers=files.numbers,
        needed=frozenset(receipt.split_id for _, receipt in needed),
        **counts,
    )


def _repeats_here(sources: Sequence[Source], reading: Reading, note: Callable[[Seen], None]) -> Records:
    """The documents that share an id, by id and then in order. note: is told what was seen."""
    with temporary_folder("sfr-ids-") as folder:
        spill = Spill(folder, RECORD, int(reading.files.vectors.sum()), PARTITION_ROWS)
        for records, seen in read_documents(sources, reading):
            spill.add(records)
            note(seen)
        return np.concatenate([np.empty(0, RECORD), *map(repeated, spill.partitions())])


def _repeats_on(
    executor: Executor, sources: Sequence[Source], reading: Reading, note: Callable[[Seen], None]
) -> Records:
    """The same in tasks of an executor."""
    seen, repeats = deal(executor, sources, reading)
    for each in executor.get(seen):
        note(each)
    return np.concatenate([np.empty(0, RECORD), *executor.get(repeats)])


def _read_values(table: Table, layout: Layout, draft: Draft, files: FileNumbers, at: Numbers, column: str) -> pa.Array:
    """[n] the values of a column in the rows with the vectors ``at`` [n]. Only their files are read."""

    def read(number: int) -> pa.ChunkedArray:
        receipt = draft.receipts[number]
        return read_data_file(table.store, receipt, [column], table.card.fingerprint, layout).column(column)

    number = np.searchsorted(files.starts, at, side="right") - 1
    kind = layout.schema.field(column).type
    return gather_values(read, number, at - files.starts[number], kind, files.vectors.tolist())


_Place = tuple[str, str, int]
"""Shard, split id and row of a document."""


def _with_ids(
    table: Table,
    draft: Draft,
    files: FileNumbers,
    rows: Sequence[tuple[_Place, _Place]],
    executor: Executor | None,
) -> list[DuplicateRow]:
    """Documents and the ones that are live instead; ids are read from their files."""
    by_file: dict[str, list[int]] = {}
    for (_, split_id, row), _ in rows:
        by_file.setdefault(split_id, []).append(row)
    work = [(draft.receipts[files.numbers[split_id]], its) for split_id, its in by_file.items()]
    read = functools.partial(_ids_in, table.store, table.card.fingerprint)
    ids = dict(zip(by_file, map(iter, of_each_file(read, work, executor)), strict=True))
    return [DuplicateRow(shard, split_id, row, next(ids[split_id]), winner) for (shard, split_id, row), winner in rows]


def _ids_in(store: Store, fingerprint: str, receipt: Receipt, rows: list[int]) -> list[str | int]:
    """[rows] the ids in these rows of a file."""
    ids = read_data_file(store, receipt, [names.ID], fingerprint).column(names.ID)
    return list(ids.take(pa.array(rows)).to_pylist())
