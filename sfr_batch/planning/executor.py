"""Executors, which run the tasks of a comparison: the protocol, and one for this process. `pipeline.tasks` uses Ray."""

from collections.abc import Callable, Iterator, Sequence
from typing import Any, Protocol


class Executor(Protocol):
    """Runs functions. A handle stands for a result, and may be an argument of another call."""

    def share(self, value: Any) -> Any:
        """A handle for a value that is an argument of many calls."""
        ...

    def submit(self, function: Callable[..., Any], *args: Any, returns: int = 1) -> list[Any]:
        """Run the function, whose arguments may be handles. Returns a handle for each of its ``returns`` results.

        If there are several results, the function returns them as a tuple.
        """
        ...

    def get(self, handles: Sequence[Any]) -> Iterator[Any]:
        """The results of the handles, in order, one at a time. Raises what the function raised."""
        ...


class InProcess:
    """Runs every function immediately, in the calling thread; a handle is the result itself."""

    def share(self, value: Any) -> Any:
        return value

    def submit(self, function: Callable[..., Any], *args: Any, returns: int = 1) -> list[Any]:
        result = function(*args)
        return list(result) if returns > 1 else [result]

    def get(self, handles: Sequence[Any]) -> Iterator[Any]:
        return iter(handles)
