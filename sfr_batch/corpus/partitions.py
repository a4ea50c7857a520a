"""Values that stand in the path of a file: folders `key=value`, as Hive, Spark, Trino and pyarrow write them.

Each is a column of the shard that has one value in all rows: text, whatever it looks like, because a path has no types.
A column of that name in the file itself wins where it has a value of its own. Knows paths, batches and records; knows
no settings and no stores.
"""

import re
from collections.abc import Mapping
from typing import Any
from urllib.parse import unquote_to_bytes

import pyarrow as pa

HIVE_NULL = "__HIVE_DEFAULT_PARTITION__"
"""What Hive, Spark and all that follow them write for a missing value."""
TYPE = pa.string()
"""The type of all such columns."""

Partition = tuple[tuple[str, str | None], ...]
"""Name and value of each column, in the order of the path; None for a missing value."""


def partition_of(uri: str) -> Partition:
    """The columns in the folders of a path, decoded. Of several with one name the last one counts."""
    if "=" not in uri:
        return ()
    found: dict[str, str | None] = {}
    for folder in uri.split("/")[:-1]:
        name, equals, value = folder.partition("=")
        if name and equals:
            found[_decoded(name)] = None if value == HIVE_NULL else _decoded(value)
    return tuple(found.items())


def _decoded(text: str) -> str:
    """The text without percent escapes. They are of UTF-8, as pyarrow and DuckDB write it, or else of single
    characters, as Hive and Spark do."""
    if "%" not in text:
        return text
    data = re.sub(rb"%[0-9A-Fa-f]{2}", lambda match: unquote_to_bytes(match[0]), text.encode("utf-8", "surrogatepass"))
    try:
        return data.decode()
    except UnicodeDecodeError:
        return re.sub(r"%([0-9A-Fa-f]{2})", lambda match: chr(int(match[1], 16)), text)


def with_partition(schema: pa.Schema, partition: Mapping[str, str | None]) -> pa.Schema:
    """The schema of a file and, behind its own columns, those that only its path has."""
    more = [pa.field(name, TYPE) for name in partition if name not in schema.names]
    return pa.schema([*schema, *more]) if more else schema


def fill_batch(batch: pa.RecordBatch, partition: Mapping[str, str | None]) -> pa.RecordBatch:
    """The batch and the columns that only the path has."""
    for name, value in partition.items():
        if name not in batch.schema.names:
            batch = batch.append_column(name, pa.repeat(pa.scalar(value, TYPE), batch.num_rows))
    return batch


def fill_record(record: dict[str, Any], partition: Mapping[str, str | None]) -> dict[str, Any]:
    """The record and the columns that only the path has."""
    return {**partition, **record}
