"""Copies a model from S3 into a folder of this node: once for all processes, complete, and never two versions mixed.

The folder is named after the version of the model's files (names, sizes, ETags), and a file in it gets its name when
it is complete. So no mark of completeness is needed: after a process is killed, the next one fetches what is missing.
Only files that are ever read are fetched, never a pickle.
"""

import logging
from collections.abc import Mapping, Sequence
from pathlib import Path

from sfr_batch.config.settings import ModelSettings
from sfr_batch.errors import ModelError, StorageError
from sfr_batch.format.fingerprint import short_id
from sfr_batch.model.repository import weights
from sfr_batch.model.repository.folder import weight_names_of
from sfr_batch.model.sources import checksums, lock_file, room
from sfr_batch.storage.input_listing import list_inputs
from sfr_batch.storage.inputs import InputFile, fetch_input, read_input_range
from sfr_batch.storage.local_files import file_lock, free_bytes, partial_name, remove
from sfr_batch.storage.locations import absolute_uri

_log = logging.getLogger(__name__)


def fetch(settings: ModelSettings, *, with_weights: bool) -> Path:
    """The folder on this node with the model's current files, at least the small ones. Raises ModelError, StorageError.

    One process of a node fetches and the others wait for it; a process that finds all that it needs does not wait.
    """
    uri, files = absolute_uri(settings.path), list_model(settings)
    folder = _small_files(settings, uri, files)
    if with_weights:
        _ensure(folder, {name: files[name] for name in weight_names_of(files, folder, uri)}, settings, uri)
    return folder


def _small_files(settings: ModelSettings, uri: str, files: Mapping[str, InputFile]) -> Path:
    """The folder on this node with what a recipe and a tokenizer are read from."""
    small = {name: file for name, file in files.items() if weights.is_small(name)}
    if "config.json" not in small:
        what = "it has no config.json" if files else "no object has this prefix"
        raise ModelError(f"model.path: {uri} is not a model folder: {what}. Set it to the prefix of a whole model.")
    folder = _folder(settings, uri, files)
    _ensure(folder, small, settings, uri)
    return folder


def weight_hashes(settings: ModelSettings) -> dict[str, str]:
    """File name -> SHA-256 of the weights on S3: from the lock file beside them, else by fetching and hashing them.

    Raises ModelError, StorageError.
    """
    uri, files = absolute_uri(settings.path), list_model(settings)
    folder = _small_files(settings, uri, files)
    names = weight_names_of(files, folder, uri)
    locked = _locked(settings, files, names)
    if locked is not None:
        return locked
    if _missing(folder, {name: files[name] for name in names}):
        total = room.gib(sum(files[name].size for name in names))
        _log.warning(
            "%s has no %s beside its weights, so all %s are fetched to be hashed here.", uri, lock_file.LOCK, total
        )
    folder = fetch(settings, with_weights=True)
    return checksums.hashes([folder / name for name in names], folder)


def locked_hashes(settings: ModelSettings) -> dict[str, str] | None:
    """The hashes that the lock file on S3 gives, None if there is none. Raises ModelError, StorageError."""
    files, uri = list_model(settings), absolute_uri(settings.path)
    if lock_file.LOCK not in files:
        return None
    return _locked(settings, files, weight_names_of(files, _small_files(settings, uri, files), uri))


def _locked(settings: ModelSettings, files: Mapping[str, InputFile], names: Sequence[str]) -> dict[str, str] | None:
    lock = files.get(lock_file.LOCK)
    if lock is None:
        return None
    text = read_input_range(lock.uri, 0, lock.size, settings.storage).decode("utf-8", "replace")
    return lock_file.read_lock(text, {name: files[name].size for name in names}, lock.uri)


def list_model(settings: ModelSettings) -> dict[str, InputFile]:
    """Every file under the model's prefix, by its name below it. Raises StorageError."""
    uri = absolute_uri(settings.path)
    try:
        found = list_inputs(uri, settings.storage)
    except StorageError as error:
        raise type(error)(f"model.path: {error}") from error
    return {file.uri.removeprefix(f"{uri}/"): file for file in found}


def _folder(settings: ModelSettings, uri: str, files: Mapping[str, InputFile]) -> Path:
    # Not in the version: files that are not fetched, such as a lock file that is written after the weights.
    fetched = [name for name in files if weights.is_small(name) or weights.is_weights(name)]
    version = short_id(uri, *([name, files[name].size, files[name].version] for name in sorted(fetched)))
    root = room.chosen_cache(settings.cache_dir) if settings.cache_dir else room.cache_folder() / "models"
    return root.absolute() / f"{uri.rsplit('/', 1)[-1]}-{version}"


def _missing(folder: Path, files: Mapping[str, InputFile]) -> dict[str, InputFile]:
    def whole(name: str) -> bool:
        path = folder / name
        return path.is_file() and path.stat().st_size == files[name].size

    return {name: file for name, file in files.items() if not whole(name)}


def _ensure(folder: Path, files: Mapping[str, InputFile], settings: ModelSettings, uri: str) -> None:
    if not _missing(folder, files):
        return
    with file_lock(folder.with_name(f"{folder.name}.lock")):
        missing = _missing(folder, files)  # another process may have fetched them meanwhile
        for name in missing:
            remove(partial_name(folder / name))  # of a process that was killed
        needed = sum(file.size for file in missing.values())
        room.check_disk(folder.parent, needed, free_bytes(folder.parent), uri)
        for name, file in missing.items():
            _log.info("fetching %s, %s", file.uri, room.gib(file.size))
            sha256 = fetch_input(file, folder / name, settings.storage)
            if weights.is_weights(name):
                checksums.remember(folder / name, sha256)
