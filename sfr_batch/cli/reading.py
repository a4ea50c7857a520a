"""Commands that read a table: `snapshots`, `runs`, `export`, `changes`, `view`."""

import csv
import json
import sys

import click

import sfr_batch as api  # its names are loaded when they are used: help is quick
from sfr_batch.cli.options import ENDPOINT, NOTHING, on_ray, report_errors
from sfr_batch.errors import ConfigError
from sfr_batch.table.choices import ANY, CHOICES

_TABLE = click.argument("table")
_FOR = click.option(
    "--for",
    "engine",
    type=click.Choice(CHOICES),
    default=ANY,
    show_default=True,
    help="Who will read it; arrow: pyarrow, pandas, Ray.",
)
_RENAME = click.option("--rename", multiple=True, metavar="OLD=NEW", help="Another name for a column; repeatable.")
_AS_TEXT = click.option("--as-text", multiple=True, metavar="COLUMN", help="Write it as text or JSON; repeatable.")


@click.command()
@_TABLE
@ENDPOINT
def snapshots(table: str, endpoint_url: str | None) -> None:
    """List the snapshots of TABLE, oldest first.

    One line per snapshot: number, time (UTC), operation, run, live vectors, new and reused documents, rejects, and who
    published it. search, audit, export, changes and view accept any of these numbers. Snapshots that `sfr-batch expire`
    has removed are not listed.

    Exit codes: 0 done, 1 failed, 2 the command is wrong.
    """
    with report_errors():
        found = api.open_table(table, api.StorageSettings(endpoint_url=endpoint_url)).snapshots()
        click.echo(found.describe(_width()))


@click.command()
@_TABLE
@click.option("--json", "as_lines", is_flag=True, help="Print a JSON line per attempt, with all that is known of it.")
@ENDPOINT
def runs(table: str, as_lines: bool, endpoint_url: str | None) -> None:
    """List the attempts to write TABLE, oldest first: those that published, failed, were stopped or killed.

    One line per attempt: run, start (UTC), how long, how it ended, who on which host and Ray job, devices, time of
    actors reserved and used, documents that it embedded, their tokens, and the cost if run.price_per_hour is set. The
    last line adds up. A process that was killed could not write more than it had: ≥ marks what is a lower bound, ? what
    nobody knows. A narrow terminal gets fewer columns, a pipe and --json get all.

    Reads logs from storage alone; `sfr-batch sweep` removes those of runs that did not publish.

    Exit codes: 0 done, 1 failed, 2 the command is wrong.
    """
    with report_errors():
        found = api.open_table(table, api.StorageSettings(endpoint_url=endpoint_url)).runs()
        for account in found if as_lines else ():
            click.echo(json.dumps(account.as_json(), ensure_ascii=False, allow_nan=False))
        if not as_lines:
            click.echo(found.describe(_width()))


@click.command()
@_TABLE
@click.argument("target")
@click.option("--snapshot", type=click.IntRange(1), help="Number of the snapshot to export; default: the newest.")
@click.option("--partition-by", metavar="COLUMN", help="Write a folder COLUMN=value/ for each value of this column.")
@click.option("--columns", metavar="A,B,…", help="Columns to export; default: all. The id is always included.")
@click.option("--where", metavar="CONDITION", help="Rows to export, e.g. \"package = 'numpy' and n_tokens > 20\".")
@_FOR
@_RENAME
@_AS_TEXT
@click.option("--empty-as-null", is_flag=True, help="With --partition-by: empty texts become null.")
@on_ray
@ENDPOINT
def export(
    table: str,
    target: str,
    snapshot: int | None,
    partition_by: str | None,
    columns: str | None,
    where: str | None,
    engine: str,
    rename: tuple[str, ...],
    as_text: tuple[str, ...],
    empty_as_null: bool,
    ray_address: str | None,
    shared_path: bool,
    endpoint_url: str | None,
) -> None:
    """Write the live rows of TABLE to TARGET, as Parquet files for any engine.

    TARGET is a local folder or an s3:// prefix. It must be empty or not exist: nothing is ever overwritten.
    TARGET/_SUCCESS is written last. If it is missing, the export is incomplete: remove TARGET and export again.

    Types and names that the engine of --for lacks are replaced if nothing is lost, e.g. float16 by float32, a UUID by
    its text, a dot in a name by _. If a value would change, nothing is written: --as-text, --rename or another --for
    are the ways out.

    CONDITION is a small part of SQL: =, !=, <, <=, >, >=, in (…), is null, like 'a%', and, or, not, parentheses.

    Exit codes: 0 done, 1 failed, 2 the command is wrong.
    """
    with report_errors(changes=True, stopped=_incomplete(target)):
        storage = api.StorageSettings(endpoint_url=endpoint_url)
        opened = api.open_table(table, storage)
        state = opened.current() if snapshot is None else opened.snapshot(snapshot)
        renames = _renames(rename)
        rows = state.manifest.counts.vectors
        with api.on_ray(ray_address, shared_path=shared_path, rows=rows) as executor:
            done = state.export(
                target,
                partition_by=partition_by,
                columns=_listed(columns),
                where=where,
                storage=storage,
                engine=engine,
                rename=renames,
                as_text=as_text,
                empty_as_null=empty_as_null,
                executor=executor,
            )
        click.echo(done)


