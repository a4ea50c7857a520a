"""The table's protocol as a state machine: writers, zombies, compactors, sweepers and expirers, interleaved at every
operation.

The real code of `commit`, `table` and `planning` runs in threads that stop before each operation on an in-memory
store. Hypothesis decides who goes on, who dies before or after an operation took effect, whose reply is lost, when the
corpus changes, and of each writer whether its shards share data files, as small shards do, and whether it publishes in
tasks. What must hold: every snapshot accounts for every row of the corpus it was made of, exactly once, until an expiry
says that it is no more; and whatever happened, one undisturbed run completes the job, and one undisturbed expiry
removes what is left of the snapshots that are gone.
"""

import contextlib
import dataclasses
import functools
import hashlib
import itertools
import threading
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from types import SimpleNamespace
from typing import IO, Any, NamedTuple, cast

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, precondition, rule, run_state_machine_as_test

from sfr_batch.corpus.file_formats import PARQUET
from sfr_batch.corpus.rejects import Reject, rejects_table
from sfr_batch.corpus.shards import Shard
from sfr_batch.corpus.splits import ReadUnit, name_split, pack_whole
from sfr_batch.errors import SnapshotConflict, StorageError, TableDamaged, TableError, TableNotFound
from sfr_batch.format import indexes, names
from sfr_batch.format.parquet import read_receipt
from sfr_batch.format.records import PACKED, Manifest, Receipt, ShardRecord, TableCard
from sfr_batch.planning import pack_indexes
from sfr_batch.planning.index_writing import WrittenIndexes
from sfr_batch.planning.pack_indexes import write_pack_indexes
from sfr_batch.planning.plan import EmbedPlan
from sfr_batch.planning.shard_diff import carry_over, find_vanished
from sfr_batch.storage import executor
from sfr_batch.storage.executor import InProcess
from sfr_batch.storage.spill import dealt
from sfr_batch.storage.store import Content, ObjectInfo
from sfr_batch.table.commit import compaction, documents, writing
from sfr_batch.table.commit import expiry as retention
from sfr_batch.table.commit import publish as commit
from sfr_batch.table.commit.compaction import carry_out, find_compaction
from sfr_batch.table.commit.draft import Draft
from sfr_batch.table.commit.expiry import expire
from sfr_batch.table.commit.publish import condemn, next_number, publish
from sfr_batch.table.commit.sweep import find_orphans, sweep
from sfr_batch.table.commit.writing import commit_split, create_or_open, new_attempt
from sfr_batch.table.table import Snapshot, Table
from tests.memory_store import MemoryStore
from tests.state_machines import MACHINE, find_bug, repeat

SCHEMA = names.table_schema(pa.int64(), 2, "float32", {})
CARD = TableCard.make(SCHEMA, "f" * 64, {}, {})
ROWS_PER_SPLIT = 2
ROWS_PER_PACK = 4
"""Rows of a data file that shards share: as many as two of them may have."""
ROWS_PER_FILE = 6
"""Rows of a data file that a compaction writes: of two or three."""
Contents = dict[str, tuple[int, ...]]
"""A corpus: shard name with version, to the ids of its rows."""


class Killed(BaseException):
    """Not an Exception: code under test must not be able to survive it."""


class Actor:
    """A program in a thread that stops before every store operation until it is told how to go on."""

    def __init__(self, name: str, program: Callable[["SteppedStore"], Any], objects: MemoryStore) -> None:
        self.name, self.result, self.error = name, None, None
        self.order = "go"
        self.done = False
        self._go, self._stopped = threading.Semaphore(0), threading.Semaphore(0)
        self._program, self._store = program, SteppedStore(objects, self)
        self._thread = threading.Thread(target=self._run, daemon=True)
        self._thread.start()
        self._stopped.acquire()

    def _run(self) -> None:
        try:
            self.wait()
            self.result = self._program(self._store)
        except Killed:
            pass
        except BaseException as error:
            self.error = error
        self.done = True
        self._stopped.release()

    def wait(self) -> str:
        """Called in the thread: let the machine decide what happens next."""
        self._stopped.release()
        self._go.acquire()
        if self.order == "die before":
            raise Killed
        return self.order

    def step(self, order: str = "go") -> None:
        if not self.done:
            self.order = order
            self._go.release()
            self._stopped.acquire()
        if self.error is not None:
            error, self.error = self.error, None
            raise AssertionError(f"{self.name} failed: {error!r}") from error

    def finish(self) -> Any:
        while not self.done:
            self.step()
        return self.result


