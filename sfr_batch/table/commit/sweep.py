"""Finds and removes objects that no snapshot names: leftovers of runs that died or lost a race."""

from dataclasses import dataclass, field

from sfr_batch.errors import counted
from sfr_batch.format import names
from sfr_batch.storage.store import TEMPORARY, ObjectInfo
from sfr_batch.table.commit.publish import condemn, conflict_if_superseded
from sfr_batch.table.table import Snapshot, Table

SWEEP_AFTER_S = 7 * 24 * 3600.0


@dataclass
class Orphans:
    """What a sweep may remove: ``objects``, once the split ids in ``condemn`` are published as condemned."""

    condemn: set[str] = field(default_factory=set)
    objects: list[ObjectInfo] = field(default_factory=list)

    def __repr__(self) -> str:
        return f"<Orphans: {counted(len(self.objects), 'object')}, {counted(self.bytes, 'byte')}>"

    @property
    def keys(self) -> list[str]:
        return [info.key for info in self.objects]

    @property
    def bytes(self) -> int:
        return sum(info.size for info in self.objects)


def sweep(table: Table, *, older_than_s: float = SWEEP_AFTER_S, now: float | None = None) -> Orphans:
    """Delete the objects that no snapshot needs and that are older than ``older_than_s`` seconds.

    now: by the store's clock, which gives objects their time; default: what it says. Returns what was condemned and
    deleted. Raises SnapshotConflict if another writer publishes meanwhile: sweep again.
    """
    base = table.latest()
    if base is None:
        return Orphans()
    with conflict_if_superseded(table, base):
        orphans = find_orphans(table, base, (table.store.clock() if now is None else now) - older_than_s)
    if orphans.condemn:
        condemn(table, base, orphans.condemn)
    table.store.delete(orphans.keys)
    return orphans


def find_orphans(table: Table, base: Snapshot, cutoff: float) -> Orphans:
    """Objects that no snapshot names, were not made for a snapshot after ``base``, and are old enough.

    cutoff: time of the last modification at the latest, in seconds since the epoch. Objects that an interrupted expiry
    has left are among them.
    """
    # Also snapshots after base: they may use side files of one that has expired since.
    snapshots = table.snapshots()
    live: dict[str, str] = {}
    for snapshot in snapshots:
        receipts = snapshot.receipt_columns([names.SPLIT_ID, "attempt"]).to_pydict()
        live.update(zip(receipts[names.SPLIT_ID], receipts["attempt"], strict=True))
    named = {key for snapshot in snapshots for key in snapshot.attached()}
    orphans, condemned = Orphans(), base.read_condemned()
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
            orphans.objects.append(info)  # of an attempt that lost the race for the data file
    for split_id, objects in unpublished.items():
        if max(info.modified for info in objects) <= cutoff:
            orphans.objects += objects
            if split_id not in condemned:
                orphans.condemn.add(split_id)
    for folder in (names.SNAPSHOTS, names.REJECTS, names.INDEX):
        for info in table.store.list(folder):
            number = names.number_of_attached_key(info.key)
            # Numbers above base may belong to a writer in progress; up to base, all manifests are known.
            if number is not None and number <= base.number and info.key not in named and info.modified <= cutoff:
                orphans.objects.append(info)
    a_day_ago = cutoff - 24 * 3600
    orphans.objects += [info for info in table.store.list(TEMPORARY) if info.modified <= a_day_ago]
    return orphans
