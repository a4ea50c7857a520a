"""A split that an encode actor may have been given before: whether it is committed, and is not to be encoded again.

A task counts as unfinished for Ray until its end is acknowledged, after its result has gone on to the write stage. If
its process dies in between, Ray repeats it; so it does if a node dies with a result that the driver has not released.
Both times it is an actor that was restarted. Which of its splits are second attempts Ray does not tell it: Ray Data
calls a stage in a thread of its own, outside the task. Knows no device, and no Ray.
"""

import json

import pyarrow as pa

from sfr_batch.errors import SfrBatchError
from sfr_batch.format import names
from sfr_batch.format.parquet import read_receipt
from sfr_batch.pipeline.job import Job
from sfr_batch.pipeline.write_stage import table_store


def committed(batch: pa.Table, job: Job) -> str | None:
    """The receipt, as JSON, of the split in a batch of the read stage, if it is committed. Asks storage once.

    None also if storage does not answer: the split is encoded, and its commit finds what is there.
    """
    if batch.column("error")[0].as_py():
        return None
    split_id = json.loads(batch.column("split")[0].as_py())[names.SPLIT_ID]
    try:
        return read_receipt(table_store(job.table, job.table_storage.model_dump_json()), split_id).to_json()
    except SfrBatchError:
        return None
