"""From some splits to all of them: an estimate of a total, with an interval from the spread between the splits.

What is known of each split without reading it, its rows and bytes, predicts what a split gives; the splits that were
read show how well. Knows numbers; knows no corpus, no text and no money.
"""

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

FloatArray = NDArray[np.float64]

_QUANTILES = (12.71, 4.30, 3.18, 2.78, 2.57, 2.45, 2.36, 2.31, 2.26, 2.23)
"""Of Student's t with 1 to 10 degrees of freedom: 95 % lie within. Nine of ten runs are promised: the rest is for what
few splits do not show, such as the longest documents."""
_BOTH_FROM = 8
"""Fewest splits from which a prediction by rows and bytes together is tried: two numbers are taken from them."""
_GOLDEN = (5**0.5 - 1) / 2
_TRIES = 64


@dataclass(frozen=True)
class Figure:
    """An estimated total. low, high: the interval in which it lies in nine of ten runs; None where one split alone was
    read, which shows no spread."""

    value: float
    low: float | None
    high: float | None

    @property
    def exact(self) -> bool:
        """Whether it was counted, not estimated."""
        return self.low == self.value == self.high

    @property
    def error(self) -> float | None:
        """Half of the interval, as a share of the value; None if it is unknown."""
        if self.low is None or self.high is None:
            return None
        return (self.high - self.low) / 2 / self.value if self.value else 0.0

    def times(self, factor: float) -> "Figure":
        """The figure in another unit."""
        low, high = (None if end is None else end * factor for end in (self.low, self.high))
        return Figure(self.value * factor, low, high)

    def plus(self, other: "Figure") -> "Figure":
        """Both together, where one is off independently of the other."""
        return self._moved(other.value, other)

    def uncertain(self, share: float) -> "Figure":
        """The same where it may also be higher by a share, or lower by the same factor, in nine of ten runs."""
        return self._moved(0.0, Figure(self.value, self.value / (1 + share), self.value * (1 + share)))

    def _moved(self, by: float, other: "Figure") -> "Figure":
        if self.low is None or self.high is None or other.low is None or other.high is None:
            return Figure(self.value + by, None, None)
        below = math.hypot(self.value - self.low, other.value - other.low)
        above = math.hypot(self.high - self.value, other.high - other.value)
        return Figure(self.value + by, self.value + by - below, self.value + by + above)

    def to_json(self) -> dict[str, Any]:
        return {"value": self.value, "low": self.low, "high": self.high}


class Estimator:
    """Estimates totals over N splits from n of them, which `draw` has chosen."""

    def __init__(self, rows: Sequence[float], size: Sequence[float], limit: float, seed: int = 0) -> None:
        """rows, size: [N] rows and bytes of text of each split, as the plan has them. limit: bytes of a row beyond
        which nothing is computed; infinite if everything is."""
        self._rows = np.maximum(np.asarray(rows, np.float64), 1)
        self._bytes = np.maximum(np.minimum(np.asarray(size, np.float64), self._rows * limit), 1)
        self.splits = len(self._rows)
        self._share: FloatArray = self._rows / self._rows.sum() / 2 + self._bytes / self._bytes.sum() / 2
        self._seed = seed

    def draw(self) -> Iterator[int]:
        """All splits, each once, in the order in which to read them: whenever it ends, those before are a sample.

        A split is drawn with the probability of its size. Steps of the golden ratio along the corpus leave no part of
        it out: neighbouring draws lie far from each other, and all together evenly.
        """
        random = np.random.default_rng(self._seed)
        ends, place = np.cumsum(self._share), random.random()
        left = np.ones(self.splits, np.bool_)
        for _ in range(_TRIES * self.splits):
            place = (place + _GOLDEN) % 1.0
            number = min(int(np.searchsorted(ends, place * ends[-1], side="right")), self.splits - 1)
            if left[number]:
                left[number] = False
                yield number
        yield from random.permutation(np.flatnonzero(left)).tolist()

    def total(self, chosen: Sequence[int], values: Sequence[float], errors: Sequence[float] = ()) -> Figure:
        """The total over all splits. chosen: [n] the splits that were read, in the order of `draw`; values: [n] what
        each of them gave; errors: [n] standard errors of the values, as shares of them, where they are estimates."""
        read, found = np.asarray(chosen), np.asarray(values, np.float64)
        known = float(found.sum())
        own = 2 * float(np.linalg.norm(found * np.asarray(errors))) if len(errors) else 0.0
        if len(read) == self.splits:
            return Figure(known, known - own, known + own)
        tries = [self._predicted(read, found, [self._rows]), self._predicted(read, found, [self._bytes])]
        if len(read) >= _BOTH_FROM:
            tries.append(self._predicted(read, found, [self._rows, self._bytes]))
        rest, below, above = min(tries, key=lambda tried: tried[1] + tried[2])
        if not np.isfinite(above):
            return Figure(known + rest, None, None)
        low = known + rest - float(np.hypot(below, own))
        return Figure(known + rest, max(0.0, known - own, low), known + rest + float(np.hypot(above, own)))

    def _predicted(self, read: NDArray[np.intp], found: FloatArray, by: list[FloatArray]) -> tuple[float, float, float]:
        """The total of the splits that were not read, and how far below and above it the interval reaches.

        Least squares, weighted against the probability of being drawn. The spread is that of what each split is off by,
        were it predicted from the others, blown up to all splits, for the part that was not read. If some splits are
        off by far more than the rest to one side, the interval reaches farther there (Johnson's t).
        """
        known, share = np.stack(by, axis=1), self._share[read]
        weights = 1 / np.sqrt(share)
        scaled = known[read] * weights[:, None]
        factors = np.linalg.lstsq(scaled, found * weights, rcond=None)[0]
        rest = max(0.0, float((known.sum(axis=0) - known[read].sum(axis=0)) @ factors))
        free = len(read) - len(by)
        if free < 1:
            return rest, np.inf, np.inf
        pull = np.einsum("ij,ji->i", scaled, np.linalg.pinv(scaled))  # of each split on its own prediction
        off = (found - known[read] @ factors) / share / np.maximum(1 - pull, 1 / len(read))
        unread = np.sqrt(max(0.0, 1 - float(share.sum())))
        spread = float(np.sqrt(off @ off / len(read))) + 1e-300
        error = unread * spread / np.sqrt(len(read))
        skew = float(np.mean((off / spread) ** 3)) * (1 + 2 * _quantile(free) ** 2) / (6 * np.sqrt(len(read)))
        aside = float(np.clip(skew, -_quantile(free), _quantile(free)))
        return rest, error * (_quantile(free) - min(0.0, aside)), error * (_quantile(free) + max(0.0, aside))


def _quantile(free: int) -> float:
    return _QUANTILES[free - 1] if free <= len(_QUANTILES) else 1.96 + 2.7 / free
