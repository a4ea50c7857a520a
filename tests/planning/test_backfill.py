"""Backfills: a part of the corpus is embedded, or embedded again, and nothing beside it is touched."""

import dataclasses
import os
from pathlib import Path

import pytest
from click.testing import CliRunner

import sfr_batch as sfr
from jobs import backfill
from sfr_batch.checks.audit.auditor import audit
from sfr_batch.config.loading import config_from_dict
from sfr_batch.config.settings import SelectSettings
from sfr_batch.errors import ConfigError
from sfr_batch.format import names
from sfr_batch.pipeline import runner
from sfr_batch.planning.make import make_plan
from sfr_batch.planning.selection import covers
from sfr_batch.storage.stores import open_store
from sfr_batch.table.table import Snapshot, Table
from tests.job_processes import config, documents, put_parquet
from tests.nights import Doc, Place, Writer, docs_of, night, rejects_of, state_of
from tests.repositories import write_repository

SHARDS = {
    "date=2026-11-01/lang=en/a.parquet": "a",
    "date=2026-11-02/lang=en/b.parquet": "b",
    "date=2026-11-03/lang=de/c.jsonl": "c",
}


@pytest.mark.parametrize(
    ("select", "expected"),
    [
        ({}, "abc"),
        ({"shards": ["*.parquet"]}, "ab"),
        ({"shards": ["lang=de/*"]}, "c"),
        ({"shards": ["a.*", "date=2026-11-03/*"]}, "ac"),
        ({"partitions": {"date": "2026-11-02"}}, "b"),
        ({"partitions": {"date": "2026-11-02..2026-11-03"}}, "bc"),
        ({"partitions": {"date": "2026-11-02.."}}, "bc"),
        ({"partitions": {"date": "..2026-11-01"}}, "a"),
        ({"partitions": {"date": "2026-11-02..", "lang": "en"}}, "b"),
        ({"partitions": {"lang": "e*"}}, "ab"),
        ({"partitions": {"nothing": "x"}}, ""),
    ],
)
def test_shards_are_selected_by_name_and_partition(select: dict[str, object], expected: str) -> None:
    settings = SelectSettings.model_validate(select)
    assert "".join(n for uri, n in SHARDS.items() if covers(settings, f"/corpus/{uri}")) == expected


def healthy(snapshot: Snapshot) -> Snapshot:
    found = audit(Table.open(snapshot.store))
    assert found.ok, found.describe()
    return snapshot


@pytest.fixture
def three(nights: tuple[Place, Writer]) -> tuple[Place, Writer]:
    """A table of three shards of nine documents, of which the even ones are German."""
    place, writer = nights
    shards = {}
    for name in "abc":
        docs = docs_of(name, 9)
        shards[f"{name}.parquet"] = [Doc(d.id, d.text, "de" if n % 2 == 0 else "en") for n, d in enumerate(docs)]
    writer.write(shards)
    night(place)
    return place, writer


def test_shards_outside_are_neither_read_nor_deleted(three: tuple[Place, Writer]) -> None:
    place, writer = three
    writer.write({"a.parquet": docs_of("new", 5), "b.parquet": docs_of("b", 3)})
    snapshot, texts = night(place, "select.shards=[a.parquet]")
    assert sorted(texts) == sorted(d.text for d in docs_of("new", 5))
    assert snapshot.manifest.operation == "backfill"
    ids = state_of(healthy(snapshot)).keys()
    assert ids == {d.id for d in [*docs_of("new", 5), *docs_of("b", 9), *docs_of("c", 9)]}
    snapshot, _ = night(place)
    assert state_of(healthy(snapshot)).keys() == {d.id for d in [*docs_of("new", 5), *docs_of("b", 3)]}


def test_shard_that_vanished_goes_only_if_it_is_meant(three: tuple[Place, Writer]) -> None:
    place, writer = three
    writer.write({"a.parquet": writer.now["a.parquet"]})
    snapshot, texts = night(place, "select.shards=['[ab].parquet']")
    assert texts == []
    assert {i[0] for i in state_of(healthy(snapshot))} == {"a", "c"}


