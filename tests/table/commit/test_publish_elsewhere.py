"""Publishing in tasks of an executor writes what publishing in one process writes, byte for byte."""

import dataclasses
import io
import pickle
import random
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from sfr_batch.errors import TableError
from sfr_batch.format import names
from sfr_batch.format.hashes import hash_ids
from sfr_batch.format.indexes import Located, index_table, write_index
from sfr_batch.format.parquet import encode_parquet, open_parquet, read_parquet
from sfr_batch.format.records import KEPT, DuplicateRule, Receipt, ShardRecord
from sfr_batch.storage import executor
from sfr_batch.storage.executor import Executor
from sfr_batch.storage.store import Store
from sfr_batch.table.commit import documents, duplicates, liveness, publish
from sfr_batch.table.commit.draft import Draft
from sfr_batch.table.commit.live_rows import FileNumbers, LiveRows, Marks, dead_in
from sfr_batch.table.table import Table
from tests.memory_store import MemoryStore
from tests.tables import card_of, commit_rows, draft_of, receipt_of, split_name

Document = tuple[str, int]
"""Its id, and its number of chunks."""
PLAIN = card_of(names.table_schema(pa.string(), 3, "float32", {"n": pa.int64()}))
CHUNKED = card_of(names.table_schema(pa.string(), 3, "float32", {"n": pa.int64()}, chunks=True))


class Shuffled:
    """Runs tasks in any order, and each on copies of its arguments, as workers on other machines have them."""

    sees_disk = True
    room = 2**30
    has_gpu = False

    def __init__(self, store: Store, seed: int) -> None:
        self._store, self._rng = store, random.Random(seed)
        self._waiting: list[tuple[Callable[..., Any], tuple[Any, ...], list[dict[str, Any]]]] = []
        self.ran: Counter[str] = Counter()

    def share(self, value: Any) -> Any:
        return {"value": self._copy(value)}

    def submit(self, function: Callable[..., Any], *args: Any, returns: int = 1, gpus: float = 0) -> list[Any]:
        handles: list[dict[str, Any]] = [{} for _ in range(returns)]
        self._waiting.append((function, args, handles))
        return handles

    def get(self, handles: Sequence[Any]) -> Iterator[Any]:
        for handle in handles:
            while "value" not in handle:
                ready = [number for number, (_, args, _) in enumerate(self._waiting) if {} not in map(_handle, args)]
                self._run(*self._waiting.pop(self._rng.choice(ready)))
            yield self._copy(handle["value"])

    def _run(self, function: Callable[..., Any], args: tuple[Any, ...], handles: list[dict[str, Any]]) -> None:
        self.ran[function.__name__] += 1
        result = function(*(self._copy(arg["value"] if isinstance(arg, dict) else arg) for arg in args))
        for handle, value in zip(handles, result if len(handles) > 1 else [result], strict=True):
            handle["value"] = self._copy(value)

    def _copy(self, value: Any) -> Any:
        sink = io.BytesIO()
        pickler = pickle.Pickler(sink)
        pickler.persistent_id = lambda each: "store" if each is self._store else None  # type: ignore[method-assign]
        pickler.dump(value)
        unpickler = pickle.Unpickler(io.BytesIO(sink.getvalue()))
        unpickler.persistent_load = lambda _: self._store  # type: ignore[method-assign]
        return unpickler.load()


def _handle(arg: Any) -> Any:
    """A handle as it is, {} while it has no value; None for any other argument."""
    return arg if isinstance(arg, dict) and "value" not in arg else None


