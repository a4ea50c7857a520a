"""The version of a file: a text that changes with its content.

Of a local file `<size>-<mtime in ns>`. Of an S3 object its ETag, where the store gives one and gives the same in a
listing and to a HEAD; else `<size>-<seconds>` of its last modification. Stores differ: gateways give other ETags in
listings than to a HEAD, compressing proxies make them weak (`W/"…"`, RFC 9110, 8.8.3), and some give none. Knows no
files of a corpus.
"""

import contextlib
import re
from collections.abc import Mapping, Sequence
from datetime import datetime
from typing import Any

from sfr_batch.errors import StorageError

Info = Mapping[str, Any]
"""What s3fs says of an object: name, size, ETag, LastModified."""

_OF_TIME = re.compile(r"\d+-\d{9,11}")
"""No ETag looks so: one of a multipart upload has 32 hexadecimal digits and a number of parts, at most 10,000."""


def etag_of(info: Info) -> str:
    """The ETag without its quotes; "" if the store gives none."""
    return str(info.get("ETag") or "").strip('"')


def is_weak(etag: str) -> bool:
    """Whether an ETag says only that the content is equivalent. No request may have it as its condition."""
    return etag.startswith("W/")


def version_by_time(info: Info) -> str:
    """Size and time of modification, in whole seconds as a HEAD has it. Raises StorageError if there is no time."""
    modified = info.get("LastModified")
    if not isinstance(modified, datetime):
        raise StorageError(
            f"s3://{info['name']} has neither an ETag nor a time of modification, so that no change of it would be "
            "noticed. Copy the files to another store, or to a disk."
        )
    return f"{int(info['size'])}-{int(modified.timestamp())}"


def is_by_time(version: str) -> bool:
    """Whether the version of an S3 object is that of `version_by_time`."""
    return bool(_OF_TIME.fullmatch(version))


def version_of(info: Info) -> str:
    """The version of an object whose store gives sound ETags, if any."""
    return etag_of(info) or version_by_time(info)


def has_version(info: Info, version: str) -> bool:
    """Whether an object has this version now, of whichever kind the version is."""
    etag = _strong(etag_of(info))
    if etag and etag == _strong(version):
        return True
    return is_by_time(version) and version_by_time(info) == version


def has_sound_etags(fs: Any, listed: Sequence[Info]) -> bool:
    """Whether a store gives the same ETags in a listing and to a HEAD; by one or two objects of the listing.

    fs: the file system that has listed them. Objects that were uploaded in parts have ETags of another kind: if there
    are some, one of each kind is asked for.
    """
    kinds: dict[bool, Info] = {}
    for info in listed:
        if etag_of(info) and (kind := "-" in etag_of(info)) not in kinds:
            kinds[kind] = info
            if len(kinds) == 2:
                break
    return all(_is_sound(fs, info) for info in kinds.values())


def list_one(fs: Any, name: str) -> Info | None:
    """An object as the listing has it; ``name`` is bucket and key."""
    bucket, key = name.split("/", 1)
    answer = fs.call_s3("list_objects_v2", Bucket=bucket, Prefix=key, MaxKeys=1)
    for info in answer.get("Contents", ()):
        if info["Key"] == key:
            return {**info, "name": name, "size": info["Size"]}
    return None


def _is_sound(fs: Any, listed: Info) -> bool:
    """Asks twice before it says no: an object may be replaced between listing and HEAD."""
    now: Info | None = listed
    with contextlib.suppress(FileNotFoundError, PermissionError):  # who reads it will say so
        for _ in range(2):
            if now is None or _strong(etag_of(fs.info(listed["name"]))) == _strong(etag_of(now)):
                return True
            now = list_one(fs, listed["name"])
        return False
    return True


def _strong(etag: str) -> str:
    return etag.removeprefix("W/").strip('"')
