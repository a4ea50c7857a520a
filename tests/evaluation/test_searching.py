"""Ranked documents for vectors of queries, against all products."""

import numpy as np
import pyarrow as pa
import pytest

from sfr_batch.evaluation.searching import rank_candidates, search_documents
from sfr_batch.table.nearest import nearest, vectors_of

RANDOM = np.random.default_rng(5)


def unit(rows: int) -> np.ndarray:
    numbers = RANDOM.normal(size=(rows, 8)).astype(np.float32)
    return numbers / np.linalg.norm(numbers, axis=1, keepdims=True)


def batches(ids: list[str] | list[int], vectors: np.ndarray) -> list[pa.RecordBatch]:
    column = pa.FixedSizeListArray.from_arrays(pa.array(vectors.reshape(-1)), vectors.shape[1])
    return pa.table({"id": ids, "embedding": column}).to_batches(max_chunksize=7)


@pytest.mark.parametrize("own", [False, True])
def test_a_document_counts_by_its_best_chunk_however_many_it_has(own: bool) -> None:
    """The first document has so many chunks that the first answer holds no other."""
    ids = ["0"] * 200 + [str(number) for number in range(1, 30)] * 2
    vectors, queries = unit(len(ids)), unit(3)
    vectors[:200] = (queries[0] + 0.01 * vectors[:200]).astype(np.float32)
    vectors[:200] /= np.linalg.norm(vectors[:200], axis=1, keepdims=True)
    reads = []

    def rows() -> list[pa.RecordBatch]:
        reads.append(1)
        return batches(ids, vectors)

    found = search_documents(rows, ["0", "b", "c"], queries, 5, without_own=own)
    for name, products in zip(["0", "b", "c"], queries @ vectors.T, strict=True):
        best: dict[str, float] = {}
        for document, score in zip(ids, products.tolist(), strict=True):
            if not (own and document == name):
                best[document] = max(score, best.get(document, -2))
        expected = sorted(best, key=lambda document: (-best[document], document))[:5]
        assert found[name].documents == expected
        assert np.allclose(found[name].scores, [best[document] for document in expected], atol=1e-6)
    assert len(reads) > 1


def test_equal_vectors_tie_wherever_they_stand() -> None:
    """In blocks of any size, and at the end of an answer: a product of matrices rounds equal columns differently."""
    for dim in (17, 64, 384):
        kinds = RANDOM.normal(size=(3, dim)).astype(np.float32)
        kinds /= np.linalg.norm(kinds, axis=1, keepdims=True)
        kind = RANDOM.integers(3, size=60)
        ids = RANDOM.permutation(60).tolist()
        queries = RANDOM.normal(size=(3, dim)).astype(np.float32)
        products = queries.astype(np.float64) @ kinds.T
        for k in (1, 10, 60):
            found = nearest(batches(ids, kinds[kind]), queries, k)
            for query in range(3):
                order = sorted(range(60), key=lambda row: (-products[query, kind[row]], ids[row]))[:k]
                rows = found.rows.column("id")[found.bounds[query] : found.bounds[query + 1]].to_pylist()
                assert rows == [ids[row] for row in order], (dim, k)


def test_fewer_documents_than_asked_for_and_ids_that_are_numbers() -> None:
    vectors = np.eye(8, dtype=np.float32)[:3]
    reads = []
    found = search_documents(lambda: reads.append(1) or batches([7, 8, 9], vectors), ["q"], vectors[1:2], 10)
    assert found["q"].documents == ["8", "7", "9"]
    assert (np.diff(found["q"].scores) < 0).all()  # 0 and 0 are a tie
    assert len(reads) == 1


def test_vectors_of_a_batch_that_a_filter_has_emptied() -> None:
    (batch,) = batches(["a", "b"], np.eye(8, dtype=np.float32)[:2])
    assert vectors_of(batch.column("embedding")).shape == (2, 8)
    assert vectors_of(batch.slice(0, 0).column("embedding")).shape == (0, 8)


def test_candidates_alone_are_ranked() -> None:
    """By the best chunk of each, ties by id, over batches; candidates that are not there do not count."""
    ids = [str(number) for number in range(40)] * 2
    vectors, queries = unit(len(ids)), unit(3)
    vectors[[7, 47]] = vectors[3]
    vectors[43] = -vectors[3]
    candidates = {"a": [str(number) for number in range(0, 40, 3)] + ["7", "gone"], "c": ["5", "5"]}
    found = rank_candidates(lambda: batches(ids, vectors), ["a", "b", "c"], queries, candidates, 10)
    whole = search_documents(lambda: batches(ids, vectors), ["a", "b", "c"], queries, 40)
    for query in ("a", "b", "c"):
        best = [document for document in whole[query].documents if document in candidates.get(query, ())][:10]
        assert found[query].documents == best
        scores = dict(zip(whole[query].documents, whole[query].scores, strict=True))
        assert np.allclose(found[query].scores, [scores[document] for document in best], atol=1e-6)
        assert (np.diff(found[query].scores) < 0).all()
    assert len(found["a"].documents) == 10
