"""The sample of a plan: whole splits, spread over shards and sizes, read until the time is over, and counted.

Whole, because a run computes texts that repeat in a split once, which single rows do not show. Reads the corpus and the
tokenizer; writes nothing, and loads neither torch nor Ray. Knows no rate and no money.
"""

import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass

from sfr_batch.corpus.reader import read_unit
from sfr_batch.corpus.rows import Rows
from sfr_batch.corpus.splits import ReadUnit, Split, splits_of
from sfr_batch.pipeline.job import Job
from sfr_batch.pipeline.price.estimator import Estimator, Figure
from sfr_batch.pipeline.price.split_counts import FIELDS, SplitCounts, count_split
from sfr_batch.planning.plan import EmbedPlan

SECONDS = 6.0
"""Time of a sample. With what a plan takes beside it, a price is there within ten seconds."""
CHARACTERS_A_SECOND = 1_500_000
"""That are read and tokenized on one busy core, about."""
_WHOLE_UP_TO = 16
"""Splits among which the characters of a sample are divided at most: a few splits are to be tokenized whole."""
_FEWEST_CHARACTERS = 250_000
_A_TOKEN = 8
"""Bytes of a token, mostly fewer: what is beyond so many for each token of a full row is cut off."""
_SEED = 0


@dataclass(frozen=True)
class Sample:
    """What some splits gave, and what all of them will."""

    splits: int
    """Splits to embed, of streams the expected ones."""
    read: int
    """Splits that were read."""
    seconds: float
    counts: dict[str, Figure]
    """By the name of a field of `SplitCounts`."""
    reasons: dict[str, Figure]
    """Rejects by reason, the most frequent first."""
    with_rejects: Figure
    """Splits that have a reject."""
    beginnings: bool
    """Whether files that can only be read from their beginning were not read to their end."""

    @property
    def exact(self) -> bool:
        """Whether every text was tokenized."""
        return self.counts["tokens"].exact

    @property
    def row_tokens(self) -> float:
        """Length of the row of a computed token, on average over the tokens."""
        encoded = self.counts["encoded"].value
        return self.counts["pairs"].value / encoded if encoded else 0.0

    @property
    def share_cut(self) -> float:
        """Share, in 0 to 1, of the documents' tokens that truncation leaves out."""
        full = self.counts["tokens_full"].value
        return max(0.0, 1 - self.counts["tokens"].value / full) if full else 0.0


def take_sample(
    plan: EmbedPlan, job: Job, seconds: float = SECONDS, clock: Callable[[], float] = time.monotonic
) -> Sample:
    """Read splits that the plan would embed, for so many seconds, at least one. Raises CorpusError, ModelError and
    StorageError, as the run would."""
    started = clock()
    items = list(_items(plan))
    limit = float("inf") if job.model.overflow == "chunk" else float(_A_TOKEN * int(job.inputs["max_length"]))
    if not items:
        return Sample(0, 0, 0.0, dict.fromkeys(FIELDS, _NOTHING), {}, _NOTHING, False)
    estimator = Estimator([split.rows for _, split in items], [split.text_bytes for _, split in items], limit, _SEED)
    among = min(len(items), _WHOLE_UP_TO)
    characters = max(_FEWEST_CHARACTERS, int(seconds * CHARACTERS_A_SECOND) // among)
    streams: dict[str, _Streamed] = {}
    chosen: list[int] = []
    found: list[SplitCounts] = []
    longest = 0.0
    for number in estimator.draw():
        began = clock()
        if chosen and began - started + longest > seconds:
            break
        unit, split = items[number]
        if unit.stream:
            stream = streams.setdefault(unit.stream.prefix, _Streamed(unit, job, characters))
            found.append(stream.next())
        else:
            found.append(_one(unit, split, job, characters))
        chosen.append(number)
        longest = max(longest, clock() - began)
    return _sample(estimator, chosen, found, clock() - started, any(not stream.ended for stream in streams.values()))


_NOTHING = Figure(0.0, 0.0, 0.0)


def _items(plan: EmbedPlan) -> Iterator[tuple[ReadUnit, Split]]:
    """The splits to embed, with their units; of a trial (`select.limit`) those until it has enough rows."""
    rows, limit = 0, plan.config.select.limit
    known = {record.uri for record in plan.recolumned} if plan.difference is None else ()
    for unit in plan.todo:
        if unit.shard.uri in known:
            continue
        for split in splits_of(unit):
            if limit and rows >= limit:
                return
            rows += split.rows
            yield unit, split


def _one(unit: ReadUnit, split: Split, job: Job, characters: int) -> SplitCounts:
    counts = SplitCounts()
    alone = unit if unit.chosen else ReadUnit(unit.shard, unit.row_groups, unit.first_row, (split,))
    for own, rows in read_unit(alone, job.corpus, job.columns):
        counts = counts.plus(count_split(own, rows, job, characters))
    return counts


class _Streamed:
    """The splits of a file that can only be read from its beginning, one after the other."""

    def __init__(self, unit: ReadUnit, job: Job, characters: int) -> None:
        self._expected = len(list(splits_of(unit)))
        self._splits = read_unit(unit, job.corpus, job.columns)
        self._job, self._characters = job, characters
        self.ended = False

    def next(self) -> SplitCounts:
        """The counts of the next split; of the last expected one with all that follow."""
        self._expected -= 1
        counts = SplitCounts()
        while not self.ended:
            split, rows = next(self._splits, (None, None))
            if split is None or rows is None:
                self.ended = True
                break
            counts = counts.plus(self._count(split, rows))
            if self._expected:
                break
        return counts

    def _count(self, split: Split, rows: Rows) -> SplitCounts:
        return count_split(split, rows, self._job, self._characters)


def _sample(
    estimator: Estimator, chosen: list[int], found: list[SplitCounts], seconds: float, beginnings: bool
) -> Sample:
    def total(values: list[float]) -> Figure:
        return estimator.total(chosen, values, errors)

    errors = [counts.error for counts in found]
    reasons = sorted({reason for counts in found for reason in counts.reasons})
    by_reason = {name: total([counts.reasons[name] for counts in found]) for name in reasons}
    return Sample(
        splits=estimator.splits,
        read=len(chosen),
        seconds=seconds,
        counts={name: total([getattr(counts, name) for counts in found]) for name in FIELDS},
        reasons=dict(sorted(by_reason.items(), key=lambda item: -item[1].value)),
        with_rejects=estimator.total(chosen, [float(counts.rejected > 0) for counts in found]),
        beginnings=beginnings,
    )
