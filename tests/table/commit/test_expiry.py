"""Expiry: which snapshots go, that those which stay lose nothing, and crashes between any two of its deletes.

The nights are real plans of a real corpus, published without Ray and a model; what they left is copied into stores in
memory. That expiry holds against writers and sweepers at every step is in `tests/table/commit/test_protocol.py`.
"""

import getpass
import socket
from collections.abc import Iterable
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest

import sfr_batch as sfr
from sfr_batch.checks.audit.auditor import audit
from sfr_batch.errors import ConfigError, StorageError, TableNotFound
from sfr_batch.format import names
from sfr_batch.format.records import KEPT
from sfr_batch.storage.store import Content, Store
from sfr_batch.storage.stores import open_store
from sfr_batch.table.commit.compaction import carry_out, find_compaction
from sfr_batch.table.commit.expiry import Expiry, expire
from sfr_batch.table.commit.publish import condemn, publish
from sfr_batch.table.commit.sweep import sweep
from sfr_batch.table.commit.writing import create_or_open
from sfr_batch.table.table import Table
from tests.cli.test_cli import complaint, run
from tests.memory_store import MemoryStore
from tests.nights import Doc, Place, Shards, Writer, docs_of, night, rejects_of, state_of
from tests.states import Row, commit_file, package_card, publish_state
from tests.tables import commit_rows, draft_of, make_table

A, B = docs_of("a", 6), docs_of("b", 6)
CHANGED = [Doc("a0", "another text"), Doc("a1", A[1].text, "de"), *A[2:], Doc("new", "a new text")]
ALL = [*CHANGED, *B, Doc("c0", "now")]
NIGHTS: list[Shards] = [
    {"a.parquet": A, "b.jsonl": [*B, Doc("bad", "")], "c.jsonl": [Doc("c0", "at first"), Doc("worse", "")]},
    {"a.parquet": CHANGED, "b.jsonl": [*B, Doc("bad", ""), Doc("a2", "2nd"), Doc("c0", "now")]},
    {f"{n}.parquet": ALL[n::3] for n in range(3)},  # reshuffled: nothing but indexes
    {f"{n}.parquet": ALL[n::3] for n in range(2)},  # a shard is gone, and its rows are kept
    {"0.parquet": ALL[0::3], "1.parquet": [*ALL[1::3], Doc("last", "the last one")]},
]
KEEP = "table.delete=keep"


@dataclass(frozen=True)
class Nights:
    """A table after five nights: its objects, and what each snapshot holds."""

    place: Place
    writer: Writer
    objects: dict[str, bytes]
    states: dict[int, Any]

    def store(self) -> MemoryStore:
        """A copy to spoil."""
        store = MemoryStore(self.place.table)
        for key, data in self.objects.items():
            store.create(key, data)
        return store


@pytest.fixture(scope="module")
def nights(tmp_path_factory: pytest.TempPathFactory, mistral: str) -> Nights:
    root = tmp_path_factory.mktemp("nights")
    place, writer = Place(str(root / "corpus"), str(root / "table"), mistral), Writer(str(root / "corpus"))
    states = {}
    for number, shards in enumerate(NIGHTS, 1):
        writer.write(shards)
        snapshot, _ = night(place, KEEP)
        states[number] = (state_of(snapshot), rejects_of(snapshot))
    store = open_store(place.table)
    table = Table.open(store)
    assert table.snapshot_numbers() == [1, 2, 3, 4, 5]
    assert [s.manifest.duplicates is not None for s in table.snapshots()] == [False, True, False, False, False]
    assert any(shard.uri == KEPT for shard in table.current().read_shards())
    indexes = [{part.key for parts in s.read_indexes().values() for part in parts} for s in table.snapshots()]
    assert indexes[3] & indexes[4], "an index that two snapshots share"
    return Nights(place, writer, {info.key: store.read(info.key) for info in store.list("")}, states)


def check(store: Store, nights: Nights) -> Table:
    """All snapshots that can be opened are what they were, and the audit finds no fault; what it passes over too."""
    table = Table.open(store)
    for snapshot in table.snapshots():
        number = min(snapshot.number, 5)  # what comes after the fifth publishes its rows once more
        assert (state_of(snapshot), rejects_of(snapshot)) == nights.states[number]
    found = audit(table)
    assert found.ok, found.describe()
    return table


