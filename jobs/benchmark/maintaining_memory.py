"""Measures what an audit, an export, a compaction and `changes` take of the memory of the process that asks for them.

    python -m jobs.benchmark.maintaining_memory ROWS FOLDER

The table is that of `publishing`, on a local disk: data files of 8,192 rows with vectors of 8 numbers. Its second
snapshot has the same ids in other files, half of them with other vectors: `changes` has every row to compare. Each
operation runs once on a local Ray of as many workers as there are cores, for a process of its own. It prints one JSON
object.
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
from jobs.benchmark.maintaining import OPERATIONS, Pass, carry_out, on_workers
from jobs.benchmark.splits import aligned, run_module
from sfr_batch.storage.stores import open_store
from sfr_batch.table.commit.publish import publish
from sfr_batch.table.table import Table

_OPERATIONS = (*OPERATIONS, "changes")


@dataclass(frozen=True)
class Grown:
    """One operation on a table of so many rows. memory: bytes by which the process that asked for it grew at most,
    without Ray's and its own imports before; None where /proc is not there."""

    operation: str
    rows: int
    seconds: float
    cpu: float
    memory: int | None


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
    head = ["", "rows", "s", "CPU s", "us a row", "grew MiB", "bytes a further row"]
    rows = [head]
    for operation in _OPERATIONS:
        its = [one for one in found if one.operation == operation]
        slopes = ["", *(f"{_slope(*pair):.1f}" if pair[0].memory is not None else "–" for pair in pairwise(its))]
        for one, slope in zip(its, slopes, strict=True):
            rows.append(
                [
                    operation if one is its[0] else "",
                    f"{one.rows:,}",
                    f"{one.seconds:.1f}",
                    f"{one.cpu:.1f}",
                    f"{one.cpu / one.rows * 1e6:.2f}",
                    "–" if one.memory is None else f"{one.memory / 2**20:,.0f}",
                    slope,
                ]
            )
    return "\n".join(["Memory of the process that asks, on Ray", *aligned(rows)])


def _slope(small: Grown, large: Grown) -> float:
    return ((large.memory or 0) - (small.memory or 0)) / (large.rows - small.rows)


def _publish(folder: str, workers: int) -> None:
    opened = Table.open(open_store(folder))
    with on_workers(workers) as executor:
        base = opened.latest()
        publish(opened, base, publishing.draft(opened, base), executor)


def _carry_out(folder: Path, operation: str, workers: int) -> Pass:
    with on_workers(workers) as executor:
        return carry_out(folder, operation, workers, executor)


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
        done = [process.submit(_carry_out, Path(place), operation, cores).result() for operation in _OPERATIONS]
    found = [Grown(one.operation, rows, one.seconds, one.cpu, one.memory) for one in done]
    return {"grown": [asdict(one) for one in found]}


def main(arguments: Sequence[str]) -> None:
    rows, folder = arguments
    print(json.dumps(measure(int(rows), Path(folder))))


if __name__ == "__main__":
    main(sys.argv[1:])
