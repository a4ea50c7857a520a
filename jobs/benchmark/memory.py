"""Makes free memory ready before something is measured.

A virtual machine may give free memory back to its host after some seconds ("free page reporting"). Whoever uses it next
waits for the host: 2.4 s a GB on one such machine, where it is 0.05 s otherwise. Whether that falls into the seconds
that are measured depends on what was done before them.
"""

import mmap
import time

import numpy as np

from sfr_batch.storage.memory import free_memory


def make_ready(size: int) -> float:
    """Take ``size`` bytes of free memory, use them and let them go; at most half of what is free. Processes and the
    page cache get them first then. Returns the seconds that it took a GB."""
    started = time.perf_counter()
    taken = np.zeros(min(size, free_memory() // 2), np.uint8)
    taken[:: mmap.PAGESIZE] = 1
    return (time.perf_counter() - started) / taken.nbytes * 1e9
