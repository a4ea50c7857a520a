"""Exports for other engines: what they lack is replaced without loss, or the export is refused before it has begun."""

import json
import re
import shlex
import uuid
from collections.abc import Callable
from decimal import Decimal
from pathlib import Path

import duckdb
import polars
import pyarrow as pa
import pyarrow.dataset as ds
import pyarrow.parquet as pq
import pytest
from click.testing import CliRunner

from sfr_batch.cli.main import main
from sfr_batch.errors import ConfigError, TableError
from sfr_batch.format import names
from sfr_batch.storage.stores import open_store
from sfr_batch.table.changes import changes
from sfr_batch.table.engine_types import ENGINES, converted, may_lose, target_type
from sfr_batch.table.hive_names import escaped
from sfr_batch.table.json_values import json_values
from sfr_batch.table.outgoing import Outgoing
from sfr_batch.table.parquet_folder import SUCCESS, ParquetFolder
from sfr_batch.table.table import Table
from tests.table.kinds import kinds
from tests.tables import card_of, make_table, table_of


def table_at(root: Path, **carry: pa.Array) -> Table:
    return table_of(open_store(str(root / "table")), carry)


def schema_of(target: str) -> pa.Schema:
    return pq.read_schema(f"{target}/part-00000.parquet")


def follow(command: str, *more: str) -> str:
    """Run a command line of `sfr-batch`; its output, also where it fails."""
    return CliRunner().invoke(main, [*shlex.split(command), *more]).output


# --- types


def test_an_export_for_any_engine_has_types_that_all_have(tmp_path: Path) -> None:
    table = table_of(open_store(str(tmp_path / "table")), kinds())
    done = table.export(str(tmp_path / "out"))
    physical = {column.path: column for column in pq.read_metadata(tmp_path / "out/part-00000.parquet").schema}
    for column in physical.values():
        logical = column.logical_type.to_json()
        assert not re.search('nanoseconds|Time"|UUID|Float16|isSigned": false', logical), column.path
        assert column.physical_type not in ("INT96",)
        assert column.physical_type != "FIXED_LEN_BYTE_ARRAY" or column.logical_type.type == "DECIMAL"
    schema = schema_of(done.target)
    assert schema.field("at_ns").type == pa.timestamp("us")
    assert schema.field("uint64").type == pa.decimal128(20, 0)
    assert schema.field("uuid").type == pa.string()
    about = json.loads((tmp_path / "out" / SUCCESS).read_text())
    assert about["for"] == "any"
    assert about["types"]["half"] == ["halffloat", "float"]
    assert about["renamed"] == {}
    assert "; at_ns is timestamp[us] instead of timestamp[ns]; " in str(done)
    assert "content_hash" not in str(done)


def test_an_export_for_arrow_is_the_table(tmp_path: Path) -> None:
    table = table_of(open_store(str(tmp_path / "table")), {**kinds(), "meta.lang": pa.array(["a", "b", None])})
    done = table.export(str(tmp_path / "out"), engine="arrow")
    found = pq.ParquetFile(f"{done.target}/part-00000.parquet").read()
    assert found.cast(table.schema).equals(table.to_arrow())
    assert found.column_names == table.schema.names
    assert done.changed == ""


def test_half_precision_vectors_become_float32(tmp_path: Path) -> None:
    card = card_of(names.table_schema(pa.string(), 3, "float16", {}))
    table = make_table(open_store(str(tmp_path / "table")), {"a": ["x", "y"]}, card)
    table.export(str(tmp_path / "out"))
    found = pq.read_table(tmp_path / "out/part-00000.parquet")
    assert found.schema.field("embedding").type.value_type == pa.float32()
    assert found.column("embedding").to_pylist() == table.to_arrow(["embedding"]).column(0).to_pylist()
    table.export(str(tmp_path / "lance"), engine="lancedb")
    assert schema_of(str(tmp_path / "lance")).field("embedding").type.value_type == pa.float16()


LONG = pa.array([Decimal(1), Decimal("9" * 45 + ".50")], pa.decimal256(50, 2))


