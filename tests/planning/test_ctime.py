"""A local file that was replaced by one of the same size and mtime is noticed by its ctime; who only touches it pays
for reading, not for embedding."""

import os
from pathlib import Path

import pytest

from sfr_batch.checks.audit.contents import Contents
from sfr_batch.checks.audit.corpus import check_shards
from sfr_batch.config.settings import CorpusSettings
from sfr_batch.corpus import reading_version
from sfr_batch.corpus.listing import list_shards
from sfr_batch.corpus.unchanged import check_unchanged
from sfr_batch.errors import CorpusError
from sfr_batch.planning.make import make_plan
from sfr_batch.storage import input_listing
from sfr_batch.storage.inputs import InputFile, local_input
from tests.nights import Doc, Place, Shards, Writer, expected_vectors, night

THEN = 10**18
"""An mtime in ns."""


def put_back(writer: Writer, shards: Shards) -> None:
    """Write the shards as files of the same mtime, each in the place of the one before."""
    for name in shards:
        path = Path(writer.root) / name
        path.unlink(missing_ok=True)
    writer.now = {name: docs for name, docs in writer.now.items() if name not in shards}
    writer.write({**writer.now, **shards})
    for name in shards:
        os.utime(Path(writer.root) / name, ns=(THEN, THEN))


def touch(writer: Writer, name: str) -> None:
    path = Path(writer.root) / name
    path.chmod(path.stat().st_mode ^ 0o100)


@pytest.mark.parametrize("rows", [1, 16])  # packed with rows of other shards, and splits of its own
def test_content_of_the_same_size_and_time_is_read(nights: tuple[Place, Writer], rows: int) -> None:
    place, writer = nights
    texts = ("cat", "dog", "cow", "pig")
    first: Shards = {"b.jsonl": [Doc("other", "stays")]}
    writer.write(first)
    for number, text in enumerate(texts):
        shards: Shards = {"a.jsonl": [Doc(f"{n:02}", f"{text} {n:02}") for n in range(rows)]}
        put_back(writer, shards)
        snapshot, encoded = night(place)
        expected_vectors(snapshot, {**first, **shards})
        assert len(encoded) == rows + (number == 0)
        [record] = [record for record in snapshot.read_shards() if record.uri.endswith("a.jsonl")]
        status = (Path(writer.root) / "a.jsonl").stat()
        assert (record.version, record.ctime_ns) == (f"{status.st_size}-{THEN}", status.st_ctime_ns)
        assert make_plan(place.config()).up_to_date


def test_a_touch_costs_a_reading_and_no_embedding(nights: tuple[Place, Writer]) -> None:
    place, writer = nights
    shards: Shards = {"a.jsonl": [Doc("a", "cat")], "b.jsonl": [Doc("b", "dog")]}
    writer.write(shards)
    night(place)
    touch(writer, "a.jsonl")
    plan = make_plan(place.config())
    assert [shard.uri for shard, _ in plan.changed] == [f"{writer.root}/a.jsonl"]
    assert (
        f"\n1 shard, e.g. {writer.root}/a.jsonl, read again: its ctime has changed without its size and mtime, so the "
        "content may be another one. Rows that stay the same are not embedded again. Where files are copied or "
        "unpacked for each run, set corpus.ctime: false\n"
    ) in plan.describe()
    assert make_plan(place.config("corpus.ctime=false")).up_to_date
    snapshot, encoded = night(place)
    assert not encoded
    expected_vectors(snapshot, shards)
    assert make_plan(place.config()).up_to_date


def test_a_table_without_ctimes_takes_those_of_today(
    nights: tuple[Place, Writer], monkeypatch: pytest.MonkeyPatch
) -> None:
    place, writer = nights
    writer.write({"a.jsonl": [Doc("a", "cat")]})

    def unknown(name: str, status: os.stat_result) -> InputFile:
        file = local_input(name, status)
        return InputFile(file.uri, file.size, file.version)

    with monkeypatch.context() as earlier:
        earlier.setattr(input_listing, "local_input", unknown)
        snapshot, _ = night(place)
        assert [record.ctime_ns for record in snapshot.read_shards()] == [0]
    touch(writer, "a.jsonl")
    assert make_plan(place.config()).up_to_date
    writer.write({**writer.now, "b.jsonl": [Doc("b", "dog")]})
    snapshot, _ = night(place)
    assert all(record.ctime_ns for record in snapshot.read_shards())
    touch(writer, "a.jsonl")
    assert len(make_plan(place.config()).changed) == 1
    with monkeypatch.context() as elsewhere:  # where no ctime is known, nothing is read for it
        elsewhere.setattr(input_listing, "local_input", unknown)
        assert make_plan(place.config()).up_to_date


def test_the_audit_reads_the_rows_and_asks_for_no_ctime(nights: tuple[Place, Writer]) -> None:
    place, writer = nights
    writer.write({"a.jsonl": [Doc("a", "cat")]})
    snapshot, _ = night(place)
    touch(writer, "a.jsonl")
    plan = make_plan(place.config())
    shards = list_shards(place.config().corpus)
    contents = Contents.read(snapshot)
    assert check_shards(plan, shards, contents, plan.inputs).problems == 0


def test_another_file_under_a_reader_is_told(tmp_path: Path) -> None:
    file = tmp_path / "a.jsonl"
    file.write_bytes(b'{"id": "a", "text": "cat"}\n')
    os.utime(file, ns=(THEN, THEN))
    settings = CorpusSettings(path=str(file))
    [shard] = list_shards(settings)
    seen = check_unchanged(shard, settings)
    file.chmod(0o600)
    assert seen is not None
    assert check_unchanged(shard, settings, seen)  # another ctime alone
    assert check_unchanged(shard, settings, (seen[0] + 1, file.stat().st_ctime_ns))  # another inode alone
    new = tmp_path / "new"
    new.write_bytes(b'{"id": "a", "text": "dog"}\n')
    os.utime(new, ns=(THEN, THEN))
    new.replace(file)
    assert check_unchanged(shard, settings)  # on another node nobody can tell
    with pytest.raises(CorpusError, match="was replaced during the run"):
        check_unchanged(shard, settings, seen)


def test_what_an_older_release_has_read_is_read_again_for_its_ctime(
    nights: tuple[Place, Writer], monkeypatch: pytest.MonkeyPatch
) -> None:
    """A footer that shows that this release reads nothing otherwise says nothing about the content."""
    place, writer = nights
    monkeypatch.setattr(reading_version, "CHANGES", ())
    put_back(writer, {"a.parquet": [Doc("a", "cat")]})
    night(place)
    seen_by_its_footer = reading_version.Change("parquet", 2, "-", lambda subject: subject.schema is None)
    monkeypatch.setattr(reading_version, "CHANGES", (seen_by_its_footer,))
    shards: Shards = {"a.parquet": [Doc("a", "dog")]}
    put_back(writer, shards)
    snapshot, encoded = night(place)
    assert encoded == ["dog"]
    expected_vectors(snapshot, shards)
