"""Publishes snapshots. The protocol of all writers, in which any process may die at any moment.

Everything rests on create-if-absent in the store:

* A split is one data file under a name known beforehand, created whole, with its receipt in the footer. A writer that
  loses the race for a name adopts the winner's receipt.
* A snapshot is its side files, named by number and run, and then its manifest, named by number alone and created last.
  Two writers can never both win a number. The loser gets SnapshotConflict and plans again on the winner's snapshot.
* A sweep or an expiry publishes a snapshot that condemns split names before it deletes their files. A writer that
  planned on the older snapshot loses its number and plans again. Condemned names are never adopted or used again. A
  repair condemns the names of lost files in the same way, and deletes nothing.
  Manifests are never deleted, because the number of a deleted one could be won a second time.

Knows no Ray, no model and no corpus; `tests/table/commit/test_protocol.py` checks it as a state machine.
"""

import contextlib
import dataclasses
import functools
import hashlib
from collections.abc import Iterable, Iterator, Sequence
from typing import Literal

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from sfr_batch.errors import (
    CountsDoNotClose,
    ObjectNotFound,
    SnapshotConflict,
    TableError,
    TableInUse,
)
from sfr_batch.format import names
from sfr_batch.format.dead_rows import DeadPart, write_dead_rows
from sfr_batch.format.expired import REPAIR
from sfr_batch.format.indexes import create_own, joined
from sfr_batch.format.layout import Layout
from sfr_batch.format.parquet import embed_again, encode_parquet, encode_pieces, read_data_file
from sfr_batch.format.records import (
    KEPT,
    Counts,
    Expired,
    IndexPart,
    Manifest,
    Receipt,
    ShardRecord,
    SideFile,
    StatedLayout,
    who,
)
from sfr_batch.format.schemas import described
from sfr_batch.format.side_tables import to_table
from sfr_batch.storage.executor import Executor
from sfr_batch.storage.store import Store
from sfr_batch.table.commit.clocks import stamp
from sfr_batch.table.commit.damage import listed_wrong
from sfr_batch.table.commit.documents import of_each_file
from sfr_batch.table.commit.draft import Draft
from sfr_batch.table.commit.live_rows import dead_in
from sfr_batch.table.commit.liveness import Liveness, find_live
from sfr_batch.table.commit.reject_limits import check_duplicates, check_rejects, duplicate_rejects
from sfr_batch.table.commit.writing import new_run_id
from sfr_batch.table.table import Snapshot, Table


def publish(table: Table, base: Snapshot | None, draft: Draft, executor: Executor | None = None) -> Snapshot:
    """Publish the draft as the next snapshot after ``base``, visible all at once.

    executor: runs the tasks that read data files and indexes; None: this process reads them. What is written does not
    depend on it, byte for byte.

    Raises CountsDoNotClose if a row would be lost or doubled, TooManyRejects, TableError if a data file is missing, and
    SnapshotConflict if another writer published meanwhile: then plan again on its snapshot.
    """
    number = next_number(base)
    draft = _with_files(table, base, draft)
    layout = draft.layout or (base.layout if base else table.layout)
    live = find_live(table, draft, layout, executor)
    check_duplicates(table, draft, live.duplicates)
    receipts = [receipt for receipt in draft.receipts if receipt.owned or receipt.split_id in live.needed]
    counts = _count(table, draft, receipts, live, executor)
    check_rejects(table.store, draft, counts, live.duplicates)
    store = table.store
    key = None
    if live.duplicates:
        key = names.duplicates_key(number, draft.run_id)
        rejects = duplicate_rejects(live.duplicates, live.duplicates.ids(table, executor), draft.duplicate_rule)
        create_own(store, key, encode_pieces(rejects, names.REJECTS_SCHEMA))
    indexes = [part for parts in draft.indexes.values() for part in joined(parts)]
    accepted = draft.accepted or (base.manifest.accepted if base else None)
    stated = _stated(layout, base, receipts)
    created_at, clock = stamp(base)
    manifest = Manifest(
        format_version=_format_of(accepted, draft, clock, stated, live.dead),
        snapshot=number,
        parent=base.number if base and base.exists else None,
        operation=draft.operation,
        run_id=draft.run_id,
        created_at=created_at,
        by=who(),
        fingerprint=table.card.fingerprint,
        row_recipe=draft.row_recipe,
        generation=draft.generation,
        counts=counts,
        files=_side(store, number, draft.run_id, names.FILES, to_table(Receipt, receipts)),
        shards=_side(store, number, draft.run_id, names.SHARDS, to_table(ShardRecord, list(draft.shards))),
        indexes=_side(store, number, draft.run_id, names.INDEXES, to_table(IndexPart, indexes)) if indexes else None,
        changes=draft.changes,
        condemned=_condemned(store, number, base, draft),
        expired=base.manifest.expired if base else None,
        duplicates=key,
        accepted=dict(accepted) if accepted else None,
        corpus=dict(draft.corpus) if draft.corpus else None,
        duplicate_rule=draft.duplicate_rule,
        clock=clock,
        layout=stated,
        dead_rows=_dead_rows(store, number, draft.run_id, live),
    )
    return _create_manifest(table, manifest)


