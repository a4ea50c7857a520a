"""Types that are one to a user are one in the table, and values arrive exactly or are named."""

import datetime
import itertools
import uuid
from decimal import Decimal
from typing import Any

import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from sfr_batch.corpus.casting import cast_exactly, uuid_texts
from sfr_batch.corpus.column_types import fill_nulls, table_type, unify, without_null

INTEGERS = [pa.int8(), pa.int16(), pa.int32(), pa.int64(), pa.uint8(), pa.uint16(), pa.uint32(), pa.uint64()]
FLOATS = [pa.float16(), pa.float32(), pa.float64()]
MOMENTS = [pa.timestamp(unit, zone) for unit in ("s", "ms", "us", "ns") for zone in (None, "UTC")]
FLAT = [
    *INTEGERS,
    *FLOATS,
    *MOMENTS,
    *(pa.decimal128(5, 2), pa.decimal128(38, 0), pa.decimal256(50, 3), pa.decimal32(7, 4)),
    *(pa.string(), pa.large_string(), pa.binary(), pa.large_binary(), pa.binary(3), pa.bool_(), pa.null()),
    *(pa.date32(), pa.date64(), pa.time32("s"), pa.time32("ms"), pa.time64("us"), pa.time64("ns")),
    *(pa.duration("s"), pa.duration("us")),
]
FIELDS = st.lists(st.sampled_from("abc"), min_size=1, unique=True)


def nested(inner: st.SearchStrategy[pa.DataType]) -> st.SearchStrategy[pa.DataType]:
    return st.one_of(
        inner.map(pa.list_),
        inner.map(pa.large_list),
        inner.map(lambda kind: pa.list_(kind, 2)),
        inner.map(lambda kind: pa.map_(pa.string(), kind)),
        st.tuples(FIELDS, inner).map(lambda pair: pa.struct([(name, pair[1]) for name in pair[0]])),
    )


TYPES = st.recursive(st.sampled_from(FLAT), nested, max_leaves=3)


def arrow_unifies(one: pa.DataType, other: pa.DataType) -> pa.DataType | None:
    try:
        schemas = [pa.schema({"v": one}), pa.schema({"v": other})]
        return pa.unify_schemas(schemas, promote_options="permissive").field("v").type
    except pa.ArrowException:
        return None


def differs_on_purpose(one: pa.DataType, other: pa.DataType) -> bool:
    """Where Arrow takes bytes for text, fractions for decimals, or too few digits for decimals."""
    kinds = pa.types
    pairs = ((one, other), (other, one))
    return any(
        (kinds.is_decimal(a) and (kinds.is_floating(b) or kinds.is_integer(b)))
        or (kinds.is_string(a) and (kinds.is_binary(b) or kinds.is_fixed_size_binary(b)))
        for a, b in ((table_type(a), table_type(b)) for a, b in pairs)
    )


def test_flat_types_are_unified_as_arrow_does() -> None:
    for one, other in itertools.combinations_with_replacement(FLAT, 2):
        if not differs_on_purpose(one, other) and (theirs := arrow_unifies(one, other)) is not None:
            assert unify(one, other) == table_type(theirs)
        assert unify(one, other) == unify(other, one)


@settings(max_examples=300)
@given(TYPES, TYPES)
def test_the_rule_agrees_with_itself(one: pa.DataType, other: pa.DataType) -> None:
    both, turned = unify(one, other), unify(other, one)
    assert (both is None) == (turned is None)
    assert unify(one, one) == table_type(one) == table_type(table_type(one))
    assert unify(one, pa.null()) == table_type(one)
    if both is not None:
        assert unify(both, one) == unify(both, other) == both, "what holds both holds each"
        assert unify(pa.list_(one), pa.large_list(other)) == pa.list_(both)


VALUES: dict[Any, st.SearchStrategy[Any]] = {
    **{kind: st.integers(-(2 ** (kind.bit_width - 1)), 2 ** (kind.bit_width - 1) - 1) for kind in INTEGERS[:4]},
    **{kind: st.integers(0, 2**kind.bit_width - 1) for kind in INTEGERS[4:]},
    **{kind: st.floats(width=width) for kind, width in zip(FLOATS, (16, 32, 64), strict=True)},
    **{kind: st.integers(-(2**63) + 1, 2**63 - 1) for kind in MOMENTS},
}


