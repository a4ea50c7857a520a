"""The account of one attempt of a run: who made it, where, what it took and how it ended. As JSON, as lines, as Arrow.

A value that says "at least" where a killed process could not write what it knew, and null where nothing can be known.
Pure: what is on storage is found by `table.commit.attempts`.
"""

import dataclasses
import json
import textwrap
from collections.abc import Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any, Self

import pyarrow as pa

from sfr_batch.errors import counted
from sfr_batch.format import text_table
from sfr_batch.format.durations import format_duration
from sfr_batch.format.field_types import is_a
from sfr_batch.format.notebook import html_table

RUNNING, PUBLISHED, TRIAL, NOTHING, AGAIN = "running", "published", "trial", "nothing to do", "planned again"
FAILED, STOPPED, KILLED = "failed", "stopped", "killed"
"""How an attempt ended, see `RunAccount.outcome`."""
UNKNOWN, NO_RUN = "unknown", "none"
"""For who looks at a run: it has let the table go and left nothing that says why; there has been no run yet."""
WORK = ("splits", "rows", "rejected", "tokens", "encoded_tokens", "padded_tokens", "actor_seconds_used")
"""What the receipts of an attempt add up to."""
MESSAGE = 500
"""Characters of an error that are kept."""


@dataclass(frozen=True)
class RunAccount:
    """One attempt: a process that took the lease of a table and began to write."""

    run_id: str
    outcome: str = RUNNING
    """`running`; `published`; `trial`, which never publishes; `planned again`, because another run was first, under
    another run id; `failed`; `stopped` by a signal; `killed`: the process is gone and has not said how it ended."""
    snapshot: int | None = None
    """Number of the snapshot that it published."""
    error: str = ""
    """Class of the error of a failed attempt."""
    message: str = ""
    """The beginning of its message."""
    signal: str = ""
    """Name of the signal that stopped it."""
    user: str = ""
    """Empty, as ``host``, where nothing on storage says it."""
    host: str = ""
    ray_job: str | None = None
    """Submission id, if it was the driver of a Ray job."""
    ray_address: str | None = None
    """The cluster that it joined."""
    started_at: str = ""
    """By the clock of its machine, planning included. Of a killed attempt of an older release, when its log began."""
    ended_at: str = ""
    """Of a killed one its last sign of life, by the clock of the store: a heartbeat, a receipt or a data file."""
    seconds: float | None = None
    """From start to end, planning and start-up included."""
    device: str = ""
    """Kind of the devices, such as NVIDIA H200."""
    devices: float = 0
    """Most of them at once: GPUs of all actors, or actors on CPUs."""
    actor_seconds_reserved: float | None = None
    """Seconds that encode actors existed, added up: what is paid for. Null if unknown."""
    actor_seconds_used: float = 0
    """Seconds of them that went into splits that are committed."""
    splits: int = 0
    """Splits that it committed."""
    rows: int = 0
    """Documents that it embedded."""
    rejected: int = 0
    tokens: int = 0
    """Of these documents, after truncation."""
    encoded_tokens: int = 0
    padded_tokens: int = 0
    price_per_hour: float | None = None
    """`run.price_per_hour` of its config: of one actor."""
    cost: float | None = None
    """``price_per_hour`` for the reserved time; null without a price or a time."""
    versions: dict[str, str] = field(default_factory=dict)
    """Of sfr-batch, torch, transformers, ray and python."""
    command: str = ""
    at_least: bool = False
    """Whether times, counts and cost are lower bounds: the process was killed before it could write more."""

    @classmethod
    def from_json(cls, data: str | bytes) -> Self | None:
        """None if it is damaged. A field that this release does not know is left out."""
        try:
            return cls.of(json.loads(data))
        except ValueError:
            return None

    @classmethod
    def of(cls, values: Any) -> Self | None:
        """The account with these fields, but for those that this release does not know or has as another type; None if
        they are none."""
        known = {item.name: item.type for item in dataclasses.fields(cls)}
        try:
            return cls(**{name: value for name, value in values.items() if name in known and is_a(value, known[name])})
        except (AttributeError, TypeError):
            return None

    def as_json(self) -> dict[str, Any]:
        """All fields, ready for `json.dumps`."""
        return dataclasses.asdict(self)

    def to_json(self) -> str:
        """The form on storage."""
        return json.dumps(self.as_json(), indent=1)

    def with_work(self, work: dict[str, Any]) -> Self:
        """With what receipts add up to, where that is more than it knew."""
        return dataclasses.replace(self, **{name: max(getattr(self, name), work[name]) for name in WORK})

    def priced(self) -> Self:
        """With its cost. Reserved time is at least what was used."""
        reserved = self.actor_seconds_reserved
        if reserved is None and self.actor_seconds_used and self.at_least:
            reserved = self.actor_seconds_used
        elif reserved is not None:
            reserved = max(reserved, self.actor_seconds_used)
        cost = None if self.price_per_hour is None or reserved is None else self.price_per_hour * reserved / 3600
        return dataclasses.replace(self, actor_seconds_reserved=reserved, cost=cost)

    def failed(self, error: BaseException) -> Self:
        """As one that ended with this error."""
        message = " ".join(str(error).split())[:MESSAGE]
        return dataclasses.replace(self, outcome=FAILED, error=type(error).__name__, message=message)

    @property
    def how(self) -> str:
        """How it ended, in a few words."""
        if self.outcome == PUBLISHED:
            return f"published snapshot {self.snapshot}"
        if self.outcome == FAILED:
            return f"failed: {self.error}"
        if self.outcome == STOPPED:
            return f"stopped by {self.signal}"
        if self.outcome == KILLED:
            return f"killed{_LAST_SIGN}{_clock(self.ended_at)}" if self.ended_at else "killed"
        return self.outcome

    @property
    def where(self) -> str:
        """``user@host``, and its Ray job."""
        who = "@".join(filter(None, (self.user, self.host))) or "?"
        return f"{who} {self.ray_job}" if self.ray_job else who

    def __str__(self) -> str:
        return listing([self])

    def _repr_html_(self) -> str:
        return html([self])


