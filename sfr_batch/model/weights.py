"""The files of a model by name: which are read for a recipe, which are weights, and whether weights are complete.

Knows no recipe, no hashes, no hub and no S3, and imports neither torch nor safetensors.
"""

import fnmatch
import json
import re
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from sfr_batch.errors import ModelError
from sfr_batch.storage.local_files import read_bytes

SMALL_FILES = [
    "config.json",
    "modules.json",
    "*/config.json",
    "sentence_bert_config.json",
    "config_sentence_transformers.json",
    "tokenizer.json",
    "tokenizer_config.json",
    "tokenizer.model",
    "special_tokens_map.json",
    "added_tokens.json",
    "model.safetensors.index.json",
]
"""Patterns of the files that a recipe and a tokenizer are read from."""
WEIGHTS = "model.safetensors"
WEIGHT_FILES = [WEIGHTS, "model-*-of-*.safetensors"]
"""Patterns of the weight files."""
INDEX = "model.safetensors.index.json"
_SHARD = re.compile(r"model-\d+-of-\d+\.safetensors")
_PICKLES = (".bin", ".pt", ".pth")
_MAX_HEADER = 100_000_000
"""Bytes; the limit of the safetensors format."""


def is_small(name: str) -> bool:
    """Whether a file, named relative to its model folder, is one that recipes and tokenizers are read from."""
    return any(fnmatch.fnmatchcase(name, pattern) for pattern in SMALL_FILES)


def is_weights(name: str) -> bool:
    """Whether a file, named relative to its model folder, may be one of the weights that are loaded."""
    return name == WEIGHTS or _SHARD.fullmatch(name) is not None


def weight_names(names: Iterable[str], where: str) -> list[str]:
    """The files among ``names`` that transformers loads: one, or the numbered shards.

    Raises ModelError if there is none; ``where`` is the model in that message.
    """
    present = set(names)
    found = [WEIGHTS] if WEIGHTS in present else sorted(filter(is_weights, present))
    if found:
        return found
    if any(name.endswith(_PICKLES) for name in present):
        raise ModelError(
            f"{where} has its weights only as pickle files (.bin, .pt), which can run code when they are loaded. "
            "Convert them to model.safetensors, or use a revision of the model that has it."
        )
    raise ModelError(
        f"{where} has no weights (model.safetensors or its shards). Fetch the whole model, or correct model.path."
    )


def check_shards(names: Sequence[str], index: Mapping[str, Any], where: str) -> None:
    """Raises ModelError unless the weight files ``names`` are all that the ``index`` of a sharded model lists."""
    if names == [WEIGHTS]:
        return
    listed = set(index.get("weight_map", {}).values())
    missing = sorted(listed - set(names))
    if missing or not listed:
        what = ", ".join(missing) or INDEX
        raise ModelError(f"The weights in {where} are incomplete: {what} is missing. Fetch the model again.")


def check_whole(file: Path) -> None:
    """Raises ModelError if a safetensors file is shorter or longer than its own header says, or has no header."""
    size = file.stat().st_size
    length = int.from_bytes(read_bytes(file, 8), "little")
    try:
        header = json.loads(read_bytes(file, 8 + min(length, size, _MAX_HEADER))[8:])
        ends = [value["data_offsets"][1] for key, value in header.items() if key != "__metadata__"]
    except (ValueError, LookupError, TypeError, AttributeError):
        ends = []
    if not ends:
        raise ModelError(
            f"{file} is damaged or not a safetensors file: its header cannot be read. Remove it and fetch the model "
            "again."
        )
    if size != (whole := 8 + length + max(ends)):
        raise ModelError(
            f"{file} is damaged: it has {size:,} bytes, but its header describes {whole:,}. Remove it and fetch the "
            "model again."
        )
