"""The `Store` protocol: objects under a root, written whole and never changed.

Its one strong operation is `create`: make this object if no object has that name, and say who won. Everything that a
table promises rests on it. Knows nothing of tables and Parquet."""

import io
import os
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import IO, Protocol

from sfr_batch.errors import ConfigError, StorageError

TEMPORARY = "_sfr/tmp"
"""Local stores write here before an object gets its name; a crash may leave something, which a sweep removes."""


@dataclass(frozen=True, slots=True)
class ObjectInfo:
    """One object: ``key`` below the store's root, ``size`` in bytes, ``modified`` in seconds since the epoch."""

    key: str
    size: int
    modified: float


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


def path_parts(root: str, key: str) -> list[str]:
    """Of a key. Raises StorageError if it would leave the root: keys also come from files that strangers have made."""
    parts = key.split("/")
    if key.startswith("/") or "\0" in key or not {".", ".."}.isdisjoint(parts):
        raise StorageError(
            f"{key!r} is no name of an object in {root}: it leads elsewhere. Whatever names it is damaged, or was made "
            "to do harm; do not trust this table."
        )
    return parts


def in_memory(data: bytes) -> IO[bytes]:
    return io.BytesIO(data)
