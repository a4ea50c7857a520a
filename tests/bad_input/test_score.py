"""`score` with questions that nobody can score: said before a model is loaded."""

from typing import Any

import numpy as np
import pytest

from sfr_batch.errors import ConfigError, SfrBatchError
from sfr_batch.evaluation.questions.forms import read_questions
from tests.bad_input.bench import IDS, Bench, check_refused_before_a_model, embedded, jsonl, put

SCORE = "score {root}/table {root}/"

REFUSED = [
    (f"{SCORE}none.csv", 1, "There are no questions at {root}/none.csv. Correct the path."),
    (f"{SCORE}empty.jsonl", 1, "{root}/empty.jsonl has no rows."),
    (f"{SCORE}q.txt", 2,
     "{root}/q.txt names no documents, so there is nothing to score. A column document, doc_id or corpus-id says which "
     "document answers a question (of another name: --column document=NAME), or a file of judgements does (--qrels "
     "FILE). Without judgements, compare with another table: --against TABLE."),
    (f"{SCORE}qrels.tsv", 1,
     "{root}/qrels.tsv row 1 has no text of a question. Columns there: query-id, corpus-id. If another file has the "
     "texts by the ids of queries, give that one, and this one as --qrels. Else name the column: --column query=NAME."),
    (f"{SCORE}queries.jsonl --qrels {{root}}/none.tsv", 1,
     "There are no judgements at {root}/none.tsv. Correct the path."),
    (f"{SCORE}queries.jsonl --qrels {{root}}/qrels.tsv", 1,
     "{root}/qrels.tsv row 2 judges the query 'q9', which {root}/queries.jsonl does not have (and 1 other query). Add "
     "the query, or remove its judgements."),
    (f"{SCORE}q.txt --qrels {{root}}/qrels.tsv", 1,
     "{root}/q.txt has no column _id or id, by which judgements name its queries."),
    (f"{SCORE}other.jsonl --qrels {{root}}/qrels.tsv", 1,
     "{root}/other.jsonl row 1 has no column text. Columns there: _id, frage. Name the one with the texts: --column "
     "query=NAME."),
    (f"{SCORE}twice.jsonl --qrels {{root}}/qrels.tsv", 1,
     "{root}/twice.jsonl row 2: the id 'q1' is also that of {root}/twice.jsonl row 1. Give each its own."),
    (f"{SCORE}splits", 2,
     "{root}/splits has several files of judgements: {root}/splits/qrels/dev.tsv, {root}/splits/qrels/train.tsv. Name "
     "one: --qrels FILE."),
    (f"{SCORE}grades.csv", 1, "{root}/grades.csv row 1: the grade 0.5 is not a whole number, which nDCG needs."),
    (f"{SCORE}zeros.csv", 1, "{root}/zeros.csv: no document is relevant to any query (all grades are 0 or less)."),
    (f"{SCORE}both.csv", 1,
     "{root}/both.csv row 2 gives 'one' the grade 2 for the query 'how', an earlier row 1. Keep one of them."),
    (f"{SCORE}texts.csv", 1,
     "{root}/texts.csv row 2: an earlier row has another text for the query 'q1': 'how'."),
    (f"{SCORE}blank.csv", 1, "{root}/blank.csv row 1: query is empty, not a text. Remove the row."),
    (f"{SCORE}half.jsonl", 1,
     "{root}/half.jsonl row 1: query is not valid Unicode at character 4: half of a surrogate pair. Remove the row, or "
     "fetch the file again."),
    (f"{SCORE}half_id.jsonl", 1,
     "{root}/half_id.jsonl row 1: document is not valid Unicode at character 0: half of a surrogate pair. Remove the "
     "row, or fetch the file again."),
    (f"{SCORE}semicolons.csv", 1,
     "{root}/semicolons.csv row 1 has neither a question nor a document. Columns there: query;document. Save the file "
     "with commas between its columns, not semicolons."),
    (f"{SCORE}strange.csv", 1,
     "{root}/strange.csv row 1 has neither a question nor a document. Columns there: ask, url. Name them: --column "
     "query=NAME and, if documents are judged, --column document=NAME."),
    (f"{SCORE}latin.csv", 1,
     "{root}/latin.csv row 1: query is not UTF-8 at character 3. Save the file as UTF-8, or remove the row."),
    (f"{SCORE}others.csv", 1,
     "{root}/table, snapshot 1, has none of the 1 document that are relevant to the questions. Judged are 'x'; ids of "
     "the table are 'one' and 'two'. Are the judgements of another table, or is another column the one with the ids?"),
    (f"{SCORE}others.csv --column document", 2, "--column document: write ROLE=NAME, e.g. query=question."),
    (f"{SCORE}others.csv --column id=x", 2,
     "columns: 'id' is no column of questions. Known: query, document, grade."),
    (f"{SCORE}others.csv --column document=url", 1,
     "{root}/others.csv row 1 has no column url. Columns there: query, document. Name it: --column document=NAME."),
    (f"{SCORE}others.csv --against-snapshot 1", 2, "--against-snapshot is for the table of --against."),
    (f"{SCORE}q.txt --against {{root}}/table", 2,
     "{root}/table, snapshot 1, would be compared with itself. Name another table, or another snapshot."),
    (f"{SCORE}q.txt --against {{root}}/table --against-snapshot 7", 1,
     "{root}/table has no snapshot 7. Available: 1."),
]  # fmt: skip


