"""The demo corpus: real docstrings, always the same ones, written whole."""

import inspect
import json
import os
import sys
from pathlib import Path

import pyarrow.parquet as pq
import pytest

from jobs import docstrings as demo
from jobs.docstrings import DemoCorpus, write_docstring_corpus
from sfr_batch.errors import CorpusError


@pytest.fixture(autouse=True)
def _few_packages(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(demo, "PACKAGES", ("networkx", "click", "not_installed_here", "not_installed.here"))


def rows(folder: Path) -> list[dict[str, str]]:
    return [row for file in sorted(folder.glob("docs-*.parquet")) for row in pq.read_table(file).to_pylist()]


def test_the_corpus_is_docstrings_under_their_names(tmp_path: Path) -> None:
    corpus = write_docstring_corpus(str(tmp_path), documents=900, shards=4)
    found = rows(tmp_path)
    ids = [row["id"] for row in found]
    assert corpus == DemoCorpus(900, sum(len(row["text"].encode()) for row in found), str(tmp_path))
    assert len(found) == len(set(ids)) == 900
    assert ids == sorted(ids)
    assert [pq.read_metadata(file).num_rows for file in sorted(tmp_path.glob("docs-*"))] == [225] * 4
    assert {row["package"] for row in found} == {"networkx", "click"}
    assert all(len(row["text"]) >= demo.MIN_CHARACTERS for row in found)
    assert all(row["id"].startswith(row["package"] + ".") or row["id"] == row["package"] for row in found)
    assert sorted(p.name for p in tmp_path.iterdir() if not p.name.startswith("docs-")) == ["_corpus.json"]


def test_ids_and_texts_are_what_python_says(tmp_path: Path) -> None:
    import click

    found = {name: text for name, (_, text) in demo.docstrings().items()}
    assert found["click.core.Command"] == inspect.getdoc(click.Command)
    assert found["click.core.Command.make_context"] == inspect.getdoc(click.Command.make_context)
    assert found["click.decorators.option"] == inspect.getdoc(click.option)


def test_nothing_is_imported(tmp_path: Path) -> None:
    before = set(sys.modules)
    write_docstring_corpus(str(tmp_path), documents=10)
    assert "networkx" not in set(sys.modules) - before


def test_a_smaller_sample_is_part_of_a_larger_one_and_repeats(tmp_path: Path) -> None:
    write_docstring_corpus(str(tmp_path / "a"), documents=50, shards=1)
    write_docstring_corpus(str(tmp_path / "b"), documents=100, shards=3)
    write_docstring_corpus(str(tmp_path / "c"), documents=100, shards=3)
    small, large, again = (rows(tmp_path / name) for name in "abc")
    assert {row["id"] for row in small} < {row["id"] for row in large}
    assert large == again


def test_a_finished_corpus_is_left_alone_and_another_one_replaces_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    first = write_docstring_corpus(str(tmp_path), documents=40, shards=4)
    before = {p.name: p.stat().st_mtime_ns for p in tmp_path.iterdir()}
    with monkeypatch.context() as no_parsing:
        no_parsing.setattr(demo, "docstrings", lambda: pytest.fail("parsed again"))
        assert write_docstring_corpus(str(tmp_path), documents=40, shards=4) == first
    assert {p.name: p.stat().st_mtime_ns for p in tmp_path.iterdir()} == before
    write_docstring_corpus(str(tmp_path), documents=30, shards=2)
    assert sorted(p.name for p in tmp_path.iterdir()) == ["_corpus.json", "docs-00000.parquet", "docs-00001.parquet"]
    assert len(rows(tmp_path)) == 30
    (tmp_path / "docs-00001.parquet").unlink()
    write_docstring_corpus(str(tmp_path), documents=30, shards=2)
    assert len(rows(tmp_path)) == 30


def test_a_half_written_corpus_is_not_taken_for_a_whole_one(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write_docstring_corpus(str(tmp_path), documents=40, shards=4)
    with monkeypatch.context() as full_disk:
        full_disk.setattr(os, "replace", lambda *_: (_ for _ in ()).throw(OSError("disk is full")))
        with pytest.raises(OSError, match="disk is full"):
            write_docstring_corpus(str(tmp_path), documents=50, shards=4)
    assert not (tmp_path / "_corpus.json").exists()
    write_docstring_corpus(str(tmp_path), documents=40, shards=4)
    assert json.loads((tmp_path / "_corpus.json").read_text())["documents"] == 40
    assert len(rows(tmp_path)) == 40


@pytest.mark.parametrize(("documents", "shards"), [(0, 1), (1, 0)])
def test_an_empty_corpus_is_refused(tmp_path: Path, documents: int, shards: int) -> None:
    with pytest.raises(CorpusError, match="at least one document"):
        write_docstring_corpus(str(tmp_path), documents, shards)


def test_too_many_documents_are_refused(tmp_path: Path) -> None:
    with pytest.raises(CorpusError, match=r"Only [\d,]+ docstrings are installed"):
        write_docstring_corpus(str(tmp_path), documents=10_000_000)
    assert not list(tmp_path.iterdir())
