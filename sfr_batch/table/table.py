"""Reads a table: its card, its snapshots and their live rows.

A reader sees a whole snapshot or nothing. Knows no model, and writes nothing: that is the task of `commit`.
"""

import hashlib
from collections.abc import Sequence
from datetime import datetime
from typing import Any, TypeVar, cast

import pyarrow as pa
import pyarrow.compute as pc

from sfr_batch.errors import ConfigError, ObjectNotFound, TableDamaged, TableError, TableNotFound, counted
from sfr_batch.format import history, names
from sfr_batch.format.accepted import AcceptedInputs
from sfr_batch.format.dead_rows import Dead, DeadPart, DeadRows, read_list
from sfr_batch.format.expired import MANIFEST_WAYS_OUT, check_not_expired, damaged, expiry_explained, published_numbers
from sfr_batch.format.fingerprint import LATER_INPUTS, differences
from sfr_batch.format.indexes import PartReader, read_ahead, rejects_of
from sfr_batch.format.known_types import KnownTypes
from sfr_batch.format.layout import Layout
from sfr_batch.format.notebook import html_table
from sfr_batch.format.parquet import check_fingerprint, damage_explained, read_parquet
from sfr_batch.format.records import (
    WAYS_OUT,
    IndexPart,
    Manifest,
    Receipt,
    ShardRecord,
    SideFile,
    TableCard,
)
from sfr_batch.format.schemas import is_undecided
from sfr_batch.format.side_tables import columns_of, from_table
from sfr_batch.format.store_times import published_at, visible_since
from sfr_batch.storage.parallel import read_many
from sfr_batch.storage.store import ObjectInfo, Store
from sfr_batch.table import duckdb_sql
from sfr_batch.table.arguments import whole_number
from sfr_batch.table.readers import Columns, Ids, Readers
from sfr_batch.table.scan import LiveFile, Scan
from sfr_batch.table.tabular import Tabular

_R = TypeVar("_R", Receipt, ShardRecord, IndexPart, DeadPart)
_CARD_WAYS_OUT = (
    "Restore it from a copy. Without one, remove it: `sfr-batch repair CONFIG` then shows what it takes to make it "
    "anew, and with --write it does so."
)


