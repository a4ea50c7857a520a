"""The lease: one holder at a time, dead ones replaced, paused ones told, and no clock compared with another."""

import contextlib
import json
import os
import re
import signal
import socket
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, precondition, rule, run_state_machine_as_test

import sfr_batch as sfr
from sfr_batch.cli.main import main
from sfr_batch.errors import StorageError, TableInUse
from sfr_batch.format import names
from sfr_batch.pipeline import placement, runner
from sfr_batch.storage.s3 import S3Store
from sfr_batch.storage.store import Content, Store, whole
from sfr_batch.storage.stores import open_store
from sfr_batch.table.commit import lease, status
from sfr_batch.table.commit.lease import Challenger, Holder, Lease, LeaseRecord, hold
from sfr_batch.table.commit.sweep import find_orphans
from sfr_batch.table.table import Table
from tests.job_processes import (
    SPLITS,
    config,
    data_files,
    documents,
    finish_job,
    kill_tree,
    prepare,
    put_parquet,
    start_job,
    start_python,
    wait_for_commits,
)
from tests.memory_store import MemoryStore
from tests.models import minilm_folder
from tests.state_machines import MACHINE, find_bug
from tests.table.commit.test_protocol import Actor, SteppedStore
from tests.tables import make_table

LIFETIME = 60.0


class Clock:
    """A monotonic clock that a test moves; `pause` is how one sleeps by it."""

    def __init__(self) -> None:
        self.now = 1000.0

    def __call__(self) -> float:
        return self.now

    def pause(self, seconds: float) -> None:
        self.now += seconds


@pytest.fixture(autouse=True)
def _no_lease_is_left() -> Iterator[None]:
    yield
    lease._held.clear()


def elsewhere(name: str = "elsewhere", **changes: Any) -> Holder:
    """A holder on another machine: nobody here can say whether it is alive."""
    found = {"user": "ann", "host": name, "machine": f"machine of {name}", "pid": 4711, "started": 1}
    return Holder.of_this_process(f"run of {name}").model_copy(update=found | changes)


def here(**changes: Any) -> Holder:
    return Holder.of_this_process("run here").model_copy(update=changes)


def take(store: Any, holder: Holder, lifetime_s: float = LIFETIME) -> Lease:
    found = Challenger(store, holder, lifetime_s).look()
    assert isinstance(found, Lease)
    return found


def numbers(store: Store) -> list[int]:
    return sorted(int(Path(info.key).stem) for info in store.list(names.LEASES))


def dead_process() -> int:
    """The number of a process that was there, and is no more."""
    process = subprocess.Popen([sys.executable, "-c", ""])
    process.wait()
    return process.pid


# --- taking, refusing, expiring


def test_free_taken_renewed_and_released(store: Store) -> None:
    assert lease.read_holder(store) is None
    first = take(store, elsewhere())
    assert lease.read_holder(store) == first.holder
    for _ in range(6):
        first.renew()
        first.confirm()
    assert lease.read_holder(store) == first.holder
    assert numbers(store) == [6, 7], "old numbers are deleted"
    first.release()
    assert lease.read_holder(store) is None
    second = take(store, elsewhere("next"))
    assert lease.read_holder(store) == second.holder
    second.release()
    second.renew()  # a thread that was about to
    assert lease.read_holder(store) is None


def test_it_expires_by_the_challengers_clock_alone(store: Store) -> None:
    held = take(store, elsewhere(since="2999-01-01T00:00:00+00:00"))
    clock = Clock()
    challenger = Challenger(store, elsewhere("other"), 5, clock)
    assert challenger.look() == LIFETIME, "the holder's lifetime counts, not the challenger's"
    clock.pause(LIFETIME - 1)
    assert challenger.look() == 1
    clock.pause(1)
    assert isinstance(challenger.look(), Lease)
    with pytest.raises(TableInUse, match=r"lost the lease.*taken over by run run of other of ann on other"):
        held.confirm()


