"""`compare`: reads the changed shards and makes the plan exact.

An `EmbedPlan` is an upper bound while nobody has read the changed shards. `compare` finds which of their rows have a
vector already and returns a `ComparisonRun`: the exact plan, and what drafting needs of the comparison. Writes nothing.
"""

import contextlib
import dataclasses
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from functools import cached_property

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from sfr_batch.corpus.splits import cut
from sfr_batch.errors import ConfigError, ObjectNotFound, TableError, counted
from sfr_batch.format import names
from sfr_batch.format.hashes import Hashes
from sfr_batch.format.parquet import read_receipt, read_rejects
from sfr_batch.format.records import KEPT, ChangeCounts, Receipt
from sfr_batch.planning.assignment import SplitNames, assign_work
from sfr_batch.planning.committed_splits import CommittedSplits
from sfr_batch.planning.difference import Difference
from sfr_batch.planning.join import sorted_ids
from sfr_batch.planning.left_documents import LeftIds
from sfr_batch.planning.lending import borrow
from sfr_batch.planning.limits import Deletes, check_changes, check_deletes
from sfr_batch.planning.make import make_plan
from sfr_batch.planning.packed_rows import PackedSplits
from sfr_batch.planning.plan import EmbedPlan
from sfr_batch.planning.row_comparison import (
    UNIT_BYTES,
    UNIT_ROWS,
    KnownVectors,
    RowComparison,
    compare_rows,
)
from sfr_batch.planning.scan import TaskContext
from sfr_batch.planning.settled_ids import SettledIds, settle_ids
from sfr_batch.planning.table_ids import read_rejected
from sfr_batch.storage.executor import Executor
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
    encoded: PackedSplits
    """Packed splits that are encoded; what is copied is not among them."""
    copied: tuple[PackedSplits, ...]
    """Packed splits whose vectors are copied."""
    unpublished: tuple[Receipt, ...]
    """Receipts of data files of interrupted runs."""
    settled: SettledIds
    turned: Hashes
    """[k, 2] ids, of `sorted_ids`, of documents in the corpus that cannot be embedded today; those of shards that were
    not read only if a document may be kept."""

    @property
    def executor(self) -> Executor:
        return self.rows.executor

    @cached_property
    def as_before(self) -> frozenset[str]:
        """URIs of the changed shards whose rows are those that the base snapshot knows: they are read for a label."""
        known = {(record.uri, record.version, record.recipe) for record in self.plan.old_records}
        return frozenset(
            shard.uri
            for shard, _ in self.plan.changed
            if not shard.touched and (shard.uri, shard.version, self.plan.recipes.of(shard)) in known
        )

    @cached_property
    def thinned(self) -> frozenset[str]:
        """URIs of compared shards without an index, of whose documents some give way to selected rows of other shards.

        They have changed since, or are no longer in the corpus: the row has moved. In a shard that is as it was, it is
        a second row of the id, and the rule for duplicates decides.
        """
        holding = self.rows.selected.holding if self.rows.selected else frozenset[str]()
        return holding - self.difference.indexed - self.as_before - {KEPT}

    def read_old_rejects(self) -> pa.Table | None:
        """Rejects of the base snapshot that may stay, of the shards that get a new index. Not kept: there may be many,
        and drafting asks once."""
        return self.plan.selection.old_rejects(self.plan.base, self.difference.indexed | self.thinned)


def compare(plan: EmbedPlan, executor: Executor, again: frozenset[str] = frozenset()) -> ComparisonRun:
    """Read the changed shards and compare them with what the table has of them.

    again: URIs of unchanged shards that have to be read, too, see `shards_to_read_again`. Raises TooManyDeletes,
    TooManyChanges, CorpusError, TableError, ConfigError.
    """
    plan, settled = _settle(plan, executor, again)
    base, selection = plan.base, plan.selection
    retried = selection.old_rejects(base) if plan.config.select.rejects else None
    context = TaskContext(
        corpus=plan.config.corpus,
        columns=plan.columns,
        table=plan.store.root,
        table_storage=plan.config.table.storage,
        layout=plan.layout,
        fingerprint=plan.card.fingerprint,
        row_filter=selection.row_filter(plan.columns, retried),
        duplicate_rule=plan.duplicate_rule,
        wants_rejects=bool(settled.contests),
    )
    whole = plan.compares_rows
    compared = [
        survey
        for survey in plan.surveys
        if (whole and survey.shard.uri not in plan.begun) or survey.shard.uri in settled.losing.shards
    ]
    units = [unit for survey in compared for unit in cut(survey, UNIT_ROWS, UNIT_BYTES, ("scan",), frozenset())]
    unpublished = _read_unpublished(plan)
    known = KnownVectors(plan.old, plan.base_receipts, unpublished, selection.generation)
    found = selection.narrowed(compare_rows(executor, context, units, known, settled.losing))
    turned = _turned(plan, found)
    left = found.left.count(executor, turned, settled.unchanged)
    borrowed = borrow(_without_leaving(plan, found), plan.lender)
    found = borrowed.found
    counts = whole and (base is not None or selection.always_compares)
    changes = selection.changes(_correct(found.changes, settled, left)) if counts else None
    if base is not None and changes is not None:
        check_deletes(Deletes(changes.deleted, left.turned), base, plan.config.table, plan.reasons)
        other_ids = base.manifest.row_recipe.get("id") != plan.row_recipe["id"] or plan.config.corpus.id is None
        encoded = changes.model_copy(update={"changed": max(0, changes.changed - borrowed.rows)})
        check_changes(encoded, base, plan.config.table, plan.reasons, other_ids=other_ids)
    condemned = base.read_condemned() if base else frozenset[str]()
    split_names = SplitNames(plan.identity_of, condemned)
    assignment = assign_work(
        found,
        changes,
        plan.limits,
        split_names,
        keep_own_splits=selection.keeps_own_splits,
        partly_done=CommittedSplits(plan.units, plan.committed).begun,
        unread=frozenset(shard.uri for shard, _ in plan.changed) - {survey.shard.uri for survey in compared},
        losing=settled.losing.shards,
    )
    difference = dataclasses.replace(assignment.difference, taken=found.taken, borrowed=borrowed.rows)
    own = [unit for unit in plan.units if unit.shard.uri in difference.fresh]
    exact = dataclasses.replace(plan, units=(*own, *difference.packed), difference=difference)
    packed = assignment.encoded, assignment.copied
    return ComparisonRun(exact, difference, found, *packed, tuple(unpublished), settled, turned)


