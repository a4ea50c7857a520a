"""Writes live rows as a plain Parquet directory, for engines that know no snapshots; optionally with Hive partitions.

    target/part-00000.parquet …                  or, with partition_by="package",
    target/package=numpy/part-00000.parquet …    the column is in the folder's name, not in the files
    target/_SUCCESS                              what was exported; written last: without it, the export is incomplete

Knows scans, but not where they come from.
"""

from dataclasses import dataclass

import pyarrow as pa
import pyarrow.compute as pc

from sfr_batch.config.settings import StorageSettings
from sfr_batch.errors import ConfigError, CountsDoNotClose, TableError, counted
from sfr_batch.table.parquet_folder import ParquetFolder
from sfr_batch.table.scan import Scan, key_columns


@dataclass(frozen=True)
class Exported:
    """What an export wrote. bytes: size of all files; partitions: number of folders, None without partitions."""

    target: str
    rows: int
    files: int
    bytes: int
    partitions: int | None

    def __str__(self) -> str:
        folders = "" if self.partitions is None else f" in {counted(self.partitions, 'partition')}"
        files = f"{counted(self.files, 'file')}{folders}, {self.bytes:,} bytes"
        return f"Exported {counted(self.rows, 'row')} to {self.target}: {files}"


def export(
    scan: Scan,
    target: str,
    partition_by: str | None = None,
    rows_per_file: int | None = None,
    storage: StorageSettings | None = None,
) -> Exported:
    """Write the rows of ``scan`` into ``target``, a new or empty folder.

    partition_by: one of the columns of ``scan``. rows_per_file: the maximum; default as many as are 128 MiB. storage:
    settings for the target. Memory is bounded: with many partitions, files are smaller. Raises ConfigError if the
    target is not empty or ``partition_by`` is unsuitable, CountsDoNotClose if a row was lost or doubled.
    """
    partition = _check_partition(scan, partition_by)
    folder = ParquetFolder(target, scan.store.root, storage, rows_per_file)
    read = 0
    for table in scan.tables():
        read += table.num_rows
        folder.add(table if partition is None else _without_empty(table, partition), by=partition)
    columns = [name for name in scan.columns if name != partition]
    folder.flush()
    if folder.rows != read or not (scan.filtered or read == scan.live):
        raise CountsDoNotClose(
            f"{scan.store.root} has {counted(scan.live, 'live row')}, but {read:,} were read and {folder.rows:,} were "
            f"written to {folder.root}. This is a bug: please report it."
        )
    folder.close(
        {
            "table": scan.store.root,
            "snapshot": scan.snapshot,
            "fingerprint": scan.fingerprint,
            "columns": columns,
            "partition_by": partition,
            "where": scan.where,
        }
    )
    partitions = folder.folders if partition else None
    return Exported(folder.root, folder.rows, folder.files, folder.bytes, partitions)


def _check_partition(scan: Scan, column: str | None) -> str | None:
    if column is None:
        return None
    if column not in scan.table_schema.names:
        raise TableError(f"{scan.store.root} has no column {column!r}. Columns: {', '.join(scan.table_schema.names)}.")
    kind = scan.table_schema.field(column).type
    types = pa.types
    simple = types.is_string(kind) or types.is_integer(kind) or types.is_boolean(kind) or types.is_date(kind)
    if column in key_columns(scan.table_schema) or not simple:
        raise ConfigError(
            f"Cannot partition by {column} ({kind}). Choose a text, integer, boolean or date column whose values many "
            "rows share. The id cannot be chosen, because the files would lack it."
        )
    return column


def _without_empty(table: pa.Table, column: str) -> pa.Table:
    """The table with empty texts in ``column`` as null: names of Hive partitions cannot tell the two apart."""
    values = table.column(column)
    if not pa.types.is_string(values.type):
        return table
    filled = pc.if_else(pc.equal(values, ""), pa.scalar(None, pa.string()), values)
    return table.set_column(table.column_names.index(column), column, filled)
