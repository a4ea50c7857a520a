"""What is asked of a device before any weights are read. No GPU is here: what PyTorch says of one is planted."""

import gc
import platform
import weakref
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from sfr_batch.config.settings import ModelSettings
from sfr_batch.encoder import devices, faults, loading
from sfr_batch.encoder.encoder import Encoder
from sfr_batch.errors import ConfigError, DeviceError, ModelError
from tests.encoder.cards import CUDA_12, CUDA_13, GIB, plant_gpu
from tests.models import edit_json, write_sfr_files


@pytest.mark.parametrize(
    ("capability", "built_for", "dtype", "why"),
    [
        ((9, 0), CUDA_13, "bfloat16", ""),
        ((9, 0), CUDA_13, "fp8", ""),
        ((8, 9), CUDA_13, "fp8", ""),  # sm_86 runs there
        ((12, 1), CUDA_13, "fp8", ""),
        ((13, 0), CUDA_13, "fp8", ""),  # through PTX
        ((7, 5), CUDA_13, "float16", ""),
        ((7, 5), CUDA_12, "float32", ""),
        ((7, 0), CUDA_13, "float16", "has no kernels"),
        ((7, 0), CUDA_12, "float16", ""),
        ((7, 0), CUDA_12, "bfloat16", "set model.dtype=float16"),
        ((6, 0), CUDA_12, "float16", ""),
        ((6, 0), CUDA_12, "bfloat16", "set model.dtype=float16"),
        ((6, 0), CUDA_13, "float32", "has no kernels"),
        ((12, 0), CUDA_12, "bfloat16", "has no kernels"),
        ((9, 0), ["sm_90a"], "bfloat16", ""),
        ((9, 1), ["sm_90a", "compute_90a"], "bfloat16", "has no kernels"),
        ((10, 3), ["sm_100f"], "bfloat16", ""),
        ((11, 0), ["sm_100f"], "bfloat16", "has no kernels"),
        ((9, 0), [], "bfloat16", ""),  # a build that does not say
        ((7, 5), [], "bfloat16", "set model.dtype=float16"),
        ((7, 5), CUDA_13, "bfloat16", "set model.dtype=float16"),
        ((7, 5), CUDA_13, "fp8", "set model.dtype=float16"),
        ((8, 0), CUDA_13, "fp8", "set model.dtype=bfloat16"),
        ((8, 6), CUDA_12, "fp8", "set model.dtype=bfloat16"),
    ],
)
def test_what_a_gpu_can_compute(capability: devices.Capability, built_for: list[str], dtype: str, why: str) -> None:
    found = devices.why_not(capability, built_for, dtype)
    assert why in found
    assert bool(why) == bool(found)


REFUSED = [
    (
        ("T4", (7, 5), CUDA_13, None),
        "T4 on node gpu-7 (compute capability 7.5) does not multiply in bfloat16: set model.dtype=float16, whose "
        "vectors are others, in a table of its own, or use a GPU of compute capability 8.0 or later.",
    ),
    (
        ("V100", (7, 0), CUDA_13, "float16"),
        f"PyTorch {torch.__version__} has no kernels for V100 on node gpu-7 (compute capability 7.0), only for sm_75 "
        "sm_80 sm_86 sm_90 sm_100 sm_120 compute_120. Install a build of PyTorch that has them (wheels for CUDA 12.6 "
        "still know Volta and Pascal), or use another GPU.",
    ),
    (
        ("P100", (6, 0), CUDA_12, None),
        "P100 on node gpu-7 (compute capability 6.0) does not multiply in bfloat16: set model.dtype=float16, whose "
        "vectors are others, in a table of its own, or use a GPU of compute capability 8.0 or later.",
    ),
    (
        ("A100", (8, 0), CUDA_13, "fp8"),
        "A100 on node gpu-7 (compute capability 8.0) does not multiply in fp8: set model.dtype=bfloat16, whose "
        "vectors are others, in a table of its own, or use a GPU of compute capability 8.9 or later.",
    ),
]


