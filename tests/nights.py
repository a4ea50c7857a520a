"""A corpus that changes from night to night and its table, for tests: no model and no Ray.

Vectors are made from texts, so that a vector of another text than today's is seen.
"""

import contextlib
import hashlib
from collections import Counter
from collections.abc import Container, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest

from sfr_batch.config.loading import config_from_dict
from sfr_batch.config.settings import Config
from sfr_batch.planning import comparison, index_writing, lending, losing_rows, row_comparison, settled_ids, table_ids
from sfr_batch.planning.make import make_plan
from sfr_batch.storage import executor
from sfr_batch.table.table import Snapshot
from tests.tables import do_plan, jsonl, parquet, put

DIM = 8


def vectors_of(texts: Sequence[str]) -> np.ndarray[Any, np.dtype[np.float32]]:
    """Unit vectors [n, 8] that belong to the texts."""
    rows = []
    for text in texts:
        seed = int.from_bytes(hashlib.sha256(text.encode()).digest()[:4], "little")
        numbers = np.random.default_rng(seed).normal(size=DIM)
        rows.append(numbers / np.linalg.norm(numbers))
    return np.asarray(rows, np.float32).reshape(-1, DIM)


@dataclass(frozen=True)
class Place:
    """A corpus, and a table of it."""

    corpus: str
    table: str
    model: str

    def config(self, *overrides: str) -> Config:
        raw = {
            "corpus": {"path": self.corpus, "carry": ["lang"]},
            "model": {"path": self.model, "device": "cpu", "dtype": "float32"},
            "table": {"path": self.table, "delete": "mirror"},
            "run": {"actors": {"gpus": 0}, "rows_per_split": 4, "min_splits": 1, "max_reject_share": 1.0},
        }
        return config_from_dict(raw, overrides)


@dataclass(frozen=True)
class Doc:
    """A row of a corpus; ``text`` "" is a reject."""

    id: str
    text: str
    lang: str = "en"


Shards = dict[str, list[Doc]]


class Writer:
    """Keeps the files of a corpus as a dictionary says."""

    def __init__(self, root: str) -> None:
        self.root = root
        self.now: Shards = {}
        Path(root).mkdir(parents=True, exist_ok=True)

    def write(self, shards: Shards) -> None:
        for name in self.now.keys() - shards.keys():
            (Path(self.root) / name).unlink()
        for name, docs in shards.items():
            if docs == self.now.get(name):
                continue
            rows = [{"id": doc.id, "text": doc.text, "lang": doc.lang} for doc in docs]
            kind = pa.schema([("id", pa.string()), ("text", pa.string()), ("lang", pa.string())])
            data = jsonl(rows) if name.endswith(".jsonl") else parquet(pa.Table.from_pylist(rows, schema=kind))
            put(self.root, name, data)
        self.now = {name: list(docs) for name, docs in shards.items()}


class Counting:
    """Makes vectors, and counts the texts."""

    def __init__(self) -> None:
        self.texts: list[str] = []

    def __call__(self, texts: list[str]) -> Any:
        self.texts += texts
        return vectors_of(texts)


def state_of(snapshot: Snapshot) -> dict[str, tuple[Any, ...]]:
    """Live rows by id, all of their columns."""
    rows = snapshot.to_arrow().to_pylist()
    found = {row["id"]: tuple(str(row[name]) for name in sorted(row)) for row in rows}
    assert len(found) == len(rows), "an id twice"
    return found


def rejects_of(snapshot: Snapshot) -> Counter[tuple[Any, ...]]:
    """What is rejected, but for where a duplicate's vector is."""
    rows = snapshot.rejects().to_pylist()
    return Counter(
        (row["id"], row["shard"], row["reason"], None if row["reason"] == "duplicate_id" else row["position"])
        for row in rows
    )


def expected_vectors(snapshot: Snapshot, shards: Shards, but: Container[str] = ()) -> None:
    """Every live row has the vector of today's text of its id, in the first shard that has it. but: ids of which any
    row may be live."""
    first: dict[str, Doc] = {}
    for name in sorted(shards):
        for doc in shards[name]:
            if doc.text:
                first.setdefault(doc.id, doc)
    rows = {row["id"]: row for row in snapshot.to_arrow().to_pylist()}
    assert rows.keys() == first.keys()
    for id_, doc in first.items():
        if id_ in but:
            continue
        assert rows[id_]["lang"] == doc.lang
        assert np.array_equal(np.asarray(rows[id_]["embedding"], np.float32), vectors_of([doc.text])[0]), id_


@contextlib.contextmanager
def small_tasks(rows: int) -> Iterator[None]:
    """Comparisons are done meanwhile in units of two rows, tasks of ``rows`` rows and partitions of as many."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(executor, "ROWS_A_PARTITION", rows)
        patch.setattr(executor, "ROWS_A_PART", 1)
        for module in (comparison, settled_ids):
            patch.setattr(module, "UNIT_ROWS", 2)
        for module in (lending, losing_rows):
            patch.setattr(module, "ROWS_A_PART", 1)
        for module in (row_comparison, lending, index_writing, table_ids):
            patch.setattr(module, "ROWS_A_TASK", rows)
        yield


def docs_of(name: str, rows: int) -> list[Doc]:
    return [Doc(f"{name}{number}", f"text {number} of {name}") for number in range(rows)]


def night(place: Place, *overrides: str) -> tuple[Snapshot, list[str]]:
    """A night, and the texts that were encoded."""
    counting = Counting()
    return do_plan(make_plan(place.config(*overrides)), encode=counting), counting.texts
