"""Casts a column of a file to the type that the table has, exactly: a value that the type does not hold is found.

Arrow's own casts are used as far as they are exact, a whole array at a time. Where one fails, the array is halved until
the rows are found that do not fit; they become null, and are told. Where a cast of Arrow rounds or cuts without a word
(a float to a narrower one, a time of day to a date), the result is cast back and compared. Nested columns are taken
apart, for Arrow's casts of structs lose fields. Which types go with which is decided in `column_types`; knows no files.
"""

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.types as kinds
from numpy.typing import NDArray

from sfr_batch.corpus.column_types import extension_name, is_list

_EXACT = {pa.float16(): 2**11, pa.float32(): 2**24, pa.float64(): 2**53}
"""By float type, up to which number it holds all whole ones."""
_HEX = np.frombuffer(b"".join(b"%02x" % byte for byte in range(256)), np.uint8).reshape(256, 2)
_DASHES = (8, 13, 18, 23)
Rows = NDArray[np.int64]
"""Numbers of rows, ascending."""
_NO_ROWS = np.empty(0, np.int64)


class Cast(NamedTuple):
    """A column in the table's type."""

    column: pa.Array
    """[n] of the type; null where a value does not fit."""
    bad: Mapping[int, str] = {}
    """Rows whose value does not fit -> what does not."""


def cast_exactly(column: pa.Array, kind: pa.DataType) -> Cast:
    """``column`` [n] in the type ``kind`` of a table. Its type must be one that `column_types.unify` takes with it."""
    column = _stored(column, kind)
    if column.type.equals(kind):
        return Cast(column)
    if kinds.is_null(column.type):
        return Cast(pa.nulls(len(column), kind))
    if isinstance(kind, pa.BaseExtensionType):
        found = cast_exactly(column, kind.storage_type)
        return Cast(pa.ExtensionArray.from_storage(kind, found.column), found.bad)
    if kinds.is_dictionary(kind):  # of a table that was made when categories were a type of their own
        found = cast_exactly(column, kind.value_type)
        return Cast(found.column.cast(kind), found.bad)
    if kinds.is_struct(kind) and kinds.is_struct(column.type):
        return _cast_struct(column, kind)
    if is_list(kind) and is_list(column.type):
        return _cast_list(column, kind)
    if kinds.is_map(kind) and kinds.is_map(column.type):
        return _cast_map(column, kind)
    return _cast_plain(column, kind)


def uuid_texts(column: pa.Array) -> pa.Array:
    """UUIDs, as an extension or as 16 bytes, [n] as their canonical texts."""
    plain = column.storage if isinstance(column, pa.ExtensionArray) else column
    filled = plain.fill_null(bytes(16))
    stored = np.frombuffer(filled.buffers()[1], np.uint8)[16 * filled.offset : 16 * (filled.offset + len(filled))]
    digits = _HEX[stored.reshape(-1, 16)]
    texts = np.full((len(plain), 36), ord("-"), np.uint8)
    texts[:, [at for at in range(36) if at not in _DASHES]] = digits.reshape(-1, 32)
    offsets = np.arange(0, 36 * len(plain) + 1, 36, dtype=np.int32)
    made = pa.Array.from_buffers(pa.string(), len(plain), [None, pa.py_buffer(offsets), pa.py_buffer(texts)])
    return pc.if_else(plain.is_valid(), made, None) if plain.null_count else made


def without_extension(column: pa.Array) -> pa.Array:
    """What a column of an extension type is stored as; any other as it is."""
    return column.storage if isinstance(column, pa.ExtensionArray) else column


def _stored(column: pa.Array, kind: pa.DataType) -> pa.Array:
    """The column without extension types, dictionaries and run ends, unless the table has the same."""
    while not column.type.equals(kind):
        if extension_name(column.type) == "arrow.uuid" and kinds.is_string(kind):
            return uuid_texts(column)
        if extension_name(column.type) == "arrow.bool8" and kinds.is_boolean(kind):
            return pc.not_equal(column.storage, 0)
        if isinstance(column, pa.ExtensionArray):
            column = column.storage
        elif kinds.is_dictionary(column.type):
            column = column.dictionary_decode()
        elif kinds.is_run_end_encoded(column.type):
            column = pc.run_end_decode(column)
        else:
            return column
    return column


