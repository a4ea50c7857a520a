"""Data files, each read whole and held against its receipt: pages, footer, schema, counts, vectors, chunks.

Its ids are handed on as records; what they say together is not looked at here.
"""

import base64
import dataclasses
import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from numpy.typing import NDArray

from sfr_batch.checks.audit.contents import AHEAD, Contents, difference, look_into
from sfr_batch.checks.audit.id_records import (
    NO_CANDIDATE,
    RECORD,
    IdRecords,
    IntArray,
    Mask,
    RecordKind,
    contents_of,
    locate,
)
from sfr_batch.checks.audit.report import (
    CHUNKS,
    COUNTS,
    EXAMPLES,
    FILES,
    FOOTERS,
    PAGES,
    REPORT,
    SCHEMA,
    VECTORS,
    WRITE_ANEW,
    Finding,
    PromiseCheck,
)
from sfr_batch.checks.audit.snapshots import expired_since
from sfr_batch.errors import ObjectNotFound, SfrBatchError, counted
from sfr_batch.format import names
from sfr_batch.format.hashes import Hashes, halves, hash_ids
from sfr_batch.format.parquet import read_parquet
from sfr_batch.format.records import Receipt
from sfr_batch.storage.parallel import in_parallel
from sfr_batch.storage.spill import Spill
from sfr_batch.storage.store import ObjectInfo, in_memory
from sfr_batch.table.table import Snapshot, Table

TOLERANCE = {"float32": 1e-5, "float16": 1e-3}
"""How far a vector's length may be from 1, by the dtype that it is stored in."""
WAYS_OUT = {
    FILES: WRITE_ANEW,
    PAGES: WRITE_ANEW,
    FOOTERS: WRITE_ANEW,
    SCHEMA: WRITE_ANEW,
    COUNTS: REPORT,
    VECTORS: WRITE_ANEW,
    CHUNKS: REPORT,
}
"""Promises that each data file is held against, in the order in which they are looked at, with the way out."""

_IN_FLIGHT = 2**28
"""Bytes of data files that are in memory at a time, about."""
_NORM_ROWS = 1024


@dataclass(frozen=True)
class Place:
    """A row of a data file."""

    where: str
    id: Any
    content_hash: bytes

    def __str__(self) -> str:
        return f"{self.where}, id {self.id!r},"


@dataclass(frozen=True)
class Live:
    """What is live of a data file: documents; of its rows the tokens and how many are truncated; of its documents the
    tokens before truncation or chunking."""

    documents: int = 0
    tokens: int = 0
    tokens_full: int = 0
    truncated: int = 0


