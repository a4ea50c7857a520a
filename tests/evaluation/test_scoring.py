"""The scores of vectors: each type of task against the installed mteb, which runs its own task on the same vectors."""

from collections.abc import Mapping, Sequence

import numpy as np
import pytest

from sfr_batch.evaluation.data.sets import (
    Candidates,
    Classes,
    Clusters,
    Labelled,
    Pairs,
    Rerankings,
    Summaries,
    SummarySet,
)
from sfr_batch.evaluation.measures import clustering
from sfr_batch.evaluation.scoring import Data, score, texts_of
from sfr_batch.evaluation.task_files import Task, shipped_tasks
from sfr_batch.table.nearest import FloatArray
from tests.evaluation.mteb_scores import looked_up, scores_of_mteb

TEXTS = [f"text {number}" for number in range(400)]
TOPICS = np.arange(len(TEXTS)) % 5


@pytest.fixture(scope="module")
def matrix() -> FloatArray:
    """[400, 8] unit vectors near five centres; every tenth is that of another text, so that similarities tie."""
    random = np.random.default_rng(0)
    found = (random.normal(size=(5, 8))[TOPICS] + random.normal(size=(len(TEXTS), 8))).astype(np.float32)
    found[::10] = found[5::10]
    return found / np.linalg.norm(found, axis=1, keepdims=True)


