"""Limits of splits and of deletes: how many rows and bytes a split may hold, how many documents may leave."""

from typing import Any

import pyarrow as pa

from sfr_batch.config.settings import Config, RunSettings
from sfr_batch.format import names
from sfr_batch.format.fingerprint import digest
from sfr_batch.format.records import TableCard
from sfr_batch.planning.difference import Limits

BYTES_PER_TOKEN = 4.0
"""English prose under a 32,000-piece vocabulary; code and other languages have fewer. Estimates carry a ``~``."""


def split_identity(config: Config, card: TableCard, row_recipe: dict[str, Any]) -> tuple[str, ...]:
    """What names a split beside its place in a shard."""
    return digest(row_recipe), card.fingerprint, config.table.generation


def limits_of_a_split(run: RunSettings, card: TableCard) -> Limits:
    """Rows and bytes of text that a split holds at most, so that its vectors stay within what they may take.

    With chunks the bytes of text decide how many vectors there are.
    """
    vectors = max(1, run.vector_bytes_per_split // _vector_bytes(card.schema))
    inputs = card.fingerprint_inputs
    size = run.bytes_per_split
    if inputs["overflow"] == "chunk":
        new_tokens = inputs["chunk_tokens"] - inputs["chunk_overlap"]
        size = min(size, int(vectors * new_tokens * BYTES_PER_TOKEN))
    return Limits(min(run.rows_per_split, vectors), size, run.min_splits)


def _vector_bytes(schema: pa.Schema) -> int:
    vector = schema.field(names.EMBEDDING).type
    return int(vector.list_size * vector.value_type.bit_width // 8)
