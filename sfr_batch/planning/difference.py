"""The result of a comparison, as a value: which shards keep their splits, what is packed, what is copied."""

from dataclasses import dataclass
from typing import NamedTuple

from sfr_batch.corpus.splits import ReadUnit
from sfr_batch.format.records import ChangeCounts


class Lender(NamedTuple):
    """Another table that vectors are copied from: its root, and the fingerprint in its data files."""

    table: str
    fingerprint: str


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
    copies: tuple[str, ...]
    """Split ids of rows of indexed shards whose vectors are copied."""
    copied_vectors: int
    """Number of vectors that are copied."""
    taken: int = 0
    """Rows that take vectors of data files that the base snapshot does not have, such as an interrupted run's."""
    borrowed: int = 0
    """Rows that take vectors of another table, see `lending`."""
