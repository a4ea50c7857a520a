"""Commands that maintain tables: `repair`, `compact`, `expire`, `promote`."""

import click

import sfr_batch as api  # its names are loaded when they are used: help is quick
from sfr_batch.cli.options import DOES_THE_REST, ENDPOINT, NOTHING, on_ray, report_errors, show_objects
from sfr_batch.errors import ConfigError, counted
from sfr_batch.pipeline import interrupt
from sfr_batch.pipeline.display import say
from sfr_batch.table.choices import MAX_UNNEEDED, ROWS_PER_FILE


@click.command()
@click.argument("table")
@click.option("--keep-last", type=click.IntRange(1), metavar="N", help="Keep the last N states.")
@click.option("--keep-for", metavar="AGE", help="Keep states that were the newest within this time: 30d, 36h or 90m.")
@click.option("--keep", multiple=True, type=int, metavar="NUMBER", help="Keep this snapshot too; repeatable.")
@click.option("--delete/--dry-run", default=False, help="Remove them, or only list them (default).")
@ENDPOINT
def expire(
    table: str,
    keep_last: int | None,
    keep_for: str | None,
    keep: tuple[int, ...],
    delete: bool,
    endpoint_url: str | None,
) -> None:
    """Remove old snapshots of TABLE, and the files that only they need.

    Without --delete it only lists them. Nothing that a remaining snapshot needs is ever removed.

    A snapshot stays if any option keeps it, and the newest state always stays. A state is what one `embed` or
    compaction has published. Its age counts from the moment when the next state replaced it, by the clock of the store,
    whatever those of the machines said. --keep applies to this command only: a nightly command must name the snapshot
    every time.

    Before it deletes, it publishes a snapshot that lists the removed ones: readers get a clear error, and a run in
    progress plans again. It may be killed at any moment: the same command does the rest.

    Exit codes: 0 done, 1 failed, 2 the command is wrong.
    """
    from sfr_batch.table.commit.clocks import tell_skew

    with report_errors(changes=delete, stopped=DOES_THE_REST if delete else NOTHING):
        opened = api.open_table(table, api.StorageSettings(endpoint_url=endpoint_url), follow=False)
        expiry = opened.maintenance.expire(keep_last=keep_last, keep_for=keep_for, keep=keep, dry_run=not delete)
        if skew := tell_skew(opened.store):
            click.echo(skew, err=True)
        show_objects(expiry.objects)
        click.echo(_format_expiry(expiry, delete))


def _format_expiry(expiry: "api.Expiry", delete: bool) -> str:
    if not expiry.kept:
        return "Nothing is published yet. There is nothing to expire."
    stay = f"{_numbers(expiry.kept)} {'stay' if len(expiry.kept) > 1 else 'stays'}"
    what = f"{counted(len(expiry.objects), 'object')}, {counted(expiry.bytes, 'byte')}"
    if not expiry.snapshots and not expiry.objects:
        return f"No snapshot is old enough to expire: {stay}."
    which = f"{_numbers(expiry.snapshots)} with " if expiry.snapshots else "leftovers of an earlier expire, "
    if delete:
        return f"Removed {which}{what}; {stay}."
    return f"Would remove {which}{what}; {stay}. Nothing was removed; --delete does it."


def _numbers(numbers: tuple[int, ...]) -> str:
    """`snapshot 4`, `snapshots 1 to 3, 5`."""
    runs: list[list[int]] = []
    for number in numbers:
        if runs and number == runs[-1][-1] + 1:
            runs[-1] = [runs[-1][0], number]
        else:
            runs.append([number])
    told = ", ".join(" to ".join(map(str, run)) for run in runs)
    return f"snapshot{'s' * (len(numbers) > 1)} {told}"


