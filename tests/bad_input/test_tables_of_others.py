"""Bad input, as a table: folders of other engines' tables, and tables that are read as a corpus."""

import shutil
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest

from tests.bad_input.bench import GOOD, IDS, Bench, Row, between_splits, both, check_row

foreign = pytest.importorskip("tests.foreign")

LINES = GOOD["good.jsonl"]
ONLY = (
    ". Its folder also has rows that were replaced or deleted since: which files count, only the table's own log says. "
)
DELTA = "Set corpus.path to {root}/corpus and corpus.format to delta (pip install 'sfr-batch[delta]')."
ICEBERG = "Set corpus.path to {root}/corpus and corpus.format to iceberg (pip install 'sfr-batch[iceberg]')."
NEW = "Export its rows to a new folder, and set corpus.path to that: "
LOG = {"_delta_log/00000000000000000000.json": b"{}"}
METADATA = {"metadata/00000-6a0b2f8c-3c1d-4f43-9c35-5f4d1f0b4a55.metadata.json": b"{}"}
FILE = "ducklake-0190a1b2-c3d4-7e5f-8a9b-0c1d2e3f4a5b"
AS_DELTA = ("corpus.format=delta",)
AS_ICEBERG = ("corpus.format=iceberg",)


def delta(*more: Callable[[Bench], Any], **columns: Any) -> Callable[[Bench], None]:
    """A Delta table with the good rows as the corpus."""

    def prepare(bench: Bench) -> None:
        rows = pa.table({"id": IDS, "text": ["One.", "Two."], **columns})
        foreign.write_deltalake(str(bench.root / "corpus"), rows)
        for step in more:
            step(bench)

    return prepare


def committed(version: int, *actions: dict[str, Any]) -> Callable[[Bench], None]:
    return lambda bench: foreign.commit(str(bench.root / "corpus"), version, actions)


def feature(name: str) -> Callable[[Bench], None]:
    features = {"readerFeatures": [name], "writerFeatures": [name]}
    return committed(1, {"protocol": {"minReaderVersion": 3, "minWriterVersion": 7, **features}})


def replaced_and_cleaned(bench: Bench) -> None:
    """What an overwrite and a VACUUM do: the same rows in another file."""
    old = [*Path(bench.root / "corpus").glob("*.parquet")]
    rows = pa.table({"id": IDS, "text": ["One.", "Two."]})
    foreign.write_deltalake(str(bench.root / "corpus"), rows, mode="overwrite")
    for file in old:
        file.unlink()


def iceberg(*more: Callable[[Any], Any]) -> Callable[[Bench], None]:
    def prepare(bench: Bench) -> None:
        rows = pa.table({"id": IDS, "text": ["One.", "Two."]})
        table = foreign.FolderCatalog().create(str(bench.root / "corpus"), rows.schema)
        table.append(rows)
        for step in more:
            step(table)

    return prepare


def equality_deletes(table: Any) -> None:
    foreign.delete_rows(table, {"one": [0]}, foreign.DataFileContent.EQUALITY_DELETES)


def twin(table: Any) -> None:
    """What a writer leaves that lost the race for a commit."""
    newest = Path(table.metadata_location)
    shutil.copy(newest, newest.with_name(newest.name[:6] + "11111111-2222-3333-4444-555555555555.metadata.json"))


def deleted_without_file(table: Any) -> None:
    foreign.delete_rows(table, {foreign.data_files(table)[0]: [0]})
    (file,) = Path(table.location()).glob("data/*-deletes.parquet")
    file.unlink()


def without(module: str) -> Callable[[Bench], None]:
    return lambda bench: bench.monkeypatch.setitem(sys.modules, module, None)


