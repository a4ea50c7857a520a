"""One data file: read whole and checked against its receipt, as a value. Knows no other file.

What the ids of all files say together is checked in `ids`.
"""

import base64
import dataclasses
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from numpy.typing import NDArray

from sfr_batch.checks.audit.bounds import wrong_bounds
from sfr_batch.checks.audit.contents import difference, look_into
from sfr_batch.checks.audit.id_records import RECORD, IdRecords, IntArray, Mask, RecordKind, contents_of
from sfr_batch.checks.audit.promises import Problem, sample
from sfr_batch.checks.audit.report import CHUNKS, COUNTS, FILES, FOOTERS, PAGES, SCHEMA, VECTORS
from sfr_batch.errors import ObjectNotFound
from sfr_batch.format import names
from sfr_batch.format.hashes import Hashes, halves, hash_ids
from sfr_batch.format.layout import Layout, carried_columns
from sfr_batch.format.parquet import open_parquet
from sfr_batch.format.records import Receipt
from sfr_batch.format.schemas import is_same
from sfr_batch.storage.store import in_memory
from sfr_batch.table.table import Table

PROMISES = (FILES, PAGES, FOOTERS, SCHEMA, COUNTS, VECTORS, CHUNKS)
"""What each data file is checked for, in this order: a file that fails one in such a way that it cannot be read is not
checked for those after it."""
TOLERANCE = {"float32": 1e-5, "float16": 1e-3}
"""Largest difference of a vector's length from 1, by the dtype that it is stored in."""

_NORM_ROWS = 1024


@dataclass(frozen=True)
class Live:
    """Sums over the live rows of a data file. tokens_full: tokens of its documents before truncation and chunking."""

    documents: int = 0
    tokens: int = 0
    tokens_full: int = 0
    truncated: int = 0


@dataclass(frozen=True)
class DataFile:
    """What is known of a data file after it was examined; small."""

    receipt: Receipt
    rows: int = 0
    """Number of rows that were read."""
    live: Live = field(default_factory=Live)
    worst_length: float = 0.0
    """Largest difference of a length from 1, among the vectors within the tolerance."""
    documents: NDArray[np.int32] | None = None
    """[n] first row of each document, in a table with chunks; None if there are no chunks or the file was not read."""


@dataclass(frozen=True)
class Examined:
    """The result for one data file.

    ids: a record of each document; ``row`` is the number of its first row in this file, ``order`` is not set.
    problems: by promise. unchecked: the promises that could not be checked.
    """

    file: DataFile
    problems: Mapping[str, Sequence[Problem]]
    unchecked: tuple[str, ...] = ()
    ids: IdRecords = field(default_factory=lambda: np.empty(0, RECORD))


@dataclass(frozen=True)
class _Rows:
    """The contents of a file. footers: the metadata, from each place where it is stored. bounds: what is wrong with
    those of its columns, if anything is. ids: empty without a column of this name."""

    table: pa.Table
    footers: list[dict[bytes, bytes]]
    bounds: str
    ids: list[Any]


@dataclass(frozen=True)
class _Documents:
    """[rows] ``hashes`` of ids and ``live`` of each row; [documents] the ``first`` row of each document."""

    hashes: Hashes
    live: Mask
    first: IntArray


def is_chunked(table: Table) -> bool:
    """Whether a document of the table may have several rows."""
    return names.CHUNK in table.layout.schema.names


def examine(table: Table, layout: Layout, receipt: Receipt, wrong: str | None, dead: IntArray) -> Examined:
    """Read a data file and check it against its receipt. Runs in a thread.

    layout: of the snapshot. wrong: what is, according to the listing of all files. dead: [n] rows that are deleted.
    """
    key = names.data_key(receipt.split_id)
    if wrong:
        return _failed(DataFile(receipt), FILES, wrong)
    try:
        found = look_into(table.store, key, _decode)
    except ObjectNotFound:
        return _failed(DataFile(receipt), FILES, f"{key} is missing")
    if isinstance(found, str):
        return _failed(DataFile(receipt), PAGES, found)
    footers = _check_footers(found.footers, table, receipt)
    if found.bounds:
        footers = [*footers, Problem(f"{key} {found.bounds}")]
    if wrong := _other_columns(found.table.schema, table, receipt.covers):
        wrong = f"{key} has {wrong}"
        return _failed(DataFile(receipt, found.table.num_rows), SCHEMA, wrong, {FOOTERS: footers})
    vectors, worst_length = _check_vectors(found, table, key)
    documents, chunks = _find_documents(found, table, key, dead)
    counts, live = _count(found.table, documents, receipt)
    ids = _records(found.table, documents, layout, receipt.covers)
    file = DataFile(
        receipt,
        found.table.num_rows,
        live,
        worst_length,
        ids["row"].astype(np.int32) if is_chunked(table) else None,
    )
    return Examined(file, {FOOTERS: footers, VECTORS: vectors, CHUNKS: chunks, COUNTS: counts}, ids=ids)


