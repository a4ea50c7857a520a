"""What happens to a split: read and tokenize, encode, write. Plain functions over one-row Arrow tables.

A row of the Ray dataset is a whole split, its columns packed as bytes: Ray cuts blocks between rows, never inside
one, so a split is never cut or merged whatever the version does. Errors do not abort the others: they travel along in
the `error` column and reach the driver as the split's result. Reading and writing never touch a device, encoding
never touches storage. Knows no driver and calls no Ray.
"""

import dataclasses
import json
import socket
import time
import traceback
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from sfr_batch import schema as names
from sfr_batch.columns import Columns
from sfr_batch.commit import commit_split, new_attempt
from sfr_batch.config import CorpusSettings, ModelSettings, StorageSettings
from sfr_batch.corpus import Shard
from sfr_batch.difference import Copy
from sfr_batch.errors import CorpusError, DeviceError, ModelError, SfrBatchError
from sfr_batch.manifest import Receipt, TableCard
from sfr_batch.model import Recipe, fingerprint_inputs, locate, read_recipe
from sfr_batch.parquet import read_data_file
from sfr_batch.prompts import DOCUMENT, resolve
from sfr_batch.rows import Reject, Rows, read_unit, rejects_table
from sfr_batch.splits import Chosen, ReadUnit, Split, Stream
from sfr_batch.storage import Store, open_store
from sfr_batch.tokenizer import Tokenized, Tokenizer

UNIT_LENGTH_TOLERANCE = 1e-5
"""How far a float32 vector's length may be from 1 before its row is rejected."""

_REPEATED_BYTES = 2**30
"""Bytes of a carried column in a split at most, once it is repeated in every chunk."""

_SHARD, _POSITION = "#shard", "#position"
"""Where a row stands in the corpus: travels for the sake of rejects, and is not stored."""


@dataclass(frozen=True)
class Job:
    """All that the stages need to know; travels to the workers. Secrets in it are references, not values."""

    run_id: str
    generation: str
    corpus: CorpusSettings
    model: ModelSettings
    columns: Columns
    card: TableCard
    table: str
    table_storage: StorageSettings
    max_batch_tokens: int
    packed: bool
    fuse: bool
    torch_threads: int | None


# --- read and tokenize


def read_and_tokenize(batch: pa.Table, job: Job) -> Iterator[pa.Table]:
    """Read units in, one row for each of their splits out, texts replaced by token ids."""
    for text in batch.column("unit").to_pylist():
        unit = unit_from_json(text)
        waiting = list(unit.splits)
        try:
            for split, rows in read_unit(unit, job.corpus, job.columns):
                packed = _tokenize(split, rows, job)
                if not unit.stream:
                    waiting.remove(split)
                yield packed
        except Exception as error:
            for split in waiting or [_rest_of(unit)]:
                yield _failed(split, error)


def _rest_of(unit: ReadUnit) -> Split:
    """Stands for the splits of a stream that were never reached."""
    return Split(unit.stream.prefix if unit.stream else "", unit.shard.uri, unit.shard.version, 0, 0, 0, 0)


def _tokenize(split: Split, rows: Rows, job: Job) -> pa.Table:
    tokenizer, prompt = _tokenizer(job.model.model_dump_json())
    model, rejects = job.model, rows.rejects
    documents = pa.table(
        {
            _SHARD: rows.shards,
            _POSITION: rows.positions,
            names.ID: rows.ids,
            names.CONTENT_HASH: rows.content_hash,
            names.ROW_HASH: rows.row_hash,
            **{name: rows.carry.column(name) for name in rows.carry.column_names},
        }
    )
    chunks: dict[str, Any] = {}
    if model.overflow == "chunk":
        chunked = tokenizer.chunk(rows.texts, prompt, model.chunk_tokens, model.chunk_overlap)
        _check_repeats(rows.carry, chunked.text, split)
        documents, tokenized, full_lengths = documents.take(chunked.text), chunked.tokenized, chunked.text_lengths
        chunks = {names.CHUNK: chunked.chunk, names.CHUNK_START: chunked.start, names.CHUNK_END: chunked.end}
    else:
        tokenized = tokenizer.encode(rows.texts, prompt)
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
            "rows": _bytes(_to_ipc(table)),
            "rejects": _bytes(_to_ipc(rejects)),
            "token_ids": _bytes(pa.py_buffer(tokenized.flat_ids)),
            "error": pa.array([None], pa.string()),
        }
    )


