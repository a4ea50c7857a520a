"""What a table promises, checked: every byte of it read, nothing of it changed.

One finding a promise. A snapshot is fixed first and everything else is held against it, so that a run that goes on
meanwhile raises no alarm; what it has not published yet is told as an orphan. Memory is a few data files and one
partition of ids, whatever the table's size. Knows no Ray, no torch and no model.
"""

import dataclasses
import hashlib
import json
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
from numpy.typing import NDArray

from sfr_batch import schema as names
from sfr_batch.commit import Orphans, find_orphans
from sfr_batch.corpus import list_shards, survey_shards
from sfr_batch.duplicates import Spill
from sfr_batch.errors import CountsDoNotClose, ObjectNotFound, SfrBatchError, StorageError, TableError
from sfr_batch.fingerprint import digest
from sfr_batch.manifest import Manifest, Receipt, SideFile
from sfr_batch.planning import EmbedPlan, carry_over
from sfr_batch.rows import Rows, read_unit
from sfr_batch.splits import ReadUnit, cut
from sfr_batch.status import unfinished_runs
from sfr_batch.storage import ObjectInfo, in_memory, in_parallel
from sfr_batch.table import Positions, Snapshot, Table, read_parquet
from sfr_batch.verification.report import Check, Checks

TOLERANCE = {"float32": 1e-5, "float16": 1e-3}
"""How far a vector's length may be from 1, by the dtype that it is stored in."""
PARTITION_ROWS = 2**23
"""Ids that are compared in memory at a time, at about 100 bytes each."""
EXAMPLES = 5
"""Examples that a finding has at most."""

_AHEAD = 16
"""Small files that are read at a time; of data files fewer, so that they take about ``_IN_FLIGHT`` bytes."""
_IN_FLIGHT = 2**30
_NORM_ROWS = 1024
_CORPUS_ROWS, _CORPUS_BYTES = 8192, 32 * 2**20
"""Rows and bytes of text of the corpus that are in memory at a time, about."""

IntArray = NDArray[np.int64]
Records = NDArray[np.void]

_RECORD = np.dtype(
    [("hash", np.uint64), ("more", np.uint64), ("content", np.uint64), ("row", np.int64), ("kind", np.uint8)]
)
_LIVE, _DEAD, _DUPLICATE, _REJECTED_ID, _REJECTED_ROW, _IN_CORPUS, _BAD_IN_CORPUS = range(7)
"""Kinds of records. A row that reading rejects is known by shard and position, for it may have no id; all others by
id."""
_AFTER_READING = ("bad_vector", "too_long")

WRITE_ANEW = "Restore what is named from a copy, or write to a new table: table.path=<another path>."
EMBED = "Run `sfr-batch embed` with this config, then audit again."
REPORT = "No crash leaves this behind; restore the table from a copy, and please report it."
"""The ways out."""


@dataclass(frozen=True)
class Finding(Check):
    """What the audit says of one promise. problems: how many were found; examples: the first few of them, each naming
    a file, a row or an id; way_out: what to do about it."""

    problems: int = 0
    examples: tuple[str, ...] = ()
    way_out: str = ""

    def __str__(self) -> str:
        more = self.problems - len(self.examples)
        lines = [super().__str__(), *(f"        {example}" for example in self.examples)]
        if self.examples and more > 0:
            lines.append(f"        and {more:,} more")
        return "\n".join([*lines, f"        {self.way_out}"] if self.way_out else lines)


@dataclass(frozen=True)
class Audit(Checks):
    """All findings about one snapshot of a table, in order."""

    table: str
    snapshot: int | None
    """The snapshot that was audited; None if nothing is published."""
    checks: tuple[Finding, ...]
    rows: int
    """Rows of data files that were read, dead ones included."""
    bytes: int
    """Bytes of data files that were read."""
    seconds: float
    plain: bool
    """Whether `data/*.parquet` is the newest snapshot's rows and nothing else, for any engine to read."""
    orphans: int
    """Objects that no snapshot names."""
    orphan_bytes: int

    def __repr__(self) -> str:
        return f"<Audit {self.table}, snapshot {self.snapshot}: {self.summary()}>"

    def brief(self) -> str:
        """Two lines for a person."""
        rate = f", {self.rows / self.seconds:,.0f} rows/s" if self.seconds > 0 and self.rows else ""
        what = f"snapshot {self.snapshot} of {self.table}, {self.rows:,} rows, {self.bytes / 1e6:,.1f} MB"
        return f"{self.summary()}\n{what} in {self.seconds:,.1f} s{rate}"

    def to_json(self) -> str:
        """The whole of it as a JSON object; ``checks`` has an object a finding."""
        return json.dumps({"ok": self.ok} | dataclasses.asdict(self), indent=1, ensure_ascii=False)


Each = Callable[[Finding], None]


def audit(
    table: Table,
    against: EmbedPlan | None = None,
    snapshot: int | None = None,
    *,
    each: Each = lambda finding: None,
    partition_rows: int = PARTITION_ROWS,
) -> Audit:
    """Check what the table promises. Reads all of a snapshot's data files; writes and deletes nothing.

    against: a plan of the corpus (`make_plan`); then every row of it is read too and has to be live or rejected, with
    the text that its vector was made of, and nothing else may be in the table. snapshot: its number, default the
    newest. each: is given every finding as soon as there is one. partition_rows: ids in memory at a time.

    Raises TableNotFound if there is no such snapshot, StorageError if the store cannot be read, and with ``against``
    CorpusError if the corpus cannot; all else that is wrong is a finding.
    """
    return _Auditor(table, against, each, partition_rows).run(snapshot)


