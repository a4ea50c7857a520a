"""Rows that are packed into splits, those that are copied and those that are encoded apart: numbered in the order of
the corpus, cut into splits, named and found again.

The rows stay where tasks run. The driver has two numbers for each read unit and each split; of the sizes of the texts,
four bytes a row, it sees one scan task at a time. Knows no plan, no settings and no table.
"""

import itertools
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from sfr_batch.corpus.shards import Shard
from sfr_batch.corpus.splits import Chosen, ReadUnit, pack
from sfr_batch.planning.decided_rows import Work, WorkRows, work_in
from sfr_batch.planning.row_comparison import RowComparison
from sfr_batch.storage.executor import BYTES_A_TASK, ROWS_A_TASK, in_order


class Part(NamedTuple):
    """Rows of a read unit in a split: from ``start`` to before ``stop`` of the `WorkRows` of the scan task ``task``."""

    unit: ReadUnit
    task: int
    start: int
    stop: int


@dataclass(frozen=True)
class CutRows:
    """All rows of some shards for which the same is done, numbered from 0 in the order of the corpus, cut into splits.

    Split n has the rows ends[n] to before ends[n + 1].
    """

    found: RowComparison
    work: Work
    numbers: NDArray[np.int64]
    """[units + 1] the number of the first row of each unit, and the number of all rows."""
    ends: NDArray[np.int64]
    """[splits + 1]"""
    text_bytes: NDArray[np.int64]
    """[splits]"""
    handles: dict[int, Any]
    """Of the `WorkRows`, by number of the scan task; empty once they are released."""

    def __len__(self) -> int:
        return len(self.text_bytes)

    @property
    def by_position(self) -> bool:
        """See `Chosen.by_position`."""
        return self.found.selected is not None

    @cached_property
    def _firsts(self) -> NDArray[np.int64]:
        """[scan tasks] the first unit of each."""
        return np.array([task.first for task in self.found.scans], np.int64)

    def parts(self, split: int) -> list[Part]:
        """The rows of a split, by unit."""
        return self.parts_of(range(split, split + 1))

    def parts_of(self, splits: range) -> list[Part]:
        """The rows of consecutive splits, by unit."""
        first, end = int(self.ends[splits.start]), int(self.ends[splits.stop])
        lowest = int(np.searchsorted(self.numbers, first, "right")) - 1
        units = lowest + np.flatnonzero(np.diff(self.numbers[lowest : np.searchsorted(self.numbers, end) + 1]))
        tasks = np.searchsorted(self._firsts, units, "right") - 1
        before = self.numbers[self._firsts[tasks]]
        starts = np.maximum(self.numbers[units], first) - before
        stops = np.minimum(self.numbers[units + 1], end) - before
        found = zip(units.tolist(), tasks.tolist(), starts.tolist(), stops.tolist(), strict=True)
        return [Part(self.found.units[unit], task, start, stop) for unit, task, start, stop in found]

    def together(self, splits: range) -> Iterator[range]:
        """Consecutive splits that should be read together: those that begin in the same unit, which is decoded from its
        beginning for each read. As many as a task may have, or one."""
        units = np.searchsorted(self.numbers, self.ends[splits.start : splits.stop], "right").tolist()
        ends = self.ends[splits.start : splits.stop + 1].tolist()
        until = [0, *np.cumsum(self.text_bytes[splits.start : splits.stop]).tolist()]
        first = 0
        for number in range(1, len(splits)):
            many = ends[number + 1] - ends[first] > ROWS_A_TASK or until[number + 1] - until[first] > BYTES_A_TASK
            if many or units[number] != units[first]:
                yield splits[first:number]
                first = number
        yield splits[first:]

    def handed(self, parts: Iterable[Part]) -> tuple[list[int], list[Any]]:
        """The scan tasks that have some of the rows, and handles of their `WorkRows`: what `chosen` needs in a task."""
        tasks = list(dict.fromkeys(part.task for part in parts))
        return tasks, [self.handles[task] for task in tasks]

    def release(self) -> None:
        """Let go of the rows, which take memory where tasks run: they have been read for the last time."""
        self.handles.clear()

    def of_task(self, number: int) -> slice:
        """The numbers of the rows of a scan task."""
        task = self.found.scans[number]
        return slice(int(self.numbers[task.first]), int(self.numbers[task.end]))

    def fetch(self) -> Iterator[tuple[Chosen, ...]]:
        """The rows of each split, in order. Fetches them, those of one or a few scan tasks at a time."""
        rows: dict[int, WorkRows] = {}
        for split in range(len(self)):
            parts = self.parts(split)
            tasks, handles = self.handed(parts)
            rows = {
                task: rows[task] if task in rows else next(self.found.executor.get([handle]))
                for task, handle in zip(tasks, handles, strict=True)
            }
            yield chosen(parts, rows, by_position=self.by_position)


