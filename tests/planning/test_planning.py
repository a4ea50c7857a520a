"""Plans: what is missing between a corpus and a table, found from metadata alone, and touching nothing."""

import os
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest

from sfr_batch.config.loading import config_from_dict
from sfr_batch.config.settings import Config
from sfr_batch.errors import ConfigError, CorpusError, ModelError, TableMismatch
from sfr_batch.planning.make import make_plan
from sfr_batch.planning.plan import EmbedPlan
from sfr_batch.planning.recipes import make_row_recipe
from sfr_batch.storage.stores import open_store
from sfr_batch.table.commit.publish import condemn
from sfr_batch.table.table import Table
from tests.tables import do_plan, do_splits, jsonl, parquet, put


@pytest.fixture
def root(place: str, mistral: str) -> tuple[str, str]:
    return place, mistral


@pytest.fixture
def here(tmp_path: Path, mistral: str) -> tuple[str, str]:
    """As ``root``, for what does not depend on the place."""
    return str(tmp_path), mistral


def config_of(root: tuple[str, str], *overrides: str) -> Config:
    place, model = root
    raw: dict[str, Any] = {
        "corpus": {"path": f"{place}/corpus"},
        "model": {"path": model, "device": "cpu"},
        "table": {"path": f"{place}/table"},
        "run": {"rows_per_split": 10, "actors": {"gpus": 0}},
    }
    return config_from_dict(raw, overrides)


def plan_of(root: tuple[str, str], *overrides: str) -> EmbedPlan:
    return make_plan(config_of(root, *overrides))


def write_shard(root: tuple[str, str], name: str, rows: int, prefix: str | None = None) -> None:
    ids = [f"{prefix or name}-{n}" for n in range(rows)]
    columns = {"id": ids, "text": [f"text of {id_}" for id_ in ids], "title": ids, "year": list(range(rows))}
    put(root[0], f"corpus/{name}.parquet", parquet(pa.table(columns)))


def all_ids(root: tuple[str, str]) -> list[str]:
    ids: list[str] = Table.open(open_store(f"{root[0]}/table")).to_arrow(["id"]).column("id").to_pylist()
    return ids


def test_the_life_of_a_table(root: tuple[str, str]) -> None:
    """First run, crash, resume, nothing to do, then a shard added, one changed, and one removed."""
    write_shard(root, "a", 25)
    write_shard(root, "b", 8)
    plan = plan_of(root)
    assert (len(plan.splits), len(plan.todo_splits), plan.rows, plan.base) == (4, 4, 33, None)
    assert repr(plan).startswith(f"<EmbedPlan {root[0]}/table: 4 splits, 4 to embed, ~33 rows, ~")

    do_splits(plan, only=2)
    resumed = plan_of(root)
    assert [split.split_id for split in resumed.splits] == [split.split_id for split in plan.splits]
    assert resumed.todo_splits == plan.splits[2:]
    assert len(resumed.todo[0].splits) == 1, "of the unit that was begun only the rest"
    assert resumed.to_arrow().column("committed").to_pylist() == [True, True, False, False]
    assert not resumed.up_to_date

    first = do_plan(resumed)
    assert all_ids(root) == [f"a-{n}" for n in range(25)] + [f"b-{n}" for n in range(8)]
    finished = plan_of(root)
    assert finished.up_to_date
    assert repr(finished) == f"<EmbedPlan {root[0]}/table: up to date, nothing to do>"
    assert (finished.splits, finished.todo, finished.rows, finished.committed) == ([], [], 0, {})
    assert [record.uri for record in finished.carried] == [f"{root[0]}/corpus/{name}.parquet" for name in "ab"]

    write_shard(root, "c", 5)
    write_shard(root, "a", 12, "new")
    plan = plan_of(root)
    assert (len(plan.carried), len(plan.changed), len(plan.todo_splits), plan.rows) == (1, 2, 3, 17)
    second = do_plan(plan)
    counts = second.manifest.counts
    assert (counts.read, counts.embedded, counts.reused) == (25, 17, 8)
    assert all_ids(root) == [
        *(f"new-{n}" for n in range(12)),
        *(f"b-{n}" for n in range(8)),
        *(f"c-{n}" for n in range(5)),
    ]

    open_store(f"{root[0]}/corpus").delete(["b.parquet"])
    plan = plan_of(root)
    assert not plan.up_to_date
    assert plan.todo == []
    assert plan.describe().endswith("every split is done; the run would only publish a snapshot")
    third = do_plan(plan)
    assert len(all_ids(root)) == 17
    assert third.manifest.counts.reused == 17
    assert plan_of(root).up_to_date
    assert first.to_arrow().num_rows == 33, "older snapshots stay"


def test_plan_touches_nothing(here: tuple[str, str]) -> None:
    write_shard(here, "a", 25)

    def state() -> list[tuple[str, int]]:
        paths = [os.path.join(f, n) for f, folders, files in os.walk(here[0]) for n in [*folders, *files]]
        return sorted((path, os.stat(path).st_mtime_ns) for path in paths)

    before = state()
    plan_of(here)
    assert state() == before
    assert not os.path.exists(f"{here[0]}/table")
    do_splits(plan_of(here), only=1)
    before = state()
    plan_of(here).describe()
    assert state() == before


