"""Settings and recipe of a model folder, on the CPU."""

from pathlib import Path
from typing import Any

from sfr_batch.config.settings import ModelSettings
from sfr_batch.model.recipe import Recipe, read_recipe


def settings_of(folder: Path, **values: Any) -> ModelSettings:
    return ModelSettings(path=str(folder), device="cpu", **values)


def recipe_of(folder: Path, **values: Any) -> Recipe:
    return read_recipe(folder, settings_of(folder, **values))
