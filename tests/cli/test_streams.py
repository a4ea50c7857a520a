"""stdout and stderr that take nothing: a command that changes something succeeds, one whose result is lost says so."""

import io
import json
import os
import pty
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path

import pytest

import sfr_batch as sfr
from sfr_batch.cli import streams
from sfr_batch.pipeline import display
from sfr_batch.pipeline.progress import Progress
from tests.chaos.displays import fill_pipe
from tests.job_processes import ROOT, documents, put_parquet, settings
from tests.tables import do_plan

NO_SPACE = (
    "error: stdout cannot be written: No space left on device. What it got is incomplete. Make room or write to "
    "another place, and run the same command again.\n"
)
CLOSED = (
    "error: stdout is closed, so there is no place for the result. Run the same command again with stdout open, e.g. "
    "with > FILE.\n"
)


@dataclass(frozen=True)
class Case:
    """A command, what its streams are, and how it ends."""

    command: str
    stdout: str
    code: int
    says: str = ""
    stderr: str = "file"

    @property
    def arguments(self) -> list[str]:
        return self.command.split()


CASES = [
    # Whoever changes a table succeeds if that does.
    *(Case("embed job.yaml", how, 0, stderr=how) for how in ("full", "closed", "pipe")),
    Case("embed job.yaml", "full", 0),
    Case("promote current table", "full", 0),
    Case("export table out", "pipe", 0),
    Case("changes table 0 1 --output feed", "closed", 0),
    Case("audit table --json audit.json", "full", 0),
    # Nothing is changed where the table is empty but for its rows; still the exit code is about that.
    Case("sweep table --delete", "full", 0),
    Case("expire table --keep-last 1 --delete", "pipe", 0),
    Case("compact table --write", "full", 0),
    # Where stdout is the result, it must arrive.
    Case("plan job.yaml", "full", 1, NO_SPACE),
    Case("plan job.yaml", "closed", 1, CLOSED),
    Case("plan job.yaml", "pipe", 141),
    Case("changes table 0 1 --json", "full", 1, NO_SPACE),
    Case("changes table 0 1 --json", "pipe", 141),
    Case("view table", "full", 1, NO_SPACE),
    Case("status table", "pipe", 141),
    Case("snapshots table", "closed", 1, CLOSED),
    Case("audit table", "full", 1, NO_SPACE),
    Case("compact table", "full", 1, NO_SPACE),
    Case("--help", "full", 1, NO_SPACE),
    Case("plan --help", "pipe", 141),
    # Without stderr the exit code alone remains.
    Case("plan job.yaml", "full", 1, stderr="closed"),
    Case("status nowhere", "file", 1, stderr="full"),
    Case("plan nowhere.yaml", "file", 2, stderr="pipe"),
    Case("plan", "file", 2, stderr="closed"),
    # An error is said once.
    Case("status nowhere", "full", 1, "error: There is no table at {folder}/nowhere"),
]


