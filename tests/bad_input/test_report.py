"""Bad input: reports of runs that are not there, and pages that cannot be. Each way out is followed to the letter."""

import pytest
from click.testing import CliRunner

from sfr_batch.cli.main import main
from sfr_batch.format import names
from tests.bad_input.bench import GOOD, Bench, embedded

REPORT = "report {root}/table"
ROWS = [
    ("no run", [f"{REPORT} --run {{run}}x"],
     "{root}/table has nothing of a run {run}x. The last ones: {run}. `sfr-batch runs {root}/table` lists all.",
     f"{REPORT} --run {{run}}"),
    ("a page that is not there", [f"{REPORT} --open"],
     "--open: the page of run {run} is not on storage: the run had no time to write it. Add --to FILE to open a copy.",
     f"{REPORT} --open --to {{root}}/page.html"),
    ("no folder for the page", [f"{REPORT} --to {{root}}/none/page.html"],
     "--to {root}/none/page.html: there is no folder {root}/none.", f"{REPORT} --to {{root}}/page.html"),
    ("a folder that refuses", [f"{REPORT} --to /proc/page.html"],
     "--to /proc/page.html cannot be written: No such file or directory. Name another file.",
     f"{REPORT} --to {{root}}/page.html"),
]  # fmt: skip


def with_corpus(bench: Bench) -> None:
    for name, data in GOOD.items():
        bench.put(f"corpus/{name}", data)
    embedded(bench)


@pytest.fixture
def run_id(bench: Bench) -> str:
    """Of a run that has published and whose page is gone."""
    with_corpus(bench)
    bench.monkeypatch.setenv("BROWSER", "true %s")
    bench.monkeypatch.setattr("webbrowser._tryorder", None)
    (folder,) = (bench.table / names.RUNS).iterdir()
    (folder / names.RUN_PAGE).unlink()
    return folder.name


def test_bad_input(bench: Bench, run_id: str) -> None:
    """One table for all rows."""
    bench.names["run"] = run_id
    for name, commands, message, advice in ROWS:
        for command in commands:
            before = bench.files()
            result = bench.run(command, ())
            assert (result.exit_code, result.stderr) == (2, f"error: {bench.fill(message)}\n"), name
            assert bench.files() == before, name
        assert bench.run(advice, ()).exit_code == 0, name


def test_no_table_and_no_run(bench: Bench) -> None:
    result = CliRunner().invoke(main, ["report", str(bench.table)])
    assert (result.exit_code, result.stderr) == (
        1,
        f"error: There is no table at {bench.table} (no _sfr/table.json). Check the path, or create it with "
        "`sfr-batch embed`.\n",
    )
    with_corpus(bench)
    for folder in (bench.table / names.RUNS).iterdir():
        folder.rename(bench.root / folder.name)
    result = bench.run(REPORT, ())
    assert (result.exit_code, result.stderr) == (
        2,
        f"error: No run has left anything in {bench.table} yet: a run has a report when it has begun to write.\n",
    )
