"""Evaluations through the main job: scores, what is embedded and how often, prompts, wrong data."""

import dataclasses
import json
import random
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import pytest
import pytrec_eval

from sfr_batch.config.settings import Config
from sfr_batch.encoder.encoder import Encoder
from sfr_batch.errors import ConfigError, CorpusError
from sfr_batch.evaluation import kept, scoring
from sfr_batch.evaluation.evaluate import evaluate
from sfr_batch.evaluation.measures import clustering
from sfr_batch.evaluation.published.values import Published, PublishedTask
from sfr_batch.evaluation.report.report import Evaluation
from sfr_batch.evaluation.results import TaskResult
from sfr_batch.model.prompts import instruct
from sfr_batch.pipeline import runner
from sfr_batch.pipeline.summary import Summary
from sfr_batch.storage.stores import open_store
from sfr_batch.table.table import Table
from tests.evaluation.published import SETS, needs_sets
from tests.evaluation.small_sets import (
    DOCUMENTS,
    GRADES,
    QUERIES,
    job,
    lines,
    pairs,
    put,
    reranking,
    retrieval,
    task_file,
)
from tests.models import build_tiny_mistral

OWN = {"name": "own", "type": "retrieval", "instruction": "Find it"}
WORDS = ["bread", "wheels", "the moon", "rain", "music", "stone"]
Rows = set[tuple[int, ...]]


@pytest.fixture
def runs(monkeypatch: pytest.MonkeyPatch) -> list[Summary]:
    """The summaries of all runs of the main job."""
    done: list[Summary] = []
    embed = runner.embed
    monkeypatch.setattr(runner, "embed", lambda config: done.append(embed(config)))
    return done


@pytest.fixture
def encoded(monkeypatch: pytest.MonkeyPatch) -> Rows:
    """The token ids of all rows that are encoded in this process."""
    seen: Rows = set()
    launch = Encoder.launch

    def spy(self: Encoder, lengths: Any, flat_ids: Any, **rest: Any) -> Any:
        seen.update(tuple(row.tolist()) for row in np.split(flat_ids, np.cumsum(lengths)[:-1]))
        return launch(self, lengths, flat_ids, **rest)

    monkeypatch.setattr(Encoder, "launch", spy)
    return seen


class Stopped(Exception):
    """Ends an evaluation in the middle."""


def stop(result: TaskResult) -> None:
    raise Stopped(result.task.name)


@needs_sets
def test_real_sets_have_their_published_scores_and_are_embedded_once(tmp_path: Path, runs: list[Summary]) -> None:
    """STS as published, XQuAD with 200 queries as pytrec_eval has it for all products; stopped, repeated, repeated."""
    data = tmp_path / "xquad"
    (data / "qrels").mkdir(parents=True)
    for name in ("corpus.jsonl", "queries.jsonl"):
        (data / name).symlink_to(SETS / "beir/xquad-en" / name)
    header, *judged = (SETS / "beir/xquad-en/qrels/test.tsv").read_text().splitlines()
    (data / "qrels" / "validation.tsv").write_text("\n".join([header, *judged[:200]]) + "\n")
    tasks = {"XQuADRetrieval": str(data), "STSBenchmark": str(SETS / "sts/STSBenchmark")}
    config = job(tmp_path, tasks)
    with pytest.raises(Stopped, match="XQuADRetrieval"):
        evaluate(config, each=stop)
    found = evaluate(config)
    again = evaluate(config)
    assert again.results == found.results
    assert again.made == found.made
    assert 100 * found["STSBenchmark"].ours == pytest.approx(82.032, abs=5e-4)

    result = found["XQuADRetrieval"].result
    assert result.counts == {"documents": 240, "queries": 200, "judgements": 200}
    assert sum(summary.embedded for summary in runs) == 240 + 200 + 2552
    qrels = pytrec_eval.parse_qrel(open_text(result.files["qrels"]))
    evaluator = pytrec_eval.RelevanceEvaluator(qrels, {"ndcg_cut.10", "recall.100", "map"})
    alone = evaluator.evaluate(pytrec_eval.parse_run(open_text(result.files["run"])))
    assert mean(alone, "ndcg_cut_10") == pytest.approx(result.scores["ndcg_at_10"], abs=1e-12)
    assert mean(alone, "map") == pytest.approx(result.scores["map_at_1000"], abs=1e-12)

    ids, documents = Table.open(open_store(result.files["table"])).current().to_numpy()
    queries = pq.read_table(result.files["queries"])
    assert queries.column("ndcg_at_10").to_pylist() == [alone[q]["ndcg_cut_10"] for q in queries["query"].to_pylist()]
    products = Encoder.load(config.model).encode(queries["text"].to_pylist()) @ documents.T
    run = {
        query: dict(zip(ids, row.tolist(), strict=True))
        for query, row in zip(queries["query"].to_pylist(), products, strict=True)
    }
    assert mean(evaluator.evaluate(run), "ndcg_cut_10") == pytest.approx(result.scores["ndcg_at_10"], abs=1e-6)
    assert mean(evaluator.evaluate(run), "recall_100") == pytest.approx(result.scores["recall_at_100"], abs=1e-6)


