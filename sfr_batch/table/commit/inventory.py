"""The inventory of a snapshot: which of the files that it names are whole, and whose rows are lost with the others.

By listing, and by reading the side files, which are small; indexes only if a file is lost. With a `Look` also inside
data files, rejects and indexes. Writes nothing; knows neither corpus nor model.
"""

import contextlib
from collections import Counter
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TypeVar

import numpy as np
import pyarrow as pa

from sfr_batch.errors import ObjectNotFound, StorageError, TableDamaged, TableError, counted
from sfr_batch.format import names
from sfr_batch.format.dead_rows import Dead, DeadRows, lists_of
from sfr_batch.format.hashes import Hashes, halves
from sfr_batch.format.indexes import PartReader
from sfr_batch.format.parquet import open_parquet, read_parquet, read_receipt
from sfr_batch.format.records import KEPT, IndexPart, Receipt, ShardRecord
from sfr_batch.storage.parallel import in_parallel
from sfr_batch.storage.store import ObjectInfo, Store
from sfr_batch.table.commit.damage import find_lost
from sfr_batch.table.table import Snapshot, Table

T = TypeVar("T")
Look = Callable[[Table, Receipt], str | None]
"""Reads a data file whole and says what is wrong with it."""
_AHEAD = 8


@dataclass(frozen=True)
class Inventory:
    """What is left of a snapshot. What is lost is told by sentences that begin with the key of a file."""

    lost: Mapping[str, str] = field(default_factory=dict)
    """By split id, data files that are missing, of another size or damaged, or without their rejects; with a `Look`
    also unpublished ones that no run could take over."""
    indexes_lost: Mapping[str, str] = field(default_factory=dict)
    """By key, index files that are missing or damaged."""
    sides_lost: Mapping[str, str] = field(default_factory=dict)
    """By kind or key, other files that are: side files, lists of dead rows, duplicates, a manifest. The next snapshot
    has them anew."""
    everything: bool = False
    """Whether nobody knows any more which rows the shards consist of: every shard is read, every data file searched."""
    receipts: Sequence[Receipt] = ()
    """Of the data files that are whole."""
    records: Mapping[str, ShardRecord] = field(default_factory=dict)
    """Of all shards, by URI, as the snapshot has them."""
    indexes: Mapping[str, list[IndexPart]] = field(default_factory=dict)
    """The parts that can be read, by the URI of their shard."""
    deletes: Mapping[str, Dead] = field(default_factory=dict)
    """The dead rows by split id. Their lists may be lost."""
    condemned: frozenset[str] = frozenset()
    """Names that must not be used again, those of the lost files included."""
    affected: frozenset[str] = frozenset()
    """URIs of the shards with rows in lost files."""
    documents: Mapping[str, int] = field(default_factory=dict)
    """By affected shard, how many of its documents were in lost data files."""
    ids: Mapping[str, Hashes] = field(default_factory=dict)
    """By affected shard the hashes of the ids of these documents, if an index has them."""
    searched: Sequence[str] = ()
    """Split ids of whole data files that have rows of the affected shards without an index that says which."""
    files: int = 0
    """Data files of the snapshot, as far as that is known."""

    @property
    def sound(self) -> bool:
        """Whether nothing is lost."""
        return not (self.lost or self.indexes_lost or self.sides_lost)

    @property
    def sentences(self) -> list[str]:
        """What is lost, a line each."""
        return [*self.lost.values(), *self.indexes_lost.values(), *self.sides_lost.values()]


