"""Reads a read unit: a range of a shard, or a pack of whole shards, decoded once and cut into splits.

Knows formats and storage; what becomes of a row is up to `rows`. Knows no table, no model and no Ray.
"""

import io
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from typing import IO, Any, Generic, Protocol, TypeVar

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from sfr_batch.config.settings import CorpusSettings
from sfr_batch.corpus.columns import Columns, resolve_columns
from sfr_batch.corpus.csv_dialect import dialect_of, used_columns
from sfr_batch.corpus.csv_records import CsvReader
from sfr_batch.corpus.decompression import decompressed
from sfr_batch.corpus.deleted_rows import deleted_rows
from sfr_batch.corpus.file_formats import CSV, PARQUET
from sfr_batch.corpus.filter_rows import FilterCollector, FilterRows
from sfr_batch.corpus.id_rows import IdCollector, IdRows
from sfr_batch.corpus.int96 import arrow_schema
from sfr_batch.corpus.json_values import needs_exact_numbers
from sfr_batch.corpus.partitions import PathColumns
from sfr_batch.corpus.records import Parsed, lines, parser
from sfr_batch.corpus.row_groups import READ_AT_ONCE, Positions, batches_at, batches_of, chunks_of, record_batches
from sfr_batch.corpus.rows import RowCollector, Rows
from sfr_batch.corpus.shards import Shard, settings_for
from sfr_batch.corpus.splits import Chosen, ReadUnit, Split
from sfr_batch.corpus.survey import ShardStatistics, survey_shards
from sfr_batch.corpus.text_template import TextTemplate
from sfr_batch.corpus.unchanged import check_unchanged, was_deleted, was_replaced
from sfr_batch.errors import CorpusError, ObjectNotFound, counted
from sfr_batch.format import names
from sfr_batch.format.records import PACKED
from sfr_batch.storage.inputs import open_input, read_version
from sfr_batch.storage.locations import is_s3
from sfr_batch.storage.parallel import in_parallel

_SHARDS_AT_ONCE = 32
"""Shards of a pack that are fetched at a time on S3."""
T = TypeVar("T")
T_co = TypeVar("T_co", covariant=True)


class _Collector(Protocol, Generic[T_co]):
    """Takes in the rows of one split as they are read."""

    def add_batch(self, batch: pa.RecordBatch, positions: Sequence[int]) -> None: ...

    def add_record(self, position: int, record: Parsed) -> None: ...

    def finish(self) -> T_co: ...


def read_unit(unit: ReadUnit, settings: CorpusSettings, columns: Columns) -> Iterator[tuple[Split, Rows]]:
    """Decode a read unit once and yield its splits with their rows, in order.

    Raises CorpusError if the shard changed since it was listed, before or while it was read, or cannot be decoded.
    """
    if unit.whole:
        yield from _PackReader(unit, settings, columns).splits()
        return
    if unit.chosen:
        yield from _read_chosen(unit, settings, columns)
        return
    own = settings_for(unit.shard, settings)
    make = partial(RowCollector, unit.shard.uri, own, columns)
    yield from _collect(_Reader(unit, own, columns, TextTemplate(own.text).columns, make), settings)


def read_ids(unit: ReadUnit, settings: CorpusSettings, columns: Columns) -> Iterator[IdRows]:
    """The ids of the rows of a read unit, and the column that ``columns`` carries, if any: it carries at most one.

    Of Parquet, nothing else is read. Raises as `read_unit`.
    """
    own = settings_for(unit.shard, settings)
    make = partial(IdCollector, unit.shard.uri, own, columns)
    return (rows for _, rows in _collect(_Reader(unit, own, columns, (), make), settings))


def read_for_filter(unit: ReadUnit, settings: CorpusSettings, columns: Columns, *, ids: bool) -> Iterator[FilterRows]:
    """What a filter of the rows of a unit of Parquet is decided on; nothing else is read.

    columns: they carry what the filter needs; ids: whether it needs the id, too. Raises as `read_unit`.
    """
    own = settings_for(unit.shard, settings)
    make = partial(FilterCollector, unit.shard.uri, own, columns, ids=ids)
    read = own if ids else own.model_copy(update={"id": None})
    return (rows for _, rows in _collect(_Reader(unit, read, columns, (), make), settings))


