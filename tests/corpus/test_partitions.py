"""Columns that stand in the path of a file: folders `key=value`."""

import datetime
from pathlib import Path

import pyarrow as pa
import pytest

from sfr_batch.config.settings import CorpusSettings, SelectSettings
from sfr_batch.corpus.columns import resolve_columns
from sfr_batch.corpus.listing import list_shards
from sfr_batch.corpus.partitions import partition_of
from sfr_batch.corpus.reader import read_unit
from sfr_batch.corpus.rows import Rows
from sfr_batch.corpus.splits import cut
from sfr_batch.corpus.survey import survey_shards
from sfr_batch.errors import CorpusError
from sfr_batch.pipeline.packing import unit_from_json, unit_to_json
from sfr_batch.planning.selection import covers
from tests.tables import jsonl, parquet, put


@pytest.mark.parametrize(
    ("uri", "found"),
    [
        ("/c/a.parquet", ()),
        ("s3://b/lang=de/year=2024/a.parquet", (("lang", "de"), ("year", "2024"))),
        ("/c/_year=2024/a=b.parquet", (("_year", "2024"),)),
        ("/c/k=a=b/=x/n=/a", (("k", "a=b"), ("n", ""))),
        ("/c/k=1/x/k=2/a", (("k", "2"),)),
        ("/c/lang=__HIVE_DEFAULT_PARTITION__/a", (("lang", None),)),
        ("/c/city=New%20York/my%20key=a%2Fb/a", (("city", "New York"), ("my key", "a/b"))),
        ("/c/city=S%C3%A3o Paulo/a", (("city", "São Paulo"),)),
        ("/c/city=São%20Paulo/a", (("city", "São Paulo"),)),
        ("/c/city=S%E3o/share=100%/a", (("city", "São"), ("share", "100%"))),
    ],
)
def test_values_are_decoded(uri: str, found: tuple[tuple[str, str | None], ...]) -> None:
    assert partition_of(uri) == found


def read(**settings: object) -> list[Rows]:
    corpus = CorpusSettings.model_validate(settings)
    surveys = survey_shards(list_shards(corpus), corpus)
    columns = resolve_columns(surveys, corpus)
    assert columns is not None
    units = [unit for survey in surveys for unit in cut(survey, 10, 10**6, ("x",), frozenset())]
    # As a worker gets them.
    return [rows for unit in units for _, rows in read_unit(unit_from_json(unit_to_json(unit)), corpus, columns)]


def carried(name: str, rows: list[Rows]) -> dict[str, object]:
    return {
        id_: value
        for part in rows
        for id_, value in zip(part.ids.to_pylist(), part.carry.column(name).to_pylist(), strict=True)
    }


def test_a_column_of_the_path_is_carried_whatever_the_format(tmp_path: Path) -> None:
    put(str(tmp_path), "lang=de/a.parquet", parquet(pa.table({"id": ["a"], "text": ["x"]})))
    put(str(tmp_path), "lang=fr/b.jsonl", jsonl([{"id": "b", "text": "x"}]))
    put(str(tmp_path), "lang=en/c.csv", b"id,text\nc,x\n")
    put(str(tmp_path), "lang=__HIVE_DEFAULT_PARTITION__/d.parquet", parquet(pa.table({"id": ["d"], "text": ["x"]})))
    rows = read(path=str(tmp_path), carry=["lang"], text="{lang}: {text}")
    assert carried("lang", rows) == {"a": "de", "b": "fr", "c": "en", "d": None}
    texts = {id_: text for part in rows for id_, text in zip(part.ids.to_pylist(), part.texts, strict=True)}
    assert texts == {"a": "de: x", "b": "fr: x", "c": "en: x", "d": ": x"}


def test_a_column_of_the_file_wins(tmp_path: Path) -> None:
    put(str(tmp_path), "lang=de/a.parquet", parquet(pa.table({"id": ["a"], "text": ["x"], "lang": ["de"]})))
    put(str(tmp_path), "lang=fr/b.jsonl", jsonl([{"id": "b", "text": "x", "lang": None}, {"id": "c", "text": "x"}]))
    rows = read(path=str(tmp_path), carry=["lang"])
    assert carried("lang", rows) == {"a": "de", "b": None, "c": "fr"}


def test_values_have_the_type_that_the_column_has_elsewhere(tmp_path: Path) -> None:
    put(str(tmp_path), "c/year=2023/a.parquet", parquet(pa.table({"id": ["a"], "text": ["x"]})))
    put(
        str(tmp_path), "c/year=02024/b.jsonl", jsonl([{"id": "b", "text": "x"}, {"id": "c", "text": "x", "year": 2024}])
    )
    put(str(tmp_path), "c/year=__HIVE_DEFAULT_PARTITION__/d.csv", b"id,text\nd,x\n")
    rows = read(path=f"{tmp_path}/c", carry=["year"])
    assert carried("year", rows) == {"a": 2023, "b": 2024, "c": 2024, "d": None}
    put(str(tmp_path), "c/year=old/e.jsonl", jsonl([{"id": "e", "text": "x"}]))
    with pytest.raises(CorpusError, match=r"/year=old/e\.jsonl: the folder year=old is no int64, which the column is"):
        read(path=f"{tmp_path}/c", carry=["year"])


