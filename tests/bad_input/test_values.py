"""Values that a table's column has no place for: each is a reject that names the column and the value, never another
value. And what looks like one and is sound."""

import datetime as dt
import io
from decimal import Decimal

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from tests.bad_input.bench import GOOD, IDS, Bench, Files, Row, check_row, not_utf8, table
from tests.tables import jsonl

CARRY = ("corpus.carry=[n]",)


def beside(typed: pa.Array, *values: object) -> Files:
    """A Parquet shard that decides the type of column n, and JSON Lines with these values of it: ids v0, v1 ..."""
    rows = [{"id": f"v{number}", "text": "x", "n": value} for number, value in enumerate(values)]
    return {"a.parquet": table(id=IDS, text=["x", "y"], n=typed), "b.jsonl": jsonl(rows)}


def lines(*values: str) -> Files:
    """JSON Lines with these values as they are spelled."""
    rows = [f'{{"id": "v{number}", "text": "x", "n": {value}}}\n' for number, value in enumerate(values)]
    return {"a.jsonl": "".join(rows).encode()}


def int96() -> bytes:
    """A time with nanoseconds, which Spark's own type has room for."""
    file = io.BytesIO()
    times = pa.array([1_704_067_200_000_000_001, 0], pa.timestamp("ns"))
    columns = pa.table({"id": ["fine", "whole"], "text": ["x", "y"], "n": times})
    pq.write_table(columns, file, use_deprecated_int96_timestamps=True, store_schema=False)
    return file.getvalue()


WHOLE = pa.array([1, 2], pa.int32())
PRICES = pa.array([Decimal("1.50"), None])
DAYS = pa.array([dt.date(2024, 1, 1), None])
INSTANTS = pa.array([0, None], pa.timestamp("us", "UTC"))
LOCAL = pa.array([0, None], pa.timestamp("ms"))
LISTS = pa.array([[1, 2], None])
OBJECTS = pa.array([{"a": 1}, None])
FIXED = pa.array([[1.0, 2.0], None], pa.list_(pa.float32(), 2))
MAPS = pa.array([[("a", 1)], None], pa.map_(pa.string(), pa.int64()))


def rejected(name: str, files: Files, *why: str, ids: tuple[str, ...] = (), first: int = 0) -> Row:
    """The rows v0, v1 ... of a file of lines are rejected for these reasons; ids: of those that are not."""
    data = files["b.jsonl"] if "b.jsonl" in files else files["a.jsonl"]
    starts = [0]
    for line in data.splitlines(keepends=True):
        starts.append(starts[-1] + len(line))
    kept = IDS if "b.jsonl" in files else []
    rejects = [(f"v{n}", starts[n], "bad_column", reason) for n, reason in enumerate(why, first)]
    return Row(name, phase="reject", files=files, overrides=CARRY, ids=[*kept, *ids], rejects=rejects)


