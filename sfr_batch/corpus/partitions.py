"""Values that stand in the path of a file: folders `key=value`, as Hive, Spark, Trino and pyarrow write them.

Each is a column of the shard that has one value in all rows: text, whatever it looks like, because a path has no types,
unless the table or other shards have the column with a type. A row that has a column of that name keeps its own. Knows
paths, batches and records; knows no settings and no stores.
"""

import datetime
import re
from collections.abc import Iterable, Mapping
from typing import Any
from urllib.parse import unquote_to_bytes

import pyarrow as pa
import pyarrow.compute as pc

from sfr_batch.errors import CorpusError

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


def names_above(base: str, uri: str) -> tuple[str, ...]:
    """The names of the columns of ``uri`` that stand in folders above its part below ``base`` alone."""
    if "=" not in base:
        return ()
    below = {name for name, _ in partition_of(uri[len(base) :])}
    return tuple(name for name, _ in partition_of(uri) if name not in below)


def with_partition(schema: pa.Schema, names: Iterable[str]) -> tuple[pa.Schema, frozenset[str]]:
    """The schema of a file and, behind its own columns, those that only its path has; and the names of these."""
    more = [name for name in names if name not in schema.names]
    return pa.schema([*schema, *(pa.field(name, TYPE) for name in more)]) if more else schema, frozenset(more)


class PathColumns:
    """The columns that the path gives to the rows of a shard: to a row that has none of that name."""

    def __init__(
        self, uri: str, values: Mapping[str, str | None], types: Mapping[str, pa.DataType], above: Iterable[str]
    ) -> None:
        """types: of columns that the table has, by their names in the corpus. above: see `Shard.above`."""
        self._uri = uri
        self._texts = dict(values)
        self._types = {name: types.get(name, TYPE) for name in values}
        self._compared = set(values).difference(above)

    def check_types(self, names: Iterable[str]) -> None:
        """Raises CorpusError if the value of one of these columns has not its type."""
        for name in names:
            if name in self._texts:
                self._typed(name)

    def fill_batch(self, batch: pa.RecordBatch) -> pa.RecordBatch:
        """The batch and the columns that only the path has. Raises CorpusError if the file contradicts the path."""
        for name in self._texts:
            if name not in batch.schema.names:
                batch = batch.append_column(name, pa.repeat(self._typed(name), batch.num_rows))
            elif name in self._compared and _is_comparable(batch.schema.field(name).type):
                for value in pc.unique(batch.column(name)).to_pylist():
                    self._compare(name, value)
        return batch

    def fill_record(self, record: dict[str, Any]) -> dict[str, Any]:
        """The record and the columns that only the path has. Raises CorpusError if the record contradicts the path."""
        missing = {}
        for name in self._texts:
            if name not in record:
                missing[name] = self._typed(name).as_py()
            elif name in self._compared:
                self._compare(name, record[name])
        return {**record, **missing} if missing else record

    def _typed(self, name: str) -> pa.Scalar:
        """The value as the table's type has it."""
        text, kind = self._texts[name], self._types[name]
        try:
            return pa.scalar(text, TYPE).cast(kind)
        except (pa.ArrowException, ValueError):
            raise CorpusError(
                f"{self._uri}: the folder {name}={text} is no {kind}, which the column is in other shards or in the "
                "table. Rename the folder, or remove the column from corpus.carry."
            ) from None

    def _compare(self, name: str, own: Any) -> None:
        text = self._texts[name]
        if own is not None and not _agree(own, text):
            raise CorpusError(
                f"{self._uri}: the column {name!r} has the value {own!r}, but the folder's name says {text!r}. Correct "
                f"one of the two, or use the column no more: corpus.carry, corpus.text."
            )


def _is_comparable(kind: pa.DataType) -> bool:
    if pa.types.is_dictionary(kind):
        kind = kind.value_type
    texts = pa.types.is_string(kind) or pa.types.is_large_string(kind)
    return bool(texts or pa.types.is_integer(kind) or pa.types.is_boolean(kind) or pa.types.is_date(kind))


def _agree(own: Any, text: str | None) -> bool:
    """Whether a value and the text in a path are one, as far as that can be said: 2 and 02 are, but 2 and 3 are not."""
    if text is None:
        return not isinstance(own, (str, int))
    if isinstance(own, bool):
        return text.lower() in (str(own).lower(), str(int(own)))
    if isinstance(own, (str, int)):
        numbers = all(re.fullmatch(r"-?\d{1,18}", str(value)) for value in (own, text))
        return str(own) == text or (numbers and int(own) == int(text))
    if isinstance(own, datetime.date) and not isinstance(own, datetime.datetime):
        return own.isoformat() == text
    return True
