"""Text, CSV and JSON Lines, plain and compressed; nested columns; ids made of positions; splits cut while reading."""

import csv
import dataclasses
import gzip
import io
import random
import threading
from collections.abc import Callable, Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import Any, ClassVar

import pyarrow as pa
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from sfr_batch.config.settings import CorpusSettings, StorageSettings
from sfr_batch.corpus import read_ahead, row_groups
from sfr_batch.corpus.columns import resolve_columns
from sfr_batch.corpus.listing import list_shards
from sfr_batch.corpus.reader import read_unit
from sfr_batch.corpus.splits import Split, Stream, cut
from sfr_batch.corpus.survey import survey_shards
from sfr_batch.errors import ConfigError, CorpusError
from sfr_batch.format.split_ids import missing_in_stream, stream_of
from sfr_batch.pipeline.run_log import RunLog
from sfr_batch.storage.stores import open_store
from sfr_batch.table.commit.unfinished import unfinished_runs
from sfr_batch.table.table import Table
from tests.corpus.test_corpus import IDENTITY, MANY, NOT_UTF8, ids_of, read_all, rejects_of, survey_of, units_of
from tests.models import build_tiny_mistral
from tests.planning.test_planning import config_of, plan_of
from tests.proxy import relay
from tests.s3server import S3Server
from tests.tables import do_plan, do_splits, jsonl, parquet, put

TEXTS = [f"Zeile {n}: größer, 日本 {'x' * (n % 7)}" for n in range(40)]


def zstd(data: bytes) -> bytes:
    packed: bytes = pa.compress(data, codec="zstd", asbytes=True)
    return packed


PACKERS: dict[str, Callable[[bytes], bytes]] = {"": bytes, ".gz": gzip.compress, ".zst": zstd}


def csv_of(records: Sequence[Sequence[str]], delimiter: str = ",") -> bytes:
    text = io.StringIO(newline="")
    csv.writer(text, delimiter=delimiter).writerows(records)
    return text.getvalue().encode()


def content(kind: str) -> bytes:
    ids = [f"d{n}" for n in range(len(TEXTS))]
    if kind == "jsonl":
        return jsonl([{"id": i, "text": t} for i, t in zip(ids, TEXTS, strict=True)])
    if kind == "txt":
        return "".join(text + "\n" for text in TEXTS).encode()
    return csv_of([("id", "text"), *zip(ids, TEXTS, strict=True)], "\t" if kind == "tsv" else ",")


def texts_of(found: Sequence[tuple[Split, Any]]) -> list[str]:
    return [text for _, part in found for text in part.texts]


# --- every format


@pytest.mark.parametrize("packing", PACKERS)
@pytest.mark.parametrize("kind", ["jsonl", "csv", "tsv", "txt"])
def test_every_format_gives_every_document_once(place: str, kind: str, packing: str) -> None:
    uri = put(place, f"a.{kind}{packing}", PACKERS[packing](content(kind)))
    for max_rows, max_bytes in ((MANY, MANY), (7, MANY), (MANY, 300), (1, MANY)):
        found = read_all(place, max_rows, max_bytes)
        assert texts_of(found) == TEXTS
        assert rejects_of(found) == []
        if kind == "txt":
            offsets = [sum(len(text.encode()) + 1 for text in TEXTS[:n]) for n in range(len(TEXTS))]
            assert ids_of(found) == [f"{uri}#{offset}" for offset in offsets]
        else:
            assert ids_of(found) == [f"d{n}" for n in range(len(TEXTS))]
        assert all(rows.read <= max_rows for _, rows in found) or not (packing or kind in ("csv", "tsv"))
        if packing or kind in ("csv", "tsv"):
            assert [split.rows for split, _ in found] == [rows.read for _, rows in found]
            assert [stream_of(split.split_id)[1:] for split, _ in found] == [
                (n, n == len(found) - 1) for n in range(len(found))
            ]
            sizes = [split.text_bytes for split, _ in found]
            assert all(size <= max(max_bytes, 100) for size in sizes)


