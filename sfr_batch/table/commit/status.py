"""The status of a table: its snapshots, its writer and its unfinished runs. Reads names and a few small files."""

import json
from collections.abc import Sequence

from sfr_batch.errors import ObjectNotFound, TableError, counted
from sfr_batch.format import names
from sfr_batch.format.expired import REPAIR
from sfr_batch.table.commit import lease
from sfr_batch.table.commit.damage import find_lost, find_missing, lost_manifests, tell
from sfr_batch.table.commit.unfinished import Heartbeat, unfinished_runs
from sfr_batch.table.table import Table

_SNAPSHOTS_SHOWN = 5


def describe(table: Table) -> str:
    """The status as several lines of text."""
    card = table.card
    lines = [
        f"table     {table.store.root}",
        f"vectors   {table.dim} x {card.vector_dtype}, model {card.model['path']}, fingerprint {card.fingerprint[:12]}",
    ]
    numbers = table.snapshot_numbers()
    gone = len(table.published_numbers()) - len(numbers)
    if gone:
        lines.append(f"expired   {counted(gone, 'earlier snapshot')}")
    for number in numbers[-_SNAPSHOTS_SHOWN:]:
        snapshot = table.published(number)
        counts = snapshot.manifest.counts
        lines.append(
            f"snapshot  {snapshot.brief().removeprefix('snapshot ')}, {counts.embedded:,} new, {counts.reused:,} reused"
        )
    if not numbers:
        lines.append("snapshot  none yet")
    lost = [*lost_manifests(table, table.published_numbers()), *describe_damage(table, numbers)]
    lines += [f"damage    {line}" for line in lost]
    record = lease.read_record(table.store)
    heartbeat = Heartbeat.of(record, table.store, table.store.clock()) if record else None
    if heartbeat:
        lines.append(f"writer    {heartbeat.describe()}")
    for run in unfinished_runs(table):
        live = heartbeat if heartbeat and heartbeat.beats and heartbeat.run_id == run.run_id else None
        lines.append(f"run       {run.run_id}: {run.describe(live)}")
    report = _last_report(table)
    if report:
        lines.append(f"last run  {report}")
    return "\n".join(lines)


def describe_damage(table: Table, numbers: Sequence[int]) -> list[str]:
    """A sentence on the lost files of the newest snapshot, and one on older snapshots; none if no file is lost.

    numbers: of the snapshots that can be read, oldest first. Reads listings, and a side file of each snapshot shown.
    """
    if not numbers:
        return []
    committed = table.committed()
    newest = table.published(numbers[-1])
    told = []
    try:
        lost = find_missing(newest, committed)
    except TableError as error:
        return [str(error)]
    if lost:
        told.append(f"of snapshot {newest.number}, {tell(lost)}. {REPAIR}")
    for number in numbers[-_SNAPSHOTS_SHOWN:-1]:
        try:
            older = find_lost(table.published(number), committed)
        except TableError as error:
            told.append(str(error))
            continue
        if only := {split_id: wrong for split_id, wrong in older.items() if split_id not in lost}:
            told.append(
                f"of snapshot {number}, {tell(only)}. Newer snapshots do without; `sfr-batch expire` removes this one"
            )
    return told


def _last_report(table: Table) -> str | None:
    latest = table.latest()
    if latest is None:
        return None
    try:
        report = json.loads(table.store.read(names.run_key(latest.manifest.run_id, names.RUN_REPORT)))
    except ObjectNotFound:  # a sweep writes no report, and a run may die before it writes one
        return None
    rows, tokens = counted(report["embedded"], "row"), counted(report["tokens"], "token")
    return f"{report['run_id']}: {rows}, {tokens} in {report['seconds']:,.0f} s"
