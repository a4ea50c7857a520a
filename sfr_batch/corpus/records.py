"""The records of JSON Lines, CSV and text files, and the columns of a record.

A record is what one document is written as: a line, or what a CSV quotes over several lines. Knows no columns of the
settings, no splits and no stores.
"""

import csv
import io
import json
from collections.abc import Callable, Iterator
from typing import IO, Any

from sfr_batch.corpus.file_formats import CSV, JSONL, TEXT
from sfr_batch.corpus.rejects import Problem, json_type
from sfr_batch.errors import CorpusError
from sfr_batch.format import names

TEXT_COLUMN = "text"
"""Name of the only column of a text file."""

MAX_RECORD = 256 * 2**20
"""Most bytes of a line, or characters of a CSV field. A longer one means another kind of file, or an open quote."""

_BOM = b"\xef\xbb\xbf"
_UTF_16 = (b"\xff\xfe", b"\xfe\xff")
_UTF_16_READ_AS_UTF_8 = tuple(mark.decode("utf-8", "surrogateescape") for mark in _UTF_16)

Parsed = dict[str, Any] | Problem
"""The columns of a record, or why it has none."""


def lines(file: IO[bytes], uri: str, start: int = 0, end: int | None = None) -> Iterator[tuple[int, bytes]]:
    """The lines that begin in [start, end), each with its byte offset; blank lines are skipped.

    ``file`` needs no seek if ``start`` is 0. Raises CorpusError at a line above MAX_RECORD.
    """
    position = start
    if start:
        file.seek(start - 1)
        position += (
            len(_line(file, uri, start)) - 1
        )  # the line that begins before ``start`` belongs to the split before
    while end is None or position < end:
        line = _line(file, uri, position)
        if not line:
            return
        if position == 0 and line.startswith(_UTF_16):
            raise _utf_16(uri)
        text = line.removeprefix(_BOM) if position == 0 else line
        if text.strip():
            yield position, text
        position += len(line)


def _line(file: IO[bytes], uri: str, position: int) -> bytes:
    line = file.readline(MAX_RECORD)
    if len(line) == MAX_RECORD and not line.endswith(b"\n"):
        raise record_too_long(uri, f"line at byte {position}")
    return line


def _utf_16(uri: str) -> CorpusError:
    return CorpusError(f"{uri} is UTF-16, which is not supported. Convert it to UTF-8: iconv -f UTF-16 -t UTF-8.")


def record_too_long(uri: str, what: str) -> CorpusError:
    """The error for a record above MAX_RECORD."""
    return CorpusError(
        f"{uri}: the {what} is longer than {MAX_RECORD >> 20} MiB. Split it, or remove the file from "
        "the corpus if it is not a text file."
    )


class CsvReader:
    """The records of a CSV stream, as lists of fields; the first one is the ``header``.

    Quoted fields may hold line breaks, so a CSV can only be read from its beginning. Bytes that are not UTF-8 become
    lone surrogates, which are rejected later.
    """

    def __init__(self, file: IO[bytes], uri: str, delimiter: str, quote: str | None) -> None:
        csv.field_size_limit(MAX_RECORD)
        self._uri = uri
        # utf-8-sig: a byte order mark before a quoted header would keep csv from seeing the quote.
        self._text = io.TextIOWrapper(file, encoding="utf-8-sig", errors="surrogateescape", newline="")
        quoting: Any = {"quotechar": quote} if quote else {"quoting": csv.QUOTE_NONE}
        self._reader = csv.reader(self._lines(), delimiter=delimiter, strict=True, **quoting)
        self.header = self._next() or []

    def __iter__(self) -> Iterator[tuple[int, list[str]]]:
        """(number, fields) of each record after the header, numbered from 0; blank lines are skipped."""
        number = 0
        while (fields := self._next()) is not None:
            yield number, fields
            number += 1

    def _lines(self) -> Iterator[str]:
        while line := self._text.readline(MAX_RECORD):
            if len(line) == MAX_RECORD and not line.endswith(("\n", "\r")):
                raise record_too_long(self._uri, f"line {self._reader.line_num + 1}")
            if not self._reader.line_num and line.startswith(_UTF_16_READ_AS_UTF_8):
                raise _utf_16(self._uri)
            yield line

    def _next(self) -> list[str] | None:
        line = self._reader.line_num + 1
        while True:
            try:
                fields = next(self._reader, None)
            except csv.Error as error:
                raise CorpusError(
                    f"{self._uri}: the CSV record near line {line} cannot be parsed ({error}); usually a quote is not "
                    "doubled or not closed. Correct the file, or set corpus.quote=null if it does not quote fields, "
                    "or corpus.delimiter if its columns have another separator."
                ) from error
            if fields is None or fields:
                return fields


def records(
    file: IO[bytes], uri: str, kind: str, delimiter: str, quote: str | None
) -> tuple[Iterator[tuple[int, int, Any]], Callable[[Any], Parsed]]:
    """The records of a stream from its beginning, as (position, size, record), and the parser of a record.

    position: byte offset of a line, number of a CSV record; size: bytes of a line, characters of a CSV record.
    """
    if kind != CSV:
        return ((position, len(line), line) for position, line in lines(file, uri)), parser(kind)
    reader = CsvReader(file, uri, delimiter, quote)
    found = ((number, sum(map(len, fields)), fields) for number, fields in reader)
    return found, lambda fields: _parse_csv(reader.header, fields)


def parser(kind: str) -> Callable[[bytes], Parsed]:
    """The function that makes a row of a line of this format."""
    return {JSONL: _parse_json, TEXT: _parse_text}[kind]


def _parse_json(line: bytes) -> Parsed:
    """The row in a line of JSON Lines."""
    try:
        row = json.loads(line.decode())  # given bytes, it would guess at UTF-16 and UTF-32
    except (ValueError, RecursionError) as error:
        return Problem(names.BAD_JSON, f"the line is not JSON: {error}")
    if not isinstance(row, dict):
        return Problem(names.BAD_JSON, f"the line is a JSON {json_type(row)}, not an object")
    return row


def _parse_text(line: bytes) -> Parsed:
    """The row in a line of text, without its line break."""
    try:
        return {TEXT_COLUMN: line.decode().rstrip("\r\n")}
    except UnicodeDecodeError as error:
        return Problem(names.BAD_TEXT, f"bytes that are not UTF-8: {error}")


def _parse_csv(header: list[str], fields: list[str]) -> Parsed:
    """The row of a CSV record."""
    if len(fields) != len(header):
        return Problem(names.BAD_CSV, f"the record has {len(fields)} fields, the header {len(header)}")
    return dict(zip(header, fields, strict=True))
