"""Readers of live rows: columns, filters and deletes, on every kind of store; and what is not read.

How other engines read the same is in tests/table/test_readers_elsewhere.py.
"""

import dataclasses
import io
import pickle
from collections.abc import Sequence
from typing import IO, Any

import duckdb
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from sfr_batch.errors import ConfigError, CountsDoNotClose, TableError, TableNotFound
from sfr_batch.format import names
from sfr_batch.format.records import Receipt
from sfr_batch.storage.store import Store
from sfr_batch.storage.stores import open_store
from sfr_batch.table.commit.writing import create_or_open
from sfr_batch.table.table import Table
from tests.memory_store import MemoryStore
from tests.states import Row, package_card, publish_state, rows_table, state_of
from tests.tables import card_of, make_table, receipt_of, split_name

FILES = {
    "a": [Row("a0", package="numpy"), Row("a1", package="scipy"), Row("a2", package="numpy"), Row("a3")],
    "b": [Row("b0", package="torch"), Row("b1", package="torch")],
    "c": [Row("c0", package="numpy"), Row("c1", package="numpy")],
    "dead": [Row("d0", package="numpy"), Row("d1")],
    "empty": [],
}
DEAD = {"a": [2], "c": [0], "dead": [0, 1]}
LIVE = ["a0", "a1", "a3", "b0", "b1", "c1"]


def ids(table: pa.Table) -> list[Any]:
    found: list[Any] = table.column("id").to_pylist()
    return found


@pytest.fixture
def table(store: Store) -> Table:
    return state_of(store, FILES, DEAD)


@pytest.fixture
def made() -> Table:
    """For what does not depend on the store."""
    return state_of(MemoryStore(), FILES, DEAD)


def test_live_rows_alone_are_read(table: Table) -> None:
    rows = table.to_arrow()
    assert ids(rows) == LIVE
    everything = pa.concat_tables([rows_table(rows, table.schema) for rows in FILES.values()])
    expected = everything.filter(pa.array([id_ in LIVE for id_ in ids(everything)]))
    assert rows.equals(expected)
    assert rows.schema.equals(table.schema)
    assert pa.Table.from_batches(table.current().batches()).equals(rows)


@pytest.mark.parametrize(
    ("options", "expected"),
    [
        ({"where": "package = 'numpy'"}, ["a0", "c1"]),
        ({"where": "package is null"}, ["a3"]),
        ({"where": "package != 'numpy' and id like '%0'"}, ["b0"]),
        ({"where": "n_tokens > 5"}, []),
        ({"ids": ["c1", "a2", "a0", "nobody", "a0"]}, ["a0", "c1"]),
        ({"ids": ("b1",)}, ["b1"]),
        ({"ids": []}, []),
        ({"ids": pa.array(["a0", "a1"])}, ["a0", "a1"]),
        ({"ids": ["a0", "a1", "b0"], "where": "package = 'scipy' or package = 'torch'"}, ["a1", "b0"]),
    ],
)
def test_filters(made: Table, options: dict[str, Any], expected: list[str]) -> None:
    rows = made.to_arrow(**options)
    assert ids(rows) == expected
    assert rows.schema.equals(made.schema)
    everything = made.to_arrow()
    assert rows.equals(everything.filter(pa.array([id_ in expected for id_ in ids(everything)])))
    assert made.to_arrow(["embedding"], **options).equals(rows.select(["embedding"]))
    assert made.to_arrow(["package", "id", "package"], **options).equals(rows.select(["package", "id"]))
    assert [id_ for batch in made.batches(["id"], **options) for id_ in batch.column(0).to_pylist()] == expected


def test_filters_on_every_store(table: Table) -> None:
    assert ids(table.to_arrow(where="package = 'numpy'", ids=LIVE)) == ["a0", "c1"]


def test_whole_numbers_as_ids() -> None:
    card = card_of(names.table_schema(pa.int64(), 3, "float32", {}))
    table = make_table(MemoryStore(), {"a": [3, 1], "b": [2]}, card)
    assert ids(table.to_arrow(ids=np.array([2, 3]))) == [3, 2]
    assert ids(table.to_arrow(where="id in (1, 2)")) == [1, 2]
    with pytest.raises(ConfigError, match=r"ids must be of type int64, the type of the table's ids: .*'a'"):
        table.to_arrow(ids=["a"])
    with pytest.raises(ConfigError, match="ids must be of type int64"):
        table.to_arrow(ids=[2**70])


