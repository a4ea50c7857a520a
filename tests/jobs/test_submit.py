"""`ray job submit --working-dir . -- python jobs/embed.py CONFIG`, as the README has it, to a head with a token.

The head is a process of its own with its own ports, folder, home and password; nothing outside of them is touched.
"""

import contextlib
import json
import os
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

import sfr_batch as sfr
from sfr_batch.format import names
from sfr_batch.storage.stores import open_store
from tests.job_processes import (
    DOCUMENTS,
    ROOT,
    SPLITS,
    command,
    data_files,
    kill_tree,
    prepare,
    process_tree,
    says_what_is_committed,
)

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

    def close(self) -> None:
        """End what was started here, and that alone."""
        kill_tree(self._process.pid)
        self._process.wait()

    def submit(self, *command: str, submission_id: str = "", wait: bool = True, **environment: str) -> tuple[int, str]:
        """Exit code and output of `ray job submit --working-dir . -- …`, run in the repository."""
        options = ["--address", f"http://127.0.0.1:{self._dashboard}", "--working-dir", "."]
        options += ["--submission-id", submission_id] if submission_id else []
        options += [] if wait else ["--no-wait"]
        return self._run("submit", *options, "--", *command, **environment)

    def stop(self, submission_id: str) -> None:
        code, output = self._run("stop", "--address", f"http://127.0.0.1:{self._dashboard}", submission_id)
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
        request = urllib.request.Request(f"http://127.0.0.1:{self._dashboard}{path}")
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
