"""`sfr.submit`, and `ray job submit --working-dir . -- python jobs/embed.py CONFIG`, to a head with a token.

The head is a process of its own with its own ports, folder, home and password; nothing outside of them is touched.
"""

import contextlib
import json
import os
import re
import secrets
import shlex
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner

import sfr_batch as sfr
from sfr_batch.cli.main import main
from sfr_batch.errors import ConfigError, JobFailed
from sfr_batch.format import names
from sfr_batch.storage.stores import open_store
from tests.job_processes import (
    DOCUMENTS,
    ROOT,
    SPLITS,
    command,
    data_files,
    documents,
    kill_tree,
    prepare,
    process_tree,
    put_parquet,
    says_what_is_committed,
    settings,
)
from tests.tables import do_plan

pytestmark = pytest.mark.ray

RAY = str(Path(sys.executable).with_name("ray"))


class Head:
    """A Ray head that takes jobs."""

    def __init__(self, folder: str) -> None:
        self.port, self._dashboard, *others = _free_ports(4)
        self._token = secrets.token_hex(32)
        self.environment = {
            **{name: value for name, value in os.environ.items() if not name.startswith("RAY_")},
            "HOME": folder,
            "PATH": f"{Path(RAY).parent}:{os.environ['PATH']}",  # jobs say `python`
            "RAY_AUTH_MODE": "token",
            "RAY_AUTH_TOKEN": self._token,
            "RAY_ENABLE_UV_RUN_RUNTIME_ENV": "0",
            "RAY_worker_niceness": "0",
            "RAY_JOB_STOP_WAIT_TIME_S": "60",  # from SIGTERM to SIGKILL; a busy machine may need more than Ray's 3
        }
        options = {
            "port": self.port,
            "dashboard-port": self._dashboard,
            "ray-client-server-port": others[0],
            "dashboard-agent-listen-port": others[1],
            "temp-dir": folder,
            "num-cpus": 2,
            "object-store-memory": 200 * 2**20,
        }
        start = [RAY, "start", "--head", "--block", *(f"--{name}={value}" for name, value in options.items())]
        output = Path(folder, "head.log")
        with output.open("w") as file:
            self._process = subprocess.Popen(start, env=self.environment, stdout=file, stderr=subprocess.STDOUT)
        while not self._answers():
            assert self._process.poll() is None, output.read_text()
            time.sleep(0.2)

    @property
    def address(self) -> str:
        """Where it takes jobs."""
        return f"http://127.0.0.1:{self._dashboard}"

    def close(self) -> None:
        """End what was started here, and that alone."""
        kill_tree(self._process.pid)
        self._process.wait()

    def submit(self, *command: str, submission_id: str = "", wait: bool = True, **environment: str) -> tuple[int, str]:
        """Exit code and output of `ray job submit --working-dir . -- …`, run in the repository."""
        options = ["--address", self.address, "--working-dir", "."]
        options += ["--submission-id", submission_id] if submission_id else []
        options += [] if wait else ["--no-wait"]
        return self._run("submit", *options, "--", *command, **environment)

    def stop(self, submission_id: str) -> None:
        code, output = self._run("stop", "--address", self.address, submission_id)
        assert code == 0, output

    def job(self, submission_id: str) -> dict[str, Any]:
        """What the head knows of a job."""
        found: dict[str, Any] = self._get(f"/api/jobs/{submission_id}")
        return found

    def log(self, submission_id: str) -> str:
        return str(self._get(f"/api/jobs/{submission_id}/logs")["logs"])

    def stage_workers(self) -> list[bytes]:
        """Titles of the workers that are busy with a stage; others of Ray Data's outlive every job."""
        titles = [command(process) for process in process_tree(self._process.pid)]
        return [title for title in titles if title.startswith((b"ray::Map", b"ray::_Map"))]

    def _run(self, *arguments: str, **environment: str) -> tuple[int, str]:
        done = subprocess.run(
            [RAY, "job", *arguments],
            cwd=ROOT,
            env=self.environment | environment,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )
        return done.returncode, done.stdout

    def _get(self, path: str) -> Any:
        request = urllib.request.Request(f"{self.address}{path}")
        request.add_header("Authorization", f"Bearer {self._token}")
        with urllib.request.urlopen(request, timeout=60) as answer:
            return json.load(answer)

    def _answers(self) -> bool:
        with contextlib.suppress(OSError):  # also HTTP errors, while the parts of the dashboard come up
            self._get("/api/jobs/")
            return True
        return False


def _free_ports(count: int) -> list[int]:
    with contextlib.ExitStack() as stack:
        sockets = [stack.enter_context(socket.create_server(("127.0.0.1", 0))) for _ in range(count)]
        return [int(free.getsockname()[1]) for free in sockets]


