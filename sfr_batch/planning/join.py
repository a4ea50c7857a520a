"""What the rows of a corpus have in common with the rows of a table: by partition of ids, over hashes alone.

Pure functions over arrays. Rows with equal ids are in the same partition, so partitions are joined one by one, wherever
they are; rows may have moved between shards at will. Knows no files, no tables and no Ray.
"""

from dataclasses import dataclass
from enum import IntEnum

import numpy as np
from numpy.typing import NDArray

from sfr_batch.format.hashes import Hashes
from sfr_batch.format.records import ChangeCounts

Records = NDArray[np.void]

_KEY = [("hash", np.uint64), ("more", np.uint64), ("row", np.uint64, 2)]
_TEXT = [("content", np.uint64, 2)]
_NEW = [("unit", np.int32), ("at", np.int32), ("size", np.uint32)]
_OLD = [("shard", np.int32), ("file", np.int32), ("first", np.int32), ("vectors", np.int32), ("was", np.uint8)]


def new_dtype(*, carry: bool) -> np.dtype[np.void]:
    """A row of the corpus: id, row and text by their hashes; the unit that it was read in, its number there, and the
    bytes of its text. Without carried columns row and text are one, and the text is left out."""
    return np.dtype([*_KEY, *(_TEXT if carry else []), *_NEW])


def old_dtype(*, carry: bool) -> np.dtype[np.void]:
    """A document of the table: the number of its shard, and of its data file, its first row there and how many it has;
    `Was`."""
    return np.dtype([*_KEY, *(_TEXT if carry else []), *_OLD])


DECISION = np.dtype(
    [("unit", np.int32), ("at", np.int32), ("kind", np.uint8), ("file", np.int32), ("first", np.int32),
     ("vectors", np.int32), ("size", np.uint32)]
)  # fmt: skip
"""What becomes of a row of the corpus: `Decision`, and where its vector is, if there is one."""


class Was(IntEnum):
    """What a document of the table was before. All but `OTHER_GENERATION` may give their vector to a row."""

    THERE = 0
    """Part of the last snapshot."""
    OTHER_GENERATION = 1
    """The same, but embedded under another generation label than the one that is asked for."""
    UNPUBLISHED = 2
    """In a data file that no snapshot has: a run that was interrupted has paid for it."""


class Decision(IntEnum):
    """What has to be done for a row."""

    REUSE = 0
    """Nothing: text and carried columns are those of a vector's row."""
    COPY = 1
    """Its vector is there, with other carried columns."""
    ENCODE = 2
    SKIP = 3
    """Nothing: it is not among the rows that are meant."""


@dataclass(frozen=True)
class Joined:
    """The result of joining one partition.

    decisions: [n] `DECISION`, one a new row, in no order. left: documents whose id is no longer in the corpus, in the
    order in which they came.
    """

    decisions: Records
    left: Records
    changes: ChangeCounts


def partition_of(ids: Hashes, partitions: int) -> NDArray[np.int64]:
    """[n] which partition each id belongs to. Ids of one partition are spread over the partitions of `spill`."""
    return ((ids[:, 1] >> np.uint64(32)) % np.uint64(partitions)).astype(np.int64)


def make_records(dtype: np.dtype[np.void], ids: Hashes, rows: Hashes, contents: Hashes) -> Records:
    """Records [n] with their hashes, the rest zero."""
    records = np.zeros(len(ids), dtype)
    records["hash"], records["more"] = ids[:, 0], ids[:, 1]
    records["row"] = rows
    if "content" in (dtype.names or ()):
        records["content"] = contents
    return records


def join(new: Records, old: Records) -> Joined:
    """Compare rows of the corpus, ``new`` [n], with documents of the table, ``old`` [m], of the dtypes above.

    A row takes the vector of a document with its id and its row hash, else of one with its id and text; of several the
    one of the lowest file and row. Every row gets its fate, also one whose id an earlier row has: which of these lives
    is found when all shards are seen together.
    """
    n = len(new)
    group = _groups(np.concatenate([new["hash"], old["hash"]]), np.concatenate([new["more"], old["more"]]))
    of_new, of_old = group[:n], group[n:]
    groups = int(group.max(initial=-1)) + 1
    there = old["was"] != Was.UNPUBLISHED
    was_there = np.zeros(groups, bool)
    was_there[of_old[there]] = True
    is_there = np.zeros(groups, bool)
    is_there[of_new] = True

    decisions = np.zeros(n, DECISION)
    for name in ("unit", "at", "size"):
        decisions[name] = new[name]
    decisions["kind"], decisions["file"] = Decision.ENCODE, -1
    usable = np.flatnonzero(old["was"] != Was.OTHER_GENERATION)
    usable = usable[np.lexsort((old["first"][usable], old["file"][usable]))]
    same = _find(of_new, new["row"], of_old[usable], old["row"][usable])
    _take(decisions, Decision.REUSE, same, old[usable])
    rest = np.flatnonzero(same < 0)
    if len(rest) and "content" in (new.dtype.names or ()):
        text = _find(of_new[rest], new["content"][rest], of_old[usable], old["content"][usable])
        found = np.full(n, -1)
        found[rest] = text
        _take(decisions, Decision.COPY, found, old[usable])

    gone = np.flatnonzero(there & ~is_there[of_old])
    known = was_there[of_new]
    count = {kind: int((known & (decisions["kind"] == kind)).sum()) for kind in Decision}
    changes = ChangeCounts(
        new=int((~known).sum()),
        changed=count[Decision.ENCODE],
        copied=count[Decision.COPY],
        unchanged=count[Decision.REUSE],
        deleted=len(np.unique(of_old[gone])),
    )
    return Joined(decisions, old[gone], changes)


def total(changes: list[ChangeCounts]) -> ChangeCounts:
    """The sum of what several partitions say."""
    return ChangeCounts(**{name: sum(getattr(part, name) for part in changes) for name in ChangeCounts.model_fields})


def _take(decisions: Records, kind: Decision, found: NDArray[np.int64], old: Records) -> None:
    rows = np.flatnonzero(found >= 0)
    decisions["kind"][rows] = kind
    for name in ("file", "first", "vectors"):
        decisions[name][rows] = old[name][found[rows]]


def _groups(hash_: NDArray[np.uint64], more: NDArray[np.uint64]) -> NDArray[np.int64]:
    """[n] the number of the id of each record, from 0."""
    order = np.lexsort((more, hash_))
    first = np.ones(len(order), bool)
    first[1:] = (hash_[order][1:] != hash_[order][:-1]) | (more[order][1:] != more[order][:-1])
    group = np.empty(len(order), np.int64)
    group[order] = np.cumsum(first) - 1
    return group


def _find(group: NDArray[np.int64], wanted: Hashes, old_group: NDArray[np.int64], there: Hashes) -> NDArray[np.int64]:
    """[n] the first old record with the same group and the same hash, -1 where there is none."""
    m = len(old_group)
    groups = np.concatenate([old_group, group])
    hashes = np.concatenate([there, wanted])
    # Old before new and, stably, as they came: the first of each run is the one to take, if it is an old one.
    order = np.lexsort((hashes[:, 1], hashes[:, 0], groups))
    ordered = (groups[order], hashes[order, 0], hashes[order, 1])
    first = np.ones(len(order), bool)
    first[1:] = np.logical_or.reduce([part[1:] != part[:-1] for part in ordered])
    leader = order[np.maximum.accumulate(np.where(first, np.arange(len(order)), 0))]
    found = np.full(len(order), -1)
    found[order] = np.where(leader < m, leader, -1)
    result: NDArray[np.int64] = found[m:]
    return result
