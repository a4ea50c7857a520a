"""Compaction: the same rows in fewer files; what dies in the middle is found again. Nights too: `test_incremental`."""

import dataclasses
import re
from collections.abc import Sequence

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from click.testing import CliRunner, Result

from sfr_batch.checks.audit.auditor import audit
from sfr_batch.cli.main import main
from sfr_batch.errors import ConfigError, SnapshotConflict, TableInUse
from sfr_batch.format import names
from sfr_batch.planning.make import make_plan
from sfr_batch.storage.executor import InProcess
from sfr_batch.table.commit import compaction
from sfr_batch.table.commit.compaction import Compaction, carry_out, compact, find_compaction
from sfr_batch.table.commit.lease import Holder, hold, read_holder
from sfr_batch.table.commit.sweep import sweep
from sfr_batch.table.table import Snapshot, Table
from tests.nights import Doc, Place, Writer, docs_of, night, rejects_of, state_of
from tests.table.commit.test_publish_elsewhere import Shuffled


def healthy(table: Table, place: Place) -> Snapshot:
    found = audit(table, make_plan(place.config()))
    assert found.ok, found.describe()
    return table.current()


def changed(docs: Sequence[Doc], which: range, text: str) -> list[Doc]:
    return [Doc(d.id, f"{text} {d.id}") if n in which else d for n, d in enumerate(docs)]


@pytest.fixture
def used(nights: tuple[Place, Writer]) -> tuple[Place, Writer, Table]:
    """Four nights of two shards: one that changes, with a reject and a duplicate, and one that does not."""
    place, writer = nights
    a, b = docs_of("a", 16), docs_of("b", 8)
    for text, which in (("first", range(0)), ("second", range(6)), ("third", range(4, 9)), ("fourth", range(3))):
        a = changed(a, which, text)
        writer.write({"a.parquet": [*a, Doc("b2", "a later one wins nothing"), Doc("bad", "")], "b.parquet": b})
        snapshot, _ = night(place)
    return place, writer, Table.open(snapshot.store)


def rows_of(found: Compaction) -> int:
    return sum(group.rows for group in found.groups)


def test_the_same_rows_in_fewer_files(used: tuple[Place, Writer, Table]) -> None:
    place, writer, table = used
    before = table.current()
    found = find_compaction(before, rows_per_file=100)
    assert found.files == len(before.read_receipts()) > 5
    assert found.dropped > 0
    done = carry_out(table, found)
    after = healthy(table, place)
    assert done.snapshot is not None
    assert (after.number, after.manifest.operation) == (before.number + 1, "compact")
    assert len(after.read_receipts()) == 1
    assert after.read_receipts()[0].vectors == rows_of(found)
    assert state_of(after) == state_of(before)
    assert rejects_of(after) == rejects_of(before)
    then, now = before.manifest.counts.model_dump(), after.manifest.counts.model_dump()
    assert now == then | {"embedded": 0, "reused": then["embedded"] + then["reused"]}
    assert state_of(table.at(before.number)) == state_of(before), "the snapshots before stay whole"
    left = find_compaction(after, rows_per_file=100)
    assert left.groups == ()
    assert carry_out(table, left).snapshot is None
    assert make_plan(place.config()).up_to_date, "the next night has nothing to do"
    assert night(place, "table.delete=mirror")[1] == []
    writer.write({"a.parquet": writer.now["a.parquet"][1:], "b.parquet": writer.now["b.parquet"][3:]})
    _, texts = night(place)
    assert texts == [], "what compaction kept, a row that lost to an earlier one included"
    assert len(state_of(healthy(table, place))) == 15 + 5 + 1