class SteppedStore:
    """The operations of one actor on the shared objects, each at a moment that the machine chooses."""

    def __init__(self, objects: MemoryStore, actor: Actor) -> None:
        self.root, self._objects, self._actor = objects.root, objects, actor

    def _do(self, operation: Callable[[], Any]) -> Any:
        order = self._actor.wait()
        result = operation()
        if order == "die after":
            raise Killed
        if order == "lose reply":  # the client asks again, as S3 clients do
            result = operation()
        return result

    def create(self, key: str, data: Content) -> bool:
        return bool(self._do(lambda: self._objects.create(key, data)))

    def read(self, key: str) -> bytes:
        return bytes(self._do(lambda: self._objects.read(key)))

    def open(self, key: str, size: int = 0) -> IO[bytes]:
        return self._do(lambda: self._objects.open(key, size))

    def list(self, prefix: str) -> Iterator[ObjectInfo]:
        return iter(self._do(lambda: list(self._objects.list(prefix))))

    def delete(self, keys: Iterable[str]) -> None:
        for key in list(keys):
            self._do(lambda key=key: self._objects.delete([key]))


# --- the programs


@dataclass(frozen=True)
class Way:
    """How a writer works."""

    picky: bool = False
    """It rejects odd ids: attempts at one split may differ, and only one may count."""
    packs: bool = False
    """The shards that it reads share data files, and have indexes that say which rows of them are theirs."""
    tasks: bool = False
    """It publishes in tasks of an executor."""


WAYS = st.builds(Way, picky=st.booleans(), packs=st.booleans(), tasks=st.booleans())


class Row(NamedTuple):
    """A row of the corpus, and its position in its shard."""

    shard: str
    position: int
    id: int


@dataclass(frozen=True)
class Piece:
    """The rows of a split."""

    split_id: str
    shard: str
    version: str
    """Both `PACKED` where the rows are of several shards."""
    start: int
    rows: tuple[Row, ...]
    whole: tuple[str, ...] = ()
    """URIs of the shards of its pack."""


def shards_of(contents: Contents) -> list[Shard]:
    found = []
    for name in sorted(contents):
        uri, version = name.split("@")
        found.append(Shard(uri, version, len(contents[name]), PARQUET))
    return found


def rows_of(contents: Contents, shard: Shard) -> list[Row]:
    return [Row(shard.uri, at, id_) for at, id_ in enumerate(contents[f"{shard.uri}@{shard.version}"])]


def cut(
    contents: Contents, shards: Sequence[Shard], condemned: frozenset[str], *, packs: bool = False
) -> tuple[list[ReadUnit], list[Piece]]:
    """The packs of some shards, and the splits. packs: whether they are one pack; else each has its own splits."""
    pieces = []
    if packs and shards:
        unit = pack_whole(shards, (0, 0), ROWS_PER_PACK, 1, ["recipe"], condemned)
        assert unit.stream
        rows, uris = [row for shard in shards for row in rows_of(contents, shard)], tuple(shard.uri for shard in shards)
        for number, start in enumerate(range(0, len(rows), ROWS_PER_PACK)):
            end = start + ROWS_PER_PACK
            split_id = unit.stream.split_id(number, last=end >= len(rows))
            pieces.append(Piece(split_id, PACKED, PACKED, start, tuple(rows[start:end]), uris))
        return [unit], pieces
    for shard in shards:
        rows = rows_of(contents, shard)
        for start in range(0, len(rows), ROWS_PER_SPLIT):
            its = tuple(rows[start : start + ROWS_PER_SPLIT])
            split_id = name_split(shard, start, start + len(its), ["recipe"], condemned)
            pieces.append(Piece(split_id, shard.uri, shard.version, start, its))
    return [], pieces


def vector(id_: int) -> np.ndarray[Any, np.dtype[np.float32]]:
    return np.array([id_, 2 * id_], dtype=np.float32)


