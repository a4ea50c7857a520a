"""The status of a table: its snapshots, its writer and its unfinished runs. Reads names and a few small files."""

import json
import time

from sfr_batch.errors import ObjectNotFound, counted
from sfr_batch.format import names
from sfr_batch.table.commit import lease
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
    record = lease.read_record(table.store)
    heartbeat = Heartbeat.of(record, table.store, time.time()) if record else None
    if heartbeat:
        lines.append(f"writer    {heartbeat.describe()}")
    for run in unfinished_runs(table):
        live = heartbeat if heartbeat and heartbeat.beats and heartbeat.run_id == run.run_id else None
        lines.append(f"run       {run.run_id}: {run.describe(live)}")
    report = _last_report(table)
    if report:
        lines.append(f"last run  {report}")
    return "\n".join(lines)


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
