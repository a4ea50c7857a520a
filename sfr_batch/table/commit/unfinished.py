"""Unfinished runs: how far they are, how fast, and whether they still run. Only from names and times of objects.

The times are the store's. The clock of this machine is compared with them only to tell how long ago something was; if
it is behind, the newest heartbeat of the run is what counts as now.
"""

import contextlib
import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Self

from sfr_batch.errors import ObjectNotFound, TableError, counted
from sfr_batch.format import names
from sfr_batch.format.durations import format_duration
from sfr_batch.format.parquet import read_parquet
from sfr_batch.format.records import Manifest
from sfr_batch.format.run_progress import STALLED_S, RunProgress
from sfr_batch.format.split_ids import without_last_flag
from sfr_batch.storage.store import Store
from sfr_batch.table.commit.lease import LeaseRecord
from sfr_batch.table.table import Snapshot, Table

_HOUSEKEEPING = ("compact", "sweep", "expire")
"""Operations that embed nothing."""
_AGAIN = "repeat the same `sfr-batch embed` to complete it"


@dataclass(frozen=True)
class Heartbeat:
    """The writer of a table, as the lease shows it."""

    record: LeaseRecord
    at: float
    """Time of the newest renewal, in seconds since the epoch."""
    now: float
    """The time that it is, or that of the newest renewal if that is later."""

    @classmethod
    def of(cls, record: LeaseRecord, store: Store, now: float) -> Self:
        at = max((info.modified for info in store.list(names.LEASES)), default=now)
        return cls(record, at, max(now, at))

    @property
    def run_id(self) -> str:
        return self.record.holder.run_id

    @property
    def beats(self) -> bool:
        """Whether the writer is alive: its process is, or if nobody can tell, its lease has been renewed in time."""
        state = self.record.holder.process_state()
        return state == "alive" or (state == "unknown" and self.now - self.at <= self.record.lifetime_s)

    def as_json(self) -> dict[str, Any]:
        """Who it is, and whether it is alive, ready for `json.dumps`."""
        holder = self.record.holder
        shown = {name: getattr(holder, name) for name in ("run_id", "pid", "since")} | holder.who()
        heartbeat = {"alive": self.beats, "heartbeat_s": self.now - self.at, "lifetime_s": self.record.lifetime_s}
        return shown | heartbeat | {"stop_with": holder.stop_command}

    def describe(self) -> str:
        """Who it is, and whether it is alive."""
        holder = self.record.holder
        if holder.process_state() == "dead":
            return f"{holder} (its process is dead: the next run takes over)"
        if self.beats:
            return str(holder)
        silent = format_duration(self.now - self.at)
        return f"{holder} (no heartbeat for {silent}: it is dead or paused, and the next run takes over)"


