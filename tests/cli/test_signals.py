"""SIGTERM and SIGINT at any moment of a real job: exit code, last words, nothing left behind, and the resume."""

import json
import os
import signal
import socket
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest

import sfr_batch as sfr
from sfr_batch.cli import signals
from sfr_batch.cli.options import DOES_THE_REST
from sfr_batch.format import names
from sfr_batch.pipeline import interrupt
from sfr_batch.storage.stores import open_store
from tests.job_processes import (
    DOCUMENTS,
    ROOT,
    SPLITS,
    command,
    data_files,
    documents,
    finish_job,
    prepare,
    process_tree,
    put_parquet,
    says_what_is_committed,
    settings,
    start_job,
    start_python,
    wait_for_commits,
    wait_until_gone,
)
from tests.models import minilm_folder
from tests.tables import do_splits

GENEROUS_S = 60
"""What a signalled process may take here, where many share two cores; the promise is signals.LEAVE_WITHIN_S."""


@pytest.fixture(scope="module")
def corpus(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The config of a job of SPLITS splits."""
    folder = tmp_path_factory.mktemp("corpus")
    return prepare(folder, str(folder))


def stop(job: subprocess.Popen[str], number: signal.Signals) -> str:
    """Signal a job; its exit code must be the signal's, and all its processes must go. Returns its last line."""
    tree = process_tree(job.pid)
    job.send_signal(number)
    output, _ = job.communicate(timeout=GENEROUS_S)
    assert job.returncode == 128 + number, output
    assert "Traceback" not in output
    wait_until_gone(tree)
    return output.splitlines()[-1]


@pytest.mark.timeout(400)
@pytest.mark.parametrize("ray_address", ["none", pytest.param("local", marks=pytest.mark.slow)])
def test_stop_twice_and_finish(ray_address: str, corpus: Path, tmp_path: Path) -> None:
    """SIGINT, the same command, SIGTERM, the same command: every split is embedded once."""
    store = open_store(str(tmp_path / "table"))
    override = f"table.path={tmp_path}/table"
    done: dict[str, str] = {}
    for number, after in ((signal.SIGINT, 3), (signal.SIGTERM, 9)):
        job = start_job(corpus, ray_address, override)
        wait_for_commits(job, store, after)
        line = stop(job, number)
        says_what_is_committed(line, number, store, todo=SPLITS - len(done))
        now = data_files(store)
        assert now.items() >= done.items(), "a finished data file has changed"
        assert after <= len(now) < SPLITS, "the signal came too late to show anything"
        assert not list(store.list(names.SNAPSHOTS)), "a reader could see half a run"
        done = now
    finish_job(corpus, ray_address, override)
    assert data_files(store).items() >= done.items()
    snapshot = sfr.open_table(str(tmp_path / "table")).current()
    report = json.loads(store.read(names.run_key(snapshot.manifest.run_id, "report.json")))
    assert report["splits"] == SPLITS - len(done)
    assert snapshot.manifest.counts.read == DOCUMENTS


@pytest.mark.slow  # what Ray has begun to start outlives the job by a minute, until it notices
def test_stop_while_ray_starts(corpus: Path, tmp_path: Path) -> None:
    job = start_job(corpus, "local", f"table.path={tmp_path}/table")
    while not any(b"raylet" in command(process) for process in process_tree(job.pid)):
        assert job.poll() is None, job.communicate()[0]
        time.sleep(0.05)
    line = stop(job, signal.SIGTERM)
    says_what_is_committed(line, signal.SIGTERM, open_store(str(tmp_path / "table")), todo=SPLITS)
    assert "0 of 20" in line


def test_stop_while_planning(tmp_path: Path) -> None:
    """A store that takes connections and never answers."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        raw = settings(minilm_folder(), str(tmp_path))
        endpoint = f"http://127.0.0.1:{server.getsockname()[1]}"
        raw["corpus"] = {"path": "s3://bucket/corpus", "storage": {"endpoint_url": endpoint, "anonymous": True}}
        (tmp_path / "job.yaml").write_text(json.dumps(raw))
        job = start_job(tmp_path / "job.yaml", "none")
        connection, _ = server.accept()
        line = stop(job, signal.SIGINT)
        connection.close()
    assert line == "stopped by SIGINT: nothing was started; the same command starts again"


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["plan", "{config}"], "nothing was changed"),
        (["status", "s3://bucket/table"], "nothing was changed"),
        (["sweep", "s3://bucket/table", "--delete"], DOES_THE_REST),
        (["expire", "s3://bucket/table", "--keep-last", "1", "--delete"], DOES_THE_REST),
        (["compact", "s3://bucket/table", "--write"], DOES_THE_REST),
        (
            ["repair", "{config}", "--write", "table.path=s3://bucket/table"],
            "nothing was started; the same command starts again",
        ),
        (
            ["export", "s3://bucket/table", "out"],
            "if out has no _SUCCESS, it is incomplete: remove it and run the same command again",
        ),
    ],
    ids=lambda value: value[0] if isinstance(value, list) else "",
)
def test_stop_any_command(arguments: list[str], words: str, tmp_path: Path) -> None:
    """Each by what it does: one that reads does not speak of commits."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        endpoint = f"http://127.0.0.1:{server.getsockname()[1]}"
        raw = settings(minilm_folder(), str(tmp_path))
        raw["corpus"] = {"path": "s3://bucket/corpus", "storage": {"endpoint_url": endpoint, "anonymous": True}}
        (tmp_path / "job.yaml").write_text(json.dumps(raw))
        given = [argument.format(config=tmp_path / "job.yaml") for argument in arguments]
        with pytest.MonkeyPatch.context() as environment:
            for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"):
                environment.setenv(name, "x")
            environment.setenv("AWS_ENDPOINT_URL_S3", endpoint)
            job = start_python("-m", "sfr_batch.cli", *given)
        connection, _ = server.accept()
        number = signal.SIGTERM if words == DOES_THE_REST else signal.SIGINT
        job.send_signal(number)
        output, _ = job.communicate(timeout=GENEROUS_S)
        connection.close()
    assert (job.returncode, output) == (128 + number, f"stopped by {number.name}: {words}\n")


def start_and_stop(code: str) -> tuple[int, str]:
    """Exit code and output of a command that is stopped when it has printed a line."""
    job = start_python("-c", code)
    assert job.stdout is not None
    assert b"".join(iter(lambda: os.read(job.stdout.fileno(), 1), b"\n")) == b"ready"
    job.send_signal(signal.SIGINT)
    output, _ = job.communicate(timeout=GENEROUS_S)
    return job.returncode, output


def test_stop_from_the_first_line_of_code_to_the_last() -> None:
    run = "import sys, time\nfrom sfr_batch.cli import start\n{}\nstart.run({})"
    wait = "lambda *_: print('ready', flush=True) or time.sleep(1000)"
    first = run.format(f"sys.meta_path.insert(0, type('Slow', (), {{'find_spec': {wait}}}))", "None")
    assert start_and_stop(first) == (130, "stopped by SIGINT: nothing is going on\n")
    imports = run.format("", wait)
    assert start_and_stop(imports) == (130, "stopped by SIGINT: nothing was started\n")
    last = run.format(
        f"from sfr_batch.cli import streams\nstreams.finish = {wait}",
        "lambda: type('Command', (), {'main': lambda: None})",
    )
    assert start_and_stop(last) == (130, "stopped by SIGINT: the command had ended already, with exit code 0\n")


def test_stop_the_demo(tmp_path: Path) -> None:
    """It says at once what it does, and its helpers say nothing."""
    job = start_python(ROOT / "jobs" / "demo.py", "--folder", tmp_path / "demo")
    assert job.stdout is not None
    first = b"".join(iter(lambda: os.read(job.stdout.fileno(), 1), b"\n")).decode()
    assert first == "It embeds and searches 12,500 docstrings of installed packages."
    while len(process_tree(job.pid)) == 1:
        assert job.poll() is None
    assert stop(job, signal.SIGINT) == "stopped by SIGINT: nothing was started; the same command starts again"


def test_stop_after_publishing() -> None:
    """What was published is not published again."""
    interrupt.published = 3
    try:
        assert interrupt.state() == "snapshot 3 is published; the same command finds nothing to do"
    finally:
        interrupt.published = None


def test_stop_while_publishing(tmp_path: Path) -> None:
    put_parquet(f"{tmp_path}/corpus/a.parquet", documents(["one", "two", "three"]))
    (tmp_path / "job.yaml").write_text(json.dumps(settings(minilm_folder(), str(tmp_path))))
    do_splits(sfr.plan(tmp_path / "job.yaml"))
    slow = (
        "import time\nfrom sfr_batch.cli.start import main\nfrom sfr_batch.pipeline import runner\n"
        "def publish(*_): print('publishing', flush=True); time.sleep(1000)\n"
        "runner.publish = publish\nmain()"
    )
    job = start_python("-c", slow, "embed", tmp_path / "job.yaml")
    assert job.stdout is not None
    assert job.stdout.readline() == "publishing\n"
    line = stop(job, signal.SIGTERM)
    assert line == "stopped by SIGTERM: all splits are committed; the same command publishes them"
    resumed = "\nResumed   3 rows embedded = 0 by this run + 3 by earlier runs that did not publish\n"
    assert resumed in finish_job(tmp_path / "job.yaml", "none")
    assert sfr.open_table(str(tmp_path / "table")).num_rows == 3


# --- the context itself


def signalled(code: str, *numbers: signal.Signals) -> tuple[int, str]:
    """Exit code and output of Python that is signalled when it says that it is ready."""
    start = "import ctypes, threading, time\nfrom sfr_batch.cli import signals\n"
    start += "from sfr_batch.cli.signals import leaving\n"
    process = start_python("-c", start + code)
    assert process.stdout is not None
    # Byte by byte: what a buffered reader takes beyond the line, `communicate` does not see.
    assert b"".join(iter(lambda: os.read(process.stdout.fileno(), 1), b"\n")) == b"ready"
    for number in numbers:
        process.send_signal(number)
    output, _ = process.communicate(timeout=GENEROUS_S)
    return process.returncode, output


def test_a_main_thread_that_is_stuck_does_not_matter() -> None:
    """In C, in a lock that no signal ends: as in a driver that waits for its device."""
    code = (
        "lock = ctypes.create_string_buffer(64)\nlib = ctypes.CDLL(None)\nlib.pthread_mutex_lock(lock)\n"
        "with leaving(lambda name: f'bye, {name}'):\n    print('ready', flush=True)\n    lib.pthread_mutex_lock(lock)"
    )
    assert signalled(code, signal.SIGTERM) == (143, "bye, SIGTERM\n")


def test_last_words_that_nobody_takes_do_not_hold_it_up() -> None:
    code = "with leaving(lambda name: time.sleep(1e3) or 'late'):\n    print('ready', flush=True)\n    time.sleep(1e3)"
    assert signalled(code, signal.SIGINT) == (130, "")
    assert signalled("signals.LEAVE_WITHIN_S = 1000\n" + code, signal.SIGINT, signal.SIGTERM)[0] in (130, 143)


def test_what_was_printed_comes_before_the_last_words() -> None:
    """The signal comes while Python's buffer still holds it; only the word `ready` goes around the buffer."""
    code = (
        "import os, sys\nsys.stdout = open(1, 'w', closefd=False)\nwith leaving(lambda name: 'bye'):\n"
        "    print('first')\n    os.write(1, b'ready\\n')\n    time.sleep(1000)"
    )
    assert signalled(code, signal.SIGHUP) == (129, "first\nbye\n")


def test_a_run_that_goes_on_says_nothing_after_the_last_words() -> None:
    """What is done after them may take a while."""
    code = (
        "import click, sys\nfrom sfr_batch.cli import start\nfrom sfr_batch.pipeline import display\n"
        "def tick():\n    while True:\n        display.offer(sys.stderr, 'tick\\n')\n        time.sleep(0.01)\n"
        "def work():\n    print('ready', flush=True)\n    threading.Thread(target=tick, daemon=True).start()\n"
        "    time.sleep(1000)\n"
        "start._leave = lambda name: time.sleep(0.5)\nstart.run(lambda: click.Command('x', callback=work))"
    )
    exit_code, output = signalled(code, signal.SIGTERM)
    assert (exit_code, output.splitlines()[-1]) == (143, "stopped by SIGTERM: nothing was started")


def test_a_process_that_leaves_of_itself_meanwhile_still_has_its_last_words() -> None:
    """As when something else on SIGTERM raises SystemExit in the main thread."""
    code = (
        "import os, signal\n"
        "with leaving(lambda name: time.sleep(0.5) or 'bye'):\n"
        "    print('ready', flush=True)\n    os.kill(os.getpid(), signal.SIGTERM)\n    raise SystemExit(3)"
    )
    assert signalled(code) == (143, "bye\n")


def test_an_ignored_signal_stays_ignored() -> None:
    """What `nohup` and `&` in a script ask for."""
    code = (
        "import os, signal\nsignal.signal(signal.SIGINT, signal.SIG_IGN)\n"
        "with leaving(lambda name: 'bye'):\n    print('ready', flush=True)\n    os.kill(os.getpid(), signal.SIGINT)"
    )
    assert signalled(code) == (0, "")


def test_handlers_are_as_before_when_the_context_is_left() -> None:
    before = [signal.getsignal(number) for number in signals.SIGNALS]
    threads = threading.active_count()
    with signals.leaving(lambda name: name):
        assert signal.getsignal(signal.SIGTERM) != before[0]
    assert [signal.getsignal(number) for number in signals.SIGNALS] == before
    assert threading.active_count() == threads
    assert signal.set_wakeup_fd(-1) == -1


@pytest.mark.parametrize("ray_address", ["none", pytest.param("local", marks=pytest.mark.slow)])
def test_the_library_installs_no_handlers(ray_address: str, tmp_path: Path) -> None:
    put_parquet(f"{tmp_path}/corpus/a.parquet", documents(["one"]))
    (tmp_path / "job.yaml").write_text(json.dumps(settings(minilm_folder(), str(tmp_path))))
    code = (
        "import signal, sys\nimport sfr_batch as sfr\n"
        "handlers = lambda: [signal.getsignal(n) for n in (signal.SIGTERM, signal.SIGINT)]\n"
        "before = handlers()\nsfr.embed(sys.argv[1], sys.argv[2:])\nassert handlers() == before"
    )
    overrides = [f"run.ray_address={ray_address}", f"table.path={tmp_path}/table"]
    done = subprocess.run(
        [sys.executable, "-c", code, str(tmp_path / "job.yaml"), *overrides],
        capture_output=True,
        text=True,
        timeout=200,
    )
    assert done.returncode == 0, done.stderr