def _cast_plain(column: pa.Array, kind: pa.DataType) -> Cast:
    if kinds.is_integer(column.type) and kinds.is_decimal(kind):
        column = column.cast(pa.decimal128(20, 0))  # Arrow wants room for every integer in the decimal itself
    if kinds.is_integer(column.type) and kinds.is_floating(kind):
        bad = _not_exact_as_floats(column, kind)
    elif kinds.is_floating(column.type) and not kinds.is_floating(kind) and not kinds.is_integer(kind):
        # Not a number is how a column without values is spelled; of anything else these types have no values in common.
        column = pc.if_else(pc.is_nan(column), None, column)
        bad = np.flatnonzero(column.is_valid().to_numpy(zero_copy_only=False))
    else:
        bad = _find_bad(column, kind, 0)
    if not len(bad):
        return Cast(_cast(column, kind))
    why = {row: _shown(column, row) for row in bad.tolist()}
    return Cast(_cast(_without(column, list(why)), kind), why)


def _cast(column: pa.Array, kind: pa.DataType) -> pa.Array:
    """A cast that is known to be exact."""
    if column.null_count == len(column):
        return pa.nulls(len(column), kind)
    return column.cast(kind, safe=not (kinds.is_integer(column.type) and kinds.is_floating(kind)))


def _without(column: pa.Array, rows: Sequence[int]) -> pa.Array:
    """The column with null in these rows."""
    keep = np.ones(len(column), bool)
    keep[rows] = False
    return pc.if_else(pa.array(keep), column, pa.scalar(None, column.type))


def _find_bad(column: pa.Array, kind: pa.DataType, first: int) -> Rows:
    """The rows, counted from ``first``, whose cast fails or gives another value. The array is halved to find them."""
    if column.null_count == len(column):
        return _NO_ROWS
    try:
        made = column.cast(kind)
    except pa.ArrowException:
        if len(column) == 1:
            return np.array([first])
        half = len(column) // 2
        parts = (_find_bad(column.slice(0, half), kind, first), _find_bad(column.slice(half), kind, first + half))
        return np.concatenate(parts)
    if not _may_cut(column.type, kind):
        return _NO_ROWS
    same = pc.equal(made.cast(column.type, safe=False), column)
    if kinds.is_floating(kind):
        same = pc.or_kleene(same, pc.is_nan(column))
    return first + np.flatnonzero(~same.fill_null(True).to_numpy(zero_copy_only=False))


def _may_cut(kind: pa.DataType, to: pa.DataType) -> bool:
    """Whether Arrow's safe cast may give another value without an error."""
    narrower = kinds.is_floating(kind) and kinds.is_floating(to) and to.bit_width < kind.bit_width
    return bool(narrower or (kinds.is_date(to) and not kinds.is_date32(kind)))


def _not_exact_as_floats(column: pa.Array, kind: pa.DataType) -> Rows:
    """The rows of whole numbers that the float type does not hold."""
    numbers = column.cast(pa.decimal128(20, 0)) if kinds.is_uint64(column.type) else column.cast(pa.int64())
    most = _EXACT[kind]
    limits = (pa.scalar(limit).cast(numbers.type) for limit in (-most, most))
    low, high = limits
    outside = pc.or_(pc.less(numbers, low), pc.greater(numbers, high)).fill_null(False)
    rows = np.flatnonzero(outside.to_numpy(zero_copy_only=False))
    to = kind.to_pandas_dtype()
    with np.errstate(over="ignore"):
        return np.array([row for row in rows.tolist() if not _is_held(column[row].as_py(), to)], np.int64)


def _is_held(number: int, to: Any) -> bool:
    made = float(to(number))
    return np.isfinite(made) and int(made) == number