@click.command()
@_TABLE
@click.argument("from_snapshot", metavar="FROM", type=click.IntRange(0))
@click.argument("to_snapshot", metavar="TO", type=click.IntRange(1))
@click.option("--output", metavar="DIR", help="Write Parquet files to this new folder or prefix: upserts/, deletes/.")
@click.option("--json", "as_lines", is_flag=True, help="Print JSON lines, op first: all deletes, then all upserts.")
@_FOR
@_RENAME
@_AS_TEXT
@on_ray
@ENDPOINT
def changes(
    table: str,
    from_snapshot: int,
    to_snapshot: int,
    output: str | None,
    as_lines: bool,
    engine: str,
    rename: tuple[str, ...],
    as_text: tuple[str, ...],
    ray_address: str | None,
    shared_path: bool,
    endpoint_url: str | None,
) -> None:
    """Show what turns a copy of snapshot FROM of TABLE into snapshot TO. FROM 0 is an empty copy.

    A row is an upsert if its id is new, or if its text, carried columns or vector differ. An id that is gone is a
    delete. Where documents are cut into chunks, the key of both is (id, chunk). No key is in both, so their order does
    not matter.

    Prints the counts. --output writes the rows to DIR, where _SUCCESS is written last; --for, --rename and --as-text
    are those of export. --json prints the rows, and the counts on stderr.

    Exit codes: 0 done, 1 failed, 2 the command is wrong.
    """
    from sfr_batch.storage.locations import absolute_uri
    from sfr_batch.table.apart import BESIDE, check_apart
    from sfr_batch.table.outgoing import Outgoing
    from sfr_batch.table.parquet_folder import ParquetFolder

    with report_errors(changes=output is not None, stopped=_incomplete(output) if output else NOTHING):
        if output and as_lines:
            raise ConfigError("Give --output or --json, not both.")
        storage = api.StorageSettings(endpoint_url=endpoint_url)
        opened = api.open_table(table, storage)
        outgoing = Outgoing(opened.store.root, opened.schema, engine, _renames(rename), as_text) if output else None
        if output:
            check_apart(absolute_uri(output), opened.store, storage, BESIDE)
        folder = ParquetFolder(output, storage) if output else None
        rows = opened.snapshot(to_snapshot).manifest.counts.vectors
        with api.on_ray(ray_address, shared_path=shared_path, rows=rows) as executor:
            found = opened.changes(from_snapshot, to_snapshot, executor=executor)
        if as_lines:
            for row in found.json_rows():
                click.echo(json.dumps(row, ensure_ascii=False, allow_nan=False))
        if folder:
            found.write(folder, outgoing)
        click.echo(str(found), err=as_lines)


@click.command()
@_TABLE
@click.option("--engine", type=click.Choice(["duckdb"]), default="duckdb", show_default=True, help="SQL dialect.")
@click.option("--snapshot", type=click.IntRange(1), help="Number of the snapshot to view; default: the newest.")
@click.option("--name", default="embeddings", show_default=True, help="Name of the view.")
@click.option("--columns", metavar="A,B,…", help="Columns of the view; default: all.")
@ENDPOINT
def view(
    table: str, engine: str, snapshot: int | None, name: str, columns: str | None, endpoint_url: str | None
) -> None:
    """Print SQL with which another engine reads TABLE without sfr-batch: CREATE VIEW over its live rows.

    The view stays at one snapshot: print it again after the next run.

        sfr-batch view demo/table | duckdb embeddings.duckdb

    Exit codes: 0 done, 1 failed, 2 the command is wrong.
    """
    with report_errors():
        opened = api.open_table(table, api.StorageSettings(endpoint_url=endpoint_url))
        state = opened.current() if snapshot is None else opened.snapshot(snapshot)
        click.echo(state.duckdb_view(name, _listed(columns)), nl=False)


def _width() -> int | None:
    """Characters of a line on the terminal; None: stdout is a file or a pipe, whose lines may have any length."""
    from sfr_batch.pipeline.display import is_terminal
    from sfr_batch.pipeline.watch_display import columns_of

    return columns_of(sys.stdout) if is_terminal(sys.stdout) else None


def _incomplete(target: str) -> str:
    return f"if {target} has no _SUCCESS, it is incomplete: remove it and run the same command again"


def _listed(columns: str | None) -> list[str] | None:
    """Names that commas separate; one with a comma in it stands in double quotes."""
    if columns is None:
        return None
    return [name.strip() for row in csv.reader([columns], skipinitialspace=True) for name in row if name.strip()]


def _renames(given: tuple[str, ...]) -> dict[str, str]:
    renames = {}
    for text in given:
        old, sign, new = text.rpartition("=")
        if not (old and sign and new):
            raise ConfigError(f"--rename {text}: write OLD=NEW, the name in the table and the name in the export.")
        renames[old] = new
    return renames


READING = (snapshots, runs, export, changes, view)
