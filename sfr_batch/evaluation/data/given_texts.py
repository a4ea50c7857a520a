"""Texts that a person gives: arguments, the lines of a stream, or a column of a file. Each has a number or an id.

All of them are checked before a model is loaded. Knows neither commands nor tables.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import IO

from sfr_batch.config.settings import StorageSettings
from sfr_batch.corpus.decompression import decompressed
from sfr_batch.corpus.encodings import BOM, refuse_marked
from sfr_batch.corpus.file_formats import TEXT, format_of
from sfr_batch.errors import CorpusError
from sfr_batch.evaluation.data.fields import COLUMNS, Fields
from sfr_batch.evaluation.data.rows import Row, read_rows
from sfr_batch.storage.inputs import open_input
from sfr_batch.storage.locations import absolute_uri

_COLUMNS = (*COLUMNS["text"], "query", "question")
"""What a column of texts may be called; of several, the first one counts."""
_MARKED = 4
"""Bytes of the longest byte order mark."""


@dataclass(frozen=True, slots=True)
class GivenTexts:
    """[n] texts, none of them blank."""

    texts: Sequence[str]
    places: Sequence[str]
    """Where each of them is, for an error."""
    ids: Sequence[str] | None = None
    """Each with an id of its own; None: they are numbered from 0."""

    @property
    def keys(self) -> Sequence[str | int]:
        """The ids, or the numbers."""
        return range(len(self.texts)) if self.ids is None else self.ids


def of_arguments(texts: Sequence[str]) -> GivenTexts:
    """Texts as arguments of a command. Raises CorpusError if one is blank or not valid Unicode."""
    for number, text in enumerate(texts, start=1):
        if not text.strip():
            raise CorpusError(f"Text {number} of {len(texts)} is empty.")
        try:
            text.encode()
        except UnicodeEncodeError:
            raise CorpusError(f"Text {number} of {len(texts)} is not UTF-8.") from None
    return GivenTexts(texts, [f"text {number}" for number in range(1, len(texts) + 1)])


def of_lines(stream: IO[bytes], name: str) -> GivenTexts:
    """A text a line, in UTF-8. Blank lines at the end are none. Raises CorpusError, which names the line.

    name: of the stream, for errors.
    """
    texts: list[str] = []
    blank = 0
    for number, line in enumerate(stream, start=1):
        if number == 1:
            refuse_marked(line[:_MARKED], name)
            line = line.removeprefix(BOM)
        try:
            text = line.decode().rstrip("\r\n")
        except UnicodeDecodeError as error:
            raise CorpusError(f"{name} line {number} is not UTF-8: {error.reason} at byte {error.start}.") from None
        if not text.strip():
            blank = blank or number
        elif blank:
            raise CorpusError(f"{name} line {blank} is empty. Remove it: each line is a text.")
        else:
            texts.append(text)
    if not texts:
        raise CorpusError(f"{name} has no texts.")
    return GivenTexts(texts, [f"{name} line {number}" for number in range(1, len(texts) + 1)])


def of_file(
    path: str, settings: StorageSettings, column: str | None = None, *, option: str = "--column NAME"
) -> GivenTexts:
    """The texts of a file on disk or S3. A JSON Lines, CSV, TSV or Parquet file has a column ``text``, and may have one
    of ids; any other file is a text a line.

    column: another one with the texts. option: how a person names it, for errors. Raises CorpusError, which names the
    row; StorageError.
    """
    uri = absolute_uri(path)
    kind, compression = format_of(uri)
    if kind in (None, TEXT):
        with open_input(uri, settings) as file:
            return of_lines(decompressed(file, compression, uri), uri)
    return of_rows(read_rows(uri, settings), uri, column, option=option)


def of_rows(
    rows: Iterator[Row], source: str, column: str | None = None, *, option: str = "--column NAME"
) -> GivenTexts:
    """The texts of rows; see `of_file`. source: where they come from, for errors."""
    texts: list[str] = []
    ids: dict[str, str] = {}
    places: list[str] = []
    fields = Fields({})
    for row in rows:
        if not texts:
            fields = Fields({"text": column or next((name for name in _COLUMNS if name in row.values), _COLUMNS[0])})
        has = fields.has(row, "id")
        if texts and has != bool(ids):
            one, other = ("an id", "none") if has else ("no id", "one")
            raise CorpusError(f"{row.place} has {one}, and the rows above have {other}. Give each row one, or none.")
        if has:
            take_id(row, fields, ids)
        if not fields.has(row, "text"):
            there = ", ".join(map(str, row.values)) or "none"
            raise CorpusError(
                f"{row.place} has no column {column or 'text'}. Columns there: {there}. Name the one with the texts: "
                f"{option}."
            )
        texts.append(fields.text(row, "text"))
        places.append(row.place)
    if not texts:
        raise CorpusError(f"{source} has no rows.")
    return GivenTexts(texts, places, [*ids] or None)


def take_id(row: Row, fields: Fields, seen: dict[str, str]) -> str:
    """The id of a row. seen: the place of each id, to which it is added. Raises CorpusError if it comes twice."""
    found = fields.id(row, "id")
    if found in seen:
        raise CorpusError(f"{row.place}: the id {found!r} is also that of {seen[found]}. Give each its own.")
    seen[found] = row.place
    return found
