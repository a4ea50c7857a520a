"""A few rows from the beginning of a shard, with all of its columns, whichever the settings name.

For a look at a corpus that nobody has described yet. Knows formats; does not know what a column is for.
"""

import contextlib
import dataclasses
import itertools
import json
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pyarrow.types as kinds

from sfr_batch.config.settings import CorpusSettings
from sfr_batch.corpus.column_paths import all_paths, find_column, find_type
from sfr_batch.corpus.column_types import is_bytes, is_list, is_text, is_uuid, stored_type
from sfr_batch.corpus.csv_dialect import NULL, Dialect, dialect_of
from sfr_batch.corpus.csv_questions import HIVE, Reading, is_data, read_beginning
from sfr_batch.corpus.file_formats import CSV, PARQUET, TEXT
from sfr_batch.corpus.int96 import READ_AS, arrow_schema
from sfr_batch.corpus.records import TEXT_COLUMN
from sfr_batch.corpus.sampling import sample_file, sample_lines
from sfr_batch.corpus.shards import Shard
from sfr_batch.errors import CorpusError
from sfr_batch.storage.inputs import open_input

ROWS = 500
"""Most rows of a sample."""
_BYTES = 16 * 2**20
"""Most bytes of a sample of Parquet, unpacked, as far as rows are alike."""
_CSV_BYTES = 64 * 1024
_DEPTH = 3
NOT_UTF_8 = "cp1252"
"""The most frequent encoding of files that are not UTF-8."""
_OTHER_WAYS: tuple[dict[str, Any], ...] = (
    {},
    {"escape": "\\"},
    {"escape": "\\", "escape_unquoted": True},
    {"quote": None},
    {"quote": "'"},
)

NUMBER, INTEGER, STRING, OTHER = "number", "integer", "text", "other"
LIST, BYTES, MIXED, NOTHING = "list", "bytes", "values of several types", "no value"
"""Kinds of columns, as far as it matters what they may be used for."""


@dataclass(frozen=True)
class SampledColumn:
    """A column of a sample, or of several. values: those that are not null, of texts and integers alone."""

    path: str
    kind: str
    values: tuple[Any, ...] = ()
    nulls: int = 0
    filled: int = 0
    """Rows with a value, of whatever kind."""

    @classmethod
    def repeated(cls, path: str, value: str | None, rows: int) -> "SampledColumn":
        """A column with the same text in all rows."""
        values = () if value is None else (value,) * rows
        return cls(path, STRING if values else NOTHING, values, rows - len(values), len(values))


@dataclass(frozen=True)
class RowSample:
    """Some rows of a shard. dialect: settings of a CSV that are not the default, with which it was read."""

    columns: Mapping[str, SampledColumn]
    rows: int
    dialect: Mapping[str, Any] = dataclasses.field(default_factory=dict)


def sample_rows(shard: Shard, settings: CorpusSettings) -> RowSample:
    """The first rows of a shard. Raises CorpusError if it cannot be read. settings: its columns do not matter."""
    if shard.format == PARQUET:
        return _of_parquet(shard, settings)
    if shard.format == CSV:
        return _of_csv(shard, settings)
    lines, encoding = sample_lines(shard, settings).lines[:ROWS], {}
    if not _is_utf_8(b"".join(lines)):
        encoding = {"encoding": NOT_UTF_8}
        lines = sample_lines(shard, settings.model_copy(update=encoding)).lines[:ROWS]
    if shard.format == TEXT:
        return _of_records(({TEXT_COLUMN: line.decode("utf-8", "replace").rstrip()} for line in lines), encoding)
    return _of_records(_objects(lines), encoding)


def _is_utf_8(data: bytes) -> bool:
    try:
        data.decode()
    except UnicodeDecodeError:
        return False
    return True


def _objects(lines: Iterable[bytes]) -> Iterator[dict[str, Any]]:
    for line in lines:
        with contextlib.suppress(ValueError, RecursionError):
            found = json.loads(line)
            if isinstance(found, dict):
                yield dict(_flat(found))


def _flat(value: Mapping[str, Any], above: str = "", depth: int = 0) -> Iterator[tuple[str, Any]]:
    for key, inner in value.items():
        if isinstance(inner, dict) and depth < _DEPTH:
            yield from _flat(inner, f"{above}{key}.", depth + 1)
        else:
            yield f"{above}{key}", inner


def _of_records(records: Iterable[Mapping[str, Any]], dialect: Mapping[str, Any] | None = None) -> RowSample:
    rows = list(itertools.islice(records, ROWS))
    columns = {}
    for path in dict.fromkeys(path for row in rows for path in row):
        values = [value for row in rows if (value := row.get(path)) is not None]
        columns[path] = _column(path, _kind_of_values(values), values, len(rows))
    return RowSample(columns, len(rows), dialect or {})


def _kind_of_values(values: list[Any]) -> str:
    kinds_of = {type(value) for value in values}
    if not kinds_of:
        return NOTHING
    if kinds_of == {str}:
        return STRING
    if kinds_of == {int}:
        return INTEGER
    if kinds_of <= {int, float}:
        return NUMBER
    if kinds_of == {list}:
        return LIST
    return OTHER if kinds_of == {bool} else MIXED


def _column(path: str, kind: str, values: list[Any], rows: int) -> SampledColumn:
    kept = tuple(values) if kind in (STRING, INTEGER) else ()
    return SampledColumn(path, kind, kept, rows - len(values), len(values))


