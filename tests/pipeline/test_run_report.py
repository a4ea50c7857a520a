"""The report of real runs: those that publish, fail, are stopped or killed, and of older releases. How it looks is in
tests/table/report."""

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner

import sfr_batch as sfr
from sfr_batch.cli.main import main
from sfr_batch.errors import RunFailed
from sfr_batch.format import names
from sfr_batch.pipeline import run_log, runner
from sfr_batch.storage.stores import open_store
from sfr_batch.table.report.value import RunReport
from tests.job_processes import documents, put_parquet
from tests.pipeline.test_accounts import OLD, breaks_at, interrupt, prepare, remove
from tests.pipeline.test_accounts import tiny as tiny
from tests.s3server import S3Server

TEXTS = ["short", "a few words more", "long " * 700, "long " * 500]


def prepare_mixed(tmp_path: Path, tiny: Path, **run: Any) -> dict[str, Any]:
    """A job of ten splits: two rows are rejected, two are cut, and one has the id of another one."""
    job = prepare(tmp_path, tiny, **run)
    rows = documents(TEXTS, "x<b>")
    rows += [{"id": "null", "text": None, "lang": "en"}, {"id": "empty", "text": " ", "lang": "en"}]
    put_parquet(f"{tmp_path}/corpus/mixed.parquet", rows[:5])
    put_parquet(f"{tmp_path}/corpus/rest.parquet", [*rows[5:], rows[0]])
    return job


def written(tmp_path: Path, report: RunReport, name: str) -> str:
    return (tmp_path / "table" / names.run_key(report.run_id, name)).read_text(encoding="utf-8")


