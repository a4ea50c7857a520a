"""A handle on a submitted job. It holds an id, and asks the cluster and the table each time: any process can have one.

Where a run is and what it took is read from the table's storage; the cluster knows whether the job goes on, and its
log.
"""

import contextlib
import time
from collections.abc import Iterator
from typing import TYPE_CHECKING

from sfr_batch.errors import ClusterError, JobFailed, SfrBatchError, StorageError, TableNotFound
from sfr_batch.format import run_accounts
from sfr_batch.format.durations import format_duration
from sfr_batch.format.run_accounts import RunAccount
from sfr_batch.format.run_progress import RunProgress
from sfr_batch.pipeline.submission import job_outcome
from sfr_batch.pipeline.submission.cluster_job import PENDING, SUCCEEDED, ClusterJob
from sfr_batch.pipeline.watched import check_pause, show_to_end
from sfr_batch.table.commit.watching import EVERY_S, PATIENCE_S, progress_of

if TYPE_CHECKING:
    from sfr_batch.pipeline.submission.jobs_api import JobsApi

_FIRST_PAUSE_S, _LONGEST_PAUSE_S = 0.5, 5.0
_PATIENCE_S = 120.0
"""Seconds for which a cluster that has answered before may be silent while somebody waits."""


class SubmittedJob:
    """A job on a Ray cluster that embeds. `sfr_batch.submit` starts it; `sfr_batch.job` finds it again by its id.

        job.status()        pending, running, succeeded, failed or stopped
        job.progress()      where its run is, from the table's storage; job.watch() shows it until the end
        job.follow()        lines of its log as they come; job.logs() has all so far
        job.wait()          returns when it is over
        job.result()        what it took and published, as a `RunAccount`
        job.stop()          ends it; what is committed stays, and the same submission continues

    The job goes on whatever becomes of this process.
    """

    def __init__(self, api: "JobsApi", job: ClusterJob, *, new: bool = False) -> None:
        self.id = job.id
        """The submission id, by which Ray and `sfr_batch.job` know it."""
        self.new = new
        """Whether this call has started it; else it was there before."""
        self._api = api
        self._last = job

    @property
    def address(self) -> str:
        """Where the cluster takes jobs."""
        return self._api.server.url

    @property
    def table(self) -> str:
        """URI of the table that it writes; empty if the job does not say it."""
        return self._last.metadata.get(job_outcome.TABLE, "")

    def status(self) -> str:
        """`pending`, `running`, `succeeded`, `failed` or `stopped`. Raises ClusterError."""
        return self._look().status

    def logs(self) -> str:
        """All that it has printed so far. Raises ClusterError."""
        return self._api.logs(self.id)

    def follow(self) -> Iterator[str]:
        """What it has printed and prints, in pieces of one or more lines, until it is over.

            for text in job.follow():
                print(text, end="")

        A connection that breaks is made anew. Raises ClusterError if the cluster stays silent.
        """
        told, silence = 0, _Silence()
        while True:
            seen = 0
            try:
                for piece in self._api.follow(self.id):
                    seen += len(piece)
                    if seen > told:
                        yield piece[-(seen - told) :]
                        told = seen
                        silence.ends()
                return
            except ClusterError as error:
                silence.goes_on(error)
                time.sleep(_FIRST_PAUSE_S)

    def progress(self) -> RunProgress:
        """Where its run is, as `table.progress()` has it: rows, splits, rate, age of the last commit, time left. Before
        the run begins, that the job waits or prepares; after it, how it ended. It prints.

        Raises ClusterError, StorageError, and ConfigError if the job does not say which table it writes.
        """
        job = self._look()
        if job.is_over:
            account = job_outcome.account_of(job, self._api)
            return RunProgress(table=self.table, run_id=account.run_id).ended_as(account)
        stage = "waiting for the cluster to start the job" if job.status == PENDING else "preparing"
        with contextlib.suppress(TableNotFound):  # the run creates it
            found = progress_of(job_outcome.table_of(job))
            if found.outcome == run_accounts.RUNNING and found.ray_job == self.id:
                return found
            if (end := found.ended) and end.outcome != run_accounts.AGAIN and job_outcome.is_own(end, job):
                stage = "ending"
        return RunProgress(
            table=self.table,
            stage=stage,
            elapsed_s=max(0.0, time.time() - job.started),
            ray_job=self.id,
            stop_with=f"ray job stop {self.id}",
        )

    def watch(self, every_s: float = EVERY_S) -> RunProgress:
        """Show where its run is, every ``every_s`` seconds, until it is over; returns how it ended.

        As `table.watch()` does, from when the job is submitted. Raises ClusterError if the cluster stays silent, and
        StorageError if the store fails for ten minutes.
        """
        return show_to_end(self._states(check_pause(every_s)))

    def _states(self, every_s: float) -> Iterator[RunProgress | StorageError]:
        """Where it is, again and again; the last one is how it ended."""
        silence, failing = _Silence(), _Silence(PATIENCE_S)
        while True:
            try:
                state = self.progress()
                silence.ends()
                failing.ends()
                yield state
                if state.is_over:
                    return
            except ClusterError as error:
                silence.goes_on(error)
            except StorageError as error:
                failing.goes_on(error)
                yield error
            time.sleep(every_s)

    def wait(self, timeout: float | None = None) -> str:
        """Wait until it is over, and return its status. timeout: seconds; default: as long as it takes.

        Raises TimeoutError if it still goes on then, and ClusterError if the cluster does not answer for two minutes.
        """
        return self._over(timeout).status

    def result(self, timeout: float | None = None) -> RunAccount:
        """Wait until it is over, and return what it took: rows, tokens, time of actors, cost, the snapshot.

        timeout: as for `wait`. It is the attempt that `table.runs()` lists. Raises JobFailed, with the job's own last
        words, if it failed or was stopped.
        """
        job = self._over(timeout)
        account = job_outcome.account_of(job, self._api)
        if job.status != SUCCEEDED:
            raise JobFailed(job_outcome.failure(job, self._api), account)
        return account

    def stop(self, timeout: float = 60.0) -> str:
        """End it, as SIGTERM does: what is committed stays. Returns its status as soon as it is over.

        timeout: as for `wait`. Does nothing to a job that is over.
        """
        if not self._look().is_over:
            self._api.stop(self.id)
        return self._over(timeout).status

    def _look(self) -> ClusterJob:
        job = self._api.job(self.id)
        if job is None:
            raise ClusterError(
                f"The Ray cluster at {self._api.server} no longer has the job {self.id}: its head was started anew, or "
                f"somebody deleted the job.{self._what_became()}"
            )
        self._last = job
        return job

    def _what_became(self) -> str:
        return f" `sfr-batch runs {self.table}` says what became of its run." if self.table else ""

    def _over(self, timeout: float | None) -> ClusterJob:
        """The job when it is over."""
        until = None if timeout is None else time.monotonic() + timeout
        pause, silence = _FIRST_PAUSE_S, _Silence()
        while True:
            try:
                if (job := self._look()).is_over:
                    return job
                silence.ends()
            except ClusterError as error:
                silence.goes_on(error)
            left = pause if until is None else until - time.monotonic()
            if left <= 0:
                raise TimeoutError(
                    f"The Ray job {self.id} is still {self._last.status} after {format_duration(timeout or 0)}. It "
                    "goes on."
                )
            time.sleep(min(pause, left))
            pause = min(1.5 * pause, _LONGEST_PAUSE_S)

    def __repr__(self) -> str:
        return f"<SubmittedJob {self.id}{f' of {self.table}' if self.table else ''}: {self._last.status}>"


class _Silence:
    """How long a cluster, or a store, has not answered while somebody waits."""

    def __init__(self, longest_s: float | None = None) -> None:
        self._longest_s = _PATIENCE_S if longest_s is None else longest_s
        self._since: float | None = None

    def ends(self) -> None:
        self._since = None

    def goes_on(self, error: SfrBatchError) -> None:
        """Raises the error if it has lasted too long."""
        now = time.monotonic()
        self._since = self._since or now
        if now - self._since > self._longest_s:
            raise error
