"""The first code of every command: makes signals and streams safe, runs it, ends the process with its exit code.

Imports next to nothing itself: what takes time is imported when all that is in place. Knows no command.
"""

import os
import signal
import sys
from collections.abc import Callable
from types import FrameType
from typing import TYPE_CHECKING, NoReturn

if TYPE_CHECKING:
    import click

CLOSED_PIPE = 141
"""Exit code of a process that SIGPIPE has ended, as a shell reports it."""


def main(name: str | None = None) -> NoReturn:
    """Run the `sfr-batch` command with the arguments of this process, or only its command ``name``."""

    def load() -> "click.Command":
        from sfr_batch.cli.main import main as all_commands

        return all_commands.commands[name] if name else all_commands

    run(load)


def run(load: "Callable[[], click.Command]") -> NoReturn:
    """Run a command with the arguments of this process. load: imports and returns it."""
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        if signal.getsignal(number) != signal.SIG_IGN:
            signal.signal(number, _leave_at_once)
    from sfr_batch.cli import signals, streams
    from sfr_batch.pipeline import invocation
    from sfr_batch.storage.descriptors import fill_standard_descriptors

    fill_standard_descriptors()
    streams.replace_streams()
    invocation.called()
    signals.when_stopped("nothing was started")
    with signals.leaving(_last_words, _leave):
        code = _code_of(load)
        signals.when_stopped(f"the command had ended already, with exit code {code}")
        ended = streams.finish()
    if not ended:
        os._exit(code)
    sys.exit(code)


def _leave_at_once(number: int, frame: FrameType | None) -> None:
    """Before anything is imported, and when all is done."""
    try:
        os.write(2, f"stopped by {signal.Signals(number).name}: nothing is going on\n".encode())
    finally:
        os._exit(128 + number)


def _last_words(signal_name: str) -> str:
    """The last line: a run that goes on until the process ends, as it does for two seconds, says nothing after it."""
    from sfr_batch.cli import signals

    if display := sys.modules.get("sfr_batch.pipeline.display"):
        display.silence()
    return signals.last_words(signal_name)


def _leave(signal_name: str) -> None:
    """End the attempt and release the lease, if this process may have them: then their modules are loaded."""
    if attempt := sys.modules.get("sfr_batch.pipeline.attempt"):
        attempt.stopped(signal_name)
    if lease := sys.modules.get("sfr_batch.table.commit.lease"):
        lease.release_all()


def _code_of(load: "Callable[[], click.Command]") -> int:
    from sfr_batch.cli.streams import OutputLost
    from sfr_batch.pipeline.display import say

    code = 0
    try:
        try:
            load().main()
        except SystemExit as ended:
            code = _number(ended)
        except OutputLost:
            raise
        except Exception as error:
            say(f"error: {_unforeseen(error)}")
            code = 2 if isinstance(error, ModuleNotFoundError) else 1
        sys.stdout.flush()
    except OutputLost as lost:
        if code:  # it has failed before, and has said why
            return code
        if lost.closed_pipe:
            return CLOSED_PIPE
        say(f"error: {lost}")
        return 1
    return code


def _unforeseen(error: Exception) -> str:
    """What a person is told of an exception that is none of ours."""
    if isinstance(error, ModuleNotFoundError) and error.name:
        return (
            f"The Python of this process, {sys.executable}, has no module {error.name}. Install what sfr-batch depends "
            "on: `pip install .` in the repository does it. On a cluster install it on every node, best in its image: "
            "a submitted job brings sfr-batch along, but no other packages."
        )
    from sfr_batch.cli import stack_traces

    return stack_traces.message(error)


def _number(ended: SystemExit) -> int:
    if ended.code is None or isinstance(ended.code, int):
        return ended.code or 0
    from sfr_batch.pipeline.display import say

    say(str(ended.code))
    return 1
