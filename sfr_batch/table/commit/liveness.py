"""Finds the live documents of a draft: of those with one id the first in the order of the shards, or as the draft's
rule says (`repeats`). All others are dead.

Ids of owned data files and hashes of indexes are read in bounded memory: records spill to disk by hash, one partition
is sorted at a time, and one bool a vector says whether it is live. Knows no manifests; `publish` writes them.
"""

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from numpy.typing import NDArray

from sfr_batch.errors import TableError
from sfr_batch.format import names
from sfr_batch.format.dead_rows import Positions
from sfr_batch.format.file_values import gather_values
from sfr_batch.format.indexes import Entries, read_ahead, read_entries, read_owned
from sfr_batch.format.layout import Layout
from sfr_batch.format.parquet import read_data_file
from sfr_batch.format.records import KEPT, IndexPart, Receipt, rows_in
from sfr_batch.storage.local_files import temporary_folder
from sfr_batch.storage.spill import Spill
from sfr_batch.storage.store import Store
from sfr_batch.table.commit.draft import Draft
from sfr_batch.table.commit.repeats import RECORD, repeated, winners
from sfr_batch.table.table import Table

PARTITION_ROWS = 2**20


@dataclass(frozen=True, slots=True)
class DuplicateRow:
    """A document whose id another document has too, which is live instead.

    row: its first row in the data file of ``split_id``; winner: the shard, split id and first row of the live one.
    """

    shard: str
    split_id: str
    row: int
    id: str | int
    winner: tuple[str, str, int]


@dataclass
class Liveness:
    """Which rows are live."""

    duplicates: list[DuplicateRow]
    """In order. Documents that are kept although they left the corpus are not among them: these are just dropped."""
    embedded: int
    """Live documents in new data files."""
    reused: int
    """Live documents in other data files."""
    kept: int
    """Live documents that are no longer in the corpus."""
    vectors: int
    needed: frozenset[str]
    """Split ids of the data files that have the vectors of some document, live or not."""

    live: NDArray[np.bool_] = field(repr=False)
    """[vectors of all data files of the draft] whether each is live."""
    dead: Mapping[str, tuple[int, int]] = field(repr=False)
    """The needed files with dead rows, by split id: the range of their vectors in ``live``. Files are in order."""

    def dead_rows(self, split_id: str) -> Positions:
        """Dead rows of a file, ascending. They are found anew each time, so that only those of a file are in memory."""
        start, end = self.dead[split_id]
        return np.flatnonzero(~self.live[start:end])


@dataclass
class _Files:
    """Data files by number. ``starts``: [files + 1] number of the first vector of each among the vectors of all."""

    receipts: Sequence[Receipt]
    new: frozenset[str]
    numbers: dict[str, int] = field(init=False)
    starts: NDArray[np.int64] = field(init=False)
    is_new: NDArray[np.bool_] = field(init=False)

    def __post_init__(self) -> None:
        self.numbers = {receipt.split_id: number for number, receipt in enumerate(self.receipts)}
        self.starts = np.concatenate([[0], np.cumsum([r.vectors for r in self.receipts], dtype=np.int64)])
        self.is_new = np.array([receipt.split_id in self.new for receipt in self.receipts], bool)

    def locate(self, at: int) -> tuple[int, int]:
        """Number of the file of a vector, and its row there."""
        number = int(np.searchsorted(self.starts, at, side="right")) - 1
        return number, at - int(self.starts[number])


def find_live(table: Table, draft: Draft, layout: Layout) -> Liveness:
    """Find out which rows of the draft's data files are live. layout: of the snapshot.

    Raises TableError if a file is damaged or an index points to rows that do not exist.
    """
    files, sources = _Files(draft.receipts, draft.new), _sources(draft)
    live = np.zeros(files.starts[-1], bool)
    used = np.zeros(len(draft.receipts), bool)
    firsts, counts = [0], Counter({"embedded": 0, "reused": 0, "kept": 0})
    with temporary_folder("sfr-ids-") as folder:
        spill = Spill(folder, RECORD, int(files.starts[-1]), PARTITION_ROWS)
        for (uri, source), entries in _read(table, sources):
            number = _file_numbers(entries, files, source)
            records = _records_of(entries, files.starts[number], firsts[-1])
            spill.add(records)
            live[rows_of_documents(records["at"], records["vectors"])] = True
            used[number] = True
            counts.update(_counts(uri, int(files.is_new[number].sum()), len(entries)))
            firsts.append(firsts[-1] + len(entries))
        repeats = np.concatenate([np.empty(0, RECORD), *map(repeated, spill.partitions())])
    rule = draft.duplicate_rule
    kept_from = next((firsts[number] for number, (uri, _) in enumerate(sources) if uri == KEPT), firsts[-1])
    values = _read_values(table, layout, files, repeats["at"], rule.order_by) if rule and rule.order_by else None
    winner = winners(repeats, kept_from, last=rule is not None, values=values)
    loses = winner != np.arange(len(repeats))
    elsewhere = repeats[loses & (repeats["at"] != repeats["at"][winner])]  # two rows with one vector: it stays
    live[rows_of_documents(elsewhere["at"], elsewhere["vectors"])] = False

    def place(record: int) -> tuple[str, str, int]:
        uri = sources[int(np.searchsorted(firsts, repeats["order"][record], side="right")) - 1][0]
        file, row = files.locate(int(repeats["at"][record]))
        return uri, files.receipts[file].split_id, row

    duplicates = []
    lost = np.flatnonzero(loses)
    for record in lost[np.argsort(repeats["order"][lost])].tolist():
        uri, split_id, _ = found = place(record)
        counts.subtract(_counts(uri, int(split_id in draft.new), 1))
        if uri != KEPT:
            duplicates.append((found, place(winner[record])))
    return Liveness(
        duplicates=_with_ids(table.store, duplicates),
        vectors=int(live.sum()),
        live=live,
        dead=_files_with_dead(files, live, used),
        needed=frozenset(files.receipts[number].split_id for number in np.flatnonzero(used).tolist()),
        **counts,
    )


