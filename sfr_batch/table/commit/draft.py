"""What is about to be published: receipts, shards and indexes of the next snapshot."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

from sfr_batch.format.records import (
    ChangeCounts,
    IndexPart,
    Receipt,
    ShardRecord,
)


@dataclass(frozen=True)
class Draft:
    """What a run wants to publish: the corpus that it covers, and the data files with its vectors by their receipts."""

    run_id: str
    generation: str
    row_recipe: dict[str, Any]
    receipts: Sequence[Receipt]
    """Of all data files that are owned by shards, or that an index may point into."""
    shards: Sequence[ShardRecord]
    """In order; `manifest.KEPT` last."""
    new: frozenset[str]
    """Split ids among them that the base snapshot does not have and whose vectors were computed."""
    indexes: Mapping[str, Sequence[IndexPart]] = field(default_factory=dict)
    """Of the shards whose rows are not just those of their own data files."""
    visited: frozenset[str] | None = None
    """URIs of the shards that the run has read; None: those of the new data files."""
    changes: ChangeCounts | None = None
    operation: Literal["embed", "backfill", "compact"] = "embed"
    duplicate_ids: str = "reject"
    max_reject_share: float = 1.0
    """Share of rejects, in 0 to 1, above which nothing is published."""