def write_piece(store: Any, piece: Piece, run_id: str, picky: bool) -> Receipt:
    """Embed a piece."""
    kept = [row for row in piece.rows if not (picky and row.id % 2)]
    lost = [row for row in piece.rows if picky and row.id % 2]
    vectors = np.concatenate([vector(row.id) for row in kept]) if kept else np.empty(0, dtype=np.float32)
    rows = pa.table(
        [
            pa.array([row.id for row in kept], pa.int64()),
            pa.FixedSizeListArray.from_arrays(pa.array(vectors), 2),
            pa.array([1] * len(kept), pa.int32()),
            pa.array([1] * len(kept), pa.int32()),
            pa.array([False] * len(kept)),
            pa.array([bytes(16)] * len(kept), pa.binary(16)),
        ],
        names=SCHEMA.names,
    )
    receipt = Receipt(
        split_id=piece.split_id, shard=piece.shard, version=piece.version, start=piece.start,
        attempt=new_attempt(), run_id=run_id, read=len(piece.rows), embedded=len(kept), rejected=len(lost),
        vectors=len(kept), tokens=len(kept), tokens_full=len(kept), encoded_tokens=len(kept),
        padded_tokens=len(kept), truncated=0,
        encode_seconds=0.0,
    )  # fmt: skip
    rejects = [Reject(row.id, row.position, "odd", "a picky writer", row.shard) for row in lost]
    places = np.array([piece.whole.index(row.shard) for row in kept if piece.whole], np.int64)
    return commit_split(
        store, CARD, receipt, rows, rejects_table(rejects, piece.shard), pieces=np.bincount(places).tolist()
    )


def write(store: Any, contents: Contents, run_id: str, way: Way = Way()) -> Snapshot:
    """What the runner does, without Ray: plan, fill the gaps, publish; again if somebody else was first."""
    for _ in range(50):
        table = create_or_open(store, CARD)
        base = table.latest()
        try:
            draft = draft_of(table, base, contents, run_id, way)
            if draft is None:
                assert base
                return base
            return publish(table, base, draft, InProcess() if way.tasks else None)
        except SnapshotConflict:
            continue
        except (TableError, StorageError):
            if not commit.superseded(table, base):
                raise
    raise AssertionError("fifty conflicts in a row")


def draft_of(table: Table, base: Snapshot | None, contents: Contents, run_id: str, way: Way) -> Draft | None:
    """Plan on the base snapshot, and write what is missing. None if there is nothing to publish."""
    store, shards = table.store, shards_of(contents)
    carried, changed = carry_over(base, shards, lambda _: "recipe", "")
    if base is not None and not changed and not find_vanished(base, shards, keep=False):
        return None
    committed = table.committed()
    condemned = base.read_condemned() if base else frozenset()
    units, pieces = cut(contents, changed, condemned, packs=way.packs)
    done = [
        read_receipt(store, piece.split_id)
        if piece.split_id in committed
        else write_piece(store, piece, run_id, way.picky)
        for piece in pieces
    ]
    written = WrittenIndexes()
    if units:
        plan = SimpleNamespace(store=store, card=CARD, layout=table.layout, units=units)  # what it reads of a plan
        written = write_pack_indexes(cast(EmbedPlan, plan), done, next_number(base), run_id)
    uris = {record.uri for record in carried}
    parts = {uri: its for uri, its in base.read_indexes().items() if uri in uris} if base else {}
    files = {r.split_id: r for r in base.read_receipts()} if base else {}
    known = frozenset(files)
    owners = uris - parts.keys()
    files = {split_id: dataclasses.replace(r, owned=r.owned and r.shard in owners) for split_id, r in files.items()}
    files |= {r.split_id: dataclasses.replace(r, owned=r.shard != PACKED) for r in done}
    records = [
        ShardRecord(
            s.uri, s.version, s.size, "recipe", "", len(contents[f"{s.uri}@{s.version}"]), 0,
            written.coverage[s.uri].rejected if units else sum(r.rejected for r in done if r.shard == s.uri),
        )
        for s in changed
    ]  # fmt: skip
    return Draft(
        run_id=run_id,
        generation="",
        row_recipe={},
        receipts=sorted(files.values(), key=lambda r: (not r.owned, r.shard, r.start)),
        shards=sorted([*carried, *records], key=lambda s: s.uri),
        new=frozenset(r.split_id for r in done if r.split_id not in known),
        indexes=parts | written.parts,
    )


def clean(store: Any, sweep_once: Callable[[Table], Any]) -> None:
    for _ in range(5):
        try:
            sweep_once(Table.open(store))
            return
        except (TableNotFound, TableDamaged):  # or a zombie has written a file, and nobody has created a table
            return
        except SnapshotConflict:
            continue


def sweep_everything(table: Table) -> None:
    """Age is no protection here: the protocol alone must be enough."""
    sweep(table, older_than_s=0, now=1e18)


def expire_old(table: Table, keep_last: int) -> None:
    expire(table, keep_last=keep_last, dry_run=False)


def compact(table: Table, tasks: bool) -> None:
    """Without the lease, as one that has slept longer than a lease lasts."""
    found = find_compaction(table.current(), rows_per_file=ROWS_PER_FILE, max_unneeded=0.3)
    carry_out(table, found, executor=InProcess() if tasks else None)


