"""What one snapshot names, and how its files are read: whatever is wrong with one comes back as a sentence."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import TypeVar

import pyarrow as pa

from sfr_batch.manifest import Receipt, ShardRecord
from sfr_batch.storage import Store
from sfr_batch.table import Positions, Snapshot

T = TypeVar("T")

AHEAD = 16
"""Small files that are read at a time."""


@dataclass(frozen=True)
class Contents:
    """A snapshot, all that its side files say read once."""

    snapshot: Snapshot
    receipts: list[Receipt]
    deletes: dict[str, Positions]
    """Positions in data files that are not live, by split id."""
    shards: list[ShardRecord]
    condemned: frozenset[str]

    @staticmethod
    def read(snapshot: Snapshot) -> "Contents":
        """Raises TableError, StorageError or ArrowException if a side file cannot be read."""
        return Contents(snapshot, snapshot.receipts, snapshot.deletes(), snapshot.shards, snapshot.condemned)

    @property
    def documents(self) -> int:
        """Documents in the data files, dead ones included."""
        return sum(receipt.embedded for receipt in self.receipts)

    @property
    def deleted(self) -> int:
        return sum(map(len, self.deletes.values()))


def look_into(store: Store, key: str, look: Callable[[bytes], T]) -> T | str:
    """What ``look`` makes of a file, or a sentence on its damage. Raises ObjectNotFound, StorageError."""
    try:
        return look(store.read(key))
    except (OSError, ValueError, pa.ArrowException) as error:
        return f"{key} is damaged: {' '.join(str(error).split())}"


def difference(found: pa.Schema, expected: pa.Schema) -> str:
    """What is different in ``found``, which is not equal to ``expected``."""
    for column in expected:
        at = found.get_field_index(column.name)
        if at < 0:
            return f"no column {column.name}"
        if not found.field(at).equals(column):
            return f"{found.field(at)} where the table has {column}"
    return f"the columns {', '.join(found.names)}, the table {', '.join(expected.names)}"
