"""Run a command and measure it from outside: wall time, and CPU time and memory of all the processes that it starts.

Reads /proc, so CPU and memory are known on Linux alone. Knows nothing of what the commands do.
"""

import contextlib
import os
import re
import signal
import subprocess
import threading
import time
from abc import ABC, abstractmethod
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple, Self

import numpy as np

from sfr_batch.errors import RunFailed

_PROC = Path("/proc")
_SAMPLE_EVERY_S = 0.25
_LOOK_EVERY_S = 1.0  # adding up a process's pages takes the kernel some milliseconds
_SHOWN_LINES = 15


@dataclass(frozen=True)
class Usage:
    """What a command took. CPU time and memory are of the process tree, sampled four times a second."""

    seconds: float
    cpu_seconds: float | None
    peak_bytes: int | None
    """Sum of resident memory at its highest; pages that processes share count once for each of them."""
    samples: Sequence[tuple[float, float]] = ()
    """Seconds since the epoch, and CPU seconds until then."""

    def cpu_between(self, first: float, last: float) -> float | None:
        """CPU seconds between two times since the epoch; None where they are not known."""
        if not self.samples or not self.samples[0][0] <= first < last:
            return None
        times, spent = np.array(self.samples).T
        before, after = np.interp([first, last], times, spent)
        return float(after - before)


def run(command: Sequence[str], log: Path, environment: Mapping[str, str], timeout_s: float) -> Usage:
    """Run ``command`` to its end, its output into ``log``. Raises RunFailed with the last lines of it."""
    started = time.perf_counter()
    with log.open("wb") as output:
        process = subprocess.Popen(command, stdout=output, stderr=subprocess.STDOUT, env={**os.environ, **environment})
    sampler = Sampler(process.pid)
    try:
        with sampler:
            code = process.wait(timeout_s)
    except subprocess.TimeoutExpired:
        raise RunFailed(f"No end after {timeout_s:,.0f} s: {' '.join(command)}\n{_tail(log)}") from None
    finally:
        if process.poll() is None:
            process.terminate()
            process.wait()
    seconds = time.perf_counter() - started
    if code:
        raise RunFailed(f"Exit code {code} of: {' '.join(command)}\n{_tail(log)}")
    return Usage(seconds, sampler.cpu_seconds, sampler.peak_bytes, tuple(sampler.samples))


def _tail(log: Path) -> str:
    lines = log.read_text(encoding="utf-8", errors="replace").splitlines()
    return "\n".join("  " + line for line in lines[-_SHOWN_LINES:])


class Memory(NamedTuple):
    """Bytes that the processes of a run hold, by role. Pages that processes share count once, in shares (PSS)."""

    driver: int
    """The process that was started, and what it starts that is not Ray's."""
    workers: int
    """Ray's workers: readers, writers and encode actors."""
    ray: int
    """Ray's own processes."""
    object_store: int
    """Shared memory of all of them; what the store has once used, it keeps."""


class Lookout(ABC):
    """Looks at something again and again, in a thread, until it is closed; not at all without /proc. A context
    manager."""

    def __init__(self, every_s: float) -> None:
        self._every_s = every_s
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._watch, daemon=True)

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        self._thread.join()

    @abstractmethod
    def note(self) -> None:
        """Look once."""

    def _watch(self) -> None:
        while _PROC.is_dir() and not self._stop.is_set():
            self.note()
            self._stop.wait(self._every_s)


class Watch(Lookout):
    """Looks once a second, or every ``every_s`` seconds, at what the children of this process hold."""

    def __init__(self, every_s: float | None = None) -> None:
        super().__init__(every_s or _LOOK_EVERY_S)
        self.samples: list[tuple[float, Memory]] = []
        """Seconds since the epoch, and what was held then."""
        self.store_capacity: int | None = None
        """Bytes of the object store that a raylet among them was started with."""

    def note(self) -> None:
        """Look once: what is held, by role."""
        held = dict.fromkeys(Memory._fields, 0)
        for process in _tree(os.getpid())[1:]:
            title = _title(process.pid)
            role = role_of(title)
            own, shared = _proportional(process.pid)
            held[role] += own
            held["object_store"] += shared
            if capacity := re.search(rb"--object_store_memory=(\d+)", title):
                self.store_capacity = int(capacity[1])
        if held["driver"]:
            self.samples.append((time.time(), Memory(**held)))


