"""Which rows of the corpus have a vector already: four rounds of tasks.

Scan: read the changed and new shards, keep ids and hashes. Read: get what the table has of the changed and vanished
shards: ids, hashes, and where the vectors are. Join: one partition of the ids at a time; then the decisions are put in
the order of the corpus again, by scan task. Tasks run where the executor runs them: in this process, or on Ray
(`pipeline.tasks`), where ids, hashes, decisions and documents that have left stay in the object store: the driver has
counts for each read unit. With a filter of rows nothing is kept of a row that is not selected, on the driver or
elsewhere, and of the table only documents with ids of selected rows are joined. Knows no plan and no settings of a run.
"""

import dataclasses
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
from numpy.typing import NDArray

from sfr_batch.corpus.splits import ReadUnit
from sfr_batch.format.hashes import Hashes
from sfr_batch.format.records import ChangeCounts, Receipt, rows_in
from sfr_batch.planning.decided_rows import (
    UNIT_DTYPE,
    Bounds,
    DecidedUnit,
    TaskTotals,
    UnitTotals,
    bounds_of,
    put_in_order,
)
from sfr_batch.planning.difference import Lender
from sfr_batch.planning.join import Origin, sorted_ids, total
from sfr_batch.planning.left_documents import LeftDocuments
from sfr_batch.planning.losing_rows import Losers
from sfr_batch.planning.scan import (
    FileNumber,
    Joined,
    OldShard,
    OldSource,
    TaskContext,
    UnitCounts,
    join_partition,
    read_old,
    scan,
)
from sfr_batch.storage.executor import BYTES_A_TASK, ROWS_A_TASK, Executor, grouped, partitioned

UNIT_ROWS, UNIT_BYTES = 2**16, 32 * 2**20
"""Rows, and bytes of text, of a read unit: what a task holds in memory at a time."""


@dataclass(frozen=True)
class KnownVectors:
    """The documents of the table that rows are compared with."""

    old: Sequence[OldShard]
    """The changed and vanished shards."""
    receipts: Sequence[Receipt]
    """Receipts of the data files that ``old`` points into."""
    unpublished: Sequence[Receipt]
    """Receipts of data files of interrupted runs."""
    generation: str
    """The `table.generation` that a vector must have to be reused; "" for any."""

    @property
    def usable(self) -> list[Receipt]:
        """Those of the unpublished data files whose vectors may be reused."""
        return [receipt for receipt in self.unpublished if not self.is_other(receipt)]

    @property
    def documents(self) -> int:
        """How many there are."""
        published = sum(rows_in(documents) for shard in self.old for documents in shard.sources)
        return published + sum(receipt.vectors for receipt in self.usable)

    def is_other(self, receipt: Receipt) -> bool:
        """Whether a data file is of another generation than wanted."""
        return self.generation not in ("", receipt.generation)


@dataclass(frozen=True)
class ScanTask:
    """Handles of a scan task: the units from ``first`` to before ``end``."""

    first: int
    end: int
    counts: Any
    """Handle of the `UnitCounts`."""
    scanned: Any
    """Handle of a list of `ScannedUnit`."""
    decided: Any = None
    """Handle of the `DecidedRows`, once they are decided."""


@dataclass(frozen=True)
class SelectedRows:
    """What else is known of the compared rows where a filter has selected them."""

    positions: NDArray[np.int64]
    """[rows] of each its position in its shard."""
    ids: Hashes
    """[rows, 2] hashes of their ids."""
    holding: frozenset[str] = frozenset()
    """URIs of the shards whose documents in the base snapshot have some of these ids."""

    @cached_property
    def distinct(self) -> Hashes:
        """[k, 2] their ids, of `sorted_ids`. Documents with other ids were not compared."""
        return sorted_ids(self.ids)


