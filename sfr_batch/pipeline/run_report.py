"""The report of the run that this process makes, from what the process knows: its progress, its plan, its accounts."""

from collections.abc import Mapping, Sequence
from typing import Any

from sfr_batch.format import names
from sfr_batch.format.on_screen import printable
from sfr_batch.format.records import utc_now
from sfr_batch.format.run_accounts import RunAccount
from sfr_batch.pipeline.price.outcome import Outcome
from sfr_batch.pipeline.price.price import Price
from sfr_batch.pipeline.progress import Progress
from sfr_batch.pipeline.summary import Summary
from sfr_batch.planning.plan import EmbedPlan
from sfr_batch.table.report.examples import count_duplicates
from sfr_batch.table.report.value import REPORT_VERSION, RunReport


def report_of(
    plan: EmbedPlan,
    progress: Progress,
    attempts: Sequence[RunAccount],
    *,
    planning_s: float | None,
    repeated: Mapping[str, int],
    price: Price | None,
    summary: Summary | None = None,
) -> RunReport:
    """The report of a run.

    attempts: see `names.REPORT_ATTEMPTS`. planning_s: seconds until it began to write. repeated: requests to S3, by
    reason. price: as planned. summary: of a run that has published.
    """
    own = attempts[-1]
    seconds = summary.seconds if summary else own.seconds
    return RunReport(
        report_version=REPORT_VERSION,
        run_id=own.run_id,
        outcome=own.outcome,
        table=printable(plan.store.root),
        finished_at=utc_now(),
        **_counts(progress),
        **progress.work.figures(),
        seconds=seconds,
        planning_seconds=planning_s,
        ending_seconds=_ending(seconds, planning_s, progress),
        repeated_requests=dict(repeated),
        cost=_cost(plan, progress, price),
        **_vectors(plan),
        **(_published(summary) if summary else {}),
        attempts=tuple(account.as_json() for account in attempts),
    )


def _counts(progress: Progress) -> dict[str, Any]:
    done = progress.splits_done
    return {
        "splits": done,
        "earlier": progress.earlier,
        "start_up_seconds": progress.start_up,
        "embed_seconds": progress.embed_seconds if done else None,
        "actors": progress.actors.most,
        "lost_nodes": progress.losses.nodes,
        "lost_actors": progress.losses.actors,
        **{
            name: getattr(progress, name)
            for name in (
                *("embedded", "rejected", "tokens", "encoded_tokens", "padded_tokens"),
                *("encode_seconds", "canaries", "drift"),
            )
        },
    }


def _ending(seconds: float | None, planning_s: float | None, progress: Progress) -> float | None:
    """Seconds after the last finished split; of a run without one, None: start-up and end are not told apart."""
    if seconds is None or planning_s is None or progress.start_up is None:
        return None
    return max(0.0, seconds - planning_s - progress.start_up - progress.embed_seconds)


def _cost(plan: EmbedPlan, progress: Progress, price: Price | None) -> dict[str, Any] | None:
    if not progress.splits_done:
        return None
    return Outcome(progress.actors.seconds / 3600, plan.config.run.price_per_hour, price).to_json()


def _vectors(plan: EmbedPlan) -> dict[str, Any]:
    card = plan.card
    kind = card.schema.field(names.EMBEDDING).type
    return {
        "model": printable(str(card.model["path"])),
        "dim": int(kind.list_size),
        "vector_dtype": card.vector_dtype,
        "fingerprint": card.fingerprint,
        "fingerprint_inputs": card.fingerprint_inputs,
    }


def _published(summary: Summary) -> dict[str, Any]:
    snapshot = summary.snapshot
    assert snapshot is not None
    changes = snapshot.manifest.changes
    return {
        "snapshot": snapshot.number,
        "counts": snapshot.manifest.counts.model_dump(),
        "changes": changes.model_dump() if changes else None,
        "share_cut": snapshot.share_cut,
        "duplicates": count_duplicates(snapshot.store, snapshot.manifest.duplicates),
        "plain": summary.plain,
    }
