"""The log of a run under `_sfr/runs/`: config, plan, receipts, and report or end; and how the next run reads it.

A record for people and a cache for the next run: correctness never depends on it."""

import contextlib
import json
import time
from collections.abc import Iterator, Mapping, Sequence

from sfr_batch.errors import StorageError
from sfr_batch.format import names
from sfr_batch.format.parquet import encode_parquet, read_receipts
from sfr_batch.format.records import Receipt
from sfr_batch.format.run_accounts import RunAccount
from sfr_batch.pipeline.display import say
from sfr_batch.pipeline.price.price import Price
from sfr_batch.pipeline.progress import Progress
from sfr_batch.pipeline.run_report import report_of
from sfr_batch.pipeline.summary import Summary
from sfr_batch.planning.plan import EmbedPlan
from sfr_batch.storage.parallel import read_many
from sfr_batch.storage.retries import repeated_requests
from sfr_batch.storage.store import ObjectInfo, Store
from sfr_batch.table.report.value import RunReport
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
    return [*found.values(), *read_receipts(table.store, rest, wanted)]


def _is_of(receipt: Receipt, info: ObjectInfo | None) -> bool:
    return info is not None and receipt.size == info.size


def _logged_receipts(store: Store, since: str) -> Iterator[Receipt]:
    """Receipts in the logs of runs that began after run ``since``. Older logs are about published splits."""
    logs = [info.key for info in store.list(names.RUNS) if names.is_run_receipts(info.key)]
    for data in read_many(store, [key for key in logs if key > names.run_key(since, "")]):
        yield from map(Receipt.from_json, data.splitlines())


class RunLog:
    """Writes the log of one run, `_sfr/runs/<run_id>/`: config and plan at once, receipts as they come, the report."""

    def __init__(
        self, store: Store, plan: EmbedPlan, run_id: str, begun: RunAccount | None = None, price: Price | None = None
    ) -> None:
        """begun: the account of the run as far as it is known, for the case that it is killed. price: as planned."""
        self.run_id = run_id
        self._store = store
        self._plan, self._price = plan, price
        self._planning_s = begun.seconds if begun else None
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

    def repeated(self, progress: Progress) -> Mapping[str, int]:
        """Requests to S3 that this process and the workers of the run have repeated since it began, by reason, the most
        frequent first."""
        return dict((repeated_requests() - self._repeated + progress.asides.repeated.copy()).most_common())

    def end(self, account: RunAccount, progress: Progress | None = None) -> None:
        """Write how a run has ended that has not published, and its report. Raises StorageError."""
        values = account.as_json()
        report = None
        if progress:
            with _best_effort():
                report = self._report(progress, [account])
                values[names.END_REPORT] = report.as_json() | {names.REPORT_ATTEMPTS: []}  # nothing is said twice
        self._create(names.RUN_END, json.dumps(values, indent=1).encode())
        if report and not account.signal:  # a process that a signal ends has no time for it
            with contextlib.suppress(StorageError):  # which may be how the run has failed
                self._show(report)

    def report(self, summary: Summary, progress: Progress, attempts: Sequence[RunAccount]) -> None:
        """Write the report of a run that has published. attempts: see `names.REPORT_ATTEMPTS`. Raises StorageError."""
        report = self._report(progress, attempts, summary)
        self._create(names.RUN_REPORT, report.to_json().encode())
        self._show(report)

    def _show(self, report: RunReport) -> None:
        page = ""
        with _best_effort():
            page = report.to_html()
        if page:
            self._create(names.RUN_PAGE, page.encode())

    def _report(self, progress: Progress, attempts: Sequence[RunAccount], summary: Summary | None = None) -> RunReport:
        return report_of(
            self._plan,
            progress,
            attempts,
            planning_s=self._planning_s,
            repeated=summary.repeated if summary else self.repeated(progress),
            price=self._price,
            summary=summary,
        )

    def _create(self, name: str, data: bytes) -> None:
        self._store.create(names.run_key(self.run_id, name), data)


@contextlib.contextmanager
def _best_effort() -> Iterator[None]:
    """A report that cannot be made, for whatever reason, changes nothing of its run."""
    try:
        yield
    except Exception as error:
        say(f"Warning: the report of the run could not be made: {type(error).__name__}: {error}")
