"""The account of every attempt, and who is told of its end. Real processes that are stopped and killed are in
test_lease.py, a real Ray job in test_submit.py."""

import base64
import json
import re
import shutil
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest
from click.testing import CliRunner

import sfr_batch as sfr
from sfr_batch.cli.main import main
from sfr_batch.config.settings import RunSettings
from sfr_batch.errors import RunFailed
from sfr_batch.format import names
from sfr_batch.format.parquet import encode_parquet, read_parquet
from sfr_batch.format.run_accounts import WORK, RunAccount
from sfr_batch.pipeline import attempt, hook_process, run_log, runner, write_stage
from sfr_batch.pipeline.actor_time import ActorTime
from sfr_batch.pipeline.end_hook import Hook
from sfr_batch.storage.stores import open_store
from tests.job_processes import documents, put_parquet, settings
from tests.repositories import write_repository

OLD = Path(__file__).parents[1] / "fixtures" / "table_format_1" / "nights" / "table"


class Listener:
    """A webhook: answers with ``status``, after ``pause`` was set if there is one."""

    def __init__(self) -> None:
        self.told: list[dict[str, Any]] = []
        self.login: str | None = None
        self.status, self.pause = 200, threading.Event()
        self.pause.set()
        listener = self

        class Handler(BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                body = self.rfile.read(int(self.headers["Content-Length"]))
                assert self.headers["Content-Type"] == "application/json"
                listener.pause.wait()
                listener.told.append(json.loads(body))
                listener.login = self.headers.get("Authorization")
                self.send_response(listener.status)
                self.end_headers()

            def log_message(self, *arguments: Any) -> None:
                pass

        self.server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self.server.server_port}/hook"
        threading.Thread(target=self.server.serve_forever, args=(0.05,), daemon=True).start()


@pytest.fixture
def listener() -> Iterator[Listener]:
    made = Listener()
    yield made
    made.pause.set()
    made.server.shutdown()
    made.server.server_close()


@pytest.fixture(scope="module")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_repository(tmp_path_factory.mktemp("model") / "tiny", max_seq_length=512)


def prepare(tmp_path: Path, tiny: Path, **run: Any) -> dict[str, Any]:
    """A job of eight splits of five rows."""
    for shard in range(4):
        put_parquet(f"{tmp_path}/corpus/{shard}.parquet", documents([f"text {n}" for n in range(10)], str(shard)))
    return settings(tiny, str(tmp_path), rows_per_split=5, ray_address="none", **run)


