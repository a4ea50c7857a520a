"""The ids that the table has of shards, with the column to order by: what rows that are read today are compared with.

Reads hashes of ids, rejects, and the column to order by of the data files in question; in this process, as publishing
does. Knows which shards are unchanged; decides nothing.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from sfr_batch.format import names
from sfr_batch.format.file_values import gather_values
from sfr_batch.format.hashes import Hashes, halves, hash_ids
from sfr_batch.format.indexes import Entries, PartReader, columns_of_entries, entries_of, read_ahead, read_owned
from sfr_batch.format.parquet import read_data_file, read_rejects
from sfr_batch.format.records import KEPT, IndexPart, Receipt, rows_in
from sfr_batch.planning.last_rows import ID, KIND, MORE, ORDER, POSITION, SHARD, RowKind
from sfr_batch.planning.plan import EmbedPlan
from sfr_batch.planning.scan import OldShard

_ROW = np.dtype(
    [("id", np.uint64), ("more", np.uint64), ("kind", np.uint8), ("shard", np.int32), (POSITION, np.int64),
     ("file", np.int32), ("row", np.int64)]
)  # fmt: skip
"""A row of the table as in `last_rows`; and the data file with its vector, -1 if there is none, and its row there."""
_NO_FILE = -1


@dataclass(frozen=True)
class TableIds:
    """Rows of the table. unchanged: first halves of the hashes of the ids with a vector in unchanged shards, sorted."""

    rows: NDArray[np.void]
    order: pa.Array | None
    unchanged: NDArray[np.uint64]

    def partition(self, number: int, partitions: int) -> pa.Table | None:
        """The rows of one partition with the columns of `last_rows`; None if the table has none at all."""
        if not len(self.rows):
            return None
        chosen = np.flatnonzero(self.rows["id"] % np.uint64(partitions) == number)
        some = self.rows[chosen]
        columns = {name: some[name].copy() for name in (ID, MORE, KIND, SHARD, POSITION)}
        return pa.table(columns | ({} if self.order is None else {ORDER: self.order.take(pa.array(chosen))}))


def read_table_ids(plan: EmbedPlan, numbers: Mapping[str, int], seen: Sequence[NDArray[np.uint64]]) -> TableIds:
    """Read what the table has of the ids that the run looks at; under another rule than the table's, of all ids.

    numbers: of all shards, by URI. seen: first halves of the hashes of the ids in the shards that are read. Those that
    the table has of them and of the vanished shards are looked at, too. Raises TableError, StorageError.
    """
    nothing = TableIds(np.empty(0, _ROW), None, np.empty(0, np.uint64))
    if plan.base is None or not plan.carried:
        return nothing
    old = [shard for shard in plan.old if shard.record.uri != KEPT]
    carried = plan.shards_of(record.uri for record in plan.carried if record.uri != KEPT)
    files = {receipt.split_id: number for number, receipt in enumerate(plan.base_receipts)}
    before = list(_documents(plan, old, RowKind.BEFORE, numbers, files))
    lost = [ids[:, 0] for _, ids in read_rejected(plan, old)]
    touched = None
    if not plan.rule_changed:
        touched = np.unique(np.concatenate([np.empty(0, np.uint64), *seen, *(rows["id"] for rows in before), *lost]))
    found = [_among(rows, touched) for rows in _documents(plan, carried, RowKind.UNCHANGED, numbers, files)]
    rejects = []
    for uri, ids in read_rejected(plan, carried):
        rows = np.zeros(len(ids), _ROW)
        rows["id"], rows["more"], rows["shard"] = ids[:, 0], ids[:, 1], numbers[uri]
        rows["kind"], rows["file"] = RowKind.REJECTED, _NO_FILE
        rejects.append(_among(rows, touched))
    unchanged = np.unique(np.concatenate([np.empty(0, np.uint64), *(rows["id"] for rows in found)]))
    rows = np.concatenate([np.empty(0, _ROW), *before, *found, *rejects])
    rule = plan.duplicate_rule
    return TableIds(rows, _values(plan, rows, rule.order_by) if rule and rule.order_by else None, unchanged)


def _among(rows: NDArray[np.void], touched: NDArray[np.uint64] | None) -> NDArray[np.void]:
    """The rows with ids that are looked at. touched: sorted; None: all."""
    if touched is None:
        return rows
    if not len(touched):
        return rows[:0]
    at = np.minimum(np.searchsorted(touched, rows["id"]), len(touched) - 1)
    return np.asarray(rows[touched[at] == rows["id"]])


def _documents(
    plan: EmbedPlan, shards: Sequence[OldShard], kind: RowKind, numbers: Mapping[str, int], files: Mapping[str, int]
) -> Iterator[NDArray[np.void]]:
    """The documents with vectors of the shards, as records. files: numbers of the data files by split id."""

    indexes = PartReader(plan.store, columns_of_entries(hashes=False))

    def read(source: Receipt | IndexPart) -> Entries:
        if isinstance(source, Receipt):
            return read_owned(plan.store, source, plan.layout, plan.card.fingerprint, hashes=False)
        return entries_of(indexes.read(source)).within(files)

    sources = [(shard.record.uri, source) for shard in shards for source in shard.sources]
    several = [source for _, source in sources]
    before: dict[str, int] = {}
    for (uri, _), entries in zip(sources, read_ahead(read, several, list(map(rows_in, several))), strict=True):
        rows = np.zeros(len(entries), _ROW)
        rows["id"], rows["more"] = entries.ids[:, 0], entries.ids[:, 1]
        rows["kind"], rows["shard"] = kind, numbers[uri]
        first = before.get(uri, 0)
        rows[POSITION] = np.arange(first, first + len(rows))
        rows["file"] = np.array([files[split_id] for split_id in entries.split_ids], np.int32)[entries.files]
        rows["row"] = entries.row
        before[uri] = first + len(rows)
        yield rows


def read_rejected(plan: EmbedPlan, shards: Sequence[OldShard], but: Sequence[str] = ()) -> Iterator[tuple[str, Hashes]]:
    """The shards that have rejected rows with an id, and the hashes of these ids. but: reasons that do not count."""

    indexes = PartReader(plan.store, [names.ID, names.REASON])

    def read(source: Receipt | IndexPart) -> pa.ChunkedArray:
        if isinstance(source, Receipt):
            found = read_rejects(plan.store, source, published=True)
        else:
            found = indexes.read(source)
            found = found.filter(pc.is_valid(found.column(names.REASON)))
        wanted = pc.invert(pc.is_in(found.column(names.REASON), pa.array(but, pa.string())))
        return found.column(names.ID).filter(wanted)

    sources = [
        (shard.record.uri, source)
        for shard in shards
        if shard.record.rejected
        for source in shard.sources
        if isinstance(source, IndexPart) or source.rejected
    ]
    several = [source for _, source in sources]
    for (uri, _), ids in zip(sources, read_ahead(read, several, list(map(rows_in, several))), strict=True):
        known = ids.drop_null()
        if len(known):
            yield uri, halves(hash_ids(known.to_pylist()))


def _values(plan: EmbedPlan, rows: NDArray[np.void], column: str) -> pa.Array:
    """[n] the values of a column of the table; null for rows without a vector. Only the files of the rows are read."""
    receipts = plan.base_receipts

    def read(number: int) -> pa.ChunkedArray:
        return read_data_file(plan.store, receipts[number], [column], plan.card.fingerprint, plan.layout).column(column)

    kind = plan.layout.schema.field(column).type
    return gather_values(read, rows["file"], rows["row"], kind, [receipt.vectors for receipt in receipts])
