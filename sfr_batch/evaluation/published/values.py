"""Published scores as plain values. Knows no file."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Literal

from sfr_batch.evaluation.published.score_keys import is_percent, is_score, known_key, number

_SHOWN = 3
_RENAMED = {
    "NorwegianParliament": "NorwegianParliamentClassification",
    "8TagsClustering": "EightTagsClustering",
    "CMedQAv1": "CMedQAv1-reranking",
    "CMedQAv2": "CMedQAv2-reranking",
    "PPC": "PpcPC",
}
"""Tasks that mteb has renamed: old files and cards have the old name."""


@dataclass(frozen=True, slots=True)
class PublishedTask:
    """The scores that somebody has published for one task, split and subset."""

    task: str
    """As tasks are named in task files, such as STS22."""
    split: str | None
    subset: str | None
    """Such as en; None, as for ``split``, where the source does not say it."""
    revision: str | None
    """Of the data set on the Hugging Face hub; None where the source does not say it."""
    scores: Mapping[str, float]
    """By our keys. Fractions."""
    version: str | None = None
    """Of the mteb that made them; None where the source does not say it."""


@dataclass(frozen=True, slots=True)
class Published:
    """All that one source has published."""

    source: str
    """URI of the card, file or folder."""
    kind: Literal["card", "mteb"]
    model: str
    """The name of the model as the source has it; empty where it has none."""
    tasks: tuple[PublishedTask, ...]
    remarks: tuple[str, ...] = ()
    """Sentences on what was left out."""

    def of(self, name: str) -> Iterator[PublishedTask]:
        """What there is of a task, whatever its split and subset. Upper and lower case are one."""
        return (task for task in self.tasks if task.task.casefold() == name.casefold())


@dataclass(slots=True)
class RawScores:
    """The figures of one task as they stand in a source: names, numbers or text, on the source's scale."""

    task: str
    split: str | None
    subset: str | None
    revision: str | None
    figures: Sequence[tuple[str, object]]
    version: str | None = None
    group: str = field(default="")
    """Figures of one group were written by one hand, on one scale: see `score_keys.is_percent`."""


def as_published(raw: Sequence[RawScores]) -> tuple[tuple[PublishedTask, ...], tuple[str, ...]]:
    """Figures on one scale under our keys, and remarks on those that are none. Tasks without a figure are left out."""
    read = [_Read(own) for own in raw]
    units = {
        group: 100.0 if is_percent([own.scores for own in read if own.raw.group == group]) else 1.0
        for group in {own.raw.group for own in read}
    }
    for own in read:
        own.keep_scores(units[own.raw.group])
    odd = [sentence for own in read for sentence in own.odd]
    small = [own.name for own in read if own.small]
    remarks = []
    if odd:
        noun = "figure is no score and was" if len(odd) == 1 else "figures are no scores and were"
        remarks.append(f"{len(odd)} {noun} left out: {_some(odd)}.")
    if small:
        noun = "task has no figure above 1 and was" if len(small) == 1 else "tasks have no figure above 1 and were"
        remarks.append(f"{len(small)} {noun} read as percent like the other tasks beside it: {_some(small)}.")
    return tuple(own.published() for own in read if own.scores), tuple(remarks)


class _Read:
    """The scores of one task while they are read."""

    def __init__(self, raw: RawScores) -> None:
        self.raw = raw
        self.name = _RENAMED.get(raw.task, raw.task)
        self.scores: dict[str, float] = {}
        self.odd: list[str] = []
        """Figures that are no scores."""
        self.small = False
        """Whether somebody may have written fractions among percent."""
        for name, value in raw.figures:
            if (key := known_key(name)) is None:
                continue
            if (figure := number(value)) is None:
                self.odd.append(f"{self.name} {name} is {value!r}")
            else:
                self.scores.setdefault(key, figure)

    def keep_scores(self, unit: float) -> None:
        """Make fractions of figures whose 1 is the ``unit``."""
        values = self.scores.values()
        self.small = unit > 1 and any(values) and all(abs(value) <= 1 for value in values)
        self.odd += [
            f"{self.name} {key} is {value:g}" for key, value in self.scores.items() if not is_score(value, unit)
        ]
        self.scores = {key: value / unit for key, value in self.scores.items() if is_score(value, unit)}

    def published(self) -> PublishedTask:
        raw = self.raw
        return PublishedTask(self.name, raw.split, raw.subset, raw.revision, self.scores, raw.version)


def _some(sentences: Sequence[str]) -> str:
    return "; ".join(sentences[:_SHOWN]) + ("; …" if len(sentences) > _SHOWN else "")
