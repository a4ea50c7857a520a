"""Columns of types that do not go together, names that engines confuse, ids of unusual types."""

import uuid
from decimal import Decimal

import pyarrow as pa
import pytest

from tests.bad_input.bench import GOOD, IDS, Bench, Row, both, check_row, put, table
from tests.tables import jsonl

CASE = (
    "corpus.carry: the names 'id' and 'ID' differ only by case, so DuckDB and Spark would take one column of the table "
    "for the other. Give the column another name in the table, carry: {ID_2: ID}."
)
NUMBERED = {"a.jsonl": jsonl([{"id": "one", "ID": 1, "text": "x"}, {"id": "two", "ID": 2, "text": "y"}])}
MIXED = {
    "a.parquet": table(id=["one"], text=["x"], n=[1]),
    "b.parquet": table(id=["two"], text=["y"], n=["1"]),
}
WHOLE = {"a.parquet": table(id=["one", "two"], text=["x", "y"], n=pa.array([1, 2], pa.int8()))}
DECIMALS = pa.array([Decimal(1), Decimal("1.5"), Decimal(2)], pa.decimal128(38, 2))
DATES = pa.array([253_402_214_400], pa.timestamp("s"))
UUIDS = pa.array([uuid.UUID(int=1).bytes, None], pa.binary(16))


def carrying(bench: Bench) -> None:
    assert bench.run("embed {root}/job.yaml", ("corpus.carry=[n]",)).exit_code == 0


def nights(name: str, **columns: object) -> object:
    """A night has been, and tonight there is another file."""
    return both(carrying, put(f"corpus/{name}.parquet", table(**columns)))


ROWS = [
    Row("names that differ by case", CASE, code=2, files=NUMBERED, overrides=("corpus.carry=[ID]",)),
    Row("names that differ by case, repaired", phase="done", files=NUMBERED, overrides=("corpus.carry={ID_2: ID}",)),
    Row("texts and numbers",
        "{root}/corpus/b.parquet: the column 'n' is string, but in other shards it is int64. Convert it to one type, "
        "or remove it from corpus.carry.", files=MIXED, overrides=("corpus.carry=[n]",)),
    Row("texts and numbers, repaired", phase="done", files=MIXED),
    Row("ids of several types, numbered", phase="done", overrides=("corpus.id=null",),
        files={"a.parquet": table(id=["x"], text=["One."]), "b.parquet": table(id=[1], text=["Two."])},
        ids=["{root}/corpus/a.parquet#0", "{root}/corpus/b.parquet#0"]),
    Row("a local time beside an instant",
        "{root}/corpus/b.parquet: the column 'n' is timestamp[ms], but in other shards it is timestamp[ms, tz=UTC]. "
        "Convert it to one type, or remove it from corpus.carry.", overrides=("corpus.carry=[n]",),
        files={"a.parquet": table(id=["one"], text=["x"], n=pa.array([0], pa.timestamp("s", "UTC"))),
               "b.parquet": table(id=["two"], text=["y"], n=pa.array([0], pa.timestamp("s")))}),
    Row("texts in a table of numbers",
        "{root}/corpus/b.parquet: the column 'n' is string, but in the table it is int8. Convert it to int8. If "
        "all of the corpus has the new type, run once with table.retype=[n]: the table takes it, and keeps its "
        "vectors.", files=WHOLE,
        prepare=nights("b", id=["c"], text=["z"], n=["many"]), overrides=("corpus.carry=[n]",)),
    Row("a column that nobody has",
        "{root}/corpus/a.parquet has no column 'nn' (corpus.carry). Did you mean 'n'? It has: id, text, n.",
        files=WHOLE, overrides=("corpus.carry=[nn]",)),
    Row("ids that are lists",
        "{root}/corpus/a.parquet: the id column 'id' is list<element: int64>; ids must be strings, integers, whole "
        "decimals or UUIDs. Set corpus.id to another column, or to null to number the rows.",
        files={"a.parquet": table(id=[[1]], text=["x"])}),
    Row("ids that are no whole decimals", phase="reject", files={"a.parquet": table(id=DECIMALS, text=["x", "y", "z"])},
        ids=[1, 2], rejects=[("1.50", 1, "bad_id", "the id is of type Decimal, the table's ids are int")]),
    Row("ids of 16 bytes", phase="reject", files={"a.parquet": table(id=UUIDS, text=["x", "y"])},
        ids=["00000000-0000-0000-0000-000000000001"], rejects=[(None, 1, "null_id", "the id is null")]),
    Row("a fraction beside whole numbers that are too large", phase="reject", overrides=("corpus.carry=[n]",),
        files={"a.parquet": table(id=["one", "large"], text=["x", "y"], n=[1, 2**53 + 1]),
               "b.parquet": table(id=["two"], text=["z"], n=[0.5])},
        rejects=[("large", 1, "bad_column", "n is not double: 9007199254740993")]),
    Row("a date that nanoseconds do not reach", phase="reject", overrides=("corpus.carry=[n]",),
        files={"a.parquet": table(id=IDS, text=["x", "y"], n=pa.array([0, 1], pa.timestamp("ns"))),
               "b.parquet": table(id=["far"], text=["z"], n=DATES)},
        rejects=[("far", 0, "bad_column", "n is not timestamp[ns]: 9999-12-31 00:00:00{*}")]),
    Row("a large number among fractions", phase="reject", overrides=("corpus.carry=[n]",),
        files={**GOOD, "a.jsonl": jsonl([
            {"id": "large", "text": "x", "n": 2**53 + 1}, {"id": "c", "text": "z", "n": 0.5}])},
        ids=[*IDS, "c"],
        rejects=[("large", 0, "bad_column", "n is double, which has no such whole number: 9007199254740993")]),
]  # fmt: skip


@pytest.mark.parametrize("row", ROWS, ids=lambda row: row.name)
def test_types(row: Row, bench: Bench) -> None:
    check_row(row, bench)
