"""Decides which types the table's id and carried columns have, and refuses shards whose columns do not go with them.

To take in another kind of file, say in its `FileFormat` how far a survey knows its columns. Which types are one is
decided in `column_types`, what can be an id in `ids`, a text in `_check_text`. Works on surveyed schemas; reads no
files and knows no rows.
"""

import difflib
from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

import pyarrow as pa

from sfr_batch.config.settings import CorpusSettings
from sfr_batch.corpus.column_paths import all_paths, find_type, top_level
from sfr_batch.corpus.column_types import fill_nulls, is_bytes, is_text, stored_type, table_type, unify, without_null
from sfr_batch.corpus.file_formats import bare_name
from sfr_batch.corpus.ids import id_type
from sfr_batch.corpus.json_types import spells
from sfr_batch.corpus.partitions import PathColumns
from sfr_batch.corpus.shards import settings_for
from sfr_batch.corpus.survey import ShardStatistics
from sfr_batch.corpus.table_names import check_names
from sfr_batch.corpus.text_template import TextTemplate
from sfr_batch.errors import CorpusError
from sfr_batch.format.hashes import ROW_HASH_VERSION


class Carried(NamedTuple):
    """A carried column."""

    path: str
    """Its path in the corpus."""
    type: pa.DataType
    """Its type in the table; null as long as it has no value in any row."""


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

    known: the types that the table has already, and that stay; it may lack columns. elsewhere: columns that shards
    outside of ``surveys`` are known to have. Raises CorpusError naming the shard that lacks a column or has one of an
    unfit type, or ConfigError.
    """
    # Shards mostly have one and the same schema, and may be 100,000.
    distinct = {survey.columns: survey for survey in reversed(surveys) if not survey.empty}
    filled = sorted(distinct.values(), key=lambda survey: survey.shard.uri)
    columns = ColumnResolver(settings, elsewhere).resolve(filled, known)
    if columns is not None:
        types = {path: kind for path, kind in columns.carry.values() if not pa.types.is_string(kind)}
        for survey in surveys if types else ():
            of_path = survey.shard.columns_of_path(settings)
            if not types.keys().isdisjoint(of_path):
                wanted = types.keys() & of_path.keys() & survey.nulls
                PathColumns(survey.shard.uri, of_path, types, ()).check_types(wanted)
    return columns


class ColumnResolver:
    """Resolves the columns that a corpus's settings name against the schemas of its shards."""

    def __init__(self, settings: CorpusSettings, elsewhere: frozenset[str]) -> None:
        self._settings = settings
        self._text = TextTemplate(settings.text).columns
        self._elsewhere = elsewhere

    def resolve(self, surveys: Sequence[ShardStatistics], known: Columns | None) -> Columns | None:
        """See `resolve_columns`; ``surveys`` are of shards with rows."""
        carried, types_known = self._settings.carried, known.types if known else {}
        if not surveys:
            return known if known and types_known.keys() >= carried.keys() else None
        check_names(carried, new=[name for name in carried if name not in types_known])
        shards = [_ShardColumns(survey, self._settings) for survey in surveys]
        wanted = filter(None, (self._settings.id, *self._text, *carried.values()))
        somewhere = self._elsewhere | {path for path in wanted if any(shard.has(path) for shard in shards)}
        for shard in shards:
            self._check_presence(shard, somewhere)
            _check_id(shard)
            for name in self._text:
                _check_text(shard, name, alone=len(self._text) == 1)
        id_kind = known.id_type if known else _id_type(shards)
        for shard in shards:
            _check_same_ids(shard, id_kind, in_table=known is not None)
        types = {name: self._type_of(name, path, shards, types_known.get(name)) for name, path in carried.items()}
        row_hash = known.row_hash if known else ROW_HASH_VERSION
        return Columns(id_kind, {name: Carried(path, types[name]) for name, path in carried.items()}, row_hash)

    def _check_presence(self, shard: "_ShardColumns", somewhere: frozenset[str]) -> None:
        """Raises CorpusError if the shard lacks a column or has two of one name.

        A shard needs its id, one of the text's columns, and of the rest those that no other shard has: columns come
        and go, and are null where they are not.
        """
        optional = somewhere if any(shard.has(name) for name in self._text) else somewhere.difference(self._text)
        for setting, name in [
            *([("id", shard.id_column)] if shard.id_column is not None else []),
            *(("text", name) for name in self._text),
            *(("carry", path) for path in self._settings.carried.values()),
        ]:
            if any(len(shard.schema.get_all_field_indices(part)) > 1 for part in (name, top_level(shard.schema, name))):
                raise CorpusError(
                    f"{shard.uri} has several columns {name!r} (corpus.{setting}); column names must be unique. "
                    "Rename one of them."
                )
            if not shard.has(name) and (name not in optional or setting == "id"):
                way_out = _way_out(shard.uri, shard.schema, setting, name)
                raise CorpusError(f"{shard.uri} has no column {name!r} (corpus.{setting}).{way_out}")

    def _type_of(
        self, name: str, path: str, shards: Sequence["_ShardColumns"], known: pa.DataType | None
    ) -> pa.DataType:
        """The type that a carried column has in the table, where it is ``name`` and has the type ``known`` already.

        Shards whose metadata states their types decide. What has no value in them is as samples of the others show it,
        and what has no value anywhere as its type is declared. Raises CorpusError for a shard of another type.
        """
        retype = None if known is None else name
        stated = _merged(path, [shard for shard in shards if shard.exact], known, retype)
        sampled = _merged(path, [shard for shard in shards if not shard.exact], known, retype)
        kind = fill_nulls(stated if known is None else known, sampled if known is None else stated)
        for other in (sampled, *(shard.declared(path) for shard in shards)):
            kind = fill_nulls(kind, other)
        for shard in shards:
            found = shard.type_of(path)
            if unify(found, kind) is None and (shard.exact or not spells(found, kind)):
                raise shard.differs(path, kind, retype)
        # A sample of nulls alone does not show what is behind it: that would be refused row by row.
        return kind if all(shard.whole for shard in shards) else without_null(kind)


