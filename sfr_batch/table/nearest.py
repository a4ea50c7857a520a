"""Exact top-k: each query against each vector, block by block, in memory that does not grow with the table.

Knows batches of rows and numbers; knows no model, no files and no hits.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from sfr_batch.format import names
from sfr_batch.table.products import FloatArray, Numbers, OnCpu, Products

__all__ = ["FloatArray", "Nearest", "merged", "nearest", "vectors_of"]

_NUMBERS_AT_ONCE = 2**15
"""Most numbers of vectors that are copied at once, twice, for products that are computed again."""
_MOST_WAITING = 1
"""So many times the rows of the answer may wait before they are sorted into it. The k-th score is known as of then."""


@dataclass(frozen=True)
class Nearest:
    """The nearest rows of n queries: those of query i are ``bounds[i]`` to ``bounds[i + 1]``, best first."""

    bounds: NDArray[np.int64]
    scores: FloatArray
    rows: pa.Table
    """One row for each score: id and the columns that were asked for."""

    def __reduce__(self) -> tuple[Any, ...]:
        """The rows as an Arrow stream: pickle forgets names and nullability inside of lists."""
        sink = pa.BufferOutputStream()
        with pa.ipc.new_stream(sink, self.rows.schema) as writer:
            writer.write_table(self.rows)
        return _unpickled, (self.bounds, self.scores, sink.getvalue())


def nearest(
    batches: Iterable[pa.RecordBatch],
    queries: FloatArray,
    k: int,
    columns: Sequence[str] = (),
    products: Products | None = None,
) -> Nearest:
    """For each of ``queries`` [q, d], the ``k`` rows with the highest dot product, best first, ties by id.

    Rows of one id tie in their order. batches: rows of length 1 with id, embedding and ``columns``; one is in memory at
    a time, and beside it about 100 bytes for each of the q * k rows of the answer, without their columns. Products are
    those of float32. products: where to compute them, for the same queries; default: here, by NumPy. The answer does
    not depend on it, nor on how rows are cut into batches. Raises ValueError if k < 1.
    """
    best = _Best(len(queries), k, columns)
    schema = None
    for batch in batches if len(queries) else ():
        products = products or OnCpu(queries)
        schema = batch.schema
        _take_in(best, batch, products)
    best.settle()
    return best.result(schema)


def merged(parts: Iterable[Nearest], queries: int, k: int, columns: Sequence[str], schema: pa.Schema) -> Nearest:
    """The `nearest` of all rows, from those of each part of them, for so many ``queries``.

    parts: in the order of the rows, with ``k`` and ``columns`` as here; one is in memory at a time. schema: of rows.
    """
    best = _Best(queries, k, columns)
    for part in parts:
        which = np.repeat(np.arange(queries), np.diff(part.bounds))
        at = np.flatnonzero(part.scores >= best.worst[which])
        best.add(which[at], at, part.scores[at], part.rows)
    best.settle()
    return best.result(schema)


def _unpickled(bounds: NDArray[np.int64], scores: FloatArray, rows: pa.Buffer) -> Nearest:
    return Nearest(bounds, scores, pa.ipc.open_stream(rows).read_all())


def vectors_of(column: pa.Array) -> FloatArray:
    """A fixed-size-list column as a float32 array [n, d]; not a copy if the column is float32."""
    values = column.flatten().to_numpy(zero_copy_only=False)
    return np.asarray(values.reshape(len(column), column.type.list_size), dtype=np.float32)


def _take_in(best: "_Best", batch: pa.RecordBatch, products: Products) -> None:
    vectors = vectors_of(batch.column(names.EMBEDDING))
    values = pa.Table.from_batches([batch.select(best.columns)])
    rows = products.rows_at_once
    for first in range(0, len(vectors), rows):
        block = vectors[first : first + rows]
        which, at = products.candidates(block, best.worst, best.k)
        best.add(which, at, _products(products.queries, which, block, at), values.slice(first, len(block)))


def _products(queries: FloatArray, which: Numbers, block: FloatArray, at: Numbers) -> FloatArray:
    """The products of pairs of a query and a row, one by one.

    A product of matrices rounds equal rows differently, depending on where they stand: their ids would not decide.
    """
    pairs_at_once = max(1, _NUMBERS_AT_ONCE // max(1, queries.shape[1]))
    scores = np.empty(len(which), np.float32)
    for first in range(0, len(which), pairs_at_once):
        part = slice(first, first + pairs_at_once)
        np.einsum("ij,ij->i", queries[which[part]], block[at[part]], out=scores[part])
    return scores


def _descending(scores: FloatArray) -> NDArray[np.uint64]:
    """Whole numbers below 2**32 that are the smaller the larger the score: one number is sorted faster than two."""
    bits = (scores + np.float32(0)).view(np.uint32)  # there is one zero
    negative = bits >> np.uint32(31) == 1
    return np.where(negative, bits, bits ^ np.uint32(0x7FFFFFFF)).astype(np.uint64)


class _Best:
    """The best rows so far, those that wait to be sorted in, and the values of all of these rows."""

    def __init__(self, queries: int, k: int, columns: Sequence[str]) -> None:
        if k < 1:
            raise ValueError(f"k must be at least 1, got {k}")
        self.k = k
        self.columns = [names.ID, *(name for name in columns if name != names.ID)]
        self.worst: FloatArray = np.full(queries, -np.inf, np.float32)
        """[queries] the score of the k-th best row so far; rows below it need not be looked at."""
        self._queries = queries
        self._parts: list[tuple[Numbers, FloatArray, NDArray[np.int64]]] = []
        self._values: list[pa.RecordBatch] = []
        self._kept = 0  # rows of _values
        self._waiting = 0

    def add(self, which: Numbers, at: Numbers, scores: FloatArray, values: pa.Table) -> None:
        """Take in rows ``at`` of ``values`` for the queries ``which``."""
        if not len(which):
            return
        rows, number = np.unique(at, return_inverse=True)
        # A copy of the rows: a slice would keep the whole batch in memory, and its vectors.
        self._values += values.take(pa.array(rows)).to_batches()
        self._parts.append((which, scores, number.reshape(-1) + self._kept))
        self._kept += len(rows)
        self._waiting += len(which)
        if self._waiting >= _MOST_WAITING * self._queries * self.k:
            self.settle()

    def settle(self) -> None:
        """Sort what waits into the best, and forget the values of all other rows."""
        if not self._waiting:
            return
        which, scores, rows = (np.concatenate(parts) for parts in zip(*self._parts, strict=True))
        table = pa.Table.from_batches(self._values).combine_chunks()
        order = self._order(which, scores, rows, table)
        which, scores, rows = which[order], scores[order], rows[order]
        rank = np.arange(len(which)) - np.searchsorted(which, which)
        self.worst[which[rank == self.k - 1]] = scores[rank == self.k - 1]
        kept = rank < self.k
        used, number = np.unique(rows[kept], return_inverse=True)
        self._parts = [(which[kept], scores[kept], number.reshape(-1))]
        self._values = table.take(pa.array(used)).combine_chunks().to_batches()
        self._kept, self._waiting = len(used), 0

    @staticmethod
    def _order(which: Numbers, scores: FloatArray, rows: NDArray[np.int64], table: pa.Table) -> Numbers:
        """By query, best first, ties by id: of tied rows alone ids are compared, for most have no rival."""
        keys = which.astype(np.uint64) << np.uint64(32) | _descending(scores)
        order = np.argsort(keys)
        same = keys[order][1:] == keys[order][:-1]
        if same.any():
            tied = np.zeros(len(order), bool)
            tied[1:] |= same
            tied[:-1] |= same
            at = order[tied]
            used, number = np.unique(rows[at], return_inverse=True)
            ids = pc.rank(table.column(names.ID).take(pa.array(used)), tiebreaker="first").to_numpy()
            order[tied] = at[np.lexsort((ids[number.reshape(-1)], keys[at]))]
        return order

    def result(self, schema: pa.Schema | None) -> Nearest:
        """What was found. schema: of the batches, for an answer without rows."""
        if not self._parts:
            empty = pa.schema([] if schema is None else [schema.field(name) for name in self.columns]).empty_table()
            return Nearest(np.zeros(self._queries + 1, np.int64), np.empty(0, np.float32), empty)
        ((which, scores, rows),) = self._parts
        bounds = np.searchsorted(which, np.arange(self._queries + 1))
        return Nearest(bounds, scores, pa.Table.from_batches(self._values).take(pa.array(rows)))
