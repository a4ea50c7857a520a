"""Schemas of tables: their form in a record, and types that are yet to be known.

A carried column without a value has the type null, and any other later; so may a field inside a struct, and the
elements of lists. Pure functions over Arrow types.
"""

import base64
from typing import Any

import pyarrow as pa


def described(schema: pa.Schema) -> dict[str, Any]:
    """The fields of a record that has a schema: ``arrow_schema``, its Arrow IPC form in base64, and, for people,
    ``columns``, name to type."""
    columns = {field.name: str(field.type) for field in schema}
    return {"arrow_schema": base64.b64encode(schema.serialize().to_pybytes()).decode(), "columns": columns}


def schema_of(arrow_schema: str) -> pa.Schema:
    """The schema in the field of a record."""
    return pa.ipc.read_schema(pa.py_buffer(base64.b64decode(arrow_schema)))


def has_null(kind: pa.DataType) -> bool:
    """Whether the type, at whatever depth, is yet to be known."""
    return bool(pa.types.is_null(kind)) or any(has_null(kind.field(at).type) for at in range(kind.num_fields))


def is_undecided(schema: pa.Schema) -> bool:
    """Whether some types are yet to be known."""
    return any(map(has_null, schema.types))


def is_same(before: pa.Schema, after: pa.Schema) -> bool:
    """Whether the schemas are equal, except that ``after`` may have types where ``before`` has null."""
    return before.names == after.names and all(
        one.nullable == other.nullable and _is_filled(one.type, other.type)
        for one, other in zip(before, after, strict=True)
    )


def _is_filled(before: pa.DataType, after: pa.DataType) -> bool:
    if pa.types.is_null(before) or before.equals(after):
        return True
    if before.id != after.id or before.num_fields != after.num_fields or not has_null(before):
        return False
    pairs = [(before.field(at), after.field(at)) for at in range(before.num_fields)]
    named = not pa.types.is_struct(before) or all(one.name == other.name for one, other in pairs)
    fixed = getattr(before, "list_size", None) == getattr(after, "list_size", None)
    return named and fixed and all(_is_filled(one.type, other.type) for one, other in pairs)
