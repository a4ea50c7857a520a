"""Finds a column by its path, in a schema, a batch or a JSON object.

The path of a column is its name or, inside a struct or a JSON object, the names on the way to it: `meta.title`. Pure
functions; knows no files and no settings.
"""

from collections.abc import Sequence
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc


def find_type(schema: pa.Schema, path: str) -> pa.DataType | None:
    """The type of the column at ``path``, None if there is none. A column whose name has dots precedes a path."""
    if path in schema.names:
        return schema.field(schema.names.index(path)).type  # the first of several with this name
    name, *inside = path.split(".")
    kind = schema.field(schema.names.index(name)).type if name in schema.names else None
    for part in inside:
        if kind is None or not pa.types.is_struct(kind) or kind.get_field_index(part) < 0:
            return None
        kind = kind.field(part).type
    return kind


def is_inside(leaf: str, paths: Sequence[str]) -> bool:
    """Whether a Parquet leaf column, named by its path, is one of the columns at ``paths`` or a part of one."""
    return any(leaf == path or leaf.startswith(f"{path}.") for path in paths)


def find_column(batch: pa.RecordBatch, path: str) -> pa.Array:
    """The column at ``path``; null where a struct on the way is null."""
    if path in batch.schema.names:
        return batch.column(path)
    name, *inside = path.split(".")
    return pc.struct_field(batch.column(name), inside)


def find_value(row: dict[str, Any], path: str) -> Any:
    """The value at ``path`` of a JSON object, None if there is none."""
    if path in row or "." not in path:
        return row.get(path)
    value: Any = row
    for part in path.split("."):
        value = value.get(part) if isinstance(value, dict) else None
    return value


def lost_key(value: Any, kind: pa.DataType) -> str | None:
    """A key of a JSON object, at whatever depth, that Arrow would silently leave out of a value of this type."""
    if pa.types.is_struct(kind) and isinstance(value, dict):
        known = {field.name: field.type for field in kind.fields}
        inside = (key if key not in known else lost_key(part, known[key]) for key, part in value.items())
        return next(filter(None, inside), None)
    if pa.types.is_list(kind) and isinstance(value, list):
        return next(filter(None, (lost_key(part, kind.value_type) for part in value)), None)
    return None


def all_paths(schema: pa.Schema) -> list[str]:
    """The paths of all columns and of all fields inside structs, in the order of the schema."""
    found: list[str] = []
    waiting = [(field.name, field.type) for field in reversed(schema)]
    while waiting:
        path, kind = waiting.pop()
        found.append(path)
        if pa.types.is_struct(kind):
            waiting += [(f"{path}.{kind.field(i).name}", kind.field(i).type) for i in reversed(range(kind.num_fields))]
    return found
