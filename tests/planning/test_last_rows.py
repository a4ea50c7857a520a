"""`table.duplicate_ids: last`: the last row of an id counts, and no other is embedded; nights against full runs.

No model and no Ray here, see `nights`.
"""

import contextlib
import datetime as dt
import os
from collections import Counter
from decimal import Decimal
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from sfr_batch.checks.audit.auditor import audit
from sfr_batch.config.loading import config_from_dict
from sfr_batch.config.settings import Config, CorpusSettings
from sfr_batch.corpus import reading_version
from sfr_batch.corpus.columns import Carried, Columns
from sfr_batch.corpus.id_rows import IdCollector
from sfr_batch.errors import ConfigError, TooManyRejects
from sfr_batch.format import names
from sfr_batch.format.order_values import comparable_values, has_order, sort_indices
from sfr_batch.format.records import DuplicateRule
from sfr_batch.planning import settled_ids
from sfr_batch.planning.comparison import compare
from sfr_batch.planning.last_rows import RowKind, decide
from sfr_batch.planning.make import make_plan
from sfr_batch.storage.executor import InProcess
from sfr_batch.table.changes import changes
from sfr_batch.table.commit.compaction import carry_out, find_compaction
from sfr_batch.table.table import Snapshot, Table
from tests.nights import Counting, small_tasks, state_of
from tests.tables import do_copies, do_plan, do_splits, jsonl, parquet, put

pytestmark = pytest.mark.usefixtures("one_look_at_the_model")

Row = tuple[str, str, int | None]
"""Id, text ("" is rejected when it is read, BAD when it is embedded) and value to order by."""
BAD = "bad"
EXAMPLES = int(os.environ.get("SFR_EXAMPLES", "3"))
KIND = pa.schema([("id", pa.string()), ("text", pa.string()), ("at", pa.int64())])
LAST, BY_COLUMN = "table.duplicate_ids=last", "table.order_by=at"


class Encoder(Counting):
    """Has no vector for BAD."""

    def __call__(self, texts: list[str]) -> Any:
        vectors = super().__call__(texts)
        vectors[[text == BAD for text in texts]] = np.nan
        return vectors


class Corpus:
    """A corpus in a folder, and tables of it."""

    def __init__(self, root: Path, model: str) -> None:
        self.root, self.model = str(root / "corpus"), model
        self.tables = root
        self.now: dict[str, list[Row]] = {}
        (root / "corpus").mkdir()

    def write(self, shards: dict[str, list[Row]]) -> None:
        """Beside these, there is always a shard with a value, so that the type of the column is known."""
        shards = {"0.parquet": [("always", "there", 0)], **shards}
        for name in self.now.keys() - shards.keys():
            (Path(self.root) / name).unlink()
        for name, rows in shards.items():
            if self.now.get(name) != rows:
                records = [dict(zip(KIND.names, row, strict=True)) for row in rows]
                is_lines = name.endswith(".jsonl")
                put(self.root, name, jsonl(records) if is_lines else parquet(pa.Table.from_pylist(records, KIND)))
        self.now = {name: list(rows) for name, rows in shards.items()}

    @property
    def drawn(self) -> dict[str, list[Row]]:
        return {name: rows for name, rows in self.now.items() if name != "0.parquet"}

    def config(self, *overrides: str, table: str = "table") -> Config:
        raw = {
            "corpus": {"path": self.root, "carry": ["at"]},
            "model": {"path": self.model, "device": "cpu", "dtype": "float32"},
            "table": {"path": str(self.tables / table), "delete": "mirror"},
            "run": {"actors": {"gpus": 0}, "rows_per_split": 4, "min_splits": 1, "max_reject_share": 1.0},
        }
        return config_from_dict(raw, overrides)

    def night(self, *overrides: str, table: str = "table") -> tuple[Snapshot, list[str]]:
        """A run, and the texts that were encoded."""
        counting = Encoder()
        return do_plan(make_plan(self.config(*overrides, table=table)), encode=counting), counting.texts

    def healthy(self, snapshot: Snapshot, *overrides: str) -> Snapshot:
        found = audit(Table.open(snapshot.store), make_plan(self.config(*overrides)))
        assert found.ok, found.describe()
        return snapshot


@pytest.fixture
def corpus(tmp_path: Path, mistral: str) -> Corpus:
    return Corpus(tmp_path, mistral)


