"""Listings on terminals of any width: `runs` and `snapshots`."""

import fcntl
import io
import os
import struct
import sys
import termios

import pytest

from sfr_batch.cli import reading
from sfr_batch.format import run_accounts
from sfr_batch.format.run_accounts import RunAccount
from sfr_batch.format.text_table import lines

WHO = {"user": "you", "host": "gpu-7", "ray_job": "sfr-table-6d7f2cbc0aa7-1"}
RUNS = [
    RunAccount(
        "20261129T155526213004-535385a1", "stopped", signal="SIGTERM", **WHO, started_at="2026-11-29T15:55:25+00:00",
        seconds=11, device="NVIDIA H200", devices=8, actor_seconds_reserved=10, actor_seconds_used=2, splits=2,
        rows=160, tokens=3_154, cost=0.01,
    ),
    RunAccount(
        "20261129T155538818685-5cd19c65", "killed", **WHO, started_at="2026-11-29T15:55:38+00:00", seconds=11,
        ended_at="2026-11-29T15:55:50+00:00", actor_seconds_reserved=2, splits=3, rows=224, tokens=3_844, at_least=True,
    ),
]  # fmt: skip


@pytest.mark.parametrize("width", [40, 45, 60, 80, 120, 160, 200])
def test_runs_fit(width: int) -> None:
    text = run_accounts.listing(RUNS, width)
    assert max(map(len, text.splitlines())) <= width
    for run in RUNS:
        assert run.run_id in text
        assert run.outcome in text
    head, *_, last = text.splitlines() if width > 60 else [" ".join(run_accounts.HEAD), text]
    told = " ".join(text.split()).partition("Not shown: ")[2]
    left_out = told.removesuffix(". --json has all.").split(", ") if told else []
    assert {*head.split(), *left_out} >= set(run_accounts.HEAD), last
    if width > 60:
        assert not set(left_out) & set(head.split())
    assert bool(left_out) == (width < 200)


def test_a_pipe_has_all() -> None:
    text = run_accounts.listing(RUNS)
    assert text.splitlines()[0].split() == list(run_accounts.HEAD)
    assert "killed, last sign 2026-11-29T15:55:50Z" in text
    assert "Not shown" not in text


def test_columns_leave_in_their_order() -> None:
    head, rows = ("id", "who", "rows"), [("a", "you@host", "7"), ("bcd", "", "1,000")]
    assert lines(head, rows, {"rows"}) == (["id   who        rows", "a    you@host      7", "bcd            1,000"], [])
    assert lines(head, rows, {"rows"}, 20, ["who"])[1] == []
    assert lines(head, rows, {"rows"}, 19, ["who"]) == (["id    rows", "a        7", "bcd  1,000"], ["who"])
    two = ["id ", *head[1:]], [("a" * 9, "you@host", "7"), ("b", "", "1,000")]
    assert lines(*two, {"rows"}, 12, ["who"]) == (["a" * 9, "  rows 7", "b", "  rows 1,000"], ["who"])


def test_the_width_is_that_of_the_terminal(monkeypatch: pytest.MonkeyPatch) -> None:
    ours, theirs = os.openpty()
    fcntl.ioctl(theirs, termios.TIOCSWINSZ, struct.pack("HHHH", 24, 52, 0, 0))
    with open(theirs, "w") as stream, monkeypatch.context() as instead:
        instead.setattr(sys, "stdout", stream)
        assert reading._width() == 52
    os.close(ours)
    with monkeypatch.context() as instead:
        instead.setattr(sys, "stdout", io.StringIO())
        assert reading._width() is None
