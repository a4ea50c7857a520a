"""What the encode actors of a run on Ray are doing: waiting for a device, loading the model or encoding.

Ray Data reports nothing of an actor before its first result, and a model may load for minutes. So each actor leaves
marks in Ray's key-value store, and the driver counts them. Only for the display: where that store fails, nothing else
does.
"""

import contextlib
import threading
from collections.abc import Callable, Iterator

import ray
from ray.experimental import internal_kv

from sfr_batch.config.settings import ActorSettings
from sfr_batch.errors import counted

_PREFIX = "sfr-batch/actors"
LOADING, READY = "loading", "ready"
_ASK_EVERY_S = 2.0


def mark(run_id: str, state: str) -> None:
    """Leave the mark of this actor: LOADING before the model is loaded, also by a restarted actor, READY after."""
    with contextlib.suppress(Exception):
        actor = ray.get_runtime_context().get_actor_id()
        internal_kv._internal_kv_put(f"{_PREFIX}/{run_id}/{state}/{actor}", b"")
        if state == LOADING:
            internal_kv._internal_kv_del(f"{_PREFIX}/{run_id}/{READY}/{actor}")


@contextlib.contextmanager
def watched(run_id: str, actors: ActorSettings, enter: Callable[[str], None]) -> Iterator[None]:
    """Call ``enter`` with the stage of a run, again and again until the context ends."""
    stop = threading.Event()

    def watch() -> None:
        while not stop.wait(_ASK_EVERY_S):
            with contextlib.suppress(Exception):
                loading, ready = (_marked(run_id, state) for state in (LOADING, READY))
                enter(stage(len(loading - ready), len(ready), actors))

    enter(stage(0, 0, actors))
    thread = threading.Thread(target=watch, name="sfr-actors", daemon=True)
    thread.start()
    try:
        yield
    finally:
        stop.set()
        thread.join()
        with contextlib.suppress(Exception):
            internal_kv._internal_kv_del(f"{_PREFIX}/{run_id}/", del_by_prefix=True)


def stage(loading: int, ready: int, actors: ActorSettings) -> str:
    """The stage of a run in words. loading, ready: actors that load the model, and that have it."""
    missing = max(0, actors.min - loading - ready)
    wanted = actors.min
    if actors.gpus:
        waiting = f"waiting for {missing * actors.gpus:g} of {wanted * actors.gpus:g} GPUs"
    else:
        waiting = f"waiting for CPUs for {missing:,} of {counted(wanted, 'actor')}"
    if not ready:
        return waiting if missing else "loading the model"
    return f"encoding, {waiting}" if missing else "encoding"


def _marked(run_id: str, state: str) -> set[bytes]:
    prefix = f"{_PREFIX}/{run_id}/{state}/"
    return {key.removeprefix(prefix.encode()) for key in internal_kv._internal_kv_list(prefix)}