def left_over(table: Table) -> set[str]:
    """Keys in the folders of snapshots that no snapshot which can be opened needs."""
    folders = (names.DATA, names.REJECTS, names.INDEX, names.SNAPSHOTS)
    there = {info.key for folder in folders for info in table.store.list(folder)}
    manifests = {names.manifest_key(number) for number in table.published_numbers()}
    return there - manifests - {key for snapshot in table.snapshots() for key in snapshot.needs()}


def contents(store: Store) -> set[str]:
    return {info.key for folder in (names.DATA, names.REJECTS, names.INDEX) for info in store.list(folder)}


# --- what stays and what goes


@pytest.mark.parametrize(
    ("keep_last", "keep", "kept"),
    [(1, [], [5]), (1, [1, 3], [1, 3, 5]), (2, [], [4, 5]), (3, [], [3, 4, 5]), (4, [1], [1, 2, 3, 4, 5])],
)
def test_what_stays_loses_nothing(nights: Nights, keep_last: int, keep: list[int], kept: list[int]) -> None:
    store = nights.store()
    table = Table.open(store)
    planned = expire(table, keep_last=keep_last, keep=keep)
    assert {info.key for info in store.list("")} == nights.objects.keys(), "only said"
    done = expire(table, keep_last=keep_last, keep=keep, dry_run=False)
    gone = [number for number in range(1, 6) if number not in kept]
    assert (planned, list(done.kept), list(done.snapshots)) == (done, kept, gone)
    table = check(store, nights)
    assert table.snapshot_numbers() == [*kept, 6] if gone else kept
    assert left_over(table) == set()
    removed = nights.objects.keys() - {info.key for info in store.list("")}
    assert removed == {info.key for info in done.objects}
    assert bool(removed) == bool(gone)
    if gone:
        assert table.current().manifest.operation == "expire"
    again = expire(table, keep_last=keep_last, keep=keep, dry_run=False)
    assert (again.snapshots, again.objects) == ((), ())
    assert table.snapshot_numbers() == [*kept, 6] if gone else kept, "and nothing was published for nothing"


def test_files_that_were_compacted_go_with_the_states_before(nights: Nights) -> None:
    table = Table.open(nights.store())
    done = carry_out(table, find_compaction(table.current(), rows_per_file=100))
    assert done.files > 1
    removed = expire(table, keep_last=1, dry_run=False)
    assert (removed.snapshots, removed.kept) == ((1, 2, 3, 4, 5), (6,))
    assert table.committed().keys() == {group.split_id for group in done.groups}
    assert left_over(check(table.store, nights)) == set()


def test_night_after_night_with_an_expiry_between(nights: Nights, tmp_path: Path) -> None:
    """The corpus goes back to what it was at first, so that the names of splits come back whose files are gone."""
    writer = Writer(str(tmp_path / "corpus"))
    place = Place(writer.root, str(tmp_path / "table"), nights.place.model)
    for number in (1, 3, 1, 2):
        writer.write(NIGHTS[number - 1])
        snapshot, _ = night(place)
        table = Table.open(snapshot.store)
        expire(table, keep_last=1, dry_run=False)
        assert state_of(table.current()) == nights.states[number][0]
        assert left_over(table) == set()
        found = audit(table)
        assert found.ok, found.describe()


def states_at(*moments: str, operations: tuple[str, ...] = ()) -> Table:
    table = create_or_open(MemoryStore(), package_card())
    receipts = [commit_file(table, "a", [Row("a")])]
    for number, moment in enumerate(moments):
        operation = operations[number] if operations else "embed"
        publish_state(table, receipts, {}, created_at=f"2026-11-{moment}:00+00:00", operation=operation)
    return table


@pytest.mark.parametrize(
    ("rules", "kept"),
    [
        ({"keep_last": 1}, [4]),
        ({"keep_last": 9}, [1, 2, 3, 4]),
        ({"keep_for": "0d"}, [4]),
        ({"keep_for": "23h"}, [4]),  # the third was the newest until the 19th
        ({"keep_for": "25h"}, [3, 4]),
        ({"keep_for": "5d"}, [2, 3, 4]),
        ({"keep_for": "400d"}, [1, 2, 3, 4]),
        ({"keep_last": 3, "keep_for": "0d"}, [2, 3, 4]),
        ({"keep_last": 1, "keep_for": "5d", "keep": [1]}, [1, 2, 3, 4]),
        ({"keep_last": 1, "keep": [2]}, [2, 4]),
    ],
)
def test_rules(rules: dict[str, Any], kept: list[int]) -> None:
    """Either rule is enough. A state is as old as the one after it."""
    table = states_at("10T00:00", "12T00:00", "18T00:00", "19T00:00")
    assert list(expire(table, **rules, now=datetime(2026, 11, 20, tzinfo=UTC)).kept) == kept


