"""What a process that is stopped by a signal can say about its run.

The run sets `progress`; the command line reads it from a signal's thread. This module imports nothing of the project,
so that it is loaded before any run starts and can be read at any moment. It knows neither signals nor runs.
"""

from typing import Protocol


class SplitCounts(Protocol):
    """The part of a run's progress that `state` needs."""

    splits: int
    """Splits that the run embeds."""
    splits_done: int
    """Splits that are committed."""


progress: SplitCounts | None = None
"""The progress of the last run that this process started; None before the first one."""


published: int | None = None
"""The number of the snapshot that the last run has published; None before."""


def state() -> str:
    """What is committed or published, and what the same command does next."""
    if published is not None:
        return f"snapshot {published} is published; the same command finds nothing to do"
    if progress is None:
        return "nothing was started; the same command starts again"
    if progress.splits_done >= progress.splits:
        return "all splits are committed; the same command publishes them"
    return (
        f"{progress.splits_done:,} of {progress.splits:,} splits of this run are committed; the same command continues "
        "from there"
    )
