"""Which documents of a table are live: over all shards in order, the first of each id. The rest of its files is dead.

Reads ids from owned data files and hashes from indexes, in bounded memory: records spill to disk by hash, a partition
is sorted at a time, and a bit a vector says what is live. Knows no manifests; publishing is `commit`'s.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from numpy.typing import NDArray

from sfr_batch.errors import TableError
from sfr_batch.format import names
from sfr_batch.format.indexes import Entries, read_ahead, read_entries, read_owned
from sfr_batch.format.records import KEPT, IndexPart, Receipt, rows_in
from sfr_batch.storage.local_files import temporary_folder
from sfr_batch.storage.spill import Spill
from sfr_batch.storage.store import Store

PARTITION_ROWS = 2**20
_RECORD = np.dtype(
    [("hash", np.uint64), ("more", np.uint64), ("order", np.int64), ("at", np.int64), ("vectors", np.int32)]
)
"""An id, the document's number in order, the number of its first vector among those of all files, and how many."""


@dataclass(frozen=True, slots=True)
class DuplicateRow:
    """A document whose id an earlier document has; ``row``: its first row in the data file of ``split_id``."""

    shard: str
    split_id: str
    row: int
    id: str | int


@dataclass
class Liveness:
    """What is live. deletes: columns of `schema.DELETES_SCHEMA`, by file and position."""

    losers: list[DuplicateRow]
    """In order; of rows that are kept although they left the corpus none: such a one is silently dropped."""
    embedded: int
    """Live documents in ``new`` data files."""
    reused: int
    """Live documents in others."""
    kept: int
    """Live documents that are no longer in the corpus."""
    vectors: int
    deletes: pa.Table
    needed: frozenset[str]
    """Split ids that some document points into, live or not."""


@dataclass
class _Files:
    """Data files by number, with the number of the first vector of each among those of all."""

    receipts: Sequence[Receipt]
    numbers: dict[str, int] = field(init=False)
    starts: NDArray[np.int64] = field(init=False)

    def __post_init__(self) -> None:
        self.numbers = {receipt.split_id: number for number, receipt in enumerate(self.receipts)}
        self.starts = np.concatenate([[0], np.cumsum([r.vectors for r in self.receipts], dtype=np.int64)])

    def locate(self, at: int) -> tuple[Receipt, int]:
        number = int(np.searchsorted(self.starts, at, side="right")) - 1
        return self.receipts[number], at - int(self.starts[number])


def find_live(
    store: Store,
    schema: pa.Schema,
    fingerprint: str,
    shards: Sequence[str],
    receipts: Sequence[Receipt],
    indexes: Mapping[str, Sequence[IndexPart]],
    new: frozenset[str],
) -> Liveness:
    """What is live of the data files of ``receipts``.

    shards: URIs in order, `KEPT` last if it is among them; indexes: of those that own no data files. new: split ids
    whose documents count as embedded, others as reused. Raises TableError if a file is damaged or an index points to
    what is not there.
    """
    files = _Files(receipts)
    owned: dict[str, list[Receipt]] = {}
    for receipt in receipts:
        if receipt.owned:
            owned.setdefault(receipt.shard, []).append(receipt)
    sources: list[tuple[str, Receipt | IndexPart]] = [
        (uri, source)
        for uri in shards
        for source in (indexes[uri] if uri in indexes else sorted(owned.get(uri, ()), key=lambda r: r.start))
    ]

    def read(source: tuple[str, Receipt | IndexPart]) -> Entries:
        if isinstance(source[1], Receipt):
            return read_owned(store, source[1], schema, fingerprint, hashes=False)
        return read_entries(store, source[1], hashes=False)

    rows = [rows_in(source) for _, source in sources]
    live = np.zeros(files.starts[-1], bool)
    used = np.zeros(len(receipts), bool)
    is_new = np.array([receipt.split_id in new for receipt in receipts], bool)
    firsts, documents = [0], {"embedded": 0, "reused": 0, "kept": 0}
    with temporary_folder("sfr-ids-") as folder:
        spill = Spill(folder, _RECORD, int(files.starts[-1]), PARTITION_ROWS)
        for (uri, source), entries in zip(sources, read_ahead(read, sources, rows), strict=True):
            number = _numbers(entries, files, source)
            records = np.empty(len(entries), _RECORD)
            records["hash"], records["more"] = entries.ids[:, 0], entries.ids[:, 1]
            records["order"] = np.arange(firsts[-1], firsts[-1] + len(entries))
            records["at"] = files.starts[number] + entries.row
            records["vectors"] = entries.vectors
            spill.add(records)
            live[rows_of_documents(records["at"], records["vectors"])] = True
            used[number] = True
            fresh = int(is_new[number].sum())
            for kind, count in _kinds(uri, fresh, len(entries)).items():
                documents[kind] += count
            firsts.append(firsts[-1] + len(entries))
        lost: list[tuple[int, int]] = []
        for partition in spill.partitions():
            lost += _lose(partition, live)
    lost.sort()
    losers = []
    for order, at in lost:
        uri = sources[int(np.searchsorted(firsts, order, side="right")) - 1][0]
        receipt, row = files.locate(at)
        for kind, count in _kinds(uri, int(receipt.split_id in new), 1).items():
            documents[kind] -= count
        if uri != KEPT:
            losers.append((uri, receipt.split_id, row))
    return Liveness(
        losers=_with_ids(store, losers),
        vectors=int(live.sum()),
        deletes=_deletes(files, live, used),
        needed=frozenset(r.split_id for r, used_ in zip(receipts, used.tolist(), strict=True) if used_),
        **documents,
    )


