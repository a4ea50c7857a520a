"""Checks of snapshots and their side files: the chain is complete, and they are as published."""

import hashlib
from collections import Counter
from collections.abc import Collection, Mapping, Sequence

import pyarrow as pa
import pyarrow.parquet as pq

from sfr_batch.checks.audit.contents import AHEAD
from sfr_batch.checks.audit.promises import PromiseCheck
from sfr_batch.checks.audit.report import FINGERPRINT, SIDES, SNAPSHOTS, Finding
from sfr_batch.errors import ObjectNotFound, SfrBatchError, TableError, TableNotFound, counted
from sfr_batch.format import names
from sfr_batch.format.expired import check_not_expired
from sfr_batch.format.fingerprint import LATER_INPUTS, differences, digest
from sfr_batch.format.records import SideFile
from sfr_batch.storage.parallel import in_parallel
from sfr_batch.storage.store import in_memory
from sfr_batch.table.commit.damage import lost_newest
from sfr_batch.table.table import Snapshot, Table


def read_snapshots(table: Table, newest: int | None) -> tuple[Finding, dict[int, Snapshot]]:
    """The snapshots up to ``newest`` that can be read, by number.

    Expired snapshots must still have their manifests, but are not returned.
    """
    if newest is None:
        return Finding(SNAPSHOTS, "SKIP", "nothing is published yet"), {}
    promise = PromiseCheck(SNAPSHOTS)
    # Listed again: all manifests up to the newest one must exist now.
    keys = [info.key for info in table.store.list(names.SNAPSHOTS)]
    manifests = Counter(number for key in keys if (number := names.number_of_manifest_key(key)) is not None)
    for number, times in sorted(manifests.items()):
        if times > 1:
            promise.wrong(f"snapshot {number} has {times} manifests")
    read = _read_all(table, sorted(number for number in manifests if number <= newest))
    first = _first(read)
    snapshots = {number: found for number, found in read.items() if isinstance(found, Snapshot) and number >= first}
    given_up = 0
    for number in range(first, newest + 1):
        found = read.get(number) or _read(table, number)
        if isinstance(found, str):
            if snapshots and snapshots[max(snapshots)].manifest.has_expired(number):
                given_up += 1
            else:
                promise.wrong(found)
            continue
        key, manifest = names.manifest_key(number), found.manifest
        parent = number - 1 if number > first else None
        if manifest.snapshot != number:
            promise.wrong(f"{key} is the manifest of snapshot {manifest.snapshot}")
        if manifest.parent != parent:
            promise.wrong(f"{key} has the parent {manifest.parent} instead of {parent}")
    if lost := lost_newest(table, newest):
        promise.wrong(lost)
    expired = [n for n in snapshots if snapshots[max(snapshots)].manifest.has_expired(n)]
    told = f"numbers {first} to {newest}, each follows the previous one"
    if first > 1:
        told += "; a repair has begun this history, earlier snapshots are lost"
    if given_up:
        told += f"; {counted(given_up, 'manifest')} of expired snapshots cannot be read"
    if expired:
        told += f"; {counted(len(expired), 'expired snapshot')}, of which only the manifest is left"
    finding = promise.finding(counted(newest - first + 1, "snapshot"), told)
    return finding, {number: snapshot for number, snapshot in snapshots.items() if number not in expired}


def check_inputs(table: Table, snapshots: Mapping[int, Snapshot]) -> Finding:
    """Check that the card, what was accepted since, and the manifests agree on the inputs of the fingerprint."""
    promise, card = PromiseCheck(FINGERPRINT), table.card
    if digest(card.fingerprint_inputs) != card.fingerprint:
        promise.wrong(
            f"{names.TABLE_JSON} has the fingerprint {card.fingerprint[:12]}, which is not that of its inputs"
        )
    record = None
    try:
        record = table.accepted()
    except TableError as error:
        promise.wrong(str(error))
    repeated = {number: snapshot.manifest.accepted for number, snapshot in snapshots.items()}
    for number, accepted in repeated.items():
        if accepted and not record:
            promise.wrong(f"snapshot {number} has accepted inputs, but {names.ACCEPTED_JSON} cannot be read")
        elif accepted and record and (lines := differences(record.inputs, accepted, "accepted", "in the manifest")):
            promise.wrong(f"snapshot {number}: {lines[0]}")
        elif not accepted and repeated.get(number - 1):
            promise.wrong(f"snapshot {number} does not repeat the accepted inputs of the one before")
    if record and (twice := sorted({*record.inputs} & {*card.fingerprint_inputs})):
        promise.wrong(f"{names.ACCEPTED_JSON} repeats inputs of {names.TABLE_JSON}: {', '.join(twice)}")
    told = f"{card.fingerprint[:12]} is that of the inputs in the card"
    if record:
        rows = counted(record.rows_compared, "row")
        told += f"; {' and '.join(record.inputs)} accepted at {record.accepted_at} after {rows} were compared"
    elif later := [name for name in LATER_INPUTS if name not in card.fingerprint_inputs]:
        told += f"; {' and '.join(later)} not recorded yet"
    return promise.finding(counted(len(snapshots), "manifest"), told)