def _check_repeats(carry: pa.Table, of_document: NDArray[np.int64], split: Split) -> None:
    """Raises CorpusError if carried texts, repeated in every chunk of their document, would fill the memory.

    A carried text itself grows with the square of its length: 10 MB of it in 10,000 chunks.
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
                f"{size / 2**30:.1f} GiB in one split of {len(of_document):,} chunks. Take it out of corpus.carry "
                "(chunk_start and chunk_end say where in the text a chunk is), or lower run.bytes_per_split."
            )


def _too_long(documents: pa.Table, tokenized: Tokenized, limit: int) -> pa.Table:
    return _rejected(
        documents,
        {
            row: (
                names.TOO_LONG,
                f"the document has {tokenized.full_lengths[row]:,} tokens, a row at most {limit:,} (model.overflow)",
            )
            for row in np.flatnonzero(tokenized.truncated).tolist()
        },
    )


def _rejected(rows: pa.Table, why: Mapping[int, tuple[str, str]]) -> pa.Table:
    """Rejects for some rows, by number, with reason and message."""
    some = rows.select([names.ID, _POSITION, _SHARD]).take(pa.array(list(why), pa.int64())).to_pylist()
    return rejects_table(
        [
            Reject(row[names.ID], row[_POSITION], *told, row[_SHARD])
            for row, told in zip(some, why.values(), strict=True)
        ],
        shard="",
    )


@lru_cache(maxsize=2)
def _tokenizer(model_json: str) -> tuple[Tokenizer, str]:
    """Once a process: tasks come and go, their worker stays."""
    settings = ModelSettings.model_validate_json(model_json)
    recipe: Recipe = read_recipe(locate(settings, weights=False), settings)
    tokenizer = Tokenizer.load(recipe, special_tokens_in_text=settings.special_tokens_in_text)
    return tokenizer, resolve(recipe.prompts, DOCUMENT)


def _failed(split: Split, error: Exception) -> pa.Table:
    nothing = _bytes(pa.py_buffer(b""))
    return pa.table(
        {
            "split": [json.dumps(dataclasses.asdict(split))],
            "rows": nothing,
            "rejects": nothing,
            "token_ids": nothing,
            "error": [explain(error)],
        }
    )


def explain(error: BaseException) -> str:
    """Our own errors by their message; anything else is a bug, and keeps its traceback."""
    if isinstance(error, SfrBatchError):
        return str(error)
    return "".join(traceback.format_exception(error)).rstrip()


# --- encode


class Encode:
    """An actor that holds the model. Returns tables and never yields: one call at a time is on the device."""

    def __init__(self, job: Job) -> None:
        # torch is for encode actors alone; readers and writers do without
        from sfr_batch.encoder import Canaries, Encoder

        self.problem: str | None = None
        """Why the model cannot be used; then every split has this as its error."""
        try:
            self._encoder = Encoder.load(
                job.model,
                max_batch_tokens=job.max_batch_tokens,
                packed=job.packed,
                fuse=job.fuse,
                torch_threads=job.torch_threads,
                weight_hashes=job.card.fingerprint_inputs["weights"],
            )
            _check_recipe(self._encoder.recipe, self._encoder.tokenizer, job)
            self._canaries = Canaries(self._encoder)
        except SfrBatchError as error:
            # An exception here would look like a lost machine and be tried again; as a result it ends the run.
            self.problem = explain(error)

    def __call__(self, batch: pa.Table) -> pa.Table:
        """One split in, the same with vectors instead of token ids out. Raises DeviceError, which no split is to blame
        for: this process is then of no use any more."""
        error = batch.column("error")[0].as_py() or self.problem
        vectors, tokens, padded = np.empty(0, dtype=np.float32), 0, 0
        canaries, drift = 0, 0.0
        failed: Mapping[int, str] = {}
        started = time.perf_counter()
        if not error:
            try:
                lengths = _from_ipc(batch.column("rows")).column(names.N_TOKENS).to_numpy()
                if len(lengths):
                    flat_ids = np.frombuffer(_buffer(batch.column("token_ids")), dtype=np.int32)
                    encoded, canaries, drift = self._canaries.encode_tokens(lengths, flat_ids)
                    vectors, tokens, padded = encoded.vectors, encoded.tokens, encoded.padded_tokens
                    failed = encoded.failed
            except DeviceError:
                raise
            except Exception as failure:
                error = explain(failure)
        return pa.table(
            {
                "split": batch.column("split"),
                "rows": batch.column("rows"),
                "rejects": batch.column("rejects"),
                "vectors": _bytes(pa.py_buffer(np.ascontiguousarray(vectors))),
                "encoded_tokens": [tokens],
                "padded_tokens": [padded],
                "encode_seconds": [time.perf_counter() - started],
                "canaries": [canaries],
                "drift": [drift],
                "failed": [json.dumps(dict(failed))],
                "error": pa.array([error], pa.string()),
            }
        )


def _check_recipe(recipe: Recipe, tokenizer: Tokenizer, job: Job) -> None:
    """Raises ModelError if the model's small files on this node make other vectors than those on the driver's."""
    planned = job.card.fingerprint_inputs
    here = fingerprint_inputs(job.model, recipe, tokenizer.golden_ids(), planned["weights"], job.card.vector_dtype)
    if differing := sorted(key for key in here if here[key] != planned[key]):
        raise ModelError(
            f"{recipe.folder} on node {socket.gethostname()} is not the model that was planned with: it differs in "
            f"{', '.join(differing)}. Copy the same model to all nodes."
        )


# --- write


def write(batch: pa.Table, job: Job) -> pa.Table:
    """Commit splits; out come their results: a receipt, or an error."""
    results: list[dict[str, Any]] = []
    for number in range(batch.num_rows):
        row = batch.slice(number, 1)
        split = Split(**json.loads(row.column("split")[0].as_py()))
        result = {"split_id": split.split_id, "shard": split.shard, "receipt": None, "error": None}
        try:
            error = row.column("error")[0].as_py()
            result["error"] = error
            result["receipt"] = None if error else _write(split, row, job).to_json()
        except Exception as failure:
            result["error"] = explain(failure)
        results.append(result)
    kinds = pa.schema([(name, pa.string()) for name in ("split_id", "shard", "receipt", "error")])
    return pa.Table.from_pylist(results, schema=kinds)


def _write(split: Split, row: pa.Table, job: Job) -> Receipt:
    rows, rejects = _from_ipc(row.column("rows")), _from_ipc(row.column("rejects"))
    dim = int(job.card.schema.field(names.EMBEDDING).type.list_size)
    vectors = np.frombuffer(_buffer(row.column("vectors")), dtype=np.float32).reshape(rows.num_rows, dim)
    bad = np.flatnonzero(~unit_length(vectors))
    if len(bad):
        failed = {int(at): why for at, why in json.loads(row.column("failed")[0].as_py()).items()}
        document = _document_numbers(rows)
        rejects = pa.concat_tables([rejects, _without_vector(rows, document, bad, failed)])
        good = np.flatnonzero(~np.isin(document, document[bad]))  # a document is whole or not there
        rows, vectors = rows.take(pa.array(good)), vectors[good]
    documents = _documents(rows)
    rows = rows.append_column(names.EMBEDDING, vector_column(vectors, job.card.schema))
    receipt = Receipt(
        split_id=split.split_id,
        shard=split.shard,
        version=split.version,
        start=split.start,
        attempt=new_attempt(),
        run_id=job.run_id,
        read=documents.num_rows + rejects.num_rows,
        embedded=documents.num_rows,
        rejected=rejects.num_rows,
        vectors=rows.num_rows,
        tokens=pc.sum(rows.column(names.N_TOKENS)).as_py() or 0,
        tokens_full=pc.sum(documents.column(names.N_TOKENS_FULL)).as_py() or 0,
        encoded_tokens=row.column("encoded_tokens")[0].as_py(),
        padded_tokens=row.column("padded_tokens")[0].as_py(),
        truncated=pc.sum(rows.column(names.TRUNCATED)).as_py() or 0,
        encode_seconds=row.column("encode_seconds")[0].as_py(),
        canaries=row.column("canaries")[0].as_py(),
        drift=row.column("drift")[0].as_py(),
        generation=job.generation,
    )
    return commit_split(
        _store(job.table, job.table_storage.model_dump_json()),
        job.card,
        receipt,
        rows.select(job.card.schema.names),
        rejects,
    )


def _documents(rows: pa.Table) -> pa.Table:
    """The first row of each document."""
    return rows.filter(pc.equal(rows.column(names.CHUNK), 0)) if names.CHUNK in rows.column_names else rows


def unit_length(vectors: NDArray[np.float32]) -> NDArray[np.bool_]:
    """[n] whether each row of ``vectors`` [n, d] is finite and of length 1 within UNIT_LENGTH_TOLERANCE."""
    with np.errstate(invalid="ignore", over="ignore"):
        lengths = np.sqrt(np.einsum("nd,nd->n", vectors, vectors, dtype=np.float64))
        good: NDArray[np.bool_] = np.abs(lengths - 1) <= UNIT_LENGTH_TOLERANCE  # False for NaN and infinity
    return good


def vector_column(vectors: NDArray[np.float32], schema: pa.Schema) -> pa.Array:
    """``vectors`` [n, d] as the schema's embedding column, from the contiguous buffer and not through lists."""
    kind = schema.field(names.EMBEDDING).type
    numbers = np.ascontiguousarray(vectors).reshape(-1)
    flat = pa.array(numbers.astype(np.float16) if kind.value_type == pa.float16() else numbers)
    return pa.FixedSizeListArray.from_arrays(flat, type=kind)


