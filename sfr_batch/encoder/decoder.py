"""The forward pass of decoders that pool their last token: what transformers would compute, and nothing else.

Mistral, Llama and Qwen have the same layers, and transformers' own modules do the arithmetic here. There is no
attention mask; the tokens that all rows begin with are computed once, and in the last layer only those that are pooled.
Knows token ids and nothing of texts, batching or settings.
"""

from typing import Any

import torch

from sfr_batch.encoder.attention import Packing, Prefix
from sfr_batch.model.recipe import Recipe
from sfr_batch.model.repository.families import WINDOWED


def is_plain_decoder(recipe: Recipe) -> bool:
    """Whether `Decoder` runs this model: all layers of these families have the one shape that it knows."""
    return recipe.model_type in WINDOWED and recipe.causal and recipe.pooling == "last_token"


class Decoder:
    """A transformers decoder without head, loaded with attn_implementation ATTENTION."""

    def __init__(self, model: Any) -> None:
        self._model = model
        *self._layers, self._last = model.layers

    def prefix(self, ids: torch.Tensor) -> Prefix:
        """The keys and values of the tokens ``ids`` [p], for rows that begin with them."""
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

        ids: [b, t] rows padded on the right, or [1, t] as ``packing`` says. places: [b, t] or [1, t], the position of
        each token in its row, a prefix included. last: [n], the tokens, of b * t, whose states are returned.
        """
        hidden, beside = self._embed(ids, places)
        for layer in self._layers:
            hidden = layer(hidden, prefix=prefix, packing=packing, **beside)
        # The last layer by hand: attention sees all tokens, but the rest is computed only for the pooled ones.
        normed = self._last.input_layernorm(hidden)
        attended, _ = self._last.self_attn(normed, prefix=prefix, packing=packing, **beside)
        pooled = hidden.flatten(0, 1)[last] + attended.flatten(0, 1)[last]
        pooled = pooled + self._last.mlp(self._last.post_attention_layernorm(pooled))
        states: torch.Tensor = self._model.norm(pooled)
        return states

    def _embed(self, ids: torch.Tensor, places: torch.Tensor) -> tuple[torch.Tensor, dict[str, Any]]:
        """Embeddings of ``ids``, and the keyword arguments of every layer."""
        hidden = self._model.embed_tokens(ids)
        return hidden, {
            "attention_mask": None,
            "position_ids": places,
            "position_embeddings": self._model.rotary_emb(hidden, position_ids=places),
        }
