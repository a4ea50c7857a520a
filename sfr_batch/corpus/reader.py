"""Reads the rows of a read unit: a range of a Parquet, JSONL, CSV or text shard, decoded once and cut into splits.

Knows formats and storage. It knows no table, no model and no Ray."""

from collections.abc import Iterator
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from sfr_batch.config.settings import CorpusSettings
from sfr_batch.corpus.column_paths import find_column, find_value, is_inside, lost_key
from sfr_batch.corpus.columns import Columns
from sfr_batch.corpus.file_formats import PARQUET, BadRecord, Row, decompressed, json_type, lines, parser, records
from sfr_batch.corpus.read_ahead import Fetched, ranges_of
from sfr_batch.corpus.rejects import Reject, Undecodable, cell_values
from sfr_batch.corpus.rows import CollectedRows, Rows, finish_rows
from sfr_batch.corpus.shards import Shard, delimiter_of, settings_for
from sfr_batch.corpus.splits import ReadUnit, Split
from sfr_batch.corpus.text_template import TextTemplate
from sfr_batch.errors import CorpusError, ObjectNotFound
from sfr_batch.format import names
from sfr_batch.storage.inputs import open_input, stat_input
from sfr_batch.storage.store import is_s3

_ROWS_PER_READ = 4096
_BATCH_BYTES = 32 * 2**20
"""Bytes of columns that a batch of rows holds, about: with long documents it has fewer rows."""
_READ_AT_ONCE = 64 * 2**20
"""Stored bytes of row groups that are fetched in one go, all columns at once; more is read in pieces."""
_PIECE = 4 * 2**20


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
            rows = finish_rows(collected, columns, unit.shard.uri)
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

    def parquet(self) -> Iterator[tuple[Split, CollectedRows]]:
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

    def lines(self) -> Iterator[tuple[Split, CollectedRows]]:
        parse = parser(self._shard.format)
        for split in self._unit.splits:
            collected = self._collected()
            with open_input(self._shard.uri, self._settings.storage) as file:
                for position, line in lines(file, self._shard.uri, split.start, split.end):
                    self._add(collected, position, parse(line))
            yield split, collected

    def stream(self) -> Iterator[tuple[Split, CollectedRows]]:
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

    def _collected(self) -> CollectedRows:
        return CollectedRows(carry={name: [] for name in self._columns.carry})

    def _derived_id(self, position: int) -> str:
        return f"{self._shard.uri}#{position}"

    def _take(self, into: CollectedRows, batch: pa.RecordBatch, row: int) -> None:
        """The rows of a batch, the first of which is ``row`` of the shard."""
        positions = range(row, row + batch.num_rows)
        into.positions.extend(positions)
        if self._settings.id is None:
            into.ids.extend(map(self._derived_id, positions))
        else:
            into.ids.extend(cell_values(find_column(batch, self._settings.id)))
        parts = [cell_values(find_column(batch, name)) for name in self._template.columns]
        for values in zip(*parts, strict=True):
            bad = next((value for value in values if isinstance(value, Undecodable)), None)
            into.texts.append(self._template.render(values) if bad is None else bad)
        for name, column in into.carry.items():
            column.append(find_column(batch, name))

    def _add(self, into: CollectedRows, position: int, row: Row) -> None:
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
                    return reject(id_, names.BAD_COLUMN, f"{name} has {lost!r}, which {kind} has no place for")
            except (pa.ArrowException, ValueError, TypeError, OverflowError) as error:
                return reject(id_, names.BAD_COLUMN, f"{name} is not {kind}: {error}")
        values = [find_value(row, name) for name in self._template.columns]
        for name, value in zip(self._template.columns, values, strict=True):
            number = isinstance(value, int | float) and not isinstance(value, bool)
            if not (value is None or isinstance(value, str) or (number and len(values) > 1)):
                return reject(id_, names.BAD_TEXT, f"{name} is a JSON {json_type(value)}, not a string")
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
        ahead = whole and is_s3(unit.shard.uri)  # a disk answers at once
        # Without threads of Arrow's, as everywhere, see `open_parquet`.
        reader = pq.ParquetFile(
            Fetched(file, unit.shard.uri, ranges_of(chunks), settings.storage) if ahead else file,
            metadata=metadata,
            pre_buffer=False,
            buffer_size=0 if whole else _PIECE,
            page_checksum_verification=True,  # where the writer has left checksums
        )
        yield from reader.iter_batches(
            batch_size=max(1, min(_ROWS_PER_READ, rows * _BATCH_BYTES // max(1, unpacked))),
            row_groups=list(unit.row_groups),
            columns=columns,
            use_threads=False,
        )
