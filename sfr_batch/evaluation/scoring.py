"""From the vectors of texts to scores, for all types of tasks but retrieval: which texts, and which measure.

Knows data sets and measures; knows neither where vectors come from nor where scores go.
"""

from collections.abc import Callable, Iterable, Iterator, Sequence
from itertools import chain

import numpy as np

from sfr_batch.evaluation.data.sets import Candidates, Classes, Clusters, Labelled, Pairs, Rerankings, SummarySet
from sfr_batch.evaluation.measures import classification, clustering, reranking, summarization
from sfr_batch.evaluation.measures.libraries import need_libraries
from sfr_batch.evaluation.measures.pair_classification import score_pair_classification
from sfr_batch.evaluation.measures.retrieval import RankingScores
from sfr_batch.evaluation.measures.sts import score_sts
from sfr_batch.evaluation.task_files import ALL, PAIR_CLASSIFICATION, SAMPLES, Task
from sfr_batch.table.nearest import FloatArray

Data = Pairs | Classes | Clusters | Rerankings | SummarySet
"""The data sets that are scored here."""

Vectors = Callable[[Sequence[str], bool], FloatArray]
"""Gives the vectors [n, d] of texts, float32 of length 1. The flag: with the task's instruction."""

_ROWS_AT_ONCE = 256
"""Rows of reranking whose vectors are asked for together."""


def texts_of(task: Task, data: Data) -> Iterator[tuple[Sequence[str], bool]]:
    """All texts that need a vector, in pieces, each with whether they get the instruction.

    They are those that `score` asks for, in the same pieces: of a training split and of texts that are clustered in
    samples only those that are drawn. A text may occur more than once.
    """
    instructed = task.instructed == ALL
    match data:
        case Pairs():
            yield data.first, instructed
            yield data.second, instructed
        case Classes():
            yield _learned(task, data), instructed
            yield data.test.texts, instructed
        case Clusters():
            for part in _clustered(task, data):
                yield part.texts, instructed
        case Rerankings():
            for rows in _blocks(data):
                yield _queries(rows), True
                yield _candidates(rows), instructed
        case SummarySet():
            yield _all(row.human for row in data.rows), instructed
            yield _all(row.machine for row in data.rows), instructed


def score(task: Task, data: Data, vectors: Vectors, raw: Vectors | None = None) -> dict[str, float]:
    """The scores of a task, by the keys of model cards: fractions in 0 to 1, correlations in -1 to 1.

    vectors: of the texts that `texts_of` gives, asked for in the same pieces. raw: those of classification, where they
    shall not have length 1. A score is NaN where it is not defined, such as the correlation of similarities that are
    all equal. Raises ConfigError if a library of the measures is missing.
    """
    need_libraries()
    instructed = task.instructed == ALL
    match data:
        case Pairs():
            measure = score_pair_classification if task.type == PAIR_CLASSIFICATION else score_sts
            return measure(vectors(data.first, instructed), vectors(data.second, instructed), data.scores)
        case Classes():
            return _score_classes(task, data, raw or vectors)
        case Clusters():
            return _score_clusters(task, data, vectors)
        case Rerankings():
            return reranking.means([_score_candidates(rows, vectors, instructed) for rows in _blocks(data)])
        case SummarySet():
            return _score_summaries(task, data, vectors)


def _score_classes(task: Task, data: Classes, vectors: Vectors) -> dict[str, float]:
    instructed = task.instructed == ALL
    return classification.score_classification(
        vectors(_learned(task, data), instructed),
        data.train.labels,
        vectors(data.test.texts, instructed),
        data.test.labels,
        classification.draws(data.train.labels, task.samples_per_label),
    )


def _learned(task: Task, data: Classes) -> Sequence[str]:
    """The texts of the training split that some experiment draws."""
    rows = classification.used(classification.draws(data.train.labels, task.samples_per_label))
    return [data.train.texts[row] for row in rows]


def _score_clusters(task: Task, data: Clusters, vectors: Vectors) -> dict[str, float]:
    instructed = task.instructed == ALL
    parts = ((part.labels, vectors(part.texts, instructed)) for part in _clustered(task, data))
    if task.clustering == SAMPLES:
        ((labels, found),) = parts
        count = sum(len(part.texts) for part in data.sets)
        return clustering.score_clustering(clustering.v_measures_of_samples(found, labels, count, task.max_texts))
    seeds = clustering.seeds_for(sum(len(part.texts) for part in data.sets))
    return clustering.score_clustering([clustering.v_measures_of_set(found, labels, seeds) for labels, found in parts])


def _clustered(task: Task, data: Clusters) -> Sequence[Labelled]:
    """The sets that are clustered; of samples it is one: those texts of all sets that are drawn."""
    if task.clustering != SAMPLES:
        return data.sets
    texts = _all(part.texts for part in data.sets)
    labels = _all(part.labels for part in data.sets)
    rows = clustering.drawn(len(texts), task.max_texts)
    return [Labelled([texts[row] for row in rows], [labels[row] for row in rows])]


def _score_candidates(rows: Sequence[Candidates], vectors: Vectors, instructed: bool) -> RankingScores:
    queries = vectors(_queries(rows), True)
    candidates = vectors(_candidates(rows), instructed)
    of_queries = _split(queries, [len(row.queries) for row in rows])
    of_candidates = _split(candidates, [len(row.positive) + len(row.negative) for row in rows])
    return reranking.score_candidates(
        [
            reranking.Candidacy(asked, found, len(row.positive))
            for asked, found, row in zip(of_queries, of_candidates, rows, strict=True)
        ]
    )


def _queries(rows: Sequence[Candidates]) -> Sequence[str]:
    return _all(row.queries for row in rows)


def _candidates(rows: Sequence[Candidates]) -> Sequence[str]:
    return _all([*row.positive, *row.negative] for row in rows)


def _score_summaries(task: Task, data: SummarySet, vectors: Vectors) -> dict[str, float]:
    instructed = task.instructed == ALL
    human = vectors(_all(row.human for row in data.rows), instructed)
    machine = vectors(_all(row.machine for row in data.rows), instructed)
    of_human = _split(human, [len(row.human) for row in data.rows])
    of_machine = _split(machine, [len(row.machine) for row in data.rows])
    rows = [
        summarization.Judged(by_people, by_machines, row.relevance)
        for by_people, by_machines, row in zip(of_human, of_machine, data.rows, strict=True)
    ]
    return summarization.score_summaries(rows, p_values=task.p_values)


def _split(vectors: FloatArray, counts: Sequence[int]) -> Sequence[FloatArray]:
    """The vectors of each row, of which there are ``counts``."""
    return np.split(vectors, np.cumsum(counts)[:-1])


def _blocks(data: Rerankings) -> Iterator[Sequence[Candidates]]:
    yield from (data.rows[start : start + _ROWS_AT_ONCE] for start in range(0, len(data.rows), _ROWS_AT_ONCE))


def _all(texts: Iterable[Sequence[str]]) -> Sequence[str]:
    return [*chain.from_iterable(texts)]
