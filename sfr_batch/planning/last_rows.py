"""Which of several rows with one id counts (`table.duplicate_ids: last`), for one partition of the ids.

The last one counts: by the column to order by, if there is one, then by the URI of the shard, then by position. It
counts by its id alone: if it is rejected for another reason, so are the others. Pure over arrays; knows no files.
"""

from dataclasses import dataclass
from enum import IntEnum

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from sfr_batch.format import names
from sfr_batch.format.order_values import sort_indices

ID, MORE, KIND, SHARD, POSITION, ORDER = names.ID, "more", "kind", names.SHARD, names.POSITION, "order"
"""Columns of rows: the two halves of the hash of the id, a `RowKind`, the number of the shard among all URIs in order,
the position in it (of rows of the table any: those of one shard are alike here), and the value to order by, if there is
a column for it."""


class RowKind(IntEnum):
    """Where a row stands."""

    TODAY = 0
    """In a shard that is read in this run."""
    UNCHANGED = 1
    """In a shard that is not read; the table has its vector."""
    BEFORE = 2
    """In the table, of a shard as it was before."""
    REJECTED = 3
    """In a shard that is not read, without a vector; its value to order by is not known."""
    STAYING = 4
    """In the table, of a shard that the corpus no longer has and a filter passes over. It gives way to rows of today.
    """


LOSER = np.dtype([("shard", np.int32), (POSITION, np.int64), ("by_shard", np.int32), ("by_position", np.int64)])
"""A row of today that does not count, and the one that does; ``by_position`` -1 where it is not known."""
CONTEST = np.dtype([("shard", np.int32), (POSITION, np.int64), ("rival", np.int32)])
"""A row of today that counts, and the shard of an unchanged row with a vector that has its id."""
REJECTED = np.dtype([("shard", np.int32), (POSITION, np.int64)])
"""A row of today that was rejected."""


@dataclass(frozen=True)
class Verdict:
    """What was decided for one partition."""

    losers: NDArray[np.void]
    """[n] of LOSER."""
    contests: NDArray[np.void]
    """[n] of CONTEST."""
    again: NDArray[np.int32]
    """Numbers of unchanged shards with rows that may count now: they have to be read."""
    replaced: int
    """Rows of today that count in the place of an unchanged row, where no read shard had their id before."""
    unchanged: NDArray[np.uint64]
    """First halves of the hashes of ids that unchanged shards have a vector of, and rows of today or before have, too;
    sorted."""


def decide(rows: pa.Table, *, same_rule: bool) -> Verdict:
    """Decide which rows of today count, and whether rejected rows may.

    A rejected row lost to the row that the table has of its id. So it still loses if a row is there that is as large as
    that one was. same_rule: whether the table was published under this rule; otherwise all that are contested are read.
    """
    kind = rows.column(KIND).to_numpy()
    # What was there before is ordered before what is there today: of equal rows, that of today is found to be as large.
    keys = {ID: rows.column(ID), MORE: rows.column(MORE)}
    keys |= {ORDER: rows.column(ORDER)} if ORDER in rows.column_names else {}
    was = (kind == RowKind.BEFORE) | (kind == RowKind.STAYING)
    keys |= {SHARD: rows.column(SHARD), "today": (~was).astype(np.uint8)}
    order = sort_indices(keys | {POSITION: rows.column(POSITION)}).to_numpy()
    kind, shard = kind[order], rows.column(SHARD).to_numpy()[order]
    position = rows.column(POSITION).to_numpy()[order]
    group = _groups(rows, order)
    today, was = kind == RowKind.TODAY, was[order]
    stays = (kind == RowKind.STAYING) & ~_any(group, today)[group]
    there = _last(group, today | (kind == RowKind.UNCHANGED) | stays)
    before = _last(group, (kind == RowKind.UNCHANGED) | was)

    counts = there[group]  # [rows] number of the row that counts for the id of each
    lost = np.flatnonzero(today & (counts != np.arange(len(group))))
    losers = np.empty(len(lost), LOSER)
    by = counts[lost]
    losers["shard"], losers[POSITION], losers["by_shard"] = shard[lost], position[lost], shard[by]
    losers["by_position"] = np.where(kind[by] == RowKind.TODAY, position[by], -1)

    won = (there >= 0) & (kind[there] == RowKind.TODAY) if len(group) else np.zeros(0, bool)
    rivals = np.flatnonzero((kind == RowKind.UNCHANGED) & won[group])
    contests = np.empty(len(rivals), CONTEST)
    by = counts[rivals]
    contests["shard"], contests[POSITION], contests["rival"] = shard[by], position[by], shard[rivals]
    known, has = _any(group, was), _any(group, today | (kind == RowKind.BEFORE))
    carried, ids = kind == RowKind.UNCHANGED, rows.column(ID).to_numpy()[order]

    rejected = np.flatnonzero(kind == RowKind.REJECTED)
    if same_rule:
        weaker = (before < 0) | (there < before)
    else:
        weaker = np.bincount(group[~was | stays], minlength=len(there)) > 1
    return Verdict(
        losers=losers,
        contests=contests,
        again=np.unique(shard[rejected[weaker[group[rejected]]]]),
        replaced=int((~known[np.unique(group[rivals])]).sum()),
        unchanged=np.unique(ids[carried & has[group]]),
    )


def find_rivals(contests: NDArray[np.void], rejected: NDArray[np.void]) -> NDArray[np.int32]:
    """Numbers of the shards with rivals of rows that count and were rejected. contests: [n] of CONTEST; rejected: [m]
    of REJECTED."""
    contests = contests[np.isin(contests["shard"], rejected["shard"])]
    rows = np.empty(len(contests), REJECTED)
    rows["shard"], rows[POSITION] = contests["shard"], contests[POSITION]
    return np.unique(contests["rival"][np.isin(rows, rejected)])


def _groups(rows: pa.Table, order: NDArray[np.integer]) -> NDArray[np.int64]:
    """[n] a number for the id of each row, from 0. order: of the rows, by id."""
    first = np.ones(len(order), bool)
    first[1:] = False
    for name in (ID, MORE):
        values = rows.column(name).to_numpy()[order]
        first[1:] |= values[1:] != values[:-1]
    return np.asarray(np.cumsum(first) - 1)


def _any(group: NDArray[np.int64], mask: NDArray[np.bool_]) -> NDArray[np.bool_]:
    """[groups] whether ``mask`` [n] is true of some row of each."""
    found = np.zeros(int(group[-1]) + 1 if len(group) else 0, np.bool_)
    found[group[mask]] = True
    return found


def _last(group: NDArray[np.int64], mask: NDArray[np.bool_]) -> NDArray[np.int64]:
    """[groups] the number of the last row of each that ``mask`` [n] is true of, -1 if there is none."""
    found = np.full(int(group[-1]) + 1 if len(group) else 0, -1)
    numbers = np.flatnonzero(mask)
    found[group[numbers]] = numbers  # the last one stays
    return found
