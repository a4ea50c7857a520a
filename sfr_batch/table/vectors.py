"""Ids and vectors of live rows as NumPy has them: an array and a matrix. Knows scans, but not where they come from."""

from collections.abc import Iterable
from typing import Any, Literal, NamedTuple

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from sfr_batch.errors import ConfigError, counted
from sfr_batch.format import names
from sfr_batch.storage.executor import Executor
from sfr_batch.storage.memory import free_memory
from sfr_batch.table.scan import Scan

VectorType = Literal["float32", "stored"]
_ID_BYTES = 100
"""Of a text as an object of Python, with the pointer to it; of a short one."""


class Vectors(NamedTuple):
    """``ids, matrix = table.to_numpy()``: row n of the matrix is the vector of the n-th id."""

    ids: NDArray[Any]
    """[n] texts as objects, or int64."""
    matrix: NDArray[np.floating[Any]]
    """[n, d] unit vectors, in one piece and writable."""


def read_vectors(scan: Scan, dtype: VectorType, executor: Executor | None = None) -> Vectors:
    """All rows of the scan. In memory are the result and a few data files at a time.

    dtype: float32, or as the table stores them. executor: see `Scan.tables`. Raises ConfigError before anything is read
    if the vectors do not fit into the free memory; with a filter, as soon as it has found too many.
    """
    kind = _numpy_type(scan.table_schema, dtype)
    width = kind.itemsize * _length(scan.table_schema) + _ID_BYTES
    free = free_memory()
    if not scan.filtered:
        _check(scan, scan.live, width, free, kind)
    pieces, rows = [], 0
    for piece in scan.select([names.ID, names.EMBEDDING]).tables(executor):
        rows += piece.num_rows
        _check(scan, rows, width, free, kind)
        pieces.append(piece)
    return gather(pieces, scan.table_schema, dtype)


def gather(pieces: Iterable[pa.Table], schema: pa.Schema, dtype: VectorType) -> Vectors:
    """Ids and vectors of tables with both. schema: of the whole table. A list of tables is used up, to free them."""
    waiting = list(pieces)[::-1]
    if isinstance(pieces, list):
        pieces.clear()
    rows = sum(piece.num_rows for piece in waiting)
    whole = schema.field(names.ID).type in (pa.int64(), pa.int32())
    ids = np.empty(rows, np.int64 if whole else object)
    matrix = np.empty((rows, _length(schema)), _numpy_type(schema, dtype))
    start = 0
    while waiting:
        piece = waiting.pop().combine_chunks()
        end = start + piece.num_rows
        ids[start:end] = piece.column(names.ID).to_numpy()
        for batch in piece.select([names.EMBEDDING]).to_batches():
            numbers = batch.column(0).flatten().to_numpy(zero_copy_only=False)
            matrix[start : start + len(batch)] = numbers.reshape(len(batch), -1)
        start = end
    return Vectors(ids, matrix)


def _length(schema: pa.Schema) -> int:
    return int(schema.field(names.EMBEDDING).type.list_size)


def _numpy_type(schema: pa.Schema, dtype: VectorType) -> np.dtype[Any]:
    stored: np.dtype[Any] = np.dtype(schema.field(names.EMBEDDING).type.value_type.to_pandas_dtype())
    if dtype == "stored":
        return stored
    try:
        if np.dtype(dtype) == np.float32:
            return np.dtype(np.float32)
    except TypeError:
        pass
    raise ConfigError(f"dtype is {dtype!r}. Choose 'float32', or 'stored' for that of the table, {stored}.")


def _check(scan: Scan, rows: int, width: int, free: int, kind: np.dtype[Any]) -> None:
    if rows * width <= free:
        return
    at_least = "at least " if scan.filtered else ""
    half = "take them as they are stored (dtype='stored'), " * (_numpy_type(scan.table_schema, "stored") != kind)
    raise ConfigError(
        f"{scan.store.root}: {at_least}{counted(rows, 'vector')} of {_length(scan.table_schema):,} numbers as {kind} "
        f"take {rows * width / 1e9:,.1f} GB, and {free / 1e9:,.1f} GB of memory are free. Choose fewer rows (where=, "
        f"ids=, or sample(n).to_numpy()), {half}or go through them piece by piece: batches(['id', 'embedding'])."
    )
