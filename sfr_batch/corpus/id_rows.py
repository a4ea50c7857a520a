"""The ids of rows, and the one carried column by which rows of one id are ordered: all that says which of them counts.

A row counts by its id, whatever becomes of its text later. Takes rows as `rows` does; knows no files and no table.
"""

import contextlib
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import pyarrow as pa

from sfr_batch.config.settings import CorpusSettings
from sfr_batch.corpus.casting import cast_exactly
from sfr_batch.corpus.column_paths import find_column, find_value
from sfr_batch.corpus.columns import Columns
from sfr_batch.corpus.ids import id_of_record, id_values, numbered_id
from sfr_batch.corpus.json_values import Unfit, exact_value
from sfr_batch.corpus.records import Parsed
from sfr_batch.corpus.rejects import Problem, id_or_text_problem
from sfr_batch.format.hashes import hash_ids
from sfr_batch.format.order_values import comparable_values

_ANY_TEXT = "text"


@dataclass(frozen=True)
class IdRows:
    """The rows of one split that have a usable id."""

    positions: pa.Array
    """[n] int64: as in `names.REJECTS_SCHEMA`."""
    id_hash: pa.Array
    """[n] 16 bytes, see `format.hashes`."""
    order: pa.Array | None
    """[n] values of the column to order by, see `format.order_values`; null where it is not of its type."""


class IdCollector:
    """Takes in the rows of one split as they are read, and makes `IdRows` of them."""

    def __init__(self, shard: str, settings: CorpusSettings, columns: Columns) -> None:
        """shard: its URI. settings: as they hold for this shard. columns: they carry at most one column."""
        self._shard, self._id = shard, settings.id
        self._wanted_id = int if pa.types.is_integer(columns.id_type) else str
        self._order = next(iter(columns.carry.values()), None)
        self._parts: list[IdRows] = []
        self._records: list[tuple[int, Any, Any]] = []

    def add_batch(self, batch: pa.RecordBatch, positions: Sequence[int]) -> None:
        """Take in the rows [n] of a batch; positions: [n] their numbers in the shard."""
        if self._id is None:
            ids = [numbered_id(self._shard, position) for position in positions]
        else:
            ids = id_values(find_column(batch, self._id))
        order = None
        if self._order is not None:
            kind = self._order.type
            order = comparable_values(cast_exactly(find_column(batch, self._order.path), kind).column, kind)
        self._parts.append(self._usable(pa.array(positions, pa.int64()), ids, order))

    def add_record(self, position: int, record: Parsed) -> None:
        """Take in one record; ``position`` as in `names.REJECTS_SCHEMA`."""
        if isinstance(record, Problem):
            return
        id_ = numbered_id(self._shard, position) if self._id is None else id_of_record(record, self._id)
        value = None
        if self._order is not None:
            with contextlib.suppress(Unfit):
                value = exact_value(find_value(record, self._order.path), self._order.type)
        self._records.append((position, id_, value))

    def finish(self) -> IdRows:
        """The rows that were taken in, in order."""
        if self._records:
            positions, ids, values = zip(*self._records, strict=True)
            order = None
            if self._order is not None:
                order = comparable_values(pa.array(values, self._order.type), self._order.type)
            self._parts.append(self._usable(pa.array(positions, pa.int64()), list(ids), order))
            self._records = []
        parts = self._parts or [self._usable(pa.array([], pa.int64()), [], self._nothing())]
        return IdRows(
            positions=pa.concat_arrays([part.positions for part in parts]),
            id_hash=pa.concat_arrays([part.id_hash for part in parts]),
            order=pa.concat_arrays([part.order for part in parts]) if self._order is not None else None,
        )

    def _nothing(self) -> pa.Array | None:
        return None if self._order is None else comparable_values(pa.array([]), self._order.type)

    def _usable(self, positions: pa.Array, ids: list[Any], order: pa.Array | None) -> IdRows:
        """Those of the rows whose id may be one of the table."""
        good = [row for row, id_ in enumerate(ids) if id_or_text_problem(id_, _ANY_TEXT, self._wanted_id) is None]
        id_hash = hash_ids([ids[row] for row in good])
        if len(good) < len(ids):
            chosen = pa.array(good, pa.int64())
            positions, order = positions.take(chosen), None if order is None else order.take(chosen)
        return IdRows(positions, id_hash, order)