@pytest.mark.parametrize("name", ["a.jsonl.gz", "a.jsonl.zst", "a.csv", "a.txt.gz"])
def test_empty_streams_have_no_splits(place: str, name: str) -> None:
    packing = "." + name.rsplit(".", 1)[1] if name.count(".") == 2 else ""
    for number, data in enumerate((b"", b"\n\n \n")):
        put(place, f"{number}{name}", PACKERS[packing](data))
    put(place, "2.csv" if name == "a.csv" else f"2{name}", PACKERS[packing](content(name.split(".")[1])))
    corpus = CorpusSettings(path=place)
    surveys = survey_shards(list_shards(corpus), corpus)
    assert [survey.empty for survey in surveys] == [True, True, False]
    assert len(read_all(place)) == 1


def test_csv_with_a_header_alone_is_empty(tmp_path: Path) -> None:
    put(str(tmp_path), "a.csv", b"id,text\n")
    put(str(tmp_path), "b.csv", b"id,text\n1,x\n")
    assert ids_of(read_all(str(tmp_path))) == ["1"]


def test_format_is_given_for_files_whose_names_say_nothing(tmp_path: Path) -> None:
    put(str(tmp_path), "part-00000", b"one\ntwo\n")
    put(str(tmp_path), "part-00001.gz", gzip.compress(b"three\r\n\r\nfour"))
    put(str(tmp_path), "_SUCCESS", b"")
    assert texts_of(read_all(str(tmp_path), format="text")) == ["one", "two", "three", "four"]


def test_text_among_files_with_columns_is_a_question(tmp_path: Path) -> None:
    put(str(tmp_path), "README.txt", b"about this corpus\n")
    put(str(tmp_path), "a.jsonl", b'{"id": 1, "text": "x"}\n')
    with pytest.raises(
        CorpusError,
        match=r"holds text files, e\.g\. .*README\.txt, mixed with files that have columns.*Select the files",
    ):
        list_shards(CorpusSettings(path=str(tmp_path)))
    assert len(list_shards(CorpusSettings(path=f"{tmp_path}/*.jsonl"))) == 1


def test_estimates_of_streams_are_near(tmp_path: Path) -> None:
    lines = [{"id": n, "text": f"document {n} " * 20} for n in range(30_000)]
    plain = jsonl(lines)
    put(str(tmp_path), "a.jsonl.gz", gzip.compress(plain))
    corpus = CorpusSettings(path=str(tmp_path))
    (survey,) = survey_shards(list_shards(corpus), corpus)
    assert 0.5 < survey.rows / len(lines) < 2
    assert 0.5 < survey.text_bytes / len(plain) < 2
    (unit,) = cut(survey, 1000, MANY, IDENTITY, frozenset())
    assert unit.stream is not None
    assert 15 <= unit.stream.expected_splits() <= 60


# --- CSV


def read_csv(tmp_path: Path, data: bytes, **options: Any) -> list[tuple[Split, Any]]:
    put(str(tmp_path), "a.csv", data)
    return read_all(str(tmp_path), **options)


def test_csv_fields_hold_what_quotes_protect(tmp_path: Path) -> None:
    data = b'\xef\xbb\xbfid,text,n\r\n1,"two\nlines, and ""quotes""",5\r\n\r\n2, plain ,\r\n'
    found = read_csv(tmp_path, data, carry=["n"])
    assert ids_of(found) == ["1", "2"]
    assert texts_of(found) == ['two\nlines, and "quotes"', " plain "]
    assert found[0][1].carry.column("n").to_pylist() == ["5", ""], "values are strings, as they stand there"


def test_csv_rejects(tmp_path: Path) -> None:
    data = b"id,text\na,good\nb\nc,x,y\n,no id\nd,\ne,bad \xff byte\nf,nul\x00byte\n"
    found = read_csv(tmp_path, data)
    assert ids_of(found) == ["a", "f"]
    assert texts_of(found) == ["good", "nul\x00byte"]
    assert rejects_of(found) == [
        (None, 1, "bad_csv", "the record has 1 fields, the header 2"),
        (None, 2, "bad_csv", "the record has 3 fields, the header 2"),
        ("", 3, "null_id", "the id is empty"),
        ("d", 4, "empty_text", "the text is empty or only white space"),
        (
            "e",
            5,
            "bad_text",
            f"the text is not valid Unicode at character 4: {NOT_UTF8}",
        ),
    ]


