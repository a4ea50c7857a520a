"""The corpus: which shards there are, how they are cut into splits, and the rows of a split, good ones and rejects.

A shard is one file. A split is a range of its rows (Parquet) or bytes (JSONL), fixed by the file's version, its
metadata and the settings alone. A read unit is what is decoded in one go: a row group or a few, or a byte range.
Knows no table, no tokenizer and no Ray.
"""

import difflib
import hashlib
import json
import string
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from itertools import pairwise
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from sfr_batch import schema as names
from sfr_batch.config import CorpusSettings
from sfr_batch.errors import ConfigError, CorpusError, ObjectNotFound
from sfr_batch.fingerprint import short_id
from sfr_batch.storage import InputFile, list_inputs, open_input, read_input_range, stat_input

PARQUET = "parquet"
JSONL = "jsonl"
_ENDINGS = {".parquet": PARQUET, ".pq": PARQUET, ".jsonl": JSONL, ".ndjson": JSONL}
_OTHER_DATA = (".csv", ".tsv", ".txt", ".json", ".gz", ".zst", ".bz2", ".xz", ".avro", ".orc", ".arrow", ".feather")
_SAMPLE_BYTES = 256 * 1024
_PARALLEL_SURVEYS = 32
_ROWS_PER_READ = 4096
SMALLEST_SPLIT = 256
"""Rows below which a small corpus is not cut finer."""


# --- shards


@dataclass(frozen=True, slots=True)
class Shard:
    """One file of the corpus in one version."""

    uri: str
    version: str
    size: int
    format: str


def list_shards(settings: CorpusSettings) -> list[Shard]:
    """All shards, sorted by URI, each once. Raises CorpusError where there is nothing to read."""
    found: dict[str, Shard] = {}
    for path in [settings.path] if isinstance(settings.path, str) else settings.path:
        try:
            files = list_inputs(path, settings.storage)
        except ObjectNotFound as error:
            raise CorpusError(f"corpus.path {path}: there is nothing at this path.") from error
        shards = [shard for file in files if (shard := _shard(file, settings, alone=len(files) == 1))]
        taken = {shard.uri for shard in shards}
        passed_over = [file.uri for file in files if file.uri.endswith(_OTHER_DATA) and file.uri not in taken]
        if shards and passed_over and settings.format == "auto":
            raise CorpusError(
                f"corpus.path {path} holds {len(passed_over)} file(s) that look like data but cannot be read, e.g. "
                f"{passed_over[0]}. Supported: {', '.join(_ENDINGS)}. Convert them, name what to read by a "
                "glob, or set corpus.format."
            )
        if not shards:
            seen = f"; it holds {len(files)} file(s), e.g. {files[0].uri}" if files else ""
            raise CorpusError(
                f"corpus.path {path} has no files that can be read{seen}. Supported: "
                f"{', '.join(_ENDINGS)} (or set corpus.format)."
            )
        found.update({shard.uri: shard for shard in shards})
    return [found[uri] for uri in sorted(found)]


def _shard(file: InputFile, settings: CorpusSettings, alone: bool) -> Shard | None:
    ending = next((kind for suffix, kind in _ENDINGS.items() if file.uri.endswith(suffix)), None)
    if settings.format != "auto":
        ending = settings.format if ending in (None, settings.format) and (ending or alone) else None
    return Shard(file.uri, file.version, file.size, ending) if ending else None


@dataclass(frozen=True, slots=True)
class Survey:
    """What a shard's metadata tells: its rows and text, without reading it.

    groups: (rows, bytes of text) of each row group; for JSONL one entry, estimated from the beginning of the file.
    """

    shard: Shard
    schema: pa.Schema
    groups: tuple[tuple[int, int], ...]

    @property
    def rows(self) -> int:
        return sum(rows for rows, _ in self.groups)

    @property
    def exact(self) -> bool:
        """Whether ``rows`` is known rather than estimated."""
        return self.shard.format == PARQUET

    @property
    def empty(self) -> bool:
        """Without a row: then it needs no columns, and the types of those it has are nobody's choice."""
        return not self.rows


