"""A report as one page of HTML: charts, each with its numbers as a table, in the light or the dark of its reader.

It needs nothing else, and a browser is told to fetch and to run nothing. Every text is escaped: ids and messages are of
the corpus. A section without figures says why. Knows its sentences from `facts`.
"""

from collections.abc import Iterable, Iterator, Sequence
from html import escape
from typing import TYPE_CHECKING, Any

from sfr_batch.format import names, run_accounts
from sfr_batch.format.durations import format_duration
from sfr_batch.format.notebook import html_table
from sfr_batch.format.on_screen import printable, shown, shown_id
from sfr_batch.table.report import charts, facts
from sfr_batch.table.report.charts import Part
from sfr_batch.table.report.measures import fewer
from sfr_batch.table.report.style import STYLE

if TYPE_CHECKING:
    from sfr_batch.table.report.value import RunReport

_POINTS, _LINES = 120, 24
"""Most steps of the chart over time, and lines of its table."""
_OF_ATTEMPTS = ("ended", "started", "took", "rows", "tokens", "reserved", "used", "cost", "by", "devices", "run")
"""Columns in the order in which they matter: a phone shows the first ones, the others when they are moved."""
_POLICY = "default-src 'none'; style-src 'unsafe-inline'"
_REJECTS = (names.REASON, names.ID, names.SHARD, names.POSITION, names.MESSAGE)
_OLDER = "Not measured: this run wrote no report, or one of a release that did not measure it."
_NOT_PLANNED = "Nothing was planned: run.price_per_hour, run.max_price or run.max_hours makes a run estimate its cost."
_PLAN_UNKNOWN = "What was planned is not known: this run wrote no report, or one of an older release."
_KILLED = "Not measured: the process was killed before it could write it."
_GOES_ON = "Not measured yet: the run writes it at its end."


def as_page(report: "RunReport") -> str:
    """The page. It has no control characters and no halves of characters, whatever the corpus has."""
    account = report.account
    title = f"Run {shown(report.run_id)}: {shown(account.how)}"
    sections = (
        ("Throughput", _throughput(report)),
        ("Where the time went", _times(report)),
        ("Lengths, truncation, padding", _lengths(report)),
        ("Rows and rejects", _rows(report)),
        ("Drift, losses, retries", _mishaps(report)),
        ("Cost, and what was planned", _cost(report)),
        ("Attempts", _attempts(report)),
        ("What defines the vectors", _fingerprint(report)),
        ("How to use the table", [_listed(facts.to_read(report), code=True)]),
    )
    body = "".join(f"<section><h2>{escape(name)}</h2>{''.join(parts)}</section>" for name, parts in sections)
    return printable(
        '<!DOCTYPE html>\n<html lang="en"><head><meta charset="utf-8">'
        f'<meta http-equiv="Content-Security-Policy" content="{escape(_POLICY)}">'
        '<meta name="viewport" content="width=device-width, initial-scale=1">'
        '<meta name="color-scheme" content="light dark">'
        f"<title>{escape(title)}</title><style>{STYLE}</style></head>\n"
        f"<body><main>{_head(report)}{body}{_foot(report)}</main></body></html>\n"
    )


# --- the head


def _head(report: "RunReport") -> str:
    account = report.account
    good = account.outcome in (run_accounts.PUBLISHED, run_accounts.TRIAL, run_accounts.NOTHING)
    kind = "good" if good else "open" if account.outcome in (run_accounts.RUNNING, run_accounts.AGAIN) else "bad"
    where = shown(account.where) if account.where != "?" else ""
    began, ended = facts.moment(account.started_at), facts.moment(report.finished_at or account.ended_at)
    when = " ".join(filter(None, [began and f"from {began}", ended and f"to {ended}"]))
    error = f"{account.error}: {account.message}" if account.error else ""
    return (
        f'<header><p class="outcome {kind}">{escape(shown(account.how))}</p>'
        f"<h1>{escape(shown(report.table, 2000) or 'Run report')}</h1>"
        f"<p>run {escape(shown(report.run_id))}{escape(f', {where}') if where else ''}<br>{escape(when)}</p>"
        + (f'<p class="error">{escape(shown(error, 1000))}</p>' if error else "")
        + (f'<p class="note">{escape(note)}</p>' if (note := facts.unknown(report)) else "")
        + f'</header><dl class="tiles">{"".join(_tile(*tile) for tile in _tiles(report))}</dl>'
    )


