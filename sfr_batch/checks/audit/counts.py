"""Counts and names of one snapshot: manifest, receipts, shards, deletes and condemned names must agree."""

from collections import Counter, defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import pyarrow as pa

from sfr_batch.checks.audit.contents import Contents
from sfr_batch.checks.audit.data_file import Live
from sfr_batch.checks.audit.promises import Problems, PromiseCheck
from sfr_batch.checks.audit.report import CONDEMNED, COUNTS, DELETES, Finding
from sfr_batch.errors import CountsDoNotClose, SfrBatchError, counted
from sfr_batch.format import names
from sfr_batch.format.records import KEPT, Receipt
from sfr_batch.table.table import Snapshot


@dataclass(frozen=True)
class Sums:
    """What was found by reading; None where not all could be read.

    live: sums over the live rows of each data file. kept: number of documents that are no longer in the corpus.
    duplicates: number of rows that are rejected as duplicates.
    """

    live: Sequence[Live] | None
    kept: int | None
    duplicates: int | None


def check_counts(
    found: Problems, contents: Contents, snapshots: Mapping[int, Snapshot], sums: Sums, *, chunked: bool
) -> Finding:
    """Whether the counts of a snapshot agree with each other and with what was read.

    found: the problems of single data files. snapshots: among them the parent, if it can be read.
    """
    promise = PromiseCheck(COUNTS, found)
    _check_receipts(promise, contents, chunked)
    _check_shards(promise, contents)
    _check_sums(promise, contents, sums)
    _check_new(promise, contents, snapshots, sums)
    counts = contents.snapshot.manifest.counts
    kept = f"; {counted(counts.kept, 'document')} kept in addition" if counts.kept else ""
    return promise.finding(
        f"{counted(counts.read, 'row')} read",
        f"{counts.embedded:,} embedded + {counts.reused:,} reused + {counts.rejected:,} rejected; "
        f"{counted(counts.vectors, 'vector')}{kept}",
    )


def _check_receipts(promise: PromiseCheck, contents: Contents, chunked: bool) -> None:
    for split_id, times in Counter(receipt.split_id for receipt in contents.receipts).items():
        if times > 1:
            promise.wrong(f"split {split_id} appears {times} times in snapshot {contents.snapshot.number}")
    for receipt in contents.receipts:
        try:
            receipt.check()
        except CountsDoNotClose as error:
            promise.wrong(str(error))
        if receipt.vectors < receipt.embedded or (receipt.vectors > receipt.embedded and not chunked):
            vectors, documents = counted(receipt.vectors, "vector"), counted(receipt.embedded, "document")
            promise.wrong(f"split {receipt.split_id} has {vectors} of {documents}")


def _check_shards(promise: PromiseCheck, contents: Contents) -> None:
    splits: defaultdict[str, list[Receipt]] = defaultdict(list)
    for receipt in contents.receipts:
        if receipt.owned:
            splits[receipt.shard].append(receipt)
    for shard in sorted(splits.keys() - {record.uri for record in contents.shards}):
        promise.wrong(f"{shard} has splits, but is not among the shards of snapshot {contents.snapshot.number}")
    for record in contents.shards:
        its = splits[record.uri]
        if record.uri in contents.indexes:  # its rows are counted there
            if its or record.splits:
                promise.wrong(
                    f"{record.uri} has both an index and {counted(len(its) or record.splits, 'split')} of its own"
                )
            continue
        read, rejected = sum(receipt.read for receipt in its), sum(receipt.rejected for receipt in its)
        if (read, rejected, len(its)) != (record.read, record.rejected, record.splits):
            promise.wrong(
                f"{record.uri or 'the kept documents'}: {counted(record.read, 'row')}, "
                f"{counted(record.rejected, 'reject')} and {counted(record.splits, 'split')}, but the receipts of its "
                f"splits say {read:,}, {rejected:,} and {len(its):,}"
            )
        if {receipt.version for receipt in its} - {record.version}:
            promise.wrong(
                f"{record.uri} is covered in version {record.version}, but one of its splits has another version"
            )


