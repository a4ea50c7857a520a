"""Measures an exact search of many queries over a table, beside one product of the two matrices with its top-k.

    python -m jobs.benchmark.searching write FOLDER ROWS DIM
    python -m jobs.benchmark.searching here FOLDER QUERIES K        a search, a read and a product in this process
    python -m jobs.benchmark.searching memory FOLDER QUERIES K      a search in this process
    python -m jobs.benchmark.searching WORKERS FOLDER QUERIES K     a search on a Ray with so many CPUs

The table is that of `maintaining`. Each command but the first prints one JSON object. The product is what no search can
do without: PyTorch's, of matrices that are in memory already, on the threads of OMP_NUM_THREADS. Of three rounds the
best one counts. All searches must find the same, bit by bit, and the scores of the product within 1e-5.
"""

import hashlib
import json
import os
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from jobs.benchmark.maintaining import write
from jobs.benchmark.planning import own_memory
from jobs.benchmark.splits import aligned, run_module
from sfr_batch.errors import RunFailed
from sfr_batch.format import names
from sfr_batch.storage.executor import Executor
from sfr_batch.storage.stores import open_store
from sfr_batch.table.search import Matches, Search, vectors_of
from sfr_batch.table.table import Snapshot, Table

_ROUNDS = 3
_WORKERS = (1, 2)
_QUERIES_AT_ONCE = 250
"""Of the product in memory: all scores of 1,000 queries over a million rows would be 4 GB."""
_MEMORY_DIM = 8
Matrix = NDArray[np.float32]


@dataclass(frozen=True)
class Searched:
    """One way to search. Seconds of the search, and of one read and one product on as many cores; memory: bytes by
    which the process that asked grew at most, None where /proc is not there."""

    where: str
    rows: int
    dim: int
    queries: int
    k: int
    search: float
    read: float
    product: float
    memory: int | None

    @property
    def ratio(self) -> float:
        """The search, relative to the product and one read of the table."""
        return self.search / (self.product + self.read)


@dataclass(frozen=True)
class Held:
    """The memory of a process that searched: bytes by which it grew at most, and its largest; None without /proc."""

    rows: int
    dim: int
    queries: int
    k: int
    search: float
    memory: int | None
    peak: int | None


def run(rows: int, dim: int, queries: int, k: int, folder: Path, say: Callable[[str], None]) -> list[Searched]:
    """Write a table and search it: in a process, with 1 thread and with all, and on Ray. Raises RunFailed."""
    from sfr_batch.encoder.threads import usable_cores  # loads PyTorch

    cores = usable_cores()
    with tempfile.TemporaryDirectory(dir=folder) as table:
        run_module("searching", ["write", table, str(rows), str(dim)], folder)
        asked = [table, str(queries), str(k)]
        alone = {
            threads: run_module("searching", ["here", *asked], folder, {"OMP_NUM_THREADS": str(threads)})
            for threads in sorted({*(min(workers, cores) for workers in _WORKERS), cores})
        }
        ways = {f"one process, {_counted(threads, 'thread')}": (threads, its) for threads, its in alone.items()}
        for workers in _WORKERS:
            its = run_module("searching", [str(workers), *asked], folder, {"OMP_NUM_THREADS": "1"})
            ways[f"Ray, {_counted(workers, 'worker')}"] = (min(workers, cores), its)
    found = []
    for where, (threads, its) in ways.items():
        if its["found"] != alone[1]["found"]:
            raise RunFailed(f"{where}: the search has found other rows or scores than in one process.")
        basis = alone[threads]
        found.append(
            Searched(where, rows, dim, queries, k, its["search"], basis["read"], basis["product"], its["memory"])
        )
        say(f"Searched {rows:,} rows for {queries:,} queries in {its['search']:.1f} s: {where}")
    return found