def test_description(here: tuple[str, str]) -> None:
    write_shard(here, "a", 25)
    lines = plan_of(here).describe().splitlines()
    assert lines[:3] == [
        f"table     {here[0]}/table (no snapshot yet)",
        "corpus    1 shard, 0 unchanged",
        "splits    3 in the changed shards, 0 done, 3 to embed",
    ]
    assert lines[3].startswith("to embed  25 rows, 0.0 MB of text, ~")
    assert lines[4].startswith(f"model     {here[1]}, float32 on cpu, fingerprint ")
    put(here[0], "corpus/b.jsonl", jsonl({"id": f"j{n}", "text": "x"} for n in range(5)))
    assert "to embed  ~30 rows" in plan_of(here).describe()
    do_plan(plan_of(here))
    assert plan_of(here).describe().endswith("up to date: nothing to do")
    assert "/table (snapshot 1 of " in plan_of(here).describe()


def test_estimated_tokens_know_the_limit(here: tuple[str, str]) -> None:
    put(here[0], "corpus/a.parquet", parquet(pa.table({"id": ["a"], "text": [os.urandom(50_000).hex()]})))
    assert plan_of(here, "model.max_length=128").estimated_tokens == 128
    assert plan_of(here).estimated_tokens == 4096


def test_generation_embeds_again_and_resumes_itself(here: tuple[str, str]) -> None:
    write_shard(here, "a", 25)
    do_plan(plan_of(here))
    again = plan_of(here, "table.generation=again")
    assert len(again.todo_splits) == 3
    do_splits(again, only=1)
    assert len(plan_of(here, "table.generation=again").todo_splits) == 2
    do_plan(plan_of(here, "table.generation=again"))
    assert plan_of(here, "table.generation=again").up_to_date
    assert len(all_ids(here)) == 25
    assert plan_of(here).up_to_date, "without a label it does not matter under which one a vector was made"


def test_another_text_template_changes_every_shard(here: tuple[str, str]) -> None:
    write_shard(here, "a", 25)
    write_shard(here, "b", 5)
    do_plan(plan_of(here))
    plan = plan_of(here, 'corpus.text="{title} {text}"')
    assert (len(plan.carried), len(plan.todo_splits)) == (0, 4)


@pytest.mark.parametrize(
    ("override", "text"),
    [
        ("table.vector_dtype=float16", 'vector_dtype: "float32" in the table, "float16" in the config'),
        ("model.max_length=64", "max_length: 4096 in the table, 64 in the config"),
        ("model.dtype=bfloat16", 'compute_dtype: "float32" in the table, "bfloat16" in the config'),
        ("model.prompts={document: 'd: '}", 'prompt: "" in the table, "d: " in the config'),
    ],
)
def test_table_made_otherwise_is_refused_before_any_work(here: tuple[str, str], override: str, text: str) -> None:
    write_shard(here, "a", 5)
    do_plan(plan_of(here))
    with pytest.raises(TableMismatch, match=f"(?s){text}.*table.path="):
        plan_of(here, override)


def test_carried_columns_that_do_not_exist_are_refused(here: tuple[str, str]) -> None:
    write_shard(here, "a", 5)
    do_plan(plan_of(here, "corpus.carry=[title, year]"))
    assert plan_of(here, "corpus.carry=[title, year]").up_to_date
    with pytest.raises(ConfigError, match="'n_tokens' is a column name reserved for the table"):
        plan_of(here, "corpus.carry=[n_tokens]")
    with pytest.raises(CorpusError, match=r"no column 'tilte' \(corpus\.carry\)\. Did you mean 'title'"):
        plan_of(here, "corpus.carry=[tilte]")


def test_other_type_of_id_is_refused(here: tuple[str, str]) -> None:
    write_shard(here, "a", 5)
    do_plan(plan_of(here))
    with pytest.raises(CorpusError, match="column 'year' is int64, but the ids in the table are string"):
        plan_of(here, "corpus.id=year")


def test_settings_of_the_run_change_neither_table_nor_rows(here: tuple[str, str]) -> None:
    write_shard(here, "a", 25)
    do_plan(plan_of(here))
    assert plan_of(here, "run.rows_per_split=3", "run.max_batch_tokens=64", "run.bytes_per_split=1024").up_to_date


def test_splits_are_bounded_by_the_bytes_of_their_vectors(here: tuple[str, str]) -> None:
    """A vector of the model has 8 x 4 bytes."""
    write_shard(here, "a", 1000)
    many = "run.rows_per_split=1000"
    assert max(s.rows for s in plan_of(here, many, "run.min_splits=1", "run.vector_bytes_per_split=4096").splits) == 125
    half = plan_of(here, many, "run.min_splits=1", "run.vector_bytes_per_split=4096", "table.vector_dtype=float16")
    assert max(s.rows for s in half.splits) == 250


