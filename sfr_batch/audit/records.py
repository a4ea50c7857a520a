"""Ids of rows, live, dead, rejected and of the corpus, as records of fixed size that can be grouped by id.

Pure over arrays; knows no files.
"""

from bisect import bisect_right
from collections.abc import Sequence
from enum import IntEnum
from typing import Any

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

IntArray = NDArray[np.int64]
Records = NDArray[np.void]
Hashes = tuple[NDArray[np.uint64], NDArray[np.uint64]]

RECORD = np.dtype(
    [("hash", np.uint64), ("more", np.uint64), ("content", np.uint64), ("row", np.int64), ("kind", np.uint8)]
)
"""hash, more: the id; content: half of the text's hash, 0 if it is not known; row: its number among the rows of all
data files, of all rejects files or of the corpus."""


class Kind(IntEnum):
    """What a record is of. A row that reading rejects is known by shard and position, for it may have no id; all
    others by id."""

    LIVE = 0
    DEAD = 1
    DUPLICATE = 2
    REJECTED_ID = 3
    REJECTED_ROW = 4
    IN_CORPUS = 5
    BAD_IN_CORPUS = 6


def make_records(hashes: Hashes, kind: Kind, rows: IntArray) -> Records:
    """Records [n] without content."""
    records = np.zeros(len(rows), RECORD)
    records["hash"], records["more"] = hashes
    records["kind"], records["row"] = kind, rows
    return records


def hashes_of(keys: Sequence[Any]) -> Hashes:
    """128 bits of each key, in two halves. Integers are their own; of strings and tuples Python's hash, which is keyed
    by process and no farther travelled: of the key, and of the key with something to it."""
    n = len(keys)
    if n and isinstance(keys[0], int):
        return np.fromiter(keys, np.int64, n).view(np.uint64), np.zeros(n, np.uint64)
    first = np.fromiter(map(hash, keys), np.int64, n).view(np.uint64)
    more = np.fromiter((hash(f"{key}\0") for key in keys), np.int64, n).view(np.uint64)
    return first, more


def places_of(rejects: pa.Table) -> list[str]:
    """Keys of rows that have no id to go by. An id cannot be equal to one but by hashing alike."""
    shards, positions = rejects.column("shard").to_pylist(), rejects.column("position").to_pylist()
    return [f"\0{shard}\0{position}" for shard, position in zip(shards, positions, strict=True)]


def heads_of(column: pa.Array | pa.ChunkedArray) -> NDArray[np.uint64]:
    """The first 8 bytes of each value of a 16-byte column."""
    chunks = column.chunks if isinstance(column, pa.ChunkedArray) else [column]
    parts = [
        np.frombuffer(chunk.buffers()[1], np.uint64)[2 * chunk.offset : 2 * (chunk.offset + len(chunk)) : 2]
        for chunk in chunks
        if len(chunk)
    ]
    return np.concatenate(parts) if parts else np.empty(0, np.uint64)


def locate(starts: Sequence[int], row: int) -> tuple[int, int]:
    """Which file has row ``row`` of all, and the row in it; starts: the first row of each file."""
    number = bisect_right(starts, row) - 1
    return number, row - starts[number]


class Groups:
    """Records of one partition by their key. counts: by kind, how many records each group has."""

    def __init__(self, records: Records) -> None:
        self._records = records = records[np.lexsort((records["row"], records["more"], records["hash"]))]
        new = np.ones(len(records), bool)
        new[1:] = (records["hash"][1:] != records["hash"][:-1]) | (records["more"][1:] != records["more"][:-1])
        self._starts = np.append(np.flatnonzero(new), len(records))
        self._group = np.cumsum(new) - 1
        self.counts = [self._count(records["kind"] == kind) for kind in Kind]

    def _count(self, mask: NDArray[np.bool_]) -> IntArray:
        return np.bincount(self._group[mask], minlength=len(self._starts) - 1)

    def where(self, mask: NDArray[np.bool_]) -> IntArray:
        """The groups that ``mask`` [groups] is true of, in an order that does not depend on hashes."""
        groups = np.flatnonzero(mask)
        return groups[np.argsort(self._records["row"][self._starts[groups]], kind="stable")]

    def rows(self, group: int, kind: Kind) -> list[int]:
        """``row`` of the group's records of this kind, in order."""
        some = self._records[self._starts[group] : self._starts[group + 1]]
        found: list[int] = some["row"][some["kind"] == kind].tolist()
        return found

    def stale(self) -> IntArray:
        """Groups whose live row has no row of the corpus with its text, though there is one with its id."""
        kind, content = self._records["kind"], self._records["content"]
        live = kind == Kind.LIVE
        of_live = np.zeros(len(self._starts) - 1, np.uint64)
        of_live[self._group[live]] = content[live]
        has_equal = self._count((kind == Kind.IN_CORPUS) & (content == of_live[self._group])) > 0
        return self.where((self.counts[Kind.LIVE] > 0) & (self.counts[Kind.IN_CORPUS] > 0) & ~has_equal)
