"""What a running Ray cluster refuses, and what its nodes may lack: each is one sentence. See `bench`.

The cluster is real. Two things are brought about: the versions that it tells are written into it, and its workers get a
`sitecustomize` that hides a package, as on a node where it is not installed.
"""

import json
import socket
from collections.abc import Callable
from typing import Any

import pytest

from sfr_batch.pipeline import joining
from tests.bad_input.bench import Bench, Row, both, check_row

pytestmark = pytest.mark.ray

HIDE = """
import os, sys
class Hidden:
    def find_spec(self, name, path=None, target=None):
        if name.split(".")[0] == os.environ["HIDDEN"]:
            raise ModuleNotFoundError(f"No module named {name!r}", name=name)
sys.meta_path.insert(0, Hidden())
"""


def cluster(bench: Bench) -> None:
    nodes = bench.request.getfixturevalue("_ray_machine")
    bench.names["address"] = nodes.address
    bench.names["port"] = nodes.address.rpartition(":")[2]


def other_versions(**versions: str) -> Callable[[Bench], None]:
    """The cluster has these, with those of this process for the rest."""

    def prepare(bench: Bench) -> None:
        from ray._private import ray_constants, utils
        from ray._raylet import GcsClient

        key, namespace = b"CLUSTER_METADATA", ray_constants.KV_NAMESPACE_CLUSTER
        client = GcsClient(address=bench.names["address"])
        before = client.internal_kv_get(key, namespace=namespace)
        bench.cleanup.callback(client.internal_kv_put, key, before, True, namespace)
        client.internal_kv_put(key, json.dumps(json.loads(before) | versions).encode(), True, namespace)
        bench.names |= dict(zip(("ray", "python"), utils.compute_version_info(), strict=True))

    return prepare


def another_machine(bench: Bench) -> None:
    """Here runs no node: on the machines of a cluster Ray finds the nodes by their processes."""
    bench.monkeypatch.setattr(joining.services, "find_node_ids", list)
    bench.monkeypatch.setattr(joining, "_FIND_NODE_S", 0.01)
    bench.names["host"] = bench.names["address"].rpartition(":")[0]


def port_of_a_node(bench: Bench) -> None:
    from ray._raylet import GcsClient

    (node,) = GcsClient(address=bench.names["address"]).get_all_node_info().values()
    bench.names["address"] = f"{node.node_manager_address}:{node.node_manager_port}"


def hidden(package: str) -> Callable[[Bench], None]:
    """Workers of this driver do not have the package."""

    def prepare(bench: Bench) -> None:
        folder = bench.put("hidden/sitecustomize.py", HIDE.encode()).parent
        runtime = {"env_vars": {"PYTHONPATH": str(folder), "HIDDEN": package}}
        bench.monkeypatch.setenv("RAY_JOB_CONFIG_JSON_ENV_VAR", json.dumps({"runtime_env": runtime}))
        bench.names |= {"host": bench.names["address"].rpartition(":")[0], "node": socket.gethostname()}

    return prepare


AT = ("run.ray_address={address}",)
ON_RAY: dict[str, Any] = {"phase": "run", "repair": ("run.ray_address=none",), "overrides": AT}
EQUAL = "Install the versions of one on the other: in this environment, or on every node."

# fmt: off
ROWS = [
    Row("another Ray",
        "The Ray cluster at {address} (run.ray_address) has Ray 2.55.0 on Python {python}, this process Ray {ray} on "
        f"Python {{python}}, and they have to be the same. {EQUAL}", code=2,
        prepare=both(cluster, other_versions(ray_version="2.55.0")), overrides=AT),
    Row("another Python",
        "The Ray cluster at {address} (run.ray_address) has Ray {ray} on Python 3.9.1, this process Ray {ray} on "
        f"Python {{python}}, and they have to be the same. {EQUAL}", code=2,
        prepare=both(cluster, other_versions(python_version="3.9.1")), overrides=AT),
    Row("a machine that is no node",
        "This machine is no node of the Ray cluster at {address} (run.ray_address), and a run starts on one of its "
        "nodes. Submit the run: sfr-batch submit CONFIG --address http://{host}:8265. Or embed in this process: "
        "run.ray_address=none.", code=2,
        prepare=both(cluster, another_machine), overrides=AT),
    Row("another port of a node",
        "At {address} (run.ray_address) listens another service, and not the head of a Ray cluster, whose port is 6379 "
        "or that of `ray start --port`. Correct the address, or embed in this process: run.ray_address=none.", code=2,
        prepare=both(cluster, port_of_a_node), overrides=AT),
    Row("nodes without the package",
        "Node {host} has no Python package sfr_batch. Submit the run, which sends the package to all nodes: sfr-batch "
        "submit CONFIG. Or install sfr-batch on every node.\nFinished splits stay committed; the same command "
        "continues.",
        prepare=both(cluster, hidden("sfr_batch")), **ON_RAY),
    Row("nodes without its dependencies",
        "2 of 2 splits did not finish. Nothing was published. Committed: 0 splits; the same command continues with the "
        "rest.\n  {root}/corpus/{*}.jsonl and 1 more: Node {node} has no Python module transformers. Install on every "
        "node what sfr-batch depends on, best in its image: `pip install .` in the repository does it. A submitted "
        "job brings its files along, but no packages.",
        files={"a.jsonl": b'{"id": "one", "text": "One."}\n', "b.jsonl": b'{"id": "two", "text": "Two."}\n'},
        prepare=both(cluster, hidden("transformers")), **ON_RAY),
]
# fmt: on


@pytest.mark.parametrize("row", ROWS, ids=lambda row: row.name)
def test_clusters_on_ray(row: Row, bench: Bench) -> None:
    check_row(row, bench)
