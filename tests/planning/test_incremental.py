"""Nightly runs: the comparison against a pure model, and whole nights on storage against full embeddings.

No model and no Ray here, see `nights`.
"""

import contextlib
import dataclasses
import hashlib
import os
import shutil
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from sfr_batch.checks.audit.auditor import audit
from sfr_batch.corpus import packs
from sfr_batch.errors import TableError, TooManyDeletes
from sfr_batch.format import names
from sfr_batch.format.parquet import encode_parquet, read_parquet
from sfr_batch.planning import comparison
from sfr_batch.planning.comparison import compare
from sfr_batch.planning.join import Decision, Origin, corpus_dtype, document_dtype, join, make_records
from sfr_batch.planning.make import make_plan
from sfr_batch.storage.executor import InProcess
from sfr_batch.storage.local import LocalStore
from sfr_batch.storage.store import Content
from sfr_batch.storage.stores import open_store
from sfr_batch.table.commit.compaction import carry_out, find_compaction
from sfr_batch.table.table import Snapshot, Table
from tests.nights import (
    Counting,
    Doc,
    Place,
    Writer,
    docs_of,
    expected_vectors,
    night,
    rejects_of,
    small_tasks,
    state_of,
)
from tests.tables import do_copies, do_plan, do_splits

pytestmark = pytest.mark.usefixtures("one_look_at_the_model")

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


@settings(max_examples=300)
@given(
    new=st.lists(st.tuples(*[st.integers(0, 4)] * 3), max_size=12),
    old=st.lists(st.tuples(*[st.integers(0, 4)] * 3, st.sampled_from(Origin)), max_size=12),
)
def test_join_is_what_a_dictionary_says(new: list[Row], old: list[tuple[int, int, int, Origin]]) -> None:
    mine = _records(corpus_dtype(carry=True), new)
    mine["at"] = np.arange(len(new))
    theirs = _records(document_dtype(carry=True), [row[:3] for row in old])
    theirs["file"], theirs["vectors"] = np.arange(len(old)), 1
    theirs["origin"] = [row[3] for row in old]
    found = join(mine, theirs)

    there = {row[0] for row in old if row[3] != Origin.UNPUBLISHED}
    usable = [(at, row) for at, row in enumerate(old) if row[3] != Origin.OTHER_GENERATION]
    expected, counts = [], Counter[str]()
    for id_, text, carried in new:
        same = [at for at, row in usable if row[:3] == (id_, text, carried)]
        alike = [at for at, row in usable if row[:2] == (id_, text)]
        kind = Decision.REUSE if same else Decision.COPY if alike else Decision.ENCODE
        expected.append((kind, (same or alike or [-1])[0]))
        names_ = {Decision.REUSE: "unchanged", Decision.COPY: "copied", Decision.ENCODE: "changed"}
        counts[names_[kind] if id_ in there else "new"] += 1
    decisions = found.decisions[np.argsort(found.decisions["at"])]
    assert list(zip(decisions["kind"].tolist(), decisions["file"].tolist(), strict=True)) == expected
    ids = {row[0] for row in new}
    gone = [at for at, row in enumerate(old) if row[3] != Origin.UNPUBLISHED and row[0] not in ids]
    assert sorted(found.left["file"].tolist()) == gone
    assert found.changes.model_dump() == {
        "new": counts["new"], "changed": counts["changed"], "copied": counts["copied"],
        "unchanged": counts["unchanged"], "deleted": len({old[at][0] for at in gone}),
    }  # fmt: skip


# --- nights on storage


IDS = [f"d{number}" for number in range(12)]
docs = st.builds(Doc, st.sampled_from(IDS), st.sampled_from(["", "one", "two", "three"]), st.sampled_from(["en", "de"]))
shards_ = st.dictionaries(
    st.sampled_from(["a.parquet", "b.jsonl", "c.parquet", "d.jsonl"]), st.lists(docs, min_size=1, max_size=9),
    min_size=1, max_size=4,
).filter(lambda shards: any(doc.text for its in shards.values() for doc in its))  # fmt: skip


