"""Commands whose streams are broken from the start, as a shell starts them: forks of one process that is warm.

    python -m tests.cli.stream_cases FOLDER      reads cases as JSON from stdin, answers with code and stderr of each

A fork ends as Python does, with everything that it flushes and closes then.
"""

import json
import os
import sys
from pathlib import Path
from typing import Any

import sfr_batch.api
import sfr_batch.cli.main
import sfr_batch.planning.make  # noqa: F401  # what is imported here is there in every fork
from sfr_batch.cli import start


def connect(number: int, how: str, file: Path) -> None:
    """Make a standard descriptor a file, a full disk, a pipe that nobody reads, or close it; and Python's stream."""
    os.close(number)
    if how != "closed":
        if how == "pipe":
            reader, other = os.pipe()
            os.close(reader)
        else:
            other = os.open("/dev/full" if how == "full" else file, os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
        if other != number:
            os.dup2(other, number)
            os.close(other)
    stream: Any = None if how == "closed" else open(number, "w", closefd=False)  # noqa: SIM115
    setattr(sys, "stdout" if number == 1 else "stderr", stream)


def run(case: dict[str, Any], folder: Path) -> tuple[int, str]:
    """Exit code and stderr of one case."""
    child = os.fork()
    if child == 0:
        connect(1, case["stdout"], folder / "stdout")
        connect(2, case["stderr"], folder / "stderr")
        sys.argv = ["sfr-batch", *case["arguments"]]
        start.main()
    code = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
    return code, (folder / "stderr").read_text() if case["stderr"] == "file" else ""


def main(folder: Path) -> None:
    """Run all cases."""
    answers = [run(case, folder) for case in json.load(sys.stdin)]
    print(json.dumps(answers))


if __name__ == "__main__":
    main(Path(sys.argv[1]))
