"""Reports what very many splits cost to plan and to drive; runs `planning` and `driver` as processes.

A split takes seconds to a minute of device time, so a million splits is a very large run: a small cost that is
proportional to the number of splits does not matter.
"""

import json
import os
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from jobs.benchmark import processes
from sfr_batch.config.settings import ModelSettings
from sfr_batch.errors import ConfigError
from sfr_batch.model.sources.location import locate

LINEAR_WITHIN = 1.5
"""How much dearer a split may be in the largest plan than in the smallest one for the growth to be called linear."""
_TIMEOUT_S = 3600.0
_SMALL_RUN = 50


@dataclass(frozen=True)
class Planning:
    """One planned run: seconds of each step, and peak memory of the process."""

    splits: int
    seconds: dict[str, float]
    before_bytes: int | None
    peak_bytes: int | None

    @property
    def microseconds_a_split(self) -> float:
        return sum(self.seconds.values()) / self.splits * 1e6

    @property
    def bytes_a_split(self) -> float | None:
        """Memory per split, beyond what the process had before it planned."""
        if self.peak_bytes is None or self.before_bytes is None:
            return None
        return (self.peak_bytes - self.before_bytes) / self.splits


@dataclass(frozen=True)
class Driving:
    """CPU of the driver's process for a run of ``splits`` splits, and of a small one, which is mostly start-up."""

    address: str
    splits: int
    small_splits: int
    seconds: float
    small_seconds: float
    cpu_seconds: float
    small_cpu_seconds: float

    @property
    def cpu_milliseconds_a_split(self) -> float:
        """What one more split costs the driver."""
        return (self.cpu_seconds - self.small_cpu_seconds) / (self.splits - self.small_splits) * 1e3

    @property
    def milliseconds_a_split(self) -> float:
        """Wall time of one more split, on this machine, with an encoder that takes none."""
        return (self.seconds - self.small_seconds) / (self.splits - self.small_splits) * 1e3


def plan_sizes(sizes: Sequence[int], model: str, folder: Path, say: Callable[[str], None]) -> list[Planning]:
    """Plan each number of splits in a process of its own. Raises RunFailed."""
    found = []
    for splits in sizes:
        raw = run_module("planning", [str(splits), model_folder(model)], folder)
        found.append(Planning(raw["splits"], raw["seconds"], raw["before_bytes"], raw["peak_bytes"]))
        say(f"Planned {splits:,} splits in {sum(found[-1].seconds.values()):.1f} s")
    return found


def drive(splits: int, addresses: Sequence[str], model: str, folder: Path, say: Callable[[str], None]) -> list[Driving]:
    """Run ``splits`` splits of a few rows with an encoder that costs nothing. Raises ConfigError, RunFailed."""
    if splits < 2 * _SMALL_RUN:
        raise ConfigError(
            f"Too few splits to measure the cost of one more: {splits}. Give 0 to skip this part, or at least "
            f"{2 * _SMALL_RUN:,}."
        )
    found = []
    for address in addresses:
        small, large = (
            run_module("driver", [address, str(size), model_folder(model)], folder) for size in (_SMALL_RUN, splits)
        )
        done = Driving(
            address=address,
            splits=large["splits"],
            small_splits=small["splits"],
            seconds=large["seconds"],
            small_seconds=small["seconds"],
            cpu_seconds=large["driver_cpu_seconds"],
            small_cpu_seconds=small["driver_cpu_seconds"],
        )
        found.append(done)
        say(f"Drove {done.splits:,} splits in {done.seconds:.1f} s, run.ray_address={address}")
    return found


def is_linear(found: Sequence[Planning]) -> bool:
    """Whether a split of the largest plan takes no more than LINEAR_WITHIN times one of the smallest."""
    first, last = (min(found, key=lambda p: p.splits), max(found, key=lambda p: p.splits))
    return last.microseconds_a_split <= LINEAR_WITHIN * first.microseconds_a_split


def table(found: Sequence[Planning], driven: Sequence[Driving]) -> str:
    """Both results as text tables."""
    steps = list(found[0].seconds) if found else []
    lines = []
    if found:
        head = ["splits", *(f"{step} s" for step in steps), "us/split", "peak MiB", "bytes/split"]
        rows = [
            [
                f"{p.splits:,}",
                *(f"{p.seconds[step]:,.2f}" for step in steps),
                f"{p.microseconds_a_split:,.1f}",
                "–" if p.peak_bytes is None else f"{p.peak_bytes / 2**20:,.0f}",
                "–" if p.bytes_a_split is None else f"{p.bytes_a_split:,.0f}",
            ]
            for p in found
        ]
        lines += ["Planning, on a listing and footers that are a stand-in", *aligned([head, *rows])]
        if len(found) > 1:
            word = "linear" if is_linear(found) else f"NOT linear within a factor of {LINEAR_WITHIN}"
            lines.append(f"Time for each split is {word} from {found[0].splits:,} to {found[-1].splits:,} splits.")
    if driven:
        head = ["run.ray_address", "splits", "driver CPU ms/split", "wall ms/split", "of it start-up s"]
        rows = [
            [
                d.address,
                f"{d.splits:,}",
                f"{d.cpu_milliseconds_a_split:.1f}",
                f"{d.milliseconds_a_split:.1f}",
                f"{d.small_seconds:.1f}",
            ]
            for d in driven
        ]
        lines += ["", "Driving, with an encoder that costs nothing", *aligned([head, *rows])]
    return "\n".join(lines)


def aligned(rows: Sequence[Sequence[str]]) -> list[str]:
    """Lines of cells, right-aligned in columns."""
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    return ["  ".join(cell.rjust(width) for cell, width in zip(row, widths, strict=True)) for row in rows]


def model_folder(path: str) -> str:
    """Where the model lies that a folder or package:name/folder names."""
    return str(locate(ModelSettings(path=path, device="cpu"), weights=True))


def run_module(
    module: str, arguments: Sequence[str], folder: Path, environment: Mapping[str, str] | None = None
) -> dict[str, Any]:
    """The JSON object that a module of this package prints, run as a process of its own. Raises RunFailed.

    environment: variables that it has besides those of this process.
    """
    command = [sys.executable, "-m", f"jobs.benchmark.{module}", *arguments]
    log = folder / "log.txt"
    paths = [str(Path(__file__).parents[2]), *filter(None, [os.environ.get("PYTHONPATH")])]
    processes.run(command, log, {"PYTHONPATH": os.pathsep.join(paths), **(environment or {})}, _TIMEOUT_S)
    lines = log.read_text(encoding="utf-8").splitlines()
    result: dict[str, Any] = json.loads(next(line for line in reversed(lines) if line.startswith("{")))
    return result
