"""Exports in tasks of an executor: the same files as in one process, whatever the tasks run on and in which order."""

from pathlib import Path
from typing import Any

import pytest

from sfr_batch.errors import ConfigError
from sfr_batch.storage.executor import InProcess
from sfr_batch.storage.stores import open_store
from sfr_batch.table import export
from sfr_batch.table.table import Table
from tests.memory_store import MemoryStore
from tests.states import Row, state_of
from tests.table.commit.test_publish_elsewhere import Shuffled
from tests.table.test_export import DEAD, FILES, read


@pytest.fixture
def table(monkeypatch: pytest.MonkeyPatch) -> Table:
    """Each of its three data files is a part."""
    monkeypatch.setattr(export, "_PART_BYTES", 1)
    return state_of(MemoryStore(), FILES, DEAD)


def written(root: Path) -> dict[str, bytes]:
    return {str(path.relative_to(root)): path.read_bytes() for path in root.rglob("*") if path.is_file()}


@pytest.mark.parametrize(
    ("options", "files"),
    [
        ({}, 3),
        ({"where": "n_tokens >= 0 and id < 'r045'", "columns": ["embedding"]}, 2),
        ({"where": "id = 'nothing'"}, 0),
        ({"rows_per_file": 7}, 6 + 5 + 3),
        ({"partition_by": "package", "empty_as_null": True, "engine": "spark"}, 3 * 8),
    ],
)
def test_the_files_are_the_same(table: Table, tmp_path: Path, options: dict[str, Any], files: int) -> None:
    here = table.export(str(tmp_path / "here"), **options)
    elsewhere = Shuffled(table.store, seed=1)
    there = table.export(str(tmp_path / "there"), **options, executor=elsewhere)
    assert written(tmp_path / "there") == written(tmp_path / "here")
    assert (there.rows, there.files, there.bytes, there.partitions) == (
        (here.rows, here.files, here.bytes, here.partitions)
    )
    assert here.files == files
    checks = 3 if options.get("partition_by") else 0
    assert (elsewhere.ran["_write"], elsewhere.ran["_check_values"]) == (3, checks)


def test_parts_are_in_order_and_all_there(table: Table, tmp_path: Path) -> None:
    table.export(str(tmp_path / "out"), rows_per_file=30)
    found = sorted(path.name for path in (tmp_path / "out").glob("part-*"))
    assert found == [f"part-{name}.parquet" for name in ("00000-00000", "00000-00001", "00001-00000", "00002-00000")]
    assert read(str(tmp_path / "out")).cast(table.schema).equals(table.to_arrow())
    with pytest.raises(ConfigError, match=r"not empty \(5 objects, a complete export\)"):
        table.export(str(tmp_path / "out"))


def test_a_repeated_task_finds_its_own_files(table: Table, tmp_path: Path) -> None:
    class Twice(InProcess):
        def submit(self, function: Any, *args: Any, returns: int = 1, gpus: float = 0) -> list[Any]:
            super().submit(function, *args)
            return super().submit(function, *args)

    assert table.export(str(tmp_path / "out"), executor=Twice()).rows == 83
    assert read(str(tmp_path / "out")).cast(table.schema).equals(table.to_arrow())


def test_number_of_parts_is_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    scan = state_of(MemoryStore(), {f"f{n}": [Row(f"r{n}", "x")] for n in range(9)}).scan()
    monkeypatch.setattr(export, "_PART_BYTES", 1)
    assert len(export._parts(scan)) == 9
    monkeypatch.setattr(export, "_PARTS", 4)
    parts = export._parts(scan)
    assert len(parts) <= 4
    assert [file.split_id for part in parts for file in part.files] == [file.split_id for file in scan.files]


def test_values_are_checked_in_all_parts_before_anything_is_written(table: Table, tmp_path: Path) -> None:
    told = set()
    for executor in (None, Shuffled(table.store, seed=2)):
        with pytest.raises(ConfigError, match="has empty texts") as error:
            table.export(str(tmp_path / "out"), partition_by="package", executor=executor)
        told.add(str(error.value))
    assert len(told) == 1
    assert not (tmp_path / "out").exists()


def test_disks_of_other_nodes_are_not_written_to(tmp_path: Path) -> None:
    class Elsewhere(InProcess):
        sees_disk = False

    table = state_of(open_store(str(tmp_path / "table")), FILES, DEAD)
    with pytest.raises(ConfigError, match=r"/table is a local path, but the cluster has several nodes.*--shared-path"):
        table.export(str(tmp_path / "out"), executor=Elsewhere())
    assert not (tmp_path / "out").exists()
