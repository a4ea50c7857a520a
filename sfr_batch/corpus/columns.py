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

from sfr_batch.config.settings import CorpusSettings
from sfr_batch.errors import ConfigError, CorpusError
from sfr_batch.format import names


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


def lost_key(value: Any, kind: pa.DataType) -> str | None:
    """A key of a JSON object, at whatever depth, that Arrow would silently leave out of a value of this type."""
    if pa.types.is_struct(kind) and isinstance(value, dict):
        known = {field.name: field.type for field in kind.fields}
        inside = (key if key not in known else lost_key(part, known[key]) for key, part in value.items())
        return next(filter(None, inside), None)
    if pa.types.is_list(kind) and isinstance(value, list):
        return next(filter(None, (lost_key(part, kind.value_type) for part in value)), None)
    return None


def column_types(schemas: Sequence[tuple[str, pa.Schema]], settings: CorpusSettings, *, guessed: bool) -> Columns:
    """The table's id and carried column types, from schemas, each with its shard's URI, that `check_schema` has passed.

    guessed: they come from samples, so that each knows a part of the truth, and together they know it better. Otherwise
    they are equal, for `check_types` to see to. Raises CorpusError naming the shard that goes with no other.
    """
    found: dict[str, pa.DataType] = {}
    for uri, schema in schemas:
        for name in filter(None, (settings.id, *settings.carry)):
            kind = _readable(find_type(schema, name) or pa.null())
            before = found.setdefault(name, kind)
            if pa.types.is_null(before):
                found[name] = kind
            elif guessed and name in settings.carry:
                merged = _merge(before, kind)
                if merged is None:
                    raise CorpusError(_differs(uri, name, kind, before))
                found[name] = merged
    id_type = found.get(settings.id) if settings.id is not None else None
    return Columns(
        id_type=pa.int64() if id_type is not None and pa.types.is_integer(id_type) else pa.string(),
        carry={name: _change(found[name], {pa.null(): pa.string()}) for name in settings.carry},
    )


def _merge(one: pa.DataType, other: pa.DataType) -> pa.DataType | None:
    """What holds the values of both; None if nothing does."""
    schemas = [pa.schema([("value", kind)]) for kind in (one, other)]
    try:
        return pa.unify_schemas(schemas, promote_options="permissive").field("value").type
    except pa.ArrowException:
        return None


def _readable(kind: pa.DataType) -> pa.DataType:
    """Without views: a layout in memory that Arrow can neither take rows of nor, in all versions, write."""
    return _change(kind, {pa.string_view(): pa.string(), pa.binary_view(): pa.binary()})


def _change(kind: pa.DataType, to: dict[pa.DataType, pa.DataType]) -> pa.DataType:
    """The type with some types in it, at whatever depth, changed for others."""
    if kind in to:
        return to[kind]
    if pa.types.is_struct(kind):
        return pa.struct([field.with_type(_change(field.type, to)) for field in kind.fields])
    if pa.types.is_map(kind):
        return pa.map_(_change(kind.key_type, to), _change(kind.item_type, to))
    if pa.types.is_list(kind) or pa.types.is_large_list(kind):
        item = kind.value_field.with_type(_change(kind.value_type, to))
        return pa.list_(item) if pa.types.is_list(kind) else pa.large_list(item)
    return kind


def check_schema(
    schema: pa.Schema, uri: str, settings: CorpusSettings, elsewhere: frozenset[str] = frozenset()
) -> None:
    """Raises CorpusError naming the shard if it lacks a column, or has one with an unfit type; or ConfigError.

    elsewhere: columns that may be absent, for they are known to exist; rows of JSON leave out what they do not have.
    Of a template's at least one must be there.
    """
    for name in settings.carry:
        if name in names.RESERVED_COLUMNS:
            raise ConfigError(f"corpus.carry: {name!r} is the table's own column; rename it in the corpus.")
    template = TextTemplate(settings.text)
    if not any(find_type(schema, name) for name in template.columns):
        elsewhere = frozenset(elsewhere.difference(template.columns))
    for setting, name in [
        *([("id", settings.id)] if settings.id is not None else []),
        *(("text", name) for name in template.columns),
        *(("carry", name) for name in settings.carry),
    ]:
        if any(len(schema.get_all_field_indices(part)) > 1 for part in (name, name.split(".")[0])):
            raise CorpusError(
                f"{uri} has several columns {name!r} (corpus.{setting}); names must be unique. Rename one of them."
            )
        if find_type(schema, name) is None and (name not in elsewhere or setting == "id"):
            raise CorpusError(f"{uri} has no column {name!r} (corpus.{setting}).{_way_out(schema, setting, name)}")
    if settings.id is not None:
        id_type = find_type(schema, settings.id)
        if not (_is_text(id_type) or pa.types.is_integer(id_type) or pa.types.is_null(id_type)):
            raise CorpusError(
                f"{uri}: the id column {settings.id!r} is {id_type}; ids are strings or integers. Choose another "
                "column, or number the rows: corpus.id=null."
            )
    for name in template.columns:
        kind = find_type(schema, name) or pa.null()
        number = pa.types.is_integer(kind) or pa.types.is_floating(kind)
        if not (_is_text(kind) or pa.types.is_null(kind) or (number and len(template.columns) > 1)):
            raise CorpusError(
                f"{uri}: the text column {name!r} is {kind}; it must be a string. Choose another one by corpus.text."
            )


def check_types(schema: pa.Schema, uri: str, settings: CorpusSettings, expected: Columns, *, guessed: bool) -> None:
    """Raises CorpusError if the columns of ``schema`` are not of the types that are ``expected``.

    guessed: the schema comes from samples, so that types which have something in common are left to the rows.
    """
    id_type = find_type(schema, settings.id) if settings.id is not None else pa.string()
    if not pa.types.is_null(id_type) and pa.types.is_integer(id_type) != pa.types.is_integer(expected.id_type):
        what = f"the id column {settings.id!r} is {id_type}" if settings.id is not None else "its rows are numbered"
        raise CorpusError(
            f"{uri}: {what}, in other shards or in the table ids are {expected.id_type}. Make the shards alike, or "
            "write to a new table: table.path=<another path>."
        )
    for name, kind in expected.carry.items():
        found = _readable(find_type(schema, name) or pa.null())
        alike = _merge(found, kind) is not None if guessed else found.equals(kind)
        if not alike and not pa.types.is_null(found):
            raise CorpusError(_differs(uri, name, found, kind))


def _differs(uri: str, name: str, found: pa.DataType, expected: pa.DataType) -> str:
    return (
        f"{uri}: the column {name!r} is {found}, in other shards or in the table it is {expected}. Make the shards "
        "alike, or leave it out of corpus.carry."
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