# --- what must hold


def check_snapshot(snapshot: Snapshot, history: list[Contents]) -> None:
    """It accounts for every row of one corpus of ``history``, exactly once."""
    covered = {f"{record.uri}@{record.version}" for record in snapshot.read_shards()}
    assert any(covered == set(contents) for contents in history), "a mixture of corpora"
    contents = next(c for c in history if covered == set(c))
    expected = Counter(id_ for ids in contents.values() for id_ in ids)
    rows = snapshot.to_arrow().to_pylist()
    live = Counter(row["id"] for row in rows)
    rejected = Counter(int(id_) for id_ in snapshot.rejects()["id"].to_pylist())
    assert live + rejected == expected
    assert max(live.values(), default=1) == 1, "an id twice"
    assert all(row["embedding"] == vector(row["id"]).tolist() for row in rows)
    snapshot.manifest.counts.check()
    assert snapshot.manifest.counts.vectors == len(rows)
    assert snapshot.manifest.counts.read == sum(expected.values())
    assert not snapshot.read_condemned() & {receipt.split_id for receipt in snapshot.read_receipts()}


def files_of(store: Any, snapshot: Snapshot) -> dict[str, str]:
    """SHA-256 of each file that a snapshot consists of, its manifest included."""
    keys = {names.manifest_key(snapshot.number), *snapshot.needs()}
    return {key: hashlib.sha256(store.read(key)).hexdigest() for key in keys}


# --- the machine

TURNS: dict[str, Iterator[int]] = {}
"""The numbers of attempts and runs, which begin anew with each example."""


def name_in_turn(kind: str) -> str:
    """16 hexadecimal digits, in place of random ones: names decide the order in which files are drawn and deleted, and
    Hypothesis must see the same choices when it repeats an example."""
    return f"{next(TURNS.setdefault(kind, itertools.count())):016x}"


