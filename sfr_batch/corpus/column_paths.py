"""Finds a column by its path, in a schema, a batch or a JSON object.

The path of a column is its name or, inside a struct or a JSON object, the names on the way to it: `meta.title`. Pure
functions; knows no files and no settings.
"""

from collections.abc import Iterator, Sequence
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc


def find_names(schema: pa.Schema, path: str) -> list[str] | None:
    """The names on the way to the column at ``path``, None if there is none.

    Names may have dots: at every level the longest name that leads to the column is taken.
    """
    parts = path.split(".")
    for name, rest in _splits(parts):
        at = schema.get_all_field_indices(name)
        inside = _names_inside(schema.field(at[0]).type, rest) if at else None  # the first of several with this name
        if inside is not None:
            return [name, *inside]
    return None


def _names_inside(kind: pa.DataType, parts: list[str]) -> list[str] | None:
    if not parts:
        return []
    if pa.types.is_struct(kind):
        for name, rest in _splits(parts):
            inside = _names_inside(kind.field(name).type, rest) if kind.get_field_index(name) >= 0 else None
            if inside is not None:
                return [name, *inside]
    return None


def _splits(parts: list[str]) -> Iterator[tuple[str, list[str]]]:
    """The ways to take a name from the beginning of a path, the longest name first, each with the rest of the path."""
    return ((".".join(parts[:end]), parts[end:]) for end in range(len(parts), 0, -1))


def find_type(schema: pa.Schema, path: str) -> pa.DataType | None:
    """The type of the column at ``path``, None if there is none."""
    found = find_names(schema, path)
    if found is None:
        return None
    kind = schema.field(schema.names.index(found[0])).type
    for name in found[1:]:
        kind = kind.field(name).type
    return kind


def top_level(schema: pa.Schema, path: str) -> str:
    """The name of the column of the file in which ``path`` is, or would be."""
    return (find_names(schema, path) or path.split("."))[0]


def is_inside(leaf: str, paths: Sequence[str]) -> bool:
    """Whether a Parquet leaf column, named by its path, is one of the columns at ``paths`` or a part of one."""
    return any(leaf == path or leaf.startswith(f"{path}.") for path in paths)


def find_column(batch: pa.RecordBatch, path: str) -> pa.Array:
    """The column at ``path``; null where a struct on the way is null, and if there is no such column."""
    found = find_names(batch.schema, path)
    if found is None:
        return pa.nulls(batch.num_rows)
    column = batch.column(found[0])
    return pc.struct_field(column, found[1:]) if len(found) > 1 else column


def find_value(row: dict[str, Any], path: str) -> Any:
    """The value at ``path`` of a JSON object, None if there is none. Names are found as `find_names` does."""
    if path in row or "." not in path:
        return row.get(path)
    found = _values_inside(row, path.split("."))
    return found[0] if found else None


def _values_inside(value: Any, parts: list[str]) -> tuple[Any] | None:
    """The value, which may be None; None if there is none."""
    if not parts:
        return (value,)
    if isinstance(value, dict):
        for name, rest in _splits(parts):
            found = _values_inside(value[name], rest) if name in value else None
            if found:
                return found
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