def breaks_at(number: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """The split of this number, and all later ones, cannot be written."""
    write, done = write_stage._write, [0]

    def failing(*arguments: Any) -> Any:
        done[0] += 1
        if done[0] >= number:
            raise OSError("no more disk")
        return write(*arguments)

    monkeypatch.setattr(write_stage, "_write", failing)


def test_attempts_add_up(tiny: Path, tmp_path: Path, listener: Listener, monkeypatch: pytest.MonkeyPatch) -> None:
    """One fails, one is a trial, one publishes, one finds nothing to do; each is told once."""
    job = prepare(tmp_path, tiny, on_end="${HOOK}", price_per_hour=3.6)
    monkeypatch.setenv("HOOK", listener.url)
    with monkeypatch.context() as broken:
        breaks_at(4, broken)
        with pytest.raises(RunFailed):
            sfr.embed(job, {"run.max_failed_splits": 0})
    sfr.embed(job, {"select.limit": 1})
    summary = sfr.embed(job)
    assert "nothing to do" in repr(sfr.embed(job).describe())

    table = sfr.open_table(f"{tmp_path}/table")
    failed, trial, published = runs = table.runs()
    assert [run.how for run in runs] == ["failed: RunFailed", "trial", "published snapshot 1"]
    assert (failed.splits, published.splits, sum(run.splits for run in runs)) == (3, summary.splits, 8)
    assert sum(run.rows for run in runs) == table.current().manifest.counts.embedded == 40
    assert sum(run.tokens for run in runs) == table.current().manifest.counts.tokens
    assert re.match(r"[56] of 8 splits did not finish\. Nothing was published\.", failed.message)  # two writers
    assert failed.run_id < trial.run_id < published.run_id == table.current().manifest.run_id
    for run in runs:
        assert run.seconds is not None
        assert run.actor_seconds_reserved is not None
        assert 0 < run.actor_seconds_used <= run.actor_seconds_reserved <= run.seconds
        assert (run.devices, run.at_least) == (1, False)
        assert run.cost == pytest.approx(run.actor_seconds_reserved / 1000)
        assert run.device
        assert run.host
        assert run.started_at <= run.ended_at
        assert set(run.versions) >= {"torch", "transformers", "python"}
        assert run.command.split()[0] == "python"

    store = open_store(f"{tmp_path}/table")
    report = json.loads(store.read(names.run_key(published.run_id, names.RUN_REPORT)))
    assert [values["run_id"] for values in report["attempts"]] == [run.run_id for run in runs]
    assert report["embedded"] + report["earlier"] == sum(values["rows"] for values in report["attempts"])
    # What a report says of earlier attempts is left when their logs are swept.
    store.delete([info.key for info in store.list(names.RUNS) if names.run_of_key(info.key) != published.run_id])
    assert table.runs() == runs

    told = [(values["outcome"], values["snapshot"]) for values in listener.told]
    assert told == [("failed", None), ("trial", None), ("published", 1), ("nothing to do", None)]
    assert listener.told[2]["rows"] == published.rows
    assert {values["table"] for values in listener.told} == {f"{tmp_path}/table"}
    assert listener.url not in json.dumps(listener.told), "the URL may be a secret"
    assert listener.url not in "".join(path.read_text() for path in tmp_path.rglob("*.json"))

    lines = repr(runs).splitlines()
    assert len(lines) == 5
    assert lines[-1].startswith("3 attempts: 40 rows, ")
    assert "failed: RunFailed" in runs._repr_html_()
    assert runs.to_arrow().column("rows").to_pylist() == [run.rows for run in runs]
    assert runs.to_arrow().schema.field("started_at").type == pa.timestamp("s", "UTC")
    shown = CliRunner().invoke(main, ["runs", f"{tmp_path}/table", "--json"])
    assert [json.loads(line) for line in shown.output.splitlines()] == [run.as_json() for run in runs]
    assert CliRunner().invoke(main, ["runs", f"{tmp_path}/table"]).output == f"{runs!r}\n"


def test_what_a_killed_run_could_not_write_is_derived(
    tiny: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """From its receipts, else from the data files, with and without the account that it began with."""
    job, store = prepare(tmp_path, tiny), open_store(f"{tmp_path}/table")
    with monkeypatch.context() as broken:
        breaks_at(4, broken)
        with pytest.raises(RunFailed):
            sfr.embed(job, {"run.max_failed_splits": 0})
    table = sfr.open_table(f"{tmp_path}/table")
    (failed,) = table.runs()
    work = {name: getattr(failed, name) for name in WORK}

    def killed() -> RunAccount:
        (run,) = table.runs()
        assert {name: getattr(run, name) for name in WORK} == pytest.approx(work)
        assert (run.outcome, run.at_least) == ("killed", True)
        assert run.actor_seconds_reserved is not None
        assert run.actor_seconds_reserved >= run.actor_seconds_used > 0
        assert run.seconds is not None
        assert run.seconds >= 0
        assert "≥ 15" in repr(table.runs())
        return run

    remove(tmp_path, names.RUN_END)
    assert killed().host == failed.host
    remove(tmp_path, "receipts")
    assert killed().command == failed.command
    key = names.run_key(failed.run_id, names.RUN_PLAN)
    plan = read_parquet(store.read(key))
    store.delete([key])
    assert store.create(key, encode_parquet(plan))  # as older releases wrote it
    unknown = killed()
    assert (unknown.host, unknown.versions) == ("", {})
    assert unknown.started_at[:16] == failed.started_at[:16]

    with monkeypatch.context() as fails:
        fails.setattr(runner, "publish", lambda *arguments: {}["a bug"])
        with pytest.raises(KeyError):
            sfr.embed(job)
    (first, second) = table.runs()
    assert (first, second.how, second.splits) == (unknown, "failed: KeyError", 5)
    sfr.embed(job)
    assert sum(run.rows for run in table.runs()) == 40
    assert [run.splits for run in table.runs()] == [3, 5, 0]


def remove(tmp_path: Path, name: str) -> None:
    for path in (tmp_path / "table" / names.RUNS).glob(f"*/{name}"):
        if path.is_dir():
            shutil.rmtree(path)
        else:
            path.unlink()


def test_the_logs_of_the_first_releases(tmp_path: Path) -> None:
    shutil.copytree(OLD, tmp_path / "table")
    runs = sfr.open_table(tmp_path / "table").runs()
    published = [run for run in runs if run.outcome == "published"]
    assert {run.snapshot for run in published} == {1, 2, 3, 6}
    assert all(run.host and run.seconds and run.started_at for run in published)
    assert sum(run.rows for run in runs) > 0
    assert {run.actor_seconds_reserved for run in published} == {None}
    assert "unknown" in repr(runs).splitlines()[-1]


def test_a_hook_that_fails_is_a_warning(
    listener: Listener, tmp_path: Path, capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    def warning(on_end: str, timeout_s: float = 30) -> str:
        Hook.of(RunSettings(on_end=on_end, on_end_timeout_s=timeout_s)).call({"outcome": "failed"})
        return capfd.readouterr().err.removeprefix("Warning: run.on_end has failed: ")

    end = ". The run is not affected.\n"
    assert warning(f"cat > {tmp_path}/account") == ""
    assert json.loads((tmp_path / "account").read_text()) == {"outcome": "failed"}
    assert warning("echo fine; echo no such pager >&2; exit 3") == f"exit code 3: no such pager{end}"
    assert warning("sleep 60 & sleep 60", 0.2) == f"the command did not end within 0.2 s (run.on_end_timeout_s){end}"
    assert warning(listener.url.replace("//", "//me:p%40ss@")) == ""
    assert listener.login == f"Basic {base64.b64encode(b'me:p@ss').decode()}"
    listener.status = 500
    assert warning(listener.url) == f"127.0.0.1 answers 500 Internal Server Error{end}"
    listener.pause.clear()
    assert warning(listener.url, 0.2) == f"127.0.0.1 does not answer within 0.2 s (run.on_end_timeout_s){end}"
    assert warning("http://127.0.0.1:1/") == f"127.0.0.1 cannot be reached: [Errno 111] Connection refused{end}"
    monkeypatch.setenv("PATH", "/bin:/usr/bin")
    monkeypatch.setenv("TARGET", f"cat > {tmp_path}/from-environment")
    assert warning("${TARGET}") == ""
    assert (tmp_path / "from-environment").exists()


def test_a_limit_that_ends_while_a_hook_connects(monkeypatch: pytest.MonkeyPatch) -> None:
    """The alarm then comes wrapped in an error of the connection."""

    def connect(*_: Any, **options: Any) -> None:
        raise TimeoutError

    monkeypatch.setattr("signal.alarm", lambda seconds: None)
    monkeypatch.setattr("http.client.HTTPConnection.connect", connect)
    said = hook_process._post("http://127.0.0.1/x", "{}", 0.2)
    assert said == "127.0.0.1 does not answer within 0.2 s (run.on_end_timeout_s)"


def test_ctrl_c_in_a_notebook_is_told_once(tiny: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """And a signal that comes as an attempt ends anyway, never."""
    job, told = prepare(tmp_path, tiny), list[Any]()
    monkeypatch.setattr(Hook, "leave", lambda hook, account: told.append(account))
    monkeypatch.setattr(Hook, "call", lambda hook, account: (told.append(account), attempt.stopped("SIGTERM")))
    with monkeypatch.context() as stopped:
        stopped.setattr(runner, "publish", interrupt)
        with pytest.raises(KeyboardInterrupt):
            sfr.embed(job)
    sfr.embed(job)
    attempt.stopped("SIGTERM")
    assert [(values["outcome"], values["signal"]) for values in told] == [("stopped", "SIGINT"), ("published", "")]
    assert [run.how for run in sfr.open_table(f"{tmp_path}/table").runs()] == [
        "stopped by SIGINT",
        "published snapshot 1",
    ]


def interrupt(*arguments: Any) -> Any:
    raise KeyboardInterrupt


def test_a_store_that_does_not_answer_holds_up_no_error(
    tiny: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(attempt, "_PATIENCE_S", 0.05)
    answers = threading.Event()
    monkeypatch.setattr(run_log.RunLog, "end", lambda log, account, progress: answers.wait())
    with monkeypatch.context() as stopped:
        stopped.setattr(runner, "publish", interrupt)
        with pytest.raises(KeyboardInterrupt):
            sfr.embed(prepare(tmp_path, tiny))
    answers.set()
    (run,) = sfr.open_table(f"{tmp_path}/table").runs()
    assert (run.outcome, run.rows) == ("killed", 40)


def test_time_and_money_of_actors() -> None:
    now = [0.0]
    actors = ActorTime(lambda: now[0])
    for time, number in ((10.0, 1), (20.0, 3), (30.0, 0), (99.0, 0)):
        now[0] = time
        actors.count(number, "H200" if number == 3 else "")
    assert (actors.seconds, actors.most, actors.kinds) == (10 + 30, 3, {"H200"})
    account = RunAccount("run", price_per_hour=3.6, actor_seconds_reserved=40.0, actor_seconds_used=39.0)
    assert account.priced().cost == pytest.approx(0.04)
    assert RunAccount("run", price_per_hour=3.6).priced().cost is None, "nobody knows what was reserved"
    least = RunAccount("run", price_per_hour=3.6, actor_seconds_used=10.0, at_least=True).priced()
    assert (least.actor_seconds_reserved, least.cost) == (10.0, pytest.approx(0.01))
    assert RunAccount.from_json(least.to_json()) == least
    assert RunAccount.from_json('{"run_id": "a", "from the future": 1}') == RunAccount("a")
    assert RunAccount.from_json("[") is RunAccount.from_json("[]") is None
