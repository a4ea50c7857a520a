"""The whole job, on a real local Ray where nothing else is asked for, on local disk and on S3."""

import contextlib
import json
import os
import subprocess
import sys
import threading
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest

import sfr_batch as sfr
from sfr_batch.encoder.encoder import Encoder
from sfr_batch.errors import ConfigError, CorpusError, DeviceError, RunFailed, TableError, TableMismatch
from sfr_batch.pipeline import encode_stage, execution, read_stage, runner, tasks
from sfr_batch.pipeline.execution import check_paths
from sfr_batch.pipeline.job import Job
from sfr_batch.table.search import vectors_of
from tests.job_processes import ROOT, config, documents, put, put_jsonl, put_parquet, remove, settings
from tests.models import build_tiny_mistral

pytestmark = [pytest.mark.ray, pytest.mark.usefixtures("ray_session")]

TEXTS = [
    f"{subject} {verb} {number} times"
    for number in range(20)
    for subject in ("cat", "dog")
    for verb in ("runs", "sleeps")
]


@pytest.fixture(scope="module")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return build_tiny_mistral(tmp_path_factory.mktemp("model") / "tiny")


def vectors_by_id(table: "sfr.EmbeddingTable") -> dict[str, np.ndarray]:
    arrow = table.to_arrow(["id", "embedding"]).combine_chunks()
    return dict(zip(arrow["id"].to_pylist(), vectors_of(arrow["embedding"].chunk(0)), strict=True))


@contextlib.contextmanager
def keeps_its_settings_of_ray_data() -> Iterator[None]:
    """A notebook that calls `embed` goes on with its own."""
    import ray.data

    context = ray.data.DataContext.get_current()
    size = context.target_max_block_size
    yield
    assert ray.data.DataContext.get_current() is context
    assert context.target_max_block_size == size != 1


