"""Writes live rows as a plain Parquet directory, for engines that know no snapshots; optionally with Hive partitions.

    target/part-00000.parquet …                  or, with partition_by="package",
    target/package=numpy/part-00000.parquet …    the column is in the folder's name, not in the files
    target/_SUCCESS                              what was exported; written last: without it, the export is incomplete

Knows scans, but not where they come from.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import pyarrow as pa
import pyarrow.compute as pc

from sfr_batch.config.settings import StorageSettings
from sfr_batch.errors import ConfigError, CountsDoNotClose, TableError, counted
from sfr_batch.format import names
from sfr_batch.storage.locations import absolute_uri
from sfr_batch.table.apart import BESIDE, check_apart
from sfr_batch.table.choices import ANY
from sfr_batch.table.hive_names import NULL, can_partition, folder_of, partition_texts
from sfr_batch.table.outgoing import Outgoing
from sfr_batch.table.parquet_folder import ParquetFolder
from sfr_batch.table.scan import Scan, key_columns

_LONGEST_NAME = 255
"""Of a folder on a local disk, in bytes."""


@dataclass(frozen=True)
class Exported:
    """What an export wrote. bytes: size of all files; partitions: number of folders, None without partitions.

    changed: names and types that differ from those of the table, in words; "" if none does.
    """

    target: str
    rows: int
    files: int
    bytes: int
    partitions: int | None
    changed: str = ""

    def __str__(self) -> str:
        folders = "" if self.partitions is None else f" in {counted(self.partitions, 'partition')}"
        files = f"{counted(self.files, 'file')}{folders}, {self.bytes:,} bytes"
        changed = f"\n{self.changed}" if self.changed else ""
        return f"Exported {counted(self.rows, 'row')} to {self.target}: {files}{changed}"


@dataclass(frozen=True)
class Wanted:
    """How rows are to be exported.

    engine, rename, as_text: see `Outgoing`. partition_by: a column, by its name in the table. empty_as_null: write
    empty texts of that column as null, for names of folders have no empty text.
    """

    engine: str = ANY
    rename: Mapping[str, str] | None = None
    as_text: Sequence[str] = ()
    partition_by: str | None = None
    empty_as_null: bool = False
    rows_per_file: int | None = None


def export(scan: Scan, target: str, wanted: Wanted, storage: StorageSettings | None = None) -> Exported:
    """Write the rows of ``scan`` into ``target``, a new or empty folder. storage: settings for it.

    Names, types and values are checked before anything is written; the last costs a reading of the columns with values
    that may not fit. Memory is bounded: with many partitions, files are smaller. Raises ConfigError if the target is
    not empty, ``partition_by`` is unsuitable, or the engine cannot have a name or a value, CountsDoNotClose if a row
    was lost or doubled.
    """
    partition = _check_partition(scan, wanted.partition_by)
    outgoing = Outgoing(scan.store.root, scan.schema, wanted.engine, wanted.rename, wanted.as_text)
    by = outgoing.names[partition] if partition else None
    if by is not None and by[0] in "_.":
        raise ConfigError(
            f"Cannot partition by {partition}: engines pass over folders whose names begin with an underscore or a "
            f"dot. Give it another name: --rename {partition}={by.lstrip('_.') or 'part'}."
        )
    check_apart(absolute_uri(target), scan.store, storage, BESIDE)
    folder = ParquetFolder(target, storage, wanted.rows_per_file)
    _check_values(scan, outgoing, wanted, longest=None if folder.is_s3 else _LONGEST_NAME)
    read = 0
    for table in scan.tables():
        read += table.num_rows
        rows = outgoing.convert(table)
        folder.add(rows if by is None else _without_empty(rows, by), by=by)
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
            "columns": [name for name in outgoing.schema.names if name != by],
            "partition_by": by,
            "where": scan.where,
            "for": wanted.engine,
            "renamed": outgoing.renamed,
            "types": outgoing.types,
        }
    )
    partitions = folder.folders if partition else None
    return Exported(folder.root, folder.rows, folder.files, folder.bytes, partitions, str(outgoing))


def _check_partition(scan: Scan, column: str | None) -> str | None:
    """The column to partition by. Raises TableError if there is none of that name, ConfigError if it is unfit."""
    if column is None:
        return None
    if column not in scan.table_schema.names:
        raise TableError(f"{scan.store.root} has no column {column!r}. Columns: {', '.join(scan.table_schema.names)}.")
    kind = scan.table_schema.field(column).type
    if column in key_columns(scan.table_schema) or not can_partition(kind):
        raise ConfigError(
            f"Cannot partition by {column} ({kind}). Choose a text, integer, boolean or date column whose values many "
            "rows share. The id cannot be chosen, because the files would lack it."
        )
    return column


def _check_values(scan: Scan, outgoing: Outgoing, wanted: Wanted, longest: int | None) -> None:
    """Raises ConfigError if a value does not fit into the type, or the name of the folder, that it would get."""
    by = wanted.partition_by
    columns = [*outgoing.columns_to_check(), *([by] if by else [])]
    for table in scan.select([names.ID, *columns]).tables() if columns else ():
        rows = outgoing.convert(table)
        if by is not None:
            values = partition_texts(rows.column(outgoing.names[by])).dictionary.to_pylist()
            _check_folders(scan, outgoing.names[by], by, values, wanted.empty_as_null, longest)


def _check_folders(
    scan: Scan, name: str, column: str, values: Sequence[str | None], empty_as_null: bool, longest: int | None
) -> None:
    root = scan.store.root
    if "" in values and not empty_as_null:
        raise ConfigError(
            f"{root}: the column {column!r} has empty texts. As names of folders, engines read them as null. Accept "
            "that with --empty-as-null, or partition by another column."
        )
    if NULL in values:
        raise ConfigError(
            f"{root}: the column {column!r} has the text {NULL}, which engines read as null in the name of a folder. "
            "Partition by another column."
        )
    for value in values:
        if longest is not None and len(folder_of(name, value).encode()) > longest:
            raise ConfigError(
                f"{root}: the column {column!r} has values of more than {longest} bytes, which cannot be names of "
                f"folders here: {str(value)[:40]}… Partition by another column."
            )


def _without_empty(table: pa.Table, column: str) -> pa.Table:
    """The table with empty texts in ``column`` as null: names of Hive partitions cannot tell the two apart."""
    values = table.column(column)
    plain = values.cast(values.type.value_type) if pa.types.is_dictionary(values.type) else values
    if not (pa.types.is_string(plain.type) or pa.types.is_large_string(plain.type)):
        return table
    filled = pc.if_else(pc.equal(plain, ""), pa.scalar(None, plain.type), plain)
    return table.set_column(table.column_names.index(column), column, filled)
