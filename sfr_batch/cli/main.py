"""The command line: from arguments to a library call, and from exceptions to a sentence and an exit code.

Exit codes: 0 done, 1 it failed and the message says why, 2 the command itself is wrong, 130 left on SIGINT (Ctrl-C),
143 left on SIGTERM (`ray job stop`, `kubectl delete`). `embed` leaves within two seconds of either signal, whatever it
is at; a second one ends it at once.
"""

import sys
from pathlib import Path

import click

from sfr_batch import __version__, api
from sfr_batch.cli.maintenance import KEEPING
from sfr_batch.cli.options import ENDPOINT, report_errors, show_objects
from sfr_batch.cli.reading import READING
from sfr_batch.cli.signals import leaving
from sfr_batch.config.settings import StorageSettings
from sfr_batch.errors import ConfigError
from sfr_batch.format import names
from sfr_batch.pipeline import interrupt
from sfr_batch.storage.local_files import write_text
from sfr_batch.table.commit import lease

_CONFIG = click.argument("config", type=click.Path(dir_okay=False))
_OVERRIDES = click.argument("overrides", nargs=-1, metavar="[SECTION.FIELD=VALUE]...")
_FILE = click.Path(dir_okay=False)


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
@click.option("--compare", is_flag=True, help="Read the changed shards and find which rows have a vector already.")
def plan(config: str, overrides: tuple[str, ...], compare: bool) -> None:
    """Show what `embed` would do: splits, rows, tokens. Touches nothing, needs no GPU.

    On a corpus that has changed this is an upper bound: --compare reads the changed shards, in this process, and says
    how many rows are new, changed or deleted.
    """
    with report_errors():
        click.echo(api.plan(config, overrides, compare=compare).describe())


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
    with leaving(interrupt.last_words, lease.release_all), report_errors():
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
    with report_errors():
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
@click.option("--snapshot", type=click.IntRange(1), help="Number of the snapshot to search; default: the newest.")
@ENDPOINT
def search(
    table: str, query: str, k: int, show: tuple[str, ...], snapshot: int | None, endpoint_url: str | None
) -> None:
    """Find the rows of TABLE nearest to QUERY: exact, by cosine, over one snapshot.

    Prints score and id, and the number of the chunk, `id [2]`, where documents are cut into chunks.
    """
    with report_errors():
        opened = api.open_table(table, StorageSettings(endpoint_url=endpoint_url))
        for hit in opened.search(query, k, show, snapshot=snapshot):
            chunk = f" [{hit.row[names.CHUNK]}]" if names.CHUNK in hit.row else ""
            click.echo(f"{hit.score:.4f}  {hit.id}{chunk}")
            for column in dict.fromkeys(show):
                click.echo("        " + _one_line(hit.row[column]))


@main.command()
@click.argument("table")
@ENDPOINT
def status(table: str, endpoint_url: str | None) -> None:
    """Show the last snapshots of TABLE, and how far an unfinished run is."""
    from sfr_batch.table.commit import status as table_status

    with report_errors():
        opened = api.open_table(table, StorageSettings(endpoint_url=endpoint_url))
        if opened.pointed:
            click.echo(f"pointer   {opened.pointed.describe()}")
        click.echo(table_status.describe(opened))


@main.command()
@click.argument("table")
@click.option("--against", type=_FILE, metavar="CONFIG", help="Also compare with the corpus of this config.")
@_OVERRIDES
@click.option("--snapshot", type=click.IntRange(1), help="Number of the snapshot to audit; default: the newest.")
@click.option("--json", "json_file", type=_FILE, help="Write all that was found to this file.")
@ENDPOINT
def audit(
    table: str,
    against: str | None,
    overrides: tuple[str, ...],
    snapshot: int | None,
    json_file: str | None,
    endpoint_url: str | None,
) -> None:
    """Check that TABLE keeps its promises: reads every byte of a snapshot, changes nothing.

    Prints one line a promise, PASS, FAIL or SKIP. Below a FAIL stand examples, files and rows and ids by name, and the
    way out. It may run while `embed` does: what is not published yet counts as an orphan, which is no failure.

    With --against every row of the corpus is read too: each must be in the table or in its rejects, with a vector of
    the text that it has today, and nothing else may be there. Overrides are settings of that config; its table.path
    does not matter. A corpus that has changed since the last `embed` fails, and says so.

    Exit codes: 0 every promise is kept, 1 one is not (or the table cannot be read), 2 the command or config is wrong.
    """
    storage = StorageSettings(endpoint_url=endpoint_url) if endpoint_url else None
    with report_errors():
        if overrides and not against:
            raise ConfigError(f"{overrides[0]}: settings are of a config, and there is none; name it with --against.")
        if json_file and not Path(json_file).absolute().parent.is_dir():
            raise ConfigError(f"--json {json_file}: there is no folder {Path(json_file).absolute().parent}.")
        found = api.audit(
            table, against, overrides, snapshot=snapshot, storage=storage, each=lambda finding: click.echo(str(finding))
        )
        click.echo(found.brief())
        if json_file:
            try:
                write_text(Path(json_file), found.to_json())
            except OSError as error:
                raise ConfigError(f"--json {json_file} cannot be written: {error.strerror}") from None
        sys.exit(0 if found.ok else 1)


@main.command()
@click.argument("table")
@click.option("--older-than", default="7d", show_default=True, help="Age of what may go: 7d, 36h or 90m.")
@click.option("--delete/--dry-run", default=False, help="Remove it, or only say what would go (default).")
@ENDPOINT
def sweep(table: str, older_than: str, delete: bool, endpoint_url: str | None) -> None:
    """Remove from TABLE what no snapshot names: leftovers of runs that died or lost a race.

    Only says what it would remove unless --delete is given. Data files of a run that is not finished count as
    leftovers once they are older than --older-than: finish it first, with the same `sfr-batch embed`, if they are
    wanted. Before anything is deleted a snapshot is published that bars the names of these files, so that a run under
    way cannot come to rely on them: it plans again instead. Nothing that a snapshot names is ever removed.

    Exit codes: 0 done, 1 it failed, 2 the command is wrong.
    """
    with report_errors():
        opened = api.open_table(table, StorageSettings(endpoint_url=endpoint_url), follow=False)
        orphans = opened.maintenance.sweep(older_than=older_than, dry_run=not delete)
        if opened.latest() is None:
            click.echo("Nothing is published yet, so nothing is left over; nothing was removed.")
            return
        show_objects(orphans.objects)
        what = f"{len(orphans.objects):,} objects, {orphans.bytes:,} bytes, older than {older_than}"
        if not orphans.objects:
            click.echo(f"Nothing older than {older_than} is left over.")
        elif delete:
            barred = f"; {len(orphans.condemn):,} names of splits are barred from now on" if orphans.condemn else ""
            click.echo(f"Removed {what}{barred}.")
        else:
            click.echo(f"Would remove {what}. Nothing was removed; --delete does it.")


for _command in (*READING, *KEEPING):
    main.add_command(_command)


def _one_line(value: object, width: int = 100) -> str:
    text = " ".join(str(value).split())
    return text if len(text) <= width else text[: width - 1] + "…"


if __name__ == "__main__":
    main()