def _document_numbers(rows: pa.Table) -> NDArray[np.int64]:
    """[rows] which document each row is of, from 0; the rows of a document follow each other."""
    if names.CHUNK not in rows.column_names:
        return np.arange(rows.num_rows)
    return np.cumsum(rows.column(names.CHUNK).to_numpy() == 0) - 1


def _without_vector(
    rows: pa.Table, document: NDArray[np.int64], bad: NDArray[np.int64], failed: Mapping[int, str]
) -> pa.Table:
    """Rejects for the documents of the rows ``bad``, those that the model ``failed`` on with what it said."""
    why: dict[int, tuple[str, str]] = {}
    for number, row in zip(document[bad].tolist(), bad.tolist(), strict=True):
        reason, message = names.BAD_VECTOR, "the model gave a vector that is not finite or not of unit length"
        if row in failed:
            reason, message = names.ENCODER_FAILED, f"the model fails on this text: {failed[row]}"
        why.setdefault(number, (reason, message))
    firsts = np.searchsorted(document, list(why)).tolist()
    return _rejected(rows, dict(zip(firsts, why.values(), strict=True)))


@lru_cache(maxsize=2)
def _store(uri: str, storage_json: str) -> Store:
    return open_store(uri, StorageSettings.model_validate_json(storage_json))


