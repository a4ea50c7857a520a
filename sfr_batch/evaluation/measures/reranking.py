"""Reranking: the order into which similarities to a query put its candidates. Knows vectors and counts.

As mteb: of several texts of one query, the most similar one counts for each candidate. `map` and `mrr` are the measures
that model cards have: MRR is that of the first 10.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from sfr_batch.evaluation.measures.retrieval import RankingScores, score_ranking
from sfr_batch.evaluation.ranking import Ranked, ranked
from sfr_batch.table.nearest import FloatArray

CUT_OFFS = (10, 1000)
KEYS = {"map": "map_at_1000", "mrr": "mrr_at_10"}
"""Keys of model cards, by the measures that they are; mteb 2 has the latter, too."""


@dataclass(frozen=True, slots=True)
class Candidacy:
    """The vectors of one query and its candidates."""

    queries: FloatArray
    """[q, d], of all texts that ask for the same."""
    candidates: FloatArray
    """[p + n, d], the positive ones first."""
    positives: int


def score_candidates(rows: Sequence[Candidacy]) -> RankingScores:
    """The measures of each row. Of equally similar candidates a negative one comes first, as in mteb 2."""
    ranking = {str(row): _order(given) for row, given in enumerate(rows)}
    qrels = {
        str(row): {str(number): int(number < given.positives) for number in range(len(given.candidates))}
        for row, given in enumerate(rows)
    }
    return score_ranking(ranking, qrels, CUT_OFFS)


def means(scores: Sequence[RankingScores]) -> dict[str, float]:
    """The means over all rows: those of `score_ranking` at 10 and 1,000, and ``map`` and ``mrr``."""
    values = np.concatenate([part.values for part in scores])
    found = RankingScores([], scores[0].names, values).means
    return {key: found[measure] for key, measure in KEYS.items()} | found


def _order(given: Candidacy) -> Ranked:
    queries, candidates = np.asarray(given.queries, np.float32), np.asarray(given.candidates, np.float32)
    similar = (candidates @ queries.T).max(axis=1)
    best = len(similar) - 1 - np.argsort(-similar[::-1], kind="stable")
    return ranked([str(number) for number in best], similar[best])
