"""Expiry: removes old snapshots and the files that only they need.

Snapshots are kept by states. A state is what one `embed` or compaction has published, together with the sweeps and
expiries after it, which show the same rows from the same files. First, a snapshot is published that lists the expired
ones and condemns the names of the splits whose files are to be deleted. From then on nobody can open the expired
snapshots, and a writer that planned on an older one plans again. Then data, rejects and index files and lists of dead
rows are deleted, and side files last, because they name all the others. After a crash, every snapshot is whole or
expired, and the same command deletes the rest.

Manifests of expired snapshots stay, a kilobyte each: a writer that was paused could win a free number again. Condemned
names stay too, because a version of a shard that comes back gives the same names again.
"""

import contextlib
import math
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime

from sfr_batch.errors import ConfigError, ObjectNotFound, SnapshotConflict, TableError, TableNotFound, counted
from sfr_batch.format import names
from sfr_batch.format.records import Expired
from sfr_batch.format.store_times import published_at
from sfr_batch.storage.store import ObjectInfo
from sfr_batch.table.commit.damage import needed_whole
from sfr_batch.table.commit.publish import condemn, conflict_if_superseded
from sfr_batch.table.table import Snapshot, Table

HOUSEKEEPING = ("sweep", "expire")
"""Operations that publish the files of the previous snapshot again."""
_FOLDERS = (names.DATA, names.REJECTS, names.INDEX, names.DEAD, names.SNAPSHOTS)
_ATTEMPTS = 5
_UNITS = {"d": 86400.0, "h": 3600.0, "m": 60.0}


@dataclass(frozen=True)
class Expiry:
    """Which snapshots expire and which objects are deleted for it."""

    snapshots: tuple[int, ...] = ()
    """Numbers of the snapshots that expire."""
    kept: tuple[int, ...] = ()
    """Numbers of the snapshots that stay."""
    expired: Expired | None = None
    """The expired snapshots as the published snapshot records them."""
    condemn: frozenset[str] = frozenset()
    """Split ids that only expired snapshots have."""
    contents: tuple[ObjectInfo, ...] = ()
    """Data, rejects and index files and lists of dead rows, including those that an interrupted expiry has left."""
    sides: tuple[ObjectInfo, ...] = ()
    """Side files. They are deleted last."""

    def __repr__(self) -> str:
        numbers = ", ".join(map(str, self.snapshots)) or "none"
        what = f"{counted(len(self.objects), 'object')}, {counted(self.bytes, 'byte')}"
        return f"<Expiry of snapshots {numbers}: {what}; kept: {', '.join(map(str, self.kept)) or 'none'}>"

    @property
    def objects(self) -> tuple[ObjectInfo, ...]:
        return self.contents + self.sides

    @property
    def bytes(self) -> int:
        return sum(info.size for info in self.objects)


def expire(
    table: Table,
    *,
    keep_last: int | None = None,
    keep_for: str | None = None,
    keep: Collection[int] = (),
    dry_run: bool = True,
    now: datetime | None = None,
) -> Expiry:
    """Remove old snapshots. A snapshot stays if any given rule keeps it; the newest state always stays.

    keep_last: keep the last states, so many. keep_for: keep every state that was the newest at some time within
    ``30d``, ``36h`` or ``90m``, by the clock of the store, whatever those of the writers said. keep: keep the snapshots
    with these numbers. dry_run: change nothing, only return what would be removed. now: by the store's clock; default:
    what it says. Raises ConfigError for invalid rules, TableNotFound if ``keep`` names a missing snapshot,
    SnapshotConflict if other writers keep publishing, StorageError. After an error or a crash, the same call does the
    rest.
    """
    if keep_last is None and keep_for is None:
        raise ConfigError("Give --keep-last N, --keep-for AGE, or both.")
    if keep_last is not None and keep_last < 1:
        raise ConfigError(f"--keep-last {keep_last}: must be at least 1, because the newest state always stays.")
    since = math.inf
    if keep_for is not None:
        age = parse_duration(keep_for, "--keep-for")
        since = (now.timestamp() if now else table.store.clock()) - age
    for attempt in range(_ATTEMPTS):
        base = table.latest()
        if base is None:
            return Expiry()
        try:
            with conflict_if_superseded(table, base):
                expiry = _plan(table, base, keep_last or 1, since, keep)
            if dry_run:
                return expiry
            if expiry.snapshots:
                condemn(table, base, expiry.condemn, "expire", expiry.expired)
            break
        except SnapshotConflict:
            if attempt == _ATTEMPTS - 1:
                raise
    table.store.delete([info.key for info in expiry.contents])
    table.store.delete([info.key for info in expiry.sides])
    return expiry


def parse_duration(text: str, setting: str) -> float:
    """Seconds in ``7d``, ``36h`` or ``90m``. Raises ConfigError, which names ``setting``."""
    number, unit = text[:-1], text[-1:]
    if unit not in _UNITS or not (number.isascii() and number.isdecimal()):
        raise ConfigError(f"{setting} {text}: give a number of days, hours or minutes, such as 7d, 36h or 90m.")
    return int(number) * _UNITS[unit]


