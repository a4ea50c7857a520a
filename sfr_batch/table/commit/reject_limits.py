"""Before publishing: limits the number of rejects, and rejects rows whose id another row has (`duplicate_id`)."""

import dataclasses
import math
from collections import Counter
from collections.abc import Sequence

import pyarrow as pa

from sfr_batch.errors import TableError, TooManyRejects, counted
from sfr_batch.format import names
from sfr_batch.format.indexes import read_part, rejects_of
from sfr_batch.format.parquet import read_parquet
from sfr_batch.format.records import (
    Counts,
    DuplicateRule,
    IndexPart,
    Receipt,
)
from sfr_batch.storage.parallel import read_many
from sfr_batch.storage.store import Store
from sfr_batch.table.commit.draft import Draft
from sfr_batch.table.commit.liveness import DuplicateRow


def check_duplicates(draft: Draft, duplicates: Sequence[DuplicateRow]) -> None:
    """Raises TableError if ids occur twice and the draft does not allow it."""
    if duplicates and draft.duplicate_ids == "error":
        examples = ", ".join(repr(row.id) for row in duplicates[:5])
        raise TableError(
            f"Duplicate ids in {counted(len(duplicates), 'row')}, e.g. {examples}, and table.duplicate_ids is 'error'. "
            "Correct the corpus, or set table.duplicate_ids to 'reject' to keep the first row of each id."
        )


def duplicate_rejects(duplicates: Sequence[DuplicateRow], rule: DuplicateRule | None = None) -> pa.Table:
    """The rejects of rows with the id of another row, which is live instead by this rule; None: the first of them."""
    return pa.table(
        {
            names.ID: [str(row.id) for row in duplicates],
            names.SHARD: [row.shard for row in duplicates],
            names.POSITION: [row.row for row in duplicates],
            names.REASON: [names.DUPLICATE_ID] * len(duplicates),
            names.MESSAGE: [
                f"{_winner(row, rule)}; this one is row {row.row} of {names.data_key(row.split_id)}"
                for row in duplicates
            ],
        },
        schema=names.REJECTS_SCHEMA,
    )


def _winner(row: DuplicateRow, rule: DuplicateRule | None) -> str:
    if rule is None:
        return "an earlier row has this id"
    shard, split_id, at = row.winner
    return f"row {at} of {names.data_key(split_id)} (of {shard}) has this id and {comes_last(rule)}"


def comes_last(rule: DuplicateRule) -> str:
    """Why a row is live rather than others with its id, as the end of a sentence about it."""
    return f"is the last one by {rule.order_by}" if rule.order_by else "comes later"


FEW_REJECTS = 100
"""So many rejects among the rows of a run are allowed, whatever their share. The limit of the whole table has no such
allowance."""
_FILES_FOR_REASONS = 32


def check_rejects(store: Store, draft: Draft, counts: Counts, duplicates: Sequence[DuplicateRow]) -> None:
    """Raises TooManyRejects if the share of rejects in the visited shards, or in all, is above the draft's limit.

    Rows that have given way to a later one of their id are none of them: that is what such a corpus is like.
    """
    if draft.duplicate_rule:
        of_id = sum(shard.superseded for shard in draft.shards) + len(duplicates)
        counts = counts.model_copy(update={"rejected": counts.rejected - of_id})
        draft = dataclasses.replace(
            draft, shards=[dataclasses.replace(s, rejected=s.rejected - s.superseded) for s in draft.shards]
        )
        duplicates = []
    visited = draft.visited
    if visited is None:
        visited = frozenset(receipt.shard for receipt in draft.receipts if receipt.split_id in draft.new)
    lost = sum(row.shard in visited for row in duplicates)
    read = sum(shard.read for shard in draft.shards if shard.uri in visited)
    rejected = sum(shard.rejected for shard in draft.shards if shard.uri in visited) + lost
    ceiling = draft.max_reject_share
    for uris, repeated, bad, rows, few in (
        ({shard.uri for shard in draft.shards}, len(duplicates), counts.rejected, counts.read, 0),
        (visited, lost, rejected, read, FEW_REJECTS),
    ):
        if bad > max(few, ceiling * rows):
            owned = [r for r in draft.receipts if r.rejected and r.owned and r.shard in uris]
            parts = [part for shard in draft.shards if shard.uri in uris and shard.rejected
                     for part in draft.indexes.get(shard.uri, ())]  # fmt: skip
            raise too_many_rejects(store, owned, repeated, bad, rows, ceiling, parts)


def too_many_rejects(
    store: Store,
    receipts: Sequence[Receipt],
    duplicates: int,
    rejected: int,
    read: int,
    ceiling: float,
    parts: Sequence[IndexPart] = (),
) -> TooManyRejects:
    """The error, with the most frequent reasons and an example of each, from some of the rejects files and indexes."""
    keys = [names.rejects_key(r.split_id, r.attempt) for r in receipts if r.rejected][:_FILES_FOR_REASONS]
    tables = [read_parquet(data) for data in read_many(store, keys)]
    tables += [rejects_of(read_part(store, part), part.shard) for part in parts[: _FILES_FOR_REASONS - len(tables)]]
    rows = [row for found in tables for row in found.to_pylist()]
    first = {row[names.REASON]: row for row in reversed(rows)}
    reasons = [
        f"  {reason}: {number:,}, e.g. at {first[reason][names.POSITION]} of {first[reason][names.SHARD]}: "
        f"{first[reason][names.MESSAGE]}"
        for reason, number in Counter(row[names.REASON] for row in rows).most_common(3)
    ]
    if duplicates:
        reasons.append(f"  duplicate_id: {duplicates:,}")
    return TooManyRejects(
        f"{rejected:,} of {read:,} rows ({rejected / read:.1%}) cannot be embedded, and run.max_reject_share allows "
        f"{ceiling:.1%}. Nothing was published; embedded splits stay committed.\n" + "\n".join(reasons) + "\n"
        f"Correct the corpus or the config (all rejects so far: {store.root}/{names.REJECTS}/), or accept them with "
        f"run.max_reject_share={math.ceil(100 * rejected / read) / 100:g}."
    )
