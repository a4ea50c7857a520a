"""One display of a notebook that says where a run is, and is updated until it ends. Without a notebook there is none.

Lines that the run would write to stderr stand in it, too. IPython is asked only where it is loaded already, as in the
process of a notebook; a terminal of IPython has a line, as any other.
"""

import contextlib
import dataclasses
import logging
import sys
import time
import warnings
from collections.abc import Iterator
from typing import Any

from sfr_batch.errors import StorageError
from sfr_batch.format import on_screen, progress_screen
from sfr_batch.format.run_accounts import RunAccount
from sfr_batch.format.run_progress import RunProgress
from sfr_batch.pipeline import display
from sfr_batch.pipeline.watch_display import trouble

_NOTES = 20
"""Lines that stay below the bar."""
_AT_MOST_EVERY_S = 1.0
_AT_LEAST_EVERY_S = 5.0
"""Seconds between two updates: each goes to the browser."""


class NotebookDisplay:
    """Shows the states that it is given, in the place where it showed the first one."""

    def __init__(self) -> None:
        self._handle: Any = None
        self._last = RunProgress()
        self._notes: list[str] = []
        self._trouble = ""
        self._updated = float("-inf")
        self._moved: object = None

    def show(self, progress: RunProgress) -> None:
        """Where the run is now. It may take a second until that is seen."""
        self._last, self._trouble = progress, ""
        since = time.monotonic() - self._updated
        if since > (_AT_MOST_EVERY_S if progress.moved != self._moved else _AT_LEAST_EVERY_S) or progress.is_over:
            self._update()

    def note(self, text: str) -> None:
        """A line that the run has to say."""
        self._notes = [*self._notes, *on_screen.printable(text).splitlines()][-_NOTES:]
        self._update()

    def trouble(self, error: StorageError) -> None:
        """Nobody knows where the run is now."""
        self._trouble = trouble(error)
        self._update()

    def end(self, account: RunAccount) -> None:
        """How the run has ended. What is said later, such as the error that has ended it, adds nothing."""
        if not self._last.ended or account.run_id:
            self._last = self._last.ended_as(account)
            self._update()

    def _update(self) -> None:
        from IPython.display import display as show_in_notebook

        self._updated, self._moved = time.monotonic(), self._last.moved
        notes = [*self._notes, *([self._trouble] if self._trouble else [])]
        drawn = _Drawn(self._last, notes)
        if self._handle is None:
            self._handle = show_in_notebook(drawn, display_id=True)
        else:
            self._handle.update(drawn)


@dataclasses.dataclass(frozen=True)
class _Drawn:
    progress: RunProgress
    notes: list[str]

    def _repr_html_(self) -> str:
        return progress_screen.html(self.progress, self.notes)

    def __repr__(self) -> str:
        """For a notebook that shows no HTML."""
        return "\n".join([self.progress.screen(), *self.notes])


class Seen(RunProgress):
    """A state that stands in the display already: as the result of that cell it is not shown again."""

    def _ipython_display_(self) -> None:
        if self.__dict__.pop("fresh", False):
            return
        from IPython.display import HTML
        from IPython.display import display as show_in_notebook

        show_in_notebook(HTML(self._repr_html_()))

    @classmethod
    def of(cls, progress: RunProgress) -> "Seen":
        """The same state, which has just been shown."""
        made = cls(**{item.name: getattr(progress, item.name) for item in dataclasses.fields(progress)})
        made.__dict__["fresh"] = True
        return made


def in_notebook() -> bool:
    """Whether this process is the kernel of a notebook."""
    if (ipython := sys.modules.get("IPython")) is None:
        return False
    try:
        return getattr(ipython.get_ipython(), "kernel", None) is not None
    except Exception:
        return False


def ask_for_no_widgets() -> None:
    """tqdm and Ray ask for ipywidgets when they are imported in a notebook. Nothing here draws with them."""
    warnings.filterwarnings("ignore", "IProgress not found")
    logging.getLogger("ray.widgets.util").setLevel(logging.WARNING)


@contextlib.contextmanager
def shown(stage: str) -> Iterator[None]:
    """In a notebook, what runs in this context is shown in one display. stage: what it begins with; with "" it begins
    when there is something to say."""
    if display.board() is not None or not in_notebook():
        yield
        return
    ask_for_no_widgets()
    board = NotebookDisplay()
    with display.shown_on(board):
        if stage:
            display.attempt(board, lambda: board.show(RunProgress(stage=stage)))
        try:
            yield
        except BaseException as error:
            account = RunAccount("").failed(error)  # raised again: the lambda must not hold it
            display.attempt(board, lambda: board.end(account))
            raise