def _settle(plan: EmbedPlan, executor: Executor, again: frozenset[str]) -> tuple[EmbedPlan, SettledIds]:
    """Which rows count, and the plan with all shards that have to be read for it."""
    while True:
        if again:
            plan = make_plan(plan.config, again, plan.remains)
            missing = sorted(again - {shard.uri for shard, _ in plan.changed})
            if missing or plan.config.select.by_rows:
                raise ConfigError(
                    f"table.duplicate_ids: {counted(len(again), 'shard')}, e.g. {min(again)}, must be read, because "
                    "rows there take the place of rows that have left, have become smaller or cannot be embedded, and "
                    "select does not cover all rows there. Run once without select."
                )
        settled = settle_ids(plan, executor)
        if settled.again <= again:
            return plan, settled
        again |= settled.again


def _turned(plan: EmbedPlan, found: RowComparison) -> Hashes:
    """See `ComparisonRun.turned`; without documents that have left, none. Unchanged shards may have rejects, too: reads
    them, if a document may be kept."""
    if not found.left.parts or plan.selection.always_compares:
        return np.empty((0, 2), np.uint64)
    rejected = [found.rejected_ids]
    if plan.config.table.delete == "keep" or plan.selection.keeps_kept:
        carried = plan.shards_of(record.uri for record in plan.carried if record.uri != KEPT)
        rejected += [ids for _, ids in read_rejected(plan, carried, names.OF_NO_DOCUMENT)]
    return sorted_ids(np.concatenate(rejected))


def _without_leaving(plan: EmbedPlan, found: RowComparison) -> RowComparison:
    """The comparison, without the documents that have left the corpus if all of them leave the table."""
    if any(plan.selection.owner_of_left(record) is not None for record in plan.old_records):
        return found
    return dataclasses.replace(found, left=found.left.released())


def _correct(counts: ChangeCounts, settled: SettledIds, left: LeftIds) -> ChangeCounts:
    """The changes, seeing that unchanged shards may have an id, too."""
    if settled.unchanged is None:
        return counts
    replaced = min(settled.replaced, counts.new)
    return counts.model_copy(
        update={
            "deleted": max(0, counts.deleted - left.unchanged),
            "new": counts.new - replaced,
            "changed": counts.changed + replaced,
        }
    )


def shards_to_read_again(run: ComparisonRun, receipts: Iterable[Receipt]) -> frozenset[str]:
    """Unchanged shards whose rows would be live only because the row that counts for their id was rejected.

    It counts nevertheless, so these rows have to lose their vectors: compare again, reading the shards. Happens
    rarely: with a row that cannot be read, is too long or fails in the encoder, while an older one is in the table.
    receipts: of the splits of the plan.
    """
    if not run.settled.contests:
        return frozenset()
    store = run.plan.store

    def rejected() -> Iterator[tuple[str, NDArray[np.int64]]]:
        yield from run.rows.rejected
        for receipt in receipts:
            found = read_rejects(store, receipt, published=False)
            for uri in found.column(names.SHARD).unique().to_pylist():
                own = found.filter(pc.equal(found.column(names.SHARD), uri))
                yield uri, own.column(names.POSITION).to_numpy()

    return run.settled.rivals_of(run.executor, rejected())


def _read_unpublished(plan: EmbedPlan) -> list[Receipt]:
    """Receipts of the data files of interrupted runs, except damaged ones and those that were swept meanwhile."""

    def read(split_id: str) -> Receipt | None:
        with contextlib.suppress(TableError, ObjectNotFound):
            return dataclasses.replace(read_receipt(plan.store, split_id), owned=False)
        return None

    return [receipt for receipt in in_parallel(read, plan.unpublished, _PARALLEL_READS) if receipt]
