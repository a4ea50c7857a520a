"""The generated view, run by DuckDB itself: a table's live rows and nothing else, wherever the table is."""

import re
from pathlib import Path

import duckdb
import numpy as np
import pyarrow as pa
import pytest

from sfr_batch.errors import ConfigError
from sfr_batch.format import names
from sfr_batch.storage.s3 import S3Store
from sfr_batch.storage.stores import open_store
from sfr_batch.table.table import Table
from tests.states import Row, commit_file, publish_state, state_of
from tests.tables import card_of, commit_rows, create_or_open, draft_of, make_table, publish

FILES = {
    "a": [Row("a0", package="numpy"), Row("a1", package="it's"), Row("a2")],
    "b": [Row("b0", package="torch"), Row("b1")],
    "dead": [Row("d0")],
    "empty": [],
}
DEAD = {"a": [1], "dead": [0]}
LIVE = ["a0", "a2", "b0", "b1"]


def table_at(root: str) -> Table:
    """With dead rows, an orphan in data/ and files of other snapshots."""
    table = state_of(open_store(root), FILES, DEAD)
    commit_file(table, "orphan", [Row("orphan")])
    return table


def run(table: Table, sql: str) -> duckdb.DuckDBPyConnection:
    """A DuckDB that has run the SQL and knows nothing of sfr-batch."""
    connection = duckdb.connect()
    if isinstance(table.store, S3Store):
        connection.register_filesystem(table.store.filesystem())  # in place of httpfs, which would have to be fetched
    connection.execute(sql)
    return connection


def test_view_is_the_live_rows(place: str) -> None:
    table = table_at(f"{place}/table")
    with run(table, table.duckdb_view()) as connection:
        rows = connection.sql("SELECT * FROM embeddings ORDER BY id").to_arrow_table()
        assert rows.column("id").to_pylist() == LIVE
        assert rows.column_names == table.schema.names
        ours = table.to_arrow().sort_by("id")
        assert rows.drop_columns(["embedding"]).to_pylist() == ours.drop_columns(["embedding"]).to_pylist()
        assert rows.column("embedding").to_pylist() == ours.column("embedding").to_pylist()
        first = ours.column("embedding")[0].as_py()
        score = f"array_inner_product(embedding, {first}::FLOAT[3])"
        assert connection.sql(f"SELECT id FROM embeddings ORDER BY {score} DESC LIMIT 1").fetchall() == [("a0",)]


def test_view_of_a_file_is_kept_by_duckdb(tmp_path: Path) -> None:
    """Another process, another day: the view is in DuckDB's own file."""
    table = table_at(str(tmp_path / "table"))
    with duckdb.connect(str(tmp_path / "x.duckdb")) as connection:
        connection.execute(table.duckdb_view('my "view"'))
        connection.execute(table.duckdb_view('my "view"'))  # made anew
    with duckdb.connect(str(tmp_path / "x.duckdb"), read_only=True) as connection:
        assert connection.sql('SELECT count(*) FROM "my ""view"""').fetchall() == [(4,)]


def test_view_stays_at_its_snapshot(tmp_path: Path) -> None:
    table = table_at(str(tmp_path))
    old = table.duckdb_view("old")
    publish_state(table, [commit_file(table, "c", [Row("c0")]), *table.current().read_receipts()[1:2]], {})
    assert old == table.at(snapshot=1).duckdb_view("old")
    with run(table, old + table.duckdb_view("new")) as connection:
        assert sorted(connection.sql("SELECT id FROM old").fetchall()) == [(id_,) for id_ in LIVE]
        assert sorted(connection.sql("SELECT id FROM new").fetchall()) == [("b0",), ("b1",), ("c0",)]
    state = "snapshot 2 of 2026-11-02T23:00:00+00:00, 3 vectors, 0 rejects"
    assert table.duckdb_view().startswith(f"-- {tmp_path}\n-- {state}. The view does not follow the table: ")


