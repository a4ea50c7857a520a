"""`init`: what it proposes for corpora as they are found, that a plan takes it, and what it says if it cannot tell."""

import gzip
import os
import random
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest
from click.testing import CliRunner

import sfr_batch as sfr
from sfr_batch.cli.main import main
from sfr_batch.config.loading import load_config
from sfr_batch.corpus import proposal
from sfr_batch.storage import input_listing
from sfr_batch.storage.s3_client import RetryingS3
from tests.s3server import S3Server
from tests.tables import jsonl, parquet, put

CHANCE = random.Random(5)
WORDS = ["river", "mountain", "stone", "water", "running", "under", "the", "bridge", "and", "over", "it", "again"]
N = 40


def prose(words: int = 25) -> str:
    return " ".join(CHANCE.choices(WORDS, k=words)).capitalize() + "."


def records(first: str = "a", **more: Any) -> list[dict[str, Any]]:
    return [{"id": f"{first}{n}", "text": prose(), **more} for n in range(N)]


def csv(template: str, header: str = "", **values: Any) -> bytes:
    return (header + "".join(template.format(n=n, prose=prose(), **values) for n in range(N))).encode()


def parts() -> dict[str, bytes]:
    """Of Spark: folders `lang=de`, vectors, bytes and a date."""
    days, vectors = pa.array(range(N), pa.date32()), pa.array([[0.1] * 4] * N, pa.list_(pa.float32(), 4))
    more = {"day": days, "vector": vectors, "raw": [b"\xff"] * N}
    return {
        f"lang={lang}/0.parquet": parquet(pa.table({"_id": [f"{lang}{n}" for n in range(N)], "content": TEXTS, **more}))
        for lang in ("de", "en")
    }


TEXTS = [prose() for _ in range(N)]
NESTED = [
    {"meta": {"doc_id": f"x{n}", "lang": "en", "updated_at": "2024"}, "title": prose(3), "body": prose(), "tags": ["a"]}
    for n in range(N)
]
EVIL = "x\nmodel: {path: /evil}\u2028y"
ODD = {"yes": "a", "a: b": "x", "#c": "y", "ID": "k", "embedding": "q", "né": 1.5, EVIL: "z", f"{EVIL}_updated_at": 1}

CASES: dict[str, tuple[Mapping[str, bytes], dict[str, Any], str]] = {
    "JSON Lines": ({"a.jsonl": jsonl(records(lang="en"))}, {"carry": ["lang"]}, "id: sure"),
    "nested": (
        {"a.jsonl.gz": gzip.compress(jsonl(NESTED))},
        {"id": "meta.doc_id", "text": "body", "carry": {"lang": "meta.lang", "title": "title"}},
        "left out  meta.updated_at, tags",
    ),
    "names that YAML knows": ({"a.jsonl": jsonl(records(**ODD))}, {"carry": ["yes", "a: b", "#c", "né", EVIL]}, ""),
    "types that do not go together": (
        {"a.jsonl": jsonl(records(v=1)), "b.jsonl": jsonl(records("b", v="x"))},
        {"carry": []},
        "left out  v",
    ),
    "Parquet": (
        parts(),
        {"id": "_id", "text": "content", "carry": ["day", "lang"]},
        "80 rows in 2 of 2 files: parquet",
    ),
    "mixed": ({"a.jsonl": jsonl(records()), "b.csv": csv("b{n},{prose}\n", "id,text\n")}, {}, "files: csv, jsonl"),
    "semicolons in cp1252": (
        {"a.csv": csv("{n};caf\xe9 {prose}\n", "id;text\n").decode().encode("latin-1")},
        {"delimiter": ";", "encoding": "cp1252"},
        "read as   ",
    ),
    "Spark's CSV": ({"a.csv": csv('{n},"he said \\"{prose}\\", then"\n', "id,text\n")}, {"escape": "\\"}, ""),
    "MySQL's": (
        {"a.tsv": csv("{n}\t{prose}\t\\N\n")},
        {"header": ["c1", "c2", "c3"], "nulls": ["\\N"], "id": "c1", "text": "c2"},
        "c2: likely",
    ),
    "Hive's without an ending": (
        {"part-00000": csv("{n}\x01{prose}\x01x\n")},
        {"format": "csv", "delimiter": "\x01", "quote": None, "id": "c1", "text": "c2", "carry": ["c3"]},
        "",
    ),
    "an index of pandas": (
        {"a.csv": csv("{n},{prose},pos\n", ",review,label\n")},
        {"id": None, "text": "review", "carry": ["label"]},
        "none: likely: no column of 40 rows has a value of its own in each",
    ),
    "lines": ({"a.txt": csv("{prose}\n")}, {"id": None}, "id        none: sure"),
    "JSON Lines without an ending": ({"part-00000": jsonl(records())}, {"format": "jsonl"}, ""),
    "JSON Lines with an ending of their own": ({"a.dat": jsonl(records())}, {"format": "jsonl"}, ""),
    "ids that repeat": (
        {"a.jsonl": jsonl([*records(), {"id": "a1", "text": prose()}])},
        {},
        "id        id: a guess: a usual name, but 1 of 41 rows repeat a value; table.duplicate_ids decides which",
    ),
    "two texts": (
        {"a.jsonl": jsonl([{"key": n, "question": prose(), "answer": prose()} for n in range(N)])},
        {"id": "key", "text": "answer", "carry": []},
        "it could be question as well",
    ),
    "long texts": (
        {"a.jsonl": jsonl([*records(), {"id": "x", "text": prose(900)}])},
        {},
        "long      about 2% of the texts have more than the 256 tokens that the model takes",
    ),
}


