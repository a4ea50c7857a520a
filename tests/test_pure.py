"""The floors without input and output: prompts, fingerprints, batches, exact search, unit length."""

import itertools
import string
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from sfr_batch.encoder.batching import batch_cost, length_batches, padded_tokens, unique_rows
from sfr_batch.errors import ConfigError, counted
from sfr_batch.format import names
from sfr_batch.format.fingerprint import canonical_json, differences, digest, short_id
from sfr_batch.model.prompts import instruct, resolve
from sfr_batch.pipeline.write_stage import UNIT_LENGTH_TOLERANCE, unit_length, vector_column
from sfr_batch.table.products import Products
from sfr_batch.table.search import top_k, vectors_of

quick = settings(max_examples=150)

# --- prompts


def test_instruct_is_the_model_cards_format() -> None:
    assert instruct("Find it") == "Instruct: Find it\nQuery: "


@pytest.mark.parametrize(
    ("name", "expected"), [(None, ""), ("query", "Q: "), ("document", ""), ("sts", "S: "), ("empty", "")]
)
def test_resolve(name: str | None, expected: str) -> None:
    assert resolve({"query": "Q: ", "sts": "S: ", "empty": ""}, name) == expected


def test_misspelled_prompt_is_refused() -> None:
    with pytest.raises(ConfigError, match=r"no prompt 'qeury'. Known prompts: document, query, sts. Add it under"):
        resolve({"sts": "S: "}, "qeury")


# --- fingerprints

json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=3), inner, max_size=3),
    max_leaves=4,
)


@quick
@given(st.dictionaries(st.text(), json_values, max_size=4))
def test_digest_depends_on_content_alone(value: dict[str, Any]) -> None:
    reordered = dict(reversed(value.items()))
    assert canonical_json(value) == canonical_json(reordered)
    assert digest(value) == digest(reordered)
    assert set(digest(value)) <= set(string.hexdigits)
    assert len(digest(value)) == 64


@quick
@given(st.lists(st.text(max_size=3), max_size=3), st.lists(st.text(max_size=3), max_size=3))
def test_short_id_tells_parts_apart(a: list[str], b: list[str]) -> None:
    assert (short_id(*a) == short_id(*b)) == (a == b)
    assert len(short_id(*a)) == 32


def test_digest_takes_lone_surrogates_and_refuses_nan() -> None:
    assert digest("\ud800") != digest("\ud801")
    with pytest.raises(ValueError):
        digest({"x": float("nan")})


def test_digest_is_pinned() -> None:
    """Tables on storage hold such digests: another value here means that none of them would be recognised."""
    assert digest({"b": [1, "ü"], "a": None}) == "6bafd57c7869b3aca54e576a5157b40cc195c8486124cab93d52f1b59556838e"
    assert canonical_json({"b": [1, "ü"], "a": None}) == '{"a":null,"b":[1,"ü"]}'


def test_differences_name_what_differs() -> None:
    old, new = {"max_length": 256, "same": 1, "gone": "x"}, {"max_length": 512, "same": 1, "ids": list(range(99))}
    lines = differences(old, new)
    assert lines[0] == 'gone: "x" in the table, nothing in the config'
    assert lines[1].startswith("ids: nothing in the table, [0,1,2,")
    assert lines[1].endswith("…") or "… (" in lines[1]
    assert lines[2] == "max_length: 256 in the table, 512 in the config"
    assert len(lines) == 3
    assert max(map(len, lines)) < 200


# --- batches

few_lengths = st.lists(st.sampled_from([1, 2, 3, 7, 8, 30, 64]), max_size=80)
any_lengths = st.lists(st.integers(1, 600), max_size=80)
lengths_of_rows = (any_lengths | few_lengths).map(lambda rows: np.asarray(rows, dtype=np.int32))


