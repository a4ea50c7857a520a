"""What other engines take: for each, the types and names that it lacks and what can stand for them without loss.

To add an engine, add a line to `ENGINES` and its name to `choices`. To add a type that engines lack, add a line to
`_replacement`. Values are never changed: a conversion that would lose a part of one raises. Knows Arrow types and
arrays; no tables, no files.
"""

import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass

import numpy as np
import pyarrow as pa

from sfr_batch.table.engine_names import lower_ascii
from sfr_batch.table.json_values import json_values, text_of

DIGITS = 38
"""Of the decimals of most engines."""
_WORD = r"[^A-Za-z0-9_]"


@dataclass(frozen=True)
class Engine:
    """What an engine reads as it is. Who is not named in ``keeps`` gets what `_replacement` says."""

    label: str
    """In messages: who lacks something."""
    keeps: frozenset[str] = frozenset()
    """Of nanoseconds, time, uuid, unsigned, half (float16), bytes (of a fixed size), dictionary (of texts) and decimal
    (of more than 38 digits)."""
    name: str = r"\."
    """What a name cannot contain, as a regular expression; each becomes an underscore."""
    fold: Callable[[str], str] = str.lower
    """What it makes of names before it compares them."""


_ARROW = frozenset({"nanoseconds", "time", "unsigned", "half", "bytes", "dictionary"})
ENGINES = {
    "any": Engine("some engines"),
    "spark": Engine("Spark", name=r"[ ,;{}()\n\t=.]"),
    "trino": Engine("Trino", name=_WORD),
    "hive": Engine("Hive", name=_WORD),
    "athena": Engine("Athena", name=_WORD),
    "bigquery": Engine("BigQuery", frozenset({"time"}), name=_WORD),
    "duckdb": Engine("DuckDB", frozenset({"nanoseconds", "time", "uuid", "unsigned", "bytes"}), "(?!)", lower_ascii),
    "polars": Engine("Polars", _ARROW, "(?!)", str),
    "lancedb": Engine("LanceDB", _ARROW | {"decimal"}, fold=str),
}
"""By the name of `--for`. The option "arrow" is not among them: it changes nothing."""


def target_type(kind: pa.DataType, engine: Engine) -> pa.DataType:
    """The type that ``engine`` reads the values of ``kind`` as."""
    types = pa.types
    if types.is_dictionary(kind):
        inner = target_type(kind.value_type, engine)
        plain_text = types.is_string(kind.value_type) or types.is_large_string(kind.value_type)
        return kind if "dictionary" in engine.keeps and plain_text else inner
    if types.is_struct(kind):
        return pa.struct([_field(field, engine).with_name(engine_name(field.name, engine)) for field in kind])
    if types.is_map(kind):
        return pa.map_(_field(kind.key_field, engine), _field(kind.item_field, engine))
    if types.is_fixed_size_list(kind):
        return pa.list_(_field(kind.value_field, engine), kind.list_size)
    if types.is_large_list(kind):
        return pa.large_list(_field(kind.value_field, engine))
    if types.is_nested(kind):
        return pa.list_(_field(kind.value_field, engine))
    return _replacement(kind, engine.keeps)


def _field(field: pa.Field, engine: Engine) -> pa.Field:
    return field.with_type(target_type(field.type, engine))


def _replacement(kind: pa.DataType, keeps: frozenset[str]) -> pa.DataType:
    """What stands for a type that is not nested."""
    types = pa.types
    if isinstance(kind, pa.BaseExtensionType):
        if kind == pa.uuid():
            return kind if "uuid" in keeps else pa.string()
        return _replacement(kind.storage_type, keeps)
    if types.is_timestamp(kind) and kind.unit in ("s", "ns"):
        # Parquet has no seconds.
        unit = "ms" if kind.unit == "s" else "ns" if "nanoseconds" in keeps else "us"
        return pa.timestamp(unit, kind.tz)
    if types.is_time(kind):
        too_fine = kind == pa.time64("ns") and "nanoseconds" not in keeps
        return pa.string() if "time" not in keeps or too_fine else kind
    if types.is_decimal(kind):
        if kind.precision > DIGITS and "decimal" in keeps:
            return kind
        return pa.decimal128(min(kind.precision, DIGITS), min(kind.scale, DIGITS))
    replaced = {
        pa.null(): pa.string(),
        pa.date64(): pa.date32(),
        pa.string_view(): pa.string(),
        pa.binary_view(): pa.binary(),
        **({} if "half" in keeps else {pa.float16(): pa.float32()}),
        **({} if "unsigned" in keeps else _SIGNED),
    }
    if types.is_fixed_size_binary(kind) and "bytes" not in keeps:
        return pa.binary()
    return replaced.get(kind, kind)


