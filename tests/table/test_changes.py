"""What changed between two snapshots: applied to the first it gives the second, it is no more than that, and
files with the same rows in both are not read."""

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.dataset as ds
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from sfr_batch.errors import TableError, TableNotFound
from sfr_batch.format import names
from sfr_batch.format.records import TableCard
from sfr_batch.table import row_changes
from sfr_batch.table.changes import Changes, as_json, changes
from sfr_batch.table.commit.writing import create_or_open
from sfr_batch.table.parquet_folder import ParquetFolder
from sfr_batch.table.table import Snapshot, Table
from tests.memory_store import MemoryStore
from tests.states import Row, chunked_card, commit_file, package_card, publish_state
from tests.tables import card_of, split_name

Key = tuple[Any, ...]
Copy = dict[Key, dict[str, Any]]
"""A copy of a snapshot as a vector database has it."""
State = tuple[dict[str, list[Row]], dict[str, list[int]]]
"""The rows of data files, and which of them are dead, by label."""


def key_of(row: Mapping[str, Any]) -> Key:
    return (row["id"], row.get("chunk"))


def copy_of(snapshot: Snapshot | None) -> Copy:
    rows = snapshot.to_arrow().to_pylist() if snapshot else []
    found = {key_of(row): row for row in rows}
    assert len(found) == len(rows)
    return found


def apply(found: Changes, copy: Copy) -> Copy:
    """As a consumer would, who knows nothing of tables; the order of the two is free, so upserts come first here."""
    copy = dict(copy)
    upserts = [row for batch in found.upserts() for row in batch.to_pylist()]
    deletes = [row for batch in found.deletes() for row in batch.to_pylist()]
    copy |= {key_of(row): row for row in upserts}
    for row in deletes:
        del copy[key_of(row)]
    return copy


def table_with(
    *states: tuple[dict[str, Sequence[Row]], dict[str, Sequence[int]]], card: TableCard | None = None
) -> Table:
    """A snapshot a state: files by label, of which those of an earlier state are the same, and dead rows by label."""
    table = create_or_open(MemoryStore(), card or package_card())
    receipts: dict[str, Any] = {}
    for files, dead in states:
        for label, rows in files.items():
            if label not in receipts:
                receipts[label] = commit_file(table, label, rows)
        live = [receipts[label] for label in files]
        publish_state(table, live, {split_name(label): at for label, at in dead.items() if at})
    return table


def upserted(found: Changes) -> list[Any]:
    return sorted(key_of(row) for batch in found.upserts() for row in batch.to_pylist())


def deleted(found: Changes) -> list[Any]:
    return sorted(key_of(row) for batch in found.deletes() for row in batch.to_pylist())


OLD = [Row("same", "1"), Row("text", "2"), Row("gone", "3"), Row("moved", "4"), Row("other vector", "5")]
CHANGED = [Row("text", "2!"), Row("new", "6"), Row("moved", "4"), Row("other vector", "5", seed=1)]
EXPECTED = ["new", "other vector", "text"]


def test_each_kind_of_change() -> None:
    table = table_with(({"a": OLD}, {}), ({"a": OLD, "b": CHANGED}, {"a": [1, 2, 3, 4]}))
    found = changes(table, 1, 2)
    assert [key[0] for key in upserted(found)] == EXPECTED
    assert deleted(found) == [("gone", None)]
    assert (found.new, found.changed, found.deleted, found.unchanged, found.files_read) == (1, 2, 1, 2, 2)
    assert str(found) == "memory://table, snapshot 1 to 2: 3 upserts (1 new, 2 changed), 1 delete, 2 unchanged"
    first, second = copy_of(table.snapshot(1)), copy_of(table.snapshot(2))
    assert apply(found, first) == second
    assert apply(changes(table, 2, 1), second) == first, "back again"
    assert apply(changes(table, 0, 2), {}) == second
    assert upserted(found) == upserted(changes(table, 1, 2)), "may be read again"


def test_a_carried_column_counts() -> None:
    """The row hash covers it, the content hash does not."""
    before, after = Row("a", "text", package="numpy"), Row("a", "text", package="scipy")
    table = table_with(({"a": [before]}, {}), ({"b": [after]}, {}))
    assert changes(table, 1, 2).changed == 1
    plain = table_with(({"a": [before]}, {}), ({"b": [after]}, {}), card=card_of())
    assert names.ROW_HASH not in plain.schema.names
    assert changes(plain, 1, 2).changed == 0


