"""What is stored beside the snapshots: orphans, unfinished runs, whether `data/` is plain. Nothing here can fail."""

import dataclasses
import time

import numpy as np
import pyarrow as pa

from sfr_batch.checks.audit.report import ORPHANS, PLAIN, RUNS, Finding
from sfr_batch.errors import ObjectNotFound, TableError, counted
from sfr_batch.format import names
from sfr_batch.table.commit import lease
from sfr_batch.table.commit.sweep import Orphans, find_orphans
from sfr_batch.table.commit.unfinished import Heartbeat, RunStatus, unfinished_runs
from sfr_batch.table.table import Snapshot, Table

_DAMAGE = (TableError, ObjectNotFound, pa.ArrowException)


def look_for_orphans(table: Table, base: Snapshot, told: str = "") -> tuple[Finding, Orphans | None]:
    """Objects that no snapshot up to ``base`` names; None if damage makes them unknown. told: damage that was told.

    Logs of runs are not among them: no snapshot names a log, and `look_for_runs` tells what runs have left.
    """
    try:
        orphans = find_orphans(table, base, np.inf)
    except _DAMAGE as error:
        same = told and told in (str(error), str(error.__cause__))
        why = "the same snapshot cannot be read" if same else str(error)
        return Finding(ORPHANS, "SKIP", f"cannot be determined: {why}"), None
    unnamed = [info for info in orphans.objects if not info.key.startswith(f"{names.RUNS}/")]
    orphans = dataclasses.replace(orphans, objects=unnamed)
    return Finding(ORPHANS, "PASS", _tell(orphans)), orphans


def _tell(orphans: Orphans) -> str:
    if not orphans.objects:
        return "every object belongs to a snapshot"
    oldest = max(0.0, time.time() - min(info.modified for info in orphans.objects))
    return (
        f"{counted(len(orphans.objects), 'object')} in no snapshot, {orphans.bytes:,} bytes, "
        f"the oldest {oldest / 3600:,.1f} hours old: from a run in progress, or leftovers for `sfr-batch sweep`"
    )


def check_plain(table: Table, base: Snapshot, *, sound: bool) -> tuple[Finding, bool]:
    """Whether any engine may read `data/` as the table. sound: whether the snapshots can be read."""
    why = _why_not_plain(table, base) if sound else "the snapshot is damaged"
    if why:
        return Finding(PLAIN, "PASS", f"data/ alone is not the table: {why}; read it with sfr_batch.open_table"), False
    return Finding(PLAIN, "PASS", "data/*.parquet is exactly the newest snapshot: any engine can read it"), True


def _why_not_plain(table: Table, base: Snapshot) -> str:
    """Why `data/` alone is not the table; empty if it is."""
    live = set(map(names.data_key, base.split_ids()))
    others = {info.key for info in table.store.list(names.DATA) if info.key.endswith(".parquet")} - live
    deleted = base.read_deletes().rows
    columns = base.files_with_other_columns()
    reasons = [
        f"{counted(deleted, 'row')} deleted" if deleted else "",
        f"{counted(len(others), 'file')} not in snapshot {base.number}" if others else "",
        f"{counted(columns, 'file')} with other carried columns" if columns else "",
    ]
    return ", ".join(filter(None, reasons))


def look_for_runs(table: Table) -> Finding:
    """Runs that are in progress, were interrupted or are trials."""
    try:
        record = lease.read_record(table.store)
        writer = Heartbeat.of(record, table.store, table.store.clock()) if record else None
        runs = [_tell_run(run, writer) for run in unfinished_runs(table)]
    except _DAMAGE as error:
        return Finding(RUNS, "SKIP", f"cannot be determined: {error}")
    return Finding(RUNS, "PASS", ", ".join(runs) or "no unfinished run")


def _tell_run(run: RunStatus, writer: Heartbeat | None) -> str:
    live = writer is not None and writer.beats and writer.run_id == run.run_id
    state = "in progress" if live else "a trial" if run.trial else "interrupted"
    return f"{state}: {run.run_id} ({run.committed:,} of {counted(run.splits, 'split')})"
