"""What an evaluation does with one data set of a task, as a protocol. A task has one, or one for each of its parts.

Knows no type of task: `retrieval_part` and `texts_part` are the two kinds.
"""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Protocol

from sfr_batch.table.table import Snapshot


@dataclass(frozen=True, slots=True)
class Scored:
    """The scores of one data set; the fields are those of `results.TaskResult`."""

    scores: Mapping[str, float]
    counts: Mapping[str, int]
    remarks: tuple[str, ...] = ()
    files: Mapping[str, str] = field(default_factory=dict)


class Part(Protocol):
    """One data set of a task, whose data have been read and found right."""

    version: str
    """Of the data."""
    path: str

    def texts(self) -> Iterator[str]:
        """The texts whose vectors `score` needs from the table of texts, with their prompts; each time the same."""
        ...

    def score(self, texts: Snapshot, key: str) -> Scored:
        """Make the scores. texts: the table of texts. key: the beginning of the names of further files."""
        ...
