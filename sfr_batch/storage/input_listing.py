"""Finds the files of a corpus: those that a file name, a folder or prefix, or a pattern names, on disk or on S3.

Knows names, sizes and versions; does not know which files can be read, see `corpus.listing`.
"""

import glob
import os
import re
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

from fsspec.utils import glob_translate

from sfr_batch.config.settings import StorageSettings
from sfr_batch.errors import StorageError
from sfr_batch.storage.failures import explained
from sfr_batch.storage.inputs import InputFile, local_input, s3_input
from sfr_batch.storage.local_files import walk
from sfr_batch.storage.locations import absolute_uri, is_s3
from sfr_batch.storage.s3 import filesystem
from sfr_batch.storage.versions import has_sound_etags

_MAGIC = "*?["


@dataclass(frozen=True, slots=True)
class InputListing:
    """What there is at one path."""

    base: str
    """URI of the folder below which the files were looked for; of a file that the path names itself, its own."""
    files: list[InputFile]
    """Sorted by URI."""
    hidden: list[InputFile]
    """Files whose names below ``base`` begin with ``_`` or ``.``, or those of a folder above them; sorted by URI."""
    pattern: bool = False
    """Whether the path is a pattern: then files below ``base`` that it does not name are not listed."""
    beside: list[str] = field(default_factory=list)
    """URIs of such files, as far as the store has told them anyway."""


def list_inputs(path: str, settings: StorageSettings) -> list[InputFile]:
    """The files at ``path`` without the hidden ones, see `find_inputs`."""
    return find_inputs(path, settings).files


def find_inputs(path: str, settings: StorageSettings) -> InputListing:
    """The files that a file name, a folder or prefix, or a glob names; empty if there are none.

    Names below the given path that begin with ``_`` or ``.`` are hidden, as for every engine. Raises StorageError if
    the path cannot be listed.
    """
    uri = absolute_uri(path)
    plain, base, pattern = _parse_inputs(uri)
    with explained("list", uri):
        if is_s3(uri):
            fs = filesystem(uri, settings)
            found, others = _s3_glob(fs, plain, base) if pattern else (fs.find(plain, detail=True), [])
            # Names that end in / are the empty objects that consoles make to show a folder.
            objects = [info for name, info in found.items() if info["type"] == "file" and not name.endswith("/")]
            sound = has_sound_etags(fs, objects)
            files = [s3_input(info, sound_etags=sound) for info in objects]
        else:
            names = glob.glob(plain, recursive=True) if pattern else [plain]
            found = {path: status for name in names for path, status in _inputs_at(name, deep=not pattern)}
            files, others = [local_input(name, status) for name, status in found.items()], []
    base_uri = f"s3://{base}" if is_s3(uri) else base
    if [file.uri for file in files] == [uri]:
        return InputListing(base_uri, files, [])  # named itself, so not hidden whatever its name
    for file in files:
        _check_name(file.uri)
    files.sort(key=lambda file: file.uri)
    hidden = {file.uri for file in files if _hidden(file.uri.removeprefix("s3://"), base)}
    return InputListing(
        base_uri,
        [file for file in files if file.uri not in hidden],
        [file for file in files if file.uri in hidden],
        pattern,
        [f"s3://{name}" for name in others],
    )


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


def _s3_glob(fs: Any, pattern: str, base: str) -> tuple[dict[str, Any], list[str]]:
    """As fs.glob, in one listing, but what cannot be listed is an error: skipping it would lose documents. Also the
    names of other files in the listing."""
    stem = pattern[len(base) + 1 : min(pattern.index(char) for char in _MAGIC if char in pattern)]
    matches = re.compile(glob_translate(pattern)).match
    found = fs.find(base, prefix=stem, detail=True)
    return {name: info for name, info in found.items() if matches(name)}, [name for name in found if not matches(name)]


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
