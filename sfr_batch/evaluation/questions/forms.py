"""Questions of one's own, and which documents answer them, in the forms in which people have them.

Whatever corpus made the table that is asked: judgements name documents by their ids. Knows neither tables nor models.
"""

import itertools
import math
import os
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from sfr_batch.config.settings import StorageSettings
from sfr_batch.corpus.file_formats import TEXT, format_of
from sfr_batch.errors import ConfigError, CorpusError, counted
from sfr_batch.evaluation.data.data_folder import DataFolder
from sfr_batch.evaluation.data.fields import COLUMNS, Digest, Fields
from sfr_batch.evaluation.data.given_texts import GivenTexts, of_file, of_rows
from sfr_batch.evaluation.data.judgements import Judgements, read_qrels
from sfr_batch.evaluation.data.rows import Row, read_rows
from sfr_batch.evaluation.ranking import Qrels
from sfr_batch.storage.input_listing import list_inputs
from sfr_batch.storage.locations import absolute_uri

QUERY, DOCUMENT, GRADE = "query", "document", "grade"
_ROLES: Mapping[str, tuple[str, tuple[str, ...]]] = {
    QUERY: ("query", ("query", "question", "query_text", "text")),
    DOCUMENT: ("corpus_id", (*COLUMNS["corpus_id"], "document_id", "document", "docid")),
    GRADE: ("score", ("grade", "score", "relevance", "label", "rating", "rel")),
}
"""The columns of judgements: what `Fields` calls them, and the names that are known, of which the first one counts."""
_SEMICOLON = ";"
"""What spreadsheets of some languages write between columns."""
_TEXTS = f"--column {QUERY}=NAME"
"""How a person names the column of the questions."""
_HERE = "questions"
"""The place of questions that are values of Python, in errors."""

Given = str | os.PathLike[str] | Mapping[str, Any] | Iterable[Any]
"""A path; questions with the ids of their documents, {question: [id, …]} or {question: {id: grade}}; a list of
questions; rows, as a DataFrame or dictionaries, with the columns of a file."""


@dataclass(frozen=True, slots=True)
class Questions:
    """[q] questions, and their judgements if there are any."""

    texts: Mapping[str, str]
    """By id, in their order. With judgements only those that have one."""
    qrels: Qrels
    """In the order of the texts. Empty: nobody has judged."""
    source: str
    """Where they came from."""
    version: str
    """A hash of ids, texts and judgements, whatever the format of the files."""
    remarks: tuple[str, ...] = ()
    """Sentences on what a reader should know."""

    @property
    def judgements(self) -> int:
        """Number of judged pairs of a question and a document."""
        return sum(map(len, self.qrels.values()))

    @property
    def relevant(self) -> list[str]:
        """The documents that are relevant to a question, each once."""
        return list(dict.fromkeys(name for own in self.qrels.values() for name, grade in own.items() if grade > 0))

    def describe(self) -> str:
        """One line."""
        judged = f", {counted(self.judgements, 'judgement')}" if self.qrels else ", not judged"
        return f"{counted(len(self.texts), 'question')}{judged}, version {self.version[:12]}, {self.source}"


def read_questions(
    given: Given,
    qrels: str | os.PathLike[str] | None = None,
    *,
    columns: Mapping[str, str] | None = None,
    storage: StorageSettings | None = None,
) -> Questions:
    """Questions in any of these forms, checked:

    - a folder in BEIR's layout: queries.jsonl, and qrels.tsv or qrels/test.tsv
    - a file of judgements: rows with the text of the query, the id of a document and, if some answer better than
      others, a grade
    - a file of queries: rows with an id and a text, and ``qrels``, the file with their judgements
    - a file of questions without judgements, also a text a line
    - values of Python, see `Given`

    columns: names of the columns query, document and grade that are not among the usual ones. Raises CorpusError, which
    names the row, and ConfigError.
    """
    named, settings = dict(columns or {}), storage or StorageSettings()
    for role in named:
        if role not in _ROLES:
            raise ConfigError(f"columns: {role!r} is no column of questions. Known: {', '.join(_ROLES)}.")
    if not isinstance(given, str | os.PathLike):
        if qrels is not None:
            raise ConfigError("qrels is for questions that are files. Give {question: {document: grade}} instead.")
        return _of_rows(iter(_rows_of(given)), _HERE, named)
    path = os.fspath(given)
    files = tuple(file.uri for file in list_inputs(path, settings))
    uri = absolute_uri(path).rstrip("/")
    if not files:
        raise CorpusError(f"There are no questions at {uri}. Correct the path.")
    if files != (uri,):
        return _of_folder(DataFolder(uri, files), qrels, named, settings)
    if qrels is not None:
        return _of_queries([uri], _listed(qrels, settings), named, settings)
    if format_of(uri)[0] in (None, TEXT):
        return _without_judgements(of_file(uri, settings), uri)
    return _of_rows(read_rows(uri, settings), uri, named)


