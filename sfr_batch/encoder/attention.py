"""Attention for rows that are padded on the right or packed one after the other, with or without a common prefix.

Registered with transformers, whose layers pass on the keyword arguments that they were called with. Neither form needs
a mask: no real token of a causal model attends to padding on its right, and packed rows are kept apart by their bounds.
Knows no model, no texts and no batching.
"""

import inspect
from functools import cached_property
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
import transformers
from numpy.typing import NDArray
from torch.nn.attention.bias import causal_lower_right

ATTENTION = "sfr_batch"
"""The name of `attend` in transformers: the attn_implementation to load a model with."""


class Prefix:
    """Keys and values of the ``length`` tokens that every row begins with; layer by layer, [1, heads, length, d]."""

    def __init__(self, length: int) -> None:
        self.length = length
        self._states: dict[int, tuple[torch.Tensor, torch.Tensor]] = {}

    def of(self, layer: int, key: torch.Tensor, value: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """The prefix's keys and values in a layer; the first call for a layer sets them to ``key`` and ``value``."""
        return self._states.setdefault(layer, (key, value))


class Packing:
    """The places of rows that are packed: one after the other, without padding, in a batch of one."""

    def __init__(self, lengths: NDArray[np.int64], device: torch.device) -> None:
        """lengths: [b] tokens of each row, in their order in the batch."""
        self.lengths = lengths
        self.longest = int(lengths.max())
        self._starts: NDArray[np.int64] = np.cumsum(lengths) - lengths
        self._device = device
        self._with_prefix: tuple[torch.Tensor, torch.Tensor] | None = None

    @cached_property
    def runs(self) -> list[tuple[int, int, int]]:
        """Runs of consecutive rows of equal length, each as (first token, number of rows, length of a row)."""
        first = np.flatnonzero(np.diff(self.lengths, prepend=-1))
        counts = np.diff(first, append=len(self.lengths))
        return list(zip(self._starts[first].tolist(), counts.tolist(), self.lengths[first].tolist(), strict=True))

    @cached_property
    def bounds(self) -> torch.Tensor:
        """[b + 1] int32, on the device: the first token of each row, and the end of the last row."""
        return self._bounds(self.lengths)

    def with_prefix(self, length: int) -> tuple[torch.Tensor, torch.Tensor]:
        """The layout of the keys if a common prefix of ``length`` tokens precedes each row.

        Returns the token at each place, int64: one of the prefix (0 to length - 1) or of the rows (from ``length``
        on); and the bounds of the rows in this layout, int32.
        """
        if self._with_prefix is None:
            number = np.arange(len(self.lengths))
            total = int(self.lengths.sum())
            places = np.empty(total + length * len(number), np.int64)
            own = np.arange(total) + length
            places[own + length * number.repeat(self.lengths)] = own
            places[(self._starts + length * number)[:, None] + np.arange(length)] = np.arange(length)
            self._with_prefix = torch.from_numpy(places).to(self._device), self._bounds(self.lengths + length)
        return self._with_prefix

    def _bounds(self, lengths: NDArray[np.int64]) -> torch.Tensor:
        bounds = np.concatenate([[0], np.cumsum(lengths)]).astype(np.int32)
        return torch.from_numpy(bounds).to(self._device)


def attend(
    module: Any,
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    attention_mask: torch.Tensor | None,
    scaling: float | None = None,
    prefix: Prefix | None = None,
    packing: Packing | None = None,
    **_: Any,
) -> tuple[torch.Tensor, None]:
    """Attention in the form that transformers calls: [b, heads, t, d] in, [b, t, heads, d] out."""
    assert attention_mask is None, "padding stands on the right"
    before = prefix.of(module.layer_idx, key, value) if prefix else None
    if before and before[0] is key:  # the prefix itself, which has nothing before it
        before = None
    causal = bool(module.is_causal)
    if packing is None:
        return _rectangle(query, key, value, before, causal, scaling), None
    if _has_kernel(query):
        return _variable_length(query, key, value, before, causal, scaling, packing), None
    out = torch.empty_like(query.transpose(1, 2))
    for start, rows, length in packing.runs:
        end = start + rows * length
        q, k, v = (s[0, :, start:end].unflatten(1, (rows, length)).transpose(0, 1) for s in (query, key, value))
        out[0, start:end] = _rectangle(q, k, v, before, causal, scaling).flatten(0, 1)
    return out, None


States = tuple[torch.Tensor, torch.Tensor]


def _rectangle(
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    before: States | None,
    causal: bool,
    scaling: float | None,
) -> torch.Tensor:
    """Rows of one length, [b, heads, t, d], each with the states ``before`` before it; [b, t, heads, d]."""
    groups = query.shape[1] // key.shape[1]
    if before is None:
        out = F.scaled_dot_product_attention(query, key, value, is_causal=causal, scale=scaling, enable_gqa=groups > 1)
        return out.transpose(1, 2)
    key, value = (
        torch.cat([first.expand(len(own), -1, -1, -1), own], dim=2).repeat_interleave(groups, dim=1)
        for first, own in zip(before, (key, value), strict=True)
    )
    # `is_causal` would align the triangle to the top left, where the first new token sees the first old one alone.
    seen = causal_lower_right(query.shape[2], key.shape[2])
    return F.scaled_dot_product_attention(query, key, value, seen, scale=scaling).transpose(1, 2)


def _has_kernel(query: torch.Tensor) -> bool:
    return query.is_cuda and query.dtype in (torch.bfloat16, torch.float16)


def _variable_length(
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    before: States | None,
    causal: bool,
    scaling: float | None,
    packing: Packing,
) -> torch.Tensor:
    """One flash kernel for rows of all lengths; it aligns its triangle to the bottom right."""
    from torch.nn.attention.varlen import varlen_attn  # only CUDA builds of PyTorch have a use for it

    query, key, value = (states[0].transpose(0, 1) for states in (query, key, value))
    seen, longest = packing.bounds, packing.longest
    if before is not None:
        places, seen = packing.with_prefix(before[0].shape[2])
        longest += before[0].shape[2]
        key, value = (
            torch.cat([first[0].transpose(0, 1), own]).index_select(0, places)
            for first, own in zip(before, (key, value), strict=True)
        )
    options: dict[str, Any] = {"scale": scaling, "window_size": (-1, 0 if causal else -1)}
    if query.shape[1] != key.shape[1]:
        if "enable_gqa" in inspect.signature(varlen_attn).parameters:
            options["enable_gqa"] = True
        else:  # PyTorch 2.11
            key, value = (s.repeat_interleave(query.shape[1] // s.shape[1], dim=1) for s in (key, value))
    out: torch.Tensor = varlen_attn(query, key, value, packing.bounds, seen, packing.longest, longest, **options)
    return out.unsqueeze(0)


transformers.AttentionInterface.register(ATTENTION, attend)
