"""Where a run is: what it does, how far it is, how fast, how long it will take, whether it moves, how it ended.

The run itself says it, on storage while it goes on; whoever reads that adds what only a reader can know. It prints as a
line, as a screen of a terminal, as JSON and as HTML. Pure: `table.commit.watching` finds it on storage.
"""

import dataclasses
import json
from dataclasses import dataclass
from typing import Any, Self

from sfr_batch.format import progress_line, progress_screen
from sfr_batch.format.field_types import is_a
from sfr_batch.format.run_accounts import (
    AGAIN,
    FAILED,
    KILLED,
    NO_RUN,
    NOTHING,
    PUBLISHED,
    RUNNING,
    STOPPED,
    TRIAL,
    UNKNOWN,
    RunAccount,
)

STALLED_S = 600.0
"""Seconds without a commit after which a run counts as stalled, unless its commits are about as far apart anyway."""
_SILENCE_S = 30.0
"""Seconds without a commit that are worth a word, unless splits take about as long anyway."""
_MINUTE_S = 60.0
EXIT_CODES = {PUBLISHED: 0, TRIAL: 0, NOTHING: 0, NO_RUN: 0, FAILED: 3, STOPPED: 4, KILLED: 5, UNKNOWN: 5, AGAIN: 5}
"""What `sfr-batch status --watch` ends with, by how the run ended."""


