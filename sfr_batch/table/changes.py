"""The difference between two snapshots as a feed for a vector database: rows to upsert and keys to delete.

The key of a row is its id, or id and chunk number if documents are cut into chunks. A row is an upsert if its key is
new, or if its row hash (text and carried columns) or its vector differs. Deletes and upserts have no key in common.
Applied to a copy of the first snapshot, they give the second one.

Which rows these are is found out by `row_changes`. Memory is bounded: each row is remembered as a few bits.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import pyarrow as pa

from sfr_batch.errors import ConfigError, counted
from sfr_batch.format import names
from sfr_batch.storage.executor import Executor, check_reach
from sfr_batch.table import engines
from sfr_batch.table.arguments import listed
from sfr_batch.table.choices import ARROW
from sfr_batch.table.json_values import rows_as_json
from sfr_batch.table.outgoing import Outgoing
from sfr_batch.table.parquet_folder import ParquetFolder
from sfr_batch.table.row_changes import PARTITION_ROWS, compare
from sfr_batch.table.scan import Scan, key_columns
from sfr_batch.table.table import Table
from sfr_batch.table.tabular import Tabular

if TYPE_CHECKING:
    import pandas

OP = "op"
"""Column and key of what is to be done with a row: delete or upsert."""


@dataclass(frozen=True)
class Changes(Tabular):
    """The difference between two snapshots of ``table``. from_snapshot 0 stands for an empty table. See `changes`.

    new, changed: numbers of rows that are upserts; unchanged: number of the other rows of the second snapshot.
    files_read: number of data files of both snapshots that had to be read.
    """

    table: str
    from_snapshot: int
    to_snapshot: int
    new: int
    changed: int
    deleted: int
    unchanged: int
    files_read: int
    _upserts: Scan | None = field(repr=False)
    _deletes: Scan | None = field(repr=False)

    def upserts(
        self,
        columns: Sequence[str] | None = None,
        *,
        engine: str = ARROW,
        rename: Mapping[str, str] | None = None,
        as_text: Sequence[str] = (),
    ) -> Iterator[pa.RecordBatch]:
        """New and changed rows. columns: default all. Memory is bounded by a few data files.

        engine: who takes them; by default they are as in the table. ``engine="lancedb"`` replaces the dots in names,
        which LanceDB refuses. rename, as_text: see `Readers.export`.
        """
        if self._upserts is None:
            return iter(())
        scan = self._upserts if columns is None else self._upserts.select(columns)
        outgoing = Outgoing(self.table, scan.schema, engine, rename, as_text)
        return (batch for rows in scan.tables() for batch in outgoing.convert(rows).to_batches())

    def deletes(self) -> Iterator[pa.RecordBatch]:
        """Keys of the rows that are gone: id, and chunk if documents are cut into chunks."""
        return iter(()) if self._deletes is None else self._deletes.batches()

    def json_rows(self) -> Iterator[dict[str, Any]]:
        """All deletes, then all upserts, see `as_json`. Raises ConfigError if the table has a column named op."""
        if self._upserts and OP in self._upserts.columns:
            raise ConfigError(
                f"{self.table} has a column {OP}, and each line of --json has an {OP} of its own, delete or upsert. "
                "Write files instead: --output <new folder>."
            )
        for operation, batches in (("delete", self.deletes()), ("upsert", self.upserts())):
            for batch in batches:
                yield from as_json(batch, operation)

    def to_arrow(self, columns: Sequence[str] | None = None) -> pa.Table:
        """All deletes, then all upserts, in memory: ``op`` is delete or upsert, and deletes have only their key.

        columns: of the upserts, beside ``op`` and the key; default: all. Raises ConfigError if the table has a column
        named op: `upserts` and `deletes` return its rows.
        """
        if self._upserts is None:
            return pa.table({OP: pa.array([], pa.string())})
        key = self._upserts.select(key_columns(self._upserts.table_schema))
        scan = self._upserts if columns is None else self._upserts.select([*key.columns, *listed("columns", columns)])
        if OP in scan.columns:
            raise ConfigError(
                f"{self.table} has a column {OP}, which would stand beside the {OP} of the rows, delete or upsert. Use "
                "upserts() and deletes(), or leave the column out: columns=[…]."
            )
        deletes = pa.Table.from_batches(self.deletes(), key.schema)
        rows = [_with_operation(deletes, "delete"), _with_operation(scan.to_arrow(), "upsert")]
        return pa.concat_tables(rows, promote_options="default")

    def to_pandas(self, columns: Sequence[str] | None = None) -> "pandas.DataFrame":
        """The same as a DataFrame. Raises also ConfigError if pandas is missing."""
        engines.need_pandas()
        return engines.to_pandas(self.to_arrow(columns))

    def write(self, folder: ParquetFolder, outgoing: Outgoing | None = None) -> None:
        """Write ``upserts/part-00000.parquet``…, ``deletes/…``, and at last `_SUCCESS` with the counts.

        outgoing: names and types of the rows; default as in the table. Raises ConfigError before anything is written if
        a value does not fit.
        """
        convert = outgoing.convert if outgoing else lambda rows: rows
        checked = outgoing.columns_to_check() if outgoing else []
        if checked and self._upserts:
            for rows in self._upserts.select([names.ID, *checked]).tables():
                convert(rows)
        for name, scan in (("deletes", self._deletes), ("upserts", self._upserts)):
            for rows in scan.tables() if scan else ():
                folder.add(convert(rows), name)
        counts = ("table", "from_snapshot", "to_snapshot", "new", "changed", "deleted", "unchanged")
        about = {"renamed": outgoing.renamed, "types": outgoing.types} if outgoing else {}
        folder.close({name: getattr(self, name) for name in counts} | about)

    def __repr__(self) -> str:
        return f"<Changes {self}>"

    def __str__(self) -> str:
        return (
            f"{self.table}, snapshot {self.from_snapshot} to {self.to_snapshot}: "
            f"{counted(self.new + self.changed, 'upsert')} ({self.new:,} new, {self.changed:,} changed), "
            f"{counted(self.deleted, 'delete')}, {self.unchanged:,} unchanged"
        )


def changes(
    table: Table,
    from_snapshot: int,
    to_snapshot: int,
    *,
    partition_rows: int = PARTITION_ROWS,
    executor: Executor | None = None,
) -> Changes:
    """Compare two snapshots, in either direction of time. partition_rows, executor: see `row_changes.compare`.

    Raises TableNotFound if a snapshot does not exist, TableError if one has two live rows with the same key,
    ConfigError if the tasks would not see the table.
    """
    if executor:
        check_reach(executor, table.store.root)
    to = table.snapshot(to_snapshot)
    whole = to.scan()
    if from_snapshot == 0:
        return Changes(table.store.root, 0, to_snapshot, whole.live, 0, 0, 0, 0, whole, None)
    found = compare(table.snapshot(from_snapshot), to, partition_rows, executor)
    return Changes(
        table=table.store.root,
        from_snapshot=from_snapshot,
        to_snapshot=to_snapshot,
        new=found.new,
        changed=found.changed,
        deleted=found.deleted,
        unchanged=whole.live - found.new - found.changed,
        files_read=found.files_read,
        _upserts=found.upserts.select(to.schema.names),
        _deletes=found.deletes,
    )


def _with_operation(rows: pa.Table, operation: str) -> pa.Table:
    rows = pa.table(rows.columns, schema=pa.schema([each.with_nullable(True) for each in rows.schema]))
    return rows.add_column(0, OP, pa.array([operation] * rows.num_rows, pa.string()))


def as_json(batch: pa.RecordBatch, operation: str) -> Iterator[dict[str, Any]]:
    """Rows as JSON objects with ``op`` first. Vectors are lists, hashes hexadecimal; see `json_values` for the rest."""
    for row in rows_as_json(batch):
        yield {OP: operation, **row}