def test_rows_by_filter_are_embedded_again_under_a_label(three: tuple[Place, Writer]) -> None:
    place, _ = three
    before = state_of(Table.open(open_store(place.table)).current())
    again = ("table.generation=again", "select.where=\"lang = 'de'\"")
    snapshot, texts = night(place, *again)
    assert len(texts) == 15
    assert state_of(healthy(snapshot)) == before
    _, texts = night(place, *again)
    assert texts == [], "the same label continues, and there is nothing left"
    assert make_plan(place.config()).up_to_date, "a nightly run does not mind"
    _, texts = night(place, "table.generation=third", "select.ids=[a1, c2]")
    assert sorted(texts) == ["text 1 of a", "text 2 of c"]


def test_rejects_are_read_where_they_matter(nights: tuple[Place, Writer]) -> None:
    """Those of other shards are not, nor rows that gave way to another with their id: there may be millions."""
    place, writer = nights
    shards = {f"{name}.parquet": [*docs_of(name, 3), Doc(f"{name}-", "")] for name in "ab"}
    writer.write({**shards, "c.parquet": [Doc("a0", "once more")]})
    first, _ = night(place)
    assert first.manifest.duplicates is not None
    Path(place.table, first.manifest.duplicates).write_bytes(b"no Parquet")
    tried = make_plan(place.config("select.rejects=true", "table.generation=again"))
    assert tried.changed == (), "none of them was rejected after it had been read"
    [of_b] = [r for r in first.read_receipts() if r.rejected and r.shard.endswith("b.parquet")]
    Path(place.table, names.rejects_key(of_b.split_id, of_b.attempt)).write_bytes(b"no Parquet")
    snapshot, texts = night(place, "table.generation=again", "select.ids=[a1]")
    assert texts == ["text 1 of a"]
    [reject] = snapshot.rejects(duplicates=False, shards=frozenset([f"{place.corpus}/a.parquet"])).to_pylist()
    assert (reject["id"], reject["reason"]) == ("a-", names.EMPTY_TEXT)


@pytest.mark.parametrize("label", [(), ("table.generation=again",)])
def test_a_wrong_filter_is_told_before_anything_is_read(label: tuple[str, ...], three: tuple[Place, Writer]) -> None:
    """Also where nothing has changed, so that it would never be applied."""
    place, _ = three
    with pytest.raises(ConfigError, match="there is no column lamg, did you mean lang"):
        make_plan(place.config(*label, "select.where=\"lamg = 'de'\""))


def test_rows_of_a_shard_that_changed_are_replaced_and_the_rest_waits(three: tuple[Place, Writer]) -> None:
    place, writer = three
    docs = [Doc(d.id, f"new {d.text}", d.lang) for d in writer.now["a.parquet"]][1:]
    writer.write({**writer.now, "a.parquet": docs})
    snapshot, texts = night(place, "select.ids=[a1, a2, nowhere]")
    assert sorted(texts) == ["new text 1 of a", "new text 2 of a"]
    assert len(state_of(healthy(snapshot))) == 27, "a0 has left the corpus, and is not meant"
    assert not make_plan(place.config()).up_to_date
    snapshot, texts = night(place)
    assert len(texts) == 6
    assert len(state_of(healthy(snapshot))) == 26


@pytest.mark.parametrize("rule", ["first", "last"])
@pytest.mark.parametrize("left", ["some", "none", "no shard"])
def test_a_selected_row_that_has_moved_leaves_its_old_shard(nights: tuple[Place, Writer], left: str, rule: str) -> None:
    """Of which no row is selected: what else it had stays, and the next night reads it, even if it is as before."""
    place, writer = nights
    settings = f"table.duplicate_ids={rule}"
    a = [*docs_of("a", 1), *([Doc("r", ""), *docs_of("a", 9)[1:]] if left != "none" else [])]
    b = [Doc("a0", "anew"), *docs_of("b", 9)]
    writer.write({"a.parquet": a, "b.parquet": b[1:], "c.parquet": docs_of("c", 3)})
    first, _ = night(place, settings)
    restored = {path: (path.read_bytes(), path.stat()) for path in Path(place.corpus).glob("*.parquet")}
    others = {"b.parquet": b, "c.parquet": docs_of("c", 3)}
    writer.write(others if left == "no shard" else {**others, "a.parquet": [*a[1:], Doc("a9", "new")]})
    snapshot, texts = night(place, settings, "select.ids=[a0]")
    assert texts == ["anew"]
    state, before = state_of(healthy(snapshot)), state_of(first)
    assert state.keys() == before.keys()
    assert [id_ for id_ in state if state[id_] != before[id_]] == ["a0"]
    assert rejects_of(snapshot) == rejects_of(first), "no row is a second one of its id"
    assert snapshot.manifest.counts.vectors == len(state)

    for path, (data, times) in restored.items():
        path.write_bytes(data)
        os.utime(path, ns=(times.st_atime_ns, times.st_mtime_ns))
    snapshot, texts = night(place, settings, "corpus.ctime=false")
    assert set(texts) <= {"text 0 of a"}
    assert state_of(healthy(snapshot)) == before


