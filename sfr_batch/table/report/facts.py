"""What a report says in words: sentences and figures that its page and its lines share.

A figure that was not measured is NOT_MEASURED. Ids, messages and paths are of others: they are cut, and what a terminal
would obey is escaped.
"""

import shlex
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from sfr_batch.errors import counted
from sfr_batch.format.durations import format_duration
from sfr_batch.format.on_screen import shown
from sfr_batch.format.run_accounts import KILLED, RUNNING

if TYPE_CHECKING:
    from sfr_batch.table.report.value import RunReport

NOT_MEASURED = "not measured"
_TOOK = {
    "planning": "Planning and comparing took most of the time.",
    "start-up": "Start-up took most of the time: Ray, actors and loading the model. A longer run pays for it once.",
    "ending": "What came after the last split took most of the time.",
}
WHOLE = ("planning", "start-up", "ending")
"""Bottlenecks that are a part of the time of the whole run, and no stage."""


def number(value: float | None, digits: int = 0) -> str:
    """With thousands separated."""
    return NOT_MEASURED if value is None else f"{value:,.{digits}f}"


def share(value: float | None) -> str:
    """A share as per cent."""
    return NOT_MEASURED if value is None else f"{value:.1%}"


def duration(seconds: float | None) -> str:
    """As ``m:ss``; what is below ten seconds with a tenth."""
    if seconds is None:
        return NOT_MEASURED
    return f"{seconds:.1f} s" if seconds < 10 else format_duration(seconds)


def moment(time: str) -> str:
    """A time as people write it; one that is none as it is."""
    return shown(time.replace("T", " ").replace("+00:00", " UTC") if time.endswith("+00:00") else time)


def money(value: float) -> str:
    """Small amounts with four digits."""
    return f"{value:,.2f}" if value >= 1 else f"{value:.4f}"


def bottleneck(report: "RunReport") -> str:
    """What took most of the time, in a sentence or two."""
    found, busy = report.bottleneck, report.busy
    if found is None:
        return f"What the run waited for was {NOT_MEASURED}."
    if found in WHOLE:
        return _TOOK[found]
    if busy is None:
        return "Embedding took most of the time."
    if found == "model":
        return (
            f"The model: actors computed {busy:.0%} of the time between the first split and the last. More actors, or "
            "faster ones, shorten the run."
        )
    waited = f"actors waited {1 - busy:.0%} of the time between the first split and the last"
    if found == "waiting":
        return f"Not the model: {waited}. For what was {NOT_MEASURED}."
    reading = duration((report.read_seconds or 0) + (report.tokenize_seconds or 0))
    both = f"Reading and tokenizing took {reading} in all tasks together, writing {duration(report.write_seconds)}."
    if found == "input":
        return f"Probably the input: {waited}. {both} More CPUs for readers, or faster storage, shorten the run."
    return f"Probably the output: {waited}. {both} Faster storage shortens the run."


def rows(report: "RunReport") -> str:
    """How the rows of the snapshot add up; of a run that has not published, its own."""
    counts = report.counts
    if not counts:
        more = "≥ " if report.account.at_least else ""
        return (
            f"{more}{number(report.embedded)} embedded by this run, {number(report.rejected)} rejected; not published"
        )
    kept = f"; {counts['kept']:,} kept that are no longer in the corpus" if counts.get("kept") else ""
    return (
        f"{counts['read']:,} read = {counts['embedded']:,} embedded + {counts['reused']:,} reused + "
        f"{counts['rejected']:,} rejected{kept}"
    )


def resumed(report: "RunReport") -> str:
    """How many of the embedded rows are of earlier attempts; empty if none."""
    if not report.earlier:
        return ""
    return f"{number(report.embedded)} by this run + {report.earlier:,} by earlier attempts that did not publish"


def speed(report: "RunReport") -> str:
    """Tokens a second of this run, and its padding."""
    if not report.tokens:
        return "nothing was embedded" if report.tokens == 0 else NOT_MEASURED
    rate, padding = report.tokens_per_second, report.padding
    fast = f"{rate:,.0f} tokens/s" if rate else f"tokens a second {NOT_MEASURED}"
    wasted = f"{padding:.1%} padding" if padding is not None else f"padding {NOT_MEASURED}"
    return f"{fast}, {wasted}"


def cut(report: "RunReport") -> str:
    """How much of the texts of this run was not embedded."""
    if report.truncated is None:
        if report.counts and report.share_cut is not None:
            return f"{counted(report.counts['truncated'], 'row')} of the snapshot, {report.share_cut:.1%} of all tokens"
        return NOT_MEASURED
    if not report.truncated:
        return "no text was cut"
    lost = f"{1 - report.tokens / report.tokens_full:.1%} of all tokens" if report.tokens and report.tokens_full else ""
    return ", ".join(filter(None, [f"{counted(report.truncated, 'row')} truncated", f"{lost} not embedded"]))


def rejected(report: "RunReport") -> str:
    """Rejects by reason, the most frequent first."""
    found = report.rejects
    if found is None:
        return number(report.rejected)
    if not found.by_reason:
        return "none"
    named = ", ".join(f"{amount:,} {shown(reason)}" for reason, amount in by_frequency(found.by_reason))
    return named if found.complete else f"at least {named}"