def read_positions(unit: ReadUnit, positions: Positions, settings: CorpusSettings, columns: Columns) -> Iterator[Rows]:
    """The rows of a unit at these positions, split by split. Raises as `read_unit`.

    Of Parquet, only row groups that have some of them are read; those that cannot be embedded are rejects. Of other
    formats all rows are read, and rejects are not among the result.
    """
    if unit.shard.format == PARQUET:
        own = settings_for(unit.shard, settings)
        make = partial(RowCollector, unit.shard.uri, own, columns)
        reader = _Reader(unit, own, columns, TextTemplate(own.text).columns, make, positions)
        yield from (rows for _, rows in _collect(reader, settings))
        return
    for _, rows in read_unit(unit, settings, columns):
        there = rows.positions.to_numpy()
        yield rows.take(pa.array(np.flatnonzero(np.isin(there, positions))))
        if len(there) and there[-1] >= positions[-1]:
            return


def _collect(reader: "_Reader[T]", settings: CorpusSettings) -> Iterator[tuple[Split, T]]:
    """The splits of a unit, each with what its collector has made of its rows."""
    unit = reader.unit
    seen = check_unchanged(unit.shard, settings)
    try:
        for split, collector in reader.splits():
            rows = collector.finish()
            check_unchanged(unit.shard, settings, seen)
            yield split, rows
    except (pa.ArrowException, OSError) as error:
        check_unchanged(unit.shard, settings, seen)  # a shard that is being replaced looks damaged
        raise _unreadable(unit.shard, error) from error


def _read_chosen(unit: ReadUnit, settings: CorpusSettings, columns: Columns) -> Iterator[tuple[Split, Rows]]:
    """Packed splits with their rows, of which each is yielded when it has them all."""
    splits = iter(unit.splits)
    split = next(splits)
    parts: list[Rows] = []  # of the split
    missing = split.rows
    for chosen in unit.chosen:
        read = _read_at if chosen.by_position else _read_numbered
        found = list(read(chosen, settings, columns))
        if sum(len(rows.texts) for rows in found) != len(chosen.rows):
            raise CorpusError(
                f"{chosen.unit.shard.uri} no longer contains the rows it had when the run was planned. "
                "Run the command again."
            )
        rows, first = Rows.concat(found), 0
        while first < len(rows.texts):
            some = rows.between(first, first + missing)
            parts.append(some)
            first, missing = first + len(some.texts), missing - len(some.texts)
            if not missing:
                yield split, Rows.concat(parts)
                split, parts = next(splits, split), []
                missing = split.rows


def _read_at(chosen: Chosen, settings: CorpusSettings, columns: Columns) -> Iterator[Rows]:
    return read_positions(chosen.unit, chosen.rows.astype(np.int64, copy=False), settings, columns)


def _read_numbered(chosen: Chosen, settings: CorpusSettings, columns: Columns) -> Iterator[Rows]:
    first = 0
    for _, rows in read_unit(chosen.unit, settings, columns):
        a, b = np.searchsorted(chosen.rows, (first, first + len(rows.texts)))
        yield rows.take(pa.array(chosen.rows[a:b] - first))
        first += len(rows.texts)
        if first > chosen.rows[-1]:
            return


def _unreadable(shard: Shard, error: Exception) -> CorpusError:
    why = " ".join(str(error).split()).rstrip(" .")
    return CorpusError(f"{shard.uri} cannot be read: {why}. If it is damaged, replace it or remove it from the corpus.")