def _merged(path: str, shards: Sequence["_ShardColumns"], known: pa.DataType | None, retype: str | None) -> pa.DataType:
    """The type of the column in all these shards together; null if it has no value there."""
    kind = pa.null()
    for shard in shards:
        both = unify(kind, shard.type_of(path))
        if both is None:
            raise shard.differs(path, kind if known is None else known, retype)
        kind = both
    return kind


class _ShardColumns:
    """The columns of one shard, as its survey found them."""

    def __init__(self, survey: ShardStatistics, settings: CorpusSettings) -> None:
        self.uri = survey.shard.uri
        self.schema = survey.schema
        self.exact = survey.exact
        """Whether the types are the file's own, rather than those of a sample."""
        self.whole = survey.exact or survey.whole
        self.id_column = settings_for(survey.shard, settings).id
        """None if the rows are numbered."""
        self._survey = survey

    def has(self, path: str) -> bool:
        return find_type(self.schema, path) is not None

    def type_of(self, path: str) -> pa.DataType:
        """The type of the column's values; null if the shard lacks the column or has no value in it."""
        if path in self._survey.nulls or path in self._survey.nans:
            return pa.null()
        return find_type(self.schema, path) or pa.null()

    def declared(self, path: str) -> pa.DataType:
        """The type that a column without a value is declared as; null if that means nothing.

        pandas writes float64 and DuckDB int32 where they know of no value.
        """
        kind = table_type(find_type(self.schema, path) or pa.null())
        return pa.null() if path in self._survey.nulls and kind in (pa.float64(), pa.int32()) else kind

    def differs(self, path: str, expected: pa.DataType, retype: str | None) -> CorpusError:
        """The error for a column whose type does not go with the others, or that of the column ``retype`` in the
        table."""
        found = f"{self.uri}: the column {path!r} is {self.type_of(path)}, but in"
        if retype is not None:
            return CorpusError(
                f"{found} the table it is {expected}. Convert it to {expected}. If all of the corpus has the new "
                f"type, run once with table.retype=[{retype}]: the table takes it, and keeps its vectors."
            )
        return CorpusError(
            f"{found} other shards it is {expected}. Convert it to one type, or remove it from corpus.carry."
        )


