"""Measures planning a run of very many splits, over a simulated corpus, in a process of its own.

    python -m jobs.benchmark.planning SPLITS MODEL

Only the listing and the footers of the corpus files are simulated; every shard has the same real Parquet footer, which
is read each time. The plan, its frozen form and what the workers get are real. One process for each size, so that the
peak memory is that of this size. Prints one JSON object.
"""

import io
import json
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import IO, Any, TypeVar
from unittest import mock

import pyarrow as pa
import pyarrow.parquet as pq

from sfr_batch.config.loading import config_from_dict
from sfr_batch.config.settings import Config
from sfr_batch.errors import RunFailed
from sfr_batch.format.parquet import encode_parquet
from sfr_batch.pipeline import packing
from sfr_batch.planning.make import make_plan
from sfr_batch.storage.input_listing import InputListing
from sfr_batch.storage.inputs import InputFile

SPLITS_A_SHARD = 100
_ROWS_A_SPLIT = 64
_STATUS = Path("/proc/self/status")

T = TypeVar("T")


class FakeCorpus:
    """Stands in for `find_inputs`, `names_in` and `open_input`: ``shards`` files that do not exist, all with the same
    footer."""

    def __init__(self, shards: int) -> None:
        self._shards = shards
        rows = SPLITS_A_SHARD * _ROWS_A_SPLIT
        sink = io.BytesIO()
        table = pa.table({"id": pa.array(range(rows), pa.int64()), "text": ["a fake document"] * rows})
        pq.write_table(table, sink, row_group_size=_ROWS_A_SPLIT)
        self._data = sink.getvalue()

    def find_inputs(self, path: str, _: Any, first: int | None = None) -> InputListing:
        names = (f"{path}/part-{number:07}.parquet" for number in range(self._shards))
        files = [InputFile(name, len(self._data), f"fake-{number}") for number, name in enumerate(names)]
        return InputListing(path, files[:first], [])

    def names_in(self, folder: str, beginning: str, _: Any) -> tuple[list[str], bool]:
        """Nothing lies around the corpus."""
        return [], True

    def open_input(self, uri: str, _: Any) -> IO[bytes]:
        return io.BytesIO(self._data)


def fake_config(model: str, table: str) -> Config:
    """A job over a FakeCorpus."""
    return config_from_dict(
        {
            "corpus": {"path": "s3://a-fake-bucket/corpus"},
            "model": {"path": model, "device": "cpu"},
            "table": {"path": table},
            "run": {"rows_per_split": _ROWS_A_SPLIT, "min_splits": 1, "actors": {"gpus": 0}},
        }
    )


def measure(splits: int, model: str) -> dict[str, Any]:
    """Seconds of each step, and peak memory in bytes, of planning ``splits`` splits; rounded up to whole shards."""
    fake = FakeCorpus(-(-splits // SPLITS_A_SHARD))
    seconds: dict[str, float] = {}

    def timed(step: str, work: Callable[[], T]) -> T:
        started = time.perf_counter()
        result = work()
        seconds[step] = time.perf_counter() - started
        return result

    with tempfile.TemporaryDirectory() as folder:
        config = fake_config(model, f"{folder}/table")
        with (
            mock.patch("sfr_batch.corpus.listing.find_inputs", fake.find_inputs),
            mock.patch("sfr_batch.corpus.foreign_tables.names_in", fake.names_in),
            mock.patch("sfr_batch.corpus.survey.open_input", fake.open_input),
        ):
            before = own_memory("VmRSS")
            plan = timed("plan", lambda: make_plan(config))
        todo = timed("what is missing", lambda: plan.todo)
        timed("describe", plan.describe)
        timed("freeze", lambda: encode_parquet(plan.to_arrow()))
        timed("hand over", lambda: [packing.unit_to_json(unit) for unit in todo])
    planned = sum(len(unit.splits) for unit in todo)
    if planned < splits:
        raise RunFailed(f"{splits:,} splits were requested, but {planned:,} were planned.")
    return {"splits": planned, "seconds": seconds, "before_bytes": before, "peak_bytes": own_memory("VmHWM")}


def own_memory(field: str) -> int | None:
    """Bytes of this process's memory. getrusage would include its past as a fork of a larger process."""
    if not _STATUS.is_file():
        return None
    lines = _STATUS.read_text(encoding="utf-8").splitlines()
    return next(int(line.split()[1]) * 1024 for line in lines if line.startswith(field))


def reset_peak() -> None:
    """`own_memory("VmHWM")` is from now on the largest since now."""
    if _STATUS.is_file():
        _STATUS.with_name("clear_refs").write_text("5", encoding="utf-8")


def main(arguments: Sequence[str]) -> None:
    splits, model = arguments
    print(json.dumps(measure(int(splits), model)))


if __name__ == "__main__":
    main(sys.argv[1:])
