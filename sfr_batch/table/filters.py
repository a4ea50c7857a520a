"""Filters such as `package = 'numpy' and n_tokens > 20`: a small part of SQL, evaluated with kernels of pyarrow.

    condition    a = 1 · a != 1 · a < 1 · a <= 1 · a > 1 · a >= 1 · a in (1, 2) · a is null · a like 'py%'
                 also `not in`, `is not null`, `not like`
    together     and, or, not, parentheses; `and` binds closer than `or`
    a column     name · "any name" · meta.lang, a field of a struct or a column of that name
    a value      'text', a quote in it doubled · 12 · -3.5 · true · false · date '2026-11-24'
                 · timestamp '2026-11-24 23:00', in UTC where the column has a time zone and the value has none

Keywords may be in upper case; names and texts are case-sensitive. As in SQL, a comparison with null is neither true nor
false, and a row matches only if the whole condition is true. In `like`, % stands for any characters and _ for one; a
backslash escapes the next character. A value must have its column's type. Pure: knows schemas, but no files.
"""

import functools
import operator
import re
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from datetime import date, datetime
from typing import Any, Literal, Protocol

import pyarrow as pa
import pyarrow.compute as pc

Bounds = Mapping[str, tuple[Any, Any]]
"""Least and greatest value of columns, by dotted path, where known; nulls and NaN are ignored."""
_KERNELS = {
    "=": pc.equal,
    "!=": pc.not_equal,
    "<": pc.less,
    "<=": pc.less_equal,
    ">": pc.greater,
    ">=": pc.greater_equal,
}
COMPARE: dict[str, Callable[[Any, Any], Any]] = {
    "=": operator.eq,
    "!=": operator.ne,
    "<": operator.lt,
    "<=": operator.le,
    ">": operator.gt,
    ">=": operator.ge,
}


@dataclass(frozen=True)
class Filter:
    """A filter over the columns of a schema. See `filter_parser.parse`."""

    text: str
    node: "Node"

    @functools.cached_property
    def columns(self) -> tuple[str, ...]:
        """The columns of the schema that it needs."""
        return tuple(dict.fromkeys(column.path[0] for column in self.node.columns()))

    @functools.cached_property
    def expression(self) -> pc.Expression:
        """The filter as a pyarrow expression, e.g. for ``table.filter``."""
        return self.node.on(_Fields())

    @property
    def sql(self) -> str:
        """The same condition in DuckDB's SQL."""
        return self.node.sql()

    def mask(self, table: pa.Table) -> pa.ChunkedArray:
        """[n] which rows match: bool, no nulls. Computed in the calling thread."""
        # Not with the expression: pyarrow loads pandas to evaluate one, and uses threads.
        return pc.fill_null(self.node.on(_Columns(table)), False)

    def may_match(self, bounds: Bounds) -> bool:
        """False only if no row with values within ``bounds`` can match."""
        return self.node.may_match(bounds)


class FilterInput(Protocol):
    """What a filter is evaluated on. The same kernels of Arrow take columns of a table or fields of an expression."""

    def column(self, column: "Column") -> Any:
        """The values of a column, or the field that stands for them."""

    def value(self, value: pa.Scalar) -> Any:
        """A constant."""


class _Fields:
    """The fields of an expression."""

    def column(self, column: "Column") -> pc.Expression:
        field = pc.field(*column.path)
        return field.cast(column.type.value_type) if pa.types.is_dictionary(column.type) else field

    def value(self, value: pa.Scalar) -> pc.Expression:
        return pc.scalar(value)


class _Columns:
    """The columns of a table."""

    def __init__(self, table: pa.Table) -> None:
        self._table = table

    def column(self, column: "Column") -> pa.ChunkedArray:
        values = self._table.column(column.path[0])
        if len(column.path) > 1:
            values = pc.struct_field(values, list(column.path[1:]))
        return values.cast(column.type.value_type) if pa.types.is_dictionary(column.type) else values

    def value(self, value: pa.Scalar) -> pa.Scalar:
        return value


@dataclass(frozen=True)
class Column:
    """A column, or a field of a struct."""

    path: tuple[str, ...]
    type: pa.DataType

    @property
    def dotted(self) -> str:
        return ".".join(self.path)

    def sql(self) -> str:
        return ".".join(map(quoted_name, self.path))


@dataclass(frozen=True)
class Compare:
    """``column op value``"""

    column: Column
    op: str
    value: pa.Scalar

    def columns(self) -> Iterator[Column]:
        yield self.column

    def on(self, rows: "FilterInput") -> Any:
        return _KERNELS[self.op](rows.column(self.column), rows.value(self.value))

    def sql(self) -> str:
        name, op = self.column.sql(), "<>" if self.op == "!=" else self.op
        compared = f"{name} {op} {_sql_value(self.value)}"
        # DuckDB takes NaN for greater than all numbers; here NaN is neither less, equal nor greater.
        return f"({compared} AND NOT isnan({name}))" if op[0] == ">" and is_float(self.column.type) else compared

    def may_match(self, bounds: Bounds) -> bool:
        """See `Filter.may_match`; ``!=`` excludes nothing, for a column may hold many values between its bounds."""
        if self.op == "!=" or self.column.dotted not in bounds:
            return True
        (least, greatest), value = bounds[self.column.dotted], self.value.as_py()
        if self.op == "=":
            return bool(least <= value <= greatest)
        return bool(COMPARE[self.op](least if self.op[0] == "<" else greatest, value))


