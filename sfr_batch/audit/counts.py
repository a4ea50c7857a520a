"""Sums and names of one snapshot: manifest, receipts, shards, deletes and condemned names must agree. Reads nothing."""

from collections import Counter, defaultdict

import numpy as np

from sfr_batch import schema as names
from sfr_batch.audit.contents import Contents
from sfr_batch.audit.report import CONDEMNED, DELETES, REPORT, Finding, Promise, count
from sfr_batch.errors import CountsDoNotClose
from sfr_batch.manifest import Receipt


def check_counts(promise: Promise, contents: Contents, duplicates: int | None, *, chunked: bool) -> Finding:
    """duplicates: rows that were found to be rejected as such; None if that is not known."""
    _check_receipts(promise, contents, chunked)
    _check_shards(promise, contents)
    _check_sums(promise, contents, duplicates)
    counts = contents.snapshot.manifest.counts
    return promise.finding(
        f"{counts.read:,} rows read",
        f"{counts.embedded:,} embedded + {counts.reused:,} reused + {counts.rejected:,} rejected; "
        f"{counts.vectors:,} vectors",
    )


def _check_receipts(promise: Promise, contents: Contents, chunked: bool) -> None:
    for split_id, times in Counter(receipt.split_id for receipt in contents.receipts).items():
        if times > 1:
            promise.wrong(f"split {split_id} is {times} times in snapshot {contents.snapshot.number}")
    for receipt in contents.receipts:
        try:
            receipt.check()
        except CountsDoNotClose as error:
            promise.wrong(str(error))
        if receipt.vectors < receipt.embedded or (receipt.vectors > receipt.embedded and not chunked):
            promise.wrong(f"split {receipt.split_id} has {receipt.vectors} vectors of {receipt.embedded} documents")


def _check_shards(promise: Promise, contents: Contents) -> None:
    splits: defaultdict[str, list[Receipt]] = defaultdict(list)
    for receipt in contents.receipts:
        splits[receipt.shard].append(receipt)
    for shard in sorted(splits.keys() - {record.uri for record in contents.shards}):
        promise.wrong(f"{shard} has splits, and is not among the shards of snapshot {contents.snapshot.number}")
    for record in contents.shards:
        its = splits[record.uri]
        read = sum(receipt.read for receipt in its)
        if (read, len(its)) != (record.read, record.splits):
            promise.wrong(
                f"{record.uri} has {record.read:,} rows in {count(record.splits, 'split')}, the receipts of its "
                f"splits say {read:,} in {len(its):,}"
            )
        if {receipt.version for receipt in its} - {record.version}:
            promise.wrong(f"{record.uri} is covered in version {record.version}, a split of it is of another")


def _check_sums(promise: Promise, contents: Contents, duplicates: int | None) -> None:
    counts = contents.snapshot.manifest.counts

    def total(field: str) -> int:
        return sum(getattr(receipt, field) for receipt in contents.receipts)

    held = {
        "rows read": (counts.read, counts.embedded + counts.reused + counts.rejected),
        "rows of its shards": (counts.read, sum(record.read for record in contents.shards)),
        "vectors": (counts.vectors, total("vectors") - contents.deleted),
    }
    if not contents.deleted:  # else they are of the live rows alone
        held["tokens"] = (counts.tokens, total("tokens"))
        held["truncated rows"] = (counts.truncated, total("truncated"))
    if duplicates is not None:
        held["rejects"] = (counts.rejected, total("rejected") + duplicates)
        held["documents"] = (counts.embedded + counts.reused, contents.documents - duplicates)
    for what, (says, has) in held.items():
        if says != has:
            promise.wrong(f"snapshot {contents.snapshot.number} says {says:,} {what}, there are {has:,}")


def check_deletes(contents: Contents) -> Finding:
    """Whether deleted rows are rows."""
    promise = Promise(DELETES, REPORT)
    rows = {receipt.split_id: receipt.vectors for receipt in contents.receipts}
    for split_id, positions in contents.deletes.items():
        key = names.data_key(split_id)
        if split_id not in rows:
            promise.wrong(f"rows of {key} are deleted, which snapshot {contents.snapshot.number} does not have")
            continue
        for position in positions[(positions < 0) | (positions >= rows[split_id])].tolist():
            promise.wrong(f"row {position} of {key} is deleted, it has {rows[split_id]:,} rows")
        if len(np.unique(positions)) < len(positions):
            promise.wrong(f"a row of {key} is deleted twice")
    return promise.finding(f"{contents.deleted:,} deleted rows", "each in a live data file")


def check_condemned(contents: Contents) -> Finding:
    """Whether no data file has a name that a sweep has barred."""
    promise = Promise(CONDEMNED, REPORT)
    for receipt in contents.receipts:
        if receipt.split_id in contents.condemned:
            promise.wrong(f"{names.data_key(receipt.split_id)} is live, and a sweep has condemned its name")
    return promise.finding(count(len(contents.condemned), "condemned name"), "none is live")
