"""The contenders of the pipeline benchmark: the command of each, and how to read its output. Starts no process.

A contender is a process that reads the corpus and writes vectors. Its steady-state speed comes from the times of its
data files (sfr-batch), or from the meter of its script in `jobs/benchmark/scripts`.
"""

import json
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from numpy.typing import NDArray

from sfr_batch.format import names
from sfr_batch.storage.stores import open_store
from sfr_batch.table.table import Table

FloatArray = NDArray[np.float32]


class Event(NamedTuple):
    """At ``time`` (seconds since the epoch) rows of ``tokens`` tokens were done."""

    time: float
    tokens: int
    encoded_tokens: int
    padded_tokens: int


@dataclass(frozen=True)
class Job:
    """One run of one contender. ``folder`` is its own and exists; threads: of PyTorch; tokens: of each row, by id."""

    folder: Path
    corpus: Path
    model: Path
    scripts: Path
    rows_per_split: int
    threads: int
    tokens: dict[str, int]

    @property
    def output(self) -> Path:
        return self.folder / "output"

    @property
    def meter(self) -> Path:
        return self.folder / "meter.jsonl"


@dataclass(frozen=True)
class Contender:
    """``name`` for the command line, ``label`` for people."""

    name: str
    label: str
    command: Callable[[Job], list[str]]
    events: Callable[[Job], list[Event]]
    vectors: Callable[[Job], pa.Table]
    needs: tuple[str, ...] = ()
    """Packages that it needs in addition to those of sfr-batch."""


def _script(name: str, *words: str) -> Callable[[Job], list[str]]:
    def command(job: Job) -> list[str]:
        files = map(str, (job.corpus, job.model, job.output, job.meter))
        return [sys.executable, str(job.scripts / name), *files, str(job.threads), *words]

    return command


def _metered(job: Job) -> list[Event]:
    events = []
    for line in job.meter.read_text(encoding="utf-8").splitlines():
        raw = json.loads(line)
        tokens = sum(job.tokens[name] for name in raw["ids"])
        events.append(Event(raw["time"], tokens, raw["encoded_tokens"], raw["padded_tokens"]))
    return events


def _written(job: Job) -> pa.Table:
    return pq.read_table(job.output)


def _embed(address: str) -> Callable[[Job], list[str]]:
    def command(job: Job) -> list[str]:
        config = {
            "corpus": {"path": str(job.corpus)},
            "model": {"path": str(job.model), "device": "cpu"},
            "table": {"path": str(job.output)},
            "run": {
                "rows_per_split": job.rows_per_split,
                "min_splits": 1,
                "ray_address": address,
                "actors": {"gpus": 0, "torch_threads": job.threads},
            },
        }
        file = job.folder / "config.yaml"
        file.write_text(json.dumps(config, indent=1), encoding="utf-8")  # JSON is YAML
        return [sys.executable, "-m", "sfr_batch.cli", "embed", str(file)]

    return command


def _data_files(job: Job) -> list[Event]:
    store = open_store(str(job.output))
    times = {info.key: info.modified for info in store.list(names.DATA)}
    return [
        Event(times[names.data_key(receipt.split_id)], receipt.tokens, receipt.encoded_tokens, receipt.padded_tokens)
        for receipt in Table.open(store).current().read_receipts()
    ]


def _table(job: Job) -> pa.Table:
    return Table.open(open_store(str(job.output))).to_arrow([names.ID, names.EMBEDDING])


def _rival(name: str, label: str, script: str, *words: str, needs: tuple[str, ...] = ()) -> Contender:
    return Contender(name, label, _script(script, *words), _metered, _written, ("sentence_transformers", *needs))


BARE = "encoder"
CONTENDERS = {
    contender.name: contender
    for contender in (
        Contender(BARE, "bare encoder", _script("with_encoder.py"), _metered, _written),
        Contender("sfr-batch", "sfr-batch, one process", _embed("none"), _data_files, _table),
        Contender("sfr-batch-ray", "sfr-batch on local Ray", _embed("local"), _data_files, _table),
        _rival("sentence-transformers", "sentence-transformers script", "with_sentence_transformers.py"),
        _rival("ray-data", "Ray Data recipe", "with_ray_data.py"),
        _rival("ray-data-threads", "Ray Data recipe, all threads", "with_ray_data.py", "set-threads"),
        _rival("daft", "Daft's embed_text", "with_daft.py", needs=("daft",)),
    )
}
"""The contenders by name, in the order of the report."""


def tokens_per_second(events: Sequence[Event]) -> float | None:
    """Steady state: tokens of what was done after the first event, over the time between the first and the last; None
    if nothing tells when what was done."""
    events = sorted(events)
    return sum(event.tokens for event in events[1:]) / (events[-1].time - events[0].time) if events else None


def padding(events: Sequence[Event]) -> float | None:
    """Share of the computed tokens that were padding; None if nothing tells."""
    padded = sum(event.padded_tokens for event in events)
    return 1 - sum(event.encoded_tokens for event in events) / padded if padded else None


def vectors_by_id(table: pa.Table, ids: Sequence[str]) -> FloatArray | None:
    """[n, d] vectors in the order of ``ids``; None unless the table holds exactly these ids, each once."""
    place = {name: row for row, name in enumerate(table.column(names.ID).to_pylist())}
    if len(place) != table.num_rows or place.keys() != set(ids):
        return None
    column = table.column(names.EMBEDDING).combine_chunks()
    numbers = column.flatten().to_numpy(zero_copy_only=False).reshape(table.num_rows, -1)
    ordered: FloatArray = numbers[[place[name] for name in ids]].astype(np.float32)
    return ordered
