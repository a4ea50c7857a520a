"""A data set of texts that are compared with each other, or with labels: all types of tasks but retrieval.

Joins its data, its prompts and the vectors of its texts; how scores are made of them is `scoring`'s.
"""

import math
from collections.abc import Callable, Iterator, Mapping, Sequence

from sfr_batch.config.settings import StorageSettings
from sfr_batch.errors import CorpusError
from sfr_batch.evaluation import scoring
from sfr_batch.evaluation.data import sets
from sfr_batch.evaluation.parts import Scored
from sfr_batch.evaluation.production import Production
from sfr_batch.evaluation.task_files import (
    CLASSIFICATION,
    CLUSTERING,
    PAIR_CLASSIFICATION,
    RERANKING,
    STS,
    SUMMARIZATION,
    Task,
)
from sfr_batch.table.nearest import FloatArray
from sfr_batch.table.table import Snapshot

_READERS: Mapping[str, Callable[[Task, str, StorageSettings], scoring.Data]] = {
    STS: sets.read_pairs,
    PAIR_CLASSIFICATION: sets.read_pairs,
    CLASSIFICATION: sets.read_classes,
    CLUSTERING: sets.read_clusters,
    RERANKING: sets.read_rerankings,
    SUMMARIZATION: sets.read_summaries,
}
_UNNORMALIZED = "Classified by the vectors before they are normalized (evaluation.unnormalized)."
_NO_NUMBER = "No number: the similarities are all equal, so they follow no judgement. Check the columns of the data."


class TextsPart:
    """See `parts.Part`. The data are read once more when they are scored: those of many tasks take gigabytes."""

    def __init__(self, task: Task, path: str, production: Production) -> None:
        """Raises CorpusError."""
        self.path = path
        self._task = task
        self._production = production
        self.version = self._read().version

    def texts(self) -> Iterator[str]:
        for texts, instructed in scoring.texts_of(self._task, self._read()):
            yield from self._prompted(texts, instructed)

    def score(self, texts: Snapshot, key: str) -> Scored:
        """See `parts.Part`. Raises what `embed` raises, and ConfigError if a library of the measures is missing."""
        data = self._read()
        if data.version != self.version:
            raise CorpusError(f"{self.path} has changed while it was evaluated. Run the command again.")
        found = self._production.vectors(texts, self.texts())
        raw = self._production.config.evaluation.unnormalized and self._task.type == CLASSIFICATION
        scores = scoring.score(
            self._task,
            data,
            lambda texts, instructed: found(self._prompted(texts, instructed)),
            self._unnormalized if raw else None,
        )
        remarks = [_UNNORMALIZED] if raw else []
        remarks += [_NO_NUMBER] if math.isnan(scores.get(self._task.main_score, 0.0)) else []
        return Scored(scores, {"texts": len(found)}, tuple(remarks))

    def _read(self) -> scoring.Data:
        return _READERS[self._task.type](self._task, self.path, self._production.config.corpus.storage)

    def _prompted(self, texts: Sequence[str], instructed: bool) -> list[str]:
        prompts = self._production.prompts
        prompt = prompts.instructed(self._task) if instructed else prompts.document
        return [prompt + text for text in texts]

    def _unnormalized(self, texts: Sequence[str], instructed: bool) -> FloatArray:
        return self._production.encoder.encode(self._prompted(texts, instructed), normalize=False)
