"""Values by which rows of one id are ordered (`table.order_by`), in a form that Arrow sorts. Pure functions."""

from typing import Any

import pyarrow as pa
import pyarrow.compute as pc

_KINDS = (
    *(pa.types.is_integer, pa.types.is_floating, pa.types.is_decimal, pa.types.is_boolean),
    *(pa.types.is_string, pa.types.is_large_string, pa.types.is_date, pa.types.is_time, pa.types.is_timestamp),
    *(pa.types.is_binary, pa.types.is_large_binary, pa.types.is_fixed_size_binary, pa.types.is_duration),
    pa.types.is_null,
)


def _plain(kind: pa.DataType) -> pa.DataType:
    """The type of the values themselves, without an encoding or a meaning of an extension."""
    while True:
        if pa.types.is_dictionary(kind):
            kind = kind.value_type
        elif isinstance(kind, pa.BaseExtensionType):
            kind = kind.storage_type
        else:
            return kind


def has_order(kind: pa.DataType) -> bool:
    """Whether values of this type can be compared: numbers, texts, times and bytes can, lists and structs cannot.

    A column without any value yet has the type null.
    """
    return any(is_kind(_plain(kind)) for is_kind in _KINDS)


def comparable_values(values: pa.Array | pa.ChunkedArray, kind: pa.DataType) -> pa.Array:
    """[n] the same values in a type that Arrow sorts, NaN as null. Texts are in the order of their code points.

    kind: the type of their column in the table, which what was written before the first value lacks.
    """
    if isinstance(values, pa.ChunkedArray):
        values = pa.concat_arrays(values.chunks or [pa.nulls(0, values.type)])
    if pa.types.is_null(values.type):
        values = pa.nulls(len(values), pa.int8() if pa.types.is_null(kind) else kind)
    if isinstance(values, pa.ExtensionArray):
        values = values.storage
    kind = _plain(values.type)
    if pa.types.is_float16(kind):
        kind = pa.float32()
    if pa.types.is_boolean(kind):
        kind = pa.uint8()
    if not kind.equals(values.type):
        values = values.cast(kind)
    if pa.types.is_floating(kind):
        values = pc.if_else(pc.is_nan(values), pa.scalar(None, kind), values)
    return values


def sort_indices(columns: dict[str, Any]) -> pa.Array:
    """[n] the order of rows by these columns, of which the first counts most; nulls come first."""
    keys: dict[str, Any] = {}
    for name, column in zip(columns, pa.table(columns).columns, strict=True):
        if column.null_count:
            keys[f"{name} is there"] = pc.is_valid(column).cast(pa.uint8())
        keys[name] = column
    return pc.sort_indices(pa.table(keys), sort_keys=[(name, "ascending") for name in keys])
