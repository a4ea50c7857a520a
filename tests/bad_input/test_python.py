"""Bad input: calls in Python, where no command line has looked at the arguments. Each gives a sentence."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import sfr_batch as sfr
from sfr_batch.storage.stores import open_store
from sfr_batch.table import vectors
from tests.tables import make_table

FILE = Path(__file__).parents[2] / "configs" / "demo.yaml"
UNKNOWN = f"{FILE} has 1 wrong setting:\n  select.limt: unknown setting. Did you mean limit?"
NO_NAME = (
    "is not the name of a setting. Write section.field, such as 'corpus.path', or a section and in it its fields: "
    "{'corpus': {'path': …}}."
)
CALLS: list[tuple[Callable[[sfr.EmbeddingTable], Any], str]] = [
    (lambda t: sfr.plan(FILE, ["select.limt=1"]), UNKNOWN),
    (lambda t: sfr.plan(FILE, {"select.limt": 1}), UNKNOWN),
    (lambda t: sfr.embed(FILE, select={"limt": 1}), UNKNOWN),
    (lambda t: t.audit({"corpus.path": "c"}),
     "config has 2 wrong settings:\n  model: missing, and it has no default\n  table: missing, and it has no default"),
    (lambda t: sfr.plan(FILE, {"corpus..path": "c"}), f"The override 'corpus..path' {NO_NAME}"),
    (lambda t: sfr.plan(FILE, {"run": {1: 2}}), f"The override 1 in run {NO_NAME}"),
    (lambda t: sfr.plan(FILE, [("select.limit", 1)]),  # type: ignore[list-item]
     "An override is a text, section.field=value, and not tuple. Values of Python go into a dictionary: "
     "{'select.limit': 10}."),
    (lambda t: sfr.audit("table", select={"limit": 1}),
     "Overrides need a config whose settings they change: audit(path, against=CONFIG, …)."),
    (lambda t: sfr.plan(None),  # type: ignore[arg-type]
     "The config is of the type NoneType. Give the path of its file, its settings as a dictionary, or what load_config "
     "returned."),
    (lambda t: sfr.open_table(5),  # type: ignore[arg-type]
     "A path is of the type int. Give a folder, or a text s3://bucket/prefix."),
    (lambda t: sfr.open_table("t", {"region": "x"}),  # type: ignore[arg-type]
     "Storage settings are of the type dict. Give them as StorageSettings(endpoint_url=…, region=…)."),
    (lambda t: t.search(["a"]),  # type: ignore[arg-type]
     "The query is of the type list. Give one text; for several, use search_many."),
    (lambda t: t.search_many("ab"), "queries must be a list: ['ab'] instead of 'ab'."),
    (lambda t: t.search_many(["a", 5]),  # type: ignore[list-item]
     "Query 1 is of the type int. Give a text, or all queries as vectors."),
    (lambda t: t.search_many(["a", " "]), "Query 1 is empty. Give a text to search for."),
    (lambda t: t.search_many(np.ones((2, 4))),
     "The queries have the shape (2, 4). This table needs [q, 3]: a row of 3 numbers for each."),
    (lambda t: t.search_many(np.eye(3)[:2] * [[1], [0]]),
     "Query 1 has the length 0.0: it is no direction to search in."),
    (lambda t: t.search("a", where=5),  # type: ignore[arg-type]
     "where is 5. Give a text, such as \"package = 'numpy' and n_tokens > 20\"."),
    (lambda t: t.search("a", k=0), "k is 0. It must be a whole number, at least 1."),
    (lambda t: t.search("a", columns="text"), "columns must be a list: ['text'] instead of 'text'."),
    (lambda t: t.to_arrow("id"), "columns must be a list: ['id'] instead of 'id'."),
    (lambda t: t.to_arrow(ids=5),  # type: ignore[arg-type]
     "ids must be a list: [5] instead of 5."),
    (lambda t: t.to_arrow(where=5),  # type: ignore[arg-type]
     "where is 5. Give a text, such as \"package = 'numpy' and n_tokens > 20\"."),
    (lambda t: t.at("1"),  # type: ignore[arg-type]
     "snapshot is '1'. It must be a whole number, at least 0."),
    (lambda t: t.sample(2.5),  # type: ignore[arg-type]
     "n is 2.5. It must be a whole number, at least 1."),
    (lambda t: t.sample(1, seed=-1), "seed is -1. It must be a whole number, at least 0."),
    (lambda t: t.sample(1, ["n_tokens"]).to_numpy(),
     "The sample has no column id and no column embedding: it was taken with other columns. Take it with "
     "columns=['id', 'embedding'], or without columns=."),
    (lambda t: t.to_numpy(dtype="float16"),  # type: ignore[arg-type]
     "dtype is 'float16'. Choose 'float32', or 'stored' for that of the table, float32."),
    (lambda t: t.expire(keep_last="1"),  # type: ignore[arg-type]
     "keep_last is '1'. It must be a whole number, at least 1."),
    (lambda t: t.maintenance.sweep(older_than=7),  # type: ignore[arg-type]
     "older_than 7: give a number of days, hours or minutes, such as 7d, 36h or 90m."),
]  # fmt: skip


@pytest.fixture
def table(tmp_path: Path) -> sfr.EmbeddingTable:
    make_table(open_store(str(tmp_path)), {"a": ["one", "two"]})
    return sfr.open_table(tmp_path)


def test_calls(table: sfr.EmbeddingTable) -> None:
    for call, message in CALLS:
        with pytest.raises(sfr.SfrBatchError) as caught:
            call(table)
        assert str(caught.value) == message


def test_more_vectors_than_memory(table: sfr.EmbeddingTable, monkeypatch: pytest.MonkeyPatch) -> None:
    """Said before they are read, and with a filter as soon as it is known; what the message proposes succeeds."""
    monkeypatch.setattr(vectors, "free_memory", lambda: 150)
    way_out = (
        " of 3 numbers as float32 take 0.0 GB, and 0.0 GB of memory are free. Choose fewer rows (where=, ids=, or "
        "sample(n).to_numpy()), or go through them piece by piece: batches(['id', 'embedding'])."
    )
    for call, start in ((table.to_numpy, ""), (lambda: table.to_numpy(where="n_tokens > 0"), "at least ")):
        with pytest.raises(sfr.errors.ConfigError) as caught:
            call()
        assert str(caught.value) == f"{table.store.root}: {start}2 vectors{way_out}"
    assert len(table.to_numpy(ids=["two"]).ids) == len(table.sample(1).to_numpy().ids) == 1


def test_pandas_is_missing(table: sfr.EmbeddingTable, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(__import__("sys").modules, "pandas", None)
    for call in (table.to_pandas, table.sample(1).to_pandas, table.snapshots().to_pandas, sfr.Hits().to_pandas):
        with pytest.raises(sfr.errors.ConfigError, match=r"^pandas is not installed\. Install it: pip install pandas$"):
            call()
    assert table.sample(1).to_arrow().num_rows == 1
