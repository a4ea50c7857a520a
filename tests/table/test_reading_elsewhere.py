"""Changes and rows in memory by tasks of an executor: the same as in one process, in the same order."""

from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from sfr_batch.errors import ConfigError, TableError
from sfr_batch.storage import executor
from sfr_batch.storage.executor import InProcess
from sfr_batch.storage.stores import open_store
from sfr_batch.table import row_changes, scan
from sfr_batch.table.changes import Changes, changes
from sfr_batch.table.table import Table
from tests.memory_store import MemoryStore
from tests.states import Row, chunked_card, state_of
from tests.table.commit.test_publish_elsewhere import Shuffled
from tests.table.kinds import kinds
from tests.table.test_changes import CHUNKS, ROWS, states, table_with
from tests.table.test_export import DEAD, FILES
from tests.tables import table_of


def outcome(found: Changes) -> Any:
    rows = [[batch.to_pydict() for batch in its()] for its in (found.upserts, found.deletes)]
    return str(found), found.files_read, rows


@given(st.one_of(states(ROWS), states(CHUNKS)), st.integers(1, 4), st.integers(0, 2**16))
@settings(max_examples=30)
def test_tasks_find_the_same_changes(drawn: Any, rows: int, seed: int) -> None:
    chunked = any(row.chunk for files, _ in drawn for its in files.values() for row in its)
    table = table_with(*drawn, card=chunked_card() if chunked else None)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(executor, "ROWS_A_PARTITION", rows)
        patch.setattr(executor, "ROWS_A_PART", 1)
        patch.setattr(row_changes, "ROWS_A_TASK", rows)
        for first, second in ((1, 2), (2, 3), (3, 1), (0, 2)):
            elsewhere = Shuffled(table.store, seed)
            there = changes(table, first, second, executor=elsewhere)
            assert outcome(there) == outcome(changes(table, first, second))
            assert not elsewhere._waiting


def test_work_is_cut_into_tasks(monkeypatch: pytest.MonkeyPatch) -> None:
    """Two tasks of four files read one side, one the other, for four partitions; and the same again for the vectors."""
    monkeypatch.setattr(executor, "ROWS_A_PARTITION", 4)
    monkeypatch.setattr(executor, "ROWS_A_PART", 1)
    monkeypatch.setattr(row_changes, "ROWS_A_TASK", 2)
    before = {f"f{n}": [Row(f"r{n}", "x")] for n in range(8)}
    table = table_with((before, {}), ({"whole": [row for its in before.values() for row in its]}, {}))
    elsewhere = Shuffled(table.store, seed=1)
    assert changes(table, 1, 2, executor=elsewhere).unchanged == 8
    assert elsewhere.ran == {"_deal": 2 * (2 + 1), "_find_in": 2 * 4}


def test_two_rows_with_one_id_are_told_as_here() -> None:
    table = table_with(({"a": [Row("a")]}, {}), ({"b": [Row("b"), Row("b", "x")]}, {}))
    told = set()
    for run in (None, Shuffled(table.store, 1)):
        with pytest.raises(TableError, match=r"Snapshot 2 of .* has two live rows with the same id") as error:
            changes(table, 1, 2, executor=run)
        told.add(str(error.value))
    assert len(told) == 1


# --- rows in memory


@pytest.fixture
def table(monkeypatch: pytest.MonkeyPatch) -> Table:
    """A task reads one of its three data files."""
    monkeypatch.setattr(scan, "_PART_BYTES", 1)
    return state_of(MemoryStore(), FILES, DEAD)


@pytest.mark.parametrize(
    "options",
    [
        {},
        {"columns": ["package", "id"]},
        {"where": "id < 'r045'"},
        {"where": "id = 'nothing'"},
        {"ids": ["r070", "r001", "r002"]},
    ],
)
def test_tasks_read_the_same_rows(table: Table, options: dict[str, Any]) -> None:
    here, elsewhere = table.to_arrow(**options), Shuffled(table.store, seed=1)
    there = table.to_arrow(**options, executor=elsewhere)
    assert there.schema.equals(here.schema, check_metadata=True)
    assert there.equals(here)
    assert there.to_batches() == here.to_batches(), "in the same pieces"
    assert elsewhere.ran == {"_read_part": 3}
    assert table.to_pandas(**options, executor=elsewhere).equals(table.to_pandas(**options))


def test_tasks_read_vectors(table: Table) -> None:
    for options in ({}, {"dtype": "stored", "where": "n_tokens >= 0"}):
        here = table.to_numpy(**options)  # type: ignore[arg-type]
        there = table.to_numpy(**options, executor=Shuffled(table.store, seed=2))  # type: ignore[arg-type]
        assert list(there.ids) == list(here.ids)
        assert np.array_equal(there.matrix, here.matrix)


def test_every_type_is_the_same() -> None:
    """Also those of which pickle forgets something."""
    table = table_of(MemoryStore(), kinds())
    here, there = table.to_arrow(), table.to_arrow(executor=Shuffled(table.store, seed=3))
    assert there.schema.equals(here.schema, check_metadata=True)
    assert there.equals(here)


def test_results_are_not_in_memory_that_is_lent(table: Table) -> None:
    lent: list[pa.Buffer] = []

    class Lending(InProcess):
        def submit(self, function: Any, *args: Any, returns: int = 1, gpus: float = 0) -> list[Any]:
            found = super().submit(function, *args, returns=returns)
            lent.extend(found)
            return found

    rows = table.to_arrow(executor=Lending())
    ranges = [(buffer.address, buffer.address + buffer.size) for buffer in lent]
    used = [each for column in rows.columns for chunk in column.chunks for each in chunk.buffers() if each]
    assert used
    assert not any(start <= each.address < end for each in used for start, end in ranges)


def test_disks_of_other_nodes_are_not_read(tmp_path: Any) -> None:
    class Elsewhere(InProcess):
        sees_disk = False

    table = state_of(open_store(str(tmp_path / "table")), FILES, DEAD)
    for read in (table.to_arrow, table.to_numpy, lambda executor: changes(table, 0, 1, executor=executor)):
        with pytest.raises(ConfigError, match=r"/table is a local path, but the cluster has several nodes"):
            read(executor=Elsewhere())
