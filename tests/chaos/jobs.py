"""Real jobs on Ray and S3 whose parts are killed: driver, encode actor, CPU worker, node, object store.

One cluster serves all jobs of a `JobChaos`, and every kill is `kill -9`. A job that loses an actor, a worker or a node
must end well; one that loses its driver, or fails because its store was away, is started again by the same command.
Some are killed while they publish, by tasks on the cluster. A table gets a second run over a corpus that has changed,
as long as there are kills left; every second table is one of small shards, which are packed.
"""

import contextlib
import json
import os
import random
import signal
import subprocess
import sys
import time
from collections import Counter
from pathlib import Path
from typing import Any

import pyarrow as pa

from sfr_batch.config.loading import config_from_dict
from sfr_batch.config.settings import Config, ModelSettings
from sfr_batch.errors import ObjectNotFound, StorageError
from sfr_batch.format import names
from sfr_batch.model.recipe import read_recipe
from sfr_batch.model.tokenization.tokenizer import Tokenizer
from sfr_batch.storage.store import Store
from sfr_batch.table.table import Table
from tests.chaos.campaign import model_without_weights
from tests.chaos.checks import (
    Broken,
    Objects,
    check,
    check_new_splits,
    check_report,
    check_table,
    check_unchanged,
    objects_of,
    plan_of,
    splits_in,
)
from tests.chaos.corpus import reference_vectors
from tests.chaos.embed import DIARY
from tests.job_processes import process_tree
from tests.s3server import S3Server
from tests.tables import jsonl, parquet

ROOT = Path(__file__).parents[2]
VICTIMS = ("driver", "actor", "worker", "node", "store")
NODE = {"num_cpus": 3, "object_store_memory": 100 * 2**20}
"""CPUs are numbers: an encode actor's, and some to read and write by."""
NODES = 2
_ROWS = 4
_SHARDS = 4
_WHILE_PUBLISHING = 10
"""The last one of so many kills waits until the job publishes."""
_TASKS = (
    b"deal_documents",
    b"find_in",
    b"_read_files",
    b"scan",
    b"read_old",
    b"join_partition",
    b"put_in_order",
    b"_decide",
    b"_write_scanned",
)
"""Titles of the tasks that publish and compare."""
_HANG_S = 240.0
_SETTLE_S = 60.0


