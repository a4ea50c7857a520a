"""Repairs of tables whose carried columns have changed, with vectors of another table, and by a wrong clock."""

import dataclasses
import shutil
from collections.abc import Callable
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from sfr_batch.checks.audit.auditor import audit
from sfr_batch.errors import ConfigError
from sfr_batch.format import names
from sfr_batch.format.records import Receipt
from sfr_batch.pipeline.repair import repair
from sfr_batch.planning.comparison import compare
from sfr_batch.planning.make import make_plan
from sfr_batch.planning.repairing import find_gone
from sfr_batch.storage.executor import InProcess
from sfr_batch.storage.stores import open_store
from sfr_batch.table.commit import clocks
from sfr_batch.table.commit.remains import find_remains
from sfr_batch.table.table import Snapshot, Table
from tests.nights import Doc, Place, Writer, docs_of, expected_vectors, night, state_of
from tests.planning.test_repair import file_of, flip, mended
from tests.tables import jsonl, parquet, put

pytestmark = pytest.mark.usefixtures("one_look_at_the_model")

Nights = tuple[Place, Writer]
BOTH, LANG = "corpus.carry={lang: lang, again: id}", "corpus.carry=[lang]"
COVERS = '[2,{"lang":"string"}]'


def table_of(place: Place) -> Table:
    return Table.open(open_store(place.table))


def dropped(nights: Nights) -> tuple[Place, Writer, Snapshot]:
    """A table that a column has left: files, indexes and kept documents with it, and others without it."""
    place, writer = nights
    a, b, c = docs_of("a", 6), docs_of("b", 9), docs_of("c", 6)
    writer.write({"a.parquet": a, "b.parquet": b, "c.parquet": c})
    night(place, BOTH)
    a[1] = Doc("a1", "another text of a")
    writer.write({"a.parquet": a, "b.parquet": b, "c.parquet": c})
    night(place, BOTH)
    c[1] = Doc("c1", "another text of c")
    writer.write({"a.parquet": a, "b.parquet": b, "c.parquet": c})
    snapshot, _ = night(place, LANG)
    covers = {part.shard[-9:]: part.covers for parts in snapshot.read_indexes().values() for part in parts}
    assert covers == {"a.parquet": "", "c.parquet": COVERS}
    assert {receipt.covers for receipt in snapshot.read_receipts()} == {"", COVERS}
    return place, writer, snapshot


def of_first(place: Place, snapshot: Snapshot) -> None:
    """A file of the first night, with rows of shard a that an index of the second night names."""
    file_of(place, receipt_of(snapshot, "a.parquet")).unlink()


def flipped(place: Place, snapshot: Snapshot) -> None:
    """A bit of a vector: where other bits lie depends on the names in the footer, and not every bit has a meaning."""
    file = file_of(place, receipt_of(snapshot, "c.parquet"))
    group = pq.read_metadata(file).row_group(0)
    chunk = next(c for c in map(group.column, range(group.num_columns)) if c.path_in_schema.startswith(names.EMBEDDING))
    flip(file, chunk.data_page_offset + chunk.total_compressed_size - 2)


def an_index(place: Place, snapshot: Snapshot) -> None:
    key = next(part.key for parts in snapshot.read_indexes().values() for part in parts if part.covers)
    (Path(place.table) / key).unlink()


def of_today(place: Place, snapshot: Snapshot) -> None:
    file_of(place, next(r for r in snapshot.read_receipts() if r.covers)).unlink()


def everything(place: Place, snapshot: Snapshot) -> None:
    of_today(place, snapshot)
    shutil.rmtree(Path(place.table) / "_sfr")


def receipt_of(snapshot: Snapshot, shard: str) -> Receipt:
    return next(r for r in snapshot.read_receipts() if r.shard.endswith(shard))


