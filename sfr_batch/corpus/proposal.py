"""Proposes settings for a corpus that nobody has described yet, and says what it saw and how sure it is.

Looks at the first names below a path and at the first rows of a few files. What it proposes can be planned: the columns
are checked as a plan checks them. Knows no table and no model.
"""

import contextlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from sfr_batch.config.settings import CorpusSettings
from sfr_batch.corpus import foreign_tables
from sfr_batch.corpus.column_choice import SURE, Choice, choose_carried, choose_id, choose_text
from sfr_batch.corpus.columns import resolve_columns
from sfr_batch.corpus.csv_questions import OtherDialect
from sfr_batch.corpus.file_formats import CSV, DELTA, FORMATS, ICEBERG, JSONL
from sfr_batch.corpus.listing import Listing, OtherEndings, UnclearFormat, list_shards
from sfr_batch.corpus.samples import INTEGER, MIXED, NOTHING, NUMBER, STRING, SampledColumn, sample_rows
from sfr_batch.corpus.shards import Shard
from sfr_batch.corpus.survey import survey_shards
from sfr_batch.errors import ConfigError, CorpusError, counted
from sfr_batch.storage.locations import absolute_uri

FIRST_NAMES = 2000
"""Most names that are listed, however many there are."""
_FILES = 6
"""Most files of which rows are read."""
_TABLES = {foreign_tables.DELTA: DELTA, foreign_tables.ICEBERG: ICEBERG}


@dataclass(frozen=True)
class Proposal:
    """Settings for a corpus, with the reasons for people."""

    settings: CorpusSettings
    seen: str
    """What was looked at."""
    id: Choice
    text: Choice
    carried: Mapping[str, str]
    """Path of each carried column, by its name in the table."""
    left_out: Sequence[str]
    """Paths of the columns that are not used."""
    reading: Mapping[str, Any]
    """Settings that say how files are read and are not the default: format, delimiter and others."""
    lengths: Sequence[int]
    """Characters of the texts of the sample."""


@dataclass(frozen=True)
class _Look:
    """What was seen of a corpus."""

    settings: CorpusSettings
    listing: Listing
    shards: Sequence[Shard]
    """Those of which rows were read."""
    columns: Mapping[str, SampledColumn]
    rows: int
    dialect: Mapping[str, Any]

    def describe(self) -> str:
        formats = ", ".join(sorted({shard.format for shard in self.shards}))
        files = counted(len(self.listing), "file")
        files = files if self.listing.complete else f"the first {len(self.listing):,} files (there are more)"
        kind = f"{self.settings.format} table" if self.settings.is_table else formats
        return f"{counted(self.rows, 'row')} in {len(self.shards)} of {files}: {kind}"


def propose(settings: CorpusSettings, text: str | None = None) -> Proposal:
    """Look at the corpus at `corpus.path`. Of the settings the path, the format and the storage count.

    text: path of the column to embed, if that is known. Raises ConfigError or CorpusError if the corpus cannot be read,
    or if no column looks like a text.
    """
    look = _look_at_any_format(_with_format(settings))
    text_is = choose_text(look.columns, str(settings.path), text)
    if any(FORMATS[shard.format].has_ids for shard in look.shards):
        id_ = choose_id(look.columns, look.rows, text_is.path)
    else:
        id_ = Choice("", f"{SURE}: text files have no ids; rows are numbered by file and position")
    carried, left_out = choose_carried(look.columns, id_.path, text_is.path)
    found, kept = _settle(look, id_.path, text_is.path, carried)
    reading = {name: getattr(found, name) for name in ("format", *look.dialect) if name in found.model_fields_set}
    reading |= {name: getattr(found, name) for name in found.model_fields_set - _CHOSEN - reading.keys()}
    return Proposal(
        settings=found,
        seen=look.describe(),
        id=id_,
        text=text_is,
        carried=kept,
        left_out=[*left_out, *(path for name, path in carried.items() if name not in kept)],
        reading=reading,
        lengths=[len(value) for value in look.columns[text_is.path].values],
    )


_CHOSEN = {"path", "id", "text", "carry", "storage"}


