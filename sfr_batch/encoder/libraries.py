"""Loads the libraries of an encoder, PyTorch and transformers: most of the start of a process. Knows no model."""

import gc


def load_libraries() -> None:
    """Import the encoder with all that it needs, some 3,000 modules, if this process has not done so.

    Garbage is not looked for meanwhile. There is none, and looking through all that is loaded by then, again and again,
    would be a sixth of the time.
    """
    looks = gc.isenabled()
    gc.disable()
    try:
        import sfr_batch.encoder.encoder  # noqa: F401
    finally:
        if looks:
            gc.enable()