@settings(max_examples=12, suppress_health_check=list(HealthCheck))
@given(data=st.data())
def test_every_night_is_a_full_embedding(
    data: st.DataObject, tmp_path_factory: pytest.TempPathFactory, mistral: str
) -> None:
    some_nights(data, tmp_path_factory, mistral)


@pytest.mark.slow
@pytest.mark.timeout(3600)
@settings(max_examples=300, suppress_health_check=list(HealthCheck))
@given(data=st.data())
def test_many_nights_are_full_embeddings(
    data: st.DataObject, tmp_path_factory: pytest.TempPathFactory, mistral: str
) -> None:
    some_nights(data, tmp_path_factory, mistral)


@contextlib.contextmanager
def fewest_in_a_pack(shards: int) -> Iterator[None]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(packs, "FEWEST", shards)
        yield


def some_nights(data: st.DataObject, tmp_path_factory: pytest.TempPathFactory, mistral: str) -> None:
    """Inserts, updates, deletes, moves, reshuffles, duplicates, compactions at will; runs that die after any split."""
    with small_tasks(4) if data.draw(st.booleans()) else contextlib.nullcontext():
        nights_of_any_kind(data, tmp_path_factory.mktemp("nights"), mistral)


def nights_of_any_kind(data: st.DataObject, root: Path, mistral: str) -> None:
    fewest = data.draw(st.sampled_from([packs.FEWEST, 2]))  # with two, most shards of JSON Lines are packed
    place = Place(str(root / "corpus"), str(root / "table"), mistral)
    writer = Writer(place.corpus)
    for number in range(data.draw(st.integers(2, 4))):
        if number and data.draw(st.booleans()):  # a reshuffle: the same rows in other shards
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
            with fewest_in_a_pack(fewest):
                plan = make_plan(place.config())
            comparison = compare(plan, InProcess()) if plan.has_to_compare else None
            if data.draw(st.booleans()):
                do_copies(comparison)
            do_splits(comparison.plan if comparison else plan, only=data.draw(st.integers(0, 2)), encode=Counting())
        with fewest_in_a_pack(fewest):
            snapshot = do_plan(make_plan(place.config()), encode=Counting())
        assert make_plan(place.config()).up_to_date
        if data.draw(st.booleans()):
            smaller = find_compaction(snapshot, rows_per_file=data.draw(st.sampled_from([4, 9, 100])))
            snapshot = carry_out(Table.open(snapshot.store), smaller).snapshot or snapshot
            assert make_plan(place.config()).up_to_date
        full = Place(place.corpus, str(root / f"full{number}"), mistral)
        reference = do_plan(make_plan(full.config()), encode=Counting())
        assert state_of(snapshot) == state_of(reference)
        assert rejects_of(snapshot) == rejects_of(reference)
        expected_vectors(snapshot, shards)
        table = Table.open(snapshot.store)
        found = audit(table, make_plan(place.config()))
        assert found.ok, found.describe()
        counts = snapshot.manifest.counts
        assert (counts.read, counts.rejected) == (reference.manifest.counts.read, reference.manifest.counts.rejected)
        assert counts.vectors == snapshot.to_arrow(["id"]).num_rows


