"""A planned read of live rows: data files, their dead rows, columns and filters.

A scan is a value: it can be cut into parts, and another process can read a part. Only needed columns are read. With a
filter, the filter's columns of a row group are read first, and the other columns, such as the vectors, only if a row
matches. Statistics in the footer can avoid even the first read. Knows no snapshots.
"""

import bisect
import contextlib
import dataclasses
import math
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import IO, Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
from numpy.typing import NDArray

from sfr_batch.errors import ConfigError, TableError, counted
from sfr_batch.format import names
from sfr_batch.format.dead_rows import Dead, DeadLists
from sfr_batch.format.expired import expiry_explained
from sfr_batch.format.layout import Layout, carried_columns
from sfr_batch.format.parquet import check_data_file, damage_explained, gather_columns, open_parquet
from sfr_batch.format.widening import holds
from sfr_batch.storage.executor import Executor, check_reach
from sfr_batch.storage.parallel import in_parallel
from sfr_batch.storage.store import Store
from sfr_batch.table import filter_parser, filters
from sfr_batch.table.arguments import listed

_FILES_AHEAD = 2
"""Number of data files that a scan reads ahead. It bounds the memory: a file may have 256 MiB of vectors."""
_PART_BYTES = 2**28
"""Size of the data files that a task reads, about."""
_FILTERED_AHEAD = 8
"""The same with a filter: most files then need only a column or two, and waiting for the store takes the time."""


@dataclass(frozen=True, slots=True, eq=False)
class LiveFile:
    """A data file with live rows. rows: number of all its rows; dead: where the dead ones are; covers: of its receipt.

    only: the rows to read, one bool for each of ``rows`` as `np.packbits` packs them; default: all live rows.
    """

    split_id: str
    rows: int
    bytes: int
    dead: Dead | None
    covers: str = ""
    only: NDArray[np.uint8] | None = None

    def mask(self, lists: DeadLists) -> NDArray[np.bool_]:
        """[rows] which of its rows are to be read. lists: of its snapshot, see `Scan.lists`."""
        if self.only is not None:
            return np.unpackbits(self.only, count=self.rows).astype(bool)
        live = np.ones(self.rows, dtype=bool)
        if self.dead is not None:
            live[lists.positions(self.dead)] = False
        return live

    @property
    def live(self) -> int:
        """Number of rows to be read."""
        if self.only is not None:
            return int(np.unpackbits(self.only, count=self.rows).sum())
        return self.rows - (0 if self.dead is None else len(self.dead))


