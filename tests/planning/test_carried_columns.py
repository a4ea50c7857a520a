"""Carried columns that come, go and change their types between nights: the vectors stay, and the rest is exact."""

import dataclasses
import io
import json
import os
import pickle
from collections.abc import Mapping, Sequence
from decimal import Decimal
from pathlib import Path
from typing import Any

import duckdb
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from sfr_batch.checks.audit.auditor import audit
from sfr_batch.errors import ConfigError, CorpusError, TableError
from sfr_batch.format import lineage, names, records
from sfr_batch.format.indexes import joined
from sfr_batch.format.layout import Layout, covers_of
from sfr_batch.format.parquet import read_receipt
from sfr_batch.format.records import IndexPart
from sfr_batch.format.schemas import described
from sfr_batch.planning.comparison import compare
from sfr_batch.planning.make import make_plan
from sfr_batch.storage.executor import InProcess
from sfr_batch.storage.stores import open_store
from sfr_batch.table.changes import Changes, changes
from sfr_batch.table.commit.compaction import carry_out, compact, find_compaction
from sfr_batch.table.table import Snapshot, Table
from tests.nights import Counting, Place, night, state_of
from tests.tables import do_copies, do_plan, do_splits, jsonl, parquet, put

pytestmark = pytest.mark.usefixtures("one_look_at_the_model")
EXAMPLES = int(os.environ.get("SFR_EXAMPLES", "3"))

# --- any changes over four nights, against full embeddings


@dataclasses.dataclass(frozen=True)
class Row:
    text: str
    lang: str | None
    year: int | None
    shard: str


Rows = Mapping[str, Row]
YEARS: Mapping[str, pa.DataType] = {
    "int16": pa.int16(), "int64": pa.int64(), "double": pa.float64(), "string": pa.string(),
    "decimal": pa.decimal128(9, 2),
}  # fmt: skip
IDS = [f"d{number}" for number in range(9)]
row = st.builds(
    Row,
    text=st.sampled_from(["one", "two", "three", ""]),
    lang=st.sampled_from(["en", "de", None]),
    year=st.sampled_from([2005, 7, None]),
    shard=st.sampled_from("abc"),
)


@st.composite
def corpora(draw: st.DrawFn) -> list[tuple[dict[str, Row], str, list[str]]]:
    """Four nights: the rows by id, the type of the years, and the columns that are carried."""
    found = []
    rows = draw(st.dictionaries(st.sampled_from(IDS), row, min_size=3))
    for _ in range(4):
        for id_ in draw(st.lists(st.sampled_from(IDS), max_size=3)):
            rows = {**rows, id_: draw(row)}
        for id_ in draw(st.lists(st.sampled_from(sorted(rows)), max_size=2)):
            rows = {other: its for other, its in rows.items() if other != id_ or len(rows) == 1}
        if not any(its.text for its in rows.values()):
            rows = {**rows, "d0": Row("one", "en", 7, "a")}
        carry = draw(st.lists(st.sampled_from(["lang", "year", "of"]), unique=True))
        found.append((rows, draw(st.sampled_from(sorted(YEARS))), carry))
    return found


def write(place: Place, rows: Rows, kind: str, before: dict[str, bytes]) -> None:
    """The shards of these rows; those with the content that they had before are not written again."""
    shards: dict[str, list[tuple[str, Row]]] = {}
    for id_, its in rows.items():
        shards.setdefault(its.shard, []).append((id_, its))
    for name in before.keys() - shards.keys():
        Path(place.corpus, f"{name}.parquet").unlink()
        del before[name]
    for name, of_shard in shards.items():
        given_ = [its.year for _, its in of_shard]
        made = {"string": str, "decimal": Decimal}.get(kind, int)
        years = pa.array([None if year is None else made(year) for year in given_], YEARS[kind])
        columns = {"id": [id_ for id_, _ in of_shard], "text": [its.text for _, its in of_shard]}
        columns["lang"] = pa.array([its.lang for _, its in of_shard], pa.string())
        data = parquet(pa.table({**columns, "year": years}))
        if before.get(name) != data:
            put(place.corpus, f"{name}.parquet", data)
            before[name] = data


def overrides_of(carry: Sequence[str]) -> list[str]:
    """``of`` is the language under another name."""
    given_ = {name: "lang" if name == "of" else name for name in carry}
    return [f"corpus.carry={json.dumps(given_)}", f"table.retype={json.dumps(list(carry))}"]


