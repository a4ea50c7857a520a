"""Patterns mean the same on disk and on S3, and a name that exists is no pattern."""

import os
import re
from pathlib import Path

import pytest

from sfr_batch.config.settings import StorageSettings
from sfr_batch.errors import ConfigError, StorageError
from sfr_batch.storage.input_listing import find_inputs, list_inputs, would_list
from sfr_batch.storage.patterns import parse_pattern
from tests.tables import put

PLAIN = StorageSettings()
NAMES = (
    *("c/a.jsonl", "c/b.csv", "c/x/y/d.jsonl", "c/x/e.jsonl.gz", "c/_old/f.jsonl", "c/.g.jsonl"),
    *("c/_year=2024/h.jsonl", "c/run [1]/i.jsonl", "c/run 1/j.jsonl", "c2/k.jsonl"),
)


def listed(place: str, pattern: str) -> list[str]:
    return [file.uri.removeprefix(f"{place}/") for file in list_inputs(f"{place}/{pattern}", PLAIN)]


def test_patterns(place: str) -> None:
    for name in NAMES:
        put(place, name, b"x")
    deep = ["c/_year=2024/h.jsonl", "c/a.jsonl", "c/run 1/j.jsonl", "c/run [1]/i.jsonl", "c/x/y/d.jsonl"]
    for pattern, found in {
        "c/**/*.jsonl": deep,
        "c/**.jsonl": deep,
        "c/**": sorted([*deep, "c/b.csv", "c/x/e.jsonl.gz"]),
        "c/*.[jc]s*": ["c/a.jsonl", "c/b.csv"],
        "c/*/*/*.jsonl": ["c/x/y/d.jsonl"],
        "c?/*": ["c2/k.jsonl"],
        "c/_*/*.jsonl": ["c/_year=2024/h.jsonl"],
        "c/_old/*.jsonl": ["c/_old/f.jsonl"],
        "c/run [1]": ["c/run [1]/i.jsonl"],
        "c/run [1]/*.jsonl": ["c/run [1]/i.jsonl"],
        "c/run [2]/*.jsonl": [],
        "c/ru[n] 1/*": ["c/run 1/j.jsonl"],
        "c/[z-a]*": [],
        "c/[a": [],
        "*/k.jsonl": ["c2/k.jsonl"],
    }.items():
        assert listed(place, pattern) == found, pattern
    for pattern, uri, inside in (
        ("c/**.jsonl", "c/x/new.jsonl", True),
        ("c/**.jsonl", "c/x/_new.jsonl", False),
        ("c/run [1]", "c/run [1]/new", True),
        ("c/run [1]", "c/run 1/new", False),
        ("c/*", "c/x/new", False),
    ):
        assert would_list(f"{place}/{pattern}", f"{place}/{uri}", PLAIN) == inside, pattern


@pytest.mark.parametrize(
    ("pattern", "instead"),
    [("/c/data**", "data*/**"), ("/c/a**b.jsonl", "a*/**/*b.jsonl"), ("/c/***/x", "*/**"), ("/c/a**b**", "a*/**/*b*")],
)
def test_stars_within_a_part(pattern: str, instead: str) -> None:
    with pytest.raises(ConfigError, match=re.escape(f"Write {instead} in place of {pattern.split('/')[2]}.")):
        parse_pattern(pattern, lambda _: False)


def test_what_a_pattern_does_not_name_is_not_looked_at(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    put(str(tmp_path), "c/a/x.jsonl", b"x")
    put(str(tmp_path), "c/b/x.jsonl", b"x")
    (tmp_path / "c/gone.csv").symlink_to("nowhere")
    real = os.scandir

    def scandir(path: str) -> object:  # not chmod: root reads every folder
        if str(path).endswith("/b"):
            raise PermissionError(13, "Permission denied", path)
        return real(path)

    monkeypatch.setattr(os, "scandir", scandir)
    assert listed(str(tmp_path), "c/a/*.jsonl") == ["c/a/x.jsonl"]
    assert listed(str(tmp_path), "c/[a]/*.jsonl") == ["c/a/x.jsonl"]
    with pytest.raises(StorageError, match="check its permissions"):
        listed(str(tmp_path), "c/**/*.jsonl")


def test_pipes_are_no_files(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "a.jsonl")
    assert not find_inputs(str(tmp_path), PLAIN).files
