"""Fixtures shared by all tests: one real S3 server, and the places and stores that a test is repeated on."""

import os
import secrets
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, settings

from sfr_batch.planning import card
from sfr_batch.storage.store import Store
from sfr_batch.storage.stores import open_store
from tests.memory_store import MemoryStore
from tests.models import write_sfr_files
from tests.nights import Place, Writer
from tests.s3server import S3Server, s3_server

# At import, before anything reads them: no test may ask a model hub, and Ray's hook for `uv run` would rebuild the
# workers' environment from the project's metadata, without the test extra.
os.environ["HF_HUB_OFFLINE"] = "1"
os.environ["RAY_ENABLE_UV_RUN_RUNTIME_ENV"] = "0"
# Nor may Ray report its use: it logs each failure with a traceback from a thread, and in CPython 3.11 a traceback that
# is formatted while another thread parses source, as pytest does, raises SystemError there (cpython issue 106905).
os.environ["RAY_USAGE_STATS_ENABLED"] = "0"
# Threads of torch that wait do so without spinning: jobs in processes of their own, workers and this one share two
# cores.
os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")

# For every property: an example may take as long as a busy machine needs, and a failure prints what repeats it. The
# rest is Hypothesis' own, which draws the same examples each time where it sees that it runs in CI.
settings.register_profile(
    "sfr-batch", settings(), deadline=None, print_blob=True, suppress_health_check=[HealthCheck.too_slow]
)
settings.load_profile("sfr-batch")


@pytest.fixture(scope="session")
def s3(tmp_path_factory: pytest.TempPathFactory) -> Iterator[S3Server]:
    """The S3 server of the session. Its keys are in os.environ from here on, for this process and for Ray workers."""
    with s3_server(tmp_path_factory.mktemp("s3")) as server, pytest.MonkeyPatch.context() as environment:
        for name in ("AWS_PROFILE", "AWS_SESSION_TOKEN", "AWS_ENDPOINT_URL_S3"):
            environment.delenv(name, raising=False)
        for name, value in server.env.items():
            environment.setenv(name, value)
        yield server


@pytest.fixture(scope="session")
def _s3_session_bucket(s3: S3Server) -> str:
    return s3.create_bucket("sfr-tests")


@pytest.fixture
def s3_bucket(s3: S3Server) -> str:
    """A fresh bucket, ``s3://bucket``: for tests of policies and of roots without a prefix."""
    return s3.create_bucket(f"sfr-{secrets.token_hex(6)}")


@pytest.fixture
def s3_prefix(_s3_session_bucket: str) -> str:
    """A fresh prefix, ``s3://bucket/prefix``. Much cheaper than a bucket of its own."""
    return f"{_s3_session_bucket}/{secrets.token_hex(6)}"


@pytest.fixture(params=["local", "s3"])
def place(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    """An empty root URI, on local disk and on S3."""
    if request.param == "local":
        return str(tmp_path / "place")
    prefix: str = request.getfixturevalue("s3_prefix")
    return prefix


@pytest.fixture(params=["memory", "local", "s3"])
def store(request: pytest.FixtureRequest, tmp_path: Path) -> Store:
    """An empty store of each kind."""
    if request.param == "memory":
        return MemoryStore()
    if request.param == "local":
        return open_store(str(tmp_path / "store"))
    return open_store(request.getfixturevalue("s3_prefix"))


@pytest.fixture(scope="session")
def mistral(tmp_path_factory: pytest.TempPathFactory) -> str:
    """A model folder that is complete for planning, which reads no weights: it takes their hash."""
    folder = write_sfr_files(tmp_path_factory.mktemp("mistral"), hidden=8)
    (folder / "model.safetensors").write_bytes(b"weights")
    return str(folder)


@pytest.fixture
def one_look_at_the_model(monkeypatch: pytest.MonkeyPatch) -> None:
    """Hundreds of plans of one model, which is read for the first of them only."""
    read: dict[str, Any] = {}

    def once(model: Any, vector_dtype: str, real: Any = card.model_inputs) -> Any:
        key = model.model_dump_json() + vector_dtype
        if key not in read:
            read[key] = real(model, vector_dtype)
        return read[key]

    monkeypatch.setattr(card, "model_inputs", once)


@pytest.fixture
def nights(tmp_path: Path, mistral: str, one_look_at_the_model: None) -> tuple[Place, Writer]:
    """A corpus without shards, and its table that is to be."""
    return Place(str(tmp_path / "corpus"), str(tmp_path / "table"), mistral), Writer(str(tmp_path / "corpus"))
