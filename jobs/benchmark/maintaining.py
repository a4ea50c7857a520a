"""Measures what keeping a large table costs: an audit, an export and a compaction, in one process and on a local Ray.

    python -m jobs.benchmark.maintaining ROWS DIM FOLDER

The table is real, on a local disk, in data files of 8,192 rows; only its vectors do not come from a model. On Ray there
is one worker, then two. Everything is done twice, and the second time counts: the workers have their imports, and the
files are in the page cache. It prints one JSON object.
"""

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

import numpy as np
import pyarrow as pa

import sfr_batch as sfr
from jobs.benchmark.planning import own_memory, reset_peak
from jobs.benchmark.processes import Sampler
from jobs.benchmark.splits import aligned, run_module
from sfr_batch.errors import RunFailed
from sfr_batch.format import names
from sfr_batch.format.fingerprint import digest, short_id
from sfr_batch.format.records import Receipt, ShardRecord, TableCard
from sfr_batch.storage.executor import Executor
from sfr_batch.storage.stores import open_store
from sfr_batch.table.commit.draft import Draft
from sfr_batch.table.commit.publish import publish
from sfr_batch.table.commit.writing import commit_split, create_or_open, new_attempt, new_run_id

_ROWS_A_SPLIT, _ROWS_A_COMPACTED_FILE = 8192, 65536
OPERATIONS = ("audit", "export", "compact")
_WAYS = (0, 1, 2)
"""Workers on Ray; 0: this process."""
AT_MOST_OF_ONE, AT_MOST_CPU = 0.65, 1.2
"""The aims: seconds of two workers, of those of one; CPU seconds on Ray, of those of one process."""


@dataclass(frozen=True)
class Kept:
    """One operation on the table, the second time. workers: on Ray; 0: in one process. cpu: seconds of all processes;
    memory: bytes by which the process that asked for it grew at most, None where /proc is not there."""

    operation: str
    workers: int
    seconds: float
    cpu: float
    memory: int | None


@dataclass(frozen=True)
class Maintained:
    """All operations in all ways, on a table of so many rows; bytes: of its data files."""

    rows: int
    dim: int
    bytes: int
    found: Sequence[Kept]

    def of(self, operation: str, workers: int) -> Kept:
        return next(its for its in self.found if (its.operation, its.workers) == (operation, workers))

    def of_one_worker(self, operation: str) -> float:
        """Seconds of two workers, relative to those of one."""
        return self.of(operation, 2).seconds / self.of(operation, 1).seconds

    def of_process(self, operation: str, workers: int) -> float:
        """CPU seconds of all processes, relative to those of one process."""
        return self.of(operation, workers).cpu / self.of(operation, 0).cpu


def run(rows: int, dim: int, folder: Path, say: Callable[[str], None]) -> Maintained:
    """Write a table of ``rows`` vectors of ``dim`` and keep it, in processes of their own. Raises RunFailed."""
    raw = run_module("maintaining", [str(rows), str(dim), str(folder)], folder)
    found = Maintained(**{**raw, "found": [Kept(**its) for its in raw["found"]]})
    say(f"Audited, exported and compacted {rows:,} rows in {len(_WAYS)} ways")
    return found


def table(done: Maintained) -> str:
    """The result as a text table."""
    rows = [["", "", "s", "of one worker", "MB/s", "CPU s", "of one process", "grew MiB"]]
    for operation in OPERATIONS:
        for workers in _WAYS:
            its = done.of(operation, workers)
            rows.append(
                [
                    operation if not workers else "",
                    ("one process", "1 worker", "2 workers")[workers],
                    f"{its.seconds:.1f}",
                    f"{done.of_one_worker(operation):.2f}" if workers == 2 else "",
                    f"{done.bytes / 1e6 / its.seconds:,.0f}",
                    f"{its.cpu:.1f}",
                    f"{done.of_process(operation, workers):.2f}" if workers else "",
                    "–" if its.memory is None else f"{its.memory / 2**20:,.0f}",
                ]
            )
    shares = [done.of_one_worker(operation) for operation in OPERATIONS]
    cpus = [done.of_process(operation, 2) for operation in OPERATIONS]
    lines = [
        f"{done.rows:,} rows of {done.dim:,} numbers, {done.bytes / 1e6:,.0f} MB",
        *aligned(rows),
        f"two workers: at most {max(shares):.2f} of the seconds of one, {_within(shares, AT_MOST_OF_ONE)}",
        f"two workers: at most {max(cpus):.2f} of the CPU of one process, {_within(cpus, AT_MOST_CPU)}",
    ]
    return "\n".join(lines)


def _within(shares: Sequence[float], most: float) -> str:
    return f"{'' if max(shares) <= most else 'NOT '}within the aim of {most:g}"


