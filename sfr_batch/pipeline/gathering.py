"""Vectors that are copied, from the data files that have them to the splits that take them.

A split whose rows are in the order of their vectors reads its few files itself. Where rows are in another order, every
split has rows in most files: then each file is read once for many splits, and its rows are dealt to them. Arrays,
tables and data files; knows no corpus and no Ray.
"""

import itertools
from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from sfr_batch.format.parquet import read_data_file
from sfr_batch.format.records import Receipt
from sfr_batch.format.side_tables import from_table
from sfr_batch.planning.decided_rows import WorkRows
from sfr_batch.storage.store import Store

_FEW = 4
"""Times that a file may be read before its rows are dealt, which costs a further task and a copy of them."""


class Source(NamedTuple):
    """Data files of a table that have vectors. files: receipts, by number; columns: those that are read."""

    store: Store
    files: pa.Table
    columns: list[str]
    fingerprint: str


@dataclass(frozen=True)
class Spread:
    """How the vectors of the rows of consecutive splits are spread over data files."""

    reads: int
    """Reads of files if each split reads those that have its vectors."""
    files: int
    """Files that have the vectors."""
    bounds: tuple[int, ...]
    """[ranges - 1] ascending; the number of the first file of each range but the first. Ranges of files have about
    equally many of the rows."""

    @property
    def scattered(self) -> bool:
        return self.reads > _FEW * self.files


def spread_of(
    ends: Sequence[int], spans: Sequence[tuple[int, int]], ranges: int, *rows: WorkRows
) -> tuple[Spread, WorkRows]:
    """A task: how the rows of consecutive splits are spread, and the rows themselves.

    ends: [splits] how many of the rows are in the splits up to each; spans: which of each of ``rows``; ranges: at most.
    """
    places = np.concatenate([its[start:stop] for its, (start, stop) in zip(rows, spans, strict=True)])
    split = np.repeat(np.arange(len(ends)), np.diff(ends, prepend=0))  # [rows]
    files, number, counts = np.unique(places["file"], return_inverse=True, return_counts=True)
    reads = len(np.unique(split * len(files) + number))
    last = np.searchsorted(np.cumsum(counts), len(places) * np.arange(1, ranges) / ranges)  # of each range but the last
    bounds = np.unique(files[last[last + 1 < len(files)] + 1])
    return Spread(reads, len(files), tuple(bounds.tolist())), places


def deal(
    source: Source, number: int, bounds: Sequence[int], ends: Sequence[int], places: WorkRows
) -> tuple[pa.Table, ...]:
    """The rows that one range of files has, for each group of documents, in the order of the documents.

    number: of the range, among those that ``bounds`` of the `Spread` bounds; ends: [groups] how many of the documents
    are in the groups up to each; places: as of `gather_rows`.
    """
    mine = np.flatnonzero(_ranges(places, bounds) == number)
    read, row = _read(source, places[mine])
    read = read.combine_chunks()  # one look for each group that takes some of it
    until = np.concatenate([[0], np.cumsum(places["vectors"][mine])])  # [documents + 1] rows before each
    cuts = until[np.searchsorted(mine, [0, *ends])]
    return tuple(read.take(pa.array(row[start:stop])) for start, stop in itertools.pairwise(cuts))


class Dealt:
    """What was dealt to one group: gives out the rows of its documents, which are asked for in order.

    pieces: [ranges] of the group, by `deal`; bounds: of the `Spread`.
    """

    def __init__(self, pieces: Sequence[pa.Table], bounds: Sequence[int]) -> None:
        self._pieces, self._bounds = pieces, bounds
        self._given = np.zeros(len(pieces), np.int64)

    def take(self, places: WorkRows) -> pa.Table:
        """[rows] the rows of the next documents, in order."""
        piece = np.repeat(_ranges(places, self._bounds), places["vectors"])  # [rows]
        counts = np.bincount(piece, minlength=len(self._pieces))
        its = zip(self._pieces, self._given.tolist(), counts.tolist(), strict=True)
        joined = pa.concat_tables([table.slice(first, count) for table, first, count in its if count])
        self._given += counts
        return joined.take(pa.array(_places(np.argsort(piece, kind="stable"))))


def gather_rows(source: Source, places: WorkRows) -> pa.Table:
    """[rows] the rows of documents from any data files, in the order of the documents. Each file is read once.

    places: [documents] where the vectors of each are.
    """
    read, row = _read(source, places)
    return read.take(pa.array(row))


def _ranges(places: WorkRows, bounds: Sequence[int]) -> NDArray[np.int64]:
    """[documents] the range of files that each has its vectors in."""
    return np.searchsorted(np.array(bounds, np.int32), places["file"], "right")


def _read(source: Source, places: WorkRows) -> tuple[pa.Table, NDArray[np.int64]]:
    """The rows of documents, by data file, and [rows] which of them each row of the result is."""
    vectors = places["vectors"]
    document = np.repeat(np.arange(len(vectors)), vectors)  # [rows] number of the document of each row
    first = np.cumsum(vectors) - vectors  # [documents] where the rows of each begin in the result
    within = np.arange(len(document)) - first[document]  # [rows] position within the document: 0, 1, ...
    at = places["first"][document] + within  # [rows] row in the data file
    by_file = np.argsort(places["file"][document], kind="stable")  # [rows] rows of the result, by file
    used, begins = np.unique(places["file"][document][by_file], return_index=True)
    receipts = from_table(Receipt, source.files.take(pa.array(used)))
    pieces: list[pa.Table] = []
    for receipt, wanted in zip(receipts, np.split(at[by_file], begins[1:]), strict=True):
        read = read_data_file(source.store, receipt, source.columns, source.fingerprint)
        pieces.append(read.take(pa.array(wanted)))
    return pa.concat_tables(pieces), _places(by_file)


def _places(order: NDArray[np.int64]) -> NDArray[np.int64]:
    """[n] where each number 0, 1, ... is in ``order``, which has each once."""
    places = np.empty_like(order)
    places[order] = np.arange(len(order))
    return places
