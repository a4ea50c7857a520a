"""Functions as Ray tasks: publishing on a real Ray."""

import dataclasses
import shutil
from pathlib import Path

import pytest

from sfr_batch.errors import TableError
from sfr_batch.format import names
from sfr_batch.format.records import DuplicateRule
from sfr_batch.pipeline.tasks import OnRay
from sfr_batch.storage import executor
from sfr_batch.storage.stores import open_store
from sfr_batch.table.commit import documents, publish
from sfr_batch.table.table import Table
from tests.table.commit.test_publish_elsewhere import write_state

pytestmark = [pytest.mark.ray, pytest.mark.usefixtures("ray_session")]


def written(root: Path) -> dict[str, bytes]:
    return {str(path.relative_to(root)): path.read_bytes() for path in root.rglob("*") if path.is_file()}


def test_publishing_on_ray_writes_the_same_bytes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(publish, "stamp", lambda base: ("2026-01-01T00:00:00+00:00", None))
    monkeypatch.setattr(publish, "who", lambda: "somebody@somewhere")
    monkeypatch.setattr(executor, "ROWS_A_PARTITION", 6)
    monkeypatch.setattr(executor, "ROWS_A_PART", 1)
    monkeypatch.setattr(documents, "ROWS_A_TASK", 4)
    here, there = tmp_path / "here", tmp_path / "there"
    owned = [[(id_, 1 + n % 2) for n, id_ in enumerate(its)] for its in ("abcdef", "abg", "hijk")]
    table, draft = write_state(open_store(str(here)), owned, [[0, 7, 2], [12]], [3], chunks=True)
    draft = dataclasses.replace(draft, duplicate_rule=DuplicateRule(order_by="n"))
    shutil.copytree(here, there)
    publish.publish(table, None, draft)
    snapshot = publish.publish(Table(open_store(str(there)), table.card), None, draft, OnRay("publishing"))
    assert written(there) == written(here)
    assert snapshot.manifest.duplicates
    assert snapshot.manifest.dead_rows

    draft = dataclasses.replace(draft, run_id="another")
    (there / names.index_key(1, "run", 0)).write_bytes(b"no Parquet")
    with pytest.raises(TableError, match="is damaged") as error:
        publish.publish(Table(open_store(str(there)), table.card), snapshot, draft, OnRay("publishing"))
    assert names.index_key(1, "run", 0) in str(error.value)
