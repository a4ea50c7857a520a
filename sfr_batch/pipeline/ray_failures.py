"""What it means for a run that Ray has given up on a task or an actor, in a sentence. Knows Ray's errors, no stage."""

import re

import ray.exceptions

from sfr_batch.errors import RunFailed, SfrBatchError
from sfr_batch.pipeline.job import missing_package

COMMITTED = "Finished splits stay committed; the same command continues."
NOTHING_PUBLISHED = "Nothing was published; the same command tries again."
_NO_MODULE = re.compile(r"No module named '([\w.]+)'")
_NODE = re.compile(r"\bip=([0-9a-fA-F.:]+)")


def gave_up(error: ray.exceptions.RayError, doing: str, state: str, remedy: str = "") -> RunFailed:
    """The error of a run for one of Ray's.

    doing: what Ray gave up, such as ` while comparing`. state: what is committed and what to do. remedy: what helps
    against workers that die.
    """
    text = str(error).strip()
    if missing := _NO_MODULE.search(text):
        nodes = _NODE.findall(text)
        return RunFailed(f"{missing_package(missing[1], nodes[-1] if nodes else '')}\n{state}")
    last = (text.splitlines() or [""])[-1]
    return RunFailed(
        f"Ray gave up{doing}: {type(error).__name__}: {last}\n{state} If workers die repeatedly, they are usually out "
        f"of memory{remedy}."
    )


def failure_of(error: ray.exceptions.RayError, doing: str, state: str) -> BaseException:
    """What a function raised on a node; for an error of Ray itself, or a function that the node could not load, that of
    `gave_up`."""
    if isinstance(error, ray.exceptions.RayTaskError):
        cause: Exception = error.cause
        if not isinstance(cause, ray.exceptions.RayError | ImportError):
            if not isinstance(cause, SfrBatchError):
                cause.add_note(str(error))  # the stack trace of the node
            return cause
    return gave_up(error, doing, state)
