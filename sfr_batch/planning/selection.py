"""What a run is about (`select`): whole shards, or some rows of them.

Whole shards: the selected shards are treated like a smaller corpus; shards outside are neither read nor deleted. Some
rows: rows are added and replaced, none is deleted. `WholeShards` and `SomeRows` answer whatever differs between the
two, so that planning, comparison and drafting ask them instead of the settings. Reads at most the rejects of a
snapshot; writes nothing.
"""

import dataclasses
import fnmatch
from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal, NamedTuple

import pyarrow as pa
import pyarrow.compute as pc

from sfr_batch.config.settings import Config, SelectSettings, TableSettings
from sfr_batch.corpus.columns import Columns
from sfr_batch.corpus.partitions import HIVE_NULL, Partition, partition_of
from sfr_batch.corpus.shards import Shard
from sfr_batch.format import names
from sfr_batch.format.records import KEPT, ChangeCounts, ShardRecord
from sfr_batch.planning.row_comparison import RowComparison
from sfr_batch.planning.row_filter import RowFilter
from sfr_batch.table.table import Snapshot

_RANGE = ".."


class Coverage(NamedTuple):
    """What the next snapshot has of a shard: rows read, those of them that are rejected, own splits, and the rejected
    rows that gave way to another row with their id."""

    read: int
    rejected: int
    splits: int
    superseded: int = 0

    def put_into(self, record: ShardRecord) -> ShardRecord:
        """The record with these counts."""
        return dataclasses.replace(record, **self._asdict())


@dataclass(frozen=True)
class Selection(ABC):
    """The answers of `select`. ``old`` below: records of the compared shards in the base snapshot; ``indexed``: URIs
    of the shards that get an index."""

    select: SelectSettings
    table: TableSettings

    @property
    def keeps_kept(self) -> bool:
        """Whether documents that earlier runs have kept (`table.delete: keep`) stay in the table."""
        return self.table.delete == "keep" or not self.select.everything

    @property
    def generation(self) -> str:
        """The `table.generation` that a vector must have to be used again; "" for any."""
        return self.table.generation

    @property
    def condemned(self) -> frozenset[str] | None:
        """All names that the next snapshot condemns; None: those of the base snapshot."""
        return None

    @property
    def operation(self) -> Literal["embed", "backfill", "repair"]:
        """The operation that the manifest names."""
        return "embed" if self.select.everything and not self.table.generation else "backfill"

    # --- planning

    @abstractmethod
    def leaving(self, vanished: Sequence[ShardRecord]) -> list[ShardRecord]:
        """Those of the vanished shards that leave the table."""

    @property
    @abstractmethod
    def always_compares(self) -> bool:
        """Whether rows must be compared even if the table has nothing to compare with."""

    # --- comparison

    @abstractmethod
    def old_rejects(self, base: Snapshot | None, shards: frozenset[str] | None = None) -> pa.Table | None:
        """The rejects of the base snapshot that may stay or be tried again, columns of `names.REJECTS_SCHEMA`; None:
        there are none. shards: URIs of those whose rejects are read, None: all."""

    @abstractmethod
    def row_filter(self, columns: Columns, rejects: pa.Table | None) -> RowFilter | None:
        """The filter for the rows to compare; None: all rows. rejects: of `old_rejects`.

        Raises ConfigError if ``select.where`` is wrong.
        """

    def narrowed(self, found: RowComparison) -> RowComparison:
        """The comparison, where rows that the run is not about are passed over."""
        return found

    @abstractmethod
    def keeps_own_splits(self, shard: Shard) -> bool:
        """Whether a shard without any known row keeps its own splits; else its rows are packed."""

    @abstractmethod
    def changes(self, found: ChangeCounts) -> ChangeCounts:
        """The changes that the run makes, of those that the comparison found."""

    @abstractmethod
    def is_done(self, changes: ChangeCounts) -> bool:
        """Whether, after the comparison, there is nothing to publish."""

    # --- drafting

    def remaining(self, vanished: Sequence[ShardRecord], coverage: Mapping[str, Coverage]) -> list[ShardRecord]:
        """New records of compared shards that are no longer in the corpus and stay. coverage: by URI, what is left."""
        return []

    @abstractmethod
    def untouched(self, old: Sequence[ShardRecord], indexed: frozenset[str]) -> list[ShardRecord]:
        """Records of compared shards that stay as they are, because they have no selected row and lose no document."""

    @abstractmethod
    def covers_anew(self, uri: str, indexed: frozenset[str]) -> bool:
        """Whether a changed shard gets a new record."""

    @abstractmethod
    def record(self, shard: Shard, recipe: str, covered: Coverage, before: ShardRecord | None) -> ShardRecord:
        """The new record of a shard. recipe: digest of the row recipe; before: its record in the base snapshot."""

    @abstractmethod
    def owner_of_left(self, record: ShardRecord) -> str | None:
        """The URI of the shard that from now on owns the documents of this old one whose ids the comparison did not
        find in the corpus, see `left_documents`; None: they leave the table."""

    def keeps_others(self, uri: str, indexed: frozenset[str]) -> bool:
        """Whether the documents of a compared shard stay that a filter has kept out of the comparison, in a new index
        of the shard."""
        return False


