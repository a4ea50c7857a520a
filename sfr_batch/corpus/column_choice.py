"""Chooses the columns of a corpus that nobody has described: which one is the id, which the text, which to carry.

By names and by the values of a few rows; says how sure it is. Pure functions; reads nothing.
"""

import math
import re
from collections.abc import Mapping, Sequence
from typing import NamedTuple

from sfr_batch.corpus.samples import INTEGER, NUMBER, OTHER, STRING, SampledColumn
from sfr_batch.errors import ConfigError, CorpusError, counted
from sfr_batch.format import names

SURE, LIKELY, GUESS = "sure", "likely", "a guess"

_IDS = (
    *("id", "_id", "doc_id", "docid", "document_id", "documentid", "uid", "uuid", "guid", "pk", "key", "identifier"),
    *("passage_id", "chunk_id", "article_id", "page_id", "paper_id", "corpus_id", "pid", "pmid", "arxiv_id", "doi"),
    *("isbn", "asin", "sku", "url", "uri", "link", "permalink", "path", "slug"),
)
_TEXTS = (
    *("text", "body", "content", "contents", "document", "passage", "chunk", "abstract", "article", "paragraph"),
    *("full_text", "fulltext", "plain_text", "description", "summary", "docstring", "comment", "review"),
    *("page_content", "raw_content", "markdown", "answer", "question", "transcript", "code", "title"),
)
_VOLATILE = re.compile(
    r"(?is)(.*_)?(updated|modified|crawled|fetched|indexed|scraped|accessed|synced|last)(_.*)?"
    r"|.*(views|likes|votes|clicks|downloads|score|rank|count|stars)s?"
)
"""Columns that change although the document does not."""
_LINK = re.compile(r"(?i)[a-z][a-z0-9+.-]*://\S+")
_KEY = re.compile(r"(?i)[0-9a-f]{8}-[0-9a-f-]{27}|[0-9a-f]{16,}|[a-z][a-z0-9+.-]*://\S+|\S*\d\S*")
_BRACE = re.compile(r"[{}]")
"""What no name in a template may have."""
_SHOWN = 20
_MOST_CARRIED = 8
_LONGEST_CARRIED = 100
"""Characters of a carried text, on average."""
_ENOUGH, _CLOSE = 2.5, 0.7
"""Score from which a column may be the text, and by how much a rival may have less; see `_text_score`."""
_ROW_NUMBER = re.compile(r"(?i)(unnamed: ?0(\.\d+)?|index|level_0|__index_level_\d+__|row_?(number|num|id)?|)")
"""Positions of rows, as pandas writes them: the same numbers in each file."""


class Choice(NamedTuple):
    """A column, and how sure that is and why."""

    path: str
    """"" for numbered rows, which have no column."""
    why: str


def _mean(texts: Sequence[str]) -> float:
    return sum(map(len, texts)) / len(texts) if texts else 0.0


def _share(texts: Sequence[str], pattern: re.Pattern[str]) -> float:
    return sum(bool(pattern.fullmatch(text.strip())) for text in texts) / max(1, len(texts))


def _prose(texts: Sequence[str]) -> float:
    """Share of the texts that have at least three words."""
    return sum(len(text.split(None, 3)) > 2 for text in texts) / max(1, len(texts))


def _last(path: str) -> str:
    return path.rsplit(".", 1)[-1].casefold()


def _text_score(column: SampledColumn) -> float:
    """How much a column of texts looks like the one to embed."""
    texts = column.values
    score = _name_score(_last(column.path))
    score += min(4.0, math.log10(_mean(texts) + 1)) + 2 * _prose(texts)
    score -= 3 * _share(texts, _LINK) + 2 * (len(set(texts)) < 0.2 * len(texts) and len(texts) > 20)
    return score - 2 * column.nulls / max(1, column.nulls + column.filled)


def _name_score(name: str) -> float:
    if name in _TEXTS:
        return 2.0 - _TEXTS.index(name) / len(_TEXTS)
    return 0.5 if re.search("text|body|content", name) else 0.0