class Protocol(RuleBasedStateMachine):
    """``make_store`` and ``sweep_once`` are where planted bugs go."""

    make_store: Callable[[], MemoryStore] = MemoryStore
    sweep_once: Callable[[Table], Any] = staticmethod(sweep_everything)

    def __init__(self) -> None:
        super().__init__()
        TURNS.clear()
        self.objects = type(self).make_store()
        self.actors: list[Actor] = []
        self.contents: Contents = {"a@1": (1, 2, 3), "b@1": (4, 5)}
        self.history: list[Contents] = [self.contents]
        self.names = 0
        self.published: dict[int, dict[str, str]] = {}

    def _start(self, kind: str, program: Callable[[SteppedStore], Any]) -> None:
        self.names += 1
        self.actors.append(Actor(f"{kind} {self.names}", program, self.objects))

    @initialize(published=st.booleans(), way=WAYS)
    def begin(self, published: bool, way: Way) -> None:
        """Often with a table that has a snapshot already: only then is there something to sweep."""
        if published:
            Actor("first run", lambda store: write(store, self.contents, "first", way), self.objects).finish()
            self._note_snapshots()

    @precondition(lambda self: len(self.actors) < 4)
    @rule(way=WAYS)
    def start_writer(self, way: Way) -> None:
        contents, run_id = self.contents, f"run{self.names}"
        self._start("writer", lambda store: write(store, contents, run_id, way))

    @precondition(lambda self: len(self.actors) < 4)
    @rule()
    def start_sweeper(self) -> None:
        self._start("sweeper", lambda store: clean(store, type(self).sweep_once))

    @precondition(lambda self: len(self.actors) < 4)
    @rule(data=st.data(), picky=st.booleans(), packs=st.booleans())
    def start_zombie(self, data: st.DataObject, picky: bool, packs: bool) -> None:
        """A task of a run that is long dead wakes up and commits a split of then."""
        contents = data.draw(st.sampled_from(self.history))
        piece = data.draw(st.sampled_from(cut(contents, shards_of(contents), frozenset(), packs=packs)[1]))

        def wake_up(store: SteppedStore) -> None:
            # It may lose the name to a file that a sweep then deletes, before it has read the winner's receipt. Nobody
            # waits for a zombie; a live writer plans again, since a sweep that deletes has published.
            with contextlib.suppress(StorageError):
                write_piece(store, piece, "dead", picky)

        self._start("zombie", wake_up)

    @precondition(lambda self: self.actors)
    @rule(
        data=st.data(),
        steps=st.sampled_from([1, 1, 2, 3, 5, 8, 13, 21, 40]),
        order=st.sampled_from(["go"] * 6 + ["die before", "die after", "lose reply"]),
    )
    def go_on(self, data: st.DataObject, steps: int, order: str) -> None:
        actor = data.draw(st.sampled_from(self.actors))
        for _ in range(steps - 1):
            actor.step()
        actor.step(order)
        if actor.done:
            self.actors.remove(actor)
        self._note_snapshots()

    @rule(data=st.data())
    def change_corpus(self, data: st.DataObject) -> None:
        name = data.draw(st.sampled_from(["a", "b", "c"]))
        version = len(self.history) + 1
        ids = data.draw(st.lists(st.integers(1, 9), min_size=1, max_size=5).map(tuple))
        self.contents = {key: value for key, value in self.contents.items() if not key.startswith(f"{name}@")}
        if len(self.contents) < 1 or data.draw(st.booleans()):
            self.contents[f"{name}@{version}"] = ids
        self.history.append(self.contents)

    def _note_snapshots(self) -> None:
        """Check a snapshot when it appears, and remember what it consists of. All that can be opened must be whole."""
        numbers = self._table_numbers()
        for number in numbers:
            if number not in self.published:
                snapshot = Table.open(self.objects).snapshot(number)
                self._check(snapshot)
                self.published[number] = self._files(snapshot)
        there = {info.key for info in self.objects.list("")}
        for number in numbers:
            assert set(self.published[number]) <= there, f"snapshot {number} is neither whole nor gone"

    def _table_numbers(self) -> list[int]:
        try:
            return Table.open(self.objects).snapshot_numbers()
        except (TableNotFound, TableDamaged):  # see `clean`
            return []

    def _check(self, snapshot: Snapshot) -> None:
        check_snapshot(snapshot, self.history)

    def _files(self, snapshot: Snapshot) -> dict[str, str]:
        return files_of(self.objects, snapshot)

    def _expire_at_last(self) -> None:
        """Nobody expires anything here."""

    def teardown(self) -> None:
        try:
            for actor in self.actors:  # everything dies at once
                actor.step("die before")
            self._note_snapshots()
            last = Actor("last run", lambda store: write(store, self.contents, "last"), self.objects).finish()
            shards = Table.open(self.objects).snapshot(last.number).read_shards()  # not through the store of the actor
            assert {f"{record.uri}@{record.version}" for record in shards} == set(self.contents)
            self._expire_at_last()
            Actor("last sweep", lambda store: clean(store, type(self).sweep_once), self.objects).finish()
            self._note_snapshots()
            table = Table.open(self.objects)
            assert table.published_numbers() == list(range(1, len(self.published) + 1))
            for snapshot in table.snapshots():
                files = self.published[snapshot.number]
                assert self._files(snapshot) == files, f"snapshot {snapshot.number} changed after it was published"
                self._check(snapshot)
        finally:
            for actor in self.actors:
                if not actor.done:
                    actor.step("die before")


class Expiring(Protocol):
    """With expirers as well; planted bugs go into ``expire_once``."""

    expire_once: Callable[[Table, int], Any] = staticmethod(expire_old)

    @initialize(states=st.sampled_from([0, 1, 2, 2, 2]), back=st.booleans(), way=WAYS)
    def begin(self, states: int, back: bool, way: Way) -> None:
        """Often with a table that has two states, so that there is something to expire, and a corpus as it was once."""
        for corpus in ({"a@1": (1, 2, 3), "b@1": (4, 5)}, {"a@1": (1, 2, 3), "b@2": (6,)})[:states]:
            self.contents = corpus
            self.history.append(corpus)
            run_id = f"first{len(self.history)}"
            Actor(run_id, lambda store, run_id=run_id: write(store, self.contents, run_id, way), self.objects).finish()
            self._note_snapshots()
        if back:
            self.contents = self.history[0]

    @precondition(lambda self: len(self.actors) < 4)
    @rule(keep_last=st.sampled_from([1, 1, 2]))
    def start_expirer(self, keep_last: int) -> None:
        self._start("expirer", lambda store: clean(store, lambda table: type(self).expire_once(table, keep_last)))

    @rule(data=st.data())
    def change_corpus_back(self, data: st.DataObject) -> None:
        """The same versions of shards come back, and with them the names of their splits."""
        self.contents = data.draw(st.sampled_from(self.history))
        self.history.append(self.contents)

    def _expire_at_last(self) -> None:
        """Of snapshots that have expired nothing is left then but their manifests and what others need."""
        Actor("last expiry", lambda store: type(self).expire_once(Table.open(store), 2), self.objects).finish()
        self._note_snapshots()
        table = Table.open(self.objects)
        kept = table.snapshot_numbers()
        needed = {key for number in kept for key in self.published[number]}
        for number in self.published.keys() - set(kept):
            with pytest.raises(TableNotFound, match=f"Snapshot {number} of .* was removed by"):
                table.snapshot(number)
            left = (set(self.published[number]) - needed) & {info.key for info in self.objects.list("")}
            assert left == {names.manifest_key(number)}, f"of snapshot {number} something is left"


