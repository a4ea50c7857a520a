"""`embed`: plan, run what is missing, publish. Repeating it resumes it.

The table of contents of a run. It knows no stage and no device. Where to embed is decided only if there are splits to
embed, and Ray is imported only if they run on Ray: on a finished table nothing starts.
"""

import contextlib
import dataclasses
import time
from collections.abc import Iterator, Mapping, Sequence

from sfr_batch.config.settings import Config
from sfr_batch.errors import RunFailed, SnapshotConflict, StorageError, TableError, counted
from sfr_batch.format import unforeseen
from sfr_batch.format.records import Receipt
from sfr_batch.format.run_accounts import PUBLISHED, RunAccount
from sfr_batch.pipeline import interrupt, local, placement
from sfr_batch.pipeline.acceptance import accept
from sfr_batch.pipeline.attempt import Attempt, begun
from sfr_batch.pipeline.copy_vectors import copy_all
from sfr_batch.pipeline.display import say
from sfr_batch.pipeline.job import make_job
from sfr_batch.pipeline.price.limits import planned
from sfr_batch.pipeline.progress import Progress
from sfr_batch.pipeline.progress_record import ProgressRecord
from sfr_batch.pipeline.results import Failure, Losses
from sfr_batch.pipeline.run_log import RunLog, recover_receipts
from sfr_batch.pipeline.summary import Summary
from sfr_batch.planning import remarks
from sfr_batch.planning.comparison import ComparisonRun, compare, shards_to_read_again
from sfr_batch.planning.drafting import draft
from sfr_batch.planning.make import make_plan
from sfr_batch.planning.plan import EmbedPlan
from sfr_batch.planning.remarks import format_changes
from sfr_batch.planning.table_ids import ids_to_read
from sfr_batch.storage.executor import ROWS_HERE, Executor, InProcess
from sfr_batch.table.commit import lease
from sfr_batch.table.commit.attempts import attempts_since
from sfr_batch.table.commit.clocks import tell_lifted, tell_skew
from sfr_batch.table.commit.damage import refuse
from sfr_batch.table.commit.publish import publish, superseded
from sfr_batch.table.commit.reject_limits import FEW_REJECTS, too_many_rejects
from sfr_batch.table.commit.writing import check_store, create_or_open, new_run_id, record_types
from sfr_batch.table.table import Snapshot, Table

_ATTEMPTS = 10
"""Plans of one call: a plan is made anew if another run published first."""
_SHOWN = 3
"""Errors that the message of a failed run has."""
PLAN_AGAIN = frozenset[str]()
"""No shards that must be read: the plan was made too early, for whatever reason."""
_ROWS_HERE, _BYTES_HERE = ROWS_HERE, 2**30
"""Rows of corpus and table, and bytes of the corpus, up to which the comparison runs in this process; and rows of the
table up to which it is published here."""
_IDS_A_ROW = 8
"""As many ids of the table, or texts of a lender, are read in the time in which one row is compared. With another rule
than the table's, ids are compared, too."""


def embed(config: Config) -> Summary:
    """Make the table what the config says it should be; safe to repeat, and to kill at any moment.

    Raises RunFailed if splits failed (what succeeded is committed), TooManyDeletes, TooManyChanges, TooManyRejects,
    TooExpensive, SnapshotConflict, and whatever planning raises.
    """
    again: frozenset[str] = frozenset()
    with begun(config) as attempt:
        for _ in range(_ATTEMPTS):
            outcome = _attempt(config, again, attempt)
            if isinstance(outcome, Summary):
                attempt.succeeded(outcome)
                return outcome
            attempt.plan_again()
            again |= outcome
        raise SnapshotConflict(
            f"Gave up after {_ATTEMPTS} snapshot conflicts: other runs keep publishing to {config.table.path}. Make "
            "sure that only one run writes to it, then run the command again."
        )


