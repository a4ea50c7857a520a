"""The shards of the corpus against those of the base snapshot: which are selected, unchanged, changed or vanished.

Compares versions, row recipes and labels; opens no shard.
"""

import dataclasses
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import pyarrow.compute as pc

from sfr_batch.config.settings import Config, SelectSettings
from sfr_batch.corpus.shards import Shard
from sfr_batch.errors import ConfigError, counted
from sfr_batch.format import names
from sfr_batch.format.records import KEPT, ShardRecord
from sfr_batch.planning.carried_columns import EarlierRecipes
from sfr_batch.planning.recipes import ShardRecipes
from sfr_batch.planning.repairing import affected_shards
from sfr_batch.planning.selection import covers, selection_of
from sfr_batch.table.commit.remains import Remains
from sfr_batch.table.table import Snapshot


@dataclass(frozen=True)
class Selected:
    """Shards of the corpus that are selected, and records of the base snapshot that are not."""

    shards: list[Shard]
    outside: list[ShardRecord]


@dataclass(frozen=True)
class ShardDiff:
    """The selected shards against the base snapshot."""

    unchanged: list[ShardRecord]
    changed: list[Shard]
    """Changed and new shards."""
    vanished: list[ShardRecord]
    """Shards that leave the table."""
    staying: list[ShardRecord]
    """Shards that the corpus no longer has and that stay in the table."""
    left_alone: list[ShardRecord]
    """Shards that stay in the table, whether the corpus has them or not: they are not selected."""


def diff_shards(
    config: Config,
    selected: Selected,
    base: Snapshot | None,
    recipes: ShardRecipes,
    dropped: EarlierRecipes | None,
    again: frozenset[str],
) -> ShardDiff:
    """Which selected shards the base snapshot has as they are, which have changed, and which have vanished."""
    if isinstance(base, Remains):
        return ShardDiff(*affected_shards(base, selected.shards, again), [], [])
    selection, generation = selection_of(config), config.table.generation
    if config.select.rejects:
        unchanged, changed = _only_rejected(base, selected.shards, generation)
    else:
        unchanged, changed = carry_over(
            base,
            selected.shards,
            recipes.of,
            generation,
            by_ctime=config.corpus.ctime,
            again=again,
            dropped=dropped,
        )
    outside = {record.uri for record in selected.outside}
    missing = find_vanished(base, selected.shards, keep=selection.keeps_kept)
    vanished = [record for record in missing if record.uri not in outside]
    leaving = selection.leaving(vanished)
    uris = {record.uri for record in leaving}
    staying = [record for record in vanished if record.uri not in uris]
    return ShardDiff(unchanged, changed, leaving, staying, selected.outside)


def select_shards(settings: SelectSettings, shards: Sequence[Shard], base: Snapshot | None) -> Selected:
    """Apply `select.shards` and `select.partitions`. Raises ConfigError if they match no shard of corpus or table."""
    if settings.everything:
        return Selected(list(shards), [])
    inside = [shard for shard in shards if covers(settings, shard.uri, shard.partition)]
    partitions = {shard.uri: shard.partition for shard in shards}
    records = base.read_shards() if base else []
    covered = {record.uri for record in records if covers(settings, record.uri, partitions.get(record.uri))}
    if not inside and not covered:
        raise ConfigError(
            f"select matches none of the {counted(len(shards), 'shard')} of the corpus, e.g. {shards[0].uri}. Correct "
            "select.shards or select.partitions."
        )
    return Selected(inside, [r for r in records if r.uri != KEPT and r.uri not in covered])


def _only_rejected(base: Snapshot | None, shards: Sequence[Shard], label: str) -> tuple[list[ShardRecord], list[Shard]]:
    """Records of the shards without rejects to try again, even if they have changed; and the shards with such rejects.

    label: the `table.generation`, under which rejects are tried again once.
    """
    if base is None:
        raise ConfigError("select.rejects: there is no table yet, so no row was rejected. Remove select.rejects.")
    rejects = base.rejects(duplicates=False).filter(pc.field(names.REASON).isin(names.AFTER_READING))
    rejected = set(rejects[names.SHARD].unique().to_pylist())
    rejected -= {record.uri for record in base.read_shards() if record.retried == label}
    again = [shard for shard in shards if shard.uri in rejected]
    there = {shard.uri for shard in shards} - rejected
    return [record for record in base.read_shards() if record.uri in there], again


def carry_over(
    base: Snapshot | None,
    shards: Sequence[Shard],
    recipe_of: Callable[[Shard], str],
    generation: str,
    *,
    by_ctime: bool = True,
    again: frozenset[str] = frozenset(),
    dropped: EarlierRecipes | None = None,
) -> tuple[list[ShardRecord], list[Shard]]:
    """Records of the shards that the base snapshot has as they are, and the shards that have to be read.

    recipe_of: digest of the shard's row recipe; generation: the label that the vectors must have, "" for any; by_ctime:
    whether a shard is read that differs in its ctime alone; again: URIs of shards that have to be read in any case;
    dropped: recipes with which shards may be recorded, too, because they only carry more.
    """
    covered = {record.uri: record for record in base.read_shards()} if base else {}
    carried, changed = [], []
    for shard in shards:
        record = covered.get(shard.uri)
        if record is None or record.version != shard.version:
            changed.append(shard)
            continue
        if not record.ctime_ns and shard.ctime_ns:  # of an earlier release: from now on the table has it
            record = dataclasses.replace(record, ctime_ns=shard.ctime_ns)
        if by_ctime and shard.ctime_ns and record.ctime_ns != shard.ctime_ns:
            changed.append(dataclasses.replace(shard, touched=True))
        elif shard.uri in again or generation not in ("", record.generation):
            changed.append(shard)
        elif record.recipe == recipe_of(shard):
            carried.append(record)
        elif dropped is not None and dropped.are_those_of(record, shard):
            carried.append(dataclasses.replace(record, recipe=recipe_of(shard)))
        else:
            changed.append(shard)
    return carried, changed


def find_vanished(base: Snapshot | None, shards: Sequence[Shard], *, keep: bool) -> list[ShardRecord]:
    """Shards of the base snapshot that are not among ``shards``. keep: whether kept documents are left out."""
    there = {shard.uri for shard in shards} | ({KEPT} if keep else set())
    return [record for record in base.read_shards() if record.uri not in there] if base else []