ROWS = [
    rejected("a fraction among whole numbers", beside(WHOLE, 19.99, 3.0), "n is not int32: 19.99", ids=("v1",)),
    rejected("a number that is too large", beside(WHOLE, 2**31, -(2**31)), "n is not int32: 2147483648", ids=("v1",)),
    rejected("a fraction in a list of whole numbers", beside(LISTS, [1, 0.9], [3, None]), "n is not int64: 0.9",
             ids=("v1",)),
    rejected("a fraction in an object", beside(OBJECTS, {"a": 0.5}, {}), "n is not int64: 0.5", ids=("v1",)),
    rejected("a key that the table lacks", beside(OBJECTS, {"a": 1, "b": 2}),
             "n has 'b', which struct<a: int64> has no place for"),
    rejected("a fraction in a map", beside(MAPS, {"x": 0.5}, {"x": 5}), "n is not int64: 0.5", ids=("v1",)),
    rejected("a vector of another length", beside(FIXED, [1.5], [0.5, 1.5]),
             "n is not fixed_size_list<element: float>[2]: the array [1.5]", ids=("v1",)),
    rejected("a price with more digits", beside(PRICES, 0.125, 9.25), "n is not decimal128(3, 2): 0.125", ids=("v1",)),
    rejected("a day that is none", beside(DAYS, "2024-02-30", "01.02.2024", "9999-12-31"),
             "n is not date32[day]: '2024-02-30'", "n is not date32[day]: '01.02.2024'", ids=("v2",)),
    rejected("an instant without a zone", beside(INSTANTS, "2024-01-01 00:00:00", "2024-01-01T00:00:00+02:00"),
             "n is not timestamp[us, tz=UTC]: '2024-01-01 00:00:00'", ids=("v1",)),
    rejected("a local time with a zone", beside(LOCAL, "2024-01-01T00:00:00Z", "2024-01-01 00:00:00"),
             "n is not timestamp[ms]: '2024-01-01T00:00:00Z'", ids=("v1",)),
    rejected("a time finer than the column", beside(LOCAL, "2024-01-01T00:00:00.1234"),
             "n is not timestamp[ms]: '2024-01-01T00:00:00.1234'"),
    rejected("an exponent that no double has", lines("1e400", "Infinity", "NaN", "0.5"),
             "n is double, which has no number so far from zero", ids=("v1", "v2", "v3")),
    rejected("a whole number that no double has", lines("9007199254740993", "0.5"),
             "n is double, which has no such whole number: 9007199254740993", ids=("v1",)),
    rejected("a number of more than 64 bits", lines("36893488147419103232", "1"),
             "n is not int64: 36893488147419103232", ids=("v1",)),
    rejected("half of a character", lines(r'"\ud800"', '"x"'), "n is not string: it has a lone surrogate",
             ids=("v1",)),
    Row("bytes that are no text", phase="reject", overrides=CARRY, ids=["two"],
        files={"a.parquet": table(id=IDS, text=["x", "y"],
                                  n=pa.concat_arrays([not_utf8(), pa.array(["z"])]))},
        rejects=[("one", 0, "bad_column", "n holds bytes that are not UTF-8")]),
    Row("texts as bytes", phase="reject", ids=["one"],
        files={"a.parquet": table(id=pa.array([b"one", b"two"]), text=pa.array([b"caf\xc3\xa9", b"caf\xe9"]))},
        rejects=[("two", 1, "bad_text", "bytes that are not UTF-8: {*}")]),
    Row("ids as bytes that are no text", phase="reject", ids=["one"],
        files={"a.parquet": table(id=pa.array([b"one", b"\xff\xfe"]), text=["x", "y"])},
        rejects=[(None, 1, "bad_id", "the id is bytes that are not UTF-8: {*}")]),
    Row("nanoseconds of INT96", phase="reject", overrides=CARRY, ids=["whole"], files={"a.parquet": int96()},
        rejects=[("fine", 0, "bad_column", "n is not timestamp[us]: 2024-01-01 00:00:00.000000001")]),
    Row("a date that Python does not know", phase="done", overrides=CARRY,
        files={"a.parquet": table(id=IDS, text=["x", "y"], n=pa.array([0, 2932897], pa.date32()))}),
    Row("hashes of 64 bits", phase="done", overrides=CARRY, files=lines(str(2**64 - 1), "1", "null"),
        ids=["v0", "v1", "v2"]),
    Row("an object without keys", phase="done", overrides=CARRY, files=lines("{}", "null"), ids=["v0", "v1"]),
    Row("missing titles as NaN", phase="done", overrides=("corpus.text='{n} {text}'",), files=lines("NaN", '"T"'),
        ids=["v0", "v1"]),
    Row("a decimal in a template", phase="done", overrides=("corpus.text='{n} {text}'",),
        files={"a.parquet": table(id=IDS, text=["x", "y"], n=PRICES)}),
    Row("a day in a template",
        "{root}/corpus/a.parquet: the text column 'n' is date32[day]; it must be a string. Set corpus.text to another "
        "column.", overrides=("corpus.text='{n} {text}'",),
        files={"a.parquet": table(id=IDS, text=["x", "y"], n=DAYS)}),
    Row("several types in one file",
        "{root}/corpus/a.jsonl: the values of 'n' have several types ({*}). Use one type, for ids strings or integers, "
        "or set corpus.id and corpus.carry to other columns.", overrides=CARRY, files=lines("1", '"x"')),
    Row("several types in one file, repaired", phase="done", files=lines("1", '"x"'), ids=["v0", "v1"]),
    Row("a pointer of Git LFS",
        "{root}/corpus/a.txt is a pointer of Git LFS rather than the file itself. Fetch the file: git lfs pull.",
        files={"a.txt": b"version https://git-lfs.github.com/spec/v1\noid sha256:4d7a\nsize 12345\n"}),
    Row("a spreadsheet called CSV",
        "{root}/corpus/a.csv is compressed by zip, which its name does not say: unpack it (unzip).",
        files={"a.csv": b"PK\x03\x04\x14\0\x06\0\x08\0" + bytes(range(256))}),
    Row("a header that is not UTF-8",
        "{root}/corpus/a.csv has no column 'text' (corpus.text). Did you mean 't\ufffdxt'? It has: id, "
        "t\ufffdxt. The header is not UTF-8: set corpus.encoding, such as corpus.encoding=cp1252.",
        files={"a.csv": b"id,t\xe9xt\none,One.\n"}),
    Row("a header in other letters",
        "{root}/corpus/a.csv has no column 'id' (corpus.id). Did you mean 'ID'? It has: ID, text. If there are no ids, "
        "set corpus.id=null to number the rows.", files={"a.csv": b"ID,text\none,One.\ntwo,Two.\n"}),
    Row("a header in other letters, repaired", phase="done", overrides=("corpus.id=ID",),
        files={"a.csv": b"ID,text\none,One.\ntwo,Two.\n"}),
    Row("objects over several lines",
        "{root}/corpus/a.ndjson is not JSON Lines: no JSON object in its first 4 lines. Write one object per line: "
        "`jq -c '.[]'` converts a JSON array, `jq -c .` objects over several lines or several in one line.",
        files={"a.ndjson": b'{\n "id": "one",\n "text": "One."\n}\n'}),
    Row("JSON that is no document",
        "{root}/corpus/dataset_infos.json has no column 'id' (corpus.id). It has: default. If there are no ids, set "
        "corpus.id=null to number the rows. If the file holds no documents, name the others by a pattern in "
        "corpus.path.", files={**GOOD, "dataset_infos.json": b'{"default": {}}\n'}),
    Row("JSON that is no document, repaired", phase="done", overrides=("corpus.path={root}/corpus/*.jsonl",),
        files={**GOOD, "dataset_infos.json": b'{"default": {}}\n'}),
    Row("empty texts beside columns", phase="done", files={**GOOD, "notes.txt": b""}),
]  # fmt: skip


@pytest.mark.parametrize("row", ROWS, ids=lambda row: row.name)
def test_values(row: Row, bench: Bench) -> None:
    check_row(row, bench)
