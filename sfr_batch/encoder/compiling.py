"""Kernels that are compiled on the machine where the model runs, and what that machine may lack for it."""

import contextlib
import inspect
import socket
from collections.abc import Iterator
from typing import Any

import torch

from sfr_batch.encoder.faults import is_of_the_device, is_out_of_memory
from sfr_batch.errors import ConfigError

_MOST_GRAPHS = 32
"""Compilations of one module. PyTorch's 8 are too few: it knows no symbol for 1, so that rows and tokens, of one and of
several, in two to four dimensions, are graphs of their own; what comes beyond the limit is not compiled any more."""


def for_all_shapes() -> dict[str, Any]:
    """Options of torch.compile for a module that batches of all shapes go through."""
    if "recompile_limit" in inspect.signature(torch.compile).parameters:
        return {"dynamic": True, "recompile_limit": _MOST_GRAPHS}
    from torch._dynamo import config  # takes a second, and is needed by PyTorch 2.11 alone

    config.recompile_limit = max(config.recompile_limit, _MOST_GRAPHS)  # of the whole process
    return {"dynamic": True}


@contextlib.contextmanager
def compiling(setting: str, way_out: str) -> Iterator[None]:
    """Turns what a compilation inside raises into ConfigError: PyTorch builds the launchers of its kernels in C.

    setting: what asks for kernels. way_out: what to set instead.
    """
    try:
        yield
    except Exception as error:
        if is_out_of_memory(error) or is_of_the_device(error):
            raise
        said = " ".join(str(error).split())[:300]
        raise ConfigError(
            f"{setting} has PyTorch compile kernels when the model is loaded, which fails on node "
            f"{socket.gethostname()}: {type(error).__name__}: {said}. Install a C and C++ compiler and the headers of "
            f"Python (on Debian and Ubuntu: gcc, g++ and python3-dev) on every node, or {way_out}."
        ) from error
