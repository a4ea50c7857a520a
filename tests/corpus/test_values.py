"""Values arrive as the corpus has them, or their row is rejected: numbers, missing values, dates of any year, INT96."""

import datetime as dt
import gzip
import io
import math
from decimal import Decimal
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from sfr_batch.config.settings import CorpusSettings
from sfr_batch.corpus.columns import Carried, Columns, resolve_columns
from sfr_batch.corpus.listing import list_shards
from sfr_batch.corpus.reader import read_unit
from sfr_batch.corpus.rows import Rows
from sfr_batch.corpus.splits import cut
from sfr_batch.corpus.survey import survey_shards
from tests.tables import jsonl, parquet, put

AT = [dt.datetime(9999, 12, 31), dt.datetime(1, 1, 1), dt.datetime(2024, 1, 1, 0, 0, 0, 5), None]


def read(place: Path, carry: dict[str, pa.DataType] | list[str] = (), **settings: Any) -> Rows:  # type: ignore[assignment]
    """All rows of a corpus. carry: names, or the types that a table has for them."""
    corpus = CorpusSettings(path=str(place), carry=list(carry), **settings)
    surveys = survey_shards(list_shards(corpus), corpus)
    known = None
    if isinstance(carry, dict):
        known = Columns(pa.string(), {name: Carried(name, kind) for name, kind in carry.items()})
    columns = resolve_columns(surveys, corpus, known)
    assert columns is not None
    units = [unit for survey in surveys for unit in cut(survey, 1000, 2**20, ("test",), frozenset())]
    return Rows.concat([rows for unit in units for _, rows in read_unit(unit, corpus, columns)])


def carried(rows: Rows, name: str) -> list[Any]:
    """What the table would have, dates and times as Arrow prints them."""
    column = rows.carry.column(name)
    return column.cast(pa.string()).to_pylist() if pa.types.is_temporal(column.type) else column.to_pylist()


def messages(rows: Rows) -> list[tuple[str, str, str]]:
    columns = (rows.rejects.column(name).to_pylist() for name in ("id", "reason", "message"))
    return list(zip(*columns, strict=True))


def lines(*records: str) -> bytes:
    return "".join(f"{record}\n" for record in records).encode()


# --- numbers of JSON


def test_fractions_beside_an_integer_column_of_a_parquet_shard(tmp_path: Path) -> None:
    table = pa.table({"id": ["a"], "text": ["x"], "price": pa.array([3], pa.int32())})
    put(str(tmp_path), "a.parquet", parquet(table))
    put(
        str(tmp_path),
        "b.jsonl",
        lines('{"id": "b", "text": "y", "price": 4.0}', '{"id": "c", "text": "z", "price": 5}'),
    )
    rows = read(tmp_path, {"price": pa.int64()})
    assert carried(rows, "price") == [3, 4, 5]
    put(str(tmp_path), "c.jsonl", lines('{"id": "d", "text": "y", "price": 19.99}'))
    rows = read(tmp_path, {"price": pa.int64()})
    assert messages(rows) == [("d", "bad_column", "price is not int64: 19.99")]


def test_whole_numbers_and_fractions_without_a_table_are_fractions(tmp_path: Path) -> None:
    put(str(tmp_path), "a.jsonl", lines('{"id": "a", "text": "x", "price": 3}'))
    put(str(tmp_path), "b.jsonl", lines('{"id": "b", "text": "y", "price": 19.99}'))
    rows = read(tmp_path, ["price"])
    assert carried(rows, "price") == [3.0, 19.99]
    assert not messages(rows)


def test_a_late_fraction_is_rejected(tmp_path: Path) -> None:
    early = [f'{{"id": "{n}", "text": "{"word " * 60}", "v": [{n}]}}' for n in range(1000)]
    put(str(tmp_path), "a.jsonl", lines(*early, '{"id": "late", "text": "x", "v": [1, 0.9]}'))
    assert messages(read(tmp_path, ["v"])) == [("late", "bad_column", "v is not int64: 0.9")]


