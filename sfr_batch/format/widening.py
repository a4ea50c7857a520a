"""Which types hold every value of another, and the cast from one to the other, which then loses nothing.

A data file keeps the types that it was written with; a snapshot may have wider ones. Decided by types alone, so that no
value has to be looked at. Pure functions; knows no files.
"""

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.types as kinds

_FLOATS = {pa.float16(): 11, pa.float32(): 24, pa.float64(): 53}
"""Float types, with the bits of the whole numbers that each holds without a gap."""
_DIGITS = {8: 3, 16: 5, 32: 10, 64: 20}
"""Decimal digits of an integer, by its bits."""
_UNITS = ("s", "ms", "us", "ns")


def holds(kind: pa.DataType, other: pa.DataType) -> bool:
    """Whether the type ``kind`` holds every value of the type ``other``."""
    if kind.equals(other) or kinds.is_null(other):
        return True
    if kinds.is_dictionary(other):
        return holds(kind, other.value_type)
    if kinds.is_dictionary(kind):
        return holds(kind.value_type, other)
    if kinds.is_struct(kind) and kinds.is_struct(other):
        return _holds_fields(kind, other)
    if kinds.is_map(kind) and kinds.is_map(other):
        return holds(kind.key_type, other.key_type) and holds(kind.item_type, other.item_type)
    if _is_list(kind) and _is_list(other):
        sizes = getattr(kind, "list_size", None), getattr(other, "list_size", None)
        return sizes[0] in (None, sizes[1]) and holds(kind.value_type, other.value_type)
    if kinds.is_integer(other):
        return _holds_whole_numbers(kind, other)
    if kinds.is_floating(other):
        return kinds.is_floating(kind) and bool(kind.bit_width >= other.bit_width)
    if kinds.is_decimal(kind) and kinds.is_decimal(other):
        return bool(kind.scale >= other.scale and kind.precision - kind.scale >= other.precision - other.scale)
    return _holds_bytes_or_times(kind, other)


def _is_list(kind: pa.DataType) -> bool:
    return bool(kinds.is_list(kind) or kinds.is_large_list(kind) or kinds.is_fixed_size_list(kind))


def _holds_fields(kind: pa.DataType, other: pa.DataType) -> bool:
    there = {field.name: field.type for field in kind.fields}
    unique = len(there) == kind.num_fields and len({field.name for field in other.fields}) == other.num_fields
    return unique and all(field.name in there and holds(there[field.name], field.type) for field in other.fields)


def _holds_whole_numbers(kind: pa.DataType, other: pa.DataType) -> bool:
    signed = kinds.is_signed_integer(other)
    bits = other.bit_width - int(signed)
    if kinds.is_integer(kind):
        room = kind.bit_width - int(kinds.is_signed_integer(kind))
        return bool(room >= bits and (kinds.is_signed_integer(kind) or not signed))
    if kinds.is_floating(kind):
        return bool(_FLOATS[kind] >= bits)
    return kinds.is_decimal(kind) and bool(kind.precision - kind.scale >= _DIGITS[other.bit_width])


def _holds_bytes_or_times(kind: pa.DataType, other: pa.DataType) -> bool:
    if kinds.is_binary(kind) or kinds.is_large_binary(kind):
        return bool(kinds.is_fixed_size_binary(other) or kinds.is_binary(other))
    if kinds.is_large_string(kind):
        return bool(kinds.is_string(other))
    if kinds.is_time(kind) and kinds.is_time(other):
        return _UNITS.index(kind.unit) >= _UNITS.index(other.unit)
    if kinds.is_timestamp(kind) and kinds.is_timestamp(other):
        # A finer unit reaches less far: the year 9999, which often means "never", does not exist in nanoseconds.
        return bool(kind.unit == other.unit and (kind.tz is None) == (other.tz is None))
    return bool(kinds.is_date32(other) and kinds.is_timestamp(kind) and kind.tz is None and kind.unit in ("s", "ms"))


def widened(column: pa.Array, kind: pa.DataType) -> pa.Array:
    """The column in the type ``kind``, which `holds` its own."""
    have = column.type
    if have.equals(kind):
        return column
    if kinds.is_null(have):
        return pa.nulls(len(column), kind)
    if kinds.is_dictionary(have):
        return widened(column.dictionary_decode(), kind)
    if kinds.is_dictionary(kind):
        return widened(column, kind.value_type).dictionary_encode().cast(kind)
    if kinds.is_struct(kind):
        return _structs(column, kind)
    if kinds.is_map(kind):
        entries = column.cast(pa.list_(pa.struct([("key", have.key_type), ("value", have.item_type)])))
        flat = entries.flatten()
        keys, items = (widened(pc.struct_field(flat, [at]), to) for at, to in ((0, kind.key_type), (1, kind.item_type)))
        return pa.MapArray.from_arrays(_offsets(entries, pa.int32()), keys, items, type=kind, mask=pc.is_null(column))
    if kinds.is_fixed_size_list(kind):
        # Nulls have values, too, which `flatten` leaves out.
        own = column.values.slice(column.offset * kind.list_size, len(column) * kind.list_size)
        return pa.FixedSizeListArray.from_arrays(widened(own, kind.value_type), type=kind, mask=pc.is_null(column))
    if _is_list(kind):
        make, width = (pa.LargeListArray, pa.int64()) if kinds.is_large_list(kind) else (pa.ListArray, pa.int32())
        values = widened(column.flatten(), kind.value_type)
        return make.from_arrays(_offsets(column, width), values, type=kind, mask=pc.is_null(column))
    if kinds.is_integer(have) and kinds.is_decimal(kind):
        column = column.cast(pa.decimal128(20, 0))  # Arrow wants room for every integer in the decimal itself
    return column.cast(kind)


def _offsets(lists: pa.Array, width: pa.DataType) -> pa.Array:
    lengths = pc.list_value_length(lists).fill_null(0).cast(pa.int64())
    return pa.concat_arrays([pa.array([0], pa.int64()), pc.cumulative_sum(lengths)]).cast(width)


def _structs(column: pa.Array, kind: pa.DataType) -> pa.Array:
    """By the names of the fields, since Arrow's own cast loses some."""
    have = {field.name: number for number, field in enumerate(column.type.fields)}
    parts = [
        widened(pc.struct_field(column, [have[field.name]]), field.type)
        if field.name in have
        else pa.nulls(len(column), field.type)
        for field in kind.fields
    ]
    if not parts:
        return column
    return pa.StructArray.from_arrays(parts, fields=list(kind.fields), mask=pc.is_null(column))
