"""Live rows as a plain Parquet directory, for engines that know no snapshots; if asked for, partitioned as Hive does.

target/part-00000.parquet …                  or, with partition_by="package",
target/package=numpy/part-00000.parquet …    the column then stands in the folder's name and not in the files
target/_SUCCESS                              what was exported, written last: without it the export is not complete
"""

from collections.abc import Iterator
from dataclasses import dataclass
from urllib.parse import quote

import numpy as np
import pyarrow as pa

from sfr_batch.config import StorageSettings
from sfr_batch.errors import ConfigError, CountsDoNotClose, TableError
from sfr_batch.parquet_folder import ParquetFolder
from sfr_batch.scan import Scan, key_columns
from sfr_batch.storage import absolute_uri

_NULL = "__HIVE_DEFAULT_PARTITION__"


@dataclass(frozen=True)
class Exported:
    """What an export wrote. ``partitions``: folders, None if it is not partitioned; ``bytes``: of the files."""

    target: str
    rows: int
    files: int
    bytes: int
    partitions: int | None

    def __str__(self) -> str:
        folders = "" if self.partitions is None else f" in {_count(self.partitions, 'partition')}"
        files = f"{_count(self.files, 'file')}{folders}, {self.bytes:,} bytes"
        return f"Exported {_count(self.rows, 'row')} to {self.target}: {files}"


def _count(number: int, thing: str) -> str:
    return f"{number:,} {thing}{'s' * (number != 1)}"


def export(
    scan: Scan,
    target: str,
    partition_by: str | None = None,
    rows_per_file: int | None = None,
    storage: StorageSettings | None = None,
) -> Exported:
    """Write the rows of ``scan``, whose columns hold ``partition_by``, into ``target``, a new or empty folder.

    rows_per_file: at most; default as many as are 128 MiB. Memory is bounded, also with many partitions, whose files
    then are smaller. storage: of the target. Raises ConfigError if the target is not empty or the column cannot
    partition, CountsDoNotClose if other rows came than the snapshot says.
    """
    root = absolute_uri(target)
    if f"{root}/".startswith(f"{scan.store.root}/"):
        raise ConfigError(f"{root} lies in the table itself; choose a folder outside of it.")
    partition = _check_partition(scan, partition_by)
    folder = ParquetFolder(target, storage, rows_per_file)
    read = 0
    for table in scan.tables():
        read += table.num_rows
        if partition is None:
            folder.add(table)
        else:
            for name, rows in _divided(table, partition):
                folder.add(rows, name)
    columns = [name for name in scan.columns if name != partition]
    folder.flush()
    if folder.rows != read or not (scan.filtered or read == scan.live):
        raise CountsDoNotClose(
            f"{scan.live:,} rows live in {scan.store.root}, {read:,} were read and {folder.rows:,} written to "
            f"{folder.root}; this is a bug, please report it."
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
        raise TableError(
            f"There is no column {column!r} in {scan.store.root}; it has {', '.join(scan.table_schema.names)}."
        )
    kind = scan.table_schema.field(column).type
    types = pa.types
    simple = types.is_string(kind) or types.is_integer(kind) or types.is_boolean(kind) or types.is_date(kind)
    if column in key_columns(scan.table_schema) or not simple:
        raise ConfigError(
            f"{column} ({kind}) cannot partition: it takes a column of texts, whole numbers, booleans or dates that "
            "many rows share, and not the id, which would be lost from the files."
        )
    return column


def _divided(table: pa.Table, column: str) -> Iterator[tuple[str, pa.Table]]:
    """(folder, its rows) for each value of the column. The rows are copies: slices would hold on to the whole file."""
    values = table.column(column).combine_chunks().dictionary_encode(null_encoding="encode")
    number_of = values.indices.to_numpy()
    rest = table.drop_columns([column])
    order = np.argsort(number_of, kind="stable")
    numbers, starts = np.unique(number_of[order], return_index=True)
    for number, rows in zip(numbers, np.split(order, starts[1:]), strict=True):
        yield _folder_of(column, values.dictionary[int(number)].as_py()), rest.take(pa.array(rows))


def _folder_of(column: str, value: object) -> str:
    """Percent-encoded, so that no value leads elsewhere. As Hive does, an empty text counts as null."""
    text = str(value).lower() if isinstance(value, bool) else str(value)
    return f"{quote(column, safe='')}={_NULL if value is None or not text else quote(text, safe='')}"
