"""Where a run is, from storage alone: while it goes on, as it ends in each way, and while the store does not answer."""

import contextlib
import json
import re
from collections import Counter
from collections.abc import Iterator
from typing import Any

import pyarrow as pa
import pytest

from sfr_batch.errors import StorageError
from sfr_batch.format import names
from sfr_batch.format.parquet import encode_parquet
from sfr_batch.format.run_accounts import RunAccount
from sfr_batch.format.run_progress import EXIT_CODES, RunProgress
from sfr_batch.pipeline.progress import Progress
from sfr_batch.pipeline.progress_record import ProgressRecord
from sfr_batch.pipeline.watch_display import Lines
from sfr_batch.pipeline.watched import follow
from sfr_batch.storage import retries
from sfr_batch.table.commit import lease, watching
from sfr_batch.table.commit.watching import Watcher, progress_of, watch
from sfr_batch.table.commit.writing import create_or_open
from sfr_batch.table.table import Table
from tests.memory_store import MemoryStore
from tests.pipeline.test_progress import Clock, receipt
from tests.tables import card_of, make_table, split_name

RUN = "20991231T000000-new"
PLAN = encode_parquet(pa.table({"split_id": [split_name("a"), split_name("b")], "rows": [7, 8], "shard": ["s", "s"]}))


class Counted(MemoryStore):
    """Counts requests, and fails while it is told to."""

    def __init__(self) -> None:
        super().__init__("memory://table")
        self.asked: Counter[str] = Counter()
        self.fails = False

    def _ask(self, what: str) -> None:
        self.asked[what] += 1
        if self.fails:
            raise StorageError("Cannot list memory://table: slow down. Run the command again.")

    def read(self, key: str) -> bytes:
        self._ask("read")
        return super().read(key)

    def list(self, prefix: str) -> Iterator[Any]:
        self._ask(f"list {prefix}")
        return super().list(prefix)

    def clock(self) -> float:
        self._ask("clock")
        return super().clock()


@pytest.fixture
def store() -> Counted:
    return Counted()


@pytest.fixture
def table(store: Counted) -> Table:
    return create_or_open(store, card_of())


@contextlib.contextmanager
def running(table: Table, done: int = 0, stage: str = "encoding") -> Iterator[tuple[Progress, ProgressRecord]]:
    """A run of 16 splits that has said where it is: ``done`` splits of ten seconds each."""
    with held(table) as clock:
        progress = Progress(splits=16, rows=1_600, stream=None, clock=clock, stage=stage)
        record = ProgressRecord(table.store, RUN, progress)
        for _ in range(done):
            clock.now += 10
            progress.add(receipt(100, 6_000))
        record.write()
        yield progress, record


@contextlib.contextmanager
def held(table: Table) -> Iterator[Clock]:
    """The lease, and a log with a plan."""
    with lease.hold(table.store, lease.Holder.of_this_process(RUN), 60, say=print):
        table.store.create(names.run_key(RUN, names.RUN_PLAN), PLAN)
        yield Clock()


def end(table: Table, outcome: str, **more: Any) -> None:
    account = RunAccount(RUN, outcome, **more)
    table.store.create(names.run_key(RUN, names.RUN_END), account.to_json().encode())


# --- while it goes on


def test_a_run_says_where_it_is(table: Table, store: Counted) -> None:
    with running(table, done=6) as (progress, _):
        found = progress_of(table)
        assert (found.table, found.run_id, found.outcome) == (store.root, RUN, "running")
        assert found.host
        assert found.stop_with.startswith("kill ")
        assert found.heartbeat_s is not None
        own = progress.state()
        for name in ("stage", "rows", "embedded", "splits", "splits_done", "tokens", "padding"):
            assert getattr(found, name) == getattr(own, name), name
        age = found.elapsed_s - own.elapsed_s
        assert found.last_commit_s == age
        assert found.left_s == pytest.approx((own.first_commit_s + age) / 5 * 10)
        store.now += 100
        later = progress_of(table)
        assert later.elapsed_s == found.elapsed_s + 100
        assert (later.last_commit_s, later.silence_s) == (age + 100, age + 100)
        assert not later.stalled
        store.now += 600
        assert progress_of(table).stalled
        assert "; look at its log; to start again: `kill " in progress_of(table).describe()


