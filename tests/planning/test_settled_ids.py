"""Which rows count (`table.duplicate_ids: last`), decided in many tasks: the same as in this process, and the driver
gets nothing that grows with the table."""

from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from sfr_batch.planning import settled_ids, table_ids
from sfr_batch.planning.last_rows import CONTEST, REJECTED, find_rivals
from sfr_batch.planning.make import make_plan
from sfr_batch.planning.plan import EmbedPlan
from sfr_batch.planning.settled_ids import Judged, SettledIds, settle_ids
from sfr_batch.storage.executor import Executor, InProcess
from tests.nights import small_tasks
from tests.planning.test_last_rows import BY_COLUMN, EXAMPLES, LAST, Corpus, rows, shards_
from tests.table.commit.test_publish_elsewhere import Shuffled

pytestmark = pytest.mark.usefixtures("one_look_at_the_model")


@pytest.fixture
def corpus(tmp_path: Path, mistral: str) -> Corpus:
    return Corpus(tmp_path, mistral)


class Recording(Shuffled):
    """Keeps what the driver gets."""

    def __init__(self, plan: EmbedPlan, seed: int = 0) -> None:
        super().__init__(plan.store, seed)
        self.got: list[Any] = []

    def get(self, handles: Any) -> Any:
        for value in super().get(handles):
            self.got.append(value)
            yield value

    @property
    def records(self) -> Counter[str]:
        """How many records of each kind there are; the driver got nothing of them but their number."""
        assert {type(said) for said in self.got} == {Judged}
        return Counter(
            {name: sum(getattr(said, name) for said in self.got) for name in ("lost", "contests", "unchanged")}
        )


def count_opened(patch: pytest.MonkeyPatch) -> Counter[str]:
    """How often each data file is opened for values, by split id."""
    opened = Counter[str]()

    def read(store: Any, receipt: Any, *more: Any, real: Any = table_ids.read_data_file) -> Any:
        opened[receipt.split_id] += 1
        return real(store, receipt, *more)

    patch.setattr(table_ids, "read_data_file", read)
    return opened


def decided(found: SettledIds, tasks: Executor) -> dict[str, Any]:
    """What is compared. tasks: those that have settled it."""
    shards = sorted(found.losing.shards)
    losing: dict[str, Any] = {}
    # Each shard is read by two tasks, and every second one together with the next.
    for mapping in tasks.get(
        found.losing.of_tasks(tasks, [[uri, *shards[n + 1 :: 2][:1]] for n, uri in enumerate(shards)])
    ):
        for uri, its in mapping.items():
            rows = its.positions.tolist(), [its.winners[by] for by in its.by], its.by_position.tolist()
            assert losing.setdefault(uri, rows) == rows
    assert sum(len(positions) for positions, *_ in losing.values()) == found.losing.rows
    contests = [row for part in tasks.get(found.contests) for row in part.tolist()]
    return {
        "losing": losing,
        "contests": sorted((found.uris[shard], at, found.uris[rival]) for shard, at, rival in contests),
        "again": found.again,
        "replaced": found.replaced,
        "unchanged": [] if found.unchanged is None else next(tasks.get([found.unchanged])).tolist(),
        "rivals": found.rivals_of(tasks, [(uri, np.array([0, 3])) for uri in [*found.uris[::-2], "another"]]),
    }


@pytest.mark.timeout(3600)
@settings(max_examples=3 * EXAMPLES, suppress_health_check=list(HealthCheck))
@given(data=st.data())
def test_many_tasks_decide_what_one_decides(
    data: st.DataObject, tmp_path_factory: pytest.TempPathFactory, mistral: str
) -> None:
    """Shards are added, changed and vanish, rows are rejected, and the rule may be another one than the table's."""
    corpus = Corpus(tmp_path_factory.mktemp("settled"), mistral)
    rules: list[tuple[str, ...]] = [(), (LAST,), (LAST, BY_COLUMN)]
    rule = data.draw(st.sampled_from(rules))
    for _ in range(data.draw(st.integers(1, 2))):  # a second night leaves indexes
        corpus.write({**corpus.drawn, **data.draw(shards_)})
        if not make_plan(corpus.config(*rule)).up_to_date:
            corpus.night(*rule)
    shards = {**corpus.drawn, **data.draw(shards_)}
    for name in data.draw(st.sets(st.sampled_from(sorted(shards)), max_size=2)):
        del shards[name]
    corpus.write(shards)
    rule = data.draw(st.sampled_from([rule or rules[1], *rules[1:]]))
    plan = make_plan(corpus.config(*rule))
    here = decided(settle_ids(plan, InProcess()), InProcess())
    for rows_a_task in (1, 3):
        with small_tasks(rows_a_task), pytest.MonkeyPatch.context() as patch:
            opened = count_opened(patch)
            tasks = Recording(plan, data.draw(st.integers(0, 3)))
            assert decided(settle_ids(plan, tasks), tasks) == here
        assert set(opened.values()) <= {1}, "each data file is opened for values once"
        assert BY_COLUMN in rule or not opened


