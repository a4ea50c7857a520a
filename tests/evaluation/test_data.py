"""Data sets as they lie on a disk or in a bucket become values; what is wrong in them is a sentence."""

import gzip
import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from sfr_batch.config.settings import StorageSettings
from sfr_batch.errors import CorpusError
from sfr_batch.evaluation.data.retrieval_set import read_retrieval
from sfr_batch.evaluation.data.sets import (
    Candidates,
    read_classes,
    read_clusters,
    read_pairs,
    read_rerankings,
    read_summaries,
)
from sfr_batch.evaluation.task_files import Task, shipped_tasks
from tests.evaluation.published import SETS, needs_sets
from tests.tables import put as put_in

LOCAL = StorageSettings()
STS = Task(name="sts", type="sts")  # type: ignore[call-arg]
SEARCH = Task(name="search", type="retrieval")  # type: ignore[call-arg]
CLASSES = Task(name="classes", type="classification")  # type: ignore[call-arg]
CLUSTERS = Task(name="clusters", type="clustering")  # type: ignore[call-arg]
RANKS = Task(name="ranks", type="reranking")  # type: ignore[call-arg]
SUMMARIES = Task(name="summaries", type="summarization")  # type: ignore[call-arg]


def jsonl(*rows: Mapping[str, Any]) -> bytes:
    return b"".join(json.dumps(row).encode() + b"\n" for row in rows)


def beir(**changed: bytes) -> dict[str, bytes]:
    files = {
        "corpus.jsonl": jsonl(
            {"_id": "a", "title": "Fire", "text": "It is hot."}, {"_id": "b", "title": "", "text": "Water is wet."}
        ),
        "queries.jsonl": jsonl({"_id": "1", "text": "What is hot?"}, {"_id": "2", "text": "Who knows?"}),
        "qrels/test.tsv": b"query-id\tcorpus-id\tscore\n1\ta\t1\n1\tb\t0\n",
    }
    return files | {
        name.replace("__", "/").replace("_tsv", ".tsv").replace("_jsonl", ".jsonl"): data
        for name, data in changed.items()
    }


def put(folder: Path, files: Mapping[str, bytes]) -> str:
    for name, data in files.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(data)
    return str(folder)


# --- forms


def test_a_set_in_the_layout_of_beir(place: str) -> None:
    """On a disk and in a bucket. Judged queries alone are asked; the corpus stays in its files."""
    for name, data in beir().items():
        put_in(place, f"set/{name}", data)
    found = read_retrieval(SEARCH, f"{place}/set", LOCAL)
    assert [uri.rsplit("/", 1)[-1] for uri in found.corpus] == ["corpus.jsonl"]
    assert (found.documents, found.left_out) == (2, 1)
    assert found.columns == {"id": "_id", "text": "text", "title": "title"}
    assert found.queries == {"1": "What is hot?"}
    assert found.qrels == {"1": {"a": 1, "b": 0}}


def test_the_format_of_the_files_makes_no_difference(tmp_path: Path) -> None:
    """JSON Lines, compressed or not, and Parquet as the Hugging Face hub has it: one version, for it is one set."""
    plain = read_retrieval(SEARCH, put(tmp_path / "plain", beir()), LOCAL)
    packed = {f"{name}.gz": gzip.compress(data) for name, data in beir().items()}
    compressed = read_retrieval(SEARCH, put(tmp_path / "packed", packed), LOCAL)
    (tmp_path / "hub" / "qrels").mkdir(parents=True)
    for name, rows in {
        "corpus-00000-of-00002": [{"_id": "a", "title": "Fire", "text": "It is hot."}],
        "corpus-00001-of-00002": [{"_id": "b", "title": "", "text": "Water is wet."}],
        "queries": [{"_id": "1", "text": "What is hot?"}, {"_id": "2", "text": "Who knows?"}],
        "qrels/test-00000-of-00001": [
            {"query-id": "1", "corpus-id": "a", "score": 1},
            {"query-id": "1", "corpus-id": "b", "score": 0},
        ],
    }.items():
        pq.write_table(pa.Table.from_pylist(rows), tmp_path / "hub" / f"{name}.parquet")
    hub = read_retrieval(SEARCH, str(tmp_path / "hub"), LOCAL)
    assert plain.version == compressed.version == hub.version
    assert len(hub.corpus) == 2
    other = beir(qrels__test_tsv=b"query-id\tcorpus-id\tscore\n1\ta\t2\n")
    assert read_retrieval(SEARCH, put(tmp_path / "other", other), LOCAL).version != plain.version


