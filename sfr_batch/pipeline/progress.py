"""Progress of a run: one live line on a terminal, plain lines in a log. Knows receipts, not who makes them."""

import math
import sys
import threading
import time
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, field
from types import TracebackType
from typing import Self, TextIO

from sfr_batch.format.records import Receipt
from sfr_batch.format.run_progress import RunProgress
from sfr_batch.pipeline import display
from sfr_batch.pipeline.actor_time import ENCODING, ActorTime
from sfr_batch.pipeline.asides import Asides
from sfr_batch.pipeline.results import Losses
from sfr_batch.pipeline.watch_display import columns_of, is_live
from sfr_batch.pipeline.work import Work

_LIVE_EVERY_S = 0.25
_CLEAR_LINE = "\r\x1b[K"
_MINUTE_S = 60.0


@dataclass
class Progress:
    """Counts the finished splits of a run, and shows the counts until it is closed. A context manager.

    It is shown by a thread of its own, which nobody waits for: see `display`.
    """

    splits: int
    """Splits to embed in this run."""
    rows: int
    """Rows to embed in this run."""
    table: str = ""
    """URI of the table that the run writes."""
    run_id: str = ""
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
    work: Work = field(default_factory=Work)
    """What the report has beside these counts."""
    asides: Asides = field(default_factory=Asides)
    """What workers on Ray have told; empty in this process."""
    start_up: float | None = None
    """Seconds until the run began to encode; None before a split is finished."""

    def __post_init__(self) -> None:
        self.started = self.clock()
        self._first: float | None = None
        self._encoding = math.inf
        self._last = self.started
        self._recent: deque[tuple[float, int]] = deque()
        """Time and tokens of the splits of the last minute."""
        self._stop = threading.Event()
        self._board = display.board()
        self._live = is_live(self.stream)
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
        if self._board:
            self._show_on(self._board)
            return
        line = _CLEAR_LINE + self.line(columns_of(self.stream) - 1) if self._live else self.line()
        display.offer(self.stream, f"{line}\n")

    def enter(self, stage: str) -> None:
        """Tell what the run is doing from now on."""
        self.stage = stage
        if stage.startswith(ENCODING):
            self._encoding = min(self._encoding, self.clock())

    def add(self, receipt: Receipt) -> None:
        """Count a finished split."""
        self._last = self.clock()
        self._first = self._last if self._first is None else self._first
        if self.start_up is None:
            # The first split may be told of only after the second one, which this process has encoded meanwhile.
            begun = min(self._last - receipt.encode_seconds, self._encoding)
            self.start_up = max(0.0, begun - self.started)
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
        self.work.committed(receipt, self._last - self.started)

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
    def padding(self) -> float:
        """Share of the computed tokens that were padding."""
        return 1 - self.encoded_tokens / self.padded_tokens if self.padded_tokens else 0.0

    def state(self) -> RunProgress:
        """What it has counted so far, as others see it."""
        now = self.clock()
        first = None if self._first is None else now - self._first
        recent = sum(tokens for at, tokens in list(self._recent) if at > now - _MINUTE_S) / _MINUTE_S
        return RunProgress(
            table=self.table,
            run_id=self.run_id,
            stage=self.stage,
            waiting=self.stage.startswith("waiting for"),
            elapsed_s=now - self.started,
            rows=self.rows,
            embedded=self.embedded,
            rejected=self.rejected,
            earlier=self.earlier,
            estimated=self.estimated,
            splits=self.splits,
            splits_done=self.splits_done,
            splits_failed=self.failed,
            tokens=self.tokens,
            tokens_per_second_now=None if first is None or first < _MINUTE_S else recent,
            padding=self.padding,
            first_commit_s=first,
            last_commit_s=None if first is None else now - self._last,
            lost=str(self.losses) if self.losses else "",
        )

    def line(self, width: int | None = None) -> str:
        """The state in one line. width: its length in characters at most; what matters least is left out."""
        return self.state().line(width)

    def _show_on(self, board: display.Board) -> None:
        display.attempt(board, lambda: board.show(self.state()))

    def _show(self) -> None:
        while not self._stop.wait(_LIVE_EVERY_S if self._live or self._board else self.every_s):
            if self._board:
                self._show_on(self._board)
                continue
            line = _CLEAR_LINE + self.line(columns_of(self.stream) - 1) if self._live else f"{self.line()}\n"
            display.offer(self.stream, line)
