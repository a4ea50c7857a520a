"""`kill -9` of a whole job in the middle, its Ray with it, then the same command: every row once, nothing finished done
again, and the real model's vectors equal bit by bit. Parts of a job are killed in `tests/chaos`."""

import json
from pathlib import Path

import numpy as np
import pytest

import sfr_batch as sfr
from sfr_batch.format import names
from sfr_batch.storage.stores import open_store
from sfr_batch.table.search import vectors_of
from tests.job_processes import SPLITS, data_files, finish_job, kill_tree, prepare, start_job, wait_for_commits

KILL_AFTER = 4


@pytest.fixture(scope="module")
def uninterrupted(tmp_path_factory: pytest.TempPathFactory) -> dict[str, np.ndarray]:
    """Vectors by id of the same corpus, embedded in one go and without Ray."""
    folder = tmp_path_factory.mktemp("reference")
    finish_job(prepare(folder, str(folder)), "none")
    return vectors(f"{folder}/table")


def vectors(table: str) -> dict[str, np.ndarray]:
    arrow = sfr.open_table(table).to_arrow(["id", "embedding"])
    ids = arrow["id"].to_pylist()
    assert len(ids) == len(set(ids)), "an id twice"
    return dict(zip(ids, vectors_of(arrow["embedding"].combine_chunks()), strict=True))


@pytest.mark.slow  # tests/chaos kills the like in every run, with a cheaper model
@pytest.mark.timeout(400)
def test_kill_the_whole_tree_and_run_again(tmp_path: Path, uninterrupted: dict[str, np.ndarray]) -> None:
    place, ray_address = str(tmp_path / "place"), "local"
    config_file = prepare(tmp_path, place)
    store = open_store(f"{place}/table")
    job = start_job(config_file, ray_address)
    wait_for_commits(job, store, KILL_AFTER)
    kill_tree(job.pid)
    job.communicate()
    before = data_files(store)
    assert KILL_AFTER <= len(before) < SPLITS, "the kill came too late to show anything"
    assert not list(store.list(names.SNAPSHOTS)), "a reader could see half a run"

    # With as many actors as a small machine has cores: something has to be left for reading.
    finish_job(config_file, ray_address, "run.actors.min=2")
    after = data_files(store)
    assert {key: after[key] for key in before} == before, "a finished data file has changed"
    assert len(after) == SPLITS
    table = sfr.open_table(f"{place}/table")
    report = json.loads(store.read(names.run_key(table.current().manifest.run_id, "report.json")))
    assert report["splits"] == SPLITS - len(before)
    got = vectors(f"{place}/table")
    assert got.keys() == uninterrupted.keys()
    assert max(np.abs(got[id_] - uninterrupted[id_]).max() for id_ in got) == 0

    assert "Up to date" in finish_job(config_file, ray_address)
    assert data_files(store) == after
