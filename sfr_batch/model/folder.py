"""The small files of a model folder: which weight files it has, and its JSON files, read with clear errors."""

import json
import os
from pathlib import Path
from typing import Any, cast

from sfr_batch.errors import ModelError
from sfr_batch.model import weights
from sfr_batch.storage.local_files import read_text_file


def read_config(folder: str | os.PathLike[str]) -> dict[str, Any]:
    """config.json of the model in ``folder``, empty if it has none. Raises ModelError."""
    return read_object(Path(folder) / "config.json")


def weight_files(folder: Path) -> list[Path]:
    """The weights in a model folder. Raises ModelError if there are none, or not all."""
    names = weights.weight_names(os.listdir(folder), str(folder))
    weights.check_shards(names, read_object(folder / weights.INDEX), str(folder))
    return [folder / name for name in names]


def read_json(file: Path) -> Any:
    """What a JSON file holds; None where there is no file. Raises ModelError if it is not JSON."""
    text = read_text_file(file)
    if text is None:
        return None
    try:
        return json.loads(text)
    except ValueError as error:
        raise ModelError(f"{file} is not valid JSON ({error}). Fetch the model again.") from error


def read_object(file: Path) -> dict[str, Any]:
    """A JSON file that holds an object; empty where there is none."""
    value = read_json(file)
    if value is None:
        return {}
    if not isinstance(value, dict):
        raise ModelError(f"{file} should hold a JSON object. Fetch the model again.")
    return cast(dict[str, Any], value)
