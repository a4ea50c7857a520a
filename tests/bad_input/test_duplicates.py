"""Bad input: rows that share an id, and which of them counts. Each way out is followed to the letter."""

import pytest

from sfr_batch.storage.stores import open_store
from sfr_batch.table.table import Table
from tests.bad_input.bench import IDS, Bench, Row, check_row, table

LAST, BY_AT, CARRY = "table.duplicate_ids=last", "table.order_by=at", "corpus.carry=[at]"
TWICE = {"a.jsonl": b'{"id": "one", "text": "Old.", "at": 1}\n{"id": "two", "text": "Two.", "at": 1}\n',
         "b.jsonl": b'{"id": "one", "text": "One.", "at": 2}\n'}  # fmt: skip
LOST = "when it was read, position 0 of {root}/corpus/"


ROWS = [
    Row("a column to order by and no reason to",
        "{root}/job.yaml has 1 wrong setting:\n  table: order_by has no effect with duplicate_ids first: set "
        "duplicate_ids to last, or remove order_by",
        code=2, files=TWICE, overrides=(BY_AT, CARRY)),
    Row("the first is asked for by its older name",
        "{root}/job.yaml has 1 wrong setting:\n  table: order_by has no effect with duplicate_ids reject: set "
        "duplicate_ids to last, or remove order_by",
        code=2, files=TWICE, overrides=("table.duplicate_ids=reject", BY_AT, CARRY)),
    Row("neither first nor last",
        "{root}/job.yaml has 1 wrong setting:\n  table.duplicate_ids: must be 'first', 'last', 'error' or 'reject'",
        code=2, files=TWICE, overrides=("table.duplicate_ids=newest",)),
    Row("a column to order by that is not carried",
        "table.order_by is at, but the table carries no column. Add at to corpus.carry: the rows of the next runs are "
        "compared with its values in the table.",
        code=2, files=TWICE, overrides=(LAST, BY_AT)),
    Row("a column to order by is named as in the corpus",
        "table.order_by is at, but the table carries time. Add at to corpus.carry: the rows of the next runs are "
        "compared with its values in the table.",
        code=2, files=TWICE, overrides=(LAST, BY_AT, "corpus.carry={time: at}")),
    Row("values without an order",
        "table.order_by: the column at is list<element: int64>, whose values have no order. Name a column of numbers, "
        "texts or times, or remove table.order_by to keep the last row of each id in the order of the corpus.",
        code=2, files={"a.parquet": table(id=IDS, text=["One.", "Two."], at=[[1], [2]])},
        overrides=(LAST, BY_AT, CARRY)),
    Row("without the column", phase="done",
        files={"a.parquet": table(id=IDS, text=["One.", "Two."], at=[[1], [2]])},
        overrides=(LAST, CARRY, "table.order_by=null")),
    Row("a column to order by is named as in the table", phase="reject",
        files={"b.jsonl": TWICE["a.jsonl"], "a.jsonl": TWICE["b.jsonl"]},
        overrides=(LAST, "table.order_by=time", "corpus.carry={time: at}"),
        rejects=[("one", 0, "duplicate_id", LOST + "a.jsonl had this id, too, and is the last one by time")]),
    Row("the last row", phase="reject", files=TWICE, overrides=(LAST,),
        rejects=[("one", 0, "duplicate_id", LOST + "b.jsonl had this id, too, and comes later")]),
    Row("the row with the largest value", phase="reject",
        files={"b.jsonl": TWICE["a.jsonl"], "a.jsonl": TWICE["b.jsonl"]}, overrides=(LAST, BY_AT, CARRY),
        rejects=[("one", 0, "duplicate_id", LOST + "a.jsonl had this id, too, and is the last one by at")]),
    Row("no older text stands for a rejected row", phase="reject", ids=["two"], files={
            "a.jsonl": TWICE["a.jsonl"], "b.jsonl": b'{"id": "one", "text": ""}\n'},
        overrides=(LAST,),
        rejects=[("one", 0, "empty_text", "the text is empty or only white space"),
                 ("one", 0, "duplicate_id", LOST + "b.jsonl had this id, too, and comes later")]),
    Row("numbered rows share no id", phase="done", files={"a.txt": b"One.\nTwo.\n"},
        ids=["{root}/corpus/a.txt#0", "{root}/corpus/a.txt#5"], overrides=(LAST, "corpus.id=null", "corpus.text=text")),
]  # fmt: skip


@pytest.mark.parametrize("row", ROWS, ids=[row.name for row in ROWS])
def test_bad_input(row: Row, bench: Bench) -> None:
    check_row(row, bench)


def test_a_backfill_that_would_have_to_read_more(bench: Bench) -> None:
    """A row that counted has left, and the shard of the row that takes its place is not selected."""
    for name, data in TWICE.items():
        bench.put(f"corpus/{name}", data)
    assert bench.run("embed {root}/job.yaml", (LAST,)).exit_code == 0
    bench.put("corpus/b.jsonl", b'{"id": "three", "text": "Three."}\n')
    result = bench.run("embed {root}/job.yaml", (LAST, "select.shards=[b.jsonl]"))
    assert result.exit_code == 2
    said = (
        "error: table.duplicate_ids: 1 shard, e.g. {root}/corpus/a.jsonl, must be read, because rows there take the "
        "place of rows that have left, have become smaller or cannot be embedded, and select does not cover all rows "
        "there. Run once without select.\n"
    )
    assert bench.fill(said) in result.stderr
    assert bench.run("embed {root}/job.yaml", (LAST,)).exit_code == 0
    assert sorted(Table.open(open_store(str(bench.table))).current().to_arrow()["id"].to_pylist()) == [
        "one", "three", "two",
    ]  # fmt: skip
