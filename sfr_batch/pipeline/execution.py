"""Splits through Ray Data: the dataset, its settings, and the Ray that it runs on.

Knows the stages and how to spread them; what a receipt means is the runner's. The settings were each learnt the hard
way on Ray 2.60, and each says why.
"""

import contextlib
import logging
import math
import os
import signal
import sys
import threading
import warnings
from collections.abc import Generator, Iterator, Sequence

import ray
import ray.data
import ray.data.exceptions
import ray.exceptions
from ray.util.annotations import RayDeprecationWarning

from sfr_batch.config.settings import Config
from sfr_batch.corpus.splits import ReadUnit
from sfr_batch.errors import ConfigError, RunFailed
from sfr_batch.format.records import Receipt
from sfr_batch.pipeline import encode_stage, losses, packing, placement, read_stage
from sfr_batch.pipeline.job import Job
from sfr_batch.pipeline.results import Failure, Losses, results
from sfr_batch.storage.local_files import unnamed_file
from sfr_batch.storage.store import is_s3

_INPUT_BLOCKS = 200
"""Tasks that read units are dealt to. `from_items` with 20,000 blocks takes 25 s, with 200 half a second."""
_READ_CPUS = 0.5
"""A reader waits for storage half of the time."""
_PATIENCE_S = 6 * 3600.0
"""How long a run waits for anything to happen, a GPU that becomes free above all."""
_LOST_WORKERS = 5
"""Workers and nodes that one task may lose. Ray Data's default is without end: a split that kills its worker each time
would keep the job busy for ever."""


@contextlib.contextmanager
def cluster(config: Config, address: str) -> Iterator[None]:
    """Join the Ray cluster at ``address``, or for placement.LOCAL start one here and stop it in the end."""
    with _own_signals():
        started = _connect(address, config)
    try:
        check_paths(config, nodes=losses.living_nodes())
        _check_cpus(config)
        with _settings():
            yield
    finally:
        if started:
            ray.shutdown()


def _connect(address: str, config: Config) -> bool:
    if ray.is_initialized():
        return False
    quiet = {"log_to_driver": False, "logging_level": logging.ERROR}
    if address != placement.LOCAL:
        if not placement.answers(address):  # Ray itself would try for ten minutes and more
            raise ConfigError(f"No Ray cluster answers at {address} (run.ray_address, RAY_ADDRESS).")
        ray.init(address=address, **quiet)
        return True
    # Ray Data's own actors make the core worker warn about their arguments, in lines that no user can act on.
    os.environ.setdefault("RAY_BACKEND_LOG_LEVEL", "fatal")
    # CPUs are numbers here, which keep nobody from a core. Beside the actors one must be free, or nothing is ever read.
    actors = config.run.actors
    cpus = max(os.cpu_count() or 1, math.ceil(actors.cpus * (actors.max or actors.min)) + 1)
    with _quiet_start():
        ray.init(address="local", num_cpus=cpus, include_dashboard=False, **quiet)
    return True


@contextlib.contextmanager
def _own_signals() -> Iterator[None]:
    """Give SIGTERM back to whom it belonged: `ray.init` takes it for itself."""
    before = signal.getsignal(signal.SIGTERM)
    try:
        yield
    finally:
        if threading.current_thread() is threading.main_thread() and before is not None:
            signal.signal(signal.SIGTERM, before)


@contextlib.contextmanager
def _quiet_start() -> Iterator[None]:
    """Keep what Ray's C++ core says on stderr while it starts, and show it only if the start fails."""
    sys.stderr.flush()
    terminal = os.dup(2)
    with unnamed_file() as kept:
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


def _check_cpus(config: Config) -> None:
    """Raises ConfigError if the encode actors would take all CPUs, so that nothing is ever read for them.

    Of a cluster that may grow nothing is certain.
    """
    actors, cpus = config.run.actors, ray.cluster_resources().get("CPU", 0)
    if not actors.gpus and 0 < cpus < actors.min * actors.cpus + _READ_CPUS:
        raise ConfigError(
            f"run.actors.min={actors.min} actors of run.actors.cpus={actors.cpus:g} leave none of the cluster's "
            f"{cpus:g} CPUs for reading. Lower one of them."
        )


