"""What a real run says on storage of where it is, and that nothing of it is left when it has ended in order."""

import contextlib
from pathlib import Path

import pytest

import sfr_batch as sfr
from sfr_batch.errors import RunFailed, StorageError
from sfr_batch.format import names
from sfr_batch.format.run_progress import RunProgress
from sfr_batch.pipeline import progress_record, runner
from sfr_batch.storage.local import LocalStore
from tests.pipeline.test_accounts import breaks_at, prepare
from tests.pipeline.test_accounts import tiny as tiny


def spy(monkeypatch: pytest.MonkeyPatch, fails: bool = False) -> list[RunProgress]:
    """What is written, every hundredth of a second. fails: after which the store refuses it."""
    monkeypatch.setattr(progress_record, "EVERY_S", 0.01)
    said: list[RunProgress] = []
    create = LocalStore.create

    def watched(store: LocalStore, key: str, data: bytes) -> bool:
        if names.number_of_progress_key(key):
            progress = RunProgress.from_json(data)
            assert progress is not None
            said.append(progress)
            if fails:
                raise StorageError("full")
        return create(store, key, data)

    monkeypatch.setattr(LocalStore, "create", watched)
    return said


def left(tmp_path: Path) -> list[str]:
    return [path.name for path in tmp_path.glob("table/_sfr/runs/*/progress/*")]


def test_a_run_says_where_it_is(tiny: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    said = spy(monkeypatch)
    job = prepare(tmp_path, tiny)
    with monkeypatch.context() as broken, contextlib.suppress(RunFailed):
        breaks_at(4, broken)
        sfr.embed(job, {"run.max_failed_splits": 0})
    assert left(tmp_path) == []
    failed = len(said)
    assert failed
    sfr.embed(job)
    assert left(tmp_path) == []
    of_second = said[failed:]
    assert {progress.splits for progress in of_second} == {5}
    assert {progress.rows for progress in of_second} == {25}
    assert of_second[-1].earlier == 15
    assert [progress.moved for progress in said] == list(dict.fromkeys(progress.moved for progress in said))
    assert "loading the model" in {progress.stage for progress in said}


def test_it_ends_no_run(tiny: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    said = spy(monkeypatch, fails=True)
    assert sfr.embed(prepare(tmp_path, tiny)).published
    assert said
    assert runner.ProgressRecord is progress_record.ProgressRecord
