"""The report of a run: a value with a version, which is what `report.json` has.

None is what was not measured, or what nobody can know any more: never 0. Times are seconds, lengths are tokens. A field
that this release does not know is left out, one that an older release did not write is None. Knows no storage.
"""

import json
import math
from typing import Any, Literal, Self

from pydantic import BaseModel, ConfigDict, ValidationError, computed_field

from sfr_batch.format.run_accounts import PUBLISHED, RunAccount
from sfr_batch.table.report.page import as_page
from sfr_batch.table.report.text import as_table, as_text

REPORT_VERSION = 1
"""Version of what is described here. A field may come without a new one; a changed meaning asks for one."""
_BUSY = 0.75
"""Share of the time of actors from which on they are what a run waits for."""

Bottleneck = Literal["planning", "start-up", "model", "input", "output", "waiting", "ending"]


class _Part(BaseModel):
    """Base of the report and its parts: immutable, and open for fields of later releases."""

    model_config = ConfigDict(extra="ignore", frozen=True, use_attribute_docstrings=True)


class Throughput(_Part):
    """Work over time, since the run began to embed; start-up is part of it."""

    every_seconds: float
    """Length of each interval."""
    tokens: tuple[int, ...]
    """Tokens of the rows, after truncation, in each interval. A split counts evenly over the time of its encoding."""
    rows: tuple[int, ...]
    """Documents that were embedded, likewise."""
    derived: bool = False
    """Whether it is derived from the times of data files: the run itself has not written it."""


class Lengths(_Part):
    """How long the embedded texts are, in tokens."""

    edges: tuple[int, ...]
    """The least length of each bucket; the last one has no end."""
    documents: tuple[int, ...]
    """Documents in each bucket, by their length before truncation or chunking."""
    rows: tuple[int, ...]
    """Rows in each bucket, by the length that the model computed: after truncation, or of chunks."""
    files: int | None = None
    """Data files that were read for it, if it is derived from some of them."""
    of_files: int | None = None
    """Data files that there are."""


class RejectExample(_Part):
    """A row that was not embedded. Long texts are cut."""

    reason: str
    id: str
    shard: str
    position: int
    message: str


class Rejects(_Part):
    """Rows that were not embedded."""

    by_reason: dict[str, int]
    """Their number, by reason."""
    examples: tuple[RejectExample, ...] = ()
    """A few of each reason."""
    complete: bool = True
    """Whether all rejects of the run are counted."""


