"""What the encode actors of a run on Ray are doing: waiting for a device, starting, loading the model or encoding.

Ray Data reports nothing of an actor before its first result, and a model may load for minutes. So each actor leaves
marks in Ray's key-value store, and the driver counts those of living nodes. What has no room yet, Ray itself lists. For
the display, and to notice that loading ends a process each time; where that store fails, nothing else does.
"""

import contextlib
import os
import socket
import threading
import time
from collections.abc import Callable, Iterable, Iterator

import ray
from ray._private import state as cluster_state
from ray._private import worker
from ray.autoscaler.v2 import sdk
from ray.experimental import internal_kv

from sfr_batch.config.settings import ActorSettings
from sfr_batch.errors import counted
from sfr_batch.pipeline import display
from sfr_batch.pipeline.actor_time import ENCODING, ignored

_PREFIX = "sfr-batch/actors"
LOADING, READY, FAILED, REMARK = "loading", "ready", "failed", "remark"
_BEGUN = "begun"
_ASK_EVERY_S = 2.0


def take_gpu() -> None:
    """Let this process see the GPU that Ray gave it, and no other; before PyTorch starts CUDA.

    Ray does so itself unless RAY_EXPERIMENTAL_NOSET_CUDA_VISIBLE_DEVICES tells it not to, as is usual on Slurm: then
    all actors would be on the first GPU. PyTorch would start a process for each core of the node, up to 32, to compile
    a few kernels.
    """
    if own := ray.get_gpu_ids():
        os.environ["CUDA_VISIBLE_DEVICES"] = ",".join(map(str, own))
        os.environ.setdefault("TORCHINDUCTOR_COMPILE_THREADS", "4")


def begin_loading(run_id: str) -> int:
    """Mark that this actor begins to load the model, maybe in a restarted process. Returns how often it has begun since
    any actor of the run has loaded the model: 1 for the first time, also where nothing can be marked."""
    with contextlib.suppress(Exception):
        actor = ray.get_runtime_context().get_actor_id()
        for state in (LOADING, READY, FAILED, REMARK):
            internal_kv._internal_kv_del(f"{_PREFIX}/{run_id}/{state}/{actor}/", del_by_prefix=True)
        _mark(run_id, LOADING)
        key = f"{_PREFIX}/{run_id}/{_BEGUN}/{actor}"
        begun = 1 if _marked(run_id, READY) else 1 + int(internal_kv._internal_kv_get(key) or 0)
        internal_kv._internal_kv_put(key, str(begun))
        return begun
    return 1


def loaded(run_id: str, device: str) -> None:
    """Mark that this actor has loaded the model. device: its kind."""
    with contextlib.suppress(Exception):
        _mark(run_id, READY, device)


def failed(run_id: str, why: str) -> None:
    """Mark that this actor cannot load the model, which the driver then says."""
    with contextlib.suppress(Exception):
        _mark(run_id, FAILED, f"Node {socket.gethostname()}: {why}")


def remark(run_id: str, text: str) -> None:
    """Have the driver say something of this actor's model that does no harm."""
    with contextlib.suppress(Exception):
        _mark(run_id, REMARK, f"Node {socket.gethostname()}: {text}")


def another_loads(run_id: str) -> bool:
    """Whether another actor of the run has the model, once none is loading it any more: waits for those that do.

    Asks Ray itself, because an actor whose process is still starting has left no mark. Actors that no node has room for
    are not waited for. False where nothing can be asked.
    """
    with contextlib.suppress(Exception):
        context = ray.get_runtime_context()
        job, this = ray.JobID(bytes.fromhex(context.get_job_id())), context.get_actor_id()
        while True:
            time.sleep(_ASK_EVERY_S)
            if _marked(run_id, READY):
                return True
            starting = {
                actor
                for state in ("PENDING_CREATION", "RESTARTING")
                for actor, facts in cluster_state.actors(job_id=job, actor_state_name=state).items()
                if facts["Address"]["Port"]  # else it has no process
            }
            if not starting - {actor for actor, _ in _marked(run_id, FAILED)} - {this}:
                return False
    return False


def _mark(run_id: str, state: str, text: str = "") -> None:
    context = ray.get_runtime_context()
    key = _key(run_id, state, context.get_actor_id(), context.get_node_id())
    internal_kv._internal_kv_put(key, text.encode())


def _key(run_id: str, state: str, actor: str, node: str) -> str:
    return f"{_PREFIX}/{run_id}/{state}/{actor}/{node}"


