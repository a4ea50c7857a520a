"""The stages by themselves, without Ray: what becomes of rows that cannot be embedded, and of errors on the way."""

import dataclasses
import json
import re
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
import torch

import sfr_batch as sfr
from sfr_batch.checks.audit.auditor import audit
from sfr_batch.encoder import devices, forward, segments
from sfr_batch.encoder import encoder as encoder_module
from sfr_batch.errors import ConfigError, DeviceError, RunFailed
from sfr_batch.format.records import Receipt
from sfr_batch.pipeline import encode_stage, packing, read_stage, write_stage
from sfr_batch.pipeline.job import Job
from sfr_batch.pipeline.runner import make_job
from sfr_batch.planning.drafting import draft
from sfr_batch.planning.plan import EmbedPlan
from sfr_batch.table.commit.publish import publish
from sfr_batch.table.commit.writing import create_or_open
from sfr_batch.table.table import Table
from tests.encoder.cards import plant_gpu
from tests.job_processes import config, documents, put_parquet
from tests.repositories import write_repository


@pytest.fixture(scope="module")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_repository(tmp_path_factory.mktemp("model") / "tiny", max_seq_length=512)


def planned(root: Path, tiny: Path, texts: list[str | None]) -> tuple[EmbedPlan, Table, Job]:
    put_parquet(f"{root}/corpus/a.parquet", documents(texts))
    plan = sfr.plan(config(tiny, str(root)))
    return plan, create_or_open(plan.store, plan.card), make_job(plan, "run")


def tokenized(plan: EmbedPlan, job: Job) -> pa.Table:
    units = pa.table({"unit": [packing.unit_to_json(unit) for unit in plan.todo]})
    [row] = read_stage.read_and_tokenize(units, job)
    return row


def result_of(row: pa.Table) -> Receipt:
    [result] = row.to_pylist()
    assert result["error"] is None
    return Receipt.from_json(result["receipt"])


def test_a_split_of_rejects_alone_still_has_its_data_file(tmp_path: Path, tiny: Path) -> None:
    plan, table, job = planned(tmp_path, tiny, [None, " ", "\n"])
    receipt = result_of(write_stage.write(encode_stage.Encode(job)(tokenized(plan, job)), job))
    assert (receipt.read, receipt.embedded, receipt.rejected, receipt.tokens) == (3, 0, 3, 0)
    assert set(table.committed()) == {receipt.split_id}


