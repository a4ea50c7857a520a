"""Which columns are carried, and what they are called in the table."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest
import yaml

from sfr_batch.config.settings import CorpusSettings
from sfr_batch.corpus.columns import Carried, Columns, resolve_columns
from sfr_batch.corpus.listing import list_shards
from sfr_batch.corpus.survey import survey_shards
from sfr_batch.errors import ConfigError
from sfr_batch.planning.recipes import make_row_recipe
from tests.corpus.test_corpus import read_all
from tests.tables import jsonl, parquet, put

ROWS = [{"id": "a", "text": "x", "ID": 7, "meta": {"lang": "de", "Lang": "DE"}}]


def columns_of(path: Path, known: Columns | None = None, **options: Any) -> Columns:
    corpus = CorpusSettings(path=str(path), **options)
    columns = resolve_columns(survey_shards(list_shards(corpus), corpus), corpus, known)
    assert columns is not None
    return columns


@pytest.mark.parametrize("kind", ["jsonl", "parquet"])
def test_a_mapping_names_columns_of_the_table(tmp_path: Path, kind: str) -> None:
    put(str(tmp_path), f"a.{kind}", jsonl(ROWS) if kind == "jsonl" else parquet(pa.Table.from_pylist(ROWS)))
    ((_, rows),) = read_all(str(tmp_path), carry={"lang": "meta.lang", "number": "ID", "again": "meta.lang"})
    assert rows.carry.to_pylist() == [{"lang": "de", "number": 7, "again": "de"}]
    ((_, rows),) = read_all(str(tmp_path), carry=["meta.lang"])
    assert rows.carry.to_pylist() == [{"meta.lang": "de"}]


def test_a_mapping_without_other_names_is_the_list() -> None:
    """Such tables and their splits are one."""
    same = [
        make_row_recipe(CorpusSettings(path="-", carry=carry)) for carry in (["a", "b.c"], {"a": "a", "b.c": "b.c"})
    ]
    assert same[0] == same[1]
    assert make_row_recipe(CorpusSettings(path="-", carry={"c": "b.c"}))["carry"] == {"c": "b.c"}


@pytest.mark.parametrize(
    ("carry", "advice"),
    [
        (["ID"], "the names 'id' and 'ID' differ only by case"),
        (["Embedding", "meta.lang"], "'embedding' and 'Embedding'"),
        (["meta.lang", "meta.Lang"], "'meta.lang' and 'meta.Lang'"),
        ({"a, b": "meta.lang", "ROW_HASH": "ID"}, "'row_hash' and 'ROW_HASH'"),
        (["text", "embedding"], "'embedding' is a column name reserved"),
    ],
)
def test_names_that_engines_would_confuse(tmp_path: Path, carry: Sequence[str], advice: str) -> None:
    """The advice is a setting that works as it stands there."""
    put(str(tmp_path), "a.jsonl", jsonl([{**ROWS[0], "Embedding": 1, "embedding": 2}]))
    with pytest.raises(ConfigError, match=advice) as caught:
        columns_of(tmp_path, carry=carry)
    setting = yaml.safe_load(str(caught.value).split("carry: ")[-1].removesuffix("."))
    found = columns_of(tmp_path, carry=setting)
    assert [column.path for column in found.carry.values()] == list(
        CorpusSettings(path="-", carry=carry).carried.values()
    )


def test_names_of_a_table_that_is_there_stay(tmp_path: Path) -> None:
    put(str(tmp_path), "a.jsonl", jsonl(ROWS))
    known = Columns(pa.string(), {"ID": Carried("ID", pa.int64())})
    assert columns_of(tmp_path, known, carry=["ID"]) == known


def test_names_that_differ_in_more_than_case(tmp_path: Path) -> None:
    put(str(tmp_path), "a.jsonl", jsonl(ROWS))
    assert list(columns_of(tmp_path, carry={"language": "meta.lang", "LANG": "meta.Lang"}).carry) == [
        "language",
        "LANG",
    ]
