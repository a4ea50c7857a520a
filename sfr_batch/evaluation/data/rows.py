"""The rows of a data set's file: TSV, CSV, JSON Lines or Parquet, each but Parquet also compressed.

Knows formats; knows no tasks and no columns. What a row has to have is up to `sets`.
"""

import re
from collections.abc import Iterator
from dataclasses import dataclass
from typing import IO, Any

import pyarrow as pa

from sfr_batch.config.settings import StorageSettings
from sfr_batch.corpus.csv_dialect import Dialect
from sfr_batch.corpus.csv_records import CsvReader
from sfr_batch.corpus.decompression import decompressed
from sfr_batch.corpus.file_formats import CSV, JSONL, PARQUET, delimiter_by_name, format_of
from sfr_batch.corpus.records import Parsed, lines, parser
from sfr_batch.corpus.rejects import Problem
from sfr_batch.errors import CorpusError
from sfr_batch.format.parquet import open_parquet
from sfr_batch.storage.inputs import open_input

FORMATS = ".tsv, .csv, .jsonl and .parquet; all but Parquet also with .gz and .zst"
_TAB = "\t"
_ROWS_PER_READ = 4096
_QUOTED = re.compile(r'"(?:[^"]|"")*"')


@dataclass(frozen=True, slots=True)
class Row:
    """One row. ``values`` by column: strings of TSV and CSV, typed ones of JSON and Parquet."""

    uri: str
    number: int
    """From 1; the header of a TSV or CSV and blank lines do not count."""
    values: dict[str, Any]

    @property
    def place(self) -> str:
        """Where the row is, for an error."""
        return f"{self.uri} row {self.number}"


def read_rows(uri: str, settings: StorageSettings) -> Iterator[Row]:
    """The rows of a file, in order, in bounded memory, except that a TSV is held as a whole.

    A TSV is divided at line feeds and tabs alone, as MTEB's sets are written. Its quotes belong to the texts, unless
    all of them are as a CSV writer puts them (pandas' `to_csv(sep="\\t")`), see `_is_quoted`.
    Raises CorpusError, which names the file and the row, and ObjectNotFound.
    """
    kind, compression = format_of(uri)
    if kind not in (CSV, JSONL, PARQUET):
        raise CorpusError(f"{uri} is not a data set's file by its name. Supported: {FORMATS}.")
    try:
        with open_input(uri, settings) as file:
            if kind == PARQUET:
                yield from _numbered(uri, _of_parquet(file))
                return
            stream = decompressed(file, compression, uri)
            if kind == JSONL:
                parse = parser(JSONL)
                yield from _numbered(uri, (parse(line) for _, line in lines(stream, uri)))
            elif delimiter_by_name(uri) == _TAB:
                yield from _numbered(uri, _of_tsv(stream, uri))
            else:
                yield from _numbered(uri, _of_csv(stream, uri, Dialect(delimiter=delimiter_by_name(uri), nulls=())))
    except (pa.ArrowException, OSError) as error:
        why = " ".join(str(error).split()).rstrip(" .")
        raise CorpusError(f"{uri} cannot be read: {why}. If it is damaged, fetch it again.") from error


def _numbered(uri: str, parsed: Iterator[Parsed]) -> Iterator[Row]:
    for number, row in enumerate(parsed, start=1):
        if isinstance(row, Problem):
            raise CorpusError(f"{uri} row {number}: {row.message}. Correct it, or fetch the file again.")
        yield Row(uri, number, row)


def _of_parquet(file: IO[bytes]) -> Iterator[Parsed]:
    for batch in open_parquet(file).iter_batches(_ROWS_PER_READ, use_threads=False):
        yield from batch.to_pylist()


def _of_csv(stream: IO[bytes], uri: str, dialect: Dialect) -> Iterator[Parsed]:
    reader = CsvReader(stream, uri, dialect)
    for _, fields in reader:
        yield reader.parse(fields)


def _of_tsv(stream: IO[bytes], uri: str) -> Iterator[Parsed]:
    rows = [_fields(line, uri) for _, line in lines(stream, uri)]
    header, *body = rows or [[]]
    quoted = _is_quoted(body)
    if all(_QUOTED.fullmatch(name) for name in header):
        header = [_unquoted(name) for name in header]
    for fields in body:
        if len(fields) != len(header):
            yield Problem(
                "bad_tsv",
                f"the row has {len(fields)} fields, the header {len(header)}: a text that contains tabs or line breaks "
                "needs another format, such as .csv or .jsonl",
            )
            continue
        values = [_unquoted(field) for field in fields] if quoted else fields
        yield dict(zip(header, values, strict=True))


def _fields(line: bytes, uri: str) -> list[str]:
    try:
        return line.decode().removesuffix("\n").removesuffix("\r").split(_TAB)
    except UnicodeDecodeError as error:
        raise CorpusError(f"{uri} is not UTF-8: {error.reason} in the line {line[:60]!r}. Save it as UTF-8.") from None


def _is_quoted(rows: list[list[str]]) -> bool:
    """Whether a CSV writer has quoted fields of these rows.

    It writes a quote only at both ends of a field, doubles those inside, and quotes a field that has quotes inside, or
    all fields of a column. One field with any other quote tells that nobody has quoted: STSBenchmark has sentences
    such as ``"This is good," he said.``
    """
    with_quotes = [(column, field) for fields in rows for column, field in enumerate(fields) if '"' in field]
    if not with_quotes or not all(_QUOTED.fullmatch(field) for _, field in with_quotes):
        return False
    whole = {
        column
        for column in {column for column, _ in with_quotes}
        if all(len(fields) <= column or _QUOTED.fullmatch(fields[column]) for fields in rows)
    }
    return all('""' in field[1:-1] or column in whole for column, field in with_quotes)


def _unquoted(field: str) -> str:
    return field[1:-1].replace('""', '"') if _QUOTED.fullmatch(field) else field
