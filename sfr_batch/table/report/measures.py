"""What grows with time and with the lengths of texts, in a bounded number of figures. Pure; knows no run."""

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

POINTS = 240
"""Most points of a series, however long a run is."""
EDGES = tuple(sorted({1, *(2**n for n in range(1, 20)), *(3 * 2**n for n in range(19))}))
"""The least length of each bucket, in tokens: 1, 2, 3, 4, 6, 8, 12 and so on, two for each power of two. The last one
has no end."""


class Series:
    """Tokens and rows over time, in intervals of equal length. When there would be more than POINTS of them, each two
    become one."""

    def __init__(self, every_s: float = 1.0) -> None:
        self.every_s = every_s
        """Seconds of an interval."""
        self._tokens: list[int] = []
        self._rows: list[int] = []

    def add(self, begin: float, end: float, tokens: int, rows: int) -> None:
        """Count work that was done evenly from ``begin`` to ``end``, in seconds since the series began."""
        begin, end = max(0.0, min(begin, end)), max(0.0, end)
        while end >= self.every_s * POINTS:
            self._tokens, self._rows = _pairs(self._tokens), _pairs(self._rows)
            self.every_s *= 2
        first, last = int(begin / self.every_s), int(end / self.every_s)
        for values, amount in ((self._tokens, tokens), (self._rows, rows)):
            values += [0] * (last + 1 - len(values))
            given = 0
            for number in range(first, last + 1):
                done = (min((number + 1) * self.every_s, end) - begin) / (end - begin) if end > begin else 1.0
                upto = amount if number == last else round(amount * done)
                values[number] += upto - given
                given = upto

    def values(self) -> tuple[tuple[int, ...], tuple[int, ...]]:
        """Tokens and rows of each interval so far."""
        return tuple(self._tokens), tuple(self._rows)


def fewer(values: Sequence[int], most: int) -> tuple[list[int], int]:
    """At most ``most`` values, each the sum of neighbours; and of how many."""
    together = max(1, -(-len(values) // most))
    return [sum(values[at : at + together]) for at in range(0, len(values), together)], together


def length_counts(lengths: NDArray[np.integer]) -> NDArray[np.int64]:
    """[len(EDGES)] how many of the ``lengths`` [n] are in each bucket; those below 1 are in the first."""
    buckets = np.searchsorted(EDGES, lengths, side="right") - 1
    return np.bincount(np.maximum(buckets, 0), minlength=len(EDGES)).astype(np.int64)


def _pairs(values: list[int]) -> list[int]:
    return [sum(values[at : at + 2]) for at in range(0, len(values), 2)]
