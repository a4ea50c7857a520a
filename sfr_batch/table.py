"""Reading a table: its card, its snapshots, its live rows.

A reader sees a snapshot or nothing. Writing is `commit`'s; encoding a query is `search`'s; this module knows no model.
"""

import hashlib
from collections.abc import Iterator, Sequence

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from sfr_batch import schema as names
from sfr_batch.errors import ObjectNotFound, TableError, TableNotFound
from sfr_batch.indexes import read_part, rejects_of
from sfr_batch.manifest import IndexPart, Manifest, Receipt, ShardRecord, SideFile, TableCard, from_table
from sfr_batch.parquet import check_fingerprint, damage_explained, read_data_file, read_parquet
from sfr_batch.storage import ObjectInfo, Store, in_parallel, read_many

Positions = NDArray[np.int64]

_FILES_AHEAD = 2
"""Data files that a scan reads ahead: with 256 MiB of vectors a file, this bounds its memory."""


class Table:
    """A table of embeddings. Open one with `sfr_batch.open_table`."""

    def __init__(self, store: Store, card: TableCard) -> None:
        self.store = store
        self.card = card

    @classmethod
    def open(cls, store: Store) -> "Table":
        """Raises TableNotFound where no run has created the table yet."""
        try:
            data = store.read(names.TABLE_JSON)
        except ObjectNotFound:
            raise TableNotFound(
                f"There is no table at {store.root} (no {names.TABLE_JSON}). Check the path, or create it with "
                "`sfr-batch embed`."
            ) from None
        return cls(store, TableCard.from_json(data, f"{store.root}/{names.TABLE_JSON}"))

    def __repr__(self) -> str:
        latest = self.latest()
        state = latest.brief() if latest else "no snapshot yet"
        return f"<Table {self.store.root}: {state}>"

    @property
    def schema(self) -> pa.Schema:
        return self.card.schema

    @property
    def dim(self) -> int:
        """Length of a vector."""
        return int(self.schema.field(names.EMBEDDING).type.list_size)

    def snapshot_numbers(self) -> list[int]:
        """Numbers of all snapshots, oldest first."""
        found = (names.number_of_manifest_key(info.key) for info in self.store.list(names.SNAPSHOTS))
        return sorted(number for number in found if number is not None)

    def snapshot(self, number: int) -> "Snapshot":
        """Raises TableNotFound if there is no such snapshot, TableError if it is damaged or of another table."""
        key = names.manifest_key(number)
        try:
            data = self.store.read(key)
        except ObjectNotFound:
            known = ", ".join(map(str, self.snapshot_numbers())) or "none"
            raise TableNotFound(f"{self.store.root} has no snapshot {number}. Snapshots: {known}.") from None
        manifest = Manifest.from_json(data, f"{self.store.root}/{key}")
        check_fingerprint(self.store, key, manifest.fingerprint, self.card.fingerprint)
        return Snapshot(self.store, manifest, self.schema)

    def latest(self) -> "Snapshot | None":
        """The newest snapshot; None while nothing was published."""
        numbers = self.snapshot_numbers()
        return self.snapshot(numbers[-1]) if numbers else None

    def snapshots(self) -> list["Snapshot"]:
        """All snapshots, oldest first."""
        return [self.snapshot(number) for number in self.snapshot_numbers()]

    def current(self) -> "Snapshot":
        """The newest snapshot. Raises TableNotFound while nothing was published."""
        latest = self.latest()
        if latest is None:
            raise TableNotFound(
                f"Nothing is published in {self.store.root} yet. `sfr-batch status {self.store.root}` shows how far "
                "its run is; running the same `sfr-batch embed` again completes it."
            )
        return latest

    def batches(self, columns: Sequence[str] | None = None) -> Iterator[pa.RecordBatch]:
        """Live rows of the newest snapshot, see `Snapshot.batches`."""
        return self.current().batches(columns)

    def to_arrow(self, columns: Sequence[str] | None = None) -> pa.Table:
        """Live rows of the newest snapshot as one Arrow table."""
        return self.current().to_arrow(columns)

    @property
    def num_rows(self) -> int:
        """Live rows of the newest snapshot. Not ``len()``: a table would be false while it is empty."""
        return self.current().manifest.counts.vectors

    def committed(self) -> dict[str, ObjectInfo]:
        """Data files on storage by split id, published or not: one listing."""
        found = ((names.split_of_data_key(info.key), info) for info in self.store.list(names.DATA))
        return {split_id: info for split_id, info in found if split_id is not None}


