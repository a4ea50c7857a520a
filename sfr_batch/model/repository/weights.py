"""The files of a model by name: which are read for a recipe, which are weights, and whether weights are complete.

All names are relative to the model folder. Knows no recipe, no hashes, no hub and no S3, and imports neither torch nor
safetensors.
"""

import fnmatch
import json
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path, PurePosixPath
from typing import Any

from sfr_batch.errors import ModelError
from sfr_batch.storage.local_files import read_bytes

SMALL_FILES = [
    "config.json",
    "modules.json",
    "*/config.json",
    "sentence_*_config.json",
    "config_sentence_transformers.json",
    "tokenizer.json",
    "tokenizer_config.json",
    "tokenizer.model",
    "special_tokens_map.json",
    "added_tokens.json",
    "model.safetensors.index.json",
    "adapter_config.json",
]
"""Patterns of the files that a recipe and a tokenizer are read from."""
WEIGHTS = "model.safetensors"
INDEX = "model.safetensors.index.json"
ADAPTER = "adapter_config.json"
_PICKLES = (".bin", ".pt", ".pth")
_MAX_HEADER = 100_000_000
"""Bytes; the limit of the safetensors format."""


def is_small(name: str) -> bool:
    """Whether a file, named relative to its model folder, is one that recipes and tokenizers are read from."""
    return any(fnmatch.fnmatchcase(name, pattern) for pattern in SMALL_FILES)


def is_weights(name: str) -> bool:
    """Whether a file, named relative to its model folder, may be one of the weights that are loaded."""
    return name.endswith(".safetensors")


def shard_names(index: Mapping[str, Any], where: str) -> list[str]:
    """The weight files that an index names, or none where it is empty.

    index: what model.safetensors.index.json holds. Raises ModelError for one that names no safetensors files inside of
    the model folder.
    """
    files = index.get("weight_map", {})
    names = {str(name) for name in files.values()} if isinstance(files, dict) else {""}
    for name in names:
        if not name or PurePosixPath(name).is_absolute() or ".." in PurePosixPath(name).parts:
            raise ModelError(f"{INDEX} in {where} does not name the weight files (weight_map). Fetch the model again.")
        if not is_weights(name):  # transformers would load it as a pickle
            raise ModelError(
                f"{INDEX} in {where} names {name} (weight_map), which is not a safetensors file and can run code when "
                "it is loaded. Convert the model to safetensors."
            )
    return sorted(names)


def weight_names(names: Iterable[str], index: Mapping[str, Any], modules: Sequence[str], where: str) -> list[str]:
    """The files among ``names`` that are loaded: those of the transformer first, then those of ``modules``.

    transformers takes model.safetensors where there is one, else the shards that the ``index`` names, whatever other
    weights lie beside them (transformers 5.24: modeling_utils.py). modules: the weight files of modules that have some.
    Raises ModelError if one of them is missing; ``where`` is the model in that message.
    """
    present = set(names)
    _refuse_adapter(present, where)
    if WEIGHTS in present:
        found = [WEIGHTS]
    else:
        found = shard_names(index, where)
        if not found and (shards := sorted(name for name in present if is_weights(name) and "/" not in name)):
            found = [INDEX, *shards]  # without an index nobody knows whether they are all
        if not found:
            raise _no_weights(present, where)
    missing = [name for name in found if name not in present]
    if missing:
        raise ModelError(
            f"The weights in {where} are incomplete: {', '.join(missing)} is missing. Fetch the model again."
        )
    for name in modules:
        folder = str(PurePosixPath(name).parent)
        if name not in present:
            raise _no_weights([n for n in present if n.startswith(f"{folder}/")], f"{where}/{folder}")
    return list(dict.fromkeys([*found, *modules]))


def _refuse_adapter(present: Iterable[str], where: str) -> None:
    if ADAPTER in present:
        raise ModelError(
            f"{where} is an adapter of another model ({ADAPTER}), which is not supported: its own weights would be "
            "left out. Merge it into its base model (peft: merge_and_unload), and set model.path to the result."
        )


def _no_weights(present: Iterable[str], where: str) -> ModelError:
    if any(name.endswith(_PICKLES) for name in present):
        return ModelError(
            f"{where} has its weights only as pickle files (.bin, .pt), which can run code when they are loaded. "
            "Convert them to model.safetensors, or use a revision of the model that has it."
        )
    return ModelError(
        f"{where} has no weights (model.safetensors or its shards). Fetch the whole model, or correct model.path."
    )


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
