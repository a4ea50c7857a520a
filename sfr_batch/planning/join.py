"""The join: which rows of the corpus have a vector in the table, for one partition of the ids, over hashes alone.

Pure functions over arrays. Rows with equal ids are in the same partition, so partitions are joined one by one, on any
machine; rows may have moved between shards. Knows no files, no tables and no Ray.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from enum import IntEnum
from typing import TypeVar

import numpy as np
from numpy.typing import NDArray

from sfr_batch.format.hashes import Hashes
from sfr_batch.format.records import ChangeCounts

S = TypeVar("S", bound=np.generic)
CorpusRows = NDArray[np.void]
"""[n] rows of the corpus as hashes, of `corpus_dtype`."""
Documents = NDArray[np.void]
"""[m] documents of the table as hashes, of `document_dtype`."""
Decisions = NDArray[np.void]
"""[n] what is done for each row of the corpus, of `DECISION_DTYPE`."""

_HASHES = [("id", np.uint64, 2), ("row", np.uint64, 2)]
_TEXT = [("content", np.uint64, 2)]
_CORPUS = [("unit", np.int32), ("at", np.int32), ("size", np.uint32), ("loses", np.bool_)]
PLACE_FIELDS = [("file", np.int32), ("first", np.int32), ("vectors", np.int32)]
"""Where a document has its vectors: the number of a data file, the first row there, and the number of rows."""
PLACE_DTYPE = np.dtype(PLACE_FIELDS)


def corpus_dtype(*, carry: bool) -> np.dtype[np.void]:
    """A row of the corpus: hashes of its id, of the whole row and of its text; the number of its read unit, its number
    among the good rows of that unit, the bytes of its text, and whether another row of its id counts instead, so that
    it gets no vector. ``carry``: whether there are carried columns; without them row and text are the same, and there
    is no ``content``."""
    return np.dtype([*_HASHES, *(_TEXT if carry else []), *_CORPUS])


def document_dtype(*, carry: bool) -> np.dtype[np.void]:
    """A document of the table: hashes as in `corpus_dtype`; the number of its shard, where its vectors are
    (`PLACE_DTYPE`), and its `Origin`."""
    return np.dtype([*_HASHES, *(_TEXT if carry else []), ("shard", np.int32), *PLACE_FIELDS, ("origin", np.uint8)])


DECISION_DTYPE = np.dtype(
    [("unit", np.int32), ("at", np.int32), ("kind", np.uint8), ("known", np.bool_), *PLACE_FIELDS, ("size", np.uint32)]
)
"""What is done for a row of the corpus: its unit, its number there and its size as in `corpus_dtype`, a `Decision`,
whether the base snapshot has a document with its id, and where the vectors are that it takes; file -1 if there are
none."""


class Origin(IntEnum):
    """Where a document of the table comes from. All but `OTHER_GENERATION` may give their vectors to a row."""

    PUBLISHED = 0
    """Part of the base snapshot."""
    OTHER_GENERATION = 1
    """Part of the base snapshot, but embedded under another `table.generation` than the run asks for."""
    UNPUBLISHED = 2
    """In a data file of an interrupted run, which no snapshot contains."""


class Decision(IntEnum):
    """What is done for a row."""

    REUSE = 0
    """Nothing: a document with the same text and the same carried columns has its vectors."""
    COPY = 1
    """The vectors are copied: the text is the same, the carried columns are not."""
    ENCODE = 2
    SKIP = 3
    """Nothing: the row is not selected, or does not count."""


@dataclass(frozen=True)
class JoinResult:
    """The result of joining one partition."""

    decisions: Decisions
    """[n] one for each row of the corpus, in no order."""
    left: Documents
    """[k] documents whose id is no longer in the corpus, in the order of the input."""
    changes: ChangeCounts


def partition_of(ids: Hashes, partitions: int) -> NDArray[np.int64]:
    """[n] the partition, 0 to ``partitions`` - 1, of each of the ``ids`` [n, 2]."""
    return ((ids[:, 1] >> np.uint64(32)) % np.uint64(partitions)).astype(np.int64)


def split_by(number: NDArray[np.int64], records: NDArray[S], count: int) -> list[NDArray[S]]:
    """[count] the records [n] of each number, 0 to ``count`` - 1, in order. number: [n]"""
    if count == 1:
        return [records]
    # NumPy sorts numbers of two bytes in linear time.
    order = np.argsort(number.astype(np.min_scalar_type(count - 1)), kind="stable")
    return np.split(records[order], np.cumsum(np.bincount(number, minlength=count))[:-1])


def make_records(dtype: np.dtype[np.void], ids: Hashes, rows: Hashes, contents: Hashes) -> NDArray[np.void]:
    """[n] records of ``dtype`` (`corpus_dtype` or `document_dtype`) with these hashes [n, 2]; other fields are 0."""
    records = np.zeros(len(ids), dtype)
    records["id"], records["row"] = ids, rows
    if "content" in (dtype.names or ()):
        records["content"] = contents
    return records


def join(new: CorpusRows, old: Documents) -> JoinResult:
    """Decide for each row of the corpus, ``new`` [n], which of the documents, ``old`` [m], gives it its vectors.

    A row takes the vectors of a document with the same id and row hash, else of one with the same id and text; of
    several the one with the lowest file and first row. Every row gets a decision, also if its id occurs twice in the
    corpus: which of the rows is live is decided when the snapshot is published.
    """
    n = len(new)
    group = _groups(np.concatenate([new["id"], old["id"]]))
    of_new, of_old = group[:n], group[n:]
    groups = int(group.max(initial=-1)) + 1
    there = old["origin"] != Origin.UNPUBLISHED
    was_there = np.zeros(groups, bool)
    was_there[of_old[there]] = True
    is_there = np.zeros(groups, bool)
    is_there[of_new] = True

    decisions = np.zeros(n, DECISION_DTYPE)
    for name in ("unit", "at", "size"):
        decisions[name] = new[name]
    decisions["kind"], decisions["file"] = Decision.ENCODE, -1
    usable = np.flatnonzero(old["origin"] != Origin.OTHER_GENERATION)
    usable = usable[np.lexsort((old["first"][usable], old["file"][usable]))]
    same = _find(of_new, new["row"], of_old[usable], old["row"][usable])
    _take(decisions, Decision.REUSE, same, old[usable])
    rest = np.flatnonzero(same < 0)
    if len(rest) and "content" in (new.dtype.names or ()):
        text = _find(of_new[rest], new["content"][rest], of_old[usable], old["content"][usable])
        found = np.full(n, -1)
        found[rest] = text
        _take(decisions, Decision.COPY, found, old[usable])

    decisions["kind"][new["loses"]] = Decision.SKIP

    gone = np.flatnonzero(there & ~is_there[of_old])
    decisions["known"] = known = was_there[of_new]
    count = {kind: int((known & (decisions["kind"] == kind)).sum()) for kind in Decision}
    changes = ChangeCounts(
        new=int((~known & ~new["loses"]).sum()),
        changed=count[Decision.ENCODE],
        copied=count[Decision.COPY],
        unchanged=count[Decision.REUSE],
        deleted=len(np.unique(of_old[gone])),
    )
    return JoinResult(decisions, old[gone], changes)


def total(changes: Sequence[ChangeCounts]) -> ChangeCounts:
    """The sum of the counts of several partitions."""
    return ChangeCounts(**{name: sum(getattr(part, name) for part in changes) for name in ChangeCounts.model_fields})


def among(ids: Hashes, others: Hashes) -> NDArray[np.bool_]:
    """[n] whether each of the ``ids`` [n, 2] is one of the ``others`` [m, 2]."""
    group = _groups(np.concatenate([ids, others]))
    return np.isin(group[: len(ids)], group[len(ids) :])


def sorted_ids(ids: Hashes) -> Hashes:
    """[k, 2] the distinct ``ids`` [n, 2] in the order that `among_sorted` needs."""
    ordered = ids[np.lexsort((ids[:, 1], ids[:, 0]))]
    first = np.ones(len(ordered), bool)
    first[1:] = (ordered[1:] != ordered[:-1]).any(axis=1)
    distinct: Hashes = ordered[first]
    return distinct


def among_sorted(ids: Hashes, others: Hashes) -> NDArray[np.bool_]:
    """[n] whether each of the ``ids`` [n, 2] is one of the ``others`` [m, 2], of `sorted_ids`. Sorts nothing, so that
    few ids can be looked for among many, again and again."""
    found = np.zeros(len(ids), bool)
    at, end = (np.searchsorted(others[:, 0], ids[:, 0], side) for side in ("left", "right"))
    while len(open_ := np.flatnonzero(~found & (at < end))):  # a second time only for ids with equal first halves
        found[open_] = others[at[open_], 1] == ids[open_, 1]
        at[open_] += 1
    return found


def find_first(hashes: Hashes, others: Hashes) -> NDArray[np.int64]:
    """[n] the number of the first of the ``others`` [m, 2] that is equal to each of the hashes [n, 2]; -1: none is."""
    return _find(np.zeros(len(hashes), np.int64), hashes, np.zeros(len(others), np.int64), others)


def _take(decisions: Decisions, kind: Decision, found: NDArray[np.int64], old: Documents) -> None:
    """Let each row take the vectors of document ``found`` [n] of ``old``; -1: none, the row stays as it is."""
    rows = np.flatnonzero(found >= 0)
    decisions["kind"][rows] = kind
    for name in PLACE_DTYPE.names or ():
        decisions[name][rows] = old[name][found[rows]]


def _groups(ids: Hashes) -> NDArray[np.int64]:
    """[n] a number for each of the ``ids`` [n, 2], from 0; equal ids have equal numbers."""
    order = np.lexsort((ids[:, 1], ids[:, 0]))
    ordered = ids[order]
    first = np.ones(len(order), bool)
    first[1:] = (ordered[1:] != ordered[:-1]).any(axis=1)
    group = np.empty(len(order), np.int64)
    group[order] = np.cumsum(first) - 1
    return group


def _find(group: NDArray[np.int64], wanted: Hashes, old_group: NDArray[np.int64], there: Hashes) -> NDArray[np.int64]:
    """[n] the first old record with the same group and the same hash, -1 if there is none."""
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