def look_into_data_file(table: Table, receipt: Receipt) -> str | None:
    """The first thing that is wrong inside a data file of the right size, if anything is: a `Look` for a repair."""
    found = examine(table, table.layout, receipt, None, np.empty(0, np.int64))
    return next((problem.example for name in PROMISES for problem in found.problems.get(name, ())), None)


def _other_columns(found: pa.Schema, table: Table, covers: str) -> str | None:
    """What is wrong with the columns of a data file, if anything is. covers: of its receipt."""
    if not covers:
        first = table.layout.schema
        return None if is_same(found, first) else difference(found, first)
    # Names alone: types are spelled by Arrow, whose way may change.
    has, said = list(carried_columns(found)), list(json.loads(covers)[1])
    if has != said:
        return f"the carried columns {', '.join(has) or 'none'}, its receipt says {', '.join(said) or 'none'}"
    own = [name for name in table.layout.schema.names if name in names.RESERVED_COLUMNS - {names.ROW_HASH}]
    wanted = pa.schema([table.layout.schema.field(name) for name in own])
    there = pa.schema([found.field(name) for name in own if name in found.names])
    return None if there.equals(wanted) else difference(there, wanted)


def _failed(
    file: DataFile, promise: str, wrong: str, before: Mapping[str, Sequence[Problem]] | None = None
) -> Examined:
    """The file fails ``promise``, so that those after it could not be checked; ``before``: problems found earlier."""
    return Examined(
        file, {**(before or {}), promise: [Problem(wrong)]}, unchecked=PROMISES[PROMISES.index(promise) + 1 :]
    )


def _decode(data: bytes) -> _Rows:
    file = open_parquet(data)
    table = file.read(use_threads=False)
    ids = table.column(names.ID).to_pylist() if names.ID in table.column_names else []
    return _Rows(table, _footers(data), wrong_bounds(file, table), ids)


def _footers(data: bytes) -> list[dict[bytes, bytes]]:
    """The metadata of a file, from both places where Arrow writes it, because readers use either."""
    metadata = pq.read_metadata(in_memory(data)).metadata or {}
    encoded = base64.b64decode(metadata.get(b"ARROW:schema", b""))
    inner = pa.ipc.read_schema(pa.py_buffer(encoded)).metadata or {} if encoded else metadata
    return [metadata] if inner.items() <= metadata.items() and inner else [metadata, inner]


def _check_footers(footers: Sequence[Mapping[bytes, bytes]], table: Table, receipt: Receipt) -> list[Problem]:
    """The problems of the first footer that has any: only damage makes them differ."""
    return next(filter(None, (_check_footer(footer, table, receipt) for footer in footers)), [])


def _check_footer(metadata: Mapping[bytes, bytes], table: Table, receipt: Receipt) -> list[Problem]:
    key, ours, problems = names.data_key(receipt.split_id), table.card.fingerprint, []
    fingerprint = metadata.get(names.FINGERPRINT_KEY.encode(), b"none").decode(errors="replace")
    if fingerprint != ours:
        problems.append(Problem(f"{key} has the fingerprint {fingerprint[:12]}, the table has {ours[:12]}"))
    try:
        written = Receipt.from_json(metadata[names.RECEIPT_KEY.encode()])
    except (KeyError, ValueError, TypeError) as error:
        return [*problems, Problem(f"{key} has no readable receipt: {error!r}")]
    # Compared as JSON, where NaN equals NaN.
    expected = receipt.footer
    if written.to_json() != expected.to_json():
        mine, its = dataclasses.asdict(written), dataclasses.asdict(expected)
        what = next(name for name in mine if json.dumps(mine[name]) != json.dumps(its[name]))
        problems.append(Problem(f"{key} has a receipt with {what} {mine[what]}, the manifest's has {its[what]}"))
    return problems


