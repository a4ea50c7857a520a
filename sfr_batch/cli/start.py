"""The first code of every command: makes its streams safe, runs it, and ends the process with its exit code.

What takes time to import is imported when all that is in place. Knows no command.
"""

import os
import sys
from collections.abc import Callable
from typing import TYPE_CHECKING, NoReturn

from sfr_batch.cli import streams
from sfr_batch.pipeline import display
from sfr_batch.storage.descriptors import fill_standard_descriptors

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
    fill_standard_descriptors()
    streams.replace_streams()
    code = _code_of(load)
    if not streams.finish():
        os._exit(code)
    sys.exit(code)


def _code_of(load: "Callable[[], click.Command]") -> int:
    code = 0
    try:
        try:
            load().main()
        except SystemExit as ended:
            code = _number(ended)
        sys.stdout.flush()
    except streams.OutputLost as lost:
        if code:  # it has failed before, and has said why
            return code
        if lost.closed_pipe:
            return CLOSED_PIPE
        display.say(f"error: {lost}")
        return 1
    return code


def _number(ended: SystemExit) -> int:
    if ended.code is None or isinstance(ended.code, int):
        return ended.code or 0
    display.say(str(ended.code))
    return 1