def test_a_sign_of_life_while_one_waits_is_refused(store: Store) -> None:
    held = take(store, elsewhere())
    clock = Clock()
    challenger = Challenger(store, elsewhere("other"), LIFETIME, clock)
    assert challenger.look() == LIFETIME
    clock.pause(LIFETIME - 0.1)
    held.renew()
    clock.pause(LIFETIME)
    with pytest.raises(TableInUse) as caught:
        challenger.look()
    assert str(caught.value) == (
        f"Another run is writing to {store.root}: run run of elsewhere of ann on elsewhere, process 4711, since "
        f"{held.holder.since}. Two runs at once would do the same work twice. Wait until it is done (`sfr-batch status "
        f"{store.root}`) and run the same command again, stop it first (`kill 4711` on elsewhere), or write to "
        "another table: table.path=<another path>."
    )
    held.confirm()


def test_one_who_waits_says_so_once_and_takes_over(store: Store) -> None:
    take(store, elsewhere(ray_job="job-7", ray_address="10.0.0.1:6379"))
    clock = Clock()
    said: list[str] = []
    with hold(store, here(), LIFETIME, said.append, clock, clock.pause) as held:
        assert held.waited
        held.confirm()
    assert 1000 + LIFETIME <= clock.now < 1000 + LIFETIME + 3
    (text,) = said
    assert text.startswith(f"waiting up to 60 s for the lease of {store.root}: it is held by run run of elsewhere of ")
    assert "Ray job job-7, Ray 10.0.0.1:6379, since " in text
    assert lease.read_holder(store) is None


def test_one_who_waits_has_it_as_soon_as_it_is_released(store: Store) -> None:
    held = take(store, elsewhere())
    clock = Clock()

    def pause(seconds: float) -> None:
        clock.pause(seconds)
        held.release()

    with hold(store, here(), LIFETIME, lambda text: None, clock, pause):
        assert clock.now <= 1000 + LIFETIME / 10


def test_a_ray_job_is_stopped_as_one(store: Store) -> None:
    take(store, here(ray_job="raysubmit_1"))
    with pytest.raises(TableInUse, match=r"stop it first \(`ray job stop raysubmit_1`\)"):
        Challenger(store, here(), LIFETIME).look()


# --- processes on this machine


def test_a_dead_process_is_replaced_at_once(store: Store) -> None:
    take(store, here(pid=dead_process()))
    take(store, elsewhere())


def test_a_living_process_is_refused_at_once(store: Store) -> None:
    parent = os.getppid()
    take(store, here(pid=parent, started=lease._started(parent)))
    with pytest.raises(TableInUse, match=f"process {parent}, since"):
        Challenger(store, elsewhere(), LIFETIME).look()


def test_a_number_that_another_process_has_now_is_no_sign_of_life(store: Store) -> None:
    parent = os.getppid()
    started = lease._started(parent)
    assert started is not None
    take(store, here(pid=parent, started=started - 1))
    take(store, elsewhere())


def test_a_process_that_waits_to_be_buried_is_dead(store: Store) -> None:
    process = subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE)
    holder = here(pid=process.pid, started=lease._started(process.pid))
    assert holder.process_state() == "alive"
    process.kill()
    os.waitid(os.P_PID, process.pid, os.WEXITED | os.WNOWAIT)  # over, but not buried
    assert holder.process_state() == "dead"
    process.communicate()


def test_the_same_number_on_another_machine_or_in_another_container_says_nothing(store: Store) -> None:
    boot = str(here().machine).split()[0]
    holders = [here(machine=None), here(machine="x"), here(machine=f"{boot} pid:[1]")]
    assert [holder.process_state() for holder in holders] == ["unknown"] * 3


def test_a_run_of_this_process_that_is_over_is_no_obstacle(store: Store) -> None:
    """A notebook whose last run could not release its lease, as the store did not answer."""
    held = take(store, here())
    with pytest.raises(TableInUse):
        Challenger(store, here(), LIFETIME).look()

    class Broken(MemoryStore):
        def create(self, key: str, data: Content) -> bool:
            raise StorageError("no answer")

    held._store = Broken()
    held.close()
    assert lease.read_holder(store) == held.holder
    take(store, here())


# --- what is left on the store may be anything


