"""The versions of how rows are read: what an existing, sound row of a shard is read as, and when that has changed.

Whoever changes what a row reads as (its text, its id, a carried value, or whether it is a row at all) adds a line to
`CHANGES`, with the number that all lines of the next release share. Shards that the change can touch are then read
again in the next run, and rows that stay the same are not encoded again. What was refused or failed before needs no
line. Knows shards, settings and types; reads nothing.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass

import pyarrow as pa

from sfr_batch.config.settings import CorpusSettings
from sfr_batch.corpus.file_formats import CSV, JSONL, TEXT
from sfr_batch.corpus.shards import Shard
from sfr_batch.corpus.text_template import TextTemplate


@dataclass(frozen=True, slots=True)
class ReadShard:
    """A shard, and what decides how it is read."""

    shard: Shard
    settings: CorpusSettings
    carry: Mapping[str, pa.DataType]
    """Types of the carried columns in the table."""


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


CHANGES: tuple[Change, ...] = (
    Change(JSONL, 2, "a row without a column has the value of its folder, key=value", _takes_a_column_of_the_path),
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
