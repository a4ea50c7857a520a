"""Real tasks of mteb, with their splits, prompts and measures, on data of a local folder: nothing is fetched."""

import csv
import inspect
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

SPLITS = {"XQuADRetrieval": ("en", "validation")}


def retrieval(name: str, folder: Path, documents: int | None = None) -> Any:
    """A retrieval task on a BEIR folder: its split of mteb from qrels/test.tsv.

    documents: so many of the first ones, and the queries that are judged for them alone.
    """
    subset, split = SPLITS.get(name, ("default", "test"))
    corpus = [{"id": row["_id"], "title": row["title"], "text": row["text"]} for row in _lines(folder / "corpus.jsonl")]
    corpus = corpus[:documents]
    there = {row["id"] for row in corpus}
    judged: dict[str, dict[str, int]] = {}
    with (folder / "qrels" / "test.tsv").open(encoding="utf-8") as file:
        for row in csv.DictReader(file, delimiter="\t"):
            judged.setdefault(row["query-id"], {})[row["corpus-id"]] = int(row["score"])
    asked = [
        row for row in _lines(folder / "queries.jsonl") if judged.get(row["_id"]) and judged[row["_id"]].keys() <= there
    ]
    return of_retrieval(
        name,
        corpus,
        [{"id": row["_id"], "text": row["text"]} for row in asked],
        {row["_id"]: judged[row["_id"]] for row in asked},
        subset=subset,
        split=split,
    )


def of_retrieval(
    name: str,
    corpus: list[dict[str, str]],
    queries: list[dict[str, str]],
    relevant: dict[str, dict[str, int]],
    *,
    top_ranked: dict[str, list[str]] | None = None,
    subset: str = "default",
    split: str = "test",
) -> Any:
    """A retrieval or reranking task of mteb with these data."""
    from datasets import Dataset

    data = {
        "corpus": Dataset.from_list(corpus),
        "queries": Dataset.from_list(queries),
        "relevant_docs": relevant,
        "top_ranked": top_ranked,
    }
    return _loaded(name, {subset: {split: data}}, subset)


def sts(name: str, rows: list[dict[str, Any]]) -> Any:
    return _loaded(name, _splits(test=rows))


def classification(name: str, train: list[dict[str, Any]], test: list[dict[str, Any]]) -> Any:
    return _loaded(name, _splits(train=train, test=test))


def pair_classification(name: str, rows: list[dict[str, Any]]) -> Any:
    """One row of lists, as mteb's sets of pairs are."""
    columns = {
        column: [row[key] for row in rows]
        for column, key in (("sentence1", "sentence1"), ("sentence2", "sentence2"), ("labels", "label"))
    }
    return _loaded(name, _splits(test=[columns]))


def sib200(splits: dict[str, list[dict[str, Any]]]) -> Any:
    """SIB200ClusteringS2S in English: one set of all splits, as the task makes it."""
    import mteb

    task = mteb.get_task("SIB200ClusteringS2S", hf_subsets=["eng_Latn"])
    task.dataset = {"eng_Latn": _splits(**splits)}
    task.dataset_transform()
    task.data_loaded = True
    return task


def small_tasks() -> Iterator[Any]:
    """The classes of mteb's own small tasks on texts, but for those made of other tasks."""
    from mteb.mocks import mock_tasks

    for name, value in sorted(vars(mock_tasks).items()):
        if "Mock" in name and inspect.isclass(value):
            known = value.metadata
            if known.modalities == ["text"] and not hasattr(known, "tasks"):
                yield value


def read_table(file: Path, quoted: bool = False) -> list[dict[str, Any]]:
    """The rows of a .csv or .tsv; numbers as numbers. quoted: whether quotes of a .tsv are not part of its texts."""
    with file.open(encoding="utf-8", newline="") as lines:
        if file.suffix == ".csv":
            return [{"text": row["text"], "label": row["category"]} for row in csv.DictReader(lines)]
        quoting = csv.QUOTE_MINIMAL if quoted else csv.QUOTE_NONE
        rows: list[dict[str, Any]] = list(csv.DictReader(lines, delimiter="\t", quoting=quoting))
    for row in rows:
        row |= {"score": float(row["score"])} if "score" in row else {}
        row |= {"label": int(row["label"])} if "label" in row else {}
    return rows


def _splits(**rows: list[dict[str, Any]]) -> Any:
    from datasets import Dataset, DatasetDict

    return DatasetDict({split: Dataset.from_list(of_split) for split, of_split in rows.items()})


def _loaded(name: str, data: Any, subset: str = "default") -> Any:
    import mteb

    task = mteb.get_task(name) if subset == "default" else mteb.get_task(name, hf_subsets=[subset])
    task.dataset = data
    task.data_loaded = True
    return task


def _lines(file: Path) -> list[Any]:
    return [json.loads(line) for line in file.read_text(encoding="utf-8").splitlines()]