@pytest.mark.parametrize("data", [b"", b"{}", b"\xff" * 100, b'{"format_version": 99}', b"[" * 100_000])
def test_what_cannot_be_understood_expires_as_well(data: bytes) -> None:
    store = MemoryStore()
    store.create(names.lease_key(3), data)
    clock, said = Clock(), list[str]()
    with hold(store, here(), LIFETIME, said.append, clock, clock.pause):
        assert clock.now >= 1000 + LIFETIME
    assert "held by an unidentified run" in said[0]


def test_no_lease_blocks_a_table_for_ever_or_writes_to_a_terminal() -> None:
    store = MemoryStore()
    holder = elsewhere("\x1b[2J\n\x07evil")
    store.create(names.lease_key(1), LeaseRecord(holder=holder, lifetime_s=1e300).to_json())
    assert Challenger(store, here(), LIFETIME).look() == 3600
    assert str(holder).isprintable()


def test_odd_names_are_passed_over(store: Store) -> None:
    for name in ("x.json", "00000001.json.tmp", f"{'9' * 30}.json", "-0000001.json", "٠٠٠٠٠٠٠١.json"):
        store.create(f"{names.LEASES}/{name}", b"")
    held = take(store, elsewhere())
    assert lease.read_holder(store) == held.holder
    assert names.lease_key(1) in {info.key for info in store.list(names.LEASES)}


def test_a_sweep_leaves_leases_alone() -> None:
    store = MemoryStore()
    table = make_table(store, {"a": ["x"]})
    held = take(store, elsewhere())
    orphans = find_orphans(table, table.current(), 1e18)
    assert not [key for key in orphans.keys if key.startswith(names.LEASES)]
    held.confirm()


def test_status_shows_who_writes() -> None:
    store = MemoryStore()
    table = make_table(store, {"a": ["x"]})
    assert "writer" not in status.describe(table)
    held = take(store, elsewhere())
    assert f"\nwriter    {held.holder}" in status.describe(table)
    held.release()
    take(store, here(pid=dead_process()))
    assert "(its process is dead: the next run takes over)" in status.describe(table)


# --- races


def race(store: Store, count: int) -> list[Lease]:
    """The leases that ``count`` threads come by that all want it at once."""
    barrier = threading.Barrier(count)

    def want(number: int) -> Lease | None:
        challenger = Challenger(store, here(run_id=f"run {number}"), LIFETIME)
        barrier.wait()
        with_patience = (challenger.look() for _ in range(100))
        try:
            return next(found for found in with_patience if isinstance(found, Lease))
        except TableInUse:
            return None

    with ThreadPoolExecutor(count) as pool:
        return [found for found in pool.map(want, range(count)) if found]


def test_one_of_many_challengers_replaces_the_dead(store: Store) -> None:
    # Contended conditional writes are right on the S3 server but slow, so its race is short.
    challengers, rounds = (3, 4) if isinstance(store, S3Store) else (8, 30)
    pid = dead_process()
    for _ in range(rounds):
        take(store, here(pid=pid))
        (winner,) = race(store, challengers)
        winner.confirm()
        assert lease.read_holder(store) == winner.holder
        winner.release()


def test_a_paused_holder_finds_itself_replaced(store: Store) -> None:
    """Also where its successor has deleted the number that it creates next."""
    paused = take(store, elsewhere())
    clock = Clock()
    challenger = Challenger(store, elsewhere("other"), LIFETIME, clock)
    challenger.look()
    clock.pause(LIFETIME)
    successor = challenger.look()
    assert isinstance(successor, Lease)
    for _ in range(4):
        successor.renew()
    assert 2 not in numbers(store)
    paused.check()  # it does not know yet
    paused.renew()
    with pytest.raises(TableInUse, match="lost the lease"):
        paused.check()
    successor.confirm()
    assert lease.read_holder(store) == successor.holder
    assert 2 not in numbers(store), "what it created in vain is gone"
    paused.release()
    successor.confirm()


def test_a_challenger_that_slept_does_not_take_a_deleted_number(store: Store) -> None:
    held = take(store, here(pid=dead_process()))

    class Sleepy:
        """Goes to sleep when it has seen that the holder is dead."""

        root = store.root
        list, read, delete = store.list, store.read, store.delete

        def create(self, key: str, data: Content) -> bool:
            other = take(store, elsewhere())
            for _ in range(4):
                other.renew()
            return store.create(key, data)

    challenger = Challenger(Sleepy(), elsewhere("sleepy"), LIFETIME)  # type: ignore[arg-type]
    assert challenger.look() == 0
    assert held.holder != lease.read_holder(store) != challenger._me
    with pytest.raises(TableInUse, match="on elsewhere"):
        challenger.look()


