"""Nightly runs: the comparison against a pure model, and whole nights on storage against full embeddings.

No model and no Ray here: vectors are made from texts, so that a vector of another text than today's is seen.
"""

import hashlib
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from sfr_batch import planning
from sfr_batch.comparison import InProcess
from sfr_batch.config import Config, config_from_dict
from sfr_batch.incremental import Kind, Was, join, make_records, new_dtype, old_dtype
from sfr_batch.planning import make_plan
from sfr_batch.table import Snapshot
from tests.tables import do_copies, do_plan, do_splits, jsonl, parquet, put

DIM = 8


def vectors_of(texts: Sequence[str]) -> np.ndarray[Any, np.dtype[np.float32]]:
    """Unit vectors [n, 8] that belong to the texts."""
    rows = []
    for text in texts:
        seed = int.from_bytes(hashlib.sha256(text.encode()).digest()[:4], "little")
        numbers = np.random.default_rng(seed).normal(size=DIM)
        rows.append(numbers / np.linalg.norm(numbers))
    return np.asarray(rows, np.float32).reshape(-1, DIM)


# --- the comparison, against a model in plain Python

Row = tuple[int, int, int]
"""Small numbers for id, text and carried columns."""


def _hashes(numbers: Sequence[int]) -> np.ndarray[Any, np.dtype[np.uint64]]:
    found = [hashlib.blake2b(str(number).encode(), digest_size=16).digest() for number in numbers]
    return np.frombuffer(b"".join(found), np.uint64).reshape(-1, 2)


def _records(dtype: np.dtype[np.void], rows: Sequence[Row]) -> Any:
    records = make_records(
        dtype,
        _hashes([id_ for id_, _, _ in rows]),
        _hashes([10 * text + carried + 1000 for _, text, carried in rows]),
        _hashes([text for _, text, _ in rows]),
    )
    return records


@settings(max_examples=300, deadline=None)
@given(
    new=st.lists(st.tuples(*[st.integers(0, 4)] * 3), max_size=12),
    old=st.lists(st.tuples(*[st.integers(0, 4)] * 3, st.sampled_from(Was)), max_size=12),
)
def test_join_is_what_a_dictionary_says(new: list[Row], old: list[tuple[int, int, int, Was]]) -> None:
    mine = _records(new_dtype(carry=True), new)
    mine["at"] = np.arange(len(new))
    theirs = _records(old_dtype(carry=True), [row[:3] for row in old])
    theirs["file"], theirs["vectors"] = np.arange(len(old)), 1
    theirs["was"] = [row[3] for row in old]
    found = join(mine, theirs)

    there = {row[0] for row in old if row[3] != Was.UNPUBLISHED}
    usable = [(at, row) for at, row in enumerate(old) if row[3] != Was.BARRED]
    expected, counts = [], Counter[str]()
    for id_, text, carried in new:
        same = [at for at, row in usable if row[:3] == (id_, text, carried)]
        alike = [at for at, row in usable if row[:2] == (id_, text)]
        kind = Kind.REUSE if same else Kind.COPY if alike else Kind.ENCODE
        expected.append((kind, (same or alike or [-1])[0]))
        names_ = {Kind.REUSE: "unchanged", Kind.COPY: "copied", Kind.ENCODE: "changed"}
        counts[names_[kind] if id_ in there else "new"] += 1
    fates = found.fates[np.argsort(found.fates["at"])]
    assert list(zip(fates["kind"].tolist(), fates["file"].tolist(), strict=True)) == expected
    ids = {row[0] for row in new}
    gone = [at for at, row in enumerate(old) if row[3] != Was.UNPUBLISHED and row[0] not in ids]
    assert sorted(found.left["file"].tolist()) == gone
    assert found.changes.model_dump() == {
        "new": counts["new"], "changed": counts["changed"], "copied": counts["copied"],
        "unchanged": counts["unchanged"], "deleted": len({old[at][0] for at in gone}),
    }  # fmt: skip


