"""The contents of a snapshot to be published: its receipts, shards and indexes."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

from sfr_batch.format.layout import Layout
from sfr_batch.format.records import (
    ChangeCounts,
    DuplicateRule,
    IndexPart,
    Receipt,
    ShardRecord,
)


@dataclass(frozen=True)
class Draft:
    """What a run wants to publish: the corpus that it covers, and the receipts of the data files with its vectors."""

    run_id: str
    generation: str
    row_recipe: dict[str, Any]
    receipts: Sequence[Receipt]
    """Receipts of all data files that shards own or that an index may point to."""
    shards: Sequence[ShardRecord]
    """Records of the shards in order; `records.KEPT` last."""
    new: frozenset[str]
    """Split ids of the receipts that the base snapshot does not have and whose vectors were computed."""
    indexes: Mapping[str, Sequence[IndexPart]] = field(default_factory=dict)
    """Index parts by shard URI, for shards that have rows in data files that they do not own."""
    visited: frozenset[str] | None = None
    """URIs of the shards that the run has read; None for the shards of the new data files."""
    changes: ChangeCounts | None = None
    operation: Literal["embed", "backfill", "compact", "repair"] = "embed"
    condemned: frozenset[str] | None = None
    """All condemned names, where a repair adds some; None repeats those of the base snapshot."""
    duplicate_ids: str = "first"
    """`error`: publish nothing if ids occur twice."""
    duplicate_rule: DuplicateRule | None = None
    """Which row of an id is live; None: the first."""
    layout: Layout | None = None
    """The columns of the snapshot; None: those of the base snapshot, or of the table."""
    accepted: Mapping[str, Any] | None = None
    """Inputs of the fingerprint that the table's card lacks; None repeats those of the base snapshot."""
    corpus: Mapping[str, Any] | None = None
    """The version of the table that was read as the corpus, see `Manifest.corpus`."""
    max_reject_share: float = 1.0
    """Maximum share of rejects, in 0 to 1. Above it, nothing is published."""
