"""Bad input: a run that costs too much, or of which nobody can tell. Each way out is followed to the letter."""

import re

import pytest

import sfr_batch as sfr
from sfr_batch.encoder.measured_rates import MeasuredRate, remember_rate
from tests.bad_input.bench import GOOD, Bench, Row, check_row

PRICE = "run.price_per_hour=36"


def nothing_measured(bench: Bench) -> None:
    bench.monkeypatch.setenv("XDG_CACHE_HOME", str(bench.root / "cache"))


def slow(bench: Bench) -> None:
    """One token in a second, by `verify`."""
    nothing_measured(bench)
    plan = sfr.plan(bench.root / "job.yaml")
    remember_rate(plan.config, plan.inputs["weights"], MeasuredRate(1.0, 0.0, "a CPU", 0.0))


TOO_MUCH = (
    "The run would {what}, and run.{name} allows {limit}. Nothing was embedded or published. `sfr-batch plan CONFIG "
    "--compare` shows what it is made of. If it is meant: run.{name}={{*}} for this run. If not: embed a part "
    "(select), or correct the corpus or its settings."
)

ROWS = [
    Row("a limit of a price that is unknown",
        "{root}/job.yaml has 1 wrong setting:\n  run: max_price has no effect without price_per_hour: set "
        "price_per_hour, or remove max_price",
        code=2, overrides=("run.max_price=3",)),
    Row("a limit and no rate",
        "run.max_hours cannot be checked, because nothing is known of how fast the model computes. Nothing was "
        "embedded or published. Measure it on this machine: `sfr-batch verify CONFIG`; or set run.gpu for a rate on "
        "paper; or remove run.max_hours for the first run, which measures it for later ones.",
        "run", code=2, prepare=nothing_measured, overrides=("run.max_hours=1",), repair=("run.max_hours=null",)),
    Row("too many hours",
        TOO_MUCH.format(what="take ~{*} hours on 1 actor", name="max_hours", limit="1.0e-04"),
        "run", prepare=slow, overrides=("run.max_hours=0.0001",), repair=("run.max_hours=1",)),
    Row("too high a price", TOO_MUCH.format(what="cost ~{*}", name="max_price", limit="0.01"),
        "run", prepare=slow, overrides=(PRICE, "run.max_price=0.01"), repair=("run.max_price=30",)),
    Row("a GPU that is unknown",
        "run.gpu: H9000 is not in the table of types of GPU, which has A10G, L4, L40S, A100, H100, H200, B200. Name "
        "one of these, add yours to {*}gpus.yaml, or remove run.gpu and measure: `sfr-batch verify CONFIG`.",
        code=2, overrides=("run.gpu=H9000",), command="plan {root}/job.yaml"),
]  # fmt: skip


@pytest.mark.parametrize("row", ROWS, ids=[row.name for row in ROWS])
def test_bad_input(row: Row, bench: Bench) -> None:
    check_row(row, bench)


def test_the_limit_that_a_refusal_names_lets_the_same_run_through(bench: Bench) -> None:
    for name, data in GOOD.items():
        bench.put(f"corpus/{name}", data)
    slow(bench)
    for table, *limits in (("a", PRICE, "run.max_price=0.01"), ("b", PRICE, "run.max_hours=0.0001")):
        overrides = (f"table.path={bench.root}/{table}", *limits)
        refused = bench.run("embed {root}/job.yaml", overrides)
        assert refused.exit_code == 1
        advice = re.search(r"If it is meant: (\S+) for this run", refused.stderr)
        assert advice
        accepted = bench.run("embed {root}/job.yaml", (*overrides, advice[1]))
        assert accepted.exit_code == 0, accepted.output
        assert bench.run("embed {root}/job.yaml", overrides).exit_code == 0, "what is up to date costs nothing"
    cost = r"(?m)^Cost +([\d.]+) for ([\d.]+) actor-hours; planned ([\d.]+) for ([\d.]+) actor-hours$"
    shown = re.search(cost, accepted.stdout)
    assert shown, accepted.stdout
    came_to, hours, planned, planned_hours = map(float, shown.groups())
    assert came_to == pytest.approx(36 * hours, abs=0.01)
    assert planned == pytest.approx(36 * planned_hours, abs=0.01)
    assert planned > 0
