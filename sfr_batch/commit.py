"""Writing a table: splits, snapshots, sweeps. The protocol that lets any process die at any moment.

Everything rests on the store's create-if-absent:

* A split is one data file under a name known beforehand, created whole, with its receipt in the footer. Whoever loses
  the race for a name adopts the winner's receipt.
* A snapshot is its side files, named by number and run, then its manifest, named by number alone and created last.
  Two writers can never both win a number; the loser gets SnapshotConflict and plans again on the winner's snapshot.
* A sweep, or an expiry (`retention`), publishes a snapshot that condemns split names before it deletes their files. A
  writer that planned on the older snapshot loses its number and plans again; condemned names are never adopted or used
  again, and manifests are never deleted: the number of one that is gone could be won a second time.

Knows no Ray, no model and no corpus; `tests/test_protocol.py` checks it as a state machine.
"""

import contextlib
import dataclasses
import hashlib
import math
import secrets
import time
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any, Literal

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from sfr_batch import schema as names
from sfr_batch.errors import (
    CountsDoNotClose,
    ObjectNotFound,
    SnapshotConflict,
    TableError,
    TableMismatch,
    TableNotFound,
    TooManyRejects,
)
from sfr_batch.fingerprint import differences
from sfr_batch.indexes import create_own, joined, read_ahead, read_part, rejects_of
from sfr_batch.liveness import Liveness, Loser, find_live
from sfr_batch.manifest import (
    KEPT,
    Changes,
    Counts,
    Expired,
    IndexPart,
    Manifest,
    Receipt,
    ShardRecord,
    SideFile,
    TableCard,
    to_table,
    utc_now,
    who,
)
from sfr_batch.parquet import encode_parquet, read_data_file, read_parquet, read_receipt
from sfr_batch.storage import TEMPORARY, ObjectInfo, Store, read_many
from sfr_batch.table import Snapshot, Table

SWEEP_AFTER_S = 7 * 24 * 3600.0


def new_run_id() -> str:
    """Sorts by time; unique without coordination."""
    return f"{datetime.now(UTC):%Y%m%dT%H%M%S}-{secrets.token_hex(4)}"


def new_attempt() -> str:
    """Names one try at a split."""
    return secrets.token_hex(8)


def create_or_open(store: Store, card: TableCard) -> Table:
    """The table at ``store``, created with ``card`` if there is none. Raises TableMismatch if it is another table."""
    if store.create(names.TABLE_JSON, card.to_json()):
        return Table(store, card)
    table = Table.open(store)
    check_same_table(table, card)
    return table


def check_same_table(table: Table, card: TableCard) -> None:
    """Raises TableMismatch, which says what differs and what the ways out are."""
    if table.card.fingerprint != card.fingerprint:
        lines = differences(table.card.fingerprint_inputs, card.fingerprint_inputs)
        raise TableMismatch(
            f"{table.store.root} holds vectors made with other settings:\n  " + "\n  ".join(lines) + "\n"
            "Vectors of both kinds in one table would be silently wrong. Either set them back, or write to a new "
            "table: table.path=<another path>."
        )
    if not table.schema.equals(card.schema):
        raise TableMismatch(
            f"{table.store.root} has the columns {_describe(table.schema)}, this run would write "
            f"{_describe(card.schema)}. Set corpus.id and corpus.carry back, or write to a new table: table.path=…"
        )


def _describe(schema: pa.Schema) -> str:
    return ", ".join(f"{column.name} {column.type}" for column in schema)


# --- splits


def commit_split(store: Store, card: TableCard, receipt: Receipt, rows: pa.Table, rejects: pa.Table) -> Receipt:
    """Write one split: its rejects, then its data file. Returns the receipt that counts, ours or the earlier winner's.

    rows: the columns of the table's schema, ``receipt.vectors`` of them; rejects: `schema.REJECTS_SCHEMA`. Raises
    CountsDoNotClose if they do not match the receipt, and StorageError; then nothing counts and it may be tried again.
    """
    receipt.check()
    if rows.num_rows != receipt.vectors or rejects.num_rows != receipt.rejected:
        raise CountsDoNotClose(
            f"Split {receipt.split_id} of {receipt.shard} has {rows.num_rows} vectors and {rejects.num_rows} rejects, "
            f"its receipt says {receipt.vectors} and {receipt.rejected}."
        )
    if rejects.num_rows:
        store.create(names.rejects_key(receipt.split_id, receipt.attempt), encode_parquet(rejects))
    metadata = {names.RECEIPT_KEY: receipt.to_json(), names.FINGERPRINT_KEY: card.fingerprint}
    data = encode_parquet(rows.cast(card.schema), metadata)
    if store.create(names.data_key(receipt.split_id), data):
        return dataclasses.replace(receipt, size=len(data))
    return read_receipt(store, receipt.split_id)


