"""Compaction: rewrites small data files, and files with many unneeded rows, as fewer files. Needs no model.

Every night leaves a few small packed splits, and files some of whose rows have changed or gone. All rows of the shards
are needed, also duplicates of an earlier id: they become live when the earlier row goes. Shards with rows in a
rewritten file get a new index, and then a snapshot with the same rows is published. The old files stay until the
earlier snapshots expire. Files that an interrupted compaction has committed are found again by their names.
"""

import dataclasses
from array import array
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from sfr_batch.config.settings import RunSettings
from sfr_batch.errors import CountsDoNotClose, counted
from sfr_batch.format import names
from sfr_batch.format.indexes import (
    Located,
    PartReader,
    columns_of_entries,
    entries_of,
    index_of_entries,
    read_ahead,
    read_owned,
    write_index,
)
from sfr_batch.format.layout import Layout
from sfr_batch.format.lineage import Mask, Taken, names_of, taken
from sfr_batch.format.parquet import damage_explained, read_data_file, read_parquet, read_receipts
from sfr_batch.format.records import PACKED, IndexPart, Receipt, TableCard, rows_in
from sfr_batch.format.schemas import described
from sfr_batch.storage.executor import ROWS_A_TASK, Executor, InProcess, check_reach, grouped, in_order
from sfr_batch.storage.parallel import in_parallel
from sfr_batch.storage.store import Store
from sfr_batch.table.choices import MAX_UNNEEDED, ROWS_PER_FILE
from sfr_batch.table.commit import lease
from sfr_batch.table.commit.damage import find_missing, refuse
from sfr_batch.table.commit.documents import file_numbers, rows_of_documents
from sfr_batch.table.commit.draft import Draft
from sfr_batch.table.commit.live_rows import Bits, FileNumbers, LiveRows, Marks, count, mask_of
from sfr_batch.table.commit.publish import conflict_if_superseded, next_number, publish
from sfr_batch.table.commit.writing import commit_split, new_attempt, new_run_id
from sfr_batch.table.table import Snapshot, Table

_PARALLEL_WRITES = 4


@dataclass(frozen=True)
class FileGroup:
    """Data files to be joined into one, in order. needed: for each, a bit for each row, whether it is needed."""

    split_id: str
    sources: tuple[Receipt, ...]
    needed: tuple[Bits, ...]

    @property
    def masks(self) -> Iterator[Mask]:
        """For each file, [vectors] which rows are needed. One at a time: a bit takes a byte there."""
        return (mask_of(bits, source.vectors) for source, bits in zip(self.sources, self.needed, strict=True))

    @property
    def taken(self) -> list[Taken]:
        """Which rows of which files the new file has."""
        return [taken(source.split_id, mask) for source, mask in zip(self.sources, self.masks, strict=True)]

    @property
    def rows(self) -> int:
        """Number of rows of the new file."""
        return sum(map(count, self.needed))


@dataclass(frozen=True)
class Compaction:
    """Which files are rewritten as which. snapshot: the published one, or None if nothing was written."""

    base: Snapshot
    groups: tuple[FileGroup, ...]
    shards: frozenset[str]
    """URIs of the shards that have rows in a rewritten file."""
    snapshot: Snapshot | None = None

    @property
    def files(self) -> int:
        """Number of data files that are rewritten."""
        return sum(len(group.sources) for group in self.groups)

    @property
    def bytes(self) -> int:
        """Size of the data files that are rewritten."""
        return sum(source.size for group in self.groups for source in group.sources)

    @property
    def dropped(self) -> int:
        """Number of unneeded rows in these files."""
        return sum(sum(source.vectors for source in group.sources) - group.rows for group in self.groups)

    def __repr__(self) -> str:
        return f"<Compaction {self.base.store.root}: {self.describe()}>"

    def describe(self) -> str:
        """The compaction as one or two sentences."""
        if not self.groups:
            files = counted(self.base.manifest.files.rows, "data file")
            return f"Nothing to compact in {files} ({self.base.brief()})."
        what = f"{counted(self.files, 'data file')} ({self.bytes:,} bytes) as {len(self.groups):,}"
        what += f", without {counted(self.dropped, 'unneeded row')}" if self.dropped else ""
        if self.snapshot is None:
            return f"Would rewrite {what}. Nothing was written; --write does it."
        return f"Rewrote {what}: {self.snapshot.brief()}. The old files stay until the earlier snapshots expire."


