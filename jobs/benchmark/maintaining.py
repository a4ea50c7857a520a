"""Measures what keeping a large table costs: an audit, an export and a compaction, in one process and on a local Ray.

    python -m jobs.benchmark.maintaining ROWS DIM PAIRS FOLDER

The table is real, on a local disk, in data files of 8,192 rows; only its vectors do not come from a model. One process
works alone, one has a Ray of one worker, and one a Ray of two. Each carries every operation out once before it counts;
then they take turns, as often as there are pairs. Those whose turn it is not are stopped, their Ray included. Before
each turn the files are in the page cache, nothing waits to be written, and free memory is ready. It prints one JSON
object.
"""

import contextlib
import json
import multiprocessing
import os
import shutil
import statistics
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import asdict, dataclass
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any, Self

import numpy as np
import pyarrow as pa

import sfr_batch as sfr
from jobs.benchmark import disk, memory, two_processes
from jobs.benchmark.disk import Rates, Traffic
from jobs.benchmark.planning import own_memory, reset_peak
from jobs.benchmark.processes import Sampler, machine_cpu_seconds, stopped
from jobs.benchmark.splits import aligned, run_module
from jobs.benchmark.two_processes import Gain
from sfr_batch.errors import RunFailed, counted
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
_DISK_AT_MOST, _OTHERS_AT_MOST = 0.5, 0.1
"""Share of the seconds that the disk alone takes, and share of the cores that other processes take, above which it is
these that are measured."""


@dataclass(frozen=True)
class Pass:
    """One operation on the table. workers: on Ray; 0: in one process. cpu: seconds of all its processes, Ray's own
    included; others: those of everything else on the machine meanwhile; memory: bytes by which the process that asked
    for it grew at most; both None where /proc is not there. disk: what it did meanwhile, None where that is not
    known."""

    operation: str
    workers: int
    seconds: float
    cpu: float
    others: float | None
    memory: int | None
    disk: Traffic | None
    ready: float
    """Seconds a GB in which free memory was made ready before. If it is much more than 0.1, a host had to give it."""


@dataclass(frozen=True)
class Maintained:
    """All operations in all ways, in turns, on a table of so many rows; bytes: of its data files. first: those that do
    not count, before the turns. raw: what one and two processes could write and read; gain: what two of them gain
    on this machine; of both the least of before and after."""

    rows: int
    dim: int
    bytes: int
    first: Sequence[Pass]
    passes: Sequence[Pass]
    raw: Sequence[Rates]
    gain: Gain

    def of(self, operation: str, workers: int) -> list[Pass]:
        """In turns."""
        return [its for its in self.passes if (its.operation, its.workers) == (operation, workers)]

    def of_one_worker(self, operation: str) -> float:
        """Seconds of two workers, relative to those of one in the same turn: the median."""
        pairs = zip(self.of(operation, 2), self.of(operation, 1), strict=True)
        return statistics.median(two.seconds / one.seconds for two, one in pairs)

    def of_process(self, operation: str, workers: int) -> float:
        """CPU seconds of all processes, relative to those of one process in the same turn: the median."""
        pairs = zip(self.of(operation, workers), self.of(operation, 0), strict=True)
        return statistics.median(its.cpu / alone.cpu for its, alone in pairs)

    def of_disk(self, operation: str, workers: int) -> float | None:
        """Share of the seconds that the disk alone takes, at its raw rate, for the same bytes: the median."""
        rates = next(rates for rates in self.raw if rates.processes == max(1, workers))
        shares = [rates.seconds(its.disk) / its.seconds for its in self.of(operation, workers) if its.disk]
        return statistics.median(shares) if shares else None

    def of_others(self, operation: str) -> float | None:
        """Share of the machine's cores that everything else took beside two workers: the median."""
        cores = os.cpu_count() or 1
        shares = [one.others / one.seconds / cores for one in self.of(operation, 2) if one.others is not None]
        return statistics.median(shares) if shares else None


def run(rows: int, dim: int, pairs: int, folder: Path, say: Callable[[str], None]) -> Maintained:
    """Write a table of ``rows`` vectors of ``dim`` and keep it, in processes of their own. Raises RunFailed."""
    raw = run_module("maintaining", [str(rows), str(dim), str(pairs), str(folder)], folder)
    first, passes = (
        [Pass(**{**its, "disk": its["disk"] and Traffic(*its["disk"])}) for its in raw[name]]
        for name in ("first", "passes")
    )
    known = {"first": first, "passes": passes, "raw": [Rates(*its) for its in raw["raw"]], "gain": Gain(*raw["gain"])}
    found = Maintained(**{**raw, **known})
    say(f"Audited, exported and compacted {rows:,} rows in {len(_WAYS)} ways")
    return found


