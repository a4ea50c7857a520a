"""Files of one corpus, written by several programs: their columns are one where a user would say so."""

import json
import uuid
from decimal import Decimal
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from sfr_batch.config.settings import CorpusSettings
from sfr_batch.corpus.columns import Carried, Columns
from sfr_batch.corpus.json_types import infer_schema
from sfr_batch.corpus.listing import list_shards
from sfr_batch.corpus.reader import read_unit
from sfr_batch.corpus.splits import cut
from sfr_batch.corpus.survey import survey_shards
from sfr_batch.errors import CorpusError
from tests.corpus.test_carry import columns_of
from tests.corpus.test_corpus import IDENTITY, MANY, ids_of, read_all, rejects_of
from tests.tables import jsonl, parquet, put


def shards(place: Path, column: str, *arrays: pa.Array) -> str:
    """A Parquet file for each array, which is one of its columns."""
    for number, array in enumerate(arrays):
        ids = pa.array([f"{number}-{row}" for row in range(len(array))])
        table = pa.table({"id": ids, "text": ids, column: array})
        put(str(place), f"{number}.parquet", parquet(table))
    return str(place)


def carried(place: str, column: str = "n") -> tuple[pa.DataType, list[Any]]:
    found = pa.concat_tables([rows.carry for _, rows in read_all(place, carry=[column])]).column(column)
    return found.type, found.to_pylist()


def in_table(place: str, kind: pa.DataType) -> tuple[list[Any], list[tuple[Any, str]]]:
    """What a table with this type of the column n takes, and what it rejects: id and message."""
    corpus = CorpusSettings(path=place, carry=["n"])
    columns = columns_of(Path(place), Columns(pa.string(), {"n": Carried("n", kind)}), carry=["n"])
    assert columns.types == {"n": kind}
    units = [
        unit
        for survey in survey_shards(list_shards(corpus), corpus)
        for unit in cut(survey, MANY, MANY, IDENTITY, frozenset())
    ]
    found = [pair for unit in units for pair in read_unit(unit, corpus, columns)]
    values = [value for _, rows in found for value in rows.carry.column("n").to_pylist()]
    assert {reject[2] for reject in rejects_of(found)} <= {"bad_column"}
    return values, [(reject[0], reject[3]) for reject in rejects_of(found)]


@pytest.mark.parametrize(
    ("arrays", "kind", "values"),
    [
        (
            [pa.array(["a"]), pa.array(["b"], pa.large_string()), pa.array(["c"]).dictionary_encode()],
            pa.string(),
            ["a", "b", "c"],
        ),
        ([pa.array([1], pa.int32()), pa.array([2**40])], pa.int64(), [1, 2**40]),
        ([pa.array([1], pa.uint32()), pa.array([-1], pa.int32())], pa.int64(), [1, -1]),
        ([pa.array([1]), pa.array([1.5, None])], pa.float64(), [1.0, 1.5, None]),
        (
            [pa.array([Decimal("1.5")]), pa.array([Decimal("10.25")])],
            pa.decimal128(4, 2),
            [Decimal("1.50"), Decimal("10.25")],
        ),
        (
            [pa.array([[1], None], pa.large_list(pa.int8())), pa.array([[2, 3]], pa.list_(pa.int64(), 2))],
            pa.list_(pa.int64()),
            [[1], None, [2, 3]],
        ),
        (
            [pa.array([{"a": 1, "b": "x"}]), pa.array([{"b": "y", "c": [1]}])],
            None,
            [{"a": 1, "b": "x", "c": None}, {"a": None, "b": "y", "c": [1]}],
        ),
        ([pa.nulls(1), pa.array(["x"])], pa.string(), [None, "x"]),
        ([pa.nulls(1, pa.float64()), pa.array(["x"])], pa.string(), [None, "x"]),
        ([pa.array(["x"]), pa.array([float("nan")])], pa.string(), ["x", None]),
        (
            [pa.array([uuid.UUID(int=1)], pa.uuid()), pa.array([uuid.UUID(int=2).bytes], pa.binary(16))],
            pa.binary(16),
            [bytes(15) + b"\1", bytes(15) + b"\2"],
        ),
        ([pa.array(['{"k": 1}'], pa.json_()), pa.array(["x"])], pa.string(), ['{"k": 1}', "x"]),
    ],
)
def test_columns_of_several_types(
    tmp_path: Path, arrays: list[pa.Array], kind: pa.DataType | None, values: Any
) -> None:
    found, carry = carried(shards(tmp_path, "n", *arrays))
    assert kind in (None, found)
    assert carry == values