def _attempt(config: Config, again: frozenset[str], attempt: Attempt) -> Summary | frozenset[str]:
    """Plan, lease, compare, run, publish. If it has to be planned again, returns shards that must then be read: none if
    another run published meanwhile, whose work counts; see also `shards_to_read_again`."""
    started = time.monotonic()
    plan = make_plan(config)
    if plan.lost and plan.base:
        if superseded(Table(plan.store, plan.card), plan.base):
            return PLAN_AGAIN  # an expiry has removed the files of what is no longer the newest snapshot
        raise refuse(plan.base, plan.lost)
    if plan.up_to_date:
        return Summary.of(plan, time.monotonic() - started)
    needs_model = bool(plan.todo) or plan.accepts or plan.settles_ids
    place = placement.choose(config) if needs_model else placement.HERE
    if needs_model and not plan.has_to_compare:
        placement.check(place, config)
    check_store(plan.store, config.table.storage)
    warn(tell_skew(plan.store))
    table = create_or_open(plan.store, plan.card)
    if not plan.is_for(table):
        return PLAN_AGAIN  # another run, perhaps of an older release, has created it since the plan was made
    run_id = new_run_id()
    with (
        lease.hold(table.store, holder_of(run_id, place), config.run.lease_s, say=say) as held,
        contextlib.ExitStack() as stack,
    ):
        if held.waited or superseded(table, plan.base):
            return PLAN_AGAIN  # the holder before has committed or published since the plan was made: do not pay twice
        attempt.holds(held.holder)
        try:
            comparison = None
            if plan.has_to_compare:
                comparison, place = compare_rows(plan, place, stack, again)
                plan = comparison.plan
            if plan.changes_nothing:
                return Summary.of(plan, time.monotonic() - started)
            return embed_and_publish(plan, comparison, table, run_id, place, held, stack, started, again, attempt)
        except (TableError, StorageError, RunFailed):
            if not superseded(table, plan.base):
                raise
            return PLAN_AGAIN


def embed_and_publish(
    plan: EmbedPlan,
    comparison: ComparisonRun | None,
    table: Table,
    run_id: str,
    place: str,
    held: lease.Lease,
    stack: contextlib.ExitStack,
    started: float,
    again: frozenset[str],
    attempt: Attempt,
) -> Summary | frozenset[str]:
    """Do what an exact plan says, under a lease, and publish it, unless it is a trial.

    place: where to embed, see `placement`. stack: ends the display of progress. started: of the run, by
    `time.monotonic`. again: shards that were read although they have not changed. Returns others instead of a summary
    if they have to be read as well.
    """
    price = planned(plan)
    if plan.accepts:
        plan, comparison = _accept(table, plan, comparison, run_id, place)
    if not plan.states_layout:
        record_types(table, plan.card, run_id)
    run = RunLog(table.store, plan, run_id, attempt.account(), price)
    attempt.writes(run)
    publisher = _publisher(plan, place, stack)
    progress = attempt.progress = _progress(plan, run_id)
    stack.enter_context(ProgressRecord(table.store, run_id, progress))
    receipts = [*_run(plan, table, run, progress, place, held, stack), *_copy(comparison, run)]
    if comparison and (rivals := shards_to_read_again(comparison, receipts) - again):
        return rivals
    if plan.config.select.limit:
        return Summary.of(plan, time.monotonic() - started, progress, price=price)
    progress.enter("publishing")
    held.confirm()
    snapshot = publish(table, plan.base, draft(plan, run_id, receipts, comparison, publisher), publisher)
    interrupt.published = snapshot.number
    warn(tell_lifted(snapshot))
    # Before data/ is listed, which takes time that is not the run's.
    summary = Summary.of(plan, time.monotonic() - started, progress, snapshot, price)
    own = attempt.account(PUBLISHED, snapshot.number)
    return _reported(summary, table, run, progress, own, receipts)


def _reported(
    summary: Summary, table: Table, run: RunLog, progress: Progress, own: RunAccount, receipts: Sequence[Receipt]
) -> Summary:
    """The summary of a run that has published, with its report written. That may fail: the run has succeeded."""
    try:
        plain = summary.snapshot is not None and _is_plain(table, summary.snapshot)
        summary = dataclasses.replace(summary, plain=plain, repeated=run.repeated(progress))
        run.report(summary, progress, [*attempts_since(table, run.run_id, receipts), own])
    except Exception as error:  # whatever it is
        say(f"Warning: the snapshot is published, but the report of the run could not be written: {error}")
    return summary


