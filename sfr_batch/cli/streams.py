"""The streams of a command, stdout and stderr, for the process that it runs in.

stderr is a display, and so is stdout of a command that changes something: its exit code says whether it succeeded,
whoever has heard it. Where stdout is the result, a write that fails raises OutputLost. Only entry points put these
streams in place; a library leaves them to its caller.
"""

import contextlib
import errno
import sys
from collections.abc import Callable
from typing import Any, TextIO

from sfr_batch.format.on_screen import printable
from sfr_batch.pipeline import display
from sfr_batch.storage.descriptors import discard, text_stream

LAST_WORDS_S = 60.0
"""Seconds that a process which is done waits for a stream to take what it still holds, as for a terminal that somebody
has stopped with Ctrl-S."""


class OutputLost(Exception):
    """stdout cannot be written, and it is the result."""

    def __init__(self, error: Exception | None) -> None:
        self.closed_pipe = isinstance(error, OSError) and error.errno == errno.EPIPE
        """Whether the reader has left, as `head` does when it has enough."""
        what = getattr(error, "strerror", None) or error
        super().__init__(
            f"stdout cannot be written: {what}. What it got is incomplete. Make room or write to another place, and "
            "run the same command again."
            if error
            else "stdout is closed, so there is no place for the result. Run the same command again with stdout open, "
            "e.g. with > FILE."
        )


class Output:
    """Stands for `sys.stdout` or `sys.stderr`."""

    def __init__(self, stream: TextIO | None, number: int, *, best_effort: bool) -> None:
        self._closed = stream is None
        self._stream = text_stream(number) if stream is None else stream
        self._number = number
        self._escapes = number == 1 and display.is_terminal(self._stream)
        """On stderr, libraries draw bars; what comes from here is escaped where it is said."""
        self.best_effort = best_effort
        """Whether a write that fails, or takes too long, is left at that. Otherwise it raises OutputLost."""
        self._complete = False

    def write(self, text: str) -> int:
        """Write text, now or in a moment. Raises OutputLost."""
        if not isinstance(text, str):
            raise TypeError(f"{type(text).__name__} is not text")
        if self._complete:
            return len(text)
        if self._escapes:
            text = printable(text)
        if self.best_effort:
            display.attempt(self, lambda: self._stream.write(text))
        elif text and self._closed:
            raise OutputLost(None)
        elif text:
            self._insist(lambda: self._stream.write(text))
        return len(text)

    def flush(self) -> None:
        """Write what is still held. Raises OutputLost."""
        if self.best_effort:
            display.attempt(self, self._stream.flush)
        else:
            self._insist(self._stream.flush)

    @staticmethod
    def _insist(action: Callable[[], object]) -> None:
        try:
            action()
        except (OSError, ValueError) as error:
            raise OutputLost(error) from None

    def finish(self) -> bool:
        """Write what is still held, and discard what cannot be written, so that Python does not try it again as it
        ends. False: the stream is stuck, and Python cannot end but by `os._exit`.

        stdout is complete then: the colorama of Ray resets colors at exit that nobody has set."""
        self._complete = self._number == 1
        if not display.attempt(self, self._stream.flush) and not display.is_stuck(self, LAST_WORDS_S):
            discard(self._number)
            display.attempt(self, self._stream.flush)
        return not display.is_stuck(self, 0)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._stream, name)


def replace_streams() -> None:
    """Put both streams in place. What their encoding lacks, such as half a character in a file's name, is escaped."""
    for stream in (sys.stdout, sys.stderr):
        if stream is not None and hasattr(stream, "reconfigure"):
            ascii_only = stream.encoding.lower() in ("ascii", "us-ascii", "ansi_x3.4-1968", "646")
            with contextlib.suppress(OSError, ValueError):  # it is broken already
                stream.reconfigure(encoding="utf-8" if ascii_only else None, errors="backslashreplace")
    sys.stdout = Output(sys.stdout, 1, best_effort=False)
    sys.stderr = Output(sys.stderr, 2, best_effort=True)


def stdout_is_a_display() -> None:
    """From now on a failing stdout does not end this command."""
    if isinstance(sys.stdout, Output):
        sys.stdout.best_effort = True


def finish() -> bool:
    """Write what both streams still hold. False: one is stuck, and Python cannot end but by `os._exit`."""
    streams = [stream for stream in (sys.stdout, sys.stderr) if isinstance(stream, Output)]
    return [stream.finish() for stream in streams] == [True] * len(streams)