def test_view_without_deletes_needs_no_join(tmp_path: Path) -> None:
    table = make_table(open_store(str(tmp_path)), {"a": ["x", "y"]})
    assert "JOIN" not in table.duckdb_view()
    with run(table, table.duckdb_view()) as connection:
        assert connection.sql("SELECT count(*) FROM embeddings").fetchall() == [(2,)]


def test_view_of_an_empty_table(tmp_path: Path) -> None:
    table = state_of(open_store(str(tmp_path)), {})
    with run(table, table.duckdb_view()) as connection:
        found = connection.sql("SELECT * FROM embeddings")
        assert found.fetchall() == []
        assert found.columns == table.schema.names
        assert found.types[:3] == ["VARCHAR", "FLOAT[3]", "INTEGER"]


@pytest.mark.parametrize("name", ["it's", "a[b]*?", 'a "b"; DROP TABLE x; --', "with space/ü"])
def test_odd_paths(tmp_path: Path, name: str) -> None:
    table = table_at(str(tmp_path / name))
    with run(table, table.duckdb_view()) as connection:
        assert sorted(connection.sql("SELECT id FROM embeddings").fetchall()) == [(id_,) for id_ in LIVE]


def test_line_breaks_in_a_path_stay_in_the_comment(tmp_path: Path) -> None:
    table = table_at(str(tmp_path / "a\nDROP TABLE x;"))
    assert not re.search(r"(?m)^DROP", table.duckdb_view().split("CREATE")[0])


def test_names_that_duckdb_takes_are_refused(tmp_path: Path) -> None:
    card = card_of(names.table_schema(pa.string(), 3, "float32", {"file_row_number": pa.int64()}))
    table = create_or_open(open_store(str(tmp_path)), card)
    carry = {"file_row_number": [1, 2]}
    first = publish(table, None, draft_of([commit_rows(table.store, card, "a", ["x", "y"], carry=carry)]))
    with run(table, table.duckdb_view()) as connection:
        assert len(connection.sql("SELECT file_row_number FROM embeddings").fetchall()) == 2
    publish_state(table, first.read_receipts(), {first.read_receipts()[0].split_id: [0]})
    with pytest.raises(ConfigError, match=r"has a column named file_row_number .* Use `sfr-batch export`"):
        table.duckdb_view()


def test_half_precision_vectors(tmp_path: Path) -> None:
    card = card_of(names.table_schema(pa.string(), 3, "float16", {}))
    table = make_table(open_store(str(tmp_path)), {"a": ["x", "y", "x"]}, card)
    with run(table, table.duckdb_view()) as connection:
        rows = connection.sql("SELECT id, embedding FROM embeddings ORDER BY id").fetchall()
    ours = table.to_arrow(["embedding"]).column(0).combine_chunks().flatten().to_numpy().astype(np.float32)
    assert np.array_equal(np.array([vector for _, vector in rows]).ravel(), ours)


def test_s3_says_what_duckdb_needs_and_no_secrets(s3_prefix: str) -> None:
    sql = table_at(f"{s3_prefix}/table").duckdb_view()
    assert "--   INSTALL httpfs; LOAD httpfs;" in sql
    assert re.search(r"ENDPOINT '127\.0\.0\.1:\d+', URL_STYLE 'path', USE_SSL false\);", sql)
    assert f"'{s3_prefix}/table/data/" in sql
    assert "test-key" not in sql


def test_thousands_of_files_are_one_statement(tmp_path: Path) -> None:
    """Written as what they are to DuckDB: names; so a few real files stand for all."""
    table = table_at(str(tmp_path))
    receipts = table.current().read_receipts()
    many = [receipt for receipt in receipts for _ in range(2500)]
    publish_state(table, many, {})
    with run(table, table.duckdb_view()) as connection:
        assert connection.sql("SELECT count(*) FROM embeddings WHERE id = 'b0'").fetchall() == [(2500,)]
