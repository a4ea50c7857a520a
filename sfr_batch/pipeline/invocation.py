"""How this process was called, as an account of a run may say it. Imports nothing of the project: entry points set it.

The command line of an entry point of ours holds no secret, because no setting may. Of any other program the arguments
may be anything: of these, an account has the name alone.
"""

import shlex
import sys
from pathlib import PurePath

_WIDTH = 2000
_command: str | None = None


def called() -> None:
    """Entry points of ours say that this process is theirs."""
    global _command
    program = sys.argv[0]
    words = ["python", program] if program.endswith(".py") else [PurePath(program).name]
    _command = shlex.join([*words, *sys.argv[1:]])[:_WIDTH]


def command() -> str:
    """The command line, or the name of a program that is not ours; `python` or `notebook` without a program."""
    if _command is not None:
        return _command
    if "ipykernel" in sys.modules:
        return "notebook"
    program = PurePath(sys.argv[0]).name if sys.argv else ""
    return f"python {program}" if program and program != "-c" else "python"
