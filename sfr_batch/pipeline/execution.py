"""Runs splits on Ray Data: builds the dataset and sets its options.

Knows the stages and how to distribute them; `joining` starts or joins Ray, and what a receipt means is the runner's.
Each setting of Ray says why it is there; all were found on Ray 2.60.
"""

import contextlib
import math
import os
import warnings
from collections.abc import Callable, Generator, Iterator, Mapping, Sequence
from typing import Any, TypeVar

import pyarrow as pa
import ray
import ray.data
import ray.data.exceptions
import ray.exceptions
from ray.util.annotations import RayDeprecationWarning

from sfr_batch.config.settings import ActorSettings, Config
from sfr_batch.corpus.splits import ReadUnit, joined
from sfr_batch.errors import ConfigError, RunFailed
from sfr_batch.format.records import Receipt
from sfr_batch.pipeline import actors, encode_stage, joining, losses, packing, placement, ray_failures, read_stage
from sfr_batch.pipeline.actor_time import ignored
from sfr_batch.pipeline.asides import ASIDE, nothing_told
from sfr_batch.pipeline.job import Job
from sfr_batch.pipeline.results import Failure, Losses, results
from sfr_batch.pipeline.work import untold
from sfr_batch.planning.limits import vector_bytes
from sfr_batch.storage.locations import is_s3

T = TypeVar("T")

_INPUT_BLOCKS = 200
"""Maximum number of input blocks. `from_items` takes 25 s for 20,000 blocks, half a second for 200."""
_READERS = 64
"""So many readers have work to the end: a deal has at most this part of the splits that are left, or one unit."""
_DEALT_SPLITS = 8
"""Most splits of units that are dealt together. A deal costs Ray's driver about as much as a split."""
_READ_CPUS = 0.5
"""CPUs that Ray counts for a reader, which waits for storage half of the time."""
_COPIES = 4
"""Heap of a writer, in vectors of its split: Arrow's, the Parquet file as it grows, its bytes, parts on their way."""
_PATIENCE_S = 6 * 3600.0
"""Seconds without progress before a run gives up. Waiting for a free GPU is no progress."""
_LOST_WORKERS = 5
"""Workers and nodes that one task may lose. Ray Data's default has no limit: a split that kills its worker every time
would keep the job busy forever."""


@contextlib.contextmanager
def cluster(config: Config, place: str) -> Iterator[None]:
    """Join the Ray cluster at ``place``; for placement.LOCAL start one here, and stop it at the end.

    Raises ConfigError if none can be joined, or if the table or the CPUs do not suit it.
    """
    actors = config.run.actors
    # CPUs are only numbers to Ray. Beside the actors one must be free, or nothing is ever read.
    cpus = max(os.cpu_count() or 1, math.ceil(actors.cpus * (actors.max or actors.min)) + 1)
    with joining.connected(placement.address_of(place, config), cpus):
        check_paths(config, nodes=losses.living_nodes())
        _check_cpus(config)
        with _settings():
            yield


def check_paths(config: Config, nodes: int) -> None:
    """Raises ConfigError if the table, or one that lends vectors, is on a local disk and the cluster has several."""
    if nodes < 2 or config.table.shared_path:
        return
    if not is_s3(config.table.path):
        raise ConfigError(
            f"table.path {config.table.path} is a local path, but the cluster has {nodes} nodes: each would write to "
            "its own disk. Use s3://, or set table.shared_path=true if all nodes share that file system."
        )
    if config.table.reuse_from and not is_s3(config.table.reuse_from):
        raise ConfigError(
            f"table.reuse_from {config.table.reuse_from} is a local path, but the cluster has {nodes} nodes: each "
            "would look at its own disk. Use s3://, or set table.shared_path=true if all nodes share that file system."
        )


def _check_cpus(config: Config) -> None:
    """Raises ConfigError if the encode actors would take all CPUs of a cluster, so that nothing could be read.

    A cluster without CPUs may still grow: it passes.
    """
    actors, cpus = config.run.actors, ray.cluster_resources().get("CPU", 0)
    if not actors.gpus and 0 < cpus < actors.min * actors.cpus + _READ_CPUS:
        raise ConfigError(
            f"run.actors.min={actors.min} actors of run.actors.cpus={actors.cpus:g} leave none of the cluster's "
            f"{cpus:g} CPUs for reading. Lower one of the two."
        )