def table(done: Maintained) -> str:
    """The result as a text table."""
    head = ["", "", "s", "of one worker", "MB/s", "CPU s", "of one process", "others", "first grew MiB", "grew MiB"]
    rows = [[*head, "disk: read MB", "written MB", "busy", "waited for", "alone"]]
    for operation in OPERATIONS:
        for workers in _WAYS:
            its = done.of(operation, workers)
            first = [one for one in done.first if (one.operation, one.workers) == (operation, workers)]
            seconds = statistics.median(one.seconds for one in its)
            rows.append(
                [
                    operation if not workers else "",
                    ("one process", "1 worker", "2 workers")[workers],
                    f"{seconds:.1f}",
                    f"{done.of_one_worker(operation):.2f}" if workers == 2 else "",
                    f"{done.bytes / 1e6 / seconds:,.0f}",
                    f"{statistics.median(one.cpu for one in its):.1f}",
                    f"{done.of_process(operation, workers):.2f}" if workers else "",
                    _median([one.others for one in its], "{:.1f}"),
                    *(_median([one.memory and one.memory / 2**20 for one in some], "{:,.0f}") for some in (first, its)),
                    _median([one.disk and one.disk.read / 1e6 for one in its], "{:,.0f}"),
                    _median([one.disk and one.disk.written / 1e6 for one in its], "{:,.0f}"),
                    _median([one.disk and one.disk.busy / one.seconds for one in its], "{:.0%}"),
                    _median([one.disk and one.disk.waited and one.disk.waited / one.seconds for one in its], "{:.0%}"),
                    _median([done.of_disk(operation, workers)], "{:.0%}"),
                ]
            )
    turns = len(done.of(OPERATIONS[0], 0))
    size = f"{done.rows:,} rows of {done.dim:,} numbers, {done.bytes / 1e6:,.0f} MB"
    rates = [
        f"{its.write / 1e6:,.0f} written and {its.read / 1e6:,.0f} read by {('one process', 'two')[its.processes - 1]}"
        for its in done.raw
    ]
    lines = [
        f"{size}; the median of {counted(turns, 'turn')}",
        *aligned(rows),
        f"the disk alone, MB/s: {'; '.join(rates)}",
        f"free memory, s a GB until it was ready: at most {max(one.ready for one in done.passes):.2f}",
        f"two processes alone, of the seconds of one: {done.gain.arithmetic:.2f} for arithmetic, "
        f"{done.gain.memory:.2f} for products of arrays in memory",
        *(f"two workers, {operation}: {_verdict(done, operation)}" for operation in OPERATIONS),
    ]
    return "\n".join(lines)


def _median(values: Sequence[float | None], shown: str) -> str:
    known = [value for value in values if value is not None]
    return shown.format(statistics.median(known)) if known else "–"


def _verdict(done: Maintained, operation: str) -> str:
    share = done.of_one_worker(operation)
    told = f"{share:.2f} of the seconds of one, {_within(share, AT_MOST_OF_ONE)}"
    told += f"; {(cpu := done.of_process(operation, 2)):.2f} of the CPU of one process, {_within(cpu, AT_MOST_CPU)}"
    disks = [alone for workers in (1, 2) if (alone := done.of_disk(operation, workers)) is not None]
    if disks and max(disks) > _DISK_AT_MOST:
        told += "; THE DISK WAS MEASURED: at its raw rate it needs "
        told += " and ".join(f"{its:.0%}" for its in disks) + " of the seconds"
    if (others := done.of_others(operation) or 0.0) > _OTHERS_AT_MOST:
        told += f"; DISTURBED: other processes took {others:.0%} of the cores"
    return told


def _within(share: float, most: float) -> str:
    return f"{'' if share <= most else 'NOT '}within the aim of {most:g}"


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


@contextlib.contextmanager
def on_workers(workers: int) -> Iterator[Executor | None]:
    """A local Ray of so many workers, on as many cores. 0: this process, in one thread of Arrow's, as a task has."""
    pa.set_cpu_count(1)
    if not workers:
        yield None
        return
    import ray

    with _on_cores(workers):
        ray.init(address="local", num_cpus=workers, include_dashboard=False, log_to_driver=False)
        try:
            with sfr.on_ray("auto") as executor:
                yield executor
        finally:
            ray.shutdown()


@contextlib.contextmanager
def _on_cores(number: int) -> Iterator[None]:
    """Meanwhile this thread, and the processes that it starts, have so many cores. Else a worker whose task reads ahead
    would also use cores that belong to no worker, of which a busy cluster has none. Linux alone can do that."""
    if not hasattr(os, "sched_setaffinity"):
        yield
        return
    cores = os.sched_getaffinity(0)
    os.sched_setaffinity(0, sorted(cores)[:number])
    try:
        yield
    finally:
        os.sched_setaffinity(0, cores)


def carry_out(folder: Path, operation: str, workers: int, executor: Executor | None) -> Pass:
    """One operation on the table in ``folder``. Raises RunFailed."""
    work = prepared(folder, operation, executor)
    disk.settle(folder / "table")
    ready = memory.make_ready(3 * _data_bytes(folder))  # the files that it writes, and what it works in
    with Sampler(os.getpid()) as tree:
        reset_peak()
        before = own_memory("VmRSS")
        own, machine, traffic, started = tree.look(), machine_cpu_seconds(), disk.look(folder), time.monotonic()
        work()
        seconds, own, after = time.monotonic() - started, tree.look() - own, disk.look(folder)
        all_of_it, peak = machine_cpu_seconds(), own_memory("VmHWM")
    others = None if machine is None or all_of_it is None else max(0.0, all_of_it - machine - own)
    grew = None if before is None or peak is None else max(0, peak - before)
    did = after.since(traffic) if after and traffic else None
    return Pass(operation, workers, seconds, own, others, grew, did, ready)


