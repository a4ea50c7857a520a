"""`status --json` and `--watch`: from storage alone, on disk and on S3, on a terminal and beside one."""

import contextlib
import fcntl
import json
import os
import pty
import re
import signal
import struct
import subprocess
import sys
import termios
import time
from collections.abc import Iterator
from pathlib import Path

import pyarrow as pa

import sfr_batch as sfr
from sfr_batch.format import names
from sfr_batch.format.parquet import encode_parquet
from sfr_batch.format.run_accounts import RunAccount
from sfr_batch.format.run_progress import RunProgress
from sfr_batch.pipeline.progress import Progress
from sfr_batch.pipeline.progress_record import ProgressRecord
from sfr_batch.storage.stores import open_store
from sfr_batch.table.commit import lease
from tests.cli.test_cli import run
from tests.pipeline.test_progress import receipt
from tests.tables import make_table, split_name

ROOT = Path(__file__).parents[2]
RUN = "20991231T000000-new"
PAINT = re.compile(r"\x1b\[[0-9]*m")


@contextlib.contextmanager
def running(root: str) -> Iterator[ProgressRecord]:
    """A table, and a run of 16 splits of 100 rows, six of which are done."""
    store = open_store(root)
    make_table(store, {"a": ["x"]})
    progress = Progress(splits=16, rows=1_600, stream=None, stage="encoding")
    for _ in range(6):
        progress.add(receipt(100, 6_000))
    with lease.hold(store, lease.Holder.of_this_process(RUN), 60, say=print):
        store.create(names.run_key(RUN, names.RUN_CONFIG), b"{}")
        record = ProgressRecord(store, RUN, progress)
        record.write()
        yield record


def end(root: str, outcome: str, **more: object) -> None:
    account = RunAccount(RUN, outcome, **more)  # type: ignore[arg-type]
    open_store(root).create(names.run_key(RUN, names.RUN_END), account.to_json().encode())


def test_json_and_watch(place: str) -> None:
    table = f"{place}/table"
    with running(table):
        found = json.loads(run("status", table, "--json").output)
        assert (found["table"], found["pointer"], found["dim"]) == (table, None, 3)
        assert [snapshot["snapshot"] for snapshot in found["snapshots"]] == [1]
        assert found["snapshots"][0]["counts"]["vectors"] == 1
        assert (found["writer"]["run_id"], found["writer"]["alive"]) == (RUN, True)
        told = [found["run"][name] for name in ("outcome", "stage", "embedded", "rows", "share", "stalled")]
        assert told == ["running", "encoding", 600, 1_600, 0.375, False]
        assert found["run"].keys() == sfr.open_table(table).progress().as_json().keys()
        sfr.promote(f"{place}/current", table)
        pointed = json.loads(run("status", f"{place}/current", "--json").output)
        assert (pointed["pointer"], pointed["table"]) == (f"{place}/current", table)
    end(table, "failed", error="RunFailed", message="It is full.")
    result = run("status", table, "--watch")
    assert result.exit_code == 3
    assert result.stdout.splitlines() == [f"{table}: run {RUN}", "failed: RunFailed: It is full."]
    (line,) = run("status", table, "--watch", "--json").stdout.splitlines()
    assert json.loads(line)["ended"]["message"] == "It is full."
    assert sfr.open_table(table).watch().exit_code == 3


def test_keys_are_those_of_the_readme() -> None:
    text = (ROOT / "jobs" / "README.md").read_text(encoding="utf-8")
    documented = text.partition("\n## Watch a run")[2].partition("\n## ")[0]
    missing = [name for name in RunProgress().as_json() if f"`{name}`" not in documented]
    assert missing == []


def test_a_run_of_a_table_in_status(tmp_path: Path) -> None:
    """What it says of itself stands there, not what can be counted."""
    plan = pa.table({"split_id": [split_name("b")], "rows": [5], "shard": ["s"]})
    with running(str(tmp_path)):
        key = names.run_key(RUN, names.RUN_PLAN)
        open_store(str(tmp_path)).create(key, encode_parquet(plan, {}))
        *_, writer, told = run("status", tmp_path).output.splitlines()
        (unfinished,) = json.loads(run("status", tmp_path, "--json").output)["unfinished"]
    assert writer.startswith(f"writer    run {RUN} of ")
    assert told.startswith(f"run       {RUN}: encoding: 600 of 1,600 rows, 6 of 16 splits, ")
    assert (unfinished["run_id"], unfinished["splits"], unfinished["running"]) == (RUN, 1, True)


class Watching:
    """`status --watch` on a terminal."""

    def __init__(self, table: str, columns: int, **environment: str) -> None:
        self.terminal, slave = pty.openpty()
        self._resize(columns)
        command = [sys.executable, "-m", "sfr_batch.cli", "status", table, "--watch", "--every", "1"]
        environment = {**os.environ, "PYTHONPATH": str(ROOT), "TERM": "xterm-256color", **environment}
        self.process = subprocess.Popen(command, cwd=ROOT, env=environment, stdin=slave, stdout=slave, stderr=slave)
        os.close(slave)
        self.seen = ""

    def _resize(self, columns: int) -> None:
        fcntl.ioctl(self.terminal, termios.TIOCSWINSZ, struct.pack("HHHH", 30, columns, 0, 0))

    def until(self, pattern: str) -> str:
        """What comes until this is in it."""
        began, fresh = time.monotonic(), ""
        while not re.search(pattern, fresh):
            assert time.monotonic() - began < 120, fresh
            try:
                fresh += os.read(self.terminal, 10_000).decode()
            except OSError:  # it has ended
                break
        self.seen += fresh
        return fresh

    def resize_and_frame(self, columns: int) -> str:
        """One whole screen of that width."""
        self._resize(columns)
        return self.until(r"\x1b\[J(?s:.*)\x1b\[J(?s:.*)\x1b\[J").split("\x1b[J")[2]

    def stop(self, number: int = signal.SIGINT) -> str:
        self.process.send_signal(number)
        rest = self.until("never")
        os.close(self.terminal)
        return rest


def test_one_screen_of_a_terminal(tmp_path: Path) -> None:
    """It is redrawn at any width, and Ctrl-C ends it, not the run."""
    table = str(tmp_path / "a-folder-with-a-name-of-some-length" / "table")
    with running(table) as record:
        watching = Watching(table, 80)
        first = watching.until("last commit .* ago")
        assert "encoding" in first
        assert "\x1b[32m" in first
        for columns in (80, 40):
            frame = watching.resize_and_frame(columns)
            lines = PAINT.sub("", frame.rpartition("\r\n")[0]).split("\r\n")
            assert max(map(len, lines)) < columns
            assert any("█" in line and "38%" in line for line in lines)
        record._progress.add(receipt(100, 6_000))
        record.write()
        watching.until("700 of 1,600 rows")
        rest = watching.stop()
        assert "stopped by SIGINT: nobody watches any more; the run was not touched" in rest
        assert watching.process.wait(60) == 130
        assert watching.seen.count("stopped by SIGINT") == 1
        assert sfr.open_table(table).progress().outcome == "running"


def test_a_terminal_without_colors_to_the_end(tmp_path: Path) -> None:
    table = str(tmp_path / "table")
    with running(table):
        watching = Watching(table, 80, NO_COLOR="1")
        watching.until("last commit .* ago")
    end(table, "trial")
    watching.until("trial, 600 rows embedded\r\n")
    assert watching.process.wait(60) == 0
    assert not PAINT.search(watching.seen)
    os.close(watching.terminal)
