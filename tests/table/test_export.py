"""Exports: every live row once, whatever it is divided into; nothing overwritten; incomplete ones recognisable."""

import json
from pathlib import Path
from typing import Any

import duckdb
import polars
import pyarrow as pa
import pyarrow.dataset as ds
import pyarrow.parquet as pq
import pytest

from sfr_batch.errors import ConfigError, StorageError, TableError
from sfr_batch.format import names
from sfr_batch.storage.local import LocalStore
from sfr_batch.storage.store import Content
from sfr_batch.storage.stores import open_store
from sfr_batch.table import parquet_folder
from sfr_batch.table.parquet_folder import SUCCESS, ParquetFolder
from sfr_batch.table.table import Table
from tests.memory_store import MemoryStore
from tests.states import Row, chunked_card, state_of

PACKAGES = ["numpy", "a/b", "..", "x=y %", "é", None, "", "__HIVE_DEFAULT_PARTITION__x", "'; --"]


def rows(first: int, count: int) -> list[Row]:
    return [Row(f"r{n:03}", str(n), package=PACKAGES[n % len(PACKAGES)]) for n in range(first, first + count)]


FILES = {"a": rows(0, 40), "b": rows(40, 30), "c": rows(70, 20)}
DEAD = {"a": [0, 7], "c": list(range(5))}


@pytest.fixture
def table() -> Table:
    return state_of(MemoryStore(), FILES, DEAD)


def files_of(root: str) -> list[str]:
    return sorted(info.key for info in open_store(root).list("") if info.key.endswith(".parquet"))


def read(root: str) -> pa.Table:
    """All files of an unpartitioned export, in order, one by one: what a plain Parquet reader sees."""
    store = open_store(root)
    return pa.concat_tables([pq.read_table(pa.BufferReader(store.read(key))) for key in files_of(root)])


def test_export_is_the_live_rows(place: str) -> None:
    """From either store to either store."""
    table = state_of(open_store(f"{place}/table"), FILES, DEAD)
    done = table.export(f"{place}/out")
    expected = table.to_arrow()
    assert read(f"{place}/out").cast(table.schema).equals(expected)
    assert (done.rows, done.files, done.partitions) == (len(expected), 1, None)
    sizes = {info.key: info.size for info in open_store(f"{place}/out").list("")}
    assert set(sizes) == {"part-00000.parquet", SUCCESS}
    assert done.bytes == sizes["part-00000.parquet"]
    assert str(done) == f"Exported 83 rows to {place}/out: 1 file, {done.bytes:,} bytes"
    about = json.loads(open_store(f"{place}/out").read(SUCCESS))
    assert (about["table"], about["snapshot"], about["rows"], about["where"]) == (f"{place}/table", 1, 83, None)


def test_local_export_leaves_nothing_else(table: Table, tmp_path: Path) -> None:
    table.export(str(tmp_path / "out"))
    assert sorted(path.name for path in tmp_path.rglob("*")) == [SUCCESS, "out", "part-00000.parquet"]


def test_columns_where_and_rows_per_file(table: Table, tmp_path: Path) -> None:
    done = table.export(str(tmp_path / "out"), columns=["embedding"], where="id < 'r050'", rows_per_file=7)
    expected = table.to_arrow(["id", "embedding"], where="id < 'r050'")
    assert read(done.target).cast(expected.schema).equals(expected)
    counts = [pq.read_metadata(tmp_path / "out" / key).num_rows for key in files_of(done.target)]
    assert counts == [7, 7, 7, 7, 7, 7, 6], "and the id is there though nobody asked for it"
    assert json.loads((tmp_path / "out" / SUCCESS).read_text())["where"] == "id < 'r050'"


def test_chunks_keep_their_key(tmp_path: Path) -> None:
    chunks = [Row("a", "x", chunk=0), Row("a", "x", chunk=1)]
    table = state_of(MemoryStore(), {"s": chunks}, card=chunked_card())
    table.export(str(tmp_path / "out"), columns=["n_tokens"])
    assert read(str(tmp_path / "out")).column_names == ["id", "chunk", "n_tokens"]


def test_an_old_snapshot_is_exported_as_it_was(table: Table, tmp_path: Path) -> None:
    from tests.states import publish_state

    snapshot = table.current()
    publish_state(table, snapshot.read_receipts()[:1], {})
    assert snapshot.export(str(tmp_path / "old")).rows == 83
    assert table.export(str(tmp_path / "new")).rows == 40


def without(rows: pa.Table, column: str) -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = rows.drop_columns([column]).to_pylist()
    return found


