"""PyTorch's threads: how many a run uses, and a number of them for one computation. Knows no models.

The number is a setting of the whole process, which is the user's in a notebook. So it is set while an encoder computes
and restored afterwards, and an encoder that nobody asked for a number uses what the process has.
"""

import contextlib
import os
from collections.abc import Iterator

import torch


def threads_of_a_run(wanted: int | None, device: str, *, own_process: bool) -> int | None:
    """`run.actors.torch_threads`, or its default: all usable cores for device cpu, 1 for cuda.

    own_process: whether the process is there for this encoder alone, as an actor of Ray is, for which Ray itself sets
    OMP_NUM_THREADS. In any other, OMP_NUM_THREADS counts before the default: None, for what the process has.
    """
    if wanted is not None:
        return wanted
    if os.environ.get("OMP_NUM_THREADS") and not own_process:
        return None
    return usable_cores() if device == "cpu" else 1


def usable_cores() -> int:
    """Cores that this process may use; on systems that cannot say, those of the machine."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


@contextlib.contextmanager
def using(threads: int | None) -> Iterator[None]:
    """Compute with so many threads; None: with those that the process has."""
    before = torch.get_num_threads()
    if threads is None or threads == before:
        yield
        return
    torch.set_num_threads(threads)
    try:
        yield
    finally:
        torch.set_num_threads(before)