# --- as a state machine


class Numbered(MemoryStore):
    """Knows of each number that was higher than all before it whose it was: token by number."""

    def __init__(self) -> None:
        super().__init__()
        self.highest: dict[int, str] = {}

    def create(self, key: str, data: Content) -> bool:
        created = super().create(key, data)
        number = names.number_of_lease_key(key)
        if created and number is not None and number > max(self.highest, default=0):
            self.highest[number] = LeaseRecord.from_json(whole(data), key).holder.token
        return created


class Contest(RuleBasedStateMachine):
    """Contenders on machines of their own that stop before every operation; the machine also moves the time.

    Once somebody has the lease, nobody who had it earlier can confirm or renew it; and nobody loses it who showed a
    sign of life within a lifetime.
    """

    def __init__(self) -> None:
        super().__init__()
        self.objects = Numbered()
        self.actors: list[Actor] = []
        self.now = 0.0
        self.names = 0
        self.winners: list[str] = []
        """In the order of the numbers that they took."""
        self.taken = 0
        self.sign_of_life: dict[str, float] = {}
        self.gave_up: set[str] = set()

    def _contend(self, store: SteppedStore, name: str, acts: list[str]) -> None:
        challenger = Challenger(store, elsewhere(name), LIFETIME, lambda: self.now)  # type: ignore[arg-type]
        try:
            while True:
                before = self.now
                found = challenger.look()
                if isinstance(found, Lease):
                    break
        except TableInUse:
            return
        if found._number > self.taken or self.objects.highest.get(found._number) != found.holder.token:
            if self.winners and (last := self.winners[-1]) not in self.gave_up:
                assert self.now - self.sign_of_life[last] >= LIFETIME, "it took the lease of one who is alive"
            self.winners.append(name)
            self.taken = max(self.taken, found._number)
            self.sign_of_life[name] = before
        # else it had it, slept before it saw so, was replaced meanwhile, and has to be told by its first act
        try:
            for act in acts:
                self._act(found, name, act)
        except TableInUse:
            pass  # somebody took over, or died in the middle of it

    def _act(self, held: Lease, name: str, act: str) -> None:
        if act == "release":
            self.gave_up.add(name)
            held.release()
            return
        before, now = len(self.winners), self.now
        if act == "renew":
            held.renew()
            held.check()
        else:
            held.confirm()
        assert name in self.gave_up or self.winners[before - 1] == name, "two believe that they hold it"
        if act == "renew":
            self.sign_of_life[name] = now

    @precondition(lambda self: len(self.actors) < 4)
    @rule(acts=st.lists(st.sampled_from(["renew", "renew", "confirm", "release"]), max_size=8))
    def start(self, acts: list[str]) -> None:
        self.names += 1
        name = f"contender {self.names}"
        cut = acts.index("release") + 1 if "release" in acts else len(acts)
        self.actors.append(Actor(name, lambda store: self._contend(store, name, acts[:cut]), self.objects))

    @precondition(lambda self: self.actors)
    @rule(
        data=st.data(),
        steps=st.sampled_from([1, 1, 2, 3, 5, 8, 20]),
        order=st.sampled_from(["go"] * 6 + ["die before", "die after", "lose reply"]),
    )
    def go_on(self, data: st.DataObject, steps: int, order: str) -> None:
        actor = data.draw(st.sampled_from(self.actors))
        for _ in range(steps - 1):
            actor.step()
        actor.step(order)
        if actor.done:
            self.actors.remove(actor)

    @rule(seconds=st.sampled_from([1.0, LIFETIME / 2, LIFETIME]))
    def time_passes(self, seconds: float) -> None:
        self.now += seconds

    def teardown(self) -> None:
        for actor in self.actors:
            while not actor.done:
                actor.step("die before")
        # Whatever happened: one who waits long enough has it.
        clock = Clock()
        with hold(self.objects, elsewhere("last"), LIFETIME, lambda text: None, clock, clock.pause) as held:
            held.confirm()