def values_of(snapshot: Snapshot) -> dict[str, int | None]:
    return {row["id"]: row["at"] for row in snapshot.to_arrow(["id", "at"]).to_pylist()}


def rejects_of(snapshot: Snapshot) -> Counter[tuple[Any, ...]]:
    rows = snapshot.rejects().to_pylist()
    return Counter((row["id"], row["shard"].rsplit("/", 1)[-1], row["reason"]) for row in rows)


def expected(shards: dict[str, list[Row]], *, by_column: bool) -> dict[str, Row]:
    """What counts, in plain Python: the last row of each id, unless it is rejected itself."""
    best: dict[str, tuple[tuple[Any, ...], Row]] = {}
    for name in sorted(shards):
        for number, row in enumerate(shards[name]):
            value = (row[2] is not None, row[2] or 0) if by_column else ()
            key = (*value, name, number)
            if row[0] not in best or best[row[0]][0] < key:
                best[row[0]] = (key, row)
    return {id_: row for id_, (_, row) in best.items() if row[1] not in ("", BAD)}


IDS = [f"d{number}" for number in range(6)]
rows_ = st.tuples(
    st.sampled_from(IDS), st.sampled_from(["", BAD, "one", "two", "three"]), st.sampled_from([None, 1, 2, 3, 4])
)
NAMES = ["a.parquet", "b.jsonl", "c.parquet", "d.jsonl", "e.parquet"]
shards_ = st.dictionaries(
    st.sampled_from(NAMES), st.lists(rows_, min_size=1, max_size=6), min_size=1, max_size=4
).filter(lambda shards: any(row[1] for its in shards.values() for row in its))


@pytest.mark.timeout(3600)
@settings(max_examples=EXAMPLES, suppress_health_check=list(HealthCheck))
@given(data=st.data())
def test_a_night_is_a_full_run(data: st.DataObject, tmp_path_factory: pytest.TempPathFactory, mistral: str) -> None:
    """Rows are added, changed, deleted, moved and ordered anew; runs die; rules change; the table is compacted."""
    corpus = Corpus(tmp_path_factory.mktemp("last"), mistral)
    with small_tasks(data.draw(st.sampled_from([2**20, 3]))):
        _some_nights(data, corpus)


def _some_nights(data: st.DataObject, corpus: Corpus) -> None:
    rules: list[tuple[str, ...]] = [(LAST,), (LAST, BY_COLUMN)]
    rule = data.draw(st.sampled_from(rules))
    before = None
    for number in range(data.draw(st.integers(2, 4))):
        if number and data.draw(st.booleans()):  # the same rows in other shards
            flat = [row for name in sorted(corpus.drawn) for row in corpus.drawn[name]]
            order = data.draw(st.permutations(flat))
            shards = {f"{name}.parquet": [*order[n::3]] for n, name in enumerate("xyz") if order[n::3]}
        else:
            shards = {**corpus.drawn, **data.draw(shards_)}
            for name in data.draw(st.sets(st.sampled_from(sorted(shards)), max_size=len(shards) - 1)):
                del shards[name]
        if not any(row[1] for its in shards.values() for row in its):
            continue
        corpus.write(shards)
        if data.draw(st.integers(0, 4)) == 0:
            rule = data.draw(st.sampled_from([*rules, ()]))
        config = corpus.config(*rule)
        if data.draw(st.booleans()):  # a run that dies
            plan = make_plan(config)
            comparison = compare(plan, InProcess()) if plan.has_to_compare else None
            if data.draw(st.booleans()):
                do_copies(comparison)
            do_splits(comparison.plan if comparison else plan, only=data.draw(st.integers(0, 2)), encode=Encoder())
        plan = make_plan(config)
        snapshot = before if plan.up_to_date and before else do_plan(plan, encode=Encoder())
        assert make_plan(config).up_to_date
        if data.draw(st.booleans()):
            smaller = find_compaction(snapshot, rows_per_file=data.draw(st.sampled_from([4, 9, 100])))
            snapshot = carry_out(Table.open(snapshot.store), smaller).snapshot or snapshot
            assert make_plan(config).up_to_date
        full, _ = corpus.night(*rule, table=f"full{number}")
        assert state_of(snapshot) == state_of(full)
        assert rejects_of(snapshot) == rejects_of(full)
        corpus.healthy(snapshot, *rule)
        if rule:
            right = expected(corpus.now, by_column=BY_COLUMN in rule)
            assert values_of(snapshot) == {id_: row[2] for id_, row in right.items()}
        if before and before.number != snapshot.number:
            feed = changes(Table.open(snapshot.store), before.number, snapshot.number)
            after = {row["id"] for batch in feed.upserts(["id"]) for row in batch.to_pylist()}
            gone = {row["id"] for batch in feed.deletes() for row in batch.to_pylist()}
            assert (state_of(before).keys() - gone) | after == state_of(snapshot).keys()
        before = snapshot


