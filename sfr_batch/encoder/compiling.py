"""Kernels that are compiled on the machine where the model runs, and what that machine may lack for it."""

import contextlib
import socket
from collections.abc import Iterator

from sfr_batch.encoder.faults import is_of_the_device, is_out_of_memory
from sfr_batch.errors import ConfigError


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
