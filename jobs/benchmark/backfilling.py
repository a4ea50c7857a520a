"""Measures backfills by filter: one row of a hundred is embedded again under a new label.

    python -m jobs.benchmark.backfilling write ROWS FOLDER
    python -m jobs.benchmark.backfilling none|local KIND ROWS FOLDER

The selected rows are in every row group, or next to each other in one. Texts are short and vectors small and from no
model; all else is real, on a local disk: the table of all rows, the comparison, the splits, the indexes and the
snapshot. The process of the second command is the driver, and says by how much its memory grew; a process of its own
writes the vectors, as actors would. Each command prints one JSON object.
"""

import contextlib
import json
import multiprocessing
import os
import shutil
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from jobs.benchmark.nightly import PARTS, embed, executors, first_night, mib, no_model, slope, write_corpus
from jobs.benchmark.planning import own_memory, reset_peak
from jobs.benchmark.processes import Sampler
from jobs.benchmark.splits import aligned, run_module
from sfr_batch.config.loading import config_from_dict
from sfr_batch.config.settings import Config
from sfr_batch.errors import RunFailed
from sfr_batch.planning.comparison import compare
from sfr_batch.planning.drafting import draft
from sfr_batch.planning.make import make_plan
from sfr_batch.storage.stores import open_store
from sfr_batch.table.commit.publish import publish
from sfr_batch.table.commit.writing import new_run_id
from sfr_batch.table.table import Table

KINDS = ("everywhere", "together")
"""Where the selected rows are."""
_IO = Path("/proc/self/io")


@dataclass(frozen=True)
class Backfill:
    """A backfill. cpu: seconds of CPU of all processes, but those that write vectors; memory: bytes by which the
    driver's grew at most over what it held with all imports; read: bytes that the comparison has read, None on Ray.
    Without /proc, memory and read are None."""

    address: str
    kind: str
    rows: int
    selected: int
    compare_seconds: float
    compare_cpu: float
    compare_memory: int | None
    read: int | None
    publish_seconds: float
    """Of writing the indexes and publishing."""
    publish_cpu: float
    publish_memory: int | None


def run(rows: int, addresses: Sequence[str], folder: Path, say: Callable[[str], None]) -> list[Backfill]:
    """Write a table of so many rows and embed a hundredth of them again, each in its own process. Raises RunFailed."""
    found = []
    with tempfile.TemporaryDirectory(dir=folder) as place:
        run_module("backfilling", ["write", str(rows), place], folder)
        for address in addresses:
            for kind in KINDS:
                one = Backfill(**run_module("backfilling", [address, kind, str(rows), place], folder))
                say(f"Selected {one.selected:,} of {rows:,} rows in {one.compare_seconds:.1f} s, on Ray: {address}")
                found.append(one)
    return found


def table(found: Sequence[Backfill]) -> str:
    """The result as a text table."""
    head = ["run.ray_address", "rows", "selected", "", "compare s", "CPU s", "us a row", "read MB", "grew MiB"]
    rows = [[*head, "publish s", "CPU s", "grew MiB"]]
    for one in found:
        compared = [f"{one.compare_seconds:.1f}", f"{one.compare_cpu:.1f}", f"{one.compare_cpu / one.rows * 1e6:.2f}"]
        read = "–" if one.read is None else f"{one.read / 1e6:,.0f}"
        published = [f"{one.publish_seconds:.1f}", f"{one.publish_cpu:.1f}", mib(one.publish_memory)]
        what = [one.address, f"{one.rows:,}", f"{one.selected:,}", one.kind]
        rows.append([*what, *compared, read, mib(one.compare_memory), *published])
    lines = ["One row of a hundred embedded again, chosen by select.where", *aligned(rows)]
    for address, kind in dict.fromkeys((one.address, one.kind) for one in found):
        its = [one for one in found if (one.address, one.kind) == (address, kind)]
        lines += slope(f"{address}, {kind}", "compare", [(one.rows, one.compare_memory) for one in its])
    return "\n".join(lines)


