"""Trying again: a request to a store is repeated until it works, a bound is reached, or repeating cannot help.

The one place that repeats requests, so that the bounds are those of the settings and not products of layers. What was
repeated is counted, by reason and for this process, and logged. Knows no client: what is transient is said by a
function, see `sfr_batch.storage.s3_client`.
"""

import asyncio
import itertools
import logging
import random
import threading
import time
from collections import Counter
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import TypeVar

T = TypeVar("T")

_FIRST_DELAY_S = 0.25
_LONGEST_DELAY_S = 15.0
_LOG_EVERY_S = 5.0

_log = logging.getLogger(__name__)
_lock = threading.Lock()
_counts: Counter[str] = Counter()
_last_logged = float("-inf")


@dataclass(frozen=True)
class Bounds:
    """At most ``attempts`` tries of one request, none of which begins later than ``give_up_after_s`` seconds after the
    first."""

    attempts: int
    give_up_after_s: float


class RetriesExhausted(OSError):
    """A bound is reached. The message says how often, over how long and why; the cause is the last failure."""


def repeated_requests() -> Counter[str]:
    """How often this process has repeated a request so far, by reason."""
    with _lock:
        return _counts.copy()


def backoff(repetition: int) -> float:
    """Seconds to wait before the ``repetition``-th repetition (from 1): doubled each time, half of it random.

    Random, so that many clients whom a store turned away do not come back together.
    """
    full = min(_LONGEST_DELAY_S, _FIRST_DELAY_S * 2.0 ** min(repetition - 1, 32))
    return full * random.uniform(0.5, 1)


async def retry(
    request: Callable[[], Awaitable[T]], bounds: Bounds, reason_of: Callable[[Exception], str | None], what: str
) -> T:
    """The result of ``request``, tried within ``bounds``; ``what`` names it in the log.

    ``reason_of`` says in a word or two why a failure is transient, or None if it is final: then it is raised as it is.
    Raises RetriesExhausted.
    """
    began = time.monotonic()
    for tried in itertools.count(1):
        try:
            return await request()
        except Exception as error:
            reason = reason_of(error)
            if reason is None:
                raise
            passed, delay = time.monotonic() - began, backoff(tried)
            if tried >= bounds.attempts or passed + delay > bounds.give_up_after_s:
                raise RetriesExhausted(_last_words(tried, passed, bounds, reason, error)) from error
            _note(reason, f"{what}: {reason} ({error}); try {tried} of {bounds.attempts}, the next in {delay:.1f} s")
        await asyncio.sleep(delay)
    raise AssertionError("unreachable")


def _last_words(tried: int, passed: float, bounds: Bounds, reason: str, error: Exception) -> str:
    times = "once" if tried == 1 else f"{tried} times over {passed:.0f} s"
    return (
        f"tried {times}, the last time: {reason} ({error}). Check endpoint, region and network, and run the command "
        f"again; storage.attempts ({bounds.attempts}) and storage.give_up_after_s ({bounds.give_up_after_s:g}) say how "
        "long it is tried."
    )


def _note(reason: str, text: str) -> None:
    global _last_logged
    with _lock:
        _counts[reason] += 1
        now = time.monotonic()
        if now - _last_logged < _LOG_EVERY_S:
            return
        _last_logged = now
        so_far = ", ".join(f"{name} {number:,}" for name, number in _counts.most_common())
    _log.warning("%s. Repeated so far in this process: %s.", text, so_far)
