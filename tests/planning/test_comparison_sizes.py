"""How a comparison is cut into tasks and partitions: nothing that a task hands on is so small that Ray keeps it on the
driver, and neither tasks nor partitions grow without measure."""

from collections.abc import Callable, Iterator, Sequence
from types import SimpleNamespace
from typing import Any, cast

import numpy as np
import pytest

from sfr_batch.corpus.shards import Shard
from sfr_batch.corpus.splits import ReadUnit, Split
from sfr_batch.format.records import ChangeCounts, IndexPart, ShardRecord, rows_in
from sfr_batch.planning import lending
from sfr_batch.planning.decided_rows import UNIT_DTYPE, TaskTotals, put_in_order
from sfr_batch.planning.join import DECISION_DTYPE, corpus_dtype, document_dtype
from sfr_batch.planning.losing_rows import Losers
from sfr_batch.planning.plan import EmbedPlan
from sfr_batch.planning.row_comparison import UNIT_ROWS, KnownVectors, batches, compare_rows
from sfr_batch.planning.scan import Joined, OldShard, TaskContext, UnitCounts, join_partition, read_old, scan
from sfr_batch.planning.table_ids import deal_table, read_before
from sfr_batch.storage.executor import (
    BYTES_A_TASK,
    ROWS_A_PART,
    ROWS_A_TASK,
    InProcess,
    in_order,
    partitioned,
    rows_a_task,
)

OF_AN_ID = 8 + 8 + 1 + 4 + 8
"""Bytes of a row of `settled_ids`: id, more, kind, shard and position."""
INLINED = 100 * 1024
"""Ray hands results up to so many bytes to the driver (`max_direct_call_object_size`)."""


class Counting:
    """An executor that runs nothing, and notes how many rows each task reads and into how many parts it deals them."""

    sees_disk = True
    has_gpu = False

    room = 2**30

    def __init__(self) -> None:
        self.new: list[tuple[int, int]] = []
        self.old: list[tuple[int, int]] = []
        self.joins: list[int] = []
        self.in_order: list[int] = []
        self.handed_back = 0

    def share(self, value: Any) -> Any:
        return value

    def submit(self, function: Callable[..., Any], *args: Any, returns: int = 1, gpus: float = 0) -> list[Any]:
        if function is scan:
            rows = sum(split.rows for unit in args[0] for split in unit.splits)
            self.new.append((rows, args[-1]))
            return [UnitCounts(np.zeros(len(args[0]), np.int64)), [], *[None] * args[-1]]
        if function is read_old:
            self.old.append((sum(rows_in(source.documents) for source in args[0]), args[-1]))
            return [None] * returns
        if function is join_partition:
            self.joins.append(len(args) - 3)
            self.handed_back = returns - 2
            summary = Joined(ChangeCounts(), 0, np.zeros(0, np.int32))
            return [summary, None, *[np.zeros(0, DECISION_DTYPE)] * self.handed_back]
        assert function is put_in_order
        self.in_order.append(len(args) - 3)
        return [TaskTotals(np.zeros(len(args[0].good), UNIT_DTYPE), np.zeros(0, np.int32), 0), None]

    def get(self, handles: Sequence[Any]) -> Iterator[Any]:
        return iter(handles)


def unit(number: int, text_bytes: int) -> ReadUnit:
    shard = Shard(f"s{number}", "1", 0, "parquet")
    return ReadUnit(shard, (0,), 0, (Split(str(number), shard.uri, "1", 0, UNIT_ROWS, UNIT_ROWS, text_bytes),))


