"""Progress of a run: one live line on a terminal, plain lines in a log. Knows receipts, not who makes them."""

import os
import sys
import threading
import time
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, field
from types import TracebackType
from typing import Self, TextIO

from sfr_batch.format.records import Receipt
from sfr_batch.pipeline import display
from sfr_batch.pipeline.actor_time import ActorTime
from sfr_batch.pipeline.progress_line import fit, parts_of
from sfr_batch.pipeline.results import Losses

_LIVE_EVERY_S = 0.25
_CLEAR_LINE = "\r\x1b[K"
_MINUTE_S = 60.0
_SILENCE_S = 30.0
"""Seconds without a finished split that are worth a word, unless splits take about as long anyway."""


@dataclass
class Progress:
    """Counts the finished splits of a run, and shows the counts until it is closed. A context manager.

    It is shown by a thread of its own, which nobody waits for: see `display`.
    """

    splits: int
    """Splits to embed in this run."""
    rows: int
    """Rows to embed in this run."""
    every_s: float = 5.0
    """Seconds between two lines in a log."""
    stream: TextIO | None = field(default_factory=lambda: sys.stderr)
    estimated: bool = False
    """Whether ``rows`` and ``splits`` are estimates, as for formats of lines."""
    clock: Callable[[], float] = time.monotonic

    earlier: int = 0
    """Rows that earlier runs have embedded, which did not publish; not part of ``rows``."""
    stage: str = ""
    """What the run is doing now, in a few words."""
    splits_done: int = 0
    failed: int = 0
    read: int = 0
    embedded: int = 0
    rejected: int = 0
    tokens: int = 0
    encoded_tokens: int = 0
    padded_tokens: int = 0
    encode_seconds: float = 0.0
    canaries: int = 0
    drift: float = 0.0
    losses: Losses = field(default_factory=Losses)
    actors: ActorTime = field(default_factory=ActorTime)
    """Of the actors that encode for this run."""
    start_up: float | None = None
    """Seconds until the first finished split was begun to be encoded; None before it is finished."""

    def __post_init__(self) -> None:
        self.started = self.clock()
        self._first: float | None = None
        self._last = self.started
        self._recent: deque[tuple[float, int]] = deque()
        """Time and tokens of the splits of the last minute."""
        self._stop = threading.Event()
        self._live = display.is_terminal(self.stream) and os.environ.get("TERM") != "dumb"
        self._thread = threading.Thread(target=self._show, name="sfr-progress", daemon=True)

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._stop.set()
        self._thread.join()
        if error is None:
            self.stage = ""
        display.offer(self.stream, f"{_CLEAR_LINE if self._live else ''}{self.line()}\n")

    def enter(self, stage: str) -> None:
        """Tell what the run is doing from now on."""
        self.stage = stage

    def add(self, receipt: Receipt) -> None:
        """Count a finished split."""
        self._last = self.clock()
        self._first = self._last if self._first is None else self._first
        if self.start_up is None:
            self.start_up = max(0.0, self._last - self.started - receipt.encode_seconds)
        self._recent.append((self._last, receipt.tokens))
        while self._recent[0][0] < self._last - _MINUTE_S:
            self._recent.popleft()
        self.splits_done += 1
        self.read += receipt.read
        self.embedded += receipt.embedded
        self.rejected += receipt.rejected
        self.tokens += receipt.tokens
        self.encoded_tokens += receipt.encoded_tokens
        self.padded_tokens += receipt.padded_tokens
        self.encode_seconds += receipt.encode_seconds
        self.canaries += receipt.canaries
        self.drift = max(self.drift, receipt.drift)

    def fail(self) -> None:
        """Count a failed split."""
        self.failed += 1

    @property
    def elapsed(self) -> float:
        """Seconds since the run began."""
        return self.clock() - self.started

    @property
    def embed_seconds(self) -> float:
        """Seconds from the end of the start-up to the last finished split."""
        return max(0.0, self._last - self.started - (self.start_up or 0.0))

    @property
    def tokens_per_second(self) -> float:
        """Tokens of finished splits over the time since the run began, start-up included."""
        return self.tokens / self.elapsed if self.elapsed else 0.0

    @property
    def tokens_per_second_now(self) -> float | None:
        """The same over the last minute; None in the first one."""
        if self._first is None or self.clock() - self._first < _MINUTE_S:
            return None
        since = self.clock() - _MINUTE_S
        return sum(tokens for at, tokens in list(self._recent) if at > since) / _MINUTE_S

    @property
    def padding(self) -> float:
        """Share of the computed tokens that were padding."""
        return 1 - self.encoded_tokens / self.padded_tokens if self.padded_tokens else 0.0

    @property
    def rest(self) -> int:
        """Splits that are neither done nor failed."""
        return self.splits - self.splits_done - self.failed

    @property
    def left(self) -> float | None:
        """Estimated seconds for the remaining splits, from the pace since the first one; None while unknown."""
        if self.rest <= 0:
            return 0.0
        if self._first is None or self.splits_done < 2:
            return None
        return (self.clock() - self._first) / (self.splits_done - 1) * self.rest

    @property
    def silence(self) -> float | None:
        """Seconds since a split was finished, if that is long for this run; None otherwise."""
        if not self.splits_done or self.rest <= 0:
            return None
        now = self.clock()
        usual = (self._last - self.started) / self.splits_done
        return now - self._last if now - self._last > max(_SILENCE_S, 2 * usual) else None

    def line(self, width: int | None = None) -> str:
        """The state in one line. width: its length in characters at most; what matters least is left out."""
        return fit(parts_of(self), width)

    def _show(self) -> None:
        while not self._stop.wait(_LIVE_EVERY_S if self._live else self.every_s):
            line = _CLEAR_LINE + self.line(_columns(self.stream) - 1) if self._live else f"{self.line()}\n"
            display.offer(self.stream, line)


def _columns(stream: TextIO | None) -> int:
    """Width of a terminal, which may be gone."""
    try:
        return (os.get_terminal_size(stream.fileno()).columns if stream else 0) or 80
    except (OSError, ValueError):
        return 80
