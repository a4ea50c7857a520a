"""Documents that share an id, and which of them is live. Pure over arrays; knows no files."""

from typing import NamedTuple

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from sfr_batch.format.order_values import sort_indices

RECORD = np.dtype(
    [("hash", np.uint64), ("more", np.uint64), ("order", np.int64), ("at", np.int64), ("vectors", np.int32)]
)
"""A document: the hash of its id, its number in order, the number of its first vector among the vectors of all files,
and the number of its vectors."""


class Losers(NamedTuple):
    """[n] documents whose id another one has, too, which is live instead."""

    order: NDArray[np.int64]
    """Number of each in order."""
    at: NDArray[np.int64]
    """Number of its first vector."""
    dead: NDArray[np.int32]
    """How many vectors die with it: none if the live one has the same."""
    winner_order: NDArray[np.int64]
    """Number in order of the live one; [0] unless a rule chose it."""
    winner: NDArray[np.int64]
    """Number of the first vector of the live one; [0] unless a rule chose it."""

    def take(self, mask: NDArray[np.bool_]) -> "Losers":
        """Those that the mask [n] has."""
        return Losers._make(column[mask] if len(column) else column for column in self)


def losers_of(
    records: NDArray[np.void], kept_from: int, *, last: bool = False, values: pa.Array | None = None
) -> Losers:
    """Those of the ``records`` that are not live, for arguments as of `winners`."""
    winner = winners(records, kept_from, last=last, values=values)
    lost = np.flatnonzero(winner != np.arange(len(records)))
    its, live = records[lost], records[winner[lost]]
    dead = np.where(its["at"] == live["at"], 0, its["vectors"]).astype(np.int32)
    chosen = live if last else live[:0]
    # Each column for itself: a field of the records would keep all of them in memory.
    columns = (its["order"], its["at"], dead, chosen["order"], chosen["at"])
    return Losers(*map(np.array, columns))


def losers_in(records: NDArray[np.void], kept_from: int, *, last: bool) -> Losers:
    """As `losers_of`, of records in any order, among which are documents that share their id with no other."""
    return losers_of(repeated(records), kept_from, last=last)


def repeated(records: NDArray[np.void]) -> NDArray[np.void]:
    """Those of the records whose id another one has too, by id and then in order."""
    order = np.argsort(records["hash"], kind="stable")
    ordered = records["hash"][order]
    same = ordered[1:] == ordered[:-1]
    if not same.any():
        return records[:0]
    shared = np.zeros(len(records), bool)
    shared[1:] |= same
    shared[:-1] |= same
    some = records[order[shared]]
    some = some[np.lexsort((some["order"], some["more"], some["hash"]))]
    follows = _follows(some)
    several = follows.copy()
    several[:-1] |= follows[1:]  # the halves of two hashes may be equal
    return np.asarray(some[several])


def winners(
    records: NDArray[np.void], kept_from: int, *, last: bool = False, values: pa.Array | None = None
) -> NDArray[np.int64]:
    """For each of the ``records`` [n], which are by id and in order, the number of the one that is live for its id.

    By default the first one. last: the last one, or with ``values`` [n] the one with the largest value, the
    last one among equals. kept_from: the order from which on documents have left the corpus: others precede them.
    """
    group = np.cumsum(~_follows(records)) - 1
    numbers = np.arange(len(records))
    if not last:
        return np.asarray(np.maximum.accumulate(np.where(_follows(records), 0, numbers)))
    columns = {"group": group, "in_corpus": (records["order"] < kept_from).astype(np.uint8)}
    columns |= {"value": values} if values is not None else {}
    ordered = sort_indices(columns | {"order": records["order"]}).to_numpy().astype(np.int64)
    winner = np.empty(int(group[-1]) + 1 if len(group) else 0, np.int64)
    winner[group[ordered]] = ordered  # the last of each group stays
    return np.asarray(winner[group])


def _follows(records: NDArray[np.void]) -> NDArray[np.bool_]:
    """[n] whether each record has the id of the one before it."""
    found = np.zeros(len(records), bool)
    found[1:] = (records["hash"][1:] == records["hash"][:-1]) & (records["more"][1:] == records["more"][:-1])
    return found