def test_times_of_any_unit_and_spelling_of_utc(tmp_path: Path) -> None:
    arrays = [
        pa.array([0], pa.timestamp("ms", "UTC")),
        pa.array([1], pa.timestamp("us", "+00:00")),
        pa.array([2], pa.timestamp("s", "Etc/UTC")),
    ]
    found = pa.concat_tables([rows.carry for _, rows in read_all(shards(tmp_path, "n", *arrays), carry=["n"])]).column(
        0
    )
    assert found.type == pa.timestamp("us", "UTC")
    assert found.cast(pa.int64()).to_pylist() == [0, 1, 2_000_000]


def test_a_table_takes_what_fits_and_rejects_the_rest(tmp_path: Path) -> None:
    place = shards(tmp_path, "n", pa.array([1, 300, None], pa.int64()), pa.array([2.0, 2.5, float("nan")]))
    assert in_table(place, pa.int8()) == (
        [1, None, 2],
        [("0-1", "n is not int8: 300"), ("1-1", "n is not int8: 2.5"), ("1-2", "n is not int8: nan")],
    )


def test_a_date_beyond_nanoseconds_is_rejected_rather_than_wrapped(tmp_path: Path) -> None:
    place = shards(tmp_path, "n", pa.array([0, 253_402_214_400_000_000], pa.timestamp("us")))
    values, rejects = in_table(place, pa.timestamp("ns"))
    assert len(values) == 1
    assert rejects == [("0-1", "n is not timestamp[ns]: 9999-12-31 00:00:00.000000")]


def test_a_field_that_the_table_lacks_is_rejected_where_it_has_a_value(tmp_path: Path) -> None:
    place = shards(tmp_path, "n", pa.array([{"a": 1, "b": None}, {"a": 2, "b": 1}]))
    kind = pa.struct({"a": pa.int64()})
    assert in_table(place, kind) == (
        [{"a": 1}],
        [("0-1", f"n is not {kind}: it has 'b', which {kind} has no place for")],
    )


def test_tables_of_older_releases_keep_their_types(tmp_path: Path) -> None:
    place = shards(tmp_path, "n", pa.array(["a", None]), pa.array(["b"], pa.large_string()))
    for kind in (pa.large_string(), pa.dictionary(pa.int32(), pa.string())):
        assert in_table(place, kind) == (["a", None, "b"], [])


IDS = {
    "uuid": (pa.array([uuid.UUID(int=7), None], pa.uuid()), ["00000000-0000-0000-0000-000000000007"], "null_id"),
    "16 bytes": (pa.array([uuid.UUID(int=7).bytes] * 1, pa.binary(16)), ["00000000-0000-0000-0000-000000000007"], None),
    "decimal": (pa.array([Decimal(7), Decimal(10**30)], pa.decimal128(38, 0)), [7], "bad_id"),
    "decimal with places": (pa.array([Decimal("7.00"), Decimal("7.50")], pa.decimal128(38, 10)), [7], "bad_id"),
    "unsigned": (pa.array([7, 2**64 - 1], pa.uint64()), [7], "bad_id"),
    "small": (pa.array([7, 8], pa.uint8()), [7, 8], None),
    "large text": (pa.array(["a"], pa.large_string()), ["a"], None),
    "category": (pa.array(["b", "a"]).dictionary_encode(), ["b", "a"], None),
    "numbers in a dictionary": (pa.array([7, 8]).dictionary_encode(), [7, 8], None),
}


@pytest.mark.parametrize("name", IDS)
def test_ids_of_other_databases(tmp_path: Path, name: str) -> None:
    ids, expected, reason = IDS[name]
    put(str(tmp_path), "a.parquet", parquet(pa.table({"id": ids, "text": ["x"] * len(ids)})))
    found = read_all(str(tmp_path))
    assert ids_of(found) == expected
    assert [reject[2] for reject in rejects_of(found)] == ([reason] if reason else [])


def test_uuids_and_their_texts_are_one(tmp_path: Path) -> None:
    put(str(tmp_path), "a.parquet", parquet(pa.table({"id": pa.array([uuid.UUID(int=7)], pa.uuid()), "text": ["x"]})))
    put(str(tmp_path), "b.jsonl", jsonl([{"id": str(uuid.UUID(int=8)), "text": "y"}]))
    assert ids_of(read_all(str(tmp_path))) == [str(uuid.UUID(int=number)) for number in (7, 8)]


