"""The devices of this machine: which there are, what they can do, and how much memory is free. Knows no models."""

import gc
import platform
import re
from pathlib import Path

import torch

from sfr_batch.errors import ConfigError
from sfr_batch.storage import memory
from sfr_batch.storage.local_files import read_text_file


def has_gpu() -> bool:
    """Whether PyTorch is a CUDA build and a driver answers."""
    return bool(torch.cuda.is_available())


def count_gpus() -> int:
    """GPUs that PyTorch sees; 0 without a CUDA build or a driver."""
    return int(torch.cuda.device_count())


def kind_of(device: str) -> str:
    """What a device is, cuda or cpu: the name that its maker gives it."""
    if device == "cuda":
        return str(torch.cuda.get_device_name())
    named = re.search(r"^model name\s*:\s*(.*)$", read_text_file(Path("/proc/cpuinfo")) or "", re.MULTILINE)
    return named[1].strip() if named else platform.machine()


def require_device(device: str) -> None:
    """Raises ConfigError if PyTorch cannot use this device here."""
    if device == "cuda" and not torch.cuda.is_available():
        raise ConfigError(
            "model.device is cuda, but PyTorch sees no GPU here. Set model.device=cpu and run.actors.gpus=0, or "
            "check the driver and that PyTorch is a CUDA build."
        )


def free_memory(device: str) -> int:
    """Bytes of a device, cuda or cpu, that are free for another model or batch."""
    if device == "cuda":
        unused = torch.cuda.memory_reserved() - torch.cuda.memory_allocated()
        return int(torch.cuda.mem_get_info()[0] + unused)
    return memory.free_memory()


def has_bfloat16() -> bool | None:
    """Whether this CPU has instructions for matrix products in bfloat16; None if unknown."""
    flags = re.search(r"^(flags|Features)\s*:(.*)$", read_text_file(Path("/proc/cpuinfo")) or "", re.MULTILINE)
    return bool({"avx512_bf16", "amx_bf16", "bf16"} & set(flags[2].split())) if flags else None


def release_memory() -> None:
    """Free the memory of models that nothing refers to any more."""
    gc.collect()
    if torch.cuda.is_available():
        torch.cuda.empty_cache()