# --- nights on storage


@pytest.fixture(autouse=True)
def one_look_at_the_model(monkeypatch: pytest.MonkeyPatch) -> None:
    """Hundreds of plans of one model, which is read for the first of them only."""
    read: dict[str, Any] = {}

    def once(model: Any, vector_dtype: str, real: Any = planning.model_inputs) -> Any:
        key = model.model_dump_json() + vector_dtype
        if key not in read:
            read[key] = real(model, vector_dtype)
        return read[key]

    monkeypatch.setattr(planning, "model_inputs", once)


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


def expected_vectors(snapshot: Snapshot, shards: Shards) -> None:
    """Every live row has the vector of today's text of its id, in the first shard that has it."""
    first: dict[str, Doc] = {}
    for name in sorted(shards):
        for doc in shards[name]:
            if doc.text:
                first.setdefault(doc.id, doc)
    rows = {row["id"]: row for row in snapshot.to_arrow().to_pylist()}
    assert rows.keys() == first.keys()
    for id_, doc in first.items():
        assert rows[id_]["lang"] == doc.lang
        assert np.array_equal(np.asarray(rows[id_]["embedding"], np.float32), vectors_of([doc.text])[0]), id_


IDS = [f"d{number}" for number in range(12)]
docs = st.builds(Doc, st.sampled_from(IDS), st.sampled_from(["", "one", "two", "three"]), st.sampled_from(["en", "de"]))
shards_ = st.dictionaries(
    st.sampled_from(["a.parquet", "b.jsonl", "c.parquet", "d.jsonl"]), st.lists(docs, min_size=1, max_size=9),
    min_size=1, max_size=4,
).filter(lambda shards: any(doc.text for its in shards.values() for doc in its))  # fmt: skip


@settings(max_examples=60, deadline=None, suppress_health_check=list(HealthCheck))
@given(data=st.data())
def test_every_night_is_a_full_embedding(
    data: st.DataObject, tmp_path_factory: pytest.TempPathFactory, mistral: str
) -> None:
    """Inserts, updates, deletes, moves, reshuffles and duplicates, drawn at will; runs that die after any split."""
    root = tmp_path_factory.mktemp("nights")
    place = Place(str(root / "corpus"), str(root / "table"), mistral)
    writer = Writer(place.corpus)
    for night in range(data.draw(st.integers(2, 4))):
        if night and data.draw(st.booleans()):  # a reshuffle: the same rows in other shards
            flat = [doc for name in sorted(writer.now) for doc in writer.now[name]]
            order = data.draw(st.permutations(flat))
            shards = {f"{name}.parquet": [*order[n::3]] for n, name in enumerate("xyz") if order[n::3]}
        else:
            shards = {**writer.now, **data.draw(shards_)}
            if len(shards) > 1 and data.draw(st.booleans()):
                del shards[data.draw(st.sampled_from(sorted(shards)))]
        if not any(doc.text for its in shards.values() for doc in its):
            continue
        writer.write(shards)
        for _ in range(data.draw(st.integers(0, 2))):  # runs that die
            plan = make_plan(place.config())
            plan = plan.compare(InProcess()) if plan.has_to_compare else plan
            if data.draw(st.booleans()):
                do_copies(plan)
            do_splits(plan, only=data.draw(st.integers(0, 2)), encode=Counting())
        snapshot = do_plan(make_plan(place.config()), encode=Counting())
        assert make_plan(place.config()).up_to_date
        full = Place(place.corpus, str(root / f"full{night}"), mistral)
        reference = do_plan(make_plan(full.config()), encode=Counting())
        assert state_of(snapshot) == state_of(reference)
        assert rejects_of(snapshot) == rejects_of(reference)
        expected_vectors(snapshot, shards)
        counts = snapshot.manifest.counts
        assert (counts.read, counts.rejected) == (reference.manifest.counts.read, reference.manifest.counts.rejected)
        assert counts.vectors == snapshot.to_arrow(["id"]).num_rows
