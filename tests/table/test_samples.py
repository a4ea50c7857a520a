"""Samples of live rows, and ids with their matrix: `Readers.sample` and `Readers.to_numpy`."""

from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest

from sfr_batch.format import names
from sfr_batch.storage import memory
from sfr_batch.table.table import Table
from tests.memory_store import MemoryStore
from tests.states import Row, chunked_card, package_card, state_of
from tests.table.test_readers import DEAD, FILES, LIVE, Recording
from tests.tables import card_of, make_table

NUMPY = ["a0", "c1"]
"""The live rows whose package is numpy."""


@pytest.fixture
def made() -> Table:
    return state_of(MemoryStore(), FILES, DEAD)


def ids_of(rows: pa.Table) -> list[Any]:
    found: list[Any] = rows.column("id").to_pylist()
    return found


@pytest.mark.parametrize(
    ("options", "among"), [({}, LIVE), ({"where": "package = 'numpy'"}, NUMPY), ({"ids": NUMPY}, NUMPY)]
)
def test_each_live_row_is_as_likely_as_any_other(made: Table, options: dict[str, Any], among: list[str]) -> None:
    found: Counter[str] = Counter()
    for seed in range(60):
        sample = made.sample(1, ["id"], seed=seed, **options)
        found.update(ids_of(sample.rows))
        assert (len(sample), sample.of) == (1, len(among))
    assert set(found) == set(among)
    expected = 60 / len(among)
    assert max(abs(number - expected) for number in found.values()) < 4 * (expected * (1 - 1 / len(among))) ** 0.5


def test_a_sample_is_repeatable_and_has_the_rows_of_the_table(made: Table) -> None:
    sample = made.sample(3, seed=5)
    assert sample.to_arrow().equals(made.to_arrow(ids=ids_of(sample.rows))), "whole rows, in the order of the table"
    assert sample.rows.equals(made.current().sample(np.int64(3), seed=5).rows)
    assert len({tuple(ids_of(made.sample(3, seed=seed).rows)) for seed in range(9)}) > 1
    assert made.sample(3, ["package"], seed=5).rows.equals(sample.rows.select(["package"]))
    assert made.sample(100).rows.equals(made.to_arrow())
    assert made.sample(100, where="package = 'numpy'").rows.equals(made.to_arrow(where="package = 'numpy'"))
    nothing = made.sample(3, where="package = 'pandas'")
    assert (len(nothing), nothing.of, nothing.rows.schema) == (0, 0, made.schema)
    assert sample.to_pandas()["id"].tolist() == ids_of(sample.rows)
    ids, matrix = sample.to_numpy()
    assert np.array_equal(matrix, made.to_numpy(ids=ids).matrix)


def test_a_sample_reads_its_columns_of_its_files() -> None:
    store = Recording()
    files = {name: [Row(f"{name}{n:04}", str(n), package="p") for n in range(1000)] for name in "abc"}
    table = state_of(store, files, card=package_card(dim=32))
    (id_,) = ids_of(table.sample(1, ["id", "package"]).rows)
    assert {name: store.columns_read(name) for name in "abc"} == {
        name: {"0:id", "0:package"} if name == id_[0] else set() for name in "abc"
    }
    store.read_ranges.clear()
    (id_,) = ids_of(table.sample(1, ["id", "embedding"], where="package = 'p'").rows)
    assert {name: store.columns_read(name) for name in "abc"} == {
        name: {"0:package", "0:id", "0:embedding"} if name == id_[0] else {"0:package"} for name in "abc"
    }


@pytest.mark.parametrize("options", [{}, {"where": "package = 'numpy'"}, {"ids": ["c1", "b0"]}, {"where": "id = ''"}])
def test_the_matrix_is_aligned_with_its_ids(made: Table, options: dict[str, Any]) -> None:
    rows = made.to_arrow(**options)
    ids, matrix = made.to_numpy(**options)
    assert ids.tolist() == ids_of(rows)
    assert (matrix.dtype, matrix.shape) == (np.float32, (len(ids), 3))
    assert matrix.tolist() == rows.column("embedding").to_pylist()
    assert matrix.flags.c_contiguous
    assert matrix.flags.writeable


def test_half_precision_and_whole_numbers() -> None:
    table = make_table(
        MemoryStore(), {"a": [3, 1], "b": [2]}, card_of(names.table_schema(pa.int64(), 3, "float16", {}))
    )
    ids, stored = table.to_numpy(dtype="stored")
    assert (ids.dtype, ids.tolist(), stored.dtype) == (np.int64, [3, 1, 2], np.float16)
    assert np.array_equal(table.to_numpy().matrix, stored.astype(np.float32))
    assert table.to_numpy(dtype=np.float32).matrix.dtype == np.float32  # type: ignore[arg-type]


def test_an_id_stands_beside_each_of_its_chunks() -> None:
    table = state_of(MemoryStore(), {"a": [Row("x"), Row("x", chunk=1), Row("y")]}, card=chunked_card())
    ids, matrix = table.to_numpy()
    assert (ids.tolist(), len(matrix)) == (["x", "x", "y"], 3)
    assert table.to_arrow(["chunk"]).column(0).to_pylist() == [0, 1, 0]


def test_memory_of_a_container(tmp_path: Path) -> None:
    """Its limit counts where it is less than what the machine has; a cache of files is not in the way."""
    machine = memory.free_memory()
    assert machine > 0
    free = memory._free_in_container
    assert free(tmp_path) == []
    for name, content in (
        ("memory.max", "1000"),
        ("memory.current", "900"),
        ("memory.stat", "anon 1\ninactive_file 50\n"),
    ):
        (tmp_path / name).write_text(content)
    assert free(tmp_path) == [150]
    (tmp_path / "memory.max").write_text("max\n")
    assert free(tmp_path) == []