@dataclass(frozen=True)
class RowComparison:
    """What is decided for every row, and the executor with handles of what was scanned and decided.

    Rows are numbered over all units, in order: unit u has the rows starts[u] to before starts[u + 1].
    """

    context: TaskContext
    executor: Executor
    units: Sequence[ReadUnit]
    receipts: Sequence[Receipt]
    """Those of the data files that vectors may be in; decisions name files by their number here."""
    changes: ChangeCounts
    starts: NDArray[np.int64]
    """[units + 1]"""
    totals: UnitTotals
    """[units]"""
    reused: frozenset[int]
    """Numbers of the data files whose vectors are reused where they are."""
    taken: int
    """Rows that take vectors of data files that the base snapshot does not have, a lender's not among them."""
    left: LeftDocuments
    """Documents of the table whose ids were not found in the corpus; with a filter none, see `SelectedRows`."""
    scans: Sequence[ScanTask]
    rejected: Sequence[tuple[str, NDArray[np.int64]]]
    """Shards and positions of the rows that cannot be embedded."""
    rejected_ids: Hashes
    """[k, 2] hashes of the ids of documents that cannot be embedded; one may be there more than once."""
    selected: SelectedRows | None = None
    """None without a filter."""
    lender: Lender | None = None
    """The table of the data files from number ``own_files`` on."""
    own_files: int | None = None

    @cached_property
    def files(self) -> list[str]:
        """The split ids of ``receipts``."""
        return [receipt.split_id for receipt in self.receipts]

    @cached_property
    def used(self) -> frozenset[str]:
        """Split ids of the data files that hold vectors which stay where they are, or of documents in ``left``."""
        return frozenset(self.receipts[number].split_id for number in self.reused | self.left.files)

    @cached_property
    def shards(self) -> dict[str, slice]:
        """The range of the units of each shard, which follow each other, by its URI."""
        ranges: dict[str, slice] = {}
        for number, unit in enumerate(self.units):
            uri = unit.shard.uri
            ranges[uri] = slice(ranges[uri].start if uri in ranges else number, number + 1)
        return ranges

    def rows_of(self, units: slice) -> slice:
        """The range of the rows of some units."""
        return slice(int(self.starts[units.start]), int(self.starts[units.stop]))

    def bounds(self, task: ScanTask) -> Bounds:
        """Of the units of a scan task."""
        bounds: Bounds = self.starts[task.first : task.end + 1] - self.starts[task.first]
        return bounds

    def decided_units(self, task: ScanTask, units: Sequence[int]) -> list[DecidedUnit]:
        """Some units of a scan task, by number."""
        first = int(self.starts[task.first])
        return [
            DecidedUnit(
                unit,
                self.units[unit].shard.uri,
                int(self.starts[unit]) - first,
                int(self.starts[unit + 1]) - first,
                int(self.totals["checksum"][unit]),
            )
            for unit in units
        ]

    def decided_anew(self, decide: Callable[..., Any], arguments: Mapping[int, tuple[Any, ...]]) -> "RowComparison":
        """The same, where tasks have decided some rows in another way.

        arguments: of the tasks, by number of the scan task; ``decide`` gets handle of the decisions, the `Bounds`, and
        these, and returns the `UnitTotals` and the `DecidedRows`.
        """
        scans, totals, handles = list(self.scans), self.totals.copy(), []
        for number, more in arguments.items():
            task = scans[number]
            its, decided = self.executor.submit(decide, task.decided, self.bounds(task), *more, returns=2)
            scans[number] = dataclasses.replace(task, decided=decided)
            handles.append(its)
        for number, its in zip(arguments, self.executor.get(handles), strict=True):
            totals[scans[number].first : scans[number].end] = its
        return dataclasses.replace(self, scans=scans, totals=totals)


def compare_rows(
    executor: Executor,
    context: TaskContext,
    units: Sequence[ReadUnit],
    known: KnownVectors,
    losing: Losers,
) -> RowComparison:
    """Read and join. units: those of the changed and new shards, in order. losing: rows that do not count.

    Raises what reading the corpus and the table raises.
    """
    usable = known.usable
    partitions, least = partitioned(sum(expected_size(unit)[0] for unit in units) + known.documents)
    shared = executor.share(context)

    scans: list[ScanTask] = []
    new_parts: list[list[Any]] = []
    tasks = list(batches(units, least))
    losers = losing.of_tasks(executor, [[unit.shard.uri for unit in units[first:end]] for first, end in tasks])
    for (first, end), lost in zip(tasks, losers, strict=True):
        its = list(units[first:end])
        counts, scanned, *parts = executor.submit(scan, its, first, shared, lost, partitions, returns=2 + partitions)
        scans.append(ScanTask(first, end, counts, scanned))
        new_parts.append(parts)
    files = [*known.receipts, *usable]
    numbers = executor.share({file.split_id: FileNumber(n, known.is_other(file)) for n, file in enumerate(files)})
    selected = _selected(executor.get([task.counts for task in scans])) if context.row_filter else None
    wanted = executor.share(selected.distinct if selected else None)
    read = [
        executor.submit(read_old, batch, numbers, shared, wanted, partitions, returns=1 + partitions)
        for batch in (_old_batches(known.old, usable, least) if selected is None or len(selected.ids) else ())
    ]
    holding, old_parts = [its[0] for its in read], [its[1:] for its in read]
    joined, lefts, decisions = _join(executor, shared, partitions, [t.first for t in scans], new_parts, old_parts)
    del new_parts, old_parts, read  # handles keep results in memory
    in_order = [
        executor.submit(put_in_order, task.counts, task.first, len(known.receipts), *its, returns=2)
        for task, its in zip(scans, zip(*decisions, strict=True), strict=bool(scans))
    ]
    del decisions
    counted = list(executor.get([task.counts for task in scans]))
    summaries: list[Joined] = list(executor.get(joined))
    totals: list[TaskTotals] = list(executor.get([handles[0] for handles in in_order]))
    return RowComparison(
        context=context,
        executor=executor,
        units=units,
        receipts=files,
        changes=total([summary.changes for summary in summaries]),
        starts=bounds_of(np.concatenate([np.empty(0, np.int64), *(counts.good for counts in counted)])),
        totals=np.concatenate([np.empty(0, UNIT_DTYPE), *(task.units for task in totals)]),
        reused=frozenset(number for task in totals for number in task.reused.tolist()),
        taken=sum(task.taken for task in totals),
        left=_left(lefts, summaries),
        scans=[dataclasses.replace(task, decided=its[1]) for task, its in zip(scans, in_order, strict=True)],
        rejected=[found for counts in counted for found in counts.rejected if len(found[1])],
        rejected_ids=np.concatenate([np.empty((0, 2), np.uint64), *(i for c in counted for i in c.rejected_ids)]),
        selected=selected and _with_holding(selected, executor.get(holding), known.old),
    )


