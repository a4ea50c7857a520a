"""Lays our scores beside published ones, task by task, and judges the difference.

Knows no file: it takes `TaskResult` and `Published`.
"""

import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

from sfr_batch.evaluation.published.harness import known_differences
from sfr_batch.evaluation.published.score_keys import main_score
from sfr_batch.evaluation.published.values import Published, PublishedTask
from sfr_batch.evaluation.results import Made, OverSeeds, TaskResult
from sfr_batch.evaluation.task_files import (
    CLASSIFICATION,
    CLUSTERING,
    MAIN_SCORES,
    PAIR_CLASSIFICATION,
    RERANKING,
    RETRIEVAL,
    STS,
    SUMMARIZATION,
    Task,
)

Verdict = Literal["equal", "differs", "other data", "not published"]
EQUAL: Verdict = "equal"
DIFFERS: Verdict = "differs"
OTHER_DATA: Verdict = "other data"
NOT_PUBLISHED: Verdict = "not published"

TOLERANCES: Mapping[str, float] = {
    **dict.fromkeys((RETRIEVAL, STS, CLASSIFICATION, PAIR_CLASSIFICATION, RERANKING, SUMMARIZATION), 0.001),
    CLUSTERING: 0.02,
}
"""By type of task, how far equal scores may lie apart. Fractions: 0.001 is 0.1 point. A published score
of clusters is one draw of their seeds; ours is the mean over several, see `TaskResult.compared`."""

_ROUNDING = 1e-9
_SAME = 1e-6
"""Two sources' figures of one measurement, which are rounded differently, lie no further apart."""


@dataclass(frozen=True, slots=True)
class Row:
    """One task: our score, the published one and what to think of the difference. Scores are fractions.

    Of a score over several seeds the mean is what is compared: see `TaskResult.compared`.
    """

    result: TaskResult
    published: float | None
    """None where there is none."""
    tolerance: float
    verdict: Verdict
    source: str | None = None
    """URI of the source of ``published``."""
    why: str = ""
    """A sentence where the verdict needs one, such as that the published score is of another split."""
    differences: tuple[str, ...] = ()
    """Known differences between the programs that measured, which apply to the task."""
    revision: str | None = None
    """Of the data of the published score, as far as it is known."""

    @property
    def task(self) -> Task:
        return self.result.task

    @property
    def ours(self) -> float:
        return self.result.main_score

    @property
    def over_seeds(self) -> OverSeeds | None:
        return self.result.over_seeds

    @property
    def difference(self) -> float | None:
        """Ours, of several seeds their mean, less the published one."""
        return None if self.published is None else self.result.compared - self.published

    @property
    def comparable(self) -> bool:
        """Whether the published score is one of the same split and subset."""
        return self.verdict in (EQUAL, DIFFERS)


@dataclass(frozen=True, slots=True)
class Found:
    """A published score of a task."""

    score: float
    entry: PublishedTask
    source: str
    other: str = ""
    """A sentence if it is of another split or subset."""
    remark: str = ""
    """A sentence if the source has several scores of it that differ."""


def compare(result: TaskResult, published: Sequence[Published], made: Made, tolerances: Mapping[str, float]) -> Row:
    """Our result beside the published score of the first source that has one. tolerances: see TOLERANCES."""
    task = result.task
    tolerance = tolerances.get(task.type, TOLERANCES[task.type])
    found = find(task, published)
    if found is None:
        return Row(result, None, tolerance, NOT_PUBLISHED, why=_missing(task, published))
    verdict, why = _judge(result.compared, tolerance, found)
    notes = tuple(known_differences(result, found.entry, made))
    return Row(result, found.score, tolerance, verdict, found.source, why, notes, found.entry.revision)


def _judge(ours: float, tolerance: float, found: Found) -> tuple[Verdict, str]:
    if found.other:
        return OTHER_DATA, found.other
    if abs(ours - found.score) <= tolerance + _ROUNDING:
        return EQUAL, found.remark
    # Also where the data's revisions differ, which a note says: most revisions changed files, not texts, and a lost
    # token must not pass for other data.
    return DIFFERS, found.remark


