"""The status of a table: its snapshots, its writer and its unfinished runs. Reads names and a few small files."""

import json
from dataclasses import dataclass

from sfr_batch.errors import ObjectNotFound, counted
from sfr_batch.format import names
from sfr_batch.format.parquet import read_parquet
from sfr_batch.format.split_ids import without_last_flag
from sfr_batch.table.commit import lease
from sfr_batch.table.table import Table

_SNAPSHOTS_SHOWN = 5


@dataclass(frozen=True)
class RunStatus:
    """An unpublished run: how many of its planned splits are committed. For streams, the plan is an estimate."""

    run_id: str
    splits: int
    committed: int
    rows: int


def unfinished_runs(table: Table) -> list[RunStatus]:
    """Runs without a report that began after the last published or reported one, oldest first."""
    files = [info.key.removeprefix(f"{names.RUNS}/").split("/", 1) for info in table.store.list(names.RUNS)]
    planned = {parts[0] for parts in files if parts[1:] == [names.RUN_PLAN]}
    reported = {parts[0] for parts in files if parts[1:] == [names.RUN_REPORT]}
    latest = table.latest()
    published = {latest.manifest.run_id} if latest else set()
    newest = max(reported | published, default="")
    committed = set(map(without_last_flag, table.committed()))
    found = []
    for run_id in sorted(run_id for run_id in planned - reported if run_id > newest):
        plan = read_parquet(table.store.read(names.run_key(run_id, names.RUN_PLAN)))
        ids = list(map(without_last_flag, plan.column(names.SPLIT_ID).to_pylist()))
        found.append(
            RunStatus(run_id, len(ids), sum(i in committed for i in ids), sum(plan.column("rows").to_pylist()))
        )
    return found


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
    holder = lease.read_holder(table.store)
    if holder is not None:
        dead = " (its process is dead: the next run takes over)" if holder.process_state() == "dead" else ""
        lines.append(f"writer    {holder}{dead}")
    for run in unfinished_runs(table):
        lines.append(
            f"run       {run.run_id}: {run.committed:,} of {counted(run.splits, 'split')} committed, not published; in "
            "progress or interrupted; repeat the same `sfr-batch embed` to complete it"
        )
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