def _dead_rows(store: Store, number: int, run_id: str, live: Liveness) -> SideFile | None:
    if not live.dead:
        return None
    files = ((split_id, live.dead_rows(split_id)) for split_id in live.dead)
    parts = write_dead_rows(store, files, lambda its: names.dead_key(number, run_id, its))
    return _side(store, number, run_id, names.DEAD_ROWS, to_table(DeadPart, parts))


def _stated(layout: Layout, base: Snapshot | None, receipts: Sequence[Receipt]) -> StatedLayout | None:
    """The layout of the next snapshot, if it or that of a data file is not the one that the table was made with.

    Once a manifest states it, all later ones do: an older release must not read data files that lack columns.
    """
    before = base is not None and base.manifest.layout is not None
    if not layout.covers and not before and not any(receipt.covers for receipt in receipts):
        return None
    return StatedLayout(**described(layout.schema), row_hash=layout.row_hash)


def _condemned(store: Store, number: int, base: Snapshot | None, draft: Draft) -> SideFile | None:
    if draft.condemned is None:
        return base.manifest.condemned if base else None
    if not draft.condemned:
        return None
    every = pa.table([sorted(draft.condemned)], schema=names.CONDEMNED_SCHEMA)
    return _side(store, number, draft.run_id, names.CONDEMNED, every)


def _format_of(accepted: object, draft: Draft, clock: str | None, layout: object, dead: object) -> int:
    """The lowest format that has what a manifest uses."""
    if dead:
        return names.FORMAT_OF_DEAD_ROWS
    if draft.operation == "repair":
        return names.FORMAT_OF_REPAIR
    if clock:
        return names.FORMAT_OF_CLOCK
    if draft.duplicate_rule:
        return names.FORMAT_OF_DUPLICATE_RULE
    if layout:
        return names.FORMAT_OF_LAYOUT
    if draft.corpus:
        return names.FORMAT_OF_CORPUS
    return names.FORMAT_OF_ACCEPTED if accepted else names.FORMAT_VERSION


def next_number(base: Snapshot | None) -> int:
    """The number of the snapshot that follows ``base``."""
    return base.number + 1 if base else 1


def superseded(table: Table, base: Snapshot | None) -> bool:
    """Whether a snapshot after ``base`` exists. Then a missing file is not damage, but a reason to plan again."""
    numbers = table.published_numbers()
    return bool(numbers) and numbers[-1] > (base.number if base else 0)


@contextlib.contextmanager
def conflict_if_superseded(table: Table, base: Snapshot) -> Iterator[None]:
    """Raises SnapshotConflict instead of an error about files if a snapshot after ``base`` exists: they may be missing,
    or their names condemned, because of it."""
    try:
        yield
    except (SnapshotConflict, TableInUse, CountsDoNotClose):
        raise
    except (ObjectNotFound, TableError) as error:
        if not superseded(table, base):
            raise
        raise SnapshotConflict(
            f"{table.store.root} was changed by another process meanwhile. Run the command again. ({error})"
        ) from error


def _create_manifest(table: Table, manifest: Manifest) -> Snapshot:
    key = names.manifest_key(manifest.snapshot)
    if not table.store.create(key, manifest.to_json()):
        winner = table.published(manifest.snapshot).manifest
        if winner.run_id != manifest.run_id:  # equal: our own manifest, the reply was lost
            raise SnapshotConflict(
                f"Run {winner.run_id} published snapshot {manifest.snapshot} of {table.store.root} at "
                f"{winner.created_at}, while this run was in progress."
            )
        manifest = winner
    return table.make_snapshot(manifest)


def _side(store: Store, number: int, run_id: str, kind: str, table: pa.Table) -> SideFile:
    data = encode_parquet(table)
    key = names.side_key(number, run_id, kind)
    create_own(store, key, data)
    return SideFile(name=key, sha256=hashlib.sha256(data).hexdigest(), rows=table.num_rows)