def test_a_second_row_of_an_id_is_not_taken_for_one_that_has_moved(nights: tuple[Place, Writer]) -> None:
    """Under a label all shards are read. The first row still counts, whether its shard has a selected row or not."""
    place, writer = nights
    writer.write(
        {
            "a.parquet": [Doc("x", "first"), *docs_of("a", 2)],
            "b.parquet": [Doc("y", "first"), Doc("b", "german", "de")],
            "c.parquet": [Doc("x", "second", "de"), Doc("y", "second", "de")],
        }
    )
    first, _ = night(place)
    snapshot, texts = night(place, "table.generation=again", "select.where=\"lang = 'de'\"")
    assert sorted(texts) == ["german", "second", "second"]
    assert state_of(healthy(snapshot)) == state_of(first)
    assert rejects_of(snapshot) == rejects_of(first)
    assert make_plan(place.config()).up_to_date


@pytest.mark.parametrize("select", ["select.shards=[b.parquet]", "select.ids=[b1]"])
def test_rows_that_are_kept_stay_in_a_backfill(three: tuple[Place, Writer], select: str) -> None:
    place, writer = three
    writer.write({**writer.now, "a.parquet": writer.now["a.parquet"][4:]})
    night(place, "table.delete=keep")
    writer.write({**writer.now, "b.parquet": [Doc("b1", "anew"), *writer.now["b.parquet"][2:]]})
    snapshot, texts = night(place, select)
    assert texts == ["anew"]
    counts = healthy(snapshot).manifest.counts
    gone = 0 if "ids" in select else 1
    assert (counts.kept, counts.vectors) == (4, 27 - gone)
    snapshot, _ = night(place)
    assert healthy(snapshot).manifest.counts.model_dump()["kept"] == 0
    assert len(state_of(snapshot)) == 5 + 8 + 9


def test_backfill_begins_a_table(nights: tuple[Place, Writer]) -> None:
    place, writer = nights
    writer.write({"a.parquet": docs_of("a", 9), "b.parquet": docs_of("b", 9)})
    snapshot, texts = night(place, "select.ids=[a1]")
    assert texts == ["text 1 of a"]
    assert state_of(healthy(snapshot)).keys() == {"a1"}
    snapshot, texts = night(place)
    assert len(texts) == 17
    assert len(state_of(healthy(snapshot))) == 18


def test_selection_that_means_nothing_is_refused(three: tuple[Place, Writer]) -> None:
    place, _ = three
    with pytest.raises(
        ConfigError,
        match=r"select matches none of the 3 shards of the corpus, e\.g\. .*a\.parquet\. Correct select\.shards",
    ):
        make_plan(place.config("select.shards=[x]"))
    with pytest.raises(ConfigError, match=r"select\.rejects needs table\.generation, so that"):
        place.config("select.rejects=true")


def test_a_column_that_only_vanished_shards_could_have_is_named(three: tuple[Place, Writer]) -> None:
    place, writer = three
    writer.write({"a.parquet": writer.now["a.parquet"]})
    with pytest.raises(
        ConfigError, match=r"no longer in the corpus, and corpus\.carry names a column .* Restore corpus\.carry"
    ):
        make_plan(place.config("select.shards=[b.parquet]", "corpus.carry=[lang, title]"))


