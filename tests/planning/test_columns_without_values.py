"""A carried column without a value decides nothing: the table takes its type from the first night that has one."""

from pathlib import Path
from typing import Any

import duckdb
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from sfr_batch.errors import CorpusError
from sfr_batch.format import names
from sfr_batch.format.schemas import is_same
from sfr_batch.table.commit.compaction import compact
from sfr_batch.table.table import Table
from tests.planning.test_planning import plan_of
from tests.tables import do_plan, jsonl, parquet, put

CARRY = "corpus.carry=[year, meta]"
EMPTY = {"year": None, "meta": {"n": None, "of": []}}
FULL = {"year": 2024, "meta": {"n": "x", "of": [{"k": 0.5}]}}


@pytest.fixture
def here(tmp_path: Path, mistral: str) -> tuple[str, str]:
    return str(tmp_path), mistral


def write(here: tuple[str, str], name: str, carried: dict[str, Any], *, as_parquet: bool) -> None:
    row = {"id": name, "text": f"text {name}", **carried}
    data = parquet(pa.Table.from_pylist([row])) if as_parquet else jsonl([row])
    put(here[0], f"corpus/{name}.{'parquet' if as_parquet else 'jsonl'}", data)


def carried_of(table: Table) -> list[dict[str, Any]]:
    return table.to_arrow(["year", "meta"]).to_pylist()


@pytest.mark.parametrize("as_parquet", [False, True])
def test_types_come_with_the_first_value(here: tuple[str, str], as_parquet: bool) -> None:
    write(here, "a", EMPTY, as_parquet=as_parquet)
    do_plan(plan_of(here, CARRY))
    table = Table.open(plan_of(here, CARRY).store)
    assert table.schema.field("year").type == pa.null()
    assert carried_of(table) == [EMPTY]
    write(here, "b", {**EMPTY, "year": 2024}, as_parquet=as_parquet)
    do_plan(plan_of(here, CARRY))
    write(here, "c", FULL, as_parquet=as_parquet)
    plan = plan_of(here, CARRY)
    assert [unit.shard.uri[-9:].split("/")[-1][0] for unit in plan.units] == ["c"], "what has not changed is not read"
    do_plan(plan)
    expected = [EMPTY, {**EMPTY, "year": 2024}, FULL]
    for found in (table, Table.open(plan.store)):
        assert carried_of(found) == expected
        assert found.schema.field("year").type == pa.int64()
        assert found.to_arrow(["id"], where="year = 2024 and meta.n is null").column(0).to_pylist() == ["b"]
        assert carried_of(found) == found.to_duckdb(["year", "meta"]).arrow().read_all().to_pylist()
    assert found.to_arrow().schema.metadata is None
    assert [record.name for record in sorted(Path(here[0], "table/_sfr/types").iterdir())] == [
        "00000001.json",
        "00000002.json",
    ]
    assert plan_of(here, CARRY).up_to_date
    connection = duckdb.connect()
    connection.execute(found.duckdb_view())
    assert connection.sql("SELECT count(*) FROM embeddings WHERE year = 2024").fetchall() == [(2,)]
    compact(found)
    assert carried_of(Table.open(plan.store)) == expected


def test_another_type_afterwards_is_refused(here: tuple[str, str]) -> None:
    for name, year in (("a", None), ("b", 2024)):
        write(here, name, {"year": year}, as_parquet=True)
        do_plan(plan_of(here, "corpus.carry=[year]"))
    write(here, "c", {"year": "many"}, as_parquet=True)
    with pytest.raises(CorpusError, match="'year' is string, but in the table it is int64"):
        plan_of(here, "corpus.carry=[year]")


def test_a_column_that_says_null_but_for_its_type(here: tuple[str, str]) -> None:
    """pandas writes float64 and DuckDB int32 where no row has a value; other types are meant."""
    columns = {"id": ["a"], "text": ["x"], "f": pa.nulls(1, pa.float64()), "i": pa.nulls(1, pa.int32())}
    columns |= {"t": pa.nulls(1, pa.timestamp("us")), "nan": [float("nan")]}
    put(here[0], "corpus/a.parquet", parquet(pa.table(columns)))
    carry = "corpus.carry=[f, i, t, nan]"
    do_plan(plan_of(here, carry))
    found = plan_of(here, carry).columns.types
    assert found == {"f": pa.null(), "i": pa.null(), "t": pa.timestamp("us"), "nan": pa.float64()}
    columns |= {"id": ["b"], "f": ["text"], "i": [[1]], "nan": [1.5]}
    put(here[0], "corpus/b.parquet", parquet(pa.table(columns)))
    do_plan(plan_of(here, carry))
    rows = Table.open(plan_of(here, carry).store).to_arrow(["f", "i", "t"]).to_pylist()
    assert rows == [{"f": None, "i": None, "t": None}, {"f": "text", "i": [1], "t": None}]


def test_nan_alone_goes_with_any_type(here: tuple[str, str]) -> None:
    for name, value in (("a", float("nan")), ("b", "text")):
        put(here[0], f"corpus/{name}.parquet", parquet(pa.table({"id": [name], "text": ["x"], "n": [value]})))
    do_plan(plan_of(here, "corpus.carry=[n]"))
    table = Table.open(plan_of(here, "corpus.carry=[n]").store)
    assert table.to_arrow(["n"]).column(0).to_pylist() == [None, "text"]


def test_data_files_are_plain_parquet(here: tuple[str, str]) -> None:
    write(here, "a", EMPTY, as_parquet=False)
    do_plan(plan_of(here, CARRY))
    (file,) = Path(here[0], "table", names.DATA).iterdir()
    assert pq.ParquetFile(file).read(["year"]).column(0).to_pylist() == [None]
    assert duckdb.sql(f"SELECT year FROM '{file}'").fetchall() == [(None,)]


def test_schemas_that_are_the_same_but_for_types_yet_to_be_known() -> None:
    def schema(kind: pa.DataType) -> pa.Schema:
        return pa.schema({"n": kind})

    inside = pa.struct({"a": pa.null(), "b": pa.int8()})
    assert is_same(schema(pa.null()), schema(pa.list_(pa.int8())))
    assert is_same(schema(pa.list_(inside)), schema(pa.list_(pa.struct({"a": pa.string(), "b": pa.int8()}))))
    assert is_same(schema(pa.map_(pa.string(), pa.null())), schema(pa.map_(pa.string(), pa.int8())))
    assert not is_same(schema(inside), schema(pa.struct({"a": pa.string(), "b": pa.int16()})))
    assert not is_same(schema(pa.list_(pa.null(), 2)), schema(pa.list_(pa.int8(), 3)))
    assert not is_same(schema(pa.int8()), schema(pa.null()))
    assert not is_same(schema(inside), pa.schema({"m": inside}))