# --- single nights


def rows(name: str, *numbers: int, text: str = "text", at: int | None = 0) -> list[Row]:
    return [(f"{name}{number}", f"{text} {number} of {name}", at) for number in numbers]


def messages(snapshot: Snapshot) -> dict[str, str]:
    return {row["id"]: row["message"] for row in snapshot.rejects().to_pylist()}


def test_newer_rows_of_a_new_shard_are_embedded_and_others_are_not_read(
    corpus: Corpus, monkeypatch: pytest.MonkeyPatch
) -> None:
    """An export of changes by day: each day's file has what is new. A row that two days have lives in the last one."""
    corpus.write({"day1.parquet": rows("d", *range(8))})
    first, texts = corpus.night(LAST)
    assert len(texts) == 9
    corpus.write({**corpus.drawn, "day2.parquet": rows("d", 3, text="new text")})
    opened: list[str] = []
    real = settled_ids.read_ids
    monkeypatch.setattr(settled_ids, "read_ids", lambda unit, *a: (opened.append(unit.shard.uri), real(unit, *a))[1])
    second, texts = corpus.night(LAST)
    assert texts == ["new text 3 of d"]
    assert [uri.rsplit("/", 1)[-1] for uri in opened] == ["day2.parquet"]
    [message] = messages(corpus.healthy(second, LAST)).values()
    day1 = next(r for r in first.read_receipts() if r.shard.endswith("day1.parquet") and r.start == 0)
    own = next(r for r in second.read_receipts() if r.shard.endswith("day2.parquet"))
    assert message == (
        f"row 0 of data/{own.split_id}.parquet (of {corpus.root}/day2.parquet) has this id and comes later; "
        f"this one is row 3 of data/{day1.split_id}.parquet"
    )
    corpus.write({name: its for name, its in corpus.drawn.items() if name == "day1.parquet"})
    third, texts = corpus.night(LAST)
    assert texts == [], "it still has its vector"
    assert state_of(third) == state_of(first)


def test_a_row_that_loses_is_not_embedded_until_the_winner_leaves(corpus: Corpus) -> None:
    corpus.write({"a.parquet": rows("d", 1, 2), "b.jsonl": rows("d", 2, text="later"), "c.parquet": rows("e", 1)})
    first, texts = corpus.night(LAST)
    assert sorted(texts) == ["later 2 of d", "text 1 of d", "text 1 of e", "there"]
    assert messages(corpus.healthy(first, LAST)) == {
        "d2": f"when it was read, position 0 of {corpus.root}/b.jsonl had this id, too, and comes later"
    }
    [reject] = first.rejects().to_pylist()
    assert (reject["shard"], reject["position"]) == (f"{corpus.root}/a.parquet", 1)
    counts = first.manifest.counts
    assert (counts.read, counts.embedded, counts.rejected) == (5, 4, 1)
    corpus.write({**corpus.drawn, "b.jsonl": rows("f", 1)})
    plan = compare(make_plan(corpus.config(LAST)), InProcess()).plan
    assert sorted(s.uri.rsplit("/", 1)[-1] for s, _ in plan.changed) == ["a.parquet", "b.jsonl"], "not c.parquet"
    second, texts = corpus.night(LAST)
    assert sorted(texts) == ["text 1 of f", "text 2 of d"]
    corpus.healthy(second, LAST)