def write_state(
    store: Store, owned: list[list[Document]], indexed: list[list[int]], kept: list[int], *, chunks: bool
) -> tuple[Table, Draft]:
    """Data files of shards that own them, and shards whose rows are documents of any file; the draft of a snapshot."""
    card = CHUNKED if chunks else PLAIN
    receipts: list[Receipt] = []
    places: list[tuple[str, int, str, int]] = []
    for number, its in enumerate(owned):
        rows = [(id_, chunk) for id_, count in its for chunk in range(count if chunks else 1)]
        carry: dict[str, Any] = {"n": [hash_of(id_, number) for id_, _ in rows]}
        carry |= {name: [chunk for _, chunk in rows] for name in names.CHUNK_COLUMNS} if chunks else {}
        receipts.append(commit_rows(store, card, f"s{number}", [i for i, _ in rows], shard=f"o{number}", carry=carry))
        firsts = np.flatnonzero([chunk == 0 for _, chunk in rows]).tolist()
        sizes = [count if chunks else 1 for _, count in its]
        places += [
            (split_name(f"s{number}"), first, id_, size)
            for (id_, _), first, size in zip(its, firsts, sizes, strict=True)
        ]
    shards = {f"o{number}": len(its) for number, its in enumerate(owned)}
    indexes = {}
    for name, chosen in [*((f"x{n}", its) for n, its in enumerate(indexed)), (KEPT, kept)]:
        found = [places[number % len(places)] for number in chosen] if places else []
        hashes = hash_ids([id_ for _, _, id_, _ in found])
        its = pa.table({"id_hash": hashes, "row_hash": hashes, "position": pa.array(range(len(found)))})
        where = [np.array([place[at] for place in found], kind) for at, kind in ((1, np.int64), (3, np.int32))]
        splits = pa.array([place[0] for place in found], pa.string())
        index = index_table(its, splits, *where, names.REJECTS_SCHEMA.empty_table())
        indexes[name] = write_index(store, names.index_key(1, "run", len(indexes)), [Located(name, index)])
        shards[name] = len(found)
    order = [*sorted(name for name in shards if name != KEPT), KEPT]
    records = [ShardRecord(uri, "1", 0, "recipe", "", shards[uri], 0) for uri in order]
    new = frozenset({split_name("s0")})
    return Table(store, card), draft_of(receipts, shards=records, indexes=indexes, new=new)


def hash_of(id_: str, number: int) -> int | None:
    return (ord(id_) * 7 + number * 5) % 4 or None


def objects(store: MemoryStore) -> dict[str, bytes]:
    return {key: data for key, (data, _) in store._objects.items()}


def published(store: MemoryStore, table: Table, draft: Draft, run: Executor | None) -> dict[str, bytes]:
    """All objects after the draft was published to a copy of the store."""
    copy = MemoryStore()
    copy._objects = dict(store._objects)
    if isinstance(run, Shuffled):
        run._store = copy
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(publish, "stamp", lambda base: ("2026-01-01T00:00:00+00:00", None))
        patch.setattr(publish, "who", lambda: "somebody@somewhere")
        publish.publish(Table(copy, table.card), None, draft, run)
    return objects(copy)


documents_of_files = st.lists(st.tuples(st.sampled_from("abcdef"), st.integers(1, 3)), max_size=6)


@settings(max_examples=40, deadline=None)
@given(
    owned=st.lists(documents_of_files, min_size=1, max_size=5),
    indexed=st.lists(st.lists(st.integers(0, 50), max_size=6), max_size=3),
    kept=st.lists(st.integers(0, 50), max_size=4),
    rule=st.sampled_from([None, DuplicateRule(), DuplicateRule(order_by="n")]),
    chunks=st.booleans(),
    rows=st.integers(1, 12),
    seed=st.integers(0, 2**16),
)
def test_the_bytes_are_the_same(
    owned: list[list[Document]],
    indexed: list[list[int]],
    kept: list[int],
    rule: DuplicateRule | None,
    chunks: bool,
    rows: int,
    seed: int,
) -> None:
    """Run id, clock and user are given. Everything else follows from the draft: also the order of dead rows and of
    duplicates."""
    store = MemoryStore()
    table, draft = write_state(store, owned, indexed, kept, chunks=chunks)
    draft = dataclasses.replace(draft, duplicate_rule=rule)
    here = published(store, table, draft, None)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(liveness, "PARTITION_ROWS", rows)
        patch.setattr(executor, "ROWS_A_PARTITION", rows)
        patch.setattr(executor, "ROWS_A_PART", 1)
        patch.setattr(documents, "ROWS_A_TASK", rows)
        assert published(store, table, draft, None) == here, "on disk"
        elsewhere = Shuffled(store, seed)
        assert published(store, table, draft, elsewhere) == here
    assert not elsewhere._waiting


