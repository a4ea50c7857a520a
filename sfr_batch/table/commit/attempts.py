"""Every attempt that left something on storage, as an account: of runs that published, failed, were stopped or killed.

What a process could not write is derived: its work from its receipts and from data files that no receipt file names,
its end from its last sign of life. Times of objects are the store's. Knows no pipeline, and writes nothing.
"""

import contextlib
import dataclasses
import json
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import pyarrow as pa

from sfr_batch.errors import ObjectNotFound, TableError
from sfr_batch.format import names, run_accounts
from sfr_batch.format.history import iso
from sfr_batch.format.parquet import open_parquet, read_receipts
from sfr_batch.format.records import Receipt
from sfr_batch.format.run_accounts import KILLED, PUBLISHED, RUNNING, WORK, RunAccount
from sfr_batch.storage.parallel import read_many
from sfr_batch.storage.store import ObjectInfo
from sfr_batch.table.commit import lease
from sfr_batch.table.commit.unfinished import Heartbeat
from sfr_batch.table.table import Table
from sfr_batch.table.tabular import Tabular

_SLACK_S = 2.0
"""Seconds by which times of objects may be out of order: some stores round them."""


class Runs(list[RunAccount], Tabular):
    """The attempts of a table, oldest first. Prints a line each; `to_pandas` and `to_arrow` have a row for each."""

    def to_arrow(self) -> pa.Table:
        """All fields of `RunAccount`, a row each: times in UTC, ``versions`` as JSON."""
        return run_accounts.table(self)

    def describe(self, width: int | None = None) -> str:
        """Lines of at most ``width`` characters: what does not fit is left out; None: all."""
        return run_accounts.listing(self, width)

    def __repr__(self) -> str:
        return self.describe()

    def _repr_html_(self) -> str:
        return run_accounts.html(self)


def attempts(table: Table) -> Runs:
    """All attempts of which something is left, oldest first: what they say, else what is derived."""
    logs = Logs(table)
    found = {account.run_id: account for account in logs.reported()}
    for run_id in logs.by_run.keys() - found.keys():
        found[run_id] = logs.derive(run_id)
    if (holder := logs.holder_without_log()) and holder.run_id not in found:
        found[holder.run_id] = holder
    return Runs(found[run_id] for run_id in sorted(found))


def attempts_since(table: Table, own: str, receipts: Iterable[Receipt]) -> list[RunAccount]:
    """The attempts between the last report and the run ``own``, which is about to write its own.

    receipts: those that the run knows, so that no data file is read for them.
    """
    logs = Logs(table, {receipt.split_id: receipt for receipt in receipts})
    since = max(logs.run_ids_with(names.RUN_REPORT), default="")
    return [logs.derive(run_id) for run_id in sorted(logs.by_run) if since < run_id < own]


def work_of(receipts: Iterable[Receipt]) -> dict[str, Any]:
    """What receipts add up to, under the names of WORK. Copied vectors are no work."""
    total: dict[str, Any] = dict.fromkeys(WORK, 0)
    for receipt in receipts:
        if receipt.copied:
            continue
        total["splits"] += 1
        total["rows"] += receipt.embedded
        total["actor_seconds_used"] += receipt.encode_seconds
        for name in ("rejected", "tokens", "encoded_tokens", "padded_tokens"):
            total[name] += getattr(receipt, name)
    return total


