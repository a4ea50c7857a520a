"""What must hold of a table after a kill, and when the same command has been run again. One function each."""

import hashlib
import json
from collections import Counter
from collections.abc import Mapping, Set

import numpy as np
from numpy.typing import NDArray

from sfr_batch.checks.audit.auditor import audit
from sfr_batch.config.settings import Config
from sfr_batch.format import names
from sfr_batch.format.parquet import read_receipts
from sfr_batch.format.split_ids import missing_in_stream, stream_of
from sfr_batch.planning.comparison import compare
from sfr_batch.planning.make import make_plan
from sfr_batch.planning.plan import EmbedPlan
from sfr_batch.storage.executor import InProcess
from sfr_batch.storage.parallel import read_many
from sfr_batch.storage.store import TEMPORARY, Store
from sfr_batch.storage.stores import open_store
from sfr_batch.table.search import vectors_of
from sfr_batch.table.table import Snapshot, Table

Objects = dict[str, str]
"""SHA-256 by key."""
Vectors = Mapping[str, NDArray[np.float32]]

MUTABLE = (TEMPORARY, "_sfr/lease")


class Broken(AssertionError):
    """A promise of the table that does not hold."""


def check(good: bool, what: str) -> None:
    if not good:
        raise Broken(what)


def open_table_store(config: Config) -> Store:
    return open_store(config.table.path, config.table.storage)


def objects_of(store: Store) -> Objects:
    """All that must never change once it is there. Where a run is, is removed as it goes on."""
    listed = [info.key for info in store.list("") if not info.key.startswith(MUTABLE)]
    keys = [key for key in listed if names.number_of_progress_key(key) is None]
    return {k: hashlib.sha256(data).hexdigest() for k, data in zip(keys, read_many(store, keys), strict=True)}


def splits_in(objects: Objects) -> set[str]:
    return {split_id for key in objects if (split_id := names.split_of_data_key(key))}


def plan_of(config: Config) -> EmbedPlan:
    """What a run would do now, with the comparison that it makes first."""
    plan = make_plan(config)
    return compare(plan, InProcess()).plan if plan.has_to_compare else plan


def check_unchanged(before: Objects, after: Objects) -> None:
    """Nothing that was there at a kill is changed or gone."""
    wrong = sorted(key for key in before if after.get(key) != before[key])
    check(not wrong, f"an object has changed or is gone: {', '.join(wrong[:3])}")


def check_new_splits(plan: EmbedPlan, before: Objects, after: Objects) -> None:
    """Between the plan and now, just the planned splits were written that were not there."""
    present, new = splits_in(before), splits_in(after) - splits_in(before)
    prefixes = {unit.stream.prefix for unit in plan.units if unit.stream}
    of_streams = {split_id for split_id in new if stream_of(split_id)[0] in prefixes}
    planned = {split.split_id for unit in plan.units for split in unit.splits}
    check(
        new - of_streams == planned - present,
        f"{len(new - of_streams)} splits were written, {len(planned - present)} planned ones were missing",
    )
    for prefix in prefixes:
        found = [stream_of(split_id)[1:] for split_id in splits_in(after) if stream_of(split_id)[0] == prefix]
        check(len(found) == len(dict(found)), f"a split of the stream {prefix} is there as the last one and as another")
        check(missing_in_stream(found) == 0, f"the stream {prefix} is not complete")


def check_report(table: Table, new: set[str], heard: Set[str] = frozenset()) -> None:
    """The newest snapshot's run says that it encoded as many splits as it has written.

    new: splits whose data files have appeared since that run was ordered. Some may be of the run before: a worker that
    outlives its driver finishes what it was given. heard: those that the run knows to be committed; if such a worker
    was faster, its file counts for the run.
    """
    run_id = table.current().manifest.run_id
    report = json.loads(table.store.read(names.run_key(run_id, "report.json")))
    receipts = read_receipts(table.store, sorted(new))
    written = sum(receipt.run_id == run_id or receipt.split_id in heard for receipt in receipts)
    check(
        report["splits"] == written,
        f"the last run encoded {report['splits']} splits and wrote {written} of {len(new)} new data files: "
        "finished ones were repeated",
    )


def check_snapshot(snapshot: Snapshot, read: int, expected: Vectors) -> None:
    """A reader finds every id once, with the reference's vector, and all other rows among the rejects."""
    rows = snapshot.to_arrow(["id", "embedding"])
    ids = rows["id"].to_pylist()
    twice = [id_ for id_, number in Counter(ids).items() if number > 1]
    check(not twice, f"snapshot {snapshot.number}: ids more than once, e.g. {twice[:3]}")
    missing, foreign = expected.keys() - set(ids), set(ids) - expected.keys()
    check(
        not missing and not foreign, f"snapshot {snapshot.number}: {len(missing)} ids missing, {len(foreign)} foreign"
    )
    vectors = vectors_of(rows["embedding"].combine_chunks())
    reference = np.stack([expected[id_] for id_ in ids]) if ids else vectors
    check(np.array_equal(vectors, reference), f"snapshot {snapshot.number}: vectors are not the reference's")
    rejected = snapshot.rejects().num_rows
    check(read == len(ids) + rejected, f"snapshot {snapshot.number}: {read} rows are {len(ids)} + {rejected} rejects")


def check_table(config: Config, read: int, expected: Vectors) -> Table:
    """The finished table: up to date, sound by its audit, and holding what it should. Returns it."""
    plan = make_plan(config)
    check(plan.up_to_date, f"the table is not up to date after a run that ended well: {plan!r}")
    table = Table.open(plan.store)
    check_snapshot(table.current(), read, expected)
    found = audit(table, against=plan)
    check(found.ok, f"the audit fails:\n{found.describe()}")
    return table
