"""A store in memory: the contract of `storage.Store` and nothing else, for tests of what is built upon it.

Its clock is logical, so a test decides how old an object is: each create takes the time ``now`` and moves it on by 1.
"""

import io
import threading
from collections.abc import Iterable, Iterator
from typing import IO

from sfr_batch.errors import ObjectNotFound
from sfr_batch.storage.store import Content, ObjectInfo, whole


class MemoryStore:
    """Objects in a dictionary behind one lock. Two handles on the same objects are one instance, shared."""

    def __init__(self, root: str = "memory://table") -> None:
        self.root = root
        self.now: float = 0.0
        self._objects: dict[str, tuple[bytes, float]] = {}
        self._lock = threading.Lock()

    def __repr__(self) -> str:
        return f"<MemoryStore {self.root} {len(self._objects)} objects>"

    def create(self, key: str, data: Content) -> bool:
        content = whole(data)
        with self._lock:
            if key in self._objects:
                return False
            self._objects[key] = (content, self.now)
            self.now += 1
            return True

    def read(self, key: str) -> bytes:
        with self._lock:
            if key not in self._objects:
                raise ObjectNotFound(f"Cannot read {self.root}/{key}: it does not exist.")
            return self._objects[key][0]

    def open(self, key: str, size: int = 0) -> IO[bytes]:
        return io.BytesIO(self.read(key))

    def list(self, prefix: str) -> Iterator[ObjectInfo]:
        start = prefix.rstrip("/") + "/" if prefix.strip("/") else ""
        with self._lock:
            found = [ObjectInfo(k, len(d), t) for k, (d, t) in self._objects.items() if k.startswith(start)]
        yield from found

    def clock(self) -> float:
        return self.now

    def delete(self, keys: Iterable[str]) -> None:
        wanted = list(keys)  # the caller may be iterating over our own listing
        with self._lock:
            for key in wanted:
                self._objects.pop(key, None)