_NOT_UTF_8 = "\ufffd"
_NUMBERED = "its rows are numbered, so their ids are strings"


def _check_id(shard: _ShardColumns) -> None:
    if shard.id_column is not None and id_type(shard.type_of(shard.id_column)) is None:
        raise CorpusError(
            f"{shard.uri}: the id column {shard.id_column!r} is {shard.type_of(shard.id_column)}; ids must be strings, "
            "integers, whole decimals or UUIDs. Set corpus.id to another column, or to null to number the rows."
        )


def _id_type_of(shard: _ShardColumns) -> pa.DataType:
    """int64, string, or null if the shard has no id."""
    return pa.string() if shard.id_column is None else id_type(shard.type_of(shard.id_column)) or pa.null()


def _id_type(shards: Sequence[_ShardColumns]) -> pa.DataType:
    """The type of the ids in the table: that of the first shard with ids, of those that state their types if any do."""
    ordered = sorted(shards, key=lambda shard: not shard.exact)
    return next((kind for kind in map(_id_type_of, ordered) if not pa.types.is_null(kind)), pa.string())


def _check_same_ids(shard: _ShardColumns, expected: pa.DataType, *, in_table: bool) -> None:
    """Raises CorpusError if the shard's ids are not of this type."""
    kind = _id_type_of(shard)
    if pa.types.is_null(kind) or kind.equals(expected):
        return
    what = f"the id column {shard.id_column!r} is {shard.type_of(shard.id_column)}" if shard.id_column else _NUMBERED
    if in_table:
        raise CorpusError(
            f"{shard.uri}: {what}, but the ids in the table are {expected}. Convert the ids to {expected}, or write to "
            "a new table: table.path=<another path>."
        )
    raise CorpusError(
        f"{shard.uri}: {what}, but the ids in other shards are {expected}. Convert the ids to one type, or set "
        "corpus.id=null to number the rows."
    )


def _check_text(shard: _ShardColumns, name: str, *, alone: bool) -> None:
    """alone: whether the column is the whole text; a number may only be a part of one."""
    kind = shard.type_of(name)
    number = pa.types.is_integer(kind) or pa.types.is_floating(kind) or pa.types.is_decimal(kind)
    if not (is_text(kind) or is_bytes(kind) or pa.types.is_null(stored_type(kind)) or (number and not alone)):
        raise CorpusError(
            f"{shard.uri}: the text column {name!r} is {kind}; it must be a string. Set corpus.text to another column."
        )


def _way_out(uri: str, schema: pa.Schema, setting: str, name: str) -> str:
    """The end of the message about a missing column: what may help."""
    have = all_paths(schema)
    close = [other for other in have if other.casefold() == name.casefold()] or difflib.get_close_matches(
        name, have, n=1
    )
    hint = f" Did you mean {close[0]!r}?" if close else ""
    without = " If there are no ids, set corpus.id=null to number the rows." if setting == "id" else ""
    if setting == "id" and bare_name(uri)[0].endswith(".json"):  # manifest.json, schema.json and the like
        without += " If the file holds no documents, name the others by a pattern in corpus.path."
    if len(have) == 1 and (any(delimiter in have[0] for delimiter in ",;|\t") or name in have[0]):
        without = " If this is the whole header of a CSV, set corpus.delimiter to its separator."
    elif any(_NOT_UTF_8 in other for other in have):
        without = " The header is not UTF-8: set corpus.encoding, such as corpus.encoding=cp1252."
    return f"{hint} It has: {', '.join(have)}.{without}"