def write(folder: str, rows: int, dim: int) -> None:
    """A table of one snapshot with ``rows`` rows."""
    schema, inputs = names.table_schema(pa.string(), dim, "float32", {}), {"vector_dtype": "float32"}
    card = TableCard.make(schema, digest(inputs), inputs, {"path": "none"})
    store = open_store(folder)
    table = create_or_open(store, card)
    random = np.random.default_rng(0)
    receipts = []
    for start in range(0, rows, _ROWS_A_SPLIT):
        n = min(_ROWS_A_SPLIT, rows - start)
        vectors = random.standard_normal((n, dim), dtype=np.float32)
        vectors /= np.linalg.norm(vectors, axis=1, keepdims=True)
        columns = {
            names.ID: pa.array([f"document-{number:010}" for number in range(start, start + n)]),
            names.EMBEDDING: pa.FixedSizeListArray.from_arrays(
                pa.array(vectors.reshape(-1)), type=card.schema.field(names.EMBEDDING).type
            ),
            names.N_TOKENS: pa.array(np.full(n, 100, np.int32)),
            names.N_TOKENS_FULL: pa.array(np.full(n, 100, np.int32)),
            names.TRUNCATED: pa.array(np.zeros(n, bool)),
            names.CONTENT_HASH: pa.array([random.bytes(16) for _ in range(n)], pa.binary(16)),
        }
        receipt = Receipt(
            split_id=short_id("audited", start),
            shard="shard",
            version="1",
            start=start,
            attempt=new_attempt(),
            run_id="none",
            read=n,
            embedded=n,
            rejected=0,
            vectors=n,
            tokens=100 * n,
            tokens_full=100 * n,
            encoded_tokens=100 * n,
            padded_tokens=100 * n,
            truncated=0,
            encode_seconds=0.0,
        )
        data = pa.table(list(columns.values()), schema=card.schema)
        receipts.append(commit_split(store, card, receipt, data, names.REJECTS_SCHEMA.empty_table()))
    shard = ShardRecord("shard", "1", 0, "recipe", "", rows, len(receipts))
    new = frozenset(receipt.split_id for receipt in receipts)
    publish(table, None, Draft(new_run_id(), "", {}, receipts, [shard], new))


def keep(folder: Path, operations: Sequence[str], workers: int) -> list[Kept]:
    """Carry out the operations on the table in ``folder``, each twice, in this process or on a Ray of so many workers.

    Raises RunFailed.
    """
    if not workers:
        return [_measured(folder, operation, workers, None) for operation in operations]
    import ray

    ray.init(address="local", num_cpus=workers, include_dashboard=False, log_to_driver=False)
    try:
        with sfr.on_ray("auto") as executor:
            return [_measured(folder, operation, workers, executor) for operation in operations]
    finally:
        ray.shutdown()


def _measured(folder: Path, operation: str, workers: int, executor: Executor | None) -> Kept:
    with Sampler(os.getpid()) as tree:
        for _ in range(2):
            work = _prepared(folder, operation, executor)
            reset_peak()
            memory, cpu, started = own_memory("VmRSS"), tree.look(), time.monotonic()
            work()
            seconds, cpu, peak = time.monotonic() - started, tree.look() - cpu, own_memory("VmHWM")
    grew = None if memory is None or peak is None else max(0, peak - memory)
    return Kept(operation, workers, seconds, cpu, grew)


def _prepared(folder: Path, operation: str, executor: Executor | None) -> Callable[[], None]:
    """What is measured."""
    source, other = folder / "table", folder / "other"
    shutil.rmtree(other, ignore_errors=True)
    if operation == "compact":  # changes the table, so each time another one, of the same files
        shutil.copytree(source, other, copy_function=os.link)
    opened = sfr.open_table(str(other if operation == "compact" else source))

    def audit() -> None:
        report = sfr.audit(str(source), executor=executor)
        if not report.ok or report.rows != opened.num_rows:
            raise RunFailed(f"The audit failed: {report!r}\n{report.describe()}")

    def export() -> None:
        done = opened.export(str(other), executor=executor)
        if done.rows != opened.num_rows:
            raise RunFailed(f"{done!r} has not the {opened.num_rows:,} rows of the table.")

    def compact() -> None:
        done = opened.maintenance.compact(rows_per_file=_ROWS_A_COMPACTED_FILE, dry_run=False, executor=executor)
        if done.snapshot is None:
            raise RunFailed(f"{done!r} has rewritten nothing.")

    return {"audit": audit, "export": export, "compact": compact}[operation]


def measure(rows: int, dim: int, folder: str) -> dict[str, Any]:
    """The fields of `Maintained`."""
    fresh = multiprocessing.get_context("spawn")
    with (
        tempfile.TemporaryDirectory(dir=folder) as place,
        # Of one thread of Arrow's, as a task has: cores are for workers.
        ProcessPoolExecutor(1, fresh, pa.set_cpu_count, (1,), max_tasks_per_child=1) as process,
    ):
        process.submit(write, f"{place}/table", rows, dim).result()
        data = sum(info.size for info in open_store(f"{place}/table").list(names.DATA))
        found: list[Kept] = []
        for workers in _WAYS:
            found += process.submit(keep, Path(place), OPERATIONS, workers).result()
    return asdict(Maintained(rows, dim, data, found))


def main(arguments: Sequence[str]) -> None:
    rows, dim, folder = arguments
    print(json.dumps(measure(int(rows), int(dim), folder)))


if __name__ == "__main__":
    main(sys.argv[1:])
