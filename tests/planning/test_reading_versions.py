"""Shards that an older release has read otherwise are read again, and no others; what stays the same is not encoded."""

import io
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from sfr_batch.checks.audit.auditor import audit
from sfr_batch.corpus import reading_version
from sfr_batch.corpus.reading_version import Change
from sfr_batch.planning.plan import EmbedPlan
from sfr_batch.table.table import Table
from tests.planning.test_planning import do_plan, plan_of
from tests.tables import jsonl, parquet, put

CARRY_PRICE = "corpus.carry=[price]"


@pytest.fixture
def here(tmp_path: Path, mistral: str) -> tuple[str, str]:
    for name in ("a", "b"):
        put(str(tmp_path), f"corpus/{name}.jsonl", jsonl([{"id": name, "text": f"text {name}", "year": 2000}]))
    put(str(tmp_path), "corpus/c.csv", b"id,text,year\nc,text c,2000\n")
    return str(tmp_path), mistral


def newer_release(monkeypatch: pytest.MonkeyPatch, *changes: Change) -> None:
    monkeypatch.setattr(reading_version, "CHANGES", changes)


def names_of(plan: EmbedPlan) -> list[str]:
    return [Path(shard.uri).name for shard, _ in plan.changed]


def of_lines(version: int, what: str) -> Change:
    return Change("jsonl", version, what, lambda subject: "b.jsonl" not in subject.shard.uri)