@dataclass(frozen=True)
class In:
    """``column in (values)``"""

    column: Column
    values: pa.Array

    def columns(self) -> Iterator[Column]:
        yield self.column

    def on(self, rows: "FilterInput") -> Any:
        values = rows.column(self.column)
        # For Arrow, null is not in a list. In SQL that is unknown, so `not in` must not match null either.
        unknown = rows.value(pa.scalar(None, pa.bool_()))
        return pc.if_else(pc.is_valid(values), pc.is_in(values, value_set=self.values), unknown)

    def sql(self) -> str:
        return f"{self.column.sql()} IN ({', '.join(map(_sql_value, self.values))})"

    def may_match(self, bounds: Bounds) -> bool:
        """See `Filter.may_match`: whether at least one of the values lies within the bounds."""
        if self.column.dotted not in bounds:
            return True
        least, greatest = bounds[self.column.dotted]
        return any(least <= value <= greatest for value in self.values.to_pylist())


@dataclass(frozen=True)
class IsNull:
    """``column is null``"""

    column: Column

    def columns(self) -> Iterator[Column]:
        yield self.column

    def on(self, rows: "FilterInput") -> Any:
        return pc.is_null(rows.column(self.column))

    def sql(self) -> str:
        return f"{self.column.sql()} IS NULL"

    def may_match(self, bounds: Bounds) -> bool:
        return True


@dataclass(frozen=True)
class Like:
    """``column like pattern``"""

    column: Column
    pattern: str

    def columns(self) -> Iterator[Column]:
        yield self.column

    def on(self, rows: "FilterInput") -> Any:
        # Not pc.match_like: its _ is a byte, and é is two.
        return pc.match_substring_regex(rows.column(self.column), pattern=_regex_of(self.pattern))

    def sql(self) -> str:
        return rf"{self.column.sql()} LIKE {quoted_text(self.pattern)} ESCAPE '\'"

    def may_match(self, bounds: Bounds) -> bool:
        return True


@dataclass(frozen=True)
class Not:
    """``not (node)``"""

    node: "Node"

    def columns(self) -> Iterator[Column]:
        return self.node.columns()

    def on(self, rows: "FilterInput") -> Any:
        return pc.invert(self.node.on(rows))

    def sql(self) -> str:
        return f"NOT ({self.node.sql()})"

    def may_match(self, bounds: Bounds) -> bool:
        return True


@dataclass(frozen=True)
class Combined:
    """``node and node and …``, or the same with ``or``"""

    op: Literal["and", "or"]
    nodes: "tuple[Node, ...]"

    def columns(self) -> Iterator[Column]:
        return (column for node in self.nodes for column in node.columns())

    def on(self, rows: "FilterInput") -> Any:
        # Kleene's logic, as in SQL: `false and null` is false, `true or null` is true, else null makes it null.
        kernel = pc.and_kleene if self.op == "and" else pc.or_kleene
        return functools.reduce(kernel, (node.on(rows) for node in self.nodes))

    def sql(self) -> str:
        return f"({f' {self.op.upper()} '.join(node.sql() for node in self.nodes)})"

    def may_match(self, bounds: Bounds) -> bool:
        may = (node.may_match(bounds) for node in self.nodes)
        return all(may) if self.op == "and" else any(may)


Node = Compare | In | IsNull | Like | Not | Combined


def _regex_of(pattern: str) -> str:
    """A `like` pattern as a regular expression of RE2."""
    parts = []
    for match in re.finditer(r"(?s)\\(.)|(%)|(_)|(.)", pattern):
        plain, many, one, other = match.groups()
        parts.append(".*" if many else "." if one else _escaped(plain or other))
    return rf"(?s)\A{''.join(parts)}\z"


def _escaped(char: str) -> str:
    # Not re.escape: it also escapes characters, such as the space, that RE2 refuses to see escaped.
    return f"\\{char}" if char in r"\.+*?()|[]{}^$" else char


def quoted_name(name: str) -> str:
    """A name of a column or view, quoted for SQL."""
    return '"' + name.replace('"', '""') + '"'


def quoted_text(text: str) -> str:
    """A text, quoted for SQL."""
    return "'" + text.replace("'", "''") + "'"


def _sql_value(scalar: pa.Scalar) -> str:
    value = scalar.as_py()
    if isinstance(value, bool):
        return "TRUE" if value else "FALSE"
    if isinstance(value, float):
        return f"CAST({value!r} AS {'FLOAT' if pa.types.is_float32(scalar.type) else 'DOUBLE'})"
    if isinstance(value, datetime):
        return f"{'TIMESTAMPTZ' if value.tzinfo else 'TIMESTAMP'} {quoted_text(value.isoformat(sep=' '))}"
    if isinstance(value, date):
        return f"DATE {quoted_text(value.isoformat())}"
    return quoted_text(value) if isinstance(value, str) else str(value)


def is_float(kind: pa.DataType) -> bool:
    return bool(pa.types.is_float32(kind) or pa.types.is_float64(kind))
