"""The newest rate that is known of a plan's model: of the last run of its table, of `verify`, or on paper.

Reads the reports of runs and the cache of `verify`; knows no sample and no money.
"""

import contextlib
import json
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, Literal

from sfr_batch.encoder.measured_rates import recall_rate
from sfr_batch.errors import StorageError
from sfr_batch.format import names
from sfr_batch.model.repository.folder import read_config
from sfr_batch.model.sources.location import locate
from sfr_batch.pipeline.price.paper import gpu_named, rate_on_paper
from sfr_batch.planning.plan import EmbedPlan
from sfr_batch.storage.store import Store

NO_RATE = (
    "Unknown, because nothing was measured: `sfr-batch verify CONFIG` on a machine with the device of the run measures "
    "it for plans on that machine, and so does each run for later ones of its table. For a rate on paper set run.gpu."
)
_REPORTS = 20
"""Most reports that are read."""
_ENOUGH_S = 10.0
"""Seconds of encoding from which a run tells its rate; of shorter ones the longest does."""


@dataclass(frozen=True)
class Rate:
    """How fast one actor computes."""

    tokens_per_second: float
    """Padded tokens of one actor."""
    origin: Literal["run", "verify", "paper"]
    source: str
    """Where the rate is from, in a few words."""
    start_up_s: float | None = None
    """Seconds of an actor until it encodes; None if unknown."""

    @property
    def measured(self) -> bool:
        return self.origin != "paper"


def find_rate(plan: EmbedPlan, tokens: float) -> Rate | None:
    """The newest rate, measured ones first. tokens: of a row on average, for a rate on paper.

    Raises ConfigError if `run.gpu` is unknown.
    """
    gpu = plan.config.run.gpu
    on_paper = gpu_named(gpu) if gpu else None  # an unknown name is an error whether or not it is needed
    if found := _of_last_run(plan):
        return found
    if kept := recall_rate(plan.config, plan.inputs["weights"]):
        source = f"measured by `verify` on {kept.at[:10]}, {kept.device}"
        return Rate(kept.tokens_per_second, "verify", source, kept.load_seconds)
    if on_paper is None:
        return None
    model = plan.config.model
    rate = rate_on_paper(on_paper, model.compute_dtype, read_config(locate(model, weights=False)), tokens)
    if rate is None:
        return None
    source = f"on paper, not measured: {on_paper['share']:.0%} of {on_paper['source']}"
    return Rate(rate, "paper", source)


def _of_last_run(plan: EmbedPlan) -> Rate | None:
    best: tuple[float, Rate] | None = None
    for run_id, report in _reports(plan):
        rate = _rate_of(run_id, report, one_actor=plan.config.run.actors.max in (None, 1))
        if rate is None or not _is_alike(plan, run_id):
            continue
        if report["encode_seconds"] >= _ENOUGH_S:
            return rate
        if best is None or report["encode_seconds"] > best[0]:
            best = report["encode_seconds"], rate
    return best[1] if best else None


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
    return Rate(tokens / took, "run", f"measured by the run of {day}", report.get("start_up_seconds"))


def _is_alike(plan: EmbedPlan, run_id: str) -> bool:
    """Whether a run computed as the plan's will."""
    config = _read(plan.store, names.run_key(run_id, names.RUN_CONFIG)) or {}
    model, run = config.get("model", {}), config.get("run", {})
    ours = plan.config
    default = "bfloat16" if model.get("device") == "cuda" else "float32"
    return (model.get("device"), model.get("dtype") or default, model.get("deterministic"), run.get("batches")) == (
        ours.model.device,
        ours.model.compute_dtype,
        ours.model.deterministic,
        ours.run.batches,
    )
