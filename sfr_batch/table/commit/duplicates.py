"""Documents whose id another document has, too, which is live instead: where they are, and their ids.

There may be as many as other documents. In memory are 16 bytes for each, 32 under a rule that names the live one, and
12 more while the ids are read. Ids come in pieces, in order; of a file whose documents are far apart in this order, the
ids wait in memory, so that each file is read once. Knows no limits and no messages.
"""

import dataclasses
import functools
from collections.abc import Container, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import NamedTuple

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from sfr_batch.format import names
from sfr_batch.format.parquet import read_data_file
from sfr_batch.format.records import Receipt
from sfr_batch.storage.executor import Executor
from sfr_batch.storage.store import Store
from sfr_batch.table.commit.documents import Source, of_each_file
from sfr_batch.table.commit.live_rows import FileNumbers, Numbers
from sfr_batch.table.commit.repeats import Losers
from sfr_batch.table.table import Table

ROWS_A_PIECE = 2**18
"""Documents whose ids come together."""
ROWS_AT_ONCE = 2**20
"""Documents whose files are read together, in tasks where there is an executor."""


class Places(NamedTuple):
    """[n] where documents are: URIs of their shards, keys of their data files, and their first rows there."""

    shards: pa.Array
    keys: pa.Array
    rows: Numbers


@dataclass(frozen=True)
class Duplicates:
    """[n] documents in order. order, at, winner_order, winner: [n] as of `repeats.Losers`, the last two perhaps [0]."""

    order: Numbers
    at: Numbers
    winner_order: Numbers
    winner: Numbers
    receipts: Sequence[Receipt] = field(repr=False)
    """Of all data files, by number."""
    files: FileNumbers = field(repr=False)
    sources: Sequence[Source] = field(repr=False)
    firsts: Numbers = field(repr=False)
    """[sources] the order of the first document of each source."""

    @classmethod
    def of(
        cls, found: Iterable[Losers], receipts: Sequence[Receipt], files: FileNumbers, sources: Sequence[Source]
    ) -> "Duplicates":
        """Those ``found``, in order. They come one after the other, and each must be without overlap with the rest."""
        pieces: list[list[Numbers]] = [[], [], [], []]
        for its in found:
            for column, values in zip(pieces, (its.order, its.at, its.winner_order, its.winner), strict=True):
                column.append(values)
        columns = []
        for column in pieces:
            columns.append(np.concatenate([np.empty(0, np.int64), *column]))
            column.clear()  # one column at a time is in memory twice
        in_order = np.argsort(columns[0])
        for number, values in enumerate(columns):
            columns[number] = values[in_order] if len(values) else values
        firsts = np.array([source.first for source in sources], np.int64)
        order, at, winner_order, winner = columns
        return cls(order, at, winner_order, winner, receipts, files, sources, firsts)

    def __len__(self) -> int:
        return len(self.order)

    def head(self, count: int) -> "Duplicates":
        """The first ``count`` of them."""
        columns = ("order", "at", "winner_order", "winner")
        return dataclasses.replace(self, **{name: getattr(self, name)[:count] for name in columns})

    def count_in(self, shards: Container[str]) -> int:
        """How many are in these shards, by URI."""
        begin = np.append(np.searchsorted(self.order, self.firsts), len(self))
        chosen = [source.shard in shards for source in self.sources]
        return int(np.diff(begin)[np.array(chosen, bool)].sum())

    def places(self, start: int, end: int) -> Places:
        """Where those from number ``start`` to before ``end`` are."""
        return self._places(self.order[start:end], self.at[start:end])

    def winners(self, start: int, end: int) -> Places:
        """Where the documents are that are live instead of these, if a rule chose them."""
        return self._places(self.winner_order[start:end], self.winner[start:end])

    def _places(self, order: Numbers, at: Numbers) -> Places:
        source = np.searchsorted(self.firsts, order, side="right") - 1
        file, row = self.files.locate(at)
        shards, which = _distinct(source)
        keys, of_file = _distinct(file)
        return Places(
            pa.array([self.sources[number].shard for number in shards], pa.string()).take(which),
            pa.array([names.data_key(self.receipts[number].split_id) for number in keys], pa.string()).take(of_file),
            row,
        )

    def ids(self, table: Table, executor: Executor | None = None) -> Iterator[pa.Array]:
        """Their ids in pieces of `ROWS_A_PIECE`, in order. Each of their data files is read once.

        executor: runs the tasks that read; None: this process does. Raises TableError if a file is damaged.
        """
        file, counts = np.empty(len(self), np.int32), np.zeros(len(self.receipts), np.int64)
        for start in range(0, len(self), ROWS_AT_ONCE):
            numbers, _ = self.files.locate(self.at[start : start + ROWS_AT_ONCE])
            file[start : start + ROWS_AT_ONCE] = numbers
            counts += np.bincount(numbers, minlength=len(counts))
        by_file, ends = np.argsort(file, kind="stable"), np.cumsum(counts)
        read = functools.partial(_ids_in, table.store, table.card.fingerprint)
        held: dict[int, pa.Array] = {}
        for start in range(0, len(self), ROWS_AT_ONCE):
            new = [number for number in np.unique(file[start : start + ROWS_AT_ONCE]).tolist() if number not in held]
            work = []
            for number in new:
                its = self.at[by_file[ends[number] - counts[number] : ends[number]]]
                work.append((self.receipts[number], its - self.files.starts[number]))
            held |= zip(new, of_each_file(read, work, executor), strict=True)
            for at in range(start, min(start + ROWS_AT_ONCE, len(self)), ROWS_A_PIECE):
                yield _take_next(held, file[at : min(at + ROWS_A_PIECE, start + ROWS_AT_ONCE)])


def _distinct(numbers: NDArray[np.integer]) -> tuple[list[int], pa.Array]:
    """The different ones of these numbers, and [n] the place of each of ``numbers`` [n] among them."""
    different, which = np.unique(numbers, return_inverse=True)
    return different.tolist(), pa.array(which)


def _take_next(held: dict[int, pa.Array], file: NDArray[np.int32]) -> pa.Array:
    """[n] ids of the next documents, which are in these files [n], by number. held: by file the ids that are left, in
    order; those of these documents leave it."""
    numbers, counts = np.unique(file, return_counts=True)
    pieces = []
    for number, count in zip(numbers.tolist(), counts.tolist(), strict=True):
        ids = held.pop(number)
        pieces.append(ids.slice(0, count))
        if len(ids) > count:
            held[number] = ids.slice(count)
    back = np.empty(len(file), np.int64)
    back[np.argsort(file, kind="stable")] = np.arange(len(file))
    return pa.concat_arrays(pieces).take(pa.array(back))


def _ids_in(store: Store, fingerprint: str, receipt: Receipt, rows: Numbers) -> pa.Array:
    """[rows] the ids in these rows of a file."""
    return (
        read_data_file(store, receipt, [names.ID], fingerprint).column(names.ID).take(pa.array(rows)).combine_chunks()
    )