HEAD = "score\tsentence1\tsentence2\n0\tA.\tB.\n"
QUOTED = HEAD + '1\t"He said ""no""."\tA dog.\n'
PLAIN = HEAD + '1\tHe said "no".\tA dog.\n'


@pytest.mark.parametrize(
    ("name", "data", "first"),
    [
        ("test.tsv", PLAIN, ["A.", 'He said "no".']),
        ("test.tsv", QUOTED, ["A.", 'He said "no".']),
        ("test.tsv", PLAIN + '2\t"This is it," he said.\tA cat.\n', ["A.", 'He said "no".', '"This is it," he said.']),
        ("test.tsv", PLAIN + '2\t"All of it."\tA cat.\n', ["A.", 'He said "no".', '"All of it."']),
        ("test.tsv", 'score\tsentence1\tsentence2\n1\t"One."\t"Two."\n2\t"Three."\t"Four."\n', ["One.", "Three."]),
        ("test.tsv", '"score"\t"sentence1"\t"sentence2"\n"1"\t"One."\t"Two"\n"2"\t"Three."\t"4"\n', ["One.", "Three."]),
        ("test.tsv", 'score\tsentence1\tsentence2\n1\t"One."\tTwo.\n2\tThree.\tFour.\n', ['"One."', "Three."]),
        (
            "test.tsv",
            "score\tsentence1\tsentence2\r\n1\tA\x85B\x0bC\u2028D\tE\r\n2\tF\tG\r\n",
            ["A\x85B\x0bC\u2028D", "F"],
        ),
        ("test.tsv", "\ufeffscore\tsentence1\tsentence2\n1\t A \tB\n2\tC\tD\n", [" A ", "C"]),
        (
            "test.csv",
            'score,sentence1,sentence2\n1,"He said ""no"", then\nleft.",B\n2,C,D\n',
            ['He said "no", then\nleft.', "C"],
        ),
        ("test.csv", "score,sentence1,sentence2\n1,null,NA\n2,C,D\n", ["null", "C"]),
        ("test.jsonl", '{"score": [1, 2], "sentence1": ["A\\tB", "C"], "sentence2": ["D", "E"]}\n', ["A\tB", "C"]),
        ("dev.jsonl", '{"label": [1, 0], "sent1": ["A", "B"], "sent2": ["C", "D"]}\n', ["A", "B"]),
    ],
    ids=[
        *(
            "bare",
            "quoted by pandas",
            "quotes of speech",
            "one all in quotes",
            "every field quoted",
            "and every name of a column",
            "one of two quoted",
        ),
        *("line breaks that are none", "byte order mark", "csv", "null is a text", "jsonl", "old form of mteb"),
    ],
)
def test_texts_are_read_as_they_are(tmp_path: Path, name: str, data: str, first: list[str]) -> None:
    (tmp_path / name).write_text(data, encoding="utf-8", newline="")
    task = STS.model_copy(update={"split": name.split(".")[0]})
    assert read_pairs(task, str(tmp_path), LOCAL).first == first
    assert read_pairs(task, str(tmp_path / name), LOCAL).first == first, "the file itself may be named"


def test_columns_may_have_names_of_their_own(tmp_path: Path) -> None:
    folder = put(
        tmp_path,
        {
            "train.jsonl": jsonl({"utterance": "a", "intent": 1}, {"utterance": "b", "intent": 2}),
            "validation.csv": b"utterance,intent\nc,2\n",
        },
    )
    task = CLASSES.model_copy(update={"split": "dev", "columns": {"text": "utterance", "label": "intent"}})
    found = read_classes(task, folder, LOCAL)
    assert (found.train.texts, found.train.labels) == (["a", "b"], ["1", "2"])
    assert (found.test.texts, found.test.labels) == (["c"], ["2"])


def test_clusters_of_rows_and_of_lists(tmp_path: Path) -> None:
    put(tmp_path, {"train.tsv": b"text\tcategory\na\tx\n", "test.tsv": b"text\tcategory\nb\ty\nc\tx\n"})
    both = read_clusters(CLUSTERS.model_copy(update={"files": ("train", "test")}), str(tmp_path), LOCAL)
    assert [(own.texts, own.labels) for own in both.sets] == [(["a", "b", "c"], ["x", "y", "x"])]
    lists = jsonl({"sentences": ["a", "b"], "labels": [0, 1]}, {"sentences": ["c", "d"], "labels": [1, 0]})
    old = read_clusters(CLUSTERS, put(tmp_path / "old", {"test.jsonl": lists}), LOCAL)
    assert [(own.texts, own.labels) for own in old.sets] == [(["a", "b"], ["0", "1"]), (["c", "d"], ["1", "0"])]


