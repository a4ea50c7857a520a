"""Rows that the device has been given: their vectors are on their way, and nobody waits before they are needed.

Copies go into memory that the device can write by itself, while it computes the next batch, or the next rows of the
same encoder. Knows no model.
"""

from collections.abc import Mapping, Sequence
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


@dataclass(frozen=True)
class Launched:
    """The batches of some rows."""

    device: torch.device
    dim: int
    batches: Sequence[tuple[IntArray, Result]]
    """Numbers of the distinct rows of each batch, and their vectors."""
    inverse: IntArray
    """[n] the distinct row that each row equals."""
    distinct: int
    account: EncodedTokens
    """What was computed, without vectors; `failed` is of distinct rows."""

    def result(self) -> EncodedTokens:
        """The vectors, in the order of the rows, once they have arrived. Raises DeviceError if the device fails."""
        vectors = np.empty((self.distinct, self.dim), np.float32)
        with of_the_device(self.device):
            for rows, finished in self.batches:
                vectors[rows] = finished.numpy()
        failed: Mapping[int, str] = self.account.failed
        vectors[list(failed)] = np.nan
        of_rows = {
            int(row): failed[int(self.inverse[row])] for row in np.flatnonzero(np.isin(self.inverse, list(failed)))
        }
        repeats = self.distinct < len(self.inverse)
        return replace(self.account, vectors=vectors[self.inverse] if repeats else vectors, failed=of_rows)
