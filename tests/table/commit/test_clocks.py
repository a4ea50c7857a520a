"""Clocks that are wrong: what is kept, removed and found goes by the store's, and people see no time run backwards."""

import os
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from click.testing import CliRunner
from hypothesis import given, settings
from hypothesis import strategies as st

from sfr_batch.cli.main import main
from sfr_batch.errors import TableNotFound
from sfr_batch.format import names
from sfr_batch.format.history import iso, moment
from sfr_batch.storage.local import LocalStore
from sfr_batch.storage.store import Store
from sfr_batch.storage.stores import open_store
from sfr_batch.table.commit import clocks
from sfr_batch.table.commit.expiry import expire
from sfr_batch.table.commit.publish import condemn, publish
from sfr_batch.table.commit.sweep import sweep
from sfr_batch.table.commit.writing import create_or_open
from sfr_batch.table.table import Table
from tests.memory_store import MemoryStore
from tests.s3server import S3Server
from tests.tables import card_of, commit_rows, draft_of, make_table, split_name

EXAMPLES = int(os.environ.get("SFR_EXAMPLES", "40"))
START = datetime(2026, 11, 1, tzinfo=UTC).timestamp()
HOUR = 3600.0


class Machine:
    """A writer whose clock is wrong by ``skew`` seconds, on the store's true one."""

    def __init__(self, patch: pytest.MonkeyPatch, store: MemoryStore) -> None:
        self._store = store
        self.skew = 0.0
        patch.setattr(clocks, "utc_now", lambda: iso(self._store.now + self.skew))


def night(table: Table, number: int) -> None:
    base = table.latest()
    receipts = [commit_rows(table.store, table.card, f"night {number}", [f"id {number}"], shard=f"shard {number}")]
    publish(table, base, draft_of(receipts, base))


hours = st.integers(-60, 60).map(lambda n: n * HOUR)


@given(
    st.lists(
        st.tuples(st.floats(0.05, 50), hours, st.sampled_from(["embed", "embed", "sweep"])), min_size=1, max_size=8
    ),
    st.integers(0, 150),
    st.floats(0.05, 100),
)
@settings(max_examples=EXAMPLES, deadline=None)
def test_expiry_keeps_what_was_the_newest_within_the_window(
    nights: list[tuple[float, float, str]], window: int, later: float
) -> None:
    """Each night some hours after the last one, published by a machine whose clock is wrong by any number of hours."""
    with pytest.MonkeyPatch.context() as patch:
        store = MemoryStore()
        store.now = START
        machine, table, began = Machine(patch, store), create_or_open(store, card_of()), {}
        for number, (after, skew, operation) in enumerate(nights):
            store.now += after * HOUR
            machine.skew = skew
            base = table.latest()
            if base and operation == "sweep":
                condemn(table, base, [split_name(f"swept {number}")])
                continue
            night(table, number)
            began[table.published_numbers()[-1]] = store.now
        store.now += later * HOUR
        since = store.now - window * HOUR
        ended = dict(zip(began, [*list(began.values())[1:], float("inf")], strict=True))
        shown = [moment(table.published(n).manifest.created_at) for n in table.published_numbers()]
        assert shown == sorted(shown), "no time runs backwards"
        expire(table, keep_for=f"{window}h", dry_run=False)
        there = set(table.snapshot_numbers())
        for number in began:
            if ended[number] > since:
                assert number in there
                table.snapshot(number).to_arrow()
            elif ended[number] < since - 5:
                assert number not in there


def test_a_time_finds_what_was_the_newest_then(monkeypatch: pytest.MonkeyPatch) -> None:
    store = MemoryStore()
    machine, table = Machine(monkeypatch, store), create_or_open(store, card_of())
    for number, skew in enumerate([5 * HOUR, -9 * HOUR, 0.0]):
        store.now, machine.skew = START + number * 24 * HOUR, skew
        night(table, number)
    manifests = [table.published(n).manifest for n in (1, 2, 3)]
    assert [m.created_at[:16] for m in manifests] == ["2026-11-01T05:00", "2026-11-01T15:00", "2026-11-03T00:00"]
    for time, number in [("2026-11-01T01:00", 1), ("2026-11-01T23:59", 1), ("2026-11-02T00:01", 2), ("2026-11-04", 3)]:
        assert table.at(time=time).number == number, time
    for manifest in manifests[2:]:  # as people see it, where no clock is wrong
        assert table.at(time=manifest.created_at).number == manifest.snapshot
    with pytest.raises(
        TableNotFound, match=r"at 2026-10-31T00:00:00\+00:00\. The first one was published at 2026-11-01"
    ):
        table.at(time="2026-10-31")


