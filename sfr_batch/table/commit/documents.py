"""Reads the documents of a draft as records: ids of owned data files, and hashes of indexes.

These functions may run anywhere: each reads some sources, and says of them what fits into the memory of a driver.
Knows no manifests and no rule of which document is live.
"""

import dataclasses
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple, TypeVar

import numpy as np
from numpy.typing import NDArray

from sfr_batch.errors import TableError
from sfr_batch.format import names
from sfr_batch.format.indexes import (
    ROWS_A_GROUP,
    Entries,
    PartReader,
    columns_of_entries,
    entries_of,
    read_ahead,
    read_owned,
)
from sfr_batch.format.layout import Layout
from sfr_batch.format.records import KEPT, IndexPart, Receipt, rows_in
from sfr_batch.storage.executor import ROWS_A_TASK, Executor, grouped, partitioned
from sfr_batch.storage.spill import dealt
from sfr_batch.storage.store import Store
from sfr_batch.table.commit.draft import Draft
from sfr_batch.table.commit.live_rows import FileNumbers, Marks, Numbers
from sfr_batch.table.commit.repeats import RECORD

T = TypeVar("T")
R = TypeVar("R")
Records = NDArray[np.void]
"""[n] of `repeats.RECORD`."""


class Source(NamedTuple):
    """Where documents of a shard are. first: the order of its first one; lower than those of later sources."""

    shard: str
    where: Receipt | IndexPart
    first: int


def sources_of(draft: Draft) -> list[Source]:
    """The sources of all documents, in order."""
    owned: dict[str, list[Receipt]] = {}
    for receipt in draft.receipts:
        if receipt.owned:
            owned.setdefault(receipt.shard, []).append(receipt)
    sources: list[Source] = []
    first = 0
    for uri in (shard.uri for shard in draft.shards):
        for where in draft.indexes[uri] if uri in draft.indexes else sorted(owned.get(uri, ()), key=lambda r: r.start):
            sources.append(Source(uri, where, first))
            first += rows_in(where)
    return sources


@dataclass(frozen=True)
class Reading:
    """What is needed to read sources. Secrets in the store are references, not values."""

    store: Store
    layout: Layout
    """Of the table."""
    fingerprint: str
    files: FileNumbers


@dataclass(frozen=True)
class Seen:
    """What was found in some sources, beside their records."""

    counts: Counter[str]
    """Documents, by how the snapshot counts them."""
    whole: list[int]
    """Numbers of data files all of whose vectors belong to documents."""
    used: Numbers
    """Numbers of the data files that the others point into."""
    marks: Marks
    """The vectors of the others."""


def read_documents(sources: Sequence[Source], reading: Reading) -> Iterator[tuple[Records, Seen]]:
    """The documents of the sources, in order, in bounded memory; those of several may come together.

    Raises TableError if a file is damaged or an index points to rows that do not exist.
    """
    sources = _together(sources)
    indexes = PartReader(reading.store, columns_of_entries(hashes=False))

    def read(source: Source) -> Entries:
        if isinstance(source.where, Receipt):
            return read_owned(reading.store, source.where, reading.layout, reading.fingerprint, hashes=False)
        return entries_of(indexes.read(source.where))

    found = read_ahead(read, sources, [rows_in(source.where) for source in sources])
    for source, entries in zip(sources, found, strict=True):
        number = file_numbers(entries, reading.files, source.where)
        records = _records_of(entries, reading.files.starts[number], source.first)
        yield records, _seen(source, number, records, reading.files)


def _together(sources: Sequence[Source]) -> list[Source]:
    """The same documents from fewer sources: parts that follow each other in an index file are read as one, under the
    name of the first shard. A file may have the parts of ten thousand shards of a few rows."""
    found: list[Source] = []
    for source in sources:
        last = found[-1] if found else None
        if last and KEPT not in (last.shard, source.shard) and _follows(last.where, source.where):
            assert isinstance(last.where, IndexPart)
            rows = last.where.rows + rows_in(source.where)
            found[-1] = last._replace(where=dataclasses.replace(last.where, rows=rows))
        else:
            found.append(source)
    return found


def _follows(one: Receipt | IndexPart, other: Receipt | IndexPart) -> bool:
    """Whether ``other`` is the part of an index file that begins where ``one`` ends, and both are not too many rows."""
    if not (isinstance(one, IndexPart) and isinstance(other, IndexPart)) or one.rows >= ROWS_A_GROUP:
        return False
    return (one.key, one.start + one.rows) == (other.key, other.start)


