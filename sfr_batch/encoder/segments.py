"""How PyTorch takes the memory of a GPU: in segments that grow, where the card and its driver let it. Knows no models.

Batches have many sizes, which fragment memory in segments of fixed sizes. Growing ones need CUDA's virtual memory,
which some slices of a vGPU, Jetson and WSL2 refuse, at the first allocation and with the error of a broken driver.
"""

import functools
import os

import torch

from sfr_batch.encoder.faults import is_out_of_memory

_GROWING = "expandable_segments"
_TRIED = 2 * 2**20
"""Bytes that are asked for, to see whether there are any."""
_VARIABLES = ("PYTORCH_ALLOC_CONF", "PYTORCH_CUDA_ALLOC_CONF")


@functools.cache
def let_grow(device: str) -> str:
    """Have this process take the memory of a device, cuda or cpu, in segments that grow, unless somebody has set how.

    Returns a remark if the card refuses them and segments of fixed sizes are used instead; empty otherwise. Raises
    RuntimeError if it gives no memory in either way, and not because it is full. Asked once in a process.
    """
    if device != "cuda":
        return ""
    own = next((os.environ[name] for name in _VARIABLES if os.environ.get(name)), "")
    if not own:
        _set(f"{_GROWING}:True")
    elif _GROWING not in own:
        return ""
    refusal = _refusal()
    if refusal is None:
        return ""
    _set(f"{own},{_GROWING}:False".lstrip(","))
    if error := _refusal():
        if is_out_of_memory(error):  # which whoever loads a model says better
            return ""
        raise error
    said = " ".join(str(refusal).split())[:200]
    return (
        f"the GPU gives no memory in segments that grow ({said}), so they have fixed sizes, which wastes a little of it"
    )


def _refusal() -> RuntimeError | None:
    """Why the GPU gives no memory; None if it does."""
    try:
        _allocate()
    except RuntimeError as error:
        return error
    return None


def _allocate() -> None:
    torch.empty(_TRIED, dtype=torch.uint8, device="cuda")


def _set(settings: str) -> None:
    # Has no other name: torch.cuda.memory._set_allocator_settings calls it, and warns that it is deprecated.
    torch._C._accelerator_setAllocatorSettings(settings)
