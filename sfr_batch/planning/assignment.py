"""Assigns compared rows to splits: encode, copy or reuse.

A shard without any known row keeps its own splits. The rows of the others that need a vector are packed into splits, in
the order of the corpus, so that each shard is read about once. Rows of which only carried columns have changed are
packed apart, because they need no model. Knows no Ray and no config.
"""

from collections.abc import Callable, Container, Iterable, Sequence
from dataclasses import dataclass
from functools import partial

from sfr_batch.corpus.shards import Shard
from sfr_batch.corpus.splits import pack, rows_per_split
from sfr_batch.format.records import ChangeCounts
from sfr_batch.planning.decided_rows import Work
from sfr_batch.planning.difference import Difference
from sfr_batch.planning.limits import SplitLimits
from sfr_batch.planning.packed_rows import PackedSplits, cut_rows, names_of
from sfr_batch.planning.row_comparison import RowComparison


@dataclass(frozen=True)
class SplitNames:
    """What the names of packed splits depend on, beside their rows."""

    identity: Callable[[Iterable[Shard]], Sequence[str]]
    """What the name depends on, by the shards that the rows are from."""
    condemned: frozenset[str]
    """Split ids that must never be used again."""


@dataclass(frozen=True)
class Assignment:
    """The difference, and the splits that the rows of its indexed shards are packed into."""

    difference: Difference
    encoded: PackedSplits
    """Those of ``difference.packed``."""
    copied: tuple[PackedSplits, ...]
    """Those of ``difference.copies``."""


def assign_work(
    found: RowComparison,
    changes: ChangeCounts | None,
    limits: SplitLimits,
    split_names: SplitNames,
    *,
    keep_own_splits: Callable[[Shard], bool],
    partly_done: Container[str],
    unread: frozenset[str],
    losing: Container[str],
) -> Assignment:
    """Decide which rows are read and encoded as which split.

    changes: what the difference reports. keep_own_splits: whether a shard without any known row keeps its own splits.
    partly_done: URIs of the shards of which some split has a data file; others that are small share splits.
    unread: URIs of the shards that keep theirs because they were not compared. losing: those with rows that do not
    count; each gets an index, if only for these.
    """
    totals, shards = found.totals, {unit.shard.uri: unit.shard for unit in found.units}
    encoded = int(totals["encoded"].sum())
    max_rows = _most_rows(limits, limits.min_splits, encoded, int(totals["encoded_bytes"].sum()))
    fresh, indexed = set[str](), set[str]()
    for uri, units in found.shards.items():
        its = {name: int(totals[name][units].sum()) for name in ("rows", "encoded", "skipped")}
        keeps = keep_own_splits(shards[uri])
        alone = uri in partly_done or not 0 < its["rows"] < max_rows
        if its["encoded"] == its["rows"] and alone and keeps:
            fresh.add(uri)
        elif its["skipped"] < its["rows"] or (uri in losing and keeps):
            indexed.add(uri)

    rows = cut_rows(found, Work.ENCODE, frozenset(indexed), lambda *_: max_rows, limits.bytes)
    packed = tuple(
        pack(parts, size, split_names.identity(part.unit.shard for part in parts), split_names.condemned)
        for parts, size in zip(rows.fetch(), rows.text_bytes.tolist(), strict=True)
    )
    ids = tuple(unit.splits[0].split_id for unit in packed)
    copied = []
    for work in (Work.COPY, Work.LENT):
        its_rows = cut_rows(found, work, frozenset(indexed), partial(_most_rows, limits, 1), limits.bytes)
        copied.append(PackedSplits(its_rows, names_of(its_rows, split_names.identity, split_names.condemned)))
    difference = Difference(
        changes,
        frozenset(fresh) | unread,
        frozenset(indexed),
        packed,
        tuple(split_id for splits in copied for split_id in splits.split_ids),
        int(totals["vectors"].sum()),
    )
    rows.release()  # what is encoded is known here
    return Assignment(difference, PackedSplits(rows, ids), tuple(copied))


def _most_rows(limits: SplitLimits, min_splits: int, rows: int, text_bytes: int) -> int:
    """The most rows of a split of so many rows, whose texts have so many bytes."""
    return rows_per_split(rows, limits.rows_of(rows, text_bytes), min_splits)
