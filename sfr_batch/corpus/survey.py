"""Surveys shards before they are read: their columns, row counts, bytes of text and row groups.

Reads the footer of a Parquet file and the beginning of any other; knows no table, no model and no rows.
"""

import contextlib
import dataclasses
import json
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any, NamedTuple

import pyarrow as pa
import pyarrow.parquet as pq

from sfr_batch.config.settings import CorpusSettings
from sfr_batch.corpus.column_paths import find_type, is_inside
from sfr_batch.corpus.csv_dialect import dialect_of
from sfr_batch.corpus.csv_questions import ask, read_beginning
from sfr_batch.corpus.deleted_rows import check_delete_files, gone
from sfr_batch.corpus.encodings import refuse_unmarked
from sfr_batch.corpus.file_formats import CSV, FORMATS, JSONL, PARQUET, TEXT, bare_name
from sfr_batch.corpus.file_names import COMPRESSED, MAGIC_BYTES, by_first_bytes, refuse_pointer
from sfr_batch.corpus.int96 import arrow_schema
from sfr_batch.corpus.json_types import infer_schema
from sfr_batch.corpus.partitions import with_partition
from sfr_batch.corpus.records import TEXT_COLUMN
from sfr_batch.corpus.sampling import SampledLines, last_lines, sample_file, sample_lines
from sfr_batch.corpus.shards import Shard
from sfr_batch.corpus.text_template import TextTemplate
from sfr_batch.errors import CorpusError, ObjectNotFound, StorageError, counted
from sfr_batch.storage.inputs import is_unchanged, open_input, read_input_range

_PARALLEL_SURVEYS = 32


class RowGroup(NamedTuple):
    """Sizes of some consecutive rows of a shard."""

    rows: int
    text_bytes: int
    """Unpacked bytes of the text's columns."""
    read_bytes: int
    """Unpacked bytes of all columns that are read: id, text and carried columns."""


@dataclass(frozen=True, slots=True)
class ShardStatistics:
    """What a survey found out about a shard."""

    shard: Shard
    schema: pa.Schema
    groups: tuple[RowGroup, ...]
    """The row groups of a Parquet file. Any other file with rows counts as one, estimated from its beginning."""
    nulls: frozenset[str] = frozenset()
    """Paths of columns that have no value in any row, though the schema may give them a type."""
    nans: frozenset[str] = frozenset()
    """Paths of columns that have no value but NaN."""
    whole: bool = True
    """Whether the types are those of all rows; False where they are guessed from the beginning of the file."""

    @property
    def columns(self) -> tuple[object, ...]:
        """All that types of columns are decided by; shards mostly have one and the same."""
        return self.schema, self.shard.format, self.nulls, self.nans, self.whole

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
        return FORMATS[self.shard.format].has_metadata

    @property
    def all_live(self) -> bool:
        """Whether the number of rows is known, and none of them is deleted."""
        return self.exact and not (self.shard.table and self.shard.table.has_deletes)

    @property
    def empty(self) -> bool:
        """Whether the shard has no rows, which is certain in any format. Then it needs no columns."""
        return not self.rows


def survey_shards(shards: Sequence[Shard], settings: CorpusSettings) -> list[ShardStatistics]:
    """Surveys the shards, many at a time. Raises CorpusError naming the file that cannot be read, or that was replaced
    or deleted since it was listed."""
    schemas: dict[pa.Schema, pa.Schema] = {}  # shards mostly have one and the same: 100,000 copies would be a gigabyte

    def survey(shard: Shard) -> ShardStatistics:
        try:
            schema, *found = SURVEYS[shard.format](shard, settings)
        except (CorpusError, ObjectNotFound) as error:
            _check_listed(shard, settings, error)
            raise
        schema, of_path = with_partition(schema, shard.columns_of_path(settings))
        survey = ShardStatistics(shard, schemas.setdefault(schema, schema), *found)
        # What is text in a path decides no type: other shards and the table do, if they have the column.
        return dataclasses.replace(survey, nulls=survey.nulls | of_path) if of_path else survey

    with ThreadPoolExecutor(_PARALLEL_SURVEYS) as pool:
        return list(pool.map(survey, shards))


def _check_listed(shard: Shard, settings: CorpusSettings, error: Exception) -> None:
    """Raises CorpusError if the shard is not what was listed any more: one that is being replaced looks damaged."""
    if shard.table is not None:
        return
    try:
        replaced = not is_unchanged(shard.uri, shard.version, settings.storage)
    except ObjectNotFound:
        raise CorpusError(f"{shard.uri} was deleted after it was listed. Run the command again.") from error
    except StorageError:
        return
    if replaced:
        raise CorpusError(f"{shard.uri} was replaced after it was listed. Run the command again.") from error


