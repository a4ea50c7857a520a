"""The price of a plan: what a sample says against what the run then does, where rates come from, and what is shown."""

import dataclasses
import gzip
import itertools
import json
import math
import os
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from click.testing import CliRunner

import sfr_batch as sfr
from sfr_batch.cli.main import main
from sfr_batch.corpus.reader import read_unit
from sfr_batch.encoder.measured_rates import MeasuredRate, remember_rate
from sfr_batch.errors import ConfigError
from sfr_batch.format import names
from sfr_batch.model.operations import operations
from sfr_batch.model.repository.folder import read_config
from sfr_batch.pipeline.job import make_job
from sfr_batch.pipeline.price import paper, rates
from sfr_batch.pipeline.price.estimator import Estimator, Figure
from sfr_batch.pipeline.price.price import Price
from sfr_batch.pipeline.price.rates import find_rate
from sfr_batch.pipeline.price.sampling import CHARACTERS_A_SECOND, take_sample
from sfr_batch.pipeline.price.split_counts import count_split
from sfr_batch.storage.stores import open_store
from tests.job_processes import config, documents, put, put_parquet, remove
from tests.models import docstrings
from tests.repositories import write_repository

DOCUMENTS = 240


@pytest.fixture(scope="module")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_repository(tmp_path_factory.mktemp("model") / "tiny", max_seq_length=64)


@pytest.fixture(autouse=True)
def own_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Rates that were measured elsewhere on this machine are not known."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))