@settings(max_examples=EXAMPLES, suppress_health_check=list(HealthCheck), deadline=None)
@given(nights_=corpora(), data=st.data())
def test_any_columns_over_four_nights_equal_a_full_embedding(
    nights_: list[tuple[dict[str, Row], str, list[str]]],
    data: st.DataObject,
    tmp_path_factory: pytest.TempPathFactory,
    mistral: str,
) -> None:
    some_nights(nights_, data, tmp_path_factory, mistral)


@pytest.mark.slow
@pytest.mark.timeout(3600)
@settings(max_examples=max(EXAMPLES, 150), suppress_health_check=list(HealthCheck), deadline=None)
@given(nights_=corpora(), data=st.data())
def test_many_columns_over_four_nights_equal_full_embeddings(
    nights_: list[tuple[dict[str, Row], str, list[str]]],
    data: st.DataObject,
    tmp_path_factory: pytest.TempPathFactory,
    mistral: str,
) -> None:
    some_nights(nights_, data, tmp_path_factory, mistral)


def some_nights(
    nights_: list[tuple[dict[str, Row], str, list[str]]],
    data: st.DataObject,
    tmp_path_factory: pytest.TempPathFactory,
    mistral: str,
) -> None:
    """Moves, deletes, other texts, other columns and types, runs that die, compactions; each night is compared with a
    full embedding, the audit passes, the feed is exact, and only new texts are encoded."""
    root = tmp_path_factory.mktemp("nights")
    place = Place(str(root / "corpus"), str(root / "table"), mistral)
    Path(place.corpus).mkdir()
    files: dict[str, bytes] = {}
    published: list[tuple[Snapshot, dict[str, tuple[Any, ...]]]] = []
    known: dict[str, str] = {}
    for number, (rows, kind, carry) in enumerate(nights_):
        write(place, rows, kind, files)
        overrides = overrides_of(carry)
        dead = Counting()
        if number and data.draw(st.booleans()):  # a run that dies, perhaps with other columns
            other = overrides if data.draw(st.booleans()) else overrides_of(["year"])
            plan = make_plan(place.config(*other))
            comparison = compare(plan, InProcess()) if plan.has_to_compare else None
            if data.draw(st.booleans()):
                do_copies(comparison)
            do_splits(comparison.plan if comparison else plan, only=data.draw(st.integers(0, 2)), encode=dead)
        snapshot, texts = night(place, *overrides)
        expected = [its.text for id_, its in rows.items() if its.text and known.get(id_) != its.text]
        assert all(texts.count(text) <= expected.count(text) for text in texts), "nothing is paid twice"
        assert make_plan(place.config(*overrides)).up_to_date
        if data.draw(st.booleans()):
            smaller = find_compaction(snapshot, rows_per_file=data.draw(st.sampled_from([4, 100])))
            snapshot = carry_out(Table.open(snapshot.store), smaller).snapshot or snapshot
            assert make_plan(place.config(*overrides)).up_to_date
        full = dataclasses.replace(place, table=str(root / f"full{number}"))
        reference, _ = night(full, *overrides)
        for field, like in zip(snapshot.schema, reference.schema, strict=True):
            assert field.equals(like) or pa.types.is_null(like.type), "a column without values keeps the type it had"
        assert state_of(snapshot) == state_of(reference)
        found = audit(Table.open(snapshot.store), make_plan(place.config(*overrides)))
        assert found.ok, found.describe()
        same_in_duckdb(snapshot)
        for older, _ in published:
            check_changes(older, snapshot)
        published.append((snapshot, state_of(snapshot)))
        known = {id_: its.text for id_, its in rows.items()}
    for older, state in published:
        again = Table.open(older.store).snapshot(older.number)
        assert state_of(again) == state, "older snapshots show their own columns"


def same_in_duckdb(snapshot: Snapshot) -> None:
    wanted = [name for name in snapshot.schema.names if name != names.ROW_HASH]
    with duckdb.connect() as connection:
        connection.execute(snapshot.duckdb_view(columns=wanted))
        theirs = connection.sql("SELECT * FROM embeddings ORDER BY id").fetchall()
    ours = snapshot.to_arrow(wanted).sort_by("id").to_pylist()
    assert [dict(zip(wanted, [_plain(v) for v in row], strict=True)) for row in theirs] == [
        {name: _plain(value) for name, value in row.items()} for row in ours
    ]