_RowGroups = tuple[RowGroup, ...]


def _survey_parquet(
    shard: Shard, settings: CorpusSettings
) -> tuple[pa.Schema, _RowGroups, frozenset[str], frozenset[str]]:
    try:
        with open_input(shard.uri, settings.storage) as file:
            metadata = pq.read_metadata(file)
            schema = arrow_schema(file, metadata).remove_metadata()
    except ObjectNotFound:
        if shard.table is None:
            raise
        raise gone(shard, shard.uri) from None
    except (pa.ArrowException, OSError) as error:
        raise CorpusError(
            f"{shard.uri} is not a readable Parquet file: {str(error).rstrip('.')}.{_what_else(shard, settings)} "
            "Replace it, or remove it from the corpus."
        ) from error
    text = TextTemplate(settings.text).columns
    needed = [*filter(None, [settings.id]), *text, *settings.carried.values()]
    if shard.table is not None:
        check_delete_files(shard, settings)
        in_file = schema
        schema = shard.table.schema_for(needed, in_file, shard.uri)
        text, needed = (shard.table.names_in_file(paths, in_file) for paths in (text, needed))
    # Which leaves are needed is the same in each row group.
    leaves = [metadata.schema.column(i).path for i in range(metadata.num_columns)]
    of_text = [i for i, leaf in enumerate(leaves) if is_inside(leaf, text)]
    others = [i for i, leaf in enumerate(leaves) if is_inside(leaf, needed) and i not in of_text]
    groups = []
    for group in map(metadata.row_group, range(metadata.num_row_groups)):
        size, more = (sum(group.column(i).total_uncompressed_size for i in which) for which in (of_text, others))
        groups.append(RowGroup(group.num_rows, size, size + more))
    single = {i: leaves[i] for i in (*of_text, *others) if leaves[i] in needed and shard.table is None}
    return schema, tuple(groups), *_without_values(metadata, single)


def _without_values(metadata: pq.FileMetaData, leaves: Mapping[int, str]) -> tuple[frozenset[str], frozenset[str]]:
    """Those of the columns, number -> path, that are null in all rows, and those that have NaN at most.

    As statistics tell: a float column without least and greatest value has NaN alone; one without statistics counts as
    one with values. Mostly the first row group shows a value, and no other is looked at.
    """
    nulls, nans = set(leaves), set(leaves)
    for group in map(metadata.row_group, range(metadata.num_row_groups)):
        for i in nulls | nans:
            chunk = group.column(i)
            statistics = chunk.statistics if group.num_rows else None
            if group.num_rows and not (statistics and statistics.has_null_count):
                nulls.discard(i)
                nans.discard(i)
            elif statistics and statistics.null_count < group.num_rows:
                nulls.discard(i)
                if statistics.has_min_max or not _is_float(metadata.schema.column(i)):
                    nans.discard(i)
        if not nans:
            break
    return frozenset(leaves[i] for i in nulls), frozenset(leaves[i] for i in nans - nulls)


def _is_float(leaf: pq.ColumnSchema) -> bool:
    return leaf.physical_type in ("FLOAT", "DOUBLE") or leaf.logical_type.type == "FLOAT16"


def _survey_jsonl(
    shard: Shard, settings: CorpusSettings
) -> tuple[pa.Schema, _RowGroups, frozenset[str], frozenset[str], bool]:
    sample = sample_lines(shard, settings)
    rows = _json_values(sample.lines)
    _check_first_line(shard, sample.lines)
    if sample.lines and not any(isinstance(row, dict) for row in rows):
        _refuse_carriage_returns(sample, shard)
        raise CorpusError(
            f"{shard.uri} is not JSON Lines: no JSON object in its first {counted(len(sample.lines), 'line')}. Write "
            "one object per line: `jq -c '.[]'` converts a JSON array, `jq -c .` objects over several lines or "
            "several in one line."
        )
    objects = [row for row in rows if isinstance(row, dict)]
    schema = infer_schema(objects, settings, shard.uri)
    if not sample.sample.whole and not shard.compression and _lacks_values(schema, settings):
        more = _json_values(last_lines(shard, settings))  # what newer documents have is mostly there
        schema = infer_schema([*objects, *(row for row in more if isinstance(row, dict))], settings, shard.uri)
    return schema, _estimate(sample, shard), frozenset(), frozenset(), sample.sample.whole


