"""Ray for what is done to a table without a config: exports, audits, compactions. Knows none of these.

Imports no Ray until it is clear that there is work for it.
"""

import contextlib
import os
from collections.abc import Iterator

from sfr_batch.pipeline import clusters, placement
from sfr_batch.storage.executor import ROWS_HERE, Executor


def choose(address: str | None, rows: int) -> str:
    """Where to work on a table of so many ``rows``: placement.HERE, placement.LOCAL, or the address of a cluster.

    address: as `run.ray_address`. None: here, unless the table is large and either RAY_ADDRESS is set or this process
    is connected to a Ray.
    """
    if address is None:
        asked = os.environ.get("RAY_ADDRESS") or (placement.LOCAL if placement.has_ray() else placement.HERE)
        address = asked if rows > ROWS_HERE else placement.HERE
    if address == "auto":
        return placement.LOCAL if placement.has_ray() else placement.running_cluster() or placement.HERE
    return address


@contextlib.contextmanager
def on_ray(
    address: str | None = "auto", *, shared_path: bool = False, rows: int = ROWS_HERE + 1
) -> Iterator[Executor | None]:
    """A cluster for large tables: ``with sfr.on_ray() as run: table.export("s3://bucket/out", executor=run)``.

    address: HOST:PORT of a cluster that this machine is a node of; ``auto``: the Ray that this process is connected to
    or that runs on this machine, else this process; ``local``: one that starts here and ends with the block; ``none``:
    this process, without an executor. None: ``none`` for a table of few ``rows``. shared_path: all nodes share the file
    systems of local paths. Raises ConfigError if there is no such cluster.
    """
    place = choose(address, rows)
    if place == placement.HERE:
        yield None
        return
    at = None if place == placement.LOCAL else clusters.Address(place, _source(place, address), "--ray-address", "work")
    if at:
        clusters.check(at)  # in no time
    from sfr_batch.pipeline import joining, losses, tasks  # imports ray, which takes seconds

    if placement.has_ray():
        joining.check_connected()
    with joining.connected(at, os.cpu_count() or 1):
        yield tasks.OnRay("working on the table", sees_disk=shared_path or losses.living_nodes() == 1)


def _source(place: str, address: str | None) -> str:
    if place == address:
        return "--ray-address"
    return "RAY_ADDRESS" if place == os.environ.get("RAY_ADDRESS") else "the Ray that was started on this machine"
