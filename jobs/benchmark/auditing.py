"""Measures an audit of a local table of random unit vectors: rows per second and peak memory.

    python -m jobs.benchmark.auditing ROWS DIM FOLDER

The table is real, in data files of 8,192 rows; only its vectors do not come from a model. That process audits once and
prints one JSON object. A child process writes the table, so that the peak memory is that of the audit.
"""

import json
import multiprocessing
import sys
import tempfile
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa

from jobs.benchmark.planning import own_memory
from jobs.benchmark.splits import aligned, run_module
from sfr_batch.checks.audit.auditor import audit
from sfr_batch.errors import RunFailed
from sfr_batch.format import names
from sfr_batch.format.fingerprint import digest, short_id
from sfr_batch.format.records import Receipt, ShardRecord, TableCard
from sfr_batch.storage.stores import open_store
from sfr_batch.table.commit.draft import Draft
from sfr_batch.table.commit.publish import publish
from sfr_batch.table.commit.writing import commit_split, create_or_open, new_attempt, new_run_id
from sfr_batch.table.table import Table

_ROWS_A_SPLIT = 8192


@dataclass(frozen=True)
class Audited:
    """One audit: bytes of the data files, seconds, and peak memory of the process; None where /proc is not there."""

    rows: int
    dim: int
    bytes: int
    seconds: float
    peak_bytes: int | None

    @property
    def rows_per_second(self) -> float:
        return self.rows / self.seconds


def run(rows: int, dim: int, folder: Path, say: Callable[[str], None]) -> Audited:
    """Write a table of ``rows`` vectors of ``dim`` and audit it, in a process of its own. Raises RunFailed."""
    found = Audited(**run_module("auditing", [str(rows), str(dim), str(folder)], folder))
    say(f"Audited {rows:,} rows in {found.seconds:.1f} s")
    return found


def table(found: Audited) -> str:
    """The result as a text table."""
    cells = {
        "rows": f"{found.rows:,}",
        "dims": f"{found.dim:,}",
        "MB": f"{found.bytes / 1e6:,.1f}",
        "seconds": f"{found.seconds:,.1f}",
        "rows/s": f"{found.rows_per_second:,.0f}",
        "peak MiB": "–" if found.peak_bytes is None else f"{found.peak_bytes / 2**20:,.0f}",
    }
    lines = [
        "An audit of random unit vectors on a local disk, just after they were written",
        *aligned([list(cells), list(cells.values())]),
    ]
    return "\n".join(lines)


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


def measure(rows: int, dim: int, folder: str) -> dict[str, Any]:
    """Seconds of the audit of a table in ``folder``, and peak memory of this process in bytes."""
    with tempfile.TemporaryDirectory(dir=folder) as place:
        writer = multiprocessing.get_context("spawn").Process(target=write, args=(place, rows, dim))
        writer.start()
        writer.join()
        found = audit(Table.open(open_store(place)))
    if not found.ok or found.rows != rows:
        raise RunFailed(f"The audit failed: {found!r}\n{found.describe()}")
    return {
        "rows": rows,
        "dim": dim,
        "bytes": found.bytes,
        "seconds": found.seconds,
        "peak_bytes": own_memory("VmHWM"),
    }


def main(arguments: Sequence[str]) -> None:
    rows, dim, folder = arguments
    print(json.dumps(measure(int(rows), int(dim), folder)))


if __name__ == "__main__":
    main(sys.argv[1:])