@dataclass(frozen=True, eq=False, repr=False)
class Scan:
    """What is to be read. `Snapshot.scan` makes it: all live rows, then `restrict`."""

    store: Store
    layout: Layout
    snapshot: int
    fingerprint: str
    files: Sequence[LiveFile]
    """Data files with live rows, in the order of the corpus."""
    deletes: str | None
    """Key of the side file with the dead rows of all data files, in a snapshot of an earlier format."""
    columns: Sequence[str]
    where: str | None = None
    ids: pa.Array | None = None

    def __repr__(self) -> str:
        rows = f"{'some of ' * self.filtered}{counted(self.live, 'row')} in {counted(len(self.files), 'file')}"
        return f"<Scan {self.store.root}, snapshot {self.snapshot}: {rows}, {', '.join(self.columns)}>"

    @property
    def table_schema(self) -> pa.Schema:
        """All columns of the snapshot."""
        return self.layout.schema

    @property
    def schema(self) -> pa.Schema:
        """Schema of the rows that are read."""
        return pa.schema([self.table_schema.field(name) for name in self.columns])

    @property
    def filtered(self) -> bool:
        """Whether it may read fewer than all live rows."""
        return self.where is not None or self.ids is not None

    def lists(self) -> DeadLists:
        """A reader of the dead rows of its files."""
        return DeadLists(self.store, self.snapshot)

    @property
    def live(self) -> int:
        """Number of live rows of its files. Without a filter it reads so many rows."""
        return sum(file.live for file in self.files)

    def restrict(
        self, columns: Sequence[str] | None = None, where: str | None = None, ids: Iterable[Any] | None = None
    ) -> "Scan":
        """Those live rows of the same files that ``where`` (see `table.filters`) takes and whose id is in ``ids``.

        Both replace those of this scan, also where they are None.

        columns: default as before. Raises TableError for an unknown column, ConfigError for a wrong filter.
        """
        if not isinstance(where, str | None):
            raise ConfigError(f"where is {where!r}. Give a text, such as \"package = 'numpy' and n_tokens > 20\".")
        if where is not None:
            filter_parser.parse(where, self.table_schema)
        wanted = None if ids is None else _array_of_ids(ids, self.table_schema.field(names.ID).type)
        restricted = dataclasses.replace(self, where=where, ids=wanted)
        return restricted if columns is None else restricted.select(columns)

    def select(self, columns: Sequence[str]) -> "Scan":
        """The same rows with these columns, each once. Raises TableError for an unknown column."""
        wanted = listed("columns", columns)
        if not wanted:
            raise ConfigError("columns is empty: name at least one column, or omit columns to get all of them.")
        for name in wanted:
            if name not in self.table_schema.names:
                known = ", ".join(self.table_schema.names)
                raise TableError(f"{self.store.root} has no column {name!r}. Columns: {known}.")
        return dataclasses.replace(self, columns=wanted)

    def lost_columns(self) -> dict[str, pa.DataType]:
        """Columns in which rows are null although their data files have values, of a type that the snapshot's does not
        hold: this type by name. Opens a file of each other layout."""
        kinds = self.layout.carried
        lost: dict[str, pa.DataType] = {}
        for file in {file.covers: file for file in self.files if file.covers != self.layout.covers}.values():
            there = self._carried_in(file) if file.covers else self.layout.of_card
            other = [name for name in there if name in kinds and not self.layout.has_type(name, file.covers)]
            lost |= {name: there[name] for name in other if not holds(kinds[name], there[name])}
        return lost

    def _carried_in(self, file: LiveFile) -> dict[str, pa.DataType]:
        key = names.data_key(file.split_id)
        with damage_explained(self.store, key), self.store.open(key, file.bytes) as data:
            return carried_columns(open_parquet(data).schema_arrow)

    def batches(self) -> Iterator[pa.RecordBatch]:
        """The rows, as one or more record batches a data file. Memory is bounded by a few data files."""
        return (batch for table in self.tables() for batch in table.to_batches())

    def tables(self, executor: Executor | None = None) -> Iterator[pa.Table]:
        """The rows, as one table for each data file that has some.

        executor: its tasks read several files each; the rows then come as a table of each task, and wait for it where
        the executor keeps results. Raises ConfigError if the tasks would not see the table.
        """
        if executor is None:
            return (table for _, table in self.by_file() if table.num_rows)
        check_reach(executor, self.store.root)
        shared = executor.share(dataclasses.replace(self, files=[]))
        parts = self.parts(math.ceil(sum(file.bytes for file in self.files) / _PART_BYTES))
        found = executor.get([executor.submit(_read_part, shared, part.files)[0] for part in parts])
        # Copied, because Ray lends the memory in which it keeps results.
        return (pa.ipc.open_stream(rows.to_pybytes()).read_all() for rows in found)

    def by_file(self) -> Iterator[tuple[LiveFile, pa.Table]]:
        """Each file with its rows, even if these are none."""
        ahead = _FILTERED_AHEAD if self.filtered else _FILES_AHEAD
        return zip(self.files, in_parallel(_Reader(self).read, self.files, ahead), strict=True)

    def to_arrow(self, executor: Executor | None = None) -> pa.Table:
        """All rows, in memory. executor: runs the tasks that read them; default: this process does."""
        batches = (batch for table in self.tables(executor) for batch in table.to_batches())
        return pa.Table.from_batches(batches, schema=self.schema)

    def parts(self, count: int) -> "list[Scan]":
        """At most ``count`` scans of whole files, of about equal size. In order they give the rows of this scan."""
        sizes = np.array([file.bytes for file in self.files], dtype=np.float64)
        middles = np.cumsum(sizes) - sizes / 2
        part_of = np.floor(middles / max(1.0, sizes.sum()) * count)
        return [
            dataclasses.replace(self, files=[self.files[n] for n in np.flatnonzero(part_of == part)])
            for part in np.unique(part_of)
        ]


def _read_part(scan: Scan, files: Sequence[LiveFile]) -> pa.Buffer:
    """The rows of files as an Arrow stream: pickle forgets names and nullability inside of lists."""
    sink = pa.BufferOutputStream()
    with pa.ipc.new_stream(sink, scan.schema) as writer:
        for table in dataclasses.replace(scan, files=files).tables():
            writer.write_table(table)
    return sink.getvalue()


def key_columns(table_schema: pa.Schema) -> list[str]:
    """The columns that identify a row: the id, and the chunk number if documents are cut into chunks."""
    return [name for name in (names.ID, names.CHUNK) if name in table_schema.names]


def _array_of_ids(ids: Iterable[Any], kind: pa.DataType) -> pa.Array:
    if isinstance(ids, str | bytes) or not isinstance(ids, Iterable):
        raise ConfigError(f"ids must be a list: [{ids!r}] instead of {ids!r}.")
    listed = [value.as_py() if isinstance(value, pa.Scalar) else value for value in ids]
    if None in listed:
        raise ConfigError("ids must not contain null: no row has a null id.")
    try:
        found = pa.array(listed, kind)
    except (pa.ArrowException, OverflowError, UnicodeEncodeError) as error:
        raise ConfigError(f"ids must be of type {kind}, the type of the table's ids: {error}") from None
    return found.unique().sort()


