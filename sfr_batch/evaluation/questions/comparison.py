"""Two tables, or two snapshots of one, asked the same questions: what was lost, and whether it may be chance.

Without judgements, the answers of the table before are the reference. Knows answers; loads no model.
"""

import json
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass, field
from functools import cached_property
from typing import Any

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from sfr_batch.errors import counted
from sfr_batch.evaluation.measures.retrieval import RankingScores
from sfr_batch.evaluation.questions.answers import Answers
from sfr_batch.evaluation.questions.forms import Questions
from sfr_batch.evaluation.questions.scores import (
    LISTED,
    TOP,
    WIDTH,
    as_json,
    label,
    main_measure,
    percent,
    questions_as_json,
    shown_measures,
    wrapped,
)
from sfr_batch.evaluation.questions.significance import Change, changes
from sfr_batch.format.notebook import html_table
from sfr_batch.format.on_screen import shown, shown_cell
from sfr_batch.table.tabular import Tabular

_SHOWN = 2
"""Documents of each answer that are shown."""
_OVERLAPS = (1, TOP, 100)
_SIDES = ("before", "after")


@dataclass(frozen=True, slots=True)
class Moved:
    """A document in both answers to a question."""

    document: str
    before: int | None
    """Its rank, from 1; None: it is not among the first k."""
    after: int | None
    relevant: bool


@dataclass(frozen=True, slots=True)
class Lost:
    """A question that lost."""

    query: str
    text: str
    before: float
    """Its score; without judgements 1."""
    after: float
    """Its score; without judgements its overlap."""
    moved: Sequence[Moved]
    """A few documents that were found before, the relevant ones if there are judgements; then those found instead."""