def _kinds(uri: str, new: int, documents: int) -> dict[str, int]:
    return {"kept": documents} if uri == KEPT else {"embedded": new, "reused": documents - new}


def _numbers(entries: Entries, files: _Files, source: Receipt | IndexPart) -> NDArray[np.int64]:
    """[n] the number of the file of each entry, which must be there and have such rows."""
    what = source.key if isinstance(source, IndexPart) else names.data_key(source.split_id)
    unknown = [split_id for split_id in entries.split_ids if split_id not in files.numbers]
    if unknown:
        raise TableError(f"{what} points to {names.data_key(unknown[0])}, which is not among the live data files.")
    number = np.array([files.numbers[split_id] for split_id in entries.split_ids], np.int64)[entries.files]
    room = np.diff(files.starts)[number]
    if ((entries.row < 0) | (entries.row + entries.vectors > room)).any():
        raise TableError(f"{what} points to rows that its data files do not have.")
    return number


def rows_of_documents(at: NDArray[np.int64], vectors: NDArray[np.int32]) -> NDArray[np.int64]:
    """All vectors of documents that begin ``at`` and have so many."""
    if (vectors == 1).all():
        return at
    ends = np.cumsum(vectors)
    return np.repeat(at - (ends - vectors), vectors) + np.arange(ends[-1] if len(ends) else 0)


def _lose(records: NDArray[np.void], live: NDArray[np.bool_]) -> list[tuple[int, int]]:
    """(order, at) of each document that is not the first of its id; its vectors are no longer ``live``."""
    order = np.argsort(records["hash"], kind="stable")
    ordered = records["hash"][order]
    same = ordered[1:] == ordered[:-1]
    if not same.any():
        return []
    shared = np.zeros(len(records), bool)
    shared[1:] |= same
    shared[:-1] |= same
    some = records[order[shared]]
    some = some[np.lexsort((some["order"], some["more"], some["hash"]))]
    repeats = np.zeros(len(some), bool)
    repeats[1:] = (some["hash"][1:] == some["hash"][:-1]) & (some["more"][1:] == some["more"][:-1])
    winner = np.maximum.accumulate(np.where(repeats, 0, np.arange(len(some))))
    elsewhere = some[repeats & (some["at"] != some["at"][winner])]  # two rows with one vector: it stays
    live[rows_of_documents(elsewhere["at"], elsewhere["vectors"])] = False
    return list(zip(some["order"][repeats].tolist(), some["at"][repeats].tolist(), strict=True))


def _deletes(files: _Files, live: NDArray[np.bool_], used: NDArray[np.bool_]) -> pa.Table:
    """Rows of the files in use that are not live."""
    ids: list[pa.Array] = []
    positions: list[NDArray[np.int64]] = []
    for number, receipt in enumerate(files.receipts):
        if not used[number]:
            continue
        dead = np.flatnonzero(~live[files.starts[number] : files.starts[number + 1]])
        if len(dead):
            ids.append(pa.repeat(pa.scalar(receipt.split_id), len(dead)))
            positions.append(dead)
    if not ids:
        return names.DELETES_SCHEMA.empty_table()
    return pa.table([pa.concat_arrays(ids), np.concatenate(positions)], schema=names.DELETES_SCHEMA)


def _with_ids(store: Store, losers: Sequence[tuple[str, str, int]]) -> list[DuplicateRow]:
    """``losers``: (shard, split id, row); the id columns of their files are read again."""
    ids: dict[str, pa.ChunkedArray] = {}
    for split_id in dict.fromkeys(split_id for _, split_id, _ in losers):
        with store.open(names.data_key(split_id)) as file:
            ids[split_id] = pq.ParquetFile(file, pre_buffer=False).read([names.ID], use_threads=False).column(names.ID)
    return [DuplicateRow(shard, split_id, row, ids[split_id][row].as_py()) for shard, split_id, row in losers]
