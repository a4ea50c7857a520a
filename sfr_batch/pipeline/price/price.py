"""The price of a plan, as a value that prints well: tokens, padding, output, hours and money.

A sample of the corpus gives what is computed, a rate how fast, the config for how many actors and at what price. What
has a vector already, and what is copied, costs nothing. Loads neither torch nor Ray.
"""

import math
import os
import textwrap
from dataclasses import dataclass
from typing import Any

from sfr_batch.errors import counted
from sfr_batch.format.durations import format_duration
from sfr_batch.format.notebook import html_table
from sfr_batch.pipeline.job import make_job
from sfr_batch.pipeline.price.estimator import Figure
from sfr_batch.pipeline.price.rates import NO_RATE, Rate, find_rate
from sfr_batch.pipeline.price.sampling import CHARACTERS_A_SECOND, SECONDS, Sample, take_sample
from sfr_batch.planning.limits import vector_bytes
from sfr_batch.planning.plan import EmbedPlan as EmbedPlan

_COLUMNS = 80
_LABEL = 10
_FEW_SPLITS = 5
"""Up to so many splits an interval is wide because it has to be, which is said."""
_START_UP_OFF = 0.5
"""By what share a start takes longer, or is faster by the same factor: files may be in memory or not."""
_OTHER_OBJECTS = 10
"""That a run writes beside data files and rejects, about: its log, its snapshot with side files, the table's card."""


@dataclass(frozen=True)
class Time:
    """How long a number of actors takes."""

    actors: int
    encoding: Figure
    """Seconds, start-up not included."""
    start_up_s: float | None
    """Until the actors encode; None if unknown."""

    @property
    def seconds(self) -> Figure:
        """With the start-up, if it is known."""
        return self.encoding.plus(_exact(self.start_up_s or 0.0).uncertain(_START_UP_OFF))

    @property
    def hours(self) -> Figure:
        """The same in hours."""
        return self.seconds.times(1 / 3600)

    @property
    def actor_hours(self) -> Figure:
        """Hours of all actors together: what is paid for."""
        return self.hours.times(self.actors)


