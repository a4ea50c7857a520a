"""The `Store` protocol: objects below a root, written whole and never changed.

Implementations: `local.LocalStore` (hard links) and `s3.S3Store` (conditional PUT); tests have `MemoryStore`.
`tests/storage/test_storage.py` has the contract as tests that run on every implementation.

Another kind of store, such as GCS, needs one more class with these six methods, a line in `stores.open_store`, its
scheme in `locations`, and settings. A corpus on it also needs `inputs`; engines that read it by themselves need
`table.engines` and `table.duckdb_sql`. Callers of `is_s3` mean "not a local disk"; they have to ask the store instead.

The guarantees of a table need one operation: `create`, which makes an object only if no object has that key, and
returns whether it did. Knows nothing of tables and Parquet.
"""

import io
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from typing import IO, Protocol

from sfr_batch.errors import StorageError

TEMPORARY = "_sfr/tmp"
"""Folder where local stores write an object before it gets its name. A sweep removes what a crash leaves there."""


Content = bytes | Callable[[IO[bytes]], object]
"""What an object is made of: its bytes, or a function that writes them into the file that it is given, the same bytes
each time. A local store has a large object written straight to the disk that way."""


@dataclass(frozen=True, slots=True)
class ObjectInfo:
    """One object: ``key`` relative to the root, ``size`` in bytes, ``modified`` in seconds since the epoch."""

    key: str
    size: int
    modified: float


class Store(Protocol):
    """Objects below one root. Keys are relative to it, with ``/`` between their parts.

    Every method raises StorageError if the store refuses or fails, and for a key that leads out of the root.
    """

    root: str

    def create(self, key: str, data: Content) -> bool:
        """Create an object if none has this key, atomically and durably. False if one has.

        If a function writes the content, it is not called where an object is found at once. What it raises is raised,
        and no object is created.

        After a lost reply the repeated request also returns False: the caller reads the object to learn whether it is
        its own. If StorageError is raised, the object may exist all the same.
        """
        ...

    def read(self, key: str) -> bytes:
        """The whole object. Raises ObjectNotFound."""
        ...

    def open(self, key: str, size: int = 0) -> IO[bytes]:
        """A seekable reader. Raises ObjectNotFound, perhaps only when it is read.

        size: of the object in bytes, where it is known: a store that asks for it otherwise does not, and fetches no
        more than what is read (`ranges.Ranges`).
        """
        ...

    def list(self, prefix: str) -> Iterator[ObjectInfo]:
        """Every object in the folder ``prefix`` and below, in one pass, in no particular order."""
        ...

    def delete(self, keys: Iterable[str]) -> None:
        """Remove objects. One that does not exist is no error."""
        ...

    def clock(self) -> float:
        """The time of the store's own clock, which gives objects their `modified`: seconds since the epoch."""
        ...


def path_parts(root: str, key: str) -> list[str]:
    """The parts of a key. Raises StorageError if it leads out of the root: keys also come from files of strangers."""
    parts = key.split("/")
    if key.startswith("/") or "\0" in key or not {".", ".."}.isdisjoint(parts):
        raise StorageError(
            f"The key {key!r} leads out of {root}. The file that contains it is damaged or malicious: do not trust "
            "this table."
        )
    return parts


def in_memory(data: bytes) -> IO[bytes]:
    return io.BytesIO(data)


def whole(content: Content) -> bytes:
    """The bytes of a content."""
    if not callable(content):
        return content
    # Not a stream of Arrow's: that would be copied into a Python object in the end.
    file = io.BytesIO()
    content(file)
    return file.getvalue()
