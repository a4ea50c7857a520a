"""Assigns compared rows to splits: encode, copy or reuse.

A shard without any known row keeps its own splits. The rows of the others that need a vector are packed into splits, in
the order of the corpus, so that each shard is read about once. Rows of which only carried columns have changed are
packed apart, because they need no model. Knows no Ray and no config.
"""

from collections.abc import Callable, Container, Iterable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import pyarrow as pa

from sfr_batch.corpus.shards import Shard
from sfr_batch.corpus.splits import ReadUnit, pack, rows_per_split
from sfr_batch.format import names
from sfr_batch.format.records import ChangeCounts
from sfr_batch.planning.decided_rows import Work
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
    totals, shards = found.totals, {unit.shard.uri: unit.shard for unit in found.units}
    encoded = int(totals["encoded"].sum())
    max_rows = _most_rows(encoded, int(totals["encoded_bytes"].sum()), limits, limits.min_splits)
    fresh, indexed = set[str](), set[str]()
    for uri, units in found.shards.items():
        its = {name: int(totals[name][units].sum()) for name in ("rows", "encoded", "skipped")}
        keeps = keep_own_splits(shards[uri])
        alone = uri in partly_done or not 0 < its["rows"] < max_rows
        if its["encoded"] == its["rows"] and alone and keeps:
            fresh.add(uri)
        elif its["skipped"] < its["rows"] or (uri in losing and keeps):
            indexed.add(uri)

    rows: dict[str, RowNumbers] = {}

    def pack_rows(chosen: Work, *identity: str) -> ReadUnit:
        size = int(chosen["size"].sum())
        parts = found.choose(chosen["row"])
        of_shards = split_names.identity(part.unit.shard for part in parts)
        unit = pack(parts, size, (*identity, *of_shards), split_names.condemned)
        rows[unit.splits[0].split_id] = chosen["row"].copy()
        return unit

    chosen = found.work(Decision.ENCODE, frozenset(indexed))
    packed = [pack_rows(piece) for piece in _cut(chosen, max_rows, limits.bytes)]
    copied = found.work(Decision.COPY, frozenset(indexed))
    lent = found.lends(copied)
    copies = [
        Copy(pack_rows(piece, kind), _sources(found, piece), lender)
        for kind, work, lender in (("copy", copied[~lent], None), ("lent", copied[lent], found.lender))
        for piece in _cut(work, _most_rows(len(work), int(work["size"].sum()), limits, 1), limits.bytes)
    ]
    difference = Difference(changes, frozenset(fresh) | unread, frozenset(indexed), tuple(packed), tuple(copies))
    return Assignment(difference, rows)


def _most_rows(rows: int, text_bytes: int, limits: SplitLimits, min_splits: int) -> int:
    """The most rows of a split of so many rows, whose texts have so many bytes."""
    return rows_per_split(rows, limits.rows_of(rows, text_bytes), min_splits)


def _sources(found: RowComparison, work: Work) -> pa.Table:
    """[rows] where the vectors are that the rows take, see `Copy.sources`."""
    used, which = np.unique(work["file"], return_inverse=True)
    chosen = pa.array([found.files[number] for number in used.tolist()], pa.string())
    return pa.table(
        {
            names.SPLIT_ID: pa.DictionaryArray.from_arrays(pa.array(which.astype(np.int32)), chosen),
            "row": work["first"].astype(np.int64),
            "vectors": work["vectors"].copy(),
        }
    )


def _cut(work: Work, max_rows: int, max_bytes: int) -> list[Work]:
    """Runs of rows of at most ``max_rows`` rows and ``max_bytes`` bytes of text; a larger row is a run by itself."""
    pieces, start = [], 0
    ends = np.cumsum(work["size"], dtype=np.int64)
    while start < len(work):
        before = ends[start - 1] if start else 0
        fit = int(np.searchsorted(ends, before + max_bytes, side="right"))
        end = min(start + max_rows, max(fit, start + 1))
        pieces.append(work[start:end])
        start = end
    return pieces
