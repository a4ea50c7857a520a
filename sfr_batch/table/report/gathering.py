"""The report of a run from what is on storage: what the run has written, and where that is missing what is left.

Of a run that was killed, and of older releases, throughput follows from the times of data files, the rest from their
receipts; lengths and rejects from some files. Writes nothing.
"""

import contextlib
import json
from collections import Counter
from collections.abc import Sequence
from typing import Any, TypeVar

import numpy as np
import pyarrow as pa

from sfr_batch.errors import ConfigError, ObjectNotFound, TableError
from sfr_batch.format import names
from sfr_batch.format.on_screen import printable, shown
from sfr_batch.format.parquet import read_data_file, read_parquet
from sfr_batch.format.records import Receipt
from sfr_batch.format.run_accounts import PUBLISHED, RunAccount
from sfr_batch.table.commit.attempts import Logs
from sfr_batch.table.report.examples import count_duplicates, examples_of
from sfr_batch.table.report.measures import EDGES, Series, length_counts
from sfr_batch.table.report.value import Lengths, RejectExample, Rejects, RunReport, Throughput
from sfr_batch.table.table import Table

_FILES = 32
"""Most data files, and files of rejects, that are read for one report."""
_SHOWN = 5
_T = TypeVar("_T")


def find_report(table: Table, run_id: str | None = None) -> RunReport:
    """The report of a run. run_id: None for the newest one that has a log.

    Raises ConfigError if there is no such run.
    """
    logs = Logs(table)
    chosen = _chosen(table, logs, run_id)
    found = _published(logs, chosen) or _unpublished(logs, chosen)
    return found.model_copy(update={"table": printable(table.store.root), **_missing(table, logs, found)})


def stored_page(table: Table, run_id: str) -> str | None:
    """Where the page of a run is on storage; None if it wrote none."""
    key = names.run_key(run_id, names.RUN_PAGE)
    stored = any(info.key == key for info in table.store.list(names.run_key(run_id, "")))
    return f"{table.store.root}/{key}" if stored else None


def _chosen(table: Table, logs: Logs, run_id: str | None) -> str:
    known = sorted(logs.by_run)
    if run_id is None:
        if known:
            return known[-1]
        raise ConfigError(
            f"No run has left anything in {table.store.root} yet: a run has a report when it has begun to write."
        )
    if run_id in logs.by_run or any(account.run_id == run_id for account in logs.reported()):
        return run_id
    last = f" The last ones: {', '.join(map(shown, known[-_SHOWN:]))}." if known else ""
    raise ConfigError(
        f"{table.store.root} has nothing of a run {shown(run_id)}.{last} `sfr-batch runs {table.store.root}` lists all."
    )


def _published(logs: Logs, run_id: str) -> RunReport | None:
    """What a run that has published says itself; None if it does not."""
    key = names.run_key(run_id, names.RUN_REPORT)
    if key not in logs.by_run.get(run_id, {}):
        return None
    with contextlib.suppress(ObjectNotFound):
        report = RunReport.from_json(logs.table.store.read(key))
        if report and not report.attempts:  # of an older release
            own = [account for account in logs.reported() if account.run_id == run_id]
            report = report.model_copy(update={"attempts": tuple(account.as_json() for account in own)})
        return report
    return None


def _unpublished(logs: Logs, run_id: str) -> RunReport:
    """Of a run without a report: its account, and what it wrote at its end."""
    if run_id not in logs.by_run:  # its log was swept
        account = next(account for account in logs.reported() if account.run_id == run_id)
        return _with_account(RunReport(run_id=run_id), account)
    report = None
    key = names.run_key(run_id, names.RUN_END)
    if key in logs.by_run[run_id]:
        with contextlib.suppress(ObjectNotFound, ValueError, AttributeError):
            written = json.loads(logs.table.store.read(key)).get(names.END_REPORT)
            report = RunReport.from_json(json.dumps(written)) if written else None
    return _with_account(report or RunReport(run_id=run_id), logs.derive(run_id))


def _with_account(report: RunReport, account: RunAccount) -> RunReport:
    """With how it ended. Of what was embedded the account may know more, a split that was committed while the run
    ended; then the report keeps its figures, which are of one moment."""
    told: dict[str, Any] = {"outcome": account.outcome, "snapshot": account.snapshot, "seconds": account.seconds}
    told |= {"finished_at": account.ended_at, "attempts": (account.as_json(),)}
    if report.splits is None:
        told |= {"embedded": account.rows, "encode_seconds": account.actor_seconds_used}
        told |= {name: getattr(account, name) for name in _COUNTS}
    return report.model_copy(update=told)


