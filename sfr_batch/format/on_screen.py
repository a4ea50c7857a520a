"""Texts of others on a screen: short, and without what a terminal would obey. Ids, values and names of files may hold
anything.

It is here, beside the listings of snapshots, because all packages above use it.
"""

import re

_OBEYED = r"\x00-\x08\x0b-\x1f\x7f-\x9f\u200e\u200f\u2028-\u202e\u2066-\u2069\ud800-\udfff"
"""Control characters but for tab and line feed, what turns the direction of writing, and halves of characters."""
_CONTROLS = re.compile(f"[{_OBEYED}]")
_CONTROLS_AND_BREAKS = re.compile(f"[{_OBEYED}\t\n]")
_ID_WIDTH = 200
_CELL_WIDTH = 1000
_LINE_WIDTH = 2000
"""Characters of a line of a message; ids and values in it may have millions."""


def printable(text: str) -> str:
    """The text with what a terminal would obey as escapes, such as ``\\x1b``. Lines and tabs stay."""
    return _CONTROLS.sub(_escaped, text)


def shown(value: object, width: int = 100) -> str:
    """A value in one line of at most ``width`` characters, white space as single spaces."""
    text = str(value)
    return _cut(_CONTROLS.sub(_escaped, " ".join(text[: 20 * width].split())), width, len(text) > 20 * width)


def shown_id(value: object) -> str:
    """An id in one line: with its white space, and its length if it is too long to show."""
    text = str(value)
    line = _CONTROLS_AND_BREAKS.sub(_escaped, text[: _ID_WIDTH + 1])
    return line if len(line) <= _ID_WIDTH else f"{line[:_ID_WIDTH]}… ({len(text):,} characters)"


def shown_cell(value: object) -> str:
    """A value in a cell of a table, with its lines."""
    text = str(value)
    return printable(text if len(text) <= _CELL_WIDTH else text[:_CELL_WIDTH] + "…")


def shown_message(text: str) -> str:
    """A message whose lines are printable and not endless: what is too long is left out of its middle."""
    return "\n".join(map(_shown_line, text.split("\n")))


def _shown_line(line: str) -> str:
    if len(line) > _LINE_WIDTH:
        left = _LINE_WIDTH // 2
        line = f"{line[:left]}… ({len(line) - 2 * left:,} characters) …{line[-left:]}"
    return printable(line)


def _cut(text: str, width: int, longer: bool) -> str:
    return text if len(text) <= width and not longer else text[: width - 1] + "…"


def _escaped(found: re.Match[str]) -> str:
    return found[0].encode("unicode_escape", "backslashreplace").decode("ascii")
