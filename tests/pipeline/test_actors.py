"""What a driver learns of its encode actors on a real Ray, and what it shows when Ray does not start."""

import os
import socket
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest
import ray
from ray._private import worker

from sfr_batch.config.settings import ActorSettings
from sfr_batch.errors import ConfigError
from sfr_batch.format import unforeseen
from sfr_batch.pipeline import actors, joining, losses, placement
from sfr_batch.pipeline.actor_time import ActorTime
from sfr_batch.pipeline.asides import ASIDE
from sfr_batch.pipeline.work import TIMES
from tests.job_processes import config

pytestmark = pytest.mark.ray


NO_SPLIT = pa.table({name: [None] for name in ("split", "rows", "rejects", "token_ids", "error", TIMES, ASIDE)})


class Job:
    """The part of a job that the actor itself needs."""

    run_id = "run-of-this-test"


class SlowModel:
    """The encode stage of an actor whose model loads until a file is there."""

    problem = None
    device = "Device of this test"
    remark = "It could be faster."
    overlaps = False

    def __init__(self, job: Any) -> None:
        while not Path(os.environ["MODEL"]).exists():
            time.sleep(0.01)


class FullDevice:
    """The encode stage of an actor whose device has no room for the model."""

    problem = "no room"

    def __init__(self, job: Any) -> None:
        pass


class OddModel:
    """The encode stage of an actor whose model raises what nobody foresaw."""

    def __init__(self, job: Any) -> None:
        raise RuntimeError("Triton Error [CUDA]: device kernel image is invalid")


class DeadlyModel:
    """The encode stage of an actor whose process dies while it loads the model."""

    def __init__(self, job: Any) -> None:
        os._exit(1)


@pytest.fixture
def model(tmp_path: Path) -> Path:
    return tmp_path / "model"


def pool(model: Path, *cpus: float, stage: type = SlowModel, **options: Any) -> list[Any]:
    environment = {"env_vars": {"MODEL": str(model)}}
    actor = ray.remote(losses.WatchedEncode)
    return [actor.options(num_cpus=number, runtime_env=environment, **options).remote(Job(), stage) for number in cpus]


