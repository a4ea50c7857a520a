"""An exception that nobody foresaw: a sentence for the person who runs a command, and the stack trace for a log.

From a worker both travel as one text. Pure: who shows them and where a log is kept is decided elsewhere.
"""

import os
import traceback
from pathlib import PurePath

from sfr_batch.format.on_screen import shown

_TRACE = "\nTraceback (most recent call last):\n"
_ROOT = str(PurePath(__file__).parents[2]) + os.sep
_PACKAGE = str(PurePath(__file__).parents[1]) + os.sep
_WIDTH = 500
"""Characters of a message that are shown; the trace has all."""


def sentence(error: BaseException) -> str:
    """What happened and where, in one line without a full stop: ``KeyError: 'id', in sfr_batch/api.py, line 12``.

    The place is the last one in this package that the exception went through.
    """
    frames = traceback.extract_tb(error.__traceback__)
    own = [frame for frame in frames if frame.filename.startswith(_PACKAGE)] or list(frames)
    where = f", in {own[-1].filename.removeprefix(_ROOT)}, line {own[-1].lineno}" if own else ""
    what = shown(error, _WIDTH)
    return f"{type(error).__name__}{': ' if what else ''}{what}{where}"


def trace_of(error: BaseException) -> str:
    """The stack trace, with those of the exceptions that led to it."""
    return "".join(traceback.format_exception(error)).rstrip()


def as_text(error: BaseException) -> str:
    """Sentence and trace, for `parts`."""
    return f"{sentence(error)}\n{trace_of(error)}"


def parts(text: str) -> tuple[str, str]:
    """Sentence and trace of the text of an error; the trace is empty if it has none."""
    said, found, _ = text.partition(_TRACE)
    return said, text[len(said) + 1 :] if found else ""
