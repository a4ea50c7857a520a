"""The scores of a table for questions of one's own: a value that shows itself on a terminal, in a notebook and as JSON.

Knows answers and judgements; loads no model.
"""

import json
import textwrap
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import pyarrow as pa

from sfr_batch.evaluation.measures.retrieval import CUT_OFFS, RankingScores, score_ranking
from sfr_batch.evaluation.questions.answers import Answers
from sfr_batch.evaluation.questions.forms import Questions
from sfr_batch.evaluation.questions.significance import intervals
from sfr_batch.format.notebook import html_table
from sfr_batch.format.on_screen import printable, shown, shown_cell
from sfr_batch.table.tabular import Tabular

WIDTH = 80
"""Characters of a line on a terminal."""
LISTED = 5
"""Questions that are shown one by one."""
TOP = 10
_MOST_RELEVANT = 3
_LABELS = {"ndcg": "nDCG", "mrr": "MRR", "recall": "recall", "map": "MAP", "precision": "precision"}


def cut_offs(k: int) -> tuple[int, ...]:
    """The cut-offs of measures if ``k`` documents are found for each question."""
    return tuple(sorted({at for at in CUT_OFFS if at <= k} | {k}))


def score(answers: Answers, questions: Questions, k: int) -> RankingScores:
    """The measures of each question. Raises ConfigError if the library of measures is missing."""
    return score_ranking(answers.ranking, questions.qrels, cut_offs(k))


def main_measure(k: int) -> str:
    """The measure that stands for all: nDCG of the first ten."""
    return f"ndcg_at_{min(TOP, k)}"


def shown_measures(k: int) -> list[str]:
    """The measures that a screen shows; a value has all of them."""
    least = min(TOP, k)
    found = [f"ndcg_at_{least}", f"mrr_at_{least}", f"recall_at_{least}", f"recall_at_{k}", f"map_at_{k}"]
    return list(dict.fromkeys(found))


def label(measure: str) -> str:
    """``nDCG@10`` for ``ndcg_at_10``."""
    name, _, at = measure.partition("_at_")
    return f"{_LABELS[name]}@{at}"


def percent(value: float) -> str:
    """A score as people write them: times 100."""
    return f"{100 * value:.2f}"


