"""What the metadata of shards says before they are read: columns, row counts, bytes of text, row groups.

Reads footers and small samples only. It knows no table and no model."""

import io
import json
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any, NamedTuple

import pyarrow as pa
import pyarrow.parquet as pq

from sfr_batch.config.settings import CorpusSettings
from sfr_batch.corpus.column_paths import is_inside
from sfr_batch.corpus.file_formats import (
    CSV,
    ENDINGS,
    JSONL,
    MAX_RECORD,
    PARQUET,
    TEXT,
    TEXT_COLUMN,
    CsvReader,
    decompress,
    lines,
    too_long,
)
from sfr_batch.corpus.shards import Shard, delimiter_of
from sfr_batch.corpus.text_template import TextTemplate
from sfr_batch.errors import CorpusError
from sfr_batch.storage.inputs import open_input, read_input_range

_SAMPLE_BYTES = 256 * 1024
_UNPACKED_SAMPLE = 16
"""How many times a sample may grow by decompression."""
_PIECE = 16 * 1024
_PARALLEL_SURVEYS = 32


class RowGroup(NamedTuple):
    """Rows, the bytes of their text, and of all that is read of them: id, text and carried columns."""

    rows: int
    text_bytes: int
    read_bytes: int


@dataclass(frozen=True, slots=True)
class ShardStatistics:
    """What a shard's metadata tells: its rows and text, without reading it.

    groups: of each row group; for lines one entry, estimated from the beginning of the file.
    """

    shard: Shard
    schema: pa.Schema
    groups: tuple[RowGroup, ...]

    @property
    def rows(self) -> int:
        return sum(group.rows for group in self.groups)

    @property
    def text_bytes(self) -> int:
        return sum(group.text_bytes for group in self.groups)

    @property
    def read_bytes(self) -> int:
        return sum(group.read_bytes for group in self.groups)

    @property
    def exact(self) -> bool:
        """Whether rows and types are known rather than estimated."""
        return self.shard.format == PARQUET

    @property
    def rows_may_lack_columns(self) -> bool:
        """Whether rows may have columns that ``schema`` lacks, as JSON objects leave out what they do not have."""
        return self.shard.format == JSONL

    @property
    def empty(self) -> bool:
        """Without a row, which is known for certain in any format: then it needs no columns."""
        return not self.rows


def survey_shards(shards: Sequence[Shard], settings: CorpusSettings) -> list[ShardStatistics]:
    """Footers of Parquet shards and beginnings of others, many at a time. Raises CorpusError naming the file."""
    schemas: dict[pa.Schema, pa.Schema] = {}  # shards mostly have one and the same: 100,000 copies would be a gigabyte

    def survey(shard: Shard) -> ShardStatistics:
        schema, groups = SURVEYS[shard.format](shard, settings)
        return ShardStatistics(shard, schemas.setdefault(schema, schema), groups)

    with ThreadPoolExecutor(_PARALLEL_SURVEYS) as pool:
        return list(pool.map(survey, shards))


_RowGroups = tuple[RowGroup, ...]


def _survey_parquet(shard: Shard, settings: CorpusSettings) -> tuple[pa.Schema, _RowGroups]:
    try:
        with open_input(shard.uri, settings.storage) as file:
            metadata = pq.read_metadata(file)
            schema = metadata.schema.to_arrow_schema().remove_metadata()
    except (pa.ArrowException, OSError) as error:
        raise CorpusError(
            f"{shard.uri} is not a readable Parquet file: {str(error).rstrip('.')}. Replace it, or take it out of the "
            "corpus."
        ) from error
    text = TextTemplate(settings.text).columns
    needed = [*filter(None, [settings.id]), *text, *settings.carry]
    # Which leaves are needed is the same in each row group.
    leaves = [metadata.schema.column(i).path for i in range(metadata.num_columns)]
    of_text = [i for i, leaf in enumerate(leaves) if is_inside(leaf, text)]
    others = [i for i, leaf in enumerate(leaves) if is_inside(leaf, needed) and i not in of_text]
    groups = []
    for group in map(metadata.row_group, range(metadata.num_row_groups)):
        size, more = (sum(group.column(i).total_uncompressed_size for i in which) for which in (of_text, others))
        groups.append(RowGroup(group.num_rows, size, size + more))
    return schema, tuple(groups)


def _survey_jsonl(shard: Shard, settings: CorpusSettings) -> tuple[pa.Schema, _RowGroups]:
    sample = _sample_lines(shard, settings)
    rows = []
    for line in sample.lines:
        try:
            rows.append(json.loads(line))
        except (ValueError, RecursionError):
            continue  # a reject when it is read; the estimate and the schema do without it
    if sample.lines and not any(isinstance(row, dict) for row in rows):
        raise CorpusError(
            f"{shard.uri} is not JSON Lines: none of its first {len(sample.lines)} lines is a JSON object. Write one "
            "object a line; `jq -c '.[]'` makes lines of a JSON array."
        )
    return _infer_schema([row for row in rows if isinstance(row, dict)], settings, shard.uri), sample.groups(shard)


def _survey_text(shard: Shard, settings: CorpusSettings) -> tuple[pa.Schema, _RowGroups]:
    return pa.schema([(TEXT_COLUMN, pa.string())]), _sample_lines(shard, settings).groups(shard)