def test_what_waits_for_machines_is_not_stalled(table: Table, store: Counted) -> None:
    with running(table, stage="waiting for 8 of 8 GPUs"):
        store.now += 5000
        found = progress_of(table)
        assert (found.stage, found.waiting, found.stalled) == ("waiting for 8 of 8 GPUs", True, False)


def test_only_news_are_written_and_old_ones_go(table: Table, store: Counted) -> None:
    with running(table) as (progress, record):

        def kept() -> list[str]:
            return sorted(info.key.rpartition("/")[2] for info in store.list(names.run_key(RUN, names.RUN_PROGRESS)))

        record.write()
        assert kept() == ["000001.json"]
        for _ in range(4):
            progress.add(receipt(100, 6_000))
            record.write()
        assert kept() == ["000004.json", "000005.json"]
        assert progress_of(table).splits_done == 4
        record.__enter__().__exit__(None, None, None)
        assert kept() == []


def test_requests_do_not_grow_with_the_table(table: Table, store: Counted) -> None:
    make_table(store, {f"split {n}": ["x"] for n in range(3)}, card_of())
    with running(table) as (progress, record):
        watcher = Watcher(table)
        costs = []
        for size in (0, 3_000):
            for number in range(size):
                store.create(names.data_key(f"{number:032x}"), b"")
                store.create(names.run_key(RUN, names.run_receipts(number)), b"")
            progress.add(receipt(100, 6_000))
            record.write()
            store.asked.clear()
            assert watcher.look().splits_done == progress.splits_done
            costs.append(store.asked.copy())
        assert costs[0] == costs[1]
        assert costs[0].total() == 5
        assert f"list {names.DATA}" not in costs[0]
        assert store.asked["read"] == 2
        watcher.look()
        assert store.asked["read"] == 3, "what has been read is not read again"


def test_a_run_that_does_not_say_it_is_counted_once_a_minute(table: Table, store: Counted) -> None:
    """One of an older release, or that has not begun."""
    clock = Clock()
    with lease.hold(store, lease.Holder.of_this_process(RUN), 60, say=print):
        watcher = Watcher(table, clock)
        assert watcher.look().describe() == "comparing with the corpus, or maintaining the table"
        store.create(names.run_key(RUN, names.RUN_PLAN), PLAN)
        assert watcher.look().stage == "starting"
        store.now += 60
        store.create(names.data_key(split_name("a")), b"")
        for _ in range(5):
            clock.now += 10
            found = watcher.look()
        assert (found.embedded, found.rows, found.splits_done, found.splits) == (7, 15, 1, 2)
        assert store.asked[f"list {names.DATA}"] == 1
        clock.now += 60
        watcher.look()
        assert store.asked[f"list {names.DATA}"] == 2


@pytest.mark.parametrize(
    "said", [b"", b"[]", b'{"rows": "many"}', b'{"rows": NaN}', b'{"stage": 1}', b'{"rows": 1e400}', b'{"lost": null}']
)
def test_what_anybody_may_have_written_is_not_believed(said: bytes, table: Table, store: Counted) -> None:
    assert RunProgress.from_json(said) is None
    with held(table):
        store.create(names.run_key(RUN, names.run_progress(1)), said)
        assert progress_of(table).stage == "starting"
    evil = RunProgress.from_json(b'{"stage": "\\u001b[2Jx", "new": 1, "rows": 3, "splits": 2, "lost": "<b>"}')
    assert evil is not None
    assert "\x1b" not in evil.line() + evil.screen() + evil.describe()
    assert "<b>" not in evil._repr_html_()


def test_fields_of_an_account_that_are_none_are_left_out() -> None:
    said = {"run_id": "r", "seconds": "long", "cost": {"value": 1}, "rows": True, "tokens": 3, "versions": {"a": "b"}}
    found = RunAccount.of(said | {"snapshot": 10**400, "user": None, "new": 1, "actor_seconds_used": 7})
    assert found == RunAccount("r", tokens=3, versions={"a": "b"}, actor_seconds_used=7)
    assert RunAccount.of({"run_id": 7}) is None
    assert RunAccount.of([]) is None


# --- how it ends


