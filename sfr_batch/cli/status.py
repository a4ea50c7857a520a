"""The command `status`: the state of a table, and of the run that writes it, once or until it ends."""

import json
import sys
import time
from collections.abc import Callable

import click

import sfr_batch as api  # its names are loaded when they are used: help is quick
from sfr_batch.cli.options import ENDPOINT, NOTHING, report_errors
from sfr_batch.errors import ConfigError, TableNotFound
from sfr_batch.format.on_screen import shown

_WATCHING = "nobody watches any more; the run was not touched"


@click.command()
@click.argument("table")
@click.option("--watch", is_flag=True, help="Show the run that goes on, again and again until it ends.")
@click.option(
    "--every", type=click.FloatRange(1), metavar="SECONDS", help="Time between two looks of --watch; default 5."
)
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object; with --watch a line for each change.")
@ENDPOINT
def status(table: str, watch: bool, every: float | None, as_json: bool, endpoint_url: str | None) -> None:
    """Show the last snapshots of TABLE, and the progress of an unfinished run.

    It reads storage alone, so it works on any machine that may read TABLE. --watch shows where the run is: on a
    terminal one screen that is redrawn, elsewhere a line for each change. Each look takes a handful of requests. If no
    run goes on, it shows how the last one ended. It waits ten minutes for a first run to create TABLE. Ctrl-C ends the
    watching, not the run.

    Exit codes: 0 done, 1 failed, 2 the command is wrong. With --watch they say how the run ended: 0 it published or had
    nothing to do, 3 it failed, 4 a signal stopped it, 5 it is gone and has not said how it ended; 1 TABLE cannot be
    read, 130 stopped by Ctrl-C.
    """
    with report_errors(stopped=_WATCHING if watch else NOTHING):
        if every is not None and not watch:
            raise ConfigError(f"--every {every:g}: it says how often --watch looks. Add --watch, or leave it out.")
        if watch:
            sys.exit(_watch(table, every, as_json, endpoint_url))
        from sfr_batch.table.commit.status import TableStatus

        opened = api.open_table(table, api.StorageSettings(endpoint_url=endpoint_url))
        found = TableStatus.of(opened)
        pointed = opened.pointed
        if as_json:
            values = {"pointer": pointed.root if pointed else None, **found.as_json()}
            click.echo(json.dumps(values, ensure_ascii=False, allow_nan=False))
            return
        if pointed:
            click.echo(f"pointer   {pointed.describe()}")
        click.echo(found.describe())


def _watch(table: str, every: float | None, as_json: bool, endpoint_url: str | None) -> int:
    """Show the run of a table until it ends; returns the exit code."""
    from sfr_batch.pipeline.watch_display import JsonLines, Lines, Screen, Shows, is_live
    from sfr_batch.pipeline.watched import follow
    from sfr_batch.table.commit import watching

    def warn(text: str) -> None:
        click.echo(text, err=True)

    # A store that fails for longer is told, and asked again at the next look.
    storage = api.StorageSettings(endpoint_url=endpoint_url, attempts=4, give_up_after_s=15)
    opened = _opened(table, storage, every or watching.EVERY_S, warn)

    shows: Shows
    if as_json:
        shows = JsonLines(click.echo, warn)
    elif is_live(sys.stdout) and is_live(sys.stderr):
        shows = Screen(sys.stderr)  # stdout escapes what a terminal would obey
    else:
        shows = Lines(click.echo, warn)
    return follow(watching.watch(opened, every or watching.EVERY_S), shows).exit_code


def _opened(
    table: str, storage: "api.StorageSettings", every_s: float, warn: Callable[[str], None]
) -> "api.EmbeddingTable":
    """The table. The first run creates it, after its job has waited for machines: who watches waits, too."""
    from sfr_batch.table.commit.watching import PATIENCE_S

    until, told = time.monotonic() + PATIENCE_S, False
    while True:
        try:
            return api.open_table(table, storage)
        except TableNotFound:
            if time.monotonic() >= until:
                raise
        if not told:
            warn(f"There is no table at {shown(table, 500)} yet: waiting for a run that creates it.")
            told = True
        time.sleep(every_s)
