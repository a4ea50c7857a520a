"""Charts as HTML with inline SVG: an area over time, bars of buckets, and parts of a whole.

The SVG has the shapes alone and is stretched to the width that there is; labels are text beside it, so that they are
as large on a phone as on a desk. Colors are variables of the page. Knows numbers, not what they mean.
"""

import itertools
import math
from collections.abc import Sequence
from html import escape
from typing import NamedTuple

from sfr_batch.format.durations import format_duration

_STEPS_S = (1, 2, 5, 10, 15, 30, 60, 120, 300, 600, 900, 1800, 3600, 7200, 10800, 21600, 43200, 86400)
_TICKS = 5
LIMIT = 'class="limit"'
"""Of the line at a limit, which is there only if the limit is among the bars."""
_GAP = 0.12
"""Share of a bucket's width between two bars."""


class Part(NamedTuple):
    """A part of a whole: its name, its size, and the same in words."""

    name: str
    size: float
    shown: str


def area(values: Sequence[float], every_s: float, unit: str, label: str) -> str:
    """A step for each value, of ``every_s`` seconds each, from 0. label: what it shows, for those who do not see it."""
    top, lines = _scale(max(values, default=0))
    width = 100 / len(values)
    points = [(number * width, 100 - 100 * value / top) for number, value in enumerate(values)]
    path = " ".join(f"L{x:.2f} {y:.2f} L{x + width:.2f} {y:.2f}" for x, y in points)
    told = [_over(number * width, width, _step(number, value, every_s, unit)) for number, value in enumerate(values)]
    shapes = f'<path class="area" d="M0 100 {path} L100 100Z"/><path class="line" d="M{path[1:]}"/>{"".join(told)}'
    whole = len(values) * every_s
    step = next((step for step in _STEPS_S if whole / step <= _TICKS), math.ceil(whole / _TICKS / 86400) * 86400)
    marks = [(100 * at / whole, format_duration(at)) for at in range(0, math.floor(whole) + 1, step)]
    return _frame(shapes, lines, marks, label, unit)


def _step(number: int, value: float, every_s: float, unit: str) -> str:
    return f"{format_duration(number * every_s)} to {format_duration((number + 1) * every_s)}: {value:,.0f} {unit}"


def bars(edges: Sequence[int], values: Sequence[int], unit: str, label: str, limit: int | None = None) -> str:
    """A bar for each bucket, which begins at its edge. limit: a length at which a line stands."""
    used = [number for number, value in enumerate(values) if value]
    if not used:
        return ""
    first, last = used[0], used[-1] + 1
    top, lines = _scale(max(values))
    width = 100 / (last - first)
    shapes = []
    for number in range(first, last):
        end = f" to {edges[number + 1] - 1:,}" if number + 1 < len(edges) else " and more"
        only = number + 1 < len(edges) and edges[number + 1] - edges[number] == 1
        name = f"{edges[number]:,}{'' if only else end} tokens: {values[number]:,} {unit}"
        x, height = (number - first + _GAP / 2) * width, 100 * values[number] / top
        inner = width * (1 - _GAP)
        shapes.append(
            f'<rect class="bar" x="{x:.2f}" y="{100 - height:.2f}" width="{inner:.2f}" height="{height:.2f}"/>'
        )
        shapes.append(_over((number - first) * width, width, name))
    if limit and (at := _place(edges, limit)) is not None and first < at < last:
        x = (at - first) * width
        shapes.append(f'<line {LIMIT} x1="{x:.2f}" x2="{x:.2f}" y1="0" y2="100"/>')
    powers = [number for number in range(first, last) if edges[number].bit_count() == 1]
    every = max(1, -(-len(powers) // (_TICKS + 1)))
    marks = [((number - first) * width, f"{edges[number]:,}") for number in powers[::every] or [first]]
    return _frame("".join(shapes), lines, marks, label, unit)


def parts(whole: Sequence[Part], label: str) -> str:
    """One bar with its parts beside each other, and below it what they are."""
    total = sum(part.size for part in whole)
    if total <= 0:
        return ""
    shapes, legend, x = [], [], 0.0
    for number, part in enumerate(whole):
        width = 100 * part.size / total
        name = escape(f"{part.name}: {part.shown}")
        shapes.append(
            f'<rect class="part{number}" x="{x:.2f}" y="0" width="{max(0.0, width):.2f}" height="100">'
            f"<title>{name}</title></rect>"
        )
        key = f'<span class="key part{number}"></span>{escape(part.name)} <b>{escape(part.shown)}</b>'
        legend.append(f"<li>{key} <i>{part.size / total:.0%}</i></li>")
        x += width
    return (
        f'<div class="parts" role="img" aria-label="{escape(label)}">{_svg("".join(shapes))}</div>'
        f'<ul class="legend">{"".join(legend)}</ul>'
    )


def _place(edges: Sequence[int], length: int) -> float | None:
    """Where a length lies among the buckets: their number, and the share of the last one."""
    for number, (low, high) in enumerate(itertools.pairwise(edges)):
        if low <= length < high:
            return number + (math.log(length / low) / math.log(high / low) if length > low else 0.0)
    return None


def _scale(largest: float) -> tuple[float, list[float]]:
    """A round end of the axis, and the values at which lines stand."""
    if largest <= 0:
        return 1.0, [0.0, 1.0]
    unit = 10.0 ** math.floor(math.log10(largest))
    step = next(step * unit for step in (0.2, 0.5, 1.0, 2.0, 5.0) if math.ceil(largest / (step * unit)) <= 4)
    step = max(step, 1.0) if largest >= 1 else step  # of whole things there are no halves
    lines = math.ceil(largest / step)
    return lines * step, [number * step for number in range(lines + 1)]


def _frame(shapes: str, lines: Sequence[float], marks: Sequence[tuple[float, str]], label: str, unit: str) -> str:
    """The shapes between their axes. lines: values of horizontal lines, from 0 to the top.

    marks: below, at per cent of the width."""
    top = lines[-1]
    heights = [(100 * value / top, _short(value)) for value in lines]
    grid = "".join(f'<line class="grid" x1="0" x2="100" y1="{100 - y:.2f}" y2="{100 - y:.2f}"/>' for y, _ in heights)
    left = "".join(f'<span style="bottom:{y:.2f}%">{escape(text)}</span>' for y, text in heights)
    below = "".join(f'<span style="left:{x:.2f}%">{escape(text)}</span>' for x, text in marks)
    return (
        f'<div class="unit">{escape(unit)}</div><div class="plot" role="img" aria-label="{escape(label)}">'
        f'<div class="y" aria-hidden="true">{left}</div>{_svg(grid + shapes)}'
        f'<div class="x" aria-hidden="true">{below}</div></div>'
    )


def _svg(shapes: str) -> str:
    return f'<svg viewBox="0 0 100 100" preserveAspectRatio="none" aria-hidden="true">{shapes}</svg>'


def _over(x: float, width: float, text: str) -> str:
    """What a mouse finds over a step or a bar, whatever its height."""
    return f'<rect class="over" x="{x:.2f}" y="0" width="{width:.2f}" height="100"><title>{escape(text)}</title></rect>'


def _short(value: float) -> str:
    """A number for an axis: 12k, 1.5M."""
    for unit, one in (("G", 1e9), ("M", 1e6), ("k", 1e3)):
        if value >= one:
            return f"{value / one:g}{unit}"
    return f"{value:g}"