def greedy_batches(lengths: np.ndarray[Any, Any], budget: int) -> list[np.ndarray[Any, Any]]:
    """Longest first, each batch as full as the budget allows."""
    order = np.argsort(-lengths, kind="stable")
    batches = []
    while len(order):
        rows = max(1, budget // int(lengths[order[0]]))
        batches.append(order[:rows])
        order = order[rows:]
    return batches


@quick
@given(lengths_of_rows, st.integers(1, 4096), st.sampled_from([0, 0, 3, 100]))
def test_batches_hold_every_row_once_within_the_budget(lengths: np.ndarray[Any, Any], budget: int, beside: int) -> None:
    batches = length_batches(lengths, budget, beside)
    rows = [row for batch in batches for row in batch.tolist()]
    assert rows == sorted(range(len(lengths)), key=lambda row: (-lengths[row], row)), "longest first, equals in order"
    for batch in batches:
        assert 1 <= len(batch) * (int(lengths[batch].max()) + beside) <= budget or len(batch) == 1
    assert padded_tokens(lengths, batches) >= lengths.sum()
    if not beside:
        assert batch_cost(lengths, batches, budget) <= batch_cost(lengths, greedy_batches(lengths, budget), budget)


@quick
@given(
    st.lists(st.integers(1, 40) | st.sampled_from([1, 2, 5]), min_size=1, max_size=10).map(np.array),
    st.integers(1, 400),
    st.sampled_from([0, 0, 3, 30]),
)
def test_no_cuts_cost_less(lengths: np.ndarray[Any, Any], budget: int, beside: int) -> None:
    """Against all ways to cut the sorted rows that keep to the budget."""
    order = np.argsort(-lengths, kind="stable")
    costs = []
    for cut in itertools.product([False, True], repeat=len(lengths) - 1):
        batches = np.split(order, 1 + np.flatnonzero(cut))
        if all(len(batch) == 1 or len(batch) * (lengths[batch].max() + beside) <= budget for batch in batches):
            costs.append(batch_cost(lengths, batches, budget))
    assert batch_cost(lengths, length_batches(lengths, budget, beside), budget) == min(costs)


def test_batches_of_a_small_table() -> None:
    lengths = np.array([3, 9, 3, 20, 4, 3])
    batches = [batch.tolist() for batch in length_batches(lengths, 12)]
    assert batches == [[3], [1], [4], [0, 2, 5]], "under so small a budget a batch costs less than a padded token"
    assert padded_tokens(lengths, length_batches(lengths, 12)) == 20 + 9 + 4 + 9
    lengths = np.array([6, 7, 8, 100, 90])
    assert [batch.tolist() for batch in length_batches(lengths, 704)] == [[3, 4], [2, 1, 0]], "a batch costs 11 tokens"
    assert [batch.tolist() for batch in length_batches(lengths, 512)] == [[3], [4], [2, 1, 0]], "a batch costs 8"


def test_padding_of_a_realistic_split_is_low() -> None:
    """Lengths as prose has them, many short and some truncated: greedy cuts waste several times as much."""
    drawn = np.random.default_rng(0).lognormal(4.2, 1.0, 8192).astype(np.int64)
    lengths = np.clip(drawn, 4, 256)
    for rows, most in ((8192, 0.005), (1024, 0.015), (256, 0.03)):
        part = lengths[:rows]
        waste, greedy = (
            1 - part.sum() / padded_tokens(part, batches)
            for batches in (length_batches(part, 2048), greedy_batches(part, 2048))
        )
        assert waste < most
        assert waste < greedy / 2


@pytest.mark.parametrize("budget", [512, 2048, 8192, 11_264, 16_384, 32_768, 65_536, 131_072])
def test_padding_is_low_under_every_budget_that_verify_may_suggest(budget: int) -> None:
    """Lengths like those of docstrings, the longest of 4,096 tokens."""
    lengths = np.clip(np.random.default_rng(0).lognormal(4.2, 0.9, 8192), 4, 4096).astype(np.int64)
    assert 1 - lengths.sum() / padded_tokens(lengths, length_batches(lengths, budget)) <= 0.015


def test_batches_refuse_nonsense() -> None:
    with pytest.raises(ValueError, match="at least 1, got 0"):
        length_batches(np.array([1]), 0)
    with pytest.raises(ValueError, match="every row needs at least one token"):
        length_batches(np.array([1, 0]), 8)
    assert length_batches(np.array([], dtype=np.int64), 8) == []


@quick
@given(st.lists(st.lists(st.integers(0, 2), min_size=1, max_size=3), max_size=40))
def test_unique_rows_and_their_inverse(rows: list[list[int]]) -> None:
    lengths = np.array([len(row) for row in rows], dtype=np.int32)
    flat = np.array([token for row in rows for token in row], dtype=np.int32)
    first, inverse = unique_rows(lengths, flat)
    distinct = [rows[row] for row in first]
    assert [distinct[number] for number in inverse] == rows
    assert len({tuple(row) for row in distinct}) == len(distinct)
    assert first.tolist() == [rows.index(row) for row in distinct], "the first of each"


# --- search


def batch_of(ids: list[Any], vectors: list[list[int]], dtype: str = "float32") -> pa.RecordBatch:
    kind = names.table_schema(pa.string(), 2, dtype, {}).field(names.EMBEDDING).type
    flat = pa.array(np.array(vectors, dtype=dtype).reshape(-1))
    return pa.record_batch(
        {
            "id": pa.array(ids),
            "embedding": pa.FixedSizeListArray.from_arrays(flat, type=kind),
            "n": [str(i) for i in ids],
        }
    )


small_vectors = st.lists(st.integers(-2, 2), min_size=2, max_size=2)


@quick
@given(
    st.lists(st.lists(small_vectors, max_size=6), max_size=4),
    st.lists(small_vectors, min_size=1, max_size=3),
    st.integers(1, 12),
    st.booleans(),
    st.randoms(use_true_random=False),
)
def test_top_k_equals_brute_force(
    parts: list[list[list[int]]], queries: list[list[int]], k: int, text_ids: bool, random: Any
) -> None:
    """Small integers, so that scores are exact and many tie."""
    numbers: list[Any] = list(range(sum(map(len, parts))))
    random.shuffle(numbers)
    ids = iter([f"id{n:02}" if text_ids else n for n in numbers])
    rows = [[(next(ids), vector) for vector in part] for part in parts]
    batches = [batch_of([i for i, _ in part], [v for _, v in part]) for part in rows if part]
    empty = batch_of([], []).slice(0, 0)
    found = top_k([*batches, empty], np.array(queries, dtype=np.float32), k, ["n"])
    for query, hits in zip(queries, found, strict=True):
        everything = [(-float(np.dot(query, vector)), i) for part in rows for i, vector in part]
        assert [(-hit.score, hit.id) for hit in hits] == sorted(everything)[:k]
        assert all(hit.row == {"n": str(hit.id)} for hit in hits)


def test_top_k_of_more_than_waits(monkeypatch: pytest.MonkeyPatch) -> None:
    """Blocks of a few rows, many of them sorted in one after the other; most scores tie."""
    monkeypatch.setattr(Products, "block_scores", 700)
    random = np.random.default_rng(5)
    vectors, queries = random.integers(-2, 3, (900, 2)), random.integers(-2, 3, (13, 2)).astype(np.float32)
    ids = [f"id{number:03}" for number in random.permutation(900)]
    batches = [batch_of(ids[at : at + 250], vectors[at : at + 250].tolist()) for at in range(0, 900, 250)]
    found = top_k(batches, queries, 40, ["n"])
    for query, hits in zip(queries, found, strict=True):
        everything = sorted(zip((-vectors @ query).tolist(), ids, strict=True))[:40]
        assert [(-hit.score, hit.id) for hit in hits] == everything
        assert [hit.row["n"] for hit in hits] == [hit.id for hit in hits]


def test_top_k_takes_slices_and_float16() -> None:
    batch = batch_of(["a", "b", "c"], [[1, 0], [0, 1], [1, 1]], "float16")
    hits = top_k([batch.slice(1, 2)], np.array([[1, 0]], dtype=np.float32), 5)[0]
    assert [(hit.id, hit.score) for hit in hits] == [("c", 1.0), ("b", 0.0)]
    assert vectors_of(batch.column("embedding")).dtype == np.float32


def test_top_k_of_nothing() -> None:
    assert list(top_k([], np.ones((2, 2), dtype=np.float32), 3)) == [[], []]
    with pytest.raises(ValueError, match="k must be at least 1, got 0"):
        top_k([], np.ones((1, 2), dtype=np.float32), 0)


def test_vectors_of_float32_are_not_copied() -> None:
    column = batch_of(["a", "b"], [[1, 0], [0, 1]]).column("embedding")
    assert vectors_of(column).ctypes.data == column.flatten().buffers()[1].address


# --- vectors


def test_unit_length() -> None:
    tolerance = UNIT_LENGTH_TOLERANCE
    vectors = np.zeros((9, 4), dtype=np.float32)
    vectors[0, 0] = 1
    vectors[1] = 0.5
    vectors[2, 1] = 1 + tolerance * 0.9
    vectors[3, 1] = 1 + tolerance * 1.2
    vectors[4, 1] = 1 - tolerance * 1.2
    vectors[5] = [np.nan, 1, 0, 0]
    vectors[6] = [np.inf, 0, 0, 0]
    vectors[7] = 1e30
    assert unit_length(vectors).tolist() == [True, True, True, False, False, False, False, False, False]
    assert unit_length(vectors[:0]).tolist() == []


def test_unit_length_sums_in_double_precision() -> None:
    vectors = np.full((3, 4096), 1 / 64, dtype=np.float32)
    assert unit_length(vectors).all()


@pytest.mark.parametrize("dtype", ["float32", "float16"])
def test_vector_column(dtype: str) -> None:
    arrow = names.table_schema(pa.string(), 3, dtype, {})
    vectors = np.random.default_rng(0).normal(size=(5, 3)).astype(np.float32)
    column = vector_column(vectors, arrow)
    assert column.type == arrow.field("embedding").type
    assert np.array_equal(vectors_of(column), vectors.astype(dtype).astype(np.float32))
    if dtype == "float32":
        assert column.flatten().buffers()[1].address == vectors.ctypes.data, "copied"
    assert len(vector_column(vectors[:0], arrow)) == 0
    assert np.array_equal(vectors_of(vector_column(vectors[::2], arrow)), vectors[::2].astype(dtype))


# --- words


@pytest.mark.parametrize(
    ("number", "words", "expected"),
    [
        (0, ("row",), "0 rows"),
        (1, ("row",), "1 row"),
        (2000, ("row",), "2,000 rows"),
        (3, ("canary", "canaries"), "3 canaries"),
    ],
)
def test_counted(number: int, words: tuple[str, ...], expected: str) -> None:
    assert counted(number, *words) == expected