@dataclass
class Logs:
    """The logs of all runs of a table, as one listing has found them.

    known: receipts by split id that need not be read again.
    """

    table: Table
    known: Mapping[str, Receipt] = dataclasses.field(default_factory=dict)

    def __post_init__(self) -> None:
        self.by_run: dict[str, dict[str, ObjectInfo]] = {}
        """The files of each run, by key."""
        for info in self.table.store.list(names.RUNS):
            self.by_run.setdefault(names.run_of_key(info.key), {})[info.key] = info

    def run_ids_with(self, name: str) -> list[str]:
        """Runs that have this file, oldest first."""
        return sorted(run_id for run_id, files in self.by_run.items() if names.run_key(run_id, name) in files)

    def reported(self) -> Iterator[RunAccount]:
        """The accounts in reports: of runs that have published and, if these say so, of attempts before them."""
        run_ids = self.run_ids_with(names.RUN_REPORT)
        reports = read_many(self.table.store, [names.run_key(run_id, names.RUN_REPORT) for run_id in run_ids])
        for run_id, data in zip(run_ids, reports, strict=True):
            with contextlib.suppress(ValueError):
                report = json.loads(data)
                accounts = [RunAccount.of(values) for values in report.get(names.REPORT_ATTEMPTS, ())]
                yield from filter(None, accounts or [self._of_older_release(run_id, report)])

    def _of_older_release(self, run_id: str, report: dict[str, Any]) -> RunAccount | None:
        """Of a report that has no accounts. Who it was is in the manifest."""
        user = host = ""
        with contextlib.suppress(TableError, ObjectNotFound):
            user, _, host = self.table.published(report["snapshot"]).manifest.by.partition("@")
        values = {**report, "run_id": run_id, "user": user, "host": host, "rows": report.get("embedded", 0)}
        values |= {"outcome": PUBLISHED, "ended_at": report.get("finished_at", "")}
        values |= {"actor_seconds_used": report.get("encode_seconds", 0), "started_at": run_accounts.begun_at(run_id)}
        return RunAccount.of(values)

    def derive(self, run_id: str) -> RunAccount:
        """Of a run that has no report: from its end, else from what it has left."""
        begun = self._begun(run_id)
        receipts = self.receipts(run_id)
        work = work_of(receipts.values())
        if ended := self._end(run_id):
            account = ended.with_work(work)
        else:
            alive = self._heartbeat is not None and self._heartbeat.run_id == run_id and self._heartbeat.beats
            account = dataclasses.replace(begun, outcome=RUNNING if alive else KILLED, at_least=True)
            account = self._until_now(account.with_work(work), receipts)
        if account.outcome != PUBLISHED and (number := self._published.get(run_id)):
            account = dataclasses.replace(account, outcome=PUBLISHED, snapshot=number, error="", message="", signal="")
        return account.priced()

    def holder_without_log(self) -> RunAccount | None:
        """The holder of the lease, if it has no log: it is planning, or was killed before it began to write."""
        heartbeat = self._heartbeat
        if heartbeat is None or heartbeat.run_id in self.by_run:
            return None
        account = RunAccount(heartbeat.run_id, RUNNING if heartbeat.beats else KILLED, at_least=True)
        return dataclasses.replace(self._with_holder(account), ended_at=iso(heartbeat.at))

    def _begun(self, run_id: str) -> RunAccount:
        key = names.run_key(run_id, names.RUN_PLAN)
        account = None
        if key in self.by_run[run_id]:
            with contextlib.suppress(ObjectNotFound, OSError, ValueError), self.table.store.open(key) as file:
                metadata = open_parquet(file).schema_arrow.metadata or {}
                account = RunAccount.from_json(metadata.get(names.RUN_ACCOUNT_KEY.encode(), b""))
        return self._with_holder(account or RunAccount(run_id))

    def _with_holder(self, account: RunAccount) -> RunAccount:
        """With what the lease says, if it is the newest holder: all that is known of older releases."""
        account = dataclasses.replace(account, started_at=account.started_at or run_accounts.begun_at(account.run_id))
        if account.host or self._heartbeat is None or self._heartbeat.run_id != account.run_id:
            return account
        return dataclasses.replace(account, **self._heartbeat.record.holder.who())

    def _end(self, run_id: str) -> RunAccount | None:
        key = names.run_key(run_id, names.RUN_END)
        with contextlib.suppress(ObjectNotFound):
            return RunAccount.from_json(self.table.store.read(key)) if key in self.by_run[run_id] else None
        return None

    def _until_now(self, account: RunAccount, receipts: Mapping[str, Receipt]) -> RunAccount:
        """With the time to its last sign of life. From its first split to its last one there was an actor."""
        signs = [info.modified for info in self.by_run[account.run_id].values()]
        commits = [self.data[split_id].modified for split_id in receipts if split_id in self.data]
        signs += commits
        reserved = max(commits) - min(commits) if commits else None
        if self._heartbeat and self._heartbeat.run_id == account.run_id:
            signs.append(self._heartbeat.at)
        seconds = max(signs) - self.log_began(account.run_id) + (account.seconds or 0.0)
        ended_at = iso(max(signs))
        return dataclasses.replace(account, ended_at=ended_at, seconds=seconds, actor_seconds_reserved=reserved)

    def log_began(self, run_id: str) -> float:
        """When a run began to write, by the clock of the store, in seconds since the epoch."""
        return min(info.modified for info in self.by_run[run_id].values())

    def receipts(self, run_id: str) -> dict[str, Receipt]:
        """Receipts of the splits that the run has committed, by split id: those in its log and, of the files that were
        written while it ran and that its log does not have, those in their footers."""
        keys = [key for key in self.by_run[run_id] if names.is_run_receipts(key)]
        found: dict[str, Receipt] = {}
        for data in read_many(self.table.store, keys):
            with contextlib.suppress(ValueError, TypeError):  # of what is damaged, the data files have the receipts
                found |= {receipt.split_id: receipt for receipt in map(Receipt.from_json, data.splitlines())}
        later = [self.log_began(other) for other in self.by_run if other > run_id]
        first, last = self.log_began(run_id) - _SLACK_S, min(later, default=float("inf")) + _SLACK_S
        written = [
            split_id
            for split_id, info in self.data.items()
            if first <= info.modified <= last and split_id not in found and self._owner(split_id, run_id) == run_id
        ]
        found |= {split_id: self.known[split_id] for split_id in written if split_id in self.known}
        rest = [split_id for split_id in written if split_id not in found]
        with contextlib.suppress(TableError, ObjectNotFound):  # damaged, or gone this moment
            found |= {receipt.split_id: receipt for receipt in read_receipts(self.table.store, rest, self.data)}
        return {split_id: receipt for split_id, receipt in found.items() if receipt.run_id == run_id}

    def _owner(self, split_id: str, otherwise: str) -> str:
        """The run that has committed a split, if the newest snapshot or the caller of this module says so."""
        known = self.known.get(split_id)
        return known.run_id if known else self._owners.get(split_id, otherwise)

    @cached_property
    def _owners(self) -> dict[str, str]:
        """The run of each split of the newest snapshot."""
        with contextlib.suppress(TableError, ObjectNotFound):
            if newest := self.table.latest():
                columns = newest.receipt_columns([names.SPLIT_ID, "run_id"])
                return dict(zip(*(column.to_pylist() for column in columns.columns), strict=True))
        return {}

    @cached_property
    def data(self) -> dict[str, ObjectInfo]:
        """The data files on storage, by split id."""
        return self.table.committed()

    @cached_property
    def _heartbeat(self) -> Heartbeat | None:
        """Of the writer, dead or alive; None if the lease is free."""
        record = lease.read_record(self.table.store)
        return Heartbeat.of(record, self.table.store, self.table.store.clock()) if record else None

    @cached_property
    def _published(self) -> dict[str, int]:
        """Numbers of the snapshots of runs that have no report, by run: back to the oldest run that has none."""
        oldest = min(self.by_run.keys() - set(self.run_ids_with(names.RUN_REPORT)), default="")
        found: dict[str, int] = {}
        for number in reversed(self.table.published_numbers()):
            with contextlib.suppress(TableError, ObjectNotFound):
                run_id = self.table.published(number).manifest.run_id
                if run_id < oldest:
                    break
                found[run_id] = number
        return found