def role_of(title: bytes) -> str:
    """The field of `Memory` that a process counts for, by its command line: Ray names its workers so."""
    if title.startswith(b"ray::"):
        return "ray" if title.startswith((b"ray::DashboardAgent", b"ray::RuntimeEnvAgent")) else "workers"
    return "ray" if re.search(rb"/ray/(core|_private|dashboard|autoscaler|util)/", title) else "driver"


def _title(pid: int) -> bytes:
    try:
        return (_PROC / str(pid) / "cmdline").read_bytes()
    except OSError:
        return b""


def _proportional(pid: int) -> tuple[int, int]:
    """Bytes of a process's own and file-backed pages, and of shared memory; both by its share of each page."""
    try:
        lines = (_PROC / str(pid) / "smaps_rollup").read_text().splitlines()
    except OSError:
        return 0, 0  # ended since it was listed
    sizes = {line.split(":")[0]: int(line.split()[1]) * 1024 for line in lines if line.startswith("Pss")}
    return sizes.get("Pss_Anon", 0) + sizes.get("Pss_File", 0), sizes.get("Pss_Shmem", 0)


class Sampler(Lookout):
    """Looks at a process and its descendants, four times a second."""

    def __init__(self, pid: int) -> None:
        super().__init__(_SAMPLE_EVERY_S)
        self._root = pid
        self.samples: list[tuple[float, float]] = []
        """Seconds since the epoch, and CPU seconds until then."""
        self._cpu: dict[int, float] = {}
        self._peak = 0

    def look(self) -> float:
        """CPU seconds of all of them until now."""
        tree = _tree(self._root)
        self._peak = max(self._peak, sum(process.rss for process in tree))
        for process in tree:
            self._cpu[process.pid] = max(process.cpu_seconds, self._cpu.get(process.pid, 0.0))
        return sum(list(self._cpu.values()))

    @property
    def cpu_seconds(self) -> float | None:
        return sum(self._cpu.values()) if self._cpu else None

    @property
    def peak_bytes(self) -> int | None:
        return self._peak or None

    def note(self) -> None:
        self.samples.append((time.time(), self.look()))


@contextlib.contextmanager
def stopped(pids: Iterable[int]) -> Iterator[None]:
    """Meanwhile these processes and all their descendants do nothing, not even what Ray's own do while it is idle."""
    tree = [process.pid for pid in pids for process in _tree(pid)]
    _signal(tree, signal.SIGSTOP)
    try:
        yield
    finally:
        _signal(tree, signal.SIGCONT)


def _signal(pids: Iterable[int], number: signal.Signals) -> None:
    for pid in pids:
        with contextlib.suppress(ProcessLookupError):  # ended since it was listed
            os.kill(pid, number)


def machine_cpu_seconds() -> float | None:
    """CPU seconds of everything on this machine since it was started, and those that its host gave to others; None
    without /proc."""
    try:
        spent = (_PROC / "stat").read_text().split("\n", 1)[0].split()[1:]
    except OSError:
        return None
    user, nice, system, _idle, _waiting, hard, soft, stolen = map(int, spent[:8])
    return (user + nice + system + hard + soft + stolen) / os.sysconf("SC_CLK_TCK")


@dataclass(frozen=True, slots=True)
class _Process:
    pid: int
    parent: int
    cpu_seconds: float
    rss: int


def _tree(root: int) -> list[_Process]:
    """The process and all its descendants that there are now."""
    children: dict[int, list[_Process]] = {}
    processes = [process for entry in os.listdir(_PROC) if entry.isdigit() and (process := _read(int(entry)))]
    for process in processes:
        children.setdefault(process.parent, []).append(process)
    tree = [process for process in processes if process.pid == root]
    for process in tree:  # grows while it is walked
        tree += children.get(process.pid, [])
    return tree


def _read(pid: int) -> _Process | None:
    try:
        # The name in parentheses may hold spaces and parentheses itself; numbers follow the last one.
        fields = (_PROC / str(pid) / "stat").read_text(errors="replace").rpartition(") ")[2].split()
    except OSError:
        return None  # ended since it was listed
    ticks, pages = os.sysconf("SC_CLK_TCK"), os.sysconf("SC_PAGE_SIZE")
    return _Process(pid, int(fields[1]), (int(fields[11]) + int(fields[12])) / ticks, int(fields[21]) * pages)
