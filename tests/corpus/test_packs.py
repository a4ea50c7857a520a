"""Packs: where they are cut, and how their shards are read."""

import dataclasses
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from sfr_batch.config.settings import Config, CorpusSettings, StorageSettings
from sfr_batch.corpus import packs, row_groups
from sfr_batch.corpus.columns import Columns, resolve_columns
from sfr_batch.corpus.listing import list_shards
from sfr_batch.corpus.packs import boundaries, cut_packs, find_small
from sfr_batch.corpus.reader import read_unit
from sfr_batch.corpus.shards import Shard
from sfr_batch.corpus.splits import ReadUnit, cut, pack_whole
from sfr_batch.corpus.survey import survey_shards
from sfr_batch.errors import CorpusError
from sfr_batch.format.split_ids import stream_of
from sfr_batch.pipeline.packing import unit_from_json, unit_to_json
from sfr_batch.storage.inputs import read_version
from sfr_batch.storage.s3 import filesystem
from sfr_batch.storage.stores import open_store
from sfr_batch.storage.versions import version_by_time
from tests.proxy import relay
from tests.s3server import S3Server
from tests.tables import jsonl, parquet, put

FULL = 4096


def shard(number: int, size: int, version: str = "1") -> Shard:
    return Shard(f"s3://bucket/{number:05}.jsonl", version, size, "jsonl")


