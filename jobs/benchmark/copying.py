"""Measures a night after a new carried column: no row is encoded, and all are copied to new data files.

Texts are short, vectors small and from no model; all else is real, on a local disk: the table, the comparison, the
copies, the indexes and the snapshot. `python -m jobs.benchmark.copying none|local ORDER ROWS FOLDER`, a process of its
own, is the driver and prints one JSON object; the process that starts it watches its memory.
"""

import contextlib
import json
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

from jobs.benchmark import processes
from jobs.benchmark.nightly import first_night, mib, second_night, slope, write_corpus
from jobs.benchmark.splits import aligned, run_module
from sfr_batch.config.loading import config_from_dict
from sfr_batch.config.settings import Config
from sfr_batch.errors import RunFailed
from sfr_batch.pipeline.copy_vectors import copy_all
from sfr_batch.planning.comparison import compare
from sfr_batch.planning.drafting import draft
from sfr_batch.planning.make import make_plan
from sfr_batch.storage.stores import open_store
from sfr_batch.table.commit.publish import publish
from sfr_batch.table.commit.writing import new_run_id
from sfr_batch.table.table import Table

STEPS = ("compare", "copy", "publish")
"""To publish includes to write the indexes."""
_ROWS_A_SPLIT = 2048
_LOOK_EVERY_S = 0.05
"""To publish takes a second for a million rows."""
ORDERS = ("same", "shuffled")
"""Of the rows of the corpus, in the night beside the first one."""


@dataclass(frozen=True)
class Step:
    """Seconds, seconds of CPU of the driver alone, and bytes by which its own memory grew at most since before the
    night. Pages of the object store that it has looked at are not its own."""

    seconds: float
    cpu: float
    memory: int


@dataclass(frozen=True)
class Copied:
    """A night in which every row of a table is copied. steps: in the order of `STEPS`."""

    address: str
    order: str
    rows: int
    splits: int
    steps: Sequence[Step]


def run(address: str, order: str, rows: int, folder: Path, say: Callable[[str], None]) -> Copied:
    """Write a table of so many rows and copy them, in a process of its own, and watch it. Raises RunFailed."""
    with tempfile.TemporaryDirectory(dir=folder) as place, processes.Watch(_LOOK_EVERY_S) as watch:
        raw = run_module("copying", [address, order, str(rows), place], folder)
    first = raw["steps"][0]["begin"]
    before = [memory.driver for at, memory in watch.samples if at < first]
    held = [
        [memory.driver for at, memory in watch.samples if step["begin"] <= at <= step["left"]] for step in raw["steps"]
    ]
    if not before or not all(held):
        raise RunFailed(f"{rows:,} rows were copied too quickly to see memory: give more.")
    steps = [
        Step(step["end"] - step["begin"], step["cpu"], max(0, max(its) - before[-1]))
        for step, its in zip(raw["steps"], held, strict=True)
    ]
    say(f"Copied {rows:,} rows, order: {order}, in {sum(step.seconds for step in steps):.1f} s, on Ray: {address}")
    return Copied(address, order, rows, raw["splits"], steps)


def table(found: Sequence[Copied]) -> str:
    """The result as a text table."""
    rows = [
        ["run.ray_address", "order", "rows", "splits", *(f"{step} s" for step in STEPS), "driver: CPU s", "us a row"]
    ]
    rows[0] += ["grew MiB", *(f"to {step}" for step in STEPS[1:])]
    for one in found:
        cpu = sum(step.cpu for step in one.steps)
        what = [
            one.address,
            one.order,
            f"{one.rows:,}",
            f"{one.splits:,}",
            *(f"{step.seconds:.1f}" for step in one.steps),
        ]
        rows.append([*what, f"{cpu:.1f}", f"{cpu / one.rows * 1e6:.2f}", *(mib(step.memory) for step in one.steps)])
    lines = ["Every row copied, for a new carried column: texts of 200 characters, ids of 19, no model", *aligned(rows)]
    for address, order in dict.fromkeys((one.address, one.order) for one in found):
        its = [one for one in found if (one.address, one.order) == (address, order)]
        for number, step in enumerate(STEPS):
            lines += slope(f"{address}, {order}", step, [(one.rows, one.steps[number].memory) for one in its])
    return "\n".join(lines)


def _config(folder: Path, *carry: str) -> Config:
    return config_from_dict(
        {
            "corpus": {"path": f"{folder}/corpus", "carry": list(carry)},
            "model": {"path": "none", "device": "cpu"},
            "table": {"path": f"{folder}/table"},
            "run": {"rows_per_split": _ROWS_A_SPLIT, "min_splits": 1, "actors": {"gpus": 0}},
        }
    )


def write(folder: Path, rows: int, order: str) -> None:
    """A corpus, and a table of it that carries no column, which was written when it was in the same order or not."""
    write_corpus(folder, rows, None if order == "same" else 1)
    first_night(_config(folder))
    if order != "same":
        write_corpus(folder, rows, None)


def measure(address: str, order: str, rows: int, folder: Path) -> dict[str, Any]:
    """The number of splits and, of each step, when it began, ended and was left (seconds since the epoch) and the CPU
    seconds of this process."""
    config = _config(folder, "part")
    steps = []

    @contextlib.contextmanager
    def step() -> Iterator[None]:
        begin, cpu = time.time(), time.process_time()
        yield
        end, cpu = time.time(), time.process_time() - cpu
        time.sleep(10 * _LOOK_EVERY_S)  # what a short step has made is there to be looked at, too
        steps.append({"begin": begin, "end": end, "left": time.time(), "cpu": cpu})

    with second_night(address, config, partial(write, order=order), folder, rows) as (executor, publisher):
        with step():
            comparison = compare(make_plan(config), executor)
        plan = comparison.plan
        with step():
            receipts = list(copy_all(comparison, new_run_id()))
        with step():
            prepared = draft(plan, new_run_id(), receipts, comparison)
            snapshot = publish(Table.open(open_store(config.table.path)), plan.base, prepared, publisher)
    changes, layout = snapshot.manifest.changes, snapshot.layout
    if plan.todo or changes is None or changes.copied != rows or "part" not in layout.schema.names:
        raise RunFailed(f"{snapshot!r}, {changes!r} is not {rows:,} rows that were copied.")
    return {"splits": len(receipts), "steps": steps}


def main(arguments: Sequence[str]) -> None:
    address, order, rows, folder = arguments
    print(json.dumps(measure(address, order, int(rows), Path(folder))))


if __name__ == "__main__":
    main(sys.argv[1:])