def _check_vectors(rows: _Rows, table: Table, key: str) -> tuple[list[Problem], float]:
    """The vectors that are not finite or not of length 1, and the largest difference among the others."""
    tolerance = TOLERANCE[table.card.vector_dtype]
    problems: list[Problem] = []
    worst, row = 0.0, 0
    for chunk in rows.table.column(names.EMBEDDING).chunks:
        flat = chunk.flatten().to_numpy(zero_copy_only=False).reshape(len(chunk), table.dim)
        for start in range(0, len(flat), _NORM_ROWS):
            vectors = flat[start : start + _NORM_ROWS].astype(np.float64)
            with np.errstate(invalid="ignore", over="ignore"):
                off = np.abs(np.sqrt(np.einsum("nd,nd->n", vectors, vectors)) - 1)
            good = off <= tolerance  # False for NaN
            worst = max(worst, float(off[good].max(initial=0)))
            problems += _vector_problems(np.flatnonzero(~good), vectors, off, rows.ids, row + start, key)
        row += len(chunk)
    return problems, worst


def _vector_problems(
    bad: IntArray, vectors: NDArray[np.float64], off: NDArray[np.float64], ids: Sequence[Any], first: int, key: str
) -> list[Problem]:
    """bad: [n] numbers of ``vectors`` [m, dim], of which the first is row ``first``. off: [m] length minus 1."""

    def example(at: int) -> str:
        what = f"length {off[at] + 1:.6g}" if np.isfinite(vectors[at]).all() else "not finite"
        return f"row {first + at} of {key} (id {ids[first + at]!r}): {what}"

    return sample(bad, example, f"more of {key}")


def _find_documents(rows: _Rows, table: Table, key: str, dead: IntArray) -> tuple[_Documents, list[Problem]]:
    """The documents, and the chunks that are out of order."""
    hashes, count = halves(hash_ids(rows.ids)), len(rows.ids)
    live = np.ones(count, bool)
    live[dead[(dead >= 0) & (dead < count)]] = False
    if not is_chunked(table):
        return _Documents(hashes, live, np.arange(count)), []
    chunk = rows.table.column(names.CHUNK).to_numpy()
    follows = np.zeros(count, bool)
    follows[1:] = (chunk[1:] == chunk[:-1] + 1) & (live[1:] == live[:-1])
    follows[1:] &= (hashes[1:] == hashes[:-1]).all(axis=1)
    problems = sample(
        np.flatnonzero(~follows & (chunk != 0)),
        lambda at: f"row {at} of {key} (id {rows.ids[at]!r}): chunk {chunk[at]} does not follow the previous chunk",
        f"more of {key}",
    )
    return _Documents(hashes, live, np.flatnonzero(chunk == 0)), problems


def _count(table: pa.Table, documents: _Documents, receipt: Receipt) -> tuple[list[Problem], Live]:
    """The counts that differ from the receipt's, and the sums over live rows."""
    key, first, live = names.data_key(receipt.split_id), documents.first, documents.live
    tokens, truncated = (table.column(name).to_numpy() for name in (names.N_TOKENS, names.TRUNCATED))
    tokens_full = table.column(names.N_TOKENS_FULL).to_numpy()[first]
    held = {
        "vectors": (table.num_rows, receipt.vectors),
        "documents": (len(first), receipt.embedded),
        "tokens": (tokens.sum(dtype=np.int64), receipt.tokens),
        "tokens before truncation": (tokens_full.sum(dtype=np.int64), receipt.tokens_full),
        "truncated rows": (truncated.sum(), receipt.truncated),
    }
    problems = [
        Problem(f"{key}: the number of {what} is {has:,}, its receipt says {says:,}")
        for what, (has, says) in held.items()
        if has != says
    ]
    return problems, Live(
        documents=int(live[first].sum()),
        tokens=int(tokens[live].sum(dtype=np.int64)),
        tokens_full=int(tokens_full[live[first]].sum(dtype=np.int64)),
        truncated=int(truncated[live].sum()),
    )


def _records(table: pa.Table, documents: _Documents, layout: Layout, covers: str) -> IdRecords:
    first = documents.first
    ids = np.empty(len(first), RECORD)
    ids["hash"], ids["more"] = documents.hashes[first, 0], documents.hashes[first, 1]
    texts = halves(table.column(names.CONTENT_HASH))
    whole = texts
    if layout.row_hash_column != names.CONTENT_HASH:
        whole = halves(layout.project(table, [names.ROW_HASH], covers, table.num_rows).column(0))
    ids["content"] = contents_of(texts[first], whole[first])
    ids["row"] = first
    ids["kind"] = np.where(documents.live[first], RecordKind.LIVE, RecordKind.DEAD)
    return ids