def find_compaction(
    base: Snapshot,
    *,
    rows_per_file: int = ROWS_PER_FILE,
    max_unneeded: float = MAX_UNNEEDED,
    executor: Executor | None = None,
) -> Compaction:
    """Find out what `compact` would do. Reads the indexes.

    rows_per_file: maximum number of vectors in a new data file; files with at most half as many are joined.
    max_unneeded: share of unneeded rows, in 0 to 1, above which a file is always rewritten. executor: runs the tasks
    that read indexes; default: this process. Raises TableError.
    """
    executor = executor or InProcess()
    receipts = base.read_receipts()
    files = FileNumbers.of(receipts, frozenset())
    needed = LiveRows(files)
    for number in (number for number, receipt in enumerate(receipts) if receipt.owned):
        needed.add_file(number)
    used, many = array("i"), array("q", [0])  # the files of each part, 4 bytes each: each shard may have rows in each
    parts = [part for its in base.read_indexes().values() for part in its]
    shared = executor.share(_Pointed(base.store, files))
    calls = ((some, shared) for some in grouped(parts, [part.rows for part in parts], ROWS_A_TASK))
    for found in in_order(executor, _needs_of, calls):
        needed.add(found.marks)
        used.extend(found.used)
        many.extend(found.many)
    condemned = base.read_condemned()
    counts = {split_id: needed.count(number) for split_id, number in files.numbers.items()}
    groups = [
        _group(base, some, [needed.of(files.numbers[receipt.split_id]) for receipt in some], condemned)
        for some in _choose(receipts, counts, rows_per_file, max_unneeded)
    ]
    rewritten = np.zeros(len(receipts), np.bool_)
    rewritten[[files.numbers[source.split_id] for group in groups for source in group.sources]] = True
    until = np.concatenate([[0], np.cumsum(rewritten[np.asarray(used, np.int32)])])[np.cumsum(many)]
    shards = {part.shard for part, some in zip(parts, np.diff(until).tolist(), strict=True) if some}
    shards.update(r.shard for r, its in zip(receipts, rewritten.tolist(), strict=True) if its and r.owned)
    return Compaction(base, tuple(groups), frozenset(shards))


class _Pointed(NamedTuple):
    """What the tasks that read indexes need. files: those that the indexes point into."""

    store: Store
    files: FileNumbers


class _Needs(NamedTuple):
    """What parts of indexes need. marks: the vectors; used: numbers of the files, one part after the other; many:
    [parts] how many of them are of each."""

    marks: Marks
    used: "array[int]"
    many: "array[int]"


def _needs_of(parts: Sequence[IndexPart], pointed: _Pointed) -> _Needs:
    """A task: read parts of indexes. Raises TableError."""
    files, indexes = pointed.files, PartReader(pointed.store, columns_of_entries(hashes=False))
    marks, used, many = list[Marks](), array("i"), array("q")
    read = read_ahead(lambda part: entries_of(indexes.read(part)), parts, [part.rows for part in parts])
    for part, entries in zip(parts, read, strict=True):
        starts = files.starts[file_numbers(entries, files, part)]
        marks.append(Marks.of(rows_of_documents(starts + entries.row, entries.vectors)))
        used.extend(files.numbers[split_id] for split_id in entries.split_ids)
        many.append(len(entries.split_ids))
    return _Needs(Marks.union(marks), used, many)


def compact(
    table: Table,
    *,
    rows_per_file: int = ROWS_PER_FILE,
    max_unneeded: float = MAX_UNNEEDED,
    dry_run: bool = True,
    say: Callable[[str], None] = lambda _: None,
    executor: Executor | None = None,
) -> Compaction:
    """Rewrite data files of the newest snapshot as fewer; see `find_compaction` for the arguments.

    dry_run: change nothing, only return what would be rewritten. Otherwise the table's lease is held. say: called once
    if it has to wait for a run that may be dead. executor: runs the tasks that write files and publish; default: this
    process. Raises TableNotFound if nothing has been published yet, TableInUse, SnapshotConflict, TableError,
    StorageError, ConfigError if the tasks would not see the table.
    """
    if executor:
        check_reach(executor, table.store.root)
    limits: dict[str, Any] = {"rows_per_file": rows_per_file, "max_unneeded": max_unneeded, "executor": executor}
    if dry_run:
        return find_compaction(table.current(), **limits)
    with lease.hold(table.store, lease.Holder.of_this_process(new_run_id()), RunSettings().lease_s, say) as held:
        found = find_compaction(table.current(), **limits)
        return carry_out(table, found, held.confirm, executor)


@dataclass(frozen=True)
class _Work:
    """What the tasks that write files need. layout: of the new files."""

    store: Store
    card: TableCard
    layout: Layout
    run_id: str


