"""Parallel reads that return in order, in bounded memory."""

from collections import deque
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from typing import TypeVar

from sfr_batch.storage.store import Store

PARALLEL_READS = 32
T = TypeVar("T")
R = TypeVar("R")


def in_parallel(
    read: Callable[[T], R], things: Sequence[T], at_once: int, sizes: Sequence[int] = (), at_most: int = 0
) -> Iterator[R]:
    """``read(thing)`` of each thing, in order, up to ``at_once`` of them ahead of the consumer.

    sizes: [things] sizes of the results, in any unit; the results ahead are then at most ``at_most`` in total, or one.
    """
    if at_once == 1:
        yield from map(read, things)
        return
    ahead: deque[tuple[Future[R], int]] = deque()
    held = 0
    with ThreadPoolExecutor(at_once) as pool:
        for thing, size in zip(things, sizes or [0] * len(things), strict=True):
            while ahead and (len(ahead) >= at_once or held + size > at_most):
                first, its = ahead.popleft()
                held -= its
                yield first.result()
            ahead.append((pool.submit(read, thing), size))
            held += size
        while ahead:
            yield ahead.popleft()[0].result()


def read_many(store: Store, keys: list[str]) -> list[bytes]:
    """Whole objects, in the order of ``keys``; 32 are read at a time."""
    with ThreadPoolExecutor(PARALLEL_READS) as pool:
        return list(pool.map(store.read, keys))
