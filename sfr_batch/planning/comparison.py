"""The corpus of tonight against the table of last night: which rows have a vector already, and which need one.

Three rounds of tasks. Scan: read the changed and new shards, keep ids and hashes. Read what the table has of the
changed and vanished shards: ids, hashes, and where the vectors are. Join: a partition of the ids at a time. Where tasks
run is the executor's: in this process, or on Ray (`pipeline`), where ids and hashes stay in the object store and only
the decisions about rows come to the driver. When the vectors are there, a last round writes the indexes.
"""

import itertools
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from sfr_batch.corpus.splits import Chosen, ReadUnit
from sfr_batch.format.indexes import (
    ROWS_A_TASK,
)
from sfr_batch.format.records import ChangeCounts, IndexPart, Receipt, ShardRecord, rows_in
from sfr_batch.planning.executor import Executor
from sfr_batch.planning.join import (
    DECISION,
    Decision,
    Records,
    Was,
    total,
)
from sfr_batch.planning.scan import OldRows, Source, join_partition, read_old, scan

ROWS_A_PARTITION = 2**20
BYTES_A_TASK = 128 * 2**20
UNIT_ROWS, UNIT_BYTES = 2**16, 32 * 2**20
"""Rows and bytes of text of the corpus that are in memory at a time, in a task."""


@dataclass(frozen=True)
class OldShard:
    """A shard as the last snapshot has it: by its data files, or by parts of indexes."""

    record: ShardRecord
    sources: tuple[Receipt | IndexPart, ...]


@dataclass
class Comparison:
    """What was found. Rows are numbered over all units, in order: unit u has rows starts[u] to starts[u + 1].

    decisions: [rows] `Decision`, and where the vector is: a number in ``files``, its first row there, and how many.
    """

    source: Source
    executor: Executor
    units: list[ReadUnit]
    files: list[str]
    """Split ids of data files that vectors may be in; those that come to be are appended."""
    changes: ChangeCounts
    starts: NDArray[np.int64]
    rejects: NDArray[np.int64]
    """[units] rows that cannot be embedded."""
    decisions: Records
    left: Records
    """Documents of the table whose ids are not in the corpus any more."""
    tasks: list[tuple[int, int, Any]]
    """(first unit, end, handle of what was scanned of them)."""
    failed: dict[int, tuple[str | None, str, str]] = field(default_factory=dict)
    """Rows that got no vector although they were to be encoded: id, reason, message, by number."""

    @property
    def shards(self) -> list[str]:
        """[units] the shard of each."""
        return [unit.shard.uri for unit in self.units]

    def rows_of(self, units: Iterable[int]) -> NDArray[np.int64]:
        """Numbers of all rows of some units."""
        ranges = [np.arange(self.starts[unit], self.starts[unit + 1]) for unit in units]
        return np.concatenate(ranges) if ranges else np.empty(0, np.int64)

    def choose(self, rows: NDArray[np.int64]) -> tuple[Chosen, ...]:
        """Rows, ascending, as parts of a packed split."""
        unit = np.searchsorted(self.starts, rows, side="right") - 1
        bounds = np.flatnonzero(np.diff(unit, prepend=-1))
        return tuple(
            Chosen(self.units[u], tuple((part - self.starts[u]).tolist()))
            for u, part in zip(unit[bounds].tolist(), np.split(rows, bounds[1:]), strict=True)
        )

    def places(self, rows: NDArray[np.int64]) -> dict[tuple[str, int], int]:
        """Rows by shard and position; what was scanned of their units is fetched."""
        found: dict[tuple[str, int], int] = {}
        unit = np.searchsorted(self.starts, rows, side="right") - 1
        for first, end, handle in self.tasks:
            some = rows[(unit >= first) & (unit < end)]
            if not len(some):
                continue
            for scanned in next(iter(self.executor.get([handle]))):
                start, stop = self.starts[scanned.unit : scanned.unit + 2].tolist()
                its = some[(some >= start) & (some < stop)]
                positions = scanned.hashes.column("position").take(pa.array(its - start)).to_pylist()
                found |= {(scanned.shard, at): row for at, row in zip(positions, its.tolist(), strict=True)}
        return found


