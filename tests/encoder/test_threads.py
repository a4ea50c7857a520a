"""A process keeps its own settings: what an encoder sets for itself is restored."""

import csv
import io
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch

import sfr_batch as sfr
from sfr_batch.config.settings import Config, ModelSettings
from sfr_batch.corpus import csv_records, records
from sfr_batch.corpus.csv_dialect import Dialect
from sfr_batch.encoder.encoder import Encoder
from sfr_batch.encoder.threads import threads_of_a_run, usable_cores, using
from sfr_batch.pipeline.runner import embed
from tests.repositories import write_repository
from tests.tables import jsonl, put


@pytest.fixture
def three() -> Iterator[int]:
    """A number of threads that the process has and nobody would choose."""
    before = torch.get_num_threads()
    torch.set_num_threads(3)
    yield 3
    torch.set_num_threads(before)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return write_repository(tmp_path / "model")


class _Seen:
    """The threads with which the model computes."""

    def __init__(self, encoder: Encoder) -> None:
        self.threads: set[int] = set()
        encoder._model.register_forward_hook(lambda *_: self.threads.add(torch.get_num_threads()))


def test_a_system_that_cannot_say_which_cores_are_usable(monkeypatch: pytest.MonkeyPatch) -> None:
    """Such as a Mac's."""
    monkeypatch.setattr(os, "cpu_count", lambda: 12)
    assert usable_cores() == len(os.sched_getaffinity(0))
    monkeypatch.delattr(os, "sched_getaffinity")
    assert usable_cores() == 12


def test_an_encoder_computes_with_its_threads_and_restores_those_of_the_process(folder: Path, three: int) -> None:
    settings = ModelSettings(path=str(folder), device="cpu")
    for wanted, used in ((None, three), (2, 2)):
        encoder = Encoder.load(settings, torch_threads=wanted)
        assert torch.get_num_threads() == three
        seen = _Seen(encoder)
        encoder.encode(["a text"])
        assert seen.threads == {used}
        assert torch.get_num_threads() == three
    with pytest.raises(RuntimeError), using(2):
        raise RuntimeError
    assert torch.get_num_threads() == three


def test_a_run_and_a_search_in_this_process_leave_its_threads(tmp_path: Path, folder: Path, three: int) -> None:
    put(str(tmp_path / "corpus"), "a.jsonl", jsonl([{"id": "a", "text": "One text."}]))
    raw = {
        "corpus": {"path": str(tmp_path / "corpus")},
        "model": {"path": str(folder), "device": "cpu"},
        "table": {"path": str(tmp_path / "table")},
        "run": {"ray_address": "none", "actors": {"gpus": 0, "torch_threads": 1}},
    }
    embed(Config.model_validate(raw))
    assert torch.get_num_threads() == three
    table = sfr.open_table(tmp_path / "table")
    seen = _Seen(table.encoder)
    table.search("a query")
    assert (seen.threads, torch.get_num_threads()) == ({three}, three)


def test_threads_of_a_run(monkeypatch: pytest.MonkeyPatch) -> None:
    cores = len(os.sched_getaffinity(0))
    monkeypatch.delenv("OMP_NUM_THREADS", raising=False)
    assert threads_of_a_run(None, "cpu", own_process=False) == cores
    assert threads_of_a_run(None, "cuda", own_process=False) == 1
    monkeypatch.setenv("OMP_NUM_THREADS", "1")  # also what Ray sets for every actor
    assert threads_of_a_run(None, "cpu", own_process=True) == cores
    assert threads_of_a_run(None, "cpu", own_process=False) is None, "what PyTorch has made of it"
    assert threads_of_a_run(5, "cpu", own_process=False) == 5


def test_reading_a_csv_never_lowers_the_limit_of_the_process() -> None:
    before = csv.field_size_limit(2 * records.MAX_RECORD)
    try:
        csv_records.CsvReader(io.BytesIO(b"id,text\na,b\n"), "a.csv", Dialect())
        assert csv.field_size_limit() == 2 * records.MAX_RECORD
    finally:
        csv.field_size_limit(before)


@pytest.mark.slow
def test_omp_num_threads_is_honoured(folder: Path) -> None:
    program = (
        "import sys, torch; from sfr_batch.config.settings import ModelSettings; "
        "from sfr_batch.encoder.encoder import Encoder; "
        "Encoder.load(ModelSettings(path=sys.argv[1], device='cpu')).encode(['a']); print(torch.get_num_threads())"
    )
    done = subprocess.run(
        [sys.executable, "-c", program, str(folder)],
        env={**os.environ, "OMP_NUM_THREADS": "7"},
        capture_output=True,
        text=True,
        check=True,
    )
    assert done.stdout.split() == ["7"]
