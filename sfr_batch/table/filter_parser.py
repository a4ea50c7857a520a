"""Parses the text of a filter into the nodes of `filters`. Its errors show the position."""

import difflib
import re
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import UTC, date, datetime
from decimal import Decimal
from typing import Any, NoReturn

import pyarrow as pa

from sfr_batch.errors import ConfigError
from sfr_batch.table.filters import COMPARE, Column, Combined, Compare, Filter, In, IsNull, Like, Node, Not, is_float

_WORDS = frozenset({"and", "or", "not", "in", "is", "null", "like", "true", "false"})
"""Keywords. A column with such a name needs quotes."""
_DEEPEST = 100
"""Maximum depth of nested parentheses and `not`."""
_MOST = 1000
"""Maximum number of conditions. Arrow recurses into them: about 10,000 overflow its stack and kill the process."""
_SHOWN = 60
"""Number of characters on either side of the position that an error shows."""


def parse(text: str, schema: pa.Schema) -> Filter:
    """Parse a filter over the columns of ``schema``. Raises ConfigError, which shows the position of the mistake."""
    return Filter(text, _Parser(text, schema).whole())


@dataclass(frozen=True)
class _Token:
    kind: str
    """name, quoted, text, number, sign or end; a keyword is a name."""
    text: str
    at: int

    @property
    def word(self) -> str:
        """A name in lower case, to compare with keywords; "" for other kinds."""
        return self.text.lower() if self.kind == "name" else ""

    def __str__(self) -> str:
        return "the end" if self.kind == "end" else self.text


_TOKENS = re.compile(
    r"""(?P<space>\s+)
      | (?P<name>[^\W\d]\w*)
      | (?P<quoted>"(?:[^"]|"")*")
      | (?P<text>'(?:[^']|'')*')
      | (?P<number>-?(?:\d+\.?\d*|\.\d+)(?:[eE][+-]?\d+)?(?!\w))
      | (?P<sign>!=|<=|>=|[=<>(),.])""",
    re.VERBOSE,
)