_SIGNED = {
    pa.uint8(): pa.int16(),
    pa.uint16(): pa.int32(),
    pa.uint32(): pa.int64(),
    pa.uint64(): pa.decimal128(20, 0),
}


def engine_name(name: str, engine: Engine) -> str:
    """The name of a column or field as the engine can have it."""
    made = re.sub(engine.name, "_", name)
    return f"_{made}" if engine.name == _WORD and made[:1].isdigit() else made


def may_lose(kind: pa.DataType, target: pa.DataType) -> bool:
    """Whether there are values of the type that the target cannot hold, so that values have to be looked at."""
    return any(
        source != aim
        and (
            (pa.types.is_timestamp(source) and source.unit == "ns")
            or (pa.types.is_decimal(source) and source.precision > DIGITS)
        )
        for source, aim in _leaves(kind, target)
    )


def _leaves(kind: pa.DataType, target: pa.DataType) -> Iterator[tuple[pa.DataType, pa.DataType]]:
    """The types that are not nested, with what stands for them."""
    if pa.types.is_dictionary(kind) and not pa.types.is_dictionary(target):
        yield from _leaves(kind.value_type, target)
    elif kind.num_fields and kind.num_fields == target.num_fields:
        for number in range(kind.num_fields):
            yield from _leaves(kind.field(number).type, target.field(number).type)
    else:
        yield kind, target


def longest_decimal(kind: pa.DataType) -> int:
    """The largest number of digits of the decimals in a type, at whatever depth; 0 if it has none."""
    if pa.types.is_decimal(kind):
        return int(kind.precision)
    return max((longest_decimal(kind.field(number).type) for number in range(kind.num_fields)), default=0)


def converted(values: pa.Array, target: pa.DataType) -> pa.Array:
    """The values as `target_type` says. Raises pa.ArrowInvalid if one does not fit."""
    kind, types = values.type, pa.types
    if kind == target:
        return values
    if types.is_string(target) and (kind == pa.uuid() or types.is_time(kind)):
        return pa.array(json_values(values), pa.string())
    if isinstance(kind, pa.BaseExtensionType):
        return converted(values.storage, target)
    if types.is_dictionary(kind):
        return converted(values.dictionary_decode(), target)
    if types.is_struct(kind):
        inside = [converted(values.field(number), target.field(number).type) for number in range(kind.num_fields)]
        return pa.StructArray.from_arrays(inside, fields=list(target), mask=values.is_null())
    if types.is_map(kind):
        whole = values.take(pa.array(np.arange(len(values))))  # keys and items ignore that an array is a slice
        pairs = [converted(whole.keys, target.key_type), converted(whole.items, target.item_type)]
        entries = pa.StructArray.from_arrays(pairs, fields=[target.key_field, target.item_field])
        return pa.Array.from_buffers(target, len(whole), whole.buffers()[:2], whole.null_count, 0, [entries])
    if types.is_list(kind) or types.is_large_list(kind) or types.is_fixed_size_list(kind):
        # `values` of a slice are those of the whole array, to which its offset belongs.
        own = values.buffers()[: 1 if types.is_fixed_size_list(kind) else 2]
        inside = [converted(values.values, target.value_type)]
        return pa.Array.from_buffers(target, len(values), own, values.null_count, values.offset, inside)
    if types.is_nested(kind):
        return converted(values.cast(pa.list_(kind.value_field)), target)
    return values.cast(target)


def as_text(values: pa.Array) -> pa.Array:
    """The values as texts: JSON, or a text itself. Nothing is lost."""
    return pa.array(map(text_of, json_values(values)), pa.string())
