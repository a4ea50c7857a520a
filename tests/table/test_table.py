"""Tables on every kind of store: commits, snapshots, damage, duplicates and sweeps, as one process sees them.

What many processes may do to each other is checked by tests/table/commit/test_protocol.py.
"""

import dataclasses
import json
import re
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from sfr_batch.corpus.rejects import Reject, rejects_table
from sfr_batch.errors import (
    CountsDoNotClose,
    SnapshotConflict,
    TableDamaged,
    TableError,
    TableMismatch,
    TableNotFound,
    TooManyRejects,
)
from sfr_batch.format import names
from sfr_batch.format.parquet import encode_parquet, read_receipt
from sfr_batch.storage.store import Content, Store, in_memory
from sfr_batch.storage.stores import open_store
from sfr_batch.table.commit import lease
from sfr_batch.table.commit.publish import condemn, publish, superseded
from sfr_batch.table.commit.sweep import find_orphans, sweep
from sfr_batch.table.commit.writing import commit_split, create_or_open
from sfr_batch.table.table import Table
from tests.memory_store import MemoryStore
from tests.tables import SCHEMA, card_of, commit_rows, draft_of, make_table, receipt_of, rows_of, split_name, vector

LATER = 1e12
"""A time at which everything is old, also on the logical clock of the store in memory."""


@pytest.fixture
def local(tmp_path: Path) -> Store:
    """For what does not depend on the store."""
    return open_store(str(tmp_path / "table"))


def replace(store: Store, key: str, data: bytes) -> None:
    store.delete([key])
    assert store.create(key, data)


def keys(store: Store) -> set[str]:
    return {info.key for info in store.list("")}


def bad(id_: str, position: int = 0) -> Reject:
    return Reject(id_, position, "empty_text", "the text is empty or only white space")


# --- the card


def test_one_of_many_creators_wins(store: Store) -> None:
    cards = [card_of().model_copy(update={"created_at": f"by {n}"}) for n in range(6)]
    with ThreadPoolExecutor(6) as pool:
        tables = list(pool.map(lambda card: create_or_open(store, card), cards))
    assert len({table.card.created_at for table in tables}) == 1
    assert Table.open(store).card == tables[0].card


def test_there_is_no_table(store: Store) -> None:
    with pytest.raises(TableNotFound, match=rf"There is no table at {store.root} .* `sfr-batch embed`"):
        Table.open(store)
    table = create_or_open(store, card_of())
    assert repr(table) == f"<Table {store.root}: no snapshot yet>"
    assert table.latest() is None
    with pytest.raises(
        TableNotFound, match=r"Nothing has been published in .* yet\. .* repeat the same `sfr-batch embed`"
    ):
        table.to_arrow()
    with pytest.raises(TableNotFound, match=r"has no snapshot 3\. Available: none\."):
        table.snapshot(3)


def test_table_of_other_vectors_is_refused(local: Store) -> None:
    create_or_open(local, card_of(max_length=256))
    with pytest.raises(TableMismatch) as caught:
        create_or_open(local, card_of(max_length=512, prompt="passage: "))
    assert str(caught.value) == (
        f"{local.root} holds vectors made with other settings:\n"
        "  max_length: 256 in the table, 512 in the config\n"
        '  prompt: nothing in the table, "passage: " in the config\n'
        "A table with both kinds of vectors would be silently wrong. Change the settings back, or write to a new "
        "table: table.path=<another path>."
    )


@pytest.mark.parametrize(
    "kind", [pa.list_(pa.string()), pa.struct([("a", pa.int8())]), pa.timestamp("us", "UTC")], ids=str
)
@pytest.mark.parametrize("dtype", ["float32", "float16"])
def test_card_keeps_the_schema(local: Store, kind: pa.DataType, dtype: str) -> None:
    arrow = names.table_schema(pa.int64(), 3, dtype, {"x": kind})
    create_or_open(local, card_of(arrow, vector_dtype=dtype))
    opened = Table.open(local)
    assert opened.schema.equals(arrow)
    assert (opened.dim, opened.card.vector_dtype) == (3, dtype)


# --- splits


