"""A first run that was interrupted, and a corpus that has changed since: what was paid is used."""

import os
from pathlib import Path

import pyarrow.parquet as pq
import pytest

from sfr_batch.checks.audit.auditor import audit
from sfr_batch.corpus import splits
from sfr_batch.planning import make
from sfr_batch.planning.comparison import compare
from sfr_batch.planning.make import make_plan
from sfr_batch.storage.executor import InProcess
from sfr_batch.storage.stores import open_store
from sfr_batch.table.table import Table
from tests.nights import Counting, Doc, Place, Writer, docs_of, expected_vectors, night
from tests.tables import do_copies, do_splits, parquet, put

pytestmark = pytest.mark.usefixtures("one_look_at_the_model")

Nights = tuple[Place, Writer]
BY_TEXT = "run.rows_per_split=null"


@pytest.fixture
def sizes_by_text(monkeypatch: pytest.MonkeyPatch) -> None:
    """By default 4 rows a split; 8 of at most 128 bytes, 16 of at most 64 bytes."""
    for module in (splits, make):
        monkeypatch.setattr(module, "ROWS", 4)
    monkeypatch.setattr(splits, "MOST_ROWS", 16)
    monkeypatch.setattr(splits, "_SHORT", 1024)


def interrupted(place: Place, splits: int, *overrides: str) -> list[str]:
    """A run that dies after so many splits. Returns the texts that it has encoded."""
    plan, counting = make_plan(place.config(*overrides)), Counting()
    comparison = compare(plan, InProcess()) if plan.has_to_compare else None
    do_splits(comparison.plan if comparison else plan, only=splits, encode=counting)
    do_copies(comparison)
    return counting.texts


def touch(writer: Writer) -> None:
    """All shards have another version and the same rows."""
    for file in Path(writer.root).iterdir():
        os.utime(file, ns=(1, file.stat().st_mtime_ns + 10**9))


def check(place: Place, writer: Writer) -> None:
    table = Table.open(open_store(place.table))
    expected_vectors(table.current(), writer.now)
    assert audit(table, make_plan(place.config())).ok


@pytest.mark.parametrize("name", ["a.parquet", "a.jsonl"])
def test_shards_that_were_touched_are_not_embedded_again(nights: Nights, name: str) -> None:
    place, writer = nights
    writer.write({name: docs_of("a", 30), "b.parquet": docs_of("b", 10)})
    paid = interrupted(place, 6)
    touch(writer)
    said = make_plan(place.config()).describe()
    assert (
        "6 data files of an interrupted run are of shards that were others then, or were read otherwise: rows with the "
        "same id and text take their vectors\nupper bound: `plan --compare`" in said
    )
    exact = compare(make_plan(place.config()), InProcess()).plan
    assert (
        f"{len(paid)} rows not embedded again: they take vectors that an interrupted run has made" in exact.describe()
    )
    assert exact.rows == 40 - len(paid)
    more = interrupted(place, 2)
    touch(writer)
    snapshot, texts = night(place)
    assert sorted([*paid, *more, *texts]) == sorted(doc.text for its in writer.now.values() for doc in its)
    assert snapshot.manifest.changes is None, "there was no table to compare with"
    assert snapshot.manifest.counts.embedded == 40
    check(place, writer)


@pytest.mark.parametrize("other", ["b.jsonl", "b.parquet"])
def test_rows_of_a_shard_that_nobody_has_begun_are_an_estimate(nights: Nights, other: str) -> None:
    """Unless its format knows them, although all shards are compared."""
    place, writer = nights
    writer.write({"a.jsonl": docs_of("a", 30), other: docs_of("b", 10)})
    assert interrupted(place, 2)
    touch(writer)
    exact = compare(make_plan(place.config()), InProcess()).plan
    assert exact.rows_are_exact == other.endswith(".parquet")
    assert ("to embed  ~" in exact.describe()) == other.endswith(".jsonl")


def test_rows_move_and_change_between_the_attempts(nights: Nights) -> None:
    place, writer = nights
    a, b = docs_of("a", 20), docs_of("b", 20)
    writer.write({"a.parquet": a, "b.parquet": b})
    interrupted(place, 10)
    changed = [Doc(a[0].id, "another text"), Doc(a[1].id, a[1].text, "de"), *a[2:5], *b[5:9]]
    writer.write({"c.parquet": [*changed, Doc("a5", "")], "d.parquet": a[10:]})
    _, texts = night(place)
    assert texts == ["another text"]
    check(place, writer)


def test_shards_that_are_begun_go_on_with_their_splits(nights: Nights) -> None:
    """They are not read to compare them, whatever another shard has left."""
    place, writer = nights
    a, b = docs_of("a", 20), docs_of("b", 8)
    writer.write({"a.parquet": a, "b.parquet": b})
    paid = interrupted(place, 6)  # all of a, and the first split of b
    writer.write({"a.parquet": a, "b.parquet": [*b, Doc("b8", "one more")]})
    plan = make_plan(place.config())
    assert {uri.rsplit("/", 1)[-1] for uri in plan.begun} == {"a.parquet"}
    run = compare(plan, InProcess())
    assert set(run.rows.shards) == {f"{place.corpus}/b.parquet"}
    _, texts = night(place)
    assert sorted([*paid, *texts]) == sorted(doc.text for doc in [*a, *b, Doc("b8", "one more")])
    check(place, writer)