@pytest.mark.parametrize(
    ("place", "ray_address"),
    [("local", "local"), ("local", "none"), ("s3", "none"), pytest.param("s3", "local", marks=pytest.mark.slow)],
    indirect=["place"],
)
def test_first_run_nothing_to_do_and_changes(
    ray_address: str, place: str, tiny: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    put_parquet(f"{place}/corpus/a.parquet", documents(TEXTS, "a"), row_group_size=30)
    bad = [
        {"id": "j-null", "text": None, "lang": "en"},
        {"id": "j-empty", "text": "  ", "lang": "en"},
        {"text": "no id"},
    ]
    put_jsonl(f"{place}/corpus/b.jsonl", [*documents(TEXTS[:50], "b"), *bad])
    job = config(tiny, place, ray_address=ray_address)

    plan = sfr.plan(job)
    assert "splits" in repr(plan)
    with keeps_its_settings_of_ray_data():
        summary = sfr.embed(job)
    job = config(tiny, place, ray_address="none")  # a Ray once is enough
    assert summary.splits == len(plan.splits) >= 3
    assert "duckdb" in summary.describe()
    counts = summary.snapshot.manifest.counts
    assert (counts.read, counts.embedded, counts.reused, counts.rejected) == (133, 130, 0, 3)
    table = sfr.open_table(job.table.path)
    got = vectors_by_id(table)
    texts = {row["id"]: row["text"] for row in [*documents(TEXTS, "a"), *documents(TEXTS[:50], "b")]}
    assert set(got) == set(texts)
    assert table.num_rows == len(texts)
    expected = Encoder.load(job.model).encode(list(texts.values()))
    assert np.abs(np.stack([got[id_] for id_ in texts]) - expected).max() < 1e-5
    report = table.report()
    assert report.throughput
    assert report.lengths
    assert report.rejects
    assert (sum(report.throughput.tokens), sum(report.lengths.documents)) == (summary.tokens, 130)
    assert report.rejects.by_reason == {"null_text": 1, "empty_text": 1, "null_id": 1}
    assert min(report.read_seconds or 0, report.tokenize_seconds or 0, report.write_seconds or 0) > 0
    reasons = table.current().rejects().select(["id", "reason"]).to_pylist()
    assert sorted((row["reason"], row["id"]) for row in reasons) == [
        ("empty_text", "j-empty"),
        ("null_id", None),
        ("null_text", "j-null"),
    ]
    assert table.search("dog sleeps 3 times", k=1, columns=["lang"])[0].row == {"lang": "en"}

    # A finished table: nothing runs.
    monkeypatch.setattr(runner, "_embed_missing", None)
    again = sfr.embed(job)
    assert (again.splits, again.published, again.snapshot.number) == (0, False, 1)
    monkeypatch.undo()

    # A shard more, a shard changed: only their rows are embedded.
    put_parquet(f"{place}/corpus/c.parquet", documents(TEXTS[:10], "c"))
    third = sfr.embed(job).snapshot.manifest.counts
    assert (third.read, third.embedded, third.reused, third.rejected) == (143, 10, 130, 3)
    put_parquet(f"{place}/corpus/c.parquet", documents([text + "!" for text in TEXTS[:7]], "c"))
    remove(f"{place}/corpus/b.jsonl")
    fourth = sfr.embed(job)
    assert "duckdb" not in fourth.describe()  # data/ holds rows of earlier states too
    counts = fourth.snapshot.manifest.counts
    assert (counts.read, counts.embedded, counts.reused, counts.rejected) == (87, 7, 80, 0)
    assert set(vectors_by_id(sfr.open_table(job.table.path))) == {
        row["id"] for row in [*documents(TEXTS, "a"), *documents(TEXTS[:7], "c")]
    }
    assert len(sfr.open_table(job.table.path).snapshots()) == 3  # the earlier states are still there


def test_same_vectors_whatever_the_splits(tmp_path: Path, small_model: Path) -> None:
    put_parquet(f"{tmp_path}/corpus/a.parquet", documents(TEXTS), row_group_size=50)
    job = config(small_model, str(tmp_path), rows_per_split=7, ray_address="none")
    summary = sfr.embed(job)
    assert summary.splits == 13  # 50 rows cut in 8, 30 rows cut in 5
    got = sfr.open_table(summary.table).to_arrow(["id", "embedding"]).combine_chunks()
    assert got["id"].to_pylist() == [row["id"] for row in documents(TEXTS)]  # in corpus order
    assert np.abs(vectors_of(got["embedding"].chunk(0)) - Encoder.load(job.model).encode(TEXTS)).max() < 1e-5


def test_plain_directory_is_read_by_other_engines(tmp_path: Path, small_model: Path) -> None:
    import duckdb
    import pandas as pd
    import polars as pl
    import ray

    put_parquet(f"{tmp_path}/corpus/a.parquet", documents(TEXTS))
    sfr.embed(config(small_model, str(tmp_path), rows_per_split=30, ray_address="none"))
    data = f"{tmp_path}/table/data"
    assert len(os.listdir(data)) == 3

    frame = pd.read_parquet(data)
    assert len(frame) == len(TEXTS)
    assert frame["n_tokens"].dtype == np.int32
    assert np.allclose(np.linalg.norm(np.stack(frame["embedding"]), axis=1), 1, atol=1e-5)
    polars = pl.read_parquet(f"{data}/*.parquet")
    assert polars.schema["embedding"] == pl.Array(pl.Float32, 32)
    assert polars["id"].n_unique() == len(TEXTS)
    norms = "min(list_inner_product(embedding::FLOAT[], embedding::FLOAT[]))"
    rows = duckdb.sql(f"SELECT count(*), count(DISTINCT id), {norms} FROM '{data}/*.parquet'")
    [(count, distinct, norm)] = rows.fetchall()
    assert (count, distinct) == (len(TEXTS), len(TEXTS))
    assert abs(norm - 1) < 1e-5
    dataset = ray.data.read_parquet(data)
    assert dataset.count() == len(TEXTS)
    assert np.asarray(dataset.take(1)[0]["embedding"], dtype=np.float32).shape == (32,)


def test_duplicate_ids_are_rejected_once_and_for_all_to_see(
    tmp_path: Path, small_model: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The run that publishes has a cluster, and its table counts as large: tasks find the duplicates."""
    put_parquet(f"{tmp_path}/corpus/a.parquet", documents(TEXTS[:5]))
    put_parquet(f"{tmp_path}/corpus/b.parquet", documents(TEXTS[5:12]))  # doc-00000 to doc-00004 once more
    with pytest.raises(TableError, match="Duplicate ids in 5 rows"):
        sfr.embed(config(small_model, str(tmp_path), "table.duplicate_ids=error", ray_address="none"))
    ran = Counter[str]()

    def submit(self: tasks.OnRay, function: Any, *args: Any, real: Any = tasks.OnRay.submit, **more: Any) -> list[Any]:
        ran[function.__name__] += 1
        found: list[Any] = real(self, function, *args, **more)
        return found

    monkeypatch.setattr(tasks.OnRay, "submit", submit)
    monkeypatch.setattr(runner, "_ROWS_HERE", 11)
    summary = sfr.embed(config(small_model, str(tmp_path), ray_address="local"))
    assert ran == {"deal_documents": 1, "find_in": 1, "_read_files": 2}, "ids of losers, tokens of dead rows"
    assert summary.splits == 0  # the first try had embedded them; only publishing was refused
    counts = summary.snapshot.manifest.counts
    assert (counts.read, counts.embedded, counts.rejected, counts.vectors) == (12, 7, 5, 7)
    table = sfr.open_table(summary.table)
    assert sorted(table.to_arrow(["id"])["id"].to_pylist()) == [f"doc-{n:05}" for n in range(7)]
    assert set(table.current().rejects()["reason"].to_pylist()) == {"duplicate_id"}


def test_a_failing_split_does_not_stop_the_others(tmp_path: Path, small_model: Path) -> None:
    put_parquet(f"{tmp_path}/corpus/a.parquet", documents(TEXTS[:20], "a"))
    put_parquet(f"{tmp_path}/corpus/b.parquet", documents(TEXTS[:20], "b"))
    whole = Path(f"{tmp_path}/corpus/b.parquet").read_bytes()
    broken = bytearray(whole)
    broken[4:200] = bytes(196)  # the footer is sound, the data is not
    put(f"{tmp_path}/corpus/b.parquet", bytes(broken))
    job = config(small_model, str(tmp_path))
    with pytest.raises(RunFailed, match=r"(?s)1 of 2 splits did not finish.*b\.parquet"):
        sfr.embed(job)
    assert sfr.open_table(job.table.path).latest() is None
    put(f"{tmp_path}/corpus/b.parquet", whole)
    summary = sfr.embed(job)
    assert summary.splits == 1
    assert summary.snapshot.manifest.counts.vectors == 40


def test_a_shard_replaced_during_the_run_is_an_error(
    tmp_path: Path, small_model: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    put_parquet(f"{tmp_path}/corpus/a.parquet", documents(TEXTS[:20]))
    job = config(small_model, str(tmp_path), ray_address="none")
    plan = sfr.plan(job)
    put_parquet(f"{tmp_path}/corpus/a.parquet", documents(TEXTS[:21]))
    monkeypatch.setattr(runner, "make_plan", lambda _: plan)
    with pytest.raises(RunFailed, match=r"was replaced during the run\. Run the command again"):
        sfr.embed(job)
    assert sfr.open_table(job.table.path).latest() is None


def test_a_finished_table(tmp_path: Path, small_model: Path) -> None:
    """It needs no Ray, refuses other settings, and is embedded anew under a new generation only."""
    put_parquet(f"{tmp_path}/corpus/a.parquet", documents(TEXTS[:5]))
    assert sfr.embed(config(small_model, str(tmp_path), ray_address="none")).splits == 1

    (tmp_path / "job.yaml").write_text(json.dumps(settings(small_model, str(tmp_path))))
    code = (
        "import sys, sfr_batch as sfr; s = sfr.embed(sys.argv[1]); assert not s.published; "
        "sys.exit(any(name in sys.modules for name in ('ray', 'torch', 'transformers')))"
    )
    command = [sys.executable, "-c", code, str(tmp_path / "job.yaml")]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr

    with pytest.raises(TableMismatch, match=r"max_length: 256 in the table, 128 in the config"):
        sfr.embed(config(small_model, str(tmp_path), "model.max_length=128", ray_address="none"))

    assert sfr.embed(config(small_model, str(tmp_path), "table.generation=again", ray_address="none")).splits == 1
    assert sfr.embed(config(small_model, str(tmp_path), "table.generation=again", ray_address="none")).splits == 0


def test_model_without_weights_fails_with_its_own_words(tmp_path: Path, small_model: Path) -> None:
    put_parquet(f"{tmp_path}/corpus/a.parquet", documents(TEXTS[:5]))
    with pytest.raises(CorpusError, match="Did you mean 'text'"):
        sfr.embed(config(small_model, str(tmp_path), "corpus.text=texxt"))
    with pytest.raises(ConfigError, match="GPU"):
        Encoder.load(config(small_model, str(tmp_path), "model.device=cuda", "run.actors.gpus=1").model)


def test_a_local_table_on_several_nodes_is_refused() -> None:
    job = config("model", "/data")
    check_paths(job, nodes=1)
    check_paths(config("model", "s3://bucket"), nodes=2)
    check_paths(config("model", "/data", "table.shared_path=true"), nodes=2)
    with pytest.raises(ConfigError, match=r"local path, but the cluster has 2 nodes.*shared_path=true"):
        check_paths(job, nodes=2)
    lent = "table.path=s3://bucket/table", "table.reuse_from=/data/old"
    with pytest.raises(ConfigError, match=r"reuse_from /data/old is a local path, but the cluster has 2 nodes"):
        check_paths(config("model", "s3://bucket", *lent), nodes=2)


def test_a_cluster_that_does_not_answer(monkeypatch: pytest.MonkeyPatch) -> None:
    """It may have gone since it was chosen. Ray itself would try for ten minutes."""
    monkeypatch.setattr(execution.ray, "is_initialized", lambda: False)
    with (
        pytest.raises(
            ConfigError, match=r"No Ray cluster answers at 127\.0\.0\.1:1 \(run\.ray_address\): nothing list"
        ),
        execution.cluster(config("model", "/data", ray_address="127.0.0.1:1"), "127.0.0.1:1"),
    ):
        pass


def dying_reader(batch: object, job: object) -> None:
    """Takes its worker down, as the kernel does when memory is short."""
    os._exit(9)


def test_workers_that_always_die_end_the_run(
    tmp_path: Path, small_model: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Ray Data would try for ever."""
    put_parquet(f"{tmp_path}/corpus/a.parquet", documents(TEXTS[:5]))
    monkeypatch.setattr(read_stage, "read_and_tokenize", dying_reader)
    monkeypatch.setattr(execution, "_LOST_WORKERS", 1)
    with pytest.raises(RunFailed, match=r"Ray gave up: .*\nFinished splits stay committed; the same command continues"):
        sfr.embed(config(small_model, str(tmp_path), ray_address="local"))


class FailsOnce(encode_stage.Encode):
    """An encode stage whose device fails at its second split, in the first process that gets so far. The property it
    gives: after the failure all that is tried in that process fails, as with a lost CUDA context."""

    def __init__(self, job: Job) -> None:
        super().__init__(job)
        self.mark, self.splits, self.lost = Path(job.table).with_name("failed"), 0, False

    def __call__(self, batch: pa.Table) -> pa.Table:
        self.splits += 1
        if self.lost or (self.splits == 2 and not self.mark.exists()):
            self.mark.touch()
            self.lost = True
            raise DeviceError("cuda:0 failed: CUDA error: uncorrectable ECC error encountered")
        return super().__call__(batch)


def test_a_device_that_fails_costs_its_actor_and_not_the_run(
    tmp_path: Path, small_model: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    put_parquet(f"{tmp_path}/corpus/a.parquet", documents(TEXTS))
    monkeypatch.setattr(encode_stage, "Encode", FailsOnce)
    summary = sfr.embed(config(small_model, str(tmp_path), rows_per_split=10))
    assert (tmp_path / "failed").exists()
    assert summary.losses.actors == 1
    assert (summary.splits, summary.embedded) == (8, len(TEXTS))


class WaitsForTheNext(encode_stage.Encode):
    """An encode stage whose first split is fetched when the second one has begun, as where both are on a GPU."""

    def __init__(self, job: Job) -> None:
        super().__init__(job)
        self.begun, self.second = 0, threading.Event()

    def begin(self, batch: pa.Table) -> Callable[[], pa.Table]:
        end, self.begun = super().begin(batch), self.begun + 1
        if self.begun == 2:
            self.second.set()
        if self.begun > 1 or self.second.wait(60):
            return end
        raise DeviceError("the second split waits for the first one")


def test_an_actor_on_a_gpu_has_two_splits_at_once(
    tmp_path: Path, small_model: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    put_parquet(f"{tmp_path}/corpus/a.parquet", documents(TEXTS[:30]))
    monkeypatch.setattr(encode_stage, "Encode", WaitsForTheNext)
    options = execution._at_once("cuda")
    assert not execution._at_once("cpu")
    monkeypatch.setattr(execution, "_at_once", lambda device: options)
    summary = sfr.embed(config(small_model, str(tmp_path), rows_per_split=10))
    assert (summary.splits, summary.embedded, summary.losses.actors) == (3, 30, 0)


class LoadsAtTheSecondTime(encode_stage.Encode):
    """An encode stage on a machine whose file system fails when a model is loaded for the first time."""

    def __init__(self, job: Job) -> None:
        mark = Path(job.table).with_name("failed")
        if not mark.exists():
            mark.touch()
            raise OSError(116, "Stale file handle")
        super().__init__(job)


def test_a_failure_that_is_not_the_models_does_not_end_the_run_while_it_is_loaded(
    tmp_path: Path, small_model: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Ray Data would end it."""
    put_parquet(f"{tmp_path}/corpus/a.parquet", documents(TEXTS[:5]))
    monkeypatch.setattr(encode_stage, "Encode", LoadsAtTheSecondTime)
    assert sfr.embed(config(small_model, str(tmp_path), ray_address="local")).embedded == 5
    assert (tmp_path / "failed").exists()


def test_a_run_that_waits_in_vain_ends(tmp_path: Path, small_model: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """For a GPU that nobody has."""
    put_parquet(f"{tmp_path}/corpus/a.parquet", documents(TEXTS[:5]))
    monkeypatch.setattr(execution, "_PATIENCE_S", 3.0)
    job = config(small_model, str(tmp_path), ray_address="local")
    actors = job.run.actors.model_copy(update={"gpus": 1})
    job = job.model_copy(update={"run": job.run.model_copy(update={"actors": actors})})
    with pytest.raises(RunFailed, match=r"^No progress for .* hours: the run was stopped\. Finished splits stay"):
        sfr.embed(job)


def test_actors_that_leave_no_cpu_for_reading_are_refused(tmp_path: Path, small_model: Path) -> None:
    put_parquet(f"{tmp_path}/corpus/a.parquet", documents(TEXTS[:5]))
    with pytest.raises(ConfigError, match=r"run\.actors\.min=99 actors of run\.actors\.cpus=1 leave none of the"):
        sfr.embed(config(small_model, str(tmp_path), "run.actors.min=99", ray_address="local"))
