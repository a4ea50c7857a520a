"""One rule for types: which Arrow types are one type to a user, and which type holds the values of two.

Files of one corpus are written by many programs, each with its own spelling of a type. `table_type` gives the spelling
that a table has, `unify` the type that two columns have together:

    text                  string, however it is laid out: large, view, dictionary (a category), an extension over text
    bytes                 binary likewise; of one fixed size while all are
    whole numbers         the narrowest integer that holds both; int64 with uint64 is int64
    fractions             the wider float; with whole numbers the narrowest that holds their whole range, else float64
    decimals              enough digits on both sides of the point, up to 76; with whole numbers likewise
    timestamps            the finer unit. UTC, Etc/UTC, Z, +00:00 are UTC; of two other zones UTC. Without a zone it is
                          another type: local time is no instant
    dates, times          date32; the finer unit. Date with a timestamp without a zone: the timestamp
    lists                 a list of what both have; of one fixed size while all are. Nullable or not is not asked
    structs               all fields of both, by name, in the order of the first; maps: keys and values
    null                  anything: a column without a value decides nothing

Any other two are different types. A value that the type does not hold exactly is no reason against a type: the row is
rejected when it is read, see `casting`. Pure functions; knows no files and no values.
"""

from collections.abc import Callable

import pyarrow as pa
import pyarrow.types as kinds

from sfr_batch.format.schemas import has_null

_UTC = frozenset(
    {
        *("utc", "etc/utc", "z", "zulu", "etc/zulu", "uct", "etc/uct", "universal", "etc/universal", "greenwich"),
        *("gmt", "etc/gmt", "gmt0", "etc/gmt0", "etc/greenwich", "+00:00", "-00:00", "+0000", "+00", "utc+00:00"),
    }
)
"""Spellings of UTC by Spark, pandas, Polars, DuckDB, Java and others. Those of GMT have never had another offset."""
_UNITS = ("s", "ms", "us", "ns")
_FLOATS = ((pa.float16(), 11), (pa.float32(), 24), (pa.float64(), 53))
"""Float types, with the bits of the whole numbers that each holds without a gap."""
_DIGITS = {8: 3, 16: 5, 32: 10, 64: 20}
"""Decimal digits of an integer, by its bits; the signed one of 64 bits has 19."""
_BOOL8 = "arrow.bool8"
_UUID = "arrow.uuid"


def is_text(kind: pa.DataType) -> bool:
    """Whether the values are texts."""
    return bool(kinds.is_string(table_type(kind)))


def is_bytes(kind: pa.DataType) -> bool:
    """Whether the values are bytes of any length, as some engines write texts, see `rejects.as_text`."""
    kind = kind.value_type if kinds.is_dictionary(kind) else kind
    return bool(kinds.is_binary(kind) or kinds.is_large_binary(kind) or kinds.is_binary_view(kind))


def is_uuid(kind: pa.DataType) -> bool:
    """Whether the values are UUIDs, or may be: 16 bytes."""
    return extension_name(kind) == _UUID or kind == pa.binary(16)


def extension_name(kind: pa.DataType) -> str:
    """The name of an extension type, "" for any other."""
    return str(getattr(kind, "extension_name", ""))


def stored_type(kind: pa.DataType) -> pa.DataType:
    """What an extension type, a dictionary or a run-end encoding is made of; any other type as it is."""
    while True:
        if isinstance(kind, pa.BaseExtensionType):
            kind = kind.storage_type
        elif kinds.is_dictionary(kind) or kinds.is_run_end_encoded(kind):
            kind = kind.value_type
        else:
            return kind


