"""A random sample of live rows. Every row is as likely as any other, wherever it lies.

Which rows it takes depends on the snapshot, the filter, the number and the seed alone. It reads the columns that are
asked for, of the data files in which a chosen row lies; with a filter it counts in its columns first. Knows scans, but
not where they come from.
"""

import dataclasses
from collections.abc import Iterator
from dataclasses import dataclass, field

import numpy as np
import pyarrow as pa

from sfr_batch.errors import TableError, counted
from sfr_batch.format import names
from sfr_batch.format.dead_rows import DeadLists, Positions
from sfr_batch.format.notebook import html_table
from sfr_batch.format.on_screen import shown, shown_id
from sfr_batch.table.arguments import whole_number
from sfr_batch.table.filter_parser import parse
from sfr_batch.table.json_values import python_value
from sfr_batch.table.scan import LiveFile, Scan
from sfr_batch.table.tabular import Tabular
from sfr_batch.table.vectors import Vectors, VectorType, gather

_SHOWN = 20
"""Rows that a notebook shows."""
_CELL_WIDTH = 200
"""Characters of a value in it."""


@dataclass(frozen=True, eq=False)
class Sample(Tabular):
    """Some rows of a snapshot, in the order of the table. See `Readers.sample`."""

    table: str
    snapshot: int
    rows: pa.Table = field(repr=False)
    of: int
    """Number of the rows from which they were drawn: all live rows, or those that the filter takes."""

    def __len__(self) -> int:
        return int(self.rows.num_rows)

    def to_arrow(self) -> pa.Table:
        """The rows."""
        return self.rows

    def to_numpy(self, dtype: VectorType = "float32") -> Vectors:
        """Ids and matrix, see `Readers.to_numpy`. Raises TableError if the sample was taken without these columns."""
        missing = [name for name in (names.ID, names.EMBEDDING) if name not in self.rows.column_names]
        if missing:
            raise TableError(
                f"The sample has no column {' and no column '.join(missing)}: it was taken with other columns. Take it "
                "with columns=['id', 'embedding'], or without columns=."
            )
        return gather([self.rows], self.rows.schema, dtype)

    def __repr__(self) -> str:
        what = f"{counted(len(self), 'row')} of {self.of:,}"
        return f"<Sample of {self.table}, snapshot {self.snapshot}: {what}; {', '.join(self.rows.column_names)}>"

    def _repr_html_(self) -> str:
        hashes = (names.CONTENT_HASH, names.ROW_HASH)
        columns = [name for name in self.rows.column_names if name not in hashes]
        first = self.rows.select(columns).slice(0, _SHOWN)
        cells = [[_cell(name, first.column(name).slice(n, 1)) for name in columns] for n in range(first.num_rows)]
        numbers = [n for n, field in enumerate(first.schema) if _is_number(field.type)]
        more = f"; the first {_SHOWN}" if len(self) > _SHOWN else ""
        return html_table(
            cells, head=columns, numbers=numbers, title=f"{counted(len(self), 'row')} of {self.of:,}{more}"
        )


def sample(scan: Scan, n: int, seed: int) -> Sample:
    """``n`` rows of the scan, or all of them if it has no more, in their order. Raises ConfigError if n < 1."""
    n, seed = whole_number("n", n, 1), whole_number("seed", seed, 0)
    counts = np.array(list(_rows_by_file(scan)), dtype=np.int64)
    total = int(counts.sum())
    drawn = np.random.default_rng(seed).choice(total, min(n, total), replace=False, shuffle=False)
    rows = pa.concat_tables([scan.schema.empty_table(), *_taken(scan, counts, np.sort(drawn))])
    return Sample(scan.store.root, scan.snapshot, rows, total)


def _rows_by_file(scan: Scan) -> Iterator[int]:
    """How many rows the scan takes of each of its files."""
    if not scan.filtered:
        return (file.live for file in scan.files)
    looked_at = sorted(parse(scan.where, scan.table_schema).columns) if scan.where else []
    return (rows.num_rows for _, rows in scan.select([*looked_at, names.ID][:1]).by_file())


def _taken(scan: Scan, counts: Positions, wanted: Positions) -> Iterator[pa.Table]:
    """The rows with these numbers, in ascending order, among all that the scan takes."""
    if not len(wanted):
        return
    ends = np.cumsum(counts)
    file_of = np.searchsorted(ends, wanted, side="right")
    hit, firsts = np.unique(file_of, return_index=True)
    within = np.split(wanted - (ends - counts)[file_of], firsts[1:])
    files = [scan.files[number] for number in hit]
    if not scan.filtered:
        lists = scan.lists()
        files = [_only(file, rows, lists) for file, rows in zip(files, within, strict=True)]
        yield from dataclasses.replace(scan, files=files).tables()
        return
    read = dataclasses.replace(scan, files=files).by_file()
    yield from (table.take(pa.array(rows)) for (_, table), rows in zip(read, within, strict=True))


def _only(file: LiveFile, rows: Positions, lists: DeadLists) -> LiveFile:
    """The file with those of its live rows that have these numbers."""
    chosen = np.zeros(file.rows, dtype=bool)
    chosen[np.flatnonzero(file.mask(lists))[rows]] = True
    return dataclasses.replace(file, only=np.packbits(chosen))


def _cell(name: str, value: pa.ChunkedArray) -> str:
    kind = value.type
    if pa.types.is_fixed_size_list(kind) and pa.types.is_floating(kind.value_type):
        return f"{kind.list_size:,} x {kind.value_type}"
    found = python_value(value.combine_chunks())
    return shown_id(found) if name == names.ID else shown(found, _CELL_WIDTH)


def _is_number(kind: pa.DataType) -> bool:
    return bool(pa.types.is_integer(kind) or pa.types.is_floating(kind) or pa.types.is_decimal(kind))