HEAD = ("run", "started", "took", "ended", "by", "devices", "reserved", "used", "rows", "tokens", "cost")
NUMBERS = {"took", "reserved", "used", "rows", "tokens", "cost"}
_OPTIONAL = ("used", "devices", "started", "by", "tokens", "reserved", "cost")
"""Columns that a narrow terminal does without, in this order. The id of a run begins with when it started."""
_LAST_SIGN = ", last sign "


def row(account: RunAccount) -> tuple[str, ...]:
    """The cells of an attempt, under HEAD. Times of actors are added up over all of them."""
    more = "≥ " if account.at_least else ""
    some = more if account.splits else ""
    devices = f"{account.devices:g} x {account.device or '?'}" if account.devices else ""
    return (
        _plain(account.run_id),
        _clock(account.started_at) or "?",
        _duration(account.seconds, more),
        _plain(account.how),
        _plain(account.where),
        _plain(devices),
        _duration(account.actor_seconds_reserved, some),
        _duration(account.actor_seconds_used, some),
        f"{some}{account.rows:,}",
        f"{some}{account.tokens:,}",
        "" if account.cost is None else f"{some}{account.cost:,.2f}",
    )


def listing(accounts: Sequence[RunAccount], width: int | None = None) -> str:
    """A header, a line per attempt, and what all of them add up to.

    width: characters of a line, for which columns are left out, and the last line says which; None: all columns.
    """
    if not accounts:
        return "no run yet"
    rows = [row(account) for account in accounts]
    lines, left_out = text_table.lines(HEAD, rows, NUMBERS, width, _OPTIONAL)
    if left_out:
        ended = HEAD.index("ended")
        rows = [(*cells[:ended], cells[ended].partition(_LAST_SIGN)[0], *cells[ended + 1 :]) for cells in rows]
        lines, left_out = text_table.lines(HEAD, rows, NUMBERS, width, _OPTIONAL)
    sums = total(accounts)
    if width is not None:
        sums = _wrapped(sums, width)
        if left_out:
            text = f"Not shown: {', '.join(name for name in HEAD if name in left_out)}. --json has all."
            sums += f"\n{_wrapped(text, width)}"
    return "\n".join([*lines, sums])


