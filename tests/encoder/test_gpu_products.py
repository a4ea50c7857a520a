"""Products of a search by PyTorch, on the CPU in the place of a GPU: the same answers as by NumPy."""

from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
import torch

from sfr_batch.encoder import gpu_products
from sfr_batch.encoder.gpu_products import OnGpu, products_for, products_here
from sfr_batch.table import products
from sfr_batch.table.nearest import Nearest, nearest
from sfr_batch.table.products import OnCpu, Products

RANDOM = np.random.default_rng(4)


def unit(rows: int, dim: int = 24) -> Any:
    numbers = RANDOM.normal(size=(rows, dim)).astype(np.float32)
    return numbers / np.linalg.norm(numbers, axis=1, keepdims=True)


def batches(vectors: Any) -> list[pa.RecordBatch]:
    """Of 60 rows each."""
    column = pa.FixedSizeListArray.from_arrays(pa.array(vectors.reshape(-1)), vectors.shape[1])
    ids = RANDOM.permutation(len(vectors))
    return pa.table({"id": ids, "embedding": column}).to_batches(max_chunksize=60)


def equal(one: Nearest, other: Nearest) -> bool:
    return bool(
        np.array_equal(one.bounds, other.bounds)
        and np.array_equal(one.scores, other.scores)
        and one.rows.equals(other.rows)
    )


@pytest.mark.parametrize("held", [0, 2**28])
def test_the_answer_is_that_of_the_cpu(held: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """With ties and a vector that is not finite, in blocks of queries and rows; k is also more than a block has."""
    monkeypatch.setattr(gpu_products, "_HELD_BYTES", held)
    monkeypatch.setattr(products, "QUERIES_AT_ONCE", 7)
    monkeypatch.setattr(OnGpu, "block_scores", 7 * 50)
    vectors = unit(40)[RANDOM.integers(40, size=600)]
    vectors[500] = np.nan
    queries, rows = unit(20), batches(vectors)
    for k in (1, 30, 700):
        there = OnGpu(queries, "cpu")
        assert equal(nearest(rows, queries, k, products=there), nearest(rows, queries, k))
        assert there._on_cpu is None
        assert there.pairs == 20 * 20
        assert 0 < there.opened <= there.pairs


def test_blocks_are_skipped() -> None:
    queries = np.eye(3, dtype=np.float32)
    vectors = np.tile(np.float32([[0.6, 0.6, 0.5]]), (600, 1))
    vectors[60:] *= np.float32(0.9)
    there = OnGpu(queries, "cpu")
    nearest(batches(vectors), queries, 5, products=there)
    assert (there.pairs, there.opened) == (30, 3)


def test_products_are_not_rounded_to_tf32(monkeypatch: pytest.MonkeyPatch) -> None:
    seen = []

    def multiply(self: OnGpu, *arguments: Any, real: Any = OnGpu._multiply) -> Any:
        seen.append(torch.backends.cuda.matmul.fp32_precision)
        return real(self, *arguments)

    monkeypatch.setattr(OnGpu, "_multiply", multiply)
    before, torch.backends.cuda.matmul.fp32_precision = torch.backends.cuda.matmul.fp32_precision, "tf32"
    try:
        queries = unit(3)
        nearest(batches(unit(10)), queries, 2, products=OnGpu(queries, "cpu"))
        assert torch.backends.cuda.matmul.fp32_precision == "tf32"
    finally:
        torch.backends.cuda.matmul.fp32_precision = before
    assert seen == ["ieee", "ieee"]


def rounding(self: OnGpu, some: slice, block: Any) -> Any:
    """As a GPU that has fewer bits."""
    held, rows = self._held[some].bfloat16(), torch.from_numpy(block.copy()).bfloat16()
    return (held @ rows.T).float()


def failing(self: OnGpu, some: slice, block: Any) -> Any:
    raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 20.00 MiB.")


@pytest.mark.parametrize("broken", [rounding, failing])
def test_it_goes_on_with_the_cpu(broken: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(OnGpu, "_multiply", broken)
    queries, rows = unit(9), batches(unit(200))
    there = OnGpu(queries, "cpu")
    assert equal(nearest(rows, queries, 4, products=there), nearest(rows, queries, 4))
    assert isinstance(there._on_cpu, OnCpu)


def test_a_gpu_is_used_for_much_work() -> None:
    assert products_for(unit(10), 10**6) is OnCpu
    assert products_for(unit(10), 2**38) is products_here


def test_a_gpu_is_used_where_there_is_one(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def kind(made: Products) -> type:
        return type(made)

    few = unit(10)
    monkeypatch.setattr("sfr_batch.encoder.devices.has_gpu", lambda: True)
    monkeypatch.setattr(gpu_products, "_DRIVERS", (str(tmp_path / "absent"), "/dev/null"))
    assert kind(products_here(few)) is OnGpu
    monkeypatch.setattr("sfr_batch.encoder.devices.has_gpu", lambda: False)
    assert kind(products_here(few)) is OnCpu
    monkeypatch.setattr(gpu_products, "_DRIVERS", (str(tmp_path / "absent"),))
    monkeypatch.delattr("sfr_batch.encoder.devices.has_gpu")
    assert kind(products_here(few)) is OnCpu