def take_inventory(table: Table, snapshot: Snapshot, look: Look | None) -> Inventory:
    """Find out what is left of a snapshot. look: None for what listings and small files show alone.

    Raises StorageError if the store cannot be read.
    """
    sides = _Sides(snapshot)
    receipts: tuple[Receipt, ...] = sides.read(names.FILES, snapshot.read_receipts) or ()
    records: tuple[ShardRecord, ...] = sides.read(names.SHARDS, snapshot.read_shards) or ()
    indexes: dict[str, list[IndexPart]] = sides.read(names.INDEXES, snapshot.read_indexes) or {}
    found_dead: DeadRows | None = sides.read(_side_of_dead_rows(snapshot), snapshot.read_deletes)
    deletes = found_dead.parts if found_dead else {}
    condemned = known_condemned(table).difference(r.split_id for r in receipts)  # what named these has not published
    condemned |= sides.read(names.CONDEMNED, snapshot.read_condemned) or frozenset()
    committed = table.committed()
    everything = not sides.lost.keys().isdisjoint((names.FILES, names.SHARDS, names.INDEXES))
    lost: dict[str, str] = {}
    if names.FILES in sides.lost:
        receipts, lost = receipts_in_footers(table.store, committed, condemned)
        lost |= _missing_of_others(table, committed.keys() | condemned)
    else:
        lost |= find_lost(snapshot, committed)
    lost |= _lost_rejects(table.store, receipts, look)
    lost |= _damaged(table, [r for r in receipts if r.split_id not in lost], look)
    if look and names.FILES not in sides.lost:  # a later run would take what an unpublished file says
        known = condemned.union(r.split_id for r in receipts)
        lost |= receipts_in_footers(table.store, committed, known)[1]
    sides.lost |= _lost_duplicates(snapshot, look) | _lost_lists(snapshot, found_dead, look)
    whole = [r for r in receipts if r.split_id not in lost]
    searched = [r.split_id for r in whole] if everything else []
    found = _Rows({}, Counter(), {}, {})
    if everything:
        found.documents.update({uri: record.read - record.rejected for uri, record in _by_uri(records).items()})
    else:
        _find_rows(table.store, snapshot, receipts, lost, indexes, deletes, found, deep=look is not None)
        searched = [r.split_id for r in whole if not r.owned] if found.indexes_lost else []
    owners = {r.shard for r in receipts if r.owned and r.split_id in lost}
    return Inventory(
        lost=lost,
        indexes_lost=found.indexes_lost,
        sides_lost=sides.lost,
        everything=everything,
        receipts=whole,
        records=_by_uri(records),
        indexes=found.whole,
        deletes=deletes,
        condemned=condemned.union(lost),
        affected=frozenset(_by_uri(records)) if everything else frozenset(owners | found.affected),
        documents=found.documents,
        ids=found.ids,
        searched=searched,
        files=len(receipts),
    )


def take_stock(table: Table, lost: dict[str, str], sides_lost: dict[str, str], look: Look | None) -> Inventory:
    """The inventory where no manifest says what belongs to the newest snapshot: all data files that can be used.

    lost: by split id, files that cannot. sides_lost: what else is lost.
    """
    condemned = known_condemned(table)
    committed = table.committed()
    receipts, unreadable = receipts_in_footers(table.store, committed, condemned.union(lost))
    lost |= unreadable
    lost |= _missing_of_others(table, committed.keys() | condemned)
    lost |= _damaged(table, receipts, look)
    whole = [r for r in receipts if r.split_id not in lost]
    return Inventory(
        lost=lost,
        sides_lost=sides_lost,
        everything=True,
        receipts=whole,
        condemned=condemned.union(lost),
        searched=[r.split_id for r in whole],
        files=len(committed),
    )


def _by_uri(records: Sequence[ShardRecord]) -> dict[str, ShardRecord]:
    return {record.uri: record for record in records}


class _Sides:
    """Reads side files, and notes which cannot be read."""

    def __init__(self, snapshot: Snapshot) -> None:
        self._snapshot = snapshot
        self.lost: dict[str, str] = {}

    def read(self, kind: str, read: Callable[[], T]) -> T | None:
        try:
            return read()
        except (TableError, ObjectNotFound, pa.ArrowException) as error:  # not a store that fails: that is no damage
            self.lost[kind] = _sentence(error, self._snapshot.store)
            return None


