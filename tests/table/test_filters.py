"""Filters: the grammar, what they take against two others who know SQL's logic, and errors that show the place."""

import datetime as dt
import math
import re
from collections.abc import Callable
from typing import Any

import duckdb
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from sfr_batch.errors import ConfigError
from sfr_batch.table.filter_parser import parse
from sfr_batch.table.filters import Combined, Compare, In, IsNull, Like, Not

SCHEMA = pa.schema(
    [
        ("package", pa.string()),
        ("n", pa.int32()),
        ("score", pa.float32()),
        ("good", pa.bool_()),
        ("day", pa.date32()),
        ("at", pa.timestamp("us", "UTC")),
        ("local", pa.timestamp("ms")),
        ("price", pa.decimal128(10, 2)),
        ("kind", pa.dictionary(pa.int8(), pa.string())),
        ("meta", pa.struct([("lang", pa.string()), ("deep", pa.struct([("x", pa.int64())]))])),
        ("a.b", pa.string()),
        ("date", pa.string()),
        ('odd "name"', pa.int64()),
        ("content_hash", pa.binary(16)),
        ("tags", pa.list_(pa.string())),
        ("embedding", pa.list_(pa.float32(), 3)),
    ]
)
HERE = dt.datetime(2026, 11, 24, 23, 0)
ROW: dict[str, Any] = {
    "package": "numpy",
    "n": 20,
    "score": 0.1,
    "good": True,
    "day": HERE.date(),
    "at": HERE.replace(tzinfo=dt.UTC),
    "local": HERE,
    "price": "1.50",
    "kind": "x",
    "meta": {"lang": "en", "deep": {"x": 7}},
    "a.b": "it's",
    "date": "today",
    'odd "name"': 1,
    "content_hash": bytes(16),
    "tags": ["t"],
    "embedding": [1.0, 0.0, 0.0],
}


def table_of(rows: list[dict[str, Any]], schema: pa.Schema = SCHEMA) -> pa.Table:
    def column(field: pa.Field) -> pa.Array:
        values = [row.get(field.name) for row in rows]
        if pa.types.is_decimal(field.type):
            return pa.array(values, pa.string()).cast(field.type)
        if pa.types.is_dictionary(field.type):
            return pa.array(values, field.type.value_type).dictionary_encode().cast(field.type)
        return pa.array(values, field.type)

    return pa.table([column(field) for field in schema], schema=schema)


def takes(text: str, row: dict[str, Any]) -> bool:
    where, table = parse(text, SCHEMA), table_of([row])
    (taken,) = where.mask(table).to_pylist()
    assert isinstance(taken, bool)
    assert table.filter(where.expression).num_rows == taken, "the expression says the same"
    return taken


@pytest.mark.parametrize(
    "text",
    [
        "package = 'numpy'",
        "package='numpy' AND n>=20 And Not n>20",
        "package != 'it''s'",
        "n = 20 and n != 19 and n < 21 and n <= 20 and n > -1 and n >= 20",
        "score = 0.1",
        "score > .05 and score < 1e3 and score < 2.",
        "good = true and good != false",
        "day = date '2026-11-24' and day < DATE '2026-11-25'",
        "at = timestamp '2026-11-24 23:00' and at > date '2026-11-24'",
        "at = timestamp '2026-11-25T01:00:00+02:00'",
        "local = timestamp '2026-11-24 23:00'",
        "price = 1.5 and price > -1 and price in (1.5, 2)",
        "kind = 'x' and kind in ('x') and kind like 'x'",
        "meta.lang = 'en' and meta.deep.x = 7 and \"meta\".\"lang\" = 'en'",
        "a.b = 'it''s' and \"a.b\" = 'it''s'",
        "date = 'today' and date > 'date'",
        '"odd ""name""" = 1',
        "content_hash is not null and tags is not null and embedding is not null",
        "package in ('scipy', 'numpy') and n not in (1, 2)",
        "package like 'num%' and package like '%y' and package like 'n_mp_' and package not like 'num'",
        "n = 1 or n = 2 or n = 20",
        "n = 20 or n = 1 and n = 2",
        "not (n = 1 or n = 2) and not not n = 20",
        "((n = 20))",
        " \n n\t=\r\n20 ",
    ],
)
def test_takes(text: str) -> None:
    assert takes(text, ROW)
    assert not takes(f"not ({text})", ROW)