def _wrapped(text: str, width: int) -> str:
    return "\n".join(textwrap.wrap(text, width, subsequent_indent="  ", break_on_hyphens=False))


def html(accounts: Sequence[RunAccount]) -> str:
    """The same for a notebook."""
    numbers = [number for number, name in enumerate(HEAD) if name in NUMBERS]
    return html_table(
        map(row, accounts), head=HEAD, title=total(accounts) if accounts else "no run yet", numbers=numbers
    )


def total(accounts: Sequence[RunAccount]) -> str:
    """What attempts add up to, in a sentence."""
    more = "at least " if any(account.at_least for account in accounts) else ""
    rows, tokens = (sum(getattr(account, name) for account in accounts) for name in ("rows", "tokens"))
    reserved = [account.actor_seconds_reserved for account in accounts]
    costs = [account.cost for account in accounts if account.cost is not None]
    unknown = sum(time is None for time in reserved)
    hours = f"{format_duration(sum(time for time in reserved if time))} of actors reserved"
    parts = [
        f"{counted(rows, 'row')}, {counted(tokens, 'token')}, {hours}" + (f" ({unknown:,} unknown)" if unknown else ""),
        *([f"cost {sum(costs):,.2f}"] if costs else []),
    ]
    return f"{counted(len(accounts), 'attempt')}: {more}{', '.join(parts)}"


def table(accounts: Sequence[RunAccount]) -> pa.Table:
    """The same as Arrow has it: all fields, times in UTC."""
    columns = {name: [getattr(account, name) for account in accounts] for name in SCHEMA.names if name != "versions"}
    for name in ("started_at", "ended_at"):
        columns[name] = [_moment(time) for time in columns[name]]
    columns["versions"] = [json.dumps(account.versions) for account in accounts]
    return pa.table([pa.array(columns[item.name], item.type) for item in SCHEMA], schema=SCHEMA)


def _schema() -> pa.Schema:
    kinds = {"snapshot": pa.int64(), "at_least": pa.bool_(), "devices": pa.float64()}
    kinds |= dict.fromkeys(WORK, pa.int64()) | dict.fromkeys(("started_at", "ended_at"), pa.timestamp("s", "UTC"))
    floats = ("seconds", "actor_seconds_reserved", "actor_seconds_used", "price_per_hour", "cost")
    kinds |= dict.fromkeys(floats, pa.float64())
    return pa.schema([(item.name, kinds.get(item.name, pa.string())) for item in dataclasses.fields(RunAccount)])


SCHEMA = _schema()
"""``versions`` is JSON."""


def begun_at(run_id: str) -> str:
    """When a run took its id, which is made of the time; "" if it is not."""
    digits = run_id.partition("-")[0]
    try:
        return datetime.strptime(digits[:15], "%Y%m%dT%H%M%S").replace(tzinfo=UTC).isoformat(timespec="seconds")
    except ValueError:
        return ""


def _moment(time: str) -> datetime | None:
    try:
        moment = datetime.fromisoformat(time)
    except ValueError:
        return None
    return moment if moment.tzinfo else moment.replace(tzinfo=UTC)


def _clock(time: str) -> str:
    moment = _moment(time)
    return moment.astimezone(UTC).isoformat(timespec="seconds").replace("+00:00", "Z") if moment else ""


def _duration(seconds: float | None, more: str) -> str:
    return "?" if seconds is None else f"{more}{format_duration(seconds)}"


def _plain(text: str) -> str:
    return "".join(char if char.isprintable() else "?" for char in text)