def _read_all(table: Table, numbers: Sequence[int]) -> dict[int, Snapshot | str]:
    """Each snapshot, or what is wrong with its manifest."""
    return dict(zip(numbers, in_parallel(lambda number: _read(table, number), numbers, AHEAD), strict=True))


def _first(read: Mapping[int, Snapshot | str]) -> int:
    """The number at which the history begins: 1, unless a repair had nothing to go on from."""
    beginnings = [
        number
        for number, found in read.items()
        if isinstance(found, Snapshot) and found.manifest.parent is None and found.manifest.operation == "repair"
    ]
    return max(beginnings, default=1)


def _read(table: Table, number: int) -> Snapshot | str:
    try:
        return table.published(number)
    except TableError as error:
        return str(error)


def expired_since(table: Table, number: int) -> bool:
    """Whether a snapshot has expired since it was read, so that its files may be gone."""
    try:
        check_not_expired(table.store, number)
    except TableNotFound:
        return True
    except TableError:  # the newest manifest is damaged, which another check reports
        return False
    return False


def check_sides(table: Table, snapshots: Mapping[int, Snapshot]) -> Finding:
    """Check the side files of all snapshots, and the lists that they name, since older ones can be read too."""
    promise, mended, damaged = PromiseCheck(SIDES), last_repair(snapshots), set()
    sides = {side.name: (number, side) for number, s in snapshots.items() for side in [*s.manifest.sides, *_lists(s)]}
    found = in_parallel(lambda numbered: _check_side(table, *numbered), list(sides.values()), AHEAD)
    for (number, _), wrong in zip(sides.values(), found, strict=True):
        if wrong and number < mended:
            damaged.add(number)
        elif wrong:
            promise.wrong(wrong)
    told = f"SHA-256 and number of rows match the manifests{tell_older(damaged)}"
    return promise.finding(counted(len(sides), "side file"), told)


def _lists(snapshot: Snapshot) -> list[SideFile]:
    """The lists of dead rows of a snapshot; none if their side file cannot be read, which is a problem of its own."""
    try:
        return snapshot.read_deletes().lists()
    except (SfrBatchError, pa.ArrowException):
        return []


def last_repair(snapshots: Mapping[int, Snapshot]) -> int:
    """Number of the newest snapshot that a repair has published, 0 if there is none. Older ones may be damaged."""
    return max((number for number, s in snapshots.items() if s.manifest.operation == "repair"), default=0)


def tell_older(numbers: Collection[int]) -> str:
    """What is said of snapshots that are older than a repair and lack files."""
    if not numbers:
        return ""
    which = (
        f"snapshot {min(numbers)} lacks" if len(numbers) == 1 else f"{len(numbers)} snapshots up to {max(numbers)} lack"
    )
    return f"; {which} files since before a repair: `sfr-batch expire` removes {'it' if len(numbers) == 1 else 'them'}"


def _check_side(table: Table, number: int, side: SideFile) -> str | None:
    try:
        data = table.store.read(side.name)
    except ObjectNotFound:
        return None if expired_since(table, number) else f"{side.name} of snapshot {number} is missing"
    if hashlib.sha256(data).hexdigest() != side.sha256:
        return f"{side.name} is not the file that snapshot {number} was published with"
    rows = pq.read_metadata(in_memory(data)).num_rows
    return (
        None if rows == side.rows else f"{side.name} has {counted(rows, 'row')}, snapshot {number} says {side.rows:,}"
    )
