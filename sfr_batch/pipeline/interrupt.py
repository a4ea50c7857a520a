"""What a process that is stopped by a signal can say about its run.

The run sets `progress`; the command line reads it from a signal's thread. This module imports nothing of the project,
so that it is loaded before any run starts and can be read at any moment. It knows neither signals nor runs.
"""

from typing import Protocol


class SplitCounts(Protocol):
    """The part of a run's progress that `last_words` needs."""

    splits: int
    """Splits that the run embeds."""
    splits_done: int
    """Splits that are committed."""


progress: SplitCounts | None = None
"""The progress of the last run that this process started; None before the first one."""


def last_words(signal_name: str) -> str:
    """The last line of a stopped process: what is committed, and what the same command does next."""
    if progress is None:
        return f"stopped by {signal_name}: nothing was started; the same command starts again"
    if progress.splits_done >= progress.splits:
        return f"stopped by {signal_name}: all splits are committed; the same command publishes them"
    return (
        f"stopped by {signal_name}: {progress.splits_done:,} of {progress.splits:,} splits of this run are committed; "
        "the same command continues from there"
    )
