"""Where the tasks of a comparison run: the protocol, and the executor of this process. Ray's is in `pipeline.tasks`."""

from collections.abc import Callable, Iterator, Sequence
from typing import Any, Protocol


class Executor(Protocol):
    """Runs functions somewhere. Handles stand for results, and may be arguments of other calls."""

    def share(self, value: Any) -> Any:
        """A handle for a value that many calls take."""
        ...

    def submit(self, function: Callable[..., Any], *args: Any, returns: int = 1) -> list[Any]:
        """Run it, with handles resolved; the handles of its ``returns`` results, a tuple if they are several."""
        ...

    def get(self, handles: Sequence[Any]) -> Iterator[Any]:
        """The results, in order, one at a time."""
        ...


class InProcess:
    """Runs everything at once, in the calling thread; a handle is the result."""

    def share(self, value: Any) -> Any:
        return value

    def submit(self, function: Callable[..., Any], *args: Any, returns: int = 1) -> list[Any]:
        result = function(*args)
        return list(result) if returns > 1 else [result]

    def get(self, handles: Sequence[Any]) -> Iterator[Any]:
        return iter(handles)