def watched(table: Table, clock: Clock, until: Any = None, every_s: float = 5) -> list[Any]:
    """What `watch` shows. until: is called in each pause."""

    def pause(seconds: float) -> None:
        clock.now += seconds
        if until:
            until()

    return list(watch(table, every_s, pause=pause, clock=clock))


def test_no_run_yet(table: Table) -> None:
    (found,) = watched(table, Clock())
    assert (found.outcome, found.describe(), found.exit_code) == ("none", "no run yet", 0)


@pytest.mark.parametrize(
    ("outcome", "more", "code", "said"),
    [
        ("trial", {"seconds": 65.0}, 0, "trial after 1:05, 600 rows embedded"),
        ("nothing to do", {}, 0, "nothing to do, 600 rows embedded"),
        (
            "failed",
            {"error": "RunFailed", "message": "It is full."},
            3,
            "failed: RunFailed, 600 rows embedded: It is full.",
        ),
        (
            "stopped",
            {"signal": "SIGTERM", "rows": 800},
            4,
            "stopped by SIGTERM, 800 rows embedded; repeat the same `sfr-batch embed` to complete it",
        ),
    ],
)
def test_a_run_that_says_how_it_ended(
    outcome: str, more: dict[str, Any], code: int, said: str, table: Table, store: Counted
) -> None:
    """It is told some time after the lease is free, and again to who asks later."""
    with contextlib.ExitStack() as stack:
        stack.enter_context(running(table, done=6))
        pauses = iter([stack.close, lambda: None, lambda: end(table, outcome, **more)])
        *before, last = watched(table, Clock(), lambda: next(pauses)())
    assert [state.outcome for state in before] == ["running"] * 3
    assert before[1].stage == before[2].stage == "ending"
    assert (last.outcome, last.exit_code, last.describe()) == (outcome, code, said)
    assert (last.splits, last.is_over, last.left_s) == (16, True, 0)
    (again,) = watched(table, Clock())
    assert (again.outcome, again.exit_code) == (outcome, code)


def test_a_run_that_publishes(table: Table, store: Counted) -> None:
    """Its report says so; if it could not write one, the newest snapshot."""
    with contextlib.ExitStack() as stack:
        stack.enter_context(running(table, done=6))
        snapshot = make_table(store, {"a": ["x"]}, card_of()).current()
        key = names.manifest_key(1)
        manifest = snapshot.manifest.model_copy(update={"run_id": RUN})
        store.delete([key])
        store.create(key, manifest.to_json())
        *_, last = watched(table, Clock(), stack.close)
        assert last.describe() == "published snapshot 1, 600 rows embedded"
    account = RunAccount(RUN, "published", 1, rows=1_600, seconds=100.0)
    report = {names.REPORT_ATTEMPTS: [RunAccount("other").as_json(), account.as_json()]}
    store.create(names.run_key(RUN, names.RUN_REPORT), json.dumps(report).encode())
    (found,) = watched(table, Clock())
    assert found.describe() == "published snapshot 1 after 1:40, 1,600 rows embedded"
    assert (found.exit_code, found.ended) == (0, account)


def test_a_run_that_is_killed(table: Table, store: Counted) -> None:
    """Its lease is not released, and its process is gone."""
    with running(table, done=6):
        token = lease._held.copy()
        *before, last = watched(table, Clock(), lease._held.clear)
        lease._held.update(token)
    assert [state.outcome for state in before] == ["running"]
    assert last.describe() == "killed, 600 rows embedded; repeat the same `sfr-batch embed` to complete it"
    assert (last.outcome, last.exit_code) == ("killed", 5)


def test_a_run_that_leaves_without_a_word(table: Table, store: Counted) -> None:
    """Before it has written anything nobody knows more; afterwards it counts as killed, as `runs` has it."""
    with contextlib.ExitStack() as stack:
        stack.enter_context(lease.hold(store, lease.Holder.of_this_process(RUN), 60, say=print))
        *before, last = watched(table, Clock(), stack.close)
    assert len(before) == 2 + watching.GRACE_S // 5
    assert (last.outcome, last.exit_code) == ("unknown", 5)
    assert last.describe().startswith("ended before it began to write: it had nothing to do, or ")
    with contextlib.ExitStack() as stack:
        stack.enter_context(running(table))
        assert watched(table, Clock(), stack.close)[-1].outcome == "killed"


