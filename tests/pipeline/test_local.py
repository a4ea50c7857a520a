"""The executor without Ray, and the choice between it and Ray."""

import contextlib
import json
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from types import ModuleType
from typing import Any

import pyarrow as pa
import pytest

import sfr_batch as sfr
from sfr_batch.errors import RunFailed, SnapshotConflict, StorageError, TooManyRejects
from sfr_batch.format import names
from sfr_batch.format.records import Receipt
from sfr_batch.pipeline import clusters, encode_stage, local, placement, read_stage, run_log, runner, write_stage
from sfr_batch.pipeline.job import Job
from sfr_batch.pipeline.results import Failure
from sfr_batch.pipeline.runner import make_job
from sfr_batch.planning.plan import EmbedPlan
from sfr_batch.table.commit.writing import create_or_open
from sfr_batch.table.table import Table
from tests.job_processes import ROOT, config, documents, put_parquet, settings
from tests.repositories import write_repository

SPLITS = 8
SHARDS = 4


@pytest.fixture(scope="module")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_repository(tmp_path_factory.mktemp("model") / "tiny", max_seq_length=512)


@pytest.fixture
def planned(tmp_path: Path, tiny: Path) -> tuple[EmbedPlan, Table, Job]:
    """SPLITS splits of five rows in SHARDS files, none of them done."""
    for shard in range(SHARDS):
        put_parquet(f"{tmp_path}/corpus/{shard}.parquet", documents([f"text {n}" for n in range(10)], str(shard)))
    plan = sfr.plan(config(tiny, str(tmp_path), rows_per_split=5))
    return plan, create_or_open(plan.store, plan.card), make_job(plan, "run")


@pytest.fixture(autouse=True)
def no_thread_is_left() -> Iterator[None]:
    yield
    for thread in threading.enumerate():
        if thread.name == "sfr-lease":  # a run tells it to end and does not wait for it
            thread.join(timeout=10)
    assert not [thread.name for thread in threading.enumerate() if thread.name.startswith("sfr-")]


def test_every_split_has_its_result(planned: tuple[EmbedPlan, Table, Job]) -> None:
    plan, table, job = planned
    results = list(local.execute(plan.todo, job))
    assert {result.split_id for result in results} == set(table.committed())
    assert len(results) == SPLITS
    assert all(isinstance(result, Receipt) and result.embedded == 5 for result in results)
    assert not list(local.execute([], job))


def test_a_failing_split_does_not_stop_the_others(planned: tuple[EmbedPlan, Table, Job], tmp_path: Path) -> None:
    plan, table, job = planned
    (tmp_path / "corpus" / "1.parquet").unlink()
    results = list(local.execute(plan.todo, job))
    failures = [result for result in results if isinstance(result, Failure)]
    assert [failure.shard.endswith("1.parquet") for failure in failures] == [True, True]
    assert all("was deleted after the run was planned" in failure.error for failure in failures)
    assert len(table.committed()) == len(results) - len(failures) == SPLITS - 2


def test_reading_begins_before_the_model_is_there(
    planned: tuple[EmbedPlan, Table, Job], monkeypatch: pytest.MonkeyPatch
) -> None:
    plan, _, job = planned
    tokenized = threading.Event()
    real_read, real_encode = read_stage.read_and_tokenize, encode_stage.Encode

    def read(batch: pa.Table, job: Job) -> Iterator[pa.Table]:
        for row in real_read(batch, job):
            tokenized.set()
            yield row

    def load(job: Job, **options: Any) -> encode_stage.Encode:
        assert tokenized.wait(60), "nothing was read while the model was loading"
        return real_encode(job, **options)

    monkeypatch.setattr(read_stage, "read_and_tokenize", read)
    monkeypatch.setattr(encode_stage, "Encode", load)
    assert len(list(local.execute(plan.todo, job))) == SPLITS


def test_a_split_begins_before_a_gpu_has_finished_the_one_before(
    planned: tuple[EmbedPlan, Table, Job], monkeypatch: pytest.MonkeyPatch
) -> None:
    """A split is fetched here only when the next one is on the device, and never are there more than two."""
    plan, _, job = planned
    begun = [threading.Event() for _ in range(SPLITS)]
    fetched: list[int] = []

    class OnGpu(encode_stage.Encode):
        def __init__(self, job: Job, **options: Any) -> None:
            super().__init__(job, **options)
            self.overlaps, self.remark = True, "It could be faster."

        def begin(self, batch: pa.Table) -> Callable[[], pa.Table]:
            number = sum(event.is_set() for event in begun)
            assert number - len(fetched) < encode_stage.AT_ONCE
            end = super().begin(batch)
            begun[number].set()

            def fetch() -> pa.Table:
                assert begun[min(number + 1, SPLITS - 1)].wait(60), "the next split waits for this one"
                fetched.append(number)
                return end()

            return fetch

    said: list[str] = []
    monkeypatch.setattr(local.display, "say", said.append)
    monkeypatch.setattr(encode_stage, "Encode", OnGpu)
    started = time.perf_counter()
    results = list(local.execute(plan.todo, job))
    took = time.perf_counter() - started
    assert sorted(fetched) == list(range(SPLITS))
    assert all(isinstance(result, Receipt) and result.embedded == 5 for result in results)
    assert sum(result.encode_seconds for result in results if isinstance(result, Receipt)) <= took, "none counts twice"
    assert said == ["It could be faster."]


