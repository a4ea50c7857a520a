"""Measures what it costs that a run can be watched: progress lines, the progress on storage, and metrics.

    python -m jobs.benchmark.watching ROUNDS MODEL FOLDER

The module is two things: that process, real runs on one local Ray, alternately watched and not, which prints one JSON
object; and `compare`, which starts it and reports. Reads /proc.
"""

import contextlib
import json
import os
import statistics
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any
from unittest import mock

import pyarrow as pa

from jobs.benchmark.corpus import write_distinct_docstrings
from jobs.benchmark.processes import Sampler
from jobs.benchmark.splits import aligned, model_folder, run_module
from sfr_batch.api import open_table
from sfr_batch.config.loading import config_from_dict
from sfr_batch.errors import RunFailed
from sfr_batch.pipeline import asides, progress, progress_record, runner, work

LIMIT = 0.01
"""Share of a run that watching it may cost."""
_ASIDES = 2000


@dataclass(frozen=True)
class Run:
    """One run. CPU seconds are of all processes, Ray's own included."""

    seconds: float
    """From the end of its start-up to the last finished split."""
    cpu_seconds: float
    own_cpu_seconds: float
    """Of the driver for what is watched, as its threads count them. 0 if it was not."""


@dataclass(frozen=True)
class Watching:
    """Pairs of runs of the same corpus, watched and not, and what an aside takes a worker."""

    splits: int
    tokens: int
    pairs: list[tuple[Run, Run]]
    aside_seconds: float

    def ratios(self, of: str) -> list[float]:
        """Watched over not watched, of each pair."""
        return [getattr(watched, of) / getattr(alone, of) for watched, alone in self.pairs]

    @property
    def own_shares(self) -> list[float]:
        """Share of the CPU of each watched run that its driver and workers spent on that."""
        own = [watched.own_cpu_seconds + 3 * self.splits * self.aside_seconds for watched, _ in self.pairs]
        return [seconds / watched.cpu_seconds for seconds, (watched, _) in zip(own, self.pairs, strict=True)]


def compare(documents: int, splits: int, rounds: int, model: str, folder: Path, say: Callable[[str], None]) -> Watching:
    """Run the same corpus ``2 * rounds`` times, in alternation. Raises ConfigError, CorpusError, RunFailed."""
    corpus = write_distinct_docstrings(folder / "corpus", documents, splits)
    say(f"{len(corpus):,} documents; {rounds} rounds of a run that is watched and one that is not")
    found = run_module("watching", [str(rounds), model_folder(model), str(folder)], folder)
    pairs = [(Run(**watched), Run(**alone)) for watched, alone in found["pairs"]]
    return Watching(found["splits"], found["tokens"], pairs, found["aside_seconds"])


def table(found: Watching) -> str:
    """The result as text: the median of the pairs, and the least and the largest of them."""
    rows = [["watched / not watched", "median", "least", "largest"]]
    for name, values in (("seconds", found.ratios("seconds")), ("CPU seconds", found.ratios("cpu_seconds"))):
        rows.append([name, *(f"{value:.3f}" for value in _spread(values))])
    shares = found.own_shares
    own = [["of the CPU seconds of a run", "median", "least", "largest"]]
    own.append(["spent on being watched", *(f"{share:.3%}" for share in _spread(shares))])
    word = "less" if max(shares) < LIMIT else "NOT less"
    return "\n".join(
        [
            f"{found.splits} splits, {found.tokens:,} tokens, {len(found.pairs)} pairs of runs on a local Ray",
            *aligned(rows),
            "",
            *aligned(own),
            f"{word} than {LIMIT:.0%} in every run; {found.aside_seconds * 1e6:.0f} us for each stage of a split, the "
            "rest in the driver",
        ]
    )


def _spread(values: Sequence[float]) -> tuple[float, float, float]:
    return statistics.median(values), min(values), max(values)


# --- the process that runs


@contextlib.contextmanager
def _counting(spent: dict[str, float]) -> Iterator[None]:
    """Add up the CPU seconds of all that watches a run, each counted in the thread that does it."""
    from sfr_batch.pipeline.metrics.exporting import Exporter

    def counted(owner: Any, name: str) -> Any:
        real = getattr(owner, name)

        def timed(*arguments: Any, **named: Any) -> Any:
            began = time.thread_time()
            try:
                return real(*arguments, **named)
            finally:
                part = f"{owner.__name__}.{name}"
                spent[part] = spent.get(part, 0.0) + time.thread_time() - began

        return mock.patch.object(owner, name, timed)

    parts = (
        *((progress.Progress, "_show"), (progress.Progress, "add"), (progress_record.ProgressRecord, "_keep_writing")),
        *((Exporter, "look"), (Exporter, "__init__"), (asides.Asides, "add"), (work.Work, "add")),
    )
    with contextlib.ExitStack() as stack:
        for owner, name in parts:
            stack.enter_context(counted(owner, name))
        yield


@contextlib.contextmanager
def _unwatched() -> Iterator[None]:
    """Nobody is shown, told or asked anything. What the report of a run needs is counted all the same."""
    from sfr_batch.pipeline.metrics import exporting

    with (
        mock.patch.object(progress.Progress, "_show", return_value=None),
        mock.patch.object(progress_record.ProgressRecord, "_keep_writing", return_value=None),
        mock.patch.object(exporting, "exported", return_value=contextlib.nullcontext()),
    ):
        yield


def measure(rounds: int, model: str, folder: Path) -> dict[str, Any]:
    """Pairs of runs on one Ray, which starts here, each into a table of its own."""
    import ray

    cores = len(os.sched_getaffinity(0))
    ray.init(address="local", num_cpus=cores + 1, include_dashboard=False, log_to_driver=False, logging_level="ERROR")
    summary: Any = None
    pairs = []
    for number in range(-1, rounds):  # the first pair warms up
        runs = {}
        for watched in (True, False) if number % 2 else (False, True):
            spent: dict[str, float] = {}
            with _counting(spent) if watched else _unwatched(), Sampler(os.getpid()) as sampler:
                before = sampler.look()
                summary = runner.embed(_config(model, folder, f"{number}-{watched}"))
                after = sampler.look()
            report = open_table(summary.table).report()
            runs[watched] = asdict(Run(report.embed_seconds or 0.0, after - before, sum(spent.values())))
        if number >= 0:
            pairs.append((runs[True], runs[False]))
    ray.shutdown()
    if summary.splits < 2:
        raise RunFailed("One split shows nothing: its end is the end of the run.")
    return {
        "splits": summary.splits,
        "tokens": summary.tokens,
        "pairs": pairs,
        "aside_seconds": _aside_seconds(),
    }


def _aside_seconds() -> float:
    """Of what a stage does for each split so that more can be told."""
    batch = asides.with_aside(pa.table({"x": [1]}))
    plain = batch.drop_columns([asides.ASIDE])
    began = time.thread_time()
    for _ in range(_ASIDES):
        asides.with_aside(plain, batch, 1.0)
    return (time.thread_time() - began) / _ASIDES


def _config(model: str, folder: Path, name: str) -> Any:
    return config_from_dict(
        {
            "corpus": {"path": str(folder / "corpus")},
            "model": {"path": model, "device": "cpu"},
            "table": {"path": str(folder / f"table-{name}")},
            "run": {"ray_address": "local", "min_splits": 1, "actors": {"gpus": 0}},
        }
    )


def main(arguments: Sequence[str]) -> None:
    rounds, model, folder = arguments
    print(json.dumps(measure(int(rounds), model, Path(folder))))


if __name__ == "__main__":
    main(sys.argv[1:])
