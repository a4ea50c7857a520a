"""Similarities of pairs of vectors: cosine, dot product, and negative Manhattan and Euclidean distances.

Knows vectors only. By scikit-learn in float32, as mteb's evaluators of STS and of pair classification have them.
"""

from collections.abc import Mapping

import numpy as np
from numpy.typing import NDArray

from sfr_batch.table.nearest import FloatArray

COSINE, DOT, MANHATTAN, EUCLIDEAN = "cos_sim", "dot", "manhattan", "euclidean"
"""The similarities, by the names in keys of model cards."""


def similarities(first: FloatArray, second: FloatArray) -> Mapping[str, NDArray[np.floating]]:
    """The similarities [n] of each pair, by name; a larger one always means more similar. first, second: [n, d]."""
    from sklearn.metrics.pairwise import (
        paired_cosine_distances,
        paired_euclidean_distances,
        paired_manhattan_distances,
    )

    first, second = np.asarray(first, np.float32), np.asarray(second, np.float32)
    return {
        COSINE: 1 - paired_cosine_distances(first, second),
        DOT: np.array([np.dot(one, two) for one, two in zip(first, second, strict=True)], np.float32),
        MANHATTAN: -paired_manhattan_distances(first, second),
        EUCLIDEAN: -paired_euclidean_distances(first, second),
    }