def test_few_splits_are_in_memory(planned: tuple[EmbedPlan, Table, Job], monkeypatch: pytest.MonkeyPatch) -> None:
    """Read and not yet written, whatever is the slow one: here it is writing, until nothing else can go on."""
    plan, _, job = planned
    real_read, real_write = read_stage.read_and_tokenize, write_stage.write
    count, most, lock = 0, 0, threading.Lock()
    enough_read = threading.Semaphore(0)

    def change(by: int) -> None:
        nonlocal count, most
        with lock:
            count += by
            most = max(most, count)

    def read(batch: pa.Table, job: Job) -> Iterator[pa.Table]:
        for row in real_read(batch, job):
            change(+1)
            enough_read.release()
            yield row

    def write(batch: pa.Table, job: Job) -> pa.Table:
        enough_read.acquire(timeout=60)
        result = real_write(batch, job)
        change(-1)
        return result

    monkeypatch.setattr(read_stage, "read_and_tokenize", read)
    monkeypatch.setattr(write_stage, "write", write)
    for _ in local.execute(plan.todo, job):
        assert count <= local._READ_AHEAD + local._WRITERS + 1
    assert 2 <= most <= local._READ_AHEAD + local._WRITERS + 1
    assert count == 0


@pytest.mark.parametrize(
    ("module", "stage"), [(read_stage, "read_and_tokenize"), (encode_stage, "Encode"), (write_stage, "write")]
)
@pytest.mark.parametrize("error", [ZeroDivisionError, KeyboardInterrupt])
def test_what_a_stage_does_not_catch_comes_out(
    module: ModuleType,
    stage: str,
    error: type[BaseException],
    planned: tuple[EmbedPlan, Table, Job],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    plan, _, job = planned

    def broken(*_: Any, **__: Any) -> None:
        raise error(stage)

    monkeypatch.setattr(module, stage, broken)
    with pytest.raises(error, match=stage):
        list(local.execute(plan.todo, job))


def test_close_early(planned: tuple[EmbedPlan, Table, Job]) -> None:
    plan, table, job = planned
    results = local.execute(plan.todo, job)
    first = next(results)
    results.close()
    committed = set(table.committed())
    assert first.split_id in committed
    assert len(committed) < SPLITS


def test_interrupt_of_the_library(tmp_path: Path, tiny: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """As by the stop button of a notebook: what is encoded is kept, no thread is left, the same call continues."""
    put_parquet(f"{tmp_path}/corpus/a.parquet", documents([f"text {n}" for n in range(40)]))
    job = config(tiny, str(tmp_path), rows_per_split=5, ray_address="none")
    real, calls = encode_stage.Encode.__call__, 0

    def third_is_interrupted(self: encode_stage.Encode, batch: pa.Table) -> pa.Table:
        nonlocal calls
        calls += 1
        if calls == 3:
            raise KeyboardInterrupt
        return real(self, batch)

    monkeypatch.setattr(encode_stage.Encode, "__call__", third_is_interrupted)
    with pytest.raises(KeyboardInterrupt):
        sfr.embed(job)
    monkeypatch.undo()
    assert len(sfr.open_table(job.table.path).committed()) == 2
    assert sfr.embed(job).splits == SPLITS - 2


def test_a_run_whose_log_cannot_be_written_publishes(
    tmp_path: Path, tiny: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """The receipts are in the data files as well, and the report comes after the publication."""
    put_parquet(f"{tmp_path}/corpus/a.parquet", documents([f"text {n}" for n in range(10)]))
    real = run_log.RunLog._create

    def refuse(self: run_log.RunLog, name: str, data: bytes) -> None:
        if name not in (names.RUN_CONFIG, names.RUN_PLAN):
            raise StorageError("no more requests today")
        real(self, name, data)

    monkeypatch.setattr(run_log.RunLog, "_create", refuse)
    job = config(tiny, str(tmp_path), rows_per_split=5, ray_address="none")
    assert sfr.embed(job).published
    assert (
        "Warning: the snapshot is published, but the report of the run could not be written: no more requests today\n"
    ) in capsys.readouterr().err
    assert sfr.open_table(job.table.path).num_rows == 10


def test_stages_are_told(planned: tuple[EmbedPlan, Table, Job]) -> None:
    plan, _, job = planned
    stages: list[str] = []
    assert len(list(local.execute(plan.todo, job, stages.append))) == SPLITS
    assert stages == ["loading the model", "encoding"]


def test_rejects_end_a_run_as_soon_as_they_are_too_many(tmp_path: Path, tiny: Path) -> None:
    """Whatever the rest holds: the first of four splits has more than a tenth of all rows, and more than the hundred
    that a run may always have."""
    for shard in range(SHARDS):
        put_parquet(f"{tmp_path}/corpus/{shard}.parquet", documents([""] * 101, str(shard)))
    job = config(tiny, str(tmp_path), rows_per_split=101, max_reject_share=0.1, ray_address="none")
    with pytest.raises(TooManyRejects, match=r"101 of 101 rows \(100\.0%\) cannot be embedded"):
        sfr.embed(job)
    table = sfr.open_table(job.table.path)
    assert 1 <= len(table.committed()) < SHARDS
    assert table.latest() is None


def test_rejects_that_the_rest_may_make_up_for_do_not_end_a_run(tmp_path: Path, tiny: Path) -> None:
    """All of the first split's rows, and a quarter of the corpus's."""
    for shard in range(SHARDS):
        texts = ["" if shard == 0 else f"text {n % 3}" for n in range(101)]
        put_parquet(f"{tmp_path}/corpus/{shard}.parquet", documents(texts, str(shard)))
    job = config(tiny, str(tmp_path), rows_per_split=101, max_reject_share=0.25, ray_address="none")
    assert sfr.embed(job).snapshot.manifest.counts.rejected == 101


def test_a_model_that_cannot_be_loaded_ends_the_run(planned: tuple[EmbedPlan, Table, Job], tiny: Path) -> None:
    plan, table, job = planned
    with hidden(tiny / "model.safetensors"), pytest.raises(RunFailed, match="has no weights") as caught:
        list(local.execute(plan.todo, job))
    assert "Traceback" not in str(caught.value)
    assert not table.committed()


@contextlib.contextmanager
def hidden(file: Path) -> Iterator[None]:
    away = file.rename(file.with_suffix(".away"))
    try:
        yield
    finally:
        away.rename(file)


def test_ray_is_not_even_imported(tmp_path: Path, tiny: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """One machine, one actor, no Ray running here: that is without being asked for."""
    put_parquet(f"{tmp_path}/corpus/a.parquet", documents(["one", "two"]))
    (tmp_path / "job.yaml").write_text(json.dumps(settings(tiny, str(tmp_path))))
    monkeypatch.delenv("RAY_ADDRESS", raising=False)
    monkeypatch.setenv("RAY_TMPDIR", str(tmp_path))
    code = (
        "import sys, sfr_batch as sfr; summary = sfr.embed(sys.argv[1]); assert summary.embedded == 2; "
        "assert 'torch' in sys.modules; assert not [name for name in sys.modules if name.split('.')[0] == 'ray']"
    )
    done = subprocess.run([sys.executable, "-c", code, tmp_path / "job.yaml"], cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


# --- the choice


@pytest.fixture
def no_ray(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Neither in the environment, nor on this machine, nor in this process."""
    monkeypatch.delenv("RAY_ADDRESS", raising=False)
    monkeypatch.setenv("RAY_TMPDIR", str(tmp_path))
    monkeypatch.setattr(placement, "has_ray", lambda: False)


def chosen(*overrides: str) -> str:
    return placement.choose(config("model", "/data", *overrides))


@pytest.mark.usefixtures("no_ray")
def test_settings_come_first_then_the_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RAY_ADDRESS", "10.0.0.1:6379")
    assert chosen() == "10.0.0.1:6379"
    for address in ("none", "local", "10.0.0.2:6379"):
        assert chosen(f"run.ray_address={address}") == address
    monkeypatch.setenv("RAY_ADDRESS", "local")
    assert chosen() == "local"
    assert chosen("run.ray_address=auto") == "none"


@pytest.mark.usefixtures("no_ray")
def test_a_ray_that_is_there_is_used(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """What a dead cluster left on this machine is not."""
    (tmp_path / "ray").mkdir()
    left = tmp_path / "ray" / "ray_current_cluster"
    left.write_text("127.0.0.1:1")
    assert not clusters.answers("127.0.0.1:1")
    assert not clusters.answers("nonsense")
    assert chosen() == "none"
    with socket.create_server(("127.0.0.1", 0)) as server:
        address = f"127.0.0.1:{server.getsockname()[1]}"
        left.write_text(address)
        assert chosen() == address
        monkeypatch.setattr(placement, "has_ray", lambda: True)
        assert chosen() == "local"
        assert chosen("run.ray_address=none") == "none"


@pytest.mark.usefixtures("no_ray")
@pytest.mark.parametrize(
    ("device", "actors", "gpus", "place"),
    [
        ("cpu", "{gpus: 0}", 0, "none"),
        ("cpu", "{gpus: 0, max: 1}", 0, "none"),
        ("cpu", "{gpus: 0, max: 2}", 0, "local"),
        ("cpu", "{gpus: 0, min: 2}", 0, "local"),
        ("cuda", "{gpus: 1, max: 1}", 8, "none"),
        ("cuda", "{gpus: 1, max: 2}", 1, "local"),
        ("cuda", "{gpus: 1, min: 2}", 1, "local"),
        ("cuda", "{gpus: 1}", 0, "none"),
        ("cuda", "{gpus: 1}", 1, "none"),
        ("cuda", "{gpus: 1}", 2, "local"),
        ("cuda", "{gpus: 0.5}", 1, "local"),
    ],
)
def test_one_actor_needs_no_ray(
    device: str, actors: str, gpus: int, place: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    import torch

    monkeypatch.setattr(torch.cuda, "device_count", lambda: gpus)
    assert chosen(f"model.device={device}", f"run.actors={actors}") == place


def test_a_run_that_ends_while_another_plans_is_not_done_again(
    tmp_path: Path, tiny: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The plan is older than the lease: what was published in between counts, and nothing is encoded twice."""
    put_parquet(f"{tmp_path}/corpus/a.parquet", documents(["one", "two"]))
    job = config(tiny, str(tmp_path), ray_address="none")
    make_plan, embed_missing, encoded = runner.make_plan, runner._embed_missing, []

    def overtaken(own: Any) -> EmbedPlan:
        plan = make_plan(own)
        monkeypatch.setattr(runner, "make_plan", make_plan)
        assert runner.embed(own).splits == 1
        return plan

    def counting(*arguments: Any) -> list[Receipt]:
        receipts = embed_missing(*arguments)
        encoded.extend(receipts)
        return receipts

    monkeypatch.setattr(runner, "make_plan", overtaken)
    monkeypatch.setattr(runner, "_embed_missing", counting)
    summary = runner.embed(job)
    assert not summary.published
    assert len(encoded) == 1


def test_a_run_that_is_overtaken_each_time_gives_up(
    tmp_path: Path, tiny: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Others keep adding documents and publish them first."""
    job = config(tiny, str(tmp_path), ray_address="none")
    make_plan, plans = runner.make_plan, 0

    def overtaken(own: Any) -> EmbedPlan:
        nonlocal plans
        plans += 1
        put_parquet(f"{tmp_path}/corpus/{plans}.parquet", documents(["one", "two"], str(plans)))
        plan = make_plan(own)
        with pytest.MonkeyPatch.context() as another:
            another.setattr(runner, "make_plan", make_plan)
            assert runner.embed(own).published
        return plan

    monkeypatch.setattr(runner, "make_plan", overtaken)
    monkeypatch.setattr(runner, "_ATTEMPTS", 3)
    with pytest.raises(SnapshotConflict, match="Gave up after 3 snapshot conflicts"):
        runner.embed(job)
    assert plans == 3
    assert sfr.open_table(job.table.path).num_rows == 6


@pytest.mark.parametrize(("seconds", "files"), [(0.0, SPLITS), (3600.0, 1)])
def test_receipts_are_logged_now_and_then_and_in_the_end(
    seconds: float, files: int, tmp_path: Path, tiny: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What a run that is killed has logged by then, the next one need not read out of footers."""
    put_parquet(f"{tmp_path}/corpus/a.parquet", documents([f"text {n}" for n in range(5 * SPLITS)]))
    monkeypatch.setattr(run_log, "_RECEIPT_FILE_EVERY_S", seconds)
    table = sfr.open_table(sfr.embed(config(tiny, str(tmp_path), rows_per_split=5, ray_address="none")).table)
    logs = [table.store.read(info.key) for info in table.store.list(names.RUNS) if info.key.endswith(".jsonl")]
    assert len(logs) == files
    assert {Receipt.from_json(line).split_id for log in logs for line in log.splitlines()} == set(table.committed())
