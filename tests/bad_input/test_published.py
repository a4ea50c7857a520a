"""Bad input: model cards and result files that hold no published scores, or those of several models."""

import json
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import pytest

import sfr_batch as sfr
from sfr_batch.config.settings import StorageSettings
from sfr_batch.evaluation.published.reading import read_published

CARD = """---
model-index:
- name: one
  results:
  - dataset: {name: MTEB SciFact, config: default, split: test}
    metrics: [{type: ndcg_at_10, value: 64.5}]
---
"""
TWO = CARD.removesuffix("---\n") + CARD.split("model-index:\n")[1].replace("one", "two")
RESULT = json.dumps({"task_name": "SciFact", "scores": {"test": [{"hf_subset": "default", "ndcg_at_10": 0.645}]}})
OF_MODEL = "Give the card of a model that has one, or a folder of result files of mteb."
OF_PATH = "Give a model card (README.md), or a folder of result files of mteb (such as SciFact.json)."


@dataclass(frozen=True)
class Row:
    """Files, the path that is given, the whole message, and the files with which the same path succeeds after all."""

    name: str
    files: Mapping[str, str | bytes]
    path: str
    message: str
    repair: Mapping[str, str | bytes]
    then: str | None = None
    """The path that the message proposes instead."""


ROWS = [
    Row("nothing there", {}, "none", f"There is nothing at {{root}}/none. {OF_PATH}", {"none/SciFact.json": RESULT}),
    Row("no result", {"r/a.json": "{}"}, "r", f"{{root}}/r holds no published scores. {OF_PATH}",
        {"r/SciFact.json": RESULT}),
    Row("several models", {"r/a/1/SciFact.json": RESULT, "r/b/1/SciFact.json": RESULT}, "r",
        "{root}/r holds results of several models or revisions. Give one of its folders: {root}/r/a/1, {root}/r/b/1.",
        {}, "r/a/1"),
    Row("no front matter", {"c.md": "# Ours\n"}, "c.md",
        f"{{root}}/c.md does not begin with ---, so it has no model-index with scores. {OF_MODEL}", {"c.md": CARD}),
    Row("no model-index", {"c.md": "---\nlicense: mit\n---\n"}, "c.md",
        f"{{root}}/c.md has no model-index, where a model card keeps scores. {OF_MODEL}", {"c.md": CARD}),
    Row("a list", {"c.yaml": "- 1\n"}, "c.yaml",
        f"{{root}}/c.yaml has no model-index, where a model card keeps scores. {OF_MODEL}", {"c.yaml": CARD}),
    Row("no results", {"c.md": "---\nmodel-index:\n- name: one\n  results: []\n---\n"}, "c.md",
        f"The model-index of {{root}}/c.md has no scores. {OF_MODEL}", {"c.md": CARD}),
    Row("no number", {"c.md": CARD.replace("64.5", "NaN")}, "c.md",
        f"The model-index of {{root}}/c.md has no scores. {OF_MODEL}", {"c.md": CARD}),
    Row("two models", {"c.md": TWO}, "c.md",
        "The model-index of {root}/c.md has scores of several models: one, two. Copy the file and leave one of them "
        "in its model-index.", {"c.md": CARD}),
    Row("no YAML", {"c.md": "---\na: 1\nb: c: d\n---\n"}, "c.md",
        "The text between the first two lines --- of {root}/c.md is not valid YAML: {*}, line 3, column 5:{*}",
        {"c.md": CARD}),
    Row("no YAML alone", {"c.yml": "a: ["}, "c.yml", "{root}/c.yml is not valid YAML: {*}", {"c.yml": CARD}),
    Row("no UTF-8", {"c.md": CARD.encode("utf-16")}, "c.md", "{root}/c.md is not UTF-8: invalid start byte at byte 0.",
        {"c.md": CARD}),
    Row("no JSON", {"r/SciFact.json": RESULT[:-1]}, "r",
        "{root}/r/SciFact.json is not valid JSON: {*}", {"r/SciFact.json": RESULT}),
    Row("other JSON", {"x.json": "[]"}, "x.json",
        "{root}/x.json has no scores as mteb writes them: an object with task_name and scores, or mteb_dataset_name. "
        "Give a model card, a result file of mteb, or a folder of them.", {"x.json": RESULT}),
    Row("on the web", {}, "https://huggingface.co/one/raw/main/README.md",
        "https://huggingface.co/one/raw/main/README.md: the scheme https:// is not supported; use s3:// or a local "
        "path.",
        {"c.md": CARD}, "c.md"),
]  # fmt: skip


@pytest.mark.parametrize("row", ROWS, ids=lambda row: row.name)
def test_no_published_scores(tmp_path: Path, row: Row) -> None:
    """The whole message; and what it proposes succeeds."""
    put(tmp_path, row.files)
    with pytest.raises(sfr.SfrBatchError) as caught:
        read_published(place(tmp_path, row.path), StorageSettings())
    wanted = row.message.replace("{root}", str(tmp_path))
    assert re.fullmatch(".+".join(map(re.escape, wanted.split("{*}"))), str(caught.value), re.DOTALL), str(caught.value)
    put(tmp_path, row.repair)
    found = read_published(place(tmp_path, row.then or row.path), StorageSettings())
    assert [entry.scores["ndcg_at_10"] for entry in found.tasks] == [pytest.approx(0.645)]


def place(root: Path, path: str) -> str:
    return path if "://" in path else str(root / path)


def put(root: Path, files: Mapping[str, str | bytes]) -> None:
    for name, data in files.items():
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_bytes(data if isinstance(data, bytes) else data.encode())