def test_only_what_changed_is_encoded(nights: tuple[Place, Writer]) -> None:
    """An update, an insert, a delete and another language, then a reshuffle of everything: each at its cost."""
    place, writer = nights
    a, b = docs_of("a", 9), docs_of("b", 9)
    writer.write({"a.parquet": a, "b.jsonl": b})
    first, texts = night(place)
    assert len(texts) == 18
    files = {info.key for info in first.store.list("data")}

    a[3], b[4] = Doc("a3", "another text"), Doc("b4", b[4].text, "de")
    writer.write({"a.parquet": [*a, Doc("new", "a new text")], "b.jsonl": b[1:]})
    second, texts = night(place)
    assert sorted(texts) == ["a new text", "another text"]
    changes = second.manifest.changes
    assert changes is not None
    assert changes.model_dump() == {"new": 1, "changed": 1, "copied": 1, "unchanged": 15, "deleted": 1}
    counts = second.manifest.counts
    assert (counts.read, counts.embedded, counts.reused, counts.vectors) == (18, 2, 16, 18)
    assert files < {info.key for info in first.store.list("data")}, "nothing old is written again"

    everything = [*a, Doc("new", "a new text"), *b[1:]]
    writer.write({f"{n}.parquet": everything[n::5] for n in range(5)})
    third, texts = night(place)
    assert texts == [], "rows that only moved"
    assert third.manifest.changes is not None
    assert third.manifest.changes.unchanged == 18
    assert state_of(third) == state_of(second)

    writer.write({f"{n}.parquet": list(reversed(everything[n::5])) for n in range(5)})
    fourth, texts = night(place)
    assert texts == []
    assert state_of(fourth) == state_of(second)
    assert state_of(Table.open(first.store).snapshot(1)) == state_of(first), "what was published stays readable"


def test_shard_of_new_rows_keeps_its_own_files(nights: tuple[Place, Writer]) -> None:
    place, writer = nights
    writer.write({"a.parquet": docs_of("a", 9)})
    night(place)
    writer.write({"a.parquet": docs_of("a", 8), "b.parquet": docs_of("b", 9)})
    snapshot, texts = night(place)
    assert sorted(texts) == sorted(doc.text for doc in docs_of("b", 9))
    assert {record.uri.rsplit("/")[-1]: record.splits for record in snapshot.read_shards()}["b.parquet"] > 0
    assert [uri.rsplit("/")[-1] for uri in snapshot.read_indexes()] == ["a.parquet"]


def test_vectors_of_a_run_that_died_are_used_though_the_corpus_went_on(nights: tuple[Place, Writer]) -> None:
    place, writer = nights
    a = docs_of("a", 9)
    writer.write({"a.parquet": a})
    night(place)
    a = [Doc(doc.id, f"new {doc.text}") for doc in a]
    writer.write({"a.parquet": [*a, Doc("x", "so that it is mixed")]})
    plan = compare(make_plan(place.config()), InProcess()).plan
    done = do_splits(plan, only=2, encode=Counting())
    writer.write({"a.parquet": [Doc("y", "first"), *a]})
    snapshot, texts = night(place)
    assert len(texts) == 1 + 9 - sum(receipt.embedded for receipt in done)
    assert len(state_of(snapshot)) == 10


