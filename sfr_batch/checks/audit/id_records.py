"""Ids of live, deleted and rejected rows and of the corpus, as records of fixed size that can be grouped by id.

Pure over arrays; knows no files.
"""

from collections.abc import Callable
from enum import IntEnum

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from sfr_batch.format import names
from sfr_batch.format.hashes import Hashes
from sfr_batch.format.order_values import sort_indices

IntArray = NDArray[np.int64]
Mask = NDArray[np.bool_]
IdRecords = NDArray[np.void]

RECORD = np.dtype(
    [("hash", np.uint64), ("more", np.uint64), ("content", np.uint64), ("row", np.int64), ("order", np.int64),
     ("kind", np.uint8)]
)  # fmt: skip
"""hash, more: the id; content: of what `contents_of` gives, 0 if it is not known; row: its number among the rows of all
data files (for entries: the row that they point to, `NOWHERE` if there is none), of all rejects or of the corpus, see
`ROWS_A_FILE`; order: its number among the candidates, which are the documents of owned data files and the entries of
indexes, else `NO_CANDIDATE`."""

NOWHERE = NO_CANDIDATE = -1


class RecordKind(IntEnum):
    """What a record stands for. Its key is an id; for rows that were rejected when read, which may have no id, it is
    their shard and position."""

    LIVE = 0
    DEAD = 1
    DUPLICATE = 2
    REJECTED_ID = 3
    REJECTED_ROW = 4
    IN_CORPUS = 5
    BAD_IN_CORPUS = 6
    ENTRY = 7
    """An entry of an index: a document of a shard, which points to a row of a data file."""
    KEPT = 8
    """An entry of an index for a document that is no longer in the corpus."""
    SUPERSEDED = 9
    """A row without a vector that gave way to another one with its id."""
    NO_VECTOR = 10
    """The id of a document that is in the corpus and cannot be embedded; beside the record of the rejected row."""


def make_records(ids: Hashes, kind: RecordKind, rows: IntArray) -> IdRecords:
    """Records [n] of ``ids`` [n, 2], without content, which are no candidates."""
    records = np.zeros(len(rows), RECORD)
    records["hash"], records["more"] = ids[:, 0], ids[:, 1]
    records["kind"], records["row"], records["order"] = kind, rows, NO_CANDIDATE
    return records


def contents_of(content_hash: Hashes, row_hash: Hashes) -> NDArray[np.uint64]:
    """[n] 64 bits that stand for the text and the whole row."""
    return np.asarray(content_hash[:, 0] ^ row_hash[:, 1])


def places_of(rejects: pa.Table) -> list[str]:
    """Keys of rows that may have no id. They differ from every id unless their hashes collide."""
    shards, positions = rejects.column(names.SHARD).to_pylist(), rejects.column(names.POSITION).to_pylist()
    return [f"\0{shard}\0{position}" for shard, position in zip(shards, positions, strict=True)]


ROWS_A_FILE = 2**32
"""More than any data file or unit of the corpus has: the number of a row among all follows from its file alone."""


