"""Which types hold every value of another, and the exact casts between them."""

import itertools
from datetime import date, time
from decimal import Decimal
from typing import Any

import numpy as np
import pyarrow as pa
import pytest

from sfr_batch.format.widening import holds, widened

INTEGERS = [pa.int8(), pa.int16(), pa.int32(), pa.int64(), pa.uint8(), pa.uint16(), pa.uint32(), pa.uint64()]
FLOATS = [pa.float16(), pa.float32(), pa.float64()]
DECIMALS = [pa.decimal128(3, 0), pa.decimal128(20, 0), pa.decimal128(22, 2), pa.decimal256(60, 30)]


def extremes(kind: pa.DataType) -> list[int]:
    """The least and the greatest whole number of a type, and all beside a power of two."""
    if pa.types.is_integer(kind):
        info = np.iinfo(kind.to_pandas_dtype())
        low, high = int(info.min), int(info.max)
    else:
        high = 10 ** (kind.precision - kind.scale) - 1
        low = -high
    beside = [sign * 2**power + more for power in range(64) for sign in (1, -1) for more in (-1, 0, 1)]
    return [low, high, *(value for value in beside if low <= value <= high)]


def is_held(kind: pa.DataType, value: int) -> bool:
    if pa.types.is_floating(kind):
        with np.errstate(over="ignore"):
            made = float(kind.to_pandas_dtype()(value))
        return bool(np.isfinite(made)) and int(made) == value
    return min(extremes(kind)[:2]) <= value <= max(extremes(kind)[:2])


@pytest.mark.parametrize("other", [*INTEGERS, *DECIMALS], ids=str)
def test_whole_numbers(other: pa.DataType) -> None:
    """A type is said to hold another exactly if it does so for the extremes; then the cast keeps all of them."""
    values = extremes(other)
    made = [Decimal(value) for value in values] if pa.types.is_decimal(other) else values
    column = pa.array([*made, None], other)
    for kind in [*INTEGERS, *FLOATS, *DECIMALS]:
        if pa.types.is_decimal(other) and not pa.types.is_decimal(kind):
            assert not holds(kind, other), "a decimal stays one"
            continue
        scales = not pa.types.is_decimal(kind) or not pa.types.is_decimal(other) or kind.scale >= other.scale
        assert holds(kind, other) == (scales and all(is_held(kind, value) for value in values)), kind
        if holds(kind, other):
            assert [None if v is None else int(v) for v in widened(column, kind).to_pylist()] == [*values, None]


def test_fractions() -> None:
    for one, other in itertools.product(FLOATS, FLOATS):
        assert holds(one, other) == (one.bit_width >= other.bit_width)
    assert not any(holds(kind, other) for kind in [*INTEGERS, *DECIMALS] for other in FLOATS)
    made = widened(pa.array([0.1, -0.0, float("inf"), float("nan"), None], pa.float32()), pa.float64())
    assert str(made.to_pylist()) == str([float(np.float32(0.1)), -0.0, float("inf"), float("nan"), None])


ELEMENT = pa.list_(pa.field("element", pa.int64()))
PAIRS: list[tuple[pa.DataType, pa.DataType, list[Any]]] = [
    (pa.string(), pa.null(), [None]),
    (pa.binary(), pa.binary(2), [b"ab", None]),
    (pa.large_string(), pa.string(), ["a", None]),
    (pa.string(), pa.dictionary(pa.int32(), pa.string()), ["a", None, "a"]),
    (pa.time64("ns"), pa.time32("ms"), [time(23, 59, 59, 999_000), None]),
    (pa.timestamp("ms"), pa.date32(), [date(9999, 12, 31), date(1, 1, 1), None]),
    (pa.timestamp("us", "UTC"), pa.timestamp("us", "Europe/Paris"), [0, None]),
    (ELEMENT, pa.list_(pa.int8(), 2), [[1, 2], None, [None, 3]]),
    (pa.list_(pa.int64(), 2), pa.list_(pa.int8(), 2), [[1, 2], None, [None, 3]]),
    (ELEMENT, pa.list_(pa.int8()), [[1], None, [], [2, None]]),
    (pa.list_(pa.struct({"a": pa.int64(), "b": pa.string()})), pa.list_(pa.struct({"a": pa.int8()})),
     [[{"a": 1}], None, [None, {"a": None}]]),
    (pa.struct({"b": pa.string(), "a": pa.int64()}), pa.struct({"a": pa.int8()}), [{"a": 1}, None, {"a": None}]),
    (pa.struct({"a": ELEMENT}), pa.struct({"a": pa.null()}), [{"a": None}, None]),
    (pa.map_(pa.string(), pa.int64()), pa.map_(pa.string(), pa.int8()), [[("k", 1)], None, [], [("k", None)]]),
]  # fmt: skip


def filled(value: Any, kind: pa.DataType) -> Any:
    """The value as the wider type has it: further fields are null."""
    if value is None:
        return None
    if pa.types.is_struct(kind):
        return {field.name: filled(value.get(field.name), field.type) for field in kind.fields}
    if pa.types.is_list(kind):
        return [filled(item, kind.value_type) for item in value]
    return value


@pytest.mark.parametrize(("kind", "other", "values"), PAIRS, ids=str)
def test_pairs(kind: pa.DataType, other: pa.DataType, values: list[Any]) -> None:
    assert holds(kind, other)
    column = pa.array([*values, *values], other)
    for part in (column, column.slice(1, len(values)), column.slice(len(column))):
        made = widened(part, kind)
        made.validate(full=True)
        assert made.type == kind
        if pa.types.is_timestamp(kind):
            assert made.cast(other).equals(part)
        else:
            assert made.to_pylist() == [filled(value, kind) for value in part.to_pylist()]


@pytest.mark.parametrize(
    ("kind", "other"),
    [
        (pa.string(), pa.int64()),
        (pa.int64(), pa.string()),
        (pa.int8(), pa.null()),
        (pa.timestamp("ns"), pa.timestamp("us")),
        (pa.timestamp("us"), pa.date32()),
        (pa.timestamp("us"), pa.timestamp("us", "UTC")),
        (pa.duration("ns"), pa.duration("s")),
        (pa.list_(pa.int8(), 2), pa.list_(pa.int8())),
        (pa.struct({"a": pa.int8()}), pa.struct({"a": pa.int8(), "b": pa.int8()})),
        (pa.struct({"a": pa.int8()}), pa.list_(pa.int8())),
        (pa.bool_(), pa.int8()),
        (pa.int8(), pa.bool_()),
    ],
    ids=str,
)
def test_types_that_do_not_hold_others(kind: pa.DataType, other: pa.DataType) -> None:
    assert holds(kind, other) == pa.types.is_null(other)