def _plain(value: Any) -> Any:
    return list(value) if isinstance(value, tuple) else value


def check_changes(before: Snapshot, after: Snapshot) -> None:
    """The feed, applied to what the first snapshot showed, in the columns of the second, gives the second."""
    found = changes(Table.open(after.store), before.number, after.number)
    compared = [name for name in after.schema.names if name != names.ROW_HASH]  # of other columns, it is another one
    rows = {row["id"]: {name: row.get(name) for name in compared} for row in before.to_arrow().to_pylist()}
    for batch in found.deletes():
        for id_ in batch.column("id").to_pylist():
            del rows[id_]
    for batch in found.upserts(compared):
        rows |= {row["id"]: row for row in batch.to_pylist()}
    assert rows == {row["id"]: row for row in after.to_arrow(compared).to_pylist()}
    if before.number < after.number:
        check_changes_by_comparison(found)


def check_changes_by_comparison(found: Changes) -> None:
    """It is the same if no file says which rows it has from where."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(lineage, "_parsed", lambda text: [])
        compared = changes(Table.open(open_store(found.table)), found.from_snapshot, found.to_snapshot)
    assert str(compared) == str(found)
    for mine, theirs in zip((found.upserts, found.deletes), (compared.upserts, compared.deletes), strict=True):
        assert [batch.to_pylist() for batch in mine()] == [batch.to_pylist() for batch in theirs()]


# --- one change at a time


@pytest.fixture
def place(tmp_path: Path, mistral: str) -> Place:
    """A corpus of two shards, of which b has a year that is no small number."""
    (tmp_path / "corpus").mkdir()
    found = Place(str(tmp_path / "corpus"), str(tmp_path / "table"), mistral)
    shard(found, "a", [1, 2, None])
    shard(found, "b", [3, 40_000, 5])
    return found


def shard(
    place: Place, name: str, years: Sequence[Any], kind: pa.DataType | None = None, **more: Sequence[Any]
) -> None:
    ids = [f"{name}{number}" for number in range(len(years))]
    columns = {"id": ids, "text": [f"text of {id_}" for id_ in ids], "lang": [name] * len(ids), **more}
    put(place.corpus, f"{name}.parquet", parquet(pa.table({**columns, "year": pa.array(years, kind or pa.int64())})))


def data_files(place: Place) -> set[str]:
    return {info.key for info in open_store(place.table).list(names.DATA)}


NONE, LANG, YEAR, BOTH = (f"corpus.carry={carry}" for carry in ("[]", "[lang]", "[year]", "[lang, year]"))


def years_of(place: Place, snapshot: int | None = None) -> dict[str, Any]:
    table = Table.open(open_store(place.table))
    rows = (table.at(snapshot=snapshot) if snapshot else table).to_arrow(["id", "year"])
    return dict(zip(*(column.to_pylist() for column in rows.columns), strict=True))


def test_dropping_a_column_reads_and_writes_nothing(place: Place) -> None:
    first, _ = night(place, BOTH)
    files = data_files(place)
    plan = make_plan(place.config(LANG))
    assert (plan.changed, plan.up_to_date, plan.has_to_compare) == ((), False, False)
    assert "columns   year int64 is dropped\n" in plan.describe()
    assert "to copy" not in plan.describe()
    second = do_plan(plan)
    assert data_files(place) == files
    assert second.files_with_other_columns() == len(files)
    found = audit(Table.open(second.store), make_plan(place.config(LANG)))
    assert (found.ok, found.plain) == (True, False), "data/ by itself has the column"
    assert "written before carried columns changed" in found.describe()
    assert second.schema.names == [name for name in first.schema.names if name != "year"]
    assert years_of(place, 1)["b1"] == 40_000, "the older snapshot still has it"
    with pytest.raises(TableError, match="has no column 'year'"):
        second.to_arrow(["year"])
    assert second.manifest.format_version == names.FORMAT_OF_LAYOUT
    assert make_plan(place.config(LANG)).up_to_date
    third, texts = night(place, BOTH)
    assert (texts, data_files(place)) == ([], files), "what comes back is found in the files"
    assert years_of(place) == years_of(place, 1)
    assert third.manifest.format_version == names.FORMAT_OF_LAYOUT, "an older release may not know all files"
    assert {receipt.covers for receipt in third.read_receipts()} == {""}


def test_receipts_say_what_their_hashes_cover_and_what_is_not_read_keeps_its_own(place: Place) -> None:
    night(place, YEAR)
    night(place, NONE)
    shard(place, "a", [1, 2, None, 4])
    snapshot, texts = night(place, NONE)
    assert texts == ["text of a3"]
    assert {receipt.covers for receipt in snapshot.read_receipts()} == {"", "[0,{}]"}
    assert [part.covers for parts in snapshot.read_indexes().values() for part in parts] == ["[0,{}]"]
    snapshot, texts = night(place, BOTH)
    assert texts == []
    covers = '[2,{"lang":"string","year":"int64"}]'
    assert {receipt.covers for receipt in snapshot.read_receipts()} == {covers}
    assert {part.covers for parts in snapshot.read_indexes().values() for part in parts} == {covers}
    receipt = snapshot.read_receipts()[0]
    assert read_receipt(snapshot.store, receipt.split_id).covers == covers, "it stands in the footer, too"
    assert snapshot.layout.covers == covers
    assert audit(Table.open(snapshot.store), make_plan(place.config(BOTH))).ok


def test_the_plan_says_what_a_new_column_costs(place: Place) -> None:
    night(place, LANG)
    plan = make_plan(place.config(BOTH))
    assert "columns   year int64 is new\n" in plan.describe()
    assert "to embed  0 rows" in plan.describe()
    size = "0.0 MB"
    assert f"to copy   at most 6 vectors, {size}, ~0 seconds, without the model\n" in plan.describe()
    exact = compare(plan, InProcess()).plan
    assert f"to copy   5 vectors, {size}, ~0 seconds, without the model\n" in exact.describe(), "null is null already"
    assert "rows      0 new, 0 changed, 5 with other carried columns, 0 deleted, 1 unchanged" in exact.describe()
    shard(place, "a", [1, 2, None, 4])
    plan = make_plan(place.config(BOTH))
    assert "to embed  4 rows" in plan.describe()
    assert "at most 3 vectors" in plan.describe()


def test_a_wider_type_is_taken_when_it_is_asked_for_and_copies_nothing(place: Place) -> None:
    shard(place, "b", [3, 4, 5], pa.int16())
    shard(place, "a", [1, 2, None], pa.int16())
    night(place, YEAR)
    shard(place, "a", [1, 40_000, None])
    snapshot, _ = night(place, YEAR)
    assert snapshot.schema.field("year").type == pa.int16(), "a type does not change by itself"
    assert snapshot.rejects().column("reason").to_pylist() == ["bad_column"]
    files = data_files(place)
    plan = make_plan(place.config(YEAR, "table.retype=[year]"))
    assert "columns   year int16 becomes int64\n" in plan.describe()
    assert [shard.uri[-9:] for shard, _ in plan.changed] == ["a.parquet"], "its rejected row is good now"
    counting = Counting()
    snapshot = do_plan(plan, encode=counting)
    assert counting.texts == ["text of a1"]
    assert len(data_files(place) - files) == 1
    assert years_of(place) == {"a0": 1, "a1": 40_000, "a2": None, "b0": 3, "b1": 4, "b2": 5}
    assert snapshot.schema.field("year").type == pa.int64()
    assert make_plan(place.config(YEAR)).up_to_date
    found = Table.open(snapshot.store)
    some = found.to_arrow(["id"], where="year > 3 and year < 50000").column(0).to_pylist()
    assert sorted(some) == ["a1", "b1", "b2"]
    assert audit(found, make_plan(place.config(YEAR))).ok


def test_another_type_takes_all_values_from_the_corpus(place: Place) -> None:
    night(place, YEAR)
    for name, years in (("a", ["1", "two", None]), ("b", ["3", "40000", "5"])):
        shard(place, name, years, pa.string())
    with pytest.raises(CorpusError, match=r"'year' is string, but in the table it is int64.*table.retype=\[year\]"):
        make_plan(place.config(YEAR))
    plan = make_plan(place.config(YEAR, "table.retype=[year]"))
    assert "columns   year int64 becomes string\n" in plan.describe()
    snapshot, texts = night(place, YEAR, "table.retype=[year]")
    assert texts == []
    assert years_of(place) == {"a0": "1", "a1": "two", "a2": None, "b0": "3", "b1": "40000", "b2": "5"}
    assert years_of(place, 1)["b1"] == 40_000
    same_in_duckdb(snapshot)
    assert make_plan(place.config(YEAR)).up_to_date


def test_a_type_is_not_taken_from_half_of_the_corpus(place: Place) -> None:
    night(place, YEAR)
    shard(place, "a", ["1", "two", None], pa.string())
    with pytest.raises(CorpusError, match="but in other shards it is"):
        make_plan(place.config(YEAR, "table.retype=[year]"))


def test_rows_that_were_rejected_for_a_column_come_back_when_it_goes(place: Place) -> None:
    shard(place, "a", [1, 2, None], pa.int16())
    shard(place, "b", [3, 4, 5], pa.int16())
    night(place, YEAR)
    shard(place, "b", [3, 40_000, 5])
    first, _ = night(place, YEAR)
    assert first.manifest.counts.rejected == 1
    second, texts = night(place, NONE)
    assert texts == ["text of b1"]
    assert second.manifest.counts.rejected == 0


def test_kept_documents_keep_what_they_had(place: Place) -> None:
    night(place, YEAR)
    (Path(place.corpus) / "b.parquet").unlink()
    keep = "table.delete=keep"
    snapshot, texts = night(place, BOTH, keep)
    assert texts == []
    rows = {row["id"]: (row["lang"], row["year"]) for row in snapshot.to_arrow().to_pylist()}
    assert rows == {
        "a0": ("a", 1),
        "a1": ("a", 2),
        "a2": ("a", None),
        "b0": (None, 3),
        "b1": (None, 40_000),
        "b2": (None, 5),
    }
    assert audit(Table.open(snapshot.store), make_plan(place.config(BOTH, keep))).ok
    compact(Table.open(snapshot.store), dry_run=False)
    assert state_of(Table.open(snapshot.store).current()) == state_of(snapshot)
    shard(place, "a", ["1", "2", None], pa.string())
    with pytest.raises(ConfigError, match=r"table\.delete=keep keeps documents whose year is nowhere else"):
        make_plan(place.config(BOTH, keep, "table.retype=[year]"))


def test_a_kept_value_of_an_earlier_type_is_null_wherever_it_is_read(place: Place) -> None:
    """The column went, its document left, and it came back with another type: nothing says what the value is in it."""
    keep = "table.delete=keep"
    first, _ = night(place, YEAR)
    (Path(place.corpus) / "b.parquet").unlink()
    second, _ = night(place, NONE, keep)
    shard(place, "a", ["1", "two", None], pa.string())
    third, texts = night(place, YEAR, keep)
    assert texts == []
    years = {"a0": "1", "a1": "two", "a2": None, "b0": None, "b1": None, "b2": None}
    assert years_of(place) == years
    assert audit(Table.open(third.store), make_plan(place.config(YEAR, keep))).ok
    check_changes(first, third)
    check_changes(second, third)
    with pytest.raises(ConfigError, match=r"'year' is string, and was int64 when some.*DuckDB would show the old one"):
        third.duckdb_view()
    with pytest.raises(ConfigError, match="DuckDB would show the old one"):
        third.to_duckdb(["id"], where="year = '3'")
    with duckdb.connect() as connection:
        connection.execute(third.duckdb_view(columns=["id", "embedding"]))
        assert len(connection.sql("FROM embeddings").fetchall()) == 6
    compact(Table.open(third.store), dry_run=False)
    assert years_of(place) == years
    same_in_duckdb(Table.open(third.store).current())


def test_the_feed_has_the_values_of_a_column_that_came_back(place: Place) -> None:
    first, _ = night(place, BOTH)
    second, _ = night(place, LANG)
    third, _ = night(place, BOTH)
    feed = changes(Table.open(third.store), second.number, third.number)
    assert (feed.new, feed.changed, feed.deleted) == (0, 5, 0), "null is null already"
    check_changes(second, third)
    same = changes(Table.open(third.store), first.number, third.number)
    assert (same.changed, same.files_read) == (0, 0)


def test_a_part_of_the_corpus_may_give_a_column_its_type(place: Place) -> None:
    for name in "ab":
        shard(place, name, [None, None], pa.null())
    night(place, LANG)
    night(place, BOTH)
    shard(place, "b", [7, None])
    plan = make_plan(place.config(BOTH, "select.shards=[b.parquet]"))
    assert "\ncolumns" not in plan.describe()
    snapshot = do_plan(plan, encode=Counting())
    assert years_of(place) == {"a0": None, "a1": None, "b0": 7, "b1": None}
    same_in_duckdb(snapshot)


def test_a_part_of_the_corpus_changes_no_columns(place: Place) -> None:
    night(place, LANG)
    for part in ("select.shards=[a.parquet]", "select.ids=[a0]"):
        with pytest.raises(
            ConfigError, match=r"year int64 is new\. A run with select would change them for some rows only"
        ):
            make_plan(place.config(BOTH, part))
    with pytest.raises(ConfigError, match=r"table\.retype names month, which corpus.carry does not carry"):
        make_plan(place.config(LANG, "table.retype=[month]"))


def test_a_new_column_may_be_the_one_to_order_by(place: Place) -> None:
    night(place, LANG)
    shard(place, "b", [3, 1, 5], id=["b0", "a0", "b2"], text=["text of b0", "a text of today", "text of b2"])
    last = ("table.duplicate_ids=last", "table.order_by=year")
    snapshot, texts = night(place, BOTH, *last)
    assert texts == ["a text of today"]
    assert years_of(place) == {"a0": 1, "a1": 2, "a2": None, "b0": 3, "b2": 5}
    assert audit(Table.open(snapshot.store), make_plan(place.config(BOTH, *last))).ok
    snapshot, texts = night(place, BOTH)
    assert audit(Table.open(snapshot.store), make_plan(place.config(BOTH))).ok


def test_the_order_of_columns_costs_nothing(place: Place) -> None:
    night(place, BOTH)
    files = data_files(place)
    plan = make_plan(place.config("corpus.carry=[year, lang]"))
    assert "columns   in another order: year, lang\n" in plan.describe()
    snapshot = do_plan(plan)
    assert data_files(place) == files
    assert snapshot.schema.names[-2:] == ["year", "lang"]
    assert audit(Table.open(snapshot.store), make_plan(place.config("corpus.carry=[year, lang]"))).ok


def test_an_older_release_asks_for_an_upgrade(place: Place, monkeypatch: pytest.MonkeyPatch) -> None:
    night(place, BOTH)
    night(place, LANG)
    monkeypatch.setattr(records, "NEWEST_FORMAT", 3)
    with pytest.raises(TableError, match="has table format 4; this sfr-batch reads up to 3: upgrade"):
        Table.open(open_store(place.table)).current()


def test_a_plan_for_a_table_that_another_run_has_created_otherwise_is_made_again(place: Place) -> None:
    plan = make_plan(place.config(LANG))
    night(place, YEAR)
    table = Table.open(open_store(place.table))
    assert not plan.is_for(table)
    plan = make_plan(place.config(YEAR))
    assert plan.is_for(table)
    numbered = names.table_schema(pa.int64(), 8, "float32", {"year": pa.int64()})
    assert not dataclasses.replace(plan, card=plan.card.model_copy(update=described(numbered))).is_for(table)


def test_an_interrupted_first_run_goes_on_with_other_columns(place: Place) -> None:
    do_splits(make_plan(place.config(LANG)), only=1, encode=Counting())
    snapshot, _ = night(place, BOTH)
    assert years_of(place)["b1"] == 40_000
    assert snapshot.manifest.format_version == names.FORMAT_OF_DEAD_ROWS
    assert audit(Table.open(snapshot.store), make_plan(place.config(BOTH))).ok


def test_a_table_of_the_first_hashes_goes_on_with_today_s(place: Place, monkeypatch: pytest.MonkeyPatch) -> None:
    with monkeypatch.context() as older:
        older.setattr(records, "ROW_HASH_VERSION", 1)
        first = make_plan(place.config(LANG))
        do_plan(dataclasses.replace(first, columns=dataclasses.replace(first.columns, row_hash=1)), encode=Counting())
    snapshot, texts = night(place, BOTH)
    assert texts == []
    assert snapshot.layout.row_hash == 2
    assert years_of(place)["b1"] == 40_000
    assert audit(Table.open(snapshot.store), make_plan(place.config(BOTH))).ok


def test_a_run_that_died_with_other_columns_leaves_no_version_of_hashes(place: Place) -> None:
    """Its data file has the snapshot state a layout, which has no row hashes."""
    night(place, NONE)
    shard(place, "a", [1, 2, None, 4])
    do_splits(compare(make_plan(place.config(YEAR)), InProcess()).plan, only=1, encode=Counting())
    stated, texts = night(place, NONE)
    assert texts == []
    assert stated.manifest.layout is not None
    assert names.ROW_HASH not in stated.schema.names
    snapshot, _ = night(place, LANG)
    assert snapshot.layout.row_hash == 2
    reference, _ = night(dataclasses.replace(place, table=f"{place.table}-full"), LANG)
    assert state_of(snapshot) == state_of(reference)


def test_new_keys_of_structs(place: Place) -> None:
    for name in "ab":
        (Path(place.corpus) / f"{name}.parquet").unlink()
    meta, retype = "corpus.carry=[meta]", "table.retype=[meta]"
    for name, value in (("a", {"n": 1}), ("b", {"n": 2})):
        put(place.corpus, f"{name}.jsonl", jsonl([{"id": name, "text": name, "meta": value}]))
    night(place, meta)
    put(place.corpus, "b.jsonl", jsonl([{"id": "b", "text": "b", "meta": {"n": 2, "of": ["x"]}}]))
    snapshot, _ = night(place, meta)
    assert snapshot.rejects().column("id").to_pylist() == ["b"], "the table has no place for it"
    snapshot, texts = night(place, meta, retype)
    assert texts == [], "its vector is in a file of the first night"
    assert snapshot.to_arrow(["id", "meta"]).sort_by("id").column(1).to_pylist() == [
        {"n": 1, "of": None},
        {"n": 2, "of": ["x"]},
    ]
    same_in_duckdb(snapshot)


def test_types_that_parquet_gives_back_otherwise() -> None:
    """They are no other types, whatever columns the snapshot has, and are held as what they were written."""
    kinds = {"d": pa.dictionary(pa.int32(), pa.large_string()), "s": pa.timestamp("s"), "t": pa.time32("s")}
    schema = names.table_schema(pa.string(), 3, "float32", kinds)
    values = {"d": ["x", None, "y"], "s": [1, None, -1], "t": [1, 2, None]}
    stored = pa.table({name: pa.array(values[name], kind) for name, kind in kinds.items()})
    file = pq.ParquetFile(io.BytesIO(parquet(stored)), pre_buffer=False)
    assert file.schema_arrow != stored.schema
    first = Layout.of_table(schema, 2)
    other = first.changed_to(names.table_schema(pa.string(), 3, "float32", {**kinds, "n": pa.int8()}), 2)
    for layout in (first, other, other.of_values_in(first)):
        found = layout.read(file, list(kinds))
        assert (found.schema.types, found.to_pydict()) == (list(kinds.values()), stored.to_pydict())
    wider = first.changed_to(names.table_schema(pa.string(), 3, "float32", {"d": pa.string()}), 2)
    assert wider.read(file, ["d"]).column(0).to_pylist() == values["d"]
    wider = other.changed_to(
        names.table_schema(pa.string(), 3, "float32", {"d": pa.dictionary(pa.int8(), pa.string())}), 2
    )
    assert wider.read(file, ["d"]).column(0).to_pylist() == values["d"]


def test_what_hashes_cover() -> None:
    schema = names.table_schema(pa.string(), 3, "float32", {"a b": pa.int8(), "c": pa.list_(pa.string())})
    assert covers_of(schema, 2) == '[2,{"a b":"int8","c":"list<item: string>"}]'
    assert covers_of(names.table_schema(pa.string(), 3, "float32", {}), 2) == "[0,{}]"
    first = Layout.of_table(schema, 2)
    other = first.changed_to(names.table_schema(pa.string(), 3, "float32", {"c": pa.int8()}), 2)
    assert first.changed_to(schema, 2).covers == ""
    assert other.written_columns("") == {"a b", "c"}
    assert other.written_columns(other.covers) == {"c"}
    known = Layout.of_table(schema.with_metadata({names.TYPES: ""}), 1)
    assert known.changed_to(schema, 1).schema.metadata, "some files may lack the types"
    again = pickle.loads(pickle.dumps(first.of_values_in(other)))
    assert (again.schema, again.of_card, again.earlier.covers) == (schema, first.of_card, other.covers)
    parts = [IndexPart("a", "key", 0, 2), IndexPart("a", "key", 2, 3), IndexPart("a", "key", 5, 1, other.covers)]
    assert list(joined(parts)) == [IndexPart("a", "key", 0, 5), parts[2]]