def open_text(path: str) -> list[str]:
    return Path(path).read_text().splitlines()


def mean(scores: dict[str, dict[str, float]], name: str) -> float:
    return float(np.mean([own[name] for own in scores.values()]))


@needs_sets
@pytest.mark.slow
@pytest.mark.timeout(3600)
def test_all_real_sets_have_their_published_scores(tmp_path: Path) -> None:
    """Clusters depend on seeds: the report compares their mean over ten, and judges them equal within 2 points."""
    own = task_file(tmp_path, {"name": "XQuADRetrieval", "type": "retrieval"})
    tasks = {
        "SciFact": "beir/scifact",
        "XQuADRetrieval": "beir/xquad-en",
        "STSBenchmark": "sts/STSBenchmark",
        "Banking77Classification": "cls/banking77",
        "SICKNLPairClassification": "pair/sick-nl",
        "SIB200ClusteringS2S": "clu/sib200-eng",
    }
    config = job(tmp_path, {name: str(SETS / path) for name, path in tasks.items()}, evaluation={"task_files": [own]})
    found = evaluate(config)
    published = json.loads((SETS / "published_scores.json").read_text())
    entries = []
    for row in found.rows:
        name, task = row.task.name, row.task
        score = next(entry[2] for entry in published[name]["all-MiniLM-L6-v2"] if entry[0] != "train")
        compared = 100 * row.result.compared
        assert compared == pytest.approx(score, abs=2 if name.startswith("SIB200") else 1e-3), name
        entries.append(PublishedTask(name, task.split, task.subset, None, {task.main_score: score / 100}))
    beside = dataclasses.replace(found, published=(Published("published_scores.json", "mteb", "", tuple(entries)),))
    print(beside.describe())
    assert {row.verdict for row in beside.rows} == {"equal"}


