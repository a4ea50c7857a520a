"""Measures a first run of very many tiny shards, with a simulated encoder, and the packs that they are read in.

    python -m jobs.benchmark.tiny_shards SHARDS ROWS MODEL

Real files of JSON Lines on a local disk, through the real pipeline in one process; only the model is replaced, by
`driver.FakeEncoder`. CPU seconds are those of the process with all of its threads. Then a shard is changed, which is a
night. At last shards are added to the listing, removed and changed at random, one at a time: how many packs that
renames. Prints one JSON object.
"""

import dataclasses
import json
import random
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar
from unittest import mock

from jobs.benchmark.driver import FakeEncode
from jobs.benchmark.planning import own_memory
from jobs.benchmark.splits import aligned, model_folder, run_module
from sfr_batch.config.loading import config_from_dict
from sfr_batch.config.settings import Config
from sfr_batch.corpus.listing import list_shards
from sfr_batch.corpus.packs import cut_packs, find_small
from sfr_batch.corpus.shards import Shard
from sfr_batch.errors import RunFailed
from sfr_batch.pipeline import encode_stage, runner
from sfr_batch.planning.make import make_plan
from sfr_batch.table.table import Table

_EDITS = 300
T = TypeVar("T")


@dataclass(frozen=True)
class TinyShards:
    """CPU seconds of each part, and what came of it."""

    shards: int
    rows: int
    bytes: int
    plan: float
    run: float
    """Of the first run, its own plan and publishing included."""
    night: float
    """Of a run after one shard has changed."""
    files: int
    """Data files after the first run."""
    peak_bytes: int | None
    edits: int
    renamed: dict[str, int]
    """How many edits have renamed so many packs."""

    @property
    def at_most_two(self) -> float:
        """Share, in 0 to 1, of the edits that have renamed two packs or fewer."""
        return sum(edits for packs, edits in self.renamed.items() if int(packs) <= 2) / self.edits


def run(shards: int, rows: int, model: str, folder: Path, say: Callable[[str], None]) -> TinyShards:
    """Embed so many shards of so many rows in a process of its own. Raises RunFailed."""
    found = TinyShards(**run_module("tiny_shards", [str(shards), str(rows), model_folder(model)], folder))
    say(f"Embedded {found.shards:,} shards in {found.run:.1f} s of CPU")
    return found


def table(found: TinyShards) -> str:
    """The result as a text table."""
    rows = [["", "CPU s", "ms a shard"]]
    for name, seconds in [("plan", found.plan), ("first run", found.run), ("one shard changed", found.night)]:
        rows.append([name, f"{seconds:.1f}", f"{seconds / found.shards * 1e3:.2f}"])
    peak = "" if found.peak_bytes is None else f"; peak {found.peak_bytes / 2**20:,.0f} MiB"
    edits = ", ".join(
        f"{packs}: {edits}" for packs, edits in sorted(found.renamed.items(), key=lambda its: int(its[0]))
    )
    return "\n".join(
        [
            f"{found.shards:,} shards of {found.rows:,} rows, {found.bytes:,} bytes; {found.files:,} data files{peak}",
            *aligned(rows),
            f"{found.edits:,} edits, by the number of packs that each renames: {edits}",
            f"{found.at_most_two:.0%} rename at most two",
        ]
    )


def measure(shards: int, rows: int, model: str, folder: Path) -> TinyShards:
    """All in this process. folder: empty."""
    corpus = folder / "corpus"
    corpus.mkdir()
    for number in range(shards):
        _write(corpus, number, rows)
    config = config_from_dict(
        {
            "corpus": {"path": str(corpus)},
            "model": {"path": model, "device": "cpu"},
            "table": {"path": f"{folder}/table"},
            "run": {"ray_address": "none", "progress_every_s": 3600, "actors": {"gpus": 0}},
        }
    )
    plan, made = _cpu(lambda: make_plan(config))
    with mock.patch.object(encode_stage, "Encode", FakeEncode):
        first, summary = _cpu(lambda: runner.embed(config))
        if summary.embedded != shards * rows:
            raise RunFailed(f"{summary!r} is not the {shards * rows:,} rows that there were.")
        files = len(Table.open(made.store).current().split_ids())
        _write(corpus, shards // 2, rows, "another text")
        night, _ = _cpu(lambda: runner.embed(config))
    renamed = edit(config, random.Random(0))
    return TinyShards(
        shards=shards,
        rows=rows,
        bytes=sum(shard.size for shard, _ in made.changed),
        plan=plan,
        run=first,
        night=night,
        files=files,
        peak_bytes=own_memory("VmHWM"),
        edits=_EDITS,
        renamed={str(packs): edits for packs, edits in sorted(renamed.items())},
    )


def edit(config: Config, draw: random.Random) -> Counter[int]:
    """How many packs random edits of a corpus rename, each by itself; a full pack stays as large as it was."""
    (small, *_), _ = find_small(list_shards(config.corpus).shards, config.corpus, config.run)
    before = set(map(_name, small.packs()))
    renamed = Counter[int]()
    for number in range(_EDITS):
        after = list(small.shards)
        at = draw.randrange(len(after))
        changed = dataclasses.replace(after[at], version="changed", size=draw.randrange(2 * after[at].size))
        if number % 3 == 0:
            after.insert(at + 1, dataclasses.replace(changed, uri=f"{after[at].uri}-{number}"))
        elif number % 3 == 1:
            del after[at]
        else:
            after[at] = changed
        renamed[len(set(map(_name, cut_packs(after, small.full))) - before)] += 1
    return renamed


def _name(pack: Sequence[Shard]) -> tuple[tuple[str, str], ...]:
    return tuple((shard.uri, shard.version) for shard in pack)


def _write(corpus: Path, number: int, rows: int, text: str = "says a few words about") -> None:
    lines = [
        json.dumps({"id": f"{number}-{row}", "text": f"document {row} of shard {number} {text} {number * 7919 % 1000}"})
        for row in range(rows)
    ]
    (corpus / f"part-{number:07}.jsonl").write_text("\n".join(lines) + "\n", encoding="utf-8")


def _cpu(work: Callable[[], T]) -> tuple[float, T]:
    started = time.process_time()
    result = work()
    return time.process_time() - started, result


def main(arguments: Sequence[str]) -> None:
    """Measure and print."""
    shards, rows, model = arguments
    with tempfile.TemporaryDirectory(prefix="sfr-tiny-") as folder:
        found: dict[str, Any] = dataclasses.asdict(measure(int(shards), int(rows), model, Path(folder)))
    print(json.dumps(found))


if __name__ == "__main__":
    main(sys.argv[1:])
