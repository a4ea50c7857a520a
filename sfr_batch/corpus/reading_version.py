"""The versions of how rows are read: what an existing, sound row of a shard is read as, and when that has changed.

Whoever changes what a row reads as (its text, its id, a carried value, or whether it is a row at all) adds a line to
`CHANGES`, with the number that all lines of the next release share. Shards that the change can touch are then read
again in the next run, and rows that stay the same are not encoded again. What was refused or failed before needs no
line. Knows shards, settings and types; reads nothing.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass

import pyarrow as pa
import pyarrow.types as kinds

from sfr_batch.config.settings import CorpusSettings
from sfr_batch.corpus.column_paths import find_type
from sfr_batch.corpus.file_formats import CSV, JSONL, PARQUET, TEXT
from sfr_batch.corpus.shards import Shard
from sfr_batch.corpus.text_template import TextTemplate


@dataclass(frozen=True, slots=True)
class ReadShard:
    """A shard, and what decides how it is read."""

    shard: Shard
    settings: CorpusSettings
    carry: Mapping[str, pa.DataType]
    """Types of the carried columns in the table, by name."""
    schema: pa.Schema | None = None
    """The columns of the shard, as `survey` finds them; None as long as it has not been opened."""


@dataclass(frozen=True, slots=True)
class Change:
    """A change of what rows of a format are read as."""

    format: str
    version: int
    """The version that it came with; before any change it is 1."""
    what: str
    """What is read otherwise since, as a sentence that goes on after a comma: `NaN in a JSON text is no text`."""
    touches: Callable[[ReadShard], bool]
    """Whether it can touch a shard. True if that cannot be known without opening the shard."""


def _takes_a_column_of_the_path(subject: ReadShard) -> bool:
    wanted = {*TextTemplate(subject.settings.text).columns, *subject.settings.carried.values()}
    return not wanted.isdisjoint(subject.shard.columns_of_path(subject.settings))


def _always(subject: ReadShard) -> bool:
    return True


def _carries_what_was_made_to_fit(subject: ReadShard) -> bool:
    """Texts, bytes, booleans and decimals have always been what JSON says, or a reject."""
    return any(
        kinds.is_nested(kind) or kinds.is_integer(kind) or kinds.is_floating(kind) or kinds.is_temporal(kind)
        for kind in subject.carry.values()
    )


def _has_numbers_in_its_text(subject: ReadShard) -> bool:
    """A column that is the whole text is never a number. The types of a file of JSON are never certain."""
    columns = TextTemplate(subject.settings.text).columns
    if len(columns) < 2:
        return False
    if subject.schema is None or subject.shard.format == JSONL:
        return True
    found = (find_type(subject.schema, path) for path in columns)
    return any(kind is not None and kinds.is_floating(kind) for kind in found)


def _carries_int96_in_nanoseconds(subject: ReadShard) -> bool:
    """A survey finds microseconds where a file has INT96."""
    for name, kind in subject.carry.items():
        if _has_unit(kind, "ns"):
            found = subject.schema and find_type(subject.schema, subject.settings.carried[name])
            if subject.schema is None or (found is not None and _has_unit(found, "us")):
                return True
    return False


def _has_unit(kind: pa.DataType, unit: str) -> bool:
    if kinds.is_timestamp(kind):
        return bool(kind.unit == unit)
    return any(_has_unit(kind.field(at).type, unit) for at in range(kind.num_fields))


_ONE_TEXT = "in a template of several columns, NaN and infinity are no text, and 2005.0 is 2005"
_FITS = "in carried columns, fractions, texts and numbers of other types are rejected rather than made to fit"
_INT96 = "times of INT96 that nanoseconds cannot hold are rejected rather than other times"


CHANGES: tuple[Change, ...] = (
    Change(JSONL, 2, "a row without a column has the value of its folder, key=value", _takes_a_column_of_the_path),
    Change(JSONL, 2, _FITS, _carries_what_was_made_to_fit),
    *(Change(format, 2, _ONE_TEXT, _has_numbers_in_its_text) for format in (JSONL, PARQUET)),
    Change(PARQUET, 2, _INT96, _carries_int96_in_nanoseconds),
    # In JSON Lines such a line was rejected.
    *(Change(format, 2, "a byte order mark at the beginning of a line is dropped", _always) for format in (CSV, TEXT)),
    Change(CSV, 2, "a record that repeats the header and a line of dashes are rejected", _always),
    Change(CSV, 2, r"\N in a column in use is rejected unless corpus.nulls says what it means", _always),
    Change(CSV, 2, "a delimiter at the end of every record is no field", _always),
)
"""All changes, oldest first."""


def reading_version(subject: ReadShard) -> int:
    """The version of how the shard is read today; 1 if no change can touch it."""
    return max((change.version for change in _touching(subject)), default=1)


def changes_since(version: int, subject: ReadShard) -> list[str]:
    """What is read otherwise than in this version, a sentence for each change that can touch the shard."""
    return [change.what for change in _touching(subject) if change.version > version]


def earlier_versions(subject: ReadShard) -> list[int]:
    """The versions that a record of the shard may have from earlier releases, newest first."""
    now = reading_version(subject)
    versions = {1, *(change.version for change in _touching(subject))}
    return sorted(versions - {now}, reverse=True)


def _touching(subject: ReadShard) -> list[Change]:
    return [change for change in CHANGES if change.format == subject.shard.format and change.touches(subject)]
