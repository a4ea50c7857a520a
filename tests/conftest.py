"""Fixtures shared by all tests: one real S3 server, two Ray clusters, and the places and stores that a test is repeated
on. How tests are dealt out when several processes share them, as in continuous integration."""

import functools
import gc
import os
import re
import secrets
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, settings

from sfr_batch.pipeline import gathering
from sfr_batch.planning import card
from sfr_batch.storage.store import Store
from sfr_batch.storage.stores import open_store
from tests.clusters import ray_cluster, remove_nodes
from tests.memory_store import MemoryStore
from tests.nights import Place, Writer
from tests.repositories import write_planned, write_repository
from tests.s3server import S3Server, s3_server

# At import, before anything reads them: no test may ask a model hub, and Ray's hook for `uv run` would rebuild the
# workers' environment from the project's metadata, without the test extra.
os.environ["HF_HUB_OFFLINE"] = "1"
os.environ["RAY_ENABLE_UV_RUN_RUNTIME_ENV"] = "0"
# Nor may Ray report its use: it logs each failure with a traceback from a thread, and in CPython 3.11 a traceback that
# is formatted while another thread parses source, as pytest does, raises SystemError there (cpython issue 106905).
os.environ["RAY_USAGE_STATS_ENABLED"] = "0"
# Ray lets its workers give way to all other processes, here to the other tests.
os.environ["RAY_worker_niceness"] = "0"  # noqa: SIM112
# Threads of torch that wait do so without spinning: jobs in processes of their own, workers and this one share two
# cores.
os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")

# For every property: an example may take as long as a busy machine needs, and a failure prints what repeats it. The
# rest is Hypothesis' own, which draws the same examples each time where it sees that it runs in CI.
settings.register_profile(
    "sfr-batch", settings(), deadline=None, print_blob=True, suppress_health_check=[HealthCheck.too_slow]
)
settings.load_profile("sfr-batch")


ROOT = Path(__file__).parents[1]
LONG = [
    f"tests/{module}.py"
    for module in (
        "chaos/test_writers",
        "table/commit/test_protocol",
        "checks/test_verify",
        "table/commit/test_lease",
        "storage/test_storage_faults",
        "test_security",
        "cli/test_signals",
        "bad_input/test_bad_input",
        "model/test_weights",
        "encoder/test_encoder",
        "jobs/test_benchmark",
        "test_policies",
        "storage/test_storage",
        "planning/test_incremental",
        "corpus/test_formats",
    )
]
"""What takes longest beside Ray's tests, about in this order."""


@functools.cache
def piece_of(module: str) -> str:
    """What `pytest -n 4` deals out as one piece: all modules that use Ray, every other module for itself.

    Several Rays that start at once fight for the cores, and one process starts its clusters once.
    """
    text = (ROOT / module).read_text(encoding="utf-8")
    return "ray" if re.search(r"^pytestmark = .*mark\.ray\b", text, re.MULTILINE) else module


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """In the processes of `pytest -n`, the longest pieces come first, so that all end at about the same time."""
    if hasattr(config, "workerinput"):
        order = {piece: number for number, piece in enumerate(["ray", *LONG])}
        items.sort(key=lambda item: order.get(piece_of(module_of(item.nodeid)), len(order)))


@pytest.hookimpl(wrapper=True)
def pytest_collection() -> Iterator[None]:
    """What modules load stays: garbage is looked for neither while it is loaded, nor in it ever after."""
    gc.disable()
    try:
        return (yield)
    finally:
        gc.freeze()
        gc.enable()


def pytest_make_parametrize_id(config: pytest.Config, val: object, argname: str) -> str | None:
    """Bytes are not part of a test's name: those of gzip hold the time, and all processes must have the same names."""
    return argname if isinstance(val, bytes) else None


def pytest_runtest_setup(item: pytest.Item) -> None:
    """In the processes of `pytest -n`, Ray's piece goes before all others: it is the longest, and mostly waits."""
    beside = hasattr(item.config, "workerinput") and piece_of(module_of(item.nodeid)) != "ray"
    if beside and os.nice(0) < _LESS_URGENT:
        os.nice(_LESS_URGENT)


