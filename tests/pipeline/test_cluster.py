"""Machines that come and go under a run: several real Ray nodes on this machine, lost, killed and added in the middle.

Three things are not real. The GPUs are numbers that Ray hands out, so that actors and nodes are tied as on GPU
machines. Vectors are arithmetic, as in `tests/chaos`: four actors start one after the other, and none has to import
torch. And each actor pauses in its third split until the test lets it go on, so that what happens meets splits in hand,
on a fast machine and on a slow one.
"""

import contextlib
import dataclasses
import heapq
import json
import os
import signal
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest

import sfr_batch as sfr
from sfr_batch.config.settings import Config
from sfr_batch.corpus.shards import Shard
from sfr_batch.corpus.splits import ReadUnit, Split
from sfr_batch.errors import DeviceError
from sfr_batch.format import names
from sfr_batch.format.records import Receipt
from sfr_batch.pipeline import encode_stage, execution, losses, read_stage, run_log, summary
from sfr_batch.pipeline.job import Job, make_job
from sfr_batch.pipeline.metrics.definitions import METRICS
from sfr_batch.pipeline.results import Losses
from sfr_batch.storage.local import LocalStore
from sfr_batch.storage.stores import open_store
from tests.chaos.campaign import model_without_weights
from tests.chaos.writer import ArithmeticEncode
from tests.job_processes import config, documents, processes, put_parquet
from tests.prometheus import PREFIX, of_run, scrape

pytestmark = pytest.mark.ray

READ = read_stage.read_and_tokenize
SPLITS, ROWS = 16, 4
"""Splits of a run, and rows of a split."""
PAUSE_IN = 3
"""Which split an actor pauses in. Those before it get finished."""
NODE = {"num_cpus": 4, "num_gpus": 1, "object_store_memory": 100 * 2**20}
"""CPUs are numbers too. With two for each GPU, reading and writing may leave none for a second actor."""


class PausingEncode(ArithmeticEncode):
    """Writes down which split it is given, on which node and in which process."""

    def __init__(self, job: Job) -> None:
        import ray

        super().__init__(job)
        self._folder = Path(job.table).parent
        self._calls = 0
        self._where = f"{ray.get_runtime_context().get_node_id()} {os.getpid()}"

    def __call__(self, batch: pa.Table) -> pa.Table:
        split_id = json.loads(batch.column("split")[0].as_py())["split_id"]
        with (self._folder / "calls").open("a") as calls:
            calls.write(f"{split_id} {self._where}\n")
        self._calls += 1
        while self._calls >= PAUSE_IN and not (self._folder / "go on").exists():
            time.sleep(0.05)
        return super().__call__(batch)


class LoadsElsewhere(ArithmeticEncode):
    """Cannot load on the node that a file names: its device fails, or has too little room. Models of other nodes load
    until that has been tried enough to end a run. The property it gives: the broken actor is always the first."""

    def __init__(self, job: Job) -> None:
        import ray

        super().__init__(job)
        self._folder = Path(job.table).parent
        self._node = ray.get_runtime_context().get_node_id()
        broken, how = (self._folder / "broken").read_text().split()
        tries = self._folder / "tries"
        if self._node == broken:
            with tries.open("a") as file:
                file.write("x")
            if how == "fails":
                raise DeviceError("cuda:0 failed: CUDA error: uncorrectable ECC error encountered")
            self.problem = "The model does not fit into the memory of cuda."
        enough = {"fails": losses.LOADS, "full": 1}[how]
        while not tries.exists() or len(tries.read_text()) < enough:
            time.sleep(0.05)

    def __call__(self, batch: pa.Table) -> pa.Table:
        with (self._folder / "nodes").open("a") as nodes:
            nodes.write(f"{self._node}\n")
        with (self._folder / "gpus").open("a") as gpus:
            gpus.write(f"{os.environ.get('CUDA_VISIBLE_DEVICES')}\n")
        return super().__call__(batch)


class HangingEncode(PausingEncode):
    """Its device hangs with the first split that any actor is given, as a driver does: the call never returns."""

    overlaps, patience_s = True, 5.0
    device = "NVIDIA H200"
    steps = 0

    def __call__(self, batch: pa.Table) -> pa.Table:
        with contextlib.suppress(FileExistsError):
            (self._folder / "hung").touch(exist_ok=False)
            threading.Event().wait()
        return super().__call__(batch)


