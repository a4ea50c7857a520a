"""Gives the metrics of a run to Ray, whose agent on the driver's node Prometheus asks.

A thread looks at the progress every few seconds, so a run never waits for it, and what fails here ends no run. Ray
keeps the last value of a gauge for 20 seconds: when the run or its process ends, its gauges vanish, and no alert stays.
Knows no split.
"""

import contextlib
import threading
from collections.abc import Callable, Iterator, Mapping

import ray
from ray.util import metrics

from sfr_batch.pipeline.metrics.definitions import EMBEDDED, FAILED, METRICS, RUN_LABELS, RUNS, STOPPED, Metric, values
from sfr_batch.pipeline.progress import Progress

_EVERY_S = 5.0
"""Most seconds between two looks. Ray reports every ten, and forgets a gauge that was not set between two reports."""
_PATIENCE_S = 2.0
"""Seconds that the end of a run waits for the last look."""


@contextlib.contextmanager
def exported(progress: Progress, repeated: Callable[[], Mapping[str, int]]) -> Iterator[None]:
    """Export the metrics of a run until this context ends. This process is connected to Ray.

    repeated: requests to S3 that were repeated so far, by reason.
    """
    stop, outcome = threading.Event(), [STOPPED]

    def export() -> None:
        with contextlib.suppress(Exception):
            exporter, every_s = Exporter(progress, repeated), _every_s()
            while not stop.wait(every_s):
                exporter.look()
            exporter.look()
            exporter.end(outcome[0])

    thread = threading.Thread(target=export, name="sfr-metrics", daemon=True)
    thread.start()
    try:
        yield
        outcome[0] = FAILED if progress.failed else EMBEDDED
    except Exception:
        outcome[0] = FAILED
        raise
    finally:
        stop.set()
        thread.join(_PATIENCE_S)  # what it has recorded, Ray sends off when this process disconnects


def _every_s() -> float:
    return min(_EVERY_S, float(ray._config.metrics_report_interval_ms()) / 2000)


class Exporter:
    """Tells Ray of one run."""

    def __init__(self, progress: Progress, repeated: Callable[[], Mapping[str, int]]) -> None:
        self._progress, self._repeated = progress, repeated
        self._run = dict(zip(RUN_LABELS, (progress.table, progress.run_id), strict=True))
        self._counters = {m: metrics.Counter(m.name, m.help, m.labels) for m in METRICS if m.is_counter}
        self._gauges = {m: metrics.Gauge(m.name, m.help, m.labels) for m in METRICS if not m.is_counter}
        self._told: dict[tuple[Metric, str], float] = {}
        """What each counter was told, by the value of its label."""

    def look(self) -> None:
        """Tell what is new. If that fails, the next time may succeed."""
        with contextlib.suppress(Exception):
            self._look()

    def _look(self) -> None:
        for metric, label, value in values(self._progress, self._repeated()):
            if metric.is_counter:
                self._count(metric, label, value)
            else:
                self._gauges[metric].set(float(value), self._labels(metric, label))

    def end(self, outcome: str) -> None:
        """The run has ended to embed."""
        self._count(RUNS, outcome, 1)

    def _count(self, metric: Metric, label: str, value: float) -> None:
        news = value - self._told.get((metric, label), 0.0)
        if news > 0:
            self._counters[metric].inc(news, self._labels(metric, label))
            self._told[metric, label] = value

    def _labels(self, metric: Metric, label: str) -> dict[str, str]:
        return self._run | ({metric.label: label} if metric.label else {})
