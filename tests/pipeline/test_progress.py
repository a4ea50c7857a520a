"""What the progress of a run says, at any width, and where nothing comes for long."""

import os
import pty
import termios

import pytest

from sfr_batch.config.settings import ActorSettings
from sfr_batch.format.records import Receipt
from sfr_batch.pipeline.actors import stage
from sfr_batch.pipeline.progress import Progress
from sfr_batch.pipeline.results import Losses


class Clock:
    """Seconds that pass when a test says so."""

    now = 1000.0

    def __call__(self) -> float:
        return self.now


def receipt(rows: int, tokens: int, rejected: int = 0) -> Receipt:
    return Receipt(
        split_id="s",
        shard="a",
        version="1",
        start=0,
        attempt="1",
        run_id="r",
        read=rows,
        embedded=rows - rejected,
        rejected=rejected,
        vectors=rows - rejected,
        tokens=tokens,
        tokens_full=tokens,
        encoded_tokens=tokens,
        padded_tokens=tokens * 2,
        truncated=0,
        encode_seconds=1.0,
    )


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def progress(clock: Clock) -> Progress:
    """16 splits, of which the first six took ten seconds each."""
    made = Progress(splits=16, rows=12_500, stream=None, clock=clock, stage="encoding")
    for _ in range(6):
        clock.now += 10
        made.add(receipt(781, 6_000))
    return made


def test_a_line_of_a_log_says_everything(progress: Progress, clock: Clock) -> None:
    assert progress.line() == (
        "[1:00] encoding, 4,686 of 12,500 rows, 6 of 16 splits, 36,000 tokens, 600 tokens/s, 50.0% padding, 0 rejects, "
        "1:40 left"
    )
    clock.now += 10
    progress.add(receipt(781, 600, rejected=1))
    progress.fail()
    progress.losses = Losses(nodes=1)
    assert progress.line() == (
        "[1:10] encoding, 5,466 of 12,500 rows, 7 of 16 splits, 1 FAILED, lost 1 node, 36,600 tokens, 523 tokens/s, "
        "510 in the last minute, 50.0% padding, 1 reject, 1:20 left"
    )


def test_start_up_ends_when_the_run_begins_to_encode(clock: Clock) -> None:
    """In one process the first split is told of after the second one is encoded."""
    progress = Progress(splits=2, rows=200, stream=None, clock=clock)
    clock.now += 3
    progress.enter("encoding, waiting for 1 of 2 GPUs")
    clock.now += 12
    progress.enter("encoding")
    progress.add(receipt(100, 600))
    clock.now += 1
    progress.add(receipt(100, 600))
    assert (progress.start_up, progress.embed_seconds) == (3, 13)

    later = Progress(splits=1, rows=100, stream=None, clock=clock)
    clock.now += 5
    later.add(receipt(100, 600))
    later.enter("encoding")
    assert (later.start_up, later.embed_seconds) == (4, 1)


def test_a_line_fits_on_any_terminal(progress: Progress, clock: Clock) -> None:
    clock.now += 10
    progress.add(receipt(781, 600))
    assert progress.line(79) == "[1:10] encoding, 44%, 523 tokens/s, 510 in the last minute, 1:30 left"
    assert progress.line(39) == "[1:10] encoding, 44%, 1:30 left"
    for width in range(1, 200):
        assert len(progress.line(width)) <= width
    assert progress.line(10) == "[1:10] en…"


def test_nothing_that_comes_is_told(progress: Progress, clock: Clock) -> None:
    clock.now += 29
    assert "nothing" not in progress.line()
    clock.now += 61
    assert ", nothing for 1:30, " in progress.line()
    assert ", 0 in the last minute" in progress.line()
    assert progress.line(39) == "[2:30] encoding, 37%, nothing for 1:30"


def test_estimates_have_their_sign_until_the_end() -> None:
    made = Progress(splits=2, rows=100, stream=None, estimated=True, stage="encoding")
    assert ", 0 of ~100 rows, 0 of ~2 splits, " in made.line()
    assert "~0%" in made.line(39)
    made.add(receipt(60, 1))
    made.add(receipt(60, 1))
    assert ", 120 of 120 rows, 2 of 2 splits, " in made.line()
    assert "100%" in made.line(39)
    made.rows = 130
    assert ", 120 of 120 rows, " in made.line()
    assert "100%" in made.line(39)


@pytest.mark.parametrize(
    ("gpus", "loading", "ready", "waiting", "said"),
    [
        (1, 0, 0, 0, "starting the actors"),
        (1, 0, 0, 8, "waiting for 8 of 8 GPUs"),
        (1, 7, 0, 1, "waiting for 1 of 8 GPUs"),
        (0.5, 7, 0, 1, "waiting for 0.5 of 4 GPUs"),
        (1, 8, 0, 0, "loading the model"),
        (1, 7, 1, 0, "encoding"),
        (1, 2, 5, 1, "encoding, waiting for 1 of 8 GPUs"),
        (1, 9, 3, 0, "encoding"),
        (0, 6, 0, 2, "waiting for CPUs for 2 of 8 actors"),
    ],
)
def test_the_stage_is_that_of_the_actors(gpus: float, loading: int, ready: int, waiting: int, said: str) -> None:
    actors = ActorSettings(gpus=gpus, min=8)
    assert stage(actors, loading, ready, waiting, lacking_gpus=bool(gpus)) == said


def test_a_terminal_shows_one_line_and_then_the_last() -> None:
    """Which is no wider than the terminal either."""
    master, slave = pty.openpty()
    termios.tcsetwinsize(slave, (24, 40))
    with open(slave, "w") as terminal, Progress(splits=1, rows=5, stream=terminal, stage="loading the model") as shown:
        while b"loading the model" not in (live := os.read(master, 1000)):
            pass
        assert live.startswith(b"\r\x1b[K[0:00] loading the model")
        assert b"\n" not in live
        shown.add(receipt(5, 5))
    last = os.read(master, 1000).decode()
    assert last.startswith("\r\x1b[K[0:0")
    assert len(last.removeprefix("\r\x1b[K").rstrip()) < 40
    os.close(master)
