"""What is left of a damaged snapshot, in the form of a snapshot: what a repair plans and publishes upon.

Its receipts are those of the whole files, its indexes the parts that can be read, and the shards that lost rows have a
version that no shard has, so that they are read again. The names of lost files count as condemned. Writes nothing.
"""

import contextlib
import dataclasses
from collections.abc import Mapping, Sequence
from functools import cached_property

import pyarrow as pa

from sfr_batch.errors import ObjectNotFound, TableError, TableNotFound
from sfr_batch.format import names
from sfr_batch.format.dead_rows import DeadRows, lists_of
from sfr_batch.format.parquet import read_footer
from sfr_batch.format.records import (
    Counts,
    Expired,
    IndexPart,
    Manifest,
    Receipt,
    ShardRecord,
    SideFile,
    utc_now,
)
from sfr_batch.format.schemas import is_same, is_undecided
from sfr_batch.storage.parallel import in_parallel
from sfr_batch.table.commit.inventory import Inventory, Look, take_inventory, take_stock
from sfr_batch.table.table import Snapshot, Table

_AHEAD = 8
_FOLDERS = (names.DATA, names.REJECTS, names.INDEX, names.DEAD, names.SNAPSHOTS)


class Remains(Snapshot):
    """A snapshot without what is lost of it."""

    def __init__(self, table: Table, snapshot: Snapshot, inventory: Inventory) -> None:
        super().__init__(snapshot.store, snapshot.manifest, snapshot.layout)
        self.table, self.inventory = table, inventory
        self.exists = names.SNAPSHOTS not in inventory.sides_lost

    def brief(self) -> str:
        """As of a snapshot; of one without a manifest, time and numbers of vectors are not known."""
        if names.SNAPSHOTS in self.inventory.sides_lost:
            return f"snapshot {self.number}, whose manifest is damaged"
        return super().brief()

    @cached_property
    def _whole(self) -> tuple[Receipt, ...]:
        whole = self.inventory.receipts
        if not self.inventory.sides_lost.keys().isdisjoint((names.FILES, names.SNAPSHOTS)):
            return ()  # of the files that there are, nobody knows which are the snapshot's
        return tuple(dataclasses.replace(r, owned=False) for r in whole) if self.inventory.everything else tuple(whole)

    def read_receipts(self) -> tuple[Receipt, ...]:
        return self._whole

    def split_ids(self) -> list[str]:
        return [receipt.split_id for receipt in self._whole]

    def read_shards(self) -> tuple[ShardRecord, ...]:
        """The records; those of the affected shards have no version, if not everything is to be read anyway."""
        left = self.inventory
        if left.everything:
            return ()
        return tuple(
            dataclasses.replace(record, version="") if record.uri in left.affected else record
            for record in left.records.values()
        )

    def read_indexes(self) -> dict[str, list[IndexPart]]:
        return {} if self.inventory.everything else {uri: list(parts) for uri, parts in self.inventory.indexes.items()}

    def read_condemned(self) -> frozenset[str]:
        return self.inventory.condemned

    def read_deletes(self) -> DeadRows:
        there, lost = set(self.split_ids()), self.inventory.sides_lost.keys()
        known = {name: dead for name, dead in self.inventory.deletes.items() if name in there}
        read = {name: dead for name, dead in known.items() if lost.isdisjoint(lists_of([dead]))}
        return DeadRows(read, self.store, self.number)


def find_remains(table: Table, look: Look | None = None) -> Remains | None:
    """What is left of the newest snapshot; None if nothing is published. look: see `take_inventory`.

    If the record of types is lost, the table has those that its data files show.
    """
    numbers = table.published_numbers()
    if not numbers:
        return None
    untyped = _take_types(table)
    try:
        snapshot = table.published(numbers[-1])
    except TableNotFound:  # it has gone this moment
        raise
    except TableError as error:
        wrong = str(error).removeprefix(f"{table.store.root}/").partition(". Restore it ")[0]
        return _without_manifest(table, numbers, wrong, look)
    inventory = take_inventory(table, snapshot, look)
    if untyped:
        inventory = dataclasses.replace(inventory, sides_lost={**inventory.sides_lost, names.TYPES: untyped})
    return Remains(table, snapshot, inventory)


def _take_types(table: Table) -> str | None:
    """Give the table the types that its data files have of columns that have none by its records; a sentence on them.

    Only files whose receipts state no columns of their own have those of the table.
    """
    if not is_undecided(table.layout.schema):
        return None

    committed = table.committed()

    def read(split_id: str) -> pa.Schema | None:
        with contextlib.suppress(TableError, ObjectNotFound):
            footer = read_footer(table.store, split_id, committed[split_id].size)
            if not footer.covers and footer.fingerprint == table.card.fingerprint:
                return footer.schema
        return None

    before = known = table.layout.schema
    for schema in in_parallel(read, list(committed), _AHEAD):
        known = schema if schema is not None and is_same(known, schema) else known  # each knows more than those before
    named = [name for name in known.names if not known.field(name).type.equals(before.field(name).type)]
    if not named:
        return None
    table.seen = known.with_metadata({names.TYPES: ""})
    table.refresh_types()
    return f"{names.TYPES} does not have the type of {', '.join(named)}, which data files have"


def rows_of_files(table: Table, number: int, lost: Mapping[str, str], look: Look | None) -> Remains:
    """Data files of which no snapshot is left, as what a repair builds upon. number: for the snapshot that is no more.

    lost: by split id, files that cannot be used, and why.
    """
    sides_lost = {names.SNAPSHOTS: "_sfr is lost, and with it all snapshots"}
    return Remains(table, _nothing(table, number), take_stock(table, dict(lost), sides_lost, look))


def _without_manifest(table: Table, numbers: Sequence[int], wrong: str, look: Look | None) -> Remains:
    """The newest manifest is damaged: what data files and older snapshots say. Of these, the whole ones stay."""
    number, whole = numbers[-1], []
    present = {info.key for folder in _FOLDERS for info in table.store.list(folder)}
    before = None
    for older in reversed(numbers[:-1]):
        with contextlib.suppress(TableError, ObjectNotFound):
            snapshot = table.published(older)
            before = before or snapshot
            if not before.manifest.has_expired(older) and snapshot.needs() <= present:
                whole.append(older)
    base = before or _nothing(table, number)
    expired = Expired(before=number + 1, keep=tuple(sorted(whole)))
    empty = {"snapshot": number, "condemned": None, "expired": expired, "duplicates": None}
    base = table.make_snapshot(base.manifest.model_copy(update=empty))
    remains = Remains(table, base, take_stock(table, {}, {names.SNAPSHOTS: wrong}, look))
    remains.exists = True
    return remains


def _nothing(table: Table, number: int) -> Snapshot:
    none = SideFile(name="", sha256="", rows=0)
    counts = dict.fromkeys(("read", "embedded", "reused", "rejected", "vectors", "tokens", "truncated"), 0)
    manifest = Manifest(
        snapshot=number,
        parent=None,
        operation="repair",
        run_id="",
        created_at=utc_now(),
        fingerprint=table.card.fingerprint,
        row_recipe={},
        generation="",
        counts=Counts(**counts),
        files=none,
        shards=none,
    )
    return table.make_snapshot(manifest)