def _with_files(table: Table, base: Snapshot | None, draft: Draft) -> Draft:
    """The draft with the sizes of its index files. Raises TableError unless all files are there that it needs."""
    committed = table.committed()
    needs_rejects = any(r.rejected and r.owned for r in draft.receipts)
    rejects = {info.key for info in table.store.list(names.REJECTS)} if needs_rejects else set()
    sizes = {info.key: info.size for info in table.store.list(names.INDEX)} if draft.indexes else {}
    for key in {part.key for parts in draft.indexes.values() for part in parts} - sizes.keys():
        old = base is not None and key in {part.key for parts in base.read_indexes().values() for part in parts}
        raise TableError(f"{table.store.root}/{key} is missing{f'. {REPAIR}' if old else '; run the command again.'}")
    condemned = draft.condemned or (base.read_condemned() if base else frozenset())
    for receipt in draft.receipts:
        receipt.check()
        if wrong := listed_wrong(receipt.split_id, receipt.size, committed):
            old = base is not None and receipt.split_id in base.split_ids()
            raise TableError(f"{table.store.root}/{wrong}{f'. {REPAIR}' if old else '; run the command again.'}")
        if receipt.rejected and receipt.owned and names.rejects_key(receipt.split_id, receipt.attempt) not in rejects:
            old = base is not None and receipt.split_id in base.split_ids()
            raise TableError(
                f"The rejects of split {receipt.split_id} are missing from {table.store.root}/{names.REJECTS}. "
                f"{REPAIR if old else embed_again(receipt.split_id)}"
            )
        if receipt.split_id in condemned:
            raise TableError(
                f"Split {receipt.split_id} is condemned by a sweep, an expiry or a repair. It must not be published."
            )
    indexes = {uri: [_sized(part, sizes[part.key]) for part in parts] for uri, parts in draft.indexes.items()}
    return dataclasses.replace(draft, indexes=indexes)


def _sized(part: IndexPart, size: int) -> IndexPart:
    return part if part.size == size else dataclasses.replace(part, size=size)


_COUNTED = (names.N_TOKENS, names.N_TOKENS_FULL, names.TRUNCATED)


def _dead_tokens(table: Table, live: Liveness, executor: Executor | None) -> NDArray[np.int64]:
    """[3] tokens, tokens before truncation or chunking, and truncated rows, of all dead rows."""
    columns = [*_COUNTED, *([names.CHUNK] if names.CHUNK in table.layout.schema.names else [])]
    read = functools.partial(_dead_tokens_of, table.store, table.card.fingerprint, columns)
    work = [(receipt, live.bits(split_id)) for split_id, receipt in live.dead.items()]
    return sum(of_each_file(read, work, executor), np.zeros(3, np.int64))


def _dead_tokens_of(
    store: Store, fingerprint: str, columns: list[str], receipt: Receipt, bits: NDArray[np.uint8]
) -> NDArray[np.int64]:
    """The same of one file. bits: of its live rows."""
    rows = pa.array(dead_in(bits, receipt.vectors))
    found = read_data_file(store, receipt, columns, fingerprint).take(rows)
    tokens, full, cut = (found.column(name).to_numpy().astype(np.int64) for name in _COUNTED)
    if names.CHUNK in columns:
        full = full[found.column(names.CHUNK).to_numpy() == 0]
    return np.array([tokens.sum(), full.sum(), cut.sum()])


def _count(
    table: Table, draft: Draft, receipts: Sequence[Receipt], live: Liveness, executor: Executor | None
) -> Counts:
    dead_tokens, dead_full, dead_cut = _dead_tokens(table, live, executor).tolist()
    shards = [shard for shard in draft.shards if shard.uri != KEPT]
    counts = Counts(
        read=sum(shard.read for shard in shards),
        embedded=live.embedded,
        reused=live.reused,
        rejected=sum(shard.rejected for shard in shards) + len(live.duplicates),
        vectors=live.vectors,
        tokens=sum(r.tokens for r in receipts) - dead_tokens,
        truncated=sum(r.truncated for r in receipts) - dead_cut,
        tokens_full=sum(r.tokens_full for r in receipts) - dead_full,
        kept=live.kept,
    )
    counts.check()
    return counts


def condemn(
    table: Table,
    base: Snapshot,
    split_ids: Iterable[str],
    operation: Literal["sweep", "expire"] = "sweep",
    expired: Expired | None = None,
) -> Snapshot:
    """Publish ``base`` once more, with these split names added to the condemned ones.

    expired: snapshots that can no longer be read; default: those of ``base``. Raises SnapshotConflict.
    """
    run_id = new_run_id()
    everything = sorted(base.read_condemned() | set(split_ids))
    side = _side(
        table.store, base.number + 1, run_id, names.CONDEMNED, pa.table([everything], schema=names.CONDEMNED_SCHEMA)
    )
    counts = base.manifest.counts
    created_at, clock = stamp(base)
    version = base.manifest.format_version
    manifest = base.manifest.model_copy(
        update={
            "snapshot": base.number + 1,
            "parent": base.number,
            "operation": operation,
            "run_id": run_id,
            "format_version": max(version, names.FORMAT_OF_CLOCK) if clock else version,
            "created_at": created_at,
            "clock": clock,
            "by": who(),
            "counts": counts.model_copy(update={"embedded": 0, "reused": counts.embedded + counts.reused}),
            "changes": None,
            "condemned": side,
            "expired": expired or base.manifest.expired,
        }
    )
    return _create_manifest(table, manifest)
