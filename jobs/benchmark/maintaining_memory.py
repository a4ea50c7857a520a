"""Measures what an audit, an export, a compaction and `changes` take of the memory of the process that asks for them.

    python -m jobs.benchmark.maintaining_memory ROWS FOLDER

The table is that of `publishing`, on a local disk: data files of 8,192 rows with vectors of 8 numbers. Its second
snapshot has the same ids in other files, half of them with other vectors: `changes` has every row to compare. Each
operation runs once on a local Ray of as many workers as there are cores, for a process of its own. Its own memory and
what it sees of Ray's object store are looked at twenty times a second. It prints one JSON object.
"""

import json
import multiprocessing
import os
import sys
import tempfile
from collections.abc import Callable, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import asdict, dataclass
from itertools import pairwise
from pathlib import Path
from typing import Any

from jobs.benchmark import publishing
from jobs.benchmark.maintaining import OPERATIONS, carry_out, on_workers
from jobs.benchmark.planning import own_memory
from jobs.benchmark.processes import Lookout
from jobs.benchmark.splits import aligned, run_module
from sfr_batch.storage.stores import open_store
from sfr_batch.table.commit.publish import publish
from sfr_batch.table.table import Table

_OPERATIONS = (*OPERATIONS, "changes")
_LOOK_EVERY_S = 0.05


@dataclass(frozen=True)
class Grown:
    """One operation on a table of so many rows. memory: bytes by which the process that asked for it grew at most;
    own: without shared memory; store: shared memory, which is Ray's: pages of its object store that results were read
    from, in memory once for all processes. None where /proc is not there."""

    operation: str
    rows: int
    seconds: float
    cpu: float
    memory: int | None
    own: int | None
    store: int | None


def run(sizes: Sequence[int], folder: Path, say: Callable[[str], None]) -> list[Grown]:
    """Write tables of so many rows and keep them. Raises RunFailed."""
    found: list[Grown] = []
    for rows in sorted(sizes):
        its = run_module("maintaining_memory", [str(rows), str(folder)], folder)["grown"]
        found += [Grown(**one) for one in its]
        say(f"Audited, exported, compacted and compared {rows:,} rows of 8 numbers")
    return found


def table(found: Sequence[Grown]) -> str:
    """The result as a text table."""
    head = ["", "rows", "s", "CPU s", "us a row", "grew MiB", "own", "a further row", "of the store", "a further row"]
    rows = [head]
    for operation in _OPERATIONS:
        its = [one for one in found if one.operation == operation]
        slopes = [("", ""), *(_slopes(*pair) for pair in pairwise(its))]
        for one, (own, store) in zip(its, slopes, strict=True):
            rows.append(
                [
                    operation if one is its[0] else "",
                    f"{one.rows:,}",
                    f"{one.seconds:.1f}",
                    f"{one.cpu:.1f}",
                    f"{one.cpu / one.rows * 1e6:.2f}",
                    _mib(one.memory),
                    _mib(one.own),
                    own,
                    _mib(one.store),
                    store,
                ]
            )
    return "\n".join(["Memory of the process that asks, on Ray, in MiB; of a further row in bytes", *aligned(rows)])


def _mib(size: int | None) -> str:
    return "–" if size is None else f"{size / 2**20:,.0f}"


def _slopes(small: Grown, large: Grown) -> tuple[str, str]:
    pairs = (small.own, large.own), (small.store, large.store)
    rows = large.rows - small.rows
    own, store = ("–" if a is None or b is None else f"{(b - a) / rows:.1f}" for a, b in pairs)
    return own, store


class _Watch(Lookout):
    """Looks at the memory of this process, twenty times a second."""

    def __init__(self) -> None:
        super().__init__(_LOOK_EVERY_S)
        self._first = self._most = self._look()

    @property
    def grew(self) -> tuple[int, int] | tuple[None, None]:
        """Bytes at most: its own, and of shared memory."""
        if self._first is None or self._most is None:
            return None, None
        return self._most[0] - self._first[0], self._most[1] - self._first[1]

    @staticmethod
    def _look() -> tuple[int, int] | None:
        anonymous, of_files, shared = (own_memory(f"Rss{kind}") for kind in ("Anon", "File", "Shmem"))
        return None if anonymous is None or of_files is None or shared is None else (anonymous + of_files, shared)

    def note(self) -> None:
        now = self._look()
        if now and self._most:
            self._most = max(self._most[0], now[0]), max(self._most[1], now[1])


def _publish(folder: str, workers: int) -> None:
    opened = Table.open(open_store(folder))
    with on_workers(workers) as executor:
        base = opened.latest()
        publish(opened, base, publishing.draft(opened, base), executor)


def _carry_out(folder: Path, rows: int, operation: str, workers: int) -> Grown:
    with on_workers(workers) as executor, _Watch() as watch:
        done = carry_out(folder, operation, workers, executor)
    return Grown(operation, rows, done.seconds, done.cpu, done.memory, *watch.grew)


def measure(rows: int, folder: Path) -> dict[str, Any]:
    """What `run` takes: the fields of each `Grown`."""
    fresh, cores = multiprocessing.get_context("spawn"), os.cpu_count() or 1
    with (
        tempfile.TemporaryDirectory(dir=folder) as place,
        ProcessPoolExecutor(cores, fresh) as writers,
        ProcessPoolExecutor(1, fresh, max_tasks_per_child=1) as process,
    ):
        its = f"{place}/table"
        for version in range(2):
            work = [writers.submit(publishing.write, its, rows, 0.0, (part, cores), version) for part in range(cores)]
            for one in work:
                one.result()
            process.submit(_publish, its, cores).result()
        found = [process.submit(_carry_out, Path(place), rows, operation, cores).result() for operation in _OPERATIONS]
    return {"grown": [asdict(one) for one in found]}


def main(arguments: Sequence[str]) -> None:
    rows, folder = arguments
    print(json.dumps(measure(int(rows), Path(folder))))


if __name__ == "__main__":
    main(sys.argv[1:])
