"""A rate on paper, where nothing was measured: operations of a token by config.json, against those of a type of GPU.

`gpus.yaml` has the types and says of each whether it was measured. Knows no run.
"""

from collections.abc import Mapping
from functools import cache
from pathlib import Path
from typing import Any

import yaml

from sfr_batch.errors import ConfigError
from sfr_batch.storage.local_files import read_text

TABLE = Path(__file__).with_name("gpus.yaml")
_GATED = ("mistral", "llama", "qwen2", "qwen3", "gemma", "gemma2", "gemma3_text", "phi3", "modernbert")
"""Families whose MLPs have three matrices; all others have two."""


@cache
def gpu_types() -> Mapping[str, Mapping[str, Any]]:
    """The table of types, by name."""
    found: Mapping[str, Mapping[str, Any]] = yaml.safe_load(read_text(TABLE))
    return found


def gpu_named(name: str) -> Mapping[str, Any]:
    """The type that `run.gpu` names, in upper or lower case. Raises ConfigError for an unknown one."""
    for known, values in gpu_types().items():
        if known.lower() == name.lower():
            return values
    raise ConfigError(
        f"run.gpu: {name} is not in the table of types of GPU, which has {', '.join(gpu_types())}. Name one of these, "
        f"add yours to {TABLE}, or remove run.gpu and measure: `sfr-batch verify CONFIG`."
    )


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


def rate_on_paper(gpu: Mapping[str, Any], dtype: str, config: Mapping[str, Any], tokens: float) -> float | None:
    """Tokens a second of one GPU. dtype: in which the model computes; float32 is not known of any type."""
    needed = operations(config, tokens)
    speed = {"bfloat16": gpu["tflops"], "float16": gpu["tflops"], "fp8": gpu.get("fp8_tflops")}.get(dtype)
    return float(gpu["share"] * speed * 1e12 / needed) if needed and speed else None
