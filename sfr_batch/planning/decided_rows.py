"""What a comparison has decided for its rows, in the order of the corpus: tasks over the decisions of one scan task.

The decisions of all rows stay where tasks run, and so do the rows for which there is work to do; only counts by read
unit come to the driver. Pure functions over arrays. Knows no files, no tables and no Ray.
"""

import zlib
from collections.abc import Sequence
from dataclasses import dataclass
from enum import StrEnum
from itertools import pairwise
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from sfr_batch.errors import TableError
from sfr_batch.format import names
from sfr_batch.planning.join import PLACE_DTYPE, PLACE_FIELDS, Decision, Decisions
from sfr_batch.planning.scan import ScannedUnit, UnitCounts

DecidedRows = NDArray[np.void]
"""[rows] the decisions for all rows of the units of a scan task, in order, of `DECIDED_DTYPE`."""
WorkRows = NDArray[np.void]
"""[k] rows for which there is the same to do, in order, of `WORK_DTYPE`."""
UnitTotals = NDArray[np.void]
"""[units] of `UNIT_DTYPE`."""
Bounds = NDArray[np.int64]
"""[units + 1] the first row of each unit of a scan task among the rows of the task, and the number of its rows."""

DECIDED_DTYPE = np.dtype([("kind", np.uint8), ("known", np.bool_), *PLACE_FIELDS, ("size", np.uint32)])
"""As `join.DECISION_DTYPE`, without the place of the row, which is its place in the array."""
WORK_DTYPE = np.dtype([("at", np.int64), *PLACE_FIELDS])
"""A row: its number among the rows of its unit, or its position in the shard where a filter has chosen it; and where
the vectors are that it takes."""


class Work(StrEnum):
    """What is done for rows that are packed into splits, each kind apart."""

    ENCODE = "encode"
    COPY = "copy"
    """Their vectors are in this table."""
    LENT = "lent"
    """Their vectors are copied from another table."""

    @property
    def column(self) -> str:
        """Of `UNIT_DTYPE`: how many rows; with ``_bytes``, how many bytes their texts have."""
        return {Work.ENCODE: "encoded", Work.COPY: "copied", Work.LENT: "lent"}[self]


_COUNTS = ("rows", "skipped", "without", "vectors", "checksum")
UNIT_DTYPE = np.dtype(
    [(name, np.int64) for name in (*_COUNTS, *(name for w in Work for name in (w.column, f"{w.column}_bytes")))]
)
"""Rows of a read unit, and those of them that are skipped, encoded, copied and lent, with the bytes of the texts of the
last three, and the vectors of the last two; the rows ``without`` a vector in the table, whose ids it does not have
either: they are encoded, or a lender has their vectors; and a checksum of the decisions."""


class DecidedUnit(NamedTuple):
    """The rows of a read unit among those of its scan task, from ``start`` to before ``stop``. number: of the unit."""

    number: int
    shard: str
    start: int
    stop: int
    checksum: int


@dataclass(frozen=True)
class TaskTotals:
    """What the driver gets of the decisions of a scan task."""

    units: UnitTotals
    reused: NDArray[np.int32]
    """[k] numbers of the data files of the table whose vectors are reused where they are, ascending."""
    taken: int
    """Rows that take vectors of data files that the base snapshot does not have."""


def put_in_order(counts: UnitCounts, first: int, known: int, *parts: Decisions) -> tuple[TaskTotals, DecidedRows]:
    """A task: the decisions of the partitions, for the units of a scan task, as one array.

    counts: of the scan; first: the number of its first unit; known: number of data files that the base snapshot has.
    """
    bounds = bounds_of(counts.good)
    rows = np.zeros(bounds[-1], DECIDED_DTYPE)
    for part in parts:
        at = bounds[part["unit"] - first] + part["at"]
        for name in DECIDED_DTYPE.names or ():
            rows[name][at] = part[name]
    reuses = rows["kind"] == Decision.REUSE
    takes = reuses | (rows["kind"] == Decision.COPY)
    taken = int(np.count_nonzero(takes & (rows["file"] >= known)))
    return TaskTotals(totals_of(rows, bounds), np.unique(rows["file"][reuses]), taken), rows