def test_the_largest_value_wins_wherever_it_stands(corpus: Corpus) -> None:
    corpus.write({"a.parquet": rows("d", 1, at=5), "b.parquet": rows("d", 1, text="older", at=4)})
    first, texts = corpus.night(LAST, BY_COLUMN)
    assert sorted(texts) == ["text 1 of d", "there"]
    assert messages(first)["d1"].endswith("had this id, too, and is the last one by at")
    corpus.write({**corpus.drawn, "c.parquet": rows("d", 1, text="null", at=None)})
    second, texts = corpus.night(LAST, BY_COLUMN)
    assert texts == [], "compared with a value of the table"
    corpus.write({**corpus.drawn, "c.parquet": rows("d", 1, text="equal", at=5)})
    third, texts = corpus.night(LAST, BY_COLUMN)
    assert texts == ["equal 1 of d"], "of equal values the last one"
    corpus.write({**corpus.drawn, "c.parquet": rows("d", 1, text="smaller", at=3)})
    fourth, texts = corpus.night(LAST, BY_COLUMN)
    assert texts == [], "that of a.parquet still has its vector"
    corpus.write({**corpus.drawn, "a.parquet": rows("d", 1, at=1)})
    fifth, texts = corpus.night(LAST, BY_COLUMN)
    assert texts == ["older 1 of d"], "b.parquet had lost, and has not changed"
    assert [values_of(s)["d1"] for s in (first, second, third, fourth, fifth)] == [5, 5, 5, 5, 4]
    corpus.healthy(fifth, LAST, BY_COLUMN)


