"""The ids that the table has of shards, with the column to order by: what rows that are read today are compared with.

Rounds of tasks: read what the table has of the changed and vanished shards, then, of unchanged shards, the rows with
ids that these have or that are read today; with a column to order by, tasks over data files then add its values. Only
data files with such rows are opened, each by one task. Each task deals its rows to the next one; none come to the
driver. Decides nothing.
"""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import chain
from typing import Any, NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from sfr_batch.format import names
from sfr_batch.format.file_values import gather_values
from sfr_batch.format.hashes import Hashes, halves, hash_ids
from sfr_batch.format.indexes import Entries, PartReader, columns_of_entries, entries_of, read_ahead, read_owned
from sfr_batch.format.layout import Layout
from sfr_batch.format.parquet import read_data_file, read_rejects
from sfr_batch.format.records import KEPT, IndexPart, Receipt, rows_in
from sfr_batch.planning.join import split_by
from sfr_batch.planning.last_rows import ID, KIND, MORE, ORDER, SHARD, RowKind
from sfr_batch.planning.plan import EmbedPlan
from sfr_batch.planning.scan import OldShard
from sfr_batch.storage.executor import ROWS_A_TASK, Executor, grouped, partitioned
from sfr_batch.storage.store import Store

FirstHalves = NDArray[np.uint64]
"""[n] first halves of hashes of ids."""
TableRows = NDArray[np.void]
"""[n] of `_ROW`."""

_ROW = np.dtype(
    [(ID, np.uint64), (MORE, np.uint64), (KIND, np.uint8), (SHARD, np.int32), ("file", np.int32), ("row", np.int32)]
)
"""A row of the table as in `last_rows`; and the data file with its vector, -1 if there is none, and its row there."""
_NO_FILE = -1
_FILE_TASKS = 16
"""As many tasks read values of large tables, even if few rows are looked at: these may be in all data files."""


class TableSource(NamedTuple):
    """What lists documents of a shard. shard: its number; kind: that of its documents with vectors; rejects: whether it
    lists rejected rows, too."""

    shard: int
    documents: Receipt | IndexPart
    kind: RowKind
    rejects: bool


@dataclass(frozen=True)
class Reading:
    """What every task needs to know. Secrets in the store are references, not values."""

    store: Store
    layout: Layout
    fingerprint: str
    files: Mapping[str, int]
    """Numbers of the data files of the base snapshot, by split id."""
    order_by: str | None
    """The column to order by, if there is one."""
    partitions: int
    file_tasks: int
    """Number of tasks that read values; 0: there is no column to order by."""

    def dealt(self, rows: TableRows) -> list[Any]:
        """The rows for each task of the next round: of tasks that read values as `TableRows`, else of partitions as
        tables."""
        if not self.file_tasks:
            return dealt(_as_table(rows), self.partitions)
        number = np.where(rows["file"] < 0, rows[ID] % np.uint64(self.file_tasks), rows["file"] % self.file_tasks)
        return split_by(number.astype(np.int64), rows, self.file_tasks)


def dealt(rows: pa.Table, partitions: int) -> list[pa.Table]:
    """[partitions] the rows of each partition, by the column `ID`."""
    if partitions == 1:
        return [rows]
    its = split_by(_partition_of(rows.column(ID).to_numpy(), partitions), np.arange(rows.num_rows), partitions)
    return [rows.take(pa.array(some)) for some in its]


def _partition_of(ids: FirstHalves, partitions: int) -> NDArray[np.int64]:
    return (ids % np.uint64(partitions)).astype(np.int64)


def ids_to_read(plan: EmbedPlan) -> int:
    """Rows of unchanged shards whose ids are read from the table, to decide which of the rows of an id counts."""
    return sum(record.read for record in plan.carried) if plan.settles_ids and plan.duplicate_rule else 0


