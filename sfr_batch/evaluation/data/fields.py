"""The columns of a row, by what they are, whatever the data set calls them; and the version of data.

Knows names of columns and single values. Every error is a CorpusError that names the row.
"""

import hashlib
import math
import re
from collections.abc import Mapping, Sequence
from typing import Any

from sfr_batch.errors import CorpusError
from sfr_batch.evaluation.data.rows import Row

COLUMNS: Mapping[str, tuple[str, ...]] = {
    "id": ("_id", "id"),
    "title": ("title",),
    "text": ("text", "sentence", "sentences", "texts"),
    "query_id": ("query-id", "query_id", "qid"),
    "corpus_id": ("corpus-id", "corpus_id", "doc_id", "did"),
    "score": ("score", "label", "labels", "grade", "relevance", "rating", "rel"),
    "sentence1": ("sentence1", "sent1", "text1"),
    "sentence2": ("sentence2", "sent2", "text2"),
    "label": ("label", "labels", "category"),
    "query": ("query",),
    "positive": ("positive",),
    "negative": ("negative",),
    "human_summaries": ("human_summaries",),
    "machine_summaries": ("machine_summaries",),
    "relevance": ("relevance",),
}
"""The names under which columns are known, by what they are. Of several that a row has, the first one counts."""

_WRITTEN_LIST = re.compile(r"""\s*\[\s*(["']).*\1\s*\]\s*""", re.DOTALL)
"""A list of texts as pandas and others write it into one field of a CSV."""
_UNDECODED = frozenset(map(chr, range(0xDC80, 0xDD00)))
"""What stands in a text for the bytes of a CSV that are not UTF-8."""


