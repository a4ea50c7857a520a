"""What a filter of rows is decided on: ids and carried columns of Parquet, before any text is read.

Takes rows as `rows` does; knows no filter and no files. A row whose id or carried values cannot be used is left out,
for `rows` rejects it, whatever its text is.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow as pa

from sfr_batch.config.settings import CorpusSettings
from sfr_batch.corpus.casting import cast_exactly
from sfr_batch.corpus.column_paths import find_column
from sfr_batch.corpus.columns import Columns
from sfr_batch.corpus.ids import id_values, numbered_id
from sfr_batch.corpus.records import Parsed
from sfr_batch.corpus.rejects import id_or_text_problem, undecodable_rows
from sfr_batch.format import names

_ANY_TEXT = "text"


@dataclass(frozen=True)
class FilterRows:
    """The rows of one split that a filter may select."""

    positions: pa.Array
    """[n] int64: as in `names.REJECTS_SCHEMA`."""
    columns: pa.Table
    """[n] carried columns, by their names in the table and of its types, and the id if it was asked for."""


class FilterCollector:
    """Takes in the rows of one split as they are read, and makes `FilterRows` of them."""

    def __init__(self, shard: str, settings: CorpusSettings, columns: Columns, *, ids: bool) -> None:
        """shard: its URI. settings: as they hold for this shard. columns: those that the filter needs; ids: whether it
        needs the id, too."""
        self._shard, self._id, self._columns, self._ids = shard, settings.id, columns, ids
        self._wanted_id = int if pa.types.is_integer(columns.id_type) else str
        self._parts: list[FilterRows] = []

    def add_batch(self, batch: pa.RecordBatch, positions: Sequence[int]) -> None:
        """Take in the rows [n] of a batch; positions: [n] their numbers in the shard."""
        usable = np.ones(len(positions), bool)
        columns = {}
        for name, (path, kind) in self._columns.carry.items():
            cast = cast_exactly(find_column(batch, path), kind)
            usable[[*cast.bad, *undecodable_rows(name, pa.chunked_array([cast.column]))]] = False
            columns[name] = cast.column
        ids = self._ids_of(batch, positions) if self._ids else []
        if ids:
            usable &= np.array([id_or_text_problem(id_, _ANY_TEXT, self._wanted_id) is None for id_ in ids], bool)
        its = pa.array(np.flatnonzero(usable))
        found = {name: column.take(its) for name, column in columns.items()}
        if self._ids:
            found[names.ID] = pa.array([ids[row] for row in its.to_pylist()], self._columns.id_type)
        self._parts.append(FilterRows(pa.array(positions, pa.int64()).take(its), pa.table(found)))

    def _ids_of(self, batch: pa.RecordBatch, positions: Sequence[int]) -> Sequence[Any]:
        if self._id is None:
            return [numbered_id(self._shard, position) for position in positions]
        return id_values(find_column(batch, self._id))

    def add_record(self, position: int, record: Parsed) -> None:
        """Not for records: who has parsed one has read its text."""
        raise AssertionError(f"{self._shard} is read with its texts")

    def finish(self) -> FilterRows:
        """The rows that were taken in, in order."""
        if not self._parts:
            types = self._columns.types | ({names.ID: self._columns.id_type} if self._ids else {})
            return FilterRows(pa.array([], pa.int64()), pa.schema(list(types.items())).empty_table())
        return FilterRows(
            pa.concat_arrays([part.positions for part in self._parts]),
            pa.concat_tables([part.columns for part in self._parts]),
        )
