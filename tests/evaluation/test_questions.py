"""Questions of one's own in all their forms, judged documents that a table does not have, and what may be chance."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pandas
import polars
import pyarrow as pa
import pytest
from scipy import stats

from sfr_batch.corpus.rejects import Reject
from sfr_batch.errors import CorpusError
from sfr_batch.evaluation.questions import significance
from sfr_batch.evaluation.questions.answers import Asked, absent, check_documents
from sfr_batch.evaluation.questions.forms import Questions, read_questions
from sfr_batch.format import names
from sfr_batch.storage.stores import open_store
from sfr_batch.table.commit.publish import publish
from sfr_batch.table.commit.writing import create_or_open
from tests.memory_store import MemoryStore
from tests.tables import card_of, commit_rows, draft_of, make_table

ASKED = {"how": {"a": 2, "b": 0}, "why": {"b": 1}}
ROWS = [("how", "a", 2), ("how", "b", 0), ("why", "b", 1)]


def lines(rows: Any) -> str:
    return "".join(json.dumps(row) + "\n" for row in rows)


def test_all_forms_are_the_same_questions(place: str) -> None:
    """On disk and on S3; the version does not depend on the form, unless queries have ids of their own."""
    store = open_store(place)
    files = {
        "judged.csv": "query,document,grade\n" + "".join(f"{q},{d},{g}\n" for q, d, g in ROWS),
        "judged.tsv": "Question\tDoc_ID\tscore\n" + "".join(f" {q} \t{d}\t{g}.0\n" for q, d, g in ROWS),
        "judged.jsonl": lines({"text": q, "corpus-id": d, "label": g} for q, d, g in ROWS),
        "own.csv": "frage,url,note\n" + "".join(f"{q},{d},{g}\n" for q, d, g in ROWS),
        "beir/queries.jsonl": lines({"_id": q, "text": q} for q in ("how", "where", "why")),
        "beir/qrels/test.tsv": "query-id\tcorpus-id\tscore\n" + "".join(f"{q}\t{d}\t{g}\n" for q, d, g in ROWS[::-1]),
        "beir/qrels/dev.tsv": "query-id\tcorpus-id\tscore\nwhere\ta\t1\n",
        "flat/queries.csv": "id,question\nwhy,why\nhow,how\n",
        "flat/qrels.csv": "query-id,corpus-id\nhow,a\nwhy,b\n",
    }
    for key, text in files.items():
        store.create(key, text.encode())
    first = read_questions(f"{place}/judged.csv")
    assert first.qrels == ASKED
    assert first.texts == {"how": "how", "why": "why"}
    assert (first.judgements, first.relevant, first.remarks) == (3, ["a", "b"], ())
    assert first.describe() == f"2 questions, 3 judgements, version {first.version[:12]}, {place}/judged.csv"
    own = {"query": "frage", "document": "url", "grade": "note"}
    frame = pa.table({"query": ["how", "how", "why"], "document": ["a", "b", "b"], "grade": [2, 0, 1]})
    others: list[Questions] = [
        read_questions(f"{place}/judged.tsv"),
        read_questions(f"{place}/judged.jsonl"),
        read_questions(f"{place}/own.csv", columns=own),
        read_questions(ASKED),
        read_questions(frame),
        read_questions(frame.to_pandas()),
        read_questions(frame.to_pylist()),
        read_questions(polars.from_arrow(frame)),
    ]
    assert {(str(one.texts), str(one.qrels), one.version) for one in others} == {
        (str(first.texts), str(first.qrels), first.version)
    }
    beir = read_questions(f"{place}/beir")
    assert {query: dict(own) for query, own in beir.qrels.items()} == ASKED
    assert [*beir.qrels] == [*beir.texts] == ["how", "why"], "in the order of the queries"
    assert beir.remarks == ("1 of 3 questions is not judged, and left out.",)
    dev = read_questions(f"{place}/beir/queries.jsonl", f"{place}/beir/qrels/dev.tsv")
    assert dev.qrels == {"where": {"a": 1}}
    flat = read_questions(f"{place}/flat")
    assert [*flat.texts] == ["why", "how"]
    assert flat.qrels == {"why": {"b": 1}, "how": {"a": 1}}, "a grade is 1 unless it is given"


def test_questions_without_judgements(tmp_path: Path) -> None:
    assert [*read_questions(pandas.Series(["how", "why"])).texts.values()] == ["how", "why"]
    (tmp_path / "q.txt").write_text("how\nwhy\n")
    (tmp_path / "queries.jsonl").write_text(lines([{"_id": "x", "text": "how"}, {"_id": "y", "text": "why"}]))
    assert read_questions(tmp_path / "q.txt").texts == {"0": "how", "1": "why"} == read_questions(["how", "why"]).texts
    found = read_questions(tmp_path / "queries.jsonl")
    assert (found.texts, found.qrels) == ({"x": "how", "y": "why"}, {})
    assert found.describe().startswith("2 questions, not judged, version ")
    assert read_questions(tmp_path).texts == found.texts, "a folder"


def test_a_column_that_may_be_the_grade_is_told(tmp_path: Path) -> None:
    """Whatever it is called: a document of grade 0 would else count as one that answers."""
    told = (
        "No column is known as the grade, so each judged document counts as 1, whatever stands in {}. If that is the "
    )
    told += "grade: --column grade={}."
    for name in ("grade", "relevance", "rating", "rel", "score", "Rating"):
        (tmp_path / "j.csv").write_text(f"question,document,{name}\nhow,a,2\nhow,b,0\nwhy,b,1\n")
        assert read_questions(tmp_path / "j.csv").qrels == ASKED, name
    (tmp_path / "j.csv").write_text("question,document,url,note\nhow,a,x,2\nhow,b,y,0\nwhy,b,z,1\n")
    found = read_questions(tmp_path / "j.csv")
    assert found.remarks == (told.format("note", "note"),)
    assert read_questions(tmp_path / "j.csv", columns={"grade": "note"}).qrels == ASKED
    (tmp_path / "q.jsonl").write_text(lines([{"_id": "how", "text": "how"}, {"_id": "why", "text": "why"}]))
    for name in ("grade", "relevance", "rel", "score", "label"):
        (tmp_path / "r.tsv").write_text(f"query-id\tcorpus-id\t{name}\nhow\ta\t2\nhow\tb\t0\nwhy\tb\t1\n")
        assert read_questions(tmp_path / "q.jsonl", tmp_path / "r.tsv").qrels == ASKED, name
    (tmp_path / "r.tsv").write_text("query-id\tcorpus-id\tScore\nhow\ta\t2\nhow\tb\t0\nwhy\tb\t1\n")
    assert read_questions(tmp_path / "q.jsonl", tmp_path / "r.tsv").remarks == (told.format("Score", "Score"),)
    graded = read_questions(tmp_path / "q.jsonl", tmp_path / "r.tsv", columns={"grade": "Score"})
    assert (graded.qrels, graded.remarks) == (ASKED, ())


def test_a_question_of_grades_0_is_told() -> None:
    found = read_questions({"how": {"a": 0}, "why": ["b", 7]})
    assert found.remarks == ("1 question without a relevant document (grade 1 or more): the score is 0.",)
    assert (found.relevant, found.qrels["why"]) == (["b", "7"], {"b": 1, "7": 1})


# --- judged documents of a table


def asked(table: Any) -> Asked:
    def load() -> Any:
        raise AssertionError("the model would be loaded")

    return Asked(table.current(), table.card.model, {}, load)


def test_documents_that_the_table_does_not_have() -> None:
    store = MemoryStore()
    table = create_or_open(store, card_of())
    rejects = [Reject("y", 3, names.EMPTY_TEXT, "the text is empty")]
    publish(table, None, draft_of([commit_rows(store, table.card, "a", ["a", "b", "c"], rejects)]))
    assert absent(asked(table), ["a", "x", "c", "\ud800"]) == {"x", "\ud800"}
    assert check_documents(asked(table), read_questions({"q": ["a", "b"]})) == ()
    assert check_documents(asked(table), read_questions({"q": {"a": 1, "x": 0}})) == (), "not relevant, not missed"
    assert check_documents(asked(table), read_questions({"q": ["a", "x"], "p": ["x", "y"], "r": ["z"]})) == (
        "3 of 4 relevant documents are not in the table, such as 'x', 'y' and 'z': not found by any question. 1 of "
        "them was rejected when it was made, such as 'y'. 2 questions can find no relevant document at all.",
    )
    with pytest.raises(CorpusError) as error:
        check_documents(asked(table), read_questions({"q": ["x", "y"]}))
    assert str(error.value) == (
        "memory://table, snapshot 1, has none of the 2 documents that are relevant to the questions. Judged are 'x' "
        "and 'y'; ids of the table are 'a', 'b' and 'c'. Are the judgements of another table, or is another column the "
        "one with the ids?"
    )


def test_ids_that_are_whole_numbers() -> None:
    schema = names.table_schema(pa.int64(), 3, "float32", {})
    table = make_table(MemoryStore(), {"a": [1, 2, -3]}, card_of(schema))
    assert absent(asked(table), ["1", "-3", "4", "01", "1.0", "9" * 30, "\u0663"]) == {
        *("4", "01", "1.0", "9" * 30, "\u0663")
    }
    (told,) = check_documents(asked(table), read_questions({"q": [1, "2.0"]}))
    assert told == (
        "1 of 2 relevant documents is not in the table, such as '2.0': not found by any question. Its ids are whole "
        "numbers, and '2.0' is none."
    )


# --- chance


def test_intervals_and_p_are_those_of_scipy() -> None:
    rng = np.random.default_rng(0)
    before = rng.random((60, 4))
    after = before + rng.normal(0.02, 0.05, before.shape)
    after[:, 1] = before[:, 1]
    after[10:, 2] = before[10:, 2]
    after[:, 3] = before[:, 3] + 0.1
    found = significance.changes(before, after)
    assert [change.verdict for change in found] == ["better", "equal", "within chance", "better"]
    exact: Any = stats.permutation_test(
        (after[:10, 2], before[:10, 2]), lambda x, y: np.mean(x - y), permutation_type="samples", vectorized=False
    )
    assert found[2].p == exact.pvalue
    for change, one, other in zip(found, before.T, after.T, strict=True):
        assert (change.before, change.after) == pytest.approx((one.mean(), other.mean()))
        low, high = stats.bootstrap((other - one,), np.mean, method="percentile", rng=rng).confidence_interval
        assert (change.low, change.high) == pytest.approx((low, high), abs=0.002)
    drawn = stats.ttest_rel(after[:, 0], before[:, 0]).pvalue
    assert found[0].p == pytest.approx(drawn, abs=0.01)
    assert significance.changes(before, after) == found, "the seed is fixed"
    assert significance.changes(after, before)[0].verdict == "worse"
