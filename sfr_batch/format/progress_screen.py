"""Where a run is, as a sentence, as a few lines for a terminal of any width, and as HTML. Others' texts are escaped."""

import textwrap
from html import escape
from typing import TYPE_CHECKING

from sfr_batch.errors import counted
from sfr_batch.format.durations import format_duration
from sfr_batch.format.on_screen import shown
from sfr_batch.format.progress_line import Part, counts_of, cut, fit, rates_of
from sfr_batch.format.run_accounts import KILLED, NO_RUN, NOTHING, PUBLISHED, RUNNING, STOPPED, TRIAL, UNKNOWN

if TYPE_CHECKING:
    from collections.abc import Sequence

    from sfr_batch.format.run_progress import RunProgress

_AGAIN = "repeat the same `sfr-batch embed` to complete it"
_BAR = 30
_GREEN, _YELLOW, _RED, _DIM, _PLAIN = "\x1b[32m", "\x1b[33m", "\x1b[31m", "\x1b[2m", "\x1b[0m"
_HTML_COLORS = {_GREEN: "#2e7d32", _YELLOW: "#b26a00", _RED: "#c62828"}
"""Readable on white and on black."""
_WORDS = 500


def sentence(progress: "RunProgress") -> str:
    """What it is doing and how far it is, or how it ended and what to do then."""
    if progress.outcome != RUNNING:
        return end_of(progress)
    facts = fit(_facts(progress), None)
    line = _state(progress) + (f": {facts}" if facts else "")
    return f"{line}; {_advice(progress)}" if progress.stalled else line


def end_of(progress: "RunProgress") -> str:
    """How it ended, and what to do then."""
    account = progress.ended
    if account is None:
        return "no run yet"
    if progress.outcome == UNKNOWN:
        return (
            "ended before it began to write: it had nothing to do, or an error that its log has, and that the same "
            "command says again"
        )
    took = "" if account.seconds is None else f" after {format_duration(account.seconds)}"
    work = f", {counted(progress.embedded, 'row')} embedded" if progress.embedded else ""
    how = shown(account.how, _WORDS)
    message = f": {shown(account.message, _WORDS)}" if account.message else ""
    kept = f"; {_AGAIN}" if progress.outcome in (STOPPED, KILLED) else ""
    return f"{how}{took}{work}{message}{kept}"


def screen(progress: "RunProgress", width: int, *, color: bool = False) -> list[str]:
    """Lines of at most ``width`` characters. color: whether the terminal gets colors."""

    def painted(text: str, how: str) -> str:
        return f"{how}{text}{_PLAIN}" if color and text else text

    lines = [painted(_end(progress.table, width), _DIM)] if progress.table else []
    if progress.run_id:
        lines.append(painted(fit(who(progress), width), _DIM))
    if progress.outcome != RUNNING:
        return [*lines, *(painted(line, _tone(progress)) for line in _wrapped(end_of(progress), width))]
    if progress.splits:
        lines += [painted(_bar(progress, width), _tone(progress)), fit(counts_of(progress), width)]
        lines.append(fit([*rates_of(progress)[1:2], *rates_of(progress)[:1], _rejects(progress)], width))
    else:
        lines.append(painted(cut(_state(progress), width), _tone(progress)))
    lines += [line] if (line := fit(_times(progress), width)) else []
    if progress.stalled:
        lines += [painted(line, _YELLOW) for line in _wrapped(_advice(progress), width)]
    return lines