def test_every_digit_of_a_number_counts(tmp_path: Path) -> None:
    row = '{"id": "a", "text": "x", "n": 9007199254740993.0, "d": 12345678901234567.89, "f": 0.1}'
    put(str(tmp_path), "a.jsonl.gz", gzip.compress(lines(row)))
    kinds = {"n": pa.int64(), "d": pa.decimal128(38, 2), "f": pa.float64()}
    rows = read(tmp_path, kinds, text="{text} {f}")
    assert rows.carry.to_pylist() == [{"n": 9007199254740993, "d": Decimal("12345678901234567.89"), "f": 0.1}]
    assert rows.texts == ["x 0.1"]


def test_numbers_that_a_double_does_not_reach_are_rejected(tmp_path: Path) -> None:
    rows = ('{"id": "a", "text": "x", "n": -1e400}', '{"id": "b", "text": "x", "n": Infinity}')
    put(str(tmp_path), "a.jsonl", lines(*rows, '{"id": "c", "text": "x", "n": 0.5}'))
    rows = read(tmp_path, ["n"])
    assert carried(rows, "n") == [math.inf, 0.5]
    assert messages(rows) == [("a", "bad_column", "n is double, which has no number so far from zero")]


@pytest.mark.parametrize(("others", "kind"), [([1], pa.uint64()), ([-1], pa.int64()), ([2**64], pa.int64())])
def test_hashes_of_64_bits(tmp_path: Path, others: list[int], kind: pa.DataType) -> None:
    rows = [{"id": str(n), "text": "x", "n": n} for n in (2**64 - 1, *others, 0)]
    put(str(tmp_path), "a.jsonl", jsonl(rows))
    found = read(tmp_path, ["n"])
    assert found.carry.schema.field("n").type == kind
    assert carried(found, "n") == [row["n"] for row in rows if kind == pa.uint64() or abs(row["n"]) < 2]


def test_an_object_without_keys_is_no_value_yet(tmp_path: Path) -> None:
    put(str(tmp_path), "a.jsonl", jsonl([{"id": "a", "text": "x", "m": {}}]))
    assert carried(read(tmp_path, ["m"]), "m") == [None]
    put(str(tmp_path), "b.jsonl", jsonl([{"id": "b", "text": "x", "m": {"k": 1}}]))
    assert carried(read(tmp_path, ["m"]), "m") == [{"k": None}, {"k": 1}]
    put(str(tmp_path / "inside"), "a.jsonl", jsonl([{"id": "a", "text": "x", "m": [{}], "o": {"p": {}, "q": 1}}]))
    rows = read(tmp_path / "inside", ["m", "o"])
    assert rows.carry.to_pylist() == [{"m": [None], "o": {"p": None, "q": 1}}]
    assert parquet(rows.carry)  # which has no objects without keys


# --- texts of other types


@pytest.mark.parametrize("kind", [pa.binary(), pa.large_binary(), pa.dictionary(pa.int32(), pa.binary())])
def test_texts_and_ids_that_are_written_as_bytes(tmp_path: Path, kind: pa.DataType) -> None:
    values = pa.array([b"caf\xc3\xa9", b"caf\xe9", None])
    values = values.dictionary_encode() if pa.types.is_dictionary(kind) else values.cast(kind)
    put(str(tmp_path), "a.parquet", parquet(pa.table({"id": values, "text": pa.array([b"x"] * 3), "t": values})))
    rows = read(tmp_path)
    assert rows.ids.to_pylist() == ["café"]
    assert [(id_, reason) for id_, reason, _ in messages(rows)] == [(None, "bad_id"), (None, "null_id")]
    put(str(tmp_path), "a.parquet", parquet(pa.table({"id": pa.array([b"x", b"y", b"z"]), "text": values})))
    rows = read(tmp_path)
    assert rows.texts == ["café"]
    assert [(id_, reason) for id_, reason, _ in messages(rows)] == [("y", "bad_text"), ("z", "null_text")]


