"""`embed`: plan, run what is missing, publish. Running it again is the resume.

The table of contents of a run. Where splits are embedded is decided only when there are some, and Ray is imported
only when they are embedded on Ray: on a finished table nothing starts.
"""

import contextlib
import json
import sys
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field

from sfr_batch import lease
from sfr_batch import schema as names
from sfr_batch.commit import FEW_REJECTS, create_or_open, new_run_id, publish, superseded, too_many_rejects
from sfr_batch.comparison import Executor, InProcess
from sfr_batch.config import Config
from sfr_batch.errors import RunFailed, SnapshotConflict, StorageError, TableError
from sfr_batch.manifest import Counts, Receipt, utc_now
from sfr_batch.parquet import encode_parquet, read_receipts
from sfr_batch.pipeline import interrupt, local, placement
from sfr_batch.pipeline.progress import Progress, duration
from sfr_batch.pipeline.results import Failure, Losses
from sfr_batch.pipeline.stages import Job, copy
from sfr_batch.planning import EmbedPlan, make_plan, tell_changes
from sfr_batch.retries import counted
from sfr_batch.storage import ObjectInfo, Store, read_many
from sfr_batch.table import Snapshot, Table

_PLANS = 10
"""How often to plan again because somebody else published first."""
_ROWS_HERE, _BYTES_HERE = 2**21, 2**30
"""Rows of corpus and table, and bytes of the corpus, that are compared in this process at most."""
_RECEIPTS_PER_FILE = 256
_RECEIPT_FILE_EVERY_S = 30.0


@dataclass(frozen=True)
class Summary:
    """What a run did."""

    table: str
    snapshot: Snapshot | None
    """The newest one; None after a trial on a table that has none."""
    splits: int
    """Splits that this run embedded."""
    embedded: int
    """Rows that this run embedded."""
    tokens: int
    seconds: float
    tokens_per_second: float
    padding: float
    published: bool
    """Whether there is a new snapshot."""
    plain: bool = False
    """Whether `data/` holds just this snapshot's rows, so that any engine may read it as a directory."""
    canaries: int = 0
    """How often a canary text was encoded along with a split."""
    drift: float = 0.0
    """Largest 1 - cosine between a canary's vector among other rows and the one it has by itself."""
    repeated: Mapping[str, int] = field(default_factory=dict)
    """Requests to S3 that this process had to repeat, by reason."""
    losses: Losses = field(default_factory=Losses)
    """Nodes and actors that died in the middle. What they had in hand was done again elsewhere."""
    trial: bool = False
    """Whether it was one (`select.limit`), which publishes nothing whatever it embeds."""

    @classmethod
    def of_nothing(cls, plan: EmbedPlan, seconds: float) -> "Summary":
        """Of a run that had nothing to do."""
        return cls(plan.store.root, plan.base, 0, 0, 0, seconds, 0.0, 0.0, published=False)

    @classmethod
    def of_trial(cls, plan: EmbedPlan, progress: Progress, seconds: float) -> "Summary":
        """Of a run that embeds some rows and publishes nothing."""
        return cls(
            table=plan.store.root,
            snapshot=plan.base,
            splits=progress.splits_done,
            embedded=progress.embedded,
            tokens=progress.tokens,
            seconds=seconds,
            tokens_per_second=progress.tokens_per_second,
            padding=progress.padding,
            published=False,
            canaries=progress.canaries,
            drift=progress.drift,
            losses=progress.losses,
            trial=True,
        )

    def __repr__(self) -> str:
        did = f"{self.embedded:,} rows embedded in {duration(self.seconds)}" if self.splits else "nothing to embed"
        lost = f", lost {self.losses}" if self.losses else ""
        state = self.snapshot.brief() if self.snapshot else "no snapshot yet"
        return f"<Summary {self.table}: {did}{lost}, {state}>"

    @staticmethod
    def _vectors(counts: Counts) -> str:
        """How many vectors they have, where that is not one each."""
        documents = counts.embedded + counts.reused + counts.kept
        return f"; {counts.vectors:,} chunks" if counts.vectors != documents else ""

    def describe(self) -> str:
        """Several lines for a person: what happened, where the table is and how to read it."""
        if self.trial:
            return (
                f"A trial: embedded {self.embedded:,} rows, {self.tokens:,} tokens in {duration(self.seconds)} "
                f"({self.tokens_per_second:,.0f} tokens/s, {self.padding:.1%} padding). Nothing was published; what is "
                "embedded stays committed, and a run without select.limit uses it."
            )
        if self.snapshot is None:
            return f"Nothing to do: select means no row of the corpus. {self.table} has no snapshot yet."
        counts = self.snapshot.manifest.counts
        if not self.published:
            head = f"Up to date, nothing to do ({duration(self.seconds)})."
        else:
            head = (
                f"Embedded {self.embedded:,} rows, {self.tokens:,} tokens in {duration(self.seconds)} "
                f"({self.tokens_per_second:,.0f} tokens/s, {self.padding:.1%} padding)."
            )
        if self.published and not self.splits:
            head = f"Nothing had to be embedded ({duration(self.seconds)})."
        changes = self.snapshot.manifest.changes if self.published else None
        lines = [
            head,
            f"Table     {self.table}, snapshot {self.snapshot.number}",
            f"Rows      {counts.read:,} read = {counts.embedded:,} embedded + {counts.reused:,} reused + "
            f"{counts.rejected:,} rejected{self._vectors(counts)}"
            + (f"; {counts.kept:,} kept that are not in the corpus any more" if counts.kept else ""),
            *([f"Changes   {tell_changes(changes)}"] if changes else []),
            f'Search    sfr-batch search {self.table} "your question"',
            f"Read      sfr_batch.open_table({self.table!r}).to_arrow()",
        ]
        if self.plain:
            lines.append(f"          duckdb: SELECT id, embedding FROM '{self.table}/{names.DATA}/*.parquet'")
        if self.canaries:
            told = f"1 - cosine at most {self.drift:.1e} between a text in a batch and by itself"
            lines.insert(3, f"Drift     {told}, {self.canaries:,} canar{'y' if self.canaries == 1 else 'ies'}")
        if counts.truncated:
            what = f"{counts.truncated:,} document{'s' * (counts.truncated != 1)} truncated"
            share = f"{self.snapshot.share_cut:.1%} of all tokens not embedded"
            lines.insert(3, f"Cut       {what}, {share} (model.overflow)")
        if self.losses:
            lines.insert(1, f"Lost      {self.losses}; what they had in hand was done again elsewhere")
        if self.repeated:
            reasons = ", ".join(f"{reason} {number:,}" for reason, number in self.repeated.items())
            lines.insert(1, f"Repeated  {sum(self.repeated.values()):,} requests to S3 ({reasons})")
        if counts.rejected:
            lines.append(f"Rejects   sfr_batch.open_table({self.table!r}).current().rejects()")
        return "\n".join(lines)


