"""Which files are read, as what, and what becomes of the others: nothing is passed over in silence."""

import gzip
import os
import re
from collections.abc import Sequence
from pathlib import Path

import pyarrow as pa
import pytest

from sfr_batch.config.settings import CorpusSettings
from sfr_batch.corpus.columns import resolve_columns
from sfr_batch.corpus.file_formats import format_of
from sfr_batch.corpus.file_names import was_passed_over
from sfr_batch.corpus.listing import Listing, list_shards
from sfr_batch.corpus.shards import delimiter_of
from sfr_batch.corpus.survey import survey_shards
from sfr_batch.errors import CorpusError
from tests.planning.test_planning import here as here
from tests.planning.test_planning import plan_of
from tests.tables import do_plan, jsonl, parquet, put

LINES = jsonl([{"id": "a", "text": "x"}])
TABLE = parquet(pa.table({"id": ["a"], "text": ["x"]}))


def listed(place: str, path: str | list[str] | None = None, **settings: object) -> Listing:
    return list_shards(CorpusSettings.model_validate({"path": path or place, **settings}))


def shards(place: str, path: str | list[str] | None = None, **settings: object) -> dict[str, str]:
    return {shard.uri.removeprefix(f"{place}/"): shard.format for shard in listed(place, path, **settings)}


@pytest.mark.parametrize(
    ("name", "found"),
    [
        ("a.jl", ("jsonl", "")),
        ("a.LDJSON.gz", ("jsonl", "gzip")),
        ("part-00000-1f.c000.json.gz", ("jsonl", "gzip")),
        ("a.parq", ("parquet", "")),
        ("part-00000.snappy.parquet", ("parquet", "")),
        ("a.parquet.gzip", ("parquet", "")),
        ("a.parquet.snappy", ("parquet", "")),
        ("a.parquet.zst", ("parquet", "")),
        ("a.psv", ("csv", "")),
        ("a.text.zst", ("text", "zstd")),
        ("a.jsonl.1", ("jsonl", "")),
        ("a.jsonl.1.gz", ("jsonl", "gzip")),
        ("a.jsonl.gz.2", ("jsonl", "gzip")),
        ("a.csv.2024-11-01", ("csv", "")),
        ("out.txt-00000-of-00008", ("text", "")),
        ("out-00000-of-00008.jsonl", ("jsonl", "")),
        ("a.csv.part2", ("csv", "")),
        ("a.jsonl.bak", (None, "")),
        ("a.parquet.crc", (None, "")),
        ("data.1", (None, "")),
        ("notes.md", (None, "")),
    ],
)
def test_formats_by_name(name: str, found: tuple[str | None, str]) -> None:
    assert format_of(f"/some/where.parquet/{name}") == found


def test_a_psv_has_bars(tmp_path: Path) -> None:
    uri = put(str(tmp_path), "a.psv.gz", gzip.compress(b"id|text\na|x, y\n"))
    corpus = CorpusSettings(path=uri)
    (survey,) = survey_shards(list_shards(corpus), corpus)
    assert survey.schema.names == ["id", "text"]
    assert delimiter_of(survey.shard, CorpusSettings(path=uri, delimiter=";")) == ";"


BY_ENGINES = [
    "000001_0",
    "000000_0_copy_1",
    "part-00001",
    "part-m-00000",
    "part-00001-2c3ef6a0-1a2b-4c3d-8e9f-0123456789ab-c000",
    "part-00001.c000",
    "20241101_101112_00007_abcde_2c3ef6a0-1a2b-4c3d-8e9f-0123456789ab",
    "2c3ef6a0-1a2b-4c3d-8e9f-0123456789ab",
    "0000_part_00",
    "export-000000000000",
    "data_0_0_0",
    "out-00000-of-00004",
    "c34b5a3a1b5ac2f3-9e8d7c6b00000000_123456789_data.0.",
    "xaa",
]


