"""What a comparison has decided for its rows, in the order of the corpus: tasks over the decisions of one scan task.

The decisions of all rows stay where tasks run; only counts by read unit, and the rows for which there is work to do,
come to the driver. Pure functions over arrays. Knows no files, no tables and no Ray.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from sfr_batch.planning.join import PLACE_DTYPE, Decision, Decisions
from sfr_batch.planning.scan import UnitCounts

DecidedRows = NDArray[np.void]
"""[rows] the decisions for all rows of the units of a scan task, in order, of `DECIDED_DTYPE`."""
Work = NDArray[np.void]
"""[k] rows for which there is something to do, ascending, of `WORK_DTYPE`."""
UnitTotals = NDArray[np.void]
"""[units] of `UNIT_DTYPE`."""
Bounds = NDArray[np.int64]
"""[units + 1] the first row of each unit of a scan task among the rows of the task, and the number of its rows."""

_PLACE = [(name, PLACE_DTYPE[name]) for name in PLACE_DTYPE.names or ()]
DECIDED_DTYPE = np.dtype([("kind", np.uint8), ("known", np.bool_), *_PLACE, ("size", np.uint32)])
"""As `join.DECISION_DTYPE`, without the place of the row, which is its place in the array."""
WORK_DTYPE = np.dtype([("row", np.int64), *_PLACE, ("size", np.uint32)])
"""A row: its number over all compared rows, where the vectors are that it takes, and the bytes of its text."""
UNIT_DTYPE = np.dtype(
    [(name, np.int64) for name in ("rows", "encoded", "encoded_bytes", "copied", "skipped", "without")]
)
"""Rows of a read unit, and those of them that are encoded (with the bytes of their texts), copied and skipped; and the
rows without a vector in the table, whose ids it does not have either: they are encoded, or a lender has their vectors.
"""


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


def totals_of(rows: DecidedRows, bounds: Bounds, own_files: int | None = None) -> UnitTotals:
    """The totals of the units. own_files: number of the first data file of a lender; None without one."""
    kind = rows["kind"]
    encoded, copied = kind == Decision.ENCODE, kind == Decision.COPY
    lent = copied & (rows["file"] >= own_files) if own_files is not None else np.zeros(len(rows), np.bool_)
    totals = np.zeros(len(bounds) - 1, UNIT_DTYPE)
    totals["rows"] = np.diff(bounds)
    columns = {
        "encoded": encoded,
        "encoded_bytes": np.where(encoded, rows["size"], 0),
        "copied": copied,
        "skipped": kind == Decision.SKIP,
        "without": (encoded | lent) & ~rows["known"],
    }
    for name, column in columns.items():
        sums = np.concatenate([[0], np.cumsum(column, dtype=np.int64)])
        totals[name] = np.diff(sums[bounds])
    return totals


def work_in(rows: DecidedRows, start: int, bounds: Bounds, units: Sequence[int], kind: Decision) -> Work:
    """A task: the rows with one decision in some of the units, by their numbers in the task; start: row number of the
    first row of the task."""
    meant = np.zeros(len(rows), np.bool_)
    for unit in units:
        meant[bounds[unit] : bounds[unit + 1]] = True
    at = np.flatnonzero(meant & (rows["kind"] == kind))
    work = np.zeros(len(at), WORK_DTYPE)
    work["row"] = start + at
    for name in (WORK_DTYPE.names or ())[1:]:
        work[name] = rows[name][at]
    return work


def with_places(rows: DecidedRows, at: NDArray[np.int64], places: NDArray[np.void], decision: Decision) -> DecidedRows:
    """A copy in which the rows ``at`` [k] have this decision and take the vectors in the ``places`` [k], of
    `join.PLACE_DTYPE`."""
    changed = rows.copy()
    changed["kind"][at] = decision
    for name in PLACE_DTYPE.names or ():
        changed[name][at] = places[name]
    return changed