@pytest.mark.parametrize("rows_per_file", [None, 3])
def test_partitions(place: str, rows_per_file: int | None) -> None:
    table = state_of(open_store(f"{place}/table"), FILES, DEAD)
    done = table.export(f"{place}/out", partition_by="package", rows_per_file=rows_per_file, empty_as_null=True)
    assert done.partitions == 8, "nulls and empty texts are one, as Hive knows only one nothing"
    keys = files_of(done.target)
    assert done.files == len(keys)
    assert {key.split("/")[0] for key in keys} == {
        *("package=numpy", "package=a%2Fb", "package=..", "package=x%3Dy %25", "package=é"),
        *("package=__HIVE_DEFAULT_PARTITION__", "package=__HIVE_DEFAULT_PARTITION__x", "package=%27; --"),
    }
    store = open_store(done.target)
    for key in keys:
        content = pq.read_table(pa.BufferReader(store.read(key)))
        assert "package" not in content.column_names
        assert rows_per_file is None or content.num_rows <= rows_per_file
    if not place.startswith("s3://"):
        found = ds.dataset(done.target, partitioning="hive").to_table().sort_by("id")
        expected = table.to_arrow()
        assert without(found, "package") == without(expected, "package")
        packages = [name or None for name in expected.column("package").to_pylist()]
        assert found.column("package").to_pylist() == packages


def test_others_read_partitions(table: Table, tmp_path: Path) -> None:
    target = str(tmp_path / "out")
    table.export(target, partition_by="package", columns=["n_tokens"], empty_as_null=True)
    expected = sorted((row["id"], row["package"] or None) for row in table.to_arrow(["id", "package"]).to_pylist())
    found = duckdb.sql(f"SELECT id, package FROM read_parquet('{target}/**/*.parquet', hive_partitioning = true)")
    assert sorted(found.fetchall()) == expected
    frame = polars.read_parquet(f"{target}/**/*.parquet", hive_partitioning=True)
    assert sorted(zip(frame["id"], frame["package"], strict=True)) == expected


@pytest.mark.parametrize(
    ("kind", "values", "folders"),
    [
        (pa.int64(), [3, -1, 3], ["v=-1", "v=3"]),
        (pa.bool_(), [True, False, None], ["v=__HIVE_DEFAULT_PARTITION__", "v=false", "v=true"]),
        (pa.date32(), [0, 1, 1], ["v=1970-01-01", "v=1970-01-02"]),
    ],
)
def test_types_of_partitions(tmp_path: Path, kind: pa.DataType, values: list[Any], folders: list[str]) -> None:
    from tests.tables import card_of, commit_rows, create_or_open, draft_of, publish

    store = MemoryStore()
    table = create_or_open(store, card_of(names.table_schema(pa.string(), 3, "float32", {"v": kind})))
    carried = pa.array(values, pa.int32() if pa.types.is_date(kind) else kind).cast(kind).to_pylist()
    publish(table, None, draft_of([commit_rows(store, table.card, "a", ["x", "y", "z"], carry={"v": carried})]))
    table.export(str(tmp_path / "out"), partition_by="v")
    assert sorted(path.name for path in (tmp_path / "out").glob("v=*")) == folders


def test_many_partitions_in_little_memory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What waits is bounded whatever the number of partitions; the large ones are written first, all rows once."""
    packages = [["big", f"p{n % 50}"][n % 2] for n in range(2000)]
    made = [Row(f"r{n:04}", str(n), package=package) for n, package in enumerate(packages)]
    table = state_of(MemoryStore(), {f"f{n}": made[n : n + 100] for n in range(0, 2000, 100)})
    size = table.to_arrow().nbytes
    monkeypatch.setattr(parquet_folder, "_WAITING_BYTES", size // 5)
    waiting = []
    add = ParquetFolder.add

    def watched(self: ParquetFolder, rows: pa.Table, folder: str = "", by: str | None = None) -> None:
        add(self, rows, folder, by)
        waiting.append(sum(part.nbytes for part in self._waiting))

    monkeypatch.setattr(ParquetFolder, "add", watched)
    done = table.export(str(tmp_path / "out"), partition_by="package")
    assert size // 20 < max(waiting) <= size // 5
    assert (done.rows, done.partitions) == (2000, 26)
    files = {name: len(list((tmp_path / "out" / f"package={name}").iterdir())) for name in ("big", "p1")}
    assert files["big"] > files["p1"]
    ids = ds.dataset(done.target, partitioning="hive").to_table().sort_by("id").to_pydict()
    assert ids["id"] == [row.id for row in made]
    assert ids["package"] == packages


def test_rows_that_wait_are_copies(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A slice of a few rows would keep all in memory that were read with them."""
    monkeypatch.setattr(parquet_folder, "_WAITING_BYTES", 159_000)
    folder = ParquetFolder(str(tmp_path / "out"), rows_per_file=11_000)
    folder.add(pa.table({"x": list(range(19_999))}))
    (kept,) = folder._waiting
    assert kept.num_rows == 8_999
    assert kept.get_total_buffer_size() < 100_000, "of 160,000"


# --- what it refuses


