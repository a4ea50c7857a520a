"""The command line: from arguments to a library call, and from exceptions to a sentence and an exit code.

Exit codes: 0 done, 1 it failed and the message says why, 2 the command itself is wrong, 130 left on SIGINT (Ctrl-C),
143 left on SIGTERM (`ray job stop`, `kubectl delete`). `embed` leaves within two seconds of either signal, whatever it
is at; a second one ends it at once.
"""

import contextlib
import sys
from collections.abc import Iterator

import click

from sfr_batch import __version__, api
from sfr_batch import schema as names
from sfr_batch.config import StorageSettings
from sfr_batch.errors import ConfigError, SfrBatchError
from sfr_batch.signals import leaving

_CONFIG = click.argument("config", type=click.Path(dir_okay=False))
_OVERRIDES = click.argument("overrides", nargs=-1, metavar="[SECTION.FIELD=VALUE]...")
_FILE = click.Path(dir_okay=False)
_ENDPOINT = click.option("--endpoint-url", help="S3 endpoint of the table; default: the AWS environment variables.")


@click.group(context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100})
@click.version_option(__version__, prog_name="sfr-batch")
def main() -> None:
    """Turn a sharded corpus into a table of embeddings on your own GPUs.

    One command does the first run, the resume after a crash and the refresh:

        sfr-batch embed configs/demo.yaml

    It is safe to repeat and safe to kill. Readers see finished states only.
    """


@main.command()
@_CONFIG
@_OVERRIDES
def plan(config: str, overrides: tuple[str, ...]) -> None:
    """Show what `embed` would do: splits, rows, tokens. Touches nothing, needs no GPU."""
    with telling_errors():
        click.echo(api.plan(config, overrides).describe())


@main.command()
@_CONFIG
@_OVERRIDES
def embed(config: str, overrides: tuple[str, ...]) -> None:
    """Embed what is missing and publish one new snapshot.

    Running it again does only what is missing: after a crash the rest, on a finished table nothing. Settings can be
    overridden, e.g. `table.path=s3://bucket/other`.

    SIGTERM and Ctrl-C stop it within 2 seconds, at any moment: the last line says what is committed, and the same
    command continues from there.

    Exit codes: 0 done, 1 failed, 2 the command or config is wrong, 130 stopped by Ctrl-C, 143 by SIGTERM.
    """
    with leaving(_last_words, _let_go), telling_errors():
        click.echo(api.embed(config, overrides).describe())


@main.command()
@_CONFIG
@_OVERRIDES
@click.option("--golden", type=_FILE, help="Compare with the ids and vectors in this file.")
@click.option("--record", type=_FILE, help="Write ids and vectors to this new file, if nothing failed.")
@click.option(
    "--seconds", default=5.0, show_default=True, type=click.FloatRange(0), help="For throughput; 0: leave out."
)
def verify(config: str, overrides: tuple[str, ...], golden: str | None, record: str | None, seconds: float) -> None:
    """Check the model before money is spent: weights, tokenizer, prompts, vectors, speed.

    Prints one line a check, PASS, FAIL or SKIP. Loads the model on model.device of this machine; needs no corpus, no
    table and no Ray. If nothing failed, a local model folder without a lock file gets one.

    Exit codes: 0 nothing failed, 1 something failed, 2 the command or config is wrong.
    """
    with telling_errors():
        report = api.verify(
            config, overrides, golden=golden, record=record, seconds=seconds, each=lambda check: click.echo(str(check))
        )
        click.echo(report.summary())
        sys.exit(0 if report.ok else 1)


@main.command()
@click.argument("table")
@click.argument("query")
@click.option("-k", "k", default=10, show_default=True, type=click.IntRange(1), help="How many rows to return.")
@click.option("--show", multiple=True, metavar="COLUMN", help="Carried column to print with each hit; repeatable.")
@_ENDPOINT
def search(table: str, query: str, k: int, show: tuple[str, ...], endpoint_url: str | None) -> None:
    """Find the rows of TABLE nearest to QUERY: exact, by cosine, over the newest snapshot.

    Prints score and id, and the number of the chunk, `id [2]`, where documents are cut into chunks.
    """
    with telling_errors():
        opened = api.open_table(table, StorageSettings(endpoint_url=endpoint_url))
        for hit in opened.search(query, k, show):
            chunk = f" [{hit.row[names.CHUNK]}]" if names.CHUNK in hit.row else ""
            click.echo(f"{hit.score:.4f}  {hit.id}{chunk}")
            for column in dict.fromkeys(show):
                click.echo("        " + _one_line(hit.row[column]))


@main.command()
@click.argument("table")
@_ENDPOINT
def status(table: str, endpoint_url: str | None) -> None:
    """Show the last snapshots of TABLE, and how far an unfinished run is."""
    from sfr_batch import status as table_status

    with telling_errors():
        click.echo(table_status.describe(api.open_table(table, StorageSettings(endpoint_url=endpoint_url))))


def _one_line(value: object, width: int = 100) -> str:
    text = " ".join(str(value).split())
    return text if len(text) <= width else text[: width - 1] + "…"


def _last_words(signal_name: str) -> str:
    # Not imported here: the main thread may be in the middle of importing it, and is not waited for.
    progress = getattr(sys.modules.get("sfr_batch.pipeline.runner"), "under_way", None)
    if progress is None:
        return f"stopped by {signal_name}: nothing was started; the same command starts again"
    if progress.splits_done >= progress.splits:
        return f"stopped by {signal_name}: all splits are committed and stay so; the same command publishes them"
    return (
        f"stopped by {signal_name}: {progress.splits_done:,} of {progress.splits:,} splits of this run are committed "
        "and stay so; the same command continues from there"
    )


def _let_go() -> None:
    """So that the next run, on whatever machine, need not wait to see whether this one is dead."""
    lease = sys.modules.get("sfr_batch.lease")  # not imported here, as above
    release_all = getattr(lease, "release_all", None)
    if release_all is not None:
        release_all()


@contextlib.contextmanager
def telling_errors() -> Iterator[None]:
    """Our own errors become a sentence on stderr and an exit code."""
    try:
        yield
    except SfrBatchError as error:
        click.echo(f"error: {error}", err=True)
        sys.exit(2 if isinstance(error, ConfigError) else 1)
    except KeyboardInterrupt:
        click.echo("interrupted: what is committed stays; the same command continues with the rest", err=True)
        sys.exit(130)


if __name__ == "__main__":
    main()
