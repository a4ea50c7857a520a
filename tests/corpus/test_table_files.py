"""Data files of Delta and Iceberg tables: their rows are those of the table, whatever is in the files."""

import dataclasses
import datetime
import io
import json
import os
from collections.abc import Sequence
from decimal import Decimal
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from sfr_batch.config.settings import CorpusSettings, StorageSettings
from sfr_batch.corpus.columns import resolve_columns
from sfr_batch.corpus.listing import list_shards
from sfr_batch.corpus.reader import read_unit
from sfr_batch.corpus.shards import Shard
from sfr_batch.corpus.splits import cut
from sfr_batch.corpus.survey import survey_shards
from sfr_batch.corpus.table_files import located
from sfr_batch.corpus.table_versions import pin
from sfr_batch.errors import CorpusError
from sfr_batch.pipeline.packing import unit_from_json, unit_to_json
from sfr_batch.storage import surroundings
from tests import foreign
from tests.s3server import S3Server
from tests.tables import parquet, put

Row = tuple[Any, ...]


def rows_of(path: str, kind: str, carry: Sequence[str] = (), **more: Any) -> list[Row]:
    """(id, text, carried values…) of all rows, read in splits of three rows, as a worker reads them."""
    settings = pin(CorpusSettings(path=path, format=kind, carry=list(carry), **more))
    return read(list(list_shards(settings)), settings)


def read(shards: Sequence[Shard], settings: CorpusSettings) -> list[Row]:
    surveys = survey_shards(shards, settings)
    columns = resolve_columns(surveys, settings)
    assert columns is not None
    found = []
    for survey in surveys:
        for unit in cut(survey, 3, 2**20, ("test",), frozenset()):
            for _, rows in read_unit(unit_from_json(unit_to_json(unit)), settings, columns):
                assert rows.rejects.num_rows == 0
                carried = [rows.carry.column(name).to_pylist() for name in settings.carried]
                found += list(zip(rows.ids.to_pylist(), rows.texts, *carried, strict=True))
    return sorted(found, key=str)


def shards_of(path: str, kind: str, **more: Any) -> list[Shard]:
    return list(list_shards(pin(CorpusSettings(path=path, format=kind, **more))))


def some(numbers: Sequence[int], **more: Any) -> pa.Table:
    return pa.table({"id": pa.array(numbers, pa.int32()), "text": [f"text {n}" for n in numbers], **more})


# --- Delta


def test_partitions_of_delta_have_the_types_of_the_table(tmp_path: Path) -> None:
    moment = datetime.datetime(2024, 2, 3, 4, 5, 6, 7)
    values = {
        "place": ["São Paulo/x", "a b%20c", "#?:=", None],
        "day": [datetime.date(2024, 1, 1), None] * 2,
        "at": [moment] * 4,
        "price": [Decimal("1.10")] * 4,
        "good": [True, False] * 2,
        "year": pa.array([2024, 2025, 2024, 2025], pa.int16()),
    }
    root = f"{tmp_path}/table"
    foreign.write_deltalake(root, some([1, 2, 3, 4], **values), partition_by=list(values))
    expected = [
        (n + 1, f"text {n + 1}", *(pa.array(column)[n].as_py() for column in values.values())) for n in range(4)
    ]
    assert rows_of(root, "delta", list(values)) == expected
    partitions = [dict(shard.partition) for shard in shards_of(root, "delta")]
    assert sorted(str(partition["year"]) for partition in partitions) == ["2024", "2024", "2025", "2025"]
    assert {partition["good"] for partition in partitions} == {"true", "false"}
    assert {partition["place"] for partition in partitions} == {*values["place"]}


def test_a_listing_without_a_version_is_of_the_newest_one(tmp_path: Path) -> None:
    root = f"{tmp_path}/table"
    for number in (1, 2):
        foreign.write_deltalake(root, some([number]), mode="append")
        assert len(shards_of(root, "delta")) == number


@pytest.mark.parametrize("inline", [True, False])
def test_deletion_vectors(tmp_path: Path, inline: bool) -> None:
    """Whatever splits the deleted rows are in, up to all of a split and of a file."""
    root = f"{tmp_path}/table"
    foreign.write_deltalake(root, some(range(10)))
    foreign.write_deltalake(root, some([10, 11]), mode="append")
    first, second = (foreign.actions_of(root, version) for version in (0, 1))
    before = {shard.uri: shard.version for shard in shards_of(root, "delta")}
    paths = [action["add"]["path"] for action in [*first, *second] if "add" in action]
    foreign.delete_by_vectors(root, {paths[0]: [0, 3, 4, 5, 7], paths[1]: [0, 1]}, inline=inline)
    assert [row[0] for row in rows_of(root, "delta")] == [1, 2, 6, 8, 9]
    after = {shard.uri: shard.version for shard in shards_of(root, "delta")}
    assert after.keys() == before.keys()
    assert all(after[uri] != before[uri] for uri in before)
    assert len(rows_of(root, "delta", version=1)) == 12


