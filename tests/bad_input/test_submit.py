"""What keeps `sfr-batch submit` from sending anything: each is one sentence, and nothing was sent. See `bench`.

What only a cluster can refuse is in `tests/jobs/test_submit`.
"""

import contextlib
import http.server
import json
import shutil
import socket
import ssl
import subprocess
import threading
from collections.abc import Callable
from importlib.metadata import version

import pytest

from sfr_batch.pipeline import clusters
from sfr_batch.pipeline.submission import job_server, package
from tests.bad_input.bench import Bench, Row, both, check_row, closed_port, empty_home, environment
from tests.bad_input.test_clusters import GET_TOKEN

NO_ADDRESS = environment(
    **dict.fromkeys(("RAY_API_SERVER_ADDRESS", "RAY_ADDRESS", "RAY_AUTH_MODE", "RAY_AUTH_TOKEN", "RAY_JOB_HEADERS")),
    RAY_AUTH_TOKEN_PATH=None,
)
COMMAND = "submit {root}/job.yaml"
AT_PORT = "submit {root}/job.yaml --address http://127.0.0.1:{port}"
ANYWHERE = ("run.ray_address=null",)
WHERE = (
    "Jobs are submitted to the dashboard of the cluster's head, port 8265 unless `ray start --dashboard-port` says "
    "otherwise"
)
RELATIVE = (
    "These paths begin in the working directory or the home folder of this machine, which do not travel to the cluster:"
    "\n{}\nWrite s3://, or the absolute path of a file system that all nodes share. If they share this one: {}"
)


def in_folder(bench: Bench) -> None:
    """The working directory is the folder with corpus and model."""
    bench.monkeypatch.chdir(bench.root)
    bench.put("model/config.json", b"{}")


def small_limit(limit: int) -> Callable[[Bench], None]:
    def prepare(bench: Bench) -> None:
        bench.monkeypatch.setattr(package, "MOST_BYTES", limit)
        bench.names["package"] = str(package._PACKAGE)

    return prepare


def serving(answer: bytes) -> Callable[[Bench], None]:
    """A server that answers each connection with these bytes."""

    def prepare(bench: Bench) -> None:
        from sfr_batch.pipeline.submission import jobs_api

        bench.monkeypatch.setattr(jobs_api, "_HELLO_S", 0.5)
        server = bench.cleanup.enter_context(socket.create_server(("127.0.0.1", 0)))
        bench.names["port"] = str(server.getsockname()[1])
        bench.monkeypatch.setattr(clusters, "_ANSWER_S", 0.1)

        def serve() -> None:
            with contextlib.ExitStack() as connections, contextlib.suppress(OSError):
                while True:
                    connections.enter_context(connection := server.accept()[0])
                    connection.sendall(answer)

        threading.Thread(target=serve, daemon=True).start()

    return prepare


def self_signed(bench: Bench) -> None:
    """A server of HTTPS whose certificate no authority has signed."""
    files = ["-keyout", str(bench.root / "key.pem"), "-out", str(bench.root / "certificate.pem")]
    make = ["openssl", "req", "-x509", "-newkey", "rsa:2048", "-nodes", "-subj", "/CN=head", *files]
    if shutil.which("openssl") is None:
        pytest.skip("openssl makes the certificate")
    subprocess.run(make, check=True, capture_output=True)
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(bench.root / "certificate.pem", bench.root / "key.pem")
    server = bench.cleanup.enter_context(socket.create_server(("127.0.0.1", 0)))
    bench.names["port"] = str(server.getsockname()[1])

    def serve() -> None:
        with contextlib.suppress(OSError):
            context.wrap_socket(server.accept()[0], server_side=True)

    threading.Thread(target=serve, daemon=True).start()


def here_is_none(bench: Bench) -> None:
    bench.monkeypatch.setattr(job_server, "DEFAULT", f"http://127.0.0.1:{bench.names['port']}")