def test_of_several_languages_the_subset_is_read(tmp_path: Path) -> None:
    """A folder for each, a file for each in the folder of a split, a column, as the hub has the sets of mteb."""
    english = [{"text": "cat", "label": 1.0, "lang": "en"}, {"text": "rain", "label": 2.0, "lang": "en"}]
    german = [{"text": "Katze", "label": 1.0, "lang": "de"}, {"text": "Regen", "label": 2.0, "lang": "de"}]
    bare = [{**row, "lang": None} for row in english]
    layouts: list[dict[str, list[dict[str, Any]]]] = [
        {"{split}": [*german, *english]},
        {"{split}/en": english, "{split}/de": german},
        {"{split}/part-1": german, "{split}/part-2": english},
        {"en/{split}": bare, "de/{split}": german, "{split}": german},
        {"{split}": bare},
        {"{split}": [{**row, "lang": "eng"} for row in english]},
    ]
    for number, layout in enumerate(layouts):
        files = {
            f"{name.format(split=split)}.jsonl": jsonl(*rows)
            for name, rows in layout.items()
            for split in ("train", "test")
        }
        folder = put(tmp_path / str(number), files)
        found = read_classes(CLASSES.model_copy(update={"subset": "en"}), folder, LOCAL)
        assert found.train == found.test
        assert (found.train.texts, found.train.labels) == (["cat", "rain"], ["1", "2"]), layout
    both = read_classes(CLASSES, str(tmp_path / "0"), LOCAL)
    assert both.train.texts == ["Katze", "Regen", "cat", "rain"], "a task without a subset has all"
    with pytest.raises(CorpusError) as error:
        read_classes(CLASSES.model_copy(update={"subset": "fr"}), str(tmp_path / "0"), LOCAL)
    assert str(error.value) == (
        f"{tmp_path}/0/train.jsonl has rows of several languages, and none with fr in its column lang: de, en. Give "
        "the data of classes alone, or a task of your own whose subset is one of these."
    )


@pytest.mark.parametrize(
    ("corpus", "queries", "qrels"),
    [
        ("en-corpus/test-00000-of-00001", "en-queries/test-00000-of-00001", "en-qrels/test-00000-of-00001"),
        ("en/corpus", "en/queries", "en/qrels/test"),
        ("corpus/corpus-00000-of-00001", "queries/queries-00000-of-00001", "en/test-00000-of-00001"),
        ("corpus/test-00000-of-00001", "queries/test-00000-of-00001", "qrels/test-00000-of-00001"),
        ("corpus", "queries", "data/test-00000-of-00001"),
    ],
)
def test_sets_of_retrieval_as_the_hub_has_them(tmp_path: Path, corpus: str, queries: str, qrels: str) -> None:
    """Beside those of another language or split, which are not read."""
    files = {corpus: "corpus.jsonl", queries: "queries.jsonl", qrels: "qrels/test.tsv"}
    ending = {".jsonl": ".jsonl", ".tsv": ".tsv"}
    own = {f"{name}{ending[Path(file).suffix]}": beir()[file] for name, file in files.items()}
    others = {
        name.replace("en", "de", 1) if name.startswith("en") else name.replace("test", "dev"): b"{"
        for name in own
        if name.startswith("en") or "test" in name
    }
    found = read_retrieval(SEARCH.model_copy(update={"subset": "en"}), put(tmp_path, {**others, **own}), LOCAL)
    assert found.version == read_retrieval(SEARCH, put(tmp_path / "plain", beir()), LOCAL).version