def _sentence(error: BaseException, store: Store) -> str:
    error = error.__cause__ if isinstance(error.__cause__, StorageError) else error
    text = error.what if isinstance(error, TableDamaged) else str(error)
    text = text.rpartition(f" of {store.root} is damaged: ")[2]
    text = " ".join(text.split()).removeprefix("Cannot read ").removeprefix(f"{store.root}/").rstrip(".")
    return f"{text.partition(': ')[0]} is missing" if isinstance(error, ObjectNotFound) else text


def known_condemned(table: Table) -> frozenset[str]:
    """All names that some side file condemns, whether or not a snapshot names it: a writer may still wait to delete."""
    found: set[str] = set()
    for info in table.store.list(names.SNAPSHOTS):
        if names.is_condemned_key(info.key):
            try:
                found.update(read_parquet(table.store.read(info.key)).column(names.SPLIT_ID).to_pylist())
            except (OSError, ObjectNotFound, KeyError, pa.ArrowException):
                continue
    return frozenset(found)


def _missing_of_others(table: Table, known: Collection[str]) -> dict[str, str]:
    """By split id, data files that a snapshot names, and that are not ``known``: the newest may name them, too."""
    found: dict[str, str] = {}
    for number in table.published_numbers():
        with contextlib.suppress(TableError, ObjectNotFound):
            split_ids = table.published(number).split_ids()
            found |= {s: f"{names.data_key(s)} is missing" for s in split_ids if s not in known}
    return found


def receipts_in_footers(
    store: Store, committed: Mapping[str, ObjectInfo], condemned: Collection[str]
) -> tuple[tuple[Receipt, ...], dict[str, str]]:
    """The receipts of all data files that may be used; and those that have none that can be read."""

    def read(split_id: str) -> Receipt | str:
        try:
            return read_receipt(store, split_id, committed[split_id].size)
        except (TableError, ObjectNotFound) as error:
            return _sentence(error, store)

    ids = [split_id for split_id in committed if split_id not in condemned]
    found = dict(zip(ids, in_parallel(read, ids, _AHEAD), strict=True))
    receipts = tuple(receipt for receipt in found.values() if isinstance(receipt, Receipt))
    return receipts, {split_id: wrong for split_id, wrong in found.items() if isinstance(wrong, str)}


def _lost_rejects(store: Store, receipts: Sequence[Receipt], look: Look | None) -> Iterator[tuple[str, str]]:
    """(split id, what is wrong) of data files whose rejects are lost: their rows are not accounted for without."""
    owned = [r for r in receipts if r.owned and r.rejected]
    present = {info.key for info in store.list(names.REJECTS)} if owned else set()
    for receipt in owned:
        key = names.rejects_key(receipt.split_id, receipt.attempt)
        if key not in present:
            yield receipt.split_id, f"{key} is missing"
        elif look and (wrong := _read_rejects(store, key, receipt.rejected)):
            yield receipt.split_id, wrong


def _read_rejects(store: Store, key: str, rows: int | None) -> str | None:
    try:
        file = open_parquet(store.read(key))
        for number in range(file.num_row_groups):  # a file of duplicates may have many rows
            file.read_row_group(number, use_threads=False)
    except (OSError, ObjectNotFound, pa.ArrowException) as error:
        return f"{key} is damaged: {' '.join(str(error).split())}"
    found = file.metadata.num_rows
    if not file.schema_arrow.equals(names.REJECTS_SCHEMA) or (rows is not None and found != rows):
        return f"{key} has {counted(found, 'row')}, or other columns than it should have"
    return None


def _lost_duplicates(snapshot: Snapshot, look: Look | None) -> dict[str, str]:
    key = snapshot.manifest.duplicates
    if key is None:
        return {}
    if key not in {info.key for info in snapshot.store.list(names.REJECTS)}:
        return {key: f"{key} is missing"}
    wrong = _read_rejects(snapshot.store, key, None) if look else None
    return {key: wrong} if wrong else {}