@dataclass(frozen=True)
class RunProgress:
    """Where a run of a table is. Times are seconds, counted back from the moment of the look."""

    table: str = ""
    """URI of the table."""
    run_id: str = ""
    """Empty if nobody has written the table yet, and of a submitted job whose run has not begun."""
    stage: str = ""
    """What it is doing, in a few words, such as `waiting for 1 of 8 GPUs`; empty if nothing says it."""
    waiting: bool = False
    """Whether it waits for machines, so that no commit can come."""
    elapsed_s: float = 0.0
    """Since it began to embed."""
    rows: int = 0
    """Rows that it has to embed."""
    embedded: int = 0
    """Rows that it has embedded and committed."""
    rejected: int = 0
    """Rows that it could not embed."""
    earlier: int = 0
    """Rows that attempts before it have embedded and not published; not part of ``rows``."""
    estimated: bool = False
    """Whether ``rows`` and ``splits`` are estimates, as for formats of lines."""
    splits: int = 0
    """Splits that it has to embed."""
    splits_done: int = 0
    """Splits that it has committed."""
    splits_failed: int = 0
    tokens: int = 0
    """Of the rows that are embedded."""
    tokens_per_second_now: float | None = None
    """In the last minute; null in the first one."""
    padding: float = 0.0
    """Share of the computed tokens that were padding, 0 to 1."""
    first_commit_s: float | None = None
    """Since its first commit; null before."""
    last_commit_s: float | None = None
    """Since its last one."""
    lost: str = ""
    """Nodes and actors that it has lost and replaced."""
    user: str = ""
    host: str = ""
    ray_job: str | None = None
    """Submission id, if it is the driver of a Ray job."""
    stop_with: str = ""
    """A shell command that stops it."""
    heartbeat_s: float | None = None
    """Since its last sign of life; null where nobody has looked for one."""
    ended: RunAccount | None = None
    """How it ended, and what it took; null while it goes on."""

    @classmethod
    def from_json(cls, data: str | bytes) -> Self | None:
        """What a run has written; None if it is damaged. A field that this release does not know is left out."""
        try:
            values = dict(json.loads(data).items())
            known = {item.name: values[item.name] for item in dataclasses.fields(cls) if item.name in values}
        except (AttributeError, TypeError, ValueError):
            return None
        if not all(is_a(known[item.name], item.type) for item in dataclasses.fields(cls) if item.name in known):
            return None
        return cls(**known)

    def as_json(self) -> dict[str, Any]:
        """All fields and what follows from them, ready for `json.dumps`."""
        follows = ("outcome", "stalled", "share", "rows_per_second", "tokens_per_second", "left_s", "silence_s")
        return dataclasses.asdict(self) | {name: getattr(self, name) for name in follows}

    def to_json(self) -> str:
        """The form on storage."""
        return json.dumps({name: value for name, value in dataclasses.asdict(self).items() if value is not None})

    def later(self, seconds: float) -> Self:
        """The same, ``seconds`` after it was written."""
        seconds = max(0.0, seconds)
        ages = ("elapsed_s", "first_commit_s", "last_commit_s")
        aged = {name: age + seconds for name in ages if (age := getattr(self, name)) is not None}
        made = dataclasses.replace(self, **aged)
        if made.tokens_per_second_now and (made.last_commit_s or 0) > _MINUTE_S:
            made = dataclasses.replace(made, tokens_per_second_now=0.0)
        return made

    def ended_as(self, account: RunAccount) -> Self:
        """The run after its end, with the counts of its account, which may know more."""
        at_least = {"rows": "embedded", "rejected": "rejected", "tokens": "tokens", "splits": "splits_done"}
        most = {name: max(getattr(self, name), getattr(account, of)) for of, name in at_least.items()}
        seconds = self.elapsed_s if account.seconds is None else account.seconds
        user, host = account.user or self.user, account.host or self.host
        over = dataclasses.replace(
            self, ended=account, stage="", waiting=False, elapsed_s=seconds, user=user, host=host
        )
        return dataclasses.replace(over, tokens_per_second_now=None, **most)

    @property
    def outcome(self) -> str:
        """`running`, or how it ended, as `sfr-batch runs` has it; `unknown`; `none` without a run."""
        if self.ended:
            return self.ended.outcome
        return RUNNING if self.run_id or self.stage or self.splits else NO_RUN

    @property
    def is_over(self) -> bool:
        """Whether nothing more will come of it. One that has planned again goes on under another id."""
        return self.outcome not in (RUNNING, AGAIN)

    @property
    def exit_code(self) -> int:
        """What a command that watches it to its end ends with: 0 well, 3 failed, 4 stopped, 5 gone without a word."""
        return EXIT_CODES.get(self.outcome, 5)

    @property
    def rest(self) -> int:
        """Splits that are neither done nor failed."""
        return self.splits - self.splits_done - self.splits_failed

    @property
    def share(self) -> float:
        """Share of its rows that are done, 0 to 1."""
        return min(1.0, (self.embedded + self.rejected) / self.rows) if self.rows else 0.0

    @property
    def rows_per_second(self) -> float:
        """Since it began."""
        return (self.embedded + self.rejected) / self.elapsed_s if self.elapsed_s else 0.0

    @property
    def tokens_per_second(self) -> float:
        """Tokens of finished splits over the time since it began, start-up included."""
        return self.tokens / self.elapsed_s if self.elapsed_s else 0.0

    @property
    def left_s(self) -> float | None:
        """Estimated seconds for the remaining splits, from the pace since the first one; null while unknown."""
        if self.rest <= 0 or self.ended:
            return 0.0
        if self.first_commit_s is None or self.splits_done < 2:
            return None
        return self.first_commit_s / (self.splits_done - 1) * self.rest

    @property
    def silence_s(self) -> float | None:
        """Seconds since the last commit, if that is long for this run; null otherwise."""
        if self.last_commit_s is None or not self.splits_done or self.rest <= 0 or self.ended:
            return None
        return self.last_commit_s if self.last_commit_s > max(_SILENCE_S, 2 * self._usual_s) else None

    @property
    def stalled(self) -> bool:
        """Whether it is alive and has committed nothing for ten minutes, or for much longer than usual, although no
        machine is missing."""
        if self.outcome != RUNNING or self.waiting or not self.splits or self.rest <= 0:
            return False
        ago = self.elapsed_s if self.last_commit_s is None else self.last_commit_s
        return ago > max(STALLED_S, 5 * self._usual_s)

    @property
    def _usual_s(self) -> float:
        return (self.elapsed_s - (self.last_commit_s or 0.0)) / max(1, self.splits_done)

    @property
    def moved(self) -> tuple[object, ...]:
        """What is equal as long as nothing but time has passed."""
        now = (self.run_id, self.outcome, self.stage, self.stalled, self.rows, self.splits)
        return (*now, self.embedded, self.rejected, self.splits_done, self.splits_failed, self.lost)

    def line(self, width: int | None = None) -> str:
        """Its state in one line. width: its length in characters at most; what matters least is left out."""
        return progress_line.fit(progress_line.parts_of(self), width)

    @property
    def who(self) -> str:
        """The run, and whose it is and where."""
        return progress_line.fit(progress_screen.who(self), None)

    def describe(self) -> str:
        """What it is doing, or how it ended, in one line of any length."""
        return progress_screen.sentence(self)

    def screen(self, width: int = 80, *, color: bool = False) -> str:
        """The same in a few lines, for a terminal of that width."""
        return "\n".join(progress_screen.screen(self, width, color=color))

    def __str__(self) -> str:
        return self.screen()

    def __repr__(self) -> str:
        return f"<RunProgress{''.join(f' {name}' for name in (self.table, self.run_id) if name)}: {self.describe()}>"

    def _repr_html_(self) -> str:
        return progress_screen.html(self)