def _join(
    executor: Executor,
    context: Any,
    partitions: int,
    firsts: Sequence[int],
    new: Sequence[list[Any]],
    old: Sequence[list[Any]],
) -> tuple[list[Any], list[Any], list[list[Any]]]:
    """Handles of the joined partitions, of the documents that have left, and of the decisions by partition and scan
    task.

    context: handle of the `TaskContext`; firsts: number of the first unit of each scan task; new, old: handles of the
    parts of each task, by partition.
    """
    joined, lefts, decisions = [], [], []
    for number in range(partitions):
        parts = (task[number] for task in (*new, *old))
        summary, left, *its = executor.submit(
            join_partition, len(new), firsts, context, *parts, returns=2 + max(1, len(firsts))
        )
        joined.append(summary)
        lefts.append(left)
        decisions.append(its)
    return joined, lefts, decisions


def _left(parts: Sequence[Any], joined: Sequence[Joined]) -> LeftDocuments:
    """parts: handles of the documents of each partition."""
    return LeftDocuments(
        [part for part, summary in zip(parts, joined, strict=True) if summary.left],
        frozenset(number for summary in joined for number in summary.left_files.tolist()),
    )


def _selected(counted: Iterable[UnitCounts]) -> SelectedRows:
    """Of all units, in order."""
    ids, positions = [np.empty((0, 2), np.uint64)], [np.empty(0, np.int64)]
    for counts in counted:
        ids += counts.selected_ids
        positions += counts.positions
    return SelectedRows(np.concatenate(positions), np.concatenate(ids))


def _with_holding(selected: SelectedRows, found: Iterable[list[int]], old: Sequence[OldShard]) -> SelectedRows:
    """found: numbers of the shards that have documents with the ids, of each task that has read some."""
    uris = frozenset(old[number].record.uri for numbers in found for number in numbers if number >= 0)
    return dataclasses.replace(selected, holding=uris)


def expected_size(unit: ReadUnit) -> tuple[int, int]:
    """Rows, and bytes of text, that the metadata of its shard lets expect of a unit."""
    if unit.stream:
        return unit.stream.rows, unit.stream.text_bytes
    return sum(split.rows for split in unit.splits), sum(split.text_bytes for split in unit.splits)


def batches(units: Sequence[ReadUnit], least: int) -> Iterator[tuple[int, int]]:
    """The first unit of each task, and the one behind its last. least: fewest rows of a task, see `partitioned`."""
    first = rows = size = 0
    for number, unit in enumerate(units):
        more_rows, more_bytes = expected_size(unit)
        full = rows + more_rows > ROWS_A_TASK or size + more_bytes > BYTES_A_TASK
        if number > first and rows >= least and full:
            yield first, number
            first, rows, size = number, 0, 0
        rows, size = rows + more_rows, size + more_bytes
    if len(units) > first:
        yield first, len(units)


def _old_batches(old: Sequence[OldShard], unpublished: Sequence[Receipt], least: int) -> Iterator[list[OldSource]]:
    sources = [OldSource(n, source, Origin.PUBLISHED) for n, shard in enumerate(old) for source in shard.sources]
    sources += [OldSource(-1, receipt, Origin.UNPUBLISHED) for receipt in unpublished]
    return grouped(sources, [rows_in(source.documents) for source in sources], max(ROWS_A_TASK, least))
