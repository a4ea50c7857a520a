"""The write stage: checks vectors, decides the rejects `bad_vector` and `encoder_failed`, commits the split.

Knows no device.
"""

import json
import time
from collections.abc import Mapping
from functools import lru_cache
from typing import Any

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from sfr_batch.config.settings import StorageSettings
from sfr_batch.corpus.splits import Split
from sfr_batch.format import names
from sfr_batch.format.records import Receipt
from sfr_batch.pipeline.job import Job, explain
from sfr_batch.pipeline.packing import from_ipc, ipc_buffer
from sfr_batch.pipeline.read_stage import PLACE, rejected_rows
from sfr_batch.pipeline.work import TIMES, WORK, work_of
from sfr_batch.storage.store import Store
from sfr_batch.storage.stores import open_store
from sfr_batch.table.commit.writing import commit_split, new_attempt

_WORK_COLUMNS = ("encoded_tokens", "padded_tokens", "encode_seconds", "canaries", "drift")
"""What the encode stage measures of a split, by the receipt's names."""
_RECEIPT = "receipt"
"""Column of a split that is committed already, in the place of vectors."""
UNIT_LENGTH_TOLERANCE = 1e-5
"""Maximum distance of a float32 vector's length from 1; beyond it the row is rejected."""


def as_committed(batch: pa.Table, receipt: str) -> pa.Table:
    """What `write` passes a receipt on for, given as JSON. batch: the split, as the read stage gives it."""
    kept = batch.select(["split", "rows", "rejects", "error", TIMES])
    return kept.append_column(_RECEIPT, pa.array([receipt]))


def write(batch: pa.Table, job: Job) -> pa.Table:
    """Commit splits, unless they come from `as_committed`; out come their results, a receipt or an error each."""
    results: list[dict[str, Any]] = []
    for number in range(batch.num_rows):
        row = batch.slice(number, 1)
        split = Split(**json.loads(row.column("split")[0].as_py()))
        result = {names.SPLIT_ID: split.split_id, "shard": split.shard, "receipt": None, "error": None, WORK: None}
        try:
            error = row.column("error")[0].as_py()
            result["error"] = error
            if not error:
                started = time.perf_counter()
                receipt, rows, rejects = _write(split, row, job)
                took = json.loads(row.column(TIMES)[0].as_py()) | {"write": time.perf_counter() - started}
                result |= {"receipt": receipt.to_json(), WORK: work_of(took, rows, rejects, split.shard)}
        except Exception as failure:
            result["error"] = explain(failure)
        results.append(result)
    kinds = pa.schema([(name, pa.string()) for name in (names.SPLIT_ID, "shard", "receipt", "error", WORK)])
    return pa.Table.from_pylist(results, schema=kinds)


def _write(split: Split, row: pa.Table, job: Job) -> tuple[Receipt, pa.Table, pa.Table]:
    """The receipt that counts, the rows and the rejects."""
    rows, rejects = from_ipc(row.column("rows")), from_ipc(row.column("rejects"))
    if _RECEIPT in row.column_names:
        return Receipt.from_json(row.column(_RECEIPT)[0].as_py()), rows, rejects
    dim = int(job.card.schema.field(names.EMBEDDING).type.list_size)
    vectors = np.frombuffer(ipc_buffer(row.column("vectors")), dtype=np.float32).reshape(rows.num_rows, dim)
    bad = np.flatnonzero(~unit_length(vectors))
    if len(bad):
        failed = {int(at): why for at, why in json.loads(row.column("failed")[0].as_py()).items()}
        document = _document_numbers(rows)
        rejects = pa.concat_tables([rejects, _without_vector(rows, document, bad, failed)])
        good = np.flatnonzero(~np.isin(document, document[bad]))  # a document is stored whole or not at all
        rows, vectors = rows.take(pa.array(good)), vectors[good]
    rows = rows.append_column(names.EMBEDDING, vector_column(vectors, job.card.schema))
    receipt = Receipt.of_rows(
        rows,
        split_id=split.split_id,
        shard=split.shard,
        version=split.version,
        start=split.start,
        attempt=new_attempt(),
        run_id=job.run_id,
        generation=job.generation,
        rejected=rejects.num_rows,
        covers=job.covers,
        **{name: row.column(name)[0].as_py() for name in _WORK_COLUMNS},
    )
    store = table_store(job.table, job.table_storage.model_dump_json())
    committed = commit_split(store, job.card, receipt, rows.select(job.card.schema.names), rejects, _pieces(rows))
    return committed, rows, rejects


def _pieces(rows: pa.Table) -> list[int]:
    """How many documents each shard of a pack has among the rows; of other splits []."""
    if PLACE not in rows.column_names:
        return []
    places = rows.column(PLACE).to_numpy()
    first = rows.column(names.CHUNK).to_numpy() == 0 if names.CHUNK in rows.column_names else slice(None)
    pieces: list[int] = np.bincount(places[first]).tolist()
    return pieces


def unit_length(vectors: NDArray[np.float32]) -> NDArray[np.bool_]:
    """[n] whether each of ``vectors`` [n, d] is finite and of length 1 within UNIT_LENGTH_TOLERANCE."""
    with np.errstate(invalid="ignore", over="ignore"):
        lengths = np.sqrt(np.einsum("nd,nd->n", vectors, vectors, dtype=np.float64))
        good: NDArray[np.bool_] = np.abs(lengths - 1) <= UNIT_LENGTH_TOLERANCE  # False for NaN and infinity
    return good


def vector_column(vectors: NDArray[np.float32], schema: pa.Schema) -> pa.Array:
    """``vectors`` [n, d] as the embedding column of the schema, made from the buffer without Python lists."""
    kind = schema.field(names.EMBEDDING).type
    numbers = np.ascontiguousarray(vectors).reshape(-1)
    flat = pa.array(numbers.astype(np.float16) if kind.value_type == pa.float16() else numbers)
    return pa.FixedSizeListArray.from_arrays(flat, type=kind)


def _document_numbers(rows: pa.Table) -> NDArray[np.int64]:
    """[rows] number of the document of each row, from 0; the rows of a document stand together."""
    if names.CHUNK not in rows.column_names:
        return np.arange(rows.num_rows)
    return np.cumsum(rows.column(names.CHUNK).to_numpy() == 0) - 1


def _without_vector(
    rows: pa.Table, document: NDArray[np.int64], bad: NDArray[np.int64], failed: Mapping[int, str]
) -> pa.Table:
    """Rejects for the documents that have one of the rows ``bad``.

    document: [rows] number of the document of each row. bad: numbers of rows. failed: error messages of the model, by
    row.
    """
    why: dict[int, tuple[str, str]] = {}
    for number, row in zip(document[bad].tolist(), bad.tolist(), strict=True):
        reason, message = names.BAD_VECTOR, "the model gave a vector that is not finite or not of unit length"
        if row in failed:
            reason, message = names.ENCODER_FAILED, f"the model fails on this text: {failed[row]}"
        why.setdefault(number, (reason, message))
    firsts = np.searchsorted(document, list(why)).tolist()
    return rejected_rows(rows, dict(zip(firsts, why.values(), strict=True)))


@lru_cache(maxsize=2)
def table_store(uri: str, storage_json: str) -> Store:
    return open_store(uri, StorageSettings.model_validate_json(storage_json))
