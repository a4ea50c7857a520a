"""The forward pass of decoders that pool their last token: what transformers would compute, and nothing else.

Mistral, Llama and Qwen have the same layers, and transformers' own modules do the arithmetic here. What is left out:
the attention mask, the tokens that all rows begin with, which are computed once, and in the last layer all tokens but
the one that is pooled. Knows token ids and nothing of texts, batching or settings.
"""

from typing import Any

import torch

from sfr_batch.encoder.attention import Packing, Prefix
from sfr_batch.model.recipe import Recipe

_TYPES = frozenset({"mistral", "llama", "qwen2", "qwen3"})
"""Types of models whose layers all have the one shape that `Decoder` knows."""


def is_plain_decoder(recipe: Recipe) -> bool:
    """Whether `Decoder` runs this model."""
    return recipe.model_type in _TYPES and recipe.pooling == "last_token"


class Decoder:
    """A transformers decoder without head, loaded with attn_implementation ATTENTION."""

    def __init__(self, model: Any) -> None:
        self._model = model
        *self._layers, self._last = model.layers

    def prefix(self, ids: torch.Tensor) -> Prefix:
        """What rows that begin with ``ids`` [p] need to know of them."""
        prefix = Prefix(len(ids))
        hidden, beside = self._embed(ids.unsqueeze(0), torch.arange(len(ids), device=ids.device).unsqueeze(0))
        for layer in self._layers:
            hidden = layer(hidden, prefix=prefix, **beside)
        self._last.self_attn(self._last.input_layernorm(hidden), prefix=prefix, **beside)
        return prefix

    def states(
        self,
        ids: torch.Tensor,
        places: torch.Tensor,
        last: torch.Tensor,
        prefix: Prefix | None = None,
        packing: Packing | None = None,
    ) -> torch.Tensor:
        """[n, d] final states of n tokens of a batch.

        ids: [b, t] rows padded on the right, or [1, t] as ``packing`` says. places: [b, t] or [1, t], where in its
        row each token stands, a prefix counted in. last: [n], which of the b * t tokens are asked for.
        """
        hidden, beside = self._embed(ids, places)
        for layer in self._layers:
            hidden = layer(hidden, prefix=prefix, packing=packing, **beside)
        # The last layer by hand: all tokens are looked at, but of one alone the rest is computed.
        normed = self._last.input_layernorm(hidden)
        attended, _ = self._last.self_attn(normed, prefix=prefix, packing=packing, **beside)
        pooled = hidden.flatten(0, 1)[last] + attended.flatten(0, 1)[last]
        pooled = pooled + self._last.mlp(self._last.post_attention_layernorm(pooled))
        states: torch.Tensor = self._model.norm(pooled)
        return states

    def _embed(self, ids: torch.Tensor, places: torch.Tensor) -> tuple[torch.Tensor, dict[str, Any]]:
        """Embeddings of ``ids``, and what every layer is told beside them."""
        hidden = self._model.embed_tokens(ids)
        return hidden, {
            "attention_mask": None,
            "position_ids": places,
            "position_embeddings": self._model.rotary_emb(hidden, position_ids=places),
        }
