"""What changes the files of a table and never its rows: expire, compact and sweep, as `EmbeddingTable.maintenance`."""

from collections.abc import Callable, Collection

from sfr_batch.storage.executor import Executor
from sfr_batch.table.arguments import whole_number
from sfr_batch.table.choices import MAX_UNNEEDED, ROWS_PER_FILE
from sfr_batch.table.commit.compaction import Compaction, compact
from sfr_batch.table.commit.expiry import Expiry, expire, parse_duration
from sfr_batch.table.commit.sweep import Orphans, find_orphans, sweep
from sfr_batch.table.table import Table


class Maintenance:
    """What changes the files of a table and never its rows; see `EmbeddingTable.maintenance`.

    Each method only reports what it would do unless ``dry_run=False`` is given. Each may be killed at any moment: the
    same call does the rest.
    """

    def __init__(self, table: Table) -> None:
        self._table = table

    def expire(
        self,
        *,
        keep_last: int | None = None,
        keep_for: str | None = None,
        keep: Collection[int] = (),
        dry_run: bool = True,
    ) -> Expiry:
        """Remove old snapshots, and the files that only they need, see `sfr_batch.table.commit.expiry`.

        A snapshot stays if any rule keeps it, and the newest always does. keep_last: number of states. keep_for: age
        such as ``30d``, ``36h`` or ``90m``. keep: numbers of snapshots. Raises ConfigError, TableNotFound,
        SnapshotConflict.
        """
        keep_last = None if keep_last is None else whole_number("keep_last", keep_last, 1)
        keep_for = None if keep_for is None else str(keep_for)  # what is no age is refused
        return expire(self._table, keep_last=keep_last, keep_for=keep_for, keep=keep, dry_run=dry_run)

    def compact(
        self,
        *,
        rows_per_file: int = ROWS_PER_FILE,
        max_unneeded: float = MAX_UNNEEDED,
        dry_run: bool = True,
        say: Callable[[str], None] = lambda text: None,
        executor: Executor | None = None,
    ) -> Compaction:
        """Rewrite small data files, and files with many unneeded rows, as fewer files. Needs no model.

        rows_per_file: vectors of a new data file at most; files with at most half as many are joined. max_unneeded:
        share, in 0 to 1, of unneeded rows above which a file is rewritten. say: is called once if it has to wait for a
        run that may be dead. executor: of `sfr_batch.on_ray`; writes the files on a cluster. Raises TableNotFound,
        TableInUse, SnapshotConflict.
        """
        return compact(
            self._table,
            rows_per_file=rows_per_file,
            max_unneeded=max_unneeded,
            dry_run=dry_run,
            say=say,
            executor=executor,
        )

    def sweep(self, *, older_than: str = "7d", dry_run: bool = True) -> Orphans:
        """Remove objects that no snapshot names: leftovers of runs that died or lost a race.

        older_than: their least age, such as ``7d``, ``36h`` or ``90m``. Raises ConfigError, SnapshotConflict.
        """
        seconds = parse_duration(str(older_than), "older_than")  # what is no age is refused
        if not dry_run:
            return sweep(self._table, older_than_s=seconds)
        base = self._table.latest()
        now = self._table.store.clock()
        return find_orphans(self._table, base, now - seconds, now) if base else Orphans()
