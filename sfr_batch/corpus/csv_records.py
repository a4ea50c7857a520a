"""The records of a CSV: which of its lines are rows, what names its columns, and the columns of a record.

Knows no columns of the settings, no splits and no stores.
"""

import csv
import dataclasses
import io
import re
from collections.abc import Iterator, Sequence
from typing import IO, Any

from sfr_batch.corpus import records
from sfr_batch.corpus.csv_dialect import NULL, Dialect
from sfr_batch.corpus.csv_fields import FieldReader
from sfr_batch.corpus.encodings import refuse_marked
from sfr_batch.corpus.rejects import Problem
from sfr_batch.errors import CorpusError
from sfr_batch.format import names

_BOM = "\ufeff"
_SEPARATOR_IS = re.compile(r'"?sep=(.)"?[\r\n]*', re.IGNORECASE)
"""Excel's own first line of a CSV."""
_RULE = re.compile(r"\s*:?[-=+]{2,}:?\s*")
"""A field of a line such as |---|---| or ----+----."""
_LOOK_AHEAD = 20
"""Records that must all end in a delimiter for this to be how the file is written."""
_OF_RULES = "-=+: \t"
Fields = list[str | None]


class CsvReader:
    """The records of a CSV stream, as lists of fields, and the names of their columns, the ``header``.

    Quoted fields may hold line breaks, so a CSV can only be read from its beginning. Bytes that are not UTF-8 become
    lone surrogates, which are rejected later. Blank lines, byte order marks at the beginning of a record, comments, and
    a first line ``sep=;``, which goes before the setting, are no records.
    """

    def __init__(self, file: IO[bytes], uri: str, dialect: Dialect) -> None:
        # A setting of the whole process, and no reader has its own: raised, and never lowered for others.
        csv.field_size_limit(max(records.MAX_RECORD, csv.field_size_limit()))
        self._uri = uri
        self._text = io.TextIOWrapper(file, encoding=dialect.encoding, errors="surrogateescape", newline="")
        self._taken = 0  # lines
        self._between = True
        self._waiting = [self._line()]
        refuse_marked(self._waiting[0][:4].encode(dialect.encoding, "surrogateescape"), uri)
        if said := _SEPARATOR_IS.fullmatch(self._waiting[0].removeprefix(_BOM)):
            dialect = dataclasses.replace(dialect, delimiter=said[1])
            self._waiting.clear()
            self._taken = 1
        self.dialect = dialect
        self._reader = self._open()
        self._kept: list[Fields] = []
        self.header = self._names()
        self._width = len(self.header)
        self._first_name = self.header[0] if self.header and dialect.header else None

    def __iter__(self) -> Iterator[tuple[int, Fields]]:
        """(number, fields) of each record after the header, numbered from 0."""
        failed = self._look_ahead()
        number = 0
        while (fields := self._kept.pop() if self._kept else None if failed else self._next()) is not None:
            yield number, fields
            number += 1
        if failed:
            raise failed

    def parse(self, fields: Fields, used: Sequence[str] = ()) -> records.Parsed:
        r"""The row of a record. used: columns that may not be \N as long as nobody has said what that means."""
        if fields[0] == self._first_name and fields[: len(self.header)] == self.header:
            return Problem(names.BAD_CSV, "the record is the header once more")
        if (not fields[0] or fields[0][0] in _OF_RULES) and is_rule(fields):
            return Problem(names.BAD_CSV, "the record is a line of dashes")
        if len(fields) != self._width or (self._width > len(self.header) and fields[-1]):
            return Problem(names.BAD_CSV, f"the record has {len(fields)} fields, the header {len(self.header)}")
        row = dict(zip(self.header, fields, strict=False))
        if self.dialect.nulls is None:
            for name in used:
                if row.get(name) == NULL:
                    return Problem(
                        names.BAD_CSV, rf"{name} is \N: set corpus.nulls=['\N'] if it is missing, or [] if not"
                    )
        return row

    def _names(self) -> list[str]:
        """The names of the columns; a record that was read to see how many there are is kept."""
        header = self.dialect.header
        if isinstance(header, tuple):
            return list(header)
        first = self._next()
        while header and first is not None and is_rule(first):  # as databases draw a table
            first = self._next()
        if first is None:
            return []
        if header:
            return [_utf_8(name or "") for name in first]
        self._kept.append(first)
        return [str(number) for number in range(len(first))]

    def _look_ahead(self) -> CorpusError | None:
        """Whether each line, or the header alone, ends in a delimiter, as the first records tell; they are kept.

        Returns the error that ended them, which is to come after them.
        """
        failed = None
        while len(self._kept) < _LOOK_AHEAD and failed is None:
            try:
                following = self._next()
            except CorpusError as error:
                failed = error
            else:
                if following is None:
                    break
                self._kept.append(following)
        rows = [fields for fields in self._kept if not is_rule(fields)]
        columns = len(self.header)
        if rows and all(len(fields) == columns + 1 and not fields[-1] for fields in rows):
            self._width = columns + 1
        elif rows and all(len(fields) == columns - 1 for fields in rows) and not self.header[-1]:
            self.header.pop()
            self._width = columns - 1
        self._kept.reverse()
        return failed

    def _open(self) -> Iterator[Any]:
        if not self.dialect.by_csv_module:
            return FieldReader(self._lines(), self.dialect, records.MAX_RECORD)
        quote: Any = {"quotechar": self.dialect.quote} if self.dialect.quote else {"quoting": csv.QUOTE_NONE}
        return csv.reader(self._lines(), delimiter=self.dialect.delimiter, strict=True, **quote)

    def _lines(self) -> Iterator[str]:
        while line := self._waiting.pop() if self._waiting else self._line():
            self._taken += 1
            if self._between:
                line = line.removeprefix(_BOM)
                if self.dialect.comment and line.startswith(self.dialect.comment):
                    continue
                self._between = False
            yield line

    def _line(self) -> str:
        line = self._text.readline(records.MAX_RECORD)
        if len(line) == records.MAX_RECORD and not line.endswith(("\n", "\r")):
            raise records.record_too_long(self._uri, f"line {self._taken + 1}")
        return line

    def _next(self) -> Fields | None:
        """The next record; None behind the last."""
        while True:
            line = self._taken + 1
            self._between = True
            try:
                fields: Fields | None = next(self._reader, None)
            except csv.Error as error:
                raise CorpusError(
                    f"{self._uri}: the CSV record near line {line} cannot be parsed ({error}); usually a quote is not "
                    "doubled or not closed. Correct the file, or set corpus.quote=null if it does not quote fields, "
                    "or corpus.delimiter if its columns have another separator."
                ) from error
            if fields:
                nulls = self.dialect.nulls
                if nulls and self.dialect.by_csv_module:
                    return [None if field in nulls else field for field in fields]
            if fields is None or fields:
                return fields


def _utf_8(name: str) -> str:
    """A name in which bytes that are not UTF-8 are U+FFFD: a schema holds no others."""
    return name if name.isascii() else name.encode(errors="surrogateescape").decode(errors="replace")


def is_rule(fields: Fields) -> bool:
    """Whether the record is a drawn line rather than a row: some of its fields have dashes, and none has more."""
    return any(fields) and all(not field or _RULE.fullmatch(field) for field in fields)
