"""Measures nightly runs: with a real model after 1 % of the documents changed, and without one after every row moved.

The first part runs the command line as processes of their own. The second writes a table of short rows and small
vectors that come from no model, shuffles the whole corpus, and compares and publishes it, in this module as a process
of its own: `python -m jobs.benchmark.nightly none|local ROWS FOLDER` prints one JSON object. All but the vectors,
and what is read of the model, is real.
"""

import contextlib
import json
import multiprocessing
import random
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from unittest import mock

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from jobs.benchmark import processes
from jobs.benchmark.corpus import distinct_docstrings
from jobs.benchmark.processes import Memory
from jobs.benchmark.splits import aligned, model_folder, run_module
from sfr_batch.config.loading import config_from_dict
from sfr_batch.config.settings import Config
from sfr_batch.corpus.reader import read_unit
from sfr_batch.errors import RunFailed
from sfr_batch.format import names
from sfr_batch.format.records import Receipt
from sfr_batch.planning import card
from sfr_batch.planning.comparison import compare
from sfr_batch.planning.drafting import draft
from sfr_batch.planning.make import make_plan
from sfr_batch.planning.plan import EmbedPlan
from sfr_batch.storage.executor import Executor, InProcess
from sfr_batch.storage.stores import open_store
from sfr_batch.table.commit.publish import publish
from sfr_batch.table.commit.writing import commit_split, create_or_open, new_attempt, new_run_id
from sfr_batch.table.table import Table

CHANGED = 0.01
"""Share of the documents that have another text the night after."""
_SHARDS = 24
_TIMEOUT_S = 3600.0
_ROWS_A_SHARD = 100_000
_DIM = 8
PARTS = 100
_INPUTS = {"dim": _DIM, "vector_dtype": "float32", "max_length": 512, "overflow": "truncate"}


@dataclass(frozen=True)
class Night:
    """One `sfr-batch embed`: seconds of the whole process, and what it encoded."""

    name: str
    seconds: float
    tokens: int
    documents: int


@dataclass(frozen=True)
class Reshuffle:
    """A comparison of a whole corpus whose rows all stand elsewhere, and what it takes to publish it.

    peak: bytes at the highest of the sum, by role; memory: bytes by which the driver's own grew at most, first to
    compare, then to write the indexes and to publish. Pages of the object store that it has looked at are not its own.
    """

    address: str
    rows: int
    compare_seconds: float
    publish_seconds: float
    peak: Memory
    compare_memory: int
    publish_memory: int


def nights(documents: int, model: str, folder: Path, say: Callable[[str], None]) -> list[Night]:
    """A first run, one after a hundredth of the documents has changed, one after nothing has. Raises RunFailed."""
    chosen = distinct_docstrings(documents)
    corpus, table = folder / "corpus", folder / "table"
    corpus.mkdir(parents=True)
    config = folder / "job.yaml"
    raw = {
        "corpus": {"path": str(corpus)},
        "model": {"path": model_folder(model), "device": "cpu"},
        "table": {"path": str(table)},
        "run": {"actors": {"gpus": 0}, "ray_address": "none"},
    }
    config.write_text(json.dumps(raw), encoding="utf-8")
    found = []
    changed = set(random.Random(1).sample(range(documents), max(1, round(CHANGED * documents))))
    for name in ("first run", f"{CHANGED:.0%} changed", "nothing changed"):
        if name == "first run":
            _write_shards(corpus, chosen)
        elif name != "nothing changed":
            _write_shards(
                corpus, [(id_, f"Anew. {text}" if n in changed else text) for n, (id_, text) in enumerate(chosen)]
            )
        before = len(_reports(table))
        command = [sys.executable, "-m", "sfr_batch.cli", "embed", str(config)]
        usage = processes.run(command, folder / "log", {}, _TIMEOUT_S)
        reports = _reports(table)[before:]
        found.append(
            Night(
                name,
                usage.seconds,
                sum(report["encoded_tokens"] for report in reports),
                sum(report["embedded"] for report in reports),
            )
        )
        say(f"{name}: {found[-1].seconds:.1f} s, {found[-1].tokens:,} tokens")
    if found[1].documents != len(changed) or found[2].tokens:
        raise RunFailed(f"{found[1].documents:,} documents were embedded where {len(changed):,} had changed.")
    return found


