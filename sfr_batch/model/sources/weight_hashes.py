"""The SHA-256 of a model's weights, which are its identity: as a lock file or the model hub says, else computed.

Knows where hashes can be had; how they are computed is known to `checksums`, and what else is in a fingerprint to
`identity`.
"""

import os
import socket
from collections.abc import Mapping, Sequence
from pathlib import Path

from sfr_batch.config.settings import ModelSettings
from sfr_batch.errors import ModelError
from sfr_batch.model.repository.folder import weight_files
from sfr_batch.model.sources import checksums, hub, s3_cache
from sfr_batch.model.sources.location import is_local
from sfr_batch.model.sources.lock_file import LOCK, folder_lock
from sfr_batch.storage.locations import absolute_uri, is_s3


def weight_hashes(settings: ModelSettings, folder: str | os.PathLike[str]) -> dict[str, str]:
    """File name -> SHA-256 of each weight file: the identity of the model, wherever its copy is.

    Hashes come from the lock file or the hub, without a download; otherwise the weights are hashed once, for which a
    model on S3 is fetched. Where weights are loaded, `check_weights` compares them. Raises ModelError, StorageError.
    """
    folder = Path(folder)
    if is_s3(settings.path):
        return s3_cache.weight_hashes(settings)
    if is_local(settings.path):
        files = weight_files(folder)
        locked = folder_lock(folder, files)
        return checksums.hashes(files, folder) if locked is None else locked
    try:
        return hub.recorded_hashes(settings, folder)
    except ModelError:
        raise
    except Exception as error:  # the hub's client and its HTTP library have no common base
        try:
            return checksums.hashes(weight_files(folder), folder)
        except ModelError:
            raise ModelError(hub.unreachable(settings, error)) from error


def published_hashes(settings: ModelSettings, folder: Path) -> tuple[dict[str, str], str] | None:
    """File name -> SHA-256 as recorded outside of the weights in ``folder``, and where: in the lock file or on the hub.

    None if there is no lock file or the hub cannot be reached. Raises ModelError for a lock file that does not match
    the files, StorageError.
    """
    if is_s3(settings.path):
        locked, place = s3_cache.locked_hashes(settings), lock_place(settings, folder)
    elif is_local(settings.path):
        locked, place = folder_lock(folder, weight_files(folder)), lock_place(settings, folder)
    else:
        place = "the model hub"
        try:
            locked = hub.recorded_hashes(settings, folder)
        except Exception:  # the hub's client and its HTTP library have no common base
            locked = None
    return None if locked is None else (locked, place)


def lock_place(settings: ModelSettings, folder: Path) -> str:
    """The path or URI of the model's lock file, beside its weights."""
    return f"{absolute_uri(settings.path)}/{LOCK}" if is_s3(settings.path) else str(folder / LOCK)


def check_weights(files: Sequence[Path], expected: Mapping[str, str], folder: Path | None = None) -> None:
    """Raises ModelError unless ``files``, on this node, have the ``expected`` SHA-256 by their name in ``folder``."""
    folder = folder or files[0].parent
    found = checksums.hashes(files, folder)
    for name in sorted({*found, *expected}):
        here, there = found.get(name), expected.get(name)
        if here != there:
            raise ModelError(
                f"{folder / name} on node {socket.gethostname()} does not match the table's fingerprint: "
                f"SHA-256 {here or 'none (no such file)'}, expected {there or 'none (not in the fingerprint)'}. If "
                "this copy is outdated or damaged, remove it, and copy it again if model.path is a local folder. If "
                f"the model was replaced on purpose, recreate {LOCK} if there is one, and choose a new table.path."
            )
