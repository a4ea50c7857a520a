"""Metrics without Ray: their values are those of the progress, what is told beside results adds up once, and nothing
that fails ends a run. With Ray: test_cluster.py; with Prometheus: test_prometheus.py."""

import asyncio
import threading
from collections import Counter

import pyarrow as pa
import pytest

from sfr_batch.pipeline.asides import ASIDE, Asides, with_aside
from sfr_batch.pipeline.metrics import definitions as names
from sfr_batch.pipeline.metrics.definitions import METRICS, values
from sfr_batch.pipeline.metrics.exporting import exported
from sfr_batch.pipeline.progress import Progress
from sfr_batch.pipeline.results import Losses
from sfr_batch.storage.retries import Bounds, retry


def repeat_requests(times: int, reason: str) -> None:
    """Requests that are repeated as those to S3 are."""
    left = [times]

    async def request() -> None:
        left[0] -= 1
        if left[0] >= 0:
            raise OSError(reason)

    async def all_of_them() -> None:
        await retry(request, Bounds(times + 1, 60), str, "a test")

    asyncio.run(all_of_them())


def test_each_repeated_request_is_told_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """By the stage in whose process it was, whether the split goes through three processes or one."""
    monkeypatch.setattr("sfr_batch.storage.retries.backoff", lambda repetition: 0.0)
    with_aside(pa.table({"x": [0]}))  # tells what was before
    repeat_requests(2, "throttled")
    read = with_aside(pa.table({"x": [1]}))
    encoded = with_aside(pa.table({"x": [2]}), read, waited=1.5)
    repeat_requests(3, "timeout")
    written = with_aside(pa.table({"x": [3, 4]}), encoded)
    asides = Asides()
    for told in written.column(ASIDE).to_pylist():
        asides.add(told)
    assert (asides.waited, asides.repeated) == (1.5, Counter(throttled=2, timeout=3))
    asides.add(with_aside(pa.table({"x": [5]})).column(ASIDE)[0].as_py())
    assert asides.repeated.total() == 5


def test_values_are_those_of_the_progress() -> None:
    now = [100.0]
    progress = Progress(10, 1000, "table", "run", clock=lambda: now[0], stream=None)
    progress.losses, progress.stage = Losses(nodes=1, actors=2), "waiting for 1 of 8 GPUs"
    progress.fail()
    progress.actors.count(3)
    now[0] += 60
    found = {(metric, label): value for metric, label, value in values(progress, {"timeout": 4}, lambda: 5000.0)}
    assert found[names.LAST_COMMIT, ""] == 4940, "no commit yet: since it began"
    assert (found[names.SPLITS_LEFT, ""], found[names.SPLITS, "failed"]) == (9, 1)
    assert (found[names.WAITING, ""], found[names.STALLED, ""], found[names.ACTORS, ""]) == (1, 0, 3)
    assert (found[names.LOSSES, "node"], found[names.LOSSES, "actor"]) == (1, 2)
    assert found[names.STORAGE_RETRIES, "timeout"] == 4
    assert not [metric for metric, _ in found if metric is names.DRIFT], "0 is what no canary has measured"
    progress.stage = "encoding"
    found = {(metric, label): value for metric, label, value in values(progress, {}, lambda: 5000.0)}
    assert found[names.WAITING, ""] == 0
    assert {metric for metric, _ in found} <= set(METRICS)


def test_what_fails_ends_no_run() -> None:
    """Ray is not there; and no thread of it stays."""
    progress = Progress(1, 1, stream=None)
    with exported(progress, dict):
        pass
    with pytest.raises(ValueError, match="of the run"), exported(progress, dict):
        raise ValueError("of the run")
    assert not [thread for thread in threading.enumerate() if thread.name == "sfr-metrics"]