def _check_sums(promise: PromiseCheck, contents: Contents, sums: Sums) -> None:
    counts = contents.snapshot.manifest.counts
    shards = [record for record in contents.shards if record.uri != KEPT]

    held = {
        "rows read": (counts.read, counts.embedded + counts.reused + counts.rejected),
        "rows in its shards": (counts.read, sum(record.read for record in shards)),
        "vectors": (counts.vectors, sum(receipt.vectors for receipt in contents.receipts) - contents.deleted),
    }
    if sums.duplicates is not None:
        held["rejects"] = (counts.rejected, sum(record.rejected for record in shards) + sums.duplicates)
    if sums.live is not None:
        documents = counts.embedded + counts.reused + counts.kept
        held["documents"] = (documents, sum(live.documents for live in sums.live))
        held["tokens"] = (counts.tokens, sum(live.tokens for live in sums.live))
        held["tokens before truncation"] = (counts.tokens_full, sum(live.tokens_full for live in sums.live))
        held["truncated rows"] = (counts.truncated, sum(live.truncated for live in sums.live))
    if sums.kept is not None:
        held["kept documents"] = (counts.kept, sums.kept)
    number = contents.snapshot.number
    for what, (says, has) in held.items():
        if says != has:
            promise.wrong(f"snapshot {number}: the number of {what} is {has:,}, the manifest says {says:,}")


def _check_new(promise: PromiseCheck, contents: Contents, snapshots: Mapping[int, Snapshot], sums: Sums) -> None:
    """Whether the number of embedded documents is that of the data files that are new since the parent."""
    manifest = contents.snapshot.manifest
    old: frozenset[str] = frozenset()
    if manifest.parent is not None:
        try:
            old = frozenset(snapshots[manifest.parent].split_ids())
        except (KeyError, SfrBatchError, pa.ArrowException):  # reported as a manifest or a side file
            return
    if sums.live is None:
        return
    embedded = sum(
        live.documents
        for receipt, live in zip(contents.receipts, sums.live, strict=True)
        if receipt.split_id not in old and not receipt.copied
    )
    if embedded != manifest.counts.embedded:
        promise.wrong(
            f"snapshot {manifest.snapshot}: its new data files have {counted(embedded, 'document')}, the manifest says "
            f"{manifest.counts.embedded:,} embedded"
        )


def check_deletes(contents: Contents) -> Finding:
    """Whether each deleted row exists, and is listed under the name of its data file."""
    promise = PromiseCheck(DELETES)
    rows = {receipt.split_id: receipt.vectors for receipt in contents.receipts}
    for key in contents.strange_lists:
        promise.wrong(f"{key} has other rows, by its column {names.SPLIT_ID}, than the snapshot says")
    for split_id, positions in contents.deletes.items():
        key = names.data_key(split_id)
        if split_id not in rows:
            promise.wrong(f"rows are deleted from {key}, which is not part of snapshot {contents.snapshot.number}")
            continue
        for position in positions[(positions < 0) | (positions >= rows[split_id])].tolist():
            promise.wrong(f"row {position} of {key} is deleted, but the file has {counted(rows[split_id], 'row')}")
        if len(np.unique(positions)) < len(positions):
            promise.wrong(f"a row of {key} is deleted twice")
    return promise.finding(counted(contents.deleted, "deleted row"), "each in a live data file")


def check_condemned(contents: Contents) -> Finding:
    """Whether no data file has a name that a sweep or an expiry has condemned."""
    promise = PromiseCheck(CONDEMNED)
    for receipt in contents.receipts:
        if receipt.split_id in contents.condemned:
            promise.wrong(f"{names.data_key(receipt.split_id)} is live, but its name is condemned")
    return promise.finding(counted(len(contents.condemned), "condemned name"), "none is live")
