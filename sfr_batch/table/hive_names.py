"""Names of the folders of Hive's partitions, `column=value`, as Hive and Spark write and read them.

Hive escapes ASCII characters only, and Hive, Spark and Trino take each %XX for a character: they read a percent-encoded
é, two bytes of UTF-8, as Ã©. Pure functions.
"""

from typing import Any

import pyarrow as pa

from sfr_batch.table.json_values import json_values

NULL = "__HIVE_DEFAULT_PARTITION__"
"""The folder of null. Hive and Spark use it for empty texts too: `column=` is a name that they refuse to read."""
_ESCAPED = frozenset(map(chr, [*range(32), 127])) | frozenset("\"#%'*/:=?\\{[]^")
"""As in FileUtils.escapePathName of Hive and ExternalCatalogUtils.escapePathName of Spark."""


def escaped(text: str) -> str:
    """The text as a part of a folder's name; none leads outside, for / is escaped and = stands before it."""
    return "".join(f"%{ord(char):02X}" if char in _ESCAPED else char for char in text)


def folder_of(column: str, value: Any) -> str:
    """The folder of the rows with this value, a text as `partition_texts` has them."""
    return f"{escaped(column)}={NULL if value is None else escaped(value)}"


def can_partition(kind: pa.DataType) -> bool:
    """Whether values of the type can be names of folders: texts, integers, booleans and dates."""
    types = pa.types
    kind = kind.value_type if types.is_dictionary(kind) else kind
    text = types.is_string(kind) or types.is_large_string(kind) or types.is_string_view(kind)
    return bool(text or types.is_integer(kind) or types.is_boolean(kind) or types.is_date(kind))


def partition_texts(values: pa.ChunkedArray) -> pa.DictionaryArray:
    """[n] the values as texts in the names of folders, dictionary-encoded, null as a value of its own."""
    kind = values.type
    plain = values.cast(kind.value_type) if pa.types.is_dictionary(kind) else values
    encoded = plain.combine_chunks().dictionary_encode(null_encoding="encode")
    texts = [_text(value) for value in json_values(encoded.dictionary)]
    return pa.DictionaryArray.from_arrays(encoded.indices, pa.array(texts, pa.string()))


def _text(value: Any) -> str | None:
    if value is None:
        return None
    return str(value).lower() if isinstance(value, bool) else str(value)