@dataclass(frozen=True)
class Price:
    """What a run of a plan will cost."""

    plan: EmbedPlan
    sample: Sample
    rate: Rate | None
    """None if nothing is known of how fast the model computes."""

    @property
    def upper_bound(self) -> bool:
        """Whether rows may turn out to have a vector already: the plan has not compared them."""
        return self.plan.has_to_compare

    @property
    def tokens(self) -> Figure:
        """Of the rows to embed, after truncation."""
        return self.sample.counts["tokens"]

    @property
    def padding(self) -> float:
        """Share, in 0 to 1, of the computed tokens that will be padding."""
        counts = self.sample.counts
        return 1 - counts["encoded"].value / counts["padded"].value if counts["padded"].value else 0.0

    @property
    def times(self) -> list[Time]:
        """For the actors at the start, and for the most that may be, if these are other ones; empty without a rate."""
        if self.rate is None or not self.sample.splits:
            return []
        actors = self.plan.config.run.actors
        numbers = sorted({min(number, self.sample.splits) for number in (actors.min, actors.max or actors.min)})
        encoding = self._actor_seconds(self.rate).uncertain(self.rate.off)
        return [Time(number, encoding.times(1 / number), self.rate.start_up_s) for number in numbers]

    def _actor_seconds(self, rate: Rate) -> Figure:
        """Seconds of encoding of one actor, beside which all is read and tokenized: on a CPU that shares its cores with
        the model, else the slower of the two counts. The rate of a run knows it already."""
        encoding = self.sample.counts["padded"].times(1 / rate.tokens_per_second)
        if rate.origin == "run":
            return encoding
        reading = self.sample.counts["characters"].times(1 / CHARACTERS_A_SECOND / (os.cpu_count() or 1))
        if self.plan.config.model.device != "cpu":
            return max(encoding, reading, key=lambda figure: figure.value)
        return encoding.plus(reading)

    @property
    def hours(self) -> Figure | None:
        """With the actors at the start; None without a rate."""
        return self.times[0].hours if self.times else _NOTHING_TO_DO if not self.sample.splits else None

    @property
    def money(self) -> Figure | None:
        """With the actors at the start; None without a rate or without `run.price_per_hour`."""
        return self._money(self.times[0] if self.times else None)

    def _money(self, time: Time | None) -> Figure | None:
        price = self.plan.config.run.price_per_hour
        if price is None or (time is None and self.sample.splits):
            return None
        return time.actor_hours.times(price) if time else _NOTHING_TO_DO

    @property
    def output_bytes(self) -> Figure:
        """Of the new data files."""
        counts = self.sample.counts
        of_vectors = counts["vectors"].times(vector_bytes(self.plan.card.schema))
        more = counts["other_bytes"]
        ends = [None if a is None or b is None else a + b for a, b in zip(_ends(of_vectors), _ends(more), strict=True)]
        return Figure(of_vectors.value + more.value, *ends)

    @property
    def objects(self) -> int:
        """New objects, about."""
        if not self.sample.splits:
            return 0
        return self.sample.splits + round(self.sample.with_rejects.value) + _OTHER_OBJECTS

    # --- for people and programs

    def __repr__(self) -> str:
        said = [f"{_about(self.tokens)} tokens", self._brief_time()]
        money = self.money
        said.append(f"price {_about_money(money)}" if money else "")
        return f"<Price {self.plan.store.root}: {', '.join(filter(None, said))}>"

    def _brief_time(self) -> str:
        return f"{_about_time(self.times[0].seconds)} on {counted(self.times[0].actors, 'actor')}" if self.times else ""

    def _repr_html_(self) -> str:
        return html_table(self._details(), title=f"Price of {self.plan.store.root}")

    def describe(self) -> str:
        """Several lines for a person, of at most 80 columns; empty if nothing has to be embedded."""
        return "\n".join(self.lines())

    def lines(self) -> list[str]:
        """The lines of `describe`."""
        return [line for label, text in self._details() for line in _wrapped(label, text)]

    def _details(self) -> list[tuple[str, str]]:
        if not self.sample.splits:
            return []
        details = [
            ("tokens", self._tokens()),
            ("computed", self._computed()),
            ("cut", self._cut()),
            ("rejects", self._rejects()),
            ("output", self._output()),
            ("time", self._time()),
            ("price", self._price()),
        ]
        return [(label, text) for label, text in details if text]

    def _tokens(self) -> str:
        sample, most = self.sample, "at most " if self.upper_bound else ""
        if sample.exact:
            return f"{most}{self.tokens.value:,.0f}, counted in {_all(sample.splits)}"
        of = f"{sample.read:,} of {counted(sample.splits, 'split')}"
        low, high = self.tokens.low, self.tokens.high
        if low is None or high is None:
            return f"{most}{_about(self.tokens)}, from {of}: one split does not show by how much that is off"
        if sample.read == sample.splits:
            of = f"some texts of {_all(sample.splits)}"
        few = ", so few that the interval is wide" if sample.read <= _FEW_SPLITS and sample.read < sample.splits else ""
        beginnings = "; of files without an index the beginnings" if sample.beginnings else ""
        within = f"{_round(low):,.0f} to {_round(high, up=True):,.0f}"
        return f"{most}{_about(self.tokens)}, in nine of ten runs {within}: from {of}{few}{beginnings}"

    def _computed(self) -> str:
        counts = self.sample.counts
        repeated = counts["encoded"].value < counts["tokens"].value
        once = ", repeated texts of a split once" if repeated else ""
        return f"{_about(counts['encoded'])} tokens{once}; {self.padding:.1%} padding"

    def _cut(self) -> str:
        truncated, rows = self.sample.counts["truncated"], self.sample.counts["rows"].value
        if not truncated.value or not rows:
            return ""
        share = truncated.value / rows
        return f"{share:.1%} of the documents truncated, {self.sample.share_cut:.1%} of all tokens not embedded"

    def _rejects(self) -> str:
        found = [f"{_about(number)} {reason}" for reason, number in self.sample.reasons.items() if number.value]
        return ", ".join(found) if found else ""

    def _output(self) -> str:
        counts = self.sample.counts
        chunks = f" of {_about(counts['rows'])} documents" if self.plan.config.model.overflow == "chunk" else ""
        size, sign = self.output_bytes.value, "" if self.sample.exact else "~"
        return f"{_about(counts['vectors'])} rows{chunks}, {sign}{_size(size)}, ~{counted(self.objects, 'object')}"

    def _time(self) -> str:
        rate = self.rate
        if rate is None:
            return NO_RATE
        shown = " or ".join(f"{_about_time(time.seconds)} on {counted(time.actors, 'actor')}" for time in self.times)
        known = rate.start_up_s is not None
        start = f"start-up of {format_duration(rate.start_up_s or 0)} included" if known else "without start-up"
        most = "at most " if self.upper_bound else ""
        return f"{most}{shown}, {start}; {rate.tokens_per_second:,.0f} tokens/s an actor, {rate.source}"

    def _price(self) -> str:
        price, most = self.plan.config.run.price_per_hour, "at most " if self.upper_bound else ""
        if price is None or not self.times:
            return ""
        shown = " or ".join(
            f"{_about_money(money)} for {_about_hours(time.actor_hours)}"
            for time in self.times
            if (money := self._money(time))
        )
        start = "without start-up" if self.times[0].start_up_s is None else "start-up included"
        return f"{most}{shown}, {start}, at {price:,.2f} an actor and hour"

    def to_json(self) -> dict[str, Any]:
        """All of it as plain values; see the README of `pipeline` for the keys."""
        sample, rate = self.sample, self.rate
        return {
            "table": self.plan.store.root,
            "upper_bound": self.upper_bound,
            "splits": sample.splits,
            "splits_read": sample.read,
            "sample_seconds": sample.seconds,
            "exact": sample.exact,
            **{name: figure.to_json() for name, figure in sample.counts.items()},
            "rejects": {reason: figure.to_json() for reason, figure in sample.reasons.items()},
            "padding": self.padding,
            "share_cut": sample.share_cut,
            "output_bytes": self.output_bytes.to_json(),
            "objects": self.objects,
            "rate": None
            if rate is None
            else {
                "tokens_per_second": rate.tokens_per_second,
                "origin": rate.origin,
                "measured": rate.measured,
                "off": rate.off,
                "source": rate.source,
                "start_up_seconds": rate.start_up_s,
            },
            "times": [
                {
                    "actors": time.actors,
                    "hours": time.hours.to_json(),
                    "actor_hours": time.actor_hours.to_json(),
                    "money": money.to_json() if (money := self._money(time)) else None,
                }
                for time in self.times
            ],
        }


