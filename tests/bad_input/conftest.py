"""The bench of bad input: a config, and places for a corpus and a table."""

import contextlib
import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.bad_input.bench import SUPPORTED, Bench


@pytest.fixture
def bench(
    tmp_path: Path, request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch, small_model: Path
) -> Iterator[Bench]:
    with contextlib.ExitStack() as cleanup:
        bench = Bench(
            tmp_path,
            cleanup,
            monkeypatch,
            request,
            {"small": str(small_model), "cwd": os.getcwd(), "supported": SUPPORTED},
        )
        bench.put(
            "job.yaml",
            f"corpus: {{path: {tmp_path}/corpus}}\n"
            f"model: {{path: {small_model}, device: cpu}}\n"
            f"table: {{path: {tmp_path}/table}}\n"
            "run: {actors: {gpus: 0}, ray_address: none}\n".encode(),
        )
        yield bench
