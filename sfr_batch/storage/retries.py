"""Retries: a request to a store is repeated until it succeeds, a limit is reached, or the failure is permanent.

The only place that repeats requests, so the limits are those of the settings and not multiplied by layers. Repeated
requests are logged and counted, by reason, for this process. Knows no client: a function says which failures are
transient, see `s3_client`.
"""

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
    """Limits of one request: ``attempts`` tries, the last begun within ``give_up_after_s`` seconds of the first."""

    attempts: int
    give_up_after_s: float


class RetriesExhausted(OSError):
    """A limit was reached. The message has the number of tries, their duration and the last reason."""


def repeated_requests() -> Counter[str]:
    """Number of requests that this process has repeated so far, by reason."""
    with _lock:
        return _counts.copy()


def backoff(repetition: int) -> float:
    """Seconds to wait before the ``repetition``-th repetition (from 1): exponential, with 50 % jitter.

    Jitter, so that many clients that were throttled do not come back together.
    """
    full = min(_LONGEST_DELAY_S, _FIRST_DELAY_S * 2.0 ** min(repetition - 1, 32))
    return full * random.uniform(0.5, 1)


async def retry(
    request: Callable[[], Awaitable[T]], bounds: Bounds, reason_of: Callable[[Exception], str | None], what: str
) -> T:
    """The result of ``request``, repeated within ``bounds``; ``what`` names it in the log.

    ``reason_of``: why a failure is transient, in a word or two, or None if it is permanent: it is raised unchanged.
    Raises RetriesExhausted.
    """
    import asyncio  # whoever calls this has loaded it; whoever counts retries may do without

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
        f"again; storage.attempts ({bounds.attempts}) and storage.give_up_after_s ({bounds.give_up_after_s:g}) limit "
        "the retries."
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
