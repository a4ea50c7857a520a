"""CSV as Spark, pandas, databases, Excel and shell scripts write it: what each dialect is read as."""

import csv
import gzip
import io
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sfr_batch.config.settings import CorpusSettings
from sfr_batch.corpus.columns import resolve_columns
from sfr_batch.corpus.csv_dialect import Dialect
from sfr_batch.corpus.csv_fields import FieldReader
from sfr_batch.corpus.csv_questions import read_beginning
from sfr_batch.corpus.csv_records import CsvReader
from sfr_batch.corpus.listing import list_shards
from sfr_batch.corpus.survey import survey_shards
from sfr_batch.errors import ConfigError, CorpusError
from sfr_batch.planning.recipes import make_row_recipe
from tests.corpus.test_corpus import ids_of, read_all, rejects_of
from tests.corpus.test_formats import texts_of
from tests.planning.test_planning import config_of
from tests.tables import put

BOM = b"\xef\xbb\xbf"
SPARK = r"""id,text,c
1,"she said \"hello\" twice",z
2,"C:\\dir\\, x",z
3,C:\dir\,z
4,"say \"hi\"\\",z
5,\\srv\x,z
6,"\\\\srv, x",z
8,"line\\
b",z
9,"",z
10,,z
14,"back\\\"q",z
16,x\n y,z
17,"\"all\"",z
18,\N,z
19,"a\\, \"b\"",z
22,\,z
"""
"""What Spark 4 has written for the texts below, with its own defaults."""
SPARK_TEXTS = {
    "1": 'she said "hello" twice',
    "2": "C:\\dir\\, x",
    "3": "C:\\dir\\",
    "4": 'say "hi"\\',
    "5": r"\\srv\x",
    "6": r"\\srv, x",
    "8": "line\\\nb",
    "9": "",
    "10": None,
    "14": r"back\"q",
    "16": r"x\n y",
    "17": '"all"',
    "18": r"\N",
    "19": r'a\, "b"',
    "22": "\\",
}


def rows_of(data: str | bytes, **dialect: Any) -> list[Any]:
    """The values of each row, or the message of the reject."""
    reader = CsvReader(io.BytesIO(data.encode() if isinstance(data, str) else data), "/a.csv", Dialect(**dialect))
    rows = [reader.parse(fields) for _, fields in reader]
    return [list(row.values()) if isinstance(row, dict) else row.message for row in rows]


def read(tmp_path: Path, data: bytes, name: str = "a.csv", **options: Any) -> Any:
    put(str(tmp_path), name, data)
    return read_all(str(tmp_path), **options)


# --- escapes


def test_what_spark_writes() -> None:
    found = {id_: text for id_, text, _ in rows_of(SPARK, escape="\\", nulls=())}
    assert found == {id_: text or "" for id_, text in SPARK_TEXTS.items()}
    assert {id_ for id_, text, _ in rows_of(SPARK, escape="\\", nulls=("",)) if text is None} == {"9", "10"}


@pytest.mark.parametrize(
    ("data", "dialect", "texts"),
    [
        # as MySQL (INTO OUTFILE), PostgreSQL (COPY), ClickHouse and Hive write without quotes
        ("1\tone\\\ttab\n", {}, ["one\ttab"]),
        ("1\tone\\\nline\n2\tx\n", {}, ["one\nline", "x"]),
        ("1\tone\\\r\nline\r\n2\tx\r\n", {}, ["one\r\nline", "x"]),
        ("1\t\\t\\n\\r\\b\\f\\v\\0\\Z\\\\\\x\n", {}, ["\t\n\r\b\f\v\0\x1a\\x"]),
        ('1\t"say" \\"\n', {}, ['"say" "']),
        ("1\t\\N\n", {}, [r"\N"]),
        ("1\t\\N\n2\t\\\\N\n", {"nulls": (r"\N",)}, [None, r"\N"]),
        ("1\tends\\", {}, ["ends\\"]),
        # as Redshift (ADDQUOTES ESCAPE) and MySQL (ENCLOSED BY) write with quotes
        ('1\t"one\\\nline, a \\\t and \\"x\\" \\\\ \\n"\n', {"quote": '"'}, ['one\nline, a \t and "x" \\ \\n']),
        ('1\t"a ""b"" c"\n', {"quote": '"'}, ['a "b" c']),
        # as pandas (escapechar, doublequote=False) writes
        ('1\tC:\\\\x say \\"hi\\" \\\tand\n', {"quote": '"', "escape_unquoted": True}, ['C:\\x say "hi" \tand']),
        ("1\tC:\\\\x\n", {"quote": '"'}, ["C:\\\\x"]),
    ],
)
def test_escapes(data: str, dialect: dict[str, Any], texts: list[str | None]) -> None:
    settings = {"delimiter": "\t", "quote": None, "escape": "\\", "header": ("id", "text"), "nulls": (), **dialect}
    assert [row[1] for row in rows_of(data, **settings)] == texts