def carry_out(
    table: Table, found: Compaction, confirm: Callable[[], None] = lambda: None, executor: Executor | None = None
) -> Compaction:
    """Rewrite the files and publish the same rows. Does nothing if there are no groups.

    confirm: called just before publishing. executor: see `compact`. Raises SnapshotConflict if another writer has
    published since `find_compaction`, which must then be repeated; TableError, CountsDoNotClose.
    """
    if not found.groups:
        return found
    with conflict_if_superseded(table, found.base):
        base, run_id = found.base, new_run_id()
        committed = table.committed()
        if lost := find_missing(base, committed):
            raise refuse(base, lost)
        written = [group.split_id for group in found.groups if group.split_id in committed]
        done = read_receipts(table.store, written, committed)
        there = {receipt.split_id for receipt in done}
        todo = [group for group in found.groups if group.split_id not in there]
        work = _Work(table.store, table.card, base.layout, run_id)
        new = [*done, *_rewritten(todo, work, executor)]
        indexes = _move(found, work, executor or InProcess())
        gone = {source.split_id for group in found.groups for source in group.sources}
        receipts = [dataclasses.replace(r, owned=False) for r in new]
        receipts += [
            dataclasses.replace(r, owned=r.owned and r.shard not in found.shards)
            for r in base.read_receipts()
            if r.split_id not in gone
        ]
        draft = Draft(
            run_id=run_id,
            generation=base.manifest.generation,
            row_recipe=base.manifest.row_recipe,
            receipts=sorted(receipts, key=lambda r: (not r.owned, r.shard, r.start)),
            shards=[dataclasses.replace(s, splits=0) if s.uri in found.shards else s for s in base.read_shards()],
            new=frozenset(),
            indexes=base.read_indexes() | indexes,
            visited=frozenset(),
            operation="compact",
            corpus=base.manifest.corpus,
            duplicate_rule=base.manifest.duplicate_rule,
            layout=base.layout,
        )
        confirm()
        return dataclasses.replace(found, snapshot=publish(table, base, draft, executor))


def _by_file(split_ids: Sequence[str], files: NDArray[np.integer]) -> Iterator[tuple[str, NDArray[np.intp]]]:
    """(split id, positions of its entries) for each file. files: [n] numbers of ``split_ids``, -1 for none.

    The entries are sorted once, because an index may name thousands of small files.
    """
    order = np.argsort(files, kind="stable")
    bounds = np.searchsorted(files[order], np.arange(len(split_ids) + 1))
    for number, split_id in enumerate(split_ids):
        yield split_id, order[bounds[number] : bounds[number + 1]]


# --- choosing files


def _choose(
    receipts: Sequence[Receipt], needed: Mapping[str, int], rows_per_file: int, max_unneeded: float
) -> Iterator[list[Receipt]]:
    """Groups of files to rewrite as one, in order; never of two generations. needed: how many rows of each file."""
    groups: dict[str, list[Receipt]] = {}
    rows: dict[str, int] = {}
    for receipt in receipts:
        wanted = needed[receipt.split_id]
        wasteful = wanted < (1 - max_unneeded) * receipt.vectors
        if not wasteful and 2 * wanted > rows_per_file:
            continue
        label = receipt.generation
        if label in groups and rows[label] + wanted > rows_per_file:
            yield from _worthwhile(groups.pop(label), needed, max_unneeded)
        rows[label] = wanted + (rows[label] if label in groups else 0)
        groups.setdefault(label, []).append(receipt)
    for group in groups.values():
        yield from _worthwhile(group, needed, max_unneeded)


def _worthwhile(group: list[Receipt], needed: Mapping[str, int], max_unneeded: float) -> Iterator[list[Receipt]]:
    """The group, unless it is a single file without too many unneeded rows."""
    if len(group) > 1 or needed[group[0].split_id] < (1 - max_unneeded) * group[0].vectors:
        yield group


def _group(base: Snapshot, sources: list[Receipt], needed: list[Bits], condemned: frozenset[str]) -> FileGroup:
    group = FileGroup("", tuple(sources), tuple(needed))
    possible = names_of(group.taken, base.manifest.fingerprint, base.layout.covers)
    return dataclasses.replace(group, split_id=next(name for name in possible if name not in condemned))


# --- writing


def _rewritten(groups: Sequence[FileGroup], work: _Work, executor: Executor | None) -> Iterator[Receipt]:
    """The receipt of the new file of each group, in order."""
    if executor is None:
        return in_parallel(lambda group: _rewrite(group, work), groups, _PARALLEL_WRITES)
    shared = executor.share(work)
    return executor.get([executor.submit(_rewrite, group, shared)[0] for group in groups])


def _rewrite(group: FileGroup, work: _Work) -> Receipt:
    """Commit the file of a group, in the layout. In memory are one old file at a time and the new one."""
    layout, pieces = work.layout, []
    for source, mask in zip(group.sources, group.masks, strict=True):
        rows = read_data_file(work.store, source, layout.schema.names, work.card.fingerprint, layout)
        pieces.append(rows if mask.all() else rows.filter(pa.array(mask)))
    rows = pa.concat_tables(pieces)
    receipt = Receipt.of_rows(
        rows,
        split_id=group.split_id,
        shard=PACKED,
        version=PACKED,
        start=0,
        attempt=new_attempt(),
        run_id=work.run_id,
        generation=group.sources[0].generation,
        copied=True,
        covers=layout.covers,
    )
    card = work.card.model_copy(update=described(layout.schema))
    return commit_split(work.store, card, receipt, rows, names.REJECTS_SCHEMA.empty_table(), sources=group.taken)


