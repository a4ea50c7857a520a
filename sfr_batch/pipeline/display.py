"""What people see of a run while it goes on. The display never ends a run and never holds it up.

A stream may be closed, a broken pipe, a log on a full disk, a terminal that is gone or one that somebody has stopped
with Ctrl-S: then what is written is lost, and the run goes on in silence. Knows neither runs nor what is shown. Imports
next to nothing: entry points load this first.
"""

import contextlib
import sys
import threading
import time
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, Protocol, TextIO

from sfr_batch.format.on_screen import printable

if TYPE_CHECKING:
    from sfr_batch.format.run_accounts import RunAccount
    from sfr_batch.format.run_progress import RunProgress

PATIENCE_S = 1.0
"""Seconds that a stream may take for one write, before nobody waits for it any more."""

_LAST_WRITE_S = 0.2
"""Seconds that last words wait for what is being written."""
_writing: dict[int, threading.Thread] = {}
"""By the id of a stream: who writes to it now, or is stuck in it."""
_silent = False


class Board(Protocol):
    """What stands in the place of stderr, such as a display in a notebook."""

    def show(self, progress: "RunProgress") -> None:
        """Where the run is now."""
        ...

    def note(self, text: str) -> None:
        """A line that the run has to say."""
        ...

    def end(self, account: "RunAccount") -> None:
        """How the run has ended."""
        ...


_board: Board | None = None


def board() -> Board | None:
    """What runs are shown on instead of stderr; None: stderr."""
    return _board


@contextlib.contextmanager
def shown_on(instead: Board) -> Iterator[None]:
    """Within this context runs are shown there."""
    global _board
    before, _board = _board, instead
    try:
        yield
    finally:
        _board = before


def silence() -> None:
    """From now on nothing is said any more: this process has its last words. What is being written is waited for."""
    global _silent
    _silent = True
    until = time.monotonic() + _LAST_WRITE_S
    for thread in list(_writing.values()):
        with contextlib.suppress(RuntimeError):  # not started: it will see that there is silence
            thread.join(max(0.0, until - time.monotonic()))


def say(text: str) -> None:
    """A line on stderr, if it takes one. What a terminal would obey is escaped."""
    if there := _board:
        attempt(there, lambda: there.note(text))
        return
    offer(sys.stderr, f"{printable(text)}\n")


def is_terminal(stream: TextIO | None) -> bool:
    """Whether a stream, which may be closed, is a terminal."""
    try:
        return stream is not None and stream.isatty()
    except (OSError, ValueError):
        return False


def offer(stream: TextIO | None, text: str) -> bool:
    """Write ``text`` to a stream that may not take it; whether it did within PATIENCE_S. Never raises."""

    def write() -> None:
        if stream is None or _silent:  # Python has none for a descriptor that was closed when it started
            raise ValueError
        stream.write(text)
        stream.flush()

    return attempt(stream, write)


def attempt(stream: object, action: Callable[[], object]) -> bool:
    """Do something with a stream that may fail or take for ever; whether it was done within PATIENCE_S.

    While an earlier attempt is stuck in the stream, later ones do nothing. Never raises.
    """
    busy = _writing.get(id(stream))
    done: list[bool] = []

    def act() -> None:
        try:
            action()
        except Exception:
            return
        done.append(True)

    if busy is threading.current_thread() or sys.is_finalizing():  # no thread runs any more then
        act()
        return bool(done)
    if busy and busy.is_alive():
        return False
    _writing[id(stream)] = thread = threading.Thread(target=act, name="sfr-display", daemon=True)
    try:
        thread.start()
    except RuntimeError:  # no more threads, or the interpreter is ending
        _writing.pop(id(stream), None)
        act()
        return bool(done)
    thread.join(PATIENCE_S)
    if not thread.is_alive():
        _writing.pop(id(stream), None)
    return bool(done)


def is_stuck(stream: object, wait_s: float) -> bool:
    """Whether an attempt is still stuck in a stream after ``wait_s`` seconds. The interpreter cannot end then, but by
    `os._exit`: it would wait for the stream, and then abort."""
    if (busy := _writing.get(id(stream))) is None:
        return False
    with contextlib.suppress(RuntimeError):  # it has not started yet
        busy.join(wait_s)
    return busy.is_alive()