@pytest.mark.parametrize(
    "text",
    [
        "package = 'x'",
        "package != 'x'",
        "n < 1",
        "n >= 1",
        "n in (1)",
        "package like '%'",
        "meta.lang = 'x'",
        "good = true",
    ],
)
def test_null_is_neither_taken_nor_not_taken(text: str) -> None:
    assert not takes(text, {})
    assert not takes(f"not {text}", {})
    assert takes(f"{text} or {text.split()[0]} is null", {})


def test_and_binds_closer_than_or_and_not_closest() -> None:
    one, two, three = (parse(f"n = {n}", SCHEMA).node for n in (1, 2, 3))
    assert parse("n = 1 or n = 2 and n = 3", SCHEMA).node == Combined("or", (one, Combined("and", (two, three))))
    assert parse("not n = 1 and n = 2 or n = 3", SCHEMA).node == Combined(
        "or", (Combined("and", (Not(one), two)), three)
    )
    assert parse("n = 1 and (n = 2 or n = 3)", SCHEMA).node == Combined("and", (one, Combined("or", (two, three))))


@pytest.mark.parametrize(
    ("pattern", "yes", "no"),
    [
        ("a%", ["a", "ab", "a\nb"], ["", "ba", "A"]),
        ("%a%", ["a", "bab"], ["", "b"]),
        ("_", ["a", "é", "漢", "\n"], ["", "ab"]),
        ("a_c", ["abc", "a\nc"], ["ac", "abbc"]),
        (r"50\%", ["50%"], ["50", "500"]),
        (r"a\_b\\", ["a_b\\"], ["axb\\", "a_b"]),
        ("a.b*[c](d)^$|{1}+?", ["a.b*[c](d)^$|{1}+?"], ["aXb"]),
        ("", [""], ["a"]),
        ("it''s - #&~", ["it's - #&~"], ["its"]),
    ],
)
def test_like(pattern: str, yes: list[str], no: list[str]) -> None:
    for text in yes:
        assert takes(f"package like '{pattern}'", {"package": text}), text
    for text in no:
        assert not takes(f"package like '{pattern}'", {"package": text}), text


def test_columns_are_those_that_are_needed() -> None:
    assert parse("meta.lang = 'en' and n > 1 and (n < 3 or a.b is null)", SCHEMA).columns == ("meta", "n", "a.b")


def test_expression_is_pyarrows() -> None:
    table = table_of([ROW, {**ROW, "package": "scipy"}])
    assert table.filter(parse("package = 'scipy'", SCHEMA).expression).num_rows == 1


def test_mask_of_many_chunks_and_of_none() -> None:
    many = pa.concat_tables([table_of([{"n": n}]) for n in range(5)])
    where = parse("n >= 3", SCHEMA)
    assert where.mask(many).to_pylist() == [False, False, False, True, True]
    assert len(where.mask(many.slice(0, 0))) == 0


def test_many_conditions_do_not_exhaust_a_stack() -> None:
    where = parse(" or ".join(f"n = {n}" for n in range(1000)), SCHEMA)
    assert where.mask(table_of([{"n": 999}, {"n": 1000}])).to_pylist() == [True, False]
    with pytest.raises(ConfigError, match=r"more than 1,000 conditions; for many values use a in"):
        parse(" or ".join(f"n = {n}" for n in range(1001)), SCHEMA)
    where = parse(f"n in ({', '.join(map(str, range(100_000)))})", SCHEMA)
    assert where.mask(table_of([{"n": 99_999}, {"n": 100_000}])).to_pylist() == [True, False]


# --- errors


def complaint(text: str) -> tuple[int, str]:
    """(character from 1, why)"""
    with pytest.raises(ConfigError) as caught:
        parse(text, SCHEMA)
    lines = str(caught.value).splitlines()
    match = re.fullmatch(r"Invalid filter at character (\d+): (.*)\.", lines[0])
    assert match, lines
    at = int(match[1])
    pointed = lines[1][lines[2].index("^") :][:1]
    assert pointed == re.sub(r"\s", " ", text[at - 1 : at]), "the arrow points elsewhere"
    assert lines[3].startswith("Columns: package string, n int32, score float, ")
    assert len(lines) == 4
    return at, match[2]


