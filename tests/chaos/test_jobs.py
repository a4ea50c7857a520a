"""Kills of real Ray jobs on S3: driver, encode actor, CPU worker, node and object store."""

import os
import random
from pathlib import Path
from typing import Any

import pytest

from tests.chaos.jobs import VICTIMS, JobChaos
from tests.s3server import S3Server

pytestmark = pytest.mark.ray

SEED = 20261125
KILLS = 5


def chosen(kills: int, seed: int) -> list[str]:
    """So many victims in a random order, of each kind as many as of any other, or one more."""
    rng = random.Random(seed)
    victims = list(VICTIMS) * (kills // len(VICTIMS)) + rng.sample(VICTIMS, kills % len(VICTIMS))
    rng.shuffle(victims)
    return victims


def kill(kills: int, seed: int, cluster: Any, s3: S3Server, place: str, folder: Path) -> JobChaos:
    """Kill so many parts of jobs on a cluster that is a head without CPUs; nodes are added to it."""
    chaos = JobChaos(cluster, s3, place, folder, seed)
    chaos.run(chosen(kills, seed))
    return chaos


@pytest.mark.timeout(600)
def test_kills_of_ray_jobs(ray_nodes: Any, s3: S3Server, s3_prefix: str, tmp_path: Path) -> None:
    chaos = kill(KILLS, SEED, ray_nodes, s3, s3_prefix, tmp_path)
    assert sum(chaos.kills.values()) == KILLS
    assert set(chaos.kills) == set(VICTIMS)


@pytest.mark.slow
@pytest.mark.timeout(4 * 3600)
def test_many_kills_of_ray_jobs(ray_nodes: Any, s3: S3Server, s3_prefix: str, tmp_path: Path) -> None:
    """SFR_KILLS of them, from the seed SFR_SEED; `python -m tests.chaos jobs` is the same with a report."""
    kills = int(os.environ.get("SFR_KILLS", "200"))
    chaos = kill(kills, int(os.environ.get("SFR_SEED", SEED)), ray_nodes, s3, s3_prefix, tmp_path)
    assert sum(chaos.kills.values()) == kills
    assert chaos.while_publishing == kills // 10
    assert chaos.tables > 1, "no small shards"
    print(chaos)
