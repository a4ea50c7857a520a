"""Length-bucketed batches under a budget of padded tokens. Lengths in, lists of row numbers out.

Knows no text, no torch and no Ray. Sorting a whole split by token count keeps padding near zero; cutting by padded
tokens instead of by rows keeps the work and the memory of every batch alike.
"""

import numpy as np
from numpy.typing import NDArray

IntArray = NDArray[np.int64]


def length_batches(lengths: NDArray[np.integer], max_batch_tokens: int) -> list[IntArray]:
    """Cut rows into batches whose padded size (rows x longest row) is at most ``max_batch_tokens``.

    lengths: [n] token counts, all >= 1. Returns arrays of row numbers that together hold every row once, longest
    rows first, so that running out of memory shows in the first minute and not in the last. A row that is longer
    than the budget by itself gets a batch of its own. Rows of equal length stay in input order.
    """
    if max_batch_tokens < 1:
        raise ValueError(f"max_batch_tokens must be at least 1, got {max_batch_tokens}")
    if len(lengths) and lengths.min() < 1:
        raise ValueError("every row needs at least one token")
    order = np.argsort(-lengths.astype(np.int64), kind="stable")
    batches = []
    start = 0
    while start < len(order):
        rows = max(1, max_batch_tokens // int(lengths[order[start]]))
        batches.append(order[start : start + rows])
        start += rows
    return batches


def padded_tokens(lengths: NDArray[np.integer], batches: list[IntArray]) -> int:
    """Tokens that the device computes, padding included: the sum over batches of rows x longest row."""
    return sum(len(batch) * int(lengths[batch].max()) for batch in batches)


def unique_rows(lengths: NDArray[np.integer], flat_ids: NDArray[np.int32]) -> tuple[IntArray, IntArray]:
    """Which rows are the first of their token sequence, and which of those each row equals.

    flat_ids: the rows' token ids one after the other, ``lengths.sum()`` of them. Returns ``first`` [u], the row
    numbers of the distinct sequences, and ``inverse`` [n] with ``row i == row first[inverse[i]]``.
    """
    offsets = np.concatenate([[0], np.cumsum(lengths, dtype=np.int64)])
    raw = np.ascontiguousarray(flat_ids, dtype=np.int32).tobytes()
    seen: dict[bytes, int] = {}
    first: list[int] = []
    inverse = np.empty(len(lengths), dtype=np.int64)
    for row in range(len(lengths)):
        key = raw[4 * offsets[row] : 4 * offsets[row + 1]]
        number = seen.setdefault(key, len(first))
        if number == len(first):
            first.append(row)
        inverse[row] = number
    return np.asarray(first, dtype=np.int64), inverse