def _json_values(lines: Sequence[bytes]) -> list[Any]:
    """The values of the lines that are JSON. Others are rejects when they are read; estimates do without them."""
    found = []
    for line in lines:
        with contextlib.suppress(ValueError, RecursionError):
            found.append(json.loads(line))
    return found


def _lacks_values(schema: pa.Schema, settings: CorpusSettings) -> bool:
    """Whether no row of a sample has a value in one of the columns in use."""
    paths = [*TextTemplate(settings.text).columns, *settings.carried.values()]
    kinds = [find_type(schema, path) for path in paths]
    return any(kind is None or pa.types.is_null(kind) for kind in kinds)


def _check_first_line(shard: Shard, lines: Sequence[bytes]) -> None:
    """Raises CorpusError if a file is one JSON value over many lines: .json may be both, and some of the lines of an
    array are objects by themselves."""
    if not lines or not (lines[0].lstrip().startswith(b"[") or bare_name(shard.uri)[0].endswith(".json")):
        return
    try:
        json.loads(lines[0])
    except (ValueError, RecursionError):
        raise CorpusError(
            f"{shard.uri} is not JSON Lines: its first line is no whole JSON value. Write one object per line: "
            "`jq -c '.[]'` converts a JSON array, `jq -c .` an object over several lines. If it holds no documents, "
            "name the others by a pattern in corpus.path."
        ) from None


def _what_else(shard: Shard, settings: CorpusSettings) -> str:
    """What a file that is not Parquet is instead, if its first bytes tell, and what to do about it."""
    data = read_input_range(shard.uri, 0, MAGIC_BYTES, settings.storage)
    refuse_pointer(data, shard.uri)
    kind = by_first_bytes(data)
    program = next((program for magic, (*_, program) in COMPRESSED.items() if data.startswith(magic)), "")
    if program:
        return f" It is compressed as a whole: unpack it ({program})."
    return f" It is {kind}, which is not supported." if kind not in ("", PARQUET) else ""


def _survey_text(shard: Shard, settings: CorpusSettings) -> tuple[pa.Schema, _RowGroups]:
    sample = sample_lines(shard, settings)
    _refuse_carriage_returns(sample, shard)
    return pa.schema([(TEXT_COLUMN, pa.string())]), _estimate(sample, shard)


def _refuse_carriage_returns(sample: SampledLines, shard: Shard) -> None:
    """Raises CorpusError if all lines are one, because they end as on old Macs."""
    line = sample.lines[0] if len(sample.lines) == 1 else b""
    if b"\r" in line.rstrip() and not line.endswith(b"\n"):
        raise CorpusError(
            f"{shard.uri} has lines that end in a carriage return alone, as on old Macs. Convert them: "
            "tr '\\r' '\\n' < OLD > NEW."
        )


def _survey_csv(shard: Shard, settings: CorpusSettings) -> tuple[pa.Schema, _RowGroups]:
    def end(data: bytes) -> int:
        return max(data.rfind(b"\n"), data.rfind(b"\r", 0, -1)) + 1  # a last \r may be half of \r\n

    sample = sample_file(shard, settings, lambda data: end(data[: end(data) - 1].rstrip(b"\r")) > 0)
    refuse_unmarked(sample.data, shard.uri)
    lines_read = sample.data if sample.whole else sample.data[: end(sample.data)]
    dialect = dialect_of(shard, settings)
    reading = read_beginning(lines_read, sample.whole, shard.uri, dialect)
    ask(reading, lines_read, shard, settings, dialect)
    if reading.error and (sample.whole or not reading.header):
        raise reading.error
    # The sample may end inside quotes; whether they are ever closed is seen when the file is read.
    records = len(lines_read.splitlines()) - 1 if reading.error else reading.records
    schema = pa.schema([(name, pa.string()) for name in reading.header])
    if sample.whole:
        return schema, (RowGroup(records, len(sample.data), len(sample.data)),) if records else ()
    total = sample.unpacked(shard)
    return schema, (RowGroup(max(1, round(total * records / len(lines_read))), total, total),)


def _estimate(sample: SampledLines, shard: Shard) -> _RowGroups:
    rows, size = sample.rows(shard), sample.sample.unpacked(shard)
    return (RowGroup(rows, size, size),) if rows else ()


SURVEYS: dict[str, Callable[[Shard, CorpusSettings], tuple[Any, ...]]] = {
    PARQUET: _survey_parquet,
    JSONL: _survey_jsonl,
    CSV: _survey_csv,
    TEXT: _survey_text,
}
assert set(SURVEYS) == set(FORMATS)
