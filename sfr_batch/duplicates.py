"""Finding ids that occur more than once among billions, in bounded memory.

Pure over Arrow arrays of ids; knows no tables. One pass hashes every id to 64 bits and spills (hash, row) to disk,
partitioned by hash; each partition is then sorted alone. Rows whose hashes meet are compared by their real ids, so a
collision of hashes rejects nobody.
"""

import tempfile
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

PARTITION_ROWS = 2**24
_PAIR = np.dtype([("hash", np.uint64), ("row", np.int64)])


@dataclass(frozen=True, slots=True)
class Duplicate:
    """A row that comes after another row with the same id."""

    chunk: int
    position: int
    id: str | int
    rows: int = 1
    """Rows of that document, from ``position`` on."""


def find_duplicates(
    chunks: Iterable[pa.Array | pa.ChunkedArray],
    reread: Callable[[int], pa.Array | pa.ChunkedArray],
    total_rows: int,
    partition_rows: int = PARTITION_ROWS,
) -> list[Duplicate]:
    """All rows but the first of each id, in order of (chunk, position).

    chunks: the id columns of the data files, in corpus order; ``reread(i)`` gives chunk i once more, asked for only
    where two hashes are equal. ``total_rows`` sizes the partitions; memory is about 24 bytes x ``partition_rows``.
    """
    starts = [0]
    with tempfile.TemporaryDirectory(prefix="sfr-duplicates-") as folder:
        spill = Spill(Path(folder), _PAIR, total_rows, partition_rows)
        for ids in chunks:
            spill.add(_pairs(_hashes(ids), starts[-1]))
            starts.append(starts[-1] + len(ids))
        candidates = np.sort(np.concatenate([_repeated(pairs) for pairs in spill.partitions()]))
    return _confirm(candidates, np.asarray(starts, dtype=np.int64), reread)


class Spill:
    """Records with a field ``hash`` (uint64), in memory while one partition is enough, else in a file a partition.

    Records with equal hashes are in the same partition.
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
        for number in range(self._n):
            with open(self._folder / str(number), "ab") as file:
                records[partition == number].tofile(file)

    def partitions(self) -> Iterator[NDArray[np.void]]:
        """All records, a partition at a time."""
        if self._n == 1:
            yield np.concatenate(self._memory) if self._memory else np.empty(0, dtype=self._dtype)
            return
        for number in range(self._n):
            path = self._folder / str(number)
            yield np.fromfile(path, dtype=self._dtype) if path.exists() else np.empty(0, dtype=self._dtype)


def _pairs(hashes: NDArray[np.uint64], first_row: int) -> NDArray[np.void]:
    pairs = np.empty(len(hashes), dtype=_PAIR)
    pairs["hash"] = hashes
    pairs["row"] = np.arange(first_row, first_row + len(hashes))
    return pairs


def _hashes(ids: pa.Array | pa.ChunkedArray) -> NDArray[np.uint64]:
    # Python's own string hash: 64 bits, quick, and equal within this process, which is as far as it travels.
    return np.fromiter(map(hash, ids.to_pylist()), dtype=np.int64, count=len(ids)).view(np.uint64)


def _repeated(pairs: NDArray[np.void]) -> NDArray[np.int64]:
    """Rows whose hash another row of the partition shares."""
    ordered = pairs[np.argsort(pairs["hash"], kind="stable")]
    same = ordered["hash"][1:] == ordered["hash"][:-1]
    shared = np.zeros(len(ordered), dtype=bool)
    shared[1:] |= same
    shared[:-1] |= same
    rows: NDArray[np.int64] = ordered["row"][shared]
    return rows


def _confirm(
    rows: NDArray[np.int64], starts: NDArray[np.int64], reread: Callable[[int], pa.Array | pa.ChunkedArray]
) -> list[Duplicate]:
    seen: set[str | int] = set()
    duplicates: list[Duplicate] = []
    if not len(rows):  # where np.split would still give one piece
        return duplicates
    owner = np.searchsorted(starts, rows, side="right") - 1
    chunks, firsts = np.unique(owner, return_index=True)
    for chunk, (first, end) in zip(chunks, pairwise([*firsts, len(rows)]), strict=True):
        positions = rows[first:end] - starts[chunk]
        ids = pc.take(reread(int(chunk)), pa.array(positions)).to_pylist()
        for position, id_ in zip(positions.tolist(), ids, strict=True):
            if id_ in seen:
                duplicates.append(Duplicate(int(chunk), position, id_))
            seen.add(id_)
    return duplicates
