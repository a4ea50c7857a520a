"""Stores: the only module that opens files, on local disks and on S3.

A `Store` is objects under a root, written whole and never changed. Its one strong operation is `create`: make this
object if no object has that name, and say who won. Everything that a table promises rests on it. The module knows
nothing of tables, configs beyond StorageSettings, or Parquet.
"""

import contextlib
import errno
import fcntl
import glob
import hashlib
import io
import os
import re
import secrets
import shutil
import time
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any, Protocol, TypeVar

import fsspec
from fsspec.utils import glob_translate

from sfr_batch.config import CREDENTIALS_IN_ENDPOINT, StorageSettings, secret
from sfr_batch.errors import ConfigError, ObjectNotFound, StorageError
from sfr_batch.retries import Bounds

TEMPORARY = "_sfr/tmp"
"""Local stores write here before an object gets its name; a crash may leave something, which a sweep removes."""

_MAGIC = "*?["
_NO_LINKS = {errno.EPERM, errno.ENOTSUP, errno.EOPNOTSUPP, errno.ENOSYS, errno.EMLINK, errno.EXDEV}
_REASONS = {
    errno.ENOSPC: "no space left; free some and run the command again.",
    errno.EDQUOT: "the disk quota is used up; free some space and run the command again.",
    errno.EFBIG: "the file would be larger than this process may write (ulimit -f); raise the limit and run the "
    "command again.",
    errno.EROFS: "the file system is read-only; choose another path, or mount it for writing.",
    errno.ENOTDIR: "a file is where a folder should be; correct the path.",
}
_PARALLEL_READS = 32
_FETCH_RANGE = 16 * 2**20
_FETCH_AT_ONCE = 8  # ranges: what fetching a file holds in memory
# It tries once: what is repeated, `sfr_batch.retries` repeats. Both timeouts are of silence, not of a whole transfer.
_CLIENT = {
    "connect_timeout": 5,
    "read_timeout": 30,
    "retries": {"mode": "standard", "total_max_attempts": 1},
    "max_pool_connections": _PARALLEL_READS,
}
_PARALLEL_PARTS = 4  # of 50 MiB each: what a multipart upload holds in memory beside the object
_CONFLICT_ATTEMPTS = 5
_DELETE_BATCH = 1000  # the most that one DeleteObjects request may name


T = TypeVar("T")
R = TypeVar("R")


@dataclass(frozen=True, slots=True)
class ObjectInfo:
    """One object: ``key`` below the store's root, ``size`` in bytes, ``modified`` in seconds since the epoch."""

    key: str
    size: int
    modified: float


@dataclass(frozen=True, slots=True)
class InputFile:
    """One file of a corpus: absolute ``uri``, ``size`` in bytes, and a ``version`` that changes with its content."""

    uri: str
    size: int
    version: str


class Store(Protocol):
    """Objects under one root. Keys are relative, with ``/`` between their parts."""

    root: str

    def create(self, key: str, data: bytes) -> bool:
        """Write ``data`` under ``key`` if nothing is there, atomically and durably; False if something was.

        After a lost reply the repeated request also gives False: the caller looks at what is there to learn whether
        it is its own. Raises StorageError; then too the object may be there, if the last reply was lost.
        """
        ...

    def read(self, key: str) -> bytes:
        """The whole object. Raises ObjectNotFound."""
        ...

    def open(self, key: str) -> IO[bytes]:
        """A seekable reader. Raises ObjectNotFound."""
        ...

    def list(self, prefix: str) -> Iterator[ObjectInfo]:
        """Every object whose key begins with the folder ``prefix``, in one pass, in no particular order."""
        ...

    def delete(self, keys: Iterable[str]) -> None:
        """Remove objects; those already gone are no error."""
        ...


def tidy(store: Store) -> None:
    """Remove the empty folder in which a local store has put objects together; nothing else."""
    if isinstance(store, LocalStore):
        folder = os.path.join(store.root, TEMPORARY)
        with contextlib.suppress(OSError):
            os.removedirs(folder)