class LingeringEncode(PausingEncode):
    """Its tasks do not end before the test lets it go on: Ray has the vectors and does not know that these are all.

    Also writes down what its process asks the table's store for.
    """

    def __init__(self, job: Job) -> None:
        from ray.data._internal.execution.operators import actor_pool_map_operator

        super().__init__(job)
        for operation in ("create", "read", "open", "list"):
            setattr(LocalStore, operation, self._told(getattr(LocalStore, operation)))
        actor_pool_map_operator._map_task = self._lingering(actor_pool_map_operator._map_task)

    def _told(self, operation: Callable[..., Any]) -> Callable[..., Any]:
        def tell(store: LocalStore, key: str, *rest: Any) -> Any:
            with (self._folder / "requests").open("a") as requests:
                requests.write(f"{os.getpid()} {operation.__name__} {key}\n")
            return operation(store, key, *rest)

        return tell

    def _lingering(self, task: Callable[..., Iterator[Any]]) -> Callable[..., Iterator[Any]]:
        def linger(*arguments: Any, **options: Any) -> Iterator[Any]:
            yield from task(*arguments, **options)
            while not (self._folder / "go on").exists():
                time.sleep(0.05)

        return linger


def killed_reading(batch: pa.Table, job: Job) -> Iterator[pa.Table]:
    """Writes down what it reads. When a half is read, its process is killed, once."""
    folder = Path(job.table).parent
    for text in batch.column("unit").to_pylist():
        with (folder / "reads").open("a") as reads:
            reads.write(f"{json.loads(text)['shard']['uri']}\n")
        if len((folder / "reads").read_text().splitlines()) >= SPLITS // 2 and not (folder / "killed").exists():
            (folder / "killed").touch()
            os.kill(os.getpid(), signal.SIGKILL)
    yield from READ(batch, job)


def lingering_write(batch: pa.Table, job: Job) -> pa.Table:
    """Commits a split and keeps the receipt to itself."""
    folder, result = Path(job.table).parent, losses.write(batch, job)
    with (folder / "writes").open("a") as writes:
        writes.write(f"{os.getpid()}\n")
    while not (folder / "go on").exists():
        time.sleep(0.05)
    return result


@dataclass(frozen=True)
class Call:
    """That an actor was given a split to encode."""

    split_id: str
    node: str
    pid: int


class Run:
    """A run in a thread of this process, and what can be seen of it from outside."""

    def __init__(
        self, job: Config, monkeypatch: pytest.MonkeyPatch, stage: type[PausingEncode] = PausingEncode
    ) -> None:
        self._folder = Path(job.table.path).parent
        self.finished: list[str] = []
        """Splits whose receipts the driver has."""
        monkeypatch.setattr(encode_stage, "Encode", stage)
        add = run_log.RunLog.add

        def hear(log: run_log.RunLog, receipt: Receipt) -> None:
            self.finished.append(receipt.split_id)
            add(log, receipt)

        monkeypatch.setattr(run_log.RunLog, "add", hear)
        self._future: Future[summary.Summary] = ThreadPoolExecutor(1).submit(sfr.embed, job)

    def calls(self) -> list[Call]:
        file = self._folder / "calls"
        lines = file.read_text().splitlines() if file.exists() else []
        return [Call(split_id, node, int(pid)) for split_id, node, pid in map(str.split, lines)]

    def wait_until_connected(self) -> None:
        """Returns when it has joined the cluster."""
        import ray

        while not ray.is_initialized():
            assert not self._future.done(), self._future.result()
            time.sleep(0.05)

    def wait_for_pause(self, node: str) -> Call:
        """Returns what an actor of this node has in hand, when it pauses and what it did before is finished."""
        calls: list[Call] = []
        while len(calls) < PAUSE_IN or not {call.split_id for call in calls[:-1]} <= set(self.finished):
            assert not self._future.done(), self._future.result()  # that it ends is for the test's timeout to see to
            time.sleep(0.05)
            calls = [call for call in self.calls() if call.node == node]
        return calls[-1]

    def wait_for_first_commit(self) -> list[Call]:
        """Returns all calls so far, when the driver has the first receipt."""
        while not self.finished:
            assert not self._future.done(), self._future.result()
            time.sleep(0.05)
        return self.calls()

    def wait_for_commits(self, number: int) -> tuple[list[int], Call]:
        """Returns the processes that have done so many, and what the one actor has in hand."""
        file = self._folder / "writes"
        while not file.exists() or file.read_text().count("\n") < number or len(self.calls()) <= number:
            assert not self._future.done(), self._future.result()
            time.sleep(0.05)
        return list(map(int, file.read_text().split())), self.calls()[-1]

    def finish(self) -> summary.Summary:
        """The rest without a pause."""
        (self._folder / "go on").touch()
        return self._future.result()


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return model_without_weights(tmp_path_factory.mktemp("model") / "model")


