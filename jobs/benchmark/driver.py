"""Measures what the driver process of a run spends on each split, with a simulated encoder.

    python -m jobs.benchmark.driver none|local SPLITS MODEL [SPLITS_A_SHARD]

Real tiny Parquet rows through the real pipeline, in one process or on a local Ray: planning, reading, tokenizing,
writing and publishing are real; only the model is replaced by `FakeEncoder`. A shard has 50 splits by default, which
are one read unit. Prints one JSON object.
"""

import json
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any
from unittest import mock

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from numpy.typing import NDArray

from sfr_batch.config.loading import config_from_dict
from sfr_batch.encoder.encoded import EncodedTokens, WithCanaries
from sfr_batch.errors import RunFailed
from sfr_batch.format.records import Receipt
from sfr_batch.pipeline import encode_stage, runner
from sfr_batch.pipeline.job import Job
from sfr_batch.pipeline.run_log import RunLog

_ROWS_A_SPLIT = 4
_SPLITS_A_SHARD = 50
_STEADY = 0.1
"""Share of the receipts after which what a further split costs is looked at."""


class FakeEncoder:
    """Gives every row the same unit vector, at once, and has no canaries."""

    def __init__(self, dim: int) -> None:
        self._vector = np.zeros(dim, np.float32)
        self._vector[0] = 1

    def launch(self, lengths: NDArray[np.integer], _: NDArray[np.int32]) -> Callable[[], WithCanaries]:
        tokens = int(lengths.sum())
        encoded = EncodedTokens(np.tile(self._vector, (len(lengths), 1)), tokens, tokens, 1)
        return lambda: (encoded, 0, 0.0)


class FakeEncode(encode_stage.Encode):
    """The encode stage with a FakeEncoder in it."""

    def __init__(self, job: Job, *, own_process: bool = True) -> None:
        self.problem = None
        self._canaries: Any = FakeEncoder(job.card.schema.field("embedding").type.list_size)


def measure(address: str, splits: int, model: str, splits_a_shard: int = _SPLITS_A_SHARD) -> dict[str, Any]:
    """Seconds, and CPU seconds of this process, of a run over ``splits`` splits; rounded up to whole shards.

    ``driver_cpu_ms_a_further_split`` has neither what comes before the first receipts nor publishing.
    """
    shards = -(-splits // splits_a_shard)
    rows = splits_a_shard * _ROWS_A_SPLIT
    heard: list[float] = []
    add = RunLog.add

    def hear(log: RunLog, receipt: Receipt) -> None:
        heard.append(time.process_time())
        add(log, receipt)

    with tempfile.TemporaryDirectory() as folder:
        corpus = Path(folder) / "corpus"
        corpus.mkdir()
        for shard in range(shards):
            ids = [f"{shard}-{row}" for row in range(rows)]
            table = pa.table({"id": ids, "text": [f"document {name}" for name in ids]})
            pq.write_table(table, corpus / f"part-{shard:05}.parquet")
        config = config_from_dict(
            {
                "corpus": {"path": str(corpus)},
                "model": {"path": model, "device": "cpu"},
                "table": {"path": f"{folder}/table"},
                "run": {
                    "rows_per_split": _ROWS_A_SPLIT,
                    "min_splits": 1,
                    "ray_address": address,
                    "progress_every_s": 3600,
                    "actors": {"gpus": 0},
                },
            }
        )
        with mock.patch.object(encode_stage, "Encode", FakeEncode), mock.patch.object(RunLog, "add", hear):
            wall, cpu = time.perf_counter(), time.process_time()
            summary = runner.embed(config)
            wall, cpu = time.perf_counter() - wall, time.process_time() - cpu
    if summary.splits != shards * splits_a_shard or summary.embedded != shards * rows:
        raise RunFailed(f"{summary!r} is not the {shards * splits_a_shard:,} splits that there were.")
    first = int(_STEADY * len(heard))
    further = (heard[-1] - heard[first]) / max(1, len(heard) - 1 - first)
    return {
        "address": address,
        "splits": summary.splits,
        "seconds": wall,
        "driver_cpu_seconds": cpu,
        "driver_cpu_ms_a_further_split": 1e3 * further,
    }


def main(arguments: Sequence[str]) -> None:
    address, splits, model, *of_a_shard = arguments
    print(json.dumps(measure(address, int(splits), model, *map(int, of_a_shard))))


if __name__ == "__main__":
    main(sys.argv[1:])
