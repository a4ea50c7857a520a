"""Commands that keep tables in order over time: `compact`, `expire`, `promote`."""

import click

from sfr_batch import api
from sfr_batch.cli.options import ENDPOINT, report_errors, show_objects
from sfr_batch.config.settings import StorageSettings
from sfr_batch.errors import ConfigError
from sfr_batch.table.commit.compaction import MAX_UNNEEDED, ROWS_PER_FILE
from sfr_batch.table.commit.expiry import Expiry


@click.command()
@click.argument("table")
@click.option("--keep-last", type=click.IntRange(1), metavar="N", help="Keep the last N states.")
@click.option("--keep-for", metavar="AGE", help="Keep what was the newest state within this time: 30d, 36h or 90m.")
@click.option("--keep", multiple=True, type=int, metavar="NUMBER", help="Keep this snapshot too; repeatable.")
@click.option("--delete/--dry-run", default=False, help="Remove them, or only say what would go (default).")
@ENDPOINT
def expire(
    table: str,
    keep_last: int | None,
    keep_for: str | None,
    keep: tuple[int, ...],
    delete: bool,
    endpoint_url: str | None,
) -> None:
    """Remove old snapshots of TABLE, with the files that only they need.

    Only says what it would remove unless --delete is given. A snapshot stays if --keep-last or --keep-for says so, and
    the newest state always does. A state is what one `embed` or compaction has published; it is as old as the state
    after it, for until then it was the newest and may have been opened. --keep holds for this command alone: a nightly
    one must name the snapshot every time.

    Before anything is deleted a snapshot is published that says which ones are gone, so that readers are told and a
    run under way plans again. It may be killed: the same command does the rest. Nothing that a snapshot that stays
    needs is ever removed.

    Exit codes: 0 done, 1 it failed, 2 the command is wrong.
    """
    with report_errors():
        opened = api.open_table(table, StorageSettings(endpoint_url=endpoint_url), follow=False)
        expiry = opened.maintenance.expire(keep_last=keep_last, keep_for=keep_for, keep=keep, dry_run=not delete)
        show_objects(expiry.objects)
        click.echo(_told(expiry, delete))


def _told(expiry: Expiry, delete: bool) -> str:
    if not expiry.kept:
        return "Nothing is published yet, so there is nothing to expire."
    stay = f"{_numbers(expiry.kept)} {'stay' if len(expiry.kept) > 1 else 'stays'}"
    what = f"{len(expiry.objects):,} objects, {expiry.bytes:,} bytes"
    if not expiry.snapshots and not expiry.objects:
        return f"No snapshot is old enough to expire: {stay}."
    which = f"{_numbers(expiry.snapshots)} with " if expiry.snapshots else "what an earlier expiry had left: "
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
@click.option("--snapshot", type=click.IntRange(1), help="Pin this snapshot; default: whatever is the newest.")
@click.option("--expect-current", metavar="TABLE", help="Only if the pointer points to this table now.")
@click.option("--back", "go_back", is_flag=True, help="Instead: return to where it pointed before.")
@ENDPOINT
def promote(
    pointer: str,
    table: str | None,
    snapshot: int | None,
    expect_current: str | None,
    go_back: bool,
    endpoint_url: str | None,
) -> None:
    """Let POINTER point to TABLE: readers that are given POINTER read that table from now on.

    POINTER is a folder or s3:// prefix of its own, beside the tables; it is made if there is none. status, search,
    snapshots, export, changes, view, audit and sfr_batch.open_table follow it. Each sees the table before or TABLE, and
    one that is reading stays with what it has opened. Whoever writes (embed, sweep, expire) names the table itself.

    \b
        sfr-batch promote s3://bucket/current s3://bucket/green
        sfr-batch promote s3://bucket/current --back       # and again: to the one before that

    If two promote at once, the later one wins; with --expect-current it is told instead, and nothing changes. A
    snapshot that is pinned here is not protected from `expire`: give that --keep NUMBER.

    Exit codes: 0 done, 1 it failed or the pointer points elsewhere than expected, 2 the command is wrong.
    """
    with report_errors():
        storage = StorageSettings(endpoint_url=endpoint_url)
        if go_back:
            if table or snapshot or expect_current:
                raise ConfigError("--back goes with POINTER alone.")
            click.echo(f"{api.promote_back(pointer, storage=storage).describe()}.")
            return
        if table is None:
            raise ConfigError("Name the TABLE to point to, or --back. `sfr-batch status POINTER` says where it points.")
        moved = api.promote(pointer, table, snapshot=snapshot, expect_current=expect_current, storage=storage)
        click.echo(f"{moved.describe()}.")


@click.command()
@click.argument("table")
@click.option(
    "--rows-per-file",
    default=ROWS_PER_FILE,
    show_default=True,
    type=click.IntRange(1),
    help="Vectors of a new data file at most; files with at most half as many are joined.",
)
@click.option(
    "--max-unneeded",
    default=MAX_UNNEEDED,
    show_default=True,
    type=click.FloatRange(0, 1),
    help="A file with a larger share of rows that nobody needs is rewritten in any case.",
)
@click.option("--write/--dry-run", default=False, help="Do it, or only say what would be done (default).")
@ENDPOINT
def compact(table: str, rows_per_file: int, max_unneeded: float, write: bool, endpoint_url: str | None) -> None:
    """Write the small data files of TABLE, and those with many rows that nobody needs, as fewer; no model is needed.

    Only says what it would do unless --write is given. Publishes a snapshot with the same rows; whoever reads an older
    one is not disturbed. The old files stay for the older snapshots: `expire` removes them. It holds the table's lease,
    so a run at the same time is refused, and may be killed: the same command does the rest.

    Exit codes: 0 done, 1 it failed, 2 the command is wrong.
    """
    with report_errors():
        opened = api.open_table(table, StorageSettings(endpoint_url=endpoint_url), follow=False)
        found = opened.maintenance.compact(
            rows_per_file=rows_per_file,
            max_unneeded=max_unneeded,
            dry_run=not write,
            say=lambda text: click.echo(text, err=True),
        )
        click.echo(found.describe())


KEEPING = (compact, expire, promote)
"""All of them."""