TEXT = st.text("ab\\\",;'\r\n\t N", max_size=12)


@given(st.lists(st.tuples(TEXT, TEXT, TEXT), min_size=1, max_size=6), st.booleans())
def test_what_pandas_and_python_escape_is_read_back(rows: list[tuple[str, str, str]], quoting: bool) -> None:
    written = io.StringIO(newline="")
    how: dict[str, Any] = {"quotechar": '"'} if quoting else {"quoting": csv.QUOTE_NONE, "quotechar": None}
    csv.writer(written, escapechar="\\", doublequote=False, **how).writerows([("x", *row) for row in rows])
    dialect = Dialect(quote='"' if quoting else None, escape="\\", escape_unquoted=True, header=tuple("xabc"), nulls=())
    reader = CsvReader(io.BytesIO(written.getvalue().encode()), "/a.csv", dialect)
    found = [tuple(reader.parse(fields).values())[1:] for _, fields in reader]  # type: ignore[union-attr]
    assert found == rows


@given(st.lists(st.lists(st.text('ab",\r\n \ufeffé', max_size=8), min_size=2, max_size=2), max_size=6), st.booleans())
def test_without_an_escape_both_readers_read_the_same(rows: list[list[str]], all_quoted: bool) -> None:
    written = io.StringIO(newline="")
    csv.writer(written, quoting=csv.QUOTE_ALL if all_quoted else csv.QUOTE_MINIMAL).writerows(rows)
    lines = io.StringIO(written.getvalue(), newline="").readlines()
    ours = [fields for fields in FieldReader(iter(lines), Dialect(), 100) if fields]
    assert ours == [fields for fields in csv.reader(lines, strict=True) if fields]


def test_what_is_never_closed_or_goes_on_behind_a_quote_is_an_error() -> None:
    for data, message in (('a,"x', "unexpected end"), ('a,"x" y\n', "',' expected"), ('a,"' + "x" * 200, "limit")):
        with pytest.raises(csv.Error, match=message):
            list(FieldReader(iter([data]), Dialect(escape="\\"), 100))


# --- headers


def test_names_of_columns_may_be_given(tmp_path: Path) -> None:
    found = read(tmp_path, b"1\tone\n2\ttwo\n", "a.tsv", header=["id", "text"])
    assert (ids_of(found), texts_of(found)) == (["1", "2"], ["one", "two"])
    found = read(tmp_path, b"id\ttext\n1\tone\n", "a.tsv", header=["id", "text"])
    assert ids_of(found) == ["1"]
    assert rejects_of(found) == [(None, 0, "bad_csv", "the record is the header once more")]


def test_columns_without_names_are_numbered(tmp_path: Path) -> None:
    found = read(tmp_path, b"0\t1\n2\ttwo\n", "a.tsv", header=False, id="0", text="1")
    assert (ids_of(found), texts_of(found)) == (["0", "2"], ["1", "two"]), "nor are numbers the header once more"


def test_parts_put_together(tmp_path: Path) -> None:
    part = b'id,text\n%s1,x\n"%s2","x, y"\n'
    found = read(tmp_path, b"".join(BOM + part % (name, name) for name in (b"a", b"b")))
    assert ids_of(found) == ["a1", "a2", "b1", "b2"]
    assert rejects_of(found) == [(None, 2, "bad_csv", "the record is the header once more")]
    quoted = BOM + b'"id","text"\n"a","x\n' + BOM + b'y"\n' + BOM + b'"b","z"\n'
    assert texts_of(read(tmp_path, quoted)) == ["x\n\ufeffy", "z"], "inside of quotes it is text"


@pytest.mark.parametrize("name", ["a.jsonl", "a.txt", "a.txt.gz"])
def test_a_byte_order_mark_begins_any_line(name: str, tmp_path: Path) -> None:
    lines = [b'{"id": "a", "text": "x"}', b'{"id": "b", "text": "x"}'] if "jsonl" in name else [b"x", b"x"]
    data = b"".join(BOM + line + b"\n" for line in lines)
    found = read(tmp_path, gzip.compress(data) if name.endswith("gz") else data, name)
    assert texts_of(found) == ["x", "x"]
    assert rejects_of(found) == []
    if "txt" in name:
        assert [int(id_.rpartition("#")[2]) for id_ in ids_of(found)] == [0, 5], "ids are bytes of the file as it is"


