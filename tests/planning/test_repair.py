"""Repairs: whatever is lost or flipped, the table is whole again, and only rows of lost files were encoded."""

import contextlib
import dataclasses
import os
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from sfr_batch.api import open_table
from sfr_batch.checks.audit.auditor import audit
from sfr_batch.checks.audit.data_file import look_into_data_file
from sfr_batch.errors import ConfigError, SnapshotConflict, TableDamaged, TableError, TableMismatch
from sfr_batch.format import names
from sfr_batch.format.parquet import read_data_file
from sfr_batch.format.records import Receipt
from sfr_batch.pipeline import runner
from sfr_batch.pipeline.repair import repair
from sfr_batch.planning.comparison import compare
from sfr_batch.planning.make import make_plan
from sfr_batch.planning.rebuilding import remains_of_files
from sfr_batch.planning.repairing import find_gone
from sfr_batch.storage.executor import InProcess
from sfr_batch.storage.stores import open_store
from sfr_batch.table.commit import status
from sfr_batch.table.commit.compaction import carry_out, find_compaction
from sfr_batch.table.commit.expiry import expire
from sfr_batch.table.commit.publish import condemn, publish
from sfr_batch.table.commit.remains import find_remains
from sfr_batch.table.table import Snapshot, Table
from tests.nights import (
    Counting,
    Doc,
    Place,
    Writer,
    docs_of,
    expected_vectors,
    night,
    rejects_of,
    small_tasks,
    state_of,
)
from tests.tables import do_plan, draft_of

pytestmark = pytest.mark.usefixtures("one_look_at_the_model")

EXAMPLES = int(os.environ.get("SFR_EXAMPLES", "6"))


def mended(place: Place, *overrides: str, deep: bool = True) -> tuple[Snapshot | None, list[str]]:
    """A repair, and the texts that it encoded; None if nothing is lost."""
    store, look = open_store(place.table), look_into_data_file if deep else None
    try:
        remains = find_remains(Table.open(store), look)
    except TableDamaged:
        remains = remains_of_files(place.config(*overrides), store, look)
    assert remains is not None
    if remains.inventory.sound:
        return None, []
    counting = Counting()
    return do_plan(make_plan(place.config(*overrides), remains=remains), encode=counting), counting.texts


def _ids(table: Table, receipt: Receipt) -> list[str]:
    """Of the documents in a data file."""
    found = read_data_file(table.store, receipt, [names.ID], table.card.fingerprint)
    return list(found.column(0).to_pylist())


HISTORIES = ["first", "nights", "compacted", "kept", "last", "columns", "lent"]


def history(kind: str, place: Place, writer: Writer) -> tuple[str, ...]:
    """A table with one past or another; returns the overrides of its config."""
    a, b, c = docs_of("a", 9), docs_of("b", 9), docs_of("c", 5)
    b[2] = Doc("b2", "")
    c[4] = Doc("a1", "loses to the first shard")
    writer.write({"a.parquet": a, "b.jsonl": b, "c.parquet": c})
    overrides = {
        "kept": ("table.delete=keep",),
        "last": ("table.duplicate_ids=last",),
        "lent": (f"table.reuse_from={place.table}-lender",),
    }.get(kind, ())
    if kind == "lent":
        night(dataclasses.replace(place, table=f"{place.table}-lender"))
    night(place, *overrides, *(["corpus.carry={lang: lang, again: id}"] if kind == "columns" else []))
    if kind == "first":
        return ()
    a[3], b[4] = Doc("a3", "another text"), Doc("b4", b[4].text, "de")
    writer.write({"a.parquet": [*a, Doc("new", "a new text")], "b.jsonl": [*b[1:], *c[:2]], "c.parquet": c[2:]})
    night(place, *overrides)
    if kind == "compacted":
        table = Table.open(open_store(place.table))
        found = find_compaction(table.current(), rows_per_file=8)
        assert found.groups
        carry_out(table, found)
    elif kind in ("nights", "columns"):
        writer.write({"a.parquet": a[2:], "b.jsonl": [*b[1:], *c[:2]], "d.parquet": docs_of("d", 6)})
        night(place)
    return overrides


