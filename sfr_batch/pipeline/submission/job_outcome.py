"""What became of a job that is over: what its table has of the run, else what the job itself has said.

Reads the table and, for the last words, the log of the job. Waits for nothing.
"""

import contextlib
import dataclasses
import json
from datetime import UTC, datetime
from typing import TYPE_CHECKING

from sfr_batch.config.settings import StorageSettings
from sfr_batch.errors import ClusterError, ConfigError, JobFailed, SfrBatchError, TableNotFound
from sfr_batch.format import run_accounts
from sfr_batch.format.history import iso
from sfr_batch.format.on_screen import shown, shown_message
from sfr_batch.format.run_accounts import RunAccount
from sfr_batch.pipeline.submission.cluster_job import FAILED, STOPPED, SUCCEEDED, ClusterJob
from sfr_batch.storage.stores import open_store
from sfr_batch.table.commit.attempts import attempts
from sfr_batch.table.table import Table

if TYPE_CHECKING:
    from sfr_batch.pipeline.submission.jobs_api import JobsApi

TABLE, STORAGE, BY = "sfr_batch_table", "sfr_batch_storage", "sfr_batch_by"
"""Keys of a job's metadata: URI of the table; settings of its store that are no defaults, as JSON, secrets as
references; who has submitted it."""
_SLACK_S = 60.0
"""Seconds by which the clocks of head and driver may differ. Ids repeat on another cluster, not as quickly."""
_WORDS = 4000
"""Characters of the last words of a job in a message."""


def table_of(job: ClusterJob) -> Table:
    """The table that the job writes. Raises TableNotFound if it is not there yet, ConfigError if the job does not say
    which it is."""
    uri = job.metadata.get(TABLE)
    if not uri:
        raise ConfigError(
            f"The Ray job {job.id} does not say which table it writes: it was not submitted by sfr-batch, or its run "
            "has not begun. Open the table by its path."
        )
    stored = json.loads(job.metadata.get(STORAGE, "{}"))
    return Table.open(open_store(uri, StorageSettings.model_validate(stored)))


def account_of(job: ClusterJob, api: "JobsApi") -> RunAccount:
    """What the last attempt of a job took and how it ended; of one that has left nothing, what the job itself tells.

    Raises TableNotFound if it has succeeded on a disk of others, and StorageError.
    """
    if job.status == SUCCEEDED:
        account = _recorded(job)
        # A run without work leaves nothing.
        return account if account and account.outcome != run_accounts.AGAIN else _told(job, run_accounts.NOTHING)
    with contextlib.suppress(SfrBatchError):  # it may have failed of that
        if account := _recorded(job):
            return account
    message = _words(job, api)[: run_accounts.MESSAGE]
    if job.status == STOPPED:
        return dataclasses.replace(_told(job, run_accounts.STOPPED), signal="SIGTERM", message=message)
    return dataclasses.replace(_told(job, run_accounts.FAILED), error=JobFailed.__name__, message=message)


def failure(job: ClusterJob, api: "JobsApi") -> str:
    """The sentence for a job that has not succeeded, with its last words."""
    words = shown_message(_words(job, api))
    if job.status == STOPPED:
        return f"The Ray job {job.id} was stopped: {words}"
    code = f" with exit code {job.exit_code}" if job.status == FAILED and job.exit_code is not None else ""
    return f"The Ray job {job.id} failed{code}: {words}"


def last_words(log: str) -> str:
    """The last error that a log tells, with all its lines, else its last line."""
    text = log.rstrip()
    _, error, words = f"\n{text}".rpartition("\nerror: ")
    return words[:_WORDS] if error else shown(text.rpartition("\n")[2], _WORDS)


def _recorded(job: ClusterJob) -> RunAccount | None:
    """The account that the table has of the job's last attempt; None if it has none. Raises TableNotFound if the job
    has succeeded elsewhere."""
    try:
        table = table_of(job)
    except TableNotFound:
        if job.status != SUCCEEDED:
            return None
        raise TableNotFound(
            f"The Ray job {job.id} has succeeded, but from here there is no table at {job.metadata[TABLE]}: this "
            "machine does not share that file system. Look at the job's log: job.logs()."
        ) from None
    own = [account for account in attempts(table) if is_own(account, job)]
    return own[-1] if own else None


def is_own(account: RunAccount, job: ClusterJob) -> bool:
    """Whether an attempt is one of this job, and not of another cluster's with its id."""
    if account.ray_job != job.id:
        return False
    try:
        began = datetime.fromisoformat(account.started_at)
    except ValueError:
        return True
    return (began if began.tzinfo else began.replace(tzinfo=UTC)).timestamp() > job.started - _SLACK_S


def _words(job: ClusterJob, api: "JobsApi") -> str:
    """The job's own last words."""
    log = ""
    with contextlib.suppress(ClusterError):  # its node may be gone
        log = api.logs(job.id)
    return last_words(log) or last_words(job.message) or "it has left no log"


def _told(job: ClusterJob, outcome: str) -> RunAccount:
    """The account of a job of which the table has none."""
    ended = job.ended or job.started
    account = RunAccount("", outcome, started_at=iso(job.started), ended_at=iso(ended), ray_job=job.id)
    return dataclasses.replace(account, seconds=ended - job.started)
