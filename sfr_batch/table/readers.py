"""The readers that a table and a snapshot share: live rows as batches, Arrow, pandas, Ray Data, DuckDB and an export.

All take the same three: ``columns``, default all; ``where``, a condition such as ``"package = 'numpy' and n_tokens >
20"`` (see `table.filters`); ``ids``, of the rows to read. All raise TableError for an unknown column or a damaged
file, and ConfigError for a wrong filter. But for DuckDB, rows come in the order of the
table, whatever the order of ``ids``.
"""

from abc import ABC, abstractmethod
from collections.abc import Iterable, Iterator, Sequence
from typing import TYPE_CHECKING

import pyarrow as pa

from sfr_batch.config.settings import StorageSettings
from sfr_batch.table import engines
from sfr_batch.table.export import Exported, export
from sfr_batch.table.scan import Scan, key_columns

if TYPE_CHECKING:
    import duckdb
    import pandas
    import ray.data

Columns = Sequence[str] | None
Ids = Iterable[str | int] | None


class Readers(ABC):
    """What can be asked of whatever has live rows."""

    @abstractmethod
    def scan(self, columns: Columns = None, *, where: str | None = None, ids: Ids = None) -> Scan:
        """The read as a plan: its files, its parts."""

    def batches(
        self, columns: Columns = None, *, where: str | None = None, ids: Ids = None
    ) -> Iterator[pa.RecordBatch]:
        """Live rows in the table's order, a record batch or more a data file, in memory of a few data files."""
        return self.scan(columns, where=where, ids=ids).batches()

    def to_arrow(self, columns: Columns = None, *, where: str | None = None, ids: Ids = None) -> pa.Table:
        """Live rows in memory, vectors as fixed_size_list<float32|float16>[d]."""
        return self.scan(columns, where=where, ids=ids).to_arrow()

    def to_pandas(self, columns: Columns = None, *, where: str | None = None, ids: Ids = None) -> "pandas.DataFrame":
        """Live rows in memory, each vector a NumPy array: ``np.stack(frame["embedding"])`` is the matrix [n, d]."""
        return engines.to_pandas(self.scan(columns, where=where, ids=ids))

    def to_ray(self, columns: Columns = None, *, where: str | None = None, ids: Ids = None) -> "ray.data.Dataset":
        """Live rows as a Ray Data dataset. Its tasks read a data file or a few each, and nothing runs yet.

        Vectors are a tensor column: in batches of the formats numpy and torch a matrix [n, d].
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
        """Live rows as a relation, which DuckDB itself reads when it is asked; vectors are FLOAT[d].

        Their order is DuckDB's affair. connection: where it belongs to, default a new one in memory. A given one has
        to be able to read from S3 by itself; a new one uses the settings of this table.
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
    ) -> Exported:
        """Write live rows to ``target``, a local folder or an s3:// prefix, as Parquet that any engine reads.

        The columns that name a row are always among them. partition_by: a column whose values become folders,
        ``package=numpy/``, and which then is not in the files. rows_per_file: at most; default as many as are 128 MiB.
        storage: of the target. Raises ConfigError if the target is not empty: nothing is ever overwritten. Without
        `_SUCCESS`, which is written last, an export is not complete. Memory is bounded.
        """
        scan = self.scan(where=where)
        if columns is not None:
            wanted = [*key_columns(scan.table_schema), *columns, *([partition_by] if partition_by else [])]
            scan = scan.select(wanted)
        return export(scan, target, partition_by, rows_per_file, storage)
