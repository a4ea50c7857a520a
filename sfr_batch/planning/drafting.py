"""`draft`: what to publish once every split of a plan is committed. Writes the index files that the draft names.

Index files carry the run's name, so that a draft that is never published harms nobody; a sweep removes them.
"""

import dataclasses
from collections.abc import Iterable, Mapping, Sequence

import numpy as np
import pyarrow as pa

from sfr_batch.format import names
from sfr_batch.format.fingerprint import digest
from sfr_batch.format.hashes import Hashes
from sfr_batch.format.records import KEPT, PACKED, Receipt, ShardRecord
from sfr_batch.planning.comparison import ComparisonRun
from sfr_batch.planning.index_writing import StayingDocuments, WrittenIndexes, write_indexes
from sfr_batch.planning.join import sorted_ids, split_by
from sfr_batch.planning.pack_indexes import write_pack_indexes
from sfr_batch.planning.plan import EmbedPlan
from sfr_batch.planning.scan import by_shard
from sfr_batch.planning.selection import Coverage
from sfr_batch.storage.executor import Executor
from sfr_batch.table.commit.draft import Draft
from sfr_batch.table.commit.publish import next_number


def draft(
    plan: EmbedPlan,
    run_id: str,
    receipts: Iterable[Receipt],
    comparison: ComparisonRun | None = None,
    executor: Executor | None = None,
) -> Draft:
    """The next snapshot. Writes its index files.

    receipts: of every split of the plan, in any order; comparison: the one that made the plan, if it was compared;
    executor: for the indexes of packs, see `write_pack_indexes`. Raises TableError, StorageError.
    """
    assert (comparison is None) == (plan.difference is None), "a compared plan goes with its comparison"
    done = list(receipts)
    written, adopted = _finish(comparison, done, run_id) if comparison else (WrittenIndexes(), [])
    if plan.packs:
        written = write_pack_indexes(plan, done, next_number(plan.base), run_id, executor)
    difference = plan.difference
    indexed = difference.indexed if difference else frozenset[str]()
    thinned = comparison.thinned if comparison else frozenset[str]()
    untouched = plan.selection.untouched(plan.old_records, indexed | thinned) if difference else []
    carried = [*plan.carried, *untouched]
    uris = {record.uri for record in carried}
    parts = {uri: its for uri, its in plan.base_indexes.items() if uri in uris} | written.parts
    records = [
        *_new_records(plan, done, indexed, written.coverage),
        *plan.selection.remaining(plan.vanished, written.coverage),
        *_thinned_records(plan, thinned, written.coverage),
    ]
    owners = frozenset(uri for uri in uris if uri not in parts)
    files = {r.split_id: dataclasses.replace(r, owned=r.owned and r.shard in owners) for r in plan.base_receipts}
    known = frozenset(files)
    files |= {r.split_id: r for r in adopted}
    files |= {r.split_id: dataclasses.replace(r, owned=r.shard != PACKED and r.shard not in indexed) for r in done}
    return Draft(
        run_id=run_id,
        generation=plan.config.table.generation,
        row_recipe=plan.row_recipe,
        receipts=sorted(files.values(), key=lambda r: (not r.owned, r.shard, r.start)),
        shards=[*sorted([*carried, *records], key=lambda s: s.uri), *_kept_record(plan, written.coverage)],
        new=frozenset(r.split_id for r in files.values() if r.split_id not in known and not r.copied),
        indexes=parts,
        visited=frozenset(shard.uri for shard, _ in plan.changed),
        changes=difference.changes if difference else None,
        operation=plan.selection.operation,
        condemned=plan.selection.condemned,
        duplicate_ids=plan.config.table.duplicate_ids,
        duplicate_rule=plan.duplicate_rule,
        layout=plan.layout,
        accepted=plan.later_inputs or None,
        corpus=plan.corpus_version,
        max_reject_share=plan.config.run.max_reject_share,
    )


def _finish(comparison: ComparisonRun, done: Sequence[Receipt], run_id: str) -> tuple[WrittenIndexes, list[Receipt]]:
    """Write the indexes. Also returns receipts of the data files of interrupted runs whose vectors are reused."""
    written = _write_indexes(comparison, {receipt.split_id: receipt for receipt in done}, run_id)
    return written, [receipt for receipt in comparison.unpublished if receipt.split_id in comparison.rows.used]


