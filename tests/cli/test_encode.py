"""`encode`: the query encoder of a table for other services, with MiniLM's real weights."""

import gzip
import io
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from click.testing import CliRunner

import sfr_batch as sfr
from sfr_batch.api import EmbeddingTable
from sfr_batch.cli.main import main
from sfr_batch.encoder.encoded import EncodedTokens
from sfr_batch.encoder.encoder import Encoder
from sfr_batch.errors import ConfigError
from sfr_batch.evaluation import encoding
from sfr_batch.format.parquet import read_parquet
from sfr_batch.storage.stores import open_store
from tests.cli.test_cli import TEXTS, complaint, encoder, finished, run  # noqa: F401  # two are fixtures

LONG = "word " * 300
ROWS = [{"_id": "b", "text": TEXTS["cats"]}, {"_id": 7, "text": LONG}]
CUT = "1 text is longer than 256 tokens; only the beginning is encoded.\n"


@pytest.fixture
def table(finished: Path, monkeypatch: pytest.MonkeyPatch, encoder: Encoder) -> Path:  # noqa: F811
    """A table whose model is loaded already."""
    monkeypatch.setattr(EmbeddingTable, "encoder", encoder)
    return finished / "table"


def printed(text: str, key: str = "number") -> tuple[list[Any], np.ndarray[Any, Any]]:
    lines = [json.loads(line) for line in text.splitlines()]
    assert all([*line] == [key, "embedding"] for line in lines)
    return [line[key] for line in lines], np.array([line["embedding"] for line in lines], np.float32)


def test_vectors_are_those_of_the_table(finished: Path) -> None:  # noqa: F811
    """The command loads the model itself: equal bits to `table.encoder`, and to the table's rows up to rounding."""
    opened = sfr.open_table(str(finished / "table"))
    ids, matrix = opened.to_numpy()
    texts = [TEXTS[name] for name in ids]
    keys, vectors = printed(run("encode", finished / "table", "--prompt", "document", *texts).stdout)
    assert keys == [0, 1, 2, 3]
    assert np.array_equal(vectors, opened.encoder.encode(texts, prompt="document"))
    assert np.abs(vectors - matrix).max() < 1e-6


def test_a_prompt_is_put_before_each_text(table: Path, encoder: Encoder, monkeypatch: pytest.MonkeyPatch) -> None:  # noqa: F811
    for name in ("query", "other"):
        monkeypatch.setitem(encoder.recipe.prompts, name, f"Instruct {name}: ")
    for arguments, prefix in [
        ((), "Instruct query: "),
        (("--prompt", "other"), "Instruct other: "),
        (("--prompt", "document"), ""),
        (("--prompt", "none"), ""),
    ]:
        _, vectors = printed(run("encode", table, "cats", *arguments).stdout)
        assert np.array_equal(vectors, encoder.encode([f"{prefix}cats"])), arguments
    assert complaint(2, "encode", table, "cats", "--prompt", "qury") == (
        "The model of the table has no prompt 'qury'. Choose one of: document, none, other, query.\n"
    )


def test_files_and_outputs(place: str, table: Path, encoder: Encoder, monkeypatch: pytest.MonkeyPatch) -> None:  # noqa: F811
    """On disk and on S3; in several calls of the model; a long text is cut, and said so."""
    monkeypatch.setattr(encoding, "AT_ONCE", 1)
    store = open_store(place)
    store.create("rows.jsonl", b"".join(json.dumps(row).encode() + b"\n" for row in ROWS))
    store.create("lines.txt.gz", gzip.compress(b"\xef\xbb\xbf" + f"{TEXTS['cats']}\r\n{LONG}\n\n".encode()))
    store.create("other.csv", f'title,id\n{TEXTS["cats"]},b\n"{LONG}",7\n'.encode())
    expected = np.concatenate([encoder.encode([row["text"]]) for row in ROWS])
    for name, key, options in [
        ("rows.jsonl", "id", ()),
        ("lines.txt.gz", "number", ()),
        ("other.csv", "id", ("--column", "title")),
    ]:
        result = run("encode", table, "--file", f"{place}/{name}", *options)
        keys, vectors = printed(result.stdout, key)
        assert keys == (["b", "7"] if key == "id" else [0, 1])
        assert np.array_equal(vectors, expected)
        assert result.stderr == CUT
        outputs = [f"{place}/{name}.{ending}" for ending in ("jsonl", "npy", "parquet")]
        if options:
            continue
        for output in outputs:
            result = run("encode", table, "--file", f"{place}/{name}", "--output", output)
            assert (result.stdout, result.stderr) == (f"Wrote 2 vectors of 384 numbers to {output}.\n", CUT)
        lines, matrix, parquet = (store.read(output.removeprefix(f"{place}/")) for output in outputs)
        assert np.array_equal(printed(lines.decode(), key)[1], expected)
        assert np.array_equal(np.load(io.BytesIO(matrix)), expected)
        rows = read_parquet(parquet)
        assert rows.column(key).to_pylist() == keys
        assert np.array_equal(np.stack(rows.column("embedding").to_numpy()), expected)
    output = f"{place}/rows.jsonl.npy"
    assert complaint(2, "encode", table, "x", "--output", output) == (
        f"--output {output} exists already, and is not overwritten. Name another file, or remove it.\n"
    )


def test_stdin_has_a_text_a_line(table: Path, encoder: Encoder) -> None:  # noqa: F811
    result = CliRunner().invoke(main, ["encode", str(table)], input="a cat\n\tsoup \n\n")
    assert np.array_equal(printed(result.stdout)[1], encoder.encode(["a cat", "\tsoup "], prompt="query"))


def test_a_vector_that_is_none_is_not_printed(table: Path, encoder: Encoder, monkeypatch: pytest.MonkeyPatch) -> None:  # noqa: F811
    """As of a model in fp16 whose numbers overflow; or of a row on which it fails while others pass."""
    for value, failed, why in [
        (np.nan, {}, "its vector has the length nan, not 1"),
        (0.0, {}, "its vector has the length 0, not 1"),
        (np.nan, {1: "IndexError: index out of range"}, "IndexError: index out of range"),
    ]:
        vectors = np.eye(2, 384, dtype=np.float32)
        vectors[1] = value
        found = EncodedTokens(vectors, 8, 8, 1, failed)
        monkeypatch.setattr(encoder, "encode_tokens", lambda lengths, ids, found=found, **_: found)
        assert complaint(1, "encode", table, "one", "two") == f"text 2: the model fails on this text: {why}.\n"
        with pytest.raises(ConfigError, match=r"Query 1 has the length (nan|0\.0): it is no direction to search in"):
            sfr.open_table(str(table)).search_many(["one", "two"])
