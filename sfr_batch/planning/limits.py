"""Limits of a run: rows and bytes of a split, and how many documents may be deleted or embedded again."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

import pyarrow as pa

from sfr_batch.config.settings import Config, RunSettings, TableSettings
from sfr_batch.corpus.splits import Split, rows_by_text
from sfr_batch.errors import TooManyChanges, TooManyDeletes
from sfr_batch.format import names
from sfr_batch.format.layout import Layout
from sfr_batch.format.records import ChangeCounts, TableCard
from sfr_batch.table.table import Snapshot

BYTES_PER_TOKEN = 4.0
"""English prose under a 32,000-piece vocabulary; code and other languages have fewer. Estimates carry a ``~``."""
FEW_DELETES = 100
"""Deleted documents that are always allowed, whatever their share of a small table."""
FEW_CHANGES = 100
"""The same for documents that are embedded again."""


@dataclass(frozen=True)
class SplitLimits:
    """The largest split, and the number of splits that a small corpus is cut into."""

    rows: int | None
    """`run.rows_per_split`; None: as the text has it."""
    vectors: int
    """Rows whose vectors fit into `run.vector_bytes_per_split`."""
    bytes: int
    """Of text."""
    min_splits: int

    def rows_of(self, rows: int, text_bytes: int) -> int:
        """The most rows of a split of these ``rows``, which have ``text_bytes`` bytes of text."""
        return min(rows_by_text(self.rows, rows, text_bytes), self.vectors)


def split_identity(config: Config, card: TableCard, recipe: str, layout: Layout) -> tuple[str, ...]:
    """What the name of a split depends on, beside its place in a shard. recipe: digest of the row recipe.

    The layout is not part of it as long as it is that of the table's card.
    """
    return recipe, card.fingerprint, config.table.generation, *filter(None, [layout.covers])


def limits_of_a_split(run: RunSettings, card: TableCard) -> SplitLimits:
    """The limits of a split, such that its vectors take at most ``run.vector_bytes_per_split`` bytes.

    With chunks the number of vectors is estimated from the bytes of text.
    """
    vectors = max(1, run.vector_bytes_per_split // vector_bytes(card.schema))
    inputs = card.fingerprint_inputs
    size = run.bytes_per_split
    if inputs["overflow"] == "chunk":
        new_tokens = inputs["chunk_tokens"] - inputs["chunk_overlap"]
        size = min(size, int(vectors * new_tokens * BYTES_PER_TOKEN))
    return SplitLimits(run.rows_per_split, vectors, size, run.min_splits)


def estimate_tokens(splits: Sequence[Split], card: TableCard) -> int:
    """Tokens to compute for these splits, without what is truncated, and with the tokens that chunks share."""
    inputs = card.fingerprint_inputs
    if inputs["overflow"] == "chunk":
        shared = float(inputs["chunk_overlap"] / inputs["chunk_tokens"])
        return round(sum(split.text_bytes for split in splits) / BYTES_PER_TOKEN / (1 - shared))
    limit = int(inputs["max_length"])
    return round(sum(min(split.text_bytes / BYTES_PER_TOKEN, split.rows * limit) for split in splits))


def vector_bytes(schema: pa.Schema) -> int:
    """Bytes of one vector in the table."""
    vector = schema.field(names.EMBEDDING).type
    return int(vector.list_size * vector.value_type.bit_width // 8)


class Deletes(NamedTuple):
    """Documents that a run deletes, and how many of them are still in the corpus, but cannot be embedded today."""

    documents: int
    rejected: int = 0


def check_deletes(deletes: Deletes, base: Snapshot, settings: TableSettings, reasons: Sequence[str] = ()) -> None:
    """Raises TooManyDeletes if a run would delete more documents of ``base`` than ``settings`` allow.

    reasons: see `planning.reasons`.
    """
    share, deleted, documents = settings.max_delete_share, deletes.documents, documents_of(base)
    if settings.delete != "refuse-above-share" or deleted <= max(FEW_DELETES, share * documents):
        return
    rejected = min(deletes.rejected, deleted)
    what = "are no longer in the corpus"
    if rejected:
        what = f"would leave it: {deleted - rejected:,} {what}, {rejected:,} are there but cannot be embedded any more"
    left = "those that are no longer in the corpus" if rejected else "them"
    raise TooManyDeletes(
        f"{deleted:,} of the {documents:,} documents of {base.store.root} ({deleted / documents:.1%}) {what}, and "
        f"table.max_delete_share allows {share:.0%}. {_because(reasons, 'The corpus may be incomplete')} Nothing was "
        "embedded or published. Correct the corpus or its settings. If the documents were removed on purpose: "
        f"table.delete=mirror deletes them in this run, table.delete=keep keeps {left}."
    )


def check_changes(
    changes: ChangeCounts, base: Snapshot, settings: TableSettings, reasons: Sequence[str] = (), *, other_ids: bool
) -> None:
    """Raises TooManyChanges if a run would embed more documents of ``base`` again than ``settings`` allow.

    reasons: see `planning.reasons`. other_ids: whether documents have other ids than before, so that those that are new
    may be those that are deleted.
    """
    share, documents = settings.max_changed_share, documents_of(base)
    again = changes.changed + (min(changes.new, changes.deleted) if other_ids else 0)
    if share is None or settings.generation or again <= max(FEW_CHANGES, share * documents):
        return
    raise TooManyChanges(
        f"{again:,} of the {documents:,} documents of {base.store.root} ({again / documents:.1%}) would be embedded "
        f"again, and table.max_changed_share allows {share:.0%}. {_because(reasons, 'Their texts have changed')} "
        "Nothing was embedded or published. Correct the corpus or its settings. If the change is meant: "
        "table.max_changed_share=1 embeds them in this run; a label in table.generation embeds all documents again."
    )


def _because(reasons: Sequence[str], otherwise: str) -> str:
    return f"The reason may be a setting: {'. Also, '.join(reasons)}." if reasons else f"{otherwise}."


def documents_of(base: Snapshot) -> int:
    """The documents with vectors in a snapshot."""
    counts = base.manifest.counts
    return counts.embedded + counts.reused + counts.kept
