"""Version 2 of the row hash: carried values in bytes of their own, a function of value and logical type alone.

Integers of any width, texts with offsets of any width, lists of any kind, times in any unit and, if they have a zone,
in any zone are the same if they mean the same. So are arrays that are stored otherwise: in dictionaries, in runs, in
chunks. The encoding is in `README.md`; it is injective, so that rows that differ have different bytes. Never change
what this module returns.
"""

from collections.abc import Iterator
from itertools import islice

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from sfr_batch.format.nested import counts_and_items, fields_of, plain, unscaled, whole_numbers

NULL = b"\x00"
_BOOLEAN, _INTEGER, _ABOVE_INT64, _FLOAT, _DECIMAL, _TEXT, _BYTES = (bytes([tag]) for tag in range(1, 8))
_DATE, _WALL_TIME, _INSTANT, _TIME_OF_DAY, _DURATION = (bytes([tag]) for tag in range(8, 13))
_LIST, _MAP, _STRUCT, _INTERVAL = (bytes([tag]) for tag in range(13, 17))

_A_SECOND = {"s": 1, "ms": 10**3, "us": 10**6, "ns": 10**9}
_A_DAY_IN_MS = 86_400_000


def encode_rows(columns: list[pa.Array]) -> list[bytes]:
    """[n] what version 2 hashes of each row, after its content hash."""
    return [b"".join(row) for row in zip(*map(encode, columns), strict=True)]


def encode(column: pa.Array) -> list[bytes]:
    """[n] each value of the column in bytes. Raises TypeError for a type that no Parquet file has."""
    column = plain(column)
    kind = column.type
    if isinstance(kind, pa.BaseExtensionType):
        return encode(column.storage)
    if pa.types.is_null(kind):
        return [NULL] * len(column)
    found = _encode_nested(column) if pa.types.is_nested(kind) else _encode_single(column)
    if not column.null_count:
        return found
    return [value if valid else NULL for value, valid in zip(found, column.is_valid().to_pylist(), strict=True)]


def _encode_nested(column: pa.Array) -> list[bytes]:
    if pa.types.is_struct(column.type):
        return _encode_structs(column)
    if pa.types.is_union(column.type):
        raise TypeError(f"{column.type} has no row hash")
    counts, items = counts_and_items(column)
    if pa.types.is_map(column.type):
        keys, values = (encode(part) for _, part in fields_of(items))
        return _grouped(_MAP, counts, map(b"".join, zip(keys, values, strict=True)))
    return _grouped(_LIST, counts, iter(encode(items)))


def _grouped(tag: bytes, counts: list[int | None], items: Iterator[bytes]) -> list[bytes]:
    return [tag + _length(count or 0) + b"".join(islice(items, count or 0)) for count in counts]


def _encode_structs(column: pa.Array) -> list[bytes]:
    """Fields in the order of their names, and only those that have a value: a field that came later changes nothing."""
    rows: list[list[bytes]] = [[] for _ in range(len(column))]
    for name, part in sorted(fields_of(column), key=lambda field: field[0].encode()):
        label = name.encode()
        label = _length(len(label)) + label
        for row, value in zip(rows, encode(part), strict=True):
            if value != NULL:
                row.append(label + value)
    return [_STRUCT + _length(len(row)) + b"".join(row) for row in rows]


def _encode_single(column: pa.Array) -> list[bytes]:
    """As `encode`, for types whose values have no parts; what stands in place of a null does not matter."""
    kind = column.type
    if pa.types.is_string(kind) or pa.types.is_binary(kind):
        tag = _TEXT if pa.types.is_string(kind) else _BYTES
        return [tag + _length(len(value or b"")) + (value or b"") for value in column.cast(pa.binary()).to_pylist()]
    if pa.types.is_decimal(kind):
        return [_decimal(value or 0, kind.scale) for value in unscaled(column)]
    if pa.types.is_interval(kind):
        return [_interval(*(value or (0, 0, 0))) for value in column.to_pylist()]
    if pa.types.is_boolean(kind):
        return _fixed(_BOOLEAN, column.cast(pa.uint8()).fill_null(0).to_numpy().astype("<u1"))
    if pa.types.is_floating(kind):
        numbers = column.cast(pa.float64()).fill_null(0.0).to_numpy().astype("<f8")
        numbers[np.isnan(numbers)] = np.nan  # there are many NaN
        return _fixed(_FLOAT, numbers)
    if pa.types.is_uint64(kind):
        large = column.fill_null(0).to_numpy()
        small = _fixed(_INTEGER, large.astype("<u8"))
        return [
            value if number < 2**63 else _ABOVE_INT64 + value[1:]
            for value, number in zip(small, large.tolist(), strict=True)
        ]
    if pa.types.is_integer(kind):
        return _fixed(_INTEGER, whole_numbers(column).astype("<i8"))
    if pa.types.is_temporal(kind):
        return _encode_times(column)
    raise TypeError(f"{kind} has no row hash")


def _encode_times(column: pa.Array) -> list[bytes]:
    kind, numbers = column.type, whole_numbers(column)
    if pa.types.is_date32(kind):
        return _fixed(_DATE, (numbers * _A_DAY_IN_MS).astype("<i8"))
    if pa.types.is_date64(kind):
        return _fixed(_DATE, numbers.astype("<i8"))
    a_second = _A_SECOND[kind.unit]
    if pa.types.is_time(kind):
        return _fixed(_TIME_OF_DAY, (numbers * (10**9 // a_second)).astype("<i8"))
    # In nanoseconds they would not fit into 64 bits.
    parts = np.zeros(len(numbers), [("seconds", "<i8"), ("nanoseconds", "<u4")])
    parts["seconds"] = numbers // a_second
    parts["nanoseconds"] = numbers % a_second * (10**9 // a_second)
    if pa.types.is_duration(kind):
        return _fixed(_DURATION, parts)
    return _fixed(_WALL_TIME if kind.tz is None else _INSTANT, parts)


def _fixed(tag: bytes, values: NDArray[np.generic]) -> list[bytes]:
    width, data = values.itemsize, np.ascontiguousarray(values).tobytes()
    return [tag + data[at : at + width] for at in range(0, len(data), width)]


def _length(count: int) -> bytes:
    return count.to_bytes(8, "little")


def _decimal(value: int, scale: int) -> bytes:
    """Digits and exponent, without zeros at the end: 1.50 is 1.5."""
    while value and value % 10 == 0:
        value, scale = value // 10, scale - 1
    text = f"{value}e{-scale if value else 0}".encode()
    return _DECIMAL + _length(len(text)) + text


def _interval(months: int, days: int, nanoseconds: int) -> bytes:
    return _INTERVAL + b"".join(
        part.to_bytes(size, "little", signed=True) for part, size in ((months, 4), (days, 4), (nanoseconds, 8))
    )