def table_type(kind: pa.DataType) -> pa.DataType:
    """The spelling of a type that a table has: how it is laid out in memory is left out, at whatever depth."""
    if extension_name(kind) == _BOOL8:
        return pa.bool_()
    if extension_name(kind) == _UUID:
        return kind
    kind = stored_type(kind)
    if extension_name(kind):
        return table_type(kind)
    if kinds.is_large_string(kind) or kinds.is_string_view(kind):
        return pa.string()
    if kinds.is_large_binary(kind) or kinds.is_binary_view(kind):
        return pa.binary()
    if kinds.is_date64(kind):
        return pa.date32()
    if kinds.is_timestamp(kind):
        return pa.timestamp(kind.unit, "UTC" if is_utc(kind.tz) else kind.tz)
    if kinds.is_decimal(kind):
        return _decimal(kind.precision, kind.scale)
    if kinds.is_fixed_size_list(kind):
        return pa.list_(pa.field("element", table_type(kind.value_type)), kind.list_size)
    if is_list(kind):
        return pa.list_(pa.field("element", table_type(kind.value_type)))
    if kinds.is_struct(kind):  # without a field it is an object that has shown no key yet; Parquet has no such type
        fields = [pa.field(field.name, table_type(field.type)) for field in kind.fields]
        return pa.struct(fields) if fields else pa.null()
    if kinds.is_map(kind):
        return pa.map_(table_type(kind.key_type), table_type(kind.item_type))
    return kind


def is_utc(zone: str | None) -> bool:
    """Whether a time zone is a spelling of UTC."""
    return zone is not None and zone.casefold() in _UTC


def is_list(kind: pa.DataType) -> bool:
    """Whether the values are lists, of whatever layout."""
    return bool(
        kinds.is_list(kind)
        or kinds.is_large_list(kind)
        or kinds.is_fixed_size_list(kind)
        or kinds.is_list_view(kind)
        or kinds.is_large_list_view(kind)
    )


def unify(one: pa.DataType, other: pa.DataType) -> pa.DataType | None:
    """The type in the table of two columns together; None if they are of different types to a user."""
    one, other = table_type(one), table_type(other)
    if kinds.is_null(one) or kinds.is_null(other):
        return other if kinds.is_null(one) else one
    if one.equals(other):
        return one
    for applies, merge in _RULES:
        if applies(one) and applies(other):
            return merge(one, other)
    for first, second in ((one, other), (other, one)):
        if kinds.is_integer(first) and kinds.is_decimal(second):
            digits = 19 if first == pa.int64() else _DIGITS[first.bit_width]
            return _decimals(pa.decimal128(digits, 0), second)
        if kinds.is_date32(first) and kinds.is_timestamp(second) and second.tz is None:
            return second
        if extension_name(first) == _UUID and kinds.is_string(second):
            return second
        if extension_name(first) == _UUID and _is_bytes(second):
            return _bytes(pa.binary(16), second)
    return None


def fill_nulls(kind: pa.DataType, other: pa.DataType) -> pa.DataType:
    """The type with each null in it, at whatever depth, replaced by what ``other`` has in that place."""
    if kinds.is_null(kind):
        return table_type(other)
    if not has_null(kind):
        return kind
    if kinds.is_struct(kind) and kinds.is_struct(other):
        there = {field.name: field.type for field in other.fields}
        return pa.struct(
            [(field.name, fill_nulls(field.type, there.get(field.name, pa.null()))) for field in kind.fields]
        )
    if kinds.is_map(kind) and kinds.is_map(other):
        return pa.map_(fill_nulls(kind.key_type, other.key_type), fill_nulls(kind.item_type, other.item_type))
    if is_list(kind) and is_list(other):
        field = pa.field("element", fill_nulls(kind.value_type, other.value_type))
        return pa.list_(field, kind.list_size) if kinds.is_fixed_size_list(kind) else pa.list_(field)
    return kind


def without_null(kind: pa.DataType) -> pa.DataType:
    """The type with string for each null in it."""
    return fill_nulls(kind, _as_string(kind)) if has_null(kind) else kind


def _as_string(kind: pa.DataType) -> pa.DataType:
    if kinds.is_null(kind):
        return pa.string()
    if kinds.is_struct(kind):
        return pa.struct([(field.name, _as_string(field.type)) for field in kind.fields])
    if kinds.is_map(kind):
        return pa.map_(_as_string(kind.key_type), _as_string(kind.item_type))
    return pa.list_(_as_string(kind.value_type)) if is_list(kind) else kind


def _is_bytes(kind: pa.DataType) -> bool:
    return bool(kinds.is_binary(kind) or kinds.is_fixed_size_binary(kind))


