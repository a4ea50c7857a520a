"""The lock file of a model: the SHA-256 and size of each weight file, recorded beside the weights.

It pins the model, and it tells the hashes of weights that are not on this node yet. Knows no recipe, no hub and no S3.
"""

import json
from collections.abc import Mapping, Sequence
from pathlib import Path

from sfr_batch.errors import ModelError
from sfr_batch.model.sources.checksums import hashes, names
from sfr_batch.storage.local_files import read_text_file, write_atomically

LOCK = "sfr-model.lock.json"
"""Name of the file: {"files": {name: {"sha256": ..., "size": bytes}}}."""


def lock_text(files: Sequence[Path], folder: Path | None = None) -> str:
    """The lock file's content for these weight files of ``folder``, by default that of the first one."""
    found = hashes(files, folder)
    entries = {
        name: {"sha256": found[name], "size": file.stat().st_size} for name, file in names(files, folder).items()
    }
    return json.dumps({"files": entries}, indent=1) + "\n"


def write_lock(files: Sequence[Path], folder: Path | None = None) -> Path:
    """Write the lock file for the weight ``files`` into ``folder``, atomically; arguments as `lock_text`. Raises
    OSError."""
    file = (folder or files[0].parent) / LOCK
    write_atomically(file, lock_text(files, folder))
    return file


def read_lock(text: str, sizes: Mapping[str, int], where: str) -> dict[str, str]:
    """File name -> SHA-256, from the lock file ``where`` that lies beside weight files of these ``sizes`` in bytes.

    The hashes are not compared with the files here, see `weight_hashes.check_weights`. Raises ModelError if the lock
    file does not match the names and sizes.
    """
    remedy = "Recreate it, or remove it; the weights are then hashed."
    try:
        entries = {
            name: (str(entry["sha256"]), int(entry["size"])) for name, entry in json.loads(text)["files"].items()
        }
    except (ValueError, LookupError, TypeError, AttributeError):
        raise ModelError(f"{where} is not the lock file of a model. {remedy}") from None
    for name in sorted({*entries, *sizes}):
        locked, size = entries.get(name, ("", None))[1], sizes.get(name)
        if locked != size:
            told, real = (f"{n:,} bytes" if n is not None else "no such file" for n in (locked, size))
            raise ModelError(f"{where} is out of date: {name} has {real}, but the lock file says {told}. {remedy}")
    return {name: sha256 for name, (sha256, _) in entries.items()}


def folder_lock(folder: Path, files: Sequence[Path]) -> dict[str, str] | None:
    """The hashes that the lock file of a folder gives for its weight files; None if it has no lock file."""
    text = read_text_file(folder / LOCK)
    if text is None:
        return None
    return read_lock(
        text, {name: file.stat().st_size for name, file in names(files, folder).items()}, str(folder / LOCK)
    )