_LESS_URGENT = 5


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_make_scheduler(config: pytest.Config, log: Any) -> Any:
    """Pieces as above, in the order that the processes have them in."""
    from xdist.scheduler import LoadScopeScheduling

    class Pieces(LoadScopeScheduling):
        def _split_scope(self, nodeid: str) -> str:
            return piece_of(module_of(nodeid))

        def remove_node(self, node: Any) -> str | None:
            """The test that a process died of has failed. Another process does the rest of the piece, but not this."""
            for unit in self.assigned_work[node].values():
                for nodeid in (nodeid for nodeid, done in unit.items() if not done):
                    unit[nodeid] = True
                    super().remove_node(node)
                    return nodeid
            return super().remove_node(node)

    config.option.loadscopereorder = False
    return Pieces(config, log)


def module_of(nodeid: str) -> str:
    return nodeid.split("::")[0]


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
def _ray_nodes(s3: S3Server) -> Iterator[Any]:
    with ray_cluster() as cluster:
        yield cluster


@pytest.fixture
def ray_nodes(_ray_nodes: Any) -> Iterator[Any]:
    """A Ray cluster of a head without CPUs, for a test to add nodes to. Its workers know the S3 server."""
    yield _ray_nodes
    remove_nodes(_ray_nodes)


@pytest.fixture(scope="session")
def _ray_machine(s3: S3Server) -> Iterator[Any]:
    with ray_cluster(num_cpus=2) as cluster:
        yield cluster


@pytest.fixture(scope="module")
def ray_session(_ray_machine: Any) -> Iterator[None]:
    """This process has joined a Ray of one machine with two CPUs, whose workers know the S3 server."""
    import ray
    import ray.data

    ray.init(address=_ray_machine.address, log_to_driver=False, logging_level="ERROR")
    ray.data.DataContext.get_current().enable_progress_bars = False
    with pytest.MonkeyPatch.context() as environment:
        environment.setenv("RAY_ADDRESS", "local")
        yield
    ray.shutdown()


@pytest.fixture(scope="session")
def mistral(tmp_path_factory: pytest.TempPathFactory) -> str:
    """A model folder that is complete for planning, which reads no weights: it takes their hash.

    Its tokenizer is small: every plan loads it, and a real one takes longer than the rest of a plan.
    """
    folder = tmp_path_factory.mktemp("small")
    write_planned(folder)
    (folder / "model.safetensors").write_bytes(b"weights")
    return str(folder)


@pytest.fixture(scope="session")
def small_model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A whole model, a small BERT for up to 256 tokens, for tests that are about everything but the model."""
    return write_repository(tmp_path_factory.mktemp("model") / "small", max_seq_length=256)


@pytest.fixture(scope="session")
def _models_read() -> dict[str, Any]:
    """The inputs of the fingerprint by settings; a folder has one content for as long as it has one name."""
    return {}


@pytest.fixture
def one_look_at_the_model(monkeypatch: pytest.MonkeyPatch, _models_read: dict[str, Any]) -> None:
    """Hundreds of plans of one model, which is read for the first of them only."""

    def once(model: Any, vector_dtype: str, real: Any = card.model_inputs) -> Any:
        key = model.model_dump_json() + vector_dtype
        if key not in _models_read:
            _models_read[key] = real(model, vector_dtype)
        return _models_read[key]

    monkeypatch.setattr(card, "model_inputs", once)


@pytest.fixture
def nights(tmp_path: Path, mistral: str, one_look_at_the_model: None) -> tuple[Place, Writer]:
    """A corpus without shards, and its table that is to be."""
    return Place(str(tmp_path / "corpus"), str(tmp_path / "table"), mistral), Writer(str(tmp_path / "corpus"))


@pytest.fixture
def reads(monkeypatch: pytest.MonkeyPatch) -> Counter[str]:
    """Reads of vectors, in this process, for copies, by split id."""
    found: Counter[str] = Counter()
    real = gathering.read_data_file

    def read(store: Any, receipt: Any, *arguments: Any) -> Any:
        found[receipt.split_id] += 1
        return real(store, receipt, *arguments)

    monkeypatch.setattr(gathering, "read_data_file", read)
    return found