class DataFiles:
    """All data files of a snapshot. What is wrong with them is in ``promises``, by name."""

    def __init__(self, table: Table, contents: Contents) -> None:
        self.promises = {name: PromiseCheck(name, way_out) for name, way_out in WAYS_OUT.items()}
        self.bytes = sum(receipt.size for receipt in contents.receipts)
        self._table, self._contents, self._receipts = table, contents, contents.receipts
        self._starts = [0]
        self._orders = {c.split_id: number for number, c in contents.candidates() if isinstance(c, Receipt)}
        self._worst = 0.0
        self.rows = 0
        """Rows that were read."""
        self.live: list[Live] = []
        """What is live of each file."""
        self.documents: list[NDArray[np.int32] | None] = []
        """Of each file the rows with which documents begin, where these may have several; None if it was not read."""

    @property
    def unread(self) -> int:
        """Files that could not be looked into, or not in full."""
        return max(promise.unchecked for promise in self.promises.values())

    def read(self, snapshots: Mapping[int, Snapshot], spill: Spill) -> None:
        """Read them, and see whether those of the other snapshots are there; ids go into ``spill``."""
        committed = self._table.committed()
        self._check_others(snapshots, committed)
        largest = max((receipt.size for receipt in self._receipts), default=1)
        at_once = int(np.clip(_IN_FLIGHT // (3 * max(1, largest)), 2, AHEAD))
        for found in in_parallel(lambda receipt: self._examine(receipt, committed), self._receipts, at_once):
            for promise, example, number in found.problems:
                self.promises[promise].wrong(example, number)
            for promise in found.unchecked:
                self.promises[promise].unchecked += 1
            self._take(found)
            spill.add(found.ids)

    def _take(self, found: "_DataFile") -> None:
        ids, receipt = found.ids, found.receipt
        number = self._orders.get(receipt.split_id)
        ids["order"] = NO_CANDIDATE if number is None else ids["row"] + number
        self.live.append(found.live)
        if is_chunked(self._table):
            self.documents.append(None if found.unchecked else ids["row"].astype(np.int32))
        ids["row"] += self._starts[-1]
        self._worst = max(self._worst, found.worst)
        self.rows += found.rows
        self._starts.append(self._starts[-1] + max(found.rows, receipt.vectors))

    def _examine(self, receipt: Receipt, committed: Mapping[str, ObjectInfo]) -> "_DataFile":
        """Runs in a thread."""
        dead = self._contents.deletes.get(receipt.split_id, np.empty(0, np.int64))
        found = _DataFile(self._table, receipt)
        found.examine(committed, dead)
        return found

    def _check_others(self, snapshots: Mapping[int, Snapshot], committed: Mapping[str, ObjectInfo]) -> None:
        """Data files that only other snapshots name; those of this one are looked into."""
        seen = {receipt.split_id for receipt in self._receipts}
        for number, snapshot in snapshots.items():
            if snapshot is self._contents.snapshot:
                continue
            try:
                receipts = snapshot.receipts
            except (SfrBatchError, pa.ArrowException):  # told as a side file
                continue
            others = [receipt for receipt in receipts if receipt.split_id not in seen]
            absent = [wrong for receipt in others if (wrong := _absent(receipt, committed))]
            if absent and expired_since(self._table, number):
                continue
            for wrong in absent:
                self.promises[FILES].wrong(f"{wrong}; snapshot {number} needs it")
            seen.update(receipt.split_id for receipt in others)

    def file_findings(self) -> Iterator[Finding]:
        """What is true of the files as such."""
        card, files = self._table.card, counted(len(self._receipts), "data file")
        held = {
            FILES: (files, f"there in full, {self.bytes:,} bytes"),
            PAGES: (f"the pages of {self.rows:,} rows", "their checksums are right"),
            FOOTERS: (files, f"fingerprint {card.fingerprint[:12]}, and the receipt of the manifest"),
            SCHEMA: (files, f"the table's {counted(len(self._table.schema), 'column')}"),
        }
        for name, told in held.items():
            yield self.promises[name].finding(*told)

    def row_findings(self) -> Iterator[Finding]:
        """What is true of their rows."""
        tolerance = TOLERANCE[self._table.card.vector_dtype]
        holds = f"finite, lengths off 1 by {self._worst:.1e} (at most {tolerance:g})"
        yield self.promises[VECTORS].finding(f"{self.rows:,} vectors", holds)
        if is_chunked(self._table):
            holds = "those of a document follow each other from 0, all live or none"
            yield self.promises[CHUNKS].finding(f"{self.rows:,} chunks", holds)

    def number_of_row(self, file: IntArray, row: IntArray) -> IntArray:
        """[n] numbers among the rows of all files; file: [n] numbers of files."""
        return np.asarray(self._starts, np.int64)[file] + row

    def place(self, row: int) -> "Place":
        """Where a row is, of all that were read, and what it says of itself, which is read again."""
        number, position = locate(self._starts, row)
        key = names.data_key(self._receipts[number].split_id)
        with self._table.store.open(key) as file:
            columns = pq.ParquetFile(file, pre_buffer=False).read([names.ID, names.CONTENT_HASH], use_threads=False)
        return Place(f"row {position} of {key}", **columns.slice(position, 1).to_pylist()[0])


def is_chunked(table: Table) -> bool:
    """Whether a document may have several rows."""
    return names.CHUNK in table.schema.names


def _absent(receipt: Receipt, committed: Mapping[str, ObjectInfo]) -> str | None:
    """What is wrong with a data file as far as a listing tells."""
    key, info = names.data_key(receipt.split_id), committed.get(receipt.split_id)
    if info is None:
        return f"{key} is missing"
    return None if info.size == receipt.size else f"{key} has {info.size:,} bytes instead of {receipt.size:,}"


class _DataFile:
    """What is found in one data file. ids: a record a document, ``row`` its first row; empty if it was not read."""

    def __init__(self, table: Table, receipt: Receipt) -> None:
        self._table, self.receipt = table, receipt
        self._key = names.data_key(receipt.split_id)
        self.problems: list[tuple[str, str, int]] = []
        self.unchecked: tuple[str, ...] = ()
        self.rows = 0
        self.ids: IdRecords = np.empty(0, RECORD)
        self.live = Live()
        self.worst = 0.0

    def examine(self, committed: Mapping[str, ObjectInfo], dead: IntArray) -> None:
        """Read it and hold it against its receipt, as far as it can be. dead: rows that are not live."""
        if wrong := _absent(self.receipt, committed):
            return self._fail(FILES, wrong)
        try:
            found = look_into(self._table.store, self._key, _decode)
        except ObjectNotFound:
            return self._fail(FILES, f"{self._key} is missing")
        if isinstance(found, str):
            return self._fail(PAGES, found)
        table, footers, ids = found
        self.rows = table.num_rows
        for footer in footers:
            if not self.problems:  # the second is another one only if it is damaged
                self._check_footer(footer)
        if not table.schema.equals(self._table.schema):
            return self._fail(SCHEMA, f"{self._key} has {difference(table.schema, self._table.schema)}")
        self._check_vectors(table.column(names.EMBEDDING), ids)
        self._take_ids(table, ids, dead)

    def _fail(self, promise: str, example: str) -> None:
        """Note what is wrong, and that the promises after this one cannot be looked at."""
        self._wrong(promise, example)
        self.unchecked = tuple(WAYS_OUT)[list(WAYS_OUT).index(promise) + 1 :]

    def _wrong(self, promise: str, example: str, number: int = 1) -> None:
        self.problems.append((promise, example, number))

    def _check_footer(self, metadata: Mapping[bytes, bytes]) -> None:
        ours = self._table.card.fingerprint
        fingerprint = metadata.get(names.FINGERPRINT_KEY.encode(), b"none").decode(errors="replace")
        if fingerprint != ours:
            self._wrong(FOOTERS, f"{self._key} has the fingerprint {fingerprint[:12]}, the table {ours[:12]}")
        try:
            written = Receipt.from_json(metadata[names.RECEIPT_KEY.encode()])
        except (KeyError, ValueError, TypeError) as error:
            self._wrong(FOOTERS, f"{self._key} has no readable receipt: {error!r}")
            return
        # As JSON, in which a number that is none equals itself.
        expected = self.receipt.footer
        if written.to_json() != expected.to_json():
            mine, its = dataclasses.asdict(written), dataclasses.asdict(expected)
            what = next(name for name in mine if json.dumps(mine[name]) != json.dumps(its[name]))
            self._wrong(FOOTERS, f"{self._key} has a receipt with {what} {mine[what]}, the manifest's has {its[what]}")

    def _check_vectors(self, column: pa.ChunkedArray, ids: Sequence[Any]) -> None:
        tolerance = TOLERANCE[self._table.card.vector_dtype]
        row = 0
        for chunk in column.chunks:
            flat = chunk.flatten().to_numpy(zero_copy_only=False).reshape(len(chunk), self._table.dim)
            for start in range(0, len(flat), _NORM_ROWS):
                vectors = flat[start : start + _NORM_ROWS].astype(np.float64)
                with np.errstate(invalid="ignore", over="ignore"):
                    off = np.abs(np.sqrt(np.einsum("nd,nd->n", vectors, vectors)) - 1)
                good = off <= tolerance  # which a NaN is not
                bad = np.flatnonzero(~good)
                self.worst = max(self.worst, float(off[good].max(initial=0)))
                for at in bad[:EXAMPLES]:
                    what = f"of length {off[at] + 1:.6g}" if np.isfinite(vectors[at]).all() else "not finite"
                    where = f"row {row + start + at} of {self._key}, id {ids[row + start + at]!r}"
                    self._wrong(VECTORS, f"{where}: {what}")
                if len(bad) > EXAMPLES:
                    self._wrong(VECTORS, f"more of {self._key}", len(bad) - EXAMPLES)
            row += len(chunk)

    def _take_ids(self, table: pa.Table, ids: Sequence[Any], dead: IntArray) -> None:
        hashes = halves(hash_ids(ids))
        live = np.ones(len(ids), bool)
        live[dead[(dead >= 0) & (dead < len(ids))]] = False
        first = np.arange(len(ids))
        if is_chunked(self._table):
            first = self._check_chunks(table.column(names.CHUNK).to_numpy(), hashes, live, ids)
        self.ids = np.empty(len(first), RECORD)
        self.ids["hash"], self.ids["more"] = hashes[first, 0], hashes[first, 1]
        texts = halves(table.column(names.CONTENT_HASH))
        whole = halves(table.column(names.ROW_HASH)) if names.ROW_HASH in table.column_names else texts
        self.ids["content"] = contents_of(texts[first], whole[first])
        self.ids["row"] = first
        self.ids["kind"] = np.where(live[first], RecordKind.LIVE, RecordKind.DEAD)
        receipt = self.receipt
        tokens, truncated = (table.column(name).to_numpy() for name in (names.N_TOKENS, names.TRUNCATED))
        tokens_full = table.column(names.N_TOKENS_FULL).to_numpy()[first]
        held = {
            "vectors": (table.num_rows, receipt.vectors),
            "documents": (len(first), receipt.embedded),
            "tokens": (tokens.sum(dtype=np.int64), receipt.tokens),
            "tokens before truncation": (tokens_full.sum(dtype=np.int64), receipt.tokens_full),
            "truncated rows": (truncated.sum(), receipt.truncated),
        }
        self.live = Live(
            documents=int(live[first].sum()),
            tokens=int(tokens[live].sum(dtype=np.int64)),
            tokens_full=int(tokens_full[live[first]].sum(dtype=np.int64)),
            truncated=int(truncated[live].sum()),
        )
        for what, (has, says) in held.items():
            if has != says:
                self._wrong(COUNTS, f"{self._key} has {has:,} {what}, its receipt says {says:,}")

    def _check_chunks(self, chunk: IntArray, hashes: Hashes, live: Mask, ids: Sequence[Any]) -> IntArray:
        """The first row of each document."""
        follows = np.zeros(len(chunk), bool)
        follows[1:] = (chunk[1:] == chunk[:-1] + 1) & (live[1:] == live[:-1])
        follows[1:] &= (hashes[1:] == hashes[:-1]).all(axis=1)
        for at in np.flatnonzero(~follows & (chunk != 0)):
            where = f"row {at} of {self._key}, id {ids[at]!r}"
            self._wrong(CHUNKS, f"{where}: chunk {chunk[at]} does not follow the one before")
        return np.flatnonzero(chunk == 0)


def _decode(data: bytes) -> tuple[pa.Table, list[dict[bytes, bytes]], list[Any]]:
    """The rows, what stands in the footer, and the ids; none where there is no such column."""
    table = read_parquet(data)
    return table, _footers(data), table.column(names.ID).to_pylist() if names.ID in table.column_names else []


def _footers(data: bytes) -> list[dict[bytes, bytes]]:
    """What stands in a file's footer, from both places in which Arrow writes it: readers take either."""
    metadata = pq.read_metadata(in_memory(data)).metadata or {}
    encoded = base64.b64decode(metadata.get(b"ARROW:schema", b""))
    inner = pa.ipc.read_schema(pa.py_buffer(encoded)).metadata or {} if encoded else metadata
    return [metadata] if inner.items() <= metadata.items() and inner else [metadata, inner]