def test_tasks_of_an_executor_write_the_same(
    used: tuple[Place, Writer, Table], monkeypatch: pytest.MonkeyPatch
) -> None:
    place, _, table = used
    before = table.current()
    monkeypatch.setattr(compaction, "ROWS_A_TASK", 1)
    found, elsewhere = find_compaction(before, rows_per_file=17), Shuffled(table.store, seed=3)
    after = carry_out(table, found, executor=elsewhere).snapshot
    assert after is not None
    assert len(found.groups) > 1
    assert elsewhere.ran["_rewrite"] == len(found.groups)
    assert elsewhere.ran["_write_moved"] > 1
    assert elsewhere.ran["deal_documents"] > 0, "it publishes there, too"
    assert {group.split_id for group in found.groups} <= set(after.split_ids()), "names do not depend on where"
    for name in after.split_ids():
        schema = pq.read_schema(pa.BufferReader(table.store.read(names.data_key(name))))
        assert schema.remove_metadata().equals(table.schema.remove_metadata()), "pickle forgets nothing of a type"
    assert state_of(healthy(table, place)) == state_of(before)
    assert rejects_of(after) == rejects_of(before)


@pytest.mark.parametrize("rows_per_file", [17, 1000])
def test_tasks_of_an_executor_find_the_same(
    used: tuple[Place, Writer, Table], rows_per_file: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    _, _, table = used
    monkeypatch.setattr(compaction, "ROWS_A_TASK", 1)
    compacted = carry_out(table, find_compaction(table.current(), rows_per_file=17)).snapshot
    assert compacted is not None
    for base in (table.at(1), table.at(4), compacted):
        elsewhere = Shuffled(table.store, seed=3)
        here = find_compaction(base, rows_per_file=rows_per_file)
        found = find_compaction(base, rows_per_file=rows_per_file, executor=elsewhere)
        parts = [part for its in base.read_indexes().values() for part in its]
        assert elsewhere.ran.total() == len(parts)
        assert found.shards == here.shards
        assert [group.split_id for group in found.groups] == [group.split_id for group in here.groups]
        assert [[bits.tolist() for bits in group.needed] for group in found.groups] == [
            [bits.tolist() for bits in group.needed] for group in here.groups
        ]
    assert len(parts) > 1


def test_large_files_without_waste_are_left_alone(used: tuple[Place, Writer, Table]) -> None:
    _, _, table = used
    base = table.current()
    found = find_compaction(base, rows_per_file=1, max_unneeded=1.0)
    assert found.groups == ()
    wasteful = find_compaction(base, rows_per_file=1, max_unneeded=0.2)
    assert 0 < wasteful.files < len(base.read_receipts())
    for group in wasteful.groups:
        for source, mask, bits in zip(group.sources, group.masks, group.needed, strict=True):
            assert mask.sum() < 0.8 * source.vectors
            assert bits.nbytes == -(-source.vectors // 8), "a bit for each row of the table"


def test_files_of_two_generations_stay_apart(nights: tuple[Place, Writer]) -> None:
    place, writer = nights
    writer.write({"a.parquet": docs_of("a", 6), "b.parquet": docs_of("b", 6)})
    night(place)
    snapshot, _ = night(place, "table.generation=x", "select.shards=[a.parquet]")
    table = Table.open(snapshot.store)
    assert carry_out(table, find_compaction(table.current(), rows_per_file=100)).snapshot is not None
    assert sorted((r.generation, r.vectors) for r in table.current().read_receipts()) == [("", 6), ("x", 6)]
    assert night(place, "table.generation=x", "select.shards=[a.parquet]")[1] == []


@pytest.mark.parametrize("night_between", [False, True])
def test_what_a_dead_compaction_has_written_is_used(
    night_between: bool, used: tuple[Place, Writer, Table], monkeypatch: pytest.MonkeyPatch
) -> None:
    place, writer, table = used
    before = table.current()
    found = find_compaction(before, rows_per_file=8)
    assert len(found.groups) > 2

    def dies(*_: object, **__: object) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(compaction, "publish", dies)
        with pytest.raises(KeyboardInterrupt):
            carry_out(table, found)
    assert healthy(table, place).number == before.number
    if night_between:
        turned = writer.now["a.parquet"][::-1]
        writer.write({"a.parquet": [*turned, Doc("new", "a new text")], "b.parquet": docs_of("b", 8)[1:]})
        _, texts = night(place)
        assert texts == ["a new text"], "whichever of the two copies is taken"
        assert len(state_of(healthy(table, place))) == 16 + 7 + 1
        return
    written = []
    real = compaction.commit_split
    monkeypatch.setattr(compaction, "commit_split", lambda *a: written.append(1) or real(*a))
    carry_out(table, find_compaction(table.current(), rows_per_file=8))
    assert written == []
    assert state_of(healthy(table, place)) == state_of(before)


def test_somebody_publishes_meanwhile(used: tuple[Place, Writer, Table]) -> None:
    place, writer, table = used
    found = find_compaction(table.current(), rows_per_file=100)
    writer.write({**writer.now, "c.parquet": docs_of("c", 3)})
    night(place)
    with pytest.raises(SnapshotConflict):
        carry_out(table, found)
    carry_out(table, find_compaction(table.current(), rows_per_file=100))
    assert len(state_of(healthy(table, place))) == 16 + 8 + 3


def test_a_run_that_has_taken_the_lease_over_has_published(used: tuple[Place, Writer, Table]) -> None:
    """The error names who has it, as without its snapshot."""
    place, writer, table = used
    found = find_compaction(table.current(), rows_per_file=100)
    writer.write({**writer.now, "c.parquet": docs_of("c", 3)})

    def taken_over() -> None:
        night(place)
        raise TableInUse("held by another run")

    with pytest.raises(TableInUse, match="held by another run"):
        carry_out(table, found, taken_over)


def test_a_sweep_takes_its_files_meanwhile(used: tuple[Place, Writer, Table]) -> None:
    place, _, table = used
    before = state_of(table.current())
    found = find_compaction(table.current(), rows_per_file=100)
    with pytest.raises(SnapshotConflict, match="Run the command again"):
        carry_out(table, found, lambda: sweep(table, older_than_s=0, now=1e18))
    done = carry_out(table, find_compaction(table.current(), rows_per_file=100)).snapshot
    assert done is not None
    assert not set(done.split_ids()) & {group.split_id for group in found.groups}
    assert state_of(healthy(table, place)) == before


def test_the_command(used: tuple[Place, Writer, Table]) -> None:
    place, _, table = used
    before = table.current()

    def run(*arguments: str) -> Result:
        return CliRunner().invoke(main, ["compact", place.table, "--rows-per-file", "100", *arguments])

    would = run()
    assert would.exit_code == 0, would.output
    assert re.fullmatch(
        r"Would rewrite \d data files \([\d,]+ bytes\) as 1, without \d+ unneeded rows?\. Nothing was written; "
        r"--write does it\.\n",
        would.output,
    )
    assert table.current().number == before.number
    with hold(table.store, Holder.of_this_process("a night"), 60.0, print):
        refused = run("--write")
    assert refused.exit_code == 1
    assert "Another run is writing to" in refused.output
    done = run("--write")
    assert done.exit_code == 0, done.output
    assert re.match(r"Rewrote \d data files .* as 1, .*: snapshot 5 of ", done.output)
    assert state_of(healthy(table, place)) == state_of(before)
    assert read_holder(table.store) is None, "the lease is free again"
    assert run("--write").output.startswith("Nothing to compact in 1 data file (snapshot 5 of ")
    assert table.current().number == 5


def test_files_are_not_written_to_disks_of_other_nodes(used: tuple[Place, Writer, Table]) -> None:
    class Elsewhere(InProcess):
        sees_disk = False

    _, _, table = used
    with pytest.raises(ConfigError, match="is a local path, but the cluster has several nodes"):
        compact(table, rows_per_file=100, dry_run=False, executor=Elsewhere())
    assert read_holder(table.store) is None


def test_a_row_that_would_be_lost_stops_it(used: tuple[Place, Writer, Table]) -> None:
    place, _, table = used
    found = find_compaction(table.current(), rows_per_file=100)
    first = found.groups[0]
    needed = [bits.copy() for bits in first.needed]
    needed[0][0] &= 0b01111111
    wrong = dataclasses.replace(found, groups=(dataclasses.replace(first, needed=tuple(needed)), *found.groups[1:]))
    with pytest.raises(compaction.CountsDoNotClose, match="would be lost by compaction"):
        carry_out(table, wrong)
    healthy(table, place)