@dataclass(frozen=True)
class TableScores(Tabular):
    """How well a snapshot of a table answers questions. Prints a summary; `to_pandas` has a row for each question."""

    questions: Questions
    answers: Answers
    k: int
    """Documents that were looked at for each question."""
    found: RankingScores
    """The measures of each question, as fractions."""
    remarks: tuple[str, ...] = ()
    """Sentences on what a reader should know, such as judged documents that the table does not have."""

    @property
    def scores(self) -> dict[str, float]:
        """The mean of each measure over the questions, by the keys of model cards; fractions in 0 to 1."""
        return self.found.means

    @cached_property
    def intervals(self) -> dict[str, tuple[float, float]]:
        """For each measure, how far its mean may be due to which questions were asked: 95 % of resamples."""
        return dict(zip(self.found.names, intervals(self.found.values), strict=True))

    def ranks(self, query: str) -> dict[str, int | None]:
        """The relevant documents of a question with their ranks from 1; None: not among the first k."""
        rank = {name: number for number, name in enumerate(self.answers.ranking[query].documents, start=1)}
        return {name: rank.get(name) for name, grade in self.questions.qrels[query].items() if grade > 0}

    def describe(self) -> str:
        """All of it, in lines of a terminal."""
        return "\n".join([*head(self.answers, self.questions, self.remarks), *self._table(), *self._lowest()])

    def __repr__(self) -> str:
        main = main_measure(self.k)
        return f"<TableScores {label(main)} {percent(self.scores[main])}, {self.questions.describe()}>"

    def _repr_html_(self) -> str:
        rows = [(label(name), percent(self.scores[name]), _range(self.intervals[name])) for name in self._shown]
        low = [(percent(value), shown_cell(text), told) for value, text, told in self._worst()]
        return html_table(rows, head=("measure", "mean", "95 % interval"), numbers=[1, 2], title=self.answers.where) + (
            html_table(low, head=(label(main_measure(self.k)), "question", "relevant documents"), numbers=[0])
        )

    def to_arrow(self) -> pa.Table:
        """A row for each question: id, text, number of relevant documents, rank of the first one, all measures."""
        ranks = [self.ranks(query) for query in self.found.queries]
        first = [min((rank for rank in own.values() if rank), default=None) for own in ranks]
        return pa.table(
            {
                "query": pa.array(self.found.queries, pa.string()),
                "text": pa.array([self.questions.texts[query] for query in self.found.queries], pa.string()),
                "relevant": pa.array([len(own) for own in ranks], pa.int64()),
                "first_relevant": pa.array(first, pa.int64()),
                **{name: pa.array(self.found.values[:, at]) for at, name in enumerate(self.found.names)},
            }
        )

    def to_json(self) -> str:
        """What it was made with, the scores, and for each question the main measure and the first ten documents."""
        main = self.found.values[:, self.found.names.index(main_measure(self.k))].tolist()
        asked = [
            {"query": query, "text": self.questions.texts[query], main_measure(self.k): value}
            | {"relevant": self.ranks(query), "documents": list(self.answers.ranking[query].documents[:TOP])}
            for query, value in zip(self.found.queries, main, strict=True)
        ]
        made = {"table": as_json(self.answers), "k": self.k, **questions_as_json(self.questions)}
        told = {"scores": self.scores, "intervals": self.intervals, "remarks": self.remarks}
        return json.dumps({**made, **told, "queries": asked}, ensure_ascii=False, allow_nan=False)

    @property
    def _shown(self) -> list[str]:
        return shown_measures(self.k)

    def _table(self) -> Iterator[str]:
        yield f"{'':12}  {'mean':>6}  95% interval"
        for name in self._shown:
            yield f"{label(name):12}  {percent(self.scores[name]):>6}  {_range(self.intervals[name])}"

    def _worst(self) -> list[tuple[float, str, str]]:
        """The questions with the lowest scores: score, text, what became of their relevant documents."""
        column = self.found.values[:, self.found.names.index(main_measure(self.k))]
        order = [at for at in column.argsort(kind="stable")[:LISTED].tolist() if column[at] < 1]
        return [
            (float(column[at]), self.questions.texts[query], self._places(query))
            for at in order
            for query in [self.found.queries[at]]
        ]

    def _places(self, query: str) -> str:
        ranks = self.ranks(query)
        told = [f"{shown(name, 40)} {f'at {rank}' if rank else 'not found'}" for name, rank in ranks.items()]
        more = [f"{len(told) - _MOST_RELEVANT} more"] if len(told) > _MOST_RELEVANT else []
        return ", ".join(told[:_MOST_RELEVANT] + more) or "none is relevant"

    def _lowest(self) -> Iterator[str]:
        if lowest := self._worst():
            yield f"Lowest {label(main_measure(self.k))}:"
        for value, text, places in lowest:
            yield f"  {percent(value):>6}  {shown(text, WIDTH - 10)}"
            yield f"          {shown(places, WIDTH - 10)}"


def head(answers: Answers, questions: Questions, remarks: Sequence[str]) -> Iterator[str]:
    """The lines above the scores."""
    yield from wrapped("table", answers.where)
    yield from wrapped("asked", questions.describe())
    if answers.prompt:
        yield f"prompt      {shown(repr(answers.prompt), WIDTH - 12)}"
    for remark in remarks:
        yield from wrapped("note", remark)


def wrapped(name: str, text: str) -> list[str]:
    """A named fact in lines of a terminal; paths stay whole."""
    whole = textwrap.TextWrapper(WIDTH, break_long_words=False, break_on_hyphens=False)
    whole.initial_indent, whole.subsequent_indent = f"{name:12}", " " * 12
    return whole.wrap(printable(text))


def as_json(answers: Answers) -> dict[str, Any]:
    """With what answers were made, as values of JSON."""
    made = answers.made
    return {
        "path": answers.table,
        "snapshot": answers.snapshot,
        "rows": answers.rows,
        "model": made.model,
        "fingerprint": made.fingerprint,
        "inputs": dict(made.inputs),
        "versions": dict(made.versions),
        "prompt": answers.prompt,
    }


def questions_as_json(questions: Questions) -> dict[str, Any]:
    """Where questions came from, as values of JSON."""
    counts = {"questions": len(questions.texts), "judgements": questions.judgements}
    return {"data": {"source": questions.source, "version": questions.version, **counts}}


def _range(interval: tuple[float, float]) -> str:
    return f"{percent(interval[0]):>6} to {percent(interval[1]):>6}"