def test_half_precision_vectors() -> None:
    card = card_of(names.table_schema(pa.string(), 3, "float16", {}))
    table = make_table(MemoryStore(), {"a": ["x", "y", "x"]}, card)
    assert table.to_arrow(["embedding"], ids=["y"]).equals(table.to_arrow(["embedding"]).slice(1))
    assert np.stack(table.to_pandas()["embedding"]).dtype == np.float16


def test_wrong_requests_are_explained(made: Table) -> None:
    with pytest.raises(TableError, match=r"has no column 'titel'\. Columns: id, embedding, "):
        made.to_arrow(["titel"])
    with pytest.raises(ConfigError, match="columns is empty: name at least one column"):
        made.to_arrow([])
    with pytest.raises(ConfigError, match=r"(?s)Invalid filter at character 1: there is no column pakage.*\^"):
        made.batches(where="pakage = 'x'")
    with pytest.raises(ConfigError, match=r"ids must be a list: \['a0'\] instead of 'a0'"):
        made.to_arrow(ids="a0")
    assert ids(made.to_arrow(ids=(id_ for id_ in ["b1"]))) == ["b1"], "any iterable will do"
    with pytest.raises(ConfigError, match="ids must not contain null"):
        made.to_arrow(ids=["a0", None])  # type: ignore[list-item]
    with pytest.raises(TableNotFound, match="Nothing has been published"):
        create_or_open(MemoryStore(), card_of()).to_pandas()


def test_table_without_a_live_row() -> None:
    for files, dead in (({}, {}), ({"a": [Row("a0")]}, {"a": [0]}), ({"a": []}, {})):
        table = state_of(MemoryStore(), files, dead)
        for rows in (table.to_arrow(), table.to_arrow(where="id = 'a0'"), table.to_arrow(ids=["a0"])):
            assert rows.num_rows == 0
            assert rows.schema.equals(table.schema)
        assert len(table.to_pandas()) == 0
        assert table.to_duckdb(["id", "embedding"]).types == ["VARCHAR", "FLOAT[3]"]
        assert table.to_duckdb().fetchall() == []


def test_pandas(made: Table) -> None:
    frame = made.to_pandas(["id", "embedding", "package"], where="package = 'torch'")
    assert frame["id"].tolist() == ["b0", "b1"]
    expected = made.to_arrow(["embedding"], ids=["b0", "b1"]).column(0).combine_chunks().flatten().to_numpy()
    assert np.array_equal(np.stack(frame["embedding"]), expected.reshape(2, 3))


# --- what is not read


class Recording(MemoryStore):
    """Notes which bytes of which object are read."""

    def __init__(self) -> None:
        super().__init__()
        self.read_ranges: list[tuple[str, int, int]] = []

    def open(self, key: str, size: int = 0) -> IO[bytes]:
        store = self

        class Stream(io.BytesIO):
            def read(self, size: int | None = -1) -> bytes:
                at = self.tell()
                data = super().read(size)
                store.read_ranges.append((key, at, at + len(data)))
                return data

        return Stream(self.read(key))

    def columns_read(self, label: str) -> set[str]:
        """The columns of a data file of which bytes were read."""
        key = names.data_key(split_name(label))
        metadata = pq.read_metadata(io.BytesIO(self.read(key)))
        found = set()
        for group in range(metadata.num_row_groups):
            for number in range(metadata.num_columns):
                column = metadata.row_group(group).column(number)
                start, end = column.data_page_offset, column.data_page_offset + column.total_compressed_size
                # A footer is read from the end of the file, 64 KiB at once: that is no reading of a column.
                if any(k == key and start <= s and e <= end for k, s, e in self.read_ranges):
                    found.add(f"{group}:{column.path_in_schema.split('.')[0]}")
        return found


MANY = 1000
"""Rows of a data file that is longer than what Parquet reads to find the footer."""


