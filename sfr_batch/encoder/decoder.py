"""The forward pass of decoders that pool their last token: what transformers would compute, and nothing else.

Mistral, Llama and Qwen have the same layers, and transformers' own modules do the arithmetic here. What is left out:
the attention mask (padding stands on the right, where no real token looks, and without one PyTorch takes its flash
kernel), the tokens that all rows begin with, which are computed once, and in the last layer all tokens but the one that
is pooled. Knows token ids and nothing of texts, batching or settings.
"""

from typing import Any

import torch
import torch.nn.functional as F
import transformers
from torch.nn.attention.bias import causal_lower_right

ATTENTION = "sfr_batch_causal"
"""What `attend` is called in transformers: the attn_implementation to load a decoder with."""


class Prefix:
    """Keys and values of the ``length`` tokens that every row begins with; layer by layer, [1, heads, length, d]."""

    def __init__(self, length: int) -> None:
        self.length = length
        self._states: dict[int, tuple[torch.Tensor, torch.Tensor]] = {}

    def put_before(self, layer: int, key: torch.Tensor, value: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """``key`` and ``value`` [b, heads, t, d] with the prefix's own before them; a first call makes them its own."""
        known = self._states.setdefault(layer, (key, value))
        if known[0] is key:
            return key, value
        before = [states.expand(len(key), -1, -1, -1) for states in known]
        return torch.cat([before[0], key], dim=2), torch.cat([before[1], value], dim=2)


def attend(
    module: Any,
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    attention_mask: torch.Tensor | None,
    scaling: float | None = None,
    prefix: Prefix | None = None,
    **_: Any,
) -> tuple[torch.Tensor, None]:
    """Causal attention, in the form that transformers calls: [b, heads, t, d] in, [b, t, heads, d] out."""
    assert attention_mask is None, "padding stands on the right"
    if prefix is not None:
        key, value = prefix.put_before(module.layer_idx, key, value)
    asked, seen, groups = query.shape[2], key.shape[2], query.shape[1] // key.shape[1]
    if asked == seen:
        out = F.scaled_dot_product_attention(query, key, value, is_causal=True, scale=scaling, enable_gqa=groups > 1)
    else:
        # `is_causal` would align the triangle to the top left, where the first new token sees the first old one alone.
        key, value = (states.repeat_interleave(groups, dim=1) for states in (key, value))
        out = F.scaled_dot_product_attention(query, key, value, causal_lower_right(asked, seen), scale=scaling)
    return out.transpose(1, 2), None


transformers.AttentionInterface.register(ATTENTION, attend)


class Decoder:
    """A transformers decoder without head, loaded with attn_implementation ATTENTION."""

    def __init__(self, model: Any) -> None:
        self._model = model
        *self._layers, self._last = model.layers

    def prefix(self, ids: torch.Tensor) -> Prefix:
        """What rows that begin with ``ids`` [p] need to know of them."""
        prefix = Prefix(len(ids))
        hidden, where = self._embed(ids.unsqueeze(0), 0)
        for layer in self._layers:
            hidden = layer(hidden, prefix=prefix, **where)
        self._last.self_attn(self._last.input_layernorm(hidden), prefix=prefix, **where)
        return prefix

    def states(self, ids: torch.Tensor, last: torch.Tensor, prefix: Prefix | None = None) -> torch.Tensor:
        """[b, d] final states of the tokens at ``last`` [b] of the rows ``ids`` [b, t], padded on the right.

        With a prefix, ``ids`` and ``last`` count from its end.
        """
        hidden, where = self._embed(ids, prefix.length if prefix else 0)
        for layer in self._layers:
            hidden = layer(hidden, prefix=prefix, **where)
        # The last layer by hand: all tokens are looked at, but of one alone the rest is computed.
        attended, _ = self._last.self_attn(self._last.input_layernorm(hidden), prefix=prefix, **where)
        rows = torch.arange(len(ids), device=ids.device)
        pooled = hidden[rows, last] + attended[rows, last]
        pooled = pooled + self._last.mlp(self._last.post_attention_layernorm(pooled))
        states: torch.Tensor = self._model.norm(pooled)
        return states

    def _embed(self, ids: torch.Tensor, start: int) -> tuple[torch.Tensor, dict[str, Any]]:
        """Embeddings of ``ids``, the first of which stand at ``start``; and what every layer is told beside them."""
        hidden = self._model.embed_tokens(ids)
        places = torch.arange(start, start + ids.shape[1], device=ids.device).unsqueeze(0)
        return hidden, {
            "attention_mask": None,
            "position_ids": places,
            "position_embeddings": self._model.rotary_emb(hidden, position_ids=places),
        }