def _write_indexes(comparison: ComparisonRun, receipts: Mapping[str, Receipt], run_id: str) -> WrittenIndexes:
    """Write the indexes of the compared shards: their rows, and documents and rejects that stay in the table."""
    plan, indexed = comparison.plan, comparison.difference.indexed
    rewritten = indexed | comparison.thinned
    staying = StayingDocuments(
        others=[shard for shard in plan.old if plan.selection.keeps_others(shard.record.uri, rewritten)],
        own_ids=_own_ids(comparison),
        owners=[plan.selection.owner_of_left(record) for record in plan.old_records],
        turned=comparison.turned,
    )
    splits, rejects = (comparison.encoded, *comparison.copied), _staying_rejects(comparison)
    return write_indexes(comparison.rows, splits, receipts, indexed, staying, rejects, next_number(plan.base), run_id)


def _own_ids(comparison: ComparisonRun) -> dict[str, Hashes]:
    """Ids of the selected rows of each indexed shard that is as it was, of `sorted_ids`, by its URI."""
    rows = comparison.rows
    if not rows.selected:
        return {}
    shards = comparison.difference.indexed & comparison.as_before
    return {uri: sorted_ids(rows.selected.ids[rows.rows_of(rows.shards[uri])]) for uri in shards}


def _staying_rejects(comparison: ComparisonRun) -> dict[str, pa.Table]:
    """By shard that gets a new index, the rejects of the base snapshot that are not among the selected rows.

    Among them are rows that gave way to another row with their id and have no vector. Those with a vector are not:
    they are found anew when the snapshot is published.
    """
    rejects, rows = comparison.read_old_rejects(), comparison.rows
    if rejects is None or not rejects.num_rows:
        return {}
    rejects = rejects.combine_chunks()  # taking a few rows costs as much as there are arrays
    shards = rejects.column(names.SHARD).combine_chunks().dictionary_encode()
    uris, which = shards.dictionary.to_pylist(), shards.indices.to_numpy().astype(np.int64)
    found = {}
    for uri, its in zip(uris, split_by(which, np.arange(len(which)), len(uris)), strict=True):
        own = rejects.take(pa.array(its))
        if rows.selected and uri in rows.shards:  # no row is selected where the corpus has none
            again = rows.selected.positions[rows.rows_of(rows.shards[uri])]
            own = own.filter(pa.array(~np.isin(own.column(names.POSITION).to_numpy(), again)))
        found[uri] = own
    return found


def _new_records(
    plan: EmbedPlan, done: Sequence[Receipt], indexed: frozenset[str], coverage: Mapping[str, Coverage]
) -> list[ShardRecord]:
    """The records of the changed shards. coverage: of the shards that have an index."""
    before = {record.uri: record for record in plan.old_records}
    own = by_shard(receipt for receipt in done if receipt.shard != PACKED)
    return [
        plan.selection.record(
            shard,
            plan.recipes.of(shard),
            coverage.get(shard.uri) or _coverage_of(own.get(shard.uri, [])),
            before.get(shard.uri),
        )
        for shard, _ in plan.changed
        if plan.selection.covers_anew(shard.uri, indexed)
    ]


def _thinned_records(plan: EmbedPlan, thinned: frozenset[str], coverage: Mapping[str, Coverage]) -> list[ShardRecord]:
    """The records of shards of which documents have moved elsewhere; without a version, so that the next night reads
    them whatever they are then. A shard that has nothing left has none."""
    return [
        dataclasses.replace(coverage[record.uri].put_into(record), version="")
        for record in plan.old_records
        if record.uri in thinned and record.uri in coverage
    ]


def _coverage_of(own: Sequence[Receipt]) -> Coverage:
    return Coverage(sum(r.read for r in own), sum(r.rejected for r in own), len(own))


def _kept_record(plan: EmbedPlan, coverage: Mapping[str, Coverage]) -> list[ShardRecord]:
    """The record of documents that are kept although they have left the corpus, if there are any."""
    kept = coverage.get(KEPT)
    return [ShardRecord(KEPT, "", 0, digest(plan.row_recipe), "", kept.read, 0, kept.rejected)] if kept else []
