"""What a plan says for people beyond its counts: a sentence for each thing that they may not expect.

Pure functions of URIs and counts; knows no plan.
"""

from collections.abc import Iterable, Sequence

from sfr_batch.corpus.survey import ShardStatistics
from sfr_batch.errors import counted
from sfr_batch.format.records import ChangeCounts, DuplicateRule, ShardRecord
from sfr_batch.planning.difference import Difference
from sfr_batch.table.table import Snapshot


def touched(uris: Sequence[str]) -> str:
    """Shards that are read for their ctime alone."""
    return (
        f"{counted(len(uris), 'shard')}, e.g. {uris[0]}, read again: its ctime has changed without its size and mtime, "
        "so the content may be another one. Rows that stay the same are not embedded again. Where files are copied or "
        "unpacked for each run, set corpus.ctime: false"
    )


def by_time(uris: Sequence[str]) -> str:
    """Shards on S3 whose versions are no ETags."""
    return (
        f"version of {counted(len(uris), 'S3 object')}, e.g. {uris[0]}: size and time of modification, because the "
        "store gives no ETag, or in its listing another one than for the object"
    )


def accepts(inputs: Iterable[str]) -> str:
    """What the next run does in a table that does not record all inputs of its fingerprint."""
    return (
        "an older release has made this table: the next `embed` that writes embeds some of its rows again to see "
        f"whether {' and '.join(inputs)} are still those of its vectors, and records them"
    )


def newly_read(uris: Sequence[str]) -> str:
    """Files that earlier releases did not read."""
    return (
        f"{counted(len(uris), 'file')} that earlier releases passed over without a word, e.g. {uris[0]}, "
        f"{'is' if len(uris) == 1 else 'are'} read from now on"
    )


def unpublished(files: int, *, packs: bool) -> str:
    """What a first run that was interrupted has left, and this plan cannot take over as it is. packs: whether it goes
    on with packs."""
    what = f"{counted(files, 'data file')} of an interrupted run are of"
    if packs:
        return f"{what} packs with shards that have changed since: these packs are embedded anew"
    taken = "rows with the same id and text take their vectors"
    return f"{what} shards that were others then, or were read otherwise: {taken}"


def packed(shards: int, packs: int) -> str:
    """How many shards are small and packed, behind their total."""
    return f", {shards:,} small ones in {counted(packs, 'pack')}" if shards else ""


def taken(rows: int, *, first: bool) -> str:
    """Rows that take vectors that no snapshot has. first: whether there is no snapshot yet."""
    older = "" if first else ", or that had left the table"
    return f"{counted(rows, 'row')} not embedded again: they take vectors that an interrupted run has made{older}"


def lender(snapshot: Snapshot, difference: Difference | None) -> str:
    """The table that lends vectors; after the comparison also how many rows take them."""
    if difference is None:
        return f"vectors of texts that {snapshot.store.root} has are copied from there ({snapshot.brief()})"
    return f"{counted(difference.borrowed, 'row')} not embedded: their vectors are copied from {snapshot.store.root}"


def ids_first(
    rule: DuplicateRule | None, surveys: Sequence[ShardStatistics], carried: Iterable[ShardRecord], *, exact: bool
) -> str:
    """What is read to decide which rows count. exact: whether the rows of the surveyed shards are known."""
    if rule is None:
        return "the table keeps the last row of an id: the shards of its other rows are read, and the rows embedded"
    columns = "ids" + (f" and {rule.order_by}" if rule.order_by else "")
    rows = counted(sum(survey.rows for survey in surveys), "row")
    known = sum(record.read for record in carried)
    of_table = f", and those of {counted(known, 'row')} of unchanged shards from the table" if known else ""
    return (
        f"before anything is embedded, {columns} of {'' if exact else '~'}{rows} in {counted(len(surveys), 'shard')} "
        f"are read{of_table}: of rows with one id only the last is embedded (table.duplicate_ids)"
    )


def format_changes(changes: ChangeCounts, *, keeps: bool = False) -> str:
    """The counts as text: `3 new, 10 changed, 5 deleted, 982 unchanged`.

    keeps: whether documents stay that left the corpus (`table.delete: keep`); only rejects are deleted then.
    """
    counts = {
        "new": changes.new,
        "changed": changes.changed,
        "with other carried columns": changes.copied,
        "gone or rejected" if keeps else "deleted": changes.deleted,
        "unchanged": changes.unchanged,
    }
    return ", ".join(f"{number:,} {what}" for what, number in counts.items() if number or "carried" not in what)