def execute(units: Sequence[ReadUnit], job: Job, config: Config) -> Generator[Receipt | Failure | Losses, None, None]:
    """Read, tokenize, encode and write; yields each split's receipt or failure as it comes, in no order.

    Lost workers, actors and nodes are Ray's to retry; now and then comes how many they are by now. Raises RunFailed
    when Ray gives up. Stop iterating to stop.
    """
    with warnings.catch_warnings():
        # `max_retries` and its like have no named argument yet that could take their place, as the warning asks.
        warnings.simplefilter("ignore", RayDeprecationWarning)
        dataset = _dataset(units, job, config)
    watch = losses.Watch()
    try:
        for batch in dataset.iter_batches(batch_size=None, batch_format="pyarrow", prefetch_batches=0):
            yield from results(batch)
            yield from watch.news(batch)
            check_paths(config, watch.nodes)  # others may have joined meanwhile
    except ray.data.exceptions.ExecutionTimeoutError as error:
        raise RunFailed(
            f"Nothing was done for {_PATIENCE_S / 3600:g} hours, so the run ends. What is committed stays, and the "
            "same command continues. Mostly the cluster has no node with the GPUs and CPUs that run.actors asks for, "
            "or the actors leave no CPU for reading: see `ray status`."
        ) from error
    except ray.exceptions.RayError as error:  # ours come as results; this is Ray, after its own retries
        last = (str(error).strip().splitlines() or [""])[-1]
        raise RunFailed(
            f"Ray gave up: {type(error).__name__}: {last}\nWhat is committed stays, and the same command continues. "
            "Workers that die again and again are mostly out of memory: lower run.rows_per_split."
        ) from error
    yield from watch.news()


def _dataset(units: Sequence[ReadUnit], job: Job, config: Config) -> ray.data.Dataset:
    """Read units in, results out; nothing runs yet."""
    actors = config.run.actors
    one_split = {"batch_size": 1, "batch_format": "pyarrow", "zero_copy_batch": True}
    return (
        ray.data.from_items(
            [{"unit": packing.unit_to_json(unit)} for unit in units],
            override_num_blocks=min(len(units), _INPUT_BLOCKS),
        )
        .map_batches(
            read_stage.read_and_tokenize,
            fn_kwargs={"job": job},
            num_cpus=_READ_CPUS,
            max_retries=_LOST_WORKERS,
            **one_split,
        )
        .map_batches(
            losses.WatchedEncode,
            fn_constructor_kwargs={"job": job, "stage": encode_stage.Encode},
            compute=ray.data.ActorPoolStrategy(min_size=actors.min, max_size=_max_actors(units, config)),
            num_cpus=actors.cpus,
            num_gpus=actors.gpus or None,
            max_task_retries=_LOST_WORKERS,
            **one_split,
        )
        .map_batches(
            losses.write,
            fn_kwargs={"job": job},
            num_cpus=0.25,  # waits for storage most of the time
            max_retries=_LOST_WORKERS,
            **one_split,
        )
    )


def _max_actors(units: Sequence[ReadUnit], config: Config) -> int:
    actors = config.run.actors
    if actors.max is not None:
        return actors.max
    if not actors.gpus:
        return actors.min
    # Not the GPUs that there are now: a cluster that starts without any would never get beyond `min`. Ray starts no
    # actor before there is a GPU for it, and asks an autoscaler for more as long as this bound allows.
    splits = sum(unit.stream.expected_splits() if unit.stream else len(unit.splits) for unit in units)
    return max(actors.min, splits)


@contextlib.contextmanager
def _settings() -> Iterator[None]:
    """Ray Data's settings for a run; a notebook has its own back afterwards."""
    before = ray.data.DataContext.get_current()
    context = before.copy()
    # Every split becomes a block and a task of its own; larger blocks would give one actor a dozen splits at once,
    # and a lost actor would repeat them all.
    context.target_max_block_size = 1
    # Waiting for GPU capacity counts as no progress, and may well take hours.
    context.execution_no_progress_timeout_s = _PATIENCE_S
    # What loading a model raises and is not ours, as when a file system or network fails, is tried again on a fresh
    # actor; by default it would be the end of the run. A process that dies Ray starts again anyway.
    context.max_consecutive_actor_init_deaths = _LOST_WORKERS
    context.enable_progress_bars = False
    loggers = [logging.getLogger(name) for name in ("ray.data", "ray")]
    levels = [logger.level for logger in loggers]
    for logger in loggers:
        logger.setLevel(logging.ERROR)
    try:
        with ray.data.DataContext.current(context):
            yield
    finally:
        for logger, level in zip(loggers, levels, strict=True):
            logger.setLevel(level)