@pytest.mark.parametrize("moment", ["before", "after"])
def test_a_night_that_dies_at_any_write(
    moment: str, nights: tuple[Place, Writer], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Before and after each data file, index, list of deletes and other side file, and the manifest itself."""
    first, writer = nights
    a, b = docs_of("a", 9), docs_of("b", 9)
    writer.write({"a.parquet": a, "b.jsonl": b})
    night(first)
    a = [Doc(d.id, f"new {d.text}") if n < 5 else d for n, d in enumerate(a)]
    writer.write({"a.parquet": [*a[1:], Doc("b3", "loses")], "b.jsonl": [Doc(b[0].id, b[0].text, "de"), *b[2:]]})
    real, left = LocalStore.create, 0
    keys: list[str] = []

    def create(store: LocalStore, key: str, data: Content) -> bool:
        keys.append(key)
        if len(keys) == left and moment == "before":
            raise KeyboardInterrupt
        done = real(store, key, data)
        if len(keys) == left:
            raise KeyboardInterrupt
        return done

    monkeypatch.setattr(LocalStore, "create", create)
    reference, texts = night(dataclasses.replace(first, table=copied(first.table, tmp_path / "whole")))
    assert any(key.startswith(names.DEAD) for key in keys[:-1])
    assert any(f".{names.DEAD_ROWS}." in key for key in keys[:-1])
    assert keys[-1] == names.manifest_key(2)
    writes = len(keys)
    for left in range(1, writes + 1):
        place = dataclasses.replace(first, table=copied(first.table, tmp_path / f"dies{left}"))
        keys.clear()
        counting = Counting()
        with pytest.raises(KeyboardInterrupt):
            do_plan(make_plan(place.config()), encode=counting)
        keys[:] = [""] * writes
        if make_plan(place.config()).up_to_date:
            assert (left, moment) == (writes, "after"), "all was written but the reply"
            snapshot, again = Table.open(open_store(place.table)).current(), []
        else:
            snapshot, again = night(place)
        assert (state_of(snapshot), rejects_of(snapshot)) == (state_of(reference), rejects_of(reference))
        assert audit(Table.open(snapshot.store), make_plan(place.config())).ok
        assert sorted(set(counting.texts + again)) == sorted(texts)
        assert len(counting.texts + again) <= len(texts) + 4, "at most the split in hand is encoded twice"


def copied(table: str, to: Path) -> str:
    shutil.copytree(table, to)
    return str(to)


def test_old_files_that_nobody_needs_are_not_looked_into(nights: tuple[Place, Writer]) -> None:
    """A document that comes back has its vector, but not years later."""
    place, writer = nights
    writer.write({"a.parquet": docs_of("a", 9), "b.parquet": docs_of("b", 9)})
    first, _ = night(place)
    writer.write({"a.parquet": docs_of("a", 9)})
    night(place)
    writer.write({"a.parquet": docs_of("a", 8), "b.parquet": docs_of("b", 8)})
    plan = make_plan(place.config())
    files = {r.split_id for r in first.read_receipts() if r.shard.endswith("b.parquet")}
    assert set(plan.unpublished) == files
    for split_id in files:
        os.utime(Path(place.table) / names.data_key(split_id), (1e9, 1e9))
    assert make_plan(place.config()).unpublished == []


def test_half_an_export_is_refused_and_nothing_is_touched(nights: tuple[Place, Writer]) -> None:
    place, writer = nights
    writer.write({"a.parquet": docs_of("a", 300), "b.parquet": docs_of("b", 300)})
    night(place)
    before = {info.key for info in Table.open(open_store(place.table)).store.list("")}
    writer.write({"a.parquet": docs_of("a", 300)})
    with pytest.raises(TooManyDeletes, match=r"300 of the 600 documents .* \(50\.0%\).*max_delete_share allows 20%"):
        night(place, "table.delete=refuse-above-share")
    assert {info.key for info in Table.open(open_store(place.table)).store.list("")} == before
    writer.write({"a.parquet": docs_of("a", 300), "b.parquet": docs_of("b", 201)})
    snapshot, _ = night(place, "table.delete=refuse-above-share")
    assert snapshot.manifest.counts.vectors == 501, "a fifth may go"


def test_kept_rows_stay_and_may_come_back_or_go(nights: tuple[Place, Writer]) -> None:
    place, writer = nights
    a, b = docs_of("a", 6), docs_of("b", 6)
    writer.write({"a.parquet": a, "b.parquet": b})
    first, _ = night(place)
    writer.write({"a.parquet": a[2:]})
    kept, texts = night(place, "table.delete=keep")
    assert texts == []
    assert state_of(kept) == state_of(first)
    counts = kept.manifest.counts
    assert (counts.read, counts.reused, counts.kept, counts.vectors) == (4, 4, 8, 12)
    assert make_plan(place.config("table.delete=keep")).up_to_date
    assert audit(Table.open(kept.store), make_plan(place.config("table.delete=keep"))).ok
    writer.write({"a.parquet": a[1:]})
    back, texts = night(place, "table.delete=keep")
    assert texts == [], "a row that comes back has its vector"
    assert (back.manifest.counts.read, back.manifest.counts.kept) == (5, 7)
    gone, texts = night(place)
    assert texts == []
    assert state_of(gone).keys() == {doc.id for doc in a[1:]}
    assert gone.manifest.counts.kept == 0


def test_keep_does_not_keep_documents_that_have_become_rejects(nights: tuple[Place, Writer]) -> None:
    """What they have in the table is the vector of another text; only what left the corpus is kept."""
    place, writer = nights
    a, b = docs_of("a", 4), docs_of("b", 4)
    writer.write({"a.parquet": a, "b.parquet": b, "c.parquet": [Doc("b3", "")]})
    night(place)
    writer.write({"a.parquet": [Doc("a0", ""), *a[1:3]], "c.parquet": [Doc("b3", "")]})
    keep = place.config("table.delete=keep")
    snapshot, texts = night(place, "table.delete=keep")
    assert texts == []
    assert state_of(snapshot).keys() == {"a1", "a2", "a3", "b0", "b1", "b2"}, "b3 is a reject of an unchanged shard"
    counts = snapshot.manifest.counts
    assert (counts.read, counts.reused, counts.rejected, counts.kept) == (4, 2, 2, 4)
    assert audit(Table.open(snapshot.store), make_plan(keep)).ok
    writer.write({"a.parquet": [Doc("a0", ""), *a[1:3], Doc("b0", "")], "c.parquet": [Doc("b3", "")]})
    snapshot, _ = night(place, "table.delete=keep")
    assert state_of(snapshot).keys() == {"a1", "a2", "a3", "b1", "b2"}, "what was kept and is back as a reject"


def test_audit_finds_a_kept_document_that_is_in_the_corpus(
    nights: tuple[Place, Writer], monkeypatch: pytest.MonkeyPatch
) -> None:
    """As earlier releases have left them. The next night that reads a shard mends the table."""
    place, writer = nights
    a = docs_of("a", 4)
    writer.write({"a.parquet": a})
    night(place)
    writer.write({"a.parquet": [*a[:3], Doc("a3", "")]})
    with monkeypatch.context() as earlier:
        earlier.setattr(comparison, "_turned", lambda plan, found: np.empty((0, 2), np.uint64))
        snapshot, _ = night(place, "table.delete=keep")
    report = audit(Table.open(snapshot.store))
    assert not report.ok
    wrong = [line for check in report.checks for line in check.examples]
    assert [line.split("(id 'a3')")[-1] for line in wrong] == [
        " is kept as a document that left the corpus, but its id is in the corpus, as a reject"
    ]
    writer.write({"a.parquet": [*a[:2], Doc("a3", "")]})
    snapshot, _ = night(place, "table.delete=keep")
    assert state_of(snapshot).keys() == {"a0", "a1", "a2"}
    assert audit(Table.open(snapshot.store)).ok


def test_refused_deletes_tell_rejects_from_what_left(nights: tuple[Place, Writer]) -> None:
    place, writer = nights
    a = docs_of("a", 300)
    writer.write({"a.parquet": a})
    night(place)
    writer.write({"a.parquet": [*a[:150], *(Doc(doc.id, "") for doc in a[150:290])]})
    with pytest.raises(TooManyDeletes) as refused:
        night(place, "table.delete=refuse-above-share")
    assert str(refused.value) == (
        f"150 of the 300 documents of {place.table} (50.0%) would leave it: 10 are no longer in the corpus, 140 are "
        "there but cannot be embedded any more, and table.max_delete_share allows 20%. The corpus may be incomplete. "
        "Nothing was embedded or published. Correct the corpus or its settings. If the documents were removed on "
        "purpose: table.delete=mirror deletes them in this run, table.delete=keep keeps those that are no longer in "
        "the corpus."
    )
    snapshot, _ = night(place, "table.delete=keep")
    assert snapshot.manifest.counts.kept == 10


def test_generation_embeds_rows_again_that_are_not_of_it(nights: tuple[Place, Writer]) -> None:
    place, writer = nights
    a = docs_of("a", 9)
    writer.write({"a.parquet": a})
    night(place)
    _, texts = night(place, "table.generation=again")
    assert len(texts) == 9
    writer.write({"a.parquet": [*a, Doc("new", "a new text")]})
    _, texts = night(place)
    assert texts == ["a new text"], "a nightly run does not mind the label"
    _, texts = night(place, "table.generation=again")
    assert texts == ["a new text"], "what has the label is not embedded again"


# --- damage that the audit must see


def forged(snapshot: Snapshot, change: Callable[[pa.Table], pa.Table]) -> None:
    """An index file with other rows, under the same name."""
    key = next(iter(snapshot.read_indexes().values()))[0].key
    data = encode_parquet(change(read_parquet(snapshot.store.read(key))))
    snapshot.store.delete([key])
    snapshot.store.create(key, data)


def with_column(index: pa.Table, name: str, change: Callable[[list[Any]], list[Any]]) -> pa.Table:
    at = index.schema.get_field_index(name)
    return index.set_column(
        at, index.schema.field(at), pa.array(change(index.column(name).to_pylist()), index.schema.field(at).type)
    )


PLANTS: dict[str, Callable[[pa.Table], pa.Table]] = {
    "two rows point to each other's vector": lambda t: with_column(t, "row", lambda r: [r[1], r[0], *r[2:]]),
    "a row is of another id": lambda t: with_column(t, "id_hash", lambda h: [bytes(16), *h[1:]]),
    "a row points nowhere": lambda t: with_column(t, "row", lambda r: [10**6, *r[1:]]),
    "a row points to no file": lambda t: with_column(t, "split_id", lambda s: ["0" * 32, *s[1:]]),
    "a row is lost": lambda t: t.slice(1),
}


@pytest.mark.parametrize("plant", PLANTS.values(), ids=PLANTS.keys())
def test_audit_sees_a_wrong_index(nights: tuple[Place, Writer], plant: Callable[[pa.Table], pa.Table]) -> None:
    place, writer = nights
    writer.write({"a.parquet": docs_of("a", 9)})
    night(place)
    writer.write({"a.parquet": [*docs_of("a", 9), Doc("new", "a new text")]})
    snapshot, _ = night(place)
    table = Table.open(snapshot.store)
    assert audit(table).ok
    forged(snapshot, plant)
    assert {"indexes", "ids"} & set(audit(table).failed)


def test_a_damaged_index_is_named_with_a_way_out(nights: tuple[Place, Writer]) -> None:
    place, writer = nights
    a = docs_of("a", 9)
    writer.write({"a.parquet": a})
    night(place)
    writer.write({"a.parquet": [*a, Doc("b", "new")]})
    snapshot, _ = night(place)
    ((part, *_),) = snapshot.read_indexes().values()
    file = Path(place.table) / part.key
    file.write_bytes(file.read_bytes()[:300])
    writer.write({"a.parquet": a})
    told = rf"{file} is damaged: \S.*[^.]\. Restore it from a copy, or have its rows again: `sfr-batch repair"
    with pytest.raises(TableError, match=told):
        night(place)


def test_many_tasks_and_partitions(nights: tuple[Place, Writer]) -> None:
    """As of a large corpus: rows meet by their ids, whichever task has read them."""
    place, writer = nights
    docs = docs_of("a", 60)
    writer.write({"a.parquet": docs[:30], "b.parquet": docs[30:]})
    night(place)
    writer.write({"a.parquet": docs[::2], "b.parquet": docs[1::2]})
    with small_tasks(16):
        run = compare(make_plan(place.config()), InProcess())
        assert len(run.rows.scans) == 2
        snapshot, texts = night(place)
    assert texts == []
    assert snapshot.manifest.changes is not None
    assert snapshot.manifest.changes.unchanged == 60
