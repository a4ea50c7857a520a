"""Finds the files of a corpus: those that a file name, a folder or prefix, or a pattern names, on disk or on S3.

Knows names, sizes and versions; does not know which files can be read, see `corpus.listing`.
"""

import itertools
import os
import stat
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

from sfr_batch.config.settings import StorageSettings
from sfr_batch.errors import StorageError
from sfr_batch.storage.failures import explained
from sfr_batch.storage.inputs import InputFile, local_input, s3_input
from sfr_batch.storage.local_files import walk
from sfr_batch.storage.locations import absolute_uri, is_s3
from sfr_batch.storage.patterns import Pattern, parse_pattern
from sfr_batch.storage.s3 import filesystem
from sfr_batch.storage.versions import Info, has_sound_etags, list_one


@dataclass(frozen=True, slots=True)
class InputListing:
    """What there is at one path."""

    base: str
    """URI of the folder below which the files were looked for; of a file that the path names itself, its own."""
    files: list[InputFile]
    """Sorted by URI."""
    hidden: list[InputFile]
    """Files whose names below ``base`` begin with ``_`` or ``.``, or those of a folder above them; sorted by URI."""
    repeated: list[InputFile] = field(default_factory=list)
    """Files that are among ``files`` by another name, because symbolic links lead to them; sorted by URI."""
    pattern: bool = False
    """Whether the path is a pattern: then files below ``base`` that it does not name are not listed."""
    beside: list[str] = field(default_factory=list)
    """URIs of such files, as far as the store has told them anyway."""
    complete: bool = True
    """False if there may be more, because a first look was asked for."""


def list_inputs(path: str, settings: StorageSettings) -> list[InputFile]:
    """The files at ``path`` without the hidden ones, see `find_inputs`."""
    return find_inputs(path, settings).files


def find_inputs(path: str, settings: StorageSettings, first: int | None = None) -> InputListing:
    """The files that a file name, a folder or prefix, or a pattern names; empty if there are none.

    first: for a first look: how many names are asked for, whatever they are; default: all.

    Names below the given path that begin with ``_`` or ``.`` are hidden, as for every engine, except folders
    ``_name=value``. A file that symbolic links give several names below the path is listed once: by the name that no
    link leads to, else by the first one. Raises StorageError if the path cannot be listed, ConfigError if a pattern is
    wrong.
    """
    uri = absolute_uri(path)
    with explained("list", uri):
        pattern = _pattern_of(uri, settings)
        plain = uri.removeprefix("s3://")
        base = pattern.base if pattern else plain
        if is_s3(uri):
            fs = filesystem(uri, settings)
            objects, complete = _objects(fs, base, pattern, first)
            files, beside = _of_objects(fs, objects, pattern)
            repeated = set[str]()
        else:
            beside = []
            found = dict(itertools.islice(_on_disk(base, pattern), first))
            complete = first is None or len(found) < first
            files = [local_input(name, status) for name, status in found.items()]
            # What is hidden counts for nothing: `current` may lead to a folder `.versions/7`.
            repeated = _repeated({name: status for name, status in found.items() if not _hidden(name, base)}, base)
    base_uri = f"s3://{base}" if is_s3(uri) else base
    if [file.uri for file in files] == [uri]:
        return InputListing(base_uri, files, [])  # named itself, so not hidden whatever its name
    for file in files:
        _check_name(file.uri)
    files.sort(key=lambda file: file.uri)
    hidden = {file.uri for file in files if _hidden(file.uri.removeprefix("s3://"), base)}
    return InputListing(
        base_uri,
        [file for file in files if file.uri not in hidden and file.uri not in repeated],
        [file for file in files if file.uri in hidden and file.uri not in repeated],
        [file for file in files if file.uri in repeated],
        pattern is not None,
        beside,
        complete,
    )


def would_list(path: str, uri: str, settings: StorageSettings) -> bool:
    """Whether `find_inputs` of ``path`` would list a file at ``uri``, if there were one, as one that is not hidden."""
    whole = absolute_uri(path)
    with explained("list", whole):
        pattern = _pattern_of(whole, settings)
    base = pattern.base if pattern else whole.removeprefix("s3://")
    name = absolute_uri(uri).removeprefix("s3://")
    inside = pattern.matches(name) if pattern else name.startswith(f"{base.rstrip('/')}/")
    return inside and not _hidden(name, base)


def folder_of_pattern(uri: str, settings: StorageSettings) -> str | None:
    """The folder or prefix below which the pattern ``uri`` looks; None if it is plain, or a name that exists."""
    pattern = _pattern_of(uri, settings)
    return f"{'s3://' if is_s3(uri) else ''}{pattern.base}" if pattern else None