def survey_shards(shards: Sequence[Shard], settings: CorpusSettings) -> list[Survey]:
    """Footers of Parquet shards and beginnings of JSONL shards, many at a time. Raises CorpusError naming the file."""
    with ThreadPoolExecutor(_PARALLEL_SURVEYS) as pool:
        return list(pool.map(lambda shard: _survey(shard, settings), shards))


def _survey(shard: Shard, settings: CorpusSettings) -> Survey:
    return _survey_parquet(shard, settings) if shard.format == PARQUET else _survey_jsonl(shard, settings)


def _survey_parquet(shard: Shard, settings: CorpusSettings) -> Survey:
    try:
        with open_input(shard.uri, settings.storage) as file:
            metadata = pq.read_metadata(file)
            schema = metadata.schema.to_arrow_schema()
    except (pa.ArrowException, OSError) as error:
        raise CorpusError(f"{shard.uri} is not a readable Parquet file: {error}") from error
    text = set(TextTemplate(settings.text).columns)
    groups = []
    for number in range(metadata.num_row_groups):
        group = metadata.row_group(number)
        columns = [group.column(i) for i in range(group.num_columns)]
        size = sum(c.total_uncompressed_size for c in columns if c.path_in_schema in text)
        groups.append((group.num_rows, size))
    return Survey(shard, schema, tuple(groups))


def _survey_jsonl(shard: Shard, settings: CorpusSettings) -> Survey:
    lines = _first_lines(shard, settings)
    rows = []
    for line in lines:
        try:
            rows.append(json.loads(line))
        except (ValueError, RecursionError):
            continue  # a reject when it is read; the estimate and the schema do without it
    if lines and not any(isinstance(row, dict) for row in rows):
        raise CorpusError(f"{shard.uri} is not JSON Lines: none of its first {len(lines)} lines is a JSON object.")
    mean = sum(len(line) + 1 for line in lines) / len(lines) if lines else 1
    estimate = round(shard.size / mean) if lines else 0
    schema = _infer_schema([row for row in rows if isinstance(row, dict)], settings, shard.uri)
    return Survey(shard, schema, ((estimate, shard.size),))


def _first_lines(shard: Shard, settings: CorpusSettings) -> list[bytes]:
    """The whole lines at the beginning of a shard, at least one if it has any; blank ones are no rows."""
    wanted = _SAMPLE_BYTES
    while True:
        sample = read_input_range(shard.uri, 0, min(wanted, shard.size), settings.storage)
        whole = sample if len(sample) >= shard.size else sample[: sample.rfind(b"\n") + 1]
        lines = [line for line in whole.split(b"\n") if line.strip()]
        if lines or wanted >= shard.size:
            return lines
        wanted *= 4


def _infer_schema(rows: list[dict[str, Any]], settings: CorpusSettings, uri: str) -> pa.Schema:
    fields = []
    for key in dict.fromkeys(key for row in rows for key in row if _fits(key)):
        try:
            kind = _infer_type([row.get(key) for row in rows])
        except pa.ArrowException as error:
            if key in {settings.id, *settings.carry}:
                raise CorpusError(f"{uri}: the values of {key!r} are of several types: {error}") from error
            kind = pa.string()  # what does not fit is a reject when it is read
        fields.append(pa.field(key, pa.string() if pa.types.is_null(kind) else kind))
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


# --- columns


