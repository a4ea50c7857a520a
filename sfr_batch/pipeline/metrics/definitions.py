"""The metrics of a run: their names, and their values as its progress has them.

Boards and alert rules use these names; the README lists them. Knows no Ray.
"""

import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass

from sfr_batch.format import names
from sfr_batch.pipeline.progress import Progress

RUN_LABELS = ("table", "run")
"""Labels of every metric: the URI of the table and the id of the run."""
EMBEDDED, FAILED, STOPPED = "embedded", "failed", "stopped"
"""Outcomes of `RUNS`. Whether an embedded run is published shows later."""


@dataclass(frozen=True)
class Metric:
    """A counter, which only grows in a run, or a gauge, which is there as long as the run embeds."""

    name: str
    """Ray exports it as `ray_` and this."""
    help: str
    label: str = ""
    """Its own label, of few values, beside RUN_LABELS."""

    @property
    def is_counter(self) -> bool:
        return self.name.endswith("_total")

    @property
    def labels(self) -> tuple[str, ...]:
        return (*RUN_LABELS, self.label) if self.label else RUN_LABELS

    @property
    def exported(self) -> str:
        """Its name in Prometheus."""
        return f"ray_{self.name}"


ROWS = Metric("sfr_batch_rows_total", "Documents that are embedded and committed.")
TOKENS = Metric("sfr_batch_tokens_total", "Tokens of these documents, after truncation.")
ENCODED_TOKENS = Metric("sfr_batch_encoded_tokens_total", "Tokens that the model computed: repeated texts once.")
PADDED_TOKENS = Metric("sfr_batch_padded_tokens_total", "The same with padding.")
SPLITS = Metric("sfr_batch_splits_total", "Splits that are committed, and that have failed.", "result")
REJECTS = Metric("sfr_batch_rejects_total", "Rows that were not embedded.", names.REASON)
ENCODE_SECONDS = Metric("sfr_batch_encode_seconds_total", "Seconds that actors computed vectors.")
INPUT_WAIT_SECONDS = Metric("sfr_batch_input_wait_seconds_total", "Seconds that actors with a model waited for splits.")
ACTOR_SECONDS = Metric("sfr_batch_actor_seconds_total", "Seconds that encode actors exist: what is paid for.")
STAGE_SECONDS = Metric("sfr_batch_stage_seconds_total", "Seconds of reading, tokenizing and writing.", "stage")
STORAGE_RETRIES = Metric("sfr_batch_storage_retries_total", "Requests to S3 that were repeated.", names.REASON)
LOSSES = Metric("sfr_batch_losses_total", "Lost nodes and restarted encode actors.", "kind")
RUNS = Metric("sfr_batch_runs_total", "1 when the run has ended to embed.", "outcome")
SPLITS_LEFT = Metric("sfr_batch_splits_left", "Splits that are neither committed nor failed.")
LAST_COMMIT = Metric(
    "sfr_batch_last_commit_timestamp_seconds", "Unix time of the last commit; before the first, of the run's beginning."
)
ACTORS = Metric("sfr_batch_actors", "Encode actors that load the model or have it.")
WAITING = Metric("sfr_batch_waiting", "1 while the run waits for machines.")
STALLED = Metric("sfr_batch_stalled", "1 while it commits nothing although no machine is missing.")
DRIFT = Metric("sfr_batch_drift", "Largest 1 - cosine so far of a text in a batch and by itself.")

METRICS = (
    *(ROWS, TOKENS, ENCODED_TOKENS, PADDED_TOKENS, SPLITS, REJECTS, ENCODE_SECONDS, INPUT_WAIT_SECONDS, ACTOR_SECONDS),
    *(STAGE_SECONDS, STORAGE_RETRIES, LOSSES, RUNS, SPLITS_LEFT, LAST_COMMIT, ACTORS, WAITING, STALLED, DRIFT),
)


def values(
    progress: Progress, repeated: Mapping[str, int], wall_clock: Callable[[], float] = time.time
) -> Iterator[tuple[Metric, str, float]]:
    """(metric, value of its own label, its value) of a run so far: of counters the sum. Another thread may ask.

    repeated: requests to S3, by reason.
    """
    state = progress.state()
    losses, stages = progress.losses, progress.work.seconds
    yield ROWS, "", progress.embedded
    yield TOKENS, "", progress.tokens
    yield ENCODED_TOKENS, "", progress.encoded_tokens
    yield PADDED_TOKENS, "", progress.padded_tokens
    yield ENCODE_SECONDS, "", progress.encode_seconds
    yield INPUT_WAIT_SECONDS, "", progress.asides.waited
    yield ACTOR_SECONDS, "", progress.actors.seconds
    yield from ((STAGE_SECONDS, stage, seconds) for stage, seconds in stages.items())
    yield from ((SPLITS, result, n) for result, n in (("committed", progress.splits_done), ("failed", progress.failed)))
    yield from ((REJECTS, reason, number) for reason, number in progress.work.rejects.items())
    yield from ((STORAGE_RETRIES, reason, number) for reason, number in repeated.items())
    yield from ((LOSSES, kind, number) for kind, number in (("node", losses.nodes), ("actor", losses.actors)))
    yield SPLITS_LEFT, "", max(0, state.rest)
    yield LAST_COMMIT, "", wall_clock() - (state.elapsed_s if state.last_commit_s is None else state.last_commit_s)
    yield ACTORS, "", progress.actors.now
    yield WAITING, "", state.waiting
    yield STALLED, "", state.stalled
    if progress.canaries:
        yield DRIFT, "", progress.drift
