"""The result of a comparison, as a value: which shards keep their splits, what is packed, what is copied."""

from dataclasses import dataclass
from typing import NamedTuple

import pyarrow as pa
import pyarrow.compute as pc

from sfr_batch.corpus.splits import ReadUnit
from sfr_batch.format import names
from sfr_batch.format.records import ChangeCounts


class Lender(NamedTuple):
    """Another table that vectors are copied from: its root, and the fingerprint in its data files."""

    table: str
    fingerprint: str


@dataclass(frozen=True)
class Copy:
    """A split whose vectors are copied from other data files."""

    unit: ReadUnit
    sources: pa.Table
    """[rows] split_id, row and vectors: the data file, the first row there, and the number of rows."""
    lender: Lender | None = None
    """The table of these data files; None: the one that is written."""

    @property
    def split_id(self) -> str:
        return self.unit.splits[0].split_id


@dataclass(frozen=True)
class Difference:
    """What the run has to do with the compared shards."""

    changes: ChangeCounts | None
    """None if rows were only looked through for equal ids."""
    fresh: frozenset[str]
    """URIs of the shards that keep their own splits, because no row of them has a vector."""
    indexed: frozenset[str]
    """URIs of all other shards that have a selected row; each gets an index."""
    packed: tuple[ReadUnit, ...]
    """Rows of indexed shards that are encoded, a split each."""
    copies: tuple[Copy, ...]
    """Rows of indexed shards whose vectors are copied."""
    taken: int = 0
    """Rows that take vectors of data files that the base snapshot does not have, such as an interrupted run's."""
    borrowed: int = 0
    """Rows that take vectors of another table, see `lending`."""

    @property
    def copied_vectors(self) -> int:
        """Number of vectors that are copied."""
        return sum(int(pc.sum(copy.sources.column(names.VECTORS)).as_py()) for copy in self.copies)
