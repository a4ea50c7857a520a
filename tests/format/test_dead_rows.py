"""Dead rows by file: written in lists, found by those who read one file, in few bytes; and those of earlier formats."""

import tracemalloc
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from sfr_batch.errors import TableDamaged, TableError
from sfr_batch.format import dead_rows, names, records
from sfr_batch.format.dead_rows import DeadLists, DeadPart, DeadRows, Positions, read_list, write_dead_rows
from sfr_batch.format.parquet import encode_parquet
from sfr_batch.storage.store import Store
from sfr_batch.storage.stores import open_store
from sfr_batch.table.commit.publish import condemn, publish
from sfr_batch.table.commit.sweep import sweep
from sfr_batch.table.table import Table
from tests.memory_store import MemoryStore
from tests.older_tables import with_deletes_of_format_4
from tests.states import Row, state_of
from tests.tables import draft_of, make_table, split_name


def key_of(number: int) -> str:
    return names.dead_key(1, "run", number)


def reads_of(store: Store, monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Keys of what is read from now on."""
    read, keys = store.read, []

    def counting(key: str) -> bytes:
        keys.append(key)
        return read(key)

    monkeypatch.setattr(store, "read", counting)
    return keys


@settings(max_examples=25)
@given(
    files=st.lists(st.sets(st.integers(0, 40), min_size=1), max_size=12),
    rows_a_list=st.integers(1, 30),
    data=st.data(),
)
def test_positions_are_read_as_they_were_written(files: list[set[int]], rows_a_list: int, data: st.DataObject) -> None:
    store = MemoryStore()
    given = {split_name(str(n)): np.array(sorted(rows), np.int64) for n, rows in enumerate(files)}
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(dead_rows, "_ROWS_A_LIST", rows_a_list)
        parts = {part.split_id: part for part in write_dead_rows(store, iter(given.items()), key_of)}
    found = DeadRows(parts, store, 1)
    assert found.rows == sum(map(len, files))
    for split_id in data.draw(st.permutations(list(given))):
        assert found[split_id].tolist() == given[split_id].tolist()
    lists = list(found.by_list())
    assert [name for _, parts, _ in lists for name in parts] == list(given)
    for key, parts_of_list, listed in lists:
        assert {part.key for part in parts_of_list.values()} == {key}
        assert {name: at.tolist() for name, at in listed.items()} == {name: given[name].tolist() for name in listed}
        assert sum(map(len, listed.values())) < rows_a_list + 41, "one more file than is enough, at most"


def test_a_reader_of_one_file_reads_one_list_and_of_all_files_each_once(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(dead_rows, "_ROWS_A_LIST", 4)
    files = {f"f{n}": [Row(f"{n}-{row}") for row in range(4)] for n in range(20)}
    table = state_of(MemoryStore(), files, {name: [0, 2] for name in files})
    scan = table.scan(["id"])
    keys = reads_of(table.store, monkeypatch)
    parts = scan.parts(20)
    assert [row.as_py() for row in parts[7].to_arrow().column(0)] == ["7-1", "7-3"]
    lists = [names.dead_key(1, "run-1", number) for number in range(10)]
    assert [key for key in keys if key in lists] == lists[3:4]
    keys.clear()
    assert scan.to_arrow().num_rows == 40
    assert [key for key in keys if key in lists] == lists


@pytest.mark.parametrize("order", ["by file", "anyhow"])
def test_dead_rows_of_earlier_formats_are_read(order: str) -> None:
    """Nobody has promised that the rows of a file stand together."""
    pairs = [("b" * 32, 1), ("b" * 32, 4), ("a" * 32, 0), ("a" * 32, 2), ("c" * 32, 9)]
    pairs = pairs if order == "by file" else [pairs[n] for n in (2, 0, 4, 3, 1)]
    data = encode_parquet(pa.table([[s for s, _ in pairs], [p for _, p in pairs]], schema=names.DELETES_SCHEMA))
    found = {split_id: at.tolist() for split_id, at in read_list(data).items()}
    assert found == {"b" * 32: [1, 4], "a" * 32: [0, 2], "c" * 32: [9]}
    assert read_list(encode_parquet(names.DELETES_SCHEMA.empty_table())) == {}


def test_a_snapshot_of_an_earlier_format_is_read_swept_and_continued(tmp_path: Path) -> None:
    """A sweep publishes what it finds, in the form that it has; the next draft is published in today's form."""
    table = make_table(open_store(str(tmp_path)), {"a": ["x", "y", "x"], "b": ["z", "y", "w"]})
    live = table.to_arrow()
    with_deletes_of_format_4(table)
    before = Table.open(table.store).current()
    assert before.manifest.format_version == names.FORMAT_OF_LAYOUT
    assert (before.manifest.dead_rows, before.dead_keys()) == (None, set())
    assert before.to_arrow().equals(live)
    swept = condemn(table, before, ["0" * 32])
    assert (swept.manifest.format_version, swept.manifest.deletes) == (4, before.manifest.deletes)
    assert swept.to_arrow().equals(live)
    assert sweep(table, older_than_s=-10).keys == [], "every object is needed"
    after = publish(table, swept, draft_of(swept.read_receipts(), swept))
    assert (after.manifest.format_version, after.manifest.deletes) == (5, None)
    assert after.to_arrow().equals(live)
    assert {name: at.tolist() for name, at in after.read_deletes().items()} == {
        name: at.tolist() for name, at in before.read_deletes().items()
    }


def test_an_earlier_release_is_told_to_upgrade(monkeypatch: pytest.MonkeyPatch) -> None:
    table = make_table(MemoryStore(), {"a": ["x", "x"]})
    assert table.current().manifest.format_version == 5
    monkeypatch.setattr(records, "NEWEST_FORMAT", 4)
    with pytest.raises(TableError, match="has table format 5; this sfr-batch reads up to 4: upgrade"):
        table.current()


def test_a_table_without_dead_rows_stays_readable_for_earlier_releases() -> None:
    table = make_table(MemoryStore(), {"a": ["x", "y"]})
    assert table.current().manifest.format_version == 1
    assert b"dead_rows" not in table.store.read(names.manifest_key(1))


def test_a_list_that_is_lost_or_another_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    table = state_of(MemoryStore(), {"a": [Row("a0"), Row("a1")]}, {"a": [1]})
    key = names.dead_key(1, "run-1", 0)
    data = table.store.read(key)
    table.store.delete([key])
    with pytest.raises(TableDamaged, match=rf"Snapshot 1 of .* is damaged: .*{key} does not exist"):
        table.to_arrow()
    table.store.create(key, data + b" ")
    with pytest.raises(TableDamaged, match=rf"{key} is not the file that snapshot 1 was published with"):
        table.to_arrow()


_POOLS: list[pa.MemoryPool] = []
"""Pools that were measured with. Arrow ends the process if one is gone before what it has allocated."""


def peak(work: Callable[[], Any]) -> int:
    """Bytes that Python, NumPy and Arrow hold at most, more than before."""
    before = pa.default_memory_pool()
    _POOLS.append(pa.proxy_memory_pool(before))
    pa.set_memory_pool(_POOLS[-1])
    tracemalloc.start()
    try:
        work()
        return int(tracemalloc.get_traced_memory()[1] + (_POOLS[-1].max_memory() or 0))
    finally:
        tracemalloc.stop()
        pa.set_memory_pool(before)


def test_bytes_a_dead_row(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """At most 12, of any number of rows. Lists are shorter here: these are fewer rows than usual lists are made for."""
    monkeypatch.setattr(dead_rows, "_ROWS_A_LIST", 2**14)
    store, a_file, files = open_store(str(tmp_path)), 2**12, 256
    dead = [split_name(str(n)) for n in range(files)]
    rows, positions = a_file * files, np.arange(a_file)
    parts: list[DeadPart] = []
    bound = 12 * rows
    assert 0 < peak(lambda: parts.extend(write_dead_rows(store, ((f, positions.copy()) for f in dead), key_of))) < bound
    lists = DeadLists(store, 1)
    assert 0 < peak(lambda: sum(len(lists.positions(part)) for part in parts)) < bound
    texts = pa.array(dead).take(np.repeat(np.arange(files), a_file))
    earlier = encode_parquet(pa.table([texts, np.tile(positions, files)], schema=names.DELETES_SCHEMA))
    found: dict[str, Positions] = {}
    assert 8 * rows < peak(lambda: found.update(read_list(earlier))) < bound
    assert sum(map(len, found.values())) == rows
