"""The rows of a split: decoded once, those to embed laid out in columns, the others rejected with their reasons.

Every row that is read comes out as one or the other. Knows how shards were cut (`corpus`), no table, no tokenizer and
no Ray.
"""

import hashlib
import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from sfr_batch import schema as names
from sfr_batch.config import CorpusSettings
from sfr_batch.corpus import PARQUET, Columns, ReadUnit, Shard, Split, TextTemplate
from sfr_batch.errors import CorpusError, ObjectNotFound
from sfr_batch.storage import open_input, stat_input

_ROWS_PER_READ = 4096


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
