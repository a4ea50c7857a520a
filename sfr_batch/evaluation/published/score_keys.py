"""The names and the scale of published scores. Cards and versions of mteb spell one measure in several ways and give
fractions or percent; here they become the keys of `TaskResult.scores`, and fractions.

Knows no file and no task.
"""

import math
import re
from collections.abc import Mapping, Sequence

from sfr_batch.evaluation.task_files import MAIN_SCORES, RERANKING, Task

MAIN = "main_score"
"""The key under which mteb repeats the score that stands for a task, whichever it is."""

_DISTANCES = ("cos_sim", "dot", "euclidean", "manhattan")
_OF_PAIRS = "accuracy|ap|f1|precision|recall|pearson|spearman|mcc"
_KNOWN = re.compile(
    rf"{MAIN}|accuracy|ap|f1|precision|recall|map|mrr|v_measure|pearson|spearman|(ap|f1|recall|precision)_weighted"
    r"|(ndcg|map|recall|precision|mrr|accuracy|hit_rate)_at_\d+"
    rf"|({'|'.join(_DISTANCES)}|max|similarity)_({_OF_PAIRS})"
)
"""Measures that lie in -1 to 1. Thresholds, times and nAUC, which cards have, too, have scales of their own."""
_OF_LIBRARY = re.compile(rf"(pearson|spearman)_({'|'.join(_DISTANCES)}|max)")
_SLACK = 1e-4


def known_key(name: str) -> str | None:
    """The key of a measure: cosine_spearman and spearman_cosine are cos_sim_spearman. None: it is no known measure."""
    key = name.strip().lower().replace(" ", "_").replace("@", "_at_").replace("cosine", "cos_sim")
    key = re.sub(r"^dot_(product|score)_", "dot_", key)
    key = re.sub(r"^cos_sim_((?:ndcg|map|mrr|recall|precision|accuracy)_at_)", r"\1", key)
    if found := _OF_LIBRARY.fullmatch(key):
        key = f"{found[2]}_{found[1]}"
    return key if _KNOWN.fullmatch(key) else None


def number(value: object) -> float | None:
    """A score as it stands in a card or in JSON, as text or as a number; None if it is none, or not finite."""
    if isinstance(value, bool) or not isinstance(value, str | int | float):
        return None
    try:
        found = float(value.strip().removesuffix("%").replace(",", ".") if isinstance(value, str) else value)
    except (ValueError, OverflowError):
        return None
    return found if math.isfinite(found) else None


def is_percent(groups: Sequence[Mapping[str, float]]) -> bool:
    """Whether scores that were written by one hand are percent: one of them is above 1.

    A whole card or file is looked at, for a single score may be 0.7 %.
    """
    return any(abs(value) > 1 + _SLACK for scores in groups for value in scores.values())


def is_score(value: float, unit: float) -> bool:
    """Whether a figure can be a score at all. unit: 100 of percent, 1 of fractions."""
    return abs(value) <= unit * (1 + _SLACK)


def main_score(task: Task, scores: Mapping[str, float]) -> float | None:
    """The published score to lay beside the main score of a task; None if it is not among ``scores``.

    Scores go by several keys: since 2.0 mteb calls the ``map`` of reranking map_at_1000, its ``mrr`` mrr_at_10; the
    maximum over similarities may be left to the reader.
    """
    key = task.main_score
    keys = [key]
    if task.type == RERANKING:
        keys += {"map": ["map_at_1000"], "mrr": ["mrr_at_10"]}.get(key, [])
    if key == MAIN_SCORES[task.type]:
        keys.append(MAIN)
    for name in keys:
        if name in scores:
            return scores[name]
    each = [scores.get(key.replace("max_", f"{distance}_")) for distance in _DISTANCES]
    found = [value for value in each if value is not None]
    return max(found) if key.startswith("max_") and len(found) == len(_DISTANCES) else None
