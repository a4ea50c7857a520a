"""Pair classification: how well similarities tell pairs that belong together from others. Knows vectors and labels.

As mteb 2.26's AbsTaskPairClassification: average precision, and the best accuracy and F1 of any threshold.
"""

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from sfr_batch.evaluation.measures.pairs import similarities
from sfr_batch.table.nearest import FloatArray

BEST = ("accuracy", "ap", "f1")
"""The measures of which the best similarity's is given too, as ``max_ap``."""


def score_pair_classification(first: FloatArray, second: FloatArray, labels: Sequence[float]) -> dict[str, float]:
    """``cos_sim_ap`` and others: accuracy, ap, f1, precision and recall of each similarity, and ``max_…``.

    first, second: [n, d] vectors of each pair; labels: [n], 1 for a pair that belongs together and 0 for another; both
    occur. Precision and recall are those at the threshold of the best F1.
    """
    truth = np.asarray(labels, np.int64)
    found = {name: _of_threshold(values, truth) for name, values in similarities(first, second).items()}
    scores = {f"{name}_{key}": value for name, values in found.items() for key, value in values.items()}
    return scores | {f"max_{key}": max(values[key] for values in found.values()) for key in BEST}


def _of_threshold(values: NDArray[np.floating], truth: NDArray[np.int64]) -> dict[str, float]:
    """A threshold lies between two neighbours with different similarities; above it, pairs are said to belong together.

    As in mteb, not all pairs are on one side of it.
    """
    from sklearn.metrics import average_precision_score

    order = np.argsort(-values, kind="stable")
    falling, hits = values[order], np.cumsum(truth[order])[:-1]
    said = np.arange(1, len(truth))
    rejected = np.sum(truth == 0) - (said - hits)
    possible = falling[:-1] != falling[1:]
    accuracy = np.where(possible, (hits + rejected) / len(truth), 0)
    precision, recall = hits / said, hits / truth.sum()
    f1 = np.zeros(len(said))
    np.divide(2 * precision * recall, precision + recall, out=f1, where=possible & (hits > 0))
    best = int(np.argmax(f1)) if len(f1) else 0
    met = bool(len(f1)) and f1[best] > 0
    return {
        "accuracy": float(accuracy.max(initial=0)),
        "ap": float(average_precision_score(truth, values)),
        "f1": float(f1[best]) if met else 0.0,
        "precision": float(precision[best]) if met else 0.0,
        "recall": float(recall[best]) if met else 0.0,
    }