def test_columns_that_are_not_asked_for_are_not_read() -> None:
    store = Recording()
    table = state_of(store, {"a": [Row(f"a{n:04}", str(n)) for n in range(MANY)]}, card=package_card(dim=32))
    table.to_arrow(["id", "package"])
    assert store.columns_read("a") == {"0:id", "0:package"}


def test_files_without_a_matching_row_keep_their_vectors() -> None:
    store = Recording()
    files = {
        "a": [Row(f"a{n:04}", str(n), package="numpy") for n in range(MANY)],
        "b": [
            Row(f"b{n:04}", str(n), package="scipy" if n == 7 else "aaa" if n == 8 else "torch") for n in range(MANY)
        ],
        "dead": [Row(f"c{n:04}", str(n), package="scipy") for n in range(MANY)],
        "one": [Row(f"d{n:04}", str(n), package="scipy" if n == 9 else "numpy") for n in range(MANY)],
    }
    table = state_of(store, files, {"b": [7], "dead": list(range(MANY)), "one": [2]}, card=package_card(dim=32))
    snapshot = table.current()

    assert ids(snapshot.to_arrow(["id", "embedding"], where="package = 'scipy'")) == ["d0009"]
    assert store.columns_read("a") == set(), "its greatest package is numpy"
    assert store.columns_read("b") == {"0:package"}, "the only match is dead"
    assert store.columns_read("dead") == set(), "no row of it lives"
    assert store.columns_read("one") == {"0:package", "0:id", "0:embedding"}

    store.read_ranges.clear()
    assert ids(snapshot.to_arrow(["id", "n_tokens"], ids=["b0001", "b0007", "zzz"])) == ["b0001"]
    assert [store.columns_read(label) for label in files] == [set(), {"0:id", "0:n_tokens"}, set(), set()]

    store.read_ranges.clear()
    assert snapshot.to_arrow(["embedding"], ids=["b0007", "b00070"]).num_rows == 0
    assert store.columns_read("b") == {"0:id"}, "within the bounds, but not there"


def file_of_groups(table: Table, label: str, rows: Sequence[Row], groups: Sequence[int]) -> Receipt:
    """A data file with row groups of these sizes, as another writer might make it."""
    receipt = receipt_of(split_name(label), len(rows), shard="", start=0)
    metadata = {names.RECEIPT_KEY: receipt.to_json(), names.FINGERPRINT_KEY: table.card.fingerprint}
    content = rows_table(rows, table.schema).replace_schema_metadata(metadata)
    sink, start = io.BytesIO(), 0
    with pq.ParquetWriter(sink, content.schema, use_dictionary=False, write_page_checksum=True) as writer:
        for size in groups:
            writer.write_table(content.slice(start, size), row_group_size=size)
            start += size
    assert table.store.create(names.data_key(receipt.split_id), sink.getvalue())
    return dataclasses.replace(receipt, size=len(sink.getvalue()))


def test_row_groups_that_cannot_match_are_not_read() -> None:
    store = Recording()
    table = create_or_open(store, package_card(dim=32))
    rows = [Row(f"a{n:05}", str(n), package="numpy") for n in range(3 * MANY)]
    receipt = file_of_groups(table, "a", rows, [MANY, MANY, MANY])
    publish_state(table, [receipt], {receipt.split_id: [MANY + 1, 2 * MANY]})
    wanted = [f"a{MANY - 1:05}", f"a{2 * MANY:05}", f"a{2 * MANY + 1:05}"]
    found = table.to_arrow(["embedding", "id"], ids=wanted)
    assert ids(found) == [wanted[0], wanted[2]]
    assert store.columns_read("a") == {"0:id", "0:embedding", "2:id", "2:embedding"}
    expected = rows_table([rows[MANY - 1], rows[2 * MANY + 1]], table.schema)
    assert found.column("embedding").to_pylist() == expected.column("embedding").to_pylist()
    assert ids(table.to_arrow()) == [row.id for n, row in enumerate(rows) if n not in (MANY + 1, 2 * MANY)]


# --- damage


