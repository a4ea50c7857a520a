"""Corpus value = table value = value that another engine reads from an export, for every type that can be carried.

Values are compared as JSON has them (`json_values`), which is exact for every type. What an engine has no type for is
brought back from what `--for` has made of it: `_again`.
"""

import datetime
import importlib.util
import shutil
from collections.abc import Callable, Iterator
from decimal import Decimal
from pathlib import Path
from typing import Any

import duckdb
import pandas
import polars
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from sfr_batch.config.settings import CorpusSettings
from sfr_batch.corpus.columns import resolve_columns
from sfr_batch.corpus.listing import list_shards
from sfr_batch.corpus.reader import read_unit
from sfr_batch.corpus.splits import cut
from sfr_batch.corpus.survey import survey_shards
from sfr_batch.storage.stores import open_store
from sfr_batch.table.changes import changes
from sfr_batch.table.choices import CHOICES
from sfr_batch.table.json_values import json_values
from sfr_batch.table.table import Table
from tests.table.kinds import kinds
from tests.tables import parquet, put, table_of

Values = dict[str, list[Any]]
IDS = ["r0", "r1", "r2"]


def table_from(corpus: Path, columns: list[str], at: Path) -> Table:
    """A table of what is read from a corpus: every row, and no model."""
    settings = CorpusSettings.model_validate({"path": str(corpus), "carry": columns})
    surveys = survey_shards(list_shards(settings), settings)
    resolved = resolve_columns(surveys, settings)
    assert resolved is not None
    units = [unit for survey in surveys for unit in cut(survey, 10**6, 10**9, ("x",), frozenset())]
    parts = [rows for unit in units for _, rows in read_unit(unit, settings, resolved)]
    assert not any(part.rejects.num_rows for part in parts)
    rows = pa.concat_tables([part.carry.append_column("id", part.ids) for part in parts]).sort_by("id")
    return table_of(open_store(str(at)), {name: rows.column(name) for name in columns}, rows.column("id").to_pylist())


def values_of(rows: pa.Table, columns: list[str]) -> Values:
    ordered = rows.sort_by("id") if "id" in rows.column_names else rows
    return {name: [_number_as_text(value) for value in json_values(ordered.column(name))] for name in columns}


def _number_as_text(value: Any) -> Any:
    """At whatever depth: an integer of 64 bits without a sign leaves as a decimal."""
    if isinstance(value, dict):
        return {key: _number_as_text(inside) for key, inside in value.items()}
    if isinstance(value, list):
        return [_number_as_text(inside) for inside in value]
    return str(value) if isinstance(value, int) and not isinstance(value, bool) else value


def _again(rows: pa.Table, expected: dict[str, pa.Array]) -> pa.Table:
    """What stands for other types as these types: whole numbers as durations, …"""
    for name, values in expected.items():
        column, kind = rows.column(name), values.type
        if pa.types.is_duration(kind) and pa.types.is_integer(column.type):
            column = column.cast(kind)
        if pa.types.is_decimal(kind) and column.type != kind and pa.types.is_decimal(column.type):
            column = column.cast(pa.decimal256(76, kind.scale))
        rows = rows.set_column(rows.column_names.index(name), name, column)
    return rows


def read_pyarrow(target: Path) -> pa.Table:
    return pq.ParquetFile(target / "part-00000.parquet").read()


def read_duckdb(target: Path) -> pa.Table:
    return duckdb.sql(f"SELECT * FROM '{target}/*.parquet'").to_arrow_table()


def read_polars(target: Path) -> pa.Table:
    return polars.read_parquet(target / "*.parquet").to_arrow()


def read_pandas(target: Path) -> pa.Table:
    frame = pandas.read_parquet(target, dtype_backend="pyarrow")
    return pa.Table.from_pandas(frame, preserve_index=False)


ENGINES: dict[str, Callable[[Path], pa.Table]] = {
    "pyarrow": read_pyarrow,
    "duckdb": read_duckdb,
    "polars": read_polars,
    "pandas": read_pandas,
}


def differences(found: Values, expected: Values) -> dict[str, Any]:
    return {name: (found[name], expected[name]) for name in expected if found[name] != expected[name]}


@pytest.fixture(scope="module")
def corpus(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, dict[str, pa.Array]]:
    """Every type in a Parquet file."""
    root = tmp_path_factory.mktemp("corpus")
    columns = kinds()
    put(str(root), "a.parquet", parquet(pa.table({"id": IDS, "text": ["x", "y", "z"], **columns})))
    return root, columns