@click.command()
@click.argument("pointer")
@click.argument("table", required=False)
@click.option("--snapshot", type=click.IntRange(1), help="Pin this snapshot; default: readers get the newest.")
@click.option("--expect-current", metavar="TABLE", help="Fail if the pointer does not point to this table now.")
@click.option("--back", "go_back", is_flag=True, help="Move POINTER back to where it pointed before.")
@ENDPOINT
def promote(
    pointer: str,
    table: str | None,
    snapshot: int | None,
    expect_current: str | None,
    go_back: bool,
    endpoint_url: str | None,
) -> None:
    """Make POINTER point to TABLE: whoever opens POINTER reads TABLE from now on.

    POINTER is a folder or s3:// prefix of its own, beside the tables. It is created if necessary. status, search,
    snapshots, export, changes, view, audit and sfr_batch.open_table follow it. The switch is atomic: a reader gets the
    table before or TABLE, and keeps what it has opened. Commands that write (embed, sweep, expire, compact) need the
    path of the table itself.

    \b
        sfr-batch promote s3://bucket/current s3://bucket/green
        sfr-batch promote s3://bucket/current --back       # repeat it to go back further

    If two commands promote at the same time, the later one wins. With --expect-current it fails instead, and nothing
    changes. `expire` does not know pinned snapshots: give it --keep NUMBER.

    Exit codes: 0 done, 1 failed or the pointer points elsewhere than expected, 2 the command is wrong.
    """
    with report_errors(changes=True, stopped=f"`sfr-batch status {pointer}` shows where it points"):
        storage = api.StorageSettings(endpoint_url=endpoint_url)
        if go_back:
            if table or snapshot or expect_current:
                raise ConfigError("--back takes no argument but POINTER.")
            click.echo(f"{api.promote_back(pointer, storage=storage).describe()}.")
            return
        if table is None:
            raise ConfigError("Give TABLE or --back. `sfr-batch status POINTER` shows where it points now.")
        moved = api.promote(pointer, table, snapshot=snapshot, expect_current=expect_current, storage=storage)
        click.echo(f"{moved.describe()}.")


@click.command()
@click.argument("table")
@click.option(
    "--rows-per-file",
    default=ROWS_PER_FILE,
    show_default=True,
    type=click.IntRange(1),
    help="Maximum vectors in a new data file; files with at most half as many are joined.",
)
@click.option(
    "--max-unneeded",
    default=MAX_UNNEEDED,
    show_default=True,
    type=click.FloatRange(0, 1),
    help="A file with a larger share of unneeded rows is always rewritten.",
)
@click.option("--write/--dry-run", default=False, help="Rewrite the files, or only show what would be done (default).")
@on_ray
@ENDPOINT
def compact(
    table: str,
    rows_per_file: int,
    max_unneeded: float,
    write: bool,
    ray_address: str | None,
    shared_path: bool,
    endpoint_url: str | None,
) -> None:
    """Rewrite small data files of TABLE, and files with many unneeded rows, as fewer files. Needs no model.

    Without --write it only shows what it would do. It publishes a snapshot with the same rows; readers of older
    snapshots are not disturbed. The old files stay until `expire` removes the snapshots that need them.

    It holds the lease of the table, so a run at the same time is refused. It may be killed at any moment: the same
    command does the rest.

    Exit codes: 0 done, 1 failed, 2 the command is wrong.
    """
    with report_errors(changes=write, stopped=DOES_THE_REST if write else NOTHING):
        opened = api.open_table(table, api.StorageSettings(endpoint_url=endpoint_url), follow=False)
        rows = opened.current().manifest.counts.vectors
        with api.on_ray(ray_address if write else "none", shared_path=shared_path, rows=rows) as executor:
            found = opened.maintenance.compact(
                rows_per_file=rows_per_file,
                max_unneeded=max_unneeded,
                dry_run=not write,
                say=say,
                executor=executor,
            )
        click.echo(found.describe())


@click.command()
@click.argument("config", type=click.Path(dir_okay=False))
@click.argument("overrides", nargs=-1, metavar="[SECTION.FIELD=VALUE]...")
@click.option("--write/--dry-run", default=False, help="Repair the table, or only show what it takes (default).")
@click.option("--deep", is_flag=True, help="Also read all files of the table, to find those with flipped bits.")
@click.option("--accept-loss", is_flag=True, help="Publish even if some documents cannot be had any more.")
def repair(config: str, overrides: tuple[str, ...], write: bool, deep: bool, accept_loss: bool) -> None:
    """Have the rows of lost or damaged files of CONFIG's table again, at the cost of these rows.

    Missing files and wrong sizes are found by one listing, flipped bits with --deep. Without --write it only shows what
    is lost and how many rows would be embedded.

    It reads the shards that had rows in lost files, embeds these rows under new names and publishes one snapshot. It
    overwrites and deletes nothing. Older snapshots that need the lost files stay damaged until `expire` removes them.
    Documents that have left the corpus cannot be had again: they are listed, and without --accept-loss nothing is
    written. Side files and indexes of the snapshot are made anew from data files and corpus.

    It may run at any time and be killed at any moment: the same command does the rest.

    Exit codes: 0 done, 1 failed or documents would be lost, 2 the command or config is wrong, 130 stopped by Ctrl-C,
    143 by SIGTERM.
    """
    with report_errors(changes=write, stopped=_last_words_of_repair if write else NOTHING):
        click.echo(api.repair(config, overrides, write=write, deep=deep, accept_loss=accept_loss).describe())


def _last_words_of_repair() -> str:
    if interrupt.published is None:
        return interrupt.state()
    return f"snapshot {interrupt.published} is published; the same command finds out whether anything is left to do"


KEEPING = (repair, compact, expire, promote)
