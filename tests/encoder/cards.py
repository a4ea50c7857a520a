"""GPUs that are not here: what PyTorch would say of one is planted, and what is asked of it is what a run asks.

The property that they give: a process never has more of a card's memory than the share that it has taken. No kernel
runs on them.
"""

import pytest
import torch

from sfr_batch.encoder import devices, loading, segments

GIB = 2**30
CUDA_12 = ["sm_50", "sm_60", "sm_70", "sm_75", "sm_80", "sm_86", "sm_90"]
CUDA_13 = ["sm_75", "sm_80", "sm_86", "sm_90", "sm_100", "sm_120", "compute_120"]
"""Architectures that builds of PyTorch have kernels for."""


def plant_gpu(
    patched: pytest.MonkeyPatch,
    capability: devices.Capability = (8, 9),
    built_for: list[str] = CUDA_13,
    name: str = "L4",
    *,
    total: float = 24.0,
    used: float = 0.5,
) -> None:
    """A card on node gpu-7. total: its memory in GiB; used: by other processes and CUDA itself."""
    shares = [1.0]

    def set_share(fraction: float) -> None:
        if not isinstance(fraction, float):
            raise TypeError("Invalid type for fraction argument, must be `float`")  # as PyTorch does
        shares.append(fraction)

    patched.setattr(torch.cuda, "is_available", lambda: True)
    patched.setattr(torch.cuda, "get_device_capability", lambda *_: capability)
    patched.setattr(torch.cuda, "get_arch_list", lambda: built_for)
    patched.setattr(torch.cuda, "get_device_name", lambda: name)
    patched.setattr(torch.cuda, "mem_get_info", lambda: (int((total - used) * GIB), int(total * GIB)))
    patched.setattr(torch.cuda, "memory_reserved", lambda: 0)
    patched.setattr(torch.cuda, "memory_allocated", lambda: 0)
    patched.setattr(torch.cuda, "set_per_process_memory_fraction", set_share)
    patched.setattr(torch.cuda, "get_per_process_memory_fraction", lambda: shares[-1])
    patched.setattr(torch.backends.cuda, "is_flash_attention_available", lambda: True)
    patched.setattr(loading, "check_kernel", lambda device: None)
    patched.setattr(segments, "let_grow", lambda device: "")
    patched.setattr(devices.socket, "gethostname", lambda: "gpu-7")
