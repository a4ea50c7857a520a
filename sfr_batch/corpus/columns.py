"""Decides which types the table's id and carried columns have, and refuses shards whose columns do not go with them.

To take in another kind of file, say in its `FileFormat` how far a survey knows its columns. To take in another type of
id or text, see `_check_id` and `_check_text`. Works on surveyed schemas; reads no files and knows no rows.
"""

import difflib
import itertools
import json
import re
from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import pyarrow as pa

from sfr_batch.config.settings import CorpusSettings
from sfr_batch.corpus.column_paths import all_paths, find_type
from sfr_batch.corpus.shards import settings_for
from sfr_batch.corpus.survey import ShardStatistics
from sfr_batch.corpus.text_template import TextTemplate
from sfr_batch.errors import ConfigError, CorpusError
from sfr_batch.format import names
from sfr_batch.format.hashes import ROW_HASH_VERSION


class Carried(NamedTuple):
    """A carried column."""

    path: str
    """Its path in the corpus."""
    type: pa.DataType
    """Its type in the table."""


@dataclass(frozen=True, slots=True)
class Columns:
    """Types of the columns that the corpus gives to the table."""

    id_type: pa.DataType
    """int64 or string."""
    carry: dict[str, Carried]
    """By the name of the column in the table, in the order of the table."""
    row_hash: int = ROW_HASH_VERSION
    """Version of the table's row hashes."""

    @property
    def types(self) -> dict[str, pa.DataType]:
        """Name of each carried column in the table -> its type there."""
        return {name: column.type for name, column in self.carry.items()}


def resolve_columns(
    surveys: Sequence[ShardStatistics],
    settings: CorpusSettings,
    known: Columns | None = None,
    elsewhere: frozenset[str] = frozenset(),
) -> Columns | None:
    """The types of the table's id and carried columns; None if they are not known and all shards are empty.

    known: the types that the table has already. elsewhere: columns that shards outside of ``surveys`` are known to
    have. Raises CorpusError naming the shard that lacks a column or has one of an unfit type, or ConfigError.
    """
    # Shards mostly have one and the same schema, and may be 100,000.
    distinct = {(survey.schema, survey.shard.format): survey for survey in reversed(surveys) if not survey.empty}
    filled = sorted(distinct.values(), key=lambda survey: survey.shard.uri)
    return ColumnResolver(settings, elsewhere).resolve(filled, known)


class ColumnResolver:
    """Resolves the columns that a corpus's settings name against the schemas of its shards."""

    def __init__(self, settings: CorpusSettings, elsewhere: frozenset[str]) -> None:
        self._settings = settings
        self._text = TextTemplate(settings.text).columns
        self._elsewhere = elsewhere

    def resolve(self, surveys: Sequence[ShardStatistics], known: Columns | None) -> Columns | None:
        """See `resolve_columns`; ``surveys`` are of shards with rows."""
        if not surveys:
            return known
        _check_names(self._settings.carried, new=known is None)
        shards = [(_TypedColumns if survey.exact else _SampledColumns)(survey, self._settings) for survey in surveys]
        wanted = filter(None, (self._settings.id, *self._text, *self._settings.carried.values()))
        somewhere = self._elsewhere | {path for path in wanted if any(shard.has(path) for shard in shards)}
        for shard in shards:
            self._check_presence(shard, somewhere)
            _check_id(shard)
            for name in self._text:
                _check_text(shard, name, alone=len(self._text) == 1)
        columns = known or self._infer([shard for shard in shards if shard.exact] or shards)
        for shard in shards:
            shard.check_against(columns)
        return columns

    def _check_presence(self, shard: "_ShardColumns", somewhere: frozenset[str]) -> None:
        """Raises CorpusError if the shard lacks a column or has two of one name.

        A shard whose rows may leave columns out needs its id, one of the text's columns, and of the rest those that
        no other shard has.
        """
        optional = somewhere if shard.rows_may_lack_columns else frozenset[str]()
        if not any(shard.has(name) for name in self._text):
            optional = optional.difference(self._text)
        for setting, name in [
            *([("id", shard.id_column)] if shard.id_column is not None else []),
            *(("text", name) for name in self._text),
            *(("carry", path) for path in self._settings.carried.values()),
        ]:
            if any(len(shard.schema.get_all_field_indices(part)) > 1 for part in (name, name.split(".")[0])):
                raise CorpusError(
                    f"{shard.uri} has several columns {name!r} (corpus.{setting}); column names must be unique. "
                    "Rename one of them."
                )
            if not shard.has(name) and (name not in optional or setting == "id"):
                raise CorpusError(
                    f"{shard.uri} has no column {name!r} (corpus.{setting}).{_way_out(shard.schema, setting, name)}"
                )

    def _infer(self, shards: Sequence["_ShardColumns"]) -> Columns:
        """The types as these shards have them."""
        id_column = shards[0].id_column
        found: dict[str, pa.DataType] = {}
        carried = self._settings.carried
        for shard in shards:
            for path in filter(None, (id_column, *carried.values())):
                before, kind = found.get(path, pa.null()), shard.type_of(path)
                if pa.types.is_null(before):
                    found[path] = kind
                elif path in carried.values():
                    found[path] = shard.widen(path, before)
        id_type = found[id_column] if id_column is not None else pa.string()
        return Columns(
            id_type=pa.int64() if pa.types.is_integer(id_type) else pa.string(),
            carry={
                name: Carried(path, _replace(found[path], {pa.null(): pa.string()})) for name, path in carried.items()
            },
        )