def test_work_is_cut_into_tasks_and_partitions(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(executor, "ROWS_A_PARTITION", 10)
    monkeypatch.setattr(executor, "ROWS_A_PART", 1)
    monkeypatch.setattr(documents, "ROWS_A_TASK", 12)
    store = MemoryStore()
    table, draft = write_state(store, [[(id_, 1) for id_ in "abcdef"]] * 10, [], [], chunks=False)
    run = Shuffled(store, 0)
    published(store, table, draft, run)
    # Two files a task, and one for the documents that were kept; nine files have losers, and so dead rows.
    assert run.ran == {"deal_documents": 6, "find_in": 6, "_read_files": 2 * 5}


def test_an_error_of_a_task_is_that_of_this_process() -> None:
    store = MemoryStore()
    table, draft = write_state(store, [[("a", 1)], [("b", 1)]], [[0]], [], chunks=False)
    store.delete([names.index_key(1, "run", 0)])
    store.create(names.index_key(1, "run", 0), b"no Parquet")
    told = {}
    for name, run in (("here", None), ("elsewhere", Shuffled(store, 1))):
        with pytest.raises(TableError) as error:
            published(store, table, draft, run)
        told[name] = str(error.value)
    assert told["here"] == told["elsewhere"]


@pytest.mark.parametrize("rows", [2, 100])
@pytest.mark.parametrize("rule", [None, DuplicateRule()])
def test_the_file_of_duplicates_has_one_table_of_rejects(rule: DuplicateRule | None, rows: int) -> None:
    """Its bytes are those of all rejects encoded at once, unless these are several row groups."""
    store, card = MemoryStore(), card_of(names.table_schema(pa.int64(), 3, "float32", {}))
    owned = [[7, -(2**60)], [8, 7], [8, 7]]
    receipts = [commit_rows(store, card, f"s{n}", ids, shard=f"o{n}") for n, ids in enumerate(owned)]
    draft = dataclasses.replace(draft_of(receipts), duplicate_rule=rule)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(duplicates, "ROWS_A_PIECE", rows)
        its = published(store, Table(store, card), draft, None)
    key = names.duplicates_key(1, draft.run_id)
    shown = {n: names.data_key(split_name(f"s{n}")) for n in range(3)}
    if rule is None:
        places = [(7, 1, 1), (8, 2, 0), (7, 2, 1)]
        why = ["an earlier row has this id"] * 3
    else:
        places = [(7, 0, 0), (8, 1, 0), (7, 1, 1)]
        why = [f"row {row} of {shown[2]} (of o2) has this id and comes later" for row in (1, 0, 1)]
    columns = {
        names.ID: [str(id_) for id_, _, _ in places],
        names.SHARD: [f"o{number}" for _, number, _ in places],
        names.POSITION: [row for _, _, row in places],
        names.REASON: ["duplicate_id"] * 3,
        names.MESSAGE: [
            f"{text}; this one is row {row} of {shown[number]}"
            for text, (_, number, row) in zip(why, places, strict=True)
        ],
    }
    expected = pa.table(columns, schema=names.REJECTS_SCHEMA)
    assert read_parquet(its[key]).equals(expected)
    assert open_parquet(its[key]).num_row_groups == -(-3 // rows)
    assert (its[key] == encode_parquet(expected)) == (rows >= 3)


# --- bits

LENGTHS = st.lists(st.integers(0, 20), min_size=1, max_size=6)


@given(lengths=LENGTHS, data=st.data())
def test_bits_are_sets_of_rows(lengths: list[int], data: st.DataObject) -> None:
    files = FileNumbers.of([receipt_of(f"{n}", length) for n, length in enumerate(lengths)], frozenset({"0"}))
    live, expected = LiveRows(files), {number: set[int]() for number in range(len(lengths))}
    every = [(number, row) for number, length in enumerate(lengths) for row in range(length)]
    for _ in range(data.draw(st.integers(0, 4))):
        chosen = data.draw(st.lists(st.sampled_from(every), max_size=12)) if every else []
        marks = Marks.of(np.array([files.starts[number] + row for number, row in chosen], np.int64))
        assert (np.diff(marks.where) > 0).all()
        add = data.draw(st.booleans())
        (live.add if add else live.remove)(Marks.union([marks, marks]))
        for number, row in chosen:
            (expected[number].add if add else expected[number].discard)(row)
        number = data.draw(st.integers(0, len(lengths) - 1))
        live.add_file(number)
        expected[number] = set(range(lengths[number]))
    for number, length in enumerate(lengths):
        assert dead_in(live.of(number), length).tolist() == sorted(set(range(length)) - expected[number])
        assert live.count(number) == len(expected[number])
        for row in range(length):
            file, its = files.locate(files.starts[number : number + 1] + row)
            assert (file.tolist(), its.tolist()) == ([number], [row])
    assert live.total == sum(map(len, expected.values()))
