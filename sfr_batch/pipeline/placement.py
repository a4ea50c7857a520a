"""Decides where splits are embedded: in this process, on a Ray of its own, or on a cluster.

Ray costs fifteen seconds of start-up and part of the CPUs; with one encode actor on one machine it is never worth that.
Never imports Ray: it looks for the file and the port that a running Ray has.
"""

import json
import os
import socket
import sys
import tempfile
from pathlib import Path

from sfr_batch.config.settings import Config
from sfr_batch.errors import ConfigError
from sfr_batch.storage.local_files import read_text_file

HERE = "none"
"""In this process, without Ray."""
LOCAL = "local"
"""On the Ray that this process is connected to, else on a new one that ends with the run."""


def choose(config: Config) -> str:
    """HERE, LOCAL, or the address of a cluster, which may not answer."""
    address = config.run.ray_address or os.environ.get("RAY_ADDRESS") or "auto"
    if address != "auto":
        return address
    if _has_ray():
        return LOCAL
    return running_cluster() or (HERE if one_actor_is_enough(config) else LOCAL)


def check(place: str, config: Config) -> None:
    """Raises ConfigError, before anything is written, if nothing can be embedded at ``place``."""
    if place not in (HERE, LOCAL):
        if not answers(place):
            raise ConfigError(
                f"No Ray cluster answers at {place} (run.ray_address, RAY_ADDRESS). Start it, correct the address, or "
                "embed in this process: run.ray_address=none."
            )
    elif config.model.device == "cuda" and not _has_ray():  # a connected Ray may be a cluster with GPUs
        from sfr_batch.encoder.devices import has_gpu  # imports torch, which takes seconds

        if not has_gpu():
            raise ConfigError(
                "model.device is cuda, but PyTorch sees no GPU here. Set model.device=cpu and run.actors.gpus=0, or "
                "check the driver and that PyTorch is a CUDA build."
            )


def one_actor_is_enough(config: Config) -> bool:
    """Whether this machine would run only one encode actor. Imports torch if it has to count GPUs."""
    actors = config.run.actors
    if actors.min > 1 or actors.max is not None:
        return actors.max == 1
    if config.model.device == "cpu":
        return True
    from sfr_batch.encoder.devices import count_gpus  # imports torch, which takes seconds

    return int(count_gpus() / actors.gpus) <= 1


def submission_id() -> str | None:
    """Submission id of the Ray job whose driver this process is; None if it is not a driver."""
    try:
        job = json.loads(os.environ.get("RAY_JOB_CONFIG_JSON_ENV_VAR", "{}"))
        return str(job["metadata"]["job_submission_id"])
    except (ValueError, KeyError, TypeError):
        return None


def running_cluster() -> str | None:
    """Address of the Ray that `ray start` started on this machine; None if there is none or it does not answer.

    `ray.init(address="auto")` trusts the file with the address even if that cluster died long ago.
    """
    folder = os.environ.get("RAY_TMPDIR") or tempfile.gettempdir()
    address = (read_text_file(Path(folder) / "ray" / "ray_current_cluster") or "").strip()
    return address if address and answers(address) else None


def answers(address: str) -> bool:
    """Whether anything listens at ``address``, `host:port` with or without a scheme."""
    host, _, port = address.rpartition("://")[2].rpartition(":")
    try:
        socket.create_connection((host, int(port)), timeout=5).close()
    except (OSError, ValueError):
        return False
    return True


def _has_ray() -> bool:
    """Whether this process is connected to a Ray already, as notebooks are."""
    ray = sys.modules.get("ray")
    return ray is not None and bool(ray.is_initialized())
