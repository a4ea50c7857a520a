"""Carried columns that change with other things: a lender, an interrupted first run, rejects, a wrong clock."""

import dataclasses

import numpy as np
import pytest

from sfr_batch.checks.audit.auditor import audit
from sfr_batch.format import names
from sfr_batch.planning.comparison import compare
from sfr_batch.planning.make import make_plan
from sfr_batch.storage.executor import InProcess
from sfr_batch.storage.stores import open_store
from sfr_batch.table.commit import clocks
from sfr_batch.table.commit.compaction import carry_out, find_compaction
from sfr_batch.table.commit.publish import condemn
from sfr_batch.table.table import Snapshot, Table
from tests.nights import Counting, Doc, Place, Writer, docs_of, expected_vectors, night, vectors_of
from tests.tables import do_copies, do_splits

pytestmark = pytest.mark.usefixtures("one_look_at_the_model")

Nights = tuple[Place, Writer]
NONE, LANG = "corpus.carry=[]", "corpus.carry=[lang]"
OTHER = "corpus.carry={language: lang, again: id}"
COVERS = '[2,{"language":"string","again":"string"}]'


def check(snapshot: Snapshot, place: Place, *overrides: str) -> None:
    report = audit(Table.open(snapshot.store), make_plan(place.config(*overrides)))
    assert report.ok, report.describe()
    assert make_plan(place.config(*overrides)).up_to_date


def check_rows(snapshot: Snapshot, docs: list[Doc]) -> None:
    """As expected with the columns of `OTHER`."""
    rows = {row["id"]: row for row in snapshot.to_arrow().to_pylist()}
    assert rows.keys() == {doc.id for doc in docs}
    for doc in docs:
        row = rows[doc.id]
        assert (row["language"], row["again"]) == (doc.lang, doc.id)
        assert np.array_equal(np.asarray(row["embedding"], np.float32), vectors_of([doc.text])[0])


def test_a_lender_whose_columns_have_changed_and_a_table_whose_columns_change(nights: Nights) -> None:
    place, writer = nights
    a, b = docs_of("a", 6), docs_of("b", 5)
    writer.write({"a.parquet": a})
    night(place, LANG)
    writer.write({"a.parquet": a, "b.parquet": b})
    lender, _ = night(place, NONE)
    assert {receipt.covers for receipt in lender.read_receipts()} == {"", "[0,{}]"}
    setting, place = f"table.reuse_from={place.table}", dataclasses.replace(place, table=f"{place.table}-new")
    writer.write({"a.parquet": a})
    night(place, LANG, setting)
    writer.write({"a.parquet": a, "b.parquet": [*b, Doc("b5", "a new text")]})
    exact = compare(make_plan(place.config(OTHER, setting)), InProcess()).plan
    assert "columns   language string is new, again string is new, lang string is dropped\n" in exact.describe()
    assert "to copy   11 vectors," in exact.describe(), "6 of the table itself, and 5 of the other one"
    snapshot, texts = night(place, OTHER, setting)
    assert texts == ["a new text"]
    assert {receipt.covers for receipt in snapshot.read_receipts()} == {COVERS}
    assert {part.covers for parts in snapshot.read_indexes().values() for part in parts} == {COVERS}
    check_rows(snapshot, [*a, *writer.now["b.parquet"]])
    check(snapshot, place, OTHER)


def test_an_interrupted_first_run_is_not_paid_again_with_other_columns(nights: Nights) -> None:
    place, writer = nights
    a = docs_of("a", 12)
    writer.write({"a.parquet": a})
    paid = Counting()
    do_splits(make_plan(place.config(LANG)), only=2, encode=paid)
    plan = make_plan(place.config(OTHER))
    assert "2 data files of an interrupted run are of shards that were others then, or were read" in plan.describe()
    run = compare(plan, InProcess())
    assert "8 rows not embedded again: they take vectors that an interrupted run has made" in run.plan.describe()
    do_copies(run)
    snapshot, texts = night(place, OTHER)
    assert sorted([*paid.texts, *texts]) == sorted(doc.text for doc in a)
    check_rows(snapshot, a)
    check(snapshot, place, OTHER)


def test_rejects_of_today_are_not_kept_whatever_columns_they_had(nights: Nights) -> None:
    """`table.delete: keep` keeps a document that left, in its old columns, and not one that has become a reject."""
    place, writer = nights
    keep = "table.delete=keep"
    writer.write({"a.parquet": docs_of("a", 4), "b.parquet": docs_of("b", 4), "c.parquet": docs_of("c", 4)})
    night(place, LANG, keep)
    writer.write({"a.parquet": [Doc("a0", ""), *docs_of("a", 4)[1:]], "c.parquet": docs_of("c", 4)})
    snapshot, texts = night(place, OTHER, keep)
    assert texts == []
    rows = {row["id"]: row["again"] for row in snapshot.to_arrow(["id", "again"]).to_pylist()}
    assert rows == {
        id_: None if id_.startswith("b") else id_ for id_ in [*(f"{n}{i}" for n in "abc" for i in range(4))][1:]
    }
    check(snapshot, place, OTHER, keep)
    writer.write({"a.parquet": writer.now["a.parquet"], "c.parquet": [*docs_of("c", 3), Doc("b1", "")]})
    snapshot, texts = night(place, NONE, keep)
    assert texts == []
    assert set(snapshot.to_arrow(["id"]).column(0).to_pylist()) == rows.keys() - {"b1"}
    check(snapshot, place, NONE, keep)


def test_a_plan_names_columns_once_and_settings_once(nights: Nights) -> None:
    place, writer = nights
    writer.write({"a.parquet": docs_of("a", 4)})
    night(place, LANG)
    said = make_plan(place.config(OTHER, 'corpus.text="{lang} {text}"')).describe()
    assert said.count("language string is new") == 1
    assert said.count("corpus.text was text and is {lang} {text}") == 1
    assert "corpus.carry" not in said
    limit = "table.max_changed_share=0"
    writer.write({"a.parquet": docs_of("a", 200)})
    night(place, LANG)
    assert night(place, OTHER, limit)[1] == [], "other columns are no other texts"


def test_a_clock_that_is_behind_and_other_columns(nights: Nights, monkeypatch: pytest.MonkeyPatch) -> None:
    """A manifest may have both; what is published after it states the columns, and no clock."""
    place, writer = nights
    writer.write({"a.parquet": docs_of("a", 8)})
    first, _ = night(place, LANG)
    with monkeypatch.context() as behind:
        behind.setattr(clocks, "utc_now", lambda: "2001-01-01T00:00:00+00:00")
        night(place, OTHER)
        table = Table.open(open_store(place.table))
        snapshot = condemn(table, table.current(), ["0" * 32])
    for number in (2, 3):
        manifest = table.snapshot(number).manifest
        assert (manifest.clock, manifest.created_at) == ("2001-01-01T00:00:00+00:00", first.manifest.created_at)
        assert manifest.layout is not None
        assert manifest.format_version == names.FORMAT_OF_LAYOUT == names.FORMAT_OF_CLOCK
    check_rows(snapshot, docs_of("a", 8))
    smaller = carry_out(table, find_compaction(snapshot, rows_per_file=100)).snapshot
    assert smaller is not None
    assert smaller.manifest.clock is None
    assert smaller.manifest.layout is not None
    check(smaller, place, OTHER)
    back, _ = night(place, LANG)
    expected_vectors(back, writer.now)
    assert (back.manifest.clock, back.manifest.format_version) == (None, names.FORMAT_OF_LAYOUT)
    check(back, place, LANG)