def test_a_shard_of_an_older_release_is_read_if_a_row_of_it_takes_the_place(
    corpus: Corpus, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its footer shows that this release reads nothing in it otherwise, which is no reason to leave it alone."""
    monkeypatch.setattr(reading_version, "CHANGES", ())
    corpus.write({"a.parquet": rows("d", 1), "b.parquet": rows("d", 1, text="later")})
    corpus.night(LAST)
    seen_by_its_footer = reading_version.Change("parquet", 2, "-", lambda subject: subject.schema is None)
    monkeypatch.setattr(reading_version, "CHANGES", (seen_by_its_footer,))
    assert make_plan(corpus.config(LAST)).up_to_date
    corpus.write({**corpus.drawn, "b.parquet": rows("f", 1)})
    snapshot, texts = corpus.night(LAST)
    assert sorted(texts) == ["text 1 of d", "text 1 of f"]
    corpus.healthy(snapshot, LAST)


@pytest.mark.parametrize(("text", "reason"), [("", "empty_text"), (BAD, "bad_vector")])
def test_no_older_text_stands_for_a_row_that_is_rejected(text: str, reason: str, corpus: Corpus) -> None:
    corpus.write({"a.parquet": rows("d", 1, 2)})
    corpus.night(LAST)
    corpus.write({**corpus.drawn, "b.jsonl": [("d1", text, 0)]})
    second, texts = corpus.night(LAST)
    assert ({*texts} - {BAD}, sorted(values_of(second))) == (set(), ["always", "d2"])
    assert rejects_of(corpus.healthy(second, LAST)) == {
        ("d1", "a.parquet", "duplicate_id"): 1, ("d1", "b.jsonl", reason): 1,
    }  # fmt: skip
    corpus.write({name: its for name, its in corpus.drawn.items() if name == "a.parquet"})
    third, _ = corpus.night(LAST)
    assert sorted(values_of(corpus.healthy(third, LAST))) == ["always", "d1", "d2"]


def test_another_rule_decides_anew(corpus: Corpus) -> None:
    corpus.write({"a.parquet": rows("d", 1, at=1), "b.parquet": rows("d", 1, text="later", at=0)})
    for rule, new, at in [
        ((), ["later 1 of d", "text 1 of d", "there"], 1), ((LAST,), [], 0), ((LAST, BY_COLUMN), [], 1), ((), [], 1),
    ]:  # fmt: skip
        plan = make_plan(corpus.config(*rule))
        assert plan.base is None or (plan.rule_changed and not plan.up_to_date)
        snapshot, texts = corpus.night(*rule)
        assert (sorted(texts), values_of(corpus.healthy(snapshot, *rule))["d1"]) == (new, at)
        assert make_plan(corpus.config(*rule)).up_to_date
    assert (snapshot.manifest.duplicate_rule, snapshot.manifest.format_version) == (None, names.FORMAT_OF_DEAD_ROWS)
    other = make_plan(corpus.config(LAST))
    found = audit(Table.open(snapshot.store), other)
    assert found.failed == ["shards"]
    assert "the table keeps the first row of an id, the config asks for the last" in found.describe()


def test_rows_that_were_never_embedded_are_when_the_first_is_asked_for(corpus: Corpus) -> None:
    corpus.write({"a.parquet": rows("d", 1), "b.parquet": rows("d", 1, text="later")})
    corpus.night(LAST)
    plan = make_plan(corpus.config())
    assert "the table keeps the last row of an id" in plan.describe()
    snapshot, texts = corpus.night("table.duplicate_ids=reject")
    assert texts == ["text 1 of d"]
    corpus.healthy(snapshot)


def test_plan_says_what_is_read_first(corpus: Corpus) -> None:
    corpus.write({"a.parquet": rows("d", 1, 2), "b.parquet": rows("d", 2, at=3)})
    said = make_plan(corpus.config(LAST, BY_COLUMN)).describe()
    assert (
        "before anything is embedded, ids and at of 4 rows in 3 shards are read: of rows with one id only the last is "
        "embedded (table.duplicate_ids)"
    ) in said
    corpus.night(LAST, BY_COLUMN)
    corpus.write({**corpus.drawn, "c.parquet": rows("e", 1)})
    said = make_plan(corpus.config(LAST, BY_COLUMN)).describe()
    assert "of 1 row in 1 shard are read, and those of 4 rows of unchanged shards from the table" in said
    assert "are read" not in make_plan(corpus.config()).describe().replace("rows are read", "")


def test_shards_without_equal_ids_keep_their_own_splits(corpus: Corpus) -> None:
    """A first run embeds them under the same names as ever, and reads only the others twice."""
    corpus.write({"a.parquet": rows("d", *range(8)), "b.parquet": rows("e", 1, 2), "c.parquet": rows("e", 2)})
    ever = {s.split_id for s in make_plan(corpus.config()).splits if not s.shard.endswith("b.parquet")}
    found = compare(make_plan(corpus.config(LAST)), InProcess())
    assert ever < {split.split_id for split in found.plan.splits}
    assert {unit.shard.uri.rsplit("/", 1)[-1] for unit in found.rows.units} == {"b.parquet"}
    snapshot, _ = corpus.night(LAST)
    assert snapshot.manifest.changes is None, "nothing was compared"


def test_rows_that_lose_are_no_reason_to_stop(corpus: Corpus) -> None:
    """They count neither as rejects, nor, when their day is dropped, as deleted."""
    many = range(110)
    corpus.write({"day1.parquet": rows("d", *many), "day2.parquet": rows("d", *many, text="later")})
    strict = (LAST, "run.max_reject_share=0", "table.delete=refuse-above-share")
    with pytest.raises(TooManyRejects):
        corpus.night("run.max_reject_share=0", table="first")
    corpus.night(*strict)
    corpus.write({**corpus.drawn, "day3.parquet": rows("d", *many, text="last")})
    second, texts = corpus.night(*strict)
    assert len(texts) == 110
    corpus.write({name: its for name, its in corpus.drawn.items() if name == "day3.parquet"})
    third, texts = corpus.night(*strict)
    assert (texts, state_of(third)) == ([], state_of(second))
    assert third.manifest.changes is not None
    assert third.manifest.changes.deleted == 0


def test_an_updated_row_is_no_new_one(corpus: Corpus) -> None:
    corpus.write({"a.parquet": rows("d", 1, 2), "b.parquet": rows("e", 1)})
    corpus.night(LAST)
    corpus.write({**corpus.drawn, "b.parquet": [*rows("e", 1), *rows("d", 2, text="later"), *rows("f", 1)]})
    snapshot, _ = corpus.night(LAST)
    assert snapshot.manifest.changes is not None
    assert snapshot.manifest.changes.model_dump() == {
        "new": 1, "changed": 1, "copied": 0, "unchanged": 1, "deleted": 0,
    }  # fmt: skip


def test_a_backfill_leaves_what_it_does_not_cover(corpus: Corpus) -> None:
    corpus.write({"a.parquet": rows("d", 1, 2), "b.parquet": rows("d", 2, text="later"), "c.parquet": rows("e", 1)})
    corpus.night(LAST)
    again = (LAST, "table.generation=again")
    for select in ("select.shards=[a.parquet]", "select.ids=[d1]", "select.where=at = 0"):
        snapshot, texts = corpus.night(*again, select)
        assert "text 2 of d" not in texts, "it does not count"
        assert rejects_of(corpus.healthy(snapshot, LAST)) == {("d2", "a.parquet", "duplicate_id"): 1}
    corpus.write({**corpus.drawn, "b.parquet": rows("f", 1)})
    with pytest.raises(ConfigError, match=r"a\.parquet, must be read, because .* Run once without select\."):
        corpus.night(LAST, "select.shards=[b.parquet]")
    snapshot, texts = corpus.night(LAST)
    assert sorted(texts) == ["text 1 of f", "text 2 of d"]
    corpus.healthy(snapshot, LAST)


def test_kept_documents_give_way(corpus: Corpus) -> None:
    keep = (LAST, BY_COLUMN, "table.delete=keep")
    corpus.write({"a.parquet": rows("d", 1, 2, at=1), "b.parquet": rows("d", 2, text="larger", at=9)})
    corpus.night(*keep)
    corpus.write({"a.parquet": rows("d", 1, 2, at=1)})
    snapshot, texts = corpus.night(*keep)
    assert (texts, values_of(corpus.healthy(snapshot, *keep))) == (["text 2 of d"], {"always": 0, "d1": 1, "d2": 1})
    corpus.write({"a.parquet": rows("d", 1, at=1)})
    snapshot, texts = corpus.night(*keep)
    assert (texts, snapshot.manifest.counts.kept) == ([], 1)
    corpus.healthy(snapshot, *keep)


def test_a_column_of_the_path_orders_rows(tmp_path: Path, mistral: str) -> None:
    """`day` of folders such as day=2024-01-02, whatever the order of the folders is."""
    corpus = Corpus(tmp_path, mistral)
    raw = corpus.config().model_dump()
    raw["corpus"]["carry"] = ["day"]
    config = config_from_dict(raw, [LAST, "table.order_by=day"])
    put(corpus.root, "b/day=2024-01-01/x.jsonl", jsonl([{"id": "one", "text": "old"}, {"id": "two", "text": "two"}]))
    put(corpus.root, "a/day=2024-01-02/x.jsonl", jsonl([{"id": "one", "text": "new"}]))
    counting = Encoder()
    snapshot = do_plan(make_plan(config), encode=counting)
    assert sorted(counting.texts) == ["new", "two"]
    put(corpus.root, "0/day=2024-01-03/x.jsonl", jsonl([{"id": "two", "text": "newest"}]))
    snapshot = do_plan(make_plan(config), encode=Encoder())
    found = {row["id"]: str(row["day"]) for row in snapshot.to_arrow(["id", "day"]).to_pylist()}
    assert found == {"one": "2024-01-02", "two": "2024-01-03"}
    assert audit(Table.open(snapshot.store), make_plan(config)).ok


SMALLER_AND_LARGER: list[tuple[Any, Any, pa.DataType]] = [
    ("2024-01-10", "2024-01-9", pa.string()), (None, "", pa.large_string()), (float("nan"), -2.5, pa.float64()),
    (Decimal("1.10"), Decimal("1.90"), pa.decimal128(9, 2)), (-1, 2, pa.int16()),
    (dt.datetime(2024, 1, 1, tzinfo=dt.UTC), dt.datetime(2024, 1, 2, tzinfo=dt.UTC), pa.timestamp("ns", "UTC")),
]  # fmt: skip


@pytest.mark.parametrize(("smaller", "larger", "kind"), SMALLER_AND_LARGER, ids=str)
def test_values_of_the_corpus_are_compared_with_those_of_the_table(
    smaller: Any, larger: Any, kind: pa.DataType, corpus: Corpus
) -> None:
    def write(name: str, ids: list[str], values: list[Any]) -> None:
        texts = [f"{id_} of {name}" for id_ in ids]
        put(corpus.root, name, parquet(pa.table({"id": ids, "text": texts, "at": pa.array(values, kind)})))

    write("m.parquet", ["one", "two"], [smaller, larger])
    corpus.night(LAST, BY_COLUMN)
    write("a.parquet", ["one"], [larger])
    write("z.parquet", ["two"], [smaller])
    snapshot, texts = corpus.night(LAST, BY_COLUMN)
    assert texts == ["one of a.parquet"]
    corpus.healthy(snapshot, LAST, BY_COLUMN)


def test_a_column_may_have_its_first_value_later(corpus: Corpus) -> None:
    put(corpus.root, "m.jsonl", jsonl([{"id": "one", "text": "old", "at": None}, {"id": "two", "text": "b"}]))
    first, _ = corpus.night(LAST, BY_COLUMN)
    corpus.healthy(first, LAST, BY_COLUMN)
    put(corpus.root, "a.jsonl", jsonl([{"id": "one", "text": "new", "at": -5}]))
    put(corpus.root, "z.jsonl", jsonl([{"id": "two", "text": "c"}]))
    second, texts = corpus.night(LAST, BY_COLUMN)
    assert sorted(texts) == ["c", "new"]
    assert values_of(second) == {"one": -5, "two": None}
    third, texts = corpus.night(LAST, BY_COLUMN)  # m.jsonl is read again, as the column has a type now
    assert (texts, state_of(corpus.healthy(third, LAST, BY_COLUMN))) == ([], state_of(second))


def test_audit_sees_another_row_than_the_last(corpus: Corpus) -> None:
    corpus.write({"a.parquet": rows("d", 1, at=5)})
    corpus.night(LAST, BY_COLUMN)
    corpus.write({**corpus.drawn, "b.parquet": rows("d", 1, text="later", at=7)})
    snapshot, _ = corpus.night(LAST, BY_COLUMN)
    corpus.healthy(snapshot, LAST, BY_COLUMN)
    key = names.manifest_key(snapshot.number)
    for rule, seen in ((None, "comes first"), (DuplicateRule(order_by=names.N_TOKENS), "")):
        forged = snapshot.manifest.model_copy(update={"duplicate_rule": rule})
        snapshot.store.delete([key])
        snapshot.store.create(key, forged.to_json())
        found = audit(Table.open(snapshot.store))
        assert (found.failed, seen in found.describe()) == (["ids"] if seen else [], True), "b.parquet is the last, too"


def test_audit_sees_a_smaller_value(corpus: Corpus) -> None:
    corpus.write({"a.parquet": rows("d", 1, at=9)})
    corpus.night(LAST)
    corpus.write({**corpus.drawn, "b.parquet": rows("d", 1, text="later", at=7)})
    snapshot, _ = corpus.night(LAST)
    forged = snapshot.manifest.model_copy(update={"duplicate_rule": DuplicateRule(order_by="at")})
    snapshot.store.delete([names.manifest_key(snapshot.number)])
    snapshot.store.create(names.manifest_key(snapshot.number), forged.to_json())
    found = audit(Table.open(snapshot.store), make_plan(corpus.config(LAST, BY_COLUMN)))
    assert found.failed == ["ids", "texts"]
    assert "comes last" in found.describe()


# --- the decision, against a model in plain Python


@settings(max_examples=200)
@given(
    data=st.lists(
        st.tuples(
            st.sampled_from(RowKind), st.integers(0, 2), st.integers(0, 3), st.one_of(st.none(), st.integers(0, 2))
        ),
        max_size=12,
    ),
    ordered=st.booleans(),
)
def test_the_decision_is_what_a_dictionary_says(
    data: list[tuple[RowKind, int, int, int | None]], ordered: bool
) -> None:
    # What stays is of shards that the corpus no longer has, and none of the other rows is.
    data = [(kind, id_, 2 * shard + (kind == RowKind.STAYING), value) for kind, id_, shard, value in data]
    columns: dict[str, Any] = {
        "id": pa.array([row[1] for row in data], pa.uint64()), "more": pa.array([7] * len(data), pa.uint64()),
        "kind": pa.array([row[0] for row in data], pa.uint8()), "shard": pa.array([row[2] for row in data], pa.int32()),
        "position": pa.array(range(len(data)), pa.int64()),
    }  # fmt: skip
    if ordered:
        columns["order"] = pa.array([row[3] for row in data], pa.int64())
    found = decide(pa.table(columns), same_rule=True)

    def key(at: int) -> tuple[Any, ...]:
        _, _, shard, value = data[at]
        return (value is not None, value or 0, shard) if ordered else (shard,)

    lost, again = [], set()
    for id_ in {row[1] for row in data}:
        own = {kind: [at for at, row in enumerate(data) if row[:2] == (kind, id_)] for kind in RowKind}
        there = own[RowKind.UNCHANGED] + (own[RowKind.TODAY] or own[RowKind.STAYING])
        before = own[RowKind.UNCHANGED] + own[RowKind.BEFORE] + own[RowKind.STAYING]
        counts = max(there, key=lambda at: (*key(at), at), default=None)
        lost += [at for at in own[RowKind.TODAY] if at != counts]
        if not before or counts is None or key(counts) < max(map(key, before)):
            again |= {data[at][2] for at in own[RowKind.REJECTED]}
    assert sorted(found.losers["position"].tolist()) == sorted(lost)
    assert set(found.again.tolist()) == again


def test_a_value_that_is_not_of_the_type_counts_as_null() -> None:
    """Whatever else becomes of its row, which has an id."""
    columns = Columns(pa.string(), {"at": Carried("at", pa.int64())})
    collector = IdCollector("a.jsonl", CorpusSettings(path="-"), columns)
    for position, (id_, at) in enumerate([("a", 1), ("b", "later"), ("", 2), (None, 3), ("c", None)]):
        collector.add_record(position, {"id": id_, "at": at})
    collector.add_batch(pa.RecordBatch.from_pydict({"id": ["d", ""], "at": ["5", "6"]}), [7, 8])
    found = collector.finish()
    assert found.positions.to_pylist() == [7, 0, 1, 4]
    assert found.order is not None
    assert found.order.to_pylist()[1:] == [1, None, None]


ORDERED: list[pa.Array] = [
    pa.array([None, -1, 3]), pa.array([None, float("nan"), -1.5, 2.0]), pa.array([None, "", "2024-01", "2024-01-02"]),
    pa.array([None, 1, 2], pa.timestamp("ns", "UTC")), pa.array([None, 1, 2], pa.date32()),
    pa.array([None, False, True]),
    pa.array([None, "1.10", "1.2"]).cast(pa.decimal128(9, 2)), pa.array([None, "a", "b"]).dictionary_encode(),
    pa.array([None, 1, 2], pa.float16()), pa.array([None, b"a", b"b"], pa.binary(1)),
    pa.array([None, 1, 2**63], pa.uint64()), pa.array([None, 1, 2], pa.duration("s")),
    pa.array([None, 1, 2], pa.time64("us")), pa.array([None]),
]  # fmt: skip


@pytest.mark.parametrize("values", ORDERED, ids=lambda values: str(values.type))
def test_values_of_a_type_have_an_order(values: pa.Array) -> None:
    assert has_order(values.type)
    n = len(values)
    backwards = comparable_values(values.take(pa.array(range(n - 1, -1, -1))), values.type)
    assert sort_indices({"value": backwards, "n": [n - 1 - at for at in range(n)]}).to_pylist() == [
        *range(n - 1, -1, -1)
    ]


@pytest.mark.parametrize(
    "kind", [pa.list_(pa.int64()), pa.struct([("a", pa.int64())]), pa.map_(pa.string(), pa.int64())]
)
def test_lists_and_structs_have_no_order(kind: pa.DataType) -> None:
    assert not has_order(kind)


@pytest.mark.parametrize("tasks", [None, 1])
def test_rows_of_vanished_shards_that_a_filter_passes_over_still_count(corpus: Corpus, tasks: int | None) -> None:
    """The row of u lost to that of v, which stays in the table until the next night without a filter."""
    u, v, w = [("x", "old", 0), ("u", "u", 0)], [("x", "new", 0), ("v", "v", 0)], [("w", "w", 0)]
    corpus.write({"u.parquet": u, "v.parquet": v, "w.parquet": w})
    corpus.night(LAST)
    corpus.write({"u.parquet": u, "w.parquet": [*w, ("w9", "nine", 0), ("v", "moved", 9)]})
    with small_tasks(tasks) if tasks else contextlib.nullcontext():
        snapshot, texts = corpus.night(LAST, "select.ids=[w9]")
        assert texts == ["nine"]
        assert values_of(snapshot) == {"always": 0, "x": 0, "u": 0, "v": 0, "w": 0, "w9": 0}
        snapshot, texts = corpus.night(LAST, "select.ids=[v]")
        assert texts == ["moved"], "a row of today counts, and that of the vanished shard gives way"
        assert values_of(snapshot)["v"] == 9
        snapshot, texts = corpus.night(LAST)
    assert texts == ["old"], "now the row of u counts"
    assert values_of(corpus.healthy(snapshot, LAST)) == {"always": 0, "x": 0, "u": 0, "v": 9, "w": 0, "w9": 0}