@pytest.mark.parametrize(
    "lose",
    [of_first, flipped, an_index, everything],
    ids=lambda lose: lose.__name__,
)
def test_whatever_is_lost_of_a_table_that_a_column_has_left(
    nights: Nights, lose: Callable[[Place, Snapshot], None]
) -> None:
    place, writer, snapshot = dropped(nights)
    state, files = state_of(snapshot), {r.split_id: r for r in snapshot.read_receipts()}
    table = table_of(place)
    lose(place, snapshot)
    if lose is not everything:
        assert not audit(table).ok
    gone = {split_id for split_id, receipt in files.items() if not file_of(place, receipt).exists()}
    repaired, texts = mended(place)
    assert repaired is not None
    lost = [files[split_id] for split_id in gone | (repaired.read_condemned() & files.keys())]
    assert len(texts) <= sum(receipt.embedded for receipt in lost)
    assert state_of(repaired) == state
    assert repaired.schema.equals(snapshot.schema)
    assert repaired.manifest.layout is not None
    expected_vectors(repaired, writer.now)
    report = audit(table_of(place), make_plan(place.config()))
    assert report.ok, report.describe()
    assert make_plan(place.config()).up_to_date
    assert mended(place) == (None, [])
    again, texts = night(place, BOTH)
    assert texts == [], "the column comes back, and no vector is made again"
    assert set(again.to_arrow(["again"]).column(0).to_pylist()) == {
        doc.id for its in writer.now.values() for doc in its
    }
    assert audit(table_of(place), make_plan(place.config(BOTH))).ok


def test_a_table_without_sfr_takes_other_columns_with_its_vectors(nights: Nights) -> None:
    """No snapshot says what was carried: the files do, and the config of today."""
    place, _, _ = dropped(nights)
    shutil.rmtree(Path(place.table) / "_sfr")
    repaired, texts = mended(place, "corpus.carry={language: lang}")
    assert repaired is not None
    assert texts == []
    assert set(repaired.to_arrow(["language"]).column(0).to_pylist()) == {"en"}
    assert list(table_of(place).layout.carried) == ["lang", "again"], "as in the files whose receipts name no columns"
    report = audit(table_of(place), make_plan(place.config("corpus.carry={language: lang}")))
    assert report.ok, report.describe()


def test_other_columns_or_defaults_than_those_of_the_last_run_are_refused(nights: Nights) -> None:
    place, _, snapshot = dropped(nights)
    of_first(place, snapshot)
    with pytest.raises(ConfigError, match=r"^corpus\.carry: a repair reads the rows as the last run did"):
        repair(place.config(BOTH))
    repaired, _ = mended(place, deep=False)
    assert repaired is not None
    before = set(repaired.split_ids())
    nulls = "corpus.nulls=['-']"
    put(place.corpus, "d.csv", b"id,text,lang\nd1,one,-\nd2,two,en\n")
    snapshot, _ = night(place, nulls)
    file_of(place, next(r for r in snapshot.read_receipts() if r.split_id not in before)).unlink()
    with pytest.raises(ConfigError, match=r"^corpus\.nulls: a repair reads the rows as the last run did"):
        repair(place.config())
    assert mended(place, nulls, deep=False)[1] == ["one", "two"]


def test_types_that_were_taken_once(nights: Nights) -> None:
    """The config of the night that took them names them still: a repair takes no other type than the snapshot has."""
    place, _ = nights
    year, retype = "corpus.carry=[year]", "table.retype=[year]"
    ids = [f"a{number}" for number in range(8)]

    def write(kind: pa.DataType, values: list[int]) -> None:
        put(place.corpus, "a.parquet", parquet(pa.table({"id": ids, "text": ids, "year": pa.array(values, kind)})))

    write(pa.int8(), list(range(8)))
    night(place, year)
    write(pa.int64(), [*range(7), 40_000])
    snapshot, _ = night(place, year, retype)
    state = state_of(snapshot)
    for receipt in snapshot.read_receipts()[:2]:
        file_of(place, receipt).unlink()
    done = repair(place.config(year, retype))
    assert done.plan is not None
    assert done.plan.column_changes is None
    repaired, texts = mended(place, year)
    assert repaired is not None
    assert texts
    assert state_of(repaired) == state
    assert repaired.schema.field("year").type == pa.int64()
    assert audit(table_of(place), make_plan(place.config(year))).ok


