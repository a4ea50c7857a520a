"""Where splits are embedded: in this process, on a Ray of its own, or on a cluster. Decides and probes.

Ray costs some fifteen seconds of start-up and part of the CPUs, which one encode actor on one machine never earns
back. Knows Ray only by what it leaves on a disk and a port, and never imports it.
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
"""On the Ray of this process: the one that it has, else a new one that ends with the run."""


def choose(config: Config) -> str:
    """HERE, LOCAL, or the address of a cluster, which need not answer."""
    address = config.run.ray_address or os.environ.get("RAY_ADDRESS") or "auto"
    if address != "auto":
        return address
    if _has_ray():
        return LOCAL
    return running_cluster() or (HERE if one_actor_is_enough(config) else LOCAL)


def check(place: str, config: Config) -> None:
    """Raises ConfigError where it is certain, before anything is written, that nothing can be embedded at ``place``."""
    if place not in (HERE, LOCAL):
        if not answers(place):
            raise ConfigError(
                f"No Ray cluster answers at {place} (run.ray_address, RAY_ADDRESS). Start it, correct the address, or "
                "embed in this process: run.ray_address=none."
            )
    elif config.model.device == "cuda" and not _has_ray():  # that one may have joined a cluster
        from sfr_batch.encoder.devices import has_gpu  # imports torch, which takes seconds

        if not has_gpu():
            raise ConfigError(
                "model.device is cuda, but PyTorch sees no GPU here. Set model.device=cpu and run.actors.gpus=0, or "
                "check the driver and that PyTorch is a CUDA build."
            )


def one_actor_is_enough(config: Config) -> bool:
    """Whether this machine would run one encode actor and no more. Imports torch if it has to count GPUs."""
    actors = config.run.actors
    if actors.min > 1 or actors.max is not None:
        return actors.max == 1
    if config.model.device == "cpu":
        return True
    from sfr_batch.encoder.devices import count_gpus  # imports torch, which takes seconds

    return int(count_gpus() / actors.gpus) <= 1


def submission_id() -> str | None:
    """Of the Ray job whose driver this process is; None if it is none."""
    try:
        job = json.loads(os.environ.get("RAY_JOB_CONFIG_JSON_ENV_VAR", "{}"))
        return str(job["metadata"]["job_submission_id"])
    except (ValueError, KeyError, TypeError):
        return None


def running_cluster() -> str | None:
    """Address of the Ray that was started on this machine, where `ray start` leaves it; None if nobody answers there.

    `ray.init(address="auto")` trusts that file even if its cluster died long ago.
    """
    folder = os.environ.get("RAY_TMPDIR") or tempfile.gettempdir()
    address = (read_text_file(Path(folder) / "ray" / "ray_current_cluster") or "").strip()
    return address if address and answers(address) else None


def answers(address: str) -> bool:
    """Whether somebody listens at ``address``, `host:port` with or without a scheme."""
    host, _, port = address.rpartition("://")[2].rpartition(":")
    try:
        socket.create_connection((host, int(port)), timeout=5).close()
    except (OSError, ValueError):
        return False
    return True


def _has_ray() -> bool:
    """Whether somebody has called `ray.init` in this process, as notebooks do."""
    ray = sys.modules.get("ray")
    return ray is not None and bool(ray.is_initialized())
