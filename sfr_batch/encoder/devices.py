"""The devices of this machine: which there are, what they can do, and how much memory is free. Knows no models."""

import gc
import platform
import re
import socket
from collections.abc import Mapping, Sequence
from pathlib import Path

import torch

from sfr_batch.encoder.faults import is_out_of_memory, of_the_device
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


def require_device(device: str, dtype: str) -> None:
    """Raises ConfigError if PyTorch cannot use this device here, or if its GPU cannot compute in a dtype; DeviceError
    if CUDA does not start on a GPU that is there.

    dtype: `ModelSettings.compute_dtype`. Reads no weights: it costs no more than the start of CUDA.
    """
    if device != "cuda":
        return
    if why := why_no_gpu():
        raise ConfigError(why)
    if torch.version.hip:  # its capabilities are numbered otherwise, and its 8-bit floats are others on some GPUs
        if dtype == "fp8":
            raise ConfigError("model.dtype is fp8, for which sfr-batch knows NVIDIA's GPUs only: set bfloat16.")
        return
    with of_the_device(torch.device(device)):
        capability = torch.cuda.get_device_capability()
    why = why_not(capability, torch.cuda.get_arch_list(), dtype)
    if why:
        name = f"{torch.cuda.get_device_name()} on node {socket.gethostname()}"
        raise ConfigError(f"model.device is cuda, but {why.format(gpu=name)}")


_NO_GPU = "model.device is cuda, but PyTorch sees no GPU here"
_ON_CPU = "set model.device=cpu and run.actors.gpus=0"


def why_no_gpu() -> str:
    """The message for a machine on which PyTorch sees no GPU; empty if it sees one."""
    if has_gpu():
        return ""
    if platform.system() == "Darwin":
        return f"{_NO_GPU}: there is no CUDA on a Mac. For small models, {_ON_CPU}."
    if torch.version.cuda is None and torch.version.hip is None:
        return f"{_NO_GPU}: it is a build for CPUs. Install a CUDA build of PyTorch on every node, or {_ON_CPU}."
    said = ""
    try:
        torch.cuda.init()
    except Exception as error:  # RuntimeError, but for what a broken driver may raise
        said = f" ({' '.join(str(error).split())[:300]})"
    return f"{_NO_GPU}{said}. Check its driver (`nvidia-smi`) and CUDA_VISIBLE_DEVICES, or {_ON_CPU}."


Capability = tuple[int, int]
"""Of a GPU of NVIDIA, such as (9, 0) for an H200."""
TENSOR_CORES: Mapping[str, Capability] = {"float32": (0, 0), "float16": (0, 0), "bfloat16": (8, 0), "fp8": (8, 9)}
"""The first capability whose units multiply matrices in a dtype. PyTorch emulates bfloat16 before, many times slower,
and has no kernels for fp8."""
FLASH: Capability = (8, 0)
"""The first capability that PyTorch's flash kernels know."""


def why_not(capability: Capability, built_for: Sequence[str], dtype: str) -> str:
    """Why a GPU cannot compute in a dtype, with {gpu} for its name; empty if it can.

    built_for: as torch.cuda.get_arch_list has it, such as sm_80 and compute_120; empty for a build that does not say.
    """
    told = f"{{gpu}} (compute capability {capability[0]}.{capability[1]})"
    if built_for and not any(_runs_on(architecture, capability) for architecture in built_for):
        return (
            f"PyTorch {torch.__version__} has no kernels for {told}, only for {' '.join(built_for)}. Install a build "
            "of PyTorch that has them (wheels for CUDA 12.6 still know Volta and Pascal), or use another GPU."
        )
    if capability < TENSOR_CORES[dtype]:
        other = "bfloat16" if capability >= TENSOR_CORES["bfloat16"] else "float16"
        return (
            f"{told} does not multiply in {dtype}: set model.dtype={other}, whose vectors are others, in a table of "
            f"its own, or use a GPU of compute capability {'.'.join(map(str, TENSOR_CORES[dtype]))} or later."
        )
    return ""


def multiplies_in(dtype: str) -> bool:
    """Whether the GPU of this process, one of NVIDIA, has units for matrices of a dtype."""
    return not torch.version.hip and torch.cuda.get_device_capability() >= TENSOR_CORES[dtype]


def _runs_on(architecture: str, capability: Capability) -> bool:
    """Whether kernels for an architecture run: those of the same major number, and the intermediate form (PTX) of any
    earlier one, which the driver compiles. With an `a` they are for one architecture alone."""
    found = re.fullmatch(r"(sm|compute)_(\d+)(\d)([af]?)", architecture)
    if not found:
        return False
    own = int(found[2]), int(found[3])
    if found[4] == "a":
        return own == capability
    same = own[0] == capability[0] or (found[1] == "compute" and not found[4])
    return same and own <= capability


def has_flash(device: torch.device) -> bool:
    """Whether a device is a GPU for which PyTorch has flash attention in 16 bits, for rows of all lengths too. Of AMD's
    GPUs it is not known which do."""
    if device.type != "cuda" or torch.version.hip or not torch.backends.cuda.is_flash_attention_available():
        return False
    return bool(torch.cuda.get_device_capability(device) >= FLASH)


def take_share(device: str, share: float) -> None:
    """Leave the rest of a GPU's memory to other processes on it.

    A batch that would take more is then too large for this process, and made smaller, before it is for another one.
    Does nothing where others have left no room for CUDA itself.
    """
    if device == "cuda" and share < 1 and free_memory(device) > 0:
        torch.cuda.set_per_process_memory_fraction(share)


def free_memory(device: str) -> int:
    """Bytes of a device, cuda or cpu, that are free for another model or batch; of a GPU in this process' share."""
    if device == "cuda":
        try:
            free, total = torch.cuda.mem_get_info()
        except RuntimeError as error:
            if not is_out_of_memory(error):
                raise
            return 0  # others have left no room for CUDA itself
        used = torch.cuda.memory_allocated()
        share = int(torch.cuda.get_per_process_memory_fraction() * total)
        return int(min(free + torch.cuda.memory_reserved() - used, share - used))
    return memory.free_memory()


def taken_by_others(device: str) -> int:
    """Bytes of a GPU that other processes have, half a GiB of CUDA's own for this process included; 0 if unknown, and
    for a CPU."""
    if device != "cuda":
        return 0
    try:
        free, total = torch.cuda.mem_get_info()
    except RuntimeError:
        return 0
    return max(0, int(total - free - torch.cuda.memory_reserved()))


def has_bfloat16() -> bool | None:
    """Whether this CPU has instructions for matrix products in bfloat16; None if unknown."""
    flags = re.search(r"^(flags|Features)\s*:(.*)$", read_text_file(Path("/proc/cpuinfo")) or "", re.MULTILINE)
    return bool({"avx512_bf16", "amx_bf16", "bf16"} & set(flags[2].split())) if flags else None


def release_memory() -> None:
    """Free the memory of models that nothing refers to any more."""
    gc.collect()
    if torch.cuda.is_available():
        torch.cuda.empty_cache()