# --- snapshots


@dataclass(frozen=True)
class Draft:
    """What a run wants to publish: the corpus that it covers, and the data files with its vectors by their receipts."""

    run_id: str
    generation: str
    row_recipe: dict[str, Any]
    receipts: Sequence[Receipt]
    """Of all data files that are owned by shards, or that an index may point into."""
    shards: Sequence[ShardRecord]
    """In order; `manifest.KEPT` last."""
    new: frozenset[str]
    """Split ids among them that the base snapshot does not have and whose vectors were computed."""
    indexes: Mapping[str, Sequence[IndexPart]] = field(default_factory=dict)
    """Of the shards whose rows are not just those of their own data files."""
    visited: frozenset[str] | None = None
    """URIs of the shards that the run has read; None: those of the new data files."""
    changes: Changes | None = None
    operation: Literal["embed", "backfill", "compact"] = "embed"
    duplicate_ids: str = "reject"
    max_reject_share: float = 1.0
    """Share of rejects, in 0 to 1, above which nothing is published."""


def publish(table: Table, base: Snapshot | None, draft: Draft) -> Snapshot:
    """Make the draft the next snapshot after ``base``, visible all at once.

    Raises CountsDoNotClose if a row would be lost or doubled, TooManyRejects, TableError if a data file is missing, and
    SnapshotConflict if somebody else published meanwhile: then plan again on their snapshot.
    """
    number = next_number(base)
    _check_files(table, base, draft)
    live = find_live(
        table.store,
        table.schema,
        table.card.fingerprint,
        [shard.uri for shard in draft.shards],
        draft.receipts,
        draft.indexes,
        draft.new,
    )
    _check_duplicates(draft, live.losers)
    receipts = [receipt for receipt in draft.receipts if receipt.owned or receipt.split_id in live.needed]
    counts = _count(table, draft, receipts, live)
    _check_rejects(table.store, draft, counts, live.losers)
    store = table.store
    key = None
    if live.losers:
        key = names.duplicates_key(number, draft.run_id)
        create_own(store, key, encode_parquet(_duplicate_rejects(live.losers)))
    indexes = [part for parts in draft.indexes.values() for part in joined(parts)]
    manifest = Manifest(
        snapshot=number,
        parent=base.number if base else None,
        operation=draft.operation,
        run_id=draft.run_id,
        created_at=utc_now(),
        by=who(),
        fingerprint=table.card.fingerprint,
        row_recipe=draft.row_recipe,
        generation=draft.generation,
        counts=counts,
        files=_side(store, number, draft.run_id, "files", to_table(Receipt, receipts)),
        shards=_side(store, number, draft.run_id, "shards", to_table(ShardRecord, list(draft.shards))),
        indexes=_side(store, number, draft.run_id, "indexes", to_table(IndexPart, indexes)) if indexes else None,
        changes=draft.changes,
        deletes=_side(store, number, draft.run_id, "deletes", live.deletes) if live.deletes.num_rows else None,
        condemned=base.manifest.condemned if base else None,
        expired=base.manifest.expired if base else None,
        duplicates=key,
    )
    return _create_manifest(table, manifest)


def next_number(base: Snapshot | None) -> int:
    """The number of the snapshot that follows ``base``."""
    return base.number + 1 if base else 1


def superseded(table: Table, base: Snapshot | None) -> bool:
    """Whether somebody has published since ``base``: then a missing file is no damage, but a reason to plan again."""
    numbers = table.published_numbers()
    return bool(numbers) and numbers[-1] != (base.number if base else 0)