class IdGroups:
    """The records of one partition, grouped by their key.

    counts: by kind, how many records each group has; candidates: how many that are documents of the corpus.
    """

    def __init__(self, records: IdRecords) -> None:
        self._records = records = records[np.lexsort((records["row"], records["more"], records["hash"]))]
        new = np.ones(len(records), bool)
        new[1:] = (records["hash"][1:] != records["hash"][:-1]) | (records["more"][1:] != records["more"][:-1])
        self._starts = np.append(np.flatnonzero(new), len(records))
        self._group = np.cumsum(new) - 1
        self.counts = [self._count(records["kind"] == kind) for kind in RecordKind]
        self.candidates = self._count(records["order"] != NO_CANDIDATE) - self.counts[RecordKind.KEPT]

    def _count(self, mask: Mask) -> IntArray:
        return np.bincount(self._group[mask], minlength=len(self._starts) - 1)

    def _fill(self, records: IntArray) -> IntArray:
        """[groups] ``row`` of the last of the given records in each group, `NOWHERE` where there is none."""
        found = np.full(len(self._starts) - 1, NOWHERE)
        found[self._group[records]] = self._records["row"][records]
        return found

    def where(self, mask: Mask) -> IntArray:
        """The groups that ``mask`` [groups] is true of, in an order that does not depend on hashes."""
        groups = np.flatnonzero(mask)
        return groups[np.argsort(self._records["row"][self._starts[groups]], kind="stable")]

    def rows(self, group: int, kind: RecordKind) -> list[int]:
        """``row`` of the group's records of this kind, in order."""
        some = self._records[self._starts[group] : self._starts[group + 1]]
        found: list[int] = some["row"][some["kind"] == kind].tolist()
        return found

    def live_rows(self) -> IntArray:
        """[groups] a live row of each, `NOWHERE` where there is none."""
        return self._fill(np.flatnonzero(self._records["kind"] == RecordKind.LIVE))

    def first_rows(self) -> IntArray:
        """[groups] the row of the first candidate of each, `NOWHERE` where there is none."""
        order = self._records["order"]
        candidates = np.flatnonzero(order != NO_CANDIDATE)
        several = (self.candidates + self.counts[RecordKind.KEPT] > 1)[self._group[candidates]]
        backwards = candidates[several][np.argsort(-order[candidates[several]])]
        return self._fill(np.concatenate([candidates[~several], backwards]))

    def last_rows(self, values: Callable[[IntArray], pa.Array] | None) -> IntArray:
        """[groups] the row of the last candidate of each, `NOWHERE` where there is none; of the corpus if one is.

        values: those by which rows are ordered before, of rows by their numbers.
        """
        kind, order, row = (self._records[name] for name in ("kind", "order", "row"))
        candidates = np.flatnonzero(order != NO_CANDIDATE)
        several = (self.candidates + self.counts[RecordKind.KEPT] > 1)[self._group[candidates]]
        some = candidates[several]
        columns = {"group": self._group[some], "in_corpus": (kind[some] != RecordKind.KEPT).astype(np.uint8)}
        columns |= {"value": values(np.maximum(row[some], 0))} if values and len(some) else {}
        ordered = sort_indices(columns | {"order": order[some]}).to_numpy()
        return self._fill(np.concatenate([candidates[~several], some[ordered]]))

    def last_contents(self, values: Callable[[IntArray], pa.Array] | None) -> NDArray[np.uint64]:
        """[groups] the content of the last row of the corpus of each, 0 where there is none. values: as above."""
        some = np.flatnonzero(self._records["kind"] == RecordKind.IN_CORPUS)
        row = self._records["row"][some]
        columns = {"group": self._group[some]} | ({"value": values(row)} if values and len(some) else {})
        ordered = some[sort_indices(columns | {"row": row}).to_numpy()]
        found = np.zeros(len(self._starts) - 1, np.uint64)
        found[self._group[ordered]] = self._records["content"][ordered]
        return found

    def strays(self) -> tuple[IntArray, Mask]:
        """Entries that do not point to a document with their id and content, by their numbers among the records.

        Entries that point nowhere are left out: another check reports them. Also the groups [groups] of the entries.
        """
        kind, row = self._records["kind"], self._records["row"]
        is_entry = (kind == RecordKind.ENTRY) | (kind == RecordKind.KEPT)
        unsound = np.zeros(len(self._starts) - 1, bool)
        if not is_entry.any():
            return np.empty(0, np.int64), unsound
        some = np.flatnonzero(is_entry | (kind == RecordKind.LIVE) | (kind == RecordKind.DEAD))
        entry, group, content = is_entry[some], self._group[some], self._records["content"][some]
        new = np.ones(len(some), bool)
        new[1:] = (group[1:] != group[:-1]) | (row[some][1:] != row[some][:-1])
        place = np.cumsum(new) - 1
        there = np.zeros(len(new), bool)
        there[place[~entry]] = True
        of_row = np.zeros(len(new), np.uint64)
        of_row[place[~entry]] = content[~entry]
        wrong = some[entry & (~there[place] | (of_row[place] != content))]
        unsound[self._group[wrong]] = True
        strays = wrong[row[wrong] != NOWHERE]
        return strays[np.argsort(self._records["order"][strays])], unsound

    def entry(self, record: int) -> tuple[int, int, int]:
        """The group, the order and the row of a record."""
        found = self._records[record]
        return int(self._group[record]), int(found["order"]), int(found["row"])

    def stale(self, last: NDArray[np.uint64] | None = None) -> IntArray:
        """Numbers of the groups whose live row has another content than the row of the corpus with its id.

        last: [groups] the content that it has to have; None: that of any row with its id.
        """
        kind, content = self._records["kind"], self._records["content"]
        live = kind == RecordKind.LIVE
        of_live = np.zeros(len(self._starts) - 1, np.uint64)
        of_live[self._group[live]] = content[live]
        has_equal = self._count((kind == RecordKind.IN_CORPUS) & (content == of_live[self._group])) > 0
        has_equal = has_equal if last is None else of_live == last
        # What is kept has the text that it had when it was in the corpus.
        there = (self.counts[RecordKind.LIVE] > 0) & (self.candidates > 0)
        return self.where(there & (self.counts[RecordKind.IN_CORPUS] > 0) & ~has_equal)