def test_types_whose_record_is_lost(nights: Nights) -> None:
    """Readers would see no values in the column; data files have them."""
    place, _ = nights
    kinds = "corpus.carry=[kind]"
    put(place.corpus, "a.jsonl", jsonl([{"id": "a", "text": "one", "kind": None}]))
    night(place, kinds)
    put(place.corpus, "b.jsonl", jsonl([{"id": "b", "text": "two", "kind": {"x": 3}}]))
    snapshot, _ = night(place, kinds)
    state = state_of(snapshot)
    shutil.rmtree(Path(place.table) / "_sfr/types")
    assert not audit(table_of(place)).ok
    told = repair(place.config(kinds)).describe()
    assert "lost      _sfr/types does not have the type of kind, which data files have" in told
    repaired, texts = mended(place, kinds)
    assert repaired is not None
    assert (texts, state_of(repaired)) == ([], state)
    assert state_of(table_of(place).snapshot(2)) == state, "the record is there again"
    assert audit(table_of(place)).ok
    assert mended(place, kinds) == (None, [])


def test_lost_rows_take_vectors_of_another_table(nights: Nights) -> None:
    """And count as rows that the corpus still has, where nobody knows which rows a changed shard lost."""
    place, writer = nights
    a = docs_of("a", 12)
    writer.write({"a.parquet": a})
    setting = f"table.reuse_from={place.table}-lender"
    night(dataclasses.replace(place, table=f"{place.table}-lender"), BOTH)
    first, _ = night(place)
    lost = receipt_of(first, "a.parquet")
    file_of(place, lost).unlink()
    writer.write({"a.parquet": [*a, Doc("new", "one more")]})
    told = repair(place.config(setting)).describe()
    assert "to embed  1 row of 1 shard" in told
    assert f"to copy   vectors of {lost.embedded} rows from table.reuse_from" in told
    remains = find_remains(table_of(place))
    assert remains is not None
    plan = make_plan(place.config(setting), remains=remains)
    rows = compare(plan, InProcess()).rows
    assert find_gone(remains, {shard.uri: shard.version for shard, _ in plan.changed}, rows) == []
    repaired, texts = mended(place, setting, deep=False)
    assert repaired is not None
    assert texts == ["one more"]
    expected_vectors(repaired, writer.now)
    night(place, setting)
    report = audit(table_of(place), make_plan(place.config(setting)))
    assert report.ok, report.describe()


def test_a_kept_document_that_is_a_reject_today_is_not_kept_by_a_repair(nights: Nights) -> None:
    place, writer = nights
    keep = "table.delete=keep"
    a = docs_of("a", 8)
    writer.write({"a.parquet": a, "b.parquet": docs_of("b", 4)})
    night(place, keep)
    writer.write({"a.parquet": a})
    kept, _ = night(place, keep)
    writer.write({"a.parquet": [*a, Doc("b1", "")]})
    before = state_of(kept)
    file_of(place, receipt_of(kept, "a.parquet")).unlink()
    repaired, _ = mended(place, keep, deep=False)
    assert repaired is not None
    assert state_of(repaired).keys() == before.keys() - {"b1"}
    assert audit(table_of(place)).ok
    snapshot, _ = night(place, keep)
    assert state_of(snapshot) == state_of(repaired)
    assert audit(table_of(place), make_plan(place.config(keep))).ok


def test_a_repair_by_a_machine_whose_clock_is_behind(nights: Nights, monkeypatch: pytest.MonkeyPatch) -> None:
    place, _, snapshot = dropped(nights)
    of_today(place, snapshot)
    with monkeypatch.context() as behind:
        behind.setattr(clocks, "utc_now", lambda: "2001-01-01T00:00:00+00:00")
        repaired, _ = mended(place, deep=False)
    assert repaired is not None
    manifest = repaired.manifest
    assert (manifest.operation, manifest.clock) == ("repair", "2001-01-01T00:00:00+00:00")
    assert manifest.created_at == snapshot.manifest.created_at
    assert manifest.format_version == names.FORMAT_OF_DEAD_ROWS
    of_today(place, repaired)
    later, _ = mended(place, deep=False)
    assert later is not None
    assert later.manifest.clock is None
    assert audit(table_of(place), make_plan(place.config())).ok