def _tiles(report: "RunReport") -> Iterator[tuple[str, str]]:
    account = report.account
    more = "≥ " if account.at_least else ""
    took = report.seconds if report.seconds is not None else account.seconds
    more = more.replace(" ", "\u00a0")
    yield "rows embedded", more + facts.number(report.embedded)
    yield "tokens", more + facts.number(report.tokens)
    yield "took", more + facts.duration(took) if took is not None else facts.NOT_MEASURED
    yield "tokens/s while it embedded", facts.number(report.tokens_per_second)
    yield "padding", facts.share(report.padding)
    if account.cost is not None:
        yield "cost", more + facts.money(account.cost)


def _tile(name: str, value: str) -> str:
    kind = ' class="none"' if value.endswith(facts.NOT_MEASURED) else ""
    value = facts.NOT_MEASURED if kind else value
    return f"<div><dt>{escape(name)}</dt><dd{kind}>{escape(value)}</dd></div>"


# --- sections


def _throughput(report: "RunReport") -> Iterator[str]:
    found = report.throughput
    if found is None or not any(found.tokens):
        yield _why_not(report, found is None)
        return
    tokens, together = fewer(found.tokens, _POINTS)
    every_s = found.every_seconds * together
    rates = [amount / every_s for amount in tokens]
    most = max(rates)
    yield charts.area(
        rates, every_s, "tokens/s", f"Tokens a second over {facts.duration(len(rates) * every_s)}, at most {most:,.0f}"
    )
    how = " Derived from the times of data files; the run itself has not written it." if found.derived else ""
    yield _sentence(f"Since the run began to embed, start-up included. {facts.speed(report).capitalize()}.{how}")
    lines, times = fewer(found.tokens, _LINES)
    rows, _ = fewer(found.rows, _LINES)
    step = found.every_seconds * times
    table = [
        (format_duration(at * step), f"{amount:,}", f"{amount / step:,.0f}", f"{rows[at]:,}" if at < len(rows) else "0")
        for at, amount in enumerate(lines)
    ]
    yield _folded("Numbers", table, ("from", "tokens", "tokens/s", "rows"), (0, 1, 2, 3))


def _times(report: "RunReport") -> Iterator[str]:
    yield _sentence(facts.bottleneck(report))
    whole = [
        ("planning", report.planning_seconds),
        ("start-up", report.start_up_seconds),
        ("encoding", report.embed_seconds),
        ("publishing" if report.snapshot else "the end", report.ending_seconds),
    ]
    known = [Part(name, seconds, facts.duration(seconds)) for name, seconds in whole if seconds is not None]
    told = ", ".join(f"{part.name} {part.shown}" for part in known)
    yield charts.parts(known, f"Parts of the run's time: {told}") if len(known) > 1 else ""
    stages = [
        ("reading", report.read_seconds, "all readers together"),
        ("tokenizing", report.tokenize_seconds, "all readers together"),
        ("computing vectors", report.encode_seconds, _actors(report)),
        ("writing", report.write_seconds, "all writers together"),
    ]
    yield _table(
        [(name, facts.duration(seconds), who) for name, seconds, who in stages], ("stage", "took", ""), numbers=(1,)
    )
    if report.busy is not None and report.bottleneck in facts.WHOLE:
        yield _sentence(f"Actors computed {report.busy:.0%} of the time between the first split and the last.")


def _actors(report: "RunReport") -> str:
    account = report.account
    devices = f" on {account.devices:g} x {shown(account.device)}" if account.device and account.devices else ""
    if not report.actors:
        return "all actors together"
    return f"{report.actors:,} actor{'s' if report.actors > 1 else ''}{devices}"


