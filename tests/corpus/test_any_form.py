"""The same rows in any format, type and layout give the same table: ids, hashes of texts and rows, carried values.

The rows are drawn, and written several times: by pyarrow, pandas, Polars and DuckDB, as Parquet of any types that hold
the values, as JSON Lines and as CSV, compressed or not, in one file or several, with a column in the names of folders.
"""

import csv
import datetime as dt
import gzip
import io
import itertools
import json
import os
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import duckdb
import pandas
import polars as pl
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.csv
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from sfr_batch.config.loading import config_from_dict
from sfr_batch.planning.make import make_plan
from tests.tables import do_plan

pytestmark = pytest.mark.usefixtures("one_look_at_the_model")

EXAMPLES = int(os.environ.get("SFR_EXAMPLES", "10"))

Rows = list[dict[str, Any]]

TEXTS = st.text(st.characters(codec="utf-8", exclude_characters="\0\r\n\ufeff"), min_size=1, max_size=12).filter(
    lambda text: text.strip() == text and text != ""
)
SCHEMA = pa.schema(
    [
        ("id", pa.string()),
        ("text", pa.string()),
        ("lang", pa.string()),
        ("n", pa.int64()),
        ("share", pa.float64()),
        ("good", pa.bool_()),
        ("at", pa.timestamp("us", "UTC")),
        ("day", pa.date32()),
        ("tags", pa.list_(pa.string())),
        ("meta", pa.struct([("a", pa.int64()), ("b", pa.string())])),
    ]
)
"""The canonical form."""
WHEN = st.datetimes(dt.datetime(1970, 1, 1), dt.datetime(2200, 1, 1), timezones=st.just(dt.UTC)).map(
    lambda at: at.replace(microsecond=0)
)  # so that any unit of time holds them


def optional(values: st.SearchStrategy[Any]) -> st.SearchStrategy[Any]:
    return st.none() | values


ROW = st.fixed_dictionaries(
    {
        "text": TEXTS,
        "lang": optional(st.sampled_from(["de", "fr", "São Paulo", "a b"])),
        "n": optional(st.integers(-100, 100)),
        "share": optional(st.sampled_from([0.5, -1.25, 3.0, 1e100])),
        "good": optional(st.booleans()),
        "at": optional(WHEN),
        "day": optional(st.dates(dt.date(1970, 1, 1), dt.date(2200, 1, 1))),
        "tags": optional(st.lists(TEXTS, max_size=3)),
        "meta": optional(st.fixed_dictionaries({"a": optional(st.integers(-9, 9)), "b": optional(TEXTS)})),
    }
)

NUMBERS = [pa.int8(), pa.int16(), pa.int32(), pa.int64(), pa.float64(), pa.decimal128(10, 2), pa.decimal128(5, 0)]
TEXT_TYPES = [
    *(pa.string(), pa.large_string(), pa.string_view()),
    *(pa.dictionary(pa.int32(), pa.string()), pa.dictionary(pa.int8(), pa.large_string())),
]
TYPES: dict[str, list[pa.DataType]] = {
    "id": TEXT_TYPES,
    "text": TEXT_TYPES,
    "lang": TEXT_TYPES,
    "n": NUMBERS[:4],
    "share": [pa.float64()],
    "good": [pa.bool_()],
    "at": [pa.timestamp(unit, zone) for unit in ("s", "ms", "us", "ns") for zone in ("UTC", "+00:00", "Etc/UTC")],
    "day": [pa.date32(), pa.date64()],
    "tags": [pa.list_(pa.string()), pa.large_list(pa.large_string()), pa.list_(pa.field("item", pa.string_view()))],
    "meta": [
        pa.struct([("a", pa.int64()), ("b", pa.string())]),
        pa.struct([("b", pa.large_string()), ("a", pa.int16())]),
    ],
}
"""The types that a column may have in a Parquet file and is the same column to its owner."""


def cast(column: pa.Array, kind: pa.DataType) -> pa.Array:
    """The column in another type; Arrow has no cast for some of them."""
    if pa.types.is_struct(kind):
        fields = {field.name: cast(pc.struct_field(column, field.name), field.type) for field in kind}
        return pa.StructArray.from_arrays(list(fields.values()), fields=list(kind), mask=column.is_null())
    if pa.types.is_dictionary(kind):
        return column.cast(kind.value_type).dictionary_encode().cast(kind)
    return column.cast(kind)


def arrow_file(rows: Rows, draw: Callable[[Sequence[Any]], Any], columns: Sequence[str]) -> bytes:
    table = pa.Table.from_pylist(rows, SCHEMA)
    arrays = {name: cast(table[name].combine_chunks(), draw(TYPES[name])) for name in columns}
    sink = io.BytesIO()
    pq.write_table(
        pa.table(arrays), sink, row_group_size=draw([1, 3, 100]), store_schema=draw([True, False]), version="2.6"
    )
    return sink.getvalue()