def embed(config: Config) -> Summary:
    """Make the table what the config says it should be; safe to repeat, and to kill at any moment.

    Raises RunFailed if splits failed (what succeeded is committed), TooManyDeletes, TooManyRejects, and whatever
    planning raises.
    """
    for _ in range(_PLANS):
        started = time.monotonic()
        plan = make_plan(config)
        if plan.up_to_date:
            return Summary.of_nothing(plan, time.monotonic() - started)
        place = placement.choose(config) if plan.todo else placement.HERE
        if plan.todo and not plan.has_to_compare:
            placement.check(place, config)
        table = create_or_open(plan.store, plan.card)
        run_id = new_run_id()
        with (
            lease.hold(table.store, _holder(run_id, place), config.run.lease_s, say=_say) as held,
            contextlib.ExitStack() as stack,
        ):
            if held.waited or superseded(table, plan.base):
                continue  # who held it has committed or published since the plan was made: do not pay for that again
            try:
                if plan.has_to_compare:
                    plan, place = _compare(plan, place, stack)
                if plan.changes_nothing:
                    return Summary.of_nothing(plan, time.monotonic() - started)
                run = RunLog(table.store, plan, run_id)
                progress = Progress(len(plan.todo_splits), plan.rows, config.run.progress_every_s)
                interrupt.progress = progress
                receipts = [
                    *recover_receipts(table, plan),
                    *_embed_missing(plan, run, progress, place, held),
                    *_copy(plan, run),
                ]
                if config.select.limit:
                    return Summary.of_trial(plan, progress, time.monotonic() - started)
                held.confirm()
                snapshot = publish(table, plan.base, plan.draft(run_id, receipts))
            except (SnapshotConflict, TableError, StorageError, RunFailed):
                if not superseded(table, plan.base):
                    raise
                continue  # somebody else published: their work counts, plan what is still missing
            summary = Summary(
                table=table.store.root,
                snapshot=snapshot,
                splits=progress.splits_done,
                embedded=progress.embedded,
                tokens=progress.tokens,
                seconds=time.monotonic() - started,
                tokens_per_second=progress.tokens_per_second,
                padding=progress.padding,
                published=True,
                plain=_is_plain(table, snapshot),
                canaries=progress.canaries,
                drift=progress.drift,
                repeated=run.repeated(),
                losses=progress.losses,
            )
            run.report(summary, progress)
            return summary
    raise SnapshotConflict(f"Other runs published to {config.table.path} {_PLANS} times in a row; is one enough?")