def is_s3(uri: str) -> bool:
    return uri.startswith(("s3://", "s3a://"))


def absolute_uri(path: str) -> str:
    """S3 URIs without a trailing slash; anything else as an absolute local path."""
    if is_s3(path):
        inside = path.split("://", 1)[1].strip("/")
        if "@" in inside.split("/")[0]:
            raise ConfigError(
                "An s3:// path has credentials before its bucket; remove them: they come from the AWS chain or the "
                "section's storage settings."
            )
        if not inside:
            raise ConfigError(f"{path} names no bucket; write s3://bucket/prefix.")
        return f"s3://{inside}"
    if "://" in path and not path.startswith("file://"):
        scheme = path.split("://", 1)[0]
        raise ConfigError(f"{path}: the scheme {scheme}:// is not supported; use s3:// or a local path.")
    return os.path.abspath(os.path.expanduser(path.removeprefix("file://")))


def open_store(uri: str, settings: StorageSettings | None = None) -> Store:
    """The store rooted at a local folder or an s3:// prefix."""
    uri = absolute_uri(uri)
    return S3Store(uri, settings or StorageSettings()) if is_s3(uri) else LocalStore(uri)


def filesystem(uri: str, settings: StorageSettings) -> Any:
    """The fsspec file system for ``uri``. Listings are never cached: a stale listing would break resuming."""
    if not is_s3(uri):
        return fsspec.filesystem("file")
    from sfr_batch.s3 import RetryingS3  # loads the clients, which local paths do not need

    options: dict[str, Any] = {"anon": settings.anonymous, "use_listings_cache": False, "config_kwargs": _CLIENT}
    endpoint = _endpoint(settings)
    if endpoint:
        if "@" in endpoint:
            raise ConfigError(CREDENTIALS_IN_ENDPOINT)
        if not endpoint.startswith(("http://", "https://")):
            raise ConfigError(
                f"The S3 endpoint {endpoint} (storage.endpoint_url, AWS_ENDPOINT_URL) has no scheme; write "
                f"http://{endpoint} or https://{endpoint}."
            )
        options["endpoint_url"] = endpoint
    if settings.region:
        options["client_kwargs"] = {"region_name": settings.region}
    if settings.profile:
        options["profile"] = settings.profile
    if settings.access_key_id:
        options["key"], options["secret"] = secret(settings.access_key_id), secret(settings.secret_access_key)
    return RetryingS3(bounds=Bounds(settings.attempts, settings.give_up_after_s), **options)


def _endpoint(settings: StorageSettings) -> str | None:
    return settings.endpoint_url or os.environ.get("AWS_ENDPOINT_URL_S3") or os.environ.get("AWS_ENDPOINT_URL") or None


def _parts(root: str, key: str) -> list[str]:
    """Of a key. Raises StorageError if it would leave the root: keys also come from files that strangers have made."""
    parts = key.split("/")
    if key.startswith("/") or "\0" in key or not {".", ".."}.isdisjoint(parts):
        raise StorageError(
            f"{key!r} is no name of an object in {root}: it leads elsewhere. Whatever names it is damaged, or was made "
            "to do harm; do not trust this table."
        )
    return parts


class LocalStore:
    """A folder. Objects get their name by `os.link`, which fails if the name is taken."""

    def __init__(self, root: str) -> None:
        self.root = absolute_uri(root)

    def __repr__(self) -> str:
        return f"<LocalStore {self.root}>"

    def _path(self, key: str) -> str:
        return os.path.join(self.root, *_parts(self.root, key))

    def create(self, key: str, data: bytes) -> bool:
        target = self._path(key)
        if os.path.exists(target):
            return False
        temporary = self._path(f"{TEMPORARY}/{secrets.token_hex(16)}")
        with _explained("write", target):
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
        with _explained("read", self._path(key)):
            return open(self._path(key), "rb")

    def list(self, prefix: str) -> Iterator[ObjectInfo]:
        top, start = self._path(prefix.rstrip("/")), len(self._path(""))
        with _explained("list", top):
            for path, status in _walk(top):
                yield ObjectInfo(path[start:].replace(os.sep, "/"), status.st_size, status.st_mtime)

    def delete(self, keys: Iterable[str]) -> None:
        for key in keys:
            with _explained("delete", self._path(key)), contextlib.suppress(FileNotFoundError):
                os.unlink(self._path(key))


