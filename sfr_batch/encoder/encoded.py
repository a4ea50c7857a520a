"""What an encoder returns. Knows no PyTorch, so that whoever stands for an encoder needs none."""

from collections.abc import Mapping
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray


@dataclass(frozen=True)
class EncodedTokens:
    """Vectors of n rows, and their cost."""

    vectors: NDArray[np.float32]
    """[n, d] unit length, in input order. Not finite where the model's own output was not."""
    padded_tokens: int
    """Tokens that the device computed, padding included."""
    tokens: int
    """Real tokens among them. Rows that repeat were computed once and count once."""
    batches: int
    """Forward passes."""
    failed: Mapping[int, str] = field(default_factory=dict)
    """Row -> error message, for rows on which the model fails. Their vectors are NaN; other vectors are unaffected."""

    def __repr__(self) -> str:
        padding = 1 - self.tokens / self.padded_tokens if self.padded_tokens else 0.0
        done = f"{self.tokens} tokens, {padding:.1%} padding, {self.batches} batches"
        return f"<EncodedTokens {len(self.vectors)} rows, {done}>"


WithCanaries = tuple[EncodedTokens, int, float]
"""Rows, the number of canaries that were encoded with them, and their largest 1 - cosine."""