@pytest.mark.parametrize(
    ("values", "what", "others"),
    [
        (pa.array([0, 10**18 + 1], pa.timestamp("ns")), "nanoseconds", "duckdb or polars or lancedb or arrow"),
        (
            pa.array([[{"at": 0}], [{"at": 0}, {"at": 7}]], pa.list_(pa.struct([("at", pa.timestamp("ns", "UTC"))]))),
            *("nanoseconds", "duckdb or polars or lancedb or arrow"),
        ),
        (LONG, "decimals of more than 38 digits", "lancedb or arrow"),
    ],
    ids=["nanoseconds", "nested", "long decimals"],
)
def test_a_value_that_does_not_fit_is_refused_before_anything_is_written(
    tmp_path: Path, values: pa.Array, what: str, others: str
) -> None:
    table = table_at(tmp_path, col=values, more=pa.array([1, 2]))
    command = f"export {tmp_path}/table {tmp_path}/out"
    said = follow(command)
    shown = "2001-09-09T01:46:40.000000001" if values.type == pa.timestamp("ns") else "{*}"
    expected = (
        f"error: {tmp_path}/table: the column 'col' has {what} (id 'r1': {shown}), and some engines cannot hold them. "
        "Write the column as text (--as-text col), export without it (--columns), or for one that can: --for "
        f"{others}.\n"
    )
    assert re.fullmatch("[^\n]+".join(map(re.escape, expected.split("{*}"))), said), said
    assert not (tmp_path / "out").exists()
    with pytest.raises(ConfigError, match="'col' has"):
        changes(table, 0, 1).write(ParquetFolder(str(tmp_path / "feed")), Outgoing("x", table.schema))
    assert not (tmp_path / "feed").exists()
    for number, way in enumerate(
        ["--as-text col", "--columns more", *(f"--for {one}" for one in others.split(" or "))]
    ):
        assert follow(f"export {tmp_path}/table {tmp_path}/out{number} {way}").startswith("Exported 2 rows"), way
    text = pq.read_table(tmp_path / "out0").column("col").to_pylist()[1]
    assert text in ("2001-09-09T01:46:40.000000001", "9" * 45 + ".50") or json.loads(text)[1]["at"].endswith(
        "007+00:00"
    )


def test_values_that_fit_are_not_refused(tmp_path: Path) -> None:
    """Also in rows that a filter leaves out, or that are not exported."""
    at = pa.array([0, 1000, 7], pa.timestamp("ns"))
    table = table_at(tmp_path, at=at, n=pa.array([1, 2, 3]), price=LONG.take(pa.array([0, 0, 1])))
    with pytest.raises(ConfigError, match="'at' has nanoseconds"):
        table.export(str(tmp_path / "all"))
    assert table.export(str(tmp_path / "some"), where="n < 3").rows == 2
    assert table.export(str(tmp_path / "column"), columns=["n"]).rows == 3
    found = pq.read_table(tmp_path / "some")
    assert found.column("at").to_pylist() == at.cast(pa.timestamp("us"), safe=False).to_pylist()[:2]
    assert found.column("price").to_pylist() == [Decimal(1), Decimal(1)]


@pytest.mark.parametrize("name", kinds())
def test_slices_chunks_and_nulls_are_converted(name: str) -> None:
    values = kinds()[name]
    shape = pa.array([0, 1, 1, 3], pa.int32()), pa.array([False, True, False])
    nested = pa.ListArray.from_arrays(shape[0], values, mask=shape[1])
    for target in {target_type(values.type, engine) for engine in ENGINES.values()}:
        whole = converted(values, target)
        assert whole.type == target
        for piece in (values[1:], values[:2], values[3:]):
            made = converted(piece, target)
            made.validate(full=True)
            assert json_values(made) == json_values(whole.slice(piece.offset, len(piece)))
        inside = converted(nested[1:], pa.list_(target))
        inside.validate(full=True)
        assert json_values(inside) == json_values(pa.ListArray.from_arrays(shape[0], whole, mask=shape[1])[1:])
    assert not may_lose(values.type, values.type)


# --- names


def test_dots_in_names(tmp_path: Path) -> None:
    inside = pa.array([{"dc.title": "x", "n": 1}, None])
    table = table_at(tmp_path, **{"meta.lang": pa.array(["de", "fr"]), "meta": inside, "x y": pa.array([1, 2])})
    done = table.export(str(tmp_path / "out"))
    assert (
        str(done).splitlines()[1].startswith("For any engine: meta.lang is named meta_lang; meta is struct<dc_title: ")
    )
    found = pq.read_table(tmp_path / "out")
    assert found.column("meta").to_pylist() == [{"dc_title": "x", "n": 1}, None]
    assert found.column_names[-3:] == ["meta_lang", "meta", "x y"]
    for engine, expected in [
        ("duckdb", ["meta.lang", "meta", "x y"]),
        ("polars", ["meta.lang", "meta", "x y"]),
        ("lancedb", ["meta_lang", "meta", "x y"]),
        ("spark", ["meta_lang", "meta", "x_y"]),
        ("bigquery", ["meta_lang", "meta", "x_y"]),
    ]:
        table.export(str(tmp_path / engine), engine=engine)
        assert schema_of(str(tmp_path / engine)).names[-3:] == expected, engine
    table.export(str(tmp_path / "renamed"), rename={"meta.lang": "lang", "x y": "é"})
    assert schema_of(str(tmp_path / "renamed")).names[-3:] == ["lang", "meta", "é"]


