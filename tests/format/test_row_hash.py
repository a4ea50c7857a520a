"""Row hashes: of version 1 those that tables have had, of version 2 a function of value and logical type alone."""

import datetime as dt
import hashlib
import math
from decimal import Decimal
from itertools import combinations
from typing import Any

import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from sfr_batch.format.hashes import hash_rows, hash_texts
from sfr_batch.format.row_hash_1 import spell
from sfr_batch.format.row_hash_2 import encode

pytest.importorskip("pandas", reason="it has spelled nanoseconds in version 1")

NS = pa.array([0, 1_500, -1, 1_710_000_000_123_000_000, None], pa.timestamp("ns"))
MICROSECONDS = pa.array([0, 1_710_000_000_000_123, 1_729_989_000_000_000, -1, None])
NESTED: dict[pa.DataType, list[Any]] = {
    pa.list_(pa.string()): [["it's", 'a "word"'], [], None, [None]],
    pa.large_list(pa.decimal128(10, 2)): [[Decimal("19.90")], None],
    pa.list_(pa.int8(), 2): [[1, 2], None, [None, 3]],
    pa.struct([("b", pa.date32()), ("a'", pa.list_(pa.time64("us")))]): [
        {"b": dt.date(2024, 2, 29), "a'": [dt.time(1, 2, 3, 4)]},
        None,
        {"b": None, "a'": None},
    ],
    pa.map_(pa.string(), pa.map_(pa.int64(), pa.float32())): [[("k", [(1, 0.5)])], None, [], [("l", None)]],
    pa.list_(pa.struct([("at", pa.timestamp("ms", "UTC"))])): [[{"at": dt.datetime(2024, 1, 1, tzinfo=dt.UTC)}, None]],
}
"""Types -> values."""
SINGLE: list[pa.Array] = [
    pa.array([None, None]),
    pa.array([True, False, None]),
    pa.array([-128, 127, None], pa.int8()),
    pa.array([2**64 - 1, 0], pa.uint64()),
    pa.array([0.1, -0.0, math.nan, math.inf, 1e-7, 1e22, None]),
    pa.array([0.1, 1.5], pa.float32()),
    pa.array([0.1, None], pa.float16()),
    pa.array([Decimal("1.50"), Decimal("-0.00"), Decimal("0.05"), None], pa.decimal128(30, 2)),
    pa.array([Decimal("1E-9"), Decimal("0E-9")], pa.decimal256(60, 9)),
    pa.array([Decimal("12E+3")], pa.decimal128(10, -3)),
    pa.array(
        ["", "it's", '"', "'\"", "a\\b", "\x00\t\n\x7f", "é", "\xa0\xad", "中文🎉", "\u2028\ue000\U0010ffff", None]
    ),
    pa.array(["x", None], pa.large_string()),
    pa.array(["x", "y", "x", None]).dictionary_encode(),
    pa.array([b"\x00'", b"", None]),
    pa.array([b"ab", None], pa.binary(2)),
    pa.array([bytes(range(16)), None], pa.uuid()),
    pa.array(['{"a": 1}', None], pa.json_()),
    pa.array([0, -719162, 2932896, None], pa.date32()),
    pa.array([0, 86_400_000, None], pa.int64()).cast(pa.date64()),
    pa.array([0, 86_399, None], pa.time32("s")),
    pa.array([1, 1000, None], pa.time32("ms")),
    pa.array([0, 1, 86_399_999_999, None], pa.time64("us")),
    pa.array([0, 1_000, 1_001, None], pa.time64("ns")),
    *(MICROSECONDS.cast(pa.timestamp("us", zone)) for zone in (None, "UTC", "+00:00", "-05:30", "Europe/Berlin")),
    *(NS.cast(pa.timestamp("ns", zone)) for zone in (None, "UTC", "+00:00", "-05:30", "America/New_York")),
    pa.array([0, -62135596800, None], pa.timestamp("s", "Etc/UTC")),
    pa.array([0, -1, 86_400, None], pa.duration("s")),
    pa.array([1, 10**12], pa.duration("us")),
    pa.array([0, 1_500, -1, 86_400 * 10**9 + 5, 3 * 86_400 * 10**9 + 123_000_000, None], pa.duration("ns")),
    pa.array([(1, 2, 3), (-1, -2, -3), None], pa.month_day_nano_interval()),
    *(pa.array(values, kind) for kind, values in NESTED.items()),
]


