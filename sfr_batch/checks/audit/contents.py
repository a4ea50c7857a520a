"""Lists the files that a snapshot names and reads them, reporting damage as a message."""

from collections import defaultdict
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TypeVar

import numpy as np
import pyarrow as pa

from sfr_batch.format.dead_rows import DeadPart, DeadRows, Positions
from sfr_batch.format.records import IndexPart, Receipt, ShardRecord
from sfr_batch.storage.store import Store
from sfr_batch.table.table import Snapshot

T = TypeVar("T")

AHEAD = 16
"""Number of small files read at a time."""


@dataclass(frozen=True)
class Contents:
    """A snapshot with the contents of its side files, read once."""

    snapshot: Snapshot
    receipts: Sequence[Receipt]
    deletes: DeadRows
    """Positions in data files that are not live, by split id."""
    shards: Sequence[ShardRecord]
    indexes: dict[str, list[IndexPart]]
    """Parts of index files by the URI of their shard, in order."""
    condemned: frozenset[str]
    strange_lists: Sequence[str] = ()
    """Keys of lists of dead rows that name other rows than the snapshot finds in them."""

    @staticmethod
    def read(snapshot: Snapshot) -> "Contents":
        """Raises TableError, StorageError or ArrowException if a side file or a list of dead rows cannot be read."""
        deletes = snapshot.read_deletes()
        return Contents(
            snapshot,
            snapshot.read_receipts(),
            deletes,
            snapshot.read_shards(),
            snapshot.read_indexes(),
            snapshot.read_condemned(),
            [key for key, parts, listed in deletes.by_list() if not _same(deletes, parts, listed)],
        )

    @property
    def parts(self) -> list[IndexPart]:
        return [part for parts in self.indexes.values() for part in parts]

    @property
    def rows(self) -> int:
        """Approximate number of rows in data files, indexes and rejects."""
        owned = sum(receipt.rejected for receipt in self.receipts if receipt.owned)
        return sum(receipt.embedded for receipt in self.receipts) + owned + sum(part.rows for part in self.parts)

    def candidates(self) -> Iterator[tuple[int, Receipt | IndexPart]]:
        """Data files and index parts with documents of shards, in order: of two with the same id, the first is live.

        Each comes with the number of its first row among all of them. Those without a shard are last.
        """
        owned: defaultdict[str, list[Receipt]] = defaultdict(list)
        for receipt in self.receipts:
            if receipt.owned:
                owned[receipt.shard].append(receipt)
        number = 0
        for uri in dict.fromkeys([*(record.uri for record in self.shards), *self.indexes, *owned]):
            for receipt in sorted(owned[uri], key=lambda r: r.start):
                yield number, receipt
                number += receipt.vectors
            for part in self.indexes.get(uri, ()):
                yield number, part
                number += part.rows

    @property
    def deleted(self) -> int:
        return self.deletes.rows


def _same(deletes: DeadRows, parts: Mapping[str, DeadPart], listed: Mapping[str, Positions]) -> bool:
    return parts.keys() == listed.keys() and all(np.array_equal(deletes[name], listed[name]) for name in parts)


def look_into(store: Store, key: str, look: Callable[[bytes], T]) -> T | str:
    """``look`` applied to the bytes of a file, or a sentence about its damage. Raises ObjectNotFound, StorageError."""
    try:
        return look(store.read(key))
    except (OSError, ValueError, pa.ArrowException) as error:
        return damage(key, error)


def damage(key: str, error: Exception) -> str:
    """A sentence about a file that cannot be read."""
    return f"{key} is damaged: {' '.join(str(error).split())}"


def difference(found: pa.Schema, expected: pa.Schema) -> str:
    """How ``found`` differs from ``expected``, which is not equal to it."""
    for column in expected:
        at = found.get_field_index(column.name)
        if at < 0:
            return f"no column {column.name}"
        if not found.field(at).equals(column):
            return f"{found.field(at)} where the table has {column}"
    return f"the columns {', '.join(found.names)}, the table {', '.join(expected.names)}"