@contextlib.contextmanager
def watched(
    run_id: str,
    actors: ActorSettings,
    enter: Callable[[str], None],
    count: Callable[[int, str], None] = ignored,
) -> Iterator[None]:
    """Call ``enter`` with the stage of a run, and ``count`` with the number of its actors and the kind of a device of
    theirs, again and again until the context ends. Says once why an actor cannot load the model, and each remark."""
    stop = threading.Event()
    told: set[str] = set()

    def watch() -> None:
        while not stop.wait(_ASK_EVERY_S):
            with contextlib.suppress(Exception):
                enter(_now(run_id, actors, count))
                for why in _failures(run_id) - told:
                    told.add(why)
                    display.say(f"An encode actor cannot load the model; the others go on. {why}")
                for text in _texts(run_id, REMARK) - told:
                    told.add(text)
                    display.say(text)

    enter(stage(actors))
    thread = threading.Thread(target=watch, name="sfr-actors", daemon=True)
    thread.start()
    try:
        yield
    finally:
        stop.set()
        thread.join()
        with contextlib.suppress(Exception):  # once more, for a run that was shorter than the first wait
            _now(run_id, actors, count)
        count(0, "")
        with contextlib.suppress(Exception):
            internal_kv._internal_kv_del(f"{_PREFIX}/{run_id}/", del_by_prefix=True)


def stage(
    actors: ActorSettings, loading: int = 0, ready: int = 0, waiting: int = 0, *, lacking_gpus: bool = True
) -> str:
    """The stage of a run in words.

    loading, ready, waiting: actors that load the model, that have it, and that no node has room for. lacking_gpus:
    whether these wait for GPUs, not for CPUs.
    """
    if not waiting:
        return ENCODING if ready else "loading the model" if loading else "starting the actors"
    if lacking_gpus:
        what = f"waiting for {waiting * actors.gpus:g} of {actors.min * actors.gpus:g} GPUs"
    else:
        what = f"waiting for CPUs for {waiting:,} of {counted(actors.min, 'actor')}"
    return f"{ENCODING}, {what}" if ready else what


def _now(run_id: str, actors: ActorSettings, count: Callable[[int, str], None]) -> str:
    nodes = {node["NodeID"] for node in ray.nodes() if node["Alive"]}
    places = [{mark for mark in _marked(run_id, state) if mark[1] in nodes} for state in (LOADING, READY)]
    loading, ready = ({actor for actor, _ in marks} for marks in places)
    device = internal_kv._internal_kv_get(_key(run_id, READY, *min(places[1]))) if ready else None
    count(len((loading | ready) - _ended()), (device or b"").decode())
    missing = actors.min - len(loading | ready)
    waiting = min(missing, _without_room(actors)) if missing > 0 else 0
    lacking = bool(actors.gpus) and ray.available_resources().get("GPU", 0) < actors.gpus if waiting else True
    return stage(actors, len(loading - ready), len(ready), waiting, lacking_gpus=lacking)


def _failures(run_id: str) -> set[str]:
    """Why actors cannot load the model, if others have it: else it is the error of the run."""
    return _texts(run_id, FAILED) if _marked(run_id, READY) else set()


def _texts(run_id: str, state: str) -> set[str]:
    """What actors have said as they marked a state."""
    marks = internal_kv._internal_kv_list(f"{_PREFIX}/{run_id}/{state}/")
    return {(internal_kv._internal_kv_get(key) or b"").decode() for key in marks} - {""}


def _ended() -> set[str]:
    """Actors of this job that no longer exist, such as those that a smaller pool does without. Their marks stay."""
    with contextlib.suppress(Exception):
        return set(cluster_state.actors(job_id=worker.global_worker.current_job_id, actor_state_name="DEAD"))
    return set()


def _without_room(actors: ActorSettings) -> int:
    """Number of requests for an actor's CPUs and GPUs that Ray cannot meet now, as `ray status` counts them."""
    own = {name: number for name, number in (("CPU", actors.cpus), ("GPU", actors.gpus)) if number}
    pending = sdk.get_cluster_resource_state(worker.global_worker.gcs_client).pending_resource_requests
    return sum(request.count for request in pending if _devices(request.request.resources_bundle.items()) == own)


def _devices(bundle: Iterable[tuple[str, float]]) -> dict[str, float]:
    return {name: number for name, number in bundle if name in ("CPU", "GPU") and number}


def _marked(run_id: str, state: str) -> set[tuple[str, str]]:
    """(actor, node) of the marks of a state."""
    prefix = f"{_PREFIX}/{run_id}/{state}/"
    marks = (key.decode().removeprefix(prefix).partition("/") for key in internal_kv._internal_kv_list(prefix))
    return {(actor, node) for actor, _, node in marks}
