"""The columns of a corpus: which of them make the id, the text and what is carried, and whether they can.

A column is named by its name or, inside a struct or a JSON object, by its path: `meta.title`. Pure functions over
Arrow schemas; knows no files and no rows.
"""

import difflib
import string
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc

from sfr_batch import schema as names
from sfr_batch.config import CorpusSettings
from sfr_batch.errors import ConfigError, CorpusError


class TextTemplate:
    """How a row's text is made: one column verbatim, or a template such as ``{title} {text}``.

    A template's missing or null columns are empty, and its result is stripped: the rule by which the BEIR and MTEB
    scores of models are made, ``(title + " " + text).strip()``. A single column is never altered.
    """

    def __init__(self, template: str) -> None:
        try:
            parsed = list(string.Formatter().parse(template))
        except ValueError as error:
            raise ConfigError(
                f"corpus.text {template!r} is not a template: {error}. Write column names in braces, as in "
                "'{title} {text}'."
            ) from None
        self.columns = list(dict.fromkeys(name for _, name, _, _ in parsed if name is not None))
        if any(name == "" or spec or conversion for _, name, spec, conversion in parsed if name is not None):
            raise ConfigError(
                f"corpus.text {template!r}: write plain column names in braces, as in '{{title}} {{text}}'."
            )
        self._parts = parsed if self.columns else []
        self.columns = self.columns or [template]

    def render(self, values: Sequence[Any]) -> str | None:
        """``values`` in the order of ``columns``; None if all of them are null."""
        if all(value is None for value in values):
            return None
        if not self._parts:
            return str(values[0])
        given = dict(zip(self.columns, values, strict=True))
        pieces = []
        for literal, name, _, _ in self._parts:
            pieces.append(literal)
            if name is not None and given[name] is not None:
                pieces.append(str(given[name]))
        return "".join(pieces).strip()


@dataclass(frozen=True, slots=True)
class Columns:
    """Types of the columns that the corpus gives to the table."""

    id_type: pa.DataType
    carry: dict[str, pa.DataType]


def find_type(schema: pa.Schema, path: str) -> pa.DataType | None:
    """The type of the column at ``path``; None where there is none. A name with dots in it comes before a path."""
    if path in schema.names:
        return schema.field(path).type
    name, *inside = path.split(".")
    kind = schema.field(name).type if name in schema.names else None
    for part in inside:
        if kind is None or not pa.types.is_struct(kind) or kind.get_field_index(part) < 0:
            return None
        kind = kind.field(part).type
    return kind


def find_column(batch: pa.RecordBatch, path: str) -> pa.Array:
    """The column at ``path``, null where a struct on the way is."""
    if path in batch.schema.names:
        return batch.column(path)
    name, *inside = path.split(".")
    return pc.struct_field(batch.column(name), inside)


def find_value(row: dict[str, Any], path: str) -> Any:
    """The value at ``path`` of a JSON object, None where there is none."""
    if path in row or "." not in path:
        return row.get(path)
    value: Any = row
    for part in path.split("."):
        value = value.get(part) if isinstance(value, dict) else None
    return value


def column_types(schema: pa.Schema, settings: CorpusSettings) -> Columns:
    """The table's id and carried column types, from a schema that `check_schema` has passed."""
    id_type = find_type(schema, settings.id) if settings.id is not None else None
    return Columns(
        id_type=pa.int64() if id_type is not None and pa.types.is_integer(id_type) else pa.string(),
        carry={name: _without_views(find_type(schema, name)) for name in settings.carry},
    )


def _without_views(kind: pa.DataType) -> pa.DataType:
    """Views are a layout in memory that Arrow can neither take rows of nor, in all versions, write."""
    if pa.types.is_string_view(kind):
        return pa.string()
    return pa.binary() if pa.types.is_binary_view(kind) else kind


