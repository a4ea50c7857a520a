"""Finds the live documents of a draft: of those with one id the first in the order of the shards, or as the draft's
rule says (`repeats`). All others are dead.

Documents become records, partitioned by the hashes of their ids: in this process they spill to disk and one partition
is looked into at a time; on an executor, tasks read groups of files, and others take a partition each. What stays in
memory here is one bit a vector, and for each document that another one replaces two numbers, four under a rule
(`duplicates`); until they are in order, twice as much at most. If the rule has a column, the records of all documents
that share an id are here, too, 36 bytes each, and the values of the column. Both ways find the same, in the same order.
Knows no manifests; `publish` writes them.
"""

import functools
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TypeVar

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from sfr_batch.format.dead_rows import Positions
from sfr_batch.format.file_values import gather_values
from sfr_batch.format.layout import Layout
from sfr_batch.format.parquet import read_data_file
from sfr_batch.format.records import KEPT, Receipt
from sfr_batch.storage.executor import Executor
from sfr_batch.storage.local_files import temporary_folder
from sfr_batch.storage.spill import Spill
from sfr_batch.table.commit.documents import (
    Reading,
    Records,
    Seen,
    Source,
    deal,
    read_documents,
    rows_of_documents,
    sources_of,
)
from sfr_batch.table.commit.draft import Draft
from sfr_batch.table.commit.duplicates import Duplicates
from sfr_batch.table.commit.live_rows import FileNumbers, LiveRows, Marks, Numbers, dead_in
from sfr_batch.table.commit.repeats import RECORD, Losers, losers_in, losers_of, repeated
from sfr_batch.table.table import Table

PARTITION_ROWS = 2**20
T = TypeVar("T")


@dataclass
class Liveness:
    """Which rows are live."""

    duplicates: Duplicates = field(repr=False)
    """Documents that are kept although they left the corpus are not among them: these are just dropped."""
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
    kept_from = next((source.first for source in sources if source.shard == KEPT), np.iinfo(np.int64).max)
    state = _State(files, kept_from)

    def find(what: Callable[[Records], T]) -> Iterator[T]:
        each = sources, reading, state.see, what
        return _find_on(executor, *each) if executor else _find_here(*each)

    rule = draft.duplicate_rule
    if rule and rule.order_by:
        shared = list(find(repeated))
        losers = _by_values(table, layout, draft, files, shared, kept_from, rule.order_by)
    else:
        losers = find(functools.partial(losers_in, kept_from=kept_from, last=rule is not None))
    duplicates = Duplicates.of(map(state.lose, losers), draft.receipts, files, sources)
    live = state.live
    needed = [(number, draft.receipts[number]) for number in np.flatnonzero(state.used).tolist()]
    return Liveness(
        duplicates=duplicates,
        vectors=live.total,
        live=live,
        dead={receipt.split_id: receipt for number, receipt in needed if live.count(number) < receipt.vectors},
        numbers=files.numbers,
        needed=frozenset(receipt.split_id for _, receipt in needed),
        **state.counts,
    )


class _State:
    """What was found so far. kept_from: the order from which on documents have left the corpus."""

    def __init__(self, files: FileNumbers, kept_from: int) -> None:
        self._files, self._kept_from = files, kept_from
        self.live, self.used = LiveRows(files), np.zeros(len(files.vectors), bool)
        self.counts = Counter({"embedded": 0, "reused": 0, "kept": 0})

    def see(self, seen: Seen) -> None:
        """All these documents are live until one of them loses."""
        self.counts.update(seen.counts)
        self.used[seen.whole] = True
        self.used[seen.used] = True
        self.live.add(seen.marks)
        for number in seen.whole:
            self.live.add_file(number)

    def lose(self, losers: Losers) -> Losers:
        """These documents are dead. Returns those of the corpus: the others are just dropped."""
        self.live.remove(Marks.of(rows_of_documents(losers.at, losers.dead)))
        in_corpus = losers.order < self._kept_from
        of_corpus = losers.take(in_corpus)
        new = int(self._files.is_new[self._files.locate(of_corpus.at)[0]].sum())
        kept = len(losers.order) - len(of_corpus.order)
        self.counts.subtract({"embedded": new, "reused": len(of_corpus.order) - new, "kept": kept})
        return of_corpus


def _find_here(
    sources: Sequence[Source], reading: Reading, note: Callable[[Seen], None], find: Callable[[Records], T]
) -> Iterator[T]:
    """What ``find`` finds in each partition of the documents. note: is told first what was seen."""
    with temporary_folder("sfr-ids-") as folder:
        spill = Spill(folder, RECORD, int(reading.files.vectors.sum()), PARTITION_ROWS)
        for records, seen in read_documents(sources, reading):
            spill.add(records)
            note(seen)
        yield from map(find, spill.partitions())


def _find_on(
    executor: Executor,
    sources: Sequence[Source],
    reading: Reading,
    note: Callable[[Seen], None],
    find: Callable[[Records], T],
) -> Iterator[T]:
    """The same in tasks of an executor."""
    seen, found = deal(executor, sources, reading, find)
    for each in executor.get(seen):
        note(each)
    yield from executor.get(found)


def _by_values(
    table: Table,
    layout: Layout,
    draft: Draft,
    files: FileNumbers,
    parts: Sequence[Records],
    kept_from: int,
    column: str,
) -> Iterator[Losers]:
    """Those documents that are not live if the one with the largest value of a column is. parts: documents that share
    an id, those with one id in one part."""
    at = np.concatenate([np.empty(0, np.int64), *(records["at"] for records in parts)])
    values = _read_values(table, layout, draft, files, at, column)
    start = 0
    for records in parts:
        yield losers_of(records, kept_from, last=True, values=values.slice(start, len(records)))
        start += len(records)


def _read_values(table: Table, layout: Layout, draft: Draft, files: FileNumbers, at: Numbers, column: str) -> pa.Array:
    """[n] the values of a column in the rows with the vectors ``at`` [n]. Only their files are read."""

    def read(number: int) -> pa.ChunkedArray:
        receipt = draft.receipts[number]
        return read_data_file(table.store, receipt, [column], table.card.fingerprint, layout).column(column)

    number, row = files.locate(at)
    kind = layout.schema.field(column).type
    return gather_values(read, number, row, kind, files.vectors.tolist())
