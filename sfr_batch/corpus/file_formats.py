"""Line formats: JSON Lines, CSV and text, plain or compressed; from the bytes of a file to its records.

A record is what one document is written as: a line, or what a CSV quotes over several lines. Knows which files these
are by their endings, how they are decompressed and where their records lie; knows no columns, splits or stores.
"""

import csv
import io
import json
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import IO, Any

import pyarrow as pa

from sfr_batch.errors import CorpusError
from sfr_batch.format import names

PARQUET = "parquet"
JSONL = "jsonl"
CSV = "csv"
TEXT = "text"

ENDINGS = {
    ".parquet": PARQUET,
    ".pq": PARQUET,
    ".jsonl": JSONL,
    ".ndjson": JSONL,
    ".jsonlines": JSONL,
    ".csv": CSV,
    ".tsv": CSV,
    ".tab": CSV,
    ".txt": TEXT,
}
COMPRESSIONS = {".gz": "gzip", ".gzip": "gzip", ".zst": "zstd", ".zstd": "zstd"}
TEXT_COLUMN = "text"
"""What the only column of a text file is called."""

MAX_RECORD = 256 * 2**20
"""Bytes of a line, or characters of a CSV field, at most: more is no such file, or a quote that never closes."""

_BOM = b"\xef\xbb\xbf"
_UTF_16 = (b"\xff\xfe", b"\xfe\xff")
_UTF_16_READ_AS_UTF_8 = tuple(mark.decode("utf-8", "surrogateescape") for mark in _UTF_16)


def format_of(name: str) -> tuple[str | None, str]:
    """Format and compression by a file's ending, such as ``("jsonl", "gzip")``; None for an ending without meaning."""
    bare, ending = bare_name(name)
    kind = next((kind for known, kind in ENDINGS.items() if bare.endswith(known)), None)
    return (None, "") if kind == PARQUET and ending else (kind, COMPRESSIONS.get(ending, ""))


def bare_name(name: str) -> tuple[str, str]:
    """The name in lower case without the ending of a compression, and that ending."""
    name = name.lower()
    ending = next((ending for ending in COMPRESSIONS if name.endswith(ending)), "")
    return name.removesuffix(ending), ending


def supported() -> str:
    """The endings, for a message."""
    return f"{', '.join(ENDINGS)}; all but Parquet also with {', '.join(COMPRESSIONS)}"


def decompressed(file: IO[bytes], compression: str) -> IO[bytes]:
    """The file as its author wrote it; see `decompress`."""
    return decompress(file, compression) if compression else file


def decompress(file: IO[bytes], compression: str) -> io.BufferedReader:
    """What a compressed file holds: several gzip members or zstd frames in a row are one stream.

    Reading raises OSError where the compressed data is damaged or ends early. gzip always carries a checksum, zstd
    only if whoever compressed asked for it, as the zstd command does.
    """
    return io.BufferedReader(pa.CompressedInputStream(pa.PythonFile(file, "r"), compression))


def lines(file: IO[bytes], uri: str, start: int = 0, end: int | None = None) -> Iterator[tuple[int, bytes]]:
    """The lines that begin in [start, end), each with its offset; blank ones are no records.

    A stream will do where ``start`` is 0. Raises CorpusError at a line above MAX_RECORD.
    """
    position = start
    if start:
        file.seek(start - 1)
        position += len(_line(file, uri, start)) - 1  # the line that begins before us is our neighbour's
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
        raise too_long(uri, f"line at byte {position}")
    return line


def _utf_16(uri: str) -> CorpusError:
    return CorpusError(f"{uri} is UTF-16, which is not supported. Convert it to UTF-8: iconv -f UTF-16 -t UTF-8.")


def too_long(uri: str, what: str) -> CorpusError:
    """The error for a record above MAX_RECORD."""
    return CorpusError(f"{uri}: the {what} is longer than {MAX_RECORD >> 20} MiB; is this a file of lines?")


@dataclass(frozen=True, slots=True)
class BadRecord:
    """Why a record is no row."""

    reason: str
    message: str


Row = dict[str, Any] | BadRecord


class CsvReader:
    """The records of a CSV stream, as lists of fields; the first one is the ``header``.

    Quoted fields may hold line breaks, so a CSV can only be read from its beginning. Bytes that are not UTF-8 become
    lone surrogates, which are no valid text either.
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
        """(number, fields) of each record after the header, numbered from 0; blank lines are no records."""
        number = 0
        while (fields := self._next()) is not None:
            yield number, fields
            number += 1

    def _lines(self) -> Iterator[str]:
        while line := self._text.readline(MAX_RECORD):
            if len(line) == MAX_RECORD and not line.endswith(("\n", "\r")):
                raise too_long(self._uri, f"line {self._reader.line_num + 1}")
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
                    f"{self._uri}: the CSV record that begins near line {line} cannot be parsed ({error}); mostly a "
                    "quote is not doubled or not closed. Correct the file; if quotes mean nothing in it, set "
                    "corpus.quote=null, and if something else divides its columns, corpus.delimiter."
                ) from error
            if fields is None or fields:
                return fields


def records(
    file: IO[bytes], uri: str, kind: str, delimiter: str, quote: str | None
) -> tuple[Iterator[tuple[int, int, Any]], Callable[[Any], Row]]:
    """The records of a stream from its beginning, as (position, size, record), and what makes a row of a record.

    position: byte offset of a line, number of a CSV record; size: bytes of a line, characters of a CSV record.
    """
    if kind != CSV:
        return ((position, len(line), line) for position, line in lines(file, uri)), parser(kind)
    reader = CsvReader(file, uri, delimiter, quote)
    found = ((number, sum(map(len, fields)), fields) for number, fields in reader)
    return found, lambda fields: _parse_csv(reader.header, fields)


def parser(kind: str) -> Callable[[bytes], Row]:
    """What makes a row of a line."""
    return {JSONL: _parse_json, TEXT: _parse_text}[kind]


def json_type(value: Any) -> str:
    """What JSON calls a value."""
    if value is None:
        return "null"
    kinds = {bool: "boolean", int: "number", float: "number", str: "string", list: "array", dict: "object"}
    return kinds[type(value)]


def _parse_json(line: bytes) -> Row:
    """The row in a line of JSON Lines."""
    try:
        row = json.loads(line.decode())  # given bytes, it would guess at UTF-16 and UTF-32
    except (ValueError, RecursionError) as error:
        return BadRecord(names.BAD_JSON, f"the line is not JSON: {error}")
    if not isinstance(row, dict):
        return BadRecord(names.BAD_JSON, f"the line is a JSON {json_type(row)}, not an object")
    return row


def _parse_text(line: bytes) -> Row:
    """The row in a line of text, without its line break."""
    try:
        return {TEXT_COLUMN: line.decode().rstrip("\r\n")}
    except UnicodeDecodeError as error:
        return BadRecord(names.BAD_TEXT, f"bytes that are not UTF-8: {error}")


def _parse_csv(header: list[str], fields: list[str]) -> Row:
    """The row of a CSV record."""
    if len(fields) != len(header):
        return BadRecord(names.BAD_CSV, f"the record has {len(fields)} fields, the header {len(header)}")
    return dict(zip(header, fields, strict=True))