def choose_text(columns: Mapping[str, SampledColumn], corpus: str, given: str | None = None) -> Choice:
    """The column to embed. corpus: its name for messages. given: the column, if somebody has named it.

    Raises ConfigError if there is no such column, CorpusError if none looks like a text.
    """
    seen = ", ".join(f"{path} ({column.kind})" for path, column in list(columns.items())[:_SHOWN])
    if given is not None:
        if given not in columns:
            raise ConfigError(f"--text {given}: {corpus} has no such column. It has: {seen}.")
        return Choice(given, "named by --text")
    texts = [
        column
        for column in columns.values()
        if column.kind == STRING and column.values and not _BRACE.search(column.path)
    ]
    ranked = sorted(((_text_score(column), column) for column in texts), key=lambda item: -item[0])
    if not ranked or ranked[0][0] < _ENOUGH:
        raise CorpusError(
            f"No column of {corpus} looks like a text to embed. It has: {seen}. Name the column, --text COLUMN, "
            "or other files."
        )
    score, best = ranked[0]
    rivals = [column.path for its, column in ranked[1:] if its > score - _CLOSE and its >= _ENOUGH]
    named = _last(best.path) in _TEXTS
    level = GUESS if rivals else SURE if named and _prose(best.values) > 0.5 else LIKELY
    why = f"{_mean(best.values):,.0f} characters on average, the longest {max(map(len, best.values)):,}"
    why = f"a usual name; {why}" if named else why
    as_well = f"; it could be {', '.join(rivals[:3])} as well" if rivals else ""
    return Choice(best.path, f"{level}: {why}{as_well}")


def choose_id(columns: Mapping[str, SampledColumn], rows: int, text: str) -> Choice:
    """The column of the id. rows: of the sample; text: the column to embed."""
    unique: list[tuple[int, SampledColumn]] = []
    repeated: list[tuple[int, SampledColumn]] = []
    for column in columns.values():
        if (
            column.kind not in (STRING, INTEGER)
            or column.nulls
            or column.path == text
            or _ROW_NUMBER.fullmatch(column.path)
        ):
            continue
        name = _last(column.path)
        rank = _IDS.index(name) if name in _IDS else len(_IDS) if re.search(r"(^|_|[a-z])(id|key)$", name) else None
        distinct = len(set(column.values))
        if distinct == rows and (rank is not None or _looks_like_key(column)):
            unique.append((len(_IDS) + 1 if rank is None else rank, column))
        elif rank is not None and distinct >= 0.9 * rows:
            repeated.append((rank, column))
    if unique:
        rank, best = min(unique, key=lambda item: item[0])
        level = SURE if rank < 10 and rows > 20 else LIKELY
        why = "a usual name; " if rank < len(_IDS) else ""
        return Choice(best.path, f"{level}: {why}no value twice in {counted(rows, 'row')}")
    if repeated:
        rank, best = min(repeated, key=lambda item: item[0])
        again = rows - len(set(best.values))
        return Choice(
            best.path,
            f"{GUESS}: a usual name, but {again:,} of {counted(rows, 'row')} repeat a value; table.duplicate_ids "
            "decides which of them count",
        )
    return Choice(
        "",
        f"{LIKELY}: no column of {counted(rows, 'row')} has a value of its own in each; rows are numbered by file and "
        "position, so a row that moves counts as another document",
    )


def _looks_like_key(column: SampledColumn) -> bool:
    return column.kind == STRING and _share(column.values, _KEY) > 0.95 and _mean(column.values) < 200


def choose_carried(columns: Mapping[str, SampledColumn], id_: str, text: str) -> tuple[dict[str, str], list[str]]:
    """The columns to carry, by name in the table, and the paths of those that are left out."""
    carried: dict[str, str] = {}
    taken = {name.casefold() for name in names.RESERVED_COLUMNS}
    left_out = []
    lasts = [path.rsplit(".", 1)[-1] for path in columns]
    for path, column in columns.items():
        if path in (id_, text):
            continue
        last = path.rsplit(".", 1)[-1]
        name = last if lasts.count(last) == 1 else path.replace(".", "_")
        short = column.kind != STRING or _mean(column.values) <= _LONGEST_CARRIED
        fits = column.kind in (STRING, INTEGER, NUMBER, OTHER) and short and not _ROW_NUMBER.fullmatch(path)
        if (
            fits
            and not _VOLATILE.fullmatch(_last(path))
            and name.casefold() not in taken
            and len(carried) < _MOST_CARRIED
        ):
            carried[name] = path
            taken.add(name.casefold())
        else:
            left_out.append(path)
    return carried, left_out