def jobs(answer: tuple[int, str] | None) -> Callable[[Bench], None]:
    """A head with the Ray of here, which answers so if it is asked for its jobs; None: it closes the connection."""

    class Head(http.server.BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            hello = (200, json.dumps({"ray_version": version("ray")}))
            if found := hello if self.path == "/api/version" else answer:
                self.send_response(found[0])
                self.end_headers()
                self.wfile.write(found[1].encode())

        def log_message(self, format: str, *values: object) -> None:
            pass

    def prepare(bench: Bench) -> None:
        server = bench.cleanup.enter_context(http.server.ThreadingHTTPServer(("127.0.0.1", 0), Head))
        bench.cleanup.callback(server.shutdown)
        bench.names |= {"port": str(server.server_address[1]), "ray": version("ray")}
        threading.Thread(target=server.serve_forever, daemon=True).start()

    return prepare


# fmt: off
ROWS = [
    Row("relative paths", RELATIVE.format(
        "  corpus.path: corpus\n  model.path: ./model\n  table.path: table",
        "corpus.path={root}/corpus model.path={root}/model table.path={root}/table"), code=2, command=COMMAND,
        prepare=in_folder, overrides=(*ANYWHERE, "corpus.path=corpus", "model.path=./model", "table.path=table")),
    Row("one of several, and the home folder", RELATIVE.format(
        "  corpus.path: more\n  table.reuse_from: ~/old", 'corpus.path="[{root}/corpus, {root}/more]" '
        "table.reuse_from=/home/you/old"), code=2, command=COMMAND,
        prepare=both(in_folder, environment(HOME="/home/you")),
        overrides=(*ANYWHERE, "corpus.path=[{root}/corpus,more]", "table.reuse_from=~/old")),
    Row("a model that lies here under the name of a hub's", RELATIVE.format(
        "  model.path: model", "model.path={root}/model"), code=2, command=COMMAND, prepare=in_folder,
        overrides=(*ANYWHERE, "model.path=model")),
    Row("a place that is no cluster",
        "run.ray_address is none, and a submitted job joins the cluster that it is submitted to. Remove the setting, "
        "or override it: run.ray_address=null. To embed on this machine: `sfr-batch embed`.", code=2, command=COMMAND),
    Row("a wrong setting comes first",
        "{root}/job.yaml has 1 wrong setting:\n  run.rows_per_splits: unknown setting. Did you mean rows_per_split?",
        code=2, command=AT_PORT, prepare=closed_port, overrides=("run.rows_per_splits=3",)),
    Row("a value of a secret",
        "{root}/job.yaml has 1 wrong setting:\n  table.storage.access_key_id: a config must not contain secrets: write "
        "${NAME} and set the environment variable NAME", code=2, command=COMMAND,
        overrides=(*ANYWHERE, "table.storage={access_key_id: AKIA, secret_access_key: '${K}'}")),
    Row("too much code",
        "What would be sent has {*} MiB, more than 0 MiB. The largest file is {package}/{*}. Remove what does not "
        "belong to sfr-batch from {package}, or install sfr-batch in the image of the cluster and send the config "
        "alone: --installed.", code=2, command=COMMAND, prepare=small_limit(2**17), overrides=ANYWHERE),
    Row("too large a config",
        "What would be sent has 0.{*} MiB, more than 0 MiB, and most of it is select.ids. Select rows by select.where "
        "or select.shards, or split the backfill.", code=2, command=f"{COMMAND} --installed",
        prepare=small_limit(2**11), overrides=(*ANYWHERE, f"select.ids={list(range(10**6, 10**6 + 3000))}")),
    Row("the port that nodes join, from the environment",
        f"RAY_ADDRESS is head:6379, the port that the nodes of a Ray cluster join. {WHERE}. Give it as the address: "
        "http://head:8265.", code=2, command=COMMAND, prepare=both(NO_ADDRESS, environment(RAY_ADDRESS="head:6379")),
        overrides=ANYWHERE),
    Row("the port that nodes join",
        "At http://127.0.0.1:{port} (address) listens the port of a Ray cluster that its nodes join, which takes no "
        f"Ray jobs. {WHERE}. Correct the address.", code=2, command=AT_PORT,
        prepare=both(NO_ADDRESS, serving(bytes((0, 0, 0, 4, 0, 0, 0, 0, 0)))),
        overrides=ANYWHERE),
    Row("address of Ray Client",
        f"The address is ray://head:10001, which is for Ray Client. {WHERE}: http://head:8265.", code=2,
        command=f"{COMMAND} --address ray://head:10001", overrides=ANYWHERE),
    Row("another scheme",
        f"The RAY_ADDRESS is redis://head:6379, which is no http:// address. {WHERE}: http://HEAD:8265.", code=2,
        command=COMMAND, prepare=both(NO_ADDRESS, environment(RAY_ADDRESS="redis://head:6379")), overrides=ANYWHERE),
    Row("no number of a port",
        f"The address is http://head:port, which is no http:// address. {WHERE}: http://HEAD:8265.", code=2,
        command=f"{COMMAND} --address http://head:port", overrides=ANYWHERE),
    Row("credentials in the address",
        "The address of the Ray cluster contains credentials before its host. They would end up in logs. Remove them, "
        'and send them as headers: RAY_JOB_HEADERS=\'{"Authorization": "…"}\'.', code=2,
        command=f"{COMMAND} --address http://me:secret@head:8265", overrides=ANYWHERE),
    Row("headers that are none",
        'RAY_JOB_HEADERS is not a JSON object of plain texts. Write it as {"Name": "value"}.', code=2, command=AT_PORT,
        prepare=both(NO_ADDRESS, closed_port, environment(RAY_JOB_HEADERS="Authorization: Bearer secret")),
        overrides=ANYWHERE),
    Row("nothing listens",
        "No Ray cluster answers at http://127.0.0.1:{port} (address): nothing listens there. "
        f"{WHERE}. Start it, forward its port to this machine, or correct the address.", code=2, command=AT_PORT,
        prepare=both(NO_ADDRESS, closed_port), overrides=ANYWHERE),
    Row("unknown host",
        "No Ray cluster answers at http://head.invalid:8265 (RAY_API_SERVER_ADDRESS): this machine does not know that "
        f"host. {WHERE}. Start it, forward its port to this machine, or correct the address.", code=2, command=COMMAND,
        prepare=both(NO_ADDRESS, environment(RAY_API_SERVER_ADDRESS="http://head.invalid:8265", RAY_ADDRESS="auto")),
        overrides=ANYWHERE),
    Row("another server",
        f"At http://127.0.0.1:{{port}} (address) listens another service, which takes no Ray jobs. {WHERE}. Correct "
        "the address.", code=2, command=AT_PORT,
        prepare=both(NO_ADDRESS, serving(b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok")), overrides=ANYWHERE),
    Row("a proxy without a head",
        "No Ray cluster answers at http://127.0.0.1:{port} (address): HTTP status 502. "
        f"{WHERE}. Start it, forward its port to this machine, or correct the address.", code=2, command=AT_PORT,
        prepare=both(NO_ADDRESS, serving(b"HTTP/1.1 502 Bad Gateway\r\nContent-Length: 0\r\n\r\n")),
        overrides=ANYWHERE),
    Row("no TLS",
        "No Ray cluster answers at https://127.0.0.1:{port} (address): it speaks no TLS; write http:// if that is "
        f"meant. {WHERE}. Start it, forward its port to this machine, or correct the address.", code=2,
        command="submit {root}/job.yaml --address https://127.0.0.1:{port}",
        prepare=both(NO_ADDRESS, serving(b"HTTP/1.1 400 Bad Request\r\n\r\n")), overrides=ANYWHERE),
    Row("a certificate of nobody known",
        "No Ray cluster answers at https://127.0.0.1:{port} (address): its certificate is not trusted ({*}); "
        f"REQUESTS_CA_BUNDLE names a file of those to trust. {WHERE}. Start it, forward its port to this machine, or "
        "correct the address.", code=2, command="submit {root}/job.yaml --address https://127.0.0.1:{port}",
        prepare=both(NO_ADDRESS, self_signed), overrides=ANYWHERE),
    Row("no file of certificates", "REQUESTS_CA_BUNDLE is /nowhere/ca.pem, where nothing is. Correct it, or unset it.",
        code=2, command="submit {root}/job.yaml --address https://127.0.0.1:1",
        prepare=both(NO_ADDRESS, environment(REQUESTS_CA_BUNDLE="/nowhere/ca.pem")), overrides=ANYWHERE),
    Row("another Ray",
        "The Ray cluster at http://127.0.0.1:{port} (address) has Ray 2.9.3, and this sfr-batch works with Ray {*}. "
        "Install that on the cluster, or, if its image has an sfr-batch of its own, send the config alone: --installed "
        "(installed=True).", code=2, command=AT_PORT, prepare=both(NO_ADDRESS, serving(
            b'HTTP/1.1 200 OK\r\nContent-Length: 24\r\n\r\n{"ray_version": "2.9.3"}')), overrides=ANYWHERE),
    Row("no token sent",
        "The Ray cluster at http://127.0.0.1:{port} (address) wants a token, and RAY_AUTH_MODE is not set. Set "
        "RAY_AUTH_MODE=token, with the cluster's token in RAY_AUTH_TOKEN or ~/.ray/auth_token; "
        f"{GET_TOKEN}", code=2, command=AT_PORT,
        prepare=both(NO_ADDRESS, serving(b"HTTP/1.1 401 Unauthorized\r\nContent-Length: 0\r\n\r\n")),
        overrides=ANYWHERE),
    Row("no token to send",
        "RAY_AUTH_MODE is token, and this process has no token for the Ray cluster at http://127.0.0.1:{port} "
        f"(address). Put the cluster's token into RAY_AUTH_TOKEN or ~/.ray/auth_token; {GET_TOKEN}", code=2,
        command=AT_PORT, prepare=both(NO_ADDRESS, closed_port, environment(RAY_AUTH_MODE="token"), empty_home),
        overrides=ANYWHERE),
    Row("a token of two lines",
        "The token of RAY_AUTH_TOKEN has a line break or another character that no token has. Copy it again; `ray "
        "get-auth-token` on the cluster's head prints it.", code=2, command=AT_PORT, overrides=ANYWHERE,
        prepare=both(NO_ADDRESS, closed_port, environment(RAY_AUTH_MODE="token", RAY_AUTH_TOKEN="one\ntwo"))),
    Row("a header of two lines",
        'RAY_JOB_HEADERS is not a JSON object of plain texts. Write it as {"Name": "value"}.', code=2, command=AT_PORT,
        prepare=both(NO_ADDRESS, closed_port, environment(RAY_JOB_HEADERS='{"Authorization": "se\\ncret"}')),
        overrides=ANYWHERE),
    Row("nothing on this machine",
        "No Ray cluster answers at http://127.0.0.1:{port} (this machine, because no address is given): nothing "
        f"listens there. {WHERE}. Start it, forward its port to this machine, or correct the address.", code=2,
        command=COMMAND, prepare=both(NO_ADDRESS, closed_port, here_is_none), overrides=ANYWHERE),
    Row("a head that is not ready",
        "The Ray cluster at http://127.0.0.1:{port} (address) has refused: RuntimeError: No available agent. Try "
        "again; if it stays so, look at its head: /tmp/ray/session_latest/logs/dashboard*.log.", command=AT_PORT,
        prepare=both(NO_ADDRESS, jobs((500, "Traceback\n  at\nRuntimeError: No available agent\n"))),
        overrides=ANYWHERE),
    Row("a head that goes away",
        "No Ray cluster answers at http://127.0.0.1:{port} (address): Remote end closed connection without response. "
        f"{WHERE}. Start it, forward its port to this machine, or correct the address.", command=AT_PORT,
        prepare=both(NO_ADDRESS, jobs(None)), overrides=ANYWHERE),
    Row("jobs of another Ray",
        "The Ray cluster at http://127.0.0.1:{port} (address), which has Ray {ray}, answers what the client of Ray "
        "{ray} here does not understand. Install the version of one on the other.", command=AT_PORT,
        prepare=both(NO_ADDRESS, jobs((200, '[{"type": "SUBMISSION"}]'))), overrides=ANYWHERE),
    Row("three forms of output", "Give one of --follow, --watch, --json.", code=2,
        command=f"{COMMAND} --follow --watch --json", overrides=ANYWHERE),
    Row("two forms of output", "Give one of --follow, --json.", code=2, command=f"{COMMAND} --follow --json",
        overrides=ANYWHERE),
]
# fmt: on


@pytest.mark.parametrize("row", ROWS, ids=lambda row: row.name)
def test_submit(row: Row, bench: Bench) -> None:
    check_row(row, bench)


def test_a_server_that_says_nothing_is_not_waited_for(bench: Bench) -> None:
    from sfr_batch.pipeline.submission import jobs_api

    bench.monkeypatch.setattr(jobs_api, "_HELLO_S", 0.1)
    bench.monkeypatch.setattr(clusters, "_ANSWER_S", 0.1)
    silent = bench.cleanup.enter_context(socket.create_server(("127.0.0.1", 0)))
    NO_ADDRESS(bench)
    result = bench.run(f"submit {{root}}/job.yaml --address 127.0.0.1:{silent.getsockname()[1]}", ANYWHERE)
    assert result.exit_code == 2
    assert (
        f"http://127.0.0.1:{silent.getsockname()[1]} (address): no answer within 0.1 seconds. {WHERE}" in result.stderr
    )
