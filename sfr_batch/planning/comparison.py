"""`compare`: reads the changed shards and makes the plan exact.

An `EmbedPlan` is an upper bound while nobody has read the changed shards. `compare` finds which of their rows have a
vector already and returns a `ComparisonRun`: the exact plan, and what drafting needs of the comparison. Writes nothing.
"""

import contextlib
import dataclasses
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from sfr_batch.corpus.splits import cut
from sfr_batch.errors import ObjectNotFound, TableError
from sfr_batch.format.parquet import read_receipt
from sfr_batch.format.records import Receipt
from sfr_batch.planning.assignment import SplitNames, assign_work
from sfr_batch.planning.difference import Difference
from sfr_batch.planning.executor import Executor
from sfr_batch.planning.limits import check_deletes
from sfr_batch.planning.plan import EmbedPlan
from sfr_batch.planning.row_comparison import (
    UNIT_BYTES,
    UNIT_ROWS,
    KnownVectors,
    RowComparison,
    RowNumbers,
    compare_rows,
)
from sfr_batch.planning.scan import TaskContext
from sfr_batch.planning.selection import RejectRow
from sfr_batch.storage.parallel import in_parallel

_PARALLEL_READS = 32


@dataclass(frozen=True)
class ComparisonRun:
    """A finished comparison. Lives as long as its executor, in whose memory the hashes of the rows are."""

    plan: EmbedPlan
    """The exact plan."""
    difference: Difference
    """The same as ``plan.difference``."""
    rows: RowComparison
    assigned: Mapping[str, RowNumbers]
    """The rows of each packed and copied split, in order, by split id."""
    unpublished: tuple[Receipt, ...]
    """Receipts of data files of interrupted runs."""

    @property
    def executor(self) -> Executor:
        return self.rows.executor

    def read_old_rejects(self) -> Sequence[RejectRow]:
        """Rejects of the base snapshot that may stay. Not kept: a table may have many, and drafting asks once."""
        return self.plan.selection.old_rejects(self.plan.base)

    def sources(self) -> dict[str, Receipt]:
        """Receipts of all data files that vectors may be copied from, by split id."""
        return {receipt.split_id: receipt for receipt in [*self.plan.base_receipts, *self.unpublished]}


def compare(plan: EmbedPlan, executor: Executor) -> ComparisonRun:
    """Read the changed shards and compare them with what the table has of them.

    Raises TooManyDeletes, CorpusError, TableError.
    """
    base, selection, generation = plan.base, plan.selection, plan.config.table.generation
    retried = selection.old_rejects(base) if plan.config.select.rejects else []
    context = TaskContext(
        corpus=plan.config.corpus,
        columns=plan.columns,
        table=plan.store.root,
        table_storage=plan.config.table.storage,
        schema=plan.card.schema,
        fingerprint=plan.card.fingerprint,
        row_filter=selection.row_filter(plan.columns, retried),
    )
    units = [unit for survey in plan.surveys for unit in cut(survey, UNIT_ROWS, UNIT_BYTES, ("scan",), frozenset())]
    unpublished = _read_unpublished(plan)
    known = KnownVectors(plan.old, plan.base_receipts, unpublished, generation)
    found = compare_rows(executor, context, units, known)
    changes = selection.changes(found.changes)
    if base is not None:
        counts = base.manifest.counts
        documents = counts.embedded + counts.reused + counts.kept
        check_deletes(changes.deleted, documents, plan.config.table, plan.store.root)
    condemned = base.read_condemned() if base else frozenset[str]()
    split_names = SplitNames(plan.identity_of, condemned)
    assignment = assign_work(found, changes, plan.limits, split_names, keep_own_splits=selection.keeps_own_splits)
    difference = assignment.difference
    own = [unit for unit in plan.units if unit.shard.uri in difference.fresh]
    exact = dataclasses.replace(plan, units=(*own, *difference.packed), difference=difference)
    return ComparisonRun(exact, difference, found, assignment.rows, tuple(unpublished))


def _read_unpublished(plan: EmbedPlan) -> list[Receipt]:
    """Receipts of the data files of interrupted runs, except damaged ones and those that were swept meanwhile."""

    def read(split_id: str) -> Receipt | None:
        with contextlib.suppress(TableError, ObjectNotFound):
            return dataclasses.replace(read_receipt(plan.store, split_id), owned=False)
        return None

    return [receipt for receipt in in_parallel(read, plan.unpublished, _PARALLEL_READS) if receipt]
