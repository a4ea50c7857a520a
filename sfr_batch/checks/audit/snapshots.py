"""Checks of snapshots and their side files: the chain is complete, and they are as published."""

import hashlib
from collections import Counter
from collections.abc import Mapping

import pyarrow.parquet as pq

from sfr_batch.checks.audit.contents import AHEAD
from sfr_batch.checks.audit.promises import PromiseCheck
from sfr_batch.checks.audit.report import FINGERPRINT, SIDES, SNAPSHOTS, Finding
from sfr_batch.errors import ObjectNotFound, TableError, TableNotFound, counted
from sfr_batch.format import names
from sfr_batch.format.expired import check_not_expired
from sfr_batch.format.fingerprint import LATER_INPUTS, differences, digest
from sfr_batch.format.records import SideFile
from sfr_batch.storage.parallel import in_parallel
from sfr_batch.storage.store import in_memory
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
    snapshots: dict[int, Snapshot] = {}
    numbers = range(1, newest + 1)
    for number, found in zip(numbers, in_parallel(lambda n: _read(table, n), numbers, AHEAD), strict=True):
        if isinstance(found, str):
            promise.wrong(found)
            continue
        snapshots[number] = found
        key, manifest, parent = names.manifest_key(number), found.manifest, number - 1 or None
        if manifest.snapshot != number:
            promise.wrong(f"{key} is the manifest of snapshot {manifest.snapshot}")
        if manifest.parent != parent:
            promise.wrong(f"{key} has the parent {manifest.parent} instead of {parent}")
    expired = [n for n in snapshots if snapshots[max(snapshots)].manifest.has_expired(n)]
    told = f"numbers 1 to {newest}, each follows the previous one"
    if expired:
        told += f"; {counted(len(expired), 'expired snapshot')}, of which only the manifest is left"
    finding = promise.finding(counted(newest, "snapshot"), told)
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
    """Check the side files of all snapshots, since older ones can be read too."""
    promise = PromiseCheck(SIDES)
    sides = {side.name: (number, side) for number, s in snapshots.items() for side in s.manifest.sides}
    for wrong in in_parallel(lambda numbered: _check_side(table, *numbered), list(sides.values()), AHEAD):
        if wrong:
            promise.wrong(wrong)
    return promise.finding(counted(len(sides), "side file"), "SHA-256 and number of rows match the manifests")


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
