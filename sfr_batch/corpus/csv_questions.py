"""What is asked about a CSV before it is read: whether its beginning looks as if it were written in another dialect.

A dialect is not guessed: it is named, with the settings for it, and the owner decides. A file that can be read as the
settings say is not asked about, unless its texts would then hold quotes, escapes or null markers that are none of them.
Takes the beginning of a file, which `survey` has read; reads nothing itself.
"""

import dataclasses
import io
import itertools
import json
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from sfr_batch.config.settings import CorpusSettings
from sfr_batch.corpus.csv_dialect import NULL, Dialect, used_columns
from sfr_batch.corpus.csv_records import CsvReader, Fields, is_rule
from sfr_batch.corpus.shards import Shard
from sfr_batch.corpus.text_template import TextTemplate
from sfr_batch.errors import CorpusError, counted

HIVE = "\x01"
"""The delimiter of Hive, which quotes nothing and writes no header."""
_LOOKED_AT = 32 * 1024
"""Bytes of a sample that other dialects are tried on."""
_DELIMITERS = ",;\t|\x01\x1f"
_COMMENTS = ("#", "--", "//", "%")
_DATA = re.compile(r"([-+]?\d[\d.,:eE+-]*|\\N|)", re.ASCII)
"""A field that is hardly the name of a column."""
_SENTENCE = re.compile(r"\S+\s+\S+.*[.!?…]\W*|(\S+\s+){5}.*", re.DOTALL)
_SHOWN_CHARACTERS = 60
_SHOWN = {"\t": r"\t", "\x01": r"\x01", "\x1f": r"\x1f"}


class OtherDialect(CorpusError):
    """A CSV seems to be written in another dialect than the settings say. settings: the fields that would read it."""

    def __init__(self, message: str, settings: Mapping[str, Any]) -> None:
        super().__init__(message)
        self.settings = dict(settings)


@dataclass
class Reading:
    """The beginning of a CSV as one dialect reads it."""

    header: list[str] = field(default_factory=list)
    first: Fields = field(default_factory=list)
    """The first record after the header, if there is one."""
    rows: list[dict[str, Any]] = field(default_factory=list)
    """Records that have as many fields as the header."""
    others: int = 0
    """Records that have not, but for drawn lines."""
    records: int = 0
    """All records."""
    width: int = 0
    """The fields of each of ``others``; -1 if they differ."""
    error: CorpusError | None = None
    """What ended it."""
    ended_inside_quotes: bool = False
    """Whether that is no more than the end of the sample."""

    @property
    def broken(self) -> bool:
        return self.error is not None and not self.ended_inside_quotes

    @property
    def fits(self) -> bool:
        return bool(self.rows) and not self.others and not self.broken

    @property
    def nearly_fits(self) -> bool:
        return len(self.rows) > 20 * (self.others - 1) and bool(self.rows) and not self.broken


def read_beginning(data: bytes, whole: bool, uri: str, dialect: Dialect) -> Reading:
    """Reads the beginning of a file, or all of it if ``whole``; errors are kept."""
    found = Reading()
    try:
        reader = CsvReader(io.BytesIO(data), uri, dialect)
        found.header = reader.header
        for _, fields in reader:
            found.first = found.first or fields
            found.records += 1
            row = reader.parse(fields)
            if isinstance(row, dict):
                found.rows.append(row)
            elif not is_rule(fields) and fields != reader.header:
                found.others += 1
                found.width = len(fields) if found.width in (0, len(fields)) else -1
    except CorpusError as error:
        found.error = error
        found.ended_inside_quotes = bool(found.header) and not whole and "unexpected end" in str(error.__cause__)
    return found


def ask(reading: Reading, data: bytes, shard: Shard, settings: CorpusSettings, dialect: Dialect) -> None:
    """Raises CorpusError with the dialect that the file seems to be written in, and its settings, if it is another one.

    reading: of ``data``, the beginning of the file, in ``dialect``.
    """
    questions = _Questions(data, shard, settings, dialect)
    known = questions.known(reading.header)
    if reading.broken or (reading.others and not reading.rows) or not all(known):
        questions.other_dialect()
    elif reading.others:
        questions.other_dialect(like=reading)
    if reading.error is None and "header" not in settings.model_fields_set and known and not any(known):
        questions.no_header()
    if reading.others and not reading.rows:
        questions.other_width(reading)
    if reading.rows and all(known):
        questions.values(reading)


def is_data(names: Sequence[str]) -> bool:
    """Whether the names of columns look like a row: a file without a header. pandas calls its index by no name."""
    return any(name and (_DATA.fullmatch(name) or _SENTENCE.fullmatch(name)) for name in names)