def _bytes(one: pa.DataType, other: pa.DataType) -> pa.DataType:
    return one if one.equals(other) else pa.binary()


def _is_number(kind: pa.DataType) -> bool:
    return bool(kinds.is_integer(kind) or kinds.is_floating(kind))


def _numbers(one: pa.DataType, other: pa.DataType) -> pa.DataType:
    if kinds.is_floating(one) or kinds.is_floating(other):
        bits = max(_whole_bits(one), _whole_bits(other))
        return next((kind for kind, held in _FLOATS if held >= bits), pa.float64())
    signed = kinds.is_signed_integer(one), kinds.is_signed_integer(other)
    if signed[0] == signed[1]:
        return one if one.bit_width > other.bit_width else other
    # A signed type that holds an unsigned one has twice its bits.
    bits = max(kind.bit_width * (1 if is_signed else 2) for kind, is_signed in zip((one, other), signed, strict=True))
    return {16: pa.int16(), 32: pa.int32()}.get(bits, pa.int64())


def _whole_bits(kind: pa.DataType) -> int:
    """Bits of the whole numbers of a type that have no gap."""
    if kinds.is_floating(kind):
        return next(held for other, held in _FLOATS if other == kind)
    return int(kind.bit_width) - int(kinds.is_signed_integer(kind))


def _decimal(precision: int, scale: int) -> pa.DataType:
    return pa.decimal128(precision, scale) if precision <= 38 else pa.decimal256(precision, scale)


def _decimals(one: pa.DataType, other: pa.DataType) -> pa.DataType | None:
    scale = max(one.scale, other.scale)
    precision = scale + max(one.precision - one.scale, other.precision - other.scale)
    return _decimal(precision, scale) if precision <= 76 else None


def _finer(one: pa.DataType, other: pa.DataType) -> str:
    return _UNITS[max(map(_UNITS.index, (one.unit, other.unit)))]


def _timestamps(one: pa.DataType, other: pa.DataType) -> pa.DataType | None:
    if (one.tz is None) != (other.tz is None):
        return None
    return pa.timestamp(_finer(one, other), one.tz if one.tz == other.tz else "UTC")


def _times(one: pa.DataType, other: pa.DataType) -> pa.DataType:
    unit = _finer(one, other)
    return pa.time32(unit) if unit in ("s", "ms") else pa.time64(unit)


def _lists(one: pa.DataType, other: pa.DataType) -> pa.DataType | None:
    element = unify(one.value_type, other.value_type)
    if element is None:
        return None
    field = pa.field("element", element)
    fixed = kinds.is_fixed_size_list(one) and kinds.is_fixed_size_list(other) and one.list_size == other.list_size
    return pa.list_(field, one.list_size) if fixed else pa.list_(field)


def _structs(one: pa.DataType, other: pa.DataType) -> pa.DataType | None:
    found = {field.name: field.type for field in one.fields}
    if len(found) < one.num_fields or len({field.name for field in other.fields}) < other.num_fields:
        return None  # two fields of one name
    for field in other.fields:
        kind = unify(found.get(field.name, pa.null()), field.type)
        if kind is None:
            return None
        found[field.name] = kind
    return pa.struct(list(found.items()))


def _maps(one: pa.DataType, other: pa.DataType) -> pa.DataType | None:
    key, item = unify(one.key_type, other.key_type), unify(one.item_type, other.item_type)
    return None if key is None or item is None else pa.map_(key, item)


_RULES: tuple[tuple[Callable[[pa.DataType], bool], Callable[[pa.DataType, pa.DataType], pa.DataType | None]], ...] = (
    (_is_number, _numbers),
    (kinds.is_decimal, _decimals),
    (_is_bytes, _bytes),
    (kinds.is_timestamp, _timestamps),
    (kinds.is_time, _times),
    (kinds.is_duration, lambda one, other: pa.duration(_finer(one, other))),
    (is_list, _lists),
    (kinds.is_struct, _structs),
    (kinds.is_map, _maps),
)
"""What holds of both types, and how they are unified."""
