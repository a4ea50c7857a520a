"""What a location means, however it is written: what is harmless is read as what it is, the rest is told its form."""

import os
import re
from pathlib import Path

import pytest

from sfr_batch.config.settings import ModelSettings
from sfr_batch.errors import ConfigError
from sfr_batch.model.sources.location import locate
from sfr_batch.model.sources.room import chosen_cache
from sfr_batch.storage.locations import absolute_uri
from sfr_batch.storage.stores import open_store


@pytest.mark.parametrize(
    ("path", "meant"),
    [
        ("s3://bucket/x/", "s3://bucket/x"),
        ("s3a://bucket/x", "s3://bucket/x"),
        ("s3:///bucket/x", "s3://bucket/x"),
        ("/data/x", "/data/x"),
        ("file:/data/x", "/data/x"),
        ("file:///data/x/", "/data/x"),
        ("FILE:///data/x", "/data/x"),
        ("file://localhost/data/x", "/data/x"),
        ("data/x", "{cwd}/data/x"),
        ("./s3:/x", "{cwd}/s3:/x"),
        ("my:data/x", "{cwd}/my:data/x"),
        ("file://./x", "{cwd}/x"),
        ("~/x", "{home}/x"),
        ("file://~/x", "{home}/x"),
        ("a b/$x", "{cwd}/a b/$x"),
    ],
)
def test_what_is_meant(path: str, meant: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    assert absolute_uri(path) == meant.format(cwd=tmp_path, home=os.path.expanduser("~"))


LOWER = "an S3 path begins with s3:// in lower case, two slashes. Write {}."
REFUSED = [
    ("s3:/bucket/table", LOWER.format("s3://bucket/table"), "s3://bucket/table"),
    ("s3:bucket/table", LOWER.format("s3://bucket/table"), "s3://bucket/table"),
    ("S3://bucket/table", LOWER.format("s3://bucket/table"), "s3://bucket/table"),
    ("s3n://bucket/table", LOWER.format("s3://bucket/table"), "s3://bucket/table"),
    ("s3a:/bucket/table", LOWER.format("s3://bucket/table"), "s3://bucket/table"),
    *(
        (path, "an S3 path begins with s3://, without blanks or quotes. Write s3://bucket/table.", "s3://bucket/table")
        for path in ("s3//bucket/table", " s3://bucket/table", "s3 ://bucket/table", "'s3://bucket/table'")
    ),
    (
        "/data/s3:/bucket/table",
        "pathlib or abspath has made this of an S3 path. Write s3://bucket/table. For a local folder of that name make "
        "/data/s3: first.",
        "s3://bucket/table",
    ),
    ("arn:aws:s3:::bucket/table", "this is an ARN. Write s3://bucket/table.", "s3://bucket/table"),
    ("gs://bucket/x", "the scheme gs:// is not supported; use s3:// or a local path.", None),
    ("gs:/bucket/x", "the scheme gs:// is not supported; use s3:// or a local path.", None),
    ("hdfs://node:8020/x", "the scheme hdfs:// is not supported; use s3:// or a local path.", None),
    ("https://bucket.host/x", "the scheme https:// is not supported; use s3:// or a local path.", None),
    (
        "dbfs:/x/y",
        "dbfs: is a scheme of Databricks. Write the local path that its machines have: /dbfs/x/y.",
        "/dbfs/x/y",
    ),
    (
        "dbfs:/Volumes/a/b",
        "dbfs: is a scheme of Databricks. Write the local path that its machines have: /Volumes/a/b.",
        "/Volumes/a/b",
    ),
    ("file:x/y", "a file: path begins with a slash. Write /x/y, or ./x/y if relative.", "./x/y"),
    ("file://x/y", "a file:// path has three slashes. Write /x/y, or ./x/y if relative.", "./x/y"),
    (
        "C:\\data\\x",
        "this is a Windows path, and this machine runs Linux. Under WSL it is /mnt/c/data/x; else mount the drive.",
        "/mnt/c/data/x",
    ),
    (
        "d:/data",
        "this is a Windows path, and this machine runs Linux. Under WSL it is /mnt/d/data; else mount the drive.",
        "/mnt/d/data",
    ),
    (
        "\\\\host\\share",
        "this is a Windows share, and this machine runs Linux. Mount it, and write the path where it is mounted.",
        None,
    ),
    ("data\\x", "the separator of folders is / and not \\. Write data/x.", "data/x"),
    ("~nobody-here/x", "there is no user nobody-here on this machine. Write the whole path.", None),
    (
        "$HOME/x",
        "variables are not expanded here. Write the path itself, or let the shell expand it: double quotes.",
        None,
    ),
]


@pytest.mark.parametrize(("path", "why", "advice"), REFUSED)
def test_what_is_told_its_form(
    path: str, why: str, advice: str | None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(ConfigError, match=f"^{re.escape(f'{path}: {why}')}$"):
        absolute_uri(path)
    assert advice is None or absolute_uri(advice)
    assert not os.listdir(tmp_path)


def test_a_local_folder_that_looks_like_another_system(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What `s3:/x` made before it was refused can still be named; a backslash may be part of a name."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "s3:" / "bucket").mkdir(parents=True)
    (tmp_path / "a\\b").mkdir()
    (tmp_path / "$x").mkdir()
    with pytest.raises(ConfigError, match=re.escape("For the local folder of that name write ./s3:/bucket.")):
        absolute_uri("s3:/bucket")
    assert absolute_uri(f"{tmp_path}/s3:/bucket") == absolute_uri(f"{tmp_path}/s3:/x/../bucket")
    assert absolute_uri("./s3:/bucket") == f"{tmp_path}/s3:/bucket"
    assert absolute_uri("a\\b") == f"{tmp_path}/a\\b"
    assert absolute_uri("$x") == f"{tmp_path}/$x"


def test_percent_escapes_of_a_file_uri(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=re.escape(f"has percent escapes. Write the plain path: {tmp_path}/a b.")):
        absolute_uri(f"file://{tmp_path}/a%20b")
    (tmp_path / "a%20b").mkdir()
    assert absolute_uri(f"file://{tmp_path}/a%20b") == f"{tmp_path}/a%20b"


def test_models_and_caches(tmp_path: Path) -> None:
    (tmp_path / "model").mkdir()
    assert locate(ModelSettings(path=f"file:{tmp_path}/model"), weights=False) == tmp_path / "model"
    for path in ("s3:/bucket/model", "C:\\models\\x", "file:x/y", "dbfs:/models/x"):
        with pytest.raises(ConfigError, match=f"^model.path: {re.escape(path)}: .*Write|^model.path: .*Under WSL"):
            locate(ModelSettings(path=path), weights=False)
    assert chosen_cache(f"file://{tmp_path}/cache") == tmp_path / "cache"
    for path in ("s3:/bucket/cache", "s3://bucket/cache"):
        with pytest.raises(ConfigError, match=f"^model.cache_dir: {path}"):
            chosen_cache(path)


def test_a_path_of_pathlib_is_taken_and_its_s3_is_told(tmp_path: Path) -> None:
    assert absolute_uri(tmp_path / "a") == f"{tmp_path}/a"
    assert open_store(tmp_path / "table").root == f"{tmp_path}/table"
    with pytest.raises(ConfigError, match=r"Write s3://bucket/table\."):
        absolute_uri(Path("s3://bucket/table"))
