"""The order of the checks of an audit, and its report."""

import time
from collections.abc import Callable, Mapping

import pyarrow as pa

from sfr_batch.checks.audit.contents import Contents
from sfr_batch.checks.audit.corpus import CorpusRows, check_shards, read_corpus
from sfr_batch.checks.audit.counts import Sums, check_condemned, check_counts, check_deletes
from sfr_batch.checks.audit.data_file import PROMISES, is_chunked
from sfr_batch.checks.audit.files import file_findings, read_data_files, row_findings
from sfr_batch.checks.audit.id_records import RECORD
from sfr_batch.checks.audit.ids import check_ids
from sfr_batch.checks.audit.indexes import index_finding, read_indexes
from sfr_batch.checks.audit.rejects import read_rejects
from sfr_batch.checks.audit.report import (
    CONDEMNED,
    COUNTS,
    DELETES,
    DUPLICATES,
    FILES,
    FOOTERS,
    IDS,
    INDEXES,
    PAGES,
    REJECTS,
    SCHEMA,
    AuditReport,
    Finding,
)
from sfr_batch.checks.audit.snapshots import check_inputs, check_sides, read_snapshots
from sfr_batch.checks.audit.surroundings import check_plain, look_for_orphans, look_for_runs
from sfr_batch.checks.audit.work import InTasks, InThreads, Work
from sfr_batch.corpus.listing import list_shards
from sfr_batch.errors import SfrBatchError
from sfr_batch.format.expired import check_not_expired
from sfr_batch.model.identity import comparable
from sfr_batch.planning.plan import EmbedPlan
from sfr_batch.storage.executor import Executor, check_reach
from sfr_batch.storage.local_files import temporary_folder
from sfr_batch.storage.locations import absolute_uri
from sfr_batch.storage.spill import Spill
from sfr_batch.table.commit.sweep import Orphans
from sfr_batch.table.table import Snapshot, Table

PARTITION_ROWS = 2**23
"""Number of ids compared in memory at a time, at about 100 bytes each."""

Each = Callable[[Finding], None]


def audit(
    table: Table,
    against: EmbedPlan | None = None,
    snapshot: int | None = None,
    *,
    each: Each = lambda finding: None,
    partition_rows: int = PARTITION_ROWS,
    executor: Executor | None = None,
) -> AuditReport:
    """Check every promise of the table. Reads all data files of a snapshot; writes and deletes nothing.

    against: a plan of the corpus (`make_plan`). If given, the corpus is read too: each row must be live or rejected,
    with a vector of its present text, and the table must have no other rows. snapshot: its number, by default the
    newest. each: called with each finding at once. partition_rows: number of ids in memory at a time, in this process.
    executor: runs the tasks that read data files, indexes and the corpus and compare ids; the findings are the same,
    but of many problems other ids may be the examples.

    Raises TableNotFound if the snapshot does not exist or expires during the audit, StorageError if the store cannot be
    read, CorpusError if the corpus cannot, and ConfigError if the tasks would not see table or corpus. Everything else
    that is wrong is a finding.
    """
    if executor:
        check_reach(executor, table.store.root, *map(absolute_uri, against.config.corpus.paths if against else ()))
    return _Auditor(table, against, each, partition_rows, executor).run(snapshot)


