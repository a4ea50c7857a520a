"""Searches in tasks of an executor: the same answer as in one process; and blocks that cannot matter are skipped."""

from typing import Any

import numpy as np
import pyarrow as pa
import pytest

from sfr_batch.errors import ConfigError
from sfr_batch.storage.executor import InProcess
from sfr_batch.storage.stores import open_store
from sfr_batch.table import search
from sfr_batch.table.nearest import nearest
from sfr_batch.table.products import OnCpu, Products
from sfr_batch.table.search import Search
from sfr_batch.table.table import Table
from tests import tables
from tests.memory_store import MemoryStore
from tests.states import Row, package_card, state_of
from tests.table.commit.test_publish_elsewhere import Shuffled
from tests.table.kinds import kinds

DIM = 5
RANDOM = np.random.default_rng(3)


def unit(rows: int, dim: int = DIM) -> Any:
    numbers = RANDOM.normal(size=(rows, dim)).astype(np.float32)
    return numbers / np.linalg.norm(numbers, axis=1, keepdims=True)


def table_of(*, doubled: bool = False) -> Table:
    """Four files of rows with few different vectors, so that rows of all files tie; doubled: also those of one id."""
    ids = 40 if doubled else 160
    rows = [
        Row(f"r{number % ids:03}", f"text {number % ids % 7}", package=str(number))
        for number in RANDOM.permutation(160).tolist()
    ]
    files = {name: rows[at : at + 40] for name, at in zip("abcd", range(0, 160, 40), strict=True)}
    return state_of(MemoryStore(), files, {"a": [0, 7], "c": list(range(40)), "d": [39]}, package_card(DIM))