def _check_names(carried: Mapping[str, str], *, new: bool) -> None:
    """Raises ConfigError for names that the table's own columns have.

    new: whether the table is yet to be made. Then names that differ by case alone are refused, too: DuckDB and Spark
    know no case, and would show one column as the other. Tables that have such names go on with them.
    """
    for name in carried:
        if name in names.RESERVED_COLUMNS:
            raise ConfigError(
                f"corpus.carry: {name!r} is a column name reserved for the table. Give the column another name in the "
                f"table, carry: {_renamed(carried, name)}."
            )
    seen = {name.casefold(): name for name in names.RESERVED_COLUMNS}
    for name in carried if new else ():
        twin = seen.setdefault(name.casefold(), name)
        if twin != name:
            raise ConfigError(
                f"corpus.carry: the names {twin!r} and {name!r} differ only by case, so DuckDB and Spark would take "
                "one column of the table for the other. Give the column another name in the table, carry: "
                f"{_renamed(carried, name)}."
            )


def _renamed(carried: Mapping[str, str], name: str) -> str:
    """The setting, in YAML, with another name for one of the columns."""
    taken = {other.casefold() for other in (*carried, *names.RESERVED_COLUMNS)}
    others = (f"{name.replace('.', '_')}_{number}" for number in itertools.count(2))
    new = next(other for other in others if other.casefold() not in taken)
    parts = (f"{_plain(new if other == name else other)}: {_plain(path)}" for other, path in carried.items())
    return f"{{{', '.join(parts)}}}"


def _plain(name: str) -> str:
    """A name as YAML takes it inside braces."""
    return name if re.fullmatch(r"[A-Za-z_][\w.]*", name) and name.lower() not in _NOT_NAMES else json.dumps(name)


_NOT_NAMES = ("null", "true", "false", "yes", "no", "on", "off", "y", "n")
"""Words that YAML takes for values."""


class _ShardColumns(ABC):
    """The columns of one shard, as its survey found them."""

    exact: bool
    """Whether the types are the file's own, rather than those of a sample."""

    def __init__(self, survey: ShardStatistics, settings: CorpusSettings) -> None:
        self.uri = survey.shard.uri
        self.schema = survey.schema
        self.id_column = settings_for(survey.shard, settings).id
        """None if the rows are numbered."""
        self.rows_may_lack_columns = survey.rows_may_lack_columns

    def has(self, name: str) -> bool:
        return find_type(self.schema, name) is not None

    def type_of(self, name: str) -> pa.DataType:
        """The type that values of the column are read as; null if the shard lacks the column or has only nulls."""
        return _readable(find_type(self.schema, name) or pa.null())

    def check_against(self, columns: Columns) -> None:
        """Raises CorpusError if the shard's columns do not have these types."""
        id_type = find_type(self.schema, self.id_column) if self.id_column is not None else pa.string()
        if not pa.types.is_null(id_type) and pa.types.is_integer(id_type) != pa.types.is_integer(columns.id_type):
            what = f"the id column {self.id_column!r} is {id_type}" if self.id_column is not None else _NUMBERED
            raise CorpusError(
                f"{self.uri}: {what}, but ids in other shards or in the table are {columns.id_type}. Convert the ids "
                "to one type, or write to a new table: table.path=<another path>."
            )
        for path, expected in columns.carry.values():
            found = self.type_of(path)
            if not pa.types.is_null(found) and not self._fits(found, expected):
                raise self._differs(path, expected)

    @abstractmethod
    def widen(self, name: str, before: pa.DataType) -> pa.DataType:
        """The type that holds the values of the column here and values of type ``before``, found in other shards."""

    @abstractmethod
    def _fits(self, found: pa.DataType, expected: pa.DataType) -> bool: ...

    def _differs(self, name: str, expected: pa.DataType) -> CorpusError:
        return CorpusError(
            f"{self.uri}: the column {name!r} is {self.type_of(name)}, but in other shards or in the table it is "
            f"{expected}. Convert it to one type, or remove it from corpus.carry."
        )


_NUMBERED = "its rows are numbered, so their ids are strings"