@pytest.fixture(scope="module")
def head() -> Iterator[Head]:
    folder = tempfile.mkdtemp(prefix="sfr-", dir="/tmp")  # sockets have short names
    try:
        with contextlib.closing(Head(folder)) as started:
            yield started
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def embed_command(config_file: Path, *overrides: str) -> list[str]:
    return ["python", "jobs/embed.py", str(config_file), *overrides]


@pytest.mark.timeout(400)
def test_stop_and_submit_again(head: Head, tmp_path: Path) -> None:
    """`ray job stop` in the middle keeps what is committed, and the cluster does not go on without its job. The same
    job does the rest, and says what it did."""
    config_file = prepare(tmp_path, str(tmp_path))
    store = open_store(f"{tmp_path}/table")
    # Ray forgets the exit code of a job that it stops, so a shell keeps it.
    keep = f"trap : TERM\n{shlex.join(embed_command(config_file))}\necho $? > {tmp_path}/exit-code\n"
    (tmp_path / "job.sh").write_text(keep)
    code, output = head.submit("bash", str(tmp_path / "job.sh"), submission_id="first", wait=False)
    assert code == 0, output
    while len(data_files(store)) < 3:
        assert head.job("first")["status"] in ("PENDING", "RUNNING"), head.log("first")
        time.sleep(0.1)
    assert head.job("first")["driver_info"], "it did not join the cluster that it was submitted to"
    assert head.stage_workers()
    head.stop("first")
    assert head.job("first")["status"] == "STOPPED"
    says_what_is_committed(head.log("first").splitlines()[-1], signal.SIGTERM, store, todo=SPLITS)
    assert "Traceback" not in head.log("first")
    assert (tmp_path / "exit-code").read_text() == f"{128 + signal.SIGTERM}\n"
    while head.stage_workers():
        time.sleep(0.1)
    before = data_files(store)
    assert 3 <= len(before) < SPLITS, "the stop came too late to show anything"
    assert not list(store.list(names.SNAPSHOTS))

    code, output = head.submit(*embed_command(config_file), submission_id="second")
    assert code == 0, output
    assert head.job("second")["status"] == "SUCCEEDED"
    assert f"Table     {tmp_path}/table, snapshot 1\n" in head.log("second")[-1000:]
    assert f"Table     {tmp_path}/table, snapshot 1\n" in output
    after = data_files(store)
    assert after.items() >= before.items(), "a finished data file has changed"
    assert len(after) == SPLITS
    snapshot = sfr.open_table(f"{tmp_path}/table").current()
    report = json.loads(store.read(names.run_key(snapshot.manifest.run_id, "report.json")))
    assert report["splits"] <= SPLITS - len(before)
    stopped, published = sfr.open_table(f"{tmp_path}/table").runs()
    assert [run.how for run in (stopped, published)] == ["stopped by SIGTERM", "published snapshot 1"]
    assert [run.ray_job for run in (stopped, published)] == ["first", "second"]
    assert stopped.rows + published.rows == DOCUMENTS
    for run in (stopped, published):
        assert run.actor_seconds_reserved is not None
        assert run.actor_seconds_reserved >= run.actor_seconds_used > 0
        metadata = head.job(str(run.ray_job))["metadata"]
        assert (metadata["sfr_batch_table"], metadata["sfr_batch_run"]) == (f"{tmp_path}/table", run.run_id)
    assert published.device
    ids = sfr.open_table(f"{tmp_path}/table").to_arrow(["id"])["id"].to_pylist()
    assert len(ids) == len(set(ids)) == DOCUMENTS


def test_a_wrong_setting_fails_the_job_in_its_own_words(head: Head, tmp_path: Path) -> None:
    config_file = prepare(tmp_path, str(tmp_path))
    command = embed_command(config_file, "corpus.text=texxt")
    code, output = head.submit(*command, submission_id="wrong")
    assert code == 1  # of `ray job submit`, whatever the job's own is
    job = head.job("wrong")
    assert (job["status"], job["driver_exit_code"]) == ("FAILED", 1)
    for text in (output, head.log("wrong")):
        assert "Did you mean 'text'" in text
        assert "Traceback" not in text


def test_without_the_token_nothing_is_taken(head: Head, tmp_path: Path) -> None:
    code, output = head.submit(
        *embed_command(tmp_path / "none.yaml"), submission_id="stranger", RAY_AUTH_MODE="disabled"
    )
    assert code != 0
    assert "401" in output or "nauthorized" in output, output
    with pytest.raises(urllib.error.HTTPError, match="404"):
        head.job("stranger")