def _side_of_dead_rows(snapshot: Snapshot) -> str:
    return names.DELETES if snapshot.manifest.dead_rows is None else names.DEAD_ROWS


def _lost_lists(snapshot: Snapshot, dead: DeadRows | None, look: Look | None) -> dict[str, str]:
    if dead is None:
        return {}
    first = {key: split_id for split_id, part in dead.parts.items() for key in lists_of([part])}
    present = {info.key for info in snapshot.store.list(names.DEAD)} if first else set()
    lost = {key: f"{key} is missing" for key in first if key not in present}
    for key in first.keys() - lost.keys() if look else ():
        try:
            _ = dead[first[key]]
        except TableError as error:
            lost[key] = _sentence(error, snapshot.store)
    return lost


def _damaged(table: Table, receipts: Sequence[Receipt], look: Look | None) -> dict[str, str]:
    if look is None:
        return {}
    found = zip(receipts, in_parallel(lambda receipt: look(table, receipt), receipts, _AHEAD), strict=True)
    return {receipt.split_id: wrong for receipt, wrong in found if wrong}


@dataclass
class _Rows:
    """What indexes and receipts say of the rows in lost files."""

    whole: dict[str, list[IndexPart]]
    documents: Counter[str]
    ids: dict[str, Hashes]
    indexes_lost: dict[str, str]
    affected: set[str] = field(default_factory=set)


def _find_rows(
    store: Store,
    snapshot: Snapshot,
    receipts: Sequence[Receipt],
    lost: Mapping[str, str],
    indexes: Mapping[str, list[IndexPart]],
    deletes: Mapping[str, Dead],
    found: _Rows,
    *,
    deep: bool,
) -> None:
    """Fill ``found``. Index files are read only if it matters where they point to, or to look into them."""
    for receipt in receipts:
        if receipt.owned and receipt.split_id in lost:
            dead = len(deletes.get(receipt.split_id, ())) / max(1, receipt.vectors)
            found.documents[receipt.shard] += round(receipt.embedded * (1 - dead))
    present = {info.key for info in store.list(names.INDEX)} if indexes else set()
    reader = PartReader(store, None if deep else [names.ID_HASH, names.SPLIT_ID])
    for uri, parts in indexes.items():
        for part in parts:
            wrong, ids = _look_at(reader, part, present, lost, deep=deep)
            if wrong:
                found.indexes_lost[part.key] = wrong
                found.affected.add(uri)
                if uri == KEPT:  # no shard has them
                    found.documents[uri] += part.rows
                continue
            found.whole.setdefault(uri, []).append(part)
            if len(ids):
                found.affected.add(uri)
                found.documents[uri] += len(ids)
                found.ids[uri] = np.concatenate([found.ids[uri], ids]) if uri in found.ids else ids
    for uri, parts in indexes.items():
        if any(part.key in found.indexes_lost for part in parts):
            found.ids.pop(uri, None)  # not all of them are known
            found.whole.setdefault(uri, [])


_NO_IDS: Hashes = np.empty((0, 2), np.uint64)


def _look_at(
    reader: PartReader, part: IndexPart, present: Collection[str], lost: Mapping[str, str], *, deep: bool
) -> tuple[str | None, Hashes]:
    """What is wrong with a part of an index, and the ids of its documents that are in lost data files."""
    if part.key not in present:
        return f"{part.key} is missing", _NO_IDS
    if not lost and not deep:
        return None, _NO_IDS
    try:
        rows = reader.read(part)
    except (TableError, ObjectNotFound) as error:
        return _sentence(error, reader.store), _NO_IDS
    where = rows.column(names.SPLIT_ID).combine_chunks().dictionary_encode()
    gone = np.array([split_id in lost for split_id in where.dictionary.to_pylist()], bool)
    at = where.indices.fill_null(-1).to_numpy()
    mask = (at >= 0) & (gone[at] if len(gone) else False)
    return None, halves(rows.filter(pa.array(mask)).column(names.ID_HASH)) if mask.any() else _NO_IDS
