"""Addresses at which no Ray cluster can be joined: each is one sentence, before anything is written. See `bench`.

What needs a running Ray is in `test_clusters_on_ray`.
"""

import socket
import threading
from collections.abc import Callable
from pathlib import Path

import pytest

from sfr_batch.pipeline import clusters
from tests.bad_input.bench import Bench, Row, both, check_row, closed_port, empty_home, environment

NO_TOKENS = environment(**dict.fromkeys(("RAY_AUTH_MODE", "RAY_AUTH_TOKEN", "RAY_AUTH_TOKEN_PATH", "RAY_USE_TLS")))
HOW_TO_JOIN = (
    "On a machine of the cluster write HOST:PORT as `ray start` prints it, or auto for the Ray that runs there: "
    "run.ray_address=auto. Or embed in this process: run.ray_address=none."
)
SUBMIT = "Submit the run: sfr-batch submit CONFIG --address {}."
NO_HEAD = (
    "At 127.0.0.1:{{port}} (run.ray_address) listens {}, and not the head of a Ray cluster, whose port is 6379 or that "
    "of `ray start --port`. Correct the address, or embed in this process: run.ray_address=none."
)
GET_TOKEN = "`ray get-auth-token` on its head prints it."
AT_PORT = ("run.ray_address=127.0.0.1:{port}",)


def listening(answer: bytes) -> Callable[[Bench], None]:
    """A server that answers a connection with these bytes, and says nothing more."""

    def prepare(bench: Bench) -> None:
        server = bench.cleanup.enter_context(socket.create_server(("127.0.0.1", 0)))
        bench.names["port"] = str(server.getsockname()[1])
        bench.monkeypatch.setattr(clusters, "_ANSWER_S", 0.1)

        def serve() -> None:
            connection, _ = server.accept()
            connection.sendall(answer)
            bench.cleanup.enter_context(connection)

        threading.Thread(target=serve, daemon=True).start()

    return prepare


# As the first bytes of every server of gRPC: an empty SETTINGS frame.
GRPC = listening(bytes((0, 0, 0, 4, 0, 0, 0, 0, 0)))

# fmt: off
ROWS = [
    Row("address of the job server",
        "RAY_ADDRESS is http://10.0.0.1:8265: that is the address that jobs are submitted to, and no run can join it "
        f"there. {SUBMIT.format('http://10.0.0.1:8265')} {HOW_TO_JOIN}", code=2,
        prepare=environment(RAY_ADDRESS="http://10.0.0.1:8265"), overrides=("run.ray_address=null",)),
    Row("address of Ray Client",
        "run.ray_address is ray://head:10001: that is for Ray Client, through which no run works. "
        f"{SUBMIT.format('http://head:8265')} {HOW_TO_JOIN}", code=2, overrides=("run.ray_address=ray://head:10001",)),
    Row("another scheme",
        "run.ray_address is redis://head:6379: sfr-batch knows no addresses that begin with redis://. "
        f"{HOW_TO_JOIN}", code=2, overrides=("run.ray_address=redis://head:6379",)),
    Row("no port", f"run.ray_address is head, which is no HOST:PORT. {HOW_TO_JOIN}", code=2,
        overrides=("run.ray_address=head",)),
    Row("nothing listens",
        "No Ray cluster answers at 127.0.0.1:{port} (run.ray_address): nothing listens there. Start it, correct the "
        "address, or embed in this process: run.ray_address=none.", code=2, prepare=closed_port, overrides=AT_PORT),
    Row("unknown host",
        "No Ray cluster answers at head.invalid:6379 (run.ray_address): this machine does not know that host. Start "
        "it, correct the address, or embed in this process: run.ray_address=none.", code=2,
        overrides=("run.ray_address=head.invalid:6379",)),
    Row("an HTTP server", NO_HEAD.format("an HTTP server"), code=2, prepare=listening(b"HTTP/1.0 400 Bad Request"),
        overrides=AT_PORT),
    Row("another server", NO_HEAD.format("another service"), code=2, prepare=listening(b"-ERR unknown command\r\n"),
        overrides=AT_PORT),
    Row("silence", NO_HEAD.format("something that does not answer"), code=2, prepare=listening(b""), overrides=AT_PORT),
    Row("no token",
        "RAY_AUTH_MODE is token, and this process has no token for the Ray cluster at 127.0.0.1:{port} "
        f"(run.ray_address). Put the cluster's token into RAY_AUTH_TOKEN or ~/.ray/auth_token; {GET_TOKEN}", code=2,
        prepare=both(GRPC, NO_TOKENS, environment(RAY_AUTH_MODE="token"), empty_home),
        overrides=AT_PORT),
    Row("no token in the file",
        "RAY_AUTH_TOKEN_PATH is /nowhere/token, where no token can be read. Put the cluster's token there or into "
        f"RAY_AUTH_TOKEN; {GET_TOKEN}", code=2,
        prepare=both(GRPC, NO_TOKENS, environment(RAY_AUTH_MODE="token", RAY_AUTH_TOKEN_PATH="/nowhere/token")),
        overrides=AT_PORT),
    Row("the same for a Ray of its own",
        "RAY_AUTH_TOKEN_PATH is /nowhere/token, where no token can be read. Put the cluster's token there or into "
        f"RAY_AUTH_TOKEN; {GET_TOKEN}", code=2,
        prepare=both(NO_TOKENS, environment(RAY_AUTH_TOKEN_PATH="/nowhere/token")),
        overrides=("run.ray_address=local",)),
    Row("a table in the folder of a job",
        "table.path {root}/runtime_resources/working_dir_files/_ray_pkg_1/table would be "
        "{root}/runtime_resources/working_dir_files/_ray_pkg_1/table: the relative paths of a submitted job begin in "
        "the folder that was uploaded with it, and Ray removes that after the job. Write an absolute path, or s3://.",
        code=2, overrides=("table.path={root}/runtime_resources/working_dir_files/_ray_pkg_1/table",)),
]
# fmt: on


@pytest.fixture
def small_model(mistral: str) -> Path:
    """Quickly made: no row comes to embedding."""
    return Path(mistral)


@pytest.mark.parametrize("row", ROWS, ids=lambda row: row.name)
def test_clusters(row: Row, bench: Bench) -> None:
    check_row(row, bench)
