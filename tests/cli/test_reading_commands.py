"""Time travel, and the commands that read a table: snapshots, search --snapshot, export, changes, view."""

import datetime as dt
import json
from pathlib import Path
from typing import Any

import duckdb
import pyarrow.dataset as ds
import pytest

import sfr_batch as sfr
from sfr_batch.errors import ConfigError, TableNotFound
from sfr_batch.storage.stores import open_store
from sfr_batch.table.commit.writing import create_or_open
from sfr_batch.table.table import Table
from tests.cli.test_cli import complaint, run
from tests.memory_store import MemoryStore
from tests.states import Row, commit_file, package_card, publish_state, state_of
from tests.tables import split_name

FIRST = [Row("a", "1", package="numpy"), Row("b", "2", package="scipy"), Row("c", "3")]
SECOND = [Row("b", "2!", package="scipy"), Row("d", "4", package="torch")]


def table_at(root: str) -> Table:
    """Snapshot 1 has a, b, c; snapshot 2 another b and d, and no c."""
    table = state_of(open_store(root), {"first": FIRST})
    receipts = [*table.current().read_receipts(), commit_file(table, "second", SECOND)]
    publish_state(table, receipts, {split_name("first"): [1, 2]}, by="you@vm")
    return table


# --- time travel


def test_at_a_number_or_a_time() -> None:
    table = create_or_open(MemoryStore(), package_card())
    moments = ["2026-11-01T10:00:00+00:00", "2026-11-02T10:00:00+02:00", "2026-11-03T10:00:00+00:00"]
    for moment in moments:
        publish_state(table, [commit_file(table, moment, [Row(moment)])], {}, created_at=moment)
    assert [table.at(snapshot=n).number for n in (1, 2, 3)] == [1, 2, 3]
    assert table.at(2).to_arrow(["id"]).column(0).to_pylist() == [moments[1]]
    for time, number in [
        ("2026-11-01T10:00", 1),
        ("2026-11-02T07:59:59", 1),
        ("2026-11-02T08:00", 2),
        ("2026-11-02T10:00+02:00", 2),
        ("2026-11-03", 2),
        ("2030-01-01", 3),
        (dt.datetime(2026, 11, 2, 8), 2),
        (dt.datetime(2026, 11, 2, 8, tzinfo=dt.timezone(dt.timedelta(hours=1))), 1),
    ]:
        assert table.at(time=time).number == number, time
    with pytest.raises(TableNotFound, match=r"at 2026-11-01T09:59:00\+00:00\. The first one was published at 2026"):
        table.at(time="2026-11-01T09:59")
    with pytest.raises(TableNotFound, match=r"has no snapshot 4\. Available: 1, 2, 3\."):
        table.at(snapshot=4)
    with pytest.raises(ConfigError, match=r"Invalid time 'yesterday'\. Use 2026-11-24T23:00"):
        table.at(time="yesterday")
    for arguments in ({}, {"snapshot": 1, "time": "2026-11-01"}):
        with pytest.raises(ConfigError, match="Give either the number of a snapshot or a time"):
            table.at(**arguments)
    with pytest.raises(TableNotFound, match=r"Nothing has been published in .* yet\."):
        create_or_open(MemoryStore("memory://new"), package_card()).at(time="2030-01-01")


def test_snapshots_print_themselves(tmp_path: Path) -> None:
    table = table_at(str(tmp_path))
    found = table.snapshots()
    assert [snapshot.number for snapshot in found] == [1, 2]
    assert str(found) == (
        "number  when                  operation  run    vectors  new  reused  rejected  by\n"
        "     1  2026-11-01T23:00:00Z  embed      run-1        3    3       0         0\n"
        "     2  2026-11-02T23:00:00Z  embed      run-2        3    3       0         0  you@vm"
    )
    assert run("snapshots", tmp_path).output == f"{found}\n"
    assert repr(create_or_open(MemoryStore(), package_card()).snapshots()) == "no snapshot yet"