class _Reader(Generic[T]):
    """Reads one unit. Each public method yields splits, each with a collector that has all rows of the split."""

    def __init__(
        self,
        unit: ReadUnit,
        settings: CorpusSettings,
        columns: Columns,
        texts: Sequence[str],
        collector: Callable[[], _Collector[T]],
        positions: Positions | None = None,
    ) -> None:
        """texts: the columns of the text. collector: makes one for a split. positions: of the rows to read, of Parquet
        alone; None: all."""
        self.unit = unit
        self._shard = unit.shard
        self._settings = settings
        self._columns = columns
        self._texts = texts
        self._collector = collector
        self._positions = positions
        self._exact_numbers = needs_exact_numbers(list(columns.types.values()))
        types = dict(columns.carry.values())
        of_path = unit.shard.columns_of_path(settings)
        used = {name: value for name, value in of_path.items() if name in types or name in texts}
        self._of_path = PathColumns(unit.shard.uri, used, types, unit.shard.above) if used else None

    @property
    def wanted(self) -> list[str]:
        """The columns of Parquet that are read."""
        wanted = [*self._texts, *(column.path for column in self._columns.carry.values())]
        wanted += [self._settings.id] if self._settings.id is not None else []
        return list(dict.fromkeys(wanted))

    def splits(self) -> Iterator[tuple[Split, _Collector[T]]]:
        """As the format is read."""
        if self.unit.stream:
            return self.stream()
        if self._shard.format != PARQUET:
            return self.lines()
        return self.parquet() if self._positions is None else self.parquet_at(self._positions)

    def parquet(self) -> Iterator[tuple[Split, _Collector[T]]]:
        splits = iter(self.unit.splits)
        split, collector = next(splits), self._collector()
        row = self.unit.first_row
        deleted = deleted_rows(self._shard, self._settings)
        for batch in record_batches(self.unit, self.wanted, self._settings):
            batch = self.filled_batch(batch)
            end = row + batch.num_rows
            while row < end:
                if row < split.start:  # of a split that is committed already
                    row = min(end, split.start)
                    continue
                take = min(end, split.end) - row
                positions = np.arange(row, row + take)
                live = np.isin(positions, deleted[slice(*np.searchsorted(deleted, (row, row + take)))], invert=True)
                some = batch.slice(batch.num_rows - (end - row), take)
                collector.add_batch(some if live.all() else some.filter(pa.array(live)), positions[live].tolist())
                row += take
                if row == split.end:
                    yield split, collector
                    following = next(splits, None)
                    if following is None:
                        return
                    split, collector = following, self._collector()
        raise self._ends_early(row, split)

    def parquet_at(self, positions: Positions) -> Iterator[tuple[Split, _Collector[T]]]:
        """Rows at these positions, of splits that have some."""
        batches = batches_at(self.unit, positions, self.wanted, self._settings)
        batch, first = pa.record_batch({}), 0
        ends = np.searchsorted(positions, [split.end for split in self.unit.splits]).tolist()
        for split, end in zip(self.unit.splits, ends, strict=True):
            if first == end:
                continue
            collector = self._collector()
            while first < end:
                if not batch.num_rows:
                    following = next(batches, None)
                    if following is None:
                        raise self._ends_early(int(positions[first]), split)
                    batch = following
                some = batch.slice(0, end - first)
                its = positions[first : first + some.num_rows].tolist()
                collector.add_batch(self.filled_batch(some), its)
                batch, first = batch.slice(some.num_rows), first + some.num_rows
            yield split, collector

    def _ends_early(self, row: int, split: Split) -> CorpusError:
        return CorpusError(
            f"{self._shard.uri} ends at row {row}, but its metadata declares at least "
            f"{counted(split.end, 'row')}. Replace it, or remove it from the corpus."
        )

    def lines(self) -> Iterator[tuple[Split, _Collector[T]]]:
        parse = parser(self._shard.format, exact_numbers=self._exact_numbers)
        for split in self.unit.splits:
            collector = self._collector()
            with open_input(self._shard.uri, self._settings.storage) as file:
                for position, line in lines(file, self._shard.uri, split.start, split.end, self._settings.encoding):
                    collector.add_record(position, self.filled(parse(line)))
            yield split, collector

    def stream(self) -> Iterator[tuple[Split, _Collector[T]]]:
        stream = self.unit.stream
        assert stream is not None
        with (
            open_input(self._shard.uri, self._settings.storage) as file,
            decompressed(file, self._shard.compression, self._shard.uri) as plain,
        ):
            found, parse = self.records(plain)
            done = frozenset(stream.done)
            number = count = size = start = position = 0
            collector = self._collector()
            for position, length, record in found:
                if count == stream.max_rows or (count and size + length > stream.max_bytes):
                    if number not in done:
                        yield self._part(stream.split_id(number, last=False), start, position, count, size), collector
                    number, count, size, collector = number + 1, 0, 0, self._collector()
                if count == 0:
                    start = position
                if number not in done:
                    collector.add_record(position, self.filled(parse(record)))
                count, size = count + 1, size + length
            if number not in done:
                yield self._part(stream.split_id(number, last=True), start, position + 1, count, size), collector

    def records(self, file: IO[bytes]) -> tuple[Iterator[tuple[int, int, Any]], Callable[[Any], Parsed]]:
        """The records of a stream from its beginning, as (position, size, record), and the parser of a record.

        position: byte offset of a line, number of a CSV record; size: bytes of a line, characters of a CSV record.
        """
        shard = self._shard
        if shard.format != CSV:
            parse = parser(shard.format, exact_numbers=self._exact_numbers)
            found = lines(file, shard.uri, encoding=self._settings.encoding)
            return ((position, len(line), line) for position, line in found), parse
        reader = CsvReader(file, shard.uri, dialect_of(shard, self._settings))
        used = used_columns(shard, self._settings)
        numbered = ((number, sum(len(field or "") for field in fields), fields) for number, fields in reader)
        return numbered, lambda fields: reader.parse(fields, used)

    def filled_batch(self, batch: pa.RecordBatch) -> pa.RecordBatch:
        return self._of_path.fill_batch(batch) if self._of_path else batch

    def filled(self, record: Parsed) -> Parsed:
        return self._of_path.fill_record(record) if self._of_path and isinstance(record, dict) else record

    def _part(self, split_id: str, start: int, end: int, rows: int, size: int) -> Split:
        return Split(split_id, self._shard.uri, self._shard.version, start, end, rows, size)