def test_a_run_that_has_just_left_is_waited_for(table: Table, store: Counted) -> None:
    """Its error is recorded after its lease is released."""
    with running(table):
        pass
    pauses = iter([lambda: None, lambda: end(table, "failed", error="RunFailed")])
    *before, last = watched(table, Clock(), lambda: next(pauses)())
    assert [(state.run_id, state.stage) for state in before] == [(RUN, "ending")] * 2
    assert (last.outcome, last.exit_code) == ("failed", 3)


def test_a_run_that_has_left_long_ago_is_not(table: Table, store: Counted) -> None:
    with running(table):
        pass
    store.now += watching.GRACE_S
    (found,) = watched(table, Clock())
    assert (found.outcome, found.exit_code) == ("killed", 5)


def test_an_attempt_that_plans_again_is_followed(table: Table, store: Counted) -> None:
    stack, second = contextlib.ExitStack(), "20991231T000001-next"
    stack.enter_context(running(table, done=6))

    def again() -> None:
        stack.close()
        end(table, "planned again")

    def anew() -> None:
        stack.enter_context(lease.hold(store, lease.Holder.of_this_process(second), 60, say=print))

    def over() -> None:
        stack.close()
        account = RunAccount(second, "published", 2)
        store.create(names.run_key(second, names.RUN_END), account.to_json().encode())

    pauses = iter([again, anew, over])
    states = watched(table, Clock(), lambda: next(pauses)())
    assert [(state.run_id, state.outcome) for state in states] == [
        (RUN, "running"),
        (RUN, "planned again"),
        (second, "running"),
        (second, "published"),
    ]
    assert states[2].embedded == 0


def test_nobody_waits_for_ever_for_a_plan(table: Table) -> None:
    stack = contextlib.ExitStack()
    stack.enter_context(running(table))
    end(table, "planned again")
    states = watched(table, Clock(), stack.close, every_s=60)
    assert states[-1].outcome == "unknown"
    assert len(states) == 2 + watching.PATIENCE_S // 60 + 1


def test_every_outcome_has_a_code() -> None:
    outcomes = ("published", "trial", "nothing to do", "failed", "stopped", "killed", "planned again")
    assert {*outcomes, "unknown", "none"} == EXIT_CODES.keys()
    assert set(EXIT_CODES.values()) == {0, 3, 4, 5}, "1 and 2 are those of the command"


# --- a store that does not answer


def test_a_store_that_fails_for_a_while(table: Table, store: Counted) -> None:
    """Said once, and when it is over."""
    lines: list[str] = []
    shows = Lines(lines.append)
    with running(table, done=6):
        states = iter([False, True, True, True, False, None])

        def next_state() -> None:
            if (fails := next(states)) is None:
                end(table, "trial")
                lease.release_all()
            else:
                store.fails = fails

        for state in watched(table, Clock(), next_state):
            if isinstance(state, StorageError):
                shows.trouble(state)
            else:
                shows.show(state)
    head, first, *rest = lines
    assert head.startswith(f"memory://table: run {RUN} of ")
    assert re.fullmatch(r"\[1:0\d\] encoding, 600 of 1,600 rows, 6 of 16 splits, 36,000 tokens, 5.*, 1:4\d left", first)
    assert rest == [
        "the store does not answer, watching goes on: Cannot list memory://table: slow down",
        "the store answers again",
        "trial, 600 rows embedded",
    ]


def test_a_store_that_fails_for_good(table: Table, store: Counted) -> None:
    def fail() -> None:
        store.fails = True

    with running(table), pytest.raises(StorageError, match="slow down"):
        watched(table, Clock(), fail, every_s=60)
    assert store.asked["clock"] < 20


def test_repeated_requests_are_not_logged_in_what_is_drawn(caplog: pytest.LogCaptureFixture) -> None:
    def states() -> Iterator[RunProgress]:
        retries._log.warning("slow down; try 1 of 4")
        yield RunProgress()

    assert follow(states(), Lines(lambda line: None)).outcome == "none"
    assert caplog.text == ""
    retries._log.warning("slow down; try 2 of 4")
    assert "try 2 of 4" in caplog.text
