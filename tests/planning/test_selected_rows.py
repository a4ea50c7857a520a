"""A comparison of rows that a filter selects: it decides as one of all rows does, and neither reads the texts of other
rows nor keeps anything of them."""

import dataclasses
import io
import itertools
import os
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import HealthCheck, Phase, assume, given, settings
from hypothesis import strategies as st

from sfr_batch.checks.audit.auditor import audit
from sfr_batch.corpus import row_groups
from sfr_batch.corpus.reader import read_unit
from sfr_batch.corpus.splits import Chosen, ReadUnit, pack
from sfr_batch.corpus.splits import packed as packed_unit
from sfr_batch.errors import CorpusError
from sfr_batch.pipeline.packing import unit_from_json, unit_to_json
from sfr_batch.planning.comparison import ComparisonRun, compare
from sfr_batch.planning.decided_rows import DecidedRows
from sfr_batch.planning.join import Decision, among_sorted, sorted_ids
from sfr_batch.planning.make import make_plan
from sfr_batch.storage.executor import InProcess
from sfr_batch.table.table import Table
from tests.nights import Counting, Doc, Place, Shards, Writer, docs_of, expected_vectors, night, state_of, vectors_of
from tests.proxy import relay
from tests.s3server import S3Server
from tests.tables import do_plan, do_splits, parquet, put

pytestmark = pytest.mark.usefixtures("one_look_at_the_model")

hashes = st.lists(st.tuples(st.integers(0, 3), st.integers(0, 3)), max_size=30).map(
    lambda found: np.array(found, np.uint64).reshape(-1, 2)
)


@given(ids=hashes, others=hashes)
def test_ids_are_found_among_sorted_ones(ids: Any, others: Any) -> None:
    """Also where halves of them are equal."""
    wanted = set(map(tuple, others.tolist()))
    assert among_sorted(ids, sorted_ids(others)).tolist() == [tuple(id_) in wanted for id_ in ids.tolist()]


# --- against a comparison of all rows

IDS = [f"d{number}" for number in range(15)]
docs = st.builds(Doc, st.sampled_from(IDS), st.sampled_from(["", "one", "two", "three"]), st.sampled_from(["en", "de"]))
corpora = st.dictionaries(
    st.sampled_from(["a.parquet", "b.jsonl", "c.parquet", "d.parquet"]), st.lists(docs, min_size=1, max_size=12),
    min_size=1, max_size=4,
).filter(lambda shards: any(doc.text for its in shards.values() for doc in its))  # fmt: skip
SELECTIONS: dict[str, Any] = {
    "select.where=\"lang = 'de'\"": lambda doc: doc.lang == "de",
    "select.where=\"id >= 'd12' or id = 'd3'\"": lambda doc: doc.id >= "d12" or doc.id == "d3",
    "select.where=\"lang = 'fr'\"": lambda doc: False,
    'select.where="lang is not null"': lambda doc: True,
    "select.ids=[d1, d7, d10, nowhere]": lambda doc: doc.id in ("d1", "d7", "d10"),
}
Row = tuple[str, int]
"""Shard and position."""


def decided_rows(run: ComparisonRun) -> DecidedRows:
    """What is decided, for each row."""
    return np.concatenate(list(run.executor.get([task.decided for task in run.rows.scans])))


def rows_in_order(run: ComparisonRun) -> list[Row]:
    """All compared rows."""
    scanned = itertools.chain.from_iterable(run.executor.get([task.scanned for task in run.rows.scans]))
    return [(unit.shard, position) for unit in scanned for position in unit.hashes.column("position").to_pylist()]


def decisions_of(run: ComparisonRun) -> dict[Row, tuple[Any, ...]]:
    """What is done for each row, and where its vectors are."""
    rows, found = run.rows, {}
    decided = decided_rows(run)
    for row, (shard, position) in enumerate(rows_in_order(run)):
        kind, known, file, first, vectors, size = (
            decided[name][row].item() for name in ("kind", "known", "file", "first", "vectors", "size")
        )
        found[shard, position] = (kind, known, rows.files[file] if file >= 0 else "", first, vectors, size)
    return found


def ids_of(shards: Shards) -> list[str]:
    return [doc.id for its in shards.values() for doc in its if doc.text]


