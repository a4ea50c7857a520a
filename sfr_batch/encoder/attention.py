"""Attention for rows that are padded on the right or packed one after the other, with or without a common prefix.

Registered with transformers, whose layers pass on the keyword arguments that they were called with. Neither form needs
a mask: no real token of a causal model attends to padding on its right, and packed rows are kept apart by their bounds.
Knows no model, no texts and no batching.
"""

import functools
import inspect
from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
import transformers
from numpy.typing import NDArray
from torch.nn.attention.bias import causal_lower_right

from sfr_batch.encoder.devices import has_flash

ATTENTION = "sfr_batch"
"""The name of `attend` in transformers: the attn_implementation to load a model with."""


IN_16_BITS = (torch.bfloat16, torch.float16)


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

    def __init__(
        self,
        lengths: NDArray[np.int64],
        prefix: int = 0,
        to_device: Callable[[NDArray[Any]], torch.Tensor] | None = None,
    ) -> None:
        """lengths: [b] tokens of each row, in their order in the batch. prefix: tokens of a common prefix before them.
        to_device: copies an array to the device, if that has a kernel for rows of all lengths. All that the kernel
        needs is copied here, so that no layer has to wait for it."""
        self.lengths = lengths
        self.longest = int(lengths.max())
        self._starts: NDArray[np.int64] = np.cumsum(lengths) - lengths
        self.places: Places | None = None
        """For the kernel; None without one."""
        if to_device:
            own = to_device(_bounds(lengths))
            both = to_device(_bounds(lengths + prefix)) if prefix else own
            self.places = Places(own, both, to_device(self._keys(prefix)) if prefix else None)

    @cached_property
    def runs(self) -> list[tuple[int, int, int]]:
        """Runs of consecutive rows of equal length, each as (first token, number of rows, length of a row)."""
        first = np.flatnonzero(np.diff(self.lengths, prepend=-1))
        counts = np.diff(first, append=len(self.lengths))
        return list(zip(self._starts[first].tolist(), counts.tolist(), self.lengths[first].tolist(), strict=True))

    def _keys(self, prefix: int) -> NDArray[np.int64]:
        number = np.arange(len(self.lengths))
        total = int(self.lengths.sum())
        keys = np.empty(total + prefix * len(number), np.int64)
        own = np.arange(total) + prefix
        keys[own + prefix * number.repeat(self.lengths)] = own
        keys[(self._starts + prefix * number)[:, None] + np.arange(prefix)] = np.arange(prefix)
        return keys


@dataclass(frozen=True)
class Places:
    """Where the tokens of packed rows are, on the device."""

    bounds: torch.Tensor
    """[b + 1] int32: the first token of each row, and the end of the last row."""
    key_bounds: torch.Tensor
    """The same for keys and values, with the common prefix before those of each row."""
    keys: torch.Tensor | None
    """int64: the token whose key stands at each place, one of the prefix (0 to its length - 1) or of the rows (from its
    length on); None without a prefix."""


def _bounds(lengths: NDArray[np.int64]) -> NDArray[np.int32]:
    return np.concatenate([[0], np.cumsum(lengths)]).astype(np.int32)


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
    if packing.places:
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
        if groups > 1 and not _takes_groups(query.device, query.dtype):
            key, value, groups = key.repeat_interleave(groups, dim=1), value.repeat_interleave(groups, dim=1), 1
        out = F.scaled_dot_product_attention(query, key, value, is_causal=causal, scale=scaling, enable_gqa=groups > 1)
        return out.transpose(1, 2)
    key, value = (
        torch.cat([first.expand(len(own), -1, -1, -1), own], dim=2).repeat_interleave(groups, dim=1)
        for first, own in zip(before, (key, value), strict=True)
    )
    # `is_causal` would align the triangle to the top left, where the first new token sees the first old one alone.
    seen = causal_lower_right(query.shape[2], key.shape[2])
    return F.scaled_dot_product_attention(query, key, value, seen, scale=scaling).transpose(1, 2)


@functools.cache
def _takes_groups(device: torch.device, dtype: torch.dtype) -> bool:
    """Whether a kernel that saves memory takes several heads for one of keys. Of a GPU's, only the flash kernels do:
    for others PyTorch would write out the products of all tokens with each other."""
    return device.type == "cpu" or (dtype in IN_16_BITS and has_flash(device))


@functools.cache
def packed_takes_groups() -> bool:
    """Whether the kernel for packed rows takes several heads for one of keys."""
    from torch.nn.attention.varlen import varlen_attn

    return "enable_gqa" in inspect.signature(varlen_attn).parameters  # not in PyTorch 2.11


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

    places, longest = packing.places, packing.longest
    assert places is not None
    query, key, value = (states[0].transpose(0, 1) for states in (query, key, value))
    if before is not None:
        assert places.keys is not None
        longest += before[0].shape[2]
        key, value = (
            torch.cat([first[0].transpose(0, 1), own]).index_select(0, places.keys)
            for first, own in zip(before, (key, value), strict=True)
        )
    options: dict[str, Any] = {"scale": scaling, "window_size": (-1, 0 if causal else -1)}
    if query.shape[1] != key.shape[1]:
        if packed_takes_groups():
            options["enable_gqa"] = True
        else:
            key, value = (s.repeat_interleave(query.shape[1] // s.shape[1], dim=1) for s in (key, value))
    bounds = places.bounds, places.key_bounds
    out: torch.Tensor = varlen_attn(query, key, value, *bounds, packing.longest, longest, **options)
    return out.unsqueeze(0)


transformers.AttentionInterface.register(ATTENTION, attend)
