"""Notices a device that hangs: somebody waits for it, and it finishes nothing any more.

A call into a hung driver never returns and cannot be interrupted; only another thread can tell, and only the end of the
process helps. Knows no device and no Ray.
"""

import contextlib
import threading
import time
from collections.abc import Callable, Iterator

_LOOKS = 15
"""Looks without a change before patience ends. They are counted, not the seconds: a process that was stopped for an
hour, with its machine, has looked once."""


class Watchdog:
    """Calls ``hangs`` once, from a thread of its own, if ``steps`` has not grown for about ``patience_s`` seconds while
    somebody is inside of `waiting`."""

    def __init__(self, steps: Callable[[], int], patience_s: float, hangs: Callable[[], None]) -> None:
        self._steps, self._hangs, self._every_s = steps, hangs, patience_s / _LOOKS
        self._lock = threading.Lock()
        self._inside = self._entered = 0
        threading.Thread(target=self._watch, name="sfr-watchdog", daemon=True).start()

    @contextlib.contextmanager
    def waiting(self) -> Iterator[None]:
        """Somebody waits for the device meanwhile. For several threads."""
        with self._lock:
            self._inside, self._entered = self._inside + 1, self._entered + 1
        try:
            yield
        finally:
            with self._lock:
                self._inside -= 1

    def _watch(self) -> None:
        before, looks = (0, 0), 0
        while looks < _LOOKS:
            time.sleep(self._every_s)
            now = self._entered, self._steps()
            looks = looks + 1 if self._inside and now == before else 0
            before = now
        self._hangs()