class S3Store:
    """A prefix in a bucket. `create` is a PUT, or the completion of a multipart upload, with `If-None-Match: *`."""

    def __init__(self, root: str, settings: StorageSettings) -> None:
        self.root = absolute_uri(root)
        self._settings = settings
        self._fs = filesystem(self.root, settings)

    def __repr__(self) -> str:
        return f"<S3Store {self.root}>"

    def filesystem(self) -> Any:
        """For libraries that read through fsspec, with the retries and the keys of this store."""
        return self._fs

    @property
    def endpoint_url(self) -> str | None:
        """Where the store is, if it is not AWS."""
        return _endpoint(self._settings)

    def __reduce__(self) -> tuple[Any, ...]:
        # A pickled client would carry the keys in clear and lose its retry settings; the settings only name the keys.
        return S3Store, (self.root, self._settings)

    def _path(self, key: str) -> str:
        return f"{self.root.removeprefix('s3://')}/{'/'.join(_parts(self.root, key))}"

    def create(self, key: str, data: bytes) -> bool:
        with _explained("write", f"{self.root}/{key}"):
            for attempt in range(_CONFLICT_ATTEMPTS):
                try:
                    self._fs.pipe_file(self._path(key), data, mode="create", max_concurrency=_PARALLEL_PARTS)
                    return True
                except OSError as error:
                    code = _s3_code(error)
                    if code == "PreconditionFailed" or isinstance(error, FileExistsError):
                        return False
                    # AWS answers 409 while another conditional write of the same key is under way: ask again, for a
                    # multipart upload from its beginning. An upload is gone when it was completed and the reply was
                    # lost, then beginning again finds its object; or when somebody aborted it.
                    if code not in ("ConditionalRequestConflict", "NoSuchUpload") or attempt == _CONFLICT_ATTEMPTS - 1:
                        raise
                    time.sleep(0.1 * 2**attempt)
        raise AssertionError("unreachable")

    def read(self, key: str) -> bytes:
        with _explained("read", f"{self.root}/{key}"):
            # One request, no HEAD before it; and a whole body is checked against its checksum, a range is not.
            return bytes(self._fs.cat_file(self._path(key), max_concurrency=1))

    def open(self, key: str) -> IO[bytes]:
        return _open_s3(self._fs, f"s3://{self._path(key)}", block_size=4 * 2**20)

    def list(self, prefix: str) -> Iterator[ObjectInfo]:
        start = len(self._path(""))
        folder = self._path(prefix.rstrip("/")).rstrip("/") + "/"
        with _explained("list", f"{self.root}/{prefix}"):
            found = self._fs.find(folder, detail=True)
        for path, info in found.items():
            # s3fs also answers with an object that has the very name of the folder, and with the empty objects that
            # consoles make to show a folder.
            if path.startswith(folder) and not path.endswith("/"):
                modified = info.get("LastModified")
                yield ObjectInfo(path[start:], int(info["size"]), modified.timestamp() if modified else 0.0)

    def delete(self, keys: Iterable[str]) -> None:
        # Not fs.rm: it reads patterns and folders into names, and passes over the keys that the store refused.
        bucket = self._path("").split("/", 1)[0]
        names = [self._path(key).split("/", 1)[1] for key in keys]
        for start in range(0, len(names), _DELETE_BATCH):
            with _explained("delete from", self.root):
                objects = [{"Key": name} for name in names[start : start + _DELETE_BATCH]]
                answer = self._fs.call_s3("delete_objects", Bucket=bucket, Delete={"Objects": objects, "Quiet": True})
            refused = [error for error in answer.get("Errors", ()) if error.get("Code") != "NoSuchKey"]
            if refused:
                first = refused[0]
                raise StorageError(
                    f"Cannot delete {len(refused)} of {len(objects)} objects in {self.root}, the first is "
                    f"s3://{bucket}/{first.get('Key')}: {first.get('Code')} {first.get('Message', '')}; "
                    "check that the credentials may delete, and run the command again."
                )


