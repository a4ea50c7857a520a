"""A device that hangs is told from one that works, one that nobody waits for, and a process that was stopped."""

import signal
import subprocess
import sys
import threading
import time

import pytest

from sfr_batch.pipeline.watchdog import Watchdog

PATIENCE_S = 0.6


@pytest.mark.parametrize(("waits", "works", "hangs"), [(True, False, True), (True, True, False), (False, False, False)])
def test_what_waits_in_vain(waits: bool, works: bool, hangs: bool) -> None:
    told, steps = threading.Event(), [0]
    dog = Watchdog(lambda: steps[0], PATIENCE_S, told.set)

    def work() -> None:
        deadline = time.monotonic() + 4 * PATIENCE_S
        while time.monotonic() < deadline and not told.is_set():
            steps[0] += works
            time.sleep(PATIENCE_S / 30)

    if waits:
        with dog.waiting():
            work()
    else:
        with dog.waiting():
            pass
        work()
    assert told.is_set() == hangs


PATIENCE_OF_A_PROCESS_S = 2.0
STOPPED = f"""
import os
from sfr_batch.pipeline.watchdog import Watchdog
steps = [0]
with Watchdog(lambda: steps[0], {PATIENCE_OF_A_PROCESS_S}, lambda: os._exit(3)).waiting():
    print("waiting", flush=True)
    input()
"""


@pytest.mark.parametrize("stopped", [True, False])
def test_a_process_that_was_stopped_has_not_waited(stopped: bool) -> None:
    """As it is with its machine, or by a debugger: the device gets no time to go on."""
    command = [sys.executable, "-c", STOPPED]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdin
        assert process.stdout
        assert process.stdout.readline() == "waiting\n"
        if stopped:
            process.send_signal(signal.SIGSTOP)
            time.sleep(1.5 * PATIENCE_OF_A_PROCESS_S)
            process.send_signal(signal.SIGCONT)
            process.stdin.write("\n")
            process.stdin.flush()
        assert process.wait(60) == (0 if stopped else 3)