@pytest.fixture(scope="module")
def answers(tmp_path_factory: pytest.TempPathFactory, mistral: str) -> list[tuple[int, str]]:
    """Exit code and stderr of each case."""
    folder = tmp_path_factory.mktemp("finished")
    put_parquet(f"{folder}/corpus/a.parquet", documents(["one", "two", "three"]))
    (folder / "job.yaml").write_text(json.dumps(settings(mistral, str(folder))))
    do_plan(sfr.plan(folder / "job.yaml"))
    done = subprocess.run(
        [sys.executable, "-m", "tests.cli.stream_cases", str(tmp_path_factory.mktemp("streams"))],
        input=json.dumps([asdict(case) | {"arguments": case.arguments} for case in CASES]),
        cwd=folder,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        timeout=200,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert done.stderr == "", "what a fork says as it ends"
    assert (folder / "out" / "_SUCCESS").exists()
    assert (folder / "feed" / "_SUCCESS").exists()
    assert json.loads((folder / "audit.json").read_text())
    return [(code, said.replace(str(folder), "{folder}")) for code, said in json.loads(done.stdout)]


@pytest.mark.parametrize("number", range(len(CASES)), ids=lambda n: f"{CASES[n].command}, {CASES[n].stdout}")
def test_streams_that_take_nothing(number: int, answers: list[tuple[int, str]]) -> None:
    case, (code, said) = CASES[number], answers[number]
    assert code == case.code
    assert said.startswith(case.says) if case.says else said == ""
    assert said.count("error: ") <= 1


@pytest.mark.parametrize("streams", ["> /dev/full 2> /dev/full", ">&- 2>&-"])
def test_a_whole_process(streams: str, tmp_path: Path) -> None:
    """With what Python does as it ends: the code is neither 120 nor that of an abort."""
    command = f'set -o pipefail; sleep 0.1; "$0" -m sfr_batch.cli plan {tmp_path}/nowhere.yaml {streams}'
    assert subprocess.run(["bash", "-c", command, sys.executable], cwd=ROOT, check=False).returncode == 2


def test_closed_descriptors_are_not_those_of_the_next_file(tmp_path: Path) -> None:
    code = (
        "import os, sys\nfrom sfr_batch.storage.descriptors import fill_standard_descriptors\n"
        "fill_standard_descriptors()\nfile = os.open(sys.argv[1], os.O_WRONLY | os.O_CREAT)\nassert file > 2\n"
        "os.write(1, b'x'), os.write(2, b'x'), os.system('echo x; echo x >&2')"
    )
    for closed in (">&-", "2>&-", "<&- >&- 2>&-"):
        command = f'exec "$0" -c "$1" "$2" {closed}'
        done = subprocess.run(
            ["sh", "-c", command, sys.executable, code, str(tmp_path / "data")],
            cwd=ROOT,
            check=False,
            capture_output=True,
        )
        assert done.returncode == 0
        assert (tmp_path / "data").read_bytes() == b""


# --- the display of a library


@pytest.fixture
def stuck(monkeypatch: pytest.MonkeyPatch) -> Iterator[tuple[io.TextIOWrapper, int]]:
    """A stream whose reader does not read, and the reader's end."""
    monkeypatch.setattr(display, "PATIENCE_S", 0.05)
    reader, writer = os.pipe()
    fill_pipe(writer)
    stream = open(writer, "w")  # noqa: SIM115
    yield stream, reader
    os.close(reader)
    for thread in threading.enumerate():
        if thread.name == "sfr-display":
            thread.join()


def test_progress_does_not_wait_for_a_stream_that_is_stuck(stuck: tuple[io.TextIOWrapper, int]) -> None:
    stream, reader = stuck
    with Progress(splits=1, rows=1, every_s=0.01, stream=stream):
        pass
    assert not display.offer(stream, "lost\n")
    assert display.is_stuck(stream, 0)
    os.read(reader, 2**20)  # now somebody reads
    assert not display.is_stuck(stream, 60)
    assert display.offer(stream, "heard\n")
    assert os.read(reader, 2**20).endswith(b"heard\n")


def test_last_words_come_after_what_is_being_written(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(display, "_silent", False)
    monkeypatch.setattr(display, "_LAST_WRITE_S", 60)
    begun, order = threading.Event(), []

    class Slow(io.StringIO):
        def write(self, text: str) -> int:
            begun.set()
            time.sleep(0.1)
            order.append(text)
            return len(text)

    stream = Slow()
    writer = threading.Thread(target=display.offer, args=(stream, "progress\n"))
    writer.start()
    begun.wait()
    display.silence()
    order.append("last words\n")
    assert not display.offer(stream, "late\n")
    writer.join()
    assert order == ["progress\n", "last words\n"]


def test_nothing_that_a_stream_raises_comes_out() -> None:
    closed = io.StringIO()
    closed.close()
    assert not display.offer(closed, "x")
    assert not display.offer(None, "x")
    full = open("/dev/full", "w")  # noqa: SIM115
    assert not display.offer(full, "x")
    with Progress(splits=1, rows=1, every_s=0.01, stream=full):
        pass
    with pytest.raises(OSError, match="No space"):
        full.close()
    with Progress(splits=1, rows=1, stream=None):
        pass


def received(terminal: int, count: int) -> bytes:
    """The next `count` bytes: what one write sends may arrive in several pieces."""
    data = b""
    while len(data) < count:
        data += os.read(terminal, count - len(data))
    return data


def test_a_terminal_obeys_nothing_on_stdout(monkeypatch: pytest.MonkeyPatch) -> None:
    """A pipe gets every character."""
    master, slave = pty.openpty()
    with open(slave, "w") as terminal:
        shown = streams.Output(terminal, 1, best_effort=False)
        print("a\x1b[2Jb", file=shown, flush=True)
        assert received(master, 11) == b"a\\x1b[2Jb\r\n"
        assert shown.finish()
        shown.write("\x1b[0m")  # as the colorama of Ray does as the process ends
        bar = streams.Output(terminal, 2, best_effort=True)
        print("\r\x1b[K1 of 2", file=bar, end="", flush=True)
        assert received(master, 10) == b"\r\x1b[K1 of 2"
        monkeypatch.setattr(sys, "stderr", bar)
        display.say("a\x1b[2Jb")
        assert received(master, 11) == b"a\\x1b[2Jb\r\n"
    os.close(master)
    pipe = io.StringIO()
    print("a\x1b[2Jb", file=streams.Output(pipe, 1, best_effort=False), flush=True)
    assert pipe.getvalue() == "a\x1b[2Jb\n"


def test_what_an_encoding_lacks_is_escaped(monkeypatch: pytest.MonkeyPatch) -> None:
    for encoding, shown in (("latin-1", b"\\u2026\\udcff"), ("ascii", "…\\udcff".encode())):
        raw = io.BytesIO()
        monkeypatch.setattr(sys, "stdout", io.TextIOWrapper(raw, encoding=encoding))
        monkeypatch.setattr(sys, "stderr", io.StringIO())
        streams.replace_streams()
        print("…\udcff", flush=True)
        assert raw.getvalue() == shown + b"\n"