@dataclass(frozen=True)
class PackedSplits:
    """Splits of rows for which the same is done. split_ids: in the order of the rows."""

    rows: CutRows
    split_ids: tuple[str, ...]


def cut_rows(
    found: RowComparison, work: Work, shards: frozenset[str], max_rows: Callable[[int, int], int], max_bytes: int
) -> CutRows:
    """The rows of the shards with these URIs for which this is done, cut into splits.

    max_rows: the most rows of a split, of the number of all of them and the bytes of their texts.
    """
    of_shards = np.array([unit.shard.uri in shards for unit in found.units], np.bool_)
    counts, sizes = (np.where(of_shards, found.totals[f"{work.column}{of}"], 0) for of in ("", "_bytes"))
    handles, of_texts = {}, []
    for number, task in enumerate(found.scans):
        units = (task.first + np.flatnonzero(counts[task.first : task.end])).tolist()
        if units:
            more = work, found.own_files, task.scanned if found.selected else None
            its = found.executor.submit(work_in, task.decided, found.decided_units(task, units), *more, returns=2)
            of_texts.append(its[0])
            handles[number] = its[1]
    ends, text_bytes = cut(found.executor.get(of_texts), max_rows(int(counts.sum()), int(sizes.sum())), max_bytes)
    numbers = np.concatenate([[0], np.cumsum(counts, dtype=np.int64)])
    return CutRows(found, work, numbers, ends, text_bytes, handles)


def cut(
    sizes: Iterable[NDArray[np.uint32]], max_rows: int, max_bytes: int
) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Cut rows, in order, into splits of at most ``max_rows`` rows and ``max_bytes`` bytes of text; a larger row is a
    split by itself.

    sizes: bytes of the rows, in blocks. Returns the number of the first row of each split and that of all rows
    [splits + 1], and the bytes of each split [splits].
    """
    ends, bytes_until = [0], [0]
    rows = size = 0  # of the blocks before
    for block in sizes:
        until = size + np.cumsum(block, dtype=np.int64)
        while True:
            fit = rows + int(np.searchsorted(until, bytes_until[-1] + max_bytes, side="right"))
            end = min(ends[-1] + max_rows, max(fit, ends[-1] + 1))
            if end >= rows + len(block):  # the next block may have more for it
                break
            ends.append(end)
            bytes_until.append(int(until[end - rows - 1]) if end > rows else size)
        rows, size = rows + len(block), int(until[-1]) if len(block) else size
    if rows > ends[-1]:
        ends.append(rows)
        bytes_until.append(size)
    return np.array(ends, np.int64), np.diff(np.array(bytes_until, np.int64))


def names_of(
    rows: CutRows, identity: Callable[[Iterable[Shard]], Sequence[str]], condemned: frozenset[str]
) -> tuple[str, ...]:
    """The split ids, in order, found where the rows are. identity, condemned: as of `SplitNames`."""
    executor = rows.found.executor
    shared = executor.share(condemned)

    def calls() -> Iterator[tuple[Any, ...]]:
        for _, several in itertools.groupby(map(rows.parts, range(len(rows))), key=lambda parts: parts[0].task):
            splits = [(parts, (rows.work.value, *identity(part.unit.shard for part in parts))) for parts in several]
            tasks, handles = rows.handed(part for parts, _ in splits for part in parts)
            yield splits, rows.by_position, shared, tasks, *handles

    return tuple(name for several in in_order(executor, _names, calls()) for name in several)


def _names(
    splits: Sequence[tuple[Sequence[Part], Sequence[str]]],
    by_position: bool,
    condemned: frozenset[str],
    tasks: Sequence[int],
    *rows: WorkRows,
) -> list[str]:
    """A task: the split id of each of the splits, which are given with what their names depend on beside their rows."""
    by_task = dict(zip(tasks, rows, strict=True))
    units = (pack(chosen(parts, by_task, by_position=by_position), 0, its, condemned) for parts, its in splits)
    return [unit.splits[0].split_id for unit in units]


def chosen(parts: Iterable[Part], rows: Mapping[int, WorkRows], *, by_position: bool) -> tuple[Chosen, ...]:
    """Parts of a packed split. rows: by number of the scan task; by_position: see `Chosen`."""
    found = ((part.unit, rows[part.task]["at"][part.start : part.stop]) for part in parts)
    return tuple(Chosen(unit, at.copy() if by_position else at.astype(np.int32), by_position) for unit, at in found)
