"""How the bytes of a corpus file are decompressed: members and frames in a row, padding, and large windows of zstd.

Knows compressed bytes; knows no names of files and nothing of what is in them.
"""

import io
import sys
import zlib
from collections.abc import Callable
from typing import IO, Any, Protocol

import pyarrow as pa

from sfr_batch.errors import CorpusError

GZIP, ZSTD = "gzip", "zstd"
TRUNCATED = "Truncated compressed stream"
_PIECE = 64 * 1024
_BUFFER = 128 * 1024
_USUAL_WINDOW = 2**27 + 1
"""Largest window of zstd, in bytes, that Arrow decompresses: libzstd's own limit, which Arrow cannot raise."""
_LARGEST_WINDOW_LOG = 31
"""2 GiB, the most that the zstd command makes."""
_FRAME = 0xFD2FB528
_SKIPPABLE = 0x184D2A50


def decompressed(file: IO[bytes], compression: str, uri: str) -> IO[bytes]:
    """The file without its compression, if any; see `decompress`."""
    return decompress(file, compression, uri) if compression else file


def decompress(file: IO[bytes], compression: str, uri: str) -> io.BufferedReader:
    """The decompressed stream of a file, which must be seekable; ``file`` stays open.

    Several gzip members or zstd frames in a row are one stream. Zero bytes behind a member of gzip are padding, as
    tapes and tar leave them. A file of zstd whose window is larger than 128 MiB takes up to its window of memory,
    2 GiB at most, while it is read. Reading raises OSError where the compressed data is damaged, ends early or is
    followed by something else. gzip always has a checksum, zstd only if it was asked for, as the zstd command does.
    Raises CorpusError if a window is too large for what is installed.
    """
    if compression == GZIP:
        return io.BufferedReader(_Members(file, uri, _GzipMember, b"\x1f\x8b"), _BUFFER)
    window = _window(file)
    if window > _USUAL_WINDOW:
        return io.BufferedReader(_Members(file, uri, _frames(window, uri)), _BUFFER)
    return compressed_by_arrow(file, compression)


def compressed_by_arrow(file: IO[bytes], compression: str) -> io.BufferedReader:
    """The decompressed stream as Arrow alone reads it: what a sample's size has always been estimated from."""
    return io.BufferedReader(pa.CompressedInputStream(pa.PythonFile(file, "r"), compression))


class _Member(Protocol):
    """What decompresses one member or frame, as `bz2.BZ2Decompressor` does."""

    @property
    def eof(self) -> bool: ...
    @property
    def needs_input(self) -> bool: ...
    @property
    def unused_data(self) -> bytes: ...
    def decompress(self, data: bytes, max_length: int) -> bytes: ...


class _GzipMember:
    """One member of gzip; zlib compares its checksum and its length."""

    def __init__(self) -> None:
        self._zlib = zlib.decompressobj(wbits=31)
        self.needs_input = True

    @property
    def eof(self) -> bool:
        return self._zlib.eof

    @property
    def unused_data(self) -> bytes:
        return self._zlib.unused_data

    def decompress(self, data: bytes, max_length: int) -> bytes:
        try:
            found = self._zlib.decompress(self._zlib.unconsumed_tail + data, max_length)
        except zlib.error as error:
            raise OSError(str(error)) from None
        # zlib may hold back what had no room, even if it has taken all input.
        self.needs_input = len(found) < max_length and not self._zlib.unconsumed_tail
        return found