def init(*arguments: Any, code: int = 0) -> str:
    result = CliRunner().invoke(main, ["init", *map(str, arguments)])
    assert result.exit_code == code, result.output
    assert result.exception is None or isinstance(result.exception, SystemExit), repr(result.exception)
    return result.stdout if code == 0 else result.stderr


@pytest.mark.parametrize("name", CASES)
def test_a_plan_takes_what_is_proposed(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    files, expected, told = CASES[name]
    for file, data in files.items():
        put(str(tmp_path), f"corpus/{file}", data)
    output = init()
    assert told in output
    assert output.endswith("Wrote config.yaml. Read it, then: sfr-batch plan config.yaml\n")
    corpus = load_config("config.yaml").corpus.model_dump()
    wanted = {"id": "id", "text": "text", **expected}
    assert {key: corpus[key] for key in wanted} == wanted
    assert "corpus-embeddings: " in repr(sfr.plan("config.yaml"))
    before = Path("config.yaml").read_bytes()
    assert "config.yaml exists already, and is not overwritten. Name another file: -o FILE.\n" in init(code=2)
    assert Path("config.yaml").read_bytes() == before


def test_tables_of_other_engines(tmp_path: Path) -> None:
    foreign = pytest.importorskip("tests.foreign")
    rows = pa.table({"id": [f"d{n}" for n in range(N)], "text": TEXTS, "day": ["mon", "tue"] * (N // 2)})
    foreign.write_deltalake(str(tmp_path / "delta"), rows, partition_by=["day"])
    table = foreign.FolderCatalog().create(str(tmp_path / "iceberg"), rows.schema)
    table.append(rows)
    for name in ("delta", "iceberg"):
        config = tmp_path / f"{name}.yaml"
        assert f"{name} table" in init(tmp_path / name, "-o", config)
        corpus = load_config(config).corpus
        assert (corpus.format, corpus.id, corpus.text, corpus.carry) == (name, "id", "text", ["day"])
        assert f"{name}-embeddings" in repr(sfr.plan(config))


def test_a_bucket_is_never_listed_without_end(
    s3: S3Server, s3_bucket: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for number in range(5):
        put(s3_bucket, f"docs/{number}.jsonl", jsonl(records(str(number))))
        put(s3_bucket, f"docs/sub/{number}.txt", b"")
    monkeypatch.setattr(proposal, "FIRST_NAMES", 4)
    monkeypatch.setattr(RetryingS3, "_find", None)  # whatever lists all
    config = tmp_path / "first.yaml"
    assert "in 4 of the first 4 files (there are more): jsonl" in init(f"{s3_bucket}/docs", "-o", config)
    monkeypatch.undo()
    assert load_config(config).table.path == f"{s3_bucket}/docs-embeddings"
    assert "10 shards" in sfr.plan(config).describe()
    one, pattern = tmp_path / "one.yaml", tmp_path / "pattern.yaml"
    assert "in 1 of 1 file" in init(f"{s3_bucket}/docs/1.jsonl", "-o", one)
    assert "in 5 of 5 files" in init(f"{s3_bucket}/docs/*.jsonl", "-o", pattern)
    put(s3_bucket, "docs-embeddings/x", b"x")
    pattern.unlink()
    init(f"{s3_bucket}/docs/*.jsonl", "-o", pattern)
    assert load_config(pattern).table.path == f"{s3_bucket}/docs-embeddings-2"
    whole = f"There is no free place beside {s3_bucket} for the table. Name one: --table PATH, a folder or an s3:// "
    assert whole in init(s3_bucket, "-o", tmp_path / "whole.yaml", code=2)
    init(s3_bucket, "-o", tmp_path / "whole.yaml", "--table", tmp_path / "table", "--text", "text")
    assert input_listing.find_inputs(f"{s3_bucket}/docs", load_config(one).corpus.storage, 3).complete is False


@pytest.mark.parametrize("pattern", ["corpus/*.jsonl", "corpus/part-?.jsonl", "corpus/part-[01].jsonl", "corp?s/**"])
def test_a_table_lies_beside_the_folder_of_a_pattern(
    pattern: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whichever sign makes it one. A file whose name has such a sign is no pattern."""
    monkeypatch.chdir(tmp_path)
    put(str(tmp_path), "corpus/part-0.jsonl", jsonl(records()))
    put(str(tmp_path), "corpus/part[1].jsonl", jsonl(records()))
    init(pattern)
    beside = f"../{tmp_path.name}-embeddings" if pattern == "corp?s/**" else "corpus-embeddings"
    assert load_config("config.yaml").table.path == beside
    init("corpus/part[1].jsonl", "-o", "plain.yaml")
    assert load_config("plain.yaml").table.path == "corpus/part[1]-embeddings"


NOT_TOLD: dict[str, tuple[Callable[[Path], Any], int, str, tuple[str, ...]]] = {
    "no name": (
        lambda _: None,
        2,
        "Name the corpus, a file, a folder, a pattern or an s3:// path: sfr-batch init CORPUS. Without a name the "
        "folder corpus or data is taken, and here is neither corpus nor data.",
        (),
    ),
    "no text": (
        lambda root: put(str(root), "corpus/a.jsonl", jsonl([{"id": 1, "name": "a b"}, {"id": 2, "name": "c d"}])),
        1,
        "No column of corpus looks like a text to embed. It has: id (integer), name (text). Name the column, --text "
        "COLUMN, or other files.",
        ("--text", "name"),
    ),
    "no rows": (
        lambda root: put(str(root), "corpus/a.csv", b"id,text\n"),
        1,
        "The corpus corpus has no rows, e.g. in {root}/corpus/a.csv. Add rows, or correct it.",
        (),
    ),
    "no place": (
        lambda root: (put(str(root), "corpus/a.jsonl", jsonl(records())), (root / "config.yaml").mkdir()),
        2,
        "config.yaml exists already, and is not overwritten. Name another file: -o FILE.",
        ("-o", "other.yaml"),
    ),
    "no folder": (
        lambda root: put(str(root), "corpus/a.jsonl", jsonl(records())),
        2,
        "no/config.yaml cannot be written: No such file or directory. Name another file: -o FILE.",
        ("-o", "config.yaml"),
    ),
    "no place for the table": (
        lambda root: put(str(root), "corpus/a.jsonl", jsonl(records())),
        2,
        "--table corpus/table lies in corpus, so that the next run would embed the table's own files. Name a place "
        "beside it.",
        ("--table", "table"),
    ),
    "text with an ending of its own": (
        lambda root: put(str(root), "corpus/a.md", b"# Title, and more\n\nIt is a text, with commas.\n"),
        1,
        "corpus.path corpus has no readable files among its 1 file, e.g. {root}/corpus/a.md. Supported: .parquet, .pq, "
        ".parq, .jsonl, .ndjson, .jsonlines, .ldjson, .jl, .json, .csv, .tsv, .tab, .psv, .txt, .text; all but Parquet "
        "also with .gz, .gzip, .zst, .zstd. For files with other endings set corpus.format.",
        (),
    ),
}

WITH = {"no folder": ("-o", "no/config.yaml"), "no place for the table": ("--table", "corpus/table")}


@pytest.mark.parametrize("name", NOT_TOLD)
def test_when_it_cannot_tell(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    prepare, code, message, advice = NOT_TOLD[name]
    prepare(tmp_path)
    before = sorted(tmp_path.rglob("*"))
    assert init(*WITH.get(name, ()), code=code) == f"error: {message}\n".replace("{root}", str(tmp_path))
    assert sorted(tmp_path.rglob("*")) == before
    if advice:
        init(*advice)
        assert os.path.isfile(advice[1] if advice[0] == "-o" else "config.yaml")
