"""Rejects files: that each is there, belongs to its split and has as many rows as its receipt says."""

import itertools
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from sfr_batch.checks.audit.contents import AHEAD, Contents, damage, difference, look_into
from sfr_batch.checks.audit.id_records import IdRecords, IntArray, RecordKind, make_records, places_of
from sfr_batch.checks.audit.promises import PromiseCheck
from sfr_batch.checks.audit.report import REJECTS, Finding
from sfr_batch.checks.audit.work import Work
from sfr_batch.errors import ObjectNotFound, counted
from sfr_batch.format import names
from sfr_batch.format.hashes import halves, hash_ids
from sfr_batch.format.parquet import open_parquet, read_parquet
from sfr_batch.storage.parallel import in_parallel
from sfr_batch.storage.store import Store
from sfr_batch.table.table import Table


@dataclass(frozen=True)
class RejectsFiles:
    """The rejects files of a snapshot, all read.

    duplicates: number of rows in the file of duplicates. unread: number of files that could not be read.
    """

    finding: Finding
    duplicates: int
    unread: int


@dataclass(frozen=True)
class _Expected:
    """A rejects file. rows, shard: None for the duplicates of a snapshot, which no receipt counts."""

    key: str
    rows: int | None = None
    shard: str | None = None


def read_rejects(table: Table, contents: Contents, work: Work) -> RejectsFiles:
    """Check the rejects files. The records of the ids that they reject are added to ``work``."""
    promise = PromiseCheck(REJECTS)
    owned = [receipt for receipt in contents.receipts if receipt.owned and receipt.rejected]
    expected = [_Expected(names.rejects_key(r.split_id, r.attempt), r.rejected, r.shard) for r in owned]
    read = in_parallel(lambda file: _read(table.store, file.key), expected, AHEAD)
    found_in: Iterator[tuple[_Expected, pa.Table | str]] = zip(expected, read, strict=True)
    files = len(expected)
    if key := contents.snapshot.manifest.duplicates:
        found_in = itertools.chain(found_in, ((_Expected(key), found) for found in _read_pieces(table.store, key)))
        files += 1
    total = duplicates = unread = 0
    for file, found in found_in:
        if isinstance(found, str):
            promise.wrong(found)
            unread += 1
            continue
        for wrong in _problems(file, found):
            promise.wrong(wrong)
        if file.shard is None:
            duplicates += found.num_rows
        for records in reject_records(found, np.arange(total, total + found.num_rows)):
            work.add(records)
        total += found.num_rows
    what = f"{counted(total, 'row')} in {counted(files, 'file')}"
    return RejectsFiles(promise.finding(what, "counts match the receipts"), duplicates, unread)


def _read(store: Store, key: str) -> pa.Table | str:
    try:
        found = look_into(store, key, _decode)
    except ObjectNotFound:
        return f"{key} is missing"
    if isinstance(found, str) or found.schema.equals(names.REJECTS_SCHEMA):
        return found
    return f"{key} has {difference(found.schema, names.REJECTS_SCHEMA)}"


def _read_pieces(store: Store, key: str) -> Iterator[pa.Table | str]:
    """The row groups of a file of duplicates, which may have many rows, until one cannot be read."""
    try:
        file = open_parquet(store.read(key))
        if not file.schema_arrow.equals(names.REJECTS_SCHEMA):
            yield f"{key} has {difference(file.schema_arrow, names.REJECTS_SCHEMA)}"
            return
        for number in range(file.num_row_groups):
            piece = file.read_row_group(number, use_threads=False)
            piece.validate(full=True)
            yield piece
    except ObjectNotFound:
        yield f"{key} is missing"
    except (OSError, ValueError, pa.ArrowException) as error:
        yield damage(key, error)


def _decode(data: bytes) -> pa.Table:
    table = read_parquet(data)
    table.validate(full=True)
    return table


def _problems(file: _Expected, found: pa.Table) -> Iterator[str]:
    if file.rows is not None and found.num_rows != file.rows:
        yield f"{file.key} has {counted(found.num_rows, 'row')}, the receipt of its split says {file.rows:,}"
    if file.shard is not None and set(found.column(names.SHARD).to_pylist()) - {file.shard}:
        yield f"{file.key} has rejects of a shard other than {file.shard}"
    reasons = set(found.column(names.REASON).to_pylist())
    if (file.shard is None) != (names.DUPLICATE_ID in reasons) and reasons:
        yield f"{file.key} has unexpected reasons: {', '.join(sorted(reasons))}"


def reject_records(
    rejects: pa.Table, numbers: IntArray, duplicate_kind: RecordKind = RecordKind.DUPLICATE
) -> Iterator[IdRecords]:
    """Records of the rejected rows. numbers: [n] the number of each, by which they are sorted; duplicate_kind: of the
    duplicates of an id."""
    reasons = rejects.column(names.REASON)
    duplicate = pc.equal(reasons, names.DUPLICATE_ID).to_numpy()
    after = pc.is_in(reasons, pa.array(names.AFTER_READING)).to_numpy()
    masks = {
        duplicate_kind: duplicate,
        RecordKind.REJECTED_ID: after,
        RecordKind.REJECTED_ROW: ~duplicate & ~after,
    }
    for kind, mask in masks.items():
        some = rejects.filter(pa.array(mask))
        keys = places_of(some) if kind == RecordKind.REJECTED_ROW else some.column(names.ID).to_pylist()
        yield make_records(halves(hash_ids(keys)), kind, numbers[mask])
    none = (
        pc.is_in(reasons, pa.array(names.OF_NO_DOCUMENT)).to_numpy() | pc.is_null(rejects.column(names.ID)).to_numpy()
    )
    ids = rejects.column(names.ID).filter(pa.array(~none)).to_pylist()
    yield make_records(halves(hash_ids(ids)), RecordKind.NO_VECTOR, numbers[~none])