class Table(Readers):
    """A table of embeddings. Open one with `sfr_batch.open_table`."""

    def __init__(self, store: Store, card: TableCard) -> None:
        self.store = store
        self.card = card
        self._layout: Layout | None = None
        self.seen: pa.Schema | None = None
        """The columns as data files show them, if the record of their types is lost: see `find_remains`."""

    @classmethod
    def open(cls, store: Store) -> "Table":
        """Open the table at ``store``. Raises TableNotFound if no run has created it yet, TableDamaged if it has data
        files and no card."""
        try:
            data = store.read(names.TABLE_JSON)
        except ObjectNotFound:
            files = sum(names.split_of_data_key(info.key) is not None for info in store.list(names.DATA))
            if files:
                raise TableDamaged(
                    f"{store.root} has lost its {names.TABLE_JSON}, but data/ has {counted(files, 'data file')} of a "
                    "table: perhaps a copy has left out names that begin with _",
                    "Copy the whole folder _sfr again. Without it, `sfr-batch repair CONFIG` shows what it takes to "
                    "make a table of these files, and with --write it does so.",
                ) from None
            raise TableNotFound(
                f"There is no table at {store.root} (no {names.TABLE_JSON}). Check the path, or create it with "
                "`sfr-batch embed`."
            ) from None
        return cls(store, TableCard.from_json(data, f"{store.root}/{names.TABLE_JSON}", _CARD_WAYS_OUT))

    def plain(self) -> "Table":
        """This table for other processes: its store and its card, without what a class above has loaded."""
        plain = Table(self.store, self.card)
        plain._layout = self.layout
        return plain

    def __repr__(self) -> str:
        latest = self.latest()
        state = latest.brief() if latest else "no snapshot yet"
        return f"<Table {self.store.root}: {state}>"

    @property
    def schema(self) -> pa.Schema:
        """The columns of the newest snapshot. Those that have no value yet have the type null, see `KnownTypes`."""
        latest = self.latest()
        return latest.schema if latest else self.layout.schema

    @property
    def layout(self) -> Layout:
        """The layout that the table was made with: that of data files whose receipts name no other."""
        if self._layout is None:
            self.refresh_types()
            assert self._layout is not None
        return self._layout

    def refresh_types(self) -> int:
        """Find out which columns have types today. Returns the number of the newest record of types, 0 without one."""
        self._layout = Layout.of_table(self.seen or self.card.schema, self.card.row_hash)
        if not is_undecided(self.card.schema):
            return 0
        found = [names.number_of_types_key(info.key) or 0 for info in self.store.list(names.TYPES)]
        if newest := max(found, default=0):
            key = names.types_key(newest)
            record = KnownTypes.from_json(self.store.read(key), f"{self.store.root}/{key}")
            check_fingerprint(self.store, key, record.fingerprint, self.card.fingerprint)
            self._layout = Layout.of_table(record.schema.with_metadata({names.TYPES: ""}), self.card.row_hash)
        return newest

    @property
    def dim(self) -> int:
        """Length of a vector."""
        return int(self.layout.schema.field(names.EMBEDDING).type.list_size)

    def accepted(self) -> AcceptedInputs | None:
        """What was accepted for a table that does not record all inputs of its fingerprint; None without a record."""
        try:
            data = self.store.read(names.ACCEPTED_JSON)
        except ObjectNotFound:
            return None
        found = AcceptedInputs.from_json(data, f"{self.store.root}/{names.ACCEPTED_JSON}")
        check_fingerprint(self.store, names.ACCEPTED_JSON, found.fingerprint, self.card.fingerprint)
        return found

    def known_inputs(self, newest: "Snapshot | None" = None) -> dict[str, Any]:
        """The inputs of the fingerprint: those of the card, and those that were accepted since.

        newest: the newest snapshot, which repeats what was accepted. Raises TableError if it says something else.
        """
        known = self.card.fingerprint_inputs
        if all(name in known for name in LATER_INPUTS):
            return known
        record, repeated = self.accepted(), newest.manifest.accepted if newest else None
        if record and repeated and differences(record.inputs, repeated):
            raise TableError(
                f"{self.store.root}/{names.ACCEPTED_JSON} and snapshot {newest.number if newest else 0} say that other "
                f"inputs of the fingerprint were accepted. {WAYS_OUT}"
            )
        return {**known, **(record.inputs if record else repeated or {})}

    def published_numbers(self) -> list[int]:
        """All published snapshot numbers, oldest first, including those of expired snapshots."""
        return published_numbers(self.store)

    def snapshot_numbers(self) -> list[int]:
        """Numbers of the snapshots that can still be read, oldest first."""
        numbers = self.published_numbers()
        if len(numbers) < 2:
            return numbers
        newest = self.published(numbers[-1]).manifest
        return [number for number in numbers if not newest.has_expired(number)]

    def snapshot(self, number: int) -> "Snapshot":
        """The snapshot with this number.

        Raises TableNotFound if it does not exist or has expired, TableError if it is damaged or of another table.
        """
        snapshot = self.published(number)
        check_not_expired(self.store, number)
        return snapshot

    def published(self, number: int) -> "Snapshot":
        """Like `snapshot`, but also for an expired one, of which only the manifest is left."""
        number = whole_number("snapshot", number, 0)
        key = names.manifest_key(number)
        try:
            data = self.store.read(key)
        except ObjectNotFound:
            known = ", ".join(map(str, self.snapshot_numbers())) or "none"
            raise TableNotFound(f"{self.store.root} has no snapshot {number}. Available: {known}.") from None
        manifest = Manifest.from_json(data, f"{self.store.root}/{key}", MANIFEST_WAYS_OUT)
        check_fingerprint(self.store, key, manifest.fingerprint, self.card.fingerprint)
        if is_undecided(self.layout.schema):  # it may have become known since
            self.refresh_types()
        return self.make_snapshot(manifest)

    def make_snapshot(self, manifest: Manifest) -> "Snapshot":
        """The snapshot that a manifest of this table describes."""
        stated = manifest.layout
        layout = self.layout.changed_to(stated.schema, stated.row_hash) if stated else self.layout
        return Snapshot(self.store, manifest, layout)

    def latest(self) -> "Snapshot | None":
        """The newest snapshot, or None if nothing has been published yet."""
        numbers = self.published_numbers()
        return self.published(numbers[-1]) if numbers else None

    def snapshots(self) -> "Snapshots":
        """All snapshots that can still be read, oldest first. They print one line each."""
        return Snapshots(self.published(number) for number in self.snapshot_numbers())

    def at(self, snapshot: int | None = None, time: str | datetime | None = None) -> "Snapshot":
        """The snapshot with this number, or the newest one at this time: ISO 8601, in UTC unless it names a zone.

        The clock is that of the store, whatever those of the writers said: where the time of a snapshot is more than a
        minute away from that of its manifest on the store, the store's counts.

        Raises TableNotFound if it does not exist or has expired, ConfigError for an invalid time.
        """
        if (snapshot is None) == (time is None):
            raise ConfigError("Give either the number of a snapshot or a time.")
        if snapshot is not None:
            return self.snapshot(snapshot)
        wanted = history.moment(str(time) if not isinstance(time, datetime) else time)
        earliest, times = None, published_at(self.store)
        for number in reversed(times):
            earliest = self.published(number)
            if visible_since(earliest.manifest, times) <= wanted.timestamp():
                check_not_expired(self.store, number)
                return earliest
        if earliest is None:
            raise TableNotFound(f"Nothing has been published in {self.store.root} yet.")
        raise TableNotFound(
            f"{self.store.root} had no snapshot yet at {wanted.isoformat()}. The first one was published at "
            f"{history.iso(visible_since(earliest.manifest, times))}."
        )

    def current(self) -> "Snapshot":
        """The newest snapshot. Raises TableNotFound if nothing has been published yet."""
        latest = self.latest()
        if latest is None:
            raise TableNotFound(
                f"Nothing has been published in {self.store.root} yet. `sfr-batch status {self.store.root}` shows the "
                "progress of its run. To complete the run, repeat the same `sfr-batch embed`."
            )
        return latest

    def scan(self, columns: Columns = None, *, where: str | None = None, ids: Ids = None) -> Scan:
        """A scan of the newest snapshot. Raises TableNotFound if nothing has been published yet."""
        return self.current().scan(columns, where=where, ids=ids)

    def duckdb_view(self, name: str = "embeddings", columns: Columns = None) -> str:
        """SQL that creates a view of the newest snapshot in DuckDB. See `Snapshot.duckdb_view`."""
        return self.current().duckdb_view(name, columns)

    @property
    def num_rows(self) -> int:
        """Number of live rows of the newest snapshot. It is not ``len()``, so that an empty table is not false."""
        return self.current().manifest.counts.vectors

    def committed(self) -> dict[str, ObjectInfo]:
        """All data files on storage by split id, published or not, from one listing."""
        found = ((names.split_of_data_key(info.key), info) for info in self.store.list(names.DATA))
        return {split_id: info for split_id, info in found if split_id is not None}