# --- copy


def copy(split: Copy, receipts: Mapping[str, Receipt], job: Job) -> Receipt:
    """Commit a split whose vectors are there already: they are copied, with the carried columns of today.

    receipts: of the data files that they are in. Raises what reading the corpus and the table raises.
    """
    _, rows = next(iter(read_unit(split.unit, job.corpus, job.columns)))
    store = _store(job.table, job.table_storage.model_dump_json())
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
        tokens_full=pc.sum(_documents(new).column(names.N_TOKENS_FULL)).as_py() or 0,
        encoded_tokens=0,
        padded_tokens=0,
        truncated=pc.sum(new.column(names.TRUNCATED)).as_py() or 0,
        encode_seconds=0.0,
        generation=job.generation,
        copied=True,
    )
    return commit_split(store, job.card, receipt, new.select(job.card.schema.names), rows.rejects)


# --- packing


def unit_to_json(unit: ReadUnit) -> str:
    return json.dumps(dataclasses.asdict(unit), separators=(",", ":"))


def unit_from_json(text: str) -> ReadUnit:
    return _unit(json.loads(text))


def _unit(raw: dict[str, Any]) -> ReadUnit:
    return ReadUnit(
        shard=Shard(**raw["shard"]),
        row_groups=tuple(raw["row_groups"]),
        first_row=raw["first_row"],
        splits=tuple(Split(**split) for split in raw["splits"]),
        stream=Stream(**{**raw["stream"], "done": tuple(raw["stream"]["done"])}) if raw["stream"] else None,
        chosen=tuple(Chosen(_unit(part["unit"]), tuple(part["rows"])) for part in raw["chosen"]),
    )


def _bytes(buffer: pa.Buffer) -> pa.Array:
    """One value of any length, without a copy."""
    offsets = pa.py_buffer(np.array([0, buffer.size], dtype=np.int64))
    return pa.Array.from_buffers(pa.large_binary(), 1, [None, offsets, buffer])


def _buffer(column: pa.ChunkedArray) -> pa.Buffer:
    """The bytes of a one-row column, without a copy."""
    return column[0].as_buffer()


def _to_ipc(table: pa.Table) -> pa.Buffer:
    sink = pa.BufferOutputStream()
    with pa.ipc.new_stream(sink, table.schema) as writer:
        writer.write_table(table)
    return sink.getvalue()


def _from_ipc(column: pa.ChunkedArray) -> pa.Table:
    return pa.ipc.open_stream(_buffer(column)).read_all()