def other_rejects(report: "RunReport") -> str:
    """What else is among the rejects of the snapshot; empty if nothing is."""
    if not report.counts or not report.rejects or report.duplicates is None:
        return ""
    rest = report.counts["rejected"] - report.duplicates - sum(report.rejects.by_reason.values())
    parts = [
        f"{counted(report.duplicates, 'row')} of the snapshot gave way to another row with the same id"
        if report.duplicates
        else "",
        f"{counted(rest, 'reject')} of the snapshot were decided by earlier runs or while planning" if rest > 0 else "",
    ]
    return "; ".join(filter(None, parts))


def by_frequency(amounts: dict[str, int]) -> list[tuple[str, int]]:
    """The most frequent first."""
    return sorted(amounts.items(), key=lambda item: (-item[1], item[0]))


def drift(report: "RunReport") -> str:
    """What the company of other rows did to a vector."""
    if report.canaries is None or report.drift is None:
        return NOT_MEASURED
    if not report.canaries:
        return "no canary was encoded"
    canaries = counted(report.canaries, "canary", "canaries")
    return f"1 - cosine at most {report.drift:.1e} between a text among others and by itself, {canaries}"


def losses(report: "RunReport") -> str:
    """What the cluster lost during the run."""
    if report.lost_nodes is None or report.lost_actors is None:
        return NOT_MEASURED
    lost = ((report.lost_nodes, "node"), (report.lost_actors, "encode actor"))
    said = " and ".join(counted(amount, noun) for amount, noun in lost if amount)
    return f"{said}; their splits were done again elsewhere" if said else "nothing"


def retries(report: "RunReport") -> str:
    """Requests to S3 that were repeated."""
    found = report.repeated_requests
    if found is None:
        return NOT_MEASURED
    if not found:
        return "none"
    reasons = ", ".join(f"{shown(reason)} {amount:,}" for reason, amount in by_frequency(found))
    return f"{counted(sum(found.values()), 'request')} to S3 ({reasons})"


def came_to(report: "RunReport") -> str:
    """Actor-hours of this run, and money if it has a price; "≥" where a killed process could not say more."""
    account = report.account
    reserved = account.actor_seconds_reserved
    if reserved is None:
        return NOT_MEASURED
    more = "≥ " if account.at_least else ""
    hours = f"{more}{money(reserved / 3600)} actor-hours"
    return hours if account.cost is None else f"{more}{money(account.cost)} for {hours}"


def planned(report: "RunReport") -> dict[str, Any] | None:
    """The price that was planned; None if nobody asked for one."""
    found = (report.cost or {}).get("planned")
    return found if isinstance(found, dict) else None


def figure(value: Any, digits: int | None = 0) -> str:
    """A planned figure with its interval. digits: None for money."""
    if not isinstance(value, dict) or value.get("value") is None:
        return "not planned"
    shown_one = money if digits is None else lambda amount: f"{amount:,.{digits}f}"
    low, high = value.get("low"), value.get("high")
    within = f" ({shown_one(low)} to {shown_one(high)})" if low is not None and high is not None and low < high else ""
    return f"{shown_one(value['value'])}{within}"


def planned_to(report: "RunReport") -> str:
    """Actor-hours and money that were planned; empty if nobody asked."""
    price = planned(report)
    times = price.get("times") if price else None
    if price is None:
        return ""
    if not times:
        return "unknown, because no rate had been measured"
    hours = f"{figure(times[0].get('actor_hours'), None)} actor-hours"
    return f"{figure(times[0]['money'], None)} for {hours}" if times[0].get("money") else hours


def unknown(report: "RunReport") -> str:
    """Why a report has not all that it might have; empty if it has."""
    outcome = report.account.outcome
    if outcome == KILLED:
        return (
            "The process was killed and could not write what it knew. This is from what it has left on storage: "
            "receipts, data files and the times of objects. Sums are lower bounds."
        )
    if outcome == RUNNING:
        return "The run goes on. This is from what is on storage now; sums are lower bounds."
    if report.splits is not None and report.account.splits > report.splits:
        more = counted(report.account.splits - report.splits, "split")
        return f"Committed while the run ended, and counted under attempts alone: {more}."
    if not report.report_version:
        return "This run wrote no report, or one of an older release, with fewer figures."
    return ""


def to_read(report: "RunReport") -> list[tuple[str, str]]:
    """How to use the table: what for, and the line to type."""
    path = shown(report.table, 2000)
    quoted = shlex.quote(path)
    lines = [
        ("search", f'sfr-batch search {quoted} "your question"'),
        ("in Python", f"sfr_batch.open_table({path!r}).to_arrow()"),
        ("rejects", f"sfr_batch.open_table({path!r}).current().rejects()"),
        ("in DuckDB", f"sfr-batch view {quoted} | duckdb embeddings.duckdb"),
        ("for other engines", f"sfr-batch export {quoted} TARGET"),
        ("all promises", f"sfr-batch audit {quoted}"),
    ]
    return lines if report.snapshot else [("next", "the same `sfr-batch embed` again: it continues")]


def inputs(values: dict[str, Any] | None) -> Sequence[tuple[str, str]]:
    """The inputs of a fingerprint, each in one line."""
    return [(shown(name), shown(value, 300)) for name, value in (values or {}).items()]
