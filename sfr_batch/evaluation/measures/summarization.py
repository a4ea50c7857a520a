"""Summarization: whether summaries nearer to those of people are those that people found better. Knows vectors.

As mteb 2.26's SummarizationEvaluator: a machine's summary is as good as its similarity to the nearest human one; the
score is the mean over texts of the correlation with the judgements.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from sfr_batch.evaluation.measures.pairs import COSINE, DOT
from sfr_batch.table.nearest import FloatArray


@dataclass(frozen=True, slots=True)
class Judged:
    """The vectors of the summaries of one text, and the judgements."""

    human: FloatArray
    machine: FloatArray
    relevance: Sequence[float]


def score_summaries(rows: Sequence[Judged], *, p_values: bool = False) -> dict[str, float]:
    """``cos_sim_spearman``, ``cos_sim_pearson`` and those of ``dot``, by scipy: means over texts.

    Texts are left out whose judgements or similarities are all equal; if they all are, scores are NaN. p_values: the
    mean is over correlations and p-values, as in mteb's DeprecatedSummarizationEvaluator.
    """
    from scipy.stats import pearsonr, spearmanr

    found: dict[str, list[float]] = {f"{name}_{kind}": [] for name in (COSINE, DOT) for kind in ("pearson", "spearman")}
    for row in rows:
        of_row = {COSINE: _nearest(_unit(row.machine), _unit(row.human)), DOT: _nearest(row.machine, row.human)}
        if any(len({*values}) == 1 for values in (row.relevance, *of_row.values())):
            continue
        for name, values in of_row.items():
            for kind, measure in (("pearson", pearsonr), ("spearman", spearmanr)):
                statistic, p_value = measure(row.relevance, values)
                found[f"{name}_{kind}"] += [statistic, p_value] if p_values else [statistic]
    return {key: float(np.mean(values)) if values else float("nan") for key, values in found.items()}


def _nearest(machine: FloatArray, human: FloatArray) -> list[float]:
    """One product after the other: a product of matrices rounds equal rows differently, and equal summaries tie."""
    people = np.asarray(human, np.float32)
    return [float((people @ one).max()) for one in np.asarray(machine, np.float32)]


def _unit(vectors: FloatArray) -> FloatArray:
    lengths = np.linalg.norm(vectors, axis=1, keepdims=True).astype(np.float32)
    found: FloatArray = np.asarray(vectors, np.float32) / np.maximum(lengths, np.float32(1e-12))
    return found
