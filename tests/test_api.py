"""The table that `open_table` returns: what it adds to reading."""

from pathlib import Path
from typing import Any

import pytest

import sfr_batch as sfr
from sfr_batch.errors import ConfigError
from sfr_batch.format import names
from sfr_batch.storage.stores import open_store
from sfr_batch.table.commit import lease
from tests.tables import commit_rows, make_table


def test_maintenance_reports_before_it_does(tmp_path: Path) -> None:
    made = make_table(open_store(str(tmp_path)), {"a": ["one"], "b": ["two"]})
    orphan = names.data_key(commit_rows(made.store, made.card, "orphan", ["o"]).split_id)
    table = sfr.open_table(str(tmp_path))
    keys = {info.key for info in table.store.list("")}
    assert table.maintenance.sweep().keys == [], "nothing is older than a week"
    assert table.maintenance.sweep(older_than="0m").keys == [orphan]
    assert table.maintenance.compact().files == 2
    assert table.compact(rows_per_file=1).files == 0 == table.maintenance.compact(rows_per_file=1).files
    assert {info.key for info in table.store.list("")} == keys
    with pytest.raises(ConfigError, match="older_than 1: give a number of days"):
        table.maintenance.sweep(older_than="1")

    assert table.maintenance.sweep(older_than="0m", dry_run=False).keys == [orphan]
    done = table.maintenance.compact(dry_run=False)
    assert done.snapshot
    assert done.snapshot.number == 3
    assert table.maintenance.expire(keep_last=1).snapshots == (1, 2) == table.expire(keep_last=1).snapshots
    table.maintenance.expire(keep_last=1, dry_run=False)
    assert [snapshot.number for snapshot in table.snapshots()] == [3, 4], "one state"
    assert sorted(table.to_arrow(["id"]).column("id").to_pylist()) == ["one", "two"]


def test_an_empty_table_has_nothing_to_sweep(tmp_path: Path) -> None:
    make_table(open_store(str(tmp_path)), {"a": ["one"]})
    for info in open_store(str(tmp_path)).list(names.SNAPSHOTS):
        open_store(str(tmp_path)).delete([info.key])
    assert sfr.open_table(str(tmp_path)).maintenance.sweep(older_than="0m").keys == []


def test_compaction_says_why_it_waits(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The library is silent unless it is given somebody to tell."""
    make_table(open_store(str(tmp_path)), {"a": ["one"], "b": ["two"]})
    hold = lease.hold

    def waiting(store: Any, holder: Any, lifetime_s: float, say: Any) -> Any:
        say("waiting for another run")
        return hold(store, holder, lifetime_s, say)

    monkeypatch.setattr(lease, "hold", waiting)
    told: list[str] = []
    sfr.open_table(str(tmp_path)).maintenance.compact(dry_run=False, say=told.append)
    assert told == ["waiting for another run"]


def test_a_table_behind_a_pointer_is_for_reading(tmp_path: Path) -> None:
    make_table(open_store(f"{tmp_path}/table"), {"a": ["one"]})
    sfr.promote(f"{tmp_path}/current", f"{tmp_path}/table", snapshot=1)
    table = sfr.open_table(f"{tmp_path}/current")
    assert table.pinned == 1
    for act in (lambda: table.maintenance, table.compact, lambda: table.expire(keep_last=1)):
        with pytest.raises(ConfigError, match="is a read-only pointer"):
            act()
