"""Writing a table: splits, snapshots, sweeps. The protocol that lets any process die at any moment.

Everything rests on the store's create-if-absent:

* A split is one data file under a name known beforehand, created whole, with its receipt in the footer. Whoever loses
  the race for a name adopts the winner's receipt.
* A snapshot is its side files, named by number and run, then its manifest, named by number alone and created last.
  Two writers can never both win a number; the loser gets SnapshotConflict and plans again on the winner's snapshot.
* A sweep publishes a snapshot that condemns split names before it deletes their files. A writer that planned on the
  older snapshot loses its number and plans again; condemned names are never adopted or used again.

Knows no Ray, no model and no corpus; `tests/test_protocol.py` checks it as a state machine.
"""

import dataclasses
import hashlib
import itertools
import math
import secrets
import time
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from sfr_batch import schema as names
from sfr_batch.duplicates import Duplicate, find_duplicates
from sfr_batch.errors import CountsDoNotClose, SnapshotConflict, TableError, TableMismatch, TooManyRejects
from sfr_batch.fingerprint import differences
from sfr_batch.manifest import Counts, Manifest, Receipt, ShardRecord, SideFile, TableCard, to_table, utc_now
from sfr_batch.storage import TEMPORARY, ObjectInfo, Store, in_memory, in_parallel, read_many
from sfr_batch.table import Snapshot, Table, read_data_file, read_receipt

PARALLEL_READS = 32
"""Id columns read at a time when a snapshot is published."""
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


def encode_parquet(table: pa.Table, metadata: dict[str, str] | None = None) -> bytes:
    """A whole Parquet file in memory: an open Parquet stream that an exception closes would publish what it has.

    Page checksums let a reader see a flipped bit. Vectors are float noise: neither dictionaries, statistics nor
    compression pay for them.
    """
    sink = pa.BufferOutputStream()
    plain = [name for name in table.column_names if name != names.EMBEDDING]
    pq.write_table(
        table.replace_schema_metadata(metadata),
        sink,
        row_group_size=max(1, table.num_rows),
        compression={**dict.fromkeys(plain, "zstd"), f"{names.EMBEDDING}.list.element": "none"},
        use_dictionary=False,
        write_statistics=plain,
        write_page_checksum=True,
    )
    data: bytes = sink.getvalue().to_pybytes()
    return data


# --- snapshots


@dataclass(frozen=True)
class Draft:
    """What a run wants to publish: the live data files by their receipts, and the corpus that they cover."""

    run_id: str
    generation: str
    row_recipe: dict[str, Any]
    receipts: Sequence[Receipt]
    """Of all live data files, in corpus order."""
    shards: Sequence[ShardRecord]
    new: frozenset[str]
    """Split ids among them that the base snapshot does not have."""
    duplicate_ids: str = "reject"
    max_reject_share: float = 1.0
    """Share of rejects, in 0 to 1, above which nothing is published."""


def publish(table: Table, base: Snapshot | None, draft: Draft) -> Snapshot:
    """Make the draft the next snapshot after ``base``, visible all at once.

    Raises CountsDoNotClose if a row would be lost or doubled, TooManyRejects, TableError if a data file is missing, and
    SnapshotConflict if somebody else published meanwhile: then plan again on their snapshot.
    """
    number = base.number + 1 if base else 1
    _check_files(table, base, draft)
    duplicates = _duplicates(table, draft)
    counts = _count(draft, duplicates)
    _check_rejects(table.store, draft, counts, duplicates)
    store = table.store
    key = None
    if duplicates:
        key = names.duplicates_key(number, draft.run_id)
        _attach(store, key, encode_parquet(_duplicate_rejects(draft, duplicates)))
    manifest = Manifest(
        snapshot=number,
        parent=base.number if base else None,
        operation="embed",
        run_id=draft.run_id,
        created_at=utc_now(),
        fingerprint=table.card.fingerprint,
        row_recipe=draft.row_recipe,
        generation=draft.generation,
        counts=counts,
        files=_side(store, number, draft.run_id, "files", to_table(Receipt, list(draft.receipts))),
        shards=_side(store, number, draft.run_id, "shards", to_table(ShardRecord, list(draft.shards))),
        deletes=_side(store, number, draft.run_id, "deletes", _deletes(draft, duplicates)) if duplicates else None,
        condemned=base.manifest.condemned if base else None,
        duplicates=key,
    )
    return _create_manifest(table, manifest)


def superseded(table: Table, base: Snapshot | None) -> bool:
    """Whether somebody has published since ``base``: then a missing file is no damage, but a reason to plan again."""
    numbers = table.snapshot_numbers()
    return bool(numbers) and numbers[-1] != (base.number if base else 0)


