"""Pooling: hidden states of a padded batch to one float32 vector a row, for padding on either side.

Every function takes ``hidden`` [b, t, d] in any dtype and ``mask`` [b, t], true where a token is real, with at least
one real token in each row, and returns [b, d] in float32. Whatever stands in padding, NaN included, has no influence.
"""

from collections.abc import Callable, Mapping

import torch

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
