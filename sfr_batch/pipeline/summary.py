"""What a run did, as a value that prints well."""

from collections.abc import Mapping
from dataclasses import dataclass, field

from sfr_batch.errors import counted
from sfr_batch.format import names
from sfr_batch.format.durations import format_duration
from sfr_batch.format.notebook import html_table
from sfr_batch.format.records import Counts
from sfr_batch.pipeline.price.outcome import Outcome
from sfr_batch.pipeline.price.price import Price
from sfr_batch.pipeline.progress import Progress
from sfr_batch.pipeline.results import Losses
from sfr_batch.planning.plan import EmbedPlan
from sfr_batch.planning.remarks import format_changes
from sfr_batch.table.table import Snapshot


@dataclass(frozen=True)
class Summary:
    """What a run did."""

    table: str
    """Path of the table."""
    snapshot: Snapshot | None
    """The newest snapshot after the run; None after a trial on a table that has none."""
    splits: int
    """Splits that this run embedded."""
    embedded: int
    """Rows that this run embedded."""
    tokens: int
    """Tokens of these rows, after truncation."""
    seconds: float
    """Duration of the run, planning and start-up included."""
    tokens_per_second: float
    """``tokens`` over the time since embedding began, start-up included."""
    padding: float
    """Share, in 0 to 1, of the computed tokens that were padding."""
    published: bool
    """Whether the run published ``snapshot``."""
    plain: bool = False
    """Whether `data/` holds exactly the rows of this snapshot, so that any engine may read it as a directory."""
    canaries: int = 0
    """Number of times that a canary text was encoded along with a split."""
    drift: float = 0.0
    """Largest 1 - cosine between a canary's vector among other rows and the one it has by itself."""
    repeated: Mapping[str, int] = field(default_factory=dict)
    """Requests to S3 that had to be repeated, by this process or by workers, by reason."""
    losses: Losses = field(default_factory=Losses)
    """Nodes and actors that died during the run. Their splits were done again elsewhere."""
    not_read: str = ""
    """Files below corpus.path that are no shards: their number, why, and examples. Empty if there are none."""
    borrowed: int = 0
    """Rows whose vectors were copied from another table (`table.reuse_from`)."""
    columns: str = ""
    """How the carried columns differ from those of the snapshot before. Empty if they do not."""
    earlier: int = 0
    """Rows in this snapshot that were embedded by earlier runs, which did not publish."""
    selected_none: bool = False
    """Whether the rows of shards were compared, and `select` matches none of them."""
    trial: bool = False
    """Whether the run was a trial (`select.limit`), which never publishes."""
    cost: Outcome | None = None
    """Actor-hours and money, beside what was planned; None if nothing was embedded."""

    @classmethod
    def of(
        cls,
        plan: EmbedPlan,
        seconds: float,
        progress: Progress | None = None,
        published: Snapshot | None = None,
        price: Price | None = None,
    ) -> "Summary":
        """The summary of a run of ``plan``.

        progress: None if there was nothing to do. published: the new snapshot; None with progress is a trial.
        price: as planned, if it was asked for.
        """
        done = progress or Progress(splits=0, rows=0)
        return cls(
            table=plan.store.root,
            snapshot=published or plan.base,
            splits=done.splits_done,
            embedded=done.embedded,
            tokens=done.tokens,
            seconds=seconds,
            tokens_per_second=done.state().tokens_per_second,
            padding=done.padding,
            published=published is not None,
            canaries=done.canaries,
            drift=done.drift,
            losses=done.losses,
            not_read=plan.passed_over.describe(),
            borrowed=plan.difference.borrowed if plan.difference and published else 0,
            columns=plan.column_changes.describe() if plan.column_changes else "",
            earlier=done.earlier,
            selected_none=_selects_none(plan),
            trial=progress is not None and published is None,
            cost=Outcome(done.actors.seconds / 3600, plan.config.run.price_per_hour, price)
            if done.splits_done
            else None,
        )

    def __repr__(self) -> str:
        did = (
            f"{counted(self.embedded, 'row')} embedded in {format_duration(self.seconds)}"
            if self.splits
            else "nothing to embed"
        )
        lost = f", lost {self.losses}" if self.losses else ""
        state = self.snapshot.brief() if self.snapshot else "no snapshot yet"
        return f"<Summary {self.table}: {did}{lost}, {state}>"

    def _repr_html_(self) -> str:
        return html_table(self._details(), title=self._headline())

    def describe(self) -> str:
        """Several lines for a person: what happened, where the table is and how to read it."""
        return "\n".join([self._headline(), *(f"{label:<10}{text}" for label, text in self._details())])

    def _headline(self) -> str:
        if self.trial:
            return (
                f"{self._work('Trial: embedded')}. Nothing was published. The embedded splits stay committed; a run "
                "without select.limit reuses them."
            )
        if self.snapshot is None:
            return f"Nothing to do: select matches no row of the corpus. {self.table} has no snapshot yet."
        if not self.published and self.selected_none:
            return "Nothing to do: select matches no row of the corpus."
        if not self.published:
            return f"Up to date, nothing to do ({format_duration(self.seconds)})."
        if not self.splits:
            return f"Nothing had to be embedded ({format_duration(self.seconds)})."
        return f"{self._work('Embedded')}."

    def _work(self, verb: str) -> str:
        return (
            f"{verb} {counted(self.embedded, 'row')}, {counted(self.tokens, 'token')} in "
            f"{format_duration(self.seconds)} ({self.tokens_per_second:,.0f} tokens/s, {self.padding:.1%} padding)"
        )

    def _details(self) -> list[tuple[str, str]]:
        """(label, text) in reading order, without those that do not apply."""
        snapshot = self.snapshot
        if self.trial or snapshot is None:
            return []
        counts, changes = snapshot.manifest.counts, snapshot.manifest.changes if self.published else None
        details = [
            ("Repeated", self._repeated()),
            ("Lost", f"{self.losses}; their splits were done again elsewhere" if self.losses else ""),
            ("Table", f"{self.table}, snapshot {snapshot.number}"),
            ("Rows", _rows(counts)),
            ("Resumed", self._resumed()),
            ("Copied", f"vectors of {counted(self.borrowed, 'row')} from table.reuse_from" if self.borrowed else ""),
            ("Not read", self.not_read),
            ("Cut", _cut(counts, snapshot.share_cut)),
            ("Drift", self._drift()),
            ("Cost", self.cost.describe() if self.cost else ""),
            ("Columns", self.columns if self.published else ""),
            ("Changes", format_changes(changes, keeps=counts.kept > 0) if changes else ""),
            ("Search", f'sfr-batch search {self.table} "your question"'),
            ("Read", f"sfr_batch.open_table({self.table!r}).to_arrow()"),
            ("", f"duckdb: SELECT id, embedding FROM {self._for_duckdb()}" if self.plain else ""),
            ("Rejects", f"sfr_batch.open_table({self.table!r}).current().rejects()" if counts.rejected else ""),
            ("Report", f"sfr-batch report {self.table}" if self.published else ""),
        ]
        return [(label, text) for label, text in details if text]

    def _resumed(self) -> str:
        """How the rows of the headline and those of the snapshot add up."""
        if not self.published or self.snapshot is None:
            return ""
        found = self.snapshot.manifest.counts.embedded - self.embedded  # also in files that other plans have made
        earlier = max(self.earlier, found)
        if not earlier:
            return ""
        rows = (
            f"{self.embedded + earlier:,} rows embedded = {self.embedded:,} by this run + {earlier:,} by earlier runs"
        )
        return f"{rows} that did not publish" if found <= self.earlier else rows

    def _for_duckdb(self) -> str:
        files = f"'{self.table}/{names.DATA}/*.parquet'"
        # DuckDB takes a folder id=5 above them for the ids of all rows.
        return f"read_parquet({files}, hive_partitioning = false)" if "=" in self.table else files

    def _repeated(self) -> str:
        if not self.repeated:
            return ""
        reasons = ", ".join(f"{reason} {number:,}" for reason, number in self.repeated.items())
        return f"{counted(sum(self.repeated.values()), 'request')} to S3 ({reasons})"

    def _drift(self) -> str:
        if not self.canaries:
            return ""
        canaries = counted(self.canaries, "canary", "canaries")
        return f"1 - cosine at most {self.drift:.1e} between a text in a batch and by itself, {canaries}"


def _selects_none(plan: EmbedPlan) -> bool:
    changes = plan.difference.changes if plan.difference else None
    return plan.config.select.by_rows and changes is not None and not any(changes.model_dump().values())


def _rows(counts: Counts) -> str:
    chunks = f"; {counts.vectors:,} chunks" if counts.vectors != counts.embedded + counts.reused + counts.kept else ""
    kept = f"; {counts.kept:,} kept that are no longer in the corpus" if counts.kept else ""
    return (
        f"{counts.read:,} read = {counts.embedded:,} embedded + {counts.reused:,} reused + "
        f"{counts.rejected:,} rejected{chunks}{kept}"
    )


def _cut(counts: Counts, share: float) -> str:
    if not counts.truncated:
        return ""
    documents = counted(counts.truncated, "document")
    return f"{documents} truncated, {share:.1%} of all tokens not embedded (model.overflow)"
