"""What a driver learns of its encode actors on a real Ray, and what it shows when Ray does not start."""

import os
import time
from pathlib import Path
from typing import Any

import pytest
import ray

from sfr_batch.config.settings import ActorSettings
from sfr_batch.pipeline import actors, execution, losses

pytestmark = pytest.mark.ray


class Job:
    """The part of a job that the actor itself needs."""

    run_id = "run-of-this-test"


class SlowModel:
    """The encode stage of an actor whose model loads until a file is there."""

    def __init__(self, job: Any) -> None:
        while not Path(os.environ["MODEL"]).exists():
            time.sleep(0.01)


def test_actors_leave_marks(ray_session: None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(actors, "_ASK_EVERY_S", 0.05)
    said: list[str] = []

    def wait_for(stage: str) -> None:
        while said[-1] != stage:
            time.sleep(0.01)

    environment = {"env_vars": {"MODEL": str(tmp_path / "model")}}
    with actors.watched(Job.run_id, ActorSettings(gpus=0, min=2), said.append):
        wait_for("waiting for CPUs for 2 of 2 actors")
        pool = [
            ray.remote(losses.WatchedEncode).options(num_cpus=0, runtime_env=environment).remote(Job(), SlowModel)
            for _ in range(2)
        ]
        wait_for("loading the model")
        (tmp_path / "model").touch()
        wait_for("encoding")
        for actor in pool:
            ray.kill(actor)
    assert not actors._marked(Job.run_id, actors.READY)


@pytest.mark.parametrize("stderr", ["/dev/full", None])
def test_what_ray_says_as_it_starts_needs_no_stderr(stderr: str | None, capfd: pytest.CaptureFixture[str]) -> None:
    before = os.dup(2)
    try:
        if stderr:
            os.dup2(os.open(stderr, os.O_WRONLY), 2)
        else:
            os.close(2)
        with execution._quiet_start():
            pass
        with pytest.raises(ZeroDivisionError), execution._quiet_start():
            raise ZeroDivisionError
    finally:
        os.dup2(before, 2)
        os.close(before)
    with pytest.raises(ZeroDivisionError), execution._quiet_start():
        _ = os.write(2, b"what Ray says\n") / 0
    assert capfd.readouterr().err == "what Ray says\n"
