"""An evaluation as a picture: by task our score and the published one, and beside them the difference.

Draws into memory, without a display. Knows the rows of a report; compares nothing.
"""

import importlib.util
import io
import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from sfr_batch.errors import ConfigError
from sfr_batch.evaluation.published.comparison import DIFFERS, EQUAL, OTHER_DATA, Row
from sfr_batch.evaluation.report.text import LABELS, over_seeds, points, signed, summary
from sfr_batch.evaluation.results import Made
from sfr_batch.evaluation.task_files import MAIN_SCORES

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

_OURS, _THEIRS = "#0072B2", "#D55E00"
"""Blue and vermilion, which people with any kind of color vision tell apart; their signs differ, too."""
_GREY, _PALE = "#555555", "#dddddd"
_WIDTH, _LINE, _AROUND = 10.0, 0.23, 1.4
"""Inches: of the picture, of a line of it, and of what stands above and below all lines."""
_DPI = 144
_NAMES, _SCORES = 0.34, 0.26
"""Shares of the width: of the names at the left, and of the axis of scores where differences stand beside it."""
_LINEAR, _TENTH = 1.0, 0.1
"""Points: up to which difference its axis is linear; and the linear part of one that is not."""
_MOST_TICKS = 4
"""To each side, for so many labels would touch."""
_FONT = 8.5
_SIGNS = {EQUAL: ("o", _OURS), DIFFERS: ("X", _THEIRS), OTHER_DATA: ("d", _GREY)}


def need_matplotlib() -> None:
    """Raises ConfigError if matplotlib is missing. Does not import it."""
    if importlib.util.find_spec("matplotlib") is None:
        raise ConfigError(
            "The picture of an evaluation needs the Python package matplotlib: pip install 'sfr-batch[evaluation]'."
        )


def draw(made: Made, rows: Sequence[Row]) -> bytes:
    """A PNG. Raises ConfigError if matplotlib is missing."""
    need_matplotlib()
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    places = _places(rows)
    height = _LINE * len(places) + _AROUND
    figure = Figure(figsize=(_WIDTH, height), dpi=_DPI)
    canvas = FigureCanvasAgg(figure)
    beside = any(row.published is not None for row in rows)
    top, bottom = 1 - 0.72 / height, 0.62 / height
    width = _SCORES if beside else 0.97 - 0.07 - _NAMES
    scores = figure.add_axes((_NAMES, bottom, width, top - bottom))
    _draw_scores(scores, places)
    _draw_names(scores, places)
    if beside:
        differences = figure.add_axes((_NAMES + _SCORES + 0.03, bottom, 0.19, top - bottom))
        _draw_differences(differences, places)
    _draw_numbers(differences if beside else scores, places, beside)
    title = f"{_short(made.model)}, fingerprint {made.fingerprint[:16]}"
    for at, (text, size) in enumerate(((title, 10.5), (f"{summary(rows)}.", _FONT))):
        y = 1 - (0.22 + 0.2 * at) / height
        figure.text(0.015, y, _cut(text), fontsize=size, color=_GREY if at else "black", parse_math=False)
    if beside:
        _legend(figure, scores, rows)
    stream = io.BytesIO()
    canvas.print_png(stream)
    return stream.getvalue()


def _legend(figure: "Figure", scores: "Axes", rows: Sequence[Row]) -> None:
    """What the signs mean: in a corner that is free however many lines there are."""
    from matplotlib.lines import Line2D

    handles, labels = scores.get_legend_handles_labels()
    for verdict, label in ((DIFFERS, "beyond tolerance"), (OTHER_DATA, "of other data")):
        if any(row.verdict == verdict for row in rows):
            sign, color = _SIGNS[verdict]
            handles.append(Line2D([], [], color=color, marker=sign, markersize=5, linewidth=1.2))
            labels.append(f"difference {label}")
    place = {"loc": "lower left", "bbox_to_anchor": (0.005, 0.0)}
    figure.legend(handles, labels, ncols=2, frameon=False, fontsize=_FONT, columnspacing=1, **place)


@dataclass(frozen=True)
class _Score:
    """A line with a score of ours."""

    name: str
    row: Row
    ours: float
    compared: bool = True
    """Whether the published score stands beside it."""

    @property
    def published(self) -> float | None:
        return self.row.published if self.compared else None

    @property
    def difference(self) -> float | None:
        return self.row.difference if self.compared else None


_Place = str | _Score


def _places(rows: Sequence[Row]) -> list[_Place]:
    """The lines from above: the label of each type, and the scores of its tasks."""
    places: list[_Place] = []
    for kind, label in LABELS.items():
        own = [row for row in rows if row.task.type == kind]
        if own:
            places.append(f"{label}, {MAIN_SCORES[kind]}")
            places += [score for row in own for score in _scores(row)]
    return places


def _scores(row: Row) -> list[_Score]:
    """Of a score over several seeds it is the mean that stands beside the published one."""
    subset = f" ({row.task.subset})" if row.task.subset != "default" else ""
    name = _cut(row.task.name + subset, 44)
    if not row.over_seeds:
        return [_Score(name, row, row.ours)]
    mean = _Score(over_seeds(row.over_seeds), row, row.over_seeds.mean)
    return [_Score(name, row, row.ours, compared=False), mean]