def _write_shards(folder: Path, rows: Sequence[tuple[str, str]]) -> None:
    for shard in range(_SHARDS):
        part = rows[len(rows) * shard // _SHARDS : len(rows) * (shard + 1) // _SHARDS]
        table = pa.table({"id": [id_ for id_, _ in part], "text": [text for _, text in part]})
        path, data = folder / f"docs-{shard:05}.parquet", pa.BufferOutputStream()
        pq.write_table(table, data)
        content = data.getvalue().to_pybytes()
        if not path.exists() or path.read_bytes() != content:
            path.write_bytes(content)


def _reports(table: Path) -> list[dict[str, Any]]:
    return [json.loads(path.read_text()) for path in sorted(table.glob("_sfr/runs/*/report.json"))]


def reshuffle(address: str, rows: int, folder: Path, say: Callable[[str], None]) -> Reshuffle:
    """Shuffle ``rows`` rows and compare them, in a process of its own, and watch it. Raises RunFailed."""
    with tempfile.TemporaryDirectory(dir=folder) as place, processes.Watch() as watch:
        raw = run_module("nightly", [address, str(rows), place], folder)
    begin, compared, end = raw["begin"], raw["compared"], raw["end"]
    before = [memory.driver for at, memory in watch.samples if at < begin]
    samples = [
        [memory for at, memory in watch.samples if a <= at <= b] for a, b in ((begin, compared), (compared, end))
    ]
    if not before or not all(samples):
        raise RunFailed(f"{rows:,} rows took {end - begin:.1f} s, too short to see memory: give more.")
    grew = [max(0, max(memory.driver for memory in some) - before[-1]) for some in samples]
    peak = max((memory for some in samples for memory in some), key=sum)
    found = Reshuffle(address, raw["rows"], compared - begin, end - compared, peak, *grew)
    say(f"Compared {rows:,} rows in {found.compare_seconds:.1f} s, on Ray: {address}")
    return found


def tables(found: Sequence[Night], moved: Sequence[Reshuffle]) -> str:
    """As text."""
    lines = []
    if found:
        first = found[0]
        rows = [["", "seconds", "of the first", "tokens encoded", "of the first", "documents"]]
        for night in found:
            shares = f"{night.seconds / first.seconds:.1%}", f"{night.tokens / first.tokens:.2%}"
            rows.append(
                [night.name, f"{night.seconds:.1f}", shares[0], f"{night.tokens:,}", shares[1], f"{night.documents:,}"]
            )
        lines += ["Nights, whole processes", *aligned(rows), ""]
    if moved:
        grew = "driver grew MiB", "publishing"
        rows = [["run.ray_address", "rows", "compare s", "publish s", "us/row", *grew, "peak MiB", *Memory._fields]]
        for run in moved:
            sizes = [f"{size / 2**20:,.0f}" for size in (sum(run.peak), *run.peak)]
            seconds = run.compare_seconds + run.publish_seconds
            rows.append(
                [run.address, f"{run.rows:,}", f"{run.compare_seconds:.1f}", f"{run.publish_seconds:.1f}",
                 f"{seconds / run.rows * 1e6:.1f}", mib(run.compare_memory), mib(run.publish_memory), *sizes]
            )  # fmt: skip
        lines += ["Every row in another shard: texts of 200 characters, ids of 19, no model", *aligned(rows)]
        for address in dict.fromkeys(run.address for run in moved):
            its = [run for run in moved if run.address == address]
            for what, grown in (("compare", "compare_memory"), ("publish", "publish_memory")):
                lines += slope(address, what, [(run.rows, getattr(run, grown)) for run in its])
    return "\n".join(lines).rstrip()


def slope(what: str, to: str, grown: Sequence[tuple[int, int | None]]) -> list[str]:
    """A line on the driver's memory by rows, or none. grown: rows, and bytes by which it grew."""
    known = sorted((rows, size) for rows, size in grown if size is not None)
    if not known or known[0][0] == known[-1][0]:
        return []
    (few, small), (many, large) = known[0], known[-1]
    each = (large - small) / (many - few)
    return [f"{what}: to {to}, each further row takes {each:.1f} bytes of the driver's memory"]


def mib(size: int | None) -> str:
    return "–" if size is None else f"{size / 2**20:,.0f}"


# --- the process that is watched


def _config(folder: Path) -> Config:
    return config_from_dict(
        {
            "corpus": {"path": f"{folder}/corpus"},
            "model": {"path": "none", "device": "cpu"},
            "table": {"path": f"{folder}/table"},
            "run": {"rows_per_split": _ROWS_A_SHARD, "min_splits": 1, "actors": {"gpus": 0}},
        }
    )


def write_corpus(folder: Path, rows: int, seed: int | None) -> None:
    """Rows 0 to ``rows`` in shards, in order or shuffled. Each is of one of a hundred parts."""
    order = np.arange(rows) if seed is None else np.random.default_rng(seed).permutation(rows)
    corpus = folder / "corpus"
    corpus.mkdir(exist_ok=True)
    for start in range(0, rows, _ROWS_A_SHARD):
        numbers = order[start : start + _ROWS_A_SHARD].tolist()
        filling = "And it says so. " * 20
        texts = [f"Document {number} says the same every night. {filling}"[:200] for number in numbers]
        ids, parts = [f"document-{number:010}" for number in numbers], [number % PARTS for number in numbers]
        shard = pa.table({"id": ids, "text": texts, "part": parts})
        pq.write_table(shard, corpus / f"part-{start:012}.parquet", row_group_size=_ROWS_A_SHARD)


def write_table(folder: Path, rows: int) -> None:
    """The first night, without a model, and a corpus that is shuffled after it."""
    write_corpus(folder, rows, None)
    first_night(_config(folder))
    for shard in (folder / "corpus").iterdir():
        shard.unlink()
    write_corpus(folder, rows, 1)


def first_night(config: Config) -> None:
    """Publish a table of all rows."""
    with no_model():
        plan = make_plan(config)
    table = create_or_open(plan.store, plan.card)
    publish(table, None, draft(plan, new_run_id(), embed(plan)))


def no_model() -> AbstractContextManager[Any]:
    """Plans that are made meanwhile read no model."""
    return mock.patch.object(card, "model_inputs", return_value=_INPUTS)


def embed(plan: EmbedPlan) -> list[Receipt]:
    """Commit what is to do, with vectors that come from no model."""
    kind = plan.card.schema.field(names.EMBEDDING).type
    receipts = []
    for unit in plan.todo:
        for split, found in read_unit(unit, plan.config.corpus, plan.columns):
            n = len(found.texts)
            vectors = np.zeros((n, _DIM), np.float32)
            vectors[:, 0] = 1
            columns = {
                names.ID: found.ids,
                names.EMBEDDING: pa.FixedSizeListArray.from_arrays(pa.array(vectors.reshape(-1)), type=kind),
                names.N_TOKENS: pa.array(np.full(n, 50, np.int32)),
                names.N_TOKENS_FULL: pa.array(np.full(n, 50, np.int32)),
                names.TRUNCATED: pa.array(np.zeros(n, bool)),
                names.CONTENT_HASH: found.content_hash,
                names.ROW_HASH: found.row_hash,
                **{name: found.carry.column(name) for name in found.carry.column_names},
            }
            receipt = Receipt(
                split_id=split.split_id, shard=split.shard, version=split.version, start=split.start,
                attempt=new_attempt(), run_id="none", read=n, embedded=n, rejected=0, vectors=n, tokens=50 * n,
                tokens_full=50 * n, encoded_tokens=0, padded_tokens=0, truncated=0, encode_seconds=0.0,
                generation=plan.config.table.generation,
            )  # fmt: skip
            data = pa.table([columns[name] for name in plan.card.schema.names], schema=plan.card.schema)
            receipts.append(commit_split(plan.store, plan.card, receipt, data, found.rejects))
    return receipts


@contextlib.contextmanager
def executors(address: str, config: Config) -> Iterator[tuple[Executor, Executor | None]]:
    """What compares, and what publishes; None: this process."""
    if address == "none":
        yield InProcess(), None
        return
    from sfr_batch.pipeline import execution, tasks

    with execution.cluster(config, address):
        run = tasks.OnRay("measuring a night")
        yield run, run


@contextlib.contextmanager
def second_night(
    address: str, config: Config, write: Callable[[Path, int], None], folder: Path, rows: int
) -> Iterator[tuple[Executor, Executor | None]]:
    """`executors` for the night after ``write(folder, rows)``, which a process of its own has done. Plans that are made
    meanwhile read no model."""
    writer = multiprocessing.get_context("spawn").Process(target=write, args=(folder, rows))
    writer.start()
    writer.join()
    if writer.exitcode:
        raise RunFailed(f"The table was not written: exit code {writer.exitcode}.")
    with executors(address, config) as found, no_model():
        yield found


def measure(address: str, rows: int, folder: Path) -> dict[str, Any]:
    """When what happened (seconds since the epoch) of comparing and publishing a reshuffled corpus."""
    config = _config(folder)
    with second_night(address, config, write_table, folder, rows) as (executor, publisher):
        begin = time.time()
        comparison = compare(make_plan(config), executor)
        plan = comparison.plan
        compared = time.time()
        prepared = draft(plan, new_run_id(), [], comparison)
        snapshot = publish(Table.open(open_store(config.table.path)), plan.base, prepared, publisher)
        end = time.time()
    counts, changes = snapshot.manifest.counts, snapshot.manifest.changes
    if plan.todo or changes is None or (changes.unchanged, counts.vectors) != (rows, rows):
        raise RunFailed(f"{snapshot!r}, {changes!r} is not {rows:,} rows that moved.")
    return {"rows": rows, "begin": begin, "compared": compared, "end": end}


def main(arguments: Sequence[str]) -> None:
    address, rows, folder = arguments
    print(json.dumps(measure(address, int(rows), Path(folder))))


if __name__ == "__main__":
    main(sys.argv[1:])