def _sources(draft: Draft) -> list[tuple[str, Receipt | IndexPart]]:
    """(shard, where its documents are), in order."""
    owned: dict[str, list[Receipt]] = {}
    for receipt in draft.receipts:
        if receipt.owned:
            owned.setdefault(receipt.shard, []).append(receipt)
    return [
        (uri, source)
        for uri in (shard.uri for shard in draft.shards)
        for source in (
            draft.indexes[uri] if uri in draft.indexes else sorted(owned.get(uri, ()), key=lambda r: r.start)
        )
    ]


def _read(
    table: Table, sources: Sequence[tuple[str, Receipt | IndexPart]]
) -> Iterator[tuple[tuple[str, Receipt | IndexPart], Entries]]:
    """Each source with its documents, in order."""

    def read(source: tuple[str, Receipt | IndexPart]) -> Entries:
        if isinstance(source[1], Receipt):
            return read_owned(table.store, source[1], table.layout, table.card.fingerprint, hashes=False)
        return read_entries(table.store, source[1], hashes=False)

    return zip(sources, read_ahead(read, sources, [rows_in(source) for _, source in sources]), strict=True)


def _counts(uri: str, new: int, documents: int) -> dict[str, int]:
    """How documents of a shard are counted, ``new`` of them being in new data files."""
    return {"kept": documents} if uri == KEPT else {"embedded": new, "reused": documents - new}


def _file_numbers(entries: Entries, files: _Files, source: Receipt | IndexPart) -> NDArray[np.int64]:
    """[n] number of each entry's file. Raises TableError if the file is unknown or has no such rows."""
    what = source.key if isinstance(source, IndexPart) else names.data_key(source.split_id)
    unknown = [split_id for split_id in entries.split_ids if split_id not in files.numbers]
    if unknown:
        raise TableError(f"{what} points to {names.data_key(unknown[0])}, which is not among the live data files.")
    number = np.array([files.numbers[split_id] for split_id in entries.split_ids], np.int64)[entries.files]
    room = np.diff(files.starts)[number]
    if ((entries.row < 0) | (entries.row + entries.vectors > room)).any():
        raise TableError(f"{what} points to rows that its data files do not have.")
    return number


def _records_of(entries: Entries, starts: NDArray[np.int64], first: int) -> NDArray[np.void]:
    """[n] of RECORD. starts: [n] number of the first vector of each entry's file; first: number of the first entry."""
    records = np.empty(len(entries), RECORD)
    records["hash"], records["more"] = entries.ids[:, 0], entries.ids[:, 1]
    records["order"] = np.arange(first, first + len(entries))
    records["at"] = starts + entries.row
    records["vectors"] = entries.vectors
    return records


def rows_of_documents(at: NDArray[np.int64], vectors: NDArray[np.int32]) -> NDArray[np.int64]:
    """Numbers of all vectors of documents. at: [n] number of the first vector of each; vectors: [n] how many."""
    if (vectors == 1).all():
        return at
    ends = np.cumsum(vectors)
    return np.repeat(at - (ends - vectors), vectors) + np.arange(ends[-1] if len(ends) else 0)


def _read_values(table: Table, layout: Layout, files: _Files, at: NDArray[np.int64], column: str) -> pa.Array:
    """[n] the values of a column in the rows with the vectors ``at`` [n]. Only their files are read."""

    def read(number: int) -> pa.ChunkedArray:
        receipt = files.receipts[number]
        return read_data_file(table.store, receipt, [column], table.card.fingerprint, layout).column(column)

    number = np.searchsorted(files.starts, at, side="right") - 1
    vectors = [receipt.vectors for receipt in files.receipts]
    return gather_values(read, number, at - files.starts[number], layout.schema.field(column).type, vectors)


def _files_with_dead(files: _Files, live: NDArray[np.bool_], used: NDArray[np.bool_]) -> dict[str, tuple[int, int]]:
    """The files in use that have dead rows, with the range of their vectors."""
    starts = files.starts.tolist()
    ranges = {files.receipts[n].split_id: (starts[n], starts[n + 1]) for n in np.flatnonzero(used).tolist()}
    return {split_id: (start, end) for split_id, (start, end) in ranges.items() if not live[start:end].all()}


_Place = tuple[str, str, int]
"""Shard, split id and row of a document."""


def _with_ids(store: Store, rows: Sequence[tuple[_Place, _Place]]) -> list[DuplicateRow]:
    """Documents and the ones that are live instead; ids are read from their files."""
    ids: dict[str, pa.ChunkedArray] = {}
    for split_id in dict.fromkeys(split_id for (_, split_id, _), _ in rows):
        with store.open(names.data_key(split_id)) as file:
            ids[split_id] = pq.ParquetFile(file, pre_buffer=False).read([names.ID], use_threads=False).column(names.ID)
    return [
        DuplicateRow(shard, split_id, row, ids[split_id][row].as_py(), winner)
        for (shard, split_id, row), winner in rows
    ]