class _Questions:
    """The questions about one file."""

    def __init__(self, data: bytes, shard: Shard, settings: CorpusSettings, dialect: Dialect) -> None:
        self._uri, self._dialect, self._settings = shard.uri, dialect, settings
        self._data = data if len(data) <= _LOOKED_AT else data[: data.rfind(b"\n", 0, _LOOKED_AT) + 1]
        self._text = self._data.decode(dialect.encoding, "replace")
        self._used = used_columns(shard, settings)
        self._texts = [name for name in TextTemplate(settings.text).columns if name in self._used]
        self._id = [name for name in self._used if name == settings.id]

    def known(self, header: list[str]) -> list[bool]:
        """Whether the header has each of the columns of ids and texts."""
        return [name in header for name in dict.fromkeys([*self._id, *self._texts])]

    def other_dialect(self, like: Reading | None = None) -> None:
        """Raises CorpusError if the file has the columns and its records fit together in another dialect.

        like: what the settings make of it, if they fit most of its records; then it must be all of them, by one change.
        """
        for dialect in self._dialects():
            changes = _changes(self._dialect, dialect)
            if like and len(set(changes) - {"escape_unquoted"}) > 1:
                continue
            found = read_beginning(self._data, True, self._uri, dialect)
            if not all(self.known(found.header)) or not (found.fits if like else found.nearly_fits):
                continue
            if not like or "comment" not in changes or len(found.rows) >= len(like.rows):
                raise self._seems(dialect)

    def _dialects(self) -> Iterator[Dialect]:
        """Those that what stands in the file allows, fewest changes first."""
        now, text = self._dialect, self._text
        lines = text.splitlines()
        options: dict[str, list[Any]] = {
            "delimiter": [char for char in _DELIMITERS if char in text],
            "quote": ["'"] if re.search("['][^']*[']", text) else [],
            "escape": ["\\"] if "\\" in text else [],
            "escape_unquoted": [True] if "\\" in text else [],
            "trim": [True] if re.search(r"[,;|\t\x01] |^ ", text) else [],
            "comment": [mark for mark in _COMMENTS if any(line.startswith(mark) for line in lines)],
        }
        values = [dict.fromkeys([getattr(now, name), *some]) for name, some in options.items()]
        found = [
            dataclasses.replace(now, **dict(zip(options, chosen, strict=True))) for chosen in itertools.product(*values)
        ]
        found = [dialect for dialect in found if dialect != now and (dialect.escape or not dialect.escape_unquoted)]
        yield from sorted(found, key=lambda dialect: len(_changes(now, dialect)))

    def no_header(self) -> None:
        """Raises CorpusError if the first record looks like a row, and all records have as many fields."""
        delimiters = dict.fromkeys([self._dialect.delimiter, *(char for char in "\t\x01|,;" if char in self._text)])
        for delimiter in delimiters:
            dialect = dataclasses.replace(self._dialect, delimiter=delimiter, header=False)
            if delimiter == HIVE:
                nulls = (NULL,) if NULL in self._text else self._dialect.nulls
                dialect = dataclasses.replace(dialect, quote=None, nulls=nulls)
            found = read_beginning(self._data, True, self._uri, dialect)
            columns = found.header
            if found.broken or not found.nearly_fits or len(columns) < max(1, len(self._used)):
                continue
            first = [(value or "")[:_SHOWN_CHARACTERS] for value in found.first]
            if delimiter == HIVE or any(_DATA.fullmatch(value) or _SENTENCE.fullmatch(value) for value in first):
                raise self._seems(
                    dataclasses.replace(dialect, header=_names(self._used, len(columns))), ", ".join(first)
                )

    def other_width(self, reading: Reading) -> None:
        """Raises CorpusError if all records have as many fields as the first, and the header has not."""
        width, columns = reading.width, len(reading.header)
        if width > 0 and isinstance(self._dialect.header, tuple):
            raise CorpusError(
                f"{self._uri}: its records have {counted(width, 'field')}, but corpus.header names "
                f"{counted(columns, 'column')}. Name each column: {_named(reading.header[:width], width)}."
            )
        if reading.others > 1 and width > columns:
            names = [f"c{number}" for number in range(1, width - columns + 1)] + reading.header
            raise CorpusError(
                f"{self._uri}: its records have {counted(width, 'field')}, its header {columns}. Remove what is too "
                f"much, or name each column, in their order, such as {_named(names, width)}."
            )

    def values(self, reading: Reading) -> None:
        """Raises CorpusError if the values of the columns in use are not what they are read as."""
        said = self._settings.model_fields_set
        texts = [value for row in reading.rows for name in self._texts if (value := row.get(name))]
        if self._dialect.nulls is None and any(row.get(name) == NULL for row in reading.rows for name in self._used):
            raise OtherDialect(
                rf"{self._uri} has the value \N, as MySQL, PostgreSQL and Hive write what is missing. Set "
                r"corpus.nulls=['\N']. If a backslash also stands before tabs or line breaks, set "
                r"corpus.quote=null corpus.escape='\' too; if \N is a text, set corpus.nulls=[].",
                {"nulls": [NULL]},
            )
        quoted = [value for value in texts if re.fullmatch(r'[ \t]+"[^"]*"\s*', value)]
        if "trim" not in said and 2 * len(quoted) > len(texts):
            raise self._seems(dataclasses.replace(self._dialect, trim=True), or_else="corpus.trim=false")
        single = self._dialect.quote == '"' and all(re.fullmatch("'.*'", value, re.DOTALL) for value in texts)
        if "quote" not in said and single and len(texts) > 1:
            raise self._seems(dataclasses.replace(self._dialect, quote="'"), or_else="corpus.quote='\"'")
        escaped = [value for value in texts if '"' in value and value in self._text]
        escapes = escaped and all(re.fullmatch(r'([^"\\]|\\.)*', value, re.DOTALL) for value in escaped)
        if "escape" not in said and self._dialect.escape is None and self._dialect.quote == '"' and escapes:
            other = dataclasses.replace(self._dialect, escape="\\", escape_unquoted=True)
            raise self._seems(other, or_else="corpus.escape=null")
        self._names_of_columns(reading)

    def _names_of_columns(self, reading: Reading) -> None:
        """Raises CorpusError if the columns are called as only a row can be."""
        numbered = any(re.fullmatch(r"\d+", name) for name in self._id)
        rows = all(_SENTENCE.fullmatch(name) or (numbered and re.search(r"\S\s+\S", name)) for name in self._texts)
        if "header" in self._settings.model_fields_set or not rows or self._settings.text not in self._texts:
            return
        calls = dict.fromkeys(self._id, "id") | dict.fromkeys(self._texts, "text")
        names = [calls.get(name, f"c{number}") for number, name in enumerate(reading.header, 1)]
        first = ", ".join(name[:_SHOWN_CHARACTERS] for name in reading.header)
        others = "".join(f" corpus.{name}={name}" for name in calls.values())
        raise CorpusError(
            f"{self._uri} seems to have no header: its first record is {first}, which would not be "
            f"embedded. Set corpus.header=[{', '.join(names)}]{others}. If these are names, set corpus.header=true."
        )

    def _seems(self, dialect: Dialect, first: str = "", or_else: str = "") -> CorpusError:
        changes = _changes(self._dialect, dialect)
        what = [_describe(name, value, first) for name, value in changes.items()]
        settings = " ".join(f"corpus.{name}={_spelled(value)}" for name, value in changes.items())
        end = f" If that is meant, set {or_else}." if or_else else ""
        return OtherDialect(
            f"{self._uri} seems to be written in another dialect of CSV: it {', and it '.join(what)}. "
            f"Set {settings}.{end}",
            {name: list(value) if isinstance(value, tuple) else value for name, value in changes.items()},
        )