def _survey_csv(shard: Shard, settings: CorpusSettings) -> tuple[pa.Schema, _RowGroups]:
    def end(data: bytes) -> int:
        return max(data.rfind(b"\n"), data.rfind(b"\r", 0, -1)) + 1  # a last \r may be half of \r\n

    sample = _sample(shard, settings, lambda data: end(data[: end(data) - 1].rstrip(b"\r")) > 0)
    lines_read = sample.data if sample.whole else sample.data[: end(sample.data)]
    reader = CsvReader(io.BytesIO(lines_read), shard.uri, delimiter_of(shard, settings), settings.quote)
    try:
        records = sum(1 for _ in reader)
    except CorpusError:
        if sample.whole:
            raise
        records = (
            len(lines_read.splitlines()) - 1
        )  # the sample may end in a quote; reading tells whether it ever closes
    schema = pa.schema([(name, pa.string()) for name in reader.header])
    if sample.whole:
        return schema, (RowGroup(records, len(sample.data), len(sample.data)),) if records else ()
    total = sample.unpacked(shard)
    return schema, (RowGroup(max(1, round(total * records / len(lines_read))), total, total),)


SURVEYS = {PARQUET: _survey_parquet, JSONL: _survey_jsonl, CSV: _survey_csv, TEXT: _survey_text}


@dataclass(frozen=True, slots=True)
class _Sample:
    """The beginning of a file of lines: ``data`` unpacked, of ``packed`` bytes as stored, the ``whole`` file or not."""

    data: bytes
    packed: int
    whole: bool

    def unpacked(self, shard: Shard) -> int:
        """Bytes of the whole shard once unpacked, estimated."""
        return len(self.data) if self.whole else round(shard.size * len(self.data) / max(1, self.packed))


@dataclass(frozen=True, slots=True)
class _Lines:
    lines: list[bytes]
    sample: _Sample

    def groups(self, shard: Shard) -> _RowGroups:
        if not self.lines:
            return ()
        total = self.sample.unpacked(shard)
        mean = sum(len(line) for line in self.lines) / len(self.lines)
        return (RowGroup(max(1, round(total / mean)), total, total),)


def _sample_lines(shard: Shard, settings: CorpusSettings) -> _Lines:
    """The whole lines at the beginning of a shard, at least one if it has any; blank ones are no rows."""

    def found(data: bytes) -> list[bytes]:
        return [line for _, line in lines(io.BytesIO(data), shard.uri)]

    sample = _sample(shard, settings, lambda data: bool(found(data[: data.rfind(b"\n") + 1])))
    return _Lines(found(sample.data if sample.whole else sample.data[: sample.data.rfind(b"\n") + 1]), sample)


def _sample(shard: Shard, settings: CorpusSettings, enough: Callable[[bytes], bool]) -> _Sample:
    """As much of the beginning as ``enough`` wants to see, or all of it."""
    wanted = _SAMPLE_BYTES
    while True:
        packed = read_input_range(shard.uri, 0, min(wanted, shard.size), settings.storage)
        sample = _unpack(shard, packed, len(packed) >= shard.size)
        if sample.whole or enough(sample.data):
            return sample
        if len(sample.data) >= MAX_RECORD:
            raise too_long(shard.uri, "first line")
        wanted *= 4


def _unpack(shard: Shard, packed: bytes, whole: bool) -> _Sample:
    if not shard.compression:
        return _Sample(packed, len(packed), whole)
    source = io.BytesIO(packed)
    data = bytearray()
    try:
        with decompress(source, shard.compression) as stream:
            while len(data) < _UNPACKED_SAMPLE * max(len(packed), _SAMPLE_BYTES):
                piece = stream.read1(_PIECE)  # small: a read that meets the end of the sample gives nothing at all
                if not piece:
                    return _Sample(bytes(data), len(packed), whole)
                data += piece
            return _Sample(bytes(data), source.tell(), False)
    except OSError as error:  # a sample of a sound file ends early, too
        if whole or not data:
            raise CorpusError(
                f"{shard.uri} cannot be decompressed: {error}. It is damaged, cut off, or no {shard.compression} file: "
                "replace it, or correct its name."
            ) from error
    return _Sample(bytes(data), len(packed), False)


def _infer_schema(rows: Sequence[dict[str, Any]], settings: CorpusSettings, uri: str) -> pa.Schema:
    typed = [path for path in (settings.id, *settings.carry) if path]
    needed = {part for path in (*typed, *TextTemplate(settings.text).columns) for part in (path, path.split(".")[0])}
    typed = [part for path in typed for part in (path, path.split(".")[0])]
    fields = []
    for key in filter(_fits, dict.fromkeys(key for row in rows for key in row)):
        kind = pa.string()  # of no other column the type matters
        if key in needed:
            try:
                kind = _infer_type([row.get(key) for row in rows])
            except pa.ArrowException as error:
                if key in typed:
                    raise CorpusError(
                        f"{uri}: the values of {key!r} are of several types ({error}). Make them alike, all strings or "
                        "all integers for an id, or choose other columns by corpus.id and corpus.carry."
                    ) from error
                # Of texts, what does not fit is a reject when it is read.
        fields.append(pa.field(key, kind))
    return pa.schema(fields)


def _infer_type(values: list[Any]) -> pa.DataType:
    """The type of the values together, but for those that Arrow cannot hold: they are rejects when they are read."""
    try:
        return pa.array(values).type
    except (UnicodeEncodeError, OverflowError):
        return pa.array([value for value in values if _fits(value)]).type


def _fits(value: Any) -> bool:
    try:
        pa.scalar(value)
    except (UnicodeEncodeError, OverflowError):
        return False
    return True


assert set(SURVEYS) == set(ENDINGS.values())
