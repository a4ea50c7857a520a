"""A report as lines for a terminal, and as a table of a notebook. Knows its sentences from `facts`."""

import textwrap
from typing import TYPE_CHECKING

from sfr_batch.format import run_accounts
from sfr_batch.format.notebook import html_table
from sfr_batch.format.on_screen import printable, shown
from sfr_batch.table.report import facts

if TYPE_CHECKING:
    from sfr_batch.table.report.value import RunReport

_WIDTH, _LABEL = 80, 10


def as_text(report: "RunReport") -> str:
    """A headline, and a label and a text a line."""
    lines = textwrap.wrap(headline(report), _WIDTH, break_long_words=False, break_on_hyphens=False)
    for label, text in details(report):
        wrapped = textwrap.wrap(text, _WIDTH - _LABEL, break_long_words=False, break_on_hyphens=False)
        lines += [f"{label if not at else '':{_LABEL}}{line}" for at, line in enumerate(wrapped)]
    return printable("\n".join(lines))


def as_table(report: "RunReport") -> str:
    """The same for a notebook."""
    return printable(html_table(details(report), title=headline(report)))


def headline(report: "RunReport") -> str:
    """Which run, and how it ended."""
    return f"Run {shown(report.run_id)}: {shown(report.account.how)}."


def details(report: "RunReport") -> list[tuple[str, str]]:
    """(label, text) in reading order, without those that do not apply."""
    account = report.account
    cost, more = facts.came_to(report), facts.planned_to(report)
    found = [
        ("Error", shown(f"{account.error}: {account.message}", 1000) if account.error else ""),
        ("Table", shown(report.table, 2000)),
        ("Who", shown(account.where)),
        ("Took", _took(report)),
        ("Rows", facts.rows(report)),
        ("Resumed", facts.resumed(report)),
        ("Speed", facts.speed(report)),
        ("Waited", facts.bottleneck(report)),
        ("Cut", facts.cut(report)),
        ("Rejects", "; ".join(filter(None, [facts.rejected(report), facts.other_rejects(report)]))),
        ("Drift", facts.drift(report)),
        ("Lost", facts.losses(report)),
        ("Repeated", facts.retries(report)),
        ("Cost", f"{cost}; planned {more}" if more else cost),
        ("Attempts", run_accounts.total(report.accounts) if len(report.accounts) > 1 else ""),
        ("Vectors", _vectors(report)),
        ("Note", facts.unknown(report)),
    ]
    return [(label, text) for label, text in found if text]


def _took(report: "RunReport") -> str:
    account = report.account
    took = report.seconds if report.seconds is not None else account.seconds
    more = "≥ " if account.at_least else ""
    since = f", from {facts.moment(account.started_at)}" if account.started_at else ""
    return f"{more if took is not None else ''}{facts.duration(took)}{since}"


def _vectors(report: "RunReport") -> str:
    if not report.fingerprint:
        return ""
    what = f"{report.dim} x {report.vector_dtype}, model {shown(report.model, 300)}, " if report.dim else ""
    return f"{what}fingerprint {shown(report.fingerprint[:12])}"