class _Reader:
    """Reads the files of one scan."""

    def __init__(self, scan: Scan) -> None:
        self._scan, self._lists = scan, scan.lists()
        self._where = None if scan.where is None else filter_parser.parse(scan.where, scan.table_schema)
        self._ids = scan.ids
        self._sorted_ids = [] if scan.ids is None else scan.ids.to_pylist()
        looked_at = [*(self._where.columns if self._where else ()), *([names.ID] if scan.ids is not None else ())]
        self._looked_at = list(dict.fromkeys(looked_at))
        self._others = [name for name in scan.columns if name not in self._looked_at]

    def read(self, file: LiveFile) -> pa.Table:
        """The live rows of a file that match."""
        with expiry_explained(self._scan.store, self._scan.snapshot):
            return self._read(file)

    def _read(self, file: LiveFile) -> pa.Table:
        scan, key = self._scan, names.data_key(file.split_id)
        live = file.mask(self._lists)
        with damage_explained(scan.store, key), scan.store.open(key, file.bytes) as stream:
            parquet = open_parquet(stream)
            check_data_file(scan.store, key, parquet, file.rows, scan.fingerprint)
            if scan.filtered:
                tables = [scan.schema.empty_table(), *self._taken(stream, parquet, live)]
                return pa.concat_tables(tables)
            gather_columns(stream, parquet, scan.layout.stored(parquet, scan.columns))
            table = scan.layout.read(parquet, scan.columns)
        return table if live.all() else table.filter(pa.array(live))

    def _taken(self, stream: IO[bytes], parquet: pq.ParquetFile, live: NDArray[np.bool_]) -> Iterator[pa.Table]:
        """Matching rows, as one table for each row group that has some. live: [rows of the file]."""
        bounds_of = bounds_by_group(parquet, self._looked_at, self._scan.table_schema)
        start = 0
        for group in range(parquet.num_row_groups):
            taken = live[start : start + parquet.metadata.row_group(group).num_rows]
            start += len(taken)
            if not taken.any() or not self._may_match(bounds_of(group)):
                continue
            looked_at = self._columns(stream, parquet, group, self._looked_at)
            if self._where:
                taken = taken & self._where.mask(looked_at).to_numpy()
            if self._ids is not None:
                taken = taken & pc.is_in(looked_at.column(names.ID), self._ids).to_numpy()
            if not taken.any():
                continue
            read = {name: looked_at.column(name) for name in self._looked_at}
            if self._others:
                others = self._columns(stream, parquet, group, self._others)
                read |= {name: others.column(name) for name in self._others}
            rows = pa.table([read[name] for name in self._scan.columns], schema=self._scan.schema)
            yield rows.filter(pa.array(taken))

    def _columns(self, stream: IO[bytes], parquet: pq.ParquetFile, group: int, columns: list[str]) -> pa.Table:
        gather_columns(stream, parquet, self._scan.layout.stored(parquet, columns), group)
        return self._scan.layout.read(parquet, columns, group)

    def _may_match(self, bounds: filters.Bounds) -> bool:
        if self._where and not self._where.may_match(bounds):
            return False
        if self._ids is None or names.ID not in bounds:
            return True
        least, greatest = bounds[names.ID]
        at = bisect.bisect_left(self._sorted_ids, least)
        return at < len(self._sorted_ids) and self._sorted_ids[at] <= greatest


def bounds_by_group(
    parquet: pq.ParquetFile, columns: Sequence[str], wanted: pa.Schema
) -> Callable[[int], dict[str, tuple[Any, Any]]]:
    """A function from a row group's number to the bounds of its columns of simple types, from the statistics.

    wanted: the columns of the snapshot. Of a column that the file lacks or has in another type, there are none. The
    function raises ArrowInvalid if the footer contradicts itself.
    """
    schema = parquet.schema_arrow
    same = [name for name in columns if name in schema.names and schema.field(name).type == wanted.field(name).type]
    simple = {
        name
        for name in same
        if pa.types.is_string(schema.field(name).type)
        or pa.types.is_integer(schema.field(name).type)
        or pa.types.is_float32(schema.field(name).type)  # bounds of float16 are bytes without an order
        or pa.types.is_float64(schema.field(name).type)
        or pa.types.is_date(schema.field(name).type)
    }
    places = {
        parquet.schema.column(n).path: n for n in range(len(parquet.schema)) if parquet.schema.column(n).path in simple
    }

    def of(group: int) -> dict[str, tuple[Any, Any]]:
        found = {}
        for name, place in places.items():
            chunk = parquet.metadata.row_group(group).column(place)
            if chunk.physical_type != parquet.schema.column(place).physical_type:  # Arrow would end the process
                raise pa.ArrowInvalid(f"the footer gives two types for the column {name}")
            statistics = chunk.statistics
            if statistics is not None and statistics.has_min_max:
                with contextlib.suppress(OverflowError, ValueError):  # a date beyond the years of Python
                    found[name] = (statistics.min, statistics.max)
        return found

    return of
