"""`repair`: has the rows of lost files again, at the cost of these rows, and publishes.

A writer like any other: it plans on what is left of the newest snapshot, embeds under the lease, and publishes the next
number or plans again. Overwrites and deletes nothing; what is lost is condemned. Knows no stage and no device.
"""

import contextlib
import dataclasses
import time
from dataclasses import dataclass

import numpy as np

from sfr_batch.config.settings import Config, SelectSettings
from sfr_batch.errors import (
    ConfigError,
    CorpusError,
    RunFailed,
    SnapshotConflict,
    StorageError,
    TableDamaged,
    TableError,
    TableNotFound,
    counted,
)
from sfr_batch.format import names
from sfr_batch.format.hashes import Hashes
from sfr_batch.format.indexes import read_owned
from sfr_batch.format.notebook import html_table
from sfr_batch.format.records import Receipt
from sfr_batch.pipeline import placement, runner
from sfr_batch.pipeline.attempt import Attempt, begun
from sfr_batch.pipeline.display import say
from sfr_batch.pipeline.summary import Summary
from sfr_batch.planning.comparison import ComparisonRun, compare
from sfr_batch.planning.make import make_plan
from sfr_batch.planning.plan import EmbedPlan
from sfr_batch.planning.rebuilding import remains_of_files
from sfr_batch.planning.repairing import Gone, find_gone
from sfr_batch.storage.executor import InProcess
from sfr_batch.storage.parallel import in_parallel
from sfr_batch.storage.store import Store
from sfr_batch.storage.stores import open_store
from sfr_batch.table.commit import lease
from sfr_batch.table.commit.clocks import tell_skew
from sfr_batch.table.commit.damage import lost_manifests
from sfr_batch.table.commit.inventory import Look
from sfr_batch.table.commit.publish import superseded
from sfr_batch.table.commit.remains import Remains, find_remains
from sfr_batch.table.commit.writing import check_store, create_or_open, new_run_id
from sfr_batch.table.pointer import refuse_pointer
from sfr_batch.table.table import Snapshot, Table

_ATTEMPTS = 10
_SHOWN = 20
_AHEAD = 8


@dataclass(frozen=True)
class Repair:
    """What a repair found, and what it did or would do."""

    table: str
    """Path of the table."""
    base: Snapshot
    """The snapshot that was looked at."""
    lost: tuple[str, ...]
    """A sentence on each lost or damaged file."""
    deep: bool
    """Whether the files were read too."""
    files: int
    """Data files of the snapshot."""
    manifests: tuple[str, ...] = ()
    """Sentences on manifests that are missing, if nothing else is lost: a repair cannot have them again."""
    plan: EmbedPlan | None = None
    """The exact plan; None if nothing is lost."""
    gone: tuple[Gone, ...] = ()
    """Documents that cannot be had any more."""
    summary: Summary | None = None
    """What was done; None if nothing was written."""

    def __repr__(self) -> str:
        return f"<Repair {self.table}: {counted(len(self.lost), 'file')} lost>"

    def _repr_html_(self) -> str:
        lines = self._lines()
        title = lines.pop(-1 if self.plan else 0)
        return html_table([(line[:10].strip(), line[10:]) for line in lines], title=title)

    def describe(self) -> str:
        """Several lines for a person."""
        return "\n".join(self._lines())

    def _lines(self) -> list[str]:
        number, files = self.base.number, counted(self.files, "data file")
        if self.plan is None:
            whole = (
                f"whole, {files} read" if self.deep else f"there, {files} of the right sizes. --deep also reads them"
            )
            return [
                f"Nothing to repair: all files of snapshot {number} are {whole}.",
                *(f"manifest  {m}." for m in self.manifests),
            ]
        lines = [f"table     {self.table} ({self.base.brief() if self.base.exists else 'no snapshot left'})"]
        lines += [f"lost      {wrong}" for wrong in self.lost[:_SHOWN]]
        lines += [f"          and {len(self.lost) - _SHOWN:,} more"] if len(self.lost) > _SHOWN else []
        lines += [f"gone      {item}" for item in self.gone]
        lent = self.plan.difference.borrowed if self.plan.difference else 0
        borrowed = f"{counted(lent, 'row')} from table.reuse_from" if lent else ""
        rows = f"{counted(self.plan.rows, 'row')} of {counted(len(self.plan.changed), 'shard')}"
        if self.summary is None or self.summary.snapshot is None:
            lines.append(f"to embed  {rows}, ~{counted(self.plan.estimated_tokens, 'token')}")
            lines += [f"to copy   vectors of {borrowed}"] if borrowed else []
            accept = (
                "--write --accept-loss does it, without the documents that are gone" if self.gone else "--write does it"
            )
            return [*lines, f"Nothing was written; {accept}."]
        snapshot = self.summary.snapshot
        lines.append(f"embedded  {counted(self.summary.embedded, 'row')}, {counted(self.summary.tokens, 'token')}")
        lines += [f"copied    vectors of {borrowed}"] if borrowed else []
        lines.append(f"Repaired: {snapshot.brief()}. {self._older()}")
        return lines

    def _older(self) -> str:
        if not self.plan or not self.lost:
            return ""
        if not self.base.exists:
            return "Earlier snapshots are lost."
        return "Snapshots before it stay damaged until `sfr-batch expire` removes them."