def test_columns_with_other_names_in_the_files(tmp_path: Path) -> None:
    """Column mapping: the files have the names that the columns were created with, in structs as well."""
    root = f"{tmp_path}/table"
    meta = pa.array([{"col-4": "de"}, None], pa.struct([("col-4", pa.string())]))
    foreign.write_deltalake(root, pa.table({"col-1": [1, 2], "col-2": ["a", "b"], "col-3": meta, "col-5": [7, 7]}))
    actions = foreign.actions_of(root, 0)
    for action in actions:
        if "protocol" in action:
            action["protocol"] = {"minReaderVersion": 2, "minWriterVersion": 5}
        if "metaData" in action:
            schema = json.loads(action["metaData"]["schemaString"])
            names = {"col-1": "id", "col-2": "text", "col-3": "meta", "col-4": "lang", "col-5": "dropped"}
            fields = [*schema["fields"], *schema["fields"][2]["type"]["fields"]]
            for number, field in enumerate(fields):
                field["metadata"] = {
                    "delta.columnMapping.physicalName": field["name"],
                    "delta.columnMapping.id": number + 1,
                }
                field["name"] = names[field["name"]]
            schema["fields"].pop()  # the last column was dropped; one with its name came later
            came_later = {"delta.columnMapping.physicalName": "col-6", "delta.columnMapping.id": 6}
            schema["fields"].append({"name": "dropped", "type": "long", "nullable": True, "metadata": came_later})
            mode = {"delta.columnMapping.mode": "name", "delta.columnMapping.maxColumnId": "6"}
            action["metaData"] |= {"schemaString": json.dumps(schema), "configuration": mode}
    foreign.commit(root, 0, actions)
    assert rows_of(root, "delta", ["meta.lang", "dropped"]) == [(1, "a", "de", None), (2, "b", None, None)]


def test_columns_and_types_that_came_later(tmp_path: Path) -> None:
    root = f"{tmp_path}/table"
    foreign.write_deltalake(root, some([1]))
    (shard,) = shards_of(root, "delta")
    later = some([2], lang=["de"])
    foreign.write_deltalake(root, later, mode="append", schema_mode="merge")
    assert rows_of(root, "delta", ["lang"]) == [(1, "text 1", None), (2, "text 2", "de")]
    assert shard.version in {its.version for its in shards_of(root, "delta")}


def test_times_as_spark_writes_them(tmp_path: Path) -> None:
    """INT96, which has no zone: the table says that they are of UTC."""
    root, moment = f"{tmp_path}/table", datetime.datetime(2024, 1, 2, 3, 4, 5, 6, datetime.UTC)
    rows = some([1], at=pa.array([moment], pa.timestamp("us", "UTC")))
    foreign.write_deltalake(root, rows)
    sink = io.BytesIO()
    pq.write_table(
        rows.set_column(2, "at", rows["at"].cast(pa.timestamp("us"))), sink, use_deprecated_int96_timestamps=True
    )
    actions = foreign.actions_of(root, 0)
    (add,) = (action["add"] for action in actions if "add" in action)
    put(root, add["path"], sink.getvalue())
    add["size"] = len(sink.getvalue())
    foreign.commit(root, 0, actions)
    assert rows_of(root, "delta", ["at"]) == [(1, "text 1", moment)]


def test_a_value_that_the_table_cannot_hold_is_a_reject(tmp_path: Path) -> None:
    root = f"{tmp_path}/table"
    foreign.write_deltalake(root, some([1, 2], price=pa.array([1, 2], pa.int32())))
    actions = foreign.actions_of(root, 0)
    (add,) = (action["add"] for action in actions if "add" in action)
    data = parquet(some([1, 2], price=pa.array([1, 2**40], pa.int64())))
    put(root, add["path"], data)
    add["size"] = len(data)
    foreign.commit(root, 0, actions)
    settings = pin(CorpusSettings(path=root, format="delta", carry=["price"]))
    (survey,) = survey_shards(list_shards(settings), settings)
    columns = resolve_columns([survey], settings)
    assert columns is not None
    (unit,) = cut(survey, 3, 2**20, ("test",), frozenset())
    ((_, rows),) = read_unit(unit, settings, columns)
    assert rows.ids.to_pylist() == [1]
    assert rows.rejects.column("reason").to_pylist() == ["bad_column"]


