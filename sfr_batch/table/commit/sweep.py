"""Finds and removes objects that no snapshot names: leftovers of runs that died or lost a race."""

from dataclasses import dataclass, field

from sfr_batch.errors import counted
from sfr_batch.format import names
from sfr_batch.storage.store import TEMPORARY, ObjectInfo
from sfr_batch.table.commit import lease
from sfr_batch.table.commit.damage import needed_whole
from sfr_batch.table.commit.publish import condemn, conflict_if_superseded
from sfr_batch.table.commit.unfinished import Heartbeat
from sfr_batch.table.table import Snapshot, Table

SWEEP_AFTER_S = 7 * 24 * 3600.0
_LONGEST_WRITE_S = 24 * 3600.0
"""Longest time that the writing of a file may take, for which it has a temporary name."""


@dataclass
class Orphans:
    """What a sweep may remove: ``objects``, once the split ids in ``condemn`` are published as condemned."""

    condemn: set[str] = field(default_factory=set)
    objects: list[ObjectInfo] = field(default_factory=list)
    ahead: bool = False
    """Whether some were made for the snapshot that would be next: it has to be published first, without them."""

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
        now = table.store.clock() if now is None else now
        orphans = find_orphans(table, base, now - older_than_s, now)
    if orphans.condemn or orphans.ahead:
        condemn(table, base, orphans.condemn)
    table.store.delete(orphans.keys)
    return orphans


def find_orphans(table: Table, base: Snapshot, cutoff: float, now: float | None = None) -> Orphans:
    """Objects that no snapshot names and that are old enough: of runs, compactions and expiries that were interrupted.

    cutoff: time of the last modification at the latest, in seconds since the epoch. now: by the store's clock, which
    tells the temporary files of writers that are writing; without it they count as well.
    """
    # Also snapshots after base: they may use side files of one that has expired since.
    snapshots = table.snapshots()
    live: dict[str, str] = {}
    named: set[str] = set()
    for snapshot in snapshots:
        with needed_whole(snapshot):
            receipts = snapshot.receipt_columns([names.SPLIT_ID, "attempt"]).to_pydict()
            live.update(zip(receipts[names.SPLIT_ID], receipts["attempt"], strict=True))
            named |= snapshot.attached()
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
    for folder in (names.SNAPSHOTS, names.REJECTS, names.INDEX, names.DEAD):
        for info in table.store.list(folder):
            number = names.number_of_attached_key(info.key)
            # Up to base, all manifests are known. Those for the next number may be of a writer in progress: it loses
            # the number to the sweep before they are deleted.
            if number is not None and number <= base.number + 1 and info.key not in named and info.modified <= cutoff:
                orphans.objects.append(info)
                orphans.ahead |= number > base.number
    orphans.objects += _logs_of_dead_runs(table, {snapshot.manifest.run_id for snapshot in snapshots}, cutoff)
    written = cutoff if now is None else min(cutoff, now - _LONGEST_WRITE_S)
    orphans.objects += [info for info in table.store.list(TEMPORARY) if info.modified <= written]
    return orphans


def _logs_of_dead_runs(table: Table, published: set[str], cutoff: float) -> list[ObjectInfo]:
    """The logs of runs that have neither published nor written a report, and that do not run any more."""
    logs: dict[str, list[ObjectInfo]] = {}
    for info in table.store.list(names.RUNS):
        logs.setdefault(names.run_of_key(info.key), []).append(info)
    record = lease.read_record(table.store)
    writer = Heartbeat.of(record, table.store, table.store.clock()) if record else None
    spared = published | ({writer.run_id} if writer and writer.beats else set())
    return [
        info
        for run_id, its in logs.items()
        if run_id not in spared
        and names.run_key(run_id, names.RUN_REPORT) not in {info.key for info in its}
        and max(info.modified for info in its) <= cutoff
        for info in its
    ]