def _of_folder(
    folder: DataFolder, qrels: str | os.PathLike[str] | None, named: Mapping[str, str], settings: StorageSettings
) -> Questions:
    queries = folder.find("queries")
    if qrels is not None:
        return _of_queries(queries, _listed(qrels, settings), named, settings)
    if folder.has("qrels/test"):
        return _of_queries(queries, folder.find("qrels/test"), named, settings)
    if not folder.has("qrels"):
        return _of_queries(queries, (), named, settings)
    found = folder.find("qrels")
    if len(found) > 1:
        raise ConfigError(f"{folder.uri} has several files of judgements: {', '.join(found)}. Name one: --qrels FILE.")
    return _of_queries(queries, found, named, settings)


def _of_queries(
    queries: Sequence[str], qrels: Sequence[str], named: Mapping[str, str], settings: StorageSettings
) -> Questions:
    parts = [of_file(uri, settings, named.get(QUERY), option=_TEXTS) for uri in queries]
    source = queries[0]
    if not qrels:
        return _without_judgements(parts[0], source)
    texts: dict[str, str] = {}
    for part in parts:
        if part.ids is None:
            raise CorpusError(f"{source} has no column _id or id, by which judgements name its queries.")
        for name, text, place in zip(part.ids, part.texts, part.places, strict=True):
            if name in texts:
                raise CorpusError(f"{place}: there is another query {name!r}. Give it an id of its own.")
            texts[name] = text
    of_columns = {_ROLES[role][0]: name for role, name in named.items() if role != QUERY}
    fields = Fields(of_columns)
    judged, places = read_qrels(qrels, fields, settings, default_grade=1.0)
    first = next(read_rows(qrels[0], settings))
    ungraded = "" if fields.has(first, "score") else _ungraded(first, fields.named(first, "query_id", "corpus_id"))
    if missing := [query for query in judged if query not in texts]:
        others = f" (and {counted(len(missing) - 1, 'other query', 'other queries')})" if len(missing) > 1 else ""
        raise CorpusError(
            f"{places[missing[0]]} judges the query {missing[0]!r}, which {source} does not have{others}. Add the "
            "query, or remove its judgements."
        )
    return _judged(texts, judged, source, ungraded)


def _of_rows(rows: Iterator[Row], source: str, named: Mapping[str, str]) -> Questions:
    """Rows of judgements, or of questions if they name no documents."""
    first = next(rows, None)
    if first is None:
        raise CorpusError(f"{source} has no rows.")
    there = {role: named.get(role) or _column(first, names) for role, (_, names) in _ROLES.items()}
    rows = itertools.chain([first], rows)
    if not (there[DOCUMENT] or there[QUERY]):
        shown = ", ".join(map(str, first.values)) or "none"
        raise CorpusError(
            f"{first.place} has neither a question nor a document. Columns there: {shown}. "
            + (
                "Save the file with commas between its columns, not semicolons."
                if _SEMICOLON in shown
                else "Name them: --column query=NAME and, if documents are judged, --column document=NAME."
            )
        )
    if not there[DOCUMENT]:
        return _without_judgements(of_rows(rows, source, there[QUERY] or None, option=_TEXTS), source)
    if not there[QUERY]:
        raise CorpusError(
            f"{first.place} has no text of a question. Columns there: {', '.join(map(str, first.values))}. If another "
            "file has the texts by the ids of queries, give that one, and this one as --qrels. Else name the column: "
            "--column query=NAME."
        )
    return _of_judgements(rows, source, there)


def _column(row: Row, known: Sequence[str]) -> str:
    """The column of a row that has the first of these names, in capitals or not; empty if there is none."""
    there = {str(name).strip().casefold(): name for name in reversed(row.values)}
    return next((there[name] for name in known if name in there), "")


def _of_judgements(rows: Iterator[Row], source: str, there: Mapping[str, str]) -> Questions:
    fields = Fields({_ROLES[role][0]: name for role, name in there.items() if name})
    texts: dict[str, str] = {}
    found = Judgements()
    ungraded = None if not there[GRADE] else ""
    for row in rows:
        if ungraded is None:
            known = fields.named(row, "query_id") if fields.has(row, "query_id") else {}
            ungraded = _ungraded(row, {**there, **known})
        for role in (QUERY, DOCUMENT):
            if there[role] not in row.values:
                shown = ", ".join(map(str, row.values))
                raise CorpusError(
                    f"{row.place} has no column {there[role]}. Columns there: {shown}. Name it: --column {role}=NAME."
                )
        text = fields.text(row, "query").strip()
        query = fields.id(row, "query_id") if fields.has(row, "query_id") else text
        if texts.setdefault(query, text) != text:
            raise CorpusError(
                f"{row.place}: an earlier row has another text for the query {query!r}: {texts[query]!r}."
            )
        (grade,) = fields.numbers(row, "score") if there[GRADE] and there[GRADE] in row.values else (1.0,)
        found.add(row, query, fields.id(row, "corpus_id"), grade)
    found.check(source)
    return _judged(texts, found.qrels, source, ungraded or "")