@pytest.mark.parametrize(("card", "why"), REFUSED, ids=[card[0] for card, _ in REFUSED])
def test_a_gpu_is_refused_before_anything_is_read(monkeypatch: pytest.MonkeyPatch, card: Any, why: str) -> None:
    """Before the folder of the model is looked for, even."""
    name, capability, built_for, dtype = card
    plant_gpu(monkeypatch, capability, built_for, name)
    with pytest.raises(ConfigError) as caught:
        Encoder.load(ModelSettings(path="/nowhere", device="cuda", dtype=dtype))
    assert str(caught.value) == f"model.device is cuda, but {why}"


@pytest.mark.parametrize(
    ("capability", "dtype"), [((7, 5), "float16"), ((7, 0), "float16"), ((8, 0), "bfloat16"), ((8, 9), "fp8")]
)
def test_a_gpu_that_suits_is_given_the_model(
    monkeypatch: pytest.MonkeyPatch, capability: devices.Capability, dtype: Any
) -> None:
    plant_gpu(monkeypatch, capability, [*CUDA_12, "sm_89"])
    with pytest.raises(ModelError, match="/nowhere"):
        Encoder.load(ModelSettings(path="/nowhere", device="cuda", dtype=dtype))


def test_a_gpu_that_does_not_start_is_said(monkeypatch: pytest.MonkeyPatch) -> None:
    """PyTorch may count GPUs by NVML (PYTORCH_NVML_BASED_CUDA_CHECK), which sees them without CUDA. Also before
    there is an actor, as the driver of a run and verify ask."""

    def fail(*_: Any) -> devices.Capability:
        raise RuntimeError("Unexpected error from cudaGetDeviceCount(). Error 802: system not yet initialized")

    plant_gpu(monkeypatch)
    monkeypatch.setattr(torch.cuda, "get_device_capability", fail)
    with pytest.raises(DeviceError, match=r"cuda failed: .* Error 802: system not yet init"):
        devices.require_device("cuda", "bfloat16")


def test_amds_gpus_have_no_fp8_here(monkeypatch: pytest.MonkeyPatch) -> None:
    """Their capabilities are numbered otherwise."""
    plant_gpu(monkeypatch, (7, 0), [])
    monkeypatch.setattr(torch.version, "hip", "6.4")
    with pytest.raises(ConfigError, match="NVIDIA's GPUs only: set bfloat16"):
        Encoder.load(ModelSettings(path="/nowhere", device="cuda", dtype="fp8"))
    with pytest.raises(ModelError, match="/nowhere"):
        Encoder.load(ModelSettings(path="/nowhere", device="cuda"))


@pytest.mark.parametrize(
    ("capability", "flash"), [((6, 0), False), ((7, 0), False), ((7, 5), False), ((8, 0), True), ((12, 0), True)]
)
def test_flash_attention_begins_with_ampere(
    monkeypatch: pytest.MonkeyPatch, capability: devices.Capability, flash: bool
) -> None:
    plant_gpu(monkeypatch, capability)
    assert devices.has_flash(torch.device("cuda")) == flash
    assert not devices.has_flash(torch.device("cpu"))
    for owner, name, value in (
        (torch.backends.cuda, "is_flash_attention_available", lambda: False),  # builds for Windows or Jetson
        (torch.version, "hip", "6.4"),
    ):
        with monkeypatch.context() as patched:
            patched.setattr(owner, name, value)
            assert not devices.has_flash(torch.device("cuda"))