@pytest.mark.parametrize(
    ("text", "at", "why"),
    [
        ("", 1, "it is empty"),
        ("  ", 3, "it is empty"),
        ("pakage = 'x'", 1, "there is no column pakage, did you mean package"),
        ("n = 1 and zzz = 2", 11, "there is no column zzz"),
        ("meta.lng = 'x'", 6, "there is no field lng: it has lang, deep"),
        ("package.x = 'y'", 9, "there is no field x: it is string"),
        ('"package.x" = 1', 1, "there is no column package.x, did you mean package"),
        ("package", 8, "expected =, !=, <, <=, >, >=, in, like or is null, not the end"),
        ("package = ", 11, "package is string: write a text in single quotes, not the end"),
        ("package = 3", 11, "package is string: write a text in single quotes, not 3"),
        ('package = "numpy"', 11, 'package is string: write a text in single quotes, not "numpy"'),
        ("package = n", 11, "package is string: write a text in single quotes, not n"),
        ("n = 'a'", 5, "n is int32: write a whole number, not 'a'"),
        ("n = 2.5", 5, "n is int32: write a whole number, not 2.5"),
        ("n = 99999999999", 5, "99999999999 does not fit into n, which is int32"),
        ("n = 12abc", 5, "invalid number"),
        ("n = - 1", 5, "invalid number"),
        ("n in ()", 7, "n is int32: write a whole number, not )"),
        ("n in (1", 8, "expected ) after the values, not the end"),
        ("n in 1", 6, "expected ( after in, not 1"),
        ("score = true", 9, "score is float: write a number, not true"),
        ("price = 1.555", 9, "1.555 does not fit into price, which is decimal128(10, 2)"),
        ("good < true", 6, "good is boolean: only = and != apply"),
        ("good = 1", 8, "good is bool: write true or false, not 1"),
        ("day = '2026-01-01'", 7, "day is date32[day]: write date '2026-11-24', not '2026-01-01'"),
        ("day = date '2026-13-01'", 12, "invalid date '2026-13-01'; write date '2026-11-24'"),
        ("day = timestamp '2026-01-01'", 7, "day is date32[day]: write date '2026-11-24'"),
        ("at = timestamp 'noon'", 16, "invalid timestamp 'noon'; write timestamp '2026-11-24 23:00'"),
        ("n = date '2026-01-01'", 5, "n is int32: write a whole number"),
        (
            "local = timestamp '2026-01-01T00:00Z'",
            9,
            "the column has no time zone, so the value must not have one",
        ),
        ("package = null", 11, "null is not equal to anything; use is null or is not null"),
        ("package is 'x'", 9, "expected =, !=, <, <=, >, >=, in, like or is null, not is"),
        ("n like 'a'", 1, "n is int32: like applies only to text"),
        ("package like 3", 14, "expected a pattern in single quotes after like, not 3"),
        (
            "package like 'a\\'",
            14,
            "the pattern ends in a backslash, which must be followed by the character that it escapes",
        ),
        ("package not = 'a'", 13, "expected in or like after not, not ="),
        ("content_hash = 'x'", 1, "content_hash is fixed_size_binary[16]: only is null and is not null apply"),
        ("embedding = 3", 1, "embedding is fixed_size_list<item: float>[3]: only is null and is not null apply"),
        ("12 = n", 1, "expected a column, not 12"),
        ("and = 3", 1, 'expected a column, not and; quote a column of that name: "and"'),
        ("not", 4, "expected a column, not the end"),
        ("(n = 1", 7, "expected ) after the condition, not the end"),
        ("n = 1)", 6, "expected and, or or the end, not )"),
        ("n = 1 n = 2", 7, "expected and, or or the end, not n"),
        ("package = 'a", 11, "the ' is not closed"),
        ('"package = 1', 1, 'the " is not closed'),
        ("package == 'a'", 10, "package is string: write a text in single quotes, not ="),
        ("n = 1; drop table x", 6, "unexpected ';'"),
        ("n =\n\nx", 6, "n is int32: write a whole number, not x"),
        ("(" * 101 + "n = 1" + ")" * 101, 101, "more than 100 levels of not and parentheses"),
        ("package = '" + "a" * 500 + "' and n = x", 522, "n is int32: write a whole number, not x"),
    ],
)
def test_errors_show_the_place(text: str, at: int, why: str) -> None:
    assert complaint(text) == (at, why)