class _Promise:
    """Collects what is wrong with one promise, and what of it could not be checked."""

    def __init__(self, name: str, way_out: str) -> None:
        self.name = name
        self.problems = self.unchecked = 0
        self._examples: list[str] = []
        self._way_out = way_out

    def wrong(self, example: str, count: int = 1) -> None:
        self.problems += count
        if len(self._examples) < EXAMPLES:
            self._examples.append(example)

    def finding(self, what: str, holds: str) -> Finding:
        """what: that which was checked, with its number; holds: what is true of it if there is no problem."""
        more = f"; {_count(self.unchecked, 'file')} could not be looked into" if self.unchecked else ""
        if not self.problems:
            return Finding(self.name, "SKIP" if self.unchecked else "PASS", f"{what}: {holds}{more}")
        told = f"{what}: {_count(self.problems, 'problem')}{more}"
        return Finding(self.name, "FAIL", told, self.problems, tuple(self._examples), self._way_out)


FILES, PAGES, FOOTERS, SCHEMA = "data files", "pages", "footers", "schema"
REJECTS, COUNTS, VECTORS, CHUNKS, IDS = "rejects", "counts", "vectors", "chunks", "ids"
DUPLICATES, DELETES, CONDEMNED = "duplicates", "deletes", "condemned"
SNAPSHOTS, SIDES, ORPHANS, PLAIN, RUNS = "snapshots", "side files", "orphans", "plain", "runs"
SHARDS, CORPUS, TEXTS = "shards", "corpus rows", "texts"
"""The names of the findings."""

_OF_FILES = {
    FILES: WRITE_ANEW,
    PAGES: WRITE_ANEW,
    FOOTERS: WRITE_ANEW,
    SCHEMA: WRITE_ANEW,
    COUNTS: REPORT,
    VECTORS: WRITE_ANEW,
    CHUNKS: REPORT,
}
"""Promises that each data file is held against, with the way out."""


@dataclass
class _File:
    """What was found in one data file. ids: a record a document, ``row`` its first row; empty if it was not read."""

    problems: list[tuple[str, str, int]] = field(default_factory=list)
    unchecked: tuple[str, ...] = ()
    rows: int = 0
    ids: Records = field(default_factory=lambda: np.empty(0, _RECORD))
    worst: float = 0.0

    def wrong(self, promise: str, example: str, count: int = 1) -> None:
        self.problems.append((promise, example, count))

    def give_up(self, *promises: str) -> "_File":
        self.unchecked = (*self.unchecked, *promises)
        return self


