"""Keeps the value that was made last: the log of a table that a plan has pinned, which is asked for several times."""

from collections.abc import Callable, Hashable
from typing import Generic, TypeVar

T = TypeVar("T")


class Kept(Generic[T]):
    """At most one value, by its key."""

    def __init__(self) -> None:
        self._now: tuple[Hashable, T] | None = None

    def put(self, key: Hashable, value: T) -> T:
        """Keep the value in place of the one before."""
        self._now = key, value
        return value

    def get(self, key: Hashable, make: Callable[[], T]) -> T:
        """The value of this key: the kept one, or one that is made and kept."""
        now = self._now
        return now[1] if now is not None and now[0] == key else self.put(key, make())