def pandas_file(rows: Rows, draw: Callable[[Sequence[Any]], Any], columns: Sequence[str]) -> bytes:
    sink = io.BytesIO()
    kinds = {pa.int64(): pandas.Int64Dtype(), pa.bool_(): pandas.BooleanDtype()}
    pa.Table.from_pylist(rows, SCHEMA).select(columns).to_pandas(types_mapper=kinds.get).to_parquet(sink)
    return sink.getvalue()


def polars_file(rows: Rows, draw: Callable[[Sequence[Any]], Any], columns: Sequence[str]) -> bytes:
    sink = io.BytesIO()
    frame = pl.from_arrow(pa.Table.from_pylist(rows, SCHEMA).select(columns))
    assert isinstance(frame, pl.DataFrame)
    frame.write_parquet(sink)
    return sink.getvalue()


def duckdb_file(rows: Rows, draw: Callable[[Sequence[Any]], Any], columns: Sequence[str], folder: Path) -> bytes:
    table = pa.Table.from_pylist(rows, SCHEMA).select(columns)
    file = folder / "duckdb.parquet"
    connection = duckdb.connect()
    connection.execute("SET TimeZone = 'UTC'")
    connection.register("rows_of_it", table)
    connection.execute(f"COPY rows_of_it TO '{file}' (FORMAT parquet)")
    return file.read_bytes()


def json_file(rows: Rows, draw: Callable[[Sequence[Any]], Any], columns: Sequence[str]) -> bytes:
    """What is null is left out, or written as null."""

    def line(row: Mapping[str, Any]) -> str:
        out = {}
        for name in columns:
            value = row[name]
            if value is not None or draw([True, False]):
                out[name] = value
        return json.dumps(out, ensure_ascii=draw([True, False]))

    return "".join(line(row) + draw(["\n", "\r\n"]) for row in rows).encode()


WRITERS = {"arrow": arrow_file, "pandas": pandas_file, "polars": polars_file, "duckdb": duckdb_file, "json": json_file}


def can_write(writer: str, rows: Rows) -> bool:
    """JSON has no times and days: texts that look like them are texts. pandas makes whole numbers inside of objects
    fractions where one is missing."""
    if writer == "json":
        return not any(row["at"] or row["day"] for row in rows)
    return writer != "pandas" or all(row["meta"] is None or row["meta"]["a"] is not None for row in rows)


def hive(value: str | None) -> str:
    return "__HIVE_DEFAULT_PARTITION__" if value is None else value.replace(" ", "%20")


def write(rows: Rows, corpus: Path, data: st.DataObject, writers: Sequence[str]) -> None:
    """The rows in files of drawn forms; ``lang`` stands in the names of folders, or in the files."""

    def draw(values: Sequence[Any]) -> Any:
        return data.draw(st.sampled_from(list(values)))

    columns = list(SCHEMA.names)
    if folders := draw([True, False]):
        columns.remove("lang")
    parts: dict[str, Rows] = {}
    for row in rows:
        place = f"lang={hive(row['lang'])}/" if folders else ""
        parts.setdefault(f"{place}{draw([0, 1, 2])}", []).append(row)
    for number, (name, part) in enumerate(parts.items()):
        writer = draw([writer for writer in writers if can_write(writer, part)])
        folder = corpus.parent / f"scratch{number}"
        folder.mkdir(parents=True, exist_ok=True)
        more = {"folder": folder} if writer == "duckdb" else {}
        written = WRITERS[writer](part, draw, columns, **more)  # type: ignore[operator]
        ending = ".parquet"
        if writer == "json":
            ending = draw([".jsonl", ".jsonl.gz"])
            written = gzip.compress(written) if ending.endswith("gz") else written
        file = corpus / f"{name}{ending}"
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_bytes(written)


def table_of(corpus: Path, table: Path, model: str, carry: Sequence[str] = SCHEMA.names[1:]) -> Any:
    raw = {
        "corpus": {"path": str(corpus), "carry": list(carry)},
        "model": {"path": model, "device": "cpu", "dtype": "float32"},
        "table": {"path": str(table)},
        "run": {"actors": {"gpus": 0}, "rows_per_split": 4, "min_splits": 1},
    }
    snapshot = do_plan(make_plan(config_from_dict(raw)))
    assert snapshot.rejects().to_pylist() == []
    columns = ["id", "content_hash", "row_hash", *carry]
    return {row["id"]: row for row in snapshot.to_arrow(columns).to_pylist()}