def _ungraded(row: Row, used: Mapping[str, str]) -> str:
    """A sentence where a column that is not used may have the grades; empty if none has numbers. used: names."""
    numbers = [str(name) for name, value in row.values.items() if name not in used.values() and _is_number(value)]
    if not numbers:
        return ""
    return (
        f"No column is known as the grade, so each judged document counts as 1, whatever stands in "
        f"{', '.join(numbers)}. If that is the grade: --column grade={numbers[0]}."
    )


def _is_number(value: object) -> bool:
    try:
        return not isinstance(value, bool) and math.isfinite(float(value))  # type: ignore[arg-type]
    except (TypeError, ValueError):
        return False


def _judged(texts: Mapping[str, str], qrels: Qrels, source: str, ungraded: str) -> Questions:
    """The judged ones of these questions. ungraded: a remark."""
    without = sum(not any(grade > 0 for grade in own.values()) for own in qrels.values())
    remarks = [ungraded] if ungraded else []
    if left_out := len(texts) - len(qrels):
        are = "is" if left_out == 1 else "are"
        remarks.append(f"{left_out:,} of {len(texts):,} questions {are} not judged, and left out.")
    if without:
        remarks.append(f"{counted(without, 'question')} without a relevant document (grade 1 or more): the score is 0.")
    kept = {query: text for query, text in texts.items() if query in qrels}
    digest = Digest()
    for query, text in kept.items():
        digest.add(query, text, *(part for judged in qrels[query].items() for part in judged))
    return Questions(kept, {query: qrels[query] for query in kept}, source, digest.version, tuple(remarks))


def _without_judgements(given: GivenTexts, source: str) -> Questions:
    texts = dict(zip(map(str, given.keys), given.texts, strict=True))
    digest = Digest()
    for query, text in texts.items():
        digest.add(query, text)
    return Questions(texts, {}, source, digest.version)


def _listed(path: str | os.PathLike[str], settings: StorageSettings) -> Sequence[str]:
    files = tuple(file.uri for file in list_inputs(os.fspath(path), settings))
    if not files:
        raise CorpusError(f"There are no judgements at {absolute_uri(path)}. Correct the path.")
    return files


def _rows_of(given: Any) -> Iterator[Row]:
    """Values of Python as rows. Raises ConfigError."""
    if isinstance(given, Mapping):
        number = itertools.count(1)
        for text, documents in given.items():
            grades = documents if isinstance(documents, Mapping) else dict.fromkeys(_ids(documents), 1)
            if not grades:
                raise ConfigError(f"The question {text!r} has no document. Name those that answer it, or remove it.")
            for document, grade in grades.items():
                values = {QUERY: text, DOCUMENT: document, GRADE: grade}
                yield Row(_HERE, next(number), {name: _plain(value) for name, value in values.items()})
        return
    given = _rows_of_frame(given)
    if not isinstance(given, Iterable):
        raise ConfigError(
            f"The questions are of the type {type(given).__name__}. Give the path of a file or folder, a list, a "
            "DataFrame or {question: [id, …]}."
        )
    for place, row in enumerate(given, start=1):
        if not isinstance(row, str | Mapping):
            raise ConfigError(
                f"Question {place} is of the type {type(row).__name__}. Give texts, rows with columns, "
                "{question: [id, …]}, or the path of a file."
            )
        yield Row(_HERE, place, {QUERY: row} if isinstance(row, str) else dict(row))


def _rows_of_frame(given: Any) -> Any:
    """The rows of a table of Arrow, Polars or pandas, the values of a series; anything else as it is."""
    if hasattr(given, "to_pylist"):
        return given.to_pylist()
    if hasattr(given, "to_dicts"):
        return given.to_dicts()
    return given.to_dict("records") if hasattr(given, "columns") and hasattr(given, "to_dict") else given


def _ids(documents: Any) -> list[Any]:
    if isinstance(documents, str) or not isinstance(documents, Iterable):
        return [documents]
    return list(documents)


def _plain(value: Any) -> Any:
    """A number of NumPy as one of Python."""
    return value.item() if isinstance(value, np.generic) else value