JOIN = """
import sys
from sfr_batch.pipeline import clusters, joining
joining.check(clusters.Address(sys.argv[1], "here"))
"""
GET_TOKEN = "`ray get-auth-token` on its head prints it."


def test_a_run_that_joins_without_the_token_says_so(head: Head) -> None:
    """In processes of their own: Ray reads a token once."""
    address = f"127.0.0.1:{head.port}"

    def said(**changes: str) -> str:
        command = [sys.executable, "-c", JOIN, address]
        done = subprocess.run(command, env=head.environment | changes, cwd=ROOT, capture_output=True, text=True)
        return done.stderr.rpartition("ConfigError: ")[2].strip()

    assert said(RAY_AUTH_MODE="") == (
        f"The Ray cluster at {address} (here) wants a token, and RAY_AUTH_MODE is not set. Set RAY_AUTH_MODE=token, "
        f"with the cluster's token in RAY_AUTH_TOKEN or ~/.ray/auth_token; {GET_TOKEN}"
    )
    assert said(RAY_AUTH_TOKEN="0" * 64) == (
        f"The Ray cluster at {address} (here) refuses the token of RAY_AUTH_TOKEN. Put the cluster's token there; "
        f"{GET_TOKEN}"
    )


WHAT_A_WORKER_SEES = """
import ray
ray.init()
@ray.remote
def look():
    import os, sfr_batch
    return {"files": [os.path.join(at, name) for at, _, names in os.walk(".") for name in names],
            "from": sfr_batch.__file__, "at": os.getcwd()}
import json
print("SEEN", json.dumps(ray.get(look.remote())))
"""


def test_workers_have_the_package_and_no_more(head: Head) -> None:
    """From the submitted folder: it need not be installed there. Neither tests nor history travel."""
    code, output = head.submit("python", "-c", WHAT_A_WORKER_SEES)
    assert code == 0, output
    (line,) = (line for line in output.splitlines() if "SEEN {" in line)
    seen = json.loads(line[line.index("{") :])
    assert seen["from"] == f"{seen['at']}/sfr_batch/__init__.py"
    assert not Path(seen["at"]).is_relative_to(ROOT)
    files = {Path(file) for file in seen["files"]}
    assert {Path("jobs/embed.py"), Path("configs/demo.yaml")} <= files
    assert not {file.parts[0] for file in files} & {".git", ".ci", "tests", "demo", ".hypothesis", ".mypy_cache"}


# --- sfr.submit


SUBMITTER = """
import os, sys
import sfr_batch as sfr
job = sfr.submit(sys.argv[1], address=sys.argv[2])
assert job.new
print(job.id, flush=True)
job.wait()
"""


@pytest.fixture
def here(head: Head, monkeypatch: pytest.MonkeyPatch) -> Head:
    """This process has the token of the head, since a moment ago, and a RAY_ADDRESS that is another's."""
    monkeypatch.setenv("RAY_AUTH_MODE", "token")
    monkeypatch.setenv("RAY_AUTH_TOKEN", head.environment["RAY_AUTH_TOKEN"])
    monkeypatch.setenv("RAY_ADDRESS", "http://127.0.0.1:1")
    return head


@pytest.fixture
def small_job(tmp_path: Path, small_model: Path) -> Path:
    """A config for a corpus of four documents."""
    put_parquet(f"{tmp_path}/corpus/a.parquet", documents(["one", "two", "three", "four"]))
    file = tmp_path / "job.yaml"
    file.write_text(json.dumps(settings(small_model, str(tmp_path))))
    return file


@pytest.fixture
def night(small_job: Path, tmp_path: Path) -> Path:
    """Its table is finished, and a document has gone since: a run that needs no model."""
    do_plan(sfr.plan(small_job))
    put_parquet(f"{tmp_path}/corpus/a.parquet", documents(["one", "two", "three"]))
    return small_job


def submit_elsewhere(head: Head, config_file: Path, folder: Path) -> str:
    """The id of a job whose submitter, in a process of its own, was killed at once."""
    command = [sys.executable, "-c", SUBMITTER, str(config_file), head.address]
    own = head.environment | {"PYTHONPATH": str(ROOT)}
    with subprocess.Popen(command, cwd=folder, env=own, stdout=subprocess.PIPE, text=True) as first:
        assert first.stdout
        submission_id = first.stdout.readline().strip()
        first.kill()
    return submission_id