class _Parser:
    """A recursive descent parser of one text."""

    def __init__(self, text: str, schema: pa.Schema) -> None:
        self._text, self._schema = text, schema
        self._tokens = list(self._split())
        self._next = 0
        self._depth = self._conditions = 0

    def whole(self) -> Node:
        if self._token.kind == "end":
            self._fail(self._token.at, "it is empty")
        node = self._any()
        if self._token.kind != "end":
            self._fail(self._token.at, f"expected and, or or the end, not {self._token}")
        return node

    # tokens

    def _split(self) -> Iterator[_Token]:
        at = 0
        while at < len(self._text):
            match = _TOKENS.match(self._text, at)
            if match is None:
                self._fail(at, self._why_no_token(at))
            if match.lastgroup != "space":
                yield _Token(str(match.lastgroup), match[0], at)
            at = match.end()
        yield _Token("end", "", at)

    def _why_no_token(self, at: int) -> str:
        char = self._text[at]
        if char in "'\"":
            return f"the {char} is not closed"
        if char.isdigit() or char == "-":
            return "invalid number"
        return f"unexpected {char!r}"

    @property
    def _token(self) -> _Token:
        return self._tokens[self._next]

    def _take(self) -> _Token:
        token = self._token
        self._next += token.kind != "end"
        return token

    def _took(self, *words: str) -> bool:
        """Take these keywords or signs if all of them come next. Returns whether they did."""
        coming = self._tokens[self._next : self._next + len(words)]
        if [token.word or token.text for token in coming] != list(words):
            return False
        self._next += len(words)
        return True

    def _expect(self, sign: str, where: str) -> None:
        if not self._took(sign):
            self._fail(self._token.at, f"expected {sign} {where}, not {self._token}")

    def _fail(self, at: int, why: str) -> NoReturn:
        start = max(0, at - _SHOWN)
        shown = re.sub(r"\s", " ", self._text[start : at + _SHOWN])
        raise ConfigError(
            f"Invalid filter at character {at + 1}: {why}.\n  {shown}\n  {' ' * (at - start)}^\n"
            f"Columns: {_columns_told(self._schema)}."
        )

    # conditions

    def _any(self) -> Node:
        nodes = [self._all()]
        while self._took("or"):
            nodes.append(self._all())
        return nodes[0] if len(nodes) == 1 else Combined("or", tuple(nodes))

    def _all(self) -> Node:
        nodes = [self._one()]
        while self._took("and"):
            nodes.append(self._one())
        return nodes[0] if len(nodes) == 1 else Combined("and", tuple(nodes))

    def _one(self) -> Node:
        self._depth += 1
        if self._depth > _DEEPEST:
            self._fail(self._token.at, f"more than {_DEEPEST} levels of not and parentheses")
        try:
            if self._took("not"):
                return Not(self._one())
            if self._took("("):
                node = self._any()
                self._expect(")", "after the condition")
                return node
            return self._condition()
        finally:
            self._depth -= 1

    def _condition(self) -> Node:
        at = self._token.at
        self._conditions += 1
        if self._conditions > _MOST:
            self._fail(at, f"more than {_MOST:,} conditions; for many values use a in (…)")
        column = self._column()
        if self._took("is", "not", "null"):
            return Not(IsNull(column))
        if self._took("is", "null"):
            return IsNull(column)
        if self._token.word not in ("not", "in", "like") and self._token.text not in COMPARE:
            self._fail(self._token.at, f"expected =, !=, <, <=, >, >=, in, like or is null, not {self._token}")
        if _kind_of(column.type) is None:
            self._fail(at, f"{column.dotted} is {column.type}: only is null and is not null apply")
        negated = self._took("not")
        node: Node
        if self._took("in"):
            node = self._in(column)
        elif self._took("like"):
            node = self._like(column, at)
        elif negated:
            self._fail(self._token.at, f"expected in or like after not, not {self._token}")
        else:
            sign = self._take()
            if column.type == pa.bool_() and sign.text not in ("=", "!="):
                self._fail(sign.at, f"{column.dotted} is boolean: only = and != apply")
            node = Compare(column, sign.text, self._value(column))
        return Not(node) if negated else node

    def _in(self, column: Column) -> Node:
        self._expect("(", "after in")
        values = [self._value(column)]
        while self._took(","):
            values.append(self._value(column))
        self._expect(")", "after the values")
        return In(column, pa.array([value.as_py() for value in values], _plain(column.type)))

    def _like(self, column: Column, at: int) -> Node:
        if _kind_of(column.type) != "text":
            self._fail(at, f"{column.dotted} is {column.type}: like applies only to text")
        token = self._take()
        if token.kind != "text":
            self._fail(token.at, f"expected a pattern in single quotes after like, not {token}")
        pattern = _unquoted(token)
        if re.search(r"(?s)(?<!\\)(?:\\\\)*\\\Z", pattern):
            self._fail(
                token.at, "the pattern ends in a backslash, which must be followed by the character that it escapes"
            )
        return Like(column, pattern)

    def _column(self) -> Column:
        first = self._token
        parts = [self._name()]
        while self._took("."):
            parts.append(self._name())
        names = [_unquoted(part) for part in parts]
        whole = ".".join(names)
        if whole in self._schema.names and all(part.kind == "name" for part in parts):
            names = [whole]
        if names[0] not in self._schema.names:
            close = difflib.get_close_matches(whole, self._schema.names, n=1)
            self._fail(first.at, f"there is no column {names[0]}" + (f", did you mean {close[0]}" if close else ""))
        kind = self._schema.field(names[0]).type
        for part, name in zip(parts[1:], names[1:], strict=False):
            fields = {field.name: field.type for field in kind} if pa.types.is_struct(kind) else {}
            if name not in fields:
                has = f"it has {', '.join(fields)}" if fields else f"it is {kind}"
                self._fail(part.at, f"there is no field {name}: {has}")
            kind = fields[name]
        return Column(tuple(names), kind)

    def _name(self) -> _Token:
        token = self._take()
        if token.kind not in ("name", "quoted"):
            self._fail(token.at, f"expected a column, not {token}")
        if token.word in _WORDS:
            self._fail(token.at, f'expected a column, not {token}; quote a column of that name: "{token}"')
        return token

    def _value(self, column: Column) -> pa.Scalar:
        token = self._take()
        kind = _kind_of(column.type)
        wanted = f"{column.dotted} is {column.type}: "
        value: Any
        if token.word in ("date", "timestamp") and self._token.kind == "text":
            value = self._moment(token, self._take())
            if kind not in ("date", "timestamp") or (kind == "date" and token.word != "date"):
                self._fail(token.at, f"{wanted}{_WANTED[str(kind)]}")
            if kind == "timestamp":
                value = self._in_zone(token, value, column.type)
        elif token.kind == "text" and kind == "text":
            value = _unquoted(token)
        elif token.kind == "number" and kind == "integer" and re.fullmatch(r"-?\d+", token.text):
            value = int(token.text)
        elif token.kind == "number" and kind == "number":
            value = Decimal(token.text) if pa.types.is_decimal(column.type) else float(token.text)
        elif token.word in ("true", "false") and kind == "bool":
            value = token.word == "true"
        elif token.word == "null":
            self._fail(token.at, "null is not equal to anything; use is null or is not null")
        else:
            self._fail(token.at, f"{wanted}{_WANTED[str(kind)]}, not {token}")
        try:
            return pa.scalar(value, _plain(column.type))
        except (pa.ArrowException, OverflowError, ValueError):
            self._fail(token.at, f"{token} does not fit into {column.dotted}, which is {column.type}")

    def _moment(self, word: _Token, token: _Token) -> date | datetime:
        try:
            kind = date if word.word == "date" else datetime
            return kind.fromisoformat(_unquoted(token))
        except ValueError:
            example = "2026-11-24" if word.word == "date" else "2026-11-24 23:00"
            self._fail(token.at, f"invalid {word.word} {token}; write {word.word} '{example}'")

    def _in_zone(self, token: _Token, value: date | datetime, kind: pa.DataType) -> datetime:
        moment = value if isinstance(value, datetime) else datetime(value.year, value.month, value.day)
        if kind.tz is None and moment.tzinfo is not None:
            self._fail(token.at, "the column has no time zone, so the value must not have one")
        return moment if kind.tz is None else moment.replace(tzinfo=moment.tzinfo or UTC)