def test_commit_split(store: Store) -> None:
    receipt = commit_rows(store, card_of(), "s", ["a", "b"], [bad("c", 2)])
    key = names.data_key(split_name("s"))
    assert keys(store) == {key, names.rejects_key(receipt.split_id, receipt.attempt)}
    assert receipt.size == len(store.read(key))
    assert read_receipt(store, receipt.split_id) == receipt
    assert pq.read_table(in_memory(store.read(key))).column("id").to_pylist() == ["a", "b"]


def test_who_comes_second_adopts_the_winners_receipt(store: Store) -> None:
    first = commit_rows(store, card_of(), "s", ["a", "b"], [bad("c")], run_id="first")
    second = commit_rows(store, card_of(), "s", ["a"], [bad("b"), bad("c")], run_id="second")
    assert second == first
    assert len(keys(store)) == 3, "the loser's rejects are there, and nobody names them"
    table = create_or_open(store, card_of())
    snapshot = publish(table, None, draft_of([second]))
    assert snapshot.rejects().column("id").to_pylist() == ["c"]
    assert table.to_arrow(["id"]).column("id").to_pylist() == ["a", "b"]


@pytest.mark.parametrize(
    ("receipt", "text"),
    [
        (receipt_of("0" * 32, 2, 0, read=3), "3 rows read, but 2 embedded and 0 rejected"),
        (receipt_of("0" * 32, 3, 0), "has 2 vectors and 0 rejects, its receipt says 3 and 0"),
        (receipt_of("0" * 32, 2, 1), "has 2 vectors and 0 rejects, its receipt says 2 and 1"),
    ],
)
def test_split_whose_counts_do_not_close_is_not_written(receipt: Any, text: str) -> None:
    store = MemoryStore()
    with pytest.raises(CountsDoNotClose, match=text):
        commit_split(store, card_of(), receipt, rows_of(["a", "b"]), rejects_table([], "shard"))
    assert keys(store) == set()


def test_split_without_rows(store: Store) -> None:
    table = create_or_open(store, card_of())
    receipts = [
        commit_rows(store, card_of(), "all bad", [], [bad("a"), bad("b")]),
        commit_rows(store, card_of(), "none", []),
    ]
    snapshot = publish(table, None, draft_of(receipts))
    assert (snapshot.manifest.counts.read, snapshot.manifest.counts.rejected, table.num_rows) == (2, 2, 0)
    assert table.to_arrow().schema == SCHEMA
    assert table.to_arrow().num_rows == 0
    assert list(table.batches(["id"])) == []


@pytest.mark.parametrize("dtype", ["float32", "float16"])
def test_data_files_physically(local: Store, dtype: str) -> None:
    """No dictionaries and no compression of vectors, statistics for the others, and the receipt in the footer."""
    arrow = names.table_schema(pa.string(), 3, dtype, {"title": pa.string()})
    card = card_of(arrow, vector_dtype=dtype)
    ids = [f"id{n}" for n in range(1000)]
    receipt = commit_rows(local, card, "s", ids, carry={"title": ["the same"] * 1000})
    metadata = pq.read_metadata(in_memory(local.read(names.data_key(receipt.split_id))))
    assert metadata.num_row_groups == 1
    columns = {}
    for number in range(metadata.num_columns):
        column = metadata.row_group(0).column(number)
        assert not {"PLAIN_DICTIONARY", "RLE_DICTIONARY"} & set(column.encodings)
        columns[column.path_in_schema] = column
    vectors = columns.pop("embedding.list.element")
    assert vectors.compression == "UNCOMPRESSED"
    assert not vectors.is_stats_set
    assert {column.compression for column in columns.values()} == {"ZSTD"}
    assert columns["id"].is_stats_set
    assert metadata.metadata[b"sfr.fingerprint"].decode() == card.fingerprint
    assert json.loads(metadata.metadata[b"sfr.receipt"])["split_id"] == receipt.split_id
    stored = pq.read_table(in_memory(local.read(names.data_key(receipt.split_id))))
    assert stored.schema.equals(arrow)
    numbers = np.stack([vector(id_) for id_ in ids]).astype(dtype)
    assert np.array_equal(np.stack(stored.column("embedding").to_numpy()), numbers)


