"""Tells the causes of exceptions in a forward pass apart: too little memory, the device, or perhaps a row."""

import contextlib
from collections.abc import Iterator

import torch

from sfr_batch.errors import DeviceError

_OF_THE_DEVICE = (
    "cuda error",
    "cublas",
    "cudnn",
    "cuda driver",
    "nccl",
    "hip error",
    "device-side assert",
    "ecc error",
)


def is_out_of_memory(error: BaseException) -> bool:
    """Whether the device had too little memory. PyTorch has a type for it, which not every backend uses."""
    return isinstance(error, torch.OutOfMemoryError) or "out of memory" in str(error).lower()


def is_of_the_device(error: BaseException) -> bool:
    """Whether the device failed, which no row can cause. After such an error its context is usually lost, and every
    further call fails."""
    known = getattr(torch, "AcceleratorError", None)
    if isinstance(error, DeviceError) or (known is not None and isinstance(error, known)):
        return True
    text = str(error).lower()
    return isinstance(error, RuntimeError) and any(name in text for name in _OF_THE_DEVICE)


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
