"""Rows that are packed into splits: cut and named as one array of all rows would be, found again when indexes are
written, and never all of them on the driver."""

import dataclasses
import itertools
import pickle
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given
from hypothesis import strategies as st

from sfr_batch.checks.audit.auditor import audit
from sfr_batch.corpus import reader
from sfr_batch.corpus.reader import read_unit
from sfr_batch.corpus.shards import Shard
from sfr_batch.corpus.splits import Chosen, ReadUnit, Split, joined, pack, packed
from sfr_batch.errors import TableError
from sfr_batch.format import names
from sfr_batch.pipeline.packing import unit_from_json, unit_to_json
from sfr_batch.planning import comparison, index_writing, packed_rows, row_comparison
from sfr_batch.planning.comparison import ComparisonRun, compare
from sfr_batch.planning.decided_rows import DECIDED_DTYPE, DecidedUnit, Work, bounds_of, marked, totals_of, work_in
from sfr_batch.planning.drafting import draft
from sfr_batch.planning.join import Decision
from sfr_batch.planning.make import make_plan
from sfr_batch.planning.packed_rows import CutRows, PackedSplits, cut
from sfr_batch.storage.executor import InProcess
from sfr_batch.table.commit.publish import publish
from sfr_batch.table.table import Table
from tests.nights import Doc, Place, Writer, docs_of, expected_vectors, night, rejects_of, vectors_of
from tests.tables import do_copies, do_plan

pytestmark = pytest.mark.usefixtures("one_look_at_the_model")


def cut_at_once(sizes: Sequence[int], max_rows: int, max_bytes: int) -> list[tuple[int, int]]:
    """The first row of each split and the one behind its last, found by looking at one row after the other."""
    found, first, held = [], 0, 0
    for row, size in enumerate(sizes):
        if row > first and (row - first == max_rows or held + size > max_bytes):
            found.append((first, row))
            first, held = row, 0
        held += size
    return [*found, (first, len(sizes))] if sizes else []


@given(
    blocks=st.lists(st.lists(st.integers(0, 9), max_size=7), max_size=6),
    max_rows=st.integers(1, 9),
    max_bytes=st.integers(1, 20),
)
def test_blocks_are_cut_as_one_array_is(blocks: list[list[int]], max_rows: int, max_bytes: int) -> None:
    ends, sizes = cut((np.array(block, np.uint32) for block in blocks), max_rows, max_bytes)
    flat = [size for block in blocks for size in block]
    expected = cut_at_once(flat, max_rows, max_bytes)
    assert list(zip(ends[:-1].tolist(), ends[1:].tolist(), strict=True)) == expected
    assert sizes.tolist() == [sum(flat[first:end]) for first, end in expected]


def names_at_once(run: ComparisonRun, splits: PackedSplits, max_rows: int) -> list[str]:
    """The names that splits have if one array of all rows is cut, as releases before did it."""
    found, work = run.rows, splits.rows.work
    decided = np.concatenate(list(run.executor.get([task.decided for task in found.scans])))
    indexed = np.repeat([unit.shard.uri in run.difference.indexed for unit in found.units], found.totals["rows"])
    rows = np.flatnonzero(marked(decided, work, found.own_files) & indexed)
    expected = []
    for first, end in cut_at_once(decided["size"][rows].tolist(), max_rows, run.plan.limits.bytes):
        parts = []
        for number, unit in enumerate(found.units):
            its = rows[first:end]
            its = its[(its >= found.starts[number]) & (its < found.starts[number + 1])]
            if len(its) and found.selected is None:
                parts.append(Chosen(unit, its - found.starts[number]))
            elif len(its) and found.selected:
                parts.append(Chosen(unit, found.selected.positions[its], by_position=True))
        kind = [] if work == Work.ENCODE else [work.value]
        identity = *kind, *run.plan.identity_of(part.unit.shard for part in parts)
        expected.append(pack(parts, 0, identity, frozenset()).splits[0].split_id)
    return expected


def dealt(docs: Sequence[Doc], rows: int = 3) -> dict[str, list[Doc]]:
    """Shards of so many rows, of two formats."""
    return {
        f"{at:02}.{'jsonl' if at % 2 else 'parquet'}": list(docs[at : at + rows]) for at in range(0, len(docs), rows)
    }


