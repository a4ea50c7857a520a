"""Bad input: a watching that nobody can have. Each way out is followed to the letter."""

import time

import pytest

import sfr_batch as sfr
from sfr_batch.errors import ConfigError
from sfr_batch.table.commit import watching
from tests.cli.test_cli import complaint, run
from tests.tables import make_table


def test_how_often_without_watching(place: str) -> None:
    from sfr_batch.storage.stores import open_store

    make_table(open_store(place), {"a": ["x"]})
    said = complaint(2, "status", place, "--every", 3)
    assert said == "--every 3: it says how often --watch looks. Add --watch, or leave it out.\n"
    assert run("status", place, "--every", 3, "--watch").output == "no run yet\n"
    assert run("status", place).exit_code == 0
    said = run("status", place, "--every", 0, "--watch").stderr
    assert "Invalid value for '--every': 0" in said
    table = sfr.open_table(place)
    for wrong in (0, float("nan"), -1, "5", True, None):
        with pytest.raises(ConfigError) as caught:
            table.watch(wrong)  # type: ignore[arg-type]
        assert str(caught.value) == f"every_s={wrong!r}: give a number of seconds, 1 or more."
    assert table.watch(1).outcome == "none"


def test_no_table_to_watch(place: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """A look says so at once; who watches waits for the first run to create it, and is told."""
    monkeypatch.setattr(watching, "PATIENCE_S", 0)
    for options in ([], ["--watch"], ["--json"], ["--watch", "--json"]):
        assert complaint(1, "status", f"{place}/none", *options) == (
            f"There is no table at {place}/none (no _sfr/table.json). Check the path, or create it with `sfr-batch "
            "embed`.\n"
        )


def test_a_table_that_is_created_while_somebody_watches(place: str, monkeypatch: pytest.MonkeyPatch) -> None:
    from sfr_batch.storage.stores import open_store

    paused, sleep = [], time.sleep

    def pause(seconds: float) -> None:
        if seconds != 3.5:  # somebody else's
            return sleep(seconds)
        paused.append(seconds)
        if len(paused) == 2:
            make_table(open_store(place), {"a": ["x"]})

    monkeypatch.setattr(time, "sleep", pause)
    result = run("status", place, "--watch", "--every", 3.5)
    assert (result.exit_code, result.stdout) == (0, "no run yet\n")
    assert result.stderr == f"There is no table at {place} yet: waiting for a run that creates it.\n"
    assert len(paused) == 2
