"""What an evaluation found: the scores of each task, and what they were made with. Plain values.

Knows no published score (`published`) and makes no scores (`scoring`, `measures`).
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, NamedTuple

from sfr_batch.evaluation.task_files import Task


class OverSeeds(NamedTuple):
    """A score that is a random draw, over several seeds. Fractions."""

    mean: float
    std: float
    """The standard deviation of the score from seed to seed."""


@dataclass(frozen=True, slots=True)
class TaskResult:
    """The scores of a model in one task."""

    task: Task
    scores: Mapping[str, float]
    """By the keys that model cards use, such as ndcg_at_10. Fractions in 0 to 1 (correlations in -1 to 1), as in the
    result files of mteb; model cards show them times 100."""
    data: str
    """URI of the data set."""
    version: str
    """Of the data: a hash of all that was read, see `evaluation/README.md`."""
    prompts: Mapping[str, str]
    """The text before each kind of text: queries and documents of retrieval and reranking, else texts. Empty: none."""
    counts: Mapping[str, int]
    """What was scored, such as {documents: 5183, queries: 300}."""
    parts: Mapping[str, Mapping[str, float]] = field(default_factory=dict)
    """The scores of each part of a task that has parts; ``scores`` are their means."""
    remarks: tuple[str, ...] = ()
    """Sentences on what a reader should know, such as rejected documents."""
    files: Mapping[str, str] = field(default_factory=dict)
    """Where things are kept, by what they are: table, run, qrels, queries (the scores of each)."""

    @property
    def main_score(self) -> float:
        """The score that stands for the task."""
        return self.scores[self.task.main_score]

    @property
    def over_seeds(self) -> OverSeeds | None:
        """The main score over several seeds; None of one that is no draw, or was drawn once."""
        mean, std = (self.scores.get(f"{self.task.main_score}_seeds_{what}") for what in ("mean", "std"))
        return None if mean is None or std is None else OverSeeds(mean, std)

    @property
    def compared(self) -> float:
        """What is compared with a published score, whose draws are others: the mean over seeds, if there is one."""
        return self.over_seeds.mean if self.over_seeds else self.main_score


@dataclass(frozen=True, slots=True)
class Made:
    """With what all scores of one report were made."""

    model: str
    """`model.path`."""
    fingerprint: str
    """Of what makes a vector but for prompts, chunks and the dtype in a table: rows of one report share it."""
    inputs: Mapping[str, Any]
    """What the fingerprint is made of, short enough to read: pooling, max_length, dtype, hashes of the weights."""
    versions: Mapping[str, str]
    """Of the libraries that compute vectors and scores."""