def test_plain_engines_read_the_data_folder(tmp_path: Path) -> None:
    import duckdb
    import polars

    make_table(open_store(str(tmp_path)), {"a": ["x", "y"], "b": ["z"]})
    pattern = f"{tmp_path}/data/*.parquet"
    expected = {id_: vector(id_).tolist() for id_ in "xyz"}
    found = duckdb.sql(f"SELECT id, embedding FROM '{pattern}'").fetchall()
    assert {id_: list(numbers) for id_, numbers in found} == expected
    frame = polars.read_parquet(pattern)
    assert dict(zip(frame["id"].to_list(), (v.to_list() for v in frame["embedding"]), strict=True)) == expected


# --- snapshots


def test_publish_and_read(store: Store) -> None:
    table = make_table(store, {"a": ["x", "y"], "b": ["z"]})
    assert table.to_arrow().equals(pa.concat_tables([rows_of(["x", "y"]), rows_of(["z"])]))
    assert (table.num_rows, table.snapshot_numbers()) == (3, [1])
    assert re.fullmatch(rf"<Table {re.escape(store.root)}: snapshot 1 of .*, 3 vectors, 0 rejects>", repr(table))
    base = table.current()
    more = commit_rows(store, table.card, "c", ["new"], start=2)
    second = publish(table, base, draft_of([*base.read_receipts(), more], base))
    counts = second.manifest.counts
    assert (second.number, second.manifest.parent) == (2, 1)
    assert (counts.read, counts.embedded, counts.reused, counts.vectors) == (4, 1, 3, 4)
    assert [len(s.to_arrow()) for s in table.snapshots()] == [3, 4], "older snapshots stay as they were"
    assert [r.split_id for r in second.read_receipts()] == [split_name(label) for label in "abc"]
    with pytest.raises(TableNotFound, match=r"has no snapshot 3\. Available: 1, 2\."):
        table.snapshot(3)


def test_columns_of_a_reading(local: Store) -> None:
    arrow = names.table_schema(pa.string(), 3, "float32", {"id.x": pa.string(), "meta": pa.struct([("a", pa.int64())])})
    card = card_of(arrow)
    table = create_or_open(local, card)
    carry = {"id.x": ["p", "q"], "meta": [{"a": 1}, None]}
    publish(table, None, draft_of([commit_rows(local, card, "s", ["a", "b"], carry=carry)]))
    assert table.to_arrow(["meta", "id"]).to_pylist() == [{"meta": {"a": 1}, "id": "a"}, {"meta": None, "id": "b"}]
    assert table.to_arrow(["id", "id.x", "id"]).to_pylist() == [{"id": "a", "id.x": "p"}, {"id": "b", "id.x": "q"}]
    assert [batch.schema.names for batch in table.batches(["id"])] == [["id"]]
    with pytest.raises(TableError, match=r"has no column 'ids'\. Columns: id, embedding, n_tokens, .*, meta\."):
        table.to_arrow(["ids"])


def test_second_publisher_of_a_number_loses(store: Store) -> None:
    table = create_or_open(store, card_of())
    drafts = [draft_of([commit_rows(store, table.card, f"s{n}", [f"id{n}"])]) for n in range(5)]

    def attempt(draft: Any) -> Any:
        try:
            return publish(table, None, draft)
        except SnapshotConflict as error:
            return error

    with ThreadPoolExecutor(5) as pool:
        results = list(pool.map(attempt, drafts))
    won = [r for r in results if not isinstance(r, SnapshotConflict)]
    lost = [r for r in results if isinstance(r, SnapshotConflict)]
    assert (len(won), len(lost)) == (1, 4)
    assert table.to_arrow().equals(won[0].to_arrow())
    assert all(f"Run {won[0].manifest.run_id} published snapshot 1 of " in str(error) for error in lost)
    assert superseded(table, None)
    assert not superseded(table, won[0])


def test_own_manifest_after_a_lost_reply_is_a_success(local: Store) -> None:
    table = create_or_open(local, card_of())
    draft = draft_of([commit_rows(local, table.card, "s", ["a"])])
    first = publish(table, None, draft)

    class LostReply:
        """The write of the manifest took effect, its reply got lost: the retry meets the own file."""

        root, read, list, open = local.root, local.read, local.list, local.open

        def create(self, key: str, data: Content) -> bool:
            return local.create(key, data) if "/snapshots/" not in key or key.endswith(".parquet") else False

    again = dataclasses.replace(draft)
    assert publish(Table(LostReply(), table.card), None, again).manifest == first.manifest  # type: ignore[arg-type]


