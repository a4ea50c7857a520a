"""How far a mean over questions may be due to which questions were asked: resampling with a fixed seed.

Pure functions on numbers; know no measures.
"""

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

RESAMPLES = 10_000
"""Fewer where there are so many questions that they would take long, see `_resamples`."""
LEVEL = 0.95
"""Of intervals. A change whose p is not below 1 - LEVEL is within chance."""
_SEED = 20_260_101
_EXACT = 13
"""Up to so many questions that differ, all signs are tried."""
_ROUNDING = 1e-9
"""By less, sums of the same numbers in another order may differ."""
_LEAST = 1_000
_NUMBERS = 2 * 10**8
"""Most random numbers of a resampling, unless it would have less than _LEAST samples."""
_NUMBERS_AT_ONCE = 4 * 2**20

FloatMatrix = NDArray[np.float64]


@dataclass(frozen=True, slots=True)
class Change:
    """The means of one measure over the same questions, before and after."""

    before: float
    after: float
    low: float
    """``low`` to ``high``: an interval of the difference, by bootstrap over the questions, LEVEL of the resamples."""
    high: float
    p: float
    """Probability of a difference at least as large, in either direction, if each question's two results had been
    interchanged by chance (paired randomization test)."""

    @property
    def difference(self) -> float:
        return self.after - self.before

    @property
    def verdict(self) -> str:
        """better, worse, or that it may be chance."""
        if self.p >= 1 - LEVEL:
            return "within chance" if abs(self.difference) > _ROUNDING else "equal"
        return "better" if self.difference > 0 else "worse"


def intervals(values: FloatMatrix) -> list[tuple[float, float]]:
    """For each column of ``values`` [q, m], an interval of its mean over questions."""
    means = np.concatenate([_resampled(values, counts) for counts in _samples(len(values))])
    tail = 50 * (1 - LEVEL)
    low, high = np.percentile(means, [tail, 100 - tail], axis=0)
    return list(zip(low.tolist(), high.tolist(), strict=True))


def changes(before: FloatMatrix, after: FloatMatrix) -> list[Change]:
    """The change of each column of [q, m] values, row by row of the same questions."""
    differences = after - before
    means = zip(before.mean(axis=0).tolist(), after.mean(axis=0).tolist(), strict=True)
    found = zip(means, intervals(differences), _chances(differences), strict=True)
    return [Change(old, new, low, high, chance) for (old, new), (low, high), chance in found]


def _resamples(questions: int) -> int:
    return min(RESAMPLES, max(_LEAST, _NUMBERS // questions))


def _samples(questions: int) -> Iterator[NDArray[np.int64]]:
    """How often each question is in each of the samples with replacement, some samples at a time."""
    rng = np.random.default_rng(_SEED)
    samples, at_once = _resamples(questions), max(1, _NUMBERS_AT_ONCE // questions)
    for start in range(0, samples, at_once):
        rows = min(at_once, samples - start)
        drawn = rng.integers(questions, size=(rows, questions)) + questions * np.arange(rows)[:, None]
        yield np.bincount(drawn.ravel(), minlength=rows * questions).reshape(rows, questions)


def _resampled(values: FloatMatrix, counts: NDArray[np.int64]) -> FloatMatrix:
    means: FloatMatrix = counts @ values / len(values)
    return means


def _chances(differences: FloatMatrix) -> list[float]:
    """Two-sided p of the mean of each column of paired differences, by changing their signs; exact if few differ."""
    least = np.abs(differences.sum(axis=0)) - _ROUNDING
    rng = np.random.default_rng(_SEED)
    samples, at_once = _resamples(len(differences)), max(1, _NUMBERS_AT_ONCE // len(differences))
    extreme = np.zeros(differences.shape[1])
    for start in range(0, samples, at_once):
        signs = 1.0 - 2 * rng.integers(2, size=(min(at_once, samples - start), len(differences)), dtype=np.int8)
        extreme += (np.abs(signs @ differences) >= least).sum(axis=0)
    drawn = ((extreme + 1) / (samples + 1)).tolist()
    return [_exact(column, drawn[number]) for number, column in enumerate(differences.T)]


def _exact(differences: NDArray[np.float64], otherwise: float) -> float:
    moved = differences[differences != 0]
    if len(moved) > _EXACT:
        return otherwise
    signs = 1 - 2 * (np.arange(2 ** len(moved))[:, None] >> np.arange(len(moved)) & 1)
    return float((np.abs(signs @ moved) >= abs(moved.sum()) - _ROUNDING).mean())