_WANTED = {
    "text": "write a text in single quotes",
    "integer": "write a whole number",
    "number": "write a number",
    "bool": "write true or false",
    "date": "write date '2026-11-24'",
    "timestamp": "write timestamp '2026-11-24 23:00'",
}


def _plain(kind: pa.DataType) -> pa.DataType:
    return kind.value_type if pa.types.is_dictionary(kind) else kind


def _kind_of(kind: pa.DataType) -> str | None:
    """The kind of values that it compares with, a key of _WANTED; None if it cannot be compared."""
    kind, types = _plain(kind), pa.types
    if types.is_string(kind) or types.is_large_string(kind) or types.is_string_view(kind):
        return "text"
    if types.is_integer(kind):
        return "integer"
    if is_float(kind) or types.is_decimal(kind):
        return "number"
    if types.is_boolean(kind):
        return "bool"
    if types.is_date(kind):
        return "date"
    return "timestamp" if types.is_timestamp(kind) else None


def _unquoted(token: _Token) -> str:
    if token.kind == "name":
        return token.text
    quote = token.text[0]
    return token.text[1:-1].replace(2 * quote, quote)


def _columns_told(schema: pa.Schema) -> str:
    """All columns except vectors, with their types."""
    return ", ".join(f"{field.name} {field.type}" for field in schema if not pa.types.is_fixed_size_list(field.type))