@pytest.mark.parametrize(
    ("carry", "engine", "message", "way"),
    [
        (
            *({"ID": pa.array([1])}, "any"),
            "the columns 'id' and 'ID' would be named id and ID, and some engines know no upper and lower case. Name "
            "one of them: --rename ID=<new name>.",
            "--rename ID=number",
        ),
        (
            *({"Ä": pa.array([1]), "ä": pa.array([1])}, "spark"),
            "the columns 'Ä' and 'ä' would be named Ä and ä, and Spark knows no upper and lower case. Name one of "
            "them: --rename ä=<new name>.",
            "--rename ä=a2",
        ),
        (
            *({"a.b": pa.array([1]), "a_b": pa.array([1])}, "lancedb"),
            "the columns 'a.b' and 'a_b' would be named a_b and a_b. Name one of them: --rename a_b=<new name>.",
            "--rename a_b=c",
        ),
        (
            *({"m": pa.array([{"K": 1, "k": 2}])}, "any"),
            "the column 'm' has two keys that some engines would take for one, 'K' and 'k'. Write the column as text "
            "(--as-text m), export without it (--columns), or for what tells them apart (--for arrow).",
            "--as-text m",
        ),
        (
            *({"m": pa.array([{"a.b": 1, "a_b": 2}])}, "bigquery"),
            "the column 'm' has two keys that BigQuery would take for one, 'a_b' and 'a_b'. Write the column as text "
            "(--as-text m), export without it (--columns), or for what tells them apart (--for arrow).",
            "--for arrow",
        ),
    ],
    ids=["case", "unicode", "dots", "keys", "dots in keys"],
)
def test_names_that_an_engine_takes_for_one(
    tmp_path: Path, carry: dict[str, pa.Array], engine: str, message: str, way: str
) -> None:
    table_at(tmp_path, **carry)
    command = f"export {tmp_path}/table {tmp_path}/out --for {engine}"
    assert follow(command) == f"error: {tmp_path}/table: {message}\n"
    assert not (tmp_path / "out").exists()
    assert follow(command, *way.split(" ")).startswith("Exported 1 row")
    assert follow(f"export {tmp_path}/table {tmp_path}/plain --for arrow").startswith("Exported 1 row")


def test_a_name_with_a_comma_stands_in_quotes(tmp_path: Path) -> None:
    table_at(tmp_path, **{"a,b": pa.array([1]), "c": pa.array([2]), "d": pa.array([3])})
    follow(f"export {tmp_path}/table {tmp_path}/out --columns", '"a,b", c')
    assert schema_of(str(tmp_path / "out")).names == ["id", "a,b", "c"]


def test_what_cannot_be_named(tmp_path: Path) -> None:
    table = table_at(tmp_path, **{"a.b": pa.array([1])})
    for options, error, text in [
        ({"rename": {"c": "d"}}, TableError, r"there is no column 'c' to export\. Columns: id, "),
        ({"as_text": ["c"]}, TableError, "there is no column 'c' to export"),
        ({"rename": {"a.b": "x.y"}}, ConfigError, r"--rename a\.b=x\.y: some engines cannot have .*, such as x_y\."),
        ({"engine": "excel"}, ConfigError, "There is no engine 'excel'. Choose one of any, spark, "),
    ]:
        with pytest.raises(error, match=text):
            table.export(str(tmp_path / "out"), **options)  # type: ignore[arg-type]
    assert follow(f"export {tmp_path}/table {tmp_path}/out --rename a.b") == (
        "error: --rename a.b: write OLD=NEW, the name in the table and the name in the export.\n"
    )
    assert not (tmp_path / "out").exists()


def test_the_feed_in_files_is_for_engines_too(tmp_path: Path) -> None:
    table_at(tmp_path, **{"meta.key": pa.array([uuid.UUID(int=5).bytes], pa.uuid())})
    follow(f"changes {tmp_path}/table 0 1 --output {tmp_path}/feed")
    assert pq.read_table(tmp_path / "feed/upserts").column("meta_key").to_pylist() == [str(uuid.UUID(int=5))]
    follow(f"changes {tmp_path}/table 0 1 --output {tmp_path}/own --for arrow --rename meta.key=key")
    assert schema_of(f"{tmp_path}/own/upserts").field("key").type == pa.uuid()


