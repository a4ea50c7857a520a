"""Single files and folders on a local disk: read, write, lock, list. Everything that is not an object of a store.

The rest of the package opens no file itself, except the config and what libraries load, so it calls these. Unless a
docstring says otherwise, errors are those of the operating system (OSError): only the caller knows which setting named
the file.
"""

import contextlib
import fcntl
import hashlib
import os
import secrets
import shutil
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import IO

from sfr_batch.errors import StorageError
from sfr_batch.storage.failures import explained

_HASHED_AT_ONCE = 8 * 2**20


def read_text_file(path: Path) -> str | None:
    """A small UTF-8 file, or None if there is no such file. Raises OSError, UnicodeDecodeError."""
    return read_text(path) if path.is_file() else None


def read_text(path: Path) -> str:
    """A small UTF-8 file. Raises OSError, UnicodeDecodeError."""
    return path.read_text(encoding="utf-8")


def read_bytes(path: Path, length: int = -1) -> bytes:
    """The first ``length`` bytes of a file, or fewer if it is shorter; all by default."""
    with open(path, "rb") as file:
        return file.read(length)


def sha256_of(path: Path) -> str:
    """SHA-256 of a file, 64 hexadecimal digits. Holds 8 MiB of it in memory."""
    digest = hashlib.sha256()
    buffer = memoryview(bytearray(_HASHED_AT_ONCE))
    with open(path, "rb", buffering=0) as file:
        while size := file.readinto(buffer):
            digest.update(buffer[:size])
    return digest.hexdigest()


def write_text(path: Path, text: str) -> None:
    """Write ``text`` to a file, in place of what it held. The path may also be a device or a pipe."""
    path.write_text(text, encoding="utf-8")


def write_bytes(path: Path, data: bytes) -> None:
    """As `write_text`, of bytes."""
    path.write_bytes(data)


def write_atomically(path: Path, text: str, *, replace: bool = True) -> None:
    """Give a file the content ``text``, so that other processes see it whole or not at all.

    Not synced: a power cut may lose it.

    replace: if False, raises FileExistsError where a file has the name already.
    """
    temporary = path.with_name(f".{path.name}-{secrets.token_hex(8)}")
    try:
        temporary.write_text(text, encoding="utf-8")
        if replace:
            os.replace(temporary, path)
        else:
            os.link(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)


def make_folder(path: Path) -> None:
    """Create a folder and those above it, unless they exist."""
    path.mkdir(parents=True, exist_ok=True)


def remove(path: Path) -> None:
    """Remove a file, if it exists."""
    path.unlink(missing_ok=True)


def partial_name(target: Path) -> Path:
    """The name under which a file is written until it is whole."""
    return target.with_name(f".{target.name}.part")


@contextlib.contextmanager
def file_lock(path: Path) -> Iterator[None]:
    """Hold a lock: one process, and one thread of it, at a time; the others wait. It ends with its process.

    Raises StorageError if the file system does not support locks.
    """
    with contextlib.ExitStack() as stack:
        with explained("lock", str(path)):
            make_folder(path.parent)
            fcntl.flock(stack.enter_context(open(path, "ab")), fcntl.LOCK_EX)
        yield


@contextlib.contextmanager
def temporary_folder(prefix: str, inside: Path | None = None) -> Iterator[Path]:
    """A new folder, below ``inside`` or the system's temporary folder, that is removed at the end with its files."""
    with tempfile.TemporaryDirectory(prefix=prefix, dir=inside) as folder:
        yield Path(folder)


def unnamed_file() -> IO[bytes]:
    """A new file without a name, for reading and writing. It is gone when it is closed."""
    return tempfile.TemporaryFile()


def free_bytes(folder: Path) -> int:
    """Free space on the disk of a folder, which need not exist yet."""
    while not folder.exists():
        folder = folder.parent
    return shutil.disk_usage(folder).free


def _everything(_: str) -> bool:
    return True


def walk(
    top: str, wanted: Callable[[str], bool] = _everything, enter: Callable[[str], bool] = _everything
) -> Iterator[tuple[str, os.stat_result]]:
    """Every file below a folder. Links to folders are followed.

    wanted: whether a file of this path is listed; enter: whether a folder of this path is looked into. What these leave
    out raises nothing, either.

    Raises StorageError for a broken link and for a link to a folder that contains it, OSError for a folder that
    cannot be read: to pass over one of them would lose documents.
    """

    def refuse(error: OSError) -> None:
        if not isinstance(error, (FileNotFoundError, NotADirectoryError)):  # gone while we look, or never there
            raise error

    above: dict[str, set[tuple[int, int]]] = {}
    for folder, folders, names in os.walk(top, onerror=refuse, followlinks=True):
        status = os.stat(folder)
        trail = above.get(os.path.dirname(folder), set()) | {(status.st_dev, status.st_ino)}
        above[folder] = trail
        folders[:] = [name for name in folders if enter(os.path.join(folder, name))]
        for name in folders:
            path = os.path.join(folder, name)
            if os.path.islink(path) and ((status := os.stat(path)).st_dev, status.st_ino) in trail:
                raise StorageError(f"{path} is a link to a folder that contains it; remove it.")
        for path in filter(wanted, (os.path.join(folder, name) for name in names)):
            try:
                status = os.stat(path)
            except FileNotFoundError:
                if os.path.islink(path):
                    raise StorageError(f"{path} is a broken link; repair or remove it.") from None
                continue  # deleted while we look
            yield path, status
