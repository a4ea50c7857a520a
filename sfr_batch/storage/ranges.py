"""A reader over an object of known size that fetches exactly what it is asked for. Knows no store and no format."""

import io
from collections.abc import Callable, Iterable, Iterator

_SHORT = 2**16
"""Bytes up to which what a read has fetched is kept, and the distance of ranges that are fetched with one request."""
_GATHERED = 2**22
"""Bytes of the largest range that is fetched together with others, and kept until it is read."""


class Ranges(io.RawIOBase):
    """A seekable reader. read: bytes from a start to before an end, fewer where the object ends; size: of the object.

    Each read is one request, unless a short one or `gather` has fetched it before.
    """

    def __init__(self, read: Callable[[int, int], bytes], size: int) -> None:
        self._read, self._size = read, size
        self._at = 0
        self._kept: list[tuple[int, bytes]] = []

    def gather(self, ranges: Iterable[tuple[int, int]]) -> None:
        """Fetch those of the ranges [(start, end)] that are not large, those that are close to each other at once."""
        inside = [(start, end) for start, end in ranges if 0 <= start < end <= self._size]
        missing = [(start, end) for start, end in inside if end - start <= _GATHERED and not self._find(start, end)]
        for start, end in _joined(sorted(missing)):
            self._kept.append((start, self._read(start, end)))

    def read(self, size: int | None = -1) -> bytes:
        """So many bytes from here on, all by default, fewer at the end."""
        end = self._size if size is None or size < 0 else min(self._at + size, self._size)
        if end <= self._at:
            return b""
        data = self._find(self._at, end)
        if not data:
            data = self._read(self._at, end)
            if len(data) <= _SHORT:
                self._kept.append((self._at, data))
        self._at += len(data)
        return data

    def readinto(self, buffer: memoryview) -> int:  # type: ignore[override]
        data = self.read(len(buffer))
        buffer[: len(data)] = data
        return len(data)

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def seek(self, offset: int, whence: int = io.SEEK_SET) -> int:
        begin = {io.SEEK_SET: 0, io.SEEK_CUR: self._at, io.SEEK_END: self._size}[whence]
        self._at = max(0, begin + offset)
        return self._at

    def tell(self) -> int:
        return self._at

    def _find(self, start: int, end: int) -> bytes:
        """The bytes from ``start`` to before ``end`` if they are kept, else none."""
        for at, data in self._kept:
            if at <= start and end <= at + len(data):
                return data[start - at : end - at]
        return b""


def _joined(ranges: Iterable[tuple[int, int]]) -> Iterator[tuple[int, int]]:
    """Ranges, ascending, with those joined between which there is little."""
    last: tuple[int, int] | None = None
    for start, end in ranges:
        if last and start - last[1] <= _SHORT and max(end, last[1]) - last[0] <= _GATHERED:
            last = last[0], max(end, last[1])
            continue
        if last:
            yield last
        last = start, end
    if last:
        yield last