def test_questions_that_cannot_be_scored(bench: Bench) -> None:
    for name, data in {
        "corpus/good.jsonl": jsonl([{"id": name, "text": name} for name in IDS]),
        "other.jsonl": jsonl([{"_id": "q1", "frage": "how"}]),
        "empty.jsonl": b"",
        "q.txt": b"how\n",
        "queries.jsonl": jsonl([{"_id": "q1", "text": "how"}]),
        "twice.jsonl": jsonl([{"_id": "q1", "text": "how"}, {"_id": "q1", "text": "why"}]),
        "qrels.tsv": b"query-id\tcorpus-id\nq1\tone\nq9\tone\nq8\ttwo\n",
        "splits/queries.jsonl": jsonl([{"_id": "q1", "text": "how"}]),
        "splits/qrels/dev.tsv": b"query-id\tcorpus-id\nq1\tone\n",
        "splits/qrels/train.tsv": b"query-id\tcorpus-id\nq1\tone\n",
        "grades.csv": b"query,document,grade\nhow,one,0.5\n",
        "zeros.csv": b"query,document,grade\nhow,one,0\n",
        "both.csv": b"query,document,grade\nhow,one,1\nhow,one,2\n",
        "texts.csv": b"query-id,query,document\nq1,how,one\nq1,why,two\n",
        "blank.csv": b"query,document\n,one\n",
        "half.jsonl": jsonl([{"query": "how \ud800", "document": "one"}]),
        "half_id.jsonl": jsonl([{"query": "how", "document": "\ud800"}]),
        "others.csv": b"query,document\nhow,x\n",
        "semicolons.csv": b"query;document\nhow;one\n",
        "strange.csv": b"ask,url\nhow,one\n",
        "latin.csv": "query,document\ncaf\xe9,one\n".encode("latin-1"),
    }.items():
        put(name, data)(bench)
    embedded(bench)
    check_refused_before_a_model(REFUSED, bench)


CALLS: list[tuple[Any, str]] = [
    (5,
     "The questions are of the type int. Give the path of a file or folder, a list, a DataFrame or "
     "{question: [id, …]}."),
    (["how", 5],
     "Question 2 is of the type int. Give texts, rows with columns, {question: [id, …]}, or the path of a file."),
    ({"how": []}, "The question 'how' has no document. Name those that answer it, or remove it."),
    ({"how": {"a": "x"}}, "questions row 1: grade is 'x', not a number."),
    ({"how": None}, "questions row 1: document is missing, not an id."),
    ({}, "questions has no rows."),
    ([" "], "questions row 1: query is ' ', not a text. Remove the row."),
]  # fmt: skip


def test_questions_of_python() -> None:
    for given, message in CALLS:
        with pytest.raises(SfrBatchError) as error:
            read_questions(given)
        assert str(error.value) == message
    with pytest.raises(ConfigError, match=r"^qrels is for questions that are files\. Give \{question: "):
        read_questions({"how": "a"}, "qrels.tsv")
    assert read_questions({"how": np.int64(7)}).qrels == {"how": {"7": 1}}