def test_the_version_tells_splits_and_lists_apart(tmp_path: Path) -> None:
    """Where a row is in the other split, or only the first text of a list differs."""
    rows = [{"text": ["a", "b"], "label": [1, 2]}, {"text": ["c", "d"], "label": [1, 2]}, {"text": "e", "label": 1}]
    changed = [{"text": ["a", "b"], "label": [1, 2]}, {"text": ["x", "d"], "label": [1, 2]}, {"text": "e", "label": 1}]
    versions = []
    for number, (train, test) in enumerate([(rows[:2], rows[2:]), (rows[:1], rows[1:]), (changed[:2], changed[2:])]):
        folder = put(tmp_path / str(number), {"train.jsonl": jsonl(*train), "test.jsonl": jsonl(*test)})
        versions.append(read_classes(CLASSES, folder, LOCAL).version)
    assert len({*versions}) == 3


def test_candidates_and_summaries(tmp_path: Path) -> None:
    rows = jsonl(
        {"query": "q", "positive": ["p"], "negative": ["n", "m"]},
        {"query": ["q", "r"], "positive": ["p"], "negative": ["n"]},
        {"query": "s", "positive": [], "negative": ["n"]},
    )
    ranks = read_rerankings(RANKS, put(tmp_path / "r", {"test.jsonl": rows}), LOCAL)
    assert ranks.rows == [Candidates(["q"], ["p"], ["n", "m"]), Candidates(["q", "r"], ["p"], ["n"])]
    assert ranks.left_out == 1
    row = {"human_summaries": ["h"], "machine_summaries": ["m", ""], "relevance": [4.5, 1], "text": "t"}
    (summaries,) = read_summaries(SUMMARIES, put(tmp_path / "s", {"test.jsonl": jsonl(row)}), LOCAL).rows
    assert (summaries.human, summaries.machine, summaries.relevance) == (["h"], ["m", ""], [4.5, 1.0])


@needs_sets
def test_published_sets() -> None:
    """Their sizes, and those texts that a reader of another dialect gets wrong."""
    tasks = shipped_tasks()
    science = read_retrieval(tasks["SciFact"], str(SETS / "beir/scifact"), LOCAL)
    assert (science.documents, len(science.queries), science.left_out) == (5183, 300, 809)
    pairs = read_pairs(tasks["STSBenchmark"], str(SETS / "sts/STSBenchmark"), LOCAL)
    assert len(pairs.first) == 1379
    assert 'A young boy jumping into a pool that says "no diving".' in pairs.first
    banking = read_classes(tasks["Banking77Classification"], str(SETS / "cls/banking77"), LOCAL)
    assert (len(banking.train.texts), len(banking.test.texts), len({*banking.train.labels})) == (10003, 3080, 77)
    languages = read_clusters(tasks["SIB200ClusteringS2S"], str(SETS / "clu/sib200-eng"), LOCAL)
    assert [len(own.texts) for own in languages.sets] == [1004]
    assert any(text.startswith('"She’s very cute and sings quite well, too," he') for text in languages.sets[0].texts)
    dutch = read_pairs(tasks["SICKNLPairClassification"], str(SETS / "pair/sick-nl"), LOCAL)
    assert (len(dutch.first), sum(dutch.scores)) == (2115, 1404)


# --- what is wrong


