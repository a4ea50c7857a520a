"""What is sent to a cluster, under which id, and what a handle does if the cluster falls silent. No Ray.

The cluster here is a list of jobs; `tests/jobs/test_submit` has a real one.
"""

import http.server
import io
import json
import os
import subprocess
import sys
import threading
import tomllib
import zipfile
from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from datetime import datetime
from importlib.metadata import version
from pathlib import Path
from typing import Any

import pytest

from sfr_batch.cli import submitted
from sfr_batch.config.loading import config_from_dict, load_config
from sfr_batch.config.settings import Config
from sfr_batch.errors import ClusterError, ConfigError, JobFailed, TableNotFound
from sfr_batch.format import names
from sfr_batch.format.run_accounts import RunAccount
from sfr_batch.pipeline.submission import job_server, package, submitted_job, travelling
from sfr_batch.pipeline.submission.cluster_job import ClusterJob
from sfr_batch.pipeline.submission.job_outcome import last_words
from sfr_batch.pipeline.submission.submit import _existing, _metadata, _name_of, _newest
from sfr_batch.pipeline.submission.submitted_job import SubmittedJob
from sfr_batch.planning.make import make_plan
from tests.nights import Doc, Place, Writer
from tests.s3server import S3Server
from tests.tables import do_plan

ROOT = Path(__file__).parents[2]


def config(**table: Any) -> Config:
    """Settings with characters that YAML and shells dislike."""
    return config_from_dict(
        {
            "corpus": {
                "path": ["s3://b/c", "/nfs/d"],
                "delimiter": "\x7f",
                "nulls": ["\\N", "", "~"],
                "text": "{a}\u2028{b}",
            },
            "model": {"path": "owner/name", "prompts": {"query": "Instruct: é\n\tQuery: "}, "device": "cpu"},
            "table": {"path": "s3://b/My Table.v2", **table},
            "select": {"ids": ["1", 1, "no"], "where": "lang = 'de' and \"x\" != '😀'"},
            "run": {"actors": {"gpus": 0}, "on_end": "curl $URL -d @-", "lease_s": 1e3, "max_reject_share": 1e-5},
        }
    )


SECRETS = {"storage": {"access_key_id": "${SFR_TEST_ID}", "secret_access_key": "${SFR_TEST_KEY}"}}


def unpacked(packed: package.Package) -> dict[str, bytes]:
    with zipfile.ZipFile(io.BytesIO(packed.data)) as archive:
        return {name: archive.read(name) for name in archive.namelist()}


# --- what travels


