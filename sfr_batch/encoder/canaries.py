"""Canaries: a few fixed texts that are encoded with every split, to measure how batching changes a vector.

The sums of a matrix product are rounded differently in batches of different shapes, so a text's vector depends a little
on its neighbours; the vectors of a corpus do not show by how much. Canaries are encoded by themselves once,
and then in whatever batches their lengths put them into. Knows no splits and no tables.
"""

import threading
from collections.abc import Callable
from dataclasses import replace

import numpy as np
from numpy.typing import NDArray

from sfr_batch.encoder.encoded import EncodedTokens, WithCanaries
from sfr_batch.encoder.encoder import Encoder
from sfr_batch.model import prompts

TEXTS = (
    "A canary.",
    "The quick brown fox jumps over the lazy dog, and then it sleeps in the shade of an old oak tree until evening.",
    "Vectors of one text should be the same whatever texts are encoded beside it. " * 8,
)
"""Short, medium and long, so that they are in batches of several shapes."""
MOST_TOKENS = 0.01
"""Share of a split's tokens that canaries may add."""


class Canaries:
    """The canaries of one encoder, with their vectors when encoded alone."""

    def __init__(self, encoder: Encoder) -> None:
        self._encoder = encoder
        self._turn = threading.Lock()
        prompt = prompts.resolve(encoder.recipe.prompts, prompts.DOCUMENT)
        tokenized = encoder.tokenizer.encode(TEXTS, prompt)
        self._lengths = tokenized.lengths
        self._ids = tokenized.flat_ids
        ends = np.cumsum(self._lengths)
        rows = zip(self._lengths, np.split(self._ids, ends[:-1]), strict=True)
        self._alone = np.concatenate([encoder.encode_tokens(np.array([n]), ids).vectors for n, ids in rows])

    def encode_tokens(self, lengths: NDArray[np.integer], flat_ids: NDArray[np.int32]) -> WithCanaries:
        """As `Encoder.encode_tokens`; also returns the number of canaries and their largest 1 - cosine.

        Rows with few tokens get fewer canaries or none, so that these cost at most MOST_TOKENS.
        """
        return self.launch(lengths, flat_ids)()

    def launch(self, lengths: NDArray[np.integer], flat_ids: NDArray[np.int32]) -> Callable[[], WithCanaries]:
        """As `Encoder.launch`, for several threads, which take turns. Returns what fetches the result."""
        count = int((np.cumsum(self._lengths) <= MOST_TOKENS * lengths.sum()).sum())
        own = self._lengths[:count]
        both = np.concatenate([lengths, own]), np.concatenate([flat_ids, self._ids[: own.sum()]])
        with self._turn:
            launched = self._encoder.launch(*both)
        return lambda: self._apart(launched.result(), len(lengths))

    def _apart(self, encoded: EncodedTokens, rows: int) -> WithCanaries:
        vectors, canaries = np.split(encoded.vectors, [rows])
        count = len(canaries)
        drift = 1 - np.einsum("nd,nd->n", canaries, self._alone[:count], dtype=np.float64)
        drift = np.nan_to_num(drift, nan=2.0, posinf=2.0, neginf=2.0)  # no vector at all: as far off as can be
        failed = {row: why for row, why in encoded.failed.items() if row < rows}
        kept = replace(encoded, vectors=vectors, failed=failed)
        return kept, count, float(np.abs(drift).max(initial=0.0))