@pytest.mark.parametrize(
    ("rows", "bytes_a_row"),
    [(10**9, 100), (10**9, 2_000), (150 * 10**6, 100), (30 * 10**6, 100), (30 * 10**6, 5_000), (3 * 10**6, 100)],
)
def test_parts_are_too_large_for_the_driver(rows: int, bytes_a_row: int) -> None:
    """Half of the rows are in the corpus, half in the table."""
    units = [unit(number, UNIT_ROWS * bytes_a_row) for number in range(rows // 2 // UNIT_ROWS)]
    parts = [IndexPart(f"s{number}", "key", 0, UNIT_ROWS) for number in range(len(units))]
    old = [OldShard(ShardRecord(p.shard, "1", 0, "", "", p.rows, 0), (p,)) for p in parts]
    executor = Counting()
    context = cast(TaskContext, SimpleNamespace(row_filter=None))
    compare_rows(executor, context, units, KnownVectors(old, [], [], ""), Losers())
    sizes = {"new": corpus_dtype(carry=False).itemsize, "old": document_dtype(carry=False).itemsize}
    for kind, size in sizes.items():
        *tasks, _ = getattr(executor, kind)  # the last one has the rest
        assert min(read * size / partitions for read, partitions in tasks) >= 2**18
        assert min(read * OF_AN_ID / partitions for read, partitions in tasks) >= 2**18
        assert max(read for read, _ in tasks) <= max(2**18, 3.2e6), "a task has its records in memory"
    assert executor.handed_back == len(executor.new), "each partition hands each scan task its decisions"
    decided = rows // 2 / len(executor.joins) / len(executor.new) * DECISION_DTYPE.itemsize
    assert decided > 2 * INLINED
    assert set(executor.in_order) == {len(executor.joins)}
    handles = sum(executor.joins)
    assert handles <= 330 * 340, "each is an object that the driver has to know"
    assert rows / len(executor.joins) <= max(2**20, 3.1e6), "a partition is joined in memory"


@pytest.mark.parametrize(("encoded", "lent"), [(30 * 10**6, 30 * 10**6), (30 * 10**6, 300 * 10**6), (10**9, 10**9)])
def test_texts_that_a_lender_is_asked_for_stay_off_the_driver(encoded: int, lent: int) -> None:
    units = [unit(number, UNIT_ROWS * 100) for number in range(encoded // UNIT_ROWS)]
    tasks = len(list(batches(units, partitioned(encoded)[1])))
    partitions = lending.partitions_of(encoded, tasks, lent)
    assert encoded / tasks / partitions * lending.FOUND.itemsize > INLINED
    assert (encoded + lent) / partitions < 16e6, "a partition is joined in memory"


def test_ids_that_changed_shards_had_stay_off_the_driver() -> None:
    """The id alone has 8 bytes, so that a task reads more of them."""
    rows = 60 * 10**6
    partitions, least = partitioned(rows)
    parts = [IndexPart(f"s{number}", "key", 0, UNIT_ROWS) for number in range(rows // 2 // UNIT_ROWS)]
    old = [OldShard(ShardRecord(p.shard, "1", 0, "", "", p.rows, 0), (p,)) for p in parts]
    plan = SimpleNamespace(
        base=True, base_receipts=[], carried=[ShardRecord("c", "1", 0, "", "", 1, 0)], staying=[], old=old,
        shards_of=lambda uris: [], duplicate_rule=None, rule_changed=False, store=None, layout=None,
        card=SimpleNamespace(fingerprint=""),
    )  # fmt: skip
    read: list[int] = []

    class Noting(InProcess):
        def submit(self, function: Callable[..., Any], *args: Any, returns: int = 1, gpus: float = 0) -> list[Any]:
            read.extend([sum(rows_in(source.documents) for source in args[0])] if function is read_before else [])
            return [None] * returns

    numbers = {part.shard: number for number, part in enumerate(parts)}
    deal_table(cast(EmbedPlan, plan), Noting(), numbers, [], partitions, least)
    *tasks, _ = read  # the last one has the rest
    assert sum(read) == sum(part.rows for part in parts)
    assert min(tasks) * 8 / partitions > INLINED
    assert len(tasks) >= 4


def test_the_bound_is_far_above_what_ray_hands_to_the_driver() -> None:
    assert OF_AN_ID * ROWS_A_PART >= 2**18 > 2 * INLINED


def test_a_small_comparison_is_one_partition_and_its_tasks_are_cut_by_their_texts() -> None:
    assert partitioned(2**20) == (1, 0)
    units = [unit(number, 64 * 2**20) for number in range(8)]
    assert list(batches(units, 0)) == [(0, 2), (2, 4), (4, 6), (6, 8)]


def test_tasks_over_large_rows_have_fewer_of_them() -> None:
    assert rows_a_task(0) == rows_a_task(40) == ROWS_A_TASK
    assert rows_a_task(4096 * 2) == BYTES_A_TASK // 8192
    assert rows_a_task(2.0**40) == 1


class Elsewhere:
    """Runs functions as `InProcess` does, but is not known for it."""

    sees_disk, has_gpu, room = True, False, 2**30

    def __init__(self) -> None:
        self.share, self.submit, self.get = (getattr(InProcess(), name) for name in ("share", "submit", "get"))


def test_few_of_many_calls_are_made_ahead(monkeypatch: pytest.MonkeyPatch) -> None:
    """Nor are their arguments made before: a copy of a billion rows is a hundred thousand calls."""
    monkeypatch.setattr("sfr_batch.storage.executor.CALLS_AHEAD", 3)
    made, done, open_ = [], [], []

    def calls() -> Iterator[tuple[int]]:
        for number in range(10):
            made.append(number)
            yield (number,)

    def double(number: int) -> int:
        done.append(number)
        return 2 * number

    found = []
    for result in in_order(Elsewhere(), double, calls()):
        open_.append(len(done) - len(found))
        found.append(result)
    assert found == [2 * number for number in range(10)]
    assert made == done == list(range(10))
    assert max(open_) == 3
    assert list(in_order(Elsewhere(), double, [])) == []


def test_calls_in_this_process_are_told_one_by_one() -> None:
    done: list[int] = []
    for number, _ in enumerate(in_order(InProcess(), done.append, ((number,) for number in range(3)))):
        assert done == list(range(number + 1))
    assert len(done) == 3