def html(progress: "RunProgress", notes: "Sequence[str]" = ()) -> str:
    """The same for a notebook. notes: lines below."""
    color = _HTML_COLORS.get(_tone(progress), "#757575")
    head = ", ".join(filter(None, (shown(progress.table, _WORDS), fit(who(progress), None) if progress.run_id else "")))
    if progress.outcome != RUNNING:
        done, lines = end_of(progress), []
        if progress.rows:
            lines.append(fit([*counts_of(progress), *rates_of(progress)[:2], _rejects(progress)], None))
    else:
        done = (
            f"{_state(progress)}: {_share(progress)}, {_left(progress).text}" if progress.splits else _state(progress)
        )
        lines = [fit([*counts_of(progress), *rates_of(progress)[:2], _rejects(progress)], None)]
        lines = [*(lines if progress.splits else []), *filter(None, [fit(_times(progress), None)])]
        lines += [_advice(progress)] if progress.stalled else []
    filled = 1.0 if progress.outcome in (PUBLISHED, TRIAL) else progress.share
    bar = (
        '<div style="max-width:40em;height:0.6em;border:1px solid;border-radius:0.3em;overflow:hidden;margin:0.3em 0">'
        f'<div style="width:{filled:.1%};height:100%;background:{color}"></div></div>'
        if progress.rows
        else ""
    )
    body = "".join(f"<div>{escape(line)}</div>" for line in (*lines, *notes))
    return (
        '<div style="font-family:monospace;overflow-wrap:anywhere">'
        f'<div style="opacity:0.7">{escape(head)}</div><div style="color:{color};font-weight:bold">{escape(done)}</div>'
        f"{bar}{body}</div>"
    )


def _state(progress: "RunProgress") -> str:
    stage = shown(progress.stage) or "running"
    return f"stalled, {stage}" if progress.stalled else stage


def _facts(progress: "RunProgress") -> "list[Part]":
    if not progress.splits:
        return _times(progress)
    return [*counts_of(progress), *rates_of(progress)[1:2], _rejects(progress), *_times(progress), _left(progress)]


def _share(progress: "RunProgress") -> str:
    return f"{'~' if progress.estimated and progress.rest else ''}{progress.share:.0%}"


def _left(progress: "RunProgress") -> Part:
    return Part(3, f"{'…' if progress.left_s is None else format_duration(progress.left_s)} left")


def _rejects(progress: "RunProgress") -> Part:
    return Part(6, counted(progress.rejected, "reject") if progress.rejected else "")


def _times(progress: "RunProgress") -> list[Part]:
    ago = progress.last_commit_s
    last = "" if ago is None else f"last commit {format_duration(ago)} ago"
    took = f"running for {format_duration(progress.elapsed_s)}" if progress.elapsed_s else ""
    return [Part(0, last, None), Part(1 if last else 0, took)]


def who(progress: "RunProgress") -> list[Part]:
    """The run, whose it is and where."""
    run = shown(progress.run_id)
    by = " ".join(filter(None, (f"of {shown(progress.user)}" if progress.user else "", _place(progress))))
    job = f"Ray job {shown(progress.ray_job)}" if progress.ray_job else ""
    return [Part(0, f"run {run}{' ' if by else ''}{by}", Part(0, f"run {run}")), Part(2, job)]


def _place(progress: "RunProgress") -> str:
    return f"on {shown(progress.host)}" if progress.host else ""


def _bar(progress: "RunProgress", width: int) -> str:
    """The state, a bar if there is room for one, the share, and the time that is left."""
    right = f" {_share(progress)}  {_left(progress).text}"
    room = min(_BAR, width - len(right) - len(_state(progress)) - 2)
    if room < 5:
        return fit([Part(0, _state(progress)), Part(1, right.strip().replace("  ", ", "))], width)
    full = round(progress.share * room)
    return f"{_state(progress)}  {'█' * full}{'░' * (room - full)}{right}"


def _tone(progress: "RunProgress") -> str:
    if progress.outcome in (PUBLISHED, TRIAL, NOTHING):
        return _GREEN
    if progress.outcome == RUNNING:
        return _YELLOW if progress.stalled or progress.splits_failed else _GREEN
    return "" if progress.outcome == NO_RUN else _RED


def _advice(progress: "RunProgress") -> str:
    where = "" if progress.ray_job else f" {_place(progress)}"
    stop = f"`{shown(progress.stop_with, 200)}`{where}, then " if progress.stop_with else ""
    return f"look at its log; to start again: {stop}{_AGAIN}"


def _wrapped(text: str, width: int) -> list[str]:
    return textwrap.wrap(text, max(10, width)) or [""]


def _end(text: str, width: int) -> str:
    text = shown(text, 1000)
    return text if len(text) <= width else "…" + text[1 - width :]
