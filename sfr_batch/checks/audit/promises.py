"""Problems with one promise of a table: noted one by one, kept as a number and a few examples, turned into a finding.

Knows no table.
"""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from sfr_batch.checks.audit.report import WAYS_OUT, Finding
from sfr_batch.errors import counted

EXAMPLES = 5
"""Largest number of examples in a finding."""


@dataclass(frozen=True)
class Problem:
    """An example of what is wrong, and the number of problems that it stands for."""

    example: str
    number: int = 1


def sample(at: NDArray[np.int64], example: Callable[[int], str], rest: str) -> list[Problem]:
    """Problems at the places ``at`` [n]: an ``example`` of each of the first few, and ``rest`` for the others."""
    some = [Problem(example(place)) for place in at[:EXAMPLES].tolist()]
    return [*some, Problem(rest, len(at) - EXAMPLES)] if len(at) > EXAMPLES else some


@dataclass(frozen=True)
class Problems:
    """What one step of the audit found about a promise, for a later step to continue with.

    number: of problems. examples: the first few. unchecked: number of files that could not be checked.
    """

    number: int = 0
    examples: tuple[str, ...] = ()
    unchecked: int = 0


class PromiseCheck:
    """Collects the problems with one promise.

    found: what earlier steps found. unchecked: number of files that could not be checked.
    """

    def __init__(self, name: str, found: Problems | None = None, unchecked: int = 0) -> None:
        found = found or Problems()
        self._name, self._number, self._examples = name, found.number, list(found.examples)
        self.unchecked = found.unchecked + unchecked

    @property
    def problems(self) -> Problems:
        """What was found so far."""
        return Problems(self._number, tuple(self._examples), self.unchecked)

    def wrong(self, example: str, number: int = 1) -> None:
        """Note ``number`` problems, of which this is an example."""
        self._number += number
        if len(self._examples) < EXAMPLES:
            self._examples.append(example)

    def add(self, problems: Sequence[Problem]) -> None:
        """Note them all."""
        for problem in problems:
            self.wrong(problem.example, problem.number)

    def include(self, found: Problems) -> None:
        """Note what was found elsewhere, but its unchecked files."""
        self._number += found.number
        self._examples += found.examples[: EXAMPLES - len(self._examples)]

    def some(self, groups: NDArray[np.int64]) -> Iterator[int]:
        """The first of ``groups`` [n], each with a problem, for which there is room for an example; counts the rest."""
        room = EXAMPLES - len(self._examples)
        yield from groups[:room].tolist()
        self._number += len(groups[room:])

    def finding(self, what: str, holds: str) -> Finding:
        """what: what was checked, with its number. holds: what is true of it if there is no problem."""
        more = f"; {counted(self.unchecked, 'file')} could not be checked" if self.unchecked else ""
        if not self._number:
            return Finding(self._name, "SKIP" if self.unchecked else "PASS", f"{what}: {holds}{more}")
        told = f"{what}: {counted(self._number, 'problem')}{more}"
        return Finding(self._name, "FAIL", told, self._number, tuple(self._examples), WAYS_OUT[self._name])
