"""Exact search: compares every live vector with the query, in bounded memory. Knows no model."""

from collections.abc import Collection, Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from sfr_batch.format import names
from sfr_batch.format.notebook import html_table
from sfr_batch.format.on_screen import shown_cell, shown_id
from sfr_batch.table.json_values import python_value, rows_as_json
from sfr_batch.table.tabular import Tabular

FloatArray = NDArray[np.float32]


@dataclass(frozen=True, slots=True)
class Hit:
    """A row that was found. score: the cosine, because vectors have unit length."""

    id: str | int
    score: float
    row: dict[str, object]
    """The requested columns, and those of the chunk if the table has chunks. A value that Python cannot hold, such as a
    date beyond the year 9999, is text."""
    values: pa.RecordBatch | None = field(default=None, repr=False, compare=False)
    """The same as Arrow has them."""

    def as_json(self) -> dict[str, Any]:
        """Score, id and the columns, ready for `json.dumps`; see `json_values`. The score's key is as in `Hits`."""
        shown = {} if self.values is None else next(rows_as_json(self.values))
        return {_score_beside(shown): self.score, names.ID: self.id, **shown}


class Hits(list[Hit], Tabular):
    """The hits of a search, best first. Prints a line per hit; `to_pandas` and `to_arrow` have a row for each."""

    def __init__(self, hits: Iterable[Hit] = (), schema: pa.Schema | None = None) -> None:
        """schema: the id, and the columns of the hits; default: an id that is a text."""
        super().__init__(hits)
        self.schema = pa.schema([(names.ID, pa.string())]) if schema is None else schema

    def to_arrow(self) -> pa.Table:
        """score, id and the columns, a row each. A column of the table named score stands beside ``cosine``."""
        columns = [name for name in self.schema.names if name != names.ID]
        rows = [hit.values.select(columns) for hit in self if hit.values is not None]
        found = pa.Table.from_batches(rows, pa.schema([self.schema.field(name) for name in columns]))
        score = _score_beside(columns)
        scores = pa.array([hit.score for hit in self], pa.float64())
        ids = pa.array([hit.id for hit in self], self.schema.field(names.ID).type)
        return pa.table([scores, ids, *found.columns], names=[score, names.ID, *columns])

    def __repr__(self) -> str:
        return "\n".join(f"{hit.score:.4f}  {shown_id(hit.id)}" for hit in self) or "no hits"

    def _repr_html_(self) -> str:
        columns = list(self[0].row) if self else []
        rows = [(f"{hit.score:.4f}", shown_id(hit.id), *map(shown_cell, hit.row.values())) for hit in self]
        return html_table(rows, head=("score", names.ID, *columns), numbers=[0])


def _score_beside(columns: Collection[str]) -> str:
    """What the score of a hit is called among columns of the table, which may have a score of their own."""
    return "score" if "score" not in columns else "cosine"


def top_k(
    batches: Iterable[pa.RecordBatch], queries: FloatArray, k: int, columns: Sequence[str] = ()
) -> list[list[Hit]]:
    """For each of ``queries`` [q, d], the ``k`` rows with the highest dot product, best first, ties by id.

    batches: rows with id, embedding and ``columns``; one batch is in memory at a time. Raises ValueError if k < 1.
    """
    if k < 1:
        raise ValueError(f"k must be at least 1, got {k}")
    best: list[list[Hit]] = [[] for _ in queries]
    for batch in batches:
        if not batch.num_rows:
            continue
        scores = queries @ vectors_of(batch.column(names.EMBEDDING)).T
        for number, row_scores in enumerate(scores):
            found = [_hit(batch, int(at), float(row_scores[at]), columns) for at in _candidates(row_scores, k)]
            best[number] = sorted([*best[number], *found], key=lambda hit: (-hit.score, hit.id))[:k]
    return best


def vectors_of(column: pa.Array) -> FloatArray:
    """A fixed-size-list column as a float32 array [n, d]; not a copy if the column is float32."""
    return np.asarray(column.flatten().to_numpy(zero_copy_only=False).reshape(len(column), -1), dtype=np.float32)


def _candidates(scores: FloatArray, k: int) -> NDArray[np.intp]:
    """Numbers of rows that may be among the best k, including ties with the k-th, which ids decide."""
    if len(scores) <= k:
        return np.arange(len(scores))
    kth = np.partition(scores, len(scores) - k)[len(scores) - k]
    return np.flatnonzero(scores >= kth)


def _hit(batch: pa.RecordBatch, at: int, score: float, columns: Sequence[str]) -> Hit:
    # A copy of the row: a slice would keep the whole batch in memory, and its vectors.
    values = batch.select(list(columns)).take(pa.array([at])) if columns else None
    row = {} if values is None else {name: python_value(values.column(name)) for name in columns}
    return Hit(batch.column(names.ID)[at].as_py(), score, row, values)
