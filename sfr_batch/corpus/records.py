"""The records of JSON Lines and text files, which are lines, and the columns of a record.

Those of a CSV are in `csv_records`. Knows no columns of the settings, no splits and no stores.
"""

import json
import math
from collections.abc import Callable, Iterator
from decimal import Decimal
from functools import partial
from typing import IO, Any

from sfr_batch.corpus.encodings import BOM, UTF_8, as_utf_8, refuse_marked
from sfr_batch.corpus.file_formats import TEXT
from sfr_batch.corpus.rejects import Problem, json_type
from sfr_batch.errors import CorpusError
from sfr_batch.format import names

TEXT_COLUMN = "text"
"""Name of the only column of a text file."""

MAX_RECORD = 256 * 2**20
"""Most bytes of a line, or characters of a CSV field. A longer one means another kind of file, or an open quote."""

Parsed = dict[str, Any] | Problem
"""The columns of a record, or why it has none."""


def lines(
    file: IO[bytes], uri: str, start: int = 0, end: int | None = None, encoding: str = UTF_8
) -> Iterator[tuple[int, bytes]]:
    """The lines that begin in [start, end), each with its byte offset; blank lines are skipped, byte order marks at the
    beginning of a line are dropped.

    They are UTF-8, whatever the ``encoding`` of the file is. ``file`` needs no seek if ``start`` is 0. Raises
    CorpusError at a line above MAX_RECORD.
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
        if position == 0:
            refuse_marked(line, uri)
        text = line.removeprefix(BOM)
        if text.strip():
            yield position, text if encoding == UTF_8 else as_utf_8(text, encoding)
        position += len(line)


def _line(file: IO[bytes], uri: str, position: int) -> bytes:
    line = file.readline(MAX_RECORD)
    if len(line) == MAX_RECORD and not line.endswith(b"\n"):
        raise record_too_long(uri, f"line at byte {position}")
    return line


def record_too_long(uri: str, what: str) -> CorpusError:
    """The error for a record above MAX_RECORD."""
    return CorpusError(
        f"{uri}: the {what} is longer than {MAX_RECORD >> 20} MiB. Split it, or remove the file from "
        "the corpus if it is not a text file."
    )


def parser(kind: str, *, exact_numbers: bool = False) -> Callable[[bytes], Parsed]:
    """The function that makes a row of a line of this format.

    exact_numbers: whether fractions become decimals with all of their digits rather than doubles.
    """
    if kind == TEXT:
        return _parse_text
    decoder = json.JSONDecoder(parse_float=Decimal if exact_numbers else None, parse_constant=_CONSTANTS.__getitem__)
    return partial(_parse_json, decode=decoder.decode)


_CONSTANTS = {"NaN": math.nan, "Infinity": Decimal("Infinity"), "-Infinity": Decimal("-Infinity")}
"""What Python and pandas write beyond JSON. As decimals, infinities are not what a double makes of 1e400."""


def _parse_json(line: bytes, decode: Callable[[str], Any]) -> Parsed:
    """The row in a line of JSON Lines."""
    try:
        row = decode(line.decode())
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