def test_search_an_older_snapshot(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """With an encoder that knows one query: what a real one finds is in tests/cli/test_cli.py."""
    from tests.states import vector_of

    class OneVector:
        def encode(self, texts: list[str], prompt: str) -> Any:
            return vector_of(FIRST[1])[None]

    table_at(str(tmp_path))
    monkeypatch.setattr(sfr.EmbeddingTable, "encoder", OneVector())
    monkeypatch.setattr("sfr_batch.cli.search._encoded", lambda opened, *_: opened.encoder.encode([], ""))
    table = sfr.open_table(str(tmp_path))
    (hit,) = table.search("b", k=1, snapshot=1)
    assert (hit.id, round(hit.score, 5)) == ("b", 1)
    assert table.search("b", k=1)[0].score < 0.999, "the newest one has another b"
    assert run("search", tmp_path, "b", "-k", 1, "--snapshot", 1).output == "1.0000  b\n"
    assert run("search", tmp_path, "b", "-k", 1).output != "1.0000  b\n"
    assert "has no snapshot 9. Available: 1, 2." in complaint(1, "search", tmp_path, "b", "--snapshot", 9)


# --- commands


def test_export(place: str) -> None:
    table_at(f"{place}/table")
    result = run("export", f"{place}/table", f"{place}/all")
    assert result.output.startswith(f"Exported 3 rows to {place}/all: 1 file, ")
    options = ["--snapshot", 1, "--partition-by", "package", "--columns", "n_tokens, package", "--where", "id != 'a'"]
    result = run("export", f"{place}/table", f"{place}/some", *options)
    assert result.output.startswith(f"Exported 2 rows to {place}/some: 2 files in 2 partitions, ")
    if not place.startswith("s3://"):
        rows = ds.dataset(f"{place}/some", partitioning="hive").to_table().sort_by("id")
        assert rows.to_pydict() == {"id": ["b", "c"], "n_tokens": [5, 5], "package": ["scipy", None]}
    assert "is not empty" in complaint(2, "export", f"{place}/table", f"{place}/some")
    text = complaint(2, "export", f"{place}/table", f"{place}/x", "--where", "pakage = 1")
    assert "there is no column pakage, did you mean package" in text


def test_changes(place: str) -> None:
    table = f"{place}/table"
    table_at(table)
    told = f"{table}, snapshot 1 to 2: 2 upserts (1 new, 1 changed), 1 delete, 1 unchanged\n"
    assert run("changes", table, 1, 2).output == told
    result = run("changes", table, 1, 2, "--json")
    assert result.stderr == told
    lines = [json.loads(line) for line in result.stdout.splitlines()]
    assert [(line["op"], line["id"]) for line in lines] == [("delete", "c"), ("upsert", "b"), ("upsert", "d")]
    assert lines[1]["package"] == "scipy"
    assert run("changes", table, 1, 2, "--output", f"{place}/feed").output == told
    keys = {info.key for info in open_store(f"{place}/feed").list("")}
    assert keys == {"_SUCCESS", "deletes/part-00000.parquet", "upserts/part-00000.parquet"}
    assert "is not empty" in complaint(2, "changes", table, 1, 2, "--output", f"{place}/feed")
    assert "is inside the table" in complaint(2, "changes", table, 1, 2, "--output", f"{table}/feed")
    assert run("changes", table, 0, 1).output.endswith("3 upserts (3 new, 0 changed), 0 deletes, 0 unchanged\n")
    assert "Give --output or --json, not both." in complaint(2, "changes", table, 1, 2, "--json", "--output", "x")
    assert "has no snapshot 3" in complaint(1, "changes", table, 1, 3)


def test_view(tmp_path: Path) -> None:
    table_at(str(tmp_path))
    first = run("view", tmp_path, "--engine", "duckdb", "--snapshot", 1, "--name", "first").output
    with duckdb.connect() as connection:
        connection.execute(first)
        connection.execute(run("view", tmp_path).output)
        assert sorted(connection.sql("SELECT id FROM first").fetchall()) == [("a",), ("b",), ("c",)]
        assert sorted(connection.sql("SELECT id FROM embeddings").fetchall()) == [("a",), ("b",), ("d",)]


def test_open_tables_have_it_all(tmp_path: Path) -> None:
    table_at(str(tmp_path))
    table = sfr.open_table(str(tmp_path))
    found = table.changes(1, 2)
    assert (found.new, found.changed, found.deleted) == (1, 1, 1)
    assert table.at(snapshot=1).to_arrow(["id"], where="package is null").to_pydict() == {"id": ["c"]}
