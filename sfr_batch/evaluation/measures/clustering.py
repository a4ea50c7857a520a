"""Clustering: V-measure of mini-batch k-means against labels. Knows vectors and labels.

As mteb 2.26's AbsTaskClusteringLegacy (each set as a whole) and AbsTaskClustering (ten samples of all texts).
"""

from collections.abc import Iterator, Sequence
from random import Random

import numpy as np

from sfr_batch.table.nearest import FloatArray

SEED = 42
SAMPLES, SAMPLE_SIZE = 10, 16_384
"""How many samples there are, and the texts of each, drawn with replacement."""


def v_measure_of_set(vectors: FloatArray, labels: Sequence[str]) -> float:
    """The V-measure of one set, clustered as a whole. vectors: [n, d]; labels: [n]. 1 if all labels are equal."""
    from sklearn.cluster import MiniBatchKMeans
    from sklearn.metrics import v_measure_score

    clusters = len({*labels})
    if clusters == 1:
        return 1.0
    model = MiniBatchKMeans(n_clusters=clusters, batch_size=500, n_init="auto", random_state=SEED)
    return float(v_measure_score(labels, model.fit(vectors).labels_))


def drawn(count: int, max_texts: int | None) -> list[int]:
    """The texts of ``count`` that samples are made of, in their order: all, or ``max_texts`` that are drawn."""
    return _drawn(count, max_texts)[0]


def v_measures_of_samples(vectors: FloatArray, labels: Sequence[str], count: int, max_texts: int | None) -> list[float]:
    """The V-measure of each sample. vectors: [n, d], labels: [n], both of the texts `drawn` from ``count``."""
    return list(_of_samples(vectors, labels, _drawn(count, max_texts)[1]))


def _of_samples(vectors: FloatArray, labels: Sequence[str], random: Random) -> Iterator[float]:
    from sklearn.cluster import MiniBatchKMeans
    from sklearn.metrics import v_measure_score

    codes = np.unique(np.asarray(labels), return_inverse=True)[1]
    model = MiniBatchKMeans(n_clusters=codes.max() + 1, batch_size=512, n_init=1, random_state=SEED)
    for _ in range(SAMPLES):
        rows = random.choices(range(len(codes)), k=SAMPLE_SIZE)
        yield float(v_measure_score(codes[rows], model.fit_predict(vectors[rows])))


def _drawn(count: int, max_texts: int | None) -> tuple[list[int], Random]:
    """With the state of the generator, which goes on to draw the samples."""
    random = Random(SEED)
    if max_texts is None:
        return list(range(count)), random
    return random.sample(range(count), k=min(count, max_texts)), random


def score_clustering(v_measures: Sequence[float]) -> dict[str, float]:
    """``v_measure``: the mean over sets or samples; ``v_measure_std``: their standard deviation."""
    return {"v_measure": float(np.mean(v_measures)), "v_measure_std": float(np.std(v_measures))}