def test_a_text_column_of_json_type(tmp_path: Path) -> None:
    """The type stands in the file's Arrow schema only if pyarrow has written it; others write plain text."""
    texts = pa.array(['{"a": 1}', None], pa.json_())
    put(str(tmp_path), "a.parquet", parquet(pa.table({"id": ["a", "b"], "text": texts})))
    ((_, rows),) = read_all(str(tmp_path), carry=["text"])
    assert (rows.texts, rows.carry.to_pylist()) == (['{"a": 1}'], [{"text": '{"a": 1}'}])


@pytest.mark.parametrize("kind", ["jsonl", "parquet"])
def test_the_longest_name_that_fits_at_every_level(tmp_path: Path, kind: str) -> None:
    row = {
        "id": "a",
        "text": "x",
        "meta": {"dc.title": "T", "dc": {"title": "no", "date": "D"}},
        "a.b": "flat",
        "a": {"b": {"c": 1}},
    }
    put(str(tmp_path), f"a.{kind}", jsonl([row]) if kind == "jsonl" else parquet(pa.Table.from_pylist([row])))
    carry = {"title": "meta.dc.title", "date": "meta.dc.date", "flat": "a.b", "deep": "a.b.c"}
    ((_, rows),) = read_all(str(tmp_path), carry=carry)
    assert rows.carry.to_pylist() == [{"title": "T", "date": "D", "flat": "flat", "deep": 1}]
    ((_, rows),) = read_all(str(tmp_path), text="{meta.dc.title}: {text}")
    assert rows.texts == ["T: x"]


@pytest.mark.parametrize("kinds", [("parquet", "parquet"), ("csv", "csv"), ("parquet", "jsonl"), ("jsonl", "csv")])
def test_columns_that_came_later(tmp_path: Path, kinds: tuple[str, str]) -> None:
    rows = [{"id": "a", "text": "x"}, {"id": "b", "text": "y", "url": "u", "title": "T"}]
    for row, kind in zip(rows, kinds, strict=True):
        csv = f"{','.join(row)}\n{','.join(row.values())}\n".encode()
        data = {"jsonl": jsonl([row]), "csv": csv, "parquet": parquet(pa.Table.from_pylist([row]))}[kind]
        put(str(tmp_path), f"{row['id']}.{kind}", data)
    found = read_all(str(tmp_path), carry=["url"], text="{title} {text}")
    assert [text for _, rows in found for text in rows.texts] == ["x", "T y"]
    assert [value for _, rows in found for value in rows.carry["url"].to_pylist()] == [None, "u"]
    with pytest.raises(CorpusError, match=r"has no column 'uri' \(corpus\.carry\)"):
        read_all(str(tmp_path), carry=["uri"])


@pytest.mark.parametrize("early", [{}, {"n": None}])
def test_a_column_that_comes_late_in_a_file(tmp_path: Path, early: dict[str, Any]) -> None:
    """Behind the sample at the beginning: the end of the file shows it."""
    rows = [{"id": str(number), "text": "x" * 1000, **early} for number in range(400)]
    put(str(tmp_path), "a.jsonl", jsonl([*rows, {"id": "new", "text": "x", "n": 7}]))
    kind, values = carried(str(tmp_path))
    assert (kind, values[-2:]) == (pa.int64(), [None, 7])
    (tmp_path / "a.jsonl").rename(tmp_path / "b.jsonl")
    put(str(tmp_path), "a.jsonl", jsonl([{"id": "other", "text": "x", "n": 0.5}]))
    assert carried(str(tmp_path))[0] == pa.float64()


def test_one_large_number_among_fractions(tmp_path: Path) -> None:
    """It is a row that does not fit, wherever it stands: in the sample or behind it."""
    row = {"id": "large", "text": "x", "n": 2**60 + 1, "deep": {"n": [2**60 + 1]}}
    sound = [{"id": f"{number}", "text": "x" * 1000, "n": 0.5, "deep": {"n": [0.5]}} for number in range(300)]
    for name, rows in (("first", [row, *sound]), ("last", [*sound, row])):
        put(str(tmp_path), f"{name}/a.jsonl", jsonl(rows))
        found = read_all(f"{tmp_path}/{name}", carry=["n"])
        assert found[0][1].carry.schema.field("n").type == pa.float64()
        assert [reject[2] for reject in rejects_of(found)] == ["bad_column"]
        assert columns_of(tmp_path / name, carry=["deep"]).types["deep"] == pa.struct({"n": pa.list_(pa.float64())})


