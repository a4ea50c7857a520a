"""Leaving when told to: SIGTERM and SIGINT end the process within two seconds, after its last words.

For entry points alone: a library leaves the handlers to its caller. Nothing is unwound, for what this project commits
is safe at any moment, and unwinding may take as long as the store, the device or Ray that it waits for. Knows nothing
of what the process is doing.
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
_SIGNALS = (signal.SIGTERM, signal.SIGINT)
_CLEAR_LINE_AND_SHOW_CURSOR = b"\r\x1b[K\x1b[?25h"
_OVER = 0  # no signal has this number


@contextlib.contextmanager
def leaving(last_words: Callable[[str], str], afterwards: Callable[[], None] = lambda: None) -> Iterator[None]:
    """Within this context SIGTERM and SIGINT end the process with exit code 143 and 130, a second one at once.

    last_words: is given the signal's name and returns what to say on stderr; called in a thread of its own.
    afterwards: called when that is said, for what is worth a try but no delay: it too is cut off after LEAVE_WITHIN_S.
    A signal that the process was started to ignore (`nohup`, `&` in a script) stays ignored.
    """
    if threading.current_thread() is not threading.main_thread():  # Python lets no other thread set handlers
        yield
        return
    heard, tell = os.pipe()
    os.set_blocking(tell, False)
    terminal = os.dup(2)  # while Ray starts, 2 is not the terminal
    watcher = threading.Thread(target=_watch, args=(heard, terminal, last_words, afterwards), daemon=True)
    watcher.start()
    # Handlers written in Python wait until the main thread is done with its call to a store or a device, and Ray
    # replaces them. The number of a signal is written here at once, by whatever thread the signal meets.
    wakeup_before = signal.set_wakeup_fd(tell, warn_on_full_buffer=False)
    handled = [number for number in _SIGNALS if signal.getsignal(number) != signal.SIG_IGN]
    before = {number: signal.signal(number, _leave_it_to_the_watcher) for number in handled}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
        signal.set_wakeup_fd(wakeup_before)
        os.write(tell, bytes([_OVER]))
        watcher.join()  # a signal that came first is read first: then this does not return
        for end in (heard, tell, terminal):
            os.close(end)


def _leave_it_to_the_watcher(number: int, frame: FrameType | None) -> None:
    """Without a handler there would be no wake-up."""


def _watch(heard: int, terminal: int, last_words: Callable[[str], str], afterwards: Callable[[], None]) -> None:
    for number in iter(lambda: os.read(heard, 1)[0], _OVER):
        if number in _SIGNALS:
            threading.Thread(target=_speak, args=(number, terminal, last_words, afterwards), daemon=True).start()
            _wait_for_another(heard)
            os._exit(128 + number)


def _speak(number: int, terminal: int, last_words: Callable[[str], str], afterwards: Callable[[], None]) -> None:
    """Say the last words and leave. Whoever reads them may be slow or gone: the watcher does not wait for ever."""
    try:
        words = last_words(signal.Signals(number).name) + "\n"
        for stream in (sys.stdout, sys.stderr):
            with contextlib.suppress(OSError, ValueError, AttributeError):  # there may be none
                stream.flush()
        os.write(terminal, (_CLEAR_LINE_AND_SHOW_CURSOR if os.isatty(terminal) else b"") + words.encode())
        afterwards()
    finally:
        os._exit(128 + number)


def _wait_for_another(heard: int) -> None:
    until = time.monotonic() + LEAVE_WITHIN_S
    while select.select([heard], [], [], max(0.0, until - time.monotonic()))[0]:
        if os.read(heard, 1)[0] in _SIGNALS:
            return
