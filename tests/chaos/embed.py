"""`embed` as a process of its own, with an encoder that takes its time and keeps a diary of what it is given.

    python -m tests.chaos.embed CONFIG DIARY [section.field=value …]

Ray, the stages around the encoder and the store are real. Every table counts as large, so that nights are compared and
all tables published by tasks on the cluster. Lines of the diary: ``encode <split> <pid>`` when an actor is given a
split, ``receipt <split> <pid>`` when the driver has heard that it is committed, ``publish <run> <pid>`` when it begins
to publish.
"""

import json
import os
import sys
import time
from pathlib import Path

import pyarrow as pa

from sfr_batch.api import embed
from sfr_batch.format.records import Receipt
from sfr_batch.pipeline import encode_stage, run_log, runner
from sfr_batch.pipeline.job import Job
from sfr_batch.storage.executor import Executor
from sfr_batch.table.commit.draft import Draft
from sfr_batch.table.table import Snapshot, Table
from tests.chaos.writer import ArithmeticEncode

SECONDS_A_SPLIT = 0.15
DIARY = "sfr-diary"
"""The diary's place: beside the corpus, which every worker knows."""


def note(diary: Path, *words: object) -> None:
    with diary.open("a") as file:
        file.write(" ".join(map(str, words)) + "\n")


class DiaryEncode(ArithmeticEncode):
    """The arithmetic encoder at the pace of a model."""

    def __init__(self, job: Job) -> None:
        super().__init__(job)
        self._diary = Path(str(job.corpus.path)).parent / DIARY

    def __call__(self, batch: pa.Table) -> pa.Table:
        note(self._diary, "encode", json.loads(batch.column("split")[0].as_py())["split_id"], os.getpid())
        time.sleep(SECONDS_A_SPLIT)
        return super().__call__(batch)


def main(config: str, diary: Path, overrides: list[str]) -> None:
    """Run with the stand-in; Ray's workers import it from here."""
    from tests.chaos import embed as this  # not __main__, which workers do not know

    add, publish = run_log.RunLog.add, runner.publish

    def hear(log: run_log.RunLog, receipt: Receipt) -> None:
        add(log, receipt)
        note(diary, "receipt", receipt.split_id, os.getpid())

    def see(table: Table, base: Snapshot | None, draft: Draft, executor: Executor | None = None) -> Snapshot:
        assert executor is not None, "it does not publish on the cluster"
        note(diary, "publish", draft.run_id, os.getpid())
        return publish(table, base, draft, executor)

    run_log.RunLog.add = hear  # type: ignore[method-assign]
    runner.publish = see  # type: ignore[attr-defined]
    runner._ROWS_HERE = 0
    encode_stage.Encode = this.DiaryEncode  # type: ignore[misc]
    print(embed(config, overrides).describe())


if __name__ == "__main__":
    main(sys.argv[1], Path(sys.argv[2]), sys.argv[3:])