@pytest.mark.parametrize(
    ("select", "splits"), [("select.where=null", (6, 3)), ("select.where=\"lang != 'fr'\"", (4, 3))]
)
@pytest.mark.parametrize(("rows_a_task", "tasks"), [(1, 13), (6, 7), (1000, 1)])
def test_splits_have_the_names_that_one_array_gives(
    nights: tuple[Place, Writer],
    select: str,
    splits: tuple[int, int],
    rows_a_task: int,
    tasks: int,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Also where a split has rows of several tasks: an interrupted run of a release before is finished under them."""
    place, writer = nights
    docs = [*docs_of("a", 15), Doc("x", ""), *docs_of("b", 11)]
    writer.write(dealt(docs))
    night(place)
    now = [Doc(doc.id, doc.text, "de" if n % 3 else "en") for n, doc in enumerate(docs[:15])]
    now += [Doc(doc.id, f"{doc.text} today", "fr" if n % 4 else "en") for n, doc in enumerate(docs[16:])]
    writer.write(dealt([*now[::2], Doc("x", ""), *now[1::2], *docs_of("c", 12)]))
    monkeypatch.setattr(row_comparison, "ROWS_A_TASK", rows_a_task)
    run = compare(make_plan(place.config(select)), InProcess())
    assert len(run.rows.scans) == tasks
    assert (len(run.encoded.split_ids), len(run.copied[0].split_ids)) == splits
    for its in (run.encoded, run.copied[0]):
        assert list(its.split_ids) == names_at_once(run, its, 4)
    assert run.difference.copies == run.copied[0].split_ids
    assert tuple(unit.splits[0].split_id for unit in run.difference.packed) == run.encoded.split_ids


def test_rows_of_a_split_are_found_in_every_task(nights: tuple[Place, Writer], monkeypatch: pytest.MonkeyPatch) -> None:
    """Rows that fail in the encoder are told to no other task than theirs, and move the vectors behind them."""
    place, writer = nights
    docs = [*docs_of("a", 16), *docs_of("b", 14)]
    writer.write(dealt(docs))
    night(place)
    now = [Doc(doc.id, f"{doc.text} today" if n % 2 else doc.text, "de") for n, doc in enumerate(docs)]
    shards = dealt([*now[1::4], *now[::4], *now[3::4], *now[2::4]])
    writer.write(shards)
    bad = {f"text {n} of {name} today" for name, n in (("a", 1), ("a", 5), ("a", 15), ("b", 3), ("b", 9), ("b", 13))}

    def encode(texts: list[str]) -> Any:
        vectors = vectors_of(texts)
        vectors[[text in bad for text in texts]] = np.nan
        return vectors

    monkeypatch.setattr(row_comparison, "ROWS_A_TASK", 1)
    plan = make_plan(place.config("run.rows_per_split=100"))
    run = compare(plan, InProcess())
    assert len(run.rows.scans) == 10
    assert [len(splits.split_ids) for splits in (run.encoded, *run.copied)] == [1, 1, 0]
    snapshot = do_plan(plan, encode=encode)
    expected_vectors(snapshot, {name: [doc for doc in its if doc.text not in bad] for name, its in shards.items()})
    assert Counter(reason for _, _, reason, _ in rejects_of(snapshot)) == {names.BAD_VECTOR: 6}
    report = audit(Table.open(snapshot.store), make_plan(place.config()))
    assert report.ok, report.describe()


@given(
    units=st.lists(st.integers(0, 6), min_size=1),
    cuts=st.sets(st.integers(1, 40)),
    sizes=st.lists(st.integers(0, 9), min_size=60, max_size=60),
    most=st.tuples(st.integers(1, 20), st.integers(1, 40)),
    data=st.data(),
)
def test_splits_that_begin_in_a_unit_are_read_together(
    units: list[int], cuts: set[int], sizes: list[int], most: tuple[int, int], data: st.DataObject
) -> None:
    """units: rows of each; most: rows and bytes that are read together."""
    rows = sum(units)
    ends = np.array(sorted({0, *(cut for cut in cuts if cut < rows), rows}), np.int64)
    splits = len(ends) - 1
    if not splits:
        return
    numbers = np.concatenate([[0], np.cumsum(units, dtype=np.int64)])
    cut = CutRows(None, Work.COPY, numbers, ends, np.array(sizes[:splits], np.int64), {})  # type: ignore[arg-type]
    first, end = sorted(data.draw(st.sets(st.integers(0, splits), min_size=2, max_size=2)))
    unit_of = np.repeat(np.arange(len(units)), units)[ends[:-1]].tolist()  # [splits]
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(packed_rows, "ROWS_A_TASK", most[0])
        patch.setattr(packed_rows, "BYTES_A_TASK", most[1])
        found = [list(its) for its in cut.together(range(first, end))]

    def fit(some: list[int]) -> bool:
        fits = ends[some[-1] + 1] - ends[some[0]] <= most[0] and sum(sizes[split] for split in some) <= most[1]
        return len({unit_of[split] for split in some}) == 1 and (fits or len(some) == 1)

    assert list(itertools.chain(*found)) == list(range(first, end))
    assert all(map(fit, found))
    assert not any(fit([*its, following[0]]) for its, following in itertools.pairwise(found)), "as many as may be"


# --- what the driver has


class Handle:
    """Stands for a result that is elsewhere."""

    def __init__(self, number: int) -> None:
        self.number = number


class Elsewhere:
    """Runs functions at once, but hands out only handles; notes how many bytes are fetched."""

    sees_disk = True
    has_gpu = False
    room = 2**30

    def __init__(self) -> None:
        self._results: list[Any] = []
        self.fetched: list[int] = []

    def share(self, value: Any) -> Handle:
        self._results.append(pickle.dumps(value))
        return Handle(len(self._results) - 1)

    def submit(self, function: Callable[..., Any], *args: Any, returns: int = 1, gpus: float = 0) -> list[Handle]:
        known = (pickle.loads(self._results[arg.number]) if isinstance(arg, Handle) else arg for arg in args)
        found = function(*known)
        return [self.share(result) for result in (found if returns > 1 else [found])]

    def get(self, handles: Sequence[Handle]) -> Iterator[Any]:
        for handle in handles:
            data = self._results[handle.number]
            self.fetched.append(len(data))
            yield pickle.loads(data)


def copied_night(place: Place, rows: int, monkeypatch: pytest.MonkeyPatch) -> tuple[int, Elsewhere]:
    """All rows get another carried column: the bytes that the driver keeps between comparing and publishing."""
    at = Path(place.corpus) / "a.parquet"
    at.parent.mkdir(exist_ok=True)
    docs = docs_of("a", rows)
    columns = {"id": [doc.id for doc in docs], "text": [doc.text for doc in docs], "lang": ["en"] * rows}
    pq.write_table(pa.table(columns | {"year": list(range(rows))}), at, row_group_size=1000)
    night(place, "run.rows_per_split=1000")
    for module, name in ((row_comparison, "ROWS_A_TASK"), (comparison, "UNIT_ROWS"), (index_writing, "ROWS_A_TASK")):
        monkeypatch.setattr(module, name, 1000)
    executor = Elsewhere()
    config = place.config("run.rows_per_split=1000", "corpus.carry=[lang, year]")
    run = compare(make_plan(config), executor)
    assert (len(run.difference.copies), run.difference.copied_vectors) == (rows // 1000, rows)
    fields = {name: value for name, value in vars(run.rows).items() if name not in ("executor", "context")}
    kept = len(pickle.dumps((fields, run.difference, [(s.split_ids, s.rows.ends, s.rows.numbers) for s in run.copied])))
    fetched = len(executor.fetched)
    receipts = do_copies(run)
    assert [receipt.split_id for receipt in receipts] == list(run.difference.copies)
    assert sum(executor.fetched[fetched:]) < 1000 * len(receipts), "receipts alone"
    assert not any(splits.rows.handles for splits in (run.encoded, *run.copied)), "they would stay in memory"
    snapshot = publish(Table.open(run.plan.store), run.plan.base, draft(run.plan, "run", receipts, run))
    assert snapshot.to_arrow(["id", "year"]).sort_by("year").column("year").to_pylist() == list(range(rows))
    assert snapshot.manifest.counts.reused == rows
    return kept, executor


def test_rows_that_are_copied_stay_off_the_driver(
    tmp_path: Path, mistral: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It has some hundred bytes for each split and each unit of a thousand rows, and sees the sizes of texts once, four
    bytes a row, a task at a time."""
    kept, fetched, largest = [], [], []
    for rows in (2000, 6000):
        place = Place(str(tmp_path / f"corpus{rows}"), str(tmp_path / f"table{rows}"), mistral)
        its, executor = copied_night(place, rows, monkeypatch)
        kept.append(its)
        fetched.append(sum(executor.fetched))
        largest.append(max(executor.fetched))
    assert (kept[1] - kept[0]) / 4000 < 2
    assert 4 <= (fetched[1] - fetched[0]) / 4000 < 8
    assert max(largest) < 4 * 1000 + 2000


# --- tasks that Ray repeats


def test_rows_that_are_decided_anew_are_told() -> None:
    """Ray repeats a lost task, which may not find again what the first one found."""
    decided = np.zeros(4, DECIDED_DTYPE)
    decided["kind"][1:] = Decision.COPY
    checksums = totals_of(decided, bounds_of(np.array([2, 2])))["checksum"].tolist()
    units = [DecidedUnit(0, "a.parquet", 0, 2, checksums[0]), DecidedUnit(1, "b.parquet", 2, 4, checksums[1])]
    assert work_in(decided, units, Work.COPY, None, None)[1]["at"].tolist() == [1, 0, 1]
    decided["kind"][3], decided["file"][3] = Decision.ENCODE, -1
    told = r"^Rows of b\.parquet had vectors in .* damaged or was swept meanwhile\. Run the command again"
    assert work_in(decided, units[:1], Work.COPY, None, None)[1]["at"].tolist() == [1]
    with pytest.raises(TableError, match=told):
        work_in(decided, units, Work.COPY, None, None)
    with pytest.raises(TableError, match=told):
        index_writing._write_scanned([], decided, units, [], "key", (None, [], None))  # type: ignore[arg-type]


# --- splits that are read together


@pytest.mark.parametrize("settings", [(), ("select.where=id like '%1%' or id like '%2%'", "table.generation=again")])
@pytest.mark.parametrize("most", [1, 3, 100])
def test_what_joined_splits_read(
    most: int, settings: tuple[str, ...], nights: tuple[Place, Writer], monkeypatch: pytest.MonkeyPatch
) -> None:
    """The rows that each would read alone, also where a filter chose them by position; a unit is decoded once for as
    many as may be together."""
    place, writer = nights
    docs = docs_of("a", 60)
    writer.write({"a.jsonl": docs[:30], "b.parquet": docs[30:40], "c.parquet": docs[40:]})
    night(place)
    if not settings:
        now = [dataclasses.replace(doc, text=f"{doc.text} today") if n % 3 else doc for n, doc in enumerate(docs)]
        writer.write({"a.jsonl": now[:30], "b.parquet": now[30:40], "c.parquet": now[40:]})
    plan = compare(make_plan(place.config("run.rows_per_split=3", *settings)), InProcess()).plan
    units = plan.todo
    assert len(units) > 7
    assert all(unit.chosen for unit in units)
    assert {its.by_position for unit in units for its in unit.chosen} == {bool(settings)}
    alone = [found for unit in units for found in read_unit(unit, plan.config.corpus, plan.columns)]
    decoded: Counter[str] = Counter()
    name = "read_positions" if settings else "read_unit"
    real = getattr(reader, name)

    def read(unit: ReadUnit, *arguments: Any) -> Any:
        decoded[unit.shard.uri] += 1
        return real(unit, *arguments)

    monkeypatch.setattr(reader, name, read)
    together = list(joined(units, most))
    found = [
        its
        for unit in together
        for its in read_unit(unit_from_json(unit_to_json(unit)), plan.config.corpus, plan.columns)
    ]
    assert [split for split, _ in found] == [split for split, _ in alone]
    for (_, rows), (_, its) in zip(found, alone, strict=True):
        assert {**vars(rows), "rejects": rows.rejects.to_pylist()} == {**vars(its), "rejects": its.rejects.to_pylist()}
    assert decoded.total() == sum(len(unit.chosen) for unit in together)
    assert (together == units) == (most == 1)
    assert most < 100 or decoded.total() <= 4 < len(units) / 2, "once for each shard"
    assert max(len(unit.splits) for unit in together) <= most


def test_splits_of_different_units_are_not_joined() -> None:
    def unit(shard: str, *rows: int, by_position: bool = False) -> ReadUnit:
        whole = ReadUnit(Shard(shard, "1", 0, "jsonl"), (), 0, ())
        return packed(f"{shard}{rows}", [Chosen(whole, np.array(rows), by_position)], 0)

    plain = ReadUnit(Shard("a", "1", 0, "jsonl"), (), 0, (Split("x", "a", "1", 0, 1, 1, 1),))
    apart = [unit("a", 1, 2), unit("b", 3), unit("b", 4, by_position=True), plain, unit("c", 5), unit("c", 5, 6)]
    assert list(joined(apart, 100)) == apart
    assert [len(its.splits) for its in joined([unit("a", n) for n in range(5)], 2)] == [2, 2, 1]
