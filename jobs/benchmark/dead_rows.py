"""Measures what many dead rows cost: to publish a snapshot with them, and to read it.

    python -m jobs.benchmark.dead_rows DEAD_ROWS FOLDER

The table is real, on a local disk: data files of 65,536 rows, of which an index needs one. The others are dead, as they
are after years of nights without a compaction. One process publishes, others read; each says by how much its memory
grew at most. It prints one JSON object.
"""

import dataclasses
import json
import multiprocessing
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa

from jobs.benchmark.planning import own_memory
from jobs.benchmark.splits import aligned, run_module
from sfr_batch.errors import RunFailed
from sfr_batch.format import names
from sfr_batch.format.fingerprint import digest, short_id
from sfr_batch.format.hashes import hash_ids
from sfr_batch.format.indexes import Located, index_table, write_index
from sfr_batch.format.parquet import read_receipts
from sfr_batch.format.records import IndexPart, Receipt, ShardRecord, TableCard
from sfr_batch.storage.stores import open_store
from sfr_batch.table.commit.draft import Draft
from sfr_batch.table.commit.publish import publish
from sfr_batch.table.commit.writing import commit_split, create_or_open, new_attempt, new_run_id
from sfr_batch.table.table import Table

_ROWS_A_FILE = 2**16
_CARD = TableCard.make(
    names.table_schema(pa.int64(), 1, "float32", {}), digest("dead"), {"vector_dtype": "float32"}, {"path": "none"}
)


@dataclass(frozen=True)
class DeadRowsRead:
    """CPU seconds of each part, and bytes by which memory grew at most; these are None where /proc is not there."""

    dead: int
    files: int
    lists: int
    bytes: int
    """Size of all lists."""
    publish: float
    publish_memory: int | None
    first_batch: float
    first_batch_memory: int | None
    read: float
    read_memory: int | None


def run(dead: int, folder: Path, say: Callable[[str], None]) -> DeadRowsRead:
    """Publish and read a table with at least so many dead rows, in processes of their own. Raises RunFailed."""
    found = DeadRowsRead(**run_module("dead_rows", [str(dead), str(folder)], folder))
    say(f"Published {found.dead:,} dead rows in {found.publish:.1f} s of CPU")
    return found


def table(found: DeadRowsRead) -> str:
    """The result as a text table."""
    rows = [["", "CPU s", "memory MiB", "bytes a dead row"]]
    for name, seconds, memory in [
        ("publish", found.publish, found.publish_memory),
        ("open, first batch", found.first_batch, found.first_batch_memory),
        ("read the ids of all files", found.read, found.read_memory),
    ]:
        grown = ["–", "–"] if memory is None else [f"{memory / 2**20:,.0f}", f"{memory / found.dead:.1f}"]
        rows.append([name, f"{seconds:.1f}", *grown])
    what = f"{found.dead:,} dead rows in {found.files:,} data files; {found.lists:,} lists of {found.bytes:,} bytes"
    return "\n".join([what, *aligned(rows)])


def write(folder: str, files: int) -> None:
    """Data files of a table, and an index of the first row of each."""
    store = open_store(folder)
    create_or_open(store, _CARD)
    n, located = _ROWS_A_FILE, []
    for number in range(files):
        ids = np.arange(number * n, (number + 1) * n)
        columns = {
            names.ID: pa.array(ids),
            names.EMBEDDING: pa.FixedSizeListArray.from_arrays(
                pa.array(np.ones(n, np.float32)), type=_CARD.schema.field(names.EMBEDDING).type
            ),
            names.N_TOKENS: pa.array(np.ones(n, np.int32)),
            names.N_TOKENS_FULL: pa.array(np.ones(n, np.int32)),
            names.TRUNCATED: pa.array(np.zeros(n, bool)),
            names.CONTENT_HASH: pa.FixedSizeBinaryArray.from_buffers(
                pa.binary(16), n, [None, pa.py_buffer(bytes(16 * n))]
            ),
        }
        rows = pa.table(list(columns.values()), schema=_CARD.schema)
        receipt = Receipt.of_rows(
            rows,
            split_id=short_id("dead", number),
            shard="",
            version="",
            start=0,
            attempt=new_attempt(),
            run_id="none",
            generation="",
        )
        commit_split(store, _CARD, receipt, rows, names.REJECTS_SCHEMA.empty_table())
        hashes = hash_ids([int(ids[0])])
        its = pa.table({names.ID_HASH: hashes, names.ROW_HASH: hashes, names.POSITION: pa.array([number])})
        place = pa.array([receipt.split_id]), np.zeros(1, np.int64), np.ones(1, np.int32)
        located.append(index_table(its, *place, names.REJECTS_SCHEMA.empty_table()))
    write_index(store, names.index_key(1, "none", 0), [Located("shard", pa.concat_tables(located))])


def _publish(folder: str) -> tuple[float, int | None]:
    def work() -> None:
        table = Table.open(open_store(folder))
        key = names.index_key(1, "none", 0)
        receipts = [
            dataclasses.replace(receipt, owned=False)
            for receipt in read_receipts(table.store, sorted(table.committed()))
        ]
        index = [IndexPart("shard", key, 0, len(receipts))]
        shard = ShardRecord("shard", "1", 0, "recipe", "", len(receipts), 0)
        draft = Draft(new_run_id(), "", {}, receipts, [shard], frozenset(), indexes={"shard": index})
        publish(table, None, draft)

    return _measured(work)


def _read_first(folder: str) -> tuple[float, int | None]:
    return _measured(lambda: next(Table.open(open_store(folder)).batches([names.ID])))


def _read_all(folder: str) -> tuple[float, int | None]:
    def work() -> None:
        table = Table.open(open_store(folder))
        rows = sum(batch.num_rows for batch in table.batches([names.ID]))
        if rows != table.num_rows:
            raise RunFailed(f"{rows:,} rows were read of {table.num_rows:,}.")

    return _measured(work)


def _measured(work: Callable[[], Any]) -> tuple[float, int | None]:
    """CPU seconds of ``work``, and by how many bytes the memory of this process grew at most."""
    before, started = own_memory("VmRSS"), time.process_time()
    work()
    seconds, peak = time.process_time() - started, own_memory("VmHWM")
    return seconds, None if before is None or peak is None else peak - before


def measure(dead: int, folder: str) -> dict[str, Any]:
    """The fields of `DeadRowsRead`."""
    files = -(-dead // (_ROWS_A_FILE - 1))
    fresh = multiprocessing.get_context("spawn")
    with (
        tempfile.TemporaryDirectory(dir=folder) as place,
        ProcessPoolExecutor(1, mp_context=fresh, max_tasks_per_child=1) as process,
    ):
        process.submit(write, place, files).result()
        done = {name: process.submit(part, place).result() for name, part in _PARTS.items()}
        snapshot = Table.open(open_store(place)).current()
        lists, rows = snapshot.read_deletes().lists(), snapshot.read_deletes().rows
        sizes = {info.key: info.size for info in snapshot.store.list(names.DEAD)}
    return {
        "dead": rows,
        "files": files,
        "lists": len(lists),
        "bytes": sum(sizes[each.name] for each in lists),
        **{name: seconds for name, (seconds, _) in done.items()},
        **{f"{name}_memory": memory for name, (_, memory) in done.items()},
    }


_PARTS = {"publish": _publish, "first_batch": _read_first, "read": _read_all}


def main(arguments: Sequence[str]) -> None:
    dead, folder = arguments
    print(json.dumps(measure(int(dead), folder)))


if __name__ == "__main__":
    main(sys.argv[1:])
