"""Values of JSON and CSV in carried columns: for each pair of value and Arrow type the same value, or a reject."""

import datetime as dt
import math
from decimal import Decimal
from typing import Any

import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from sfr_batch.corpus.json_values import Unfit, exact_value, needs_exact_numbers

STRUCT = pa.struct([("a", pa.int64())])
MAP = pa.map_(pa.string(), pa.int64())
KINDS = [
    pa.null(), pa.bool_(), pa.int8(), pa.uint8(), pa.int64(), pa.uint64(), pa.float16(), pa.float32(), pa.float64(),
    pa.string(), pa.large_string(), pa.binary(), pa.binary(4), pa.decimal128(10, 2), pa.decimal256(40, 3), pa.date32(),
    pa.date64(), pa.time32("s"), pa.time64("us"), pa.timestamp("us"), pa.timestamp("ns"), pa.timestamp("ms", "UTC"),
    pa.duration("us"), pa.list_(pa.int64()), pa.large_list(pa.string()), pa.list_(pa.int64(), 2), STRUCT, MAP,
    pa.dictionary(pa.int32(), pa.string()), pa.list_(STRUCT), pa.uuid(), pa.json_(),
]  # fmt: skip
VALUES = [
    True, False, 0, 1, -1, 300, 2**53 + 1, 2**63, 2**64, 1.0, 3.5, 0.1, 1e300, 19.99, math.inf, Decimal("19.99"),
    Decimal("3.0"), Decimal("9007199254740993.0"), Decimal("1E+400"), "", "x", "3", "true", "abcd", "2024-02-29",
    "2024-02-29T01:02:03", "2024-02-29T01:02:03Z", "01:02:03", "2024-02-29T01:02:03.1234567", [], [1, 2], ["a"],
    [0.9], [None], {}, {"a": 1}, {"a": 0.9}, {"b": 1}, {"a": "x"}, [["a", 1]], [{"key": "a", "value": 1}],
]  # fmt: skip


def same(value: Any, found: Any, kind: pa.DataType) -> bool:
    """Whether what Python shows of the column is what JSON said."""
    if isinstance(value, bool) or isinstance(found, bool):
        return value is found
    if isinstance(value, int | float | Decimal) and isinstance(found, int | float | Decimal):
        if pa.types.is_floating(kind):  # of the fraction, the nearest number of this type
            return isinstance(found, float) and (found == value or math.isclose(found, float(value), rel_tol=1e-3))
        return Decimal(found) == (Decimal(repr(value)) if isinstance(value, float) else Decimal(value))
    if isinstance(found, bytes):
        return isinstance(value, str) and value.encode() == found
    if isinstance(found, dt.date | dt.time):
        return isinstance(value, str) and found.isoformat().startswith(value.removesuffix("Z"))
    if isinstance(value, dict) and isinstance(found, list):
        return list(value.items()) == found
    if isinstance(value, list) and pa.types.is_map(kind):
        return found == [tuple(pair.values() if isinstance(pair, dict) else pair) for pair in value]
    if isinstance(value, dict) and isinstance(found, dict):
        return value == {key: part for key, part in found.items() if part is not None or key in value}
    return type(value) is type(found) and bool(value == found)


@pytest.mark.parametrize("kind", KINDS, ids=str)
def test_no_pair_changes_a_value(kind: pa.DataType) -> None:
    taken = []
    for value in VALUES:
        try:
            made = pa.array([exact_value(value, kind)], kind)
        except Unfit:
            continue
        if value == {} and pa.types.is_null(kind):
            continue  # no value yet: no object has shown a key
        taken.append(value)
        assert same(value, made[0].as_py(), kind), (value, made[0].as_py())
    assert bool(taken) == (not pa.types.is_null(kind) and kind not in (pa.duration("us"), pa.uuid()))


FITS: list[tuple[Any, pa.DataType, Any]] = [
    (3.0, pa.int64(), 3),
    (Decimal("3.0"), pa.int8(), 3),
    (Decimal("9007199254740993.0"), pa.int64(), 9007199254740993),
    (2**64 - 1, pa.uint64(), 2**64 - 1),
    (3, pa.float64(), 3.0),
    (2**60, pa.float64(), 2.0**60),
    (0.1, pa.float32(), pytest.approx(0.1)),
    (math.nan, pa.string(), None),
    (math.nan, pa.int64(), None),
    (math.nan, pa.timestamp("us"), None),
    (math.nan, pa.float32(), pytest.approx(math.nan, nan_ok=True)),
    (Decimal("-Infinity"), pa.float64(), -math.inf),
    (Decimal("12345678901234567.89"), pa.decimal128(38, 2), Decimal("12345678901234567.89")),
    (19.9, pa.decimal128(10, 2), Decimal("19.90")),
    (7, pa.decimal128(3, 2), Decimal("7.00")),
    ("2024-02-29T01:02:03.5Z", pa.timestamp("us", "UTC"), dt.datetime(2024, 2, 29, 1, 2, 3, 500_000, dt.UTC)),
    ("2024-02-29T01:02:03+01:00", pa.timestamp("s", "UTC"), dt.datetime(2024, 2, 29, 0, 2, 3, tzinfo=dt.UTC)),
    ("2024-02-29 01:02:03", pa.timestamp("us"), dt.datetime(2024, 2, 29, 1, 2, 3)),
    ({"1": 2}, pa.map_(pa.int32(), pa.int64()), [(1, 2)]),
    ({"a": None}, STRUCT, {"a": None}),
    ({}, STRUCT, {"a": None}),
    ([3.0, None], pa.list_(pa.int64()), [3, None]),
]