@pytest.mark.parametrize(
    ("data", "rows"),
    [
        ("sep=;\r\nid;text\r\na;x\r\n", [["a", "x"]]),
        ('\ufeff"sep=;"\nid;text\na;x, y\n', [["a", "x, y"]]),
        ("sep=\t\nid\ttext\na\tx\n", [["a", "x"]]),
        ("sep,text\na,x\n", [["a", "x"]]),
    ],
)
def test_excels_first_line(data: str, rows: list[Any]) -> None:
    assert rows_of(data) == rows


def test_excels_first_line_goes_before_the_setting(tmp_path: Path) -> None:
    assert ids_of(read(tmp_path, b"sep=;\nid;text\na;x\n", delimiter="|")) == ["a"]


# --- lines that are no rows, and delimiters at the ends


@pytest.mark.parametrize(
    ("data", "dialect", "rows"),
    [
        (
            "| id | text |\n|---|:--:|\n| a | x y |\n",
            {"delimiter": "|", "trim": True},
            ["dashes", ["", "a", "x y"]],
        ),
        (" id | text\n----+------\n a  | x\n", {"delimiter": "|", "trim": True}, ["dashes", ["a", "x"]]),
        ("+---+---+\n|id|text|\n+---+---+\n|a|x|\n", {"delimiter": "|"}, ["dashes", ["", "a", "x"]]),
        ("id,text\na,---\n-,-\n", {}, [["a", "---"], ["-", "-"]]),
        ("id,text\na,x,\nb,y,\n", {}, [["a", "x"], ["b", "y"]]),
        ("id,text,\na,x\nb,y\n", {}, [["a", "x"], ["b", "y"]]),
        ("id,text,\na,x,\nb,y,\n", {}, [["a", "x", ""], ["b", "y", ""]]),
        ("id,text\na,x,\nb,y\n", {}, ["3 fields", ["b", "y"]]),
        ("id,text\na,x,\nb,y,z\nc,y,\n", {}, ["3 fields", "3 fields", "3 fields"]),
        ("id,text\n" + "a,x,\n" * 20 + "b,y,z\nb,y\n", {}, [["a", "x"]] * 20 + ["3 fields", "2 fields"]),
        ("#one\nid,text\n#two, and more, of it\na,x\n\n#\n", {"comment": "#"}, [["a", "x"]]),
        ('id,text\na,"x\n#y"\n', {"comment": "#"}, [["a", "x\n#y"]]),
        ("id,text\na,x\n#b,y\n", {}, [["a", "x"], ["#b", "y"]]),
        (' "id" , "text" \na, " x, y " \n b,\tz\t\n\n  \n', {"trim": True}, [["a", " x, y "], ["b", "z"]]),
        ("id\ttext\na\t x \n", {"trim": True, "delimiter": "\t"}, [["a", "x"]]),
        ("id,text\na,NULL\nb,\n\\N,x\n", {"nulls": ("NULL", "", r"\N")}, [["a", None], ["b", None], [None, "x"]]),
        ("id,text\na,5\" pipe\nb,x'y\n", {}, [["a", '5" pipe'], ["b", "x'y"]]),
    ],
)
def test_dialects(data: str, dialect: dict[str, Any], rows: list[Any]) -> None:
    found = rows_of(data, **dialect)
    assert len(found) == len(rows)
    for one, expected in zip(found, rows, strict=True):
        assert expected in one if isinstance(expected, str) else one == expected


def test_a_missing_value_is_missing(tmp_path: Path) -> None:
    data = b"id,text,lang\na,x,\\N\nb,\\N,en\n\\N,y,\n"
    found = read(tmp_path, data, nulls=[r"\N"], carry=["lang"])
    assert rejects_of(found) == [
        ("b", 1, "null_text", "the text is null"),
        (None, 2, "null_id", "the id is null"),
    ]
    assert found[0][1].carry.to_pylist() == [{"lang": None}]
    assert texts_of(read(tmp_path, data, nulls=[])) == ["x", r"\N", "y"]


