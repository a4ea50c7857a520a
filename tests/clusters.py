"""Small Ray clusters on this machine for tests: real nodes, which may be lost and added.

Starting one takes seconds, so a session has two at most: `conftest.py` starts them when the first test asks.
"""

import contextlib
import shutil
import tempfile
import time
from collections.abc import Iterator
from typing import Any

import pytest

OBJECT_STORE = 100 * 2**20
"""Bytes of a node's object store."""
_STARTS = 3
"""Of a node, at most."""


@contextlib.contextmanager
def ray_cluster(num_cpus: int = 0, **more: int) -> Iterator[Any]:
    """A Ray cluster of one node, which this process has not joined. It notices dead nodes within seconds.

    A head without CPUs, as in cluster.yaml, is for tests that add nodes; with CPUs it is a cluster of one machine.
    more: settings of Ray's system.
    """
    import ray.cluster_utils

    class Cluster(ray.cluster_utils.Cluster):  # type: ignore[misc]  # untyped
        """Starts a node again that has not started within Ray's 30 s, as on a busy machine."""

        def add_node(self, *args: Any, **settings: Any) -> Any:
            for left in reversed(range(_STARTS)):
                try:
                    return super().add_node(*args, **settings)
                except Exception as error:  # Ray's own has no other name
                    if not left or "timed out during startup" not in str(error):
                        raise

    folder = tempfile.mkdtemp(prefix="sfr-", dir="/tmp")  # sockets have short names
    checks = {"initial_delay_ms": 0, "period_ms": 500, "failure_threshold": 6}
    system = more | {f"health_check_{name}": value for name, value in checks.items()}
    system["prestart_worker_first_driver"] = False  # these cores have better things to do
    head = {"num_cpus": num_cpus, "include_dashboard": False, "object_store_memory": OBJECT_STORE}
    with _own_folder(folder):
        nodes = Cluster(initialize_head=True, head_node_args=head | {"_system_config": system})
    yield nodes
    ray.shutdown()
    with _own_folder(folder):
        nodes.shutdown()
    shutil.rmtree(folder, ignore_errors=True)


@contextlib.contextmanager
def _own_folder(folder: str) -> Iterator[None]:
    """Where Ray leaves the address of a cluster that it starts or ends. Whoever looks for one elsewhere finds none."""
    with pytest.MonkeyPatch.context() as environment:
        environment.setenv("RAY_TMPDIR", folder)
        yield


def remove_nodes(cluster: Any) -> None:
    """Leave a cluster with its head alone."""
    for node in list(cluster.worker_nodes):
        cluster.remove_node(node, allow_graceful=False)
    while sum(node["Alive"] for node in cluster.global_state.node_table()) > 1:
        time.sleep(0.05)