def _progress(plan: EmbedPlan, run_id: str) -> Progress:
    return Progress(
        len(plan.todo_splits),
        plan.rows,
        plan.store.root,
        run_id,
        plan.config.run.progress_every_s,
        estimated=not plan.rows_are_exact,
    )


def _run(
    plan: EmbedPlan,
    table: Table,
    run: RunLog,
    progress: Progress,
    place: str,
    held: lease.Lease,
    stack: contextlib.ExitStack,
) -> list[Receipt]:
    """Receipts of all splits of the plan that are encoded: by an earlier run, or by this one.

    If there are any to encode, the progress is shown from then on until ``stack`` is left.
    """
    interrupt.progress, interrupt.published = progress, None
    earlier = recover_receipts(table, plan)
    progress.earlier = sum(receipt.embedded for receipt in earlier)
    return [*earlier, *_embed_missing(plan, run, progress, place, held, stack)]


def compare_rows(
    plan: EmbedPlan, place: str, stack: contextlib.ExitStack, again: frozenset[str]
) -> tuple[ComparisonRun, str]:
    """The comparison, and where to embed. A large one runs on Ray, which ends with ``stack``."""
    executor: Executor = InProcess()
    rows = plan.rows_to_compare + ids_to_read(plan) // (1 if plan.rule_changed else _IDS_A_ROW)
    rows += plan.lender.manifest.counts.vectors // _IDS_A_ROW if plan.lender else 0
    if rows > _ROWS_HERE or plan.bytes_to_compare > _BYTES_HERE:
        from sfr_batch.pipeline import execution, tasks  # imports ray, which takes seconds

        place = placement.LOCAL if place == placement.HERE else place
        placement.check(place, plan.config)
        stack.enter_context(execution.cluster(plan.config, place))
        executor = tasks.OnRay("comparing the corpus with the table")
    comparison = compare(plan, executor, again)
    if plan.duplicate_rule:
        lost = counted(comparison.settled.losing.rows, "row")
        say(f"Looked through the ids: {lost} not embedded, because others with their ids count")
    if comparison.difference.changes and not plan.remains:  # of a repair, the changes are those of a loss
        changes = format_changes(comparison.difference.changes, keeps=plan.config.table.delete == "keep")
        say(f"Compared the changed shards with the table: {changes}")
    if plan.lender:
        say(remarks.lender(plan.lender, comparison.difference))
    if comparison.difference.taken and not plan.remains:
        say(remarks.taken(comparison.difference.taken, first=plan.base is None))
    if comparison.plan.todo:
        placement.check(place, plan.config)
    return comparison, place


def _publisher(plan: EmbedPlan, place: str, stack: contextlib.ExitStack) -> Executor | None:
    """What publishes a large table: tasks on the cluster that the run has. None: this process.

    A cluster is joined until ``stack`` is left, and before progress is shown, because stderr is held back meanwhile.
    """
    rows = sum(split.rows for split in plan.splits) + sum(receipt.vectors for receipt in plan.base_receipts)
    if rows <= _ROWS_HERE or plan.config.select.limit:
        return None
    place = placement.choose(plan.config) if place == placement.HERE else place  # HERE too if there is nothing to embed
    if place == placement.HERE or (place == placement.LOCAL and not placement.has_ray()):
        return None
    from sfr_batch.pipeline import execution, tasks  # imports ray, which takes seconds

    stack.enter_context(execution.cluster(plan.config, place))
    return tasks.OnRay("publishing")


def _accept(
    table: Table, plan: EmbedPlan, comparison: ComparisonRun | None, run_id: str, place: str
) -> tuple[EmbedPlan, ComparisonRun | None]:
    """Accept inputs of the fingerprint that an older table does not record; both know it then."""
    placement.check(place, plan.config)
    adopted = [*recover_receipts(table, plan), *(comparison.unpublished if comparison else ())]
    accepted = accept(table, plan, make_job(plan, run_id), adopted, place)
    return accepted, dataclasses.replace(comparison, plan=accepted) if comparison else None


def _copy(comparison: ComparisonRun | None, run: RunLog) -> list[Receipt]:
    """Commit the splits whose vectors are copied."""
    if comparison is None or not comparison.difference.copies:
        return []
    receipts = []
    for receipt in copy_all(comparison, run.run_id):
        receipts.append(receipt)
        run.add(receipt)
    run.close()
    return receipts


