"""The read stage: reads a unit of the corpus and tokenizes it into splits. Never touches a device.

An error in one split does not abort the others: it travels in the `error` column and becomes the result of the split.
Knows no driver and no Ray."""

import dataclasses
import json
import time
from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from sfr_batch.corpus.reader import read_unit
from sfr_batch.corpus.rejects import Reject, rejects_table
from sfr_batch.corpus.rows import Rows
from sfr_batch.corpus.splits import ReadUnit, Split
from sfr_batch.errors import CorpusError
from sfr_batch.format import names
from sfr_batch.model.tokenization.tokenizer import Tokenized
from sfr_batch.pipeline.job import Job, explain
from sfr_batch.pipeline.model_files import tokenizer_of
from sfr_batch.pipeline.packing import binary_column, to_ipc, unit_from_json
from sfr_batch.pipeline.work import with_times

_REPEATED_BYTES = 2**30
"""Maximum bytes of a carried column in a split, after it is repeated in every chunk."""
_SHARD, POSITION, PLACE = "#shard", "#position", "#place"
"""Columns with the place of a row in the corpus: rejects need it, and it is not stored. The last one is the number of
the row's shard in its pack, if it is of one."""


def read_and_tokenize(batch: pa.Table, job: Job) -> Iterator[pa.Table]:
    """Read units in; out comes one row for each of their splits, with token ids instead of texts."""
    for text in batch.column("unit").to_pylist():
        unit = unit_from_json(text)
        waiting = list(unit.splits)
        try:
            started = time.perf_counter()
            for split, rows in read_unit(unit, job.corpus, job.columns):
                read = time.perf_counter()
                packed = tokenize(split, rows, job)
                if not unit.stream:
                    waiting.remove(split)
                yield with_times(packed, read=read - started, tokenize=time.perf_counter() - read)
                started = time.perf_counter()
        except Exception as error:
            for split in waiting or [_rest_of(unit)]:
                yield _failed(split, error)


def _rest_of(unit: ReadUnit) -> Split:
    """A stand-in for the splits of a stream that were not reached."""
    return Split(unit.stream.prefix if unit.stream else "", unit.shard.uri, unit.shard.version, 0, 0, 0, 0)


def tokenize(split: Split, rows: Rows, job: Job) -> pa.Table:
    """One row: the split with its rows, their token ids one after the other, and all of its rejects.

    Raises ModelError, TokenizerError; CorpusError if carried texts, repeated in chunks, would fill the memory.
    """
    tokenizer, prompt = tokenizer_of(job)
    model, rejects = job.model, rows.rejects
    documents = pa.table(
        {
            _SHARD: rows.shards,
            POSITION: rows.positions,
            names.ID: rows.ids,
            names.CONTENT_HASH: rows.content_hash,
            names.ROW_HASH: rows.row_hash,
            **({} if rows.places is None else {PLACE: rows.places}),
            **{name: rows.carry.column(name) for name in rows.carry.column_names},
        }
    )
    chunks: dict[str, Any] = {}
    if model.overflow == "chunk":
        chunked = tokenizer.chunk(rows.texts, prompt, model.chunk_tokens, model.chunk_overlap)
        _check_repeats(rows.carry, chunked.text, split)
        empty, fit = _without_tokens(documents, chunked.tokenized, chunked.text)
        documents, tokenized, full_lengths = documents.take(chunked.text), chunked.tokenized, chunked.text_lengths
        chunks = {names.CHUNK: chunked.chunk, names.CHUNK_START: chunked.start, names.CHUNK_END: chunked.end}
        if empty.num_rows:
            rejects = pa.concat_tables([rejects, empty])
            documents, tokenized, full_lengths = documents.take(fit), tokenized.take(fit), full_lengths[fit]
            chunks = {name: column[fit] for name, column in chunks.items()}
    else:
        tokenized = tokenizer.encode(rows.texts, prompt)
        empty, fit = _without_tokens(documents, tokenized, np.arange(len(rows.texts)))
        if empty.num_rows:
            rejects = pa.concat_tables([rejects, empty])
            documents, tokenized = documents.take(fit), tokenized.take(fit)
        if model.overflow == "reject" and tokenized.truncated.any():
            limit = tokenizer.recipe.max_length
            rejects = pa.concat_tables([rejects, _too_long(documents, tokenized, limit)])
            fit = np.flatnonzero(~tokenized.truncated)
            documents, tokenized = documents.take(fit), tokenized.take(fit)
        full_lengths = tokenized.full_lengths
    columns = {
        names.N_TOKENS: tokenized.lengths,
        names.N_TOKENS_FULL: full_lengths,
        names.TRUNCATED: tokenized.truncated,
        **chunks,
    }
    table = documents
    for name, column in columns.items():
        table = table.append_column(name, pa.array(column))
    return pa.table(
        {
            "split": [json.dumps(dataclasses.asdict(split))],
            "rows": binary_column(to_ipc(table)),
            "rejects": binary_column(to_ipc(rejects)),
            "token_ids": binary_column(pa.py_buffer(tokenized.flat_ids)),
            "error": pa.array([None], pa.string()),
        }
    )


