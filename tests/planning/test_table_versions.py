"""Delta and Iceberg tables as a corpus, night by night: a table of vectors holds each version, and costs its change."""

import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest

from sfr_batch.checks.audit.auditor import audit
from sfr_batch.corpus import row_groups, survey
from sfr_batch.corpus.listing import list_shards
from sfr_batch.errors import CorpusError
from sfr_batch.pipeline.run_log import RunLog
from sfr_batch.planning.make import make_plan
from sfr_batch.planning.plan import EmbedPlan
from sfr_batch.storage.local import LocalStore
from sfr_batch.table.commit.compaction import compact
from sfr_batch.table.commit.writing import create_or_open
from sfr_batch.table.table import Snapshot, Table
from tests import foreign
from tests.nights import Counting, Place, vectors_of
from tests.tables import do_plan


def rows(numbers: Sequence[int], note: str = "") -> pa.Table:
    return pa.table(
        {
            "id": [f"d{number}" for number in numbers],
            "text": [f"text {number}{note}" for number in numbers],
            "lang": [["en", "de"][number % 2] for number in numbers],
        }
    )


class Delta:
    """A Delta table: each change makes a version."""

    format = "delta"

    def __init__(self, root: str) -> None:
        self.root = root
        foreign.write_deltalake(root, rows(range(10)), partition_by=["lang"])

    def append(self) -> None:
        foreign.write_deltalake(self.root, rows(range(10, 14)), mode="append")

    def delete(self) -> None:
        """By deletion vectors, of which one is in the log and one in a file."""
        adds = [action["add"]["path"] for action in foreign.actions_of(self.root, 0) if "add" in action]
        foreign.delete_by_vectors(self.root, {adds[0]: [1, 3]})
        foreign.delete_by_vectors(self.root, {adds[1]: [0]}, inline=False)

    def update(self) -> None:
        """Copy on write: the file of the rows is replaced. (The library cannot write where rows are deleted.)"""
        kept = self.live()
        version = foreign.DeltaTable(self.root).version() + 1
        path = f"{self.root}/lang=en"
        old = [
            a["add"]["path"] for a in foreign.actions_of(self.root, 1) if "add" in a and "lang=en" in a["add"]["path"]
        ]
        ids = [int(id_[1:]) for id_ in kept if kept[id_][1] == "en" and int(id_[1:]) >= 10]
        name = f"updated-{version}.parquet"
        data = foreign.parquet(rows(ids, note=" updated").drop_columns("lang"))
        (Path(path) / name).write_bytes(data)
        add = {"path": f"lang=en/{name}", "partitionValues": {"lang": "en"}, "size": len(data), "modificationTime": 1}
        remove = {"path": old[0], "deletionTimestamp": 1, "dataChange": True}
        foreign.commit(self.root, version, [{"remove": remove}, {"add": {**add, "dataChange": True}}])

    def live(self) -> dict[str, tuple[str, str]]:
        """The rows as the library's own engine reads them."""
        found = pa.table(foreign.QueryBuilder().register("t", foreign.DeltaTable(self.root)).execute("SELECT * FROM t"))
        return {row["id"]: (row["text"], row["lang"]) for row in found.to_pylist()}


class Iceberg:
    """An Iceberg table: each change makes a snapshot."""

    format = "iceberg"

    def __init__(self, root: str) -> None:
        self.root = root
        self.table = foreign.FolderCatalog().create(root, rows([0]).schema)
        self.table.append(rows(range(10)))

    def append(self) -> None:
        self.table.append(rows(range(10, 14)))

    def delete(self) -> None:
        foreign.delete_rows(self.table, {foreign.data_files(self.table)[0]: [1, 2]})

    def update(self) -> None:
        self.table.overwrite(rows([10, 12], note=" updated"), "id = 'd10' or id = 'd12'")

    def live(self) -> dict[str, tuple[str, str]]:
        found = self.table.scan().to_arrow().to_pylist()
        return {row["id"]: (row["text"], row["lang"]) for row in found}


TABLES = [Delta, Iceberg]


class Reads:
    """Counts which corpus files are opened, by what."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.files: set[str] = set()
        for module in (row_groups, survey):
            monkeypatch.setattr(module, "open_input", self._counted(module.open_input))

    def _counted(self, open_input: Callable[..., Any]) -> Callable[..., Any]:
        def counted(uri: str, *arguments: Any, **named: Any) -> Any:
            self.files.add(uri)
            return open_input(uri, *arguments, **named)

        return counted


def night(place: Place, kind: type, *overrides: str) -> tuple[Snapshot, EmbedPlan, list[str]]:
    """A night: its snapshot, its plan and the texts that were encoded."""
    plan, counting = make_plan(place.config(f"corpus.format={kind.format}", *overrides)), Counting()
    return do_plan(plan, encode=counting), plan, counting.texts


def check(snapshot: Snapshot, live: dict[str, tuple[str, str]]) -> None:
    """The snapshot is a full embedding of these rows."""
    found = {row["id"]: row for row in snapshot.to_arrow().to_pylist()}
    assert {id_: row["lang"] for id_, row in found.items()} == {id_: lang for id_, (_, lang) in live.items()}
    for id_, (text, _) in live.items():
        assert found[id_]["embedding"] == pytest.approx(vectors_of([text])[0].tolist(), abs=1e-6), id_
    assert snapshot.manifest.counts.read == len(live)


@pytest.mark.parametrize("kind", TABLES)
def test_each_night_is_a_full_embedding_of_that_version(
    kind: type, tmp_path: Path, mistral: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    table = kind(f"{tmp_path}/corpus")
    place = Place(table.root, f"{tmp_path}/table", mistral)
    check(night(place, kind)[0], table.live())
    files = set(make_plan(place.config(f"corpus.format={kind.format}")).base.read_shards())

    table.append()
    reads = Reads(monkeypatch)
    snapshot, plan, texts = night(place, kind)
    check(snapshot, table.live())
    added = {record.uri for record in set(snapshot.read_shards()) - files}
    assert added
    assert reads.files == added == {shard.uri for shard, _ in plan.changed}
    assert sorted(texts) == [f"text {number}" for number in range(10, 14)]

    table.delete()
    snapshot, _, texts = night(place, kind)
    check(snapshot, table.live())
    assert texts == []
    assert snapshot.manifest.changes.deleted == 14 - len(table.live()) > 0

    table.update()
    snapshot, _, texts = night(place, kind)
    check(snapshot, table.live())
    assert sorted(texts) == ["text 10 updated", "text 12 updated"]

    plan = make_plan(place.config(f"corpus.format={kind.format}"))
    assert plan.up_to_date
    report = audit(Table.open(plan.store), plan)
    assert not report.failed, report


def test_reading_a_part_of_a_table(tmp_path: Path, mistral: str) -> None:
    """Partitions are selected by the values that the table's log has."""
    table = Delta(f"{tmp_path}/corpus")
    place = Place(table.root, f"{tmp_path}/table", mistral)
    snapshot, _, texts = night(place, Delta, "select.partitions={lang: de}")
    check(snapshot, {id_: row for id_, row in table.live().items() if row[1] == "de"})
    assert len(texts) == 5


