"""The newest rate that is known of a plan's model: of the last run of its table, of `verify`, or on paper.

Reads the reports of runs and the cache of `verify`; knows no sample and no money.
"""

import contextlib
import dataclasses
import json
import math
import os
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np

from sfr_batch.config.settings import are_packed, on_gpus
from sfr_batch.encoder.measured_rates import recall_rate
from sfr_batch.errors import StorageError
from sfr_batch.format import names
from sfr_batch.model.operations import operations
from sfr_batch.model.repository.folder import read_config
from sfr_batch.model.sources.location import locate
from sfr_batch.pipeline.placement import HERE
from sfr_batch.pipeline.price.paper import gpu_named, rate_on_paper
from sfr_batch.planning.plan import EmbedPlan
from sfr_batch.storage.store import Store
from sfr_batch.table.report.measures import EDGES

NO_RATE = (
    "Unknown, because nothing was measured: `sfr-batch verify CONFIG` on a machine with the device of the run measures "
    "it for plans on that machine, and so does each run for later ones of its table. For a rate on paper set run.gpu."
)
_REPORTS = 20
"""Most reports that are read."""
_ENOUGH_S = 10.0
"""Seconds of encoding from which a run tells its rate; the longest of shorter ones does where nothing else is known."""
_RUNS = 5
"""Most runs whose rates are compared."""
_OFF = {"run": 0.15, "verify": 0.25, "paper": 1.0}
"""By what share a run is slower than a rate says, or faster by the same factor, in nine of ten runs, by its origin. Of
measured rates, on a machine that does nothing else; of one on paper, nothing is known."""
_QUANTILES = (6.31, 2.92, 2.35, 2.13)
"""Of Student's t with 1 to 4 degrees of freedom: 90 % lie within."""
_LEAST_OFF = 0.1
_RAY_S = 15.0
"""Seconds that a Ray of its own takes to start, about."""


@dataclass(frozen=True)
class Rate:
    """How fast one actor computes."""

    tokens_per_second: float
    """Computed tokens of one actor, padding included."""
    origin: Literal["run", "verify", "paper"]
    source: str
    """Where the rate is from, in a few words."""
    off: float
    """By what share a run is slower, or faster by the same factor, in nine of ten runs."""
    start_up_s: float | None = None
    """Seconds until the actors encode; None if unknown."""

    @property
    def measured(self) -> bool:
        return self.origin != "paper"


def find_rate(plan: EmbedPlan, row_tokens: float) -> Rate | None:
    """The newest rate, measured ones first, for rows of so many tokens: what attention takes grows with their length.

    row_tokens: length of the row of a token, on average over the tokens. Raises ConfigError if `run.gpu` is unknown.
    """
    gpu = plan.config.run.gpu
    on_paper = gpu_named(gpu) if gpu else None  # an unknown name is an error whether or not it is needed
    long, short = _of_last_runs(plan)
    found, measured_at = long or _of_verify(plan) or short or (None, 0.0)
    if found is None and on_paper is None:
        return None
    model = plan.config.model
    shape = read_config(locate(model, weights=False))
    if found:
        ours, theirs = operations(shape, row_tokens), operations(shape, measured_at)
        faster = theirs / ours if ours and theirs and row_tokens and measured_at else 1.0
        return dataclasses.replace(found, tokens_per_second=found.tokens_per_second * faster)
    assert on_paper is not None
    rate = rate_on_paper(on_paper, model.compute_dtype, shape, row_tokens)
    if rate is None:
        return None
    source = f"on paper, not measured: {on_paper['share']:.0%} of {on_paper['source']}"
    return Rate(rate, "paper", source, _OFF["paper"])


def _of_verify(plan: EmbedPlan) -> tuple[Rate, float] | None:
    """The rate that `verify` has kept, and the tokens of its rows."""
    kept = recall_rate(plan.config, plan.inputs["weights"])
    if kept is None:
        return None
    run = plan.config.run
    place = run.ray_address or os.environ.get("RAY_ADDRESS")  # which a job of Ray has
    on_ray = run.actors.min > 1 or place not in (None, HERE)
    start_up = kept.load_seconds + (_RAY_S if on_ray else 0.0)
    source = f"measured by `verify` on {kept.at[:10]}, {kept.device}"
    return Rate(kept.tokens_per_second, "verify", source, _OFF["verify"], start_up), kept.row_tokens