def _cast_struct(column: pa.Array, kind: pa.DataType) -> Cast:
    """By the names of the fields. A value in a field that the table has no place for does not fit."""
    known = {field.name: field.type for field in kind.fields}
    parts: dict[str, pa.Array] = {}
    bad: dict[int, str] = {}
    for number, field in enumerate(column.type.fields):
        part = pc.struct_field(column, [number])  # null where the struct is
        if field.name in known and field.name not in parts:
            parts[field.name], why = cast_exactly(part, known[field.name])
        else:
            lost = np.flatnonzero(part.is_valid().to_numpy(zero_copy_only=False))
            why = dict.fromkeys(lost.tolist(), f"it has {field.name!r}, which {kind} has no place for")
        bad = {**why, **bad}
    arrays = [parts[name] if name in parts else pa.nulls(len(column), known[name]) for name in known]
    if not arrays:
        return Cast(column, bad)
    return Cast(pa.StructArray.from_arrays(arrays, fields=list(kind.fields), mask=pc.is_null(column)), bad)


def _cast_list(column: pa.Array, kind: pa.DataType) -> Cast:
    if not (kinds.is_list(column.type) or kinds.is_large_list(column.type)):
        column = column.cast(pa.list_(column.type.value_type))
    lengths = _lengths(column)
    values = cast_exactly(column.flatten(), kind.value_type)
    bad = _of_parents(values.bad, lengths)
    if kinds.is_fixed_size_list(kind):
        other = np.flatnonzero((lengths != kind.list_size) & column.is_valid().to_numpy(zero_copy_only=False))
        bad = {**{row: f"a list of {lengths[row]}" for row in other.tolist()}, **bad}
        return Cast(_fixed(column, values.column, lengths, kind), bad)
    make, width = (pa.LargeListArray, pa.int64()) if kinds.is_large_list(kind) else (pa.ListArray, pa.int32())
    made = make.from_arrays(_offsets(lengths, width), values.column, type=kind, mask=pc.is_null(column))
    return Cast(made, bad)


def _lengths(column: pa.Array) -> Rows:
    """[n] the lengths of lists; of null 0."""
    lengths: Rows = pc.list_value_length(column).fill_null(0).to_numpy(zero_copy_only=False)
    return lengths


def _offsets(lengths: Rows, width: pa.DataType) -> pa.Array:
    return pa.array(np.concatenate([[0], np.cumsum(lengths)]), width)


def _of_parents(bad: Mapping[int, str], lengths: Rows) -> dict[int, str]:
    """The rows of lists, by those of their values."""
    parents = np.repeat(np.arange(len(lengths)), lengths) if bad else lengths
    return {int(parents[row]): why for row, why in reversed(list(bad.items()))}


def _fixed(column: pa.Array, values: pa.Array, lengths: NDArray[Any], kind: pa.DataType) -> pa.Array:
    """Lists of one length; null where a list is of another length."""
    size = kind.list_size
    fits = (lengths == size) & column.is_valid().to_numpy(zero_copy_only=False)
    at = np.cumsum(lengths) - lengths  # [n] where each list begins among the values
    places = (at[:, None] + np.arange(size)).ravel()
    absent = ~np.repeat(fits, size)
    taken = values.take(pa.array(np.where(absent, 0, places), pa.int64(), mask=absent))
    return pa.FixedSizeListArray.from_arrays(taken, type=kind, mask=pa.array(~fits))


def _cast_map(column: pa.Array, kind: pa.DataType) -> Cast:
    return _map_of(
        column.cast(pa.list_(pa.struct([("key", column.type.key_type), ("value", column.type.item_type)]))), kind
    )


def _map_of(entries: pa.ListArray, kind: pa.DataType) -> Cast:
    lengths, flat = _lengths(entries), entries.flatten()
    keys = cast_exactly(pc.struct_field(flat, [0]), kind.key_type)
    items = cast_exactly(pc.struct_field(flat, [1]), kind.item_type)
    bad = _of_parents({**items.bad, **keys.bad}, lengths)
    if keys.bad:  # a map has no null keys, not even in a row that is rejected
        return _map_of(_without(entries, list(bad)), kind)._replace(bad=bad)
    offsets = _offsets(lengths, pa.int32())
    made = pa.MapArray.from_arrays(offsets, keys.column, items.column, type=kind, mask=pc.is_null(entries))
    return Cast(made, bad)


def _shown(column: pa.Array, row: int) -> str:
    """A value, for a message. Arrow prints times, too, that Python has no type for."""
    try:
        text = str(column.slice(row, 1).cast(pa.string())[0])
    except (pa.ArrowException, ValueError):
        text = repr(column[row].as_py())
    return text if len(text) <= 80 else f"{text[:80]}…"