def test_the_table_has_what_the_corpus_has(corpus: tuple[Path, dict[str, pa.Array]], tmp_path: Path) -> None:
    root, columns = corpus
    table = table_from(root, list(columns), tmp_path / "table")
    assert not differences(values_of(table.to_arrow(), list(columns)), values_of(pa.table(columns), list(columns)))


@pytest.mark.parametrize("engine", CHOICES)
def test_every_engine_reads_from_an_export_what_the_table_has(
    corpus: tuple[Path, dict[str, pa.Array]], tmp_path: Path, engine: str
) -> None:
    """From an export for any engine all of them; from one for an engine, itself and Arrow."""
    _, columns = corpus
    table = table_of(open_store(str(tmp_path / "table")), columns)
    expected = values_of(pa.table(columns), list(columns))
    table.export(str(tmp_path / "out"), engine=engine)
    for name, read in ENGINES.items():
        if engine in ("any", name) or name == "pyarrow":
            found = _again(read(tmp_path / "out"), columns)
            assert not differences(values_of(found, list(columns)), expected), (engine, name)


# --- what other engines write


ROWS = pa.table(
    {
        "id": IDS,
        "text": ["x", "y", "z"],
        "n": [2**53 + 1, None, -1],
        "price": [Decimal("19.99"), None, Decimal("-0.01")],
        "share": [0.1, None, 1e300],
        "ok": [True, None, False],
        "day": [datetime.date(2024, 2, 29), None, datetime.date(1, 1, 1)],
        "at": [datetime.datetime(2024, 2, 29, 23, 59, 59, 123456), None, datetime.datetime(1970, 1, 1)],
        "zoned": [
            datetime.datetime(2024, 2, 29, 12, tzinfo=datetime.UTC),
            None,
            datetime.datetime(1900, 1, 1, tzinfo=datetime.UTC),
        ],
        "raw": [b"\x00\xff", None, b""],
        "tags": [["a", None], None, []],
        "meta": [{"k": 1, "v": "é"}, None, {"k": 2, "v": ""}],
        "lang": ["São Paulo", None, "日本"],
    }
)
"""What Python's users have, as an engine may write it in Parquet."""
COLUMNS = [name for name in ROWS.column_names if name not in ("id", "text")]


def pandas_writes(corpus: Path) -> None:
    ROWS.to_pandas().to_parquet(corpus / "a.parquet")


def pandas_with_its_own_types_writes(corpus: Path) -> None:
    frame = ROWS.to_pandas(types_mapper=pandas.ArrowDtype)
    frame["lang"] = frame["lang"].astype("str").astype("category")
    frame["n"] = frame["n"].astype("Int64")
    frame["ok"] = frame["ok"].astype("boolean")
    frame.to_parquet(corpus / "a.parquet")


def polars_writes(corpus: Path) -> None:
    frame = polars.from_arrow(ROWS)
    assert isinstance(frame, polars.DataFrame)
    frame.with_columns(polars.col("lang").cast(polars.Categorical)).write_parquet(corpus / "a.parquet")


def duckdb_writes(corpus: Path) -> None:
    with duckdb.connect() as connection:
        connection.register("given", ROWS)
        connection.execute(f"COPY (SELECT * FROM given) TO '{corpus}/a.parquet' (FORMAT parquet)")


def exact_integers(corpus: Path) -> None:
    """pandas makes floats of integers beside nulls, which is its own affair: not of those of `to_pandas`."""
    frame = table_of(open_store(f"{corpus}-table"), {"n": ROWS.column("n")}).to_pandas(columns=["id", "n"])
    frame["text"] = ROWS.column("text").to_pylist()
    frame.to_parquet(corpus / "a.parquet")


@pytest.mark.parametrize(
    "write", [pandas_writes, pandas_with_its_own_types_writes, polars_writes, duckdb_writes, exact_integers]
)
def test_what_an_engine_has_written_is_read_by_all(tmp_path: Path, write: Callable[[Path], None]) -> None:
    (tmp_path / "corpus").mkdir()
    write(tmp_path / "corpus")
    columns = [name for name in COLUMNS if write is not exact_integers or name == "n"]
    expected = ROWS
    if write is pandas_writes:  # its own float64, and NaN for null in it
        expected = expected.set_column(2, "n", pa.array([float(2**53), None, -1.0]))
    table = table_from(tmp_path / "corpus", columns, tmp_path / "table")
    wanted = values_of(expected, columns)
    assert not differences(values_of(table.to_arrow(), columns), wanted)
    table.export(str(tmp_path / "out"))
    for name, read in ENGINES.items():
        assert not differences(values_of(read(tmp_path / "out"), columns), wanted), name