def test_a_copied_row_is_no_change() -> None:
    """As a compaction moves them."""
    rows = [Row(f"r{n}", str(n)) for n in range(20)]
    table = table_with(({"a": rows[:10], "b": rows[10:]}, {"a": [3]}), ({"c": [r for r in rows if r.id != "r3"]}, {}))
    found = changes(table, 1, 2)
    assert (found.new, found.changed, found.deleted, found.unchanged) == (0, 0, 0, 19)
    assert (upserted(found), deleted(found)) == ([], [])


def test_chunks_that_are_no_more_are_deleted() -> None:
    def document(name: str, text: str, chunks: int) -> list[Row]:
        return [Row(name, text, chunk=n) for n in range(chunks)]

    before = [*document("shorter", "long", 4), *document("same", "x", 2), *document("gone", "y", 2)]
    after = [*document("shorter", "short", 2), *document("longer", "z", 3)]
    table = table_with(({"a": before}, {}), ({"a": before, "b": after}, {"a": [0, 1, 2, 3, 6, 7]}), card=chunked_card())
    found = changes(table, 1, 2)
    assert deleted(found) == [("gone", 0), ("gone", 1), ("shorter", 2), ("shorter", 3)]
    assert upserted(found) == [("longer", 0), ("longer", 1), ("longer", 2), ("shorter", 0), ("shorter", 1)]
    assert apply(found, copy_of(table.snapshot(1))) == copy_of(table.snapshot(2))
    assert [batch.schema.names for batch in found.deletes()] == [["id", "chunk"]]


def test_whole_numbers_as_ids() -> None:
    card = card_of(names.table_schema(pa.int64(), 3, "float16", {}))
    table = table_with(({"a": [Row(1, "a"), Row(2, "b")]}, {}), ({"b": [Row(2, "b"), Row(3, "c")]}, {}), card=card)
    found = changes(table, 1, 2)
    assert (upserted(found), deleted(found), found.unchanged) == ([(3, None)], [(1, None)], 1)


# --- the property

IDS = [f"id{n}" for n in range(6)]
ROWS = st.builds(
    Row, st.sampled_from(IDS), st.sampled_from(["", "x"]), seed=st.integers(0, 1), package=st.sampled_from([None, "p"])
)
CHUNKS = st.builds(
    Row, st.sampled_from(IDS[:3]), st.sampled_from(["", "x"]), seed=st.integers(0, 1), chunk=st.integers(0, 2)
)


@st.composite
def states(draw: st.DrawFn, rows: st.SearchStrategy[Row]) -> list[State]:
    """States over the same files: some of the files each, rows of any ids, and each key lives at most once."""
    return draw_states(draw, draw(st.lists(st.lists(rows, max_size=5), min_size=1, max_size=5)))


def draw_states(draw: st.DrawFn, files: Sequence[list[Row]]) -> list[State]:
    found = []
    for _ in range(3):
        chosen = draw(st.lists(st.sampled_from(range(len(files))), unique=True, max_size=len(files)))
        seen: set[Key] = set()
        dead: dict[str, list[int]] = {}
        for number in chosen:
            for position, row in enumerate(files[number]):
                key = (row.id, row.chunk)
                if key in seen or draw(st.integers(0, 3)) == 0:
                    dead.setdefault(f"f{number}", []).append(position)
                else:
                    seen.add(key)
        found.append(({f"f{number}": files[number] for number in chosen}, dead))
    return found


def check(table: Table, partition_rows: int) -> None:
    snapshots: list[Snapshot | None] = [None, *table.snapshots()]
    hash_column = names.ROW_HASH if names.ROW_HASH in table.schema.names else names.CONTENT_HASH
    for first, before in enumerate(snapshots):
        for second, after in enumerate(snapshots[1:], 1):
            found = changes(table, first, second, partition_rows=partition_rows)
            old, new = copy_of(before), copy_of(after)
            assert apply(found, old) == new
            same = {
                key
                for key in old.keys() & new.keys()
                if all(old[key][name] == new[key][name] for name in (hash_column, names.EMBEDDING))
            }
            assert upserted(found) == sorted(new.keys() - same), "no more than what changed"
            assert deleted(found) == sorted(old.keys() - new.keys())
            counts = (len(new.keys() - old.keys()), len((new.keys() & old.keys()) - same))
            assert (found.new, found.changed) == counts
            assert (found.deleted, found.unchanged) == (len(old.keys() - new.keys()), len(same))