def deal_table(
    plan: EmbedPlan,
    executor: Executor,
    numbers: Mapping[str, int],
    today: Sequence[Sequence[Any]],
    partitions: int,
    least: int,
) -> list[list[Any]]:
    """Read what the table has of the ids that the run looks at; under another rule than the table's, of all ids.

    numbers: of all shards, by URI. today: handles of the rows that are read today, tables with a column `ID`, by task
    and partition. Their ids, and those that the table has of the changed and vanished shards, are looked at. least:
    fewest rows of a task, see `partitioned`. Returns handles of tables with the columns of `last_rows`, but for the
    position, by task and partition. Tasks raise TableError, StorageError.
    """
    if plan.base is None or not plan.carried:
        return []
    receipts = plan.base_receipts
    staying = {record.uri for record in plan.staying}
    old = [shard for shard in plan.old if shard.record.uri not in staying | {KEPT}]
    carried = plan.shards_of(record.uri for record in plan.carried if record.uri != KEPT)
    before = [
        *_sources(old, RowKind.BEFORE, numbers),
        *_sources(plan.shards_of(staying), RowKind.STAYING, numbers),
    ]
    sources = _sources(carried, RowKind.UNCHANGED, numbers)
    order_by = plan.duplicate_rule.order_by if plan.duplicate_rule else None
    vectors = sum(receipt.vectors for receipt in receipts)
    file_tasks = max(partitions, min(_FILE_TASKS, -(-vectors // ROWS_A_TASK))) if order_by else 0
    parts = file_tasks or partitions
    files = {receipt.split_id: number for number, receipt in enumerate(receipts)}
    reading = executor.share(
        Reading(plan.store, plan.layout, plan.card.fingerprint, files, order_by, partitions, file_tasks)
    )
    found: list[list[Any]] = []
    touched: list[Any] = []
    if plan.rule_changed:
        sources = [*before, *sources]
    else:
        looked_at: list[list[Any]] = []
        for some in _tasks(before, 2 * least):  # an id has fewer bytes than other records, see ROWS_A_PART
            _, *handles = executor.submit(read_before, some, reading, returns=1 + partitions + parts)
            looked_at.append(handles[:partitions])
            found.append(handles[partitions:])
        for number in range(partitions):
            touched += executor.submit(find_touched, *(its[number] for its in (*today, *looked_at)))
        del looked_at  # handles keep results in memory
    _, many = partitioned(sum(rows_in(source.documents) for source in sources))
    for some in _tasks(sources, max(least, many)):
        found.append(executor.submit(read_rows, some, reading, *touched, returns=1 + parts)[1:])
    if not file_tasks:
        return found
    valued = []
    for number in range(file_tasks):
        its = (task[number] for task in found)
        own = receipts[number::file_tasks]
        valued.append(executor.submit(read_values, own, reading, *its, returns=1 + partitions)[1:])
    return valued


def _sources(shards: Iterable[OldShard], kind: RowKind, numbers: Mapping[str, int]) -> list[TableSource]:
    return [
        TableSource(
            numbers[shard.record.uri],
            source,
            kind,
            bool(shard.record.rejected and (isinstance(source, IndexPart) or source.rejected)),
        )
        for shard in shards
        for source in shard.sources
    ]


def _tasks(sources: Sequence[TableSource], least: int) -> Iterator[list[TableSource]]:
    return grouped(sources, [rows_in(source.documents) for source in sources], max(ROWS_A_TASK, least))


def read_before(sources: Sequence[TableSource], reading: Reading) -> tuple[Any, ...]:
    """A task over changed and vanished shards. Returns None, then for each partition first halves of all ids, those of
    rejected rows among them, then the documents with vectors for each task of the next round."""
    rows = np.concatenate([np.empty(0, _ROW), *_documents(sources, reading)])
    lost = [ids[:, 0] for _, ids in _rejected(sources, reading.store)]
    ids = np.concatenate([rows[ID], *lost])
    return None, *split_by(_partition_of(ids, reading.partitions), ids, reading.partitions), *reading.dealt(rows)


def find_touched(*parts: pa.Table | FirstHalves) -> FirstHalves:
    """A task: the ids of a partition that are looked at, sorted. parts: what is read today as tables, then ids of the
    table."""
    return np.unique(
        np.concatenate(
            [
                np.empty(0, np.uint64),
                *(part.column(ID).to_numpy() if isinstance(part, pa.Table) else part for part in parts),
            ]
        )
    )


def read_rows(sources: Sequence[TableSource], reading: Reading, *touched: FirstHalves) -> tuple[Any, ...]:
    """A task. Returns None, then the rows for each task of the next round, rejected ones of unchanged shards among
    them. touched: the ids of each partition that are looked at, of `find_touched`; none: all."""
    found = [np.empty(0, _ROW)]
    waiting: list[TableRows] = []
    held = 0
    for rows in chain(_documents(sources, reading), _rejects(sources, reading)):
        waiting.append(rows)
        held += len(rows)
        if held >= ROWS_A_TASK:  # shards may have few rows, and there may be many partitions
            found.append(_among(np.concatenate(waiting), touched))
            waiting, held = [], 0
    found.append(_among(np.concatenate([np.empty(0, _ROW), *waiting]), touched))
    return None, *reading.dealt(np.concatenate(found))


def _among(rows: TableRows, touched: Sequence[FirstHalves]) -> TableRows:
    """The rows with ids that are looked at."""
    if not touched:
        return rows
    found = np.zeros(len(rows), np.bool_)
    numbers = split_by(_partition_of(rows[ID], len(touched)), np.arange(len(rows)), len(touched))
    for its, ids in zip(numbers, touched, strict=True):
        if len(ids) and len(its):
            wanted = rows[ID][its]
            found[its] = ids[np.minimum(np.searchsorted(ids, wanted), len(ids) - 1)] == wanted
    chosen: TableRows = rows[found]
    return chosen


def read_values(receipts: Sequence[Receipt], reading: Reading, *parts: TableRows) -> tuple[Any, ...]:
    """A task: the rows with their values of the column to order by, null without a vector. Returns None, then tables
    for each partition. receipts: of every ``file_tasks``-th data file, in which the rows are; only those with rows are
    read."""
    rows = np.concatenate([np.empty(0, _ROW), *parts])
    column = reading.order_by
    assert column is not None

    def read(number: int) -> pa.ChunkedArray:
        found = read_data_file(reading.store, receipts[number], [column], reading.fingerprint, reading.layout)
        return found.column(column)

    file = np.where(rows["file"] < 0, _NO_FILE, rows["file"] // reading.file_tasks)
    kind = reading.layout.schema.field(column).type
    values = gather_values(read, file, rows["row"], kind, [receipt.vectors for receipt in receipts])
    return None, *dealt(_as_table(rows).append_column(ORDER, values), reading.partitions)


def _as_table(rows: TableRows) -> pa.Table:
    return pa.table({name: rows[name].copy() for name in (ID, MORE, KIND, SHARD)})


def _documents(sources: Sequence[TableSource], reading: Reading) -> Iterator[TableRows]:
    """The documents with vectors of each source."""
    files = reading.files
    indexes = PartReader(reading.store, columns_of_entries(hashes=False))

    def read(source: TableSource) -> Entries:
        if isinstance(source.documents, Receipt):
            return read_owned(reading.store, source.documents, reading.layout, reading.fingerprint, hashes=False)
        return entries_of(indexes.read(source.documents)).within(files)

    several = read_ahead(read, sources, [rows_in(source.documents) for source in sources])
    for source, entries in zip(sources, several, strict=True):
        rows = np.zeros(len(entries), _ROW)
        rows[ID], rows[MORE] = entries.ids[:, 0], entries.ids[:, 1]
        rows[KIND], rows[SHARD] = source.kind, source.shard
        rows["file"] = np.array([files[split_id] for split_id in entries.split_ids], np.int32)[entries.files]
        rows["row"] = entries.row
        yield rows


def _rejects(sources: Sequence[TableSource], reading: Reading) -> Iterator[TableRows]:
    """The rejected rows of unchanged shards that have an id."""
    for source, ids in _rejected([its for its in sources if its.kind == RowKind.UNCHANGED], reading.store):
        rows = np.zeros(len(ids), _ROW)
        rows[ID], rows[MORE] = ids[:, 0], ids[:, 1]
        rows[KIND], rows[SHARD], rows["file"] = RowKind.REJECTED, source.shard, _NO_FILE
        yield rows


def _rejected(
    sources: Sequence[TableSource], store: Store, but: Sequence[str] = ()
) -> Iterator[tuple[TableSource, Hashes]]:
    """The sources with rejected rows that have an id, and the hashes of these ids. but: reasons that do not count."""
    indexes = PartReader(store, [names.ID, names.REASON])

    def read(source: TableSource) -> pa.ChunkedArray:
        if isinstance(source.documents, Receipt):
            found = read_rejects(store, source.documents, published=True)
        else:
            found = indexes.read(source.documents)
            found = found.filter(pc.is_valid(found.column(names.REASON)))
        wanted = pc.invert(pc.is_in(found.column(names.REASON), pa.array(but, pa.string())))
        return found.column(names.ID).filter(wanted)

    some = [source for source in sources if source.rejects]
    several = read_ahead(read, some, [rows_in(source.documents) for source in some])
    for source, ids in zip(some, several, strict=True):
        known = ids.drop_null()
        if len(known):
            yield source, halves(hash_ids(known.to_pylist()))


def read_rejected(plan: EmbedPlan, shards: Sequence[OldShard], but: Sequence[str] = ()) -> Iterator[tuple[str, Hashes]]:
    """The shards that have rejected rows with an id, and the hashes of these ids. but: reasons that do not count."""
    uris = [shard.record.uri for shard in shards]
    sources = _sources(shards, RowKind.UNCHANGED, {uri: number for number, uri in enumerate(uris)})
    for source, ids in _rejected(sources, plan.store, but):
        yield uris[source.shard], ids