def _exact(value: float) -> Figure:
    return Figure(value, value, value)


_NOTHING_TO_DO = _exact(0.0)


def find_price(plan: EmbedPlan, seconds: float = SECONDS) -> Price:
    """The price of a plan, from splits that are read for so many ``seconds``. Writes nothing.

    Raises CorpusError, ModelError and StorageError as the run would, and ConfigError for an unknown `run.gpu`.
    """
    sample = take_sample(plan, make_job(plan, ""), seconds)
    return Price(plan, sample, find_rate(plan, sample.row_tokens))


# --- numbers as text


def _all(splits: int) -> str:
    return "the only split" if splits == 1 else f"all {splits:,} splits"


def _ends(figure: Figure) -> tuple[float | None, float | None]:
    return figure.low, figure.high


def _round(number: float, digits: int = 3, *, up: bool = False) -> float:
    """To three digits; an end of an interval outwards."""
    if number <= 0:
        return 0.0
    unit = 10.0 ** max(0, math.floor(math.log10(number)) - digits + 1)
    return (math.ceil if up else math.floor)(number / unit) * unit


def _about(figure: Figure) -> str:
    if figure.exact:
        return f"{figure.value:,.0f}"
    unit = 10.0 ** max(0, math.floor(math.log10(max(1.0, figure.value))) - 2)
    return f"~{round(figure.value / unit) * unit:,.0f}"


def _about_time(figure: Figure) -> str:
    about = f"~{format_duration(figure.value)}"
    if figure.low is None or figure.high is None:
        return about
    return f"{about} ({format_duration(figure.low)} to {format_duration(figure.high)})"


def _about_hours(figure: Figure) -> str:
    return f"~{figure.value:,.{2 if figure.value >= 1 else 4}f} actor-hours"


def _about_money(figure: Figure) -> str:
    digits = 2 if figure.value >= 1 else 4
    if figure.low is None or figure.high is None or f"{figure.low:.{digits}f}" == f"{figure.high:.{digits}f}":
        return f"~{figure.value:,.{digits}f}"
    return f"~{figure.value:,.{digits}f} ({figure.low:,.{digits}f} to {figure.high:,.{digits}f})"


def _size(size: float) -> str:
    for unit, one in (("TB", 1e12), ("GB", 1e9)):
        if size >= one:
            return f"{size / one:,.1f} {unit}"
    return f"{size / 1e6:,.1f} MB"


def _wrapped(label: str, text: str) -> list[str]:
    lines = textwrap.wrap(text, _COLUMNS - _LABEL, break_long_words=False, break_on_hyphens=False)
    return [f"{label if not number else '':{_LABEL}}{line}" for number, line in enumerate(lines)]
