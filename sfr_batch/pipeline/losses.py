"""Counts what a run loses on a cluster: nodes, and encode actors that died and were restarted.

Ray repeats their work elsewhere. The count lets a run on spot machines, or one whose actors run out of memory, report
it. Restarted actors mark their results; nodes are asked for. The stages are wrapped for that, and tell what `asides`
are made of.
"""

import contextlib
import os
import socket
import threading
import time
import uuid
from collections.abc import Callable, Iterator
from typing import NoReturn

import pyarrow as pa
import ray

from sfr_batch.errors import DeviceError
from sfr_batch.format import unforeseen
from sfr_batch.pipeline import actors, display, encode_stage, second_attempt, write_stage
from sfr_batch.pipeline.asides import with_aside
from sfr_batch.pipeline.job import Job, explain
from sfr_batch.pipeline.results import Losses
from sfr_batch.pipeline.watchdog import Watchdog

DEAL = "units"
"""Column of the read units that one task reads."""
_MARK = "restarted"
_ASK_EVERY_S = 5.0
LOADS = 3
"""How often an actor begins to load the model before the run gives up, if its process dies or its device fails each
time and no actor of the run has it loaded. Ray itself restarts it for ever."""
_PAUSE_S = 20.0
"""Seconds before an actor that cannot load the model tries again, while others have it."""
_IDLE = 4
"""Ray's NodeDeathInfo.AUTOSCALER_DRAIN_IDLE: the autoscaler removed an idle node, which is no loss."""


class WatchedEncode:
    """The encode stage on Ray: marks the results of a restarted actor, ends its process when the device fails or hangs,
    and does not encode again what was committed before the restart."""

    def __init__(self, job: Job, stage: type[encode_stage.Encode]) -> None:
        self._job = job
        actors.take_gpu()
        begun = actors.begin_loading(job.run_id)
        self._encode = _load(job, stage, begun) if begun <= LOADS else _without(job, _dies_while_loading(begun - 1))
        again = ray.get_runtime_context().was_current_actor_reconstructed
        self._mark = uuid.uuid4().hex if again else None  # names one restart
        self._lock = threading.Lock()  # calls come from several threads, see `encode_stage.AT_ONCE`
        self._calls, self._free_since = 0, time.perf_counter()
        encode = self._encode
        self._watchdog = Watchdog(lambda: encode.steps, encode.patience_s, self._hangs) if encode.overlaps else None

    def __call__(self, batch: pa.Table) -> pa.Table:
        with self._lock:
            waited = 0.0 if self._calls else time.perf_counter() - self._free_since
            self._calls += 1
        try:
            may_be_done = self._mark and self._encode.problem is None
            receipt = second_attempt.committed(batch, self._job) if may_be_done else None
            if receipt:
                encoded = write_stage.as_committed(batch, receipt)
            else:
                with self._watchdog.waiting() if self._watchdog else contextlib.nullcontext():
                    encoded = self._encode(batch)
        except DeviceError as error:
            _end(str(error))
        with self._lock:
            encoded = with_aside(encoded.append_column(_MARK, pa.array([self._mark], pa.string())), batch, waited)
            self._calls, self._free_since = self._calls - 1, time.perf_counter()
        return encoded

    def _hangs(self) -> None:
        _end(
            f"{self._encode.device or 'The device'} on node {socket.gethostname()} has finished no batch for "
            f"{self._encode.patience_s / 60:g} minutes, so it hangs. This process of an encode actor ends, and Ray "
            "starts another. If that happens again on this node, take it out of the cluster; its kernel log (`dmesg | "
            "grep Xid`) says more."
        )


def _load(job: Job, stage: type[encode_stage.Encode], begun: int) -> encode_stage.Encode:
    """The stage with its model; ends the process if the device fails, LOADS times at most. Raises OSError of a file
    system or network, which Ray Data meets with a fresh actor.

    begun: how often the model has begun to load here.
    """
    try:
        encode = stage(job)
    except DeviceError as error:
        if begun >= LOADS:
            return _without(job, str(error))
        _end(str(error))
    except OSError:
        raise
    except Exception as error:  # Ray Data would load it again and again, and then blame the memory of the node
        return _without(job, explain(error))
    if encode.problem is not None:
        return _without(job, encode.problem)
    if encode.remark:
        actors.remark(job.run_id, encode.remark)
    actors.loaded(job.run_id, encode.device)
    return encode


def _without(job: Job, why: str) -> encode_stage.Encode:
    """A stage that gives every split the reason why it has no model, which ends the run; unless another actor has it.

    Then the reason lies in this node or its device, such as a GPU that is damaged or full. An actor that answers at
    once would be given most of the splits, so this one has no answer: its process ends, and Ray starts it again, there
    or elsewhere.
    """
    actors.failed(job.run_id, unforeseen.parts(why)[0])
    if not actors.another_loads(job.run_id):
        return encode_stage.Encode.failing(why)
    time.sleep(_PAUSE_S)
    _end(why)


def _end(why: str) -> NoReturn:
    """End this process. An exception would fail the split, or the run: a dead process is restarted by Ray, with a fresh
    context of the device or on another node, and gets the split again."""
    display.say(why)
    os._exit(1)


def _dies_while_loading(times: int) -> str:
    return (
        f"The process of an encode actor died {times} times in a row while it loaded the model, last on or before node "
        f"{socket.gethostname()}, and no other actor has it loaded. Usually the memory of a node is too small: take "
        "nodes with more, or fewer actors for each (raise run.actors.cpus). Ray's logs on the node say more."
    )


def read(batch: pa.Table, job: Job, stage: Callable[[pa.Table, Job], Iterator[pa.Table]]) -> Iterator[pa.Table]:
    """`read_stage.read_and_tokenize`, the ``stage``, of the units of a deal, with asides."""
    units = pa.table({"unit": batch.column(DEAL).combine_chunks().flatten()})
    yield from map(with_aside, stage(units, job))


def write(batch: pa.Table, job: Job) -> pa.Table:
    """`write_stage.write` that passes marks and asides on."""
    return with_aside(write_stage.write(batch, job).append_column(_MARK, batch.column(_MARK)), batch)


class Watch:
    """Counts losses from its creation on."""

    def __init__(self) -> None:
        self._known = Losses()
        self._dead_before = _dead_nodes()
        self.nodes = living_nodes()
        """Number of living nodes when the cluster was last asked."""
        self._restarts: set[str] = set()
        self._asked = time.monotonic()

    def news(self, results: pa.Table | None = None) -> Iterator[Losses]:
        """All losses so far, if they have changed. results: those to look for marks in; None asks for nodes at once."""
        nodes = self._known.nodes
        if results is None or time.monotonic() - self._asked > _ASK_EVERY_S:
            nodes = len(_dead_nodes() - self._dead_before)
            self.nodes = living_nodes()
            self._asked = time.monotonic()
        if results is not None:
            self._restarts.update(mark for mark in results.column(_MARK).to_pylist() if mark)
        now = Losses(nodes, len(self._restarts))
        if now != self._known:
            self._known = now
            yield now


def living_nodes() -> int:
    """Number of living nodes of the cluster."""
    return sum(node["Alive"] for node in ray.nodes())


def _dead_nodes() -> set[str]:
    return {node["NodeID"] for node in ray.nodes() if not node["Alive"] and node["DeathReason"] != _IDLE}