def _plan(table: Table, base: Snapshot, keep_last: int, since: float, keep: Collection[int]) -> Expiry:
    published = [number for number in table.published_numbers() if number <= base.number]
    here, unreadable = _read_manifests(table, [n for n in published if not base.manifest.has_expired(n)])
    unknown = sorted(set(keep) - set(here))
    if unknown:
        raise TableNotFound(
            f"--keep {unknown[0]}: {table.store.root} has no such snapshot. Available: {', '.join(map(str, here))}."
        )
    before = base.manifest.expired.before if base.manifest.expired else 1
    times = published_at(table.store)
    before = _oldest_to_keep([s for number, s in here.items() if number >= before], times, keep_last, since)
    expired = Expired(before=before, keep=tuple(sorted(number for number in set(keep) if number < before)))
    for number, error in unreadable.items():
        if not expired.covers(number):
            raise error
    given_up = {*unreadable, *_missing(here, published, base, expired)}
    going = [snapshot for number, snapshot in here.items() if expired.covers(number)]
    kept = [snapshot for number, snapshot in here.items() if not expired.covers(number)]

    objects = [info for folder in _FOLDERS for info in table.store.list(folder)]
    needed: set[str] = set()
    for snapshot in kept:
        with needed_whole(snapshot):
            needed |= snapshot.needs()
    gone = {key for snapshot in going for key in _needs_of_damaged(snapshot)}
    gone |= _left_behind(table, base, {info.key for info in objects} - needed)
    gone -= needed
    condemned_now = {split_id for key in gone if (split_id := names.split_of_data_key(key))}
    condemned = base.read_condemned()
    # Names that were condemned before may have files too, left by a crash or by a task that was paused.
    removed = [
        info
        for info in objects
        if info.key not in needed and (info.key in gone or _split_of(info.key) in condemned_now | condemned)
    ]
    return Expiry(
        snapshots=tuple(sorted([*(snapshot.number for snapshot in going), *given_up])),
        kept=tuple(snapshot.number for snapshot in kept),
        expired=expired,
        condemn=frozenset(condemned_now - condemned),
        contents=tuple(info for info in removed if not info.key.startswith(names.SNAPSHOTS)),
        sides=tuple(info for info in removed if info.key.startswith(names.SNAPSHOTS)),
    )


def _read_manifests(table: Table, numbers: Sequence[int]) -> tuple[dict[int, Snapshot], dict[int, TableError]]:
    """The snapshots by number, and the errors of those whose manifests are damaged."""
    found, unreadable = {}, {}
    for number in numbers:
        try:
            found[number] = table.published(number)
        except TableNotFound:
            raise
        except TableError as error:
            unreadable[number] = error
    return found, unreadable


def _missing(here: Mapping[int, Snapshot], published: Collection[int], base: Snapshot, expired: Expired) -> set[int]:
    """Numbers of snapshots whose manifests are lost, as far as a manifest of ``here`` names them as its parent."""
    parents = {snapshot.manifest.parent for snapshot in here.values()} - {None, *published}
    return {number for number in parents if number and expired.covers(number) and not base.manifest.has_expired(number)}


def _needs_of_damaged(snapshot: Snapshot) -> set[str]:
    """What an expiring snapshot needs, as far as its side files can be read: the rest is left to a sweep."""
    try:
        return snapshot.needs()
    except (TableError, ObjectNotFound):
        return {side.name for side in snapshot.manifest.sides}


def _oldest_to_keep(snapshots: Sequence[Snapshot], times: Mapping[int, float], keep_last: int, since: float) -> int:
    """Number of the first snapshot of the oldest state that stays.

    times: when each was published, by the store's clock, which may count whole seconds. since: seconds since the epoch.
    The state that was the newest at that time stays, and so do all later ones.
    """
    states = [snapshot.manifest for snapshot in snapshots if snapshot.manifest.operation not in HOUSEKEEPING]
    ended = [times[successor.snapshot] for successor in states[1:]]
    by_time = sum(end + 1 <= since for end in ended)
    return states[min(by_time, max(0, len(states) - keep_last))].snapshot


def _left_behind(table: Table, base: Snapshot, present: set[str]) -> set[str]:
    """Keys that already expired snapshots named. present: keys of existing objects that are no longer needed."""
    found: set[str] = set()
    for number in sorted(set(filter(None, map(names.number_of_attached_key, present)))):
        if base.manifest.has_expired(number):
            snapshot = table.published(number)
            found.update(side.name for side in snapshot.manifest.sides)
            # Side files are deleted last: if one is missing, everything that they name is deleted.
            with contextlib.suppress(TableError, ObjectNotFound):
                found |= snapshot.needs()
    return found


def _split_of(key: str) -> str | None:
    rejects = names.split_and_attempt_of_rejects_key(key)
    return rejects[0] if rejects else names.split_of_data_key(key)
