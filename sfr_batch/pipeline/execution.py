"""Splits through Ray Data: the dataset, its settings, and the Ray that it runs on.

Knows the stages and how to spread them; what a receipt means is the runner's. The settings were each learnt the hard
way on Ray 2.60, and each says why.
"""

import contextlib
import logging
import os
import socket
import sys
import tempfile
import warnings
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import pyarrow as pa
import ray
import ray.data
import ray.exceptions
from ray.util.annotations import RayDeprecationWarning

from sfr_batch.config import Config
from sfr_batch.corpus import ReadUnit
from sfr_batch.errors import ConfigError, RunFailed
from sfr_batch.manifest import Receipt
from sfr_batch.pipeline import stages
from sfr_batch.storage import is_s3, read_text_file

_INPUT_BLOCKS = 200
"""Tasks that read units are dealt to. `from_items` with 20,000 blocks takes 25 s, with 200 half a second."""
_LOST_WORKERS = 5
"""Workers and nodes that one task may lose. Ray Data's default is without end: a split that kills its worker each time
would keep the job busy for ever."""


@dataclass(frozen=True)
class Failure:
    """A split that could not be committed."""

    split_id: str
    shard: str
    error: str


@contextlib.contextmanager
def cluster(config: Config) -> Iterator[None]:
    """Join the Ray cluster that is configured or running, else start a local one and stop it in the end."""
    started = _connect(config)
    try:
        check_paths(config, nodes=sum(node["Alive"] for node in ray.nodes()))
        yield
    finally:
        if started:
            ray.shutdown()


def _connect(config: Config) -> bool:
    if ray.is_initialized():
        return False
    address = config.run.ray_address or os.environ.get("RAY_ADDRESS") or "auto"
    running = _running_cluster() if address == "auto" else None
    quiet = {"log_to_driver": False, "logging_level": logging.ERROR}
    if running or address not in ("auto", "local"):
        address = running or address
        if not _answers(address):  # Ray itself would try for ten minutes and more
            raise ConfigError(f"No Ray cluster answers at {address} (run.ray_address, RAY_ADDRESS).")
        ray.init(address=address, **quiet)
        return True
    # Ray Data's own actors make the core worker warn about their arguments, in lines that no user can act on.
    os.environ.setdefault("RAY_BACKEND_LOG_LEVEL", "fatal")
    # The encode actor takes one CPU; a second must be free or nothing is ever read.
    with _quiet_start():
        ray.init(address="local", num_cpus=max(2, os.cpu_count() or 1), include_dashboard=False, **quiet)
    return True


def _running_cluster() -> str | None:
    """Address of the Ray that was started on this machine, where `ray start` leaves it; None if nobody answers there.

    `ray.init(address="auto")` trusts that file even if its cluster died long ago.
    """
    folder = os.environ.get("RAY_TMPDIR") or tempfile.gettempdir()
    address = (read_text_file(Path(folder) / "ray" / "ray_current_cluster") or "").strip()
    return address if address and _answers(address) else None


def _answers(address: str) -> bool:
    host, _, port = address.rpartition("://")[2].rpartition(":")
    try:
        socket.create_connection((host, int(port)), timeout=5).close()
    except (OSError, ValueError):
        return False
    return True


@contextlib.contextmanager
def _quiet_start() -> Iterator[None]:
    """Keep what Ray's C++ core says on stderr while it starts, and show it only if the start fails."""
    sys.stderr.flush()
    terminal = os.dup(2)
    with tempfile.TemporaryFile() as kept:
        os.dup2(kept.fileno(), 2)
        try:
            yield
        except BaseException:
            kept.seek(0)
            os.write(terminal, kept.read())
            raise
        finally:
            os.dup2(terminal, 2)
            os.close(terminal)


def check_paths(config: Config, nodes: int) -> None:
    """Raises ConfigError if the table is on a local disk and the cluster has several."""
    if nodes > 1 and not is_s3(config.table.path) and not config.table.shared_path:
        raise ConfigError(
            f"table.path {config.table.path} is a local path, but the cluster has {nodes} nodes: each would write to "
            "its own disk. Use s3://, or set table.shared_path=true if all nodes share that file system."
        )


def execute(units: Sequence[ReadUnit], job: stages.Job, config: Config) -> Iterator[Receipt | Failure]:
    """Read, tokenize, encode and write; yields each split's receipt or failure as it comes, in no order.

    Lost workers, actors and nodes are Ray's to retry; raises RunFailed when it gives up. Stop iterating to stop.
    """
    _configure()
    with warnings.catch_warnings():
        # `max_retries` and its like have no named argument yet that could take their place, as the warning asks.
        warnings.simplefilter("ignore", RayDeprecationWarning)
        dataset = _dataset(units, job, config)
    try:
        for batch in dataset.iter_batches(batch_size=None, batch_format="pyarrow", prefetch_batches=0):
            yield from _results(batch)
    except ray.exceptions.RayError as error:  # ours come as results; this is Ray, after its own retries
        last = str(error).strip().splitlines()[-1]
        raise RunFailed(
            f"Ray gave up: {type(error).__name__}: {last}\nWhat is committed stays, and the same command continues. "
            "Workers that die again and again are mostly out of memory: lower run.rows_per_split."
        ) from error


def _dataset(units: Sequence[ReadUnit], job: stages.Job, config: Config) -> ray.data.Dataset:
    """Read units in, results out; nothing runs yet."""
    actors = config.run.actors
    one_split = {"batch_size": 1, "batch_format": "pyarrow", "zero_copy_batch": True}
    return (
        ray.data.from_items(
            [{"unit": stages.unit_to_json(unit)} for unit in units],
            override_num_blocks=min(len(units), _INPUT_BLOCKS),
        )
        .map_batches(
            stages.read_and_tokenize,
            fn_kwargs={"job": job},
            num_cpus=0.5,  # waits for storage half of the time
            max_retries=_LOST_WORKERS,
            **one_split,
        )
        .map_batches(
            stages.Encode,
            fn_constructor_kwargs={"job": job},
            compute=ray.data.ActorPoolStrategy(min_size=actors.min, max_size=_max_actors(config)),
            num_cpus=actors.cpus,
            num_gpus=actors.gpus or None,
            max_task_retries=_LOST_WORKERS,
            **one_split,
        )
        .map_batches(
            stages.write,
            fn_kwargs={"job": job},
            num_cpus=0.25,  # waits for storage most of the time
            max_retries=_LOST_WORKERS,
            **one_split,
        )
    )


def _results(batch: pa.Table) -> Iterator[Receipt | Failure]:
    for row in batch.to_pylist():
        if row["receipt"] is None:
            yield Failure(row["split_id"], row["shard"], row["error"])
        else:
            yield Receipt.from_json(row["receipt"])


def _max_actors(config: Config) -> int:
    actors = config.run.actors
    if actors.max is not None:
        return actors.max
    fit = int(ray.cluster_resources().get("GPU", 0) / actors.gpus) if actors.gpus else actors.min
    return max(actors.min, fit)


def _configure() -> None:
    context = ray.data.DataContext.get_current()
    # Every split becomes a block and a task of its own; larger blocks would give one actor a dozen splits at once,
    # and a lost actor would repeat them all.
    context.target_max_block_size = 1
    # Waiting for GPU capacity counts as no progress, and may well take hours.
    context.execution_no_progress_timeout_s = 6 * 3600
    context.enable_progress_bars = False
    for name in ("ray.data", "ray"):
        logging.getLogger(name).setLevel(logging.ERROR)