def _create_manifest(table: Table, manifest: Manifest) -> Snapshot:
    key = names.manifest_key(manifest.snapshot)
    if not table.store.create(key, manifest.to_json()):
        winner = table.snapshot(manifest.snapshot).manifest
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
    _attach(store, key, data)
    return SideFile(name=key, sha256=hashlib.sha256(data).hexdigest(), rows=table.num_rows)


def _attach(store: Store, key: str, data: bytes) -> None:
    """Create a file under a name that nobody else can have; finding it there means a lost reply, or a bug."""
    if not store.create(key, data) and store.read(key) != data:
        raise TableError(f"{store.root}/{key} exists with other content; its name should be this run's alone.")


def _check_files(table: Table, base: Snapshot | None, draft: Draft) -> None:
    committed = table.committed()
    rejects = (
        {info.key for info in table.store.list(names.REJECTS)} if any(r.rejected for r in draft.receipts) else set()
    )
    condemned = base.condemned if base else frozenset()
    for receipt in draft.receipts:
        receipt.check()
        info = committed.get(receipt.split_id)
        if info is None or info.size != receipt.size:
            found = "is missing" if info is None else f"has {info.size} bytes instead of {receipt.size}"
            raise TableError(f"{table.store.root}/{names.data_key(receipt.split_id)} {found}; run the command again.")
        if receipt.rejected and names.rejects_key(receipt.split_id, receipt.attempt) not in rejects:
            raise TableError(
                f"The rejects of split {receipt.split_id} are missing from {table.store.root}/{names.REJECTS}. To have "
                f"the split embedded again, delete {names.data_key(receipt.split_id)} and run the command again."
            )
        if receipt.split_id in condemned:
            raise TableError(f"Split {receipt.split_id} was condemned by a sweep and must not be published.")


def _duplicates(table: Table, draft: Draft) -> list[Duplicate]:
    """All documents of the draft whose id an earlier one has, by number of receipt and position in its data file."""
    chunks = names.CHUNK in table.schema.names

    def ids_of(receipt: Receipt) -> pa.ChunkedArray:
        columns = [names.ID, names.CHUNK] if chunks else [names.ID]
        rows = read_data_file(table.store, receipt, columns, table.card.fingerprint)
        return (rows.filter(pc.equal(rows.column(names.CHUNK), 0)) if chunks else rows).column(names.ID)

    total = sum(receipt.embedded for receipt in draft.receipts)
    ids = in_parallel(ids_of, draft.receipts, PARALLEL_READS)
    found = find_duplicates(ids, lambda i: ids_of(draft.receipts[i]), total)
    if found and draft.duplicate_ids == "error":
        examples = ", ".join(repr(d.id) for d in found[:5])
        raise TableError(
            f"{len(found)} rows have an id that an earlier row has, e.g. {examples}, and table.duplicate_ids is "
            "'error'. Correct the corpus, or set it to 'reject' to keep the first row of each id."
        )
    return list(_with_all_chunks(table, draft, found)) if chunks else found


def _with_all_chunks(table: Table, draft: Draft, found: Iterable[Duplicate]) -> Iterator[Duplicate]:
    """Duplicates by number of document, in order of data files, become duplicates by rows: the chunks of a document
    follow each other."""
    for number, of_file in itertools.groupby(found, key=lambda duplicate: duplicate.chunk):
        rows = read_data_file(table.store, draft.receipts[number], [names.CHUNK], table.card.fingerprint)
        chunk = rows.column(names.CHUNK).to_numpy()
        bounds = np.append(np.flatnonzero(chunk == 0), len(chunk)).tolist()
        for duplicate in of_file:
            first, end = bounds[duplicate.position : duplicate.position + 2]
            yield dataclasses.replace(duplicate, position=first, rows=end - first)


def _deletes(draft: Draft, duplicates: Iterable[Duplicate]) -> pa.Table:
    rows = [(draft.receipts[d.chunk].split_id, d.position + row) for d in duplicates for row in range(d.rows)]
    return pa.table({"split_id": [s for s, _ in rows], "position": [p for _, p in rows]}, schema=names.DELETES_SCHEMA)


def _duplicate_rejects(draft: Draft, duplicates: Sequence[Duplicate]) -> pa.Table:
    receipts = [draft.receipts[d.chunk] for d in duplicates]
    return pa.table(
        {
            names.ID: [str(d.id) for d in duplicates],
            "shard": [r.shard for r in receipts],
            "position": [d.position for d in duplicates],
            "reason": ["duplicate_id"] * len(duplicates),
            "message": [
                f"an earlier row has this id; this one is row {d.position} of {names.data_key(r.split_id)}"
                for d, r in zip(duplicates, receipts, strict=True)
            ],
        },
        schema=names.REJECTS_SCHEMA,
    )


