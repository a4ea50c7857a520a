"""Real runs on a Ray that a real Prometheus scrapes: every expression of the board and the rules is evaluated, counters
equal the account, and what a dead run leaves does not stay."""

import re
import socket
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import pytest

import sfr_batch as sfr
from sfr_batch.pipeline.metrics.definitions import METRICS
from tests.clusters import ray_cluster
from tests.job_processes import kill_tree, prepare, put_jsonl, start_job
from tests.prometheus import PREFIX, Prometheus, board_expressions, installed, rules

pytestmark = [pytest.mark.ray, pytest.mark.slow, pytest.mark.timeout(900)]

README = Path(__file__).parents[2] / "sfr_batch" / "pipeline" / "metrics" / "README.md"
ALONE = {f"ray_sfr_batch_{name}" for name in ("storage_retries_total", "losses_total", "waiting")}
"""What a run without trouble has no value of."""


SLOW_MACHINE = {"SfrBatchActorsStarve"}
"""What may be pending for a run of seconds on two busy cores."""


class Watched(NamedTuple):
    """A Ray that is scraped."""

    address: str
    prometheus: Prometheus


@pytest.fixture(scope="module")
def watched(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Watched]:
    installed("prometheus")
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    with ray_cluster(num_cpus=2, metrics_report_interval_ms=2000) as cluster:
        (node,) = cluster.global_state.node_table()
        target = f"{node['NodeManagerAddress']}:{node['MetricsExportPort']}"
        with Prometheus(tmp_path_factory.mktemp("prometheus") / "server", [target], port) as prometheus:
            yield Watched(cluster.address, prometheus)


def run_ids(folder: Path) -> str:
    """The newest run of the table."""
    return max(path.name for path in folder.glob("table/_sfr/runs/*"))


def chosen(expression: str, run: str) -> str:
    """An expression of the board, as Grafana sends it for one run and all tables."""
    return expression.replace("$table", ".*").replace("$run", run)


def test_every_expression_is_evaluated_while_a_run_is_scraped(watched: Watched, tmp_path: Path) -> None:
    prometheus = watched.prometheus
    job = prepare(tmp_path, str(tmp_path))
    bad = [{"id": "j-null", "text": None, "lang": "en"}, {"text": "no id"}]
    put_jsonl(f"{tmp_path}/corpus/bad.jsonl", bad)
    began = time.time()
    process = start_job(job, watched.address, "run.progress_every_s=1")
    prometheus.wait_for("ray_sfr_batch_splits_left")
    prometheus.wait_for("ray_sfr_batch_input_wait_seconds_total > 0")
    prometheus.wait_for("ray_sfr_batch_rejects_total > 0")
    during = time.time()
    output, _ = process.communicate(timeout=600)
    assert process.returncode == 0, output
    table = sfr.open_table(f"{tmp_path}/table")
    account = table.runs()[-1]
    run = account.run_id
    prometheus.wait_for("ray_sfr_batch_runs_total", run)

    # While it ran, and at its end.
    for expression in board_expressions():
        found = prometheus.seen(chosen(expression, run), began, time.time())
        assert found or ALONE & set(re.findall(r"ray_\w+", expression)), expression
        assert {labels["run"] for labels in found} <= {run}, expression
    for rule in rules():
        assert prometheus.query(rule["expr"], during) == [] or rule["alert"] in SLOW_MACHINE, rule["alert"]
    states = [rule for group in prometheus.ask("rules")["groups"] for rule in group["rules"]]
    assert {state["health"] for state in states} == {"ok"}
    assert not {state["name"] for state in states if state["state"] == "firing"}, "a run without trouble"

    # Its counters are its account, and its gauges vanish.
    everything = f'{{__name__=~"{PREFIX}.*", run="{run}"}}'
    found = {(s.name.removeprefix(PREFIX), *(v for k, v in s.labels.items() if k not in ("run", "table"))): s.value
             for s in prometheus.query(everything)}  # fmt: skip
    assert found["rows_total",] == account.rows
    assert found["tokens_total",] == account.tokens
    assert found["padded_tokens_total",] == account.padded_tokens
    assert found["splits_total", "committed"] == account.splits
    assert found["encode_seconds_total",] == pytest.approx(account.actor_seconds_used)
    assert (found["rejects_total", "null_text"], found["rejects_total", "null_id"]) == (1, 1)
    assert found["runs_total", "embedded"] == 1
    prometheus.wait_for("ray_sfr_batch_splits_left", run, there=False)
    counters = {metric.exported for metric in METRICS if metric.is_counter}
    assert {sample.name for sample in prometheus.query(everything)} <= counters
    for rule in rules():
        assert prometheus.query(rule["expr"]) == [] or rule["alert"] in SLOW_MACHINE, rule["alert"]

    # What the README says of Ray Data.
    for name in re.findall(r"`(ray_data_\w+)`", README.read_text(encoding="utf-8")):
        assert prometheus.query(f"last_over_time({name}[5m])"), name


def expression_of(alert: str) -> str:
    (expression,) = [rule["expr"] for rule in rules() if rule["alert"] == alert]
    return str(expression)


def test_a_run_that_fails_and_one_that_is_killed(watched: Watched, tmp_path: Path) -> None:
    prometheus = watched.prometheus
    job = prepare(tmp_path, str(tmp_path))
    killed = start_job(job, watched.address)
    prometheus.wait_for("ray_sfr_batch_splits_left", run_of(prometheus, killed, tmp_path))
    gone = run_ids(tmp_path)
    kill_tree(killed.pid)
    killed.communicate()
    prometheus.wait_for(expression_of("SfrBatchRunGone"), gone)
    assert prometheus.query(f'ray_sfr_batch_splits_left{{run="{gone}"}}') == []

    put_jsonl(f"{tmp_path}/corpus/bad.jsonl", [{"id": f"bad-{n}", "text": None, "lang": "en"} for n in range(2000)])
    failed = start_job(job, watched.address, "run.max_reject_share=0.1")
    output, _ = failed.communicate(timeout=600)
    assert failed.returncode == 1, output
    last = run_ids(tmp_path)
    assert last != gone
    prometheus.wait_for(expression_of("SfrBatchRunFailed"), last)
    assert [s for s in prometheus.query(expression_of("SfrBatchRunGone")) if s.labels["run"] == last] == []


def run_of(prometheus: Prometheus, process: Any, folder: Path) -> str:
    """The id of the run that a process has begun."""
    while not list(folder.glob("table/_sfr/runs/*")):
        assert process.poll() is None, process.communicate()[0]
        time.sleep(0.1)
    return run_ids(folder)
