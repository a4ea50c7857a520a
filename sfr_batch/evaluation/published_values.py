"""Published scores as plain values. Knows no file."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Literal

from sfr_batch.evaluation.score_keys import fractions, known_key, number

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
    """Figures of one group were written by one hand, on one scale: see `score_keys.fractions`."""


def as_published(raw: Sequence[RawScores]) -> tuple[tuple[PublishedTask, ...], tuple[str, ...]]:
    """Figures on one scale under our keys, and remarks on those that are none. Tasks without a figure are left out."""
    kept: list[tuple[RawScores, dict[str, float]]] = []
    odd: list[str] = []
    for own in raw:
        scores: dict[str, float] = {}
        for name, value in own.figures:
            key = known_key(name)
            if key is None:
                continue
            if (figure := number(value)) is None:
                odd.append(f"{own.task} {name} is {value!r}")
            else:
                scores.setdefault(key, figure)
        kept.append((own, scores))
    tasks: dict[int, PublishedTask] = {}
    for group in {own.group for own, _ in kept}:
        members = [at for at, (own, _) in enumerate(kept) if own.group == group]
        scaled, beyond = fractions([kept[at][1] for at in members])
        odd += beyond
        for at, scores in zip(members, scaled, strict=True):
            own = kept[at][0]
            if scores:
                tasks[at] = PublishedTask(
                    _RENAMED.get(own.task, own.task), own.split, own.subset, own.revision, scores, own.version
                )
    remarks: tuple[str, ...] = ()
    if odd:
        shown = "; ".join(odd[:_SHOWN]) + ("; …" if len(odd) > _SHOWN else "")
        noun = "figure is no score and was" if len(odd) == 1 else "figures are no scores and were"
        remarks = (f"{len(odd)} {noun} left out: {shown}.",)
    return tuple(tasks[at] for at in sorted(tasks)), remarks