class _S3Reader(io.RawIOBase):
    """An open S3 object. s3fs reads lazily, so the errors of reading are explained too, not only those of opening."""

    def __init__(self, file: Any, uri: str) -> None:
        self._file = file
        self._uri = uri

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int:
        with _explained("read", self._uri):
            return int(self._file.readinto(buffer))

    def seek(self, offset: int, whence: int = os.SEEK_SET) -> int:
        return int(self._file.seek(offset, whence))

    def tell(self) -> int:
        return int(self._file.tell())

    def close(self) -> None:
        if not self.closed:
            self._file.close()
        super().close()


def _open_s3(fs: Any, uri: str, block_size: int) -> IO[bytes]:
    path = uri.removeprefix("s3://")
    with _explained("read", uri):
        file = fs.open(path, "rb", cache_type="readahead", block_size=block_size)
        if file.details["type"] != "file":  # a prefix opens as an empty file
            raise FileNotFoundError("it is a folder")
        return io.BufferedReader(_S3Reader(file, uri))


def in_parallel(
    read: Callable[[T], R], things: Sequence[T], at_once: int, sizes: Sequence[int] = (), at_most: int = 0
) -> Iterator[R]:
    """``read`` of each of ``things``, in their order, ``at_once`` of them ahead of the consumer.

    sizes: [things] of what is read, in any unit; then what is ahead is together at most ``at_most``, or a single thing.
    """
    if at_once == 1:
        yield from map(read, things)
        return
    ahead: deque[tuple[Future[R], int]] = deque()
    held = 0
    with ThreadPoolExecutor(at_once) as pool:
        for thing, size in zip(things, sizes or [0] * len(things), strict=True):
            while ahead and (len(ahead) >= at_once or held + size > at_most):
                first, its = ahead.popleft()
                held -= its
                yield first.result()
            ahead.append((pool.submit(read, thing), size))
            held += size
        while ahead:
            yield ahead.popleft()[0].result()


def read_many(store: Store, keys: list[str]) -> list[bytes]:
    """Whole objects, many at a time, in the order of ``keys``."""
    with ThreadPoolExecutor(_PARALLEL_READS) as pool:
        return list(pool.map(store.read, keys))


def list_inputs(path: str, settings: StorageSettings) -> list[InputFile]:
    """The files that a file name, a folder or prefix, or a glob stands for, sorted by URI.

    Names that begin with ``_`` or ``.`` below the given path are skipped, as every engine does. Raises StorageError
    if the path cannot be listed; an empty list means that it holds nothing.
    """
    uri = absolute_uri(path)
    plain, base, pattern = _parse_inputs(uri)
    with _explained("list", uri):
        if is_s3(uri):
            fs = filesystem(uri, settings)
            found = _s3_glob(fs, plain, base) if pattern else fs.find(plain, detail=True)
            # Names that end in / are the empty objects that consoles make to show a folder.
            files = [
                _s3_input(name, info)
                for name, info in found.items()
                if info["type"] == "file" and not name.endswith("/")
            ]
        else:
            names = glob.glob(plain, recursive=True) if pattern else [plain]
            found = {path: status for name in names for path, status in _inputs_at(name, deep=not pattern)}
            files = [_local_input(name, status) for name, status in found.items()]
    if [file.uri for file in files] == [uri]:
        return files  # named itself, so not hidden whatever its name
    files = [file for file in files if not _hidden(file.uri.removeprefix("s3://"), base)]
    for file in files:
        _check_name(file.uri)
    return sorted(files, key=lambda file: file.uri)