def test_lancedb_takes_the_feed(tmp_path: Path) -> None:
    lancedb = pytest.importorskip("lancedb")
    columns = {**kinds(), "meta.lang": pa.array(["de", None, "fr"])}
    feed = changes(table_of(open_store(str(tmp_path / "table")), columns), 0, 1)
    with pytest.raises(RuntimeError, match=r"field meta\.lang cannot contain"):  # its own refusal
        lancedb.connect(str(tmp_path / "lance")).create_table("t", list(feed.upserts(["meta.lang"])))
    made = lancedb.connect(str(tmp_path / "lance")).create_table("t", list(feed.upserts(engine="lancedb")))
    found = made.to_arrow().rename_columns({"meta_lang": "meta.lang"})
    names = list(columns)
    assert not differences(values_of(found, names), values_of(pa.table(columns), names))


# --- Spark


@pytest.fixture(scope="module")
def spark() -> Iterator[Any]:
    if importlib.util.find_spec("pyspark") is None or shutil.which("java") is None:
        pytest.skip("needs pyspark (pip install pyspark) and Java (apt install default-jre-headless)")
    from pyspark.sql import SparkSession

    builder = SparkSession.builder.master("local[1]").config("spark.ui.enabled", "false")
    session = builder.config("spark.sql.session.timeZone", "UTC").getOrCreate()
    session.sparkContext.setLogLevel("OFF")
    yield session
    session.stop()


@pytest.mark.slow
@pytest.mark.parametrize("engine", ["any", "spark"])
def test_spark_reads_every_type(spark: Any, tmp_path: Path, engine: str) -> None:
    columns = {**kinds(), "meta.lang": pa.array(["de", None, "fr"]), "a b": pa.array([1, None, 2])}
    table = table_of(open_store(str(tmp_path / "table")), columns)
    done = table.export(str(tmp_path / "out"), engine=engine, rename={"a b": "a_b"})
    assert "meta.lang is named meta_lang" in str(done)
    frame = spark.read.parquet(str(tmp_path / "out"))
    found = frame.toArrow().rename_columns({"meta_lang": "meta.lang", "a_b": "a b"})
    names = list(columns)
    assert not differences(values_of(_again(found, columns), names), values_of(pa.table(columns), names))


@pytest.mark.slow
def test_spark_reads_partitions(spark: Any, tmp_path: Path) -> None:
    places = ["São Paulo", "日本", "a/b", "100% = {x}", "q\"'", "x y", "[z]^", "k:v*?", "..", None, "\x01\x7f\\"]
    ids = [f"r{n:02}" for n in range(len(places))]
    table = table_of(open_store(str(tmp_path / "table")), {"meta.place": pa.array(places)}, ids)
    table.export(str(tmp_path / "out"), partition_by="meta.place")
    frame = spark.read.parquet(str(tmp_path / "out")).select("id", "meta_place")
    assert sorted(map(tuple, frame.collect())) == list(zip(ids, places, strict=True))


@pytest.mark.slow
@pytest.mark.parametrize("times", ["TIMESTAMP_MICROS", "TIMESTAMP_MILLIS", "INT96"])
@pytest.mark.parametrize("legacy", ["false", "true"])
def test_what_spark_writes(spark: Any, tmp_path: Path, times: str, legacy: str) -> None:
    spark.conf.set("spark.sql.parquet.outputTimestampType", times)
    spark.conf.set("spark.sql.parquet.writeLegacyFormat", legacy)
    columns = [name for name in COLUMNS if name != "at" or legacy == "false"]
    pq.write_table(ROWS, tmp_path / "given.parquet")
    spark.read.parquet(str(tmp_path / "given.parquet")).coalesce(1).write.parquet(str(tmp_path / "corpus"))
    table = table_from(tmp_path / "corpus", columns, tmp_path / "table")
    # INT96 does not say whether it is in a zone; Spark has written it in UTC.
    zoned = ROWS.column("zoned").cast(pa.timestamp("us", None if times == "INT96" else "UTC"))
    wanted = values_of(ROWS.set_column(ROWS.column_names.index("zoned"), "zoned", zoned), columns)
    assert not differences(values_of(table.to_arrow(), columns), wanted)
    table.export(str(tmp_path / "out"))
    found = spark.read.parquet(str(tmp_path / "out")).toArrow()
    assert not differences(values_of(found, columns), wanted)
