"""A rate on paper, where nothing was measured: operations of a token, against those of a type of GPU.

`gpus.yaml` has the types and says of each whether it was measured. Knows no run.
"""

from collections.abc import Mapping
from functools import cache
from pathlib import Path
from typing import Any

import yaml

from sfr_batch.errors import ConfigError
from sfr_batch.model.operations import operations
from sfr_batch.storage.local_files import read_text

TABLE = Path(__file__).with_name("gpus.yaml")


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


def rate_on_paper(gpu: Mapping[str, Any], dtype: str, config: Mapping[str, Any], tokens: float) -> float | None:
    """Tokens a second of one GPU. dtype: in which the model computes; float32 is not known of any type."""
    needed = operations(config, tokens)
    speed = {"bfloat16": gpu["tflops"], "float16": gpu["tflops"], "fp8": gpu.get("fp8_tflops")}.get(dtype)
    return float(gpu["share"] * speed * 1e12 / needed) if needed and speed else None