def would_list(path: str, uri: str) -> bool:
    """Whether `list_inputs` of ``path`` would list a file at ``uri``, if there were one."""
    plain, base, pattern = _parse_inputs(absolute_uri(path))
    name = absolute_uri(uri).removeprefix("s3://")
    inside = re.match(glob_translate(plain), name) if pattern else name.startswith(f"{base.rstrip('/')}/")
    return bool(inside) and not _hidden(name, base)


def _parse_inputs(uri: str) -> tuple[str, str, bool]:
    """(name without scheme, the folder or file below which names are looked for, whether the name is a pattern)."""
    plain = uri.removeprefix("s3://")
    # A local name may hold these characters itself; whoever gives an existing one means it.
    pattern = any(char in plain for char in _MAGIC) and (is_s3(uri) or not os.path.lexists(plain))
    base = os.path.dirname(plain[: min(plain.index(char) for char in _MAGIC if char in plain)]) if pattern else plain
    return plain, base, pattern


def _s3_glob(fs: Any, pattern: str, base: str) -> dict[str, Any]:
    """As fs.glob, in one listing. fs.glob passes over what it cannot list, and so over documents."""
    stem = pattern[len(base) + 1 : min(pattern.index(char) for char in _MAGIC if char in pattern)]
    matches = re.compile(glob_translate(pattern)).match
    return {name: info for name, info in fs.find(base, prefix=stem, detail=True).items() if matches(name)}


def _check_name(uri: str) -> None:
    try:
        uri.encode()
    except UnicodeEncodeError:
        shown = uri.encode("utf-8", "replace").decode()
        raise StorageError(f"{shown}: the name of this file is not UTF-8; rename it.") from None


def _inputs_at(name: str, deep: bool) -> Iterator[tuple[str, os.stat_result]]:
    """The file itself, or, if ``deep``, the files of a folder; nothing where there is neither."""
    if os.path.isfile(name):
        yield name, os.stat(name)
    elif deep:
        yield from _walk(name)


def _hidden(name: str, base: str) -> bool:
    return any(part.startswith(("_", ".")) for part in name[len(base) :].strip("/").split("/"))


def _s3_input(name: str, info: dict[str, Any]) -> InputFile:
    return InputFile(f"s3://{name}", int(info["size"]), str(info.get("ETag", "")).strip('"'))


def _local_input(name: str, status: os.stat_result) -> InputFile:
    return InputFile(name, status.st_size, f"{status.st_size}-{status.st_mtime_ns}")


def stat_input(uri: str, settings: StorageSettings) -> InputFile:
    """The file as it is now. Raises ObjectNotFound."""
    with _explained("read", uri):
        if not is_s3(uri):
            return _local_input(uri, os.stat(uri))
        name = uri.removeprefix("s3://")
        info = filesystem(uri, settings).info(name)
        if info["type"] != "file":
            raise FileNotFoundError("it is a folder")
        return _s3_input(name, info)


def open_input(uri: str, settings: StorageSettings, readahead: int = 8 * 2**20) -> IO[bytes]:
    """A seekable reader over a corpus file; on S3 each read fetches ``readahead`` bytes more. Raises ObjectNotFound."""
    if is_s3(uri):
        return _open_s3(filesystem(uri, settings), uri, block_size=readahead)
    with _explained("read", uri):
        return open(uri, "rb")