def test_actors_leave_marks(ray_session: None, model: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What waits for room is told from what starts: a worker may take minutes to start, e.g. to unpack its packages."""
    monkeypatch.setattr(actors, "_ASK_EVERY_S", 0.05)
    said: list[str] = []
    remarks: list[str] = []
    monkeypatch.setattr(actors.display, "say", remarks.append)

    def wait_for(stage: str) -> None:
        while said[-1] != stage:
            time.sleep(0.01)

    time_of_actors = ActorTime()
    with actors.watched(Job.run_id, ActorSettings(gpus=0, cpus=1.25, min=2), said.append, time_of_actors.count):
        assert said == ["starting the actors"]
        first, second = pool(model, 1.25, 1.25)
        wait_for("waiting for CPUs for 1 of 2 actors")
        model.touch()
        wait_for("encoding, waiting for CPUs for 1 of 2 actors")
        ray.kill(first)
        wait_for("encoding")
        monkeypatch.setattr(ray, "nodes", list)  # no node is alive any more
        wait_for("starting the actors")
        ray.kill(second)
    assert not actors._marked(Job.run_id, actors.READY)
    assert remarks == [f"Node {socket.gethostname()}: It could be faster."], "once, of whoever has loaded the model"
    assert (time_of_actors.most, time_of_actors.kinds) == (1, {"Device of this test"})
    assert time_of_actors.seconds > 0


def test_an_actor_sees_its_own_gpu_and_starts_few_processes(monkeypatch: pytest.MonkeyPatch) -> None:
    """What somebody has set stays."""
    given = {"CUDA_VISIBLE_DEVICES": "0,1,2,3"}
    monkeypatch.setattr(actors.os, "environ", given)
    monkeypatch.setattr(actors.ray, "get_gpu_ids", list)
    actors.take_gpu()
    assert given == {"CUDA_VISIBLE_DEVICES": "0,1,2,3"}, "no GPU is taken"
    monkeypatch.setattr(actors.ray, "get_gpu_ids", lambda: [3])
    actors.take_gpu()
    assert given == {
        "CUDA_VISIBLE_DEVICES": "3",
        "TORCHINDUCTOR_COMPILE_THREADS": "4",
    }
    given["TORCHINDUCTOR_COMPILE_THREADS"] = "1"
    before = dict(given)
    actors.take_gpu()
    assert given == before


@pytest.mark.parametrize(
    ("lacking", "text"),
    [(True, "waiting for 1 of 8 GPUs"), (False, "waiting for CPUs for 2 of 16 actors")],
)
def test_what_actors_wait_for(lacking: bool, text: str) -> None:
    settings = ActorSettings(gpus=0.5, min=16)
    assert actors.stage(settings, 14, 0, 2, lacking_gpus=lacking) == text
    assert actors.stage(settings, 4, 10, 2, lacking_gpus=lacking) == f"encoding, {text}"
    assert actors.stage(settings, 4, 0, 0) == "loading the model"


def test_an_actor_that_dies_at_each_load_becomes_an_error(ray_session: None, model: Path) -> None:
    """Ray itself would restart it for ever. Where another actor has the model, it may."""
    assert [actors.begin_loading(Job.run_id) for _ in range(2)] == [1, 2]
    (deadly,) = pool(model, 0, stage=DeadlyModel, max_restarts=-1, max_task_retries=-1)
    encoded = ray.get(deadly.__call__.remote(NO_SPLIT))
    assert (
        encoded["error"][0]
        .as_py()
        .startswith(
            "The process of an encode actor died 3 times in a row while it loaded the model, last on or before node "
        )
    )
    ray.kill(deadly)
    another = f"{actors._PREFIX}/{Job.run_id}/{actors.READY}/another/node"
    actors.internal_kv._internal_kv_put(another, b"")
    assert actors.begin_loading(Job.run_id) == 1


def test_a_model_that_cannot_be_loaded_is_an_error_once_no_other_actor_loads_it(
    ray_session: None, model: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """An actor whose process is just starting counts as one that loads, one that has failed does not."""
    monkeypatch.setattr(actors, "_ASK_EVERY_S", 0.05)
    actors.internal_kv._internal_kv_del(f"{actors._PREFIX}/{Job.run_id}/", del_by_prefix=True)
    assert not actors.another_loads(Job.run_id)
    full = [*pool(model, 0, stage=FullDevice), *pool(model, 0, stage=OddModel)]
    given = ray.get([actor.__call__.remote(NO_SPLIT) for actor in full])
    no_room, odd = (table["error"][0].as_py() for table in given)
    assert no_room == "no room"
    sentence, trace = unforeseen.parts(odd)
    assert sentence.startswith("RuntimeError: Triton Error [CUDA]: device kernel image is invalid, in sfr_batch/")
    assert trace.endswith("device kernel image is invalid")
    (slow,) = pool(model, 0)
    while not actors._marked(Job.run_id, actors.LOADING) - actors._marked(Job.run_id, actors.FAILED):
        time.sleep(0.01)
    assert actors._failures(Job.run_id) == set(), "nobody has the model: it is the error of the run"
    with ThreadPoolExecutor(1) as thread:
        asked = thread.submit(actors.another_loads, Job.run_id)
        time.sleep(0.5)
        assert not asked.done()
        model.touch()
        assert asked.result()
    assert actors._failures(Job.run_id) == {f"Node {socket.gethostname()}: {why}" for why in (no_room, sentence)}
    for actor in (*full, slow):
        ray.kill(actor)
    actors.internal_kv._internal_kv_del(f"{actors._PREFIX}/{Job.run_id}/", del_by_prefix=True)


def test_ray_client_carries_no_run(ray_session: None, monkeypatch: pytest.MonkeyPatch) -> None:
    joining.check_connected()
    monkeypatch.setattr("ray.util.client.ray.is_connected", lambda: True)
    with pytest.raises(ConfigError) as caught:
        placement.check(placement.LOCAL, config("model", "/data"))
    assert str(caught.value) == (
        "This process is connected to a Ray cluster by Ray Client (ray://), through which no run works. Submit the "
        "run: sfr-batch submit CONFIG --address http://HEAD:8265. Or call ray.shutdown() and embed in this process: "
        "run.ray_address=none."
    )


def test_what_ray_has_not_printed_yet_is_not_printed_as_it_shuts_down(monkeypatch: pytest.MonkeyPatch) -> None:
    """Its thread that prints ends in `ray.shutdown`, and may have a last message in hand."""
    printed: list[bool] = []
    monkeypatch.setattr(ray, "is_initialized", lambda: False)
    monkeypatch.setattr(joining, "_init", lambda address, cpus: None)
    monkeypatch.setattr(ray, "shutdown", lambda: printed.append(worker._worker_logs_enabled))
    with pytest.raises(ZeroDivisionError), joining.connected(None, 1):
        raise ZeroDivisionError
    assert printed == [False]
    assert worker._worker_logs_enabled


@pytest.mark.parametrize("stderr", ["/dev/full", None])
def test_what_ray_says_as_it_starts_needs_no_stderr(stderr: str | None, capfd: pytest.CaptureFixture[str]) -> None:
    before = os.dup(2)
    try:
        if stderr:
            os.dup2(os.open(stderr, os.O_WRONLY), 2)
        else:
            os.close(2)
        with joining._held_back(show=True):
            pass
        with pytest.raises(ZeroDivisionError), joining._held_back(show=True):
            raise ZeroDivisionError
    finally:
        os.dup2(before, 2)
        os.close(before)
    with pytest.raises(ZeroDivisionError), joining._held_back(show=True):
        _ = os.write(2, b"what Ray says\n") / 0
    assert capfd.readouterr().err == "what Ray says\n"
