"""Records partitioned by hash, in bounded memory: kept in memory if they are few, else on disk."""

from collections.abc import Iterator
from pathlib import Path

import numpy as np
from numpy.typing import NDArray


class Spill:
    """Records with a field ``hash`` (uint64); in memory if one partition is enough, else in one file per partition.

    Records with equal hashes are in the same partition. total_rows: expected records; partition_rows: records of a
    partition, on average at most.
    """

    def __init__(self, folder: Path, dtype: np.dtype[np.void], total_rows: int, partition_rows: int) -> None:
        self._folder, self._dtype = folder, dtype
        self._n = max(1, -(-total_rows // partition_rows))
        self._memory: list[NDArray[np.void]] = []

    def add(self, records: NDArray[np.void]) -> None:
        """Keep ``records`` [n]."""
        if self._n == 1:
            self._memory.append(records)
            return
        partition = (records["hash"] % np.uint64(self._n)).astype(np.int64)
        ends = np.cumsum(np.bincount(partition, minlength=self._n))
        for number, some in enumerate(np.split(records[np.argsort(partition, kind="stable")], ends[:-1])):
            if len(some):
                with open(self._folder / str(number), "ab") as file:
                    some.tofile(file)

    def partitions(self) -> Iterator[NDArray[np.void]]:
        """All records, one partition at a time."""
        if self._n == 1:
            yield np.concatenate(self._memory) if self._memory else np.empty(0, dtype=self._dtype)
            return
        for number in range(self._n):
            path = self._folder / str(number)
            yield np.fromfile(path, dtype=self._dtype) if path.exists() else np.empty(0, dtype=self._dtype)
