"""Classification: a logistic regression on a few vectors of each label, ten times. Knows vectors and labels.

As mteb 2.26's AbsTaskClassification: its draws, its classifier, its means.
"""

import warnings
from collections.abc import Mapping, Sequence

import numpy as np
from numpy.typing import NDArray

from sfr_batch.table.nearest import FloatArray

SEED, EXPERIMENTS, ITERATIONS = 42, 10, 100

Indices = NDArray[np.int64]


def draws(labels: Sequence[str], samples_per_label: int) -> list[Indices]:
    """The rows of the training split from which each experiment learns: up to ``samples_per_label`` of each label.

    Each shuffles the order that the one before left, with the same seed, and takes the first of each label.
    """
    codes = np.unique(np.asarray(labels), return_inverse=True)[1]
    order = np.arange(len(codes))
    found = []
    for _ in range(EXPERIMENTS):
        np.random.RandomState(SEED).shuffle(order)
        of_row = codes[order]
        by_label = np.argsort(of_row, kind="stable")
        starts = np.searchsorted(of_row[by_label], np.arange(codes.max() + 1))
        place = np.arange(len(codes)) - starts[of_row[by_label]]
        found.append(order[np.sort(by_label[place < samples_per_label])])
    return found


def used(experiments: Sequence[Indices]) -> Indices:
    """The rows of the training split that some experiment uses, rising: no other text needs a vector."""
    return np.unique(np.concatenate(experiments))


def score_classification(
    train: FloatArray, labels: Sequence[str], test: FloatArray, truth: Sequence[str], experiments: Sequence[Indices]
) -> dict[str, float]:
    """Means over experiments of accuracy, macro F1 and, of two labels, ``ap``: average precision of the predictions.

    train: [m, d] vectors of the rows `used`; labels: of the whole training split; test: [n, d]; truth: [n] labels.
    The positive one of two labels is the last: the greater number, or the last by the alphabet.
    """
    known = _codes([*labels, *truth])
    rows = used(experiments)
    y_test = np.array([known[label] for label in truth])
    found = []
    for chosen in experiments:
        y_train = [known[labels[row]] for row in chosen]
        predicted = _predictions(train[np.searchsorted(rows, chosen)], y_train, test)
        found.append(_scores(y_test, predicted, binary=len(known) == 2))
    return {key: float(np.mean([scores[key] for scores in found])) for key in found[0]}


def _predictions(train: FloatArray, labels: Sequence[int], test: FloatArray) -> NDArray[np.int64]:
    from sklearn.exceptions import ConvergenceWarning
    from sklearn.linear_model import LogisticRegression

    classifier = LogisticRegression(max_iter=ITERATIONS, random_state=SEED)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ConvergenceWarning)  # 100 iterations are the protocol, converged or not
        classifier.fit(train, labels)
    return np.asarray(classifier.predict(test))


def _scores(truth: NDArray[np.int64], predicted: NDArray[np.int64], *, binary: bool) -> dict[str, float]:
    from sklearn.metrics import accuracy_score, average_precision_score, f1_score

    scores = {"accuracy": accuracy_score(truth, predicted), "f1": f1_score(truth, predicted, average="macro")}
    if binary:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", UserWarning)  # of a test split with one label: ap is 0, as mteb has it
            scores["ap"] = average_precision_score(truth, predicted)
    return scores


def _codes(labels: Sequence[str]) -> Mapping[str, int]:
    """Numbers of labels in their order: of whole numbers, as mteb's labels are, by size; else by the alphabet."""
    different = sorted({*labels})  # 1 and 01 are two labels, in an order that no hash decides
    numbers = all(label.removeprefix("-").isdecimal() for label in different)
    return {label: code for code, label in enumerate(sorted(different, key=int) if numbers else different)}