@given(st.text(alphabet="n=<>!()',.\"% \\package1-inotrdlkesu", max_size=30) | st.text(max_size=10))
@settings(max_examples=100)
def test_any_text_is_a_filter_or_an_error_that_shows_the_place(text: str) -> None:
    try:
        parse(text, SCHEMA).mask(table_of([ROW]))
    except ConfigError:
        complaint(text)


# --- against two others

PLAIN = pa.schema(
    [
        ("s", pa.string()),
        ("n", pa.int64()),
        ("f", pa.float64()),
        ("b", pa.bool_()),
        ("d", pa.date32()),
        ("q r", pa.string()),
    ]
)
Row = dict[str, Any]
Logic = bool | None
Case = tuple[str, Callable[[Row], Logic]]
"""A filter as text, and what it says of a row."""

TEXTS = ["", "a", "b", "ab", "ba", "a%", "_", "é", "it's", "\\"]
DAYS = [dt.date(2026, 11, day) for day in (1, 2, 3)]
VALUES: dict[str, list[Any]] = {
    "s": TEXTS,
    "q r": TEXTS,
    "n": [-(2**63), -1, 0, 1, 2, 2**53 + 1],
    "f": [-1.5, -0.0, 0.0, 0.1, 1e300, math.nan, math.inf],
    "b": [True, False],
    "d": DAYS,
}
OPS: dict[str, Callable[[Any, Any], bool]] = {
    "=": lambda a, b: a == b,
    "!=": lambda a, b: a != b,
    "<": lambda a, b: a < b,
    "<=": lambda a, b: a <= b,
    ">": lambda a, b: a > b,
    ">=": lambda a, b: a >= b,
}


def literal(value: Any) -> str:
    if isinstance(value, str):
        return "'" + value.replace("'", "''") + "'"
    if isinstance(value, dt.date):
        return f"date '{value}'"
    return str(value).lower() if isinstance(value, bool) else repr(value)


def name(column: str) -> str:
    return f'"{column}"' if " " in column else column


def like(value: str, pattern: str) -> bool:
    """LIKE by the book: character by character."""
    if not pattern:
        return not value
    if pattern[0] == "%":
        return any(like(value[start:], pattern[1:]) for start in range(len(value) + 1))
    if pattern[0] == "_":
        return bool(value) and like(value[1:], pattern[1:])
    plain = pattern[1:2] if pattern[0] == "\\" else pattern[0]
    return value[:1] == plain and like(value[1:], pattern[1 + (pattern[0] == "\\") :])


@st.composite
def conditions(draw: st.DrawFn) -> Case:
    column = draw(st.sampled_from(sorted(VALUES)))
    finite = [value for value in VALUES[column] if not (isinstance(value, float) and not math.isfinite(value))]
    kinds = ["compare", "in", "null"] + ["like"] * (column in ("s", "q r"))
    kind = draw(st.sampled_from(kinds))
    negated = draw(st.booleans())
    word = " not" * negated

    def known(test: Callable[[Any], bool]) -> Callable[[Row], Logic]:
        return lambda row: None if row[column] is None else test(row[column]) != negated

    if kind == "null":
        return f"{name(column)} is{word} null", lambda row: (row[column] is None) != negated
    if kind == "in":
        values = draw(st.lists(st.sampled_from(finite), min_size=1, max_size=3))
        return f"{name(column)}{word} in ({', '.join(map(literal, values))})", known(lambda v: v in values)
    if kind == "like":
        parts = draw(st.lists(st.sampled_from(["a", "b", "%", "_", r"\%", r"\_", r"\\", "é", "'"]), max_size=4))
        pattern = "".join(parts)
        return f"{name(column)}{word} like {literal(pattern)}", known(lambda v: like(v, pattern))
    op = draw(st.sampled_from(["=", "!="] if column == "b" else sorted(OPS)))
    value = draw(st.sampled_from(finite))
    negated = False
    return f"{name(column)} {op} {literal(value)}", known(lambda v: OPS[op](v, value))


