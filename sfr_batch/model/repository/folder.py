"""The small files of a model folder: which weight files it has, and its JSON files, read with clear errors."""

import json
import os
from collections.abc import Iterable
from pathlib import Path, PurePosixPath
from typing import Any, cast

from sfr_batch.errors import ModelError
from sfr_batch.model.repository import weights
from sfr_batch.model.repository.module_types import WITH_WEIGHTS, kind_of
from sfr_batch.storage.local_files import read_text_file

MODULES = "modules.json"
"""The file in which sentence-transformers lists the modules of a model."""
TRANSFORMER_FILES = tuple(
    f"sentence_{kind}_config.json"
    for kind in ("bert", "roberta", "distilbert", "camembert", "albert", "xlm-roberta", "xlnet")
)
"""Names of the file in which sentence-transformers keeps the settings of the transformer, in the order in which it
tries them (base/modules/transformer.py, load_config)."""
REPOSITORY_FILE = "config_sentence_transformers.json"
"""The file in which sentence-transformers keeps the prompts of a model."""


def read_config(folder: str | os.PathLike[str]) -> dict[str, Any]:
    """config.json of the model in ``folder``, empty if it has none. Raises ModelError."""
    return read_object(Path(folder) / "config.json")


def weight_files(folder: Path) -> list[Path]:
    """The weights in a model folder, the transformer's first. Raises ModelError if there are none, or not all."""
    wanted = module_weight_files(folder)
    if not (folder / weights.WEIGHTS).is_file():
        wanted += weights.shard_names(read_object(folder / weights.INDEX), str(folder))
    places = [PurePosixPath(), *dict.fromkeys(PurePosixPath(name).parent for name in wanted if "/" in name)]
    here = [str(place / name) for place in places if (folder / place).is_dir() for name in os.listdir(folder / place)]
    return [folder / name for name in weight_names_of(here, folder, str(folder))]


def weight_names_of(names: Iterable[str], folder: Path, where: str) -> list[str]:
    """The files among ``names`` that are loaded, for the model whose small files are in ``folder``.

    where: the model in an error. Raises ModelError if there are none, or not all.
    """
    return weights.weight_names(names, read_object(folder / weights.INDEX), module_weight_files(folder), where)


def module_weights(path: str) -> str:
    """The weight file of the module in the folder ``path``, both named relative to the model folder."""
    return str(PurePosixPath(path) / weights.WEIGHTS)


def module_weight_files(folder: Path) -> list[str]:
    """The weight files of modules by modules.json, named relative to ``folder``. `modules` checks that file."""
    entries = read_json(folder / MODULES)
    return [
        module_weights(str(entry.get("path")))
        for entry in (entries if isinstance(entries, list) else [])
        if isinstance(entry, dict) and kind_of(str(entry.get("type"))) in WITH_WEIGHTS
    ]


def read_json(file: Path) -> Any:
    """What a JSON file holds; None where there is no file. Raises ModelError if it is not JSON."""
    text = read_text_file(file)
    if text is None:
        return None
    try:
        return json.loads(text, parse_constant=_no_number)
    except ValueError as error:
        raise ModelError(f"{file} is not valid JSON ({error}). Fetch the model again.") from error


def _no_number(text: str) -> None:
    """NaN and the infinities: JSON has none, and no fingerprint can tell them apart."""
    raise ValueError(f"{text} is no number in JSON")


def read_object(file: Path) -> dict[str, Any]:
    """A JSON file that holds an object; empty where there is none."""
    value = read_json(file)
    if value is None:
        return {}
    if not isinstance(value, dict):
        raise ModelError(f"{file} should hold a JSON object. Fetch the model again.")
    return cast(dict[str, Any], value)
