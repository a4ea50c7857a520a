"""Decides which rows are computed together and in which order: lengths in, lists of row numbers out.

Batches are bucketed by length under a budget of padded tokens. Sorting a whole split by token count and cutting where
it costs least keeps padding near zero; cutting by padded tokens instead of by rows bounds the memory of every batch
alike. Knows no text, no torch and no Ray.
"""

import numpy as np
from numpy.typing import NDArray

IntArray = NDArray[np.int64]
FloatArray = NDArray[np.float64]

_LONGEST_PREFIX = 512
_ROWS_COMPARED = 1024
BUDGETS_A_BATCH = 1 / 64
"""The cost of a forward pass beside its tokens, as a share of the budget: without it the least padding would be one
batch for every length. Measured on two CPU cores with MiniLM: 7.5 ms, the work of 42 tokens, under the budget of
2,048 that suits them. A GPU's budget is larger because it needs more tokens to be busy, and so is what launching the
kernels costs it, in tokens; hence a share. Unequal lengths have no price of their own: the mask that a bidirectional
model then needs cost nothing measurable there, and causal models need none."""
DEAREST_BATCH = 160
"""In tokens. Larger budgets do not make launches dearer: with a share of 131,072 tokens, 5.5 % of what is computed for
docstrings would be padding, with 256 tokens 1.8 %, and with this 1.3 % in a quarter more batches."""


def _price(max_batch_tokens: int) -> float:
    return min(max_batch_tokens * BUDGETS_A_BATCH, DEAREST_BATCH)


def length_batches(lengths: NDArray[np.integer], max_batch_tokens: int, beside: int = 0) -> list[IntArray]:
    """Cut rows into batches whose padded size (rows x longest row) is at most ``max_batch_tokens``, at least cost.

    lengths: [n] token counts, all >= 1. beside: tokens that each row takes of the budget besides its own, which cost
    memory and no time. Returns arrays of row numbers that together hold every row once, longest
    rows first, so that running out of memory shows in the first minute and not in the last. A row that is longer
    than the budget by itself gets a batch of its own. Rows of equal length stay in input order. No other cuts of the
    sorted rows have a smaller `batch_cost`.
    """
    if max_batch_tokens < 1:
        raise ValueError(f"max_batch_tokens must be at least 1, got {max_batch_tokens}")
    if len(lengths) and lengths.min() < 1:
        raise ValueError("every row needs at least one token")
    order = np.argsort(-lengths.astype(np.int64), kind="stable")
    return np.split(order, _cuts(lengths[order].astype(np.int64), max_batch_tokens, beside)) if len(order) else []


def _cuts(widths: IntArray, budget: int, beside: int) -> list[int]:
    """The best places to cut the rows of ``widths`` [n], longest first.

    Dynamic programming from the shortest row back: ``cost[i]`` is what rows i and on cost at least. A cut between
    two rows of equal length may move towards the longer rows as long as the batch after it has room: that batch pays
    for a row what the one before it paid at least. So there are best cuts of which each stands where the length
    changes or before a full batch, and only where it changes is there a choice to search; inside a run of equal rows,
    full batches follow each other until they reach beyond it.
    """
    n = len(widths)
    price = _price(budget)
    runs = np.flatnonzero(np.diff(widths, prepend=widths[0] + 1))
    cost: FloatArray = np.full(n + 1, np.inf)
    cost[n] = 0
    rows = np.maximum(1, budget // (widths + beside))  # of a full batch that begins here
    ends = np.minimum(np.arange(n) + rows, n)
    for start, end in zip(runs[::-1].tolist(), [n, *runs[:0:-1].tolist()], strict=True):
        width, full = int(widths[start]), int(rows[start])
        inner = np.arange(start + 1, end)
        batches = -(-(end - inner) // full)
        beyond = inner + batches * full
        inside = beyond <= n  # else the last batch would not be full
        cost[inner[inside]] = batches[inside] * (full * width + price) + cost[beyond[inside]]
        last = min(start + full, n)
        choices = cost[start + 1 : last + 1] + width * np.arange(1, last - start + 1)
        best = int(choices.argmin())
        cost[start], ends[start] = choices[best] + price, start + 1 + best
    cuts, here = [], int(ends[0])
    while here < n:
        cuts.append(here)
        here = int(ends[here])
    return cuts


def packed_batches(lengths: NDArray[np.integer], max_batch_tokens: int, beside: int = 0) -> list[IntArray]:
    """Cut rows into batches of at most ``max_batch_tokens`` tokens that are not padded; else as `length_batches`.

    Longest rows first here too: rows of equal length then lie side by side, which attention without a kernel for
    variable lengths needs.
    """
    order = np.argsort(-lengths.astype(np.int64), kind="stable")
    ends = np.cumsum(lengths[order].astype(np.int64) + beside)
    cuts, filled = [0], 0
    while cuts[-1] < len(order):
        fit = int(np.searchsorted(ends, filled + max_batch_tokens, side="right"))
        cuts.append(max(fit, cuts[-1] + 1))
        filled = int(ends[cuts[-1] - 1])
    return np.split(order, cuts[1:-1]) if len(order) else []


def shared_prefix(starts: IntArray, lengths: IntArray, flat_ids: NDArray[np.int32]) -> int:
    """The number of tokens that all rows begin with; at least one token of each row is left over.

    starts, lengths: [n] the place of each row's ids in ``flat_ids``. Looks at the first 512 tokens of a row.
    """
    most = min(int(lengths.min()) - 1, _LONGEST_PREFIX) if len(lengths) else 0
    same = np.ones(most, np.bool_)
    for start in range(0, len(starts), _ROWS_COMPARED):
        rows = flat_ids[starts[start : start + _ROWS_COMPARED, None] + np.arange(most)]
        same &= (rows == flat_ids[starts[0] : starts[0] + most]).all(axis=0)
    return int(same.argmin()) if not same.all() else most


def padded_tokens(lengths: NDArray[np.integer], batches: list[IntArray]) -> int:
    """Tokens that the device computes, padding included: the sum over batches of rows x longest row."""
    return sum(len(batch) * int(lengths[batch].max()) for batch in batches)


def batch_cost(lengths: NDArray[np.integer], batches: list[IntArray], max_batch_tokens: int) -> float:
    """The cost that `length_batches` minimizes: padded tokens, plus the price of each batch in tokens."""
    return padded_tokens(lengths, batches) + len(batches) * _price(max_batch_tokens)


def unique_rows(lengths: NDArray[np.integer], flat_ids: NDArray[np.int32]) -> tuple[IntArray, IntArray]:
    """The distinct rows, and which of them each row equals.

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