def test_a_decimal_in_a_template_is_its_number(tmp_path: Path) -> None:
    for name, digits in (("a", 38), ("b", 70)):
        prices = pa.array([Decimal("2005.00"), Decimal("19.90"), Decimal("12345678901234567.89"), None]).cast(
            pa.decimal128(digits, 2) if digits == 38 else pa.decimal256(digits, 2)
        )
        table = pa.table({"id": [f"{name}{n}" for n in range(4)], "text": ["t"] * 4, "p": prices})
        put(str(tmp_path), f"{name}.parquet", parquet(table))
    assert read(tmp_path, text="{text} {p}").texts == ["t 2005", "t 19.9", "t 12345678901234567.89", "t"] * 2


# --- missing texts


def test_a_missing_text_is_never_the_word_nan(tmp_path: Path) -> None:
    row = '{{"id": "{}", "title": {}, "text": "body"}}'
    spelled = ["NaN", "Infinity", "-Infinity", "null", '"T"']
    put(str(tmp_path), "a.jsonl", lines(*(row.format(n, title) for n, title in enumerate(spelled))))
    put(str(tmp_path), "b.parquet", parquet(pa.table({"id": ["x"], "title": [float("nan")], "text": ["body"]})))
    rows = read(tmp_path, text="{title} {text}")
    assert rows.texts == ["body"] * 4 + ["T body", "body"]
    assert not messages(rows)


@pytest.mark.parametrize("kind", [pa.float16(), pa.float32(), pa.float64()])
def test_a_column_of_nan_is_one_without_values(tmp_path: Path, kind: pa.DataType) -> None:
    put(str(tmp_path), "a.parquet", parquet(pa.table({"id": ["a"], "text": ["x"], "n": pa.array([math.nan], kind)})))
    put(str(tmp_path), "b.parquet", parquet(pa.table({"id": ["b"], "text": ["x"], "n": ["T"]})))
    assert carried(read(tmp_path, ["n"], text="{n} {text}"), "n") == [None, "T"]


def test_a_text_that_is_nan_is_missing(tmp_path: Path) -> None:
    put(
        str(tmp_path),
        "a.jsonl",
        lines('{"id": "a", "text": "x"}', '{"id": "b", "text": NaN}', '{"id": NaN, "text": "y"}'),
    )
    assert messages(read(tmp_path)) == [("b", "null_text", "the text is null"), ("nan", "null_id", "the id is null")]


def test_one_number_is_one_text(tmp_path: Path) -> None:
    numbers = ["2005", "2005.0", "20.05e2", "0.1", "-0.0", "1e16", "12345678901234567890"]
    put(str(tmp_path), "a.jsonl", lines(*(f'{{"id": "{n}", "y": {y}, "text": "t"}}' for n, y in enumerate(numbers))))
    for name, kind in (("b", pa.int16()), ("c", pa.float64()), ("d", pa.float32())):
        put(
            str(tmp_path),
            f"{name}.parquet",
            parquet(pa.table({"id": [name], "y": pa.array([2005], kind), "text": ["t"]})),
        )
    narrow = pa.table({"id": ["e", "f"], "y": pa.array([19.99, None], pa.float32()), "text": ["t", "t"]})
    put(str(tmp_path), "e.parquet", parquet(narrow))
    assert read(tmp_path, text="{text} {y}").texts == [
        *("t 2005", "t 2005", "t 2005", "t 0.1", "t 0", "t 1e+16", "t 12345678901234567890"),
        *("t 2005", "t 2005", "t 2005", "t 19.99", "t"),
    ]


# --- dates that Python does not know