def _compare(plan: EmbedPlan, place: str, stack: contextlib.ExitStack) -> tuple[EmbedPlan, str]:
    """The plan after the comparison, and where to embed; a large one is made on Ray, until ``stack`` ends."""
    executor: Executor = InProcess()
    if plan.rows_to_compare > _ROWS_HERE or plan.bytes_to_compare > _BYTES_HERE:
        from sfr_batch.pipeline import execution, tasks  # imports ray, which takes seconds

        place = placement.LOCAL if place == placement.HERE else place
        placement.check(place, plan.config)
        stack.enter_context(execution.cluster(plan.config, place))
        executor = tasks.OnRay()
    plan = plan.compare(executor)
    assert plan.difference is not None
    _say(f"Compared the changed shards with the table: {tell_changes(plan.difference.found.changes)}")
    if plan.todo:
        placement.check(place, plan.config)
    return plan, place


def _copy(plan: EmbedPlan, run: "RunLog") -> list[Receipt]:
    """Commit the splits whose vectors are copied."""
    if plan.difference is None or not plan.difference.copies:
        return []
    executor, job = plan.difference.found.executor, make_job(plan, run.run_id)
    known = plan.sources()
    handles = []
    for split in plan.difference.copies:
        files = split.sources.column("split_id").unique().to_pylist()
        handles += executor.submit(copy, split, {split_id: known[split_id] for split_id in files}, job)
    receipts = list(executor.get(handles))
    for receipt in receipts:
        run.add(receipt)
    run.close()
    return receipts


def _holder(run_id: str, place: str) -> lease.Holder:
    cluster = None if place in (placement.HERE, placement.LOCAL) else place
    return lease.Holder.of_this_process(run_id, ray_job=placement.submission_id(), ray_address=cluster)


def _say(text: str) -> None:
    print(text, file=sys.stderr, flush=True)


def _is_plain(table: Table, snapshot: Snapshot) -> bool:
    return snapshot.manifest.deletes is None and set(table.committed()) == {r.split_id for r in snapshot.receipts}


def _embed_missing(plan: EmbedPlan, run: "RunLog", progress: Progress, place: str, held: lease.Lease) -> list[Receipt]:
    if not plan.todo:
        return []
    config = plan.config
    receipts: list[Receipt] = []
    errors: list[str] = []
    with _results(plan, run.run_id, place) as results, progress, contextlib.closing(run):
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
            errors.append(f"{result.shard}: {result.error}" if result.shard not in result.error else result.error)
            progress.fail()
            if len(errors) > config.run.max_failed_splits:
                break
    missing = plan.missing(receipt.split_id for receipt in receipts)
    if missing:
        raise RunFailed(_failure_text(len(plan.done) + len(receipts), missing, errors))
    return receipts


def _too_many_rejects(plan: EmbedPlan, progress: Progress) -> bool:
    """Whether publishing is bound to refuse, whatever the rest holds; where rows are estimates, twice as many may come.

    Hours before `publish` would find it.
    """
    rest = max(0, plan.rows - progress.read) * (1 if all(rows is not None for _, rows in plan.changed) else 2)
    allowed = plan.config.run.max_reject_share * (progress.read + rest)
    return progress.rejected > max(FEW_REJECTS, allowed)


@contextlib.contextmanager
def _results(plan: EmbedPlan, run_id: str, place: str) -> Iterator[Iterator[Receipt | Failure | Losses]]:
    """The results of what is to do, embedded at ``place``; the work stops when the context is left."""
    job = make_job(plan, run_id)
    if place == placement.HERE:
        with contextlib.closing(local.execute(plan.todo, job)) as results:
            yield results
        return
    from sfr_batch.pipeline import execution  # imports ray, which takes seconds

    with (
        execution.cluster(plan.config, place),
        contextlib.closing(execution.execute(plan.todo, job, plan.config)) as results,
    ):
        yield results