def test_a_data_file_is_not_encoded_into_memory(local: Store) -> None:
    """The store is given a function, which a local one has write to the disk; the receipt has the size all the same."""
    card, functions = card_of(), list[str]()

    class Seen:
        root, read, open = local.root, local.read, local.open

        def create(self, key: str, data: Content) -> bool:
            functions.extend([key] if callable(data) else [])
            return local.create(key, data)

    receipt = commit_rows(Seen(), card, "s", ["a"])  # type: ignore[arg-type]
    (info,) = local.list(names.DATA)
    assert functions == [info.key]
    assert receipt.size == info.size


def test_missing_data_file_refuses_to_publish(store: Store) -> None:
    table = create_or_open(store, card_of())
    receipts = [commit_rows(store, table.card, label, [label]) for label in "ab"]
    gone = names.data_key(split_name("b"))
    store.delete([gone])
    with pytest.raises(TableError, match=rf"{store.root}/{gone} is missing; run the command again"):
        publish(table, None, draft_of(receipts))
    replace(store, gone, b"short")
    with pytest.raises(TableError, match=rf"{gone} has 5 bytes instead of [\d,]+; run the command again"):
        publish(table, None, draft_of(receipts))
    assert table.snapshot_numbers() == []


def test_missing_rejects_refuse_to_publish(store: Store) -> None:
    table = create_or_open(store, card_of())
    receipt = commit_rows(store, table.card, "s", ["a"], [bad("b")])
    store.delete([names.rejects_key(receipt.split_id, receipt.attempt)])
    text = (
        rf"The rejects of split {receipt.split_id} are missing from .*delete data/{receipt.split_id}\.parquet and run"
    )
    with pytest.raises(TableError, match=text):
        publish(table, None, draft_of([receipt]))


def test_rows_that_are_lost_refuse_to_publish(local: Store) -> None:
    """The rows of a Parquet shard are known from its metadata: a split too few shows."""
    table = create_or_open(local, card_of())
    draft = draft_of([commit_rows(local, table.card, "s", ["a"])])
    shards = [dataclasses.replace(draft.shards[0], read=2)]
    with pytest.raises(
        CountsDoNotClose, match=r"2 rows read, but 1 embedded, 0 reused and 0 rejected. Nothing was publ"
    ):
        publish(table, None, dataclasses.replace(draft, shards=shards))
    assert table.snapshot_numbers() == []


def test_rejects_above_the_ceiling_refuse_to_publish(local: Store) -> None:
    table = create_or_open(local, card_of())
    nine = commit_rows(local, table.card, "s", [f"id{n}" for n in range(9)], [bad("p")])
    duplicate = commit_rows(local, table.card, "t", ["id0"], start=1)
    with pytest.raises(TooManyRejects) as caught:
        publish(table, None, draft_of([nine, duplicate], max_reject_share=0.1))
    assert str(caught.value).splitlines()[0] == (
        "2 of 11 rows (18.2%) cannot be embedded, and run.max_reject_share allows 10.0%. Nothing was published; "
        "embedded splits stay committed."
    )
    assert "  empty_text: 1, e.g. at 0 of shard: the text is empty" in str(caught.value)
    assert "  duplicate_id: 1" in str(caught.value)
    assert str(caught.value).endswith("or accept them with run.max_reject_share=0.19.")
    assert table.latest() is None
    assert publish(table, None, draft_of([nine], max_reject_share=0.1)).manifest.counts.rejected == 1, "not above it"


def test_a_run_of_bad_rows_is_refused_however_large_the_table(local: Store) -> None:
    table = make_table(local, {"a": [f"id{n}" for n in range(2000)]})
    base = table.current()
    many = [Reject(None, n, "null_text", "the text is null") for n in range(101)]
    few = commit_rows(local, table.card, "few", [], many[:100], shard="few")
    more = commit_rows(local, table.card, "more", [], many, shard="more")
    with pytest.raises(TooManyRejects, match=r"101 of 101 rows \(100\.0%\) cannot be embedded"):
        publish(table, base, draft_of([*base.read_receipts(), more], base, max_reject_share=0.1))
    publish(table, base, draft_of([*base.read_receipts(), few], base, max_reject_share=0.1))


