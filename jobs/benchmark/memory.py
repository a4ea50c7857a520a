"""Makes free memory ready before something is measured.

A virtual machine may give free memory back to its host after some seconds ("free page reporting"). Whoever uses it next
waits for the host: 2.4 s a GB on one such machine, where it is 0.05 s otherwise. Whether that falls into the seconds
that are measured depends on what was done before them.
"""

import mmap

import numpy as np

from sfr_batch.storage.memory import free_memory


def make_ready(size: int) -> None:
    """Take ``size`` bytes of free memory, of all processes' and the page cache's, use them and let them go; at most
    half of what is free."""
    taken = np.zeros(min(size, free_memory() // 2), np.uint8)
    taken[:: mmap.PAGESIZE] = 1
