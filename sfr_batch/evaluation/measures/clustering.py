"""Clustering: V-measure of mini-batch k-means against labels. Knows vectors and labels.

As mteb 2.26's AbsTaskClusteringLegacy (each set as a whole) and AbsTaskClustering (ten samples of all texts). A score
with mteb's seed is one draw of where k-means starts; it is repeated with others, unless there are too many texts.
"""

from collections.abc import Iterator, Sequence
from random import Random

import numpy as np

from sfr_batch.table.nearest import FloatArray

SEED = 42
"""Of mteb. It draws the samples, too, which are the same for all seeds of k-means."""
SEEDS = tuple(range(10))
"""Of k-means, to tell what the score is on average and how much of it is chance."""
SAMPLES, SAMPLE_SIZE = 10, 16_384
"""How many samples there are, and the texts of each, drawn with replacement."""
MOST_REPEATED = SAMPLES * SAMPLE_SIZE
"""Texts of sets that are clustered as a whole: more take longer than samples. They lie in dozens of sets with a draw
each, so that the mean depends on the seed little."""


def seeds_for(texts: int) -> tuple[int, ...]:
    """The seeds with which sets of so many texts in all are clustered as a whole: SEED, and SEEDS unless too many."""
    return (SEED, *SEEDS) if texts <= MOST_REPEATED else (SEED,)


def v_measures_of_set(vectors: FloatArray, labels: Sequence[str], seeds: Sequence[int]) -> list[float]:
    """The V-measure of one set by seed, clustered as a whole. vectors: [n, d]; labels: [n]. 1 of equal labels."""
    from sklearn.cluster import MiniBatchKMeans
    from sklearn.metrics import v_measure_score

    clusters = len({*labels})
    if clusters == 1:
        return [1.0] * len(seeds)
    models = (MiniBatchKMeans(n_clusters=clusters, batch_size=500, n_init="auto", random_state=seed) for seed in seeds)
    return [float(v_measure_score(labels, model.fit(vectors).labels_)) for model in models]


def drawn(count: int, max_texts: int | None) -> list[int]:
    """The texts of ``count`` that samples are made of, in their order: all, or ``max_texts`` that are drawn."""
    return _drawn(count, max_texts)[0]


def v_measures_of_samples(
    vectors: FloatArray, labels: Sequence[str], count: int, max_texts: int | None
) -> list[list[float]]:
    """The V-measures of each sample, with SEED and then SEEDS.

    vectors: [n, d], labels: [n], both of the texts `drawn` from ``count``.
    """
    return list(_of_samples(vectors, labels, _drawn(count, max_texts)[1]))


def _of_samples(vectors: FloatArray, labels: Sequence[str], random: Random) -> Iterator[list[float]]:
    from sklearn.cluster import MiniBatchKMeans
    from sklearn.metrics import v_measure_score

    codes = np.unique(np.asarray(labels), return_inverse=True)[1]
    clusters = codes.max() + 1
    for _ in range(SAMPLES):
        rows = random.choices(range(len(codes)), k=SAMPLE_SIZE)
        sample, truth = vectors[rows], codes[rows]
        models = (
            MiniBatchKMeans(n_clusters=clusters, batch_size=512, n_init=1, random_state=seed) for seed in (SEED, *SEEDS)
        )
        yield [float(v_measure_score(truth, model.fit_predict(sample))) for model in models]


def _drawn(count: int, max_texts: int | None) -> tuple[list[int], Random]:
    """With the state of the generator, which goes on to draw the samples."""
    random = Random(SEED)
    if max_texts is None:
        return list(range(count)), random
    return random.sample(range(count), k=min(count, max_texts)), random


def score_clustering(v_measures: Sequence[Sequence[float]]) -> dict[str, float]:
    """``v_measure``: the mean over sets or samples with SEED; ``v_measure_std``: their standard deviation.

    v_measures: of each set or sample, with SEED and then, if they were used, with SEEDS. Of these are
    ``v_measure_seeds_mean`` and ``v_measure_seeds_std``: mean and standard deviation of what `v_measure` is with each.
    """
    first, *others = np.array(v_measures).T
    scores = {"v_measure": float(np.mean(first)), "v_measure_std": float(np.std(first))}
    if others:
        means = np.mean(others, axis=1)
        scores |= {"v_measure_seeds_mean": float(np.mean(means)), "v_measure_seeds_std": float(np.std(means))}
    return scores