def hold(rows: int, queries: int, k: int, folder: Path, say: Callable[[str], None]) -> list[Held]:
    """The memory of a search of so many rows of short vectors, and of a quarter of them. Raises RunFailed."""
    found = []
    for size in (rows // 4, rows):
        with tempfile.TemporaryDirectory(dir=folder) as table:
            run_module("searching", ["write", table, str(size), str(_MEMORY_DIM)], folder)
            its = run_module("searching", ["memory", table, str(queries), str(k)], folder, {"OMP_NUM_THREADS": "1"})
        found.append(Held(size, _MEMORY_DIM, queries, k, its["search"], its["memory"], its["peak"]))
        say(f"Searched {size:,} short rows in {its['search']:.1f} s")
    return found


def table(found: Sequence[Searched]) -> str:
    """The result as a text table."""
    head = ["", "search s", "read s", "product s", "search / (product + read)", "grew MiB"]
    rows = [
        [
            one.where,
            *(f"{seconds:.1f}" for seconds in (one.search, one.read, one.product)),
            f"{one.ratio:.2f}",
            _mib(one.memory),
        ]
        for one in found
    ]
    asked = f"{found[0].queries:,} queries, k {found[0].k:,}, over {found[0].rows:,} x {found[0].dim:,}"
    title = f"Exact search of random unit vectors on a local disk, and one read and product on as many cores: {asked}"
    return "\n".join([title, *aligned([head, *rows])])


def memory_table(found: Sequence[Held]) -> str:
    """The result of `hold` as a text table."""
    rows = [["rows", "dims", "queries", "k", "search s", "grew MiB", "peak MiB"]]
    for one in found:
        counts = [f"{number:,}" for number in (one.rows, one.dim, one.queries, one.k)]
        rows.append([*counts, f"{one.search:.1f}", _mib(one.memory), _mib(one.peak)])
    return "\n".join(aligned(rows))


def _counted(number: int, noun: str) -> str:
    return f"{number} {noun}{'s' * (number != 1)}"


def _mib(size: int | None) -> str:
    return "–" if size is None else f"{size / 2**20:,.0f}"


def _queries(snapshot: Snapshot, count: int) -> Matrix:
    dim = snapshot.schema.field(names.EMBEDDING).type.list_size
    asked = np.random.default_rng(1).standard_normal((count, dim), dtype=np.float32)
    asked /= np.linalg.norm(asked, axis=1, keepdims=True)
    return asked


def _search(
    folder: str, queries: int, k: int, executor: Executor | None, rounds: int
) -> tuple[Matches, dict[str, Any]]:
    """What is found, and what `run` takes of it."""
    snapshot = Table.open(open_store(folder)).current()
    search, asked = Search.of(snapshot, k), _queries(snapshot, queries)
    before = own_memory("VmRSS")
    seconds = []
    for _ in range(rounds):
        started = time.perf_counter()
        found = search.run(asked, executor)
        seconds.append(time.perf_counter() - started)
    peak = own_memory("VmHWM")
    hits = found.to_arrow()
    digest = hashlib.sha256(hits.column("score").combine_chunks().to_numpy().tobytes())
    digest.update("\n".join(hits.column(names.ID).to_pylist()).encode())
    memory = None if before is None or peak is None else peak - before
    return found, {"search": min(seconds), "memory": memory, "peak": peak, "found": digest.hexdigest()}


def here(folder: str, queries: int, k: int) -> dict[str, Any]:
    """A search, a read and a product in this process."""
    import torch

    found, result = _search(folder, queries, k, None, _ROUNDS)
    snapshot = Table.open(open_store(folder)).current()
    columns, asked = [names.ID, names.EMBEDDING], _queries(snapshot, queries)
    vectors = np.concatenate([vectors_of(batch.column(1)) for batch in snapshot.batches(columns)])
    torch.set_num_threads(int(os.environ["OMP_NUM_THREADS"]))
    scores = found.to_arrow().column("score").to_numpy().reshape(queries, -1)
    if not np.allclose(scores, _product(torch, asked, vectors, k), atol=1e-5):
        raise RunFailed("The search has other scores than the product of the matrices.")
    parts: dict[str, Callable[[], Any]] = {
        "read": lambda: sum(1 for _ in snapshot.batches(columns)),
        "product": lambda: _product(torch, asked, vectors, k),
    }
    for name, part in parts.items():
        seconds = []
        for _ in range(_ROUNDS):
            started = time.perf_counter()
            part()
            seconds.append(time.perf_counter() - started)
        result[name] = min(seconds)
    return result


def on_ray(folder: str, queries: int, k: int, workers: int) -> dict[str, Any]:
    """A search in tasks of a Ray that is running already, with so many CPUs."""
    from sfr_batch.pipeline import joining, tasks

    with joining.connected(None, workers):
        return _search(folder, queries, k, tasks.OnRay("searching"), _ROUNDS)[1]


def _product(torch: Any, queries: Matrix, vectors: Matrix, k: int) -> Matrix:
    found = []
    for start in range(0, len(queries), _QUERIES_AT_ONCE):
        scores = torch.from_numpy(queries[start : start + _QUERIES_AT_ONCE]) @ torch.from_numpy(vectors).T
        found.append(torch.topk(scores, k, dim=1).values.numpy())
    return np.concatenate(found)


def main(arguments: Sequence[str]) -> None:
    """One of the commands above."""
    what, folder, first, second = arguments[0], arguments[1], int(arguments[2]), int(arguments[3])
    if what == "write":
        write(folder, first, second)
        print("{}")
    elif what == "here":
        print(json.dumps(here(folder, first, second)))
    elif what == "memory":
        print(json.dumps(_search(folder, first, second, None, 1)[1]))
    else:
        print(json.dumps(on_ray(folder, first, second, int(what))))


if __name__ == "__main__":
    main(sys.argv[1:])