def test_only_shards_that_a_change_can_touch_are_read_again(
    here: tuple[str, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    newer_release(monkeypatch)
    first = do_plan(plan_of(here))
    recipes = {record.recipe for record in first.read_shards()}
    assert len(recipes) == 1
    newer_release(monkeypatch, of_lines(2, "blue is read as red"))
    plan = plan_of(here)
    assert names_of(plan) == ["a.jsonl"]
    assert plan.row_recipe == first.manifest.row_recipe, "the settings are the same"
    assert (
        f"1 unchanged shard, e.g. {here[0]}/corpus/a.jsonl, read again: since an older release has read them, blue is "
        "read as red. Rows that stay the same are not embedded again" in plan.describe()
    )
    second = do_plan(plan)
    assert (second.manifest.counts.embedded, second.manifest.counts.reused) == (0, 3)
    records = {Path(record.uri).name: record.recipe for record in second.read_shards()}
    assert records["b.jsonl"] == records["c.csv"] == recipes.pop() != records["a.jsonl"]
    assert plan_of(here).up_to_date

    newer_release(monkeypatch, of_lines(2, "blue is read as red"), of_lines(3, "red is read as green"))
    third = plan_of(here)
    assert [reread.what for reread in third.reread] == ["red is read as green"]


def test_another_setting_or_a_new_version_is_not_put_down_to_the_release(
    here: tuple[str, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    newer_release(monkeypatch)
    do_plan(plan_of(here))
    newer_release(monkeypatch, of_lines(2, "blue is read as red"))
    assert not plan_of(here, 'corpus.text="{text}!"').reread
    put(here[0], "corpus/a.jsonl", jsonl([{"id": "a", "text": "another text", "year": 2000}]))
    assert not plan_of(here).reread


def test_a_split_of_the_older_reading_is_not_taken_for_one_of_today(
    here: tuple[str, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    newer_release(monkeypatch)
    before = plan_of(here)
    newer_release(monkeypatch, of_lines(2, "blue is read as red"))
    after = plan_of(here)
    ids = [[split.split_id for split in plan.splits] for plan in (before, after)]
    assert [a == b for a, b in zip(*ids, strict=True)] == [False, True, True]
    shards = [shard for shard, _ in after.changed]
    assert after.recipes.of_several(shards) not in {after.recipes.of(shard) for shard in shards}
    assert after.recipes.of_several(shards[1:]) == after.recipes.of(shards[1])


def test_every_change_says_a_format_and_a_version_above_1() -> None:
    for change in reading_version.CHANGES:
        assert change.format in ("parquet", "jsonl", "csv", "text")
        assert change.version > 1
        assert change.what[-1] != "."


# --- the changes that there are


def test_values_that_an_older_release_has_cut_are_found_and_corrected(
    tmp_path: Path, mistral: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A price of 19.99 in a column of whole numbers was 19."""
    here = str(tmp_path), mistral
    rows = [{"id": str(n), "text": f"text {n}", "price": price} for n, price in enumerate((0, 1, 2.99))]
    put(here[0], "corpus/a.jsonl", jsonl(rows))
    put(here[0], "corpus/b.parquet", parquet(pa.table({"id": ["p"], "text": ["p"], "price": [7]})))
    put(here[0], "corpus/c.parquet", parquet(pa.table({"id": ["q"], "text": ["q"], "price": [8]})))
    with monkeypatch.context() as older:
        older.setattr(reading_version, "CHANGES", ())
        older.setattr("sfr_batch.corpus.rows.exact_value", lambda value, kind: pa.scalar(value, kind).as_py())
        plan = plan_of(here, CARRY_PRICE)
        do_plan(plan)
    assert sorted(Table.open(plan.store).to_arrow(["price"]).column(0).to_pylist()) == [0, 1, 2, 7, 8]
    plan = plan_of(here, CARRY_PRICE, "run.max_reject_share=1")
    assert names_of(plan) == ["a.jsonl"]
    found = {check.name: str(check) for check in audit(Table.open(plan.store), plan).checks if check.problems}
    print(found)
    assert "a.jsonl was read by an older release" in found["shards"]
    assert "a.jsonl" in found["corpus rows"]
    published = do_plan(plan)
    counts = published.manifest.counts
    assert (counts.embedded, counts.reused, counts.rejected) == (0, 4, 1)
    assert published.rejects().column("message").to_pylist() == ["price is not int64: 2.99"]


def test_shards_of_texts_are_not_read_again_for_numbers(
    tmp_path: Path, mistral: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The footer of a Parquet file shows that a template has no numbers in it, and INT96; of JSON nothing does."""
    here, settings = (str(tmp_path), mistral), ["corpus.carry=[lang, at]", "corpus.text='{title} {text}'"]
    columns = {"id": ["1"], "title": ["t"], "text": ["x"], "lang": ["en"], "at": pa.array([0], pa.timestamp("ns"))}
    put(here[0], "corpus/a.parquet", parquet(pa.table(columns)))
    put(here[0], "corpus/b.parquet", parquet(pa.table({**columns, "id": ["2"], "title": [2005.0]})))
    file = io.BytesIO()
    pq.write_table(pa.table({**columns, "id": ["3"]}), file, use_deprecated_int96_timestamps=True, store_schema=False)
    put(here[0], "corpus/c.parquet", file.getvalue())
    with monkeypatch.context() as older:
        older.setattr(reading_version, "CHANGES", ())
        do_plan(plan_of(here, *settings))
    plan = plan_of(here, *settings)
    assert names_of(plan) == ["b.parquet", "c.parquet"]
    assert [(reread.shards, Path(reread.example).name) for reread in plan.reread] == [
        (1, "b.parquet"),
        (1, "c.parquet"),
    ]
    do_plan(plan)
    assert plan_of(here, *settings).up_to_date


def test_what_no_change_can_touch_is_up_to_date(tmp_path: Path, mistral: str, monkeypatch: pytest.MonkeyPatch) -> None:
    here = str(tmp_path), mistral
    put(here[0], "corpus/a.jsonl", jsonl([{"id": "a", "text": "x", "lang": "en"}]))
    put(here[0], "corpus/b.parquet", parquet(pa.table({"id": ["b"], "text": ["y"], "lang": ["de"]})))
    with monkeypatch.context() as older:
        older.setattr(reading_version, "CHANGES", ())
        do_plan(plan_of(here, "corpus.carry=[lang]"))
    plan = plan_of(here, "corpus.carry=[lang]")
    assert plan.up_to_date
    assert not plan.reread
