"""Rows that the device has been given: their vectors are on their way, and nobody waits before they are needed.

Copies go into memory that the device can write by itself, while it computes the next batch, or the next rows of the
same encoder. Knows no model.
"""

from collections import deque
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace

import numpy as np
import torch
from numpy.typing import NDArray

from sfr_batch.encoder.encoded import EncodedTokens
from sfr_batch.encoder.faults import of_the_device

IntArray = NDArray[np.int64]


class Result:
    """The vectors of a batch."""

    def __init__(self, vectors: torch.Tensor) -> None:
        self._copy = vectors
        self._event: torch.cuda.Event | None = None
        if vectors.is_cuda:
            self._copy = pinned(vectors.shape, vectors.dtype)
            self._copy.copy_(vectors, non_blocking=True)
            self._event = torch.cuda.Event()
            self._event.record(torch.cuda.current_stream(vectors.device))

    def numpy(self) -> NDArray[np.float32]:
        """[b, d] float32, once they have arrived."""
        if self._event is not None:
            self._event.synchronize()
        vectors: NDArray[np.float32] = self._copy.cpu().numpy()
        return vectors


def pinned(shape: torch.Size, dtype: torch.dtype) -> torch.Tensor:
    """Memory of the host that a GPU writes by itself."""
    return torch.empty(shape, dtype=dtype, pin_memory=True)


MOST_UNDER_WAY = 2**28
"""Bytes of vectors of which memory is pinned at a time, for one launch: more than those of a split, while a table of
any size may be encoded in one call. PyTorch keeps what was pinned once."""


class Arriving:
    """The vectors of n distinct rows, which arrive batch by batch."""

    def __init__(self, n: int, dim: int, arrived: Callable[[], None] = lambda: None) -> None:
        """arrived: is called for each batch whose vectors have come."""
        self._arrived = arrived
        self._vectors = np.empty((n, dim), np.float32)
        self._under_way: deque[tuple[IntArray, Result]] = deque()
        self._bytes = 0
        self.batches = 0

    def add(self, rows: IntArray, result: Result) -> None:
        """The vectors of these rows will come. Waits for the oldest ones if too many are under way: the device has
        all that follow them to compute meanwhile."""
        self._under_way.append((rows, result))
        self._bytes += self._size(rows)
        self.batches += 1
        while self._bytes > MOST_UNDER_WAY and len(self._under_way) > 1:
            self._fetch()

    def all(self) -> NDArray[np.float32]:
        """[n, d], once they have arrived. Nothing in particular for rows that were not added."""
        while self._under_way:
            self._fetch()
        return self._vectors

    def _fetch(self) -> None:
        rows, result = self._under_way.popleft()
        self._vectors[rows] = result.numpy()
        self._bytes -= self._size(rows)
        self._arrived()

    def _size(self, rows: IntArray) -> int:
        return len(rows) * self._vectors.shape[1] * self._vectors.itemsize


@dataclass(frozen=True)
class Launched:
    """The batches of some rows."""

    device: torch.device
    arriving: Arriving
    """Of the distinct rows."""
    inverse: IntArray
    """[n] the distinct row that each row equals."""
    account: EncodedTokens
    """What was computed, without vectors; `failed` is of distinct rows."""

    def result(self) -> EncodedTokens:
        """The vectors, in the order of the rows, once they have arrived. Raises DeviceError if the device fails."""
        with of_the_device(self.device):
            vectors = self.arriving.all()
        failed: Mapping[int, str] = self.account.failed
        vectors[list(failed)] = np.nan
        of_rows = {
            int(row): failed[int(self.inverse[row])] for row in np.flatnonzero(np.isin(self.inverse, list(failed)))
        }
        repeats = len(vectors) < len(self.inverse)
        return replace(self.account, vectors=vectors[self.inverse] if repeats else vectors, failed=of_rows)
