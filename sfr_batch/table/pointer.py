"""Pointers: a folder or prefix that says which table is the current one, so that readers need not be told of another.

A pointer is a row of numbered objects, ``_sfr/pointer/<n>.json``, each created if absent, and the highest number
counts: readers see the table before or the table after, and of two writers one wins a number. None is ever changed or
deleted, so they are also its history. A step names the table by its URI, or relative to the pointer if they lie side by
side: then both can be moved together. It may pin a snapshot; else readers get the newest one.

Who promotes while another one does so wins if he is the later one, unless he has said what he expects to replace. Knows
no configs; `api.open_table` follows pointers, and `planning` refuses to write through them.
"""

import secrets
from dataclasses import dataclass

from sfr_batch.errors import ConfigError, PointerMoved, TableError
from sfr_batch.format import names
from sfr_batch.format.names import FORMAT_VERSION
from sfr_batch.format.records import Record, utc_now, who
from sfr_batch.storage.store import Store, absolute_uri, is_s3
from sfr_batch.table.table import Table

_ATTEMPTS = 10
_BESIDE = "../"


class PointerRecord(Record):
    """What stands under a number."""

    format_version: int = FORMAT_VERSION
    token: str
    """Names this writing of it: after a lost reply the writer knows its own again."""
    table: str
    """An absolute URI, or ``../name`` from the pointer."""
    snapshot: int | None
    """The one that is pinned; None for whatever is the newest."""
    before: int | None
    """The number of the step that this one has replaced, and that `back` returns to."""
    created_at: str
    by: str


@dataclass(frozen=True)
class PointerTarget:
    """Where a pointer points."""

    root: str
    """The pointer's own URI."""
    number: int
    table: str
    """URI."""
    snapshot: int | None
    record: PointerRecord

    def __repr__(self) -> str:
        return f"<PointerTarget {self.describe()}>"

    def __str__(self) -> str:
        """The table and the snapshot that is pinned, if one is."""
        return self.table if self.snapshot is None else f"{self.table}, snapshot {self.snapshot}"

    def describe(self) -> str:
        """With when, and by whom."""
        by = "".join(char if char.isprintable() else "?" for char in self.record.by)
        return f"{self.root} points to {self}, since {self.record.created_at}, by {by}"


def read_pointer(store: Store) -> PointerTarget | None:
    """Where the pointer at ``store`` points; None if there is no pointer. Raises TableError if it is damaged."""
    numbers = (names.number_of_pointer_key(info.key) for info in store.list(names.POINTER))
    newest = max((number for number in numbers if number is not None), default=None)
    return None if newest is None else _read(store, newest)


def promote(store: Store, table: Table, snapshot: int | None = None, *, expect: str | None = None) -> PointerTarget:
    """Let the pointer at ``store`` point to a table. If others promote meanwhile, the last one wins.

    snapshot: the one to pin. expect: URI of the table that it must point to now, else PointerMoved is raised. Raises
    TableNotFound if the table has no such snapshot or none at all, ConfigError if the pointer is a table itself.
    """
    if snapshot is None:
        table.current()
    else:
        table.snapshot(snapshot)
    _check_no_table(store)
    target = _as_stored(store.root, table.store.root)
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
    """Return to where the pointer pointed before; again, and it is the one before that.

    Raises PointerMoved if somebody else has promoted meanwhile, ConfigError if there is nothing before.
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


def refuse_to_write(store: Store) -> None:
    """Raises ConfigError if there is a pointer where a table is to be written."""
    pointed = read_pointer(store)
    if pointed:
        raise no_place_to_write(pointed)


def no_place_to_write(pointed: PointerTarget) -> ConfigError:
    """The error for a writer that was given a pointer."""
    return ConfigError(f"{pointed.root} is a read-only pointer. Pass the table's own path: {pointed.table}.")


def _create(
    store: Store, now: PointerTarget | None, table: str, snapshot: int | None, before: int | None
) -> PointerTarget | None:
    """The next step; None if somebody else has made it."""
    number = now.number + 1 if now else 1
    record = PointerRecord(
        token=secrets.token_hex(16), table=table, snapshot=snapshot, before=before, created_at=utc_now(), by=who()
    )
    if store.create(names.pointer_key(number), record.to_json()):
        return _pointed(store, number, record)
    found = _read(store, number)
    return found if found.record.token == record.token else None  # equal: our own, whose reply was lost


def _read(store: Store, number: int) -> PointerTarget:
    key = names.pointer_key(number)
    return _pointed(store, number, PointerRecord.from_json(store.read(key), f"{store.root}/{key}"))


def _pointed(store: Store, number: int, record: PointerRecord) -> PointerTarget:
    return PointerTarget(store.root, number, _as_uri(store.root, record.table), record.snapshot, record)


def _check_no_table(store: Store) -> None:
    if any(info.key == names.TABLE_JSON for info in store.list(names.TABLE_JSON.split("/")[0])):
        raise ConfigError(f"{store.root} is a table. A pointer needs a folder or prefix of its own, beside the tables.")


def _as_stored(root: str, table: str) -> str:
    """``../name`` if the table lies beside the pointer."""
    parent = _parent(root)
    return f"{_BESIDE}{table[len(parent) :]}" if parent and table.startswith(parent) else table


def _as_uri(root: str, stored: str) -> str:
    """The inverse. Whoever wrote it may be a stranger: a relative name stays below the folder of the pointer."""
    parent = _parent(root)
    if stored.startswith(_BESIDE) and parent:
        rest = stored.removeprefix(_BESIDE)
        if rest and {"", ".", ".."}.isdisjoint(rest.split("/")):
            return parent + rest
    elif is_s3(stored) or stored.startswith("/"):
        return absolute_uri(stored)
    raise TableError(f"The pointer {root} names {stored!r}, which is not the path of a table. Promote a table again.")


def _parent(root: str) -> str:
    """The folder or bucket that the pointer lies in, with a slash; "" for a whole bucket."""
    bucket, slash, rest = root.removeprefix("s3://").rpartition("/")
    if is_s3(root):
        return f"s3://{bucket}/" if slash and rest else ""
    return root[: len(root) - len(rest)]