def _lengths(report: "RunReport") -> Iterator[str]:
    found = report.lengths
    if found is None or not any(found.documents):
        yield _why_not(report, found is None)
    else:
        limit = (report.fingerprint_inputs or {}).get("max_length")
        limit = limit if isinstance(limit, int) else None
        label = f"Documents by their number of tokens before truncation, {sum(found.documents):,} in all"
        chart = charts.bars(found.edges, found.documents, "documents", label, limit)
        yield chart
        line = f" The line is at the limit of {limit:,} tokens a row." if limit and charts.LIMIT in chart else ""
        some = f" Of {found.files:,} of {found.of_files:,} data files." if found.files != found.of_files else ""
        yield _sentence(f"Documents by their length in tokens, before truncation.{line}{some}")
        yield _folded("Numbers", _buckets(found.edges, found.documents, found.rows), _BUCKETS, (0, 1, 2))
    yield _listed(
        [
            ("truncation", facts.cut(report)),
            ("padding", facts.share(report.padding)),
            ("tokens", f"{facts.number(report.tokens)} after truncation, {facts.number(report.tokens_full)} before"),
            (
                "computed",
                f"{facts.number(report.encoded_tokens)}, repeated texts of a split once; with padding and canaries "
                f"{facts.number(report.padded_tokens)}",
            ),
        ]
    )


_BUCKETS = ("tokens from", "documents, before truncation", "rows, as computed")


def _buckets(edges: Sequence[int], documents: Sequence[int], rows: Sequence[int]) -> list[tuple[str, str, str]]:
    lines = list(zip(edges, documents, rows, strict=False))
    used = [number for number, (_, *amounts) in enumerate(lines) if any(amounts)]
    shown_lines = lines[used[0] : used[-1] + 1] if used else []
    return [(f"{edge:,}", f"{first:,}", f"{second:,}") for edge, first, second in shown_lines]


def _rows(report: "RunReport") -> Iterator[str]:
    changes = ", ".join(f"{amount:,} {name}" for name, amount in (report.changes or {}).items() if amount)
    yield _listed([("rows", facts.rows(report)), ("resumed", facts.resumed(report)), ("changes", changes)])
    found = report.rejects
    if found is None:
        yield _sentence(f"Rejects of this run: {facts.number(report.rejected)}. Reasons: {facts.NOT_MEASURED}.")
        return
    if others := facts.other_rejects(report):
        yield _sentence(f"{others}.")
    if not found.by_reason:
        yield _sentence("This run rejected no row.")
        return
    most = "" if found.complete else " Not all files of rejects were read: these are lower bounds."
    yield _sentence(f"Rejects of this run, by reason.{most}")
    amounts = [(shown(reason), f"{amount:,}") for reason, amount in facts.by_frequency(found.by_reason)]
    yield _table(amounts, (names.REASON, "rows"), (1,))
    examples = [
        (shown(row.reason), shown_id(row.id), shown(row.shard, 300), f"{row.position:,}", shown(row.message, 300))
        for row in found.examples
    ]
    yield _folded("Examples", examples, _REJECTS, (3,)) if examples else ""


def _mishaps(report: "RunReport") -> Iterator[str]:
    yield _listed([("drift", facts.drift(report)), ("lost", facts.losses(report)), ("repeated", facts.retries(report))])


