"""A Ray head on this machine that takes jobs as a cluster does: the notebook runs on it where there is no cluster.

It requires a token of its own and listens on free ports. It outlives the process that has started it, so a restarted
kernel finds it, and its jobs, again. Starts Ray as a process, and imports none. Knows no job.
"""

import contextlib
import dataclasses
import functools
import json
import os
import secrets
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
import urllib.request
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Self

from sfr_batch.errors import ClusterError

_STATE, _LOG = "head.json", "head.log"
_OBJECT_STORE = 300 * 2**20
"""Bytes of shared memory that it may take. Ray's default is a third of the machine's."""
_START_S, _STOP_S, _ANSWER_S = 300.0, 40.0, 10.0
_ATTEMPTS, _SETTLES_S = 5, 3.0
_WORDS = 2000
"""Characters of the log of a head that does not start."""


@dataclass(frozen=True)
class _Head:
    """A head that was started. Its file is for its owner alone, since it has the token."""

    pid: int
    port: int
    token: str
    files: str
    """Ray's own folder, below /tmp: the names of its sockets must be short."""

    @classmethod
    def read(cls, folder: Path) -> Self | None:
        with contextlib.suppress(OSError, ValueError, TypeError):
            return cls(**json.loads((folder / _STATE).read_text(encoding="utf-8")))
        return None

    def write(self, folder: Path) -> None:
        file = folder / _STATE
        file.unlink(missing_ok=True)
        with open(os.open(file, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "w", encoding="utf-8") as state:
            json.dump(dataclasses.asdict(self), state)

    @property
    def address(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    def takes_jobs(self) -> bool:
        """Whether its node is there, which is later than its dashboard. Another service on its port does not know its
        token."""
        request = urllib.request.Request(f"{self.address}/nodes?view=summary")
        request.add_header("Authorization", f"Bearer {self.token}")
        try:
            with urllib.request.urlopen(request, timeout=_ANSWER_S) as answer:
                return any(node["raylet"]["state"] == "ALIVE" for node in json.load(answer)["data"]["summary"])
        except (OSError, ValueError, LookupError, TypeError):  # also HTTP errors, while its parts come up
            return False

    def lives(self) -> bool:
        """Whether its process goes on. The number may have become another process's."""
        with contextlib.suppress(OSError):
            return self.files.encode() in Path(f"/proc/{self.pid}/cmdline").read_bytes()
        return False


def start(folder: str | os.PathLike[str]) -> None:
    """Start a head, or find the one that an earlier call has started with this folder, and wait until it takes jobs.

    This process then has what it would have for a cluster: RAY_API_SERVER_ADDRESS, RAY_AUTH_MODE and RAY_AUTH_TOKEN.
    folder: for the log of the head and its address and token. Raises ClusterError if it does not start.
    """
    home = Path(folder)
    head = _Head.read(home)
    if head is None or not _comes(head.lives, head):  # a busy one may have jobs: it is waited for
        stop(home)
        head = _started(home)
    os.environ |= {"RAY_API_SERVER_ADDRESS": head.address, "RAY_AUTH_MODE": "token", "RAY_AUTH_TOKEN": head.token}


def stop(folder: str | os.PathLike[str]) -> None:
    """End the head of this folder, and the jobs that it runs. Does nothing if there is none."""
    home = Path(folder)
    head = _Head.read(home)
    if head is None:
        return
    for kill, number in ((os.kill, signal.SIGTERM), (os.killpg, signal.SIGKILL)):  # the first one ends its processes
        if head.lives():
            with contextlib.suppress(ProcessLookupError):
                kill(head.pid, number)
        end = time.monotonic() + _STOP_S
        while head.lives() and time.monotonic() < end:
            with contextlib.suppress(ChildProcessError):
                os.waitpid(head.pid, os.WNOHANG)
            time.sleep(0.1)
    shutil.rmtree(head.files, ignore_errors=True)
    (home / _STATE).unlink(missing_ok=True)
    if os.environ.get("RAY_AUTH_TOKEN") == head.token:
        for name in ("RAY_API_SERVER_ADDRESS", "RAY_AUTH_MODE", "RAY_AUTH_TOKEN"):
            os.environ.pop(name, None)


def _started(folder: Path) -> _Head:
    """A new head. On a busy machine Ray gives up if one of its parts takes more than 30 seconds, some of them when the
    node is there already: so it is looked at again, and there are some attempts."""
    for _ in range(_ATTEMPTS):
        head, process = _launched(folder)
        if _comes(functools.partial(_goes_on, process), head):
            time.sleep(_SETTLES_S)
            if _goes_on(process):
                return head
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)  # also parts that outlive it
        process.wait()
        stop(folder)
    why = (folder / _LOG).read_text(encoding="utf-8", errors="replace").strip()[-_WORDS:]
    raise ClusterError(f"The Ray head on this machine does not start. It says:\n{why}")


def _goes_on(process: subprocess.Popen[bytes]) -> bool:
    """Whether a process that was just started goes on. Its command line, by which others know it, comes later."""
    return process.poll() is None


def _comes(lives: Callable[[], bool], head: _Head) -> bool:
    """Whether a head takes jobs before it ends, and in time."""
    end = time.monotonic() + _START_S
    while lives() and time.monotonic() < end:
        if head.takes_jobs():
            return True
        time.sleep(0.2)
    return False


def _launched(folder: Path) -> tuple[_Head, subprocess.Popen[bytes]]:
    folder.mkdir(parents=True, exist_ok=True)
    python = Path(sys.executable)
    port, *ports = _free_ports(4)
    token, files = secrets.token_hex(32), tempfile.mkdtemp(prefix="sfr-head-", dir="/tmp")
    environment = {
        **{name: value for name, value in os.environ.items() if not name.startswith("RAY_")},
        "PATH": f"{python.parent}{os.pathsep}{os.environ.get('PATH', os.defpath)}",  # jobs say `python`
        "RAY_AUTH_MODE": "token",
        "RAY_AUTH_TOKEN": token,
        "RAY_ENABLE_UV_RUN_RUNTIME_ENV": "0",
    }
    options = {
        "port": ports[0],
        "dashboard-port": port,
        "ray-client-server-port": ports[1],
        "dashboard-agent-listen-port": ports[2],
        "temp-dir": files,
        "object-store-memory": _OBJECT_STORE,
    }
    command = [str(python.with_name("ray")), "start", "--head", "--block", "--disable-usage-stats"]
    with (folder / _LOG).open("w") as log:
        process = subprocess.Popen(
            [*command, *(f"--{name}={value}" for name, value in options.items())],
            env=environment,
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=subprocess.STDOUT,
            start_new_session=True,  # an interrupted cell, or a kernel that ends, is not its end
        )
    head = _Head(process.pid, port, token, files)
    head.write(folder)
    return head, process


def _free_ports(count: int) -> list[int]:
    with contextlib.ExitStack() as stack:
        sockets = [stack.enter_context(socket.create_server(("127.0.0.1", 0))) for _ in range(count)]
        return [int(free.getsockname()[1]) for free in sockets]
