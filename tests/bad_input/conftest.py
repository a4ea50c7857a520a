"""The bench of bad input: a config, and places for a corpus and a table."""

import contextlib
import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.bad_input.bench import SUPPORTED, Bench
from tests.repositories import write_repository


@pytest.fixture(scope="session")
def small(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A small BERT: most rows are about everything but the model, and many load it."""
    return write_repository(tmp_path_factory.mktemp("model") / "small", max_seq_length=256)


@pytest.fixture
def bench(
    tmp_path: Path, request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch, small: Path
) -> Iterator[Bench]:
    with contextlib.ExitStack() as cleanup:
        bench = Bench(
            tmp_path,
            cleanup,
            monkeypatch,
            request,
            {"small": str(small), "cwd": os.getcwd(), "supported": SUPPORTED},
        )
        bench.put(
            "job.yaml",
            f"corpus: {{path: {tmp_path}/corpus}}\n"
            f"model: {{path: {small}, device: cpu}}\n"
            f"table: {{path: {tmp_path}/table}}\n"
            "run: {actors: {gpus: 0}, ray_address: none}\n".encode(),
        )
        yield bench
