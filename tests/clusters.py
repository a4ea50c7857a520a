"""A small Ray cluster on this machine for tests: real nodes, which may be lost and added."""

import contextlib
import shutil
import tempfile
from collections.abc import Iterator
from typing import Any

import pytest


@contextlib.contextmanager
def ray_cluster() -> Iterator[Any]:
    """A head without CPUs, as in cluster.yaml; the tests add nodes. It notices dead ones within seconds."""
    import ray.cluster_utils

    assert not ray.is_initialized()
    folder = tempfile.mkdtemp(prefix="sfr-", dir="/tmp")  # sockets have short names
    with pytest.MonkeyPatch.context() as environment:
        environment.setenv("RAY_TMPDIR", folder)  # also keeps other runs on this machine from joining
        checks = {"initial_delay_ms": 0, "period_ms": 500, "failure_threshold": 6}
        system = {f"health_check_{name}": value for name, value in checks.items()}
        system["prestart_worker_first_driver"] = False  # these cores have better things to do
        head = {"num_cpus": 0, "include_dashboard": False, "_system_config": system}
        nodes = ray.cluster_utils.Cluster(initialize_head=True, head_node_args=head)
        yield nodes
        ray.shutdown()
        nodes.shutdown()
    shutil.rmtree(folder, ignore_errors=True)
