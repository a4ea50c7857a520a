"""The generated view, run by DuckDB itself: a table's live rows and nothing else, wherever the table is."""

import re
import shlex
from decimal import Decimal
from pathlib import Path

import duckdb
import numpy as np
import pyarrow as pa
import pytest
from click.testing import CliRunner

from sfr_batch.cli.main import main
from sfr_batch.errors import ConfigError
from sfr_batch.format import names
from sfr_batch.storage.s3 import S3Store
from sfr_batch.storage.stores import open_store
from sfr_batch.table.table import Table
from tests.states import Row, commit_file, publish_state, state_of
from tests.table.kinds import kinds
from tests.tables import card_of, commit_rows, create_or_open, draft_of, make_table, publish, table_of

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
    with pytest.raises(ConfigError, match=r"has a column named file_row_number, .* Use `sfr-batch export`"):
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


# --- any name of a column, every type


@pytest.mark.parametrize("dead", [False, True], ids=["all live", "some dead"])
def test_names_that_mean_something_in_sql(tmp_path: Path, dead: bool) -> None:
    """Also those of the SQL's own parts, and a table below a folder that looks like a partition."""
    texts = ['a "b"', "a.b", "it's", "select", "group", "ünï", "a\nb", "sfr_file", "filename", "lang", "x y", "$1", "?"]
    inside = {"id": "inner", "split_id": "inner", "sfr_file": "inner", "file_row_number": -1, "position": -1}
    carry = {name: pa.array([f"{name} {n}" for n in range(3)]) for name in texts}
    carry |= {name: pa.array([inside] * 3) for name in ("data", "dead", "wanted", "Data_")}
    table = table_of(open_store(str(tmp_path / "lang=de" / "id=5" / "table")), carry)
    if dead:
        (receipt,) = table.current().read_receipts()
        publish_state(table, [receipt], {receipt.split_id: [1]})
    expected = table.to_arrow().to_pylist()
    with run(table, table.duckdb_view()) as connection:
        rows = connection.sql("SELECT * FROM embeddings ORDER BY id").to_arrow_table()
    columns = ["id", *carry]
    assert rows.select(columns).to_pylist() == [{name: row[name] for name in columns} for row in expected]
    found = table.to_duckdb(columns, where="data.id = 'inner' and \"a.b\" = 'a.b 2'", ids=["r0", "r2"]).fetchall()
    assert [row[0] for row in found] == ["r2"]
    assert not table.to_duckdb(["id"], where="data.id = 'r0' or dead.position = 0").fetchall()


def test_columns_that_duckdb_takes_for_one_are_never_mixed_up(tmp_path: Path) -> None:
    carry = {"ID": pa.array([7, 8]), "Lang": pa.array(["A", "B"]), "lang": pa.array(["a", "b"]), "É": pa.array([1, 2])}
    table = table_of(open_store(str(tmp_path / "table")), {**carry, "é": pa.array([3, 4])})
    for columns, where in [(None, None), (["id", "ID"], None), (["lang"], None), (["id"], "lang = 'a'")]:
        with pytest.raises(ConfigError, match="DuckDB knows no upper and lower case") as caught:
            table.to_duckdb(columns, where=where)
    message = str(caught.value)
    assert "has columns 'lang' and 'Lang', and" in message
    command = message.split("sfr-batch ")[1].rstrip(".").replace("<new folder>", str(tmp_path / "out"))
    with pytest.raises(ConfigError, match=r"Name one of them: --rename ID=<new name>"):
        follow(command.replace("<new name>", "lang_2"))
    follow(f"{command.replace('<new name>', 'lang_2')} --rename ID=number")
    found = duckdb.sql(f"SELECT id, number, Lang, lang_2, É, é FROM '{tmp_path}/out/*.parquet' ORDER BY id").fetchall()
    assert found == [("r0", 7, "A", "a", 1, 3), ("r1", 8, "B", "b", 2, 4)]
    # What can be had is had: the first of them, and what differs for DuckDB.
    assert sorted(table.to_duckdb(["id", "Lang", "É", "é"]).fetchall()) == [("r0", "A", 1, 3), ("r1", "B", 2, 4)]
    with run(table, table.duckdb_view(columns=["id", "Lang"])) as connection:
        assert connection.sql("SELECT lang FROM embeddings ORDER BY id").fetchall() == [("A",), ("B",)]


def follow(command: str) -> None:
    """Run a command as a message gives it."""
    result = CliRunner().invoke(main, shlex.split(command.removeprefix("sfr-batch ")), standalone_mode=False)
    if result.exit_code:
        raise ConfigError(result.output)


def test_keys_and_decimals_that_duckdb_would_change(tmp_path: Path) -> None:
    long = pa.array([Decimal("9" * 45 + ".50")], pa.decimal256(50, 2))
    twins = pa.array([[{"Key": 1, "key": 2}]], pa.list_(pa.struct([("Key", pa.int64()), ("key", pa.int64())])))
    table = table_of(open_store(str(tmp_path / "table")), {"price": long, "meta": twins, "plain": pa.array([1])})
    with pytest.raises(
        ConfigError, match="'price' has decimals of 50 digits, and DuckDB, which has 38, would round them"
    ):
        table.duckdb_view()
    with pytest.raises(ConfigError, match=r"'meta' has the keys 'Key' and 'key', and .* --as-text meta\.") as caught:
        table.to_duckdb(["meta"])
    assert table.to_duckdb(["id", "plain"]).fetchall() == [("r0", 1)]
    command = str(caught.value).split("sfr-batch ")[1].rstrip(".").replace("<new folder>", str(tmp_path / "out"))
    follow(f"{command} --as-text price")
    found = duckdb.sql(f"SELECT price, meta FROM '{tmp_path}/out/*.parquet'").fetchall()
    assert found == [("9" * 45 + ".50", '[{"Key": 1, "key": 2}]')]


def test_every_type_in_the_view(tmp_path: Path) -> None:
    """The columns of a full table and of an empty one have the same types, and those with a length are not rounded."""
    carry = {name: values for name, values in kinds().items() if name != "decimal50"}
    table = table_of(open_store(str(tmp_path / "table")), carry)
    empty = state_of(open_store(str(tmp_path / "empty")), {}, card=table.card)
    full, none = table.to_duckdb(), empty.to_duckdb()
    assert list(map(str, full.types)) == list(map(str, none.types))
    assert dict(zip(full.columns, map(str, full.types), strict=True))["fixed_list"] == "BIGINT[2]"
    assert table.to_duckdb(["fixed_list"], ids=["r0"]).fetchall() == [((2**53 + 1, 2),)]