def test_a_run_that_publishes(tiny: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOOK", "true || echo hunter2")
    summary = sfr.embed(prepare_mixed(tmp_path, tiny, price_per_hour=3.6, on_end="${HOOK}"))
    table = sfr.open_table(f"{tmp_path}/table")
    report = table.report()
    assert (report.outcome, report.snapshot, report.embedded) == ("published", 1, summary.embedded)
    assert report.throughput
    assert (sum(report.throughput.tokens), sum(report.throughput.rows)) == (summary.tokens, summary.embedded)
    assert report.lengths
    assert sum(report.lengths.documents) == sum(report.lengths.rows) == summary.embedded == 45
    buckets = zip(report.lengths.edges, report.lengths.documents, report.lengths.rows, strict=True)
    assert sum(documents for edge, documents, _ in buckets if edge >= 512) == 2
    assert (report.truncated, report.share_cut) == (2, summary.snapshot and summary.snapshot.share_cut)
    assert report.rejects
    assert report.rejects.by_reason == {"null_text": 1, "empty_text": 1}
    assert {example.id for example in report.rejects.examples} == {"null", "empty"}
    assert (report.duplicates, report.counts and report.counts["rejected"]) == (1, 3)
    assert "1 row of the snapshot gave way to another row with the same id" in report.to_html()
    assert "were decided by earlier runs" not in report.to_html()
    for stage in ("planning", "start_up", "embed", "read", "tokenize", "encode", "write"):
        assert getattr(report, f"{stage}_seconds") > 0, stage
    whole = (report.planning_seconds, report.start_up_seconds, report.embed_seconds, report.ending_seconds)
    assert sum(seconds or 0 for seconds in whole) == pytest.approx(report.seconds, rel=0.05)
    assert (report.lost_nodes, report.lost_actors, report.repeated_requests) == (0, 0, {})
    assert report.cost
    assert report.cost["planned"]["rows"]["value"] > 0
    assert report.fingerprint == table.card.fingerprint

    stored = json.loads(written(tmp_path, report, names.RUN_REPORT))
    assert stored == report.as_json()
    page = written(tmp_path, report, names.RUN_PAGE)
    assert page == report.to_html()
    assert page.count("<svg") == 3
    assert "hunter2" not in page
    assert "${HOOK}" not in page

    said = CliRunner().invoke(main, ["report", f"{tmp_path}/table"])
    assert said.output.startswith(f"Run {report.run_id}: published snapshot 1.\n")
    assert said.output.endswith(f"Page      {tmp_path}/table/{names.run_key(report.run_id, names.RUN_PAGE)}\n")
    # A damaged report is as none: what is left says it.
    path = tmp_path / "table" / names.run_key(report.run_id, names.RUN_REPORT)
    whole_report = path.read_bytes()
    path.write_bytes(whole_report[:1000])
    derived = table.report()
    assert (derived.outcome, derived.snapshot, derived.report_version) == ("published", 1, 0)
    assert (derived.embedded, derived.duplicates, derived.counts) == (report.embedded, 1, report.counts)
    assert derived.rejects
    assert derived.rejects.by_reason == report.rejects.by_reason
    path.write_bytes(whole_report)
    as_json = CliRunner().invoke(main, ["report", f"{tmp_path}/table", "--json", "--run", report.run_id])
    assert json.loads(as_json.output) == stored


def test_runs_that_end_otherwise(tiny: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """One fails, one is stopped; what a killed one could not write is derived, and equals what it measured."""
    job = prepare_mixed(tmp_path, tiny)
    with monkeypatch.context() as broken:
        breaks_at(4, broken)
        with pytest.raises(RunFailed):
            sfr.embed(job, {"run.max_failed_splits": 0})
    table = sfr.open_table(f"{tmp_path}/table")
    failed = table.report()
    assert (failed.outcome, failed.snapshot) == ("failed", None)
    assert failed.throughput
    assert sum(failed.throughput.tokens) == failed.tokens
    assert failed.splits in (2, 3), "of two writers, one may commit its split while the run fails"
    assert failed.account.splits == 3
    assert ("counted under attempts alone: 1 split." in failed.to_html()) == (failed.splits == 2)
    assert failed.lengths
    page = written(tmp_path, failed, names.RUN_PAGE)
    assert "failed: RunFailed" in page
    assert "no more disk" in page
    assert not (tmp_path / "table" / names.run_key(failed.run_id, names.RUN_REPORT)).exists(), "it says: published"

    with monkeypatch.context() as stopped:
        stopped.setattr(runner, "publish", interrupt)
        with pytest.raises(KeyboardInterrupt):
            sfr.embed(job)
    ended = table.report()
    assert ended.account.how == "stopped by SIGINT"
    assert ended.run_id > failed.run_id
    assert table.report(failed.run_id).as_json() == failed.as_json()
    said = CliRunner().invoke(main, ["report", f"{tmp_path}/table", "--to", f"{tmp_path}/page.html"])
    assert said.output.endswith(f"Page      {tmp_path}/page.html\n")
    assert "stopped by SIGINT" in (tmp_path / "page.html").read_text(encoding="utf-8")

    for name in (names.RUN_END, names.RUN_PAGE):
        remove(tmp_path, name)
    killed = table.report()
    assert (killed.outcome, killed.account.at_least, killed.report_version) == ("killed", True, 0)
    assert killed.throughput
    assert killed.throughput.derived
    assert sum(killed.throughput.tokens) == killed.tokens == ended.tokens
    assert killed.lengths
    assert ended.lengths
    assert (killed.lengths.documents, killed.lengths.rows) == (ended.lengths.documents, ended.lengths.rows)
    assert killed.rejects
    assert ended.rejects
    assert killed.rejects.by_reason == ended.rejects.by_reason
    assert (killed.truncated, killed.tokens_full) == (ended.truncated, ended.tokens_full)
    assert killed.lost_nodes is killed.read_seconds is killed.start_up_seconds is None
    said = CliRunner().invoke(main, ["report", f"{tmp_path}/table"])
    assert "Page      none on storage: the run had no time to write it; --to FILE writes one" in said.output
    assert "killed" in said.output

    sfr.embed(job)
    assert table.report().outcome == "published"
    assert [account.outcome for account in table.report().accounts] == ["killed", "killed", "published"]
    shutil.rmtree(tmp_path / "table" / names.run_key(failed.run_id, ""))
    swept = table.report(failed.run_id)
    assert (swept.outcome, swept.embedded, swept.lengths) == ("killed", failed.account.rows, None)


def test_runs_of_the_first_release(tmp_path: Path) -> None:
    shutil.copytree(OLD, tmp_path / "table")
    table = sfr.open_table(tmp_path / "table")
    derived = 0
    for run in table.runs():
        report = table.report(run.run_id)
        assert (report.report_version, report.outcome, report.embedded) == (0, run.outcome, run.rows)
        assert report.read_seconds is None
        assert "not measured" in report.to_html()
        if report.throughput:  # else its files have expired
            assert report.throughput.derived
            assert 0 < sum(report.throughput.rows) <= run.rows
            derived += 1
    assert derived > 1


@pytest.mark.parametrize("broken", ["page", "value"])
def test_a_report_that_cannot_be_made_changes_nothing(
    broken: str, tiny: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    def fails(*arguments: Any, **options: Any) -> Any:
        raise ZeroDivisionError("a bug")

    if broken == "page":
        monkeypatch.setattr(RunReport, "to_html", fails)
    else:
        monkeypatch.setattr(run_log, "report_of", fails)
    job = prepare(tmp_path, tiny)
    with monkeypatch.context() as stopped:
        stopped.setattr(runner, "publish", lambda *arguments: {}["another"])
        with pytest.raises(KeyError, match="another"):
            sfr.embed(job)
    assert "Warning: the report of the run could not be made: ZeroDivisionError: a bug\n" in capfd.readouterr().err
    assert sfr.embed(job).published
    assert "Warning: the" in capfd.readouterr().err
    assert [run.how for run in sfr.open_table(f"{tmp_path}/table").runs()] == [
        "failed: KeyError",
        "published snapshot 1",
    ]


def test_the_page_in_a_browser(tmp_path: Path, s3: S3Server, s3_prefix: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """A local page is opened; of one on S3 the address is said, and a copy is opened."""
    browser = tmp_path / "browser"
    browser.write_text(f'#!/bin/sh\nprintf %s "$1" > {tmp_path}/opened\n')
    browser.chmod(0o755)
    monkeypatch.setenv("BROWSER", f"{browser} %s")
    monkeypatch.setattr("webbrowser._tryorder", None)
    store = open_store(f"{s3_prefix}/table")
    for path in sorted(OLD.rglob("*")):
        if path.is_file():
            store.create(str(path.relative_to(OLD)), path.read_bytes())
    run_id = sfr.open_table(store.root).report().run_id
    key = names.run_key(run_id, names.RUN_PAGE)
    store.create(key, b"a page")
    said = CliRunner().invoke(main, ["report", store.root])
    assert said.output.endswith(f"Page      {store.root}/{key}\n")
    copy = tmp_path / "copy of it.html"
    done = CliRunner().invoke(main, ["report", store.root, "--to", str(copy), "--open"])
    assert done.exit_code == 0
    assert (tmp_path / "opened").read_text() == copy.as_uri()
    assert run_id in copy.read_text(encoding="utf-8")

    shutil.copytree(OLD, tmp_path / "table")
    local = tmp_path / "table" / key
    local.write_bytes(b"a page")
    assert CliRunner().invoke(main, ["report", f"{tmp_path}/table", "--open"]).exit_code == 0
    assert (tmp_path / "opened").read_text() == local.as_uri()
    browser.write_text("#!/bin/sh\nexit 1\n")
    done = CliRunner().invoke(main, ["report", f"{tmp_path}/table", "--open"])
    assert (done.exit_code, done.stderr) == (
        0,
        f"No browser could be started here. Open it elsewhere: {local.as_uri()}\n",
    )
