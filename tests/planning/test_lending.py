"""A new table that takes over vectors of an older one: 0 encoded texts, files of its own, and nothing that is stale."""

import contextlib
import dataclasses
import shutil
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from sfr_batch.checks.audit.auditor import audit
from sfr_batch.errors import ConfigError, TableDamaged, TableMismatch, TableNotFound
from sfr_batch.format import names
from sfr_batch.planning import lending
from sfr_batch.planning.comparison import compare
from sfr_batch.planning.make import make_plan
from sfr_batch.storage.executor import InProcess
from sfr_batch.storage.stores import open_store
from sfr_batch.table.table import Snapshot, Table
from tests.nights import Counting, Doc, Place, Writer, docs_of, expected_vectors, night, small_tasks, vectors_of
from tests.tables import do_copies, do_splits

pytestmark = pytest.mark.usefixtures("one_look_at_the_model")

Nights = tuple[Place, Writer]


@pytest.fixture(params=[None, 3], ids=["one task", "many tasks"])
def older(request: pytest.FixtureRequest, nights: Nights) -> Iterator[tuple[Place, Writer, str]]:
    """A table of two shards with dead rows, and the place and setting of a new one."""
    place, writer = nights
    writer.write({"a.parquet": docs_of("a", 10), "b.jsonl": docs_of("b", 6)})
    night(place)
    writer.write({"a.parquet": [Doc("a0", "changed"), *docs_of("a", 10)[2:]], "b.jsonl": docs_of("b", 6)})
    night(place)
    with small_tasks(request.param) if request.param else contextlib.nullcontext():
        yield dataclasses.replace(place, table=f"{place.table}-new"), writer, f"table.reuse_from={place.table}"


def check(snapshot: Snapshot, place: Place, *overrides: str) -> None:
    report = audit(Table.open(snapshot.store), make_plan(place.config(*overrides)))
    assert report.ok, report.describe()


def test_other_carried_columns_cost_no_tokens(older: tuple[Place, Writer, str]) -> None:
    place, writer, setting = older
    writer.write({**writer.now, "c.parquet": [Doc("a0", "text 0 of a"), Doc("new", "a new text")]})
    other = ("corpus.carry={language: lang}", setting)
    plan = make_plan(place.config(*other))
    lender = setting.removeprefix("table.reuse_from=")
    assert f"vectors of texts that {lender} has are copied from there (snapshot 2 of" in plan.describe()
    exact = compare(plan, InProcess()).plan
    assert f"16 rows not embedded: their vectors are copied from {lender}" in exact.describe()
    before = {info.key: info for info in open_store(lender).list("")}
    snapshot, texts = night(place, *other)
    assert texts == ["a new text"]
    assert {info.key: info for info in open_store(lender).list("")} == before, "nothing is written there"
    shutil.rmtree(lender)
    counts = snapshot.manifest.counts
    assert (counts.read, counts.embedded, counts.reused, counts.rejected) == (17, 1, 15, 1)
    rows = snapshot.to_arrow().to_pylist()
    assert {row["language"] for row in rows} == {"en"}
    expected = {doc.id: doc.text for name in ("c.parquet", "b.jsonl", "a.parquet") for doc in writer.now[name]}
    for row in rows:
        assert np.array_equal(np.asarray(row["embedding"], np.float32), vectors_of([expected[row["id"]]])[0])
    check(snapshot, place, "corpus.carry={language: lang}")
    assert make_plan(place.config("corpus.carry={language: lang}")).up_to_date


def test_few_texts_among_many_of_the_lender(nights: Nights, monkeypatch: pytest.MonkeyPatch) -> None:
    """What is joined follows the rows that look for a text, not the lender."""
    place, writer = nights
    writer.write({"a.parquet": docs_of("a", 40)})
    night(place)
    writer.write({"c.parquet": [Doc("x", "text 7 of a"), Doc("new", "a new text"), Doc("y", "text 39 of a")]})
    other, setting = dataclasses.replace(place, table=f"{place.table}-new"), f"table.reuse_from={place.table}"
    joined = []
    real = lending._match
    monkeypatch.setattr(
        lending, "_match", lambda tasks, *parts: (joined.append(sum(map(len, parts[tasks:]))), real(tasks, *parts))[1]
    )
    for rows in (3, 100):
        with small_tasks(rows):
            found = compare(make_plan(other.config(setting)), InProcess())
        assert found.difference.borrowed == sum(joined) == 2
        joined.clear()
    snapshot, texts = night(other, setting)
    assert texts == ["a new text"]
    expected_vectors(snapshot, writer.now)


def test_later_nights_and_other_ids(older: tuple[Place, Writer, str]) -> None:
    place, writer, setting = older
    snapshot, texts = night(place, setting)
    assert texts == []
    assert all(receipt.copied and not receipt.encoded_tokens for receipt in snapshot.read_receipts())
    moved = [Doc(f"x{doc.id}", doc.text) for doc in docs_of("a", 4)]
    writer.write({"b.jsonl": [*moved, Doc("b0", "text 5 of b"), *docs_of("b", 6)[1:]], "d.parquet": docs_of("d", 3)})
    snapshot, texts = night(place, setting)
    assert sorted(texts) == ["text 0 of d", "text 1 of d", "text 2 of d"], "also texts of dead rows, under other ids"
    expected_vectors(snapshot, writer.now)
    check(snapshot, place)


def test_a_run_that_dies_goes_on(older: tuple[Place, Writer, str]) -> None:
    place, writer, setting = older
    writer.write({**writer.now, "c.parquet": docs_of("c", 9)})
    counting = Counting()
    run = compare(make_plan(place.config(setting)), InProcess())
    do_copies(run)
    do_splits(run.plan, only=1, encode=counting)
    snapshot, texts = night(place, setting)
    assert sorted([*counting.texts, *texts]) == sorted(doc.text for doc in docs_of("c", 9))
    expected_vectors(snapshot, writer.now)
    check(snapshot, place)


def test_what_is_refused(older: tuple[Place, Writer, str]) -> None:
    place, _, setting = older
    lender = setting.removeprefix("table.reuse_from=")
    with pytest.raises(TableMismatch) as refused:
        make_plan(place.config(setting, "model.max_length=16"))
    assert str(refused.value).startswith(f"table.reuse_from: {lender} holds vectors made with other settings:\n  ")
    assert "max_length" in str(refused.value)
    assert str(refused.value).endswith("Change the settings back, or remove table.reuse_from.")
    with pytest.raises(ConfigError, match=r"^table\.reuse_from is the table itself, .*\. Remove table\.reuse_from\.$"):
        make_plan(dataclasses.replace(place, table=lender).config(setting))
    with pytest.raises(TableNotFound, match=f"^table.reuse_from: There is no table at {lender}-none"):
        make_plan(place.config(f"{setting}-none"))
    label = make_plan(place.config(setting, "table.generation=again"))
    assert (label.lender, label.has_to_compare) == (None, False), "a label asks for new vectors"
    lost = Table.open(open_store(lender)).current().split_ids()[0]
    (Path(lender) / names.data_key(lost)).unlink()
    with pytest.raises(TableDamaged) as damaged:
        make_plan(place.config(setting))
    assert str(damaged.value) == (
        f"table.reuse_from: {lender} is damaged. Of snapshot 2, 1 file is lost: {names.data_key(lost)} is missing. "
        "Repair that table (`sfr-batch repair` with its own config), or remove table.reuse_from."
    )