def test_splits_of_another_size_are_used(nights: Nights) -> None:
    place, writer = nights
    writer.write({"a.parquet": docs_of("a", 20)})
    paid = interrupted(place, 3)
    _, texts = night(place, "run.rows_per_split=7")
    assert len(texts) == 20 - len(paid)
    check(place, writer)


@pytest.mark.usefixtures("sizes_by_text")
@pytest.mark.parametrize("published", [False, True])
@pytest.mark.parametrize(("groups", "older"), [((40,), 10 * [4]), ((3, 15), [3, 3, 4, 4, 4])])
def test_a_run_that_an_older_release_began_keeps_its_smaller_splits(
    nights: Nights, groups: tuple[int, ...], older: list[int], published: bool
) -> None:
    """Its default was the same for all texts. Nothing is read to compare it, also where a split would be the same
    today; a shard that it has not begun has larger splits."""
    place, writer = nights
    if published:
        writer.write({"a.parquet": docs_of("a", 4)})
        night(place, BY_TEXT)
    new = {"b.jsonl": docs_of("b", 40), "c.parquet": docs_of("c", sum(groups)), "d.parquet": docs_of("d", 40)}
    writer.write({**writer.now, **new})
    rows = pq.read_table(f"{writer.root}/c.parquet")
    put(writer.root, "c.parquet", parquet(rows, groups))
    begun = len(make_plan(place.config()).splits) - len(older) - 10 + 2
    paid = interrupted(place, begun)  # all splits of b, the first two of c
    plan = make_plan(place.config(BY_TEXT))
    of_shard = {name: [split.rows for split in plan.splits if split.shard.endswith(name)] for name in new}
    assert (len(of_shard["b.jsonl"]), of_shard["c.parquet"], of_shard["d.parquet"]) == (begun - 2, older, [13, 13, 14])
    assert (len(plan.done), plan.has_to_compare) == (begun, False)
    _, texts = night(place, BY_TEXT)
    assert sorted([*paid, *texts]) == sorted(doc.text for its in new.values() for doc in its)
    check(place, writer)


@pytest.mark.usefixtures("sizes_by_text")
def test_texts_of_other_shards_leave_the_splits_of_a_shard_as_they_are(nights: Nights) -> None:
    place, writer = nights
    writer.write({"a.parquet": docs_of("a", 40)})
    before = make_plan(place.config(BY_TEXT)).splits
    paid = interrupted(place, 2, BY_TEXT)
    long = [Doc(f"b{n}", f"{n} {'long ' * 50}") for n in range(40)]
    writer.write({**writer.now, "b.parquet": long})
    plan = make_plan(place.config(BY_TEXT))
    assert plan.splits[: len(before)] == before
    assert [split.rows for split in plan.splits] == [13, 13, 14, *[4] * 10]
    assert (len(plan.done), plan.has_to_compare) == (2, False)
    _, texts = night(place, BY_TEXT)
    assert sorted([*paid, *texts]) == sorted(doc.text for its in writer.now.values() for doc in its)
    assert make_plan(place.config(BY_TEXT)).up_to_date
    writer.write({**writer.now, "c.parquet": docs_of("c", 4)})
    assert {split.shard for split in make_plan(place.config(BY_TEXT)).splits} == {f"{place.corpus}/c.parquet"}
    assert night(place, BY_TEXT)[1] == [doc.text for doc in docs_of("c", 4)]
    check(place, writer)


def test_a_small_shard_that_a_night_has_begun_keeps_its_split(nights: Nights) -> None:
    """Although the next one reads it to compare it, and small shards then share splits."""
    place, writer = nights
    writer.write({"a.parquet": docs_of("a", 8)})
    night(place)
    writer.write({**writer.now, "b.parquet": docs_of("b", 2), "c.parquet": docs_of("c", 2)})
    paid = interrupted(place, 1)
    writer.write({**writer.now, "a.parquet": docs_of("a", 7)})
    _, texts = night(place)
    assert sorted([*paid, *texts]) == sorted(doc.text for name in "bc" for doc in docs_of(name, 2))
    check(place, writer)


def test_vectors_under_another_label_are_not_used(nights: Nights) -> None:
    place, writer = nights
    writer.write({"a.parquet": docs_of("a", 8)})
    interrupted(place, 1)
    assert len(night(place, "table.generation=again")[1]) == 8


def test_a_run_that_goes_on_unchanged_compares_nothing(nights: Nights) -> None:
    place, writer = nights
    writer.write({"a.parquet": docs_of("a", 20), "b.jsonl": docs_of("b", 20)})
    interrupted(place, 7)
    plan = make_plan(place.config())
    assert (plan.has_to_compare, plan.unpublished) == (False, [])
