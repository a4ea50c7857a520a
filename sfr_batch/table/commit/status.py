"""The status of a table: its snapshots, its writer and its unfinished runs. Reads names and a few small files."""

import json
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Self, cast

from sfr_batch.errors import ObjectNotFound, TableError, counted
from sfr_batch.format import names
from sfr_batch.format.expired import REPAIR
from sfr_batch.format.run_progress import RunProgress
from sfr_batch.table.commit import lease
from sfr_batch.table.commit.damage import find_lost, find_missing, lost_manifests, tell
from sfr_batch.table.commit.unfinished import Heartbeat, RunStatus, unfinished_runs
from sfr_batch.table.commit.watching import progress_of
from sfr_batch.table.table import Snapshot, Table

_SNAPSHOTS_SHOWN = 5
_UNFINISHED = ("run_id", "trial", "splits", "committed", "rows", "rows_committed", "estimated")


@dataclass(frozen=True)
class TableStatus:
    """What `status` shows, as text or JSON."""

    table: Table
    expired: int
    """Number of snapshots that can no longer be read."""
    snapshots: tuple[Snapshot, ...]
    """The last ones, oldest first."""
    damage: tuple[str, ...]
    """Sentences on lost files."""
    writer: Heartbeat | None
    """The holder of the lease, dead or alive."""
    unfinished: tuple[RunStatus, ...]
    """Runs that have not published, oldest first."""
    progress: RunProgress
    """Of the run that goes on, or that was the last."""
    report: dict[str, Any] | None
    """Of the run that has published the newest snapshot."""

    @classmethod
    def of(cls, table: Table) -> Self:
        """Reads names and a few small files. Raises StorageError and TableError."""
        published, numbers = table.published_numbers(), table.snapshot_numbers()
        record = lease.read_record(table.store)
        return cls(
            table,
            expired=len(published) - len(numbers),
            snapshots=tuple(table.published(number) for number in numbers[-_SNAPSHOTS_SHOWN:]),
            damage=(*lost_manifests(table, published), *describe_damage(table, numbers)),
            writer=Heartbeat.of(record, table.store, table.store.clock()) if record else None,
            unfinished=tuple(unfinished_runs(table)),
            progress=progress_of(table),
            report=_last_report(table),
        )

    def describe(self) -> str:
        """Several lines of text."""
        card = self.table.card
        vectors = f"{self.table.dim} x {card.vector_dtype}, model {card.model['path']}"
        lines = [f"table     {self.table.store.root}", f"vectors   {vectors}, fingerprint {card.fingerprint[:12]}"]
        if self.expired:
            lines.append(f"expired   {counted(self.expired, 'earlier snapshot')}")
        for snapshot in self.snapshots:
            counts = snapshot.manifest.counts
            brief = snapshot.brief().removeprefix("snapshot ")
            lines.append(f"snapshot  {brief}, {counts.embedded:,} new, {counts.reused:,} reused")
        if not self.snapshots:
            lines.append("snapshot  none yet")
        lines += [f"damage    {line}" for line in self.damage]
        if self.writer:
            lines.append(f"writer    {self.writer.describe()}")
        lines += [f"run       {run.run_id}: {self._tell(run)}" for run in self.unfinished]
        if report := self.report:
            rows, tokens = counted(report["embedded"], "row"), counted(report["tokens"], "token")
            lines.append(f"last run  {report['run_id']}: {rows}, {tokens} in {report['seconds']:,.0f} s")
        return "\n".join(lines)

    def _goes_on(self, run: RunStatus) -> bool:
        return self.writer is not None and self.writer.beats and self.writer.run_id == run.run_id

    def _tell(self, run: RunStatus) -> str:
        if not self._goes_on(run):
            return run.describe(None)
        said = self.progress if self.progress.run_id == run.run_id else None
        return said.describe() if said and said.splits and said.stage else run.describe(self.writer)

    def as_json(self) -> dict[str, Any]:
        """The same, ready for `json.dumps`."""
        card, writer = self.table.card, self.writer
        return {
            "table": self.table.store.root,
            "dim": self.table.dim,
            "vector_dtype": card.vector_dtype,
            "model": card.model["path"],
            "fingerprint": card.fingerprint,
            "expired": self.expired,
            "snapshots": [_snapshot_as_json(snapshot) for snapshot in self.snapshots],
            "damage": list(self.damage),
            "writer": writer.as_json() if writer else None,
            "unfinished": [
                {name: getattr(run, name) for name in _UNFINISHED} | {"running": self._goes_on(run)}
                for run in self.unfinished
            ],
            "run": self.progress.as_json(),
        }


def _snapshot_as_json(snapshot: Snapshot) -> dict[str, Any]:
    manifest = snapshot.manifest
    shown = ("snapshot", "created_at", "operation", "run_id", "by", "generation")
    return {name: getattr(manifest, name) for name in shown} | {"counts": manifest.counts.model_dump()}


def describe(table: Table) -> str:
    """The status as several lines of text."""
    return TableStatus.of(table).describe()


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


def _last_report(table: Table) -> dict[str, Any] | None:
    latest = table.latest()
    if latest is None:
        return None
    key = names.run_key(latest.manifest.run_id, names.RUN_REPORT)
    try:
        return cast(dict[str, Any], json.loads(table.store.read(key)))
    except ObjectNotFound:  # a sweep writes no report, and a run may die before it writes one
        return None
