"""What Prometheus reads of a Ray: the metrics of its nodes, as text. The files of configs/monitoring, which ask for
them. And Prometheus itself, where it is installed."""

import json
import os
import shutil
import subprocess
import time
import urllib.error
import urllib.parse
import urllib.request
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import pytest
import yaml
from prometheus_client.parser import text_string_to_metric_families

MONITORING = Path(__file__).parents[1] / "configs" / "monitoring"
PREFIX = "ray_sfr_batch_"
OURS = {"table", "run", "result", "reason", "stage", "kind", "outcome"}
"""Labels that are not Ray's."""


class Sample(NamedTuple):
    """A value of one series. labels: without those of Ray."""

    name: str
    labels: Mapping[str, str]
    value: float


def scrape(nodes: Iterable[Mapping[str, Any]]) -> list[Sample]:
    """Our metrics, of all living nodes. nodes: as `ray.nodes()` has them."""
    found = []
    for node in nodes:
        if node["Alive"]:
            url = f"http://{node['NodeManagerAddress']}:{node['MetricsExportPort']}/metrics"
            with urllib.request.urlopen(url, timeout=10) as reply:
                families = text_string_to_metric_families(reply.read().decode())
            samples = [sample for family in families for sample in family.samples if sample.name.startswith(PREFIX)]
            found += [Sample(sample.name, _ours(sample.labels), sample.value) for sample in samples]
    return found


def _ours(labels: Mapping[str, str]) -> dict[str, str]:
    return {name: value for name, value in labels.items() if name in OURS}


def of_run(samples: Iterable[Sample], run_id: str) -> dict[tuple[str, str], float]:
    """The values of one run, by metric and the value of its own label."""
    found = {}
    for name, labels, value in samples:
        if labels["run"] == run_id:
            own = [text for label, text in labels.items() if label not in ("run", "table")]
            found[name.removeprefix(PREFIX), *(own or [""])] = value
    return found


def board() -> dict[str, Any]:
    return dict(json.loads((MONITORING / "grafana.json").read_text(encoding="utf-8")))


def board_expressions() -> list[str]:
    return [target["expr"] for panel in board()["panels"] for target in panel["targets"]]


def rules() -> list[dict[str, Any]]:
    (group,) = yaml.safe_load((MONITORING / "alerts.yml").read_text(encoding="utf-8"))["groups"]
    return list(group["rules"])


def installed(program: str) -> str:
    """Its path, in the folder SFR_PROMETHEUS or on PATH; without it, the test is skipped."""
    found = shutil.which(program, path=os.environ.get("SFR_PROMETHEUS")) or shutil.which(program)
    if found is None:
        pytest.skip(f"{program} is not installed: apt-get install prometheus, or SFR_PROMETHEUS names its folder")
    return found


class Prometheus:
    """One of its own that scrapes some nodes every second, and evaluates alerts.yml. A context manager."""

    def __init__(self, folder: Path, targets: Iterable[str], port: int) -> None:
        folder.mkdir()
        scraped = {"job_name": "ray", "static_configs": [{"targets": list(targets)}]}
        config = {
            "global": {"scrape_interval": "1s", "evaluation_interval": "1s"},
            "rule_files": [str(MONITORING / "alerts.yml")],
            "scrape_configs": [scraped],
        }
        (folder / "prometheus.yml").write_text(yaml.safe_dump(config))
        self._url = f"http://127.0.0.1:{port}/api/v1"
        options = {
            "config.file": folder / "prometheus.yml",
            "storage.tsdb.path": folder / "data",
            "web.listen-address": f"127.0.0.1:{port}",
        }
        command = [installed("prometheus"), *(f"--{name}={value}" for name, value in options.items())]
        with (folder / "log").open("wb") as log:
            self._process = subprocess.Popen(command, stdout=log, stderr=log)

    def __enter__(self) -> "Prometheus":
        return self

    def __exit__(self, *error: object) -> None:
        self._process.terminate()
        self._process.wait()

    def ask(self, path: str, **parameters: Any) -> Any:
        """What its API answers. Raises HTTPError, for an expression that it refuses, too."""
        with urllib.request.urlopen(f"{self._url}/{path}?{urllib.parse.urlencode(parameters)}", timeout=30) as reply:
            return json.load(reply)["data"]

    def query(self, expression: str, at: float | None = None) -> list[Sample]:
        """The vector that an expression is now, or was ``at`` a time."""
        answer = self.ask("query", query=expression, **({"time": at} if at else {}))
        assert answer["resultType"] == "vector", expression
        return [
            Sample(found["metric"].get("__name__", ""), _ours(found["metric"]), float(found["value"][1]))
            for found in answer["result"]
        ]

    def seen(self, expression: str, start: float, end: float) -> list[Mapping[str, str]]:
        """Labels of all that an expression had in a time."""
        answer = self.ask("query_range", query=expression, start=start, end=end, step=1)
        return [_ours(found["metric"]) for found in answer["result"]]

    def wait_for(self, expression: str, run: str = "", *, there: bool = True) -> list[Sample]:
        """What an expression is as soon as it has a sample of a run, or of any; or has none of it any more."""
        while True:
            try:
                found = self.query(expression)
            except (urllib.error.URLError, ConnectionError):  # it starts
                found = []
            found = [sample for sample in found if run in sample.labels.get("run", "")]
            if bool(found) == there:
                return found
            time.sleep(0.2)  # the test's timeout sees to its end