@pytest.mark.parametrize("options", [{}, {"where": "n_tokens = 5"}, {"ids": ["a0"]}])
def test_wrong_files_are_named_with_filters_too(options: dict[str, Any]) -> None:
    store = MemoryStore()
    table = state_of(store, FILES)
    key, other = names.data_key(split_name("a")), names.data_key(split_name("b"))
    data = store.read(key)
    column = pq.read_metadata(io.BytesIO(data)).row_group(0).column(1)
    assert column.path_in_schema.startswith("embedding")
    damaged = bytearray(data)
    damaged[column.data_page_offset + column.total_compressed_size - 2] ^= 1
    for content, error, text in [
        (bytes(damaged), TableError, rf"{key} is damaged: "),
        (data[: len(data) // 2], TableError, rf"{key} is damaged: "),
        (store.read(other), CountsDoNotClose, rf"{key} has 2 rows, its receipt says 4"),
    ]:
        store.delete([key])
        store.create(key, content)
        with pytest.raises(error, match=text):
            table.to_arrow(**options)


def test_file_of_another_table_is_refused_with_filters_too() -> None:
    store, other = MemoryStore(), MemoryStore()
    table = state_of(store, FILES)
    state_of(other, FILES, card=package_card().model_copy(update={"fingerprint": "0" * 64}))
    key = names.data_key(split_name("a"))
    store.delete([key])
    store.create(key, other.read(key))
    with pytest.raises(TableError, match=rf"{key} has the fingerprint 000000000000, the table"):
        table.to_arrow(ids=["b0"])


# --- parts


@pytest.mark.parametrize("count", [1, 2, 3, 100])
def test_parts_are_the_whole(made: Table, count: int) -> None:
    scan = made.scan(["id", "embedding"], where="package is not null")
    assert repr(scan) == "<Scan memory://table, snapshot 1: some of 6 rows in 3 files, id, embedding>"
    parts = scan.parts(count)
    assert 1 <= len(parts) <= min(count, 3)
    assert len(parts) == min(count, 3), "three files have live rows"
    assert pa.concat_tables([part.to_arrow() for part in parts]).equals(scan.to_arrow())
    assert sum(part.live for part in parts) == scan.live == len(LIVE)


def test_parts_travel(place: str) -> None:
    """As they do to Ray's workers."""
    table = state_of(open_store(place), FILES, DEAD)
    scan = table.scan(ids=LIVE, where="package = 'numpy'")
    parts = [pickle.loads(pickle.dumps(part)) for part in scan.parts(2)]
    assert pa.concat_tables([part.to_arrow() for part in parts]).equals(scan.to_arrow())


# --- DuckDB


def test_duckdb_relation(place: str) -> None:
    table = state_of(open_store(place), FILES, DEAD)
    relation = table.to_duckdb()
    assert sorted(row[0] for row in relation.project("id").fetchall()) == LIVE
    assert dict(zip(relation.columns, relation.types, strict=True))["embedding"] == "FLOAT[3]"
    nearest = relation.project("id, array_inner_product(embedding, [1, 0, 0]::FLOAT[3]) AS score").order("score")
    first = table.to_arrow(["embedding"]).column(0).combine_chunks().flatten().to_numpy().reshape(-1, 3)[:, 0]
    assert [row[0] for row in nearest.fetchall()] == [LIVE[n] for n in np.argsort(first)]
    for options in ({"where": "package = 'numpy'"}, {"ids": ["c1", "b0"]}, {"ids": ["a0", "b0"], "where": "id > 'a0'"}):
        expected = table.to_arrow(["package", "id"], **options).to_pylist()
        found = table.to_duckdb(["package", "id"], **options).order("id")
        assert [dict(zip(found.columns, row, strict=True)) for row in found.fetchall()] == expected


def test_duckdb_relation_of_a_given_connection(tmp_path: Any) -> None:
    table = state_of(open_store(str(tmp_path)), FILES, DEAD)
    with duckdb.connect() as connection:
        connection.sql("CREATE TABLE wanted AS SELECT 'numpy' AS package")
        live = table.to_duckdb(connection=connection)
        assert len(live.join(connection.table("wanted").set_alias("w"), "package").fetchall()) == 2
        ours = table.to_duckdb(["id"], ids=["a0"], connection=connection)
        theirs = table.to_duckdb(["id"], ids=["b0"], connection=connection)
        assert sorted(ours.union(theirs).fetchall()) == [("a0",), ("b0",)]
