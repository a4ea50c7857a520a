"""Commands that keep tables in order over time: `expire`."""

import click

from sfr_batch import api
from sfr_batch.command_line import ENDPOINT, show_objects, telling_errors
from sfr_batch.config import StorageSettings
from sfr_batch.retention import Expiry


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
    the newest state always does. A state is what one `embed` has published; it is as old as the state after it, for
    until then it was the newest and may have been opened. --keep holds for this command alone: a nightly one must name
    the snapshot every time.

    Before anything is deleted a snapshot is published that says which ones are gone, so that readers are told and a
    run under way plans again. It may be killed: the same command does the rest. Nothing that a snapshot that stays
    needs is ever removed.

    Exit codes: 0 done, 1 it failed, 2 the command is wrong.
    """
    with telling_errors():
        opened = api.open_table(table, StorageSettings(endpoint_url=endpoint_url))
        expiry = opened.expire(keep_last=keep_last, keep_for=keep_for, keep=keep, dry_run=not delete)
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


KEEPING = (expire,)
"""All of them."""
