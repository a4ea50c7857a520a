"""Kills of writers at every operation of a run, on disk and on S3; and that the harness finds bugs that are planted."""

import re
from collections.abc import Iterator
from pathlib import Path

import pytest

from sfr_batch.storage.local import LocalStore
from tests.chaos.bugs import BUGS, replace
from tests.chaos.campaign import Chaos
from tests.chaos.checks import Broken
from tests.chaos.failpoints import WHEN, Failpoint
from tests.chaos.writer import Writers
from tests.s3server import S3Server

SEED = 20261125
KILLS = {"local": 180, "s3": 20}
CREATED = ("card", "run plan.parquet", "rejects", "data file", "receipts", "side files", "side shards", "manifest")


@pytest.fixture(scope="module")
def writers(s3: S3Server, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Writers]:
    with Writers(tmp_path_factory.mktemp("writers"), s3.env) as started:
        yield started


@pytest.mark.timeout(900)
@pytest.mark.parametrize("place", ["local", "s3"], indirect=True)
def test_kills_at_all_operations(place: str, writers: Writers, tmp_path: Path, request: pytest.FixtureRequest) -> None:
    kind = request.node.callspec.params["place"]
    tally = Chaos(writers, tmp_path / "chaos", place, SEED).run(KILLS[kind])
    assert tally.total == KILLS[kind]
    assert tally.outside > 0
    assert tally.moments == set(WHEN)
    if kind == "local":  # on S3 they are too few for that
        killed_at = {name.split(" ", 1)[1] for name, kills in tally.kills.items() if kills}
        assert killed_at >= {f"create {what}" for what in CREATED} | {"list data", "open data file", "read card"}


def test_a_bug_whose_place_is_no_more_is_refused() -> None:
    """Else it would be planted where nobody calls it, and what finds it would be something else."""
    with pytest.raises(AttributeError, match="LocalStore has no put"):
        replace(LocalStore, "put", LocalStore.create)
    assert not hasattr(LocalStore, "put")


@pytest.mark.parametrize("bug", BUGS)
def test_harness_finds_planted_bug(bug: str, writers: Writers, tmp_path: Path, request: pytest.FixtureRequest) -> None:
    on_s3 = bug == "put without a condition"
    place = request.getfixturevalue("s3_prefix") if on_s3 else str(tmp_path / "tables")

    def at(point: Failpoint) -> bool:
        return re.fullmatch(BUGS[bug].at, point.kind) is not None

    chaos = Chaos(writers, tmp_path / "chaos", place, SEED, bug)
    with pytest.raises(Broken, match=f"(?s){BUGS[bug].symptom}.*--seed {SEED}"):
        chaos.run(40, at)
    assert chaos.tally.total > 0 or bug == "published unfinished", "found without a kill"
