"""Which columns can be ids, and what their values are in the table: strings or integers of 64 bits.

    string        texts of any layout, also as bytes; UUIDs, as an extension or as 16 bytes, in their canonical form
    int64         integers of any width, and whole decimals, as Oracle, Snowflake and Trino write keys

A value that does not fit is a reject. Knows columns and types; knows no files and no settings.
"""

from decimal import Decimal
from typing import Any

import pyarrow as pa
import pyarrow.types as kinds

from sfr_batch.corpus.casting import cast_exactly, uuid_texts, without_extension
from sfr_batch.corpus.column_paths import find_value
from sfr_batch.corpus.column_types import is_bytes, is_text, is_uuid, stored_type
from sfr_batch.corpus.rejects import as_text, cell_values


def id_type(kind: pa.DataType) -> pa.DataType | None:
    """The type in the table of ids of this type: int64, string, or null for a column without values; None for others.

    Of dictionaries and extension types, what they are made of counts.
    """
    plain = stored_type(kind)
    if is_text(kind) or is_bytes(kind) or is_uuid(kind) or is_uuid(plain):
        return pa.string()
    if kinds.is_integer(plain) or kinds.is_decimal(plain):
        return pa.int64()
    return plain if kinds.is_null(plain) else None


def id_values(column: pa.Array) -> list[Any]:
    """The ids [n] as str and int; of decimals those that are no whole numbers as they are."""
    if kinds.is_dictionary(column.type):
        column = column.dictionary_decode()
    if is_uuid(column.type) or is_uuid(stored_type(column.type)):
        return cell_values(uuid_texts(column))
    if kinds.is_decimal(column.type):
        whole = cast_exactly(column, pa.int64())
        if whole.bad:
            return [int(value) if value is not None and value == int(value) else value for value in column.to_pylist()]
        column = whole.column
    return cell_values(as_text(without_extension(column)))


def id_of_record(record: dict[str, Any], path: str) -> Any:
    """The id of a record of JSON or CSV. A fraction, which is no id, is a float however exactly it was read."""
    value = find_value(record, path)
    return float(value) if isinstance(value, Decimal) else value


def numbered_id(shard: str, position: int) -> str:
    """The id of a row where the rows are numbered. shard: its URI; position: as in `names.REJECTS_SCHEMA`."""
    return f"{shard}#{position}"