def execute(
    units: Sequence[ReadUnit],
    job: Job,
    config: Config,
    enter: Callable[[str], None] = lambda stage: None,
    count: Callable[[int, str], None] = ignored,
    work: Callable[[str], None] = untold,
    aside: Callable[[str | None], None] = nothing_told,
) -> Generator[Receipt | Failure | Losses, None, None]:
    """Read, tokenize, encode and write: yields the receipt or failure of each split, in no particular order.

    Ray retries the work of lost workers, actors and nodes; their total is yielded when it changes. enter: is called
    with the stage of the run, from another thread; count: see `actors.watched`; work: see `results`; aside: see
    `Asides.add`. Raises RunFailed when Ray gives up. Stop iterating to stop the work.
    """
    joining.describe_job(placement.submission_id(), sfr_batch_table=job.table, sfr_batch_run=job.run_id)
    with warnings.catch_warnings():
        # The warning asks for named arguments, which do not exist yet for `max_retries` and the like.
        warnings.simplefilter("ignore", RayDeprecationWarning)
        dataset = _dataset(units, job, config)
    watch = losses.Watch()
    try:
        with actors.watched(job.run_id, config.run.actors, enter, count):
            for batch in dataset.iter_batches(batch_size=None, batch_format="pyarrow", prefetch_batches=0):
                for told in batch.column(ASIDE).to_pylist():
                    aside(told)
                yield from results(batch, work)
                yield from watch.news(batch)
                check_paths(config, watch.nodes)  # nodes may have joined
    except ray.data.exceptions.ExecutionTimeoutError as error:
        raise RunFailed(
            f"No progress for {_PATIENCE_S / 3600:g} hours: the run was stopped. Finished splits stay committed; the "
            "same command continues. Usually no node has the GPUs and CPUs that run.actors asks for, or the actors "
            "leave no CPU for reading. See `ray status`."
        ) from error
    except ray.exceptions.RayError as error:  # ours come as results; this is Ray, after its own retries
        raise ray_failures.gave_up(error, "", ray_failures.COMMITTED, ": lower run.rows_per_split") from error
    yield from watch.news()


def _dataset(units: Sequence[ReadUnit], job: Job, config: Config) -> ray.data.Dataset:
    """Read units in, results out; nothing runs yet."""
    actors = config.run.actors
    one_split = {"batch_size": 1, "batch_format": "pyarrow", "zero_copy_batch": True}
    deals = [
        {losses.DEAL: [packing.unit_to_json(unit) for unit in joined(deal, _DEALT_SPLITS)]} for deal in deals_of(units)
    ]
    return (
        ray.data.from_items(deals, override_num_blocks=min(len(deals), _INPUT_BLOCKS))
        # Makes each deal a block, and so its reading a task of its own, on any node. Tasks that read input blocks would
        # live as long as the run: a lost one reads all that it has read again, and its retries are for all of that.
        .map_batches(_as_it_is, num_cpus=0, concurrency=1, **one_split)
        .map_batches(
            losses.read,
            fn_kwargs={"job": job, "stage": read_stage.read_and_tokenize},
            num_cpus=_READ_CPUS,
            max_retries=_LOST_WORKERS,
            **one_split,
        )
        .map_batches(
            losses.WatchedEncode,
            fn_constructor_kwargs={"job": job, "stage": encode_stage.Encode},
            compute=ray.data.ActorPoolStrategy(
                min_size=actors.min, max_size=_max_actors(units, config), **_at_once(job.model.device)
            ),
            num_cpus=actors.cpus,
            num_gpus=actors.gpus or None,
            max_task_retries=_LOST_WORKERS,
            **one_split,
        )
        .map_batches(
            losses.write,
            fn_kwargs={"job": job},
            num_cpus=0.25,  # waits for storage most of the time
            memory=writer_memory(units, job, config, [node["Resources"] for node in ray.nodes() if node["Alive"]]),
            max_retries=_LOST_WORKERS,
            **one_split,
        )
    )