def test_sweeps_and_expiries_are_no_states() -> None:
    operations = ("embed", "embed", "sweep", "expire", "embed", "sweep")
    table = states_at(*[f"{day}T00:00" for day in range(10, 16)], operations=operations)
    assert expire(table, keep_last=1).kept == (5, 6)
    assert expire(table, keep_last=2).kept == (2, 3, 4, 5, 6), "a state stays with all that publish it"
    expire(table, keep_last=2, dry_run=False)
    expire(table, keep_last=1, dry_run=False)
    assert table.snapshot_numbers() == [5, 6, 7, 8]


def test_rules_that_make_no_sense() -> None:
    table = create_or_open(MemoryStore(), package_card())
    assert expire(table, keep_last=1, dry_run=False) == Expiry(), "nothing is published"
    table = states_at("10T00:00", "11T00:00")
    for rules, told in [
        ({}, "Give --keep-last N, --keep-for AGE, or both"),
        ({"keep": [1]}, "Give --keep-last N, --keep-for AGE"),
        ({"keep_last": 0}, "--keep-last 0: must be at least 1, because the newest state always stays"),
        ({"keep_for": "30"}, "--keep-for 30: give a number of days, hours or minutes, such as 7d, 36h or 90m"),
    ]:
        with pytest.raises(ConfigError, match=told):
            expire(table, **rules)
    with pytest.raises(TableNotFound, match=r"--keep 7: .* has no such snapshot. Available: 1, 2"):
        expire(table, keep_last=1, keep=[7])


# --- crashes


class Crash(Exception):
    """The process is gone."""


class Dying:
    """A store whose process dies before its ``last`` + 1st change; it deletes objects one by one."""

    def __init__(self, store: Store, last: int) -> None:
        self.root, self._store, self._left = store.root, store, last
        self.read, self.open, self.list = store.read, store.open, store.list

    def _change(self) -> None:
        if self._left == 0:
            raise Crash
        self._left -= 1

    def create(self, key: str, data: Content) -> bool:
        self._change()
        return self._store.create(key, data)

    def delete(self, keys: Iterable[str]) -> None:
        for key in keys:
            self._change()
            self._store.delete([key])


def test_crash_before_each_change(nights: Nights) -> None:
    """Snapshots are whole or gone; the same command removes the rest, and so does a sweep."""
    done = nights.store()
    expire(Table.open(done), keep_last=2, dry_run=False)
    changes = 2 + len(nights.objects) + 2 - len(list(done.list("")))  # a side file, the manifest, what is deleted
    for last in range(changes):
        store = nights.store()
        with pytest.raises(Crash):
            expire(Table.open(Dying(store, last)), keep_last=2, dry_run=False)
        table = Table.open(store)
        found = audit(table)
        assert found.ok, found.describe()
        published = table.snapshot_numbers() != [1, 2, 3, 4, 5]
        assert published == (last > 1)
        if published and last % 2:
            sweep(table, older_than_s=0, now=1e18)
        else:
            expire(table, keep_last=2, dry_run=False)
        assert table.snapshot_numbers() == [4, 5, 6]
        assert contents(store) == contents(done)
        # All that may be left is the side file of the expiry that died before it had published.
        assert {names.number_of_attached_key(key) for key in left_over(table)} <= {6}
    expire(Table.open(Dying(nights.store(), changes)), keep_last=2, dry_run=False)


class Refusing(MemoryStore):
    """Deletes nothing of one folder."""

    refused = ""

    def delete(self, keys: Iterable[str]) -> None:
        keys = list(keys)
        if self.refused and any(key.startswith(self.refused) for key in keys):
            raise StorageError(f"{self.refused} is locked")
        super().delete(keys)