# --- partitions


def test_names_of_folders_are_those_of_hive() -> None:
    every = "".join(map(chr, range(1, 128)))
    kept = "".join(char for char in every if escaped(char) == char)
    assert kept == " !$&()+,-.0123456789;<>@ABCDEFGHIJKLMNOPQRSTUVWXYZ_`abcdefghijklmnopqrstuvwxyz|}~"
    assert escaped("a/b=c%\x01\x7f") == "a%2Fb%3Dc%25%01%7F"
    assert escaped("São Paulo 日本") == "São Paulo 日本"


PLACES = ["São Paulo", "日本", "a/b", '100% "x"', None]
KINDS_OF_PLACES: list[Callable[[pa.Array], pa.Array]] = [
    lambda places: places,
    lambda places: places.cast(pa.large_string()),
    lambda places: places.dictionary_encode(),
    lambda places: places.cast(pa.large_string()).dictionary_encode(),
]


@pytest.mark.parametrize("engine", ["any", "arrow"])
@pytest.mark.parametrize("make", KINDS_OF_PLACES)
def test_texts_of_any_kind_are_partitions(tmp_path: Path, make: Callable[[pa.Array], pa.Array], engine: str) -> None:
    table = table_at(tmp_path, **{"the.place": make(pa.array(PLACES))})
    table.export(str(tmp_path / "out"), partition_by="the.place", engine=engine)
    name = "the.place" if engine == "arrow" else "the_place"
    expected = sorted(zip(["r0", "r1", "r2", "r3", "r4"], PLACES, strict=True))
    assert f"{name}=São Paulo" in [path.name for path in (tmp_path / "out").iterdir()]
    found = duckdb.sql(
        f"SELECT id, \"{name}\" FROM read_parquet('{tmp_path}/out/**/*.parquet', hive_partitioning = true)"
    )
    assert sorted(found.fetchall()) == expected
    frame = polars.read_parquet(f"{tmp_path}/out/**/*.parquet", hive_partitioning=True)
    assert sorted(zip(frame["id"], frame[name], strict=True)) == expected
    rows = ds.dataset(tmp_path / "out", partitioning="hive").to_table()
    assert sorted(zip(rows.column("id").to_pylist(), rows.column(name).to_pylist(), strict=True)) == expected


@pytest.mark.parametrize(
    ("values", "folders"),
    [
        (pa.array([2**64 - 1], pa.uint64()), ["v=18446744073709551615"]),
        (pa.array([-1, 3], pa.int8()), ["v=-1", "v=3"]),
        (pa.array([True, False, None]), ["v=__HIVE_DEFAULT_PARTITION__", "v=false", "v=true"]),
        (pa.array([0, 6_000_000], pa.date32()), ["v=18397-06-11", "v=1970-01-01"]),
    ],
    ids=str,
)
def test_other_kinds_of_partitions(tmp_path: Path, values: pa.Array, folders: list[str]) -> None:
    table_at(tmp_path, v=values).export(str(tmp_path / "out"), partition_by="v")
    assert sorted(path.name for path in (tmp_path / "out").glob("v=*")) == folders


@pytest.mark.parametrize(
    ("value", "message"),
    [
        (
            "",
            "has empty texts. As names of folders, engines read them as null. Accept that with --empty-as-null, or "
            "partition by another column.",
        ),
        (
            "__HIVE_DEFAULT_PARTITION__",
            "has the text __HIVE_DEFAULT_PARTITION__, which engines read as null in the name of a folder. Partition by "
            "another column.",
        ),
        (
            "é" * 130,
            f"has values of more than 255 bytes, which cannot be names of folders here: {'é' * 40}… Partition by "
            "another column.",
        ),
    ],
    ids=["empty", "null", "long"],
)
def test_values_that_are_no_names_of_folders(tmp_path: Path, value: str, message: str) -> None:
    table_at(tmp_path, place=pa.array(["x", value]), other=pa.array([1, 1]))
    command = f"export {tmp_path}/table {tmp_path}/out --partition-by"
    assert follow(f"{command} place") == f"error: {tmp_path}/table: the column 'place' {message}\n"
    assert not (tmp_path / "out").exists()
    if not value:
        assert follow(f"{command} place --empty-as-null").startswith("Exported 2 rows")
        assert (tmp_path / "out/place=__HIVE_DEFAULT_PARTITION__").exists()
    else:
        assert follow(f"{command} other").startswith("Exported 2 rows")