@dataclass(frozen=True)
class RunStatus:
    """An unpublished run: how much of its plan is committed."""

    run_id: str
    splits: int
    committed: int
    rows: int
    """Rows of the plan, as planned; a row of a commit counts as planned, too."""
    rows_committed: int
    estimated: bool
    """Whether numbers of rows are estimates, as for formats of lines."""
    started: float
    """When the run wrote its plan, in seconds since the epoch."""
    commits: tuple[tuple[float, int], ...]
    """Time and rows of the planned splits that were committed since then, in the order of time."""
    trial: bool = False
    """Whether it is a trial (`select.limit`), which publishes nothing."""

    @property
    def last(self) -> float:
        """Time of the newest commit, or of the start."""
        return self.commits[-1][0] if self.commits else self.started

    @property
    def rows_per_second(self) -> float:
        """Rows committed since the run began; 0 while none are."""
        took = self.last - self.started
        return sum(rows for _, rows in self.commits) / took if took > 0 else 0.0

    def progress(self, now: float) -> RunProgress:
        """Where it is at that time of the store, in seconds since the epoch, as far as data files tell. Splits that
        attempts before it have committed are not its own."""
        before = self.committed - len(self.commits)
        done = sum(rows for _, rows in self.commits)
        earlier = self.rows_committed - done
        return RunProgress(
            stage="publishing" if self.committed >= self.splits else "",
            elapsed_s=now - self.started,
            rows=self.rows - earlier,
            embedded=done,
            earlier=earlier,
            estimated=self.estimated,
            splits=self.splits - before,
            splits_done=len(self.commits),
            first_commit_s=now - self.commits[0][0] if self.commits else None,
            last_commit_s=now - self.last if self.commits else None,
        )

    def describe(self, live: Heartbeat | None) -> str:
        """What it has done, and what it does. live: its heartbeat; None if it does not run any more."""
        about = "~" if self.estimated else ""
        splits = f"{self.committed:,} of {counted(self.splits, 'split')} committed"
        if live is None and self.trial:
            return f"trial (select.limit): {splits}, which the next run without select.limit uses"
        if live is None:
            return f"interrupted: {splits}, not published; {_AGAIN}"
        rows = f"{about}{self.rows_committed:,} of {about}{counted(self.rows, 'row')}, {splits}"
        ago = live.now - self.last
        last = f"last commit {format_duration(ago)} ago" if self.commits else f"started {format_duration(ago)} ago"
        if self.committed >= self.splits:
            return f"publishing: {rows}, {last}"
        rate = f"{about}{self.rows_per_second:,.1f} rows/s, " if self.commits else ""
        if self._is_stalled(ago):
            stop = live.record.holder.how_to_stop()
            return f"stalled: {rows}, {rate}{last}; look at its log; to start again: {stop}, then {_AGAIN}"
        return f"running: {rows}, {rate}{last}{self._left()}"

    def _is_stalled(self, ago: float) -> bool:
        usual = (self.last - self.started) / max(1, len(self.commits))
        return ago > max(STALLED_S, 5 * usual)

    def _left(self) -> str:
        if not self.rows_per_second:
            return ""
        return f", {format_duration((self.rows - self.rows_committed) / self.rows_per_second)} left"


def last_run(newest: Snapshot | None) -> str:
    """Id of the run that has embedded last, up to the newest snapshot; "" if none has. What later ones have published,
    such as a sweep, says nothing of the runs before them, unless the manifest of the run itself is lost."""
    if newest is None:
        return ""
    manifest = newest.manifest
    with contextlib.suppress(ObjectNotFound, TableError):
        while manifest.operation in _HOUSEKEEPING and manifest.parent:
            key = names.manifest_key(manifest.parent)
            manifest = Manifest.from_json(newest.store.read(key), f"{newest.store.root}/{key}")
    return manifest.run_id


def unfinished_runs(table: Table) -> list[RunStatus]:
    """Runs without a report that began after the last published or reported one, oldest first."""
    planned, reported = {}, set()
    for info in table.store.list(names.RUNS):
        run_id, _, name = info.key.removeprefix(f"{names.RUNS}/").partition("/")
        if name == names.RUN_PLAN:
            planned[run_id] = info.modified
        elif name == names.RUN_REPORT:
            reported.add(run_id)
    newest = max(reported | {last_run(table.latest())})
    committed = {without_last_flag(split_id): info.modified for split_id, info in table.committed().items()}
    found = []
    for run_id in sorted(run_id for run_id in planned.keys() - reported if run_id > newest):
        with contextlib.suppress(ObjectNotFound):  # a sweep removes it now
            found.append(_status(table, run_id, planned[run_id], committed))
    return found


def _is_trial(store: Store, run_id: str) -> bool:
    try:
        return bool(json.loads(store.read(names.run_key(run_id, names.RUN_CONFIG)))["select"]["limit"])
    except (ObjectNotFound, ValueError, KeyError):
        return False


def _status(table: Table, run_id: str, started: float, committed: Mapping[str, float]) -> RunStatus:
    """committed: time of each data file, by the id of its split without the flag of the last one."""
    plan = read_parquet(table.store.read(names.run_key(run_id, names.RUN_PLAN)))
    ids = map(without_last_flag, plan.column(names.SPLIT_ID).to_pylist())
    rows = dict(zip(ids, plan.column("rows").to_pylist(), strict=True))
    done = sorted((committed[split_id], number) for split_id, number in rows.items() if split_id in committed)
    shards = set(plan.column(names.SHARD).to_pylist())
    return RunStatus(
        run_id,
        splits=len(rows),
        committed=len(done),
        rows=sum(rows.values()),
        rows_committed=sum(number for _, number in done),
        estimated=any("/" in shard and not shard.endswith(".parquet") for shard in shards),
        started=started,
        commits=tuple((at, number) for at, number in done if at >= started),
        trial=_is_trial(table.store, run_id),
    )