@pytest.mark.parametrize("kind", TABLES)
def test_the_version_is_pinned_and_recorded(kind: type, tmp_path: Path, mistral: str) -> None:
    """A plan reads the version that it was made for, however the table goes on; the snapshot names it."""
    table = kind(f"{tmp_path}/corpus")
    place = Place(table.root, f"{tmp_path}/table", mistral)
    plan, before = make_plan(place.config(f"corpus.format={kind.format}")), table.live()
    version = plan.corpus_version
    assert version is not None
    assert version["version"] is not None
    assert f"of version {version['version']} of {version['path']}" in plan.describe()
    table.append()
    make_plan(place.config(f"corpus.format={kind.format}"))  # another plan, of another version
    snapshot = do_plan(plan, encode=vectors_of)
    check(snapshot, before)
    assert [shard.version for shard in list_shards(plan.config.corpus)] == [
        shard.version for shard, _ in sorted(plan.changed, key=lambda item: item[0].uri)
    ]
    assert snapshot.manifest.corpus == version
    assert json.loads(plan.config.to_json())["corpus"]["version"] == version["version"]
    assert snapshot.manifest.format_version == 3
    later, plan, _ = night(place, kind)
    check(later, table.live())
    assert later.manifest.corpus == plan.corpus_version != version
    compacted = compact(Table.open(plan.store), rows_per_file=1000, max_unneeded=0.0, dry_run=False).snapshot
    assert compacted is not None
    assert compacted.manifest.corpus == later.manifest.corpus
    pinned, *_ = night(place, kind, f"corpus.version={version['version']}")
    check(pinned, before)


@pytest.mark.parametrize("kind", TABLES)
def test_a_run_that_was_killed_is_continued_with_its_version(
    kind: type, tmp_path: Path, mistral: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """In the same night, if it can be read still; a trial is not continued."""
    table = kind(f"{tmp_path}/corpus")
    place = Place(table.root, f"{tmp_path}/table", mistral)
    as_table = f"corpus.format={kind.format}"
    killed = make_plan(place.config(as_table))
    create_or_open(killed.store, killed.card)
    RunLog(killed.store, killed, "20990101T000000-a")
    table.append()
    plan = make_plan(place.config(as_table))
    assert plan.corpus_version == killed.corpus_version
    assert "goes on with the version that the unfinished run" in plan.describe()
    assert make_plan(place.config(as_table, "corpus.text=lang")).corpus_version != killed.corpus_version
    with monkeypatch.context() as later:
        tomorrow = killed.store.clock() + 13 * 3600
        later.setattr(LocalStore, "clock", lambda store: tomorrow)
        assert make_plan(place.config(as_table)).corpus_version != killed.corpus_version
    RunLog(killed.store, make_plan(place.config(as_table, "select.limit=1")), "20990101T000000-b")
    newest = make_plan(place.config(as_table))
    assert newest.corpus_version != killed.corpus_version
    assert not newest.continues
    RunLog(killed.store, killed, "20990101T000000-c")
    for shard, _ in killed.changed:
        Path(shard.uri).unlink()
    with pytest.raises(CorpusError, match="no longer exists"):
        make_plan(place.config(as_table))  # of the newest version, which needs the file as well


@pytest.mark.parametrize("kind", TABLES)
@pytest.mark.parametrize("select", ["select.where=\"lang = 'de'\"", "select.ids=[d1, d2, d3, d5, d7]"])
def test_a_filter_selects_live_rows_alone(kind: type, select: str, tmp_path: Path, mistral: str) -> None:
    table = kind(f"{tmp_path}/corpus")
    place = Place(table.root, f"{tmp_path}/table", mistral)
    night(place, kind)
    table.delete()
    live = table.live()
    asked = {f"d{n}" for n in (1, 2, 3, 5, 7)} if "ids" in select else {f"d{n}" for n in range(1, 10, 2)}
    expected = sorted(live[id_][0] for id_ in asked & live.keys())
    assert 0 < len(expected) < len(asked), "some of them are deleted"
    *_, texts = night(place, kind, "table.generation=again", select)
    assert sorted(texts) == expected