def repair(config: Config, look: Look | None = None, *, write: bool = False, accept_loss: bool = False) -> Repair:
    """Have the rows of lost files again: embed them and publish a snapshot, or only tell what it takes.

    look: reads a data file and says what is wrong with it; None: missing files and wrong sizes are found by listing
    alone. write: do it. accept_loss: also if some documents cannot be had any more; else TableError. Raises
    TableNotFound, TableInUse, SnapshotConflict, RunFailed, and what planning raises.
    """
    with begun(config) if write else contextlib.nullcontext() as attempt:
        found = _repair(config, look, attempt, accept_loss=accept_loss)
        if attempt and found.summary:
            attempt.succeeded(found.summary)
        elif attempt:
            attempt.found_nothing()
        return found


def _repair(config: Config, look: Look | None, attempt: Attempt | None, *, accept_loss: bool) -> Repair:
    """attempt: None only tells what it takes."""
    store = open_store(config.table.path, config.table.storage)
    seen: dict[str, str | None] = {}

    def look_once(table: Table, receipt: Receipt) -> str | None:
        if receipt.split_id not in seen:
            seen[receipt.split_id] = look(table, receipt) if look else None
        return seen[receipt.split_id]

    again: frozenset[str] = frozenset()
    for _ in range(_ATTEMPTS):
        refuse_pointer(store)
        looking = look_once if look else None
        remains = _find(config, store, looking)
        found = _attempt(config, remains, again, attempt, deep=look is not None, accept_loss=accept_loss)
        if isinstance(found, Repair):
            return found
        if attempt:
            attempt.plan_again()
        again |= found
    raise SnapshotConflict(
        f"Gave up after {_ATTEMPTS} snapshot conflicts: other runs keep publishing to {config.table.path}. Make sure "
        "that only one run writes to it, then run the command again."
    )


def _find(config: Config, store: Store, look: Look | None) -> Remains:
    try:
        table = Table.open(store)
    except TableDamaged:
        return remains_of_files(config, store, look)
    remains = find_remains(table, look)
    if remains is None and (lost := lost_manifests(table, [])):
        raise TableNotFound(f"No snapshot of {store.root} can be read, so there is nothing to repair. {lost[0]}.")
    if remains is None:
        raise TableNotFound(
            f"Nothing has been published in {store.root} yet, so there is nothing to repair. To complete its run, "
            "repeat the same `sfr-batch embed`."
        )
    return remains