@pytest.mark.slow
def test_killed_at_any_moment_and_repeated(tmp_path: Path) -> None:
    """Twelve kills, then it is let through: the same scores as undisturbed, and each row embedded by one run."""
    rng = random.Random(6)
    documents = {f"d{number}": ("", f"document {number} about {rng.choice(WORDS)}") for number in range(120)}
    documents |= DOCUMENTS
    task = task_file(tmp_path, OWN, {"name": "alike", "type": "sts"})
    tasks = {"own": retrieval(f"{tmp_path}/own", documents), "alike": pairs(f"{tmp_path}/pairs")}

    def command(name: str) -> list[str]:
        config = tmp_path / f"{name}.json"  # JSON is YAML
        settings = {"task_files": [task]}
        run = {"rows_per_split": 8, "min_splits": 1}
        config.write_text(job(tmp_path / name, tasks, evaluation=settings, run=run).to_json())
        report = str(tmp_path / f"{name}-report.json")
        return [sys.executable, "-m", "sfr_batch.cli", "evaluate", str(config), "--json", report]

    subprocess.run(command("calm"), check=True, capture_output=True)
    kills = 0
    while True:
        process = subprocess.Popen(command("killed"), stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        try:
            assert process.wait(None if kills == 12 else rng.uniform(0.5, 8)) == 0
            break
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()
            kills += 1
    print("kills:", kills)
    calm, killed = (
        Evaluation.from_json((tmp_path / f"{name}-report.json").read_bytes()) for name in ("calm", "killed")
    )
    assert [result.scores for result in killed.results] == [result.scores for result in calm.results]
    for name in ("calm", "killed"):
        for table in (tmp_path / f"{name}/table-evaluation").glob("*-*"):
            receipts = Table.open(open_store(str(table))).current().read_receipts()
            assert len({receipt.split_id for receipt in receipts}) == len(receipts)
            assert len(list((table / "data").iterdir())) == len(receipts)


def test_prompts_stand_where_the_task_has_them(tmp_path: Path, encoded: Rows) -> None:
    """Queries instructed, documents bare, texts that are compared with each other instructed on both sides."""
    model = build_tiny_mistral(tmp_path / "model", hidden=32, layers=1)
    file = task_file(
        tmp_path,
        OWN,
        {"name": "alike", "type": "sts", "instruction": "Compare"},
        {"name": "order", "type": "reranking", "instruction": "Order"},
        {"name": "queries", "type": "reranking", "instruction": "Query only", "instructed": "queries"},
    )
    tasks = {
        "own": retrieval(f"{tmp_path}/own"),
        "alike": pairs(f"{tmp_path}/pairs"),
        "order": reranking(f"{tmp_path}/order"),
        "queries": f"{tmp_path}/order",
    }
    prompts = {"query": instruct("the sentence of another task")}
    config = job(tmp_path, tasks, str(model), model={"prompts": prompts}, evaluation={"task_files": [file]})
    found = evaluate(config)
    seen = set(encoded)

    tokenizer = Encoder.load(config.model).tokenizer

    def rows(texts: list[str], prompt: str = "") -> Rows:
        tokens = tokenizer.encode(texts, prompt)
        return {tuple(row.tolist()) for row in np.split(tokens.flat_ids, np.cumsum(tokens.lengths)[:-1])}

    documents = [f"{title} {text}".strip() for title, text in DOCUMENTS.values()]
    alike = ["a cat", "a small cat", "the stock market", "rain", "rainy weather"]
    asked, ranked = ["make bread", "weather"], ["knead flour", "ride a bicycle", "rain"]
    expected = (
        rows([*QUERIES.values()], instruct("Find it"))
        | rows(documents)
        | rows(alike, instruct("Compare"))
        | rows([*asked, *ranked], instruct("Order"))
        | rows(asked, instruct("Query only"))
        | rows(ranked)
    )
    assert expected <= seen
    assert not seen & rows([*QUERIES.values(), *asked, *alike[:3]])
    assert not seen & rows([*QUERIES.values()], prompts["query"])
    assert not seen & rows(documents, instruct("Find it"))
    begin = rows([""], instruct("Find it")).pop()
    assert begin[0] == 1  # <s>
    assert begin[-1] == 2  # </s>
    assert found["own"].result.prompts == {"queries": instruct("Find it"), "documents": ""}
    assert found["queries"].result.prompts == {"queries": instruct("Query only"), "documents": ""}
    assert found["alike"].result.prompts == {"texts": instruct("Compare")}


def test_fixed_prompts_and_forms(tmp_path: Path) -> None:
    """Of an E5 model of fixed prompts, "query: " precedes all that is compared; a form of one's own is filled in."""
    file = task_file(tmp_path, OWN, {"name": "order", "type": "reranking"}, {"name": "alike", "type": "sts"})
    tasks = {
        "own": retrieval(f"{tmp_path}/own"),
        "order": reranking(f"{tmp_path}/order"),
        "alike": pairs(f"{tmp_path}/pairs"),
    }
    fixed = {"query": "query: ", "document": "passage: "}
    found = evaluate(job(tmp_path, tasks, model={"prompts": fixed}, evaluation={"task_files": [file]}))
    both = {"queries": "query: ", "documents": "passage: "}
    assert [row.result.prompts for row in found.rows] == [both, both, {"texts": "query: "}]
    assert [len(row.result.remarks) for row in found.rows] == [1, 0, 1], "a query is left out; the prompt of all texts"
    typed = job(tmp_path, tasks, model={"prompts": {**fixed, "STS": "sts: "}}, evaluation={"task_files": [file]})
    alike = evaluate(typed)["alike"].result
    assert (alike.prompts, alike.remarks) == ({"texts": "sts: "}, ())
    form = {"task_files": [file], "prompt": "Task: {instruction}. "}
    (row,) = evaluate(job(tmp_path, {"own": tasks["own"]}, evaluation=form)).rows
    assert row.result.prompts == {"queries": "Task: Find it. ", "documents": ""}


def test_sets_of_other_forms_on_any_store(place: str, tmp_path: Path, runs: list[Summary]) -> None:
    """A TSV as corpus, parts, an empty document, blank texts, chunks, a document that is its own query."""
    file = task_file(
        tmp_path,
        {"name": "parts", "type": "retrieval", "parts": ["a", "b"], "ignore_identical_ids": True},
        {"name": "alike", "type": "sts"},
    )
    retrieval(f"{place}/sets/a", {**DOCUMENTS, "q1": ("", QUERIES["q1"]), "empty": ("", " ")})
    rows = "".join(f"{id_}\t{title}\t{text}\n" for id_, (title, text) in DOCUMENTS.items())
    grades = {**GRADES, "q4": {"d2": 0, "d4": -1}}
    qrels = "".join(f"{query}\t{id_}\t{grade}\n" for query, own in grades.items() for id_, grade in own.items())
    queries = {**QUERIES, "q4": "who knows?"}
    put(
        f"{place}/sets/b",
        {
            "corpus.tsv": f"_id\ttitle\ttext\n{rows}".encode(),
            "queries.tsv": ("_id\ttext\n" + "".join(f"{q}\t{text}\n" for q, text in queries.items())).encode(),
            "qrels/test.tsv": f"query-id\tcorpus-id\tscore\n{qrels}".encode(),
        },
    )
    alike = put(f"{place}/alike", {"test.tsv": b"score\tsentence1\tsentence2\n1\ta cat\t \n5\ta cat\ta dog\n0\tx\t \n"})
    tasks = {"parts": f"{place}/sets", "alike": alike}
    chunks = {"overflow": "chunk", "chunk_tokens": 8, "chunk_overlap": 0}
    settings = {"model": chunks, "table": {"vector_dtype": "float16"}, "run": {"max_reject_share": 0.2}}
    config = job(place, tasks, evaluation={"task_files": [file]}, **settings)
    found = evaluate(config)["parts"].result
    parts = [found.parts[name]["ndcg_at_10"] for name in "ab"]
    assert parts[0] > 0.9
    assert 0.75 > parts[1] > 0.9 * 0.75, "a query without a relevant document counts as 0"
    assert found.scores["ndcg_at_10"] == pytest.approx(sum(parts) / 2)
    assert found.counts == {"documents": 10, "queries": 7, "judgements": 12}
    assert found.remarks == (
        "a: 1 document cannot be found, for the table rejects them: empty_text 1.",
        "a: 1 query without a judgement in this split left out.",
        "b: 1 query without a relevant document (grade 1 or more): the score is 0, as in trec_eval.",
    )
    run = open_store(found.files["a/run"].rpartition("/")[0]).read(found.files["a/run"].rpartition("/")[2]).decode()
    assert next(line.split()[2] for line in run.splitlines() if line.startswith("q1 ")) == "d1"
    assert "q1 Q0 q1 " not in run
    embedded = sum(summary.embedded for summary in runs)
    evaluate(config)
    assert sum(summary.embedded for summary in runs) == embedded


def test_ids_may_be_numbers_or_texts(tmp_path: Path) -> None:
    """Both are one version of the data, and neither finds the table of the other in its way."""
    file = task_file(tmp_path, {"name": "own", "type": "retrieval"})
    found = []
    for kind in (int, str):
        grades = "".join(f"{q[1:]}\t{d[1:]}\t{grade}\n" for q, own in GRADES.items() for d, grade in own.items())
        corpus = [{"_id": kind(d[1:]), "title": title, "text": text} for d, (title, text) in DOCUMENTS.items()]
        files = {
            "corpus.jsonl": lines(corpus),
            "queries.jsonl": lines({"_id": kind(q[1:]), "text": text} for q, text in QUERIES.items()),
            "qrels/test.tsv": f"query-id\tcorpus-id\tscore\n{grades}".encode(),
        }
        data = put(f"{tmp_path}/{kind.__name__}", files)
        found.append(evaluate(job(tmp_path, {"own": data}, evaluation={"task_files": [file]}))["own"].result)
    assert found[0].version == found[1].version
    data = put(f"{tmp_path}/mixed", {**files, "corpus.jsonl": lines([{**corpus[0], "_id": 1}, *corpus[1:]])})
    found.append(evaluate(job(f"{tmp_path}/other", {"own": data}, evaluation={"task_files": [file]}))["own"].result)
    assert [result.scores for result in found] == [found[0].scores] * 3


def test_classification_on_vectors_before_they_are_normalized(tmp_path: Path) -> None:
    file = task_file(tmp_path, {"name": "labels", "type": "classification", "samples_per_label": 2})
    rows = [("a cat", "animal"), ("a dog", "animal"), ("rain", "weather"), ("a storm of snow", "weather")]
    csv = "text,label\n" + "".join(f"{text},{label}\n" for text, label in rows)
    data = put(f"{tmp_path}/labels", {"train.csv": csv.encode(), "test.csv": csv.encode()})
    results = []
    for unnormalized in (False, True):
        settings = {"task_files": [file], "unnormalized": unnormalized}
        (row,) = evaluate(job(tmp_path, {"labels": data}, evaluation=settings)).rows
        results.append(row.result)
    assert [result.scores["accuracy"] for result in results] == [1, 1]
    assert [bool(result.remarks) for result in results] == [False, True]
    encoder = Encoder.load(job(tmp_path, {"labels": data}).model)
    own, unit = encoder.encode(["a cat", "rain"], normalize=False), encoder.encode(["a cat", "rain"])
    lengths = np.linalg.norm(own, axis=1, keepdims=True)
    assert (np.abs(lengths - 1) > 0.1).all()
    assert np.allclose(own / lengths, unit, atol=1e-6)


Wrong = Callable[[Path], dict[str, str]]


@pytest.mark.parametrize(("folder", "into"), [("table/e", "the table"), ("docs/e", "corpus.path"), ("table", "the t")])
def test_evaluations_lie_beside_table_and_corpus(folder: str, into: str, tmp_path: Path, runs: list[Summary]) -> None:
    file = task_file(tmp_path, {"name": "alike", "type": "sts"})
    tasks = {"alike": pairs(f"{tmp_path}/pairs")}
    put(f"{tmp_path}/docs", {"a.jsonl": b"{}\n"})
    settings = {"task_files": [file], "path": f"{tmp_path}/{folder}"}
    config = job(tmp_path, tasks, evaluation=settings)
    config = config.model_copy(update={"corpus": config.corpus.model_copy(update={"path": f"{tmp_path}/docs"})})
    with pytest.raises(
        ConfigError, match=f"evaluation.path {tmp_path}/{folder} is inside {into}.*Choose a place beside"
    ):
        evaluate(config)
    assert not runs
    assert not (tmp_path / "table").exists()


def without_a_document(folder: Path) -> dict[str, str]:
    return {"own": retrieval(f"{folder}/own", {id_: text for id_, text in DOCUMENTS.items() if id_ != "d3"})}


def with_blank_documents(folder: Path) -> dict[str, str]:
    return {"own": retrieval(f"{folder}/own", {**DOCUMENTS, "x": ("", " "), "y": (" ", "")})}


@pytest.mark.parametrize(
    ("wrong", "error", "message"),
    [
        (with_blank_documents, CorpusError, "2 of 6 documents have neither title nor text, and .* allows 10%"),
        (without_a_document, CorpusError, "judge the document 'd3' for the query 'q2', which .*corpus.jsonl does not"),
        (lambda folder: {"own": f"{folder}/nothing"}, CorpusError, "There is no data at .*/nothing"),
        (lambda folder: {"SciFakt": "x"}, ConfigError, r"there is no such task\. Did you mean SciFact\?"),
        (lambda folder: {}, ConfigError, "evaluation.tasks is empty"),
    ],
)
def test_wrong_data_are_a_sentence_before_anything_is_embedded(
    tmp_path: Path, runs: list[Summary], wrong: Wrong, error: type[Exception], message: str
) -> None:
    """Although the data of another task are right."""
    given = wrong(tmp_path)
    tasks = {"alike": pairs(f"{tmp_path}/pairs"), **given} if given else {}
    file = task_file(tmp_path, OWN, {"name": "alike", "type": "sts"})
    with pytest.raises(error, match=message):
        evaluate(job(tmp_path, tasks, evaluation={"task_files": [file]}))
    assert not runs


def test_a_corpus_that_changes_after_it_was_checked(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The table has the name of the version that was checked: scores of other documents would stand under it."""
    data = retrieval(f"{tmp_path}/own")
    embed = runner.embed

    def grows(config: Config) -> Summary:
        with open(f"{data}/corpus.jsonl", "a") as corpus:
            corpus.write('{"_id": "late", "title": "", "text": "how is bread made?"}\n')
        monkeypatch.setattr(runner, "embed", embed)
        return embed(config)

    monkeypatch.setattr(runner, "embed", grows)
    config = job(tmp_path, {"own": data}, evaluation={"task_files": [task_file(tmp_path, OWN)]})
    with pytest.raises(
        CorpusError, match=r"/own had 4 documents when it was checked, and 5 when it was embedded\. Run"
    ):
        evaluate(config)
    assert evaluate(config)["own"].result.counts["documents"] == 5


def test_results_of_earlier_rules_are_made_again_of_the_vectors_that_are_there(
    tmp_path: Path, runs: list[Summary], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Clusters that were drawn once are drawn with more seeds; other types of tasks stay as they are."""
    file = task_file(tmp_path, {"name": "topics", "type": "clustering"}, {"name": "alike", "type": "sts"})
    texts = lines({"text": f"{word} and {other}", "label": word} for word in WORDS[:3] for other in WORDS)
    data = {"topics": put(f"{tmp_path}/topics", {"test.jsonl": texts}), "alike": pairs(f"{tmp_path}/pairs")}
    config = job(tmp_path, data, evaluation={"task_files": [file]})
    scored: list[str] = []
    score = scoring.score
    monkeypatch.setattr(scoring, "score", lambda task, *rest: scored.append(task.name) or score(task, *rest))
    with monkeypatch.context() as earlier:
        earlier.setattr(kept, "RULES", {**kept.RULES, "clustering": 2})
        earlier.setattr(clustering, "seeds_for", lambda _: (42,))
        before = evaluate(config)
    assert before["topics"].over_seeds is None
    embedded = sum(summary.embedded for summary in runs)
    found = evaluate(config)
    assert scored == ["topics", "alike", "topics"]
    assert sum(summary.embedded for summary in runs) == embedded
    assert found["topics"].over_seeds
    assert found["topics"].ours == before["topics"].ours
    assert found["alike"].result == before["alike"].result


def test_only_named_tasks(tmp_path: Path) -> None:
    file = task_file(tmp_path, OWN, {"name": "alike", "type": "sts"})
    config = job(tmp_path, {"own": "nowhere", "alike": pairs(f"{tmp_path}/pairs")}, evaluation={"task_files": [file]})
    assert [row.task.name for row in evaluate(config, ["alike"]).rows] == ["alike"]
    with pytest.raises(ConfigError, match=r"The task other has no data: evaluation\.tasks names own, alike"):
        evaluate(config, ["other"])