@given(states(ROWS), st.sampled_from([1, 3, 1000]))
@settings(max_examples=60)
def test_applied_to_the_first_they_give_the_second(states: Any, partition_rows: int) -> None:
    check(table_with(*states), partition_rows)


@given(states(CHUNKS), st.sampled_from([1, 1000]))
@settings(max_examples=30)
def test_applied_to_the_first_they_give_the_second_in_chunks(states: Any, partition_rows: int) -> None:
    check(table_with(*states, card=chunked_card()), partition_rows)


# --- what is not read


def test_files_that_are_alike_are_not_read() -> None:
    rows = {label: [Row(f"{label}{n}", label) for n in range(4)] for label in "abcd"}
    added = {"e": [Row("e0")]}
    table = table_with((rows, {"b": [1], "d": [0]}), ({**rows, **added}, {"b": [1], "c": [0], "d": [0, 2]}))
    opened: list[str] = []
    real = table.store.open
    table.store.open = lambda key, size=0: (opened.append(key), real(key, size))[1]  # type: ignore
    found = changes(table, 1, 2)
    assert set(opened) == {names.data_key(split_name(label)) for label in "cde"}
    assert found.files_read == 3
    assert deleted(found) == [("c0", None), ("d2", None)]
    opened.clear()
    assert changes(table, 2, 2).unchanged == 13
    assert opened == []
    changes(table, 0, 2)
    assert opened == [], "everything is an upsert, which is known without looking"


def test_vectors_of_rows_with_another_hash_are_not_compared(monkeypatch: pytest.MonkeyPatch) -> None:
    compared: list[int] = []
    real = row_changes._hashes

    def counting(column: pa.ChunkedArray) -> Any:
        if pa.types.is_fixed_size_list(column.type):
            compared.append(len(column))
        return real(column)

    monkeypatch.setattr(row_changes, "_hashes", counting)
    table = table_with(({"a": OLD}, {}), ({"a": OLD, "b": CHANGED}, {"a": [1, 2, 3, 4]}))
    changes(table, 1, 2)
    assert sum(compared) == 4, "two rows, before and after"


# --- errors, and the forms it comes in


def test_wrong_requests_are_explained() -> None:
    table = table_with(({"a": [Row("a")]}, {}), ({"b": [Row("b"), Row("b", "x")]}, {}))
    with pytest.raises(TableNotFound, match=r"has no snapshot 9\. Available: 1, 2"):
        changes(table, 1, 9)
    with pytest.raises(TableNotFound, match="has no snapshot 7"):
        changes(table, 7, 1)
    with pytest.raises(
        TableError, match=r"Snapshot 2 of .* has two live rows with the same id.*`sfr-batch audit .* --snapshot 2`"
    ):
        changes(table, 1, 2)
    with pytest.raises(TableError, match=r"Snapshot 2 of .* has two live rows with the same id"):
        changes(table, 2, 1)


def test_written_to_a_folder(tmp_path: Path) -> None:
    table = table_with(({"a": OLD}, {}), ({"a": OLD, "b": CHANGED}, {"a": [1, 2, 3, 4]}))
    found = changes(table, 1, 2)
    found.write(ParquetFolder(str(tmp_path / "out")))
    rows = ds.dataset(str(tmp_path / "out" / "upserts")).to_table()
    assert sorted(rows.column("id").to_pylist()) == EXPECTED
    assert rows.column_names == table.schema.names
    assert ds.dataset(str(tmp_path / "out" / "deletes")).to_table().to_pydict() == {"id": ["gone"]}
    about = json.loads((tmp_path / "out" / "_SUCCESS").read_text())
    assert (about["from_snapshot"], about["to_snapshot"], about["new"], about["changed"]) == (1, 2, 1, 2)
    assert about["rows"] == 4


def test_as_json() -> None:
    table = table_with(({"a": OLD}, {}), ({"a": OLD, "b": CHANGED}, {"a": [1, 2, 3, 4]}))
    (batch,) = changes(table, 1, 2).upserts(["id", "embedding", "content_hash"])
    row = json.loads(json.dumps(next(as_json(batch, "upsert"))))
    assert list(row) == ["op", "id", "embedding", "content_hash"]
    assert row["op"] == "upsert"
    assert len(row["embedding"]) == 3
    assert bytes.fromhex(row["content_hash"]) == batch.column("content_hash")[0].as_py()