class WholeShards(Selection):
    """All rows of the selected shards."""

    def leaving(self, vanished: Sequence[ShardRecord]) -> list[ShardRecord]:
        return list(vanished)

    @property
    def always_compares(self) -> bool:
        return False

    def old_rejects(self, base: Snapshot | None, shards: frozenset[str] | None = None) -> pa.Table | None:
        return None  # every row is read again, so every reject is found again

    def row_filter(self, columns: Columns, rejects: pa.Table | None) -> RowFilter | None:
        return None

    def keeps_own_splits(self, shard: Shard) -> bool:
        return True

    def changes(self, found: ChangeCounts) -> ChangeCounts:
        return found

    def is_done(self, changes: ChangeCounts) -> bool:
        return False  # the shards have other versions, which the next snapshot must name

    def untouched(self, old: Sequence[ShardRecord], indexed: frozenset[str]) -> list[ShardRecord]:
        return []

    def covers_anew(self, uri: str, indexed: frozenset[str]) -> bool:
        return True

    def record(self, shard: Shard, recipe: str, covered: Coverage, before: ShardRecord | None) -> ShardRecord:
        return ShardRecord(
            uri=shard.uri,
            version=shard.version,
            size=shard.size,
            recipe=recipe,
            generation=self.table.generation,
            read=covered.read,
            splits=covered.splits,
            rejected=covered.rejected,
            ctime_ns=shard.ctime_ns,
            superseded=covered.superseded,
        )

    def owner_of_left(self, record: ShardRecord) -> str | None:
        kept_before = record.uri == KEPT and self.keeps_kept
        return KEPT if kept_before or self.table.delete == "keep" else None


class SomeRows(Selection):
    """Rows that a filter selects; all other rows of the table stay as they are."""

    def leaving(self, vanished: Sequence[ShardRecord]) -> list[ShardRecord]:
        return []

    @property
    def always_compares(self) -> bool:
        return True  # only reading tells which rows are selected

    def old_rejects(self, base: Snapshot | None, shards: frozenset[str] | None = None) -> pa.Table | None:
        return base.rejects(duplicates=False, shards=shards) if base else None

    def row_filter(self, columns: Columns, rejects: pa.Table | None) -> RowFilter | None:
        return RowFilter.make(self.select, columns, _ids_to_retry(rejects) if self.select.rejects else None)

    def keeps_own_splits(self, shard: Shard) -> bool:
        return False

    def changes(self, found: ChangeCounts) -> ChangeCounts:
        return found.model_copy(update={"deleted": 0})

    def is_done(self, changes: ChangeCounts) -> bool:
        return not (changes.new or changes.changed or changes.copied)

    def untouched(self, old: Sequence[ShardRecord], indexed: frozenset[str]) -> list[ShardRecord]:
        return [record for record in old if record.uri not in indexed and record.uri != KEPT]

    def covers_anew(self, uri: str, indexed: frozenset[str]) -> bool:
        return uri in indexed

    def record(self, shard: Shard, recipe: str, covered: Coverage, before: ShardRecord | None) -> ShardRecord:
        known = covered.put_into(before or ShardRecord(shard.uri, "", shard.size, recipe, "", 0, 0))
        if known.version != shard.version:  # a version that no shard has: the next whole run reads all of it
            known = dataclasses.replace(known, version="")
        return dataclasses.replace(known, retried=self.table.generation) if self.select.rejects else known

    def owner_of_left(self, record: ShardRecord) -> str | None:
        return None  # none was compared, see `keeps_others`

    def keeps_others(self, uri: str, indexed: frozenset[str]) -> bool:
        return uri in indexed or uri == KEPT


def selection_of(config: Config) -> Selection:
    """The selection that a config asks for."""
    kind = SomeRows if config.select.by_rows else WholeShards
    return kind(config.select, config.table)


def _ids_to_retry(rejects: pa.Table | None) -> dict[str, frozenset[str]]:
    """Ids, as text and by shard, of the documents that were rejected after they had been read."""
    if rejects is None:
        return {}
    found: dict[str, set[str]] = {}
    some = rejects.filter(pc.field(names.REASON).isin(names.AFTER_READING))
    for uri, id_ in zip(some.column(names.SHARD).to_pylist(), some.column(names.ID).to_pylist(), strict=True):
        found.setdefault(uri, set()).add(id_)
    return {uri: frozenset(ids) for uri, ids in found.items()}


def covers(settings: SelectSettings, uri: str, partition: Partition | None = None) -> bool:
    """Whether the shard ``uri`` is selected by name (`select.shards`) and partition (`select.partitions`).

    partition: of the shard; None if only its path is known.
    """
    if settings.shards and not any(_matches(uri, pattern) for pattern in settings.shards):
        return False
    if not settings.partitions:
        return True
    # Also as they are written, with their escapes, which is what older configs have.
    written = dict(part.split("=", 1) for part in uri.split("/")[:-1] if "=" in part)
    values = {name: HIVE_NULL if value is None else value for name, value in partition or partition_of(uri)}
    return all(
        any(_within(found[name], wanted) for found in (values, written) if name in found)
        for name, wanted in settings.partitions.items()
    )


def _matches(uri: str, pattern: str) -> bool:
    """Match the file name if the pattern has no slash, else the end of the path."""
    if "/" not in pattern:
        return fnmatch.fnmatchcase(uri.rsplit("/", 1)[-1], pattern)
    return fnmatch.fnmatchcase(uri, pattern) or fnmatch.fnmatchcase(uri, f"*/{pattern.lstrip('/')}")


def _within(value: str, wanted: str) -> bool:
    first, range_, last = wanted.partition(_RANGE)
    if not range_:
        return fnmatch.fnmatchcase(value, wanted)
    return (not first or value >= first) and (not last or value <= last)