class RowGroups:
    """A corpus of a few Parquet files whose row groups are splits. ``texts``: those that a table must hold, by id."""

    def __init__(self, folder: Path, splits: int) -> None:
        self._folder, self._rows = folder, splits * _ROWS // _SHARDS
        self.texts: dict[str, str] = {}

    def write(self) -> None:
        self._folder.mkdir(parents=True)
        for shard in range(_SHARDS):
            self._put(shard, {f"{shard}-{row}": f"document {row} of shard {shard}" for row in range(self._rows)})

    def change(self) -> None:
        """Of the first shard, a quarter of the rows is gone, a quarter has other texts, and some are new."""
        old = {name: text for name, text in self.texts.items() if name.startswith("0-")}
        names = list(old)[self._rows // 4 :]
        changed = {name: f"another {old[name]}" for name in names[: self._rows // 4]}
        added = {f"0-new-{row}": f"new document {row}" for row in range(self._rows // 4)}
        self.texts = {name: text for name, text in self.texts.items() if name not in old}
        self._put(0, {name: old[name] for name in names} | changed | added)

    def _put(self, shard: int, part: dict[str, str]) -> None:
        table = pa.table({"id": list(part), "text": list(part.values())})
        groups = [min(_ROWS, len(part) - at) for at in range(0, len(part), _ROWS)]
        (self._folder / f"{shard}.parquet").write_bytes(parquet(table, groups))
        self.texts |= part


class SmallShards:
    """A corpus of shards of one row, which share splits. ``texts``: those that a table must hold, by id."""

    def __init__(self, folder: Path, splits: int) -> None:
        self._folder, self._rows = folder, splits * _ROWS
        self.texts: dict[str, str] = {}

    def write(self) -> None:
        self._folder.mkdir(parents=True)
        for row in range(self._rows):
            self._put(row, f"document {row}")

    def change(self) -> None:
        """A tenth of the shards is gone, a tenth has another text, and as many are new."""
        for row in range(0, self._rows, 10):
            (self._folder / f"{row}.jsonl").unlink()
            del self.texts[f"id-{row}"]
            self._put(row + 1, f"another document {row + 1}")
            self._put(self._rows + row, f"new document {row}")

    def _put(self, row: int, text: str) -> None:
        (self._folder / f"{row}.jsonl").write_bytes(jsonl([{"id": f"id-{row}", "text": text}]))
        self.texts[f"id-{row}"] = text


class JobChaos:
    """Kills on one cluster and one store. ``splits``: of each job."""

    def __init__(self, cluster: Any, s3: S3Server, place: str, folder: Path, seed: int, splits: int = 40) -> None:
        self._cluster, self._s3, self._place, self._folder = cluster, s3, place, folder
        self._rng, self._seed, self._splits = random.Random(seed), seed, splits
        self._model = model_without_weights(folder / "model")
        for _ in range(NODES):
            cluster.add_node(**NODE)
        self.kills: Counter[str] = Counter()
        self.tables = self.failed_jobs = self.while_publishing = 0

    def __str__(self) -> str:
        kills = ", ".join(f"{number} x {victim}" for victim, number in sorted(self.kills.items()))
        return (
            f"{kills}; {self.while_publishing} of them while a job published; {self.tables} tables, "
            f"{self.failed_jobs} jobs failed while the store was away"
        )

    def run(self, victims: list[str]) -> None:
        """Tables one after the other until all these kills are done, in this order. Raises AssertionError."""
        waiting = list(victims)
        while waiting:
            self.tables += 1
            history: list[str] = []
            try:
                self._fill_table(waiting, history)
            except Exception as error:
                told = "\n  ".join(history)
                raise Broken(f"{error}\nTable {self.tables} of --jobs --seed {self._seed}:\n  {told}") from error

    def _fill_table(self, waiting: list[str], history: list[str]) -> None:
        folder = self._folder / f"table{self.tables}"
        raw = {
            "corpus": {"path": str(folder / "corpus")},
            "model": {"path": str(self._model), "device": "cpu"},
            "table": {"path": f"{self._place}/table{self.tables}"},
            "run": {
                "rows_per_split": _ROWS,
                "min_splits": 1,
                "ray_address": self._cluster.address,
                "actors": {"gpus": 0, "min": NODES, "torch_threads": 1},
            },
        }
        packed = self.tables % 2 == 0
        corpus = SmallShards(folder / "corpus", self._splits) if packed else RowGroups(folder / "corpus", self._splits)
        corpus.write()
        (folder / "job.yaml").write_text(json.dumps(raw))
        (folder / DIARY).touch()
        seen = self._fill(folder, config_from_dict(raw), corpus.texts, {}, waiting, history)
        if waiting:
            corpus.change()
            history.append("the corpus changed")
            self._fill(folder, config_from_dict(raw), corpus.texts, seen, waiting, history)

    def _fill(
        self,
        folder: Path,
        config: Config,
        texts: dict[str, str],
        seen: Objects,
        waiting: list[str],
        history: list[str],
    ) -> Objects:
        """Jobs over the corpus as it is now, until one ends well. Returns the objects of the table."""
        diary = folder / DIARY
        finished: dict[str, int] = {}  # splits whose receipt the driver had at a kill, and how often they were encoded
        while True:
            plan = plan_of(config)
            published = _published(plan.store)
            seen = self._look(plan.store, seen)  # after the plan, which has all that is written from here on
            written, encoded, heard = splits_in(seen), len(_words(diary, "encode")), len(_words(diary, "receipt"))
            job = _start(folder / "job.yaml", diary, folder / "output")
            lost_driver = store_away = False
            while waiting and job.poll() is None and not lost_driver:
                publishing = self.kills.total() % _WHILE_PUBLISHING == _WHILE_PUBLISHING - 1
                if not (
                    self._wait_for_publishing(job, diary)
                    if publishing
                    else self._wait_for_commits(job, plan.store, self._rng.randint(2, 6))
                ):
                    break
                victim = waiting[0]
                committed, calls = _words(diary, "receipt"), Counter(_words(diary, "encode"))
                finished = {split: calls[split] for split in committed} | finished
                if not self._kill(victim, job):
                    continue
                waiting.pop(0)
                self.kills[victim] += 1
                self.while_publishing += publishing
                lost_driver, store_away = victim == "driver", store_away or victim == "store"
                now = self._objects(plan.store)
                when = " while the job published" if publishing else ""
                history.append(f"{victim} killed{when}, {len(splits_in(now))} splits are there")
                check_unchanged(seen, now)
                seen = now
                if not lost_driver:  # it gets over its loss: there is a further commit, or it is done
                    self._wait_for_commits(job, plan.store, 1)
            if lost_driver:
                continue
            code = _wait(job)
            if code == 0:
                break
            output = (folder / "output").read_text(errors="replace")
            told = f"the job ended with {code}:\n" + "\n".join(output.splitlines()[-12:])
            check(store_away, told)  # longer than the clients ask again: that may fail a split, and so the run
            history.append(told)
            self.failed_jobs += 1
        after = self._objects(plan.store)
        check_unchanged(seen, after)
        before = {key: after[key] for key in _present(written)}
        check_new_splits(plan, before, after)
        calls = Counter(_words(diary, "encode"))
        again = [split for split, number in finished.items() if calls[split] > number]
        check(not again, f"{len(again)} finished splits were encoded again after a kill")
        repeated = written & set(_words(diary, "encode")[encoded:])
        check(not repeated, f"{len(repeated)} splits were encoded again by the last run")
        settings = ModelSettings(path=str(self._model), device="cpu")
        recipe = read_recipe(self._model, settings)
        table = check_table(config, len(texts), reference_vectors(texts, Tokenizer.load(recipe), recipe.dim))
        if _published(plan.store) > published:  # else a driver was killed between publishing and its end
            check_report(table, splits_in(after) - written, set(_words(diary, "receipt")[heard:]))
        history.append("finished")
        return after

    def _objects(self, store: Store) -> Objects:
        """A server that was killed may answer with errors for a while; what it never gives back again is lost."""
        deadline = time.monotonic() + _SETTLE_S
        while True:
            try:
                return objects_of(store)
            except ObjectNotFound:
                raise
            except StorageError:
                if time.monotonic() > deadline:
                    raise
                time.sleep(1)

    def _wait_for_commits(self, job: subprocess.Popen[bytes], store: Store, more: int) -> bool:
        """Until there are so many data files more; False if the job ends first."""
        wanted = _data_files(store) + more
        deadline = time.monotonic() + _HANG_S
        while _data_files(store) < wanted:
            check(time.monotonic() < deadline, f"no {more} commits in {_HANG_S:g} s")
            if job.poll() is not None:
                return False
            time.sleep(0.02)
        return job.poll() is None

    def _wait_for_publishing(self, job: subprocess.Popen[bytes], diary: Path) -> bool:
        """Until the job has begun to publish, and a moment longer; False if it ends first."""
        known = len(_words(diary, "publish"))
        deadline = time.monotonic() + _HANG_S
        while len(_words(diary, "publish")) == known:
            check(time.monotonic() < deadline, f"nothing is published in {_HANG_S:g} s")
            if job.poll() is not None:
                return False
            time.sleep(0.02)
        time.sleep(self._rng.uniform(0, 1))
        return job.poll() is None

    def _kill(self, victim: str, job: subprocess.Popen[bytes]) -> bool:
        """False if there is none such just now."""
        if victim == "store":
            self._s3.kill()
            time.sleep(self._rng.uniform(0.1, 1.5))
            self._s3.start()
            return True
        if victim == "node":
            self._cluster.remove_node(self._rng.choice(list(self._cluster.worker_nodes)), allow_graceful=False)
            self._cluster.add_node(**NODE)
            return True
        if victim == "driver":
            job.kill()
            job.wait()
            return True
        titles = (b"Encode",) if victim == "actor" else (b"read_and_tokenize", b"write", *_TASKS)
        pids = _ray_processes(*titles)
        if not pids:
            return False
        with contextlib.suppress(ProcessLookupError):
            os.kill(self._rng.choice(pids), signal.SIGKILL)
            return True
        return False

    def _look(self, store: Store, seen: Objects) -> Objects:
        """What is there once the workers of a driver that has died seem to be gone.

        One that still loads what it is given is called idle by Ray, so a split may be committed later, too.
        """
        deadline = time.monotonic() + _HANG_S
        while _ray_processes(b"Map", *_TASKS):
            check(time.monotonic() < deadline, "workers do not end with their driver")
            time.sleep(0.1)
        now = self._objects(store)
        check_unchanged(seen, now)
        return now


def _start(config_file: Path, diary: Path, output: Path) -> subprocess.Popen[bytes]:
    with output.open("ab") as file:
        command = [sys.executable, "-m", "tests.chaos.embed", str(config_file), str(diary)]
        return subprocess.Popen(command, cwd=ROOT, stdout=file, stderr=file)


def _wait(job: subprocess.Popen[bytes]) -> int:
    try:
        return job.wait(_HANG_S)
    except subprocess.TimeoutExpired:
        job.kill()
        job.wait()
        raise Broken(f"no end after {_HANG_S:g} s") from None


def _data_files(store: Store) -> int:
    try:
        return sum(1 for _ in store.list("data"))
    except Exception:  # the store is coming back
        return 0


def _published(store: Store) -> int:
    """Number of the newest snapshot, 0 if there is none."""
    if not any(True for _ in store.list(names.SNAPSHOTS)):
        return 0
    latest = Table.open(store).latest()
    return latest.number if latest else 0


def _present(splits: set[str]) -> set[str]:
    return {f"data/{split_id}.parquet" for split_id in splits}


def _words(diary: Path, what: str) -> list[str]:
    """Splits of the diary's lines of one kind, in order. The last line may not be whole yet."""
    lines = (line.split() for line in diary.read_text().splitlines())
    return [words[1] for words in lines if len(words) == 3 and words[0] == what]


def _ray_processes(*titles: bytes) -> list[int]:
    """Workers of this process's cluster whose title, which Ray sets to what they do, has one of these words in it."""
    found = []
    for pid in process_tree(os.getpid()):
        with contextlib.suppress(OSError):
            title = Path(f"/proc/{pid}/cmdline").read_bytes()
            if title.startswith(b"ray::") and any(word in title for word in titles):
                found.append(pid)
    return found
