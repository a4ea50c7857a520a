"""Compare whole processes that embed the same corpus: rounds in alternation, equal vectors, medians and ratios.

Each round runs every contender once, starting with a different one each time, so that a machine that slows down or
warms up favors none. Ratios are taken within a round, then their median.
"""

import dataclasses
import statistics
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path

import numpy as np

from jobs.benchmark import processes
from jobs.benchmark.contenders import (
    BARE,
    CONTENDERS,
    Contender,
    FloatArray,
    Job,
    padding,
    tokens_per_second,
    vectors_by_id,
)
from jobs.benchmark.corpus import write_distinct_docstrings
from sfr_batch.config.settings import ModelSettings
from sfr_batch.errors import ConfigError, RunFailed, counted
from sfr_batch.model.recipe import read_recipe
from sfr_batch.model.sources.location import locate
from sfr_batch.model.tokenization.tokenizer import Tokenizer

SAME_VECTORS = 1e-4
"""How far a number of a vector may be from the bare encoder's before the comparison is refused."""
_TIMEOUT_S = 3600.0


@dataclass(frozen=True)
class Round:
    """What one contender did in one round."""

    usage: processes.Usage
    tokens_per_second: float | None
    padding: float | None
    events: int
    max_difference: float
    """From the bare encoder's vectors of the first round, over all rows."""
    cpu_per_token: float | None = None
    """CPU seconds of all processes for each token, in steady state; None where they are not known."""


@dataclass(frozen=True)
class Comparison:
    """All that was measured; ``rounds`` by the contender's name, as many for each."""

    model: str
    documents: int
    splits: int
    threads: int
    tokens: int
    commands: dict[str, list[str]]
    rounds: dict[str, list[Round]]

    def seconds(self, name: str) -> float:
        """Wall time of the whole process, the median of the rounds."""
        return statistics.median(r.usage.seconds for r in self.rounds[name])

    def tokens_per_second(self, name: str) -> float | None:
        """Tokens per second in steady state, the median of the rounds; None where it is not known."""
        return _median(r.tokens_per_second for r in self.rounds[name])

    def cpu_seconds(self, name: str) -> float | None:
        """CPU time of the whole process tree, the median of the rounds; None where it is not known."""
        return _median(r.usage.cpu_seconds for r in self.rounds[name])

    def cpu_per_token(self, name: str) -> float | None:
        """CPU seconds of the whole process tree for a token in steady state, the median of the rounds."""
        return _median(r.cpu_per_token for r in self.rounds[name])

    def peak_bytes(self, name: str) -> int | None:
        """Resident memory of the whole process tree, the highest of all rounds; None where it is not known."""
        return max((r.usage.peak_bytes for r in self.rounds[name] if r.usage.peak_bytes is not None), default=None)

    def rate_ratio(self, name: str, other: str) -> float | None:
        """Steady-state tokens per second of a contender over those of another one; None if that did not run."""
        return self._ratio(name, other, lambda r: r.tokens_per_second)

    def time_ratio(self, name: str, other: str) -> float | None:
        """How many times as long as a contender the other one's whole process takes; None if that did not run."""
        return self._ratio(other, name, lambda r: r.usage.seconds)

    def _ratio(self, above: str, below: str, value: Callable[[Round], float | None]) -> float | None:
        if above not in self.rounds or below not in self.rounds:
            return None
        pairs = [(value(a), value(b)) for a, b in zip(self.rounds[above], self.rounds[below], strict=True)]
        return _median(a / b if a is not None and b is not None else None for a, b in pairs)


def _median(values: Iterable[float | None]) -> float | None:
    known = [value for value in values if value is not None]
    return statistics.median(known) if known else None