def _of_last_runs(plan: EmbedPlan) -> tuple[tuple[Rate, float] | None, tuple[Rate, float] | None]:
    """The rate of the newest run that was long enough, and that of the longest of the shorter ones, each with the
    tokens of its rows."""
    long: list[tuple[Rate, float]] = []
    short: tuple[float, Rate, float] | None = None
    for run_id, report in _reports(plan):
        rate = _rate_of(run_id, report, one_actor=plan.config.run.actors.max in (None, 1))
        if rate is None or not _is_alike(plan, run_id):
            continue
        row_tokens, took = _row_tokens(report, plan.inputs["max_length"]), report["encode_seconds"]
        if took >= _ENOUGH_S:
            long.append((rate, row_tokens))
        elif short is None or took > short[0]:
            short = took, dataclasses.replace(rate, off=_OFF["verify"]), row_tokens
        if len(long) == _RUNS:
            break
    if not long:
        return None, short[1:] if short else None
    newest, row_tokens = long[0]
    newest = dataclasses.replace(newest, off=spread([rate.tokens_per_second for rate, _ in long]))
    return (newest, row_tokens), None


def spread(rates: Sequence[float]) -> float:
    """By what share the next one is off from the last one, in nine of ten runs; of fewer than three, what is usual."""
    if len(rates) < 3:
        return _OFF["run"]
    between_two = math.sqrt(2) * float(np.std(np.log(rates), ddof=1))
    return max(_LEAST_OFF, math.expm1(_QUANTILES[len(rates) - 2] * between_two))


def _row_tokens(report: Mapping[str, Any], longest: int) -> float:
    """Length of the row of a token, on average over the tokens of a run; 0 if its report does not say it."""
    counts = np.asarray((report.get("lengths") or {}).get("rows", ()), np.float64)
    if len(counts) != len(EDGES) or not counts.any():
        return 0.0
    middle = np.minimum(longest, np.append((np.asarray(EDGES[1:]) + EDGES[:-1] - 1) / 2, EDGES[-1]))
    return float(counts @ middle**2 / (counts @ middle))


def _reports(plan: EmbedPlan) -> Iterator[tuple[str, dict[str, Any]]]:
    """Run ids and reports of the table's last runs that published, the newest first."""
    if plan.base is None:
        return
    tail = f"/{names.RUN_REPORT}"
    keys = sorted((info.key for info in plan.store.list(names.RUNS) if info.key.endswith(tail)), reverse=True)
    for key in keys[:_REPORTS]:
        if report := _read(plan.store, key):
            yield names.run_of_key(key), report


def _read(store: Store, key: str) -> dict[str, Any] | None:
    with contextlib.suppress(StorageError, ValueError):
        found = json.loads(store.read(key))
        return found if isinstance(found, dict) else None
    return None


def _rate_of(run_id: str, report: dict[str, Any], *, one_actor: bool) -> Rate | None:
    """The rate of a run. Of one with one actor, with the time for which that actor waited."""
    tokens, took = report.get("padded_tokens", 0), report.get("encode_seconds", 0)
    if not tokens or not took:
        return None
    if one_actor and report.get("actors") == 1:
        took = max(took, report.get("embed_seconds") or 0)
    day = str(report.get("finished_at", run_id))[:10]
    return Rate(tokens / took, "run", f"measured by the run of {day}", _OFF["run"], report.get("start_up_seconds"))


def _is_alike(plan: EmbedPlan, run_id: str) -> bool:
    """Whether a run computed as the plan's will."""
    config = _read(plan.store, names.run_key(run_id, names.RUN_CONFIG)) or {}
    model, run = config.get("model", {}), config.get("run", {})
    ours = plan.config
    device, alone = model.get("device"), bool(model.get("deterministic"))
    dtype = model.get("dtype") or ("bfloat16" if device == "cuda" else "float32")
    packed = are_packed(run.get("batches"), str(device), deterministic=alone)
    fused = on_gpus(run.get("fuse"), str(device), deterministic=alone)
    threads = (run.get("actors") or {}).get("torch_threads")
    own = ours.model
    return (device, dtype, alone, packed, fused, threads) == (
        own.device,
        own.compute_dtype,
        own.deterministic,
        ours.packed,
        ours.fused,
        ours.run.actors.torch_threads,
    )
