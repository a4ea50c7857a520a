"""What a run did, as a value that prints well."""

from collections.abc import Mapping
from dataclasses import dataclass, field

from sfr_batch.format import names
from sfr_batch.format.records import Counts
from sfr_batch.pipeline.progress import Progress, format_duration
from sfr_batch.pipeline.results import Losses
from sfr_batch.planning.plan import EmbedPlan, format_changes
from sfr_batch.table.table import Snapshot


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
        did = (
            f"{self.embedded:,} rows embedded in {format_duration(self.seconds)}" if self.splits else "nothing to embed"
        )
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
                f"A trial: embedded {self.embedded:,} rows, {self.tokens:,} tokens in {format_duration(self.seconds)} "
                f"({self.tokens_per_second:,.0f} tokens/s, {self.padding:.1%} padding). Nothing was published; what is "
                "embedded stays committed, and a run without select.limit uses it."
            )
        if self.snapshot is None:
            return f"Nothing to do: select means no row of the corpus. {self.table} has no snapshot yet."
        counts = self.snapshot.manifest.counts
        if not self.published:
            head = f"Up to date, nothing to do ({format_duration(self.seconds)})."
        else:
            head = (
                f"Embedded {self.embedded:,} rows, {self.tokens:,} tokens in {format_duration(self.seconds)} "
                f"({self.tokens_per_second:,.0f} tokens/s, {self.padding:.1%} padding)."
            )
        if self.published and not self.splits:
            head = f"Nothing had to be embedded ({format_duration(self.seconds)})."
        changes = self.snapshot.manifest.changes if self.published else None
        lines = [
            head,
            f"Table     {self.table}, snapshot {self.snapshot.number}",
            f"Rows      {counts.read:,} read = {counts.embedded:,} embedded + {counts.reused:,} reused + "
            f"{counts.rejected:,} rejected{self._vectors(counts)}"
            + (f"; {counts.kept:,} kept that are not in the corpus any more" if counts.kept else ""),
            *([f"ChangeCounts   {format_changes(changes)}"] if changes else []),
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