def bounds_of(good: NDArray[np.int64]) -> Bounds:
    """good: [units] rows of each unit."""
    return np.concatenate([[0], np.cumsum(good, dtype=np.int64)])


def marked(rows: DecidedRows, work: Work, own_files: int | None) -> NDArray[np.bool_]:
    """[rows] those for which this is done. own_files: number of the first data file of a lender; None without one."""
    if work == Work.ENCODE:
        return np.asarray(rows["kind"] == Decision.ENCODE)
    lent = np.zeros(len(rows), np.bool_) if own_files is None else rows["file"] >= own_files
    return np.asarray((rows["kind"] == Decision.COPY) & (lent == (work == Work.LENT)))


def totals_of(rows: DecidedRows, bounds: Bounds, own_files: int | None = None) -> UnitTotals:
    """The totals of the units. own_files: as of `marked`."""
    masks = {work: marked(rows, work, own_files) for work in Work}
    columns = {
        "skipped": rows["kind"] == Decision.SKIP,
        "without": (masks[Work.ENCODE] | masks[Work.LENT]) & ~rows["known"],
        "vectors": np.where(masks[Work.COPY] | masks[Work.LENT], rows["vectors"], 0),
    }
    for work, mask in masks.items():
        columns |= {work.column: mask, f"{work.column}_bytes": np.where(mask, rows["size"], 0)}
    totals = np.zeros(len(bounds) - 1, UNIT_DTYPE)
    totals["rows"] = np.diff(bounds)
    for name, column in columns.items():
        sums = np.concatenate([[0], np.cumsum(column, dtype=np.int64)])
        totals[name] = np.diff(sums[bounds])
    totals["checksum"] = [_checksum(rows[start:stop]) for start, stop in pairwise(bounds.tolist())]
    return totals


def _checksum(rows: DecidedRows) -> int:
    return zlib.crc32(rows.view(np.uint8).data)


def check_same(rows: DecidedRows, units: Sequence[DecidedUnit]) -> None:
    """Raises TableError if the rows of some units are decided otherwise than when they were counted: Ray repeats a lost
    task, which may not find again what the first one found."""
    for unit in units:
        if _checksum(rows[unit.start : unit.stop]) != unit.checksum:
            raise TableError(
                f"Rows of {unit.shard} had vectors in a data file of an interrupted run, which is damaged or was swept "
                "meanwhile. Run the command again: it embeds them."
            )


def work_in(
    rows: DecidedRows,
    units: Sequence[DecidedUnit],
    work: Work,
    own_files: int | None,
    scanned: Sequence[ScannedUnit] | None,
) -> tuple[NDArray[np.uint32], WorkRows]:
    """A task: the bytes of their texts [k], and the rows [k] of some units for which this is done. own_files: as of
    `marked`. scanned: with a filter, what was scanned of the units."""
    check_same(rows, units)
    positions = {unit.unit: unit.hashes.column(names.POSITION) for unit in scanned or ()}
    sizes, found = [np.empty(0, np.uint32)], [np.empty(0, WORK_DTYPE)]
    for unit in units:
        its = rows[unit.start : unit.stop]
        at = np.flatnonzero(marked(its, work, own_files))
        piece = np.zeros(len(at), WORK_DTYPE)
        piece["at"] = at if scanned is None else positions[unit.number].to_numpy()[at]
        for name in PLACE_DTYPE.names or ():
            piece[name] = its[name][at]
        sizes.append(its["size"][at])
        found.append(piece)
    return np.concatenate(sizes), np.concatenate(found)


def with_places(rows: DecidedRows, at: NDArray[np.int64], places: NDArray[np.void], decision: Decision) -> DecidedRows:
    """A copy in which the rows ``at`` [k] have this decision and take the vectors in the ``places`` [k], of
    `join.PLACE_DTYPE`."""
    changed = rows.copy()
    changed["kind"][at] = decision
    for name in PLACE_DTYPE.names or ():
        changed[name][at] = places[name]
    return changed
