"""Renders results as HTML tables in notebooks (`_repr_html_`). Every text is escaped: ids and texts of a corpus may
contain markup. Knows nothing of what it shows.

It is here, beside the listing of snapshots as text, because results of all packages above use it.
"""

from collections.abc import Collection, Iterable, Sequence
from html import escape

_COLORS = {"PASS": "#2e7d32", "FAIL": "#c62828", "SKIP": "#757575"}
"""Colors of cells that hold a verdict; readable on white and on black."""
_TITLE_WIDTH = 100
"""Characters of a line of a title."""


def html_table(
    rows: Iterable[Sequence[object]],
    *,
    head: Sequence[str] = (),
    title: str = "",
    numbers: Collection[int] = (),
) -> str:
    """Rows of cells under an optional head and title. numbers: columns, from 0, that are aligned to the right.

    Line breaks within a cell are kept.
    """
    # As wide as it is, or a long title over a narrow table would have a word a line.
    wide = f"min-width:{min(len(title), _TITLE_WIDTH)}ch;font-weight:bold"
    caption = f'<caption style="{_style("left")};{wide}">{escape(title)}</caption>' if title else ""
    first = "".join(f'<th style="{_style(_side(n, numbers))}">{escape(name)}</th>' for n, name in enumerate(head))
    body = "".join(f"<tr>{''.join(_cell(n, cell, numbers) for n, cell in enumerate(row))}</tr>" for row in rows)
    return f"<table>{caption}{f'<thead><tr>{first}</tr></thead>' if head else ''}<tbody>{body}</tbody></table>"


def _cell(number: int, value: object, numbers: Collection[int]) -> str:
    text = str(value)
    color = f";color:{_COLORS[text]};font-weight:bold" if text in _COLORS else ""
    return f'<td style="{_style(_side(number, numbers))}{color}">{escape(text)}</td>'


def _side(number: int, numbers: Collection[int]) -> str:
    return "right" if number in numbers else "left"


def _style(side: str) -> str:
    return f"text-align:{side};white-space:pre-wrap;vertical-align:top"