class _PackReader:
    """Reads the shards of a pack in order, each whole and by one request, and cuts their rows into splits."""

    def __init__(self, unit: ReadUnit, settings: CorpusSettings, columns: Columns) -> None:
        self._unit, self._settings, self._columns = unit, settings, columns
        self._own = settings_for(unit.whole[0], settings)  # all are of one format
        self._texts = TextTemplate(self._own.text).columns
        self._known: set[pa.Schema] = set()
        """Schemas of Parquet that have all columns."""
        stream = unit.stream
        assert stream is not None
        self._stream = stream
        self._done = frozenset(stream.done)
        self._number = self._rows = self._bytes = 0
        self._collector = RowCollector("", self._own, columns)

    def splits(self) -> Iterator[tuple[Split, Rows]]:
        """The splits that are not done, with their rows. Raises CorpusError."""
        shards = [(place, shard) for place, shard in enumerate(self._unit.whole) if shard.size]
        at_once = _SHARDS_AT_ONCE if is_s3(self._unit.whole[0].uri) else 1  # a disk answers at once
        sizes = [shard.size for _, shard in shards]
        data = in_parallel(lambda numbered: self._read(numbered[1]), shards, at_once, sizes, READ_AT_ONCE)
        for (place, shard), content in zip(shards, data, strict=True):
            self._collector.next_shard(shard.uri, place)
            try:
                yield from self._rows_of(shard, place, content)
            except (pa.ArrowException, OSError) as error:
                raise _unreadable(shard, error) from error
            except CorpusError:
                if not self._survey(shard).empty:
                    raise
        yield from self._end(last=True)

    def _rows_of(self, shard: Shard, place: int, content: bytes) -> Iterator[tuple[Split, Rows]]:
        """Take in the rows of a shard; the splits that they fill."""
        file = io.BytesIO(content)
        reader = _Reader(ReadUnit(shard, (), 0, ()), self._own, self._columns, self._texts, self._none)
        if shard.format == PARQUET:
            for batch, start, length in self._batches(shard, reader, file):
                while batch.num_rows:
                    yield from self._make_room(shard, place, length)
                    fit = max(1, (self._stream.max_bytes - self._bytes) // length)
                    some = batch.slice(0, min(fit, self._stream.max_rows - self._rows))
                    if self._number not in self._done:
                        self._collector.add_batch(some, range(start, start + some.num_rows))
                    self._rows, self._bytes = self._rows + some.num_rows, self._bytes + some.num_rows * length
                    batch, start = batch.slice(some.num_rows), start + some.num_rows
            return
        with decompressed(file, shard.compression, shard.uri) as plain:
            found, parse = reader.records(plain)
            for position, length, record in found:
                yield from self._make_room(shard, place, length)
                if self._number not in self._done:
                    self._collector.add_record(position, reader.filled(parse(record)))
                self._rows, self._bytes = self._rows + 1, self._bytes + length

    def _batches(
        self, shard: Shard, reader: "_Reader[Rows]", file: io.BytesIO
    ) -> Iterator[tuple[pa.RecordBatch, int, int]]:
        """The rows of a Parquet file, each batch with the number of its first row and the bytes of a row: the average
        by the metadata, so that rows are cut in the same way whatever reads them."""
        metadata = pq.read_metadata(file)
        schema = arrow_schema(file, metadata).remove_metadata()
        if metadata.num_rows and schema not in self._known:
            survey = self._check_columns(shard)
            if not (survey.nulls or survey.nans):  # else it may be another file that has values of another type
                self._known.add(schema)
        groups = range(metadata.num_row_groups)
        size = sum(chunk.total_uncompressed_size for chunk in chunks_of(metadata, groups, reader.wanted))
        start, length = 0, max(1, size // max(1, metadata.num_rows))
        for batch in batches_of(file, metadata, ReadUnit(shard, tuple(groups), 0, ()), reader.wanted):
            yield reader.filled_batch(batch), start, length
            start += batch.num_rows

    def _make_room(self, shard: Shard, place: int, length: int) -> Iterator[tuple[Split, Rows]]:
        """End the split if it has no room for a row of so many bytes."""
        if self._rows == self._stream.max_rows or (self._rows and self._bytes + length > self._stream.max_bytes):
            yield from self._end(last=False)
            self._number, self._rows, self._bytes = self._number + 1, 0, 0
            self._collector = RowCollector("", self._own, self._columns)
            self._collector.next_shard(shard.uri, place)

    def _end(self, *, last: bool) -> Iterator[tuple[Split, Rows]]:
        if self._number in self._done:
            return
        rows = self._collector.finish()
        self._check_rejects(rows)
        split_id = self._stream.split_id(self._number, last=last)
        yield Split(split_id, PACKED, PACKED, self._number, self._number + 1, self._rows, self._bytes), rows

    def _none(self) -> RowCollector:
        raise AssertionError("the rows of a pack have one collector")

    def _read(self, shard: Shard) -> bytes:
        try:
            content = read_version(shard.uri, shard.version, self._settings.storage)
        except ObjectNotFound:
            raise was_deleted(shard) from None
        if content is None:
            raise was_replaced(shard)
        return content

    def _check_rejects(self, rows: Rows) -> None:
        """Raises CorpusError if a shard whose rows are all rejected lacks a column, as planning does for others."""
        reasons = rows.rejects.column(names.REASON)
        of_columns = rows.rejects.filter(pc.is_in(reasons, pa.array(names.OF_COLUMNS)))
        suspects = set(of_columns.column(names.SHARD).to_pylist())
        if suspects:
            suspects -= set(rows.shards.dictionary.take(rows.shards.indices.unique()).to_pylist())
        for shard in self._unit.whole if suspects else ():
            if shard.uri in suspects:
                self._check_columns(shard)

    def _check_columns(self, shard: Shard) -> ShardStatistics:
        """Raises CorpusError if a shard lacks a column or has one of a type that does not go with the table's."""
        survey = self._survey(shard)
        paths = [*self._texts, *self._own.carried.values()]
        resolve_columns([survey], self._settings, self._columns, frozenset(paths))
        return survey

    def _survey(self, shard: Shard) -> ShardStatistics:
        return survey_shards([shard], self._settings)[0]
