"""The log of a run under `_sfr/runs/`: config, plan, receipts, and report or end; and how the next run reads it.

A record for people and a cache for the next run: correctness never depends on it."""

import json
import time
from collections.abc import Iterator, Mapping, Sequence

from sfr_batch.errors import StorageError
from sfr_batch.format import names
from sfr_batch.format.parquet import encode_parquet, read_receipts
from sfr_batch.format.records import Receipt, utc_now
from sfr_batch.format.run_accounts import RunAccount
from sfr_batch.pipeline.progress import Progress
from sfr_batch.pipeline.summary import Summary
from sfr_batch.planning.plan import EmbedPlan
from sfr_batch.storage.parallel import read_many
from sfr_batch.storage.retries import repeated_requests
from sfr_batch.storage.store import ObjectInfo, Store
from sfr_batch.table.table import Table

_RECEIPTS_PER_FILE = 256
_RECEIPT_FILE_EVERY_S = 30.0


def recover_receipts(table: Table, plan: EmbedPlan) -> list[Receipt]:
    """Receipts of the plan's splits that are committed already: from the logs of runs, else from the footers."""
    wanted = plan.done
    if not wanted:
        return []
    since = plan.base.manifest.run_id if plan.base else ""
    found = {r.split_id: r for r in _logged_receipts(table.store, since) if _is_of(r, wanted.get(r.split_id))}
    rest = [split_id for split_id in wanted if split_id not in found]
    return [*found.values(), *read_receipts(table.store, rest)]


def _is_of(receipt: Receipt, info: ObjectInfo | None) -> bool:
    return info is not None and receipt.size == info.size


def _logged_receipts(store: Store, since: str) -> Iterator[Receipt]:
    """Receipts in the logs of runs that began after run ``since``. Older logs are about published splits."""
    logs = [info.key for info in store.list(names.RUNS) if names.is_run_receipts(info.key)]
    for data in read_many(store, [key for key in logs if key > names.run_key(since, "")]):
        yield from map(Receipt.from_json, data.splitlines())


class RunLog:
    """Writes the log of one run, `_sfr/runs/<run_id>/`: config and plan at once, receipts as they come, the report."""

    def __init__(self, store: Store, plan: EmbedPlan, run_id: str, begun: RunAccount | None = None) -> None:
        """begun: the account of the run as far as it is known, for the case that it is killed."""
        self.run_id = run_id
        self._store = store
        self._waiting: list[Receipt] = []
        self._files = 0
        self._flushed = time.monotonic()
        self._full = _RECEIPTS_PER_FILE
        self._repeated = repeated_requests()
        self._create(names.RUN_CONFIG, plan.config.to_json().encode())
        account = begun or RunAccount(run_id)
        self._create(names.RUN_PLAN, encode_parquet(plan.to_arrow(), {names.RUN_ACCOUNT_KEY: account.to_json()}))

    def add(self, receipt: Receipt) -> None:
        self._waiting.append(receipt)
        if len(self._waiting) >= self._full or time.monotonic() - self._flushed > _RECEIPT_FILE_EVERY_S:
            self.close()

    def close(self) -> None:
        """Write the receipts that are still in memory. If the store refuses, they stay there until the next time: the
        data files have them as well."""
        if self._waiting:
            lines = "".join(receipt.to_json() + "\n" for receipt in self._waiting)
            try:
                self._create(names.run_receipts(self._files), lines.encode())
            except StorageError:
                self._full = len(self._waiting) + _RECEIPTS_PER_FILE
            else:
                self._files += 1
                self._waiting, self._full = [], _RECEIPTS_PER_FILE
        self._flushed = time.monotonic()

    def repeated(self) -> Mapping[str, int]:
        """Requests to S3 that this process has repeated since the run began, by reason, the most frequent first."""
        return dict((repeated_requests() - self._repeated).most_common())

    def end(self, account: RunAccount) -> None:
        """Write how a run has ended that has not published. Raises StorageError."""
        self._create(names.RUN_END, account.to_json().encode())

    def report(self, summary: Summary, progress: Progress, attempts: Sequence[RunAccount]) -> None:
        """Write the report of a run that has published. attempts: see `names.REPORT_ATTEMPTS`."""
        snapshot = summary.snapshot
        assert snapshot is not None
        report = {
            "run_id": self.run_id,
            "finished_at": utc_now(),
            "snapshot": snapshot.number,
            "splits": summary.splits,
            "embedded": summary.embedded,
            "earlier": summary.earlier,
            "rejected": progress.rejected,
            "tokens": summary.tokens,
            "encoded_tokens": progress.encoded_tokens,
            "padded_tokens": progress.padded_tokens,
            "encode_seconds": progress.encode_seconds,
            "seconds": summary.seconds,
            "start_up_seconds": progress.start_up,
            "embed_seconds": progress.embed_seconds,
            "actors": progress.actors.most,
            "cost": summary.cost.to_json() if summary.cost else None,
            "canaries": summary.canaries,
            "drift": summary.drift,
            "lost_nodes": summary.losses.nodes,
            "lost_actors": summary.losses.actors,
            "repeated_requests": summary.repeated,  # by this process alone
            "counts": snapshot.manifest.counts.model_dump(),
            "changes": changes.model_dump() if (changes := snapshot.manifest.changes) else None,
            "share_cut": snapshot.share_cut,
            names.REPORT_ATTEMPTS: [account.as_json() for account in attempts],
        }
        self._create(names.RUN_REPORT, json.dumps(report, indent=1).encode())

    def _create(self, name: str, data: bytes) -> None:
        self._store.create(names.run_key(self.run_id, name), data)