def _check_repeats(carry: pa.Table, of_document: NDArray[np.int64], split: Split) -> None:
    """Raises CorpusError if carried texts, repeated in every chunk of their document, would fill the memory.

    Carrying the text itself takes the square of its length: 10 MB, repeated in 10,000 chunks.
    """
    chunks = np.bincount(of_document, minlength=carry.num_rows)
    for name in carry.column_names:
        column = carry.column(name)
        if not (pa.types.is_string(column.type) or pa.types.is_large_string(column.type)):
            continue
        sizes = pc.fill_null(pc.binary_length(column), 0).to_numpy().astype(np.int64)
        if (size := int(sizes @ chunks)) > _REPEATED_BYTES:
            raise CorpusError(
                f"{split.shard}: the column {name} (corpus.carry), repeated in each chunk of its document, takes "
                f"{size / 2**30:.1f} GiB in one split of {len(of_document):,} chunks. Remove it from corpus.carry "
                "(chunk_start and chunk_end give the place of a chunk in the text), or lower run.bytes_per_split."
            )


def _without_tokens(
    documents: pa.Table, tokenized: Tokenized, of_document: NDArray[np.int64]
) -> tuple[pa.Table, NDArray[np.int64]]:
    """Rejects of the documents of which no token is left, and the rows of all others.

    of_document: the number of each row's document. A tokenizer that puts nothing around a text, and drops all of it,
    leaves no token. A document with one chunk without tokens is rejected as a whole.
    """
    empty = np.unique(of_document[tokenized.lengths == 0])
    why = (names.EMPTY_TEXT, "no token of the text is left: the tokenizer drops all of its characters")
    return rejected_rows(documents, dict.fromkeys(empty.tolist(), why)), np.flatnonzero(~np.isin(of_document, empty))


def _too_long(documents: pa.Table, tokenized: Tokenized, limit: int) -> pa.Table:
    return rejected_rows(
        documents,
        {
            row: (
                names.TOO_LONG,
                f"the document has {tokenized.full_lengths[row]:,} tokens, a row at most {limit:,} (model.overflow)",
            )
            for row in np.flatnonzero(tokenized.truncated).tolist()
        },
    )


def rejected_rows(rows: pa.Table, why: Mapping[int, tuple[str, str]]) -> pa.Table:
    """Rejects for some rows. why: reason and message by the number of the row."""
    some = rows.select([names.ID, POSITION, _SHARD]).take(pa.array(list(why), pa.int64())).to_pylist()
    return rejects_table(
        [
            Reject(row[names.ID], row[POSITION], *told, row[_SHARD])
            for row, told in zip(some, why.values(), strict=True)
        ],
        shard="",
    )


def _failed(split: Split, error: Exception) -> pa.Table:
    nothing = binary_column(pa.py_buffer(b""))
    failed = pa.table(
        {
            "split": [json.dumps(dataclasses.asdict(split))],
            "rows": nothing,
            "rejects": nothing,
            "token_ids": nothing,
            "error": [explain(error)],
        }
    )
    return with_times(failed)
