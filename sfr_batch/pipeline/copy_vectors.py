"""Splits whose vectors exist: only carried columns have changed, or another table lends them, so they are copied.

Commits like the write stage; needs no model and no device."""

from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple

import numpy as np
import pyarrow as pa

from sfr_batch.corpus.reader import read_unit
from sfr_batch.corpus.splits import packed
from sfr_batch.format import names
from sfr_batch.format.parquet import read_data_file
from sfr_batch.format.records import Receipt
from sfr_batch.format.side_tables import from_table, to_table
from sfr_batch.pipeline.job import Job, make_job
from sfr_batch.pipeline.write_stage import table_store
from sfr_batch.planning.comparison import ComparisonRun
from sfr_batch.planning.decided_rows import Work, WorkRows
from sfr_batch.planning.difference import Lender
from sfr_batch.planning.packed_rows import PackedSplits, Part, chosen
from sfr_batch.storage.executor import in_order
from sfr_batch.storage.store import Store
from sfr_batch.table.commit.writing import commit_split, new_attempt


class _Sources(NamedTuple):
    """What the copies of a run share. files: the receipts of all data files with vectors, by number; lender: the table
    of those that the rows take; None: the one that is written."""

    job: Job
    files: pa.Table
    lender: Lender | None
    by_position: bool


def copy_all(comparison: ComparisonRun, run_id: str) -> Iterator[Receipt]:
    """Commit the splits whose vectors are copied, in order, as tasks of the comparison's executor.

    Raises what reading the corpus and the table raises.
    """
    found, job = comparison.rows, make_job(comparison.plan, run_id)
    some = [splits for splits in comparison.copied if splits.split_ids]
    files = to_table(Receipt, list(found.receipts)) if some else None
    for splits in some:
        rows, lender = splits.rows, found.lender if splits.rows.work == Work.LENT else None
        shared = found.executor.share(_Sources(job, files, lender, rows.by_position))
        yield from in_order(found.executor, _copy, _calls(splits, shared))
        rows.release()


def _calls(splits: PackedSplits, shared: Any) -> Iterator[tuple[Any, ...]]:
    """The arguments of `_copy` for each split. shared: handle of the `_Sources`."""
    for split, split_id in enumerate(splits.split_ids):
        parts = splits.rows.parts(split)
        tasks, handles = splits.rows.handed(parts)
        yield split_id, parts, shared, tasks, *handles


def _copy(split_id: str, parts: Sequence[Part], shared: _Sources, tasks: Sequence[int], *rows: WorkRows) -> Receipt:
    """A task: commit one split: its vectors are copied, with today's carried columns.

    parts: its rows; rows: of the scan tasks that have some, which ``tasks`` has the numbers of.
    """
    job, by_task = shared.job, dict(zip(tasks, rows, strict=True))
    unit = packed(split_id, chosen(parts, by_task, by_position=shared.by_position), 0)
    _, documents = next(iter(read_unit(unit, job.corpus, job.columns)))
    store = source = table_store(job.table, job.table_storage.model_dump_json())
    fingerprint = job.card.fingerprint
    if shared.lender:
        source = table_store(shared.lender.table, job.table_storage.model_dump_json())
        fingerprint = shared.lender.fingerprint
    places = np.concatenate([by_task[part.task][part.start : part.stop] for part in parts])
    stored = gather_rows(source, places, shared.files, _stored_columns(job), fingerprint)
    document = np.repeat(np.arange(len(places)), places["vectors"])  # [rows] number of the document of each row
    columns = {
        names.ID: documents.ids,
        names.CONTENT_HASH: documents.content_hash,
        names.ROW_HASH: documents.row_hash,
        **{name: documents.carry.column(name) for name in documents.carry.column_names},
    }
    table = pa.table(columns).take(pa.array(document))
    for name in stored.column_names:
        table = table.append_column(name, stored.column(name))
    one = unit.splits[0]
    receipt = Receipt.of_rows(
        table,
        split_id=one.split_id,
        shard=one.shard,
        version=one.version,
        start=one.start,
        attempt=new_attempt(),
        run_id=job.run_id,
        generation=job.generation,
        rejected=documents.rejects.num_rows,
        copied=True,
        covers=job.covers,
    )
    return commit_split(store, job.card, receipt, table.select(job.card.schema.names), documents.rejects)


def _stored_columns(job: Job) -> list[str]:
    """Columns that are copied: whatever follows from the text and the model, and not from the corpus of today."""
    chunks = [name for name in names.CHUNK_COLUMNS if name in job.card.schema.names]
    return [names.EMBEDDING, names.N_TOKENS, names.N_TOKENS_FULL, names.TRUNCATED, *chunks]


def gather_rows(store: Store, places: WorkRows, files: pa.Table, columns: list[str], fingerprint: str) -> pa.Table:
    """[rows] the rows of documents from any data files, in the order of the documents.

    places: [documents] where the vectors of each are. files: receipts, by number. Each file is read once.
    """
    vectors = places["vectors"]
    document = np.repeat(np.arange(len(vectors)), vectors)  # [rows] number of the document of each row
    first = np.cumsum(vectors) - vectors  # [documents] where the rows of each begin in the result
    within = np.arange(len(document)) - first[document]  # [rows] position within the document: 0, 1, ...
    at = places["first"][document] + within  # [rows] row in the data file
    used, file_of = np.unique(places["file"][document], return_inverse=True)
    pieces: list[pa.Table] = []  # of each file, the rows that are wanted
    order: list[np.ndarray[tuple[int], np.dtype[np.intp]]] = []  # of each piece, where its rows go in the result
    for number, receipt in enumerate(from_table(Receipt, files.take(pa.array(used)))):
        wanted = np.flatnonzero(file_of == number)  # [rows of the piece]
        table = read_data_file(store, receipt, columns, fingerprint)
        pieces.append(table.take(pa.array(at[wanted])))
        order.append(wanted)
    # [rows] row of the joined pieces for each row of the result
    return pa.concat_tables(pieces).take(pa.array(np.argsort(np.concatenate(order))))