def test_csv_whose_quote_never_closes_is_an_error_and_no_single_row(tmp_path: Path) -> None:
    data = b'id,text\na,x\nb,"begins\nc,y\nd,z\n' * 1
    with pytest.raises(CorpusError, match=r"a\.csv: the CSV record near line 3 cannot be parsed .*not closed"):
        read_csv(tmp_path, data)
    long = b"id,text\n" + b"a,good\n" * 60_000 + b'b,"begins\n' + b"c,y\n" * 60_000
    with pytest.raises(CorpusError, match=r"a\.csv: the CSV record near line 60002 cannot be parsed"):
        read_csv(tmp_path, long)


def test_csv_delimiter(tmp_path: Path) -> None:
    assert texts_of(read_csv(tmp_path, b"id;text\n1;a, b\n", delimiter=";")) == ["a, b"]
    with pytest.raises(CorpusError, match=r"it divides its fields by ';'\. Set corpus\.delimiter=';'\."):
        read_csv(tmp_path, b"id;text\n1;x\n")


# --- damaged compression


@pytest.mark.parametrize("packing", [".gz", ".zst"])
def test_damaged_compression_is_named(tmp_path: Path, packing: str) -> None:
    data = PACKERS[packing](jsonl([{"id": n, "text": f"document {n * n} {n**5}"} for n in range(60_000)]))
    uri = put(str(tmp_path), f"a.jsonl{packing}", data[: len(data) // 2])
    units, read = units_of(uri, 1000)
    message = rf"{uri} cannot be read: Truncated compressed stream.*replace it or remove it"
    with pytest.raises(CorpusError, match=message):
        read(units[0])
    uri = put(str(tmp_path), f"a.jsonl{packing}", b"never compressed\n" * 50_000)
    with pytest.raises(CorpusError, match=rf"{uri} cannot be decompressed: .* or not a (gzip|zstd) file"):
        units_of(uri)
    uri = put(str(tmp_path), f"a.jsonl{packing}", PACKERS[packing](b'{"id": 1, "text": "x"}\n')[:-3])
    with pytest.raises(CorpusError, match=rf"{uri} cannot be decompressed: Truncated"):
        units_of(uri)


def test_what_was_read_before_the_damage_stays(tmp_path: Path) -> None:
    data = gzip.compress(jsonl([{"id": n, "text": f"document {n * n} {n**5}"} for n in range(60_000)]))
    corpus = CorpusSettings(path=put(str(tmp_path), "a.jsonl.gz", data[: len(data) // 2]))
    (survey,) = survey_shards(list_shards(corpus), corpus)
    (unit,) = cut(survey, 1000, MANY, IDENTITY, frozenset())
    reading = read_unit(unit, corpus, resolve_columns([survey], corpus))
    found = []

    def read_on() -> None:
        for pair in reading:
            found.append(pair)  # one by one: the error is to come after them

    with pytest.raises(CorpusError, match="Truncated"):
        read_on()
    assert len(found) > 10
    assert [rows.read for _, rows in found] == [1000] * len(found)
    assert not any(stream_of(split.split_id)[2] for split, _ in found), "none claims to be the last"


def test_members_one_after_the_other_are_one_stream(tmp_path: Path) -> None:
    for packing, pack in (*PACKERS.items(),):
        parts = [jsonl([{"id": f"{packing}{n}", "text": "x"}]) for n in range(3)]
        put(str(tmp_path), f"a.jsonl{packing}", b"".join(map(pack, parts)))
    assert len(ids_of(read_all(str(tmp_path)))) == 9


# --- streams


@settings(max_examples=60)
@given(st.lists(st.integers(1, 60), max_size=30), st.integers(1, 8), st.integers(20, 200), st.sets(st.integers(0, 30)))
def test_any_part_of_a_stream_may_be_done(
    tmp_path_factory: pytest.TempPathFactory, lengths: list[int], max_rows: int, max_bytes: int, done: set[int]
) -> None:
    folder = tmp_path_factory.mktemp("stream")
    uri = put(str(folder), "a.txt.gz", gzip.compress(b"".join(b"x" * length + b"\n" for length in lengths)))
    corpus = CorpusSettings(path=uri)
    (survey,) = survey_shards(list_shards(corpus), corpus)
    units = cut(survey, max_rows, max_bytes, IDENTITY, frozenset())
    if not lengths:
        assert units == []
        return
    (unit,) = units
    assert unit.stream is not None
    columns = resolve_columns([survey], corpus)
    whole = list(read_unit(unit, corpus, columns))
    assert [len(text) for text in texts_of(whole)] == lengths
    part = dataclasses.replace(unit, stream=dataclasses.replace(unit.stream, done=tuple(sorted(done))))
    rest = list(read_unit(part, corpus, columns))
    assert [s for s, _ in rest] == [s for s, _ in whole if stream_of(s.split_id)[1] not in done]
    assert texts_of(rest) == [t for s, rows in whole for t in rows.texts if stream_of(s.split_id)[1] not in done]


@given(st.integers(1, 50), st.data())
def test_what_a_stream_lacks(splits: int, data: st.DataObject) -> None:
    """The names of what is there tell whether a shard is complete, in whatever order its splits were committed."""
    there = data.draw(st.sets(st.integers(0, splits - 1)))
    found = [(number, number == splits - 1) for number in there]
    missing = missing_in_stream(found)
    assert (missing == 0) == (len(there) == splits)
    assert missing <= splits - len(there)
    if splits - 1 in there:
        assert missing == splits - len(there)


def test_names_of_a_stream_are_stable_and_name_their_cut() -> None:
    survey = survey_of([(30, 300)])
    survey = dataclasses.replace(survey, shard=dataclasses.replace(survey.shard, uri="/c/a.csv", format="csv"))

    def names(**changes: Any) -> str:
        given = {"max_rows": 10, "max_bytes": 1000, "identity": IDENTITY, "condemned": frozenset()} | changes
        (unit,) = cut(survey, given["max_rows"], given["max_bytes"], given["identity"], given["condemned"])
        assert unit.stream is not None
        return unit.stream.split_id(0, last=True)

    assert names() == "5b6e9160eac38528bae82b8680000000", "another name would orphan what is committed"
    assert len({names(), names(max_rows=11), names(max_bytes=11), names(identity=["r", "f", ""])}) == 4
    other = names(condemned=frozenset([Stream(names()[:24], 1, 1, 1, 1).split_id(7, last=False)]))
    assert other[:24] != names()[:24], "one condemned split moves its whole stream to another name"


# --- plans over streams


def test_the_life_of_a_stream(place: str, mistral: str) -> None:
    """A run is cut off in the middle, and one split in front is lost: only what is missing is read out again."""
    root = place, mistral
    put(place, "corpus/a.csv.gz", gzip.compress(csv_of([("id", "text"), *((f"a{n}", "x" * 9) for n in range(95))])))
    put(place, "corpus/b.parquet", parquet(pa.table({"id": [f"b{n}" for n in range(25)], "text": ["y"] * 25})))
    plan = plan_of(root)
    assert "~" in plan.describe().splitlines()[2]
    assert plan.missing([]) == 1 + 3, "of a stream at least one"
    first = do_splits(plan, only=4)
    assert [receipt.shard.rsplit("/")[-1] for receipt in first] == ["a.csv.gz"] * 4
    lost = first[1].split_id
    open_store(f"{place}/table").delete([f"data/{lost}.parquet"])

    resumed = plan_of(root)
    assert set(resumed.done) == {receipt.split_id for receipt in first} - {lost}
    assert resumed.todo[0].stream is not None
    assert resumed.todo[0].stream.done == (0, 2, 3)
    assert sum(resumed.to_arrow()["committed"].to_pylist()) == 3
    rest = do_splits(resumed)
    assert {receipt.split_id for receipt in rest}.isdisjoint(resumed.done)
    assert lost in {receipt.split_id for receipt in rest}
    assert resumed.missing(receipt.split_id for receipt in rest) == 0
    assert resumed.missing(receipt.split_id for receipt in rest[:-4]) == 4, "three of Parquet and the end of the stream"
    assert resumed.missing(receipt.split_id for receipt in rest if receipt.split_id != lost) == 1

    finished = plan_of(root)
    assert finished.todo == []
    RunLog(plan.store, plan, "run")
    (run,) = unfinished_runs(Table.open(plan.store))
    assert (run.splits, run.committed, run.rows) == (13, 13, 125)
    assert do_plan(finished).manifest.counts.read == 120
    ids = Table.open(open_store(f"{place}/table")).to_arrow(["id"])["id"].to_pylist()
    assert ids == [f"a{n}" for n in range(95)] + [f"b{n}" for n in range(25)], "in corpus order"
    assert plan_of(root).up_to_date


def test_estimates_may_be_wrong(tmp_path: Path, mistral: str) -> None:
    """Long lines first, short ones after the sample: many more splits than expected, and none is forgotten."""
    noise = random.Random(7)
    long = [{"id": n, "text": noise.randbytes(5000).hex()} for n in range(80)]
    lines = long + [{"id": n, "text": "x"} for n in range(80, 4000)]
    put(str(tmp_path), "corpus/a.jsonl.gz", gzip.compress(jsonl(lines)))
    root = str(tmp_path), mistral
    plan = plan_of(root, "run.rows_per_split=100")
    expected = len(plan.splits)
    done = do_splits(plan, only=25)
    assert len(done) == 25 > expected
    again = plan_of(root, "run.rows_per_split=100")
    assert len(again.todo_splits) >= 1
    assert len(again.done) == 25
    assert do_plan(again).manifest.counts.read == 4000


def test_delimiter_and_format_are_part_of_the_row_recipe(tmp_path: Path, mistral: str) -> None:
    put(str(tmp_path), "corpus/a.csv", b"id,text\n1,a;b\n")
    root = str(tmp_path), mistral
    do_plan(plan_of(root))
    assert plan_of(root).up_to_date
    assert not plan_of(root, "corpus.format=csv").up_to_date


# --- ids made of positions


def test_derived_ids(place: str) -> None:
    texts = ["a", "b", "c"]
    files = {
        "a.parquet": parquet(pa.table({"text": texts}), [1, 2]),
        "b.jsonl": jsonl([{"text": text} for text in texts]),
        "c.csv": csv_of([("text",), *([text] for text in texts)]),
        "d.jsonl.gz": gzip.compress(jsonl([{"text": text} for text in texts])),
    }
    for name, data in files.items():
        put(place, name, data)
    expected = [
        *(f"{place}/a.parquet#{n}" for n in range(3)),
        *(f"{place}/b.jsonl#{n * 14}" for n in range(3)),
        *(f"{place}/c.csv#{n}" for n in range(3)),
        *(f"{place}/d.jsonl.gz#{n * 14}" for n in range(3)),
    ]
    assert len(jsonl([{"text": "a"}])) == 14
    for max_rows in (MANY, 1):
        assert ids_of(read_all(place, max_rows, id=None)) == expected
    with pytest.raises(CorpusError, match=r"no column 'id' .* set corpus\.id=null to number the rows"):
        units_of(place)


# --- nested columns


def test_columns_inside_structs(place: str) -> None:
    documents = [
        {"meta": {"id": "a", "lang": "de"}, "doc": {"title": "T", "body": {"text": "x"}}, "tags": ["p"]},
        {"meta": {"id": "b", "lang": None}, "doc": {"title": None, "body": {"text": "y"}}, "tags": []},
        {"meta": {"id": "c", "lang": "fr"}, "doc": {"title": "U", "body": None}, "tags": None},
        {"meta": {"id": "d", "lang": "fr"}, "doc": None, "tags": ["q", "r"]},
        {"meta": None, "doc": {"title": "V", "body": {"text": "z"}}, "tags": None},
    ]
    body = pa.struct([("text", pa.string()), ("unused", pa.string())])
    kind = pa.schema(
        [
            ("meta", pa.struct([("id", pa.string()), ("lang", pa.string())])),
            ("doc", pa.struct([("title", pa.string()), ("body", body)])),
            ("tags", pa.list_(pa.string())),
        ]
    )
    options = {"id": "meta.id", "text": "{doc.title} {doc.body.text}", "carry": ["meta.lang", "tags"]}
    for name, data in (
        ("a.parquet", parquet(pa.Table.from_pylist(documents, schema=kind), [2, 3])),
        ("a.jsonl", jsonl(documents)),
        ("a.jsonl.zst", zstd(jsonl(documents))),
    ):
        folder = f"{place}/{name.replace('.', '-')}"
        put(folder, name, data)
        found = read_all(folder, **options)
        assert ids_of(found) == ["a", "b", "c"], name
        assert texts_of(found) == ["T x", "y", "U"]
        carried = [row for _, rows in found for row in rows.carry.to_pylist()]
        assert carried == [
            {"meta.lang": "de", "tags": ["p"]},
            {"meta.lang": None, "tags": []},
            {"meta.lang": "fr", "tags": None},
        ]
        assert [(id_, reason) for id_, _, reason, _ in rejects_of(found)] == [("d", "null_text"), (None, "null_id")]
        with pytest.raises(CorpusError, match=r"no column 'doc\.titel' .*Did you mean 'doc\.title'\?"):
            units_of(folder, id="meta.id", text="doc.titel")


def test_a_name_with_dots_comes_before_a_path(tmp_path: Path) -> None:
    table = pa.table({"id": ["a"], "doc.text": ["named so"], "doc": [{"text": "inside"}]})
    put(str(tmp_path), "a.parquet", parquet(table))
    put(str(tmp_path), "b.jsonl", jsonl([{"id": "b", "doc.text": "named so", "doc": {"text": "inside"}}]))
    assert texts_of(read_all(str(tmp_path), text="doc.text")) == ["named so"] * 2


# --- row groups


def test_a_large_row_group_is_read_in_pieces(place: str, monkeypatch: pytest.MonkeyPatch) -> None:
    table = pa.table({"id": list(range(9000)), "text": [f"text {n} " * (n % 50) or "-" for n in range(9000)]})
    put(place, "a.parquet", parquet(table))
    at_once = read_all(place, 1000)
    monkeypatch.setattr(row_groups, "READ_AT_ONCE", 1)
    monkeypatch.setattr(row_groups, "_PIECE", 4096)
    monkeypatch.setattr(row_groups, "_BATCH_BYTES", 100_000)
    in_pieces = read_all(place, 1000)
    assert ids_of(in_pieces) == ids_of(at_once) == list(range(9000))
    assert texts_of(in_pieces) == texts_of(at_once)


class Watched(io.FileIO):
    """A file that keeps in mind which threads read it."""

    readers: ClassVar[set[int]] = set()

    def read(self, size: int | None = -1) -> bytes:
        self.readers.add(threading.get_ident())
        return super().read(-1 if size is None else size)

    def readinto(self, buffer: Any) -> int:
        self.readers.add(threading.get_ident())
        return super().readinto(buffer)


@pytest.mark.parametrize("at_once", [1, MANY])
def test_no_thread_of_arrow_reads_a_shard(at_once: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """One that still held the file as the process ends would bring it down, see `open_parquet`."""
    table = pa.table({"id": list(range(900)), "text": ["some text"] * 900, "lang": ["en"] * 900})
    put(str(tmp_path), "a.parquet", parquet(table, [300] * 3))
    monkeypatch.setattr(row_groups, "READ_AT_ONCE", at_once)
    monkeypatch.setattr(row_groups, "open_input", lambda uri, *_, **__: Watched(uri))
    monkeypatch.setattr(Watched, "readers", set())
    assert len(ids_of(read_all(str(tmp_path), carry=["lang"]))) == 900
    assert Watched.readers == {threading.get_ident()}


def test_row_groups_on_s3_are_a_few_requests(s3: S3Server, s3_prefix: str) -> None:
    """Each column of each by itself would be ninety."""
    texts = [random.Random(n).randbytes(20_000).hex() for n in range(300)]
    columns = {"id": list(range(300)), "other": ["between"] * 300, "text": texts, "lang": ["en"] * 300}
    put(s3_prefix, "a.parquet", parquet(pa.table(columns), [10] * 30))
    with relay(s3.endpoint) as through:
        found = read_all(s3_prefix, storage=StorageSettings(endpoint_url=through.endpoint), carry=["lang"])
    assert ids_of(found) == list(range(300))
    assert texts_of(found) == texts
    assert len([method for method, *_ in through.requests if method == "GET"]) < 10, through.requests


@example([(0, 5), (10, 1), (16, 1)], [])
@given(
    st.lists(st.tuples(st.integers(0, 60), st.integers(1, 30))),
    st.lists(st.tuples(st.integers(0, 90), st.integers(0, 90)), max_size=9),
)
def test_what_was_fetched_is_what_the_file_has(
    tmp_path_factory: pytest.TempPathFactory, chunks: list[tuple[int, int]], reads: list[tuple[int, int]]
) -> None:
    """Inside of what was fetched, across its ends, beside it and behind the end of the file."""
    data = bytes(range(80))
    uri = put(str(tmp_path_factory.mktemp("shard")), "a", data)
    columns = [
        SimpleNamespace(data_page_offset=at, dictionary_page_offset=0, total_compressed_size=n) for at, n in chunks
    ]
    with pytest.MonkeyPatch.context() as small, open(uri, "rb") as file:
        small.setattr(read_ahead, "_PIECE", 7)
        small.setattr(read_ahead, "_HOLE", 5)
        ranges = read_ahead.ranges_of(columns)
        fetched = read_ahead.Fetched(file, uri, ranges, StorageSettings())
        covered = {place for start, end in ranges for place in range(start, end)}
        wanted = {place for at, size in chunks for place in range(at, at + size)}
        assert wanted <= covered
        assert len(covered) <= 2 * sum(size for _, size in chunks)
        for place, size in reads:
            assert fetched.seek(place) == place
            assert fetched.read(size) == data[place : place + size]
            assert fetched.tell() == max(place, min(place + size, 80))
        assert fetched.seek(-3, io.SEEK_END) == 77
        assert fetched.seek(1, io.SEEK_CUR) == 78


def test_settings_that_make_no_sense(mistral: str) -> None:
    for override, message in (
        ("corpus.delimiter=ab", r"corpus\.delimiter: must be one character, such as ';'"),
        (
            "corpus.format=xml",
            r"corpus\.format: must be 'auto', 'parquet', 'jsonl', 'csv', 'text', 'delta' or 'iceberg'",
        ),
    ):
        with pytest.raises(ConfigError, match=message):
            config_of(("/nowhere", mistral), override)


# --- what files are called, and what is in them


@pytest.mark.parametrize("name", ["A.CSV", "a.Csv.gz", "a.csv.gzip", "a.csv.zstd", "a.csv.ZST"])
def test_endings_in_any_spelling(name: str, tmp_path: Path) -> None:
    pack = gzip.compress if "gz" in name else zstd if "zst" in name.lower() else bytes
    put(str(tmp_path), name, pack(b"id,text\na,x\n"))
    assert ids_of(read_all(str(tmp_path))) == ["a"]


def test_quotes_may_mean_nothing(tmp_path: Path) -> None:
    put(str(tmp_path), "a.tab", b'id\ttext\n1\t"Hello" he said\n2\t"open\n3\tB"\n')
    found = read_all(str(tmp_path), quote=None)
    assert [text for _, rows in found for text in rows.texts] == ['"Hello" he said', '"open', 'B"']
    with pytest.raises(CorpusError, match=r"set corpus\.quote=null if it does not quote fields"):
        read_all(str(tmp_path))


def test_a_byte_order_mark_before_a_quoted_header(tmp_path: Path) -> None:
    put(str(tmp_path), "a.csv", b'\xef\xbb\xbf"id","text"\n"a","x"\n')
    assert ids_of(read_all(str(tmp_path))) == ["a"]


def test_lines_that_end_in_a_carriage_return_alone(tmp_path: Path) -> None:
    put(str(tmp_path), "a.csv", b"id,text\r" + b"".join(b"%d,x\r" % n for n in range(100_000)))
    corpus = CorpusSettings(path=str(tmp_path))
    (survey,) = survey_shards(list_shards(corpus), corpus)
    assert survey.rows == pytest.approx(100_000, rel=0.2)
    assert len(ids_of(read_all(str(tmp_path)))) == 100_000


@pytest.mark.parametrize(
    ("name", "head"),
    [("a.jsonl", b""), ("a.txt", b""), ("a.csv", b""), ("a.jsonl.gz", b""), ("a.csv", b"id,text\na,x\n")],
)
def test_a_file_without_line_breaks_is_not_read_whole(
    name: str, head: bytes, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("sfr_batch.corpus.records.MAX_RECORD", 2**19)
    monkeypatch.setattr("sfr_batch.corpus.sampling.MAX_RECORD", 2**19)
    data = head + random.Random(0).randbytes(2**21).hex().encode()
    put(str(tmp_path), name, gzip.compress(data) if name.endswith(".gz") else data)
    if head and name != "a.csv":
        pytest.skip("its first lines are no rows of this format")
    with pytest.raises(CorpusError, match=r"a\.\w+(\.gz)?: the .*line.* is longer than \d+ MiB. Split it, or remove"):
        read_all(str(tmp_path))


# --- files of lines that know only a part of the columns


def test_types_are_what_all_shards_say_together(tmp_path: Path) -> None:
    put(str(tmp_path), "a.jsonl", jsonl([{"id": "a", "text": "x", "year": None, "tags": [], "n": 1}]))
    put(str(tmp_path), "b.jsonl", jsonl([{"id": "b", "text": "x", "year": 2000, "tags": ["t"], "n": 1.5}]))
    put(str(tmp_path), "c.jsonl", jsonl([{"id": "c", "text": "x"}]))
    found = read_all(str(tmp_path), carry=["year", "tags", "n"])
    assert rejects_of(found) == []
    rows = pa.concat_tables([rows.carry for _, rows in found]).to_pylist()
    assert rows == [
        {"year": None, "tags": [], "n": 1.0},
        {"year": 2000, "tags": ["t"], "n": 1.5},
        {"year": None, "tags": None, "n": None},
    ]


def test_columns_without_a_value_anywhere_stay_open(tmp_path: Path) -> None:
    put(str(tmp_path), "a.jsonl", jsonl([{"id": "a", "text": "x", "none": None, "empty": []}]))
    ((_, rows),) = read_all(str(tmp_path), carry=["none", "empty"])
    assert rows.carry.schema.types == [pa.null(), pa.list_(pa.null())]


def test_a_shard_may_lack_a_column_of_a_template(tmp_path: Path) -> None:
    put(str(tmp_path), "a.jsonl", jsonl([{"id": "a", "title": "A", "text": "x"}]))
    put(str(tmp_path), "b.jsonl", jsonl([{"id": "b", "text": "y"}]))
    found = read_all(str(tmp_path), text="{title} {text}")
    assert [text for _, rows in found for text in rows.texts] == ["A x", "y"]
    with pytest.raises(CorpusError, match=r"a\.jsonl has no column 'titel'"):
        read_all(str(tmp_path), text="{titel} {text}")
    put(str(tmp_path), "c.jsonl", jsonl([{"id": "c", "body": "y"}]))
    with pytest.raises(CorpusError, match=r"c\.jsonl has no column 'title'"):
        read_all(str(tmp_path), text="{title} {text}")


def test_a_recipe_that_was_good_is_good_for_shards_without_the_column(tmp_path: Path) -> None:
    """Last night's shard had titles, tonight's has none."""
    put(str(tmp_path), "corpus/a.jsonl", jsonl([{"id": "a", "title": "A", "text": "x", "n": 1}]))
    here = str(tmp_path), str(build_tiny_mistral(tmp_path / "mistral"))
    recipe = ("corpus.text='{title} {text}'", "corpus.carry=[n]")
    do_plan(plan_of(here, *recipe))
    put(str(tmp_path), "corpus/b.jsonl", jsonl([{"id": "b", "text": "y"}]))
    plan = plan_of(here, *recipe)
    assert [shard.uri.rsplit("/", 1)[1] for shard, _ in plan.changed] == ["b.jsonl"]
    assert len(plan.todo) == 1