@contextlib.contextmanager
def conflict_if_superseded(table: Table, base: Snapshot) -> Iterator[None]:
    """Turn a file that is not there into a SnapshotConflict, if somebody has published since ``base``."""
    try:
        yield
    except (ObjectNotFound, TableNotFound) as error:
        if not superseded(table, base):
            raise
        raise SnapshotConflict(f"{table.store.root} changed meanwhile, run the command again: {error}") from error


def _create_manifest(table: Table, manifest: Manifest) -> Snapshot:
    key = names.manifest_key(manifest.snapshot)
    if not table.store.create(key, manifest.to_json()):
        winner = table.published(manifest.snapshot).manifest
        if winner.run_id != manifest.run_id:  # equal: our own write, whose reply was lost
            raise SnapshotConflict(
                f"Snapshot {manifest.snapshot} of {table.store.root} was published by run {winner.run_id} at "
                f"{winner.created_at} while this run was under way."
            )
        manifest = winner
    return Snapshot(table.store, manifest, table.schema)


def _side(store: Store, number: int, run_id: str, kind: str, table: pa.Table) -> SideFile:
    data = encode_parquet(table)
    key = names.side_key(number, run_id, kind)
    create_own(store, key, data)
    return SideFile(name=key, sha256=hashlib.sha256(data).hexdigest(), rows=table.num_rows)


def _check_files(table: Table, base: Snapshot | None, draft: Draft) -> None:
    committed = table.committed()
    needs_rejects = any(r.rejected and r.owned for r in draft.receipts)
    rejects = {info.key for info in table.store.list(names.REJECTS)} if needs_rejects else set()
    indexes = {info.key for info in table.store.list(names.INDEX)} if draft.indexes else set()
    for key in {part.key for parts in draft.indexes.values() for part in parts} - indexes:
        raise TableError(f"{table.store.root}/{key} is missing; run the command again.")
    condemned = base.condemned if base else frozenset()
    for receipt in draft.receipts:
        receipt.check()
        info = committed.get(receipt.split_id)
        if info is None or info.size != receipt.size:
            found = "is missing" if info is None else f"has {info.size} bytes instead of {receipt.size}"
            raise TableError(f"{table.store.root}/{names.data_key(receipt.split_id)} {found}; run the command again.")
        if receipt.rejected and receipt.owned and names.rejects_key(receipt.split_id, receipt.attempt) not in rejects:
            raise TableError(
                f"The rejects of split {receipt.split_id} are missing from {table.store.root}/{names.REJECTS}. To have "
                f"the split embedded again, delete {names.data_key(receipt.split_id)} and run the command again."
            )
        if receipt.split_id in condemned:
            raise TableError(f"Split {receipt.split_id} is condemned and must not be published.")


def _check_duplicates(draft: Draft, losers: Sequence[Loser]) -> None:
    if losers and draft.duplicate_ids == "error":
        examples = ", ".join(repr(loser.id) for loser in losers[:5])
        raise TableError(
            f"{len(losers)} rows have an id that an earlier row has, e.g. {examples}, and table.duplicate_ids is "
            "'error'. Correct the corpus, or set it to 'reject' to keep the first row of each id."
        )


def _duplicate_rejects(losers: Sequence[Loser]) -> pa.Table:
    return pa.table(
        {
            names.ID: [str(loser.id) for loser in losers],
            "shard": [loser.shard for loser in losers],
            "position": [loser.row for loser in losers],
            "reason": ["duplicate_id"] * len(losers),
            "message": [
                f"an earlier row has this id; this one is row {loser.row} of {names.data_key(loser.split_id)}"
                for loser in losers
            ],
        },
        schema=names.REJECTS_SCHEMA,
    )


_COUNTED = (names.N_TOKENS, names.N_TOKENS_FULL, names.TRUNCATED)


