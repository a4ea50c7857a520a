"""Values of every type that a table can carry, as JSON has them and as Python has them.

JSON: numbers, booleans, texts, lists and structs as such. What JSON lacks is text, and none of it is rounded:

    decimal       "1.50"                           NaN, infinite   "NaN", "Infinity", "-Infinity"
    date, time    ISO 8601, also beyond year 9999  timestamp       ISO 8601; with a zone as UTC, +00:00
    duration      "PT1.5S", seconds                bytes           base64
    UUID          its usual text                   map             a list of [key, value]

Pure functions on Arrow arrays; know no tables.
"""

import base64
import contextlib
import json
import math
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import pyarrow as pa

from sfr_batch.format import names

_UNITS = {"s": 0, "ms": 3, "us": 6, "ns": 9}
"""Unit of a time -> its number of decimal digits of a second."""

_BYTES = (pa.types.is_binary, pa.types.is_large_binary, pa.types.is_fixed_size_binary, pa.types.is_binary_view)


def json_values(values: pa.Array | pa.ChunkedArray) -> list[Any]:
    """[n] the values, ready for `json.dumps` with ``allow_nan=False``."""
    if isinstance(values, pa.ChunkedArray):
        return [value for chunk in values.chunks for value in json_values(chunk)]
    kind, types = values.type, pa.types
    if isinstance(kind, pa.BaseExtensionType):
        return _each(values, str) if kind == pa.uuid() else json_values(values.storage)
    if types.is_dictionary(kind):
        return json_values(values.dictionary_decode())
    if types.is_struct(kind):
        return _structs(values)
    if types.is_map(kind):
        whole = values.take(pa.array(np.arange(len(values))))  # keys and items ignore that an array is a slice
        pairs = zip(json_values(whole.keys), json_values(whole.items), strict=True)
        return _lists(values, iter([list(pair) for pair in pairs]), np.diff(whole.offsets.to_numpy()))
    if types.is_fixed_size_list(kind):
        return _lists(values, iter(json_values(values.flatten())), [kind.list_size] * len(values))
    if types.is_nested(kind):
        lengths = [0 if n is None else n for n in values.value_lengths().to_pylist()]
        return _lists(values, iter(json_values(values.flatten())), lengths)
    return _plain(values)


def text_of(value: Any) -> str | None:
    """A value of `json_values` as a text: JSON, but a text as it is."""
    return value if value is None or isinstance(value, str) else json.dumps(value, ensure_ascii=False, allow_nan=False)


def rows_as_json(rows: pa.RecordBatch) -> Iterator[dict[str, Any]]:
    """The rows as objects, ready for `json.dumps`. The table's own hashes are hexadecimal, as in its messages."""
    columns = {}
    for name, values in zip(rows.schema.names, rows.columns, strict=True):
        own = name in (names.CONTENT_HASH, names.ROW_HASH) and pa.types.is_fixed_size_binary(values.type)
        columns[name] = _each(values, bytes.hex) if own else json_values(values)
    return (dict(zip(columns, row, strict=True)) for row in zip(*columns.values(), strict=True))


def python_value(values: pa.Array) -> Any:
    """The one value of ``values`` as a Python object; as JSON has it if Python cannot hold it.

    These are dates beyond the years 1 to 9999, times with nanoseconds (`datetime.time` would lose them without a word),
    and timestamps with nanoseconds where pandas is missing.
    """
    if not _has_nanoseconds(values.type):
        with contextlib.suppress(OverflowError, ValueError):
            return values[0].as_py()
    return json_values(values)[0]


def _has_nanoseconds(kind: pa.DataType) -> bool:
    """Whether there is a time of day in nanoseconds in the type, at whatever depth."""
    inside = [kind.field(number).type for number in range(kind.num_fields)]
    return bool(kind == pa.time64("ns")) or any(map(_has_nanoseconds, inside))


def _structs(values: pa.Array) -> list[Any]:
    keys = [field.name for field in values.type]
    # `flatten`, for a field below a null struct is null, whatever lies there.
    rows: Any = zip(*map(json_values, values.flatten()), strict=True) if keys else ((),) * len(values)
    unique = len(set(keys)) == len(keys)
    made: Callable[[Any], Any] = dict if unique else lambda pairs: [list(pair) for pair in pairs]
    valid = values.is_valid().to_pylist()
    return [made(zip(keys, row, strict=True)) if there else None for row, there in zip(rows, valid, strict=True)]


def _lists(values: pa.Array, items: Iterator[Any], lengths: Any) -> list[Any]:
    valid = values.is_valid().to_pylist()
    return [
        [next(items) for _ in range(length)] if there else None for length, there in zip(lengths, valid, strict=True)
    ]


def _plain(values: pa.Array) -> list[Any]:
    """Values of a type that is not nested."""
    kind, types = values.type, pa.types
    if types.is_floating(kind):
        return _each(values, _number)
    if types.is_decimal(kind):
        return _each(values, lambda value: format(value, "f"))
    if any(is_bytes(kind) for is_bytes in _BYTES):
        return _each(values, lambda value: base64.b64encode(value).decode())
    if types.is_timestamp(kind) or types.is_date(kind):
        return _moments(values)
    if types.is_time(kind):
        return _each(values.cast(pa.string()), _without_zeros)
    if types.is_duration(kind):
        return _each(values.cast(pa.int64()), lambda value: _seconds(value, _UNITS[kind.unit]))
    plain: list[Any] = values.to_pylist()
    return plain


def _each(values: pa.Array, convert: Callable[[Any], Any]) -> list[Any]:
    return [None if value is None else convert(value) for value in values.to_pylist()]


def _number(value: Any) -> float | str:
    number = float(value)
    if math.isfinite(number):
        return number
    return "NaN" if math.isnan(number) else "Infinity" if number > 0 else "-Infinity"


def _moments(values: pa.Array) -> list[str | None]:
    """Dates and timestamps by NumPy's calendar, which has all years that 64 bits can count; Python's has 9,999."""
    kind = values.type
    unit = kind.unit if pa.types.is_timestamp(kind) else "D" if kind == pa.date32() else "ms"
    counts = values.cast(pa.int32() if unit == "D" else pa.int64())
    numbers = counts.fill_null(0).to_numpy(zero_copy_only=False).astype(np.int64).view(f"M8[{unit}]")
    texts = np.datetime_as_string(numbers.astype("M8[D]") if pa.types.is_date(kind) else numbers).tolist()
    zone = "+00:00" if pa.types.is_timestamp(kind) and kind.tz is not None else ""
    valid = values.is_valid().to_pylist()
    return [_without_zeros(text) + zone if there else None for text, there in zip(texts, valid, strict=True)]


def _without_zeros(text: str) -> str:
    """A time without zeros at its end, so that one moment is one text, whatever the unit of its column."""
    return text.rstrip("0").rstrip(".") if "." in text else text


def _seconds(value: int, digits: int) -> str:
    """A number of units as an ISO 8601 duration."""
    text = str(abs(value)).rjust(digits + 1, "0")
    whole, fraction = text[: len(text) - digits], text[len(text) - digits :].rstrip("0")
    return f"{'-' if value < 0 else ''}PT{whole}{'.' if fraction else ''}{fraction}S"
