"""The report of an evaluation: our scores beside published ones, with all that they depend on. A plain value.

Knows no model and measures nothing; `report_text` and `report_picture` show it.
"""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

import pyarrow as pa

from sfr_batch.errors import ConfigError
from sfr_batch.evaluation.published.comparison import DIFFERS, TOLERANCES, Average, Row, averages, compare
from sfr_batch.evaluation.published.values import Published
from sfr_batch.evaluation.report import as_json as report_json
from sfr_batch.evaluation.report import picture as report_picture
from sfr_batch.evaluation.report import text as report_text
from sfr_batch.evaluation.results import Made, TaskResult
from sfr_batch.format.notebook import html_table
from sfr_batch.table.tabular import Tabular

_TEXT, _NUMBER = pa.string(), pa.float64()
_COLUMNS = {
    **dict.fromkeys(("task", "type", "split", "subset", "measure"), _TEXT),
    **dict.fromkeys(("ours", "seeds_mean", "seeds_std", "published", "difference", "tolerance"), _NUMBER),
    **dict.fromkeys(("verdict", "source", "data_version", "model", "fingerprint"), _TEXT),
}


@dataclass(frozen=True)
class Evaluation(Tabular):
    """Scores of one model, beside published ones. Prints as a table, in notebooks too.

    All scores are of one model, one fingerprint and one set of library versions: those of ``made``.
    """

    made: Made
    results: tuple[TaskResult, ...]
    """In the order in which tasks were scored. No task is in it twice."""
    published: tuple[Published, ...] = ()
    """Sources of published scores. Where several have a score of a task, the first one stands."""
    tolerances: Mapping[str, float] = field(default_factory=lambda: dict(TOLERANCES))
    """By type of task, how far an equal score may lie from the published one. Fractions: 0.001 is 0.1 point."""

    def __post_init__(self) -> None:
        names = [result.task.name for result in self.results]
        twice = sorted({name for name in names if names.count(name) > 1})
        if twice:
            raise ConfigError(f"An evaluation has one result of each task, and two of {', '.join(twice)} were given.")
        for result in self.results:
            if result.task.main_score not in result.scores:
                raise ConfigError(
                    f"{result.task.name}: its main score {result.task.main_score} is none of its scores: "
                    f"{', '.join(result.scores)}. Name one of them as main_score in the task file."
                )

    @cached_property
    def rows(self) -> tuple[Row, ...]:
        """Each task beside its published score, in the order of ``results``."""
        return tuple(compare(result, self.published, self.made, self.tolerances) for result in self.results)

    @cached_property
    def averages(self) -> tuple[Average, ...]:
        """Means by type and over all, of the tasks that were scored; see `comparison.averages`."""
        return tuple(averages(self.rows))

    @property
    def differing(self) -> list[str]:
        """The names of tasks whose score lies further from the published one than the tolerance allows."""
        return [row.task.name for row in self.rows if row.verdict == DIFFERS]

    def __getitem__(self, name: str) -> Row:
        """The row of the task with this name. Raises KeyError if there is none."""
        for row in self.rows:
            if row.task.name == name:
                return row
        raise KeyError(name)

    def __repr__(self) -> str:
        return f"<Evaluation {self.made.model}: {self.summary()}>"

    def summary(self) -> str:
        """One line: how many tasks were scored, and how they lie beside published scores."""
        return report_text.summary(self.rows)

    def describe(self) -> str:
        """All of it as text for a terminal of 80 columns. Scores are shown times 100."""
        return report_text.as_text(self.made, self.rows, self.averages, self.published)

    def _repr_html_(self) -> str:
        return report_text.as_html(html_table, self.made, self.rows, self.averages, self.published)

    def to_markdown(self) -> str:
        """All of it as Markdown. Scores are shown times 100."""
        return report_text.as_markdown(self.made, self.rows, self.averages, self.published)

    def to_arrow(self) -> pa.Table:
        """A row for each task. Scores, difference and tolerance are fractions, as mteb's results are.

        seeds_mean and seeds_std are null of a score that is no draw, or was drawn once; else difference is that of
        seeds_mean.
        """
        made = {"model": self.made.model, "fingerprint": self.made.fingerprint}
        rows = [report_json.row(row) | made for row in self.rows]
        return pa.table({name: pa.array([row[name] for row in rows], kind) for name, kind in _COLUMNS.items()})

    def picture(self) -> bytes:
        """Ours and published scores by task, and their differences, as a PNG. Needs no display.

        Raises ConfigError if matplotlib is missing.
        """
        return report_picture.draw(self.made, self.rows)

    def to_json(self) -> str:
        """All of it as a JSON object, which `from_json` reads; its ``rows`` and ``averages`` are for other readers."""
        return json.dumps(
            report_json.dumped(self.made, self.results, self.published, self.tolerances)
            | {"rows": [report_json.row(row) for row in self.rows]}
            | {"averages": [report_json.average(own) for own in self.averages]},
            indent=1,
            ensure_ascii=False,
            allow_nan=False,
        )

    @classmethod
    def from_json(cls, text: str | bytes, source: str = "The report") -> "Evaluation":
        """The evaluation that `to_json` wrote. source: its name in errors. Raises ConfigError if it is none."""
        made, results, published, tolerances = report_json.loaded(text, source)
        return cls(made, results, published, tolerances)


def joined(evaluations: Sequence[Evaluation]) -> Evaluation:
    """One evaluation of the tasks of several.

    Raises ConfigError if they were not made with one model and one set of library versions, or share a task.
    """
    if not evaluations:
        raise ConfigError("No evaluations were given to be joined.")
    first = evaluations[0]
    for other in evaluations[1:]:
        if changed := _differences(first.made, other.made):
            raise ConfigError(
                f"Scores of {first.made.model} and {other.made.model} do not belong into one report: {changed}. "
                "Score the tasks again with one of them, or keep two reports."
            )
    sources = {own.source: own for evaluation in evaluations for own in evaluation.published}
    results = tuple(result for evaluation in evaluations for result in evaluation.results)
    return Evaluation(first.made, results, tuple(sources.values()), first.tolerances)


def _differences(ours: Made, theirs: Made) -> str:
    """What differs in two values of `Made`; empty if nothing does."""
    if ours.fingerprint != theirs.fingerprint:
        keys = [key for key in {**ours.inputs, **theirs.inputs} if ours.inputs.get(key) != theirs.inputs.get(key)]
        inputs = f" ({_both(ours.inputs, theirs.inputs, keys)})" if keys else ""
        return f"fingerprints are {ours.fingerprint[:12]} and {theirs.fingerprint[:12]}{inputs}"
    keys = [key for key in {**ours.versions, **theirs.versions} if ours.versions.get(key) != theirs.versions.get(key)]
    return f"library versions differ ({_both(ours.versions, theirs.versions, keys)})" if keys else ""


def _both(ours: Mapping[str, Any], theirs: Mapping[str, Any], keys: Sequence[str]) -> str:
    return ", ".join(f"{key} {ours.get(key)} and {theirs.get(key)}" for key in keys)