def test_rows_that_are_nowhere_are_no_snapshot(three: tuple[Place, Writer]) -> None:
    place, _ = three
    before = Table.open(open_store(place.table)).current().number
    done = runner.embed(place.config("table.generation=x", "select.ids=[nowhere]"))
    assert (done.published, done.splits) == (False, 0)
    assert done.snapshot is not None
    assert done.snapshot.number == before
    assert done.describe().startswith("Nothing to do: select matches no row of the corpus.\nTable ")
    night(place, "table.generation=x", "select.ids=[a1]")
    done = runner.embed(place.config("table.generation=x", "select.ids=[a1]"))
    assert (done.published, done.splits) == (False, 0), "the same label once more"
    assert done.describe().startswith("Up to date, nothing to do")
    place = dataclasses.replace(place, table=f"{place.table}-new")
    done = runner.embed(place.config("select.ids=[nowhere]"))
    assert (done.published, done.snapshot) == (False, None)
    assert "select matches no row" in done.describe()
    with pytest.raises(ConfigError, match=r"there is no table yet, so no row was rejected"):
        make_plan(place.config("table.generation=x", "select.rejects=true"))


def test_job_wants_to_know_what_to_backfill(tmp_path: Path) -> None:
    config = tmp_path / "job.yaml"
    config.write_text("{corpus: {path: x}, model: {path: y, device: cpu}, table: {path: z}, run: {actors: {gpus: 0}}}")
    result = CliRunner().invoke(backfill.main, [str(config)])
    assert result.exit_code == 2
    assert "Nothing to backfill: set select.shards" in result.output
    assert config_from_dict({"corpus": {"path": "x"}, "model": {"path": "y"}, "table": {"path": "z"}}).select.everything


# --- with a model


@pytest.fixture(scope="module")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_repository(tmp_path_factory.mktemp("model") / "tiny", max_seq_length=16)


def test_rejects_are_tried_again_once_under_a_label(tiny: Path, tmp_path: Path) -> None:
    long = " ".join(["far too long"] * 50)
    put_parquet(f"{tmp_path}/corpus/a.parquet", documents(["short", long, "", "just as short"], "a"))
    put_parquet(f"{tmp_path}/corpus/b.parquet", documents(["brief", "and so on"], "b"))
    settings = ("model.overflow=reject", "run.max_reject_share=1")
    first = sfr.embed(config(tiny, str(tmp_path), *settings, ray_address="none"))
    assert first.snapshot is not None
    before = first.snapshot.rejects().to_pylist()
    again = config(tiny, str(tmp_path), *settings, "table.generation=again", "select.rejects=true", ray_address="none")
    plan = make_plan(again)
    assert [shard.uri.rsplit("/")[-1] for shard, _ in plan.changed] == ["a.parquet"]
    second = sfr.embed(again)
    assert (second.splits, second.embedded) == (1, 0), "one row, which is still too long"
    assert second.snapshot is not None
    assert sorted(map(str, healthy(second.snapshot).rejects().to_pylist())) == sorted(map(str, before))
    assert state_of(second.snapshot) == state_of(first.snapshot)
    third = sfr.embed(again)
    assert (third.published, third.splits) == (False, 0), "once under each label"


def test_trial_embeds_some_rows_and_publishes_nothing(tiny: Path, tmp_path: Path) -> None:
    put_parquet(f"{tmp_path}/corpus/a.parquet", documents([f"text {n}" for n in range(40)]), row_group_size=8)
    settings = config(tiny, str(tmp_path), "run.rows_per_split=8", "run.min_splits=1", ray_address="none")
    trial = sfr.embed(settings, ["select.limit=10"])
    assert (trial.splits, trial.embedded, trial.published, trial.snapshot) == (2, 16, False, None)
    assert "Trial: embedded 16 rows" in trial.describe()
    assert "no snapshot yet" in repr(trial)
    assert Table.open(open_store(settings.table.path)).latest() is None
    whole = sfr.embed(settings)
    assert whole.published
    put_parquet(f"{tmp_path}/corpus/a.parquet", documents([f"text {n}" for n in range(39)]), row_group_size=8)
    nothing = sfr.embed(settings, ["select.limit=10"])
    assert nothing.describe().startswith("Trial: embedded 0 rows"), "a document has gone, so it is not up to date"
    assert whole.splits <= 3, "the trial's splits are not done again"
