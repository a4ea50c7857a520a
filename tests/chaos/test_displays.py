"""Runs whose display breaks at random moments: every one publishes, and its exit code says so."""

import random
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import pytest

from sfr_batch.config.loading import config_from_dict
from tests.chaos.campaign import Campaign, Chaos
from tests.chaos.checks import check_table
from tests.chaos.displays import HOW, Breakage
from tests.chaos.writer import Ending, Writers

SEED = 20261129


@pytest.fixture(scope="module")
def writers(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Writers]:
    with Writers(tmp_path_factory.mktemp("writers")) as started:
        yield started


def night(chaos: Chaos, number: int, breakage: Breakage) -> Ending:
    """A first run of a table. Raises AssertionError if it does not publish all there is."""
    campaign = Campaign(chaos, number, None, 0)
    ending = chaos.order(campaign._config(), display=breakage)
    assert ending.code == 0, f"{breakage} of night {number}, --seed {SEED}: exit code {ending.code}\n{ending.output}"
    state = campaign._states[-1]
    check_table(config_from_dict(campaign._config()), state.rows, chaos.reference(state))
    return ending


def nights(writers: Writers, folder: Path, number: int) -> Counter[str]:
    """So many first runs, and how the display of each has broken."""
    chaos = Chaos(writers, folder / "chaos", str(folder / "tables"), SEED)
    operations = sum(chaos.scout().values())
    rng = random.Random(SEED)
    done: Counter[str] = Counter()
    for which in range(number):
        breakage = Breakage.draw(rng, operations)
        if which < len(HOW):
            breakage = Breakage(HOW[which], (1, 2), breakage.at // 2)
        done[breakage.how] += night(chaos, which, breakage).broken
    return done


def test_display_that_breaks_ends_no_run(writers: Writers, tmp_path: Path) -> None:
    assert nights(writers, tmp_path, 6).keys() == set(HOW)


@pytest.mark.slow
def test_fifty_nights(writers: Writers, tmp_path: Path) -> None:
    assert nights(writers, tmp_path, 50).total() >= 40