def test_a_target_that_is_not_empty_is_left_alone(table: Table, place: str) -> None:
    table.export(f"{place}/out")
    before = {info.key: info.modified for info in open_store(place).list("out")}
    with pytest.raises(ConfigError, match=r"/out is not empty \(2 objects, a complete export\)\. Nothing is ever"):
        table.export(f"{place}/out")
    open_store(place).create("half/part-00000.parquet", b"x")
    with pytest.raises(
        ConfigError, match=r"/half is not empty \(1 object, no _SUCCESS, so perhaps an incomplete export"
    ):
        table.export(f"{place}/half")
    assert {info.key: info.modified for info in open_store(place).list("out")} == before


def test_an_empty_folder_will_do(table: Table, tmp_path: Path) -> None:
    (tmp_path / "out").mkdir()
    assert table.export(str(tmp_path / "out")).rows == 83


def test_wrong_requests_are_explained_before_anything_is_written(tmp_path: Path) -> None:
    table = state_of(open_store(str(tmp_path / "table")), FILES, DEAD)
    target = str(tmp_path / "out")
    for options, error, text in [
        ({"partition_by": "pakage"}, TableError, "/table has no column 'pakage'. Columns: id, "),
        (
            {"partition_by": "id"},
            ConfigError,
            r"Cannot partition by id \(string\)\. .* The id cannot be chosen, because the files would lack it",
        ),
        ({"partition_by": "embedding"}, ConfigError, r"Cannot partition by embedding \(fixed_size_list.*\)\."),
        (
            {"partition_by": "content_hash"},
            ConfigError,
            r"Cannot partition by content_hash \(fixed_size_binary\[16\]\)\.",
        ),
        ({"columns": ["titel"]}, TableError, "has no column 'titel'"),
        ({"where": "n_tokens > 'a'"}, ConfigError, "Invalid filter at character 12"),
        ({"rows_per_file": 0}, ConfigError, "rows_per_file must be at least 1, not 0"),
    ]:
        with pytest.raises(error, match=text):
            table.export(target, **options)  # type: ignore[arg-type]
    for inside in ("table", "table/data/x"):
        with pytest.raises(ConfigError, match=r"is inside the table .*\. Choose a folder beside it"):
            table.export(str(tmp_path / inside))
    assert not (tmp_path / "out").exists()
    assert table.export(str(tmp_path / "table2")).rows == 83, "a neighbour is outside"


def test_export_that_breaks_off_has_no_success(table: Table, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(parquet_folder, "_WAITING_BYTES", 1)
    create = LocalStore.create

    def full(self: LocalStore, key: str, data: Content) -> bool:
        if key == "part-00002.parquet":
            raise StorageError("no space left")
        return create(self, key, data)

    monkeypatch.setattr(LocalStore, "create", full)
    with pytest.raises(StorageError, match="no space left"):
        table.export(str(tmp_path / "out"))
    assert files_of(str(tmp_path / "out")) == ["part-00000.parquet", "part-00001.parquet"]
    assert not (tmp_path / "out" / SUCCESS).exists()


def test_files_are_not_encoded_into_memory(table: Table, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The store is given a function, which a local one has write to the disk."""
    create, functions = LocalStore.create, list[str]()

    def seen(self: LocalStore, key: str, data: Content) -> bool:
        functions.extend([key] if callable(data) else [])
        return create(self, key, data)

    monkeypatch.setattr(LocalStore, "create", seen)
    done = table.export(str(tmp_path / "out"))
    assert functions == ["part-00000.parquet"]
    assert done.bytes == (tmp_path / "out" / "part-00000.parquet").stat().st_size


def test_two_exports_to_one_place_do_not_mix(table: Table, tmp_path: Path) -> None:
    """Both saw it empty; the second finds the first's file."""
    target = str(tmp_path / "out")
    first, second = ParquetFolder(target), ParquetFolder(target)
    first.add(pa.table({"x": [1]}))
    second.add(pa.table({"x": [2]}))
    first.flush()
    with pytest.raises(StorageError, match=r"part-00000\.parquet exists already: another process is writing to"):
        second.close({})
    first.close({})
    assert read(target).to_pydict() == {"x": [1]}


def test_lost_reply_is_no_other_writer(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    create = LocalStore.create
    monkeypatch.setattr(LocalStore, "create", lambda self, key, data: create(self, key, data) and False)
    folder = ParquetFolder(str(tmp_path / "out"))
    folder.add(pa.table({"x": [1]}))
    folder.close({})
    assert (folder.written.rows, folder.written.files) == (1, 1)


def test_empty_table_exports_nothing_and_says_so(tmp_path: Path) -> None:
    done = state_of(MemoryStore(), {}).export(str(tmp_path / "out"), partition_by="package")
    assert (done.rows, done.files, done.partitions) == (0, 0, 0)
    assert json.loads((tmp_path / "out" / SUCCESS).read_text())["rows"] == 0