def pairs(grades: int) -> Pairs:
    """200 pairs, those of one topic with the higher grades."""
    random = np.random.default_rng(1)
    alike = (TOPICS[:200] == TOPICS[200:][::-1]) | (random.random(200) < 0.2)
    scores = np.minimum(grades - 1, alike * (grades // 2) + random.integers(grades // 2 + 1, size=200) * (grades > 2))
    return Pairs(TEXTS[:200], TEXTS[200:][::-1], scores.astype(float).tolist(), "")


def labelled(rows: slice) -> Labelled:
    return Labelled(TEXTS[rows], [str(topic + 8) for topic in TOPICS[rows]])  # 8 < 12, but "12" < "8"


def two_labels(own: Labelled) -> Labelled:
    return Labelled(own.texts, [str(int(label) % 2) for label in own.labels])


TRAIN, TEST = labelled(slice(250)), labelled(slice(250, 400))
CANDIDATES = [
    Candidates([TEXTS[row]], TEXTS[row + 5 : row + 16 : 5], TEXTS[row + 16 : row + 25]) for row in range(0, 300, 7)
]
SUMMARIES = [
    Summaries(TEXTS[row : row + 3], TEXTS[row + 3 : row + 9], [1, 2, 2, 5, 4, 3 + row % 2]) for row in range(0, 90, 9)
] + [Summaries(TEXTS[:3], TEXTS[3:5], [1, 1])]


def keys(names: Mapping[str, str], kinds: Sequence[str]) -> dict[str, str]:
    """mteb 2's keys by those of model cards."""
    return {f"{ours}_{kind}": f"{theirs}_{kind}" for ours, theirs in names.items() for kind in kinds}


COSINE = {"cos_sim": "cosine"}
DISTANCES = {"euclidean": "euclidean", "manhattan": "manhattan"}
CORRELATIONS = ("pearson", "spearman")
STS = keys(COSINE | DISTANCES, CORRELATIONS)
PAIRS = keys(COSINE | DISTANCES | {"dot": "dot"}, ("accuracy", "ap", "f1", "precision", "recall")) | keys(
    {"max": "max"}, ("accuracy", "ap", "f1")
)
CLASSES = {"accuracy": "accuracy", "f1": "f1"}
CLUSTERS = {"v_measure": "v_measure", "v_measure_std": "v_measure_std"}
KINDS = ("ndcg", "map", "mrr", "recall", "precision")
RANKS = {"map": "map_at_1000", "mrr": "mrr_at_10"} | {
    f"{kind}_at_{k}": f"{kind}_at_{k}" for kind in KINDS for k in (10, 1000)
}
SUMMARIZATION = keys(COSINE | {"dot": "dot"}, CORRELATIONS)


@pytest.mark.filterwarnings("ignore:The used Evaluator is deprecated")  # it is the one that made published scores
@pytest.mark.parametrize(
    ("name", "data", "known"),
    [
        ("STSBenchmark", pairs(6), STS),
        ("SICKNLPairClassification", pairs(2), PAIRS),
        ("Banking77Classification", Classes(TRAIN, TEST, ""), CLASSES),
        ("EmotionClassification", Classes(two_labels(TRAIN), two_labels(TEST), ""), CLASSES | {"ap": "ap"}),
        ("TwentyNewsgroupsClustering", Clusters([TEST, two_labels(TRAIN), Labelled(["text 1"], ["a"])], ""), CLUSTERS),
        ("SIB200ClusteringS2S", Clusters([TRAIN], ""), CLUSTERS),
        ("AskUbuntuDupQuestions", Rerankings(CANDIDATES, 0, ""), RANKS),
        ("SummEval", SummarySet(SUMMARIES, ""), SUMMARIZATION),
        ("SummEvalSummarization.v2", SummarySet(SUMMARIES, ""), SUMMARIZATION),
    ],
)
def test_scores_are_those_of_mteb(
    matrix: FloatArray, name: str, data: Data, known: Mapping[str, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Of each type, with ties, and all keys that a model card has."""
    pytest.importorskip("mteb")
    monkeypatch.setattr(clustering, "SEEDS", (0, 1))
    of_texts = looked_up(TEXTS, matrix)
    shipped = shipped_tasks()
    task = shipped[name] if name in shipped else shipped["SummEval"].model_copy(update={"p_values": False})
    asked: list[tuple[Sequence[str], bool]] = []

    def vectors(texts: Sequence[str], instructed: bool) -> FloatArray:
        asked.append((texts, instructed))
        return of_texts(texts)

    scores = score(task, data, vectors)
    assert asked == [*texts_of(task, data)]
    assert all(instructed for _, instructed in asked)
    theirs = scores_of_mteb(name, data, of_texts)
    if isinstance(data, Clusters):  # mteb has one seed
        assert scores.pop("v_measure_seeds_mean") == pytest.approx(scores["v_measure"], abs=0.1)
        assert 0 < scores.pop("v_measure_seeds_std") < 0.1
    assert scores.keys() == known.keys()
    for key in scores:
        Task.model_validate({**task.model_dump(mode="json"), "main_score": key})
    tolerance = 1e-5 if isinstance(data, Rerankings) else 1e-6  # mteb rounds these
    assert scores == pytest.approx({ours: theirs[key] for ours, key in known.items()}, abs=tolerance)
    assert scores[task.main_score] < 0.99, "scores that differences could not change"


def test_only_texts_that_count_get_vectors(matrix: FloatArray) -> None:
    """Of a training split those that an experiment draws; and the documents of reranking may stay bare."""
    data = Classes(TRAIN, TEST, "")
    few = Task(name="few", type="classification", samples_per_label=1)  # type: ignore[call-arg]
    drawn, test = texts_of(few, data)
    assert 5 <= len(drawn[0]) <= 50
    assert {*drawn[0]} < {*TRAIN.texts}
    assert test == (TEST.texts, True)
    ten = Task(name="ten", type="clustering", clustering="samples", max_texts=10)  # type: ignore[call-arg]
    ((texts, _),) = texts_of(ten, Clusters([TRAIN, TEST], ""))
    assert len({*texts}) == 10
    bare = Task(name="bare", type="reranking", instructed="queries")  # type: ignore[call-arg]
    assert [instructed for _, instructed in texts_of(bare, Rerankings(CANDIDATES * 10, 0, ""))] == [True, False] * 2
    assert len(CANDIDATES) * 10 == 430


def test_classification_may_learn_from_raw_vectors(matrix: FloatArray) -> None:
    """Those that do not have length 1, which make another regression."""
    of_texts = looked_up(TEXTS, matrix)
    data, task = Classes(TRAIN, TEST, ""), Task(name="classes", type="classification")  # type: ignore[call-arg]

    def unit(texts: Sequence[str], _: bool) -> FloatArray:
        return of_texts(texts)

    def raw(texts: Sequence[str], _: bool) -> FloatArray:
        return 9 * of_texts(texts)

    assert score(task, data, unit, raw) == score(task, data, raw) != score(task, data, unit)


def test_several_texts_of_a_query_count_by_the_nearest() -> None:
    """For each candidate."""
    vectors = looked_up(["east", "north", "p", "n"], np.array([[1, 0], [0, 1], [0, 1], [0.8, 0.6]], np.float32))
    task = Task(name="ranks", type="reranking")  # type: ignore[call-arg]
    scores = [
        score(task, Rerankings([Candidates(queries, ["p"], ["n"])], 0, ""), lambda texts, _: vectors(texts))["map"]
        for queries in (["east"], ["east", "north"])
    ]
    assert scores == [0.5, 1.0]