def read_rows(run: ComparisonRun, unit: ReadUnit) -> list[Row]:
    ((_, rows),) = read_unit(unit_from_json(unit_to_json(unit)), run.plan.config.corpus, run.plan.columns)
    return list(zip(rows.shards.to_pylist(), rows.positions.to_pylist(), strict=True))


@settings(
    max_examples=int(os.environ.get("SFR_EXAMPLES", "15")),
    deadline=None,
    suppress_health_check=list(HealthCheck),
    phases=(Phase.explicit, Phase.reuse, Phase.generate),  # to find a smaller example takes minutes
)
@given(
    before=corpora,
    now=corpora,
    select=st.sampled_from(sorted(SELECTIONS)),
    label=st.sampled_from(["table.generation=''", "table.generation=again"]),
    groups=st.integers(1, 5),
)
def test_selected_rows_are_decided_as_all_rows_are(
    before: Shards,
    now: Shards,
    select: str,
    label: str,
    groups: int,
    tmp_path_factory: pytest.TempPathFactory,
    mistral: str,
) -> None:
    root = tmp_path_factory.mktemp("selected")
    place, writer = Place(str(root / "corpus"), str(root / "table"), mistral), Writer(str(root / "corpus"))
    writer.write(before)
    earlier, _ = night(place)
    writer.write(now)
    for file in Path(place.corpus).glob("*.parquet"):  # in row groups, of which some have no selected row
        pq.write_table(pq.read_table(file), file, row_group_size=groups)
    plan = make_plan(place.config(label, select))
    everything = frozenset(shard.uri for shard, _ in plan.changed)
    of_all = make_plan(place.config(label, "table.max_delete_share=1"), everything)
    assume(everything and of_all.compares_rows)
    dense = compare(of_all, InProcess())
    sparse = compare(plan, InProcess())

    means = SELECTIONS[select]
    doc_at = {}
    for uri in everything:
        positions = sorted(position for shard, position in decisions_of(dense) if shard == uri)
        good = [doc for doc in now[uri.rsplit("/")[-1]] if doc.text]
        doc_at |= {(uri, at): doc for at, doc in zip(positions, good, strict=True)}
    expected = {row: what for row, what in decisions_of(dense).items() if means(doc_at[row])}
    assert decisions_of(sparse) == expected
    assert len(decided_rows(sparse)) == len(expected), "of other rows nothing is kept"
    assert not sparse.rows.left.parts

    kinds = [what[0] for what in expected.values()]
    known = [what[1] for what in expected.values()]
    changes = sparse.difference.changes
    assert changes is not None
    assert changes.new == known.count(False)
    assert changes.changed == sum(k and kind == Decision.ENCODE for k, kind in zip(known, kinds, strict=True))
    packed = [row for unit in sparse.difference.packed for row in read_rows(sparse, unit)]
    assert packed == sorted(row for row, what in expected.items() if what[0] == Decision.ENCODE)
    units = [packed_unit("", parts, 0) for splits in sparse.copied for parts in splits.rows.fetch()]
    copied = [row for unit in units for row in read_rows(sparse, unit)]
    assert copied == sorted(row for row, what in expected.items() if what[0] == Decision.COPY)

    if plan.selection.is_done(changes):
        return
    state = state_of(earlier)
    counting = Counting()
    snapshot = do_plan(make_plan(place.config(label, select)), encode=counting)
    assert len(counting.texts) == len(packed)
    found = audit(Table.open(snapshot.store))
    assert found.ok, found.describe()
    selected = {doc_at[row].id: doc_at[row] for row in expected}
    after = state_of(snapshot)
    assert after.keys() == state.keys() | selected.keys()
    assert all(after[id_] == state[id_] for id_ in after.keys() - selected.keys())
    several = {id_ for id_, n in Counter(ids_of(now)).items() if n > 1}
    for row in snapshot.to_arrow().to_pylist():
        if row["id"] in selected.keys() - several:
            doc = selected[row["id"]]
            assert np.array_equal(np.asarray(row["embedding"], np.float32), vectors_of([doc.text])[0])
            assert row["lang"] == doc.lang

    last, _ = night(place)
    found = audit(Table.open(last.store))
    assert found.ok, found.describe()
    # An index does not know which of a shard's rows of an id was the first.
    twice = {id_ for its in now.values() for id_, n in Counter(doc.id for doc in its if doc.text).items() if n > 1}
    expected_vectors(last, now, twice)