def test_a_missing_value_behind_the_sample_is_rejected(tmp_path: Path) -> None:
    data = b"id,text,n\n" + b"".join(b"a%d,%s,\\N\n" % (n, b"x" * 100) for n in range(3000)) + b"b,\\N,1\n"
    found = read(tmp_path, data)
    assert len(ids_of(found)) == 3000, "what stands in columns that are not in use is nobody's affair"
    message = r"text is \N: set corpus.nulls=['\N'] if it is missing, or [] if not"
    assert rejects_of(found) == [(None, 3000, "bad_csv", message)]


# --- what is sound is not asked about


@pytest.mark.parametrize(
    "data",
    [
        b'id,text\na,"{""k"": ""a \\""b\\"" c""}"\nb,"x ""y"" z"\n',
        b"id,text\na,C:\\dir\\\nb,\\section{x}\n",
        b'id,text\na, x\nb,y "z"\n',
        b"id,text\na,'tis\nb,it's\n",
        b"id,text\n#1,a\n#2,b\n",
        b"id,text\na,x\nb,y,z\nc\n",
        b"0,id,text\n1,a,x\n",
        b",id,text\n0,a,x\n1,b,y\n",
        b"id,text\na,; | x\n",
        b"id,text\ra,x\rb,y\r",
        b"id,text\na,-- x\n--,-\n",
        b"id,text\na,nul\0byte\nb,x\n",
        b'id,text\na,"one\n# two\n"\n',
    ],
)
def test_what_is_sound_is_read(data: bytes, tmp_path: Path) -> None:
    assert ids_of(read(tmp_path, data))


def test_a_sample_may_end_inside_of_quotes(tmp_path: Path) -> None:
    data = b"id,text\n" + b"".join(b'a%d,"%s"\n' % (n, b"x\n" * 30_000) for n in range(9))
    assert len(ids_of(read(tmp_path, data))) == 9
    assert read_beginning(data[:90_000], False, "/a.csv", Dialect()).ended_inside_quotes


@pytest.mark.parametrize("encoding", ["utf-16-le", "utf-16-be", "utf-32-le", "utf-32-be", "utf-16", "utf-32"])
@pytest.mark.parametrize(
    ("name", "text"),
    [("a.csv", "id,text\na,größer\n"), ("a.jsonl", '{"id": "a", "text": "日本語の文章"}\n'), ("a.txt", "größer\n")],
)
def test_other_encodings(name: str, text: str, encoding: str, tmp_path: Path) -> None:
    with pytest.raises(CorpusError, match=rf"is {encoding[:6].upper()}.* iconv -f UTF-\w+ -t UTF-8") as refused:
        read(tmp_path, text.encode(encoding), name)
    told = str(refused.value).partition("iconv -f ")[2].split()[0]
    assert ids_of(read(tmp_path, text.encode(encoding).decode(told).encode(), name))


@pytest.mark.parametrize(("name", "line"), [("a.txt", b"text"), ("a.jsonl", b'{"id": "a", "text": "x"}')])
def test_lines_of_old_macs(name: str, line: bytes, tmp_path: Path) -> None:
    with pytest.raises(CorpusError, match=r"lines that end in a carriage return alone.* tr '\\r' '\\n' < OLD > NEW"):
        read(tmp_path, line + b"\r" + line + b"\r", name)
    assert len(ids_of(read(tmp_path, line + b"\r\n" + line + b"\r", name))) == 2


# --- settings


