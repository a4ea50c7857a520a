"""Stopping by a signal: SIGTERM, SIGINT and SIGHUP, which a terminal sends as it closes, end the process within two
seconds, after its last words.

Only for entry points: a library leaves the handlers to its caller. The stack is not unwound: what this project commits
is safe at any moment, and unwinding could take as long as the store, the device or Ray that it waits for. Does not know
what the process is doing.
"""

import contextlib
import os
import select
import signal
import sys
import threading
import time
from collections.abc import Callable, Iterator
from types import FrameType

LEAVE_WITHIN_S = 2.0
"""Seconds from the signal to the end. `ray job stop` kills after three."""
SIGNALS = (signal.SIGTERM, signal.SIGINT, signal.SIGHUP)
_CLEAR_LINE = b"\r\x1b[K"
_OVER = 0  # no signal has this number
_state: Callable[[], str] = lambda: "nothing was started"  # noqa: E731


def when_stopped(state: str | Callable[[], str]) -> None:
    """From now on the last words of this process say this: what is true whenever a signal comes."""
    global _state
    _state = (lambda: state) if isinstance(state, str) else state


def state() -> str:
    """What is true now, see `when_stopped`."""
    return _state()


def last_words(signal_name: str) -> str:
    """The last line of a process that is stopped."""
    return f"stopped by {signal_name}: {_state()}"


@contextlib.contextmanager
def leaving(last_words: Callable[[str], str], afterwards: Callable[[str], None] = lambda name: None) -> Iterator[None]:
    """Within this context SIGTERM ends the process with exit code 143, SIGINT with 130 and SIGHUP with 129; a second
    signal at once.

    last_words: from the name of the signal to a line for stderr; called in its own thread. afterwards: called then,
    also with the name, for work that may be lost; it is cut off after LEAVE_WITHIN_S, too. A signal that the process
    was started to ignore (`nohup`, `&` in a script) stays ignored.
    """
    if threading.current_thread() is not threading.main_thread():  # Python lets no other thread set handlers
        yield
        return
    heard, tell = os.pipe()
    os.set_blocking(tell, False)
    terminal = os.dup(2)  # while Ray starts, 2 is not the terminal
    watcher = threading.Thread(target=_watch, args=(heard, terminal, last_words, afterwards), daemon=True)
    watcher.start()
    # Python handlers wait until the main thread returns from its call to a store or a device, and Ray replaces them.
    # The wakeup descriptor gets the number of a signal at once, in any thread.
    wakeup_before = signal.set_wakeup_fd(tell, warn_on_full_buffer=False)
    handled = [number for number in SIGNALS if signal.getsignal(number) != signal.SIG_IGN]
    before = {number: signal.signal(number, _leave_it_to_the_watcher) for number in handled}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
        signal.set_wakeup_fd(wakeup_before)
        os.write(tell, bytes([_OVER]))
        watcher.join()  # a signal that came earlier is read earlier: then this does not return
        for end in (heard, tell, terminal):
            os.close(end)


def _leave_it_to_the_watcher(number: int, frame: FrameType | None) -> None:
    """Does nothing; without a Python handler the wakeup descriptor gets nothing."""


def _watch(heard: int, terminal: int, last_words: Callable[[str], str], afterwards: Callable[[str], None]) -> None:
    for number in iter(lambda: os.read(heard, 1)[0], _OVER):
        if number in SIGNALS:
            threading.Thread(target=_speak, args=(number, terminal, last_words, afterwards), daemon=True).start()
            _wait_for_another(heard)
            os._exit(128 + number)


def _speak(number: int, terminal: int, last_words: Callable[[str], str], afterwards: Callable[[str], None]) -> None:
    """Print the last words and exit. Their reader may be slow or gone: the watcher does not wait forever."""
    try:
        name = signal.Signals(number).name
        words = last_words(name) + "\n"
        for stream in (sys.stdout, sys.stderr):
            with contextlib.suppress(Exception):  # there may be none, or it takes nothing
                stream.flush()
        with contextlib.suppress(OSError):  # a log on a full disk, a terminal that is gone
            os.write(terminal, (_CLEAR_LINE if os.isatty(terminal) else b"") + words.encode())
        afterwards(name)
    finally:
        os._exit(128 + number)


def _wait_for_another(heard: int) -> None:
    until = time.monotonic() + LEAVE_WITHIN_S
    while select.select([heard], [], [], max(0.0, until - time.monotonic()))[0]:
        if os.read(heard, 1)[0] in SIGNALS:
            return