@pytest.mark.parametrize("name", BY_ENGINES)
def test_files_of_engines_without_an_ending(name: str, tmp_path: Path) -> None:
    root = str(tmp_path)
    put(root, "a.parquet", TABLE)
    put(root, name, TABLE)
    assert shards(root) == {"a.parquet": "parquet", name: "parquet"}
    put(root, name, LINES)
    with pytest.raises(CorpusError, match=rf"1 data file whose names do not tell their format, e\.g\. {root}/{name}\."):
        listed(root)
    (tmp_path / "a.parquet").unlink()
    assert shards(root, format="jsonl") == {name: "jsonl"}


@pytest.mark.parametrize("name", ["part-00000.gz", "0000_part_00.gz"])
def test_a_compressed_file_may_be_of_any_format(name: str, tmp_path: Path) -> None:
    data = gzip.compress(LINES)
    root = str(tmp_path)
    put(root, name, data)
    with pytest.raises(CorpusError, match=r"do not tell their format.*Set corpus\.format to parquet, jsonl"):
        listed(root)
    assert shards(root, format="jsonl") == {name: "jsonl"}


def test_unknown_names_are_read_if_they_begin_as_parquet(tmp_path: Path) -> None:
    root = str(tmp_path)
    for name in ("rows.dat", "export.par", "dump", "deep/rows7.dat"):
        put(root, name, TABLE)
    put(root, "README", b"about\n")
    listing = listed(root)
    assert [shard.uri.rsplit("/", 1)[-1] for shard in listing] == ["rows7.dat", "dump", "export.par", "rows.dat"]
    assert listing.passed_over.describe() == f"1 file: 1 of unknown kind, e.g. {root}/README"


def test_files_of_one_shape_and_two_kinds_are_a_question(tmp_path: Path) -> None:
    root = str(tmp_path)
    put(root, "rows1.dat", TABLE)
    put(root, "rows2.dat", LINES)
    with pytest.raises(CorpusError, match="2 data files whose names do not tell their format"):
        listed(root)


@pytest.mark.parametrize(("data", "kind"), [(b"ORC\x00\x00\x00", "ORC"), (b"Obj\x01\x04\x14", "Avro")])
def test_what_an_engine_has_written_is_named(data: bytes, kind: str, tmp_path: Path) -> None:
    root = str(tmp_path)
    put(root, "a.parquet", TABLE)
    put(root, "000000_0", data)
    with pytest.raises(
        CorpusError, match=rf"1 data file in unsupported formats, e\.g\. {root}/000000_0, which is {kind}\..*Convert"
    ):
        listed(root)


