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
from sfr_batch.planning.last_rows import Verdict
from sfr_batch.planning.make import make_plan
from sfr_batch.planning.plan import EmbedPlan
from sfr_batch.planning.settled_ids import SettledIds, settle_ids
from sfr_batch.storage.executor import InProcess
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
        """How many records of each kind the driver got."""
        assert {type(value) for value in self.got} == {Verdict}
        return Counter(
            {name: sum(len(getattr(verdict, name)) for verdict in self.got)
             for name in ("losers", "contests", "again", "unchanged")}
        )  # fmt: skip


def count_opened(patch: pytest.MonkeyPatch) -> Counter[str]:
    """How often each data file is opened for values, by split id."""
    opened = Counter[str]()

    def read(store: Any, receipt: Any, *more: Any, real: Any = table_ids.read_data_file) -> Any:
        opened[receipt.split_id] += 1
        return real(store, receipt, *more)

    patch.setattr(table_ids, "read_data_file", read)
    return opened


def decided(found: SettledIds) -> dict[str, Any]:
    """What is compared."""
    losing = {
        uri: (its.positions.tolist(), [its.winners[by] for by in its.by], its.by_position.tolist())
        for uri, its in found.losing.items()
    }
    contests = sorted((found.uris[shard], at, found.uris[rival]) for shard, at, rival in found.contests.tolist())
    return {
        "losing": losing, "contests": contests, "again": found.again, "replaced": found.replaced,
        "unchanged": found.unchanged.tolist(),
    }  # fmt: skip


@pytest.mark.timeout(3600)
@settings(max_examples=5 * EXAMPLES, suppress_health_check=list(HealthCheck))
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
    here = decided(settle_ids(plan, InProcess()))
    for rows_a_task in (1, 3):
        with small_tasks(rows_a_task), pytest.MonkeyPatch.context() as patch:
            opened = count_opened(patch)
            tasks = Recording(plan, data.draw(st.integers(0, 3)))
            assert decided(settle_ids(plan, tasks)) == here
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
    assert (tasks.records, found.losing, found.again) == (Counter(), {}, frozenset())
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
    assert tasks.records == Counter(losers=1, contests=2, unchanged=2)
    assert [its.positions.tolist() for its in found.losing.values()] == [[7]]
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
        found = settle_ids(plan, Recording(plan))
    whose = {(r.shard.rsplit("/", 1)[-1], r.start): r.split_id for r in first.read_receipts()}
    assert opened == {whose["b.parquet", 0]: 1, whose["c.parquet", 4]: 1}
    assert [(its.positions.tolist(), its.winners) for its in found.losing.values()] == [
        ([1], (f"{corpus.root}/c.parquet",))
    ]
    assert [(at, Path(found.uris[rival]).name) for _, at, rival in found.contests.tolist()] == [(0, "b.parquet")]
    assert np.array_equal(found.unchanged, np.sort(found.unchanged))
    assert len(found.unchanged) == 2