class _Auditor:
    """One audit."""

    def __init__(self, table: Table, against: EmbedPlan | None, each: Each, partition_rows: int) -> None:
        self.table, self.store, self.against = table, table.store, against
        self.each, self.partition_rows = each, partition_rows
        self.findings: list[Finding] = []
        self.chunked = names.CHUNK in table.schema.names
        self.is_int = pa.types.is_integer(table.schema.field(names.ID).type)
        self.rows = self.bytes = 0

    def run(self, number: int | None) -> Audit:
        started = time.monotonic()
        numbers = self.table.snapshot_numbers()
        newest = numbers[-1] if numbers else None
        if number is not None and number not in numbers:
            self.table.snapshot(number)  # raises
        number = newest if number is None else number
        snapshots = self._chain(newest)
        if number in snapshots:
            self._snapshot(snapshots, number)
        orphans, plain = self._surroundings(snapshots, newest)
        return Audit(
            table=self.store.root,
            snapshot=number,
            checks=tuple(self.findings),
            rows=self.rows,
            bytes=self.bytes,
            seconds=time.monotonic() - started,
            plain=plain,
            orphans=len(orphans.objects),
            orphan_bytes=orphans.bytes,
        )

    def _found(self, finding: Finding) -> None:
        self.findings.append(finding)
        self.each(finding)

    # --- snapshots and their side files

    def _chain(self, newest: int | None) -> dict[int, Snapshot]:
        """The snapshots that can be read, by number."""
        if newest is None:
            self._found(Finding(SNAPSHOTS, "SKIP", "nothing is published yet"))
            return {}
        promise = _Promise(SNAPSHOTS, WRITE_ANEW)
        # Listed again: what is there now and up to the newest one is what it follows from.
        keys = [info.key for info in self.store.list(names.SNAPSHOTS)]
        manifests = Counter(number for key in keys if (number := names.number_of_manifest_key(key)) is not None)
        for number, times in sorted(manifests.items()):
            if times > 1:
                promise.wrong(f"snapshot {number} has {times} manifests")
        snapshots: dict[int, Snapshot] = {}
        for number, found in zip(
            range(1, newest + 1), self._in_parallel(self._manifest, range(1, newest + 1)), strict=True
        ):
            key = names.manifest_key(number)
            if isinstance(found, str):
                promise.wrong(found)
                continue
            manifest = found.manifest
            snapshots[number] = found
            if manifest.snapshot != number:
                promise.wrong(f"{key} is the manifest of snapshot {manifest.snapshot}")
            parent = number - 1 or None
            if manifest.parent != parent:
                promise.wrong(f"{key} follows snapshot {manifest.parent}, and should follow {parent}")
        self._found(promise.finding(_count(newest, "snapshot"), f"numbers 1 to {newest}, each follows the one before"))
        return snapshots

    def _manifest(self, number: int) -> Snapshot | str:
        try:
            return self.table.snapshot(number)
        except TableError as error:
            return str(error)

    def _sides(self, snapshots: Mapping[int, Snapshot]) -> None:
        """Side files of all snapshots: older ones can be read too."""
        promise = _Promise(SIDES, WRITE_ANEW)
        sides = {side.name: (number, side) for number, s in snapshots.items() for side in _sides_of(s.manifest)}
        for wrong in self._in_parallel(self._side, list(sides.values())):
            if wrong:
                promise.wrong(wrong)
        self._found(promise.finding(_count(len(sides), "side file"), "SHA-256 and rows are those of the manifests"))

    def _side(self, numbered: tuple[int, SideFile]) -> str | None:
        number, side = numbered
        try:
            data = self.store.read(side.name)
        except ObjectNotFound:
            return f"{side.name} of snapshot {number} is missing"
        if hashlib.sha256(data).hexdigest() != side.sha256:
            return f"{side.name} is not the file that snapshot {number} was published with"
        rows = pq.read_metadata(in_memory(data)).num_rows
        return None if rows == side.rows else f"{side.name} has {rows:,} rows, snapshot {number} says {side.rows:,}"

    def _snapshot(self, snapshots: Mapping[int, Snapshot], number: int) -> None:
        """Everything that one snapshot names."""
        self._sides(snapshots)
        self.snapshot = snapshot = snapshots[number]
        try:
            self.receipts: list[Receipt] = snapshot.receipts
            self.deletes: dict[str, Positions] = snapshot.deletes()
            shards, condemned = snapshot.shards, snapshot.condemned
        except (SfrBatchError, pa.ArrowException) as error:
            why = f"snapshot {number} cannot be read: {error}"
            for name in (*_OF_FILES, REJECTS, IDS, DUPLICATES, DELETES, CONDEMNED):
                self._found(Finding(name, "SKIP", why))
            return
        self.promises = {name: _Promise(name, way_out) for name, way_out in _OF_FILES.items()}
        documents = sum(receipt.embedded for receipt in self.receipts)
        total = documents + sum(receipt.rejected for receipt in self.receipts)
        if self.against:
            total *= 2
        with tempfile.TemporaryDirectory(prefix="sfr-audit-") as folder:
            self.spill = Spill(Path(folder), _RECORD, total, self.partition_rows)
            self._read_data_files(snapshots)
            duplicates = self._read_rejects()
            self._check_counts(shards, duplicates)
            self._tell_files()
            self._check_deletes()
            self._check_condemned(condemned)
            self._check_rows(documents)

    def _in_parallel(self, read: Callable[[Any], Any], things: Sequence[Any]) -> Iterator[Any]:
        return in_parallel(read, things, _AHEAD)

    # --- data files

    def _read_data_files(self, snapshots: Mapping[int, Snapshot]) -> None:
        committed = self.table.committed()
        self._check_older(snapshots, committed)
        largest = max((receipt.size for receipt in self.receipts), default=1)
        at_once = int(np.clip(_IN_FLIGHT // (3 * max(1, largest)), 2, _AHEAD))
        self.starts = [0]
        self.worst = 0.0
        self.unread = False
        for found in in_parallel(lambda receipt: self._examine(receipt, committed), self.receipts, at_once):
            for promise, example, count in found.problems:
                self.promises[promise].wrong(example, count)
            for name in found.unchecked:
                self.promises[name].unchecked += 1
            found.ids["row"] += self.starts[-1]
            self.spill.add(found.ids)
            self.unread |= bool(found.unchecked)
            self.worst = max(self.worst, found.worst)
            self.rows += found.rows
            self.starts.append(self.starts[-1] + found.rows)
        self.bytes = sum(receipt.size for receipt in self.receipts)

    def _check_older(self, snapshots: Mapping[int, Snapshot], committed: Mapping[str, ObjectInfo]) -> None:
        """Data files that only other snapshots name; those of this one are looked into."""
        seen = {receipt.split_id for receipt in self.receipts}
        for number, snapshot in snapshots.items():
            if snapshot is self.snapshot:
                continue
            try:
                receipts = snapshot.receipts
            except (SfrBatchError, pa.ArrowException):  # told as a side file
                continue
            for receipt in receipts:
                if receipt.split_id not in seen:
                    seen.add(receipt.split_id)
                    if wrong := _absent(receipt, committed):
                        self.promises[FILES].wrong(f"{wrong}; snapshot {number} needs it")

    def _examine(self, receipt: Receipt, committed: Mapping[str, ObjectInfo]) -> _File:
        """Read one data file and hold it against its receipt. Runs in a thread."""
        found = _File()
        key = names.data_key(receipt.split_id)
        rest = (PAGES, FOOTERS, SCHEMA, COUNTS, VECTORS, CHUNKS)
        if wrong := _absent(receipt, committed):
            found.wrong(FILES, wrong)
            return found.give_up(*rest)
        try:
            data = self.store.read(key)
            table = read_parquet(data)
            ids = table.column(names.ID).to_pylist() if names.ID in table.column_names else None
        except ObjectNotFound:
            found.wrong(FILES, f"{key} is missing")
            return found.give_up(*rest)
        except StorageError:
            raise
        except (OSError, ValueError, pa.ArrowException) as error:
            found.wrong(PAGES, f"{key} is damaged: {' '.join(str(error).split())}")
            return found.give_up(*rest[1:])
        del data
        found.rows = table.num_rows
        self._check_footer(found, key, table, receipt)
        if not table.schema.equals(self.table.schema):
            found.wrong(SCHEMA, f"{key} has {_difference(table.schema, self.table.schema)}")
            return found.give_up(COUNTS, VECTORS, CHUNKS)
        assert ids is not None
        self._check_vectors(found, key, table.column(names.EMBEDDING), ids)
        self._take_ids(found, key, table, ids, receipt)
        return found

    def _check_footer(self, found: _File, key: str, table: pa.Table, receipt: Receipt) -> None:
        metadata = table.schema.metadata or {}
        fingerprint = metadata.get(names.FINGERPRINT_KEY.encode(), b"none").decode(errors="replace")
        if fingerprint != self.table.card.fingerprint:
            expected = self.table.card.fingerprint[:12]
            found.wrong(FOOTERS, f"{key} has the fingerprint {fingerprint[:12]}, the table {expected}")
        try:
            written = Receipt.from_json(metadata[names.RECEIPT_KEY.encode()])
        except (KeyError, ValueError, TypeError) as error:
            found.wrong(FOOTERS, f"{key} has no readable receipt: {error!r}")
            return
        # As JSON, in which a number that is none equals itself.
        if written.to_json() != dataclasses.replace(receipt, size=0).to_json():
            mine, its = dataclasses.asdict(written), dataclasses.asdict(receipt)
            what = next(name for name in mine if name != "size" and mine[name] != its[name])
            found.wrong(FOOTERS, f"{key} has a receipt with {what} {mine[what]}, the manifest's has {its[what]}")

    def _check_vectors(self, found: _File, key: str, column: pa.ChunkedArray, ids: Sequence[Any]) -> None:
        tolerance = TOLERANCE[self.table.card.vector_dtype]
        row = 0
        for chunk in column.chunks:
            flat = chunk.flatten().to_numpy(zero_copy_only=False).reshape(len(chunk), -1)
            for start in range(0, len(flat), _NORM_ROWS):
                vectors = flat[start : start + _NORM_ROWS].astype(np.float64)
                with np.errstate(invalid="ignore", over="ignore"):
                    off = np.abs(np.sqrt(np.einsum("nd,nd->n", vectors, vectors)) - 1)
                bad = np.flatnonzero(~(off <= tolerance))  # not >: a NaN is bad
                good = np.where(off <= tolerance, off, 0)
                found.worst = max(found.worst, float(good.max(initial=0)))
                for at in bad[:EXAMPLES]:
                    what = f"of length {off[at] + 1:.6g}" if np.isfinite(vectors[at]).all() else "not finite"
                    found.wrong(VECTORS, f"row {row + start + at} of {key}, id {ids[row + start + at]!r}: {what}")
                if len(bad) > EXAMPLES:
                    found.wrong(VECTORS, f"more of {key}", len(bad) - EXAMPLES)
            row += len(chunk)

    def _take_ids(self, found: _File, key: str, table: pa.Table, ids: Sequence[Any], receipt: Receipt) -> None:
        hashes = _hashes(ids)
        live = np.ones(len(ids), bool)
        dead = self.deletes.get(receipt.split_id, np.empty(0, np.int64))
        live[dead[(dead >= 0) & (dead < len(ids))]] = False
        first = np.arange(len(ids))
        if self.chunked:
            first = self._check_chunks(found, key, table.column(names.CHUNK).to_numpy(), hashes, live, ids)
        records = np.empty(len(first), _RECORD)
        records["hash"], records["more"] = hashes[0][first], hashes[1][first]
        records["content"] = _head(table.column(names.CONTENT_HASH))[first]
        records["row"] = first
        records["kind"] = np.where(live[first], _LIVE, _DEAD)
        found.ids = records
        held = {
            "vectors": (table.num_rows, receipt.vectors),
            "documents": (len(first), receipt.embedded),
            "tokens": (pc.sum(table.column(names.N_TOKENS)).as_py() or 0, receipt.tokens),
            "truncated rows": (pc.sum(table.column(names.TRUNCATED)).as_py() or 0, receipt.truncated),
        }
        for what, (has, says) in held.items():
            if has != says:
                found.wrong(COUNTS, f"{key} has {has:,} {what}, its receipt says {says:,}")

    def _check_chunks(
        self,
        found: _File,
        key: str,
        chunk: IntArray,
        hashes: tuple[NDArray[np.uint64], NDArray[np.uint64]],
        live: NDArray[np.bool_],
        ids: Sequence[Any],
    ) -> IntArray:
        """The first row of each document."""
        same = np.ones(len(chunk), bool)
        for half in hashes:
            same[1:] &= half[1:] == half[:-1]
        follows = np.zeros(len(chunk), bool)
        follows[1:] = same[1:] & (chunk[1:] == chunk[:-1] + 1) & (live[1:] == live[:-1])
        for at in np.flatnonzero(~follows & (chunk != 0)):
            found.wrong(CHUNKS, f"row {at} of {key}, id {ids[at]!r}: chunk {chunk[at]} does not follow the one before")
        return np.flatnonzero(chunk == 0)

    # --- rejects

    def _read_rejects(self) -> int:
        """Checks the rejects files, remembers whom they reject. Returns how many duplicates there are."""
        promise = self.promises[REJECTS] = _Promise(REJECTS, WRITE_ANEW)
        expected: list[tuple[str, int | None, str | None]] = [
            (names.rejects_key(r.split_id, r.attempt), r.rejected, r.shard) for r in self.receipts if r.rejected
        ]
        if self.snapshot.manifest.duplicates:
            expected.append((self.snapshot.manifest.duplicates, None, None))
        duplicates = 0
        self.reject_starts = [0]
        for (key, rows, shard), found in zip(expected, self._in_parallel(self._rejects, expected), strict=True):
            self.reject_starts.append(self.reject_starts[-1] + (0 if isinstance(found, str) else found.num_rows))
            if isinstance(found, str):
                promise.wrong(found)
                self.unread = True
                continue
            if rows is not None and found.num_rows != rows:
                promise.wrong(f"{key} has {found.num_rows:,} rows, the receipt of its split says {rows:,}")
            if shard is not None and set(found.column("shard").to_pylist()) - {shard}:
                promise.wrong(f"{key} has rejects of another shard than {shard}")
            reasons = found.column("reason").to_pylist()
            if (shard is None) != ("duplicate_id" in reasons) and found.num_rows:
                promise.wrong(f"{key} has the reasons {', '.join(sorted(set(reasons)))}")
            if shard is None:
                duplicates = found.num_rows
            self._take_rejects(found, self.reject_starts[-2])
        total = self.reject_starts[-1]
        self.rejects_held = f"{total:,} rows in {_count(len(expected), 'file')}", "as many as the receipts say"
        return duplicates

    def _rejects(self, expected: tuple[str, int | None, str | None]) -> pa.Table | str:
        key = expected[0]
        try:
            table = read_parquet(self.store.read(key))
            table.validate(full=True)
        except ObjectNotFound:
            return f"{key} is missing"
        except StorageError:
            raise
        except (OSError, ValueError, pa.ArrowException) as error:
            return f"{key} is damaged: {' '.join(str(error).split())}"
        if not table.schema.equals(names.REJECTS_SCHEMA):
            return f"{key} has {_difference(table.schema, names.REJECTS_SCHEMA)}"
        return table

    def _take_rejects(self, rejects: pa.Table, first: int) -> None:
        reasons = rejects.column("reason")
        numbers = np.arange(first, first + rejects.num_rows)
        duplicate = pc.equal(reasons, "duplicate_id").to_numpy()
        after = pc.is_in(reasons, pa.array(_AFTER_READING)).to_numpy()
        for kind, mask in ((_DUPLICATE, duplicate), (_REJECTED_ID, after), (_REJECTED_ROW, ~duplicate & ~after)):
            some = rejects.filter(pa.array(mask))
            keys = _places(some) if kind == _REJECTED_ROW else self._ids_of(some.column(names.ID).to_pylist())
            self.spill.add(_records(_hashes(keys), kind, numbers[mask]))

    def _ids_of(self, texts: Sequence[str | None]) -> list[Any]:
        """Ids as rejects have them, as the table has them."""
        return [int(text) if self.is_int and text is not None else text for text in texts]

    # --- counts, deletes, condemned names

    def _check_counts(self, shards: Sequence[Any], duplicates: int) -> None:
        promise, counts = self.promises[COUNTS], self.snapshot.manifest.counts
        for split_id, times in Counter(receipt.split_id for receipt in self.receipts).items():
            if times > 1:
                promise.wrong(f"split {split_id} is {times} times in snapshot {self.snapshot.number}")
        read: Counter[str] = Counter()
        splits: Counter[str] = Counter()
        versions: dict[str, set[str]] = {}
        for receipt in self.receipts:
            try:
                receipt.check()
            except CountsDoNotClose as error:
                promise.wrong(str(error))
            if receipt.vectors < receipt.embedded or (receipt.vectors > receipt.embedded and not self.chunked):
                promise.wrong(f"split {receipt.split_id} has {receipt.vectors} vectors of {receipt.embedded} documents")
            read[receipt.shard] += receipt.read
            splits[receipt.shard] += 1
            versions.setdefault(receipt.shard, set()).add(receipt.version)
        known = {record.uri for record in shards}
        for shard in sorted(read.keys() - known):
            promise.wrong(f"{shard} has splits, and is not among the shards of snapshot {self.snapshot.number}")
        for record in shards:
            if (read[record.uri], splits[record.uri]) != (record.read, record.splits):
                promise.wrong(
                    f"{record.uri} has {record.read:,} rows in {_count(record.splits, 'split')}, the receipts of its "
                    f"splits say {read[record.uri]:,} in {splits[record.uri]:,}"
                )
            if versions.get(record.uri, {record.version}) != {record.version}:
                promise.wrong(f"{record.uri} is covered in version {record.version}, a split of it is of another")
        deleted = sum(map(len, self.deletes.values()))
        total = {name: sum(getattr(r, name) for r in self.receipts) for name in ("embedded", "rejected", "vectors")}
        total |= {name: sum(getattr(r, name) for r in self.receipts) for name in ("tokens", "truncated")}
        has_duplicates = REJECTS not in self.promises or not self.promises[REJECTS].problems
        held = {
            "rows read": (counts.read, counts.embedded + counts.reused + counts.rejected),
            "rows of its shards": (counts.read, sum(record.read for record in shards)),
            "vectors": (counts.vectors, total["vectors"] - deleted),
            "tokens": (counts.tokens, total["tokens"]),
            "truncated rows": (counts.truncated, total["truncated"]),
        }
        if has_duplicates:
            held["rejects"] = (counts.rejected, total["rejected"] + duplicates)
            held["documents"] = (counts.embedded + counts.reused, total["embedded"] - duplicates)
        for what, (says, has) in held.items():
            if says != has:
                promise.wrong(f"snapshot {self.snapshot.number} says {says:,} {what}, there are {has:,}")

    def _tell_files(self) -> None:
        counts, tolerance = self.snapshot.manifest.counts, TOLERANCE[self.table.card.vector_dtype]
        files = _count(len(self.receipts), "data file")
        held = {
            FILES: (files, f"there in full, {self.bytes:,} bytes"),
            PAGES: (f"the pages of {self.rows:,} rows", "their checksums are right"),
            FOOTERS: (files, f"fingerprint {self.table.card.fingerprint[:12]}, and the receipt of the manifest"),
            SCHEMA: (files, f"the table's {_count(len(self.table.schema), 'column')}"),
            REJECTS: self.rejects_held,
            COUNTS: (
                f"{counts.read:,} rows read",
                f"{counts.embedded:,} embedded + {counts.reused:,} reused + {counts.rejected:,} rejected; "
                f"{counts.vectors:,} vectors",
            ),
            VECTORS: (f"{self.rows:,} vectors", f"finite, lengths off 1 by {self.worst:.1e} (at most {tolerance:g})"),
            CHUNKS: (f"{self.rows:,} chunks", "those of a document follow each other from 0, all live or none"),
        }
        for name, (what, holds) in held.items():
            if name != CHUNKS or self.chunked:
                self._found(self.promises[name].finding(what, holds))

    def _check_deletes(self) -> None:
        promise = _Promise(DELETES, REPORT)
        rows = {receipt.split_id: receipt.vectors for receipt in self.receipts}
        for split_id, positions in self.deletes.items():
            key = names.data_key(split_id)
            if split_id not in rows:
                promise.wrong(f"rows of {key} are deleted, which snapshot {self.snapshot.number} does not have")
                continue
            for position in positions[(positions < 0) | (positions >= rows[split_id])].tolist():
                promise.wrong(f"row {position} of {key} is deleted, it has {rows[split_id]:,} rows")
            if len(np.unique(positions)) < len(positions):
                promise.wrong(f"a row of {key} is deleted twice")
        self._found(
            promise.finding(f"{sum(map(len, self.deletes.values())):,} deleted rows", "each in a live data file")
        )

    def _check_condemned(self, condemned: frozenset[str]) -> None:
        promise = _Promise(CONDEMNED, REPORT)
        for receipt in self.receipts:
            if receipt.split_id in condemned:
                promise.wrong(f"{names.data_key(receipt.split_id)} is live, and a sweep has condemned its name")
        self._found(promise.finding(_count(len(condemned), "condemned name"), "none is live"))

    # --- rows

    def _check_rows(self, documents: int) -> None:
        """What the ids say: of the table alone, and against the corpus."""
        against = self.against
        corpus = _Corpus(against, self.snapshot) if against else None
        if corpus:
            self._found(corpus.shards(self.table.card.fingerprint))
            for records in corpus.records():
                self.spill.add(records)
        ids, duplicates = _Promise(IDS, REPORT), _Promise(DUPLICATES, REPORT)
        rows, texts = _Promise(CORPUS, EMBED), _Promise(TEXTS, EMBED)
        live = duplicate = also = 0
        for records in self.spill.partitions():
            groups = _Groups(records)
            n = groups.counts
            live += int(n[_LIVE].sum())
            duplicate += int(n[_DUPLICATE].sum())
            also += int(((n[_LIVE] > 0) & (n[_REJECTED_ID] > 0)).sum())
            for group in _first(ids, np.flatnonzero(n[_LIVE] > 1)):
                places = [self._place(row) for row in groups.rows(group, _LIVE)]
                ids.wrong(f"id {places[0][1]!r} is live {len(places)} times: {_and(name for name, _ in places)}")
            # Where something could not be read, nothing is said of what is not there.
            unequal = (not self.unread) & ((n[_DEAD] != n[_DUPLICATE]) | ((n[_DUPLICATE] > 0) & (n[_LIVE] == 0)))
            for group in _first(duplicates, np.flatnonzero(unequal)):
                duplicates.wrong(self._tell_duplicate(groups, group))
            if corpus:
                self._compare(corpus, groups, rows, texts)
        if self.unread:
            ids.unchecked = duplicates.unchecked = rows.unchecked = texts.unchecked = self._unread_files()
        told = f"; {_count(also, 'id')} also rejected, in another row" if also else ""
        self._found(ids.finding(f"{live:,} live documents", f"each id once{told}"))
        self._found(duplicates.finding(f"{duplicate:,} rows with an earlier row's id", "that one lives, they do not"))
        if corpus:
            found = f"{corpus.rows:,} rows of the corpus"
            self._found(rows.finding(found, "each live or rejected, and nothing else is"))
            self._found(texts.finding(f"{live:,} live documents", "content_hash is that of the text in the corpus"))

    def _unread_files(self) -> int:
        return max(1, *(self.promises[name].unchecked for name in _OF_FILES)) if self.unread else 0

    def _tell_duplicate(self, groups: "_Groups", group: int) -> str:
        counts = {kind: int(groups.counts[kind][group]) for kind in (_LIVE, _DEAD, _DUPLICATE)}
        dead = groups.rows(group, _DEAD) or groups.rows(group, _LIVE)
        where = f"id {self._place(dead[0])[1]!r}" if dead else "an id that no data file has"
        return f"{where}: {counts[_DUPLICATE]} rejected as duplicate_id, {counts[_DEAD]} deleted, {counts[_LIVE]} live"

    def _compare(self, corpus: "_Corpus", groups: "_Groups", rows: _Promise, texts: _Promise) -> None:
        n = groups.counts
        by_id = n[_IN_CORPUS] - n[_LIVE] - n[_DUPLICATE] - n[_REJECTED_ID]
        by_row = n[_BAD_IN_CORPUS] - n[_REJECTED_ROW]
        for kind, missing in ((_IN_CORPUS, by_id), (_BAD_IN_CORPUS, by_row)):
            for group in _first(rows, np.flatnonzero(missing > 0)) if not self.unread else ():
                place = corpus.place(groups.rows(group, kind)[-1])
                rows.wrong(f"{place} is neither live nor rejected", int(missing[group]))
        for group in _first(rows, np.flatnonzero(by_id < 0)):
            live = groups.rows(group, _LIVE)
            rows.wrong(f"{self._tell(live[0]) if live else 'a rejected id'} is not in the corpus", -int(by_id[group]))
        for group in _first(rows, np.flatnonzero(by_row < 0)):
            rows.wrong("a rejected row is not in the corpus, or not rejected in it", -int(by_row[group]))
        for group in _first(texts, groups.stale()):
            of = corpus.place(groups.rows(group, _IN_CORPUS)[0])
            texts.wrong(f"{self._tell(groups.rows(group, _LIVE)[0])} has the vector of another text than {of}")

    def _tell(self, row: int) -> str:
        place, id_ = self._place(row)
        return f"{place}, id {id_!r},"

    def _place(self, row: int) -> tuple[str, Any]:
        """Where a row of the data files is, and its id, which is read again."""
        number = int(np.searchsorted(self.starts, row, side="right")) - 1
        key, position = names.data_key(self.receipts[number].split_id), row - self.starts[number]
        with self.store.open(key) as file:
            ids = pq.ParquetFile(file).read([names.ID], use_threads=False).column(names.ID)
        return f"row {position} of {key}", ids[position].as_py()

    # --- what is beside the snapshots

    def _surroundings(self, snapshots: Mapping[int, Snapshot], newest: int | None) -> tuple[Orphans, bool]:
        """Nothing of this is a failure."""
        orphans, plain = Orphans(), False
        base = snapshots.get(newest) if newest is not None else None
        if base is not None:
            try:
                orphans = find_orphans(self.table, base, np.inf)
                self._found(Finding(ORPHANS, "PASS", _tell_orphans(orphans)))
                why = _why_not_plain(base, self.store.list(names.DATA))
            except (TableError, ObjectNotFound, pa.ArrowException) as error:
                self._found(Finding(ORPHANS, "SKIP", f"cannot be told apart: {error}"))
                why = "its snapshot is damaged"
            plain = not why
            text = (
                f"not a plain directory: {why}; read it with sfr_batch.open_table"
                if why
                else ("data/*.parquet is the newest snapshot and nothing else: any engine reads it")
            )
            self._found(Finding(PLAIN, "PASS", text))
        try:
            runs = [f"{run.run_id} ({run.committed:,} of {run.splits:,} splits)" for run in unfinished_runs(self.table)]
            self._found(
                Finding(RUNS, "PASS", f"under way or interrupted: {', '.join(runs)}" if runs else "none is unfinished")
            )
        except (TableError, ObjectNotFound, pa.ArrowException) as error:
            self._found(Finding(RUNS, "SKIP", f"cannot be told: {error}"))
        return orphans, plain


class _Groups:
    """Records of one partition by their key. counts: by kind, how many records each group has."""

    def __init__(self, records: Records) -> None:
        self._records = records = records[np.lexsort((records["row"], records["more"], records["hash"]))]
        new = np.ones(len(records), bool)
        new[1:] = (records["hash"][1:] != records["hash"][:-1]) | (records["more"][1:] != records["more"][:-1])
        self._starts = np.append(np.flatnonzero(new), len(records))
        self._group = np.cumsum(new) - 1
        n = len(self._starts) - 1
        self.counts = [np.bincount(self._group[records["kind"] == kind], minlength=n) for kind in range(7)]

    def rows(self, group: int, kind: int) -> list[int]:
        """``row`` of the group's records of this kind, in order."""
        some = self._records[self._starts[group] : self._starts[group + 1]]
        found: list[int] = some["row"][some["kind"] == kind].tolist()
        return found

    def stale(self) -> IntArray:
        """Groups whose live row has no row of the corpus with its text, though there is one with its id."""
        n = len(self._starts) - 1
        kind, content = self._records["kind"], self._records["content"]
        live = kind == _LIVE
        of_live = np.zeros(n, np.uint64)
        of_live[self._group[live]] = content[live]
        equal = (kind == _IN_CORPUS) & (content == of_live[self._group])
        has_equal = np.bincount(self._group[equal], minlength=n) > 0
        return np.flatnonzero((self.counts[_LIVE] > 0) & (self.counts[_IN_CORPUS] > 0) & ~has_equal)


class _Corpus:
    """The corpus of a plan, read once and, for examples, a unit of it once more."""

    def __init__(self, plan: EmbedPlan, snapshot: Snapshot) -> None:
        self._plan, self._snapshot = plan, snapshot
        self._settings = plan.config.corpus
        self._shards = list_shards(self._settings)
        self._units: list[ReadUnit] = []
        self._starts = [0]
        self.rows = 0

    def shards(self, fingerprint: str) -> Finding:
        """Whether the snapshot covers the corpus as it is today."""
        promise = _Promise(SHARDS, EMBED)
        if self._plan.card.fingerprint != fingerprint:
            promise.wrong(f"the config makes vectors of fingerprint {self._plan.card.fingerprint[:12]}")
        recipe, generation = digest(self._plan.row_recipe), self._plan.config.table.generation
        covered = {record.uri: record for record in self._snapshot.shards}
        for shard in carry_over(self._snapshot, self._shards, recipe, generation)[1]:
            record = covered.get(shard.uri)
            if record is None:
                promise.wrong(f"{shard.uri} is new")
            elif record.version != shard.version:
                promise.wrong(f"{shard.uri} has changed")
            elif record.recipe != recipe:
                promise.wrong(f"{shard.uri} was read with other settings of corpus")
            else:
                promise.wrong(f"{shard.uri} is of generation {record.generation!r}, the config of {generation!r}")
        for uri in sorted(covered.keys() - {shard.uri for shard in self._shards}):
            promise.wrong(f"{uri} is no longer in the corpus")
        return promise.finding(_count(len(self._shards), "shard"), "covered as they are")

    def records(self) -> Iterator[Records]:
        for shard in self._shards:
            survey = survey_shards([shard], self._settings)[0]
            for unit in cut(survey, _CORPUS_ROWS, _CORPUS_BYTES, ("audit",), frozenset()):
                self._units.append(unit)
                for _, rows in read_unit(unit, self._settings, self._plan.columns):
                    good = len(rows.texts)
                    numbers = np.arange(self.rows, self.rows + rows.read)
                    found = _records(_hashes(rows.ids.to_pylist()), _IN_CORPUS, numbers[:good])
                    found["content"] = _head(rows.content_hash)
                    yield found
                    yield _records(_hashes(_places(rows.rejects)), _BAD_IN_CORPUS, numbers[good:])
                    self.rows += rows.read
                self._starts.append(self.rows)

    def place(self, row: int) -> str:
        """Where row ``row`` of what was read is; its unit is read again."""
        number = int(np.searchsorted(self._starts, row, side="right")) - 1
        unit, seen = self._units[number], self._starts[number]
        for _, rows in read_unit(unit, self._settings, self._plan.columns):
            if row < seen + rows.read:
                return _corpus_place(unit, rows, row - seen)
            seen += rows.read
        return f"a row of {unit.shard.uri}"  # it changes while we look


def _corpus_place(unit: ReadUnit, rows: Rows, row: int) -> str:
    good = len(rows.texts)
    if row < good:
        return f"position {rows.positions[row]} of {unit.shard.uri}, id {rows.ids[row].as_py()!r},"
    return f"position {rows.rejects.column('position')[row - good]} of {unit.shard.uri}"


def _absent(receipt: Receipt, committed: Mapping[str, ObjectInfo]) -> str | None:
    """What is wrong with a data file as far as a listing tells."""
    key, info = names.data_key(receipt.split_id), committed.get(receipt.split_id)
    if info is None:
        return f"{key} is missing"
    return None if info.size == receipt.size else f"{key} has {info.size:,} bytes instead of {receipt.size:,}"


def _sides_of(manifest: Manifest) -> list[SideFile]:
    sides = (manifest.files, manifest.shards, manifest.deletes, manifest.condemned)
    return [side for side in sides if side is not None]


def _hashes(keys: Sequence[Any]) -> tuple[NDArray[np.uint64], NDArray[np.uint64]]:
    """128 bits of each key, in two halves. Integers are their own; of strings and tuples Python's hash, which is keyed
    by process and no farther travelled: of the key, and of the key with something to it."""
    n = len(keys)
    if n and isinstance(keys[0], int):
        return np.fromiter(keys, np.int64, n).view(np.uint64), np.zeros(n, np.uint64)
    first = np.fromiter(map(hash, keys), np.int64, n).view(np.uint64)
    more = np.fromiter((hash(f"{key}\0") for key in keys), np.int64, n).view(np.uint64)
    return first, more


def _places(rejects: pa.Table) -> list[str]:
    """Keys of rows that have no id to go by. An id cannot be equal to one but by hashing alike."""
    shards, positions = rejects.column("shard").to_pylist(), rejects.column("position").to_pylist()
    return [f"\0{shard}\0{position}" for shard, position in zip(shards, positions, strict=True)]


def _records(hashes: tuple[NDArray[np.uint64], NDArray[np.uint64]], kind: int, rows: IntArray) -> Records:
    records = np.zeros(len(rows), _RECORD)
    records["hash"], records["more"] = hashes
    records["kind"], records["row"] = kind, rows
    return records


def _head(column: pa.Array | pa.ChunkedArray) -> NDArray[np.uint64]:
    """The first 8 bytes of each value of a 16-byte column."""
    chunks = column.chunks if isinstance(column, pa.ChunkedArray) else [column]
    parts = [
        np.frombuffer(chunk.buffers()[1], np.uint64)[2 * chunk.offset : 2 * (chunk.offset + len(chunk)) : 2]
        for chunk in chunks
        if len(chunk)
    ]
    return np.concatenate(parts) if parts else np.empty(0, np.uint64)


def _first(promise: _Promise, groups: IntArray) -> Iterator[int]:
    """Groups to tell one by one; those beyond the examples are only counted."""
    room = max(0, EXAMPLES - len(promise._examples))
    yield from groups[:room].tolist()
    promise.problems += len(groups[room:])


def _difference(found: pa.Schema, expected: pa.Schema) -> str:
    for column in expected:
        at = found.get_field_index(column.name)
        if at < 0:
            return f"no column {column.name}"
        if not found.field(at).equals(column):
            return f"{found.field(at)} where the table has {column}"
    return f"the columns {', '.join(found.names)}, the table {', '.join(expected.names)}"


def _short(kind: pa.DataType) -> str:
    return f"{kind.value_type}[{kind.list_size}]" if pa.types.is_fixed_size_list(kind) else str(kind)


def _count(number: int, what: str) -> str:
    return f"{number:,} {what}{'s' * (number != 1)}"


def _and(names_: Iterable[str], most: int = 3) -> str:
    known = list(names_)
    return ", ".join(known[:most]) + (f" and {len(known) - most:,} more" if len(known) > most else "")


def _tell_orphans(orphans: Orphans) -> str:
    if not orphans.objects:
        return "every object belongs to a snapshot"
    oldest = max(0.0, time.time() - min(info.modified for info in orphans.objects))
    return (
        f"{_count(len(orphans.objects), 'object')} in no snapshot, {orphans.bytes:,} bytes, "
        f"the oldest of {oldest / 3600:,.1f} hours ago: of a run under way, or left behind for `sfr-batch sweep`"
    )


def _why_not_plain(base: Snapshot, data: Iterable[ObjectInfo]) -> str:
    """What keeps `data/` from being the table as it is; empty if nothing does."""
    live = {names.data_key(receipt.split_id) for receipt in base.receipts}
    others = {info.key for info in data if info.key.endswith(".parquet")} - live
    deleted = base.manifest.deletes.rows if base.manifest.deletes else 0
    reasons = [
        f"{_count(deleted, 'row')} of it deleted" if deleted else "",
        f"{_count(len(others), 'file')} in data/ not of snapshot {base.number}" if others else "",
    ]
    return ", ".join(filter(None, reasons))
