"""What the disk of a folder does, and what it could do: bytes and time of its block device, and its raw rates.

Reads /sys and /proc, so the first is known on Linux alone, and not of a folder in memory or in a container's overlay.
Knows no tables.
"""

import contextlib
import multiprocessing
import os
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path
from typing import NamedTuple

_SECTOR = 512
"""Bytes of a sector in /sys, whatever those of the disk are."""
_FILE_BYTES, _FILES, _BLOCK = 2**27, 4, 2**22
_WAITED = Path("/proc/pressure/io")


class Traffic(NamedTuple):
    """Bytes that the disk has read and written, and seconds in which it had something to do; of all processes.

    waited: seconds in which at least one process waited for a disk, whichever; None if the kernel does not tell.
    """

    read: int
    written: int
    busy: float
    waited: float | None

    def since(self, earlier: "Traffic") -> "Traffic":
        waited = None if self.waited is None or earlier.waited is None else self.waited - earlier.waited
        return Traffic(self.read - earlier.read, self.written - earlier.written, self.busy - earlier.busy, waited)


class Rates(NamedTuple):
    """Bytes a second of so many processes together, each with files of its own: written until they are safe, and read
    from the disk."""

    processes: int
    write: float
    read: float

    def at_most(self, other: "Rates") -> "Rates":
        """The lower ones of two measurements."""
        return Rates(self.processes, min(self.write, other.write), min(self.read, other.read))

    def seconds(self, traffic: Traffic) -> float:
        """What the disk alone takes for the same bytes."""
        return traffic.written / self.write + traffic.read / self.read


def look(folder: Path) -> Traffic | None:
    """What the disk of a folder has done since the machine was started; None if nothing is known of it."""
    device = os.stat(folder).st_dev
    try:
        fields = Path(f"/sys/dev/block/{os.major(device)}:{os.minor(device)}/stat").read_text().split()
    except OSError:
        return None
    return Traffic(int(fields[2]) * _SECTOR, int(fields[6]) * _SECTOR, int(fields[9]) / 1e3, _waited())


def _waited() -> float | None:
    with contextlib.suppress(OSError):
        some = _WAITED.read_text().splitlines()[0]
        return int(some.rpartition("total=")[2]) / 1e6
    return None


def raw_rates(folder: Path, processes: int) -> Rates:
    """Measure what so many processes can write and read, in files of 128 MiB, 512 MiB each."""
    fresh = multiprocessing.get_context("spawn")
    all_there = fresh.Barrier(processes).wait
    with tempfile.TemporaryDirectory(dir=folder) as place, ProcessPoolExecutor(processes, fresh, all_there) as pool:
        owns = [Path(place) / str(number) for number in range(processes)]
        list(pool.map(Path.mkdir, owns))  # starts the processes
        os.sync()
        total = processes * _FILES * _FILE_BYTES
        return Rates(processes, *(total / _seconds(pool, work, owns) for work in (_write, _read_again)))


def _seconds(pool: ProcessPoolExecutor, work: Callable[[Path], None], places: Sequence[Path]) -> float:
    started = time.perf_counter()
    list(pool.map(work, places))
    return time.perf_counter() - started


def _write(place: Path) -> None:
    block = os.urandom(_BLOCK)
    for number in range(_FILES):
        with (place / str(number)).open("wb", buffering=0) as file:
            for _ in range(_FILE_BYTES // _BLOCK):
                file.write(block)
            os.fsync(file.fileno())
            _forget(file.fileno())


def _read_again(place: Path) -> None:
    for path in place.iterdir():
        with path.open("rb", buffering=0) as file:
            _read(file.fileno())


def _read(handle: int) -> None:
    block = bytearray(_BLOCK)
    while os.readv(handle, [block]):
        pass


def _forget(handle: int) -> None:
    """Drop a file that is safe from the page cache."""
    if hasattr(os, "posix_fadvise"):
        os.posix_fadvise(handle, 0, 0, os.POSIX_FADV_DONTNEED)


def settle(folder: Path) -> None:
    """Have everything written that still waits for a disk, and the files below ``folder`` in the page cache, where they
    fit."""
    os.sync()
    for path in _files(folder):
        with path.open("rb", buffering=0) as file:
            _read(file.fileno())


def _files(folder: Path) -> Iterator[Path]:
    return (path for path in folder.rglob("*") if path.is_file())