def test_corpus_that_grows_a_little_keeps_its_splits(here: tuple[str, str]) -> None:
    """Halving: the splits of a shard stay the same while the corpus does not double, so nothing is done twice."""
    options = ["run.rows_per_split=8192", "run.min_splits=8"]
    for name in "abcd":
        write_shard(here, name, 1300)
    before = plan_of(here, *options)
    assert {split.rows for split in before.splits} == {433, 434}
    write_shard(here, "e", 700)
    after = plan_of(here, *options)
    assert [s.split_id for s in after.splits][: len(before.splits)] == [s.split_id for s in before.splits]
    do_splits(before, only=3)
    assert len(plan_of(here, *options).todo_splits) == len(after.splits) - 3
    write_shard(here, "f", 8000)
    assert {s.rows for s in plan_of(here, *options).splits if "a.parquet" in s.shard} == {650}, (
        "it has more than doubled"
    )


def test_splits_do_not_depend_on_what_is_carried_over(here: tuple[str, str]) -> None:
    """A shard that comes back to a table is cut as in a fresh one: the target counts carried rows too."""
    options = ["run.rows_per_split=1024", "run.min_splits=4", "table.delete=mirror"]
    for name in "abc":
        write_shard(here, name, 1200)
    fresh = {s.split_id for s in plan_of(here, *options).splits if "c.parquet" in s.shard}
    do_plan(plan_of(here, *options))
    store = open_store(f"{here[0]}/corpus")
    data = store.read("c.parquet")
    modified = os.stat(f"{here[0]}/corpus/c.parquet").st_mtime_ns
    store.delete(["c.parquet"])
    do_plan(plan_of(here, *options))
    store.create("c.parquet", data)
    os.utime(f"{here[0]}/corpus/c.parquet", ns=(modified, modified))
    plan = plan_of(here, *options)
    assert {split.split_id for split in plan.splits} == fresh
    assert plan.todo == [], "its data files are still there"
    assert do_plan(plan).manifest.counts.vectors == 3600


def test_condemned_splits_get_another_name(here: tuple[str, str]) -> None:
    write_shard(here, "a", 5)
    do_plan(plan_of(here))
    write_shard(here, "b", 5)
    (split,) = plan_of(here).todo_splits
    table = Table.open(open_store(f"{here[0]}/table"))
    condemn(table, table.current(), [split.split_id])
    (renamed,) = plan_of(here).todo_splits
    assert renamed.split_id != split.split_id
    do_plan(plan_of(here))
    assert plan_of(here).up_to_date


def test_empty_shards_do_not_matter(here: tuple[str, str]) -> None:
    put(here[0], "corpus/0.jsonl", b"")
    put(here[0], "corpus/1.parquet", parquet(pa.table({"x": pa.nulls(0)})))
    with pytest.raises(CorpusError, match=r"The corpus .*/corpus has no rows, only 2 empty shards"):
        plan_of(here)
    put(here[0], "corpus/2.jsonl", jsonl([{"id": "a", "text": "x"}]))
    assert do_plan(plan_of(here)).manifest.counts.read == 1
    assert plan_of(here).up_to_date
    put(here[0], "corpus/2.jsonl", b"")
    assert do_plan(plan_of(here)).manifest.counts.read == 0, "a corpus may be emptied"
    assert plan_of(here).up_to_date


def test_rejects_are_counted_by_rows_of_the_shard(here: tuple[str, str]) -> None:
    table = pa.table({"id": ["a", "b", "a"], "text": ["x", None, "y"]})
    put(here[0], "corpus/a.parquet", parquet(table))
    put(here[0], "corpus/b.jsonl", jsonl([{"id": "c", "text": ""}, "oops", {"id": "d", "text": "x"}]))
    snapshot = do_plan(plan_of(here, "run.max_reject_share=1"))
    counts = snapshot.manifest.counts
    assert (counts.read, counts.embedded, counts.rejected) == (6, 2, 4)
    assert [(Path(r.uri).name, r.read) for r in snapshot.read_shards()] == [("a.parquet", 3), ("b.jsonl", 3)]
    assert sorted(snapshot.rejects().column("reason").to_pylist()) == [
        "bad_json",
        "duplicate_id",
        "empty_text",
        "null_text",
    ]


def test_corpus_or_model_that_is_not_there(here: tuple[str, str]) -> None:
    with pytest.raises(CorpusError, match=r"corpus\.path .*/corpus matches no files"):
        plan_of(here)
    write_shard(here, "a", 5)
    with pytest.raises(ModelError, match=r"the folder .* does not exist"):
        plan_of(here, "model.path=./nowhere")


def test_recipe_of_rows_is_what_decides_them() -> None:
    config = config_of(("/x", "/m"), "corpus.carry=[a]", 'corpus.text="{a} {b}"')
    assert make_row_recipe(config.corpus) == {"id": "id", "text": "{a} {b}", "carry": ["a"]}