class Compacting(Expiring):
    """With compactors as well; planted bugs go into ``compact_once``."""

    compact_once: Callable[[Table, bool], Any] = staticmethod(compact)

    @initialize(states=st.sampled_from([0, 1, 2, 2, 2]), back=st.booleans(), way=WAYS, compactors=st.integers(0, 2))
    def begin(self, states: int, back: bool, way: Way, compactors: int) -> None:
        """Often with compactors that have noticed nothing yet."""
        Expiring.begin(self, states, back, way)
        for _ in range(compactors if self.published else 0):
            self.start_compactor(tasks=way.tasks)

    @precondition(lambda self: self.published and len(self.actors) < 4)
    @rule(tasks=st.booleans())
    def start_compactor(self, tasks: bool) -> None:
        self._start("compactor", lambda store: clean(store, lambda table: type(self).compact_once(table, tasks)))


@pytest.fixture(autouse=True)
def small_steps(monkeypatch: pytest.MonkeyPatch) -> None:
    """What the machine decides is all that decides. A few rows are several tasks, partitions and index files."""
    decide_everything(monkeypatch)
    work_in_parts(monkeypatch)


def decide_everything(monkeypatch: pytest.MonkeyPatch) -> None:
    """An actor has one thread, and nothing has a random name."""
    monkeypatch.setattr(indexes, "PARALLEL_READS", 1)
    monkeypatch.setattr(compaction, "_PARALLEL_WRITES", 1)
    monkeypatch.setitem(globals(), "new_attempt", lambda: name_in_turn("attempt"))
    monkeypatch.setattr(compaction, "new_attempt", lambda: name_in_turn("attempt"))
    for module in (commit, compaction):
        monkeypatch.setattr(module, "new_run_id", lambda: name_in_turn("run"))


