"""Files of a corpus: stat, open, read a range, fetch. On a local disk or on S3. `input_listing` finds them."""

import hashlib
import os
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO

from sfr_batch.config.settings import StorageSettings
from sfr_batch.errors import StorageError
from sfr_batch.storage.failures import PRECONDITION_FAILED, explained, s3_code
from sfr_batch.storage.local_files import make_folder, partial_name
from sfr_batch.storage.locations import is_s3
from sfr_batch.storage.parallel import in_parallel
from sfr_batch.storage.s3 import filesystem, open_s3, read_range
from sfr_batch.storage.versions import Info, has_version, is_by_time, is_weak, list_one, version_by_time, version_of

_FETCH_RANGE = 16 * 2**20
_FETCH_AT_ONCE = 8  # ranges, held in memory


@dataclass(frozen=True, slots=True)
class InputFile:
    """One file of a corpus: absolute ``uri``, ``size`` in bytes, and a ``version`` that changes with the content."""

    uri: str
    size: int
    version: str
    ctime_ns: int = field(default=0, compare=False)
    """Of a local file, when its content, name or permissions last changed; 0 if unknown. Tools that put an old mtime
    back (rsync -t, cp -p, tar) cannot set it. It may differ where the same file is mounted elsewhere."""


def s3_input(info: Info, *, sound_etags: bool = True) -> InputFile:
    """The file of an S3 object that was listed or asked for. sound_etags: see `versions.has_sound_etags`."""
    version = version_of(info) if sound_etags else version_by_time(info)
    return InputFile(f"s3://{info['name']}", int(info["size"]), version)


def local_input(name: str, status: os.stat_result) -> InputFile:
    """The file at a local path with this status."""
    return InputFile(name, status.st_size, f"{status.st_size}-{status.st_mtime_ns}", status.st_ctime_ns)


def stat_input(uri: str, settings: StorageSettings) -> InputFile:
    """The current size and version of a file. Raises ObjectNotFound."""
    with explained("read", uri):
        if not is_s3(uri):
            return local_input(uri, os.stat(uri))
        name = uri.removeprefix("s3://")
        info = filesystem(uri, settings).info(name)
        if info["type"] != "file":
            raise FileNotFoundError("it is a folder")
        return s3_input(info)


def is_unchanged(uri: str, version: str, settings: StorageSettings) -> bool:
    """Whether a file has this version, which a listing gave, still. Raises ObjectNotFound.

    Where a HEAD of an S3 object does not say so, the object is listed once more: only answers to one kind of request
    are comparable in any store.
    """
    if not is_s3(uri):
        return stat_input(uri, settings).version == version
    with explained("read", uri):
        fs, name = filesystem(uri, settings), uri.removeprefix("s3://")
        info = fs.info(name)
        if info["type"] != "file":
            raise FileNotFoundError("it is a folder")
        if has_version(info, version):
            return True
        listed = list_one(fs, name)
        return listed is not None and int(listed["size"]) == int(info["size"]) and has_version(listed, version)


def local_identity(uri: str) -> tuple[int, int] | None:
    """Inode and ctime of a local file on this node, None on S3. Raises ObjectNotFound."""
    if is_s3(uri):
        return None
    with explained("read", uri):
        status = os.stat(uri)
        return status.st_ino, status.st_ctime_ns


def open_input(uri: str, settings: StorageSettings, readahead: int = 8 * 2**20) -> IO[bytes]:
    """A seekable reader over a corpus file; on S3 each read fetches ``readahead`` bytes more. Raises ObjectNotFound."""
    if is_s3(uri):
        return open_s3(filesystem(uri, settings), uri, block_size=readahead)
    with explained("read", uri):
        return open(uri, "rb")


def read_input_range(uri: str, start: int, end: int, settings: StorageSettings) -> bytes:
    """Bytes ``start`` to ``end`` (exclusive) of a corpus file; shorter where the file ends."""
    if end <= start:
        return b""  # S3 takes an empty range for no range at all and sends the whole object
    with explained("read", uri):
        fs = filesystem(uri, settings)
    return read_range(fs, uri, start, end)


def read_version(uri: str, version: str, settings: StorageSettings) -> bytes | None:
    """A whole file of a corpus, if it has this version, which a listing gave, still; else None.

    On S3 by one request, whose condition is the version where that is an ETag. Raises ObjectNotFound.
    """
    with explained("read", uri):
        if not is_s3(uri):
            with open(uri, "rb") as file:
                whole = file.read()
                return whole if local_input(uri, os.fstat(file.fileno())).version == version else None
        name = uri.removeprefix("s3://")
        bucket, key = name.split("/", 1)
        condition = {} if is_by_time(version) or is_weak(version) else {"IfMatch": f'"{version}"'}
        try:
            answer = filesystem(uri, settings).call_s3("get_object", Bucket=bucket, Key=key, **condition)
        except OSError as error:
            if s3_code(error) in PRECONDITION_FAILED:
                return None
            raise
        data: bytes = answer["Body"].data
        if has_version({**answer, "name": name, "size": len(data)}, version):
            return data
    # A store that knows another ETag to a GET than to a listing: what is unchanged afterwards was so before.
    return data if is_unchanged(uri, version, settings) else None


def fetch_input(file: InputFile, target: Path, settings: StorageSettings) -> str:
    """Download a file to a local path, several ranges at a time; returns the SHA-256 of the bytes, 64 hex digits.

    The copy has the name `partial_name` until it is whole. Only one process at a time may fetch a target. Raises
    ObjectNotFound, and StorageError if the file has changed.
    """
    starts = range(0, file.size, _FETCH_RANGE)
    fs, name = filesystem(file.uri, settings), file.uri.removeprefix("s3://")

    def read(start: int) -> bytes:
        with explained("read", file.uri):
            return bytes(fs.cat_file(name, start=start, end=min(start + _FETCH_RANGE, file.size)))

    digest, size, temporary = hashlib.sha256(), 0, partial_name(target)
    with explained("write", str(target)):
        make_folder(target.parent)
        with open(temporary, "wb") as stream:
            for data in in_parallel(read, starts, min(_FETCH_AT_ONCE, max(1, len(starts)))):
                stream.write(data)
                digest.update(data)
                size += len(data)
        # The ranges were read one by one: only an unchanged version proves that they are of one file.
        if size != file.size or not is_unchanged(file.uri, file.version, settings):
            raise StorageError(f"{file.uri} changed while it was downloaded; run the command again.")
        os.replace(temporary, target)
    return digest.hexdigest()
