"""Pointers: a folder or prefix that names the current table, so that readers need not change when the table does.

A pointer is a series of numbered objects, ``_sfr/pointer/<n>.json``, each created if absent; the highest number counts.
Readers see the old table or the new one, and only one of two writers wins a number. Objects are never changed or
deleted, so they are also the history. A record names the table by its URI, or relative to the pointer if both are in
the same folder, which can then be moved as a whole. It may pin a snapshot; otherwise readers get the newest one.

If two processes promote at once, the later one wins, unless it has said which table it expects to replace. Knows no
configs. `api.open_table` follows pointers; `planning` refuses to write through them.
"""

import secrets
from dataclasses import dataclass

from sfr_batch.config.settings import StorageSettings
from sfr_batch.errors import ConfigError, PointerMoved, TableError
from sfr_batch.format import names
from sfr_batch.format.names import FORMAT_VERSION
from sfr_batch.format.records import Record, utc_now, who
from sfr_batch.storage.locations import absolute_uri, is_s3
from sfr_batch.storage.store import Store
from sfr_batch.table.apart import check_apart
from sfr_batch.table.table import Table

_ATTEMPTS = 10
_BESIDE = "../"
_BESIDE_TABLES = "A pointer needs a folder or prefix of its own, beside the tables."


class PointerRecord(Record):
    """The object under a number."""

    format_version: int = FORMAT_VERSION
    token: str
    """A random name of this record, by which its writer recognises it after a lost reply."""
    table: str
    """An absolute URI, or ``../name`` relative to the pointer."""
    snapshot: int | None
    """Number of the pinned snapshot; None for the newest one."""
    before: int | None
    """Number of the record that this one replaced, to which `back` returns."""
    created_at: str
    by: str


@dataclass(frozen=True)
class PointerTarget:
    """Where a pointer points."""

    root: str
    """URI of the pointer."""
    number: int
    table: str
    """URI of the table."""
    snapshot: int | None
    record: PointerRecord

    def __repr__(self) -> str:
        return f"<PointerTarget {self.describe()}>"

    def __str__(self) -> str:
        """The table, and the pinned snapshot if there is one."""
        return self.table if self.snapshot is None else f"{self.table}, snapshot {self.snapshot}"

    def describe(self) -> str:
        """The pointer and its table, since when, and by whom."""
        by = "".join(char if char.isprintable() else "?" for char in self.record.by)
        return f"{self.root} points to {self}, since {self.record.created_at}, by {by}"


def read_pointer(store: Store) -> PointerTarget | None:
    """Where the pointer at ``store`` points; None if ``store`` is not a pointer. Raises TableError if it is damaged."""
    numbers = (names.number_of_pointer_key(info.key) for info in store.list(names.POINTER))
    newest = max((number for number in numbers if number is not None), default=None)
    return None if newest is None else _read(store, newest)


def promote(
    store: Store,
    table: Table,
    snapshot: int | None = None,
    *,
    expect: str | None = None,
    storage: StorageSettings | None = None,
) -> PointerTarget:
    """Make the pointer at ``store`` point to a table. If others promote at the same time, the last one wins.

    snapshot: number to pin. expect: URI of the table that the pointer must point to now. Raises PointerMoved if it does
    not, TableNotFound if the table lacks that snapshot or has none, ConfigError if ``store`` is a table itself, or if a
    new pointer would be in a table or in this one's corpus, or they in it. storage: settings of the store.
    """
    if snapshot is None:
        table.current()
    else:
        table.snapshot(snapshot)
    _check_no_table(store)
    target = _as_stored(store.root, table.store.root)
    if read_pointer(store) is None:
        check_apart(store.root, table.store, storage, _BESIDE_TABLES, pointer=True)
    for _ in range(_ATTEMPTS):
        now = read_pointer(store)
        if expect is not None and (now is None or now.table != expect):
            where = now.describe() if now else f"{store.root} does not point to a table yet"
            raise PointerMoved(f"{where}. Expected: {expect}. Nothing was changed.")
        if now and (now.table, now.snapshot) == (table.store.root, snapshot):
            return now
        made = _create(store, now, target, snapshot, before=now.number if now else None)
        if made:
            return made
    raise PointerMoved(
        f"Gave up on {store.root}: other processes moved it {_ATTEMPTS} times meanwhile. Run the command again."
    )


