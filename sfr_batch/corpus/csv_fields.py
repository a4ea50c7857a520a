r"""Takes the lines of a CSV apart where Python's csv module does not know the dialect: escapes, and blanks to trim.

What escapes mean differs between writers, so that the rules here are those of the writers themselves:

    "say \"hi\" \\ C:\temp"     in quotes, as Spark, MySQL and Redshift: before a quote, a delimiter, a line break or
                                itself the escape takes away their meaning; before anything else it is text
    C:\temp\                    without quotes beside quoted fields, as Spark: text
    one\, two\\                 the same with ``escape_unquoted``, as pandas and Arrow, or in a dialect without quotes,
                                as MySQL, PostgreSQL and Hive: the escape takes away the meaning of whatever follows,
                                and \n, \t and the like stand for control characters

Knows lines; knows no header and no rows.
"""

import csv
import re
from collections.abc import Iterator

from sfr_batch.corpus.csv_dialect import Dialect

CONTROL = {"0": "\0", "b": "\b", "f": "\f", "n": "\n", "r": "\r", "t": "\t", "v": "\v", "Z": "\x1a"}
r"""Letters that stand for a control character behind an escape, as MySQL and PostgreSQL read them."""


class FieldReader:
    """The records of lines as lists of fields, as `csv.reader` gives them: [] for a blank line.

    A field that is one of the dialect's nulls, before its escapes are taken out, is None. Raises csv.Error.
    """

    def __init__(self, lines: Iterator[str], dialect: Dialect, longest: int) -> None:
        """longest: most characters of a field."""
        self.line_num = 0
        """Lines that were taken."""
        self._lines, self._longest = lines, longest
        self._delimiter, self._quote, self._escape = dialect.delimiter, dialect.quote, dialect.escape
        self._nulls = frozenset(dialect.nulls or ())
        self._blanks = re.compile("[ \t]*" if dialect.delimiter != "\t" else " *") if dialect.trim else None
        self._escape_unquoted = dialect.escape if dialect.escape_unquoted or dialect.quote is None else None
        self._plain = re.compile(f"[^{re.escape((dialect.quote or '') + (dialect.escape or ''))}]*")
        ends = re.escape(dialect.delimiter + (self._escape_unquoted or ""))
        self._unquoted_text = re.compile(f"[^{ends}\r\n]*")
        self._line, self._at = "", 0

    def __iter__(self) -> Iterator[list[str | None]]:
        return self

    def __next__(self) -> list[str | None]:
        if not self._more():
            raise StopIteration
        fields: list[str | None] = []
        while True:
            self._skip_blanks()
            if not fields and self._ended():
                return []
            if self._quote is not None and self._line.startswith(self._quote, self._at):
                fields.append(self._quoted())
            else:
                fields.append(self._unquoted())
            if self._ended():
                return fields
            self._at += len(self._delimiter)

    def _more(self) -> bool:
        """Whether there is another line, which is then the current one."""
        line = next(self._lines, None)
        if line is None:
            return False
        self.line_num += 1
        self._line, self._at = line, 0
        return True

    def _ended(self) -> bool:
        return self._line[self._at : self._at + 1] in ("", "\n", "\r")

    def _skip_blanks(self) -> None:
        if self._blanks and (found := self._blanks.match(self._line, self._at)):
            self._at = found.end()

    def _quoted(self) -> str | None:
        """The field that begins with the quote at hand; what follows it is a delimiter or the end of the line."""
        quote, escape = self._quote or "", self._escape
        self._at += 1
        parts: list[str] = []
        size = 0
        while True:
            text = self._matched(self._plain)
            parts.append(text)
            size += len(text)
            if size > self._longest:
                raise csv.Error(f"field larger than field limit ({self._longest})")
            if self._at == len(self._line):
                if not self._more():
                    raise csv.Error("unexpected end of data")
                continue
            here, following = self._line[self._at], self._line[self._at + 1 : self._at + 2]
            if here == escape:
                meant = following and following in f"{quote}{escape}{self._delimiter}\r\n"
                parts.append(following if meant else here)
                self._at += 2 if meant else 1
            elif following == quote:
                parts.append(quote)
                self._at += 2
            else:
                self._at += 1
                break
        self._skip_blanks()
        if not self._ended() and not self._line.startswith(self._delimiter, self._at):
            raise csv.Error(f"'{self._delimiter}' expected after '{quote}'")
        value = "".join(parts)
        return None if value in self._nulls else value

    def _unquoted(self) -> str | None:
        escape = self._escape_unquoted
        parts: list[str] = []
        raw = ""
        while True:
            text = self._matched(self._unquoted_text)
            parts.append(text)
            raw += text
            if escape is None or self._line[self._at : self._at + 1] != escape:
                break
            following = self._line[self._at + 1 : self._at + 3]
            following = following if following == "\r\n" else following[:1]
            self._at += 1 + len(following)
            raw += escape + following
            parts.append(CONTROL.get(following, following) if following else escape)
            if "\n" in following or "\r" in following:  # an escaped line break: the field goes on in the next line
                self._more()
            if len(raw) > self._longest:
                raise csv.Error(f"field larger than field limit ({self._longest})")
        value = "".join(parts)
        if self._blanks:
            value, raw = (value.rstrip(" \t"), raw.rstrip(" \t"))
        if raw in self._nulls:
            return None
        return raw if raw == r"\N" else value  # a null that nobody has told of; without the escape it would be an N

    def _matched(self, pattern: re.Pattern[str]) -> str:
        found = pattern.match(self._line, self._at)
        assert found
        self._at = found.end()
        return found[0]
