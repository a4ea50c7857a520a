"""The beginning of a file that has no metadata, unpacked: as much as it takes to see what the file is like.

Knows bytes and lines; knows no columns.
"""

import io
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import IO

from sfr_batch.config.settings import CorpusSettings
from sfr_batch.corpus.decompression import compressed_by_arrow, decompress
from sfr_batch.corpus.encodings import refuse_unmarked
from sfr_batch.corpus.file_names import refuse_other_kind, refuse_pointer
from sfr_batch.corpus.records import MAX_RECORD, lines, record_too_long
from sfr_batch.corpus.shards import Shard
from sfr_batch.errors import CorpusError
from sfr_batch.storage.inputs import read_input_range

_SAMPLE_BYTES = 256 * 1024
_UNPACKED_SAMPLE = 16
"""Most times that decompression may multiply a sample's size."""
_PIECE = 16 * 1024


@dataclass(frozen=True, slots=True)
class Sample:
    """The beginning of a file."""

    data: bytes
    """Unpacked."""
    packed: int
    """Bytes of ``data`` as they are stored."""
    whole: bool
    """Whether this is all of the file."""

    def unpacked(self, shard: Shard) -> int:
        """Bytes of the whole shard once unpacked, estimated."""
        return len(self.data) if self.whole else round(shard.size * len(self.data) / max(1, self.packed))


@dataclass(frozen=True, slots=True)
class SampledLines:
    """The whole lines of a sample, without blank ones."""

    lines: list[bytes]
    sample: Sample

    def rows(self, shard: Shard) -> int:
        """Lines of the whole shard, estimated; 0 only if it has none."""
        if not self.lines:
            return 0
        mean = sum(len(line) for line in self.lines) / len(self.lines)
        return max(1, round(self.sample.unpacked(shard) / mean))


def sample_lines(shard: Shard, settings: CorpusSettings) -> SampledLines:
    """The lines at the beginning of a shard, at least one if it has any."""

    def found(data: bytes) -> list[bytes]:
        return [line for _, line in lines(io.BytesIO(data), shard.uri, encoding=settings.encoding)]

    sample = sample_file(shard, settings, lambda data: bool(found(data[: data.rfind(b"\n") + 1])))
    refuse_unmarked(sample.data, shard.uri)
    return SampledLines(found(sample.data if sample.whole else sample.data[: sample.data.rfind(b"\n") + 1]), sample)


def last_lines(shard: Shard, settings: CorpusSettings) -> list[bytes]:
    """The whole lines at the end of a shard that is not compressed."""
    start = max(0, shard.size - _SAMPLE_BYTES)
    data = read_input_range(shard.uri, start, shard.size, settings.storage)
    return [line for _, line in lines(io.BytesIO(data[data.find(b"\n") + 1 :]), shard.uri, encoding=settings.encoding)]


def sample_file(shard: Shard, settings: CorpusSettings, enough: Callable[[bytes], bool]) -> Sample:
    """As much of the beginning as it takes until ``enough`` is true of it, or the whole file."""
    wanted = _SAMPLE_BYTES
    while True:
        packed = read_input_range(shard.uri, 0, min(wanted, shard.size), settings.storage)
        if not shard.compression:
            refuse_other_kind(packed, shard.uri)
        sample = _unpack(shard, packed, len(packed) >= shard.size)
        if sample.whole or enough(sample.data):
            return sample
        if len(sample.data) >= MAX_RECORD:
            raise record_too_long(shard.uri, "first line")
        wanted *= 4


def _unpack(shard: Shard, packed: bytes, whole: bool) -> Sample:
    if not shard.compression:
        return Sample(packed, len(packed), whole)
    try:
        return _unpack_with(compressed_by_arrow, shard, packed, whole)
    except OSError:
        pass  # padding or a large window, which Arrow does not know, or damage
    try:
        return _unpack_with(partial(decompress, uri=shard.uri), shard, packed, whole)
    except OSError as error:
        refuse_pointer(packed, shard.uri)
        raise CorpusError(
            f"{shard.uri} cannot be decompressed: {error}. It is damaged, truncated or not a {shard.compression} "
            "file. Replace it, or correct its name."
        ) from error


def _unpack_with(
    how: Callable[[IO[bytes], str], io.BufferedReader], shard: Shard, packed: bytes, whole: bool
) -> Sample:
    """Raises OSError if the sample is damaged; one that is not the whole file may end early."""
    source = io.BytesIO(packed)
    data = bytearray()
    try:
        with how(source, shard.compression) as stream:
            while len(data) < _UNPACKED_SAMPLE * max(len(packed), _SAMPLE_BYTES):
                piece = stream.read1(_PIECE)  # small: a read that meets the end of the sample gives nothing at all
                if not piece:
                    return Sample(bytes(data), len(packed), whole)
                data += piece
            return Sample(bytes(data), source.tell(), False)
    except OSError:
        if whole or not data:
            raise
    return Sample(bytes(data), len(packed), False)
