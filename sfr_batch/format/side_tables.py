"""Records of the side files as Arrow tables, one column per field, and back. Knows no files."""

import dataclasses
from collections.abc import Sequence
from typing import Any

import pyarrow as pa

_ARROW = {str: pa.string(), int: pa.int64(), float: pa.float64(), bool: pa.bool_()}


def to_table(cls: type[Any], records: list[Any]) -> pa.Table:
    """Records of one of the dataclasses in `records` as an Arrow table, one column per field."""
    fields = dataclasses.fields(cls)
    schema = pa.schema([pa.field(f.name, _ARROW[f.type], nullable=False) for f in fields])  # type: ignore[index]
    arrays = [pa.array([getattr(r, f.name) for r in records], schema.field(f.name).type) for f in fields]
    return pa.table(arrays, schema=schema)


def from_table(cls: type[Any], table: pa.Table) -> list[Any]:
    """The inverse of `to_table`. A field that an older table does not have gets its default."""
    names = [field.name for field in dataclasses.fields(cls) if field.name in table.column_names]
    columns = [_values(table.column(name)) for name in names]
    return [cls(**dict(zip(names, values, strict=True))) for values in zip(*columns, strict=True)]


def columns_of(cls: type[Any], table: pa.Table, fields: Sequence[str]) -> pa.Table:
    """These fields, a column each, not decoded. A field that an older table does not have gets its default."""
    known = {field.name: field for field in dataclasses.fields(cls)}
    columns = []
    for name in fields:
        if name in table.column_names:
            columns.append(table.column(name))
        else:
            default = pa.scalar(known[name].default, _ARROW[known[name].type])  # type: ignore[index]
            columns.append(pa.chunked_array([pa.repeat(default, table.num_rows)]))
    return pa.table(columns, names=list(fields))


def _values(column: pa.ChunkedArray) -> list[Any]:
    """The values as Python objects. A text that occurs often is one object: the receipts of a shard all name it."""
    if not pa.types.is_string(column.type):
        return list(column.to_pylist())
    coded = column.combine_chunks().dictionary_encode()
    texts = coded.dictionary.to_pylist()
    return [texts[at] for at in coded.indices.to_pylist()]
