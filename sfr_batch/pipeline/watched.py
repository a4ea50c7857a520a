"""A table whose runs can be watched, from storage alone: `EmbeddingTable.runs`, `report`, `progress` and `watch`."""

import contextlib
import logging
import sys
from collections.abc import Iterable, Iterator

from sfr_batch.errors import ConfigError, StorageError
from sfr_batch.format.run_progress import RunProgress
from sfr_batch.pipeline.notebook_display import NotebookDisplay, Seen, in_notebook
from sfr_batch.pipeline.watch_display import Shows, shown_by
from sfr_batch.storage import retries
from sfr_batch.table.commit.attempts import Runs, attempts
from sfr_batch.table.commit.watching import EVERY_S, progress_of, watch
from sfr_batch.table.report.gathering import find_report
from sfr_batch.table.report.value import RunReport
from sfr_batch.table.table import Table


class Watched(Table):
    """A table with the runs that write it."""

    def runs(self) -> Runs:
        """Every attempt to write the table of which something is left, oldest first: who made it, where, what it took,
        what it cost and how it ended. They print a line each; `RunAccount` has all fields."""
        return attempts(self)

    def report(self, run_id: str | None = None) -> RunReport:
        """What one run did, and what it took, also of a run that failed or was killed. run_id: default the newest one.

        Shows in a notebook; ``describe()`` has lines, ``to_html()`` a page, ``as_json()`` all figures. Raises
        ConfigError if there is no such run.
        """
        return find_report(self, run_id)

    def progress(self) -> RunProgress:
        """Where the run is that writes the table now; without one, how the last run ended.

        A handful of requests, however large the table is. Raises StorageError.
        """
        return progress_of(self)

    def watch(self, every_s: float = EVERY_S) -> RunProgress:
        """Show where the run is, every ``every_s`` seconds, until it ends; returns how it ended.

        In a notebook it is one display that is updated, on a terminal a few lines that are redrawn, else a line for
        each change. If there is no run, it returns how the last one ended. The run is not touched. Raises StorageError
        if the store fails for ten minutes.
        """
        return show_to_end(watch(self, check_pause(every_s)))


def check_pause(every_s: float) -> float:
    """The seconds between two looks. Raises ConfigError."""
    if isinstance(every_s, bool) or not isinstance(every_s, int | float) or not every_s >= 1:
        raise ConfigError(f"every_s={every_s!r}: give a number of seconds, 1 or more.")
    return every_s


def show_to_end(states: Iterable[RunProgress | StorageError]) -> RunProgress:
    """Show the states as they come, in the way of the place where this process runs; returns the last one."""
    if not in_notebook():
        return follow(states, shown_by(sys.stderr))
    return Seen.of(follow(states, NotebookDisplay()))


def follow(states: Iterable[RunProgress | StorageError], shows: Shows) -> RunProgress:
    """Show the states as they come; returns the last one. A store that does not answer is told there, not logged."""
    last = RunProgress()
    with _without_log_of_retries():
        for state in states:
            if isinstance(state, StorageError):
                shows.trouble(state)
            else:
                last = state
                shows.show(state)
    return last


@contextlib.contextmanager
def _without_log_of_retries() -> Iterator[None]:
    """Its lines would stand in the middle of what is drawn."""
    log = logging.getLogger(retries.__name__)
    before, log.disabled = log.disabled, True
    try:
        yield
    finally:
        log.disabled = before