def _of_parquet(shard: Shard, settings: CorpusSettings) -> RowSample:
    try:
        with open_input(shard.uri, settings.storage) as file:
            metadata = pq.read_metadata(file)
            schema = in_file = arrow_schema(file, metadata)
            wanted = in_file.names
            if shard.table:
                schema = shard.table.schema_for(shard.table.schema.names, in_file, shard.uri)
                wanted = shard.table.names_in_file(schema.names, in_file) or in_file.names[:1]
            one = max(1, metadata.num_rows and _stored(metadata) // metadata.num_rows)
            reader = pq.ParquetFile(file, metadata=metadata, pre_buffer=False, coerce_int96_timestamp_unit=READ_AS)
            batches = reader.iter_batches(max(1, min(ROWS, _BYTES // one)), columns=wanted, use_threads=False)
            batch = next(iter(batches), None)
    except (pa.ArrowException, OSError) as error:
        raise CorpusError(
            f"{shard.uri} is not a readable Parquet file: {str(error).rstrip('.')}. Replace it, or remove it from the "
            "corpus."
        ) from error
    if batch is None:
        return RowSample({}, 0)
    if shard.table:
        batch = shard.table.conform(batch, schema.names, in_file)
    columns = {}
    for path in all_paths(schema):
        kind = find_type(schema, path)
        if kind is not None and not kinds.is_struct(kind):
            columns[path] = _of_array(path, find_column(batch, path), kind)
    return RowSample(columns, batch.num_rows)


def _stored(metadata: pq.FileMetaData) -> int:
    return sum(metadata.row_group(number).total_byte_size for number in range(metadata.num_row_groups))


def _of_array(path: str, column: pa.Array, kind: pa.DataType) -> SampledColumn:
    plain = stored_type(kind)
    filled = len(column) - column.null_count
    if not filled:
        return SampledColumn(path, NOTHING, (), len(column), 0)
    what, values = OTHER, []
    if is_text(kind) or is_bytes(kind):
        what, values = STRING, [_as_text(value) for value in column.drop_null().to_pylist()]
        if None in values:
            what, values = BYTES, []
    elif is_uuid(kind) or is_uuid(plain):
        what, values = STRING, [str(value) for value in column.drop_null().to_pylist()]
    elif kinds.is_integer(plain):
        what, values = INTEGER, column.drop_null().to_pylist()
    elif kinds.is_floating(plain) or kinds.is_decimal(plain):
        what = NUMBER
    elif is_list(plain) or kinds.is_map(plain):
        what = LIST
    elif kinds.is_fixed_size_binary(plain):
        what = BYTES
    return SampledColumn(path, what, tuple(values), len(column) - filled, filled)


def _as_text(value: Any) -> str | None:
    try:
        return value.decode() if isinstance(value, bytes) else str(value)
    except UnicodeDecodeError:
        return None


# --- CSV


def _of_csv(shard: Shard, settings: CorpusSettings) -> RowSample:
    sample = sample_file(shard, settings, lambda data: data.count(b"\n") > 1)
    data, whole = sample.data, sample.whole
    if not whole or len(data) > _CSV_BYTES:  # many dialects are tried
        end = data.rfind(b"\n", 0, _CSV_BYTES) + 1
        data, whole = data[: end or data.rfind(b"\n") + 1], False
    asked = given = dialect_of(shard, settings)
    if not _is_utf_8(data):
        given = dataclasses.replace(given, encoding=NOT_UTF_8)
    dialect, reading = _fitting(data, whole, shard.uri, given)
    changes: dict[str, Any] = {
        field.name: value
        for field in dataclasses.fields(Dialect)
        if (value := getattr(dialect, field.name)) != getattr(asked, field.name)
    }
    if dialect.header is False:
        names = {name: f"c{number + 1}" for number, name in enumerate(reading.header)}
        changes["header"] = list(names.values())
        reading.rows = [{names[name]: value for name, value in row.items()} for row in reading.rows]
    if any(value == NULL for row in reading.rows for value in row.values()):
        changes["nulls"] = [NULL]
    return _of_records(({key: value for key, value in row.items() if value != NULL} for row in reading.rows), changes)


def _fitting(data: bytes, whole: bool, uri: str, given: Dialect) -> tuple[Dialect, Reading]:
    """The dialect in which the beginning of a file has most columns, of those that all or nearly all records fit."""
    best: tuple[tuple[Any, ...], Dialect, Reading] | None = None
    for delimiter in dict.fromkeys([given.delimiter, *(char for char in f",;\t|{HIVE}" if char.encode() in data)]):
        for number, way in enumerate(_OTHER_WAYS):
            if delimiter == HIVE and way != {"quote": None}:
                continue
            dialect = dataclasses.replace(given, delimiter=delimiter, **way)
            reading = read_beginning(data, whole, uri, dialect)
            if is_data(reading.header):
                dialect = dataclasses.replace(dialect, header=False)
                reading = read_beginning(data, whole, uri, dialect)
            fits = 2 * reading.fits + reading.nearly_fits
            rank = fits > 0, len(reading.header) > 1, fits, delimiter == given.delimiter, -number, len(reading.header)
            if best is None or rank > best[0]:
                best = rank, dialect, reading
    assert best is not None
    return best[1], best[2]