def prepared(folder: Path, operation: str, executor: Executor | None) -> Callable[[], None]:
    """What is measured; the rest of it is done at once. changes: of the first two snapshots."""
    source, other = folder / "table", folder / "other"
    shutil.rmtree(other, ignore_errors=True)
    if operation == "compact":  # changes the table, so each time another one, of the same files
        shutil.copytree(source, other, copy_function=os.link)
    opened = sfr.open_table(str(other if operation == "compact" else source))

    def audit() -> None:
        report = sfr.audit(str(source), executor=executor)
        if not report.ok or report.rows < opened.num_rows:
            raise RunFailed(f"The audit failed: {report!r}\n{report.describe()}")

    def export() -> None:
        done = opened.export(str(other), executor=executor)
        if done.rows != opened.num_rows:
            raise RunFailed(f"{done!r} has not the {opened.num_rows:,} rows of the table.")

    def compact() -> None:
        done = opened.maintenance.compact(rows_per_file=_ROWS_A_COMPACTED_FILE, dry_run=False, executor=executor)
        if done.snapshot is None:
            raise RunFailed(f"{done!r} has rewritten nothing.")

    def changes() -> None:
        done = opened.changes(1, 2, executor=executor)
        if done.new or done.deleted or not done.changed or done.changed + done.unchanged != opened.num_rows:
            raise RunFailed(f"{done!r} are not the changes that were made.")

    return {"audit": audit, "export": export, "compact": compact, "changes": changes}[operation]


class _Way:
    """A process of its own that carries operations out in one way, and keeps its Ray meanwhile. A context manager."""

    def __init__(self, folder: Path, workers: int) -> None:
        fresh = multiprocessing.get_context("spawn")
        self._pipe, self._theirs = fresh.Pipe()
        self._process = fresh.Process(target=_serve, args=(self._theirs, folder, workers))

    def __enter__(self) -> Self:
        self._process.start()
        self._theirs.close()  # so that its end is told
        return self

    def __exit__(self, *_: object) -> None:
        with contextlib.suppress(BrokenPipeError):
            self._pipe.send(None)
        self._process.join()

    @property
    def pid(self) -> int:
        assert self._process.pid is not None, "it is not entered"
        return self._process.pid

    def carry_out(self, operation: str) -> Pass:
        try:
            self._pipe.send(operation)
            done: Pass = self._pipe.recv()
        except (EOFError, BrokenPipeError):
            raise RunFailed(f"{operation}: its process has ended, see above.") from None
        return done


def _serve(asked: Connection, folder: Path, workers: int) -> None:
    with on_workers(workers) as executor:
        for operation in iter(asked.recv, None):
            asked.send(carry_out(folder, operation, workers, executor))


def measure(rows: int, dim: int, pairs: int, folder: Path) -> dict[str, Any]:
    """The fields of `Maintained`."""
    fresh = multiprocessing.get_context("spawn")
    with tempfile.TemporaryDirectory(dir=folder) as place, contextlib.ExitStack() as stack:
        with ProcessPoolExecutor(1, fresh) as process:
            process.submit(write, f"{place}/table", rows, dim).result()
        data = _data_bytes(Path(place))
        before, gain = _raw(folder), two_processes.measure()
        ways = [stack.enter_context(_Way(Path(place), workers)) for workers in _WAYS]
        first: list[Pass] = []
        passes: list[Pass] = []
        for operation in OPERATIONS:
            first += [_alone(way, ways, operation) for way in ways]
            passes += [_alone(way, ways, operation) for _ in range(pairs) for way in ways]
        with stopped(way.pid for way in ways):
            raw = [was.at_most(now) for was, now in zip(before, _raw(folder), strict=True)]
            gain = gain.at_least(two_processes.measure())
    return asdict(Maintained(rows, dim, data, first, passes, raw, gain))


def _alone(way: _Way, ways: Sequence[_Way], operation: str) -> Pass:
    with stopped(other.pid for other in ways if other is not way):
        return way.carry_out(operation)


def _data_bytes(folder: Path) -> int:
    return sum(info.size for info in open_store(str(folder / "table")).list(names.DATA))


def _raw(folder: Path) -> list[Rates]:
    memory.make_ready(2**30)
    return [disk.raw_rates(folder, processes) for processes in (1, 2)]


def main(arguments: Sequence[str]) -> None:
    rows, dim, pairs, folder = arguments
    print(json.dumps(measure(int(rows), int(dim), int(pairs), Path(folder))))


if __name__ == "__main__":
    main(sys.argv[1:])