def _failure_text(done: int, missing: int, errors: list[str]) -> str:
    texts = list(dict.fromkeys(errors))
    shown = "\n".join(f"  {text}" for text in texts[:3])
    return (
        f"{missing:,} of {done + missing:,} splits are not done. Nothing was published; the {done:,} that are done "
        f"stay committed, and the same command continues with the rest.\n{shown}"
    )


def make_job(plan: EmbedPlan, run_id: str) -> Job:
    """What the workers need to know of a plan."""
    config = plan.config
    return Job(
        run_id=run_id,
        generation=config.table.generation,
        corpus=config.corpus,
        model=config.model,
        columns=plan.columns,
        card=plan.card,
        table=plan.store.root,
        table_storage=config.table.storage,
        max_batch_tokens=config.max_batch_tokens,
        packed=config.run.batches == "packed",
        fuse=config.run.fuse,
        torch_threads=config.run.actors.torch_threads,
    )


def recover_receipts(table: Table, plan: EmbedPlan) -> list[Receipt]:
    """Receipts of the plan's splits that were committed before: from the logs of runs, else from the footers."""
    wanted = plan.done
    if not wanted:
        return []
    since = plan.base.manifest.run_id if plan.base else ""
    found = {r.split_id: r for r in _logged_receipts(table.store, since) if _is_of(r, wanted.get(r.split_id))}
    rest = [split_id for split_id in wanted if split_id not in found]
    return [*found.values(), *read_receipts(table.store, rest)]


def _is_of(receipt: Receipt, info: ObjectInfo | None) -> bool:
    return info is not None and receipt.size == info.size


def _logged_receipts(store: Store, since: str) -> Iterator[Receipt]:
    """What runs that began after run ``since`` have logged; older logs are of splits that are published."""
    logs = [info.key for info in store.list(names.RUNS) if info.key.endswith(".jsonl")]
    for data in read_many(store, [key for key in logs if key > names.run_key(since, "")]):
        yield from map(Receipt.from_json, data.splitlines())


class RunLog:
    """What a run leaves under `_sfr/runs/<run_id>/`: config, plan, receipts as they come, and the report.

    A convenience for people and a cache for the next run: no correctness rests on it.
    """

    def __init__(self, store: Store, plan: EmbedPlan, run_id: str) -> None:
        self.run_id = run_id
        self._store = store
        self._waiting: list[Receipt] = []
        self._files = 0
        self._flushed = time.monotonic()
        self._repeated = counted()
        self._create("config.json", plan.config.to_json().encode())
        self._create("plan.parquet", encode_parquet(plan.to_arrow()))

    def add(self, receipt: Receipt) -> None:
        self._waiting.append(receipt)
        if len(self._waiting) >= _RECEIPTS_PER_FILE or time.monotonic() - self._flushed > _RECEIPT_FILE_EVERY_S:
            self.close()

    def close(self) -> None:
        """Write what waits."""
        if self._waiting:
            lines = "".join(receipt.to_json() + "\n" for receipt in self._waiting)
            self._create(f"receipts/{self._files:06d}.jsonl", lines.encode())
            self._files += 1
        self._waiting, self._flushed = [], time.monotonic()

    def repeated(self) -> Mapping[str, int]:
        """Requests to S3 that this process has repeated since the run began, by reason, the most frequent first."""
        return dict((counted() - self._repeated).most_common())

    def report(self, summary: Summary, progress: Progress) -> None:
        """The run is over and published."""
        snapshot = summary.snapshot
        assert snapshot is not None
        report = {
            "run_id": self.run_id,
            "finished_at": utc_now(),
            "snapshot": snapshot.number,
            "splits": summary.splits,
            "embedded": summary.embedded,
            "rejected": progress.rejected,
            "tokens": summary.tokens,
            "encoded_tokens": progress.encoded_tokens,
            "padded_tokens": progress.padded_tokens,
            "encode_seconds": progress.encode_seconds,
            "seconds": summary.seconds,
            "canaries": summary.canaries,
            "drift": summary.drift,
            "lost_nodes": summary.losses.nodes,
            "lost_actors": summary.losses.actors,
            "repeated_requests": summary.repeated,  # by this process alone
            "counts": snapshot.manifest.counts.model_dump(),
            "changes": changes.model_dump() if (changes := snapshot.manifest.changes) else None,
            "share_cut": snapshot.share_cut,
        }
        self._create("report.json", json.dumps(report, indent=1).encode())

    def _create(self, name: str, data: bytes) -> None:
        self._store.create(names.run_key(self.run_id, name), data)
