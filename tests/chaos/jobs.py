"""Real jobs on Ray and S3 whose parts are killed: driver, encode actor, CPU worker, node, object store.

One cluster serves all jobs of a `JobChaos`, and every kill is `kill -9`. A job that loses an actor, a worker or a node
must end well; one that loses its driver, or fails because its store was away, is started again by the same command.
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
from sfr_batch.config.settings import ModelSettings
from sfr_batch.errors import ObjectNotFound, StorageError
from sfr_batch.model.recipe import read_recipe
from sfr_batch.model.tokenization.tokenizer import Tokenizer
from sfr_batch.storage.store import Store
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
from tests.tables import parquet

ROOT = Path(__file__).parents[2]
VICTIMS = ("driver", "actor", "worker", "node", "store")
NODE = {"num_cpus": 3, "object_store_memory": 100 * 2**20}
"""CPUs are numbers: an encode actor's, and some to read and write by."""
NODES = 2
_ROWS = 4
_SHARDS = 4
_HANG_S = 240.0
_SETTLE_S = 60.0


class JobChaos:
    """Kills on one cluster and one store. ``splits``: of each job."""

    def __init__(self, cluster: Any, s3: S3Server, place: str, folder: Path, seed: int, splits: int = 40) -> None:
        self._cluster, self._s3, self._place, self._folder = cluster, s3, place, folder
        self._rng, self._seed, self._splits = random.Random(seed), seed, splits
        self._model = model_without_weights(folder / "model")
        for _ in range(NODES):
            cluster.add_node(**NODE)
        self.kills: Counter[str] = Counter()
        self.tables = self.failed_jobs = 0

    def __str__(self) -> str:
        kills = ", ".join(f"{number} x {victim}" for victim, number in sorted(self.kills.items()))
        return f"{kills}; {self.tables} tables, {self.failed_jobs} jobs failed while the store was away"

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
        texts = self._write_corpus(folder / "corpus")
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
        (folder / "job.yaml").write_text(json.dumps(raw))
        config, diary = config_from_dict(raw), folder / DIARY
        diary.touch()
        seen: Objects = {}
        finished: dict[str, int] = {}  # splits whose receipt the driver had at a kill, and how often they were encoded
        while True:
            plan = plan_of(config)
            written, encoded = splits_in(seen), len(_words(diary, "encode"))
            job = _start(folder / "job.yaml", diary, folder / "output")
            lost_driver = store_away = False
            while waiting and job.poll() is None and not lost_driver:
                if not self._wait_for_commits(job, plan.store, self._rng.randint(2, 6)):
                    break
                victim = waiting[0]
                heard, calls = _words(diary, "receipt"), Counter(_words(diary, "encode"))
                finished = {split: calls[split] for split in heard} | finished
                if not self._kill(victim, job, diary):
                    continue
                waiting.pop(0)
                self.kills[victim] += 1
                lost_driver, store_away = victim == "driver", store_away or victim == "store"
                now = self._objects(plan.store)
                history.append(f"{victim} killed, {len(splits_in(now))} of {self._splits} splits are there")
                check_unchanged(seen, now)
                seen = now
                if not lost_driver:
                    self._job_goes_on(job, plan.store, len(splits_in(now)))
            if lost_driver:
                seen = self._look(plan.store, seen)
                continue
            code = _wait(job)
            if code == 0:
                break
            output = (folder / "output").read_text(errors="replace")
            told = f"the job ended with {code}:\n" + "\n".join(output.splitlines()[-12:])
            check(store_away, told)  # longer than the clients ask again: that may fail a split, and so the run
            history.append(told)
            self.failed_jobs += 1
            seen = self._look(plan.store, seen)
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
        check_report(table, len(splits_in(after)) - len(written))
        history.append("finished")

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

    def _write_corpus(self, folder: Path) -> dict[str, str]:
        folder.mkdir(parents=True)
        texts: dict[str, str] = {}
        rows = self._splits * _ROWS // _SHARDS
        for shard in range(_SHARDS):
            part = {f"{shard}-{row}": f"document {row} of shard {shard}" for row in range(rows)}
            table = pa.table({"id": list(part), "text": list(part.values())})
            (folder / f"{shard}.parquet").write_bytes(parquet(table, [_ROWS] * (rows // _ROWS)))
            texts |= part
        return texts

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

    def _job_goes_on(self, job: subprocess.Popen[bytes], store: Store, count: int) -> None:
        """It gets over its loss: there is a further commit, or it is done."""
        if count < self._splits:
            self._wait_for_commits(job, store, 1)

    def _kill(self, victim: str, job: subprocess.Popen[bytes], diary: Path) -> bool:
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
        pids = _ray_processes(b"Encode") if victim == "actor" else _ray_processes(b"read_and_tokenize", b"write")
        if not pids:
            return False
        with contextlib.suppress(ProcessLookupError):
            os.kill(self._rng.choice(pids), signal.SIGKILL)
            return True
        return False

    def _look(self, store: Store, seen: Objects) -> Objects:
        """After a driver's death, when its workers have gone too: some may have committed a split meanwhile."""
        deadline = time.monotonic() + _HANG_S
        while _ray_processes(b"Map"):
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
