"""Measures whether memory stays flat during a long run: many rows, a simulated encoder, one sample per second.

    python -m jobs.benchmark.soak none|local ROWS MODEL FOLDER

The module is two things: that process, a real run of `ROWS` short documents with a stand-in for the model, which prints
one JSON object; and `soak`, which starts it, watches the memory of its process tree and reports. Reads /proc.
"""

import json
import statistics
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from unittest import mock

import pyarrow as pa
import pyarrow.parquet as pq

from jobs.benchmark import processes
from jobs.benchmark.driver import FakeEncode
from jobs.benchmark.processes import Memory
from jobs.benchmark.splits import aligned, model_folder, run_module
from sfr_batch.config.loading import config_from_dict
from sfr_batch.errors import RunFailed
from sfr_batch.pipeline import encode_stage, run_log, runner
from sfr_batch.table.commit.publish import publish

ROWS_A_SPLIT = 1024
_ROWS_A_SHARD = 64 * ROWS_A_SPLIT
_ROWS_A_GROUP = 8 * ROWS_A_SPLIT
FLAT_WITHIN = 1.1
"""How much more memory the second half of a run may use than the first for it to be called flat."""


@dataclass(frozen=True)
class Soak:
    """One run and what its processes held. ``samples``: (seconds since the first receipt, memory by role in bytes)
    from the first receipt until publishing begins; ``peak``: by role over the whole process."""

    address: str
    rows: int
    splits: int
    seconds: float
    """From the first receipt until publishing begins."""
    publish_seconds: float
    samples: list[tuple[float, Memory]]
    peak: Memory
    store_capacity: int | None
    """Bytes of Ray's object store; None without Ray."""

    @property
    def rows_per_second(self) -> float:
        return self.rows / self.seconds

    @property
    def store_bound(self) -> int | None:
        """What Ray Data lets a run hold in the object store: half of it."""
        return None if self.store_capacity is None else self.store_capacity // 2

    def halves(self, role: str) -> tuple[float, float]:
        """Median bytes of a role in the first and in the second half of the run. Raises RunFailed if it was too short
        for both."""
        middle = self.seconds / 2
        first = [getattr(memory, role) for at, memory in self.samples if at < middle]
        second = [getattr(memory, role) for at, memory in self.samples if at >= middle]
        if not first or not second:
            raise RunFailed(
                f"{self.rows:,} rows took {self.seconds:.1f} s, too short to see memory grow. Use more rows."
            )
        return statistics.median(first), statistics.median(second)

    def slope(self, role: str) -> float:
        """Bytes a row, by a straight line through the samples of the second half, where caches and pools are filled."""
        late = [(at, getattr(memory, role)) for at, memory in self.samples if at >= self.seconds / 2]
        if len(late) < 2:
            raise RunFailed(
                f"{self.rows:,} rows took {self.seconds:.1f} s, too short to see memory grow. Use more rows."
            )
        line = statistics.linear_regression([at for at, _ in late], [size for _, size in late])
        return line.slope / self.rows_per_second

    def is_flat(self, role: str) -> bool:
        first, second = self.halves(role)
        return second <= FLAT_WITHIN * first


def soak(address: str, rows: int, model: str, folder: Path, say: Callable[[str], None]) -> Soak:
    """Run ``rows`` rows in a process of its own and watch it. Raises RunFailed, also where there is no /proc."""
    with tempfile.TemporaryDirectory(dir=folder) as place, processes.Watch() as watch:
        raw = run_module("soak", [address, str(rows), model_folder(model), place], folder)
    begin, end = raw["first_receipt_at"], raw["publishing_at"]
    samples = [(at - begin, memory) for at, memory in watch.samples if begin <= at <= end]
    if not watch.samples:
        raise RunFailed("There is no /proc here, so that nothing is known of memory; soak on Linux.")
    peak = Memory(*(max(getattr(memory, role) for _, memory in watch.samples) for role in Memory._fields))
    found = Soak(
        address, raw["rows"], raw["splits"], end - begin, raw["done_at"] - end, samples, peak, watch.store_capacity
    )
    say(f"Soaked {found.rows:,} rows in {found.seconds:.0f} s, run.ray_address={address}")
    return found


def table(found: Sequence[Soak]) -> str:
    """All runs as text."""
    head = ["run.ray_address", "of", "peak MiB", "first half MiB", "second half MiB", "bytes/row", ""]
    lines = [head]
    for run in found:
        for role in Memory._fields:
            if getattr(run.peak, role):
                halves = (f"{size / 2**20:,.0f}" for size in run.halves(role))
                flat = "flat" if run.is_flat(role) else f"NOT flat within a factor of {FLAT_WITHIN}"
                peak = f"{getattr(run.peak, role) / 2**20:,.0f}"
                lines.append([run.address, role, peak, *halves, f"{run.slope(role):,.0f}", flat])
    text = aligned(lines)
    for run in found:
        text.append(
            f"{run.address}: {run.rows:,} rows in {run.splits:,} splits, {run.rows_per_second:,.0f} rows/s, published "
            f"in {run.publish_seconds:.1f} s"
        )
        if run.store_bound:
            kept = "within" if run.peak.object_store <= run.store_bound else "NOT within"
            text.append(
                f"{run.address}: at most {run.peak.object_store / 2**20:,.0f} MiB of object store, {kept} the "
                f"{run.store_bound / 2**20:,.0f} MiB that are half of it"
            )
    return "\n".join(text)


def measure(address: str, rows: int, model: str, folder: Path) -> dict[str, Any]:
    """The watched process: write the corpus, embed it, say when what happened (seconds since the epoch)."""
    corpus = folder / "corpus"
    corpus.mkdir()
    for start in range(0, rows, _ROWS_A_SHARD):
        numbers = range(start, min(start + _ROWS_A_SHARD, rows))
        texts = [f"document number {number} of a long run, as short as they come" for number in numbers]
        shard = pa.table({"id": pa.array(numbers, pa.int64()), "text": texts})
        pq.write_table(shard, corpus / f"part-{start:09}.parquet", row_group_size=_ROWS_A_GROUP)
    config = config_from_dict(
        {
            "corpus": {"path": str(corpus)},
            "model": {"path": model, "device": "cpu"},
            "table": {"path": f"{folder}/table"},
            "run": {
                "rows_per_split": ROWS_A_SPLIT,
                "min_splits": 1,
                "ray_address": address,
                "progress_every_s": 3600,
                "actors": {"gpus": 0},
            },
        }
    )
    at: dict[str, float] = {}
    add = run_log.RunLog.add

    def first(log: run_log.RunLog, receipt: Any) -> None:
        at.setdefault("first_receipt_at", time.time())
        add(log, receipt)

    def then(*arguments: Any) -> Any:
        at["publishing_at"] = time.time()
        return publish(*arguments)

    with (
        mock.patch.object(encode_stage, "Encode", FakeEncode),
        mock.patch.object(run_log.RunLog, "add", first),
        mock.patch("sfr_batch.pipeline.runner.publish", then),
    ):
        summary = runner.embed(config)
    if summary.embedded != rows:
        raise RunFailed(f"{summary!r} is not the {rows:,} rows that there were.")
    return {"rows": summary.embedded, "splits": summary.splits, "done_at": time.time(), **at}


def main(arguments: Sequence[str]) -> None:
    address, rows, model, folder = arguments
    print(json.dumps(measure(address, int(rows), model, Path(folder))))


if __name__ == "__main__":
    main(sys.argv[1:])
