"""Assigns compared rows to splits: encode, copy or reuse.

A shard without any known row keeps its own splits. The rows of the others that need a vector are packed into splits, in
the order of the corpus, so that each shard is read about once. Rows of which only carried columns have changed are
packed apart, because they need no model. Knows no Ray and no config.
"""

from collections.abc import Callable, Container, Iterable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from sfr_batch.corpus.shards import Shard
from sfr_batch.corpus.splits import ReadUnit, pack, rows_per_split
from sfr_batch.format import names
from sfr_batch.format.records import ChangeCounts
from sfr_batch.planning.difference import Copy, Difference
from sfr_batch.planning.join import Decision
from sfr_batch.planning.limits import SplitLimits
from sfr_batch.planning.row_comparison import RowComparison, RowNumbers


@dataclass(frozen=True)
class SplitNames:
    """What the names of packed splits depend on, beside their rows."""

    identity: Callable[[Iterable[Shard]], Sequence[str]]
    """What the name depends on, by the shards that the rows are from."""
    condemned: frozenset[str]
    """Split ids that must never be used again."""


@dataclass(frozen=True)
class Assignment:
    """The difference, and the rows behind it."""

    difference: Difference
    rows: Mapping[str, RowNumbers]
    """The rows of each packed and copied split, in order, by split id."""


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
    decisions, sizes = found.decisions, found.decisions["size"]
    encode = decisions["kind"] == Decision.ENCODE
    max_rows = _most_rows(sizes[encode], limits, limits.min_splits)
    of_shard, shards = found.by_shard, {unit.shard.uri: unit.shard for unit in found.units}
    fresh = frozenset(
        uri
        for uri, its in of_shard.items()
        if encode[its].all()
        and (uri in partly_done or not 0 < its.stop - its.start < max_rows)
        and keep_own_splits(shards[uri])
    )
    indexed = frozenset(
        uri
        for uri, its in of_shard.items()
        if uri not in fresh
        and ((decisions["kind"][its] != Decision.SKIP).any() or (uri in losing and keep_own_splits(shards[uri])))
    )
    in_indexed = np.zeros(len(decisions), bool)  # [rows]
    for uri in indexed:
        in_indexed[of_shard[uri]] = True

    rows: dict[str, RowNumbers] = {}

    def pack_rows(chosen: RowNumbers, *identity: str) -> ReadUnit:
        size = int(sizes[chosen].sum())
        parts = found.choose(chosen)
        of_shards = split_names.identity(part.unit.shard for part in parts)
        unit = pack(parts, size, (*identity, *of_shards), split_names.condemned)
        rows[unit.splits[0].split_id] = chosen
        return unit

    encoded = np.flatnonzero(in_indexed & encode)
    packed = [pack_rows(chosen) for chosen in _cut(encoded, sizes, max_rows, limits.bytes)]
    copied = np.flatnonzero(in_indexed & (decisions["kind"] == Decision.COPY))
    lent = found.lent[copied]
    copies = [
        Copy(pack_rows(chosen, kind), _sources(found, chosen), lender)
        for kind, rows_to_copy, lender in (("copy", copied[~lent], None), ("lent", copied[lent], found.lender))
        for chosen in _cut(rows_to_copy, sizes, _most_rows(sizes[rows_to_copy], limits, 1), limits.bytes)
    ]
    return Assignment(Difference(changes, fresh | unread, indexed, tuple(packed), tuple(copies)), rows)


def _most_rows(sizes: NDArray[np.uint32], limits: SplitLimits, min_splits: int) -> int:
    """The most rows of a split of the rows whose texts have so many bytes."""
    return rows_per_split(len(sizes), limits.rows_of(len(sizes), int(sizes.sum())), min_splits)


def _sources(found: RowComparison, rows: RowNumbers) -> pa.Table:
    """[rows] where the vectors are that the rows take, see `Copy.sources`."""
    decisions = found.decisions[rows]
    return pa.table(
        {
            names.SPLIT_ID: [found.files[number] for number in decisions["file"].tolist()],
            "row": decisions["first"].astype(np.int64),
            "vectors": decisions["vectors"],
        }
    )


def _cut(rows: RowNumbers, sizes: NDArray[np.uint32], max_rows: int, max_bytes: int) -> list[RowNumbers]:
    """Runs of ``rows`` of at most ``max_rows`` rows and ``max_bytes`` bytes of text; a larger row is a run by itself.

    sizes: bytes of text of every compared row.
    """
    pieces, start = [], 0
    ends = np.cumsum(sizes[rows], dtype=np.int64)
    while start < len(rows):
        before = ends[start - 1] if start else 0
        fit = int(np.searchsorted(ends, before + max_bytes, side="right"))
        end = min(start + max_rows, max(fit, start + 1))
        pieces.append(rows[start:end])
        start = end
    return pieces
