"""Writes live rows as a plain Parquet directory, for engines that know no snapshots; optionally with Hive partitions.

    target/part-00000.parquet …                  or, with partition_by="package",
    target/package=numpy/part-00000.parquet …    the column is in the folder's name, not in the files
    target/_SUCCESS                              what was exported; written last: without it, the export is incomplete

A large table is exported in parts of whole data files, each by a task of an executor, perhaps on another machine; the
number of its part then stands in the name of a file, `part-00003-00000.parquet`. Files do not depend on where they were
written. Knows scans, but not where they come from.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import pyarrow as pa
import pyarrow.compute as pc

from sfr_batch.config.settings import StorageSettings
from sfr_batch.errors import ConfigError, CountsDoNotClose, TableError, counted
from sfr_batch.format import names
from sfr_batch.storage.executor import Executor, InProcess, check_reach
from sfr_batch.storage.locations import absolute_uri
from sfr_batch.storage.store import Store
from sfr_batch.table.apart import BESIDE, check_apart
from sfr_batch.table.choices import ANY
from sfr_batch.table.hive_names import NULL, can_partition, folder_of, partition_texts
from sfr_batch.table.outgoing import Outgoing
from sfr_batch.table.parquet_folder import ParquetFolder, Written
from sfr_batch.table.scan import Scan, key_columns

_PART_BYTES = 2**30
"""Of the data files of a part, at least."""
_PARTS = 1024
"""At most. Each may leave a small file in each folder."""
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


@dataclass(frozen=True)
class _Work:
    """What all tasks need. by: the name of the column to partition by, in the export. longest: name of a folder."""

    wanted: Wanted
    outgoing: Outgoing
    target: Store
    by: str | None
    longest: int | None


def export(
    scan: Scan,
    target: str,
    wanted: Wanted,
    storage: StorageSettings | None = None,
    executor: Executor | None = None,
) -> Exported:
    """Write the rows of ``scan`` into ``target``, a new or empty folder. storage: settings for it.

    Names, types and values are checked before anything is written; the last costs a reading of the columns with values
    that may not fit. Memory is bounded: with many partitions, files are smaller. executor: runs the tasks; default:
    this process. Raises ConfigError if the target is not empty, ``partition_by`` is unsuitable, or the engine cannot
    have a name or a value, CountsDoNotClose if a row was lost or doubled.
    """
    run = executor or InProcess()
    partition = _check_partition(scan, wanted.partition_by)
    outgoing = Outgoing(scan.store.root, scan.schema, wanted.engine, wanted.rename, wanted.as_text)
    by = outgoing.names[partition] if partition else None
    if by is not None and by[0] in "_.":
        raise ConfigError(
            f"Cannot partition by {partition}: engines pass over folders whose names begin with an underscore or a "
            f"dot. Give it another name: --rename {partition}={by.lstrip('_.') or 'part'}."
        )
    check_apart(absolute_uri(target), scan.store, storage, BESIDE)
    check_reach(run, scan.store.root, absolute_uri(target))
    folder = ParquetFolder(target, storage, wanted.rows_per_file)
    longest = None if folder.is_s3 else _LONGEST_NAME
    work = run.share(_Work(wanted, outgoing, folder.store, by, longest))
    if checked := [*outgoing.columns_to_check(), *([partition] if partition else [])]:
        parts = _parts(scan.select([names.ID, *checked]))
        for _ in run.get([run.submit(_check_values, part, work)[0] for part in parts]):
            pass
    parts = _parts(scan)
    numbers = range(len(parts)) if len(parts) > 1 else [None]
    written = [run.submit(_write, part, number, work)[0] for part, number in zip(parts, numbers, strict=False)]
    read = 0
    for rows, its in run.get(written):
        read += rows
        folder.written += its
    done = folder.written
    if done.rows != read or not (scan.filtered or read == scan.live):
        raise CountsDoNotClose(
            f"{scan.store.root} has {counted(scan.live, 'live row')}, but {read:,} were read and {done.rows:,} were "
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
    partitions = len(done.folders) if partition else None
    return Exported(folder.root, done.rows, done.files, done.bytes, partitions, str(outgoing))


def _parts(scan: Scan) -> list[Scan]:
    total = sum(file.bytes for file in scan.files)
    return scan.parts(max(1, min(_PARTS, math.ceil(total / _PART_BYTES))))


def _write(scan: Scan, number: int | None, work: _Work) -> tuple[int, Written]:
    """Write the rows of a part. Returns how many were read, and what was written."""
    folder = ParquetFolder.part(work.target, work.wanted.rows_per_file, number)
    read = 0
    for table in scan.tables():
        read += table.num_rows
        rows = work.outgoing.convert(table)
        folder.add(rows if work.by is None else _without_empty(rows, work.by), by=work.by)
    folder.flush()
    return read, folder.written


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


def _check_values(scan: Scan, work: _Work) -> None:
    """Raises ConfigError if a value does not fit into the type, or the name of the folder, that it would get."""
    column = work.wanted.partition_by
    for table in scan.tables():
        rows = work.outgoing.convert(table)
        if column is not None and work.by is not None:
            values = partition_texts(rows.column(work.by)).dictionary.to_pylist()
            _check_folders(scan, work.by, column, values, work.wanted.empty_as_null, work.longest)


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
