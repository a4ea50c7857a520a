"""Exact search: compares every live vector with the queries, in bounded memory, here or in tasks of an executor.

A task has some whole data files, and finds the best rows of each query among theirs; the best of these are the answer,
which is the same wherever it was found. Knows no model; see `nearest`.
"""

import math
from collections.abc import Callable, Collection, Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any, overload

import numpy as np
import pyarrow as pa

from sfr_batch.errors import counted
from sfr_batch.format import names
from sfr_batch.format.notebook import html_table
from sfr_batch.format.on_screen import shown_cell, shown_id
from sfr_batch.storage.executor import ROWS_A_TASK, Executor, check_reach
from sfr_batch.table.arguments import listed, whole_number
from sfr_batch.table.json_values import python_value, rows_as_json
from sfr_batch.table.nearest import FloatArray, Nearest, merged, nearest, vectors_of
from sfr_batch.table.products import OnCpu, Products
from sfr_batch.table.readers import Readers
from sfr_batch.table.scan import Scan
from sfr_batch.table.tabular import Tabular

__all__ = ["Hit", "Hits", "Matches", "Search", "top_k", "vectors_of"]

_TASKS = 1024
"""At most. Each has an answer of its own to all queries, which the driver reads."""
_SHARE_OF_A_GPU = 1 / 8
"""Of a task: it reads and unpacks files for far longer than it multiplies."""


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


class Matches(Sequence[Hits], Tabular):
    """What `search_many` found: the hits of each query, in the order of the queries."""

    def __init__(self, found: Nearest, columns: Sequence[str], schema: pa.Schema | None = None) -> None:
        """columns: those of each hit. schema: of id and columns; default: that of what was found."""
        self._found = found
        self._columns = list(columns)
        self._schema = found.rows.schema if schema is None else schema

    def __len__(self) -> int:
        return len(self._found.bounds) - 1

    @overload
    def __getitem__(self, index: int) -> Hits: ...
    @overload
    def __getitem__(self, index: slice) -> list[Hits]: ...
    def __getitem__(self, index: int | slice) -> Hits | list[Hits]:
        if isinstance(index, slice):
            return [self[number] for number in range(*index.indices(len(self)))]
        number = range(len(self))[index]
        first, end = self._found.bounds[number : number + 2].tolist()
        rows = self._found.rows.slice(first, end - first)
        scores = self._found.scores[first:end].tolist()
        return Hits((_hit(rows, at, score, self._columns) for at, score in enumerate(scores)), self._schema)

    def to_arrow(self) -> pa.Table:
        """query (its number) and rank, both from 0, score, id and the columns, a row for each hit, query by query.

        Columns of the table with the names of the first three stand beside ``query_number``, ``hit_rank``, ``cosine``.
        """
        found = self._found
        queries = np.repeat(np.arange(len(self)), np.diff(found.bounds))
        ranks = np.arange(len(queries)) - found.bounds[queries]
        own = {"query": ("query_number", queries), "rank": ("hit_rank", ranks), "score": ("cosine", found.scores)}
        mine = {other if name in self._columns else name: pa.array(values) for name, (other, values) in own.items()}
        rows = found.rows if len(found.scores) else self._schema.empty_table()
        return pa.table(mine | {name: rows.column(name) for name in dict.fromkeys([names.ID, *self._columns])})

    def __repr__(self) -> str:
        return f"<Matches of {counted(len(self), 'query', 'queries')}, {counted(len(self._found.scores), 'hit')}>"


def _score_beside(columns: Collection[str]) -> str:
    """What the score of a hit is called among columns of the table, which may have a score of their own."""
    return "score" if "score" not in columns else "cosine"


@dataclass(frozen=True)
class Search:
    """What is asked of a snapshot: the ``k`` nearest rows of a scan, and their ``columns``."""

    scan: Scan
    k: int
    columns: Sequence[str]

    @classmethod
    def of(cls, readers: Readers, k: int, columns: Sequence[str] = (), where: str | None = None) -> "Search":
        """A search of all live rows that match ``where``. Where documents are cut into chunks, a row's chunk and its
        span come first. Raises ConfigError for a wrong number or filter, TableError for an unknown column."""
        k, columns = whole_number("k", k, 1), listed("columns", columns)
        scan = readers.scan(where=where)
        chunk = [name for name in names.CHUNK_COLUMNS if name in scan.table_schema.names]
        shown = list(dict.fromkeys([*chunk, *columns]))
        return cls(scan.select([names.ID, names.EMBEDDING, *shown]), k, shown)

    @property
    def dim(self) -> int:
        """Numbers of a vector."""
        return int(self.scan.table_schema.field(names.EMBEDDING).type.list_size)

    def run(
        self,
        queries: FloatArray,
        executor: Executor | None = None,
        products: Callable[[FloatArray], Products] = OnCpu,
    ) -> Matches:
        """The hits of each of ``queries`` [q, d], of unit length.

        executor: runs the tasks; default: this process. products: makes the products of queries, in this process or in
        tasks that have a share of a GPU, where the executor has one; other tasks compute on their CPU. Raises
        ConfigError if tasks would not see the table.
        """
        schema = self.scan.select([names.ID, *self.columns]).schema
        if executor is None or not len(queries):
            found = _nearest_of(self.scan, _Work(queries, self.k, self.columns, products))
            return Matches(found, self.columns, schema)
        check_reach(executor, self.scan.store.root)
        on_gpu = products is not OnCpu and executor.has_gpu
        work = executor.share(_Work(queries, self.k, self.columns, products if on_gpu else OnCpu))
        gpus = _SHARE_OF_A_GPU if on_gpu else 0
        parts = self.scan.parts(max(1, min(_TASKS, math.ceil(self.scan.live / ROWS_A_TASK))))
        handles = [executor.submit(_nearest_of, part, work, gpus=gpus)[0] for part in parts]
        found = merged(executor.get(handles), len(queries), self.k, self.columns, schema)
        return Matches(found, self.columns, schema)


@dataclass(frozen=True)
class _Work:
    """What all tasks need."""

    queries: FloatArray
    k: int
    columns: Sequence[str]
    products: Callable[[FloatArray], Products]


def _nearest_of(scan: Scan, work: _Work) -> Nearest:
    """The best rows among those of a scan."""
    queries = work.queries
    return nearest(scan.batches(), queries, work.k, work.columns, work.products(queries) if len(queries) else None)


def top_k(
    batches: Iterable[pa.RecordBatch], queries: FloatArray, k: int, columns: Sequence[str] = ()
) -> Sequence[Hits]:
    """For each of ``queries`` [q, d], the ``k`` rows with the highest dot product, best first, ties by id.

    batches: rows with id, embedding and ``columns``. Raises ValueError if k < 1.
    """
    return Matches(nearest(batches, queries, k, columns), columns)


def _hit(rows: pa.Table, at: int, score: float, columns: Sequence[str]) -> Hit:
    values = rows.select(list(columns)).slice(at, 1).to_batches()[0] if columns else None
    row = {} if values is None else {name: python_value(values.column(name)) for name in columns}
    return Hit(rows.column(names.ID)[at].as_py(), score, row, values)
