"""`kill -9` of a whole job in the middle, then the same command: every row once, nothing finished done again."""

import contextlib
import hashlib
import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest

import sfr_batch as sfr
from sfr_batch import schema
from sfr_batch.search import vectors_of
from sfr_batch.storage import Store, open_store
from tests.jobs import ROOT, documents, put_parquet, settings
from tests.models import docstrings, minilm_folder
from tests.s3server import S3Server

DOCUMENTS = 960
SPLITS = 20
KILL_AFTER = 4


def start_job(config_file: Path) -> subprocess.Popen[str]:
    """A job as a user runs it: its own process, its own local Ray."""
    environment = {**os.environ, "RAY_ADDRESS": "local"}
    command = [sys.executable, "jobs/embed.py", str(config_file)]
    return subprocess.Popen(
        command, cwd=ROOT, env=environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
    )


def finish_job(config_file: Path) -> str:
    job = start_job(config_file)
    output, _ = job.communicate(timeout=200)
    assert job.returncode == 0, output
    return output


def process_tree(pid: int) -> list[int]:
    """``pid`` and all its descendants, from /proc."""
    children: dict[int, list[int]] = {}
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit():
            with contextlib.suppress(OSError):
                parent = int((entry / "stat").read_text().rsplit(")", 1)[1].split()[1])
                children.setdefault(parent, []).append(int(entry.name))
    tree = [pid]
    for process in tree:
        tree += children.get(process, [])
    return tree


def kill_tree(pid: int) -> None:
    for process in process_tree(pid):
        with contextlib.suppress(ProcessLookupError):
            os.kill(process, signal.SIGKILL)


def data_files(store: Store) -> dict[str, str]:
    keys = [info.key for info in store.list(schema.DATA)]
    return {key: hashlib.sha256(store.read(key)).hexdigest() for key in keys}


def prepare(folder: Path, root: str) -> Path:
    """The corpus under ``root`` and a config for it. Short documents: the splits should be many, not slow."""
    texts = sorted(docstrings(2500), key=len)[: 2 * DOCUMENTS : 2]
    for shard in range(4):
        part = documents(texts[shard::4], f"shard{shard}")
        put_parquet(f"{root}/corpus/{shard}.parquet", part, row_group_size=DOCUMENTS // SPLITS)
    config_file = folder / "job.yaml"
    config_file.write_text(json.dumps(settings(minilm_folder(), root, rows_per_split=DOCUMENTS // SPLITS)))
    return config_file


@pytest.fixture(scope="module")
def uninterrupted(tmp_path_factory: pytest.TempPathFactory) -> dict[str, np.ndarray]:
    """Vectors by id of the same corpus, embedded in one go."""
    folder = tmp_path_factory.mktemp("reference")
    finish_job(prepare(folder, str(folder)))
    return vectors(f"{folder}/table")


def vectors(table: str) -> dict[str, np.ndarray]:
    arrow = sfr.open_table(table).to_arrow(["id", "embedding"])
    ids = arrow["id"].to_pylist()
    assert len(ids) == len(set(ids)), "an id twice"
    return dict(zip(ids, vectors_of(arrow["embedding"].combine_chunks()), strict=True))


@pytest.mark.timeout(400)
def test_kill_the_whole_tree_and_run_again(
    place: str, tmp_path: Path, s3: S3Server, uninterrupted: dict[str, np.ndarray]
) -> None:
    config_file = prepare(tmp_path, place)
    store = open_store(f"{place}/table")
    job = start_job(config_file)
    while len(list(store.list(schema.DATA))) < KILL_AFTER:
        assert job.poll() is None, job.communicate()[0]
        time.sleep(0.05)
    kill_tree(job.pid)
    job.communicate()
    before = data_files(store)
    assert KILL_AFTER <= len(before) < SPLITS, "the kill came too late to show anything"
    assert not list(store.list(schema.SNAPSHOTS)), "a reader could see half a run"

    finish_job(config_file)
    after = data_files(store)
    assert {key: after[key] for key in before} == before, "a finished data file has changed"
    assert len(after) == SPLITS
    table = sfr.open_table(f"{place}/table")
    report = json.loads(store.read(schema.run_key(table.current().manifest.run_id, "report.json")))
    assert report["splits"] == SPLITS - len(before)
    got = vectors(f"{place}/table")
    assert got.keys() == uninterrupted.keys()
    assert max(np.abs(got[id_] - uninterrupted[id_]).max() for id_ in got) == 0

    assert "Up to date" in finish_job(config_file)
    assert data_files(store) == after