class TextTemplate:
    """How a row's text is made: one column verbatim, or a template such as ``{title} {text}``.

    A template's missing or null columns are empty, and its result is stripped: the rule by which the BEIR and MTEB
    scores of models are made, ``(title + " " + text).strip()``. A single column is never altered.
    """

    def __init__(self, template: str) -> None:
        try:
            parsed = list(string.Formatter().parse(template))
        except ValueError as error:
            raise ConfigError(f"corpus.text {template!r} is not a template: {error}") from None
        self.columns = list(dict.fromkeys(name for _, name, _, _ in parsed if name is not None))
        if any(name == "" or spec or conversion for _, name, spec, conversion in parsed if name is not None):
            raise ConfigError(
                f"corpus.text {template!r}: write plain column names in braces, as in '{{title}} {{text}}'."
            )
        self._parts = parsed if self.columns else []
        self.columns = self.columns or [template]

    def render(self, values: Sequence[Any]) -> str | None:
        """``values`` in the order of ``columns``; None if all of them are null."""
        if all(value is None for value in values):
            return None
        if not self._parts:
            return str(values[0])
        given = dict(zip(self.columns, values, strict=True))
        pieces = []
        for literal, name, _, _ in self._parts:
            pieces.append(literal)
            if name is not None and given[name] is not None:
                pieces.append(str(given[name]))
        return "".join(pieces).strip()


@dataclass(frozen=True, slots=True)
class Columns:
    """Types of the columns that the corpus gives to the table."""

    id_type: pa.DataType
    carry: dict[str, pa.DataType]


def resolve_columns(survey: Survey, settings: CorpusSettings) -> Columns:
    """The table's id and carried column types, from one shard. Raises CorpusError, ConfigError."""
    check_columns(survey, settings)
    id_type = survey.schema.field(settings.id).type
    return Columns(
        id_type=pa.int64() if pa.types.is_integer(id_type) else pa.string(),
        carry={name: _without_views(survey.schema.field(name).type) for name in settings.carry},
    )


def _without_views(kind: pa.DataType) -> pa.DataType:
    """Views are a layout in memory that Arrow can neither take rows of nor, in all versions, write."""
    if pa.types.is_string_view(kind):
        return pa.string()
    return pa.binary() if pa.types.is_binary_view(kind) else kind


def check_columns(survey: Survey, settings: CorpusSettings, expected: Columns | None = None) -> None:
    """Raises CorpusError naming the shard if it lacks a column, or has one with an unfit type."""
    for name in settings.carry:
        if name in names.RESERVED_COLUMNS:
            raise ConfigError(f"corpus.carry: {name!r} is the table's own column; rename it in the corpus.")
    schema, uri = survey.schema, survey.shard.uri
    template = TextTemplate(settings.text)
    if survey.empty:
        return
    for setting, name in [
        ("id", settings.id),
        *(("text", c) for c in template.columns),
        *(("carry", c) for c in settings.carry),
    ]:
        if name not in schema.names:
            close = difflib.get_close_matches(name, schema.names, n=1)
            hint = f" Did you mean {close[0]!r}?" if close else ""
            raise CorpusError(
                f"{uri} has no column {name!r} (corpus.{setting}).{hint} It has: {', '.join(schema.names)}."
            )
        if len(schema.get_all_field_indices(name)) > 1:
            raise CorpusError(f"{uri} has several columns {name!r} (corpus.{setting}); names must be unique.")
    id_type = schema.field(settings.id).type
    if not (_is_text(id_type) or pa.types.is_integer(id_type)):
        raise CorpusError(f"{uri}: the id column {settings.id!r} is {id_type}; ids are strings or integers.")
    for name in template.columns:
        kind = schema.field(name).type
        number = pa.types.is_integer(kind) or pa.types.is_floating(kind)
        if not (_is_text(kind) or (number and len(template.columns) > 1)):
            raise CorpusError(f"{uri}: the text column {name!r} is {kind}; it must be a string.")
    if expected is None:
        return
    if pa.types.is_integer(id_type) != pa.types.is_integer(expected.id_type):
        raise CorpusError(f"{uri}: the id column {settings.id!r} is {id_type}, in the table it is {expected.id_type}.")
    for name, kind in expected.carry.items():
        if not _without_views(schema.field(name).type).equals(kind) and survey.exact:
            raise CorpusError(
                f"{uri}: the column {name!r} is {schema.field(name).type}, in other shards or in the table it is "
                f"{kind}. Make the shards alike, or leave it out of corpus.carry."
            )


