"""Where a model is: in a local folder, a Python package, on S3 or on the model hub; and the hashes of its weights."""

import importlib.util
import os
from pathlib import Path

from sfr_batch.config.settings import ModelSettings
from sfr_batch.errors import ModelError
from sfr_batch.model import checksums
from sfr_batch.model import s3_cache as model_cache
from sfr_batch.model.folder import weight_files
from sfr_batch.model.hub import HUB_NAME, from_hub, hub_hashes, unreachable
from sfr_batch.storage.store import absolute_uri, is_s3

_PACKAGE = "package:"


def is_local(path: str) -> bool:
    """Whether ``model.path`` means a folder on this machine, and neither S3 nor a name on the model hub."""
    return not is_s3(path) and (path.startswith(("/", ".", "~", _PACKAGE)) or os.path.exists(path))


def locate(settings: ModelSettings, *, weights: bool) -> Path:
    """The model folder on this machine; a model on S3 or on the hub is fetched into a cache if it is not there yet.

    Without ``weights`` only the small files are fetched, which is enough for a recipe and a tokenizer. Raises
    ModelError if there is no such model, or, with ``weights``, if the folder holds none that can be loaded safely;
    StorageError if S3 refuses.
    """
    if is_s3(settings.path):
        return model_cache.fetch(settings, with_weights=weights)
    if settings.path.startswith(_PACKAGE):
        folder = _package_folder(settings.path)
    elif is_local(settings.path):
        folder = Path(os.path.abspath(os.path.expanduser(settings.path)))
        if not folder.is_dir():
            raise ModelError(f"model.path: there is no folder {folder}. Give an existing folder or a model hub name.")
    elif HUB_NAME.fullmatch(settings.path):
        folder = from_hub(settings, with_weights=weights)
    else:
        raise ModelError(
            f"model.path: {settings.path} is neither a folder on this machine, nor an s3:// prefix, nor a model hub "
            "name (owner/name)."
        )
    if weights:
        weight_files(folder)
    return folder


def _package_folder(path: str) -> Path:
    """The folder behind ``package:name/folder``: a model that an installed Python package carries."""
    name, _, inside = path.removeprefix(_PACKAGE).partition("/")
    spec = importlib.util.find_spec(name) if name.isidentifier() else None
    roots = [Path(root) for root in (spec.submodule_search_locations or [])] if spec else []
    if not roots:
        raise ModelError(f"model.path: {path} needs the Python package {name}, which is not installed on this node.")
    folder = roots[0] / inside
    if not folder.is_dir():
        raise ModelError(f"model.path: the package {name} has no folder {inside}; it lies at {roots[0]}.")
    return folder


def is_carried(path: str) -> bool:
    """Whether ``model.path`` means a folder inside an installed package, which is nobody's to write to."""
    return path.startswith(_PACKAGE)


def weight_hashes(settings: ModelSettings, folder: str | os.PathLike[str]) -> dict[str, str]:
    """File name -> SHA-256 of each weight file: the identity of the model, wherever its copy lies.

    A lock file beside the weights is believed, and the hub is asked, which costs no download; what neither knows is
    hashed here, once, and so a model on S3 without a lock file is fetched. That the weights on a node have these
    hashes is checked where they are loaded. Raises ModelError, StorageError.
    """
    folder = Path(folder)
    if is_s3(settings.path):
        return model_cache.weight_hashes(settings)
    if is_local(settings.path):
        files = weight_files(folder)
        locked = checksums.folder_lock(folder, files)
        return checksums.hashes(files) if locked is None else locked
    try:
        return hub_hashes(settings, folder)
    except ModelError:
        raise
    except Exception as error:  # as above: no common base
        try:
            return checksums.hashes(weight_files(folder))
        except ModelError:
            raise ModelError(unreachable(settings, error)) from error


def published_hashes(settings: ModelSettings, folder: Path) -> tuple[dict[str, str], str] | None:
    """File name -> SHA-256 by somebody other than the weights in ``folder``, and by whom.

    That is the lock file beside the model, or the hub; None where there is no lock file and where the hub cannot be
    reached. Raises ModelError for a lock file of other files, StorageError.
    """
    if is_s3(settings.path):
        locked, place = model_cache.locked_hashes(settings), lock_place(settings, folder)
    elif is_local(settings.path):
        locked, place = checksums.folder_lock(folder, weight_files(folder)), lock_place(settings, folder)
    else:
        place = "the model hub"
        try:
            locked = hub_hashes(settings, folder)
        except Exception:  # the hub's client and its HTTP library have no common base
            locked = None
    return None if locked is None else (locked, place)


def lock_place(settings: ModelSettings, folder: Path) -> str:
    """Where the lock file of the model belongs: beside its weights, which for a model on S3 is there."""
    return f"{absolute_uri(settings.path)}/{checksums.LOCK}" if is_s3(settings.path) else str(folder / checksums.LOCK)