def test_nothing_that_the_driver_gets_grows_with_the_table(corpus: Corpus, monkeypatch: pytest.MonkeyPatch) -> None:
    looked_at: list[int] = []
    real = settled_ids.decide
    monkeypatch.setattr(settled_ids, "decide", lambda its, **rule: (looked_at.append(len(its)), real(its, **rule))[1])
    corpus.write({f"{name}.parquet": rows(name, *range(9)) for name in "abcd"})
    corpus.night()
    rule_changes = make_plan(corpus.config(LAST, BY_COLUMN))
    assert rule_changes.rule_changed
    with small_tasks(4):
        tasks = Recording(rule_changes)
        found = settle_ids(rule_changes, tasks)
    assert (tasks.records, found.losing.shards, found.again) == (Counter(), {}, frozenset())
    assert tasks.ran["read_rows"] >= 4
    assert tasks.ran["read_values"] >= 4
    assert sum(looked_at) == 37, "all ids"
    assert len(looked_at) >= 4, "in several partitions"
    corpus.night(LAST)
    day = {"y.parquet": rows("e", *range(20)), "z.parquet": [*rows("a", 3, 5, text="newer"), *rows("e", 7)]}
    corpus.write({**corpus.drawn, **day})
    plan = make_plan(corpus.config(LAST))
    looked_at.clear()
    with small_tasks(4):
        tasks = Recording(plan)
        found = settle_ids(plan, tasks)
    assert sum(looked_at) == 23 + 2
    assert tasks.records == Counter(lost=1, contests=2, unchanged=2)
    assert [(positions, at) for positions, _, at in decided(found, tasks)["losing"].values()] == [([7], [2])]
    assert tasks.ran["_scan_ids"] == 2


def test_values_are_read_where_an_id_is_looked_at_alone(corpus: Corpus, monkeypatch: pytest.MonkeyPatch) -> None:
    """What order_by costs follows the change, not the table."""
    rule = (LAST, BY_COLUMN)
    corpus.write({f"{name}.parquet": rows(name, *range(8), at=5) for name in "abcd"})
    first, _ = corpus.night(*rule)
    day = [*rows("b", 1, text="newer", at=6), *rows("c", 6, text="older", at=4), *rows("n", *range(9))]
    corpus.write({**corpus.drawn, "z.parquet": day})
    plan = make_plan(corpus.config(*rule))
    opened = count_opened(monkeypatch)
    with small_tasks(4):
        tasks = Recording(plan)
        found = decided(settle_ids(plan, tasks), tasks)
    whose = {(r.shard.rsplit("/", 1)[-1], r.start): r.split_id for r in first.read_receipts()}
    assert opened == {whose["b.parquet", 0]: 1, whose["c.parquet", 4]: 1}
    day_of, b, c = (f"{corpus.root}/{name}.parquet" for name in "zbc")
    assert found["losing"] == {day_of: ([1], [c], [-1])}
    assert (found["contests"], found["rivals"]) == ([(day_of, 0, b)], {b})
    assert found["unchanged"] == sorted(found["unchanged"])
    assert len(found["unchanged"]) == 2


def test_rivals_are_those_of_rejected_rows() -> None:
    rng = np.random.default_rng(3)
    contests = np.empty(4000, CONTEST)
    for name, end in (("shard", 9), ("position", 900), ("rival", 5000)):
        contests[name] = rng.integers(0, end, len(contests))
    rejected = np.empty(2000, REJECTED)
    rejected["shard"], rejected["position"] = rng.integers(3, 20, 2000), rng.integers(0, 900, 2000)
    for some in (slice(None), slice(2)):  # many and few are looked for in different ways
        its = set(rejected[some].tolist())
        expected = sorted({rival for *row, rival in contests.tolist() if tuple(row) in its})
        assert find_rivals(contests, rejected[some]).tolist() == expected
        assert some.stop or len(expected) > 100