def test_the_time_that_people_see_and_the_raw_one(monkeypatch: pytest.MonkeyPatch) -> None:
    store = MemoryStore()
    store.now = START
    machine, table = Machine(monkeypatch, store), create_or_open(store, card_of())
    for number, skew in enumerate([10 * HOUR, 0.0]):
        machine.skew = skew
        night(table, number)
    first, second = (table.published(number).manifest for number in (1, 2))
    assert (first.clock, first.format_version) == (None, 1)
    assert second.created_at == first.created_at
    assert second.clock is not None
    assert moment(second.clock) < moment(second.created_at)
    assert second.format_version == names.FORMAT_OF_CLOCK
    assert clocks.tell_lifted(table.published(1)) == ""
    assert clocks.tell_lifted(table.published(2)) == (
        f"Warning: the clock of this machine says {second.clock}, but snapshot 1 has the later time "
        f"{first.created_at}. Snapshot 2 shows that time, too. One of the two machines has a wrong clock: correct it."
    )
    third = condemn(table, table.current(), [split_name("x")]).manifest
    assert (third.created_at, third.format_version) == (first.created_at, names.FORMAT_OF_CLOCK)
    store.now += 24 * HOUR
    night(table, 3)
    assert (table.current().manifest.clock, table.current().manifest.format_version) == (None, 1)


def test_a_copy_of_a_table_keeps_more_and_never_less() -> None:
    """Its objects are as old as the copy, in any order."""
    store = MemoryStore()
    table = create_or_open(store, card_of())
    for number in range(3):
        store.now = START + number * 24 * HOUR
        night(table, number)
    copy = MemoryStore()
    copy.now = START + 100 * HOUR
    for info in sorted(store.list(""), key=lambda info: info.key, reverse=True):
        copy.create(info.key, store.read(info.key))
    copy.now += HOUR
    assert expire(Table.open(copy), keep_for="2h").kept == (1, 2, 3)
    copy.now += 3 * HOUR
    assert expire(Table.open(copy), keep_for="2h").kept == (3,)


class Ahead(LocalStore):
    """A store whose clock is behind that of this machine."""

    def clock(self) -> float:
        return super().clock() - 8 * 24 * HOUR


def test_a_sweep_spares_what_is_young_by_the_clock_of_the_store(tmp_path: Path) -> None:
    """A machine whose clock is eight days ahead took the files of a run in progress for leftovers of last week."""
    store: Store = Ahead(str(tmp_path))
    table = make_table(store, {"live": ["a"]})
    commit_rows(store, table.card, "in progress", ["b"])
    now = store.clock()
    for info in store.list(""):
        os.utime(f"{store.root}/{info.key}", (now, now))
    assert sweep(table).keys == []
    assert sweep(table, now=now + 8 * 24 * HOUR).keys == [names.data_key(split_name("in progress"))]


def test_a_skew_is_said(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    store = Ahead(str(tmp_path))
    make_table(store, {"live": ["a"]})
    assert clocks.tell_skew(LocalStore(str(tmp_path))) == ""
    said = (
        f"Warning: the clock of this machine is 192 h 0 min ahead of that of {store.root}. Snapshots and logs of this "
        "run show a wrong time. What is kept and removed goes by the store's clock. Correct the clock of this machine."
    )
    assert clocks.tell_skew(store) == said
    monkeypatch.setattr(LocalStore, "clock", lambda self: datetime.now(UTC).timestamp() + 90 * 60)
    result = CliRunner().invoke(main, ["expire", str(tmp_path), "--keep-for", "30d"])
    assert result.exit_code == 0
    assert "the clock of this machine is 1 h 30 min behind that of" in result.stderr
    assert "Warning" not in result.stdout


def test_the_clock_of_s3(s3: S3Server, s3_prefix: str) -> None:
    store = open_store(s3_prefix)
    assert abs(store.clock() - datetime.now(UTC).timestamp()) < timedelta(hours=1).total_seconds()
    store.create("a", b"")
    assert [info.modified <= store.clock() + 1 for info in store.list("")] == [True]