@dataclass(frozen=True)
class _Move:
    """Where the rows of a data file are now: in ``split_id``, after the first ``before`` rows there.

    needed: a bit for each row, whether it is there.
    """

    split_id: str
    before: int
    needed: Bits

    def rows(self) -> NDArray[np.int64]:
        """Where each row is now, -1 if it was dropped; up to seven more than there are."""
        mask = np.unpackbits(self.needed)
        return np.where(mask, self.before + np.cumsum(mask, dtype=np.int64) - 1, -1)


def _moves(groups: Iterable[FileGroup]) -> dict[str, _Move]:
    moves = {}
    for group in groups:
        before = 0
        for source, needed in zip(group.sources, group.needed, strict=True):
            moves[source.split_id] = _Move(group.split_id, before, needed)
            before += count(needed)
    return moves


_Source = tuple[str, Receipt | IndexPart]
"""Rows of a shard: its URI, and where they are."""


def _move(found: Compaction, work: _Work, executor: Executor) -> dict[str, list[IndexPart]]:
    """Write new indexes for the shards that have rows in rewritten files. Returns their parts by shard URI."""
    base = found.base
    sources: list[_Source] = [
        *((receipt.shard, receipt) for receipt in sorted(base.read_receipts(), key=lambda r: r.start) if receipt.owned),
        *((uri, part) for uri, parts in base.read_indexes().items() for part in parts),
    ]
    sources = [(uri, source) for uri, source in sources if uri in found.shards]
    moves, shared = executor.share(_moves(found.groups)), executor.share(work)
    handles: list[Any] = []
    for number, some in enumerate(grouped(sources, [rows_in(where) for _, where in sources], ROWS_A_TASK)):
        key = names.index_key(next_number(base), work.run_id, number)
        handles += executor.submit(_write_moved, some, key, moves, shared)
    parts: dict[str, list[IndexPart]] = {}
    for its in executor.get(handles):
        for part in its:
            parts.setdefault(part.shard, []).append(part)
    return parts


def _write_moved(sources: Sequence[_Source], key: str, moves: Mapping[str, _Move], work: _Work) -> list[IndexPart]:
    """Write the index file ``key`` with the rows of the sources at their new places."""

    indexes = PartReader(work.store)

    def locate(source: _Source) -> Located:
        uri, where = source
        index = _index_of_owned(where, work) if isinstance(where, Receipt) else indexes.read(where)
        covers = work.layout.covers if isinstance(where, Receipt) else where.covers
        return Located(uri, _moved_index(index, moves), covers)

    located = list(read_ahead(locate, sources, [rows_in(where) for _, where in sources]))
    return write_index(work.store, key, located)


def _index_of_owned(receipt: Receipt, work: _Work) -> pa.Table:
    """The rows of an owned data file and its rejects as rows of an index."""
    layout = work.layout
    entries = read_owned(work.store, receipt, layout, work.card.fingerprint)
    rejects = names.REJECTS_SCHEMA.empty_table()
    if receipt.rejected:
        key = names.rejects_key(receipt.split_id, receipt.attempt)
        with damage_explained(work.store, key):
            rejects = read_parquet(work.store.read(key))
    return index_of_entries(entries, rejects, contents=names.ROW_HASH in layout.schema.names)


def _moved_index(index: pa.Table, moves: Mapping[str, _Move]) -> pa.Table:
    """The index with the new places of its rows. Raises CountsDoNotClose if a row would be lost."""
    files = index.column(names.SPLIT_ID).combine_chunks().dictionary_encode()
    known = files.dictionary.to_pylist()
    which = files.indices.fill_null(-1).to_numpy()
    row = index.column(names.ROW).fill_null(-1).to_numpy().copy()
    for split_id, mine in _by_file(known, which):
        if split_id in moves:
            row[mine] = moves[split_id].rows()[row[mine]]
            if (row[mine] < 0).any():
                raise CountsDoNotClose(
                    f"A row of split {split_id} would be lost by compaction. Nothing was published. This is a bug: "
                    "please report it."
                )
    renamed = pa.array([moves[s].split_id if s in moves else s for s in known], pa.string())
    columns = {name: index.column(name) for name in index.column_names}
    columns[names.SPLIT_ID] = pa.DictionaryArray.from_arrays(files.indices, renamed).dictionary_decode()
    columns[names.ROW] = pc.if_else(pc.is_valid(index.column(names.ROW)), pa.array(row), None)
    return pa.table(columns).cast(names.INDEX_SCHEMA)