def texts() -> list[str]:
    """Short and long ones, some of them repeated in their split, and two without a word."""
    found = docstrings(DOCUMENTS)
    repeated = [found[n : n + 3] * 2 for n in range(0, DOCUMENTS // 3, 3)]
    return [*itertools.chain(*repeated), *found[DOCUMENTS // 3 : -2], " ", "\n"]


def corpus(root: Path, shards: int = 3) -> None:
    all_texts = texts()
    for shard in range(shards):
        put_parquet(f"{root}/corpus/{shard}.parquet", documents(all_texts[shard::shards], str(shard)))


def report_of(price: Price) -> dict[str, Any]:
    store = open_store(price.plan.store.root)
    [key] = [info.key for info in store.list(names.RUNS) if info.key.endswith(names.RUN_REPORT)]
    found: dict[str, Any] = json.loads(store.read(key))
    return found


@pytest.mark.parametrize("overflow", ["truncate", "reject", "chunk"])
def test_a_small_corpus_is_counted_as_the_run_counts_it(tmp_path: Path, tiny: Path, overflow: str) -> None:
    corpus(tmp_path)
    job = config(tiny, str(tmp_path), f"model.overflow={overflow}", rows_per_split=40)
    price = sfr.price(job)
    assert price.sample.exact
    assert price.sample.read == price.sample.splits == 9
    found = sfr.embed(job)
    assert found.snapshot is not None
    counts, manifest, report = price.sample.counts, found.snapshot.manifest.counts, report_of(price)
    assert price.tokens == Figure(found.tokens, found.tokens, found.tokens)
    assert counts["rows"].value == found.embedded
    assert counts["vectors"].value == manifest.vectors
    assert counts["truncated"].value == manifest.truncated
    assert counts["rejected"].value == report["rejected"] == sum(f.value for f in price.sample.reasons.values())
    assert price.sample.reasons["empty_text"].value == 2
    assert ("too_long" in price.sample.reasons) == (overflow == "reject")
    assert price.sample.share_cut == pytest.approx(report["share_cut"] if overflow == "truncate" else 0, abs=1e-9)
    # Canaries, of which the plan knows nothing, are one in a hundred tokens, and may have more padding.
    for name, most in (("encoded", 1.01), ("padded", 1.03)):
        assert counts[name].value <= report[f"{name}_tokens"] <= most * counts[name].value
    assert counts["encoded"].value < price.tokens.value
    sizes = [info.size for info in price.plan.store.list(names.DATA)]
    assert price.output_bytes.value == pytest.approx(sum(sizes), rel=0.08)
    assert price.objects == pytest.approx(len(list(price.plan.store.list(""))), abs=6)

    put_parquet(f"{tmp_path}/corpus/3.parquet", documents(["One more.", "And another."], "new"))
    put_parquet(f"{tmp_path}/corpus/0.parquet", documents([*texts()[0::3], "One more."], "0"))
    upper, night = sfr.price(job), sfr.price(sfr.plan(job, compare=True))
    assert upper.upper_bound
    assert not night.upper_bound
    assert "at most" in upper.describe()
    assert report["cost"]["planned"] is None
    assert report["start_up_seconds"] + report["embed_seconds"] <= report["seconds"]
    assert report["actors"] == 1
    assert night.tokens.value == sfr.embed(job).tokens < upper.tokens.value / 10
    assert sfr.price(job).describe() == ""
    assert sfr.price(job).tokens.value == 0


def test_files_without_an_index_are_sampled_from_their_beginning(tmp_path: Path, tiny: Path) -> None:
    rows = "".join(json.dumps(row) + "\n" for row in documents(texts()))
    put(f"{tmp_path}/corpus/a.jsonl.gz", gzip.compress(rows.encode()))
    put_parquet(f"{tmp_path}/corpus/b.parquet", documents(texts(), "b"))
    job = config(tiny, str(tmp_path), rows_per_split=20)
    whole = sfr.price(job)
    assert whole.sample.exact
    assert not whole.sample.beginnings
    plan = sfr.plan(job)
    sample = take_sample(plan, make_job(plan, ""), 7, itertools.count().__next__)
    assert 1 < sample.read < sample.splits
    assert sample.beginnings
    assert "beginnings" in Price(plan, sample, None).describe()
    remove(f"{tmp_path}/corpus/b.parquet")
    assert 2 * sfr.price(job).tokens.value == whole.tokens.value


def test_a_large_split_is_read_whole_and_some_of_its_texts_are_tokenized(tmp_path: Path, tiny: Path) -> None:
    many = docstrings(300) * 6
    put_parquet(f"{tmp_path}/corpus/a.parquet", [*documents(many), *documents([" "], "e")], row_group_size=10_000)
    for overflow in ("truncate", "chunk"):
        plan = sfr.plan(config(tiny, str(tmp_path), f"model.overflow={overflow}", rows_per_split=10_000))
        job = make_job(plan, "")
        found = [read for unit in plan.todo for read in read_unit(unit, plan.config.corpus, plan.columns)]
        (split, rows), (rest, more) = found
        whole, some = count_split(split, rows, job, 10**9), count_split(split, rows, job, 1)
        assert whole.error == 0
        assert 0 < some.error < 0.1
        for name in ("rows", "vectors", "truncated", "tokens", "tokens_full", "encoded", "padded", "rejected"):
            assert getattr(some, name) == pytest.approx(getattr(whole, name), rel=0.05), (overflow, name)
        assert whole.encoded == pytest.approx(whole.tokens / 3, rel=0.05)
        assert some.reasons["empty_text"] == whole.reasons["empty_text"]
        sample = take_sample(plan, job, 0.001, clock=lambda: 0.0)
        assert not sample.exact, "all splits were read, but not all texts were tokenized"
        low, high = sample.counts["tokens"].low, sample.counts["tokens"].high
        assert low is not None
        assert high is not None
        assert low <= whole.tokens + count_split(rest, more, job, 10**9).tokens <= high


# --- from some splits to all


KINDS = ("alike", "by rows", "by bytes", "both", "heavy tail", "by shard", "rare and large")


def population(kind: str, random: np.random.Generator) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Rows, bytes and tokens of 400 splits."""
    n = 400
    rows = random.integers(200, 400, n).astype(float)
    noise = random.lognormal(0, 0.1, n)
    size = rows * 500 * random.lognormal(0, 0.3, n)
    tokens = {
        "alike": rows * 100 * noise,
        "by rows": rows * 100 * noise,
        "by bytes": size / 4 * noise,
        "both": (size / 5 + 20 * rows) * noise,
        "heavy tail": rows * 100 * random.pareto(3, n),
        "by shard": rows * 100 * np.repeat(random.lognormal(0, 0.5, 8), n // 8) * noise,
        "rare and large": size / 4 * noise,
    }[kind]
    if kind == "alike":
        rows, size = np.full(n, 300.0), np.full(n, 150_000.0)
    if kind == "rare and large":
        large = random.random(n) < 0.02
        size[large] *= 50
        tokens[large] *= 50
    return rows, size, tokens


@pytest.mark.parametrize("kind", KINDS)
def test_nine_of_ten_intervals_hold_the_total(kind: str) -> None:
    random = np.random.default_rng(7)
    least = 0.8 if kind == "heavy tail" else 0.9  # of such splits few do not show what all are like
    for read in (4, 12, 40):
        held, off = [], []
        for seed in range(150):
            rows, size, tokens = population(kind, random)
            estimator = Estimator(rows, size, np.inf, seed)
            chosen = list(itertools.islice(estimator.draw(), read))
            total = estimator.total(chosen, tokens[chosen])
            assert total.low is not None
            assert total.high is not None
            held.append(total.low <= tokens.sum() <= total.high)
            off.append(total.value / tokens.sum() - 1)
        assert np.mean(held) >= least, read
        assert abs(np.mean(off)) < (0.1 if kind == "heavy tail" else 0.03), read


def test_a_sample_is_spread_over_shards_and_sizes() -> None:
    rows, size = np.ones(1000), np.ones(1000)
    size[::100] = 1000
    estimator = Estimator(rows, size, np.inf)
    order = list(estimator.draw())
    assert sorted(order) == list(range(1000))
    assert order == list(Estimator(rows, size, np.inf).draw())
    first = np.array(order[:32])
    assert len(set(first // 125)) == 8, "a part of the corpus is left out"
    assert 4 <= (first % 100 == 0).sum() <= 10, "large ones are ten in a thousand, and half of the weight"
    assert estimator.total(order, size[order]) == Figure(size.sum(), size.sum(), size.sum())
    alone = estimator.total(order[:1], size[order[:1]])
    assert alone.low is alone.high is alone.error is None


# --- rates, hours and money


def priced(tmp_path: Path, tiny: Path, *overrides: str) -> Price:
    return sfr.price(config(tiny, str(tmp_path), *overrides, rows_per_split=40))


def test_the_newest_rate_counts_and_says_where_it_is_from(
    tmp_path: Path, tiny: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    corpus(tmp_path)
    nothing = priced(tmp_path, tiny, "run.price_per_hour=3")
    assert nothing.rate is nothing.hours is nothing.money is None
    assert "`sfr-batch verify CONFIG`" in nothing.describe()

    monkeypatch.setattr(paper, "gpu_types", lambda: {"X1": {"tflops": 1e-3, "share": 0.5, "source": "a sheet"}})
    on_paper = priced(tmp_path, tiny, "run.gpu=x1")
    assert on_paper.rate is None, "of float32 on a CPU the table knows nothing"
    with pytest.raises(ConfigError, match=r"run\.gpu: X2 is not in the table of types of GPU, which has X1"):
        priced(tmp_path, tiny, "run.gpu=X2")

    plan = nothing.plan
    kept = MeasuredRate(1000.0, 2.0, "a CPU", 0.0, at="2026-11-29T10:00:00")
    remember_rate(plan.config, plan.inputs["weights"], kept)
    verified = priced(tmp_path, tiny, "run.price_per_hour=3", "run.actors={min: 1, max: 4, gpus: 0}")
    assert verified.rate is not None
    assert verified.rate.source == "measured by `verify` on 2026-11-29, a CPU"
    one, four = verified.times
    counts = verified.sample.counts
    assert counts["characters"].value == sum(len(text) for text in texts() if text.strip())
    work = counts["padded"].value / 1000 + counts["characters"].value / CHARACTERS_A_SECOND / (os.cpu_count() or 1)
    assert (one.actors, four.actors) == (1, 4)
    assert one.seconds.value == pytest.approx(work + 2)
    assert four.seconds.value == pytest.approx(work / 4 + 2)
    assert one.hours.value == pytest.approx(one.seconds.value / 3600)
    with monkeypatch.context() as in_a_job:
        in_a_job.setenv("RAY_ADDRESS", "head:6379")
        found = find_rate(plan, 0.0)
        assert found is not None
        assert found.start_up_s == 2 + rates._RAY_S
    assert verified.money is not None
    assert verified.money.value == pytest.approx(3 * one.hours.value)
    shown = verified.describe()
    took, *_ = [line for line in shown.splitlines() if line.startswith("time")]
    assert took.split()[1] in repr(verified), "one line has the same time"
    assert "start-up included, at 3.00 an actor and hour" in " ".join(shown.split())
    assert max(map(len, shown.splitlines())) <= 80
    assert priced(tmp_path, tiny, "run.max_batch_tokens=4096").rate is None, "it was measured with other batches"
    assert priced(tmp_path, tiny, "run.actors.torch_threads=3").rate is None, "and with other threads"

    sfr.embed(plan.config)
    put_parquet(f"{tmp_path}/corpus/3.parquet", documents(texts(), "more"))
    short = priced(tmp_path, tiny).rate
    assert short is not None
    assert short.origin == "verify", "the run was too short"
    monkeypatch.setattr(rates, "_ENOUGH_S", 0.0)
    after = priced(tmp_path, tiny)
    assert after.rate is not None
    report = report_of(after)
    assert (after.rate.origin, after.rate.off) == ("run", 0.15)
    # Of rows of nearly the same lengths, which the report knows by buckets.
    assert 0 < after.rate.tokens_per_second <= 1.1 * report["padded_tokens"] / report["encode_seconds"]
    counts = after.sample.counts
    took = counts["padded"].value / after.rate.tokens_per_second
    assert after.times[0].encoding.value == pytest.approx(took), "the rate of a run knows what reading takes"
    assert f"the run of {report['finished_at'][:10]}" in after.rate.source
    other = priced(tmp_path, tiny, "run.batches=packed")
    assert other.rate is None, "the run had other batches"
    monkeypatch.undo()
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "empty"))
    only = priced(tmp_path, tiny).rate
    assert only is not None
    assert (only.origin, only.off) == ("run", 0.25), "a short run is better than nothing"


def test_a_rate_is_of_rows_of_some_length(tmp_path: Path, tiny: Path) -> None:
    corpus(tmp_path)
    plan = priced(tmp_path, tiny).plan
    shape = read_config(tiny)

    def rate_of(row_tokens: float, measured_at: float) -> float:
        kept = MeasuredRate(1000.0, 2.0, "a CPU", measured_at)
        remember_rate(plan.config, plan.inputs["weights"], kept)
        found = find_rate(plan, row_tokens)
        assert found is not None
        return found.tokens_per_second

    needed = {tokens: operations(shape, tokens) or 0.0 for tokens in (32, 4096)}
    assert 0 < needed[32] < needed[4096]
    assert rate_of(32, 32) == pytest.approx(1000)
    assert rate_of(4096, 32) == pytest.approx(1000 * needed[32] / needed[4096])
    assert rate_of(32, 4096) == pytest.approx(1000 * needed[4096] / needed[32])
    assert rate_of(32, 0) == rate_of(0, 32) == pytest.approx(1000), "where one of the lengths is not known"


def test_the_interval_is_that_of_the_tokens_and_of_the_rate() -> None:
    about = Figure(1000.0, 900.0, 1200.0)
    assert about.uncertain(0.0) == about
    exact = Figure(1000.0, 1000.0, 1000.0).uncertain(0.25)
    assert (exact.low, exact.high) == (800.0, 1250.0)
    both = about.uncertain(0.25)
    assert both.low == pytest.approx(1000 - math.hypot(100, 200))
    assert both.high == pytest.approx(1000 + math.hypot(200, 250))
    assert about.plus(exact) == Figure(2000.0, both.low + 1000, both.high + 1000)
    assert Figure(1.0, None, None).plus(about) == Figure(1001.0, None, None)


def test_runs_of_a_table_say_how_far_the_next_one_is_off() -> None:
    assert rates.spread([100.0]) == rates.spread([100.0, 50.0]) == 0.15, "two show little of a spread"
    assert rates.spread([100.0, 100.0, 100.0]) == 0.1
    random, held = np.random.default_rng(3), []
    for _ in range(400):
        *runs, following = random.lognormal(0, 0.2, 5)
        off = rates.spread(runs)
        held.append(1 / (1 + off) <= following / runs[-1] <= 1 + off)
    assert np.mean(held) >= 0.88


def test_operations_of_a_token() -> None:
    mistral = {
        "model_type": "mistral",
        "hidden_size": 4096,
        "num_hidden_layers": 32,
        "intermediate_size": 14336,
        "num_attention_heads": 32,
        "num_key_value_heads": 8,
    }
    assert operations(mistral, 0) == pytest.approx(2 * 6.979e9, rel=1e-3)
    assert operations(mistral, 512) == pytest.approx(14.09e9, rel=1e-3)
    assert operations({"d_model": 512}, 512) is None
    h100 = paper.gpu_named("h100")
    assert paper.rate_on_paper(h100, "bfloat16", mistral, 512) == pytest.approx(0.45 * 70.2e3, rel=1e-2)
    assert paper.rate_on_paper(paper.gpu_named("A100"), "fp8", mistral, 512) is None
    assert not any(values["measured"] for values in paper.gpu_types().values())
    assert all(values["source"] for values in paper.gpu_types().values())


# --- the command


def test_the_command(tmp_path: Path, tiny: Path) -> None:
    corpus(tmp_path)
    file = tmp_path / "job.yaml"
    file.write_text(json.dumps(config(tiny, str(tmp_path), rows_per_split=40).model_dump(mode="json")))

    def run(*options: str) -> str:
        result = CliRunner().invoke(main, ["plan", str(file), *options])
        assert result.exit_code == 0, result.output
        return result.stdout

    lines = run().splitlines()
    assert any(line.startswith("tokens    ") and line.endswith("counted in all 9 splits") for line in lines)
    assert "rejects   2 empty_text" in lines
    assert not any(line.startswith("tokens") for line in run("--no-sample").splitlines())
    found = json.loads(run("--json"))
    assert found["plan"]["splits_to_embed"] == found["price"]["splits"] == found["price"]["splits_read"] == 9
    assert found["price"]["rejects"]["empty_text"]["value"] == 2
    assert found["price"]["tokens"]["low"] == found["price"]["tokens"]["high"]
    assert found["price"]["rate"] is None
    assert json.loads(run("--json", "--no-sample"))["price"] is None


def test_a_trial_costs_its_rows(tmp_path: Path, tiny: Path) -> None:
    corpus(tmp_path)
    trial = config(tiny, str(tmp_path), "select.limit=50", rows_per_split=40)
    price = sfr.price(trial)
    assert price.sample.splits == 2
    assert price.tokens.value == sfr.embed(trial).tokens
    assert dataclasses.replace(price, rate=None).describe()