# fmt: off
ROWS = [
    # Recognised
    Row("a Delta table", "corpus.path {root}/corpus is a Delta table" + ONLY + DELTA, files={**GOOD, **LOG}),
    Row("a format does not make it a folder of files", "corpus.path {root}/corpus is a Delta table" + ONLY + DELTA,
        files={**GOOD, **LOG}, overrides=("corpus.format=jsonl",)),
    Row("a pattern in one", "corpus.path {root}/corpus/g*.jsonl is a Delta table" + ONLY + DELTA,
        files={**GOOD, **LOG}, overrides=("corpus.path={root}/corpus/g*.jsonl",)),
    Row("a pattern over several",
        "corpus.path {root}/corpus/*/good.jsonl holds a Delta table, {root}/corpus/a and 1 other table" + ONLY
        + DELTA.replace("/corpus ", "/corpus/a "),
        files={f"{name}/{file}": data for name in "ab" for file, data in {**GOOD, **LOG}.items()},
        overrides=("corpus.path={root}/corpus/*/good.jsonl",)),
    Row("a partition of one",
        "corpus.path {root}/corpus/lang=en is inside a Delta table, {root}/corpus" + ONLY + DELTA,
        files={"lang=en/good.jsonl": LINES, **LOG}, overrides=("corpus.path={root}/corpus/lang=en",)),
    Row("one beside others",
        "corpus.path {root}/corpus holds a Delta table, {root}/corpus/a/t" + ONLY
        + DELTA.replace("/corpus ", "/corpus/a/t "),
        files={**GOOD, "a/t/x.jsonl": LINES, "a/t/_delta_log/0.json": b""}),
    Row("a list", "corpus.path {root}/corpus is a Delta "
        "table" + ONLY + DELTA, files={**GOOD, **LOG, "../o/a.txt": b"x"},
        overrides=("corpus.path=[{root}/o, {root}/corpus]", "corpus.text=text")),
    Row("a link into one",
        "corpus.path {root}/link is inside a Delta table, {root}/corpus" + ONLY + DELTA,
        files={"lang=en/good.jsonl": LINES, **LOG}, overrides=("corpus.path={root}/link",),
        prepare=lambda bench: (bench.root / "link").symlink_to(bench.root / "corpus/lang=en")),
    Row("the data of an Iceberg table", "corpus.path {root}/corpus/data is inside an Iceberg table, "
        "{root}/corpus" + ONLY
        + ICEBERG, files={"data/good.jsonl": LINES, **METADATA}, overrides=("corpus.path={root}/corpus/data",)),
    Row("a Hudi table", "corpus.path {root}/corpus is a Hudi table" + ONLY + NEW + "in Spark, "
        "spark.read.format('hudi').load('{root}/corpus').write.parquet('<new folder>').",
        files={**GOOD, ".hoodie/hoodie.properties": b""}),
    Row("a partition of a Hudi table", "corpus.path {root}/corpus is a partition of a Hudi table" + ONLY + NEW + "in "
        "Spark, spark.read.format('hudi').load(<the table>).write.parquet('<new folder>').",
        files={**GOOD, ".hoodie_partition_metadata": b""}),
    Row("a Hudi table with partitions", "corpus.path {root}/corpus holds a Hudi table, {root}/corpus/t" + ONLY + NEW
        + "in Spark, spark.read.format('hudi').load('{root}/corpus/t').write.parquet('<new folder>').",
        files={"t/p/a.jsonl": LINES, "t/.hoodie/hoodie.properties": b"", "t/p/.hoodie_partition_metadata": b""}),
    Row("a Lance table", "corpus.path {root}/corpus is a Lance table" + ONLY + NEW + "in Python, "
        "pyarrow.parquet.write_table(lance.dataset('{root}/corpus').to_table(), '<new folder>/0.parquet').",
        files={"data/1.lance": b"", "_versions/1.manifest": b""}),
    Row("a Spark stream", "corpus.path {root}/corpus is the output of a Spark stream" + ONLY + NEW + "in Spark, which "
        "follows the log, spark.read.parquet('{root}/corpus').write.parquet('<new folder>').",
        files={**GOOD, "_spark_metadata/0": b"v1\n"}),
    Row("a Paimon table", "corpus.path {root}/corpus/bucket-0 is inside a Paimon table, {root}/corpus" + ONLY + NEW
        + "in Spark, spark.read.format('paimon').load('{root}/corpus').write.parquet('<new folder>').",
        files={"bucket-0/good.jsonl": LINES, "schema/schema-0": b"{}"},
        overrides=("corpus.path={root}/corpus/bucket-0",)),
    Row("a transactional Hive table", "corpus.path {root}/corpus is a transactional Hive table" + ONLY + NEW + "in "
        "Hive, "
        "INSERT OVERWRITE DIRECTORY '<new folder>' STORED AS PARQUET SELECT * FROM <its name>.",
        files={"base_0000001/000000_0": b"x", "delta_0000002_0000002_0000/000000_0": b"x"}),
    Row("a DuckLake", "corpus.path {root}/corpus is a DuckLake" + ONLY + NEW + "in DuckDB, COPY (FROM <its name>) TO "
        "'<new folder>/0.parquet'.", files={f"{FILE}.parquet": b"x", f"{FILE}-delete.parquet": b"x"}),
    Row("a table of sfr-batch", "corpus.path {root}/corpus is a table of sfr-batch" + ONLY + NEW
        + "sfr-batch export {root}/corpus <new folder>.", files={**GOOD, "_sfr/table.json": b"{}"}),
    Row("an unfinished write of Databricks", "corpus.path {root}/corpus has files of a write that did not finish, e.g. "
        "{root}/corpus/part-0-tid-22-c000.jsonl: there is _started_22 beside it and no _committed_22. Wait until the "
        "job "
        "has ended; if it has failed, remove its files (in Databricks, VACUUM). Then run the command again.",
        files={"part-0-tid-11-c000.jsonl": LINES, "part-0-tid-22-c000.jsonl": LINES, "_started_11": b"",
            "_committed_11": b"{}", "_started_22": b""}),
    Row("a finished one", phase="done",
        files={"part-0-tid-11-c000.jsonl": LINES, "_started_11": b"", "_committed_11": b"{}", "_started_22": b""}),
    # Not one
    Row("a file that is named by itself", phase="done", files={**GOOD, **LOG},
        overrides=("corpus.path={root}/corpus/good.jsonl",)),
    Row("folders that are named alike", phase="done", files={"metadata/good.jsonl": LINES, "schema/x.md": b"",
        "delta_2/x.md": b"", "base_1/x.md": b"", "x/versions/1.md": b""}),
    Row("a table that the pattern leaves out", phase="done", files={"a/good.jsonl": LINES, "b/x.jsonl": b"x",
        "b/_delta_log/0.json": b""}, overrides=("corpus.path={root}/corpus/a*/*",)),
    # Read
    Row("a Delta table as its refusal says", phase="done", files={}, prepare=delta(), overrides=AS_DELTA),
    Row("an Iceberg table as its refusal says", phase="done", files={}, prepare=iceberg(), overrides=AS_ICEBERG),
    Row("no table", "corpus.path {root}/corpus is no Delta table: it has no _delta_log. Correct corpus.path or "
        "corpus.format.", overrides=AS_DELTA),
    Row("no Iceberg table", "corpus.path {root}/corpus is no Iceberg table: it has no metadata/*.metadata.json. "
        "Correct "
        "corpus.path or corpus.format; a table whose metadata lies elsewhere is named by its metadata file.",
        overrides=AS_ICEBERG),
    Row("a part as a table", "corpus.path {root}/corpus/lang=en is inside the Delta table {root}/corpus. Set "
        "corpus.path "
        "to {root}/corpus; select.partitions chooses a part of it.", files={}, prepare=delta(),
        overrides=(*AS_DELTA, "corpus.path={root}/corpus/lang=en")),
    Row("a version to come", "corpus.version 7: the newest version of the Delta table {root}/corpus is 0. Set that, or "
        "null.", files={}, prepare=delta(), overrides=(*AS_DELTA, "corpus.version=7")),
    Row("a snapshot that is none", "corpus.version 7: the Iceberg table {root}/corpus/metadata/{*} has no such "
        "snapshot. "
        "Its newest ones are {*}. Set one of these, or null for the current one.", files={}, prepare=iceberg(),
        overrides=(*AS_ICEBERG, "corpus.version=7")),
    Row("a version of files", "{root}/job.yaml has 1 wrong setting:\n  corpus: version has no effect with format "
        "auto: set "
        "format to delta or iceberg", code=2, overrides=("corpus.version=1",)),
    Row("two tables at once", "{root}/job.yaml has 1 wrong setting:\n  corpus: format delta reads one table: set "
        "path to "
        "its folder, not to a list", code=2, overrides=(*AS_DELTA, "corpus.path=[a, b]")),
    Row("no deltalake", "corpus.format delta needs the Python package deltalake: pip install 'sfr-batch[delta]'.",
        code=2, files={}, prepare=both(delta(), without("deltalake")), overrides=AS_DELTA),
    Row("no pyiceberg", "corpus.format iceberg needs the Python package pyiceberg: pip install 'sfr-batch[iceberg]'.",
        code=2, files={}, prepare=both(iceberg(), without("pyiceberg.table")), overrides=AS_ICEBERG),
    Row("a reader feature of a variant", "The Delta table {root}/corpus needs the reader features variantType, which "
        "are "
        "not supported; export the table to a new folder, and set corpus.path to that: in Spark, "
        "spark.read.format('delta').load('{root}/corpus').write.parquet('<new folder>').", files={},
        prepare=delta(feature("variantType")), overrides=AS_DELTA),
    Row("a reader feature that nobody knows", "The Delta table {root}/corpus cannot be read: {*}'sun'{*}. If it uses a "
        "feature that the package deltalake does not know, upgrade that. Or export the table to a new folder, and set "
        "corpus.path to that: in Spark, spark.read.format('delta').load('{root}/corpus').write.parquet('<new "
        "folder>').",
        files={}, prepare=delta(feature("sun")), overrides=AS_DELTA),
    Row("files elsewhere", "The Delta table {root}/corpus has files on abfss:, e.g. abfss://c@a/x.parquet, which is "
        "not "
        "supported. Copy the table to s3:// or a local path with its engine, and set corpus.path to that.", files={},
        prepare=delta(committed(1, {"add": {"path": "abfss://c@a/x.parquet", "partitionValues": {}, "size": 1,
            "modificationTime": 1, "dataChange": True}})), overrides=AS_DELTA),
    Row("files outside", "The Delta table {root}/corpus names the file {root}/corpus/../good.parquet, which is not "
        "where "
        "the table is. Copy the table with its engine, and set corpus.path to that.", files={},
        prepare=delta(committed(1, {"add": {"path": "../good.parquet", "partitionValues": {}, "size": 1,
            "modificationTime": 1, "dataChange": True}})), overrides=AS_DELTA),
    Row("a delete file that is gone", "{root}/corpus/data/{*}-deletes.parquet no longer exists, but snapshot {*} of "
        "the "
        "Iceberg table {root}/corpus needs it: it was cleaned up (expiring snapshots) after the run was planned or "
        "after "
        "that version was replaced. Run the command again, without corpus.version, for the newest version; and let "
        "clean-ups keep files for longer than a run takes.", files={}, prepare=iceberg(deleted_without_file),
        overrides=AS_ICEBERG),
    Row("equality deletes", "snapshot {*} of the Iceberg table {root}/corpus has equality deletes, which are not "
        "supported. Let the table's engine compact it (in Spark, CALL <catalog>.system.rewrite_data_files with the "
        "option "
        "'delete-file-threshold', '1'). Or: Export the table to a new folder, and set corpus.path to that: in Spark, "
        "spark.table('<its name>').write.parquet('<new folder>').", files={}, prepare=iceberg(equality_deletes),
        overrides=AS_ICEBERG),
    Row("two newest states", "{root}/corpus/metadata has several newest metadata files, {*}: which one counts, only "
        "the "
        "table's catalog knows. Set corpus.path to the file that the catalog names as metadata_location, such as "
        "{root}/corpus/metadata/{*}.metadata.json.", files={}, prepare=iceberg(twin), overrides=AS_ICEBERG),
    Row("no metadata", "{root}/corpus/metadata/v1.metadata.json is no metadata file of an Iceberg table that can be "
        "read: "
        "{*}.", files={"metadata/v1.metadata.json": b"{"}, overrides=AS_ICEBERG),
    Row("cleaned up before", "{root}/corpus/{*}.parquet no longer exists, but version 0 of the Delta table "
        "{root}/corpus "
        "needs it: it was cleaned up (VACUUM) after the run was planned or after that version was replaced. Run the "
        "command again, without corpus.version, for the newest version; and let clean-ups keep files for longer than "
        "a run "
        "takes.", files={}, prepare=delta(replaced_and_cleaned), overrides=(*AS_DELTA, "corpus.version=0")),
    Row("as that says", phase="done", files={}, prepare=delta(replaced_and_cleaned), overrides=AS_DELTA),
    Row("cleaned up during the run", "1 of 2 splits did not finish. Nothing was published. Committed: 1 split; the "
        "same "
        "command continues with the rest.\n  {root}/corpus/{*}.parquet no longer exists, but version 0 of the Delta "
        "table {root}/corpus needs it: it was cleaned up (VACUUM) after the run was planned or after that version was "
        "replaced. Run the command again, without corpus.version, for the newest version; and let clean-ups keep "
        "files for "
        "longer than a run takes.", phase="run", files={}, prepare=both(delta(), between_splits(replaced_and_cleaned)),
        overrides=(*AS_DELTA, "run.rows_per_split=1")),
]
# fmt: on


@pytest.mark.parametrize("row", ROWS, ids=lambda row: row.name)
def test_tables_of_others(row: Row, bench: Bench) -> None:
    check_row(row, bench)
