"""To how many of its first values a vector is cut, and whether the model was trained for it (Matryoshka).

Knows the files that say so; cuts nothing, which `encoder.layers` does.
"""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from sfr_batch.config.settings import ModelSettings
from sfr_batch.errors import ModelError
from sfr_batch.model.repository import keys
from sfr_batch.model.repository.folder import REPOSITORY_FILE, read_config
from sfr_batch.model.repository.keys import wrong_kind

_LISTS = ("matryoshka_dimensions", "matryoshka_dims")
_FLAG = "is_matryoshka"
_TRUNCATE = "truncate_dim"


def read_dimensions(folder: Path, dim: int, repository: Mapping[str, Any], settings: ModelSettings) -> int | None:
    """The length to which vectors of length ``dim`` are cut; None if they are not.

    repository: config_sentence_transformers.json, whose truncate_dim is obeyed where the settings do not say, as in
    the reference. Raises ModelError for a length to which the model was not trained to be cut, as far as its files
    and the settings tell.
    """
    asked = settings.dimensions
    if asked is None:
        own = repository.get(_TRUNCATE)
        return own if own is not None and own < dim else None
    if asked > dim:
        raise ModelError(
            f"model.dimensions is {asked} in the config, but vectors of {folder} have {dim} values. Set it to at most "
            f"{dim}, or remove it."
        )
    if asked == dim:
        return None
    if not settings.matryoshka:
        _check_training(folder, asked, repository)
    return asked


def _check_training(folder: Path, asked: int, repository: Mapping[str, Any]) -> None:
    file, config = folder / "config.json", read_config(folder)
    trained: list[int] | None = None
    for name in _LISTS:
        if config.get(name) is not None:
            if not keys.SIZES.fits(config[name]):
                raise wrong_kind(file, name, config[name], keys.SIZES)
            trained = [*(trained or []), *config[name]]
    if trained is not None and asked not in trained:
        raise ModelError(
            f"model.dimensions is {asked} in the config, but the model was trained to be cut to "
            f"{', '.join(map(str, sorted(set(trained))))} by {file}. Set it to one of these, or set model.matryoshka "
            "to true if the model card says that other lengths work."
        )
    says_so = trained is not None or config.get(_FLAG) is True
    if not says_so and repository.get(_TRUNCATE) is None and config.get(_TRUNCATE) is None:
        raise ModelError(
            f"model.dimensions is {asked} in the config, but nothing in {folder} says that the model was trained for "
            f"shorter vectors ({_TRUNCATE} in {REPOSITORY_FILE}, {' or '.join(_LISTS)} in config.json). The first "
            "values of other models are not a smaller embedding. Remove model.dimensions, or set "
            "model.matryoshka to true if the model card says so."
        )