class RunReport(_Part):
    """What one run did, and what it took. Open it with `EmbeddingTable.report`."""

    report_version: int = 0
    """1; 0 of a release that wrote less."""
    run_id: str
    outcome: str = PUBLISHED
    """As in the account of the run, the last of ``attempts``."""
    table: str = ""
    """Path of the table."""
    finished_at: str = ""
    """When the report was written, in UTC; of an attempt without one, when it ended."""
    snapshot: int | None = None
    """Number of the snapshot that it published."""
    splits: int | None = None
    """Splits that this run embedded."""
    embedded: int | None = None
    """Documents that this run embedded."""
    earlier: int | None = None
    """Documents of the snapshot that earlier attempts had embedded."""
    rejected: int | None = None
    """Rejected rows of these splits."""
    duplicates: int | None = None
    """Rows of the snapshot, of whichever run, that gave way to another row with their id when it was published."""
    tokens: int | None = None
    """Tokens of these documents, after truncation."""
    tokens_full: int | None = None
    """The same before truncation or chunking."""
    truncated: int | None = None
    """Rows whose text was cut."""
    encoded_tokens: int | None = None
    """Tokens that were computed: a text that occurs several times in a split once."""
    padded_tokens: int | None = None
    """The same with padding."""
    seconds: float | None = None
    """Of the whole run."""
    planning_seconds: float | None = None
    """Planning and comparing, until the run began to write."""
    start_up_seconds: float | None = None
    """Until the first split was being encoded: Ray, actors, loading the model."""
    embed_seconds: float | None = None
    """From then to the last finished split."""
    ending_seconds: float | None = None
    """After it: publishing; of a run that did not publish, waiting for what never came."""
    read_seconds: float | None = None
    """Reading the corpus, added up over all readers."""
    tokenize_seconds: float | None = None
    """Tokenizing, likewise."""
    encode_seconds: float | None = None
    """Computing vectors, added up over all actors."""
    write_seconds: float | None = None
    """Checking and writing data files, added up over all writers."""
    actors: int | None = None
    """Most encode actors at once."""
    throughput: Throughput | None = None
    lengths: Lengths | None = None
    rejects: Rejects | None = None
    canaries: int | None = None
    """Fixed texts that were encoded among the rows, to see whether their company changes a vector."""
    drift: float | None = None
    """Largest 1 - cosine between the vector of a canary among the rows and by itself."""
    lost_nodes: int | None = None
    lost_actors: int | None = None
    """Restarts of encode actors."""
    repeated_requests: dict[str, int] | None = None
    """Requests to S3 that had to be repeated, by reason."""
    cost: dict[str, Any] | None = None
    """``actor_hours``, ``price_per_hour``, ``money`` and ``planned``: what `sfr-batch plan --json` calls ``price``."""
    counts: dict[str, int] | None = None
    """Of the snapshot, as in its manifest."""
    changes: dict[str, int] | None = None
    """What differs from the snapshot before, as in the manifest."""
    share_cut: float | None = None
    """Share of all tokens of the snapshot, in 0 to 1, that truncation cut off."""
    plain: bool | None = None
    """Whether `data/` held exactly the rows of the snapshot, so that any engine could read it as a folder."""
    model: str | None = None
    """Path of the model."""
    dim: int | None = None
    """Length of a vector."""
    vector_dtype: str | None = None
    fingerprint: str | None = None
    fingerprint_inputs: dict[str, Any] | None = None
    """All that defines a vector; see the specification of the format."""
    attempts: tuple[dict[str, Any], ...] = ()
    """Accounts of the attempts since the last report, oldest first, the run itself last; see the specification."""

    @classmethod
    def from_json(cls, data: str | bytes) -> Self | None:
        """The report in a `report.json`; None if it is damaged."""
        try:
            return cls.model_validate(json.loads(data))
        except (ValueError, ValidationError, RecursionError):
            return None

    def as_json(self) -> dict[str, Any]:
        """All fields as plain values, ready for `json.dumps`."""
        plain: dict[str, Any] = _finite(self.model_dump(mode="json"))
        return plain

    def to_json(self) -> str:
        """The form on storage: a field a line."""
        lines = (f"{json.dumps(name)}: {json.dumps(value, allow_nan=False)}" for name, value in self.as_json().items())
        return "{\n" + ",\n".join(lines) + "\n}\n"

    @property
    def accounts(self) -> list[RunAccount]:
        """The attempts as values, oldest first."""
        return [account for account in map(RunAccount.of, self.attempts) if account]

    @property
    def account(self) -> RunAccount:
        """The account of the run itself."""
        own = [account for account in self.accounts if account.run_id == self.run_id]
        return own[-1] if own else RunAccount(self.run_id, self.outcome, self.snapshot)

    @property
    def padding(self) -> float | None:
        """Share of the computed tokens, in 0 to 1, that were padding; None if nothing was computed."""
        if not self.padded_tokens or self.encoded_tokens is None:
            return None
        return 1 - self.encoded_tokens / self.padded_tokens

    @property
    def tokens_per_second(self) -> float | None:
        """From the first split to the last one, without start-up; None without a split."""
        return self.tokens / self.embed_seconds if self.tokens and self.embed_seconds else None

    @property
    def busy(self) -> float | None:
        """Share of the time of all actors, in 0 to 1, in which they computed, start-up left out."""
        if not self.encode_seconds or not self.embed_seconds or not self.actors:
            return None
        existed, reserved = self.actors * self.embed_seconds, self.account.actor_seconds_reserved
        return min(1.0, self.encode_seconds / (min(existed, reserved) if reserved else existed))

    @computed_field  # type: ignore[prop-decorator]
    @property
    def bottleneck(self) -> Bottleneck | None:
        """What took most of the time: `planning`, `start-up` or `ending`; or, while it embedded, the `model`, or, while
        actors waited, reading and tokenizing (`input`), or writing (`output`), or `waiting` for what is not known."""
        whole: dict[Bottleneck, float | None] = {
            "planning": self.planning_seconds,
            "start-up": self.start_up_seconds,
            "model": self.embed_seconds,
            "ending": self.ending_seconds,
        }
        known = {name: seconds for name, seconds in whole.items() if seconds is not None}
        if not known or not any(known.values()):
            return None
        longest = max(known, key=lambda name: known[name])
        busy = self.busy
        if longest != "model" or busy is None or busy >= _BUSY:
            return longest
        if self.read_seconds is None or self.tokenize_seconds is None or self.write_seconds is None:
            return "waiting"
        return "input" if self.read_seconds + self.tokenize_seconds >= self.write_seconds else "output"

    # --- for people

    def __repr__(self) -> str:
        return f"<RunReport {self.run_id}: {self.account.how}>"

    def _repr_html_(self) -> str:
        return as_table(self)

    def describe(self) -> str:
        """The report in some lines of at most 80 columns, but for words that are longer."""
        return as_text(self)

    def to_html(self) -> str:
        """The report as a page that needs nothing else: no script, no font, no picture from elsewhere."""
        return as_page(self)


def _finite(value: Any) -> Any:
    """JSON knows no NaN and no infinity: they are null."""
    if isinstance(value, dict):
        return {key: _finite(own) for key, own in value.items()}
    if isinstance(value, list):
        return [_finite(own) for own in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value