def test_condemned_split_refuses_to_publish(local: Store) -> None:
    table = make_table(local, {"a": ["x"]})
    base = condemn(table, table.current(), [split_name("b")])
    assert base.read_condemned() == {split_name("b")}
    receipt = commit_rows(local, table.card, "b", ["y"], start=1)
    with pytest.raises(TableError, match=r"is condemned by a sweep, an expiry or a repair\. It must not be published"):
        publish(table, base, draft_of([*base.read_receipts(), receipt], base))


# --- rejects and duplicates


def test_rejects_of_a_snapshot(store: Store) -> None:
    table = create_or_open(store, card_of())
    receipts = [commit_rows(store, table.card, f"s{n}", [f"good{n}"], [bad(f"bad{n}", n)], start=n) for n in range(3)]
    rejects = publish(table, None, draft_of(receipts)).rejects()
    assert rejects.schema.equals(names.REJECTS_SCHEMA)
    assert rejects.column("id").to_pylist() == ["bad0", "bad1", "bad2"]


def test_duplicates_are_rejected_and_not_read(store: Store) -> None:
    table = make_table(store, {"a": ["x", "y", "x"], "b": ["z", "y", "w"]})
    snapshot = table.current()
    counts = snapshot.manifest.counts
    assert (counts.read, counts.embedded, counts.rejected, counts.vectors) == (6, 4, 2, 4)
    assert table.to_arrow().equals(pa.concat_tables([rows_of(["x", "y"]), rows_of(["z", "w"])]))
    assert {split: at.tolist() for split, at in snapshot.read_deletes().items()} == {
        split_name("a"): [2],
        split_name("b"): [1],
    }
    rejects = snapshot.rejects().to_pylist()
    assert [(r["id"], r["reason"]) for r in rejects] == [("x", "duplicate_id"), ("y", "duplicate_id")]
    assert rejects[1]["message"] == (f"an earlier row has this id; this one is row 1 of data/{split_name('b')}.parquet")
    without_a = [r for r in snapshot.read_receipts() if r.split_id != split_name("a")]
    publish(table, snapshot, draft_of(without_a, snapshot))
    assert table.to_arrow(["id"]).column("id").to_pylist() == ["z", "y", "w"], "y lives again: the other y is gone"


def test_duplicates_may_be_an_error(local: Store) -> None:
    table = create_or_open(local, card_of())
    draft = draft_of([commit_rows(local, table.card, "s", ["x", "x", "y", "y"])], duplicate_ids="error")
    with pytest.raises(
        TableError, match=r"Duplicate ids in 2 rows, e.g. 'x', 'y', and .* set table.duplicate_ids to 'rej"
    ):
        publish(table, None, draft)
    assert table.snapshot_numbers() == []


# --- damage


def test_flipped_byte_in_a_data_file_is_seen(store: Store) -> None:
    """In every page; without checksums Parquet would hand out the wrong vector."""
    ids = [f"id{n}" for n in range(200)]
    table = make_table(store, {"a": ids})
    key = names.data_key(split_name("a"))
    data = store.read(key)
    group = pq.read_metadata(in_memory(data)).row_group(0)
    for number in range(group.num_columns):
        column = group.column(number)
        damaged = bytearray(data)
        damaged[column.data_page_offset + column.total_compressed_size - 2] ^= 1
        replace(store, key, bytes(damaged))
        with pytest.raises(TableError, match=rf"{store.root}/{key} is damaged: "):
            table.to_arrow()
    replace(store, key, data)
    assert table.num_rows == 200