class Fields:
    """Reads the columns of rows."""

    def __init__(self, named: Mapping[str, str]) -> None:
        """named: `Task.columns`. Raises CorpusError if a key is not in COLUMNS."""
        for role in named:
            if role not in COLUMNS:
                raise CorpusError(f"columns: {role!r} is no column of a data set. Known: {', '.join(COLUMNS)}.")
        self._named = named

    def has(self, row: Row, role: str) -> bool:
        """Whether the row has the column at all."""
        return any(name in row.values for name in self._names(role))

    def named(self, row: Row, *roles: str) -> dict[str, str]:
        """The names of the row's columns, by what they are."""
        return {role: self._name(row, role) for role in roles}

    def is_list(self, row: Row, role: str) -> bool:
        """Whether the row has several values in one column."""
        return isinstance(self._value(row, role), list)

    def text(self, row: Row, role: str) -> str:
        """A text that is not blank."""
        (text,) = self._all(row, role, 1)
        if not isinstance(text, str) or not text.strip():
            raise self._no_text(row, role, text)
        return self._valid(row, role, text)

    def texts(self, row: Row, role: str) -> list[str]:
        """The texts of a column as they are: one, or all of a list. A blank one is a text, as it is for mteb."""
        found = self._all(row, role)
        for text in found:
            if not isinstance(text, str):
                raise self._no_text(row, role, text)
            self._valid(row, role, text)
        return found

    def members(self, row: Row, role: str) -> list[str]:
        """The texts of a column that has lists. Raises CorpusError, too, where a list was written as one text."""
        if self.is_written_list(row, role):
            raise CorpusError(
                f"{row.place}: {self._name(row, role)} is a list that was written as one text, "
                f"{_what(self._value(row, role))}. A CSV or TSV has no lists: save the data as .jsonl or .parquet."
            )
        return self.texts(row, role)

    def is_written_list(self, row: Row, role: str) -> bool:
        """Whether the row has one text in a column that looks like a list of texts, as CSV writers write it."""
        value = self._value(row, role)
        return isinstance(value, str) and _WRITTEN_LIST.fullmatch(value) is not None

    def part(self, row: Row, role: str) -> str:
        """A part of a document's text, empty where it is null: another part may say enough."""
        (text,) = self._all(row, role, 1)
        if not isinstance(text, str | None):
            raise self._no_text(row, role, text)
        return text or ""

    def labels(self, row: Row, role: str) -> list[str]:
        """Labels as texts; numbers are whole ones, of whatever type: 1 and 1.0 are one label."""
        found = self._all(row, role)
        for label in found:
            wrong = isinstance(label, list | dict) or (isinstance(label, float) and not label.is_integer())
            if label is None or label == "" or wrong:
                raise CorpusError(
                    f"{row.place}: {self._name(row, role)} is {_what(label)}, not a label. Remove the row, or name the "
                    f"right column in the task's columns: {{{role}: NAME}}."
                )
        return [str(int(label) if isinstance(label, float) else label) for label in found]

    def id(self, row: Row, role: str) -> str:
        """An id: a text or a whole number, as a text."""
        value = self._value(row, role)
        if isinstance(value, bool) or not isinstance(value, str | int) or value == "":
            raise CorpusError(f"{row.place}: {self._name(row, role)} is {_what(value)}, not an id.")
        return self._valid(row, role, str(value))

    def numbers(self, row: Row, role: str) -> list[float]:
        """Finite numbers: one, or all of a list."""
        found = []
        for value in self._all(row, role):
            try:
                number = float(value) if not isinstance(value, bool) else float(int(value))
            except (TypeError, ValueError):
                number = math.nan
            if not math.isfinite(number):
                raise CorpusError(f"{row.place}: {self._name(row, role)} is {_what(value)}, not a number.")
            found.append(number)
        return found

    def equally_many(self, row: Row, **found: Sequence[object]) -> None:
        """Raises CorpusError if columns of lists have different lengths."""
        if len({len(values) for values in found.values()}) > 1:
            lengths = ", ".join(f"{len(values)} of {self._name(row, role)}" for role, values in found.items())
            raise CorpusError(f"{row.place}: its lists have different lengths: {lengths}. Fetch the file again.")

    def _no_text(self, row: Row, role: str, value: object) -> CorpusError:
        return CorpusError(f"{row.place}: {self._name(row, role)} is {_what(value)}, not a text. Remove the row.")

    def _valid(self, row: Row, role: str, text: str) -> str:
        try:
            text.encode()
        except UnicodeEncodeError as error:
            if text[error.start] in _UNDECODED:
                raise CorpusError(
                    f"{row.place}: {self._name(row, role)} is not UTF-8 at character {error.start}. Save the file as "
                    "UTF-8, or remove the row."
                ) from None
            raise CorpusError(
                f"{row.place}: {self._name(row, role)} is not valid Unicode at character {error.start}: half of a "
                "surrogate pair. Remove the row, or fetch the file again."
            ) from None
        return text

    def _all(self, row: Row, role: str, at_most: int | None = None) -> list[Any]:
        value = self._value(row, role)
        values = value if isinstance(value, list) else [value]
        if at_most is not None and len(values) > at_most:
            raise CorpusError(f"{row.place}: {self._name(row, role)} is a list, but one value is meant.")
        return values

    def _value(self, row: Row, role: str) -> Any:
        return row.values[self._name(row, role)]

    def _name(self, row: Row, role: str) -> str:
        for name in self._names(role):
            if name in row.values:
                return name
        known = ", ".join(self._names(role))
        there = ", ".join(map(str, row.values)) or "none"
        raise CorpusError(
            f"{row.place} has no column {known}. Columns there: {there}. Say which one it is in the task's columns: "
            f"{{{role}: NAME}}."
        )

    def _names(self, role: str) -> tuple[str, ...]:
        return (self._named[role],) if role in self._named else COLUMNS[role]


class Digest:
    """Makes the version of data: BLAKE2b, 128 bits, of all values, each with its length."""

    def __init__(self) -> None:
        self._hash = hashlib.blake2b(digest_size=16)

    def add(self, *values: str | float) -> None:
        """Take in values; in another order they give another version."""
        for value in values:
            data = str(value).encode(errors="surrogatepass")
            self._hash.update(len(data).to_bytes(8, "little") + data)

    @property
    def version(self) -> str:
        """32 hexadecimal digits."""
        return self._hash.hexdigest()


def _what(value: object) -> str:
    """A value as an error shows it."""
    if value is None:
        return "missing"
    if value == "":
        return "empty"
    shown = repr(value)
    return shown if len(shown) <= 60 else f"{shown[:60]}…"