class Snapshot(Readers):
    """A published version of a table. Side files are read when needed and checked against the manifest's SHA-256."""

    exists = True
    """Whether it was published: what a repair builds upon may have no manifest any more."""

    def __init__(self, store: Store, manifest: Manifest, layout: Layout) -> None:
        self.store = store
        self.manifest = manifest
        self.layout = layout
        self.schema = layout.schema
        # Not functools.cached_property: before Python 3.12 it holds a lock of the whole class while it reads.
        self._sides: dict[str, pa.Table] = {}
        self._records: dict[type, tuple[Any, ...]] = {}
        self._dead: dict[str, Dead] | None = None

    @property
    def number(self) -> int:
        return self.manifest.snapshot

    def brief(self) -> str:
        counts = self.manifest.counts
        when = f"snapshot {self.number} of {self.manifest.created_at}"
        return f"{when}, {counted(counts.vectors, 'vector')}, {counted(counts.rejected, 'reject')}"

    def __repr__(self) -> str:
        return f"<Snapshot {self.store.root}: {self.brief()}>"

    @property
    def share_cut(self) -> float:
        """Share of all tokens, in 0 to 1, that truncation cut off before the rows were embedded."""
        counts = self.manifest.counts
        return max(0.0, 1 - counts.tokens / counts.tokens_full) if counts.truncated and counts.tokens_full else 0.0

    def read_receipts(self) -> tuple[Receipt, ...]:
        """Receipts of the data files that this snapshot needs, in order. Some of their rows may not be live.

        They are kept in memory with the snapshot: a million take about 10 s and 1 GB. Where a few fields of them will
        do, `receipt_columns` takes a hundredth of that.
        """
        return self._decoded(Receipt, self.manifest.files)

    def receipt_columns(self, fields: Sequence[str]) -> pa.Table:
        """These fields of the receipts, a column each, in the order of `read_receipts`. No receipt is decoded."""
        return columns_of(Receipt, self._side(self.manifest.files), fields)

    def split_ids(self) -> list[str]:
        """Split ids of the data files that this snapshot needs, in order."""
        return cast("list[str]", self.receipt_columns([names.SPLIT_ID]).column(0).to_pylist())

    def files_with_other_columns(self) -> int:
        """Number of data files that were written with other carried columns than the snapshot has."""
        return int(pc.sum(pc.not_equal(self.receipt_columns(["covers"]).column(0), self.layout.covers)).as_py() or 0)

    def read_shards(self) -> tuple[ShardRecord, ...]:
        """The shards that this snapshot covers."""
        return self._decoded(ShardRecord, self.manifest.shards)

    def read_indexes(self) -> dict[str, list[IndexPart]]:
        """Parts of index files, in order, by the URI of their shard. Shards that own their data files have none."""
        grouped: dict[str, list[IndexPart]] = {}
        for part in self._decoded(IndexPart, self.manifest.indexes) if self.manifest.indexes else ():
            grouped.setdefault(part.shard, []).append(part)
        return grouped

    def index_keys(self) -> set[str]:
        """Keys of the index files that this snapshot needs."""
        side = self.manifest.indexes
        return set(self._side(side).column("key").unique().to_pylist()) if side else set()

    def dead_keys(self) -> set[str]:
        """Keys of the lists of dead rows that this snapshot needs."""
        side = self.manifest.dead_rows
        return set(self._side(side).column("key").unique().to_pylist()) if side else set()

    def read_condemned(self) -> frozenset[str]:
        """Split ids that must never be used again."""
        side = self.manifest.condemned
        return frozenset(self._side(side).column(names.SPLIT_ID).to_pylist()) if side else frozenset()

    def attached(self) -> set[str]:
        """Keys of side and index files, lists of dead rows and duplicates. An earlier snapshot may have made them."""
        keys = {side.name for side in self.manifest.sides} | self.index_keys() | self.dead_keys()
        return keys | {self.manifest.duplicates} if self.manifest.duplicates else keys

    def needs(self) -> set[str]:
        """Keys of all objects without which this snapshot cannot be read or built upon, except its manifest.

        The rejects of a data file stay as long as the file, whoever owns it now: it may be a shard's own again.
        """
        return {
            *self.attached(),
            *map(names.data_key, self.split_ids()),
            *self.keys_of_rejects(owned=False),
        }

    def read_deletes(self) -> DeadRows:
        """Positions of dead rows in data files, by split id; each file's are read when they are asked for."""
        if self._dead is None:
            dead: dict[str, Dead] = {}
            if earlier := self.manifest.deletes:
                dead.update(read_list(self._side_data(earlier)))
            if listed := self.manifest.dead_rows:
                dead.update((part.split_id, part) for part in self._decoded(DeadPart, listed))
            self._dead = dead
        return DeadRows(self._dead, self.store, self.number)

    def rejects(self, *, duplicates: bool = True, shards: frozenset[str] | None = None) -> pa.Table:
        """Every rejected row with its reason; columns of `names.REJECTS_SCHEMA`. shards: URIs of those that are wanted.

        duplicates: whether rows are among them, of all shards, that have a vector and gave way to one with their id.
        """
        rejected = {r.uri for r in self.read_shards() if r.rejected and (shards is None or r.uri in shards)}
        keys = self.keys_of_rejects(owned=True, shards=shards)
        keys += [self.manifest.duplicates] if self.manifest.duplicates and duplicates else []
        parts = [part for shard, its in self.read_indexes().items() if shard in rejected for part in its]
        indexes, tables = PartReader(self.store, [names.ID, names.POSITION, names.REASON, names.MESSAGE]), []
        with expiry_explained(self.store, self.number):
            for key, data in zip(keys, read_many(self.store, keys), strict=True):
                with damage_explained(self.store, key):
                    tables.append(read_parquet(data))
            tables += read_ahead(lambda p: rejects_of(indexes.read(p), p.shard), parts, [p.rows for p in parts])
        return pa.concat_tables(tables) if tables else names.REJECTS_SCHEMA.empty_table()

    def scan(self, columns: Columns = None, *, where: str | None = None, ids: Ids = None) -> Scan:
        dead = self.read_deletes().parts
        columns_of_files = self.receipt_columns([names.SPLIT_ID, "vectors", "size", "covers"]).columns
        files = zip(*(column.to_pylist() for column in columns_of_files), strict=True)
        live = [LiveFile(split_id, rows, size, dead.get(split_id), covers) for split_id, rows, size, covers in files]
        everything = Scan(
            store=self.store,
            layout=self.layout,
            snapshot=self.number,
            fingerprint=self.manifest.fingerprint,
            files=[file for file in live if file.live],
            deletes=self.manifest.deletes.name if self.manifest.deletes else None,
            columns=self.schema.names,
        )
        return everything.restrict(columns, where, ids)

    def duckdb_view(self, name: str = "embeddings", columns: Columns = None) -> str:
        """SQL that creates a view of this snapshot in DuckDB, which then needs no sfr-batch; vectors are FLOAT[d].

        Raises ConfigError if DuckDB would give other values than those of a column, see `duckdb_sql.select`.
        """
        return duckdb_sql.view(self.scan(columns), name, self.brief())

    def keys_of_rejects(self, *, owned: bool, shards: frozenset[str] | None = None) -> list[str]:
        """Keys of the rejects of all data files, or of those that are owned by their shard, or by one of ``shards``."""
        receipts = self.receipt_columns([names.SPLIT_ID, "attempt", "rejected", "owned", names.SHARD])
        chosen = receipts.column("rejected").cast(pa.bool_())  # a comparison with a number loads pandas
        chosen = pc.and_(chosen, receipts.column("owned")) if owned else chosen
        if shards is not None:
            chosen = pc.and_(chosen, pc.is_in(receipts.column(names.SHARD), pa.array(list(shards), pa.string())))
        rejected = receipts.filter(chosen).to_pydict()
        return list(map(names.rejects_key, rejected[names.SPLIT_ID], rejected["attempt"]))

    def _decoded(self, cls: type[_R], side: SideFile) -> tuple[_R, ...]:
        if cls not in self._records:
            self._records[cls] = tuple(from_table(cls, self._side(side)))
        return self._records[cls]

    def _side(self, side: SideFile) -> pa.Table:
        if side.name not in self._sides:
            self._sides[side.name] = read_parquet(self._side_data(side))
        return self._sides[side.name]

    def _side_data(self, side: SideFile) -> bytes:
        with expiry_explained(self.store, self.number):
            data = self.store.read(side.name)
        if hashlib.sha256(data).hexdigest() != side.sha256:
            what = f"{self.store.root}/{side.name} is not the file that snapshot {self.number} was published with"
            raise damaged(self.store, self.number, what)
        return data


class Snapshots(list[Snapshot], Tabular):
    """A list of snapshots that prints as a table; `to_pandas` and `to_arrow` have a row for each."""

    def to_arrow(self) -> pa.Table:
        """A row for each: numbers are numbers, ``when`` is a timestamp in UTC."""
        return history.table([snapshot.manifest for snapshot in self])

    def describe(self, width: int | None = None) -> str:
        """Lines of at most ``width`` characters: what does not fit is left out; None: all."""
        return history.listing([snapshot.manifest for snapshot in self], width)

    def __repr__(self) -> str:
        return self.describe()

    def _repr_html_(self) -> str:
        numbers = [number for number, name in enumerate(history.HEAD) if name in history.NUMBERS]
        return html_table([history.row(s.manifest) for s in self], head=history.HEAD, numbers=numbers)
