"""The difference between two snapshots as a feed for a vector database: rows to upsert and keys to delete.

The key of a row is its id, or id and chunk number if documents are cut into chunks. A row is an upsert if its key is
new, or if its row hash (text and carried columns) or its vector differs. Deletes and upserts have no key in common.
Applied to a copy of the first snapshot, they give the second one.

Data files with the same live rows in both snapshots are not read, unless a carried column has come back or has another
type, so that they show other values. In other files, keys and hashes are read of the rows that are live in only one of
the snapshots, and vectors only of rows that moved with an equal hash. Rows are joined by hash in partitions on disk and
remembered as one bit each, so memory is bounded. Hashes have 128 bits: equal hashes are taken for equal values.
"""

import dataclasses
import hashlib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from sfr_batch.errors import ConfigError, TableError, counted
from sfr_batch.format import names
from sfr_batch.format.dead_rows import DeadLists, Positions
from sfr_batch.format.hashes import halves, hash_ids
from sfr_batch.format.layout import Layout
from sfr_batch.storage.local_files import temporary_folder
from sfr_batch.storage.spill import Spill
from sfr_batch.table import engines
from sfr_batch.table.arguments import listed
from sfr_batch.table.choices import ARROW
from sfr_batch.table.json_values import rows_as_json
from sfr_batch.table.outgoing import Outgoing
from sfr_batch.table.parquet_folder import ParquetFolder
from sfr_batch.table.scan import LiveFile, Scan, key_columns
from sfr_batch.table.search import vectors_of
from sfr_batch.table.table import Table
from sfr_batch.table.tabular import Tabular

if TYPE_CHECKING:
    import pandas

OP = "op"
"""Column and key of what is to be done with a row: delete or upsert."""
PARTITION_ROWS = 2**22
"""Number of rows that are joined in memory at a time, at about 150 bytes each."""
_ROW = np.dtype(
    [
        *(("hash", np.uint64), ("hash_2", np.uint64), ("chunk", np.int32)),
        *(("is_to", np.bool_), ("row", np.int64), ("content", np.uint64), ("content_2", np.uint64)),
    ]
)
"""A row of one snapshot: the hash of its id, its chunk, its number in that snapshot, and a hash of what is compared."""

HashedRows = NDArray[np.void]


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


def changes(table: Table, from_snapshot: int, to_snapshot: int, *, partition_rows: int = PARTITION_ROWS) -> Changes:
    """Compare two snapshots, in either direction of time.

    Raises TableNotFound if a snapshot does not exist, TableError if one has two live rows with the same key.
    """
    to = table.snapshot(to_snapshot).scan()
    if from_snapshot == 0:
        return Changes(table.store.root, 0, to_snapshot, to.live, 0, 0, 0, 0, to, None)
    start = table.snapshot(from_snapshot).scan()
    earlier = start.layout
    # The rows of both in the columns of the second: what only the first has is no difference.
    start = dataclasses.replace(start, layout=to.layout.of_values_in(earlier))
    before, after = _Side(start, to, earlier), _Side(to, start, earlier)
    with temporary_folder("sfr-changes-") as folder:
        counts = _join(before, after, folder, partition_rows)
    new, changed, deleted = counts
    return Changes(
        table=table.store.root,
        from_snapshot=from_snapshot,
        to_snapshot=to_snapshot,
        new=new,
        changed=changed,
        deleted=deleted,
        unchanged=to.live - new - changed,
        files_read=len(before.scan.files) + len(after.scan.files),
        _upserts=after.chosen(after.marked).select(to.table_schema.names),
        _deletes=before.chosen(before.marked),
    )


