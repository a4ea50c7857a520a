"""The standard descriptors of this process: 0, 1 and 2. Knows nothing of what is written to them.

A process may be started without them (`2>&-`, some daemons) or lose what is behind them. Imports only the standard
library: entry points call this first.
"""

import os
from typing import TextIO


def fill_standard_descriptors() -> None:
    """Give closed standard descriptors to the null device, for this process and its children.

    Else the next file that is opened gets their numbers, and what a library in C prints on its stderr ends up in a data
    file.
    """
    while (number := os.open(os.devnull, os.O_RDWR)) <= 2:
        os.set_inheritable(number, True)
    os.close(number)


def text_stream(number: int) -> TextIO:
    """A stream that writes text to a standard descriptor and leaves it open."""
    return open(number, "w", encoding="utf-8", errors="backslashreplace", buffering=1, closefd=False)


def discard(number: int) -> None:
    """Send what is written to a standard descriptor to the null device from now on."""
    null = os.open(os.devnull, os.O_WRONLY)
    os.dup2(null, number)
    os.close(null)