def compare(
    names: Sequence[str],
    folder: Path,
    scripts: Path,
    *,
    model: str,
    documents: int,
    splits: int,
    threads: int,
    characters: int | None = None,
    pairs: int,
    say: Callable[[str], None] = print,
) -> Comparison:
    """Run the contenders called ``names``, and the bare encoder, ``pairs`` times each in alternation.

    folder: empty, for corpus and outputs. scripts: where the contenders' scripts are. threads: of PyTorch. characters:
    of each text, which is cut there; None: all of them. Raises ConfigError if something is not installed, and RunFailed
    if a contender fails or gives other vectors.
    """
    contenders = [contender for name, contender in CONTENDERS.items() if name in (BARE, *names)]
    check_installed([package for contender in contenders for package in contender.needs])
    settings = ModelSettings(path=model, device="cpu")
    model_folder = locate(settings, weights=True)
    texts = write_distinct_docstrings(folder / "corpus", documents, splits, characters)
    tokenizer = Tokenizer.load(read_recipe(model_folder, settings))
    lengths = tokenizer.encode(list(texts.values()), "").lengths
    tokens = dict(zip(texts, lengths.tolist(), strict=True))
    what = f"{documents:,} distinct docstrings, {sum(tokens.values()):,} tokens, {splits} splits"
    say(f"Corpus: {what}; {counted(threads, 'thread')}")

    comparison = Comparison(
        model, documents, splits, threads, sum(tokens.values()), {}, {contender.name: [] for contender in contenders}
    )
    reference: FloatArray | None = None
    for number in range(pairs):
        # The bare encoder is first in the first round: its vectors are what the others are compared with.
        for contender in contenders[number % len(contenders) :] + contenders[: number % len(contenders)]:
            own = folder / f"{contender.name}-{number}"
            own.mkdir()
            job = Job(own, folder / "corpus", model_folder, scripts, -(-documents // splits), threads, tokens)
            command = contender.command(job)
            usage = processes.run(command, own / "log.txt", _environment(scripts), _TIMEOUT_S)
            vectors = vectors_by_id(contender.vectors(job), list(texts))
            reference = vectors if reference is None else reference
            done = _judge(contender, job, usage, vectors, reference)
            comparison.commands.setdefault(contender.name, command)
            comparison.rounds[contender.name].append(done)
            rate = "" if done.tokens_per_second is None else f", {done.tokens_per_second:,.0f} tokens/s in steady state"
            say(f"Round {number + 1} of {pairs}: {contender.label}, {usage.seconds:.1f} s{rate}")
    return comparison


def check_installed(packages: Iterable[str]) -> None:
    """Raises ConfigError that names what to install."""
    missing = sorted({package for package in packages if find_spec(package) is None})
    if missing:
        what = f"{' and '.join(missing)} {'is' if len(missing) == 1 else 'are'} not installed here"
        raise ConfigError(f"{what}: pip install 'sfr-batch[benchmark]'")


def _judge(
    contender: Contender, job: Job, usage: processes.Usage, vectors: FloatArray | None, reference: FloatArray | None
) -> Round:
    if vectors is None or reference is None:
        raise RunFailed(f"{contender.label} did not give one vector for each document; its output is in {job.folder}.")
    difference = float(np.abs(vectors - reference).max()) if vectors.shape == reference.shape else np.inf
    if not difference <= SAME_VECTORS:  # written so that NaN is refused, too
        raise RunFailed(
            f"{contender.label} gives other vectors than the bare encoder, by up to {difference:.2g}, so their speeds "
            f"are not compared. Its output is in {job.folder}."
        )
    events = sorted(contender.events(job))
    spent = usage.cpu_between(events[0].time, events[-1].time) if events else None
    cpu = None if spent is None else spent / sum(event.tokens for event in events[1:])
    usage = dataclasses.replace(usage, samples=())
    return Round(usage, tokens_per_second(events), padding(events), len(events), difference, cpu)


def _environment(scripts: Path) -> dict[str, str]:
    # The workers of Ray must find the meter and this package, wherever the benchmark is started.
    return {"PYTHONPATH": f"{Path(__file__).parents[2]}:{scripts}", "PYTHONWARNINGS": "ignore"}
