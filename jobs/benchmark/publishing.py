"""Measures what it costs to publish a large table, in one process and in tasks of a local Ray.

    python -m jobs.benchmark.publishing ROWS FOLDER [SHARE]

The table is real, on a local disk: data files of 8,192 rows with vectors of 8 numbers, all of them new. A share of the
rows repeat ids of the file before, in every second file; by default a hundred rows in one file of a hundred do. One
process publishes it here, another one on Ray; each says by how much its memory grew at most. It prints one JSON object.
"""

import json
import multiprocessing
import os
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
import pyarrow.compute as pc

from jobs.benchmark.planning import own_memory
from jobs.benchmark.processes import Sampler
from jobs.benchmark.splits import aligned, run_module
from sfr_batch.errors import RunFailed
from sfr_batch.format import names
from sfr_batch.format.fingerprint import digest, short_id
from sfr_batch.format.parquet import read_receipts
from sfr_batch.format.records import Receipt, ShardRecord, TableCard
from sfr_batch.storage.executor import Executor
from sfr_batch.storage.stores import open_store
from sfr_batch.table.commit.draft import Draft
from sfr_batch.table.commit.publish import publish
from sfr_batch.table.commit.writing import commit_split, create_or_open, new_attempt, new_run_id
from sfr_batch.table.table import Snapshot, Table

_ROWS_A_FILE, _FILES_A_SHARD, _DIM = 2**13, 100, 8
_REPEATED = 100
"""Rows of each first file of a shard that have the ids of the next file, unless a share is given."""
_SCHEMA = names.table_schema(pa.string(), _DIM, "float32", {})
_INPUTS = {"vector_dtype": "float32"}
_CARD = TableCard.make(_SCHEMA, digest(_INPUTS), _INPUTS, {"path": "none"})


@dataclass(frozen=True)
class Published:
    """One publishing. seconds: of the wall; cpu: seconds of CPU of the driver and, on Ray, of all its processes;
    driver_cpu: of the driver alone; memory: bytes by which the driver's grew at most; peak: its largest. These two are
    None where /proc is not there."""

    where: str
    rows: int
    repeated: int
    """Rows that are dead, because an earlier one has their id."""
    files: int
    seconds: float
    cpu: float
    driver_cpu: float
    memory: int | None
    peak: int | None


