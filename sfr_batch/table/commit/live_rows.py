"""Which vectors of data files are live, or needed, one bit each. Knows no ids and reads nothing.

Data files have numbers, in the order of a draft or a snapshot. So have their vectors: those of a file follow each
other from a multiple of 8 on, so that each file has bytes of its own among the bits.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from sfr_batch.format.dead_rows import Positions
from sfr_batch.format.records import Receipt

Numbers = NDArray[np.int64]
Bits = NDArray[np.uint8]
"""One bit for each vector of a file, as `np.packbits` makes them."""


@dataclass(frozen=True)
class FileNumbers:
    """Data files by number. numbers: by split id; vectors: [files] how many each has; starts: [files + 1] number of the
    first vector of each; is_new: [files] whether its vectors were computed by this run."""

    numbers: Mapping[str, int]
    vectors: Numbers
    starts: Numbers
    is_new: NDArray[np.bool_]

    @classmethod
    def of(cls, receipts: Sequence[Receipt], new: frozenset[str]) -> "FileNumbers":
        vectors = np.array([receipt.vectors for receipt in receipts], np.int64)
        return cls(
            numbers={receipt.split_id: number for number, receipt in enumerate(receipts)},
            vectors=vectors,
            starts=np.concatenate([np.zeros(1, np.int64), np.cumsum(-(-vectors // 8) * 8)]),
            is_new=np.array([receipt.split_id in new for receipt in receipts], bool),
        )

    def locate(self, at: Numbers) -> tuple[Numbers, Numbers]:
        """[n] number of the file of each vector, and [n] its row there. at: [n] numbers of vectors."""
        number = np.searchsorted(self.starts, at, side="right") - 1
        return number, at - self.starts[number]


class Marks(NamedTuple):
    """Some vectors, as bytes of the bits: [k] numbers of the bytes, ascending, and [k] their values."""

    where: Numbers
    value: NDArray[np.uint8]

    @classmethod
    def of(cls, vectors: Numbers) -> "Marks":
        """vectors: [n] their numbers, in any order; one may be there more than once."""
        return cls._joined(vectors >> 3, (128 >> (vectors & 7)).astype(np.uint8))

    @classmethod
    def union(cls, marks: Sequence["Marks"]) -> "Marks":
        nothing = cls(np.empty(0, np.int64), np.empty(0, np.uint8))
        return cls._joined(*(np.concatenate(parts) for parts in zip(nothing, *marks, strict=True)))

    @classmethod
    def _joined(cls, where: Numbers, value: NDArray[np.uint8]) -> "Marks":
        order = np.argsort(where, kind="stable")
        where, value = where[order], value[order]
        firsts = np.flatnonzero(np.diff(where, prepend=-1))
        return cls(where[firsts], np.bitwise_or.reduceat(value, firsts) if len(firsts) else value)


class LiveRows:
    """One bit for each vector of the files."""

    def __init__(self, files: FileNumbers) -> None:
        self._files = files
        self._bits = np.zeros(int(files.starts[-1]) // 8, np.uint8)

    def add(self, marks: Marks) -> None:
        """These vectors are live."""
        self._bits[marks.where] |= marks.value

    def add_file(self, number: int) -> None:
        """All vectors of a file are live."""
        self.of(number)[:] = np.packbits(np.ones(self._files.vectors[number], np.bool_))

    def remove(self, marks: Marks) -> None:
        """These vectors are dead."""
        self._bits[marks.where] &= ~marks.value

    def of(self, number: int) -> Bits:
        """The bits of a file."""
        start, end = self._files.starts[number : number + 2].tolist()
        return self._bits[start // 8 : end // 8]

    def count(self, number: int) -> int:
        """How many vectors of a file are live."""
        return count(self.of(number))

    @property
    def total(self) -> int:
        """How many vectors are live in all files."""
        return sum(map(self.count, range(len(self._files.vectors))))


def count(bits: Bits) -> int:
    """How many of the bits are set."""
    return int(np.count_nonzero(np.unpackbits(bits)))


def mask_of(bits: Bits, vectors: int) -> NDArray[np.bool_]:
    """[vectors] the bits of a file with so many vectors."""
    return np.unpackbits(bits, count=vectors).view(np.bool_)


def dead_in(bits: Bits, vectors: int) -> Positions:
    """The rows of a file that are not live, ascending."""
    return np.flatnonzero(~mask_of(bits, vectors))
