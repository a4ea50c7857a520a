"""The row recipe of each shard: the settings that decide which rows and columns it gives, and how it is read.

A shard that a table has under another recipe is read again. Knows settings and types of columns; reads nothing.
"""

import dataclasses
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import pyarrow as pa

from sfr_batch.config.settings import CorpusSettings
from sfr_batch.corpus.reading_version import ReadShard, changes_since, earlier_versions, reading_version
from sfr_batch.corpus.shards import Shard
from sfr_batch.corpus.survey import ShardStatistics
from sfr_batch.errors import counted
from sfr_batch.format.fingerprint import digest
from sfr_batch.format.records import ShardRecord


def make_row_recipe(corpus: CorpusSettings) -> dict[str, Any]:
    """The settings that decide which rows and columns a shard gives."""
    same = all(name == path for name, path in corpus.carried.items())
    carry = list(corpus.carry) if same else corpus.carried
    recipe = {"id": corpus.id, "text": corpus.text, "carry": carry}
    # Only where they are not the default: a setting that is added later must not make all shards count as changed.
    given, usual = corpus.model_dump(), CorpusSettings(path="-").model_dump()
    return recipe | {key: given[key] for key in _READING if given[key] != usual[key]}


_READING = (
    "format",
    "encoding",
    "delimiter",
    "quote",
    "escape",
    "escape_unquoted",
    "trim",
    "header",
    "comment",
    "nulls",
)
"""Settings that decide how a file is read."""


@dataclass(frozen=True)
class ShardRecipes:
    """The row recipes of the shards of a corpus."""

    corpus: CorpusSettings
    carry: Mapping[str, pa.DataType]
    """Types of the carried columns in the table."""
    settings: dict[str, Any]
    """See `make_row_recipe`."""
    _digests: dict[int, str] = field(default_factory=dict, compare=False, repr=False)

    @classmethod
    def make(cls, corpus: CorpusSettings, carry: Mapping[str, pa.DataType]) -> "ShardRecipes":
        return cls(corpus, carry, make_row_recipe(corpus))

    def of(self, shard: Shard) -> str:
        """The digest of the shard's row recipe."""
        return self._digest(reading_version(self._subject(shard)))

    def of_several(self, shards: Iterable[Shard]) -> str:
        """What the shards' recipes are together: their digest if they have one, else a digest of all of them."""
        found = sorted({self.of(shard) for shard in shards})
        return found[0] if len(found) == 1 else digest(found)

    def changes_since(self, shard: Shard, recipe: str, schema: pa.Schema | None = None) -> list[str] | None:
        """What an earlier release has read otherwise, if it has recorded the shard with this digest and the settings
        are the same; None if something else is different.

        schema: the columns of the shard, if they are known. They may show that no change can touch it: then [].
        """
        subject = self._subject(shard)
        for version in earlier_versions(subject):
            if recipe == self._digest(version):
                return changes_since(version, dataclasses.replace(subject, schema=schema))
        return None

    def _subject(self, shard: Shard) -> ReadShard:
        return ReadShard(shard, self.corpus, self.carry)

    def _digest(self, version: int) -> str:
        """The version is part of the recipe only if it is not 1: recipes of the first releases stay the same."""
        if version not in self._digests:
            self._digests[version] = digest(self.settings | ({} if version == 1 else {"reading": version}))
        return self._digests[version]


@dataclass(frozen=True, slots=True)
class Reread:
    """Shards that have not changed and are read again, because this release reads something otherwise."""

    what: str
    """See `reading_version.Change`."""
    shards: int
    example: str
    """URI of one of the shards."""

    def describe(self) -> str:
        """A line for people."""
        return (
            f"{counted(self.shards, 'unchanged shard')}, e.g. {self.example}, read again: since an older release has "
            f"read them, {self.what}. Rows that stay the same are not embedded again"
        )


def find_reread(
    recipes: ShardRecipes, changed: Sequence[ShardStatistics], records: Iterable[ShardRecord], generation: str
) -> tuple[tuple[Reread, ...], list[ShardRecord]]:
    """Why shards are read again although neither they nor the settings have changed; and, with the recipe of today, the
    records of those that need not be, for their columns show that no row of them is read otherwise.

    changed: surveys of all shards that count as changed; records: of the base snapshot; generation: the label that the
    vectors must have, "" for any.
    """
    before = {record.uri: record for record in records}
    found: dict[str, list[str]] = {}
    untouched = []
    for survey in changed:
        shard = survey.shard
        record = before.get(shard.uri)
        if record is None or record.version != shard.version or generation not in ("", record.generation):
            continue
        since = recipes.changes_since(shard, record.recipe, survey.schema)
        for what in since or ():
            found.setdefault(what, []).append(shard.uri)
        if since == [] and not shard.touched:
            untouched.append(dataclasses.replace(record, recipe=recipes.of(shard)))
    return tuple(Reread(what, len(uris), uris[0]) for what, uris in found.items()), untouched