def deal_documents(sources: Sequence[Source], reading: Reading, partitions: int) -> tuple[Any, ...]:
    """Read sources. Returns what was `Seen`, then the records of each partition."""
    found = list(read_documents(sources, reading))
    seen = [each for _, each in found]
    counts = Counter[str]()
    for each in seen:
        counts.update(each.counts)
    together = Seen(
        counts=counts,
        whole=[number for each in seen for number in each.whole],
        used=np.unique(np.concatenate([np.empty(0, np.int64), *(each.used for each in seen)])),
        marks=Marks.union([each.marks for each in seen]),
    )
    return together, *dealt(_joined([records for records, _ in found]), partitions)


def find_in(find: Callable[[Records], T], *parts: Records) -> T:
    """What ``find`` finds in the documents of a partition."""
    return find(_joined(parts))


def deal(
    executor: Executor, sources: Sequence[Source], reading: Reading, find: Callable[[Records], Any]
) -> tuple[list[Any], list[Any]]:
    """Read all sources in tasks. Returns handles of what they have `Seen`, and of what ``find`` finds in each
    partition."""
    rows = [rows_in(source.where) for source in sources]
    partitions, least = partitioned(sum(rows))
    shared = executor.share(reading)
    seen: list[Any] = []
    parts: list[list[Any]] = []
    for group in grouped(sources, rows, max(ROWS_A_TASK, least)):
        said, *records = executor.submit(deal_documents, group, shared, partitions, returns=1 + partitions)
        seen.append(said)
        parts.append(records)
    return seen, [executor.submit(find_in, find, *(its[n] for its in parts))[0] for n in range(partitions)]


def of_each_file(
    read: Callable[[Receipt, T], R], work: Sequence[tuple[Receipt, T]], executor: Executor | None
) -> Iterator[R]:
    """``read(receipt, what)`` for each (receipt, what) of the ``work``, in order: here, several files at a time, or in
    tasks of an executor."""
    rows = [receipt.vectors for receipt, _ in work]
    if executor is None:
        yield from read_ahead(lambda one: read(*one), work, rows)
        return
    handles = [executor.submit(_read_files, read, group)[0] for group in grouped(work, rows, ROWS_A_TASK)]
    for found in executor.get(handles):
        yield from found


def _read_files(read: Callable[[Receipt, T], R], work: Sequence[tuple[Receipt, T]]) -> list[R]:
    return list(of_each_file(read, work, None))


def counts_of(shard: str, new: int, documents: int) -> dict[str, int]:
    """How documents of a shard are counted, ``new`` of them being in new data files."""
    return {"kept": documents} if shard == KEPT else {"embedded": new, "reused": documents - new}


def rows_of_documents(at: Numbers, vectors: NDArray[np.int32]) -> Numbers:
    """Numbers of all vectors of documents. at: [n] number of the first vector of each; vectors: [n] how many."""
    if (vectors == 1).all():
        return at
    ends = np.cumsum(vectors)
    return np.repeat(at - (ends - vectors), vectors) + np.arange(ends[-1] if len(ends) else 0)


def _joined(records: Sequence[Records]) -> Records:
    return np.concatenate([np.empty(0, RECORD), *records])


def file_numbers(entries: Entries, files: FileNumbers, where: Receipt | IndexPart) -> Numbers:
    """[n] number of each entry's file. Raises TableError if the file is unknown or has no such rows."""
    what = where.key if isinstance(where, IndexPart) else names.data_key(where.split_id)
    unknown = [split_id for split_id in entries.split_ids if split_id not in files.numbers]
    if unknown:
        raise TableError(f"{what} points to {names.data_key(unknown[0])}, which is not among the live data files.")
    number = np.array([files.numbers[split_id] for split_id in entries.split_ids], np.int64)[entries.files]
    if ((entries.row < 0) | (entries.row + entries.vectors > files.vectors[number])).any():
        raise TableError(f"{what} points to rows that its data files do not have.")
    return number


def _records_of(entries: Entries, starts: Numbers, first: int) -> Records:
    """[n] of RECORD. starts: [n] number of the first vector of each entry's file; first: see `Source`."""
    records = np.empty(len(entries), RECORD)
    records["hash"], records["more"] = entries.ids[:, 0], entries.ids[:, 1]
    records["order"] = first + entries.at
    records["at"] = starts + entries.row
    records["vectors"] = entries.vectors
    return records


def _seen(source: Source, number: Numbers, records: Records, files: FileNumbers) -> Seen:
    """number: [n] of the file of each of the records."""
    counts = Counter(counts_of(source.shard, int(files.is_new[number].sum()), len(records)))
    if isinstance(source.where, Receipt) and records["vectors"].sum() == source.where.vectors:
        return Seen(counts, np.unique(number).tolist(), np.empty(0, np.int64), Marks.of(np.empty(0, np.int64)))
    marks = Marks.of(rows_of_documents(records["at"], records["vectors"]))
    return Seen(counts, [], np.unique(number), marks)
