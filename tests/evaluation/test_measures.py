"""Measures of small cases that one can compute by hand, and of a ranking against pytrec_eval and mteb."""

import importlib.util
import warnings

import numpy as np
import pytest
import pytrec_eval

from sfr_batch.errors import ConfigError
from sfr_batch.evaluation.measures import classification, clustering
from sfr_batch.evaluation.measures.libraries import need_libraries
from sfr_batch.evaluation.measures.pair_classification import score_pair_classification
from sfr_batch.evaluation.measures.retrieval import CUT_OFFS, score_ranking
from sfr_batch.evaluation.measures.sts import score_sts
from sfr_batch.evaluation.measures.summarization import Judged, score_summaries
from sfr_batch.evaluation.ranking import Ranked, Ranking, ranked, run_file
from tests.evaluation.published import CARD, needs_card


def found(*documents: str) -> Ranked:
    return ranked(documents, np.linspace(1, 0.5, len(documents)))


def test_a_ranking_by_hand() -> None:
    """Two relevant documents, of which one comes second; queries without documents, and without relevant ones."""
    qrels = {"a": {"x": 2, "y": 1, "z": 0}, "b": {"x": 1}, "c": {"x": 1}, "d": {"x": 0}}
    ranking = {"b": Ranked([], np.empty(0, np.float32)), "a": found("z", "x", "w"), "d": found("x"), "e": found("x")}
    scores = score_ranking(ranking, qrels)
    assert scores.queries == ["a", "b", "c", "d"]
    assert (scores.values[1:] == 0).all()
    of_a = dict(zip(scores.names, scores.values[0], strict=True))
    gain = 2 / np.log2(3) / (2 + 1 / np.log2(3))
    expected = {
        "ndcg_at_1": 0,
        "ndcg_at_2": gain,
        "ndcg_at_10": gain,
        "map_at_1": 0,
        "map_at_2": 0.25,
        "map_at_10": 0.25,
        "recall_at_1": 0,
        "recall_at_2": 0.5,
        "recall_at_1000": 0.5,
        "precision_at_1": 0,
        "precision_at_2": 0.5,
        "precision_at_10": 0.1,
        "mrr_at_1": 0,
        "mrr_at_2": 0.5,
        "mrr_at_1000": 0.5,
    }
    assert {name: of_a[name] for name in expected} == pytest.approx(expected)
    assert scores.means == pytest.approx({name: value / 4 for name, value in of_a.items()})


@needs_card
def test_keys_of_rankings_are_those_of_the_card() -> None:
    card = CARD.read_text(encoding="utf-8")
    names = score_ranking({}, {"a": {"x": 1}}).names
    assert len(names) == 80
    assert all(card.count(f"type: {name}\n") == 15 for name in names)


def random_ranking() -> tuple[Ranking, dict[str, dict[str, int]]]:
    """600 queries, more than are scored at a time, with ties and with grades of 0 to 2; 1,100 documents."""
    random = np.random.default_rng(0)
    documents = np.array([f"document {number}" for number in range(1100)])
    ranking, qrels = {}, {}
    for query in map(str, range(600)):
        order = random.permutation(1100)[: random.integers(1, 60 if query != "7" else 1100)]
        scores = np.sort(random.integers(40, size=len(order)))[::-1].astype(np.float32)
        ranking[query] = ranked(documents[order].tolist(), scores)
        judged = random.choice(order, min(len(order), 5), replace=False)
        qrels[query] = {str(documents[row]): int(random.integers(3)) for row in judged}
    return ranking, qrels


def test_a_ranking_beside_mteb_and_its_run_file_beside_trec_eval() -> None:
    """One rule for ties: the file, scored alone, gives what the ranking gives."""
    metrics = pytest.importorskip("mteb._evaluators.retrieval_metrics")
    ranking, qrels = random_ranking()
    scores = score_ranking(ranking, qrels)
    run = {query: dict(zip(own.documents, own.scores.tolist(), strict=True)) for query, own in ranking.items()}
    theirs = metrics.calculate_retrieval_scores(run, qrels, CUT_OFFS)
    expected = metrics.make_score_dict(
        ndcg=theirs.ndcg,
        _map=theirs.map,
        recall=theirs.recall,
        precision=theirs.precision,
        mrr=theirs.mrr,
        naucs={},
        naucs_mrr={},
        hit_rate={},
        task_scores={},
    )
    means = scores.means
    assert means == pytest.approx({name: expected[name] for name in means}, abs=1e-5)
    file = [line.replace("%20", "_") for line in run_file(ranking, "tag")]
    judgements = {query: {id_.replace(" ", "_"): grade for id_, grade in own.items()} for query, own in qrels.items()}
    alone = pytrec_eval.RelevanceEvaluator(judgements, {"ndcg_cut.10"}).evaluate(pytrec_eval.parse_run(file))
    assert [alone[query]["ndcg_cut_10"] for query in qrels] == scores.values[
        :, scores.names.index("ndcg_at_10")
    ].tolist()


def of_angles(*angles: float) -> np.ndarray:
    return np.array([[np.cos(angle), np.sin(angle)] for angle in angles], np.float32)


