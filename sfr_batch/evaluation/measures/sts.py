"""STS: how well similarities of pairs follow those that people gave. Knows vectors and numbers.

As mteb 2.26's AbsTaskSTS.
"""

import warnings
from collections.abc import Sequence

from sfr_batch.evaluation.measures.pairs import COSINE, EUCLIDEAN, MANHATTAN, similarities
from sfr_batch.table.nearest import FloatArray


def score_sts(first: FloatArray, second: FloatArray, scores: Sequence[float]) -> dict[str, float]:
    """Pearson's and Spearman's correlations by scipy, such as ``cos_sim_spearman``, in -1 to 1.

    first, second: [n, d] vectors of each pair; scores: [n], by people. NaN if all similarities are equal.
    """
    from scipy.stats import ConstantInputWarning, NearConstantInputWarning, pearsonr, spearmanr

    found = similarities(first, second)
    with warnings.catch_warnings():  # a report says that a score is no number
        warnings.simplefilter("ignore", ConstantInputWarning)
        warnings.simplefilter("ignore", NearConstantInputWarning)
        return {
            f"{name}_{measure.__name__.removesuffix('r')}": float(measure(scores, found[name].tolist())[0])
            for name in (COSINE, EUCLIDEAN, MANHATTAN)
            for measure in (pearsonr, spearmanr)
        }