@pytest.mark.parametrize("folder", [names.DATA, names.REJECTS, names.INDEX, names.SNAPSHOTS])
def test_a_store_that_refuses_to_delete(nights: Nights, folder: str) -> None:
    """The side files stay until all else is gone, for they are what the rest is found by."""
    store = Refusing(nights.place.table)
    for key, data in nights.objects.items():
        store.create(key, data)
    store.refused = folder
    with pytest.raises(StorageError, match="is locked"):
        expire(Table.open(store), keep_last=1, dry_run=False)
    table = check(store, nights)
    assert table.snapshot_numbers() == [5, 6]
    assert left_over(table) > {key for n in (1, 2, 3) for key in table.published(n).manifest.files.name.split()}
    store.refused = ""
    rest = expire(table, keep_last=1, dry_run=False)
    assert (rest.snapshots, bool(rest.objects)) == ((), True)
    assert left_over(check(store, nights)) == set()


# --- readers


def two_states(store: Store) -> Table:
    table = make_table(store, {"a": ["x", "y"]})
    publish(table, table.current(), draft_of([commit_rows(store, table.card, "b", ["z"])], table.current()))
    return table


def test_time_travel_to_what_is_gone(store: Store) -> None:
    """Also by a reader that has opened the snapshot before."""
    table = two_states(store)
    opened, reading = table.snapshot(1), table.snapshot(1)
    assert reading.read_receipts()
    expire(table, keep_last=1, dry_run=False)
    when = table.current().manifest.created_at
    told = rf"Snapshot 1 of {store.root} was removed by `sfr-batch expire` on .*\. Available: 2, 3\."
    for read in (
        lambda: table.snapshot(1),
        lambda: table.at(1),
        opened.read_receipts,
        lambda: reading.to_arrow(),
        lambda: audit(table, snapshot=1),
    ):
        with pytest.raises(TableNotFound, match=told) as caught:
            read()
        assert when in str(caught.value)
    assert table.to_arrow(["id"]).column(0).to_pylist() == ["z"]
    assert table.at(2).to_arrow(["id"]).column(0).to_pylist() == ["z"]
    assert table.committed().keys() == {receipt.split_id for receipt in table.current().read_receipts()}
    condemned = table.current().read_condemned()
    assert condemn(table, table.current(), []).manifest.expired == table.snapshot(3).manifest.expired
    assert table.current().read_condemned() == condemned, "what is barred stays so"
    assert audit(table).ok


def test_expire_and_snapshots_on_the_command_line(tmp_path: Path) -> None:
    table = two_states(open_store(str(tmp_path / "table")))
    root = table.store.root
    dry = run("expire", root, "--keep-last", 1).output
    assert f"  data/{table.snapshot(1).read_receipts()[0].split_id}.parquet  " in dry
    objects = len(dry.splitlines()) - 1
    assert f"Would remove snapshot 1 with {objects} objects, " in dry
    assert dry.endswith(" bytes; snapshot 2 stays. Nothing was removed; --delete does it.\n")
    assert table.snapshot_numbers() == [1, 2]
    assert "Give --keep-last N, --keep-for AGE" in complaint(2, "expire", root)
    assert "--keep-for 3: give" in complaint(2, "expire", root, "--keep-for", 3)
    assert "--keep 5: " in complaint(1, "expire", root, "--keep-last", 1, "--keep", 5)
    same = run("expire", root, "--keep-last", 1, "--keep", 1).output
    assert same == "No snapshot is old enough to expire: snapshots 1 to 2 stay.\n"
    done = run("expire", root, "--keep-last", 1, "--delete").output
    assert done == dry.replace("Would remove", "Removed").replace(" Nothing was removed; --delete does it.", "")
    assert "No snapshot is old enough" in run("expire", root, "--keep-last", 1, "--delete").output
    head, second, third = run("snapshots", root).output.splitlines()
    assert head.split()[-1] == "by"
    assert second.split()[0] == "2"
    assert third.split()[::2][:2] == ["3", "expire"]
    assert third.endswith(f"  {getpass.getuser()}@{socket.gethostname()}")
    for command in (["export", root, tmp_path / "x"], ["view", root], ["audit", root], ["search", root, "q"]):
        assert "Snapshot 1 of " in complaint(1, *command, "--snapshot", 1)
    assert "was removed by" in complaint(1, "changes", root, 1, 2)
    assert "expired   1 earlier snapshot\n" in run("status", root).output
    assert run("audit", root).exit_code == 0
    assert [s.number for s in sfr.open_table(root).snapshots()] == [2, 3]
