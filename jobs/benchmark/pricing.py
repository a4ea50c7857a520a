"""Compares what `sfr-batch plan` says with the run that follows: tokens and time, on four kinds of corpora.

Every corpus is embedded in two halves, each planned just before: the first half by the rate that `sfr-batch verify` has
measured, the second by that of the first run. All are commands in processes of their own, as a user starts them.
"""

import json
import random
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from jobs.benchmark import processes
from jobs.benchmark.corpus import distinct_docstrings
from jobs.benchmark.report import aligned
from sfr_batch.errors import RunFailed
from sfr_batch.model.sources.location import is_packaged

CORPORA = ("docstrings", "short texts", "heavy tail", "many repeats")
_SHARDS = 8
_SHORT = 60
"""Most characters of a short text."""
_TIMEOUT_S = 3600.0
TOKENS_WITHIN, TIME_WITHIN = 0.05, 0.25
"""What a plan promises on an otherwise idle machine."""


@dataclass(frozen=True)
class Forecast:
    """One plan, and the run that followed."""

    corpus: str
    rate: str
    """Where its rate is from: `verify` or `run`."""
    planning_seconds: float
    """Of the whole process that planned."""
    planned_tokens: tuple[float, float, float]
    """Value, and both ends of its interval."""
    tokens: int
    planned_seconds: tuple[float, float, float]
    seconds: float
    """Of the run."""
    report: dict[str, Any] = field(default_factory=dict)
    """The run's."""
    price: dict[str, Any] = field(default_factory=dict)
    """The plan's."""

    @property
    def tokens_off(self) -> float:
        """By which share of the run's tokens the plan was above it."""
        return self.planned_tokens[0] / self.tokens - 1

    @property
    def time_off(self) -> float:
        return self.planned_seconds[0] / self.seconds - 1

    @property
    def covered(self) -> bool:
        """Whether both outcomes lie in their intervals."""
        (_, least, most), (_, shortest, longest) = self.planned_tokens, self.planned_seconds
        return least <= self.tokens <= most and shortest <= self.seconds <= longest


def corpora(documents: int) -> dict[str, list[str]]:
    """Texts by the name of the corpus, one of CORPORA; ``documents`` docstrings, and others that are made of them."""
    texts = [text for _, text in distinct_docstrings(documents)]
    mixed, drawn = random.Random(1), np.random.default_rng(1)
    short = sorted({" ".join(line.split())[:_SHORT] for text in texts for line in text.splitlines() if line.strip()})
    mixed.shuffle(short)
    joined = np.minimum(1 + drawn.pareto(1.0, documents // 2), 500).astype(int)
    repeats = np.minimum(1 + drawn.pareto(0.8, documents // 6), 200).astype(int)
    repeated = [text for text, times in zip(texts, repeats, strict=False) for _ in range(times)]
    mixed.shuffle(repeated)
    tail = ["\n\n".join(mixed.choices(texts, k=count)) for count in joined]
    made = (texts, short[: documents * 5], tail, [*repeated, *texts[-documents // 6 :]])
    return dict(zip(CORPORA, made, strict=True))


def forecasts(
    documents: int, names: Sequence[str], model: str, folder: Path, say: Callable[[str], None]
) -> list[Forecast]:
    """Plan and run every corpus, in two halves. Raises RunFailed."""
    found, cache, verified = [], {"XDG_CACHE_HOME": str(folder / "cache")}, False
    for name, texts in corpora(documents).items():
        if name not in names:
            continue
        place = folder / name.replace(" ", "-")
        config = _config(place, model)
        if not verified:
            _run(["verify", str(config)], folder / "verify.log", cache)
            verified = True
        for half in range(2):
            _write_shards(place / "corpus", texts, half)
            found.append(_forecast(name, config, place, cache))
            say(line(found[-1]))
    return found


def _config(place: Path, model: str) -> Path:
    (place / "corpus").mkdir(parents=True)
    raw = {
        "corpus": {"path": str(place / "corpus")},
        "model": {"path": model if is_packaged(model) else str(Path(model).resolve()), "device": "cpu"},
        "table": {"path": str(place / "table")},
        "run": {"rows_per_split": 1024, "min_splits": 1, "actors": {"gpus": 0}, "ray_address": "none"},
    }
    config = place / "job.yaml"
    config.write_text(json.dumps(raw), encoding="utf-8")
    return config


def _write_shards(folder: Path, texts: Sequence[str], half: int) -> None:
    for shard in range(half * _SHARDS // 2, (half + 1) * _SHARDS // 2):
        first, end = len(texts) * shard // _SHARDS, len(texts) * (shard + 1) // _SHARDS
        table = pa.table({"id": [f"{number:09}" for number in range(first, end)], "text": texts[first:end]})
        pq.write_table(table, folder / f"docs-{shard:05}.parquet")


def _run(arguments: Sequence[str], log: Path, environment: dict[str, str]) -> processes.Usage:
    return processes.run([sys.executable, "-m", "sfr_batch.cli", *arguments], log, environment, _TIMEOUT_S)


def _forecast(name: str, config: Path, place: Path, cache: dict[str, str]) -> Forecast:
    planning = _run(["plan", str(config), "--json"], place / "plan.log", cache)
    price = json.loads((place / "plan.log").read_text().splitlines()[-1])["price"]
    if price["rate"] is None:
        raise RunFailed("`sfr-batch verify` could not measure enough in its time: other work slows this machine down.")
    _run(["embed", str(config)], place / "embed.log", cache)
    report = json.loads(max(place.glob("table/_sfr/runs/*/report.json")).read_text())
    [hours, *_] = [time["hours"] for time in price["times"]]
    return Forecast(
        name,
        price["rate"]["origin"],
        planning.seconds,
        _three(price["tokens"]),
        report["tokens"],
        _three({end: hours[end] * 3600 for end in hours}),
        report["seconds"],
        report,
        price,
    )


def _three(figure: dict[str, float]) -> tuple[float, float, float]:
    return figure["value"], figure["low"], figure["high"]


def line(found: Forecast) -> str:
    return (
        f"{found.corpus}, rate of {found.rate}: {found.planned_seconds[0]:.1f} s planned, {found.seconds:.1f} s taken"
    )


def table(found: Sequence[Forecast]) -> str:
    """As text, with what was promised and kept."""
    head = ["", "rate", "plan s", "tokens planned", "tokens", "off", "s planned", "interval", "s", "off"]
    rows = [
        [
            each.corpus,
            each.rate,
            f"{each.planning_seconds:.1f}",
            f"{each.planned_tokens[0]:,.0f}",
            f"{each.tokens:,}",
            f"{each.tokens_off:+.1%}",
            f"{each.planned_seconds[0]:.1f}",
            f"{each.planned_seconds[1]:.0f} to {each.planned_seconds[2]:.0f}",
            f"{each.seconds:.1f}",
            f"{each.time_off:+.0%}",
        ]
        for each in found
    ]
    kept = sum(abs(each.tokens_off) <= TOKENS_WITHIN and abs(each.time_off) <= TIME_WITHIN for each in found)
    covered = sum(each.covered for each in found)
    return "\n".join(
        [
            *aligned(head, rows),
            f"Tokens within {TOKENS_WITHIN:.0%} and time within {TIME_WITHIN:.0%}: {kept} of {len(found)} plans. "
            f"In the intervals: {covered} of {len(found)}.",
        ]
    )
