"""Where the run of a table is, from storage alone: once, or again and again until it ends.

A look takes a handful of requests, however large the table is: the lease says who writes and whether it is alive, the
run says where it is, and after its end its report or its end says how that was. Only of a run of an older release,
which does not say where it is, data files are counted, once a minute.
"""

import contextlib
import dataclasses
import json
import time
from collections.abc import Callable, Iterator

from sfr_batch.errors import ObjectNotFound, StorageError, TableError
from sfr_batch.format import names, run_accounts
from sfr_batch.format.run_accounts import AGAIN, KILLED, PUBLISHED, UNKNOWN, RunAccount
from sfr_batch.format.run_progress import RunProgress
from sfr_batch.table.commit import lease
from sfr_batch.table.commit.unfinished import Heartbeat, RunStatus, unfinished_runs
from sfr_batch.table.table import Table

EVERY_S = 5.0
"""Seconds between two looks."""
GRACE_S = 20.0
"""Seconds that a run has, after it has let the table go, to write how it ended."""
PATIENCE_S = 600.0
"""Seconds that a store may fail in a row, and that a run may take to plan again, before nobody watches any more."""
_SPEAKS_WITHIN_S = 30.0
"""Seconds after which a run that has not said where it is will not do so."""
_COUNT_EVERY_S = 60.0
"""Seconds between two counts of data files."""


def progress_of(table: Table) -> RunProgress:
    """Where the run that writes the table is; without one, how the last run ended. Raises StorageError, TableError."""
    return Watcher(table).look()


def watch(
    table: Table,
    every_s: float = EVERY_S,
    *,
    pause: Callable[[float], None] = time.sleep,
    clock: Callable[[], float] = time.monotonic,
) -> Iterator[RunProgress | StorageError]:
    """Where the run is, every ``every_s`` seconds; the last one is how it ended. If a look fails, the error of the
    store stands in its place; it is raised if the store fails for PATIENCE_S in a row."""
    watcher = Watcher(table, clock)
    failing: float | None = None
    while True:
        try:
            found = watcher.look()
        except StorageError as error:
            failing = clock() if failing is None else failing
            if clock() - failing > PATIENCE_S:
                raise
            yield error
        else:
            failing = None
            yield found
            if found.is_over:
                return
        pause(every_s)


