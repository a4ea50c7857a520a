"""Finds the folder of a model: a local one, one in a Python package, or a copy of what is on S3 or on the model hub.

Knows where models are kept and nothing of what is in them.
"""

import importlib.util
import os
from pathlib import Path

from sfr_batch.config.settings import ModelSettings
from sfr_batch.errors import ConfigError, ModelError
from sfr_batch.model.repository.folder import weight_files
from sfr_batch.model.sources import hub, s3_cache
from sfr_batch.storage.locations import is_s3, local_path

_PACKAGE = "package:"


def is_local(path: str) -> bool:
    """Whether ``model.path`` means a folder on this machine, and neither S3 nor a name on the model hub."""
    return not is_s3(path) and (path.startswith(("/", ".", "~", "file:", _PACKAGE)) or os.path.exists(path))


def locate(settings: ModelSettings, *, weights: bool) -> Path:
    """The model folder on this machine; a model on S3 or on the hub is fetched into a cache if it is not there yet.

    Without ``weights`` only the small files are fetched, which is enough for a recipe and a tokenizer. Raises
    ModelError if there is no such model, or, with ``weights``, if the folder holds none that can be loaded safely;
    StorageError if S3 refuses, ConfigError if the path has the form of another system.
    """
    if is_s3(settings.path):
        return s3_cache.fetch(settings, with_weights=weights)
    if settings.path.startswith(_PACKAGE):
        folder = _package_folder(settings.path)
    elif is_local(settings.path):
        folder = Path(_local_path(settings.path))
        if not folder.is_dir():
            raise ModelError(
                f"model.path: the folder {folder} does not exist. Give an existing folder or a model hub name."
            )
    elif hub.NAME.fullmatch(settings.path):
        folder = hub.fetch(settings, with_weights=weights)
    else:
        _local_path(settings.path)  # which says more where another form is meant
        raise ModelError(
            f"model.path: {settings.path} is neither a folder on this machine ({os.path.abspath(settings.path)}), nor "
            "an s3:// prefix, nor a model hub name (owner/name)."
        )
    if weights:
        weight_files(folder)
    return folder


def _local_path(path: str) -> str:
    try:
        return local_path(path)
    except ConfigError as error:
        raise ConfigError(f"model.path: {error}") from None


def _package_folder(path: str) -> Path:
    """The folder behind ``package:name/folder``: a model that an installed Python package carries."""
    name, _, inside = path.removeprefix(_PACKAGE).partition("/")
    spec = importlib.util.find_spec(name) if name.isidentifier() else None
    roots = [Path(root) for root in (spec.submodule_search_locations or [])] if spec else []
    if not roots:
        raise ModelError(f"model.path: {path} needs the Python package {name}, which is not installed on this node.")
    folder = roots[0] / inside
    if not folder.is_dir():
        raise ModelError(f"model.path: the package {name} at {roots[0]} has no folder {inside}. Correct the path.")
    return folder


def is_packaged(path: str) -> bool:
    """Whether ``model.path`` means a folder inside an installed package, which is read-only."""
    return path.startswith(_PACKAGE)
