"""The attempt that this process makes: its account as it goes on, the record of its end, and whom to tell.

An attempt is one call of `embed` or `repair`. If it has to plan again, each of its runs has an account, and the last
one is told. A signal ends it from another thread, see `stopped`. Does not know what a run does.
"""

import contextlib
import dataclasses
import threading
import time
from collections.abc import Iterator
from platform import python_version
from typing import Any

from sfr_batch.config.settings import Config
from sfr_batch.errors import SfrBatchError, StorageError
from sfr_batch.format import run_accounts
from sfr_batch.format.library_versions import installed
from sfr_batch.format.records import utc_now
from sfr_batch.format.run_accounts import RunAccount
from sfr_batch.pipeline import display, end_hook, invocation
from sfr_batch.pipeline.progress import Progress
from sfr_batch.pipeline.run_log import RunLog
from sfr_batch.pipeline.summary import Summary
from sfr_batch.storage.locations import absolute_uri
from sfr_batch.table.commit.lease import Holder

_LIBRARIES = ("sfr-batch", "torch", "transformers", "ray")
_PATIENCE_S = 10.0
"""Seconds that writing an end may take."""
_current: "Attempt | None" = None
"""What a signal ends."""


class Attempt:
    """One call of `embed` or `repair`, from its first look at the corpus to its end."""

    def __init__(self, config: Config) -> None:
        """Raises ConfigError if whom to tell at the end cannot be known."""
        self._config = config
        self._hook = end_hook.Hook.of(config.run)
        self._over = threading.Lock()
        self._begin()

    def _begin(self) -> None:
        self._started, self._started_at = time.monotonic(), utc_now()
        self._holder: Holder | None = None
        self._log: RunLog | None = None
        self.progress: Progress | None = None
        """The progress of its run, from when there is one."""

    def holds(self, holder: Holder) -> None:
        """It has the lease: from now on it has a run id."""
        self._holder = holder

    def writes(self, log: RunLog) -> None:
        """It has a log, in which its end is recorded."""
        self._log = log

    def account(self, outcome: str = run_accounts.RUNNING, snapshot: int | None = None) -> RunAccount:
        """What is known of it now."""
        holder, done = self._holder, self.progress
        account = RunAccount(
            holder.run_id if holder else "",
            outcome,
            snapshot,
            started_at=self._started_at,
            ended_at="" if outcome == run_accounts.RUNNING else utc_now(),
            seconds=time.monotonic() - self._started,
            price_per_hour=self._config.run.price_per_hour,
            versions=_versions(),
            command=invocation.command(),
        )
        who = (holder or Holder.of_this_process("")).who()
        return dataclasses.replace(account, **who, **(self._work(done) if done else {})).priced()

    def _work(self, done: Progress) -> dict[str, Any]:
        """What it has encoded, under the names of an account."""
        actors = done.actors
        return {
            "splits": done.splits_done,
            "rows": done.embedded,
            "actor_seconds_used": done.encode_seconds,
            "actor_seconds_reserved": actors.seconds,
            "device": " and ".join(sorted(actors.kinds)),
            "devices": actors.most * (self._config.run.actors.gpus or 1),
            **{name: getattr(done, name) for name in ("rejected", "tokens", "encoded_tokens", "padded_tokens")},
        }

    def plan_again(self) -> None:
        """Its run ends without a result, because another one was first; it begins another run."""
        self._record(self.account(run_accounts.AGAIN))
        self._begin()

    def succeeded(self, summary: Summary) -> None:
        """It has done what there was to do."""
        if summary.published and summary.snapshot:
            self._log = None  # whose report is the record
            self._end(self.account(run_accounts.PUBLISHED, summary.snapshot.number))
        else:
            self._end(self.account(run_accounts.TRIAL if summary.trial else run_accounts.NOTHING))

    def found_nothing(self) -> None:
        """There was nothing to do."""
        self._end(self.account(run_accounts.NOTHING))

    def failed(self, error: BaseException) -> None:
        """It has ended with an error, or with Ctrl-C where nobody has asked for signals."""
        if isinstance(error, KeyboardInterrupt):
            self.stopped("SIGINT")
        else:
            self._end(self.account(run_accounts.FAILED).failed(error))

    def stopped(self, signal: str) -> None:
        """A signal ends the process, which has two seconds left: nobody is waited for. Never raises."""
        with contextlib.suppress(Exception):
            self._end(dataclasses.replace(self.account(run_accounts.STOPPED), signal=signal), wait=False)

    def _end(self, account: RunAccount, *, wait: bool = True) -> None:
        if not self._over.acquire(blocking=False):
            return  # a signal and an end at the same moment: the first one counts
        if board := display.board():
            display.attempt(board, lambda: board.end(account))
        told = {"table": _place(self._config), **account.as_json()}
        if wait:
            self._record(account)
            self._hook.call(told)
        else:  # the hook first: it needs no store, which may not answer
            self._hook.leave(told)
            self._record(account)

    def _record(self, account: RunAccount) -> None:
        """Write it, unless the store fails or takes too long: it may be what the attempt has failed of. The account is
        then derived from what the run has left."""
        if log := self._log:
            progress = self.progress

            def write() -> None:
                with contextlib.suppress(StorageError):
                    log.end(account, progress)

            thread = threading.Thread(target=write, name="sfr-end", daemon=True)
            thread.start()
            thread.join(_PATIENCE_S)


@contextlib.contextmanager
def begun(config: Config) -> Iterator[Attempt]:
    """An attempt that fails if this context ends with an error. Raises ConfigError, see `Attempt`."""
    global _current
    before, made = _current, Attempt(config)
    _current = made
    try:
        yield made
    except BaseException as error:
        made.failed(error)
        raise
    finally:
        _current = before


def stopped(signal: str) -> None:
    """This process is ended by a signal: record and tell it. Called in a thread of its own; never raises."""
    if attempt := _current:
        attempt.stopped(signal)


def _place(config: Config) -> str:
    try:
        return absolute_uri(config.table.path)
    except SfrBatchError:  # which may be how the attempt has failed
        return config.table.path


def _versions() -> dict[str, str]:
    return {**installed(_LIBRARIES), "python": python_version()}
