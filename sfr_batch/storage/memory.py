"""How much main memory this process may still take. Knows Linux: its machine, and the control group of a container."""

import os
import re
from pathlib import Path

from sfr_batch.storage.local_files import read_text_file

_CGROUPS = (
    ("memory.max", "memory.current", "inactive_file"),
    ("memory/memory.limit_in_bytes", "memory/memory.usage_in_bytes", "total_inactive_file"),
)
"""Version 2 and version 1: files with the limit and with what is taken, and what of it is a cache of files."""


def free_memory() -> int:
    """Bytes that are free on this machine, or in this container if it may take fewer."""
    return min([_free_on_machine(), *_free_in_container(Path("/sys/fs/cgroup"))])


def _free_on_machine() -> int:
    available = re.search(r"^MemAvailable:\s*(\d+)", read_text_file(Path("/proc/meminfo")) or "", re.MULTILINE)
    if available:
        return int(available[1]) * 1024
    return int(os.sysconf("SC_AVPHYS_PAGES") * os.sysconf("SC_PAGE_SIZE"))


def _free_in_container(folder: Path) -> list[int]:
    """What a limit leaves, in bytes; none without a limit."""
    for limit_file, taken_file, cached in _CGROUPS:
        limit, taken = (read_text_file(folder / name) or "" for name in (limit_file, taken_file))
        if limit.strip().isdigit() and taken.strip().isdigit():
            stat = read_text_file((folder / taken_file).with_name("memory.stat")) or ""
            unneeded = re.search(rf"^{cached} (\d+)$", stat, re.MULTILINE)
            return [max(0, int(limit) - int(taken) + (int(unneeded[1]) if unneeded else 0))]
    return []
