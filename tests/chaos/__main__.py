"""Kill and run again, as long as you like.

    python -m tests.chaos writers --kills 2000 --seed 7         without Ray, on disk or (--place s3) on an S3 server
    python -m tests.chaos jobs --kills 200 --seed 7             real jobs on Ray and S3

Exit code 1 and the history of the table, with the seed, when a promise does not hold.
"""

import contextlib
import os
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

import click

from tests.chaos.checks import Broken
from tests.chaos.writer import Writers
from tests.s3server import s3_server

_KILLS = click.option("--kills", default=200, show_default=True, type=click.IntRange(1))
_SEED = click.option("--seed", default=None, type=int, help="Default: another one each time.")


@click.group(help=__doc__)
def main() -> None:
    """Chaos."""
    os.environ |= {"HF_HUB_OFFLINE": "1", "RAY_ENABLE_UV_RUN_RUNTIME_ENV": "0"}


@main.command()
@_KILLS
@_SEED
@click.option("--place", default="local", show_default=True, type=click.Choice(["local", "s3"]))
def writers(kills: int, seed: int | None, place: str) -> None:
    """Kill writers at any operation of theirs."""
    from tests.chaos.campaign import Chaos

    seed = _told(seed)
    with contextlib.ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="sfr-chaos-")))
        root = str(folder / "tables")
        if place == "s3":
            server = stack.enter_context(s3_server(folder / "s3"))
            os.environ |= server.env
            root = server.create_bucket("chaos")
        chaos = Chaos(stack.enter_context(Writers(folder / "writers")), folder / "chaos", root, seed)
        with _judged():
            chaos.run(kills)
        print(chaos.tally)


@main.command()
@_KILLS
@_SEED
def jobs(kills: int, seed: int | None) -> None:
    """Kill parts of real Ray jobs."""
    from tests.chaos.test_jobs import kill
    from tests.clusters import ray_cluster

    seed = _told(seed)
    with tempfile.TemporaryDirectory(prefix="sfr-chaos-") as name, s3_server(Path(name) / "s3") as server:
        os.environ |= server.env
        with ray_cluster() as cluster, _judged():
            print(kill(kills, seed, cluster, server, server.create_bucket("chaos"), Path(name) / "jobs"))


def _told(seed: int | None) -> int:
    seed = time.time_ns() % 10**9 if seed is None else seed
    print(f"--seed {seed}", flush=True)
    return seed


@contextlib.contextmanager
def _judged() -> Iterator[None]:
    started = time.monotonic()
    try:
        yield
    except Broken as error:
        sys.exit(f"BROKEN: {error}")
    print(f"Every promise holds ({time.monotonic() - started:.0f} s).")


if __name__ == "__main__":
    main()
