"""Functions as Ray tasks: the executor of what is too much for one process, such as publishing a large table.

Results stay in Ray's object store, which spills to disk; the driver takes one at a time. Knows no corpus and no table.
"""

from collections.abc import Callable, Iterator, Sequence
from typing import Any

import ray
import ray.exceptions

from sfr_batch.pipeline.ray_failures import NOTHING_PUBLISHED, failure_of
from sfr_batch.storage.executor import InProcess

_PART_OF_STORE = 4


class OnRay:
    """Runs functions as tasks of one CPU each, and a share of a GPU where they ask for it; handles are object
    references. An executor of `storage.executor`.

    doing: what they are part of, such as ``publishing``, for the error if Ray gives up. sees_disk: whether all nodes
    see the local files of this process.
    """

    def __init__(self, doing: str, *, sees_disk: bool = True) -> None:
        self._doing = doing
        self._functions: dict[Callable[..., Any], Any] = {}
        """As Ray has them. It exports one each time it is told of it, to all nodes."""
        self.sees_disk = sees_disk

    @property
    def has_gpu(self) -> bool:
        """Whether a whole GPU of the cluster is free now: tasks do not wait for one that a run has."""
        return bool(ray.available_resources().get("GPU", 0) >= 1)

    @property
    def room(self) -> int:
        """A part of the object store: what comparisons keep is there, too, and nothing should have to be spilled."""
        return int(ray.cluster_resources().get("object_store_memory", 0) / _PART_OF_STORE) or InProcess.room

    def share(self, value: Any) -> Any:
        return ray.put(value)

    def submit(self, function: Callable[..., Any], *args: Any, returns: int = 1, gpus: float = 0) -> list[Any]:
        known = self._functions.setdefault(function, ray.remote(function))
        handles = known.options(num_cpus=1, num_gpus=gpus, num_returns=returns).remote(*args)
        return handles if returns > 1 else [handles]

    def get(self, handles: Sequence[Any]) -> Iterator[Any]:
        """Raises what the function raised, RunFailed if Ray gave up on it."""
        for handle in handles:
            try:
                yield ray.get(handle)
            except ray.exceptions.RayError as error:
                raise failure_of(error, f" while {self._doing}", NOTHING_PUBLISHED) from None