@pytest.mark.parametrize(
    ("override", "value"),
    [
        (r"delimiter='\x01'", "\x01"),
        (r"delimiter=\x01", "\x01"),
        (r'delimiter="\x01"', "\x01"),
        (r"delimiter='\001'", "\x01"),
        (r"delimiter=\t", "\t"),
        ("delimiter=|", "|"),
        ("delimiter=;", ";"),
        ("quote='", "'"),
        (r"escape='\'", "\\"),
        ("escape=\\", "\\"),
        ("comment=#", "#"),
        ("header=null", False),
        ("header=[id, text]", ["id", "text"]),
        (r"nulls=['\N', 'NULL', '']", [r"\N", "NULL", ""]),
        (r"nulls=[\N]", [r"\N"]),
    ],
)
def test_settings_as_shells_and_yaml_leave_them(override: str, value: Any) -> None:
    assert getattr(config_of(("/c", "/m"), f"corpus.{override}").corpus, override.partition("=")[0]) == value


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        (("header=none",), r"corpus\.header: must be true or false"),
        (("header=[id, id]",), "header names a column twice"),
        (("header=[]",), r"corpus\.header: must not be empty"),
        (("header=[0, 1]",), r"corpus\.header\.0: must be a string"),
        ((r'nulls=["\N"]',), r"YAML reads \\N in double quotes as another character"),
        (("escape_unquoted=true",), "escape_unquoted has no effect without escape"),
        (('delimiter="', "escape=\\"), "delimiter must be another character"),
        (("escape=ab",), r"corpus\.escape: must be one character"),
    ],
)
def test_settings_that_contradict(overrides: tuple[str, ...], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        config_of(("/c", "/m"), *(f"corpus.{override}" for override in overrides))


def test_an_escape_that_is_the_quote_is_a_doubled_quote(tmp_path: Path) -> None:
    assert texts_of(read(tmp_path, b'id,text\na,"x ""y"" z"\n', escape='"')) == ['x "y" z']


def test_the_recipe_has_what_was_set() -> None:
    usual = make_row_recipe(CorpusSettings(path="-"))
    assert set(usual) == {"id", "text", "carry"}
    assert make_row_recipe(CorpusSettings(path="-", header=True, escape=None)) == usual
    assert make_row_recipe(CorpusSettings(path="-", escape="\\", nulls=[])) == {**usual, "escape": "\\", "nulls": []}


# --- encodings


@pytest.mark.parametrize("encoding", ["latin-1", "windows-1252", "shift_jis", "gbk"])
@pytest.mark.parametrize("name", ["a.csv", "a.jsonl", "a.txt", "a.jsonl.gz"])
def test_encodings_that_extend_ascii(name: str, encoding: str, tmp_path: Path) -> None:
    texts = ["naïve café", "größer", "x"] if encoding in ("latin-1", "windows-1252") else ["表示ソ", "x"]
    row = {"csv": "{n},{text}", "jsonl": '{{"id": "{n}", "text": "{text}"}}', "txt": "{text}"}[name.split(".")[1]]
    lines = ["id,text"] * name.endswith("csv") + [row.format(n=n, text=text) for n, text in enumerate(texts)]
    data = "".join(f"{line}\n" for line in lines).encode(encoding)
    found = read(tmp_path, gzip.compress(data) if name.endswith("gz") else data, name, encoding=encoding)
    assert texts_of(found) == texts
    assert len(rejects_of(read_all(str(tmp_path)))) >= 1, "as UTF-8 they are rejected"


def test_bytes_that_an_encoding_has_not_are_rejected(tmp_path: Path) -> None:
    (tmp_path / "csv").mkdir()
    found = read(tmp_path / "csv", b"id,text\na,x\x81y\nb,\xe9\n", encoding="windows-1252")
    assert [reject[2] for reject in rejects_of(found)] == ["bad_text"]
    assert texts_of(found) == ["é"]
    (tmp_path / "txt").mkdir()
    found = read(tmp_path / "txt", b"x\x81y\n\xe9\n", "a.txt", encoding="windows-1252")
    assert ([reject[2] for reject in rejects_of(found)], texts_of(found)) == (["bad_text"], ["é"])


@pytest.mark.parametrize("encoding", ["utf-16", "utf-7", "cp037", "rot13", "base64", "none at all"])
def test_encodings_that_do_not_extend_ascii(encoding: str) -> None:
    with pytest.raises(ConfigError, match=r"corpus\.encoding: must be utf-8, or an encoding that extends ASCII"):
        config_of(("/c", "/m"), f"corpus.encoding={encoding}")


@pytest.mark.parametrize("encoding", ["UTF-8", "utf8", "utf-8-sig"])
def test_utf_8_has_many_names(encoding: str) -> None:
    assert make_row_recipe(CorpusSettings(path="-", encoding=encoding)) == make_row_recipe(CorpusSettings(path="-"))


def test_a_header_that_is_not_utf_8(tmp_path: Path) -> None:
    """A name that nobody uses is no obstacle; else the message says what to set."""
    put(str(tmp_path), "a.csv", "id,text,é\na,x,é\n".encode("cp1252"))
    corpus = CorpusSettings(path=str(tmp_path))
    (survey,) = survey_shards(list_shards(corpus), corpus)
    assert survey.schema.names == ["id", "text", "\ufffd"]
    corpus = CorpusSettings(path=str(tmp_path), text="é")
    with pytest.raises(CorpusError, match=r"has no column 'é' .* not UTF-8: set corpus\.encoding, such as"):
        resolve_columns(survey_shards(list_shards(corpus), corpus), corpus)
    corpus = CorpusSettings(path=str(tmp_path), text="é", encoding="cp1252")
    assert resolve_columns(survey_shards(list_shards(corpus), corpus), corpus)
