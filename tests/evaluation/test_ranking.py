"""Ranked documents: ties, and the files of TREC."""

import numpy as np
import pytrec_eval

from sfr_batch.evaluation.ranking import Ranked, qrels_file, ranked, run_file

QRELS = {"q 1": {"a b": 1, "50%": 0}, "q2": {"c": 2}}


def test_scores_fall_strictly_and_only_ties_change() -> None:
    found = ranked(["a", "b", "c", "d", "e"], np.array([0.5, 0.5, 0.5, np.nextafter(np.float32(0.5), 0), 0.1]))
    assert found.documents == ["a", "b", "c", "d", "e"]
    assert (np.diff(found.scores) < 0).all()
    assert found.scores[0] == np.float32(0.5)
    assert found.scores[4] == np.float32(0.1)
    assert np.allclose(found.scores[:4], 0.5, atol=1e-6)


def test_trec_eval_reads_the_files_and_keeps_the_order() -> None:
    """With equal scores it would put c before b, and b before a."""
    ranking = {"q 1": ranked(["50%", "a b", "c"], np.full(3, 0.25)), "q2": Ranked([], np.empty(0, np.float32))}
    run = pytrec_eval.parse_run(run_file(ranking, "a tag"))
    qrels = pytrec_eval.parse_qrel(qrels_file(QRELS))
    assert qrels == {"q%201": {"a%20b": 1, "50%25": 0}, "q2": {"c": 2}}
    assert [*run["q%201"]] == ["50%25", "a%20b", "c"]
    scores = pytrec_eval.RelevanceEvaluator(qrels, {"recip_rank"}).evaluate(run)
    assert scores == {"q%201": {"recip_rank": 0.5}}
    assert next(run_file(ranking, "a tag")) == "q%201 Q0 50%25 1 0.25 a%20tag\n"