def one_of_each(uris: Iterable[str]) -> dict[str, str]:
    """Of local files that several of the URIs lead to: the URIs to leave out, with the one that stays.

    Of several names of one file the name that no link leads to stays, else the one that comes first in ``uris``.
    """
    folders: dict[str, str] = {}
    names: dict[str, list[str]] = {}
    for uri in uris:
        if is_s3(uri):
            continue
        folder, name = os.path.split(uri)
        real = folders[folder] if folder in folders else folders.setdefault(folder, os.path.realpath(folder))
        path = os.path.join(real, name)
        names.setdefault(os.path.realpath(path) if os.path.islink(path) else path, []).append(uri)
    return {
        uri: kept
        for real, its in names.items()
        for kept in [real if real in its else its[0]]
        for uri in its
        if uri != kept
    }


def _pattern_of(uri: str, settings: StorageSettings) -> Pattern | None:
    """The pattern that ``uri`` is, if it is one: a name that exists is none, whatever characters it has."""
    if not is_s3(uri):
        return parse_pattern(uri, os.path.lexists)
    return parse_pattern(uri.removeprefix("s3://"), lambda name: _is_on_s3(name, settings))


def _is_on_s3(name: str, settings: StorageSettings) -> bool:
    """Whether there is an object, or a prefix, of this name, as far as we may know."""
    try:
        return bool(filesystem(f"s3://{name}", settings).exists(name))
    except PermissionError:
        return False


def _objects(fs: Any, base: str, pattern: Pattern | None, first: int | None) -> tuple[Mapping[str, Info], bool]:
    """The object ``base``, or those below it, by name; and whether these are all.

    first: at most so many, in the order of their names; default: all.
    """
    if first is None:
        return fs.find(base, prefix=pattern.stem if pattern else "", detail=True), True
    bucket, _, key = base.partition("/")
    if key and not pattern and (itself := list_one(fs, base)):
        return {base: {**itself, "type": "file"}}, True
    found: dict[str, Info] = {}
    asked = {"Prefix": (f"{key}/" if key else "") + (pattern.stem if pattern else "")}
    while True:
        answer = fs.call_s3("list_objects_v2", Bucket=bucket, MaxKeys=min(first - len(found), 1000), **asked)
        for info in answer.get("Contents", ()):
            name = f"{bucket}/{info['Key']}"
            found[name] = {**info, "name": name, "size": info["Size"], "type": "file"}
        if not answer.get("IsTruncated") or len(found) >= first:
            return found, not answer.get("IsTruncated")
        asked["ContinuationToken"] = answer["NextContinuationToken"]


def _of_objects(fs: Any, found: Mapping[str, Info], pattern: Pattern | None) -> tuple[list[InputFile], list[str]]:
    """The objects, and the URIs of others that the listing showed. What cannot be listed is an error: to pass over it
    would lose documents."""
    # Names that end in / are the empty objects that consoles make to show a folder.
    objects = {name: info for name, info in found.items() if info["type"] == "file" and not name.endswith("/")}
    named = {name for name in objects if pattern is None or pattern.matches(name)}
    chosen = [info for name, info in objects.items() if name in named]
    sound = has_sound_etags(fs, chosen)
    files = [s3_input(info, sound_etags=sound) for info in chosen]
    return files, [f"s3://{name}" for name in objects if name not in named]


def _on_disk(base: str, pattern: Pattern | None) -> Iterator[tuple[str, os.stat_result]]:
    if os.path.isfile(base):
        yield base, os.stat(base)
        return
    files = walk(base, wanted=pattern.matches, enter=pattern.may_lead) if pattern else walk(base)
    yield from ((name, status) for name, status in files if stat.S_ISREG(status.st_mode))


def _repeated(found: dict[str, os.stat_result], base: str) -> set[str]:
    """The names to leave out because a file has another one. Hard links are different files, as they are to `ls`."""
    by_inode: dict[tuple[int, int], list[str]] = {}
    for name, status in found.items():
        by_inode.setdefault((status.st_dev, status.st_ino), []).append(name)
    real_base = os.path.realpath(base)
    left_out: set[str] = set()
    for names in by_inode.values():
        if len(names) == 1:
            continue
        by_path: dict[str, list[str]] = {}
        for name in sorted(names):
            by_path.setdefault(os.path.realpath(name), []).append(name)
        for real, its in by_path.items():
            without_links = base + real.removeprefix(real_base)
            kept = without_links if without_links in its else its[0]
            left_out.update(name for name in its if name != kept)
    return left_out


def _check_name(uri: str) -> None:
    try:
        uri.encode()
    except UnicodeEncodeError:
        shown = uri.encode("utf-8", "replace").decode()
        raise StorageError(f"{shown}: the name of this file is not UTF-8; rename it.") from None


def _hidden(name: str, base: str) -> bool:
    """Whether a name below ``base`` is hidden. Folders `_name=value` are partitions, to Hive and Spark as well."""
    *folders, last = name[len(base) :].strip("/").split("/")
    if last.startswith(("_", ".")):
        return True
    return any(folder.startswith(".") or (folder.startswith("_") and "=" not in folder) for folder in folders)