def test_many_files_are_opened_once_for_each_shape(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    opened: list[str] = []

    def read(uri: str, *_: object) -> bytes:
        opened.append(uri)
        return TABLE

    monkeypatch.setattr("sfr_batch.corpus.listing.read_input_range", read)
    for number in range(200):
        put(str(tmp_path), f"part-{number:05}", b"x")
    assert len(shards(str(tmp_path))) == 200
    assert len(opened) == 2


@pytest.mark.parametrize("name", ["a.jsonl.bz2", "a.jsonl.snappy", "a.txt.lz4", "a.csv.br", "a.tar.gz", "a.orc", "a.Z"])
@pytest.mark.parametrize("asked", ["auto", "text"])
def test_forms_that_are_not_supported(name: str, asked: str, tmp_path: Path) -> None:
    """Also with corpus.format: their bytes would be taken for documents."""
    root = str(tmp_path)
    put(root, "a.txt", b"x\n")
    put(root, name, b"x")
    with pytest.raises(CorpusError, match=rf"1 data file in unsupported formats, e\.g\. {root}/{name}\.") as error:
        listed(root, format=asked)
    advice = re.search(r"corpus\.path=(\S+)\.$", str(error.value))
    assert advice is not None
    assert shards(root, advice[1], format=asked) == {"a.txt": "text"}


def test_the_advice_names_all_that_can_be_read(tmp_path: Path) -> None:
    root = str(tmp_path)
    for name in ("a.JSONL.gz", "deep/b.parquet"):
        put(root, name, LINES)
    put(root, "c.avro", b"x")
    with pytest.raises(CorpusError) as error:
        listed(root)
    advice = re.search(r"corpus\.path=\[(\S+),(\S+)\]\.$", str(error.value))
    assert advice is not None
    assert shards(root, list(advice.groups())) == {"a.JSONL.gz": "jsonl", "deep/b.parquet": "parquet"}


def survey_error(root: str) -> str:
    corpus = CorpusSettings(path=root)
    with pytest.raises(CorpusError) as error:
        resolve_columns(survey_shards(list_shards(corpus), corpus), corpus)
    return str(error.value)


@pytest.mark.parametrize(
    "data",
    [
        b'[\n{"id": "a", "text": "x"},\n{"id": "b", "text": "y"}\n]\n',
        b'[{"id": "a", "text": "x"},\n{"id": "b", "text": "y"}]',
        b'{\n  "id": "a",\n  "text": "x"\n}\n',
    ],
)
def test_json_that_is_not_lines(data: bytes, tmp_path: Path) -> None:
    put(str(tmp_path), "a.json", data)
    said = survey_error(str(tmp_path))
    assert said.startswith(f"{tmp_path}/a.json is not JSON Lines: its first line is no whole JSON value. ")
    assert "jq -c '.[]'" in said
    assert "jq -c ." in said


def test_json_lines_by_another_name(tmp_path: Path) -> None:
    put(str(tmp_path), "part-00000.json", LINES)
    put(str(tmp_path), "b.json", b'\xef\xbb\xbf\n{"id": "b", "text": "x"}')
    corpus = CorpusSettings(path=str(tmp_path))
    assert [survey.rows for survey in survey_shards(list_shards(corpus), corpus)] == [1, 1]


def test_parquet_that_is_compressed_as_a_whole(tmp_path: Path) -> None:
    put(str(tmp_path), "a.parquet.gz", gzip.compress(TABLE))
    assert "It is compressed as a whole: unpack it (gunzip)." in survey_error(str(tmp_path))
    put(str(tmp_path), "a.parquet.gz", TABLE)  # as to_parquet("a.parquet.gz", compression="gzip") writes it
    corpus = CorpusSettings(path=str(tmp_path))
    (survey,) = survey_shards(list_shards(corpus), corpus)
    assert survey.rows == 1


@pytest.mark.parametrize(
    ("name", "data", "said"),
    [
        (
            "a.jsonl",
            gzip.compress(LINES),
            "is compressed by gzip, which its name does not say: rename it to a.jsonl.gz,",
        ),
        (
            "a.csv",
            gzip.compress(b"id,text\na,x\n"),
            "is compressed by gzip, which its name does not say: rename it to a.",
        ),
        (
            "a.txt",
            b"\x28\xb5\x2f\xfd\0",
            "is compressed by zstd, which its name does not say: rename it to a.txt.zst, or",
        ),
        ("a.csv", b"PK\x03\x04\x14\0\x06\0\x9c\xdc", "is compressed by zip, which its name does not say: unpack it"),
        ("a.jsonl", TABLE, "is a Parquet file with another ending. Rename it to .parquet."),
        ("a.csv", b"ORC\x08\x03\x10", "is ORC, whatever its name says, which is not supported. Convert it."),
        *(
            (
                name,
                b"version https://git-lfs.github.com/spec/v1\noid sha256:4d7a\nsize 12345\n",
                "is a pointer of Git LFS",
            )
            for name in ("a.txt", "a.jsonl", "a.csv", "a.parquet", "a.jsonl.gz", "a.csv.zst")
        ),
    ],
)
def test_files_that_are_not_what_they_are_called(name: str, data: bytes, said: str, tmp_path: Path) -> None:
    put(str(tmp_path), name, data)
    assert survey_error(str(tmp_path)).startswith(f"{tmp_path}/{name} {said}")


@pytest.mark.parametrize("text", ["ORCID 0000-0002", "PARENT of many", "PAR1 and PAR2", "BZ and PK"])
def test_texts_that_begin_as_files_of_another_kind(text: str, tmp_path: Path) -> None:
    put(str(tmp_path), "a.csv", f"{text},id,text\n1,a,x\n".encode())
    put(str(tmp_path), "notes", f"{text}\n".encode())
    corpus = CorpusSettings(path=str(tmp_path))
    assert listed(str(tmp_path)).passed_over.files == 1
    (survey,) = survey_shards(list_shards(corpus), corpus)
    assert survey.rows == 1


def test_files_that_are_set_aside_are_said_and_not_read(tmp_path: Path) -> None:
    root = str(tmp_path)
    for name in ("a.parquet", "b.parquet.tmp", "c.parquet.bak", "part-1.inprogress", "d.jsonl~", "e.parquet._COPYING_"):
        put(root, name, TABLE)
    listing = listed(root)
    assert [shard.uri for shard in listing] == [f"{root}/a.parquet"]
    assert listing.passed_over.describe() == (
        f"5 files: 5 set aside or being written, by their names (.tmp, .bak and others), e.g. {root}/b.parquet.tmp"
    )
    assert len(listed(f"{root}/c.parquet.bak", format="parquet")) == 1


def test_markers_are_not_worth_a_word(place: str) -> None:
    put(place, "c/day=1/a.parquet", TABLE)
    for name in ("_SUCCESS", "day=1/.a.parquet.crc", "_metadata", "day=1/_committed_12", "day_$folder$", "MD5SUMS"):
        put(place, f"c/{name}", b"x")
    put(place, "c/nothing", b"")
    listing = listed(f"{place}/c")
    assert len(listing) == 1
    assert not listing.passed_over.files
    assert len(listed(f"{place}/c", format="parquet")) == 1


def test_empty_files(place: str) -> None:
    """A Parquet file of 0 bytes has no footer; an empty file of lines is a file without rows."""
    put(place, "c/a.parquet", TABLE)
    put(place, "c/b.parquet", b"")
    put(place, "c/c.jsonl", b"")
    listing = listed(f"{place}/c")
    assert [shard.uri.rsplit("/", 1)[-1] for shard in listing] == ["a.parquet", "c.jsonl"]
    assert listing.passed_over.describe() == f"1 file: 1 without a byte, e.g. {place}/c/b.parquet"


def test_what_is_hidden_is_said(place: str) -> None:
    put(place, "c/a.jsonl", LINES)
    for name in ("_old/b.jsonl", ".c.jsonl", "_lang=de/_old/d.jsonl"):
        put(place, f"c/{name}", LINES)
    assert listed(f"{place}/c").passed_over.describe() == (
        f"3 files: 3 hidden (names that begin with _ or .), e.g. {place}/c/.c.jsonl"
    )
    assert shards(place, f"{place}/c/_old") == {"c/_old/b.jsonl": "jsonl"}


def test_all_is_hidden(tmp_path: Path) -> None:
    root = str(tmp_path)
    put(root, "c/_old/b.jsonl", LINES)
    with pytest.raises(CorpusError, match=r"matches no files but 1 file whose names.*corpus\.path=(\S+)\.$") as error:
        listed(f"{root}/c")
    assert shards(root, str(error.value).rsplit("=", 1)[1].rstrip(".")) == {"c/_old/b.jsonl": "jsonl"}


def test_folders_that_spark_reads_as_partitions(place: str) -> None:
    put(place, "c/_year=2024/a.jsonl", LINES)
    (shard,) = listed(f"{place}/c")
    assert shard.partition == (("_year", "2024"),)


def test_names_of_one_file_by_links(tmp_path: Path) -> None:
    root = str(tmp_path)
    put(root, "c/day=1/a.jsonl", LINES)
    put(root, "c/day=2/b.jsonl", LINES)
    put(root, "elsewhere/c.jsonl", LINES)
    (tmp_path / "c/current").symlink_to("day=2")
    (tmp_path / "c/day=2/0.jsonl").symlink_to("b.jsonl")
    (tmp_path / "c/y.jsonl").symlink_to(tmp_path / "elsewhere/c.jsonl")
    (tmp_path / "c/x.jsonl").symlink_to(tmp_path / "elsewhere/c.jsonl")
    os.link(tmp_path / "c/day=1/a.jsonl", tmp_path / "c/day=1/hard.jsonl")
    expected = ["c/day=1/a.jsonl", "c/day=1/hard.jsonl", "c/day=2/b.jsonl", "c/x.jsonl"]
    assert list(shards(root, f"{root}/c")) == expected
    assert list(shards(root, f"{root}/c/**/*.jsonl")) == expected
    assert listed(root, f"{root}/c").passed_over.describe() == (
        f"4 files: 4 counted once, for links give them a second name, e.g. {root}/c/current/0.jsonl"
    )
    assert list(shards(root, f"{root}/c/current")) == ["c/current/b.jsonl"]


def test_a_link_to_a_hidden_folder_is_read(tmp_path: Path) -> None:
    put(str(tmp_path), "c/.versions/7/a.jsonl", LINES)
    (tmp_path / "c/current").symlink_to(".versions/7")
    assert list(shards(str(tmp_path), f"{tmp_path}/c")) == ["c/current/a.jsonl"]


@pytest.mark.parametrize("paths", [("c/latest", "c/day=1"), ("c/day=1", "c/latest")])
def test_one_file_through_two_paths(paths: Sequence[str], tmp_path: Path) -> None:
    root = str(tmp_path)
    put(root, "c/day=1/a.jsonl", LINES)
    (tmp_path / "c/latest").symlink_to("day=1")
    (tmp_path / "c/newest").symlink_to("day=1")
    assert list(shards(root, [f"{root}/{path}" for path in paths])) == ["c/day=1/a.jsonl"]
    two_links = [f"{root}/c/newest", f"{root}/c/latest"]
    assert list(shards(root, two_links)) == ["c/newest/a.jsonl"]


def test_a_night_says_what_earlier_releases_passed_over(here: tuple[str, str]) -> None:
    """Until a snapshot has such files: then their reader is known to read them."""
    root = here[0]
    put(root, "corpus/a.parquet", TABLE)
    first = plan_of(here)
    assert not first.newly_read
    assert "earlier releases" not in first.describe()
    do_plan(first)
    put(root, "corpus/b.parq", parquet(pa.table({"id": ["b"], "text": ["x"]})))
    put(root, "corpus/_lang=de/c.parquet", parquet(pa.table({"id": ["c"], "text": ["x"]})))
    second = plan_of(here)
    assert second.newly_read == (f"{root}/corpus/_lang=de/c.parquet", f"{root}/corpus/b.parq")
    assert (
        f"2 files that earlier releases passed over without a word, e.g. {root}/corpus/_lang=de/c.parquet, are read "
        "from now on"
    ) in second.describe()
    do_plan(second)
    put(root, "corpus/d.parq", TABLE)
    assert not plan_of(here).newly_read


@pytest.mark.parametrize(
    ("below", "before"),
    [
        ("/a.jsonl", False),
        ("/a.parquet", False),
        ("/a.txt.gz", False),
        ("/a.json", False),
        ("/a.parquet.gz", False),
        ("/a.jl", True),
        ("/000000_0", True),
        ("/a.jsonl.1", True),
        ("/_lang=de/a.jsonl", True),
    ],
)
def test_what_earlier_releases_passed_over(below: str, before: bool) -> None:
    assert was_passed_over(f"/_corpus{below}", below) == before
