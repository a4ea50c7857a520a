"""Commits the splits whose vectors are copied from data files of the table, without a model."""

from collections.abc import Mapping

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from sfr_batch.corpus.reader import read_unit
from sfr_batch.format import names
from sfr_batch.format.parquet import read_data_file
from sfr_batch.format.records import Receipt
from sfr_batch.pipeline.job import Job
from sfr_batch.pipeline.write_stage import documents_of, table_store
from sfr_batch.planning.difference import Copy
from sfr_batch.table.commit.writing import commit_split, new_attempt


def copy(split: Copy, receipts: Mapping[str, Receipt], job: Job) -> Receipt:
    """Commit a split whose vectors are there already: they are copied, with the carried columns of today.

    receipts: of the data files that they are in. Raises what reading the corpus and the table raises.
    """
    _, rows = next(iter(read_unit(split.unit, job.corpus, job.columns)))
    store = table_store(job.table, job.table_storage.model_dump_json())
    stored = [names.EMBEDDING, names.N_TOKENS, names.N_TOKENS_FULL, names.TRUNCATED]
    stored += [name for name in names.CHUNK_COLUMNS if name in job.card.schema.names]
    vectors = split.sources.column("vectors").to_numpy()
    document = np.repeat(np.arange(len(vectors)), vectors)
    first = np.cumsum(vectors) - vectors
    within = np.arange(len(document)) - first[document]
    files = split.sources.column("split_id").combine_chunks().dictionary_encode()
    of_row = files.indices.to_numpy()[document]
    at = split.sources.column("row").to_numpy()[document] + within
    pieces, order = [], []
    for number, split_id in enumerate(files.dictionary.to_pylist()):
        wanted = np.flatnonzero(of_row == number)
        table = read_data_file(store, receipts[split_id], stored, job.card.fingerprint)
        pieces.append(table.take(pa.array(at[wanted])))
        order.append(wanted)
    old = pa.concat_tables(pieces).take(pa.array(np.argsort(np.concatenate(order))))
    new = pa.table({names.ID: rows.ids, names.CONTENT_HASH: rows.content_hash, names.ROW_HASH: rows.row_hash})
    for name in rows.carry.column_names:
        new = new.append_column(name, rows.carry.column(name))
    new = new.take(pa.array(document))
    for name in old.column_names:
        new = new.append_column(name, old.column(name))
    one = split.unit.splits[0]
    receipt = Receipt(
        split_id=one.split_id,
        shard=one.shard,
        version=one.version,
        start=one.start,
        attempt=new_attempt(),
        run_id=job.run_id,
        read=rows.read,
        embedded=rows.read,
        rejected=0,
        vectors=new.num_rows,
        tokens=pc.sum(new.column(names.N_TOKENS)).as_py() or 0,
        tokens_full=pc.sum(documents_of(new).column(names.N_TOKENS_FULL)).as_py() or 0,
        encoded_tokens=0,
        padded_tokens=0,
        truncated=pc.sum(new.column(names.TRUNCATED)).as_py() or 0,
        encode_seconds=0.0,
        generation=job.generation,
        copied=True,
    )
    return commit_split(store, job.card, receipt, new.select(job.card.schema.names), rows.rejects)
