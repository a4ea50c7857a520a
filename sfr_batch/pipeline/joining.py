"""Asks a Ray cluster whether this process can join it, joins it, or starts a Ray here; and keeps Ray quiet.

Ray prints pages of tracebacks, and lines that mean nothing to who runs a job. What a failure means is said by us, once;
Ray's own account stays in its log files. Knows addresses and what Ray prints; knows no run.
"""

import contextlib
import json
import logging
import os
import signal
import sys
import threading
from collections.abc import Iterator
from typing import Any

import ray
import ray.exceptions
from ray._common.usage import usage_lib
from ray._private import ray_constants, services, utils, worker
from ray._raylet import GcsClient  # type: ignore[attr-defined]  # it is there, its stub is not
from ray.dashboard.modules.job.common import JobInfoStorageClient
from ray.experimental import internal_kv

from sfr_batch.errors import ConfigError, RunFailed
from sfr_batch.pipeline import clusters, display
from sfr_batch.storage.local_files import unnamed_file

_FIND_NODE_S = 3
"""Seconds to find the node of the cluster that this machine is. Ray's default is a minute."""
_SILENT = logging.CRITICAL + 1


def check(address: clusters.Address) -> None:
    """Raises ConfigError if the cluster cannot be joined, see `clusters.check`, or refuses this process: for its token,
    its versions or its machine."""
    clusters.check(address)
    if ray.is_initialized():
        check_connected()
        return
    try:
        with _held_back(show=False):
            client = GcsClient(address=address.text)
            versions = usage_lib.get_cluster_metadata(client)
    except ray.exceptions.AuthenticationError:
        raise ConfigError(clusters.token_refused(str(address))) from None
    except (ray.exceptions.RayError, RuntimeError):
        raise clusters.something_else(address, "another service") from None
    _check_versions(address, versions)
    _check_machine(address, client)


def check_connected() -> None:
    """Raises ConfigError if this process is connected in a way that no run can use."""
    from ray.util.client import ray as client  # not before somebody may have connected so

    if client.is_connected():
        raise ConfigError(
            "This process is connected to a Ray cluster by Ray Client (ray://), through which no run works. Submit the "
            f"run: {clusters.SUBMIT.format(at='http://HEAD:8265')}. Or call ray.shutdown() and embed in this process: "
            "run.ray_address=none."
        )


def _check_versions(address: clusters.Address, theirs: dict[str, Any]) -> None:
    try:
        utils.check_version_info(theirs, "")
    except RuntimeError:
        own = dict(zip(("ray_version", "python_version"), utils.compute_version_info(), strict=True))
        said = [f"Ray {both['ray_version']} on Python {both['python_version']}" for both in (theirs, own)]
        hint = ""
        if own["ray_version"] == theirs["ray_version"] and _minor(own) == _minor(theirs):
            hint = " If only the last number of Python differs: export RAY_DEFAULT_PYTHON_VERSION_MATCH_LEVEL=minor."
        raise ConfigError(
            f"The Ray cluster at {address} has {said[0]}, this process {said[1]}, and they have to be the same. "
            f"Install the versions of one on the other: in this environment, or on every node.{hint}"
        ) from None


def _minor(versions: dict[str, Any]) -> str:
    return str(versions["python_version"]).rpartition(".")[0]


def _check_machine(address: clusters.Address, client: GcsClient) -> None:
    try:
        services.get_node_to_connect_for_driver(client, timeout_seconds=_FIND_NODE_S)
    except RuntimeError as error:
        if str(error).startswith("No node"):
            host, _ = address.parts
            submit = f"Submit the run: {clusters.SUBMIT.format(at=f'http://{host}:8265')}. O{address.or_here[1:]}"
            start_there = f"Give the command on one of them, {address.or_here}"
            raise ConfigError(
                f"This machine is no node of the Ray cluster at {address}, and a run starts on one of its nodes. "
                f"{submit if address.does == 'embed' else start_there}"
            ) from None


@contextlib.contextmanager
def connected(address: clusters.Address | None, cpus: int) -> Iterator[None]:
    """This process is connected to the cluster at ``address``; None: to a Ray that starts here with so many ``cpus``.

    If it was connected before, it stays so. Raises ConfigError, see `check`.
    """
    if ray.is_initialized():
        yield
        return
    if address:
        check(address)  # it may have gone since it was chosen
    # The core worker warns about arguments of Ray Data's own actors; users can do nothing about these lines.
    os.environ.setdefault("RAY_BACKEND_LOG_LEVEL", "fatal")
    with _own_signals(), _held_back(show=True):
        _init(address, cpus)
    with _no_messages_of_workers():  # also while it shuts down: then Ray prints what it has not printed yet
        try:
            yield
        finally:
            ray.shutdown()