def _config(folder: Path, name: str, **more: Any) -> Config:
    return config_from_dict(
        {
            "corpus": {"path": f"{folder}/corpus", "carry": ["part"]},
            "model": {"path": "none", "device": "cpu"},
            "table": {"path": f"{folder}/{name}", "generation": more.pop("generation", "")},
            "run": {"min_splits": 1, "actors": {"gpus": 0}},
            **more,
        }
    )


def write(rows: int, folder: Path) -> dict[str, Any]:
    """A corpus, and a table of it."""
    write_corpus(folder, rows, None)
    first_night(_config(folder, "table"))
    return {"rows": rows}


def measure(address: str, kind: str, rows: int, folder: Path) -> dict[str, Any]:
    """The fields of `Backfill`."""
    first = rows // 2
    where, expected = {
        "everywhere": ("part = 7", -(-(rows - 7) // PARTS)),
        "together": (f"id >= '{_id(first)}' and id < '{_id(first + rows // PARTS)}'", rows // PARTS),
    }[kind]
    shutil.copytree(folder / "table", folder / "again", copy_function=os.link)
    config = _config(folder, "again", generation="again", select={"where": where})
    fresh = multiprocessing.get_context("spawn")
    with contextlib.ExitStack() as stack:
        stack.callback(shutil.rmtree, folder / "again")
        writer = stack.enter_context(ProcessPoolExecutor(1, mp_context=fresh))
        executor, publisher = stack.enter_context(executors(address, config))
        tree = stack.enter_context(Sampler(os.getpid()))
        at_first, already = own_memory("VmRSS"), _read_until_now()
        started, cpu = time.monotonic(), tree.look()
        with no_model():
            comparison = compare(make_plan(config), executor)
        compare_seconds, compare_cpu = time.monotonic() - started, tree.look() - cpu
        read = None if already is None or publisher else (_read_until_now() or 0) - already
        compare_memory = own_memory("VmHWM")
        receipts = writer.submit(embed, comparison.plan).result()
        reset_peak()
        started, cpu = time.monotonic(), tree.look()
        prepared = draft(comparison.plan, new_run_id(), receipts, comparison)
        snapshot = publish(Table.open(open_store(config.table.path)), comparison.plan.base, prepared, publisher)
        publish_seconds, publish_cpu = time.monotonic() - started, tree.look() - cpu
        publish_memory = own_memory("VmHWM")
    counts, changes = snapshot.manifest.counts, snapshot.manifest.changes
    selected = sum(receipt.vectors for receipt in receipts)
    if changes is None or (changes.changed, counts.vectors, selected) != (selected, rows, expected):
        raise RunFailed(f"{snapshot!r}, {changes!r} is not a backfill of {expected:,} of {rows:,} rows.")
    compared = (compare_seconds, compare_cpu, _grew(at_first, compare_memory), read)
    published = (publish_seconds, publish_cpu, _grew(at_first, publish_memory))
    return asdict(Backfill(address, kind, rows, selected, *compared, *published))


def _grew(at_first: int | None, peak: int | None) -> int | None:
    return None if at_first is None or peak is None else max(0, peak - at_first)


def _id(number: int) -> str:
    return f"document-{number:010}"


def _read_until_now() -> int | None:
    """Bytes that this process has read."""
    if not _IO.is_file():
        return None
    return int(_IO.read_text(encoding="utf-8").split("rchar: ")[1].split()[0])


def main(arguments: Sequence[str]) -> None:
    match arguments:
        case ["write", rows, folder]:
            print(json.dumps(write(int(rows), Path(folder))))
        case [address, kind, rows, folder]:
            print(json.dumps(measure(address, kind, int(rows), Path(folder))))


if __name__ == "__main__":
    main(sys.argv[1:])