def find(task: Task, published: Sequence[Published]) -> Found | None:
    """The published score of a task: of its split and subset if a source has one, else of another. None: there is none.

    A task of parts for which a source has no score of its own has the mean of its parts', if all are there.
    """
    fallback = None
    for own in published:
        found = _in(task, own) or _mean_of_parts(task, own)
        if found and not found.other:
            return found
        fallback = fallback or found
    return fallback


def _in(task: Task, own: Published) -> Found | None:
    scored = [(score, entry) for entry in own.of(task.name) if (score := main_score(task, entry.scores)) is not None]
    same = [(score, entry) for score, entry in scored if _is_of(task, entry)]
    if same:
        named = {task.revision, task.published_revision} - {None}
        best = next((found for found in same if found[1].revision in named), same[0])
        others = sorted({score for score, _ in same if abs(score - best[0]) > _SAME})
        remark = ""
        if others:
            listed = ", ".join(f"{100 * score:.2f}" for score in others)
            remark = f"{task.name}: {own.source} also has {listed} for the same split; {100 * best[0]:.2f} was taken."
        return Found(*best, own.source, remark=remark)
    if not scored:
        return None
    score, entry = scored[0]
    of = ", ".join(dict.fromkeys(_data(entry.split, entry.subset) for _, entry in scored))
    other = f"{task.name}: {own.source} has a score of {of}; the task is {_data(task.split, task.subset)}."
    return Found(score, entry, own.source, other)


def _is_of(task: Task, entry: PublishedTask) -> bool:
    return entry.split in (None, task.split) and entry.subset in (None, task.subset)


def _data(split: str | None, subset: str | None) -> str:
    return f"split {split or 'unknown'}" + (f", subset {subset}" if subset not in (None, "default") else "")


def _mean_of_parts(task: Task, own: Published) -> Found | None:
    """mteb names a part CQADupstackAndroidRetrieval, and the whole CQADupstackRetrieval."""
    stem = task.name.removesuffix("Retrieval")
    ending = task.name.removeprefix(stem)
    parts = [_in(task.model_copy(update={"name": f"{stem}{part.capitalize()}{ending}"}), own) for part in task.parts]
    found = [part for part in parts if part is not None and not part.other]
    if not found or len(found) < len(parts):
        return None
    whole = PublishedTask(task.name, task.split, task.subset, None, {})
    return Found(statistics.fmean(part.score for part in found), whole, own.source)


def _missing(task: Task, published: Sequence[Published]) -> str:
    for own in published:
        for entry in own.of(task.name):
            return f"{task.name}: {own.source} has no {task.main_score} of it, only {', '.join(sorted(entry.scores))}."
    return ""


@dataclass(frozen=True, slots=True)
class Average:
    """A mean over tasks. Fractions."""

    type: str | None
    """Of the tasks; None: of all types."""
    tasks: int
    """Over how many tasks."""
    ours: float
    """Of a score over several seeds their mean is in it."""
    published: float | None
    """Over the same tasks; None unless there is a comparable score of each."""


def averages(rows: Sequence[Row]) -> list[Average]:
    """The mean of each type of task, in the order of MAIN_SCORES, and the one over all tasks, each task counting once.

    Where a published score is missing for some tasks, there is a second mean, over those that have one.
    """
    found = []
    for kind in (*MAIN_SCORES, None):
        own = [row for row in rows if kind in (None, row.task.type)]
        both = [row for row in own if row.comparable]
        if own and len(both) < len(own):
            found.append(Average(kind, len(own), _mean([row.result.compared for row in own]), None))
        if both:
            theirs = _mean([row.published for row in both if row.published is not None])
            found.append(Average(kind, len(both), _mean([row.result.compared for row in both]), theirs))
    return found


def published_averages(tasks: Sequence[Task], published: Sequence[Published]) -> dict[str | None, tuple[float, int]]:
    """Of published scores alone, by type of task and over all (None): the mean as a fraction, and over how many tasks.

    The 56 tasks of mteb-english-v1.yaml give the averages by which models are ranked.
    """
    scores: dict[str | None, list[float]] = {kind: [] for kind in (*MAIN_SCORES, None)}
    for task in tasks:
        found = find(task, published)
        if found and not found.other:
            scores[task.type].append(found.score)
            scores[None].append(found.score)
    return {kind: (_mean(values), len(values)) for kind, values in scores.items() if values}


def _mean(values: Sequence[float]) -> float:
    return statistics.fmean(values)
