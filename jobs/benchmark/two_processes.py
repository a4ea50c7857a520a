"""What two processes gain over one on this machine, by work that nothing of this project is part of.

Cores of a virtual machine may be threads of one real core, and all cores share the memory's bandwidth: no program gains
more from a second process than this. Reads no files.
"""

import multiprocessing
import time
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from typing import NamedTuple

import numpy as np

_TURNS = 3
_STEPS = 3_000_000
_PASSES, _NUMBERS = 12, 2**24


class Gain(NamedTuple):
    """Seconds of two processes that share some work, relative to those of one that does all of it: 0.5 at best.

    arithmetic: Python's, in registers and caches; memory: products of arrays of 64 MiB, which no cache holds.
    """

    arithmetic: float
    memory: float

    def at_least(self, other: "Gain") -> "Gain":
        """The higher ones of two measurements: what could be relied upon."""
        return Gain(max(self.arithmetic, other.arithmetic), max(self.memory, other.memory))


def measure() -> Gain:
    """Takes some seconds. Of several turns the best one counts, for one process and for two."""
    fresh = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(2, fresh, fresh.Barrier(2).wait) as pool:
        list(pool.map(_count, [0, 0]))  # starts the processes
        return Gain(*(_gain(pool, work) for work in (_count, _multiply)))


def _gain(pool: ProcessPoolExecutor, work: Callable[[int], None]) -> float:
    turns = [(_seconds(pool, work, [2]), _seconds(pool, work, [1, 1])) for _ in range(_TURNS)]
    return min(both for _, both in turns) / min(alone for alone, _ in turns)


def _seconds(pool: ProcessPoolExecutor, work: Callable[[int], None], shares: list[int]) -> float:
    started = time.perf_counter()
    list(pool.map(work, shares))
    return time.perf_counter() - started


def _count(share: int) -> None:
    total = 0
    for number in range(share * _STEPS):
        total += number * number % 7


def _multiply(share: int) -> None:
    numbers = np.ones(_NUMBERS, np.float32)
    product = np.empty_like(numbers)
    for _ in range(share * _PASSES):
        np.multiply(numbers, numbers, product)