def test_a_job_outlives_who_has_submitted_it(here: Head, night: Path, tmp_path: Path) -> None:
    """Another process finds it by its id. After its end, the same submission is a new job."""
    submission_id = submit_elsewhere(here, night, tmp_path)
    job = sfr.job(submission_id, address=here.address)
    assert job.table == f"{tmp_path}/table"
    assert job.wait(timeout=200) == "succeeded"
    account = job.result()
    assert (account.how, account.ray_job, account.command) == (
        "published snapshot 2",
        submission_id,
        "python embed.py config.yaml",
    )
    assert account.versions["sfr-batch"] == sfr.__version__
    progress = job.progress()
    assert (progress.outcome, progress.ended) == ("published", account)
    assert job.stop() == "succeeded"
    assert "".join(job.follow()) == job.logs()
    assert f"Table     {tmp_path}/table, snapshot 2\n" in job.logs()
    assert here.job(submission_id)["metadata"].keys() == {"sfr_batch_table", "sfr_batch_by"}

    result = CliRunner().invoke(main, ["submit", str(night), "--address", here.address, "--wait", "--json"])
    assert result.exit_code == 0, result.output
    second = json.loads(result.stdout)
    assert (second["id"], second["new"]) == (submission_id.removesuffix("-1") + "-2", True)
    assert (second["status"], second["account"]["outcome"]) == ("succeeded", "nothing to do")


@pytest.mark.slow
def test_a_job_that_embeds_is_watched(
    here: Head, small_job: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """From when it is pending to its end, and the same submission meanwhile is the same job. Its workers have the
    package from what was sent."""
    submission_id = submit_elsewhere(here, small_job, tmp_path)
    job = sfr.submit(small_job, address=here.address)
    assert (job.id, job.new) == (submission_id, False)
    last = job.watch(every_s=1)
    assert (last.outcome, last.table, last.embedded) == ("published", job.table, 4)
    assert "starting" in capsys.readouterr().err  # said by the run itself, on storage
    account = job.result()
    assert (last.ended, account.rows) == (account, 4)
    assert here.job(submission_id)["metadata"]["sfr_batch_run"] == account.run_id
    assert len(sfr.open_table(job.table).to_arrow()) == 4

    result = CliRunner().invoke(main, ["submit", str(small_job), "--address", here.address, "--watch"])
    assert result.exit_code == 0, result.output
    assert "nothing to do" in result.stderr


def test_a_variable_that_the_cluster_lacks_is_named(
    here: Head, small_job: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It is set here, and its value goes nowhere. Of two that submit the same at once, who have not seen each other's
    job, Ray refuses the second one, who then has the job of the first, and sees how it ends."""
    from sfr_batch.pipeline.submission.jobs_api import JobsApi

    monkeypatch.setattr(JobsApi, "jobs", lambda self: [])
    monkeypatch.setenv("SFR_TEST_HOOK", "http://127.0.0.1:9/valuethatissecret")
    hook = "run.on_end=${SFR_TEST_HOOK}"
    job = sfr.submit(small_job, [hook], address=here.address)
    result = CliRunner().invoke(main, ["submit", str(small_job), hook, "--address", here.address, "--follow"])
    sentence = (
        "The environment variable SFR_TEST_HOOK is not set, but the config refers to it as ${SFR_TEST_HOOK}. Export "
        "it, on a cluster on every node."
    )
    assert job.new
    assert re.match(rf"job    {job.id}, \w+ already; nothing was submitted\n", result.stdout)
    assert f"\nerror: {sentence}\n" in result.stdout
    assert result.stderr == f"error: The Ray job {job.id} failed with exit code 2: {sentence}\n"
    assert result.exit_code == 1
    with pytest.raises(JobFailed, match="SFR_TEST_HOOK is not set") as failed:
        job.result()
    assert (job.status(), job.progress().ended) == ("failed", failed.value.account)
    assert "secret" not in json.dumps(here.job(job.id)) + result.output


def test_another_token_is_refused(here: Head, small_job: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RAY_AUTH_TOKEN", "0" * 64)
    where = f"The Ray cluster at {here.address} (address)"
    with pytest.raises(ConfigError) as refused:
        sfr.submit(small_job, address=here.address)
    assert str(refused.value) == (
        f"{where} refuses the token of RAY_AUTH_TOKEN. Put the cluster's token there; {GET_TOKEN}"
    )
    monkeypatch.delenv("RAY_AUTH_MODE")
    with pytest.raises(ConfigError) as refused:
        sfr.job("sfr-x-1", address=here.address)
    assert str(refused.value).startswith(f"{where} wants a token, and RAY_AUTH_MODE is not set. ")


def test_an_unknown_job_is_refused_with_those_that_there_are(here: Head) -> None:
    with pytest.raises(ConfigError, match=rf"^The Ray cluster at {here.address} \(address\) has no job 'sfr-x-1'\. It"):
        sfr.job("sfr-x-1", address=here.address)