def _dead_tokens(table: Table, receipts: Sequence[Receipt], deletes: pa.Table) -> NDArray[np.int64]:
    """Tokens, tokens before truncation or chunking, and truncated rows, of the rows that are not live."""
    dead = {receipt.split_id: receipt for receipt in receipts}
    files = deletes.column("split_id").combine_chunks().dictionary_encode()
    position, number = deletes.column("position").to_numpy(), files.indices.to_numpy()
    bounds = np.flatnonzero(np.diff(number)) + 1  # they come by file

    def count(split_id: str, rows: NDArray[np.int64]) -> NDArray[np.int64]:
        columns = [*_COUNTED, *([names.CHUNK] if names.CHUNK in table.schema.names else [])]
        found = read_data_file(table.store, dead[split_id], columns, table.card.fingerprint).take(pa.array(rows))
        tokens, full, cut = (found.column(name).to_numpy().astype(np.int64) for name in _COUNTED)
        if names.CHUNK in columns:
            full = full[found.column(names.CHUNK).to_numpy() == 0]
        return np.array([tokens.sum(), full.sum(), cut.sum()])

    work = list(zip(files.dictionary.to_pylist(), np.split(position, bounds), strict=True)) if len(files) else []
    counted = read_ahead(lambda item: count(*item), work, [dead[split_id].vectors for split_id, _ in work])
    return sum(counted, np.zeros(3, np.int64))


def _count(table: Table, draft: Draft, receipts: Sequence[Receipt], live: Liveness) -> Counts:
    dead_tokens, dead_full, dead_cut = _dead_tokens(table, receipts, live.deletes).tolist()
    shards = [shard for shard in draft.shards if shard.uri != KEPT]
    counts = Counts(
        read=sum(shard.read for shard in shards),
        embedded=live.embedded,
        reused=live.reused,
        rejected=sum(shard.rejected for shard in shards) + len(live.losers),
        vectors=live.vectors,
        tokens=sum(r.tokens for r in receipts) - dead_tokens,
        truncated=sum(r.truncated for r in receipts) - dead_cut,
        tokens_full=sum(r.tokens_full for r in receipts) - dead_full,
        kept=live.kept,
    )
    counts.check()
    return counts


FEW_REJECTS = 100
"""So many rejects of a run are no reason to stop it, whatever share of a small run they are."""
_FILES_FOR_REASONS = 32


def _check_rejects(store: Store, draft: Draft, counts: Counts, losers: Sequence[Loser]) -> None:
    visited = draft.visited
    if visited is None:
        visited = frozenset(receipt.shard for receipt in draft.receipts if receipt.split_id in draft.new)
    lost = sum(loser.shard in visited for loser in losers)
    read = sum(shard.read for shard in draft.shards if shard.uri in visited)
    rejected = sum(shard.rejected for shard in draft.shards if shard.uri in visited) + lost
    ceiling = draft.max_reject_share
    for of, duplicates, bad, rows, few in (
        ({shard.uri for shard in draft.shards}, len(losers), counts.rejected, counts.read, 0),
        (visited, lost, rejected, read, FEW_REJECTS),
    ):
        if bad > max(few, ceiling * rows):
            owned = [r for r in draft.receipts if r.rejected and r.owned and r.shard in of]
            parts = [part for shard in draft.shards if shard.uri in of and shard.rejected
                     for part in draft.indexes.get(shard.uri, ())]  # fmt: skip
            raise too_many_rejects(store, owned, duplicates, bad, rows, ceiling, parts)


def too_many_rejects(
    store: Store,
    receipts: Sequence[Receipt],
    duplicates: int,
    rejected: int,
    read: int,
    ceiling: float,
    parts: Sequence[IndexPart] = (),
) -> TooManyRejects:
    """The error, with the most frequent reasons in some of the rejects files and indexes and an example of each."""
    keys = [names.rejects_key(r.split_id, r.attempt) for r in receipts if r.rejected][:_FILES_FOR_REASONS]
    tables = [read_parquet(data) for data in read_many(store, keys)]
    tables += [rejects_of(read_part(store, part), part.shard) for part in parts[: _FILES_FOR_REASONS - len(tables)]]
    rows = [row for found in tables for row in found.to_pylist()]
    first = {row["reason"]: row for row in reversed(rows)}
    reasons = [
        f"  {reason}: {number:,}, e.g. at {first[reason]['position']} of {first[reason]['shard']}: "
        f"{first[reason]['message']}"
        for reason, number in Counter(row["reason"] for row in rows).most_common(3)
    ]
    if duplicates:
        reasons.append(f"  duplicate_id: {duplicates:,}")
    return TooManyRejects(
        f"{rejected:,} of {read:,} rows ({rejected / read:.1%}) cannot be embedded, and run.max_reject_share allows "
        f"{ceiling:.1%}. Nothing was published; what is embedded stays committed.\n" + "\n".join(reasons) + "\n"
        f"Correct the corpus or the config (all rejects so far: {store.root}/{names.REJECTS}/), or accept them with "
        f"run.max_reject_share={math.ceil(100 * rejected / read) / 100:g}."
    )


