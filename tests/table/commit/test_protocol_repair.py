"""Repair in the protocol's state machine: files vanish or are damaged at any moment, and repairs mend the table.

Beside writers, zombies, compactors, sweepers and expirers there are repairs, of which any may die, and a disk that
loses files. What must hold in addition: a repair names no lost file again, neither does any later snapshot; and
whatever happened, one undisturbed repair and one run make the table whole.
"""

import contextlib
import dataclasses
import hashlib
from collections import Counter
from collections.abc import Callable
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import initialize, precondition, rule, run_state_machine_as_test

from sfr_batch.corpus.shards import Shard
from sfr_batch.corpus.splits import Chosen, ReadUnit, pack
from sfr_batch.errors import ObjectNotFound, SnapshotConflict, StorageError, TableError, TableNotFound
from sfr_batch.format import names
from sfr_batch.format.hashes import halves, hash_ids
from sfr_batch.format.indexes import Located, index_of_entries, read_owned, read_part, rejects_of, write_index
from sfr_batch.format.parquet import read_receipt
from sfr_batch.format.records import PACKED, Receipt, ShardRecord
from sfr_batch.storage.executor import Executor, InProcess
from sfr_batch.table.commit import inventory
from sfr_batch.table.commit import publish as commit
from sfr_batch.table.commit.draft import Draft
from sfr_batch.table.commit.publish import next_number, publish
from sfr_batch.table.commit.remains import Remains, find_remains
from sfr_batch.table.table import Snapshot, Table
from tests.state_machines import MACHINE, find_bug
from tests.table.commit.test_protocol import (
    WAYS,
    Actor,
    Compacting,
    Contents,
    Piece,
    Row,
    Way,
    check_snapshot,
    cut,
    decide_everything,
    rows_of,
    shards_of,
    work_in_parts,
    write,
    write_piece,
)


