"""Exceptions that are none of ours: a sentence for the person at the terminal, and the stack trace in a log."""

import errno
import json
import re
import sys
import tempfile
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner

import sfr_batch as sfr
from sfr_batch.cli import stack_traces
from sfr_batch.cli.main import main
from sfr_batch.format import unforeseen
from sfr_batch.pipeline import read_stage
from tests.job_processes import documents, put_parquet, settings, start_python
from tests.repositories import write_repository


@pytest.fixture
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Where stack traces go: not to the home of who runs the tests."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.delenv("KUBERNETES_SERVICE_HOST", raising=False)
    return tmp_path / "cache" / "sfr-batch" / "errors"


PLANTED = """
import sys
from sfr_batch import api
from sfr_batch.cli import start

def plan(*_, **__):
    return {}["a\\x1b[2J key"]

api.plan = plan
start.main()
"""


def test_a_defect_of_a_command(cache: Path, tmp_path: Path) -> None:
    """In a real process, which ends with a sentence; its log has the rest."""
    script = tmp_path / "planted.py"
    script.write_text(PLANTED)
    process = start_python(script, "plan", "job.yaml")
    said, _ = process.communicate(timeout=120)
    assert process.returncode == 1, said
    [log] = cache.iterdir()
    assert re.fullmatch(
        r"error: KeyError: 'a\\x1b\[2J key', in sfr_batch/cli/main\.py, line \d+\. sfr-batch does not foresee this "
        r"error\. It is probably a defect of sfr-batch\.\nSo far: nothing was changed\.\nThe stack trace is in "
        rf"{log}\. If the same command ends like this again, report the error with it\.\n",
        said,
    )
    first, versions, machine, rest = log.read_text().split("\n", 3)
    assert first.endswith(f"  python {script} plan job.yaml")
    assert re.match(r"sfr-batch [\d.]+ torch ", versions)
    assert machine.startswith(f"python {sys.version.split()[0]} {sys.executable} on ")
    assert rest.startswith("Traceback (most recent call last):\n")
    assert f'File "{script}", line 7, in plan\n' in rest


def test_a_defect_on_a_worker(cache: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A split fails with it. It ends the run with its sentence, and the stack trace is in the log alone."""
    put_parquet(f"{tmp_path}/corpus/a.parquet", documents(["one", "two", "three"]))
    model = write_repository(tmp_path / "tiny", max_seq_length=512)
    (tmp_path / "job.yaml").write_text(json.dumps(settings(model, str(tmp_path), ray_address="none")))

    def tokenize(*_: Any) -> None:
        raise KeyError("planted")

    monkeypatch.setattr(read_stage, "tokenize", tokenize)
    result = CliRunner().invoke(main, ["embed", f"{tmp_path}/job.yaml"])
    assert result.exit_code == 1
    said = result.stderr.partition("error: ")[2]
    assert said.startswith("1 of 1 split did not finish. ")
    failure = rf"  {tmp_path}/corpus/a\.parquet: KeyError: 'planted', in sfr_batch/pipeline/read_stage\.py, line \d+"
    assert re.fullmatch(failure, said.splitlines()[1])
    [log] = cache.iterdir()
    assert said.splitlines()[-1].startswith(f"The stack trace is in {log}. ")
    assert "in tokenize\n    raise KeyError" in log.read_text()
    assert "Traceback" not in result.stderr
    [run] = sfr.open_table(tmp_path / "table").runs()
    assert "KeyError: 'planted'" in run.message


def test_where_files_do_not_stay_stderr_is_the_log(
    cache: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    trace = "Traceback (most recent call last):\n  here"
    metadata = {"metadata": {"job_submission_id": "sfr-table-1"}}
    monkeypatch.setenv("RAY_JOB_CONFIG_JSON_ENV_VAR", json.dumps(metadata))
    assert stack_traces.kept(trace).startswith("The stack trace is in the log of this process, above this message. ")
    assert capsys.readouterr().err == f"{trace}\n"
    monkeypatch.delenv("RAY_JOB_CONFIG_JSON_ENV_VAR")
    assert not cache.exists()

    cache.parent.parent.mkdir()
    cache.parent.write_text("no folder can be there")
    monkeypatch.setattr(tempfile, "tempdir", str(cache.parent))
    assert stack_traces.kept(trace).startswith("The stack trace is in the log of this process, above this message. ")
    monkeypatch.setattr(tempfile, "tempdir", str(cache.parents[2]))
    assert stack_traces.kept(trace).startswith(f"The stack trace is in {cache.parents[2]}/sfr-batch-error-")


def test_what_a_machine_refuses_is_not_called_a_defect(cache: Path) -> None:
    full = stack_traces.message(OSError(errno.ENOSPC, "No space left on device", "/var/x"))
    assert full.startswith(
        "OSError: [Errno 28] No space left on device: '/var/x'. sfr-batch does not foresee this error. "
    )
    assert "It may be this machine, its disk, memory" in full


def test_sentence_and_trace_travel_as_one_text() -> None:
    try:
        unforeseen.parts(None)  # type: ignore[arg-type]
    except AttributeError as error:
        text = unforeseen.as_text(error)
    said, trace = unforeseen.parts(text)
    assert re.match(r"AttributeError: .* in sfr_batch/format/unforeseen\.py, line \d+$", said)
    assert trace.startswith("Traceback (most recent call last):\n")
    assert text == f"{said}\n{trace}"
    assert unforeseen.parts("A sentence of ours.\nIts second line.") == ("A sentence of ours.\nIts second line.", "")