class _Side:
    """One of the two snapshots: its live rows, without those that are live in the other one in the same place."""

    def __init__(self, whole: Scan, other: Scan, earlier: Layout) -> None:
        """earlier: the layout of the first snapshot."""
        self.key = key_columns(whole.table_schema)
        theirs = {f.split_id: f for f in other.files if whole.layout.shows_the_same(earlier, f.covers)}
        lists = whole.lists(), other.lists()
        files = [_alone(file, theirs.get(file.split_id), *lists) for file in whole.files]
        self.scan = dataclasses.replace(whole.select(self.key), files=[file for file in files if file and file.live])
        # Rows are numbered through all files; each begins at a whole byte of the bits.
        sizes = np.array([-(-file.rows // 8) for file in self.scan.files], dtype=np.int64)
        self._starts = np.concatenate([[0], np.cumsum(sizes)])
        self.marked = self._bits()
        self.compared = self._bits()

    def _bits(self) -> NDArray[np.uint8]:
        return np.zeros(int(self._starts[-1]), dtype=np.uint8)

    @staticmethod
    def mark(bits: NDArray[np.uint8], rows: Positions) -> None:
        """Set the bits of the rows with these numbers."""
        np.bitwise_or.at(bits, rows >> 3, (128 >> (rows & 7)).astype(np.uint8))

    def chosen(self, bits: NDArray[np.uint8]) -> Scan:
        """A scan of the rows whose bits are set in ``bits``."""
        files = []
        for number, file in enumerate(self.scan.files):
            only = bits[self._starts[number] : self._starts[number + 1]]
            if only.any():
                files.append(dataclasses.replace(file, only=only))
        return dataclasses.replace(self.scan, files=files)

    def records(self, scan: Scan, column: str, *, is_to: bool) -> Iterator[HashedRows]:
        """The rows of ``scan``, which are some of this side, by file. column: the one to compare."""
        number_of = {file.split_id: number for number, file in enumerate(self.scan.files)}
        lists = scan.lists()
        for file, rows in scan.select([*self.key, column]).by_file():
            records = np.empty(rows.num_rows, dtype=_ROW)
            id_hash, content = halves(hash_ids(rows.column(names.ID).to_pylist())), _hashes(rows.column(column))
            records["hash"], records["hash_2"] = id_hash.T
            records["content"], records["content_2"] = content.T
            records["chunk"] = rows.column(names.CHUNK).to_numpy() if names.CHUNK in self.key else 0
            records["is_to"] = is_to
            records["row"] = 8 * self._starts[number_of[file.split_id]] + np.flatnonzero(file.mask(lists))
            yield records


def _alone(file: LiveFile, other: LiveFile | None, lists: DeadLists, theirs: DeadLists) -> LiveFile | None:
    """The file with its live rows that are not live in ``other``, the same file in the other snapshot.

    lists, theirs: readers of the dead rows of either.
    None if there is no such row. All of its live rows if the other snapshot does not have the file (``other`` is None).
    """
    if other is None:
        return file
    if other.dead is None:
        return None
    return dataclasses.replace(file, only=np.packbits(file.mask(lists) & ~other.mask(theirs)))


def _hashes(column: pa.ChunkedArray) -> NDArray[np.uint64]:
    """[n, 2] 128 bits of each value: a hash as it is, a vector by a hash of its bytes."""
    if not pa.types.is_fixed_size_list(column.type):
        return halves(column)
    vectors = np.ascontiguousarray(vectors_of(column.combine_chunks()))
    digests = [hashlib.blake2b(vector, digest_size=16).digest() for vector in vectors]
    return np.frombuffer(b"".join(digests), dtype=np.uint64).reshape(-1, 2)


def _join(before: _Side, after: _Side, folder: Path, partition_rows: int) -> tuple[int, int, int]:
    """Mark upserts and deletes. Returns the numbers (new, changed, deleted)."""
    schema = after.scan.table_schema
    row_hash = names.ROW_HASH if names.ROW_HASH in schema.names else names.CONTENT_HASH
    new = changed = deleted = moved = 0
    for old, fresh, pairs in _joined(before, after, before.scan, after.scan, row_hash, folder, partition_rows):
        deleted += len(old)
        new += len(fresh)
        before.mark(before.marked, old["row"])
        after.mark(after.marked, fresh["row"])
        was, now = pairs
        same = (was["content"] == now["content"]) & (was["content_2"] == now["content_2"])
        changed += int((~same).sum())
        moved += int(same.sum())
        after.mark(after.marked, now["row"][~same])
        before.mark(before.compared, was["row"][same])
        after.mark(after.compared, now["row"][same])
    if moved:
        vectors = before.chosen(before.compared), after.chosen(after.compared)
        for _, _, (was, now) in _joined(before, after, *vectors, names.EMBEDDING, folder, partition_rows):
            other = (was["content"] != now["content"]) | (was["content_2"] != now["content_2"])
            changed += int(other.sum())
            after.mark(after.marked, now["row"][other])
    return new, changed, deleted


def _joined(
    before: _Side, after: _Side, old: Scan, fresh: Scan, column: str, folder: Path, partition_rows: int
) -> Iterator[tuple[HashedRows, HashedRows, tuple[HashedRows, HashedRows]]]:
    """By partition: rows of the old side alone, rows of the new side alone, and pairs of rows with the same key."""
    with temporary_folder("", folder) as own:
        spill = Spill(own, _ROW, old.live + fresh.live, partition_rows)
        for records in before.records(old, column, is_to=False):
            spill.add(records)
        for records in after.records(fresh, column, is_to=True):
            spill.add(records)
        for partition in spill.partitions():
            key = ("hash", "hash_2", "chunk")
            ordered = partition[np.lexsort([partition["is_to"], *(partition[name] for name in reversed(key))])]
            follows = np.ones(max(0, len(ordered) - 1), dtype=bool)
            for name in key:
                follows &= ordered[name][1:] == ordered[name][:-1]
            twice = follows & (ordered["is_to"][1:] == ordered["is_to"][:-1])
            if twice.any():
                broken = (after if ordered["is_to"][1:][twice][0] else before).scan
                raise TableError(
                    f"Snapshot {broken.snapshot} of {broken.store.root} has two live rows with the same id. `sfr-batch "
                    f"audit {broken.store.root} --snapshot {broken.snapshot}` shows which."
                )
            first = np.flatnonzero(follows)
            alone = np.ones(len(ordered), dtype=bool)
            alone[first] = alone[first + 1] = False
            rest = ordered[alone]
            yield rest[~rest["is_to"]], rest[rest["is_to"]], (ordered[first], ordered[first + 1])


def _with_operation(rows: pa.Table, operation: str) -> pa.Table:
    rows = pa.table(rows.columns, schema=pa.schema([each.with_nullable(True) for each in rows.schema]))
    return rows.add_column(0, OP, pa.array([operation] * rows.num_rows, pa.string()))


def as_json(batch: pa.RecordBatch, operation: str) -> Iterator[dict[str, Any]]:
    """Rows as JSON objects with ``op`` first. Vectors are lists, hashes hexadecimal; see `json_values` for the rest."""
    for row in rows_as_json(batch):
        yield {OP: operation, **row}