@pytest.fixture(autouse=True)
def small_steps(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(inventory, "_AHEAD", 1)
    decide_everything(monkeypatch)
    work_in_parts(monkeypatch)


def look(table: Table, receipt: Receipt) -> str | None:
    """As the real one: whether the file has the receipt that its snapshot knows."""
    try:
        found = read_receipt(table.store, receipt.split_id)
    except (TableError, ObjectNotFound) as error:
        return str(error)
    return None if found.footer == receipt.footer else "another file of this name"


def shard_of(contents: Contents, record: ShardRecord) -> Shard:
    name = f"{record.uri}@{record.version}"
    (shard,) = shards_of({name: contents[name]})
    return shard


def lost_rows(remains: Remains, uri: str, rows: list[Row]) -> list[Row]:
    """The rows of a shard with an index whose vectors are lost."""
    lost = Counter(map(tuple, remains.inventory.ids[uri].tolist()))
    found = []
    for row in rows:
        (id_,) = map(tuple, halves(hash_ids([row.id])).tolist())
        if lost[id_]:
            lost[id_] -= 1
            found.append(row)
    assert not lost.total()
    return found


def repair_once(
    table: Table, remains: Remains, ever: Contents, run_id: str, executor: Executor | None = None
) -> Snapshot:
    """Write the lost rows of the affected shards, under names that are not condemned, and publish.

    The pieces of a shard's own that are lost get a data file each. The rows of shards with an index are one split, and
    these shards get another index.
    """
    store, left, condemned = table.store, remains.inventory, remains.read_condemned()
    committed = table.committed()
    known = {receipt.split_id: receipt for receipt in remains.read_receipts()}
    shards = {uri: shard_of(ever, left.records[uri]) for uri in sorted(left.affected)}
    own = [shard for uri, shard in shards.items() if uri not in left.indexes]
    pieces = cut(ever, own, condemned)[1]
    indexed = {uri: lost_rows(remains, uri, rows_of(ever, shards[uri])) for uri in shards if uri in left.indexes}
    if indexed:
        chosen = [
            Chosen(ReadUnit(shards[uri], (), 0, ()), np.array([row.position for row in rows]))
            for uri, rows in indexed.items()
        ]
        (split,) = pack(chosen, 0, ["recipe"], condemned).splits
        packed = Piece(split.split_id, PACKED, PACKED, 0, tuple(row for rows in indexed.values() for row in rows))
        pieces.append(packed)
    receipts = {}
    for piece in (piece for piece in pieces if piece.split_id not in known):
        there = piece.split_id in committed
        receipt = read_receipt(store, piece.split_id) if there else write_piece(store, piece, run_id, False)
        receipts[piece.split_id] = dataclasses.replace(receipt, owned=receipt.shard != PACKED)
    rejected = {
        shard.uri: sum((known | receipts)[piece.split_id].rejected for piece in pieces if piece.shard == shard.uri)
        for shard in own
    }
    parts = {uri: its for uri, its in left.indexes.items() if uri not in indexed}
    if indexed:
        entries = read_owned(store, receipts[packed.split_id], table.layout, table.card.fingerprint)
        of_shard, located = np.array([row.shard for row in packed.rows]), []
        for uri in indexed:
            old = pa.concat_tables([read_part(store, part) for part in left.indexes[uri]])
            whole = old.filter(pc.is_in(old.column(names.SPLIT_ID), pa.array(sorted(known), pa.string())))
            rejects = rejects_of(old, uri)
            rejected[uri] = rejects.num_rows
            new = index_of_entries(entries.take(np.flatnonzero(of_shard == uri)), rejects, contents=False)
            located.append(Located(uri, pa.concat_tables([whole, new])))
        for part in write_index(store, names.index_key(next_number(remains), run_id, 0), located):
            parts.setdefault(part.shard, []).append(part)
    records = [
        dataclasses.replace(record, rejected=rejected[uri]) if uri in left.affected else record
        for uri, record in left.records.items()
    ]
    draft = Draft(
        run_id=run_id,
        generation="",
        row_recipe={},
        receipts=sorted((known | receipts).values(), key=lambda r: (r.shard, r.start)),
        shards=records,
        new=frozenset(receipts),
        indexes=parts,
        operation="repair",
        condemned=condemned,
    )
    return publish(table, remains, draft, executor)


def repair(
    store: Any,
    ever: Callable[[], Contents],
    run_id: str,
    mend: Callable[..., Snapshot],
    executor: Executor | None = None,
) -> None:
    """As the real one. ever: every version of every shard that there was until then."""
    for _ in range(50):
        try:
            table = Table.open(store)
            remains = find_remains(table, look)
        except TableNotFound:
            return
        if remains is None:
            return
        try:
            if commit.superseded(table, remains):
                continue
            if remains.inventory.sound:
                return
            mend(table, remains, ever(), run_id, executor)
        except SnapshotConflict:
            continue
        except (TableError, StorageError):
            if not commit.superseded(table, remains):
                return  # a file was lost meanwhile: a person would run the command again


class Mending(Compacting):
    """With a disk that loses files, and repairs; planted bugs go into ``mend``."""

    mend: Callable[..., Snapshot] = staticmethod(repair_once)

    def __init__(self) -> None:
        super().__init__()
        self.lost: set[str] = set()
        self.given_up: set[str] = set()

    @initialize(
        data=st.data(),
        states=st.sampled_from([1, 2]),
        way=WAYS,
        compactors=st.integers(0, 1),
        repairs=st.integers(0, 2),
    )
    def begin(self, data: st.DataObject, states: int, way: Way, compactors: int, repairs: int) -> None:
        """Mostly with a lost file and repairs that have noticed nothing yet."""
        Compacting.begin(self, states, False, way, compactors)
        self._lose(data, "damaged" if way.picky else "gone")
        for _ in range(repairs):
            self.start_repair(tasks=way.tasks)

    @property
    def ever(self) -> Contents:
        """Every version of every shard that there ever was."""
        return {name: ids for contents in self.history for name, ids in contents.items()}

    def _start(self, kind: str, program: Callable[..., Any]) -> None:
        """Whoever meets a lost file stops with an error, which is no bug here."""

        def careful(store: Any) -> Any:
            with contextlib.suppress(TableError, StorageError):
                return program(store)

        super()._start(kind, careful)

    @precondition(lambda self: len(self.actors) < 4)
    @rule(tasks=st.booleans())
    def start_repair(self, tasks: bool) -> None:
        run_id, executor = f"repair{self.names}", InProcess() if tasks else None
        self._start("repair", lambda store: repair(store, lambda: self.ever, run_id, type(self).mend, executor))

    @precondition(lambda self: self.published and len(self.lost) < 6)
    @rule(data=st.data(), how=st.sampled_from(["gone", "damaged"]))
    def lose_a_file(self, data: st.DataObject, how: str) -> None:
        self._lose(data, how)

    def _lose(self, data: st.DataObject, how: str) -> None:
        there = {info.key for info in self.objects.list("")}
        keys = sorted(
            key
            for key in self.published[max(self.published)]
            if key.startswith((names.DATA, names.REJECTS)) and key in there
        )
        if not keys:
            return
        key = data.draw(st.sampled_from(keys))
        self.lost.add(key)
        self.objects.delete([key])
        if how == "damaged":
            assert self.objects.create(key, b"noise")

    def _check(self, snapshot: Snapshot) -> None:
        ids = set(snapshot.split_ids())
        assert not ids & self.given_up, "a name that a repair has given up is used again"
        if snapshot.manifest.operation == "repair":
            before = set(Table.open(self.objects).published(snapshot.number - 1).split_ids())
            self.given_up |= before - ids
            assert before - ids <= snapshot.read_condemned(), "a lost name is not condemned"
        if self.lost.isdisjoint(snapshot.needs()):
            check_snapshot(snapshot, self.history)

    def _note_snapshots(self) -> None:
        numbers = self._table_numbers()
        for number in numbers:
            if number not in self.published:
                snapshot = Table.open(self.objects).snapshot(number)
                self._check(snapshot)
                self.published[number] = self._files(snapshot)
        there = {info.key for info in self.objects.list("")}
        for number in numbers:
            assert self.published[number].keys() - self.lost <= there, f"snapshot {number} is neither whole nor gone"

    def _files(self, snapshot: Snapshot) -> dict[str, str]:
        """Without those that were lost: what has their names may be anything."""
        keys = {names.manifest_key(snapshot.number), *snapshot.needs()} - self.lost
        return {key: hashlib.sha256(self.objects.read(key)).hexdigest() for key in keys}

    def teardown(self) -> None:
        try:
            for actor in self.actors:
                actor.step("die before")
            self._note_snapshots()
            mend = type(self).mend
            Actor("last repair", lambda s: repair(s, lambda: self.ever, "mended", mend), self.objects).finish()
            self._note_snapshots()
            last = Actor("last run", lambda s: write(s, self.contents, "last"), self.objects).finish()
            self._note_snapshots()
            newest = Table.open(self.objects).current()
            assert newest.number >= last.number
            remains = find_remains(Table.open(self.objects), look)
            assert remains is not None
            assert remains.inventory.sound, remains.inventory.sentences
            check_snapshot(newest, self.history)
            table = Table.open(self.objects)
            assert table.published_numbers() == list(range(1, len(self.published) + 1))
            for snapshot in table.snapshots():
                files = self._files(snapshot)
                before = {key: sha for key, sha in self.published[snapshot.number].items() if key in files}
                assert files == before, f"snapshot {snapshot.number} changed after it was published"
        finally:
            for actor in self.actors:
                if not actor.done:
                    actor.step("die before")


def test_a_repair_makes_the_table_whole() -> None:
    run_state_machine_as_test(Mending, settings=settings(MACHINE, max_examples=15))


@pytest.mark.slow
@pytest.mark.timeout(3600)
def test_a_repair_makes_the_table_whole_at_length() -> None:
    run_state_machine_as_test(Mending, settings=settings(MACHINE, max_examples=5000))


# --- planted bugs: the machine must find each


def repair_without_condemning(table: Table, remains: Remains, *rest: Any) -> Snapshot:
    object.__setattr__(remains.inventory, "condemned", Snapshot.read_condemned(remains))
    return repair_once(table, remains, *rest)


def test_machine_finds_a_repair_that_condemns_nothing() -> None:
    find_bug(
        type("Silent", (Mending,), {"mend": staticmethod(repair_without_condemning)}),
        "a lost name is not condemned|has no readable receipt",
    )
