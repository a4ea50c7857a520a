"""Commands for whoever reads a table: its snapshots, an export, what changed between two of them, a view for DuckDB."""

import json

import click

from sfr_batch import api
from sfr_batch.cli.options import ENDPOINT, report_errors
from sfr_batch.config.settings import StorageSettings
from sfr_batch.errors import ConfigError
from sfr_batch.table.changes import as_json
from sfr_batch.table.parquet_folder import ParquetFolder

_TABLE = click.argument("table")


@click.command()
@_TABLE
@ENDPOINT
def snapshots(table: str, endpoint_url: str | None) -> None:
    """List the snapshots of TABLE, oldest first.

    One line each: number, time (UTC), operation, run, live vectors, documents (new ones and reused ones of that
    snapshot, and all of its rejects), and who published it. Any number can be given to search, audit, export, changes
    and view. Snapshots that `sfr-batch expire` has removed are not listed.
    """
    with report_errors():
        click.echo(repr(api.open_table(table, StorageSettings(endpoint_url=endpoint_url)).snapshots()))


@click.command()
@_TABLE
@click.argument("target")
@click.option("--snapshot", type=click.IntRange(1), help="Number of the snapshot to export; default: the newest.")
@click.option("--partition-by", metavar="COLUMN", help="A folder for each value of this column, COLUMN=value/.")
@click.option("--columns", metavar="A,B,…", help="Columns to export; default: all. The id is always among them.")
@click.option("--where", metavar="CONDITION", help="Rows to export, e.g. \"package = 'numpy' and n_tokens > 20\".")
@ENDPOINT
def export(
    table: str,
    target: str,
    snapshot: int | None,
    partition_by: str | None,
    columns: str | None,
    where: str | None,
    endpoint_url: str | None,
) -> None:
    """Write the live rows of TABLE to TARGET, as Parquet files that any engine reads.

    TARGET is a local folder or an s3:// prefix. It has to be empty or not there yet: nothing is ever overwritten. The
    last file written is TARGET/_SUCCESS; where it is missing, the export broke off: remove it and export again.

    CONDITION is a small part of SQL: =, !=, <, <=, >, >=, in (…), is null, like 'a%', and, or, not, parentheses.

    Exit codes: 0 done, 1 it failed, 2 the command is wrong.
    """
    with report_errors():
        storage = StorageSettings(endpoint_url=endpoint_url)
        opened = api.open_table(table, storage)
        state = opened.current() if snapshot is None else opened.snapshot(snapshot)
        wanted = None if columns is None else [name.strip() for name in columns.split(",") if name.strip()]
        done = state.export(target, partition_by=partition_by, columns=wanted, where=where, storage=storage)
        click.echo(done)


@click.command()
@_TABLE
@click.argument("from_snapshot", metavar="FROM", type=click.IntRange(0))
@click.argument("to_snapshot", metavar="TO", type=click.IntRange(1))
@click.option("--output", metavar="DIR", help="Write Parquet files to this new folder or prefix: upserts/, deletes/.")
@click.option("--json", "as_lines", is_flag=True, help="Print JSON lines, op first: all deletes, then all upserts.")
@ENDPOINT
def changes(
    table: str, from_snapshot: int, to_snapshot: int, output: str | None, as_lines: bool, endpoint_url: str | None
) -> None:
    """Say what to do to a copy of snapshot FROM of TABLE to make it snapshot TO; FROM 0 is an empty copy.

    Rows are upserts if their id is new, or their text, carried columns or vector are others. Ids that are gone are
    deletes; where documents are cut into chunks, both are of (id, chunk). No key is in both, so their order does not
    matter. Prints the counts; the rows themselves go to --output DIR, whose last file is _SUCCESS, or with --json to
    the output, the counts then to stderr.

    Exit codes: 0 done, 1 it failed, 2 the command is wrong.
    """
    with report_errors():
        if output and as_lines:
            raise ConfigError("--output and --json: choose one of the two.")
        storage = StorageSettings(endpoint_url=endpoint_url)
        opened = api.open_table(table, storage)
        folder = ParquetFolder(output, opened.store.root, storage) if output else None
        found = opened.changes(from_snapshot, to_snapshot)
        if as_lines:
            for operation, batches in (("delete", found.deletes()), ("upsert", found.upserts())):
                for batch in batches:
                    for row in as_json(batch, operation):
                        click.echo(json.dumps(row, ensure_ascii=False))
        if folder:
            found.write(folder)
        click.echo(str(found), err=as_lines)


@click.command()
@_TABLE
@click.option("--engine", type=click.Choice(["duckdb"]), default="duckdb", show_default=True, help="Whose SQL it is.")
@click.option("--snapshot", type=click.IntRange(1), help="Number of the snapshot to view; default: the newest.")
@click.option("--name", default="embeddings", show_default=True, help="Name of the view.")
@ENDPOINT
def view(table: str, engine: str, snapshot: int | None, name: str, endpoint_url: str | None) -> None:
    """Print SQL with which another engine reads TABLE, without sfr-batch: CREATE VIEW over its live rows.

    The view is of one snapshot and stays so; print it again after the next run.

        sfr-batch view demo/table | duckdb embeddings.duckdb
    """
    with report_errors():
        opened = api.open_table(table, StorageSettings(endpoint_url=endpoint_url))
        state = opened.current() if snapshot is None else opened.snapshot(snapshot)
        click.echo(state.duckdb_view(name), nl=False)


READING = (snapshots, export, changes, view)
"""All of them."""