def holder_of(run_id: str, place: str) -> lease.Holder:
    """Who holds the lease for a run of this process."""
    cluster = None if place in (placement.HERE, placement.LOCAL) else place
    return lease.Holder.of_this_process(run_id, ray_job=placement.submission_id(), ray_address=cluster)


def warn(text: str) -> None:
    """Tell the user something that is no result, if there is something to tell."""
    if text:
        say(text)


def _is_plain(table: Table, snapshot: Snapshot) -> bool:
    if snapshot.read_deletes() or snapshot.files_with_other_columns():
        return False
    return set(table.committed()) == set(snapshot.split_ids())


def _embed_missing(
    plan: EmbedPlan, run: RunLog, progress: Progress, place: str, held: lease.Lease, stack: contextlib.ExitStack
) -> list[Receipt]:
    if not plan.todo:
        return []
    config = plan.config
    receipts: list[Receipt] = []
    errors: dict[str, list[str]] = {}
    """The shards of each error."""
    with _results(plan, run, place, progress) as results, contextlib.closing(run):
        stack.enter_context(progress)  # not before: while Ray starts, what is written to stderr is held back
        for result in results:
            held.check()
            if isinstance(result, Receipt):
                receipts.append(result)
                progress.add(result)
                run.add(result)
                if config.select.limit and progress.read >= config.select.limit:
                    return receipts
                if _too_many_rejects(plan, progress):
                    share = config.run.max_reject_share
                    raise too_many_rejects(plan.store, receipts, 0, progress.rejected, progress.read, share)
                continue
            if isinstance(result, Losses):
                progress.losses = result
                continue
            errors.setdefault(result.error, []).append(result.shard)
            progress.fail()
            if progress.failed > config.run.max_failed_splits:
                break
    missing = plan.missing(receipt.split_id for receipt in receipts)
    if missing:
        raise _failure(len(plan.done) + len(receipts), missing, errors)
    return receipts


def _too_many_rejects(plan: EmbedPlan, progress: Progress) -> bool:
    """Whether `publish` will refuse however good the rest is: this ends the run hours earlier.

    Numbers of rows may be estimates; then twice as many are assumed to come.
    """
    rest = max(0, plan.rows - progress.read) * (1 if plan.rows_are_exact else 2)
    allowed = plan.config.run.max_reject_share * (progress.read + rest)
    return progress.rejected > max(FEW_REJECTS, allowed)


@contextlib.contextmanager
def _results(
    plan: EmbedPlan, run: RunLog, place: str, progress: Progress
) -> Iterator[Iterator[Receipt | Failure | Losses]]:
    """The results of the splits to embed, as they come from ``place``. Leaving the context stops the work."""
    job, told = make_job(plan, run.run_id), (progress.enter, progress.actors.count, progress.work.add)
    if place == placement.HERE:
        with contextlib.closing(local.execute(plan.todo, job, *told)) as results:
            yield results
        return
    from sfr_batch.pipeline import execution  # imports ray, which takes seconds
    from sfr_batch.pipeline.metrics.exporting import exported

    told_on_ray = (*told, progress.asides.add)
    with (
        execution.cluster(plan.config, place),
        exported(progress, lambda: run.repeated(progress)),
        contextlib.closing(execution.execute(plan.todo, job, plan.config, *told_on_ray)) as results,
    ):
        yield results


def _failure(done: int, missing: int, errors: Mapping[str, Sequence[str]]) -> RunFailed:
    """errors: the shards of each error."""
    first = [(*unforeseen.parts(error), shards) for error, shards in list(errors.items())[:_SHOWN]]
    shown = "\n".join(f"  {_with_shards(error, shards)}" for error, _, shards in first)
    return RunFailed(
        f"{missing:,} of {counted(done + missing, 'split')} did not finish. Nothing was published. Committed: "
        f"{counted(done, 'split')}; the same command continues with the rest.\n{shown}",
        "\n".join(trace for _, trace, _ in first if trace),
    )


def _with_shards(error: str, shards: Sequence[str]) -> str:
    """An error that does not name its shard, with the first one and the number of the others."""
    if shards[0] in error:
        return error
    others = len(set(shards)) - 1
    return f"{shards[0]}{f' and {others:,} more' if others else ''}: {error}"
