"""Where an audit reads and compares: in threads of this process, or in tasks of an executor.

Each thing that is looked at says something of itself, and hands records of ids to partitions, which are checked when
all are there. Knows no files.
"""

from collections.abc import Callable, Iterator, Sequence
from typing import Any, Protocol, TypeVar

import numpy as np

from sfr_batch.checks.audit.id_records import RECORD, IdRecords
from sfr_batch.storage.executor import Executor, grouped, partitioned, rows_a_task
from sfr_batch.storage.parallel import in_parallel
from sfr_batch.storage.spill import Spill, dealt

C = TypeVar("C")
T = TypeVar("T")
R = TypeVar("R")
Look = Callable[[C, T], tuple[R, Sequence[IdRecords]]]
"""What a thing is found to be, in a context that is the same for all things, and the records of its ids."""
_WAITING = 2**20
"""Records that are dealt at a time."""


class Work(Protocol):
    """Looks at things, and then checks the records of ids, a partition at a time."""

    def each(
        self,
        look: Look[C, T, R],
        context: C,
        things: Sequence[T],
        rows: Sequence[int],
        ahead: int,
        row_bytes: float = 0,
    ) -> Iterator[R]:
        """What is found of each thing, in order; to be iterated to its end.

        rows: [things] about how many each has. ahead: number of things in memory at a time in this process.
        row_bytes: about how many bytes are read of a row.
        """
        ...

    def add(self, records: IdRecords) -> None:
        """Add records that were read here."""
        ...

    def partitions(self, check: Callable[[C, IdRecords], R], context: C) -> Iterator[R]:
        """What is found in each partition; called last."""
        ...


class InThreads:
    """Works in this process. Records wait in ``spill``."""

    def __init__(self, spill: Spill) -> None:
        self._spill = spill

    def each(
        self,
        look: Look[C, T, R],
        context: C,
        things: Sequence[T],
        rows: Sequence[int],
        ahead: int,
        row_bytes: float = 0,
    ) -> Iterator[R]:
        """See `Work`; several things at a time, in threads."""
        for found, records in in_parallel(lambda thing: look(context, thing), things, ahead):
            for some in records:
                self._spill.add(some)
            yield found

    def add(self, records: IdRecords) -> None:
        self._spill.add(records)

    def partitions(self, check: Callable[[C, IdRecords], R], context: C) -> Iterator[R]:
        return (check(context, records) for records in self._spill.partitions())


class InTasks:
    """Works in tasks. Records stay where the executor keeps results. total_rows: expected records."""

    def __init__(self, executor: Executor, total_rows: int) -> None:
        self._executor = executor
        self._n, self._least = partitioned(total_rows)
        self._parts: list[list[Any]] = []
        """[tasks, partitions]"""
        self._waiting: list[IdRecords] = []
        self._held = 0

    def each(
        self,
        look: Look[C, T, R],
        context: C,
        things: Sequence[T],
        rows: Sequence[int],
        ahead: int,
        row_bytes: float = 0,
    ) -> Iterator[R]:
        """See `Work`; a task looks at things of `rows_a_task` rows or more."""
        self._deal()
        shared = self._executor.share(context)
        handles = []
        for group in grouped(things, rows, max(rows_a_task(row_bytes), self._least)):
            said, *parts = self._executor.submit(_look_at, look, shared, group, self._n, returns=1 + self._n)
            handles.append(said)
            self._parts.append(parts)
        for found in self._executor.get(handles):
            yield from found

    def add(self, records: IdRecords) -> None:
        """See `Work`; a million are dealt at a time."""
        self._waiting.append(records)
        self._held += len(records)
        if self._held >= _WAITING:
            self._deal()

    def partitions(self, check: Callable[[C, IdRecords], R], context: C) -> Iterator[R]:
        """See `Work`; a task checks a partition."""
        self._deal()
        parts = [[its[number] for its in self._parts] for number in range(self._n)]
        shared = self._executor.share(context)
        return self._executor.get([self._executor.submit(_check, check, shared, *its)[0] for its in parts])

    def _deal(self) -> None:
        if self._waiting:
            self._parts.append([self._executor.share(some) for some in dealt(_joined(self._waiting), self._n)])
            self._waiting, self._held = [], 0


def _look_at(look: Look[C, T, R], context: C, things: Sequence[T], partitions: int) -> tuple[Any, ...]:
    """What is found of things, and the records of each partition."""
    found = [look(context, thing) for thing in things]
    records = _joined([some for _, its in found for some in its])
    return [result for result, _ in found], *dealt(records, partitions)


def _check(check: Callable[[C, IdRecords], R], context: C, *parts: IdRecords) -> R:
    return check(context, _joined(parts))


def _joined(records: Sequence[IdRecords]) -> IdRecords:
    return np.concatenate([np.empty(0, RECORD), *records])
