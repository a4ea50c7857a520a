"""Records partitioned by hash, in bounded memory: kept in memory if they are few, else on disk."""

from collections.abc import Iterator
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

_PIECE = 2**20
"""Records that are written at a time. Each piece opens the file of every partition: small ones would make the work grow
with the square of the records."""


class Spill:
    """Records with a field ``hash`` (uint64); in memory if one partition is enough, else in one file per partition.

    Records with equal hashes are in the same partition, in the order in which they were added. total_rows: expected
    records; partition_rows: records of a partition, on average at most. About a million records wait in memory before
    they are written; those that were added must not change meanwhile.
    """

    def __init__(self, folder: Path, dtype: np.dtype[np.void], total_rows: int, partition_rows: int) -> None:
        self._folder, self._dtype = folder, dtype
        self._n = max(1, -(-total_rows // partition_rows))
        self._waiting: list[NDArray[np.void]] = []
        self._held = 0

    def add(self, records: NDArray[np.void]) -> None:
        """Keep ``records`` [n]."""
        self._waiting.append(records)
        self._held += len(records)
        if self._n > 1 and self._held >= _PIECE:
            self._write()

    def partitions(self) -> Iterator[NDArray[np.void]]:
        """All records, one partition at a time."""
        if self._n == 1:
            yield np.concatenate([np.empty(0, dtype=self._dtype), *self._waiting])
            return
        self._write()
        for number in range(self._n):
            path = self._folder / str(number)
            yield np.fromfile(path, dtype=self._dtype) if path.exists() else np.empty(0, dtype=self._dtype)

    def _write(self) -> None:
        waiting = np.concatenate([np.empty(0, dtype=self._dtype), *self._waiting])
        self._waiting, self._held = [], 0
        for number, some in enumerate(dealt(waiting, self._n)):
            if len(some):
                with open(self._folder / str(number), "ab") as file:
                    some.tofile(file)


def dealt(records: NDArray[np.void], partitions: int) -> list[NDArray[np.void]]:
    """[partitions] the ``records`` [n] of each partition, in their order. Which one a record is in follows from its
    hash."""
    if partitions == 1:
        return [records]
    # NumPy sorts numbers of two bytes in linear time.
    partition = (records["hash"] % np.uint64(partitions)).astype(np.min_scalar_type(partitions - 1))
    ends = np.cumsum(np.bincount(partition, minlength=partitions))
    return np.split(records[np.argsort(partition, kind="stable")], ends[:-1])
