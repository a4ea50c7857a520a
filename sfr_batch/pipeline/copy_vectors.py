"""Splits whose vectors exist: only carried columns have changed, or another table lends them, so they are copied.

Commits like the write stage; needs no model and no device."""

from collections.abc import Mapping

import numpy as np
import pyarrow as pa

from sfr_batch.corpus.reader import read_unit
from sfr_batch.format import names
from sfr_batch.format.parquet import read_data_file
from sfr_batch.format.records import Receipt
from sfr_batch.pipeline.job import Job
from sfr_batch.pipeline.write_stage import table_store
from sfr_batch.planning.difference import Copy
from sfr_batch.storage.store import Store
from sfr_batch.table.commit.writing import commit_split, new_attempt


def copy(split: Copy, receipts: Mapping[str, Receipt], job: Job) -> Receipt:
    """Commit a split whose vectors are already in the table: they are copied, with today's carried columns.

    receipts: of the data files that hold the vectors, by split id. Raises what reading the corpus and the table raises.
    """
    _, documents = next(iter(read_unit(split.unit, job.corpus, job.columns)))
    store = table_store(job.table, job.table_storage.model_dump_json())
    source, fingerprint = store, job.card.fingerprint
    if split.lender:
        source = table_store(split.lender.table, job.table_storage.model_dump_json())
        fingerprint = split.lender.fingerprint
    stored = gather_rows(source, split.sources, receipts, _stored_columns(job), fingerprint)
    vectors = split.sources.column(names.VECTORS).to_numpy()  # [documents] rows of each
    document = np.repeat(np.arange(len(vectors)), vectors)  # [rows] number of the document of each row
    columns = {
        names.ID: documents.ids,
        names.CONTENT_HASH: documents.content_hash,
        names.ROW_HASH: documents.row_hash,
        **{name: documents.carry.column(name) for name in documents.carry.column_names},
    }
    rows = pa.table(columns).take(pa.array(document))
    for name in stored.column_names:
        rows = rows.append_column(name, stored.column(name))
    one = split.unit.splits[0]
    receipt = Receipt.of_rows(
        rows,
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
    return commit_split(store, job.card, receipt, rows.select(job.card.schema.names), documents.rejects)


def _stored_columns(job: Job) -> list[str]:
    """Columns that are copied: whatever follows from the text and the model, and not from the corpus of today."""
    chunks = [name for name in names.CHUNK_COLUMNS if name in job.card.schema.names]
    return [names.EMBEDDING, names.N_TOKENS, names.N_TOKENS_FULL, names.TRUNCATED, *chunks]


def gather_rows(
    store: Store, sources: pa.Table, receipts: Mapping[str, Receipt], columns: list[str], fingerprint: str
) -> pa.Table:
    """[rows] the rows of documents from any data files, in the order of the documents.

    sources: [documents] columns split_id, row (the document's first row in that data file) and vectors (its rows
    there), as in an index. receipts: of these data files, by split id. Each file is read once.
    """
    vectors = sources.column(names.VECTORS).to_numpy()  # [documents]
    document = np.repeat(np.arange(len(vectors)), vectors)  # [rows] number of the document of each row
    first = np.cumsum(vectors) - vectors  # [documents] where the rows of each begin in the result
    within = np.arange(len(document)) - first[document]  # [rows] position within the document: 0, 1, ...
    at = sources.column(names.ROW).to_numpy()[document] + within  # [rows] row in the data file
    files = sources.column(names.SPLIT_ID).combine_chunks().dictionary_encode()  # [documents]
    file_of = files.indices.to_numpy()[document]  # [rows] number of the data file
    pieces: list[pa.Table] = []  # of each file, the rows that are wanted
    places: list[np.ndarray[tuple[int], np.dtype[np.intp]]] = []  # of each piece, where its rows go in the result
    for number, split_id in enumerate(files.dictionary.to_pylist()):
        wanted = np.flatnonzero(file_of == number)  # [rows of the piece]
        table = read_data_file(store, receipts[split_id], columns, fingerprint)
        pieces.append(table.take(pa.array(at[wanted])))
        places.append(wanted)
    order = np.argsort(np.concatenate(places))  # [rows] row of the joined pieces for each row of the result
    return pa.concat_tables(pieces).take(pa.array(order))