def test_thresholds_by_hand() -> None:
    """A threshold parts no ties: the second and third pair are alike, so either both or none of them are accepted."""
    east = of_angles(0, 0, 0, 0)
    scores = score_pair_classification(east, of_angles(0.1, 0.2, 0.2, 0.3), [1, 1, 0, 0])
    assert scores["cos_sim_accuracy"] == 0.75
    assert scores["max_ap"] == pytest.approx((1 + 2 / 3) / 2)
    assert (scores["cos_sim_precision"], scores["cos_sim_recall"]) == pytest.approx((2 / 3, 1))
    assert scores["max_f1"] == pytest.approx(0.8)
    worst = score_pair_classification(east, of_angles(0.1, 0.2, 0.3, 0.4), [0, 0, 0, 1])
    assert (worst["max_f1"], worst["max_ap"], worst["dot_recall"]) == (0, 0.25, 0), "all pairs are never accepted"


def test_correlations_by_hand() -> None:
    scores = score_sts(of_angles(0, 0, 0), of_angles(0.1, 0.2, 0.3), [5, 3, 4])
    assert scores["cos_sim_spearman"] == pytest.approx(0.5)
    assert scores["manhattan_spearman"] == pytest.approx(0.5)
    low = score_sts(of_angles(0, 0, 0), of_angles(0.1, 0.2, 0.3).astype(np.float16), [5, 3, 4])
    assert low["cos_sim_pearson"] == pytest.approx(scores["cos_sim_pearson"], abs=0.01)


def test_scores_that_are_no_numbers() -> None:
    """Without a warning for the terminal; one label of two in a test split has ap 0, as in mteb."""
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert np.isnan(score_sts(of_angles(0, 0, 0), of_angles(0, 0, 0), [5, 3, 4])["cos_sim_spearman"])
        vectors = of_angles(0, 1, 0, 1)
        experiments = classification.draws(["a", "b", "a", "b"], 2)
        scores = classification.score_classification(vectors, ["a", "b", "a", "b"], vectors[:1], ["a"], experiments)
    assert scores == {"accuracy": 1, "f1": 1, "ap": 0}
    numbers = {f"{n}{zeros * '0'}" for n in "123" for zeros in range(3)} | {f"00{n}" for n in range(9)}
    assert [*classification._codes([*numbers])] == sorted(sorted(numbers), key=int)


def test_equal_summaries_tie() -> None:
    """A product of matrices rounds equal rows differently: three equal summaries have no order among them."""
    rng = np.random.default_rng(0)
    for dim in (8, 64, 384, 768):
        human, one, other = rng.normal(size=(3, 1, dim)).astype(np.float32)
        alike = Judged(human, np.repeat(one, 7, axis=0), [5, 1, 4, 2, 3, 7, 6])
        assert np.isnan(score_summaries([alike])["cos_sim_spearman"]), dim
        apart = Judged(human, np.concatenate([np.repeat(one, 7, axis=0), other]), [1] * 7 + [2])
        assert abs(score_summaries([apart])["dot_pearson"]) == pytest.approx(1), dim


def test_each_experiment_draws_other_rows() -> None:
    """So many of each label, all of a rarer one."""
    labels = ["a"] * 50 + ["b"] * 3 + ["c"] * 50
    experiments = classification.draws(labels, 4)
    assert len({tuple(rows) for rows in experiments}) == len(experiments) == 10
    for rows in experiments:
        assert sorted(labels[row] for row in rows) == ["a"] * 4 + ["b"] * 3 + ["c"] * 4
    assert classification.used(experiments).tolist() == sorted({int(row) for rows in experiments for row in rows})


def test_clusters_that_are_labels_score_one(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(clustering, "SEEDS", (0,))
    vectors, labels = of_angles(*[0, 1.5, 3] * 9), ["a", "b", "c"] * 9
    assert clustering.v_measures_of_set(vectors, labels, [42, 0]) == pytest.approx([1, 1])
    assert clustering.v_measures_of_set(vectors, ["a"] * 27, [42, 0]) == [1, 1]
    of_samples = np.array(clustering.v_measures_of_samples(vectors, labels, 27, None))
    assert of_samples.shape == (10, 2)
    assert of_samples == pytest.approx(1)


def test_a_score_of_clustering_is_one_draw_of_several() -> None:
    """v_measure is that of the first seed; the others have a mean over sets each, of which are mean and deviation."""
    assert clustering.score_clustering([[0.2, 0.1, 0.5], [0.4, 0.3, 0.9]]) == pytest.approx(
        {"v_measure": 0.3, "v_measure_std": 0.1, "v_measure_seeds_mean": 0.45, "v_measure_seeds_std": 0.25}
    )
    assert clustering.score_clustering([[0.2], [0.4]]) == pytest.approx({"v_measure": 0.3, "v_measure_std": 0.1})
    assert (clustering.seeds_for(163_840), clustering.seeds_for(163_841)) == ((42, *range(10)), (42,))
    random = np.random.default_rng(0)
    vectors, labels = random.normal(size=(60, 4)).astype(np.float32), [*"abc"] * 20
    of_set = clustering.v_measures_of_set(vectors, labels, (42, *range(10)))
    assert len({*of_set}) > 3, "seeds draw other clusters"
    assert clustering.v_measures_of_set(vectors, labels, (42,)) == of_set[:1]


def test_a_missing_library_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    find = importlib.util.find_spec
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None if name == "sklearn" else find(name))
    with pytest.raises(ConfigError) as error:
        need_libraries()
    assert (
        str(error.value) == "Scores are computed by sklearn, not installed here: pip install 'sfr-batch[evaluation]'."
    )
