"""A split that Ray gives to an encode actor again: whether it is committed, and so has not to be encoded again.

A task counts as unfinished for Ray until its end is acknowledged, after its result has gone on to the write stage. If
its process dies in between, Ray repeats it; so it does if a node dies with a result that the driver has not released.
Knows no device, and no driver.
"""

import json

import pyarrow as pa
from ray._private import worker

from sfr_batch.errors import SfrBatchError
from sfr_batch.format import names
from sfr_batch.format.parquet import read_receipt
from sfr_batch.pipeline.job import Job
from sfr_batch.pipeline.write_stage import table_store


def committed(batch: pa.Table, job: Job) -> str | None:
    """The receipt, as JSON, of the split in a batch of the read stage, if it is committed and this is no first attempt.

    A first attempt asks storage for nothing. None also if storage does not answer: the split is encoded, and its commit
    finds what is there.
    """
    if not _is_repeated() or batch.column("error")[0].as_py():
        return None
    split_id = json.loads(batch.column("split")[0].as_py())[names.SPLIT_ID]
    try:
        return read_receipt(table_store(job.table, job.table_storage.model_dump_json()), split_id).to_json()
    except SfrBatchError:
        return None


def _is_repeated() -> bool:
    """Whether Ray has begun the current task before. A restarted actor gets fresh ones, too, and Ray's public context
    tells only of the restart."""
    return bool(worker.global_worker.core_worker.get_current_task_attempt_number() > 0)