def test_damage_is_seen_before_publishing(local: Store) -> None:
    table = create_or_open(local, card_of())
    receipt = commit_rows(local, table.card, "s", ["a", "b"])
    key = names.data_key(receipt.split_id)
    data = local.read(key)
    replace(local, key, data[: len(data) // 2] + bytes(len(data) - len(data) // 2))
    with pytest.raises(TableError, match=rf"{key} is damaged"):
        publish(table, None, draft_of([receipt]))


def test_data_file_that_is_another_is_seen(local: Store) -> None:
    table = make_table(local, {"a": ["x", "y"], "b": ["z"]})
    a, b = names.data_key(split_name("a")), names.data_key(split_name("b"))
    replace(local, a, local.read(b))
    with pytest.raises(CountsDoNotClose, match=rf"{a} has 1 row, its receipt says 2"):
        table.to_arrow()
    with pytest.raises(TableError, match=rf"{a} holds the receipt of another split, {split_name('b')}"):
        read_receipt(local, split_name("a"))


def test_missing_data_file_of_a_snapshot_is_named(store: Store) -> None:
    table = make_table(store, {"a": ["x"]})
    store.delete([names.data_key(split_name("a"))])
    with pytest.raises(TableDamaged, match=split_name("a")):
        table.to_arrow()


@pytest.mark.parametrize(
    "data", [b"", b"no Parquet file", encode_parquet(rows_of(["a"]))], ids=["empty", "text", "bare"]
)
def test_data_file_without_a_receipt_is_named(data: bytes) -> None:
    store = MemoryStore()
    store.create(names.data_key("a" * 32), data)
    with pytest.raises(TableError, match=rf"data/{'a' * 32}\.parquet has no readable receipt in its footer"):
        read_receipt(store, "a" * 32)


def test_damaged_side_file_is_seen(store: Store) -> None:
    table = make_table(store, {"a": ["x", "x"]})
    manifest = table.current().manifest
    for side in (manifest.files, manifest.shards, manifest.dead_rows):
        assert side is not None
        data = store.read(side.name)
        replace(store, side.name, data[:-9] + b"!" + data[-8:])
        snapshot = table.current()
        with pytest.raises(TableError, match=rf"{side.name} is not the file that snapshot 1 was published with"):
            _ = (snapshot.read_receipts(), snapshot.read_shards(), snapshot.read_deletes())
        replace(store, side.name, data)


def test_damaged_rejects_are_named(local: Store) -> None:
    table = make_table(local, {"a": ["x", "x"]})
    key = table.current().manifest.duplicates
    assert key is not None
    replace(local, key, b"nonsense")
    with pytest.raises(TableError, match=rf"{key} is damaged"):
        table.current().rejects()


@pytest.mark.parametrize("key", [names.TABLE_JSON, names.manifest_key(1)])
def test_damaged_or_newer_records_are_refused(key: str) -> None:
    store = MemoryStore()
    make_table(store, {"a": ["x"]})
    record = json.loads(store.read(key))
    for change, text in [
        ({"format_version": 6}, "has table format 6; this sfr-batch reads up to 5: upgrade"),
        ({"format_version": "new"}, "is damaged"),
        ({"surprise": 1}, "is not a valid record: .*surprise"),
    ]:
        replace(store, key, json.dumps({**record, **change}).encode())
        with pytest.raises(TableError, match=f"(?s){key} {text}"):
            Table.open(store).current()
    for data in (b"", b"{", b"[]", b"null", b"\xff"):
        replace(store, key, data)
        with pytest.raises(TableError, match=f"{key} is damaged"):
            Table.open(store).current()


# --- sweeping


def test_sweep_removes_what_nobody_needs(store: Store) -> None:
    if isinstance(store, MemoryStore):
        store.now = time.time()
    table = create_or_open(store, card_of())
    splits = [("a", ["x"], []), ("dup", ["x"], []), ("picky", ["y"], [bad("z")])]
    receipts = [commit_rows(store, table.card, *split, start=n) for n, split in enumerate(splits)]
    base = publish(table, None, draft_of(receipts))
    commit_rows(store, table.card, "picky", [], [bad("y"), bad("z")], run_id="loser")
    orphan = commit_rows(store, table.card, "orphan", ["o"], [bad("p")])
    side = f"{names.SNAPSHOTS}/00000001-someone.files.parquet"
    ahead = f"{names.SNAPSHOTS}/00000009-someone.files.parquet"
    for key in (side, ahead, "data/README.txt"):
        store.create(key, b"x")
    before = keys(store)

    assert sweep(table).keys == [], "everything is young"
    assert table.snapshot_numbers() == [1]

    orphans = sweep(table, older_than_s=60, now=LATER)
    assert orphans.condemn == {orphan.split_id}
    assert before - keys(store) == set(orphans.keys)
    assert names.data_key(orphan.split_id) in orphans.keys
    assert side in orphans.keys
    assert len(orphans.keys) == 4, "the orphan with its rejects, the loser's rejects, the side file"
    assert {ahead, "data/README.txt"} <= keys(store)

    swept = table.current()
    assert (swept.number, swept.manifest.operation, swept.manifest.parent) == (2, "sweep", 1)
    assert swept.read_condemned() == {orphan.split_id}
    assert swept.manifest.counts.embedded == 0
    assert swept.manifest.counts.reused == base.manifest.counts.embedded
    assert swept.to_arrow().equals(base.to_arrow())
    assert swept.rejects().equals(base.rejects())
    assert sweep(table, older_than_s=60, now=LATER).keys == [], "nothing is left to do"
    assert table.snapshot_numbers() == [1, 2]


def test_sweep_removes_all_that_an_interrupted_run_has_left() -> None:
    """Index and side files for the next snapshot, even if nothing is condemned, and its log. Nothing of a live run."""
    store = MemoryStore()
    table = make_table(store, {"a": ["x"]})
    base = table.current()
    left = [names.index_key(2, "dead", 0), names.side_key(2, "dead", names.FILES), names.duplicates_key(2, "dead")]
    left += [names.run_key("dead", name) for name in (names.RUN_CONFIG, names.RUN_PLAN, names.run_receipts(0))]
    spared = [names.run_key(base.manifest.run_id, names.RUN_PLAN), names.run_key("told", names.RUN_REPORT)]
    spared += [names.run_key("live", names.RUN_PLAN), names.index_key(3, "dead", 0)]
    for key in (*left, *spared):
        store.create(key, b"x")
    store.now = 1000
    for key in (names.run_key("late", names.RUN_PLAN), names.index_key(2, "late", 0)):
        store.create(key, b"x")
    died = lease.LeaseRecord(holder=lease.Holder.of_this_process("dead"), lifetime_s=60)
    store.create(names.lease_key(1), died.to_json())
    assert set(left) <= set(find_orphans(table, base, 500).keys), "the last writer is dead"
    with lease.hold(store, lease.Holder.of_this_process("live"), 60, say=print):
        found = find_orphans(table, base, 500)
        assert (set(found.keys), found.condemn, found.ahead) == (set(left), set(), True)
        assert set(sweep(table, older_than_s=500, now=1000).keys) == set(left)
    assert table.current().manifest.operation == "sweep", "a writer that still wants this number has lost it"
    assert {*spared, names.run_key("late", names.RUN_PLAN), names.index_key(2, "late", 0)} <= keys(store)


def test_sweep_spares_a_split_while_any_of_its_files_is_young() -> None:
    store = MemoryStore()
    table = make_table(store, {"a": ["x"]})
    commit_rows(store, table.card, "orphan", ["o"], [bad("p")])
    store.now = 1000
    store.create(names.rejects_key(split_name("orphan"), "ab"), b"another try has begun")
    assert find_orphans(table, table.current(), 500).keys == []
    assert len(find_orphans(table, table.current(), 1000).keys) == 3


def test_sweep_keeps_what_older_snapshots_need() -> None:
    store = MemoryStore()
    table = make_table(store, {"a": ["x"], "b": ["x", "y"]})
    base = table.current()
    publish(table, base, draft_of([r for r in base.read_receipts() if r.split_id == split_name("a")], base))
    assert sweep(table, older_than_s=0, now=LATER).keys == []
    assert table.snapshot(1).to_arrow(["id"]).column("id").to_pylist() == ["x", "y"]
    assert table.snapshot(1).rejects().num_rows == 1


def test_sweep_of_an_unpublished_table_does_nothing(store: Store) -> None:
    table = create_or_open(store, card_of())
    commit_rows(store, table.card, "s", ["a"])
    assert sweep(table, older_than_s=0, now=LATER).keys == []
    assert len(table.committed()) == 1


def test_sweep_removes_old_temporary_files(tmp_path: Path) -> None:
    table = make_table(open_store(str(tmp_path)), {"a": ["x"]})
    left = tmp_path / "_sfr" / "tmp" / "left"
    left.write_bytes(b"a crash left this")
    assert sweep(table, older_than_s=60, now=time.time() + 3600).keys == []
    week = 7 * 24 * 3600
    assert sweep(table, older_than_s=week, now=time.time() + week - 60).keys == []
    assert sweep(table, older_than_s=week, now=time.time() + week + 60).keys == ["_sfr/tmp/left"]
    assert not left.exists()
