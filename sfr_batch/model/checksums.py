"""SHA-256 of weight files, cached by file, size and time; and the lock file that records them beside the weights.

Knows files and hashes. It knows no tensor."""

import contextlib
import json
import os
import socket
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from sfr_batch.errors import ModelError, StorageError
from sfr_batch.storage.local_files import file_lock, make_folder, read_text, read_text_file, sha256_of, write_atomically

LOCK = "sfr-model.lock.json"
"""Beside the weights: {"files": {name: {"sha256": ..., "size": bytes}}}. See `lock_text`."""


def hashes(files: Sequence[Path]) -> dict[str, str]:
    """File name -> SHA-256 of each of ``files``.

    Remembered by path, size and times, so that of the processes of a node one hashes and the others wait for it.
    """
    keys = {file: _key(file) for file in files}
    known = _remembered()
    if not known.keys() >= set(keys.values()):
        with _remembering():
            known = _remembered()
            unknown = [file for file in files if keys[file] not in known]
            with ThreadPoolExecutor(4) as pool:  # hashlib lets go of the interpreter while it works
                found = dict(zip((keys[file] for file in unknown), pool.map(sha256_of, unknown), strict=True))
            if found:
                _remember(found)
            known |= found
    return {file.name: str(known[keys[file]]) for file in files}


def hash_again(files: Sequence[Path]) -> dict[str, str]:
    """As `hashes`, but from the bytes as they are now; what was remembered of them is replaced."""
    with _remembering(), ThreadPoolExecutor(4) as pool:
        keys = [_key(file) for file in files]
        found = list(pool.map(sha256_of, files))
        _remember(dict(zip(keys, found, strict=True)))
    return {file.name: sha256 for file, sha256 in zip(files, found, strict=True)}


def remember(file: Path, sha256: str) -> None:
    """Note the hash of a file that was computed while the file was written."""
    with _remembering():
        _remember({_key(file): sha256})


def check(files: Sequence[Path], expected: Mapping[str, str]) -> None:
    """Raises ModelError unless ``files`` on this node are the weights with these hashes, by name."""
    found = hashes(files)
    for name in sorted({*found, *expected}):
        here, there = found.get(name), expected.get(name)
        if here != there:
            raise ModelError(
                f"{files[0].parent / name} on node {socket.gethostname()} is not what the table's fingerprint asks "
                f"for: SHA-256 {here or 'none, there is no such file'} instead of "
                f"{there or 'none, the fingerprint has no such file'}. If this copy is old or damaged, remove it, and "
                f"copy it again if model.path is a local folder; if the model was replaced on purpose, make {LOCK} "
                "anew where there is one, and choose a new table.path."
            )


def _cache_file() -> Path:
    # Of this node: others, whose home may be the same, have other files under the same names.
    return user_cache() / f"weight-hashes-{socket.gethostname()}.json"


def user_cache() -> Path:
    """The folder of this user and package for what can be had again."""
    return Path(os.environ.get("XDG_CACHE_HOME") or "~/.cache").expanduser() / "sfr-batch"


def _key(file: Path) -> str:
    # The time of change too: copies made by rsync or tar keep the other.
    status = file.stat()
    return f"{file.resolve()}|{status.st_size}|{status.st_mtime_ns}|{status.st_ctime_ns}"


def _remembered() -> dict[str, str]:
    try:
        cache = json.loads(read_text(_cache_file()))
    except (OSError, ValueError):
        return {}
    return cache if isinstance(cache, dict) else {}


@contextlib.contextmanager
def _remembering() -> Iterator[None]:
    """One process at a time; without a lock where none can be had, for a cache costs time and nothing else."""
    with contextlib.ExitStack() as stack:
        with contextlib.suppress(StorageError):
            stack.enter_context(file_lock(_cache_file().with_suffix(".lock")))
        yield


def _remember(found: Mapping[str, str]) -> None:
    file = _cache_file()
    paths = {key.split("|")[0] for key in found}
    cache = {key: value for key, value in _remembered().items() if key.split("|")[0] not in paths}
    with contextlib.suppress(OSError):
        make_folder(file.parent)
        write_atomically(file, json.dumps({**cache, **found}, indent=1))


def lock_text(files: Sequence[Path]) -> str:
    """What the lock file beside the weight files ``files`` should hold."""
    found = hashes(files)
    entries = {file.name: {"sha256": found[file.name], "size": file.stat().st_size} for file in files}
    return json.dumps({"files": entries}, indent=1) + "\n"


def write_lock(files: Sequence[Path]) -> Path:
    """Put the lock file beside the weight ``files`` of one folder, whole or not at all. Raises OSError."""
    file = files[0].parent / LOCK
    write_atomically(file, lock_text(files))
    return file


def read_lock(text: str, sizes: Mapping[str, int], where: str) -> dict[str, str]:
    """File name -> SHA-256, from the lock file ``where`` that lies beside weight files of these ``sizes`` in bytes.

    The hashes are believed here; `check` is where they are compared with the files. Raises ModelError if the lock
    file is of other files.
    """
    remedy = "Make it anew, or remove it: then the weights are hashed."
    try:
        entries = {
            name: (str(entry["sha256"]), int(entry["size"])) for name, entry in json.loads(text)["files"].items()
        }
    except (ValueError, LookupError, TypeError, AttributeError):
        raise ModelError(f"{where} is no lock file of a model. {remedy}") from None
    for name in sorted({*entries, *sizes}):
        locked, size = entries.get(name, ("", None))[1], sizes.get(name)
        if locked != size:
            told, real = (f"{n:,} bytes" if n is not None else "no such file" for n in (locked, size))
            raise ModelError(f"{where} is out of date: {name} has {real}, the lock file says {told}. {remedy}")
    return {name: sha256 for name, (sha256, _) in entries.items()}


def folder_lock(folder: Path, files: Sequence[Path]) -> dict[str, str] | None:
    """The hashes that the lock file of a folder gives for its weight files; None if it has no lock file."""
    text = read_text_file(folder / LOCK)
    if text is None:
        return None
    return read_lock(text, {file.name: file.stat().st_size for file in files}, str(folder / LOCK))
