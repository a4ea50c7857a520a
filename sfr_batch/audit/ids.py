"""What ids say: each lives once, and with a corpus, nothing is missing, nothing too much and no text has changed."""

from collections.abc import Callable, Iterator
from typing import Any

from sfr_batch.audit.corpus import Corpus
from sfr_batch.audit.records import Groups, Kind
from sfr_batch.audit.report import CORPUS, DUPLICATES, EMBED, IDS, REPORT, TEXTS, Finding, Promise, count
from sfr_batch.spill import Spill

_PLACES = 3
"""Places of one id that are told."""


def check_ids(
    spill: Spill, place: Callable[[int], tuple[str, Any]], corpus: Corpus | None, unread: int
) -> Iterator[Finding]:
    """place: where a row of the data files is, and its id; unread: files that could not be looked into, and if there
    are any, nothing is said of what is not there."""
    check = _Check(place, corpus, unread)
    for records in spill.partitions():
        check.add(Groups(records))
    return check.findings()


class _Check:
    """Partitions are added one by one."""

    def __init__(self, place: Callable[[int], tuple[str, Any]], corpus: Corpus | None, unread: int) -> None:
        self._place, self._corpus, self._unread = place, corpus, unread
        self._ids, self._duplicates = Promise(IDS, REPORT), Promise(DUPLICATES, REPORT)
        self._rows, self._texts = Promise(CORPUS, EMBED), Promise(TEXTS, EMBED)
        for promise in (self._ids, self._duplicates, self._rows, self._texts):
            promise.unchecked = unread
        self._live = self._duplicate = self._also = 0

    def add(self, groups: Groups) -> None:
        n = groups.counts
        live, dead, duplicate = n[Kind.LIVE], n[Kind.DEAD], n[Kind.DUPLICATE]
        self._live += int(live.sum())
        self._duplicate += int(duplicate.sum())
        self._also += int(((live > 0) & (n[Kind.REJECTED_ID] > 0)).sum())
        for group in self._ids.some(groups.where(live > 1)):
            self._ids.wrong(self._tell_repeated(groups, group))
        if not self._unread:
            unequal = (dead != duplicate) | ((duplicate > 0) & (live == 0))
            for group in self._duplicates.some(groups.where(unequal)):
                self._duplicates.wrong(self._tell_duplicate(groups, group))
        if self._corpus:
            self._compare(groups, self._corpus)

    def findings(self) -> Iterator[Finding]:
        also = f"; {count(self._also, 'id')} also rejected, in another row" if self._also else ""
        documents = f"{self._live:,} live documents"
        yield self._ids.finding(documents, f"each id once{also}")
        what = f"{self._duplicate:,} rows with an earlier row's id"
        yield self._duplicates.finding(what, "that one lives, they do not")
        if self._corpus:
            what = f"{self._corpus.rows:,} rows of the corpus"
            yield self._rows.finding(what, "each live or rejected, and nothing else is")
            yield self._texts.finding(documents, "content_hash is that of the text in the corpus")

    def _tell_repeated(self, groups: Groups, group: int) -> str:
        rows = groups.rows(group, Kind.LIVE)
        places = [self._place(row) for row in rows[:_PLACES]]
        more = f" and {len(rows) - _PLACES:,} more" if len(rows) > _PLACES else ""
        return f"id {places[0][1]!r} is live {len(rows)} times: {', '.join(name for name, _ in places)}{more}"

    def _tell_duplicate(self, groups: Groups, group: int) -> str:
        rejected, deleted, live = (int(groups.counts[kind][group]) for kind in (Kind.DUPLICATE, Kind.DEAD, Kind.LIVE))
        rows = groups.rows(group, Kind.DEAD) or groups.rows(group, Kind.LIVE)
        where = f"id {self._place(rows[0])[1]!r}" if rows else "an id that no data file has"
        return f"{where}: {rejected} rejected as duplicate_id, {deleted} deleted, {live} live"

    def _compare(self, groups: Groups, corpus: Corpus) -> None:
        n, wrong = groups.counts, self._rows.wrong
        by_id = n[Kind.IN_CORPUS] - n[Kind.LIVE] - n[Kind.DUPLICATE] - n[Kind.REJECTED_ID]
        by_row = n[Kind.BAD_IN_CORPUS] - n[Kind.REJECTED_ROW]
        if not self._unread:
            for kind, missing in ((Kind.IN_CORPUS, by_id), (Kind.BAD_IN_CORPUS, by_row)):
                for group in self._rows.some(groups.where(missing > 0)):
                    place = corpus.place(groups.rows(group, kind)[-1])
                    wrong(f"{place} is neither live nor rejected", int(missing[group]))
        for group in self._rows.some(groups.where(by_id < 0)):
            live = groups.rows(group, Kind.LIVE)
            wrong(f"{self._tell(live[0]) if live else 'a rejected id'} is not in the corpus", -int(by_id[group]))
        for group in self._rows.some(groups.where(by_row < 0)):
            wrong("a rejected row is not in the corpus, or not rejected in it", -int(by_row[group]))
        for group in self._texts.some(groups.stale()):
            of = corpus.place(groups.rows(group, Kind.IN_CORPUS)[0])
            live_row = groups.rows(group, Kind.LIVE)[0]
            self._texts.wrong(f"{self._tell(live_row)} has the vector of another text than {of}")

    def _tell(self, row: int) -> str:
        place, id_ = self._place(row)
        return f"{place}, id {id_!r},"
