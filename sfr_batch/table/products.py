"""Which products of queries and rows may be among the best: found block by block, on the CPU.

Once k good rows of a query are known, few blocks have a better one. Of all others only the best product is looked at:
nothing in them is partitioned or sorted. Knows numbers; knows no rows of a table.
"""

from abc import ABC, abstractmethod

import numpy as np
from numpy.typing import NDArray

FloatArray = NDArray[np.float32]
Numbers = NDArray[np.intp]

QUERIES_AT_ONCE = 1024
BLOCK_SCORES = 2 * 2**20
"""Most products that are held at once, 4 bytes each: a block that fits into a cache is looked through faster, and the
smaller it is, the sooner a k-th score is known."""
_LEAST_ROUNDING = 1e-5
_ROUNDING = 1.01 * 2.0**-23
"""Times d, in lengths of the query: by more, two float32 products with a row of length 1 cannot differ, in whatever
order their d numbers are added. Each of the d roundings is at most 2**-24 of a sum that is at most 1."""


class Products(ABC):
    """The products of queries [q, d] with blocks of rows. Counts what it looks at."""

    block_scores = BLOCK_SCORES

    def __init__(self, queries: FloatArray) -> None:
        self.queries = queries
        rounding = max(_LEAST_ROUNDING, _ROUNDING * queries.shape[1])
        self.rounding: FloatArray = np.float32(rounding) * np.linalg.norm(queries, axis=1).astype(np.float32)
        """[q] how far a product may lie from the one that counts."""
        self.pairs = 0
        """Pairs of a query and a block that were multiplied."""
        self.opened = 0
        """Those whose best product was good enough for a look at the single ones."""

    @property
    def rows_at_once(self) -> int:
        """Rows of a block."""
        return max(1, self.block_scores // min(len(self.queries), QUERIES_AT_ONCE))

    def candidates(self, block: FloatArray, worst: FloatArray, k: int) -> tuple[Numbers, Numbers]:
        """Queries and rows of a block [n, d] whose products may be among the best ``k`` of all rows, ties included.

        worst: [q] the k-th best product before this block.
        """
        found = [(np.empty(0, np.intp), np.empty(0, np.intp))]
        least = worst - self.rounding
        for start in range(0, len(self.queries), QUERIES_AT_ONCE):
            some = slice(start, start + QUERIES_AT_ONCE)
            opened, which, at = self._look(some, block, least[some], k)
            self.pairs += len(least[some])
            self.opened += opened
            if len(which):
                found.append((which + start, at))
        which, at = (np.concatenate(parts) for parts in zip(*found, strict=True))
        return which, at

    @abstractmethod
    def _look(self, some: slice, block: FloatArray, least: FloatArray, k: int) -> tuple[int, Numbers, Numbers]:
        """See `candidates`, for some of the queries, counted from the first of them; and how many were opened.

        least: [some] what a product must have to be looked at.
        """


class OnCpu(Products):
    """Products by NumPy, on the threads that it has."""

    def _look(self, some: slice, block: FloatArray, least: FloatArray, k: int) -> tuple[int, Numbers, Numbers]:
        scores = self.queries[some] @ block.T
        opened = np.flatnonzero(~(scores.max(axis=1) < least))  # NaN is never less
        if len(opened) < len(scores):
            scores, least = scores[opened], least[opened]
        if not len(opened):
            return 0, opened, opened
        rows = scores.shape[1]
        which, at = np.divmod(np.flatnonzero(scores >= least[:, None]), rows)
        many = np.flatnonzero(np.bincount(which, minlength=len(opened)) > k)
        if len(many):
            kth = -np.partition(-scores[many], k - 1, axis=1)[:, k - 1]  # NaN comes last
            least[many] = np.maximum(least[many], kth - 2 * self.rounding[some][opened[many]])
            kept = scores[which, at] >= least[which]
            which, at = which[kept], at[kept]
        return len(opened), opened[which], at
