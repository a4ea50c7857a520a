"""What `status` says of a run that is not published: how far it is, how fast, and whether it still runs."""

import contextlib
import dataclasses
import json
from collections.abc import Iterator
from pathlib import Path

import pyarrow as pa
import pytest

import sfr_batch as sfr
from sfr_batch.format import names
from sfr_batch.format.parquet import encode_parquet
from sfr_batch.pipeline.run_log import RunLog
from sfr_batch.storage.store import Store
from sfr_batch.storage.stores import open_store
from sfr_batch.table.commit import lease, status
from sfr_batch.table.commit.publish import condemn
from sfr_batch.table.commit.unfinished import Heartbeat, RunStatus, last_run, unfinished_runs
from sfr_batch.table.commit.writing import create_or_open, new_run_id
from sfr_batch.table.table import Table
from tests.job_processes import documents, put_parquet, settings
from tests.memory_store import MemoryStore
from tests.tables import do_splits, make_table


@contextlib.contextmanager
def held(store: Store, run_id: str) -> Iterator[lease.Holder]:
    """The lease, held by this process."""
    holder = lease.Holder.of_this_process(run_id)
    with lease.hold(store, holder, 60, say=print):
        yield holder


@pytest.fixture
def beating() -> Iterator[Heartbeat]:
    """Of this process, at second 4000."""
    store = MemoryStore()
    with held(store, "r"):
        record = lease.read_record(store)
        assert record is not None
        yield Heartbeat(record, at=4000, now=4000)


def run(done: int, every_s: float, *, of: int = 10, started: float = 1000, estimated: bool = False) -> RunStatus:
    """``of`` splits of 1,000 rows each, ``done`` of which were committed ``every_s`` seconds apart."""
    commits = tuple((started + every_s * (number + 1), 1000) for number in range(done))
    return RunStatus("r", of, done, of * 1000, done * 1000, estimated, started, commits)


def test_a_run_that_goes_on(beating: Heartbeat) -> None:
    assert run(5, 500).describe(beating) == (
        "running: 5,000 of 10,000 rows, 5 of 10 splits committed, 2.0 rows/s, last commit 8:20 ago, 41:40 left"
    )
    assert run(5, 500, estimated=True).describe(beating).startswith("running: ~5,000 of ~10,000 rows, 5 of 10 splits")
    assert run(0, 1, started=3990).describe(beating) == (
        "running: 0 of 10,000 rows, 0 of 10 splits committed, started 0:10 ago"
    )
    assert run(10, 100).describe(beating) == (
        "publishing: 10,000 of 10,000 rows, 10 of 10 splits committed, last commit 33:20 ago"
    )


def test_a_run_that_hangs(beating: Heartbeat) -> None:
    stop = beating.record.holder.how_to_stop()
    assert run(5, 1).describe(beating) == (
        "stalled: 5,000 of 10,000 rows, 5 of 10 splits committed, 1,000.0 rows/s, last commit 49:55 ago; look at its "
        f"log; to start again: {stop}, then repeat the same `sfr-batch embed` to complete it"
    )
    assert run(0, 1).describe(beating).startswith("stalled: 0 of 10,000 rows, 0 of 10 splits committed, started 50:00")
    # Splits that take a quarter of an hour each.
    assert run(2, 1000, started=0).describe(beating).startswith("running: ")


def test_a_run_that_is_over() -> None:
    assert run(5, 1).describe(None) == (
        "interrupted: 5 of 10 splits committed, not published; repeat the same `sfr-batch embed` to complete it"
    )


def test_a_writer_elsewhere_is_alive_while_its_heart_beats(beating: Heartbeat) -> None:
    elsewhere = beating.record.model_copy(
        update={"holder": beating.record.holder.model_copy(update={"machine": "another"})}
    )
    assert Heartbeat(elsewhere, at=4000, now=4060).beats
    silent = Heartbeat(elsewhere, at=4000, now=4061)
    assert not silent.beats
    assert silent.describe().endswith("(no heartbeat for 1:01: it is dead or paused, and the next run takes over)")
    dead = beating.record.model_copy(update={"holder": beating.record.holder.model_copy(update={"token": "other"})})
    assert not Heartbeat(dead, at=4000, now=4000).beats
    assert Heartbeat(dead, at=4000, now=4000).describe().endswith("(its process is dead: the next run takes over)")


def test_a_clock_that_is_behind_makes_nobody_look_dead(beating: Heartbeat, tmp_path: Path) -> None:
    store = open_store(str(tmp_path))
    with held(store, "r"):
        assert Heartbeat.of(beating.record, store, now=0.0).beats
        assert Heartbeat.of(beating.record, store, now=0.0).now > 0


def test_a_table_names_its_live_run(tmp_path: Path, mistral: str) -> None:
    put_parquet(f"{tmp_path}/corpus/a.parquet", documents(["one", "two", "three", "four"]))
    (tmp_path / "job.yaml").write_text(json.dumps(settings(mistral, str(tmp_path), rows_per_split=1)))
    plan = sfr.plan(tmp_path / "job.yaml")
    table: Table = create_or_open(plan.store, plan.card)
    RunLog(plan.store, plan, "20260101T000000-old")
    with held(plan.store, "20260101T000001-new") as holder:
        RunLog(plan.store, plan, "20260101T000001-new")
        do_splits(plan, only=2)
        lines = status.describe(table).splitlines()
        assert lines[3] == f"writer    {holder}"
        assert lines[4].startswith(
            "run       20260101T000000-old: interrupted: 2 of 4 splits committed, not published; "
        )
        assert lines[5].startswith("run       20260101T000001-new: running: 2 of 4 rows, 2 of 4 splits committed, ")
        assert ", last commit 0:0" in lines[5]
    assert "20260101T000001-new: interrupted: " in status.describe(table)
    config = plan.config.model_copy(update={"select": plan.config.select.model_copy(update={"limit": 1})})
    RunLog(plan.store, dataclasses.replace(plan, config=config), "20260101T000002-trial")
    assert "20260101T000002-trial: trial (select.limit): 2 of 4 splits committed, which the next run without" in (
        status.describe(table)
    )
    old, new, trial = unfinished_runs(table)
    assert trial.trial
    assert len(old.commits) == len(new.commits) == 2


def test_what_embeds_nothing_hides_no_interrupted_run() -> None:
    store = MemoryStore()
    table = make_table(store, {"a": ["x"]})
    base, plan = table.current(), encode_parquet(pa.table({"split_id": ["0" * 32], "rows": [1], "shard": ["a"]}))
    interrupted = new_run_id()
    store.create(names.run_key(interrupted, names.RUN_PLAN), plan)
    swept = condemn(table, base, ["z" * 32])
    condemn(table, swept, [], "expire")
    assert last_run(table.latest()) == base.manifest.run_id
    assert [run.run_id for run in unfinished_runs(table)] == [interrupted]
    assert sorted(ids := [new_run_id() for _ in range(50)]) == ids
