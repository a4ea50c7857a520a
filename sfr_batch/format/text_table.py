"""A table as lines of text: columns that align, and of these as many as fit. Knows no terminal. Pure."""

import textwrap
from collections.abc import Collection, Sequence

_GAP = "  "


def lines(
    head: Sequence[str],
    rows: Sequence[Sequence[str]],
    numbers: Collection[str],
    width: int | None = None,
    optional: Sequence[str] = (),
) -> tuple[list[str], list[str]]:
    """The lines, the head first, and the names of the columns that are left out.

    numbers: names of the columns that are aligned to the right. width: characters of a line; None shows all columns.
    optional: names of columns that may be left out, the least important one first. If a row is still too wide, its
    first cell has a line of its own.
    """
    left_out: list[str] = []
    aligned = _aligned(head, rows, numbers, ())
    for name in optional:
        if not _too_wide(aligned, width):
            break
        left_out.append(name)
        aligned = _aligned(head, rows, numbers, left_out)
    if width is not None and _too_wide(aligned, width):
        aligned = []
        for row in rows:
            named = zip(head, row, strict=True)
            first, *rest = [f"{n} {cell}" if n in numbers else cell for n, cell in named if n not in left_out]
            text = ", ".join(filter(None, rest))
            aligned += [first, *textwrap.wrap(text, width, initial_indent=_GAP, subsequent_indent=2 * _GAP)]
    return aligned, left_out


def _aligned(
    head: Sequence[str], rows: Sequence[Sequence[str]], numbers: Collection[str], without: Collection[str]
) -> list[str]:
    columns = [
        [cell.rjust(width) if name in numbers else cell.ljust(width) for cell in column]
        for name, column in zip(head, zip(head, *rows, strict=True), strict=True)
        if name not in without
        for width in [max(map(len, column))]
    ]
    return [_GAP.join(cells).rstrip() for cells in zip(*columns, strict=True)]


def _too_wide(aligned: Sequence[str], width: int | None) -> bool:
    return width is not None and max(map(len, aligned)) > width
