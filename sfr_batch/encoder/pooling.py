"""Pooling: hidden states of a batch to one float32 vector a row, for padding on either side and for packed rows.

The function of a pooling takes ``hidden`` [b, t, d] in any dtype and ``mask`` [b, t], true where a token is real, with
at least one real token in each row, and returns [b, d] in float32. Whatever stands in padding, NaN included, has no
influence.
"""

import itertools
from collections.abc import Callable, Mapping

import numpy as np
import torch
from numpy.typing import NDArray

from sfr_batch.model.repository.modules import SEVERAL


def last_token(hidden: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
    """The state of each row's last real token."""
    places = torch.arange(mask.shape[1], device=mask.device)
    last = torch.where(mask.bool(), places, -1).amax(dim=1)
    return _pick(hidden, last)


def cls(hidden: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
    """The state of each row's first real token."""
    places = torch.arange(mask.shape[1], device=mask.device)
    first = torch.where(mask.bool(), places, mask.shape[1]).amin(dim=1)
    return _pick(hidden, first)


def mean(hidden: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
    """The mean of each row's real tokens, summed in float32."""
    real = mask.bool()
    total = hidden.masked_fill(~real.unsqueeze(-1), 0).sum(dim=1, dtype=torch.float32)
    return total / real.sum(dim=1, keepdim=True)


def mean_sqrt_len(hidden: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
    """The sum of each row's real tokens, divided by the square root of their number."""
    return mean(hidden, mask) * mask.bool().sum(dim=1, keepdim=True).sqrt()


def weighted_mean(hidden: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
    """The mean of each row's real tokens, of which the n-th counts n times."""
    real = mask.bool()
    weights = (real.cumsum(dim=1) * real).unsqueeze(-1).float()
    total = (hidden.masked_fill(~real.unsqueeze(-1), 0).float() * weights).sum(dim=1)
    return total / weights.sum(dim=1)


def largest(hidden: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
    """The largest value of each row's real tokens, in each dimension."""
    return hidden.masked_fill(~mask.bool().unsqueeze(-1), float("-inf")).amax(dim=1).float()


def _pick(hidden: torch.Tensor, place: torch.Tensor) -> torch.Tensor:
    return hidden[torch.arange(hidden.shape[0], device=hidden.device), place].float()


POOLINGS: Mapping[str, Callable[[torch.Tensor, torch.Tensor], torch.Tensor]] = {
    "last_token": last_token,
    "mean": mean,
    "cls": cls,
    "max": largest,
    "mean_sqrt_len": mean_sqrt_len,
    "weighted_mean": weighted_mean,
}


def pool(pooling: str, hidden: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
    """The vectors of a recipe's ``pooling``, one behind the other where it names several: [b, n * d]."""
    return torch.cat([POOLINGS[name](hidden, mask) for name in pooling.split(SEVERAL)], dim=1)


def pool_packed(pooling: str, hidden: torch.Tensor, lengths: NDArray[np.int64], places: torch.Tensor) -> torch.Tensor:
    """The same of rows that follow each other without padding: ``hidden`` [t, d], of b rows of ``lengths`` [b].

    places: [2, b] int64 on the device, the first token of each row and the number of its tokens. Rows of similar
    lengths, side by side, are padded to the longest of them and pooled together. That is less than twice their tokens
    at a time, where a single long row would have all others padded to its own length.
    """
    starts, sizes = places
    if pooling in _PLACE_IN_PACKED:
        return hidden[_PLACE_IN_PACKED[pooling](starts, sizes)].float()
    magnitude = np.frexp(lengths)[1]  # equal for lengths of which none is twice another
    cuts = [0, *(np.flatnonzero(np.diff(magnitude)) + 1).tolist(), len(lengths)]
    pooled = []
    for first, end in itertools.pairwise(cuts):
        column = torch.arange(int(lengths[first:end].max()), device=hidden.device)
        real = column < sizes[first:end, None]
        # Padding stands for some real token, and counts for nothing.
        token = (starts[first:end, None] + column).clamp(max=len(hidden) - 1)
        pooled.append(pool(pooling, hidden[token], real))
    return torch.cat(pooled)


_PLACE_IN_PACKED: Mapping[str, Callable[[torch.Tensor, torch.Tensor], torch.Tensor]] = {
    "last_token": lambda starts, sizes: starts + sizes - 1,
    "cls": lambda starts, sizes: starts,
}
"""Poolings that are one token of a row."""