class Snapshot:
    """One published state. Side files are read when asked for and checked against the manifest's SHA-256."""

    def __init__(self, store: Store, manifest: Manifest, schema: pa.Schema) -> None:
        self.store = store
        self.manifest = manifest
        self.schema = schema
        # Not functools.cached_property: before Python 3.12 it holds a lock of the whole class while it reads.
        self._sides: dict[str, pa.Table] = {}

    @property
    def number(self) -> int:
        return self.manifest.snapshot

    def brief(self) -> str:
        counts = self.manifest.counts
        when = f"snapshot {self.number} of {self.manifest.created_at}"
        return f"{when}, {counts.vectors:,} vectors, {counts.rejected:,} rejects"

    def __repr__(self) -> str:
        return f"<Snapshot {self.store.root}: {self.brief()}>"

    @property
    def receipts(self) -> list[Receipt]:
        """Receipts of the data files that this state needs, in order; some of their rows may not be live."""
        return from_table(Receipt, self._side(self.manifest.files))

    @property
    def share_cut(self) -> float:
        """Share of all tokens that no vector has seen, because rows were truncated, in 0 to 1."""
        counts = self.manifest.counts
        return max(0.0, 1 - counts.tokens / counts.tokens_full) if counts.truncated and counts.tokens_full else 0.0

    @property
    def shards(self) -> list[ShardRecord]:
        """The shards that this state covers."""
        return from_table(ShardRecord, self._side(self.manifest.shards))

    @property
    def condemned(self) -> frozenset[str]:
        """Split ids that must never be used again."""
        side = self.manifest.condemned
        return frozenset(self._side(side).column("split_id").to_pylist()) if side else frozenset()

    @property
    def indexes(self) -> dict[str, list[IndexPart]]:
        """Parts of index files, in order, by the URI of the shard whose rows they are; of owned data files none."""
        grouped: dict[str, list[IndexPart]] = {}
        for part in from_table(IndexPart, self._side(self.manifest.indexes)) if self.manifest.indexes else ():
            grouped.setdefault(part.shard, []).append(part)
        return grouped

    def deletes(self) -> dict[str, Positions]:
        """Positions in data files, by split id, that are not live."""
        if self.manifest.deletes is None:
            return {}
        table = self._side(self.manifest.deletes).combine_chunks()
        positions = table.column("position").to_numpy()
        files = table.column("split_id").combine_chunks().dictionary_encode()
        order = np.argsort(files.indices.to_numpy(), kind="stable")
        bounds = np.cumsum(np.bincount(files.indices.to_numpy(), minlength=len(files.dictionary)))
        return dict(zip(files.dictionary.to_pylist(), np.split(positions[order], bounds[:-1]), strict=True))

    def rejects(self) -> pa.Table:
        """Every row that is not in the table, with its reason: columns of `schema.REJECTS_SCHEMA`."""
        rejected = {record.uri for record in self.shards if record.rejected}
        keys = [names.rejects_key(r.split_id, r.attempt) for r in self.receipts if r.rejected and r.owned]
        keys += [self.manifest.duplicates] if self.manifest.duplicates else []
        tables = []
        for key, data in zip(keys, read_many(self.store, keys), strict=True):
            with damage_explained(self.store, key):
                tables.append(read_parquet(data))
        for shard, parts in self.indexes.items():
            tables += [rejects_of(read_part(self.store, part), shard) for part in parts if shard in rejected]
        return pa.concat_tables(tables) if tables else names.REJECTS_SCHEMA.empty_table()

    def batches(self, columns: Sequence[str] | None = None) -> Iterator[pa.RecordBatch]:
        """Live rows in corpus order, a record batch or more a data file, with the given columns (default: all).

        Memory is bounded by a few data files. Raises TableError for an unknown column or a damaged file.
        """
        wanted = self._columns(columns)
        deletes = self.deletes()
        receipts = [receipt for receipt in self.receipts if receipt.vectors]
        for table in in_parallel(lambda receipt: self._read_file(receipt, wanted, deletes), receipts, _FILES_AHEAD):
            yield from table.to_batches()

    def to_arrow(self, columns: Sequence[str] | None = None) -> pa.Table:
        """All live rows in memory."""
        wanted = self._columns(columns)
        return pa.Table.from_batches(
            self.batches(wanted), schema=pa.schema([self.schema.field(name) for name in wanted])
        )

    def _columns(self, columns: Sequence[str] | None) -> list[str]:
        wanted = list(dict.fromkeys(self.schema.names if columns is None else columns))
        for name in wanted:
            if name not in self.schema.names:
                raise TableError(
                    f"There is no column {name!r} in {self.store.root}; it has {', '.join(self.schema.names)}."
                )
        return wanted

    def _read_file(self, receipt: Receipt, columns: list[str], deletes: dict[str, Positions]) -> pa.Table:
        table = read_data_file(self.store, receipt, columns, self.manifest.fingerprint)
        table = table.cast(pa.schema([self.schema.field(name) for name in columns]))
        dead = deletes.get(receipt.split_id)
        if dead is None:
            return table
        live = np.ones(table.num_rows, dtype=bool)
        live[dead] = False
        return table.filter(pa.array(live))

    def _side(self, side: SideFile) -> pa.Table:
        if side.name in self._sides:
            return self._sides[side.name]
        data = self.store.read(side.name)
        if hashlib.sha256(data).hexdigest() != side.sha256:
            raise TableError(
                f"{self.store.root}/{side.name} is not the file that snapshot {self.number} was published with."
            )
        self._sides[side.name] = read_parquet(data)
        return self._sides[side.name]