# --- sweeping


@dataclass
class Orphans:
    """What a sweep may remove: ``objects``, after ``condemn`` (split ids) has been published."""

    condemn: set[str] = field(default_factory=set)
    objects: list[ObjectInfo] = field(default_factory=list)

    @property
    def keys(self) -> list[str]:
        return [info.key for info in self.objects]

    @property
    def bytes(self) -> int:
        return sum(info.size for info in self.objects)


def sweep(table: Table, *, older_than_s: float = SWEEP_AFTER_S, now: float | None = None) -> Orphans:
    """Delete what no snapshot needs and nothing younger than ``older_than_s`` seconds.

    Raises SnapshotConflict if somebody publishes meanwhile: sweep again. Returns what was condemned and deleted.
    """
    base = table.latest()
    if base is None:
        return Orphans()
    with conflict_if_superseded(table, base):
        orphans = find_orphans(table, base, (time.time() if now is None else now) - older_than_s)
    if orphans.condemn:
        condemn(table, base, orphans.condemn)
    table.store.delete(orphans.keys)
    return orphans


def find_orphans(table: Table, base: Snapshot, cutoff: float) -> Orphans:
    """Objects last modified at ``cutoff`` (seconds since the epoch) or before, and made for ``base`` or an earlier
    snapshot or for none, that no snapshot names. What an expiry has not deleted yet is among them.
    """
    # Also those after base: one that is no more may have handed a side file on to them.
    snapshots = table.snapshots()
    live = {r.split_id: r.attempt for snapshot in snapshots for r in snapshot.receipts}
    named = {key for snapshot in snapshots for key in snapshot.attached()}
    orphans = Orphans()
    unpublished: dict[str, list[ObjectInfo]] = {}
    for info in table.store.list(names.DATA):
        split_id = names.split_of_data_key(info.key)
        if split_id and split_id not in live:
            unpublished.setdefault(split_id, []).append(info)
    for info in table.store.list(names.REJECTS):
        owner = names.split_and_attempt_of_rejects_key(info.key)
        if owner and owner[0] not in live:
            unpublished.setdefault(owner[0], []).append(info)
        elif owner and owner[1] != live[owner[0]] and info.modified <= cutoff:
            orphans.objects.append(info)  # of a try that lost: the data file is there, so it can never count
    for split_id, objects in unpublished.items():
        if max(info.modified for info in objects) <= cutoff:
            orphans.objects += objects
            if split_id not in base.condemned:
                orphans.condemn.add(split_id)
    for folder in (names.SNAPSHOTS, names.REJECTS, names.INDEX):
        for info in table.store.list(folder):
            number = names.number_of_attached_key(info.key)
            # A writer still wants numbers above base; ours up to base can only be named by manifests that we know.
            if number is not None and number <= base.number and info.key not in named and info.modified <= cutoff:
                orphans.objects.append(info)
    a_day_ago = cutoff - 24 * 3600
    orphans.objects += [info for info in table.store.list(TEMPORARY) if info.modified <= a_day_ago]
    return orphans


def condemn(
    table: Table,
    base: Snapshot,
    split_ids: Iterable[str],
    operation: Literal["sweep", "expire"] = "sweep",
    expired: Expired | None = None,
) -> Snapshot:
    """Publish ``base`` once more, with these split names never to be used again.

    expired: snapshots that can no longer be read, default those of ``base``. Raises SnapshotConflict.
    """
    run_id = new_run_id()
    everything = sorted(base.condemned | set(split_ids))
    side = _side(
        table.store, base.number + 1, run_id, "condemned", pa.table([everything], schema=names.CONDEMNED_SCHEMA)
    )
    counts = base.manifest.counts
    manifest = base.manifest.model_copy(
        update={
            "snapshot": base.number + 1,
            "parent": base.number,
            "operation": operation,
            "run_id": run_id,
            "created_at": utc_now(),
            "by": who(),
            "counts": counts.model_copy(update={"embedded": 0, "reused": counts.embedded + counts.reused}),
            "changes": None,
            "condemned": side,
            "expired": expired or base.manifest.expired,
        }
    )
    return _create_manifest(table, manifest)