@pytest.fixture
def no_margin(monkeypatch: pytest.MonkeyPatch) -> None:
    """Holders delete all numbers but their own: then those who sleep find what is deleted much more often."""
    monkeypatch.setattr(lease, "_KEPT", 1)


@pytest.mark.usefixtures("no_margin")
def test_contest() -> None:
    run_state_machine_as_test(Contest, settings=MACHINE)


@pytest.mark.slow
@pytest.mark.timeout(3600)
@pytest.mark.usefixtures("no_margin")
def test_contest_at_length() -> None:
    run_state_machine_as_test(Contest, settings=settings(MACHINE, max_examples=5000))


def plant_trust_in_create(monkeypatch: pytest.MonkeyPatch) -> None:
    """Whoever created a number believes that it is the highest."""

    def take(self: Challenger, top: int) -> Lease | float:
        entry = LeaseRecord(holder=self._me, lifetime_s=self._lifetime_s)
        if self._store.create(names.lease_key(top + 1), entry.to_json()):
            return Lease(self._store, self._me, self._lifetime_s, top + 1)
        return 0.0

    monkeypatch.setattr(Challenger, "_take", take)


def plant_trust_in_renewal(monkeypatch: pytest.MonkeyPatch) -> None:
    """A holder that could create its next number does not look whether that is the highest."""

    def create(self: Lease, *, released: bool) -> None:
        entry = LeaseRecord(holder=self.holder, lifetime_s=self._lifetime_s, released=released)
        if self._store.create(names.lease_key(self._number + 1), entry.to_json()):
            self._number += 1
            self._store.delete([names.lease_key(number) for number in range(1, self._number)])
        else:
            self._see()

    monkeypatch.setattr(Lease, "_create", create)


def plant_deafness(monkeypatch: pytest.MonkeyPatch) -> None:
    """A challenger that counts from its own beginning, whatever happened meanwhile."""
    look = Challenger.look

    def deaf(self: Challenger) -> Lease | float:
        begin = self.__dict__.setdefault("begin", self._clock())
        self._seen = (lease._read_leases(self._store).top, begin)
        return look(self)

    monkeypatch.setattr(Challenger, "look", deaf)


def plant_deletion_of_all(monkeypatch: pytest.MonkeyPatch) -> None:
    """Releasing by deleting everything: who slept then starts from the beginning again."""

    def release(self: Lease) -> None:
        self._store.delete([info.key for info in self._store.list(names.LEASES)])

    monkeypatch.setattr(Lease, "release", release)