# --- what is read


class Spied:
    """A file that notes what is read of it."""

    def __init__(self, file: Any, reads: list[tuple[int, int]]) -> None:
        self._file, self._reads = file, reads

    def read(self, size: int = -1) -> bytes:
        start = self._file.tell()
        data: bytes = self._file.read(size)
        self._reads.append((start, start + len(data)))
        return data

    def __enter__(self) -> "Spied":
        return self

    def __exit__(self, *_: object) -> None:
        self._file.close()

    def __getattr__(self, name: str) -> Any:
        return getattr(self._file, name)


GROUPS, ROWS = 8, 64


def long_rows(groups: int, rows: int) -> bytes:
    """Parquet in row groups whose texts do not compress, a language each."""
    random = np.random.default_rng(0)
    found = [
        {"id": f"d{n}", "text": f"{n} {random.bytes(2000).hex()}", "lang": f"l{n // rows}"}
        for n in range(groups * rows)
    ]
    return parquet(pa.Table.from_pylist(found), [rows] * groups)


@pytest.fixture
def large(nights: tuple[Place, Writer], monkeypatch: pytest.MonkeyPatch) -> tuple[Place, Path, list[tuple[int, int]]]:
    """A shard of eight row groups, and what is read of it from now on."""
    place, _ = nights
    put(place.corpus, "a.parquet", long_rows(GROUPS, ROWS))
    reads: list[tuple[int, int]] = []
    real = row_groups.open_input
    monkeypatch.setattr(row_groups, "open_input", lambda *args, **more: Spied(real(*args, **more), reads))
    return place, Path(place.corpus) / "a.parquet", reads


