"""The corpus: which shards there are, what columns they have, and how they are cut into splits.

A shard is one file. A split is a range of its rows (Parquet) or bytes (JSONL), fixed by the file's version, its
metadata and the settings alone. A read unit is what is decoded in one go: a row group or a few, or a byte range.
Reads metadata only, rows are `rows`'s; knows no table, no tokenizer and no Ray.
"""

import difflib
import json
import string
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from sfr_batch import schema as names
from sfr_batch.config import CorpusSettings
from sfr_batch.errors import ConfigError, CorpusError, ObjectNotFound
from sfr_batch.fingerprint import short_id
from sfr_batch.storage import InputFile, list_inputs, open_input, read_input_range

PARQUET = "parquet"
JSONL = "jsonl"
_ENDINGS = {".parquet": PARQUET, ".pq": PARQUET, ".jsonl": JSONL, ".ndjson": JSONL}
_OTHER_DATA = (".csv", ".tsv", ".txt", ".json", ".gz", ".zst", ".bz2", ".xz", ".avro", ".orc", ".arrow", ".feather")
_SAMPLE_BYTES = 256 * 1024
_PARALLEL_SURVEYS = 32
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