class _Auditor:
    """One audit."""

    def __init__(
        self, table: Table, against: EmbedPlan | None, each: Each, partition_rows: int, executor: Executor | None
    ) -> None:
        self._table, self._against = table, against
        self._each, self._partition_rows, self._executor = each, partition_rows, executor
        self._findings: list[Finding] = []
        self._rows = self._bytes = 0
        self._unreadable = ""
        """Why the audited snapshot cannot be read, once that was told."""

    def run(self, number: int | None) -> AuditReport:
        started = time.monotonic()
        numbers = self._table.published_numbers()
        newest = numbers[-1] if numbers else None
        if number is not None and number != newest:
            self._table.snapshot(number)  # raises if there is none
        number = newest if number is None else number
        finding, snapshots = read_snapshots(self._table, newest)
        self._tell(finding)
        if snapshots:
            self._tell(check_inputs(self._table, snapshots))
        if number in snapshots:
            self._check(snapshots, snapshots[number])
            check_not_expired(self._table.store, number)  # during the audit: then missing files are no damage
        orphans, plain = self._look_around(snapshots.get(newest) if newest else None)
        return AuditReport(
            table=self._table.store.root,
            snapshot=number,
            checks=tuple(self._findings),
            rows=self._rows,
            bytes=self._bytes,
            seconds=time.monotonic() - started,
            plain=plain,
            orphans=len(orphans.objects),
            orphan_bytes=orphans.bytes,
        )

    def _tell(self, *findings: Finding) -> None:
        for finding in findings:
            self._findings.append(finding)
            self._each(finding)

    def _check(self, snapshots: Mapping[int, Snapshot], snapshot: Snapshot) -> None:
        """Check everything that one snapshot names."""
        self._tell(check_sides(self._table, snapshots))
        try:
            contents = Contents.read(snapshot)
        except (SfrBatchError, pa.ArrowException) as error:
            self._unreadable = str(error)
            why = f"snapshot {snapshot.number} cannot be read"
            first, *others = (*PROMISES, REJECTS, INDEXES, IDS, DUPLICATES, DELETES, CONDEMNED)
            self._tell(Finding(first, "SKIP", f"{why}: {error}"))  # a long sentence, and the same for all
            self._tell(*(Finding(name, "SKIP", f"{why}, see {first}") for name in others))
            return
        rows = contents.rows + (snapshot.manifest.counts.read if self._against else 0)
        if self._executor:
            self._check_contents(snapshots, contents, InTasks(self._executor, rows))
            return
        with temporary_folder("sfr-audit-") as folder:
            self._check_contents(snapshots, contents, InThreads(Spill(folder, RECORD, rows, self._partition_rows)))

    def _check_contents(self, snapshots: Mapping[int, Snapshot], contents: Contents, work: Work) -> None:
        files = read_data_files(self._table.plain(), contents, snapshots, work)
        self._rows, self._bytes = files.rows, files.bytes
        self._tell(*file_findings(files))
        rejects = read_rejects(self._table, contents, work)
        self._tell(rejects.finding)
        indexes = read_indexes(self._table, contents, files, snapshots, work)
        self._tell(*row_findings(files))
        self._tell(check_deletes(contents))
        self._tell(check_condemned(contents))
        corpus = self._read_corpus(self._against, contents, work) if self._against else None

        unread = files.unread + rejects.unread + indexes.unread
        ids = check_ids(work, files, indexes, corpus, unread, contents.snapshot.manifest.duplicate_rule)
        self._tell(index_finding(contents, ids.indexes))
        sums = Sums(
            live=None if files.unread else [file.live for file in files.files],
            kept=None if unread else ids.kept,
            duplicates=None if rejects.finding.problems else rejects.duplicates,
        )
        chunked = is_chunked(self._table)
        self._tell(check_counts(files.problems[COUNTS], contents, snapshots, sums, chunked=chunked))
        self._tell(*ids.findings)

    def _read_corpus(self, against: EmbedPlan, contents: Contents, work: Work) -> CorpusRows:
        shards = list_shards(against.config.corpus)
        known = comparable(self._table.known_inputs(contents.snapshot))
        self._tell(check_shards(against, shards, contents, known))
        return read_corpus(against, shards, work)

    def _look_around(self, newest: Snapshot | None) -> tuple[Orphans, bool]:
        orphans, plain = None, False
        if newest is not None:
            finding, orphans = look_for_orphans(self._table, newest, self._unreadable)
            self._tell(finding)
            broken = {finding.name for finding in self._findings if finding.verdict == "FAIL"}
            sound = orphans is not None and broken.isdisjoint((FILES, PAGES, FOOTERS, SCHEMA))
            finding, plain = check_plain(self._table, newest, sound=sound)
            self._tell(finding)
        self._tell(look_for_runs(self._table))
        return orphans or Orphans(), plain
