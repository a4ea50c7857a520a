"""Where the vectors are that a run has made, for the rows of one scan task. Reads rejects and chunk numbers only."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from sfr_batch.errors import TableError
from sfr_batch.format import names
from sfr_batch.format.indexes import first_rows
from sfr_batch.format.parquet import embed_again, read_data_file, read_rejects
from sfr_batch.format.records import Receipt
from sfr_batch.planning.decided_rows import DecidedRows, DecidedUnit, Work, marked
from sfr_batch.planning.join import PLACE_DTYPE
from sfr_batch.planning.packed_rows import PackedSplits
from sfr_batch.planning.scan import ScannedUnit, TaskContext
from sfr_batch.storage.store import Store
from sfr_batch.storage.stores import open_store


class MadeRows(NamedTuple):
    """The rows of a packed split in one scan task: from ``start`` to before ``stop`` of its rows for which this
    ``work`` was done."""

    receipt: Receipt
    """Of the split, which is committed."""
    work: Work
    start: int
    stop: int
    before: int
    """Rows of the split in earlier tasks."""
    shards_before: frozenset[str]
    """The URIs of their shards, if rows of the split have no vector."""
    last: bool
    """Whether the split has no rows in later tasks."""


def made_rows(splits: PackedSplits, receipts: Mapping[str, Receipt], task: int) -> Iterator[MadeRows]:
    """The rows of a scan task, by its number, that are in these splits. receipts: by split id."""
    rows, its = splits.rows, splits.rows.of_task(task)
    first = int(np.searchsorted(rows.ends, its.start, "right")) - 1
    for split in range(first, int(np.searchsorted(rows.ends, its.stop))):
        start, end = rows.ends[split : split + 2].tolist()
        if min(end, its.stop) == max(start, its.start):
            continue
        receipt = receipts[splits.split_ids[split]]
        earlier = [part for part in rows.parts(split) if part.task < task] if receipt.rejected else []
        yield MadeRows(
            receipt,
            rows.work,
            max(start, its.start) - its.start,
            min(end, its.stop) - its.start,
            max(0, its.start - start),
            frozenset(part.unit.shard.uri for part in earlier),
            end <= its.stop,
        )


class LateReject(NamedTuple):
    """A row that was to be encoded and got no vector: columns of `names.REJECTS_SCHEMA`."""

    id: str | None
    reason: str
    message: str


@dataclass
class LocatedRows:
    """Rows of a scan task that are in splits of the run, by their numbers in the task.

    rows: those with vectors; places: of their vectors, of `PLACE_DTYPE`, see `locate`; a pair of arrays [k] of each
    split.
    """

    rows: list[NDArray[np.int64]] = field(default_factory=lambda: [np.empty(0, np.int64)])
    places: list[NDArray[np.void]] = field(default_factory=lambda: [np.empty(0, PLACE_DTYPE)])
    failed: dict[int, LateReject] = field(default_factory=dict)
    """The others, which were rejected after they had been compared."""


def locate(
    made: Sequence[MadeRows],
    scanned: Sequence[ScannedUnit],
    decided: DecidedRows,
    units: Sequence[DecidedUnit],
    own_files: int | None,
    first_file: int,
    context: TaskContext,
) -> LocatedRows:
    """Find the vectors of rows of a scan task that the run has made.

    made: of the rows in ``units``. scanned, decided: of all units of the task; own_files: as of `marked`. The splits
    get the file numbers ``first_file`` and following. Raises TableError, StorageError.
    """
    store = open_store(context.table, context.table_storage)
    hashes = {unit.unit: unit for unit in scanned}
    done = {work: _rows(decided, units, work, own_files) for work in {its.work for its in made}}
    found = LocatedRows()
    for file, its in enumerate(made, start=first_file):
        rows, first = done[its.work][its.start : its.stop], its.before
        if its.receipt.rejected:
            lost, before = _lost(its, rows, hashes, units, store)
            found.failed |= lost
            rows, first = rows[~np.isin(rows, list(lost))], first - before
        end = first + len(rows)
        if end > its.receipt.embedded or (its.last and end < its.receipt.embedded):
            raise TableError(
                f"{store.root}/{names.data_key(its.receipt.split_id)} has other rows than were packed into its split. "
                f"{embed_again(its.receipt.split_id)}"
            )
        places = np.empty(len(rows), PLACE_DTYPE)
        places["file"], places["first"], places["vectors"] = file, np.arange(first, end), 1
        if names.CHUNK in context.layout.schema.names:
            data = read_data_file(store, its.receipt, [names.CHUNK], context.fingerprint)
            places["first"], places["vectors"] = (column[first:end] for column in first_rows(data))
        found.rows.append(rows)
        found.places.append(places)
    return found


def _rows(decided: DecidedRows, units: Sequence[DecidedUnit], work: Work, own_files: int | None) -> NDArray[np.int64]:
    """[k] the numbers of all rows of the units for which this was done."""
    its = (u.start + np.flatnonzero(marked(decided[u.start : u.stop], work, own_files)) for u in units)
    return np.concatenate([np.empty(0, np.int64), *its])


def _lost(
    made: MadeRows,
    rows: NDArray[np.int64],
    scanned: Mapping[int, ScannedUnit],
    units: Sequence[DecidedUnit],
    store: Store,
) -> tuple[dict[int, LateReject], int]:
    """Those of the ``rows`` of a split that were rejected, by row number; and how many of its rows in earlier tasks
    were, which are in other shards or come before. scanned: by number of the unit."""
    rejects = {
        (reject[names.SHARD], reject[names.POSITION]): LateReject(
            reject[names.ID], reject[names.REASON], reject[names.MESSAGE]
        )
        for reject in read_rejects(store, made.receipt, published=False).to_pylist()
    }
    lost: dict[int, LateReject] = {}
    firsts: dict[str, int] = {}
    for unit in units:
        its = rows[slice(*np.searchsorted(rows, [unit.start, unit.stop]))]
        if not len(its):
            continue
        positions = scanned[unit.number].hashes.column(names.POSITION).to_numpy()[its - unit.start]
        for row, position in zip(its.tolist(), positions.tolist(), strict=True):
            firsts.setdefault(unit.shard, position)
            if reject := rejects.pop((unit.shard, position), None):
                lost[row] = reject
    before = sum(
        shard in made.shards_before and (shard not in firsts or position < firsts[shard]) for shard, position in rejects
    )
    return lost, before
