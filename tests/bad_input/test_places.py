"""A new folder in a table, in a pointer or in the corpus, or around one of these: refused, and nothing is written."""

import json
import os

import pytest

from sfr_batch.format import names
from tests.bad_input.bench import GOOD, Bench, embedded

CORPUS = "{root}/corpus, the corpus of the table {root}/table"
BESIDE = "Choose a folder beside it."
POINTER = "A pointer needs a folder or prefix of its own, beside the tables."
EXPORT, CHANGES = "export {root}/table {place}", "changes {root}/table 0 1 --output {place}"
PROMOTE = "promote {place} {root}/table"
INTO_THE_CORPUS = f"{{place}} is inside {CORPUS}. {BESIDE}"

REFUSED = [
    (EXPORT, "{root}/corpus", INTO_THE_CORPUS),
    (EXPORT, "{root}/corpus/lang=en/out", INTO_THE_CORPUS),
    (EXPORT, "{root}/linked", INTO_THE_CORPUS),
    (CHANGES, "{root}/corpus/feed", INTO_THE_CORPUS),
    (EXPORT, "{root}", f"The table {{root}}/table is inside {{place}}. {BESIDE}"),
    (EXPORT, "{root}/table/data/out", f"{{place}} is inside the table {{root}}/table. {BESIDE}"),
    (CHANGES, "{root}/other/feed", f"{{place}} is inside the table {{root}}/other. {BESIDE}"),
    (EXPORT, "{root}/current/out", f"{{place}} is inside the pointer {{root}}/current. {BESIDE}"),
    (PROMOTE, "{root}/corpus/current", f"{{place}} is inside {CORPUS}. {POINTER}"),
    (PROMOTE, "{root}/other/current", f"{{place}} is inside the table {{root}}/other. {POINTER}"),
    (PROMOTE, "{root}", f"The table {{root}}/table is inside {{place}}. {POINTER}"),
    (
        EXPORT,
        "{root}/notes",
        "{place} is not empty (1 object, of something else). Nothing is ever overwritten: choose another target.",
    ),
]


def test_a_new_folder_lies_apart(bench: Bench) -> None:
    for name, data in GOOD.items():
        bench.put(f"corpus/{name}", data)
    embedded(bench)
    bench.put(f"other/{names.TABLE_JSON}", (bench.table / names.TABLE_JSON).read_bytes())
    bench.put("notes/notes.md", b"-")
    (bench.root / "linked").symlink_to(bench.root / "corpus")
    assert bench.run("promote {root}/current {root}/table", ()).exit_code == 0
    before = bench.files()
    for command, place, message in REFUSED:
        bench.names["place"] = bench.fill(place)
        result = bench.run(command, ())
        assert (result.exit_code, result.stdout) == (2, "")
        assert result.stderr == f"error: {bench.fill(message)}\n"
    assert bench.files() == before
    bench.names["place"] = f"{bench.root}/corpus2"
    assert bench.run(EXPORT, ()).exit_code == 0, "a neighbour is beside it"


def test_a_corpus_is_known_by_a_relative_path(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    """From wherever the command is given, and after a sweep, whose run has no config."""
    bench.put("docs/good.jsonl", GOOD["good.jsonl"])
    monkeypatch.chdir(bench.root)
    assert bench.run("embed {root}/job.yaml", ["corpus.path=docs/**"]).exit_code == 0
    orphan = bench.put("table/data/" + "0" * 32 + ".parquet", b"x")
    os.utime(orphan, (0, 0))
    assert bench.run("sweep {root}/table --delete", ()).exit_code == 0
    assert json.loads((bench.table / names.manifest_key(2)).read_bytes())["operation"] == "sweep"
    for folder in (bench.root, "/"):
        monkeypatch.chdir(folder)
        result = bench.run("export {root}/table {root}/docs/out", ())
        assert f"{bench.root}/docs/out is inside {bench.root}/docs/**, the corpus" in result.stderr
    assert bench.run("export {root}/table {root}/out", ()).exit_code == 0
