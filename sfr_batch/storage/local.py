"""`Store` on a local disk: creates objects by hard link, durable by fsync."""

import contextlib
import errno
import os
import secrets
import time
from collections.abc import Iterable, Iterator
from typing import IO

from sfr_batch.errors import StorageError
from sfr_batch.storage.failures import NO_HARD_LINKS, explained
from sfr_batch.storage.local_files import walk
from sfr_batch.storage.locations import absolute_uri
from sfr_batch.storage.store import TEMPORARY, Content, ObjectInfo, path_parts
from sfr_batch.storage.synced_file import new_synced_file


class LocalStore:
    """A folder. Objects get their name by `os.link`, which fails if the name is taken."""

    def __init__(self, root: str) -> None:
        self.root = absolute_uri(root)

    def __repr__(self) -> str:
        return f"<LocalStore {self.root}>"

    def _path(self, key: str) -> str:
        return os.path.join(self.root, *path_parts(self.root, key))

    def create(self, key: str, data: Content) -> bool:
        """As `Store.create`, by a temporary file and a hard link, which only one process can make."""
        target = self._path(key)
        if os.path.exists(target):
            return False
        temporary = self._path(f"{TEMPORARY}/{secrets.token_hex(16)}")
        with explained("write", target):
            _make_folder(os.path.dirname(temporary))
            _make_folder(os.path.dirname(target))
            try:
                with new_synced_file(temporary) as file:
                    if callable(data):
                        data(file)
                    else:
                        file.write(data)
                try:
                    os.link(temporary, target)
                except FileExistsError:
                    return False
                except OSError as error:
                    if error.errno not in NO_HARD_LINKS:
                        raise
                    raise StorageError(
                        f"Cannot write {target}: this file system has no hard links ({error}), which creating a file "
                        "atomically needs. Use another local disk, or s3://."
                    ) from error
                _sync_folder(os.path.dirname(target))
                return True
            finally:
                with contextlib.suppress(FileNotFoundError):
                    os.unlink(temporary)

    def read(self, key: str) -> bytes:
        with self.open(key) as file:
            return file.read()

    def open(self, key: str, size: int = 0) -> IO[bytes]:
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

    def clock(self) -> float:
        """The time of this machine, whose file systems go by it. A shared one may have its own: nothing asks it without
        writing."""
        return time.time()


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
