"""Loads the libraries of an encoder, PyTorch and transformers: most of the start of a process. Knows no model."""

import gc
import time

_took = 0.0


def load_libraries() -> float:
    """Import the encoder with all that it needs, some 3,000 modules, if this process has not done so. Returns the
    seconds that this took, or has taken before.

    Garbage is not looked for meanwhile. There is none, and looking through all that is loaded by then, again and again,
    would be a sixth of the time.
    """
    global _took
    looks, began = gc.isenabled(), time.perf_counter()
    gc.disable()
    try:
        import sfr_batch.encoder.encoder  # noqa: F401
    finally:
        if looks:
            gc.enable()
    _took = max(_took, time.perf_counter() - began)
    return _took