@pytest.mark.parametrize("column", SINGLE, ids=lambda column: str(column.type)[:40])
def test_version_1_spells_values_as_the_first_release_did(column: pa.Array) -> None:
    assert spell(column) == [repr(value) for value in column.to_pylist()]
    assert spell(column[1:]) == spell(column)[1:]


@settings(max_examples=200, deadline=None)
@given(st.text(st.characters(codec="utf-8", exclude_categories=["Cn"])))
def test_version_1_spells_any_text_as_the_first_release_did(text: str) -> None:
    assert spell(pa.array([text])) == [repr(text)]


def test_version_1_knows_the_characters_of_its_time() -> None:
    """U+1FAE9 came with Unicode 16, so that a later Python prints it as it is."""
    assert spell(pa.array(["\U0001fae9", "\U0001fae8", "\U0001fae7"])) == [
        "'\\U0001fae9'",
        "'\\U0001fae8'",
        "'\U0001fae7'",
    ]


def test_hashes_of_version_1_are_those_that_tables_have() -> None:
    content = hash_texts(["x"])
    at, text = pa.array([0], pa.timestamp("us", "UTC")), pa.array(["it's"])
    one, both = (hash_rows(content, pa.table(columns), 1)[0].as_py() for columns in ({"at": at}, {"t": text, "at": at}))
    spelled = b"datetime.datetime(1970, 1, 1, 0, 0, tzinfo=zoneinfo.ZoneInfo(key='UTC'))"
    assert one.hex()[:8] == "de6f7da7"
    assert one == blake2b(blake2b(b"x") + b"(" + spelled + b",)")
    assert both == blake2b(blake2b(b"x") + b'("it\'s", ' + spelled + b")")


def blake2b(data: bytes) -> bytes:
    return hashlib.blake2b(data, digest_size=16).digest()


BEYOND = [
    pa.array([2932897, -719163, 2**31 - 1, -(2**31)], pa.date32()),
    pa.array([2932897 * 86_400_000, -(2**62)], pa.int64()).cast(pa.date64()),
    pa.array([2**62, -(2**62)], pa.timestamp("us")),
    pa.array([2**62, -(2**62)], pa.timestamp("s", "UTC")),
    pa.array([253402300799_000000], pa.timestamp("us", "Europe/Berlin")),
    pa.array([2**62, -(2**62)], pa.duration("s")),
    pa.array([[2932897], [2932898, None]], pa.list_(pa.date32())),
    pa.array([{"d": 2932897}], pa.struct([("d", pa.date32())])),
]


@pytest.mark.parametrize("version", [1, 2])
@pytest.mark.parametrize("column", BEYOND, ids=lambda column: str(column.type))
def test_dates_that_python_does_not_know_have_hashes(column: pa.Array, version: int) -> None:
    hashes = hash_rows(hash_texts(["same"] * len(column)), pa.table({"c": column}), version)
    assert len(hashes.unique()) == len(column)


def times(value: Any, *kinds: pa.DataType) -> list[pa.Array]:
    return [pa.array([value], pa.timestamp("us", "UTC")).cast(kind) for kind in kinds]


