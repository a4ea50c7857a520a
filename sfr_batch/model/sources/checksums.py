"""SHA-256 of files on this node, each computed once and remembered by path, size and times.

Knows files and hashes; knows no models and no lock files.
"""

import contextlib
import json
import socket
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from sfr_batch.errors import StorageError
from sfr_batch.model.sources.room import cache_folder
from sfr_batch.storage.local_files import file_lock, make_folder, read_text, sha256_of, write_atomically


def hashes(files: Sequence[Path], folder: Path | None = None) -> dict[str, str]:
    """File name -> SHA-256 of each of ``files``; a name is relative to ``folder``, by default that of the first one.

    Remembered by path, size and times; of the processes of a node one computes and the others wait for it.
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
    return {name: str(known[keys[file]]) for name, file in names(files, folder).items()}


def hash_again(files: Sequence[Path], folder: Path | None = None) -> dict[str, str]:
    """As `hashes`, but always computed; replaces what was remembered."""
    with _remembering(), ThreadPoolExecutor(4) as pool:
        keys = [_key(file) for file in files]
        found = list(pool.map(sha256_of, files))
        _remember(dict(zip(keys, found, strict=True)))
    return dict(zip(names(files, folder), found, strict=True))


def names(files: Sequence[Path], folder: Path | None = None) -> dict[str, Path]:
    """Each of ``files`` by its name relative to ``folder``, by default that of the first one."""
    return {file.relative_to(folder or files[0].parent).as_posix(): file for file in files}


def remember(file: Path, sha256: str) -> None:
    """Remember the hash of a file, computed while the file was written."""
    with _remembering():
        _remember({_key(file): sha256})


def _cache_file() -> Path:
    # One for each node: nodes may share the home folder and have other files under the same names.
    return cache_folder() / f"weight-hashes-{socket.gethostname()}.json"


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
    """One process at a time; without a lock if it cannot be taken, because a lost entry costs only time."""
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