def _draw_names(axes: "Axes", places: Sequence[_Place]) -> None:
    names = [place if isinstance(place, str) else place.name for place in places]
    axes.set_yticks(range(len(places)), names, fontsize=_FONT)
    for label, place in zip(axes.get_yticklabels(), places, strict=True):
        label.set_parse_math(False)
        label.set_fontweight("bold" if isinstance(place, str) else "normal")


def _draw_scores(axes: "Axes", places: Sequence[_Place]) -> None:
    scores = _numbered(places)
    theirs = [(at, 100 * score.published) for at, score in scores if score.published is not None]
    ours = [(at, 100 * score.ours) for at, score in scores if math.isfinite(score.ours)]
    for at, score in scores:
        if score.published is not None and math.isfinite(score.ours):
            axes.plot([100 * score.published, 100 * score.ours], [at, at], color=_GREY, linewidth=1, zorder=1)
    if theirs:
        y, x = zip(*theirs, strict=True)
        axes.scatter(x, y, marker="D", s=52, facecolors="none", edgecolors=_THEIRS, linewidths=1.4, label="published")
    if ours:
        y, x = zip(*ours, strict=True)
        axes.scatter(x, y, marker="o", s=16, color=_OURS, label="ours", zorder=3)
    every = [x for _, x in (*theirs, *ours)] or [0, 100]
    axes.set_xlim(min(*every, 100) - 4 if min(every) < 0 else -4, 104)
    axes.set_xlabel("score × 100", fontsize=_FONT)
    _common(axes, places)


def _draw_differences(axes: "Axes", places: Sequence[_Place]) -> None:
    known = [
        (at, 100 * score.difference, score.row)
        for at, score in _numbered(places)
        if score.difference is not None and math.isfinite(score.difference)
    ]
    for at, _, row in known:
        axes.barh(at, 200 * row.tolerance, left=-100 * row.tolerance, height=0.8, color=_PALE, zorder=1)
    for at, difference, row in known:
        sign, color = _SIGNS[row.verdict]
        axes.plot([0, difference], [at, at], color=color, linewidth=1.2, zorder=2)
        axes.scatter([difference], [at], marker=sign, s=26, color=color, zorder=3)
    _scale_differences(axes, max([0.25, *(max(abs(difference), 100 * row.tolerance) for _, difference, row in known)]))
    axes.axvline(0, color=_GREY, linewidth=0.8, zorder=1)
    axes.tick_params(left=False, labelleft=False)
    _common(axes, places)


def _scale_differences(axes: "Axes", widest: float) -> None:
    """widest: the largest difference or tolerance, in points. A few points would hide all tenths on a linear axis."""
    limit = 1.2 * widest
    if widest > _LINEAR:
        limit = 1.6 * widest
        axes.set_xscale("symlog", linthresh=_TENTH, linscale=0.7)
        ticks = [tick for tick in (_TENTH, 1.0, 10.0, 100.0) if tick < limit]
        ticks = ticks if len(ticks) < _MOST_TICKS else ticks[1::2]
        axes.set_xticks([*(-tick for tick in reversed(ticks)), 0, *ticks])
        axes.set_xticklabels([f"{tick:+g}" if tick else "0" for tick in axes.get_xticks()])
        axes.minorticks_off()
    axes.set_xlim(-limit, limit)
    scale = ", log scale" if widest > _LINEAR else ""
    axes.set_xlabel(f"ours − published, points{scale}\n(grey: tolerance)", fontsize=_FONT)


def _draw_numbers(axes: "Axes", places: Sequence[_Place], beside: bool) -> None:
    """Score and difference as numbers, at the right of all."""
    for at, score in _numbered(places):
        text = f"{points(score.ours):>6}"
        text += f" {points(score.published):>6} {signed(score.difference):>6}" if beside else ""
        axes.text(1.03, at, text, transform=axes.get_yaxis_transform(), va="center", fontsize=_FONT, family="monospace")
    if beside:
        axes.text(
            1.03, -0.9, "  ours  publ.  diff.", transform=axes.get_yaxis_transform(), fontsize=_FONT, family="monospace"
        )


def _common(axes: "Axes", places: Sequence[Any]) -> None:
    axes.set_ylim(len(places) - 0.4, -0.6)
    axes.grid(axis="x", color=_PALE, linewidth=0.6, zorder=0)
    axes.set_axisbelow(True)
    axes.tick_params(axis="x", labelsize=_FONT)
    axes.tick_params(axis="y", length=0)
    for side in ("top", "right", "left"):
        axes.spines[side].set_visible(False)


def _numbered(places: Sequence[_Place]) -> list[tuple[int, _Score]]:
    """The scores, with the numbers of their lines."""
    return [(at, place) for at, place in enumerate(places) if not isinstance(place, str)]


def _short(model: str, width: int = 80) -> str:
    """A path without its middle, if it is too long: models are told apart by the ends."""
    return model if len(model) <= width else f"{model[: width // 3]}…{model[-2 * width // 3 :]}"


def _cut(text: str, width: int = 130) -> str:
    return text if len(text) <= width else f"{text[: width - 1]}…"