def _names(some: Sequence[str], width: int) -> tuple[str, ...]:
    """Names for so many columns, beginning with these."""
    return (*some, *(f"c{number}" for number in range(len(some) + 1, width + 1)))


def _named(some: Sequence[str], width: int) -> str:
    return f"corpus.header={_spelled(_names(some, width))}"


def _changes(old: Dialect, new: Dialect) -> dict[str, Any]:
    names = [item.name for item in dataclasses.fields(old)]
    return {name: getattr(new, name) for name in names if getattr(new, name) != getattr(old, name)}


def _describe(name: str, value: Any, first: str) -> str:
    if name == "quote" and value is None:
        return "does not quote its fields"
    return {
        "delimiter": f"divides its fields by '{_SHOWN.get(value, value)}'",
        "quote": f"quotes its fields by {value}",
        "escape": "escapes quotes by a backslash, as Spark does",
        "escape_unquoted": "escapes outside of quotes, too, as pandas does",
        "trim": "has blanks beside its delimiters",
        "comment": f"has comments that begin with {value}",
        "nulls": rf"has {NULL} where a value is missing",
        "header": f"has no header (its first record is {first})",
    }[name]


def _spelled(value: Any) -> str:
    """As a value of an override."""
    if value == (NULL,):
        return rf"['{NULL}']"
    if isinstance(value, tuple):
        names = [name if re.fullmatch(r"[A-Za-z_]\w*", name) else json.dumps(name) for name in value]
        return f"[{', '.join(names)}]"
    if isinstance(value, bool) or value is None:
        return "null" if value is None else str(value).lower()
    return '"\'"' if value == "'" else f"'{_SHOWN.get(value, value)}'"
