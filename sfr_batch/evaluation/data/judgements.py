"""Judgements: which documents answer a query, and how well, gathered row by row and read from files of qrels.

Every error is a CorpusError that names the row. Knows neither the texts of queries nor documents.
"""

from collections.abc import Sequence

from sfr_batch.config.settings import StorageSettings
from sfr_batch.errors import CorpusError
from sfr_batch.evaluation.data.fields import Fields
from sfr_batch.evaluation.data.rows import Row, read_rows

_LARGEST = 10**6
"""Grades are 0 to 3 or so. trec_eval has a counter for each number up to the largest one: of larger ones it takes
gigabytes, and from 2**31 on it takes them for 0."""


class Judgements:
    """What was judged so far."""

    def __init__(self) -> None:
        self.qrels: dict[str, dict[str, int]] = {}
        """By query, the grade of each document."""
        self.places: dict[str, str] = {}
        """Where each query is judged first."""

    def add(self, row: Row, query: str, document: str, grade: float) -> None:
        """One judgement; row: where it stands. A repeated one is fine, unless it has another grade."""
        if not grade.is_integer():
            raise CorpusError(f"{row.place}: the grade {grade} is not a whole number, which nDCG needs.")
        if abs(grade) > _LARGEST:
            raise CorpusError(
                f"{row.place}: the grade {grade:.0f} is beyond {_LARGEST:,}, the most that trec_eval can count. "
                "Is another column the grade?"
            )
        own = self.qrels.setdefault(query, {})
        if own.setdefault(document, int(grade)) != int(grade):
            raise CorpusError(
                f"{row.place} gives {document!r} the grade {int(grade)} for the query {query!r}, an earlier row "
                f"{own[document]}. Keep one of them."
            )
        self.places.setdefault(query, row.place)

    def check(self, source: str) -> None:
        """Raises CorpusError if no document is relevant to any query. source: where the judgements come from."""
        if not any(grade > 0 for own in self.qrels.values() for grade in own.values()):
            raise CorpusError(f"{source}: no document is relevant to any query (all grades are 0 or less).")


def _need_header(row: Row, fields: Fields) -> None:
    """Raises CorpusError where a judgement has been taken for the names of columns."""
    if not fields.has(row, "query_id") and any(part.isdecimal() for name in row.values for part in name.split()):
        raise CorpusError(
            f"{row.uri} begins with {' '.join(row.values)!r}, which names no columns. The first line of judgements is "
            "query-id, corpus-id and score with tabs between them, and each line below has these three."
        )


def read_qrels(
    files: Sequence[str], fields: Fields, settings: StorageSettings, *, default_grade: float | None = None
) -> tuple[dict[str, dict[str, int]], dict[str, str]]:
    """The judgements of files, and the first place of each query. default_grade: of rows without that column."""
    found = Judgements()
    for uri in files:
        for row in read_rows(uri, settings):
            _need_header(row, fields)
            query, document = fields.id(row, "query_id"), fields.id(row, "corpus_id")
            if default_grade is not None and not fields.has(row, "score"):
                grade = default_grade
            else:
                (grade,) = fields.numbers(row, "score")
            found.add(row, query, document, grade)
    if not found.qrels:
        raise CorpusError(f"{files[0]} has no judgements: the split is empty. Name another split, or fetch it again.")
    found.check(files[0])
    return found.qrels, found.places