@pytest.mark.parametrize(
    ("files", "message"),
    [
        (
            beir(qrels__test_tsv=b"query-id\tcorpus-id\tscore\n1\tz\t1\n1\ty\t1\n"),
            "{set}/qrels/test.tsv row 1 and below judge the document 'z' for the query '1', which {set}/corpus.jsonl "
            "does not have (and 1 other document). Fetch the data set again, or remove these judgements.",
        ),
        (
            beir(qrels__test_tsv=b"query-id\tcorpus-id\tscore\n1\ta\t1\n9\ta\t1\n"),
            "{set}/qrels/test.tsv row 2 judges the query '9', which {set}/queries.jsonl does not have. Fetch the data "
            "set again, or remove these judgements.",
        ),
        (
            beir(qrels__test_tsv=b"query-id\tcorpus-id\tscore\n"),
            "{set}/qrels/test.tsv has no judgements: the split is empty. Name another split, or fetch it again.",
        ),
        (
            beir(qrels__test_tsv=b"query-id\tcorpus-id\tscore\n1\ta\t0\n"),
            "{set}/qrels/test.tsv: no document is relevant to any query (all grades are 0 or less).",
        ),
        (
            beir(qrels__test_tsv=b"query-id\tcorpus-id\tscore\n1\ta\t1\n1\ta\t2\n"),
            "{set}/qrels/test.tsv row 2 gives 'a' the grade 2 for the query '1', an earlier row 1. Keep one of them.",
        ),
        (
            beir(qrels__test_tsv=b"query-id\tcorpus-id\tscore\n1\ta\t0.5\n"),
            "{set}/qrels/test.tsv row 1: the grade 0.5 is not a whole number, which nDCG needs.",
        ),
        (
            beir(qrels__test_tsv=b"query-id\tcorpus-id\tscore\n1\ta\t1764439200\n"),
            "{set}/qrels/test.tsv row 1: the grade 1764439200 is beyond 1,000,000, the most that trec_eval can count. "
            "Is another column the grade?",
        ),
        (
            beir(qrels__test_tsv=b"1 0 a 1\n1 0 b 0\n"),
            "{set}/qrels/test.tsv begins with '1 0 a 1', which names no columns. The first line of judgements is "
            "query-id, corpus-id and score with tabs between them, and each line below has these three.",
        ),
        (
            beir(corpus_jsonl=jsonl({"_id": "a", "text": "x"}, {"_id": "b", "text": "x"}, {"_id": "a", "text": "y"})),
            "{set}/corpus.jsonl row 3: the id 'a' is also that of {set}/corpus.jsonl row 1. Keep one of them.",
        ),
        (
            beir(queries_jsonl=jsonl({"_id": "1", "text": "x"}, {"_id": "1", "text": "y"})),
            "{set}/queries.jsonl row 2: there is another query '1'. Give it an id of its own.",
        ),
        (
            beir(queries_jsonl=jsonl({"_id": "1", "text": " "})),
            "{set}/queries.jsonl row 1: text is ' ', not a text. Remove the row.",
        ),
        (
            beir(corpus_jsonl=jsonl({"_id": "a", "body": "x"})),
            "{set}/corpus.jsonl row 1 has no column text, sentence, sentences, texts. Columns there: _id, body. Say "
            "which one it is in the task's columns: {text: NAME}.",
        ),
        (
            beir(corpus_jsonl=b'{"_id": "a", "text": "x"}\n{"_id":\n'),
            "{set}/corpus.jsonl row 2: the line is not JSON: Expecting value: line 2 column 1 (char 8). Correct it, or "
            "fetch the file again.",
        ),
        (
            {name: data for name, data in beir().items() if "qrels" not in name},
            "{set} has no file qrels/test (.tsv, .csv, .jsonl and .parquet; all but Parquet also with .gz and .zst). "
            "It has: corpus.jsonl, queries.jsonl.",
        ),
        (
            {**beir(), "corpus.csv": b"_id,text\na,x\n"},
            "Several files answer to corpus: {set}/corpus.csv, {set}/corpus.jsonl. Keep one of them.",
        ),
    ],
)
def test_a_wrong_retrieval_set_is_explained(tmp_path: Path, files: Mapping[str, bytes], message: str) -> None:
    folder = put(tmp_path, files)
    with pytest.raises(CorpusError) as error:
        read_retrieval(SEARCH, folder, LOCAL)
    assert str(error.value) == message.replace("{set}", folder)