def _attempt(
    config: Config,
    remains: Remains,
    again: frozenset[str],
    attempt: Attempt | None,
    *,
    deep: bool,
    accept_loss: bool,
) -> Repair | frozenset[str]:
    """Shards that must be read as well if it has to be planned again, as in `runner.embed`."""
    started = time.monotonic()
    left, table = remains.inventory, remains.table
    found = Repair(table.store.root, remains, tuple(left.sentences), deep, left.files)
    if superseded(table, remains):
        return runner.PLAN_AGAIN  # an expiry may have removed files of what is no longer the newest
    if left.sound:
        manifests = lost_manifests(table, table.published_numbers())
        return dataclasses.replace(found, manifests=tuple(manifests))
    plan = _plan(config, remains)
    if attempt is None:
        comparison = compare(plan, InProcess(), again) if plan.has_to_compare else None
        plan = comparison.plan if comparison else plan
        return _told(found, plan, _gone(plan, remains, comparison))
    run_id = new_run_id()
    place = placement.choose(config) if plan.todo or plan.accepts or plan.settles_ids else placement.HERE
    check_store(plan.store, config.table.storage)
    runner.warn(tell_skew(plan.store))
    with (
        lease.hold(table.store, runner.holder_of(run_id, place), config.run.lease_s, say=say) as held,
        contextlib.ExitStack() as stack,
    ):
        if held.waited or superseded(table, remains):
            return runner.PLAN_AGAIN
        attempt.holds(held.holder)
        try:
            comparison = None
            if plan.has_to_compare:
                comparison, place = runner.compare_rows(plan, place, stack, again)
                plan = comparison.plan
            gone = _gone(plan, remains, comparison)
            if gone and not accept_loss:
                raise _refuse(table, gone)
            summary = runner.embed_and_publish(
                plan, comparison, table, run_id, place, held, stack, started, again, attempt
            )
            if not isinstance(summary, Summary):
                return summary
            create_or_open(table.store, table.card)  # after the manifest: until then `embed` must not take it for new
        except (TableError, StorageError, RunFailed):
            if not superseded(table, remains):
                raise
            return runner.PLAN_AGAIN
    return _told(found, plan, gone, summary)


def _told(found: Repair, plan: EmbedPlan, gone: list[Gone], summary: Summary | None = None) -> Repair:
    return dataclasses.replace(found, plan=plan, gone=tuple(gone), summary=summary)


def _plan(config: Config, remains: Remains) -> EmbedPlan:
    """The plan of the repair: with the settings of the run that published, of the version of a table that it read."""
    manifest = remains.manifest
    whole = names.SNAPSHOTS not in remains.inventory.sides_lost
    retype = [] if whole else config.table.retype  # the last run has taken the types
    settings = config.table.model_copy(update={"generation": manifest.generation, "retype": retype})
    config = config.model_copy(update={"table": settings, "select": SelectSettings()})
    corpus, read = config.corpus, manifest.corpus
    plan = None
    if corpus.is_table and corpus.version is None and read and read["path"] == corpus.path:
        at_version = corpus.model_copy(update={"version": read["version"]})
        with contextlib.suppress(CorpusError):  # the version was vacuumed
            plan = make_plan(config.model_copy(update={"corpus": at_version}), remains=remains)
    plan = plan or make_plan(config, remains=remains)
    before, today = manifest.row_recipe, plan.row_recipe  # without settings that have their default
    other = [f"corpus.{key}" for key in sorted({*before, *today}) if today.get(key) != before.get(key)]
    if other and whole:
        raise ConfigError(
            f"{', '.join(other)}: a repair reads the rows as the last run did, and snapshot {remains.number} of "
            f"{remains.store.root} was read with other settings. Use the config of that run. `sfr-batch embed` applies "
            "the new settings afterwards."
        )
    return plan


def _gone(plan: EmbedPlan, remains: Remains, comparison: ComparisonRun | None) -> list[Gone]:
    if not remains.inventory.documents and not remains.inventory.everything:
        return []
    today = {shard.uri: shard.version for shard, _ in plan.changed}
    in_files = (
        _ids_in_files(plan, remains) if plan.config.table.delete == "keep" and not remains.inventory.records else None
    )
    return find_gone(remains, today, comparison.rows if comparison else None, in_files)


def _ids_in_files(plan: EmbedPlan, remains: Remains) -> Hashes:
    """[n] hashes of the ids of all documents in data files that can be used."""

    def read(receipt: Receipt) -> Hashes:
        return read_owned(plan.store, receipt, plan.layout, plan.card.fingerprint, hashes=False).ids

    receipts = remains.inventory.receipts
    return np.concatenate([np.empty((0, 2), np.uint64), *in_parallel(read, receipts, _AHEAD)])


def _refuse(table: Table, gone: list[Gone]) -> TableError:
    listed = "\n".join(f"  {item}" for item in gone[:_SHOWN])
    return TableError(
        f"Some documents of {table.store.root} were in lost files and cannot be had any more. Nothing was embedded or "
        f"published.\n{listed}\nRestore these files from a copy, or repair the table without these documents: "
        "`sfr-batch repair CONFIG --write --accept-loss`."
    )