def test_a_file_that_was_replaced(tmp_path: Path) -> None:
    root = f"{tmp_path}/table"
    foreign.write_deltalake(root, some([1]))
    (shard,) = shards_of(root, "delta")
    put(*os.path.split(shard.uri), parquet(some([1, 2, 3])))
    with pytest.raises(CorpusError, match=r"has [\d,]+ bytes, but version 0 of the Delta table .* says [\d,]+"):
        rows_of(root, "delta")


# --- Iceberg


def test_columns_of_iceberg_are_their_numbers(tmp_path: Path) -> None:
    from pyiceberg.types import LongType, StringType

    root = f"{tmp_path}/table"
    table = foreign.FolderCatalog().create(root, some([1]).schema)
    table.append(some([1]))
    with table.update_schema() as change:
        change.rename_column("text", "body")
        change.update_column("id", LongType())
        change.add_column("lang", StringType())
    table.append(pa.table({"id": pa.array([2], pa.int64()), "body": ["two"], "lang": ["de"]}))
    expected = [(1, "text 1", None), (2, "two", "de")]
    assert rows_of(root, "iceberg", ["lang"], text="body") == expected
    before = {shard.uri: shard.version for shard in shards_of(root, "iceberg", text="body", carry=["lang"])}
    with table.update_schema() as change:
        change.delete_column("lang")
    with table.update_schema() as change:
        change.add_column("lang", StringType())
    assert rows_of(root, "iceberg", ["lang"], text="body") == [(1, "text 1", None), (2, "two", None)]
    after = {shard.uri: shard.version for shard in shards_of(root, "iceberg", text="body", carry=["lang"])}
    assert not set(before.values()) & set(after.values()), "the column is another one: the files are read again"
    first, *_ = table.metadata.snapshots
    assert rows_of(root, "iceberg", version=first.snapshot_id) == [(1, "text 1")]


def test_files_that_do_not_number_their_columns(tmp_path: Path) -> None:
    """A table that was imported says which names mean which column."""
    root = f"{tmp_path}/table"
    put(str(tmp_path), "x.parquet", parquet(some([1, 2])))
    table = foreign.FolderCatalog().create(root, some([1]).schema)
    table.add_files([f"{tmp_path}/x.parquet"])
    with table.update_schema() as change:
        change.rename_column("text", "body")
    assert rows_of(root, "iceberg", text="body") == [(1, "text 1"), (2, "text 2")]
    with table.transaction() as change:
        change.remove_properties("schema.name-mapping.default")
    with pytest.raises(CorpusError, match=r"x\.parquet, a data file of .*: the file does not number its columns, and"):
        rows_of(root, "iceberg", text="body")


def test_deletion_vectors_of_iceberg(tmp_path: Path) -> None:
    """Those of other data files in one Puffin file do not count."""
    table = foreign.FolderCatalog().create(f"{tmp_path}/table", some([1]).schema)
    table.append(some(range(6)))
    table.append(some(range(6, 12)))
    first, second = foreign.data_files(table)
    foreign.delete_by_puffin(table, {first: [0, 5], second: [2]})
    live = {row["id"] for file, gone in ((first, [0, 5]), (second, [2])) for row in _kept(file, gone)}
    assert {row[0] for row in rows_of(f"{tmp_path}/table", "iceberg")} == live
    assert len(live) == 9


def _kept(file: str, gone: Sequence[int]) -> list[dict[str, Any]]:
    with open(file, "rb") as stream:
        rows = pq.ParquetFile(stream, pre_buffer=False).read(use_threads=False).to_pylist()
    return [row for number, row in enumerate(rows) if number not in gone]


