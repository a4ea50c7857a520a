"""Files of a corpus: list, stat, open, read a range, fetch. On a local disk or on S3."""

import glob
import hashlib
import os
import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any

from fsspec.utils import glob_translate

from sfr_batch.config.settings import StorageSettings
from sfr_batch.errors import StorageError
from sfr_batch.storage.failures import RANGE_BEHIND_THE_END, explained, s3_code
from sfr_batch.storage.local_files import make_folder, partial_name, walk
from sfr_batch.storage.parallel import in_parallel
from sfr_batch.storage.s3 import filesystem, open_s3
from sfr_batch.storage.store import absolute_uri, is_s3

_MAGIC = "*?["
_FETCH_RANGE = 16 * 2**20
_FETCH_AT_ONCE = 8  # ranges, held in memory


@dataclass(frozen=True, slots=True)
class InputFile:
    """One file of a corpus: absolute ``uri``, ``size`` in bytes, and a ``version`` that changes with the content."""

    uri: str
    size: int
    version: str


def list_inputs(path: str, settings: StorageSettings) -> list[InputFile]:
    """The files that a file name, a folder or prefix, or a glob names, sorted by URI; empty if there are none.

    Names below the given path that begin with ``_`` or ``.`` are skipped, as every engine does. Raises StorageError if
    the path cannot be listed.
    """
    uri = absolute_uri(path)
    plain, base, pattern = _parse_inputs(uri)
    with explained("list", uri):
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
    """(name without scheme, folder or file below which to look, whether the name is a pattern)."""
    plain = uri.removeprefix("s3://")
    # A local name may contain these characters itself: an existing one is no pattern.
    pattern = any(char in plain for char in _MAGIC) and (is_s3(uri) or not os.path.lexists(plain))
    base = os.path.dirname(plain[: min(plain.index(char) for char in _MAGIC if char in plain)]) if pattern else plain
    return plain, base, pattern


def _s3_glob(fs: Any, pattern: str, base: str) -> dict[str, Any]:
    """As fs.glob, in one listing, but what cannot be listed is an error: skipping it would lose documents."""
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
    """The file itself, or the files of a folder if ``deep``; nothing if it does not exist."""
    if os.path.isfile(name):
        yield name, os.stat(name)
    elif deep:
        yield from walk(name)


def _hidden(name: str, base: str) -> bool:
    return any(part.startswith(("_", ".")) for part in name[len(base) :].strip("/").split("/"))


def _s3_input(name: str, info: dict[str, Any]) -> InputFile:
    return InputFile(f"s3://{name}", int(info["size"]), str(info.get("ETag", "")).strip('"'))


def _local_input(name: str, status: os.stat_result) -> InputFile:
    return InputFile(name, status.st_size, f"{status.st_size}-{status.st_mtime_ns}")


def stat_input(uri: str, settings: StorageSettings) -> InputFile:
    """The current size and version of a file. Raises ObjectNotFound."""
    with explained("read", uri):
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
        return open_s3(filesystem(uri, settings), uri, block_size=readahead)
    with explained("read", uri):
        return open(uri, "rb")


def read_input_range(uri: str, start: int, end: int, settings: StorageSettings) -> bytes:
    """Bytes ``start`` to ``end`` (exclusive) of a corpus file; shorter where the file ends."""
    if end <= start:
        return b""  # S3 takes an empty range for no range at all and sends the whole object
    with explained("read", uri):
        try:
            return bytes(filesystem(uri, settings).cat_file(uri.removeprefix("s3://"), start=start, end=end))
        except OSError as error:
            if s3_code(error) in RANGE_BEHIND_THE_END:
                return b""  # begins behind the end of the file
            raise


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
        if size != file.size or stat_input(file.uri, settings).version != file.version:
            raise StorageError(f"{file.uri} changed while it was downloaded; run the command again.")
        os.replace(temporary, target)
    return digest.hexdigest()