@pytest.mark.parametrize("doubled", [False, True])
@pytest.mark.parametrize("k", [1, 9, 200])
def test_the_answer_is_the_same(doubled: bool, k: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """Bit by bit, in whatever order tasks run; ties by id, then in the order of the table."""
    monkeypatch.setattr(search, "ROWS_A_TASK", 1)
    table, queries = table_of(doubled=doubled), unit(4)
    for where, rows in ((None, 4 * min(k, 117)), ("n_tokens >= 0 and id < 'r010'", None), ("id = 'nobody'", 0)):
        asked = Search.of(table.current(), k, ["package"], where)
        here = asked.run(queries).to_arrow()
        assert rows is None or here.num_rows == rows
        for block in (7, Products.block_scores):
            monkeypatch.setattr(Products, "block_scores", block)
            elsewhere = Shuffled(table.store, seed=1)
            assert asked.run(queries, elsewhere).to_arrow().equals(here)
            assert elsewhere.ran == {"_nearest_of": 3}, "a file of dead rows alone is not read"

    live = table.to_arrow(["id", "embedding", "package"])
    matrix = np.stack(live.column("embedding").to_numpy(zero_copy_only=False))
    ids, packages = live.column("id").to_pylist(), live.column("package").to_pylist()
    for query, hits in zip(queries, Search.of(table.current(), k, ["package"]).run(queries), strict=True):
        scores = np.einsum("ij,ij->i", np.tile(query, (len(matrix), 1)), matrix).tolist()
        order = sorted(range(len(ids)), key=lambda row: (-scores[row], ids[row], row))[:k]
        assert [(hit.score, hit.id, hit.row) for hit in hits] == [
            (scores[row], ids[row], {"package": packages[row]}) for row in order
        ]


def test_every_type_is_the_same() -> None:
    """Also those of which pickle forgets something."""
    table, columns = tables.table_of(MemoryStore(), kinds()), [*kinds(), "embedding"]
    asked, queries = Search.of(table.current(), 2, columns), unit(3, 3)
    here, there = (asked.run(queries, run).to_arrow() for run in (None, Shuffled(table.store, seed=1)))
    assert there.num_rows == 6
    assert there.schema.equals(here.schema, check_metadata=True)
    assert there.equals(here)


def test_no_query_reads_nothing() -> None:
    table = table_of()
    elsewhere = Shuffled(table.store, seed=1)
    found = Search.of(table.current(), 3).run(np.empty((0, DIM), np.float32), elsewhere)
    assert (len(found), found.to_arrow().num_rows) == (0, 0)
    assert not elsewhere.ran


def test_disks_of_other_nodes_are_not_searched(tmp_path: Any) -> None:
    class Elsewhere(InProcess):
        sees_disk = False

    table = state_of(open_store(str(tmp_path / "table")), {"a": [Row("a")]}, card=package_card(DIM))
    with pytest.raises(ConfigError, match=r"/table is a local path, but the cluster has several nodes.*--shared-path"):
        Search.of(table.current(), 3).run(unit(1), Elsewhere())


def test_a_gpu_is_asked_for_where_there_is_one() -> None:
    class Counting(InProcess):
        def __init__(self, has_gpu: bool) -> None:
            self.has_gpu = has_gpu
            self.asked: list[float] = []

        def submit(self, function: Any, *args: Any, returns: int = 1, gpus: float = 0) -> list[Any]:
            self.asked.append(gpus)
            return super().submit(function, *args)

    made: list[Products] = []

    def products(queries: Any) -> Products:
        made.append(OnCpu(queries))
        return made[-1]

    asked, queries = Search.of(table_of().current(), 3), unit(2)
    for has_gpu in (False, True):
        executor = Counting(has_gpu)
        asked.run(queries, executor, products)
        assert (executor.asked, len(made)) == ([1 / 8 if has_gpu else 0], int(has_gpu))
        executor.asked.clear()
        asked.run(queries, executor)
        assert executor.asked == [0], "nobody wants to use it"
    asked.run(queries, products=products)
    assert len(made) == 2


# --- skipping


def batches(vectors: Any, rows: int) -> list[pa.RecordBatch]:
    column = pa.FixedSizeListArray.from_arrays(pa.array(vectors.reshape(-1)), vectors.shape[1])
    return pa.table({"id": np.arange(len(vectors)), "embedding": column}).to_batches(max_chunksize=rows)


def test_blocks_without_a_better_row_are_skipped() -> None:
    """The first block has the best rows of every query but one, whose best rows are in the last block."""
    queries = np.eye(6, dtype=np.float32)
    vectors = np.tile(np.float32([1, 1, 1, 1, 1, 0]) / np.sqrt(5), (1000, 1)).astype(np.float32)
    vectors[100:] *= np.float32(0.9)
    vectors[900:] = queries[5]
    products = OnCpu(queries)
    found = nearest(batches(vectors, 100), queries, 10, products=products)
    assert products.pairs == 6 * 10
    # The first block is all that five queries ever open. The sixth opens blocks of ties, at 0, and the last.
    assert products.opened == 5 + 10
    ids = found.rows.column("id").to_numpy().reshape(6, 10)
    assert (ids[:5] == np.arange(10)).all()
    assert (ids[5] == np.arange(900, 910)).all()


def test_most_blocks_are_skipped_in_random_order(monkeypatch: pytest.MonkeyPatch) -> None:
    """Of n blocks about k (1 + ln n) have one of the best k rows so far."""
    monkeypatch.setattr(Products, "block_scores", 64 * 50)
    queries, vectors = unit(50, 16), unit(64 * 200, 16)
    products = OnCpu(queries)
    found = nearest(batches(vectors, 64), queries, 3, products=products)
    assert products.pairs == 50 * 200
    assert products.opened < 0.2 * products.pairs
    scores = -np.sort(-(queries @ vectors.T), axis=1)[:, :3]
    assert np.allclose(found.scores.reshape(50, 3), scores, atol=1e-6)


def test_rounding_is_that_of_any_order() -> None:
    """Numbers that are added one by one round more than those of a product of matrices."""
    ones = np.full((1, 16_000), 16_000**-0.5, np.float32)
    one_by_one = np.cumsum(ones[0] * ones[0], dtype=np.float32)[-1]
    exact = float(ones[0].astype(np.float64) @ ones[0].astype(np.float64))
    assert 1e-5 < abs(one_by_one - exact) < OnCpu(ones).rounding[0] / 2


def test_a_vector_that_is_not_finite_hides_no_other() -> None:
    queries, vectors = np.eye(2, dtype=np.float32), unit(40, 2)
    best = np.argsort(-vectors[:, 0], kind="stable")[:3]
    vectors[20 if 20 not in best else 21] = np.nan
    found = nearest(batches(vectors, 10), queries[:1], 3)
    assert found.rows.column("id").to_pylist() == best.tolist()