@pytest.mark.parametrize(
    ("read", "task", "files", "message"),
    [
        (
            read_pairs,
            STS,
            {"test.tsv": b"score\tsentence1\tsentence2\n1\ta\n"},
            "{set}/test.tsv row 1: the row has 2 fields, the header 3: a text that contains tabs or line breaks needs "
            "another format, such as .csv or .jsonl. Correct it, or fetch the file again.",
        ),
        (
            read_pairs,
            STS,
            {"test.csv": b"score,sentence1,sentence2\nnan,a,b\n"},
            "{set}/test.csv row 1: score is 'nan', not a number.",
        ),
        (
            read_pairs,
            STS,
            {"test.jsonl": jsonl({"score": [1], "sentence1": ["a", "b"], "sentence2": ["c", "d"]})},
            "{set}/test.jsonl row 1: its lists have different lengths: 2 of sentence1, 2 of sentence2, 1 of score. "
            "Fetch the file again.",
        ),
        (
            read_pairs,
            STS,
            {"test.jsonl": b""},
            "{set}/test.jsonl has no rows: the split test is empty. Fetch the data set again.",
        ),
        (
            read_pairs,
            STS,
            {"test.tsv": b"score\tsentence1\tsentence2\n"},
            "{set}/test.tsv has no rows: the split test is empty. Fetch the data set again.",
        ),
        (
            read_pairs,
            STS.model_copy(update={"type": "pair_classification"}),
            {"test.csv": b"label,sentence1,sentence2\n1,a,b\n2,c,d\n"},
            "{set}/test.csv row 2: the label is 2, but pair_classification has only 1, for a pair that belongs "
            "together, and 0. Write these, or name the right column in the task's columns: {score: NAME}.",
        ),
        (
            read_pairs,
            STS,
            {"test.csv": b"score,sentence1,sentence2\n1,a,b\n1,c,d\n"},
            "sts: all pairs have the same score, 1, so nothing can be scored. Name the right column in the task's "
            "columns: {score: NAME}.",
        ),
        (
            read_summaries,
            SUMMARIES,
            {"test.jsonl": jsonl({"human_summaries": ["h"], "machine_summaries": ["m", "n"], "relevance": [1, 1]})},
            "summaries: in each row, all relevance is the same, so nothing can be scored.",
        ),
        (
            read_pairs,
            STS,
            {"test.parquet": b"PAR1"},
            "{set}/test.parquet cannot be read: ",
        ),
        (
            read_pairs,
            STS.model_copy(update={"columns": {"left": "a"}}),
            {"test.tsv": b"a\n"},
            "columns: 'left' is no column of a data set. Known: id, title, text, query_id, corpus_id, score, "
            "sentence1, sentence2, label, query, positive, negative, human_summaries, machine_summaries, relevance.",
        ),
        (
            read_classes,
            CLASSES,
            {"train.csv": b"text,label\na,x\nb,y\n", "test.csv": b"text,label\nc,z\n"},
            "{set}: no row of the split train has the label 'z' of the split test. Check that both splits are of one "
            "data set and name the same column of labels.",
        ),
        (
            read_classes,
            CLASSES,
            {"train.csv": b"text,label\na,x\n", "test.csv": b"text,label\nc,x\n"},
            "{set}: all rows of the split train have the label 'x'.",
        ),
        (
            read_rerankings,
            RANKS,
            {"test.jsonl": jsonl({"query": "q", "positive": ["p"], "negative": []})},
            "ranks: no row has both positive and negative candidates. Check the columns.",
        ),
        (
            read_rerankings,
            RANKS,
            {"test.csv": b"query,positive,negative\nq,\"['a', 'b']\",\"['c']\"\n"},
            "{set}/test.csv row 1: positive is a list that was written as one text, \"['a', 'b']\". A CSV or TSV has "
            "no lists: save the data as .jsonl or .parquet.",
        ),
        (
            read_summaries,
            SUMMARIES,
            {"test.tsv": b'human_summaries\tmachine_summaries\trelevance\nh\t["m", "n"]\t1\n'},
            '{set}/test.tsv row 1: machine_summaries is a list that was written as one text, \'["m", "n"]\'. A CSV',
        ),
        (
            read_clusters,
            CLUSTERS,
            {"test.csv": b"sentences,labels\n\"['a' 'b']\",\"['x' 'y']\"\n"},
            "{set}/test.csv row 1: sentences is a list that was written as one text, \"['a' 'b']\". A CSV",
        ),
        (
            read_summaries,
            SUMMARIES,
            {"test.jsonl": jsonl({"human_summaries": [], "machine_summaries": ["m"], "relevance": [1]})},
            "{set}/test.jsonl row 1: it has no human_summaries or no machine_summaries. Remove the row.",
        ),
        (
            read_clusters,
            CLUSTERS,
            {"test.jsonl": jsonl({"text": "a", "label": None})},
            "{set}/test.jsonl row 1: label is missing, not a label. Remove the row, or name the right column in the "
            "task's columns: {label: NAME}.",
        ),
        (
            read_clusters,
            CLUSTERS,
            {"test.jsonl": jsonl({"sentences": [], "labels": []})},
            "{set}/test.jsonl row 1: its lists are empty. Remove the row.",
        ),
        (
            read_clusters,
            CLUSTERS,
            {"test.csv": b"text,label\na,x\nb,x\n"},
            "clusters: all texts have the same label, so nothing can be scored. Name the right column in the task's "
            "columns: {label: NAME}.",
        ),
    ],
)
def test_a_wrong_set_is_explained(
    tmp_path: Path, read: Callable[..., object], task: Task, files: Mapping[str, bytes], message: str
) -> None:
    folder = put(tmp_path, files)
    with pytest.raises(CorpusError) as error:
        read(task, folder, LOCAL)
    assert str(error.value).startswith(message.replace("{set}", folder))