def back(store: Store) -> PointerTarget:
    """Make the pointer point to where it pointed before. Repeated, it goes back one more step each time.

    Raises PointerMoved if another process moved it meanwhile, ConfigError if it has not pointed elsewhere before.
    """
    now = read_pointer(store)
    if now is None:
        raise ConfigError(f"{store.root} is not a pointer. `sfr-batch promote {store.root} TABLE` creates one.")
    if now.record.before is None:
        raise ConfigError(f"{now.describe()}. It did not point anywhere before, so it cannot go back.")
    before = _read(store, now.record.before).record
    made = _create(store, now, before.table, before.snapshot, before=before.before)
    if made is None:
        raise PointerMoved(
            f"Another process moved {store.root} meanwhile. Nothing was changed. `sfr-batch status {store.root}` shows "
            "where it points now."
        )
    return made


def refuse_pointer(store: Store) -> None:
    """Raises ConfigError if there is a pointer where a table is to be written."""
    pointed = read_pointer(store)
    if pointed:
        raise read_only_pointer(pointed)


def read_only_pointer(pointed: PointerTarget) -> ConfigError:
    """The error for a writer that was given a pointer."""
    return ConfigError(f"{pointed.root} is a read-only pointer. Pass the table's own path: {pointed.table}.")


def _create(
    store: Store, now: PointerTarget | None, table: str, snapshot: int | None, before: int | None
) -> PointerTarget | None:
    """Create the next record. None if another process has created it."""
    number = now.number + 1 if now else 1
    record = PointerRecord(
        token=secrets.token_hex(16), table=table, snapshot=snapshot, before=before, created_at=utc_now(), by=who()
    )
    if store.create(names.pointer_key(number), record.to_json()):
        return _pointed(store, number, record)
    found = _read(store, number)
    return found if found.record.token == record.token else None  # equal: our own record, the reply was lost


def _read(store: Store, number: int) -> PointerTarget:
    key = names.pointer_key(number)
    return _pointed(store, number, PointerRecord.from_json(store.read(key), f"{store.root}/{key}"))


def _pointed(store: Store, number: int, record: PointerRecord) -> PointerTarget:
    return PointerTarget(store.root, number, _as_uri(store.root, record.table), record.snapshot, record)


def _check_no_table(store: Store) -> None:
    if any(info.key == names.TABLE_JSON for info in store.list(names.TABLE_JSON.split("/")[0])):
        raise ConfigError(f"{store.root} is a table. {_BESIDE_TABLES}")


def _as_stored(root: str, table: str) -> str:
    """The table as a record names it: ``../name`` if it is in the same folder as the pointer."""
    parent = _parent(root)
    return f"{_BESIDE}{table[len(parent) :]}" if parent and table.startswith(parent) else table


def _as_uri(root: str, stored: str) -> str:
    """The inverse. The record is not trusted: a relative name must stay below the folder of the pointer."""
    parent = _parent(root)
    if stored.startswith(_BESIDE) and parent:
        rest = stored.removeprefix(_BESIDE)
        if rest and {"", ".", ".."}.isdisjoint(rest.split("/")):
            return parent + rest
    elif is_s3(stored) or stored.startswith("/"):
        return absolute_uri(stored)
    raise TableError(f"The pointer {root} names {stored!r}, which is not the path of a table. Promote a table again.")


def _parent(root: str) -> str:
    """The folder or bucket of the pointer, with a slash; "" if the pointer is a whole bucket."""
    bucket, slash, rest = root.removeprefix("s3://").rpartition("/")
    if is_s3(root):
        return f"s3://{bucket}/" if slash and rest else ""
    return root[: len(root) - len(rest)]
