"""Retrieval: nDCG, MAP, recall, precision and MRR of a ranking, by pytrec_eval. Knows ids, scores and grades.

As mteb's retrieval_metrics and BEIR, with all cut-offs that model cards have. A relevant document has a grade of 1 or
more.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from sfr_batch.evaluation.measures.libraries import need_libraries
from sfr_batch.evaluation.ranking import Qrels, Ranking

CUT_OFFS = (1, 2, 3, 5, 7, 10, 20, 30, 50, 70, 100, 200, 300, 500, 700, 1000)
"""Those of the retrieval tasks on model cards."""

_OF_TREC = {"ndcg": "ndcg_cut", "map": "map_cut", "recall": "recall", "precision": "P"}
"""trec_eval's names of measures, by those in keys of model cards. MRR is made of its recip_rank."""
_QUERIES_AT_ONCE = 256
"""trec_eval takes dictionaries, about 100 bytes for each ranked document: these queries are in memory at a time."""


@dataclass(frozen=True, slots=True)
class RankingScores:
    """The measures of a ranking, by query."""

    queries: Sequence[str]
    """[q] ids, in the order of the judgements."""
    names: Sequence[str]
    """[m] such as ``ndcg_at_10``."""
    values: NDArray[np.float64]
    """[q, m], in 0 to 1."""

    @property
    def means(self) -> dict[str, float]:
        """The mean over queries of each measure, by name."""
        return dict(zip(self.names, self.values.mean(axis=0).tolist(), strict=True))


def score_ranking(ranking: Ranking, qrels: Qrels, cut_offs: Sequence[int] = CUT_OFFS) -> RankingScores:
    """The measures of a ranking at all cut-offs, of each query that has judgements; one without documents has 0.

    The order of the documents is that of their scores, which differ. Raises ConfigError if pytrec_eval is missing.
    """
    need_libraries()
    names = [f"{name}_at_{k}" for name in (*_OF_TREC, "mrr") for k in cut_offs]
    queries = list(qrels)
    values = np.zeros((len(queries), len(names)))
    evaluator = _evaluator(qrels, cut_offs)
    for start in range(0, len(queries), _QUERIES_AT_ONCE):
        asked = queries[start : start + _QUERIES_AT_ONCE]
        found = evaluator.evaluate(_run(ranking, asked))
        for row, query in enumerate(asked, start):
            if query in found:
                values[row] = _values(found[query], cut_offs)
    return RankingScores(queries, names, values)


def _evaluator(qrels: Qrels, cut_offs: Sequence[int]) -> Any:
    from pytrec_eval import RelevanceEvaluator

    cuts = ",".join(map(str, cut_offs))
    measures = {f"{measure}.{cuts}" for measure in _OF_TREC.values()} | {"recip_rank"}
    return RelevanceEvaluator({query: dict(grades) for query, grades in qrels.items()}, measures)


def _run(ranking: Ranking, queries: Sequence[str]) -> dict[str, dict[str, float]]:
    """Rankings as trec_eval takes them; without those that have no document, on which it has no opinion."""
    return {
        query: dict(zip(found.documents, found.scores.tolist(), strict=True))
        for query in queries
        if (found := ranking.get(query)) and found.documents
    }


def _values(found: Mapping[str, float], cut_offs: Sequence[int]) -> list[float]:
    first = found["recip_rank"]
    values = [found[f"{measure}_{k}"] for measure in _OF_TREC.values() for k in cut_offs]
    return values + [first if first and round(1 / first) <= k else 0.0 for k in cut_offs]