def test_partitions_of_iceberg(tmp_path: Path) -> None:
    """A file that lacks the column of a partition, as Hive's files do, has its value in all rows."""
    from pyiceberg.partitioning import PartitionField, PartitionSpec
    from pyiceberg.transforms import IdentityTransform

    root, day = f"{tmp_path}/table", datetime.date(2024, 5, 6)
    rows = some([1, 2], day=[day, None])
    schema = foreign.FolderCatalog().create(f"{tmp_path}/other", rows.schema).schema()
    spec = PartitionSpec(PartitionField(3, 1000, IdentityTransform(), "day"))
    foreign.FolderCatalog().create(root, schema, partition_spec=spec).append(rows)
    expected = [(1, "text 1", day), (2, "text 2", None)]
    assert rows_of(root, "iceberg", ["day"]) == expected
    shards = shards_of(root, "iceberg", carry=["day"])
    assert sorted(str(dict(shard.partition)["day"]) for shard in shards) == ["2024-05-06", "None"]
    without = []
    for shard in shards:
        with open(shard.uri, "rb") as file:
            data = parquet(pq.ParquetFile(file, pre_buffer=False).read(use_threads=False).drop_columns("day"))
        put(*os.path.split(shard.uri), data)
        without.append(dataclasses.replace(shard, size=len(data)))
    assert read(without, CorpusSettings(path=root, format="iceberg", carry=["day"])) == expected


# --- S3


@pytest.mark.parametrize(
    ("path", "beside", "uri"),
    [
        ("s3a://b/t/x", "s3://b/t", "s3://b/t/x"),
        ("file:/t/x", "/t", "/t/x"),
        ("file:///t/x", "/t", "/t/x"),
        ("/t/a:b", "/t", "/t/a:b"),
        ("file:///etc/passwd", "s3://b/t", None),
        ("/etc/passwd", "s3://b/t", None),
        ("s3://b/x", "/t", None),
        ("/t/../x", "/t", None),
        ("hdfs://n/x", "/t", None),
    ],
)
def test_a_table_names_no_files_elsewhere(path: str, beside: str, uri: str | None) -> None:
    if uri is not None:
        assert located(path, "The table", beside) == uri
        return
    with pytest.raises(CorpusError, match=r"The table (names the file|has files on hdfs:).*set corpus\.path to that\."):
        located(path, "The table", beside)


def test_tables_on_s3(s3: S3Server, s3_prefix: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Read with the credentials of corpus.storage; recognised with a few requests."""
    monkeypatch.setenv("CORPUS_KEY", s3.env["AWS_ACCESS_KEY_ID"])
    monkeypatch.setenv("CORPUS_SECRET", s3.env["AWS_SECRET_ACCESS_KEY"])
    endpoint = s3.env["AWS_ENDPOINT_URL"]
    keys = {"access_key_id": "${CORPUS_KEY}", "secret_access_key": "${CORPUS_SECRET}"}
    storage = StorageSettings(endpoint_url=endpoint, region="us-east-1", **keys)
    options = {"AWS_ENDPOINT_URL": endpoint, "AWS_ALLOW_HTTP": "true", "AWS_REGION": "us-east-1"}
    delta, iceberg = f"{s3_prefix}/delta", f"{s3_prefix}/iceberg"
    foreign.write_deltalake(delta, some([1, 2], lang=["de", "en"]), partition_by=["lang"], storage_options=options)
    properties = {"s3.endpoint": endpoint, "s3.region": "us-east-1", "s3.access-key-id": s3.env["AWS_ACCESS_KEY_ID"]}
    catalog = foreign.FolderCatalog(**properties, **{"s3.secret-access-key": s3.env["AWS_SECRET_ACCESS_KEY"]})
    table = catalog.create(iceberg, some([1]).schema)
    table.append(some([1, 2, 3]))
    foreign.delete_rows(table, {foreign.data_files(table)[0]: [1]})
    assert rows_of(delta, "delta", ["lang"]) == [(1, "text 1", "de"), (2, "text 2", "en")]
    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY", "AWS_ENDPOINT_URL"):
        monkeypatch.delenv(name)
    assert rows_of(delta, "delta", ["lang"], storage=storage) == [(1, "text 1", "de"), (2, "text 2", "en")]
    assert rows_of(iceberg, "iceberg", storage=storage) == [(1, "text 1"), (3, "text 3")]

    asked = []
    names_in = surroundings.names_in
    monkeypatch.setattr("sfr_batch.corpus.foreign_tables.names_in", lambda *a: (asked.append(a), names_in(*a))[1])
    for path, root, most in (
        (delta, delta, 3),
        (f"{delta}/lang=de", delta, 4),
        (f"{delta}/lang=*/part-*", delta, 4),
        (f"{iceberg}/data/", iceberg, 5),
        (f"{iceberg}/d*/*.parquet", iceberg, 5),
        (s3_prefix, iceberg, 2),
        (f"{s3_prefix}/*/*/*.parquet", iceberg, 3),
    ):
        asked.clear()
        with pytest.raises(CorpusError, match=f"Set corpus.path to ({root}|{delta}) and corpus.format"):
            list_shards(CorpusSettings(path=path, storage=storage))
        assert len(asked) <= most, asked
