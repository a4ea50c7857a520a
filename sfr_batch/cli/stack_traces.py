"""Where the stack trace of an exception goes that sfr-batch does not foresee: to a log, and not before a person.

The log is a file of this machine. A job on a cluster and a container lose their files: there the log is stderr.
"""

import os
import sys
import tempfile
from datetime import UTC, datetime
from pathlib import Path
from platform import platform, python_version

from sfr_batch.cli import signals
from sfr_batch.format import unforeseen
from sfr_batch.format.library_versions import installed
from sfr_batch.model.sources.room import cache_folder
from sfr_batch.pipeline import invocation, placement
from sfr_batch.pipeline.display import is_terminal, say
from sfr_batch.storage.local_files import make_folder, write_text

_LIBRARIES = ("sfr-batch", "torch", "transformers", "tokenizers", "pyarrow", "s3fs", "ray", "click")


def message(error: BaseException) -> str:
    """What a person is told of an exception that ends a command; its stack trace is kept."""
    cause = "It is probably a defect of sfr-batch."
    if isinstance(error, OSError | MemoryError):
        cause = "It may be this machine, its disk, memory, permissions or network, or a defect of sfr-batch."
    return (
        f"{unforeseen.sentence(error)}. sfr-batch does not foresee this error. {cause}\n"
        f"So far: {signals.state()}.\n{kept(unforeseen.trace_of(error))}"
    )


def kept(trace: str) -> str:
    """Keep a stack trace; returns where it is and what to do with it."""
    file = None if _stderr_is_the_log() else _written(trace)
    if file is None:
        say(trace)
    where = file or "the log of this process, above this message"  # which others may see elsewhere, see `job.result()`
    return f"The stack trace is in {where}. If the same command ends like this again, report the error with it."


def _stderr_is_the_log() -> bool:
    passing = placement.submission_id() is not None or "KUBERNETES_SERVICE_HOST" in os.environ
    return passing and not is_terminal(sys.stderr)


def _written(trace: str) -> Path | None:
    """The file that has it now; None if no disk takes it."""
    now = datetime.now(UTC)
    lines = [
        f"{now.isoformat(timespec='seconds')}  {invocation.command()}",
        " ".join(f"{name} {version}" for name, version in installed(_LIBRARIES).items()),
        f"python {python_version()} {sys.executable} on {platform()}",
        trace,
    ]
    for folder in (cache_folder() / "errors", Path(tempfile.gettempdir())):
        file = folder / f"sfr-batch-error-{now:%Y%m%dT%H%M%S}-{os.getpid()}.txt"
        try:
            make_folder(folder)
            write_text(file, "\n".join(lines) + "\n")
        except (OSError, RuntimeError):  # there may be no home
            continue
        return file
    return None
