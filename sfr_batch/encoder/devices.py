"""Which GPUs PyTorch sees on this machine. Loads nothing of a model."""

import torch


def has_gpu() -> bool:
    """Whether PyTorch is a CUDA build and a driver answers."""
    return bool(torch.cuda.is_available())


def count_gpus() -> int:
    """GPUs that PyTorch sees; 0 without a CUDA build or a driver."""
    return int(torch.cuda.device_count())