def test_the_package_and_the_config_travel_and_nothing_else(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Whatever is in the working directory. The same content gives the same name."""
    (tmp_path / "notes.py").write_text("private")
    monkeypatch.chdir(tmp_path)
    packed = package.pack(config(), code=True)
    files = unpacked(packed)
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))
    patterns = ["**/*.py", *project["tool"]["setuptools"]["package-data"]["sfr_batch"]]
    installed = [path for pattern in patterns for path in (ROOT / "sfr_batch").glob(pattern)]
    own = {path.relative_to(ROOT).as_posix() for path in installed}
    assert own <= files.keys()
    rest = {name for name in files.keys() - own if not name.startswith("sfr_batch/")}
    assert rest == {"config.yaml", "embed.py", f"sfr_batch-{packed.version}.dist-info/METADATA"}
    assert {Path(name).suffix for name in files} <= {".py", ".yaml", ".md", ".typed", ""}
    assert not [name for name in files if "__pycache__" in name]
    assert len(packed.data) < package.MOST_BYTES / 5
    assert package.pack(config(), code=True).uri == packed.uri
    assert package.pack(config(generation="x"), code=True).uri != packed.uri
    assert unpacked(package.pack(config(), code=False)).keys() == {"config.yaml", "embed.py"}


def test_the_config_is_the_same_there(tmp_path: Path) -> None:
    (tmp_path / "config.yaml").write_bytes(unpacked(package.pack(config(**SECRETS), code=False))["config.yaml"])
    assert load_config(tmp_path / "config.yaml") == config(**SECRETS)


def test_no_value_of_a_reference_travels(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SFR_TEST_ID", "AKIDTHATISSECRET")
    monkeypatch.setenv("SFR_TEST_KEY", "keythatissecret")
    with_references = config(**SECRETS)
    packed = package.pack(with_references, code=True)
    sent = b"".join(unpacked(packed).values()) + json.dumps(dict(_metadata(with_references))).encode()
    sent += packed.entrypoint.encode() + _name_of(with_references, packed).encode()
    assert b"${SFR_TEST_KEY}" in sent
    assert b"thatissecret" not in sent.lower()


def test_what_travels_is_enough_to_begin(tmp_path: Path) -> None:
    """Unpacked alone, as Ray does: the package is imported from there, in the version that has submitted it."""
    packed = package.pack(config(), code=True)
    zipfile.ZipFile(io.BytesIO(packed.data)).extractall(tmp_path)
    code = "import sys; sys.path.insert(0, ''); import sfr_batch, importlib.metadata as m; from embed import problem; "
    code += "print(sfr_batch.__file__, m.version('sfr-batch'), repr(problem(sys.argv[1])), problem('9.9'))"
    command = [sys.executable, "-P", "-c", code, packed.version]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, env={"PATH": ""})
    assert done.returncode == 0, done.stderr
    file, version, nothing, wrong = done.stdout.split(maxsplit=3)
    assert (file, version, nothing) == (f"{tmp_path}/sfr_batch/__init__.py", packed.version, "''")
    assert wrong.startswith(f"The Python of the job, {sys.executable}, has sfr-batch {version}, and the job was ")


def test_a_job_without_the_package_says_so(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    def lacks(name: str) -> str:
        raise submitted.PackageNotFoundError(name)

    monkeypatch.setattr(submitted, "version", lacks)
    monkeypatch.setattr(sys, "argv", ["embed.py", "1.2.3", "config.yaml"])
    with pytest.raises(SystemExit) as ended:
        submitted.main()
    assert ended.value.code == 2
    assert capsys.readouterr().err == (
        f"error: The Python of the job, {sys.executable}, has no sfr-batch, and the job was submitted by sfr-batch "
        "1.2.3. Install that version in the image of the cluster, or submit without --installed (installed=True): the "
        "package then travels with the job.\n"
    )


def test_a_job_without_another_module_says_so(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def lacks() -> None:
        raise ModuleNotFoundError("No module named 's3fs'", name="s3fs")

    monkeypatch.setattr(sys, "argv", ["embed.py", "-", "config.yaml"])
    monkeypatch.setattr("sfr_batch.cli.main.embed.main", lacks)
    with pytest.raises(SystemExit) as ended:
        submitted.main()
    assert ended.value.code == 2
    assert capsys.readouterr().err.startswith(
        f"error: The Python of this process, {sys.executable}, has no module s3fs. Install what sfr-batch depends on: "
    )
    assert sys.argv == ["embed.py", "config.yaml"]


def test_the_address_of_a_cluster_that_is_joined_is_left_out() -> None:
    """A job joins the cluster that it is submitted to."""
    on = config()
    automatic = on.model_copy(update={"run": on.run.model_copy(update={"ray_address": "auto"})})
    assert travelling.check(automatic) == on
    named = on.model_copy(update={"run": on.run.model_copy(update={"ray_address": "head:6379"})})
    assert travelling.check(named) == named


@pytest.mark.parametrize(
    ("text", "url"),
    [
        ("head:8265", "http://head:8265"),
        ("https://ray.example.com/cluster/a/", "https://ray.example.com/cluster/a"),
        (" http://127.0.0.1:8265/#/overview", "http://127.0.0.1:8265"),
        ("http://[::1]:8265", "http://[::1]:8265"),
    ],
)
def test_forms_of_an_address(text: str, url: str) -> None:
    assert job_server.find(text).url == url


def test_an_address_that_is_given_counts(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("RAY_API_SERVER_ADDRESS", "RAY_ADDRESS"):
        monkeypatch.delenv(name, raising=False)
    assert job_server.find(None).url == "http://127.0.0.1:8265"
    monkeypatch.setenv("RAY_ADDRESS", "http://other:8265")
    assert job_server.find(None).url == "http://other:8265"
    monkeypatch.setenv("RAY_API_SERVER_ADDRESS", "http://third:8265")
    assert job_server.find(None).url == "http://third:8265"
    assert job_server.find("http://head:8265").url == "http://head:8265"


# --- ids


def test_ids_are_of_the_table_and_of_what_is_sent() -> None:
    sent = package.pack(config(), code=False)
    name = _name_of(config(), sent)
    assert name == f"sfr-my-table-v2-{sent.digest[:12]}"
    jobs = [ClusterJob(f"{name}-{n}", "failed") for n in (1, 2, 10, 9)] + [ClusterJob(f"{name}x-11", "running")]
    assert _newest(jobs, name) == (jobs[2], 10)
    assert _newest([], name) == (None, 0)
    assert _name_of(config(path="s3://b/表"), sent) == f"sfr-{sent.digest[:12]}"


# --- a cluster that begins


def test_a_cluster_that_has_just_been_started_is_waited_for(monkeypatch: pytest.MonkeyPatch) -> None:
    """Its dashboard answers before its node takes jobs. Any other refusal is final."""
    from sfr_batch.pipeline.submission import jobs_api

    refusals = ["RuntimeError: No available agent to submit job, please try again later."] * 2
    asked: list[str] = []

    class Head(http.server.BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self.answer(200, json.dumps({"ray_version": version("ray")}))

        def do_POST(self) -> None:
            asked.append(json.loads(self.rfile.read(int(self.headers["Content-Length"])))["submission_id"])
            self.answer(500, refusals.pop(0)) if refusals else self.answer(
                200, json.dumps({"job_id": "", "submission_id": asked[-1]})
            )

        def answer(self, code: int, text: str) -> None:
            self.send_response(code)
            self.end_headers()
            self.wfile.write(text.encode())

        def log_message(self, format: str, *values: object) -> None:
            pass

    monkeypatch.setattr(jobs_api, "_PAUSE_S", 0.0)
    monkeypatch.delenv("RAY_AUTH_MODE", raising=False)
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Head) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        api = jobs_api.JobsApi(job_server.find(f"http://127.0.0.1:{server.server_port}"))
        sent = package.pack(config(), code=False)
        assert api.submit("sfr-t-1", sent, {})
        assert asked == ["sfr-t-1"] * 3
        refusals += ["RuntimeError: No available agent"] * 2
        monkeypatch.setattr(jobs_api, "_BEGIN_S", -1.0)
        with pytest.raises(ClusterError, match=r"has refused: RuntimeError: No available agent\. Try again"):
            api.submit("sfr-t-2", sent, {})
        monkeypatch.undo()
        refusals[:] = ["RuntimeError: the disk is full"] * 2
        with pytest.raises(ClusterError, match="the disk is full"):
            api.submit("sfr-t-3", sent, {})
        assert asked == [*["sfr-t-1"] * 3, "sfr-t-2", "sfr-t-3"]
        server.shutdown()


# --- handles


@dataclass
class Cluster:
    """A job server that knows one job, and falls silent when it is told to."""

    looks: Iterator[ClusterJob | None]
    log: list[list[str]] = field(default_factory=list)
    """Pieces of each time that the log is followed. All but the last time break off."""
    server: job_server.JobServer = field(default_factory=lambda: job_server.JobServer("http://head:8265", "address"))

    def job(self, submission_id: str) -> ClusterJob | None:
        found = next(self.looks)
        if found and found.status == "silent":
            raise ClusterError("nothing listens there")
        return found

    def follow(self, submission_id: str) -> Iterator[str]:
        yield from self.log.pop(0)
        if self.log:
            raise ClusterError("it broke off")

    def logs(self, submission_id: str) -> str:
        return "".join(self.log[-1])


RUNNING = ClusterJob("sfr-t-1", "running", metadata={"sfr_batch_table": "/nowhere/table"}, started=1e9)
SILENT, DONE = replace(RUNNING, status="silent"), replace(RUNNING, status="succeeded", ended=1e9 + 60)
FAILED = replace(RUNNING, status="failed", exit_code=1, message="Ray's own words")


def handle(*looks: ClusterJob | None, log: Any = ()) -> SubmittedJob:
    cluster: Any = Cluster(iter(looks), list(log))
    return SubmittedJob(cluster, RUNNING)


@pytest.fixture(autouse=True)
def no_pauses(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(submitted_job, "_FIRST_PAUSE_S", 0.001)


def test_a_wait_outlasts_a_silence(monkeypatch: pytest.MonkeyPatch) -> None:
    assert handle(RUNNING, SILENT, SILENT, RUNNING, SILENT, DONE).wait() == "succeeded"
    monkeypatch.setattr(submitted_job, "_PATIENCE_S", 0.0)
    with pytest.raises(ClusterError, match="nothing listens there"):
        handle(RUNNING, *[SILENT] * 1000).wait()


def test_a_wait_may_end_before_the_job() -> None:
    with pytest.raises(TimeoutError, match=r"The Ray job sfr-t-1 is still running after 0:00\. It goes on\."):
        handle(*[RUNNING] * 1000).wait(timeout=0)


def test_a_job_that_the_cluster_has_forgotten(monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(ClusterError) as raised:
        handle(None).status()
    assert str(raised.value) == (
        "The Ray cluster at http://head:8265 (address) no longer has the job sfr-t-1: its head was started anew, or "
        "somebody deleted the job. `sfr-batch runs /nowhere/table` says what became of its run."
    )


def test_a_log_that_breaks_off_is_continued() -> None:
    """Nothing is said twice, and nothing is left out, wherever the connection broke."""
    job = handle(log=[["one\n", "two\n"], [], ["one\ntwo\nth"], ["one\n", "two\nthree\n", "four\n"]])
    assert "".join(job.follow()) == "one\ntwo\nthree\nfour\n"


@pytest.mark.parametrize(
    ("log", "words"),
    [
        ("[0:01] encoding\nerror: The bucket\n  is gone.\n", "The bucket\n  is gone."),
        ("error: one\nerror: two\n", "two"),
        ("[0:01] encoding\nstopped by SIGTERM: 3 of 20 splits\n", "stopped by SIGTERM: 3 of 20 splits"),
        ("", ""),
    ],
)
def test_last_words(log: str, words: str) -> None:
    assert last_words(log) == words


def test_a_failure_has_the_words_of_the_job() -> None:
    with pytest.raises(JobFailed, match=r"^The Ray job sfr-t-1 failed with exit code 1: The id \\x1b is damaged\.$"):
        handle(FAILED, log=[["x\nerror: The id \x1b is damaged.\n"]]).result()
    with pytest.raises(JobFailed, match="failed with exit code 1: Ray's own words"):
        handle(FAILED, log=[[""]]).result()


def test_what_is_going_on_before_there_is_a_run() -> None:
    pending = replace(RUNNING, status="pending")
    job = handle(pending, RUNNING)
    first, second = job.progress(), job.progress()
    assert [first.describe(), second.describe()] == [
        f"waiting for the cluster to start the job: {first.describe().partition(': ')[2]}",
        f"preparing: {second.describe().partition(': ')[2]}",
    ]
    assert (first.outcome, first.is_over, first.table, first.ray_job) == ("running", False, "/nowhere/table", "sfr-t-1")
    assert "waiting for the cluster to start the job" in first.screen()
    assert "waiting for the cluster to start the job" in first._repr_html_()


def test_a_watch_outlasts_a_silence_and_ends_with_the_job(capsys: pytest.CaptureFixture[str]) -> None:
    job = handle(SILENT, RUNNING, SILENT, FAILED, log=[["error: The bucket is gone.\n"]])
    pauses: list[float] = []
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("time.sleep", pauses.append)
        last = job.watch(every_s=7)
    assert (last.outcome, last.exit_code, pauses) == ("failed", 3, [7, 7, 7])
    assert last.describe() == "failed: JobFailed after 0:00: The bucket is gone."
    with pytest.raises(ConfigError, match=r"every_s=0: give a number of seconds, 1 or more\."):
        job.watch(every_s=0)


def test_a_success_on_a_disk_of_others() -> None:
    """It is not `nothing to do`: nobody here can know."""
    with pytest.raises(TableNotFound) as raised:
        handle(DONE).result()
    assert str(raised.value) == (
        "The Ray job sfr-t-1 has succeeded, but from here there is no table at /nowhere/table: this machine does not "
        "share that file system. Look at the job's log: job.logs()."
    )


def test_the_account_is_that_of_this_job(
    s3: S3Server, s3_prefix: str, tmp_path: Path, mistral: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """On a cluster of its own for each night the ids are the same. The table is found by what the job's metadata say,
    with its secrets from the environment of here."""
    for name in ("ENDPOINT_URL", "ACCESS_KEY_ID", "SECRET_ACCESS_KEY"):
        monkeypatch.setenv(f"SFR_TEST_{name}", os.environ[f"AWS_{name}"])
        monkeypatch.delenv(f"AWS_{name}")
    storage = {"access_key_id": "${SFR_TEST_ACCESS_KEY_ID}", "secret_access_key": "${SFR_TEST_SECRET_ACCESS_KEY}"}
    storage["endpoint_url"] = s3.endpoint
    place = Place(str(tmp_path), f"{s3_prefix}/table", mistral).config()
    made = config_from_dict(place.model_dump(), {"table.storage": storage})
    Writer(str(tmp_path)).write({"a.jsonl": [Doc("one", "One.")]})
    store = do_plan(make_plan(made)).store
    for day, night in enumerate(("2026-11-28", "2026-11-29", "2026-11-30"), 1):
        ended = RunAccount(f"r{day}", "stopped", signal="SIGTERM", ray_job="sfr-t-1", started_at=f"{night}T02:00:10Z")
        store.create(names.run_key(ended.run_id, names.RUN_END), ended.to_json().encode())

    def failed(night: str) -> JobFailed:
        began = datetime.fromisoformat(f"{night}T02:00:00Z").timestamp()
        stopped = replace(FAILED, status="stopped", started=began, ended=began + 9.0, metadata=dict(_metadata(made)))
        cluster: Any = Cluster(iter([stopped]), [["stopped by SIGINT: 0 of 2 splits\n"]])
        with pytest.raises(JobFailed) as raised:
            SubmittedJob(cluster, stopped).result()
        assert str(raised.value) == "The Ray job sfr-t-1 was stopped: stopped by SIGINT: 0 of 2 splits"
        return raised.value

    assert failed("2026-11-30").account.run_id == "r3"
    told = failed("2026-12-01").account
    assert (told.run_id, told.how, told.seconds) == ("", "stopped by SIGTERM", 9.0)
    assert str(told).splitlines()[1].split()[0:2] == ["2026-12-01T02:00:00Z", "0:09"]


def test_an_unknown_id_is_refused_with_those_that_there_are() -> None:
    jobs = [ClusterJob(f"sfr-t-{n}", "failed", started=float(n)) for n in range(1, 8)]
    cluster: Any = Cluster(iter([None] * 3))
    for known, listed in (
        (jobs, "Its last ones are sfr-t-7, sfr-t-6, sfr-t-5, sfr-t-4, sfr-t-3."),
        ([], "It has none."),
    ):
        cluster.jobs = lambda known=known: known
        with pytest.raises(ConfigError) as raised:
            _existing(cluster, "sfr-x-1")
        assert str(raised.value) == f"The Ray cluster at http://head:8265 (address) has no job 'sfr-x-1'. {listed}"


def test_a_job_of_others_names_no_table() -> None:
    other: Any = Cluster(iter([replace(DONE, metadata={})] * 3))
    job = SubmittedJob(other, replace(RUNNING, metadata={}))
    assert repr(job) == "<SubmittedJob sfr-t-1: running>"
    with pytest.raises(ConfigError, match="does not say which table it writes"):
        job.result()
