"""The rows of a split: decoded once, those to embed laid out in columns, the others rejected with their reasons.

Every row that is read comes out as one or the other. Knows how shards were cut (`splits`), no table, no tokenizer and
no Ray.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from sfr_batch import schema as names
from sfr_batch.columns import Columns, TextTemplate, find_column, find_value, is_inside, lost_key
from sfr_batch.config import CorpusSettings
from sfr_batch.corpus import Shard, delimiter_of, settings_for
from sfr_batch.errors import CorpusError, ObjectNotFound
from sfr_batch.formats import PARQUET, BadRecord, Row, decompressed, json_type, lines, parser, records
from sfr_batch.identity import hash_rows, hash_texts
from sfr_batch.splits import ReadUnit, Split
from sfr_batch.storage import open_input, stat_input

_ROWS_PER_READ = 4096
_BATCH_BYTES = 32 * 2**20
"""Bytes of columns that a batch of rows holds, about: with long documents it has fewer rows."""
_READ_AT_ONCE = 64 * 2**20
"""Stored bytes of row groups that are fetched in one go, all columns at once; more is read in pieces."""
_PIECE = 4 * 2**20


@dataclass
class Rows:
    """The rows of one split: those to embed, column by column, and those that cannot be, with reasons.

    shards: [n] where each is from; positions: [n] as in the rejects; ids: [n] of the table's id type; texts: n strings;
    content_hash, row_hash: [n] of 16 bytes, of the text and of the text with the carried columns, see `identity`;
    carry: [n] the carried columns; rejects: columns of `schema.REJECTS_SCHEMA`. ``read`` == n + rejects.
    """

    read: int
    shards: pa.Array
    positions: pa.Array
    ids: pa.Array
    texts: list[str]
    content_hash: pa.Array
    row_hash: pa.Array
    carry: pa.Table
    rejects: pa.Table

    def take(self, chosen: pa.Array) -> "Rows":
        """Some of the rows, by number, without the rejects."""
        return Rows(
            read=len(chosen),
            shards=self.shards.take(chosen),
            positions=self.positions.take(chosen),
            ids=self.ids.take(chosen),
            texts=[self.texts[row] for row in chosen.to_pylist()],
            content_hash=self.content_hash.take(chosen),
            row_hash=self.row_hash.take(chosen),
            carry=self.carry.take(chosen) if self.carry.num_columns else self.carry,
            rejects=self.rejects.slice(0, 0),
        )

    @staticmethod
    def concat(parts: Sequence["Rows"]) -> "Rows":
        """The rows of several, in order; at least one."""
        return Rows(
            read=sum(part.read for part in parts),
            shards=pa.concat_arrays([part.shards for part in parts]),
            positions=pa.concat_arrays([part.positions for part in parts]),
            ids=pa.concat_arrays([part.ids for part in parts]),
            texts=[text for part in parts for text in part.texts],
            content_hash=pa.concat_arrays([part.content_hash for part in parts]),
            row_hash=pa.concat_arrays([part.row_hash for part in parts]),
            carry=pa.concat_tables([part.carry for part in parts]),
            rejects=pa.concat_tables([part.rejects for part in parts]),
        )


@dataclass
class Reject:
    """A row that cannot be embedded."""

    id: Any
    position: int
    reason: str
    message: str
    shard: str = ""
    """Where it is from, if not where all of its file are."""


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
    if unit.chosen:
        yield unit.splits[0], _read_chosen(unit, settings, columns)
        return
    check_unchanged(unit.shard, settings)
    reader = _Reader(unit, settings_for(unit.shard, settings), columns)
    read = reader.stream if unit.stream else reader.parquet if unit.shard.format == PARQUET else reader.lines
    try:
        for split, collected in read():
            rows = _finish(collected, columns, unit.shard.uri)
            check_unchanged(unit.shard, settings)
            yield split, rows
    except (pa.ArrowException, OSError) as error:
        check_unchanged(unit.shard, settings)  # a shard that is being replaced reads like a damaged one
        raise CorpusError(
            f"{unit.shard.uri} cannot be read: {' '.join(str(error).split()).rstrip(' .')}. If it is damaged, replace "
            "it or take it out of the corpus."
        ) from error


def _read_chosen(unit: ReadUnit, settings: CorpusSettings, columns: Columns) -> Rows:
    """The rows of a packed split."""
    parts = []
    for chosen in unit.chosen:
        first = 0
        wanted = np.asarray(chosen.rows)
        for _, rows in read_unit(chosen.unit, settings, columns):
            end = first + len(rows.texts)
            parts.append(rows.take(pa.array(wanted[(wanted >= first) & (wanted < end)] - first)))
            first = end
            if first > wanted[-1]:
                break
        else:
            raise CorpusError(f"{chosen.unit.shard.uri} has not the rows that it had; run the command again.")
    return Rows.concat(parts)


def check_unchanged(shard: Shard, settings: CorpusSettings) -> None:
    """Raises CorpusError if the shard is gone or has another version than when it was planned."""
    try:
        version = stat_input(shard.uri, settings.storage).version
    except ObjectNotFound:
        raise CorpusError(f"{shard.uri} has vanished since the run was planned; run the command again.") from None
    if version != shard.version:
        raise CorpusError(f"{shard.uri} was replaced while the run was under way; run the command again.")


class _Reader:
    """Reads one unit. Each method yields splits with what was collected for them."""

    def __init__(self, unit: ReadUnit, settings: CorpusSettings, columns: Columns) -> None:
        self._unit = unit
        self._shard = unit.shard
        self._settings = settings
        self._columns = columns
        self._template = TextTemplate(settings.text)

    def parquet(self) -> Iterator[tuple[Split, _Collected]]:
        wanted = [*self._template.columns, *self._columns.carry]
        wanted += [self._settings.id] if self._settings.id is not None else []
        splits = iter(self._unit.splits)
        split, collected = next(splits), self._collected()
        row = self._unit.first_row
        for batch in _record_batches(self._unit, list(dict.fromkeys(wanted)), self._settings):
            end = row + batch.num_rows
            while row < end:
                if row < split.start:  # of a split that is committed already
                    row = min(end, split.start)
                    continue
                take = min(end, split.end) - row
                self._take(collected, batch.slice(batch.num_rows - (end - row), take), row)
                row += take
                if row == split.end:
                    yield split, collected
                    following = next(splits, None)
                    if following is None:
                        return
                    split, collected = following, self._collected()
        raise CorpusError(f"{self._shard.uri} ended at row {row}, before row {split.end} that its metadata promise.")

    def lines(self) -> Iterator[tuple[Split, _Collected]]:
        parse = parser(self._shard.format)
        for split in self._unit.splits:
            collected = self._collected()
            with open_input(self._shard.uri, self._settings.storage) as file:
                for position, line in lines(file, self._shard.uri, split.start, split.end):
                    self._add(collected, position, parse(line))
            yield split, collected

    def stream(self) -> Iterator[tuple[Split, _Collected]]:
        stream = self._unit.stream
        assert stream is not None
        with (
            open_input(self._shard.uri, self._settings.storage) as file,
            decompressed(file, self._shard.compression) as plain,
        ):
            delimiter = delimiter_of(self._shard, self._settings)
            quote = self._settings.quote
            found, parse = records(plain, self._shard.uri, self._shard.format, delimiter, quote)
            done = frozenset(stream.done)
            number = count = size = start = position = 0
            collected = self._collected()
            for position, length, record in found:
                if count == stream.max_rows or (count and size + length > stream.max_bytes):
                    if number not in done:
                        yield self._part(stream.split_id(number, last=False), start, position, count, size), collected
                    number, count, size, collected = number + 1, 0, 0, self._collected()
                if count == 0:
                    start = position
                if number not in done:
                    self._add(collected, position, parse(record))
                count, size = count + 1, size + length
            if number not in done:
                yield self._part(stream.split_id(number, last=True), start, position + 1, count, size), collected

    def _part(self, split_id: str, start: int, end: int, rows: int, size: int) -> Split:
        return Split(split_id, self._shard.uri, self._shard.version, start, end, rows, size)

    def _collected(self) -> _Collected:
        return _Collected(carry={name: [] for name in self._columns.carry})

    def _derived_id(self, position: int) -> str:
        return f"{self._shard.uri}#{position}"

    def _take(self, into: _Collected, batch: pa.RecordBatch, row: int) -> None:
        """The rows of a batch, the first of which is ``row`` of the shard."""
        positions = range(row, row + batch.num_rows)
        into.positions.extend(positions)
        if self._settings.id is None:
            into.ids.extend(map(self._derived_id, positions))
        else:
            into.ids.extend(_values(find_column(batch, self._settings.id)))
        parts = [_values(find_column(batch, name)) for name in self._template.columns]
        for values in zip(*parts, strict=True):
            bad = next((value for value in values if isinstance(value, _Undecodable)), None)
            into.texts.append(self._template.render(values) if bad is None else bad)
        for name, column in into.carry.items():
            column.append(find_column(batch, name))

    def _add(self, into: _Collected, position: int, row: Row) -> None:
        """One record, as a row or as a reject."""

        def reject(id_: Any, reason: str, message: str) -> None:
            into.rejects.append(Reject(id_, position, reason, message))

        if isinstance(row, BadRecord):
            return reject(None, row.reason, row.message)
        id_ = self._derived_id(position) if self._settings.id is None else find_value(row, self._settings.id)
        carried = {}
        for name, kind in self._columns.carry.items():
            try:
                value = find_value(row, name)
                carried[name] = pa.scalar(value, kind)
                if lost := lost_key(value, kind):
                    return reject(id_, "bad_column", f"{name} has {lost!r}, which {kind} has no place for")
            except (pa.ArrowException, ValueError, TypeError, OverflowError) as error:
                return reject(id_, "bad_column", f"{name} is not {kind}: {error}")
        values = [find_value(row, name) for name in self._template.columns]
        for name, value in zip(self._template.columns, values, strict=True):
            number = isinstance(value, int | float) and not isinstance(value, bool)
            if not (value is None or isinstance(value, str) or (number and len(values) > 1)):
                return reject(id_, "bad_text", f"{name} is a JSON {json_type(value)}, not a string")
        into.positions.append(position)
        into.ids.append(id_)
        into.texts.append(self._template.render(values))
        for name, column in into.carry.items():
            column.append(carried[name])
        return None


def _record_batches(unit: ReadUnit, columns: list[str], settings: CorpusSettings) -> Iterator[pa.RecordBatch]:
    """The row groups of a unit, batch by batch, in bounded memory however large a row group is."""
    with open_input(unit.shard.uri, settings.storage, readahead=_PIECE // 16) as file:
        metadata = pq.read_metadata(file)
        chunks = [
            chunk
            for number in unit.row_groups
            for chunk in map(metadata.row_group(number).column, range(metadata.num_columns))
            if is_inside(chunk.path_in_schema, columns)
        ]
        stored = sum(chunk.total_compressed_size for chunk in chunks)
        unpacked = sum(chunk.total_uncompressed_size for chunk in chunks)
        rows = sum(metadata.row_group(number).num_rows for number in unit.row_groups)
        whole = stored <= _READ_AT_ONCE
        reader = pq.ParquetFile(
            file,
            metadata=metadata,
            pre_buffer=whole,
            buffer_size=0 if whole else _PIECE,
            page_checksum_verification=True,  # where the writer has left checksums
        )
        yield from reader.iter_batches(
            batch_size=max(1, min(_ROWS_PER_READ, rows * _BATCH_BYTES // max(1, unpacked))),
            row_groups=list(unit.row_groups),
            columns=columns,
        )


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


def _finish(collected: _Collected, columns: Columns, shard: str) -> Rows:
    """Reject the rows that cannot be embedded and lay the others out in columns."""
    wanted_id = int if pa.types.is_integer(columns.id_type) else str
    rejects = collected.rejects
    carry = pa.table(
        {name: pa.chunked_array(_arrays(collected.carry[name], kind), kind) for name, kind in columns.carry.items()}
    )
    undecodable = {row: name for name in columns.carry for row in _undecodable_rows(carry.column(name))}
    keep = []
    for number, (id_, text) in enumerate(zip(collected.ids, collected.texts, strict=True)):
        problem = _problem(id_, text, wanted_id)
        if problem is None and number in undecodable:
            problem = "bad_column", f"{undecodable[number]} holds bytes that are not UTF-8"
        if problem:
            rejects.append(Reject(id_, collected.positions[number], *problem))
        else:
            keep.append(number)
    rejects.sort(key=lambda reject: reject.position)
    texts = [str(collected.texts[i]) for i in keep]
    content_hash = hash_texts(texts)
    carry = carry.take(pa.array(keep, pa.int64())) if columns.carry else carry
    return Rows(
        read=len(keep) + len(rejects),
        shards=pa.repeat(pa.scalar(shard), len(keep)).dictionary_encode(),
        positions=pa.array([collected.positions[i] for i in keep], pa.int64()),
        ids=pa.array([collected.ids[i] for i in keep], columns.id_type),
        texts=texts,
        content_hash=content_hash,
        row_hash=hash_rows(content_hash, carry),
        carry=carry,
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
    if id_ == "":  # how a CSV spells null
        return "null_id", "the id is empty"
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
    """What is wrong with a string that JSON can spell and UTF-8 cannot, or that a CSV holds in no valid UTF-8."""
    try:
        str(value).encode()
    except UnicodeEncodeError as error:
        return f"not valid Unicode at character {error.start}: a lone surrogate, or bytes that are not UTF-8"
    return None


def rejects_table(rejects: Sequence[Reject], shard: str) -> pa.Table:
    """Rejects as the columns of `schema.REJECTS_SCHEMA`. shard: of those that do not say theirs."""
    ids = [
        None if r.id is None or isinstance(r.id, _Undecodable) else str(r.id).encode("utf-8", "replace").decode()
        for r in rejects
    ]
    return pa.table(
        {
            names.ID: ids,
            "shard": [r.shard or shard for r in rejects],
            "position": [r.position for r in rejects],
            "reason": [r.reason for r in rejects],
            "message": [r.message for r in rejects],
        },
        schema=names.REJECTS_SCHEMA,
    )