DIFFERENT = [
    ("lang=de/a.parquet", parquet(pa.table({"id": ["a"], "text": ["x"], "lang": ["fr"]})), "'fr'", "'de'"),
    ("lang=de/a.parquet", parquet(pa.table({"id": ["a"], "text": ["x"], "lang": pa.array(["fr"]).dictionary_encode()})),
     "'fr'", "'de'"),
    ("lang=1/a.parquet", parquet(pa.table({"id": ["a"], "text": ["x"], "lang": [2]})), "2", "'1'"),
    ("lang=de/a.jsonl", jsonl([{"id": "a", "text": "x", "lang": "fr"}]), "'fr'", "'de'"),
    ("lang=de/a.csv", b"id,text,lang\na,x,fr\n", "'fr'", "'de'"),
]  # fmt: skip


@pytest.mark.parametrize(("name", "data", "own", "text"), DIFFERENT)
def test_a_file_that_contradicts_its_folder(name: str, data: bytes, own: str, text: str, tmp_path: Path) -> None:
    uri = put(str(tmp_path), name, data)
    said = f"{uri}: the column 'lang' has the value {own}, but the folder's name says {text}. Correct"
    with pytest.raises(CorpusError, match=said):
        read(path=str(tmp_path), carry=["lang"])
    assert len(read(path=str(tmp_path))) == 1  # as the message says: not carried, it is nobody's business


@pytest.mark.parametrize(
    ("folder", "column"),
    [
        ("v=02", pa.array([2])),
        ("v=02", pa.array(["2"])),
        ("v=true", pa.array([True])),
        ("v=2024-11-01", pa.array([datetime.date(2024, 11, 1)])),
        ("v=2024-11-01", pa.array([datetime.datetime(2023, 5, 6, 7)])),  # of the event, the folder of its arrival
        ("v=a", pa.array([None], pa.string())),
    ],
)
def test_a_file_that_agrees_with_its_folder(folder: str, column: pa.Array, tmp_path: Path) -> None:
    put(str(tmp_path), f"{folder}/a.parquet", parquet(pa.table({"id": ["a"], "text": ["x"], "v": column})))
    assert carried("v", read(path=str(tmp_path), carry=["v"])) == {"a": column[0].as_py()}


def test_folders_above_the_corpus_contradict_nothing(tmp_path: Path) -> None:
    """They give values, too, but a column of the file that has the name of one may mean something else."""
    put(str(tmp_path), "run=5/a.parquet", parquet(pa.table({"id": ["a"], "text": ["x"], "run": [7]})))
    put(str(tmp_path), "run=5/b.parquet", parquet(pa.table({"id": ["b"], "text": ["x"]})))
    assert carried("run", read(path=f"{tmp_path}/run=5", carry=["run"])) == {"a": 7, "b": 5}


def test_the_path_gives_no_ids(tmp_path: Path) -> None:
    put(str(tmp_path), "id=7/a.parquet", parquet(pa.table({"id": ["a"], "text": ["x"]})))
    put(str(tmp_path), "id=8/b.jsonl", jsonl([{"id": "b", "text": "x"}, {"text": "x"}]))
    rows = read(path=str(tmp_path))
    assert [id_ for part in rows for id_ in part.ids.to_pylist()] == ["a", "b"]
    assert [part.rejects.num_rows for part in rows] == [0, 1]


@pytest.mark.parametrize(
    ("city", "found"),
    [
        ("New York", ["New%20York"]),
        ("New%20York", ["New%20York"]),  # as it is written
        ("New*", ["New%20York"]),
        ("S..Z", ["S%C3%A3o"]),
        ("São", ["S%C3%A3o"]),
        ("__HIVE_DEFAULT_PARTITION__", ["__HIVE_DEFAULT_PARTITION__"]),
    ],
)
def test_values_are_selected_decoded(city: str, found: list[str]) -> None:
    select = SelectSettings(partitions={"city": city})
    uris = [f"/c/city={value}/a.parquet" for value in ("New%20York", "S%C3%A3o", "__HIVE_DEFAULT_PARTITION__")]
    assert [uri.split("=")[1].split("/")[0] for uri in uris if covers(select, uri)] == found


def test_values_that_a_table_states_are_selected() -> None:
    select = SelectSettings(partitions={"city": "Rome"})
    assert covers(select, "/c/data/1.parquet", (("city", "Rome"),))
    assert not covers(select, "/c/data/1.parquet", (("city", None),))
    assert not covers(select, "/c/data/1.parquet")


def test_what_is_passed_over_is_said(tmp_path: Path) -> None:
    put(str(tmp_path), "a.jsonl", jsonl([{"id": "b", "text": "x"}]))
    for name in ("notes.md", "more.md", "_old/b.jsonl"):
        put(str(tmp_path), name, b"x")
    root = str(tmp_path)
    listing = list_shards(CorpusSettings(path=[root, f"{root}/*.jsonl"]))
    assert [shard.uri for shard in listing] == [f"{root}/a.jsonl"]
    assert listing.passed_over.files == 3
    assert listing.passed_over.describe() == (
        f"3 files: 1 hidden (names that begin with _ or .), e.g. {root}/_old/b.jsonl; "
        f"2 of unknown kind, e.g. {root}/more.md"
    )
