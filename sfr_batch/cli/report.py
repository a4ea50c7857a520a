"""`report`: what one run of a table did, as lines, as JSON or as a page."""

import json
from pathlib import Path

import click

import sfr_batch as api  # its names are loaded when they are used: help is quick
from sfr_batch.cli.options import ENDPOINT, NOTHING, report_errors
from sfr_batch.errors import ConfigError


@click.command()
@click.argument("table")
@click.option("--run", "run_id", metavar="ID", help="Another run than the newest; `sfr-batch runs` lists them.")
@click.option("--to", "file", type=click.Path(dir_okay=False), metavar="FILE", help="Write the page to this file.")
@click.option("--open", "in_browser", is_flag=True, help="Show the page in a browser.")
@click.option("--json", "as_json", is_flag=True, help="Print all figures as one JSON object.")
@ENDPOINT
def report(
    table: str, run_id: str | None, file: str | None, in_browser: bool, as_json: bool, endpoint_url: str | None
) -> None:
    """Report on the newest run of TABLE: throughput, stages, lengths, rejects, drift, losses, cost, fingerprint.

    Prints some lines, and where the page is, report.html in the folder of the run: one file that needs nothing else.
    Runs that failed, were stopped or killed have a report, too, from what they have left. What was not measured is
    called so, and never 0.

    --to FILE writes a page, also of a table on S3 and of a run that left none: `--to report.html --open`.

    Exit codes: 0 done, 1 failed, 2 the command is wrong.
    """
    from sfr_batch.storage.local_files import write_text
    from sfr_batch.storage.locations import is_s3
    from sfr_batch.table.report.gathering import stored_page

    with report_errors(changes=file is not None, stopped=f"{file} may be missing" if file else NOTHING):
        if file and not Path(file).absolute().parent.is_dir():
            raise ConfigError(f"--to {file}: there is no folder {Path(file).absolute().parent}.")
        opened = api.open_table(table, api.StorageSettings(endpoint_url=endpoint_url))
        found = opened.report(run_id)
        page = stored_page(opened, found.run_id)
        if in_browser and not file and (page is None or is_s3(page)):
            place = f"is on S3, {page}" if page else "is not on storage: the run had no time to write it"
            raise ConfigError(f"--open: the page of run {found.run_id} {place}. Add --to FILE to open a copy.")
        if file:
            try:
                write_text(Path(file), found.to_html())
            except OSError as error:
                raise ConfigError(f"--to {file} cannot be written: {error.strerror}. Name another file.") from None
        click.echo(json.dumps(found.as_json()) if as_json else found.describe())
        if not as_json:
            click.echo(f"Page      {file or page or _no_page(found.outcome)}")
        if in_browser:
            _show(file or str(page))


def _no_page(outcome: str) -> str:
    from sfr_batch.format import run_accounts

    ended_at_once = outcome in (run_accounts.STOPPED, run_accounts.KILLED)
    return f"none on storage{': the run had no time to write it' if ended_at_once else ''}; --to FILE writes one"


def _show(path: str) -> None:
    import webbrowser

    address = Path(path).absolute().as_uri()
    try:
        shown = webbrowser.open_new_tab(address)
    except webbrowser.Error:
        shown = False
    if not shown:
        click.echo(f"No browser could be started here. Open it elsewhere: {address}", err=True)