def test_one_of_several_gpus_is_said(tmp_path: Path, tiny: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """By a run in one process; to an actor of Ray its own GPU alone is visible. The GPUs are planted."""
    _, _, on_cpu = planned(tmp_path, tiny, ["one"])
    encoder = encode_stage.load_encoder(on_cpu, own_process=False)
    monkeypatch.setattr(encode_stage, "load_encoder", lambda job, own_process: encoder)
    monkeypatch.setattr(devices, "kind_of", lambda _: "NVIDIA L4")
    monkeypatch.setattr(devices, "count_gpus", lambda: 8)
    monkeypatch.setattr(segments, "let_grow", lambda device: "" if device == "cpu" else "Segments do not grow.")
    job = dataclasses.replace(on_cpu, model=on_cpu.model.model_copy(update={"device": "cuda"}))
    encode = encode_stage.Encode(job, own_process=False)
    one_of_them = "1 of 8 GPUs is used: run.actors.max=8 with run.ray_address=local uses all."
    assert encode.remark == f"{one_of_them} Segments do not grow."
    assert encode.overlaps
    assert encode_stage.Encode(job).remark == "Segments do not grow."
    assert not encode_stage.Encode(on_cpu, own_process=False).remark


def test_a_split_that_is_committed_is_passed_on(tmp_path: Path, tiny: Path) -> None:
    """With the receipt that is there, and the work that is reported beside it; nothing is written."""
    plan, table, job = planned(tmp_path, tiny, ["one", "", "three"])
    row = tokenized(plan, job)
    first = write_stage.write(encode_stage.Encode(job)(row), job)
    before = {info.key for info in table.store.list("")}
    second = write_stage.write(write_stage.as_committed(row, result_of(first).to_json()), job)
    assert result_of(second) == result_of(first)
    assert second.schema == first.schema
    works = [json.loads(result["work"][0].as_py()) for result in (first, second)]
    assert [work[0].keys() for work in works] == [{"read", "tokenize", "write"}] * 2
    assert works[0][1:] == works[1][1:]
    assert {info.key for info in table.store.list("")} == before


@pytest.mark.parametrize("poison", [np.nan, np.inf, 2.0])
def test_a_vector_that_is_no_unit_vector_is_rejected(tmp_path: Path, tiny: Path, poison: float) -> None:
    plan, table, job = planned(tmp_path, tiny, ["one", "two", "three"])
    encoded = encode_stage.Encode(job)(tokenized(plan, job))
    vectors = np.frombuffer(encoded["vectors"][0].as_buffer(), dtype=np.float32).reshape(3, -1).copy()
    vectors[1, 0] = poison
    encoded = encoded.set_column(
        encoded.column_names.index("vectors"), "vectors", packing.binary_column(pa.py_buffer(vectors))
    )
    receipt = result_of(write_stage.write(encoded, job))
    assert (receipt.read, receipt.embedded, receipt.rejected) == (3, 2, 1)
    snapshot = publish(table, plan.base, draft(plan, "run", [receipt]))
    assert audit(table, plan).ok
    assert snapshot.to_arrow(["id"])["id"].to_pylist() == ["doc-00000", "doc-00002"]
    [reject] = snapshot.rejects().to_pylist()
    assert (reject["id"], reject["position"], reject["reason"]) == ("doc-00001", 1, "bad_vector")


def test_a_row_that_the_model_fails_on_is_rejected_with_what_it_says(tmp_path: Path, tiny: Path) -> None:
    plan, table, job = planned(tmp_path, tiny, ["one", "poison", "three"])
    encode = encode_stage.Encode(job)
    encoder = encode.encoder
    poison = int(encoder.tokenizer.encode(["poison"]).flat_ids[1])

    def check(_: torch.nn.Module, inputs: tuple[torch.Tensor, ...]) -> None:
        if bool((inputs[0] == poison).any()):
            raise IndexError("index out of range in self")

    encoder._model.get_input_embeddings().register_forward_pre_hook(check)
    receipt = result_of(write_stage.write(encode(tokenized(plan, job)), job))
    assert (receipt.read, receipt.embedded, receipt.rejected) == (3, 2, 1)
    [reject] = publish(table, plan.base, draft(plan, "run", [receipt])).rejects().to_pylist()
    assert audit(table, plan).ok
    assert (reject["id"], reject["position"], reject["reason"]) == ("doc-00001", 1, "encoder_failed")
    assert reject["message"] == "the model fails on this text: IndexError: index out of range in self"


def test_a_device_that_fails_is_no_result_of_a_split(tmp_path: Path, tiny: Path) -> None:
    """As a result it would be the split's end; as an exception it is the executor's to do it again elsewhere."""
    plan, _, job = planned(tmp_path, tiny, ["one", "two"])
    encode = encode_stage.Encode(job)

    def fail(*_: object) -> None:
        raise RuntimeError("CUDA error: an illegal memory access was encountered")

    encode.encoder._model.get_input_embeddings().register_forward_pre_hook(fail)
    with pytest.raises(DeviceError, match="illegal memory access"):
        encode(tokenized(plan, job))


def test_a_device_that_fails_while_the_model_is_loaded_is_no_result_either(
    tmp_path: Path, tiny: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Not in a kernel, nor where the weights are copied."""
    _, _, job = planned(tmp_path, tiny, ["one"])

    def fail(*_: object, **__: object) -> None:
        raise RuntimeError("CUDA error: uncorrectable ECC error encountered")

    for owner, name in ((forward.Forward, "pooled"), (encoder_module, "to_device")):
        with monkeypatch.context() as patched:
            patched.setattr(owner, name, fail)
            with pytest.raises(DeviceError, match=r"cpu failed: CUDA error: uncorrect"):
                encode_stage.Encode(job)


def test_a_device_that_the_weights_fill_is_a_reason_and_no_crash(
    tmp_path: Path, tiny: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The first batches run while the model is loaded. Five actors that end there would end a run."""
    _, _, job = planned(tmp_path, tiny, ["one"])

    def fail(*_: object, **__: object) -> None:
        raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2 MiB")

    monkeypatch.setattr(forward.Forward, "pooled", fail)
    problem = encode_stage.Encode(job).problem
    assert problem
    assert re.search(r"fits into the memory of cpu on node .*, but not the smallest batch beside it: .* free", problem)


@pytest.mark.parametrize(
    ("card", "why"),
    [
        ({"capability": (7, 5), "name": "T4"}, "is cuda, but T4 on node gpu-7 .* does not multiply in bfloat16: set"),
        ({"capability": (7, 0), "name": "V100"}, "has no kernels for V100 on node gpu-7"),
        ({"total": 1 / 2**20}, "The model does not fit into the memory of cuda on node gpu-7: its weights need"),
    ],
)
def test_a_run_on_a_card_that_does_not_suit_says_so_before_it_loads_weights(
    tmp_path: Path, tiny: Path, monkeypatch: pytest.MonkeyPatch, card: Any, why: str
) -> None:
    """One that is too small is known only where the model is loaded; on a cluster, that is another machine."""
    put_parquet(f"{tmp_path}/corpus/a.parquet", documents(["one", "two"]))
    looked_for: list[Any] = []
    monkeypatch.setattr(encoder_module, "locate", lambda *_, **options: looked_for.append(options))
    plant_gpu(monkeypatch, **card, used=0)
    on_gpu = config(tiny, str(tmp_path), "model.device=cuda", "run.actors.gpus=1", ray_address="none")
    with pytest.raises((ConfigError, RunFailed), match=why):
        sfr.embed(on_gpu)
    assert not looked_for
    assert (tmp_path / "table").exists() == ("total" in card)


def test_an_error_travels_to_the_result(tmp_path: Path, tiny: Path) -> None:
    plan, table, job = planned(tmp_path, tiny, ["one", "two"])
    Path(f"{tmp_path}/corpus/a.parquet").unlink()
    [result] = write_stage.write(encode_stage.Encode(job)(tokenized(plan, job)), job).to_pylist()
    assert "a.parquet was deleted after the run was planned" in result["error"]
    assert not table.committed()


def test_a_model_that_cannot_be_loaded_is_a_result_and_not_a_crash(tmp_path: Path, tiny: Path) -> None:
    plan, table, job = planned(tmp_path, tiny, ["one", "two"])
    row = tokenized(plan, job)
    for file in tiny.glob("*.safetensors"):
        file.rename(file.with_suffix(".away"))
    try:
        [result] = write_stage.write(encode_stage.Encode(job)(row), job).to_pylist()
    finally:
        for file in tiny.glob("*.away"):
            file.rename(file.with_suffix(".safetensors"))
    assert "safetensors" in result["error"]
    assert "Traceback" not in result["error"]
    assert not table.committed()
