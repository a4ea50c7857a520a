"""Shows where a run is to whoever watches it: one screen of a terminal that is redrawn, else a line for each change.

Does not know where the states come from. Like all displays it never ends what it shows.
"""

import json
import os
import re
from collections.abc import Callable
from typing import Protocol, TextIO

from sfr_batch.errors import StorageError
from sfr_batch.format.on_screen import printable, shown
from sfr_batch.format.run_progress import RunProgress
from sfr_batch.pipeline import display

_PAINT = re.compile(r"\x1b\[[0-9]*m")
_TROUBLE = "the store does not answer, watching goes on: "
_WIDE = 1000
"""Characters of a message."""
_BACK = "the store answers again"


class Shows(Protocol):
    """What shows a run to people."""

    def show(self, progress: RunProgress) -> None:
        """Where the run is now."""
        ...

    def trouble(self, error: StorageError) -> None:
        """Nobody knows where the run is now."""
        ...


def trouble(error: StorageError) -> str:
    """That nobody knows where the run is, and why. What the error advises is for who does not ask again."""
    return _TROUBLE + shown(str(error).partition(". ")[0], _WIDE)


class Lines:
    """A line for each change, not for each look."""

    def __init__(self, say: Callable[[str], object], warn: Callable[[str], object] | None = None) -> None:
        """say: is called with each line. warn: with what is not about the run; default: ``say``."""
        self._say = say
        self._warn = warn or say
        self._moved: object = None
        self._run = ""
        self._failing = False

    def show(self, progress: RunProgress) -> None:
        """A line, if something but the time has changed."""
        if self._failing:
            self._warn(_BACK)
            self._failing = False
        if progress.moved != self._moved:
            self._moved = progress.moved
            self._tell(progress)

    def trouble(self, error: StorageError) -> None:
        """A line at the first failure of several in a row."""
        if not self._failing:
            self._failing = True
            self._warn(trouble(error))

    def _tell(self, progress: RunProgress) -> None:
        if progress.run_id and progress.run_id != self._run:
            self._run = progress.run_id
            self._say(f"{shown(progress.table, _WIDE)}: {progress.who}")
        goes_on = not progress.is_over and not progress.stalled and progress.splits
        self._say(progress.line() if goes_on else progress.describe())


class JsonLines(Lines):
    """The same with all that is known, as a JSON object in each line."""

    def _tell(self, progress: RunProgress) -> None:
        self._say(json.dumps(progress.as_json(), ensure_ascii=False, allow_nan=False))


class Screen:
    """A few lines at the bottom of a terminal, which are drawn anew each time."""

    def __init__(self, stream: TextIO | None) -> None:
        self._stream = stream
        self._drawn: list[str] = []
        self._last: RunProgress | None = None

    def show(self, progress: RunProgress) -> None:
        """Draw it over what was drawn before."""
        self._last = progress
        self._draw(progress, "")

    def trouble(self, error: StorageError) -> None:
        """Draw the last known state, and a line below it."""
        self._draw(self._last or RunProgress(), trouble(error))

    def _draw(self, progress: RunProgress, note: str) -> None:
        width = columns_of(self._stream)
        lines = progress.screen(width - 1, color=has_colors(self._stream)).split("\n")
        lines += [note[: width - 1]] if note else []
        # A terminal that has become narrower shows an older line as several.
        rows = sum(max(1, -(-len(_PAINT.sub("", line)) // width)) for line in self._drawn)
        up = f"\x1b[{rows}A" if rows else ""
        if display.offer(self._stream, f"\r{up}\x1b[J" + "".join(f"{line}\n" for line in lines)):
            self._drawn = lines


def is_live(stream: TextIO | None) -> bool:
    """Whether a stream is a terminal on which something can be drawn again."""
    return display.is_terminal(stream) and os.environ.get("TERM") != "dumb"


def has_colors(stream: TextIO | None) -> bool:
    """Whether a stream shows colors and its user has not said NO_COLOR."""
    return is_live(stream) and not os.environ.get("NO_COLOR")


def columns_of(stream: TextIO | None) -> int:
    """Width of a terminal, which may be gone."""
    try:
        return (os.get_terminal_size(stream.fileno()).columns if stream else 0) or 80
    except (OSError, ValueError):
        return 80


def shown_by(stream: TextIO | None) -> Shows:
    """What shows a run on a stream, which may be none."""
    return Screen(stream) if is_live(stream) else Lines(lambda text: display.offer(stream, f"{printable(text)}\n"))