def run(rows: int, folder: Path, say: Callable[[str], None], share: float = 0) -> list[Published]:
    """Publish a table of so many rows, and one of half of them. share: of the rows that repeat an id, 0 for a few.

    Raises RunFailed.
    """
    found: list[Published] = []
    for size in (rows // 2, rows):
        for one in run_module("publishing", [str(size), str(folder), str(share)], folder)["published"]:
            found.append(Published(**one))
            say(f"Published {found[-1].rows:,} rows {found[-1].where} in {found[-1].seconds:.1f} s")
    return found


def table(found: Sequence[Published]) -> str:
    """The result as a text table."""
    times = ["s", "us a row", "CPU s", "CPU us a row", "driver: CPU s"]
    rows = [["", "rows", "repeated", "files", *times, "grew MiB", "peak MiB"]]
    for one in found:
        memory = ["–", "–"] if one.memory is None or one.peak is None else [_mib(one.memory), _mib(one.peak)]
        times = [cell for spent in (one.seconds, one.cpu) for cell in (f"{spent:.1f}", f"{spent / one.rows * 1e6:.2f}")]
        numbers = [f"{number:,}" for number in (one.rows, one.repeated, one.files)]
        rows.append([one.where, *numbers, *times, f"{one.driver_cpu:.1f}", *memory])
    lines = aligned(rows)
    for where in dict.fromkeys(one.where for one in found):
        small, large = (one for one in found if one.where == where)
        if small.peak is not None and large.peak is not None and large.rows > small.rows:
            slope = (large.peak - small.peak) / (large.rows - small.rows)
            lines.append(f"{where}: each further row takes {slope:.1f} bytes of the driver's memory")
            if large.repeated > large.rows // 100:
                lines[-1] += f", which is {slope * large.rows / large.repeated:.0f} for each repeated id"
    return "\n".join(lines)


def _mib(size: int) -> str:
    return f"{size / 2**20:,.0f}"


def write(folder: str, rows: int, share: float = 0.0, part: tuple[int, int] = (0, 1), version: int = 0) -> None:
    """Data files of a table. part: number of this process, and of all that share the work.

    Files of another version have the same ids, and every second one other vectors and hashes.
    """
    store = open_store(folder)
    create_or_open(store, _CARD)
    first, step = part
    for number in range(first, -(-rows // _ROWS_A_FILE), step):
        start = number * _ROWS_A_FILE
        n = min(_ROWS_A_FILE, rows - start)
        rng = np.random.default_rng([number, version * (number % 2)])
        ids = np.arange(start, start + n)
        repeats = number % (2 if share else _FILES_A_SHARD) == 0
        repeated = round(2 * share * n) if share else _REPEATED
        if repeats and start + n + repeated <= rows:
            ids[:repeated] = np.arange(start + n, start + n + repeated)
        vectors = rng.random((n, _DIM), np.float32) - np.float32(0.5)
        vectors /= np.linalg.norm(vectors, axis=1, keepdims=True)
        lengths, numbers = np.full(n, 100, np.int32), pc.utf8_lpad(pa.array(ids).cast(pa.string()), 10, "0")
        columns = {
            names.ID: pc.binary_join_element_wise("document-", numbers, ""),
            names.EMBEDDING: pa.FixedSizeListArray.from_arrays(
                pa.array(vectors.reshape(-1)), type=_CARD.schema.field(names.EMBEDDING).type
            ),
            names.N_TOKENS: pa.array(lengths),
            names.N_TOKENS_FULL: pa.array(lengths),
            names.TRUNCATED: pa.array(np.zeros(n, bool)),
            names.CONTENT_HASH: pa.FixedSizeBinaryArray.from_buffers(
                pa.binary(16), n, [None, pa.py_buffer(rng.bytes(16 * n))]
            ),
        }
        its = pa.table(list(columns.values()), schema=_CARD.schema)
        receipt = Receipt.of_rows(
            its,
            split_id=short_id("publish", version, number),
            shard=f"shard-{number // _FILES_A_SHARD:06}",
            version="1",
            start=start,
            attempt=new_attempt(),
            run_id="none",
            generation="",
        )
        commit_split(store, _CARD, receipt, its, names.REJECTS_SCHEMA.empty_table())


def draft(table: Table, base: Snapshot | None = None) -> Draft:
    """All data files that are in the table, but not those of ``base``."""
    known = {receipt.split_id for receipt in base.read_receipts()} if base else set()
    receipts = read_receipts(table.store, sorted(split_id for split_id in table.committed() if split_id not in known))
    receipts.sort(key=lambda receipt: (receipt.shard, receipt.start))
    read: dict[str, list[int]] = {}
    for receipt in receipts:
        read.setdefault(receipt.shard, []).append(receipt.read)
    shards = [ShardRecord(uri, "1", 0, "recipe", "", sum(its), len(its)) for uri, its in read.items()]
    return Draft(new_run_id(), "", {}, receipts, shards, frozenset(receipt.split_id for receipt in receipts))


def _publish_here(folder: str) -> dict[str, Any]:
    return _publish(folder, "in one process", None)


def _publish_on_ray(folder: str) -> dict[str, Any]:
    from sfr_batch.pipeline import joining, tasks

    cpus = os.cpu_count() or 1
    with joining.connected(None, cpus):
        return _publish(folder, f"on Ray, {cpus} CPUs", tasks.OnRay("publishing"))


def _publish(folder: str, where: str, executor: Executor | None) -> dict[str, Any]:
    opened = Table.open(open_store(folder))
    wanted = draft(opened)
    before = own_memory("VmRSS")
    with Sampler(os.getpid()) as tree:
        at_first, own, started = tree.look(), time.process_time(), time.monotonic()
        counts = publish(opened, None, wanted, executor).manifest.counts
        seconds, own, peak = time.monotonic() - started, time.process_time() - own, own_memory("VmHWM")
        cpu = tree.look() - at_first if executor else own
    rows = sum(receipt.vectors for receipt in wanted.receipts)
    if (counts.read, counts.vectors + counts.rejected) != (rows, rows) or not counts.rejected:
        raise RunFailed(f"{counts!r} are not the counts of {rows:,} rows.")
    # The next process publishes the same: only here may manifests go.
    opened.store.delete([info.key for info in opened.store.list(names.SNAPSHOTS)])
    memory = None if before is None or peak is None else peak - before
    return asdict(Published(where, rows, counts.rejected, len(wanted.receipts), seconds, cpu, own, memory, peak))


def measure(rows: int, folder: str, share: float) -> dict[str, Any]:
    """What `run` takes: the fields of each `Published`."""
    fresh = multiprocessing.get_context("spawn")
    with (
        tempfile.TemporaryDirectory(dir=folder) as place,
        ProcessPoolExecutor(1, mp_context=fresh, max_tasks_per_child=1) as process,
    ):
        process.submit(write, place, rows, share).result()
        return {"published": [process.submit(part, place).result() for part in (_publish_here, _publish_on_ray)]}


def main(arguments: Sequence[str]) -> None:
    rows, folder, *share = arguments
    print(json.dumps(measure(int(rows), folder, float(share[0]) if share else 0)))


if __name__ == "__main__":
    main(sys.argv[1:])