ONE_VALUE: list[list[pa.Array]] = [
    [pa.array([3, None], kind) for kind in (pa.int8(), pa.uint16(), pa.int64(), pa.uint64())],
    [pa.array([0.5, None], kind) for kind in (pa.float16(), pa.float32(), pa.float64())],
    [pa.array([Decimal(text)], kind) for text, kind in [
        ("1.5", pa.decimal128(3, 1)), ("1.50", pa.decimal128(30, 2)), ("1.500", pa.decimal256(50, 3)),
        ("1.5", pa.decimal32(3, 1)), ("1.5", pa.decimal64(12, 3)),
    ]],
    [pa.array(["a", "b", None, "a"], kind) for kind in (pa.string(), pa.large_string(), pa.string_view())]
    + [pa.array(["a", "b", None, "a"]).dictionary_encode(), pa.array(["a", "b", None, "a"], pa.json_())],
    [pa.array([b"ab"], kind) for kind in (pa.binary(), pa.large_binary(), pa.binary_view(), pa.binary(2))],
    [pa.array([b"0" * 16], kind) for kind in (pa.uuid(), pa.binary(16), pa.binary())],
    [pa.array([[1, None]], kind) for kind in (
        pa.list_(pa.int64()), pa.large_list(pa.int32()), pa.list_(pa.int8(), 2), pa.list_view(pa.int64()),
    )],
    [pa.array([dt.date(2024, 2, 29)], kind) for kind in (pa.date32(), pa.date64())],
    times(dt.datetime(2024, 2, 29, 12, 0, 1, tzinfo=dt.UTC), *(pa.timestamp(unit, zone) for unit, zone in [
        ("s", "UTC"), ("ms", "+00:00"), ("us", "Etc/UTC"), ("ns", "Europe/Berlin"), ("us", "-05:30"),
    ])),
    [pa.array([dt.datetime(2024, 2, 29, 12)], pa.timestamp(unit)) for unit in ("s", "ms", "us", "ns")],
    [pa.array([dt.time(1, 2, 3)], kind) for kind in (pa.time32("s"), pa.time32("ms"), pa.time64("ns"))],
    [pa.array([dt.timedelta(-1, 5)], pa.duration(unit)) for unit in ("s", "ms", "us", "ns")],
    [pa.array([{"a": 1, "b": "x"}], kind) for kind in (
        pa.struct([("a", pa.int64()), ("b", pa.string())]),
        pa.struct([("b", pa.large_string()), ("a", pa.int8())]),
        pa.struct([("b", pa.large_string()), ("a", pa.int8()), ("later", pa.list_(pa.string()))]),
    )],
    [pa.array([math.nan]), pa.array([-math.nan]), pa.array([math.nan], pa.float32())],
]  # fmt: skip
"""Arrays of one group have the same values of the same logical type."""


@pytest.mark.parametrize("group", ONE_VALUE, ids=lambda group: str(group[0].type))
def test_version_2_is_of_value_and_logical_type_alone(group: list[pa.Array]) -> None:
    assert {tuple(encode(column)) for column in group} == {tuple(encode(group[0]))}


def test_version_2_tells_values_and_logical_types_apart() -> None:
    firsts = [encode(group[0])[0] for group in ONE_VALUE]
    others = [
        pa.array([value], kind)
        for value, kind in [
            (None, pa.int8()), (True, pa.bool_()), (1, pa.int8()), (-1, pa.int64()), (2**64 - 1, pa.uint64()),
            (1.0, pa.float32()), (-0.0, pa.float64()), (0.0, pa.float64()), ("1", pa.string()), (b"1", pa.binary()),
            (Decimal("1"), pa.decimal128(5, 2)), (Decimal("0.1"), pa.decimal128(5, 2)), ([], pa.list_(pa.int8())),
            ([], pa.map_(pa.int8(), pa.int8())), ([None], pa.list_(pa.int8())), ([[]], pa.list_(pa.list_(pa.int8()))),
            ({"a": 1}, pa.struct([("a", pa.int8())])), ({"a": None}, pa.struct([("a", pa.int8())])),
            ({"b": 1}, pa.struct([("b", pa.int8())])), ((1, 2, 3), pa.month_day_nano_interval()),
        ]
    ]  # fmt: skip
    found = [*firsts, *(encode(column)[0] for column in others)]
    for one, other in combinations(found, 2):
        assert one != other
        assert not one.startswith(other), "so that the values of a row, one after the other, are told apart"


def test_version_2_does_not_depend_on_how_arrays_are_stored() -> None:
    for column in [*SINGLE, *BEYOND]:
        whole = encode(column)
        content = hash_texts(["x"] * len(column))
        chunks = pa.chunked_array([column[:1], column[1:1], column[1:]])
        assert encode(column[1:]) == whole[1:]
        assert hash_rows(content, pa.table({"c": chunks}), 2) == hash_rows(content, pa.table({"c": column}), 2)
    runs = pa.RunEndEncodedArray.from_arrays([2, 3], pa.array(["a", None]))
    assert encode(runs) == encode(pa.array(["a", "a", None]))
    dictionaries = [pa.array(values).dictionary_encode() for values in (["a", "b"], ["b", "c"])]
    both = pa.table({"c": pa.chunked_array(dictionaries)})
    content = hash_texts(["x"] * 4)
    assert hash_rows(content, both, 2) == hash_rows(content, pa.table({"c": ["a", "b", "b", "c"]}), 2)