def _with_format(settings: CorpusSettings) -> CorpusSettings:
    """The settings with the format of a table, if the path is one that can be read."""
    if settings.format != "auto" or not isinstance(settings.path, str) or any(char in settings.path for char in "*?["):
        return settings
    uri = absolute_uri(settings.path)
    root = foreign_tables.root_above(uri, settings.storage)
    if root and root[0] == uri and root[1] in _TABLES:
        return settings.model_copy(update={"format": _TABLES[root[1]]})
    return settings


def _look_at_any_format(settings: CorpusSettings) -> _Look:
    """See `_look`. Of files whose names do not tell their format, it is the one that they can be read as."""
    try:
        return _look(settings)
    except UnclearFormat as error:
        # Any text is a CSV of some kind: where an ending is another one, only JSON Lines are beyond doubt.
        for kind in (JSONL,) if isinstance(error, OtherEndings) else (JSONL, CSV):
            with contextlib.suppress(CorpusError):
                look = _look(settings.model_copy(update={"format": kind}))
                if len(look.columns) > 1:
                    return look
        raise


def _look(settings: CorpusSettings) -> _Look:
    listing = list_shards(settings, FIRST_NAMES)
    shards = _spread([shard for shard in listing if shard.size])
    found: dict[str, list[SampledColumn]] = {}
    rows, dialect = 0, dict[str, Any]()
    for shard in shards:
        sample = sample_rows(shard, settings)
        rows += sample.rows
        dialect = {**sample.dialect, **dialect}
        for path, column in sample.columns.items():
            found.setdefault(path, []).append(column)
        for name, value in shard.columns_of_path(settings).items():
            if name not in sample.columns and sample.rows:
                found.setdefault(name, []).append(SampledColumn.repeated(name, value, sample.rows))
    if not rows:
        survey_shards(shards, settings)  # it may know why
        raise CorpusError(f"The corpus {settings.path} has no rows, e.g. in {listing[0].uri}. Add rows, or correct it.")
    columns = {path: _together(its, rows) for path, its in found.items()}
    return _Look(settings, listing, shards, columns, rows, dialect)


def _spread(shards: Sequence[Shard]) -> list[Shard]:
    """A few shards: the first of each format, the first and the last, and some between them."""
    if not shards:
        return []
    firsts = {shard.format: shard for shard in reversed(shards)}
    steps = sorted({round(number * (len(shards) - 1) / (_FILES - 1)) for number in range(_FILES)})
    chosen = {shard.uri: shard for shard in (*firsts.values(), *(shards[number] for number in steps))}
    return sorted(list(chosen.values())[:_FILES], key=lambda shard: shard.uri)


def _together(columns: Sequence[SampledColumn], rows: int) -> SampledColumn:
    """One column of what several shards have."""
    kinds = {column.kind for column in columns} - {NOTHING}
    kind = kinds.pop() if len(kinds) == 1 else NOTHING if not kinds else NUMBER if kinds == {NUMBER, INTEGER} else MIXED
    filled = sum(column.filled for column in columns)
    values = tuple(value for column in columns for value in column.values) if kind in (STRING, INTEGER) else ()
    return SampledColumn(columns[0].path, kind, values, rows - filled, filled)


def _settle(look: _Look, id_: str, text: str, carried: Mapping[str, str]) -> tuple[CorpusSettings, dict[str, str]]:
    """The settings, checked as a plan checks them, and the columns that can be carried. Raises CorpusError."""
    kept, dialect = dict(carried), dict(look.dialect)
    while True:
        chosen = {"id": id_ or None, "text": text, "carry": kept} | dialect
        same = all(name == path for name, path in kept.items())
        chosen["carry"] = list(kept) if same else kept
        told = look.settings.model_dump(exclude_unset=True)
        settings = CorpusSettings.model_validate({**told, **chosen})
        try:
            resolve_columns(survey_shards(look.shards, settings), settings)
            return settings, kept
        except OtherDialect as other:
            if other.settings.items() <= dialect.items():
                raise
            dialect |= other.settings
        except (ConfigError, CorpusError) as error:
            if not kept:
                raise
            wrong = [name for name, path in kept.items() if repr(path) in str(error) or repr(name) in str(error)]
            kept.pop((wrong or list(kept))[-1])
