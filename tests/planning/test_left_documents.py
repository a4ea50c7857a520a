"""Documents whose ids have left the corpus: tasks count them and write those that stay; none comes to the driver."""

import dataclasses
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from sfr_batch.checks.audit.auditor import audit
from sfr_batch.format.records import KEPT
from sfr_batch.planning.comparison import compare
from sfr_batch.planning.drafting import draft
from sfr_batch.planning.join import document_dtype, partition_of, sorted_ids, split_by
from sfr_batch.planning.left_documents import LeftDocuments, by_owner
from sfr_batch.planning.make import make_plan
from sfr_batch.storage.executor import InProcess
from sfr_batch.table.commit.publish import publish
from sfr_batch.table.commit.writing import new_run_id
from sfr_batch.table.table import Snapshot, Table
from tests.nights import Doc, Place, Writer, docs_of, night, small_tasks, state_of, vectors_of
from tests.tables import do_splits

ids = st.tuples(st.integers(0, 3), st.integers(0, 3).map(lambda number: number << 32))


def _hashes(found: Sequence[tuple[int, int]]) -> Any:
    return np.array(found, np.uint64).reshape(-1, 2)


def _documents(left: Sequence[tuple[tuple[int, int], int]]) -> Any:
    records = np.zeros(len(left), document_dtype(carry=False))
    records["id"], records["shard"] = _hashes([id_ for id_, _ in left]), [shard for _, shard in left]
    records["first"] = np.arange(len(left))
    return records


@given(
    left=st.lists(st.tuples(ids, st.just(0)), max_size=20),
    turned=st.lists(ids, max_size=10),
    unchanged=st.sets(st.integers(0, 3)),
    partitions=st.integers(1, 3),
)
def test_ids_of_several_partitions_are_counted_once(left: Any, turned: Any, unchanged: Any, partitions: int) -> None:
    records = _documents(left)
    parts = split_by(partition_of(records["id"], partitions), records, partitions)
    documents = LeftDocuments([part for part in parts if len(part)], frozenset())
    counts = documents.count(InProcess(), sorted_ids(_hashes(turned)), np.array(sorted(unchanged), np.uint64))
    distinct = {id_ for id_, _ in left}
    assert counts == (len(distinct & set(turned)), sum(id_[0] in unchanged for id_ in distinct))


@given(
    left=st.lists(st.tuples(ids, st.integers(0, 3)), max_size=20),
    owners=st.lists(st.sampled_from([None, KEPT, "a", "b"]), min_size=4, max_size=4),
    turned=st.lists(ids, max_size=6),
)
def test_documents_stay_with_their_owners(left: Any, owners: Any, turned: Any) -> None:
    """In order; a kept one that is in the corpus today does not."""
    expected: dict[str, list[int]] = {}
    for number, (id_, shard) in enumerate(left):
        owner = owners[shard]
        if owner is not None and not (owner == KEPT and id_ in turned):
            expected.setdefault(owner, []).append(number)
    found = by_owner(_documents(left), owners, sorted_ids(_hashes(turned)))
    assert {uri: its["first"].tolist() for uri, its in found.items()} == expected


class Box:
    def __init__(self, value: Any) -> None:
        self.value = value


class Apart(InProcess):
    """Keeps results in boxes, and notes what the driver takes out of them; and how often it ran each function."""

    def __init__(self) -> None:
        self.taken: list[Any] = []
        self.ran = Counter[str]()

    def share(self, value: Any) -> Any:
        return Box(value)

    def submit(self, function: Callable[..., Any], *args: Any, returns: int = 1, gpus: float = 0) -> list[Any]:
        self.ran[function.__name__] += 1
        values = [arg.value if isinstance(arg, Box) else arg for arg in args]
        return [Box(result) for result in super().submit(function, *values, returns=returns)]

    def get(self, handles: Sequence[Any]) -> Iterator[Any]:
        for handle in handles:
            self.taken.append(handle.value)
            yield handle.value


def arrays_in(value: Any) -> Iterator[Any]:
    """All arrays of a result."""
    if isinstance(value, np.ndarray):
        yield value
    elif dataclasses.is_dataclass(value):
        for field in dataclasses.fields(value):
            yield from arrays_in(getattr(value, field.name))
    elif isinstance(value, list | tuple):
        for item in value:
            yield from arrays_in(item)


def apart(place: Place, *overrides: str) -> tuple[Snapshot, Apart]:
    """A night whose tasks run apart from the driver."""
    executor = Apart()
    run = compare(make_plan(place.config(*overrides)), executor)
    receipts = do_splits(run.plan, encode=vectors_of)
    prepared = draft(run.plan, new_run_id(), receipts, run)
    return publish(Table.open(run.plan.store), run.plan.base, prepared), executor


@pytest.mark.parametrize("delete", ["keep", "mirror"])
def test_no_document_that_has_left_comes_to_the_driver(nights: tuple[Place, Writer], delete: str) -> None:
    place, writer = nights
    writer.write({"a.parquet": docs_of("a", 30), "b.parquet": docs_of("b", 30), "c.parquet": docs_of("c", 3)})
    first, _ = night(place)
    others = [*docs_of("x", 3), Doc("a0", ""), Doc("b0", "")]  # of these rows, two cannot be embedded any more
    writer.write({"a.parquet": others, "c.parquet": docs_of("c", 3)})
    with small_tasks(8):
        snapshot, executor = apart(place, f"table.delete={delete}")
    partitions = executor.ran["join_partition"]
    assert partitions > 4
    sizes = [len(array) for value in executor.taken for array in arrays_in(value) if array.dtype.names]
    assert max(sizes, default=0) <= len(others), "records come by read unit, none by document"
    assert not any("origin" in (a.dtype.names or ()) for value in executor.taken for a in arrays_in(value))
    assert executor.ran["_count"] == partitions
    assert executor.ran["_write_left"] == (partitions if delete == "keep" else 0)

    found = audit(Table.open(snapshot.store))
    assert found.ok, found.describe()
    changes = snapshot.manifest.changes
    assert changes is not None
    assert (changes.deleted, snapshot.manifest.counts.kept) == (60, 58 if delete == "keep" else 0)
    state, before = state_of(snapshot), state_of(first)
    new, kept = {f"x{n}" for n in range(3)}, {f"{name}{n}" for name in "ab" for n in range(1, 30)}
    assert state.keys() == new | {f"c{n}" for n in range(3)} | (kept if delete == "keep" else set())
    assert all(state[id_] == before[id_] for id_ in state.keys() - new)