Pasts = Callable[[str], tuple[Place, Writer, tuple[str, ...]]]


@pytest.fixture
def pasts(tmp_path: Path, mistral: str) -> Pasts:
    """By kind, a table with such a past, as it was: each is made once and copied back."""
    made: dict[str, tuple[Place, Writer, tuple[str, ...]]] = {}

    def past(kind: str) -> tuple[Place, Writer, tuple[str, ...]]:
        root = tmp_path / kind
        if kind not in made:
            place, writer = Place(f"{root}/corpus", f"{root}/table", mistral), Writer(f"{root}/corpus")
            made[kind] = place, writer, history(kind, place, writer)
            shutil.copytree(root / "table", root / "copy")
        shutil.rmtree(root / "table")
        shutil.copytree(root / "copy", root / "table")
        return made[kind]

    return past


def flip(file: Path, place: int) -> None:
    """A bit of the byte at ``place``."""
    data = bytearray(file.read_bytes())
    data[place] ^= 0x10
    file.write_bytes(data)


@settings(max_examples=EXAMPLES, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(data=st.data(), kind=st.sampled_from(HISTORIES))
def test_whatever_is_lost_or_flipped(data: st.DataObject, kind: str, pasts: Pasts) -> None:
    with small_tasks(4) if data.draw(st.booleans()) else contextlib.nullcontext():
        lose_or_flip(data, kind, pasts)


def lose_or_flip(data: st.DataObject, kind: str, pasts: Pasts) -> None:
    place, writer, overrides = pasts(kind)
    table = Table.open(open_store(place.table))
    before = table.current()
    state, rejects, receipts = state_of(before), rejects_of(before), list(before.read_receipts())
    by_file = {r.split_id: _ids(table, r) for r in receipts}
    texts = {doc.text for docs in writer.now.values() for doc in docs}
    manifest = names.manifest_key(before.number)
    needed = sorted(before.needs() | {manifest, names.TABLE_JSON})
    damaged = data.draw(st.lists(st.sampled_from(needed), min_size=1, max_size=3, unique=True))
    for key in damaged:
        file = Path(place.table) / key
        hows = {manifest: ["cut"], names.TABLE_JSON: ["delete"]}  # of these, other losses are seen by other tests
        how = data.draw(st.sampled_from(hows.get(key, ["delete", "cut", "flip"])))
        if how == "delete":
            file.unlink()
        elif how == "cut":
            file.write_bytes(file.read_bytes()[:-7])
        else:
            flip(file, int(file.stat().st_size * data.draw(st.floats(0, 1, exclude_max=True))))
    if data.draw(st.sampled_from([False, False, False, False, True])):
        shutil.rmtree(Path(place.table) / "_sfr")
    kept = before.manifest.counts.kept
    gone_for_good = repair(place.config(*overrides), look_into_data_file).gone if kept else ()
    snapshot, encoded = mended(place, *overrides)
    plan = make_plan(place.config(*overrides))
    report = audit(Table.open(table.store), plan)
    assert report.ok, report.describe()
    if snapshot is None:
        return
    condemned = snapshot.read_condemned()
    gone = condemned | set(map(names.split_of_data_key, damaged))
    lost = {id_ for split_id, ids in by_file.items() if split_id in gone for id_ in ids}
    docs = [doc for docs in writer.now.values() for doc in docs]
    allowed = [doc.text for doc in docs if doc.id in lost]
    assert len(encoded) <= len(allowed)
    assert set(encoded) <= set(allowed) <= texts
    assert set(by_file) & condemned <= {
        names.split_of_data_key(key) or (names.split_and_attempt_of_rejects_key(key) or ("",))[0] for key in damaged
    }
    assert rejects_of(snapshot) == rejects
    if kept:
        # Without a manifest nobody knows what was in a data file that is lost, too.
        known = snapshot.manifest.parent and manifest not in damaged
        missing = state.keys() - state_of(snapshot).keys() - (set() if known else lost)
        assert len(missing) <= sum(item.documents for item in gone_for_good)
    if not kept:
        assert state_of(snapshot) == state
        if kind != "last":
            expected_vectors(snapshot, writer.now)
    else:
        assert state_of(snapshot).items() <= state.items()
    assert make_plan(place.config(*overrides)).up_to_date


# --- one by one


def start(nights: tuple[Place, Writer], kind: str = "nights") -> tuple[Place, Writer, Table, Snapshot]:
    place, writer = nights
    history(kind, place, writer)
    table = Table.open(open_store(place.table))
    return place, writer, table, table.current()


def file_of(place: Place, receipt: Receipt) -> Path:
    return Path(place.table) / names.data_key(receipt.split_id)


def test_a_lost_file_is_noticed_by_listing(nights: tuple[Place, Writer]) -> None:
    place, _, table, snapshot = start(nights)
    one, two, *_ = snapshot.read_receipts()
    file_of(place, one).unlink()
    file_of(place, two).write_bytes(b"short")
    plan = make_plan(place.config())
    assert plan.lost.keys() == {one.split_id, two.split_id}
    assert "damaged, `embed` refuses: 2 files are lost, e.g. data/" in plan.describe()
    assert "up to date" not in plan.describe() + repr(plan)
    with pytest.raises(TableDamaged, match=r"so nothing was done\. Of snapshot 3, 2 files are lost"):
        runner.embed(place.config())
    assert "damage    of snapshot 3, 2 files are lost, e.g. data/" in status.describe(table)
    with pytest.raises(TableError, match=r"is missing\. `sfr-batch repair CONFIG`"):
        publish(table, snapshot, draft_of(snapshot.read_receipts(), snapshot))


def test_a_name_that_a_sweep_has_condemned_too_late(nights: tuple[Place, Writer]) -> None:
    """A run publishes a file before the sweep that takes it for an orphan: what the sweep wrote condemns nothing."""
    place, _, table, snapshot = start(nights)
    state = state_of(snapshot)
    kept, lost, *_ = sorted(snapshot.read_receipts(), key=lambda r: r.split_id in table.snapshot(2).split_ids())
    with pytest.raises(SnapshotConflict):
        condemn(table, table.snapshot(2), [kept.split_id])
    file_of(place, lost).unlink()
    repaired, texts = mended(place)
    assert repaired is not None
    assert kept.split_id in repaired.split_ids()
    assert repaired.read_condemned() == {lost.split_id}
    assert 0 < len(texts) <= lost.embedded
    assert state_of(repaired) == state


def test_what_is_lost_of_an_older_snapshot_stays_lost_and_can_expire(nights: tuple[Place, Writer]) -> None:
    place, _, table, snapshot = start(nights)
    first = table.snapshot(1)
    lost = next(r for r in snapshot.read_receipts() if r.split_id in first.split_ids())
    file_of(place, lost).unlink()
    repaired, texts = mended(place, deep=False)
    assert repaired is not None
    assert repaired.manifest.operation == "repair"
    assert repaired.manifest.format_version == names.FORMAT_OF_DEAD_ROWS
    assert lost.split_id in repaired.read_condemned()
    assert lost.split_id not in repaired.split_ids()
    assert 0 < len(texts) <= lost.embedded
    told = status.describe(table)
    assert "damage    of snapshot 1, 1 file is lost" in told
    assert "Newer snapshots do without; `sfr-batch expire` removes this one" in told
    assert "damage    of snapshot 4" not in told
    assert "3 snapshots up to 3 lack files since before a repair" in str(audit(table)["data files"])
    with pytest.raises(TableDamaged, match=r"Snapshot 1 of .* is damaged: .*parquet does not exist\. Read snapshot 4;"):
        first.to_arrow()
    assert table.snapshot(4).to_arrow().num_rows
    expire(table, keep_last=1, dry_run=False)
    assert "damage" not in status.describe(table)
    assert "lack" not in str(audit(table)["data files"])
    assert mended(place) == (None, [])


def test_only_the_rows_of_the_lost_file_though_the_corpus_went_on(nights: tuple[Place, Writer]) -> None:
    """Other shards are left to the next night; of an affected one that has changed, rows stay until then."""
    place, writer, table, snapshot = start(nights, "first")
    before = state_of(snapshot)
    uri = f"{place.corpus}/a.parquet"
    lost, *others = [r for r in snapshot.read_receipts() if r.shard == uri]
    assert others
    gone = set(_ids(table, lost))
    writer.write({**writer.now, "b.jsonl": [*writer.now["b.jsonl"], Doc("tomorrow", "of another shard")]})
    file_of(place, lost).unlink()
    repaired, texts = mended(place, deep=False)
    assert repaired is not None
    assert len(texts) == len(gone)
    assert state_of(repaired) == before, "the other shard is as it was"
    plan = make_plan(place.config())
    assert [shard.uri.rsplit("/")[-1] for shard, _ in plan.changed] == ["b.jsonl"]
    night(place)
    assert audit(table, make_plan(place.config())).ok


@pytest.mark.parametrize("kind", ["first", "nights"])
def test_a_shard_that_lost_rows_and_has_changed_since(kind: str, nights: tuple[Place, Writer]) -> None:
    place, writer, table, snapshot = start(nights, kind)
    before = state_of(snapshot)
    lost = max((r for r in snapshot.read_receipts() if r.shard.endswith("a.parquet")), key=lambda r: r.start)
    gone = set(_ids(table, lost)) & before.keys()
    survivor = next(doc for doc in writer.now["a.parquet"] if doc.id in before and doc.id not in gone)
    left = [doc for doc in writer.now["a.parquet"] if doc.id != survivor.id]
    writer.write({**writer.now, "a.parquet": left})
    file_of(place, lost).unlink()
    repaired, texts = mended(place, deep=False)
    assert repaired is not None
    assert len(texts) == len(gone), "rows of the lost file"
    assert state_of(repaired) == before, "a document that has left stays until the next night"
    _, texts = night(place)
    assert texts == []
    assert audit(table, make_plan(place.config())).ok
    assert survivor.id not in state_of(table.current())


def test_kept_documents_of_a_lost_file_are_gone_for_good(nights: tuple[Place, Writer]) -> None:
    place, writer, table, _ = start(nights, "kept")
    writer.write({name: docs for name, docs in writer.now.items() if name != "a.parquet"})
    kept, _ = night(place, "table.delete=keep")
    lost = next(r for r in kept.read_receipts() if r.shard.endswith("a.parquet"))
    before = set(state_of(kept))
    ids = set(_ids(table, lost)) & before
    assert ids
    file_of(place, lost).unlink()
    remains = find_remains(table)
    assert remains is not None
    plan = make_plan(place.config("table.delete=keep"), remains=remains)
    comparison = compare(plan, InProcess())
    (gone,) = find_gone(remains, {shard.uri: shard.version for shard, _ in plan.changed}, comparison.rows)
    assert str(gone) == f"{len(ids)} documents that had left the corpus, kept until now (table.delete)"
    repaired, texts = mended(place, "table.delete=keep", deep=False)
    assert texts == []
    assert repaired is not None
    assert set(state_of(repaired)) == before - ids | {"a1"}, "of which another shard has one, too"
    assert audit(table, make_plan(place.config("table.delete=keep"))).ok
    shutil.rmtree(Path(place.table) / "_sfr")
    told = repair(place.config("table.delete=keep")).describe()
    assert "gone      8 documents in data files, which have left the corpus and may have been kept" in told
    assert "gone" not in repair(place.config()).describe()


def test_a_shard_that_is_no_longer_there(nights: tuple[Place, Writer]) -> None:
    place, writer, table, snapshot = start(nights, "first")
    before = state_of(snapshot)
    lost = next(r for r in snapshot.read_receipts() if r.shard.endswith("a.parquet"))
    ids = set(_ids(table, lost)) & before.keys()
    writer.write({name: docs for name, docs in writer.now.items() if name != "a.parquet"})
    file_of(place, lost).unlink()
    with pytest.raises(TableError, match=rf"{len(ids)} documents of .*a\.parquet, which is no longer in the corpus"):
        repair(place.config(), write=True)
    assert table.published_numbers() == [1]
    assert "--accept-loss" in repair(place.config()).describe()
    repaired = repair(place.config(), write=True, accept_loss=True)
    assert repaired.summary is not None
    left = {id_: row for id_, row in state_of(table.current()).items() if id_ != "a1"}  # which another shard has, too
    assert left == {id_: row for id_, row in before.items() if id_ not in ids}
    night(place)
    assert audit(table, make_plan(place.config())).ok


def test_other_settings_of_the_corpus_are_refused(nights: tuple[Place, Writer]) -> None:
    place, _, _, snapshot = start(nights, "first")
    file_of(place, snapshot.read_receipts()[0]).unlink()
    with pytest.raises(ConfigError, match=r"corpus\.text: a repair reads the rows as the last run did"):
        repair(place.config("corpus.text='{lang} {text}'"))


# --- without manifests


@pytest.mark.parametrize("kind", ["nights", "compacted"])
def test_a_table_whose_sfr_was_deleted(kind: str, nights: tuple[Place, Writer]) -> None:
    """Nothing is encoded but what was in no data file, and no number of the lost history can be won any more."""
    place, _, table, snapshot = start(nights, kind)
    state, rejects = state_of(snapshot), rejects_of(snapshot)
    lost = snapshot.read_receipts()[0]
    ids = _ids(table, lost)
    shutil.rmtree(Path(place.table) / "_sfr")
    file_of(place, lost).unlink()
    for command in (lambda: make_plan(place.config()), lambda: open_table(place.table)):
        with pytest.raises(TableDamaged, match=r"has lost its _sfr/table.json, but data/ has \d+ data files"):
            command()
    told = repair(place.config()).describe()
    assert "_sfr is lost, and with it all snapshots" in told
    assert not (Path(place.table) / "_sfr").exists()
    counting = Counting()
    remains = remains_of_files(place.config(), table.store, None)
    rebuilt = do_plan(make_plan(place.config(), remains=remains), encode=counting)
    assert (kind != "compacted") <= len(counting.texts) <= len(ids), "the files before a compaction are there, too"
    assert state_of(rebuilt) == state
    assert rejects_of(rebuilt) == rejects
    assert rebuilt.number > 1_700_000_000
    assert rebuilt.manifest.parent is None
    report = audit(Table.open(table.store), make_plan(place.config()))
    assert report.ok, report.describe()
    assert "a repair has begun this history, earlier snapshots are lost" in str(report["snapshots"])
    assert make_plan(place.config()).up_to_date
    assert mended(place) == (None, [])


def test_data_files_of_another_model_make_no_table(nights: tuple[Place, Writer]) -> None:
    place, _, table, _ = start(nights, "first")
    shutil.rmtree(Path(place.table) / "_sfr")
    with pytest.raises(TableMismatch, match=r"no _sfr\. Their fingerprint is \w{12}, that of this config"):
        remains_of_files(place.config("model.max_length=7"), table.store, None)


def test_a_lost_card_is_made_again(nights: tuple[Place, Writer]) -> None:
    place, _, _, snapshot = start(nights)
    (Path(place.table) / names.TABLE_JSON).unlink()
    done = repair(place.config(), write=True)
    assert "_sfr/table.json is missing" in done.describe()
    table = Table.open(snapshot.store)
    assert state_of(table.current()) == state_of(snapshot)
    assert table.current().number == snapshot.number + 1
    assert audit(table, make_plan(place.config())).ok


def test_a_damaged_manifest(nights: tuple[Place, Writer]) -> None:
    """Of the newest snapshot: its rows are published anew, and older snapshots that are whole stay."""
    place, _, table, snapshot = start(nights)
    (Path(place.table) / names.manifest_key(3)).write_bytes(b"{")
    with pytest.raises(TableError, match=r"00000003.json is damaged: .*`sfr-batch repair CONFIG` shows"):
        make_plan(place.config())
    found = repair(place.config()).describe()  # nothing that only the damaged manifest knew, and no advice to repair
    head = f"table     {place.table} (snapshot 3, whose manifest is damaged)"
    wrong = "lost      _sfr/snapshots/00000003.json is damaged: "
    assert [line.partition(": ")[0] for line in found.splitlines()[:2]] == [head, wrong.partition(": ")[0]]
    assert "sfr-batch repair" not in found
    repaired, texts = mended(place)
    assert repaired is not None
    assert (repaired.number, repaired.manifest.parent, texts) == (4, 3, [])
    assert state_of(repaired) == state_of(snapshot)
    assert table.snapshot_numbers() == [1, 2, 4]
    report = audit(table, make_plan(place.config()))
    assert report.ok, report.describe()
    assert "1 manifest of expired snapshots cannot be read" in str(report["snapshots"])


def test_a_missing_side_file_is_told_in_one_line(nights: tuple[Place, Writer]) -> None:
    place, _, _, snapshot = start(nights)
    key = snapshot.manifest.shards.name
    (Path(place.table) / key).unlink()
    assert f"\nlost      {key} is missing\n" in repair(place.config()).describe()


def test_a_damaged_manifest_of_an_older_snapshot_can_expire(nights: tuple[Place, Writer]) -> None:
    place, _, table, _ = start(nights)
    (Path(place.table) / names.manifest_key(2)).write_bytes(b"{")
    assert not audit(table).ok
    with pytest.raises(TableError, match=r"00000002.json is damaged.*`sfr-batch expire` gives the snapshot up"):
        expire(table, keep_last=3)
    assert expire(table, keep_last=1, dry_run=False).snapshots == (1, 2)
    assert audit(table).ok


def test_a_missing_manifest_is_said(nights: tuple[Place, Writer]) -> None:
    """Of an older snapshot it shows as a gap, of the newest in the report of its run."""
    place, _, table, _ = start(nights)
    older = Path(place.table) / names.manifest_key(2)
    older.unlink()
    told = "manifest _sfr/snapshots/00000002.json is missing between snapshots 1 and 3. Restore it from a copy."
    assert f"damage    {told}" in status.describe(table)
    assert "has no snapshot 2. Available: 1, 3." in str(audit(table)["snapshots"])
    (Path(place.table) / names.manifest_key(1)).unlink()
    assert "damage    manifest _sfr/snapshots/00000002.json is missing before snapshot 3." in status.describe(table)
    assert expire(table, keep_last=1).snapshots == (2,)
    expire(table, keep_last=1, dry_run=False)
    assert audit(table).ok
    assert "damage" not in status.describe(table)
    report = Path(place.table) / names.run_key("20991231T000000-00000000", names.RUN_REPORT)
    report.parent.mkdir(parents=True)
    report.write_text('{"snapshot": 5}')
    line = status.describe(table).splitlines()[-1]
    assert "_sfr/snapshots/00000005.json is missing, which a run has published. Restore it from a copy." in line
    assert "manifest  _sfr/snapshots/00000005.json is missing" in repair(place.config()).describe()
    assert "_sfr/snapshots/00000005.json is missing" in str(audit(table)["snapshots"])
    later = Path(place.table) / names.run_key("20301231T000000-00000000", names.RUN_REPORT)  # by a clock that is right
    later.parent.mkdir(parents=True)
    later.write_text('{"snapshot": 6}')
    os.utime(report, (1, 1))
    assert "_sfr/snapshots/00000006.json is missing" in status.describe(table)


def test_a_missing_manifest_of_the_last_run_stops_no_reader(nights: tuple[Place, Writer], tmp_path: Path) -> None:
    """What looks for the last run behind an expiry or a sweep does without it."""
    place, _, table, _ = start(nights)
    expire(table, keep_last=1, dry_run=False)
    (Path(place.table) / names.manifest_key(3)).unlink()
    assert "00000003.json is missing between snapshots" in status.describe(table)
    assert table.export(tmp_path / "exported").rows == table.current().manifest.counts.vectors