class _Members(io.RawIOBase):
    """The members of a file one after the other."""

    def __init__(self, file: IO[bytes], uri: str, new: Callable[[], _Member], magic: bytes = b"") -> None:
        """magic: what every member begins with; empty if that is left to ``new``."""
        self._file, self._new, self._magic, self._name = file, new, magic, _name(uri)
        self._member: _Member | None = None
        self._waiting = b""
        self._read = self._members = 0

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int:
        """At least one byte, unless the stream ends."""
        view = memoryview(buffer).cast("B")
        while True:
            if self._member is None and not self._begin():
                return 0
            assert self._member is not None
            data = self._take() if self._member.needs_input else b""
            if self._member.needs_input and not data:
                raise OSError(TRUNCATED)
            found = self._member.decompress(data, len(view))
            if self._member.eof:
                self._waiting, self._member = self._member.unused_data, None
                self._members += 1
            if found:
                view[: len(found)] = found
                return len(found)

    def _begin(self) -> bool:
        """Whether another member follows; what is then waiting begins with it."""
        data = self._take()
        while data and self._members and not (data := data.lstrip(b"\0")):
            data = self._take()
        if data and self._members and self._magic and not data.startswith(self._magic):
            raise OSError(
                f"what stands at byte {self._read - len(data)}, behind its compressed data, is not compressed "
                f"(gzip -dc {self._name} | gzip > new.gz leaves it out)"
            )
        self._waiting = data
        self._member = self._new() if data else None
        return bool(data)

    def _take(self) -> bytes:
        if data := self._waiting:
            self._waiting = b""
        else:
            data = self._file.read(_PIECE)
            self._read += len(data)
        return data


def _window(file: IO[bytes]) -> int:
    """Bytes of the window that the first frame of zstd asks for; 0 if this is none."""
    start = file.tell()
    try:
        while True:
            head = file.read(4)
            magic = int.from_bytes(head, "little")
            if len(head) == 4 and magic & ~0xF == _SKIPPABLE:
                file.seek(int.from_bytes(file.read(4), "little"), io.SEEK_CUR)
            else:
                return _window_of(file.read(14)) if magic == _FRAME else 0
    finally:
        file.seek(start)


def _window_of(header: bytes) -> int:
    """As RFC 8878, 3.1.1.1 has it. header: what follows the magic number, at most 14 bytes."""
    if len(header) < 2:
        return 0
    descriptor = header[0]
    if not descriptor & 0x20:
        base = 1 << 10 + (header[1] >> 3)
        return base + (base >> 3) * (header[1] & 7)
    size = 1 << (descriptor >> 6)  # a single segment: the window is all of the content
    behind = 1 + (0, 1, 2, 4)[descriptor & 3]
    return int.from_bytes(header[behind : behind + size], "little") + (256 if size == 2 else 0)


class _ZstdFrame:
    """One frame of zstd whose window may be as large as the zstd command makes it."""

    def __init__(self, library: Any) -> None:
        largest = {library.DecompressionParameter.window_log_max: _LARGEST_WINDOW_LOG}
        self._zstd = library.ZstdDecompressor(options=largest)
        self._error = library.ZstdError

    @property
    def eof(self) -> bool:
        return bool(self._zstd.eof)

    @property
    def needs_input(self) -> bool:
        return bool(self._zstd.needs_input)

    @property
    def unused_data(self) -> bytes:
        return bytes(self._zstd.unused_data)

    def decompress(self, data: bytes, max_length: int) -> bytes:
        try:
            return bytes(self._zstd.decompress(data, max_length))
        except self._error as error:
            raise OSError(str(error)) from None


def _frames(window: int, uri: str) -> Callable[[], _ZstdFrame]:
    """What makes decompressors of frames. Raises CorpusError if there is no library for so large a window."""
    try:
        if sys.version_info >= (3, 14):
            from compression import zstd
        else:
            from backports import zstd
    except ImportError:
        log, name = (window - 1).bit_length(), _name(uri)
        raise CorpusError(
            f"{uri} is compressed with a window of {window >> 20:,} MiB (zstd --long={log}), which needs a library "
            "that is not installed. Install the extra zstd on all machines: pip install 'sfr-batch[zstd]'. Or compress "
            f"the file with a smaller window: zstd -dc --long={log} {name} | zstd -o new.zst, and replace it by that."
        ) from None
    return lambda: _ZstdFrame(zstd)


def _name(uri: str) -> str:
    return uri.rpartition("/")[2]