@settings(max_examples=EXAMPLES)
@given(rows=st.lists(ROW, min_size=1, max_size=6), data=st.data())
def test_the_same_rows_in_any_form_give_the_same_table(
    rows: Rows, data: st.DataObject, mistral: str, tmp_path_factory: pytest.TempPathFactory
) -> None:
    root = tmp_path_factory.mktemp("forms")
    rows = [{"id": f"id {number}", **row} for number, row in enumerate(rows)]
    (root / "plain").mkdir()
    pq.write_table(pa.Table.from_pylist(rows, SCHEMA), root / "plain" / "a.parquet")
    write(rows, root / "any" / "corpus", data, list(WRITERS))
    # One file of the canonical form decides the types where drawn ones say less, such as a column of nulls.
    first = {**dict.fromkeys(SCHEMA.names), "id": "first", "text": "first"}
    full = {
        **first, "n": 1, "share": 0.5, "good": True, "at": dt.datetime(2020, 1, 1, tzinfo=dt.UTC), "lang": "de",
        "day": dt.date(2020, 1, 1), "tags": ["t"], "meta": {"a": 1, "b": "b"},
    }  # fmt: skip
    for corpus in (root / "plain", root / "any" / "corpus"):
        pq.write_table(pa.Table.from_pylist([full], SCHEMA), corpus / "first.parquet")
    expected = table_of(root / "plain", root / "table", mistral)
    assert {id_: row["text"] for id_, row in expected.items()} == {row["id"]: row["text"] for row in [full, *rows]}
    assert table_of(root / "any" / "corpus", root / "other", mistral) == expected


def csv_file(rows: Rows, draw: Callable[[Sequence[Any]], Any], delimiter: str) -> bytes:
    sink = io.StringIO(newline="")
    columns = draw(list(itertools.permutations(["id", "text", "lang"])))
    quoting = draw([csv.QUOTE_MINIMAL, csv.QUOTE_ALL])
    writer = csv.DictWriter(sink, columns, delimiter=delimiter, quoting=quoting, lineterminator=draw(["\n", "\r\n"]))
    writer.writeheader()
    writer.writerows(rows)
    return (draw(["", "\ufeff"]) + sink.getvalue()).encode()


@settings(max_examples=EXAMPLES)
@given(
    rows=st.lists(st.fixed_dictionaries({"text": TEXTS, "lang": TEXTS}), min_size=1, max_size=6),
    whole=st.booleans(),
    data=st.data(),
)
def test_the_same_texts_in_any_format_give_the_same_table(
    rows: Rows, whole: bool, data: st.DataObject, mistral: str, tmp_path_factory: pytest.TempPathFactory
) -> None:
    """Columns of text alone, for formats without types. whole: ids are whole numbers, of any width, in the others."""

    def draw(values: Sequence[Any]) -> Any:
        return data.draw(st.sampled_from(list(values)))

    root = tmp_path_factory.mktemp("texts")
    rows = [{"id": number if whole else f"id {number}", **row} for number, row in enumerate(rows)]
    kinds = [pa.int8(), pa.uint16(), pa.int64(), pa.decimal128(38, 0)] if whole else TEXT_TYPES
    for name, forms in (("plain", ["parquet"]), ("any", ["parquet", "jsonl", *([] if whole else ["csv", "tsv"])])):
        parts: dict[int, Rows] = {}
        for row in rows:
            parts.setdefault(draw([0, 1]), []).append(row)
        for number, part in parts.items():
            form = draw(forms)
            if form == "parquet":
                columns = {key: pa.array([row[key] for row in part]) for key in ("id", "text", "lang")}
                columns["id"] = cast(columns["id"], draw(kinds) if name == "any" else kinds[2 if whole else 0])
                sink = io.BytesIO()
                pq.write_table(pa.table(columns), sink)
                written = sink.getvalue()
            elif form == "jsonl":
                written = "".join(json.dumps(row, ensure_ascii=draw([True, False])) + "\n" for row in part).encode()
            else:
                written = csv_file(part, draw, "\t" if form == "tsv" else ",")
            ending = draw(["", ".gz"]) if form != "parquet" else ""
            file = root / name / f"{number}.{form}{ending}"
            file.parent.mkdir(exist_ok=True)
            file.write_bytes(gzip.compress(written) if ending else written)
    expected = table_of(root / "plain", root / "table", mistral, ["text", "lang"])
    assert {id_: (row["text"], row["lang"]) for id_, row in expected.items()} == {
        row["id"]: (row["text"], row["lang"]) for row in rows
    }
    assert table_of(root / "any", root / "other", mistral, ["text", "lang"]) == expected