def describe_job(submission_id: str | None, **metadata: str) -> None:
    """Add to the metadata of the submitted Ray job whose driver this process is, if it is one.

    Ray 2.60 has no call for that. This changes the entry of the job that Ray's Jobs API reads, which nobody else writes
    while the driver runs. Where it fails, nothing else does.
    """
    if submission_id is None:
        return
    with contextlib.suppress(Exception):
        key = JobInfoStorageClient.JOB_DATA_KEY.format(job_id=submission_id).encode()
        entry = json.loads(internal_kv._internal_kv_get(key, namespace=ray_constants.KV_NAMESPACE_JOB))
        entry["metadata"] = {**(entry.get("metadata") or {}), **metadata}
        data = json.dumps(entry).encode()
        internal_kv._internal_kv_put(key, data, overwrite=True, namespace=ray_constants.KV_NAMESPACE_JOB)


def _init(address: clusters.Address | None, cpus: int) -> None:
    quiet: dict[str, Any] = {"log_to_driver": False, "logging_level": logging.ERROR}
    if address is None:
        try:
            ray.init(address="local", num_cpus=cpus, include_dashboard=False, **quiet)
        except Exception as error:  # Ray's own has no other name
            if "timed out during startup" not in str(error):
                raise
            raise RunFailed(
                "Ray did not start on this machine in the 30 s that it gives itself: the machine is too busy. Run the "
                "same command when it is less so, or without Ray (run.ray_address=none, --ray-address none)."
            ) from error
        return
    try:
        ray.init(address=address.text, **quiet)
    except (ConnectionError, RuntimeError) as error:
        raise ConfigError(
            f"The Ray cluster at {address} cannot be joined: {error}. Look at `ray status` on its head."
        ) from error


@contextlib.contextmanager
def _own_signals() -> Iterator[None]:
    """Restore the handler of SIGTERM, which `ray.init` replaces."""
    before = signal.getsignal(signal.SIGTERM)
    try:
        yield
    finally:
        if threading.current_thread() is threading.main_thread() and before is not None:
            signal.signal(signal.SIGTERM, before)


@contextlib.contextmanager
def _held_back(*, show: bool) -> Iterator[None]:
    """Hold back what Ray's C++ core prints on stderr while it starts; ``show`` it if the start fails."""
    with contextlib.ExitStack() as stack:
        try:
            kept = stack.enter_context(unnamed_file())
            terminal = os.dup(2)
        except OSError:  # no room for the file, or no stderr
            yield
            return
        stack.callback(os.close, terminal)
        display.attempt(sys.stderr, lambda: sys.stderr.flush())
        os.dup2(kept.fileno(), 2)
        stack.callback(os.dup2, terminal, 2)
        try:
            yield
        except ConfigError:
            raise
        except BaseException:
            if show:
                kept.seek(0)
                display.attempt(sys.stderr, lambda: os.write(terminal, kept.read()))
            raise


@contextlib.contextmanager
def _no_messages_of_workers() -> Iterator[None]:
    """Ray prints on stdout what it does about each failed task and lost worker. A run counts them, see `losses`."""
    before = getattr(worker, "_worker_logs_enabled", True)
    worker._worker_logs_enabled = False
    try:
        yield
    finally:
        worker._worker_logs_enabled = before


@contextlib.contextmanager
def errors_in_files_only() -> Iterator[None]:
    """Ray Data logs each error with a traceback, and once more with another. On screen, the error itself is enough."""
    loggers = [logging.getLogger(name) for name in ("ray.data", "ray")]
    before = [(logger, logger.level) for logger in loggers]
    screens = [
        (handler, handler.level)
        for logger in loggers
        for handler in logger.handlers
        if isinstance(handler, logging.StreamHandler) and not isinstance(handler, logging.FileHandler)
    ]
    for logger in loggers:
        logger.setLevel(logging.ERROR)
    for handler, _ in screens:
        handler.setLevel(_SILENT)
    try:
        yield
    finally:
        for logger, level in before:
            logger.setLevel(level)
        for handler, level in screens:
            handler.setLevel(level)
