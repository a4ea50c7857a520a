"""Reads ahead of Parquet on S3: the column chunks that a read unit needs, fetched before Arrow asks for them.

Arrow would do so itself, in threads of its own, which must hold no Python file (see `open_parquet`)."""

import io
import os
from bisect import bisect_right
from collections.abc import Sequence
from typing import IO, Any

from sfr_batch.config.settings import StorageSettings
from sfr_batch.storage.inputs import read_input_range
from sfr_batch.storage.parallel import in_parallel

_PIECE = 4 * 2**20
_HOLE = 2**20
_FETCH_AT_ONCE = 8


def ranges_of(chunks: Sequence[Any]) -> list[tuple[int, int]]:
    """Where column chunks lie in their file: start and end, ascending.

    What lies between two of them is read with them where it is little, for to ask S3 once more costs as much as a
    megabyte; altogether no more than what is asked for.
    """
    found: list[tuple[int, int]] = []
    spare = 0  # bytes that may be read for nothing
    for chunk in sorted(chunks, key=_start):
        start, size = _start(chunk), chunk.total_compressed_size
        between = start - found[-1][1] if found else 0
        if found and between <= min(spare, _HOLE):
            before = found.pop()
            found.append((before[0], max(before[1], start + size)))
            spare -= max(0, between)
        else:
            found.append((start, start + size))
        spare += size
    return found


def _start(chunk: Any) -> int:
    return int(min(chunk.data_page_offset, chunk.dictionary_page_offset or chunk.data_page_offset))


class Fetched(io.RawIOBase):
    """A shard of which some ranges are in memory, fetched several at a time; all else is read from ``file``.

    Unlike reads of ``file``, the ranges are not pinned to its ETag: the caller compares versions afterwards, as
    `reader.read_unit` does.
    """

    def __init__(self, file: IO[bytes], uri: str, ranges: Sequence[tuple[int, int]], storage: StorageSettings) -> None:
        pieces = [(at, min(at + _PIECE, end)) for start, end in ranges for at in range(start, end, _PIECE)]
        self._file, self._place = file, 0
        self._starts = [start for start, _ in pieces]
        read = in_parallel(lambda piece: read_input_range(uri, *piece, storage), pieces, _FETCH_AT_ONCE)
        self._pieces = list(read)

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def tell(self) -> int:
        return self._place

    def seek(self, offset: int, whence: int = os.SEEK_SET) -> int:
        before = {os.SEEK_SET: 0, os.SEEK_CUR: self._place, os.SEEK_END: self._file.seek(0, os.SEEK_END)}
        self._place = before[whence] + offset
        return self._place

    def readinto(self, buffer: Any) -> int:
        """All of ``buffer``, less only where the shard ends."""
        rest = memoryview(buffer).cast("B")
        while len(rest):
            number = bisect_right(self._starts, self._place) - 1
            skip = self._place - self._starts[number] if number >= 0 else 0
            here = self._pieces[number][skip : skip + len(rest)] if number >= 0 else b""
            if not here:
                self._file.seek(self._place)
                here = self._file.read(len(rest))
            if not here:
                break
            rest[: len(here)] = here
            rest, self._place = rest[len(here) :], self._place + len(here)
        return len(buffer) - len(rest)