@pytest.mark.parametrize(
    ("column", "printed"),
    [
        (pa.array([0, 2932897], pa.date32()), "10000-01-01"),
        (pa.array([0, 2932897 * 86_400_000]).cast(pa.date64()), "10000-01-01"),
        (pa.array([0, 2**55], pa.timestamp("ms", "UTC")), "1143678-11-22 20:21:04.000Z"),
        (pa.array([0, -(2**62)], pa.timestamp("us")), None),
    ],
)
def test_dates_beyond_the_years_of_python_are_carried(tmp_path: Path, column: pa.Array, printed: str | None) -> None:
    nested = pa.array([[value] for value in column], pa.list_(column.type))
    inside = pa.StructArray.from_arrays([column], names=["at"])
    table = pa.table({"id": ["a", "b"], "text": ["x", "y"], "at": column, "l": nested, "s": inside})
    put(str(tmp_path), "a.parquet", parquet(table))
    rows = read(tmp_path, ["at", "l", "s"])
    assert not messages(rows)
    assert rows.carry.column("l").combine_chunks().flatten().equals(rows.carry.column("at").combine_chunks())
    if printed and pa.types.is_date(column.type):
        assert carried(rows, "at") == ["1970-01-01", printed]
    assert len(rows.row_hash.unique()) == 2


def test_bytes_that_are_no_text_beside_a_date_beyond_python(tmp_path: Path) -> None:
    bad = pa.array([b"\xff", b"ok", b"ok"]).view(pa.string())
    both = pa.StructArray.from_arrays([bad, pa.array([2932897] * 3, pa.date32())], names=["t", "d"])
    lists = pa.ListArray.from_arrays(pa.array([0, 1, 2, 3], pa.int32()), both)
    put(str(tmp_path), "a.parquet", parquet(pa.table({"id": ["a", "b", "c"], "text": ["x"] * 3, "l": lists})))
    rows = read(tmp_path, ["l"])
    assert messages(rows) == [("a", "bad_column", "l holds bytes that are not UTF-8")]
    assert rows.ids.to_pylist() == ["b", "c"]


# --- INT96


def int96(at: pa.Array, **columns: Any) -> bytes:
    file = io.BytesIO()
    nested = pa.array([None if value is None else [{"t": value}] for value in at.to_pylist()],
                      pa.list_(pa.struct([("t", at.type)])))  # fmt: skip
    ids = [str(n) for n in range(len(at))]
    table = pa.table({"id": ids, "text": ["x"] * len(at), "at": at, "l": nested, **columns})
    pq.write_table(table, file, use_deprecated_int96_timestamps=True, store_schema=False)
    return file.getvalue()


def test_int96_of_any_year_is_what_it_is(tmp_path: Path) -> None:
    at = pa.array(AT, pa.timestamp("us"))
    put(str(tmp_path), "a.parquet", int96(at))
    rows = read(tmp_path, ["at", "l"])
    assert not messages(rows)
    assert rows.carry.column("at").combine_chunks().equals(at)
    assert [None if value is None else value[0]["t"] for value in carried(rows, "l")] == AT


def test_a_table_with_nanoseconds_from_int96_goes_on(tmp_path: Path) -> None:
    put(str(tmp_path), "a.parquet", int96(pa.array(AT, pa.timestamp("us"))))
    kind = pa.timestamp("ns")
    rows = read(tmp_path, {"at": kind, "l": pa.list_(pa.struct([("t", kind)]))})
    assert [(id_, reason) for id_, reason, _ in messages(rows)] == [("0", "bad_column"), ("1", "bad_column")]
    assert carried(rows, "at") == ["2024-01-01 00:00:00.000005000", None]


def test_nanoseconds_of_int96_are_not_cut(tmp_path: Path) -> None:
    put(str(tmp_path), "a.parquet", int96(pa.array([1, 1000, -1], pa.timestamp("ns"))))
    assert carried(read(tmp_path, {"at": pa.timestamp("ns")}), "at") == [
        "1970-01-01 00:00:00.000000001",
        "1970-01-01 00:00:00.000001000",
        "1969-12-31 23:59:59.999999999",
    ]
    rows = read(tmp_path, ["at"])
    assert carried(rows, "at") == ["1970-01-01 00:00:00.000001"]
    assert [(id_, reason) for id_, reason, _ in messages(rows)] == [("0", "bad_column"), ("2", "bad_column")]