def _is_text(kind: pa.DataType) -> bool:
    if pa.types.is_dictionary(kind):
        kind = kind.value_type
    return bool(pa.types.is_string(kind) or pa.types.is_large_string(kind) or pa.types.is_string_view(kind))


# --- splits


@dataclass(frozen=True, slots=True)
class Split:
    """Some thousand rows of a shard: the unit of encoding, of retry and of commit.

    start, end: rows (Parquet) or bytes (JSONL; the lines that begin in the range). rows, text_bytes: what the
    metadata says, estimated for JSONL.
    """

    split_id: str
    shard: str
    version: str
    start: int
    end: int
    rows: int
    text_bytes: int


@dataclass(frozen=True, slots=True)
class ReadUnit:
    """What one task decodes in one go, with the splits that are wanted of it."""

    shard: Shard
    row_groups: tuple[int, ...]
    first_row: int
    splits: tuple[Split, ...]


def rows_per_split(total_rows: int, rows: int, min_splits: int) -> int:
    """The target rows of a split: halved while there would be fewer than ``min_splits``, not below SMALLEST_SPLIT.

    By halves, so that a corpus that grows a little keeps its split boundaries.
    """
    while rows > SMALLEST_SPLIT and rows * min_splits > total_rows:
        rows = max(SMALLEST_SPLIT, rows // 2)
    return rows


def cut(
    survey: Survey, max_rows: int, max_bytes: int, identity: Sequence[str], condemned: frozenset[str]
) -> list[ReadUnit]:
    """Cut a shard into read units and splits of about ``max_rows`` rows and at most ``max_bytes`` bytes of text.

    identity: what else names a split (row recipe, fingerprint, generation). A pure function: the same shard version
    under the same settings gives the same split ids, but for names that a sweep has condemned.
    """
    pieces = _cut_parquet if survey.shard.format == PARQUET else _cut_jsonl
    units = []
    for row_groups, first_row, ranges in pieces(survey.groups, max_rows, max_bytes, survey.shard.size):
        splits = tuple(
            Split(
                split_id=name_split(survey.shard, start, end, identity, condemned),
                shard=survey.shard.uri,
                version=survey.shard.version,
                start=start,
                end=end,
                rows=rows,
                text_bytes=size,
            )
            for start, end, rows, size in ranges
        )
        units.append(ReadUnit(survey.shard, row_groups, first_row, splits))
    return units


def name_split(shard: Shard, start: int, end: int, identity: Sequence[str], condemned: frozenset[str]) -> str:
    """The split's id: 32 hexadecimal characters. A condemned name is never used again, the next one in line is."""
    split_id = short_id(shard.uri, shard.version, start, end, *identity)
    while split_id in condemned:
        split_id = short_id(split_id, "after a sweep")
    return split_id


_Range = tuple[int, int, int, int]
_Piece = tuple[tuple[int, ...], int, list[_Range]]


def _cut_parquet(groups: Sequence[tuple[int, int]], max_rows: int, max_bytes: int, _: int) -> Iterator[_Piece]:
    """Small row groups are read together as one split; a large one is read once and cut evenly."""
    together: list[int] = []
    first_row = row = rows = size = 0
    for number, (group_rows, group_bytes) in enumerate(groups):
        parts = max(-(-group_rows // max_rows), -(-group_bytes // max_bytes)) if group_rows else 0
        parts = min(parts, group_rows)
        if together and (parts > 1 or rows + group_rows > max_rows or size + group_bytes > max_bytes):
            yield tuple(together), first_row, [(first_row, first_row + rows, rows, size)]
            together, rows, size = [], 0, 0
        if parts > 1:
            bounds = [row + group_rows * part // parts for part in range(parts + 1)]
            ranges = [(a, b, b - a, group_bytes // parts) for a, b in pairwise(bounds)]
            yield (number,), row, ranges
        elif group_rows:
            first_row = first_row if together else row
            together.append(number)
            rows, size = rows + group_rows, size + group_bytes
        row += group_rows
    if together:
        yield tuple(together), first_row, [(first_row, first_row + rows, rows, size)]


def _cut_jsonl(groups: Sequence[tuple[int, int]], max_rows: int, max_bytes: int, size: int) -> Iterator[_Piece]:
    """Even byte ranges, each a read unit of its own."""
    rows = sum(count for count, _ in groups)
    if not size:
        return
    parts = max(1, -(-rows // max_rows), -(-size // max_bytes))
    bounds = [size * part // parts for part in range(parts + 1)]
    for a, b in pairwise(bounds):
        yield (), 0, [(a, b, -(-rows // parts), b - a)]


# --- rows


@dataclass
class Rows:
    """The rows of one split: those to embed, column by column, and those that cannot be, with reasons.

    positions: [n] as in the rejects; ids: [n] of the table's id type; texts: n strings; content_hash: [n] of 16
    bytes, BLAKE2b of the text in UTF-8; carry: [n] the carried columns; rejects: columns of `schema.REJECTS_SCHEMA`.
    ``read`` == n + rejects.
    """

    read: int
    positions: pa.Array
    ids: pa.Array
    texts: list[str]
    content_hash: pa.Array
    carry: pa.Table
    rejects: pa.Table


@dataclass
class Reject:
    """A row that cannot be embedded."""

    id: Any
    position: int
    reason: str
    message: str


@dataclass
class _Collected:
    positions: list[int] = field(default_factory=list)
    ids: list[Any] = field(default_factory=list)
    texts: list[str | None] = field(default_factory=list)
    carry: dict[str, list[Any]] = field(default_factory=dict)
    rejects: list[Reject] = field(default_factory=list)


def read_unit(unit: ReadUnit, settings: CorpusSettings, columns: Columns) -> Iterator[tuple[Split, Rows]]:
    """Decode a read unit once and yield its splits with their rows, in order.

    Raises CorpusError if the shard changed since it was listed, before or while it was read, or cannot be decoded.
    """
    check_unchanged(unit.shard, settings)
    read = _read_parquet if unit.shard.format == PARQUET else _read_jsonl
    try:
        for split, collected in read(unit, settings, columns):
            rows = _finish(collected, columns, unit.shard.uri)
            check_unchanged(unit.shard, settings)
            yield split, rows
    except (pa.ArrowException, OSError) as error:
        raise CorpusError(f"{unit.shard.uri} cannot be read: {error}") from error


def check_unchanged(shard: Shard, settings: CorpusSettings) -> None:
    """Raises CorpusError if the shard is gone or has another version than when it was planned."""
    try:
        version = stat_input(shard.uri, settings.storage).version
    except ObjectNotFound:
        raise CorpusError(f"{shard.uri} has vanished since the run was planned; run the command again.") from None
    if version != shard.version:
        raise CorpusError(f"{shard.uri} was replaced while the run was under way; run the command again.")


def _read_parquet(unit: ReadUnit, settings: CorpusSettings, columns: Columns) -> Iterator[tuple[Split, _Collected]]:
    template = TextTemplate(settings.text)
    wanted = list(dict.fromkeys([settings.id, *template.columns, *settings.carry]))
    splits = iter(unit.splits)
    split = next(splits)
    collected = _Collected(carry={name: [] for name in columns.carry})
    row = unit.first_row
    with open_input(unit.shard.uri, settings.storage) as file:
        batches = pq.ParquetFile(file, pre_buffer=True).iter_batches(
            batch_size=_ROWS_PER_READ, row_groups=list(unit.row_groups), columns=wanted
        )
        for batch in batches:
            end = row + batch.num_rows
            while row < end:
                if row < split.start:  # of a split that is committed already
                    row = min(end, split.start)
                    continue
                take = min(end, split.end) - row
                _collect(collected, batch.slice(batch.num_rows - (end - row), take), row, settings, template)
                row += take
                if row == split.end:
                    yield split, collected
                    following = next(splits, None)
                    if following is None:
                        return
                    split, collected = following, _Collected(carry={name: [] for name in columns.carry})
    raise CorpusError(f"{unit.shard.uri} ended at row {row}, before row {split.end} that its metadata promise.")


def _collect(
    into: _Collected, batch: pa.RecordBatch, row: int, settings: CorpusSettings, template: TextTemplate
) -> None:
    into.positions.extend(range(row, row + batch.num_rows))
    into.ids.extend(_values(batch.column(settings.id)))
    parts = [_values(batch.column(name)) for name in template.columns]
    for values in zip(*parts, strict=True):
        bad = next((value for value in values if isinstance(value, _Undecodable)), None)
        into.texts.append(template.render(values) if bad is None else bad)
    for name, column in into.carry.items():
        column.append(batch.column(name))


class _Undecodable(str):
    """Stands for a value whose bytes are not UTF-8; rejected later, with its row."""

    __slots__ = ()


def _values(column: pa.Array) -> list[Any]:
    try:
        values: list[Any] = column.to_pylist()
        return values
    except UnicodeDecodeError:
        return [_value(scalar) for scalar in column]


def _value(scalar: pa.Scalar) -> Any:
    try:
        return scalar.as_py()
    except UnicodeDecodeError as error:
        return _Undecodable(f"bytes that are not UTF-8: {error}")


def _read_jsonl(unit: ReadUnit, settings: CorpusSettings, columns: Columns) -> Iterator[tuple[Split, _Collected]]:
    template = TextTemplate(settings.text)
    for split in unit.splits:
        collected = _Collected(carry={name: [] for name in columns.carry})
        with open_input(unit.shard.uri, settings.storage) as file:
            for position, line in _lines(file, split.start, split.end):
                _collect_line(collected, position, line, settings, template, columns)
        yield split, collected


def _lines(file: Any, start: int, end: int) -> Iterator[tuple[int, bytes]]:
    """The lines that begin in [start, end), each with its offset; blank ones are no rows."""
    position = start
    if start:
        file.seek(start - 1)
        position += len(file.readline()) - 1  # the line that begins before us is our neighbour's
    while position < end:
        line = file.readline()
        if not line:
            return
        if line.strip():
            yield position, line
        position += len(line)


def _collect_line(
    into: _Collected, position: int, line: bytes, settings: CorpusSettings, template: TextTemplate, columns: Columns
) -> None:
    def reject(id_: Any, reason: str, message: str) -> None:
        into.rejects.append(Reject(id_, position, reason, message))

    try:
        row = json.loads(line)
    except (ValueError, RecursionError) as error:
        return reject(None, "bad_json", f"the line is not JSON: {error}")
    if not isinstance(row, dict):
        return reject(None, "bad_json", f"the line is a JSON {type(row).__name__}, not an object")
    id_ = row.get(settings.id)
    carried = {}
    for name, kind in columns.carry.items():
        try:
            carried[name] = pa.scalar(row.get(name), kind)
        except (pa.ArrowException, ValueError, TypeError, OverflowError) as error:
            return reject(id_, "bad_column", f"{name} is not {kind}: {error}")
    values = [row.get(name) for name in template.columns]
    for name, value in zip(template.columns, values, strict=True):
        number = isinstance(value, int | float) and not isinstance(value, bool)
        if not (value is None or isinstance(value, str) or (number and len(values) > 1)):
            return reject(id_, "bad_text", f"{name} is a JSON {type(value).__name__}, not a string")
    into.positions.append(position)
    into.ids.append(id_)
    into.texts.append(template.render(values))
    for name, column in into.carry.items():
        column.append(carried[name])
    return None


def _finish(collected: _Collected, columns: Columns, shard: str) -> Rows:
    """Reject the rows that cannot be embedded and lay the others out in columns."""
    wanted_id = int if pa.types.is_integer(columns.id_type) else str
    rejects = collected.rejects
    carry = pa.table(
        {name: pa.chunked_array(_arrays(collected.carry[name], kind), kind) for name, kind in columns.carry.items()}
    )
    undecodable = {row: name for name in columns.carry for row in _undecodable_rows(carry.column(name))}
    keep, hashes = [], []
    for number, (id_, text) in enumerate(zip(collected.ids, collected.texts, strict=True)):
        problem = _problem(id_, text, wanted_id)
        if problem is None and number in undecodable:
            problem = "bad_column", f"{undecodable[number]} holds bytes that are not UTF-8"
        if problem:
            rejects.append(Reject(id_, collected.positions[number], *problem))
        else:
            keep.append(number)
            hashes.append(hashlib.blake2b(str(text).encode(), digest_size=16).digest())
    rejects.sort(key=lambda reject: reject.position)
    return Rows(
        read=len(keep) + len(rejects),
        positions=pa.array([collected.positions[i] for i in keep], pa.int64()),
        ids=pa.array([collected.ids[i] for i in keep], columns.id_type),
        texts=[str(collected.texts[i]) for i in keep],
        content_hash=pa.array(hashes, pa.binary(16)),
        carry=carry.take(pa.array(keep, pa.int64())) if columns.carry else carry,
        rejects=rejects_table(rejects, shard),
    )


def _arrays(values: list[Any], kind: pa.DataType) -> list[pa.Array]:
    if values and isinstance(values[0], pa.Scalar):
        return [pa.array([value.as_py() for value in values], kind)]
    return [value.cast(kind) for value in values]


def _undecodable_rows(column: pa.ChunkedArray) -> list[int]:
    """Rows with strings that are not UTF-8: Parquet readers do not look, but whoever reads the table would stumble."""
    try:
        column.validate(full=True)
    except pa.ArrowInvalid:
        return [row for row, scalar in enumerate(column) if isinstance(_value(scalar), _Undecodable)]
    return []


def _problem(id_: Any, text: str | None, wanted_id: type) -> tuple[str, str] | None:
    if id_ is None:
        return "null_id", "the id is null"
    if isinstance(id_, _Undecodable):
        return "bad_id", f"the id is {id_}"
    if isinstance(id_, bool) or not isinstance(id_, wanted_id):
        return "bad_id", f"the id is of type {type(id_).__name__}, the table's ids are {wanted_id.__name__}"
    if isinstance(id_, int) and not -(2**63) <= id_ < 2**63:
        return "bad_id", "the id does not fit into 64 bits"
    if surrogate := _surrogate(id_):
        return "bad_id", f"the id is {surrogate}"
    if text is None:
        return "null_text", "the text is null"
    if isinstance(text, _Undecodable):
        return "bad_text", str(text)
    if not text.strip():
        return "empty_text", "the text is empty or only white space"
    if surrogate := _surrogate(text):
        return "bad_text", f"the text is {surrogate}"
    return None


def _surrogate(value: object) -> str | None:
    """What is wrong with a string that JSON can spell and UTF-8 cannot."""
    try:
        str(value).encode()
    except UnicodeEncodeError as error:
        return f"not valid Unicode: {error.reason} at character {error.start}"
    return None


def rejects_table(rejects: Sequence[Reject], shard: str) -> pa.Table:
    """Rejects as the columns of `schema.REJECTS_SCHEMA`."""
    ids = [
        None if r.id is None or isinstance(r.id, _Undecodable) else str(r.id).encode("utf-8", "replace").decode()
        for r in rejects
    ]
    return pa.table(
        {
            names.ID: ids,
            "shard": [shard] * len(rejects),
            "position": [r.position for r in rejects],
            "reason": [r.reason for r in rejects],
            "message": [r.message for r in rejects],
        },
        schema=names.REJECTS_SCHEMA,
    )