def _cost(report: "RunReport") -> Iterator[str]:
    price, account = facts.planned(report), report.account
    time: dict[str, Any] = next(iter((price or {}).get("times") or ()), {})
    more = "≥ " if account.at_least else ""
    hours = account.actor_seconds_reserved and account.actor_seconds_reserved / 3600
    rows = [
        ("money", facts.figure(time.get("money"), None), _least(more, account.cost)),
        ("actor-hours", facts.figure(time.get("actor_hours"), None), _least(more, hours)),
        ("tokens", facts.figure((price or {}).get("tokens")), facts.number(report.tokens)),
        ("with padding", facts.figure((price or {}).get("padded")), facts.number(report.padded_tokens)),
        ("rows", facts.figure((price or {}).get("rows")), facts.number(report.embedded)),
        ("rejects", facts.figure((price or {}).get("rejected")), facts.number(report.rejected)),
    ]
    if price is None:
        yield _listed([("this run", facts.came_to(report))])
        yield _sentence(_NOT_PLANNED if report.report_version else _PLAN_UNKNOWN)
    else:
        most = " The plan had not compared rows: at most." if price.get("upper_bound") else ""
        yield _table(rows, ("", "planned (nine of ten runs)", "came to"), (1, 2))
        yield _sentence(f"Of this run alone, for what was left to do when it began.{most}")


def _least(more: str, value: float | None) -> str:
    return facts.NOT_MEASURED if value is None else f"{more}{facts.money(value)}"


def _attempts(report: "RunReport") -> Iterator[str]:
    accounts = report.accounts
    if not accounts:
        yield _sentence("Accounts: not measured by this release.")
        return
    places = list(map(run_accounts.HEAD.index, _OF_ATTEMPTS))
    numbers = [at for at, name in enumerate(_OF_ATTEMPTS) if name in run_accounts.NUMBERS]
    yield _sentence(f"Since the last report: {run_accounts.total(accounts)}.")
    rows = [run_accounts.row(account) for account in accounts]
    yield _table([[shown(cells[place]) for place in places] for cells in rows], _OF_ATTEMPTS, numbers)
    own = report.account
    versions = ", ".join(f"{shown(name)} {shown(version)}" for name, version in own.versions.items())
    yield _listed([("command", shown(own.command, 2000)), ("versions", versions)], code=True)


def _fingerprint(report: "RunReport") -> Iterator[str]:
    if not report.fingerprint:
        yield _why_not(report, missing=True)
        return
    what = f"{report.dim} x {report.vector_dtype}" if report.dim else ""
    facts_of_it = [("fingerprint", shown(report.fingerprint)), ("model", shown(report.model or "", 300)), ("", what)]
    yield _listed([(name or "vectors", value) for name, value in facts_of_it], code=True)
    yield _folded("Inputs of the fingerprint", facts.inputs(report.fingerprint_inputs), ("input", "value"))


def _foot(report: "RunReport") -> str:
    release = report.account.versions.get("sfr-batch", "")
    by = f" {shown(release)}" if release else ""
    return (
        f'<footer>sfr-batch{escape(by)}. "{facts.NOT_MEASURED}" is what nobody has measured, or nobody knows any more; '
        "it is never shown as 0. `sfr-batch report TABLE --json` prints the same figures.</footer>"
    )


# --- parts


def _why_not(report: "RunReport", missing: bool) -> str:
    if not missing or report.splits == 0:
        return _sentence("This run embedded nothing.", "note")
    reasons = {run_accounts.KILLED: _KILLED, run_accounts.RUNNING: _GOES_ON}
    return _sentence(reasons.get(report.account.outcome, _OLDER), "note")


def _sentence(text: str, kind: str = "") -> str:
    return f'<p class="{kind}">{escape(text)}</p>' if kind else f"<p>{escape(text)}</p>"


def _listed(pairs: Iterable[tuple[str, str]], *, code: bool = False) -> str:
    tag = "code" if code else "span"
    lines = (f"<dt>{escape(name)}</dt><dd><{tag}>{escape(text)}</{tag}></dd>" for name, text in pairs if text)
    return f'<dl class="list">{"".join(lines)}</dl>'


def _table(rows: Iterable[Sequence[object]], head: Sequence[str], numbers: Sequence[int] = ()) -> str:
    return f'<div class="scroll">{html_table(rows, head=head, numbers=numbers)}</div>'


def _folded(name: str, rows: Iterable[Sequence[object]], head: Sequence[str], numbers: Sequence[int] = ()) -> str:
    return f"<details><summary>{escape(name)}</summary>{_table(rows, head, numbers)}</details>"