def test_a_gpu_is_tried_in_fp8_before_weights_are_read(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """That a card multiplies in 8 bits does not say that a build of PyTorch does, with scales by row. There are no
    weights."""
    tried: list[torch.device] = []

    def refuse(device: torch.device) -> None:
        tried.append(device)
        raise ConfigError("no kernel")

    plant_gpu(monkeypatch, (12, 0))
    monkeypatch.setattr(loading, "check_kernel", refuse)
    path = str(write_sfr_files(tmp_path))
    with pytest.raises(ConfigError, match="no kernel"):
        Encoder.load(ModelSettings(path=path, device="cuda", dtype="fp8"))
    with pytest.raises(ModelError, match="has no weights"):
        Encoder.load(ModelSettings(path=path, device="cuda"))
    assert tried == [torch.device("cuda")]


def test_why_there_is_no_gpu(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    monkeypatch.setattr(torch.version, "cuda", None)
    assert "here: it is a build for CPUs. Install a CUDA build" in devices.why_no_gpu()
    monkeypatch.setattr(torch.version, "cuda", "13.0")

    def init() -> None:
        raise RuntimeError("The NVIDIA driver on your system is too old (found version 12020).")

    monkeypatch.setattr(torch.cuda, "init", init)
    assert "here (The NVIDIA driver on your system is too old (found version 12020).). Check" in devices.why_no_gpu()
    monkeypatch.setattr(platform, "system", lambda: "Darwin")
    assert "there is no CUDA on a Mac" in devices.why_no_gpu()


@pytest.mark.parametrize(
    ("card", "share", "dtype", "why"),
    [
        ({"total": 24}, 1.0, "bfloat16", None),
        ({"total": 24}, 0.5, "bfloat16", "13.2 GiB, 12.0 GiB"),
        ({"total": 24}, 0.5, "fp8", None),
        ({"total": 24}, 0.25, "fp8", "6.7 GiB, 6.0 GiB"),
        ({"total": 24, "used": 11}, 1.0, "bfloat16", "13.2 GiB, 13.0 GiB"),
        ({"total": 16}, 1.0, "bfloat16", None),
        ({"total": 16}, 1.0, "float32", "26.5 GiB, 15.5 GiB"),
        ({"total": 12}, 1.0, "bfloat16", "13.2 GiB, 11.5 GiB"),
    ],
)
def test_a_7b_model_must_fit_into_the_share_of_its_actor(
    card: dict[str, float], share: float, dtype: Any, why: str | None, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """Although the whole card is free: the other actors on it are still to come. The folder has no weights at all, so
    that none can have been read; where there is room, this is what is missing."""
    plant_gpu(monkeypatch, **card)
    write_sfr_files(tmp_path, hidden=4096, layers=32, heads=32, kv_heads=8)
    edit_json(tmp_path / "config.json", intermediate_size=14336)
    settings = ModelSettings(path=str(tmp_path), device="cuda", dtype=dtype)
    with pytest.raises(ModelError) as caught:
        Encoder.load(settings, memory_share=share)
    expected = why and (
        f"The model does not fit into the memory of cuda on node gpu-7: its weights need {why} free. Use a device "
        "with more memory or a smaller model.dtype, let fewer actors share it (run.actors.gpus=1), or stop other "
        "processes on it (nvidia-smi lists them)."
    )
    assert (expected or "has no weights") in str(caught.value)


def test_weights_alone_do_not_suffice(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Of 13.4 GiB, 13.2 are theirs. Then cuBLAS cannot begin, which looks like a GPU that is broken."""
    plant_gpu(monkeypatch, total=24, used=10.6)
    write_sfr_files(tmp_path, hidden=4096, layers=32, heads=32, kv_heads=8)
    edit_json(tmp_path / "config.json", intermediate_size=14336)
    with pytest.raises(ModelError) as caught:
        Encoder.load(ModelSettings(path=str(tmp_path), device="cuda"))
    assert str(caught.value).startswith(
        "The model fits into the memory of cuda on node gpu-7, but not the smallest batch beside it: 0.2 GiB free. "
        "Use a device with more memory"
    )


@pytest.mark.parametrize("dtype", ["bfloat16", "fp8"])
def test_a_card_that_others_have_filled_is_a_reason_and_no_crash(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, dtype: Any
) -> None:
    """Then CUDA itself has no room on it, so that not even the free memory can be asked."""

    def full(*_: Any) -> tuple[int, int]:
        raise RuntimeError("CUDA error: out of memory")

    plant_gpu(monkeypatch)
    for name in ("mem_get_info", "set_per_process_memory_fraction"):
        monkeypatch.setattr(torch.cuda, name, full)
    monkeypatch.setattr(torch.cuda, "empty_cache", lambda: None)
    settings = ModelSettings(path=str(write_sfr_files(tmp_path)), device="cuda", dtype=dtype)
    for share in (1, 0.5):
        with pytest.raises(ModelError, match=r"does not fit into .* of cuda on node gpu-7: .*, 0 bytes free\. Use"):
            Encoder.load(settings, memory_share=share)


def test_a_model_that_nothing_refers_to_makes_room_first(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Compiled layers refer to themselves: without a look for garbage they would stay."""
    layer = torch.nn.Linear(1, 1)
    layer.compile()
    still_there = weakref.ref(layer)
    plant_gpu(monkeypatch, total=1)
    monkeypatch.setattr(torch.cuda, "mem_get_info", lambda: (0 if still_there() else GIB, GIB))
    monkeypatch.setattr(torch.cuda, "empty_cache", lambda: None)
    write_sfr_files(tmp_path)
    gc.disable()
    try:
        del layer
        assert still_there()
        with pytest.raises(ModelError, match="has no weights"):
            Encoder.load(ModelSettings(path=str(tmp_path), device="cuda"))
    finally:
        gc.enable()


@pytest.mark.parametrize(
    ("message", "memory", "device"),
    [
        ("CUDA out of memory. Tried to allocate 2 GiB", True, False),
        ("CUDA error: CUBLAS_STATUS_ALLOC_FAILED when calling `cublasCreate(handle)`", True, True),
        ("CUDA error: CUBLAS_STATUS_NOT_INITIALIZED when calling `cublasCreate(handle)`", True, True),
        ("CUDA error: CUBLAS_STATUS_NOT_INITIALIZED when calling `cublasGemmEx(handle, opa, opb)`", False, True),
        ("CUDA error: an illegal memory access was encountered", False, True),
        ("CUDA unknown error - this may be due to an incorrectly set up environment", False, True),
        ("Unexpected error from cudaGetDeviceCount(). Error 802: system not yet initialized", False, True),
        ("Triton Error [CUDA]: an illegal memory access was encountered", False, True),
        ("Triton Error [CUDA]: out of memory", True, False),
        ('NVML_SUCCESS == r INTERNAL ASSERT FAILED at "/pytorch/c10/cuda/CUDACachingAllocator.cpp":1154', True, False),
        ("CUDA NVRTC error: NVRTC_ERROR_OUT_OF_MEMORY", True, False),
        ("DefaultCPUAllocator: can't allocate memory: you tried to allocate 8 bytes. Error code 12", True, False),
        ("Triton Error [CUDA]: device kernel image is invalid", False, False),
        ("CUDA error: CUBLAS_STATUS_EXECUTION_FAILED when calling `cublasGemmEx`", False, True),
        ("cuDNN error: CUDNN_STATUS_EXECUTION_FAILED", False, True),
        ("[cudnn_frontend] Error: No execution plans support the graph.", False, False),
        ("cuDNN Frontend error: [cudnn_frontend] Error: No valid execution plans built.", False, False),
        ("Expected mha_graph.execute(handle, variant_pack, workspace).is_good() to be true, cuDNN", False, False),
        ("CUDA error: CUBLAS_STATUS_NOT_SUPPORTED when calling `cublasLtMatmul`", False, False),
        ("index out of range in self", False, False),
    ],
)
def test_whose_fault_an_error_is(message: str, memory: bool, device: bool) -> None:
    """Memory is asked first: then a smaller batch is tried, where a device that has failed ends its process."""
    assert faults.is_out_of_memory(RuntimeError(message)) == memory
    assert faults.is_of_the_device(RuntimeError(message)) == device


def test_a_host_without_memory() -> None:
    """As PyTorch and NumPy say it."""
    for allocate in (torch.empty, np.empty):
        with pytest.raises((RuntimeError, MemoryError)) as caught:
            allocate(2**46)
        assert faults.is_out_of_memory(caught.value)
        assert not faults.is_of_the_device(caught.value)