def _count(draft: Draft, duplicates: Sequence[Duplicate]) -> Counts:
    lost = {True: 0, False: 0}
    for duplicate in duplicates:
        lost[draft.receipts[duplicate.chunk].split_id in draft.new] += 1
    total = {key: sum(getattr(r, key) for r in draft.receipts) for key in ("read", "rejected", "vectors")}
    counts = Counts(
        read=sum(shard.read for shard in draft.shards),
        embedded=sum(r.embedded for r in draft.receipts if r.split_id in draft.new) - lost[True],
        reused=sum(r.embedded for r in draft.receipts if r.split_id not in draft.new) - lost[False],
        rejected=total["rejected"] + len(duplicates),
        vectors=total["vectors"] - sum(duplicate.rows for duplicate in duplicates),
        tokens=sum(r.tokens for r in draft.receipts),
        truncated=sum(r.truncated for r in draft.receipts),
    )
    counts.check()
    return counts


FEW_REJECTS = 100
"""So many rejects of a run are no reason to stop it, whatever share of a small run they are."""
_FILES_FOR_REASONS = 32


def _check_rejects(store: Store, draft: Draft, counts: Counts, duplicates: Sequence[Duplicate]) -> None:
    new = [receipt for receipt in draft.receipts if receipt.split_id in draft.new]
    lost = sum(draft.receipts[duplicate.chunk].split_id in draft.new for duplicate in duplicates)
    read, rejected = sum(receipt.read for receipt in new), sum(receipt.rejected for receipt in new) + lost
    ceiling = draft.max_reject_share
    if counts.rejected > ceiling * counts.read:
        raise too_many_rejects(store, draft.receipts, len(duplicates), counts.rejected, counts.read, ceiling)
    if rejected > max(FEW_REJECTS, ceiling * read):
        raise too_many_rejects(store, new, lost, rejected, read, ceiling)


def too_many_rejects(
    store: Store, receipts: Sequence[Receipt], duplicates: int, rejected: int, read: int, ceiling: float
) -> TooManyRejects:
    """The error, with the most frequent reasons in some of the rejects files and an example of each."""
    keys = [names.rejects_key(r.split_id, r.attempt) for r in receipts if r.rejected][:_FILES_FOR_REASONS]
    rows = [row for data in read_many(store, keys) for row in pq.read_table(in_memory(data)).to_pylist()]
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
    orphans = find_orphans(table, base, (time.time() if now is None else now) - older_than_s)
    if orphans.condemn:
        condemn(table, base, orphans.condemn)
    table.store.delete(orphans.keys)
    return orphans


def find_orphans(table: Table, base: Snapshot, cutoff: float) -> Orphans:
    """Objects last modified at ``cutoff`` (seconds since the epoch) or before that no snapshot up to ``base`` names."""
    snapshots = [table.snapshot(number) for number in table.snapshot_numbers() if number <= base.number]
    live = {r.split_id: r.attempt for snapshot in snapshots for r in snapshot.receipts}
    named = {key for snapshot in snapshots for key in _attached(snapshot.manifest)}
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
    for folder in (names.SNAPSHOTS, names.REJECTS):
        for info in table.store.list(folder):
            number = names.number_of_attached_key(info.key)
            # A writer still wants numbers above base; ours up to base can only be named by manifests that we know.
            if number is not None and number <= base.number and info.key not in named and info.modified <= cutoff:
                orphans.objects.append(info)
    a_day_ago = cutoff - 24 * 3600
    orphans.objects += [info for info in table.store.list(TEMPORARY) if info.modified <= a_day_ago]
    return orphans


def condemn(table: Table, base: Snapshot, split_ids: Iterable[str]) -> Snapshot:
    """Publish ``base`` once more, with these split names never to be used again."""
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
            "operation": "sweep",
            "run_id": run_id,
            "created_at": utc_now(),
            "counts": counts.model_copy(update={"embedded": 0, "reused": counts.embedded + counts.reused}),
            "condemned": side,
        }
    )
    return _create_manifest(table, manifest)


def _attached(manifest: Manifest) -> list[str]:
    sides = (manifest.files, manifest.shards, manifest.deletes, manifest.condemned)
    keys = [side.name for side in sides if side is not None]
    return [*keys, manifest.duplicates] if manifest.duplicates else keys
