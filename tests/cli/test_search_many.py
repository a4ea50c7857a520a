"""`search --queries`: all queries of a file in one pass, with MiniLM's real weights."""

import json
from pathlib import Path
from typing import Any

import pytest

import sfr_batch as sfr
from sfr_batch.api import EmbeddingTable
from sfr_batch.encoder.encoder import Encoder
from sfr_batch.format.parquet import read_parquet
from sfr_batch.storage.stores import open_store
from tests.cli.test_cli import TEXTS, complaint, encoder, finished, run  # noqa: F401  # two are fixtures

QUERIES = {"q1": "a pet on the couch", "q2": "columnar storage", "q3": "word " * 300}
CUT = "1 text is longer than 256 tokens; only the beginning is encoded.\n"


@pytest.fixture
def table(finished: Path, monkeypatch: pytest.MonkeyPatch, encoder: Encoder) -> Path:  # noqa: F811
    """A table whose model is loaded already."""
    monkeypatch.setattr(EmbeddingTable, "encoder", encoder)
    return finished / "table"


def lines(text: str) -> list[dict[str, Any]]:
    return [json.loads(line) for line in text.splitlines()]


def test_outputs_have_what_the_call_finds(place: str, table: Path) -> None:
    """On disk and on S3; with ids and without; each file has the rows of `search_many`."""
    store = open_store(place)
    store.create("q.jsonl", "".join(json.dumps({"_id": i, "text": t}) + "\n" for i, t in QUERIES.items()).encode())
    store.create("q.txt", "".join(f"{text}\n" for text in QUERIES.values()).encode())
    where, options = "id != 'soup'", ("-k", 2, "--show", "text", "--where", "id != 'soup'")
    found = sfr.open_table(str(table)).search_many([*QUERIES.values()], 2, ["text"], where=where).to_arrow()
    expected = found.to_pylist()
    named = [{**row, "query": [*QUERIES][row["query"]]} for row in expected]
    assert (len(named), named[0]["id"], named[2]["id"]) == (6, "cats", "parquet")

    result = run("search", table, "--queries", f"{place}/q.txt", *options)
    assert (lines(result.stdout), result.stderr) == (expected, CUT)
    for ending in ("jsonl", "parquet"):
        output = f"{place}/found.{ending}"
        result = run("search", table, "--queries", f"{place}/q.jsonl", *options, "--output", output)
        assert (result.stdout, result.stderr) == (f"Wrote 6 hits of 3 queries to {output}.\n", CUT)
    assert lines(store.read("found.jsonl").decode()) == named
    written = read_parquet(store.read("found.parquet"))
    assert written.to_pylist() == named
    assert written.schema.names == ["query", "rank", "score", "id", "text"]
    assert complaint(2, "search", table, "--queries", f"{place}/q.txt", "--output", output) == (
        f"--output {output} exists already, and is not overwritten. Name another file, or remove it.\n"
    )


def test_the_prompt_is_put_before_queries(table: Path, tmp_path: Path, encoder: Encoder, monkeypatch: Any) -> None:  # noqa: F811
    monkeypatch.setitem(encoder.recipe.prompts, "query", "Instruct: find it\nQuery: ")
    (tmp_path / "q.txt").write_text("columnar storage\n")
    opened = sfr.open_table(str(table))
    for prompt, text in (("query", "Instruct: find it\nQuery: columnar storage"), ("none", "columnar storage")):
        expected = [hit.score for hit in opened.search_many(encoder.encode([text]), 3)[0]]
        for asked in (("columnar storage", "--json"), ("--queries", tmp_path / "q.txt")):
            found = lines(run("search", table, *asked, "-k", 3, "--prompt", prompt).stdout)
            assert [hit["score"] for hit in found] == expected
    assert [hit.score for hit in opened.search("columnar storage", 3)] != expected


BAD: list[tuple[str, str, tuple[str, ...], int, str]] = [
    ("q.jsonl", '{"text": "a"}\n{"text": ""}\n', (), 1, "{file} row 2: "),
    ("q.jsonl", '{"_id": 1, "text": "a"}\n{"_id": 1, "text": "b"}\n', (), 1, "{file} row 2: the id '1' is also"),
    ("q.csv", "title\na\n", (), 1, "{file} row 1 has no column text. Columns there: title. Name the one with"),
    ("q.txt", "a\n\nb\n", (), 1, "{file} line 2 is empty."),
    ("q.txt", "", (), 1, "{file} has no texts."),
    ("q.txt", "a\n", ("--where", "nobody = 1"), 2, "nobody"),
    ("q.txt", "a\n", ("--show", "titel"), 1, "has no column 'titel'"),
    ("q.txt", "a\n", ("--output", "hits.csv"), 2, "--output hits.csv: the name must end in .parquet or .jsonl."),
    ("q.txt", "a\n", ("--output", "hits.jsonl", "--json"), 2, "Give --output or --json, not both."),
    ("q.txt", "a\n", ("--prompt", "qury"), 2, "The model of the table has no prompt 'qury'."),
]


@pytest.mark.parametrize(("name", "content", "options", "code", "told"), BAD)
def test_wrong_queries(
    table: Path, tmp_path: Path, name: str, content: str, options: tuple[str, ...], code: int, told: str
) -> None:
    file = tmp_path / name
    file.write_text(content)
    assert told.format(file=file) in complaint(code, "search", table, "--queries", file, *options)


def test_one_query_or_many(table: Path) -> None:
    told = "Give QUERY, or a file of them: --queries FILE.\n"
    assert complaint(2, "search", table) == told
    assert complaint(2, "search", table, "a", "--queries", "q.txt") == told
    for option in ("--column", "--output"):
        assert (
            complaint(2, "search", table, "a", option, "x.parquet") == f"{option} is for the texts of --queries FILE.\n"
        )
    assert "nowhere.txt: it does not exist" in complaint(1, "search", table, "--queries", "nowhere.txt")
    inside = table / "hits.jsonl"
    assert "is inside the table" in complaint(2, "search", table, "--queries", "q.txt", "--output", inside)