def deals_of(units: Sequence[ReadUnit]) -> Iterator[list[ReadUnit]]:
    """Units in order, in the portions that one task reads and a lost one repeats: one unit, or several small ones.

    Portions become smaller towards the end, down to one unit, so that no reader has several small ones left while
    others have none. A large unit stays whole: each part of it would decode it from its beginning.
    """
    left = sum(map(_splits, units))
    deal: list[ReadUnit] = []
    splits = 0
    for unit in units:
        if deal and splits + _splits(unit) > min(_DEALT_SPLITS, -(-left // _READERS)):
            yield deal
            left -= splits
            deal, splits = [], 0
        deal.append(unit)
        splits += _splits(unit)
    if deal:
        yield deal


def _splits(unit: ReadUnit) -> int:
    """Of a unit, as expected."""
    return unit.stream.expected_splits() if unit.stream else len(unit.splits)


def writer_memory(
    units: Sequence[ReadUnit], job: Job, config: Config, nodes: Sequence[Mapping[str, float]]
) -> int | None:
    """Bytes of heap that a writer reserves, so that a node with many CPUs is not given more writers than it holds.

    nodes: what Ray counts of each living node. A writer that no node has room for would be waited for: so the largest
    one takes several whatever they need, and the smallest one of those that may be left takes two. None if a node has
    no memory to give.
    """
    rows = max(unit.stream.max_rows if unit.stream else max(split.rows for split in unit.splits) for unit in units)
    most = config.run.vector_bytes_per_split
    vectors = most if job.model.overflow == "chunk" else min(most, rows * vector_bytes(job.card.schema))
    memory = [int(node.get("memory", 0.0)) for node in nodes if node.get("CPU")]
    memory = memory or [int(node.get("memory", 0.0)) for node in nodes]
    return min(_COPIES * vectors, max(memory) // 4, min(memory) // 2) or None


def _as_it_is(batch: pa.Table) -> pa.Table:
    return batch


def _at_once(device: str) -> dict[str, Any]:
    """Options of a pool whose actors have several splits at once, and one more waiting, which they do on a GPU."""
    if device == "cpu":
        return {}
    return {
        "max_concurrent_calls_per_actor": encode_stage.AT_ONCE,
        "enable_true_multi_threading": True,
        "max_tasks_in_flight_per_actor": encode_stage.AT_ONCE + 1,
    }


def call(function: Callable[..., T], *arguments: Any, actors: ActorSettings) -> T:
    """Call a function once, where it has the device of an encode actor. Raises what it raised, RunFailed if Ray gave
    up on it."""
    task = ray.remote(_on_own_gpu).options(
        num_cpus=actors.cpus, num_gpus=actors.gpus or None, max_retries=_LOST_WORKERS
    )
    try:
        result: T = ray.get(task.remote(function, *arguments))
        return result
    except ray.exceptions.RayError as error:
        raise ray_failures.failure_of(error, "", ray_failures.NOTHING_PUBLISHED) from None


def _on_own_gpu(function: Callable[..., T], *arguments: Any) -> T:
    actors.take_gpu()
    return function(*arguments)


def _max_actors(units: Sequence[ReadUnit], config: Config) -> int:
    actors = config.run.actors
    if actors.max is not None:
        return actors.max
    if not actors.gpus:
        return actors.min
    # Not the present number of GPUs: a cluster that starts without any would never exceed `min`. Ray starts an actor
    # only when there is a GPU for it, and asks an autoscaler for more up to this bound.
    return max(actors.min, sum(map(_splits, units)))


@contextlib.contextmanager
def _settings() -> Iterator[None]:
    """Ray Data's settings for a run; restored afterwards, for notebooks."""
    before = ray.data.DataContext.get_current()
    context = before.copy()
    # Every split becomes its own block and task. Larger blocks would give one actor a dozen splits at once, and all of
    # them would be repeated if the actor is lost.
    context.target_max_block_size = 1
    # Waiting for GPU capacity counts as no progress, and may take hours.
    context.execution_no_progress_timeout_s = _PATIENCE_S
    # An error of a file system or network while a model is loaded is retried on a fresh actor; by default it would end
    # the run. Ray restarts a process that dies in any case.
    context.max_consecutive_actor_init_deaths = _LOST_WORKERS
    context.enable_progress_bars = False
    with joining.errors_in_files_only(), ray.data.DataContext.current(context):
        yield