listings = st.dictionaries(st.integers(0, 999), st.integers(0, FULL // 4), max_size=300).map(
    lambda sizes: [shard(number, size) for number, size in sorted(sizes.items())]
)


@given(shards=listings)
def test_packs_have_every_shard_once_in_order(shards: list[Shard]) -> None:
    found = list(cut_packs(shards, FULL))
    assert [its for pack in found for its in pack] == shards
    assert all(0 < sum(its.size for its in pack) <= FULL or len(pack) == 1 or not pack[0].size for pack in found)


@settings(max_examples=300)
@given(shards=listings, number=st.integers(0, 999), size=st.integers(0, FULL // 4), kind=st.sampled_from("arc"))
def test_an_edit_renames_no_pack_beyond_the_next_boundary(
    shards: list[Shard], number: int, size: int, kind: str
) -> None:
    """What lies before the boundary before the shard that is added, removed or changed, or behind the next, stays."""
    edited = {its.uri: its for its in shards}
    mine = shard(number, size, "2")
    if kind == "r":
        edited.pop(mine.uri, None)
    else:
        edited[mine.uri] = mine
    after = [edited[uri] for uri in sorted(edited)]
    both = [
        {its.uri for its, cuts in zip(some, boundaries(some, FULL), strict=True) if cuts and its.uri != mine.uri}
        for some in (shards, after)
    ]
    assert both[0] == both[1], "whether another shard is a boundary does not depend on this one"
    first = max((uri for uri in both[0] if uri < mine.uri), default="")
    behind = min((uri for uri in both[0] if uri > mine.uri), default="t")

    def others(some: Sequence[Shard]) -> list[list[Shard]]:
        found = [list(pack) for pack in cut_packs(some, FULL)]
        return [pack for pack in found if pack[-1].uri < first or pack[0].uri >= behind]

    assert others(shards) == others(after)


def test_few_edits_rename_more_than_two_packs() -> None:
    """Cuts between boundaries come together again: nine of ten edits rename two packs at most."""
    shards = [shard(number, 100) for number in range(0, 4000, 2)]
    before = {tuple(pack) for pack in cut_packs(shards, FULL)}
    renamed = []
    for number in range(1, 2000, 20):
        added = sorted([*shards, shard(2 * number + 1, 100)], key=lambda its: its.uri)
        removed = [its for its in shards if its != shard(2 * number, 100)]
        renamed += [len({tuple(pack) for pack in cut_packs(some, FULL)} - before) for some in (added, removed)]
    assert sum(number <= 2 for number in renamed) >= 0.9 * len(renamed)
    assert len(before) <= 2000 * 100 / FULL / 0.5


def corpus_of(folder: Path, files: dict[str, bytes]) -> CorpusSettings:
    folder.mkdir(exist_ok=True)
    for name, data in files.items():
        (folder / name).write_bytes(data)
    return CorpusSettings(path=str(folder))


def columns_of(shards: Sequence[Shard], corpus: CorpusSettings) -> Columns:
    columns = resolve_columns(survey_shards(shards, corpus), corpus)
    assert columns is not None
    return columns


def unit_of(corpus: CorpusSettings, max_rows: int = 1000, max_bytes: int = 2**20) -> ReadUnit:
    made = pack_whole(list_shards(corpus).shards, (10, 100), max_rows, max_bytes, ("identity",), frozenset())
    return unit_from_json(unit_to_json(made))


def some_files(ending: str) -> dict[str, bytes]:
    """Seven shards, of which one has no rows, and one has some that are rejected."""
    rows = [[{"id": f"{n}-{row}", "text": f"text {row} of {n}"} for row in range(n)] for n in range(7)]
    rows[4][1]["text"], rows[4][3]["id"] = "", ""
    kind = pa.schema([("id", pa.string()), ("text", pa.string())])
    made: dict[str, Any] = {
        "jsonl": jsonl,
        "csv": lambda its: "".join(f"{row['id']},{row['text']}\n" for row in [kind_row, *its]).encode(),
        "parquet": lambda its: parquet(pa.Table.from_pylist(its, schema=kind)),
    }
    kind_row = {"id": "id", "text": "text"}
    return {f"{n}.{ending}": made[ending](its) for n, its in enumerate(rows)}


@pytest.mark.parametrize("ending", ["jsonl", "csv", "parquet"])
@pytest.mark.parametrize("max_rows", [1000, 5])
def test_a_pack_has_the_rows_of_its_shards(tmp_path: Path, ending: str, max_rows: int) -> None:
    corpus = corpus_of(tmp_path / "corpus", some_files(ending))
    shards = list_shards(corpus).shards
    columns = columns_of(shards, corpus)
    whole = [unit for survey in survey_shards(shards, corpus) for unit in cut(survey, 1000, 2**20, (), frozenset())]
    expected = [rows for unit in whole for _, rows in read_unit(unit, corpus, columns)]
    unit = unit_of(corpus, max_rows)
    found = list(read_unit(unit, corpus, columns))
    assert [text for _, rows in found for text in rows.texts] == [text for rows in expected for text in rows.texts]
    for name in ("shards", "positions", "ids", "content_hash", "row_hash"):
        ours = [value for _, rows in found for value in getattr(rows, name).to_pylist()]
        assert ours == [value for rows in expected for value in getattr(rows, name).to_pylist()], name
    ours = [row for _, rows in found for row in rows.rejects.to_pylist()]
    assert ours == [row for rows in expected for row in rows.rejects.to_pylist()]
    assert len(ours) == 2
    for _, rows in found:
        assert rows.places is not None
        assert [unit.whole[place].uri for place in rows.places.to_pylist()] == rows.shards.to_pylist()
    assert all(split.rows == rows.read <= max_rows for split, rows in found)
    assert [stream_of(split.split_id)[1:] for split, _ in found] == [
        (number, number == len(found) - 1) for number in range(len(found))
    ]
    assert unit.stream is not None
    if max_rows == 5:
        assert len(found) == 5
        rest = dataclasses.replace(unit, stream=dataclasses.replace(unit.stream, done=(0, 2)))
        again = list(read_unit(rest, corpus, columns))
        assert [(split, rows.texts) for split, rows in again] == [
            (split, rows.texts) for split, rows in found if split.start not in (0, 2)
        ]


@pytest.mark.parametrize("ending", ["jsonl", "parquet"])
def test_a_pack_is_cut_by_bytes_of_text(tmp_path: Path, ending: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """In the same way however the file is read: the names of its splits stand for their rows."""
    corpus = corpus_of(tmp_path / "corpus", some_files(ending))
    columns = columns_of(list_shards(corpus).shards, corpus)
    unit = unit_of(corpus, max_bytes=200)
    found = list(read_unit(unit, corpus, columns))
    assert len(found) > 3
    assert all(split.text_bytes <= 200 for split, _ in found)
    monkeypatch.setattr(row_groups, "_ROWS_PER_READ", 2)
    again = list(read_unit(unit, corpus, columns))
    assert [(split, rows.texts) for split, rows in again] == [(split, rows.texts) for split, rows in found]


def test_a_condemned_pack_takes_its_next_name(tmp_path: Path) -> None:
    corpus = corpus_of(tmp_path / "corpus", some_files("jsonl"))
    shards = list_shards(corpus).shards
    seen: set[str] = set()
    for _ in range(3):
        stream = pack_whole(shards, (1, 1), 9, 9, ("x",), frozenset(f"{name}{'0' * 8}" for name in seen)).stream
        assert stream is not None
        assert stream.prefix not in seen
        seen.add(stream.prefix)


@pytest.mark.parametrize("ending", ["jsonl", "csv", "parquet"])
def test_a_shard_without_a_column_is_named(tmp_path: Path, ending: str) -> None:
    files = some_files(ending)
    corpus = corpus_of(tmp_path / "corpus", files)
    columns = columns_of(list_shards(corpus).shards, corpus)
    other = files[f"3.{ending}"]
    wrong = {
        "jsonl": other.replace(b'"text"', b'"body"'),
        "csv": other.replace(b"id,text", b"id,body"),
        "parquet": parquet(pa.table({"id": ["1"], "body": ["a text"]})),
    }[ending]
    (tmp_path / "corpus" / f"3.{ending}").write_bytes(wrong)
    with pytest.raises(CorpusError, match=rf"3\.{ending} has no column 'text' \(corpus\.text\)"):
        list(read_unit(unit_of(corpus), corpus, columns))


@pytest.mark.parametrize(
    ("what", "message"), [("replaced", "was replaced"), ("deleted", "was deleted"), ("damaged", "cannot be read")]
)
def test_a_shard_that_is_not_what_was_listed(tmp_path: Path, what: str, message: str) -> None:
    corpus = corpus_of(tmp_path / "corpus", some_files("parquet"))
    columns = columns_of(list_shards(corpus).shards, corpus)
    file = tmp_path / "corpus" / "5.parquet"
    if what == "damaged":
        file.write_bytes(b"PAR1" + bytes(100))
    unit = unit_of(corpus)
    if what == "replaced":
        os.utime(file, ns=(1, 1))
    if what == "deleted":
        file.unlink()
    with pytest.raises(CorpusError, match=rf"5\.parquet {message}"):
        list(read_unit(unit, corpus, columns))


def test_shards_are_packed_if_they_are_many(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Only those that are small in their corpus; a sample of them is surveyed, and all others."""
    files = {f"{n:02}.jsonl": jsonl([{"id": f"{n}-{row}", "text": "some text"} for row in range(2)]) for n in range(40)}
    files["large.jsonl"] = jsonl([{"id": f"large-{row}", "text": "some text"} for row in range(200)])
    corpus = corpus_of(tmp_path / "corpus", files)
    run = Config.model_validate(
        {
            "corpus": corpus,
            "model": {"path": "m"},
            "table": {"path": "t"},
            "run": {"rows_per_split": 40, "min_splits": 1},
        }
    ).run
    shards = list_shards(corpus).shards
    small, surveys = find_small(shards, corpus, run)
    assert (small, len(surveys)) == ([], 41)
    monkeypatch.setattr(packs, "FEWEST", 40)
    monkeypatch.setattr(packs, "SAMPLE", 10)
    ((kind,), surveys) = find_small(shards, corpus, run)
    assert kind.shards == shards[:40]
    assert len(surveys) in (10, 11), "the sample, and the large one, which may be in it"
    assert surveys[-1].shard.uri.endswith("large.jsonl")
    assert kind.expected(kind.shards)[0] == pytest.approx(80, rel=0.1)
    assert 2 <= len(list(kind.packs())) <= 6


def test_a_shard_on_s3_is_one_request(s3: S3Server, s3_prefix: str) -> None:
    """Its version is the condition; another one is an error, and so is a shard that is gone."""
    for number in range(30):
        put(s3_prefix, f"{number:02}.jsonl", jsonl([{"id": f"{number}-{row}", "text": "text"} for row in range(3)]))
    with relay(s3.endpoint) as through:
        storage = StorageSettings(endpoint_url=through.endpoint)
        corpus = CorpusSettings(path=s3_prefix, storage=storage)
        shards = list_shards(corpus).shards
        columns = columns_of(shards[:1], corpus)
        unit = unit_of(corpus)
        before = len(through.requests)
        ((_, rows),) = read_unit(unit, corpus, columns)
        assert len(rows.texts) == 90
        assert [method for method, *_ in through.requests[before:]] == ["GET"] * 30
        assert read_version(shards[3].uri, "0123456789abcdef0123456789abcdef", storage) is None
        by_time = version_by_time(filesystem(shards[3].uri, storage).info(shards[3].uri.removeprefix("s3://")))
        data = read_version(shards[3].uri, shards[3].version, storage)
        assert data is not None
        assert read_version(shards[3].uri, by_time, storage) == data
        put(s3_prefix, "07.jsonl", jsonl([{"id": "7", "text": "another"}]))
        with pytest.raises(CorpusError, match=r"07\.jsonl was replaced"):
            list(read_unit(unit, corpus, columns))
        open_store(s3_prefix).delete(["07.jsonl"])
        with pytest.raises(CorpusError, match=r"07\.jsonl was deleted"):
            list(read_unit(unit, corpus, columns))
