"""Fetches a model from the model hub. The only module that imports huggingface_hub."""

import contextlib
import glob
import os
import re
from pathlib import Path
from typing import Any

from sfr_batch.config.settings import ModelSettings
from sfr_batch.errors import ModelError
from sfr_batch.model.repository import weights
from sfr_batch.model.repository.folder import module_weight_files, read_object, weight_files, weight_names_of
from sfr_batch.model.sources import room
from sfr_batch.storage.local_files import file_lock, free_bytes

NAME = re.compile(r"[\w.-]+(/[\w.-]+)?")


def fetch(settings: ModelSettings, *, with_weights: bool) -> Path:
    """The folder of the model in the hub's cache, downloaded if it is not there.

    Raises ModelError, also if the disk has too little space; StorageError if the cache cannot be locked.
    """
    folder = Path(_snapshot(settings, weights.SMALL_FILES))
    if not with_weights or _has_weights(folder):
        return folder
    cache = folder.parents[2]
    # The hub's client locks each file; this lock is for the question how much is missing, which the winner changes.
    with file_lock(cache / ".sfr-batch.lock"):
        if not _has_weights(folder):
            files = _wanted(settings, folder)
            started = sum(file.stat().st_size for file in folder.parents[1].glob("blobs/*.incomplete"))
            needed = sum(file.file_size or 0 for file in files if file.will_download) - started
            room.check_disk(cache, needed, free_bytes(cache), settings.path)
            patterns = [glob.escape(file.filename) for file in files]
            folder = Path(_snapshot(settings, [*weights.SMALL_FILES, *patterns]))
    return folder


def _wanted(settings: ModelSettings, folder: Path) -> list[Any]:
    """What the hub's client tells of the files that are loaded, by the small files in ``folder``."""
    index = read_object(folder / weights.INDEX)
    names = [weights.WEIGHTS, *weights.shard_names(index, settings.path), *module_weight_files(folder)]
    found = {file.filename: file for file in _snapshot(settings, [*map(glob.escape, names)], dry_run=True)}
    return [found[name] for name in weight_names_of(found, folder, settings.path)]


def _has_weights(folder: Path) -> bool:
    with contextlib.suppress(ModelError):
        return bool(weight_files(folder))
    return False


def _snapshot(settings: ModelSettings, patterns: list[str], **options: Any) -> Any:
    import huggingface_hub  # here, because planning with a local folder does not need it

    cache_dir = str(room.chosen_cache(settings.cache_dir)) if settings.cache_dir else None
    try:
        return huggingface_hub.snapshot_download(
            settings.path, revision=settings.revision, cache_dir=cache_dir, allow_patterns=patterns, **options
        )
    except Exception as error:  # the hub's client and its HTTP library have no common base
        raise ModelError(unreachable(settings, error)) from error


def unreachable(settings: ModelSettings, error: Exception) -> str:
    """The message for a model that cannot be downloaded."""
    at = f" at revision {settings.revision}" if settings.revision else ""
    brief = next(iter(str(error).strip().splitlines()), "") or type(error).__name__
    return (
        f"model.path: {settings.path}{at} cannot be downloaded from the model hub ({type(error).__name__}: {brief}), "
        f"and there is no folder {os.path.abspath(settings.path)}. Check the name, the revision and, for a gated "
        "model, HF_TOKEN. Without a network: download it elsewhere with "
        f"`hf download {settings.path}`, copy the folder here and set model.path to it."
    )


def recorded_hashes(settings: ModelSettings, folder: Path) -> dict[str, str]:
    """SHA-256 of the weight files by name, as the hub records them; downloads nothing."""
    import huggingface_hub

    # The folder in the cache is named after the commit: ask for that one, a branch may have moved since.
    commit = folder.name if re.fullmatch(r"[0-9a-f]{40}", folder.name) else settings.revision
    info = huggingface_hub.HfApi().model_info(settings.path, revision=commit, files_metadata=True)
    files = {file.rfilename: file for file in info.siblings or []}
    hashes = {}
    for name in weight_names_of(files, folder, settings.path):
        if files[name].lfs is None:
            raise OSError(f"the hub does not tell the hash of {name}")
        hashes[name] = str(files[name].lfs.sha256)
    return hashes