class Watcher:
    """Follows the run that it has found first, and those that the same attempt makes when it has to plan again."""

    def __init__(self, table: Table, clock: Callable[[], float] = time.monotonic) -> None:
        self._table = table
        self._store = table.store
        self._clock = clock
        self._followed: RunProgress | None = None
        """Where the followed run was at the last look."""
        self._gone: float | None = None
        """Since when the followed run no longer has the lease, by the clock."""
        self._said: tuple[str, RunProgress, float] | None = None
        """The last that the run has said: its key, what it was, and the time of the store then."""
        self._counted: tuple[RunProgress, float] | None = None

    def look(self) -> RunProgress:
        """Where the run is now. Raises StorageError; the next look may succeed."""
        record, at = lease.read_newest(self._store)
        now = max(self._store.clock(), at)
        writer = Heartbeat(record, at, now) if record and not record.released else None
        followed = self._followed
        if writer and writer.beats and (followed is None or self._may_follow(writer.run_id)):
            self._gone = None
            self._followed = self._running(writer)
        elif followed is None:
            self._followed = self._just_left(record, now - at) if record else None
            return self._followed or self._last()
        else:
            self._followed = self._left(followed, writer)
        return self._followed

    def _may_follow(self, run_id: str) -> bool:
        """Whether it is the followed run, or the next one of an attempt that plans again."""
        return self._followed is not None and (self._followed.run_id == run_id or self._followed.outcome == AGAIN)

    def _running(self, writer: Heartbeat) -> RunProgress:
        if self._followed and self._followed.run_id != writer.run_id:
            self._said = self._counted = None
        holder = writer.record.holder
        return dataclasses.replace(
            self._read(writer),
            table=self._store.root,
            run_id=writer.run_id,
            user=holder.user,
            host=holder.host,
            ray_job=holder.ray_job,
            stop_with=holder.stop_command,
            heartbeat_s=writer.now - writer.at,
        )

    def _read(self, writer: Heartbeat) -> RunProgress:
        """What the run says of itself; before it does, that it prepares, or what can be counted."""
        folder = names.run_key(writer.run_id, names.RUN_PROGRESS)
        times = {info.key: info.modified for info in self._store.list(folder) if names.number_of_progress_key(info.key)}
        newest = max(times, key=lambda key: names.number_of_progress_key(key) or 0, default="")
        if newest and (self._said is None or self._said[0] != newest):
            with contextlib.suppress(ObjectNotFound):  # there is a newer one by now
                if said := RunProgress.from_json(self._store.read(newest)):
                    self._said = newest, said, times[newest]
        if self._said:
            return self._said[1].later(writer.now - self._said[2])
        return self._count(writer)

    def _count(self, writer: Heartbeat) -> RunProgress:
        """From its plan and its data files, for want of anything better."""
        begun = self._log(writer.run_id).get(names.run_key(writer.run_id, names.RUN_PLAN))
        if begun is None:
            return RunProgress(stage="comparing with the corpus, or maintaining the table")
        if writer.now - begun < _SPEAKS_WITHIN_S:
            return RunProgress(stage="starting", elapsed_s=writer.now - begun)
        since = None if self._counted is None else self._clock() - self._counted[1]
        if self._counted is None or since is None or since > _COUNT_EVERY_S:
            found: list[RunStatus] = []
            with contextlib.suppress(TableError):
                found = [run for run in unfinished_runs(self._table) if run.run_id == writer.run_id]
            counted = found[0].progress(writer.now) if found else RunProgress(elapsed_s=writer.now - begun)
            self._counted, since = (counted, self._clock()), 0.0
        return self._counted[0].later(since)

    def _log(self, run_id: str) -> dict[str, float]:
        """The time of each object of the log of a run."""
        return {info.key: info.modified for info in self._store.list(names.run_key(run_id, ""))}

    def _left(self, followed: RunProgress, writer: Heartbeat | None) -> RunProgress:
        """The followed run does not beat any more: how it ended, as soon as that is known."""
        self._gone = self._clock() if self._gone is None else self._gone
        waited = self._clock() - self._gone
        if followed.outcome == AGAIN:
            return followed if waited <= PATIENCE_S else self._without_word(followed, UNKNOWN)
        if account := end_of(self._table, followed.run_id):
            return followed.ended_as(account)
        if writer is not None and writer.run_id == followed.run_id:
            return self._without_word(followed, KILLED)
        if waited <= GRACE_S:
            return dataclasses.replace(followed, stage="ending")
        return self._without_word(followed, KILLED if self._log(followed.run_id) else UNKNOWN)

    def _without_word(self, followed: RunProgress, outcome: str) -> RunProgress:
        account = RunAccount(followed.run_id, outcome, user=followed.user, host=followed.host, at_least=True)
        return followed.ended_as(dataclasses.replace(account, ray_job=followed.ray_job))

    def _just_left(self, record: lease.LeaseRecord, ago: float) -> RunProgress | None:
        """The last holder of the lease, if it has only just let the table go and has still to say how it ended."""
        holder = record.holder
        if not record.released or ago > GRACE_S or not self._log(holder.run_id) or end_of(self._table, holder.run_id):
            return None
        left = RunProgress(self._store.root, holder.run_id, user=holder.user, host=holder.host, ray_job=holder.ray_job)
        return dataclasses.replace(left, stage="ending")

    def _last(self) -> RunProgress:
        """How the last run ended that has left a log; none if there was no run."""
        made = RunProgress(table=self._store.root)
        run_id = max((names.run_of_key(info.key) for info in self._store.list(names.RUNS)), default="")
        if not run_id:
            return made
        account = end_of(self._table, run_id) or RunAccount(run_id, KILLED, at_least=True)
        if account.outcome == AGAIN:  # it planned again, and has left nothing since
            account = dataclasses.replace(account, outcome=UNKNOWN)
        return dataclasses.replace(made, run_id=run_id).ended_as(account)


def end_of(table: Table, run_id: str) -> RunAccount | None:
    """How a run ended, as its end, its report or the newest manifest says; None if they do not say it. Raises
    StorageError."""
    with contextlib.suppress(ObjectNotFound):
        if account := RunAccount.from_json(table.store.read(names.run_key(run_id, names.RUN_END))):
            return account
    with contextlib.suppress(ObjectNotFound, ValueError, AttributeError):
        report = json.loads(table.store.read(names.run_key(run_id, names.RUN_REPORT)))
        accounts = [RunAccount.of(values) for values in report.get(names.REPORT_ATTEMPTS, ())]
        own = [account for account in accounts if account and account.run_id == run_id]
        return own[-1] if own else RunAccount.of({**report, "outcome": PUBLISHED, "rows": report.get("embedded", 0)})
    with contextlib.suppress(ObjectNotFound, TableError):
        newest = table.latest()
        if newest and newest.manifest.run_id == run_id:
            begun = run_accounts.begun_at(run_id)
            return RunAccount(run_id, PUBLISHED, newest.number, started_at=begun, at_least=True)
    return None
