"""Checks of all ids together: each is live once, in its first row or as the table's rule says, where indexes point to.

With a corpus: no row is missing, the table has no others, and no text has changed.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from functools import partial

import numpy as np

from sfr_batch.checks.audit.corpus import CorpusRows
from sfr_batch.checks.audit.files import DataFiles
from sfr_batch.checks.audit.id_records import IdGroups, IdRecords, RecordKind
from sfr_batch.checks.audit.indexes import IndexFiles
from sfr_batch.checks.audit.promises import Problems, PromiseCheck
from sfr_batch.checks.audit.report import CORPUS, DUPLICATES, IDS, INDEXES, TEXTS, Finding
from sfr_batch.checks.audit.rule import Rule
from sfr_batch.checks.audit.work import Work
from sfr_batch.errors import counted
from sfr_batch.format.records import DuplicateRule

_PLACES = 3
"""Largest number of places shown for one id."""


@dataclass(frozen=True)
class Ids:
    """What all ids together show.

    findings: about ids, duplicates and with a corpus its rows and texts. indexes: the check of index files, with the
    entries that point to wrong rows. kept: number of ids that are only in the table, because documents are kept.
    """

    findings: tuple[Finding, ...]
    indexes: PromiseCheck
    kept: int


def check_ids(
    work: Work,
    files: DataFiles,
    indexes: IndexFiles,
    corpus: CorpusRows | None,
    unread: int,
    duplicates: DuplicateRule | None = None,
) -> Ids:
    """Check all records of ids that ``work`` has, a partition at a time.

    files, indexes, corpus: where the records are from, all read. unread: number of files that could not be read; if
    there are any, nothing is reported as missing. duplicates: which row of an id is live; None: the first.
    """
    context = files, indexes, corpus, unread, duplicates
    checks = _IdChecks(*context, found=indexes.problems)
    for found in work.partitions(_check_partition, context):
        checks.include(found)
    return Ids(tuple(checks.findings()), checks.pointers, checks.kept)


_Context = tuple[DataFiles, IndexFiles, CorpusRows | None, int, DuplicateRule | None]


@dataclass(frozen=True)
class _Found:
    """What a partition shows. problems: with ids, duplicates, rows and texts of the corpus, and entries of indexes.

    live, duplicate, also, kept: numbers of ids.
    """

    problems: tuple[Problems, ...]
    live: int
    duplicate: int
    also: int
    kept: int


def _check_partition(context: _Context, records: IdRecords) -> _Found:
    checks = _IdChecks(*context)
    checks.add(IdGroups(records))
    return checks.found


class _IdChecks:
    """The checks of `check_ids`: of one partition that is added, or of all whose results are included.

    found: what is known of entries of indexes.
    """

    def __init__(
        self,
        files: DataFiles,
        indexes: IndexFiles,
        corpus: CorpusRows | None,
        unread: int,
        duplicates: DuplicateRule | None,
        found: Problems | None = None,
    ) -> None:
        column = duplicates.order_by if duplicates else None
        self._rule = Rule(
            duplicates,
            of_table=partial(files.values, column) if column else None,
            of_corpus=corpus.values if corpus and column else None,
        )
        self._files, self._indexes, self._corpus, self._unread = files, indexes, corpus, unread
        self._ids, self._duplicates, self._rows, self._texts = (
            PromiseCheck(name, unchecked=unread) for name in (IDS, DUPLICATES, CORPUS, TEXTS)
        )
        self.pointers = PromiseCheck(INDEXES, found, unread)
        self._live = self._duplicate = self._also = 0
        self.kept = 0

    @property
    def _checks(self) -> tuple[PromiseCheck, ...]:
        return self._ids, self._duplicates, self._rows, self._texts, self.pointers

    @property
    def found(self) -> _Found:
        problems = tuple(check.problems for check in self._checks)
        return _Found(problems, self._live, self._duplicate, self._also, self.kept)

    def include(self, found: _Found) -> None:
        """Add what a partition has shown."""
        for check, problems in zip(self._checks, found.problems, strict=True):
            check.include(problems)
        self._live += found.live
        self._duplicate += found.duplicate
        self._also += found.also
        self.kept += found.kept

    def add(self, groups: IdGroups) -> None:
        """Check one partition."""
        n = groups.counts
        live = n[RecordKind.LIVE]
        self._live += int(live.sum())
        self._duplicate += int(n[RecordKind.DUPLICATE].sum() + n[RecordKind.SUPERSEDED].sum())
        self._also += int(((live > 0) & (n[RecordKind.REJECTED_ID] > 0)).sum())
        self.kept += int(((n[RecordKind.KEPT] > 0) & (groups.candidates == 0)).sum())
        for group in self._ids.some(groups.where(live > 1)):
            self._ids.wrong(self._tell_repeated(groups, group))
        if not self._unread:
            self._check(groups)
        if self._corpus:
            self._compare(groups, self._corpus)

    def _check(self, groups: IdGroups) -> None:
        """Which row of each id is live, and how many rows are rejected because of it."""
        n, candidates = groups.counts, groups.candidates
        live, duplicate = n[RecordKind.LIVE], n[RecordKind.DUPLICATE]
        strays, unsound = groups.strays()
        for record in self.pointers.some(strays):
            self.pointers.wrong(self._tell_stray(groups, record))
        lives = groups.live_rows()
        first = groups.last_rows(self._rule.of_table) if self._rule.duplicates else groups.first_rows()
        has = candidates + n[RecordKind.KEPT] > 0
        right = np.where(has, (live > 0) & (lives == first), live == 0)
        for group in self._ids.some(groups.where(~right & ~unsound & (live < 2))):
            self._ids.wrong(self._tell_life(int(lives[group]), int(first[group])))
        stale = (n[RecordKind.KEPT] > 0) & (candidates == 0) & (live > 0) & (n[RecordKind.NO_VECTOR] > 0)
        for group in self._ids.some(groups.where(stale)):
            place = self._files.place(int(lives[group]))
            self._ids.wrong(
                f"{place} is kept as a document that left the corpus, but its id is in the corpus, as a reject"
            )
        for group in self._duplicates.some(groups.where(duplicate != np.maximum(candidates - 1, 0))):
            self._duplicates.wrong(self._tell_duplicate(groups, group))

    def findings(self) -> Iterator[Finding]:
        """The findings about all partitions, except that about indexes."""
        also = f"; {counted(self._also, 'id')} also rejected in another row" if self._also else ""
        documents = counted(self._live, "live document")
        yield self._ids.finding(documents, f"each id is live once, {self._rule.live}{also}")
        what = counted(self._duplicate, "duplicate row")
        yield self._duplicates.finding(what, self._rule.others)
        if self._corpus:
            what = f"{counted(self._corpus.rows, 'row')} of the corpus"
            kept = f"; {counted(self.kept, 'document')} kept that left the corpus" if self.kept else ""
            yield self._rows.finding(what, f"each is live or rejected, and the table has no others{kept}")
            yield self._texts.finding(documents, "hashes of text and row match the corpus")

    def _tell_repeated(self, groups: IdGroups, group: int) -> str:
        rows = groups.rows(group, RecordKind.LIVE)
        places = [self._files.place(row) for row in rows[:_PLACES]]
        more = f" and {len(rows) - _PLACES:,} more" if len(rows) > _PLACES else ""
        return f"id {places[0].id!r} is live {len(rows)} times: {', '.join(p.where for p in places)}{more}"

    def _tell_life(self, lives: int, first: int) -> str:
        """lives, first: the live row of an id and the one that should be, negative if there is none."""
        if lives < 0:
            return f"{self._files.place(first)} is deleted, but should be live"
        if first < 0:
            return f"{self._files.place(lives)} is live, but no shard has it"
        return (
            f"{self._files.place(lives)} is live, but {self._files.place(first).where} has the same id and comes "
            f"{self._rule.place}"
        )

    def _tell_stray(self, groups: IdGroups, record: int) -> str:
        group, order, row = groups.entry(record)
        told = f"{self._indexes.place(order)} points to {self._files.place(row)}, which has "
        own = [*groups.rows(group, RecordKind.LIVE), *groups.rows(group, RecordKind.DEAD)]
        if row in own:
            return f"{told}different hashes of text and row"
        return f"{told}another id" + (f" than {self._files.place(own[0]).id!r}" if own else "")

    def _tell_duplicate(self, groups: IdGroups, group: int) -> str:
        rejected, candidates = int(groups.counts[RecordKind.DUPLICATE][group]), int(groups.candidates[group])
        rows = [*groups.rows(group, RecordKind.LIVE), *groups.rows(group, RecordKind.DEAD)]
        where = f"id {self._files.place(rows[0]).id!r}" if rows else "an id that no data file has"
        shards = f"{counted(candidates, 'row')} with this id in the shards"
        return f"{where}: {counted(rejected, 'row')} rejected as duplicate_id, but {shards}"

    def _compare(self, groups: IdGroups, corpus: CorpusRows) -> None:
        n, wrong = groups.counts, self._rows.wrong
        kept = np.where((groups.candidates == 0) & (n[RecordKind.KEPT] > 0), n[RecordKind.LIVE], 0)
        by_id = n[RecordKind.IN_CORPUS] - (n[RecordKind.LIVE] - kept)
        by_id -= n[RecordKind.DUPLICATE] + n[RecordKind.SUPERSEDED] + n[RecordKind.REJECTED_ID]
        by_row = n[RecordKind.BAD_IN_CORPUS] - n[RecordKind.REJECTED_ROW]
        if not self._unread:
            for kind, missing in ((RecordKind.IN_CORPUS, by_id), (RecordKind.BAD_IN_CORPUS, by_row)):
                for group in self._rows.some(groups.where(missing > 0)):
                    place, _ = corpus.place(groups.rows(group, kind)[-1])
                    wrong(f"{place} is neither live nor rejected", int(missing[group]))
        if not self._indexes.unread:  # else they may say that it is kept
            for group in self._rows.some(groups.where(by_id < 0)):
                live = groups.rows(group, RecordKind.LIVE)
                what = str(self._files.place(live[0])) if live else "a rejected id"
                wrong(f"{what} is not in the corpus", -int(by_id[group]))
        for group in self._rows.some(groups.where(by_row < 0)):
            wrong("a rejected row is not in the corpus, or is not rejected any more", -int(by_row[group]))
        last = groups.last_contents(self._rule.of_corpus) if self._rule.duplicates else None
        for group in self._texts.some(groups.stale(last)):
            of, content_hash = corpus.place(groups.rows(group, RecordKind.IN_CORPUS)[0])
            row = self._files.place(groups.rows(group, RecordKind.LIVE)[0])
            has = "other carried columns" if row.content_hash == content_hash else "the vector of another text"
            self._texts.wrong(f"{row} has {has} than {of}")
