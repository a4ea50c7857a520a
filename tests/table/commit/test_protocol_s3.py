"""The table's protocol on the real S3 server: publishers, a writer that sleeps through all of it, a sweeper.

`test_protocol.py` decides every step on a store in memory; here threads with clients of their own race on the
server, with random pauses. The programs and what must hold are those of that file. A failure names its seed, which
brings back the programs and the pauses, though not the server's timing.
"""

import dataclasses
import random
import threading
import time
from collections.abc import Callable, Iterable, Iterator
from typing import IO, Any

import pytest

from sfr_batch.storage.store import Content, ObjectInfo, Store
from sfr_batch.storage.stores import open_store
from sfr_batch.table.table import Snapshot, Table
from tests.table.commit.test_protocol import (
    Contents,
    Way,
    check_snapshot,
    clean,
    files_of,
    sweep_before_publish,
    sweep_everything,
    sweep_without_condemning,
    work_in_parts,
    write,
)

HISTORY: list[Contents] = [
    {"a@1": (1, 2, 3), "b@1": (4, 5)},
    {"a@1": (1, 2, 3), "b@2": (6, 7, 7), "c@1": (8,)},
    {"a@2": (9, 1), "b@1": (4, 5)},
]


class PausingStore:
    """A store whose operations begin and end a little later, at random; ``hold_at``: the one before which it waits."""

    def __init__(
        self, store: Store, rng: random.Random, hold_at: int = -1, until: threading.Event | None = None
    ) -> None:
        self.root, self._store, self._rng = store.root, store, rng
        self._left, self._until = hold_at, until
        self.held = False

    def _do(self, operation: Callable[[], Any]) -> Any:
        if self._left == 0 and self._until:
            self.held = True
            assert self._until.wait(120)
        self._left -= 1
        self._pause()
        result = operation()
        self._pause()
        return result

    def _pause(self) -> None:
        if self._rng.random() < 0.3:
            time.sleep(self._rng.expovariate(1 / 0.02))

    def create(self, key: str, data: Content) -> bool:
        return bool(self._do(lambda: self._store.create(key, data)))

    def read(self, key: str) -> bytes:
        return bytes(self._do(lambda: self._store.read(key)))

    def open(self, key: str, size: int = 0) -> IO[bytes]:
        return self._do(lambda: self._store.open(key, size))

    def list(self, prefix: str) -> Iterator[ObjectInfo]:
        return iter(self._do(lambda: list(self._store.list(prefix))))

    def delete(self, keys: Iterable[str]) -> None:
        for key in list(keys):
            self._do(lambda key=key: self._store.delete([key]))


class Interleaving:
    """One table and the threads that race for it."""

    def __init__(self, root: str, seed: int) -> None:
        self.root, self.rng = root, random.Random(seed)
        self.published: dict[int, tuple[str, dict[str, str]]] = {}
        """Number of a snapshot to (run, files with their SHA-256), as its writer saw it when it had won."""
        self.failures: list[BaseException] = []
        self.sleeper: PausingStore | None = None
        self._lock = threading.Lock()

    def store(self, hold_at: int = -1, until: threading.Event | None = None) -> PausingStore:
        return PausingStore(open_store(self.root), random.Random(self.rng.random()), hold_at, until)

    def note(self, snapshot: Snapshot) -> None:
        files = files_of(snapshot.store, snapshot)
        with self._lock:
            known = self.published.setdefault(snapshot.number, (snapshot.manifest.run_id, files))
        assert known == (snapshot.manifest.run_id, files), f"two winners of snapshot {snapshot.number}"

    def start(self, program: Callable[[], Any]) -> threading.Thread:
        def run() -> None:
            try:
                program()
            except BaseException as error:
                self.failures.append(error)

        thread = threading.Thread(target=run)
        thread.start()
        return thread

    def way(self) -> Way:
        return Way(*(self.rng.random() < 0.5 for _ in dataclasses.fields(Way)))

    def writer(self, store: PausingStore, name: str) -> Callable[[], None]:
        contents, way = self.rng.choice(HISTORY[1:]), self.way()
        return lambda: self.note(write(store, contents, name, way))

    def race(self) -> None:
        """All at once; the sleeper goes on when the others are done, and a last sweep races with it."""
        rng, woken = self.rng, threading.Event()
        self.note(write(open_store(self.root), HISTORY[0], "first", self.way()))
        self.sleeper = self.store(hold_at=rng.randrange(1, 30), until=woken)
        sleeping = self.start(self.writer(self.sleeper, "sleeper"))
        sweeps = [self.store(), self.store()]
        others = [self.start(self.writer(self.store(), f"writer{n}")) for n in range(2)]
        others.append(self.start(lambda: clean(sweeps[0], sweep_everything)))
        for thread in others:
            thread.join()
        woken.set()
        last = self.start(lambda: clean(sweeps[1], sweep_everything))
        for thread in (sleeping, last):
            thread.join()

    def check(self) -> None:
        store = open_store(self.root)
        table = Table.open(store)
        numbers = table.snapshot_numbers()
        assert numbers == list(range(1, len(numbers) + 1))
        for snapshot in table.snapshots():
            check_snapshot(snapshot, HISTORY)
            self.note(snapshot)
        assert set(self.published) == set(numbers), "a snapshot has vanished"
        parents = [snapshot.manifest.parent for snapshot in table.snapshots()]
        assert parents == [None, *numbers[:-1]]


def run(root: str, seed: int) -> Interleaving:
    race = Interleaving(f"{root}/{seed}", seed)
    try:
        race.race()
        for failure in race.failures:
            raise failure
        race.check()
    except BaseException as error:
        raise AssertionError(f"seed {seed}, {race.root}: {error!r}") from error
    return race


@pytest.fixture(autouse=True)
def several_tasks(monkeypatch: pytest.MonkeyPatch) -> None:
    work_in_parts(monkeypatch)


AT_LENGTH = pytest.param(100, marks=[pytest.mark.slow, pytest.mark.timeout(3600)])


@pytest.mark.parametrize("count", [6, AT_LENGTH])
def test_publishers_a_sleeper_and_a_sweeper(s3_prefix: str, count: int) -> None:
    races = [run(s3_prefix, seed) for seed in range(count)]
    held = sum(race.sleeper is not None and race.sleeper.held for race in races)
    print(f"{count} races, {held} sleepers held, {sum(len(race.published) for race in races)} snapshots")
    assert held > count // 3


def find_bug(root: str) -> None:
    for seed in range(30):
        run(root, seed)


@pytest.mark.parametrize(
    "planted", [sweep_without_condemning, pytest.param(sweep_before_publish, marks=pytest.mark.slow)]
)
def test_a_planted_bug_is_found(
    s3_prefix: str, monkeypatch: pytest.MonkeyPatch, planted: Callable[[Table], None]
) -> None:
    monkeypatch.setitem(globals(), "sweep_everything", planted)
    with pytest.raises(AssertionError, match=r"seed \d+.*(missing|does not exist|vanished)"):
        find_bug(s3_prefix)
