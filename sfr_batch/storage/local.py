"""A store on a local disk: create-if-absent by hard link, durable by fsync; and helpers for local files."""

import contextlib
import errno
import fcntl
import os
import secrets
import shutil
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import IO

from sfr_batch.errors import StorageError
from sfr_batch.storage.failures import explained
from sfr_batch.storage.store import TEMPORARY, ObjectInfo, absolute_uri, path_parts

_NO_LINKS = {errno.EPERM, errno.ENOTSUP, errno.EOPNOTSUPP, errno.ENOSYS, errno.EMLINK, errno.EXDEV}


class LocalStore:
    """A folder. Objects get their name by `os.link`, which fails if the name is taken."""

    def __init__(self, root: str) -> None:
        self.root = absolute_uri(root)

    def __repr__(self) -> str:
        return f"<LocalStore {self.root}>"

    def _path(self, key: str) -> str:
        return os.path.join(self.root, *path_parts(self.root, key))

    def create(self, key: str, data: bytes) -> bool:
        """As `Store.create`, by a temporary file and a hard link, which only one process can make."""
        target = self._path(key)
        if os.path.exists(target):
            return False
        temporary = self._path(f"{TEMPORARY}/{secrets.token_hex(16)}")
        with explained("write", target):
            _make_folder(os.path.dirname(temporary))
            _make_folder(os.path.dirname(target))
            try:
                with open(temporary, "wb") as file:
                    file.write(data)
                    file.flush()
                    os.fsync(file.fileno())
                try:
                    os.link(temporary, target)
                except FileExistsError:
                    return False
                except OSError as error:
                    if error.errno not in _NO_LINKS:
                        raise
                    raise StorageError(
                        f"Cannot write {target}: this file system has no hard links ({error}), which creating a file "
                        "in one piece needs; use another local disk, or s3://."
                    ) from error
                _sync_folder(os.path.dirname(target))
                return True
            finally:
                with contextlib.suppress(FileNotFoundError):
                    os.unlink(temporary)

    def read(self, key: str) -> bytes:
        with self.open(key) as file:
            return file.read()

    def open(self, key: str) -> IO[bytes]:
        with explained("read", self._path(key)):
            return open(self._path(key), "rb")

    def list(self, prefix: str) -> Iterator[ObjectInfo]:
        """As `Store.list`; temporary files of writers that died are listed too."""
        top, start = self._path(prefix.rstrip("/")), len(self._path(""))
        with explained("list", top):
            for path, status in walk(top):
                yield ObjectInfo(path[start:].replace(os.sep, "/"), status.st_size, status.st_mtime)

    def delete(self, keys: Iterable[str]) -> None:
        for key in keys:
            with explained("delete", self._path(key)), contextlib.suppress(FileNotFoundError):
                os.unlink(self._path(key))


def partial_name(target: Path) -> Path:
    """Where a file is written before it is whole."""
    return target.with_name(f".{target.name}.part")


@contextlib.contextmanager
def file_lock(path: Path) -> Iterator[None]:
    """Held by one process, and by one thread of it, at a time; the others wait. It ends with its process.

    Raises StorageError where the file system knows no locks.
    """
    with contextlib.ExitStack() as stack:
        with explained("lock", str(path)):
            path.parent.mkdir(parents=True, exist_ok=True)
            fcntl.flock(stack.enter_context(open(path, "ab")), fcntl.LOCK_EX)
        yield


def free_bytes(folder: Path) -> int:
    """Space that is left on the disk of a folder, which need not exist yet."""
    while not folder.exists():
        folder = folder.parent
    return shutil.disk_usage(folder).free


def read_text_file(path: Path) -> str | None:
    """A small local text file, or None where there is none."""
    return path.read_text(encoding="utf-8") if path.is_file() else None


def walk(top: str) -> Iterator[tuple[str, os.stat_result]]:
    """Every file below a folder. A folder that cannot be read is an error: passing over it would lose documents."""

    def refuse(error: OSError) -> None:
        if not isinstance(error, (FileNotFoundError, NotADirectoryError)):  # gone while we look, or never there
            raise error

    above: dict[str, set[tuple[int, int]]] = {}
    for folder, folders, names in os.walk(top, onerror=refuse, followlinks=True):
        # Links to folders are followed, for passing over one would lose documents; one that leads back up is an error.
        status = os.stat(folder)
        trail = above.get(os.path.dirname(folder), set()) | {(status.st_dev, status.st_ino)}
        above[folder] = trail
        for name in folders:
            path = os.path.join(folder, name)
            if os.path.islink(path) and ((status := os.stat(path)).st_dev, status.st_ino) in trail:
                raise StorageError(f"{path} is a link to a folder that it lies in; remove it.")
        for name in names:
            path = os.path.join(folder, name)
            try:
                status = os.stat(path)
            except FileNotFoundError:
                if os.path.islink(path):  # passing over it would lose documents
                    raise StorageError(f"{path} is a link to nothing; repair or remove it.") from None
                continue  # deleted while we look
            yield path, status


def _make_folder(folder: str) -> None:
    """As os.makedirs, but durable: a new folder's own name is synced as well."""
    if os.path.isdir(folder):
        return
    parent = os.path.dirname(folder)
    _make_folder(parent)
    try:
        os.mkdir(folder)
    except FileExistsError:
        if not os.path.isdir(folder):
            raise NotADirectoryError(errno.ENOTDIR, "a file is where a folder should be", folder) from None
    _sync_folder(parent)


def _sync_folder(folder: str) -> None:
    """Make the new name itself durable: without this a power cut may forget a file whose bytes are safe."""
    handle = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
