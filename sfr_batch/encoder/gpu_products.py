"""Products of queries and rows on a GPU, for an exact search.

They only choose which rows are looked at: the scores of these are computed again, as those of a search on the CPU are.
Loads PyTorch where it is used, and no earlier. Knows no model and no rows of a table.
"""

import contextlib
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np

from sfr_batch.table.products import FloatArray, Numbers, OnCpu, Products

_WORTH = 2**38
"""Multiplications for which PyTorch is loaded and a GPU is started: some five seconds of a core."""
_DRIVERS = ("/dev/nvidiactl", "/dev/kfd", "/dev/dxg")
"""Devices of the drivers of NVIDIA, AMD, and of both in WSL."""
_HELD_BYTES = 2**28
"""Of queries that stay on the GPU. More are sent there for every block."""
_TRIED = 64
"""Rows of the first block by which a GPU is compared with the CPU."""


def products_for(queries: FloatArray, rows: int) -> Callable[[FloatArray], Products]:
    """What makes the products of ``queries`` with so many ``rows``: `products_here` if they are many, else `OnCpu`."""
    return OnCpu if queries.size * rows < _WORTH else products_here


def products_here(queries: FloatArray) -> Products:
    """Products on a GPU that this process has; without one, on the CPU."""
    if not any(Path(device).exists() for device in _DRIVERS):
        return OnCpu(queries)
    from sfr_batch.encoder.devices import has_gpu  # loads PyTorch

    return OnGpu(queries) if has_gpu() else OnCpu(queries)


class OnGpu(Products):
    """Products by PyTorch on ``device``, in float32. Goes on with the CPU if the GPU fails, as one without free memory
    does, or rounds more than `rounding` says, as one does that multiplies in TF32."""

    block_scores = 2**25

    def __init__(self, queries: FloatArray, device: str = "cuda") -> None:
        import torch

        super().__init__(queries)
        self._torch, self._device = torch, device
        self._held: Any = None
        self._on_cpu: OnCpu | None = None

    def _look(self, some: slice, block: FloatArray, least: FloatArray, k: int) -> tuple[int, Numbers, Numbers]:
        if self._on_cpu is None:
            # RuntimeError: no memory left, no kernel for this GPU, a fault of the device
            with contextlib.suppress(RuntimeError), _whole_float32(self._torch):
                if self._held is None:
                    self._start(block)
                if self._on_cpu is None:
                    return self._look_on_gpu(some, block, least, k)
        return self._leave()._look(some, block, least, k)

    def _start(self, block: FloatArray) -> None:
        """Send the queries there, and compare some products with those of the CPU."""
        stays = self.queries.nbytes <= _HELD_BYTES
        self._held = self._torch.tensor(self.queries, device=self._device if stays else "cpu")
        some = slice(0, _TRIED)
        here = self.queries[some] @ block[some].T
        if (np.abs(self._multiply(some, block[some]).cpu().numpy() - here) > self.rounding[some, None]).any():
            self._leave()

    def _leave(self) -> OnCpu:
        """Go on with the CPU, in its blocks."""
        if self._on_cpu is None:
            self._held, self._on_cpu, self.block_scores = None, OnCpu(self.queries), OnCpu.block_scores
        return self._on_cpu

    def _multiply(self, some: slice, block: FloatArray) -> Any:
        return self._held[some].to(self._device) @ self._torch.tensor(block, device=self._device).T

    def _look_on_gpu(self, some: slice, block: FloatArray, least: FloatArray, k: int) -> tuple[int, Numbers, Numbers]:
        torch = self._torch
        scores = self._multiply(some, block)
        bounds = torch.tensor(least, device=self._device)
        opened = torch.nonzero(~(scores.amax(1) < bounds)).squeeze(1)
        if not len(opened):
            return 0, np.empty(0, np.intp), np.empty(0, np.intp)
        scores, bounds = scores[opened], bounds[opened]
        if k < scores.shape[1]:
            kth = torch.topk(torch.nan_to_num(scores, nan=-torch.inf), k, dim=1).values[:, -1]
            rounding = torch.tensor(self.rounding[some], device=self._device)[opened]
            bounds = torch.maximum(bounds, kth - 2 * rounding)
        which, at = torch.nonzero(scores >= bounds[:, None], as_tuple=True)
        return len(opened), opened[which].cpu().numpy(), at.cpu().numpy()


@contextlib.contextmanager
def _whole_float32(torch: Any) -> Iterator[None]:
    """Products of float32 are not rounded to TF32, whatever this process has chosen for its own."""
    matmul = torch.backends.cuda.matmul
    before, matmul.fp32_precision = matmul.fp32_precision, "ieee"
    try:
        yield
    finally:
        matmul.fp32_precision = before
