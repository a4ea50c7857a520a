"""CSV and compressed files that are asked about before anything is done, or whose records are rejected.

What a message advises is taken literally: with it, the same command completes."""

import gzip
import re

import pytest

from tests.bad_input.bench import IDS, Bench, Row, check_row, check_rows

SEEMS = "{root}/corpus/a.csv seems to be written in another dialect of CSV: it "
BACKSLASHES = "escapes quotes by a backslash, as Spark does"
AS_PANDAS = "escapes outside of quotes, too, as pandas does"
BOM = b"\xef\xbb\xbf"
GOOD_CSV = b"id,text\none,One.\ntwo,Two.\n"


def csv(data: bytes, name: str = "a.csv") -> dict[str, bytes]:
    return {name: data}


ROWS = [
    Row("Spark's quotes", SEEMS + BACKSLASHES + r". Set corpus.escape='\'.",
        files=csv(b'id,text\none,"a \\"quote\\", and"\ntwo,Two.\n'), repair=(r"corpus.escape='\'",)),
    Row("Spark's quotes, where fields move", SEEMS + BACKSLASHES + r". Set corpus.escape='\'.",
        files=csv(b'id,text\none,"ends in \\", x"\ntwo,"Two \\\\, 2"\n'), repair=(r"corpus.escape='\'",)),
    Row("escaped delimiters", SEEMS + BACKSLASHES + ", and it " + AS_PANDAS + r". Set corpus.escape='\' "
        "corpus.escape_unquoted=true.", files=csv(b"id,text\none,hello\\, world\ntwo,Two.\n"),
        repair=(r"corpus.escape='\'", "corpus.escape_unquoted=true")),
    Row("escaped delimiters with Spark's rules", SEEMS + AS_PANDAS + ". Set corpus.escape_unquoted=true.",
        files=csv(b"id,text\none,hello\\, world\ntwo,Two.\n"), overrides=(r"corpus.escape='\'",),
        repair=("corpus.escape_unquoted=true",)),
    Row("escaped quotes in the texts", SEEMS + BACKSLASHES + ", and it " + AS_PANDAS + r". Set corpus.escape='\' "
        "corpus.escape_unquoted=true. If that is meant, set corpus.escape=null.",
        files=csv(b'id,text\none,say \\"hi\\"\ntwo,Two.\n'),
        repair=(r"corpus.escape='\'", "corpus.escape_unquoted=true")),
    Row("escaped quotes that are meant", phase="done", files=csv(b'id,text\none,say \\"hi\\"\ntwo,Two.\n'),
        overrides=("corpus.escape=null",)),
    Row("semicolons", SEEMS + "divides its fields by ';'. Set corpus.delimiter=';'.",
        files=csv(GOOD_CSV.replace(b",", b";")), repair=("corpus.delimiter=';'",)),
    Row("bars", SEEMS + "divides its fields by '|'. Set corpus.delimiter='|'.",
        files=csv(GOOD_CSV.replace(b",", b"|")), repair=("corpus.delimiter='|'",)),
    Row("tabs", SEEMS + r"divides its fields by '\t'. Set corpus.delimiter='\t'.",
        files=csv(GOOD_CSV.replace(b",", b"\t")), repair=(r"corpus.delimiter='\t'",)),
    Row("Hive", SEEMS + r"divides its fields by '\x01', and it does not quote its fields, and it has no header (its "
        r"first record is one, One., ), and it has \N where a value is missing. Set corpus.delimiter='\x01' "
        r"corpus.quote=null corpus.header=[id, text, c3] corpus.nulls=['\N'].",
        files=csv(b"one\x01One.\x01\\N\ntwo\x01\"Two.\x01x\n"),
        repair=(r"corpus.delimiter='\x01'", "corpus.quote=null", "corpus.header=[id, text, c3]",
                r"corpus.nulls=['\N']")),
    Row("no header", SEEMS.replace("a.csv", "a.tsv") + "has no header (its first record is one, The first passage.). "
        "Set corpus.header=[id, text].", files=csv(b"one\tThe first passage.\ntwo\tIt.\n", "a.tsv"),
        repair=("corpus.header=[id, text]",)),
    Row("names that are a row", "{root}/corpus/a.csv seems to have no header: its first record is one, The first "
        "passage., which would not be embedded. Set corpus.header=[id, text] corpus.id=id corpus.text=text. If these "
        "are names, set corpus.header=true.", files=csv(b"one,The first passage.\ntwo,It.\n"),
        overrides=("corpus.id=one", "corpus.text='The first passage.'"),
        repair=("corpus.header=[id, text]", "corpus.id=id", "corpus.text=text")),
    Row("names that are no row", phase="done", files=csv(b"one,The first passage.\none,x\ntwo,It.\n"),
        overrides=("corpus.id=one", "corpus.text='The first passage.'", "corpus.header=true")),
    Row("too few names", "{root}/corpus/a.csv: its records have 3 fields, but corpus.header names 2 columns. Name each "
        "column: corpus.header=[id, text, c3].", files=csv(b"one,One.,x\ntwo,Two.,y\n"),
        overrides=("corpus.header=[id, text]",), repair=("corpus.header=[id, text, c3]",)),
    Row("a column without a name", "{root}/corpus/a.csv: its records have 3 fields, its header 2. Remove what is too "
        "much, or name each column, in their order, such as corpus.header=[c1, id, text].",
        files=csv(b"id,text\n1,one,One.\n2,two,Two.\n"), overrides=("run.max_reject_share=1",)),
    Row("a column that was given a name", phase="reject", files=csv(b"id,text\n1,one,One.\n2,two,Two.\n"),
        overrides=("corpus.header=[c1, id, text]",),
        rejects=[(None, 0, "bad_csv", "the record has 2 fields, the header 3")]),
    Row("a blank behind the delimiter", SEEMS + "has blanks beside its delimiters. Set corpus.trim=true.",
        files=csv(b'id, text\none, "One, 1"\ntwo, Two.\n'), repair=("corpus.trim=true",)),
    Row("quotes in the texts", SEEMS + "has blanks beside its delimiters. Set corpus.trim=true. If that is meant, set "
        "corpus.trim=false.", files=csv(b'id,text\none, "One."\ntwo, "Two."\n'), repair=("corpus.trim=true",)),
    Row("quotes that are meant", phase="done", files=csv(b'id,text\none, "One."\ntwo, "Two."\n'),
        overrides=("corpus.trim=false",)),
    Row("single quotes", SEEMS + "quotes its fields by '. Set corpus.quote=\"'\".",
        files=csv(b"id,text\n'one','One, 1'\n'two','Two.'\n"), overrides=("corpus.id=null", "corpus.text=text"),
        repair=('corpus.quote="\'"',), ids=["{root}/corpus/a.csv#0", "{root}/corpus/a.csv#1"]),
    Row("comments", SEEMS + "has comments that begin with #. Set corpus.comment='#'.",
        files=csv(b"# made by us\nid,text\none,One.\n# and so on, and on, and on\ntwo,Two.\n"),
        repair=("corpus.comment='#'",)),
    Row("a table of psql", SEEMS + "divides its fields by '|', and it has blanks beside its delimiters. Set "
        "corpus.delimiter='|' corpus.trim=true.",
        files=csv(b" id  | text \n-----+------\n one | One.\n two | Two.\n(2 rows)\n"),
        overrides=("run.max_reject_share=1",), repair=("corpus.delimiter='|'", "corpus.trim=true"),
        rejects=[(None, 0, "bad_csv", "the record is a line of dashes"),
                 (None, 3, "bad_csv", "the record has 1 fields, the header 2")]),
    Row("null markers", r"{root}/corpus/a.csv has the value \N, as MySQL, PostgreSQL and Hive write what is missing. "
        r"Set corpus.nulls=['\N']. If a backslash also stands before tabs or line breaks, set "
        r"corpus.quote=null corpus.escape='\' too; if \N is a text, set corpus.nulls=[].",
        files=csv(GOOD_CSV + b"three,\\N\n"), overrides=("run.max_reject_share=1",), repair=(r"corpus.nulls=['\N']",),
        rejects=[("three", 2, "null_text", "the text is null")]),
    Row("a null marker that is meant", phase="done", files=csv(GOOD_CSV + b"three,\\N\n"),
        overrides=("corpus.nulls=[]",), ids=[*IDS, "three"]),
    Row("parts put together", phase="reject", files=csv(BOM + b"id,text\none,One.\n" + BOM + b"id,text\ntwo,Two.\n"),
        rejects=[(None, 1, "bad_csv", "the record is the header once more")]),
    Row("Excel's first line", phase="done", files=csv(b"sep=;\r\n" + GOOD_CSV.replace(b",", b";"))),
    Row("a delimiter at the end of each line", phase="done", files=csv(b"id,text\none,One.,\ntwo,Two.,\n")),
    Row("padded gzip", phase="done", files=csv(gzip.compress(GOOD_CSV) + bytes(512), "a.csv.gz")),
    Row("something behind gzip", "{root}/corpus/a.csv.gz cannot be decompressed: what stands at byte {*}, behind its "
        "compressed data, is not compressed (gzip -dc a.csv.gz | gzip > new.gz leaves it out). It is damaged, "
        "truncated or not a gzip file. Replace it, or correct its name.",
        files=csv(gzip.compress(GOOD_CSV) + b"signature", "a.csv.gz")),
    Row("UTF-16 without a mark", "{root}/corpus/a.csv is UTF-16 without a byte order mark, which is not supported. "
        "Convert it to UTF-8: iconv -f UTF-16LE -t UTF-8.", files=csv(GOOD_CSV.decode().encode("utf-16-le"))),
    Row("old Macs", "{root}/corpus/a.txt has lines that end in a carriage return alone, as on old Macs. Convert them: "
        r"tr '\r' '\n' < OLD > NEW.", files=csv(b"One.\rTwo.\r", "a.txt")),
]  # fmt: skip


@pytest.mark.parametrize("row", ROWS, ids=lambda row: row.name)
def test_csv(row: Row, bench: Bench) -> None:
    check_row(row, bench)
    if row.phase == "plan" and isinstance(row.repair, tuple):
        advice = re.search(r"(corpus\.\w+=.*?)\.(?= If|$)", row.message)
        assert advice
        assert advice[1] == " ".join(row.repair), "the advice is taken literally"
        result = bench.run(row.command, (*row.overrides, *row.repair))
        assert result.exit_code == 0, result.output
        check_rows(row, bench, str(bench.table))
