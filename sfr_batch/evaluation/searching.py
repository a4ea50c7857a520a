"""The ranked documents of a table for the vectors of queries: exact, and by document where they are cut into chunks.

Knows rows with ids and vectors; knows no model and no judgements.
"""

from collections.abc import Callable, Iterable, Mapping, Sequence

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from sfr_batch.evaluation.ranking import Ranked, Ranking, ranked
from sfr_batch.format import names
from sfr_batch.table.nearest import FloatArray, Nearest, nearest, vectors_of

_WIDER = 4
"""By so much more rows are asked for where chunks of the same documents have taken the places of others."""
_PAIRS_AT_ONCE = 4096
"""Products of a candidate and its query that are computed at once: their vectors are copied."""


Rows = Callable[[], Iterable[pa.RecordBatch]]
"""Reads the rows to search, with id and embedding: once, or again where the first answer was too short."""


def search_documents(
    rows: Rows, queries: Sequence[str], vectors: FloatArray, k: int, *, without_own: bool = False
) -> Ranking:
    """For each of ``queries`` (ids), the ``k`` documents with the largest cosine, best first, ties by id.

    rows: such as ``snapshot.scan(["id", "embedding"]).batches``. vectors: [q, d] unit vectors of the queries. A
    document that is cut into chunks is ranked by its best chunk; where the chunks of few documents fill the answer,
    more rows are asked for, so that it is exact. without_own: leaves out a document whose id is that of the query, as
    sets need whose queries are documents of their own corpus. Ids of integer columns become their decimal digits.
    Memory: about 200 bytes for each of the q * k results.
    """
    found: dict[str, Ranked] = {}
    wanted = k + without_own
    left: NDArray[np.int64] = np.arange(len(queries))
    while len(left):
        answer = nearest(rows(), vectors[left], wanted)
        short = []
        for at, query in enumerate(left.tolist()):
            own = queries[query] if without_own else None
            documents, scores, exhausted = _documents(answer, at, wanted, own)
            if len(documents) < k and not exhausted:
                short.append(query)
            else:
                found[queries[query]] = ranked(documents[:k], scores[:k])
        left = np.array(short, np.int64)
        wanted *= _WIDER
    return {query: found[query] for query in queries}


def rank_candidates(
    rows: Rows, queries: Sequence[str], vectors: FloatArray, candidates: Mapping[str, Sequence[str]], k: int
) -> Ranking:
    """The ``k`` best of the documents that each query has as ``candidates``: as `search_documents`, in one pass.

    A query without candidates has no documents, and neither counts a candidate that the rows do not have. Memory: about
    200 bytes for each candidate.
    """
    asking: dict[str, list[int]] = {}
    for number, query in enumerate(queries):
        for document in dict.fromkeys(candidates.get(query, ())):
            asking.setdefault(document, []).append(number)
    best: list[dict[str, float]] = [{} for _ in queries]
    for batch in rows():
        ids = [str(document) for document in batch.column(names.ID).to_pylist()]
        pairs = [(row, query) for row, document in enumerate(ids) for query in asking.get(document, ())]
        if not pairs:
            continue
        matrix = vectors_of(batch.column(names.EMBEDDING))
        for first in range(0, len(pairs), _PAIRS_AT_ONCE):
            at, which = np.array(pairs[first : first + _PAIRS_AT_ONCE]).T
            scores = np.einsum("ij,ij->i", matrix[at], vectors[which])
            for row, query, score in zip(at.tolist(), which.tolist(), scores.tolist(), strict=True):
                best[query][ids[row]] = max(score, best[query].get(ids[row], -np.inf))
    ordered = [sorted(found.items(), key=lambda one: (-one[1], one[0]))[:k] for found in best]
    return {
        query: ranked([document for document, _ in found], np.array([score for _, score in found], np.float32))
        for query, found in zip(queries, ordered, strict=True)
    }


def _documents(answer: Nearest, at: int, wanted: int, own: str | None) -> tuple[list[str], FloatArray, bool]:
    """The documents of a query, each once and best first, their scores, and whether the table has no more rows."""
    first, end = answer.bounds[at : at + 2].tolist()
    best: dict[str, int] = {}
    for row, document in enumerate(answer.rows.column(names.ID).slice(first, end - first).to_pylist(), start=first):
        best.setdefault(str(document), row)
    if own is not None:
        best.pop(own, None)
    return list(best), answer.scores[list(best.values())], end - first < wanted