def stored(value: Any, kind: pa.DataType) -> Any:
    """The exact value, as a number."""
    per_second = {"s": 1, "ms": 10**3, "us": 10**6, "ns": 10**9}
    return value * (10**9 // per_second[kind.unit]) if pa.types.is_timestamp(kind) else value


@settings(max_examples=400)
@given(st.data())
def test_values_are_the_same_or_named(data: st.DataObject) -> None:
    """Cast from any type to any other that goes with it, also to a narrower one, as a table may have."""
    kind = data.draw(st.sampled_from(list(VALUES)))
    to = data.draw(st.sampled_from([other for other in VALUES if unify(kind, other) is not None]))
    values = data.draw(st.lists(st.none() | VALUES[kind], max_size=8))
    number = pa.int64() if pa.types.is_timestamp(kind) else kind
    column = pa.array([None, *values], number).cast(kind).slice(1)
    found = cast_exactly(column, to)
    assert found.column.type == to
    wide = pa.types.is_timestamp(to)
    made = (found.column.cast(pa.int64()) if wide else found.column).to_pylist()
    for row, (before, after) in enumerate(zip(values, made, strict=True)):
        if row in found.bad:
            assert (before is None, after) == (False, None)
            assert not is_held(stored(before, kind), to)
        elif before is None or before != before:  # NaN
            assert after is None or after != after
        else:
            assert stored(after, to) == stored(before, kind)


def is_held(value: Any, to: pa.DataType) -> bool:
    if value != value or value in (float("inf"), float("-inf")):
        return bool(pa.types.is_floating(to))
    if pa.types.is_timestamp(to):
        one = stored(1, to)
        return bool(value % one == 0 and -(2**63) <= value // one < 2**63)
    if pa.types.is_integer(to):
        low = -(2 ** (to.bit_width - 1)) if pa.types.is_signed_integer(to) else 0
        return bool(value == int(value) and low <= value < low + 2**to.bit_width)
    try:
        return bool(pa.scalar(float(value), pa.float64()).cast(to, safe=False).as_py() == value)
    except OverflowError:
        return False


STRUCT = pa.struct({"a": pa.string(), "b": pa.int8(), "later": pa.int8()})
UUIDS = [uuid.UUID(int=1), None, uuid.UUID(int=2**128 - 1)]
TEXTS = ["00000000-0000-0000-0000-000000000001", None, "ffffffff-ffff-ffff-ffff-ffffffffffff"]


@pytest.mark.parametrize(
    ("column", "kind", "values", "bad"),
    [
        (pa.array(["a", None]).dictionary_encode(), pa.string(), ["a", None], {}),
        (pa.array(["a", None], pa.string_view()), pa.large_string(), ["a", None], {}),
        (pa.array(["a", None]), pa.dictionary(pa.int32(), pa.string()), ["a", None], {}),
        (pa.array(['{"a": 1}'], pa.json_()), pa.string(), ['{"a": 1}'], {}),
        (pa.array([2, None, 0], pa.int8()).cast(pa.bool8()), pa.bool_(), [True, None, False], {}),
        (pa.array(UUIDS, pa.uuid()), pa.string(), TEXTS, {}),
        (pa.array([b"abc", b"abcd"]), pa.binary(3), [b"abc", None], {1: "abcd"}),
        (pa.array([Decimal("1.50"), Decimal("1.55")]), pa.decimal128(5, 1), [Decimal("1.5"), None], {1: "1.55"}),
        (pa.array([1, 20_000]), pa.decimal128(5, 1), [Decimal("1.0"), None], {1: "20000"}),
        (
            pa.array([0, 86_401], pa.timestamp("s")),
            pa.date32(),
            [datetime.date(1970, 1, 1), None],
            {1: "1970-01-02 00:00:01"},
        ),
        (
            pa.array([{"b": 1, "a": "x", "new": None}, None, {"b": 300, "a": "y"}, {"b": 3, "new": 1}]),
            STRUCT,
            [
                {"a": "x", "b": 1, "later": None},
                None,
                {"a": "y", "b": None, "later": None},
                {"a": None, "b": 3, "later": None},
            ],
            {2: "300", 3: f"it has 'new', which {STRUCT} has no place for"},
        ),
        (pa.array([[1], None, [], [2, 300]]), pa.large_list(pa.int8()), [[1], None, [], [2, None]], {3: "300"}),
        (
            pa.array([[1, 2], None, [3], [4, 300]]),
            pa.list_(pa.int8(), 2),
            [[1, 2], None, None, [4, None]],
            {2: "a list of 1", 3: "300"},
        ),
        (pa.array([[1, 2], None], pa.list_(pa.int64(), 2)), pa.list_(pa.int8()), [[1, 2], None], {}),
        (
            pa.array([[(1, 1)], None, [(300, 1)]], pa.map_(pa.int64(), pa.int64())),
            pa.map_(pa.int8(), pa.int8()),
            [[(1, 1)], None, None],
            {2: "300"},
        ),
        (pa.nulls(2), STRUCT, [None, None], {}),
    ],
    ids=lambda value: str(getattr(value, "type", "")),
)
def test_types_that_are_one(column: pa.Array, kind: pa.DataType, values: list[Any], bad: dict[int, str]) -> None:
    assert unify(column.type, kind) is not None
    for part in (column, pa.concat_arrays([column, column]).slice(len(column))):
        found = cast_exactly(part, kind)
        found.column.validate(full=True)
        assert (found.column.type, found.column.to_pylist(), dict(found.bad)) == (kind, values, bad)


@pytest.mark.parametrize("zone", ["+00:00", "Etc/UTC", "Z", "etc/utc", "UTC", "GMT"])
def test_utc_has_many_names(zone: str) -> None:
    assert unify(pa.timestamp("ms", zone), pa.timestamp("us", "UTC")) == pa.timestamp("us", "UTC")
    berlin = pa.timestamp("ms", "Europe/Berlin")
    assert unify(berlin, berlin) == berlin
    assert unify(berlin, pa.timestamp("ms", zone)) == pa.timestamp("ms", "UTC"), "one instant, whatever the zone"
    assert unify(berlin, pa.timestamp("ms")) is None, "a local time is no instant"


@pytest.mark.parametrize(
    ("one", "other"),
    [
        (pa.string(), pa.int64()),
        (pa.string(), pa.binary()),
        (pa.bool_(), pa.int8()),
        (pa.float64(), pa.decimal128(9, 2)),
        (pa.decimal256(76, 0), pa.decimal256(76, 76)),
        (pa.struct({"a": pa.string()}), pa.struct({"a": pa.int8()})),
        (pa.list_(pa.string()), pa.string()),
    ],
)
def test_types_that_are_not_one(one: pa.DataType, other: pa.DataType) -> None:
    assert unify(one, other) is None


def test_what_is_yet_to_be_known_is_filled() -> None:
    unknown = pa.struct({"n": pa.null(), "of": pa.list_(pa.struct({"k": pa.null()}))})
    known = pa.struct({"of": pa.large_list(pa.struct({"k": pa.float64(), "x": pa.int8()})), "n": pa.large_string()})
    assert fill_nulls(unknown, known) == pa.struct({"n": pa.string(), "of": pa.list_(pa.struct({"k": pa.float64()}))})
    assert without_null(unknown) == pa.struct({"n": pa.string(), "of": pa.list_(pa.struct({"k": pa.string()}))})
    assert fill_nulls(pa.int8(), pa.int64()) == pa.int8()


def test_nan_is_no_value_where_values_are_no_numbers() -> None:
    """As a column without values is written."""
    found = cast_exactly(pa.array([None, float("nan"), 1.5]), pa.string())
    assert (found.column.to_pylist(), found.bad) == ([None, None, None], {2: "1.5"})


def test_uuids_as_texts() -> None:
    plain = pa.array([None if one is None else one.bytes for one in UUIDS], pa.binary(16))
    assert uuid_texts(plain).to_pylist() == TEXTS
    assert uuid_texts(plain.slice(2)).to_pylist() == TEXTS[2:]
    assert uuid_texts(plain.slice(0, 0)).to_pylist() == []
