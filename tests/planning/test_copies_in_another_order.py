"""Rows that are copied after the corpus was shuffled: a data file is read once for many splits, not once for each."""

import dataclasses
import random
from collections import Counter
from typing import Any

import pytest

from sfr_batch.checks.audit.auditor import audit
from sfr_batch.corpus import reader
from sfr_batch.corpus.splits import ReadUnit
from sfr_batch.pipeline import copy_vectors
from sfr_batch.planning import packed_rows
from sfr_batch.planning.comparison import compare
from sfr_batch.planning.make import make_plan
from sfr_batch.storage.executor import InProcess
from sfr_batch.table.table import Snapshot, Table
from tests.nights import DIM, Doc, Place, Writer, docs_of, expected_vectors, night, small_tasks
from tests.planning.test_packed_rows import Elsewhere
from tests.tables import do_copies, do_plan

Nights = tuple[Place, Writer]
SHARDS, ROWS = 16, 24
WHOLE = SHARDS * ROWS * DIM * 4
"""Bytes of all vectors."""
SPLITS = f"run.rows_per_split={ROWS}"


def in_shards(docs: list[Doc]) -> dict[str, list[Doc]]:
    return {f"{shard:02}.parquet": docs[shard * ROWS : (shard + 1) * ROWS] for shard in range(SHARDS)}


def first_night(place: Place, writer: Writer) -> list[Doc]:
    """The rows of a table without carried columns, a data file for each shard."""
    docs = [doc for shard in range(SHARDS) for doc in docs_of(f"{shard}-", ROWS)]
    writer.write(in_shards(docs))
    snapshot, _ = night(place, SPLITS, "corpus.carry=[]")
    assert len(snapshot.read_receipts()) == SHARDS
    return docs


def shuffle(docs: list[Doc], writer: Writer) -> None:
    writer.write(in_shards(random.Random(20).sample(docs, len(docs))))


def check(snapshot: Snapshot, place: Place, writer: Writer, *overrides: str) -> None:
    """All rows were copied, and every one has the vector of its text."""
    receipts = snapshot.read_receipts()
    assert [(receipt.copied, receipt.embedded) for receipt in receipts] == [(True, ROWS)] * SHARDS
    expected_vectors(snapshot, writer.now)
    report = audit(Table.open(snapshot.store), make_plan(place.config(SPLITS, *overrides)))
    assert report.ok, report.describe()


@pytest.mark.parametrize("kind", [InProcess, Elsewhere])
@pytest.mark.parametrize(
    ("room", "documents", "piece_bytes", "times"),
    [
        (WHOLE, 2**22, 2**18, 1),
        (WHOLE, 2**22, 100, 1),
        (WHOLE // 2, 2**22, 100, 2),
        (WHOLE, SHARDS * ROWS // 2, 100, 2),
    ],
    ids=["one group", "many groups", "little room", "many documents"],
)
def test_files_are_read_once_for_as_many_splits_as_there_is_room_for(
    room: int,
    documents: int,
    piece_bytes: int,
    times: int,
    kind: type[Any],
    nights: Nights,
    reads: Counter[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Also by tasks that see nothing of each other."""
    place, writer = nights
    shuffle(first_night(place, writer), writer)
    monkeypatch.setattr(copy_vectors, "_PIECE_BYTES", piece_bytes)
    monkeypatch.setattr(copy_vectors, "_DOCUMENTS", documents)
    executor = kind()
    executor.room = room
    with small_tasks(50):
        snapshot = do_plan(make_plan(place.config(SPLITS)), executor=executor)
    assert (len(reads), set(reads.values())) == (SHARDS, {times})
    check(snapshot, place, writer)


def test_vectors_that_another_table_lends(nights: Nights, reads: Counter[str]) -> None:
    place, writer = nights
    shuffle(first_night(place, writer), writer)
    other, setting = dataclasses.replace(place, table=f"{place.table}-new"), f"table.reuse_from={place.table}"
    snapshot, texts = night(other, SPLITS, setting)
    assert texts == []
    assert (len(reads), set(reads.values())) == (SHARDS, {1})
    check(snapshot, other, writer, setting)


def test_rows_in_their_order_are_not_dealt(
    nights: Nights, reads: Counter[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Nor those of a single split, whatever their order: it reads each file once itself."""
    monkeypatch.delattr(copy_vectors, "_deal")
    place, writer = nights
    docs = first_night(place, writer)
    check(night(place, SPLITS)[0], place, writer)
    assert (len(reads), set(reads.values())) == (SHARDS, {1})
    reads.clear()
    few = random.Random(20).sample(docs, ROWS)
    writer.write({"few.parquet": [dataclasses.replace(doc, lang="de") for doc in few]})
    snapshot, texts = night(place, SPLITS)
    assert texts == []
    expected_vectors(snapshot, writer.now)
    assert len(reads) > SHARDS / 2
    assert set(reads.values()) == {1}


@pytest.mark.parametrize(("most_rows", "times"), [(2**18, 1), (8, 3), (1, 6)])
def test_a_unit_is_decoded_once_for_the_splits_that_begin_in_it(
    most_rows: int, times: int, nights: Nights, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As long as a task may have them all: a compressed shard is one unit, however large."""
    place, writer = nights
    writer.write(in_shards(docs_of("a", SHARDS * ROWS)))
    night(place, "corpus.carry=[]")
    decoded: Counter[str] = Counter()
    real = reader.read_unit

    def read(unit: ReadUnit, *arguments: Any) -> Any:
        decoded[unit.shard.uri] += 1
        return real(unit, *arguments)

    monkeypatch.setattr(packed_rows, "ROWS_A_TASK", most_rows)
    run = compare(make_plan(place.config()), InProcess())
    assert len(run.difference.copies) == SHARDS * ROWS / 4
    monkeypatch.setattr(reader, "read_unit", read)  # of the units of packed splits
    do_copies(run)
    assert (len(decoded), set(decoded.values())) == (SHARDS, {times})
    expected_vectors(night(place)[0], writer.now)