def text_read(file: Any, reads: list[tuple[int, int]]) -> list[int]:
    """Row groups of which texts were read."""
    metadata = pq.read_metadata(file)
    chunks = [metadata.row_group(number).column(1) for number in range(metadata.num_row_groups)]
    assert {chunk.path_in_schema for chunk in chunks} == {"text"}
    starts = [chunk.dictionary_page_offset or chunk.data_page_offset for chunk in chunks]
    inside = [
        sum(max(0, min(b, start + chunk.total_compressed_size) - max(a, start)) for a, b in reads)
        for chunk, start in zip(chunks, starts, strict=True)
    ]
    return [number for number, size in enumerate(inside) if size > chunks[number].total_compressed_size // 4]


@pytest.mark.parametrize(
    ("select", "expected", "groups"),
    [
        ("select.where=\"lang = 'l9'\"", 0, []),
        ("select.where=\"lang = 'l3'\"", ROWS, [3]),
        ("select.where=\"lang in ('l0', 'l6', 'l7')\"", 3 * ROWS, [0, 6, 7]),
        (f"select.ids=[d0, d{ROWS - 1}, d{5 * ROWS}]", 3, [0, 5]),
        ("select.ids=[nobody]", 0, []),
    ],
)
def test_texts_are_read_of_row_groups_with_selected_rows(
    large: tuple[Place, Path, list[tuple[int, int]]], select: str, expected: int, groups: list[int]
) -> None:
    place, path, reads = large
    plan = make_plan(place.config(select, "run.rows_per_split=100"))
    reads.clear()
    run = compare(plan, InProcess())
    assert len(decided_rows(run)) == expected
    assert text_read(path, reads) == groups
    reads.clear()
    corpus, columns = plan.config.corpus, plan.columns
    read = [len(rows.texts) for unit in run.plan.units for _, rows in read_unit(unit, corpus, columns)]
    assert sum(read) == expected
    assert text_read(path, reads) == groups, "a run reads the same"


def test_texts_on_s3_are_read_of_row_groups_with_selected_rows(s3: S3Server, s3_prefix: str, mistral: str) -> None:
    place = Place(f"{s3_prefix}/corpus", f"{s3_prefix}/table", mistral)
    data = long_rows(4, 400)
    put(place.corpus, "a.parquet", data)
    with relay(s3.endpoint) as through:
        plan = make_plan(
            place.config("select.where=\"lang = 'l1'\"", f"corpus.storage.endpoint_url={through.endpoint}")
        )
        through.requests.clear()
        run = compare(plan, InProcess())
        asked = [span for _, path, span in through.requests if path.endswith("a.parquet")]
        reads = [tuple(map(int, span.removeprefix("bytes=").split("-"))) for span in asked if span]
    assert len(decided_rows(run)) == 400
    assert text_read(io.BytesIO(data), [(first, last + 1) for first, last in reads]) == [1]


def test_rows_that_have_gone_are_missed(large: tuple[Place, Path, list[tuple[int, int]]]) -> None:
    place, _, _ = large
    run = compare(make_plan(place.config("select.ids=[d3]")), InProcess())
    (unit,) = run.difference.packed
    (part,) = unit.chosen
    assert (part.rows.tolist(), part.by_position) == ([3], True)
    beyond = dataclasses.replace(unit, chosen=(Chosen(part.unit, np.array([3, GROUPS * ROWS + 9]), by_position=True),))
    with pytest.raises(CorpusError, match=r"a\.parquet (no longer contains|ends at row)"):
        list(read_unit(beyond, run.plan.config.corpus, run.plan.columns))


def test_numbers_and_positions_name_different_splits(large: tuple[Place, Path, list[tuple[int, int]]]) -> None:
    place, _, _ = large
    run = compare(make_plan(place.config("select.ids=[d3]")), InProcess())
    (part,) = run.difference.packed[0].chosen
    by_number = dataclasses.replace(part, by_position=False)
    found = [pack([its], 1, (), frozenset()).splits[0].split_id for its in (part, by_number)]
    assert found[0] != found[1]


def test_a_backfill_that_an_earlier_release_began_is_not_paid_for_again(nights: tuple[Place, Writer]) -> None:
    """It named its splits by the numbers of rows among those that can be embedded."""
    place, writer = nights
    some = [Doc(f"a{n}", f"text {n}", "de" if n % 2 else "en") for n in range(20)]
    writer.write({"a.parquet": [Doc("x", ""), *some]})
    settings = ("table.generation=again", "select.where=\"lang = 'de'\"")
    night(place)
    plan = compare(make_plan(place.config(*settings)), InProcess()).plan
    as_before = []
    for unit in plan.units:
        parts = [Chosen(part.unit, part.rows - 1) for part in unit.chosen]  # one reject is before them
        as_before.append(pack(parts, unit.splits[0].text_bytes, ("release before",), frozenset()))
    begun = do_splits(dataclasses.replace(plan, units=tuple(as_before)), only=2, encode=vectors_of)
    assert sum(receipt.vectors for receipt in begun) == 8
    snapshot, texts = night(place, *settings)
    assert len(texts) == 2, "of ten rows"
    found = audit(Table.open(snapshot.store))
    assert found.ok, found.describe()
    assert len(state_of(snapshot)) == 20


def test_a_filter_of_a_stream_reads_it_once(nights: tuple[Place, Writer]) -> None:
    place, writer = nights
    writer.write({"a.jsonl": docs_of("a", 30)})
    run = compare(make_plan(place.config("select.ids=[a3, a29]")), InProcess())
    assert [len(unit.chosen[0].rows) for unit in run.difference.packed] == [2]
    ((_, rows),) = read_unit(run.difference.packed[0], run.plan.config.corpus, run.plan.columns)
    assert rows.texts == ["text 3 of a", "text 29 of a"]


def test_a_filter_on_a_column_of_the_path_needs_no_column_of_the_file(nights: tuple[Place, Writer]) -> None:
    place, _ = nights
    for day in (1, 2):
        rows = pa.table({"text": [f"text {n} of {day}" for n in range(3)]})
        put(place.corpus, f"day={day}/a.parquet", parquet(rows))
    settings = ("corpus.id=null", "corpus.carry=[day]", "select.where=\"day = '2'\"")
    run = compare(make_plan(place.config(*settings)), InProcess())
    (unit,) = run.plan.units
    ((_, rows),) = read_unit(unit, run.plan.config.corpus, run.plan.columns)
    assert rows.texts == [f"text {n} of 2" for n in range(3)]
