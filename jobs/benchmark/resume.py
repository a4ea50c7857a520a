"""Measures what a run does before its first split if nearly all splits are done: restarting on a large table.

    python -m jobs.benchmark.resume SPLITS log|footers MODEL FOLDER

The corpus is simulated (`planning`). The table lies on the local disk, as a killed run leaves it: one data file for
each split but the last, without rows, with a receipt in its footer and, for `log`, in the log of receipts. Everything
else is real, in the steps of `runner.embed`. One process for each case; it prints one JSON object. `resumes` runs them
and reports; `list_s3` measures how fast a store lists.
"""

import dataclasses
import json
import os
import secrets
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar
from unittest import mock

from jobs.benchmark.planning import SPLITS_A_SHARD, FakeCorpus, fake_config, own_memory
from jobs.benchmark.splits import LINEAR_WITHIN, aligned, model_folder, run_module
from sfr_batch.corpus.splits import ReadUnit
from sfr_batch.errors import RunFailed
from sfr_batch.format import names
from sfr_batch.format.parquet import encode_parquet
from sfr_batch.format.records import Receipt
from sfr_batch.pipeline import packing
from sfr_batch.pipeline.run_log import RunLog, recover_receipts
from sfr_batch.planning.make import make_plan
from sfr_batch.planning.plan import EmbedPlan
from sfr_batch.storage.stores import open_store
from sfr_batch.table.commit.writing import create_or_open, new_run_id

_RECEIPTS_PER_FILE = 256
_LISTED_AT_ONCE = 32
_NOBODY = "0" * 32

T = TypeVar("T")


@dataclass(frozen=True)
class Resume:
    """One resume: seconds of each step before the first split is read, and memory of the process in bytes."""

    splits: int
    receipts: str
    """Where they come from: log or footers."""
    seconds: dict[str, float]
    before_bytes: int | None
    peak_bytes: int | None

    @property
    def microseconds_a_split(self) -> float:
        return sum(self.seconds.values()) / self.splits * 1e6


def resumes(
    sizes: Sequence[int], sources: Sequence[str], model: str, folder: Path, say: Callable[[str], None]
) -> list[Resume]:
    """Each size with each source of receipts, in a process of its own. Raises RunFailed."""
    found = []
    for size in sizes:
        for source in sources:
            with tempfile.TemporaryDirectory(dir=folder) as place:
                raw = run_module("resume", [str(size), source, model_folder(model), place], folder)
            found.append(Resume(**raw))
            say(f"Resumed {found[-1].splits:,} splits in {sum(found[-1].seconds.values()):.1f} s ({source})")
    return found


def is_linear(found: Sequence[Resume]) -> bool:
    """Whether a split of the largest table takes no more than LINEAR_WITHIN times one of the smallest."""
    first, last = (min(found, key=lambda r: r.splits), max(found, key=lambda r: r.splits))
    return last.microseconds_a_split <= LINEAR_WITHIN * first.microseconds_a_split


def table(found: Sequence[Resume]) -> str:
    """All of them as text."""
    steps = list(found[0].seconds)
    head = ["splits", "receipts from", *(f"{step} s" for step in steps), "all s", "us/split", "peak MiB"]
    rows = [
        [
            f"{run.splits:,}",
            run.receipts,
            *(f"{run.seconds[step]:,.2f}" for step in steps),
            f"{sum(run.seconds.values()):,.1f}",
            f"{run.microseconds_a_split:,.0f}",
            "–" if run.peak_bytes is None else f"{run.peak_bytes / 2**20:,.0f}",
        ]
        for run in found
    ]
    lines = ["Before the first split, all but one being done; on a local disk", *aligned([head, *rows])]
    for source in dict.fromkeys(run.receipts for run in found):
        of = [run for run in found if run.receipts == source]
        if len(of) > 1:
            word = "linear" if is_linear(of) else f"NOT linear within a factor of {LINEAR_WITHIN}"
            lines.append(f"Time for each split, receipts from the {source}, is {word}.")
    return "\n".join(lines)


def list_s3(uri: str, objects: int) -> float:
    """Keys a second of a listing of ``objects`` data files below a fresh prefix of ``uri``, which are then deleted."""
    store = open_store(f"{uri.rstrip('/')}/listed-{secrets.token_hex(6)}")
    keys = [names.data_key(f"{number:032x}") for number in range(objects)]
    with ThreadPoolExecutor(_LISTED_AT_ONCE) as pool:
        list(pool.map(lambda key: store.create(key, b"-"), keys))
    started = time.perf_counter()
    found = sum(1 for _ in store.list(names.DATA))
    seconds = time.perf_counter() - started
    store.delete(keys)
    if found != objects:
        raise RunFailed(f"{store.root} lists {found:,} of {objects:,} objects.")
    return found / seconds


