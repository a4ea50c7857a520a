"""Before publishing: limits the number of rejects, and rejects rows whose id another row has (`duplicate_id`)."""

import dataclasses
import math
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc

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
from sfr_batch.table.commit.duplicates import Duplicates
from sfr_batch.table.commit.live_rows import Numbers
from sfr_batch.table.table import Table


def check_duplicates(table: Table, draft: Draft, duplicates: Duplicates) -> None:
    """Raises TableError if ids occur twice and the draft does not allow it."""
    if duplicates and draft.duplicate_ids == "error":
        some = [id_ for ids in duplicates.head(5).ids(table) for id_ in ids.to_pylist()]
        raise TableError(
            f"Duplicate ids in {counted(len(duplicates), 'row')}, e.g. {', '.join(map(repr, some))}, and "
            "table.duplicate_ids is 'error'. "
            "Correct the corpus, or set table.duplicate_ids to 'reject' to keep the first row of each id."
        )


def duplicate_rejects(
    duplicates: Duplicates, ids: Iterable[pa.Array], rule: DuplicateRule | None = None
) -> Iterator[pa.Table]:
    """The rejects of rows with the id of another row, which is live instead by this rule; None: the first of them.

    ids: of all of them, in order. There is a table of rejects for each array of ids.
    """
    start = 0
    for some in ids:
        end = start + len(some)
        losers = duplicates.places(start, end)
        if rule is None:
            live: tuple[Any, ...] = ("an earlier row has this id",)
        else:
            winners = duplicates.winners(start, end)
            why = f") has this id and {comes_last(rule)}"
            live = ("row ", _as_text(winners.rows), " of ", winners.keys, " (of ", winners.shards, why)
        message = (*live, "; this one is row ", _as_text(losers.rows), " of ", losers.keys)
        columns = {
            names.ID: some.cast(pa.string()),
            names.SHARD: losers.shards,
            names.POSITION: pa.array(losers.rows),
            names.REASON: pa.repeat(names.DUPLICATE_ID, len(some)),
            names.MESSAGE: pc.binary_join_element_wise(*message, ""),
        }
        yield pa.table(columns, schema=names.REJECTS_SCHEMA)
        start = end


def _as_text(numbers: Numbers) -> pa.Array:
    return pa.array(numbers).cast(pa.string())


def comes_last(rule: DuplicateRule) -> str:
    """Why a row is live rather than others with its id, as the end of a sentence about it."""
    return f"is the last one by {rule.order_by}" if rule.order_by else "comes later"


FEW_REJECTS = 100
"""So many rejects among the rows of a run are allowed, whatever their share. The limit of the whole table has no such
allowance."""
_FILES_FOR_REASONS = 32


def check_rejects(store: Store, draft: Draft, counts: Counts, duplicates: Duplicates) -> None:
    """Raises TooManyRejects if the share of rejects in the visited shards, or in all, is above the draft's limit.

    Rows that have given way to a later one of their id are none of them: that is what such a corpus is like.
    """
    visited = draft.visited
    if visited is None:
        visited = frozenset(receipt.shard for receipt in draft.receipts if receipt.split_id in draft.new)
    repeated, lost = len(duplicates), duplicates.count_in(visited)
    if draft.duplicate_rule:
        of_id = sum(shard.superseded for shard in draft.shards) + repeated
        counts = counts.model_copy(update={"rejected": counts.rejected - of_id})
        draft = dataclasses.replace(
            draft, shards=[dataclasses.replace(s, rejected=s.rejected - s.superseded) for s in draft.shards]
        )
        repeated = lost = 0
    read = sum(shard.read for shard in draft.shards if shard.uri in visited)
    rejected = sum(shard.rejected for shard in draft.shards if shard.uri in visited) + lost
    ceiling = draft.max_reject_share
    for uris, of_ids, bad, rows, few in (
        ({shard.uri for shard in draft.shards}, repeated, counts.rejected, counts.read, 0),
        (visited, lost, rejected, read, FEW_REJECTS),
    ):
        if bad > max(few, ceiling * rows):
            owned = [r for r in draft.receipts if r.rejected and r.owned and r.shard in uris]
            parts = [part for shard in draft.shards if shard.uri in uris and shard.rejected
                     for part in draft.indexes.get(shard.uri, ())]  # fmt: skip
            raise too_many_rejects(store, owned, of_ids, bad, rows, ceiling, parts)


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
