"""Progress of a run: one live line on a terminal, plain lines in a log. Knows receipts, not who makes them."""

import os
import sys
import threading
import time
from dataclasses import dataclass, field
from types import TracebackType
from typing import Self, TextIO

from sfr_batch.format.records import Receipt
from sfr_batch.pipeline import display
from sfr_batch.pipeline.results import Losses

_LIVE_EVERY_S = 0.25
_CLEAR_LINE = "\r\x1b[K"


@dataclass
class Progress:
    """Counts the finished splits of a run, and shows the counts until it is closed. A context manager.

    It is shown by a thread of its own, which nobody waits for: see `display`.
    """

    splits: int
    """Splits to embed in this run."""
    rows: int
    """Rows to embed in this run; an estimate for formats of lines."""
    every_s: float = 5.0
    """Seconds between two lines in a log."""
    stream: TextIO | None = field(default_factory=lambda: sys.stderr)

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

    def __post_init__(self) -> None:
        self.started = time.monotonic()
        self._first: float | None = None
        self._stop = threading.Event()
        self._live = _is_terminal(self.stream)
        self._thread = threading.Thread(target=self._show, name="sfr-progress", daemon=True)

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._stop.set()
        self._thread.join()
        display.offer(self.stream, f"{_CLEAR_LINE if self._live else ''}{self.line()}\n")

    def add(self, receipt: Receipt) -> None:
        """Count a finished split."""
        self._first = time.monotonic() if self._first is None else self._first
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
        return time.monotonic() - self.started

    @property
    def tokens_per_second(self) -> float:
        """Tokens of finished splits over the time since the run began, start-up included."""
        return self.tokens / self.elapsed if self.elapsed else 0.0

    @property
    def padding(self) -> float:
        """Share of the computed tokens that were padding."""
        return 1 - self.encoded_tokens / self.padded_tokens if self.padded_tokens else 0.0

    @property
    def left(self) -> float | None:
        """Estimated seconds for the remaining splits, from the pace since the first one; None while unknown."""
        rest = self.splits - self.splits_done - self.failed
        if not rest:
            return 0.0
        if self._first is None or self.splits_done < 2:
            return None
        return (time.monotonic() - self._first) / (self.splits_done - 1) * rest

    def line(self) -> str:
        """The state in one line."""
        left = "…" if self.left is None else format_duration(self.left)
        failed = f", {self.failed} FAILED" if self.failed else ""
        lost = f", lost {self.losses}" if self.losses else ""
        speed = f"{self.tokens:,} tokens, {self.tokens_per_second:,.0f} tokens/s, {self.padding:.1%} padding"
        return (
            f"[{format_duration(self.elapsed)}] {self.embedded:,} of {self.rows:,} rows, {self.splits_done:,} of "
            f"{self.splits:,} splits{failed}{lost}, {speed}, {self.rejected:,} rejects, {left} left"
        )

    def _show(self) -> None:
        while not self._stop.wait(_LIVE_EVERY_S if self._live else self.every_s):
            display.offer(self.stream, self._live_line() if self._live else f"{self.line()}\n")

    def _live_line(self) -> str:
        return _CLEAR_LINE + self.line()[: _columns(self.stream) - 1]


def _is_terminal(stream: TextIO | None) -> bool:
    """Whether a line can be written over on a stream, which may be closed."""
    try:
        return stream is not None and stream.isatty() and os.environ.get("TERM") != "dumb"
    except (OSError, ValueError):
        return False


def _columns(stream: TextIO | None) -> int:
    """Width of a terminal, which may be gone."""
    try:
        return (os.get_terminal_size(stream.fileno()).columns if stream else 0) or 80
    except (OSError, ValueError):
        return 80


def format_duration(seconds: float) -> str:
    """``h:mm:ss``, or ``m:ss`` below an hour."""
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02}:{rest:02}" if hours else f"{minutes}:{rest:02}"