def measure(splits: int, receipts: str, model: str, folder: Path) -> dict[str, Any]:
    """Write the table, then do what a run does before its first split; rounded up to whole shards."""
    fake = FakeCorpus(-(-splits // SPLITS_A_SHARD))
    config = fake_config(model, f"{folder}/table")
    with (
        mock.patch("sfr_batch.corpus.listing.find_inputs", fake.find_inputs),
        mock.patch("sfr_batch.corpus.foreign_tables.names_in", fake.names_in),
        mock.patch("sfr_batch.corpus.survey.open_input", fake.open_input),
    ):
        written = _in_child(lambda: _write_table(make_plan(config), receipts == "log"))
        seconds: dict[str, float] = {}

        def timed(step: str, work: Callable[[], T]) -> T:
            started = time.perf_counter()
            result = work()
            seconds[step] = time.perf_counter() - started
            return result

        before = own_memory("VmRSS")
        plan = timed("plan", lambda: make_plan(config))
    todo = timed("what is missing", lambda: (plan.todo, plan.rows, plan.done)[0])
    opened = create_or_open(plan.store, plan.card)
    timed("freeze", lambda: RunLog(plan.store, plan, new_run_id()))
    found = timed("receipts", lambda: recover_receipts(opened, plan))
    timed("hand over", lambda: [packing.unit_to_json(unit) for unit in todo])
    if len(found) != len(plan.splits) - 1 or sum(len(unit.splits) for unit in todo) != 1 or not written:
        raise RunFailed(f"{len(found):,} of {len(plan.splits):,} splits are done: all but one should be.")
    peak = own_memory("VmHWM")
    return {
        "splits": len(plan.splits),
        "receipts": receipts,
        "seconds": seconds,
        "before_bytes": before,
        "peak_bytes": peak,
    }


def _in_child(work: Callable[[], object]) -> bool:
    """Done in a fork, so that its memory is not that of what is measured."""
    child = os.fork()
    if child == 0:
        try:
            work()
            os._exit(0)
        finally:
            os._exit(1)
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0


def _write_table(plan: EmbedPlan, log: bool) -> None:
    """Data files of all splits but the last. Without the store, whose syncs would take hours, and by hand: one Parquet
    file a shard is encoded, in which only the name of the split differs."""
    opened = create_or_open(plan.store, plan.card)
    folder = Path(plan.store.root) / names.DATA
    folder.mkdir()
    logged: list[str] = []
    units = list(plan.units)
    for receipt, data in _files(plan, units):
        (folder / f"{receipt.split_id}.parquet").write_bytes(data)
        if log:
            logged.append(dataclasses.replace(receipt, size=len(data)).to_json())
    for start in range(0, len(logged), _RECEIPTS_PER_FILE):
        lines = "".join(line + "\n" for line in logged[start : start + _RECEIPTS_PER_FILE])
        key = names.run_key("20260101T000000-00000000", f"receipts/{start // _RECEIPTS_PER_FILE:06d}.jsonl")
        opened.store.create(key, lines.encode())


def _files(plan: EmbedPlan, units: Sequence[ReadUnit]) -> Iterator[tuple[Receipt, bytes]]:
    last = units[-1].splits[-1].split_id
    templates: dict[str, tuple[Receipt, bytes]] = {}
    for unit in units:
        for split in unit.splits:
            if split.shard not in templates:
                receipt = Receipt(
                    split_id=_NOBODY,
                    shard=split.shard,
                    version=split.version,
                    start=split.start,
                    attempt="0" * 16,
                    run_id="20260101T000000-00000000",
                    read=0,
                    embedded=0,
                    rejected=0,
                    vectors=0,
                    tokens=0,
                    tokens_full=0,
                    encoded_tokens=0,
                    padded_tokens=0,
                    truncated=0,
                    encode_seconds=0.0,
                )
                metadata = {names.RECEIPT_KEY: receipt.to_json(), names.FINGERPRINT_KEY: plan.card.fingerprint}
                templates[split.shard] = receipt, encode_parquet(plan.card.schema.empty_table(), metadata)
            receipt, data = templates[split.shard]
            if split.split_id != last:
                named = data.replace(_NOBODY.encode(), split.split_id.encode())
                yield dataclasses.replace(receipt, split_id=split.split_id), named


def main(arguments: Sequence[str]) -> None:
    splits, receipts, model, folder = arguments
    print(json.dumps(measure(int(splits), receipts, model, Path(folder))))


if __name__ == "__main__":
    main(sys.argv[1:])
