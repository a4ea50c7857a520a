"""Executors, which run functions as tasks: the protocol, one for this process, and how large tasks should be.

`pipeline.tasks` has one that uses Ray. Reads no files.
"""

import math
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any, Protocol, TypeVar

from sfr_batch.errors import ConfigError
from sfr_batch.storage.locations import is_s3

T = TypeVar("T")

ROWS_HERE = 2**21
"""Rows of a table up to which all work on it is done in the process that asks for it."""
ROWS_A_TASK = 2**18
BYTES_A_TASK = 2**27
"""Bytes of what is read: of data files, or of the text of a corpus."""
ROWS_A_PARTITION = 2**20
ROWS_A_PART = 9 * 2**10
"""Fewest rows that a task should hand to each partition, on average: 256 KiB of the smallest records. Ray keeps results
of less than 100 KB in the memory of the driver, and every part is an object that the driver has to know."""
CALLS_AHEAD = 2**10
"""Calls of which an executor knows at a time where there may be a hundred thousand. Ray takes some KB for each."""


class Executor(Protocol):
    """Runs functions. A handle stands for a result, and may be an argument of another call."""

    @property
    def sees_disk(self) -> bool:
        """Whether its tasks see the local files of this process."""
        ...

    @property
    def has_gpu(self) -> bool:
        """Whether there is a GPU that its tasks could have a share of now."""
        ...

    @property
    def room(self) -> int:
        """Bytes that its tasks may hand to each other at a time."""
        ...

    def share(self, value: Any) -> Any:
        """A handle for a value that is an argument of many calls."""
        ...

    def submit(self, function: Callable[..., Any], *args: Any, returns: int = 1, gpus: float = 0) -> list[Any]:
        """Run the function, whose arguments may be handles. Returns a handle for each of its ``returns`` results.

        If there are several results, the function returns them as a tuple. gpus: share of a GPU that it needs.
        """
        ...

    def get(self, handles: Sequence[Any]) -> Iterator[Any]:
        """The results of the handles, in order, one at a time. Raises what the function raised."""
        ...


class InProcess:
    """Runs every function immediately, in the calling thread; a handle is the result itself."""

    sees_disk = True
    has_gpu = False
    room = 2**30

    def share(self, value: Any) -> Any:
        return value

    def submit(self, function: Callable[..., Any], *args: Any, returns: int = 1, gpus: float = 0) -> list[Any]:
        result = function(*args)
        return list(result) if returns > 1 else [result]

    def get(self, handles: Sequence[Any]) -> Iterator[Any]:
        return iter(handles)


def in_order(executor: Executor, function: Callable[..., T], calls: Iterable[Sequence[Any]]) -> Iterator[T]:
    """The results of many calls, in order, of which `CALLS_AHEAD` are made before the first result is awaited; in this
    process one, which is over when it has been made.

    calls: the arguments of each, made when it is its turn. Raises what the function raised.
    """
    ahead: deque[Any] = deque()
    most = 1 if isinstance(executor, InProcess) else CALLS_AHEAD
    for arguments in calls:
        ahead += executor.submit(function, *arguments)
        if len(ahead) == most:
            yield from executor.get([ahead.popleft()])
    while ahead:
        yield from executor.get([ahead.popleft()])


def check_reach(executor: Executor, *places: str) -> None:
    """Raises ConfigError if a place, an absolute URI, is on a disk that tasks of the executor do not see."""
    for place in places:
        if not executor.sees_disk and not is_s3(place):
            raise ConfigError(
                f"{place} is a local path, but the cluster has several nodes: each would look at its own disk. Use "
                "s3://, work in this process (--ray-address none), or say that all nodes share that file system: "
                "--shared-path."
            )


def partitioned(rows: int) -> tuple[int, int]:
    """The number of partitions of so many ids, about, and the fewest rows of a task that hands a part to each.

    A million rows a partition up to 100 million; beyond, tasks and partitions both grow with the root of the rows, to 3
    million at a billion, so that a task's part of a partition does not become too small.
    """
    partitions = max(1, -(-rows // max(ROWS_A_PARTITION, math.isqrt(rows * ROWS_A_PART))))
    return partitions, partitions * ROWS_A_PART if partitions > 1 else 0


def rows_a_task(row_bytes: float) -> int:
    """Rows of a task that reads so many bytes of each: `ROWS_A_TASK`, or fewer of `BYTES_A_TASK` in all."""
    return max(1, min(ROWS_A_TASK, int(BYTES_A_TASK / max(1.0, row_bytes))))


def grouped(things: Sequence[T], rows: Sequence[int], least: int) -> Iterator[list[T]]:
    """The things of each task, in order: together at least ``least`` rows. rows: [things]"""
    group: list[T] = []
    held = 0
    for thing, its in zip(things, rows, strict=True):
        group.append(thing)
        held += its
        if held >= least:
            yield group
            group, held = [], 0
    if group:
        yield group
