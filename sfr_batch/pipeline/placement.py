"""Decides where splits are embedded: in this process, on a Ray of its own, or on a cluster.

Ray costs fifteen seconds of start-up and part of the CPUs; with one encode actor on one machine it is never worth that.
Imports no Ray to choose: it looks for the file and the port that a running Ray has.
"""

import json
import os
import sys
import tempfile
from pathlib import Path

from sfr_batch.config.settings import Config
from sfr_batch.errors import ConfigError
from sfr_batch.pipeline import clusters
from sfr_batch.storage.local_files import read_text_file
from sfr_batch.storage.locations import absolute_uri

HERE = "none"
"""In this process, without Ray."""
LOCAL = "local"
"""On the Ray that this process is connected to, else on a new one that ends with the run."""


def choose(config: Config) -> str:
    """HERE, LOCAL, or the address of a cluster, which may not answer."""
    address = config.run.ray_address or os.environ.get("RAY_ADDRESS") or "auto"
    if address != "auto":
        return address
    if has_ray():
        return LOCAL
    return running_cluster() or (HERE if one_actor_is_enough(config) else LOCAL)


def address_of(place: str, config: Config) -> clusters.Address | None:
    """The address of the cluster that ``place`` is; None if it is none."""
    if place in (HERE, LOCAL):
        return None
    if place == config.run.ray_address:
        return clusters.Address(place, "run.ray_address")
    if place == os.environ.get("RAY_ADDRESS"):
        return clusters.Address(place, "RAY_ADDRESS")
    return clusters.Address(place, "the Ray that was started on this machine")


def check(place: str, config: Config) -> None:
    """Raises ConfigError, before anything is written, if nothing can be embedded at ``place``."""
    _check_table(config)
    if address := address_of(place, config):
        clusters.check(address)  # in no time
        from sfr_batch.pipeline import joining  # imports ray, which takes seconds

        joining.check(address)
        return
    if place == LOCAL and has_ray():  # it may be a cluster with GPUs
        from sfr_batch.pipeline import joining  # imports ray, which is there already

        joining.check_connected()
        return
    if place == LOCAL and os.environ.get("RAY_AUTH_MODE") != "disabled":
        clusters.token_source()
    if config.model.device == "cuda":
        from sfr_batch.encoder.devices import require_device  # imports torch, which takes seconds

        require_device("cuda", config.model.compute_dtype)


_JOB_FOLDERS = "/runtime_resources/working_dir_files/"
"""Part of the path of each folder that Ray unpacks a submitted job in, and removes after it."""


def _check_table(config: Config) -> None:
    """Raises ConfigError if the table would lie in the folder of a submitted job."""
    place = absolute_uri(config.table.path)
    if _JOB_FOLDERS in place:
        raise ConfigError(
            f"table.path {config.table.path} would be {place}: the relative paths of a submitted job begin in the "
            "folder that was uploaded with it, and Ray removes that after the job. Write an absolute path, or s3://."
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
    return address if address and clusters.answers(address) else None


def has_ray() -> bool:
    """Whether this process is connected to a Ray already, as notebooks are."""
    ray = sys.modules.get("ray")
    return ray is not None and bool(ray.is_initialized())