@pytest.mark.parametrize(
    ("plant", "symptom", "start"),
    [
        (plant_trust_in_create, "two believe|one who is alive", 16),
        (plant_deafness, "one who is alive", 54),
        pytest.param(plant_deletion_of_all, "two believe|one who is alive", 0, marks=pytest.mark.slow),
    ],
)
@pytest.mark.usefixtures("no_margin")
def test_the_machine_finds(
    plant: Callable[[pytest.MonkeyPatch], None], symptom: str, start: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    plant(monkeypatch)
    find_bug(Contest, symptom, start)


def test_trust_in_renewal_is_found(monkeypatch: pytest.MonkeyPatch) -> None:
    """By the interleaving that is written down above; the machine takes too long to come by it."""
    plant_trust_in_renewal(monkeypatch)
    with pytest.raises(pytest.fail.Exception, match="DID NOT RAISE"):
        test_a_paused_holder_finds_itself_replaced(MemoryStore())


# --- runs


def small(folder: Path, *overrides: str) -> "sfr.Config":
    put_parquet(f"{folder}/corpus/a.parquet", documents(["one", "two", "three"]))
    return config(minilm_folder(), str(folder), *overrides, ray_address="none")


def test_a_finished_table_needs_no_lease(tmp_path: Path) -> None:
    job = small(tmp_path)
    sfr.embed(job)
    store = open_store(f"{tmp_path}/table")
    before = numbers(store)
    take(store, elsewhere())
    assert not sfr.embed(job).published
    assert numbers(store) == [*before, before[-1] + 1]


def test_a_refused_run_leaves_nothing(tmp_path: Path) -> None:
    store = open_store(f"{tmp_path}/table")
    parent = os.getppid()
    take(store, here(pid=parent, started=lease._started(parent)))
    with pytest.raises(TableInUse, match="Another run is writing to"):
        sfr.embed(small(tmp_path))
    assert {info.key for info in store.list("")} == {names.lease_key(1), names.TABLE_JSON}


def test_after_a_wait_the_plan_is_made_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Its holder may have published everything meanwhile, and released only then."""
    job = small(tmp_path, "run.lease_s=3600")
    store = open_store(f"{tmp_path}/table")
    held = take(store, elsewhere())
    plans: list[int] = []

    def publish_and_release(seconds: float) -> None:
        with monkeypatch.context() as patch:
            patch.setattr(lease, "hold", lambda *_, **__: contextlib.nullcontext(held))
            held.waited = False
            sfr.embed(job)
        held.release()

    real, plan = lease.hold, runner.make_plan
    monkeypatch.setattr(lease, "hold", lambda *a, **k: real(*a, **k, pause=publish_and_release))
    monkeypatch.setattr(runner, "make_plan", lambda config: plans.append(1) or plan(config))
    summary = sfr.embed(job)
    assert not summary.published
    assert summary.snapshot.number == 1
    assert len(plans) == 3, "one before the wait, one of the other run, one after the wait"


def test_a_lost_lease_stops_a_run_before_it_publishes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    job = small(tmp_path)
    store = open_store(f"{tmp_path}/table")

    def taken_over(*_: Any) -> list[Any]:
        number = numbers(store)[-1] + 1
        store.create(names.lease_key(number), LeaseRecord(holder=elsewhere(), lifetime_s=60).to_json())
        return []

    monkeypatch.setattr(runner, "recover_receipts", taken_over)
    with pytest.raises(TableInUse, match=r"lost the lease.*taken over by run run of elsewhere"):
        sfr.embed(job)
    assert not list(store.list(names.SNAPSHOTS))
    assert len(data_files(store)) == 1, "what was embedded is committed"


def test_the_driver_of_a_ray_job_knows_it(monkeypatch: pytest.MonkeyPatch) -> None:
    assert placement.submission_id() is None
    for text in ("", "{", "[]", '{"metadata": null}'):
        monkeypatch.setenv("RAY_JOB_CONFIG_JSON_ENV_VAR", text)
        assert placement.submission_id() is None
    metadata = {"job_submission_id": "raysubmit_1", "job_name": "x"}
    monkeypatch.setenv("RAY_JOB_CONFIG_JSON_ENV_VAR", json.dumps({"metadata": metadata}))
    assert placement.submission_id() == "raysubmit_1"


# --- real processes


@pytest.mark.timeout(400)
@pytest.mark.parametrize("place", ["local", pytest.param("s3", marks=pytest.mark.slow)], indirect=True)
def test_a_second_run_is_refused_until_the_first_is_gone(place: str, tmp_path: Path, request: Any) -> None:
    """Refused while it lives; at once on its way after SIGTERM and after `kill -9`. All of them are accounted for, and
    those that end in order are told of."""
    if place.startswith("s3://"):
        request.getfixturevalue("s3")
    config_file = prepare(tmp_path, place)
    store = open_store(f"{place}/table")
    tell = f"run.on_end=cat >> {tmp_path}/told; echo >> {tmp_path}/told"
    first = start_job(config_file, "none", tell)
    wait_for_commits(first, store, 2)
    second = start_job(config_file, "none", tell)
    output, _ = second.communicate(timeout=200)
    holder = lease.read_holder(store)
    assert holder is not None
    assert (holder.pid, holder.host) == (first.pid, socket.gethostname())
    assert second.returncode == 1
    assert f"error: Another run is writing to {place}/table: run {holder.run_id} of " in output
    assert f" on {holder.host}, process {first.pid}, since {holder.since}." in output
    assert f"(`kill {first.pid}` on {holder.host})" in output
    assert "Traceback" not in output
    assert f"writer    {holder}" in CliRunner().invoke(main, ["status", f"{place}/table"]).output

    first.send_signal(signal.SIGTERM)
    output, _ = first.communicate(timeout=60)
    assert first.returncode == 143, output
    assert lease.read_holder(store) is None, "SIGTERM left without releasing the lease"

    third = start_job(config_file, "none", tell)
    wait_for_commits(third, store, len(data_files(store)) + 2)
    assert sfr.open_table(f"{place}/table").runs()[-1].outcome == "running"
    kill_tree(third.pid)
    third.communicate()
    dead = lease.read_holder(store)
    assert dead is not None
    assert dead.pid == third.pid
    before = data_files(store)
    assert len(before) < SPLITS
    assert "waiting" not in finish_job(config_file, "none", tell)
    assert data_files(store).items() >= before.items()
    assert lease.read_holder(store) is None

    table = sfr.open_table(f"{place}/table")
    stopped, killed, published = runs = table.runs()
    assert [run.how for run in (stopped, published)] == ["stopped by SIGTERM", "published snapshot 1"]
    assert (killed.outcome, killed.at_least, killed.run_id) == ("killed", True, dead.run_id)
    assert sum(run.rows for run in runs) == table.current().manifest.counts.embedded
    assert sum(run.tokens for run in runs) == table.current().manifest.counts.tokens
    assert [run.splits > 0 for run in runs] == [True] * 3
    assert killed.command.startswith(f"python {Path(__file__).parents[3]}/jobs/embed.py {config_file} ")
    assert killed.seconds
    assert (killed.user, killed.host) == (stopped.user, stopped.host) == (dead.user, dead.host)
    told = [json.loads(line) for line in (tmp_path / "told").read_text().splitlines()]
    assert [(account["outcome"], account["error"], account["signal"]) for account in told] == [
        ("failed", "TableInUse", ""),
        ("stopped", "", "SIGTERM"),
        ("published", "", ""),
    ]
    assert told[1]["run_id"] == stopped.run_id


ON_ANOTHER_MACHINE = (
    "from sfr_batch.cli.main import main\nfrom sfr_batch.table.commit import lease\n"
    "lease._machine = lambda: 'another machine'\nmain()"
)


@pytest.mark.timeout(300)
def test_a_paused_run_wakes_up_after_it_was_replaced(tmp_path: Path) -> None:
    """Nothing on this machine can tell that it is paused, as if it were on another one."""
    config_file = prepare(tmp_path, str(tmp_path))
    store = open_store(f"{tmp_path}/table")
    overrides = ("run.ray_address=none", "run.lease_s=1")
    paused = start_python("-c", ON_ANOTHER_MACHINE, "embed", config_file, *overrides)
    wait_for_commits(paused, store, 2)
    paused.send_signal(signal.SIGSTOP)
    said: list[str] = []
    with hold(store, here(), LIFETIME, said.append) as held:
        assert held.waited
        assert said
        paused.send_signal(signal.SIGCONT)
        output, _ = paused.communicate(timeout=100)
        assert paused.returncode == 1, output
        assert re.search(r"error: This run has lost the lease .* for 1 s .* taken over by run run here of ", output)
        held.confirm()
        committed = data_files(store)
        assert len(committed) < SPLITS
        assert not list(store.list(names.SNAPSHOTS))
    finish_job(config_file, "none")
    assert data_files(store).items() >= committed.items(), "what it had committed counts"
    assert Table.open(store).num_rows > 0


def test_releasing_cannot_hold_up_leaving(tmp_path: Path) -> None:
    code = (
        "import time\nfrom sfr_batch.cli import signals\nfrom sfr_batch.table.commit import lease\n"
        "signals.LEAVE_WITHIN_S = 0.5\n"
        "lease.release_all = lambda: time.sleep(1000)\n"
        "from sfr_batch.table.commit.lease import release_all\n"
        "with signals.leaving(lambda name: 'bye', lambda name: release_all()):\n"
        "    print('ready', flush=True)\n    time.sleep(1000)"
    )
    process = start_python("-c", code)
    assert process.stdout is not None
    assert b"".join(iter(lambda: os.read(process.stdout.fileno(), 1), b"\n")) == b"ready"
    process.send_signal(signal.SIGTERM)
    output, _ = process.communicate(timeout=60)
    assert (process.returncode, output) == (143, "bye\n")