def gpu_job(model: Path, folder: Path, address: str, lang: str = "en") -> Config:
    """A config for a corpus of SPLITS splits, whose actors take a GPU each. The model runs on the CPU all the same,
    which a config that is loaded may not say: the settings are put in afterwards. lang: a column that is carried."""
    rows = documents([f"document {number} about the number {number}" for number in range(SPLITS * ROWS)])
    put_parquet(f"{folder}/corpus/a.parquet", [row | {"lang": lang} for row in rows])
    job = config(model, str(folder), "table.shared_path=true", rows_per_split=ROWS, ray_address=address)
    own = job.run.actors.model_copy(update={"gpus": 1, "torch_threads": 1})
    return job.model_copy(update={"run": job.run.model_copy(update={"actors": own})})


def test_nodes_and_actors_come_and_go(
    ray_nodes: "ray.cluster_utils.Cluster",  # noqa: F821
    model: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """The pool waits for the first node and grows onto the second. That one is lost and the actor on the first killed:
    the first does the rest."""
    run = Run(gpu_job(model, tmp_path, ray_nodes.address), monkeypatch)
    run.wait_until_connected()
    first = ray_nodes.add_node(**NODE)
    to_be_killed = run.wait_for_pause(first.node_id)
    second = ray_nodes.add_node(**NODE)
    to_be_lost = run.wait_for_pause(second.node_id)
    finished = set(run.finished)
    ray_nodes.remove_node(second, allow_graceful=False)
    os.kill(to_be_killed.pid, signal.SIGKILL)
    summary = assert_what_was_lost(run, Losses(nodes=1, actors=2), finished, to_be_killed, to_be_lost)
    assert_what_prometheus_sees(ray_nodes, summary)


SHARD = Shard("file:///a.parquet", "v", 1, "parquet")


def units(*sizes: int) -> list[ReadUnit]:
    """Read units of so many splits."""
    numbers = iter(range(sum(sizes)))
    return [
        ReadUnit(SHARD, (), 0, tuple(Split(f"{next(numbers)}", SHARD.uri, "v", 0, 1, 1, 0) for _ in range(size)))
        for size in sizes
    ]


def dealt(units: list[ReadUnit]) -> list[int]:
    """The splits of each deal."""
    deals = list(execution.deals_of(units))
    of_deals = [split for deal in deals for unit in deal for split in unit.splits]
    assert of_deals == [split for unit in units for split in unit.splits]
    return [sum(len(unit.splits) for unit in deal) for deal in deals]


def test_units_are_read_one_by_one_and_in_large_runs_a_few_small_ones_together() -> None:
    few = units(*[1] * 64)
    assert list(execution.deals_of(few)) == [[unit] for unit in few]
    sizes = dealt(units(*[1] * 600, 3, 7))
    assert sizes[:22] == [8] * 21 + [7]
    assert sizes == sorted(sizes[:-2], reverse=True) + sizes[-2:]
    assert sizes[-3:] == [1, 3, 7]


def test_a_large_unit_is_read_whole() -> None:
    """Each part would decode it from its beginning."""
    assert dealt(units(50, *[1] * 6000))[0] == 50
    assert dealt(units(50)) == [50]
    assert dealt(units(3, 2)) == [3, 2]


@pytest.mark.parametrize("sizes", [[1] * 122, [1] * 5000, [8] * 400, [1, 3, 8] * 50])
def test_no_reader_has_several_units_left_while_others_have_none(sizes: list[int]) -> None:
    """Each of 64 readers takes the next deal when it is done with one; each split takes as long as any other."""
    free = [0] * 64
    for splits in dealt(units(*sizes)):
        heapq.heapreplace(free, free[0] + splits)
    assert max(free) - min(free) <= max(sizes)


def test_a_writer_asks_for_memory_that_every_node_has(model: Path, tmp_path: Path) -> None:
    """What it needs, on a large node; else a part of what the nodes have."""
    settings = gpu_job(model, tmp_path, "none")
    plan = sfr.plan(settings)
    job = make_job(plan, "")
    row = 4 * job.card.schema.field(names.EMBEDDING).type.list_size

    def asked(*nodes: dict[str, float], config: Config = settings, job: Job = job) -> int | None:
        return execution.writer_memory(plan.todo, job, config, nodes)

    large, small, head = {"CPU": 64.0, "memory": 2.0**37}, {"CPU": 2.0, "memory": 400.0}, {"memory": 8.0}
    assert asked(large) == asked(large, head) == 4 * ROWS * row
    assert (asked(small), asked(large, small), asked(head)) == (100, 200, 2)
    assert asked({"CPU": 1.0}) is None
    chunks = dataclasses.replace(job, model=job.model.model_copy(update={"overflow": "chunk"}))
    assert asked(large, job=chunks) == 4 * settings.run.vector_bytes_per_split


def test_a_reader_that_is_killed_repeats_one_unit(
    ray_nodes: "ray.cluster_utils.Cluster",  # noqa: F821
    model: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Although all units are in one input block, whose one task would read them all again. Writers ask for more memory
    than the node has, and get what it has room for."""
    monkeypatch.setattr(encode_stage, "Encode", ArithmeticEncode)
    monkeypatch.setattr(read_stage, "read_and_tokenize", killed_reading)
    monkeypatch.setattr(execution, "_INPUT_BLOCKS", 1)
    monkeypatch.setattr(execution, "_COPIES", 2**40)
    job = gpu_job(model, tmp_path, ray_nodes.address)
    for shard in range(SPLITS - 1):
        put_parquet(
            f"{tmp_path}/corpus/b{shard}.parquet", documents([f"text {row}" for row in range(ROWS)], f"{shard}-")
        )
    ray_nodes.add_node(**NODE, memory=64 * 2**20)
    made = sfr.embed(job)
    assert (made.splits, made.embedded) == (2 * SPLITS - 1, (2 * SPLITS - 1) * ROWS)
    reads = Counter((tmp_path / "reads").read_text().splitlines())
    assert (tmp_path / "killed").exists()
    assert (len(reads), reads.total()) == (SPLITS, SPLITS + 1)


@pytest.mark.slow
def test_an_actor_is_killed(
    ray_nodes: "ray.cluster_utils.Cluster",  # noqa: F821
    model: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """As the kernel does when memory is short."""
    node = ray_nodes.add_node(**NODE)
    run = Run(gpu_job(model, tmp_path, ray_nodes.address), monkeypatch)
    in_hand = run.wait_for_pause(node.node_id)
    finished = set(run.finished)
    os.kill(in_hand.pid, signal.SIGKILL)
    assert_what_was_lost(run, Losses(nodes=0, actors=1), finished, in_hand)


@pytest.mark.slow
@pytest.mark.parametrize("how", ["fails", "full"])
def test_a_gpu_that_cannot_have_the_model_costs_its_actor_and_not_the_run(
    ray_nodes: "ray.cluster_utils.Cluster",  # noqa: F821
    model: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    how: str,
) -> None:
    """Its actor would answer at once, with its error, and be given most of the splits: the fourth would end the run.

    Each actor sees its own GPU alone, also where Ray is told to leave that to others.
    """
    monkeypatch.setenv("RAY_EXPERIMENTAL_NOSET_CUDA_VISIBLE_DEVICES", "1")
    monkeypatch.setattr(encode_stage, "Encode", LoadsElsewhere)
    nodes = [ray_nodes.add_node(**NODE).node_id for _ in range(3)]
    (tmp_path / "broken").write_text(f"{nodes[1]} {how}")
    job = gpu_job(model, tmp_path, ray_nodes.address)
    own = job.run.actors.model_copy(update={"min": 3, "max": 3})
    summary = sfr.embed(job.model_copy(update={"run": job.run.model_copy(update={"actors": own})}))
    assert (summary.splits, summary.embedded) == (SPLITS, SPLITS * ROWS)
    assert set((tmp_path / "nodes").read_text().split()) <= {nodes[0], nodes[2]}
    assert set((tmp_path / "gpus").read_text().split()) == {"0"}
    assert len((tmp_path / "tries").read_text()) >= {"fails": losses.LOADS, "full": 1}[how]


def test_a_device_that_hangs_costs_its_actor(
    ray_nodes: "ray.cluster_utils.Cluster",  # noqa: F821
    model: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(encode_stage, "Encode", HangingEncode)
    ray_nodes.add_node(**NODE)
    (tmp_path / "go on").touch()
    made = sfr.embed(gpu_job(model, tmp_path, ray_nodes.address))
    assert (made.splits, made.embedded, made.losses) == (SPLITS, SPLITS * ROWS, Losses(nodes=0, actors=1))
    assert (tmp_path / "hung").exists()


def test_an_actor_is_killed_after_its_split_was_committed(
    ray_nodes: "ray.cluster_utils.Cluster",  # noqa: F821
    model: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Ray gives the split to the actor again, for it has not heard of the end of the task. It is not encoded again."""
    ray_nodes.add_node(**NODE)
    run = Run(gpu_job(model, tmp_path, ray_nodes.address), monkeypatch, LingeringEncode)
    [first] = run.wait_for_first_commit()
    os.kill(first.pid, signal.SIGKILL)
    assert_what_was_lost(run, Losses(nodes=0, actors=1), {first.split_id})
    [again] = {call.pid for call in run.calls()} - {first.pid}
    splits = {call.split_id for call in run.calls()}
    requests = (tmp_path / "requests").read_text().splitlines()
    expected = [f"{again} open {names.data_key(split_id)}" for split_id in splits]
    assert sorted(requests) == sorted(expected), "only a restarted actor asks, once for each split"


@pytest.mark.slow
def test_a_node_is_lost_after_it_has_committed_splits(
    ray_nodes: "ray.cluster_utils.Cluster",  # noqa: F821
    model: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """And before the driver heard of it. Ray makes what was on the node again, encoded splits among it, to write them
    once more. They are not encoded again, and the driver gets the receipts that are there."""
    monkeypatch.setattr(losses, "write", lingering_write)
    job = gpu_job(model, tmp_path, ray_nodes.address, lang="en" * 2**16)  # Ray keeps on the node what has over 100 kB
    node = ray_nodes.add_node(**NODE)
    run = Run(job, monkeypatch)
    writers, in_hand = run.wait_for_commits(PAUSE_IN - 1)
    committed = {call.split_id for call in run.calls()[:-1]}
    assert not run.finished
    before = {info.key: info.modified for info in open_store(job.table.path).list(names.DATA)}
    ray_nodes.remove_node(node, allow_graceful=False)
    wait_for_end_of(*writers)
    ray_nodes.add_node(**NODE)
    assert_what_was_lost(run, Losses(nodes=1, actors=1), committed, in_hand)
    after = {info.key: info.modified for info in open_store(job.table.path).list(names.DATA)}
    assert before.keys() == {names.data_key(split_id) for split_id in committed}
    assert before.items() <= after.items()


def wait_for_end_of(*pids: int) -> None:
    while processes().keys() & set(pids):
        time.sleep(0.05)


def assert_what_was_lost(run: Run, lost: Losses, finished: set[str], *in_hand: Call) -> summary.Summary:
    """Every row is in the table once, only what was in hand was encoded again, and the summary says what was lost."""
    wait_for_end_of(*(call.pid for call in in_hand))  # a process outlives its node a little, and would finish its split
    done = run.finish()
    store = open_store(done.table)
    ids = sfr.open_table(done.table).to_arrow(["id"])["id"].to_pylist()
    assert sorted(ids) == [f"doc-{number:05}" for number in range(SPLITS * ROWS)]
    assert done.splits == SPLITS == len(list(store.list(names.DATA)))
    calls = Counter(call.split_id for call in run.calls())
    assert [calls[call.split_id] for call in in_hand] == [2] * len(in_hand)
    assert {calls[split_id] for split_id in finished} == {1}, "a finished split was encoded again"
    assert done.losses == lost
    assert f"lost {lost}," in repr(done)
    assert f"\nLost      {lost}; their splits were done again elsewhere\n" in done.describe()
    report = json.loads(store.read(names.run_key(done.snapshot.manifest.run_id, "report.json")))
    assert Losses(report["lost_nodes"], report["lost_actors"]) == lost
    return done


def assert_what_prometheus_sees(cluster: Any, done: summary.Summary) -> None:
    """The counters that the nodes export equal the account of the run, with few series: who leaves a cluster sends the
    last ones off."""
    account = sfr.open_table(done.table).runs()[-1]
    samples = [each for each in scrape(cluster.global_state.node_table()) if each.labels["run"] == account.run_id]
    assert {each.labels["table"] for each in samples} == {done.table}
    found = of_run(samples, account.run_id)
    assert found["rows_total", ""] == account.rows == SPLITS * ROWS
    assert found["tokens_total", ""] == account.tokens
    assert found["padded_tokens_total", ""] == account.padded_tokens
    assert found["splits_total", "committed"] == account.splits == SPLITS
    assert (found["losses_total", "node"], found["losses_total", "actor"]) == (1, 2)
    assert found["encode_seconds_total", ""] == pytest.approx(account.actor_seconds_used)
    assert found["actor_seconds_total", ""] == pytest.approx(account.actor_seconds_reserved)
    assert found["input_wait_seconds_total", ""] > 0
    assert min(found["stage_seconds_total", stage] for stage in ("read", "tokenize", "write")) > 0
    assert found["runs_total", "embedded"] == 1
    assert {name for name, _ in found} <= {metric.exported.removeprefix(PREFIX) for metric in METRICS}
    assert len(found) <= 25, "no more series for more rows"
