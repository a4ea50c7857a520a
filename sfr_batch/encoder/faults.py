"""What an exception in a forward pass says: of memory, of the device, or perhaps of a row."""

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
    """PyTorch has a type for it, which not every backend uses."""
    return isinstance(error, torch.OutOfMemoryError) or "out of memory" in str(error).lower()


def is_of_the_device(error: BaseException) -> bool:
    """Whether the device failed, which no row is to blame for. After such an error its context is mostly lost, and
    everything that is tried on it fails."""
    known = getattr(torch, "AcceleratorError", None)
    if isinstance(error, DeviceError) or (known is not None and isinstance(error, known)):
        return True
    text = str(error).lower()
    return isinstance(error, RuntimeError) and any(name in text for name in _OF_THE_DEVICE)


@contextlib.contextmanager
def of_the_device(device: torch.device) -> Iterator[None]:
    """Turn such errors into DeviceError. Kernels run behind the program's back: they may come with any call."""
    try:
        yield
    except RuntimeError as error:
        if not is_of_the_device(error) or is_out_of_memory(error):
            raise
        raise DeviceError(
            f"{device} failed: {error}\nIts process must be restarted: run the same command to continue. If it fails "
            "again on the same machine, the GPU or its driver is faulty (`nvidia-smi -q`, `dmesg`): use another."
        ) from error
