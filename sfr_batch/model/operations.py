"""How many floating-point operations a model needs for a token, by its config.json. Knows no device."""

from collections.abc import Mapping, Sequence
from typing import Any

_GATED = ("mistral", "llama", "qwen2", "qwen3", "gemma", "gemma2", "gemma3_text", "phi3", "modernbert")
"""Families whose MLPs have three matrices; all others have two."""


def operations(config: Mapping[str, Any], tokens: float) -> float | None:
    """Operations for each token of a row of ``tokens``, by the model's config.json: two for each weight of the layers,
    and those of attention. None if config.json does not tell the sizes by the usual names."""
    try:
        width, layers, inner, heads = (
            int(config[key]) for key in ("hidden_size", "num_hidden_layers", "intermediate_size", "num_attention_heads")
        )
    except (KeyError, TypeError, ValueError):
        return None
    all_heads = heads * int(config.get("head_dim") or width // heads)
    of_keys = all_heads * int(config.get("num_key_value_heads") or heads) // heads
    matrices = 3 if config.get("model_type") in _GATED else 2
    weights = 2 * width * all_heads + 2 * width * of_keys + matrices * width * inner
    causal = 2 if matrices == 3 else 1  # half of the pairs of tokens
    return float(layers * (2 * weights + 4 * all_heads * tokens / causal))


def operations_of_rows(config: Mapping[str, Any], lengths: Sequence[int], *, pooled_alone: bool) -> float | None:
    """Operations for rows of these lengths together, see `operations`.

    pooled_alone: whether the last layer's MLP is computed for one token a row, as `encoder.decoder` does it. None as
    there.
    """
    whole = 0.0
    for length in lengths:
        of_a_token = operations(config, length)
        if of_a_token is None:
            return None
        whole += length * of_a_token
    if not pooled_alone:
        return whole
    matrices = 3 if config.get("model_type") in _GATED else 2
    mlp = 2.0 * matrices * int(config["hidden_size"]) * int(config["intermediate_size"])
    return whole - mlp * (sum(lengths) - len(lengths))