@pytest.mark.parametrize(("value", "kind", "expected"), FITS, ids=str)
def test_what_fits(value: Any, kind: pa.DataType, expected: Any) -> None:
    assert pa.array([exact_value(value, kind)], kind)[0].as_py() == expected


UNFIT: list[tuple[Any, pa.DataType, str]] = [
    (19.99, pa.int64(), "is not int64: 19.99"),
    ([1, 0.9], pa.list_(pa.int64()), "is not int64: 0.9"),
    ({"a": 0.9}, STRUCT, "is not int64: 0.9"),
    ({"k": 0.9}, MAP, "is not int64: 0.9"),
    (2**53 + 1, pa.float64(), "is double, which has no such whole number: 9007199254740993"),
    (10**400, pa.float64(), "is not double: 100000000000000000000000000000000000000000000000000000000..."),
    (Decimal("1E+400"), pa.float64(), "is not double: 1E+400"),
    (float("1e400"), pa.float64(), "is double, which has no number so far from zero"),
    (1.23456789012, pa.float32(), "is float, which has no such number: 1.23456789012"),
    (1e300, pa.float32(), "is float, which has no such number: 1e+300"),
    (2**24 + 1, pa.float32(), "is float, which has no such number: 16777217"),
    (1e300, pa.int64(), "is not int64: 1e+300"),
    (9007199254740994.0, pa.int64(), "is not int64: 9007199254740994.0"),
    (math.inf, pa.int64(), "is not int64: inf"),
    (300, pa.uint8(), "is not uint8: 300"),
    (True, pa.int64(), "is not int64: true"),
    (True, pa.float64(), "is not double: true"),
    (1, pa.bool_(), "is not bool: 1"),
    ("3", pa.int64(), "is not int64: '3'"),
    (3, pa.string(), "is not string: 3"),
    (0, pa.timestamp("us"), "is not timestamp[us]: 0"),
    (1709168523, pa.date32(), "is not date32[day]: 1709168523"),
    ("2024-02-29T01:02:03Z", pa.timestamp("us"), "is not timestamp[us]: '2024-02-29T01:02:03Z'"),
    ("2024-02-29T01:02:03", pa.timestamp("us", "UTC"), "is not timestamp[us, tz=UTC]: '2024-02-29T01:02:03'"),
    ("2024-02-29T01:02:03.1234567", pa.timestamp("us"), "is not timestamp[us]: '2024-02-29T01:02:03.1234567'"),
    ("2024-02-30", pa.date32(), "is not date32[day]: '2024-02-30'"),
    (19.999, pa.decimal128(10, 2), "is not decimal128(10, 2): 19.999"),
    (10**9, pa.decimal128(10, 2), "is not decimal128(10, 2): 1000000000"),
    ("abcd", pa.list_(pa.string()), "is not list<item: string>: 'abcd'"),
    ([], STRUCT, "is not struct<a: int64>: the array []"),
    ({"b": 1}, STRUCT, "has 'b', which struct<a: int64> has no place for"),
    ([1, 2, 3], pa.list_(pa.int64(), 2), "is not fixed_size_list<item: int64>[2]: the array [1, 2, 3]"),
    ([["a"]], MAP, "is not map<string, int64>: the array [the array ['a']]"),
    ([[None, 1]], MAP, "has a key that is null"),
    ("\ud800", pa.string(), "is not string: it has a lone surrogate"),
    ("xyz", pa.uuid(), "is not extension<arrow.uuid>: 'xyz'"),
]


@pytest.mark.parametrize(("value", "kind", "message"), UNFIT, ids=str)
def test_what_does_not_fit(value: Any, kind: pa.DataType, message: str) -> None:
    with pytest.raises(Unfit) as raised:
        exact_value(value, kind)
    assert str(raised.value) == message


@settings(max_examples=300, deadline=None)
@given(
    st.floats(width=32) | st.integers() | st.decimals(allow_nan=False, allow_infinity=False),
    st.sampled_from(KINDS[1:15]),
)
def test_numbers_are_the_same_or_rejected(number: Any, kind: pa.DataType) -> None:
    try:
        found = pa.array([exact_value(number, kind)], kind)[0].as_py()
    except Unfit:
        return
    if isinstance(number, float) and not math.isfinite(number):
        assert found is None if math.isnan(number) and not pa.types.is_floating(kind) else str(found) == str(number)
    elif not pa.types.is_floating(kind):
        assert Decimal(found) == (Decimal(repr(number)) if isinstance(number, float) else Decimal(number))
    elif not isinstance(number, Decimal):
        assert found == number


def test_which_types_need_every_digit() -> None:
    assert needs_exact_numbers([pa.string(), pa.list_(pa.struct([("a", pa.decimal128(3, 1))]))])
    assert needs_exact_numbers([pa.map_(pa.string(), pa.int8())])
    assert not needs_exact_numbers([pa.string(), pa.list_(pa.float64())])