def together(parts: list[Case], word: str) -> Case:
    """SQL's three-valued and, or."""
    decides = word == "or"

    def of(row: Row) -> Logic:
        found = [test(row) for _, test in parts]
        return decides if decides in found else None if None in found else not decides

    return "(" + f" {word} ".join(text for text, _ in parts) + ")", of


def opposite(part: Case) -> Case:
    text, test = part
    return f"not ({text})", lambda row: None if test(row) is None else not test(row)


CASES = st.recursive(
    conditions(),
    lambda inner: st.one_of(
        st.builds(together, st.lists(inner, min_size=2, max_size=3), st.sampled_from(["and", "or"])),
        st.builds(opposite, inner),
    ),
    max_leaves=6,
)
ROWS = st.lists(
    st.fixed_dictionaries({column: st.none() | st.sampled_from(values) for column, values in VALUES.items()}),
    max_size=6,
)


def bounds_of(rows: list[Row]) -> dict[str, tuple[Any, Any]]:
    found = {}
    for column in VALUES:
        values = [row[column] for row in rows if row[column] is not None and row[column] == row[column]]
        if values:
            found[column] = (min(values), max(values))
    return found


@given(CASES, ROWS)
@settings(max_examples=100)
def test_takes_what_sql_takes(case: Case, rows: list[Row]) -> None:
    """Against three-valued logic written out in Python, against DuckDB, and pruning never loses a row."""
    text, says = case
    where = parse(text, PLAIN)
    table = table_of(rows, PLAIN)
    expected = [says(row) is True for row in rows]
    assert where.mask(table).to_pylist() == expected
    numbered = table.append_column("number", pa.array(range(len(rows)), pa.int64()))
    chosen = [number for number, taken in enumerate(expected) if taken]
    assert numbered.filter(where.expression).column("number").to_pylist() == chosen
    for row, taken in zip(rows, expected, strict=True):
        assert not taken or where.may_match(bounds_of([row]))
    assert not any(expected) or where.may_match(bounds_of(rows))
    with duckdb.connect() as connection:
        found = connection.from_arrow(numbered).filter(where.sql).fetchall()
    assert sorted(row[-1] for row in found) == chosen


def test_pruning_prunes() -> None:
    bounds = {"package": ("n", "p"), "n": (10, 20)}
    for text in ["package = 'a'", "package in ('a', 'z')", "n < 10", "n > 20", "n = 9", "n = 10 and package = 'z'"]:
        assert not parse(text, SCHEMA).may_match(bounds), text
    for text in ["package = 'n'", "n <= 10", "n >= 20", "n = 15", "n != 15", "not n = 15", "n = 9 or n = 10"]:
        assert parse(text, SCHEMA).may_match(bounds), text
    assert parse("score > 1", SCHEMA).may_match(bounds), "what is not known may be anything"


def test_nodes_say_what_they_are() -> None:
    where = parse("n = 1 and n in (2) and n is null and package like 'x'", SCHEMA)
    assert isinstance(where.node, Combined)
    assert where.node.op == "and"
    assert [type(node) for node in where.node.nodes] == [Compare, In, IsNull, Like]


@pytest.mark.parametrize(("text", "taken"), [("f > 0.1", 1), ("not f > 0.1", 2), ("f != 0.1", 2), ("f <= 0.1", 1)])
def test_nan_is_no_number_in_sql_either(text: str, taken: int) -> None:
    """To DuckDB it is the greatest of all."""
    table = table_of([{"f": math.nan}, {"f": 0.1}, {"f": 1.0}], PLAIN)
    where = parse(text, PLAIN)
    with duckdb.connect() as connection:
        assert len(connection.from_arrow(table).filter(where.sql).fetchall()) == taken
    assert table.filter(where.mask(table)).num_rows == taken


def test_types_in_sql() -> None:
    """What needs a type of its own in DuckDB."""
    table = table_of([ROW]).select(["at", "local", "price", "score"])
    moment = "timestamp '2026-11-24 23:00'"
    for text in (f"at = {moment}", f"local = {moment}", "price = 1.5", "score = 0.1"):
        with duckdb.connect() as connection:
            assert len(connection.from_arrow(table).filter(parse(text, SCHEMA).sql).fetchall()) == 1, text
