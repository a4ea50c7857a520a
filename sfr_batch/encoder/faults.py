"""Tells the causes of exceptions in a forward pass apart: too little memory, the device, or perhaps a row."""

import contextlib
from collections.abc import Iterable, Iterator

import torch

from sfr_batch.errors import DeviceError

_OF_THE_DEVICE = (
    "cuda error",
    "cuda unknown error",
    "cudagetdevicecount",
    "cublas",
    "cudnn",
    "cuda driver",
    "nccl",
    "hip error",
    "device-side assert",
    "ecc error",
    "illegal memory access",
    "illegal instruction",
    "misaligned address",
    "unspecified launch failure",
)
"""Parts of messages. Of kernels that are compiled ("Triton Error [CUDA]") those after which the context is lost, and no
others, which say that there is no kernel."""
_OF_A_KERNEL = ("execution plan", "cudnn_frontend", "mha_graph", "status_not_supported", "status_arch_mismatch")
"""Parts of messages of cuDNN and cuBLAS that have no kernel for these shapes or this GPU."""
_NO_MEMORY = (
    "out of memory",
    "error_out_of_memory",
    "can't allocate memory",
    "nvml_success == r",
    "status_alloc_failed",
    "status_not_initialized when calling `cublascreate",
    "status_not_initialized when calling `cublasltcreate",
)
"""cuBLAS says of a full card that it cannot begin. PyTorch asks NVML how full a card is before it says that it is; NVML
answers neither for a slice of a card (MIG) nor on Jetson, and this is then all that is said (pytorch#112377)."""


def is_out_of_memory(error: BaseException) -> bool:
    """Whether the device or the host had too little memory. PyTorch has a type for it that not every backend uses."""
    return isinstance(error, torch.OutOfMemoryError | MemoryError) or _says(error, _NO_MEMORY)


def is_of_the_device(error: BaseException) -> bool:
    """Whether the device failed, which no row can cause. After such an error its context is usually lost, and every
    further call fails."""
    known = getattr(torch, "AcceleratorError", None)
    if isinstance(error, DeviceError) or (known is not None and isinstance(error, known)):
        return True
    return isinstance(error, RuntimeError) and _says(error, _OF_THE_DEVICE) and not _says(error, _OF_A_KERNEL)


def _says(error: BaseException, parts: Iterable[str]) -> bool:
    text = str(error).lower()
    return any(part in text for part in parts)


@contextlib.contextmanager
def of_the_device(device: torch.device) -> Iterator[None]:
    """Turns failures of the device into DeviceError. Kernels run asynchronously, so that any call may raise them."""
    try:
        yield
    except RuntimeError as error:
        if not is_of_the_device(error) or is_out_of_memory(error):
            raise
        raise DeviceError(
            f"{device} failed: {error}\nIts process must be restarted: run the same command to continue. If it fails "
            "again on the same machine, the GPU or its driver is faulty (`nvidia-smi -q`, `dmesg`): use another."
        ) from error