def compare(
    executor: Executor,
    source: Source,
    units: Sequence[ReadUnit],
    estimate: Sequence[tuple[int, int]],
    old: Sequence[OldShard],
    receipts: Sequence[Receipt],
    unpublished: Sequence[Receipt],
    generation: str,
) -> Comparison:
    """Read and join.

    units: of the changed and new shards, in order, with an ``estimate`` of rows and bytes each; old: the changed and
    vanished shards; receipts: of the data files that ``old`` points into; unpublished: of others whose vectors may be
    used. generation: the label that a vector must have been made under to be used, "" for any.
    """
    unpublished = [receipt for receipt in unpublished if generation in ("", receipt.generation)]
    known = sum(rows_in(where) for shard in old for where in shard.sources)
    rows = sum(count for count, _ in estimate) + known + sum(receipt.vectors for receipt in unpublished)
    partitions = max(1, -(-rows // ROWS_A_PARTITION))
    shared = executor.share(source)

    tasks, new_parts = [], []
    for first, end in _batches(estimate):
        handles = executor.submit(scan, list(units[first:end]), first, shared, partitions, returns=2 + partitions)
        tasks.append((first, end, handles[0], handles[1]))
        new_parts.append(handles[2:])

    files = [receipt.split_id for receipt in [*receipts, *unpublished]]
    numbers = executor.share(
        {
            receipt.split_id: (number, generation not in ("", receipt.generation))
            for number, receipt in enumerate([*receipts, *unpublished])
        }
    )
    old_parts = [
        executor.submit(read_old, batch, numbers, shared, partitions, returns=1 + partitions)[1:]
        for batch in _old_batches(old, unpublished)
    ]
    joined = [
        executor.submit(
            join_partition, len(new_parts), shared, *(h[number] for h in new_parts), *(h[number] for h in old_parts)
        )[0]
        for number in range(partitions)
    ]
    del new_parts, old_parts

    counts = np.zeros((len(units), 2), np.int64)
    for (first, end, _, _), found in zip(tasks, executor.get([task[2] for task in tasks]), strict=True):
        counts[first:end] = found
    starts = np.concatenate([[0], np.cumsum(counts[:, 0])])
    decisions = np.zeros(starts[-1], DECISION)
    decisions["kind"] = Decision.SKIP
    changes, left = [], []
    for part in executor.get(joined):
        decisions[starts[part.decisions["unit"]] + part.decisions["at"]] = part.decisions
        changes.append(part.changes)
        left.append(part.left)
    return Comparison(
        source=source,
        executor=executor,
        units=list(units),
        files=files,
        changes=total(changes),
        starts=starts,
        rejects=counts[:, 1],
        decisions=decisions,
        left=np.concatenate(left),
        tasks=[(first, end, handle) for first, end, _, handle in tasks],
    )


def _batches(estimate: Sequence[tuple[int, int]]) -> Iterator[tuple[int, int]]:
    """Ranges of units that make up a task each."""
    first = rows = size = 0
    for number, (more_rows, more_bytes) in enumerate(estimate):
        if number > first and (rows + more_rows > ROWS_A_TASK or size + more_bytes > BYTES_A_TASK):
            yield first, number
            first, rows, size = number, 0, 0
        rows, size = rows + more_rows, size + more_bytes
    if len(estimate) > first:
        yield first, len(estimate)


def _old_batches(old: Sequence[OldShard], unpublished: Sequence[Receipt]) -> Iterator[list[OldRows]]:
    sources: Iterable[OldRows] = itertools.chain(
        ((number, source, Was.THERE) for number, shard in enumerate(old) for source in shard.sources),
        ((-1, receipt, Was.UNPUBLISHED) for receipt in unpublished),
    )
    batch: list[OldRows] = []
    rows = 0
    for source in sources:
        batch.append(source)
        rows += rows_in(source[1])
        if rows >= ROWS_A_TASK:
            yield batch
            batch, rows = [], 0
    if batch:
        yield batch
