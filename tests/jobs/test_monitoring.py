"""The files of configs/monitoring: the rules fire for what they are for, and all expressions ask for metrics that there
are. `tests/pipeline/test_prometheus.py` evaluates them while a real run is scraped."""

import re
import subprocess
from itertools import combinations
from pathlib import Path
from typing import Any

import pytest

from sfr_batch.pipeline.metrics.definitions import METRICS, RUN_LABELS
from tests.prometheus import MONITORING, board, board_expressions, installed, rules

ROOT = Path(__file__).parents[2]
README = ROOT / "sfr_batch" / "pipeline" / "metrics" / "README.md"
EXPORTED = {metric.exported: metric for metric in METRICS}
EXPRESSIONS = [*board_expressions(), *(rule["expr"] for rule in rules())]


def asked(expression: str) -> dict[str, set[str]]:
    """The metrics of an expression, each with the labels that select from it."""
    found: dict[str, set[str]] = {}
    for name, selected in re.findall(r"\b(ray_\w+)(\{[^}]*\})?", expression):
        found.setdefault(name, set()).update(re.findall(r"(\w+)=", selected))
    return found


def test_boards_and_rules_ask_for_metrics_that_there_are() -> None:
    for expression in EXPRESSIONS:
        metrics = asked(expression)
        assert metrics, expression
        for name, labels in metrics.items():
            assert labels <= set(EXPORTED[name].labels), expression
        by = {label for labels in re.findall(r"\b(?:by|on) \(([^)]*)\)", expression) for label in labels.split(", ")}
        assert by <= {label for name in metrics for label in EXPORTED[name].labels}, expression


def test_every_metric_is_on_the_board_or_in_a_rule() -> None:
    assert {name for expression in EXPRESSIONS for name in asked(expression)} == EXPORTED.keys()


def test_the_readme_has_all_metrics() -> None:
    """Their names and their own labels."""
    rows = re.findall(r"^\| `(ray_\w+)` \| (?:`(\w+)`)? ?\|", README.read_text(encoding="utf-8"), re.MULTILINE)
    assert rows == [(metric.exported, metric.label) for metric in METRICS]


def test_rules_say_what_to_do() -> None:
    assert len({rule["alert"] for rule in rules()}) == len(rules())
    for rule in rules():
        assert rule["labels"]["severity"] in ("critical", "warning")
        assert {"summary", "description"} == rule["annotations"].keys()
        used = set(re.findall(r"\$labels\.(\w+)", str(rule["annotations"])))
        assert used <= set(RUN_LABELS), rule["alert"]


def test_the_board_can_be_read() -> None:
    """By Grafana: ids are unique, no panel lies on another, all ask the chosen source. By people: titles and units."""
    panels: list[dict[str, Any]] = board()["panels"]
    assert {variable["name"] for variable in board()["templating"]["list"]} == {"datasource", *RUN_LABELS}
    assert len({panel["id"] for panel in panels}) == len({panel["title"] for panel in panels}) == len(panels)
    for panel in panels:
        assert panel["datasource"] == {"type": "prometheus", "uid": "${datasource}"}
        assert panel["fieldConfig"]["defaults"]["unit"]
        assert all("run" in target["legendFormat"] for target in panel["targets"])
    places = [panel["gridPos"] for panel in panels]
    assert all(place["x"] + place["w"] <= 24 for place in places)
    for one, other in combinations(places, 2):
        beside = one["x"] + one["w"] <= other["x"] or other["x"] + other["w"] <= one["x"]
        assert beside or one["y"] + one["h"] <= other["y"] or other["y"] + other["h"] <= one["y"]
    for expression in board_expressions():
        for name, labels in asked(expression).items():
            assert labels >= set(RUN_LABELS), f"{name} is asked for whatever run is chosen"


def test_prometheus_takes_the_rules_and_each_fires() -> None:
    """For a run that it is for, for no other, and not for ever: see alerts.test.yml."""
    promtool = installed("promtool")
    tested = (Path(__file__).parent / "alerts.test.yml").read_text(encoding="utf-8")
    fired = set(re.findall(r'alertname="(\w+)", run="a"', tested))
    assert fired == {rule["alert"] for rule in rules()}
    for command in (["check", "config", str(MONITORING / "prometheus.yml")], ["test", "rules", "alerts.test.yml"]):
        done = subprocess.run([promtool, *command], cwd=Path(__file__).parent, capture_output=True, text=True)
        assert done.returncode == 0, done.stdout + done.stderr


@pytest.mark.parametrize("planted", ["ray_sfr_batch_row_total", 'ray_sfr_batch_rows_total{reason="x"}'])
def test_a_wrong_name_is_found(planted: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(globals(), "EXPRESSIONS", [*EXPRESSIONS, f"rate({planted}[5m])"])
    with pytest.raises((KeyError, AssertionError)):
        test_boards_and_rules_ask_for_metrics_that_there_are()