class _TypedColumns(_ShardColumns):
    """A shard whose metadata states its types. Those of all such shards are equal, except where all values are null."""

    exact = True

    def widen(self, name: str, before: pa.DataType) -> pa.DataType:
        return _fill_nulls(before, self.type_of(name))  # if they differ otherwise, `check_against` says so

    def _fits(self, found: pa.DataType, expected: pa.DataType) -> bool:
        return bool(_fill_nulls(found, expected).equals(expected))


class _SampledColumns(_ShardColumns):
    """A shard whose types come from a sample of its rows, so that each shard shows a part of the truth.

    Types that have something in common are left to the rows: those that do not fit are rejected when they are read.
    """

    exact = False

    def widen(self, name: str, before: pa.DataType) -> pa.DataType:
        merged = _merge(before, self.type_of(name))
        if merged is None:
            raise self._differs(name, before)
        return merged

    def _fits(self, found: pa.DataType, expected: pa.DataType) -> bool:
        return _merge(found, expected) is not None


def _check_id(shard: _ShardColumns) -> None:
    if shard.id_column is None:
        return
    kind = find_type(shard.schema, shard.id_column)
    if not (_is_text(kind) or pa.types.is_integer(kind) or pa.types.is_null(kind)):
        raise CorpusError(
            f"{shard.uri}: the id column {shard.id_column!r} is {kind}; ids must be strings or integers. Set "
            "corpus.id to another column, or to null to number the rows."
        )


def _check_text(shard: _ShardColumns, name: str, *, alone: bool) -> None:
    """alone: whether the column is the whole text; a number may only be a part of one."""
    kind = find_type(shard.schema, name) or pa.null()
    number = pa.types.is_integer(kind) or pa.types.is_floating(kind)
    if not (_is_text(kind) or pa.types.is_null(kind) or (number and not alone)):
        raise CorpusError(
            f"{shard.uri}: the text column {name!r} is {kind}; it must be a string. Set corpus.text to another column."
        )


def _is_text(kind: pa.DataType) -> bool:
    if pa.types.is_dictionary(kind):
        kind = kind.value_type
    return bool(pa.types.is_string(kind) or pa.types.is_large_string(kind) or pa.types.is_string_view(kind))


def _way_out(schema: pa.Schema, setting: str, name: str) -> str:
    """The end of the message about a missing column: what may help."""
    have = all_paths(schema)
    close = difflib.get_close_matches(name, have, n=1)
    hint = f" Did you mean {close[0]!r}?" if close else ""
    without = " If there are no ids, set corpus.id=null to number the rows." if setting == "id" else ""
    if len(have) == 1 and any(delimiter in have[0] for delimiter in ",;|\t"):
        without = " If this is the whole header of a CSV, set corpus.delimiter to its separator."
    return f"{hint} It has: {', '.join(have)}.{without}"


def _merge(one: pa.DataType, other: pa.DataType) -> pa.DataType | None:
    """The type that holds the values of both; None if there is no such type."""
    schemas = [pa.schema([("value", kind)]) for kind in (one, other)]
    try:
        return pa.unify_schemas(schemas, promote_options="permissive").field("value").type
    except pa.ArrowException:
        return None


def _readable(kind: pa.DataType) -> pa.DataType:
    """The type without views: Arrow cannot take rows of them, nor write them in all versions."""
    return _replace(kind, {pa.string_view(): pa.string(), pa.binary_view(): pa.binary()})


def _replace(kind: pa.DataType, to: dict[pa.DataType, pa.DataType]) -> pa.DataType:
    """The type with some types in it, at whatever depth, replaced by others."""
    if kind in to:
        return to[kind]
    if pa.types.is_struct(kind):
        return pa.struct([field.with_type(_replace(field.type, to)) for field in kind.fields])
    if pa.types.is_map(kind):
        return pa.map_(_replace(kind.key_type, to), _replace(kind.item_type, to))
    if pa.types.is_list(kind) or pa.types.is_large_list(kind):
        item = kind.value_field.with_type(_replace(kind.value_type, to))
        return pa.list_(item) if pa.types.is_list(kind) else pa.large_list(item)
    return kind


def _fill_nulls(kind: pa.DataType, other: pa.DataType) -> pa.DataType:
    """The type with each null in it, at whatever depth, replaced by what ``other`` has in that place."""
    if pa.types.is_null(kind):
        return other
    if pa.types.is_struct(kind) and pa.types.is_struct(other):
        there = {field.name: field.type for field in other.fields}
        fields = [field.with_type(_fill_nulls(field.type, there.get(field.name, field.type))) for field in kind.fields]
        return pa.struct(fields)
    if pa.types.is_map(kind) and pa.types.is_map(other):
        return pa.map_(kind.key_type, _fill_nulls(kind.item_type, other.item_type))
    if kind.id == other.id and (pa.types.is_list(kind) or pa.types.is_large_list(kind)):
        item = kind.value_field.with_type(_fill_nulls(kind.value_type, other.value_type))
        return pa.list_(item) if pa.types.is_list(kind) else pa.large_list(item)
    return kind
