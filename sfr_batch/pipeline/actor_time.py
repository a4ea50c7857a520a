"""How long encode actors exist, added up over all of them: the time that is paid for. Knows neither Ray nor devices."""

import time
from collections.abc import Callable

ENCODING = "encoding"
"""First word of the stage of a run in which actors encode."""


class ActorTime:
    """Adds up the time of actors from what it is told of their number."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self.most = 0
        """The largest number of actors at once."""
        self.kinds: set[str] = set()
        """Kinds of their devices, such as NVIDIA H200."""
        self._clock = clock
        self.now = 0
        """Their number now."""
        self._since, self._before = clock(), 0.0

    def count(self, actors: int, kind: str = "") -> None:
        """From now on there are so many. kind: of the device of one of them, if it is known."""
        now = self._clock()
        self._before += self.now * (now - self._since)
        self.now, self._since = actors, now
        self.most = max(self.most, actors)
        if kind:
            self.kinds.add(kind)

    @property
    def seconds(self) -> float:
        """Until now."""
        return self._before + self.now * (self._clock() - self._since)


def ignored(actors: int, kind: str = "") -> None:
    """For those who do not ask."""
