"""Measures an exact search of many queries over a table, beside one product of the two matrices with its top-k.

    python -m jobs.benchmark.searching ROWS DIM QUERIES K FOLDER

The table is that of `auditing`. That process searches, and does what no search can do without: it reads the table, and
multiplies matrices that are in memory already, with NumPy and with PyTorch. Of each the best of three rounds counts,
in alternation. It prints one JSON object. Scores must agree within 1e-5.
"""

import json
import multiprocessing
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

from jobs.benchmark.auditing import write
from jobs.benchmark.planning import own_memory
from jobs.benchmark.splits import aligned, run_module
from sfr_batch.errors import RunFailed
from sfr_batch.format import names
from sfr_batch.storage.stores import open_store
from sfr_batch.table.nearest import nearest, vectors_of
from sfr_batch.table.table import Table

_ROUNDS = 3
_QUERIES_AT_ONCE = 250
"""Of the product in memory: all scores of 1,000 queries over a million rows would be 4 GB."""
Matrix = NDArray[np.float32]


@dataclass(frozen=True)
class Searched:
    """Seconds of each part, and bytes of memory that the search added at most; None where /proc is not there."""

    rows: int
    dim: int
    queries: int
    k: int
    search: float
    read: float
    numpy: float
    torch: float
    memory: int | None

    @property
    def ratio(self) -> float:
        """The search, relative to the faster product and one read of the table."""
        return self.search / (min(self.numpy, self.torch) + self.read)


def run(rows: int, dim: int, queries: int, k: int, folder: Path, say: Callable[[str], None]) -> Searched:
    """Write a table and search it, in a process of its own. Raises RunFailed."""
    found = Searched(**run_module("searching", [*map(str, (rows, dim, queries, k)), str(folder)], folder))
    say(f"Searched {rows:,} rows for {queries:,} queries in {found.search:.1f} s")
    return found


def table(found: Searched) -> str:
    """The result as a text table."""
    cells = {
        "rows": f"{found.rows:,}",
        "dims": f"{found.dim:,}",
        "queries": f"{found.queries:,}",
        "k": f"{found.k:,}",
        "search s": f"{found.search:.1f}",
        "read s": f"{found.read:.1f}",
        "NumPy s": f"{found.numpy:.1f}",
        "torch s": f"{found.torch:.1f}",
        "search / (product + read)": f"{found.ratio:.2f}",
        "memory MiB": "–" if found.memory is None else f"{found.memory / 2**20:,.0f}",
    }
    title = "Exact search of random unit vectors on a local disk, and the same product of matrices in memory"
    return "\n".join([title, *aligned([list(cells), list(cells.values())])])


def measure(rows: int, dim: int, queries: int, k: int, folder: str) -> dict[str, Any]:
    """The fields of `Searched`."""
    import torch

    random = np.random.default_rng(1)
    asked = random.standard_normal((queries, dim), dtype=np.float32)
    asked /= np.linalg.norm(asked, axis=1, keepdims=True)
    with tempfile.TemporaryDirectory(dir=folder) as place:
        writer = multiprocessing.get_context("spawn").Process(target=write, args=(place, rows, dim))
        writer.start()
        writer.join()
        snapshot = Table.open(open_store(place)).current()

        def search() -> Matrix:
            return nearest(snapshot.batches([names.ID, names.EMBEDDING]), asked, k).scores.reshape(queries, -1)

        def read() -> list[Matrix]:
            return [vectors_of(batch.column(1)).copy() for batch in snapshot.batches([names.ID, names.EMBEDDING])]

        search()  # whatever is only done once
        before = own_memory("VmRSS")
        first = search()
        peak, memory = own_memory("VmHWM"), None
        if before is not None and peak is not None:
            memory = peak - before
        vectors = np.concatenate(read())
        torch.set_num_threads(int(os.environ.get("OMP_NUM_THREADS") or os.cpu_count() or 1))
        parts: dict[str, Callable[[], Any]] = {
            "search": search,
            "read": lambda: sum(1 for _ in snapshot.batches([names.ID, names.EMBEDDING])),
            "numpy": lambda: _with_numpy(asked, vectors, k),
            "torch": lambda: _with_torch(torch, asked, vectors, k),
        }
        if not np.allclose(first, parts["torch"](), atol=1e-5) or not np.allclose(first, parts["numpy"](), atol=1e-5):
            raise RunFailed("The search has other scores than the product of the matrices.")
        seconds = {name: float("inf") for name in parts}
        for _ in range(_ROUNDS):
            for name, part in parts.items():
                started = time.perf_counter()
                part()
                seconds[name] = min(seconds[name], time.perf_counter() - started)
    return {"rows": rows, "dim": dim, "queries": queries, "k": k, "memory": memory, **seconds}


def _with_numpy(queries: Matrix, vectors: Matrix, k: int) -> Matrix:
    found = []
    for start in range(0, len(queries), _QUERIES_AT_ONCE):
        scores = queries[start : start + _QUERIES_AT_ONCE] @ vectors.T
        best = np.take_along_axis(scores, np.argpartition(scores, -k, axis=1)[:, -k:], axis=1)
        found.append(-np.sort(-best, axis=1))
    return np.concatenate(found)


def _with_torch(torch: Any, queries: Matrix, vectors: Matrix, k: int) -> Matrix:
    found = []
    for start in range(0, len(queries), _QUERIES_AT_ONCE):
        scores = torch.from_numpy(queries[start : start + _QUERIES_AT_ONCE]) @ torch.from_numpy(vectors).T
        found.append(torch.topk(scores, k, dim=1).values.numpy())
    return np.concatenate(found)


def main(arguments: Sequence[str]) -> None:
    rows, dim, queries, k = map(int, arguments[:4])
    print(json.dumps(measure(rows, dim, queries, k, arguments[4])))


if __name__ == "__main__":
    main(sys.argv[1:])
