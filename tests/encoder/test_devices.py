"""What is asked of a device before any weights are read. No GPU is here: what PyTorch says of one is planted."""

import platform
from pathlib import Path

import pytest
import torch

from sfr_batch.config.settings import ModelSettings
from sfr_batch.encoder import devices, faults, loading
from sfr_batch.encoder.encoder import Encoder
from sfr_batch.errors import ConfigError, ModelError

CUDA_12 = ["sm_50", "sm_60", "sm_70", "sm_75", "sm_80", "sm_86", "sm_90"]
CUDA_13 = ["sm_75", "sm_80", "sm_86", "sm_90", "sm_100", "sm_120", "compute_120"]


def plant_gpu(patched: pytest.MonkeyPatch, capability: tuple[int, int], built_for: list[str], name: str = "T4") -> None:
    patched.setattr(torch.cuda, "is_available", lambda: True)
    patched.setattr(torch.cuda, "get_device_capability", lambda *_: capability)
    patched.setattr(torch.cuda, "get_arch_list", lambda: built_for)
    patched.setattr(torch.cuda, "get_device_name", lambda: name)
    patched.setattr(devices.socket, "gethostname", lambda: "gpu-7")


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
        ((12, 0), CUDA_12, "bfloat16", "has no kernels"),
        ((9, 0), ["sm_90a"], "bfloat16", ""),
        ((9, 1), ["sm_90a", "compute_90a"], "bfloat16", "has no kernels"),
        ((10, 3), ["sm_100f"], "bfloat16", ""),
        ((11, 0), ["sm_100f"], "bfloat16", "has no kernels"),
        ((7, 5), CUDA_13, "bfloat16", "set model.dtype=float16"),
        ((7, 5), CUDA_13, "fp8", "set model.dtype=float16"),
        ((8, 0), CUDA_13, "fp8", "set model.dtype=bfloat16"),
    ],
)
def test_what_a_gpu_can_compute(capability: devices.Capability, built_for: list[str], dtype: str, why: str) -> None:
    found = devices.why_not(capability, built_for, dtype)
    assert why in found
    assert bool(why) == bool(found)


def test_a_gpu_is_refused_before_anything_is_read(monkeypatch: pytest.MonkeyPatch) -> None:
    """Before the folder of the model is looked for, even."""
    plant_gpu(monkeypatch, (7, 5), CUDA_13)
    with pytest.raises(ConfigError) as caught:
        Encoder.load(ModelSettings(path="/nowhere", device="cuda"))
    assert str(caught.value) == (
        "model.device is cuda, but T4 on node gpu-7 (compute capability 7.5) does not multiply in bfloat16: set "
        "model.dtype=float16, whose vectors are others, in a table of its own, or use a GPU of compute capability 8.0 "
        "or later."
    )
    plant_gpu(monkeypatch, (7, 0), CUDA_13, "V100")
    with pytest.raises(
        ConfigError, match=r"has no kernels for V100 on node gpu-7 \(compute capability 7.0\), only for sm_"
    ):
        Encoder.load(ModelSettings(path="/nowhere", device="cuda", dtype="float16"))
    monkeypatch.setattr(torch.version, "hip", "6.4")
    with pytest.raises(ConfigError, match="NVIDIA's GPUs only: set bfloat16"):
        Encoder.load(ModelSettings(path="/nowhere", device="cuda", dtype="fp8"))
    with pytest.raises(ModelError, match="/nowhere"):
        Encoder.load(ModelSettings(path="/nowhere", device="cuda"))


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


@pytest.mark.parametrize(("share", "fits"), [(1.0, True), (0.5, False)])
def test_a_model_must_fit_into_the_share_of_its_actor(
    share: float, fits: bool, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """Although the whole GPU is free: the other actors on it are still to come."""
    gib = 2**30
    monkeypatch.setattr(torch.cuda, "mem_get_info", lambda: (22 * gib, 24 * gib))
    for name in ("memory_reserved", "memory_allocated"):
        monkeypatch.setattr(torch.cuda, name, lambda: 0)
    monkeypatch.setattr(torch.cuda, "get_per_process_memory_fraction", lambda: share)
    assert devices.free_memory("cuda") == min(22 * gib, int(share * 24 * gib))
    with torch.device("meta"):
        model = torch.nn.Linear(2**16, 2**16, bias=False, dtype=torch.float32)  # 16 GiB
    monkeypatch.setattr(model, "to", lambda device: model)
    if fits:
        assert loading.to_device(model, "cuda") is model
    else:
        with pytest.raises(ModelError, match=r"its weights need 16\.0 GiB, 12\.0 GiB free"):
            loading.to_device(model, "cuda")


@pytest.mark.parametrize(
    ("message", "memory", "device"),
    [
        ("CUDA out of memory. Tried to allocate 2 GiB", True, False),
        ("CUDA error: CUBLAS_STATUS_ALLOC_FAILED when calling `cublasCreate(handle)`", True, True),
        ("CUDA error: an illegal memory access was encountered", False, True),
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