def work_in_parts(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(executor, "ROWS_A_PARTITION", 3)
    monkeypatch.setattr(executor, "ROWS_A_PART", 1)
    monkeypatch.setattr(documents, "ROWS_A_TASK", 3)
    monkeypatch.setattr(pack_indexes, "ROWS_A_TASK", 4)


def test_the_machine_does_the_same_again(monkeypatch: pytest.MonkeyPatch) -> None:
    """Or Hypothesis could neither repeat nor shorten what it has found, and long searches would end with an error."""
    done: list[tuple[str, ...]] = []

    class Noting(SteppedStore):
        def _do(self, operation: Callable[[], Any]) -> Any:
            found = super()._do(operation)
            done.append((self._actor.name, *sorted(info.key for info in self._objects.list(""))))
            return found

    monkeypatch.setitem(globals(), "SteppedStore", Noting)
    both = []
    for _ in range(2):
        done.clear()
        repeat(Compacting, examples=10)
        both.append(list(done))
    assert len(both[0]) > 1000
    assert both[0] == both[1]


def test_every_snapshot_accounts_for_every_row() -> None:
    run_state_machine_as_test(Compacting, settings=MACHINE)


def test_a_writer_of_packs_that_publishes_in_tasks(monkeypatch: pytest.MonkeyPatch) -> None:
    """What the machine draws is what it should be: shards share data and index files, and there are several tasks."""
    ran = Counter[str]()

    class Counting(InProcess):
        def submit(self, function: Callable[..., Any], *args: Any, returns: int = 1, gpus: float = 0) -> list[Any]:
            ran[function.__name__] += 1
            return super().submit(function, *args, returns=returns, gpus=gpus)

    monkeypatch.setitem(globals(), "InProcess", Counting)
    contents: Contents = {"a@1": (1, 2, 3), "b@1": (4, 5), "c@1": (5, 6)}
    snapshot = write(MemoryStore(), contents, "run", Way(packs=True, tasks=True))
    check_snapshot(snapshot, [contents])
    parts = [part for its in snapshot.read_indexes().values() for part in its]
    assert [(part.shard, part.rows) for part in parts] == [("a", 3), ("b", 1), ("b", 1), ("c", 2)]
    assert len({part.key for part in parts}) == len(snapshot.split_ids()) == 2
    assert not any(receipt.owned for receipt in snapshot.read_receipts())
    assert (ran["deal_documents"], ran["find_in"]) == (2, 3)


@pytest.mark.slow
@pytest.mark.timeout(3600)
def test_every_snapshot_accounts_for_every_row_at_length() -> None:
    run_state_machine_as_test(Compacting, settings=settings(MACHINE, max_examples=5000))


# --- planted bugs: the machine must find each


class OverwritingStore(MemoryStore):
    """A store whose create overwrites: every writer believes that it won."""

    def create(self, key: str, data: Content) -> bool:
        self.delete([key])
        return super().create(key, data)


def sweep_before_publish(table: Table) -> None:
    base = table.latest()
    if base:
        orphans = find_orphans(table, base, 1e18)
        table.store.delete(orphans.keys)
        condemn(table, base, orphans.condemn)


def sweep_without_condemning(table: Table) -> None:
    base = table.latest()
    if base:
        table.store.delete(find_orphans(table, base, 1e18).keys)


class NoIndexes(Snapshot):
    """A snapshot that seems to need no index files."""

    def index_keys(self) -> set[str]:
        return set()


class TableWithoutIndexes(Table):
    def make_snapshot(self, manifest: Manifest) -> Snapshot:
        return NoIndexes(self.store, manifest, super().make_snapshot(manifest).layout)


def sweep_indexes(table: Table) -> None:
    sweep_everything(TableWithoutIndexes(table.store, table.card))


def expire_before_publish(table: Table, keep_last: int) -> None:
    base = table.latest()
    if base:
        expiry = expire(table, keep_last=keep_last)
        table.store.delete([info.key for info in expiry.objects])
        if expiry.snapshots:
            condemn(table, base, expiry.condemn, "expire", expiry.expired)


def expire_without_condemning(table: Table, keep_last: int) -> None:
    base = table.latest()
    expiry = expire(table, keep_last=keep_last)
    if base and expiry.snapshots:
        condemn(table, base, [], "expire", expiry.expired)
    table.store.delete([info.key for info in expiry.objects])


def expire_what_others_need(table: Table, keep_last: int) -> None:
    base = table.latest()
    expiry = expire(table, keep_last=keep_last)
    if base and expiry.snapshots:
        needed = {key for number in expiry.snapshots for key in table.snapshot(number).needs()}
        condemn(table, base, expiry.condemn, "expire", expiry.expired)
        table.store.delete(needed)


def test_machine_finds_overwrite_instead_of_create() -> None:
    find_bug(
        type("Overwriting", (Protocol,), {"make_store": OverwritingStore}),
        "changed after it was published|assert Counter|its receipt says",
        start=1,
    )


@pytest.mark.slow
def test_machine_finds_sweep_before_publish() -> None:
    find_bug(
        type("EarlySweep", (Protocol,), {"sweep_once": staticmethod(sweep_before_publish)}),
        "does not exist|missing|is neither whole nor gone",
        start=3,
    )


def test_machine_finds_sweep_that_condemns_nothing() -> None:
    find_bug(
        type("SilentSweep", (Protocol,), {"sweep_once": staticmethod(sweep_without_condemning)}),
        "does not exist|missing|is neither whole nor gone",
        start=3,
    )


def test_machine_finds_sweep_that_deletes_indexes() -> None:
    find_bug(
        type("IndexSweep", (Protocol,), {"sweep_once": staticmethod(sweep_indexes)}),
        r"_sfr/index/\S+( is missing|: it does not exist| does not exist)|is neither whole nor gone",
    )


def test_machine_finds_a_forgotten_partition(monkeypatch: pytest.MonkeyPatch) -> None:
    def without_the_last(records: documents.Records, partitions: int) -> list[documents.Records]:
        *parts, last = dealt(records, partitions)
        return [*parts, last[:0]]

    monkeypatch.setattr(documents, "dealt", without_the_last)
    find_bug(type("Forgetful", (Protocol,), {}), "an id twice", start=9)


@pytest.mark.parametrize(("planted", "start"), [(expire_before_publish, 17), (expire_what_others_need, 0)])
def test_machine_finds_an_expiry_that_deletes_too_much(planted: Callable[[Table, int], None], start: int) -> None:
    rest = {"expire_once": staticmethod(planted), "_expire_at_last": Protocol._expire_at_last}
    find_bug(type("Greedy", (Expiring,), rest), "is neither whole nor gone|does not exist|missing", start)


def sweep_planted(table: Table) -> None:
    with contextlib.suppress(SnapshotConflict):
        sweep_before_publish(table)


@pytest.mark.parametrize(
    ("remove", "whole"),
    [
        (lambda table: expire_old(table, 1), True),
        (lambda table: expire_without_condemning(table, 1), False),
        (sweep_everything, True),
        (sweep_planted, False),
    ],
    ids=["expiry", "expiry without condemning", "sweep", "sweep before publish"],
)
def test_writer_that_comes_just_before_files_are_deleted(remove: Callable[[Table], None], whole: bool) -> None:
    """The files that are about to go have the names of its splits: an expired state's, as the corpus is again what it
    was then, and those that a dead run has left."""
    history: list[Contents] = [{"a@1": (1, 2, 3), "b@1": (4, 5)}, {"a@1": (1, 2, 3), "b@2": (6,)}]

    class Interrupted(MemoryStore):
        wanted: Contents | None = None

        def delete(self, keys: Iterable[str]) -> None:
            if self.wanted:
                contents, self.wanted = self.wanted, None
                write(self, contents, "late")
            super().delete(keys)

    store = Interrupted()
    for number, contents in enumerate(history):
        write(store, contents, f"run{number}")
    dead: Contents = {"a@1": (1, 2, 3), "c@1": (7, 8)}
    (piece,) = cut(dead, shards_of(dead)[1:], frozenset())[1]
    write_piece(store, piece, "dead", False)
    store.wanted = dead if remove in (sweep_everything, sweep_planted) else history[0]
    remove(Table.open(store))
    assert store.wanted is None
    newest = Table.open(store).current()
    assert newest.manifest.run_id == "late"
    if whole:
        check_snapshot(newest, [*history, dead])
    else:
        with pytest.raises(TableDamaged, match="does not exist"):
            check_snapshot(newest, [*history, dead])


def compact_and_delete(table: Table, tasks: bool) -> None:
    base = table.current()
    compact(table, tasks)
    table.store.delete({names.data_key(split_id) for split_id in base.split_ids()} - table.current().needs())


def test_machine_finds_a_compaction_that_deletes_what_it_has_joined() -> None:
    find_bug(
        type("Tidy", (Compacting,), {"compact_once": staticmethod(compact_and_delete)}),
        "is neither whole nor gone|does not exist|missing",
    )


def test_machine_finds_a_compaction_under_a_condemned_name(monkeypatch: pytest.MonkeyPatch) -> None:
    real = compaction._group
    monkeypatch.setattr(compaction, "_group", lambda base, sources, needed, _: real(base, sources, needed, frozenset()))
    find_bug(
        type("Forgetful", (Compacting,), {}), "is condemned by a sweep|is missing; run the command again", start=32
    )


def test_machine_finds_an_expiry_that_nobody_finishes(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(retention, "_left_behind", lambda *_: set())
    find_bug(type("Forgetful", (Expiring,), {}), "something is left", start=13)


def test_machine_finds_side_files_named_by_number_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(
        names, "side_key", lambda number, run_id, kind: f"{names.SNAPSHOTS}/{number:08d}-all.{kind}.parquet"
    )
    find_bug(type("SharedSides", (Protocol,), {}), r"although no other run uses this name\. This is a bug", start=6)


def test_machine_finds_condemned_names_used_again(monkeypatch: pytest.MonkeyPatch) -> None:
    def forget(*args: Any, real: Callable[..., Any]) -> Any:
        return real(*args[:-1], frozenset())

    for name in ("name_split", "pack_whole"):
        monkeypatch.setitem(globals(), name, functools.partial(forget, real=globals()[name]))
    find_bug(type("Forgetful", (Protocol,), {}), "condemned", start=31)


def test_machine_finds_rejects_written_after_the_data_file(monkeypatch: pytest.MonkeyPatch) -> None:
    def data_first(
        store: Any, card: TableCard, receipt: Receipt, rows: pa.Table, rejects: pa.Table, pieces: Sequence[int]
    ) -> Receipt:
        late: list[tuple[str, Content]] = []

        class RejectsLater:
            root = store.root
            open, read = store.open, store.read

            def create(self, key: str, data: Content) -> bool:
                if key.startswith(names.REJECTS):
                    late.append((key, data))
                    return True
                return bool(store.create(key, data))

        done = writing.commit_split(RejectsLater(), card, receipt, rows, rejects, pieces)
        for key, data in late:
            store.create(key, data)
        return done

    monkeypatch.setitem(globals(), "commit_split", data_first)
    find_bug(type("LateRejects", (Protocol,), {}), "missing|does not exist", start=25)
