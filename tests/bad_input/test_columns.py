"""Bad input: carried columns that change between nights. Each way out is followed to the letter."""

from collections.abc import Callable, Mapping

import duckdb
import pyarrow as pa
import pytest

import sfr_batch as sfr
from tests.bad_input.bench import IDS, Bench, Row, both, check_row, put, table

WHOLE = {"a.parquet": table(id=IDS, text=["One.", "Two."], n=pa.array([1, 2], pa.int8()), m=["x", "y"])}
CARRY, RETYPE, KEEP = "corpus.carry=[n]", "table.retype=[n]", "table.delete=keep"
OTHERS = (
    "{root}/corpus/a.parquet: the column 'n' is string, but in the table it is int8. Convert it to int8. If all of "
)
OTHERS += "the corpus has the new type, run once with table.retype=[n]: the table takes it, and keeps its vectors."


def carrying(bench: Bench) -> None:
    assert bench.run("embed {root}/job.yaml", (CARRY,)).exit_code == 0


def texts(bench: Bench) -> None:
    """The column is of texts since the first night."""
    both(carrying, put("corpus/a.parquet", table(id=IDS, text=["One.", "Two."], n=["many", "few"], m=["x", "y"])))(
        bench
    )


def kept(bench: Bench) -> None:
    """The column went, one of its documents left and is kept, and it came back with another type."""
    keep = (KEEP, "corpus.carry=[]")
    carrying(bench)
    assert bench.run("embed {root}/job.yaml", keep).exit_code == 0
    bench.put("corpus/a.parquet", table(id=["one"], text=["One."], n=["many"], m=["x"]))
    assert bench.run("embed {root}/job.yaml", (CARRY, KEEP)).exit_code == 0


ROWS = [
    Row("a kept value of an earlier type in DuckDB",
        "{root}/table: the column 'n' is string, and was int8 when some of the rows were written. These have no value "
        "in it any more, and DuckDB would show the old one. Name the columns to read without it, or let DuckDB read an "
        "export: sfr-batch export {root}/table <new folder> --for duckdb.", code=2, files=WHOLE, prepare=kept,
        command="view {root}/table"),
    Row("a column of another type", OTHERS, files=WHOLE, prepare=texts, overrides=(CARRY,)),
    Row("another type, and documents are kept",
        "table.retype: n is int8 in {root}/table and string in the corpus. Not every int8 is a string, and "
        "table.delete=keep keeps documents whose n is nowhere else. Remove n from table.retype and carry it under "
        "another name, corpus.carry: {n_2: n}; or set table.delete=mirror.", code=2, files=WHOLE, prepare=texts,
        overrides=(CARRY, RETYPE, "table.delete=keep")),
    Row("a part of the corpus",
        "The carried columns differ from those of {root}/table: m string is new. A run with select would change them "
        "for some rows only. Run once without select.", code=2, files=WHOLE, prepare=carrying,
        overrides=("corpus.carry=[n, m]", "select.shards=[a.parquet]")),
    Row("the type of a column that is not carried",
        "table.retype names m, which corpus.carry does not carry. Add it there, or remove it from table.retype.",
        code=2, files=WHOLE, prepare=carrying, overrides=(CARRY, "table.retype=[m]")),
    Row("a column that nobody has",
        "{root}/corpus/a.parquet has no column 'nn' (corpus.carry). Did you mean 'n'? It has: id, text, n, m.",
        files=WHOLE, prepare=carrying, overrides=("corpus.carry=[n, nn]",)),
    Row("a new column that differs by case alone",
        "corpus.carry: the names 'n' and 'N' differ only by case, so DuckDB and Spark would take one column of the "
        "table for the other. Give the column another name in the table, carry: {\"n\": \"n\", N_2: m}.", code=2,
        files=WHOLE, prepare=carrying, overrides=("corpus.carry={n: n, N: m}",)),
]  # fmt: skip


WAYS: Mapping[str, tuple[Callable[[Bench], None], tuple[str, ...]]] = {
    "a column comes, and without select": (carrying, ("corpus.carry=[n, m]",)),
    "a column goes": (carrying, ("corpus.carry=[]",)),
    "the new type": (texts, (CARRY, RETYPE)),
    "another name": (texts, ("corpus.carry={n_2: n}", KEEP)),
    "mirror": (texts, (CARRY, RETYPE, "table.delete=mirror")),
    "carry it": (carrying, ("corpus.carry=[n, m]", "table.retype=[m]")),
    "a name with a number": (carrying, ('corpus.carry={"n": "n", N_2: m}',)),
}
"""The ways out of the messages above: what was before, and the overrides of the run."""


@pytest.mark.parametrize("way", WAYS)
def test_ways_out(way: str, bench: Bench) -> None:
    before, overrides = WAYS[way]
    for name, data in WHOLE.items():
        bench.put(f"corpus/{name}", data)
    before(bench)
    result = bench.run("embed {root}/job.yaml", overrides)
    assert result.exit_code == 0, result.output
    counts = sfr.open_table(str(bench.table)).current().manifest.counts
    assert (counts.embedded, counts.reused, counts.rejected) == (0, 2, 0), "no vector is made again"


def test_ways_out_of_a_kept_value_of_an_earlier_type(bench: Bench) -> None:
    for name, data in WHOLE.items():
        bench.put(f"corpus/{name}", data)
    kept(bench)
    assert bench.run("view {root}/table --columns id,embedding", ()).exit_code == 0
    assert bench.run("export {root}/table {root}/new --for duckdb", ()).exit_code == 0
    with duckdb.connect() as connection:
        rows = connection.sql(f"SELECT id, n FROM '{bench.root}/new/*.parquet' ORDER BY id").fetchall()
    assert rows == [("one", "many"), ("two", None)]


def test_chunks_are_copied_whole(bench: Bench) -> None:
    chunk = ("model.overflow=chunk", "model.chunk_tokens=16", "model.chunk_overlap=2")
    texts_ = ["One. " * 40, "Two."]
    bench.put("corpus/a.parquet", table(id=IDS, text=texts_, n=["x", "y"]))
    assert bench.run("embed {root}/job.yaml", chunk).exit_code == 0
    before = sfr.open_table(str(bench.table)).current()
    result = bench.run("embed {root}/job.yaml", (*chunk, CARRY))
    assert result.exit_code == 0, result.output
    assert "Columns   n string is new\n" in result.stdout
    after = sfr.open_table(str(bench.table)).current()
    assert (after.manifest.counts.embedded, after.manifest.counts.vectors) == (0, before.manifest.counts.vectors)
    assert before.manifest.counts.vectors > 3
    same = [name for name in before.schema.names if name != "row_hash"]
    assert after.to_arrow(same).equals(before.to_arrow(same))
    assert set(zip(*(column.to_pylist() for column in after.to_arrow(["id", "n"]).columns), strict=True)) == {
        ("one", "x"), ("two", "y"),
    }  # fmt: skip


@pytest.mark.parametrize("row", ROWS, ids=lambda row: row.name)
def test_bad_input(row: Row, bench: Bench) -> None:
    check_row(row, bench)
