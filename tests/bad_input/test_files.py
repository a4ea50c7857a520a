"""Bad input: which files are read. Each way out is followed to the letter."""

import gzip
import json
from pathlib import Path

import pytest

from tests.bad_input.bench import GOOD, IDS, Bench, Row, both, check_row, embedded, put, s3, table

OTHER = table(id=["other"], text=["Other."])
HIVE = {"year=2024/good.jsonl": GOOD["good.jsonl"]}
ALL = [*IDS, "other"]


ROWS = [
    Row("unsupported compression",
        "corpus.path {root}/corpus holds 1 data file in unsupported formats, e.g. {root}/corpus/b.jsonl.snappy. "
        "Supported: {supported}. Convert them, or select the files to read: corpus.path={root}/corpus/**/*.jsonl.",
        files={**GOOD, "b.jsonl.snappy": b"x"}),
    Row("the files that can be read", phase="done",
        files={**GOOD, "b.jsonl.snappy": b"x"}, overrides=("corpus.path={root}/corpus/**/*.jsonl",)),
    Row("unsupported compression, whatever the format",
        "corpus.path {root}/corpus holds 1 data file in unsupported formats, e.g. {root}/corpus/b.bz2. Supported: "
        "{supported}. Convert them, or select the files to read: corpus.path={root}/corpus/**/*.jsonl.",
        files={**GOOD, "b.bz2": b"x"}, overrides=("corpus.format=jsonl",)),
    Row("ORC of an engine",
        "corpus.path {root}/corpus holds 1 data file in unsupported formats, e.g. {root}/corpus/000000_0, which is "
        "ORC. Supported: {supported}. Convert them.", files={"000000_0": b"ORC\x00\x00\x00"}),
    Row("a name that tells no format",
        "corpus.path {root}/corpus holds 1 data file whose names do not tell their format, e.g. "
        "{root}/corpus/part-00000. Set corpus.format to parquet, jsonl, csv or text.",
        files={"part-00000": GOOD["good.jsonl"]}),
    Row("the format is told", phase="done",
        files={"part-00000": GOOD["good.jsonl"], "day_$folder$": b""}, overrides=("corpus.format=jsonl",)),
    Row("compressed by a name that tells no format",
        "corpus.path {root}/corpus holds 1 data file whose names do not tell their format, e.g. "
        "{root}/corpus/0000_part_00.gz. Set corpus.format to parquet, jsonl, csv or text, or select the files to read: "
        "corpus.path={root}/corpus/**/*.parquet.",
        files={"0000_part_00.gz": gzip.compress(GOOD["good.jsonl"]), "a.parquet": OTHER}),
    Row("its format is told", phase="done",
        files={"0000_part_00.gz": gzip.compress(GOOD["good.jsonl"]), "a.parquet": OTHER},
        overrides=("corpus.format=jsonl",)),
    Row("Parquet without an ending", phase="done", ids=ALL, files={**GOOD, "000001_0": OTHER, "_SUCCESS": b""}),
    Row("a JSON array",
        "{root}/corpus/a.json is not JSON Lines: its first line is no whole JSON value. Write one object per line: "
        "`jq -c '.[]'` converts a JSON array, `jq -c .` an object over several lines. If it holds no "
        "documents, name the others by a pattern in corpus.path.",
        files={"a.json": json.dumps([{"id": "one", "text": "One."}], indent=1).encode()}),
    Row("JSON Lines by the name of JSON", phase="done", files={"part-00000.json": GOOD["good.jsonl"]}),
    Row("all is hidden",
        "corpus.path {root}/corpus matches no files but 1 file whose names, or those of folders, begin with _ or ., "
        "e.g. {root}/corpus/_new/good.jsonl. They are skipped unless the path itself names them: "
        "corpus.path={root}/corpus/_new.", files={"_new/good.jsonl": GOOD["good.jsonl"]}),
    Row("a hidden folder that is named", phase="done", files={"_new/good.jsonl": GOOD["good.jsonl"]},
        overrides=("corpus.path={root}/corpus/_new",)),
    Row("a pattern of folders",
        "corpus.path {root}/corpus/year=* names folders and no files. To read the files in them: "
        "corpus.path={root}/corpus/year=*/**.", files=HIVE, overrides=("corpus.path={root}/corpus/year=*",)),
    Row("the files in them", phase="done", files=HIVE, overrides=("corpus.path={root}/corpus/year=*/**",)),
    Row("braces",
        "corpus.path {root}/corpus/*.{jsonl,csv} matches no files. Braces are no pattern: write a list, "
        "corpus.path=[a,b].", overrides=("corpus.path='{root}/corpus/*.{jsonl,csv}'",)),
    Row("a list", phase="done", files={**GOOD, "a.csv": b"id,text\nother,Other.\n"}, ids=ALL,
        overrides=("corpus.path=[{root}/corpus/*.jsonl,{root}/corpus/*.csv]",)),
    Row("stars within a part",
        "The pattern {root}/corpus/g**: ** stands for any number of folders, so it must be a part of the path by "
        "itself. Write g*/** in place of g**.", code=2, overrides=("corpus.path={root}/corpus/g**",)),
    Row("stars before an ending", phase="done", files=HIVE, overrides=("corpus.path={root}/corpus/**.jsonl",)),
    Row("a path of Windows",
        "C:\\data\\corpus: this is a Windows path, and this machine runs Linux. Under WSL it is /mnt/c/data/corpus; "
        "else mount the drive.", code=2, overrides=("corpus.path='C:\\data\\corpus'",)),
    Row("one slash after s3",
        "s3:/bucket/table: an S3 path begins with s3:// in lower case, two slashes. Write s3://bucket/table.", code=2,
        overrides=("table.path=s3:/bucket/table",)),
    Row("a table of Databricks",
        "dbfs:/tables/t: dbfs: is a scheme of Databricks. Write the local path that its machines have: "
        "/dbfs/tables/t.", code=2, overrides=("table.path=dbfs:/tables/t",)),
    Row("one slash after file", phase="done", overrides=("corpus.path=file:{root}/corpus",)),
    Row("a model of another system",
        "model.path: gs://bucket/model: the scheme gs:// is not supported; use s3:// or a local path.", code=2,
        overrides=("model.path=gs://bucket/model",)),
    Row("an export to another place",
        "s3:/bucket/export: an S3 path begins with s3:// in lower case, two slashes. Write s3://bucket/export.",
        code=2, prepare=embedded, command="export {root}/table s3:/bucket/export"),
    Row("a pointer in another place",
        "file:x/live: a file: path begins with a slash. Write /x/live, or ./x/live if relative.", code=2,
        prepare=embedded, command="promote file:x/live {root}/table"),
    Row("a table in another place",
        "s3a:/bucket/table: an S3 path begins with s3:// in lower case, two slashes. Write s3://bucket/table.",
        code=2, command="expire s3a:/bucket/table --keep-last 2"),
    Row("brackets in a name on S3", phase="done", ids=ALL,
        prepare=both(s3(), lambda bench: odd_key(bench)),
        overrides=("corpus.path=['{bucket}/corpus','{bucket}/a [1]']",)),
    Row("a folder that the files contradict",
        "1 of 1 split did not finish. Nothing was published. Committed: 0 splits; the same command continues with the "
        "rest.\n  {root}/corpus/lang=de/a.parquet: the column 'lang' has the value 'fr', but the folder's name says "
        "'de'. Correct one of the two, or use the column no more: corpus.carry, corpus.text.", phase="run",
        files={"lang=de/a.parquet": table(id=IDS, text=["One.", "Two."], lang=["de", "fr"])},
        overrides=("corpus.carry=[lang]",),
        repair=put("corpus/lang=de/a.parquet", table(id=IDS, text=["One.", "Two."], lang=["de", "de"]))),
    Row("a folder of another type",
        "{root}/corpus/year=new/good.jsonl: the folder year=new is no int64, which the column is in other shards or "
        "in the table. Rename the folder, or remove the column from corpus.carry.",
        files={"year=new/good.jsonl": GOOD["good.jsonl"], "o.parquet": table(id=["other"], text=["x"], year=[1])},
        overrides=("corpus.carry=[year]",)),
    Row("a folder of the type", phase="done", ids=ALL,
        files={"year=2024/good.jsonl": GOOD["good.jsonl"], "o.parquet": table(id=["other"], text=["x"], year=[1])},
        overrides=("corpus.carry=[year]",)),
]  # fmt: skip


def odd_key(bench: Bench) -> None:
    bucket = bench.names["bucket"].removeprefix("s3://")
    client = bench.request.getfixturevalue("s3").client()
    client.put_object(Bucket=bucket, Key="a [1]/other.parquet", Body=OTHER)


@pytest.mark.parametrize("row", ROWS, ids=[row.name for row in ROWS])
def test_bad_input(row: Row, bench: Bench) -> None:
    check_row(row, bench)


def test_links_are_said(bench: Bench) -> None:
    bench.put("corpus/day=1/good.jsonl", GOOD["good.jsonl"])
    (Path(bench.root) / "corpus/latest").symlink_to("day=1")
    result = bench.run("plan {root}/job.yaml", ())
    said = "not read  1 file: 1 counted once, for links give them a second name, e.g. {root}/corpus/latest/good.jsonl"
    assert bench.fill(said) in result.stdout.splitlines()
