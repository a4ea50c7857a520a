"""The readers of a table and of a snapshot: live rows as batches, Arrow, pandas, NumPy, Ray Data, DuckDB, a sample, an
export.

All take the same arguments: ``columns``, default all; ``where``, a condition such as ``"package = 'numpy' and n_tokens
> 20"`` (see `table.filters`); ``ids``, the ids of the rows to read. All raise TableError for an unknown column or a
damaged file, and ConfigError for an invalid filter. Rows come in the order of the table, whatever the order of
``ids``; only DuckDB returns them in any order.

Those whose result is in memory take an ``executor`` of `sfr_batch.on_ray`: its tasks read the data files, and what they
have chosen is gathered here.
"""

from abc import ABC, abstractmethod
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any, cast

import pyarrow as pa

from sfr_batch.config.settings import StorageSettings
from sfr_batch.format.notebook import html_table
from sfr_batch.storage.executor import Executor
from sfr_batch.table import engines
from sfr_batch.table.choices import ANY
from sfr_batch.table.export import Exported, Wanted, export
from sfr_batch.table.sampling import Sample, sample
from sfr_batch.table.scan import Scan, key_columns
from sfr_batch.table.vectors import Vectors, VectorType, read_vectors

if TYPE_CHECKING:
    import duckdb
    import pandas
    import ray.data

Columns = Sequence[str] | None
Ids = Iterable[str | int] | None


class Readers(ABC):
    """The readers of everything that has live rows."""

    @abstractmethod
    def scan(self, columns: Columns = None, *, where: str | None = None, ids: Ids = None) -> Scan:
        """The planned read, which can be cut into parts."""

    def _repr_html_(self) -> str:
        """The columns, under what `repr` says."""
        schema: pa.Schema = cast("Any", self).schema
        return html_table([(field.name, _type_name(field.type)) for field in schema], title=repr(self).strip("<>"))

    def batches(
        self, columns: Columns = None, *, where: str | None = None, ids: Ids = None
    ) -> Iterator[pa.RecordBatch]:
        """Live rows as one or more record batches a data file. Memory is bounded by a few data files."""
        return self.scan(columns, where=where, ids=ids).batches()

    def to_arrow(
        self,
        columns: Columns = None,
        *,
        where: str | None = None,
        ids: Ids = None,
        executor: Executor | None = None,
    ) -> pa.Table:
        """Live rows in memory. Vectors are fixed_size_list<float32|float16>[d].

        executor: of `sfr_batch.on_ray`, whose tasks read the data files on a cluster; default: this process reads them.
        """
        return self.scan(columns, where=where, ids=ids).to_arrow(executor)

    def to_pandas(
        self,
        columns: Columns = None,
        *,
        where: str | None = None,
        ids: Ids = None,
        executor: Executor | None = None,
    ) -> "pandas.DataFrame":
        """Live rows in memory. Each vector is a NumPy array; `to_numpy` returns the matrix.

        executor: as for `to_arrow`. Raises ConfigError if pandas is missing.
        """
        engines.need_pandas()
        return engines.to_pandas(self.to_arrow(columns, where=where, ids=ids, executor=executor))

    def to_numpy(
        self,
        *,
        where: str | None = None,
        ids: Ids = None,
        dtype: VectorType = "float32",
        executor: Executor | None = None,
    ) -> Vectors:
        """``ids, matrix = table.to_numpy()``: ids [n], and their vectors [n, d]; row n belongs to the n-th id.

        dtype: ``"float32"``, or ``"stored"`` for that of the table. Where documents are cut, an id occurs once for each
        of its chunks; their numbers are ``to_arrow(["chunk"])``, in the same order. In memory are the result and a few
        data files. executor: as for `to_arrow`. Raises ConfigError if the result does not fit into the free memory.
        """
        return read_vectors(self.scan(where=where, ids=ids), dtype, executor)

    def sample(
        self, n: int, columns: Columns = None, *, seed: int = 0, where: str | None = None, ids: Ids = None
    ) -> Sample:
        """``n`` random live rows, all equally likely, or all rows if there are no more. In the order of the table.

        The same ``seed`` takes the same rows of a snapshot. Shows as a table; ``.to_pandas()``, ``.to_arrow()`` and
        ``.to_numpy()`` have the rows. Only the columns are read, of the data files in which chosen rows lie: in a large
        table with long vectors, name others than ``embedding`` where they will do.
        """
        return sample(self.scan(columns, where=where, ids=ids), n, seed)

    def to_ray(self, columns: Columns = None, *, where: str | None = None, ids: Ids = None) -> "ray.data.Dataset":
        """Live rows as a lazy Ray Data dataset. Each task reads one or a few data files.

        Vectors are a tensor column: a matrix [n, d] in batches of the formats numpy and torch.
        """
        return engines.to_ray(self.scan(columns, where=where, ids=ids))

    def to_duckdb(
        self,
        columns: Columns = None,
        *,
        where: str | None = None,
        ids: Ids = None,
        connection: "duckdb.DuckDBPyConnection | None" = None,
    ) -> "duckdb.DuckDBPyRelation":
        """Live rows as a lazy relation. DuckDB reads the files itself; vectors are FLOAT[d].

        Rows come in no particular order. connection: default a new one in memory, with the storage settings of the
        table. A given connection must be able to read from S3 by itself.
        """
        return engines.to_duckdb(self.scan(columns, where=where, ids=ids), connection)

    def export(
        self,
        target: str,
        *,
        partition_by: str | None = None,
        columns: Columns = None,
        where: str | None = None,
        rows_per_file: int | None = None,
        storage: StorageSettings | None = None,
        engine: str = ANY,
        rename: Mapping[str, str] | None = None,
        as_text: Sequence[str] = (),
        empty_as_null: bool = False,
        executor: Executor | None = None,
    ) -> Exported:
        """Write live rows to ``target``, a local folder or an s3:// prefix, as Parquet files for any engine.

        The columns that identify a row are always exported. partition_by: a column whose values become folders,
        ``package=numpy/``; the files do not have it. rows_per_file: the maximum; default as many as are 128 MiB.
        storage: settings for the target. `_SUCCESS` is written last; without it, an export is incomplete. Memory is
        bounded. Raises ConfigError if the target is not empty: nothing is ever overwritten.

        engine: who will read it, see `outgoing.CHOICES`; default any engine. Types and names that it lacks are replaced
        where nothing is lost, else the export is refused. rename: name in the table -> name in the export. as_text:
        columns to write as texts, JSON where they are none. empty_as_null: partition empty texts as null. executor: of
        `sfr_batch.on_ray`; writes the same files on a cluster.
        """
        scan = self.scan(where=where)
        if columns is not None:
            needed = [*key_columns(scan.table_schema), *columns, *([partition_by] if partition_by else [])]
            scan = scan.select(needed)
        wanted = Wanted(engine, rename, as_text, partition_by, empty_as_null, rows_per_file)
        return export(scan, target, wanted, storage, executor)


def _type_name(kind: pa.DataType) -> str:
    return f"{kind.list_size:,} x {kind.value_type}" if pa.types.is_fixed_size_list(kind) else str(kind)