def test_samples_with_several_types_are_refused() -> None:
    for values in (["a", 1], [{"a": 1}, {"a": "x"}], [[1], 1], [True, 1]):
        rows = [{"id": "a", "text": "x", "n": value} for value in values]
        with pytest.raises(CorpusError, match="'n' have several types"):
            infer_schema(rows, CorpusSettings(path="-", carry=["n"]), "a.jsonl")
    rows = [{"n": value} for value in ("a", float("nan"), None)]
    assert infer_schema(rows, CorpusSettings(path="-", carry=["n"]), "").field("n").type == pa.string()


def test_parquet_decides_before_samples_and_samples_fill_what_is_open(tmp_path: Path) -> None:
    shards(tmp_path, "n", pa.array([{"a": 1, "b": None}], pa.struct({"a": pa.int8(), "b": pa.null()})))
    put(str(tmp_path), "z.jsonl", jsonl([{"id": "z", "text": "x", "n": {"a": 2, "b": ["x"]}}]))
    kind, values = carried(str(tmp_path))
    assert kind == pa.struct({"a": pa.int8(), "b": pa.list_(pa.string())})
    assert values == [{"a": 1, "b": None}, {"a": 2, "b": ["x"]}]


ROW = st.fixed_dictionaries(
    {
        "n": st.none() | st.integers(-128, 127),
        "f": st.none() | st.floats(width=16, allow_nan=False, allow_infinity=False),
        "s": st.none() | st.text(st.characters(codec="utf-8", exclude_characters="\x00"), max_size=3),
        "l": st.none() | st.lists(st.integers(0, 100), max_size=3),
        "o": st.none() | st.fixed_dictionaries({"a": st.integers(0, 100), "b": st.none() | st.text("xy", max_size=2)}),
    }
)
LAYOUTS = [
    {
        "n": pa.int64(),
        "f": pa.float64(),
        "s": pa.string(),
        "l": pa.list_(pa.int64()),
        "o": pa.struct({"a": pa.int64(), "b": pa.string()}),
    },
    {
        "n": pa.int8(),
        "f": pa.float32(),
        "s": pa.large_string(),
        "l": pa.large_list(pa.int8()),
        "o": pa.struct({"b": pa.large_string(), "a": pa.uint8()}),
    },
    {
        "n": pa.int32(),
        "f": pa.float16(),
        "s": pa.dictionary(pa.int16(), pa.string()),
        "l": pa.list_(pa.field("item", pa.uint16(), nullable=False)),
        "o": pa.struct({"a": pa.int16(), "b": pa.string_view()}),
    },
]


@settings(max_examples=40, suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None)
@given(st.lists(st.tuples(ROW, st.integers(0, len(LAYOUTS))), min_size=1, max_size=6))
def test_the_same_rows_in_any_layout_are_the_same_rows(tmp_path: Path, rows: list[tuple[dict[str, Any], int]]) -> None:
    """In files of several layouts, as in one file of the first layout: ids, texts, hashes and carried values."""
    known = Columns(pa.string(), {name: Carried(name, kind) for name, kind in LAYOUTS[0].items()})
    documents = [
        ({"id": str(number), "text": f"t{number}", **row}, layout) for number, (row, layout) in enumerate(rows)
    ]
    for file in tmp_path.rglob("*.*"):
        file.unlink()
    for document, layout in documents:
        if layout == len(LAYOUTS):
            put(str(tmp_path), f"several/{document['id']}.jsonl", json.dumps(document).encode())
        else:
            schema = pa.schema({"id": pa.string(), "text": pa.string(), **LAYOUTS[layout]})
            put(str(tmp_path), f"several/{document['id']}.parquet", parquet(pa.Table.from_pylist([document], schema)))
    schema = pa.schema({"id": pa.string(), "text": pa.string(), **LAYOUTS[0]})
    put(str(tmp_path), "one/a.parquet", parquet(pa.Table.from_pylist([document for document, _ in documents], schema)))
    assert read_as(tmp_path / "several", known) == read_as(tmp_path / "one", known)


def read_as(place: Path, known: Columns) -> list[Any]:
    corpus = CorpusSettings(path=str(place), carry=list(known.carry))
    surveys = survey_shards(list_shards(corpus), corpus)
    assert columns_of(place, known, carry=list(known.carry)) == known
    units = [unit for survey in surveys for unit in cut(survey, MANY, MANY, IDENTITY, frozenset())]
    found = [rows for unit in units for _, rows in read_unit(unit, corpus, known)]
    assert not any(rows.rejects.num_rows for rows in found)
    return [
        row
        for rows in found
        for row in zip(rows.ids.to_pylist(), rows.texts, rows.row_hash.to_pylist(), rows.carry.to_pylist(), strict=True)
    ]