def check_schema(schema: pa.Schema, uri: str, settings: CorpusSettings) -> None:
    """Raises CorpusError naming the shard if it lacks a column, or has one with an unfit type; or ConfigError."""
    for name in settings.carry:
        if name in names.RESERVED_COLUMNS:
            raise ConfigError(f"corpus.carry: {name!r} is the table's own column; rename it in the corpus.")
    template = TextTemplate(settings.text)
    for setting, name in [
        *([("id", settings.id)] if settings.id is not None else []),
        *(("text", name) for name in template.columns),
        *(("carry", name) for name in settings.carry),
    ]:
        if any(len(schema.get_all_field_indices(part)) > 1 for part in (name, name.split(".")[0])):
            raise CorpusError(
                f"{uri} has several columns {name!r} (corpus.{setting}); names must be unique. Rename one of them."
            )
        if find_type(schema, name) is None:
            raise CorpusError(f"{uri} has no column {name!r} (corpus.{setting}).{_way_out(schema, setting, name)}")
    if settings.id is not None:
        id_type = find_type(schema, settings.id)
        if not (_is_text(id_type) or pa.types.is_integer(id_type)):
            raise CorpusError(
                f"{uri}: the id column {settings.id!r} is {id_type}; ids are strings or integers. Choose another "
                "column, or number the rows: corpus.id=null."
            )
    for name in template.columns:
        kind = find_type(schema, name)
        number = pa.types.is_integer(kind) or pa.types.is_floating(kind)
        if not (_is_text(kind) or (number and len(template.columns) > 1)):
            raise CorpusError(
                f"{uri}: the text column {name!r} is {kind}; it must be a string. Choose another one by corpus.text."
            )


def check_types(schema: pa.Schema, uri: str, settings: CorpusSettings, expected: Columns, *, guessed: bool) -> None:
    """Raises CorpusError if the columns of ``schema`` are not of the types that are ``expected``.

    guessed: the schema comes from samples, so that only what is certain in it counts: whether ids are numbers.
    """
    where = "in other shards or in the table"
    id_type = find_type(schema, settings.id) if settings.id is not None else pa.string()
    if pa.types.is_integer(id_type) != pa.types.is_integer(expected.id_type):
        raise CorpusError(
            f"{uri}: the id column {settings.id!r} is {id_type}, {where} it is {expected.id_type}. Make the shards "
            "alike, or write to a new table: table.path=<another path>."
        )
    for name, kind in () if guessed else expected.carry.items():
        found = _without_views(find_type(schema, name))
        if not found.equals(kind):
            raise CorpusError(
                f"{uri}: the column {name!r} is {found}, {where} it is {kind}. Make the shards alike, or leave it out "
                "of corpus.carry."
            )


def _way_out(schema: pa.Schema, setting: str, name: str) -> str:
    have = _paths(schema)
    close = difflib.get_close_matches(name, have, n=1)
    hint = f" Did you mean {close[0]!r}?" if close else ""
    without = " If there are no ids, set corpus.id=null to number the rows." if setting == "id" else ""
    if len(have) == 1 and any(delimiter in have[0] for delimiter in ",;|\t"):
        without = " If that is a CSV's whole header, set corpus.delimiter to what divides it."
    return f"{hint} It has: {', '.join(have)}.{without}"


def _paths(schema: pa.Schema) -> list[str]:
    found: list[str] = []
    waiting = [(field.name, field.type) for field in reversed(schema)]
    while waiting:
        path, kind = waiting.pop()
        found.append(path)
        if pa.types.is_struct(kind):
            waiting += [(f"{path}.{kind.field(i).name}", kind.field(i).type) for i in reversed(range(kind.num_fields))]
    return found


def _is_text(kind: pa.DataType) -> bool:
    if pa.types.is_dictionary(kind):
        kind = kind.value_type
    return bool(pa.types.is_string(kind) or pa.types.is_large_string(kind) or pa.types.is_string_view(kind))