@dataclass(frozen=True)
class TableComparison(Tabular):
    """How a table answers questions beside another one. Prints a summary; `to_pandas` has a row for each question."""

    questions: Questions
    before: Answers
    after: Answers
    k: int
    """Documents that were looked at for each question."""
    differs: Sequence[str]
    """What differs between the inputs of both fingerprints, a line each."""
    found_before: RankingScores | None
    """The measures of each question; None without judgements."""
    found_after: RankingScores | None
    gone: int = 0
    """Documents among the first ten before that the table after does not have."""
    remarks: tuple[str, ...] = field(default=())

    @cached_property
    def changes(self) -> dict[str, Change]:
        """The means before and after of each measure, the interval of their difference, and p. Empty if not judged."""
        if self.found_before is None or self.found_after is None:
            return {}
        found = changes(self.found_before.values, self.found_after.values)
        return dict(zip(self.found_before.names, found, strict=True))

    @cached_property
    def overlaps(self) -> dict[int, NDArray[np.float64]]:
        """For 1, 10 and 100, as far as they were looked at: the share of so many first documents that are in both
        answers, for each question."""
        return {at: self._overlap(at) for at in sorted({min(at, self.k) for at in _OVERLAPS})}

    @cached_property
    def same(self) -> int:
        """Questions whose first ten documents are the same, in the same order."""
        return sum(one[:TOP] == other[:TOP] for one, other in self._pairs)

    def lost(self, number: int = LISTED) -> list[Lost]:
        """The questions that lost most: of the main measure, or without judgements, of the documents found before."""
        if self.found_before is None or self.found_after is None:
            before, after = np.ones(len(self._pairs)), self.overlaps[min(TOP, self.k)]
        else:
            at = self.found_before.names.index(main_measure(self.k))
            before, after = self.found_before.values[:, at], self.found_after.values[:, at]
        order = [row for row in np.argsort(after - before, kind="stable")[:number].tolist() if after[row] < before[row]]
        found = []
        for row in order:
            query, text = self._asked[row]
            found.append(Lost(query, text, float(before[row]), float(after[row]), self._moved(query)))
        return found

    def describe(self) -> str:
        """All of it, in lines of a terminal."""
        return "\n".join([*self._head(), *self._scores(), *self._overlap_lines(), *self._lost_lines()])

    def __repr__(self) -> str:
        at = min(TOP, self.k)
        told = f"overlap@{at} {percent(float(self.overlaps[at].mean()))}"
        if change := self.changes.get(main_measure(self.k)):
            moved = f"{percent(change.before)} -> {percent(change.after)} ({change.verdict})"
            told = f"{label(main_measure(self.k))} {moved}, {told}"
        return f"<TableComparison {told}, {self.questions.describe()}>"

    def _repr_html_(self) -> str:
        rows = [(label(name), *_cells(self.changes[name])) for name in self._measures]
        rows += [
            (f"overlap@{at}", "", percent(float(share.mean())), "", "", "", "") for at, share in self.overlaps.items()
        ]
        title = f"before: {self.before.where}\nafter: {self.after.where}"
        lost = [
            (percent(one.before), percent(one.after), shown_cell(one.text), "\n".join(map(_line, one.moved)))
            for one in self.lost()
        ]
        head = ("measure", "before", "after", "change", "95 % interval", "p", "")
        return html_table(rows, head=head, numbers=range(1, 6), title=title) + html_table(
            lost, head=("before", "after", "lost most", "ranks of documents"), numbers=[0, 1]
        )

    def to_arrow(self) -> pa.Table:
        """A row for each question: id, text, overlaps, and of each measure its value before and after."""
        columns: dict[str, Any] = {
            "query": pa.array(self.questions.texts, pa.string()),
            "text": pa.array(self.questions.texts.values(), pa.string()),
            **{f"overlap_at_{at}": pa.array(share) for at, share in self.overlaps.items()},
        }
        for side, found in zip(_SIDES, (self.found_before, self.found_after), strict=True):
            if found is not None:
                columns |= {f"{name}_{side}": pa.array(found.values[:, at]) for at, name in enumerate(found.names)}
        return pa.table(columns)

    def to_json(self) -> str:
        """What both were made with, what differs, the changes, and for each question overlaps and first documents."""
        told: dict[str, Any] = {
            "before": as_json(self.before),
            "after": as_json(self.after),
            "differs": list(self.differs),
            "k": self.k,
            **questions_as_json(self.questions),
            "changes": {name: _as_json(change) for name, change in self.changes.items()},
            "overlap": {at: float(share.mean()) for at, share in self.overlaps.items()},
            "same_first_ten": self.same,
            "gone": self.gone,
            "lost": [asdict(one) for one in self.lost()],
            "remarks": list(self.remarks),
            "queries": [self._question(row) for row in range(len(self._pairs))],
        }
        return json.dumps(told, ensure_ascii=False, allow_nan=False)

    def _question(self, row: int) -> dict[str, Any]:
        query, text = self._asked[row]
        told: dict[str, Any] = {"query": query, "text": text}
        told |= {f"overlap_at_{at}": float(shares[row]) for at, shares in self.overlaps.items()}
        for side, found, documents in zip(_SIDES, (self.found_before, self.found_after), self._pairs[row], strict=True):
            if found is not None:
                main = main_measure(self.k)
                told[f"{main}_{side}"] = float(found.values[row, found.names.index(main)])
            told[f"documents_{side}"] = documents[:TOP]
        return told

    @cached_property
    def _asked(self) -> list[tuple[str, str]]:
        return list(self.questions.texts.items())

    @cached_property
    def _pairs(self) -> list[tuple[list[str], list[str]]]:
        """The documents of both answers to each question."""
        sides = self.before.ranking, self.after.ranking
        pairs = (tuple(list(side[query].documents) for side in sides) for query in self.questions.texts)
        return [(before, after) for before, after in pairs]

    @property
    def _measures(self) -> list[str]:
        return shown_measures(self.k) if self.changes else []

    def _overlap(self, at: int) -> NDArray[np.float64]:
        shares = []
        for one, other in self._pairs:
            most = max(len(one[:at]), len(other[:at]))
            shares.append(len({*one[:at]} & {*other[:at]}) / most if most else 1.0)
        return np.array(shares)

    def _head(self) -> Iterator[str]:
        yield from wrapped("before", self.before.where)
        yield from wrapped("after", self.after.where)
        for line in self.differs:
            yield from wrapped("differs", line)
        yield from wrapped("asked", self.questions.describe())
        for remark in self.remarks:
            yield from wrapped("note", remark)

    def _scores(self) -> Iterator[str]:
        if self.changes:
            yield f"{'':12}  {'before':>6}  {'after':>6}  {'change':>6}  {'95% interval':^18}  {'p':>6}"
        for name in self._measures:
            before, after, change, interval, p, verdict = _cells(self.changes[name])
            yield f"{label(name):12}  {before:>6}  {after:>6}  {change:>6}  {interval:>18}  {p:>6}  {verdict}"
        if self.found_before and self.found_after:
            main = main_measure(self.k)
            at = self.found_before.names.index(main)
            moved = self.found_after.values[:, at] - self.found_before.values[:, at]
            lost, gained, equal = (int(which.sum()) for which in (moved < 0, moved > 0, moved == 0))
            yield f"{label(main)}: {counted(lost, 'question')} lost, {gained:,} gained, {equal:,} as before"

    def _overlap_lines(self) -> Iterator[str]:
        for at, share in self.overlaps.items():
            which = "have the same first document" if at == 1 else f"of the first {at} documents are the same"
            yield f"overlap@{at:<4}  {percent(float(share.mean())):>6}  % {which}"
        least = min(TOP, self.k)
        if least > 1:
            yield f"{self.same:,} of {counted(len(self._pairs), 'question')}: the same first {least}, in the same order"
        if self.gone:
            gone = counted(self.gone, "document is", "documents are")
            yield f"{gone} among the first {least} before, and not in the table after"

    def _lost_lines(self) -> Iterator[str]:
        lost = self.lost()
        if lost:
            what = label(main_measure(self.k)) if self.changes else f"overlap@{min(TOP, self.k)}"
            yield f"Lost most {what}:{' (* relevant)' if self.changes else ''}"
        for one in lost:
            yield f"  {percent(one.before):>6} -> {percent(one.after):>6}  {shown(one.text, WIDTH - 20)}"
            yield from (f"    rank {_line(moved, WIDTH - 24)}" for moved in one.moved)

    def _moved(self, query: str) -> list[Moved]:
        """The documents of a question that tell most: what was found before, and what is found instead."""
        before, after = (list(answers.ranking[query].documents) for answers in (self.before, self.after))
        old, new = ({name: at for at, name in enumerate(found, start=1)} for found in (before, after))
        top, behind = min(TOP, self.k), self.k + 1
        grades = self.questions.qrels.get(query, {})
        relevant = {name for name, grade in grades.items() if grade > 0}
        if grades:
            lost = [name for name in before if name in relevant and old[name] < new.get(name, behind)]
            first = min((old[name] for name in lost), default=0)
            instead = [name for name in after[:top] if name not in relevant and old.get(name, behind) > first]
        else:
            lost = [name for name in before[:top] if new.get(name, behind) > top]
            instead = [name for name in after[:top] if old.get(name, behind) > top]
        chosen = [*lost[:_SHOWN], *instead[:_SHOWN]]
        return [Moved(name, old.get(name), new.get(name), name in relevant) for name in chosen]


def _line(moved: Moved, width: int = 200) -> str:
    """Ranks before and after, a star if it is relevant, and the id."""
    before, after = (f"{rank or '-':>3}" for rank in (moved.before, moved.after))
    return f"{before} -> {after}  {'*' if moved.relevant else ' '} {shown(moved.document, width)}"


def _cells(change: Change) -> tuple[str, str, str, str, str, str]:
    interval = f"{100 * change.low:+7.2f} to {100 * change.high:+7.2f}"
    p = "<0.001" if change.p < 0.001 else f"{change.p:.3f}"
    moved = f"{100 * change.difference:+.2f}"
    return percent(change.before), percent(change.after), moved, interval, p, change.verdict


def _as_json(change: Change) -> dict[str, Any]:
    told = {"before": change.before, "after": change.after, "difference": change.difference}
    return {**told, "low": change.low, "high": change.high, "p": change.p, "verdict": change.verdict}