def read_input_range(uri: str, start: int, end: int, settings: StorageSettings) -> bytes:
    """Bytes ``start`` to ``end`` (exclusive) of a corpus file; shorter where the file ends."""
    if end <= start:
        return b""  # S3 takes an empty range for no range at all and sends the whole object
    with _explained("read", uri):
        try:
            return bytes(filesystem(uri, settings).cat_file(uri.removeprefix("s3://"), start=start, end=end))
        except OSError as error:
            if _s3_code(error) in ("InvalidRange", "416"):
                return b""  # begins behind the end of the file
            raise


def fetch_input(file: InputFile, target: Path, settings: StorageSettings) -> str:
    """Copy a file to a local path, several ranges at a time; returns the SHA-256 of what came, 64 hex digits.

    ``target`` gets its name when it is whole; until then, and after a crash, it is `partial_name`. One process at a
    time may fetch a target. Raises ObjectNotFound, and StorageError also if the file is no longer ``file``.
    """
    starts = range(0, file.size, _FETCH_RANGE)
    fs, name = filesystem(file.uri, settings), file.uri.removeprefix("s3://")

    def read(start: int) -> bytes:
        with _explained("read", file.uri):
            return bytes(fs.cat_file(name, start=start, end=min(start + _FETCH_RANGE, file.size)))

    digest, size, temporary = hashlib.sha256(), 0, partial_name(target)
    with _explained("write", str(target)):
        target.parent.mkdir(parents=True, exist_ok=True)
        with open(temporary, "wb") as stream:
            for data in in_parallel(read, starts, min(_FETCH_AT_ONCE, max(1, len(starts)))):
                stream.write(data)
                digest.update(data)
                size += len(data)
        # The ranges were read one by one: only an unchanged version says that they are of one file.
        if size != file.size or stat_input(file.uri, settings).version != file.version:
            raise StorageError(f"{file.uri} was replaced while it was fetched; run the command again.")
        os.replace(temporary, target)
    return digest.hexdigest()


def partial_name(target: Path) -> Path:
    """Where a file is written before it is whole."""
    return target.with_name(f".{target.name}.part")


@contextlib.contextmanager
def file_lock(path: Path) -> Iterator[None]:
    """Held by one process, and by one thread of it, at a time; the others wait. It ends with its process.

    Raises StorageError where the file system knows no locks.
    """
    with contextlib.ExitStack() as stack:
        with _explained("lock", str(path)):
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


def in_memory(data: bytes) -> IO[bytes]:
    return io.BytesIO(data)


def _walk(top: str) -> Iterator[tuple[str, os.stat_result]]:
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


def _s3_code(error: BaseException) -> str:
    """The store's own code of a failure: s3fs hangs the client's error on its own, as cause or only as context."""
    response = getattr(error.__cause__ or error.__context__, "response", None)
    return str(response.get("Error", {}).get("Code", "")) if isinstance(response, dict) else ""


@contextlib.contextmanager
def _explained(verb: str, what: str) -> Iterator[None]:
    """Turn the many exceptions of file systems and S3 clients into ours, naming the object and the way out."""
    try:
        yield
    except FileNotFoundError as error:
        if _s3_code(error) == "NoSuchBucket":
            raise StorageError(
                f"Cannot {verb} {what}: there is no such bucket; create it or correct the path."
            ) from error
        raise ObjectNotFound(f"Cannot {verb} {what}: it does not exist ({error}).") from error
    except PermissionError as error:
        hint = "check the credentials, the bucket policy and the endpoint" if is_s3(what) else "check its permissions"
        raise StorageError(f"Cannot {verb} {what}: access denied ({error}); {hint}.") from error
    except OSError as error:
        raise StorageError(f"Cannot {verb} {what}: {_REASONS.get(error.errno or 0, error)}") from error
    except Exception as error:
        # ValueError is what s3fs and botocore make of a bucket name or an endpoint that cannot be one.
        client = type(error).__module__.startswith(("botocore", "aiobotocore", "aiohttp"))
        if client or (is_s3(what) and isinstance(error, ValueError)):
            raise StorageError(f"Cannot {verb} {what}: {error}; check credentials, endpoint and region.") from error
        raise