_COUNTS = ("splits", "rejected", "tokens", "encoded_tokens", "padded_tokens")


def _missing(table: Table, logs: Logs, report: RunReport) -> dict[str, Any]:
    """What the report lacks and storage knows, by its fields."""
    card = table.card
    found: dict[str, Any] = {
        "model": printable(str(card.model.get("path", ""))),
        "dim": table.dim,
        "vector_dtype": card.vector_dtype,
        "fingerprint": card.fingerprint,
        "fingerprint_inputs": card.fingerprint_inputs,
    }
    if report.account.outcome == PUBLISHED and report.duplicates is None and report.snapshot:
        with contextlib.suppress(TableError, ObjectNotFound):
            manifest = table.published(report.snapshot).manifest
            found["counts"] = manifest.counts.model_dump()
            found["changes"] = manifest.changes.model_dump() if manifest.changes else None
            found["duplicates"] = count_duplicates(table.store, manifest.duplicates)
    if report.throughput is None and report.run_id in logs.by_run:
        receipts = [receipt for receipt in logs.receipts(report.run_id).values() if not receipt.copied]
        if receipts:
            found |= _derived(table, logs, report.run_id, receipts)
    return {name: value for name, value in found.items() if getattr(report, name) is None}


def _derived(table: Table, logs: Logs, run_id: str, receipts: Sequence[Receipt]) -> dict[str, Any]:
    """What the receipts of a run say, and the files that they are of."""
    return {
        "truncated": sum(receipt.truncated for receipt in receipts),
        "tokens_full": sum(receipt.tokens_full for receipt in receipts),
        "canaries": sum(receipt.canaries for receipt in receipts),
        "drift": max(receipt.drift for receipt in receipts),
        "throughput": _throughput(logs, run_id, receipts),
        "lengths": _lengths(table, receipts),
        "rejects": _rejects(table, receipts),
    }


def _throughput(logs: Logs, run_id: str, receipts: Sequence[Receipt]) -> Throughput | None:
    began, series = logs.log_began(run_id), Series()
    for receipt in receipts:
        if info := logs.data.get(receipt.split_id):  # it may have expired since
            at = max(0.0, info.modified - began)
            series.add(at - receipt.encode_seconds, at, receipt.tokens, receipt.embedded)
    tokens, rows = series.values()
    return Throughput(every_seconds=series.every_s, tokens=tokens, rows=rows, derived=True) if tokens else None


def _lengths(table: Table, receipts: Sequence[Receipt]) -> Lengths | None:
    documents, rows = (np.zeros(len(EDGES), np.int64) for _ in range(2))
    columns = [name for name in (names.N_TOKENS, names.N_TOKENS_FULL, names.CHUNK) if name in table.schema.names]
    read = 0
    for receipt in _some(receipts):
        with contextlib.suppress(TableError, ObjectNotFound):
            file = read_data_file(table.store, receipt, columns, table.card.fingerprint)
            full = file.column(names.N_TOKENS_FULL).to_numpy()
            if names.CHUNK in file.column_names:
                full = full[file.column(names.CHUNK).to_numpy() == 0]
            documents += length_counts(full)
            rows += length_counts(file.column(names.N_TOKENS).to_numpy())
            read += 1
    if not read:
        return None
    return Lengths(edges=EDGES, documents=_plain(documents), rows=_plain(rows), files=read, of_files=len(receipts))


def _rejects(table: Table, receipts: Sequence[Receipt]) -> Rejects:
    with_rejects = [receipt for receipt in receipts if receipt.rejected]
    amounts: Counter[str] = Counter()
    examples: list[RejectExample] = []
    chosen = _some(with_rejects)
    read = 0
    for receipt in chosen:
        with contextlib.suppress(TableError, ObjectNotFound, OSError, pa.ArrowException):
            rejects = read_parquet(table.store.read(names.rejects_key(receipt.split_id, receipt.attempt)))
            amounts.update(rejects.column(names.REASON).to_pylist())
            examples += examples_of(rejects, receipt.shard, Counter(example.reason for example in examples))
            read += 1
    return Rejects(by_reason=dict(amounts), examples=tuple(examples), complete=read == len(with_rejects))


def _some(things: Sequence[_T]) -> Sequence[_T]:
    """At most _FILES of them, evenly from first to last."""
    if len(things) <= _FILES:
        return things
    return [things[number * (len(things) - 1) // (_FILES - 1)] for number in range(_FILES)]


def _plain(counts: "np.ndarray[tuple[int], np.dtype[np.int64]]") -> tuple[int, ...]:
    return tuple(int(number) for number in counts)
