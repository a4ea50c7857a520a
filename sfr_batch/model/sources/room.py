"""Room for models on this node: the cache folder, and whether a model fits on its disk or into a device."""

import os
import socket
from pathlib import Path

from sfr_batch.errors import ConfigError, ModelError
from sfr_batch.storage.locations import is_s3, local_path


def cache_folder() -> Path:
    """The folder for whatever can be fetched or computed again; one for each user."""
    return Path(os.environ.get("XDG_CACHE_HOME") or "~/.cache").expanduser() / "sfr-batch"


def chosen_cache(cache_dir: str) -> Path:
    """The folder that `model.cache_dir` names. Raises ConfigError if it is none on this machine."""
    try:
        if is_s3(cache_dir):
            raise ConfigError(f"{cache_dir} is not a folder of this machine. Write a local path.")
        return Path(local_path(cache_dir))
    except ConfigError as error:
        raise ConfigError(f"model.cache_dir: {error}") from None


def gib(count: int) -> str:
    """A number of bytes for messages, in GiB if it is large."""
    return f"{count / 2**30:,.1f} GiB" if count >= 2**30 // 10 else f"{count:,} bytes"


def check_disk(folder: Path, needed: int, free: int, what: str) -> None:
    """Raises ModelError if ``needed`` bytes of ``what`` do not fit into ``folder``, whose disk has ``free``."""
    if needed > free:
        raise ModelError(
            f"{folder} on node {socket.gethostname()} has too little space for {what}: {gib(needed)} needed, "
            f"{gib(free)} free. Free some space, or set model.cache_dir to a larger disk."
        )


_MANY_BYTES = 2**31
"""Bytes of other processes that are worth a word; CUDA itself takes half a GiB for each process."""
BESIDE_WEIGHTS = 2**29
"""Bytes of a GPU that kernels, the workspaces of cuBLAS and a small batch take beside a model."""


def check_device(needed: int, free: int, device: str) -> None:
    """Raises ModelError if a model of ``needed`` bytes, and what computes with it, do not fit into ``free`` bytes of a
    device."""
    if needed > free:
        raise ModelError(no_room_on(device, needed, free))
    if needed + BESIDE_WEIGHTS > free:
        raise ModelError(no_room_beside_the_model(device, free - needed))


def no_room_on(device: str, needed: int, free: int) -> str:
    """The message for a device that is too small."""
    return (
        f"The model does not fit into the memory of {device} on node {socket.gethostname()}: its weights need "
        f"{gib(needed)}, {gib(free)} free. {_MORE_ROOM}"
    )


def no_room_beside_the_model(device: str, free: int) -> str:
    """The message for a device that the weights fill."""
    return (
        f"The model fits into the memory of {device} on node {socket.gethostname()}, but not the smallest batch beside "
        f"it: {gib(free)} free. {_MORE_ROOM}"
    )


def no_room_for_row(device: str, tokens: int, others: int) -> str:
    """The message for a device without room for a row of so many tokens. others: bytes that other processes have."""
    row = f"One row of {tokens} tokens does not fit into the memory of {device}"
    if others < _MANY_BYTES:
        return f"{row}. Lower model.max_length, use a smaller model.dtype, or a device with more memory."
    return (
        f"{row} on node {socket.gethostname()}, of which other processes have {gib(others)}. Stop them (nvidia-smi "
        "lists them), let fewer actors share it (run.actors.gpus=1), or lower model.max_length."
    )


def no_room_any_more(device: str, tokens: int) -> str:
    """The message for a device that had room for a row of so many tokens, and has it no longer."""
    return (
        f"The memory of {device} on node {socket.gethostname()} has become too small: one row of {tokens} tokens does "
        "not fit any more, although such rows did before. Stop other processes on it (nvidia-smi lists them), and run "
        "the same command to continue."
    )


def no_room_to_read(folder: str, free: int) -> str:
    """The message for a node whose own memory is too small for the weights of a folder, whatever the device."""
    return (
        f"The memory of node {socket.gethostname()} is too small to read the weights of {folder}: {gib(free)} free. "
        "Take a node with more memory, or let fewer actors share it (raise run.actors.cpus)."
    )


_MORE_ROOM = (
    "Use a device with more memory or a smaller model.dtype, let fewer actors share it (run.actors.gpus=1), or stop "
    "other processes on it (nvidia-smi lists them)."
)
